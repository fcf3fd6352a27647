"""How a training shows itself to people: a bar on a terminal, plain lines elsewhere.

On a terminal one line at the bottom has the bar; messages go above it, and nothing of the bar
remains at the end. Elsewhere (a log, a pipe, a dumb terminal) there are only whole lines without
escape codes: every message, and a line of progress when nothing was said for a while.

The table of Stable-Baselines3 comes on top of that, on request only (`--log_interval`), in both
cases: its default interval is one rollout or four episodes, which for A2C is a table of twelve
lines every 500 timesteps, 70 of them in one year of a building. Whoever asks for it names the
interval; `HumanOutputFormat(display)` writes it through here, so that it does not tear the bar.
"""

import math
import os
import re
import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PREFIX = "sinergym-train: "

_SECONDS_BETWEEN_UPDATES = 0.5
_REFRESHES = 2  # a second: a refresh costs about a millisecond
_WIDE, _MEDIUM = 80, 72  # columns of a terminal that has room for the bar, for the rewards
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;:?<=>]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")


def printable(text: str) -> str:
    """Make one harmless line of a text from outside: no escape codes, no control characters."""
    plain = _ESCAPES.sub("", text)
    if plain.isprintable():
        return plain
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in plain)


def say_plainly(line: str) -> None:
    """Print one message without a display: before and after the learning."""
    print(PREFIX + printable(line), flush=True)  # noqa: T201


class Display:
    """What people see of one training; safe to use from several threads.

    A stream that cannot be written any more (its reader is gone, its disk is full) ends no
    training: what was to be shown is lost.

    Args:
        total_timesteps: how many will run.
        episodes: how many will run, over all environments.
        stream: where to write.
        interval: seconds without any line after which one tells the progress; not on a terminal.
        timesteps: how many a resumed training has behind it.
        bar: whether to draw a bar.
    """

    def __init__(
        self,
        total_timesteps: int,
        episodes: int,
        *,
        stream: TextIO,
        interval: float,
        timesteps: int,
        bar: bool,
    ) -> None:
        self._stream = _Stream(stream)
        self._total = total_timesteps
        self._episodes = episodes
        self._interval = _SECONDS_BETWEEN_UPDATES if bar else interval
        self._due = time.monotonic() + (0.0 if bar else interval)
        self._since = (time.monotonic(), timesteps)
        self._unfinished = ""
        self._lock = threading.RLock()
        self._bar = _bar(self._stream, total_timesteps, timesteps) if bar else None

    @classmethod
    def open(
        cls,
        total_timesteps: int,
        episodes: int,
        *,
        stream: TextIO | None = None,
        interval: float = 30.0,
        timesteps: int = 0,
    ) -> Self:
        """Begin to show a training: with a bar if the stream is a terminal that can move back."""
        stream = sys.stdout if stream is None else stream
        return cls(
            total_timesteps,
            episodes,
            stream=stream,
            interval=interval,
            timesteps=timesteps,
            bar=_can_redraw(stream),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, line: str) -> None:
        """Print one message, `sinergym-train: ...`, made printable."""
        self._print(PREFIX + printable(line))

    def progress(
        self,
        timesteps: int,
        episodes: int,
        last_reward: float | None,
        mean_reward: float | None,
        best_reward: float | None,
    ) -> None:
        """Show how far the training is, if it is time to; under a microsecond if it is not.

        Args:
            timesteps: done, with those before a resume.
            episodes: done, with those before a resume.
            last_reward: return of the last episode, or None.
            mean_reward: the last mean reward, or None.
            best_reward: the best mean reward so far, or None.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._interval
        if self._bar:
            progress, task = self._bar
            progress.update(
                task,
                completed=min(timesteps, self._total),
                done=f"{episodes}/{self._episodes} episodes",
                rewards=_rewards(mean=mean_reward, best=best_reward),
            )
            return
        then, before = self._since
        self._since = (now, timesteps)
        speed = (timesteps - before) / max(now - then, 1e-9)
        left = (self._total - timesteps) / speed if speed > 0 else None
        parts = (
            f"progress {100 * timesteps // max(self._total, 1)}%",
            f"episodes {episodes}/{self._episodes}",
            f"timesteps {timesteps}/{self._total}",
            f"{speed:.0f} steps/s",
            _left(left),
            _rewards(last=last_reward, mean=mean_reward, best=best_reward),
        )
        self.say("  ".join(part for part in parts if part))

    def close(self) -> None:
        """Take the bar away; messages are still printed afterwards."""
        with self._lock:
            bar, self._bar = self._bar, None
        if bar:
            bar[0].stop()
        if self._unfinished:
            self._print("")

    # What `HumanOutputFormat` of Stable-Baselines3 needs of a file.

    def write(self, text: str) -> int:
        """Print text above the bar as it is, line by line."""
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
            for line in lines:
                self._show(printable(line))
        return len(text)

    def flush(self) -> None:
        """Nothing to do: every whole line is out already."""

    def _print(self, line: str) -> None:
        with self._lock:
            if self._unfinished:
                self._show(printable(self._unfinished))
                self._unfinished = ""
            if line:
                self._show(line)
            if not self._bar:
                self._due = time.monotonic() + self._interval

    def _show(self, line: str) -> None:
        if self._bar:
            from rich.text import Text

            self._bar[0].console.print(Text(line), soft_wrap=True)
            return
        self._stream.write(line + "\n")
        self._stream.flush()


class _Stream:
    """A stream whose failures nobody notices; text that its encoding lacks becomes `?`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self.write(text.encode(self.encoding, "replace").decode(self.encoding))
        except (OSError, ValueError):  # gone; closed
            pass
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def _can_redraw(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}
    except (OSError, ValueError):
        return False


def _bar(stream: _Stream, total: int, timesteps: int) -> "tuple[Progress, TaskID]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Pace(ProgressColumn):
        """Timesteps a second, and the time left at that pace."""

        def get_table_column(self) -> Column:
            return Column(no_wrap=True)

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:.0f} steps/s  {_left((task.total - task.completed) / speed)}")

    # Rich reads NO_COLOR: the bar is without colours then.
    console = Console(file=stream, force_terminal=True, highlight=False)  # type: ignore[arg-type]
    columns: list[ProgressColumn] = [TextColumn("{task.fields[done]}", markup=False)]
    if console.width >= _WIDE:
        columns += [BarColumn(bar_width=None), TaskProgressColumn()]
    columns.append(Pace())
    if console.width >= _MEDIUM:
        columns.append(TextColumn("{task.fields[rewards]}", markup=False))
    progress = Progress(
        *columns,
        console=console,
        refresh_per_second=_REFRESHES,
        speed_estimate_period=60.0,
        transient=True,
        expand=console.width >= _WIDE,
        redirect_stdout=_same(sys.stdout, stream),
        redirect_stderr=_same(sys.stderr, stream),
    )
    task = progress.add_task("", total=total, completed=timesteps, done="starting", rewards="")
    progress.start()
    return progress, task


def _same(one: TextIO, other: _Stream) -> bool:
    """Whether both are the same terminal, so that printing to one would tear the bar."""
    try:
        return one.isatty() and os.ttyname(one.fileno()) == os.ttyname(other.fileno())
    except (OSError, ValueError):
        return False


def _left(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return ""
    return f"{timedelta(seconds=max(0, round(seconds)))} left"


def _rewards(**rewards: float | None) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in rewards.items() if value is not None)
