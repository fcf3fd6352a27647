"""What may keep a sweep from running, as it is found, and what to do about it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sinergym_tui.fleet import Fleet
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.asked import AskedScreen
from sinergym_tui.views.cells import Cell, plural
from sinergym_tui.views.doctor import (
    FINDING_COLUMNS,
    finding_advice,
    finding_cells,
    finding_texts,
    finding_value,
)
from sinergym_tui.workers import Tell

if TYPE_CHECKING:
    from gcloud_ops.doctor import Finding

__all__ = ["DoctorScreen"]


class DoctorScreen(AskedScreen["Finding"]):
    """The checks of `gcloud-ops doctor`."""

    SCOPE = PLACE = "doctor"
    COLUMNS = FINDING_COLUMNS
    BINDINGS = bindings_of("doctor")
    FILTERED_BY = "words, level:problem"
    WHAT = "examine the project"

    def ask(self, fleet: Fleet, found: "list[Finding]", tell: Tell) -> "Sequence[Finding]":
        """Examine; each finding is shown as it comes, at the end the worst first."""
        from gcloud_ops import doctor

        for finding in doctor.examine(fleet.clients):
            found.append(finding)
            tell(finding.name)
        return sorted(found, key=lambda one: finding_value(one, "level"))  # type: ignore[arg-type,return-value]

    def arrived(self) -> None:
        """Begin with the worst."""
        self.table.cursor = 0

    def key(self, row: "Finding") -> str:
        """What was looked at, and what was found."""
        return f"{row.name}: {row.message}"

    def cells(self, row: "Finding", now: datetime) -> tuple[Cell, ...]:  # noqa: ARG002
        """As the columns have them."""
        return finding_cells(row)

    def texts(self, row: "Finding") -> Mapping[str, str]:
        """What can be found."""
        return finding_texts(row)

    def value(self, row: "Finding", column: str) -> object:
        """What it is ordered by."""
        return finding_value(row, column)

    def summary(self, now: datetime) -> list[Cell]:
        """How many of each kind."""
        levels = [one.level for one in self.rows()]
        cells = super().summary(now)
        if problems := levels.count("problem"):
            cells.append(Cell(f"✗ {plural(problems, 'problem')}", "bad"))
        if warnings := levels.count("warning"):
            cells.append(Cell(f"! {warnings} to look at", "waiting"))
        cells.append(Cell(f"✓ {levels.count('ok')} well", "good"))
        if not self.is_asking and levels and not problems:
            cells.append(Cell("a sweep can run", "strong"))
        return cells

    def detail(self, row: "Finding | None") -> list[Cell]:
        """What to do about it."""
        return finding_advice(row) if row else []
