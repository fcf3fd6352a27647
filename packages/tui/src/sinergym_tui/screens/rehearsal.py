"""Choose what shall go wrong on the local cloud."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label

from gcloud_ops.text import one_line
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.rehearsing import Mishap, offered, rehearse
from sinergym_tui.screens.experiment import ExperimentScreen
from sinergym_tui.screens.logs import LogsScreen
from sinergym_tui.screens.sweep import SweepScreen
from sinergym_tui.views.cells import Cell, Column, plural
from sinergym_tui.widgets.live_table import LiveTable
from sinergym_tui.workers import Tell

if TYPE_CHECKING:
    from sinergym_tui.app import Console

__all__ = ["RehearsalScreen", "ask_to_rehearse"]

_COLUMNS = (
    Column(key="title", title="What goes wrong", width=26, rank=0),
    Column(key="help", title="As when", width=20, rank=1, grows=True),
)


class RehearsalScreen(ModalScreen[Mishap | None]):
    """A list; gives what was chosen.

    Args:
        instances: Whom it befalls, where it befalls VMs; none: only what befalls the cloud.
    """

    DEFAULT_CSS = """
    RehearsalScreen {
        align: center middle;
        & > Vertical {
            width: 84; max-width: 100%; height: auto; max-height: 100%;
            border: round $warning; padding: 0 1; background: $surface;
        }
        & .title { text-style: bold; }
        & .foot { color: $foreground 60%; }
        & LiveTable { height: 14; margin: 1 0; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "refuse", "Close", show=False),
    ]

    def __init__(self, instances: Sequence[str]) -> None:
        super().__init__()
        self._instances = instances
        self._mishaps = offered(instances)

    def compose(self) -> ComposeResult:
        """A title, whom it befalls, the list, the keys."""
        with Vertical():
            yield Label("Rehearse: have something go wrong", classes="title")
            yield Label(self._who, classes="foot", markup=False)
            yield LiveTable(_COLUMNS, id="mishaps")
            yield Label("Enter does it at once, Esc closes this", classes="foot")

    def on_mount(self) -> None:
        """Show what there is to choose from."""
        table = self.query_one(LiveTable)
        table.focus()
        table.show(
            (each.key for each in self._mishaps),
            lambda at: (Cell(self._mishaps[at].title, "strong"), Cell(self._mishaps[at].help)),
        )

    def action_refuse(self) -> None:
        """Nothing goes wrong."""
        self.dismiss(None)

    @property
    def _who(self) -> str:
        if not self._instances:
            return "on the local cloud; with an experiment under the cursor, to its VM too"
        if len(self._instances) > 1:
            return f"to {plural(len(self._instances), 'VM')}, or to the local cloud"
        return one_line(f"to {self._instances[0]}, or to the local cloud")

    @on(LiveTable.Chosen)
    def _choose(self, message: LiveTable.Chosen) -> None:
        self.dismiss(next(each for each in self._mishaps if each.key == message.key))


def ask_to_rehearse(console: "Console") -> None:
    """Choose, and have it go wrong to the VMs of the experiments in view, or to the cloud."""
    screen = console.screen
    instances: Sequence[str] = ()
    if isinstance(screen, SweepScreen):
        instances = screen.chosen
    elif isinstance(screen, ExperimentScreen):
        instances = (screen.experiment,)
    elif isinstance(screen, LogsScreen):
        instances = screen.feed.experiments

    def begin(mishap: Mishap | None) -> None:
        if mishap is None:
            return

        def work(fleet: Fleet, tell: Tell) -> str:
            return rehearse(fleet, mishap, instances, tell)

        console.start(Job(title=f"rehearse: {mishap.title}", is_change=True), work)

    console.push_screen(RehearsalScreen(instances), begin)
