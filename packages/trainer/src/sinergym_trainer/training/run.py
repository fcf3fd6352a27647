"""`train(options) -> Result`: one training, from options to results in a folder.

Nothing heavy is imported before the options are known to be right.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinergym_trainer.algorithms import check_device
from sinergym_trainer.board import Destination
from sinergym_trainer.environments.energyplus import find_energyplus
from sinergym_trainer.errors import ResultsNotStored, explaining_disk
from sinergym_trainer.options import Options
from sinergym_trainer.options.configuration import as_yaml
from sinergym_trainer.process.display import say_plainly
from sinergym_trainer.process.stopping import Stop, stopping
from sinergym_trainer.process.surroundings import make_output_folder
from sinergym_trainer.training.origin import Origin, find_origin
from sinergym_trainer.training.planning import Plan, check, run_name

if TYPE_CHECKING:
    from sinergym_trainer.evaluation.process import Evaluator

CONFIGURATION = "config.yaml"
"""What was asked for, in the output folder: `--config` takes it back."""

_PATIENT, _HURRIED = 600.0, 10.0
"""Seconds to finish uploads; after SIGTERM a VM has 30 seconds for everything."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A plan with a name, a beginning and a place."""

    plan: Plan
    origin: Origin
    name: str
    output: Path

    @property
    def before(self) -> Mapping[str, Any]:
        """What the checkpoint that it goes on from knows, or nothing."""
        return self.origin.checkpoint.state if self.origin.checkpoint else {}

    @property
    def board(self) -> Destination | None:
        """Where TensorBoard's event files go, or None."""
        return self.plan.board(self.output, self.name)

    def uploads(self) -> Iterator[tuple[Path, str, str]]:
        """Folders that this program uploads itself, with bucket and prefix."""
        board = self.board
        if board and board.bucket:
            yield board.folder, board.bucket, board.prefix
        if self.plan.bucket:
            yield self.output, self.plan.bucket, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a training gave."""

    name: str
    episodes: int
    """Whole episodes that ran, with those before a resume."""
    timesteps: int
    """Of training, with those before a resume."""
    episode_rewards: tuple[float, ...]
    """The exact return of each whole episode that ran here, in the order in which they ended."""
    mean_reward: float | None
    """Of the last evaluation; without one, of the last hundred episodes; None without any."""
    output: Path
    """The folder with model.zip, monitor.csv, progress.csv, and what else was asked for."""
    model: Path
    tensorboard: Path | None
    stopped_by: int | None
    """The signal that ended it early, or None."""


def train(options: Options, *, say: Say | None = None) -> Result:
    """Train as the options say, and keep everything in the output folder.

    The learning is that of plain Stable-Baselines3: `PPO("MlpPolicy", env,
    seed=...).learn(timesteps)` on the same environment, with the same number of PyTorch threads,
    gives the same rewards and the same weights to the last digit. What is around it only watches::

        plan = check(options)                     # bad input ends here, nothing is made
        origin = nothing, a model, or a checkpoint
        output = $SINERGYM_OUTPUT or ./<name>/
        vector = the environments, normalized if asked to
        model = algorithm(policy, vector, seed, hyperparameters given), or the origin's
        tracker = an MLflow run, in a background thread, when MLFLOW_TRACKING_URI is set
        model.learn(the timesteps that are left, callbacks):
            each episode:            a line, metrics, progress
            every eval_freq'th:      evaluation in a process of its own, best model kept
            every ten minutes:       a checkpoint
            at SIGTERM or SIGINT:    learning ends, all below is still done
        a checkpoint; the model; close the vector; end the MLflow run; upload what is left

    The output folder is `$SINERGYM_OUTPUT`, or a new one in the working directory with the run's
    name, or that of the training that is resumed. Progress goes to the file `$SINERGYM_PROGRESS`,
    when it is set.

    Args:
        options: what to train.
        say: gets one line at a time of what happens; default standard output, with a bar on a
            terminal.

    Raises:
        InvalidOptions: the options make no training; nothing was started.
        TrainerError: EnergyPlus is missing or fails, a model cannot be loaded, the output folder
            cannot be written, or the results could not be uploaded.
    """
    plan = check(options)
    check_device(options.device)
    if options.policy_kwargs:
        plan.algorithm.policy_arguments(options.policy_kwargs)
    find_energyplus()
    tell = say or say_plainly
    with tempfile.TemporaryDirectory(prefix="sinergym-train-") as scratch, stopping() as stop:
        for note in plan.notes():
            tell(note)
        origin = find_origin(plan, Path(scratch), tell)
        before = origin.checkpoint.state if origin.checkpoint else {}
        name = before.get("name") or run_name(plan, datetime.now(UTC))
        _check_buckets(plan, tell)
        output = origin.output or make_output_folder(name)
        if origin.output is None and not os.environ.get("SINERGYM_OUTPUT"):
            name = output.name
        training = Training(plan=plan, origin=origin, name=name, output=output)
        with explaining_disk(output):
            return _run(training, stop, say, tell)


def _run(training: Training, stop: Stop, say: Say | None, tell: Say) -> Result:
    tell(f"run {training.name}, results in {training.output}")
    (training.output / CONFIGURATION).write_text(as_yaml(training.plan.options), encoding="utf-8")
    with contextlib.ExitStack() as at_end:
        at_end.enter_context(_uploading(training, stop, tell))
        # Before the imports here: its own take as long.
        evaluator = at_end.enter_context(_evaluating(training))
        from sinergym_trainer.training.learning import learn

        learned = learn(training, evaluator, stop=stop, say=say)
        tell(
            f"{learned.ended}: {learned.episodes} episodes, {learned.timesteps} timesteps, mean"
            f" reward {'none' if learned.mean_reward is None else f'{learned.mean_reward:.2f}'}"
        )
    board = training.board
    return Result(
        name=training.name,
        episodes=learned.episodes,
        timesteps=learned.timesteps,
        episode_rewards=learned.episode_rewards,
        mean_reward=learned.mean_reward,
        output=training.output,
        model=learned.model,
        tensorboard=board.folder if board else None,
        stopped_by=stop.signal,
    )


@contextlib.contextmanager
def _uploading(training: Training, stop: Stop, say: Say) -> Iterator[None]:
    """Upload what appears, where no runner does; at the end all of it, whatever happened.

    Raises:
        ResultsNotStored: some is missing in the bucket; everything is in the output folder.
    """
    uploads = list(training.uploads())
    if not uploads:
        yield
        return
    from sinergym_trainer.outputs import Following, UploadFailed

    followers = [
        Following(folder, bucket, {"": f"{prefix}/"}, say=say)
        for folder, bucket, prefix in uploads
    ]
    for follower in followers:
        follower.start()
    failed: UploadFailed | None = None
    try:
        yield
    finally:
        for follower, (folder, bucket, prefix) in zip(followers, uploads, strict=True):
            try:
                uploaded = follower.close(_HURRIED if stop() else _PATIENT)
            except UploadFailed as error:
                failed = error
                say(f"results are in {folder}, and not all of them in gs://{bucket}/{prefix}")
            else:
                say(
                    f"uploaded {uploaded.files} files, {uploaded.bytes} bytes, to"
                    f" gs://{bucket}/{prefix}"
                )
    if failed:
        raise ResultsNotStored(f"not all results were uploaded: {failed}")


@contextlib.contextmanager
def _evaluating(training: Training) -> "Iterator[Evaluator | None]":
    """The evaluation's process, if there is to be one."""
    plan = training.plan
    if not plan.options.evaluation:
        yield None
        return
    from sinergym_trainer.evaluation.process import Evaluator

    evaluator = Evaluator(
        replace(plan.spec, logger=False),
        training.output / "sinergym-evaluation",
        threads=plan.threads,
        seed=plan.options.seed,
    )
    try:
        yield evaluator
    finally:
        evaluator.close()


def _check_buckets(plan: Plan, say: Say) -> None:
    """Know before the training whether its results can be uploaded."""
    board = plan.board(Path(), "")
    buckets = {plan.bucket, board.bucket if board else None} - {None}
    if not buckets:
        return
    from sinergym_trainer.outputs import reachable

    for bucket in buckets:
        reachable(str(bucket), say=say)
