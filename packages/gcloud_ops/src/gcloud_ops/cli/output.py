"""What the commands print: tables and JSON of the nouns, one-line errors, exit codes.

Standard output is data; everything else goes to standard error, through `say`. Text from outside
is cleaned here, once, and is never taken for markup.
"""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Literal

from gcloud_ops import errors
from gcloud_ops.alerts import Channel, ChannelType, Incident, Policy
from gcloud_ops.contract import SCHEMA, Dispatch, Progress, timestamp
from gcloud_ops.costs import ExperimentCost, PlanCost, so_far
from gcloud_ops.errors import GcloudOpsError, InvalidRequest
from gcloud_ops.instances import SWEEP_LABEL
from gcloud_ops.launching import LaunchPlan
from gcloud_ops.model import (
    Container,
    ExperimentStatus,
    Instance,
    Observation,
    Snapshot,
    SweepSummary,
)
from gcloud_ops.objects import Entry
from gcloud_ops.sweeps import is_just_launched, is_over, places
from gcloud_ops.templates import Template
from gcloud_ops.text import clean, one_line

__all__ = [
    "CHANNELS",
    "CHANNEL_TYPES",
    "CONTAINERS",
    "ENTRIES",
    "INCIDENTS",
    "INSTANCES",
    "POLICIES",
    "ROWS",
    "SWEEPS",
    "TEMPLATES",
    "Columns",
    "ExitCode",
    "Format",
    "LogPrinter",
    "as_json",
    "comma_separated",
    "confirm",
    "cost_of_plan",
    "cost_so_far",
    "dollars",
    "emit",
    "exit_code_for",
    "explain",
    "plan_json",
    "report",
    "say",
    "table",
    "under_guard",
]

type Format = Literal["table", "json", "csv"]
type Json = Any

_LONGEST_LINE = 1 << 16  # bytes


class ExitCode(IntEnum):
    """How a command ends."""

    DONE = 0
    """All went well; where a sweep was watched, every experiment finished."""
    EXPERIMENTS_FAILED = 1
    """Some experiments failed, were lost or cancelled, or could not be given their command; or
    `doctor` found a problem."""
    USAGE = 2
    """The request can't be: a flag, a field, a file, a name; nothing was created."""
    NOT_FOUND = 3
    """There is no such sweep, template, instance, object, file."""
    REFUSED = 4
    """The cloud refused: credentials, permission, quota, a wrong host key."""
    UNAVAILABLE = 5
    """The cloud can't be reached, has no capacity, or an operation failed there."""
    INTERRUPTED = 130
    """Ctrl-C; what runs in the cloud goes on."""


_EXIT_CODES: Mapping[type[GcloudOpsError], ExitCode] = {
    errors.CredentialsMissing: ExitCode.REFUSED,
    errors.PermissionDenied: ExitCode.REFUSED,
    errors.NotFound: ExitCode.NOT_FOUND,
    errors.AlreadyExists: ExitCode.USAGE,
    errors.InvalidRequest: ExitCode.USAGE,
    errors.QuotaExceeded: ExitCode.REFUSED,
    errors.NoCapacity: ExitCode.UNAVAILABLE,
    errors.Unavailable: ExitCode.UNAVAILABLE,
    errors.NotReady: ExitCode.UNAVAILABLE,
    errors.OperationFailed: ExitCode.UNAVAILABLE,
    errors.ContainerFailed: ExitCode.EXPERIMENTS_FAILED,
    errors.HostKeyMismatch: ExitCode.REFUSED,
    errors.GcloudOpsError: ExitCode.UNAVAILABLE,
}


def exit_code_for(error: GcloudOpsError) -> ExitCode:
    """The exit code for an error: that of the nearest class in the tree."""
    return next(_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES)


def under_guard(program: str, run: Callable[[], int]) -> int:
    """Run a command; what goes wrong on purpose becomes one line and an exit code.

    An exception that nobody foresaw passes through, with its traceback.
    """
    try:
        code = run()
        sys.stdout.flush()
    except GcloudOpsError as error:
        say(f"{program}: {one_line(str(error), limit=1000)}")
        return exit_code_for(error)
    except KeyboardInterrupt:
        say(f"{program}: interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has seen enough (`| head`); the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    return code


def say(text: str = "") -> None:
    """Tell people something: one line on standard error, cleaned."""
    sys.stderr.write(f"{clean(text)}\n")
    sys.stderr.flush()


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on the terminal; `yes` answers beforehand.

    Raises:
        InvalidRequest: There is no terminal to ask on.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequest(
            "there is no terminal to ask on", hint="say --yes if this is what you want"
        )
    sys.stderr.write(f"{clean(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


class LogPrinter:
    """Prints logs of experiments to standard output, line by line and cleaned.

    Args:
        sweep: The sweep's name.
        prefixed: Whether each line gets the experiment's number before it: `0001 | line`.
        form: As JSON, each line is an object: `{"experiment": "x-0001", "line": "..."}`.
    """

    def __init__(self, sweep: str, *, prefixed: bool, form: Format = "table") -> None:
        self._sweep = sweep
        self._prefixed = prefixed
        self._form = form
        self._begun: dict[str, bytes] = {}

    def print(self, experiment: str, data: bytes) -> None:
        """Print the whole lines; the begin of one waits for its end."""
        whole, newline, begun = (self._begun.get(experiment, b"") + data).rpartition(b"\n")
        if len(begun) > _LONGEST_LINE:  # a progress bar may never end its line
            whole, newline, begun = whole + newline + begun, b"\n", b""
        self._begun[experiment] = begun
        if newline:
            self._write(experiment, whole)

    def close(self) -> None:
        """Print what has no line's end."""
        for experiment, begun in self._begun.items():
            if begun:
                self._write(experiment, begun)
        self._begun.clear()

    def _write(self, experiment: str, data: bytes) -> None:
        number = experiment.removeprefix(f"{self._sweep}-")
        before = f"{number} | " if self._prefixed else ""
        whose = {"experiment": experiment} if experiment else {}
        for line in clean(data.decode("utf-8", "replace")).split("\n"):
            if self._form == "json":
                sys.stdout.write(json.dumps({**whose, "line": line}) + "\n")
            else:
                sys.stdout.write(f"{before}{line}\n")
        sys.stdout.flush()


# ---------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class Columns[T]:
    """How a noun looks as a line of a table."""

    headers: tuple[str, ...]
    cells: Callable[[T], tuple[object, ...]]


def emit[T](nouns: Iterable[T], columns: Columns[T], form: Format) -> None:
    """Print nouns to standard output: a table, the same as CSV, or a JSON list."""
    if form == "json":
        sys.stdout.write(dump([as_json(noun) for noun in nouns]))
    elif form == "csv":
        sys.stdout.write(comma_separated(columns, nouns))
    else:
        sys.stdout.write(table(columns.headers, [columns.cells(noun) for noun in nouns]))


def comma_separated[T](columns: Columns[T], nouns: Iterable[T]) -> str:
    """A table for programs (RFC 4180): headers in small letters, times in RFC 3339, cleaned text.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.lower().replace(" ", "_") for header in columns.headers)
    writer.writerows([_csv_cell(value) for value in columns.cells(noun)] for noun in nouns)
    return text.getvalue()


def _csv_cell(value: object) -> object:
    if isinstance(value, datetime):
        return timestamp(value)
    if not isinstance(value, str):
        return value
    found = one_line(value, limit=2000)
    number = re.fullmatch(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?", found)
    return f"'{found}" if found.startswith(("=", "+", "-", "@")) and not number else found


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns, two spaces between them, nothing cut; text is cleaned."""
    lines = [tuple(headers), *(tuple(_cell(value) for value in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return age(value)
    return one_line(str(value), limit=2000)


def age(since: datetime, now: datetime | None = None) -> str:
    """How long ago: `5s`, `12m`, `3h10m`, `4d`."""
    seconds = max(0, int(((now or datetime.now(UTC)) - since).total_seconds()))
    if seconds < 100:
        return f"{seconds}s"
    if seconds < 100 * 60:
        return f"{seconds // 60}m"
    if seconds < 48 * 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d"


def dollars(amount: float | None) -> str:
    """US dollars for people: `$1,240`, `$12.40`, `$0.134`; "" where it isn't known."""
    if amount is None:
        return ""
    if amount >= 1000:
        return f"${amount:,.0f}"
    return f"${amount:.2f}" if amount >= 1 or amount < 0.0005 else f"${amount:.3f}"


TEMPLATES: Columns[Template] = Columns(
    ("NAME", "IMAGE", "MACHINE TYPE", "DISK", "AGE"),
    lambda it: (
        it.name,
        it.image or "(not one of ours)",
        it.machine_type,
        f"{it.disk_gb} GB {it.disk_type}".strip(),
        it.created,
    ),
)

SWEEPS: Columns[SweepSummary] = Columns(
    ("NAME", "AGE", "EXPERIMENTS", "INSTANCES"),
    lambda it: (it.name, it.created, it.experiments, it.group.target_size if it.group else 0),
)

INSTANCES: Columns[Instance] = Columns(
    ("NAME", "ZONE", "MACHINE TYPE", "STATUS", "ADDRESS", "GROUP", "AGE"),
    lambda it: (
        it.name,
        it.zone,
        it.machine_type,
        it.status,
        it.address,
        it.group or it.labels.get(SWEEP_LABEL, ""),
        it.created,
    ),
)

CONTAINERS: Columns[Container] = Columns(
    ("INSTANCE", "CONTAINER", "ID", "IMAGE", "STATE", "STATUS"),
    lambda it: (it.instance, it.name, it.id[:12], it.image, it.state, it.status),
)

ENTRIES: Columns[Entry] = Columns(
    ("SIZE", "AGE", "NAME"),
    lambda it: ("" if it.is_folder else it.size, it.updated, it.name),
)

CHANNEL_TYPES: Columns[ChannelType] = Columns(
    ("TYPE", "LABELS", "WHAT"),
    lambda it: (it.type, ", ".join(it.labels), it.name),
)

CHANNELS: Columns[Channel] = Columns(
    ("ID", "TYPE", "ADDRESS", "NAME", "STATE"),
    lambda it: (
        it.id,
        it.type,
        it.address,
        it.display_name,
        ("unverified" if it.is_unverified else "works") if it.enabled else "disabled",
    ),
)

POLICIES: Columns[Policy] = Columns(
    ("POLICY", "STATE", "CHANNELS", "CHANGE"),
    lambda it: (
        it.which,
        "enabled" if it.enabled else "disabled",
        ", ".join(name.rpartition("/")[2] for name in it.channels),
        it.change,
    ),
)

INCIDENTS: Columns[Incident] = Columns(
    ("AGE", "POLICY", "SWEEP", "EXPERIMENT", "STATUS", "STATE"),
    lambda it: (it.opened, it.policy, it.sweep, it.experiment, it.status, it.state),
)

ROWS: Columns[Observation] = Columns(
    ("EXPERIMENT", "STATUS", "EPISODE", "MEAN REWARD", "EXIT", "AGE", "REASON"),
    lambda row: (
        row.id,
        row.status,
        episode(row),
        mean_reward(row),
        exit_text(row),
        row.record.started if row.record else None,
        row.reason,
    ),
)


def episode(row: Observation) -> str:
    """`1/2`; "" where nothing is known."""
    if row.record is None or row.record.progress.episode is None:
        return ""
    done, total = row.record.progress.episode, row.record.progress.episodes
    return f"{done}/{total}" if total is not None else f"{done}"


def mean_reward(row: Observation) -> str:
    """With two decimals; "" where nothing is known."""
    found: object = row.record.progress.mean_reward if row.record else None
    if isinstance(found, int | float):
        return f"{found:.2f}"
    return "" if found is None else str(found)


def exit_text(row: Observation) -> str:
    """The exit code or the signal; "" where there is none."""
    if row.record is None or row.record.exit is None:
        return ""
    end = row.record.exit
    if end.code is not None:
        return str(end.code)
    return end.signal or ""


def report(seen: Snapshot, *, pulled: Path | None = None) -> str:
    """The end of a sweep, for people: each experiment, and where its results are.

    Args:
        seen: The sweep.
        pulled: The folder that the sweep was downloaded to: then the results are named there.
    """
    results = [
        (row.id, what, where)
        for row in seen.rows
        for what, where in _places_for_people(seen, row, pulled).items()
        if where
    ]
    text = table(
        ("EXPERIMENT", "STATUS", "EPISODES", "MEAN REWARD", "EXIT CODE"),
        [
            (row.id, row.status, episode(row), mean_reward(row), exit_text(row))
            for row in seen.rows
        ],
    )
    if results:
        text += "\n" + table(("EXPERIMENT", "RESULT", "WHERE"), results)
    return text


def cost_so_far(seen: Snapshot) -> str:
    """What the sweep has cost, and will; "" where the manifest has no price."""
    found = so_far(seen, seen.taken)
    if found.spent is None or seen.manifest.machine.hourly is None:
        return ""
    text = f"cost about {dollars(found.spent)} so far"
    if not seen.is_final and found.projected is not None:
        text += f", {dollars(found.projected)} at its end"
    if found.running and found.hourly is not None:
        text += f"; {found.running} VMs run, for {dollars(found.hourly)} an hour"
    return text


def cost_of_plan(cost: PlanCost) -> str:
    """What a plan costs, in a line."""
    if cost.hourly is None or cost.hourly_all is None:
        return f"cost: not known, {cost.unknown} has no price in the table of {cost.priced}"
    text = f"cost: {dollars(cost.hourly)} an hour for each, {dollars(cost.hourly_all)} for all"
    if cost.spot and cost.hourly_standard is not None:
        text += f" as Spot VMs (on demand {dollars(cost.hourly_standard * cost.count)})"
    elif not cost.spot and cost.hourly_spot is not None:
        text += f" (as Spot VMs {dollars(cost.hourly_spot * cost.count)})"
    if cost.expected is not None:
        text += f", about {dollars(cost.expected)} at {cost.hours:g} h each"
    if cost.at_most is not None and cost.seconds is not None:
        text += f", at most {dollars(cost.at_most)} (each VM ends after {cost.seconds / 3600:g} h)"
    return f"{text}; prices of {cost.priced}"


def explain(seen: Snapshot) -> str:
    """One line: how the sweep stands, and what to do where it needs somebody."""
    counts = ", ".join(f"{count} {status}" for status, count in seen.counts.items())
    name, waiting = seen.name, seen.counts.get(ExperimentStatus.WAITING, 0)
    cancel = (
        f"`gcloud-ops sweep resume {name}` goes on with it, `gcloud-ops sweep cancel {name}` "
        "removes it"
    )
    if seen.is_final:
        return f"{counts}: over" + ("" if seen.is_gone else "; its instances are being removed")
    if not seen.group_exists:
        if not is_over(seen):
            return f"{counts}: being launched"
        if all(row.record is None for row in seen.rows):
            return f"{counts}: the launch was interrupted before there was an instance; {cancel}"
        return f"{counts}: its instances are gone and nothing goes on; {cancel}"
    if all(row.member is None and row.record is None for row in seen.rows):
        return f"{counts}: the group has no instances: being launched, or interrupted; {cancel}"
    if seen.counts.get(ExperimentStatus.UNREACHABLE):
        return f"{counts}: what is unreachable may come back, or `gcloud-ops sweep cancel {name}`"
    if seen.counts.get(ExperimentStatus.PENDING) and not is_just_launched(seen):
        return f"{counts}: what is pending has no instance; {cancel}"
    if waiting and seen.manifest.dispatch is Dispatch.SSH:
        return (
            f"{counts}: what waits is given its command by its launcher; if that was stopped, "
            f"it removes itself after its patience; {cancel}"
        )
    return f"{counts}: going on"


# ------------------------------------------------------------------------------ JSON


def as_json(noun: object) -> Json:
    """Any noun as plain JSON values: members by name, times in RFC 3339, enums as their words.

    A `Snapshot` and its rows have a form of their own, documented in the package's README.
    """
    match noun:
        case Snapshot():
            return _snapshot_json(noun)
        case datetime():
            return timestamp(noun)
        case StrEnum() | Path():
            return str(noun)
        case GcloudOpsError():
            return {"error": type(noun).__name__, "message": noun.message, "hint": noun.hint}
        case Mapping():
            return {str(key): as_json(value) for key, value in noun.items()}
        case list() | tuple() | set() | frozenset():
            return [as_json(value) for value in noun]
        case _ if is_dataclass(noun) and not isinstance(noun, type):
            return {item.name: as_json(getattr(noun, item.name)) for item in fields(noun)}
        case _:
            return noun


def dump(value: Json) -> str:
    """JSON as text; non-ASCII and control characters are escaped, so it is safe on a terminal."""
    return json.dumps(value, indent=2) + "\n"


def plan_json(planned: LaunchPlan) -> Json:
    """What a launch will do: names, places, costs and commands."""
    cost = planned.cost
    return {
        "sweep": planned.sweep.name,
        "project": planned.project,
        "zone": planned.zone,
        "zones": list(planned.zones),
        "bucket": planned.bucket,
        "bucket_exists": planned.bucket_exists,
        "template": planned.template.name,
        "machine_types": list(planned.machine_types),
        "spot": planned.spot,
        "seconds": planned.seconds,
        "dispatch": str(planned.sweep.dispatch),
        "retry": as_json(planned.sweep.retry),
        "image": as_json(planned.image),
        "source": as_json(planned.source),
        "cost": {
            **as_json(cost),
            "hourly": cost.hourly,
            "hourly_all": cost.hourly_all,
            "expected": cost.expected,
            "at_most": cost.at_most,
        },
        "experiments": as_json(planned.sweep.experiments),
    }


def _snapshot_json(seen: Snapshot) -> Json:
    manifest, cost = seen.manifest, so_far(seen, seen.taken)
    return {
        "schema": SCHEMA,
        "sweep": seen.name,
        "created": timestamp(manifest.created),
        "project": manifest.project,
        "zone": manifest.zone,
        "zones": list(manifest.zones),
        "template": manifest.template,
        "machine": as_json(manifest.machine),
        "seconds": manifest.seconds,
        "retry": as_json(manifest.retry),
        "image": as_json(manifest.image),
        "source": as_json(manifest.source),
        "bucket": seen.bucket,
        "dispatch": str(manifest.dispatch),
        "launcher": dict(manifest.launcher),
        "taken": timestamp(seen.taken),
        "group_exists": seen.group_exists,
        "final": seen.is_final,
        "counts": {str(status): count for status, count in seen.counts.items()},
        "explanation": explain(seen),
        "cost": {"spent": cost.spent, "projected": cost.projected, "hourly": cost.hourly},
        "experiments": [_row_json(seen, row, cost.by_experiment[row.id]) for row in seen.rows],
    }


def _row_json(seen: Snapshot, row: Observation, cost: ExperimentCost) -> Json:
    record = row.record
    progress = record.progress if record else Progress()
    end = record.exit if record else None
    return {
        "id": row.id,
        "command": row.experiment.command,
        "status": str(row.status),
        "reason": row.reason,
        "attempt": record.attempt if record else None,
        "started": as_json(record.started) if record else None,
        "updated": as_json(record.updated) if record else None,
        "ended": as_json(record.ended) if record else None,
        "episode": progress.episode,
        "episodes": progress.episodes,
        "timesteps": progress.timesteps,
        "total_timesteps": progress.total_timesteps,
        "mean_reward": progress.mean_reward,
        "exit_code": end.code if end else None,
        "exit": as_json(end),
        "spent": as_json(record.spent) if record else None,
        "history": as_json(record.history) if record else [],
        "cost": as_json(cost),
        **_results(seen, row),
        "mlflow_run": record.mlflow_run if record else "",
        "versions": as_json(record.versions) if record else {},
        "instance": as_json(row.member),
    }


def _places_for_people(seen: Snapshot, row: Observation, pulled: Path | None) -> dict[str, str]:
    found = _results(seen, row)
    if pulled is None:
        return found
    root = f"gs://{seen.bucket}/{seen.name}/"
    here = {
        what: _near(pulled / where.removeprefix(root)) if where.startswith(root) else where
        for what, where in found.items()
    }
    model = pulled / row.id / "output" / "model.zip"  # what sinergym-train calls it
    return {"model": _near(model) if model.is_file() else "", **here}


def _near(path: Path) -> str:
    """The path, from the working directory where it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _results(seen: Snapshot, row: Observation) -> dict[str, str]:
    """Where things are; "" where there is nothing: an experiment that never ran left nothing."""
    if row.record is None or not row.record.attempt:
        return {"log": "", "output": "", "tensorboard": "", "mlflow": ""}
    found, outputs = places(seen, row), row.record.raw.get("outputs")
    nothing = isinstance(outputs, Mapping) and outputs.get("files") == 0
    return {
        "log": found.log,
        "output": "" if nothing else found.output,
        "tensorboard": "" if nothing else found.tensorboard,
        "mlflow": found.mlflow,
    }
