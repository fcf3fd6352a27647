"""Cloud Storage: buckets and their objects, whatever they hold; what a sweep keeps is `bucket`'s.

Functions, each with the clients and the bucket's name first.
"""

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from gcloud_ops.clients import CALL_TIMEOUT, Clients
from gcloud_ops.errors import (
    AlreadyExists,
    GcloudOpsError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
)

__all__ = [
    "Entry",
    "bucket_exists",
    "delete_object",
    "delete_prefix",
    "ensure_bucket",
    "holds",
    "list_blobs",
    "list_objects",
    "pull",
    "read_object",
    "write_object",
]

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
    return holds(clients, bucket, "") is not None


def holds(clients: Clients, bucket: str, name: str) -> bool | None:
    """Whether the bucket holds an object of this name; None: there is no such bucket.

    Raises:
        PermissionDenied: There is one, but the account may not list its objects.
    """
    try:
        # Listing needs a permission that every user of a bucket has; reading the bucket's own
        # description (storage.buckets.get) needs one that many don't have.
        found = list_blobs(clients, bucket, "name", prefix=name or None, max_results=1)
    except NotFound:
        return None
    except PermissionDenied as error:
        raise _taken(bucket, error.message) from error
    return any(blob.name == name for blob in found)


def delete_object(clients: Clients, bucket: str, name: str) -> None:
    """Delete an object; one that isn't there is done."""
    blob = clients.storage.bucket(bucket).blob(name)
    with suppress(NotFound):
        clients.call(
            f"object {name}",
            lambda: blob.delete(if_generation_match=None, retry=None, timeout=CALL_TIMEOUT),
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
        for blob in list_blobs(clients, bucket, fields, prefix=prefix.rstrip("/") or None)
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


def delete_prefix(clients: Clients, bucket: str, prefix: str, *, last: str = "") -> int:
    """Delete all objects in a folder; how many there were.

    The prefix is a whole name: `quick` and `quick/` are the same, and leave `quick2/` alone.
    No bucket is nothing to delete.

    Args:
        clients: The clients.
        bucket: The bucket.
        prefix: The folder.
        last: Name of an object in it that is deleted when all others are.

    Raises:
        InvalidRequest: The prefix is empty.
    """
    folder = prefix.strip("/")
    if not folder:
        raise InvalidRequest("prefix: empty, it would be the whole bucket")
    try:
        found = list_blobs(clients, bucket, "name", prefix=f"{folder}/")
    except NotFound:
        return 0

    def delete(name: str) -> None:
        delete_object(clients, bucket, name)

    names = [blob.name for blob in found]
    with ThreadPoolExecutor(_DELETIONS, thread_name_prefix="delete") as pool:
        list(pool.map(delete, (name for name in names if name != last)))
    if last in names:
        delete(last)
    return len(found)


def list_blobs(clients: Clients, bucket: str, fields: str, **options: Any) -> list[Any]:
    """The client library's objects of a listing, with only these fields of each.

    Raises:
        NotFound: No such bucket.
    """
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


def read_object(clients: Clients, bucket: str, name: str, *, resource: str) -> tuple[bytes, int]:
    """An object's content and generation.

    Raises:
        NotFound: No such object; errors name the `resource`.
    """
    blob = clients.storage.bucket(bucket).blob(name)
    content = clients.call(
        resource, lambda: blob.download_as_bytes(retry=None, timeout=CALL_TIMEOUT)
    )
    return content, int(blob.generation or 0)


def write_object(
    clients: Clients,
    bucket: str,
    name: str,
    content: str | bytes,
    metadata: Mapping[str, str],
    *,
    generation: int,
    resource: str,
) -> int:
    """Write an object, JSON text or bytes, if it is of this generation (0: isn't there).

    Returns:
        The new generation.

    Raises:
        AlreadyExists: It is of another generation; errors name the `resource`.
    """
    blob = clients.storage.bucket(bucket).blob(name)
    blob.metadata = dict(metadata)
    kind = "application/json" if isinstance(content, str) else "application/octet-stream"
    try:
        clients.call(
            resource,
            lambda: blob.upload_from_string(
                content,
                content_type=kind,
                if_generation_match=generation,
                retry=None,
                timeout=CALL_TIMEOUT,
            ),
        )
    except AlreadyExists:
        # The answer to our own writing may have been lost, and this is that of a second try.
        with suppress(NotFound):
            there, found = read_object(clients, bucket, name, resource=resource)
            if there == (content.encode() if isinstance(content, str) else content):
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
