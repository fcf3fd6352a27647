"""NotificationChannelService: where notifications go.

https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.notificationChannels
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from google.api import label_pb2, launch_stage_pb2
from google.cloud.monitoring_v3 import types
from google.protobuf import empty_pb2, json_format

from gcp_emulator.iam.errors import failed_precondition, invalid_argument, not_found
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.filters import matches, parse
from gcp_emulator.monitoring.wire import Method, paged

__all__ = ["Channels", "check_user_labels", "masked", "record"]

_CODE_SECONDS: Final = 24 * 3_600.0
_MOST_CHANNELS: Final = 4_000
_USER_LABEL: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_USER_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
_VERIFIED: Final = int(types.NotificationChannel.VerificationStatus.VERIFIED)
_UNVERIFIED: Final = int(types.NotificationChannel.VerificationStatus.UNVERIFIED)
_HIDDEN: Final = "**********"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A type of channel; labels by their key, with a description each."""

    title: str
    text: str
    labels: dict[str, str]
    sensitive: frozenset[str] = frozenset()
    verified: bool = False
    """Whether it must be verified before it works."""


# As https://cloud.google.com/monitoring/alerts/using-channels-api#ncd lists them.
_KINDS: Final = {
    "email": _Kind(
        title="Email",
        text="A channel that sends notifications via email.",
        labels={"email_address": "An address to send email."},
    ),
    "pagerduty": _Kind(
        title="PagerDuty",
        text="A channel that sends notifications to PagerDuty.",
        labels={"service_key": "The service key to identify the PagerDuty service."},
        sensitive=frozenset({"service_key"}),
    ),
    "pubsub": _Kind(
        title="Google Cloud Pub/Sub",
        text="A channel that publishes notifications to a Cloud Pub/Sub topic.",
        labels={"topic": "The topic to publish to: projects/PROJECT/topics/TOPIC."},
    ),
    "slack": _Kind(
        title="Slack",
        text="A channel that sends notifications to Slack.",
        labels={
            "auth_token": "The OAuth access token that gives the permission to post.",
            "channel_name": "The Slack channel to post to, such as #alerts.",
        },
        sensitive=frozenset({"auth_token"}),
    ),
    "sms": _Kind(
        title="SMS",
        text="A channel that sends notifications via Short Message Service (SMS).",
        labels={"number": "A phone number in E.164 format, such as +15551234567."},
        verified=True,
    ),
    "webhook_basicauth": _Kind(
        title="Webhook with Basic Authentication",
        text="A channel that posts notifications to a URL, with HTTP basic authentication.",
        labels={
            "password": "The password for the basic authentication.",
            "url": "The public URL of the server that receives notifications.",
            "username": "The name of the user for the basic authentication.",
        },
        sensitive=frozenset({"password"}),
    ),
    "webhook_tokenauth": _Kind(
        title="Webhook with Token Authentication",
        text="A channel that posts notifications to a URL that has a token in its query.",
        labels={"url": "The public URL of the server that receives notifications."},
    ),
}


class Channels:
    """The notification channels of the project.

    Args:
        project: It.
        file: Where they are kept; it has their secrets.
        users_of: The names of the policies that use a channel.
        let_go: Takes a channel out of the policies that use it.
        send_code: Sends a verification code (second argument) to a channel.
        now: The time, in seconds since 1970.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(
        self,
        project: Project,
        file: Path,
        *,
        users_of: Callable[[str], list[str]] = lambda _: [],
        let_go: Callable[[str], object] = lambda _: None,
        send_code: Callable[[Any, str], object] = lambda *_: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._project = project
        self._file = file
        self._users_of = users_of
        self._let_go = let_go
        self._send_code = send_code
        self._now = now
        self._codes: dict[str, tuple[str, float]] = {}
        self._channels: dict[str, Any] = {}
        for kept in read_kept(file) or []:
            channel = types.NotificationChannel.pb()()
            json_format.ParseDict(kept, channel, ignore_unknown_fields=True)
            self._channels[channel.name] = channel

    def find(self, name: str) -> Any | None:
        """The channel of this name, with its secrets."""
        return self._channels.get(self._full(name))

    def why_not(self, channel: Any) -> str:
        """Why nothing can be sent to a channel now; nothing if it can be."""
        if channel.HasField("enabled") and not channel.enabled.value:
            return "the channel is disabled"
        if channel.verification_status == _UNVERIFIED:
            return "the channel is not verified"
        return ""

    def methods(self) -> Iterator[Method]:
        """What can be called."""
        service = "NotificationChannelService"
        named = "projects/*/notificationChannels/*"
        api = "monitoring.projects.notificationChannel"
        channel = types.NotificationChannel.pb()
        yield Method(
            rpc=f"{service}.ListNotificationChannelDescriptors",
            api=f"{api}Descriptors.list",
            request=types.ListNotificationChannelDescriptorsRequest.pb(),
            reply=types.ListNotificationChannelDescriptorsResponse.pb(),
            run=self._list_descriptors,
            verb="GET",
            of="projects/*",
            after="/notificationChannelDescriptors",
        )
        yield Method(
            rpc=f"{service}.GetNotificationChannelDescriptor",
            api=f"{api}Descriptors.get",
            request=types.GetNotificationChannelDescriptorRequest.pb(),
            reply=types.NotificationChannelDescriptor.pb(),
            run=self._get_descriptor,
            verb="GET",
            of="projects/*/notificationChannelDescriptors/*",
        )
        yield Method(
            rpc=f"{service}.ListNotificationChannels",
            api=f"{api}s.list",
            request=types.ListNotificationChannelsRequest.pb(),
            reply=types.ListNotificationChannelsResponse.pb(),
            run=self._list,
            verb="GET",
            of="projects/*",
            after="/notificationChannels",
        )
        yield Method(
            rpc=f"{service}.GetNotificationChannel",
            api=f"{api}s.get",
            request=types.GetNotificationChannelRequest.pb(),
            reply=channel,
            run=lambda request: _shown(self._named(request.name)),
            verb="GET",
            of=named,
        )
        yield Method(
            rpc=f"{service}.CreateNotificationChannel",
            api=f"{api}s.create",
            request=types.CreateNotificationChannelRequest.pb(),
            reply=channel,
            run=self._create,
            verb="POST",
            of="projects/*",
            after="/notificationChannels",
            body="notification_channel",
        )
        yield Method(
            rpc=f"{service}.UpdateNotificationChannel",
            api=f"{api}s.patch",
            request=types.UpdateNotificationChannelRequest.pb(),
            reply=channel,
            run=self._update,
            verb="PATCH",
            of=named,
            name="notification_channel.name",
            body="notification_channel",
        )
        yield Method(
            rpc=f"{service}.DeleteNotificationChannel",
            api=f"{api}s.delete",
            request=types.DeleteNotificationChannelRequest.pb(),
            reply=empty_pb2.Empty,
            run=self._delete,
            verb="DELETE",
            of=named,
        )
        yield Method(
            rpc=f"{service}.SendNotificationChannelVerificationCode",
            api=f"{api}s.sendVerificationCode",
            request=types.SendNotificationChannelVerificationCodeRequest.pb(),
            reply=empty_pb2.Empty,
            run=self._send,
            verb="POST",
            of=named,
            after=":sendVerificationCode",
            body="*",
        )
        yield Method(
            rpc=f"{service}.GetNotificationChannelVerificationCode",
            api=f"{api}s.getVerificationCode",
            request=types.GetNotificationChannelVerificationCodeRequest.pb(),
            reply=types.GetNotificationChannelVerificationCodeResponse.pb(),
            run=self._get_code,
            verb="POST",
            of=named,
            after=":getVerificationCode",
            body="*",
        )
        yield Method(
            rpc=f"{service}.VerifyNotificationChannel",
            api=f"{api}s.verify",
            request=types.VerifyNotificationChannelRequest.pb(),
            reply=channel,
            run=self._verify,
            verb="POST",
            of=named,
            after=":verify",
            body="*",
        )

    def _full(self, name: str) -> str:
        """A channel's name with the project's id, which can be given by number."""
        prefix = f"{self._project.numbered}/"
        return f"{self._project.path}/{name[len(prefix) :]}" if name.startswith(prefix) else name

    def _list_descriptors(self, request: Any) -> Any:
        page, token = paged(request, [self._descriptor(kind) for kind in _KINDS], most=1_000)
        reply = types.ListNotificationChannelDescriptorsResponse.pb()(next_page_token=token)
        reply.channel_descriptors.extend(page)
        return reply

    def _get_descriptor(self, request: Any) -> Any:
        kind = request.name.rpartition("/")[2]
        if kind not in _KINDS:
            raise not_found(f"Cannot find notification channel descriptor of type {kind}.")
        return self._descriptor(kind)

    def _descriptor(self, kind: str) -> Any:
        known = _KINDS[kind]
        return types.NotificationChannelDescriptor.pb()(
            name=f"{self._project.path}/notificationChannelDescriptors/{kind}",
            type_=kind,
            display_name=known.title,
            description=known.text,
            labels=[
                label_pb2.LabelDescriptor(key=key, description=text)
                for key, text in known.labels.items()
            ],
            launch_stage=launch_stage_pb2.GA,
        )

    def _list(self, request: Any) -> Any:
        selected = parse(request.filter)
        found = [c for c in self._channels.values() if matches(selected, _fields(c))]
        found = _ordered(found, request.order_by)
        page, token = paged(request, [_shown(channel) for channel in found], most=1_000)
        reply = types.ListNotificationChannelsResponse.pb()(
            next_page_token=token, total_size=len(found)
        )
        reply.notification_channels.extend(page)
        return reply

    def _create(self, request: Any) -> Any:
        if len(self._channels) >= _MOST_CHANNELS:
            raise failed_precondition(f"A project has at most {_MOST_CHANNELS} channels.")
        made = types.NotificationChannel.pb()()
        made.CopyFrom(request.notification_channel)
        if made.name:
            raise invalid_argument(
                f"Field notification_channel.name had an invalid value of"
                f' "{made.name}": must not be set; it is assigned.'
            )
        _check(made)
        made.name = f"{self._project.path}/notificationChannels/{_number()}"
        if not made.HasField("enabled"):
            made.enabled.value = True
        # It is Google that verifies.
        made.verification_status = _UNVERIFIED if _KINDS[made.type_].verified else 0
        made.ClearField("mutation_records")
        made.creation_record.CopyFrom(record(self._now()))
        made.mutation_records.append(made.creation_record)
        self._channels[made.name] = made
        self._save()
        return _shown(made)

    def _update(self, request: Any) -> Any:
        wanted = request.notification_channel
        known = self._named(wanted.name)
        changed = masked(known, wanted, request.update_mask.paths, "notification_channel")
        if changed.type_ != known.type_:
            raise invalid_argument("Field notification_channel.type: can't be changed.")
        kind = _KINDS[known.type_]
        for key in kind.sensitive & set(changed.labels):
            # What a client has read and gives back.
            if changed.labels[key] == _obfuscated(known.labels.get(key, "")):
                changed.labels[key] = known.labels.get(key, "")
        _check(changed)
        if dict(changed.labels) != dict(known.labels) and kind.verified:
            changed.verification_status = _UNVERIFIED
        else:
            changed.verification_status = known.verification_status
        changed.creation_record.CopyFrom(known.creation_record)
        changed.ClearField("mutation_records")
        changed.mutation_records.extend([*known.mutation_records, record(self._now())][-10:])
        self._channels[known.name] = changed
        self._save()
        return _shown(changed)

    def _delete(self, request: Any) -> empty_pb2.Empty:
        known = self._named(request.name)
        users = self._users_of(known.name)
        if users and not request.force:
            raise failed_precondition(
                f"The notification channel {known.name} can't be deleted: it is used by"
                f" {', '.join(users)}. Set force to delete it anyway."
            )
        if users:
            self._let_go(known.name)
        del self._channels[known.name]
        self._codes.pop(known.name, None)
        self._save()
        return empty_pb2.Empty()

    def _send(self, request: Any) -> empty_pb2.Empty:
        channel = self._named(request.name)
        if not _KINDS[channel.type_].verified:
            raise invalid_argument(f"A channel of type {channel.type_} needs no verification.")
        code = self._new_code(channel.name, self._now() + _CODE_SECONDS)
        self._send_code(channel, code)
        return empty_pb2.Empty()

    def _get_code(self, request: Any) -> Any:
        channel = self._named(request.name)
        if channel.verification_status != _VERIFIED:
            raise failed_precondition(
                f"The notification channel {channel.name} is not verified: a code is given for"
                " verified channels only."
            )
        latest = self._now() + _CODE_SECONDS
        until = latest
        if request.HasField("expire_time"):
            until = min(float(request.expire_time.seconds), latest)
            if until <= self._now():
                raise invalid_argument("Field expire_time had an invalid value: it is past.")
        reply = types.GetNotificationChannelVerificationCodeResponse.pb()(
            code=self._new_code(channel.name, until)
        )
        reply.expire_time.FromNanoseconds(int(until * 1e9))
        return reply

    def _verify(self, request: Any) -> Any:
        channel = self._named(request.name)
        twins = [
            other.name
            for other in self._channels.values()
            if other.type_ == channel.type_ and dict(other.labels) == dict(channel.labels)
        ]
        known = [self._codes[name] for name in twins if name in self._codes]
        if not any(
            secrets.compare_digest(request.code.encode(), code.encode()) and until > self._now()
            for code, until in known
        ):
            raise invalid_argument(
                "The verification code is invalid or has expired: request another one."
            )
        channel.verification_status = _VERIFIED
        self._save()
        return _shown(channel)

    def _new_code(self, name: str, until: float) -> str:
        code = f"G-{secrets.randbelow(10**6):06}"
        self._codes[name] = (code, until)
        return code

    def _named(self, name: str) -> Any:
        found = self._channels.get(name)
        if found is None:
            raise not_found(f"Cannot find notification channel with name {name}.")
        return found

    def _save(self) -> None:
        keep(self._file, [json_format.MessageToDict(c) for c in self._channels.values()])


def check_user_labels(labels: Any, field: str) -> None:
    """Refuse labels that are none of Monitoring's.

    Raises:
        GoogleError: 400.
    """
    if len(labels) > 64:
        raise invalid_argument(
            f'Field {field}.user_labels had an invalid value of "size={len(labels)}": at most 64.'
        )
    for key, value in labels.items():
        if not _USER_LABEL.fullmatch(key):
            raise invalid_argument(
                f'Field {field}.user_labels had an invalid value of "{key}": keys begin with a'
                " letter and have lowercase letters, numerals, underscores and dashes, at most 63."
            )
        if not _USER_VALUE.fullmatch(value):
            raise invalid_argument(
                f'Field {field}.user_labels[{key}] had an invalid value of "{value}": values have'
                " lowercase letters, numerals, underscores and dashes, at most 63."
            )


def masked(known: Any, wanted: Any, paths: Any, field: str) -> Any:
    """What a message becomes: `wanted`, or with a mask only those of its fields.

    Raises:
        GoogleError: 400: a path of the mask leads nowhere.
    """
    changed = type(known)()
    if not paths:
        changed.CopyFrom(wanted)
        return changed
    changed.CopyFrom(known)
    for path in paths:
        _take_over(changed, wanted, path.split("."), f"{field}.{path}")
    changed.name = known.name
    return changed


def record(now: float) -> Any:
    """Who changed something, and when: the person at the keyboard, now."""
    made = types.MutationRecord.pb()(mutated_by="you@example.org")
    made.mutate_time.FromNanoseconds(int(now * 1e9))
    return made


def _take_over(into: Any, source: Any, path: list[str], shown: str) -> None:
    name, rest = path[0], path[1:]
    field = next(
        (f for f in into.DESCRIPTOR.fields if name in (f.name, f.json_name)),
        None,
    )
    if field is None:
        raise invalid_argument(
            f'Field update_mask had an invalid value of "{shown}": unknown path.'
        )
    if not rest:
        into.ClearField(field.name)
        if field.is_repeated:
            if field.message_type and field.message_type.GetOptions().map_entry:
                getattr(into, field.name).update(getattr(source, field.name))
            else:
                getattr(into, field.name).extend(getattr(source, field.name))
        elif field.message_type:
            if source.HasField(field.name):
                getattr(into, field.name).CopyFrom(getattr(source, field.name))
        else:
            setattr(into, field.name, getattr(source, field.name))
        return
    if field.is_repeated and field.message_type and field.message_type.GetOptions().map_entry:
        key = ".".join(rest).strip('`"')
        target, given = getattr(into, field.name), getattr(source, field.name)
        target.pop(key, None)
        if key in given:
            target[key] = given[key]
        return
    if field.is_repeated or not field.message_type:
        raise invalid_argument(
            f'Field update_mask had an invalid value of "{shown}": unknown path.'
        )
    _take_over(getattr(into, field.name), getattr(source, field.name), rest, shown)


def _check(channel: Any) -> None:
    field = "notification_channel"
    kind = _KINDS.get(channel.type_)
    if kind is None:
        raise invalid_argument(
            f'Field {field}.type had an invalid value of "{channel.type_}": Unrecognized'
            " notification channel type."
        )
    for key in channel.labels:
        if key not in kind.labels:
            raise invalid_argument(
                f'Field {field}.labels had an invalid value of "{key}": not a label of channels of'
                f" type {channel.type_}."
            )
    for key in kind.labels:
        if not channel.labels.get(key, ""):
            raise invalid_argument(
                f"Field {field}.labels[{key}] had an invalid value: the label {key} is required"
                f" for channels of type {channel.type_}."
            )
    if len(channel.display_name) > 512 or len(channel.description) > 1024:
        raise invalid_argument(f"Field {field}.display_name or description is too long.")
    check_user_labels(channel.user_labels, field)
    _check_labels(channel, field)


def _check_labels(channel: Any, field: str) -> None:
    labels = channel.labels
    wrong = ""
    if channel.type_ == "email":
        fits = re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", labels["email_address"])
        wrong = "" if fits else "email_address"
    elif channel.type_ == "sms":
        wrong = "" if re.fullmatch(r"\+?[0-9 ()-]{5,24}", labels["number"]) else "number"
    elif channel.type_ == "pubsub":
        fits = re.fullmatch(r"projects/[^/]+/topics/[A-Za-z][\w.~+%-]{2,254}", labels["topic"])
        wrong = "" if fits else "topic"
    elif channel.type_.startswith("webhook_") and not _is_url(labels["url"]):
        wrong = "url"
    if wrong:
        # A URL can have a token in it.
        shown = "" if wrong == "url" else f' of "{labels[wrong]}"'
        raise invalid_argument(f"Field {field}.labels[{wrong}] had an invalid value{shown}.")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable()


def _shown(channel: Any) -> Any:
    """A channel as it is told: secrets only hinted at."""
    shown = types.NotificationChannel.pb()()
    shown.CopyFrom(channel)
    for key in _KINDS[channel.type_].sensitive & set(shown.labels):
        shown.labels[key] = _obfuscated(shown.labels[key])
    return shown


def _obfuscated(secret: str) -> str:
    return _HIDDEN + (secret[-4:] if len(secret) >= 16 else "")


def _fields(channel: Any) -> Callable[[str], str | None]:
    def field(name: str) -> str | None:
        kind, _, label = name.partition(".")
        if label and kind in ("user_labels", "labels"):
            known = channel.user_labels if kind == "user_labels" else channel.labels
            hidden = kind == "labels" and label in _KINDS[channel.type_].sensitive
            return known.get(label) if label in known and not hidden else None
        simple = {
            "type": channel.type_,
            "name": channel.name,
            "display_name": channel.display_name,
            "displayName": channel.display_name,
            "description": channel.description,
            "enabled": str(channel.enabled.value).lower(),
        }
        return simple.get(name)

    return field


def _ordered(found: list[Any], order_by: str) -> list[Any]:
    """Sorted by fields such as ``-display_name``."""
    for name in reversed([n.strip() for n in order_by.split(",") if n.strip()]):
        plain = name.lstrip("-+")
        known = {"type": "type_", "displayName": "display_name"}.get(plain, plain)
        if known not in ("name", "type_", "display_name", "description"):
            raise invalid_argument(f'Field order_by had an invalid value of "{order_by}".')
        found = sorted(found, key=lambda c: str(getattr(c, known)), reverse=name.startswith("-"))
    return found


def _number() -> str:
    """An id as Monitoring assigns them."""
    return str(secrets.randbelow(9 * 10**18) + 10**18)
