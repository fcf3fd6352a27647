"""Incidents: what Monitoring has noticed. And a real signal, to see that it arrives.

References: `projects.alerts` of Monitoring's v3 (REST; its Python client has no such method),
https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alerts
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from gcloud_ops.alerts import wanted
from gcloud_ops.alerts.policies import Policy, find_policy, list_policies
from gcloud_ops.clients import Clients
from gcloud_ops.errors import GcloudOpsError, InvalidRequest, Unavailable
from gcloud_ops.signals import EXPERIMENT_FINISHED, write_points
from gcloud_ops.text import clean

__all__ = ["TEST_SWEEP", "Incident", "Signal", "await_incident", "list_incidents", "signal"]

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
        hint="a test of `gcloud-ops alerts test`: nothing has run",
    )
    write_points(clients, EXPERIMENT_FINISHED, [labels])
    return Signal(experiment=experiment, written=now, policy=policy)


def await_incident(
    clients: Clients, written: Signal, *, patience: float = TEST_PATIENCE
) -> Incident:
    """Wait until the incident that a signal opens is there.

    Raises:
        Unavailable: It isn't after `patience` seconds.
    """
    deadline, pause = time.monotonic() + patience, 0.25
    while True:
        for one in list_incidents(clients):
            if one.experiment == written.experiment:
                return one
        if time.monotonic() + pause > deadline:
            raise Unavailable(
                f"no incident shows the signal after {patience:.0f} s",
                resource="incidents",
                hint="look again with `gcloud-ops alerts incidents`",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 10.0)


_NEVER: Final = datetime.min.replace(tzinfo=UTC)


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
