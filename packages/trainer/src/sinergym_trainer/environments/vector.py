"""Several environments as one vector: the first in this process, each other one in its own.

Several EnergyPlus simulations in one process break each other. The first is simulated here, as it
is when there is only one: this process would else wait for the others, and it has the actions and
wants the observations. The processes are not made by `multiprocessing`, which imports the caller's
main module again or forks a process with threads: each is a fresh Python that gets its end of a
socket and calls `worker.serve`. The messages are those of Stable-Baselines3's `SubprocVecEnv`, all
of which `Workers` keeps, but for the making, the ending, and what happens when one breaks.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sinergym_trainer import errors
from sinergym_trainer.environments.channel import Channel
from sinergym_trainer.environments.worker import Failed, Served, Start, serve
from sinergym_trainer.errors import EnergyPlusFailed, TrainerError
from sinergym_trainer.process import cores

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
    """Equal environments, the first in this process and each other one in its own.

    While it is open, the calling thread and the threads that it starts keep to one core, and each
    worker to another one, if there are as many. What raises in an environment, or a worker that
    dies, breaks the vector: all that is left to do is `close`, which always returns.

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
        names = [f"environment {number + 1} of {len(folders)}" for number, _ in enumerate(folders)]
        own = _Own(names[0])
        self.remotes: list[_Own | _Worker] = [own]
        spins = len(folders) <= cores.number()
        try:
            for name in names[1:]:
                self.remotes.append(_Worker(name, spins=spins))
            places = zip(self.remotes, folders, monitors, cores.choose(len(folders)), strict=True)
            for remote, folder, monitor, core in places:
                remote.send(
                    Start(spec=spec, folder=folder, monitor=monitor, core=core, spins=spins)
                )
            spaces = [remote.recv(_MAKING) for remote in self.remotes]
            VecEnv.__init__(self, len(folders), *spaces[0])
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> "list[subprocess.Popen[bytes]]":
        """Their processes."""
        return [remote.process for remote in self.remotes if isinstance(remote, _Worker)]

    def close(self) -> None:
        """Close the environments and end their processes, also those that do not answer."""
        if self.closed:
            return
        self.closed = True
        # The workers first: they close beside this process's own.
        for remote in reversed(self.remotes):
            remote.ask_to_end()
        deadline = time.monotonic() + _ENDING
        for remote in self.remotes:
            remote.end(deadline)


class _Own:
    """This process's environment; to `SubprocVecEnv` it is a connection to one.

    A command waits here until its answer is asked for: by then the others have theirs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._command: Any = None
        self._env: Any = None
        self._served: Served | None = None

    def send(self, message: Any) -> None:
        """Take a command; one that nobody asked about, as a worker failed, is dropped."""
        self._command = message

    def recv(self, seconds: float | None = None) -> Any:  # noqa: ARG002 - as a worker's
        """Do the command; returns its answer.

        Raises:
            TrainerError: it failed.
            AttributeError: the environment has no such attribute.
        """
        try:
            if self._served:
                return self._served.answer(*self._command)
            return self._make(self._command)
        except Exception as error:
            raise _error_of(Failed(error), self._name) from error

    def ask_to_end(self) -> None:
        """Close the environment: its simulation ends beside the others'."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def end(self, deadline: float) -> None:  # noqa: ARG002 - as a worker's
        """Give the cores back."""
        cores.use_all()

    def _make(self, start: Start) -> Any:
        from sinergym_trainer.environments.making import make_environment

        self._env = make_environment(start.spec, start.folder, monitor=start.monitor)
        self._served = Served(self._env)
        cores.keep_to(start.core)
        return self._env.observation_space, self._env.action_space


class _Worker:
    """Another environment's process; to `SubprocVecEnv` it is the connection to it."""

    def __init__(self, name: str, *, spins: bool) -> None:
        self._name = name
        self._unread = 0
        ours, theirs = socket.socketpair()
        with theirs:
            call = f"import sys; from {serve.__module__} import serve; serve(int(sys.argv[1]))"
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", call, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # As many threads as there are environments are enough.
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        self._channel = Channel(ours, spins=spins)
        self._channel.answers_within(_ANSWERING)

    def send(self, message: Any) -> None:
        """Give a command; answers that nobody took, as another worker failed, are dropped."""
        while self._unread:
            with contextlib.suppress(AttributeError):
                self.recv()
        try:
            self._channel.send(message)
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
            if seconds is not None and not self._channel.has_message(seconds):
                raise TrainerError(f"{self._name} was not made within {seconds:g} s")
            answer = self._channel.receive()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, Failed):
            raise _error_of(answer, self._name)
        return answer

    def ask_to_end(self) -> None:
        """Tell it to close, when it is done with what it does."""
        with contextlib.suppress(OSError):
            self._channel.send(("close", None))

    def end(self, deadline: float) -> None:
        """Wait for its end, and kill it after the deadline."""
        try:
            # What it still sends must not fill the socket that it closes after.
            while (left := deadline - time.monotonic()) > 0 and self._channel.has_message(left):
                self._channel.receive()
        except (EOFError, OSError):
            pass
        try:
            self.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._channel.close()

    def _ended(self) -> EnergyPlusFailed:
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return EnergyPlusFailed(f"{self._name}: its process does not answer any more")
        if code >= 0:
            return EnergyPlusFailed(f"{self._name}: its process ended with exit code {code}")
        name = signal.Signals(-code).name
        why = {"SIGKILL": "; out of memory?", "SIGSEGV": "; EnergyPlus crashed"}.get(name, "")
        return EnergyPlusFailed(f"{self._name}: its process was ended by {name}{why}")


def _error_of(failed: Failed, name: str) -> Exception:
    """What to raise for a command that failed in an environment."""
    if failed.kind == "AttributeError":
        return AttributeError(failed.text)
    kind = getattr(errors, failed.kind, None)
    if isinstance(kind, type) and issubclass(kind, TrainerError):
        return kind(f"{name}: {failed.text}")
    return TrainerError(f"{name}: {failed.kind}: {failed.text}")
