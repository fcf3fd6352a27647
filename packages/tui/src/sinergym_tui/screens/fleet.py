"""The screen with all that runs: the sweeps, the experiments of one, the log of one of these."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from gcloud_ops.model import ExperimentStatus, Observation
from gcloud_ops.text import one_line
from sinergym_tui.fleet import FleetView
from sinergym_tui.rows import (
    EXPERIMENT_COLUMNS,
    SWEEP_COLUMNS,
    SweepState,
    age_text,
    experiment_cells,
    reason,
    sweep_cells,
)
from sinergym_tui.widgets.live_table import LiveTable
from sinergym_tui.widgets.log_view import LogView

__all__ = ["FleetScreen", "Picture"]

_PANELS = ("sweeps", "experiments", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """All that the screen shows, but for the log's lines."""

    view: FleetView
    sweep: str
    """The sweep whose experiments are shown."""
    where: str
    """Which cloud this is."""
    said: str
    """The newest event, in a sentence."""
    empty: str
    """What stands where the sweeps would be."""
    now: datetime


class FleetScreen(Screen[None]):
    """Shows one `Picture` after the other; its tables' messages go to the app."""

    DEFAULT_CSS = """
    FleetScreen {
        #top { height: 1; background: $panel; }
        #where { width: 1fr; height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #fresh { width: auto; height: 1; padding: 0 1; color: $foreground 60%; }
        #fresh.-stale { color: $text-error; text-style: bold; }
        #status { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #status.-trouble { color: $text-error; text-style: bold; }
        #panels { height: 1fr; }
        LiveTable, LogView { border: round $foreground 30%; border-title-style: bold;
            border-title-color: $foreground; border-subtitle-color: $foreground 60%; }
        LiveTable:focus, LogView:focus { border: round $primary; }
        #sweeps { height: auto; min-height: 5; max-height: 6; }
        &.-tall #sweeps { max-height: 10; }
        #experiments { height: 1fr; }
        #log { height: 1fr; }
        &.-wide #panels { layout: horizontal; }
        &.-wide #sweeps { width: 30%; max-width: 68; min-width: 46; height: 1fr;
            max-height: 100%; }
        &.-wide #one { width: 1fr; }
        &.-wide #experiments { height: 2fr; }
        &.-wide #log { height: 3fr; }
    }
    """

    def compose(self) -> ComposeResult:
        """A line above, three panels, a line below, the keys."""
        with Horizontal(id="top"):
            yield Static("", id="where", markup=False)
            yield Static("", id="fresh", markup=False)
        with Container(id="panels"):
            yield LiveTable(SWEEP_COLUMNS, id="sweeps")
            with Vertical(id="one"):
                yield LiveTable(EXPERIMENT_COLUMNS, id="experiments")
                yield LogView(id="log")
        yield Static("", id="status", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin at the sweeps."""
        for panel in _PANELS:
            self.query_one(f"#{panel}").border_title = panel.capitalize()
        self._sweeps = self.query_one("#sweeps", LiveTable)
        self._experiments = self.query_one("#experiments", LiveTable)
        self.log_view = self.query_one("#log", LogView)
        self._where, self._fresh, self._status = (
            self.query_one(f"#{line}", Static) for line in ("where", "fresh", "status")
        )
        self._sweeps.focus()

    @property
    def experiment(self) -> str:
        """The id of the experiment with the cursor, "" where there is none."""
        return self._experiments.key

    def show(self, picture: Picture, *, select: str = "") -> None:
        """Show the picture; widgets paint only what differs from the last one.

        Args:
            picture: What to show.
            select: A sweep to put the cursor on, if it is there.
        """
        view, now = picture.view, picture.now
        is_stale = bool(view.trouble)
        self._sweeps.set_placeholder(picture.empty)
        self._sweeps.show(
            [(state.name, sweep_cells(state, now)) for state in view.sweeps], key=select
        )
        self._sweeps.set_stale(is_stale)
        self._show_experiments(view.sweep(picture.sweep), now)
        self._experiments.set_stale(is_stale)
        self._show_lines(picture)

    def back(self) -> None:
        """One panel back, and out of the zoom."""
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None and self.focused.id in _PANELS[1:]:
            self.query_one(f"#{_PANELS[_PANELS.index(self.focused.id) - 1]}").focus()

    def zoom(self) -> None:
        """The focused panel fills the screen, or does no more."""
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused, container=False)

    @on(LiveTable.Chosen, "#sweeps")
    def _go_to_experiments(self) -> None:
        self._experiments.focus()

    @on(LiveTable.Chosen, "#experiments")
    def _go_to_log(self) -> None:
        self.log_view.focus()

    @on(LogView.FollowChanged)
    def _tell_following(self) -> None:
        self._title_log(None)

    def _show_experiments(self, state: SweepState | None, now: datetime) -> None:
        table = self._experiments
        seen = state.snapshot if state else None
        if state and state.trouble:
            table.set_placeholder(one_line(state.trouble))
        else:
            table.set_placeholder("looking …" if state else "")
        if seen:
            table.set_width("id", min(28, max(10, *(len(row.id) for row in seen.rows))))
        table.show([(row.id, experiment_cells(row, now)) for row in seen.rows] if seen else [])
        _title(table, f"Experiments of {state.name}" if state else "Experiments")
        table.border_subtitle = Content(_totals(seen.counts) if seen else "")
        rows = seen.rows if seen else ()
        self._title_log(next((row for row in rows if row.id == table.key), None))

    def _title_log(self, row: Observation | None) -> None:
        follow = "following" if self.log_view.following else "paused: f follows"
        if row is not None or not self.experiment:
            why = reason(row) if row else ""
            _title(self.log_view, f"Log of {row.id}" if row else "Log")
            self.log_view.border_subtitle = Content(f"{why[:90]} · {follow}" if why else follow)
        else:
            self.log_view.border_subtitle = Content(follow)

    def _show_lines(self, picture: Picture) -> None:
        view = picture.view
        fresh, status = self._fresh, self._status
        age = age_text(view.taken, picture.now)
        _update(self._where, picture.where)
        if view.trouble:
            _update(fresh, f"⚠ {age} old" if view.taken else "⚠ no answer")
            _update(status, f"⚠ {view.trouble}")
        else:
            took = f" · {view.seconds * 1000:.0f} ms"
            _update(fresh, f"updated {age} ago{took}" if view.taken else "")
            _update(status, picture.said)
        fresh.set_class(bool(view.trouble), "-stale")
        status.set_class(bool(view.trouble), "-trouble")


def _title(widget: Widget, text: str) -> None:
    widget.border_title = Content(one_line(text))


def _update(line: Static, text: str) -> None:
    """Change a line only where it differs: an update lays out the screen again."""
    if str(line.content) != text:
        line.update(Content(text))


def _totals(counts: Mapping[ExperimentStatus, int]) -> str:
    return " · ".join(f"{count} {status}" for status, count in counts.items())
