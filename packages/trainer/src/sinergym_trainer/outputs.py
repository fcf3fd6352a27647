"""Results of a training, from a folder to the bucket.

`Uploader` follows a folder while a program fills it; `upload_tree` uploads one that is complete.
Both check what they send (the client compares checksums), send several files at a time, and
try again what fails.
"""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinergym_trainer.errors import one_line

CHUNK = 8 << 20
"""Bytes of a large file that are in memory at a time, for each of the files on their way."""
PARALLEL = 4


class UploadFailed(Exception):
    """Some files could not be uploaded; the text names the first of them and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """What is in the bucket: the number of files, and their bytes together."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one pass over the folder did."""

    uploaded: int
    failed: Mapping[str, str]
    """Why a file could not be uploaded, by its path in the folder."""
    skipped: tuple[str, ...] = ()
    """Files whose names no object can have; another pass will not help."""


def connect(bucket: str, project: str | None = None) -> Any:
    """Return a `google.cloud.storage.Bucket`, without asking whether it exists.

    The client's own rules hold: `STORAGE_EMULATOR_HOST`, or else application-default credentials
    (on a VM those of its service account).
    """
    # Else the client asks for the bucket's metadata in a thread of its own, for traces we lack.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    from google.cloud import storage

    # Without a project the client looks for one, which fails where none is needed.
    return storage.Client(project=project or "unused").bucket(bucket)


def upload_tree(
    folder: Path, bucket: str, prefix: str, *, pauses: Sequence[float] = (1.0, 2.0)
) -> Uploaded:
    """Upload all files below a folder to `gs://<bucket>/<prefix>/...`.

    Args:
        folder: what to upload; symbolic links that leave it are not followed.
        bucket: the bucket's name.
        prefix: the objects' common beginning, with or without a slash at its end.
        pauses: seconds before each further try of all that is missing; passing trouble with one
            file has been waited out for 10 s in each.

    Raises:
        UploadFailed: after several tries some files are still missing in the bucket.
    """
    uploader = Uploader(lambda: connect(bucket), folder, {"": f"{prefix.strip('/')}/"})
    failed = uploader.sync().failed
    for pause in pauses:
        if not failed:
            break
        time.sleep(pause)
        failed = uploader.sync().failed
    if not failed:
        return uploader.total
    path, why = next(iter(failed.items()))
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    raise UploadFailed(f"{folder / path}{more} to gs://{bucket}/{prefix}: {why}")


class Uploader:
    """Uploads what is new or changed below a folder, pass by pass.

    Args:
        bucket: gives the bucket, connecting at first use.
        folder: what to follow.
        prefixes: where a file goes, by the beginning of its path in the folder; the longest
            that fits is replaced: `{"": "s/s-1/output/", "tensorboard/": "s/tensorboard/s-1/"}`.
    """

    def __init__(
        self, bucket: Callable[[], Any], folder: Path, prefixes: Mapping[str, str]
    ) -> None:
        self._bucket = bucket
        self._folder = folder
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))
        self._sent: dict[str, _Signature] = {}
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def total(self) -> Uploaded:
        """What this uploader has put into the bucket so far."""
        sizes = list(self._sizes.values())
        return Uploaded(files=len(sizes), bytes=sum(sizes))

    def sync(self, stop: Callable[[], bool] = lambda: False) -> Round:
        """Upload what is new or changed since it was last uploaded.

        A file that grows or changes meanwhile is sent again by the next pass.

        Args:
            stop: when it becomes true, files not yet begun are left, and count as failed.
        """
        with self._lock:
            changed: list[str] = []
            skipped: list[str] = []
            for path, signature in self._files():
                if self._sent.get(path) == signature:
                    continue
                (changed if _can_be_named(self.object_name(path)) else skipped).append(path)
            if not changed:
                return Round(uploaded=0, failed={}, skipped=tuple(skipped))
            try:
                bucket = self._bucket()
            except Exception as error:
                return Round(
                    uploaded=0,
                    failed=dict.fromkeys(changed, one_line(error)),
                    skipped=tuple(skipped),
                )
            with ThreadPoolExecutor(min(PARALLEL, len(changed)), "outputs") as pool:
                results = pool.map(lambda path: self._send(bucket, path, stop), changed)
                failed = {
                    path: why
                    for path, why in zip(changed, results, strict=True)
                    if why is not None
                }
            return Round(
                uploaded=len(changed) - len(failed), failed=failed, skipped=tuple(skipped)
            )

    def object_name(self, path: str) -> str:
        """Return the name of the object for a path in the folder."""
        for start, prefix in self._prefixes:
            if path.startswith(start):
                return prefix + path[len(start) :]
        return path

    def _files(self) -> Iterator[tuple[str, "_Signature"]]:
        root = self._folder.resolve()
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                full = Path(folder, name)
                try:
                    if full.is_symlink() and not full.resolve().is_relative_to(root):
                        continue
                    status = full.stat()
                except (OSError, RuntimeError):  # gone since, or a link to nothing or itself
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield str(full.relative_to(root)), _signature(status)

    def _send(self, bucket: Any, path: str, stop: Callable[[], bool]) -> str | None:
        """Upload one file; returns why it failed."""
        from google.api_core.retry import Retry

        if stop():
            return "there was no time left"
        try:
            # Not a pipe that came here under a file's name: opening that would wait for ever.
            descriptor = os.open(Path(self._folder, path), os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    return None
                blob = bucket.blob(self.object_name(path))
                if status.st_size > CHUNK:
                    blob.chunk_size = CHUNK
                retry = Retry(
                    predicate=lambda error: _is_passing(error) and not stop(),
                    initial=0.5,
                    maximum=2.0,
                    timeout=10.0,
                )
                # So many bytes as there were: what is appended meanwhile is the next pass's.
                blob.upload_from_file(
                    file,
                    size=status.st_size,
                    retry=retry,
                    timeout=(5, 60),
                )
        except FileNotFoundError:
            return None
        except Exception as error:
            return one_line(error)
        self._sizes[path] = status.st_size
        # Clocks of file systems tick slowly: a file this young may change without a trace.
        if time.time() - status.st_ctime > 1:
            self._sent[path] = _signature(status)
        else:
            self._sent.pop(path, None)
        return None


_Signature = tuple[int, int, int, int]


def _signature(status: os.stat_result) -> _Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _can_be_named(name: str) -> bool:
    # https://cloud.google.com/storage/docs/objects#naming
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return len(encoded) <= 1024 and all(sign.isprintable() or sign == " " for sign in name)


def _is_passing(error: Exception) -> bool:
    # https://cloud.google.com/storage/docs/retry-strategy; sending a file again does no harm here.
    import requests

    # A reply that the client refuses has its status in the response, all other errors have a code.
    code = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
    if isinstance(code, int):
        return code in {408, 429} or code >= 500
    return isinstance(error, ConnectionError | requests.ConnectionError | requests.Timeout)
