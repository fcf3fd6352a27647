"""A run's tags and parameters: who it is, and all that its result depends on."""

import contextlib
import getpass
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sinergym_trainer.options import HYPERPARAMETERS, Options

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

_RENAMED = {
    "environment": "env",
    "multiobs": "multi-observations",
    "eval_freq": "evaluation-frequency",
    "eval_length": "evaluation-length",
    "log_interval": "log-interval",
    "remote_store": "remote-store",
    "run_period": "run-period",
    "batch_size": "batch-size",
    "n_epochs": "n-epochs",
    "gradient_steps": "gradient-steps",
    "clip_range": "clip-range",
}
"""Names that `DRL_battery.py` gave, where they are not the options'."""

_LEFT_OUT = frozenset(("group_name", "auto_delete", "mlflow_store", "bucket_name", "config"))
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
_LONGEST = 6000


def parameters(
    options: Options,
    environment: str,
    algorithm: str,
    *,
    versions: Mapping[str, str] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """Return MLflow's parameters of a run, with the names that `DRL_battery.py` gave them.

    All options that have a value, with `<package>-version`, and for hyperparameters that were not
    given those in force. A value has 6000 characters at most.

    Args:
        options: as the training was asked for.
        environment: the id that was meant.
        algorithm: its name.
        versions: of packages, by name.
        defaults: hyperparameters in force, by option; see `in_force`.
    """
    values: dict[str, object] = {
        f"{package}-version": version for package, version in (versions or {}).items()
    }
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in _LEFT_OUT or value is None or value in ({}, ()):
            continue
        values[_RENAMED.get(field.name, field.name)] = value
    for name, value in (defaults or {}).items():
        values.setdefault(_RENAMED.get(name, name), value)
    values |= {"env": environment, "algorithm": algorithm}
    return {name: _text(value)[:_LONGEST] for name, value in values.items()}


def in_force(model: "BaseAlgorithm") -> dict[str, float | int | str | bool]:
    """Return the hyperparameters that a model learns by, by option: given, or its defaults.

    Of a schedule it is the value at the start.
    """
    found: dict[str, float | int | str | bool] = {}
    for name in HYPERPARAMETERS:
        value = _plain(getattr(model, name, None))
        if value is not None:
            found[name] = value
    optimizer = getattr(model.policy, "optimizer", None)
    if type(optimizer).__name__.startswith("RMSprop"):
        found["rms_prop_eps"] = float(optimizer.defaults["eps"])  # type: ignore[union-attr]
    noise = getattr(model, "action_noise", None)
    if noise is not None:
        found["action_noise"] = type(noise).__name__
        found["sigma"] = float(max(getattr(noise, "_sigma", (0.0,))))
    return found


def tags() -> dict[str, str]:
    """Return a run's tags: sweep, experiment, attempt, the code's git commit, and MLflow's own.

    Of the tags that MLflow reserves ("System Tags" in its documentation) there are `mlflow.user`,
    `mlflow.source.name` (sinergym-train), `mlflow.source.type` (JOB in a sweep, else LOCAL) and
    `mlflow.source.git.commit`; `mlflow.runName` is the run's name.
    """
    environ = os.environ
    experiment = environ.get("SINERGYM_EXPERIMENT")
    commit = git_commit()
    found = {
        "sweep": environ.get("SINERGYM_SWEEP"),
        "experiment": experiment,
        "attempt": environ.get("SINERGYM_ATTEMPT"),
        "git": commit,
        "mlflow.user": _user(),
        "mlflow.source.name": "sinergym-train",
        "mlflow.source.type": "JOB" if experiment else "LOCAL",
        "mlflow.source.git.commit": commit,
    }
    return {key: value for key, value in found.items() if value}


def git_commit() -> str | None:
    """Return the commit in `SINERGYM_GIT` (an image's), else that of the working directory."""
    given = os.environ.get("SINERGYM_GIT", "").strip()
    if given:
        return given
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=2,
            check=True,
        )
        if _COMMIT.fullmatch(commit := asked.stdout.strip()):
            return commit
    return None


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user has no name
        return None


def _plain(value: Any) -> float | int | str | bool | None:
    """A number or word, from a schedule, a tensor, or a frequency of training too."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "unit") and hasattr(value, "frequency"):
        unit = value.unit.value
        return int(value.frequency) if unit == "step" else f"{value.frequency} {unit}"
    try:
        return float(value(1.0)) if callable(value) else float(value)
    except (TypeError, ValueError):
        return None


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return json.dumps(dict(value), default=str)
    return str(value)
