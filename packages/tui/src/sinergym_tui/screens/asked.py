"""A table of what is asked for when it is looked at, not by the poller."""

from collections.abc import Callable, Sequence
from datetime import datetime

from gcloud_ops.text import one_line
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.screens.table import TableScreen
from sinergym_tui.views.cells import Cell
from sinergym_tui.widgets.prompt import Prompt
from sinergym_tui.workers import FleetWork, Tell

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
        self._looks: list[Job] = []
        self._changes: list[Job] = []

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
        self._found = found
        self._asking = Job(title=self.WHAT, group=self.SCOPE)
        self.start_look(self._asking, work, then=self._show, otherwise=self._show_trouble)

    def start_look[R](
        self,
        job: Job,
        work: FleetWork[R],
        *,
        then: Callable[[R], object],
        otherwise: Callable[[str], object] | None = None,
    ) -> None:
        """Look at something for this screen alone; who leaves it stops it, and is told no more."""
        self._looks = [*self._looking, job]
        self.console.start(job, work, then=then, otherwise=otherwise)

    def start_change(self, title: str, work: FleetWork[str]) -> None:
        """Change something; however it ends, what is there then is looked at again."""
        job = Job(title=one_line(title), is_change=True)
        self._changes.append(job)
        self.console.start(job, work)

    def on_unmount(self) -> None:
        """Nobody wants to know any more."""
        for job in self._looks:
            job.stop.set()

    @property
    def is_asking(self) -> bool:
        """Whether it looks just now."""
        return self._asking is not None

    @property
    def _looking(self) -> list[Job]:
        return [one for one in self._looks if not (one.is_over or one.stop.is_set())]

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
        """That it looks, or why it couldn't, and what else it asks."""
        cells = [Cell(self._trouble, "bad")] if self._trouble else []
        if self.is_asking:
            cells.append(Cell("looking …", "busy"))
        others = (one for one in self._looking if one is not self._asking)
        return cells + [Cell(one_line(f"{one.title}: {one.sentence}"), "busy") for one in others]

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
        has_changed = any(job.is_over for job in self._changes)
        self._changes = [job for job in self._changes if not job.is_over]
        # With nothing known, it was opened before the cloud was reached.
        if has_changed or (self._known is None and not (self.is_asking or self._trouble)):
            self.look()
        elif self._looking and self.is_current:
            self.repaint()

    def _show(self, rows: Sequence[T]) -> None:
        self._known, self._asking, self._trouble = rows, None, ""
        self.repaint()
        self.arrived()

    def _show_trouble(self, reason: str) -> None:
        self._trouble, self._asking = reason, None
        self.repaint()
