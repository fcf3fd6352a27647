"""Metrics that wait on disk, in a file that survives a killed process.

One JSON object a line: first the head (the run), then metrics, `{"note": ...}` (members of the
head that have changed), and `{"sent": <offset>}`: the server has acknowledged all metrics before
that byte. Lines are only ever appended, and the file is removed when all has been sent. A last
line that was cut off in the middle does not count.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from sinergym_trainer.errors import OutputUnusable

NAME = "mlflow-unsent.jsonl"
"""The file's name in the output folder."""

KEPT = ".mlflow-kept.jsonl"
"""The name of a checkpoint's copy: of what had not been sent when it was made."""

_CHUNK = 1 << 18
_CLOSED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One value of one metric; `timestamp` in milliseconds, `step` in timesteps of training."""

    key: str
    value: float
    timestamp: int
    step: int


def _now() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What there is to know of a run, in order to make or find it on a server. No credentials."""

    experiment: str
    name: str
    run_id: str | None = None
    """Known once the server has answered, or of the run that is resumed."""
    tags: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    started: int = field(default_factory=_now)
    """Milliseconds since 1970."""
    artifact_location: str | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Finds a run whose making was never answered."""
    status: str | None = None
    """How the training ended, or None while it runs or when it was killed."""
    ended: int | None = None
    artifacts: tuple[str, ...] = ()
    """Files and folders to store, relative to the spool's folder."""
    served: Mapping[str, Any] | None = None
    """The model to store with its signature, as in `serving.ServedModel`."""


class NoSpool(OutputUnusable):
    """The file is not one of unsent metrics."""


class SpoolBusy(OutputUnusable):
    """A living process writes the file."""


class Spool:
    """A file of metrics that wait for a server; made when the first ones are appended.

    While it is open no other process can open it (`flock`, which ends with the process).

    Args:
        path: the file; an old one of another run is set aside under a numbered name.
        head: the run.

    Raises:
        SpoolBusy: another process writes there.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self.head = head
        self.waiting = 0
        """How many metrics are in the file and not acknowledged."""
        self._next = 0
        self._file = _CLOSED
        if path.exists():
            self._adopt()

    @classmethod
    def existing(cls, path: Path) -> Self:
        """Open a file that is there, as `sync` does.

        Raises:
            NoSpool: it is something else.
            SpoolBusy: another process writes it.
            OSError: it cannot be read.
        """
        spool = cls.__new__(cls)
        spool.path = path
        spool._open(os.O_RDWR | os.O_APPEND)
        try:
            spool._read()
        except (ValueError, TypeError, AttributeError) as error:
            spool.close()
            raise NoSpool(f"{path} is not a file of unsent metrics: {error}") from error
        except BaseException:
            spool.close()
            raise
        return spool

    def append(self, metrics: Iterable[Metric]) -> int:
        """Add metrics, and return the offset behind them.

        Raises:
            OSError: the disk is full, or the like; then none of them was added.
        """
        if self._file == _CLOSED:
            self._open(os.O_RDWR | os.O_APPEND | os.O_CREAT)
            self._next = self._write([asdict(self.head)])
        lines = [asdict(metric) for metric in metrics]
        end = self._write(lines)
        self.waiting += len(lines)
        return end

    def take(self, limit: int) -> tuple[list[Metric], int]:
        """Return the oldest metrics that wait, and the offset behind them."""
        metrics: list[Metric] = []
        offset = self._next
        for line, end in self._lines(self._next):
            if len(metrics) == limit:
                break
            if (metric := _metric(line)) is not None:
                metrics.append(metric)
            offset = end
        return metrics, offset

    def acknowledge(self, offset: int, number: int) -> None:
        """Mark `number` metrics before an offset as sent; no metric is left: the file goes."""
        self._next = offset
        self.waiting -= number
        if self.waiting <= 0:
            self.discard()
        else:
            with contextlib.suppress(OSError):  # full: at worst they are sent twice
                self._write([{"sent": offset}])

    def note(self, **changes: Any) -> None:
        """Change members of the head, in the file too if there is one."""
        self.head = replace(self.head, **changes)
        if self._file != _CLOSED:
            self._write([{"note": changes}])

    def copy(self, to: Path, more: Iterable[Metric] = ()) -> None:
        """Write a file like this one, with more metrics behind those that wait here.

        Raises:
            OSError: the disk is full, or the like.
        """
        with to.open("wb") as copied:
            offset = 0
            while self._file != _CLOSED and (chunk := os.pread(self._file, _CHUNK, offset)):
                copied.write(chunk)
                offset += len(chunk)
            first = asdict(self.head)
            copied.write(_encoded([{"note": first} if offset else first]))
            copied.write(_encoded(asdict(metric) for metric in more))

    def rewind(self, step: int, kept: Iterable[Metric]) -> None:
        """Let wait what a checkpoint kept, and of what waits here nothing after its step.

        Raises:
            OSError: the disk is full, or the like.
        """
        here = self.take(self.waiting)[0] if self.waiting else []
        wanted = list(kept)
        known = set(wanted)
        wanted += [metric for metric in here if metric.step <= step and metric not in known]
        if wanted != here:
            self.discard()
            if wanted:
                self.append(wanted)

    def keep(self) -> None:
        """Have all of the head in the file, which is made even when no metric waits.

        Raises:
            OSError: the disk is full, or the like.
        """
        self.append(())
        self._write([{"note": asdict(self.head)}])

    def discard(self) -> None:
        """Remove the file: all of it has been sent."""
        if self._file != _CLOSED:
            self.path.unlink(missing_ok=True)
        self.waiting = 0
        self.close()

    def close(self) -> None:
        """Leave the file to others."""
        if self._file != _CLOSED:
            os.close(self._file)
            self._file = _CLOSED

    def _adopt(self) -> None:
        """Go on with the file of the same run, or set another one's aside."""
        head = self.head
        try:
            old = Spool.existing(self.path)
        except NoSpool:
            old = None
        if old is not None and (
            old.head.token == head.token or (head.run_id and old.head.run_id == head.run_id)
        ):
            self._file, self._next, self.waiting = old._file, old._next, old.waiting
            self.note(status=None, ended=None)
            return
        if old is not None:
            old.close()
        number = 1
        while (aside := self.path.with_suffix(f".{number}.jsonl")).exists():
            number += 1
        self.path.rename(aside)

    def _open(self, flags: int) -> None:
        file = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system without locks is no reason to lose metrics.
            if error.errno == errno.EWOULDBLOCK:
                os.close(file)
                raise SpoolBusy(f"{self.path} is being written by a training that runs") from error
        self._file = file
        self.waiting = 0
        self._next = 0

    def _read(self) -> None:
        """Learn head, marks and numbers, and cut off what a killed process has half written."""
        waiting: list[int] = []
        head: dict[str, Any] | None = None
        whole = sent = 0
        for line, end in self._lines(0):
            start, whole = whole, end
            if head is None:
                if not {"experiment", "name", "token"} <= line.keys():
                    raise NoSpool(f"{self.path} is not a file of unsent metrics")
                head = line
                self._next = end
            elif "note" in line:
                head |= line["note"]
            elif "sent" in line:
                sent = int(line["sent"])
                waiting = [offset for offset in waiting if offset >= sent]
            elif _metric(line) is not None:
                waiting.append(start)
        if head is None:
            raise NoSpool(f"{self.path} is not a file of unsent metrics")
        os.ftruncate(self._file, whole)
        known = {each.name for each in fields(Head)}
        self.head = Head(**{key: value for key, value in head.items() if key in known})
        self._next = max(self._next, sent)
        self.waiting = len(waiting)

    def _lines(self, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole lines from an offset on, each with the offset behind it."""
        rest = b""
        while chunk := os.pread(self._file, _CHUNK, offset + len(rest)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                offset += len(line) + 1
                try:
                    members = json.loads(line)
                except ValueError:
                    members = None
                yield (members if isinstance(members, dict) else {}), offset

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> int:
        content = _encoded(lines)
        before = os.fstat(self._file).st_size
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise
        return before + len(content)


def _encoded(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _metric(line: Mapping[str, Any]) -> Metric | None:
    try:
        return Metric(
            key=str(line["key"]),
            value=float(line["value"]),
            timestamp=int(line["timestamp"]),
            step=int(line["step"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
