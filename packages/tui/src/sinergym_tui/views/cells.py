"""Cells, columns, and how numbers and times are written. No terminal here.

A tone is a hint for the colour; the word or the sign beside it says the same without one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Final, Literal, NamedTuple

from gcloud_ops.text import one_line

__all__ = [
    "TONES",
    "Cell",
    "Column",
    "Tone",
    "age_text",
    "bar",
    "count_text",
    "duration_text",
    "fit_columns",
    "money_text",
    "number_text",
    "parts_of",
    "plural",
    "sparkline",
]

type Tone = Literal["", "good", "bad", "busy", "waiting", "muted", "strong"]

TONES: Final[tuple[Tone, ...]] = ("good", "bad", "busy", "waiting", "muted", "strong")
"""All but the plain one."""

_BAR: Final = 5  # cells of a progress bar
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_UNITS: Final = ((1, "s", 90), (60, "m", 90 * 60), (3600, "h", 48 * 3600))


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


def fit_columns(columns: Iterable[Column], width: int) -> tuple[tuple[int, int], ...]:
    """Choose the columns that fit: pairs of (position in the row, width), a cell between two.

    The lowest rank always stays; a column that grows takes the rest.
    """
    columns = tuple(columns)
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


def age_text(moment: datetime | None, now: datetime) -> str:
    """How long ago, in at most four characters: 5s, 12m, 3h, 4d; "-" where it isn't known."""
    return "-" if moment is None else duration_text((now - moment).total_seconds())


def duration_text(seconds: float) -> str:
    """A length of time in at most four characters: 5s, 12m, 3h, 4d."""
    whole = max(0, int(seconds))
    for size, unit, until in _UNITS:
        if whole < until:
            return f"{whole // size}{unit}"
    return f"{min(whole // 86400, 999)}d"


def bar(fraction: float, width: int = _BAR) -> str:
    """A progress bar with its number behind it."""
    full = int(fraction * width)
    return f"{'█' * full}{'░' * (width - full)} {int(fraction * 100):3d}%"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars of an eighth of a line each; "" for fewer than two."""
    known = [value for value in values[-width:] if isfinite(value)]
    if len(known) < 2:
        return ""
    return "".join(_SPARKS[int((len(_SPARKS) - 1) * (part or 0.0))] for part in parts_of(known))


def parts_of(values: Sequence[float]) -> list[float | None]:
    """Where values lie between the lowest (0) and the highest (1); None where all are the same.

    Finite numbers of any size: the difference of two may be infinite, or their quotient.
    """
    largest = max(map(abs, values), default=0.0) or 1.0
    scaled = [value / largest for value in values]
    low, high = min(scaled, default=0.0), max(scaled, default=0.0)
    return [(value - low) / (high - low) if high > low else None for value in scaled]


def number_text(value: object) -> str:
    """A number in at most eight characters, "-" for none.

    A runner of another version, or a program of its own, may write anything as a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else one_line(str(value), limit=8)
    text = f"{value:.1f}"
    return text if len(text) <= 8 else f"{value:.1e}"


def count_text(value: float) -> str:
    """A rate or a count in at most five characters: 0.42, 87, 1.2k, 3.4M."""
    if not isfinite(value):
        return "-"
    if abs(value) < 10:
        return f"{value:.2g}" if abs(value) >= 0.001 else "0"
    for unit in ("", "k", "M", "G"):
        if abs(value) < 999.5:
            return f"{value:.0f}{unit}" if abs(value) >= 10 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def plural(count: int, noun: str) -> str:
    """`1 sweep`, `2 sweeps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def money_text(dollars: float | None) -> str:
    """US dollars: $0.004, $1.20, $1,240."""
    if dollars is None or not isfinite(dollars):
        return "-"
    if 0 < dollars < 0.1:
        return f"${dollars:.3f}"
    return f"${dollars:,.2f}" if dollars < 1000 else f"${dollars:,.0f}"
