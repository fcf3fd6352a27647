"""The lines of one or many logs: kept up to a bound, filtered, searched, wrapped. No terminal.

A line keeps its number for good: the first that ever came is 0. Old lines go, numbers stay, so a
position survives whatever is dropped. `shown` are the numbers of the lines that pass the filter;
a screen line ("row") is one of these, or a piece of one where lines are wrapped.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from unicodedata import category, east_asian_width

from sinergym_tui.views.patterns import Pattern, compiled

__all__ = [
    "LEVELS",
    "Filter",
    "Lead",
    "LogBook",
    "LogLine",
    "Piece",
    "level_of",
    "parse_filter",
    "parse_since",
]

LEVELS: Final = ("error", "warning", "debug")
"""What a line can be marked as, besides nothing."""

_LEVEL: Final = re.compile(
    r"\b(?:(?P<error>ERROR|CRITICAL|FATAL|Traceback|[A-Z]\w*(?:Error|Exception)(?=:|$))"
    r"|(?P<warning>WARN(?:ING)?|\w+Warning(?=:))|(?P<debug>DEBUG|TRACE))\b"
    r"|(?P<severe>\*\*\s*(?:Severe|Fatal))|(?P<warned>\*\*\s*Warning)"
)
_CLOCK: Final = 9  # characters of a time, with a blank
_LOOKED_AT: Final = 200  # characters of a line in which a level is looked for


class LogLine(NamedTuple):
    """One line that is safe to show."""

    source: int
    """Position of its experiment among those that are read; -1: none of them."""
    at: float | None
    """When it came, in seconds of the epoch; None: before the console looked."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """What stands before a line: when it came, and whose it is."""

    prefixes: tuple[str, ...] = ()
    """By source; none where there is but one."""
    prefix_width: int = 0
    """Cells of each of them."""
    timed: bool = False

    @property
    def width(self) -> int:
        """Cells, the same for all lines."""
        return self.prefix_width + (_CLOCK if self.timed else 0)

    def clock(self, line: LogLine) -> str:
        """When it came, as far as that is known and to be shown."""
        if not self.timed:
            return ""
        if line.at is None:
            return " " * _CLOCK
        return f"{datetime.fromtimestamp(line.at).astimezone():%H:%M:%S} "

    def prefix(self, line: LogLine) -> str:
        """Whose it is."""
        if not self.prefixes:
            return ""
        return self.prefixes[line.source] if line.source >= 0 else " " * self.prefix_width

    def text(self, line: LogLine) -> str:
        """The line with all that stands before it."""
        return f"{self.clock(line)}{self.prefix(line)}{line.text}"


class Piece(NamedTuple):
    """What one line of the screen shows."""

    number: int
    """Of the line."""
    line: LogLine
    begin: int
    """Where in the text it begins; more than 0 where the line is wrapped."""
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which lines are shown."""

    pattern: Pattern | None = None
    is_inverse: bool = False
    since: float | None = None
    """Only those that came then or later."""

    def passes(self, line: LogLine) -> bool:
        """Whether a line is shown."""
        if self.since is not None and (line.at is None or line.at < self.since):
            return False
        if self.pattern is None:
            return True
        return (self.pattern.search(line.text) is not None) is not self.is_inverse


def parse_filter(text: str) -> tuple[Pattern | None, bool]:
    """A filter as it is typed: what is looked for (see `patterns`), after `!` its inverse."""
    is_inverse = text.startswith("!")
    wanted = text.removeprefix("!")
    if not wanted:
        return None, False
    return compiled(wanted), is_inverse


def parse_since(text: str) -> float | None:
    """`30s`, `5m`, `1h`, `now`: how many seconds ago; None for what is none of these."""
    if text == "now":
        return 0.0
    found = re.fullmatch(r"(\d{1,6})\s*([smhd]?)", text)
    if found is None:
        return None
    return float(found[1]) * {"": 60, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def level_of(text: str) -> str:
    """How serious a line is: `error`, `warning`, `debug`, or ""."""
    found = _LEVEL.search(text, 0, _LOOKED_AT)
    if found is None:
        return ""
    match found.lastgroup:
        case "severe":
            return "error"
        case "warned":
            return "warning"
        case group:
            return group or ""


class LogBook:
    """Keeps the newest lines.

    Args:
        keep: How many lines, at most; a tenth more for a while where they are wrapped.
    """

    def __init__(self, keep: int = 50_000) -> None:
        self._keep = keep
        self._lines: list[LogLine] = []
        self._first = 0
        self._shown: list[int] | None = None  # None: all
        self._rows: list[int] = []  # where each shown line begins, when wrapped
        self._rows_end = 0
        self._wrap = 0
        self.filter = Filter()
        self.widest = 0
        """Cells of the longest line that ever came."""

    # ------------------------------------------------------------------- lines

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def total(self) -> int:
        """How many lines ever came."""
        return self._first + len(self._lines)

    @property
    def shown_count(self) -> int:
        """How many lines pass the filter."""
        return len(self._lines) if self._shown is None else len(self._shown)

    def line(self, number: int) -> LogLine:
        """The line of that number, which must be kept."""
        return self._lines[number - self._first]

    def texts(self) -> list[LogLine]:
        """All lines that pass the filter."""
        if self._shown is None:
            return list(self._lines)
        return [self.line(number) for number in self._shown]

    def append(self, lines: Sequence[LogLine], *, width: int) -> int:
        """Add lines, of which the widest has `width` cells; returns how many rows were dropped."""
        start = self.total
        self._lines.extend(lines)
        self.widest = max(self.widest, width)
        if self._shown is not None:
            passes = self.filter.passes
            fresh = [start + at for at, line in enumerate(lines) if passes(line)]
            self._shown.extend(fresh)
            self._extend_rows([self.line(number) for number in fresh])
        else:
            self._extend_rows(lines)
        # Exactly, so that the height stays the same and nothing is laid out again; wrapped, a
        # tenth at a time, as all rows are counted anew.
        slack = self._keep // 10 if self._wrap else 0
        if len(self._lines) > self._keep + slack:
            return self._drop(len(self._lines) - self._keep)
        return 0

    def clear(self) -> None:
        """Forget all lines; the filter stays."""
        self._lines, self._first, self.widest = [], 0, 0
        self._shown = None if self._shown is None else []
        self._rows, self._rows_end = [], 0

    def _drop(self, count: int) -> int:
        rows = self.row_count
        del self._lines[:count]
        self._first += count
        if self._shown is None:
            gone = count
        else:
            gone = bisect_left(self._shown, self._first)
            del self._shown[:gone]
        if self._wrap:
            begin = self._rows[gone] if gone < len(self._rows) else rows
            self._rows = [row - begin for row in self._rows[gone:]]
            self._rows_end -= begin
            return begin
        return gone

    # ------------------------------------------------------------------ filter

    def apply(self, wanted: Filter) -> None:
        """Show only what passes."""
        self.filter = wanted
        if wanted.pattern is None and wanted.since is None:
            self._shown = None
        else:
            passes = wanted.passes
            self._shown = [
                number for number, line in enumerate(self._lines, self._first) if passes(line)
            ]
        self._measure()

    def wrap(self, width: int) -> None:
        """Break lines after so many cells; 0: don't."""
        if width != self._wrap:
            self._wrap = width
            self._measure()

    def _measure(self) -> None:
        self._rows, self._rows_end = [], 0
        self._extend_rows(self.texts() if self._wrap else ())

    def _extend_rows(self, lines: Sequence[LogLine]) -> None:
        if not self._wrap:
            return
        at = self._rows_end
        for line in lines:
            self._rows.append(at)
            at += len(self._begins(line.text))
        self._rows_end = at

    def _begins(self, text: str) -> Sequence[int]:
        """Where in a text that is wrapped each row of it begins."""
        if text.isascii():
            return range(0, max(1, len(text)), self._wrap)
        begins, used = [0], 0
        for at, sign in enumerate(text):
            size = _cells(sign)
            if used + size > self._wrap and used:
                begins.append(at)
                used = 0
            used += size
        return begins

    # -------------------------------------------------------------------- rows

    @property
    def row_count(self) -> int:
        """How many screen lines there are."""
        if not self._wrap:
            return self.shown_count
        return self._rows_end

    def piece(self, row: int) -> Piece | None:
        """What a screen line shows; None after the end."""
        if not 0 <= row < self.row_count:
            return None
        position = bisect_right(self._rows, row) - 1 if self._wrap else row
        number = position + self._first if self._shown is None else self._shown[position]
        line = self.line(number)
        if not self._wrap:
            return Piece(number, line, 0, len(line.text))
        begins = [*self._begins(line.text), len(line.text)]
        at = row - self._rows[position]
        return Piece(number, line, begins[at], begins[at + 1])

    def row_of(self, number: int) -> int:
        """The screen line of a line, or of the next one that is shown."""
        if self._shown is None:
            position = max(0, number - self._first)
        else:
            position = bisect_left(self._shown, number)
        if not self._wrap:
            return position
        return self._rows[position] if position < len(self._rows) else self.row_count

    def find(self, pattern: Pattern, *, after: int, backwards: bool = False) -> int | None:
        """The number of the next line with the pattern, going round at the end; None: nowhere."""
        numbers: Sequence[int] = (
            range(self._first, self.total) if self._shown is None else self._shown
        )
        if not numbers:
            return None
        if backwards:
            cut = bisect_left(numbers, after)
            order = [*reversed(numbers[:cut]), *reversed(numbers[cut:])]
        else:
            cut = bisect_right(numbers, after)
            order = [*numbers[cut:], *numbers[:cut]]
        return next((each for each in order if pattern.search(self.line(each).text)), None)


def _cells(sign: str) -> int:
    """How many cells of a terminal a character takes."""
    if sign.isascii():
        return 1
    return 2 if east_asian_width(sign) in "WF" else int(category(sign) not in {"Mn", "Me"})
