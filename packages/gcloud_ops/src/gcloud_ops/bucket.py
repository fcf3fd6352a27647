"""The bucket: a sweep's manifest, records, logs and outputs (docs/contract.md, section 2).

Functions, each with the clients and the bucket's name first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gcloud_ops.clients import Clients
from gcloud_ops.model import Manifest, Record

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
    raise NotImplementedError


def bucket_exists(clients: Clients, bucket: str) -> bool:
    """Whether there is such a bucket, and it is ours to read."""
    raise NotImplementedError


def create_manifest(clients: Clients, bucket: str, manifest: Manifest) -> None:
    """Write the manifest, and so own the sweep's name.

    Raises:
        AlreadyExists: There is a sweep of this name.
        NotFound: There is no such bucket.
    """
    raise NotImplementedError


def read_manifest(clients: Clients, bucket: str, sweep: str) -> Manifest:
    """Read a sweep's manifest.

    Raises:
        NotFound: No such sweep in the bucket, or no such bucket.
        InvalidRequest: It can't be read.
    """
    raise NotImplementedError


def list_manifests(clients: Clients, bucket: str) -> tuple[ListedSweep, ...]:
    """The bucket's sweeps, newest first, in one listing; none when there is no bucket."""
    raise NotImplementedError


def list_records(clients: Clients, bucket: str, sweep: str) -> dict[str, Record]:
    """The records of a sweep by experiment, in one call for every 1,000.

    A record that can't be read is left out, as if its runner had not reported.
    """
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


def pull(
    clients: Clients,
    bucket: str,
    prefix: str,
    folder: Path,
    *,
    on_file: Callable[[Entry, Path], None] | None = None,
) -> tuple[Path, ...]:
    """Download all objects under a prefix into a folder, many at a time, checksums verified.

    Names below the prefix become paths below the folder, and never leave it. A file that is
    there with the same checksum is not downloaded again.

    Args:
        clients: The clients.
        bucket: The bucket.
        prefix: An object, or a folder.
        folder: Where to; made when missing.
        on_file: Called after each file, from one thread at a time.

    Returns:
        The files, in the listing's order.

    Raises:
        NotFound: Nothing is there.
        InvalidRequest: A name would leave the folder, or the folder can't be written.
    """
    raise NotImplementedError


def delete_prefix(clients: Clients, bucket: str, prefix: str) -> int:
    """Delete all objects whose names begin with the prefix; how many there were.

    Raises:
        InvalidRequest: The prefix is empty.
    """
    raise NotImplementedError
