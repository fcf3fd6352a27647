"""All sweeps: what is known of one, and its row."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from gcloud_ops.contract import Progress, Record
from gcloud_ops.model import ExperimentStatus, Instance, Observation, Snapshot, SweepSummary
from gcloud_ops.text import one_line
from sinergym_tui.trails import Trail
from sinergym_tui.views.cells import Cell, Column, Tone, age_text, bar, money_text, plural

__all__ = [
    "STATUS_LOOK",
    "SWEEP_COLUMNS",
    "Cost",
    "Event",
    "Facts",
    "SweepState",
    "facts_of",
    "fraction_of",
    "news_of",
    "seems_interrupted",
    "summary_cells",
    "sweep_cells",
    "sweep_texts",
    "sweep_value",
]

STATUS_LOOK: Final[Mapping[ExperimentStatus, tuple[str, Tone]]] = {
    ExperimentStatus.PENDING: ("·", "muted"),
    ExperimentStatus.QUEUED: ("◌", "waiting"),
    ExperimentStatus.PROVISIONING: ("◌", "waiting"),
    ExperimentStatus.STARTING: ("◔", "waiting"),
    ExperimentStatus.WAITING: ("◔", "waiting"),
    ExperimentStatus.RETRYING: ("↻", "waiting"),
    ExperimentStatus.RUNNING: ("▶", "busy"),
    ExperimentStatus.UPLOADING: ("↑", "busy"),
    ExperimentStatus.UNREACHABLE: ("?", "bad"),
    ExperimentStatus.FINISHED: ("✓", "good"),
    ExperimentStatus.FAILED: ("✗", "bad"),
    ExperimentStatus.CANCELLED: ("⊘", "muted"),
    ExperimentStatus.LOST: ("✗", "bad"),
}
"""A sign and a tone for each status; the word stands beside them."""

_ASKED_WITHIN: Final = timedelta(seconds=30)

SWEEP_COLUMNS: Final = (
    Column(key="name", title="Sweep", width=12, rank=0, most=36),
    Column(key="state", title="State", width=12, rank=1),
    Column(key="done", title="Done", width=9, rank=2, is_right=True),
    Column(key="progress", title="Progress", width=10, rank=4),
    Column(key="running", title="Run", width=4, rank=6, is_right=True),
    Column(key="failed", title="Fail", width=4, rank=7, is_right=True),
    Column(key="instances", title="VMs", width=4, rank=3, is_right=True),
    Column(key="age", title="Age", width=4, rank=5, is_right=True),
    Column(key="spent", title="Spent", width=8, rank=8, is_right=True),
    Column(key="projected", title="To be", width=8, rank=10, is_right=True),
    Column(key="event", title="Last event", width=24, rank=9, grows=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened to a sweep."""

    at: datetime
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """US dollars: so far, and in all if it goes on like this."""

    spent: float
    projected: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is reckoned from a snapshot, once for each look."""

    total: int
    done: int
    bad: int
    running: int
    instances: int
    fraction: float
    event: Event | None = None
    cost: Cost | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """Of each experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepState:
    """A sweep as the console knows it: the listing's line, and the last look at it."""

    summary: SweepSummary
    snapshot: Snapshot | None = None
    facts: Facts | None = None
    """There where the snapshot is."""
    trails: Mapping[str, Trail] = field(default_factory=dict)
    """What was seen of its experiments, by their ids."""
    instances: Mapping[str, Instance] = field(default_factory=dict)
    """Its instances by name, as far as they were looked at."""
    trouble: str = ""
    """Why it can't be read, where it can't."""

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.summary.name

    @property
    def has_instances(self) -> bool:
        """Whether its group is there, as far as is known."""
        return self.summary.group is not None or (
            self.snapshot is not None and not self.snapshot.is_gone
        )

    @property
    def instance_count(self) -> int:
        """How many instances it has; those that can't be created now don't count."""
        if self.facts is not None:
            return self.facts.instances
        return self.summary.group.target_size if self.summary.group else 0

    def row(self, experiment: str) -> Observation | None:
        """The experiment of that id."""
        rows = self.snapshot.rows if self.snapshot else ()
        return next((row for row in rows if row.id == experiment), None)


def facts_of(
    seen: Snapshot, *, cost: Cost | None = None, costs: Mapping[str, Cost] | None = None
) -> Facts:
    """Reckon what the rows of a snapshot come to."""
    status = ExperimentStatus
    counts = seen.counts
    parts = [
        1.0 if row.status.is_final else (fraction_of(row.record.progress) if row.record else 0.0)
        for row in seen.rows
    ]
    return Facts(
        total=len(seen.rows),
        done=sum(count for each, count in counts.items() if each.is_final),
        bad=counts.get(status.FAILED, 0) + counts.get(status.LOST, 0),
        running=counts.get(status.RUNNING, 0) + counts.get(status.UPLOADING, 0),
        instances=sum(bool(row.member and row.member.status) for row in seen.rows),
        fraction=sum(part or 0.0 for part in parts) / len(parts) if parts else 0.0,
        event=_last_event(seen),
        cost=cost,
        costs=costs or {},
    )


def news_of(before: Iterable[SweepState], now: Iterable[SweepState]) -> tuple[str, Event] | None:
    """What has happened last between two looks, and to which sweep."""
    known = {state.name: state.facts.event for state in before if state.facts}
    found = [
        (state.name, event)
        for state in now
        if state.facts
        and (event := state.facts.event)
        and (old := known.get(state.name))
        and event.at > old.at
    ]
    return max(found, key=lambda each: each[1].at, default=None)


def seems_interrupted(state: SweepState, now: datetime) -> bool:
    """Whether some of its VMs were not asked for though there was time: its launcher is gone.

    A launch asks for all of them at once, when its group is there.
    """
    created = state.summary.created
    if state.snapshot is None or created is None or now - created < _ASKED_WITHIN:
        return False
    return state.snapshot.counts.get(ExperimentStatus.PENDING, 0) > 0


def sweep_cells(state: SweepState, now: datetime) -> tuple[Cell, ...]:
    """The row of a sweep, in the order of `SWEEP_COLUMNS`."""
    facts = state.facts
    word, tone = _word(state)
    instances = state.instance_count
    event = facts.event if facts else None
    cost = facts.cost if facts else None
    return (
        Cell(one_line(state.name), "strong"),
        Cell(word, tone),
        _done(state),
        Cell(bar(facts.fraction) if facts else "", tone if tone in {"busy", "good"} else ""),
        _count(facts.running if facts else None, "busy"),
        _count(facts.bad if facts else None, "bad"),
        Cell(str(instances) if state.has_instances else "-", "" if instances else "muted"),
        Cell(age_text(state.summary.created, now), "muted"),
        Cell(money_text(cost.spent if cost else None), "" if cost else "muted"),
        Cell(money_text(cost.projected if cost else None), "muted"),
        Cell(f"{age_text(event.at, now)} ago: {event.what}" if event else "-", "muted"),
    )


def summary_cells(state: SweepState) -> list[Cell]:
    """One sweep in a line: how many of what, how far, what it costs."""
    seen, facts = state.snapshot, state.facts
    if seen is None or facts is None:
        return [Cell(plural(state.summary.experiments, "experiment"), "strong")]
    cells = [Cell(plural(facts.total, "experiment"), "strong")]
    cells.append(Cell(bar(facts.fraction), "busy" if facts.done < facts.total else ""))
    for status, count in seen.counts.items():
        sign, tone = STATUS_LOOK[status]
        cells.append(Cell(f"{sign} {count} {status}", tone))
    cells.append(Cell(plural(facts.instances, "VM") if state.has_instances else "no VMs", "muted"))
    if facts.cost:
        to_be = facts.cost.projected
        of = f" of {money_text(to_be)}" if to_be is not None and facts.done < facts.total else ""
        cells.append(Cell(f"{money_text(facts.cost.spent)}{of}", "strong"))
    return cells


def sweep_texts(state: SweepState) -> dict[str, str]:
    """What a query can find of a sweep, by column."""
    facts = state.facts
    return {
        "": state.name,
        "name": state.name,
        "state": _word(state)[0],
        "event": facts.event.what if facts and facts.event else "",
    }


def sweep_value(state: SweepState, column: str) -> object:
    """What a sweep is ordered by."""
    facts = state.facts
    cost = facts.cost if facts else None
    match column:
        case "name":
            return state.name
        case "state":
            return _word(state)[0][2:]
        case "age":
            created = state.summary.created
            return -created.timestamp() if created else None
        case "instances":
            return state.instance_count
        case "spent":
            return cost.spent if cost else None
        case "projected":
            return cost.projected if cost else None
        case "event":
            return facts.event.at.timestamp() if facts and facts.event else None
    if facts is None:
        return None
    return {
        "done": facts.done,
        "progress": facts.fraction,
        "running": facts.running,
        "failed": facts.bad,
    }.get(column)


def fraction_of(progress: Progress) -> float | None:
    """How far it is; None where that can't be told: anybody may write anything as a number."""
    try:
        if progress.fraction is not None:
            return max(0.0, min(1.0, progress.fraction))
        if progress.episode is not None and progress.episodes:
            return max(0.0, min(1.0, progress.episode / progress.episodes))
    except (TypeError, ValueError, OverflowError):
        return None
    return None


def _word(state: SweepState) -> tuple[str, Tone]:
    seen, facts = state.snapshot, state.facts
    if state.trouble:
        return "? unreadable", "bad"
    if seen is None or facts is None:
        return "… looking", "muted"
    if facts.done == facts.total:
        if seen.is_good:
            return "✓ finished", "good"
        return ("✗ failed", "bad") if facts.bad else ("⊘ cancelled", "muted")
    if facts.running:
        return "▶ running", "busy"
    return ("◌ starting", "waiting") if seen.group_exists else ("? no group", "waiting")


def _done(state: SweepState) -> Cell:
    facts = state.facts
    if facts is None:
        return Cell(f"?/{state.summary.experiments}", "muted")
    bad = f" {facts.bad}✗" if facts.bad else ""
    return Cell(f"{facts.done}/{facts.total}{bad}", "bad" if bad else "")


def _count(count: int | None, tone: Tone) -> Cell:
    return Cell(str(count), tone) if count else Cell("-", "muted")


def _last_event(seen: Snapshot) -> Event:
    newest = Event(at=seen.manifest.created, what="launched")
    for row in seen.rows:
        if row.record is None:
            continue
        found = _record_event(row, row.record)
        if found is not None and found.at > newest.at:
            newest = found
    return newest


def _record_event(row: Observation, record: Record) -> Event | None:
    number = row.id.rpartition("-")[2]
    if record.ended is not None:
        kind = record.exit.kind if record.exit else ""
        why = f" ({one_line(kind)})" if kind and not row.status.is_good else ""
        return Event(at=record.ended, what=one_line(f"{number} {row.status}{why}"))
    if record.started is None:
        return None
    before = record.history[-1] if record.history else None
    what = f"{number} attempt {record.attempt}" + (f" after {before.kind}" if before else "")
    return Event(at=record.started, what=one_line(what))
