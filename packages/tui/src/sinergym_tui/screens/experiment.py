"""One experiment: all that is known of it, and how its reward went."""

from datetime import datetime

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.changing import ask_to_cancel, ask_to_rerun, ask_to_restart
from sinergym_tui.screens.frame import ConsoleScreen, styled, update_line
from sinergym_tui.screens.logs import LogsScreen
from sinergym_tui.screens.sections import room_beside_labels, sections_content
from sinergym_tui.views.cells import Cell
from sinergym_tui.views.experiment import Curve, Extras, experiment_sections
from sinergym_tui.views.sweep import Row, experiment_rows, reason
from sinergym_tui.views.sweeps import STATUS_LOOK, SweepState
from sinergym_tui.workers import Tell

__all__ = ["ExperimentScreen"]

_AGAIN = 30.0  # seconds between two looks into the bucket while it runs


class ExperimentScreen(ConsoleScreen):
    """The facts of an experiment, and its curve.

    Args:
        sweep: The sweep's name.
        experiment: The experiment's id.
    """

    SCOPE = "experiment"
    BINDINGS = bindings_of("experiment")

    DEFAULT_CSS = """
    ExperimentScreen {
        & #parts { height: 1fr; }
        & #facts-scroll { width: 1fr; height: 1fr; padding: 0 1;
            scrollbar-size-vertical: 1; scrollbar-gutter: stable; }
        & #facts { width: 100%; height: auto; }
        & #curve-box { display: none; width: 1fr; height: 1fr; padding: 1 1 0 1; }
        & #curve-title { height: 1; color: $foreground 60%; text-style: bold; }
        & #curve { height: 1fr; }
        &.-wide #curve-box.-known { display: block; }
    }
    """

    def __init__(self, sweep: str, experiment: str) -> None:
        super().__init__()
        self._sweep = sweep
        self.experiment = experiment
        self._extras = Extras()
        self._plotted: Curve | None = None
        self._examined_ended = False

    def body(self) -> ComposeResult:
        """A line, the facts, the curve."""
        yield Static("", id="summary", classes="line", markup=False)
        with Horizontal(id="parts"):
            with VerticalScroll(id="facts-scroll"):
                yield Static("", id="facts", markup=False)
            with Vertical(id="curve-box"):
                yield Static("", id="curve-title", markup=False)

    def on_mount(self) -> None:
        """Look into the bucket, now and again."""
        self.query_one("#facts-scroll").focus()
        self._examine()
        self.set_interval(_AGAIN, self._examine_while_it_runs)

    def on_resize(self) -> None:
        """The facts have another width."""
        self.call_after_refresh(self.repaint)

    @property
    def sweep(self) -> str:
        """The sweep's name."""
        return self._sweep

    @property
    def crumbs(self) -> tuple[str, ...]:
        """The sweep, the experiment."""
        return (self._sweep, self.experiment)

    @property
    def state(self) -> SweepState | None:
        """What is known of the sweep."""
        return self.view.sweep(self._sweep)

    @property
    def row(self) -> Row | None:
        """What is known of the experiment."""
        return next(
            (row for row in experiment_rows(self.state) if row.seen.id == self.experiment), None
        )

    def paint(self, now: datetime) -> None:
        """Show the facts as they are now."""
        state, row = self.state, self.row
        facts = self.query_one("#facts", Static)
        summary = self.query_one("#summary", Static)
        if state is None or row is None:
            update_line(summary, Content("it is not there (any more)" if self.view.taken else "…"))
            return
        sign, tone = STATUS_LOOK[row.seen.status]
        cells = [Cell(self.experiment, "strong"), Cell(f"{sign} {row.seen.status}", tone)]
        update_line(summary, styled([*cells, Cell(reason(row.seen), "muted")]))
        fleet = self.console.fleet
        is_google = fleet is not None and fleet.settings.is_google
        width = self.query_one("#facts-scroll").scrollable_content_region.width
        curve = self._curve_of(row)
        sections = experiment_sections(
            state,
            row,
            self._extras,
            now,
            is_google=is_google,
            curve=None if self.has_class("-wide") else curve,
            width=room_beside_labels(width),
        )
        update_line(facts, sections_content(sections, width))
        facts.set_class(bool(self.view.trouble), "-stale")
        self._plot(curve)
        if row.seen.status.is_final and not self._examined_ended:
            self._examine()  # its last outputs have come with its end

    def can(self, action: str) -> bool | None:
        """Whether it is there."""
        return True if action == "back" or self.row else None

    def action_back(self) -> None:
        """To the sweep."""
        self.console.go_back()

    def action_logs(self) -> None:
        """Its log."""
        self.console.push_screen(LogsScreen(self._sweep, (self.experiment,)))

    def action_cancel(self) -> None:
        """Ask, then cancel it."""
        if state := self.state:
            ask_to_cancel(self.console, state, (self.experiment,))

    def action_rerun(self) -> None:
        """Ask, then run it again."""
        if state := self.state:
            ask_to_rerun(self.console, state, (self.experiment,))

    def action_restart(self) -> None:
        """Ask, then restart its container."""
        if state := self.state:
            ask_to_restart(self.console, state, (self.experiment,))

    def action_copy_command(self) -> None:
        """Its command."""
        if row := self.row:
            self.console.copy(row.seen.experiment.command, "the command")

    def action_next(self) -> None:
        """The experiment after this one."""
        self._go(1)

    def action_previous(self) -> None:
        """The experiment before this one."""
        self._go(-1)

    def _go(self, step: int) -> None:
        ids = [row.seen.id for row in experiment_rows(self.state)]
        if self.experiment not in ids:
            return
        self.experiment = ids[(ids.index(self.experiment) + step) % len(ids)]
        self._extras = Extras()
        self.query_one("#facts-scroll").scroll_home(animate=False)
        self._examine()
        self.repaint()

    # ---------------------------------------------------------------- extras

    def _examine_while_it_runs(self) -> None:
        row = self.row
        if row is not None and not row.seen.status.is_final and self.is_current:
            self._examine()

    def _examine(self) -> None:
        sweep, experiment = self._sweep, self.experiment
        self._examined_ended = self.row is not None and self.row.seen.status.is_final

        def work(fleet: Fleet, tell: Tell) -> Extras:
            import sinergym_tui.widgets.curve  # noqa: F401  # half a second: in this thread, not in the app's

            tell("looking into the bucket, and at its container")
            return fleet.examine(sweep, experiment)

        def show(extras: Extras) -> None:
            if experiment == self.experiment:
                self._extras = extras
                self.repaint()

        self.console.start(Job(title=f"look at {experiment}", group="examine"), work, then=show)

    def _curve_of(self, row: Row) -> Curve | None:
        """The one in its outputs; without one, what the console has seen of its reward."""
        curve, trail = self._extras.curve, row.trail
        if curve is not None or trail is None or len(trail.rewards) < 2:
            return curve
        steps = tuple(float(number) for number in range(1, len(trail.rewards) + 1))
        what = "mean reward, as seen from here"
        return Curve(what=what, over="changes", steps=steps, values=trail.rewards)

    def _plot(self, curve: Curve | None) -> None:
        if curve == self._plotted or self._extras == Extras():
            return
        self._plotted = curve
        box = self.query_one("#curve-box")
        box.set_class(curve is not None, "-known")
        self.call_after_refresh(self.repaint)  # the facts have another width now
        if curve is None:
            return
        update_line(self.query_one("#curve-title", Static), Content(curve.what))
        from sinergym_tui.widgets.curve import CurvePlot

        if not (plots := box.query(CurvePlot)):
            plot = CurvePlot(id="curve")
            box.mount(plot)
        else:
            plot = plots.first()
        plot.show(curve)
