"""The tracking server: what there is of it, what it costs, and changes of that."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from textual.containers import VerticalScroll

from gcloud_ops.text import one_line
from sinergym_tui import tracking
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.asked import AskedScreen
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.form import Field, FormScreen
from sinergym_tui.screens.text import TextScreen
from sinergym_tui.tracking import Proposal
from sinergym_tui.views.cells import Cell, money_text
from sinergym_tui.views.tracking import (
    TRACKING_COLUMNS,
    TrackingRow,
    check_row,
    down_touches,
    finding_row,
    up_touches,
)
from sinergym_tui.workers import Tell

if TYPE_CHECKING:
    from mlflow_infra.wanted import Infrastructure

__all__ = ["TrackingScreen"]


class TrackingScreen(AskedScreen[TrackingRow]):
    """What `mlflow-infra` reports and does."""

    SCOPE = "tracking"
    PLACE = "tracking server"
    COLUMNS = TRACKING_COLUMNS
    BINDINGS = bindings_of("tracking")
    FILTERED_BY = "words, state:missing"
    WHAT = "look at the tracking server"

    def __init__(self) -> None:
        super().__init__()
        self._seen: Proposal | None = None
        self._checks: tuple[TrackingRow, ...] = ()

    def ask(self, fleet: Fleet, found: list[TrackingRow], tell: Tell) -> Sequence[TrackingRow]:  # noqa: ARG002
        """Look at each resource."""
        tell("looking at its resources")
        seen = tracking.look(fleet)
        self._seen = seen
        return [finding_row(one) for one in seen.plan.findings]

    def rows(self) -> Sequence[TrackingRow]:
        """The checks, then the resources."""
        return [*self._checks, *super().rows()]

    def key(self, row: TrackingRow) -> str:
        """What it is."""
        return row.what

    def cells(self, row: TrackingRow, now: datetime) -> tuple[Cell, ...]:  # noqa: ARG002
        """As the columns have them."""
        return row.cells

    def texts(self, row: TrackingRow) -> Mapping[str, str]:
        """What can be found."""
        return row.texts

    def value(self, row: TrackingRow, column: str) -> object:
        """What it is ordered by."""
        if column == "monthly":
            return row.monthly
        return row.holds_data if column == "data" else row.texts.get(column)

    def summary(self, now: datetime) -> list[Cell]:
        """Whether it is there, where, and what it costs a month."""
        cells, seen = super().summary(now), self._seen
        if seen is None or self._trouble:
            return cells
        plan, infra = seen.plan, seen.infra
        if not seen.is_there:
            cells.append(Cell("there is none: u brings one up", "waiting"))
        elif plan.changes:
            cells.append(Cell(f"! {len(plan.changes)} to make or mend", "waiting"))
        else:
            cells.append(Cell("✓ all is there", "good"))
        known = "" if plan.is_priced else " and more"
        cells.append(Cell(f"{money_text(plan.monthly)}{known} a month", "strong"))
        words = one_line(f"{infra.zone} · {infra.machine_type} · {infra.tier}")
        cells.append(Cell(words, "muted"))
        return cells

    def detail(self, row: TrackingRow | None) -> list[Cell]:
        """What is said of it."""
        if row is None:
            return []
        data = [Cell("● holds data", "waiting")] if row.holds_data else []
        return [Cell(one_line(row.what), "strong"), *data, Cell(one_line(row.words, limit=600))]

    def can(self, action: str) -> bool | None:
        """What goes with what there is."""
        seen = self._seen
        if action == "bring_up":
            return True if seen is not None else None
        if action in {"open_page", "check", "server_log", "restart_server"}:
            return True if seen is not None and seen.has_server else None
        if action == "take_down":
            return True if seen is not None and seen.going else None
        if action == "delete_everything":
            return True if seen is not None and seen.staying else None
        return super().can(action)

    # ----------------------------------------------------------------- looking

    def action_open_page(self) -> None:
        """Open its web page, and say where it is."""
        if (seen := self._seen) is None:
            return

        def show(uri: str) -> None:
            if self.app.is_web or tracking.has_browser():
                self.app.open_url(uri)
            self.console.copy(uri, uri)

        job = Job(title="find the tracking server's page", group="page")
        work = lambda fleet, _tell: tracking.address(fleet, seen.infra)  # noqa: E731
        self.start_look(job, work, then=show)

    def action_check(self) -> None:
        """Ask the server itself; the answers come above its resources."""
        if (seen := self._seen) is None:
            return

        def work(fleet: Fleet, tell: Tell) -> tuple[TrackingRow, ...]:
            found = []
            for one in tracking.check(fleet, seen.infra):
                tell(f"{one.name}: {one.detail}")
                found.append(check_row(one))
            return tuple(found)

        def show(found: tuple[TrackingRow, ...]) -> None:
            self._checks = found
            bad = [row for row in found if not row.is_good]
            self.console.tell(
                f"{len(bad)} not well" if bad else "the tracking server is well",
                "warning" if bad else "information",
            )
            self.repaint()

        self.start_look(Job(title="check the tracking server", group="check"), work, then=show)

    def action_server_log(self) -> None:
        """Read what it has printed."""
        if (seen := self._seen) is None:
            return

        def show(text: str) -> None:
            window = TextScreen("The tracking server's log", text)
            self.console.push_screen(window)
            # What it has said last is what one wants to know.
            window.call_after_refresh(
                lambda: window.query_one(VerticalScroll).scroll_end(animate=False)
            )

        job = Job(title="read the tracking server's log", group="server log")
        self.start_look(job, lambda fleet, tell: tracking.log(fleet, seen.infra, tell), then=show)

    # ----------------------------------------------------------------- changes

    def action_bring_up(self) -> None:
        """Ask for the options, look what that would make, ask, make it."""
        if (seen := self._seen) is None:
            return
        infra = seen.infra
        is_google = self.console.fleet is not None and self.console.fleet.settings.is_google
        ranges = ", ".join(infra.source_ranges) if seen.is_there or not is_google else ""
        fields = [
            Field(
                key="ranges",
                label="Who may reach it",
                value=ranges,
                placeholder="203.0.113.7/32, several with commas; none: only trainers",
            ),
            Field(key="machine", label="Machine type", value=infra.machine_type),
            Field(key="tier", label="Database", value=infra.tier),
            Field(key="image", label="Image", value=infra.image),
        ]
        note = "What is there is left as it is; the next step shows what will be made."

        def go_on(filled: dict[str, str] | None) -> None:
            if filled is not None:
                self._propose(filled)

        form = FormScreen(
            "Bring up the tracking server",
            fields,
            yes="Look",
            note=note,
            check=partial(tracking.objection, infra),
        )
        self.console.push_screen(form, go_on)

    def _propose(self, filled: Mapping[str, str]) -> None:
        def work(fleet: Fleet, tell: Tell) -> Proposal:
            tell("looking at what there is")
            return tracking.proposed(fleet, tracking.given(filled))

        job = Job(title="plan the tracking server", group="propose")
        self.start_look(job, work, then=self._ask_to_bring_up)

    def _ask_to_bring_up(self, seen: Proposal) -> None:
        plan, infra = seen.plan, seen.infra
        if not plan.changes:
            self.console.tell("all is there as it should be")
            return
        self._confirm(
            f"Bring up the tracking server, for about {money_text(plan.monthly)} a month?",
            up_touches(seen),
            "Bring it up",
            "bring up the tracking server",
            lambda fleet, tell: tracking.bring_up(fleet, infra, tell),
        )

    def action_restart_server(self) -> None:
        """Ask, then restart it."""
        if (seen := self._seen) is not None:
            self._confirm(
                "Restart the tracking server?",
                ["it is away for a minute or two; trainings keep what they log until it is back"],
                "Restart it",
                "restart the tracking server",
                lambda fleet, tell: tracking.restart(fleet, seen.infra, tell),
            )

    def action_take_down(self) -> None:
        """Ask, then remove all but the data."""
        if (seen := self._seen) is not None:
            self._confirm(
                "Remove the tracking server?",
                down_touches(seen, with_data=False),
                "Remove it",
                "remove the tracking server",
                lambda fleet, tell: tracking.take_down(fleet, seen.infra, tell),
                typed=seen.name,
            )

    def action_delete_everything(self) -> None:
        """Ask for the bucket's name, then remove the data too."""
        if (seen := self._seen) is not None:
            self._confirm(
                "Remove the tracking server with all runs, metrics and artifacts, for good?",
                down_touches(seen, with_data=True),
                "Remove it for good",
                "remove the tracking server and its data",
                partial(_delete, infra=seen.infra),
                typed=seen.infra.bucket,
            )

    def _confirm(
        self,
        question: str,
        touches: Sequence[str],
        yes: str,
        title: str,
        work: Callable[[Fleet, Tell], str],
        *,
        typed: str = "",
    ) -> None:
        def begin(sure: bool | None) -> None:
            if sure:
                self._checks = ()
                self.start_change(title, work)

        lines = [one_line(line) for line in touches]
        self.console.push_screen(
            ConfirmScreen(one_line(question), lines, yes=yes, typed=typed), begin
        )


def _delete(fleet: Fleet, tell: Tell, *, infra: "Infrastructure") -> str:
    return tracking.take_down(fleet, infra, tell, delete_data=True)
