"""What happens while resources are made, for people: a live picture on a terminal, else lines.

Everything here goes to standard error.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gcloud_ops.cli.output import say
from gcloud_ops.resources.shape import Begun, Done, Event, Progressed
from gcloud_ops.text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gcloud_ops.resources import Finding, Plan

__all__ = ["showing", "tell_drift"]

_REMIND_SECONDS = 30.0


@contextmanager
def showing(unchanged: str = "as it should be") -> Iterator[Callable[[Event], None]]:
    """What is to be told of the events, for as long as the block lasts.

    Args:
        unchanged: What is said of a step that had nothing to change.
    """
    if not sys.stderr.isatty():
        yield _Lines(unchanged).happened
        return
    from rich.console import Console
    from rich.live import Live

    screen = _Screen(unchanged)
    try:
        with Live(
            console=Console(stderr=True, markup=False, highlight=False),
            get_renderable=screen.picture,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield screen.happened
    finally:
        # The picture goes; what was done stays.
        for line in screen.done:
            say(line)


def tell_drift[F: "Finding"](program: str, looked: "Plan[F]") -> None:
    """Say what differs and is left so."""
    for finding in looked.drift:
        for text in finding.drift:
            say(f"{program}: {finding.what}: {text} (left as it is)")


def sentence(event: Event, unchanged: str) -> str:
    """An event in one line; "" for one that is no news in lines."""
    match event:
        case Done(what=what, changes=changes):
            return f"{what}: {', '.join(changes) or unchanged}"
        case Progressed(what=what, text=text, seconds=seconds):
            return f"{what}: {text} ({seconds:.0f} s)"
        case Begun():
            return ""


class _Lines:
    """A line for what is done, and one now and then for what takes long."""

    def __init__(self, unchanged: str) -> None:
        self._unchanged = unchanged
        self._reminded = 0.0

    def happened(self, event: Event) -> None:
        match event:
            case Begun():
                self._reminded = time.monotonic()
            case Progressed():
                if time.monotonic() - self._reminded >= _REMIND_SECONDS:
                    self._reminded = time.monotonic()
                    say(one_line(sentence(event, self._unchanged)))
            case Done():
                say(one_line(sentence(event, self._unchanged), limit=1000))


class _Screen:
    """The state that the picture is drawn of, four times a second."""

    def __init__(self, unchanged: str) -> None:
        self._unchanged = unchanged
        self._begin = time.monotonic()
        self._position = self._count = 0
        self._what = self._text = ""
        self.done: list[str] = []

    def happened(self, event: Event) -> None:
        match event:
            case Begun(what=what, position=position, count=count):
                self._what, self._text = what, ""
                self._position, self._count = position, count
            case Progressed(text=text):
                self._text = text
            case Done():
                self.done.append(one_line(sentence(event, self._unchanged), limit=1000))

    def picture(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        elapsed = int(time.monotonic() - self._begin)
        now = Table.grid(padding=(0, 1))
        now.add_row(
            ProgressBar(total=max(1, self._count), completed=len(self.done), width=30),
            Text(f"{self._position}/{self._count}  {elapsed // 60}:{elapsed % 60:02d}"),
            Text(one_line(f"{self._what} {self._text}"), style="dim", overflow="ellipsis"),
        )
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in self.done[-30:]]
        return Group(*lines, now)
