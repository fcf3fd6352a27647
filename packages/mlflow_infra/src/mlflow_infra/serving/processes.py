"""The server's processes: started, watched, and ended together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

from mlflow_infra.serving.cloud import StartError

__all__ = ["Processes", "say"]

_PAUSE = 0.1
# Together with what is around them less than the 10 seconds that Docker gives a container.
_GRACE = (6.0, 2.0)  # seconds for the one that was started last, and for the others


class Processes:
    """Processes that serve together: when one ends, so shall all.

    What they write goes to standard output. Each leads a process group of its own, so that none
    of its children is left over.
    """

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all, the last one first."""
        grace, later = _GRACE
        for process in reversed(self._running.values()):
            _end(process, grace)
            grace = later

    def start(
        self,
        name: str,
        words: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        input: bytes = b"",
    ) -> subprocess.Popen[bytes]:
        """Start a process.

        Args:
            name: What it is called in messages.
            words: Program and arguments; everybody can read them.
            environment: All its variables; None: those of this process.
            input: What it reads from standard input, up to the 64 KiB that a pipe holds.

        Raises:
            StartError: There is no such program.
        """
        try:
            process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"{name} can't be started: {error.strerror}") from None
        self._running[name] = process
        assert process.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):
            process.stdin.write(input)
            process.stdin.close()
        return process

    def wait_until(self, ready: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Wait for a condition.

        Args:
            ready: The condition.
            seconds: How long.
            what: What is wrong if it takes longer.

        Raises:
            StartError: A process ended meanwhile, or it took too long.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            for name, process in self._running.items():
                if process.poll() is not None and not ready():
                    raise StartError(f"{name} ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise StartError(f"{what} within {seconds:.0f} seconds")
            time.sleep(_PAUSE)

    def wait(self) -> tuple[str, int]:
        """Wait until one ends; returns its name and its exit code."""
        while True:
            for name, process in self._running.items():
                if process.poll() is not None:
                    return name, process.returncode
            # Not reaped here: that is for `poll`.
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            ours = {process.pid for process in self._running.values()}
            if ended is not None and ended.si_pid not in ours:
                # The first process of a container inherits all that lose their parent.
                os.waitpid(ended.si_pid, 0)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask a process to end, and see to it."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def say(line: str) -> None:
    """Write a line of our own to the log that all processes share."""
    sys.stdout.write(f"mlflow-infra-server: {line}\n")
    sys.stdout.flush()
