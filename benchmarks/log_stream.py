"""The console on a log that grows by 22,000 lines a second, for `benchmarks.console`."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual.binding import BindingType

from gcloud_ops.logs import LogChunk
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet, FleetView
from sinergym_tui.screens.logs import LogsScreen

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients

LINES = 22_000  # a second: more than the 20,000 that must be accepted
_BATCHES = 100  # a second
NAMES = tuple(f"stream-{number:04d}" for number in range(1, 9))


class Streaming(Fleet):
    """A fleet without a cloud, whose containers print all the time."""

    def __init__(self) -> None:
        super().__init__(cast("Clients", None))

    @property
    def settings(self) -> Settings:
        """Those of no cloud."""
        return Settings(project="none")

    def observe(self, selected: str = "", *, afresh: bool = False) -> FleetView:  # noqa: ARG002
        """Nothing."""
        return FleetView()

    def follow(
        self, sweep: str, experiments: Sequence[str], *, stop: threading.Event
    ) -> Iterator[LogChunk]:
        """Eight logs in turn."""
        del sweep
        number, begin = 0, time.monotonic()
        while not stop.is_set():
            due = int((time.monotonic() - begin) * _BATCHES)
            while number < due:
                lines = LINES // _BATCHES
                text = "".join(
                    f"2026-11-22 10:00:00,123 INFO sinergym: step {number * lines + at}, "
                    "zone air temperature 21.37, reward -0.8132\n"
                    for at in range(lines)
                )
                who = experiments[number % len(experiments)]
                yield LogChunk(experiment=who, attempt=1, data=text.encode())
                number += 1
            stop.wait(1 / _BATCHES)


class StreamingConsole(Console):
    """Opens the logs at once; F9 tells how many lines it has accepted, to the last one."""

    BINDINGS: ClassVar[list[BindingType]] = [("f9", "count", "Count")]

    def action_count(self) -> None:
        """Write it into the file that `$LOG_COUNT` names: the screen rounds it."""
        file = Path(os.environ["LOG_COUNT"])
        if isinstance(screen := self.screen, LogsScreen):
            file.with_suffix(".new").write_text(str(screen.log_view.book.total))
            file.with_suffix(".new").rename(file)

    def on_mount(self) -> None:
        """As soon as there is a fleet."""
        self.set_timer(1.5, lambda: self.push_screen(LogsScreen("stream", NAMES)))


if __name__ == "__main__":
    # As the command does it.
    from sinergym_tui.cli import run_console

    run_console(StreamingConsole(lambda _tell: Streaming()))
