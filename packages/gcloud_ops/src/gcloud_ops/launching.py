"""How a sweep comes to be: what is checked first, and each step from the bucket to the commands.

    plan    check everything that can be checked, create nothing
    launch  bucket -> manifest -> group of size 0 -> instances by name -> commands, as events

The cloud is the database: a launcher that is killed loses nothing but its own view. What it had
done is in the bucket and on Compute Engine, where `sweeps.status` finds it and `sweeps.cancel`
takes it up.
"""

import getpass
import platform
import queue
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from gcloud_ops import groups, instances, objects, ssh, templates
from gcloud_ops.bucket import (
    create_manifest,
    delete_sweep,
    end_record,
    list_manifests,
    list_records,
    read_manifest,
)
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Manifest
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
    NotReady,
    Unavailable,
)
from gcloud_ops.finishing import Announcer
from gcloud_ops.model import Instance, Member, Sweep
from gcloud_ops.text import one_line

__all__ = [
    "BUCKET_KEY",
    "FOR_CLOUD",
    "FOR_CONTAINER",
    "FOR_GROUP",
    "FOR_INSTANCE",
    "PATIENCE",
    "BucketMade",
    "CommandSent",
    "DispatchFailed",
    "GroupGone",
    "GroupMade",
    "InstanceUp",
    "InstancesRequested",
    "LaunchEvent",
    "LaunchPlan",
    "Launched",
    "Stalled",
    "Waiting",
    "free_name",
    "launch",
    "plan",
]

BUCKET_KEY = "sinergym-bucket"
"""Metadata key with the bucket's name."""

PATIENCE = 1800.0
"""Seconds for which a launch waits without anything moving, before it gives up waiting."""

FOR_GROUP = "the group to take it up"
FOR_INSTANCE = "its instance to run"
FOR_CONTAINER = "its container to be ready"
FOR_CLOUD = "the cloud to answer"
"""What an experiment may wait for, besides what Compute Engine gives a code."""

_TICK = 1.0  # seconds between two looks at the group


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
    """What for -> how many: `FOR_GROUP`..., or Compute Engine's code for why it can't create."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """Nothing has moved or trained for the launch's patience: it stops waiting.

    The sweep stays as it is.
    """

    experiments: tuple[str, ...]
    reasons: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGone:
    """The instance group went away meanwhile: somebody has cancelled the sweep."""

    experiments: tuple[str, ...]
    """Those that had no command yet."""


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
    | GroupGone
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
    (a stock-out) is waited for; so is a container that is slow to start. As long as experiments
    that have their commands hold their instances, there is hope: their end frees places. After
    `patience` seconds in which nothing moved and nobody trained it gives up waiting, with the
    reason; the sweep stays as it is. An instance that can't be given its command is removed, and
    its experiment has failed.
    Close the generator, or kill the process, at any moment: `status` and `cancel` take over.

    Args:
        planned: From `plan`.
        clients: The cloud.
        patience: Seconds without any movement or training, and seconds that a running instance
            has to take its command.
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
    manifest = _manifest(planned)
    create_manifest(clients, planned.bucket, manifest)
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
        delete_sweep(clients, planned.bucket, sweep.name)
        raise
    yield InstancesRequested(count=planned.instances)
    if sweep.dispatch is Dispatch.BOOT:
        yield Launched(sent=planned.instances, failed=0, waiting=0)
        return
    announcer = Announcer(clients, planned.bucket, manifest)
    try:
        yield from _dispatch(planned, clients, announcer, patience=patience, at_once=at_once)
        announcer.close()
    finally:
        announcer.close(wait=False)


def _dispatch(
    planned: LaunchPlan,
    clients: Clients,
    announcer: Announcer,
    *,
    patience: float,
    at_once: int,
) -> Iterator[LaunchEvent]:
    """Give each experiment its command as its instance comes up."""
    raise_open_files_limit(planned.instances + 256)
    waiting = {e.id: e.command for e in planned.sweep.experiments}
    under_way: set[str] = set()
    sent: set[str] = set()
    failed = 0
    told: Mapping[str, int] = {}
    last_movement = time.monotonic()
    with Dispatcher(clients, patience=patience, at_once=at_once) as dispatcher:
        members: dict[str, Member] = {}
        while waiting:
            try:
                listing = groups.list_members(clients, planned.sweep.name, zone=planned.zone)
                members = {member.name: member for member in listing or ()}
                fresh = [
                    name
                    for name in waiting
                    if name not in under_way and name in members and members[name].is_up
                ]
                found = _instances(planned, clients) if fresh else {}
            except Unavailable:
                # The laptop may be off the net for a while; what is under way goes on.
                listing, fresh, found, answered = (), [], {}, False
            else:
                answered = True
            if listing is None:
                yield GroupGone(experiments=tuple(waiting))
                break
            for name in fresh:
                if (instance := found.get(name)) and instance.address:
                    dispatcher.send(name, waiting[name], instance=instance)
                    under_way.add(name)
                    last_movement = time.monotonic()
                    yield InstanceUp(experiment=name)
            failures: list[DispatchFailed] = []
            for result in _results(dispatcher, within=_TICK):
                waiting.pop(result.experiment)
                last_movement = time.monotonic()
                if isinstance(result, DispatchFailed):
                    failures.append(result)
                    continue
                sent.add(result.experiment)
                yield result
            announcer.announce(_give_up(planned, clients, failures))
            failed += len(failures)
            yield from failures
            if not sent.isdisjoint(members):
                last_movement = time.monotonic()
            reasons = (
                _reasons(waiting, under_way, members) if answered else {FOR_CLOUD: len(waiting)}
            )
            if waiting and reasons != told:
                told = reasons
                yield Waiting(reasons=reasons)
            stalled_for = time.monotonic() - last_movement
            if waiting and stalled_for > patience:
                yield Stalled(experiments=tuple(waiting), reasons=reasons, seconds=stalled_for)
                break
    yield Launched(sent=len(sent), failed=failed, waiting=len(waiting))


def _give_up(
    planned: LaunchPlan, clients: Clients, failures: list[DispatchFailed]
) -> tuple[str, ...]:
    """Remove instances that can't be given their commands: they would idle, and cost.

    The record goes first, and only over one that waits: whoever has begun to run is left alone.
    What became of the instance is added to the failure's error.

    Returns:
        Those whose final record we have written: their end is ours to signal.
    """
    given_up = [failure for failure in failures if not failure.has_another_command]
    if not given_up:
        return ()
    names: list[str] = []
    sweep, zone = planned.sweep, planned.zone
    experiments = {experiment.id: experiment for experiment in sweep.experiments}
    try:
        records = list_records(clients, planned.bucket, sweep.name)
        ended = [
            failure
            for failure in given_up
            if end_record(
                clients,
                planned.bucket,
                sweep.name,
                experiments[failure.experiment],
                records.get(failure.experiment),
                state="failed",
                kind="dispatch",
                hint="the launcher could not hand over the command: "
                + one_line(failure.error.message),
                only_waiting=True,
            )
        ]
        names = [failure.experiment for failure in ended]
        if names:
            groups.delete_instances(clients, sweep.name, names, zone=zone)
            group = groups.get_group(clients, sweep.name, zone=zone)
            if group is not None and not group.target_size:
                groups.delete_group(clients, sweep.name, zone=zone, wait=False)
        outcomes = dict.fromkeys(names, "its instance is removed")
    except NotReady:  # the group is being deleted, with all of them
        outcomes = {}
    except GcloudOpsError as error:
        problem = f"its instance could not be removed: {one_line(error.message)}"
        outcomes = dict.fromkeys((failure.experiment for failure in given_up), problem)
    for failure in given_up:
        if outcome := outcomes.get(failure.experiment):
            hint = failure.error.hint
            failure.error.hint = f"{hint}; {outcome}" if hint else outcome
    return tuple(names)


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
            reason = FOR_CONTAINER
        elif member is None:
            reason = FOR_GROUP
        else:
            reason = member.error_code or FOR_INSTANCE
        counts[reason] = counts.get(reason, 0) + 1
    return counts


def _instances(planned: LaunchPlan, clients: Clients) -> dict[str, Instance]:
    found = instances.list_instances(clients, group=planned.sweep.name, zone=planned.zone)
    return {instance.name: instance for instance in found}


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
        alert_each=planned.sweep.announces_each,
    )


def _manifest_exists(clients: Clients, bucket: str, name: str) -> bool:
    try:
        read_manifest(clients, bucket, name)
    except NotFound:
        return False
    except InvalidRequest:  # one that another version wrote is there all the same
        return True
    return True
