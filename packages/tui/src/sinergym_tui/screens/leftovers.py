"""What is left over on Compute Engine, and away with it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from gcloud_ops.text import one_line
from sinergym_tui import changes
from sinergym_tui.fleet import Fleet
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.asked import AskedScreen
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.views.cells import Cell, plural
from sinergym_tui.views.leftovers import (
    ORPHAN_COLUMNS,
    daily_text,
    orphan_cells,
    orphan_key,
    orphan_line,
    orphan_texts,
    orphan_value,
)
from sinergym_tui.workers import Tell

if TYPE_CHECKING:
    from gcloud_ops.reaping import Orphan

__all__ = ["LeftoversScreen"]


class LeftoversScreen(AskedScreen["Orphan"]):
    """What `gcloud-ops reap` lists."""

    SCOPE = "leftovers"
    PLACE = "left over"
    COLUMNS = ORPHAN_COLUMNS
    BINDINGS = bindings_of("leftovers")
    FILTERED_BY = "a name, kind:disk, where:europe"
    WHAT = "look for what is left over"
    NOTHING = "nothing is left over"

    def ask(self, fleet: Fleet, found: "list[Orphan]", tell: Tell) -> "Sequence[Orphan]":  # noqa: ARG002
        """Look at groups, instances, templates, disks and addresses."""
        return changes.left_over(fleet, tell)

    def key(self, row: "Orphan") -> str:
        """Kind, name and place."""
        return orphan_key(row)

    def cells(self, row: "Orphan", now: datetime) -> tuple[Cell, ...]:  # noqa: ARG002
        """As the columns have them."""
        return orphan_cells(row)

    def texts(self, row: "Orphan") -> Mapping[str, str]:
        """What can be found."""
        return orphan_texts(row)

    def value(self, row: "Orphan", column: str) -> object:
        """What it is ordered by."""
        return orphan_value(row, column)

    def summary(self, now: datetime) -> list[Cell]:
        """How many, and what they cost."""
        found = self.rows()
        words = [Cell(f"{len(found)} left over", "waiting" if found else "muted")]
        if found:
            words.append(Cell(daily_text(found), "strong"))
        return [*super().summary(now), *words]

    def detail(self, row: "Orphan | None") -> list[Cell]:
        """Why it should not be there."""
        return [Cell(orphan_line(row), "strong"), Cell(one_line(row.why))] if row else []

    def action_reap(self) -> None:
        """Ask, then remove what is chosen, or all."""
        wanted = tuple(
            row for row in self.rows() if not self._marked or orphan_key(row) in self._marked
        )

        def work(fleet: Fleet, tell: Tell) -> str:
            return changes.reap(fleet, wanted, tell)

        def begin(sure: bool | None) -> None:
            if sure:
                self.start_change(f"remove {len(wanted)} left over", work)

        question = f"Remove {plural(len(wanted), 'thing')} left over, {daily_text(wanted)}?"
        touches = [
            *map(orphan_line, wanted),
            "what somebody uses again meanwhile stays: it is looked for once more",
        ]
        self.console.push_screen(ConfirmScreen(question, touches, yes="Remove them"), begin)
