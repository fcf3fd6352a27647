"""A log that goes on: a bounded ring of plain lines, painted where they are in sight.

Textual's Log starts a worker for each write and interprets what it is given; RichLog renders all
that is written. Here a write costs an append, and a line is rendered when it is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

__all__ = ["LogView"]


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
    }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "log-view--mark",
        "log-view--note",
        "log-view--runner",
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "scroll_up", "Up", show=False),
        Binding("j", "scroll_down", "Down", show=False),
        Binding("g", "scroll_home", "First", show=False),
        Binding("G", "scroll_end", "Follow", show=False),
        Binding("f", "follow", "Follow/pause", show=False),
    ]

    @dataclass
    class FollowChanged(Message):
        """It follows the end now, or doesn't any more."""

        following: bool

    def __init__(self, *, keep: int = 20_000, id: str | None = None) -> None:
        super().__init__(id=id)
        self._keep = keep
        self._lines: list[str] = []
        self._width = 0
        self._note = ""
        self.following = True
        """Whether new lines scroll it on."""

    @property
    def lines(self) -> Sequence[str]:
        """What it holds, oldest first."""
        return self._lines

    def clear(self, note: str = "") -> None:
        """Forget all lines; the note is shown until the first one comes."""
        self._lines, self._width, self._note = [], 0, note
        self._follow(True)
        self.virtual_size = Size(0, 0)
        self.scroll_to(0, 0, animate=False, immediate=True, force=True)
        self.refresh()

    def append(self, lines: Sequence[str]) -> None:
        """Add lines; one call for many of them, for it is the call that costs."""
        if not lines:
            return
        self._lines.extend(lines)
        # Trimmed a tenth at a time: cutting a list's head moves all that is left.
        if len(self._lines) > self._keep + self._keep // 10:
            dropped = len(self._lines) - self._keep
            del self._lines[:dropped]
            if not self.following:
                self.scroll_to(
                    y=max(0, self.scroll_y - dropped), animate=False, immediate=True, force=True
                )
        self._width = max(self._width, *(len(x) if x.isascii() else cell_len(x) for x in lines))
        self.virtual_size = Size(self._width, len(self._lines))
        if self.following:
            self.scroll_end(animate=False, immediate=True, force=True, x_axis=False)
        self.refresh()

    def action_follow(self) -> None:
        """Follow the end, or stop following it."""
        self._follow(not self.following)
        if self.following:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scrolling up pauses; coming to the end follows again."""
        super().watch_scroll_y(old_value, new_value)
        if new_value >= self.max_scroll_y:
            self._follow(True)
        elif new_value < old_value:
            self._follow(False)

    def on_resize(self) -> None:
        """Keep the end in sight where it is followed."""
        if self.following:
            self.scroll_end(animate=False, immediate=True, force=True, x_axis=False)

    def _follow(self, following: bool) -> None:
        if following != self.following:
            self.following = following
            self.post_message(self.FollowChanged(following))

    def render_line(self, y: int) -> Strip:
        """One line, as far as it is in sight."""
        left, top = self.scroll_offset
        width, style = self.scrollable_content_region.width, self.rich_style
        index = top + y
        if index >= len(self._lines):
            if y == 0 and not self._lines and self._note:
                note = self.get_component_rich_style("log-view--note")
                return Strip([Segment(f" {self._note}", note)]).crop_extend(0, width, style)
            return Strip.blank(width, style)
        line = self._lines[index]
        if line.startswith("sinergym-runner: "):
            style = self.get_component_rich_style("log-view--runner")
        strip = Strip([Segment(line, style)])
        if strip.cell_length <= left + width:
            return strip.crop_extend(left, left + width, style)
        # Where a line goes on to the right, a mark says so; arrow keys scroll there.
        mark = Segment("›", self.get_component_rich_style("log-view--mark"))
        return Strip.join([strip.crop(left, left + width - 1), Strip([mark])])
