"""Stable-Baselines3's logger, to a tracker."""

import time
from typing import Any

from stable_baselines3.common.logger import KVWriter

from sinergym_trainer.tracking.tracker import Tracker

_THINNED = ("train/", "rollout/", "time/")
_SECONDS_BETWEEN_VALUES = 1.0


class MlflowWriter(KVWriter):
    """Hands what Stable-Baselines3 logs to a tracker.

    Training metrics that come more often than once a second are thinned, each key to one value a
    second; those of episodes and evaluations are all sent.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._next: dict[str, float] = {}

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Hand the values on; those excluded from `mlflow` are left out."""
        now = time.monotonic()
        metrics: dict[str, float] = {}
        for key, value in key_values.items():
            if "mlflow" in (key_excluded.get(key) or ()):
                continue
            if key.startswith(_THINNED):
                if now < self._next.get(key, 0.0):
                    continue
                self._next[key] = now + _SECONDS_BETWEEN_VALUES
            metrics[key] = value
        self._tracker.log(metrics, step)

    def close(self) -> None:
        """Nothing to do: the tracker is closed by the training, which knows how it ended."""
