"""Sinergym's environments: what makes one, one of them, and a vector of several.

Order of the wrappers, each applied once, the innermost first:

1. `DiscretizeEnv`          from the id itself, if its actions are discrete
2. `NormalizeAction`        needs a Box of actions under it
3. `EnergyCostWrapper`      for the reward `energy_cost`: adds the price to the observation
4. `LoggerWrapper`          under `CSVLogger`, which refuses to work without it; and under
5. `CSVLogger`              `MultiObsWrapper`, so that it records one observation, not five
6. `MultiObsWrapper`        the last five observations as one
7. `DtypeObservation`       for `energy_cost`, whose wrapper gives float64 in a space of float32
8. `SeededWeather`          later episodes as reproducible as the first
9. `Monitor`                Stable-Baselines3's: returns and lengths of whole episodes

Around the vector of such environments: `VecNormalize`, if observations are normalized.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sinergym_trainer.environments.energyplus import find_energyplus, prepare, quieten
from sinergym_trainer.environments.rewards import (
    COST_PATH,
    check_reward,
    energy_costs,
    reward_class,
    reward_parameters,
)
from sinergym_trainer.errors import InvalidOptions, TrainerError
from sinergym_trainer.options.values import RunPeriod, Settings

if TYPE_CHECKING:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv

_WRAPPERS = "sinergym.utils.wrappers"
_COST_REWARD = "energy_cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """All that makes an environment: equal specs make equal ones, here or in another process.

    Raises:
        InvalidOptions: there is no such reward, or it does not take such parameters.
    """

    id: str
    run_period: RunPeriod | None = None
    reward: str = "linear"
    reward_kwargs: Mapping[str, Any] = Settings()
    """Parameters of the reward that differ from the id's own; kept as `Settings`."""
    energy_weight: float | None = None
    normalize_action: bool = False
    logger: bool = False
    multiobs: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward_kwargs", Settings(self.reward_kwargs))
        check_reward(self.reward, self.reward_kwargs, self.energy_weight)

    def parameters(self, registered: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from the id's own keyword arguments, each of them whole.

        `gym.make` replaces a dictionary such as `building_config`, with all that it had (six
        timesteps an hour in a datacenter), and a deep update could take nothing away, such as a
        parameter that only `LinearReward` has. So dictionaries are complete here.

        Args:
            registered: the id's keyword arguments.
        """
        parameters: dict[str, Any] = {}
        if self.run_period:
            parameters["building_config"] = {
                **(registered.get("building_config") or {}),
                "runperiod": self.run_period.as_tuple(),
            }
        changed = self.reward != "linear" or self.reward_kwargs or self.energy_weight is not None
        if changed and self.reward != _COST_REWARD:
            parameters["reward"] = reward_class(self.reward)
            parameters["reward_kwargs"] = self._reward_parameters(registered)
        return parameters

    def wrappers(self, registered: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Sinergym's wrappers, innermost first, as its `create_environment` takes them."""
        wrappers: dict[str, dict[str, Any]] = {}
        if self.normalize_action:
            wrappers["NormalizeAction"] = {}
        if self.reward == _COST_REWARD:
            wrappers["EnergyCostWrapper"] = {
                COST_PATH: str(energy_costs(self.reward_kwargs, *self._days(registered))),
                "reward_kwargs": self._reward_parameters(registered),
            }
        if self.logger:
            wrappers |= {"LoggerWrapper": {}, "CSVLogger": {}}
        if self.multiobs:
            wrappers["MultiObsWrapper"] = {}
        return {f"{_WRAPPERS}:{name}": arguments for name, arguments in wrappers.items()}

    def _reward_parameters(self, registered: Mapping[str, Any]) -> dict[str, Any]:
        names = ("time_variables", "variables", "meters")
        return reward_parameters(
            self.reward,
            registered.get("reward_kwargs", {}),
            self.reward_kwargs,
            self.energy_weight,
            tuple(variable for name in names for variable in registered.get(name, ())),
        )

    def _days(self, registered: Mapping[str, Any]) -> tuple[date, date]:
        if self.run_period:
            return self.run_period.first, self.run_period.last
        own = (registered.get("building_config") or {}).get("runperiod")
        day, month, year, last_day, last_month, last_year = own or (1, 1, 1991, 31, 12, 1991)
        return date(year, month, day), date(last_year, last_month, last_day)


def make_environment(
    spec: EnvironmentSpec, folder: Path, *, monitor: Path | None = None
) -> "Monitor[Any, Any]":
    """Make the environment; what Sinergym and EnergyPlus write goes below `folder`.

    Only one may live in a process: when one is reset or closed, Sinergym clears the callbacks of
    *all* (`Runtime.clear_callbacks` of pyenergyplus), and the others wait for EnergyPlus for ever.

    Args:
        spec: what to make.
        folder: gets Sinergym's workspace, `<id>-res<n>/`; made if missing.
        monitor: a file ending in `monitor.csv` for a line per episode, or None; it goes on with
            the lines that are there.

    Raises:
        EnergyPlusMissing: the simulator is not installed here.
        InvalidOptions: the environment does not observe what the reward needs.
    """
    env = make_unwatched(spec, folder)
    from stable_baselines3.common.monitor import Monitor

    return Monitor(env, str(monitor) if monitor else None, override_existing=is_new(monitor))


def is_new(monitor: Path | None) -> bool:
    """Whether a Monitor's file begins; else it goes on with what a checkpoint has restored."""
    return monitor is None or not monitor.is_file()


def make_unwatched(spec: EnvironmentSpec, folder: Path) -> Any:
    """As `make_environment`, without the Monitor around it and without importing PyTorch."""
    find_energyplus()
    import gymnasium
    import sinergym  # noqa: F401 - registers the ids
    from gymnasium.wrappers import DtypeObservation
    from numpy import float32
    from sinergym.config import modeling
    from sinergym.utils.common import create_environment

    from sinergym_trainer.environments.weather import SeededWeather

    quieten()
    registered = gymnasium.spec(spec.id).kwargs
    parameters, wrappers = spec.parameters(registered), spec.wrappers(registered)
    folder.mkdir(parents=True, exist_ok=True)
    # Sinergym writes to the working directory of its first import; this is where it keeps that.
    modeling.CWD = str(folder.resolve())
    env = create_environment(spec.id, parameters, wrappers, env_deep_update=False)
    prepare(env)
    (folder / ".lock").unlink(missing_ok=True)
    workspace = Path(env.get_wrapper_attr("workspace_path"))
    if not workspace.is_relative_to(folder.resolve()):
        raise TrainerError(f"Sinergym writes to {workspace}, not below {folder}: another version?")
    if spec.reward == _COST_REWARD:
        env = DtypeObservation(env, float32)
    return SeededWeather(env)


def make_vector(
    spec: EnvironmentSpec,
    folder: Path,
    *,
    n_envs: int = 1,
    normalization: bool = False,
    monitor: Path | None = None,
    seed: int | None = None,
) -> "VecEnv":
    """Make a vector of equal environments: the first in this process, each other one in its own.

    With normalization, mean and variance run over the observations of *all* environments: each
    step of the vector adds N of them at once, so they settle in fewer steps of the vector, and
    differ from those of a single environment from the first step on. An observation is normalized
    after it was counted. The last observation of an episode is not counted (the first of the next
    one is), and rewards are not normalized.

    Args:
        spec: what each environment is made of.
        folder: gets Sinergym's workspace; with several environments, those of number i are below
            `env-<i>/`.
        n_envs: how many.
        normalization: whether observations are normalized by their running mean and variance.
        monitor: a file `monitor.csv` for a line per episode; with several environments
            `<i>.monitor.csv` beside it.
        seed: of the weather in stochastic environments; environment i has `seed + i`, as when
            Stable-Baselines3's model gives its seed.

    Raises:
        EnergyPlusMissing: the simulator is not installed here.
        InvalidOptions: fewer than one environment; or as `make_environment`.
    """
    if n_envs < 1:
        raise InvalidOptions(f"--n_envs {n_envs}: at least 1")
    from math import inf

    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from sinergym_trainer.environments.normalization import EPSILON
    from sinergym_trainer.environments.vector import Workers

    vec: VecEnv
    if n_envs == 1:
        vec = DummyVecEnv([lambda: make_environment(spec, folder, monitor=monitor)])
    else:
        vec = Workers(
            spec,
            folders=[folder / f"env-{number}" for number in range(n_envs)],
            monitors=[
                monitor and monitor.with_name(f"{number}.{monitor.name}")
                for number in range(n_envs)
            ],
        )
    if seed is not None:
        vec.seed(seed)
    if not normalization:
        return vec
    return VecNormalize(vec, norm_reward=False, clip_obs=inf, epsilon=EPSILON)


def episode_returns(vec: "VecEnv") -> list[list[float]]:
    """The exact returns of the whole episodes of each environment so far.

    `Monitor` rounds what it reports in `info["episode"]` and its file; these are not.
    """
    return [list(returns) for returns in vec.env_method("get_episode_rewards")]


def variables(vec: "VecEnv") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a single observation's variables, and of an action's."""
    return (
        tuple(vec.get_attr("observation_variables", indices=0)[0]),
        tuple(vec.get_attr("action_variables", indices=0)[0]),
    )


def steps_per_episode(vec: "VecEnv") -> int:
    """Timesteps of one episode of one environment."""
    return int(vec.get_attr("timestep_per_episode", indices=0)[0])


class _Closable(Protocol):
    def close(self) -> Any: ...


@contextlib.contextmanager
def closing[T: _Closable](env: T) -> Iterator[T]:
    """Close the environment at the end, whatever happens: EnergyPlus has threads."""
    try:
        yield env
    finally:
        env.close()
