"""What was noticed, and what was told of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sinergym_tui.fleet import Fleet
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.asked import AskedScreen
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


class IncidentsScreen(AskedScreen[Notice]):
    """Incidents of our alert policies; on the local cloud also the messages it has sent."""

    SCOPE = PLACE = "incidents"
    COLUMNS = INCIDENT_COLUMNS
    BINDINGS = bindings_of("incidents")
    FILTERED_BY = "words, sweep:name, state:open"
    WHAT = "look for incidents"

    def on_mount(self) -> None:
        """Look again, now and then."""
        self.set_interval(_AGAIN, self.look)

    def ask(self, fleet: Fleet, found: list[Notice], tell: Tell) -> Sequence[Notice]:  # noqa: ARG002
        """Look at Monitoring."""
        return fleet.notices()

    @property
    def placeholder(self) -> str:
        """Why there is nothing."""
        fleet = self.console.fleet
        if fleet is not None and not fleet.settings.has_monitoring:
            return "this cloud has no Monitoring"
        # It looks again and again: that is no news.
        return "nothing was noticed yet" if self._known == () else super().placeholder

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
        notices = self.rows()
        still_open = sum(notice.state == "OPEN" for notice in notices)
        cells = [Cell(f"{still_open} open", "waiting" if still_open else "muted")]
        cells.append(Cell(f"{len(notices)} incidents and messages", "muted"))
        return [*cells, Cell(self._trouble, "bad")] if self._trouble else cells

    def detail(self, row: Notice | None) -> list[Cell]:
        """What was said."""
        return [notice_cells(row, self.console.clock())[-1]] if row else []
