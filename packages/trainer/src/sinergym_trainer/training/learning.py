"""The learning itself: environments, model, what watches them, and what is saved.

This module imports PyTorch, Stable-Baselines3 and Sinergym; `training` imports it when the options
are known to be right.
"""

import contextlib
import functools
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from sinergym_trainer import models, tracking
from sinergym_trainer.algorithms import whole_units
from sinergym_trainer.board import BoardCallback
from sinergym_trainer.environments import (
    closing,
    episode_returns,
    make_vector,
    normalization,
    steps_per_episode,
    variables,
)
from sinergym_trainer.environments.energyplus import quick_torch
from sinergym_trainer.environments.normalization import Statistics
from sinergym_trainer.errors import ModelUnusable
from sinergym_trainer.evaluation.process import Evaluation, Evaluator
from sinergym_trainer.models import Card, checkpoints
from sinergym_trainer.process.display import Display, say_plainly
from sinergym_trainer.process.progress import ProgressFile
from sinergym_trainer.process.stopping import Stop
from sinergym_trainer.process.surroundings import versions
from sinergym_trainer.tracking import ServedModel, Tracker
from sinergym_trainer.training.callbacks import EpisodeCallback, EvaluationCallback
from sinergym_trainer.training.checkpointing import CheckpointCallback
from sinergym_trainer.training.loggers import make_logger
from sinergym_trainer.training.origin import options_of

if TYPE_CHECKING:
    from sinergym_trainer.training.run import Training

Say = Callable[[str], None]

_KEPT = ("progress.csv", "evaluations.npz", "best_model")
"""What a checkpoint keeps of the output folder, beside the Monitors' files."""
_MONITORS = "*monitor.csv"
_ARTIFACTS = (
    *("model.zip", "model.json", "normalization.npz", "best_model", "evaluations.npz"),
    *("monitor.csv", "progress.csv"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """How the learning ended."""

    ended: str
    """`done`, or `stopped by SIGTERM`."""
    episodes: int
    timesteps: int
    episode_rewards: tuple[float, ...]
    mean_reward: float | None
    model: Path


def learn(
    training: "Training", evaluator: Evaluator | None, *, stop: Stop, say: Say | None
) -> Learned:
    """Make environments and model, learn, and save what came of it in the output folder.

    Args:
        training: what to train, from where, and where to.
        evaluator: the evaluation's process, or None.
        stop: true when the learning should end.
        say: gets lines of what happens; None for a display on standard output.

    Raises:
        TrainerError: EnergyPlus fails, or the origin's model does not fit. What was learned until
            then is in a checkpoint.
    """
    return _Learning(training, evaluator, stop=stop, say=say).run()


class _Learning:
    """One call of `learn`, from top to bottom."""

    def __init__(
        self, training: "Training", evaluator: Evaluator | None, *, stop: Stop, say: Say | None
    ) -> None:
        self._training = training
        self._plan = training.plan
        self._options = training.plan.options
        self._checkpoint = training.origin.checkpoint
        self._before = training.before
        self._output = training.output
        self._evaluator = evaluator
        self._stop = stop
        self._said = say
        self._display: Display | None = None
        self._scratch = Path()
        self._tell_progress: Callable[[], None] = lambda: None

    def run(self) -> Learned:
        torch.set_num_threads(self._plan.threads)
        quick_torch()
        self._restore_files()
        with contextlib.ExitStack() as at_end, closing(self._make_vector()) as vector:
            scratch = tempfile.TemporaryDirectory(prefix="sinergym-learning-")
            self._scratch = Path(at_end.enter_context(scratch))
            with warnings.catch_warnings(record=True) as advice:
                warnings.simplefilter("always", UserWarning)
                model = self._make_model(vector)
            for each in advice:
                if issubclass(each.category, UserWarning):
                    self._say(f"note: {' '.join(str(each.message).split())}")
            # It ends last: the environments' files are complete then.
            tracker = at_end.enter_context(self._tracking(model))
            return self._learn(model, vector, tracker)

    def _say(self, line: str) -> None:
        (self._said or (self._display.say if self._display else say_plainly))(line)

    def _restore_files(self) -> None:
        """The output folder's files as they were when what the checkpoint has was learned."""
        if self._checkpoint is None:
            for path in self._output.glob(_MONITORS):
                if path.is_file():  # of another training
                    path.unlink()
            return
        self._checkpoint.restore_files(self._output)
        # All environments' episodes have the same length, and begin together.
        each = int(self._before.get("episodes", 0)) // self._checkpoint.n_envs
        for path in self._output.glob(_MONITORS):
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[: 2 + each]))

    # What learns

    def _make_vector(self) -> VecEnv:
        folder = self._output / "sinergym"
        if self._checkpoint:  # the one of the attempt before is in the bucket
            folder = folder.with_name(f"sinergym-from-{self._checkpoint.timesteps}")
        return make_vector(
            self._plan.spec,
            folder,
            n_envs=self._options.n_envs,
            normalization=self._options.normalization,
            monitor=self._output / "monitor.csv",
        )

    def _make_model(self, vector: VecEnv) -> BaseAlgorithm:
        """A new model, or the origin's with its statistics; it seeds the environments."""
        options, algorithm = self._options, self._plan.algorithm
        if self._checkpoint:
            return self._checkpoint.restore(algorithm, vector, device=options.device)
        found = self._training.origin.model
        if found is None or found.model is None:
            return algorithm.build(
                vector,
                seed=options.seed,
                hyperparameters=options.hyperparameters(),
                device=options.device,
                policy_kwargs=options.policy_kwargs,
            )
        if found.statistics and options.normalization:
            try:
                normalization.put(vector, found.statistics, frozen=False)
            except ModelUnusable as error:
                raise ModelUnusable(f"--model {found.source}: {error}") from error
        return algorithm.load(
            found.model,
            env=vector,
            device=options.device,
            overrides=options.hyperparameters(),
            seed=options.seed,
        )

    def _learn(self, model: BaseAlgorithm, vector: VecEnv, tracker: Tracker | None) -> Learned:
        options = self._options
        length = steps_per_episode(vector)
        done = self._checkpoint.timesteps if self._checkpoint else 0
        left = self._left(done, length, vector.num_envs)
        running, unit = whole_units(model, left, vector.num_envs, episode_length=length)
        if running != left:
            self._say(
                f"{self._plan.algorithm.name} learns from {unit} timesteps at a time:"
                f" {running} timesteps will run for the {left} asked for"
            )
        total = done + running
        episodes = max(total // length, 0 if options.timesteps else options.episodes)
        with self._displaying(total, episodes, done):
            evaluation = self._evaluation(vector)
            watching = self._watching(vector, evaluation, tracker, episodes, total)
            checkpointing = self._checkpointing(vector, watching, evaluation, tracker)
            callbacks: list[BaseCallback] = [watching, checkpointing]
            if self._training.board:
                observed, actuated = variables(vector)
                callbacks.append(
                    BoardCallback(observation_variables=observed, action_variables=actuated)
                )
            if evaluation:
                callbacks.append(evaluation)
            watching.num_timesteps = done  # also if there is nothing left to learn
            model.set_logger(self._logger(tracker))
            how: dict[str, Any] = {"reset_num_timesteps": self._checkpoint is None}
            if options.log_interval is not None:
                how["log_interval"] = options.log_interval
            try:
                if left:
                    model.learn(left, callback=callbacks, **how)
            finally:
                # Also when EnergyPlus has failed: what was learned so far can be gone on with.
                if self._plan.checkpoints and model.num_timesteps > done:
                    checkpointing.save_now()
                if evaluation:
                    evaluation.close()
                model.logger.close()
        self._tell_progress = watching.write_progress
        self._tell_progress()  # now with the last evaluation
        timesteps = int(model.num_timesteps)
        path = models.save(model, self._output, self._card(timesteps), normalization.of(vector))
        stopped = self._stop.signal
        return Learned(
            ended=f"stopped by {signal.Signals(stopped).name}" if stopped else "done",
            episodes=watching.done,
            timesteps=timesteps,
            episode_rewards=tuple(watching.rewards),
            mean_reward=watching.mean_reward(),
            model=path,
        )

    def _left(self, done: int, length: int, n_envs: int) -> int:
        """The timesteps that are still to run, after `done` of them.

        A resumed training begins new episodes (EnergyPlus cannot be saved inside of one), and
        those that were interrupted never end. Who has asked for episodes gets them all the same:
        the steps inside of the interrupted ones, which have been learned from, come on top.
        """
        options = self._options
        if options.timesteps:
            return max(0, options.timesteps - done)
        whole = int(self._before.get("episodes", 0))
        if whole < options.episodes // n_envs * n_envs:
            return (options.episodes - whole) * length
        return max(0, options.episodes * length - done)

    # What watches

    def _watching(
        self,
        vector: VecEnv,
        evaluation: EvaluationCallback | None,
        tracker: Tracker | None,
        episodes: int,
        total: int,
    ) -> EpisodeCallback:
        def tracked() -> Mapping[str, str] | None:
            run = tracker.run if tracker else None
            return {"run_id": run.run_id, "url": run.url} if run else None

        progress = os.environ.get("SINERGYM_PROGRESS")
        return EpisodeCallback(
            episodes=episodes,
            total_timesteps=total,
            returns=functools.partial(episode_returns, vector),
            evaluation=evaluation,
            tracked=tracked,
            progress=ProgressFile(Path(progress) if progress else None, {"versions": versions()}),
            stop=self._stop,
            say=self._say,
            show=self._display.progress if self._display else None,
            done_before=int(self._before.get("episodes", 0)),
            rewards_before=self._before.get("rewards", ()),
        )

    def _evaluation(self, vector: VecEnv) -> EvaluationCallback | None:
        if self._evaluator is None:
            return None

        def keep_best(best: Evaluation, seen: Statistics | None) -> None:
            folder, card = self._output / "best_model", self._card(best.timesteps)
            models.save(best.model, folder, card, seen, name="best_model.zip")

        return EvaluationCallback(
            self._evaluator,
            every=self._options.eval_freq,
            episodes=self._options.eval_length,
            folder=self._output,
            statistics=functools.partial(normalization.of, vector),
            keep_best=keep_best,
            stop=self._stop,
            say=self._say,
            done_before=int(self._before.get("episodes", 0)),
            best=self._before.get("best"),
        )

    def _checkpointing(
        self,
        vector: VecEnv,
        watching: EpisodeCallback,
        evaluation: EvaluationCallback | None,
        tracker: Tracker | None,
    ) -> CheckpointCallback:
        def state() -> dict[str, Any]:
            run = tracker.run if tracker else None
            return {
                "name": self._training.name,
                "options": options_of(self._plan),
                "best": evaluation.best_mean() if evaluation else self._before.get("best"),
                "mlflow_run": run.run_id if run else self._before.get("mlflow_run"),
            }

        def counters() -> dict[str, Any]:
            return {"episodes": watching.done, "rewards": watching.recent_rewards}

        def files() -> dict[str, Path]:
            monitors = (path.name for path in self._output.glob(_MONITORS))
            found = {name: self._output / name for name in (*_KEPT, *monitors)}
            if tracker:
                found[tracking.KEPT] = self._scratch / tracking.KEPT
                tracker.keep(found[tracking.KEPT])
            return found

        options = self._options
        return CheckpointCallback(
            checkpoints.Checkpoints(
                self._output / checkpoints.FOLDER, keep=options.checkpoint_keep
            ),
            steps=options.checkpoint_steps,
            minutes=options.checkpoint_minutes or None,
            statistics=functools.partial(normalization.of, vector),
            state=state,
            counters=counters,
            files=files,
            say=self._say,
        )

    # What people and other programs see

    @contextlib.contextmanager
    def _displaying(self, total: int, episodes: int, done: int) -> Iterator[None]:
        """A bar on a terminal, lines elsewhere; nothing when somebody else takes the lines."""
        if self._said:
            yield
            return
        with Display.open(total, episodes, timesteps=done) as self._display:
            yield

    def _logger(self, tracker: Tracker | None) -> Logger:
        board = self._training.board
        wanted = self._options.log_interval is not None
        return make_logger(
            self._output,
            board=board.folder if board else None,
            resumed_at=self._checkpoint.timesteps if self._checkpoint else None,
            tracker=tracker,
            # Every table of a long training would be thousands of lines: only when asked for.
            console=(self._display or sys.stdout) if wanted else None,
        )

    @contextlib.contextmanager
    def _tracking(self, model: BaseAlgorithm) -> Iterator[Tracker | None]:
        """An MLflow run, if it is wanted, that ends as the training does."""
        uri, store = os.environ.get("MLFLOW_TRACKING_URI"), self._options.mlflow_store
        if not uri and not store:
            yield None
            return
        tracker = Tracker(
            uri=uri or f"sqlite:///{self._output / 'mlflow.db'}",
            experiment=os.environ.get("SINERGYM_SWEEP") or "sinergym",
            name=self._training.name,
            tags=tracking.tags(),
            parameters=tracking.parameters(
                self._options,
                self._plan.spec.id,
                self._plan.algorithm.name,
                versions=versions(),
                defaults=tracking.in_force(model),
            ),
            unsent=self._output / tracking.NAME,
            artifact_location=None if uri else (self._output / "mlflow").as_uri(),
            run_id=self._before.get("mlflow_run"),
            resumed_at=self._checkpoint.timesteps if self._checkpoint else None,
            kept=self._output / tracking.KEPT if self._checkpoint else None,
            hurried=self._stop,
        )
        status = "FAILED"
        try:
            yield tracker
            status = "KILLED" if self._stop() else "FINISHED"
        finally:
            stored = [self._output / name for name in _ARTIFACTS] if store else []
            tracker.close(
                status=status,
                artifacts=[path for path in stored if path.exists()],
                model=self._served(model) if store else None,
            )
            # The server may have answered for the first time only now.
            self._tell_progress()

    def _served(self, model: BaseAlgorithm) -> ServedModel | None:
        path, statistics = self._output / models.MODEL, self._output / models.STATISTICS
        if not path.exists():
            return None
        return ServedModel.of(model, path, statistics if statistics.exists() else None)

    def _card(self, timesteps: int) -> Card:
        spec = self._plan.spec
        return Card(
            name=self._training.name,
            algorithm=self._plan.algorithm.name,
            environment=spec.id,
            timesteps=timesteps,
            run_period=str(spec.run_period) if spec.run_period else None,
            reward=spec.reward,
            reward_kwargs=dict(spec.reward_kwargs),
            energy_weight=spec.energy_weight,
            normalize_action=spec.normalize_action,
            multiobs=spec.multiobs,
            normalization=self._options.normalization,
            seed=self._options.seed,
            versions=versions(),
        )
