"""`sinergym-eval`: whole episodes of a model or a baseline, in this process."""

import contextlib
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sinergym_trainer.algorithms import find_algorithm
from sinergym_trainer.environments import EnvironmentSpec, closing, make_environment
from sinergym_trainer.environments.catalogue import resolve
from sinergym_trainer.errors import (
    InvalidOptions,
    ModelUnusable,
    OutputUnusable,
    ResultsNotStored,
    explaining_disk,
    one_line,
)
from sinergym_trainer.evaluation.baselines import (
    RANDOM,
    RULE_BASED,
    RandomAgent,
    RuleAgent,
    check_rule,
)
from sinergym_trainer.evaluation.episodes import Agent, ModelAgent, run_episode
from sinergym_trainer.evaluation.report import ALL, EPISODES, MONTHS, Measured, Report, show
from sinergym_trainer.models import SCHEMA as CARD_SCHEMA
from sinergym_trainer.models import Card, find
from sinergym_trainer.options import BASELINES, EvalOptions
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.process.stopping import Stop, stopping
from sinergym_trainer.process.surroundings import (
    DEFAULT_BUCKET,
    default_threads,
    make_output_folder,
    versions,
)

if TYPE_CHECKING:
    from sinergym_trainer.environments.normalization import Statistics
    from sinergym_trainer.models.checkpoints import Checkpoint
    from sinergym_trainer.tracking import Tracker

Say = Callable[[str], None]

_UNSAFE = re.compile(r"[^\w().=+-]+", re.ASCII)
_WEIGHTS = frozenset(("energy_weight", "default_energy_weight"))


def evaluate(options: EvalOptions, *, say: Say | None = None) -> Report:
    """Run episodes of a model or a baseline in this process, and store what they gave.

    A model's card names its environment, wrappers and statistics; options that are given take
    their place, with a note. The seed is the option, or the training's (so a stochastic
    environment has the weathers of the training's own evaluations), or drawn. The same seed gives
    the same results to the last digit.

    The results are in `--output`, in `$SINERGYM_OUTPUT`, or in a new folder of the working
    directory, `<name>-EVAL-episodes<n>[-id-<id>](<date>)`, as soon as an episode is over. At
    SIGTERM or SIGINT the episodes so far are the result.

    Args:
        options: what to evaluate.
        say: gets one line at a time of what happens. Without it they are printed, and tables of
            the results at the end, on standard output; with `--json` that has only the JSON, and
            standard error all else.

    Raises:
        InvalidOptions: nothing can be evaluated so; nothing was started.
        ModelUnusable: there is no such model, it is broken, or for another environment.
        TrainerError: EnergyPlus is missing or failed, or the results could not be stored.
    """
    shown = say is None
    say = say or _printer(sys.stderr if options.json else sys.stdout)
    with tempfile.TemporaryDirectory(
        prefix="sinergym-eval-", ignore_cleanup_errors=True
    ) as scratch:
        subject = _find_subject(options, Path(scratch))
        for note in subject.notes:
            say(note)
        with stopping() as stop, explaining_disk(Path(scratch)):
            report = _evaluate(options, subject, Path(scratch), say, stop)
    if shown:
        show(report, as_json=options.json)
    _upload(options, report, say)
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is evaluated, where, and what to tell of it."""

    source: str
    label: str
    spec: EnvironmentSpec
    seed: int
    notes: tuple[str, ...]
    algorithm: str | None = None
    model: Path | None = None
    statistics: "Statistics | None" = None
    card: Card | None = None

    def agent(self, env: Any, options: EvalOptions) -> Agent:
        """Make what decides."""
        if self.model is not None and self.algorithm is not None:
            return ModelAgent(
                self.model,
                self.algorithm,
                env,
                statistics=self.statistics,
                device=options.device,
                deterministic=options.deterministic,
                seed=self.seed,
            )
        if self.source == RANDOM:
            return RandomAgent(env, self.seed)
        return RuleAgent(env, self.spec.id)


def _find_subject(options: EvalOptions, scratch: Path) -> _Subject:
    if options.model in BASELINES:
        return _baseline(options)
    found = find(options.model, scratch, prefer_best=True)
    model, card, statistics_, algorithm = found.model, found.card, found.statistics, None
    if model is None and found.checkpoints is not None:
        from sinergym_trainer.models.checkpoints import newest

        checkpoint = newest(found.checkpoints)
        if checkpoint is None:
            raise ModelUnusable(f"{found.source}: none of the checkpoints is whole")
        model, statistics_ = checkpoint.extract_model(scratch), checkpoint.statistics()
        algorithm = checkpoint.algorithm
        card = _card_of(checkpoint)
    algorithm = options.algorithm or algorithm or (card.algorithm if card else None)
    environment = options.environment or (card.environment if card else None)
    missing = [("--environment", environment), ("--algorithm", algorithm)]
    if flags := " and ".join(flag for flag, value in missing if value is None):
        raise InvalidOptions(
            f"--model {options.model}: it has no card (model.json) beside it: give {flags}"
        )
    today, known = resolve(environment or ""), find_algorithm(algorithm or "")
    if today.actions not in known.actions:
        raise InvalidOptions(
            f"{known.name} acts on {' and '.join(sorted(known.actions))} actions, and those of"
            f" {today.id} are {today.actions}"
        )
    spec = _spec(options, today.id, card)
    if spec.normalize_action and today.actions != "continuous":
        raise InvalidOptions(
            f"--normalize_action is for continuous actions; those of {today.id} are"
            f" {today.actions}"
        )
    return _Subject(
        source=found.source,
        label=card.name if card else _label(options.model),
        spec=spec,
        seed=_seed(options, card),
        notes=tuple(_notes(today.note, spec, known.name, card)),
        algorithm=known.name,
        model=model,
        statistics=statistics_,
        card=card,
    )


def _card_of(checkpoint: "Checkpoint") -> Card | None:
    """The card that the model of a checkpoint would have; its options have the card's names."""
    options = checkpoint.state.get("options")
    if not isinstance(options, Mapping):
        return None
    known = {each.name for each in fields(Card)}
    members = {name: value for name, value in options.items() if name in known}
    members |= {"name": checkpoint.state.get("name"), "timesteps": checkpoint.timesteps}
    return Card.parse(json.dumps({"schema": CARD_SCHEMA, **members}))


def _baseline(options: EvalOptions) -> _Subject:
    today = resolve(options.environment or "")
    if options.model == RULE_BASED:
        check_rule(today.id)
    notes = [today.note] if today.note else []
    if options.normalize_action or options.multiobs:
        notes.append(
            f"note: {options.model} acts and observes without wrappers: --normalize_action and"
            " --multiobs change nothing"
        )
    return _Subject(
        source=options.model,
        label=f"{options.model}-{today.id}",
        spec=replace(_spec(options, today.id, None), normalize_action=False, multiobs=False),
        seed=_seed(options, None),
        notes=tuple(notes),
    )


def _spec(options: EvalOptions, environment: str, card: Card | None) -> EnvironmentSpec:
    """The training's environment, but for what the options change."""
    reward = options.reward or (card.reward if card else "linear")
    kept = card if card and card.reward == reward else None  # parameters belong to their reward
    period = RunPeriod.parse(card.run_period) if card and card.run_period else None
    weight = options.energy_weight
    if weight is None and kept and not _WEIGHTS & options.reward_kwargs.keys():
        weight = kept.energy_weight
    return EnvironmentSpec(
        id=environment,
        run_period=options.run_period or period,
        reward=reward,
        reward_kwargs={**(kept.reward_kwargs if kept else {}), **options.reward_kwargs},
        energy_weight=weight,
        normalize_action=_either(
            options.normalize_action, card.normalize_action if card else None
        ),
        multiobs=_either(options.multiobs, card.multiobs if card else None),
    )


def _either(given: bool | None, trained: bool | None) -> bool:
    return bool(trained) if given is None else given


def _notes(note: str, spec: EnvironmentSpec, algorithm: str, card: Card | None) -> Iterator[str]:
    if note:
        yield note
    if card is None:
        return
    period = str(spec.run_period) if spec.run_period else None
    kwargs = dict(spec.reward_kwargs)
    pairs = (
        ("environment", spec.id, card.environment),
        ("algorithm", algorithm, card.algorithm),
        ("run_period", period, card.run_period),
        ("reward", spec.reward, card.reward),
        ("reward_kwargs", kwargs, dict(card.reward_kwargs)),
        ("energy_weight", spec.energy_weight, card.energy_weight),
        ("normalize_action", spec.normalize_action, card.normalize_action),
        ("multiobs", spec.multiobs, card.multiobs),
    )
    for name, here, trained in pairs:
        if here != trained:
            yield f"note: {name} is {here} here, and was {trained} in the training"
    now = versions()
    for package in ("sinergym", "pyenergyplus-lbnl"):
        before = card.versions.get(package)
        if before and before != now.get(package):
            yield f"note: {package} is {now.get(package)} here, and was {before} in the training"


def _seed(options: EvalOptions, card: Card | None) -> int:
    if options.seed is not None:
        return options.seed
    if card and card.seed is not None:
        return card.seed
    return secrets.randbelow(2**32)


def _label(location: str) -> str:
    """The name of a model without a card: its file's or folder's."""
    last = location.rstrip("/").rpartition("/")[2]
    return last.removesuffix(".zip") or "model"


class _Stopped(Exception):
    """A signal came in the middle of an episode."""


def _evaluate(
    options: EvalOptions, subject: _Subject, scratch: Path, say: Say, stop: Stop
) -> Report:
    if subject.model is not None:
        import torch

        torch.set_num_threads(options.threads or default_threads())
    with closing(make_environment(subject.spec, scratch / "sinergym")) as env:
        agent = subject.agent(env, options)
        name = _name(options, subject.label)
        output = _output(options, name)
        if not (options.output or os.environ.get("SINERGYM_OUTPUT")):
            name = output.name  # with the number behind it, if that was needed
        report = Report(
            name=name,
            output=output,
            model=subject.source,
            algorithm=subject.algorithm,
            environment=subject.spec.id,
            seed=subject.seed,
            options=_given(options),
            card=asdict(subject.card) if subject.card else None,
            versions=versions(),
            step_size=float(env.get_wrapper_attr("step_size")),
            watts=_in_watts(env),
        )
        say(f"evaluation {name} of {subject.source}, results in {output}")
        tracker = _track(options, report, stop)
        steps = int(env.get_wrapper_attr("timestep_per_episode"))
        progress = _Progress(options.episodes, steps, tracker)
        try:
            report = _episodes(
                options,
                report,
                env,
                agent,
                say=say,
                stop=stop,
                tracker=tracker,
                progress=progress,
            )
        except BaseException:
            if tracker:
                tracker.close(status="FAILED")
            raise
    if tracker:
        stored = [output / each for each in (EPISODES, MONTHS, ALL)]
        tracker.close(
            status="KILLED" if stop() else "FINISHED",
            artifacts=stored if options.mlflow_store else [],
        )
        progress.write(report, force=True)  # now the run has its id
    return report


class _Progress:
    """The file `SINERGYM_PROGRESS`, as a training writes it."""

    def __init__(self, episodes: int, steps: int, tracker: "Tracker | None") -> None:
        from sinergym_trainer.process.progress import ProgressFile

        path = os.environ.get("SINERGYM_PROGRESS")
        self._file = ProgressFile(Path(path) if path else None, {"versions": versions()})
        self._episodes, self._total = episodes, episodes * steps
        self._tracker = tracker

    def write(self, report: Report, step: int = 0, *, force: bool = False) -> None:
        """Write where the evaluation is: the episodes of the report and steps of the next."""
        self._file.write(lambda: self._members(report, step), force=force)

    def _members(self, report: Report, step: int) -> Mapping[str, object]:
        run = self._tracker.run if self._tracker else None
        return {
            "episode": len(report.episodes),
            "episodes": self._episodes,
            "timesteps": sum(each.episode.length for each in report.episodes) + step,
            "total_timesteps": self._total,
            "mean_reward": report.mean_reward,
            "mlflow": {"run_id": run.run_id, "url": run.url} if run else None,
        }


def _episodes(
    options: EvalOptions,
    report: Report,
    env: Any,
    agent: Agent,
    *,
    say: Say,
    stop: Stop,
    tracker: "Tracker | None",
    progress: "_Progress",
) -> Report:
    """Run the episodes; after each one, all files have it."""

    def look(step: int) -> None:
        if stop():
            raise _Stopped
        progress.write(report, step)

    _write(report)
    progress.write(report, force=True)
    for number in range(1, options.episodes + 1):
        begun, seed = time.monotonic(), report.seed + number - 1
        try:
            if stop():
                raise _Stopped
            episode = run_episode(env, agent, seed=seed, look=look)
        except _Stopped:
            break
        seconds = time.monotonic() - begun
        measured = Measured(number=number, seed=seed, seconds=seconds, episode=episode)
        report = replace(report, episodes=(*report.episodes, measured))
        _write(report)
        progress.write(report, force=True)
        if tracker:
            _log(tracker, report, number)
        say(
            f"episode {number}/{options.episodes}  reward {episode.reward:.2f}"
            f"  {episode.length / max(seconds, 1e-9):.0f} steps/s"
        )
    if stop():
        report = replace(report, stopped_by=stop.signal)
        _write(report)
        say(f"stopped by {signal.Signals(stop.signal or 0).name}: {len(report.episodes)} episodes")
    return report


def _name(options: EvalOptions, label: str) -> str:
    """`<label>-EVAL-episodes<n>[-id-<id>](<date>)`, as `load_agent.py` of 2022, and the date."""
    word = f"-id-{options.id}" if options.id else ""
    now = datetime.now(UTC)
    return (
        f"{_UNSAFE.sub('_', label)}-EVAL-episodes{options.episodes}{word}({now:%Y-%m-%d_%H-%M-%S})"
    )


def _output(options: EvalOptions, name: str) -> Path:
    if options.output is None:
        return make_output_folder(name)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnusable(
            f"--output {options.output} cannot be made: {error.strerror}"
        ) from error
    return options.output.absolute()


def _write(report: Report) -> None:
    with explaining_disk(report.output):
        report.write()


def _given(options: EvalOptions) -> dict[str, Any]:
    """The options that differ from their defaults, as plain values."""
    given: dict[str, Any] = {}
    for each in fields(options):
        value = getattr(options, each.name)
        if value is None or value == each.default:
            continue
        if isinstance(value, Mapping):
            value = dict(value)
        given[each.name] = value if isinstance(value, bool | int | float | dict) else str(value)
    return given


def _in_watts(env: Any) -> bool:
    """Whether all that the reward counts as energy are rates, which EnergyPlus gives in W."""
    names = getattr(env.get_wrapper_attr("reward_fn"), "energy_names", ())
    variables = env.unwrapped.variables
    outputs = [str(variables[name][0]) if name in variables else "" for name in names]
    return bool(outputs) and all(output.endswith(" Rate") for output in outputs)


def _track(options: EvalOptions, report: Report, stop: Stop) -> "Tracker | None":
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and not options.mlflow_store:
        return None
    from sinergym_trainer.tracking import Tracker, tags

    output = report.output.resolve()
    return Tracker(
        uri=uri or f"sqlite:///{output / 'mlflow.db'}",
        experiment=os.environ.get("SINERGYM_SWEEP") or "sinergym",
        name=report.name,
        tags={**tags(), "kind": "evaluation", "mlflow.source.name": "sinergym-eval"},
        parameters={
            **{f"{package}-version": number for package, number in report.versions.items()},
            **report.options,
            "model": report.model,
            "env": report.environment,
            "algorithm": report.algorithm or report.model,
            "seed": report.seed,
            "episodes": options.episodes,
        },
        unsent=report.output / "mlflow-unsent.jsonl",
        artifact_location=None if uri else (output / "mlflow").as_uri(),
        hurried=stop,
    )


def _log(tracker: "Tracker", report: Report, number: int) -> None:
    """Log the last episode: its metrics at its number, those of its months at theirs."""
    for name, row in (("episode", report.rows[-1:]), ("month", report.month_rows)):
        for step, values in enumerate(row, number if name == "episode" else 1):
            if values["episode"] == number:
                metrics = {
                    f"{name}/{key}": value
                    for key, value in values.items()
                    if value is not None and key not in ("episode", "seed")
                }
                tracker.log(metrics, step)


def _upload(options: EvalOptions, report: Report, say: Say) -> None:
    if not options.remote_store:
        return
    if os.environ.get("SINERGYM_EXPERIMENT"):
        say("--remote_store: the runner uploads the results")
        return
    from sinergym_trainer.outputs import upload_tree

    bucket = options.bucket_name or os.environ.get("SINERGYM_BUCKET") or DEFAULT_BUCKET
    try:
        uploaded = upload_tree(report.output, bucket, report.name)
    except Exception as error:  # credentials, the network, what the bucket refuses
        raise ResultsNotStored(
            f"results are in {report.output}, and not in gs://{bucket}/{report.name}:"
            f" {one_line(error)}"
        ) from error
    say(f"uploaded {uploaded.files} files, {uploaded.bytes} bytes, to gs://{bucket}/{report.name}")


def _printer(stream: TextIO) -> Say:
    def say(line: str) -> None:
        with contextlib.suppress(OSError):
            stream.write(f"sinergym-eval: {line}\n")
            stream.flush()

    return say
