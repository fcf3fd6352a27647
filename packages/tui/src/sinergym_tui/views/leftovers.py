"""What is left over on Compute Engine, and what it costs a day."""

from typing import TYPE_CHECKING, Final

from gcloud_ops.text import one_line
from sinergym_tui.views.cells import Cell, Column, money_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcloud_ops.reaping import Orphan

__all__ = [
    "ORPHAN_COLUMNS",
    "daily_text",
    "orphan_cells",
    "orphan_key",
    "orphan_line",
    "orphan_texts",
    "orphan_value",
]

ORPHAN_COLUMNS: Final = (
    Column(key="kind", title="Kind", width=9, rank=1),
    Column(key="name", title="Name", width=16, rank=0, most=40),
    Column(key="where", title="Where", width=14, rank=3, most=18),
    Column(key="daily", title="A day", width=8, rank=2, is_right=True),
    Column(key="why", title="Why", width=20, rank=4, grows=True),
)


def orphan_key(orphan: "Orphan") -> str:
    """What it is known by."""
    return f"{orphan.kind} {orphan.name} {orphan.where}"


def orphan_cells(orphan: "Orphan") -> tuple[Cell, ...]:
    """The row of what is left over, in the order of `ORPHAN_COLUMNS`."""
    return (
        Cell(str(orphan.kind)),
        Cell(one_line(orphan.name), "strong"),
        Cell(one_line(orphan.where), "muted"),
        Cell("?" if orphan.daily is None else money_text(orphan.daily), "waiting"),
        Cell(one_line(orphan.why), "muted"),
    )


def orphan_line(orphan: "Orphan") -> str:
    """All of it in one line."""
    daily = "price unknown" if orphan.daily is None else f"{money_text(orphan.daily)} a day"
    return one_line(f"{orphan.kind} {orphan.name} ({orphan.where}, {daily})")


def daily_text(orphans: "Sequence[Orphan]") -> str:
    """What all of them cost a day."""
    words = f"{money_text(sum(one.daily or 0.0 for one in orphans))} a day"
    return words + (" and more" if any(one.daily is None for one in orphans) else "")


def orphan_texts(orphan: "Orphan") -> dict[str, str]:
    """What a query can find, by column."""
    return {
        "": orphan.name,
        "kind": str(orphan.kind),
        "name": orphan.name,
        "where": orphan.where,
        "why": orphan.why,
        "sweep": orphan.sweep,
    }


def orphan_value(orphan: "Orphan", column: str) -> object:
    """What it is ordered by."""
    return orphan.daily if column == "daily" else orphan_texts(orphan).get(column)
