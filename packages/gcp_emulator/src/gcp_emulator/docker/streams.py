"""The standard streams of a command on a VM, whoever is at their other end."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from gcp_emulator.docker.engine import Sink, Task


async def _no_input() -> bytes:
    return b""


@dataclass(slots=True, kw_only=True)
class Streams:
    """Standard input, output and error of one command, and its terminal.

    Args:
        sink: Takes what it writes; waits while its reader is slow, drops it once that is gone.
        read: Its next input; empty at the end.
        size: Columns and rows of the terminal; None without one.
    """

    sink: Sink
    read: Callable[[], Awaitable[bytes]] = _no_input
    size: tuple[int, int] | None = None
    task: Task | None = None
    """The program that signals and new terminal sizes go to."""
    raw: bool = False
    """Whether a terminal of the program's own makes the line ends and takes Ctrl-C."""
    interrupted: int = signal.SIGINT
    """The signal that ended a command of this process."""
    reading: bool = False
    """Whether input was ever asked for."""
    raw_mode: Callable[[bool], Awaitable[None]] | None = None
    """Tells the other end that `raw` begins or ends."""

    async def input(self) -> bytes:
        """The next input; empty at the end."""
        self.reading = True
        return await self.read()

    async def out(self, text: str) -> None:
        """Write text to standard output."""
        await self.sink(1, text.encode())

    async def err(self, text: str) -> None:
        """Write text to standard error."""
        await self.sink(2, text.encode())

    async def set_raw(self, raw: bool) -> None:
        """Leave the terminal, if there is one, to a program; before it says its first word."""
        raw = raw and self.size is not None
        if raw != self.raw:
            self.raw = raw
            if self.raw_mode is not None:
                await self.raw_mode(raw)

    async def join(self, task: Task, *, stdin: bool) -> int:
        """Feed a program with our input until it ends; its exit status."""
        self.task = task
        feeding = asyncio.create_task(self._feed(task)) if stdin else None
        try:
            return await task.wait()
        finally:
            self.task = None
            if feeding is not None:
                feeding.cancel()

    async def _feed(self, task: Task) -> None:
        while data := await self.input():
            await task.write(data)
        await task.write(b"")


type Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a program of the VM: its words, streams and environment."""

    words: Sequence[str]
    streams: Streams
    environment: Environment
