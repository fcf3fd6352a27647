"""The container's log: standard output and error, copied to the bucket in segments.

`Log` takes over descriptors 1 and 2 of this process, so the runner's lines, the command's output
(it inherits them) and whatever a library prints go one way, in order: through a pipe to a thread
that writes each byte to the real standard output and to a spool on disk. A second thread uploads
the spool as segments named by offset (`docs/contract.md`, 2) and deletes what is uploaded.
Memory stays small whatever the command prints and however slow the bucket is.
"""

import fcntl
import os
import select
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sinergym_trainer.errors import one_line

SEGMENT_LIMIT = 4 << 20
"""Bytes of one spool file, and so of the largest segment."""
EARLY = 256 << 10
"""So many bytes are uploaded without waiting for `DELAY`."""
DELAY = 3.5
"""Seconds that a byte waits for others; the contract allows 5 until it is in the bucket."""
TAIL = 8 << 10


class Log:
    """Standard output and error from now on, as one stream of bytes with offsets.

    Args:
        folder: where the spool lies; what an earlier runner left there is removed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.log"):
            old.unlink()
        self._folder = folder
        self._lock = threading.Condition()
        self._pending: deque[_Spool] = deque()
        self._size = 0
        self._uploaded = 0
        self._lost = 0
        self._tail = b""
        self._waiting_since: float | None = None
        self._hurry = False
        self._done = False
        self._withdrawn = False
        self.last_error: str | None = None
        """The latest trouble with a segment, in one line; None when there was none."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._real = os.dup(1)
        self._source, sink = os.pipe()
        for standard in (1, 2):
            os.dup2(sink, standard)
        os.close(sink)
        self._copier = threading.Thread(target=self._copy, name="log", daemon=True)
        self._copier.start()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    @property
    def lost(self) -> int:
        """Bytes that could not be kept on the disk, and that the bucket will not have."""
        return self._lost

    def tail(self) -> str:
        """Return the last 8 KiB as text."""
        with self._lock:
            return self._tail.decode("utf-8", "replace")

    def publish(self, bucket: Callable[[], Any], prefix: str) -> None:
        """Upload segments to `<prefix><offset>.log` from now on, from the first byte."""
        threading.Thread(
            target=self._upload, args=(bucket, prefix), name="segments", daemon=True
        ).start()

    def withdraw(self) -> None:
        """Upload nothing more; what a request has on its way already may still arrive."""
        with self._lock:
            self._withdrawn = True
            self._lock.notify_all()

    def flush(self, give_up: Callable[[], bool]) -> bool:
        """Wait until everything printed so far is in the bucket.

        Returns:
            False when `give_up` said so first.
        """
        self._drain(give_up)
        with self._lock:
            goal = self._size
            while self._uploaded < goal:
                if give_up():
                    return False
                self._hurry = True
                self._lock.notify_all()
                self._lock.wait(0.1)
        return True

    def close(self) -> None:
        """Give descriptors 1 and 2 back, after all that was printed has been copied."""
        sys.stdout.flush()
        sys.stderr.flush()
        deadline = time.monotonic() + 5
        for standard in (1, 2):
            os.dup2(self._real, standard)
        self._drain(lambda: time.monotonic() > deadline)
        self._done = True
        self._copier.join(1)

    def _drain(self, give_up: Callable[[], bool]) -> None:
        # The copier reads and counts under the lock: an empty pipe then means "all counted".
        while not give_up():
            if self._lock.acquire(timeout=0.1):
                try:
                    if _bytes_in(self._source) == 0:
                        return
                finally:
                    self._lock.release()
            time.sleep(0.01)

    def _copy(self) -> None:
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        open_file: int | None = None
        while not self._done:
            if not poll.poll(500):
                continue
            with self._lock:
                content = os.read(self._source, 1 << 16)
                if not content:
                    return
                self._pass_on(content)
                open_file = self._spool(content, open_file)
                self._tail = (self._tail + content)[-TAIL:]
                if self._waiting_since is None:
                    self._waiting_since = time.monotonic()
                    self._lock.notify_all()
                elif self._size - self._uploaded >= EARLY:
                    self._lock.notify_all()

    def _pass_on(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            try:
                view = view[os.write(self._real, view) :]
            except BlockingIOError:  # whoever started us made it non-blocking
                select.select([], [self._real], [], 1)
            except OSError:  # nobody reads the container's output any more: the bucket still does
                return

    def _spool(self, content: bytes, open_file: int | None) -> int | None:
        """Keep the bytes for the bucket; returns the open spool file."""
        last = self._pending[-1] if self._pending else None
        if open_file is None or last is None or last.length >= SEGMENT_LIMIT or last.sealed:
            if open_file is not None:
                os.close(open_file)
                open_file = None
            last = _Spool(self._folder / f"{self._size:012d}.log", self._size)
        written = 0
        try:
            if open_file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                open_file = os.open(last.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                self._pending.append(last)
            while written < len(content):
                written += os.write(open_file, content[written:])
        except OSError:
            # The disk is full, say. The gap shows in the segments' names, which keep counting.
            self._lost += len(content) - written
            last.sealed = True
        last.length += written
        self._size += len(content)
        return open_file

    def _upload(self, bucket: Callable[[], Any], prefix: str) -> None:
        while True:
            segment = self._next_segment()
            delay = 0.5
            while not self._withdrawn and not self._try_upload(bucket, prefix, segment):
                time.sleep(0.5)
                with self._lock:
                    self._hurry = False
                    self._lock.wait_for(lambda: self._hurry, delay)
                delay = min(delay * 2, 20.0)
            if self._withdrawn:
                return
            with self._lock:
                segment.spool.uploaded += segment.length
                self._uploaded = segment.offset + segment.length
                self._waiting_since = None
                while self._pending and self._pending[0].is_done(self._pending[-1]):
                    self._pending.popleft().path.unlink(missing_ok=True)
                if not self._pending or not self._pending[0].rest:
                    self._uploaded = self._size  # behind it only what a full disk has lost
                else:
                    self._waiting_since = segment.cut
                self._lock.notify_all()

    def _next_segment(self) -> "_Segment":
        with self._lock:
            while True:
                spool = next((s for s in self._pending if s.rest), None)
                if spool is None:
                    self._uploaded = self._size
                    self._hurry = False
                    self._lock.notify_all()
                    self._lock.wait()
                    continue
                if self._withdrawn:
                    return _Segment(spool)
                since = self._waiting_since or 0.0
                rest = since + DELAY - time.monotonic()
                full = self._size - self._uploaded >= EARLY
                if full or self._hurry or rest <= 0:
                    return _Segment(spool)
                self._lock.wait(rest)

    def _try_upload(self, bucket: Callable[[], Any], prefix: str, segment: "_Segment") -> bool:
        from google.api_core.exceptions import PreconditionFailed

        try:
            blob = bucket().blob(f"{prefix}{segment.offset:012d}.log")
            # Only we write under this attempt: if it is there, an earlier try of ours made it.
            blob.upload_from_string(
                segment.content(),
                content_type="text/plain; charset=utf-8",
                if_generation_match=0,
                retry=None,
                timeout=(5, 60),
            )
        except PreconditionFailed:
            return True
        except FileNotFoundError:
            # The command has cleared the working directory: the next bytes get a new file.
            with self._lock:
                segment.spool.sealed = True
                self._lost += segment.length
            return True
        except Exception as error:
            self.last_error = one_line(error)
            return False
        return True


def say(text: str) -> None:
    """Print a line of the runner's own, at once and as a whole."""
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    if len(shown) > 2000:
        shown = f"{shown[:2000]} ... ({len(shown)} characters)"
    line = f"sinergym-runner: {shown}\n".encode("utf-8", "backslashreplace")
    try:
        while line:
            line = line[os.write(1, line) :]
    except OSError:
        return


class _Spool:
    """One file of the spool: bytes of the log from `offset` on."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.offset = offset
        self.length = 0
        self.uploaded = 0
        self.sealed = False

    @property
    def rest(self) -> int:
        return self.length - self.uploaded

    def is_done(self, last: "_Spool") -> bool:
        closed = self is not last or self.sealed or self.length >= SEGMENT_LIMIT
        return closed and not self.rest


class _Segment:
    """A part of a spool file, fixed: a second try uploads the same bytes to the same name."""

    def __init__(self, spool: _Spool) -> None:
        self.spool = spool
        self.start = spool.uploaded
        self.length = spool.rest
        self.offset = spool.offset + self.start
        self.cut = time.monotonic()

    def content(self) -> bytes:
        with self.spool.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)


def _bytes_in(pipe: int) -> int:
    count = fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(count, sys.byteorder)
