"""Where a training begins: from nothing, from a model's weights, or from a checkpoint.

`--model` names a model or a checkpoint. Without it, the second attempt of an experiment (its VM
was preempted, say) looks for what the first one left in the bucket.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sinergym_trainer import models
from sinergym_trainer.errors import InvalidOptions, ModelUnusable
from sinergym_trainer.models import Found, checkpoints
from sinergym_trainer.models.checkpoints import Checkpoint
from sinergym_trainer.options import Options
from sinergym_trainer.training.planning import Plan

_FREE = frozenset(
    (
        *("episodes", "timesteps", "config", "model", "id", "threads", "device"),
        *("evaluation", "eval_freq", "eval_length", "logger", "tensorboard", "log_interval"),
        *("mlflow_store", "remote_store", "bucket_name", "group_name", "auto_delete"),
        *("checkpoint_steps", "checkpoint_minutes", "checkpoint_keep"),
    )
)
"""Options that a resumed training may change: what is learned, and from what, is not theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a training begins with; nothing at all when both are None."""

    checkpoint: Checkpoint | None = None
    """Go on from here: counters, MLflow run, TensorBoard's steps and random states too."""
    model: Found | None = None
    """Take these weights and statistics, and count from 0 (fine-tuning)."""
    output: Path | None = None
    """The local output folder that the checkpoint is from: a resumed training stays in it."""

    @property
    def resumed_at(self) -> int | None:
        """The timesteps of the checkpoint, or None."""
        return self.checkpoint.timesteps if self.checkpoint else None


def find_origin(plan: Plan, scratch: Path, say: Callable[[str], None]) -> Origin:
    """Find what the training begins with, fetching it if it is far away.

    Args:
        plan: the training.
        scratch: a folder for what is fetched.
        say: gets a line about checkpoints that cannot be used, and about what is.

    Raises:
        InvalidOptions: `--policy_kwargs` beside a model that has its policy.
        ModelUnusable: `--model` names nothing that fits this training; or the bucket with the
            attempt before cannot be read: starting again could throw hours of training away.
    """
    where = plan.options.model
    if where is None:
        folder = _fetch_attempt_before(scratch, say)
        checkpoint = checkpoints.newest(folder, say=say) if folder else None
        if checkpoint is None:
            return Origin()
        return _resume(plan, checkpoint, "the attempt before", None, say)
    found = models.find(where, scratch)
    if found.checkpoints is None:
        _check_model(found, plan)
        say(f"the weights are those of {found.source}")
        return Origin(model=found)
    checkpoint = checkpoints.newest(found.checkpoints, say=say)
    if checkpoint is None:
        raise ModelUnusable(f"--model {where}: none of its checkpoints is whole")
    home = checkpoint.path.parent
    here = home.name == checkpoints.FOLDER and not home.is_relative_to(scratch)
    return _resume(plan, checkpoint, where, home.parent.absolute() if here else None, say)


def options_of(plan: Plan) -> dict[str, Any]:
    """The options that a resumed training has to share, as a checkpoint keeps them."""
    kept = {
        field.name: getattr(plan.options, field.name)
        for field in fields(Options)
        if field.name not in _FREE
    }
    kept |= {"environment": plan.environment.id, "algorithm": plan.algorithm.name}
    return {
        name: _plain(value)
        for name, value in kept.items()
        if value is not None and value is not False
    }


def _resume(
    plan: Plan,
    checkpoint: Checkpoint,
    source: str,
    output: Path | None,
    say: Callable[[str], None],
) -> Origin:
    then, now = dict(checkpoint.state.get("options", {})), options_of(plan)
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise ModelUnusable(
                f"{source} was trained with --{name} {then.get(name, 'not given')}, and this is"
                f" {now.get(name, 'not given')}: resume with the same options, or start from its"
                " model.zip"
            )
    say(f"going on from {source} at {checkpoint.timesteps} timesteps")
    return Origin(checkpoint=checkpoint, output=output)


def _check_model(found: Found, plan: Plan) -> None:
    if plan.options.policy_kwargs:
        raise InvalidOptions("--policy_kwargs is for a new policy, and --model has its own")
    card = found.card
    if card is None:
        return
    pairs = {
        "algorithm": (card.algorithm, plan.algorithm.name),
        "normalization": (card.normalization, plan.options.normalization),
        "normalize_action": (card.normalize_action, plan.options.normalize_action),
        "multiobs": (card.multiobs, plan.options.multiobs),
    }
    for name, (then, now) in pairs.items():
        if then != now:
            raise ModelUnusable(
                f"--model {found.source} was trained with --{name} {then}, and this is {now}"
            )


def _fetch_attempt_before(scratch: Path, say: Callable[[str], None]) -> Path | None:
    environ = os.environ
    names = ("SINERGYM_BUCKET", "SINERGYM_SWEEP", "SINERGYM_EXPERIMENT")
    bucket, sweep, experiment = (environ.get(name) for name in names)
    attempt = environ.get("SINERGYM_ATTEMPT", "")
    if not (bucket and sweep and experiment and attempt.isdecimal() and int(attempt) > 1):
        return None
    return checkpoints.from_bucket(bucket, f"{sweep}/{experiment}/output", scratch, say=say)


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
