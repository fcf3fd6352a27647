"""What ended without anybody left to say so: lost experiments, and the sweep's end.

The rules are docs/contract.md's, section 8; the runner has them too. Whoever writes a final record
signals it, and then looks whether it was the sweep's last.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from gcloud_ops.bucket import list_records, replace_record
from gcloud_ops.clients import CALL_TIMEOUT, Clients
from gcloud_ops.contract import SCHEMA, Experiment, Manifest, Record, timestamp
from gcloud_ops.errors import AlreadyExists, GcloudOpsError, NotFound, Unavailable
from gcloud_ops.model import Member, Snapshot
from gcloud_ops.objects import delete_object, list_blobs, read_object, write_object
from gcloud_ops.signals import (
    EXPERIMENT_FINISHED,
    PATIENCE,
    SWEEP_FINISHED,
    experiment_labels,
    sweep_labels,
    write_points,
)
from gcloud_ops.text import one_line

__all__ = [
    "LOST_AFTER",
    "Announcer",
    "BucketClock",
    "find_lost",
    "is_gone",
    "mark_cancelled",
    "mark_lost",
    "remove_marker",
    "signal_sweep",
]

LOST_AFTER: Final = timedelta(minutes=5)
"""Silence after which an experiment without a VM is lost; it should say a word every 30 s."""

WITHOUT_RECORD: Final = 3
"""So many times longer for one that never had a record."""

UNWRITTEN_AFTER: Final = timedelta(minutes=2)
"""Who made the marker, and has not signalled yet, does so within 90 s or never."""

_RETURNING: Final = frozenset(
    {
        "CREATING",
        "CREATING_WITHOUT_RETRIES",
        "RECREATING",
        "REFRESHING",
        "RESTARTING",
        "RESUMING",
        "STARTING",
        "VERIFYING",
    }
)
_TRIES: Final = 5
_OF_OTHERS: Final = frozenset({"lost", "dispatch", "cancelled"})
"""Ends that no runner has written."""


class BucketClock:
    """The time at the bucket, which gives all objects theirs: this machine's may be wrong.

    Asked once (the header `Date` of an answer), then counted on.
    """

    def __init__(self, clients: Clients, bucket: str, sweep: str) -> None:
        self._clients = clients
        self._blob = (bucket, f"{sweep}/sweep.json")
        self._asked: tuple[datetime, float] | None = None
        self._made: datetime | None = None

    def now(self) -> datetime:
        """The time now.

        Raises:
            GcloudOpsError: The bucket does not answer.
        """
        if self._asked is None:
            self._asked = self._ask(), time.monotonic()
        then, at = self._asked
        return then + timedelta(seconds=time.monotonic() - at)

    @property
    def made(self) -> datetime:
        """When the manifest was stored."""
        if self._made is None:
            self.now()
        assert self._made is not None  # noqa: S101 - set by asking
        return self._made

    def _ask(self) -> datetime:
        storage = self._clients.storage
        bucket, name = self._blob
        url = storage._connection.build_api_url(storage.bucket(bucket).blob(name).path)
        resource = f"object {name}"

        def ask() -> Any:
            from google.api_core.exceptions import from_http_response

            answer = storage._http.get(url, params={"fields": "timeCreated"}, timeout=CALL_TIMEOUT)
            if answer.status_code != 200:
                raise from_http_response(answer)  # type: ignore[no-untyped-call]
            return answer

        answer = self._clients.call(resource, ask)
        self._made = datetime.fromisoformat(answer.json()["timeCreated"])
        try:
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError):
            return datetime.now(UTC)


# ------------------------------------------------------------------------------ lost


def find_lost(
    manifest: Manifest,
    members: Mapping[str, Member],
    records: Mapping[str, Record],
    *,
    made: datetime,
    now: datetime,
    lost_after: timedelta = LOST_AFTER,
) -> tuple[Experiment, ...]:
    """The experiments that have died without a word.

    Args:
        manifest: The sweep's.
        members: The group's; none where there is no group.
        records: Those that are there, each with the time when it was stored.
        made: When the manifest was stored.
        now: By the same clock, the bucket's.
        lost_after: How long a silence it takes.
    """

    def is_lost(experiment: Experiment) -> bool:
        record = records.get(experiment.id)
        if (record is not None and record.is_final) or not is_gone(members.get(experiment.id)):
            return False
        if record is not None and record.state == "again":  # somebody is about to bring it back
            return False
        if record is None:  # without any record at all, the launch has not come so far
            return bool(records) and now - made > WITHOUT_RECORD * lost_after
        return record.stored is not None and now - record.stored > lost_after

    return tuple(experiment for experiment in manifest.experiments if is_lost(experiment))


def is_gone(member: Member | None) -> bool:
    """Whether an instance does not run, and the group does not bring it back."""
    if member is None:
        return True
    return member.status != "RUNNING" and member.action not in _RETURNING


def mark_lost(
    clients: Clients,
    bucket: str,
    manifest: Manifest,
    members: Mapping[str, Member],
    records: Mapping[str, Record],
    *,
    clock: BucketClock | None = None,
    lost_after: timedelta = LOST_AFTER,
) -> tuple[str, ...]:
    """Give lost experiments their final record; returns the ids of those that got it from us.

    One that has said a word since `records` was listed is left alone. Signals nothing.

    Raises:
        GcloudOpsError: The bucket refuses.
    """
    clock = clock or BucketClock(clients, bucket, manifest.sweep)
    lost = find_lost(
        manifest, members, records, made=clock.made, now=clock.now(), lost_after=lost_after
    )
    return tuple(
        experiment.id
        for experiment in lost
        if _mark(clients, bucket, manifest, experiment, records.get(experiment.id))
    )


def _mark(
    clients: Clients,
    bucket: str,
    manifest: Manifest,
    experiment: Experiment,
    found: Record | None,
) -> bool:
    now = timestamp(datetime.now(UTC))
    raw: Mapping[str, Any] = {}
    if found is not None:
        # The whole of it: what a listing shows may be shortened.
        name = f"{manifest.sweep}/records/{experiment.id}.json"
        content, generation = read_object(clients, bucket, name, resource=f"record {name}")
        if generation != found.generation:
            return False
        raw = Record.from_json(content).raw
    said = timestamp(found.updated) if found is not None and found.updated is not None else None
    silence = f"no word since {said}" if said else "it never said a word"
    hint = f"its VM is gone, {silence}"
    ended = {
        "schema": SCHEMA,
        "sweep": manifest.sweep,
        "experiment": experiment.id,
        "attempt": 0,
        "command": experiment.command,
        **raw,
        "state": "failed",
        "updated": now,
        "ended": said or now,
        "exit": {"code": None, "signal": None, "kind": "lost", "hint": hint},
    }
    generation = found.generation if found is not None else 0
    try:
        replace_record(
            clients, bucket, manifest.sweep, experiment.id, ended, generation=generation
        )
    except AlreadyExists:
        return False
    return True


# --------------------------------------------------------------------------- the sweep's end


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marker:
    """The marker of a sweep's end as it is there."""

    content: Mapping[str, Any]
    generation: int
    stored: datetime


def signal_sweep(
    clients: Clients,
    bucket: str,
    manifest: Manifest,
    records: Mapping[str, Record],
    *,
    clock: BucketClock | None = None,
    patience: float = PATIENCE,
    stop: threading.Event | None = None,
) -> bool:
    """Signal the sweep's end once all its records are final, unless somebody else does.

    Returns:
        Whether it is settled: signalled, by whomever, or cancelled. False while records are not
        final, or somebody is about to signal.

    Raises:
        GcloudOpsError: It could not be signalled; the marker says so, and another may try.
    """
    ended = [records.get(experiment.id) for experiment in manifest.experiments]
    final = [record for record in ended if record is not None and record.is_final]
    if len(final) != len(ended):
        return False
    labels = sweep_labels(manifest, final)
    marker = {
        **_marker_of(manifest, labels["status"]),
        "written": False,
        "labels": labels,
    }
    clock = clock or BucketClock(clients, bucket, manifest.sweep)
    generation = _take_marker(clients, bucket, manifest, marker, clock)
    if generation is None:
        there = _read_marker(clients, bucket, manifest)
        return there is not None and not _is_unwritten(there.content)
    try:
        write_points(clients, SWEEP_FINISHED, [labels], patience=patience, stop=stop)
    except GcloudOpsError as error:
        why = {"why": one_line(str(error))}
        _replace_marker(clients, bucket, manifest, {**marker, **why}, generation)
        raise
    _replace_marker(clients, bucket, manifest, {**marker, "written": True}, generation)
    return True


def remove_marker(clients: Clients, bucket: str, manifest: Manifest) -> None:
    """Take back that the sweep has ended: somebody makes it go on, and its end is to come."""
    delete_object(clients, bucket, _marker_name(manifest))


def mark_cancelled(clients: Clients, bucket: str, manifest: Manifest) -> None:
    """Say that the whole sweep is cancelled, before its records do: its end is not signalled."""
    marker = _marker_of(manifest, "cancelled")
    generation = 0
    for _ in range(_TRIES):
        with suppress(AlreadyExists):
            _write_marker(clients, bucket, manifest, marker, generation)
            return
        there = _read_marker(clients, bucket, manifest)
        if there is None:
            generation = 0
        elif there.content.get("created") == marker["created"]:
            return
        else:
            generation = there.generation


def _take_marker(
    clients: Clients,
    bucket: str,
    manifest: Manifest,
    marker: Mapping[str, Any],
    clock: BucketClock,
) -> int | None:
    """Make the marker, or take over one that nobody minds; None when it is another's."""
    generation = 0
    for _ in range(_TRIES):
        with suppress(AlreadyExists):
            return _write_marker(clients, bucket, manifest, marker, generation)
        there = _read_marker(clients, bucket, manifest)
        if there is None:  # the sweep is being deleted
            return None
        if there.content.get("created") == marker["created"]:
            age = clock.now() - there.stored
            if not _is_unwritten(there.content) or age <= UNWRITTEN_AFTER:
                return None
        generation = there.generation
    return None


def _marker_of(manifest: Manifest, status: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "sweep": manifest.sweep,
        "created": timestamp(manifest.created),
        "status": status,
        "by": f"gcloud-ops {uuid.uuid4().hex[:8]}",
        "found": timestamp(datetime.now(UTC)),
    }


def _marker_name(manifest: Manifest) -> str:
    return f"{manifest.sweep}/finished.json"


def _is_unwritten(content: Mapping[str, Any]) -> bool:
    return content.get("written") is False and content.get("status") != "cancelled"


def _write_marker(
    clients: Clients, bucket: str, manifest: Manifest, marker: Mapping[str, Any], generation: int
) -> int:
    return write_object(
        clients,
        bucket,
        _marker_name(manifest),
        json.dumps(marker),
        {},
        generation=generation,
        resource=f"sweep {manifest.sweep}",
    )


def _replace_marker(
    clients: Clients, bucket: str, manifest: Manifest, marker: Mapping[str, Any], generation: int
) -> None:
    with suppress(AlreadyExists):  # somebody has taken it over meanwhile
        _write_marker(clients, bucket, manifest, marker, generation)


def _read_marker(clients: Clients, bucket: str, manifest: Manifest) -> _Marker | None:
    name = _marker_name(manifest)
    try:
        content, generation = read_object(
            clients, bucket, name, resource=f"sweep {manifest.sweep}"
        )
        found = list_blobs(clients, bucket, "name,updated", prefix=name)
    except NotFound:
        return None
    stored = next((blob.updated for blob in found if blob.name == name), None)
    if stored is None:
        return None
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = {}
    return _Marker(
        content=parsed if isinstance(parsed, dict) else {}, generation=generation, stored=stored
    )


# ------------------------------------------------------------------------------ beside a watch


class Announcer:
    """Signals beside a launch or a watch, on a thread of its own: Monitoring may be slow.

    Args:
        clients: The cloud.
        bucket: Where the sweep is.
        manifest: The sweep's.
        lost_after: How long a silence makes an experiment without a VM lost.
        patience: Seconds to try a signal.
        say: Told what was found, and what could not be signalled.
    """

    def __init__(
        self,
        clients: Clients,
        bucket: str,
        manifest: Manifest,
        *,
        lost_after: timedelta = LOST_AFTER,
        patience: float = PATIENCE,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._clients = clients
        self._bucket = bucket
        self._manifest = manifest
        self._lost_after = lost_after
        self._patience = patience
        self._say = say
        self._clock = BucketClock(clients, bucket, manifest.sweep)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: set[str] = set()
        self._said: set[str] = set()
        self._settled = not clients.settings.has_monitoring
        self._refused = False

    def look(self, seen: Snapshot) -> None:
        """Mark and signal what is lost, and the sweep's end if nobody else has; returns at once.

        Runners go first: their own end is theirs to signal, and so is the sweep's right after.
        """
        if self._is_busy or self._refused:
            return
        gone = [row for row in seen.rows if _is_open(row.record) and is_gone(row.member)]
        if gone or (seen.is_final and not self._settled):
            self._start(lambda: self._look(seen))

    def announce(self, experiments: Iterable[str]) -> None:
        """Signal these, whose final records we have written; returns at once."""
        self._waiting.update(experiments)
        if self._waiting and not self._is_busy:
            self._start(lambda: None)

    def awaits_lost(self, seen: Snapshot) -> bool:
        """Whether experiments have gone silent that will be marked as lost in a while."""
        if self._refused:
            return False
        return any(
            row.record is not None
            and _is_open(row.record)
            and row.record.state != "again"
            and is_gone(row.member)
            for row in seen.rows
        )

    def finish(self, seen: Snapshot) -> None:
        """Look for the last time, and wait for what is under way."""
        self.close()
        self.look(seen)
        self.close()

    def close(self, *, wait: bool = True) -> None:
        """Wait for what is under way; or give it up."""
        if not wait:
            self._stop.set()
        self._join(self._patience + 60 if wait else 1.0)
        if wait and self._waiting and not self._is_busy:
            # They came when it was about to end, or the bucket did not answer.
            self._start(lambda: None)
            self._join(self._patience + 60)

    def _join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
                while self._waiting and not self._stop.is_set():
                    some = frozenset(self._waiting)
                    self._announce(some)
                    self._waiting -= some
            except Unavailable as error:
                self._tell(error)
            except GcloudOpsError as error:
                self._refused = True
                self._tell(error)

        self._thread = threading.Thread(target=run, name="signals", daemon=True)
        self._thread.start()

    def _look(self, seen: Snapshot) -> None:
        records = {row.id: row.record for row in seen.rows if row.record is not None}
        members = {row.id: row.member for row in seen.rows if row.member is not None}
        marked = mark_lost(
            self._clients,
            self._bucket,
            self._manifest,
            members,
            records,
            clock=self._clock,
            lost_after=self._lost_after,
        )
        if marked:
            for experiment in marked:
                self._say(f"{experiment}: lost, its VM is gone and it has said nothing since")
            self._announce(marked)
        elif not self._settled and (seen.is_gone or self._runners_had_their_turn(records)):
            self._signal_sweep(records)

    def _runners_had_their_turn(self, records: Mapping[str, Record]) -> bool:
        """Whether the last runner has ended long enough ago to have signalled the sweep's end."""
        now = self._clock.now()
        return all(
            (record.exit is not None and record.exit.kind in _OF_OTHERS)
            or (record.stored is not None and now - record.stored > UNWRITTEN_AFTER)
            for record in records.values()
        )

    def _announce(self, experiments: Collection[str]) -> None:
        if not self._clients.settings.has_monitoring:
            return
        records = list_records(self._clients, self._bucket, self._manifest.sweep)
        series = [
            labels
            for experiment in experiments
            if (record := records.get(experiment)) is not None
            and (labels := experiment_labels(self._manifest, record)) is not None
        ]
        if series:
            try:
                write_points(
                    self._clients,
                    EXPERIMENT_FINISHED,
                    series,
                    patience=self._patience,
                    stop=self._stop,
                )
            except GcloudOpsError as error:
                self._tell(error)
        self._signal_sweep(records)

    def _signal_sweep(self, records: Mapping[str, Record]) -> None:
        try:
            self._settled = signal_sweep(
                self._clients,
                self._bucket,
                self._manifest,
                records,
                clock=self._clock,
                patience=self._patience,
                stop=self._stop,
            )
        except GcloudOpsError as error:
            self._settled = True  # as far as we can: the marker says that it is not written
            self._tell(error)

    def _tell(self, error: GcloudOpsError) -> None:
        text = f"an end could not be signalled: {one_line(str(error))}"
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def _is_open(record: Record | None) -> bool:
    return record is None or not record.is_final
