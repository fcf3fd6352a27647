"""The nouns: what people ask for (specs) and what the cloud shows (observations).

All are frozen. Specs go out, observations come back; an experiment's status is never stored:
`status_of` derives it from the observations, and is the only place that does.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from gcloud_ops.bounds import (
    check_machine_type,
    check_retry,
    check_sweep_name,
    check_zones,
    experiment_id,
    region_of,
)
from gcloud_ops.contract import Dispatch, Experiment, Manifest, Record, Retry
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.failures import explain, waits_for

__all__ = [
    "ALERT_EACH",
    "MAX_EXPERIMENTS",
    "Container",
    "ExperimentStatus",
    "Group",
    "Instance",
    "Location",
    "Member",
    "Observation",
    "Snapshot",
    "Sweep",
    "SweepSummary",
    "check_sweep_name",
    "experiment_id",
    "region_of",
    "spent_by",
    "status_of",
]

MAX_EXPERIMENTS = 1000
"""Members of a zonal managed instance group, at most (Compute Engine's limit)."""

ALERT_EACH = 20
"""Experiments of a sweep, at most, whose ends are announced one by one unless asked otherwise."""

HEARTBEAT_LATE = timedelta(seconds=90)
"""A running record that is older than three heartbeats says that the contact is lost."""


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
    RETRYING = "retrying"
    """The command failed; the runner will try it again in a while, on the same instance."""
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
    zones: tuple[str, ...] = ()
    """Zones of one region, any of which may have instances (a regional group); none: `zone`."""
    bucket: str | None = None
    dispatch: Dispatch = Dispatch.BOOT
    machine_types: tuple[str, ...] = ()
    """Machine types, the preferred one first, each taken when those before are not to be had;
    none: the template's."""
    image: str | None = None
    """Image in place of the template's, by its digest: `NAME@sha256:...`."""
    spot: bool = False
    """Whether the instances are Spot VMs: cheaper, and taken away at any time."""
    retry: Retry | None = None
    """Which failures the runner tries again by itself; None: none."""
    hours: float | None = None
    """Hours that one experiment is expected to take: for the plan's cost, and for nothing else."""
    max_hours: float | None = None
    """Hours that one experiment may take on instances; Google ends its VM then."""
    max_cost: float | None = None
    """US dollars that the sweep may cost: becomes a limit of hours of each experiment."""
    alert_each: bool | None = None
    """Whether each experiment's end is announced; None: where there are at most `ALERT_EACH`."""

    @property
    def announces_each(self) -> bool:
        """Whether each experiment's end is announced; if not, failures and the sweep's end are."""
        if self.alert_each is not None:
            return self.alert_each
        return len(self.experiments) <= ALERT_EACH

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
        check_zones(self.zones)
        for machine_type in self.machine_types:
            check_machine_type(machine_type, field="machines")
        if len(set(self.machine_types)) < len(self.machine_types):
            raise InvalidRequest("machines: one is there twice")
        for field_, value in (
            ("hours", self.hours),
            ("max_hours", self.max_hours),
            ("max_cost", self.max_cost),
        ):
            if value is not None and not 0 < value < math.inf:
                raise InvalidRequest(f"{field_}: {value} is not a number above 0")
        if self.retry is not None:
            check_retry(self.retry)

    def renamed(self, name: str) -> Self:
        """The same sweep under another name, its experiments numbered anew."""
        experiments = tuple(
            replace(experiment, id=experiment_id(name, number))
            for number, experiment in enumerate(self.experiments, start=1)
        )
        return replace(self, name=name, experiments=experiments)

    @classmethod
    def of_commands(
        cls,
        name: str,
        commands: list[str] | tuple[str, ...],
        *,
        template: str | None = None,
        zone: str | None = None,
        bucket: str | None = None,
        dispatch: Dispatch = Dispatch.BOOT,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where an instance group is: in a zone, or in a region with the zones that it may use."""

    zone: str = ""
    """"" for a regional group."""
    region: str = ""
    """"" for a zonal group."""
    zones: tuple[str, ...] = ()
    """Of a regional group that is to be made, the zones that its instances may be in."""

    def __str__(self) -> str:
        return self.zone or self.region

    @classmethod
    def of(cls, place: "Manifest | Group") -> Self:
        """Where a sweep's group is to be, or where a group is."""
        if isinstance(place, Group):
            return cls(zone=place.zone, region=place.region)
        if place.zones:
            return cls(region=region_of(place.zones[0]), zones=place.zones)
        return cls(zone=place.zone)


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
    external_address: str = ""
    """"" where it has none: from outside its network it is reached through IAP."""
    internal_address: str = ""
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A managed instance as `listManagedInstances` shows it."""

    name: str
    zone: str = ""
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
    """A managed instance group, zonal or regional."""

    name: str
    zone: str
    """"" for a regional one."""
    template: str
    target_size: int
    created: datetime | None = None
    is_stable: bool = False
    actions: Mapping[str, int] = field(default_factory=dict)
    """How many members are in which action, zeros left out."""
    region: str = ""
    """"" for a zonal one."""


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
    member: Member | None,
    record: Record | None,
    *,
    now: datetime,
    group_exists: bool,
    seconds: int | None = None,
) -> tuple[ExperimentStatus, str]:
    """Derive an experiment's status, and the reason where there is one.

    The record's last word counts before all else: what is finished stays finished whatever
    the group shows. Then Compute Engine's view, then the record's liveness. Who waits for an
    instance is never lost, however long it takes.

    Args:
        member: The experiment's member of the group; None: it has none.
        record: Its record; None: there is none yet.
        now: The time.
        group_exists: Whether the sweep's group is there.
        seconds: How long it may take on instances; None: no limit.
    """
    if record is not None and record.is_final:
        return _final_status(record)
    if member is None:
        return _without_instance(record, now=now, group_exists=group_exists, seconds=seconds)
    if member.error_code and member.status != "RUNNING":
        return ExperimentStatus.QUEUED, waits_for(member.error_code, member.error_message)
    if member.action in {"DELETING", "ABANDONING"}:
        if record is not None and record.state == "again":
            return ExperimentStatus.PROVISIONING, "its old instance is being deleted"
        return ExperimentStatus.LOST, "its instance is being deleted"
    if member.status != "RUNNING":
        return ExperimentStatus.PROVISIONING, member.action.lower()
    if record is None:
        return ExperimentStatus.STARTING, ""
    if record.instance_id and member.id and record.instance_id != member.id:
        return ExperimentStatus.STARTING, f"attempt {record.attempt + 1}, on a new instance"
    if record.state == "again":
        return ExperimentStatus.STARTING, f"attempt {record.attempt + 1}"
    if record.updated is not None and now - record.updated > HEARTBEAT_LATE:
        silent = int((now - record.updated).total_seconds())
        return ExperimentStatus.UNREACHABLE, f"no word for {silent} s"
    try:
        status = ExperimentStatus(record.state)
    except ValueError:  # a newer runner's word for something that is not final
        return ExperimentStatus.RUNNING, record.state
    return status, _why_retrying(record) if status is ExperimentStatus.RETRYING else ""


def _final_status(record: Record) -> tuple[ExperimentStatus, str]:
    reason = record.exit.hint if record.exit else ""
    match record.state:
        case "finished":
            return ExperimentStatus.FINISHED, ""
        case "cancelled":
            return ExperimentStatus.CANCELLED, reason
        case "failed" if record.exit is not None and record.exit.kind == "lost":
            return ExperimentStatus.LOST, reason
        case "idle":
            return ExperimentStatus.FAILED, reason or "no command came"
        case _:
            return ExperimentStatus.FAILED, reason


def _without_instance(
    record: Record | None, *, now: datetime, group_exists: bool, seconds: int | None
) -> tuple[ExperimentStatus, str]:
    if record is not None and record.state == "again":
        return ExperimentStatus.PENDING, "to run again: no instance yet"
    if record is not None:
        if seconds is not None and spent_by(record, now) >= seconds:
            hours = f"{seconds / 3600:.2f}".rstrip("0").rstrip(".")
            return ExperimentStatus.LOST, f"out of time: its limit of {hours} h is used up"
        return ExperimentStatus.LOST, f"its instance is gone while {record.state}"
    if group_exists:
        return ExperimentStatus.PENDING, "no instance yet"
    return ExperimentStatus.PENDING, "no instance group: the launch was interrupted"


def spent_by(record: Record, now: datetime) -> float:
    """Seconds that an experiment has taken on instances, all attempts since its last rerun."""
    if record.started is None:
        return record.spent
    return record.spent + max(0.0, ((record.ended or now) - record.started).total_seconds())


def _why_retrying(record: Record) -> str:
    if not record.history:
        return f"after attempt {record.attempt}"
    last = record.history[-1]
    why = f"attempt {last.number}: {explain(last.kind).words}"
    return f"{why}: {last.hint}" if last.hint else why
