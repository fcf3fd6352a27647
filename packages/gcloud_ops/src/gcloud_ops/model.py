"""The nouns: what people ask for (specs) and what the cloud shows (observations).

All are frozen. Specs go out, observations come back; an experiment's status is never stored:
`status_of` derives it from the observations, and is the only place that does.
The JSON forms are those of docs/contract.md, version 1.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from gcloud_ops.errors import InvalidRequest

__all__ = [
    "CONTAINER",
    "MAX_EXPERIMENTS",
    "SCHEMA",
    "Container",
    "Dispatch",
    "Exit",
    "Experiment",
    "ExperimentStatus",
    "Group",
    "Instance",
    "Manifest",
    "Member",
    "Observation",
    "Progress",
    "Record",
    "Snapshot",
    "Sweep",
    "SweepSummary",
    "check_sweep_name",
    "experiment_id",
    "parse_time",
    "status_of",
    "timestamp",
]

SCHEMA = 1
"""Version of the contract that this package speaks."""

CONTAINER = "sinergym"
"""Name of the one container on an instance."""

MAX_EXPERIMENTS = 1000
"""Members of a zonal managed instance group, at most (Compute Engine's limit)."""

HEARTBEAT_LATE = timedelta(seconds=90)
"""A running record that is older than three heartbeats says that the contact is lost."""

_SWEEP_NAME = re.compile(r"[a-z]([-a-z0-9]{0,52}[a-z0-9])?")


class Dispatch(StrEnum):
    """How the command reaches the container."""

    SSH = "ssh"
    """The launcher sends it."""
    BOOT = "boot"
    """The runner reads it in the manifest."""


class ExperimentStatus(StrEnum):
    """What an experiment is doing, derived by `status_of`."""

    PENDING = "pending"
    """No instance has been asked for yet."""
    QUEUED = "queued"
    """Compute Engine can't create the instance now: stock-out or quota; it keeps trying."""
    PROVISIONING = "provisioning"
    """The instance is being created."""
    STARTING = "starting"
    """The instance is there, its container hasn't reported yet."""
    WAITING = "waiting"
    """The container waits for its command."""
    RUNNING = "running"
    """The command runs."""
    UPLOADING = "uploading"
    """The command has ended, its outputs are being uploaded."""
    UNREACHABLE = "unreachable"
    """The instance is there, but the container has been silent for too long."""
    FINISHED = "finished"
    """Done, exit code 0, outputs in the bucket."""
    FAILED = "failed"
    """Ended in another way; the record's `exit` says how."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    LOST = "lost"
    """The instance went away before the experiment was done."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in _FINAL

    @property
    def is_good(self) -> bool:
        """Whether it ended well."""
        return self is ExperimentStatus.FINISHED


_FINAL = frozenset(
    {
        ExperimentStatus.FINISHED,
        ExperimentStatus.FAILED,
        ExperimentStatus.CANCELLED,
        ExperimentStatus.LOST,
    }
)


# ---------------------------------------------------------------------------- specs


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One training: a command, and the name under which it is known everywhere."""

    id: str
    """`<sweep>-<number>`; also the instance's name."""
    command: str
    """A line for `/bin/sh -c` in the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A named set of experiments, validated.

    Raises:
        InvalidRequest: No commands, too many, an empty one, or a name that Google would refuse.
    """

    name: str
    experiments: tuple[Experiment, ...]
    template: str | None = None
    """Instance template; None: the setting's."""
    zone: str | None = None
    bucket: str | None = None
    dispatch: Dispatch = Dispatch.SSH

    def __post_init__(self) -> None:
        check_sweep_name(self.name)
        if not self.experiments:
            raise InvalidRequest(
                f"sweep {self.name}: no experiments",
                resource=f"sweep {self.name}",
                hint="give at least one command",
            )
        if len(self.experiments) > MAX_EXPERIMENTS:
            raise InvalidRequest(
                f"sweep {self.name}: {len(self.experiments)} experiments, but an instance group "
                f"holds at most {MAX_EXPERIMENTS}",
                resource=f"sweep {self.name}",
                hint="split it into several sweeps",
            )
        for experiment in self.experiments:
            if not experiment.command.strip():
                raise InvalidRequest(
                    f"sweep {self.name}: the command of {experiment.id} is empty",
                    resource=f"sweep {self.name}",
                )

    @classmethod
    def of_commands(
        cls,
        name: str,
        commands: list[str] | tuple[str, ...],
        *,
        template: str | None = None,
        zone: str | None = None,
        bucket: str | None = None,
        dispatch: Dispatch = Dispatch.SSH,
    ) -> Self:
        """Number the commands from 1 in their order."""
        return cls(
            name=name,
            experiments=tuple(
                Experiment(id=experiment_id(name, number), command=command)
                for number, command in enumerate(commands, start=1)
            ),
            template=template,
            zone=zone,
            bucket=bucket,
            dispatch=dispatch,
        )


def check_sweep_name(name: str) -> str:
    """Return the name, if Google takes it as a group's name with an experiment's number after it.

    Raises:
        InvalidRequest: It doesn't.
    """
    if _SWEEP_NAME.fullmatch(name):
        return name
    raise InvalidRequest(
        f"name: {name!r} can't name a sweep",
        resource=f"sweep {name}",
        hint="use 1 to 54 lower-case letters, digits and hyphens, a letter first, no hyphen last",
    )


def experiment_id(sweep: str, number: int) -> str:
    """The id of a sweep's experiment, numbered from 1."""
    return f"{sweep}-{number:04d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a sweep is: written once into the bucket, before any instance exists."""

    sweep: str
    created: datetime
    project: str
    zone: str
    template: str
    dispatch: Dispatch
    launcher: Mapping[str, str]
    """Who launched it: `user`, `host`, `version`."""
    experiments: tuple[Experiment, ...]

    def to_json(self) -> str:
        """The object's content."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "sweep": self.sweep,
                "created": timestamp(self.created),
                "project": self.project,
                "zone": self.zone,
                "template": self.template,
                "dispatch": str(self.dispatch),
                "launcher": dict(self.launcher),
                "experiments": [{"id": e.id, "command": e.command} for e in self.experiments],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read it back.

        Raises:
            InvalidRequest: It is not a manifest, or one of another schema.
        """
        content = _document(text, "manifest")
        try:
            return cls(
                sweep=str(content["sweep"]),
                created=parse_time(content["created"]),
                project=str(content["project"]),
                zone=str(content["zone"]),
                template=str(content["template"]),
                dispatch=Dispatch(content.get("dispatch", "ssh")),
                launcher={str(k): str(v) for k, v in content.get("launcher", {}).items()},
                experiments=tuple(
                    Experiment(id=str(e["id"]), command=str(e["command"]))
                    for e in content["experiments"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"the manifest is broken: {error!r}") from error


# --------------------------------------------------------------------- observations


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A Compute Engine VM as `instances.list` shows it."""

    name: str
    zone: str
    status: str
    """Compute Engine's own word: PROVISIONING, STAGING, RUNNING, STOPPING, ..."""
    machine_type: str = ""
    address: str = ""
    """The address to reach it at: external if there is one."""
    internal_address: str = ""
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A managed instance as `listManagedInstances` shows it."""

    name: str
    id: str = ""
    """The instance's numeric id; "" while there is none."""
    action: str = "NONE"
    """What the group is doing with it: CREATING, VERIFYING, DELETING, NONE, ..."""
    status: str = ""
    """The instance's status, "" while there is none."""
    error_code: str = ""
    """Why the last try to create it failed, such as ZONE_RESOURCE_POOL_EXHAUSTED."""
    error_message: str = ""

    @property
    def is_up(self) -> bool:
        """Whether the instance is there and stays."""
        return self.status == "RUNNING" and self.action not in {"DELETING", "ABANDONING"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A managed instance group."""

    name: str
    zone: str
    template: str
    target_size: int
    created: datetime | None = None
    is_stable: bool = False
    actions: Mapping[str, int] = field(default_factory=dict)
    """How many members are in which action, zeros left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container as the Docker engine of an instance shows it."""

    instance: str
    id: str
    name: str
    image: str
    state: str
    """Docker's word: created, running, exited, ..."""
    status: str = ""
    """Docker's sentence, such as `Up 3 minutes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the training has come."""

    episode: int | None = None
    episodes: int | None = None
    timesteps: int | None = None
    total_timesteps: int | None = None
    mean_reward: float | None = None

    @property
    def fraction(self) -> float | None:
        """0 to 1, where it is known."""
        if not self.total_timesteps or self.timesteps is None:
            return None
        return min(1.0, self.timesteps / self.total_timesteps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the command ended."""

    code: int | None
    signal: str | None
    kind: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the runner says of its experiment."""

    experiment: str
    attempt: int
    state: str
    instance_id: str = ""
    started: datetime | None = None
    updated: datetime | None = None
    ended: datetime | None = None
    progress: Progress = field(default_factory=Progress)
    exit: Exit | None = None
    mlflow_run: str = ""
    mlflow_url: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    """Of the object, for a conditional replacement."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The whole document, so that a replacement keeps what this version doesn't know."""

    @property
    def is_final(self) -> bool:
        """Whether the attempt is over for good."""
        return self.state in {"finished", "failed", "cancelled", "idle"}

    @classmethod
    def from_json(cls, text: str | bytes, *, generation: int = 0) -> Self:
        """Read a record.

        Raises:
            InvalidRequest: It is not a record, or one of another schema.
        """
        content = _document(text, "record")
        progress, end = content.get("progress") or {}, content.get("exit")
        run = content.get("mlflow") or {}
        try:
            return cls(
                experiment=str(content["experiment"]),
                attempt=int(content["attempt"]),
                state=str(content["state"]),
                instance_id=str(content.get("instance_id") or ""),
                started=_optional_time(content.get("started")),
                updated=_optional_time(content.get("updated")),
                ended=_optional_time(content.get("ended")),
                progress=Progress(
                    **{name: progress.get(name) for name in Progress.__dataclass_fields__}
                ),
                exit=Exit(
                    code=end.get("code"),
                    signal=end.get("signal"),
                    kind=str(end.get("kind") or "error"),
                    hint=str(end.get("hint") or ""),
                )
                if end
                else None,
                mlflow_run=str(run.get("run_id") or ""),
                mlflow_url=str(run.get("url") or ""),
                versions={str(k): str(v) for k, v in (content.get("versions") or {}).items()},
                generation=generation,
                raw=content,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"the record is broken: {error!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One experiment: what was asked for, and all that is seen of it. A row of a table."""

    experiment: Experiment
    member: Member | None
    record: Record | None
    status: ExperimentStatus
    reason: str = ""
    """Why it is so, in a few words, where there is more to say than the status."""

    @property
    def id(self) -> str:
        """The experiment's id."""
        return self.experiment.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One frozen view of a sweep."""

    manifest: Manifest
    bucket: str
    rows: tuple[Observation, ...]
    taken: datetime
    group_exists: bool

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.manifest.sweep

    @property
    def counts(self) -> Mapping[ExperimentStatus, int]:
        """How many experiments are in which status, in the order of `ExperimentStatus`."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in ExperimentStatus if found[status]}

    @property
    def is_final(self) -> bool:
        """Whether every experiment has come to its end."""
        return all(row.status.is_final for row in self.rows)

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is left on Compute Engine."""
        return not self.group_exists and all(row.member is None for row in self.rows)

    @property
    def is_good(self) -> bool:
        """Whether every experiment finished well."""
        return all(row.status.is_good for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSummary:
    """A sweep in a list of sweeps."""

    name: str
    created: datetime | None
    experiments: int
    group: Group | None
    """None: no VM of it is left."""


def status_of(
    member: Member | None, record: Record | None, *, now: datetime, group_exists: bool
) -> tuple[ExperimentStatus, str]:
    """Derive an experiment's status, and the reason where there is one.

    The record's last word counts before all else: what is finished stays finished whatever
    the group shows. Then Compute Engine's view, then the record's liveness.
    """
    if record is not None and record.is_final:
        return _final_status(record)
    if member is None:
        return _without_instance(record, group_exists=group_exists)
    if member.error_code and member.status != "RUNNING":
        return ExperimentStatus.QUEUED, member.error_code
    if member.action in {"DELETING", "ABANDONING"}:
        return ExperimentStatus.LOST, "its instance is being deleted"
    if member.status != "RUNNING":
        return ExperimentStatus.PROVISIONING, member.action.lower()
    if record is None:
        return ExperimentStatus.STARTING, ""
    if record.instance_id and member.id and record.instance_id != member.id:
        return ExperimentStatus.STARTING, f"attempt {record.attempt + 1}, on a new instance"
    if record.updated is not None and now - record.updated > HEARTBEAT_LATE:
        silent = int((now - record.updated).total_seconds())
        return ExperimentStatus.UNREACHABLE, f"no word for {silent} s"
    try:
        return ExperimentStatus(record.state), ""
    except ValueError:  # a newer runner's word for something that is not final
        return ExperimentStatus.RUNNING, record.state


def _final_status(record: Record) -> tuple[ExperimentStatus, str]:
    reason = record.exit.hint if record.exit else ""
    match record.state:
        case "finished":
            return ExperimentStatus.FINISHED, ""
        case "cancelled":
            return ExperimentStatus.CANCELLED, reason
        case "idle":
            return ExperimentStatus.FAILED, reason or "no command came"
        case _:
            return ExperimentStatus.FAILED, reason


def _without_instance(
    record: Record | None, *, group_exists: bool
) -> tuple[ExperimentStatus, str]:
    if record is not None:
        return ExperimentStatus.LOST, f"its instance is gone while {record.state}"
    if group_exists:
        return ExperimentStatus.PENDING, "no instance yet"
    return ExperimentStatus.PENDING, "no instance group: the launch was interrupted"


# ------------------------------------------------------------------------------ text


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, with a Z, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Read RFC 3339; without an offset it is UTC.

    Raises:
        ValueError: It is not a time.
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _optional_time(text: str | None) -> datetime | None:
    return parse_time(text) if text else None


def _document(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"the {what} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"the {what} is not a JSON object")
    if content.get("schema") != SCHEMA:
        raise InvalidRequest(
            f"the {what} has schema {content.get('schema')!r}, this version reads {SCHEMA}",
            hint="use the gcloud-ops that launched the sweep, or a newer one",
        )
    return content
