"""What goes on in the background, and how it is stopped."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label

from gcloud_ops.text import one_line
from sinergym_tui.jobs import Job
from sinergym_tui.views.cells import Cell, Column, Tone
from sinergym_tui.widgets.live_table import LiveTable

if TYPE_CHECKING:
    from sinergym_tui.app import Console

__all__ = ["JobsScreen"]

_COLUMNS = (
    Column(key="state", title="State", width=10, rank=0),
    Column(key="title", title="What", width=24, rank=1, most=30),
    Column(key="sentence", title="How far", width=20, rank=2, grows=True),
)
_LOOK: dict[str, tuple[str, Tone]] = {
    "running": ("▶ goes on", "busy"),
    "done": ("✓ done", "good"),
    "failed": ("✗ failed", "bad"),
    "stopped": ("⊘ stopped", "muted"),
}


class JobsScreen(ModalScreen[None]):
    """A table of the changes of this console."""

    DEFAULT_CSS = """
    JobsScreen {
        align: center middle;
        & > Vertical {
            width: 100; max-width: 100%; height: 16; max-height: 100%;
            border: round $primary; padding: 0 1; background: $surface;
        }
        & .title { text-style: bold; }
        & .foot { color: $text-muted; }
        & LiveTable { height: 1fr; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,J", "close", "Close", show=False),
        Binding("x", "stop", "Stop", show=False),
    ]

    def compose(self) -> ComposeResult:
        """A title, the table, the keys."""
        with Vertical():
            yield Label("What goes on, and what has ended", classes="title")
            yield LiveTable(_COLUMNS, placeholder="nothing goes on", id="jobs")
            yield Label("x stops the one with the cursor, Esc closes this", classes="foot")

    def on_mount(self) -> None:
        """Show them, again and again."""
        self.query_one(LiveTable).focus()
        self.set_interval(0.5, self._show)
        self._show()

    def action_close(self) -> None:
        """Go back."""
        self.dismiss(None)

    def action_stop(self) -> None:
        """Ask the job to stop at its next step."""
        # By its number: another job may have begun since the table was painted.
        key = self.query_one(LiveTable).key
        job = next((each for each in self._jobs if str(each.number) == key), None)
        if job is not None and not job.is_over:
            job.sentence = "stops at its next step …"
            job.stop.set()
            self._show()

    @property
    def _jobs(self) -> list[Job]:
        return list(reversed(cast("Console", self.app).jobs))

    def _show(self) -> None:
        jobs = self._jobs

        def cells(index: int) -> tuple[Cell, ...]:
            job = jobs[index]
            return (
                Cell(*_LOOK[job.state]),
                Cell(one_line(job.title), "strong"),
                Cell(one_line(job.sentence), "muted"),
            )

        self.query_one(LiveTable).show((str(job.number) for job in jobs), cells)
