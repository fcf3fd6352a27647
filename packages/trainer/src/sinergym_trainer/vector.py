"""What goes around Sinergym's environments: weather that repeats, and processes for several.

Several EnergyPlus simulations in one process break each other, so each environment of a vector
has a process of its own. These are not made by `multiprocessing`, which imports the caller's main
module again or forks a process with threads: each is a fresh Python that gets its end of a socket
and calls `serve`. The messages are those of Stable-Baselines3's `SubprocVecEnv`, all of which
`Workers` keeps, but for the making, the ending, and what happens when one breaks.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sinergym_trainer import errors
from sinergym_trainer.errors import EnergyPlusFailed, TrainerError

if TYPE_CHECKING:
    from sinergym_trainer.environments import EnvironmentSpec

_MAKING = 300.0
"""Seconds that a worker may take to import all and to make its environment."""
_ENDING = 30.0
"""Seconds that workers get to close their environments, before they are killed."""


class SeededWeather(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The same weathers in every episode of a run with the same seed.

    A stochastic id of Sinergym adds noise to the weather of each episode. Its `reset(seed=s)`
    makes one reproducible episode; a `reset()` without a seed, as vectors do between episodes,
    takes one from the operating system. Here the episodes after `reset(seed=s)` get seeds that
    follow from `s` and the number of the episode. The first one gets `s`, so it is what Sinergym
    alone makes of it; without any seed nothing changes.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._first: int | None = None
        self._next = 0
        self._continues = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode, or with a seed a new series of episodes."""
        if seed is not None and not self._continues:
            self._first, self._next = seed, 0
        self._continues = False
        seed = self._seed()
        self._next += 1
        return self.env.reset(seed=seed, options=options)

    def weather_state(self) -> tuple[int | None, int]:
        """The series' seed and the number of its next episode."""
        return self._first, self._next

    def continue_weather(self, state: tuple[int | None, int]) -> None:
        """Let the next `reset`, whatever seed it gets, begin the next episode of a series."""
        self._first, self._next = state
        self._continues = True

    def _seed(self) -> int | None:
        if self._first is None or self._next == 0:
            return self._first
        sequence = np.random.SeedSequence(self._first, spawn_key=(self._next,))
        return int(sequence.generate_state(1, np.uint64)[0])


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
            for worker, folder, monitor in zip(self.remotes, folders, monitors, strict=True):
                worker.send((spec, folder, monitor))
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
            call = "import sys; from sinergym_trainer.vector import serve; serve(int(sys.argv[1]))"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", call, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Networks are the parent's: a worker's PyTorch, if loaded, needs no threads.
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        self._connection: Connection[Any, Any] = ours

    def send(self, message: Any) -> None:
        """Give a command; answers that nobody took, as another worker failed, are dropped."""
        while self._unread:
            with contextlib.suppress(AttributeError):
                self.recv()
        try:
            self._connection.send(message)
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
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if not isinstance(answer, _Failed):
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
            self._connection.send(("close", None))

    def end(self, deadline: float) -> None:
        """Wait for its end, and kill it after the deadline."""
        try:
            # What it still sends must not fill the socket that it closes after.
            while (left := deadline - time.monotonic()) > 0 and self._connection.poll(left):
                self._connection.recv()
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


class _Failed:
    """A worker's answer when a command raised."""

    def __init__(self, error: BaseException) -> None:
        self.kind = type(error).__name__
        self.text = " ".join(str(error).split())


def serve(descriptor: int) -> None:
    """Make an environment and do what its vector says, until the connection ends."""
    # They go to the whole group of processes; the vector's owner decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):
        from sinergym_trainer.environments import closing, make_environment

        spec, folder, monitor = connection.recv()
        try:
            made = make_environment(spec, folder, monitor=monitor)
        except Exception as error:
            connection.send(_Failed(error))
            return
        with closing(made) as env:
            connection.send((env.observation_space, env.action_space))
            served = _Served(env)
            while (message := connection.recv())[0] != "close":
                try:
                    answer = served.answer(*message)
                except Exception as error:
                    answer = _Failed(error)
                connection.send(answer)


class _Served:
    """An environment that does the commands of `SubprocVecEnv`."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._reset_info: dict[str, Any] = {}

    def answer(self, command: str, content: Any) -> Any:
        """Do a command; returns what the vector waits for."""
        env = self._env
        if command == "step":
            return self._step(content)
        if command == "reset":
            seed, options = content
            observation, self._reset_info = env.reset(
                seed=seed, **({"options": options} if options else {})
            )
            return observation, self._reset_info
        if command == "get_attr":
            return env.get_wrapper_attr(content)
        if command == "env_method":
            name, positional, named = content
            return env.get_wrapper_attr(name)(*positional, **named)
        if command == "has_attr":
            return env.has_wrapper_attr(content)
        if command == "set_attr":
            return setattr(env, *content)
        if command == "is_wrapped":
            return is_wrapped(env, content)
        if command == "get_spaces":
            return env.observation_space, env.action_space
        if command == "render":
            return env.render()
        raise NotImplementedError(command)

    def _step(self, action: Any) -> tuple[Any, ...]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, self._reset_info = self._env.reset()
        return observation, reward, done, info, self._reset_info
