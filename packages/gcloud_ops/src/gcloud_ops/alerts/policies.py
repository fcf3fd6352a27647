"""Alert policies of ours: set up, list, enable, disable, remove.

`set_up` compares what is there with what is wanted and changes what differs: a second one only
reads. What a person has added (channels, labels) or has switched off stays.

References: https://cloud.google.com/monitoring/alerts/using-alerting-api,
https://cloud.google.com/monitoring/custom-metrics/creating-metrics
"""

import difflib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from gcloud_ops.alerts import channels as channels_
from gcloud_ops.alerts import metrics, permissions, wanted
from gcloud_ops.alerts.channels import Channel
from gcloud_ops.clients import CALL_TIMEOUT, Clients, translate
from gcloud_ops.errors import InvalidRequest, NotFound, Unavailable
from gcloud_ops.text import clean

__all__ = [
    "METRIC_PATIENCE",
    "Policy",
    "Recipients",
    "find_policy",
    "list_policies",
    "policies_using",
    "recipients",
    "remove_policies",
    "set_enabled",
    "set_up",
]

METRIC_PATIENCE: Final = 600.0
"""Seconds for which a new metric may be unknown to alert policies (Google: up to ten minutes)."""

_CLIENT: Final = "AlertPolicyServiceClient"

_METRIC_UNKNOWN = re.compile(r"cannot find metric", re.IGNORECASE)
_COMPARED: Final = {
    # A policy's fields that are ours -> their names in an update's mask.
    "displayName": "display_name",
    "documentation": "documentation",
    "conditions": "conditions",
    "combiner": "combiner",
    "alertStrategy": "alert_strategy",
    "severity": "severity",
    "userLabels": "user_labels",
}

type Json = dict[str, Any]
type Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An alert policy of ours, as Monitoring has it."""

    which: str
    """What it announces: `experiment-finished`, `sweep-finished`..."""
    name: str
    """`projects/P/alertPolicies/ID`."""
    display_name: str
    enabled: bool
    channels: tuple[str, ...]
    """Names of the channels that it tells."""
    each: bool
    """Whether it announces each experiment of every sweep."""
    change: str = ""
    """What `set_up` has done: `made`, `repaired`, or "" where it was as it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipients:
    """Whom to tell: channels that are there, and addresses that have none yet."""

    known: tuple[Channel, ...]
    new: tuple[tuple[str, str], ...]
    """Type and address."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, for people."""
        there = (one.address or one.display_name or one.id for one in self.known)
        return (*there, *(channels_.shown(address) for _, address in self.new))

    def ensure(self, clients: Clients, on_step: Tell) -> tuple[Channel, ...]:
        """The channels; makes those that are missing."""
        made = []
        for kind, address in self.new:
            channel = channels_.add_channel(clients, kind, address=address)
            if channel.made:
                on_step(f"channel made: {channel.type} {channel.address}")
            made.append(channel)
        _refuse_unverified(made)
        return (*self.known, *made)


def recipients(clients: Clients, named: Sequence[str]) -> Recipients:
    """Find the channels of these names and addresses, and check the addresses that have none.

    Args:
        clients: The cloud.
        named: Each a channel's id, name, address or display name, or an e-mail address, a URL
            or a Pub/Sub topic that has no channel yet.

    Raises:
        InvalidRequest: An address can't be, or a channel is not verified; nothing was made.
        NotFound: There is no such channel.
    """
    google = clients.settings.is_google
    new: list[tuple[str, str]] = []
    to_find: list[str] = []
    for name in dict.fromkeys(named):  # what is malformed is refused before anything is asked
        kind = channels_.guess_type(name)
        if kind is None or kind == "sms":
            to_find.append(name)
        else:
            new.append((kind, channels_.check_address(kind, name, google=google)))
    there = channels_.list_channels(clients) if named else []
    known = [channels_.find_channel(there, name) for name in to_find]
    for kind, address in list(new):
        # A URL comes back without its secrets, so whether it is there is for `add_channel`.
        same = [one for one in there if one.type == kind and one.address == address]
        if same:
            known.append(same[0])
            new.remove((kind, address))
    _refuse_unverified(known)
    if off := [one for one in known if not one.enabled]:
        raise InvalidRequest(
            f"channel {off[0].id} ({off[0].address}) is disabled: nothing would arrive",
            resource=f"channel {off[0].id}",
            hint="enable it in Google's console",
        )
    return Recipients(known=tuple({one.name: one for one in known}.values()), new=tuple(new))


def list_policies(clients: Clients) -> list[Policy]:
    """Our policies of the project."""
    return [_policy(found) for found in _ours(clients)]


def policies_using(clients: Clients, channel: Channel) -> list[str]:
    """The names, for people, of all policies of the project that tell a channel."""
    return [
        clean(found.display_name)
        for found in _read_policies(clients)
        if channel.name in found.notification_channels
    ]


def set_up(
    clients: Clients,
    to: Recipients | None = None,
    *,
    each: bool | None = None,
    on_step: Tell,
    patience: float = METRIC_PATIENCE,
) -> list[Policy]:
    """Make metrics, channels and policies that are missing, and repair what is ours.

    Args:
        clients: The cloud.
        to: Whom the policies tell, besides those that they tell already.
        each: Whether to announce each experiment of every sweep; None: as it is, at first no.
        on_step: Told each step, in a line.
        patience: Seconds to wait for new metrics to become known.

    Raises:
        PermissionDenied: Something may not be done that is to do; nothing was made.
        Unavailable: A new metric isn't known yet; another call goes on.
    """
    found = _ours(clients)
    if each is None:
        each = any(one.user_labels.get(wanted.EACH_LABEL) == "yes" for one in found)
    policies = wanted.policies(clients.project, each=each, google=clients.settings.is_google)
    there: dict[str, Any] = {}
    left = []  # of another mode, or made twice by two at once: they would tell twice
    for one in found:
        which = one.user_labels[wanted.WHICH_LABEL]
        if which in policies and which not in there:
            there[which] = one
        else:
            left.append(one)
    doing = _doing(policies, there, to)
    doing |= {"metricDescriptors.create"} if metrics.missing_metrics(clients) else set()
    doing |= {"alertPolicies.delete"} if left else set()
    permissions.require(clients, doing)
    channels = [one.name for one in to.ensure(clients, on_step)] if to else []
    for made in metrics.ensure_metrics(clients):
        on_step(f"metric made: {made}")
    deadline = time.monotonic() + patience
    done = []
    for which, policy in policies.items():
        if which in there:
            done.append(_repair(clients, there[which], policy, channels, on_step))
        else:
            done.append(_make(clients, policy, channels, on_step, deadline=deadline))
    for one in left:
        _delete(clients, one)
        on_step(f"policy removed: {clean(one.display_name)}")
    return done


def find_policy(policies: Sequence[Policy], named: str) -> Policy:
    """Our policy of this name: what it announces, its display name, or its id.

    Raises:
        NotFound: There is none.
    """
    for one in policies:
        if named in {one.which, one.display_name, one.name, one.name.rpartition("/")[2]}:
            return one
    near = difflib.get_close_matches(named, [one.which for one in policies], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see `gcloud-ops alerts policies list`"
    if not policies:
        hint = "`gcloud-ops alerts policies setup` makes them"
    raise NotFound(
        f"there is no alert policy {clean(named)!r} of ours", resource="alert policy", hint=hint
    )


def set_enabled(clients: Clients, policy: Policy, *, enabled: bool) -> Policy:
    """Switch a policy on or off."""
    if policy.enabled is enabled:
        return policy
    request = {
        "alert_policy": {"name": policy.name, "enabled": enabled},
        "update_mask": {"paths": ["enabled"]},
    }
    with translate(f"alert policy {policy.which}"):
        changed = clients.monitoring(_CLIENT).update_alert_policy(
            request=request, retry=None, timeout=CALL_TIMEOUT
        )
    return _policy(changed, change="enabled" if enabled else "disabled")


def remove_policies(clients: Clients, on_step: Tell) -> int:
    """Remove our policies; metrics and channels stay. Returns how many there were."""
    found = _ours(clients)
    for one in found:  # Google asks for one change at a time
        _delete(clients, one)
        on_step(f"policy removed: {clean(one.display_name)}")
    return len(found)


def _doing(
    policies: Mapping[str, Json], there: Mapping[str, Any], to: Recipients | None
) -> set[str]:
    """What is to do with channels and policies, by the names of the permissions."""
    new = bool(to and to.new)
    known = [one.name for one in to.known] if to else []
    differ = any(_differences(one, policies[which], known) for which, one in there.items())
    steps = {
        "notificationChannels.create": new,
        "alertPolicies.create": len(there) < len(policies),
        "alertPolicies.update": differ or (new and bool(there)),
    }
    return {permission for permission, is_due in steps.items() if is_due}


# ------------------------------------------------------------------------- policies


def _read_policies(clients: Clients) -> list[Any]:
    return clients.read_all(
        "alert policies",
        clients.monitoring(_CLIENT).list_alert_policies,
        name=f"projects/{clients.project}",
    )


def _ours(clients: Clients) -> list[Any]:
    found = [
        one
        for one in _read_policies(clients)
        if wanted.MADE_BY.items() <= dict(one.user_labels).items()
        and wanted.WHICH_LABEL in one.user_labels
    ]
    return sorted(found, key=lambda one: (one.user_labels[wanted.WHICH_LABEL], one.name))


def _policy(found: Any, *, change: str = "") -> Policy:
    return Policy(
        which=found.user_labels[wanted.WHICH_LABEL],
        name=found.name,
        display_name=clean(found.display_name),
        enabled=bool(found.enabled),
        channels=tuple(found.notification_channels),
        each=found.user_labels.get(wanted.EACH_LABEL) == "yes",
        change=change,
    )


def _make(
    clients: Clients, policy: Json, channels: Sequence[str], on_step: Tell, *, deadline: float
) -> Policy:
    """Create a policy, waiting for its metric to be known."""
    name = policy["displayName"]
    request = {
        "name": f"projects/{clients.project}",
        "alert_policy": _parsed({**policy, "notificationChannels": list(channels)}),
    }
    began, pause = time.monotonic(), 1.0
    while True:
        try:
            with translate(f"alert policy {name}"):
                made = clients.monitoring(_CLIENT).create_alert_policy(
                    request=request, retry=None, timeout=CALL_TIMEOUT
                )
            break
        except NotFound as error:
            if not _METRIC_UNKNOWN.search(error.message):
                raise
            if time.monotonic() + pause > deadline:
                raise Unavailable(
                    f"alert policy {name}: Monitoring doesn't know the new metric yet",
                    resource=f"alert policy {name}",
                    hint="it takes up to ten minutes; the same command goes on from here",
                ) from error
            on_step(
                f"{name}: waiting for Monitoring to know the new metric "
                f"({time.monotonic() - began:.0f} s, up to ten minutes)"
            )
            time.sleep(pause)
            pause = min(pause * 1.5, 15.0)
    on_step(f"policy made: {name}")
    return _policy(made, change="made")


def _repair(
    clients: Clients, found: Any, policy: Json, channels: Sequence[str], on_step: Tell
) -> Policy:
    """Change what differs from what is wanted; channels are only added."""
    paths = _differences(found, policy, channels)
    if not paths:
        return _policy(found)
    target = deepcopy(policy)
    missing = [name for name in channels if name not in found.notification_channels]
    names = {one.display_name: one.name for one in found.conditions}
    for condition in target["conditions"]:
        if name := names.get(condition["displayName"]):
            condition["name"] = name  # it is changed, and keeps its incidents
    request = {
        "alert_policy": _parsed(
            {
                **target,
                "name": found.name,
                "userLabels": {**found.user_labels, **target["userLabels"]},
                "notificationChannels": [*found.notification_channels, *missing],
            }
        ),
        "update_mask": {"paths": paths},
    }
    name = policy["displayName"]
    with translate(f"alert policy {name}"):
        changed = clients.monitoring(_CLIENT).update_alert_policy(
            request=request, retry=None, timeout=CALL_TIMEOUT
        )
    on_step(f"policy repaired: {name} ({', '.join(paths)})")
    return _policy(changed, change="repaired")


def _differences(found: Any, policy: Json, channels: Sequence[str]) -> list[str]:
    """The fields that are not as they are wanted, by their names in an update's mask."""
    current = _as_json(found)
    paths = [
        path
        for key, path in _COMPARED.items()
        if key in policy and not _holds(current.get(key), policy[key])
    ]
    if any(name not in found.notification_channels for name in channels):
        paths.append("notification_channels")
    return paths


def _delete(clients: Clients, found: Any) -> None:
    try:
        with translate(f"alert policy {clean(found.display_name)}"):
            clients.monitoring(_CLIENT).delete_alert_policy(
                request={"name": found.name}, retry=None, timeout=CALL_TIMEOUT
            )
    except NotFound:  # somebody else was faster
        return


def _parsed(policy: Json) -> Any:
    """The JSON of an `AlertPolicy` as the clients' message."""
    from google.cloud.monitoring_v3 import AlertPolicy
    from google.protobuf.json_format import ParseDict

    message = AlertPolicy()
    ParseDict(policy, AlertPolicy.pb(message))
    return message


def _as_json(policy: Any) -> Json:
    from google.protobuf.json_format import MessageToDict

    # With the zeros and empty lists, which are wanted as much as anything.
    found: Json = MessageToDict(type(policy).pb(policy), always_print_fields_with_no_presence=True)
    return found


def _holds(found: object, target: object) -> bool:
    """Whether all that is wanted is found; what the server adds doesn't matter."""
    if isinstance(target, Mapping):
        return isinstance(found, Mapping) and all(
            _holds(found.get(key), value) for key, value in target.items()
        )
    if isinstance(target, list):
        return (
            isinstance(found, list)
            and len(found) == len(target)
            and all(map(_holds, found, target))
        )
    return found == target


def _refuse_unverified(channels: Sequence[Channel]) -> None:
    for one in channels:
        if one.is_unverified:
            raise InvalidRequest(
                f"channel {one.id} ({one.address}) is not verified: nothing would arrive",
                resource=f"channel {one.id}",
                hint=f"`gcloud-ops alerts channels verify {one.id}` sends it a code",
            )
