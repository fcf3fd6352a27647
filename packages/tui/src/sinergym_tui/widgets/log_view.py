"""The lines of a `LogBook`, painted where they are in sight.

Textual's Log starts a worker for each write and interprets what it is given; RichLog renders all
that is written. Here a write costs an append, and a line is rendered when it is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from sinergym_tui.views.logbook import Filter, Lead, LogBook, LogLine, Piece, level_of
from sinergym_tui.views.patterns import Pattern
from sinergym_tui.widgets.fitting import fit_text

__all__ = ["LogView"]

_SOURCES: Final = 8  # colours of prefixes
_NAME: Final = 24  # cells of a prefix, at most
_AFTER: Final = " │ "
_RUNNER: Final = "sinergym-runner: "


class LogView(ScrollView, can_focus=True):
    """Lines that were cleaned before; follows the end until somebody scrolls up.

    Args:
        keep: Lines that are kept, at most; older ones go.
        id: The widget's id.
    """

    DEFAULT_CSS = """
    LogView {
        background: $surface;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 0;
        overflow-x: auto;
        overflow-y: scroll;
        & > .log-view--note { color: $foreground 60%; text-style: italic; }
        & > .log-view--mark { color: $text-accent; text-style: bold; }
        & > .log-view--runner { color: $foreground 60%; }
        & > .log-view--clock { color: $foreground 50%; }
        & > .log-view--error { color: $text-error; }
        & > .log-view--warning { color: $text-warning; }
        & > .log-view--debug { color: $foreground 50%; }
        & > .log-view--found { background: $warning 60%; color: $foreground; text-style: bold; }
        & > .log-view--source-0 { color: $text-primary; }
        & > .log-view--source-1 { color: $text-success; }
        & > .log-view--source-2 { color: $text-accent; }
        & > .log-view--source-3 { color: $text-warning; }
        & > .log-view--source-4 { color: $text-secondary; }
        & > .log-view--source-5 { color: $text-error; }
        & > .log-view--source-6 { color: $foreground; }
        & > .log-view--source-7 { color: $foreground 60%; }
    }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *(
            f"log-view--{part}"
            for part in ("mark", "note", "runner", "clock", "error", "warning", "debug", "found")
        ),
        *(f"log-view--source-{number}" for number in range(_SOURCES)),
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "scroll_up", "Up", show=False),
        Binding("j", "scroll_down", "Down", show=False),
        Binding("g", "scroll_home", "First", show=False),
        Binding("G", "scroll_end", "Follow", show=False),
    ]

    @dataclass
    class FollowChanged(Message):
        """It follows the end now, or doesn't any more."""

        following: bool

    def __init__(self, *, keep: int = 50_000, id: str | None = None) -> None:
        super().__init__(id=id)
        self.book = LogBook(keep)
        self._note = ""
        self.lead = Lead()
        """What stands before each line."""
        self._found: Pattern | None = None
        self._styles: dict[str, Style] = {}
        self.wrapped = False
        """Whether long lines are wrapped."""
        self.following = True
        """Whether new lines scroll it on."""

    # ------------------------------------------------------------------- lines

    def clear(self, note: str = "", *, sources: Sequence[str] = ()) -> None:
        """Forget all lines.

        Args:
            note: What is shown until the first one comes.
            sources: The names of those whose lines come; shown before each where they are many.
        """
        self.book.clear()
        self._note = note
        width = min(_NAME, max(map(cell_len, sources), default=0))
        names = [fit_text(name, width) for name in sources] if len(sources) > 1 else []
        prefixes = tuple(f"{name}{_AFTER}" for name in names)
        room = width + len(_AFTER) if prefixes else 0
        self.lead = replace(self.lead, prefixes=prefixes, prefix_width=room)
        self._follow(True)
        self._measure()
        self.scroll_to(0, 0, animate=False, immediate=True, force=True)

    def append(self, lines: Sequence[LogLine]) -> None:
        """Add lines; one call for many of them, for it is the call that costs."""
        if not lines:
            return
        width = max(len(x.text) if x.text.isascii() else cell_len(x.text) for x in lines)
        dropped = self.book.append(lines, width=width)
        self._measure()
        if self.following:
            self._to_end()
        elif dropped:
            y = max(0, self.scroll_y - dropped)
            self.scroll_to(y=y, animate=False, immediate=True, force=True)

    def show_only(self, wanted: Filter) -> None:
        """Show only lines that pass; the one at the top stays as near as it can."""
        top = self.book.piece(int(self.scroll_y))
        self.book.apply(wanted)
        self._measure()
        if self.following or top is None:
            self._to_end()
        else:
            self._to_row(self.book.row_of(top.number))

    def show_since(self, since: float | None) -> None:
        """Show only lines that came then or later."""
        self.show_only(replace(self.book.filter, since=since))

    # -------------------------------------------------------------- appearance

    def set_wrapped(self, wrapped: bool) -> None:
        """Wrap long lines, or let them go on to the right."""
        top = self.book.piece(int(self.scroll_y))
        self.wrapped = wrapped
        self._rewrap()
        if self.following or top is None:
            self._to_end()
        else:
            self._to_row(self.book.row_of(top.number))

    def set_timed(self, timed: bool) -> None:
        """Show when each line came, or don't."""
        self.lead = replace(self.lead, timed=timed)
        self._rewrap()

    def search(self, pattern: Pattern | None) -> bool:
        """Mark what is found, and go to the last place of it; tells whether there is one."""
        self._found = pattern
        self.refresh()
        return pattern is not None and self.find(backwards=True, start=self.book.total)

    @property
    def is_searching(self) -> bool:
        """Whether something is searched for."""
        return self._found is not None

    def find(self, *, backwards: bool = False, start: int | None = None) -> bool:
        """Go to the next place with what is searched for."""
        if self._found is None:
            return False
        if start is None:
            # From the line in the middle, where the last search has put what it found.
            middle = self.book.piece(int(self.scroll_y) + self._middle)
            start = self.book.total if middle is None else middle.number
        number = self.book.find(self._found, after=start, backwards=backwards)
        if number is None:
            return False
        self._follow(False)
        self._to_row(self.book.row_of(number) - self._middle)
        return True

    def lines_in_sight(self) -> list[str]:
        """What is shown now, as text."""
        top, height = int(self.scroll_y), self.scrollable_content_region.height
        pieces = (self.book.piece(row) for row in range(top, top + height))
        numbers = dict.fromkeys(piece.number for piece in pieces if piece is not None)
        return [self.lead.text(self.book.line(number)) for number in numbers]

    # --------------------------------------------------------------- following

    def follow(self, following: bool) -> None:
        """Follow the end, or stay."""
        self._follow(following)
        if following:
            self._to_end()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scrolling up pauses; coming to the end follows again."""
        super().watch_scroll_y(old_value, new_value)
        if new_value >= self.max_scroll_y:
            self._follow(True)
        elif new_value < old_value:
            self._follow(False)

    def on_resize(self) -> None:
        """Keep the end in sight where it is followed."""
        self._rewrap()

    def notify_style_update(self) -> None:
        """Another theme: everything has other colours."""
        super().notify_style_update()
        self._styles.clear()

    def _follow(self, following: bool) -> None:
        if following != self.following:
            self.following = following
            self.post_message(self.FollowChanged(following))

    def _to_end(self) -> None:
        self.scroll_end(animate=False, immediate=True, force=True, x_axis=False)

    def _to_row(self, row: int) -> None:
        self.scroll_to(y=max(0, row), animate=False, immediate=True, force=True)

    @property
    def _middle(self) -> int:
        return self.scrollable_content_region.height // 2

    def _rewrap(self) -> None:
        room = self.scrollable_content_region.width - self.lead.width
        self.book.wrap(max(8, room) if self.wrapped and room > 0 else 0)
        self._measure()
        if self.following:
            self._to_end()

    def _measure(self) -> None:
        width = 0 if self.wrapped else self.book.widest + self.lead.width
        self.virtual_size = Size(width, self.book.row_count)
        self.refresh()

    # ---------------------------------------------------------------- painting

    def _part(self, name: str) -> Style:
        if (style := self._styles.get(name)) is None:
            style = self._styles[name] = self.get_component_rich_style(f"log-view--{name}")
        return style

    def render_line(self, y: int) -> Strip:
        """One line, as far as it is in sight."""
        left, top = self.scroll_offset
        width, style = self.scrollable_content_region.width, self.rich_style
        piece = self.book.piece(top + y)
        if piece is None:
            if y == 0 and not self.book.shown_count and self._note:
                words = self._note if not len(self.book) else "no line passes the filter"
                return Strip([Segment(f" {words}", self._part("note"))]).crop_extend(
                    0, width, style
                )
            return Strip.blank(width, style)
        lead = self._lead_of(piece)
        text, room = self._text_of(piece, style), width - Segment.get_line_length(lead)
        if self.wrapped:
            return Strip([*lead, *text]).adjust_cell_length(width, style)
        strip = Strip(text)
        if strip.cell_length <= left + room:
            strip = strip.crop_extend(left, left + room, style)
            return Strip.join([Strip(lead), strip])
        # Where a line goes on to the right, a mark says so; arrow keys scroll there.
        mark = Strip([Segment("›", self._part("mark"))])
        return Strip.join([Strip(lead), strip.crop(left, left + room - 1), mark])

    def _lead_of(self, piece: Piece) -> list[Segment]:
        line = piece.line
        if piece.begin:
            return [Segment(" " * self.lead.width, self.rich_style)] if self.lead.width else []
        lead = [Segment(clock, self._part("clock"))] if (clock := self.lead.clock(line)) else []
        if prefix := self.lead.prefix(line):
            lead.append(Segment(prefix, self._part(f"source-{line.source % _SOURCES}")))
        return lead

    def _text_of(self, piece: Piece, style: Style) -> list[Segment]:
        text = piece.line.text
        if text.startswith(_RUNNER):
            style = self._part("runner")
        elif piece.line.source < 0:
            style = self._part("note")
        elif level := level_of(text):
            style = self._part(level)
        if self._found is None:
            return [Segment(text[piece.begin : piece.end], style)]
        segments, at = [], piece.begin
        for match in self._found.finditer(text):
            first, last = match.span()
            begin, end = max(at, first), min(piece.end, last)
            if begin >= end:
                continue
            segments += [
                Segment(text[at:begin], style),
                Segment(text[begin:end], self._part("found")),
            ]
            at = end
        return [*segments, Segment(text[at : piece.end], style)]
