"""Facts under titles, as one text."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Final

from rich.cells import cell_len
from textual.content import Content, Span

from sinergym_tui.screens.frame import TONE_STYLES
from sinergym_tui.views.experiment import Section

__all__ = ["room_beside_labels", "sections_content"]

_LABEL: Final = 14  # cells of a label


def room_beside_labels(width: int) -> int:
    """How much of a line of this width is left for what stands beside its label."""
    return max(20, width - _LABEL - 3)


def sections_content(sections: Sequence[Section], width: int) -> Content:
    """Sections as one text: a title, then labels and what is to say, beside one another."""
    text, spans = "", []
    room = room_beside_labels(width)

    def add(piece: str, style: str) -> None:
        nonlocal text
        spans.append(Span(len(text), len(text) + len(piece), style))
        text += piece

    for section in sections:
        add(f"\n{section.title}\n" if text else f"{section.title}\n", "bold $text-primary")
        for line in section.lines:
            label = line.label
            for piece in wrap(line.cell.text, room, break_on_hyphens=False) or [""]:
                add(f"  {label}{' ' * (_LABEL - cell_len(label))} ", "$foreground 60%")
                add(f"{piece}\n", TONE_STYLES[line.cell.tone])
                label = ""
    return Content(text.rstrip("\n"), spans)
