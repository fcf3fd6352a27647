"""Several environments as one vector, each in a process of its own.

Several EnergyPlus simulations in one process break each other. The processes are not made by
`multiprocessing`, which imports the caller's main module again or forks a process with threads:
each is a fresh Python that gets its end of a socket and calls `worker.serve`. The messages are
those of Stable-Baselines3's `SubprocVecEnv`, all of which `Workers` keeps, but for the making, the
ending, and what happens when one breaks.
"""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sinergym_trainer import errors
from sinergym_trainer.environments.worker import Failed, receive, send, serve
from sinergym_trainer.errors import EnergyPlusFailed, TrainerError

if TYPE_CHECKING:
    from sinergym_trainer.environments.making import EnvironmentSpec

_MAKING = 300.0
"""Seconds that a worker may take to import all and to make its environment."""
_ANSWERING = 1500
"""Seconds that a worker may take for any command: more than `energyplus.prepare` waits in a reset
for one simulation's end and the next one's start, so that its error comes first."""
_ENDING = 30.0
"""Seconds that workers get to close their environments, before they are killed."""


class Workers(SubprocVecEnv):
    """Equal environments, each in a process of its own.

    A worker that raises or dies breaks the vector: what waits for it raises, and all that is left
    to do is `close`, which always returns.

    Args:
        spec: what each environment is made of.
        folders: where the Sinergym of each writes; as many as there will be environments.
        monitors: a `monitor.csv` for each, or None.

    Raises:
        TrainerError: an environment could not be made; of the class that the worker raised.
    """

    def __init__(
        self, spec: "EnvironmentSpec", *, folders: Sequence[Path], monitors: Sequence[Path | None]
    ) -> None:
        self.waiting = False
        self.closed = False
        self.remotes: list[_Worker] = []
        try:
            for number, _ in enumerate(folders):
                self.remotes.append(_Worker(f"environment {number + 1} of {len(folders)}"))
            for number, worker in enumerate(self.remotes):
                worker.send((number, spec, folders[number], monitors[number]))
            spaces = [worker.recv(_MAKING) for worker in self.remotes]
            VecEnv.__init__(self, len(folders), *spaces[0])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the environments and end their processes, also those that do not answer."""
        if self.closed:
            return
        self.closed = True
        for worker in self.remotes:
            worker.ask_to_end()
        deadline = time.monotonic() + _ENDING
        for worker in self.remotes:
            worker.end(deadline)


class _Worker:
    """One environment's process; to `SubprocVecEnv` it is the connection to it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._unread = 0
        ours, theirs = Pipe()
        with theirs:
            call = f"import sys; from {serve.__module__} import serve; serve(int(sys.argv[1]))"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", call, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # As many threads as there are environments are enough.
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        self._connection: Connection[Any, Any] = ours
        # A limit in the kernel costs nothing; `poll` before each answer would.
        with socket.socket(fileno=os.dup(ours.fileno())) as same:
            same.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _ANSWERING, 0)
            )

    def send(self, message: Any) -> None:
        """Give a command; answers that nobody took, as another worker failed, are dropped."""
        while self._unread:
            with contextlib.suppress(AttributeError):
                self.recv()
        try:
            send(self._connection, message)
        except OSError:
            raise self._ended() from None
        self._unread += 1

    def recv(self, seconds: float | None = None) -> Any:
        """The answer to a command.

        Raises:
            TrainerError: the command failed there, the process ended, or time is over.
            AttributeError: the environment has no such attribute.
        """
        self._unread -= 1
        try:
            if seconds is not None and not self._connection.poll(seconds):
                raise TrainerError(f"{self._name} was not made within {seconds:g} s")
            answer = receive(self._connection)
        except (EOFError, OSError):
            raise self._ended() from None
        if not isinstance(answer, Failed):
            return answer
        if answer.kind == "AttributeError":
            raise AttributeError(answer.text)
        kind = getattr(errors, answer.kind, None)
        if isinstance(kind, type) and issubclass(kind, TrainerError):
            raise kind(f"{self._name}: {answer.text}")
        raise TrainerError(f"{self._name}: {answer.kind}: {answer.text}")

    def ask_to_end(self) -> None:
        """Tell it to close, when it is done with what it does."""
        with contextlib.suppress(OSError):
            send(self._connection, ("close", None))

    def end(self, deadline: float) -> None:
        """Wait for its end, and kill it after the deadline."""
        try:
            # What it still sends must not fill the socket that it closes after.
            while (left := deadline - time.monotonic()) > 0 and self._connection.poll(left):
                receive(self._connection)
        except (EOFError, OSError):
            pass
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()

    def _ended(self) -> EnergyPlusFailed:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return EnergyPlusFailed(f"{self._name}: its process does not answer any more")
        if code >= 0:
            return EnergyPlusFailed(f"{self._name}: its process ended with exit code {code}")
        name = signal.Signals(-code).name
        why = {"SIGKILL": "; out of memory?", "SIGSEGV": "; EnergyPlus crashed"}.get(name, "")
        return EnergyPlusFailed(f"{self._name}: its process was ended by {name}{why}")
