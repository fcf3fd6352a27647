"""The local terminal, wired to a shell or a command on an instance."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gcloud_ops.ssh.connection import CHUNK, Connection, exit_code, translate

if TYPE_CHECKING:
    import asyncssh

__all__ = ["interactive"]


async def interactive(connection: Connection, command: str | None = None) -> int:
    """Wire the local terminal to a shell, or to a command, on the instance.

    With a terminal on standard input there is a remote terminal, resized with the local one,
    which is restored in any case; else plain pipes. Windows has only the pipes.

    Returns:
        The remote exit code.

    Raises:
        Unavailable: The connection broke.
    """
    terminal = sys.stdin.isatty() and sys.platform != "win32"
    options: dict[str, Any] = {}
    if terminal:
        size = os.get_terminal_size(sys.stdin.fileno())
        options = {
            "term_type": os.environ.get("TERM", "xterm-256color"),
            "term_size": (size.columns, size.lines),
        }
    with translate(connection.instance, "the connection broke"):
        process = await connection._connection.create_process(command, encoding=None, **options)
        with _raw_terminal(process) if terminal else _nothing():
            feeding = asyncio.create_task(_feed(process))
            try:
                await asyncio.gather(
                    _drain(process.stdout, sys.stdout.fileno()),
                    _drain(process.stderr, sys.stderr.fileno()),
                )
                await process.wait_closed()
            finally:
                feeding.cancel()
                process.close()
    connection._check_ended(process.exit_status, process.exit_signal)
    return exit_code(process.exit_status, process.exit_signal)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _raw_terminal(process: "asyncssh.SSHClientProcess[bytes]") -> Iterator[None]:
    """Every key goes to the other side, and so does the window's size; restored at the end."""
    import termios
    import tty

    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()

    def resized() -> None:
        with suppress(OSError):
            size = os.get_terminal_size(terminal)
            process.change_terminal_size(size.columns, size.lines)

    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        loop.add_signal_handler(signal.SIGWINCH, resized)
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


async def _feed(process: "asyncssh.SSHClientProcess[bytes]") -> None:
    """Pass our standard input on until its end."""
    keys = sys.stdin.fileno()
    with suppress(BrokenPipeError, ConnectionError):
        while data := await _readable(keys):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.write_eof()


async def _readable(file: int) -> bytes:
    """Wait for bytes; b"" is the end. Cancelling it leaves no thread behind on a terminal."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(file, wake)
    except (OSError, NotImplementedError):  # a plain file never makes one wait; so on Windows
        return await asyncio.to_thread(os.read, file, CHUNK)
    try:
        await ready
    finally:
        loop.remove_reader(file)
    return os.read(file, CHUNK)


async def _drain(source: "asyncssh.SSHReader[bytes]", file: int) -> None:
    while chunk := await source.read(CHUNK):
        left = memoryview(chunk)
        while left:
            left = left[os.write(file, left) :]
