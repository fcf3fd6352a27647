"""The algorithms of Stable-Baselines3: which actions each can take, and which hyperparameters.

The table is plain, so that a wrong command is refused in a moment; the classes are imported when a
model is built.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sinergym_trainer.errors import InvalidOptions

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

Actions = Literal["continuous", "discrete", "multidiscrete"]
"""A kind of action space: Box, Discrete or MultiDiscrete."""

_OFF_POLICY = (
    "learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "gamma",
    "gradient_steps",
)  # fmt: skip
_ON_POLICY = (
    "learning_rate", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One algorithm: what it acts on and what it takes."""

    name: str
    actions: frozenset[Actions]
    hyperparameters: tuple[str, ...]
    bounded: bool = False
    """Whether its policy keeps within an environment's bounds by itself (a squashed output)."""

    def check(self, *, hyperparameters: Mapping[str, float], actions: Actions, where: str) -> None:
        """Refuse hyperparameters that it does not take and actions that it cannot choose.

        Raises:
            InvalidOptions: naming what it takes, or what would fit.
        """
        unknown = [name for name in hyperparameters if name not in self.hyperparameters]
        if unknown:
            takes = ", ".join(f"--{name}" for name in self.hyperparameters)
            raise InvalidOptions(f"{self.name} does not take --{unknown[0]}; it takes {takes}")
        if actions not in self.actions:
            fitting = [other.name for other in ALGORITHMS.values() if actions in other.actions]
            raise InvalidOptions(
                f"{self.name} acts on {' and '.join(sorted(self.actions))} actions, and those of"
                f" {where} are {actions}:"
                f" for this environment take {', '.join(fitting)}"
            )

    def build(
        self, env: Any, *, seed: int | None, hyperparameters: Mapping[str, float]
    ) -> "BaseAlgorithm":
        """Make the model as `PPO("MlpPolicy", env, seed=...)`, with what was given and no more."""
        import stable_baselines3

        parameters: dict[str, Any] = dict(hyperparameters)
        sigma = parameters.pop("sigma", None)
        if sigma:
            import numpy as np
            from stable_baselines3.common.noise import NormalActionNoise

            size = env.action_space.shape[0]
            parameters["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, sigma))
        model: BaseAlgorithm = getattr(stable_baselines3, self.name)(
            "MlpPolicy", env, seed=seed, **parameters
        )
        return model


_ANY: frozenset[Actions] = frozenset(("continuous", "discrete", "multidiscrete"))
_BOX: frozenset[Actions] = frozenset(("continuous",))

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            name="PPO",
            actions=_ANY,
            hyperparameters=(*_ON_POLICY, "batch_size", "n_epochs", "clip_range"),
        ),
        Algorithm(name="A2C", actions=_ANY, hyperparameters=(*_ON_POLICY, "rms_prop_eps")),
        Algorithm(
            name="DQN",
            actions=frozenset(("discrete",)),
            hyperparameters=(*_OFF_POLICY, "max_grad_norm"),
        ),
        Algorithm(
            name="DDPG", actions=_BOX, hyperparameters=(*_OFF_POLICY, "sigma"), bounded=True
        ),
        Algorithm(
            name="SAC",
            actions=_BOX,
            hyperparameters=(*_OFF_POLICY, "ent_coef", "sigma"),
            bounded=True,
        ),
        Algorithm(name="TD3", actions=_BOX, hyperparameters=(*_OFF_POLICY, "sigma"), bounded=True),
    )
}
"""Every algorithm, by name."""


def find_algorithm(name: str) -> Algorithm:
    """Look an algorithm up by its name, in any case.

    Raises:
        InvalidOptions: there is none, with the names that there are.
    """
    if algorithm := ALGORITHMS.get(name.upper()):
        return algorithm
    close = difflib.get_close_matches(name.upper(), ALGORITHMS, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise InvalidOptions(f"unknown algorithm {name!r}: {meant}there are {', '.join(ALGORITHMS)}")
