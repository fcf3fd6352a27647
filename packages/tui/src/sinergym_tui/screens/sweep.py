"""One sweep: its experiments."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from textual import on

from gcloud_ops.text import one_line
from sinergym_tui.fleet import MOST_LOGS
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.changing import ask_to_cancel, ask_to_rerun, ask_to_restart
from sinergym_tui.screens.compare import CompareScreen
from sinergym_tui.screens.experiment import ExperimentScreen
from sinergym_tui.screens.logs import LogsScreen
from sinergym_tui.screens.table import TableScreen
from sinergym_tui.views.cells import Cell
from sinergym_tui.views.sweep import (
    EXPERIMENT_COLUMNS,
    Row,
    experiment_cells,
    experiment_rows,
    experiment_texts,
    experiment_value,
    reason,
)
from sinergym_tui.views.sweeps import STATUS_LOOK, SweepState, summary_cells
from sinergym_tui.widgets.live_table import LiveTable

__all__ = ["SweepScreen"]


class SweepScreen(TableScreen[Row]):
    """The experiments of a sweep.

    Args:
        sweep: Its name.
    """

    SCOPE = "sweep"
    COLUMNS = EXPERIMENT_COLUMNS
    BINDINGS = bindings_of("sweep")
    FILTERED_BY = "a name, status:failed, kind:oom, host:..., !word"

    def __init__(self, sweep: str) -> None:
        super().__init__()
        self._sweep = sweep

    @property
    def sweep(self) -> str:
        """Its name."""
        return self._sweep

    @property
    def crumbs(self) -> tuple[str, ...]:
        """Its name."""
        return (self._sweep,)

    @property
    def state(self) -> SweepState | None:
        """What is known of it."""
        return self.view.sweep(self._sweep)

    @property
    def placeholder(self) -> str:
        """Why there is nothing."""
        state = self.state
        if state is None:
            return "there is no such sweep (any more)" if self.view.taken else "looking …"
        return one_line(state.trouble) or "looking …"

    def rows(self) -> Sequence[Row]:
        """All experiments, in the manifest's order."""
        return experiment_rows(self.state)

    def key(self, row: Row) -> str:
        """Its id."""
        return row.seen.id

    def cells(self, row: Row, now: datetime) -> tuple[Cell, ...]:
        """As the columns have them."""
        return experiment_cells(row, now)

    def texts(self, row: Row) -> Mapping[str, str]:
        """What can be found."""
        return experiment_texts(row)

    def value(self, row: Row, column: str) -> object:
        """What it is ordered by."""
        return experiment_value(row, column)

    def summary(self, now: datetime) -> list[Cell]:  # noqa: ARG002
        """How many of what, how far."""
        state = self.state
        return summary_cells(state) if state else []

    def detail(self, row: Row | None) -> list[Cell]:
        """Why it is where it is, and what it runs."""
        if row is None:
            return []
        why, tone = reason(row.seen), STATUS_LOOK[row.seen.status][1]
        cells = [Cell(one_line(row.seen.id), "strong")]
        if why:
            cells.append(Cell(why, tone))
        return [*cells, Cell(one_line(row.seen.experiment.command), "muted")]

    def paint(self, now: datetime) -> None:
        """With room for the longest id."""
        state = self.state
        if state and state.snapshot:
            longest = max((len(row.id) for row in state.snapshot.rows), default=0)
            self.table.set_width("id", min(28, max(10, longest)))
        super().paint(now)

    def action_open(self) -> None:
        """The facts of the one with the cursor."""
        if self.table.key:
            self.console.push_screen(ExperimentScreen(self._sweep, self.table.key))

    def action_logs(self) -> None:
        """The logs of those that are chosen."""
        self._open_logs(self.chosen)

    def action_all_logs(self) -> None:
        """The logs of all that are shown."""
        self._open_logs([row.seen.id for row in self.shown])

    def action_copy_command(self) -> None:
        """The command of the one with the cursor."""
        if row := self.current:
            self.console.copy(row.seen.experiment.command, "the command")

    def action_compare(self) -> None:
        """What was learned from it."""
        self.console.push_screen(CompareScreen(self._sweep))

    def action_cancel(self) -> None:
        """Ask, then cancel those that are chosen."""
        if state := self.state:
            ask_to_cancel(self.console, state, self.chosen)

    def action_rerun(self) -> None:
        """Ask, then run those again that are chosen and have ended."""
        if state := self.state:
            ask_to_rerun(self.console, state, self.chosen)

    def action_restart(self) -> None:
        """Ask, then restart the containers of those that are chosen."""
        if state := self.state:
            ask_to_restart(self.console, state, self.chosen)

    def _open_logs(self, experiments: Sequence[str]) -> None:
        if len(experiments) > MOST_LOGS:
            self.console.tell(f"the first {MOST_LOGS} of {len(experiments)} logs are shown")
        if experiments:
            self.console.push_screen(LogsScreen(self._sweep, tuple(experiments[:MOST_LOGS])))

    @on(LiveTable.Chosen, "#table")
    def _open(self) -> None:
        self.action_open()
