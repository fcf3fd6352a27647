"""TensorBoard's event files, and the scalars that the original `DRL_battery.py` wrote there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize
from torch.utils.tensorboard import SummaryWriter

ONLY_TENSORBOARD = ("stdout", "log", "json", "csv", "mlflow")
"""What the logger keeps the scalars of single variables from."""


class BoardWriter(TensorBoardOutputFormat):
    """Stable-Baselines3's writer of event files, which can go on where a checkpoint was made.

    Args:
        folder: gets the event files; made when missing.
        resumed_at: the timesteps of the checkpoint that the training goes on from: TensorBoard
            then hides what an earlier attempt has written after it (`purge_step` of PyTorch's
            `SummaryWriter`). None for a new training.
    """

    def __init__(self, folder: Path, *, resumed_at: int | None = None) -> None:
        # Not by the parent's constructor, which knows no `purge_step`.
        purge_step = None if resumed_at is None else resumed_at + 1
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)
        self._is_closed = False


class BoardCallback(BaseCallback):
    """Records each variable's observation and action, of the first environment.

    `observation/<variable>` as the environment gives it, `normalized_observation/<variable>` as
    the agent sees it (when they are normalized), `action/<variable>` as the agent chooses it,
    within the action space's bounds, and `action_simulation/<variable>` as the simulation gets it.
    Of the stacked observations of `MultiObsWrapper` the newest one is taken, and an action that is
    one number for all variables is called `index`.

    On-policy algorithms record the values of a rollout's last step, off-policy ones the mean since
    they last logged, as `DRL_battery.py` did. Observations are those that the agent acts on: at an
    episode's end that is the first one of the next.

    Args:
        observation_variables: names of one observation's values, in order.
        action_variables: names of the simulation's actuators, in order.
    """

    def __init__(
        self, *, observation_variables: Sequence[str], action_variables: Sequence[str]
    ) -> None:
        super().__init__()
        self._observed = tuple(observation_variables)
        self._actuated = tuple(action_variables)
        self._normalize: VecNormalize | None = None
        self._means = False
        self._action = "actions"
        self._names: tuple[tuple[str, ...], ...] = ()
        self._sums: list[Any] = []
        self._steps = 0
        self._recorded = ""

    def _on_training_start(self) -> None:
        self._normalize = unwrap_vec_normalize(self.training_env)
        self._means = isinstance(self.model, OffPolicyAlgorithm)

    def _on_step(self) -> bool:
        if not self._means:
            return True
        if self._recorded and self._recorded not in self.logger.name_to_value:
            self._steps, self._recorded = 0, ""  # logged since
        values = self._values()
        if self._steps:
            for total, value in zip(self._sums, values, strict=True):
                np.add(total, value, out=total)
        else:
            self._sums = [np.array(value, dtype=np.float64) for value in values]
        self._steps += 1
        # It logs right after the step that ends an episode, of any environment.
        if self.locals["dones"].any():
            self._record([total / self._steps for total in self._sums])
        return True

    def _on_rollout_end(self) -> None:
        if not self._means:
            self._record(self._values())

    def _values(self) -> list[Any]:
        """Observation, action, simulated action, and normalized observation if there is one."""
        step = self.locals
        width = len(self._observed)
        # The newest of stacked observations is the last.
        seen = step["new_obs"][0].reshape(-1)[-width:]
        action = step.get("clipped_actions", step["actions"])[0]
        simulated = step["infos"][0]["action"]
        if self._normalize is None:
            return [seen, action, simulated]
        original = np.asarray(self._normalize.old_obs)[0].reshape(-1)[-width:]
        return [original, action, simulated, seen]

    def _record(self, values: Sequence[Any]) -> None:
        if not self._names:
            self._names = self._name(values)
        for names, value in zip(self._names, values, strict=True):
            for name, number in zip(names, np.ravel(value), strict=True):
                self.logger.record(name, float(number), exclude=ONLY_TENSORBOARD)
        self._recorded = self._names[0][0]

    def _name(self, values: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
        observed, actuated = self._observed, self._actuated
        chosen = ("index",) if isinstance(self.model.action_space, spaces.Discrete) else actuated
        kinds = (
            ("observation", observed),
            ("action", chosen),
            ("action_simulation", actuated),
            ("normalized_observation", observed),
        )
        return tuple(
            tuple(f"{kind}/{name}" for name in _fitting(names, np.size(value)))
            for (kind, names), value in zip(kinds, values, strict=False)
        )


def _fitting(names: Sequence[str], size: int) -> Sequence[str]:
    """The names, or numbers where a wrapper has changed how many values there are."""
    return names if len(names) == size else [str(number) for number in range(size)]
