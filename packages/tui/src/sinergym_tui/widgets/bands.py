"""Curves of several configurations. Imported only where some are shown: numpy comes with it."""

from collections.abc import Sequence
from typing import Final

from textual_plot import HiResMode, PlotWidget

from sinergym_tui.views.comparing import Band

__all__ = ["MOST_BANDS", "BandPlot", "colour_of"]

MOST_BANDS: Final = 6
"""More lines than that nobody can tell apart."""

_COLOURS: Final = (
    # Of these, each is told from its neighbours also by those who don't see all colours
    # (Okabe and Ito, https://jfly.uni-koeln.de/color/).
    "#56b4e9",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#f0e442",
    "#d55e00",
)


class BandPlot(PlotWidget):
    """A line for the mean of each configuration, faint ones for its quartiles; takes no keys.

    Args:
        id: The widget's id.
    """

    DEFAULT_CSS = """
    BandPlot {
        & > .plot--axis { color: $foreground 40%; }
        & > .plot--tick { color: $foreground 60%; text-style: none; }
        & > .plot--label { color: $foreground 60%; text-style: none; }
        & #legend { background: $surface; }
    }
    """

    can_focus = False

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, allow_pan_and_zoom=False)
        self._bands: tuple[Band, ...] = ()

    def show(self, bands: Sequence[Band]) -> None:
        """Draw these, as many as can be told apart."""
        chosen = tuple(bands[:MOST_BANDS])
        if chosen != self._bands:
            self._bands = chosen
            self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.is_attached:
            return
        self.clear()
        self.set_xlabel("time steps")
        lines = [*zip(self._bands, _COLOURS, strict=False)]
        for band, colour in lines:
            for edge in (band.low, band.high) if band.runs > 1 else ():
                self._line(band.steps, edge, _faint(colour))
        for band, colour in lines:  # above all that is faint
            self._line(band.steps, band.mean, colour)
        self.refresh()

    def _line(self, steps: Sequence[float], values: Sequence[float], style: str) -> None:
        self.plot(x=steps, y=values, line_style=style, hires_mode=HiResMode.BRAILLE)


def _faint(colour: str) -> str:
    """The colour at two fifths of its strength, which is seen on light and dark grounds."""
    parts = (int(colour[at : at + 2], 16) * 2 // 5 + 40 for at in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)


def colour_of(number: int) -> str:
    """The colour of the line of this number; "" where it isn't drawn."""
    return _COLOURS[number] if number < len(_COLOURS) else ""
