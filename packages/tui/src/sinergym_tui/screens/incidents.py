"""What was noticed, and what was told of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.table import TableScreen
from sinergym_tui.views.cells import Cell
from sinergym_tui.views.incidents import (
    INCIDENT_COLUMNS,
    Notice,
    notice_cells,
    notice_texts,
    notice_value,
)
from sinergym_tui.workers import Tell

__all__ = ["IncidentsScreen"]

_AGAIN = 10.0  # seconds between two looks


class IncidentsScreen(TableScreen[Notice]):
    """Incidents of our alert policies; on the local cloud also the messages it has sent."""

    SCOPE = PLACE = "incidents"
    COLUMNS = INCIDENT_COLUMNS
    BINDINGS = bindings_of("incidents")
    FILTERED_BY = "words, sweep:name, state:open"

    def __init__(self) -> None:
        super().__init__()
        self._notices: tuple[Notice, ...] | None = None
        self._trouble = ""

    def on_mount(self) -> None:
        """Look, now and again."""
        self.ask()
        self.set_interval(_AGAIN, self.ask)

    def ask(self) -> None:
        """Look at Monitoring."""

        def work(fleet: Fleet, tell: Tell) -> tuple[Notice, ...]:
            tell("asking Monitoring")
            return fleet.notices()

        job = Job(title="look for incidents", group="incidents")
        self.console.start(job, work, then=self._show, otherwise=self._show_trouble)

    @property
    def crumbs(self) -> tuple[str, ...]:
        """A place of its own."""
        return ()

    @property
    def placeholder(self) -> str:
        """Why there is nothing."""
        if self._trouble:
            return self._trouble
        fleet = self.console.fleet
        if fleet is not None and not fleet.settings.has_monitoring:
            return "this cloud has no Monitoring"
        return "looking …" if self._notices is None else "nothing was noticed yet"

    def rows(self) -> Sequence[Notice]:
        """The newest first."""
        return self._notices or ()

    def key(self, row: Notice) -> str:
        """Its name."""
        return row.key

    def cells(self, row: Notice, now: datetime) -> tuple[Cell, ...]:
        """As the columns have them."""
        return notice_cells(row, now)

    def texts(self, row: Notice) -> Mapping[str, str]:
        """What can be found."""
        return notice_texts(row)

    def value(self, row: Notice, column: str) -> object:
        """What it is ordered by."""
        return notice_value(row, column)

    def summary(self, now: datetime) -> list[Cell]:  # noqa: ARG002
        """How many are open."""
        notices = self._notices or ()
        still_open = sum(notice.state == "OPEN" for notice in notices)
        cells = [Cell(f"{still_open} open", "waiting" if still_open else "muted")]
        cells.append(Cell(f"{len(notices)} incidents and messages", "muted"))
        return [*cells, Cell(self._trouble, "bad")] if self._trouble else cells

    def detail(self, row: Notice | None) -> list[Cell]:
        """What was said."""
        return [notice_cells(row, self.console.clock())[-1]] if row else []

    def can(self, action: str) -> bool | None:
        """Back is always to the sweeps."""
        return True if action == "back" else super().can(action)

    async def action_back(self) -> None:
        """Out of the filter, then back."""
        if self.prompt.what:
            self.prompt.action_leave()
        else:
            self.console.go_back()

    def _show(self, notices: tuple[Notice, ...]) -> None:
        self._notices, self._trouble = notices, ""
        self.repaint()

    def _show_trouble(self, reason: str) -> None:
        self._trouble = reason
        self.repaint()
