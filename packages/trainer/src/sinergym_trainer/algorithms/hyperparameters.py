"""Hyperparameters as the classes take them: noise from its name, words read, stored ones replaced.

Action noise is added to the action scaled to [-1, 1] (`OffPolicyAlgorithm._sample_action`), so
`sigma` is in halves of the action space's range, whatever its unit, and the sum is clipped to it.

The ranges of numbers are checked where the flags are declared, in `options`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from sinergym_trainer.errors import InvalidOptions

NOISES = ("normal", "ornstein-uhlenbeck")
"""What `action_noise` can be."""
SIGMA = 0.1
"""The noise's standard deviation when only its kind is given, as in Sinergym's scripts."""

LATE = frozenset(("ent_coef", "rms_prop_eps"))
"""Hyperparameters that loading would overwrite with what is stored in the optimizers' states."""


def check_words(values: Mapping[str, Any], *, learns_entropy: bool, n_envs: int) -> None:
    """Refuse those hyperparameters that can be words, where they are not the right ones.

    Args:
        values: hyperparameters by name.
        learns_entropy: whether `ent_coef` may be `auto`.
        n_envs: environments side by side.

    Raises:
        InvalidOptions: one is none of its words, and no number.
    """
    noise = values.get("action_noise", NOISES[0])
    if noise not in NOISES:
        raise InvalidOptions(f"--action_noise is {' or '.join(NOISES)}, not {noise!r}")
    if "ent_coef" in values:
        _entropy_coefficient(values["ent_coef"], learned=learns_entropy)
    entropy = values.get("target_entropy", "auto")
    if entropy != "auto":
        _number("target_entropy", entropy)
    number, unit = _train_freq(values.get("train_freq", 1))
    if unit == "episode" and n_envs > 1:
        raise InvalidOptions(
            f"--train_freq '{number} {unit}' needs one environment: take --n_envs 1, or"
            " a number of steps"
        )


def arguments(hyperparameters: Mapping[str, Any], space: Any) -> dict[str, Any]:
    """What a class's constructor gets for the hyperparameters given; `space` is of actions."""
    given = dict(hyperparameters)
    if "train_freq" in given:
        given["train_freq"] = _train_freq(given["train_freq"])
    if "ent_coef" in given:
        given["ent_coef"] = _entropy_coefficient(given["ent_coef"], learned=True)
    kind, sigma = given.pop("action_noise", None), given.pop("sigma", None)
    if kind or sigma is not None:
        given["action_noise"] = _noise(kind or "normal", SIGMA if sigma is None else sigma, space)
    return given


def replace_late(model: Any, name: str, value: Any) -> None:
    """Give a loaded model one of the hyperparameters that are `LATE`."""
    if name == "rms_prop_eps":
        _set_rms_prop_eps(model, value)
    else:
        _set_entropy_coefficient(model, value)


def unwrap_noise(model: Any) -> None:
    """Stored noise is for as many environments as there were; learning vectorizes it again."""
    from stable_baselines3.common.noise import VectorizedActionNoise

    if isinstance(getattr(model, "action_noise", None), VectorizedActionNoise):
        model.action_noise = model.action_noise.base_noise


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


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidOptions(f"--{name} must be a number, not {value!r}") from None


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
