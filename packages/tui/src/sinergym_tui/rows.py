"""Pure: observations -> the cells of a table's row. No terminal, no clock of its own.

Everything that comes from outside is cleaned here, where it becomes a cell. A tone is a hint for
the colour; the word or the sign beside it says the same without one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from gcloud_ops.contract import Progress
from gcloud_ops.model import ExperimentStatus, Observation, Snapshot, SweepSummary
from gcloud_ops.text import one_line

__all__ = [
    "EXPERIMENT_COLUMNS",
    "SWEEP_COLUMNS",
    "Cell",
    "Column",
    "SweepState",
    "age_text",
    "experiment_cells",
    "fit_columns",
    "sweep_cells",
]

type Tone = Literal["", "good", "bad", "busy", "waiting", "muted", "strong"]

_BAR = 5  # cells of a progress bar


class Cell(NamedTuple):
    """One cell: plain text, and how it should look."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table, with a fixed width in cells."""

    key: str
    title: str
    width: int
    rank: int
    """Columns of a higher rank go first where there is no room for all."""
    is_right: bool = False
    most: int = 0
    """How wide it gets where there is room."""
    grows: bool = False
    """Takes what room is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepState:
    """A sweep as the console knows it: the listing's line, and the last look at it."""

    summary: SweepSummary
    snapshot: Snapshot | None = None
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
    def instances(self) -> int:
        """How many instances it has; those that can't be created now don't count."""
        if self.snapshot is not None:
            return sum(bool(row.member and row.member.status) for row in self.snapshot.rows)
        return self.summary.group.target_size if self.summary.group else 0


SWEEP_COLUMNS = (
    Column(key="name", title="Sweep", width=12, rank=0, most=40),
    Column(key="state", title="State", width=13, rank=1),
    Column(key="done", title="Done", width=9, rank=2, is_right=True),
    Column(key="progress", title="Progress", width=10, rank=4),
    Column(key="instances", title="VMs", width=4, rank=3, is_right=True),
    Column(key="age", title="Age", width=4, rank=5, is_right=True),
)

EXPERIMENT_COLUMNS = (
    Column(key="id", title="Experiment", width=10, rank=0),
    Column(key="status", title="Status", width=14, rank=1),
    Column(key="progress", title="Progress", width=16, rank=2, most=20),
    Column(key="reward", title="Reward", width=8, rank=3, is_right=True),
    Column(key="beat", title="Beat", width=4, rank=4, is_right=True),
    Column(key="instance", title="Instance", width=8, rank=5, most=12),
    Column(key="container", title="Record", width=9, rank=6),
    Column(key="attempt", title="Try", width=3, rank=8, is_right=True),
    Column(key="reason", title="Reason", width=16, rank=7, grows=True),
)

_STATUS_LOOK: dict[ExperimentStatus, tuple[str, Tone]] = {
    ExperimentStatus.PENDING: ("·", "muted"),
    ExperimentStatus.QUEUED: ("◌", "waiting"),
    ExperimentStatus.PROVISIONING: ("◌", "waiting"),
    ExperimentStatus.STARTING: ("◔", "waiting"),
    ExperimentStatus.WAITING: ("◔", "waiting"),
    ExperimentStatus.RUNNING: ("▶", "busy"),
    ExperimentStatus.UPLOADING: ("↑", "busy"),
    ExperimentStatus.UNREACHABLE: ("?", "bad"),
    ExperimentStatus.FINISHED: ("✓", "good"),
    ExperimentStatus.FAILED: ("✗", "bad"),
    ExperimentStatus.CANCELLED: ("⊘", "muted"),
    ExperimentStatus.LOST: ("✗", "bad"),
}


def sweep_cells(state: SweepState, now: datetime) -> tuple[Cell, ...]:
    """The row of a sweep, in the order of `SWEEP_COLUMNS`."""
    seen = state.snapshot
    word, tone = _sweep_word(state)
    total = len(seen.rows) if seen else state.summary.experiments
    instances = state.instances
    return (
        Cell(one_line(state.name), "strong"),
        Cell(word, tone),
        _done(seen, total),
        Cell(_bar(_sweep_fraction(seen)) if seen else "", "busy" if tone == "busy" else ""),
        Cell(str(instances) if state.has_instances else "-", "" if instances else "muted"),
        Cell(age_text(state.summary.created, now), "muted"),
    )


def experiment_cells(row: Observation, now: datetime) -> tuple[Cell, ...]:
    """The row of an experiment, in the order of `EXPERIMENT_COLUMNS`."""
    sign, tone = _STATUS_LOOK[row.status]
    record, member = row.record, row.member
    progress = record.progress if record else Progress()
    is_late = row.status is ExperimentStatus.UNREACHABLE
    instance = one_line(member.status or member.action) if member else "-"
    is_live = record is not None and not row.status.is_final
    return (
        Cell(one_line(row.id), "strong"),
        Cell(f"{sign} {row.status}", tone),
        Cell(_progress(progress, row.status), tone if row.status.is_final else "busy"),
        Cell(_number(progress.mean_reward)),
        Cell(
            age_text(record.updated, now) if record and is_live else "-",
            "bad" if is_late else "muted",
        ),
        Cell(instance, "" if member else "muted"),
        Cell(one_line(record.state) if record else "-", "" if record else "muted"),
        Cell(str(record.attempt) if record and record.attempt else "-", "muted"),
        Cell(reason(row), "bad" if tone == "bad" else "muted"),
    )


def reason(row: Observation) -> str:
    """Why the experiment is where it is, in one line; "" where there is nothing to add."""
    end = row.record.exit if row.record else None
    text = row.reason
    if row.status is ExperimentStatus.FAILED and end is not None:
        how = end.signal or (f"exit {end.code}" if end.code is not None else str(end.kind))
        text = f"{how}: {text}" if text else str(how)
    return one_line(text)


def age_text(moment: datetime | None, now: datetime) -> str:
    """How long ago, in at most four characters: 5s, 12m, 3h, 4d; "-" where it isn't known."""
    if moment is None:
        return "-"
    seconds = max(0, int((now - moment).total_seconds()))
    for size, unit, until in ((1, "s", 90), (60, "m", 90 * 60), (3600, "h", 48 * 3600)):
        if seconds < until:
            return f"{seconds // size}{unit}"
    return f"{min(seconds // 86400, 999)}d"


def fit_columns(columns: tuple[Column, ...], width: int) -> tuple[tuple[int, int], ...]:
    """Choose the columns that fit: pairs of (position in the row, width), a cell between two.

    The lowest rank always stays; a column that grows takes the rest.
    """
    widths: dict[Column, int] = {}
    left = width
    for column in sorted(columns, key=lambda each: each.rank):
        needed = column.width + (1 if widths else 0)
        if needed <= left or not widths:
            widths[column] = min(column.width, max(1, left))
            left -= needed
    for column in widths:
        more = max(0, min(left, column.most - column.width))
        widths[column] += more
        left -= more
    grower = next((column for column in widths if column.grows), None)
    if grower is not None:
        widths[grower] += max(0, left)
    return tuple(
        (index, widths[column]) for index, column in enumerate(columns) if column in widths
    )


def _sweep_word(state: SweepState) -> tuple[str, Tone]:
    seen = state.snapshot
    if state.trouble:
        return "? unreadable", "bad"
    if seen is None:
        return "… looking", "muted"
    counts = seen.counts
    some: Callable[..., bool] = lambda *those: any(counts.get(each) for each in those)  # noqa: E731
    status = ExperimentStatus
    if seen.is_final:
        if seen.is_good:
            return "✓ finished", "good"
        if some(status.FAILED, status.LOST):
            return "✗ failed", "bad"
        return "⊘ cancelled", "muted"
    if some(status.RUNNING, status.UPLOADING):
        return "▶ running", "busy"
    if seen.group_exists:
        return "◌ starting", "waiting"
    return "? no group", "waiting"


def _done(seen: Snapshot | None, total: int) -> Cell:
    if seen is None:
        return Cell(f"?/{total}", "muted")
    final = sum(row.status.is_final for row in seen.rows)
    bad = seen.counts.get(ExperimentStatus.FAILED, 0) + seen.counts.get(ExperimentStatus.LOST, 0)
    return Cell(f"{final}/{total}" + (f" {bad}✗" if bad else ""), "bad" if bad else "")


def _sweep_fraction(seen: Snapshot) -> float:
    parts = [
        1.0
        if row.status.is_final
        else (_fraction(row.record.progress) or 0.0 if row.record else 0.0)
        for row in seen.rows
    ]
    return sum(parts) / len(parts) if parts else 0.0


def _fraction(progress: Progress) -> float | None:
    """A runner of another version, or a program of its own, may write anything as a number."""
    try:
        if progress.fraction is not None:
            return max(0.0, min(1.0, progress.fraction))
        if progress.episode is not None and progress.episodes:
            return max(0.0, min(1.0, progress.episode / progress.episodes))
    except (TypeError, ValueError, OverflowError):
        return None
    return None


def _progress(progress: Progress, status: ExperimentStatus) -> str:
    fraction = 1.0 if status is ExperimentStatus.FINISHED else _fraction(progress)
    episodes = ""
    if progress.episode is not None:
        of = "" if progress.episodes is None else f"/{progress.episodes}"
        episodes = one_line(f"{progress.episode}{of}", limit=9)
    if fraction is None:
        return episodes or "-"
    return f"{_bar(fraction)} {episodes}".rstrip()


def _bar(fraction: float) -> str:
    full = int(fraction * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {int(fraction * 100):3d}%"


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else one_line(str(value), limit=8)
    text = f"{value:.1f}"
    return text if len(text) <= 8 else f"{value:.1e}"
