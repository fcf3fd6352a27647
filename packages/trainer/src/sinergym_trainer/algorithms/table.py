"""The ten algorithms: which actions each can take, which hyperparameters, how to build and load.

PPO, A2C, DQN, DDPG, SAC and TD3 are Stable-Baselines3's; RecurrentPPO, TQC, QRDQN and TRPO are
sb3-contrib's. The table is plain, so that a wrong command is refused in a moment; the classes are
imported when a model is built. What is not given is not passed: defaults are the classes' own.
"""

import difflib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sinergym_trainer.algorithms.hyperparameters import (
    LATE,
    arguments,
    check_words,
    replace_late,
    unwrap_noise,
)
from sinergym_trainer.algorithms.policies import check_policy_kwargs, with_classes
from sinergym_trainer.environments.catalogue import Actions, fitting, with_actions
from sinergym_trainer.errors import InvalidOptions, ModelUnusable, one_line

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

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
"""Of each of TQC's critics, by default."""


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

        Imports torch.

        Raises:
            InvalidOptions: a key or name that is not there; the message has those that are.
        """
        self._check_policy(policy_kwargs, {})
        return with_classes(policy_kwargs)

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
        given = arguments(hyperparameters, env.action_space)
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
            replaced |= arguments(overrides, env.action_space)
            objects = {}
        late = {name: replaced.pop(name) for name in LATE if name in replaced}
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
        unwrap_noise(model)
        for name, value in late.items():
            replace_late(model, name, value)
        return model

    def _class(self) -> Any:
        if self.module == "sb3_contrib":
            import sb3_contrib

            return getattr(sb3_contrib, self.name)
        import stable_baselines3

        return getattr(stable_baselines3, self.name)

    def _misfit(self, actions: Actions, where: str) -> str:
        names = [other.name for other in ALGORITHMS.values() if actions in other.actions]
        twin = with_actions(where, self.actions)
        able = fitting(self.actions)
        others = [twin] if twin else difflib.get_close_matches(where, able, n=2, cutoff=0.0)
        return (
            f"{self.name} acts on {' and '.join(sorted(self.actions))} actions, and those of"
            f" {where} are {actions}: for this environment take {', '.join(names)};"
            f" or take {' or '.join(others)}"
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

    def _check_words(self, values: Mapping[str, Any], n_envs: int) -> None:
        learns_entropy = "target_entropy" in self.hyperparameters
        check_words(values, learns_entropy=learns_entropy, n_envs=n_envs)

    def _check_policy(self, policy: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        check_policy_kwargs(
            policy, takes=self.policy_parameters, critic=self.critic, name=self.name
        )
        if "rms_prop_eps" in given and "optimizer_class" in policy:
            raise InvalidOptions("--rms_prop_eps is RMSProp's, and --policy_kwargs names another")
        dropped = given.get("top_quantiles_to_drop_per_net", 0)
        quantiles = policy.get("n_quantiles", _N_QUANTILES)
        if dropped >= quantiles:
            raise InvalidOptions(
                f"--top_quantiles_to_drop_per_net {dropped} leaves none of {quantiles} quantiles"
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Stable-Baselines3's advice to take the CPU: the device was chosen."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to run", category=UserWarning)
        yield
