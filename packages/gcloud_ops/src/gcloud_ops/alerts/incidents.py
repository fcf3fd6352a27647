"""Incidents: what Monitoring has noticed. And a real signal, to see that it arrives.

References: `projects.alerts` of Monitoring's v3 (REST; its Python client has no such method),
https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alerts
"""

import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from gcloud_ops.alerts import wanted
from gcloud_ops.alerts.policies import Policy, find_policy, list_policies
from gcloud_ops.clients import CALL_TIMEOUT, Clients
from gcloud_ops.errors import GcloudOpsError, InvalidRequest, Unavailable
from gcloud_ops.signals import EXPERIMENT_FINISHED, hint, reward, write_points
from gcloud_ops.text import clean

__all__ = [
    "TEST_SWEEP",
    "Delivery",
    "Incident",
    "Signal",
    "await_incident",
    "deliveries",
    "inbox",
    "list_incidents",
    "signal",
]

TEST_SWEEP: Final = "gcloud-ops-test"
"""The sweep that a test's signal names."""

TEST_PATIENCE: Final = 300.0
"""Seconds for an incident to open: Monitoring evaluates every minute or so, on late data."""

_PAGE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that one of our policies has noticed."""

    name: str
    """`projects/P/alerts/ID`."""
    opened: datetime | None
    closed: datetime | None
    state: str
    """`OPEN` or `CLOSED`: half an hour after the last point."""
    policy: str
    """What the policy announces: `experiment-failed`, `sweep-finished`..."""
    sweep: str
    experiment: str
    """"" of what is told of a whole sweep."""
    status: str
    labels: Mapping[str, str]
    """All of the metric's labels that the incident kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A test's signal that was written."""

    experiment: str
    """A name that no other signal has."""
    written: datetime
    policy: Policy
    """Whose incident it opens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message of the local cloud, as its inbox has it."""

    channel: str
    """`projects/P/notificationChannels/ID`."""
    to: str
    subject: str
    state: str
    """`delivered`, `inbox` (it stays there), `failed`..."""
    reason: str


def list_incidents(
    clients: Clients, *, only_open: bool = False, limit: int = _PAGE
) -> list[Incident]:
    """The incidents of our policies, the newest first.

    Args:
        clients: The cloud.
        only_open: Leave out those that are closed.
        limit: How many, at most.
    """
    found: list[Incident] = []
    token: str | None = None
    while len(found) < limit:
        request = (
            clients.api("monitoring", "v3")
            .projects()
            .alerts()
            .list(
                parent=f"projects/{clients.project}",
                orderBy="open_time desc",
                pageSize=_PAGE,
                **({"pageToken": token} if token else {}),
            )
        )
        reply = clients.execute("incidents", request)
        for one in reply.get("alerts", []):
            incident = _incident(one)
            if incident is not None and (not only_open or incident.state == "OPEN"):
                found.append(incident)
        token = reply.get("nextPageToken")
        if not token:
            break
    newest = sorted(found, key=lambda one: one.opened or _NEVER, reverse=True)
    return newest[:limit]


def signal(clients: Clients) -> Signal:
    """Write a real signal: an experiment of the sweep `gcloud-ops-test` that has finished.

    Raises:
        NotFound: The policy is not set up.
        InvalidRequest: It is disabled, or tells nobody.
    """
    policy = find_policy(list_policies(clients), "experiment-finished")
    if not policy.enabled:
        raise InvalidRequest(
            f"policy {policy.which} is disabled: nothing would come of it",
            resource=f"alert policy {policy.which}",
            hint=f"`gcloud-ops alerts policies enable {policy.which}`",
        )
    if not policy.channels:
        raise InvalidRequest(
            f"policy {policy.which} has no channel: nobody would be told",
            resource=f"alert policy {policy.which}",
            hint="`gcloud-ops alerts policies setup --channel you@example.org`",
        )
    now = datetime.now(UTC)
    experiment = f"{TEST_SWEEP}-{now:%Y%m%d%H%M%S%f}"
    labels = wanted.experiment_labels(
        sweep=TEST_SWEEP,
        experiment=experiment,
        status="finished",
        kind="ok",
        notify="each",
        duration="0 s",
        mean_reward=reward(None),
        hint=hint("a test of `gcloud-ops alerts test`: nothing has run"),
    )
    write_points(clients, EXPERIMENT_FINISHED, [labels])
    return Signal(experiment=experiment, written=now, policy=policy)


def await_incident(
    clients: Clients,
    written: Signal,
    *,
    patience: float = TEST_PATIENCE,
    waiting: Callable[[float], None] = lambda _passed: None,
) -> Incident:
    """Wait until the incident that a signal opens is there.

    Args:
        clients: The cloud.
        written: The signal.
        patience: How many seconds, at most.
        waiting: Told before each pause how many seconds have passed; what it raises ends the wait.

    Raises:
        Unavailable: It isn't after `patience` seconds.
    """
    begin, pause = time.monotonic(), 0.25
    while True:
        for one in list_incidents(clients):
            if one.experiment == written.experiment:
                return one
        passed = time.monotonic() - begin
        if passed + pause > patience:
            raise Unavailable(
                f"no incident shows the signal after {patience:.0f} s",
                resource="incidents",
                hint="look again with `gcloud-ops alerts incidents`",
            )
        waiting(passed)
        time.sleep(pause)
        pause = min(pause * 1.5, 10.0)


def deliveries(clients: Clients, written: Signal, *, patience: float = 10.0) -> list[Delivery]:
    """What the local cloud has sent of a signal; of Google, nothing can be asked.

    Args:
        clients: The cloud.
        written: The signal, whose incident is there.
        patience: Seconds to wait until every channel of its policy has its message.
    """
    settings = clients.settings
    if settings.endpoint is None:
        return []
    deadline, expected = time.monotonic() + patience, len(written.policy.channels)
    while True:
        found = [
            Delivery(
                channel=str(one.get("channel", "")),
                to=clean(str(one.get("to", ""))),
                subject=clean(str(one.get("subject", ""))),
                state=str(one.get("state", "")),
                reason=clean(str(one.get("reason", ""))),
            )
            for one in inbox(settings.endpoint)
            if written.experiment in f"{one.get('subject')} {one.get('body')}"
        ]
        settled = [one for one in found if one.state != "sending"]
        if len(settled) >= expected or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def inbox(endpoint: str) -> list[Mapping[str, Any]]:
    """The emulator's page of what it sent; empty where it has none."""
    # Asked directly, whatever proxy the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/emulator/inbox", timeout=CALL_TIMEOUT) as reply:
            content = json.load(reply)
    except (OSError, ValueError):
        return []
    entries = content.get("messages", []) if isinstance(content, Mapping) else content
    return [one for one in entries if isinstance(one, Mapping)]


def _incident(found: Mapping[str, Any]) -> Incident | None:
    """None of a policy that isn't ours."""
    policy = found.get("policy") or {}
    labels = policy.get("userLabels") or {}
    if not wanted.MADE_BY.items() <= labels.items():
        return None
    kept = {
        str(key): clean(str(value))
        for key, value in ((found.get("metric") or {}).get("labels") or {}).items()
    }
    return Incident(
        name=str(found.get("name", "")),
        opened=_time(found.get("openTime")),
        closed=_time(found.get("closeTime")),
        state=str(found.get("state", "")),
        policy=clean(str(labels.get(wanted.WHICH_LABEL) or policy.get("displayName", ""))),
        sweep=kept.get("sweep", ""),
        experiment=kept.get("experiment", ""),
        status=kept.get("status", ""),
        labels=kept,
    )


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError as error:
        raise GcloudOpsError(f"incidents: {clean(str(text))!r} is no time") from error
