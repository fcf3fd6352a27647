"""The program of a stored model: what `mlflow.pyfunc.load_model` runs.

MLflow copies this file beside the model ("models from code"). It needs MLflow, NumPy and
Stable-Baselines3 where it runs, and not this package.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Policy(PythonModel):  # type: ignore[misc, unused-ignore]
    """A trained policy: a batch of observations in, the deterministic actions out.

    Observations are those of the environment: they are normalized here, if they were in training.
    A recurrent policy takes each one as the first of an episode.
    """

    def load_context(self, context: Any) -> None:
        """Load the model, to the CPU, and the statistics of its observations."""
        module, _, name = Path(context.artifacts["algorithm"]).read_text().partition(":")
        self._model = getattr(import_module(module), name).load(
            context.artifacts["model"], device="cpu"
        )
        self._mean: Any = 0.0
        self._deviation: Any = 1.0
        if path := context.artifacts.get("normalization"):
            with np.load(path, allow_pickle=False) as file:
                self._mean = file["mean"]
                self._deviation = np.sqrt(file["variance"] + 1e-8)

    # Without types: MLflow takes them for a schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the actions for observations, one a row."""
        del context, params
        observations = np.asarray(model_input)
        normalized = (observations - self._mean) / self._deviation
        actions, _ = self._model.predict(normalized.astype(np.float32), deterministic=True)
        return actions


set_model(Policy())
