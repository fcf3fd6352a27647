"""A learning curve. Imported only where one is shown: numpy comes with it."""

from textual_plot import HiResMode, PlotWidget

from sinergym_tui.views.experiment import Curve

__all__ = ["CurvePlot"]


class CurvePlot(PlotWidget):
    """One line over time steps; takes no keys.

    Args:
        id: The widget's id.
    """

    DEFAULT_CSS = """
    CurvePlot {
        & > .plot--axis { color: $foreground 40%; }
        & > .plot--tick { color: $foreground 60%; text-style: none; }
        & > .plot--label { color: $foreground 60%; text-style: none; }
    }
    """

    can_focus = False

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, allow_pan_and_zoom=False)
        self._curve: Curve | None = None

    def show(self, curve: Curve) -> None:
        """Draw this one."""
        if curve != self._curve:
            self._curve = curve
            self.call_after_refresh(self._draw)

    def notify_style_update(self) -> None:
        """Another theme: another colour of the line."""
        super().notify_style_update()
        if self.is_mounted:
            self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        curve = self._curve
        if curve is None or not self.is_attached:
            return
        self.clear()
        colour = self.app.get_css_variables().get("text-primary", "green")
        colour = colour if colour.startswith("#") else "green"
        self.set_xlabel("time steps")
        self.plot(x=curve.steps, y=curve.values, line_style=colour, hires_mode=HiResMode.BRAILLE)
