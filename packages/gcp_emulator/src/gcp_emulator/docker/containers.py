"""The containers of one VM: their life, their logs, their programs.

`command` gives them a command line.
"""

import asyncio
import json
import os
import secrets
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from gcp_emulator.docker.engine import MARKER, SYSTEM_PATH, Engine, Program, Sink, Task

LINE_LIMIT: Final = 16 * 1024
"""Docker cuts longer lines into several log entries of this size."""

_HEAD = struct.Struct(">BQI")  # stream, time in ns since 1970, length
_TAIL = struct.Struct(">I")  # length again: the last entries are found from the end


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a log, or a piece of a long one."""

    stream: int
    time_ns: int
    data: bytes


class Log:
    """What a container wrote, byte for byte, with stream and time of each line, in one file.

    As with Docker's json-file driver a line becomes an entry once it is whole; only an unfinished
    line is held in memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = {1: b"", 2: b""}
        self._waiting: set[asyncio.Future[None]] = set()

    def append(self, stream: int, data: bytes) -> None:
        """Add what was written to 1 (standard output) or 2 (standard error)."""
        pieces, self._partial[stream] = _cut(self._partial[stream] + data)
        self._write(stream, pieces)

    def flush(self) -> None:
        """Make entries of unfinished lines: nothing more comes of this start."""
        for stream, rest in self._partial.items():
            self._write(stream, [rest] if rest else [])
        self._partial = {1: b"", 2: b""}
        self._wake()

    async def entries(
        self, *, tail: int | None = None, follow: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[Entry]:
        """The entries from the start or the last `tail`; then, while `follow()`, more."""
        position = 0 if tail is None else self._position_of_last(tail)
        while True:
            more = follow()
            for entry, after in self._read(position):
                yield entry
                position = after
            if not more:
                return
            # While the last entry was taken, the end may have come: nobody tells of it again.
            if position >= self._size() and follow():
                await self._changed()

    def _write(self, stream: int, pieces: list[bytes]) -> None:
        if not pieces:
            return
        now = time.time_ns()
        records = b"".join(
            _HEAD.pack(stream, now, len(piece)) + piece + _TAIL.pack(len(piece))
            for piece in pieces
        )
        # Opened for each piece of output: a thousand inert containers hold no file open.
        with self._path.open("ab") as file:
            file.write(records)
        self._wake()

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def _changed(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _read(self, position: int) -> Iterator[tuple[Entry, int]]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(position)
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                stream, time_ns, length = _HEAD.unpack(head)
                data = file.read(length)
                if len(file.read(_TAIL.size)) < _TAIL.size:
                    return
                position += _HEAD.size + length + _TAIL.size
                yield Entry(stream, time_ns, data), position

    def _position_of_last(self, count: int) -> int:
        position = self._size()
        if not position:
            return 0
        with self._path.open("rb") as file:
            while count > 0 and position > 0:
                file.seek(position - _TAIL.size)
                (length,) = _TAIL.unpack(file.read(_TAIL.size))
                position -= _HEAD.size + length + _TAIL.size
                count -= 1
        return position


def _cut(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines (long ones in pieces), and the rest."""
    pieces = []
    lines = data.split(b"\n")
    rest = lines.pop()
    for line in lines:
        whole = line + b"\n"
        pieces += [whole[at : at + LINE_LIMIT] for at in range(0, len(whole), LINE_LIMIT)]
    while len(rest) >= LINE_LIMIT:
        pieces.append(rest[:LINE_LIMIT])
        rest = rest[LINE_LIMIT:]
    return pieces, rest


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What ``docker run`` was asked for."""

    name: str
    image: str
    entrypoint: tuple[str, ...]
    args: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = "bridge"
    workdir: str = ""
    restart: str = "no"
    restarts_at_most: int = 0
    log_driver: str = "json-file"
    log_options: Mapping[str, str] = field(default_factory=dict)
    auto_remove: bool = False
    terminal: tuple[int, int] | None = None
    stdin: bool = False
    privileged: bool = False


@dataclass(slots=True, eq=False)
class Container:
    """A container and where it stands."""

    spec: ContainerSpec
    id: str
    folder: Path
    environment: Mapping[str, str]
    log: Log
    created: datetime
    status: Literal["created", "running", "restarting", "exited"] = "created"
    exit_code: int = 0
    error: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    restarts: int = 0
    stopped_by_hand: bool = False
    restarted_by_hand: bool = False
    """Whether what ends now is to start again at once."""
    task: Task | None = None
    attached: list[Sink] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    removed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        """Whether its first program runs."""
        return self.status == "running"


class NoSuchContainer(Exception):
    """There is no container of that name or id."""


class NameInUse(Exception):
    """Another container has the name; its id is the argument."""


class StartFailed(Exception):
    """The first program could not be started.

    Args:
        code: Docker's exit code, 126 or 127.
        message: What runc says.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Containers:
    """All containers of a VM.

    Args:
        engine: What runs their programs.
        folder: Each container has a folder of its own under it, its working directory and HOME.
        hostname: The VM's name.
        environment: What every container has besides what it is given.
        record: Told of ``container`` (one runs), ``container-exit``.
        programs: Folders that come first on every container's PATH.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        folder: Path,
        hostname: str,
        environment: Mapping[str, str],
        record: Callable[[str], None],
        programs: Sequence[Path] = (),
    ) -> None:
        self.engine = engine
        self._programs = tuple(programs)
        self.hostname = hostname
        self._folder = folder
        self._environment = dict(environment)
        self._record = record
        self._all: dict[str, Container] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._closed = False
        self._full = False

    def __iter__(self) -> Iterator[Container]:
        """Newest first, as ``docker ps`` lists them."""
        return iter(reversed(list(self._all.values())))

    def find(self, reference: str) -> Container:
        """The container of this name, id or beginning of an id.

        Raises:
            NoSuchContainer: None, or several.
        """
        name = reference.removeprefix("/")
        for container in self._all.values():
            if reference and (container.spec.name == name or container.id == reference):
                return container
        matching = [c for i, c in self._all.items() if reference and i.startswith(reference)]
        if len(matching) != 1:
            raise NoSuchContainer(reference)
        return matching[0]

    def create(self, spec: ContainerSpec) -> Container:
        """Make a container; its folder is new and empty.

        Raises:
            NameInUse: The name is taken.
        """
        for other in self._all.values():
            if other.spec.name == spec.name:
                raise NameInUse(other.id)
        identity = secrets.token_hex(32)
        folder = self._folder / spec.name
        shutil.rmtree(folder, ignore_errors=True)
        work = folder / "work"
        (folder / "tmp").mkdir(parents=True)
        work.mkdir()
        container = Container(
            spec=spec,
            id=identity,
            folder=folder,
            environment=self._environment_of(spec, identity, folder),
            log=Log(folder / "log"),
            created=datetime.now(UTC),
        )
        self._all[identity] = container
        return container

    async def boot(self) -> None:
        """Take in the containers on the disk, and start those whose policy says so.

        As the daemon does: those of ``always``, and those of ``unless-stopped`` that nobody
        stopped; those of ``--rm`` are removed. See
        https://docs.docker.com/engine/containers/start-containers-automatically.
        """
        for path in sorted(self._folder.glob("*/container.json")):
            container = self._restored(path)
            if container.spec.auto_remove:
                await asyncio.to_thread(shutil.rmtree, container.folder, ignore_errors=True)
                continue
            self._all[container.id] = container
            policy, stopped = container.spec.restart, container.stopped_by_hand
            if policy == "always" or (policy == "unless-stopped" and not stopped):
                with suppress(StartFailed):
                    await self.start(container)

    async def start(self, container: Container) -> None:
        """Start its first program; nothing if it runs.

        Raises:
            StartFailed: No such executable, or it can't be executed.
        """
        # Whoever asked may go meanwhile: what was begun is done.
        starting = asyncio.create_task(self._start(container))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        await asyncio.shield(starting)

    async def _start(self, container: Container) -> None:
        if container.running or self._closed:
            return
        spec = container.spec
        program = Program(
            argv=(*spec.entrypoint, *spec.args),
            folder=folder_inside(container, spec.workdir, make=True),
            environment=container.environment,
            stdin=spec.stdin,
            size=spec.terminal,
            full_disk=self._full,
        )

        async def sink(stream: int, data: bytes) -> None:
            container.log.append(stream, data)
            for attached in tuple(container.attached):
                await attached(stream, data)

        container.ended.clear()
        container.stopped_by_hand = False
        if self.engine.shell:
            with suppress(FileExistsError):  # from the start before
                _temporary(container.id).symlink_to((container.folder / "tmp").absolute())
        try:
            container.task = await self.engine.start(program, sink)
        except OSError as error:
            failure = start_failure(error, program.argv[0])
            container.exit_code = failure.code
            container.error = failure.message
            container.ended.set()
            raise failure from error
        container.status = "running"
        container.exit_code = 0
        container.error = ""
        container.started = datetime.now(UTC)
        self._record("container")
        watching = asyncio.create_task(self._watch(container, container.task))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def execute(
        self,
        container: Container,
        argv: tuple[str, ...],
        sink: Sink,
        *,
        environment: Mapping[str, str],
        workdir: str = "",
        stdin: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Task:
        """Start another program in a running container.

        Raises:
            StartFailed: No such executable, it can't be executed, or no such folder.
        """
        folder = folder_inside(container, workdir or container.spec.workdir, make=False)
        if not folder.is_dir():
            raise StartFailed(
                127,
                "exec failed: unable to start container process: chdir to cwd"
                f' ("{workdir}") set in config.json failed: no such file or directory',
            )
        program = Program(
            argv=argv,
            folder=folder,
            environment={**container.environment, **environment},
            stdin=stdin,
            size=size,
            full_disk=self._full,
        )
        try:
            return await self.engine.start(program, sink, inside=container.task)
        except OSError as error:
            raise start_failure(error, argv[0]) from error

    async def stop(
        self, container: Container, *, grace: float, first: int = signal.SIGTERM
    ) -> None:
        """Signal the first program, wait up to `grace` seconds, kill."""
        container.stopped_by_hand = True
        await self._end(container, grace=grace, first=first)

    async def restart(
        self, container: Container, *, grace: float, first: int = signal.SIGTERM
    ) -> None:
        """Stop it and start it again: the same container, with its log and its folder.

        Raises:
            StartFailed: No such executable, or it can't be executed.
        """
        container.restarted_by_hand = True
        try:
            await self.stop(container, grace=grace, first=first)
        finally:
            container.restarted_by_hand = False
        await self.start(container)

    async def _end(self, container: Container, *, grace: float, first: int) -> None:
        if container.status == "restarting":
            container.status = "exited"
        if not container.running or container.task is None:
            return
        container.task.signal(first)
        try:
            await asyncio.wait_for(container.ended.wait(), grace)
        except TimeoutError:
            container.task.signal(signal.SIGKILL)
            await container.ended.wait()

    async def remove(self, container: Container) -> None:
        """Forget a container and its folder; kills it first if it runs."""
        await self.stop(container, grace=0, first=signal.SIGKILL)
        # Its name stays taken until its folder is gone: the next one of that name has its own.
        await asyncio.to_thread(shutil.rmtree, container.folder, ignore_errors=True)
        _temporary(container.id).unlink(missing_ok=True)
        self._all.pop(container.id, None)
        container.removed.set()

    async def fill_disk(self, full: bool) -> None:
        """A fault: let no program of any container write to files, or let them again."""
        self._full = full
        for container in tuple(self._all.values()):
            await self.engine.fill_disk(container.id, full)

    async def kill(self) -> None:
        """A fault: kill all programs of all containers at once, as when the power is cut."""
        for container in tuple(self._all.values()):
            if container.task is not None and container.running:
                container.task.signal(signal.SIGKILL)
        await asyncio.gather(*(self.engine.sweep(identity) for identity in self._all))

    async def close(self, grace: float) -> None:
        """End them all, as a shutdown does: SIGTERM, `grace` seconds, SIGKILL. Idempotent.

        Where they stand is written down then: `boot` finds them again.
        """
        self._closed = True
        await asyncio.gather(*self._starting, return_exceptions=True)
        ends = (self._end(c, grace=grace, first=signal.SIGTERM) for c in self._all.values())
        await asyncio.gather(*ends)
        for watching in tuple(self._watching):
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.gather(*(self.engine.sweep(identity) for identity in self._all))
        for container in self._all.values():
            _keep(container)
            _temporary(container.id).unlink(missing_ok=True)

    def _environment_of(self, spec: ContainerSpec, identity: str, folder: Path) -> dict[str, str]:
        hostname = self.hostname if spec.network == "host" else identity[:12]
        own = str(Path(sys.executable).parent)
        return {
            "PATH": ":".join([*map(str, self._programs), own, SYSTEM_PATH]),
            "HOME": str(folder / "work"),
            # A real container has a /tmp of its own.
            "TMPDIR": str(_temporary(identity)),
            "LANG": "C.UTF-8",
            "HOSTNAME": hostname,
            **({"TERM": "xterm"} if spec.terminal else {}),
            **self._environment,
            **spec.environment,
            MARKER: identity,
        }

    async def _watch(self, container: Container, task: Task) -> None:
        await task.exited()
        # What its programs left behind dies with PID 1, as in a container.
        await self.engine.sweep(container.id)
        code = await task.wait()
        container.log.flush()
        container.exit_code = code
        again = self._restarts(container)
        container.status = "restarting" if again else "exited"
        container.finished = datetime.now(UTC)
        removing = not again and container.spec.auto_remove and not container.restarted_by_hand
        container.ended.set()
        # Those who follow the log look again whether it still runs.
        container.log.flush()
        self._record("container-exit")
        if again:
            # Docker waits 100 ms, doubled each time up to a minute.
            await asyncio.sleep(min(0.1 * 2**container.restarts, 60))
            container.restarts += 1
            if not container.stopped_by_hand:
                with suppress(StartFailed):
                    await self.start(container)
            if container.status == "restarting":
                container.status = "exited"
        elif removing:
            await self.remove(container)

    def _restored(self, path: Path) -> Container:
        kept = json.loads(path.read_text(encoding="utf-8"))
        given = kept["spec"]
        for name in ("entrypoint", "args", "terminal"):
            given[name] = tuple(given[name]) if given[name] is not None else None
        spec = ContainerSpec(**given)
        return Container(
            spec=spec,
            id=kept["id"],
            folder=path.parent,
            environment=self._environment_of(spec, kept["id"], path.parent),
            log=Log(path.parent / "log"),
            created=datetime.fromisoformat(kept["created"]),
            # Whatever it was at power-off, it runs no more.
            status="created" if kept["status"] == "created" else "exited",
            exit_code=kept["exit_code"],
            error=kept["error"],
            restarts=kept["restarts"],
            stopped_by_hand=kept["stopped_by_hand"],
            started=_moment(kept["started"]),
            finished=_moment(kept["finished"]),
        )

    def _restarts(self, container: Container) -> bool:
        if container.stopped_by_hand or self._closed:
            return False
        policy = container.spec.restart
        if policy in ("always", "unless-stopped"):
            return True
        limit = container.spec.restarts_at_most
        few = not limit or container.restarts < limit
        return policy == "on-failure" and container.exit_code != 0 and few


def _keep(container: Container) -> None:
    """Write down where it stands; its environment may hold what others must not read."""
    kept = {
        "id": container.id,
        "spec": asdict(container.spec),
        "created": container.created.isoformat(),
        "started": container.started and container.started.isoformat(),
        "finished": container.finished and container.finished.isoformat(),
        "status": container.status,
        "exit_code": container.exit_code,
        "error": container.error,
        "restarts": container.restarts,
        "stopped_by_hand": container.stopped_by_hand,
    }
    path = container.folder / "container.json"
    with suppress(FileNotFoundError):  # removed meanwhile, with its folder
        path.touch(mode=0o600)
        path.write_text(json.dumps(kept), encoding="utf-8")


def _temporary(identity: str) -> Path:
    """What leads to a container's temporary files by a short way.

    The path of a Unix socket has at most 107 bytes, and programs put theirs into ``/tmp``.
    """
    return Path(tempfile.gettempdir()) / f"gce-{identity[:10]}"


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def folder_inside(container: Container, workdir: str, *, make: bool) -> Path:
    """The folder that stands for a path in a container; paths never lead out of it."""
    work = container.folder / "work"
    folder = Path(os.path.normpath(work / os.path.normpath("/" + workdir).lstrip("/")))
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def start_failure(error: OSError, name: str) -> StartFailed:
    """How runc words it, and Docker's exit code: 127 not found, 126 not executable."""
    if isinstance(error, FileNotFoundError):
        where = "stat" if "/" in name else "exec"
        if where == "stat":
            return StartFailed(127, f'exec: "{name}": stat {name}: no such file or directory')
        return StartFailed(127, f'exec: "{name}": executable file not found in $PATH')
    return StartFailed(126, f'exec: "{name}": permission denied')
