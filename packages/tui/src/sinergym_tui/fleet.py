"""The core of the console, without a terminal: looks at the fleet.

    observe        one frozen `FleetView` after the other: all sweeps, and the selected one closely
    examine        what is asked of one experiment only while it is looked at
    notices        incidents, and what the local cloud has sent
    follow         logs, from their history to live

One thread calls `observe`. A look that fails gives the last view again, with the trouble's reason
and the old time: what was seen stays to be seen. Changes are in `changes`, and each of them asks
`for_change` here first, which refuses all where the fleet is read-only.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from gcloud_ops.errors import GcloudOpsError, InvalidRequest, NotFound, Unavailable
from gcloud_ops.model import Instance, Snapshot, SweepSummary
from gcloud_ops.text import one_line
from sinergym_tui.trails import Trail, follow_trails
from sinergym_tui.views.experiment import Extras, curve_of
from sinergym_tui.views.incidents import Notice, incident_notice, message_notice
from sinergym_tui.views.sweeps import Cost, Facts, SweepState, facts_of

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients
    from gcloud_ops.logs import LogChunk
    from gcloud_ops.settings import Settings
    from gcloud_ops.sweeps import SweepWatch

__all__ = ["MOST_LOGS", "Fleet", "FleetView", "explain"]

MOST_LOGS = 64
"""Logs that are read at once, at most."""

_LISTED_EVERY = 4.0  # seconds between two listings of all sweeps
_OTHERS_EVERY = 6.0  # seconds between two looks at a running sweep that isn't selected
_ADDRESSES_EVERY = 60.0  # seconds between two listings of the selected sweep's instances
_ADDRESSES_SOON = 4.0  # the same while there are instances whose address isn't known
_LOG_LINES = 20_000  # of the histories of all logs that are read together
_LOG_RETRY = 2.0  # seconds until the next try to read a log when the cloud doesn't answer


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """What the console shows: one frozen view of all sweeps."""

    sweeps: tuple[SweepState, ...] = ()
    """Newest first."""
    selected: str = ""
    """The sweep that was looked at closely; "" where there is none."""
    taken: datetime | None = None
    """When the cloud answered last; None: not yet."""
    seconds: float = 0.0
    """How long it took to answer."""
    trouble: str = ""
    """Why the newest look failed; "" when it didn't."""

    def sweep(self, name: str) -> SweepState | None:
        """The sweep of that name."""
        return next((state for state in self.sweeps if state.name == name), None)


@dataclass(slots=True)
class _Looked:
    """What is kept of a sweep between two looks."""

    created: datetime | None
    watch: "SweepWatch | None" = None
    snapshot: Snapshot | None = None
    facts: Facts | None = None
    trails: Mapping[str, Trail] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)
    instances_at: float = float("-inf")
    trouble: str = ""
    at: float = float("-inf")

    @property
    def is_over(self) -> bool:
        return self.snapshot is not None and self.snapshot.is_gone and self.snapshot.is_final


class Fleet:
    """All sweeps of one bucket.

    Args:
        clients: The cloud.
        read_only: Refuse every change.
    """

    def __init__(self, clients: "Clients", *, read_only: bool = False) -> None:
        self._clients = clients
        self.read_only = read_only
        self._view = FleetView()
        self._looked: dict[str, _Looked] = {}
        self._summaries: tuple[SweepSummary, ...] = ()
        self._listed_at = float("-inf")

    @classmethod
    def connect(cls, settings: "Settings", *, read_only: bool = False) -> Self:
        """A fleet for these settings; imports Google's clients, which takes a second or two.

        Raises:
            GcloudOpsError: The settings don't say which project.
        """
        from gcloud_ops import sweeps  # noqa: F401  # costs time here, not at the first look
        from gcloud_ops.clients import Clients

        clients = Clients.connect(settings)
        clients.settings.require_project()
        return cls(clients, read_only=read_only)

    @property
    def settings(self) -> "Settings":
        """Which cloud this is."""
        return self._clients.settings

    @property
    def clients(self) -> "Clients":
        """The cloud, for looking; who changes something takes `for_change`."""
        return self._clients

    def for_change(self, what: str) -> "Clients":
        """The cloud, for changing something.

        Args:
            what: The change, as in "can't {what}".

        Raises:
            InvalidRequest: The fleet is read-only.
        """
        if self.read_only:
            raise InvalidRequest(
                f"can't {what}: the console is read-only",
                hint="start sinergym-tui without --read-only",
            )
        return self._clients

    # -------------------------------------------------------------------- look

    def observe(self, selected: str = "", *, afresh: bool = False) -> FleetView:
        """Look once; never raises: trouble is part of the view.

        Args:
            selected: The sweep to look at closely; the newest one if it isn't there.
            afresh: List the sweeps even if that was done just now.
        """
        began = time.monotonic()
        try:
            sweeps, name = self._look(selected, afresh=afresh)
        except Exception as error:  # whatever it is, the screen keeps what it has and says why
            self._view = replace(self._view, trouble=explain(error))
            return self._view
        self._view = FleetView(
            sweeps=sweeps,
            selected=name,
            taken=datetime.now(UTC),
            seconds=time.monotonic() - began,
        )
        return self._view

    def _look(self, selected: str, *, afresh: bool) -> tuple[tuple[SweepState, ...], str]:
        from gcloud_ops import sweeps

        now = time.monotonic()
        if afresh or not self._summaries or now - self._listed_at >= _LISTED_EVERY:
            self._summaries = sweeps.list_sweeps(self._clients)
            self._listed_at = now
            self._keep_what_is_listed()
        names = [summary.name for summary in self._summaries]
        name = selected if selected in names else (names[0] if names else "")
        if name:
            self._look_at(name, closely=True)
        if other := self._most_in_need_of_a_look(besides=name, now=now):
            self._look_at(other)
        return tuple(map(self._state, self._summaries)), name

    def _keep_what_is_listed(self) -> None:
        """Forget sweeps that were deleted, also those whose name was taken again since."""
        kept = {}
        for summary in self._summaries:
            looked = self._looked.get(summary.name)
            if looked is None or looked.created != summary.created:
                looked = _Looked(created=summary.created)
            elif looked.is_over and summary.group is not None:
                looked.at = float("-inf")
                looked.snapshot = looked.facts = None
            kept[summary.name] = looked
        self._looked = kept

    def _most_in_need_of_a_look(self, *, besides: str, now: float) -> str | None:
        """One sweep at a time, so that many sweeps cost no more calls a second than few.

        What is over is not looked at again: nothing changes there without somebody's doing.
        """
        due = [
            (looked.at, name)
            for name, looked in self._looked.items()
            if name != besides and not looked.is_over and now - looked.at >= _OTHERS_EVERY
        ]
        return min(due)[1] if due else None

    def _look_at(self, name: str, *, closely: bool = False) -> None:
        from gcloud_ops.sweeps import SweepWatch

        looked = self._looked[name]
        looked.at = time.monotonic()
        try:
            looked.watch = looked.watch or SweepWatch(name, self._clients)
            seen = looked.watch.refresh()
            trails, facts = follow_trails(looked.trails, seen), _facts(seen)
        except (InvalidRequest, NotFound) as error:
            # One broken manifest, or one deleted since the listing, hides no other sweep.
            looked.trouble = explain(error)
            return
        except GcloudOpsError:
            raise  # it is the cloud
        except Exception as error:  # nor does one that holds what nobody has thought of
            looked.trouble = explain(error)
            return
        looked.trouble = ""
        looked.snapshot, looked.facts, looked.trails = seen, facts, trails
        if closely:
            self._look_for_addresses(looked, seen)

    def _look_for_addresses(self, looked: _Looked, seen: Snapshot) -> None:
        up = [row.id for row in seen.rows if row.member is not None and row.member.is_up]
        all_known = all(name in looked.instances for name in up)
        pause = _ADDRESSES_EVERY if all_known else _ADDRESSES_SOON
        if not up or looked.at - looked.instances_at < pause:
            return
        from gcloud_ops import instances

        looked.instances_at = looked.at
        zone = None if seen.manifest.zones else seen.manifest.zone
        found = instances.list_instances(self._clients, group=seen.name, zone=zone)
        looked.instances = {instance.name: instance for instance in found}

    def _state(self, summary: SweepSummary) -> SweepState:
        looked = self._looked[summary.name]
        return SweepState(
            summary=summary,
            snapshot=looked.snapshot,
            facts=looked.facts,
            trails=looked.trails,
            instances=looked.instances,
            trouble=looked.trouble,
        )

    # ----------------------------------------------------------------- examine

    def examine(self, sweep: str, experiment: str) -> Extras:
        """What is in the bucket of an experiment, and how its reward went; two or three calls.

        Its containers are asked for over SSH, where it has a VM. What can't be told is left out,
        and `trouble` says why.
        """
        from gcloud_ops import containers, objects

        bucket = self.settings.bucket_name
        folder = f"{sweep}/{experiment}/output/"
        try:
            found = objects.list_objects(self._clients, bucket, folder)
            outputs = tuple((entry.name.removeprefix(folder), entry.size) for entry in found)
            table = next((name for name, _ in outputs if name == "progress.csv"), None)
            curve = None
            if table is not None:
                content, _ = objects.read_object(
                    self._clients, bucket, folder + table, resource=f"{experiment}: {table}"
                )
                curve = curve_of(content)
            state = self._view.sweep(sweep)
            if state is None or experiment not in state.instances:
                return Extras(outputs=outputs, curve=curve)
            answer = containers.list_containers(self._clients, sweep, (experiment,))
            found_containers = answer.get(experiment, ())
        except GcloudOpsError as error:
            return Extras(trouble=explain(error))
        if isinstance(found_containers, GcloudOpsError):
            return Extras(outputs=outputs, curve=curve, trouble=explain(found_containers))
        return Extras(outputs=outputs, curve=curve, containers=found_containers)

    def notices(self) -> tuple[Notice, ...]:
        """The incidents of our policies, and what the local cloud has sent, the newest first.

        Raises:
            GcloudOpsError: Monitoring can't be asked.
        """
        from gcloud_ops.alerts import incidents

        if not self.settings.has_monitoring:
            return ()
        found = [incident_notice(one) for one in incidents.list_incidents(self._clients)]
        if self.settings.endpoint is not None:
            messages = incidents.inbox(self.settings.endpoint)
            found += [message_notice(one, number) for number, one in enumerate(messages)]
        never = datetime.min.replace(tzinfo=UTC)
        return tuple(sorted(found, key=lambda one: one.at or never, reverse=True))

    # --------------------------------------------------------------------- log

    def follow(
        self, sweep: str, experiments: Sequence[str], *, stop: threading.Event
    ) -> "Iterator[LogChunk]":
        """Logs of some experiments: their last 20,000 lines, then what comes, until `stop` is set.

        Raises:
            GcloudOpsError: There is no such log, or the bucket refused.
        """
        from gcloud_ops import logs

        tail = max(200, _LOG_LINES // max(1, len(experiments)))
        has_begun = False
        while not stop.is_set():
            try:
                for chunk in logs.follow(sweep, self._clients, experiments, tail=tail, stop=stop):
                    has_begun = True
                    yield chunk
            except Unavailable:
                if has_begun:
                    raise
                stop.wait(_LOG_RETRY)
            else:
                return


def _facts(seen: Snapshot) -> Facts:
    """With what it costs, where its price is known."""
    if seen.manifest.machine.hourly is None:
        return facts_of(seen)
    from gcloud_ops import costs

    found = costs.so_far(seen, seen.taken)
    return facts_of(
        seen,
        cost=Cost(spent=found.spent or 0.0, projected=found.projected),
        costs={
            name: Cost(spent=one.spent or 0.0, projected=one.projected)
            for name, one in found.by_experiment.items()
        },
    )


def explain(error: Exception) -> str:
    """An error in one line, safe to show."""
    if isinstance(error, GcloudOpsError):
        return one_line(str(error), limit=600)
    return one_line(f"{type(error).__name__}: {error}", limit=600)
