"""Sweeps that are there: looked at, watched, ended.

    status  one frozen `Snapshot`: two API calls, whatever the number of instances
    watch   snapshots until nothing more will happen
    cancel  take the instances away and say so in the records; of all experiments or of some
    delete  and the objects in the bucket too

The cloud is the database: nothing here remembers anything between two calls but the manifest,
which never changes. How a sweep comes to be is `launching`'s.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gcloud_ops import groups
from gcloud_ops.bucket import delete_sweep, end_record, list_manifests, list_records, read_manifest
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Experiment, Manifest, Record
from gcloud_ops.errors import InvalidRequest, NotFound, Unavailable
from gcloud_ops.finishing import LOST_AFTER, Announcer, mark_cancelled
from gcloud_ops.model import (
    Location,
    Member,
    Observation,
    Snapshot,
    SweepSummary,
    status_of,
)

__all__ = [
    "Places",
    "SweepWatch",
    "cancel",
    "delete",
    "list_sweeps",
    "places",
    "select",
    "status",
    "watch",
]

_JUST_LAUNCHED = timedelta(minutes=2)


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
        self.where = Location.of(self.manifest)

    def refresh(self) -> Snapshot:
        """Two API calls (one more for every further 1,000 experiments): members, records."""
        # Members before records: who is gone from the group has written its last record.
        members = groups.list_members(self._clients, self.manifest.sweep, where=self.where)
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

    def observe(experiment: Experiment) -> Observation:
        member, record = by_name.get(experiment.id), records.get(experiment.id)
        status, reason = status_of(
            member,
            record,
            now=now,
            group_exists=members is not None,
            seconds=manifest.seconds,
        )
        return Observation(
            experiment=experiment, member=member, record=record, status=status, reason=reason
        )

    return Snapshot(
        manifest=manifest,
        bucket=bucket,
        rows=tuple(observe(experiment) for experiment in manifest.experiments),
        taken=now,
        group_exists=members is not None,
    )


def status(name: str, clients: Clients, *, bucket: str | None = None) -> Snapshot:
    """How the sweep stands.

    Raises:
        NotFound: There is no such sweep in the bucket.
    """
    return SweepWatch(name, clients, bucket=bucket).refresh()


def select(seen: Snapshot, wanted: Iterable[str]) -> tuple[str, ...]:
    """Ids of experiments from what people write: `quick-0007`, `0007` or `7`; none means all.

    Raises:
        NotFound: The sweep has no such experiment.
    """
    known = {row.id: row.id for row in seen.rows}
    for row in seen.rows:
        number = row.id.removeprefix(f"{seen.name}-")
        known |= {number: row.id, number.lstrip("0"): row.id}
    chosen = []
    for name in wanted:
        if name not in known:
            raise NotFound(
                f"sweep {seen.name} has no experiment {name!r}",
                resource=f"experiment {name}",
                hint=f"it has {seen.rows[0].id} to {seen.rows[-1].id}",
            )
        chosen.append(known[name])
    return tuple(dict.fromkeys(chosen)) or tuple(row.id for row in seen.rows)


def watch(
    name: str,
    clients: Clients,
    *,
    bucket: str | None = None,
    interval: float = 2.0,
    stop: threading.Event | None = None,
    on_trouble: Callable[[Unavailable], None] = lambda _error: None,
    on_note: Callable[[str], None] = lambda _line: None,
    lost_after: timedelta = LOST_AFTER,
) -> Iterator[Snapshot]:
    """Snapshots, one every `interval` seconds, until nothing more will happen by itself.

    That is: every experiment is at its end and the group is gone; or there is no group and so
    nothing that could go on. An empty group that the last runner could not remove is removed.
    An interruption of the cloud is waited out, for as long as the caller looks on.

    What died without a word is marked and signalled as lost, five minutes after its last one, and
    the sweep's end is signalled where no runner is left to do it (`finishing`).

    Args:
        name: The sweep's.
        clients: The cloud.
        bucket: Where it is; None: the setting's.
        interval: Seconds.
        stop: Set it to end the watch early.
        on_trouble: Told each time that the cloud did not answer.
        on_note: Told what was found lost, and what could not be signalled.
        lost_after: How long a silence makes an experiment without a VM lost.
    """
    stop = stop or threading.Event()
    looking = SweepWatch(name, clients, bucket=bucket)
    announcer = Announcer(
        clients, looking.bucket, looking.manifest, lost_after=lost_after, say=on_note
    )
    try:
        yield from _watch(
            looking, clients, announcer, interval=interval, stop=stop, on_trouble=on_trouble
        )
    finally:
        announcer.close(wait=False)


def _watch(
    looking: SweepWatch,
    clients: Clients,
    announcer: Announcer,
    *,
    interval: float,
    stop: threading.Event,
    on_trouble: Callable[[Unavailable], None],
) -> Iterator[Snapshot]:
    name = looking.manifest.sweep
    while not stop.is_set():
        try:
            seen = looking.refresh()
        except Unavailable as error:
            on_trouble(error)
            stop.wait(interval)
            continue
        yield seen
        if is_over(seen) and not announcer.awaits_lost(seen):
            announcer.finish(seen)
            return
        announcer.look(seen)
        if seen.group_exists and seen.is_final and not any(row.member for row in seen.rows):
            try:
                # Looked at once more: somebody may have begun a rerun just now.
                groups.delete_if_empty(clients, name, where=looking.where)
            except Unavailable as error:
                on_trouble(error)
        stop.wait(interval)


def is_over(seen: Snapshot) -> bool:
    """Whether nothing more will happen by itself.

    A sweep whose group isn't there yet may just be in the hands of its launcher.
    """
    return seen.is_gone and (seen.is_final or not is_just_launched(seen))


def is_just_launched(seen: Snapshot) -> bool:
    """Whether its launcher may still be making its group and instances."""
    return seen.taken - seen.manifest.created < _JUST_LAUNCHED


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
    experiments: Collection[str] = (),
    bucket: str | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Snapshot:
    """Mark what is unfinished as cancelled, and take away its instances.

    What has finished stays finished, and all results stay in the bucket. Idempotent: a cancel
    that was interrupted is simply called again.

    Args:
        name: The sweep's.
        clients: The cloud.
        experiments: Which, as `select` takes them; none: the whole sweep, with its group. The
            others go on.
        bucket: Where it is; None: the setting's.
        on_step: Told what is being done.

    Raises:
        NotFound: There is no such sweep in the bucket, or no such experiment in it.
    """
    looking = SweepWatch(name, clients, bucket=bucket)
    if experiments:
        return _cancel_some(looking, clients, experiments, on_step)
    on_step("removing the instance group and its instances")
    # First the instances, then the records: nobody is left then who could write them.
    groups.delete_group(clients, name, where=looking.where)
    unfinished = _unfinished(looking.refresh().rows)
    on_step(f"marking {len(unfinished)} unfinished experiments as cancelled")
    if unfinished:
        # Before the records: nobody is to find all of them final, and signal the sweep's end.
        mark_cancelled(clients, looking.bucket, looking.manifest)
    _mark_as_cancelled(looking, clients, unfinished)
    return looking.refresh()


def _cancel_some(
    looking: SweepWatch,
    clients: Clients,
    experiments: Collection[str],
    on_step: Callable[[str], None],
) -> Snapshot:
    """First the records, then the instances: a runner that lives stops at a foreign end."""
    sweep = looking.manifest.sweep
    seen = looking.refresh()
    chosen = set(select(seen, experiments))
    rows = [row for row in seen.rows if row.id in chosen]
    unfinished = _unfinished(rows)
    on_step(f"marking {len(unfinished)} unfinished experiments as cancelled")
    _mark_as_cancelled(looking, clients, unfinished)
    # Also of those that were cancelled before: whoever did it may have come no further.
    records = list_records(clients, looking.bucket, sweep)
    ended = {it for it in chosen if (record := records.get(it)) and record.state == "cancelled"}
    alive = [row.id for row in rows if row.member is not None and row.id in ended]
    if alive:
        on_step(f"removing {len(alive)} instances")
        groups.delete_instances(clients, sweep, alive, where=looking.where)
    if seen.group_exists and not any(record.state == "again" for record in records.values()):
        groups.delete_if_empty(clients, sweep, where=looking.where)
    if unfinished:
        # Their ends are nobody's to know of; but they may have been the sweep's last.
        announcer = Announcer(clients, looking.bucket, looking.manifest)
        announcer.announce(row.id for row in unfinished)
        announcer.close()
    return looking.refresh()


def _unfinished(rows: Iterable[Observation]) -> list[Observation]:
    return [row for row in rows if row.record is None or not row.record.is_final]


def _mark_as_cancelled(
    looking: SweepWatch, clients: Clients, rows: Collection[Observation]
) -> None:
    def mark(row: Observation) -> None:
        end_record(
            clients,
            looking.bucket,
            looking.manifest.sweep,
            row.experiment,
            row.record,
            state="cancelled",
            kind="cancelled",
            hint="cancelled",
        )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(mark, rows))


def delete(
    name: str,
    clients: Clients,
    *,
    bucket: str | None = None,
    force: bool = False,
    on_step: Callable[[str], None] = lambda _step: None,
) -> int:
    """Remove the sweep from the bucket, results and all; returns the number of objects.

    A deletion that was interrupted is simply called again.

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
    if groups.get_group(clients, name, where=looking.where) is not None:
        if not force:
            raise InvalidRequest(
                f"sweep {name} still has instances",
                resource=f"sweep {name}",
                hint=f"cancel it first: gcloud-ops sweep cancel {name}",
            )
        on_step("removing the instance group and its instances")
        groups.delete_group(clients, name, where=looking.where)
    on_step(f"removing gs://{looking.bucket}/{name}/")
    # The manifest last: without it nobody could repeat a deletion that was interrupted.
    return delete_sweep(clients, looking.bucket, name)
