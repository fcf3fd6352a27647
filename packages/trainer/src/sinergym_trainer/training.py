"""`train(options) -> Result`: one training, from options to results in a folder.

Nothing heavy is imported before the options are known to be right.
"""

import contextlib
import errno
import functools
import importlib.metadata
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinergym_trainer.algorithms import Algorithm, find_algorithm
from sinergym_trainer.environments import (
    Environment,
    EnvironmentSpec,
    closing,
    find_energyplus,
    make_environment,
    resolve,
    with_actions,
)
from sinergym_trainer.errors import InvalidOptions, OutputUnusable, ResultsNotStored, TrainerError
from sinergym_trainer.options import Options, RunPeriod

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.monitor import Monitor

    from sinergym_trainer.evaluation import Evaluator
    from sinergym_trainer.tracking import Tracker

DEFAULT_BUCKET = "experiments-storage"

_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)
_FULL = 1 << 20
"""Bytes: a file system with less left counts as full."""

_PACKAGES = (
    "sinergym-trainer", "sinergym", "stable-baselines3", "torch", "gymnasium", "pyenergyplus-lbnl",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a training gave."""

    name: str
    episodes: int
    """Whole episodes that ran."""
    timesteps: int
    episode_rewards: tuple[float, ...]
    """The return of each whole episode of training, exactly."""
    mean_reward: float | None
    """Of the last evaluation; without one, of the last hundred episodes; None without any."""
    output: Path
    """The folder with model.zip, monitor.csv, progress.csv, and what else was asked for."""
    model: Path
    tensorboard: Path | None
    stopped_by: int | None
    """The signal that ended it early, or None."""


def train(options: Options, *, say: Callable[[str], None] | None = None) -> Result:
    """Train as the options say, and keep everything in the output folder.

    The learning is that of plain Stable-Baselines3: `PPO("MlpPolicy", env,
    seed=...).learn(timesteps)` on the same environment, with the same number of PyTorch threads,
    gives the same rewards and the same weights to the last digit. What is around it only watches::

        environment, algorithm = check(options)          # bad input ends here, nothing is made
        output = $SINERGYM_OUTPUT or ./<name>/
        tracker = an MLflow run, in a background thread   # when MLFLOW_TRACKING_URI is set
        env = Monitor(wrappers(gym.make(environment)))
        model = algorithm("MlpPolicy", env, seed, hyperparameters given)
        model.learn(timesteps, callbacks):
            each episode:           a line, metrics, progress
            every eval_freq'th:     evaluation in a process of its own, best model kept
            at SIGTERM or SIGINT:   learning ends, all below is still done
        save the model; close env; end the MLflow run; upload, if asked to

    The output folder is `$SINERGYM_OUTPUT`, or a new one in the working directory with the run's
    name. Progress goes to the file `$SINERGYM_PROGRESS`, when it is set.

    Args:
        options: what to train.
        say: gets one line at a time of what happens; default standard output.

    Raises:
        InvalidOptions: the options make no training; nothing was started.
        TrainerError: EnergyPlus is missing, the output folder cannot be written, or the results
            could not be uploaded.
    """
    say = say or _say
    environment, algorithm = check(options)
    find_energyplus()
    for note in _notes(options, environment, algorithm):
        say(note)
    with _stopping() as stop:
        training = _Training(options, environment, algorithm, say=say, stop=stop)
        with _writing(training.output):
            return training.run()


def check(options: Options) -> tuple[Environment, Algorithm]:
    """Find environment and algorithm, and whether all of it goes together.

    Raises:
        InvalidOptions: it does not; the message says what would.
    """
    environment = resolve(options.environment)
    algorithm = find_algorithm(options.algorithm)
    if environment.actions not in algorithm.actions:
        other = with_actions(environment.id, algorithm.actions)
        if other:
            raise InvalidOptions(
                f"{algorithm.name} acts on {' and '.join(sorted(algorithm.actions))} actions,"
                " and those of"
                f" {environment.id} are {environment.actions}: take {other}, or another algorithm"
            )
    algorithm.check(
        hyperparameters=options.hyperparameters(),
        actions=environment.actions,
        where=environment.id,
    )
    if options.normalize_action and environment.actions != "continuous":
        raise InvalidOptions(
            f"--normalize_action is for continuous actions; those of {environment.id} are"
            f" {environment.actions}"
        )
    tensorboard = options.tensorboard
    if tensorboard and "://" in tensorboard and not _bucket_path(tensorboard)[0]:
        raise InvalidOptions(f"--tensorboard {tensorboard!r}: write a path or gs://BUCKET/PATH")
    return environment, algorithm


def run_name(options: Options, environment: str, algorithm: str, now: datetime) -> str:
    """`<algorithm>-<environment>-episodes<n>-seed<s>(<date>)`, the name of the seeds.

    The date is `YYYY-MM-DD_HH-MM-SS` in UTC: without the spaces and colons that object names and
    shells trip over. Without a seed that part is left out; `timesteps<n>` stands for episodes when
    those were asked for.
    """
    length = (
        f"timesteps{options.timesteps}" if options.timesteps else f"episodes{options.episodes}"
    )
    seed = "" if options.seed is None else f"-seed{options.seed}"
    return f"{algorithm}-{environment}-{length}{seed}({now:%Y-%m-%d_%H-%M-%S})"


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


class _Stop:
    """A signal that asks for an early end; called, it says whether one came."""

    signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None


class _Training:
    """One run of `train`, step by step in the order of its docstring."""

    def __init__(
        self,
        options: Options,
        environment: Environment,
        algorithm: Algorithm,
        *,
        say: Callable[[str], None],
        stop: _Stop,
    ) -> None:
        self.options = options
        self.algorithm = algorithm
        self.say = say
        self.stop = stop
        self.name = run_name(options, environment.id, algorithm.name, datetime.now(UTC))
        self.output = _output_folder(self.name)
        self.name = self.output.name if not os.environ.get("SINERGYM_OUTPUT") else self.name
        self.tensorboard = _tensorboard_folder(options, self.output, self.name)
        self.threads = options.threads or _threads()
        self.spec = EnvironmentSpec(
            id=environment.id,
            run_period=options.run_period,
            reward=options.reward,
            normalize_action=options.normalize_action,
            normalization=options.normalization,
            logger=options.logger,
            multiobs=options.multiobs,
        )
        self.tracker: Tracker | None = None

    def run(self) -> Result:
        self.say(f"run {self.name}, results in {self.output}")
        evaluator = self._evaluator()  # first, as it starts while we import
        status = "FAILED"
        try:
            import torch

            torch.set_num_threads(self.threads)
            self.tracker = self._track()
            env = make_environment(
                self.spec, self.output / "sinergym", monitor=self.output / "monitor.csv"
            )
            with closing(env):
                result = self._learn(env, evaluator)
            status = "KILLED" if self.stop() else "FINISHED"
        finally:
            if evaluator:
                evaluator.close()
            if self.tracker:
                artifacts = self._artifacts() if self.options.mlflow_store else []
                self.tracker.close(status=status, artifacts=artifacts)
        self._upload()
        return result

    def _learn(self, env: "Monitor[Any, Any]", evaluator: "Evaluator | None") -> Result:
        from sinergym_trainer.callbacks import EpisodeCallback, EvaluationCallback, ProgressFile

        length = int(env.get_wrapper_attr("timestep_per_episode"))
        wanted = self.options.timesteps or self.options.episodes * length
        model = self.algorithm.build(
            env, seed=self.options.seed, hyperparameters=self.options.hyperparameters()
        )
        total, unit = _whole_units(model, wanted)
        if total != wanted:
            self.say(
                f"{self.algorithm.name} learns from {unit} timesteps at a time: {total}"
                " timesteps will run"
                f" for the {wanted} asked for"
            )
        episodes = max(self.options.episodes if not self.options.timesteps else 0, total // length)
        model.set_logger(self._logger())
        evaluation: EvaluationCallback | None = None
        if evaluator:
            evaluation = EvaluationCallback(
                evaluator,
                every=self.options.eval_freq,
                episodes=self.options.eval_length,
                folder=self.output,
                normalization=functools.partial(_normalization, env, self.spec),
                stop=self.stop,
                say=self.say,
            )
        progress = os.environ.get("SINERGYM_PROGRESS")
        watching: EpisodeCallback = EpisodeCallback(
            episodes=episodes,
            total_timesteps=total,
            rewards=env.get_episode_rewards,
            evaluated=evaluation.last_mean if evaluation else lambda: None,
            tracked=self._tracked,
            progress=ProgressFile(Path(progress) if progress else None, {"versions": versions()}),
            stop=self.stop,
            say=self.say,
        )
        callbacks = [watching, evaluation] if evaluation else [watching]
        how: dict[str, Any] = {"callback": callbacks}
        if self.options.log_interval is not None:
            how["log_interval"] = self.options.log_interval
        try:
            model.learn(wanted, **how)
        finally:
            if evaluation:
                evaluation.close()
        watching.write_progress()  # now with the last evaluation
        path = self.output / "model.zip"
        model.save(path)
        model.logger.close()
        rewards = tuple(env.get_episode_rewards())
        ended = (
            f"stopped by {signal.Signals(self.stop.signal).name}" if self.stop.signal else "done"
        )
        mean = watching.mean_reward()
        shown = "none" if mean is None else f"{mean:.2f}"
        self.say(
            f"{ended}: {len(rewards)} episodes, {model.num_timesteps} timesteps, mean reward"
            f" {shown}"
        )
        return Result(
            name=self.name,
            episodes=len(rewards),
            timesteps=int(model.num_timesteps),
            episode_rewards=rewards,
            mean_reward=mean,
            output=self.output,
            model=path,
            tensorboard=self.tensorboard,
            stopped_by=self.stop.signal,
        )

    def _evaluator(self) -> "Evaluator | None":
        if not self.options.evaluation:
            return None
        from sinergym_trainer.evaluation import Evaluator

        return Evaluator(
            _for_evaluation(self.spec),
            self.output / "sinergym-evaluation",
            threads=self.threads,
            seed=self.options.seed,
        )

    def _logger(self) -> "Logger":
        from stable_baselines3.common.logger import (
            CSVOutputFormat,
            KVWriter,
            Logger,
            TensorBoardOutputFormat,
        )

        outputs: list[KVWriter] = [CSVOutputFormat(str(self.output / "progress.csv"))]
        if self.tensorboard:
            outputs.append(TensorBoardOutputFormat(str(self.tensorboard)))
        if self.tracker:
            from sinergym_trainer.tracking import MlflowWriter

            outputs.append(MlflowWriter(self.tracker))
        return Logger(str(self.output), outputs)

    def _track(self) -> "Tracker | None":
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri and not self.options.mlflow_store:
            return None
        from sinergym_trainer.tracking import Tracker

        environ = os.environ
        tags = {
            "sweep": environ.get("SINERGYM_SWEEP"),
            "experiment": environ.get("SINERGYM_EXPERIMENT"),
            "attempt": environ.get("SINERGYM_ATTEMPT"),
        }
        return Tracker(
            uri=uri or f"sqlite:///{self.output.resolve() / 'mlflow.db'}",
            experiment=environ.get("SINERGYM_SWEEP") or "sinergym",
            name=self.name,
            tags={key: value for key, value in tags.items() if value},
            parameters=_parameters(self.options, self.spec.id, self.algorithm.name),
            unsent=self.output / "mlflow-unsent.jsonl",
            artifact_location=None if uri else (self.output.resolve() / "mlflow").as_uri(),
            # A preempted VM has 30 seconds for everything.
            patience=30.0,
            hurried=self.stop,
        )

    def _tracked(self) -> Mapping[str, str] | None:
        run = self.tracker.run if self.tracker else None
        return {"run_id": run.run_id, "url": run.url} if run else None

    def _artifacts(self) -> list[Path]:
        names = ("model.zip", "best_model", "evaluations.npz", "monitor.csv", "progress.csv")
        return [path for name in names if (path := self.output / name).exists()]

    def _upload(self) -> None:
        """Upload what no runner will: event files to gs://, all results with --remote_store."""
        supervised = bool(os.environ.get("SINERGYM_EXPERIMENT"))
        trees: list[tuple[Path, str, str]] = []
        if self.tensorboard and (self.options.tensorboard or "").startswith("gs://"):
            bucket, prefix = _bucket_path(self.options.tensorboard or "")
            trees.append((self.tensorboard, bucket, f"{prefix}/{self.name}".strip("/")))
        if self.options.remote_store and not supervised:
            bucket = (
                self.options.bucket_name or os.environ.get("SINERGYM_BUCKET") or DEFAULT_BUCKET
            )
            trees.append((self.output, bucket, self.name))
        if not trees:
            return
        from sinergym_trainer.outputs import upload_tree

        for folder, bucket, prefix in trees:
            try:
                uploaded = upload_tree(folder, bucket, prefix)
            except Exception as error:  # credentials, the network, what the bucket refuses
                raise ResultsNotStored(
                    f"results are in {folder}, and not in gs://{bucket}/{prefix}:"
                    f" {type(error).__name__}: {error}"
                ) from error
            self.say(
                f"uploaded {uploaded.files} files, {uploaded.bytes} bytes, to"
                f" gs://{bucket}/{prefix}"
            )


def _say(line: str) -> None:
    print(f"sinergym-train: {line}", flush=True)  # noqa: T201


def _notes(options: Options, environment: Environment, algorithm: Algorithm) -> Iterator[str]:
    if environment.note:
        yield environment.note
    if options.group_name or options.auto_delete:
        yield "--group_name and --auto_delete: the runner removes its VM and the group now"
    if options.remote_store and os.environ.get("SINERGYM_EXPERIMENT"):
        yield "--remote_store: the runner uploads the results"
    if environment.actions == "continuous" and not (algorithm.bounded or options.normalize_action):
        yield (
            f"note: {algorithm.name} starts with actions around 0, which {environment.id} clips"
            " to its lowest"
            " setpoints; --normalize_action lets it act in [-1, 1]"
        )


@contextlib.contextmanager
def _stopping() -> Iterator[_Stop]:
    """Take SIGTERM and SIGINT as a wish to end, the second one as an order; in the main thread."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def received(number: int, _frame: object) -> None:
        stop.signal = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, received)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdecimal() and int(given) > 0 else 1


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in one line when a disk is full or read-only, whoever found out.

    Raises:
        OutputUnusable: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise OutputUnusable(
            f"the results cannot be written: {error.strerror}: {error.filename or folder}"
        ) from error
    except TrainerError:
        raise
    except Exception as error:
        # EnergyPlus, and what reads its files, do not say why one is missing or too short.
        if shutil.disk_usage(folder).free > _FULL:
            raise
        raise OutputUnusable(
            f"the results cannot be written: {os.strerror(errno.ENOSPC)}: {folder}"
        ) from error


def _output_folder(name: str) -> Path:
    given = os.environ.get("SINERGYM_OUTPUT")
    wanted = Path(given) if given else Path.cwd() / name
    try:
        return _make_folder(wanted, new=not given)
    except OSError as error:
        advice = "" if given else "; SINERGYM_OUTPUT names another folder"
        raise OutputUnusable(
            f"the output folder cannot be made: {error.strerror}: {wanted}{advice}"
        ) from error


def _make_folder(wanted: Path, *, new: bool) -> Path:
    """Make a folder; a new one gets a number behind its name when that is taken."""
    if not new:
        wanted.mkdir(parents=True, exist_ok=True)
        return wanted.absolute()
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _tensorboard_folder(options: Options, output: Path, name: str) -> Path | None:
    if not options.tensorboard:
        return None
    path = Path(options.tensorboard)
    if path.is_absolute():
        return path / name
    return output / "tensorboard"


def _bucket_path(url: str) -> tuple[str, str]:
    if not url.startswith("gs://"):
        return "", ""
    bucket, _, path = url.removeprefix("gs://").partition("/")
    return bucket, path.strip("/")


def _for_evaluation(spec: EnvironmentSpec) -> EnvironmentSpec:
    return EnvironmentSpec(
        **{field.name: getattr(spec, field.name) for field in fields(spec)} | {"logger": False}
    )


def _normalization(
    env: "Monitor[Any, Any]", spec: EnvironmentSpec
) -> tuple[Any, Any, float] | None:
    if not spec.normalization:
        return None
    statistics = env.get_wrapper_attr("obs_rms")
    return statistics.mean.copy(), statistics.var.copy(), float(statistics.count)


def _whole_units(model: "BaseAlgorithm", wanted: int) -> tuple[int, int]:
    """How many timesteps will run, and how many at a time: it only stops in between."""
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    if isinstance(model, OnPolicyAlgorithm):
        unit = model.n_steps
    else:
        frequency = model.train_freq  # type: ignore[attr-defined]
        unit = frequency.frequency if frequency.unit.value == "step" else 1
    return -(-wanted // unit) * unit, unit


def _parameters(options: Options, environment: str, algorithm: str) -> dict[str, object]:
    """MLflow's parameters: the names that `DRL_battery.py` gave them, and the versions."""
    renamed = {
        "environment": "env",
        "multiobs": "multi-observations",
        "eval_freq": "evaluation-frequency",
        "eval_length": "evaluation-length",
        "log_interval": "log-interval",
        "remote_store": "remote-store",
        "run_period": "run-period",
    }
    left_out = {"group_name", "auto_delete", "mlflow_store", "bucket_name"}
    values: dict[str, object] = {f"{name}-version": number for name, number in versions().items()}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in left_out or value is None:
            continue
        shown = str(value) if isinstance(value, RunPeriod) else value
        values[renamed.get(field.name, field.name)] = shown
    return values | {"env": environment, "algorithm": algorithm}
