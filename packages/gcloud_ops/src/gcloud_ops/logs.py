"""Logs of experiments: what the bucket holds, and then what the containers print, joined exactly.

A segment's name in the bucket is the offset of its first byte in the container's output
(docs/contract.md, section 2). So a live container's output continues the bucket's at a byte that
is known: what was read already is dropped, and nothing is missing.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass

from gcloud_ops import instances, ssh
from gcloud_ops.bucket import read_log, tail_log
from gcloud_ops.clients import Clients
from gcloud_ops.contract import CONTAINER
from gcloud_ops.dispatch import AT_ONCE, raise_open_files_limit
from gcloud_ops.errors import GcloudOpsError, NotFound, Unavailable
from gcloud_ops.model import ExperimentStatus, Instance, Observation, Snapshot
from gcloud_ops.sweeps import SweepWatch, is_over, select

__all__ = ["LogChunk", "follow", "read", "select"]

_POLL = 1.0  # seconds between two listings of an experiment's segments
_LOOK = 2.0  # seconds between two looks at the sweep
_SILENCE = 5.0  # seconds without a byte from a container; then the bucket is looked at
_SSH_TRIES = 3  # in a row without a byte; then the bucket has to do until the next attempt

_LIVE = frozenset({ExperimentStatus.WAITING, ExperimentStatus.RUNNING, ExperimentStatus.UPLOADING})


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A piece of an experiment's log."""

    experiment: str
    attempt: int
    data: bytes
    """As it was printed: pass it through `text.clean` before showing it."""
    is_new: bool = True
    """Whether it was printed since the reading began, give or take some seconds."""


def read(
    clients: Clients,
    bucket: str,
    sweep: str,
    experiment: str,
    *,
    attempt: int | None = None,
    tail: int | None = None,
) -> bytes:
    """What the bucket holds of a log, from its begin or its last `tail` lines.

    Raises:
        NotFound: No such bucket. A log that isn't there yet is empty.
    """
    if tail is None:
        return read_log(clients, bucket, sweep, experiment, attempt=attempt)[0]
    return tail_log(clients, bucket, sweep, experiment, lines=tail, attempt=attempt)[0]


def follow(
    sweep: str,
    clients: Clients,
    experiments: Iterable[str] = (),
    *,
    bucket: str | None = None,
    tail: int | None = None,
    stop: threading.Event | None = None,
) -> Iterator[LogChunk]:
    """Logs as they grow, without gap or repetition, until their experiments have ended.

    While a container is up its output is read over SSH (up to 64 at once); where that can't be,
    the bucket is looked at once a second. A new attempt begins at its first byte.

    Args:
        sweep: The sweep's name.
        clients: The cloud.
        experiments: Which, as `select` takes them; none means all.
        bucket: Where the sweep is; None: the setting's.
        tail: Begin with so many last lines of each; None: with the first byte.
        stop: Set it to end early.

    Raises:
        NotFound: There is no such sweep, or no such experiment in it.
        GcloudOpsError: The bucket refused; an interruption of the cloud is waited out.
    """
    looking = SweepWatch(sweep, clients, bucket=bucket)
    seen = looking.refresh()
    following = _Following(looking, clients, seen, select(seen, experiments), tail)
    with following:
        while stop is None or not stop.is_set():
            try:
                item = following.items.get(timeout=0.5)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


class _Following:
    """One event loop on one thread: a task for each experiment, one that looks at the sweep."""

    def __init__(
        self,
        looking: SweepWatch,
        clients: Clients,
        seen: Snapshot,
        experiments: tuple[str, ...],
        tail: int | None,
    ) -> None:
        self._looking = looking
        self._clients = clients
        self._experiments = experiments
        self._tail = tail
        self._rows = {row.id: row for row in seen.rows}
        self._is_over = is_over(seen)
        self._instances: dict[str, Instance] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._main: asyncio.Task[None] | None = None
        # Bounded: a reader that is slower than the containers slows them, and fills no memory.
        self.items: queue.Queue[LogChunk | BaseException | None] = queue.Queue(256)
        self._closed = threading.Event()

    def __enter__(self) -> None:
        raise_open_files_limit(len(self._experiments) + 256)
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._closed.set()
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(timeout=10)

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._follow_all())
            except (CancelledError, asyncio.CancelledError):
                self._put(None)
            except BaseException as error:
                cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
                self._put(cause)
            else:
                self._put(None)

    def _put(self, item: LogChunk | BaseException | None) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self.items.put(item, timeout=0.2)
                return

    async def _follow_all(self) -> None:
        self._main = asyncio.current_task()
        slots = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            look = tasks.create_task(self._look())
            followers = [
                tasks.create_task(self._follow(experiment, slots))
                for experiment in self._experiments
            ]
            for follower in followers:
                await asyncio.wait([follower])
            look.cancel()

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                seen = await asyncio.to_thread(self._looking.refresh)
                self._rows = {row.id: row for row in seen.rows}
                self._is_over = is_over(seen)
            await asyncio.sleep(_LOOK)

    async def _follow(self, experiment: str, slots: asyncio.Semaphore) -> None:
        """Bucket, container, bucket... until the experiment has ended and the bucket is read."""
        log = _Log(experiment, attempt=self._attempt(experiment))
        if self._tail is not None and log.attempt:
            await self._begin_with_tail(log, self._tail)
        silent_tries = 0
        while True:
            # Looked at before reading: what was final before the reading is complete after it.
            row, over = self._rows[experiment], self._is_over
            grew = await self._read_bucket(log)
            newest = self._attempt(experiment)
            if newest != log.attempt:
                if not grew:
                    log, silent_tries = _Log(experiment, attempt=newest, has_begun=True), 0
                continue
            if row.status.is_final or over:
                if not grew:
                    return
                continue
            if row.status in _LIVE and silent_tries < _SSH_TRIES:
                got = await self._read_container(log, row, slots)
                silent_tries = 0 if got else silent_tries + 1
            await asyncio.sleep(_POLL)

    def _attempt(self, experiment: str) -> int:
        record = self._rows[experiment].record
        return record.attempt if record else 0

    async def _begin_with_tail(self, log: "_Log", lines: int) -> None:
        data, log.offset = await asyncio.to_thread(
            tail_log,
            self._clients,
            self._looking.bucket,
            self._looking.manifest.sweep,
            log.experiment,
            lines=lines,
            attempt=log.attempt,
        )
        await self._tell(log, data)
        log.has_begun = True

    async def _read_bucket(self, log: "_Log") -> bool:
        """Whether the bucket had more than was known."""
        if not log.attempt:
            return False
        try:
            data, offset = await asyncio.to_thread(
                read_log,
                self._clients,
                self._looking.bucket,
                self._looking.manifest.sweep,
                log.experiment,
                attempt=log.attempt,
                offset=log.offset,
            )
        except Unavailable:
            return False
        log.offset = max(log.offset, offset)
        await self._tell(log, data)
        log.has_begun = True
        return bool(data)

    async def _read_container(
        self, log: "_Log", row: Observation, slots: asyncio.Semaphore
    ) -> bool:
        """Follow the container's output from where the log has been read to; whether any came."""
        if slots.locked():
            return False
        begin = log.offset
        async with slots:
            with contextlib.suppress(GcloudOpsError):  # the bucket has it all, a little later
                async with await self._connect(row.id) as connection:
                    await self._read_stream(log, connection.logs(CONTAINER, follow=True))
        return log.offset > begin

    async def _read_stream(self, log: "_Log", stream: AsyncIterator[bytes]) -> None:
        passed = 0
        chunk = asyncio.ensure_future(anext(stream))
        try:
            while True:
                done, _ = await asyncio.wait([chunk], timeout=_SILENCE)
                if not done:
                    # A VM that went away may leave the connection open, and silent for ever.
                    if self._rows[log.experiment].status not in _LIVE or (
                        await self._read_bucket(log)
                    ):
                        return
                    continue
                data = chunk.result()
                fresh = data[max(0, log.offset - passed) :]
                passed += len(data)
                log.offset += len(fresh)
                await self._tell(log, fresh)
                chunk = asyncio.ensure_future(anext(stream))
        except StopAsyncIteration:
            return
        finally:
            chunk.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, GcloudOpsError):
                await chunk

    async def _connect(
        self, instance: str
    ) -> contextlib.AbstractAsyncContextManager[ssh.Connection]:
        if instance not in self._instances:
            found = await asyncio.to_thread(
                instances.list_instances,
                self._clients,
                group=self._looking.manifest.sweep,
                zone=self._looking.where.zone or None,
            )
            self._instances = {it.name: it for it in found if it.address}
        if instance not in self._instances:
            raise NotFound(f"{instance}: it has no address")
        zone = self._instances[instance].zone
        keys = await asyncio.to_thread(instances.host_keys, self._clients, instance, zone=zone)
        return ssh.reach(self._clients, self._instances[instance], keys)

    async def _tell(self, log: "_Log", data: bytes) -> None:
        if data:
            chunk = LogChunk(
                experiment=log.experiment,
                attempt=log.attempt,
                data=data,
                is_new=log.has_begun,
            )
            try:
                self.items.put_nowait(chunk)
            except queue.Full:
                await asyncio.to_thread(self._put, chunk)


@dataclass(slots=True)
class _Log:
    """How far the log of one attempt has been read."""

    experiment: str
    attempt: int
    offset: int = 0
    has_begun: bool = False
    """Whether what was there before is read."""
