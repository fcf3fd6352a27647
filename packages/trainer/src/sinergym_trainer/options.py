"""Every flag of `sinergym-train`, declared once: name, short name, type, default and help.

The names are those of Sinergym's `DRL_battery.py` of 2021 and 2022, so that old commands run as
written. A hyperparameter that is not given is `None`: Stable-Baselines3's own default for the
algorithm holds.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Annotated, Any, Literal, Self

from cyclopts import Group, Parameter, Token

from sinergym_trainer.errors import InvalidOptions

DEFAULT_YEAR = 1991
"""The year of a run period that names none: Sinergym's own (not a leap year)."""

_PERIOD = re.compile(r"(\d+)/(\d+)(?:/(\d+))?-(\d+)/(\d+)(?:/(\d+))?")

_EXPERIMENT = Group("Experiment", sort_key=1)
_ENVIRONMENT = Group("Environment", sort_key=2)
_EVALUATION = Group("Evaluation", sort_key=3)
_RESULTS = Group("Logs and results", sort_key=4)
_HYPERPARAMETERS = Group(
    "Hyperparameters (default: Stable-Baselines3's own for the algorithm)", sort_key=5
)
_ACCEPTED = Group("Accepted, done by the runner", sort_key=6)


@dataclass(frozen=True, slots=True)
class RunPeriod:
    """The days that one episode simulates, first and last day included."""

    first: date
    last: date

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `D,M,Y,D,M,Y` (Sinergym's order) or `D/M[/Y]-D/M[/Y]`.

        Raises:
            InvalidOptions: the text has another form, or names no real days in order.
        """
        text = text.strip()
        if match := _PERIOD.fullmatch(text):
            day, month, year, last_day, last_month, last_year = match.groups()
            year = year or last_year or str(DEFAULT_YEAR)
            numbers = [day, month, year, last_day, last_month, last_year or year]
        else:
            numbers = [number.strip() for number in text.strip("()").split(",")]
        if len(numbers) != 6 or not all(number.isdecimal() for number in numbers):
            raise InvalidOptions(
                f"--run_period {text!r} is not a run period: write day,month,year,day,month,year"
                " (1,1,1991,7,1,1991) or 1/1-7/1"
            )
        day_1, month_1, year_1, day_2, month_2, year_2 = map(int, numbers)
        try:
            period = cls(date(year_1, month_1, day_1), date(year_2, month_2, day_2))
        except (ValueError, OverflowError) as error:
            raise InvalidOptions(f"--run_period {text!r}: {error}; days come first") from None
        if period.last < period.first:
            raise InvalidOptions(
                f"--run_period {text!r} ends before it begins; a period over New Year needs years"
            )
        return period

    def as_tuple(self) -> tuple[int, int, int, int, int, int]:
        """The six numbers that Sinergym's `building_config` takes."""
        first, last = self.first, self.last
        return (first.day, first.month, first.year, last.day, last.month, last.year)

    def __str__(self) -> str:
        return ",".join(map(str, self.as_tuple()))


def _run_period(_type: Any, tokens: Sequence[Token]) -> RunPeriod:
    return RunPeriod.parse(tokens[0].value)


def _flag(*names: str, group: Group, **how: Any) -> Parameter:
    return Parameter(name=names, group=group, negative="", **how)


def _switch(*names: str, group: Group) -> Parameter:
    return _flag(*names, group=group, show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """One training, as it was asked for.

    Raises:
        InvalidOptions: a number is out of its range, or two options contradict each other.
    """

    environment: Annotated[str, _flag("--environment", "-env", group=_EXPERIMENT)]
    """Sinergym environment, such as Eplus-5zone-hot-continuous-v1; older ids are understood."""

    algorithm: Annotated[str, _flag("--algorithm", "-alg", group=_EXPERIMENT)] = "PPO"
    """PPO, A2C, DQN, DDPG, SAC or TD3 of Stable-Baselines3."""

    episodes: Annotated[int, _flag("--episodes", "-ep", group=_EXPERIMENT)] = 1
    """Episodes to train for. One is a year, or the run period."""

    timesteps: Annotated[int | None, _flag("--timesteps", group=_EXPERIMENT)] = None
    """Timesteps to train for, instead of whole episodes."""

    seed: Annotated[int | None, _flag("--seed", "-sd", group=_EXPERIMENT)] = None
    """Seed of the training; 0 is a seed."""

    threads: Annotated[int | None, _flag("--threads", group=_EXPERIMENT)] = None
    """PyTorch's threads: default OMP_NUM_THREADS, or 1. A result's last digits depend on it."""

    run_period: Annotated[
        RunPeriod | None,
        _flag(
            "--run_period",
            group=_ENVIRONMENT,
            converter=_run_period,
            n_tokens=1,
            accepts_keys=False,
        ),
    ] = None
    """Days of one episode, the last included: day,month,year,day,month,year or 1/1-7/1."""

    reward: Annotated[
        Literal["linear", "exponential"], _flag("--reward", "-rw", group=_ENVIRONMENT)
    ] = "linear"
    """Reward function."""

    normalization: Annotated[bool, _switch("--normalization", "-norm", group=_ENVIRONMENT)] = False
    """Normalize observations by their running mean and variance."""

    normalize_action: Annotated[
        bool, _switch("--normalize_action", "-nact", group=_ENVIRONMENT)
    ] = False
    """Let the agent act in [-1, 1], scaled to the setpoints, as Sinergym itself did in 2021."""

    multiobs: Annotated[bool, _switch("--multiobs", "-mobs", group=_ENVIRONMENT)] = False
    """Observe the last five observations instead of one."""

    evaluation: Annotated[bool, _switch("--evaluation", "-eval", group=_EVALUATION)] = False
    """Evaluate during training, on an environment of its own, and keep the best model."""

    eval_freq: Annotated[int, _flag("--eval_freq", "-evalf", group=_EVALUATION)] = 2
    """Episodes of training between evaluations."""

    eval_length: Annotated[int, _flag("--eval_length", "-evall", group=_EVALUATION)] = 2
    """Episodes of one evaluation."""

    logger: Annotated[bool, _switch("--logger", "-log", group=_RESULTS)] = False
    """Write Sinergym's CSV files: observations, actions, rewards, a summary of each episode."""

    tensorboard: Annotated[str | None, _flag("--tensorboard", "-tens", group=_RESULTS)] = None
    """Write TensorBoard's event files. A relative path means tensorboard/ of the output folder, an
    absolute one that folder; for gs:// they are uploaded at the end."""

    log_interval: Annotated[int | None, _flag("--log_interval", "-inter", group=_RESULTS)] = None
    """Rollouts (PPO, A2C) or episodes (DQN and the others) between logged training metrics."""

    mlflow_store: Annotated[bool, _switch("--mlflow_store", "-mlflow", group=_RESULTS)] = False
    """Store models and tables in MLflow too; metrics go there if MLFLOW_TRACKING_URI is set."""

    remote_store: Annotated[bool, _switch("--remote_store", "-sto", group=_RESULTS)] = False
    """Upload the results to the bucket at the end. A runner does so in any case."""

    bucket_name: Annotated[str | None, _flag("--bucket_name", "-buc", group=_RESULTS)] = None
    """Bucket of --remote_store: default SINERGYM_BUCKET, or experiments-storage."""

    learning_rate: Annotated[
        float | None, _flag("--learning_rate", "-lr", group=_HYPERPARAMETERS)
    ] = None
    """Learning rate."""

    gamma: Annotated[float | None, _flag("--gamma", "-g", group=_HYPERPARAMETERS)] = None
    """Discount factor."""

    n_steps: Annotated[int | None, _flag("--n_steps", "-n", group=_HYPERPARAMETERS)] = None
    """PPO, A2C: timesteps of one rollout."""

    batch_size: Annotated[int | None, _flag("--batch_size", "-bs", group=_HYPERPARAMETERS)] = None
    """Minibatch size."""

    n_epochs: Annotated[int | None, _flag("--n_epochs", "-ne", group=_HYPERPARAMETERS)] = None
    """PPO: passes over one rollout."""

    gae_lambda: Annotated[float | None, _flag("--gae_lambda", "-gl", group=_HYPERPARAMETERS)] = (
        None
    )
    """PPO, A2C: bias against variance of the advantage."""

    clip_range: Annotated[float | None, _flag("--clip_range", "-cr", group=_HYPERPARAMETERS)] = (
        None
    )
    """PPO: clipping of the policy's change."""

    ent_coef: Annotated[float | None, _flag("--ent_coef", "-ec", group=_HYPERPARAMETERS)] = None
    """Weight of the entropy."""

    vf_coef: Annotated[float | None, _flag("--vf_coef", "-v", group=_HYPERPARAMETERS)] = None
    """PPO, A2C: weight of the value function's loss."""

    max_grad_norm: Annotated[
        float | None, _flag("--max_grad_norm", "-m", group=_HYPERPARAMETERS)
    ] = None
    """PPO, A2C, DQN: clipping of gradients."""

    rms_prop_eps: Annotated[
        float | None, _flag("--rms_prop_eps", "-rms", "-rpe", group=_HYPERPARAMETERS)
    ] = None
    """A2C: epsilon of RMSProp."""

    buffer_size: Annotated[int | None, _flag("--buffer_size", "-bfs", group=_HYPERPARAMETERS)] = (
        None
    )
    """DQN, DDPG, SAC, TD3: size of the replay buffer."""

    learning_starts: Annotated[
        int | None, _flag("--learning_starts", "-ls", group=_HYPERPARAMETERS)
    ] = None
    """DQN, DDPG, SAC, TD3: timesteps before learning."""

    gradient_steps: Annotated[
        int | None, _flag("--gradient_steps", "-gs", group=_HYPERPARAMETERS)
    ] = None
    """DQN, DDPG, SAC, TD3: gradient steps of one update."""

    tau: Annotated[float | None, _flag("--tau", "-tau", "-tu", group=_HYPERPARAMETERS)] = None
    """DQN, DDPG, SAC, TD3: share of a target network's update."""

    sigma: Annotated[float | None, _flag("--sigma", "-sig", group=_HYPERPARAMETERS)] = None
    """DDPG, SAC, TD3: standard deviation of the action noise; 0 or none is no noise."""

    group_name: Annotated[str | None, _flag("--group_name", "-group", group=_ACCEPTED)] = None
    """Instance group of this VM."""

    auto_delete: Annotated[bool, _switch("--auto_delete", "-del", group=_ACCEPTED)] = False
    """Remove this VM at the end."""

    def __post_init__(self) -> None:
        for name in ("episodes", "eval_freq", "eval_length", *_POSITIVE):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise InvalidOptions(f"--{name} must be at least 1, not {value}")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise InvalidOptions(f"--seed must be from 0 to {2**32 - 1}, not {self.seed}")
        if self.timesteps is not None and self.episodes != 1:
            raise InvalidOptions("give --episodes or --timesteps, not both")
        for name in HYPERPARAMETERS:
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value < 0):
                raise InvalidOptions(f"--{name} must be a number from 0 on, not {value}")

    def hyperparameters(self) -> dict[str, float | int]:
        """The hyperparameters that were given, by name."""
        given = {name: getattr(self, name) for name in HYPERPARAMETERS}
        return {name: value for name, value in given.items() if value is not None}


_POSITIVE = ("timesteps", "threads", "log_interval", "n_steps", "batch_size", "n_epochs")


def _hyperparameters() -> tuple[str, ...]:
    names = [field.name for field in fields(Options)]
    return tuple(names[names.index("learning_rate") : names.index("sigma") + 1])


HYPERPARAMETERS = _hyperparameters()
"""The names of all hyperparameters, in the order of the help."""
