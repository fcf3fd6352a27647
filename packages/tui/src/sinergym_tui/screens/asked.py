"""A table of what is asked for when it is looked at, not by the poller."""

from collections.abc import Sequence
from datetime import datetime

from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.screens.table import TableScreen
from sinergym_tui.views.cells import Cell
from sinergym_tui.widgets.prompt import Prompt
from sinergym_tui.workers import Tell

__all__ = ["AskedScreen"]

_WHILE_ASKING = 0.3  # seconds between two paintings


class AskedScreen[T](TableScreen[T]):
    """Rows that a job brings: `ask` looks for them, and may give them one after the other."""

    DEFAULT_CSS = """
    AskedScreen {
        & #detail { height: auto; max-height: 5; text-wrap: wrap; text-overflow: fold; }
    }
    """

    WHAT = "look"
    """What the job is called."""
    NOTHING = "there is nothing"

    def __init__(self) -> None:
        super().__init__()
        self._found: list[T] = []
        self._known: Sequence[T] | None = None
        self._trouble = ""
        self._asking: Job | None = None

    # ------------------------------------------------------- what a screen says

    def ask(self, fleet: Fleet, found: list[T], tell: Tell) -> Sequence[T]:
        """In a thread: look; what is appended to `found` is shown already."""
        raise NotImplementedError

    def arrived(self) -> None:
        """Everything that was looked for is shown."""

    # --------------------------------------------------------------- the screen

    def on_mount(self) -> None:
        """Look."""
        self.look()
        self.set_interval(_WHILE_ASKING, self._show_what_comes)

    def look(self) -> None:
        """Look, or look again; what is known stays to be seen until then."""
        found: list[T] = []

        def work(fleet: Fleet, tell: Tell) -> Sequence[T]:
            tell("looking")
            return self.ask(fleet, found, tell)

        if self.console.fleet is None:
            return
        self._found, self._trouble = found, ""
        self._asking = Job(title=self.WHAT, group=self.SCOPE)
        self.console.start(self._asking, work, then=self._show, otherwise=self._show_trouble)

    @property
    def is_asking(self) -> bool:
        """Whether it looks just now."""
        return self._asking is not None

    @property
    def placeholder(self) -> str:
        """Why there is nothing."""
        if self._trouble:
            return self._trouble
        return self.NOTHING if self._known is not None and not self.is_asking else "looking …"

    def rows(self) -> Sequence[T]:
        """What was found; while nothing is known yet, what has come so far."""
        return [*self._found] if self._known is None else self._known

    def summary(self, now: datetime) -> list[Cell]:  # noqa: ARG002
        """That it looks, or why it can't."""
        if self._trouble:
            return [Cell(self._trouble, "bad")]
        return [Cell("looking …", "busy")] if self.is_asking else []

    def can(self, action: str) -> bool | None:
        """Back is always to the sweeps."""
        return True if action == "back" else super().can(action)

    async def action_back(self) -> None:
        """Out of the filter, out of the choice, then back."""
        if self.query_one(Prompt).what or self._marked:
            await super().action_back()
        else:
            self.console.go_back()

    def _show_what_comes(self) -> None:
        if self._asking is None:
            if self._known is None and not self._trouble and self.console.fleet is not None:
                self.look()  # it was opened before the cloud was reached
        elif self._found and self.is_current:
            self.repaint()

    def _show(self, rows: Sequence[T]) -> None:
        self._known, self._asking = rows, None
        self.repaint()
        self.arrived()

    def _show_trouble(self, reason: str) -> None:
        self._trouble, self._asking = reason, None
        self.repaint()
