"""Alerts, for the console: whom Monitoring tells, and changes of that. No terminal here.

    look                                  channels and policies, in one view
    types                                 what kinds of channels there are, with their labels
    labels_of, objection                  what a channel of a kind takes; what is wrong with it
    add, send_code, verify, remove        a channel
    set_up, switch, remove_policies       our policies
    send_test                             a real signal, and whom it has reached

All block; a thread calls them. Each change is refused where the fleet is read-only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.text import one_line
from sinergym_tui.fleet import Fleet

if TYPE_CHECKING:
    from gcloud_ops.alerts import Channel, ChannelType, Policy

__all__ = [
    "Alerts",
    "add",
    "labels_of",
    "look",
    "objection",
    "remove",
    "remove_policies",
    "secret_labels",
    "send_code",
    "send_test",
    "set_up",
    "switch",
    "types",
    "verify",
]

type Tell = Callable[[str], None]

_SECRET_WORDS = ("password", "token", "secret", "key", "credential")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    """The channels of the project, and our policies."""

    channels: "tuple[Channel, ...]"
    policies: "tuple[Policy, ...]"


def look(fleet: Fleet) -> Alerts:
    """What there is.

    Raises:
        GcloudOpsError: Monitoring can't be asked, or this cloud has none.
    """
    from gcloud_ops import alerts

    if not fleet.settings.has_monitoring:
        raise InvalidRequest("this cloud has no Monitoring")
    return Alerts(
        channels=tuple(alerts.list_channels(fleet.clients)),
        policies=tuple(alerts.list_policies(fleet.clients)),
    )


def types(fleet: Fleet) -> "tuple[ChannelType, ...]":
    """The kinds of channels that Monitoring offers; those that people mostly want come first."""
    from gcloud_ops import alerts
    from gcloud_ops.alerts.channels import main_label

    found = alerts.list_types(fleet.clients)
    return tuple(sorted(found, key=lambda one: (main_label(one.type) is None, one.name)))


def secret_labels(type: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Those of a type's labels whose values nobody is shown."""
    from gcloud_ops.alerts.channels import known_secrets

    known = known_secrets(type)
    return tuple(
        label for label in labels if label in known or any(w in label for w in _SECRET_WORDS)
    )


def labels_of(kind: "ChannelType") -> tuple[str, ...]:
    """The labels of a type, the address first and what is secret last."""
    from gcloud_ops.alerts.channels import main_label

    main, secret = main_label(kind.type), secret_labels(kind.type, [*kind.labels])
    return tuple(sorted(kind.labels, key=lambda label: (label != main, label in secret)))


def objection(fleet: Fleet, type: str, filled: Mapping[str, str]) -> str:
    """What is wrong with values by label as they are, before anything is asked; "": nothing."""
    from gcloud_ops.alerts.channels import check_address, known_secrets, main_label

    main = main_label(type)
    if main is not None:
        try:
            check_address(type, filled.get(main, ""), google=fleet.settings.is_google)
        except InvalidRequest as error:
            return one_line(str(error))
    missing = [label for label in known_secrets(type) if not filled.get(label)]
    return f"{missing[0].replace('_', ' ')} is missing" if missing else ""


def add(fleet: Fleet, type: str, filled: Mapping[str, str]) -> str:
    """Add a channel, or find the one that is there.

    Args:
        fleet: The cloud.
        type: One of `types`.
        filled: Values by label, secret ones too; empty ones are left out.
    """
    from gcloud_ops import alerts

    clients = fleet.for_change("add a channel")
    given = {label: value for label, value in filled.items() if value}
    hidden = secret_labels(type, [*given])
    found = alerts.add_channel(
        clients,
        type,
        labels={label: value for label, value in given.items() if label not in hidden},
        secrets={label: given[label] for label in hidden},
    )
    words = "made" if found.made else "was there already"
    more = "; nothing arrives before it is verified" if found.is_unverified else ""
    return f"channel {found.type} {found.address}: {words}{more}"


def send_code(fleet: Fleet, channel: "Channel") -> str:
    """Have a code sent to a channel."""
    from gcloud_ops import alerts

    alerts.send_code(fleet.for_change("verify a channel"), channel)
    return f"a code is on its way to {channel.address}: v again takes it"


def verify(fleet: Fleet, channel: "Channel", code: str) -> str:
    """Give the code that has arrived."""
    from gcloud_ops import alerts

    alerts.verify_channel(fleet.for_change("verify a channel"), channel, code)
    return f"channel {channel.address} is verified"


def remove(fleet: Fleet, channel: "Channel") -> str:
    """Remove a channel, and take it out of the policies that tell it."""
    from gcloud_ops import alerts
    from gcloud_ops.alerts.policies import policies_using

    clients = fleet.for_change("remove a channel")
    alerts.remove_channel(
        clients, channel, used_by=lambda one: policies_using(clients, one), force=True
    )
    return f"channel {channel.address or channel.id} removed"


def set_up(fleet: Fleet, named: Sequence[str], *, each: bool | None, tell: Tell) -> str:
    """Make the policies that are missing, mend the others, and add whom they tell."""
    from gcloud_ops import alerts

    clients = fleet.for_change("set up alert policies")
    tell("looking at channels and policies")
    to = alerts.recipients(clients, named)
    found = alerts.set_up(clients, to, each=each, on_step=tell)
    changed = sum(bool(one.change) for one in found)
    told = {name for one in found for name in one.channels}
    return f"{len(found)} policies, {changed} made or mended; " + (
        f"they tell {len(told)} channels" if told else "they tell nobody yet"
    )


def switch(fleet: Fleet, policy: "Policy") -> str:
    """Switch a policy on, or off."""
    from gcloud_ops import alerts

    clients = fleet.for_change(f"switch the policy {policy.which}")
    found = alerts.set_enabled(clients, policy, enabled=not policy.enabled)
    return f"policy {found.which} is {'on' if found.enabled else 'off'}"


def remove_policies(fleet: Fleet, tell: Tell) -> str:
    """Remove our policies; channels and metrics stay."""
    from gcloud_ops import alerts

    count = alerts.remove_policies(fleet.for_change("remove alert policies"), tell)
    return f"{count} policies removed"


def send_test(fleet: Fleet, tell: Tell) -> str:
    """Write a real signal, wait for its incident, say whom it reached."""
    from gcloud_ops import alerts
    from gcloud_ops.alerts.incidents import TEST_PATIENCE

    clients = fleet.for_change("send a test")
    written = alerts.signal(clients)
    tell(f"signal written: {written.experiment}; waiting for its incident")
    alerts.await_incident(
        clients,
        written,
        patience=TEST_PATIENCE,
        waiting=lambda passed: tell(f"no incident yet ({passed:.0f} s)"),
    )
    sent = alerts.deliveries(clients, written)
    if sent:
        words = ", ".join(f"{one.to}: {one.state}" for one in sent)
        return one_line(f"noticed; {words}")
    there = {one.name: one for one in alerts.list_channels(clients)}
    told = [there[name].address for name in written.policy.channels if name in there]
    return one_line(f"noticed; look for {written.experiment} at {', '.join(told) or 'nobody'}")
