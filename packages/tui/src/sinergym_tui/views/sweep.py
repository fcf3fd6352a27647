"""One sweep: a row for each experiment."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from gcloud_ops.contract import Progress
from gcloud_ops.model import ExperimentStatus, Observation
from gcloud_ops.text import one_line
from sinergym_tui.trails import Trail
from sinergym_tui.views.cells import (
    Cell,
    Column,
    bar,
    count_text,
    duration_text,
    money_text,
    number_text,
    sparkline,
)
from sinergym_tui.views.sweeps import STATUS_LOOK, SweepState, fraction_of

__all__ = [
    "EXPERIMENT_COLUMNS",
    "Row",
    "container_word",
    "experiment_cells",
    "experiment_rows",
    "experiment_texts",
    "experiment_value",
    "reason",
]

_TREND: Final = 10  # the latest rewards that are drawn

EXPERIMENT_COLUMNS: Final = (
    Column(key="id", title="Experiment", width=10, rank=0),
    Column(key="status", title="Status", width=14, rank=1),
    Column(key="progress", title="Progress", width=16, rank=2, most=20),
    Column(key="pace", title="Steps/s", width=7, rank=7, is_right=True),
    Column(key="reward", title="Reward", width=8, rank=3, is_right=True),
    Column(key="trend", title="Trend", width=_TREND, rank=8),
    Column(key="beat", title="Beat", width=4, rank=4, is_right=True),
    Column(key="instance", title="Instance", width=8, rank=5, most=12),
    Column(key="container", title="Container", width=9, rank=6),
    Column(key="attempt", title="Try", width=3, rank=9, is_right=True),
    Column(key="cost", title="Cost", width=7, rank=11, is_right=True),
    Column(key="host", title="Host", width=14, rank=12, most=15),
    Column(key="reason", title="Reason", width=16, rank=10, grows=True),
)


class Row(NamedTuple):
    """An experiment, with what the console knows of it besides."""

    seen: Observation
    trail: Trail | None
    host: str
    """Where it runs: an address, a zone, or ""."""
    cost: float | None


def experiment_rows(state: SweepState | None) -> list[Row]:
    """The rows of a sweep, in the manifest's order."""
    if state is None or state.snapshot is None:
        return []
    trails, instances = state.trails, state.instances
    costs = state.facts.costs if state.facts else {}
    return [
        Row(
            row,
            trails.get(row.id),
            _host(row, instances[row.id].address if row.id in instances else ""),
            costs[row.id].spent if row.id in costs else None,
        )
        for row in state.snapshot.rows
    ]


def experiment_cells(row: Row, now: datetime) -> tuple[Cell, ...]:
    """The row of an experiment, in the order of `EXPERIMENT_COLUMNS`."""
    seen, trail = row.seen, row.trail
    sign, tone = STATUS_LOOK[seen.status]
    record, member = seen.record, seen.member
    progress = record.progress if record else Progress()
    is_live = record is not None and not seen.status.is_final
    pace = _pace(row)
    return (
        Cell(one_line(seen.id), "strong"),
        Cell(f"{sign} {seen.status}", tone),
        Cell(_progress(progress, seen.status), tone if seen.status.is_final else "busy"),
        Cell(count_text(pace) if pace is not None else "-", "" if pace else "muted"),
        Cell(number_text(progress.mean_reward)),
        Cell(sparkline(trail.rewards, _TREND) if trail else "", "busy"),
        Cell(
            _calm_age(record.updated, now) if record and is_live else "-",
            "bad" if seen.status is ExperimentStatus.UNREACHABLE else "muted",
        ),
        Cell(
            one_line(member.status or member.action) if member else "-", "" if member else "muted"
        ),
        Cell(container_word(seen), "" if record else "muted"),
        Cell(str(record.attempt) if record and record.attempt else "-", "muted"),
        Cell(money_text(row.cost), "" if row.cost else "muted"),
        Cell(row.host or "-", "muted"),
        Cell(reason(seen), "bad" if tone == "bad" else "muted"),
    )


def experiment_texts(row: Row) -> dict[str, str]:
    """What a query can find of an experiment, by column."""
    seen = row.seen
    record = seen.record
    end = record.exit if record else None
    return {
        "": seen.id,
        "id": seen.id,
        "status": str(seen.status),
        "instance": _instance(row),
        "container": container_word(seen),
        "attempt": str(record.attempt) if record else "",
        "host": row.host,
        "reason": reason(seen),
        "kind": str(end.kind) if end else "",
        "command": seen.experiment.command,
    }


def experiment_value(row: Row, column: str) -> object:
    """What an experiment is ordered by."""
    value = _VALUES.get(column)
    return value(row) if value else None


def reason(row: Observation) -> str:
    """Why the experiment is where it is, in one line; "" where there is nothing to add."""
    end = row.record.exit if row.record else None
    text = row.reason
    if row.status is ExperimentStatus.FAILED and end is not None:
        how = end.signal or (f"exit {end.code}" if end.code is not None else str(end.kind))
        text = f"{how}: {text}" if text else str(how)
    return one_line(text)


def container_word(row: Observation) -> str:
    """The container's state, as its runner reports it, or why there is no report."""
    record, member = row.record, row.member
    if member is not None and not row.status.is_final:
        if row.status is ExperimentStatus.UNREACHABLE:
            return "silent"
        if not member.is_up or row.status is ExperimentStatus.STARTING:
            return "not up"
    return one_line(record.state) if record else "-"


def _calm_age(moment: datetime | None, now: datetime) -> str:
    """An age in steps of five seconds: a table that ticks like a clock reads badly, and costs."""
    if moment is None:
        return "-"
    return duration_text((now - moment).total_seconds() // 5 * 5)


def _host(row: Observation, address: str) -> str:
    if row.member is None:
        return ""
    return one_line(address or row.member.zone)


def _progress(progress: Progress, status: ExperimentStatus) -> str:
    fraction = 1.0 if status is ExperimentStatus.FINISHED else fraction_of(progress)
    episodes = ""
    if progress.episode is not None:
        of = "" if progress.episodes is None else f"/{progress.episodes}"
        episodes = one_line(f"{progress.episode}{of}", limit=9)
    if fraction is None:
        return episodes or "-"
    return f"{bar(fraction)} {episodes}".rstrip()


def _pace(row: Row) -> float | None:
    is_over = row.seen.status.is_final
    return row.trail.pace if row.trail and not is_over else None


def _gain(row: Row) -> float | None:
    rewards = row.trail.rewards if row.trail else ()
    return rewards[-1] - rewards[0] if rewards else None


def _fraction(row: Row) -> float | None:
    if row.seen.status is ExperimentStatus.FINISHED:
        return 1.0
    return fraction_of(row.seen.record.progress) if row.seen.record else None


def _instance(row: Row) -> str:
    member = row.seen.member
    return (member.status or member.action) if member else ""


def _beat(row: Row) -> float | None:
    updated = row.seen.record.updated if row.seen.record else None
    return -updated.timestamp() if updated else None


_STATUSES: Final = {status: place for place, status in enumerate(ExperimentStatus)}
_VALUES: Final[Mapping[str, Callable[[Row], object]]] = {
    "id": lambda row: row.seen.id,
    "status": lambda row: _STATUSES[row.seen.status],
    "progress": _fraction,
    "pace": _pace,
    "reward": lambda row: row.seen.record.progress.mean_reward if row.seen.record else None,
    "trend": _gain,
    "beat": _beat,
    "instance": _instance,
    "container": lambda row: container_word(row.seen),
    "attempt": lambda row: row.seen.record.attempt if row.seen.record else None,
    "cost": lambda row: row.cost,
    "host": lambda row: row.host,
    "reason": lambda row: reason(row.seen),
}
