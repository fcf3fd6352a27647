"""Results of a training, from a folder to the bucket and back.

`Uploader` looks for what is new in a folder, pass by pass; `Following` does so in the background
while a program fills it; `upload_tree` uploads one that is complete. `download_tree` is the way
back. All check what they send or fetch (the client compares checksums), have several files on
their way at a time, and try again what fails.

A file that is replaced by renaming another one to its name, as checkpoints and models are, is
never sent half old and half new: what was opened is sent. Names that begin with a dot or end in
`.tmp` are unfinished, and are left out.
"""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sinergym_trainer.errors import InvalidOptions, TrainerError, one_line

CHUNK = 8 << 20
"""Bytes of a large file that are in memory at a time, for each of the files on their way."""
PARALLEL = 4


FIRST = ("checkpoints/", "model.zip", "model.json", "normalization.npz", "best_model/")
"""What is uploaded before all else, by the beginnings of paths: there may be little time."""


class UploadFailed(Exception):
    """Some files could not be uploaded; the text names the first of them and why."""


class DownloadFailed(Exception):
    """Objects could not be listed or fetched; the text names the first of them and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """What is in the bucket: the number of files, and their bytes together."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """What was fetched: the number of files, and their bytes together."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object in a bucket."""

    name: str
    path: str
    """Its name below the prefix that was asked for."""
    size: int
    updated: datetime


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


def reachable(
    bucket: str,
    prefix: str = "",
    *,
    patience: float = 120.0,
    say: Callable[[str], None] = lambda _line: None,
) -> None:
    """Make sure that objects can be written to a bucket, before anything costly begins.

    It asks for an object to be written on a condition that cannot hold (the generation 1 of one
    that does not exist), so nothing is: a bucket that would take it answers 412.

    Args:
        bucket: the bucket's name.
        prefix: where objects will be written.
        patience: seconds to wait while nobody answers (503, no network).
        say: gets a line when it has to wait.

    Raises:
        InvalidOptions: there is no such bucket, it must not be written to, or there are no
            credentials; one line says which.
        TrainerError: nobody has answered in all the time.
    """
    from google.api_core.exceptions import Forbidden, NotFound, PreconditionFailed, Unauthorized
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    name = "/".join(part for part in (prefix.strip("/"), ".sinergym-may-i-write") if part)
    try:
        probe = connect(bucket).blob(name)
        probe.upload_from_string(
            b"", if_generation_match=1, retry=_retry(patience, say), timeout=(5, 20)
        )
    except PreconditionFailed:
        return
    except NotFound as error:
        raise InvalidOptions(f"there is no bucket gs://{bucket}; make it, or name another") from (
            error
        )
    except (Forbidden, Unauthorized) as error:
        raise InvalidOptions(
            f"gs://{bucket} must not be written to with these credentials: {_reason(error)}"
        ) from error
    except (DefaultCredentialsError, RefreshError) as error:
        raise InvalidOptions(
            f"no Google credentials to write to gs://{bucket} with:"
            f" gcloud auth application-default login ({_reason(error)})"
        ) from error
    except Exception as error:
        raise TrainerError(f"gs://{bucket} cannot be reached: {_reason(error)}") from error


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
    if failed:
        raise _missing(failed, folder, f"gs://{bucket}/{prefix}")
    return uploader.total


def download_tree(
    bucket: str,
    prefix: str,
    folder: Path,
    *,
    patience: float = 120.0,
    say: Callable[[str], None] = lambda _line: None,
) -> Downloaded:
    """Fetch all objects of `gs://<bucket>/<prefix>/...` into a folder, made if missing.

    Args:
        bucket: the bucket's name.
        prefix: the objects' common beginning, with or without a slash at its end.
        folder: gets them; files of the same names are replaced, each as a whole.
        patience: seconds to try while the bucket is away, for the list and for each object.
        say: gets a line when it has to wait.

    Raises:
        DownloadFailed: something is missing in the folder now.
    """
    below = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    objects = objects_below(bucket, below, patience=patience, say=say)
    paths = download(bucket, objects, folder, patience=patience, say=say)
    return Downloaded(files=len(paths), bytes=sum(path.stat().st_size for path in paths))


def objects_below(
    bucket: str,
    prefix: str,
    *,
    patience: float,
    say: Callable[[str], None] = lambda _line: None,
) -> list[Stored]:
    """List the objects whose names begin with a prefix and then name a file below a folder.

    Raises:
        DownloadFailed: the bucket cannot be read.
    """
    try:
        blobs = list(
            connect(bucket).list_blobs(prefix=prefix, retry=_retry(patience, say), timeout=(5, 60))
        )
    except Exception as error:
        raise DownloadFailed(f"gs://{bucket}/{prefix}: {_reason(error)}") from error
    found = [
        Stored(
            name=blob.name,
            path=blob.name.removeprefix(prefix),
            size=int(blob.size or 0),
            updated=blob.updated or datetime.min.replace(tzinfo=UTC),
        )
        for blob in blobs
    ]
    return [it for it in found if _can_be_a_file(it.path)]


def download(
    bucket: str,
    objects: Sequence[Stored],
    folder: Path,
    *,
    patience: float,
    say: Callable[[str], None] = lambda _line: None,
) -> list[Path]:
    """Fetch objects into a folder; each appears there whole. Returns their paths.

    Raises:
        DownloadFailed: one could not be fetched or written.
    """
    if not objects:
        return []
    try:
        source = connect(bucket)
    except Exception as error:
        raise DownloadFailed(f"gs://{bucket}: {_reason(error)}") from error

    def fetch(wanted: Stored) -> Path:
        path = folder / wanted.path
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The newest generation, which may be newer than the list.
            source.blob(wanted.name).download_to_filename(
                str(temporary), retry=_retry(patience, say), timeout=(5, 60), checksum="auto"
            )
            temporary.replace(path)
        except Exception as error:
            temporary.unlink(missing_ok=True)
            raise DownloadFailed(f"gs://{bucket}/{wanted.name}: {_reason(error)}") from error
        return path

    with ThreadPoolExecutor(min(PARALLEL, len(objects)), "downloads") as pool:
        return list(pool.map(fetch, objects))


class Following:
    """Uploads what appears in a folder, in the background, while a program fills it.

    A crash of the program loses what the last `seconds` and one pass have brought. It never
    disturbs the program: trouble with the bucket is said in a line, once, and tried again.

    Args:
        folder: what to follow; it may not exist yet.
        bucket: the bucket's name.
        prefixes: as `Uploader`'s.
        seconds: between two passes.
        say: gets a line about trouble.
    """

    def __init__(
        self,
        folder: Path,
        bucket: str,
        prefixes: Mapping[str, str],
        *,
        seconds: float = 15.0,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._folder = folder
        self._where = f"gs://{bucket}"
        self._uploader = Uploader(_once(lambda: connect(bucket)), folder, prefixes)
        self._seconds = seconds
        self._say = say
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, seconds: float = 600.0) -> Uploaded:
        """Upload what is still missing; returns what is in the bucket.

        Args:
            seconds: to try while the bucket is away; files that are on their way are not cut.

        Raises:
            UploadFailed: the time was not enough, or files were refused; it names the first.
        """
        deadline = time.monotonic() + seconds
        self._done.set()
        delay = 0.5
        while True:
            failed = self._uploader.sync(lambda: time.monotonic() >= deadline).failed
            if not failed:
                return self._uploader.total
            if time.monotonic() + delay >= deadline:
                raise _missing(failed, self._folder, self._where)
            time.sleep(delay)
            delay = min(delay * 2, 15.0)

    def _follow(self) -> None:
        problem: str | None = None
        while not self._done.wait(self._seconds):
            failed = self._uploader.sync(self._done.is_set).failed
            if self._done.is_set():
                return
            if not failed:
                problem = None
                continue
            path, why = next(iter(failed.items()))
            if why != problem:
                self._say(f"{path} could not be uploaded to {self._where} yet: {why}")
            problem = why


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
            changed.sort(key=_rank)
            if not changed:
                return Round(uploaded=0, failed={}, skipped=tuple(skipped))
            try:
                bucket = self._bucket()
            except Exception as error:
                return Round(
                    uploaded=0,
                    failed=dict.fromkeys(changed, _reason(error)),
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
                if name.startswith(".") or name.endswith(".tmp"):
                    continue
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
                retry = _retry(10.0, stop=stop)
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
            return _reason(error)
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


def _can_be_a_file(path: str) -> bool:
    parts = path.split("/")
    return "" not in parts and ".." not in parts and "." not in parts and "\0" not in path


def _rank(path: str) -> int:
    """Where a file stands in the queue: what a training goes on with first, graphs last."""
    for rank, start in enumerate(FIRST):
        if path.startswith(start):
            return rank
    return len(FIRST) + path.startswith("tensorboard/")


def _missing(failed: Mapping[str, str], folder: Path, where: str) -> UploadFailed:
    path, why = next(iter(failed.items()))
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return UploadFailed(f"{folder / path}{more} to {where}: {why}")


def _once[Made](make: Callable[[], Made]) -> Callable[[], Made]:
    """Make something at the first call that succeeds; one thread calls at a time."""
    made: list[Made] = []

    def get() -> Made:
        if not made:
            made.append(make())
        return made[0]

    return get


def _reason(error: BaseException) -> str:
    """The cause of an error in one line: what the server said of it, if it did.

    https://cloud.google.com/storage/docs/json_api/v1/status-codes has the form of its replies.
    """
    from google.api_core.exceptions import RetryError

    if isinstance(error, RetryError) and error.cause is not None:
        error = error.cause
    cause = getattr(next(iter(error.args), None), "reason", None)
    if isinstance(cause, Exception):  # of urllib3, below a requests.ConnectionError
        return f"no connection: {str(cause).rpartition(': ')[2]}"
    response = getattr(error, "response", None)
    try:
        said = response.json()["error"]  # type: ignore[union-attr]
        return " ".join(f"{said['code']} {said['message']}".split())[:300]
    except (AttributeError, ValueError, LookupError, TypeError):
        return one_line(error)


def _retry(
    seconds: float,
    say: Callable[[str], None] = lambda _line: None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Any:
    """A retry of what may pass, for so long; it says so once."""
    from google.api_core.retry import Retry

    said: list[bool] = []

    def waiting(error: Exception) -> None:
        if not said:
            said.append(True)
            say(f"the bucket does not answer, trying again for {seconds:g} s: {_reason(error)}")

    return Retry(
        predicate=lambda error: _is_passing(error) and not stop(),
        initial=0.5,
        maximum=2.0 if seconds <= 10 else 15.0,
        timeout=seconds,
        on_error=waiting,
    )


def _is_passing(error: Exception) -> bool:
    # https://cloud.google.com/storage/docs/retry-strategy; sending a file again does no harm here.
    import requests
    from google.auth.exceptions import TransportError
    from google.cloud.storage.exceptions import DataCorruption

    # A reply that the client refuses has its status in the response, all other errors have a code.
    code = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
    if isinstance(code, int):
        return code in {408, 429} or code >= 500
    return isinstance(
        error,
        ConnectionError
        | requests.ConnectionError
        | requests.Timeout
        | requests.exceptions.ChunkedEncodingError
        | TransportError
        | DataCorruption,
    )
