"""What watches a training: callbacks that touch neither its environments nor its random numbers.

Metrics of an episode or an evaluation are written at once, at their own step. They are not
recorded in Stable-Baselines3's logger: its next dump would be theirs, and would take along what
the learning has recorded since (losses, at a step that is not theirs).
"""

import contextlib
import math
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger

from sinergym_trainer.errors import EvaluationFailed
from sinergym_trainer.evaluation.process import Evaluation, Evaluator, Request
from sinergym_trainer.process.progress import ProgressFile
from sinergym_trainer.process.replacing import replacing

if TYPE_CHECKING:
    from sinergym_trainer.environments.normalization import Statistics

Say = Callable[[str], None]
Show = Callable[[int, int, float | None, float | None, float | None], None]
"""`Display.progress`: timesteps, episodes, and the last, the mean and the best mean reward."""

_STEPS_BETWEEN_LOOKS = 64
_LAST_SECONDS = 3.0
"""That a pending evaluation is waited for when the end was asked for."""
_EPISODES_OF_MEAN = 100  # as Stable-Baselines3's rollout/ep_rew_mean


class EpisodeCallback(BaseCallback):
    """Counts episodes: one line, metrics and progress for each; ends the training when asked to.

    The metrics have the names of Sinergym's `LoggerCallback` of 2022, under `episode/`; power is
    Sinergym's `total_power_demand` (W), its penalty the `energy_penalty`. What the environment's
    reward does not tell is left out.

    Args:
        episodes: how many will run, over all environments and with those before a resume.
        total_timesteps: how many will run, with those before a resume.
        returns: for each environment, the exact returns of its episodes so far (the Monitors').
        evaluation: what evaluates this training, or None.
        tracked: the progress's member `mlflow`, or None.
        progress: the progress file.
        stop: true when the training should end.
        say: prints one line.
        show: shows how far it is; called every 64 steps of the vector.
        done_before: episodes before a resume.
        rewards_before: their returns; the last hundred are enough.
    """

    def __init__(
        self,
        *,
        episodes: int,
        total_timesteps: int,
        returns: Callable[[], Sequence[Sequence[float]]],
        evaluation: "EvaluationCallback | None",
        tracked: Callable[[], Mapping[str, str] | None],
        progress: ProgressFile,
        stop: Callable[[], bool],
        say: Say,
        show: Show | None = None,
        done_before: int = 0,
        rewards_before: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self._episodes = episodes
        self._total_timesteps = total_timesteps
        self._returns = returns
        self._evaluation = evaluation
        self._tracked = tracked
        self._progress = progress
        self._stop = stop
        self._say = say
        self._show = show
        self._done_before = done_before
        self._rewards_before = list(rewards_before)
        self._best: float | None = None
        self._sums: list[_Sums] = []
        self._since = (0.0, 0)
        self.rewards: list[float] = []
        """The returns of this process's episodes, in the order in which they ended."""

    @property
    def done(self) -> int:
        """Whole episodes, with those before a resume."""
        return self._done_before + len(self.rewards)

    @property
    def recent_rewards(self) -> list[float]:
        """Returns of the last hundred episodes, with those before a resume."""
        missing = max(0, _EPISODES_OF_MEAN - len(self.rewards))
        before = self._rewards_before[-missing:] if missing else []
        return before + self.rewards[-_EPISODES_OF_MEAN:]

    def mean_reward(self) -> float | None:
        """Of the last evaluation; without one, of the last hundred episodes; None at first."""
        evaluated = self._evaluation.last_mean() if self._evaluation else None
        if evaluated is not None:
            return evaluated
        rewards = self.recent_rewards
        return sum(rewards) / len(rewards) if rewards else None

    def best_mean_reward(self) -> float | None:
        """The best of the evaluations; without any, of the means after each episode."""
        evaluated = self._evaluation.best_mean() if self._evaluation else None
        return self._best if evaluated is None else evaluated

    def write_progress(self) -> None:
        """Write the progress file now, as at the end of a training."""
        self._progress.write(self._members, force=True)

    def _on_training_start(self) -> None:
        self._since = (time.monotonic(), self.num_timesteps)
        self._sums = [_Sums() for _ in range(self.training_env.num_envs)]
        self.write_progress()

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        ended: list[int] = []
        for index, done in enumerate(self.locals["dones"]):
            if done:
                ended.append(index)
            else:
                self._sums[index].add(infos[index])
        if ended:
            self._on_episodes(ended, infos)
        if self.n_calls % _STEPS_BETWEEN_LOOKS == 0:
            self._look()
        return not self._stop()

    def _on_training_end(self) -> None:
        # The losses of the last update, which Stable-Baselines3 would write with the next dump.
        if self.logger.name_to_value:
            self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
            self.logger.dump(self.num_timesteps)

    def _on_episodes(self, ended: Sequence[int], infos: Sequence[Mapping[str, Any]]) -> None:
        """Report the episodes that ended in this step, one of each of these environments."""
        returns = self._returns()
        now = time.monotonic()
        then, timesteps = self._since
        speed = (self.num_timesteps - timesteps) / max(now - then, 1e-9)
        self._since = (now, self.num_timesteps)
        for index in ended:
            reward = float(returns[index][-1])
            length = int(infos[index]["episode"]["l"])
            self.rewards.append(reward)
            self._say(
                f"episode {self.done}/{self._episodes}"
                f"  timesteps {self.num_timesteps}/{self._total_timesteps}"
                f"  reward {reward:.2f}  {speed:.0f} steps/s"
            )
            values = {
                "episode/cumulative_reward": reward,
                "episode/mean_reward": reward / length,
                "episode/ep_length": length,
                **{f"episode/{key}": value for key, value in self._sums[index].metrics().items()},
            }
            if index == ended[0]:
                values["time/steps_per_second"] = speed
            _write(self.logger, values, self.num_timesteps, {"time/episodes": self.done})
            self._sums[index] = _Sums()
            mean = self.mean_reward()
            if mean is not None:
                self._best = mean if self._best is None else max(self._best, mean)
        self._look()
        self.write_progress()

    def _look(self) -> None:
        self._progress.write(self._members)
        if self._show:
            last = self.recent_rewards[-1:]
            self._show(
                self.num_timesteps,
                self.done,
                last[0] if last else None,
                self.mean_reward(),
                self.best_mean_reward(),
            )

    def _members(self) -> dict[str, object]:
        return {
            "episode": self.done,
            "episodes": self._episodes,
            "timesteps": self.num_timesteps,
            "total_timesteps": self._total_timesteps,
            "mean_reward": self.mean_reward(),
            "mlflow": self._tracked(),
        }


class EvaluationCallback(BaseCallback):
    """Has the model evaluated every few episodes, keeps the best one, and `evaluations.npz`.

    The file has the arrays of Stable-Baselines3's `EvalCallback`, timesteps, results and
    ep_lengths, and those that Sinergym added (`Evaluation.columns`), with a row for each
    evaluation; a resumed training goes on with them. At most one evaluation is under way; when
    the next is due before it is done, the training waits for it.

    Args:
        evaluator: evaluates; whoever made it closes it.
        every: episodes between evaluations, over all environments.
        episodes: of one evaluation.
        folder: gets `evaluations.npz`, and has it when a training is resumed.
        statistics: those of the training's observations now, or None.
        keep_best: called with the best evaluation so far, and the statistics that it was made
            with; its `model` is a file that is removed afterwards.
        stop: true when the training should end: no evaluation is waited for then.
        say: prints one line.
        done_before: episodes before a resume.
        best: the best mean reward before a resume, when it is known but the file is not there.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        every: int,
        episodes: int,
        folder: Path,
        statistics: "Callable[[], Statistics | None]",
        keep_best: "Callable[[Evaluation, Statistics | None], None]",
        stop: Callable[[], bool],
        say: Say,
        done_before: int = 0,
        best: float | None = None,
    ) -> None:
        super().__init__()
        self._evaluator = evaluator
        self._every = every
        self._of = episodes
        self._file = folder / "evaluations.npz"
        self._statistics = statistics
        self._keep_best = keep_best
        self._stop = stop
        self._say = say
        self._done = done_before
        self._resumed = done_before > 0
        self._best = -math.inf if best is None else best
        self._last: float | None = None
        self._rows: dict[str, list[Any]] = {}
        self._evaluated_with: Statistics | None = None
        self._models = tempfile.TemporaryDirectory(prefix="sinergym-evaluation-")
        self.evaluations: list[Evaluation] = []
        """Those of this process, in order."""

    def last_mean(self) -> float | None:
        """The mean reward of the last evaluation, or None before the first."""
        return self._last

    def best_mean(self) -> float | None:
        """The best mean reward of all evaluations, with those before a resume, or None."""
        return self._best if math.isfinite(self._best) else None

    def close(self) -> None:
        """Remove temporary files."""
        self._models.cleanup()

    def _on_training_start(self) -> None:
        if not self._resumed:
            return
        rows = _read_rows(self._file)
        for mean in map(np.nanmean, rows.get("results", [])):
            self._best = max(self._best, float(mean))
        # An evaluation after the checkpoint is made again.
        kept = [step <= self.num_timesteps for step in rows.get("timesteps", [])]
        self._rows = {
            name: [row for row, keep in zip(array, kept, strict=True) if keep]
            for name, array in rows.items()
        }
        if results := self._rows.get("results"):
            self._last = float(np.nanmean(results[-1]))

    def _on_step(self) -> bool:
        if ended := int(np.count_nonzero(self.locals["dones"])):
            due = (self._done + ended) // self._every > self._done // self._every
            self._done += ended
            if due and not self._stop():
                self._wait()
                # Still pending when the end was asked for meanwhile.
                if not self._evaluator.pending:
                    self._start()
        elif self.n_calls % _STEPS_BETWEEN_LOOKS == 0 and self._evaluator.pending:
            with self._reporting():
                self._take(self._evaluator.poll())
        return True

    def _on_training_end(self) -> None:
        if not self._stop():
            self._wait()
            return
        # One that is nearly done is worth a little of the time that is left.
        deadline = time.monotonic() + _LAST_SECONDS
        self._wait(lambda: time.monotonic() > deadline)

    def _start(self) -> None:
        # Counted before the update of the algorithm that may follow this step, as EvalCallback
        # does.
        for left in Path(self._models.name).iterdir():  # of an evaluation that failed
            left.unlink()
        model = Path(self._models.name) / f"{self.num_timesteps}.zip"
        self.model.save(model)
        self._evaluated_with = self._statistics()
        request = Request(
            timesteps=self.num_timesteps,
            model=model,
            algorithm=type(self.model).__name__,
            episodes=self._of,
            statistics=self._evaluated_with,
        )
        with self._reporting():
            self._evaluator.start(request)

    def _wait(self, over: Callable[[], bool] | None = None) -> None:
        with self._reporting():
            self._take(self._evaluator.wait(over or self._stop))

    def _take(self, evaluation: Evaluation | None) -> None:
        if evaluation is None:
            return
        self.evaluations.append(evaluation)
        mean = self._last = evaluation.mean_reward
        best = mean > self._best
        if best:
            self._best = mean
            self._keep_best(evaluation, self._evaluated_with)
        evaluation.model.unlink(missing_ok=True)
        self._say(
            f"evaluation at {evaluation.timesteps} timesteps"
            f"  mean reward {mean:.2f}" + ("  best so far" if best else "")
        )
        self._rows = _with_row(
            self._rows, {"timesteps": evaluation.timesteps, **evaluation.columns}
        )
        _write_rows(self._file, self._rows)
        _write(self.logger, evaluation.scalars, evaluation.timesteps)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except EvaluationFailed as error:
            self._say(f"warning: an evaluation failed, training goes on: {error}")


class _Sums:
    """Sums over the steps of one episode of what Sinergym's rewards tell in `info`."""

    __slots__ = ("_comfort", "_penalty", "_power", "_steps", "_violation", "_violations")

    def __init__(self) -> None:
        self._steps = 0
        self._power = self._penalty = self._comfort = self._violation = 0.0
        self._violations = 0

    def add(self, info: Mapping[str, Any]) -> None:
        """Add a step; the last one of an episode repeats the one before, and is not added."""
        get = info.get
        violation = get("total_temperature_violation", math.nan)
        self._steps += 1
        self._power += get("total_power_demand", math.nan)
        self._penalty += get("energy_penalty", math.nan)
        self._comfort += get("comfort_penalty", math.nan)
        self._violation += violation
        if violation > 0:
            self._violations += 1

    def metrics(self) -> dict[str, float]:
        """Sums and means over the steps, without those that some step did not tell."""
        steps = self._steps
        if not steps:
            return {}
        sums = {
            "power": self._power,
            "power_penalty": self._penalty,
            "comfort_penalty": self._comfort,
        }
        metrics = {f"mean_{name}": value / steps for name, value in sums.items()}
        metrics |= {f"cumulative_{name}": value for name, value in sums.items()}
        if not math.isnan(self._violation):
            metrics["comfort_violation_time(%)"] = 100 * self._violations / steps
        return {name: float(value) for name, value in metrics.items() if not math.isnan(value)}


def _write(
    logger: Logger,
    values: Mapping[str, float],
    step: int,
    for_tables: Mapping[str, float] | None = None,
) -> None:
    """Write metrics at their step, apart from what Stable-Baselines3 has recorded for its dump.

    The console has a line for each episode and evaluation already, and gets no table. Values for
    tables go with the step into the CSV file, whose rows have no other number.
    """
    extra = {"time/total_timesteps": step, **(for_tables or {})}
    everywhere: dict[str, tuple[str, ...]] = dict.fromkeys(values, ("",))
    excluded = everywhere | dict.fromkeys(extra, ("tensorboard", "mlflow"))
    for output in logger.output_formats:
        if not isinstance(output, HumanOutputFormat):
            output.write({**values, **extra}, dict(excluded), step)


def _read_rows(path: Path) -> dict[str, Any]:
    """The arrays of an `evaluations.npz`; empty if it is missing, broken or not of equal rows."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return {}
    lengths = {len(array) if array.ndim else -1 for array in rows.values()}
    names = {"timesteps", "results", "ep_lengths"}
    return rows if len(lengths) == 1 and names <= rows.keys() else {}


def _with_row(rows: Mapping[str, Sequence[Any]], row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Add a row; what it or the rows before do not have becomes a row without values."""
    before = len(rows.get("timesteps", ()))
    missing: list[Any] = [()] * before
    return {name: [*rows.get(name, missing), row.get(name, ())] for name in {**rows, **row}}


def _write_rows(path: Path, rows: Mapping[str, Sequence[Any]]) -> None:
    """Write an `evaluations.npz` so that it is always whole.

    Rows of other lengths (a resume with another `--eval_length`) are filled up with NaN.
    """
    tables = {name: _table(values) for name, values in rows.items()}
    with replacing(path) as file:
        np.savez(file, **tables)


def _table(rows: Sequence[Any]) -> Any:
    shapes = {np.shape(row) for row in rows}
    if len(shapes) == 1:
        return np.array(rows)
    table = np.full((len(rows), max(shape[0] for shape in shapes)), np.nan)
    for filled, row in zip(table, rows, strict=True):
        filled[: len(row)] = row
    return table
