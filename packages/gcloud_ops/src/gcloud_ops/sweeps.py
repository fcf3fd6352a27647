"""Sweeps, from plan to deletion: the deep module.

    plan    check everything that can be checked, create nothing
    launch  bucket -> manifest -> group of size 0 -> instances by name -> commands, as events
    status  one frozen `Snapshot`: two API calls, whatever the number of instances
    watch   snapshots until nothing more will happen
    cancel  take the instances away and say so in the records
    delete  and the objects in the bucket too

The cloud is the database: a launcher that is killed loses nothing but its own view. What it had
done is in the bucket and on Compute Engine, where `status` finds it and `cancel` takes it up.
"""

import getpass
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from gcloud_ops import groups, instances, objects, ssh, templates
from gcloud_ops.bucket import (
    create_manifest,
    list_manifests,
    list_records,
    read_manifest,
    replace_record,
)
from gcloud_ops.clients import Clients
from gcloud_ops.contract import SCHEMA, Dispatch, Manifest, Record, timestamp
from gcloud_ops.dispatch import (
    AT_ONCE,
    CommandSent,
    Dispatcher,
    DispatchFailed,
    raise_open_files_limit,
)
from gcloud_ops.errors import (
    AlreadyExists,
    GcloudOpsError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from gcloud_ops.model import (
    ExperimentStatus,
    Member,
    Observation,
    Snapshot,
    Sweep,
    SweepSummary,
    status_of,
)

__all__ = [
    "BucketMade",
    "CommandSent",
    "DispatchFailed",
    "GroupMade",
    "InstanceUp",
    "InstancesRequested",
    "LaunchEvent",
    "LaunchPlan",
    "Launched",
    "Places",
    "Stalled",
    "SweepWatch",
    "Waiting",
    "cancel",
    "delete",
    "free_name",
    "launch",
    "list_sweeps",
    "places",
    "plan",
    "status",
    "watch",
]

BUCKET_KEY = "sinergym-bucket"
"""Metadata key with the bucket's name."""

PATIENCE = 1800.0
"""Seconds for which a launch waits without anything moving, before it gives up waiting."""

_TICK = 1.0  # seconds between two looks at the group
_JUST_LAUNCHED = timedelta(minutes=2)


# ---------------------------------------------------------------------------- launch


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """What a launch will do; made by `plan`, which has checked that it can."""

    sweep: Sweep
    project: str
    zone: str
    bucket: str
    bucket_exists: bool
    template: templates.Template

    @property
    def instances(self) -> int:
        """How many VMs it takes."""
        return len(self.sweep.experiments)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketMade:
    """The bucket wasn't there and is now."""

    bucket: str
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMade:
    """The manifest is written and the group is there, without instances yet."""

    group: str
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesRequested:
    """Compute Engine has accepted to create the instances."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceUp:
    """An instance runs; its container is on the way."""

    experiment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the experiments that have no command yet wait for; told when it changes."""

    reasons: Mapping[str, int]
    """Reason -> how many wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """Nothing has moved for the launch's patience: it stops waiting; the sweep stays as it is."""

    experiments: tuple[str, ...]
    reasons: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The launch is over: the last event."""

    sent: int
    failed: int
    waiting: int

    @property
    def is_complete(self) -> bool:
        """Whether every experiment has its command."""
        return not self.failed and not self.waiting


type LaunchEvent = (
    BucketMade
    | GroupMade
    | InstancesRequested
    | InstanceUp
    | Waiting
    | CommandSent
    | DispatchFailed
    | Stalled
    | Launched
)


def plan(sweep: Sweep, clients: Clients) -> LaunchPlan:
    """Check all that a launch needs, and create nothing.

    Raises:
        InvalidRequest: No project, or the zone is not of a zone's form.
        NotFound: The template or the zone isn't there.
        AlreadyExists: A sweep or an instance group of that name is.
        CredentialsMissing, PermissionDenied, Unavailable: The cloud doesn't let us look.
    """
    settings = clients.settings
    project = settings.require_project()
    zone = sweep.zone or settings.zone
    bucket = sweep.bucket or settings.bucket_name
    if not instances.zone_exists(clients, zone):
        raise NotFound(
            f"zone: there is no zone {zone!r} in project {project}",
            resource=f"zone {zone}",
            hint="see `gcloud compute zones list`",
        )
    template = templates.get_template(clients, sweep.template or settings.template)
    bucket_exists = objects.bucket_exists(clients, bucket)
    if bucket_exists and _manifest_exists(clients, bucket, sweep.name):
        raise AlreadyExists(
            f"name: there is a sweep {sweep.name!r} in gs://{bucket} already",
            resource=f"sweep {sweep.name}",
            hint="choose another name, or remove it with `gcloud-ops sweep delete`",
        )
    if groups.get_group(clients, sweep.name, zone=zone) is not None:
        raise AlreadyExists(
            f"name: there is an instance group {sweep.name!r} in {zone} already",
            resource=f"group {sweep.name}",
            hint="choose another name",
        )
    return LaunchPlan(
        sweep=sweep,
        project=project,
        zone=zone,
        bucket=bucket,
        bucket_exists=bucket_exists,
        template=template,
    )


def free_name(name: str, clients: Clients, *, bucket: str | None = None) -> str:
    """The name itself, or `<name>-2`, `<name>-3`...: the first that no sweep in the bucket has."""
    bucket = bucket or clients.settings.bucket_name
    taken = {found.name for found in list_manifests(clients, bucket)}
    candidates = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def launch(
    planned: LaunchPlan,
    clients: Clients,
    *,
    patience: float = PATIENCE,
    at_once: int = AT_ONCE,
) -> Iterator[LaunchEvent]:
    """Do what the plan says, telling each step; ends with `Launched`.

    It goes on for as long as something moves. An instance that Compute Engine can't create now
    (a stock-out) is waited for; so is a container that is slow to start. After `patience` seconds
    in which nothing moved it gives up waiting, with the reason; the sweep stays as it is.
    Close the generator, or kill the process, at any moment: `status` and `cancel` take over.

    Args:
        planned: From `plan`.
        clients: The cloud.
        patience: Seconds without any movement, and seconds that a running instance has to
            take its command.
        at_once: SSH handshakes and commands under way at once, at most.

    Raises:
        AlreadyExists: Somebody has launched a sweep of that name since it was planned.
        GcloudOpsError: The group or its instances can't be made; what was made is removed again.
    """
    sweep = planned.sweep
    if not planned.bucket_exists:
        location = clients.settings.bucket_location
        if objects.ensure_bucket(clients, planned.bucket, location=location):
            yield BucketMade(bucket=planned.bucket, location=location)
    create_manifest(clients, planned.bucket, _manifest(planned))
    try:
        groups.create_group(
            clients,
            sweep.name,
            planned.template.name,
            zone=planned.zone,
            metadata={
                instances.SWEEP_LABEL: sweep.name,
                BUCKET_KEY: planned.bucket,
                "ssh-keys": ssh.public_key_line(clients.settings),
            },
            labels={instances.SWEEP_LABEL: sweep.name},
        )
        yield GroupMade(group=sweep.name, zone=planned.zone)
        groups.create_instances(
            clients, sweep.name, [e.id for e in sweep.experiments], zone=planned.zone
        )
    except GcloudOpsError:
        # Nothing has run, so nothing is lost: leave no half-made sweep behind.
        groups.delete_group(clients, sweep.name, zone=planned.zone)
        objects.delete_prefix(clients, planned.bucket, f"{sweep.name}/")
        raise
    yield InstancesRequested(count=planned.instances)
    if sweep.dispatch is Dispatch.BOOT:
        yield Launched(sent=planned.instances, failed=0, waiting=0)
        return
    yield from _dispatch(planned, clients, patience=patience, at_once=at_once)


def _dispatch(
    planned: LaunchPlan, clients: Clients, *, patience: float, at_once: int
) -> Iterator[LaunchEvent]:
    """Give each experiment its command as its instance comes up."""
    raise_open_files_limit(planned.instances + 256)
    waiting = {e.id: e.command for e in planned.sweep.experiments}
    under_way: set[str] = set()
    sent = failed = 0
    told: Mapping[str, int] = {}
    last_movement = time.monotonic()
    with Dispatcher(clients, patience=patience, at_once=at_once) as dispatcher:
        while waiting:
            members = {
                member.name: member
                for member in groups.list_members(clients, planned.sweep.name, zone=planned.zone)
                or ()
            }
            fresh = [
                name
                for name in waiting
                if name not in under_way and name in members and members[name].is_up
            ]
            addresses = _addresses(planned, clients) if fresh else {}
            for name in fresh:
                if address := addresses.get(name):
                    dispatcher.send(name, waiting[name], address=address, zone=planned.zone)
                    under_way.add(name)
                    last_movement = time.monotonic()
                    yield InstanceUp(experiment=name)
            for result in _results(dispatcher, within=_TICK):
                waiting.pop(result.experiment)
                last_movement = time.monotonic()
                sent += isinstance(result, CommandSent)
                failed += isinstance(result, DispatchFailed)
                yield result
            reasons = _reasons(waiting, under_way, members)
            if reasons != told:
                told = reasons
                yield Waiting(reasons=reasons)
            stalled_for = time.monotonic() - last_movement
            if waiting and (stalled_for > patience or not members):
                yield Stalled(experiments=tuple(waiting), reasons=reasons, seconds=stalled_for)
                break
    yield Launched(sent=sent, failed=failed, waiting=len(waiting))


def _results(dispatcher: Dispatcher, *, within: float) -> Iterator[CommandSent | DispatchFailed]:
    """What the dispatcher has to tell within so many seconds."""
    end = time.monotonic() + within
    while (left := end - time.monotonic()) > 0:
        try:
            yield dispatcher.results.get(timeout=left)
        except queue.Empty:
            return


def _reasons(
    waiting: Mapping[str, str], under_way: set[str], members: Mapping[str, Member]
) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in waiting:
        member = members.get(name)
        if name in under_way:
            reason = "its container to be ready"
        elif member is None:
            reason = "the group to take it up"
        else:
            reason = member.error_code or "its instance to run"
        counts[reason] = counts.get(reason, 0) + 1
    return counts


def _addresses(planned: LaunchPlan, clients: Clients) -> dict[str, str]:
    found = instances.list_instances(clients, group=planned.sweep.name, zone=planned.zone)
    return {instance.name: instance.address for instance in found}


def _manifest(planned: LaunchPlan) -> Manifest:
    return Manifest(
        sweep=planned.sweep.name,
        created=datetime.now(UTC),
        project=planned.project,
        zone=planned.zone,
        template=planned.template.name,
        dispatch=planned.sweep.dispatch,
        launcher={
            "user": getpass.getuser(),
            "host": platform.node(),
            "version": version("gcloud-ops"),
        },
        experiments=planned.sweep.experiments,
    )


def _manifest_exists(clients: Clients, bucket: str, name: str) -> bool:
    try:
        read_manifest(clients, bucket, name)
    except NotFound:
        return False
    except InvalidRequest:  # one that another version wrote is there all the same
        return True
    return True


# ------------------------------------------------------------------------------ look


class SweepWatch:
    """Looks at one sweep again and again; reads the manifest once.

    Args:
        name: The sweep's.
        clients: The cloud.
        bucket: Where it is; None: the setting's.

    Raises:
        NotFound: There is no such sweep in the bucket.
    """

    def __init__(self, name: str, clients: Clients, *, bucket: str | None = None) -> None:
        self._clients = clients
        self.bucket = bucket or clients.settings.bucket_name
        self.manifest = read_manifest(clients, self.bucket, name)

    def refresh(self) -> Snapshot:
        """Two API calls (one more for every further 1,000 experiments): members, records."""
        # Members before records: who is gone from the group has written its last record.
        members = groups.list_members(self._clients, self.manifest.sweep, zone=self.manifest.zone)
        records = list_records(self._clients, self.bucket, self.manifest.sweep)
        return snapshot(self.manifest, self.bucket, members, records, now=datetime.now(UTC))


def snapshot(
    manifest: Manifest,
    bucket: str,
    members: tuple[Member, ...] | None,
    records: Mapping[str, Record],
    *,
    now: datetime,
) -> Snapshot:
    """Join what is seen by the experiments' ids; `members` is None where there is no group."""
    by_name = {member.name: member for member in members or ()}

    def observe(experiment_name: str) -> tuple[ExperimentStatus, str]:
        return status_of(
            by_name.get(experiment_name),
            records.get(experiment_name),
            now=now,
            group_exists=members is not None,
        )

    return Snapshot(
        manifest=manifest,
        bucket=bucket,
        rows=tuple(
            Observation(
                experiment=experiment,
                member=by_name.get(experiment.id),
                record=records.get(experiment.id),
                status=(found := observe(experiment.id))[0],
                reason=found[1],
            )
            for experiment in manifest.experiments
        ),
        taken=now,
        group_exists=members is not None,
    )


def status(name: str, clients: Clients, *, bucket: str | None = None) -> Snapshot:
    """How the sweep stands.

    Raises:
        NotFound: There is no such sweep in the bucket.
    """
    return SweepWatch(name, clients, bucket=bucket).refresh()


def watch(
    name: str,
    clients: Clients,
    *,
    bucket: str | None = None,
    interval: float = 2.0,
    stop: threading.Event | None = None,
    on_trouble: Callable[[Unavailable], None] = lambda _error: None,
) -> Iterator[Snapshot]:
    """Snapshots, one every `interval` seconds, until nothing more will happen by itself.

    That is: every experiment is at its end and the group is gone; or there is no group and so
    nothing that could go on. An empty group that the last runner could not remove is removed.
    An interruption of the cloud is waited out, for as long as the caller looks on.

    Args:
        name: The sweep's.
        clients: The cloud.
        bucket: Where it is; None: the setting's.
        interval: Seconds.
        stop: Set it to end the watch early.
        on_trouble: Told each time that the cloud did not answer.
    """
    stop = stop or threading.Event()
    looking = SweepWatch(name, clients, bucket=bucket)
    while not stop.is_set():
        try:
            seen = looking.refresh()
        except Unavailable as error:
            on_trouble(error)
            stop.wait(interval)
            continue
        yield seen
        if is_over(seen):
            return
        if seen.group_exists and seen.is_final and not any(row.member for row in seen.rows):
            groups.delete_group(clients, name, zone=looking.manifest.zone)
            continue
        stop.wait(interval)


def is_over(seen: Snapshot) -> bool:
    """Whether nothing more will happen by itself.

    A sweep whose group isn't there yet may just be in the hands of its launcher.
    """
    just_launched = seen.taken - seen.manifest.created < _JUST_LAUNCHED
    return seen.is_gone and (seen.is_final or not just_launched)


def list_sweeps(clients: Clients, *, bucket: str | None = None) -> tuple[SweepSummary, ...]:
    """All sweeps in the bucket, newest first: two API calls."""
    bucket = bucket or clients.settings.bucket_name
    by_name = {group.name: group for group in groups.list_groups(clients)}
    return tuple(
        SweepSummary(
            name=found.name,
            created=found.created,
            experiments=found.experiments,
            group=by_name.get(found.name),
        )
        for found in list_manifests(clients, bucket)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where an experiment's results are."""

    log: str
    output: str
    tensorboard: str
    mlflow: str
    """The run's page, or "" where there is none."""


def places(seen: Snapshot, row: Observation) -> Places:
    """Where to find what an experiment has left."""
    root = f"gs://{seen.bucket}/{seen.name}"
    attempt = row.record.attempt if row.record else 1
    return Places(
        log=f"{root}/{row.id}/log/{attempt}/",
        output=f"{root}/{row.id}/output/",
        tensorboard=f"{root}/tensorboard/{row.id}/",
        mlflow=row.record.mlflow_url if row.record else "",
    )


# ------------------------------------------------------------------------------- end


def cancel(
    name: str,
    clients: Clients,
    *,
    bucket: str | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Snapshot:
    """Take away the group with all its instances, and mark what was unfinished as cancelled.

    What has finished stays finished, and all results stay in the bucket. Idempotent: a cancel
    that was interrupted is simply called again.

    Raises:
        NotFound: There is no such sweep in the bucket.
    """
    looking = SweepWatch(name, clients, bucket=bucket)
    on_step("removing the instance group and its instances")
    # First the instances, then the records: nobody is left then who could write them.
    groups.delete_group(clients, name, zone=looking.manifest.zone)
    seen = looking.refresh()
    unfinished = [row for row in seen.rows if row.record is None or not row.record.is_final]
    on_step(f"marking {len(unfinished)} unfinished experiments as cancelled")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda row: _mark_cancelled(looking, clients, row), unfinished))
    return looking.refresh()


def _mark_cancelled(looking: SweepWatch, clients: Clients, row: Observation) -> None:
    now = timestamp(datetime.now(UTC))
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "sweep": looking.manifest.sweep,
        "experiment": row.id,
        "attempt": 0,
        "command": row.experiment.command,
        **(row.record.raw if row.record else {}),
        "state": "cancelled",
        "updated": now,
        "ended": now,
        "exit": {"code": None, "signal": None, "kind": "cancelled", "hint": "cancelled"},
    }
    generation = row.record.generation if row.record else 0
    try:
        replace_record(
            clients, looking.bucket, looking.manifest.sweep, row.id, content, generation=generation
        )
    except AlreadyExists:
        # Its runner (or another cancel) had the last word after our listing; look again, once.
        fresh = list_records(clients, looking.bucket, looking.manifest.sweep).get(row.id)
        if fresh is not None and not fresh.is_final:
            _mark_cancelled(looking, clients, replace(row, record=fresh))


def delete(
    name: str,
    clients: Clients,
    *,
    bucket: str | None = None,
    force: bool = False,
    on_step: Callable[[str], None] = lambda _step: None,
) -> int:
    """Remove the sweep from the bucket, results and all; returns the number of objects.

    Args:
        name: The sweep's.
        clients: The cloud.
        bucket: Where it is; None: the setting's.
        force: Also when it is still running; its group is removed first.
        on_step: Told what is being done.

    Raises:
        NotFound: There is no such sweep in the bucket.
        InvalidRequest: It is running, and `force` isn't set.
    """
    looking = SweepWatch(name, clients, bucket=bucket)
    if groups.get_group(clients, name, zone=looking.manifest.zone) is not None:
        if not force:
            raise InvalidRequest(
                f"sweep {name} still has instances",
                resource=f"sweep {name}",
                hint=f"cancel it first: gcloud-ops sweep cancel {name}",
            )
        on_step("removing the instance group and its instances")
        groups.delete_group(clients, name, zone=looking.manifest.zone)
    on_step(f"removing gs://{looking.bucket}/{name}/")
    return objects.delete_prefix(clients, looking.bucket, f"{name}/")
