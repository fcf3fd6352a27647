"""What the doctor has found, and what to do about it."""

from typing import TYPE_CHECKING, Final

from gcloud_ops.text import one_line
from sinergym_tui.views.cells import Cell, Column, Tone

if TYPE_CHECKING:
    from gcloud_ops.doctor import Finding

__all__ = ["FINDING_COLUMNS", "finding_advice", "finding_cells", "finding_texts", "finding_value"]

FINDING_COLUMNS: Final = (
    Column(key="level", title="State", width=10, rank=0),
    Column(key="name", title="What", width=18, rank=1, most=44),
    Column(key="message", title="Found", width=44, rank=2, grows=True),
)

_LOOK: Final[dict[str, tuple[str, Tone]]] = {
    "ok": ("✓ well", "good"),
    "warning": ("! look", "waiting"),
    "problem": ("✗ problem", "bad"),
}
_ORDER: Final = ("problem", "warning", "ok")


def finding_cells(finding: "Finding") -> tuple[Cell, ...]:
    """The row of a finding, in the order of `FINDING_COLUMNS`."""
    is_well = finding.level == "ok"
    return (
        Cell(*_LOOK[finding.level]),
        Cell(one_line(finding.name), "strong"),
        Cell(one_line(finding.message), "muted" if is_well else ""),
    )


def finding_advice(finding: "Finding") -> list[Cell]:
    """The whole of it, and what to do."""
    words = [Cell(one_line(finding.message, limit=600))]
    if finding.advice:
        words.append(Cell(f"→ {one_line(finding.advice, limit=600)}", "waiting"))
    return words


def finding_texts(finding: "Finding") -> dict[str, str]:
    """What a query can find of a finding, by column."""
    return {
        "": finding.name,
        "level": f"{finding.level} {_LOOK[finding.level][0]}",
        "name": finding.name,
        "message": f"{finding.message} {finding.advice}",
    }


def finding_value(finding: "Finding", column: str) -> object:
    """What a finding is ordered by."""
    if column == "level":
        return _ORDER.index(finding.level)
    return finding_texts(finding).get(column)
