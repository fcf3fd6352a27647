"""The console: keeps what the workers say, and gives it to the screens.

Data flows one way: a worker asks the core and posts a message, the app keeps what it says, the
screens show that. Nothing here waits for the cloud, and nothing of Google's is imported before
the first paint.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen

from gcloud_ops.model import ExperimentStatus
from gcloud_ops.text import one_line
from sinergym_tui import messages, workers
from sinergym_tui.actions import ACTIONS, bindings
from sinergym_tui.fleet import Fleet, FleetView
from sinergym_tui.loglines import LogFeed
from sinergym_tui.rows import SweepState
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.fleet import FleetScreen, Picture
from sinergym_tui.screens.launch import LaunchScreen
from sinergym_tui.screens.text import TextScreen, help_text
from sinergym_tui.widgets.live_table import LiveTable

if TYPE_CHECKING:
    from gcloud_ops.launching import LaunchPlan

__all__ = ["Console"]

_FLUSH = 0.1  # seconds between two paintings of a log that grows
_SETTLE = 0.15  # seconds that the cursor rests on an experiment before its log is read
_RETRY = 5.0  # seconds until the next try to connect


class Console(App[int]):
    """The app.

    Args:
        connect: Gets the fleet; called in a thread, after the first paint.
        read_only: Offer no changes (the fleet refuses them too).
        folder: Where sweep files are looked for.
        interval: Seconds between two looks at the cloud.
    """

    TITLE = "sinergym-tui"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (150, "-wide")]  # noqa: RUF012  # as App has it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (36, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(
        self,
        connect: workers.Connect,
        *,
        read_only: bool = False,
        folder: Path | None = None,
        interval: float = 2.0,
    ) -> None:
        super().__init__()
        self._connect = connect
        self._read_only = read_only
        self._folder = folder or Path.cwd()
        self._fleet: Fleet | None = None
        self._fleet_screen = FleetScreen()
        self._view = FleetView()
        self._sweep = ""
        self._awaited = ""
        self._feed: LogFeed | None = None
        self._flushed_at = 0.0
        self._launching: set[str] = set()
        self._said = "connecting …"
        self._gaze = workers.Gaze(interval)

    def get_default_screen(self) -> Screen[Any]:
        """The fleet."""
        return self._fleet_screen

    def on_mount(self) -> None:
        """Paint first, then connect."""
        self.set_interval(1.0, self._paint)
        self._paint()
        self.call_after_refresh(self._start_connecting)

    def on_unmount(self) -> None:
        """Let the threads end."""
        self._stop_threads()

    def _stop_threads(self) -> None:
        self._gaze.stop()
        if self._feed is not None:
            self._feed.stop.set()

    # ----------------------------------------------------------------- connect

    def _start_connecting(self) -> None:
        if self._fleet is None and not self._gaze.stopped.is_set():
            self._work("cloud", lambda: workers.connect_to_cloud(self._connect, self._post))

    @on(messages.ConnectAdvanced)
    def _tell_step(self, message: messages.ConnectAdvanced) -> None:
        self._say(message.step)

    @on(messages.ConnectFailed)
    def _tell_no_connection(self, message: messages.ConnectFailed) -> None:
        again = f"trying again in {_RETRY:.0f} s" if message.may_pass else "r tries again"
        self._view = FleetView(trouble=f"{message.reason} - {again}")
        self._paint()
        if message.may_pass:
            self.set_timer(_RETRY, self._start_connecting)

    @on(messages.Connected)
    def _begin_to_watch(self, message: messages.Connected) -> None:
        self._fleet = message.fleet
        self._view = FleetView()
        self._say("looking for sweeps …")
        self.refresh_bindings()
        self._work("cloud", lambda: workers.watch_fleet(message.fleet, self._gaze, self._post))

    # -------------------------------------------------------------------- look

    @on(messages.FleetObserved)
    def _take_view(self, message: messages.FleetObserved) -> None:
        if self._view.taken is None and message.view.taken is not None:
            self._said = ""
        self._view = message.view
        self._paint()

    def _paint(self) -> None:
        """Show what is known, as it is now."""
        if not self._fleet_screen.is_mounted or not self._fleet_screen.is_attached:
            return
        awaited = self._awaited if self._view.sweep(self._awaited) else ""
        if awaited:
            self._awaited = ""
        picture = Picture(
            view=self._view,
            sweep=self._sweep,
            where=self._where(),
            said=self._said,
            empty="no sweeps yet: l launches one" if self._view.taken else self._said,
            now=datetime.now(UTC),
        )
        self._fleet_screen.show(picture, select=awaited)

    def _where(self) -> str:
        mode = " · read-only" if self._read_only else ""
        if self._fleet is None:
            return f"sinergym-tui{mode}"
        settings = self._fleet.settings
        cloud = "" if settings.is_google else f" at {settings.endpoint}"
        project = settings.project or "default project"
        return one_line(f"sinergym-tui{mode} · {project}{cloud} · {settings.zone}")

    def _say(self, sentence: str) -> None:
        self._said = one_line(sentence, limit=600)
        self._paint()

    @on(LiveTable.Highlighted, "#sweeps")
    def _select_sweep(self, message: LiveTable.Highlighted) -> None:
        self._sweep = message.key
        self._gaze.turn_to(message.key)
        self.refresh_bindings()
        self._paint()

    # --------------------------------------------------------------------- log

    @on(LiveTable.Highlighted, "#experiments")
    def _select_experiment(self, message: LiveTable.Highlighted) -> None:
        if self._feed is not None:
            self._feed.stop.set()
        self._feed = feed = LogFeed(message.key)
        self._fleet_screen.log_view.clear("no line yet" if message.key else "")
        self._paint()
        if message.key:
            self.set_timer(_SETTLE, lambda: self._start_reading(feed))

    def _start_reading(self, feed: LogFeed) -> None:
        fleet, sweep = self._fleet, self._sweep
        if fleet is not None and not feed.stop.is_set():
            self._work("log", lambda: workers.read_log(fleet, sweep, feed, self._post))

    @on(messages.LogArrived)
    def _schedule_log(self, message: messages.LogArrived) -> None:
        """At most ten paintings a second: a flush costs, not a line."""
        due_in = _FLUSH - (monotonic() - self._flushed_at)
        if due_in <= 0:
            self._show_log(message.feed)
        else:
            self.set_timer(due_in, lambda: self._show_log(message.feed))

    def _show_log(self, feed: LogFeed) -> None:
        if feed is self._feed:
            self._flushed_at = monotonic()
            self._fleet_screen.log_view.append(feed.take())

    # ------------------------------------------------------------------ launch

    def action_launch(self) -> None:
        """Ask for a sweep file."""
        self.push_screen(LaunchScreen(self._folder), self._launch)

    @on(messages.PlanRequested)
    def _start_planning(self, message: messages.PlanRequested) -> None:
        if (fleet := self._fleet) is not None:
            self._work("plan", lambda: workers.make_plan(fleet, message, self._post))

    @on(messages.PlanMade)
    def _show_plan(self, message: messages.PlanMade) -> None:
        if isinstance(self.screen, LaunchScreen):
            self.screen.show_plan(message.asked, message.plan)

    @on(messages.PlanFailed)
    def _show_plan_trouble(self, message: messages.PlanFailed) -> None:
        if isinstance(self.screen, LaunchScreen):
            self.screen.show_trouble(message.asked, message.reason)

    def _launch(self, plan: "LaunchPlan | None") -> None:
        fleet = self._fleet
        if plan is None or fleet is None:
            return
        name = plan.sweep.name
        self._launching.add(name)
        self._awaited = name
        self._say(f"{name}: launching …")
        self._work(f"launch {name}", lambda: workers.launch_sweep(fleet, plan, self._post))

    @on(messages.LaunchAdvanced)
    def _tell_launch(self, message: messages.LaunchAdvanced) -> None:
        self._say(f"{message.sweep}: {message.sentence}")
        if self._view.sweep(message.sweep) is None:
            self._gaze.look_now()

    @on(messages.LaunchEnded)
    def _tell_launched(self, message: messages.LaunchEnded) -> None:
        self._launching.discard(message.sweep)
        self._say(f"{message.sweep}: {message.sentence}")
        self._gaze.look_now()

    # ------------------------------------------------------------------ change

    def action_cancel_sweep(self) -> None:
        """Ask, then cancel the selected sweep."""
        if state := self._view.sweep(self._sweep):
            touches = [
                *_instances_line(state),
                f"{_unfinished(state)} unfinished experiments are marked as cancelled",
                "what has finished, and all results, stay in the bucket",
            ]
            self._ask_to_change(state, "cancel", f"Cancel sweep {state.name}?", touches)

    def action_delete_sweep(self) -> None:
        """Ask, then delete the selected sweep."""
        if state := self._view.sweep(self._sweep):
            bucket = f"gs://{state.snapshot.bucket}/" if state.snapshot else ""
            touches = [
                *_instances_line(state),
                f"everything in {bucket}{state.name}/ goes: manifest, records, logs, models, "
                "TensorBoard files",
            ]
            self._ask_to_change(state, "delete", f"Delete sweep {state.name} for good?", touches)

    def _ask_to_change(
        self, state: SweepState, verb: str, question: str, touches: list[str]
    ) -> None:
        name = state.name

        def begin(sure: bool | None) -> None:
            if sure and (fleet := self._fleet) is not None:
                self._say(f"{name}: {verb} …")
                self._work(
                    f"change {name}",
                    lambda: workers.change_sweep(fleet, name, verb, self._post),
                )

        screen = ConfirmScreen(
            one_line(question),
            [one_line(line) for line in touches],
            yes=f"{verb.capitalize()} the sweep",
            typed=name if state.has_instances else "",
        )
        self.push_screen(screen, begin)

    @on(messages.SweepChangeAdvanced)
    def _tell_change(self, message: messages.SweepChangeAdvanced) -> None:
        self._say(f"{message.sweep}: {message.step}")

    @on(messages.SweepChanged)
    def _tell_changed(self, message: messages.SweepChanged) -> None:
        self._say(f"{message.sweep}: {message.sentence}")
        self._gaze.look_now()

    @on(messages.SweepChangeFailed)
    def _tell_not_changed(self, message: messages.SweepChangeFailed) -> None:
        self._launching.discard(message.sweep)
        self._say(f"{message.sweep}: {message.verb} failed: {message.reason}")
        title = f"{message.verb.capitalize()} of sweep {one_line(message.sweep)} failed"
        self.push_screen(TextScreen(title, message.reason))
        self._gaze.look_now()

    # ------------------------------------------------------------------- other

    def action_refresh(self) -> None:
        """Look now; or try to connect again."""
        self._start_connecting()
        self._gaze.look_now()

    def action_zoom(self) -> None:
        """The focused panel fills the screen, or does no more."""
        self._fleet_screen.zoom()

    async def action_back(self) -> None:
        """One panel back, and out of the zoom."""
        self._fleet_screen.back()

    def action_help(self) -> None:
        """All keys."""
        self.push_screen(TextScreen("Keys", help_text()))

    def action_leave(self) -> None:
        """Leave; ask where that would leave experiments without their command."""
        if not self._launching:
            self._leave(True)
            return
        touches = [
            f"sweep {name}: VMs that have no command yet would get none from here"
            for name in sorted(self._launching)
        ]
        question = "Leave while a launch is under way?"
        self.push_screen(ConfirmScreen(question, touches, yes="Leave", no="Stay"), self._leave)

    def _leave(self, sure: bool | None) -> None:
        if sure:
            self._stop_threads()
            self.exit(0)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Grey out what can't be done now."""
        known = next((each for each in ACTIONS if each.name == action), None)
        if known is None or not known.changes:
            return True
        if self._read_only or self._fleet is None:
            return None
        return None if action != "launch" and not self._sweep else True

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: Textual's commands, and all of ours that can be done now."""
        for command in super().get_system_commands(screen):
            if command.title not in {"Quit", "Keys", "Maximize", "Minimize"}:
                yield command
        for each in ACTIONS:
            if self.check_action(each.name, ()):
                yield SystemCommand(each.label, each.help, getattr(self, f"action_{each.name}"))

    def _post(self, message: Message) -> None:
        """From a thread: tell the app, unless it is going."""
        if not self._gaze.stopped.is_set():
            self.post_message(message)

    def _work(self, group: str, work: Callable[[], None]) -> None:
        self.run_worker(work, group=group, thread=True, exclusive=True, exit_on_error=False)


def _unfinished(state: SweepState) -> int:
    if state.snapshot is None:
        return state.summary.experiments
    return sum(
        not row.status.is_final or row.status is ExperimentStatus.LOST
        for row in state.snapshot.rows
    )


def _instances_line(state: SweepState) -> list[str]:
    if not state.has_instances:
        return []
    return [f"its instance group with {state.instances} VMs is removed"]
