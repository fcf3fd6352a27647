"""What a sweep keeps in the bucket: manifest, records, log (docs/contract.md, section 2).

Functions, each with the clients and the bucket's name first.
"""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from gcloud_ops.clients import Clients
from gcloud_ops.contract import SCHEMA, Experiment, Manifest, Record, parse_time, timestamp
from gcloud_ops.errors import AlreadyExists, InvalidRequest, NotFound
from gcloud_ops.objects import delete_prefix, list_blobs, list_objects, read_object, write_object

__all__ = [
    "ListedSweep",
    "ask_again",
    "create_manifest",
    "delete_sweep",
    "end_record",
    "list_manifests",
    "list_records",
    "read_log",
    "read_manifest",
    "replace_record",
    "tail_log",
    "write_difference",
]

_MANIFEST = re.compile(r"([^/]+)/sweep\.json")
_SEGMENT = re.compile(r".*/([0-9]{12,})\.log")
_METADATA_LIMIT: Final = 8 * 1024  # Cloud Storage's limit for an object's custom metadata, bytes
_LOOK_BACK: Final = 64 * 1024  # bytes before an offset in which its segment usually begins
_DOWNLOADS: Final = 16
_TRIES: Final = 5  # against a runner that replaces its record at the same moment
_HISTORY: Final = 20  # attempts that a record remembers
_WITHOUT_COMMAND: Final = frozenset({"waiting", "again"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSweep:
    """A sweep as the listing of manifests shows it."""

    name: str
    created: datetime | None
    experiments: int


def create_manifest(clients: Clients, bucket: str, manifest: Manifest) -> None:
    """Write the manifest, and so own the sweep's name.

    Raises:
        AlreadyExists: There is a sweep of this name.
        NotFound: There is no such bucket.
    """
    text = manifest.to_json()
    metadata = {
        "schema": str(json.loads(text)["schema"]),
        "created": timestamp(manifest.created),
        "experiments": str(len(manifest.experiments)),
    }
    name, resource = f"{manifest.sweep}/sweep.json", f"sweep {manifest.sweep}"
    try:
        write_object(clients, bucket, name, text, metadata, generation=0, resource=resource)
    except AlreadyExists as error:
        raise AlreadyExists(
            f"sweep {manifest.sweep}: there is one of this name in the bucket {bucket}",
            resource=resource,
            hint="choose another name, or delete that sweep",
        ) from error


def write_difference(clients: Clients, bucket: str, sweep: str, difference: bytes) -> None:
    """Keep what the launcher's working folder had besides its commit, beside the manifest.

    It is kept as it is, whatever bytes are in it; the second of two launchers finds it there.
    """
    with suppress(AlreadyExists):
        write_object(
            clients,
            bucket,
            f"{sweep}/source.diff",
            difference,
            {},
            generation=0,
            resource=f"sweep {sweep}",
        )


def read_manifest(clients: Clients, bucket: str, sweep: str) -> Manifest:
    """Read a sweep's manifest.

    Raises:
        NotFound: No such sweep in the bucket, or no such bucket.
        InvalidRequest: It can't be read.
    """
    resource = f"sweep {sweep}"
    try:
        content, _ = read_object(clients, bucket, f"{sweep}/sweep.json", resource=resource)
    except NotFound as error:
        raise NotFound(
            f"sweep {sweep}: there is none of this name in the bucket {bucket}",
            resource=resource,
            hint="`gcloud-ops sweep list` shows those that are there",
        ) from error
    return Manifest.from_json(content)


def list_manifests(clients: Clients, bucket: str) -> tuple[ListedSweep, ...]:
    """The bucket's sweeps, newest first, in one listing; none when there is no bucket."""
    try:
        found = list_blobs(clients, bucket, "name,metadata,timeCreated", match_glob="*/sweep.json")
    except NotFound:
        return ()
    sweeps = [
        _listed_sweep(match[1], blob)
        for blob in found
        if (match := _MANIFEST.fullmatch(blob.name))
    ]
    begin = datetime.min.replace(tzinfo=UTC)
    return tuple(sorted(sweeps, key=lambda one: (one.created or begin, one.name), reverse=True))


def list_records(clients: Clients, bucket: str, sweep: str) -> dict[str, Record]:
    """The records of a sweep by experiment, in one call for every 1,000.

    A record that can't be read is left out, as if its runner had not reported.
    """
    prefix = f"{sweep}/records/"
    try:
        found = list_blobs(clients, bucket, "name,metadata,generation,updated", prefix=prefix)
    except NotFound:
        return {}
    records: dict[str, Record] = {}
    for blob in found:
        experiment = blob.name.removeprefix(prefix).removesuffix(".json")
        text = (blob.metadata or {}).get("record")
        record = _record(text, blob.generation) or _read_record(clients, bucket, blob.name)
        if record is not None:
            record = replace(record, stored=blob.updated)
        if record is not None and record.experiment == experiment:
            records[experiment] = record
    return records


def replace_record(
    clients: Clients,
    bucket: str,
    sweep: str,
    experiment: str,
    content: Mapping[str, Any],
    *,
    generation: int,
) -> int:
    """Replace (or with generation 0 create) a record, if it is still of this generation.

    Returns:
        The new generation.

    Raises:
        AlreadyExists: Somebody was faster: read it again.
    """
    text = json.dumps(content, separators=(",", ":"))
    # Where it doesn't fit into the metadata, whoever lists the records reads the object.
    fits = len("record") + len(text.encode()) <= _METADATA_LIMIT
    return write_object(
        clients,
        bucket,
        f"{sweep}/records/{experiment}.json",
        text,
        {"record": text} if fits else {},
        generation=generation,
        resource=f"record {experiment}",
    )


def end_record(
    clients: Clients,
    bucket: str,
    sweep: str,
    experiment: Experiment,
    found: Record | None,
    *,
    state: str,
    kind: str,
    hint: str,
    only_waiting: bool = False,
) -> bool:
    """Have the launcher's last word in a record, unless its runner has had it before.

    Args:
        clients: The clients.
        bucket: The bucket.
        sweep: The sweep.
        experiment: Whose record.
        found: The record as it was seen; None: there was none.
        state: A final state.
        kind: Of the exit, as docs/contract.md lists them.
        hint: Of the exit: why, for people.
        only_waiting: Leave a record alone whose command runs.

    Returns:
        Whether the record is of this state by our doing.
    """
    now = timestamp(datetime.now(UTC))
    for _ in range(_TRIES):
        if found is not None and (
            found.is_final or (only_waiting and found.state not in _WITHOUT_COMMAND)
        ):
            return False
        content = {
            "schema": SCHEMA,
            "sweep": sweep,
            "experiment": experiment.id,
            "attempt": 0,
            "command": experiment.command,
            **(found.raw if found else {}),
            "state": state,
            "updated": now,
            "ended": now,
            "exit": {"code": None, "signal": None, "kind": kind, "hint": hint},
        }
        generation = found.generation if found else 0
        try:
            replace_record(clients, bucket, sweep, experiment.id, content, generation=generation)
        except AlreadyExists:
            # Its runner, or another launcher, was faster: see what it said.
            found = _read_record(clients, bucket, f"{sweep}/records/{experiment.id}.json")
            if found is None:
                return False
        else:
            return True
    return False


def ask_again(clients: Clients, bucket: str, sweep: str, found: Record) -> Record | None:
    """Have an experiment that has ended run again: its next VM claims the next attempt.

    Done by compare-and-swap on the record as it was seen. So of two who ask at once, one does it,
    and neither undoes what a VM has said meanwhile.

    Args:
        clients: The clients.
        bucket: The bucket.
        sweep: The sweep.
        found: The final record as it was seen.

    Returns:
        The record as it is now; None when it is no longer the one that was seen, nor asks for a
        rerun: somebody else's rerun has come further.
    """
    name = f"{sweep}/records/{found.experiment}.json"
    # The whole of it: what a listing shows may be shortened.
    now = _read_record(clients, bucket, name)
    if now is None or now.state == "again" or now.generation != found.generation:
        return now if now is not None and now.state == "again" else None
    content = {
        **now.raw,
        "state": "again",
        "updated": timestamp(datetime.now(UTC)),
        "spent": 0.0,
        "history": [*_history(now.raw), _ended_attempt(now)][-_HISTORY:],
        **dict.fromkeys(("started", "ended", "exit", "signal")),
    }
    generation = now.generation
    try:
        generation = replace_record(
            clients, bucket, sweep, found.experiment, content, generation=generation
        )
    except AlreadyExists:
        now = _read_record(clients, bucket, name)
        return now if now is not None and now.state == "again" else None
    return Record.from_json(json.dumps(content), generation=generation)


def _history(raw: Mapping[str, Any]) -> list[Any]:
    """The attempts before a record's own, as they are: another version may know more of them."""
    found = raw.get("history")
    own = raw.get("attempt")
    attempts = found if isinstance(found, list) else []
    return [one for one in attempts if not isinstance(one, dict) or one.get("attempt") != own]


def _ended_attempt(record: Record) -> dict[str, Any]:
    """A final record's attempt, as the records of later ones remember it."""
    raw, kind = record.raw, record.exit.kind if record.exit else record.state
    return {
        "attempt": record.attempt,
        "kind": kind,
        "hint": record.exit.hint if record.exit else "",
        "started": raw.get("started"),
        "ended": raw.get("ended"),
        "instance_id": record.instance_id,
        # What was tried again before it does not count for the attempts to come.
        "rerun": True,
    }


def delete_sweep(clients: Clients, bucket: str, sweep: str) -> int:
    """Delete all that the sweep keeps, its manifest last; how many objects there were."""
    return delete_prefix(clients, bucket, f"{sweep}/", last=f"{sweep}/sweep.json")


def read_log(
    clients: Clients,
    bucket: str,
    sweep: str,
    experiment: str,
    *,
    attempt: int | None = None,
    offset: int = 0,
) -> tuple[bytes, int]:
    """What an experiment's log holds after `offset` bytes; with the offset to go on from.

    Args:
        clients: The clients.
        bucket: The bucket.
        sweep: The sweep.
        experiment: The experiment's id.
        attempt: Which attempt; None: the latest.
        offset: Where to begin, in bytes from the log's begin.

    Raises:
        NotFound: No such bucket. A log that isn't there yet is empty.
    """
    folder = _log_folder(clients, bucket, sweep, experiment, attempt)
    if folder is None:
        return b"", offset
    segments = [one for one in _segments(clients, bucket, folder, offset) if one.end > offset]
    pieces = []
    with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="log") as pool:
        for segment, content in zip(
            segments, pool.map(lambda one: _segment(clients, bucket, one), segments), strict=True
        ):
            pieces.append(content[max(0, offset - segment.begin) :])
            offset = max(offset, segment.begin + len(content))
    return b"".join(pieces), offset


def tail_log(
    clients: Clients,
    bucket: str,
    sweep: str,
    experiment: str,
    *,
    lines: int,
    attempt: int | None = None,
) -> tuple[bytes, int]:
    """The log's last lines, reading only the segments they are in; with the log's length."""
    folder = _log_folder(clients, bucket, sweep, experiment, attempt)
    segments = _segments(clients, bucket, folder, 0) if folder else []
    if not segments:
        return b"", 0
    pieces: list[bytes] = []
    breaks = 0
    for segment in reversed(segments):
        # The last line's own end is no end of a line before it.
        if lines <= 0 or breaks > lines:
            break
        content = _segment(clients, bucket, segment)
        pieces.append(content)
        breaks += content.count(b"\n")
    found = b"".join(reversed(pieces)).splitlines(keepends=True)
    return b"".join(found[-lines:] if lines > 0 else []), segments[-1].end


def _listed_sweep(name: str, blob: Any) -> ListedSweep:
    metadata = blob.metadata or {}
    created, count = blob.time_created, 0
    with suppress(KeyError, ValueError):
        created = parse_time(metadata["created"])
    with suppress(KeyError, ValueError):
        count = int(metadata["experiments"])
    return ListedSweep(name=name, created=created, experiments=count)


def _record(text: str | bytes | None, generation: int | None) -> Record | None:
    if text is None:
        return None
    with suppress(InvalidRequest):
        return Record.from_json(text, generation=int(generation or 0))
    return None


def _read_record(clients: Clients, bucket: str, name: str) -> Record | None:
    try:
        content, generation = read_object(clients, bucket, name, resource=f"record {name}")
    except NotFound:
        return None
    return _record(content, generation)


# ---------------------------------------------------------------------------------- logs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A piece of a log: bytes `begin` to `end`."""

    name: str
    begin: int
    end: int


def _log_folder(
    clients: Clients, bucket: str, sweep: str, experiment: str, attempt: int | None
) -> str | None:
    """The folder of an attempt's segments; None when there is no attempt yet."""
    prefix = f"{sweep}/{experiment}/log/"
    if attempt is None:
        folders = list_objects(clients, bucket, prefix, delimiter="/")
        names = [entry.name.removeprefix(prefix).rstrip("/") for entry in folders]
        attempts = [int(name) for name in names if name.isascii() and name.isdigit()]
        if not attempts:
            return None
        attempt = max(attempts)
    return f"{prefix}{attempt}/"


def _segments(clients: Clients, bucket: str, folder: str, offset: int) -> list[_Segment]:
    """The log's segments in order, at least those that hold bytes from `offset` on.

    A listing begins at a name, and the segment that holds a byte may have begun before it. So
    it begins a good piece before, and at the log's begin only when that was not enough.
    """
    start = max(0, offset - _LOOK_BACK)
    found = _listed_segments(clients, bucket, folder, start)
    if start and not any(segment.begin <= offset for segment in found):
        found = _listed_segments(clients, bucket, folder, 0)
    return found


def _listed_segments(clients: Clients, bucket: str, folder: str, start: int) -> list[_Segment]:
    options = {"start_offset": f"{folder}{start:012d}.log"} if start else {}
    blobs = list_blobs(clients, bucket, "name,size", prefix=folder, **options)
    found = []
    for blob in blobs:
        match = _SEGMENT.fullmatch(blob.name)
        if match:
            begin = int(match[1])
            found.append(_Segment(name=blob.name, begin=begin, end=begin + int(blob.size or 0)))
    return sorted(found, key=lambda segment: segment.begin)


def _segment(clients: Clients, bucket: str, segment: _Segment) -> bytes:
    try:
        return read_object(clients, bucket, segment.name, resource=f"log {segment.name}")[0]
    except NotFound:  # the sweep is being deleted
        return b""
