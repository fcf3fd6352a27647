"""The core of the console, without a terminal: looks at the fleet, and changes it when asked.

    observe   one frozen `FleetView` after the other: the sweeps, and the selected one closely
    plan      read a sweep file and check everything; creates nothing
    launch    events until every experiment has its command
    cancel, delete
    follow    an experiment's log, from its history to live

One thread calls `observe`. A look that fails gives the last view again, with the trouble's reason
and the old time: what was seen stays to be seen. All changes are refused in a read-only fleet.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from gcloud_ops.errors import GcloudOpsError, InvalidRequest, NotFound, Unavailable
from gcloud_ops.model import Snapshot, SweepSummary
from gcloud_ops.text import one_line
from sinergym_tui.rows import SweepState

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients
    from gcloud_ops.launching import LaunchEvent, LaunchPlan
    from gcloud_ops.logs import LogChunk
    from gcloud_ops.settings import Settings
    from gcloud_ops.sweeps import SweepWatch

__all__ = ["Fleet", "FleetView", "describe", "explain"]

_LISTED_EVERY = 4.0  # seconds between two listings of all sweeps
_LOG_LINES = 20_000  # of a log's history
_LOG_RETRY = 2.0  # seconds until the next try to read a log when the cloud doesn't answer
_OTHERS_EVERY = 6.0  # seconds between two looks at a running sweep that isn't selected


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

    @property
    def snapshot(self) -> Snapshot | None:
        """The selected sweep."""
        state = self.sweep(self.selected)
        return state.snapshot if state else None

    def sweep(self, name: str) -> SweepState | None:
        """The sweep of that name."""
        return next((state for state in self.sweeps if state.name == name), None)


@dataclass(slots=True)
class _Looked:
    """What is kept of a sweep between two looks."""

    created: datetime | None
    watch: "SweepWatch | None" = None
    snapshot: Snapshot | None = None
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
            self._look_at(name)
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
                looked.snapshot = None
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

    def _look_at(self, name: str) -> None:
        from gcloud_ops.sweeps import SweepWatch

        looked = self._looked[name]
        looked.at = time.monotonic()
        try:
            looked.watch = looked.watch or SweepWatch(name, self._clients)
            looked.snapshot = looked.watch.refresh()
            looked.trouble = ""
        except (InvalidRequest, NotFound) as error:
            # One broken manifest, or one deleted since the listing, hides no other sweep.
            looked.trouble = explain(error)

    def _state(self, summary: SweepSummary) -> SweepState:
        looked = self._looked[summary.name]
        return SweepState(summary=summary, snapshot=looked.snapshot, trouble=looked.trouble)

    # ------------------------------------------------------------------ change

    def plan(self, file: Path, *, name: str | None = None) -> "LaunchPlan":
        """Read a sweep file and check all that a launch needs; creates nothing.

        Raises:
            GcloudOpsError: The file isn't right, or the cloud has an objection.
        """
        from gcloud_ops import launching
        from gcloud_ops.sweepfile import read_sweep

        self._refuse_if_read_only("launch a sweep")
        return launching.plan(read_sweep(file.expanduser(), name=name), self._clients)

    def launch(self, planned: "LaunchPlan") -> "Iterator[LaunchEvent]":
        """Do what the plan says; see `gcloud_ops.sweeps.launch`."""
        from gcloud_ops import launching

        self._refuse_if_read_only("launch a sweep")
        return launching.launch(planned, self._clients)

    def cancel(self, name: str, *, on_step: Callable[[str], None]) -> Snapshot:
        """Take away the sweep's instances; see `gcloud_ops.sweeps.cancel`."""
        from gcloud_ops import sweeps

        self._refuse_if_read_only(f"cancel sweep {name}")
        return sweeps.cancel(name, self._clients, on_step=on_step)

    def delete(self, name: str, *, on_step: Callable[[str], None]) -> int:
        """Remove the sweep with its results; returns how many objects those were."""
        from gcloud_ops import sweeps

        self._refuse_if_read_only(f"delete sweep {name}")
        return sweeps.delete(name, self._clients, force=True, on_step=on_step)

    def _refuse_if_read_only(self, what: str) -> None:
        if self.read_only:
            raise InvalidRequest(
                f"can't {what}: the console is read-only",
                hint="start sinergym-tui without --read-only",
            )

    # --------------------------------------------------------------------- log

    def follow(
        self, sweep: str, experiment: str, *, stop: threading.Event
    ) -> "Iterator[LogChunk]":
        """The experiment's log: its last 20,000 lines, then what comes, until `stop` is set.

        Raises:
            GcloudOpsError: There is no such log, or the bucket refused.
        """
        from gcloud_ops import logs

        has_begun = False
        while not stop.is_set():
            try:
                for chunk in logs.follow(
                    sweep, self._clients, [experiment], tail=_LOG_LINES, stop=stop
                ):
                    has_begun = True
                    yield chunk
            except Unavailable:
                if has_begun:
                    raise
                stop.wait(_LOG_RETRY)
            else:
                return


def explain(error: Exception) -> str:
    """An error in one line, safe to show."""
    if isinstance(error, GcloudOpsError):
        return one_line(str(error), limit=600)
    return one_line(f"{type(error).__name__}: {error}", limit=600)


def describe(event: "LaunchEvent") -> str:
    """A launch's event as the end of a sentence that begins with the sweep's name."""
    from gcloud_ops import launching

    match event:
        case launching.BucketMade():
            text = f"bucket {event.bucket} is made ({event.location})"
        case launching.GroupMade():
            text = f"the instance group is there, in {event.zone}"
        case launching.InstancesRequested():
            text = f"{event.count} instances are asked for"
        case launching.InstanceUp():
            text = f"{event.experiment} is up"
        case launching.Waiting():
            text = "waiting for " + "; ".join(
                f"{reason} ({count})" for reason, count in event.reasons.items()
            )
            text = text if event.reasons else "nothing is waited for any more"
        case launching.CommandSent():
            text = f"{event.experiment} has its command"
        case launching.DispatchFailed():
            text = f"{event.experiment} got no command: {event.error}"
        case launching.Stalled():
            text = f"nothing has moved for {event.seconds:.0f} s, so the launch stops waiting"
        case launching.GroupGone():
            text = "the instance group is gone: the sweep was cancelled"
        case launching.Launched():
            text = f"launched: {event.sent} have their command"
            text += f", {event.failed} failed" if event.failed else ""
            text += f", {event.waiting} still wait" if event.waiting else ""
    return one_line(text)
