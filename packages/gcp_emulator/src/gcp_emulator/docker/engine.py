"""What runs a container's programs: local processes that really work, or states only.

An engine knows nothing of Docker's command line (see `command`): it starts one program with its
environment, folder and streams, and says how it ended.
"""

import asyncio
import ctypes
import errno
import fcntl
import functools
import os
import pty
import resource
import shlex
import shutil
import signal
import struct
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

type Sink = Callable[[int, bytes], Awaitable[None]]
"""Takes what a program writes: 1 (standard output) or 2 (standard error), and the bytes."""

MARKER: Final = "GCP_EMULATOR_CONTAINER"
"""The variable that all processes of a container inherit: none is overlooked at its end."""

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CHUNK = 1 << 16
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program to start: its words, where, and with what environment (all of it)."""

    argv: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    stdin: bool = False
    size: tuple[int, int] | None = None
    """Columns and rows of its terminal; None without one."""
    full_disk: bool = False
    """Whether it can't write to files, see `Engine.fill_disk`."""


class Task(Protocol):
    """A started program."""

    pid: int

    async def exited(self) -> None:
        """Return once it has ended, while its children may still hold its output open."""

    async def wait(self) -> int:
        """Its exit status as Docker and shells count: 0 to 255, 128 + N for signal N.

        Returns after the last byte of its output has reached the sink.
        """

    def signal(self, number: int) -> None:
        """Send a signal to the program alone, as Docker does to PID 1; nothing once it ended."""

    async def write(self, data: bytes) -> None:
        """Give bytes to its standard input; no bytes close it."""

    def resize(self, columns: int, rows: int) -> None:
        """Tell its terminal a new size."""

    def hang_up(self) -> None:
        """End it with all of its process group: its terminal is gone."""


class Engine(Protocol):
    """Starts programs in containers."""

    wants_metadata: bool
    """Whether its containers talk to a metadata server, so that one must listen for each VM."""
    shell: bool
    """Whether programs outside of containers run too, through a real ``/bin/sh``."""
    entrypoint: tuple[str, ...]
    """The entry point of every image."""

    async def start(self, program: Program, sink: Sink, *, inside: Task | None = None) -> Task:
        """Start a program as a container's first, or beside the first one (`inside`).

        Raises:
            FileNotFoundError: There is no such executable.
            PermissionError: It can't be executed.
        """

    async def sweep(self, mark: str) -> None:
        """Kill whatever still lives with this value of `MARKER`; returns when nothing does."""

    async def fill_disk(self, mark: str, full: bool) -> None:
        """Let those who live with this value of `MARKER` write to no file, or let them again.

        By their soft RLIMIT_FSIZE, which their children inherit: a real lack of space needs a file
        system of one's own, and so root. A write says EFBIG instead of ENOSPC, also one into a
        file that is there; a program that does not ignore SIGXFSZ, as Python does, is ended by it.
        """


def make_engine(kind: str) -> Engine:
    """The engine of that name: ``process`` or ``inert``.

    The entry point of the images is the environment's ``GCP_EMULATOR_ENTRYPOINT`` (a program and
    perhaps arguments), or else ``sinergym-runner``.

    Raises:
        ValueError: Another name.
    """
    entrypoint = os.environ.get("GCP_EMULATOR_ENTRYPOINT", "sinergym-runner")
    if kind == "process":
        return ProcessEngine(entrypoint)
    if kind == "inert":
        return InertEngine(entrypoint)
    raise ValueError(f"engine {kind!r} is unknown: choose process or inert")


class ProcessEngine:
    """Every program is a local process, in its own session and folder, with a clean environment.

    It isolates no more than that: programs see this machine's files and network.
    """

    wants_metadata = True
    shell = True

    def __init__(self, entrypoint: str = "sinergym-runner") -> None:
        self.entrypoint = tuple(shlex.split(entrypoint))

    async def start(self, program: Program, sink: Sink, *, inside: Task | None = None) -> Task:
        """Start it; `inside` makes no difference, since folder and environment are given."""
        del inside
        executable = _find(program)
        return await _Process.start(executable, program, sink)

    async def sweep(self, mark: str) -> None:
        """Kill by the marker in ``/proc`` (Linux): also those that made sessions of their own."""
        for _ in range(50):
            found = await asyncio.to_thread(_marked, mark)
            for pid in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not found:
                return
            await asyncio.sleep(0.02)

    async def fill_disk(self, mark: str, full: bool) -> None:
        """By the marker in ``/proc``, as `sweep`."""
        for pid in await asyncio.to_thread(_marked, mark):
            with suppress(ProcessLookupError, PermissionError):
                _limit_files(pid, full)


class InertEngine:
    """States only: a container "runs" until it is ended, and remembers what was executed in it."""

    wants_metadata = False
    shell = False

    def __init__(self, entrypoint: str = "sinergym-runner") -> None:
        self.entrypoint = tuple(shlex.split(entrypoint))

    async def start(self, program: Program, sink: Sink, *, inside: Task | None = None) -> Task:
        """Nothing is started; a program `inside` another ends at once.

        ``sinergym-runner submit -- COMMAND`` is answered as a waiting runner answers it
        (docs/contract.md, section 4): 0 for the first command and its repetition, 3 for another.
        """
        if not isinstance(inside, _Inert):
            return _Inert(sink)
        return await inside.execute(program.argv, sink)

    async def sweep(self, mark: str) -> None:
        """Nothing lives."""

    async def fill_disk(self, mark: str, full: bool) -> None:
        """Nothing is written."""


class _Inert:
    """A program that does nothing."""

    __slots__ = ("_ended", "_sink", "_status", "commands", "pid", "submitted")

    def __init__(self, sink: Sink | None, status: int | None = None) -> None:
        self.pid = 1
        self.commands: list[str] = []
        self.submitted: str | None = None
        self._sink = sink
        self._status = status
        self._ended: asyncio.Event | None = None

    async def execute(self, argv: tuple[str, ...], sink: Sink) -> Task:
        line = shlex.join(argv)
        self.commands.append(line)
        if self._sink is not None:
            await self._sink(1, f"exec: {line}\n".encode())
        if argv[:3] != ("sinergym-runner", "submit", "--"):
            return _Inert(None, 0)
        words = argv[3:]
        command = words[0] if len(words) == 1 else shlex.join(words)
        if self.submitted not in (None, command):
            await sink(2, b"sinergym-runner: another command is there already\n")
            return _Inert(None, 3)
        said = b"accepted" if self.submitted is None else b"accepted before"
        self.submitted = command
        await sink(1, said + b"\n")
        return _Inert(None, 0)

    async def exited(self) -> None:
        await self.wait()

    async def wait(self) -> int:
        while self._status is None:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()
        return self._status

    def signal(self, number: int) -> None:
        if self._status is None and number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            self._status = 128 + number
            if self._ended is not None:
                self._ended.set()

    async def write(self, data: bytes) -> None:
        pass

    def resize(self, columns: int, rows: int) -> None:
        pass

    def hang_up(self) -> None:
        self.signal(signal.SIGKILL)


class _Process:
    """A local process whose streams are ours.

    The pipes are made here instead of by asyncio, because asyncio's own ``wait`` can hang while a
    grandchild keeps a pipe open.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._pumps: list[asyncio.Task[None]] = []
        self._stdin: asyncio.StreamWriter | None = None
        self._terminal: int | None = None

    @classmethod
    async def start(cls, executable: str, program: Program, sink: Sink) -> "_Process":
        ends = _Ends.make(program)
        try:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                executable=executable,
                stdin=ends.child[0],
                stdout=ends.child[1],
                stderr=ends.child[2],
                cwd=program.folder,
                env=dict(program.environment),
                start_new_session=True,
                # The C library is told, between fork and exec, that this child ends when we do:
                # even a SIGKILL of the emulator leaves no training behind. asyncio starts children
                # from the event loop's thread, which lives as long as the emulator. A wrapping
                # interpreter would be the alternative, at 20 ms and one process more for each.
                preexec_fn=functools.partial(
                    _in_child, program.size is not None, program.full_disk
                ),
            )
        except BaseException:
            ends.close()
            raise
        task = cls(process)
        ends.close_child()
        try:
            await task._connect(ends, program, sink)
        except BaseException:
            task._signal_group(signal.SIGKILL)
            raise
        return task

    async def _connect(self, ends: "_Ends", program: Program, sink: Sink) -> None:
        if program.size is not None:
            self._terminal = ends.output[0]
            self.resize(*program.size)
        if ends.input is not None:
            self._stdin = await _writer(ends.input)
        for number, fd in enumerate(ends.output, start=1):
            reader = await _reader(fd)
            self._pumps.append(asyncio.create_task(_pump(reader, number, sink)))

    async def exited(self) -> None:
        await self._process.wait()

    async def wait(self) -> int:
        code = await self._process.wait()
        # A grandchild may hold the pipe open: what is in it now is waited for, more is not.
        _done, late = await asyncio.wait(self._pumps, timeout=2)
        for pump in late:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if self._stdin is not None:
            self._stdin.close()
        self._terminal = None
        return 128 - code if code < 0 else code

    def signal(self, number: int) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def write(self, data: bytes) -> None:
        if self._stdin is None:
            return
        if not data:
            # A terminal has no end of file but the character for it.
            if self._terminal is None:
                self._stdin.close()
                return
            data = b"\x04"
        with suppress(OSError):
            self._stdin.write(data)
            await self._stdin.drain()

    def resize(self, columns: int, rows: int) -> None:
        if self._terminal is not None:
            with suppress(OSError):
                packed = struct.pack("HHHH", rows, columns, 0, 0)
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)

    def hang_up(self) -> None:
        self._signal_group(signal.SIGHUP)
        asyncio.get_running_loop().call_later(2, self._signal_group, signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        # Once it was waited for, the number may belong to somebody else.
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@dataclass(slots=True, kw_only=True)
class _Ends:
    """The ends of a program's pipes, or of its terminal."""

    child: tuple[int, int, int]
    output: tuple[int, ...]
    input: int | None

    @classmethod
    def make(cls, program: Program) -> "_Ends":
        if program.size is not None:
            master, slave = pty.openpty()
            return cls(child=(slave, slave, slave), output=(master,), input=os.dup(master))
        out, out_child = os.pipe()
        err, err_child = os.pipe()
        if program.stdin:
            in_child, into = os.pipe()
        else:
            in_child, into = os.open(os.devnull, os.O_RDONLY), None
        return cls(child=(in_child, out_child, err_child), output=(out, err), input=into)

    def close_child(self) -> None:
        for fd in set(self.child):
            os.close(fd)

    def close(self) -> None:
        self.close_child()
        for fd in (*self.output, self.input):
            if fd is not None:
                os.close(fd)


# Looked up before any fork: the loader's lock may be held by another thread then.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def _in_child(terminal: bool, full_disk: bool) -> None:
    if full_disk:
        _limit_files(0, True)
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _limit_files(pid: int, full: bool) -> None:
    """Let the files of a process (0: of this one) become no larger, or as large as before."""
    _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))


def _find(program: Program) -> str:
    name = program.argv[0]
    if "/" in name:
        path = program.folder / name
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if path.is_dir() or not os.access(path, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return str(path)
    found = shutil.which(name, path=program.environment.get("PATH", SYSTEM_PATH))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=_CHUNK)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
    )
    return reader


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _pump(reader: asyncio.StreamReader, number: int, sink: Sink) -> None:
    # A terminal whose last program has gone answers EIO instead of an end of file.
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            await sink(number, data)


def _marked(mark: str) -> list[int]:
    """Living processes with this mark in their environment."""
    wanted = f"{MARKER}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if state not in (b"Z", b"X"):
            found.append(int(entry.name))
    return found
