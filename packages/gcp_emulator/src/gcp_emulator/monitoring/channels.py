"""NotificationChannelService: where notifications go.

https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.notificationChannels
"""

import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from google.cloud.monitoring_v3 import types
from google.protobuf import empty_pb2

from gcp_emulator.iam.errors import failed_precondition, invalid_argument, not_found
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.collection import (
    Collection,
    Kept,
    field_of,
    masked,
    new_id,
    ordered,
    record,
    refuse_name,
)
from gcp_emulator.monitoring.filters import matches, parse
from gcp_emulator.monitoring.kinds import KINDS, check, descriptor
from gcp_emulator.monitoring.wire import Method

__all__ = ["Channels"]

_CODE_SECONDS: Final = 24 * 3_600.0
_MOST_CHANNELS: Final = 4_000
_VERIFIED: Final = int(types.NotificationChannel.VerificationStatus.VERIFIED)
_UNVERIFIED: Final = int(types.NotificationChannel.VerificationStatus.UNVERIFIED)
_HIDDEN: Final = "**********"
_CHANNELS: Final = Collection(
    service="NotificationChannelService",
    one="NotificationChannel",
    many="NotificationChannels",
    path="notificationChannels",
    message=types.NotificationChannel.pb(),
)
_TYPES: Final = Collection(
    service="NotificationChannelService",
    one="NotificationChannelDescriptor",
    many="NotificationChannelDescriptors",
    path="notificationChannelDescriptors",
    message=types.NotificationChannelDescriptor.pb(),
)
_ORDERS: Final[dict[str, Callable[[Any], str]]] = {
    "name": lambda channel: channel.name,
    "type": lambda channel: channel.type_,
    "type_": lambda channel: channel.type_,
    "display_name": lambda channel: channel.display_name,
    "displayName": lambda channel: channel.display_name,
    "description": lambda channel: channel.description,
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
        self._users_of = users_of
        self._let_go = let_go
        self._send_code = send_code
        self._now = now
        self._codes: dict[str, tuple[str, float]] = {}
        self._channels = Kept(
            file, _CHANNELS.message, missing="Cannot find notification channel with name"
        )

    def find(self, name: str) -> Any | None:
        """The channel of this name, with its secrets."""
        return self._channels.find(self._full(name))

    def why_not(self, channel: Any) -> str:
        """Why nothing can be sent to a channel now; nothing if it can be."""
        if channel.HasField("enabled") and not channel.enabled.value:
            return "the channel is disabled"
        if channel.verification_status == _UNVERIFIED:
            return "the channel is not verified"
        return ""

    def methods(self) -> Iterator[Method]:
        """What can be called."""
        yield _TYPES.list(self._list_descriptors)
        yield _TYPES.get(self._get_descriptor)
        yield _CHANNELS.list(self._list)
        yield _CHANNELS.get(lambda request: _shown(self._channels.named(request.name)))
        yield _CHANNELS.create(self._create)
        yield _CHANNELS.update(self._update)
        yield _CHANNELS.delete(self._delete)
        verb = "NotificationChannelVerificationCode"
        yield _CHANNELS.custom(f"Send{verb}", "sendVerificationCode", self._send, reply="")
        yield _CHANNELS.custom(
            f"Get{verb}", "getVerificationCode", self._get_code, reply=f"Get{verb}Response"
        )
        yield _CHANNELS.custom("VerifyNotificationChannel", "verify", self._verify)

    def _full(self, name: str) -> str:
        """A channel's name with the project's id, which can be given by number."""
        prefix = f"{self._project.numbered}/"
        return f"{self._project.path}/{name[len(prefix) :]}" if name.startswith(prefix) else name

    def _list_descriptors(self, request: Any) -> Any:
        return _TYPES.page(request, [descriptor(self._project.path, kind) for kind in KINDS])

    def _get_descriptor(self, request: Any) -> Any:
        kind = request.name.rpartition("/")[2]
        if kind not in KINDS:
            raise not_found(f"Cannot find notification channel descriptor of type {kind}.")
        return descriptor(self._project.path, kind)

    def _list(self, request: Any) -> Any:
        selected = parse(request.filter)
        found = [c for c in self._channels if matches(selected, partial(_field, c))]
        found = ordered(found, request.order_by, _ORDERS)
        return _CHANNELS.page(request, [_shown(channel) for channel in found])

    def _create(self, request: Any) -> Any:
        if len(self._channels) >= _MOST_CHANNELS:
            raise failed_precondition(f"A project has at most {_MOST_CHANNELS} channels.")
        made = types.NotificationChannel.pb()()
        made.CopyFrom(request.notification_channel)
        refuse_name(made, _CHANNELS.field)
        check(made)
        made.name = f"{self._project.path}/notificationChannels/{new_id()}"
        if not made.HasField("enabled"):
            made.enabled.value = True
        # It is Google that verifies.
        made.verification_status = _UNVERIFIED if KINDS[made.type_].verified else 0
        made.ClearField("mutation_records")
        made.creation_record.CopyFrom(record(self._now()))
        made.mutation_records.append(made.creation_record)
        self._channels.put(made)
        return _shown(made)

    def _update(self, request: Any) -> Any:
        wanted = request.notification_channel
        known = self._channels.named(wanted.name)
        changed = masked(known, wanted, request.update_mask.paths, _CHANNELS.field)
        if changed.type_ != known.type_:
            raise invalid_argument("Field notification_channel.type: can't be changed.")
        kind = KINDS[known.type_]
        for key in kind.sensitive & set(changed.labels):
            # What a client has read and gives back.
            if changed.labels[key] == _obfuscated(known.labels.get(key, "")):
                changed.labels[key] = known.labels.get(key, "")
        check(changed)
        if dict(changed.labels) != dict(known.labels) and kind.verified:
            changed.verification_status = _UNVERIFIED
        else:
            changed.verification_status = known.verification_status
        changed.creation_record.CopyFrom(known.creation_record)
        changed.ClearField("mutation_records")
        changed.mutation_records.extend([*known.mutation_records, record(self._now())][-10:])
        self._channels.put(changed)
        return _shown(changed)

    def _delete(self, request: Any) -> empty_pb2.Empty:
        known = self._channels.named(request.name)
        users = self._users_of(known.name)
        if users and not request.force:
            raise failed_precondition(
                f"The notification channel {known.name} can't be deleted: it is used by"
                f" {', '.join(users)}. Set force to delete it anyway."
            )
        if users:
            self._let_go(known.name)
        self._channels.remove(known.name)
        self._codes.pop(known.name, None)
        return empty_pb2.Empty()

    def _send(self, request: Any) -> empty_pb2.Empty:
        channel = self._channels.named(request.name)
        if not KINDS[channel.type_].verified:
            raise invalid_argument(f"A channel of type {channel.type_} needs no verification.")
        code = self._new_code(channel.name, self._now() + _CODE_SECONDS)
        self._send_code(channel, code)
        return empty_pb2.Empty()

    def _get_code(self, request: Any) -> Any:
        channel = self._channels.named(request.name)
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
        channel = self._channels.named(request.name)
        twins = [
            other.name
            for other in self._channels
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
        self._channels.save()
        return _shown(channel)

    def _new_code(self, name: str, until: float) -> str:
        code = f"G-{secrets.randbelow(10**6):06}"
        self._codes[name] = (code, until)
        return code


def _shown(channel: Any) -> Any:
    """A channel as it is told: secrets only hinted at."""
    shown = types.NotificationChannel.pb()()
    shown.CopyFrom(channel)
    for key in KINDS[channel.type_].sensitive & set(shown.labels):
        shown.labels[key] = _obfuscated(shown.labels[key])
    return shown


def _obfuscated(secret: str) -> str:
    return _HIDDEN + (secret[-4:] if len(secret) >= 16 else "")


def _field(channel: Any, name: str) -> str | None:
    """The value of a field that filters can name; a secret is none."""
    kind, _, label = name.partition(".")
    if label and kind == "labels":
        hidden = label in KINDS[channel.type_].sensitive
        return channel.labels[label] if label in channel.labels and not hidden else None
    return channel.type_ if name == "type" else field_of(channel, name, "description")
