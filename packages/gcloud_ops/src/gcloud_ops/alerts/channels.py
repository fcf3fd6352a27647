"""Notification channels: whom Monitoring tells. Which types there are, Google's descriptors say.

What can be wrong with an address is found here, before anything is asked or made. Values of
secret labels go in and never come out.

Reference: https://cloud.google.com/monitoring/alerts/using-channels-api
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from gcloud_ops.alerts.wanted import MADE_BY
from gcloud_ops.clients import CALL_TIMEOUT, Clients, translate
from gcloud_ops.errors import InvalidRequest, NotFound
from gcloud_ops.text import clean

__all__ = [
    "Channel",
    "ChannelType",
    "add_channel",
    "check_address",
    "find_channel",
    "guess_type",
    "known_secrets",
    "list_channels",
    "list_types",
    "main_label",
    "remove_channel",
    "send_code",
    "shown",
    "verify_channel",
]

_CLIENT: Final = "NotificationChannelServiceClient"

_ALIASES: Final = {"webhook": "webhook_tokenauth", "mail": "email", "e-mail": "email"}

_MAIN_LABELS: Final = {
    "email": "email_address",
    "sms": "number",
    "slack": "channel_name",
    "webhook_tokenauth": "url",
    "webhook_basicauth": "url",
    "pubsub": "topic",
}
"""The label that is the address, of the types that we know more of than their descriptors."""

_SECRETS: Final = {
    "slack": ("auth_token",),
    "webhook_basicauth": ("password",),
    "pagerduty": ("service_key",),
}
_SECRET_WORDS = re.compile(r"password|passwd|secret|token|key|credential", re.IGNORECASE)

_TOKEN = re.compile(r"(?<=/)(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[-\w]{20,}(?=/|$)")
"""Part of a URL's path that is rather a secret than a word."""

_EMAIL = re.compile(r"[^\s@\"<>,;:\\()\[\]]{1,64}@(?:[^\W_](?:[-\w]*[^\W_])?\.)+[^\W\d_]{2,}")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_TOPIC = re.compile(r"projects/[^/\s]+/topics/(?!goog)[A-Za-z][-A-Za-z0-9._~+%]{2,254}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelType:
    """A type of channels that Monitoring offers."""

    type: str
    name: str
    """For people."""
    description: str
    labels: Mapping[str, str]
    """Key -> what it is, of all labels that a channel of this type may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A notification channel of the project."""

    name: str
    """`projects/P/notificationChannels/ID`."""
    type: str
    display_name: str
    labels: Mapping[str, str]
    """What it is, without anything secret."""
    enabled: bool
    verification: str
    """`UNVERIFIED`: nothing arrives; `VERIFIED`; or "", where none is needed."""
    made: bool = field(default=False, compare=False)
    """Whether this call has made it."""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def address(self) -> str:
        """Where its messages go, without anything secret; "" where no label says so."""
        return self.labels.get(main_label(self.type) or "", "") or next(
            iter(self.labels.values()), ""
        )

    @property
    def is_unverified(self) -> bool:
        """Whether nothing arrives there, as somebody has yet to give the code."""
        return self.verification == "UNVERIFIED"


def list_types(clients: Clients) -> list[ChannelType]:
    """The types of channels that Monitoring offers, by their names."""
    found: list[Any] = clients.read_all(
        "notification channel types",
        clients.monitoring(_CLIENT).list_notification_channel_descriptors,
        name=f"projects/{clients.project}",
    )
    types = (
        ChannelType(
            type=one.type_,
            name=clean(one.display_name),
            description=clean(one.description),
            labels={label.key: clean(label.description) for label in one.labels},
        )
        for one in found
    )
    return sorted(types, key=lambda one: one.type)


def list_channels(clients: Clients) -> list[Channel]:
    """The project's channels, by type and address."""
    return sorted(
        map(_channel, _read_channels(clients)), key=lambda one: (one.type, one.address, one.name)
    )


def find_channel(channels: Iterable[Channel], named: str) -> Channel:
    """The channel of this id, full name, address or display name.

    Raises:
        NotFound: There is none; the hint has the ones whose names are alike.
        InvalidRequest: There are several.
    """
    known = list(channels)
    for key in (_names, _descriptions):
        hits = [one for one in known if named in key(one)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise InvalidRequest(
                f"{shown(named)}: {len(hits)} channels are called so",
                resource="notification channel",
                hint=f"give one of {', '.join(one.id for one in hits)}",
            )
    words = {word: one for one in known for word in (*_names(one), *_descriptions(one)) if word}
    near = difflib.get_close_matches(named, words, n=2, cutoff=0.6)
    raise NotFound(
        f"there is no notification channel {shown(named)}",
        resource="notification channel",
        hint=f"did you mean {' or '.join(map(shown, near))}?"
        if near
        else "see `gcloud-ops alerts channels list`",
    )


def guess_type(address: str) -> str | None:
    """The type of channel that an address says by its form; None where it says none."""
    if "://" in address:
        return "webhook_tokenauth"
    if address.startswith("projects/") and "/topics/" in address:
        return "pubsub"
    if "@" in address:
        return "email"
    return "sms" if address.startswith("+") else None


def main_label(type: str) -> str | None:
    """The label that is the address of this type, as far as we know it."""
    return _MAIN_LABELS.get(type)


def known_secrets(type: str) -> tuple[str, ...]:
    """The labels that a channel of this type needs and that are secret, as far as we know."""
    return _SECRETS.get(_ALIASES.get(type, type), ())


def check_address(type: str, address: str, *, google: bool = True) -> str:
    """The address in the form that Monitoring takes; of types that we don't know, as it is.

    Args:
        type: Such as `email`.
        address: What a person has given.
        google: Whether this is Google Cloud, which reaches no http and nothing on this machine.

    Raises:
        InvalidRequest: It can't be; nothing was asked.
    """
    text = address.strip()
    match _ALIASES.get(type, type):
        case "email" if not _EMAIL.fullmatch(text) or len(text) > 254 or ".." in text:
            problem = "is not an e-mail address such as you@example.org"
        case "sms":
            text = re.sub(r"[\s().-]", "", text)
            if _E164.fullmatch(text):
                return text
            problem = "is not a phone number with its country, such as +34600000000 (E.164)"
        case "webhook_tokenauth" | "webhook_basicauth":
            problem = _url_problem(text, google=google)
        case "pubsub" if not _TOPIC.fullmatch(text):
            problem = "is not a topic such as projects/PROJECT/topics/TOPIC"
        case "slack":
            problem = "is not a channel such as #experiments" if not text.strip("# ") else ""
        case _:
            problem = "" if text else "is no address"
    if problem:
        raise InvalidRequest(f"{shown(text)!r} {problem}", resource="notification channel")
    return text


def add_channel(
    clients: Clients,
    type: str,
    *,
    address: str | None = None,
    labels: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    display_name: str = "",
) -> Channel:
    """The channel for an address: the one that is there already, or a new one.

    Args:
        clients: The cloud.
        type: One of `list_types`; `webhook` is `webhook_tokenauth`.
        address: The value of the type's main label.
        labels: Further labels.
        secrets: Labels whose values nobody is shown. Of a channel that is there already, they
            replace what it has.
        display_name: For people; "" is the address.

    Raises:
        InvalidRequest: Type, label or address can't be; nothing was made.
    """
    type = _ALIASES.get(type, type)
    google = clients.settings.is_google
    if address is not None:
        address = check_address(type, address, google=google)
    described = _described(clients, type)
    given, hidden = dict(labels or {}), dict(secrets or {})
    if address is not None:
        given[_label_of_address(described, (*given, *hidden))] = address
    for key in (*given, *hidden):
        _check_label(described, key)
    if both := given.keys() & hidden.keys():
        raise InvalidRequest(f"label {min(both)}: given twice, as a label and as a secret")
    main = main_label(type)
    for values in (given, hidden):
        if main in values:
            values[main] = check_address(type, values[main], google=google)
    if missing := [
        key
        for key in (*filter(None, [main]), *known_secrets(type))
        if not given.get(key) and not hidden.get(key)
    ]:
        raise InvalidRequest(
            f"a channel of type {type} needs {' and '.join(missing)}",
            resource="notification channel",
            hint=f"labels of this type: {', '.join(described.labels)}",
        )
    for one in _read_channels(clients):
        if one.type_ == type and _is_same(one.labels, given, hidden):
            if hidden:
                _replace_labels(clients, one, {**given, **hidden})
            return _channel(one)
    known = given.get(main or "") or hidden.get(main or "") or next(iter(given.values()), type)
    return _create(clients, type, display_name or shown(known), {**given, **hidden})


def send_code(clients: Clients, channel: Channel) -> None:
    """Have Monitoring send the channel a code, for `verify_channel`.

    Raises:
        InvalidRequest: Channels of this type need none.
    """
    with translate(f"channel {channel.id}"):
        clients.monitoring(_CLIENT).send_notification_channel_verification_code(
            request={"name": channel.name}, retry=None, timeout=CALL_TIMEOUT
        )


def verify_channel(clients: Clients, channel: Channel, code: str) -> Channel:
    """Give Monitoring the code that arrived; from then on messages do.

    Raises:
        InvalidRequest: It is not the code.
    """
    with translate(f"channel {channel.id}"):
        found = clients.monitoring(_CLIENT).verify_notification_channel(
            request={"name": channel.name, "code": code.strip()}, retry=None, timeout=CALL_TIMEOUT
        )
    return _channel(found)


def remove_channel(
    clients: Clients, channel: Channel, *, used_by: Callable[[Channel], list[str]], force: bool
) -> None:
    """Remove a channel.

    Args:
        clients: The cloud.
        channel: Which.
        used_by: The names of the policies that tell it, for people.
        force: Also when there are any: it is taken out of them.

    Raises:
        InvalidRequest: A policy uses it, and `force` is false.
    """
    if not force and (names := used_by(channel)):
        raise InvalidRequest(
            f"channel {channel.id} ({channel.address}) is used by {len(names)} policies: "
            + ", ".join(names),
            resource=f"channel {channel.id}",
            hint="--force takes it out of them",
        )
    with translate(f"channel {channel.id}"):
        clients.monitoring(_CLIENT).delete_notification_channel(
            request={"name": channel.name, "force": force}, retry=None, timeout=CALL_TIMEOUT
        )


def shown(address: str) -> str:
    """An address without what may be secret.

    Of a URL that is its query, password and fragment, and parts of its path that look so.
    """
    if "://" not in address:
        return clean(address)
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(a URL that can't be read)"
    path = _TOKEN.sub("...", parts.path)
    return clean(urlunsplit((parts.scheme, host, path, "..." if parts.query else "", "")))


def _read_channels(clients: Clients) -> list[Any]:
    return clients.read_all(
        "notification channels",
        clients.monitoring(_CLIENT).list_notification_channels,
        name=f"projects/{clients.project}",
    )


def _channel(found: Any, *, made: bool = False) -> Channel:
    verification = found.verification_status.name
    return Channel(
        name=found.name,
        type=found.type_,
        display_name=shown(found.display_name),
        labels={
            key: shown(value)
            for key, value in sorted(found.labels.items())
            if key not in known_secrets(found.type_) and not _SECRET_WORDS.search(key)
        },
        enabled=found.enabled,
        verification="" if verification.endswith("UNSPECIFIED") else verification,
        made=made,
    )


def _names(channel: Channel) -> tuple[str, ...]:
    return channel.id, channel.name


def _descriptions(channel: Channel) -> tuple[str, ...]:
    return channel.address, channel.display_name


def _url_problem(text: str, *, google: bool) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in {"http", "https"} or not host or re.search(r"\s", text):
        return "is not a URL such as https://example.org/alerts"
    if parts.username or parts.password:
        return "has a password in it: use webhook_basicauth"
    if parts.scheme == "http" and (google or not _is_loopback(host)):
        return "is not encrypted: use https"
    if google and _is_loopback(host):
        return "is this machine, which Google can't reach"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _described(clients: Clients, type: str) -> ChannelType:
    known = {one.type: one for one in list_types(clients)}
    if type in known:
        return known[type]
    near = difflib.get_close_matches(type, known, n=3, cutoff=0.5)
    raise InvalidRequest(
        f"{clean(type)!r} is no type of notification channel",
        resource="notification channel",
        hint=f"did you mean {' or '.join(near)}?" if near else f"types: {', '.join(known)}",
    )


def _label_of_address(described: ChannelType, taken: Iterable[str]) -> str:
    if label := main_label(described.type):
        return label
    free = [
        key for key in described.labels if key not in set(taken) and not _SECRET_WORDS.search(key)
    ]
    if len(free) == 1:
        return free[0]
    raise InvalidRequest(
        f"which label of type {described.type} the address is, is not known",
        resource="notification channel",
        hint=f"give --label KEY=VALUE, with a KEY of {', '.join(described.labels)}",
    )


def _check_label(described: ChannelType, key: str) -> None:
    if key in described.labels:
        return
    near = difflib.get_close_matches(key, described.labels, n=1, cutoff=0.5)
    raise InvalidRequest(
        f"channels of type {described.type} have no label {clean(key)!r}",
        resource="notification channel",
        hint=f"did you mean {near[0]}?" if near else f"labels: {', '.join(described.labels)}",
    )


def _is_same(
    found: Mapping[str, str], given: Mapping[str, str], hidden: Mapping[str, str]
) -> bool:
    """Whether a channel has the labels that were given; what it has besides doesn't matter.

    Of what is sensitive a part may come back, the rest as asterisks. Secrets count only where
    there is nothing else: a new password doesn't make another channel.
    """

    def matches(key: str, value: str) -> bool:
        parts = re.split(r"\*{2,}", found.get(key, ""))
        return any(parts) and bool(re.fullmatch(".*".join(map(re.escape, parts)), value))

    return all(matches(key, value) for key, value in (given or hidden).items())


def _create(clients: Clients, type: str, name: str, labels: Mapping[str, str]) -> Channel:
    request = {
        "name": f"projects/{clients.project}",
        "notification_channel": {
            "type_": type,
            "display_name": name,
            "labels": dict(labels),
            "user_labels": dict(MADE_BY),
        },
    }
    with translate(f"notification channel {name}"):
        made = clients.monitoring(_CLIENT).create_notification_channel(
            request=request, retry=None, timeout=CALL_TIMEOUT
        )
    return _channel(made, made=True)


def _replace_labels(clients: Clients, found: Any, labels: Mapping[str, str]) -> None:
    request = {
        "notification_channel": {"name": found.name, "type_": found.type_, "labels": dict(labels)},
        "update_mask": {"paths": ["labels"]},
    }
    with translate(f"channel {found.name.rpartition('/')[2]}"):
        clients.monitoring(_CLIENT).update_notification_channel(
            request=request, retry=None, timeout=CALL_TIMEOUT
        )
