"""The tracking server's resources and checks, as rows of one table."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gcloud_ops.text import one_line
from sinergym_tui.views.cells import Cell, Column, Tone, money_text

if TYPE_CHECKING:
    from mlflow_infra.operations import Check
    from mlflow_infra.plan import Finding
    from sinergym_tui.tracking import Proposal

__all__ = [
    "TRACKING_COLUMNS",
    "TrackingRow",
    "check_row",
    "down_touches",
    "finding_row",
    "up_touches",
]

_EVERYBODY: Final = "0.0.0.0/0"

TRACKING_COLUMNS: Final = (
    Column(key="state", title="State", width=11, rank=0),
    Column(key="what", title="What", width=26, rank=1, most=52),
    Column(key="monthly", title="A month", width=8, rank=2, is_right=True),
    Column(key="data", title="Data", width=4, rank=4),
    Column(key="words", title="Found", width=16, rank=3, grows=True),
)
_LOOK: Final[dict[str, tuple[str, Tone]]] = {
    "there": ("✓ there", "good"),
    "making": ("… being made", "busy"),
    "missing": ("· missing", "muted"),
    "differs": ("! differs", "waiting"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingRow:
    """A resource, or a question that was asked of the server."""

    what: str
    state: tuple[str, Tone]
    monthly: float | None
    """US dollars; None: not known, or none."""
    holds_data: bool
    words: str
    is_check: bool = False
    is_good: bool = True
    """Of a question: whether the answer was a good one."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """In the order of `TRACKING_COLUMNS`."""
        money = "" if self.is_check or self.monthly == 0 else money_text(self.monthly)
        return (
            Cell(*self.state),
            Cell(one_line(self.what), "strong"),
            Cell(money),
            Cell("●" if self.holds_data else "", "waiting"),
            Cell(one_line(self.words), "muted"),
        )

    @property
    def texts(self) -> dict[str, str]:
        """What a query can find, by column."""
        return {"": self.what, "what": self.what, "state": self.state[0], "words": self.words}


def finding_row(finding: "Finding") -> TrackingRow:
    """A resource."""
    return TrackingRow(
        what=finding.what,
        state=_LOOK[finding.state],
        monthly=finding.monthly,
        holds_data=finding.holds_data,
        words="; ".join(finding.differences),
    )


def check_row(check: "Check") -> TrackingRow:
    """A question, and its answer."""
    took = "" if check.seconds is None else f" ({check.seconds * 1000:.0f} ms)"
    return TrackingRow(
        what=f"is it well: {check.name}",
        state=("✓ well", "good") if check.is_good else ("✗ not well", "bad"),
        monthly=None,
        holds_data=False,
        words=f"{check.detail}{took}",
        is_check=True,
        is_good=check.is_good,
    )


def up_touches(seen: "Proposal") -> list[str]:
    """What bringing it up makes or mends, and who may reach it then."""
    ranges = seen.infra.source_ranges
    lines = [f"{one.what}: {one.change}" for one in seen.plan.changes]
    lines.append(f"who may reach it: {', '.join(ranges) or 'only the trainers'}")
    if _EVERYBODY in ranges:
        lines.append(f"{_EVERYBODY}: the whole Internet may try to log in, unencrypted")
    return lines


def down_touches(seen: "Proposal", *, with_data: bool) -> list[str]:
    """What goes when it is removed, and what stays."""
    if with_data:
        return [f"removed: {one.what}" for one in (*seen.staying, *seen.going)]
    return [
        *(f"removed: {one.what}" for one in seen.going),
        *(f"stays, and costs: {one.what}" for one in seen.staying),
    ]
