"""Every flag of `sinergym-train` and `sinergym-eval`, declared once: names, type, bounds, help.

The names are those of Sinergym's `DRL_battery.py` of 2021 and 2022, so that old commands run as
written. A hyperparameter that is not given is `None`: Stable-Baselines3's own default for the
algorithm holds.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import Group, Parameter, Token

from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options.values import RunPeriod, Settings, read_yaml

BASELINES = ("random", "rule-based")
"""What `sinergym-eval --model` takes instead of a model."""
MAPPINGS = ("reward_kwargs", "policy_kwargs")
"""The options that are mappings: also in a configuration file."""

_PAIR = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")

_EXPERIMENT = Group("Experiment", sort_key=1)
_ENVIRONMENT = Group("Environment", sort_key=2)
_MODEL = Group("Model and checkpoints", sort_key=3)
_EVALUATION = Group("Evaluation", sort_key=4)
_RESULTS = Group("Logs and results", sort_key=5)
_HYPERPARAMETERS = Group(
    "Hyperparameters (default: Stable-Baselines3's own for the algorithm)", sort_key=6
)
_ACCEPTED = Group("Accepted, done by the runner", sort_key=7)


@dataclass(frozen=True, slots=True)
class _Range:
    """The numbers that an option may be."""

    low: float = 0
    high: float = math.inf
    above: bool = False
    """Whether the lowest is not allowed itself."""
    also: int | None = None

    def __contains__(self, value: float) -> bool:
        if value == self.also:
            return True
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        if self.high < math.inf:
            start = f"more than {self.low}, up to" if self.above else f"from {self.low} to"
            return f"{start} {self.high}"
        text = f"{'more than' if self.above else 'at least'} {self.low}"
        return text if self.also is None else f"{text}, or {self.also}"


_COUNT = _Range(1)
_COUNT_OR_ALL = _Range(1, also=-1)
_FROM_0 = _Range()
_ABOVE_0 = _Range(above=True)
_FRACTION = _Range(0, 1)
_SEED = _Range(0, 2**32 - 1)
_FINITE = _Range(-math.inf)


def _flag(*names: str, group: Group, **how: Any) -> Parameter:
    return Parameter(name=names, group=group, **({"negative": ""} | how))


def _switch(*names: str, group: Group) -> Parameter:
    return _flag(*names, group=group, show_default=False)


def _either(name: str, *short: str, group: Group) -> Parameter:
    """A switch with a form for no, as nothing is neither."""
    return _flag(name, *short, group=group, negative=f"--no-{name.removeprefix('--')}")


def _read(*names: str, group: Group, reader: Callable[[str], Any], **how: Any) -> Parameter:
    """A flag of one word, with a reader of our own: it raises what is wrong as a ValueError."""
    converter = partial(_convert, names[0], reader)
    return _flag(*names, group=group, converter=converter, n_tokens=1, accepts_keys=False, **how)


def _convert(name: str, reader: Callable[[str], Any], _type: Any, tokens: Sequence[Token]) -> Any:
    text = tokens[0].value
    try:
        return reader(text)
    except InvalidOptions:
        raise
    except ValueError as error:
        raise InvalidOptions(f"{name} {text!r} {error}") from None


def _whole(*names: str, group: Group) -> Parameter:
    return _read(*names, group=group, reader=_read_whole)


def _number(*names: str, group: Group) -> Parameter:
    return _read(*names, group=group, reader=_read_number)


def _read_whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)  # 1e5 is a whole number too
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError("is not a whole number")
    return int(number)


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("is not a number") from None


def _read_number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _read_steps_or_word(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _pairs(_type: Any, tokens: Sequence[Token]) -> Settings:
    """Read `key=value` words, or one mapping in YAML."""
    texts = [token.value for token in tokens]
    pairs = [_PAIR.fullmatch(text) for text in texts]
    found: dict[str, Any] = {}
    try:
        if len(texts) == 1 and not pairs[0]:
            return Settings.parse(texts[0])
        for text, pair in zip(texts, pairs, strict=True):
            if not pair:
                raise ValueError(f"is not key=value: {text!r}")
            if pair[1] in found:
                raise ValueError(f"has {pair[1]} twice")
            found[pair[1]] = read_yaml(pair[2])
    except ValueError as error:
        raise InvalidOptions(f"--reward_kwargs {' '.join(texts)!r} {error}") from None
    return Settings(found)


def _reward_kwargs(group: Group) -> Parameter:
    return _flag(
        "--reward_kwargs",
        group=group,
        converter=_pairs,
        n_tokens=-1,
        consume_multiple=True,
        accepts_keys=False,
        show_default=False,
    )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """One training, as it was asked for.

    Raises:
        InvalidOptions: a number is out of its range, or two options contradict each other.
    """

    environment: Annotated[str, _flag("--environment", "-env", group=_EXPERIMENT)]
    """Sinergym environment, such as Eplus-5zone-hot-continuous-v1; older ids are
    understood."""

    algorithm: Annotated[str, _flag("--algorithm", "-alg", group=_EXPERIMENT)] = "PPO"
    """PPO, A2C, DQN, DDPG, SAC or TD3 of Stable-Baselines3; RecurrentPPO, TQC, QRDQN or TRPO
    of sb3-contrib."""

    episodes: Annotated[int, _whole("--episodes", "-ep", group=_EXPERIMENT), _COUNT] = 1
    """Episodes to train for. One is a year, or the run period."""

    timesteps: Annotated[int | None, _whole("--timesteps", group=_EXPERIMENT), _COUNT] = None
    """Timesteps to train for, instead of whole episodes."""

    seed: Annotated[int | None, _whole("--seed", "-sd", group=_EXPERIMENT), _SEED] = None
    """Seed of the training; 0 is a seed."""

    id: Annotated[str | None, _flag("--id", "-id", group=_EXPERIMENT)] = None
    """A word of yours in the run's name: letters, digits, - _ and dots."""

    n_envs: Annotated[int, _whole("--n_envs", group=_EXPERIMENT), _COUNT] = 1
    """Environments that the agent learns from at the same time, beside each other."""

    device: Annotated[str, _flag("--device", group=_EXPERIMENT)] = "auto"
    """PyTorch's device: auto, cpu, cuda, cuda:N or mps."""

    threads: Annotated[int | None, _whole("--threads", group=_EXPERIMENT), _COUNT] = None
    """PyTorch's threads: default OMP_NUM_THREADS, or 1. A result's last digits depend on
    it."""

    config: Annotated[Path | None, _flag("--config", group=_EXPERIMENT)] = None
    """YAML file with any of these options, by their long names. Flags win, then variables such
    as SINERGYM_TRAIN_SEED, then the file."""

    run_period: Annotated[
        RunPeriod | None, _read("--run_period", group=_ENVIRONMENT, reader=RunPeriod.parse)
    ] = None
    """Days of one episode, the last included: day,month,year,day,month,year or 1/1-7/1."""

    reward: Annotated[str, _flag("--reward", "-rw", group=_ENVIRONMENT)] = "linear"
    """Reward function: linear, exponential, energy_cost, hourly, normalized or multizone."""

    reward_kwargs: Annotated[Mapping[str, Any], _reward_kwargs(_ENVIRONMENT)] = Settings()
    """Parameters of the reward: key=value key=value, values in YAML. Those not given are the
    environment's."""

    energy_weight: Annotated[
        float | None, _number("--energy_weight", "-rew", group=_ENVIRONMENT), _FRACTION
    ] = None
    """Weight of energy against comfort in the reward, from 0 to 1: default the
    environment's."""

    normalization: Annotated[bool, _switch("--normalization", "-norm", group=_ENVIRONMENT)] = False
    """Normalize observations by their running mean and variance."""

    normalize_action: Annotated[
        bool, _switch("--normalize_action", "-nact", group=_ENVIRONMENT)
    ] = False
    """Let the agent act in [-1, 1], scaled to the setpoints, as Sinergym itself did in
    2021."""

    multiobs: Annotated[bool, _switch("--multiobs", "-mobs", group=_ENVIRONMENT)] = False
    """Observe the last five observations instead of one."""

    model: Annotated[str | None, _flag("--model", "-mod", group=_MODEL)] = None
    """Model to go on with: a file or folder, gs://..., or runs:/ID of MLflow. With a
    checkpoint the training resumes, with a model alone it starts from its weights."""

    checkpoint_steps: Annotated[int | None, _whole("--checkpoint_steps", group=_MODEL), _COUNT] = (
        None
    )
    """Timesteps between checkpoints; minutes count beside it."""

    checkpoint_minutes: Annotated[
        float, _number("--checkpoint_minutes", group=_MODEL), _FROM_0
    ] = 10.0
    """Minutes between checkpoints; 0 for none."""

    checkpoint_keep: Annotated[int, _whole("--checkpoint_keep", group=_MODEL), _COUNT] = 2
    """Checkpoints to keep, the newest."""

    policy_kwargs: Annotated[
        Mapping[str, Any],
        _read("--policy_kwargs", group=_MODEL, reader=Settings.parse, show_default=False),
    ] = Settings()
    """Parameters of the policy, a mapping in YAML or JSON: 'net_arch: [64, 64]'. activation_fn
    is a name, such as Tanh or torch.nn.ReLU."""

    evaluation: Annotated[bool, _switch("--evaluation", "-eval", group=_EVALUATION)] = False
    """Evaluate during training, on an environment of its own, and keep the best model."""

    eval_freq: Annotated[int, _whole("--eval_freq", "-evalf", group=_EVALUATION), _COUNT] = 2
    """Episodes of training between evaluations."""

    eval_length: Annotated[int, _whole("--eval_length", "-evall", group=_EVALUATION), _COUNT] = 2
    """Episodes of one evaluation."""

    logger: Annotated[bool, _switch("--logger", "-log", group=_RESULTS)] = False
    """Write Sinergym's CSV files: observations, actions, rewards, a summary of each
    episode."""

    tensorboard: Annotated[str | None, _flag("--tensorboard", "-tens", group=_RESULTS)] = None
    """Write TensorBoard's event files. A relative path means tensorboard/ of the output
    folder, an absolute one that folder; for gs:// they are uploaded."""

    log_interval: Annotated[
        int | None, _whole("--log_interval", "-inter", group=_RESULTS), _COUNT
    ] = None
    """Rollouts (PPO and others with --n_steps) or episodes (DQN and others with a replay
    buffer) between logged training metrics."""

    mlflow_store: Annotated[bool, _switch("--mlflow_store", "-mlflow", group=_RESULTS)] = False
    """Store models and tables in MLflow too; metrics go there if MLFLOW_TRACKING_URI is
    set."""

    remote_store: Annotated[bool, _switch("--remote_store", "-sto", group=_RESULTS)] = False
    """Upload the results to the bucket. A runner does so in any case."""

    bucket_name: Annotated[str | None, _flag("--bucket_name", "-buc", group=_RESULTS)] = None
    """Bucket of --remote_store: default SINERGYM_BUCKET, or experiments-storage."""

    learning_rate: Annotated[
        float | None, _number("--learning_rate", "-lr", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """Learning rate."""

    gamma: Annotated[float | None, _number("--gamma", "-g", group=_HYPERPARAMETERS), _FRACTION] = (
        None
    )
    """Discount factor."""

    n_steps: Annotated[int | None, _whole("--n_steps", "-n", group=_HYPERPARAMETERS), _COUNT] = (
        None
    )
    """PPO, A2C, RecurrentPPO, TRPO: timesteps of one rollout, in each environment. The others:
    timesteps that a return looks ahead."""

    batch_size: Annotated[
        int | None, _whole("--batch_size", "-bs", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """All but A2C: minibatch size."""

    n_epochs: Annotated[
        int | None, _whole("--n_epochs", "-ne", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """PPO, RecurrentPPO: passes over one rollout."""

    gae_lambda: Annotated[
        float | None, _number("--gae_lambda", "-gl", group=_HYPERPARAMETERS), _FRACTION
    ] = None
    """PPO, A2C, RecurrentPPO, TRPO: bias against variance of the advantage."""

    clip_range: Annotated[
        float | None, _number("--clip_range", "-cr", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """PPO, RecurrentPPO: clipping of the policy's change."""

    clip_range_vf: Annotated[
        float | None, _number("--clip_range_vf", group=_HYPERPARAMETERS), _ABOVE_0
    ] = None
    """PPO, RecurrentPPO: clipping of the value function's change."""

    ent_coef: Annotated[
        float | str | None,
        _read("--ent_coef", "-ec", group=_HYPERPARAMETERS, reader=_read_number_or_word),
        _FROM_0,
    ] = None
    """PPO, A2C, RecurrentPPO: weight of the entropy. SAC, TQC: also auto, or auto_0.1 to start
    from 0.1."""

    vf_coef: Annotated[
        float | None, _number("--vf_coef", "-v", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """PPO, A2C, RecurrentPPO: weight of the value function's loss."""

    max_grad_norm: Annotated[
        float | None, _number("--max_grad_norm", "-m", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """PPO, A2C, RecurrentPPO, DQN, QRDQN: clipping of gradients."""

    rms_prop_eps: Annotated[
        float | None, _number("--rms_prop_eps", "-rms", "-rpe", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """A2C: epsilon of RMSProp."""

    target_kl: Annotated[
        float | None, _number("--target_kl", group=_HYPERPARAMETERS), _ABOVE_0
    ] = None
    """PPO, RecurrentPPO, TRPO: the most that one update may change the policy."""

    normalize_advantage: Annotated[
        bool | None, _either("--normalize_advantage", group=_HYPERPARAMETERS)
    ] = None
    """PPO, A2C, RecurrentPPO, TRPO: normalize advantages."""

    use_sde: Annotated[bool | None, _either("--use_sde", group=_HYPERPARAMETERS)] = None
    """PPO, A2C, RecurrentPPO, TRPO, SAC, TQC: explore with noise that depends on the state."""

    sde_sample_freq: Annotated[
        int | None, _whole("--sde_sample_freq", group=_HYPERPARAMETERS), _COUNT_OR_ALL
    ] = None
    """With --use_sde: timesteps between draws of that noise; -1 for one at each rollout."""

    buffer_size: Annotated[
        int | None, _whole("--buffer_size", "-bfs", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """DQN, DDPG, SAC, TD3, TQC, QRDQN: size of the replay buffer."""

    learning_starts: Annotated[
        int | None, _whole("--learning_starts", "-ls", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """DQN, DDPG, SAC, TD3, TQC, QRDQN: timesteps before learning."""

    train_freq: Annotated[
        int | str | None,
        _read("--train_freq", group=_HYPERPARAMETERS, reader=_read_steps_or_word),
        _COUNT,
    ] = None
    """DQN, DDPG, SAC, TD3, TQC, QRDQN: timesteps between updates, or such as '1 episode'."""

    gradient_steps: Annotated[
        int | None, _whole("--gradient_steps", "-gs", group=_HYPERPARAMETERS), _COUNT_OR_ALL
    ] = None
    """DQN, DDPG, SAC, TD3, TQC, QRDQN: gradient steps of one update; -1 for as many as
    timesteps since the last."""

    tau: Annotated[
        float | None, _number("--tau", "-tau", "-tu", group=_HYPERPARAMETERS), _FRACTION
    ] = None
    """DQN, DDPG, SAC, TD3, TQC, QRDQN: share of a target network's update."""

    target_update_interval: Annotated[
        int | None, _whole("--target_update_interval", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """DQN, QRDQN, SAC, TQC: steps between updates of the target network."""

    exploration_fraction: Annotated[
        float | None,
        _number("--exploration_fraction", group=_HYPERPARAMETERS),
        _Range(0, 1, above=True),
    ] = None
    """DQN, QRDQN: share of the training in which exploration falls to its end."""

    exploration_initial_eps: Annotated[
        float | None, _number("--exploration_initial_eps", group=_HYPERPARAMETERS), _FRACTION
    ] = None
    """DQN, QRDQN: share of random actions at the beginning."""

    exploration_final_eps: Annotated[
        float | None, _number("--exploration_final_eps", group=_HYPERPARAMETERS), _FRACTION
    ] = None
    """DQN, QRDQN: share of random actions at the end."""

    policy_delay: Annotated[
        int | None, _whole("--policy_delay", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """TD3: updates of the critics for each of the policy."""

    target_policy_noise: Annotated[
        float | None, _number("--target_policy_noise", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """TD3: standard deviation of the noise on the target's actions."""

    target_noise_clip: Annotated[
        float | None, _number("--target_noise_clip", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """TD3: the most that this noise may be."""

    target_entropy: Annotated[
        float | str | None,
        _read("--target_entropy", group=_HYPERPARAMETERS, reader=_read_number_or_word),
        _FINITE,
    ] = None
    """SAC, TQC: entropy to keep when its weight is learned, or auto."""

    top_quantiles_to_drop_per_net: Annotated[
        int | None, _whole("--top_quantiles_to_drop_per_net", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """TQC: quantiles of each critic that are left out."""

    cg_max_steps: Annotated[
        int | None, _whole("--cg_max_steps", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """TRPO: most steps of the conjugate gradient."""

    cg_damping: Annotated[
        float | None, _number("--cg_damping", group=_HYPERPARAMETERS), _FROM_0
    ] = None
    """TRPO: damping of the conjugate gradient."""

    line_search_shrinking_factor: Annotated[
        float | None, _number("--line_search_shrinking_factor", group=_HYPERPARAMETERS), _FRACTION
    ] = None
    """TRPO: by what the line search shrinks its step."""

    line_search_max_iter: Annotated[
        int | None, _whole("--line_search_max_iter", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """TRPO: most steps of the line search."""

    n_critic_updates: Annotated[
        int | None, _whole("--n_critic_updates", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """TRPO: updates of the critic for each of the policy."""

    sub_sampling_factor: Annotated[
        int | None, _whole("--sub_sampling_factor", group=_HYPERPARAMETERS), _COUNT
    ] = None
    """TRPO: one of so many timesteps goes into the gradient."""

    action_noise: Annotated[str | None, _flag("--action_noise", group=_HYPERPARAMETERS)] = None
    """DDPG, TD3, SAC, TQC: normal or ornstein-uhlenbeck, for exploration; its size is
    --sigma."""

    sigma: Annotated[float | None, _number("--sigma", "-sig", group=_HYPERPARAMETERS), _FROM_0] = (
        None
    )
    """DDPG, TD3, SAC, TQC: standard deviation of the action noise; 0 or none is no noise."""

    group_name: Annotated[str | None, _flag("--group_name", "-group", group=_ACCEPTED)] = None
    """Instance group of this VM."""

    auto_delete: Annotated[bool, _switch("--auto_delete", "-del", group=_ACCEPTED)] = False
    """Remove this VM at the end."""

    def __post_init__(self) -> None:
        _check(self)
        if self.timesteps is not None and self.episodes != 1:
            raise InvalidOptions("give --episodes or --timesteps, not both")

    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters that were given, by name; `action_noise` and `sigma` too."""
        given = {name: getattr(self, name) for name in HYPERPARAMETERS}
        return {name: value for name, value in given.items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """One evaluation of a model or baseline, as it was asked for. None: as in its training.

    Raises:
        InvalidOptions: a number is out of its range, or a baseline has no environment.
    """

    model: Annotated[str, _flag("--model", "-mod", group=_EXPERIMENT)]
    """Model to evaluate: a file or folder, gs://..., runs:/ID of MLflow; or a baseline, random
    or rule-based."""

    environment: Annotated[str | None, _flag("--environment", "-env", group=_EXPERIMENT)] = None
    """Sinergym environment: default the model's own. A baseline needs one."""

    algorithm: Annotated[str | None, _flag("--algorithm", "-alg", group=_EXPERIMENT)] = None
    """Algorithm of the model: default what its card says."""

    episodes: Annotated[int, _whole("--episodes", "-ep", group=_EXPERIMENT), _COUNT] = 1
    """Episodes to run."""

    seed: Annotated[int | None, _whole("--seed", "-sd", group=_EXPERIMENT), _SEED] = None
    """Seed of the environment and of random actions: default the training's. 0 is a seed."""

    deterministic: Annotated[
        bool,
        _flag("--deterministic", group=_EXPERIMENT, negative="--stochastic", show_default=False),
    ] = True
    """The policy's best actions, or with --stochastic its random ones."""

    id: Annotated[str | None, _flag("--id", "-id", group=_EXPERIMENT)] = None
    """A word of yours in the evaluation's name: letters, digits, - _ and dots."""

    device: Annotated[str, _flag("--device", group=_EXPERIMENT)] = "auto"
    """PyTorch's device: auto, cpu, cuda, cuda:N or mps."""

    threads: Annotated[int | None, _whole("--threads", group=_EXPERIMENT), _COUNT] = None
    """PyTorch's threads: default OMP_NUM_THREADS, or 1."""

    run_period: Annotated[
        RunPeriod | None, _read("--run_period", group=_ENVIRONMENT, reader=RunPeriod.parse)
    ] = None
    """Days of one episode, the last included: day,month,year,day,month,year or 1/1-7/1.
    Default that of the training."""

    reward: Annotated[str | None, _flag("--reward", "-rw", group=_ENVIRONMENT)] = None
    """Reward function: linear, exponential, energy_cost, hourly, normalized or multizone.
    Default that of the training."""

    reward_kwargs: Annotated[Mapping[str, Any], _reward_kwargs(_ENVIRONMENT)] = Settings()
    """Parameters of the reward: key=value key=value, values in YAML."""

    energy_weight: Annotated[
        float | None, _number("--energy_weight", "-rew", group=_ENVIRONMENT), _FRACTION
    ] = None
    """Weight of energy against comfort in the reward, from 0 to 1."""

    normalize_action: Annotated[
        bool | None, _either("--normalize_action", "-nact", group=_ENVIRONMENT)
    ] = None
    """Actions in [-1, 1]: default as in the training."""

    multiobs: Annotated[bool | None, _either("--multiobs", "-mobs", group=_ENVIRONMENT)] = None
    """Observe the last five observations: default as in the training."""

    output: Annotated[Path | None, _flag("--output", group=_RESULTS)] = None
    """Folder of the results: default SINERGYM_OUTPUT, or a new one, <model>-EVAL-episodes<n>."""

    json: Annotated[bool, _switch("--json", group=_RESULTS)] = False
    """Print the results as JSON."""

    mlflow_store: Annotated[bool, _switch("--mlflow_store", "-mlflow", group=_RESULTS)] = False
    """Store the results in MLflow."""

    remote_store: Annotated[bool, _switch("--remote_store", "-sto", group=_RESULTS)] = False
    """Upload the results to the bucket."""

    bucket_name: Annotated[str | None, _flag("--bucket_name", "-buc", group=_RESULTS)] = None
    """Bucket of --remote_store: default SINERGYM_BUCKET, or experiments-storage."""

    def __post_init__(self) -> None:
        _check(self)
        if self.model in BASELINES and self.environment is None:
            raise InvalidOptions(f"--model {self.model} needs an --environment")


def _check(options: Options | EvalOptions) -> None:
    """Check each option by itself."""
    for name, allowed in _RANGES[type(options)].items():
        value = getattr(options, name)
        if isinstance(value, int | float) and value not in allowed:
            raise InvalidOptions(f"--{name} must be {allowed}, not {value}")
    for field in fields(options):
        if getattr(options, field.name) == "":
            raise InvalidOptions(f"--{field.name} must not be empty")
    for name in MAPPINGS:
        value = getattr(options, name, None)
        if value is not None and not isinstance(value, Settings):
            try:
                object.__setattr__(options, name, Settings(value))
            except ValueError as error:
                raise InvalidOptions(f"--{name} takes plain values only: {error}") from None
    if options.id is not None and not _SAFE.fullmatch(options.id):
        raise InvalidOptions(
            f"--id is at most 100 letters, digits, '-', '_' and '.', not {options.id!r}"
        )
    if not _DEVICE.fullmatch(options.device):
        raise InvalidOptions(f"--device is auto, cpu, cuda, cuda:N or mps, not {options.device!r}")


def _ranges(options: type) -> dict[str, _Range]:
    hints = get_type_hints(options, include_extras=True)
    return {
        name: range_
        for name, hint in hints.items()
        for range_ in hint.__metadata__
        if isinstance(range_, _Range)
    }


def _hyperparameters() -> tuple[str, ...]:
    names = [field.name for field in fields(Options)]
    return tuple(names[names.index("learning_rate") : names.index("sigma") + 1])


_RANGES = {options: _ranges(options) for options in (Options, EvalOptions)}

HYPERPARAMETERS = _hyperparameters()
"""The names of all hyperparameters, in the order of the help."""
