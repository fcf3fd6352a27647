"""How a sweep comes to be: what is checked first, and each step from the bucket to the commands.

    plan    check everything that can be checked, create nothing (`planning`)
    launch  bucket -> manifest -> group -> instances by name (-> commands over SSH), as events
    resume  go on with a launch that was interrupted, from whatever it had come to

The cloud is the database: a launcher that is killed loses nothing but its own view. What it had
done is in the bucket and on Compute Engine, where `sweeps.status` finds it, and `resume` and
`sweeps.cancel` take it up.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from gcloud_ops import groups, objects, ssh
from gcloud_ops.bucket import (
    create_manifest,
    delete_sweep,
    list_records,
    read_manifest,
    write_difference,
)
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Experiment, Manifest, Record
from gcloud_ops.delivering import (
    FOR_CONTAINER,
    FOR_GROUP,
    FOR_INSTANCE,
    DeliveryEvent,
    GroupGone,
    InstanceUp,
    Launched,
    Stalled,
    deliver,
)
from gcloud_ops.dispatch import AT_ONCE, CommandSent, DispatchFailed
from gcloud_ops.errors import GcloudOpsError, OperationFailed, PermissionDenied, Unavailable
from gcloud_ops.finishing import remove_marker
from gcloud_ops.model import Location, Member
from gcloud_ops.planning import LaunchPlan, free_name, manifest_of, plan
from gcloud_ops.raising import (
    BUCKET_KEY,
    FOR_CLOUD,
    FOR_REMOVAL,
    PATIENCE,
    GroupMade,
    InstancesRequested,
    Waiting,
    raise_members,
)

__all__ = [
    "BUCKET_KEY",
    "FOR_CLOUD",
    "FOR_CONTAINER",
    "FOR_GROUP",
    "FOR_INSTANCE",
    "FOR_REMOVAL",
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
    "NothingToDo",
    "Reopened",
    "Stalled",
    "Waiting",
    "bring_up",
    "check_key",
    "free_name",
    "launch",
    "plan",
    "resume",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketMade:
    """The bucket wasn't there and is now."""

    bucket: str
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """Experiments that had ended are to run again: their records say so."""

    experiments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingToDo:
    """There is nothing to go on with; nothing was changed."""

    why: str


type LaunchEvent = (
    BucketMade | GroupMade | InstancesRequested | Reopened | NothingToDo | DeliveryEvent
)


def launch(
    planned: LaunchPlan,
    clients: Clients,
    *,
    patience: float = PATIENCE,
    at_once: int = AT_ONCE,
) -> Iterator[LaunchEvent]:
    """Do what the plan says, telling each step; ends with `Launched`.

    Where commands are read at boot, the launch is over when Compute Engine has accepted to create
    the instances: they need nobody from then on. Over SSH it goes on as `deliver` does.
    Close the generator, or kill the process, at any moment: `resume` and `cancel` take over.

    Args:
        planned: From `plan`.
        clients: The cloud.
        patience: Seconds without any movement or training, and seconds that a running instance
            has to take its command.
        at_once: SSH handshakes and commands under way at once, at most.

    Raises:
        AlreadyExists: Somebody has launched a sweep of that name since it was planned.
        Unavailable: The cloud has not answered for the patience; what was made stays.
        GcloudOpsError: The group or its instances are refused; what was made is removed again,
            unless there are instances already.
    """
    sweep, bucket = planned.sweep, planned.bucket
    if not planned.bucket_exists:
        location = clients.settings.bucket_location
        if objects.ensure_bucket(clients, bucket, location=location):
            yield BucketMade(bucket=bucket, location=location)
    manifest = manifest_of(planned)
    create_manifest(clients, bucket, manifest)
    if planned.difference:
        write_difference(clients, bucket, sweep.name, planned.difference)
    is_made = is_requested = False
    try:
        for event in bring_up(
            clients,
            manifest,
            sweep.experiments,
            bucket=bucket,
            is_new=True,
            patience=patience,
            at_once=at_once,
        ):
            is_made = is_made or isinstance(event, GroupMade)
            is_requested = is_requested or isinstance(event, InstancesRequested)
            yield event
    except (Unavailable, OperationFailed):
        raise
    except GcloudOpsError:
        if not is_requested:  # nothing has run, so nothing is lost: leave no half-made sweep
            _undo(clients, manifest, bucket, is_made=is_made)
        raise


def resume(
    name: str,
    clients: Clients,
    *,
    bucket: str | None = None,
    patience: float = PATIENCE,
    at_once: int = AT_ONCE,
) -> Iterator[LaunchEvent]:
    """Go on with a launch that was interrupted, whatever it had come to; safe to call at any time.

    Each experiment that is not at its end gets an instance, unless it has one. Those that run
    are left alone, and those that have ended stay so.

    Args:
        name: The sweep's.
        clients: The cloud.
        bucket: Where it is; None: the setting's.
        patience: As of `launch`.
        at_once: As of `launch`.

    Raises:
        NotFound: There is no such sweep in the bucket.
        GcloudOpsError: As `raising.raise_members` does. What there is stays.
    """
    bucket = bucket or clients.settings.bucket_name
    manifest = read_manifest(clients, bucket, name)
    # Members before records: who is gone from the group has written its last record.
    listing = groups.list_members(clients, name, where=Location.of(manifest))
    members = {member.name: member for member in listing or ()}
    records = list_records(clients, bucket, name)
    wanted = [
        experiment
        for experiment in manifest.experiments
        if _is_open(experiment, members, records, manifest.dispatch)
    ]
    if not wanted:
        yield NothingToDo(why=_why_nothing(manifest, records))
        return
    if listing is not None and manifest.dispatch is Dispatch.SSH:
        check_key(clients, manifest)
    if not all(experiment.id in members for experiment in wanted):
        remove_marker(clients, bucket, manifest)  # a cancel that was interrupted, too
    yield from bring_up(
        clients, manifest, wanted, bucket=bucket, patience=patience, at_once=at_once
    )


def bring_up(
    clients: Clients,
    manifest: Manifest,
    experiments: Collection[Experiment],
    *,
    bucket: str,
    leaving: Mapping[str, str] | None = None,
    is_new: bool = False,
    patience: float = PATIENCE,
    at_once: int = AT_ONCE,
) -> Iterator[GroupMade | InstancesRequested | DeliveryEvent]:
    """Give experiments their instances, and over SSH their commands; ends with `Launched`.

    The arguments are those of `raise_members` and of `deliver`, and so are the errors.
    """
    yield from raise_members(
        clients,
        manifest,
        [experiment.id for experiment in experiments],
        bucket=bucket,
        leaving=leaving,
        is_new=is_new,
        patience=patience,
    )
    if manifest.dispatch is Dispatch.BOOT:
        yield Launched(sent=len(experiments), failed=0, waiting=0, at_boot=True)
        return
    yield from deliver(
        clients, manifest, experiments, bucket=bucket, patience=patience, at_once=at_once
    )


def check_key(clients: Clients, manifest: Manifest) -> None:
    """Refuse to go on with a sweep over SSH whose instances don't let our key in.

    Its experiments would be given up one by one, though their own launcher may be at work.

    Raises:
        PermissionDenied: They have another's key.
    """
    found = groups.instances_metadata(clients, manifest.sweep, where=Location.of(manifest))
    if found is None or ssh.public_key_line(clients.settings) in found.get("ssh-keys", ""):
        return
    by = manifest.launcher.get("user", "somebody"), manifest.launcher.get("host", "elsewhere")
    raise PermissionDenied(
        f"sweep {manifest.sweep}: its instances take commands over SSH from another key than ours",
        resource=f"sweep {manifest.sweep}",
        hint=f"{by[0]} launched it on {by[1]}: go on with it there",
    )


def _is_open(
    experiment: Experiment,
    members: Mapping[str, Member],
    records: Mapping[str, Record],
    dispatch: Dispatch,
) -> bool:
    """Whether an experiment has no instance, or over SSH perhaps no command."""
    member, record = members.get(experiment.id), records.get(experiment.id)
    if record is not None and record.is_final:
        return False
    if member is None:
        return True
    if dispatch is Dispatch.BOOT:
        return False
    has_begun = record is not None and record.state not in {"waiting", "again"}
    return not (has_begun and record is not None and record.instance_id == member.id)


def _why_nothing(manifest: Manifest, records: Mapping[str, Record]) -> str:
    ended = sum(record.is_final for record in records.values())
    if ended < len(manifest.experiments):
        return "every experiment that is not at its end has its instance"
    bad = sum(record.state != "finished" for record in records.values())
    if not bad:
        return "every experiment has finished"
    again = f"gcloud-ops sweep rerun {manifest.sweep} --failed"
    return f"every experiment has ended, {bad} of them not well: `{again}` runs those again"


def _undo(clients: Clients, manifest: Manifest, bucket: str, *, is_made: bool) -> None:
    with suppress(GcloudOpsError):  # why the launch failed says more
        if is_made:
            groups.delete_group(clients, manifest.sweep, where=Location.of(manifest))
        delete_sweep(clients, bucket, manifest.sweep)
