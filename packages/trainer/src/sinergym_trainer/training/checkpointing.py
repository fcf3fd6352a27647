"""When a training makes its checkpoints: a callback of Stable-Baselines3."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sinergym_trainer.errors import one_line
from sinergym_trainer.models.checkpoints import Checkpoints

if TYPE_CHECKING:
    from sinergym_trainer.environments.normalization import Statistics


class CheckpointCallback(BaseCallback):
    """Writes a checkpoint every so many steps, or minutes, or both.

    Only between two rollouts, when what was collected has been learned from and is in the replay
    buffer. It draws no random number. A checkpoint that cannot be written (a full disk) costs the
    training nothing but one line, and the ones before stay.

    Args:
        checkpoints: where to.
        steps: timesteps between two of them at least, or None.
        minutes: time between two of them at least, or None.
        statistics: those of the observations now, or None.
        state: what the training wants back when it resumes (see `Checkpoints.save`).
        counters: more of it, that counts what was learned from: if a rollout is cut off, they are
            those of its beginning, as its steps will be run again.
        files: what to keep of the output folder (see `Checkpoints.save`).
        say: gets the line when one cannot be written, and when the next one can.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        steps: int | None,
        minutes: float | None,
        statistics: "Callable[[], Statistics | None]",
        state: Callable[[], Mapping[str, Any]],
        files: Callable[[], Mapping[str, Path]],
        say: Callable[[str], None],
        counters: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._steps = steps
        self._seconds = None if minutes is None else minutes * 60
        self._statistics = statistics
        self._state = state
        self._counters = counters
        self._files = files
        self._say = say
        self._failing = False
        self._last_steps = 0
        self._last_time = 0.0
        self._learned = 0
        self._learned_counters: Mapping[str, Any] = {}
        self._unlearned = False
        self.seconds = 0.0
        """The time that all checkpoints have taken together."""

    def save_now(self) -> Path | None:
        """Write a checkpoint at once, at the end of the learning say.

        Ended in the middle of a rollout, an on-policy algorithm has not learned from its steps,
        and a resumed training cannot: they are not counted, and will be run again.

        Returns:
            Its path; None when it could not be written, which has been said.
        """
        begun = time.monotonic()
        counted = self.model.num_timesteps
        if self._unlearned:
            self.model.num_timesteps = self._learned
        try:
            counters = self._learned_counters if self._unlearned else self._counters()
            path = self._checkpoints.save(
                self.model,
                statistics=self._statistics(),
                state={**self._state(), **counters},
                files=self._files(),
            )
        except Exception as error:  # hours of training are worth more than any reason
            if not self._failing:
                self._say(
                    f"a checkpoint could not be written, training goes on: {one_line(error)}"
                )
            self._failing = True
            return None
        finally:
            self.model.num_timesteps = counted
            self._last_steps, self._last_time = self.model.num_timesteps, time.monotonic()
            self.seconds += self._last_time - begun
        if self._failing:
            self._say("checkpoints are written again")
        self._failing = False
        return path

    def _on_training_start(self) -> None:
        self._last_steps, self._last_time = self.model.num_timesteps, time.monotonic()

    def _on_rollout_start(self) -> None:
        self._learned, self._unlearned = self.model.num_timesteps, False
        if self._is_due():
            self.save_now()
        self._unlearned = isinstance(self.model, OnPolicyAlgorithm)
        if self._unlearned:
            self._learned_counters = dict(self._counters())

    def _on_rollout_end(self) -> None:
        self._unlearned = False

    def _on_step(self) -> bool:
        return True

    def _is_due(self) -> bool:
        steps = self.model.num_timesteps - self._last_steps
        if self._steps is not None and steps >= self._steps:
            return True
        if self._seconds is None or steps == 0:
            return False
        return time.monotonic() - self._last_time >= self._seconds
