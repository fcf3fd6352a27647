"""What watches a training: callbacks that touch neither its environment nor its random numbers."""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sinergym_trainer.errors import EvaluationFailed
from sinergym_trainer.evaluation import Evaluation, Evaluator, Request

Say = Callable[[str], None]

_STEPS_BETWEEN_LOOKS = 64
_EPISODES_OF_MEAN = 100  # as Stable-Baselines3's rollout/ep_rew_mean


class ProgressFile:
    """The file `SINERGYM_PROGRESS`, replaced as a whole, at most once a second unless forced.

    Args:
        path: the file, or None to write nothing.
        constant: members that do not change.
    """

    def __init__(self, path: Path | None, constant: Mapping[str, object]) -> None:
        self._path = path
        self._constant = dict(constant)
        self._next = 0.0

    def write(self, members: Callable[[], Mapping[str, object]], *, force: bool = False) -> None:
        """Replace the file with the constant members and these, if it is time to."""
        now = time.monotonic()
        if self._path is None or (now < self._next and not force):
            return
        self._next = now + 1.0
        temporary = self._path.with_name(self._path.name + ".tmp")
        # A progress file that cannot be written is no reason to end a training.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({**self._constant, **members()}), encoding="utf-8")
            temporary.replace(self._path)


class EpisodeCallback(BaseCallback):
    """Counts episodes: one line, metrics and progress for each; ends the training when asked to.

    Args:
        episodes: how many will run.
        total_timesteps: how many will run.
        rewards: the episodes' exact returns so far (the Monitor's).
        evaluated: the mean reward of the last evaluation, or None.
        tracked: the progress's member `mlflow`, or None.
        progress: the progress file.
        stop: true when the training should end.
        say: prints one line.
    """

    def __init__(
        self,
        *,
        episodes: int,
        total_timesteps: int,
        rewards: Callable[[], list[float]],
        evaluated: Callable[[], float | None],
        tracked: Callable[[], Mapping[str, str] | None],
        progress: ProgressFile,
        stop: Callable[[], bool],
        say: Say,
    ) -> None:
        super().__init__()
        self._episodes = episodes
        self._total_timesteps = total_timesteps
        self._rewards = rewards
        self._evaluated = evaluated
        self._tracked = tracked
        self._progress = progress
        self._stop = stop
        self._say = say
        self._sums = _Sums()
        self._since = (0.0, 0)

    def mean_reward(self) -> float | None:
        """Of the last evaluation; without one, of the last hundred episodes; None at first."""
        evaluated = self._evaluated()
        if evaluated is not None:
            return evaluated
        rewards = self._rewards()[-_EPISODES_OF_MEAN:]
        return sum(rewards) / len(rewards) if rewards else None

    def write_progress(self) -> None:
        """Write the progress file now, as at the end of a training."""
        self._progress.write(self._members, force=True)

    def _on_training_start(self) -> None:
        self._since = (time.monotonic(), self.num_timesteps)
        self.write_progress()

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            self._on_episode()
        else:
            self._sums.add(self.locals["infos"][0])
        if self.n_calls % _STEPS_BETWEEN_LOOKS == 0:
            self._progress.write(self._members)
        return not self._stop()

    def _on_episode(self) -> None:
        rewards = self._rewards()
        length = self.locals["infos"][0]["episode"]["l"]
        now = time.monotonic()
        started, timesteps = self._since
        speed = (self.num_timesteps - timesteps) / max(now - started, 1e-9)
        self._since = (now, self.num_timesteps)
        self._say(
            f"episode {len(rewards)}/{self._episodes}"
            f"  timesteps {self.num_timesteps}/{self._total_timesteps}"
            f"  reward {rewards[-1]:.2f}  {speed:.0f} steps/s"
        )
        self.logger.record("episode/reward", rewards[-1])
        self.logger.record("episode/length", length)
        for key, value in self._sums.means().items():
            self.logger.record(f"episode/{key}", value)
        self.logger.dump(self.num_timesteps)
        self._sums = _Sums()
        self.write_progress()

    def _members(self) -> dict[str, object]:
        done = len(self._rewards())
        return {
            "episode": done,
            "episodes": self._episodes,
            "timesteps": self.num_timesteps,
            "total_timesteps": self._total_timesteps,
            "mean_reward": self.mean_reward(),
            "mlflow": self._tracked(),
        }


class EvaluationCallback(BaseCallback):
    """Has the model evaluated every few episodes, keeps the best one, and `evaluations.npz`.

    The file has the arrays of Stable-Baselines3's `EvalCallback`: timesteps, results and
    ep_lengths. At most one evaluation is under way; when the next is due before it is done, the
    training waits for it.

    Args:
        evaluator: evaluates; whoever made it closes it.
        every: episodes between evaluations.
        episodes: of one evaluation.
        folder: gets `best_model/best_model.zip` and `evaluations.npz`.
        normalization: the statistics of the training's observations, or None.
        stop: true when the training should end: no evaluation is waited for then.
        say: prints one line.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        every: int,
        episodes: int,
        folder: Path,
        normalization: Callable[[], tuple[Any, Any, float] | None],
        stop: Callable[[], bool],
        say: Say,
    ) -> None:
        super().__init__()
        self._evaluator = evaluator
        self._every = every
        self._of = episodes
        self._folder = folder
        self._normalization = normalization
        self._stop = stop
        self._say = say
        self._done = 0
        self._best = -np.inf
        self._models = tempfile.TemporaryDirectory(prefix="sinergym-evaluation-")
        self.evaluations: list[Evaluation] = []
        """Those that are done, in order."""

    def last_mean(self) -> float | None:
        """The mean reward of the last evaluation, or None before the first."""
        return self.evaluations[-1].mean_reward if self.evaluations else None

    def close(self) -> None:
        """Remove temporary files."""
        self._models.cleanup()

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            self._done += 1
            if self._done % self._every == 0 and not self._stop():
                self._wait()
                self._start()
        elif self.n_calls % _STEPS_BETWEEN_LOOKS == 0 and self._evaluator.pending:
            with self._reporting():
                self._take(self._evaluator.poll())
        return True

    def _on_training_end(self) -> None:
        if not self._stop():
            self._wait()

    def _start(self) -> None:
        # Counted before the update of the algorithm that may follow this step, as EvalCallback
        # does.
        model = Path(self._models.name) / f"{self.num_timesteps}.zip"
        self.model.save(model)
        request = Request(
            timesteps=self.num_timesteps,
            model=model,
            algorithm=type(self.model).__name__,
            episodes=self._of,
            normalization=self._normalization(),
        )
        with self._reporting():
            self._evaluator.start(request)

    def _wait(self) -> None:
        with self._reporting():
            self._take(self._evaluator.wait(self._stop))

    def _take(self, evaluation: Evaluation | None) -> None:
        if evaluation is None:
            return
        self.evaluations.append(evaluation)
        _write_npz(self._folder / "evaluations.npz", self.evaluations)
        best = evaluation.mean_reward > self._best
        if best:
            self._best = evaluation.mean_reward
            _replace(evaluation.model, self._folder / "best_model" / "best_model.zip")
        evaluation.model.unlink(missing_ok=True)
        self._say(
            f"evaluation at {evaluation.timesteps} timesteps"
            f"  mean reward {evaluation.mean_reward:.2f}" + ("  best so far" if best else "")
        )
        values = {
            "eval/mean_reward": evaluation.mean_reward,
            "eval/std_reward": float(np.std(evaluation.rewards)),
            "eval/mean_ep_length": float(np.mean(evaluation.lengths)),
        }
        # Not by `record` and `dump`: those would give it what the training has recorded since, and
        # its step.
        for output in self.logger.output_formats:
            output.write(dict(values), dict.fromkeys(values, ("",)), evaluation.timesteps)

    @contextlib.contextmanager
    def _reporting(self) -> Any:
        try:
            yield
        except EvaluationFailed as error:
            self._say(f"warning: an evaluation failed, training goes on: {error}")


class _Sums:
    """Sums over the steps of one episode of what Sinergym's rewards tell in `info`."""

    _KEYS = (
        "total_power_demand",
        "energy_penalty",
        "comfort_penalty",
        "total_temperature_violation",
    )

    def __init__(self) -> None:
        self._sums = dict.fromkeys(self._KEYS, 0.0)
        self._steps = 0
        self._violations = 0

    def add(self, info: Mapping[str, Any]) -> None:
        """Add a step; the last one of an episode repeats the one before, and is not added."""
        self._steps += 1
        for key in self._KEYS:
            self._sums[key] += info.get(key, 0.0)
        self._violations += info.get("total_temperature_violation", 0.0) > 0

    def means(self) -> dict[str, float]:
        """Means over the steps, by metric name; empty for an episode without steps."""
        if not self._steps:
            return {}
        means = {f"mean_{key}": value / self._steps for key, value in self._sums.items()}
        return means | {"comfort_violation_percent": 100 * self._violations / self._steps}


def _write_npz(path: Path, evaluations: list[Evaluation]) -> None:
    temporary = path.with_name(".evaluations.npz")
    np.savez(
        temporary,
        timesteps=[evaluation.timesteps for evaluation in evaluations],
        results=[evaluation.rewards for evaluation in evaluations],
        ep_lengths=[evaluation.lengths for evaluation in evaluations],
    )
    temporary.replace(path)


def _replace(source: Path, target: Path) -> None:
    """Copy a file so that the target is always whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
