"""Whole episodes: who decides in them, and what they add up to, by month.

`run_episode` is the one loop over an environment's steps; `sinergym-eval` runs it in its own
process, a training in a child's.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sinergym_trainer.algorithms import find_algorithm
from sinergym_trainer.errors import ModelUnusable

if TYPE_CHECKING:
    from sinergym_trainer.environments.normalization import Statistics

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


def _short(space: Any) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else f"{text[:60]}... of shape {space.shape}"
