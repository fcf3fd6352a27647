"""What was learned: configurations ranked over their seeds, and their curves overlaid."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content, Span
from textual.widgets import Static

from gcloud_ops.results import METRIC
from gcloud_ops.text import one_line
from sinergym_tui.comparing import Learned, learned
from sinergym_tui.fleet import Fleet
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.asked import AskedScreen
from sinergym_tui.screens.form import Field, FormScreen
from sinergym_tui.screens.frame import update_line
from sinergym_tui.views.cells import Cell, number_text, plural
from sinergym_tui.views.comparing import RANKING_COLUMNS, Band, Ranked, bands_of
from sinergym_tui.workers import Tell

__all__ = ["CompareScreen"]


class CompareScreen(AskedScreen[Ranked]):
    """The leaderboard of a sweep, or of two, and the curves of what it ranks.

    Args:
        sweep: The sweep's name.
    """

    SCOPE = "compare"
    PLACE = "compare"
    COLUMNS = RANKING_COLUMNS
    BINDINGS = bindings_of("compare")
    FILTERED_BY = "words of a configuration, sweep:name"
    WHAT = "look at what was learned"
    NOTHING = "no experiment has reported anything yet"

    DEFAULT_CSS = """
    CompareScreen {
        & #table { height: auto; min-height: 4; max-height: 45%; }
        & #detail { max-height: 2; }
        & #curves { height: 1fr; padding: 0 1; }
        & #legend-line { height: auto; max-height: 3; text-wrap: wrap; }
        & #plot { height: 1fr; }
    }
    """

    def __init__(self, sweep: str) -> None:
        super().__init__()
        self._names: tuple[str, ...] = (sweep,)
        self._metric = METRIC
        self._learned: Learned | None = None
        self._drawn: list[Band] | None = None

    def body(self) -> ComposeResult:
        """The leaderboard, and below it the curves."""
        yield from super().body()
        with Vertical(id="curves"):
            yield Static("", id="legend-line", markup=False)

    @property
    def crumbs(self) -> tuple[str, ...]:
        """The sweep, or both."""
        return (" versus ".join(self._names),)

    @property
    def sweep(self) -> str:
        """The sweep's name."""
        return self._names[0]

    def ask(self, fleet: Fleet, found: list[Ranked], tell: Tell) -> Sequence[Ranked]:  # noqa: ARG002
        """Look at the records and the curves."""
        import sinergym_tui.widgets.bands  # noqa: F401  # half a second: in this thread

        seen = learned(fleet, self._names, metric=self._metric, tell=tell)
        self._learned = seen
        return seen.rows

    def key(self, row: Ranked) -> str:
        """Sweep and configuration."""
        return row.key

    def cells(self, row: Ranked, now: datetime) -> tuple[Cell, ...]:  # noqa: ARG002
        """As the columns have them."""
        return row.cells

    def texts(self, row: Ranked) -> Mapping[str, str]:
        """What can be found."""
        return row.texts

    def value(self, row: Ranked, column: str) -> object:
        """What it is ordered by."""
        return row.value(column)

    def summary(self, now: datetime) -> list[Cell]:
        """By what it is ranked, and how much there is to rank."""
        rows, cells = self.rows(), super().summary(now)
        if self._trouble:
            return cells
        runs = sum(len(row.ranking.values) for row in rows)
        cells.append(Cell(plural(len(rows), "configuration"), "strong"))
        cells.append(Cell(f"{plural(runs, 'run')} with a value", "muted"))
        cells.append(Cell(f"by {one_line(self._metric)}, interquartile mean", "muted"))
        return cells

    def detail(self, row: Ranked | None) -> list[Cell]:
        """Its command, and how it compares."""
        if row is None:
            return []
        found = row.ranking
        words = [Cell(one_line(found.label), "strong")]
        if row.better is not None:
            other = self._names[-1]
            words.append(
                Cell(
                    f"a run in {one_line(other)} is better at {row.better * 100:.0f} %", "waiting"
                )
            )
        words.append(Cell(f"mean {number_text(found.mean)}"))
        words.append(Cell(one_line(" ".join(found.configuration.words), limit=400), "muted"))
        return words

    def paint(self, now: datetime) -> None:
        """The leaderboard, then the curves."""
        super().paint(now)
        self._paint_curves()

    def can(self, action: str) -> bool | None:
        """There must be another sweep, or another metric."""
        if action == "with_other":
            return True if len(self.view.sweeps) > 1 else None
        if action == "by_metric":
            return True if self._learned and len(self._learned.metrics) > 1 else None
        return super().can(action)

    def action_with_other(self) -> None:
        """Choose the sweep to put beside."""
        others = [state.name for state in self.view.sweeps if state.name != self._names[0]]
        choices = [("none", ""), *((one_line(name), name) for name in others)]

        def take(filled: dict[str, str] | None) -> None:
            if filled is not None:
                self._names = (self._names[0], *filter(None, [filled["other"]]))
                self._look_anew()

        now = self._names[1] if len(self._names) > 1 else (others[0] if others else "")
        fields = [Field(key="other", label="Beside it", choices=choices, value=now)]
        title = one_line(f"Compare {self._names[0]} with")
        self.console.push_screen(FormScreen(title, fields, yes="Compare"), take)

    def action_by_metric(self) -> None:
        """Choose by what is ranked."""
        metrics = self._learned.metrics if self._learned else ()
        choices = [(one_line(name), name) for name in metrics]
        value = self._metric if self._metric in metrics else ""

        def take(filled: dict[str, str] | None) -> None:
            if filled is not None:
                self._metric = filled["metric"]
                self._look_anew()

        fields = [Field(key="metric", label="Metric", choices=choices, value=value)]
        note = "Higher is better."
        self.console.push_screen(FormScreen("Rank by", fields, yes="Rank", note=note), take)

    def _look_anew(self) -> None:
        self._known = None
        self.look()
        self.repaint()

    # ------------------------------------------------------------------ curves

    def _paint_curves(self) -> None:
        seen = self._learned
        if seen is None or self.is_asking:
            return
        bands = bands_of(seen.rows, seen.curves, several=len(self._names) > 1)
        if bands == self._drawn:
            return
        self._drawn = bands
        line = self.query_one("#legend-line", Static)
        box = self.query_one("#curves")
        if not bands:
            update_line(line, Content("no learning curve yet (progress.csv in the outputs)"))
            box.query("#plot").remove()
            return
        from sinergym_tui.widgets.bands import BandPlot

        update_line(line, _legend(bands))
        if not (plots := box.query(BandPlot)):
            plot = BandPlot(id="plot")
            box.mount(plot)
        else:
            plot = plots.first()
        plot.show(bands)


def _legend(bands: Sequence[Band]) -> Content:
    """Which line is which, and what the faint ones are."""
    from sinergym_tui.widgets.bands import MOST_BANDS, colour_of

    text, spans = "", []
    for number, band in enumerate(bands[:MOST_BANDS]):
        text += "   " if text else ""
        spans.append(Span(len(text), len(text) + 2, colour_of(number)))
        text += f"━━ {one_line(band.label)} ({band.runs})"
    text += f"   and {len(bands) - MOST_BANDS} more" if len(bands) > MOST_BANDS else ""
    text += "   faint: quartiles" if any(band.runs > 1 for band in bands) else ""
    return Content(text, spans)
