"""The evaluation's process, beside a training.

Two EnergyPlus simulations in one process break each other (see `environments.make_environment`),
and whatever an evaluation would draw from Python's, NumPy's or PyTorch's global generators would
change the training. A process of its own can do neither, and the training goes on meanwhile.

The child runs `main`. It is not made by `multiprocessing`, which imports the caller's main module
again. On its connection it reads pickled messages: first `(EnvironmentSpec, folder, threads,
seed)`, then one `Request` after another, each answered by `Evaluation` or a text that says what
went wrong. It ends when the connection does.
"""

import contextlib
import os
import secrets
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinergym_trainer.environments import EnvironmentSpec, closing, make_environment
from sinergym_trainer.errors import EvaluationFailed, one_line
from sinergym_trainer.evaluation.episodes import Episode, ModelAgent, run_episode, spread
from sinergym_trainer.process import cores

_PROGRAM = (
    "import sys; from sinergym_trainer.evaluation.process import main; main(int(sys.argv[1]))"
)

if TYPE_CHECKING:
    from sinergym_trainer.environments.normalization import Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Evaluate the model in a file for some episodes."""

    timesteps: int
    """Of training, when the model was saved."""
    model: Path
    algorithm: str
    episodes: int
    statistics: "Statistics | None" = None
    """Of the training's observations; the evaluation normalizes with them and keeps them so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What an evaluation gave."""

    timesteps: int
    model: Path
    episodes: tuple[Episode, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        """The return of each episode."""
        return tuple(episode.reward for episode in self.episodes)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The steps of each episode."""
        return tuple(episode.length for episode in self.episodes)

    @property
    def mean_reward(self) -> float:
        """The mean over the episodes."""
        return statistics.fmean(self.rewards)

    @property
    def columns(self) -> dict[str, tuple[float, ...]]:
        """One value for each episode, under the names of Sinergym's `evaluations.npz` of 2022.

        Powers and penalties are sums over the steps, violations are shares of them in %.
        """
        return {
            "results": self.rewards,
            "ep_lengths": self.lengths,
            "ep_powers": self._sums("total_power_demand"),
            "ep_comfort_violations": tuple(e.total.comfort_violation for e in self.episodes),
            "episodes_comfort_penalties": self._sums("comfort_penalty"),
            "episodes_power_penalties": self._sums("energy_penalty"),
        }

    @property
    def scalars(self) -> dict[str, float]:
        """Means over the episodes, to log as `eval/...`.

        The power's consumption and the penalties are sums over an episode, as Sinergym's
        `LoggerEvalCallback` of 2022 logged them; the power's demand (W) is a mean over its steps.
        """
        columns = self.columns
        mean = statistics.fmean
        steps = max(1, sum(episode.total.steps for episode in self.episodes))
        return {
            "eval/mean_reward": self.mean_reward,
            "eval/std_reward": spread(self.rewards),
            "eval/mean_ep_length": mean(self.lengths),
            "eval/mean_power_consumption": mean(columns["ep_powers"]),
            "eval/mean_power_demand": sum(columns["ep_powers"]) / steps,
            "eval/comfort_violation(%)": mean(columns["ep_comfort_violations"]),
            "eval/mean_comfort_penalty": mean(columns["episodes_comfort_penalties"]),
            "eval/mean_power_penalty": mean(columns["episodes_power_penalties"]),
        }

    def _sums(self, key: str) -> tuple[float, ...]:
        return tuple(episode.total.sums.get(key, 0.0) for episode in self.episodes)


class Evaluator:
    """The evaluation's process, seen from the training.

    It is started at once, so that its imports and the making of its environment, some seconds, are
    over when the first request comes.

    Args:
        spec: the environment to evaluate on.
        folder: where its Sinergym writes.
        threads: PyTorch's threads there.
        seed: the weather's, in stochastic environments; without one it is drawn now. The same
            weathers come in every evaluation.
    """

    def __init__(
        self, spec: EnvironmentSpec, folder: Path, *, threads: int, seed: int | None
    ) -> None:
        self.seed = secrets.randbelow(2**32) if seed is None else seed
        """The first episode's; the second has the next number, and so on."""
        self._first = (spec, folder, threads, self.seed)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = self._launch()
        self.pending: Request | None = None
        """What is being evaluated."""

    @property
    def pid(self) -> int | None:
        """The process's id, or None when there is none."""
        return self._process.pid if self._process else None

    def start(self, request: Request) -> None:
        """Begin an evaluation; returns at once. There must be none pending.

        Raises:
            EvaluationFailed: the process is gone; the next request starts a new one.
        """
        if self.pending:
            raise RuntimeError("an evaluation is still pending")
        try:
            if (
                self._connection is None
                or self._process is None
                or self._process.poll() is not None
            ):
                self.close()  # it may have died while it had nothing to do
                self._connection = self._launch()
            self._connection.send(request)
        except OSError as error:
            self.close()
            raise EvaluationFailed(f"the evaluation's process is gone: {error}") from error
        self.pending = request

    def poll(self, seconds: float = 0.0) -> Evaluation | None:
        """The pending evaluation's result, when it is there within some seconds.

        Raises:
            EvaluationFailed: it broke; the next request starts a new process.
        """
        if self._connection is None or self.pending is None:
            return None
        try:
            if not self._connection.poll(seconds):
                return None
            answer = self._connection.recv()
        except (EOFError, OSError):
            how = self._ending()
            self.close()
            raise EvaluationFailed(
                f"the evaluation's process ended before its result{how}"
            ) from None
        self.pending = None
        if isinstance(answer, Evaluation):
            return answer
        self.close()
        raise EvaluationFailed(str(answer))

    def wait(self, stop: Callable[[], bool]) -> Evaluation | None:
        """The pending evaluation's result; None without one, or when `stop()` became true."""
        while self.pending and not stop():
            if result := self.poll(0.2):
                return result
        return None

    def close(self) -> None:
        """End the process, also in the middle of an evaluation."""
        self.pending = None
        if self._connection:
            self._connection.close()
            self._connection = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _launch(self) -> "Connection[Any, Any]":
        ours, theirs = Pipe()
        with theirs, cores.all_for_a_child():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        ours.send(self._first)
        return ours

    def _ending(self) -> str:
        """How the process ended, if that is known already."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0) if self._process else 0
            if code < 0:
                return f", by {signal.Signals(-code).name}"
            return f", with exit code {code}"
        return ""


class _Abandoned(Exception):
    """Nobody waits for the result any more."""


def main(descriptor: int) -> None:
    """Answer requests until the connection ends."""
    # Ctrl-C and a runner's SIGTERM go to the whole group; what they mean is the training's to say.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError, _Abandoned):
        spec, folder, threads, seed = connection.recv()
        import torch

        torch.set_num_threads(threads)
        try:
            made = make_environment(spec, folder)
        except Exception as error:
            connection.recv()
            connection.send(one_line(error))
            return
        with closing(made) as env:
            while True:
                request = connection.recv()
                try:
                    answer: Evaluation | str = _evaluate(env, request, seed)
                except _Abandoned:
                    raise
                except Exception as error:
                    answer = one_line(error)
                connection.send(answer)


def _evaluate(env: Any, request: Request, seed: int) -> Evaluation:
    agent = ModelAgent(
        request.model, request.algorithm, env, statistics=request.statistics, device="cpu"
    )
    return Evaluation(
        timesteps=request.timesteps,
        model=request.model,
        episodes=tuple(
            run_episode(env, agent, seed=seed + number, look=_check_parent)
            for number in range(request.episodes)
        ),
    )


def _check_parent(_step: int) -> None:
    if os.getppid() != _PARENT:
        raise _Abandoned


_PARENT = os.getppid()
