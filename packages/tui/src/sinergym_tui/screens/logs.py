"""Logs: of one experiment, or of many merged, as they are written."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time

from textual import on
from textual.app import ComposeResult
from textual.css.query import NoMatches
from textual.widgets import Static

from gcloud_ops.text import one_line
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.keys import bindings_of
from sinergym_tui.loglines import LogFeed
from sinergym_tui.messages import LogArrived
from sinergym_tui.screens.frame import ConsoleScreen, styled, update_line
from sinergym_tui.views.cells import Cell, count_text
from sinergym_tui.views.logbook import Lead, LogLine, parse_filter, parse_since
from sinergym_tui.views.sweep import reason
from sinergym_tui.views.sweeps import STATUS_LOOK
from sinergym_tui.widgets.log_view import LogView
from sinergym_tui.widgets.prompt import Prompt
from sinergym_tui.workers import Tell

__all__ = ["LogsScreen"]

_FLUSH = 0.05  # seconds between two paintings of logs that grow
_COUNT = 0.5  # seconds between two countings of its lines
_COPIED = 74_000  # bytes that terminals take into the clipboard, about


class LogsScreen(ConsoleScreen):
    """Logs of one sweep's experiments.

    Args:
        sweep: The sweep's name.
        experiments: Whose; up to 64.
    """

    SCOPE = "logs"
    BINDINGS = bindings_of("logs")

    DEFAULT_CSS = """
    LogsScreen {
        & LogView { height: 1fr; }
    }
    """

    def __init__(self, sweep: str, experiments: tuple[str, ...]) -> None:
        super().__init__()
        self._sweep = sweep
        self._experiments = experiments
        self._feed = LogFeed(experiments)
        self._flushed_at = 0.0
        self._counted_at = 0.0
        self._is_due = False
        self._only = self._sought = self._since_when = ""

    def body(self) -> ComposeResult:
        """A line, the lines, what is typed."""
        yield Static("", id="summary", classes="line", markup=False)
        yield LogView(id="log")
        yield Prompt(id="prompt")

    def on_mount(self) -> None:
        """Begin to read."""
        names = [experiment.removeprefix(f"{self._sweep}-") for experiment in self._experiments]
        self.log_view.clear("no line yet", sources=[one_line(name) for name in names])
        self.set_focus(self.log_view)
        self.console.read_logs(self._sweep, self._feed)

    def on_unmount(self) -> None:
        """Read no more."""
        self._feed.stop.set()

    @property
    def log_view(self) -> LogView:
        """The lines."""
        return self.query_one(LogView)

    @property
    def prompt(self) -> Prompt:
        """Where filter and search are typed."""
        return self.query_one(Prompt)

    @property
    def sweep(self) -> str:
        """The sweep's name."""
        return self._sweep

    @property
    def feed(self) -> LogFeed:
        """Where the lines come from."""
        return self._feed

    @property
    def crumbs(self) -> tuple[str, ...]:
        """The sweep, the experiment, the log."""
        if len(self._experiments) == 1:
            return (self._sweep, self._experiments[0], "log")
        return (self._sweep, f"logs of {len(self._experiments)}")

    def paint(self, now: datetime) -> None:  # noqa: ARG002
        """Say whose log this is, and how it is shown."""
        log = self.log_view
        book = log.book
        cells: list[Cell] = []
        state = self.view.sweep(self._sweep)
        row = state.row(self._experiments[0]) if state and len(self._experiments) == 1 else None
        why: list[Cell] = []
        if row is not None:
            sign, tone = STATUS_LOOK[row.status]
            cells.append(Cell(f"{sign} {row.status}", tone))
            why = (
                [Cell(said, "bad" if tone == "bad" else "muted")] if (said := reason(row)) else []
            )
        else:
            cells.append(Cell(f"{len(self._experiments)} logs", "strong"))
        count = f"{count_text(book.total)} line{'' if book.total == 1 else 's'}"
        if book.shown_count != len(book):
            count = f"{book.shown_count:,} of {count}"
        cells.append(Cell(count, "muted"))
        cells.append(
            Cell("▼ following", "good")
            if log.following
            else Cell("‖ paused: f follows", "waiting")
        )
        words = {"only": self._only, "search": self._sought, "since": self._since_when}
        cells += [Cell(f"{name} {text}", "waiting") for name, text in words.items() if text]
        if log.wrapped:
            cells.append(Cell("wrapped", "muted"))
        # The reason may be a long one, and is on the screens before: it gives way.
        update_line(self.query_one("#summary", Static), styled([*cells, *why]))

    # ------------------------------------------------------------------- lines

    def take_lines(self, message: LogArrived) -> None:
        """Lines wait: show them, at most every 50 ms, for it is the flush that costs."""
        if message.feed is not self._feed or self._is_due:
            return
        due_in = _FLUSH - (monotonic() - self._flushed_at)
        if due_in <= 0:
            self._flush()
        else:
            self._is_due = True
            self.set_timer(due_in, self._flush)

    def _flush(self) -> None:
        self._is_due = False
        self._flushed_at = monotonic()
        with suppress(NoMatches):  # it is being taken down
            self.log_view.append(self._feed.take())
        if self._flushed_at - self._counted_at > _COUNT:
            self._counted_at = self._flushed_at
            self.repaint()

    @on(LogView.FollowChanged)
    def _tell_following(self) -> None:
        self.repaint()

    # ----------------------------------------------------------------- actions

    def can(self, action: str) -> bool | None:
        """Going on with a search takes one."""
        if action in {"find_next", "find_previous"}:
            return True if any(log.is_searching for log in self.query(LogView)) else None
        return True

    def action_back(self) -> None:
        """Out of what is typed, out of filter and search, then back."""
        if self.prompt.what:
            self.prompt.action_leave()
        elif self._only or self._sought or self._since_when:
            self._filter("")
            self._search("")
            self._since("")
            self.repaint()
        else:
            self.console.go_back()

    def action_follow(self) -> None:
        """Follow the end, or pause."""
        self.log_view.follow(not self.log_view.following)
        self.repaint()

    def action_search(self) -> None:
        """Type what to search for."""
        self.prompt.ask(
            "search",
            "search",
            text=self._sought,
            placeholder="a regular expression; n and N go on",
        )

    def action_filter_lines(self) -> None:
        """Type which lines to show."""
        self.prompt.ask(
            "filter",
            "only",
            text=self._only,
            placeholder="a regular expression; !this: all but these",
        )

    def action_since(self) -> None:
        """Type since when."""
        self.prompt.ask("since", "since", placeholder="30s, 5m, 1h ago, or now; empty: all")

    def action_save(self) -> None:
        """Type where to save."""
        stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        name = self._experiments[0] if len(self._experiments) == 1 else self._sweep
        self.prompt.ask("save", "save to", text=f"{one_line(name)}-{stamp}.log")

    def action_find_next(self) -> None:
        """The next place."""
        self._find(backwards=False)

    def action_find_previous(self) -> None:
        """The place before."""
        self._find(backwards=True)

    def action_wrap(self) -> None:
        """Wrap, or don't."""
        self.log_view.set_wrapped(not self.log_view.wrapped)
        self.repaint()

    def action_times(self) -> None:
        """Show times, or don't."""
        self.log_view.set_timed(not self.log_view.lead.timed)
        self.repaint()

    def action_copy_lines(self) -> None:
        """The lines in sight."""
        lines = self.log_view.lines_in_sight()
        text = "\n".join(lines).encode()[:_COPIED].decode(errors="ignore")
        self.console.copy(text, f"{len(lines)} lines")

    def _find(self, *, backwards: bool) -> None:
        if not self.log_view.find(backwards=backwards):
            self.prompt.note("not found")
        self.repaint()

    # ------------------------------------------------------------------ prompt

    @on(Prompt.Changed, "#prompt")
    def _try_it(self, message: Prompt.Changed) -> None:
        match message.what:
            case "filter":
                self._filter(message.text)
            case "search":
                self._search(message.text)

    @on(Prompt.Answered, "#prompt")
    def _do_it(self, message: Prompt.Answered) -> None:
        self.set_focus(self.log_view)
        match message.what:
            case "save":
                self.prompt.close()
                self._save(message.text)
            case "since":
                self.prompt.close()
                self._since(message.text)
            case _:
                self.prompt.close()
        self.repaint()

    @on(Prompt.Left, "#prompt")
    def _undo_it(self, message: Prompt.Left) -> None:
        match message.what:
            case "filter":
                self._filter("")
            case "search":
                self._search("")
        self.set_focus(self.log_view)
        self.repaint()

    def _filter(self, text: str) -> None:
        self._only = one_line(text)
        pattern, is_inverse = parse_filter(text)
        log = self.log_view
        log.show_only(replace(log.book.filter, pattern=pattern, is_inverse=is_inverse))
        self.prompt.note(f"{log.book.shown_count:,} of {len(log.book):,}" if text else "")
        self.repaint()

    def _search(self, text: str) -> None:
        self._sought = one_line(text)
        pattern, _ = parse_filter(text)
        is_there = self.log_view.search(pattern)
        self.prompt.note("" if is_there or not text else "not found")
        self.repaint()

    def _since(self, text: str) -> None:
        seconds = parse_since(text)
        if seconds is None and text:
            self.console.tell(f"{text!r} is no time: give 30s, 5m, 1h or now", "warning")
            return
        moment = None if seconds is None else time() - seconds
        self._since_when = one_line(text)
        self.log_view.show_since(moment)

    def _save(self, path: str) -> None:
        lines, lead = self.log_view.book.texts(), self.log_view.lead
        folder = self.console.folder

        def work(fleet: Fleet, tell: Tell) -> str:  # noqa: ARG001
            # In here also what can't be a path is told: `~nobody`.
            return save_lines((folder / Path(path).expanduser()).absolute(), lines, lead)

        if path:
            job = Job(title=f"save {len(lines):,} lines")
            self.console.start(job, work, then=lambda said: self.console.tell(str(said)))


def save_lines(target: Path, lines: Sequence[LogLine], lead: Lead) -> str:
    """Write lines to a new file; says what was written."""
    with target.open("x", encoding="utf-8") as file:
        for line in lines:
            file.write(f"{lead.text(line)}\n")
    return f"{len(lines):,} lines are in {target}"
