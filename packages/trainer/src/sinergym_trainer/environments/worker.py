"""A worker: the process of one environment of a vector.

It is light, as there may be many of them: Sinergym imports Stable-Baselines3, and with it PyTorch,
if it finds them, for what no environment needs; a worker lets it find neither, and loads SB3's
`Monitor`, which needs no more than Gymnasium, from its file. That is a second less of start and
half a gigabyte less of memory for each.
"""

import contextlib
import importlib.util
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinergym_trainer.environments.channel import Channel
from sinergym_trainer.process import cores

if TYPE_CHECKING:
    from sinergym_trainer.environments.making import EnvironmentSpec

_MONITOR = "stable_baselines3.common.monitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What an environment's process is told first."""

    spec: "EnvironmentSpec"
    folder: Path
    monitor: Path | None
    core: int
    """The only one that it shall run on."""
    spins: bool
    """Whether there is a core for each, so that who waits needn't sleep."""


class Failed:
    """A worker's answer when a command raised."""

    def __init__(self, error: BaseException) -> None:
        self.kind = type(error).__name__
        self.text = " ".join(str(error).split())


def serve(descriptor: int) -> None:
    """Make an environment and do what its vector says, until the connection ends."""
    # They go to the whole group of processes; the vector's owner decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    with contextlib.suppress(EOFError, ConnectionError):
        from sinergym_trainer.environments.making import closing, is_new, make_unwatched

        start: Start = channel.receive()
        channel.spins = start.spins
        cores.keep_to(start.core)
        cores.give_way()
        try:
            with _without("torch", "stable_baselines3"):
                made = make_unwatched(start.spec, start.folder)
            made = _monitor_class()(
                made,
                str(start.monitor) if start.monitor else None,
                override_existing=is_new(start.monitor),
            )
        except Exception as error:
            channel.send(Failed(error))
            return
        with closing(made) as env:
            channel.send((env.observation_space, env.action_space))
            served = Served(env)
            while (message := channel.receive())[0] != "close":
                try:
                    answer = served.answer(*message)
                except Exception as error:
                    answer = Failed(error)
                channel.send(answer)


class Served:
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
            return any(_is(layer, content) for layer in _layers(env))
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
        return observation, reward, done, info, self._reset_info if done else {}


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Let `import` not find some packages."""
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _monitor_class() -> Any:
    package = importlib.util.find_spec("stable_baselines3")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("stable_baselines3")
    path = Path(package.origin).parent / "common" / "monitor.py"
    spec = importlib.util.spec_from_file_location(_MONITOR, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(_MONITOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Monitor


def _layers(env: Any) -> Iterator[Any]:
    while env is not env.unwrapped:
        yield env
        env = env.env


def _is(layer: Any, wanted: type) -> bool:
    """Whether a wrapper is of a class, by name: `Monitor` is loaded twice if SB3 is as well."""
    return any(
        (each.__module__, each.__qualname__) == (wanted.__module__, wanted.__qualname__)
        for each in type(layer).__mro__
    )
