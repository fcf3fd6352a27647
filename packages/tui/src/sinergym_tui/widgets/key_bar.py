"""The keys that count now, in one line; a click does the same.

Textual's Footer mounts a widget for each key whenever the keys change. This one is a line.
"""

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

__all__ = ["Hint", "KeyBar"]


@dataclass(frozen=True, slots=True)
class Hint:
    """A key and what it does."""

    action: str
    key: str
    label: str
    is_possible: bool = True


class KeyBar(Widget):
    """Shows as many hints as there is room for; the last two always."""

    DEFAULT_CSS = """
    KeyBar {
        height: 1; background: $panel; color: $foreground 70%;
        & > .key-bar--key { color: $text-accent; text-style: bold; }
        & > .key-bar--off { color: $foreground 30%; }
    }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"key-bar--key", "key-bar--off"}

    @dataclass
    class Clicked(Message):
        """A hint was clicked."""

        action: str

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._hints: tuple[Hint, ...] = ()
        self._places: list[tuple[int, int, Hint]] = []

    def show(self, hints: tuple[Hint, ...]) -> None:
        """Show these."""
        if hints != self._hints:
            self._hints = hints
            self.refresh()

    def get_content_width(self, container: Size, viewport: Size) -> int:  # noqa: ARG002
        """All there is."""
        return container.width

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """The line."""
        style = self.rich_style
        key = self.get_component_rich_style("key-bar--key")
        off = self.get_component_rich_style("key-bar--off")
        segments: list[Segment] = []
        self._places, at = [], 0
        for hint in self._fitting():
            texts = (f" {hint.key} ", f"{hint.label} ")
            width = sum(map(cell_len, texts))
            self._places.append((at, at + width, hint))
            at += width
            segments.append(Segment(texts[0], key if hint.is_possible else off))
            segments.append(Segment(texts[1], style if hint.is_possible else off))
        return Strip(segments).adjust_cell_length(self.size.width, style)

    def on_click(self, event: events.Click) -> None:
        """Do what the hint under the mouse says."""
        for begin, end, hint in self._places:
            if begin <= event.x < end and hint.is_possible:
                self.post_message(self.Clicked(hint.action))

    def _fitting(self) -> list[Hint]:
        first, last = self._hints[:-3], self._hints[-3:]
        room = self.size.width - sum(map(_width, last))
        chosen: list[Hint] = []
        for hint in first:
            room -= _width(hint)
            if room < 0:
                break
            chosen.append(hint)
        return [*chosen, *last]


def _width(hint: Hint) -> int:
    return cell_len(hint.key) + cell_len(hint.label) + 3
