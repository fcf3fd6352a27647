"""The console on a log that grows by 20,000 lines a second, for `benchmarks.console`."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from gcloud_ops.logs import LogChunk
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet, FleetView
from sinergym_tui.screens.logs import LogsScreen

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients

LINES = 20_000  # a second
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
    """Opens the logs at once."""

    def on_mount(self) -> None:
        """As soon as there is a fleet."""
        self.set_timer(1.5, lambda: self.push_screen(LogsScreen("stream", NAMES)))


if __name__ == "__main__":
    # As the command does it.
    from sinergym_tui.cli import run_console

    run_console(StreamingConsole(lambda _tell: Streaming()))
