"""Evaluation: whole episodes, and a process of its own for them beside the training.

`run_episode` is the one loop over an environment's steps; `sinergym-eval` runs it in its own
process, a training in a child's. Two EnergyPlus simulations in one process break each other (see
`environments.make_environment`), and whatever an evaluation would draw from Python's, NumPy's or
PyTorch's global generators would change the training. A process of its own can do neither, and
the training goes on meanwhile.

The child is this module (`python -m sinergym_trainer.evaluation FD`). It is not made by
`multiprocessing`, which imports the caller's main module again. On the connection `FD` it reads
pickled messages: first `(EnvironmentSpec, folder, threads, seed)`, then one `Request` after
another, each answered by `Evaluation` or a text that says what went wrong. It ends when the
connection does.
"""

import contextlib
import math
import os
import secrets
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sinergym_trainer.algorithms import find_algorithm
from sinergym_trainer.environments import EnvironmentSpec, closing, make_environment
from sinergym_trainer.errors import EvaluationFailed, ModelUnusable, one_line

if TYPE_CHECKING:
    from sinergym_trainer.normalization import Statistics

_STEPS_BETWEEN_LOOKS = 200
_SUMMED = (
    *("total_power_demand", "total_temperature_violation", "comfort_penalty", "energy_penalty"),
    *("comfort_term", "energy_term", "money_spent"),
)
"""What Sinergym's rewards tell in `info` for each step; not every reward has all of them."""


class Agent(Protocol):
    """What decides in an episode: a model, or a controller of Sinergym."""

    def begin(self) -> None:
        """Forget the episode before."""

    def act(self, observation: Any) -> Any:
        """Return the action for an observation as the environment gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the steps of an episode or of one of its months."""

    length: int
    """All steps, as Stable-Baselines3 counts them."""
    steps: int
    """Those that EnergyPlus simulated: the last one of an episode only says that it is over."""
    reward: float
    """Of all steps, also of that last one."""
    violations: int
    """Steps with a temperature outside its comfort range."""
    sums: Mapping[str, float]
    """Over `steps`, of what the reward tells in `info`, under its names there."""

    @property
    def comfort_violation(self) -> float:
        """The share of steps with a temperature outside its comfort range, in %."""
        return 100 * self.violations / self.steps if self.steps else 0.0

    def mean(self, key: str) -> float | None:
        """The mean over the steps of a member of `info`; None for one that the reward lacks."""
        return self.sums[key] / self.steps if self.steps and key in self.sums else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One whole episode."""

    reward: float
    """The return as Stable-Baselines3's Monitor gives it, with six digits after the point."""
    length: int
    """Steps, the last one included."""
    total: Totals
    months: tuple[tuple[int, Totals], ...]
    """The months from 1 to 12 in order of simulation; over New Year one can come twice."""


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


def run_episode(
    env: Any,
    agent: Agent,
    *,
    seed: int | None = None,
    look: Callable[[int], None] = lambda _step: None,
) -> Episode:
    """Run one whole episode.

    Args:
        env: an environment in Stable-Baselines3's Monitor, which measures the return.
        agent: decides.
        seed: of a stochastic environment's weather.
        look: called every 200 steps with their number; raises to end the episode.
    """
    observation, _ = env.reset(seed=seed)
    agent.begin()
    total = _Sums()
    months: list[tuple[int, _Sums]] = []
    step, over = 0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))
        over = bool(terminated or truncated)
        month = int(info["month"])
        if not months or months[-1][0] != month:
            months.append((month, _Sums()))
        # Sinergym sees the end only by asking for a step more than there are: it repeats the last
        # observation, its reward and its power.
        total.add(float(reward), info, repeated=truncated)
        months[-1][1].add(float(reward), info, repeated=truncated)
        step += 1
        if step % _STEPS_BETWEEN_LOOKS == 0:
            look(step)
    return Episode(
        reward=float(info["episode"]["r"]),
        length=int(info["episode"]["l"]),
        total=total.frozen(),
        months=tuple((month, sums.frozen()) for month, sums in months),
    )


def spread(values: Sequence[float]) -> float:
    """The standard deviation of all there are; of infinities that is not a number."""
    return statistics.pstdev(values) if all(map(math.isfinite, values)) else math.nan


class ModelAgent:
    """A trained model's decisions.

    Args:
        path: a file of Stable-Baselines3.
        algorithm: the name of the algorithm that saved it.
        env: what it will decide in.
        statistics: of the observations that it was trained on, or None; they stay as they are.
        device: PyTorch's.
        deterministic: the most likely action instead of a drawn one.
        seed: seeds the generators that actions are drawn from: Python's, NumPy's, PyTorch's.

    Raises:
        ModelUnusable: the file is no model of this algorithm, or not for such an environment.
    """

    def __init__(
        self,
        path: Path,
        algorithm: str,
        env: Any,
        *,
        statistics: "Statistics | None" = None,
        device: str = "cpu",
        deterministic: bool = True,
        seed: int | None = None,
    ) -> None:
        self._model = find_algorithm(algorithm).load(path, device=device, seed=seed)
        # VecNormalize gives observations other bounds: their shape is what has to fit.
        learned, here = self._model.observation_space.shape, env.observation_space.shape
        if learned != here:
            raise ModelUnusable(
                f"{path} does not fit the environment: the model observes {learned}, and the"
                f" environment gives {here}"
            )
        if self._model.action_space != env.action_space:
            raise ModelUnusable(
                f"{path} does not fit the environment: the model acts in"
                f" {_short(self._model.action_space)}, and the environment takes"
                f" {_short(env.action_space)}"
            )
        if statistics and statistics.mean.shape != here:
            raise ModelUnusable(
                f"the statistics are of {statistics.mean.shape} observation variables, and the"
                f" environment gives {here}"
            )
        self._dtype = env.observation_space.dtype
        self._statistics = statistics
        self._deterministic = deterministic
        self.begin()

    def begin(self) -> None:
        """Forget the memory of a recurrent policy."""
        import numpy as np

        self._as_array = np.asarray
        self._state: Any = None
        self._starts, self._goes_on = np.ones(1, dtype=bool), np.zeros(1, dtype=bool)

    def act(self, observation: Any) -> Any:
        """Return the policy's action for an observation that is not normalized yet."""
        # What a vector environment would hand to the model: of the space's type.
        observation = self._as_array(observation, dtype=self._dtype)
        if self._statistics is not None:
            observation = self._statistics.normalize(observation)
        action, self._state = self._model.predict(
            observation,
            state=self._state,
            episode_start=self._starts,
            deterministic=self._deterministic,
        )
        self._starts = self._goes_on
        # [()] makes a scalar of an array without dimensions, which is what a vector environment
        # hands on.
        return action[()]


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
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sinergym_trainer.evaluation", str(theirs.fileno())],
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


class _Sums:
    """Totals in the making."""

    def __init__(self) -> None:
        self._length = self._steps = 0
        self._reward = 0.0
        self._violations = 0
        self._sums: dict[str, float] = {}

    def add(self, reward: float, info: Mapping[str, Any], *, repeated: bool) -> None:
        """Add a step; one that repeats the step before counts for the reward alone."""
        self._length += 1
        self._reward += reward
        if repeated:
            return
        self._steps += 1
        sums = self._sums
        for key in _SUMMED:
            if key in info:
                sums[key] = sums.get(key, 0.0) + float(info[key])
        self._violations += info.get("total_temperature_violation", 0.0) > 0

    def frozen(self) -> Totals:
        """The totals so far."""
        return Totals(
            length=self._length,
            steps=self._steps,
            reward=self._reward,
            violations=self._violations,
            sums=dict(self._sums),
        )


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


def _short(space: Any) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else f"{text[:60]}... of shape {space.shape}"


_PARENT = os.getppid()

if __name__ == "__main__":
    # Classes are unpickled by their module's name: in the module of that name, not in __main__.
    from sinergym_trainer import evaluation  # noqa: PLW0406

    evaluation.main(int(sys.argv[1]))
