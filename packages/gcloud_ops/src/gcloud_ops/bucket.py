"""The bucket: a sweep's manifest, records, logs and outputs (docs/contract.md, section 2).

Functions, each with the clients and the bucket's name first.
"""

import base64
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gcloud_ops.clients import CALL_TIMEOUT, Clients
from gcloud_ops.contract import Manifest, Record, parse_time, timestamp
from gcloud_ops.errors import (
    AlreadyExists,
    GcloudOpsError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
)

__all__ = [
    "Entry",
    "ListedSweep",
    "bucket_exists",
    "create_manifest",
    "delete_prefix",
    "ensure_bucket",
    "list_manifests",
    "list_objects",
    "list_records",
    "pull",
    "read_log",
    "read_manifest",
    "replace_record",
    "tail_log",
]

_MANIFEST = re.compile(r"([^/]+)/sweep\.json")
_SEGMENT = re.compile(r".*/([0-9]{12,})\.log")
_METADATA_LIMIT: Final = 8 * 1024  # Cloud Storage's limit for an object's custom metadata, bytes
_LOOK_BACK: Final = 64 * 1024  # bytes before an offset in which its segment usually begins
_DOWNLOADS: Final = 16
_DELETIONS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a listing: an object, or a folder (a common prefix, its name ends in /)."""

    name: str
    size: int = 0
    """Bytes; 0 for a folder."""
    updated: datetime | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a common prefix."""
        return self.name.endswith("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSweep:
    """A sweep as the listing of manifests shows it."""

    name: str
    created: datetime | None
    experiments: int


def ensure_bucket(clients: Clients, bucket: str, *, location: str | None = None) -> bool:
    """Make the bucket unless it is there.

    Args:
        clients: The clients.
        bucket: Its name, which is unique in the whole world.
        location: Where; None: the settings' `bucket_location`.

    Returns:
        Whether it was made.

    Raises:
        PermissionDenied: It belongs to somebody else, or the account may not make buckets.
        InvalidRequest: Google refuses the name or the location.
    """
    if bucket_exists(clients, bucket):
        return False
    new = clients.storage.bucket(bucket)
    new.iam_configuration.uniform_bucket_level_access_enabled = True
    new.iam_configuration.public_access_prevention = "enforced"
    new.labels = {"created-by": "gcloud-ops"}
    where = location or clients.settings.bucket_location
    try:
        clients.call(
            f"bucket {bucket}",
            lambda: new.create(location=where, retry=None, timeout=CALL_TIMEOUT),
        )
    except AlreadyExists as error:
        # Between the two calls, by another launcher of ours; or it can't even be seen.
        if bucket_exists(clients, bucket):
            return False
        raise _taken(bucket) from error
    return True


def bucket_exists(clients: Clients, bucket: str) -> bool:
    """Whether there is such a bucket, and its objects are ours to list.

    Raises:
        PermissionDenied: There is one, but the account may not list its objects.
    """
    try:
        # Listing needs a permission that every user of a bucket has; reading the bucket's own
        # description (storage.buckets.get) needs one that many don't have.
        _listed(clients, bucket, "name", max_results=1)
    except NotFound:
        return False
    except PermissionDenied as error:
        raise _taken(bucket, error.message) from error
    return True


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
        _write(clients, bucket, name, text, metadata, generation=0, resource=resource)
    except AlreadyExists as error:
        raise AlreadyExists(
            f"sweep {manifest.sweep}: there is one of this name in the bucket {bucket}",
            resource=resource,
            hint="choose another name, or delete that sweep",
        ) from error


def read_manifest(clients: Clients, bucket: str, sweep: str) -> Manifest:
    """Read a sweep's manifest.

    Raises:
        NotFound: No such sweep in the bucket, or no such bucket.
        InvalidRequest: It can't be read.
    """
    resource = f"sweep {sweep}"
    try:
        content, _ = _read(clients, bucket, f"{sweep}/sweep.json", resource=resource)
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
        found = _listed(clients, bucket, "name,metadata,timeCreated", match_glob="*/sweep.json")
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
        found = _listed(clients, bucket, "name,metadata,generation", prefix=prefix)
    except NotFound:
        return {}
    records: dict[str, Record] = {}
    for blob in found:
        experiment = blob.name.removeprefix(prefix).removesuffix(".json")
        text = (blob.metadata or {}).get("record")
        record = _record(text, blob.generation) or _read_record(clients, bucket, blob.name)
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
    return _write(
        clients,
        bucket,
        f"{sweep}/records/{experiment}.json",
        text,
        {"record": text} if fits else {},
        generation=generation,
        resource=f"record {experiment}",
    )


def list_objects(
    clients: Clients, bucket: str, prefix: str = "", *, delimiter: str | None = None
) -> tuple[Entry, ...]:
    """Objects whose names begin with the prefix, by name.

    Args:
        clients: The clients.
        bucket: The bucket.
        prefix: How the names begin.
        delimiter: "/" lists one level: deeper objects show as their folder.

    Raises:
        NotFound: No such bucket.
    """

    def listing() -> tuple[list[Any], list[str]]:
        pages = clients.storage.list_blobs(
            bucket,
            prefix=prefix or None,
            delimiter=delimiter,
            fields="items(name,size,updated),prefixes,nextPageToken",
            retry=None,
            timeout=CALL_TIMEOUT,
        )
        return list(pages), list(pages.prefixes)

    blobs, folders = clients.call(f"bucket {bucket}", listing)
    entries = [_entry(blob) for blob in blobs] + [Entry(name=folder) for folder in folders]
    return tuple(sorted(entries, key=lambda entry: entry.name))


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


def pull(
    clients: Clients,
    bucket: str,
    prefix: str,
    folder: Path,
    *,
    on_file: Callable[[Entry, Path], None] | None = None,
) -> tuple[Path, ...]:
    """Download all objects under a prefix into a folder, many at a time, checksums verified.

    Names below the prefix become paths below the folder, and never leave it: what would is
    replaced by `_`. A file that is there with the same content is not downloaded again, and
    one that is being downloaded appears under its name when it is whole.

    Args:
        clients: The clients.
        bucket: The bucket.
        prefix: An object, or a folder; "" is the whole bucket.
        folder: Where to; made when missing.
        on_file: Called after each file, from this thread.

    Returns:
        The files, in the listing's order; what was deleted meanwhile is left out.

    Raises:
        NotFound: Nothing is there.
        InvalidRequest: A file can't be written.
    """
    fields = "name,size,updated,md5Hash"
    below = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    found = [
        blob
        for blob in _listed(clients, bucket, fields, prefix=prefix.rstrip("/") or None)
        if (blob.name == prefix or blob.name.startswith(below)) and not blob.name.endswith("/")
    ]
    if not found:
        raise NotFound(
            f"bucket {bucket}: nothing is under {prefix!r}",
            resource=f"bucket {bucket}",
            hint="`gcloud-ops bucket ls` shows what is there",
        )
    relative = [
        blob.name.removeprefix(below) if blob.name != prefix else prefix.rpartition("/")[2]
        for blob in found
    ]
    paths = _paths_below(folder, relative)
    present: set[Path] = set()
    with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="pull") as pool:
        downloads = {
            pool.submit(_download, clients, blob, path): (blob, path)
            for blob, path in zip(found, paths, strict=True)
        }
        try:
            for download in as_completed(downloads):
                blob, path = downloads[download]
                if download.result():
                    present.add(path)
                    if on_file is not None:
                        on_file(_entry(blob), path)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(path for path in paths if path in present)


def delete_prefix(clients: Clients, bucket: str, prefix: str) -> int:
    """Delete all objects in a folder; how many there were.

    The prefix is a whole name: `quick` and `quick/` are the same, and leave `quick2/` alone.
    No bucket is nothing to delete.

    Raises:
        InvalidRequest: The prefix is empty.
    """
    folder = prefix.strip("/")
    if not folder:
        raise InvalidRequest("prefix: empty, it would be the whole bucket")
    try:
        found = _listed(clients, bucket, "name", prefix=f"{folder}/")
    except NotFound:
        return 0

    def delete(blob: Any) -> None:
        with suppress(NotFound):
            clients.call(
                f"object {blob.name}",
                lambda: blob.delete(if_generation_match=None, retry=None, timeout=CALL_TIMEOUT),
            )

    with ThreadPoolExecutor(_DELETIONS, thread_name_prefix="delete") as pool:
        list(pool.map(delete, found))
    return len(found)


# ------------------------------------------------------------------------------- objects


def _listed(clients: Clients, bucket: str, fields: str, **options: Any) -> list[Any]:
    """All objects of a listing, with only these fields of each."""
    return clients.call(
        f"bucket {bucket}",
        lambda: list(
            clients.storage.list_blobs(
                bucket,
                fields=f"items({fields}),nextPageToken",
                retry=None,
                timeout=CALL_TIMEOUT,
                **options,
            )
        ),
    )


def _read(clients: Clients, bucket: str, name: str, *, resource: str) -> tuple[bytes, int]:
    """An object's content and generation."""
    blob = clients.storage.bucket(bucket).blob(name)
    content = clients.call(
        resource, lambda: blob.download_as_bytes(retry=None, timeout=CALL_TIMEOUT)
    )
    return content, int(blob.generation or 0)


def _write(
    clients: Clients,
    bucket: str,
    name: str,
    text: str,
    metadata: Mapping[str, str],
    *,
    generation: int,
    resource: str,
) -> int:
    """Write an object if it is of this generation (0: isn't there); its new generation."""
    blob = clients.storage.bucket(bucket).blob(name)
    blob.metadata = dict(metadata)
    try:
        clients.call(
            resource,
            lambda: blob.upload_from_string(
                text,
                content_type="application/json",
                if_generation_match=generation,
                retry=None,
                timeout=CALL_TIMEOUT,
            ),
        )
    except AlreadyExists:
        # The answer to our own writing may have been lost, and this is that of a second try.
        with suppress(NotFound):
            content, found = _read(clients, bucket, name, resource=resource)
            if content == text.encode():
                return found
        raise
    return int(blob.generation)


def _entry(blob: Any) -> Entry:
    return Entry(name=blob.name, size=int(blob.size or 0), updated=blob.updated)


def _taken(bucket: str, message: str = "") -> PermissionDenied:
    return PermissionDenied(
        message or f"bucket {bucket}: it belongs to somebody else",
        resource=f"bucket {bucket}",
        hint="a bucket's name is unique in the world: choose another with --bucket, "
        "or ask its owner for access",
    )


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
        content, generation = _read(clients, bucket, name, resource=f"record {name}")
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
    blobs = _listed(clients, bucket, "name,size", prefix=folder, **options)
    found = []
    for blob in blobs:
        match = _SEGMENT.fullmatch(blob.name)
        if match:
            begin = int(match[1])
            found.append(_Segment(name=blob.name, begin=begin, end=begin + int(blob.size or 0)))
    return sorted(found, key=lambda segment: segment.begin)


def _segment(clients: Clients, bucket: str, segment: _Segment) -> bytes:
    try:
        return _read(clients, bucket, segment.name, resource=f"log {segment.name}")[0]
    except NotFound:  # the sweep is being deleted
        return b""


# ----------------------------------------------------------------------------- downloads


def _paths_below(folder: Path, names: list[str]) -> list[Path]:
    """A path below the folder for each object's name, all different.

    A bucket may hold both `a` and `a/b`, and names that mean something to a file system.
    """
    tuples = [tuple(_safe_part(part) for part in name.split("/")) for name in names]
    folders = {parts[:depth] for parts in tuples for depth in range(1, len(parts))}
    taken: set[tuple[str, ...]] = set()
    paths = []
    for parts in tuples:
        while parts in folders or parts in taken:
            parts = (*parts[:-1], f"{parts[-1]}~")  # noqa: PLW2901
        taken.add(parts)
        paths.append(folder.joinpath(*parts))
    return paths


def _safe_part(part: str) -> str:
    part = re.sub(r"[\x00-\x1f\x7f\\:]", "_", part)
    return "_" if part in {"", ".", ".."} else part


def _download(clients: Clients, blob: Any, path: Path) -> bool:
    """Download one object, unless the file has its content; False when it is gone."""
    if _has_content(blob, path):
        return True
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        target = temporary
        clients.call(
            f"object {blob.name}",
            lambda: blob.download_to_filename(
                str(target), checksum="auto", retry=None, timeout=CALL_TIMEOUT
            ),
        )
        temporary.replace(path)
    except NotFound:
        return False
    except GcloudOpsError:
        raise
    except OSError as error:
        raise InvalidRequest(
            f"{path}: can't be written: {error.strerror or error}", resource=str(path)
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return True


def _has_content(blob: Any, path: Path) -> bool:
    """Whether the file is the object already; an object made of parts has no MD5: then not."""
    try:
        if not blob.md5_hash or path.stat().st_size != int(blob.size or 0):
            return False
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    except OSError:
        return False
    return base64.b64encode(digest.digest()).decode() == str(blob.md5_hash)
