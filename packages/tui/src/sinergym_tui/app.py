"""The console: keeps what the workers say, and gives it to the screens.

Data flows one way: a worker asks the core and posts a message, the app keeps what it says, the
screen in view shows that. Nothing here waits for the cloud, and nothing of Google's is imported
before the first paint.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.events import Event, Paste
from textual.message import Message
from textual.screen import Screen

from gcloud_ops.text import clean, one_line
from sinergym_tui import messages, workers
from sinergym_tui.actions import Action, action_named, actions_of
from sinergym_tui.config import Config
from sinergym_tui.fleet import Fleet, FleetView
from sinergym_tui.jobs import Job
from sinergym_tui.keys import bindings_of, key_text
from sinergym_tui.loglines import LogFeed
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.frame import ConsoleScreen
from sinergym_tui.screens.sweeps import SweepsScreen
from sinergym_tui.screens.text import TextScreen, help_text
from sinergym_tui.views.sweeps import news_of

__all__ = ["Console"]

_RETRY = 5.0  # seconds until the next try to connect
_PAINTED = 1.0  # seconds until there is something to see, surely
_KEPT = 50  # jobs that have ended
_HEARD = timedelta(seconds=15)  # until what came of a change has been read, surely


class Console(App[int]):
    """The app.

    Args:
        connect: Gets the fleet; called in a thread, after the first paint.
        read_only: Offer no changes (the fleet refuses them too).
        folder: Where sweep files are looked for, and logs are saved.
        interval: Seconds between two looks at the cloud.
        config: Theme and keys.
        clock: Says what time it is.
    """

    TITLE = "sinergym-tui"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012  # as App has it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (36, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings_of(),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(
        self,
        connect: workers.Connect,
        *,
        read_only: bool = False,
        folder: Path | None = None,
        interval: float = 2.0,
        config: Config | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__()
        self.clock = clock
        self._connect = connect
        self._config = config or Config()
        self._gaze = workers.Gaze(interval)
        self._has_begun = False
        self._waiting: dict[Job, tuple[Callable[..., object] | None, ...]] = {}
        self.read_only = read_only
        self.folder = folder or Path.cwd()
        self.fleet: Fleet | None = None
        """None until the cloud is reached."""
        self.view = FleetView()
        """What is known of it."""
        self.jobs: list[Job] = []
        """The changes that this console has begun, the newest last."""
        self._said_at: datetime | None = None
        self.said = "connecting …"
        """The newest event, in a sentence."""

    def get_driver_class(self) -> type[Driver]:
        """That of the platform; on Linux and macOS one that no wrong byte ends."""
        found = super().get_driver_class()
        if found.__name__ != "LinuxDriver":
            return found
        from sinergym_tui.driver import TolerantDriver

        return TolerantDriver

    def get_default_screen(self) -> Screen[Any]:
        """The sweeps."""
        return SweepsScreen()

    def on_mount(self) -> None:
        """Paint first, then connect."""
        if self._config.theme:
            self.theme = self._config.theme
        if self._config.keys:
            self.set_keymap(dict(self._config.keys))
        self.set_interval(1.0, self.repaint)
        self.call_after_refresh(self._begin_to_connect)
        # A key that opens another screen at once may take the first screen's refresh away.
        self.set_timer(_PAINTED, self._begin_to_connect)

    async def on_event(self, event: Event) -> None:
        """Clean what is pasted where it comes in: it is text from outside too."""
        if isinstance(event, Paste):
            event.text = clean(event.text)
        await super().on_event(event)

    def on_unmount(self) -> None:
        """Let the threads end."""
        self._stop_threads()

    def _stop_threads(self) -> None:
        self._gaze.stop()
        for job in (*self.jobs, *self._waiting):
            job.stop.set()
        for screen in self.screen_stack:
            if (feed := getattr(screen, "feed", None)) is not None:
                feed.stop.set()

    # ----------------------------------------------------------------- connect

    def _begin_to_connect(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._start_connecting()

    def _start_connecting(self) -> None:
        if self.fleet is None and not self._gaze.stopped.is_set():
            self._thread("cloud", lambda: workers.connect_to_cloud(self._connect, self._post))

    @on(messages.ConnectAdvanced)
    def _tell_step(self, message: messages.ConnectAdvanced) -> None:
        self._say(message.step)

    @on(messages.ConnectFailed)
    def _tell_no_connection(self, message: messages.ConnectFailed) -> None:
        again = f"trying again in {_RETRY:.0f} s" if message.may_pass else "r tries again"
        self.view = FleetView(trouble=f"{message.reason} - {again}")
        self.repaint()
        if message.may_pass:
            self.set_timer(_RETRY, self._start_connecting)

    @on(messages.Connected)
    def _begin_to_watch(self, message: messages.Connected) -> None:
        fleet = self.fleet = message.fleet
        self.view = FleetView()
        self._say("looking for sweeps …")
        self._thread("cloud", lambda: workers.watch_fleet(fleet, self._gaze, self._post))

    @property
    def where(self) -> str:
        """Which cloud this is."""
        mode = "read-only · " if self.read_only else ""
        if self.fleet is None:
            return f"{mode}not connected"
        settings = self.fleet.settings
        project = settings.project or "default project"
        return one_line(f"{mode}{project} · {settings.zone}")

    # -------------------------------------------------------------------- look

    @on(messages.FleetObserved)
    def _take_view(self, message: messages.FleetObserved) -> None:
        if self.view.taken is None and message.view.taken is not None:
            self.said, self._said_at = "", None
        elif (news := news_of(self.view.sweeps, message.view.sweeps)) and self._is_quiet:
            self.said = one_line(f"{news[0]}: {news[1].what}")
        self.view = message.view
        self.repaint()

    @property
    def _is_quiet(self) -> bool:
        """Whether no change goes on, nor has just ended: that says more than what it does."""
        is_heard = self._said_at is None or self.clock() - self._said_at > _HEARD
        return is_heard and all(job.is_over for job in self.jobs)

    def repaint(self) -> None:
        """Show what is known, as it is now, on the screen in view."""
        if isinstance(screen := self.screen, ConsoleScreen):
            screen.repaint()
            self.look_closely()

    def look_closely(self) -> None:
        """Turn the poller to the sweep in view."""
        if isinstance(screen := self.screen, ConsoleScreen) and screen.is_mounted:
            self._gaze.turn_to(screen.sweep)

    # -------------------------------------------------------------------- logs

    def read_logs(self, sweep: str, feed: LogFeed) -> None:
        """Fill a feed until it is stopped."""
        if (fleet := self.fleet) is not None:
            work = lambda: workers.read_logs(fleet, sweep, feed, self._post)  # noqa: E731
            self.run_worker(work, group="logs", thread=True, exit_on_error=False)

    @on(messages.LogArrived)
    def _show_log(self, message: messages.LogArrived) -> None:
        from sinergym_tui.screens.logs import LogsScreen

        for screen in self.screen_stack:
            if isinstance(screen, LogsScreen):
                screen.take_lines(message)

    # -------------------------------------------------------------------- jobs

    def start[T](
        self,
        job: Job,
        work: workers.FleetWork[T],
        *,
        then: Callable[[T], object] | None = None,
        otherwise: Callable[[str], object] | None = None,
    ) -> Job:
        """Do something in a thread; what comes of it is told here, in the app.

        Args:
            job: What it is.
            work: Gets the fleet, and a `tell` for its steps; must touch no widget.
            then: Called with its result.
            otherwise: Called with the reason where it fails; None: a change that failed is told
                in a window, a look that failed in the line of events.
        """
        fleet = self.fleet
        if fleet is None:
            self.tell("not connected yet", "warning")
            return job
        if job.group:
            for other in self._waiting:
                if other.group == job.group:
                    other.stop.set()
        if job.is_change:
            self.jobs = [*self.jobs[-_KEPT:], job]
            self._say(f"{job.title}: …")
        self._waiting[job] = (then, otherwise)
        self._thread(
            f"job {job.number}",
            lambda: workers.do_job(job, lambda tell: work(fleet, tell), self._post),
        )
        return job

    @on(messages.JobAdvanced)
    def _tell_progress(self, message: messages.JobAdvanced) -> None:
        job = message.job
        job.sentence = one_line(message.sentence)
        if job.is_change:
            self._say(f"{job.sweep or job.title}: {job.sentence}")
            if job.sweep and self.view.sweep(job.sweep) is None:
                self._gaze.look_now()

    @on(messages.JobEnded)
    def _tell_end(self, message: messages.JobEnded) -> None:
        job = message.job
        job.state = "done"
        then, _ = self._waiting.pop(job, (None, None))
        if job.is_change:
            job.sentence = one_line(str(message.result or job.sentence))
            self._say(f"{job.sweep or job.title}: {job.sentence}")
            self._gaze.look_now()
        # Of a group only the newest counts: an older one that ended late is dropped.
        if then is not None and not job.stop.is_set():
            then(message.result)

    @on(messages.JobFailed)
    def _tell_failure(self, message: messages.JobFailed) -> None:
        job = message.job
        job.state, job.sentence = "failed", message.reason
        _, otherwise = self._waiting.pop(job, (None, None))
        if job.stop.is_set() and not job.is_change:
            return
        if otherwise is not None:
            otherwise(message.reason)
            return
        self._say(f"{job.title} failed: {message.reason}")
        if job.is_change:
            self.push_screen(TextScreen(one_line(f"{job.title}: failed"), message.reason))
            self._gaze.look_now()

    @on(messages.JobStopped)
    def _tell_stop(self, message: messages.JobStopped) -> None:
        job = message.job
        job.state = "stopped"
        self._waiting.pop(job, None)
        if job.is_change:
            job.sentence = "stopped; asked for again, it goes on"
            self._say(f"{job.title}: {job.sentence}")
            self._gaze.look_now()

    # ------------------------------------------------------------------- telling

    def _say(self, sentence: str) -> None:
        self.said, self._said_at = one_line(sentence, limit=600), self.clock()
        self.repaint()

    def tell(
        self, sentence: str, severity: Literal["information", "warning", "error"] = "information"
    ) -> None:
        """Say something in a corner for a while; nothing in it is read as markup."""
        self.notify(one_line(sentence, limit=600), severity=severity, markup=False)

    def copy(self, text: str, what: str) -> None:
        """Put text into the clipboard, as far as the terminal lets us.

        Cleaned: what ends a paste in a shell, and is a command then, is not what was asked for.
        """
        self.copy_to_clipboard(clean(text))
        self.tell(f"copied: {what}")

    # ----------------------------------------------------------------- actions

    def key_of(self, action: Action) -> str:
        """The key of an action, as people know it."""
        return key_text(self._config.keys.get(action.id, action.key))

    def key_named(self, name: str, scope: str) -> str:
        """The key of the action of that name on a screen; "" where it has none."""
        action = action_named(name, scope)
        return self.key_of(action) if action is not None else ""

    def is_refused(self, action: Action) -> bool:
        """Whether it is not offered at all."""
        return (action.changes and self.read_only) or (action.only_local and not self.is_local)

    @property
    def is_local(self) -> bool:
        """Whether this is the local cloud."""
        return self.fleet is not None and self.fleet.settings.endpoint is not None

    def possible(self, action: Action, screen: ConsoleScreen) -> bool | None:
        """Whether an action can be done now: None: not now, False: not offered."""
        if self.is_refused(action):
            return False
        if action.changes and self.fleet is None:
            return None
        return screen.can(action.name) if action.scopes else True

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Refuse what is for all screens, too, where it isn't offered."""
        known = action_named(action, "")
        if known is not None and self.is_refused(known):
            return False
        return super().check_action(action, parameters)

    async def do(self, name: str) -> None:
        """Do an action of the screen in view, or of all screens, by its name."""
        screen = self.screen
        known = action_named(name, screen.SCOPE) if isinstance(screen, ConsoleScreen) else None
        if known is not None:
            await self.run_action(f"{'screen' if known.scopes else 'app'}.{name}")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: all that can be done now, then Textual's own commands."""
        if isinstance(screen, ConsoleScreen):
            for action in actions_of(screen.SCOPE):
                if action.name != "palette" and self.possible(action, screen):
                    title = (
                        f"{action.label} ({self.key_of(action)})" if action.key else action.label
                    )
                    yield SystemCommand(title, action.help, self._doing(action.name))
        for command in super().get_system_commands(screen):
            if command.title not in {"Quit", "Keys", "Maximize", "Minimize"}:
                yield command

    def _doing(self, name: str) -> Callable[[], None]:
        def begin() -> None:
            self.call_next(self.do, name)

        return begin

    def action_palette(self) -> None:
        """Find an action by its name."""
        self.action_command_palette()

    def action_help(self) -> None:
        """What the screen in view can do."""
        if isinstance(screen := self.screen, ConsoleScreen):
            text = help_text(self, screen.SCOPE)
            self.push_screen(TextScreen(f"Keys · {screen.SCOPE}", text))

    def action_jobs(self) -> None:
        """What goes on."""
        from sinergym_tui.screens.jobs import JobsScreen

        self.push_screen(JobsScreen())

    def action_refresh(self) -> None:
        """Look now; or try to connect again."""
        self._start_connecting()
        self._gaze.look_now()
        if isinstance(screen := self.screen, ConsoleScreen):
            screen.look()

    def go_back(self) -> None:
        """To the screen that this one was opened from."""
        if len(self.screen_stack) > 1:
            self.pop_screen()

    def action_show_sweeps(self) -> None:
        """All sweeps."""
        while len(self.screen_stack) > 1 and isinstance(self.screen, ConsoleScreen):
            self.pop_screen()

    def action_show_incidents(self) -> None:
        """Incidents."""
        from sinergym_tui.screens.incidents import IncidentsScreen

        self.go_to(IncidentsScreen)

    def action_show_alerts(self) -> None:
        """Channels and policies."""
        from sinergym_tui.screens.alerts import AlertsScreen

        self.go_to(AlertsScreen)

    def action_show_tracking(self) -> None:
        """The tracking server."""
        from sinergym_tui.screens.tracking import TrackingScreen

        self.go_to(TrackingScreen)

    def action_show_doctor(self) -> None:
        """What may keep a sweep from running."""
        from sinergym_tui.screens.doctor import DoctorScreen

        self.go_to(DoctorScreen)

    def action_show_leftovers(self) -> None:
        """What is left over."""
        from sinergym_tui.screens.leftovers import LeftoversScreen

        self.go_to(LeftoversScreen)

    def action_rehearse(self) -> None:
        """Have something go wrong."""
        from sinergym_tui.screens.rehearsal import ask_to_rehearse

        ask_to_rehearse(self)

    def go_to(self, place: type[ConsoleScreen]) -> None:
        """Open a place of the console that is reached from everywhere."""
        if not isinstance(self.screen, place):
            self.action_show_sweeps()
            self.push_screen(place())

    def action_leave(self) -> None:
        """Leave; ask where that would leave a change half-way."""
        running = [job for job in self.jobs if not job.is_over]
        if not running:
            self._leave(True)
            return
        touches = [
            one_line(f"{job.title}: it stops half-way; asked for again, it goes on")
            for job in running
        ]
        question = "Leave while a change is under way?"
        self.push_screen(ConfirmScreen(question, touches, yes="Leave", no="Stay"), self._leave)

    def _leave(self, sure: bool | None) -> None:
        if sure:
            self.end()

    def end(self, code: int = 0) -> None:
        """Leave without a question, and give the terminal back."""
        self._stop_threads()
        self.exit(code)

    # ----------------------------------------------------------------- threads

    def _post(self, message: Message) -> None:
        """From a thread: tell the app, unless it is going."""
        if not self._gaze.stopped.is_set():
            self.post_message(message)

    def _thread(self, group: str, work: Callable[[], None]) -> None:
        self.run_worker(work, group=group, thread=True, exclusive=True, exit_on_error=False)
