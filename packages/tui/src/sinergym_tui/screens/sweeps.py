"""All sweeps; where there is room, below them the experiments of the one with the cursor."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from textual import on
from textual.app import ComposeResult

from gcloud_ops.text import one_line
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.changing import (
    ask_to_cancel,
    ask_to_delete,
    ask_to_resume,
)
from sinergym_tui.screens.compare import CompareScreen
from sinergym_tui.screens.sweep import SweepScreen
from sinergym_tui.screens.table import TableScreen
from sinergym_tui.views.cells import Cell, money_text, plural
from sinergym_tui.views.sweep import EXPERIMENT_COLUMNS, experiment_cells, experiment_rows
from sinergym_tui.views.sweeps import (
    SWEEP_COLUMNS,
    SweepState,
    seems_interrupted,
    summary_cells,
    sweep_cells,
    sweep_texts,
    sweep_value,
)
from sinergym_tui.widgets.live_table import LiveTable

__all__ = ["SweepsScreen"]


class SweepsScreen(TableScreen[SweepState]):
    """The first screen."""

    SCOPE = "sweeps"
    COLUMNS = SWEEP_COLUMNS
    BINDINGS = bindings_of("sweeps")
    FILTERED_BY = "a name, or state:running"

    DEFAULT_CSS = """
    SweepsScreen {
        & #preview { display: none; }
        &.-tall #table { height: auto; min-height: 6; max-height: 40%; }
        &.-tall #detail { margin-top: 1; }
        &.-tall #preview { display: block; height: 1fr; }
    }
    """

    def body(self) -> ComposeResult:
        """The table, and the experiments of one sweep."""
        yield from super().body()
        yield LiveTable(EXPERIMENT_COLUMNS, has_cursor=False, id="preview")

    @property
    def sweep(self) -> str:
        """The sweep with the cursor."""
        return self.at_cursor

    @property
    def placeholder(self) -> str:
        """What to do where there is nothing yet."""
        if not self.view.taken:
            return self.console.said
        return "no sweeps yet" if self.console.read_only else "no sweeps yet: l launches one"

    def rows(self) -> Sequence[SweepState]:
        """All sweeps, the newest first."""
        return self.view.sweeps

    def key(self, row: SweepState) -> str:
        """Its name."""
        return row.name

    def cells(self, row: SweepState, now: datetime) -> tuple[Cell, ...]:
        """As the columns have them."""
        return sweep_cells(row, now)

    def texts(self, row: SweepState) -> Mapping[str, str]:
        """What can be found."""
        return sweep_texts(row)

    def value(self, row: SweepState, column: str) -> object:
        """What it is ordered by."""
        return sweep_value(row, column)

    def summary(self, now: datetime) -> list[Cell]:  # noqa: ARG002
        """How many there are, and what runs."""
        states = self.view.sweeps
        facts = [state.facts for state in states if state.facts]
        running = sum(each.running for each in facts)
        instances = sum(state.instance_count for state in states)
        cells = [Cell(plural(len(states), "sweep"), "strong")]
        cells.append(
            Cell(f"▶ {plural(running, 'experiment')} running", "busy" if running else "muted")
        )
        cells.append(Cell(plural(instances, "VM"), "strong" if instances else "muted"))
        if costs := [each.cost.spent for each in facts if each.cost]:
            cells.append(Cell(f"{money_text(sum(costs))} so far"))
        return cells

    def detail(self, row: SweepState | None) -> list[Cell]:
        """What is amiss, and how it goes."""
        if row is None:
            return []
        if row.trouble:
            return [Cell(one_line(row.trouble), "bad")]
        cells = [Cell(one_line(row.name), "strong")]
        ours = any(job.sweep == row.name and not job.is_over for job in self.console.jobs)
        if seems_interrupted(row, self.console.clock()) and not ours:
            key = self.console.key_named("resume", self.SCOPE)
            how = f": {key} goes on" if key and not self.console.read_only else ""
            cells.append(Cell(f"interrupted{how}", "waiting"))
        return [*cells, *summary_cells(row)]

    def paint(self, now: datetime) -> None:
        """The sweeps, then the experiments of one."""
        super().paint(now)
        if not self.has_class("-tall"):
            return
        state = self.current
        rows = experiment_rows(state)
        preview = self.query_one("#preview", LiveTable)
        preview.set_width("id", min(28, max([10, *(len(row.seen.id) for row in rows)])))
        preview.show(
            (row.seen.id for row in rows), lambda index: experiment_cells(rows[index], now)
        )
        preview.set_stale(bool(self.view.trouble))

    def action_open(self) -> None:
        """Its experiments."""
        if self.table.key:
            self.console.push_screen(SweepScreen(self.table.key))

    def action_compare(self) -> None:
        """What was learned from it."""
        if self.table.key:
            self.console.push_screen(CompareScreen(self.table.key))

    def action_launch(self) -> None:
        """Fill in a form, or pick a file."""
        from sinergym_tui.screens.launch import LaunchScreen

        self.console.push_screen(LaunchScreen(self.console.folder))

    def action_cancel_sweep(self) -> None:
        """Ask, then cancel it."""
        if state := self.current:
            ask_to_cancel(self.console, state, ())

    def action_resume(self) -> None:
        """Ask, then go on with its launch."""
        if state := self.current:
            ask_to_resume(self.console, state)

    def action_delete_sweep(self) -> None:
        """Ask, then delete it."""
        if state := self.current:
            ask_to_delete(self.console, state)

    @on(LiveTable.Chosen, "#table")
    def _open(self) -> None:
        self.action_open()

    @on(LiveTable.Chosen, "#preview")
    def _open_from_preview(self, message: LiveTable.Chosen) -> None:
        message.stop()
        self.action_open()

    @on(LiveTable.Highlighted, "#table")
    def _look_closely(self) -> None:
        self.console.look_closely()
        self.repaint()
