"""The ten algorithms: which actions each can take, which hyperparameters, how to build and load.

PPO, A2C, DQN, DDPG, SAC and TD3 are Stable-Baselines3's; RecurrentPPO, TQC, QRDQN and TRPO are
sb3-contrib's. The table is plain, so that a wrong command is refused in a moment; the classes are
imported when a model is built. What is not given is not passed: defaults are the classes' own.

Action noise is added to the action scaled to [-1, 1] (`OffPolicyAlgorithm._sample_action`), so
`sigma` is in halves of the action space's range, whatever its unit, and the sum is clipped to it.
"""

import difflib
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sinergym_trainer.errors import InvalidOptions, ModelUnusable, one_line

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

Actions = Literal["continuous", "discrete", "multidiscrete"]
"""A kind of action space: Box, Discrete or MultiDiscrete."""

NOISES = ("normal", "ornstein-uhlenbeck")
"""What `action_noise` can be."""
SIGMA = 0.1
"""The noise's standard deviation when only its kind is given, as in Sinergym's scripts."""

_ROLLOUTS = (
    "learning_rate", "n_steps", "gamma", "gae_lambda", "use_sde", "sde_sample_freq",
    "normalize_advantage",
)  # fmt: skip
_GRADIENTS = ("ent_coef", "vf_coef", "max_grad_norm")
_CLIPPED = (
    *_ROLLOUTS, *_GRADIENTS, "batch_size", "n_epochs", "clip_range", "clip_range_vf", "target_kl",
)  # fmt: skip
_REPLAYED = (
    "learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "gamma", "train_freq",
    "gradient_steps", "n_steps",
)  # fmt: skip
_GREEDY = (
    *_REPLAYED, "target_update_interval", "exploration_fraction", "exploration_initial_eps",
    "exploration_final_eps", "max_grad_norm",
)  # fmt: skip
_NOISY = (*_REPLAYED, "action_noise", "sigma")
_SOFT = (
    *_NOISY, "ent_coef", "target_entropy", "target_update_interval", "use_sde", "sde_sample_freq",
)  # fmt: skip

_NETWORK = ("net_arch", "activation_fn", "normalize_images", "optimizer_class", "optimizer_kwargs")
_ACTOR_CRITIC = (
    *_NETWORK, "ortho_init", "log_std_init", "full_std", "use_expln", "squash_output",
    "share_features_extractor",
)  # fmt: skip
_LSTM = (
    *_ACTOR_CRITIC, "lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm",
    "lstm_kwargs",
)  # fmt: skip
_CRITICS = (*_NETWORK, "n_critics", "share_features_extractor")
_SQUASHED = (*_CRITICS, "log_std_init", "use_expln", "clip_mean")

_N_QUANTILES = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One algorithm: what it acts on and what it takes."""

    name: str
    module: str = "stable_baselines3"
    """The library with the class of that name."""
    policy: str = "MlpPolicy"
    actions: frozenset[Actions]
    hyperparameters: tuple[str, ...]
    policy_parameters: tuple[str, ...]
    """What the policy's constructor takes: the keys of `policy_kwargs`."""
    critic: Literal["vf", "qf", ""] = ""
    """The second network of a `net_arch` in two parts; none for those with one network."""
    on_policy: bool = False
    """Whether it learns from rollouts of n_steps, not from a replay buffer."""
    bounded: bool = False
    """Whether its policy keeps within an environment's bounds by itself (a squashed output)."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The class's own, where a check needs them; they are never passed."""

    def check(
        self,
        *,
        hyperparameters: Mapping[str, Any],
        actions: Actions,
        where: str,
        n_envs: int = 1,
        policy_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse what the algorithm does not take or what cannot go together; imports nothing big.

        Args:
            hyperparameters: those that were given, by name.
            actions: what the environment takes.
            where: the environment's id.
            n_envs: environments side by side.
            policy_kwargs: for the policy's constructor; see `policy_arguments`.

        Raises:
            InvalidOptions: naming what it takes, or what would fit.
        """
        unknown = [name for name in hyperparameters if name not in self.hyperparameters]
        if unknown:
            takes = ", ".join(f"--{name}" for name in self.hyperparameters)
            raise InvalidOptions(f"{self.name} does not take --{unknown[0]}; it takes {takes}")
        if actions not in self.actions:
            raise InvalidOptions(self._misfit(actions, where))
        if hyperparameters.get("use_sde") and actions != "continuous":
            raise InvalidOptions(
                f"--use_sde is for continuous actions; those of {where} are {actions}"
            )
        self._check_words(hyperparameters, n_envs)
        self._check_together({**self.defaults, **hyperparameters}, hyperparameters, n_envs)
        self._check_policy(policy_kwargs or {}, hyperparameters)

    def policy_arguments(self, policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the policy's constructor gets, names of classes replaced by the classes.

        `activation_fn` is the name of an activation of `torch.nn`, `optimizer_class` that of an
        optimizer of `torch.optim`, each with or without `torch.nn.` or `torch.optim.` before it;
        nothing else is ever looked up or imported. Imports torch.

        Raises:
            InvalidOptions: a key or name that is not there; the message has those that are.
        """
        self._check_policy(policy_kwargs, {})
        arguments = dict(policy_kwargs)
        if "activation_fn" in arguments:
            arguments["activation_fn"] = _torch_class("activation_fn", arguments["activation_fn"])
        if "optimizer_class" in arguments:
            arguments["optimizer_class"] = _torch_class(
                "optimizer_class", arguments["optimizer_class"]
            )
        return arguments

    def build(
        self,
        env: Any,
        *,
        seed: int | None,
        hyperparameters: Mapping[str, Any],
        device: str = "auto",
        policy_kwargs: Mapping[str, Any] | None = None,
    ) -> "BaseAlgorithm":
        """Make the model as `PPO("MlpPolicy", env, seed=...)`, with what was given and no more.

        With several environments Stable-Baselines3 gives each its own action noise by itself.

        Raises:
            InvalidOptions: a device, name or value that does not work, in one line.
        """
        check_device(device)
        given = _arguments(hyperparameters, env.action_space)
        if policy_kwargs:
            given["policy_kwargs"] = self.policy_arguments(policy_kwargs)
        with _quiet():
            try:
                model: BaseAlgorithm = self._class()(
                    self.policy, env, seed=seed, device=device, **given
                )
            except (AssertionError, TypeError, ValueError) as error:
                raise InvalidOptions(
                    f"{self.name} cannot be made so: {' '.join(str(error).split())}"
                ) from error
        return model

    def load(
        self,
        path: Path,
        *,
        env: Any = None,
        device: str = "auto",
        overrides: Mapping[str, Any] | None = None,
        seed: int | Literal["stored"] | None = "stored",
    ) -> "BaseAlgorithm":
        """Load a model that this algorithm saved, to predict with it, or to train on in `env`.

        Loading runs code from the file (Stable-Baselines3 stores pickles): load only what you
        trust.

        Args:
            path: the zip file.
            env: to train in. Without one the model is for predictions only: it has no replay
                buffer worth its name.
            device: where the networks go.
            overrides: hyperparameters that take the place of those stored.
            seed: what Python's, NumPy's and PyTorch's generators and `env` are seeded with; by
                default what the model was trained with, if there is an `env`. With neither a seed
                nor an `env` the generators stay as they are.

        Raises:
            ModelUnusable: the file is missing, broken, another algorithm's, or made for other
                observations or actions than `env`'s.
            InvalidOptions: an override that does not work, or a device that is not there.
        """
        check_device(device)
        overrides = overrides or {}
        stored = stored_values(path)
        self._check_stored(path, stored)
        replaced: dict[str, Any] = {"seed": stored.get("seed") if seed == "stored" else seed}
        if env is None:
            if overrides:
                raise ValueError("hyperparameters are for training: give an environment too")
            objects: dict[str, Any] = {"buffer_size": 1, "n_steps": 1}
            if seed == "stored":
                replaced["seed"] = None
        else:
            self._check_overrides(stored, overrides, env)
            replaced |= _arguments(overrides, env.action_space)
            objects = {}
        late = {name: replaced.pop(name) for name in _LATE if name in replaced}
        # Schedules are made anew from the values; buffers from the sizes. They may be functions of
        # another Python, and need not be unpickled.
        objects |= {"lr_schedule": None, "exploration_schedule": None}
        objects |= {"replay_buffer_class": None, "replay_buffer_kwargs": {}}
        objects |= {name: value for name, value in replaced.items() if name in stored}
        import torch

        # New weights are drawn before the stored ones replace them.
        unseen = env is None and replaced["seed"] is None
        with _quiet(), torch.random.fork_rng(devices=[], enabled=unseen):
            try:
                model: BaseAlgorithm = self._class().load(
                    path, env=env, device=device, custom_objects=objects, **replaced
                )
            except Exception as error:  # a pickle can raise anything
                why = " ".join(str(error).split())
                if "spaces do not match" in why:
                    why = f"it was made for another environment or other wrappers: {why}"
                raise ModelUnusable(
                    f"{path} cannot be loaded as {self.name}: {why or one_line(error)}"[:500]
                ) from error
        _unwrap_noise(model)
        for name, value in late.items():
            _LATE[name](model, value)
        return model

    def _class(self) -> Any:
        if self.module == "sb3_contrib":
            import sb3_contrib

            return getattr(sb3_contrib, self.name)
        import stable_baselines3

        return getattr(stable_baselines3, self.name)

    def _misfit(self, actions: Actions, where: str) -> str:
        from sinergym_trainer import catalogue

        fitting = [other.name for other in ALGORITHMS.values() if actions in other.actions]
        twin = catalogue.with_actions(where, self.actions)
        able = catalogue.fitting(self.actions)
        others = [twin] if twin else difflib.get_close_matches(where, able, n=2, cutoff=0.0)
        return (
            f"{self.name} acts on {' and '.join(sorted(self.actions))} actions, and those of"
            f" {where} are {actions}: for this environment take {', '.join(fitting)};"
            f" or take {' or '.join(others)}"
        )

    def _check_words(self, values: Mapping[str, Any], n_envs: int) -> None:
        """Hyperparameters that are not just numbers."""
        noise = values.get("action_noise", NOISES[0])
        if noise not in NOISES:
            raise InvalidOptions(f"--action_noise is {' or '.join(NOISES)}, not {noise!r}")
        if "ent_coef" in values:
            _entropy_coefficient(
                values["ent_coef"], learned="target_entropy" in self.hyperparameters
            )
        entropy = values.get("target_entropy", "auto")
        if entropy != "auto":
            _number("target_entropy", entropy)
        if "train_freq" in values and not self.on_policy:
            number, unit = _train_freq(values["train_freq"])
            if unit == "episode" and n_envs > 1:
                raise InvalidOptions(
                    f"--train_freq '{number} {unit}' needs one environment: take --n_envs 1, or"
                    " a number of steps"
                )

    def _check_together(
        self, values: Mapping[str, Any], given: Mapping[str, Any], n_envs: int
    ) -> None:
        """What the classes assert, only warn of, or come to grief with later."""
        if self.on_policy:
            rollout = values["n_steps"] * n_envs
            if values["normalize_advantage"] and rollout < 2:
                raise InvalidOptions(
                    f"{self.name} normalizes advantages, for which --n_steps times --n_envs must"
                    f" be at least 2, not {rollout}"
                )
            batch = values.get("batch_size")
            if values["normalize_advantage"] and batch == 1:
                raise InvalidOptions(
                    f"{self.name} normalizes advantages within a minibatch: --batch_size must be"
                    " at least 2"
                )
            if "batch_size" in given and given["batch_size"] > rollout:
                raise InvalidOptions(
                    f"--batch_size {batch} is more than a rollout's {rollout} timesteps (--n_steps"
                    f" {values['n_steps']} times --n_envs {n_envs})"
                )

    def _check_policy(self, policy: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        for name in policy:
            if name not in self.policy_parameters:
                raise InvalidOptions(
                    f"--policy_kwargs: the policy of {self.name} does not take {name!r}; it takes"
                    f" {', '.join(self.policy_parameters)}"
                )
        if "net_arch" in policy:
            self._check_layers(policy["net_arch"])
        if "rms_prop_eps" in given and "optimizer_class" in policy:
            raise InvalidOptions("--rms_prop_eps is RMSProp's, and --policy_kwargs names another")
        dropped = given.get("top_quantiles_to_drop_per_net", 0)
        quantiles = policy.get("n_quantiles", _N_QUANTILES)
        if dropped >= quantiles:
            raise InvalidOptions(
                f"--top_quantiles_to_drop_per_net {dropped} leaves none of {quantiles} quantiles"
            )

    def _check_layers(self, layers: Any) -> None:
        parts = {"": layers}
        if isinstance(layers, Mapping) and self.critic:
            parts = {str(name): part for name, part in layers.items()}
        wanted = {"pi", self.critic} if self.critic else {""}
        sizes = all(
            isinstance(part, Sequence)
            and not isinstance(part, str)
            and all(type(size) is int and size > 0 for size in part)
            for part in parts.values()
        )
        if not sizes or set(parts) not in ({""}, wanted):
            halves = f", or {{pi: [64, 64], {self.critic}: [64, 64]}}" if self.critic else ""
            raise InvalidOptions(
                f"--policy_kwargs: net_arch of {self.name} is a list of layers' sizes, [64,"
                f" 64]{halves}; not {layers!r}"
            )

    def _check_stored(self, path: Path, stored: Mapping[str, Any]) -> None:
        saved_by = _identify(stored)
        if saved_by != self.name and not (self.name == "DDPG" and _may_be_ddpg(stored)):
            raise ModelUnusable(
                f"{path} is a model of {saved_by or 'none we know'}, not of {self.name}"
            )

    def _check_overrides(
        self, stored: Mapping[str, Any], overrides: Mapping[str, Any], env: Any
    ) -> None:
        if "use_sde" in overrides and overrides["use_sde"] != stored.get("use_sde", False):
            raise InvalidOptions("--use_sde is part of the network: it cannot change with --model")
        n_envs = getattr(env, "num_envs", 1)
        unknown = [name for name in overrides if name not in self.hyperparameters]
        if unknown:
            raise InvalidOptions(f"{self.name} does not take --{unknown[0]}")
        self._check_words(overrides, n_envs)
        plain = {name: stored[name] for name in self.hyperparameters if name in stored}
        self._check_together({**self.defaults, **plain, **overrides}, overrides, n_envs)


_ANY: frozenset[Actions] = frozenset(("continuous", "discrete", "multidiscrete"))
_BOX: frozenset[Actions] = frozenset(("continuous",))
_ONE: frozenset[Actions] = frozenset(("discrete",))

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            name="PPO",
            actions=_ANY,
            hyperparameters=_CLIPPED,
            policy_parameters=_ACTOR_CRITIC,
            critic="vf",
            on_policy=True,
            defaults={"n_steps": 2048, "batch_size": 64, "normalize_advantage": True},
        ),
        Algorithm(
            name="A2C",
            actions=_ANY,
            hyperparameters=(*_ROLLOUTS, *_GRADIENTS, "rms_prop_eps"),
            policy_parameters=_ACTOR_CRITIC,
            critic="vf",
            on_policy=True,
            defaults={"n_steps": 5, "normalize_advantage": False},
        ),
        Algorithm(
            name="DQN", actions=_ONE, hyperparameters=_GREEDY, policy_parameters=_NETWORK
        ),
        Algorithm(
            name="DDPG",
            actions=_BOX,
            hyperparameters=_NOISY,
            policy_parameters=_CRITICS,
            critic="qf",
            bounded=True,
        ),
        Algorithm(
            name="SAC",
            actions=_BOX,
            hyperparameters=_SOFT,
            policy_parameters=_SQUASHED,
            critic="qf",
            bounded=True,
        ),
        Algorithm(
            name="TD3",
            actions=_BOX,
            hyperparameters=(*_NOISY, "policy_delay", "target_policy_noise", "target_noise_clip"),
            policy_parameters=_CRITICS,
            critic="qf",
            bounded=True,
        ),
        Algorithm(
            name="RecurrentPPO",
            module="sb3_contrib",
            policy="MlpLstmPolicy",
            actions=_ANY,
            hyperparameters=_CLIPPED,
            policy_parameters=_LSTM,
            critic="vf",
            on_policy=True,
            defaults={"n_steps": 128, "batch_size": 128, "normalize_advantage": True},
        ),
        Algorithm(
            name="TQC",
            module="sb3_contrib",
            actions=_BOX,
            hyperparameters=(*_SOFT, "top_quantiles_to_drop_per_net"),
            policy_parameters=(*_SQUASHED, "n_quantiles"),
            critic="qf",
            bounded=True,
        ),
        Algorithm(
            name="QRDQN",
            module="sb3_contrib",
            actions=_ONE,
            hyperparameters=_GREEDY,
            policy_parameters=(*_NETWORK, "n_quantiles"),
        ),
        Algorithm(
            name="TRPO",
            module="sb3_contrib",
            actions=_ANY,
            hyperparameters=(
                *_ROLLOUTS, "batch_size", "target_kl", "cg_max_steps", "cg_damping",
                "line_search_shrinking_factor", "line_search_max_iter", "n_critic_updates",
                "sub_sampling_factor",
            ),
            policy_parameters=_ACTOR_CRITIC,
            critic="vf",
            on_policy=True,
            defaults={"n_steps": 2048, "batch_size": 128, "normalize_advantage": True},
        ),
    )
}  # fmt: skip
"""Every algorithm, by name."""


def find_algorithm(name: str) -> Algorithm:
    """Look an algorithm up by its name, in any case.

    Raises:
        InvalidOptions: there is none, with the names that there are.
    """
    names = {known.lower(): known for known in ALGORITHMS}
    wanted = re.sub(r"[-_ ]", "", name.lower())
    if wanted in names:
        return ALGORITHMS[names[wanted]]
    close = difflib.get_close_matches(wanted, names, n=1)
    meant = f"did you mean {names[close[0]]}? " if close else ""
    raise InvalidOptions(f"unknown algorithm {name!r}: {meant}there are {', '.join(ALGORITHMS)}")


def check_device(device: str) -> None:
    """Refuse a device that is not in this machine; imports torch, but for `auto` and `cpu`.

    Raises:
        InvalidOptions: the name is of no device, or of one that is not here.
    """
    if device in {"auto", "cpu"}:
        return
    match = re.fullmatch(r"(mps)|cuda(?::(\d+))?", device)
    if not match:
        raise InvalidOptions(f"--device is auto, cpu, cuda, cuda:N or mps, not {device!r}")
    import torch

    if match[1]:
        if not torch.backends.mps.is_available():
            raise InvalidOptions(f"--device {device}: there is no such device here; take cpu")
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[2] or 0) >= count:
        there = f"there are {count} CUDA devices here" if count else "there is no CUDA device here"
        raise InvalidOptions(f"--device {device}: {there}; take auto or cpu")


def whole_units(
    model: "BaseAlgorithm", wanted: int, n_envs: int, *, episode_length: int | None = None
) -> tuple[int, int]:
    """How many timesteps `learn(wanted)` really runs, and how many at a time.

    Learning only stops between two of these: on-policy algorithms collect `n_steps` in each of the
    environments, off-policy ones `train_freq`.

    Args:
        model: built or loaded.
        wanted: timesteps in all environments together.
        n_envs: environments side by side.
        episode_length: in timesteps, for a `train_freq` in episodes; without it, that counts as 1.
    """
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    if isinstance(model, OnPolicyAlgorithm):
        unit = int(model.n_steps) * n_envs
    else:
        frequency = model.train_freq  # type: ignore[attr-defined]
        of_one = 1 if frequency.unit.value == "step" else episode_length
        unit = int(frequency.frequency) * of_one * n_envs if of_one else 1
    return -(-wanted // unit) * unit, unit


def identify(path: Path) -> str | None:
    """Tell whose model a Stable-Baselines3 zip is, without unpickling anything; None if nobody's.

    DDPG is a TD3 with one critic, no delay and no clipped noise, and what is so counts as DDPG.

    Raises:
        ModelUnusable: there is no such file, or it is no model.
    """
    return _identify(stored_values(path))


def stored_values(path: Path) -> dict[str, Any]:
    """Read the plain members of a saved model; pickled ones are mappings with `:serialized:`.

    Raises:
        ModelUnusable: there is no such file, or it is no model of Stable-Baselines3.
    """
    import json
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            values = json.loads(archive.read("data"))
        if not isinstance(values, dict) or "policy_class" not in values:
            raise ValueError("its data are of something else")
    except FileNotFoundError:
        raise ModelUnusable(f"there is no model {path}") from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelUnusable(
            f"{path} is no model of Stable-Baselines3, or broken: {one_line(error)}"
        ) from error
    return values


def _identify(stored: Mapping[str, Any]) -> str | None:
    policy = stored.get("policy_class")
    module = str(policy.get("__module__", "")) if isinstance(policy, Mapping) else ""
    kwargs = stored.get("policy_kwargs")
    one_critic = isinstance(kwargs, Mapping) and kwargs.get("n_critics") == 1
    td3 = "DDPG" if one_critic and _may_be_ddpg(stored) else "TD3"
    marks = (
        ("RecurrentPPO", "recurrent" in module),
        ("TQC", "top_quantiles_to_drop_per_net" in stored),
        ("SAC", "target_entropy" in stored),
        (td3, "policy_delay" in stored),
        ("QRDQN", "qrdqn" in module),
        ("DQN", "exploration_fraction" in stored),
        ("TRPO", "cg_max_steps" in stored),
        ("PPO", "clip_range" in stored),
        ("A2C", "gae_lambda" in stored),
    )
    return next((name for name, fits in marks if fits), None)


def _may_be_ddpg(stored: Mapping[str, Any]) -> bool:
    """DDPG is stored as the TD3 that it is: without delay and without clipped noise."""
    return stored.get("policy_delay") == 1 and stored.get("target_noise_clip") == 0


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidOptions(f"--{name} must be a number, not {value!r}") from None


def _train_freq(value: int | str) -> tuple[int, str]:
    """Read `4` or `4 steps`, or `1 episode`."""
    match = re.fullmatch(r"([1-9]\d*)(?: (step|episode)s?)?", str(value).strip())
    if not match:
        raise InvalidOptions(
            f"--train_freq is a number of steps, or such as '1 episode', not {value!r}"
        )
    return int(match[1]), match[2] or "step"


def _entropy_coefficient(value: Any, *, learned: bool) -> float | str:
    """A number, or for those that can learn it `auto` or `auto_<where it begins>`."""
    text = str(value)
    if text.startswith("auto"):
        if not learned:
            raise InvalidOptions(f"--ent_coef {text} is for SAC and TQC; others take a number")
        begin = text.removeprefix("auto").removeprefix("_")
        if text != "auto" and not (text.startswith("auto_") and _number("ent_coef", begin) > 0):
            raise InvalidOptions(
                f"--ent_coef is a number, auto, or such as auto_0.1, not {text!r}"
            )
        return text
    number = _number("ent_coef", value)
    if not math.isfinite(number) or number < 0:
        raise InvalidOptions(f"--ent_coef must be a number from 0 on, not {value}")
    return number


def _arguments(hyperparameters: Mapping[str, Any], space: Any) -> dict[str, Any]:
    """What the class's constructor gets for the hyperparameters given."""
    given = dict(hyperparameters)
    if "train_freq" in given:
        given["train_freq"] = _train_freq(given["train_freq"])
    if "ent_coef" in given:
        given["ent_coef"] = _entropy_coefficient(given["ent_coef"], learned=True)
    kind, sigma = given.pop("action_noise", None), given.pop("sigma", None)
    if kind or sigma is not None:
        given["action_noise"] = _noise(kind or "normal", SIGMA if sigma is None else sigma, space)
    return given


def _noise(kind: str, sigma: float, space: Any) -> Any:
    """Noise for one environment's action in [-1, 1]; None when there would be none."""
    if not sigma:
        return None
    import numpy as np
    from stable_baselines3.common import noise

    mean, spread = np.zeros(space.shape), np.full(space.shape, float(sigma))
    if kind == "normal":
        return noise.NormalActionNoise(mean, spread)
    return noise.OrnsteinUhlenbeckActionNoise(mean, spread)


def _torch_class(key: str, name: Any) -> Any:
    import torch

    if key == "activation_fn":
        where, needy = "torch.nn", {"MultiheadAttention", "Threshold"}
        known = [
            (each, found)
            for each, found in vars(torch.nn).items()
            if getattr(found, "__module__", "") == "torch.nn.modules.activation"
        ]
    else:
        # Stable-Baselines3 cannot step with these.
        where, needy = "torch.optim", {"LBFGS", "SparseAdam"}
        known = list(vars(torch.optim).items())
    root: type = torch.nn.Module if where == "torch.nn" else torch.optim.Optimizer
    able = {
        each.lower(): found
        for each, found in known
        if isinstance(found, type)
        and issubclass(found, root)
        and found is not root
        and each not in needy
    }
    short = str(name).lower().removeprefix("torch.").removeprefix(where[6:] + ".")
    if short in able:
        return able[short]
    close = difflib.get_close_matches(short, able, n=3) or list(able)
    raise InvalidOptions(
        f"--policy_kwargs: {key} {name!r} is not in {where}; there are"
        f" {', '.join(able[each].__name__ for each in close)}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Stable-Baselines3's advice to take the CPU: the device was chosen."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to run", category=UserWarning)
        yield


def _unwrap_noise(model: Any) -> None:
    """Stored noise is for as many environments as there were; learning vectorizes it again."""
    from stable_baselines3.common.noise import VectorizedActionNoise

    if isinstance(getattr(model, "action_noise", None), VectorizedActionNoise):
        model.action_noise = model.action_noise.base_noise


def _set_entropy_coefficient(model: Any, value: float | str) -> None:
    """As in `SAC._setup_model`; loading would put the stored coefficient back."""
    if not hasattr(model, "target_entropy"):
        model.ent_coef = value
        return
    import torch

    model.ent_coef = value
    if isinstance(value, str):
        begin = float(value.partition("_")[2] or 1.0)
        start = torch.log(torch.ones(1, device=model.device) * begin)
        model.log_ent_coef = start.requires_grad_(True)
        model.ent_coef_optimizer = torch.optim.Adam([model.log_ent_coef], lr=model.lr_schedule(1))
    else:
        model.log_ent_coef = model.ent_coef_optimizer = None
        model.ent_coef_tensor = torch.tensor(value, device=model.device)


def _set_rms_prop_eps(model: Any, value: float) -> None:
    """As `A2C` hands it to its optimizer, whose stored state has the one before."""
    arguments = model.policy_kwargs.get("optimizer_kwargs", {})
    model.policy_kwargs["optimizer_kwargs"] = {**arguments, "eps": value}
    for group in model.policy.optimizer.param_groups:
        group["eps"] = value


_LATE = {"ent_coef": _set_entropy_coefficient, "rms_prop_eps": _set_rms_prop_eps}
"""Hyperparameters that loading would overwrite with what is stored in the optimizers' states."""
