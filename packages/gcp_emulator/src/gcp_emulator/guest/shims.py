"""Commands of a VM for programs in a real shell: small scripts that lead back to this process.

So ``docker ps | grep x`` works in a shell that knows no Docker. They speak over a Unix socket in
a folder that only this user can enter. Frames are a letter, a length and as many bytes. It sends
``i`` (input; empty at its end), ``w`` (terminal size) and ``s`` (a signal), and gets ``o``, ``e``
(output), ``r`` (send input), ``t`` (1: make the terminal raw, 0: no longer), ``x`` (exit status).
"""

import asyncio
import json
import shlex
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gcp_emulator.docker.streams import Call, Streams

_FRAME = struct.Struct(">cI")

type Run = Callable[[Call], Coroutine[Any, Any, int]]


class Shims:
    """The folder of a VM's shims and the socket behind them; made when first asked for.

    Args:
        names: The commands.
        run: Runs one; raises OSError when it can't be.
    """

    def __init__(self, *, names: Iterable[str], run: Run) -> None:
        self._names = tuple(names)
        self._run = run
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._lock = asyncio.Lock()

    async def folder(self) -> Path:
        """The folder to put first on PATH."""
        async with self._lock:
            if self._folder is None:
                # A socket's path has at most 107 bytes: the VM's own folder may be too deep.
                folder = Path(tempfile.mkdtemp(prefix="gcp-emulator-"))
                self._server = await asyncio.start_unix_server(self._serve, folder / "socket")
                (folder / "shim.py").write_text(_SHIM, encoding="utf-8")
                (folder / "bin").mkdir()
                for name in self._names:
                    script = folder / "bin" / name
                    command = shlex.join([sys.executable, "-SEs", str(folder / "shim.py"), name])
                    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
                    script.chmod(0o700)
                self._folder = folder
            return self._folder / "bin"

    async def close(self) -> None:
        """Remove folder and socket. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, ValueError):
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked: dict[str, Any] = json.loads(await reader.readline())
        input_queue: asyncio.Queue[bytes] = asyncio.Queue()

        async def send(letter: bytes, data: bytes = b"") -> None:
            writer.write(_FRAME.pack(letter, len(data)) + data)
            await writer.drain()

        async def sink(stream: int, data: bytes) -> None:
            with suppress(OSError):
                await send(b"o" if stream == 1 else b"e", data)

        async def read() -> bytes:
            # Each piece is asked for: what this command does not read stays for the next one.
            with suppress(OSError):
                await send(b"r")
            return await input_queue.get()

        async def raw(begins: bool) -> None:
            await send(b"t", bytes([begins]))

        size = tuple(asked["size"]) if asked["size"] else None
        streams = Streams(sink=sink, read=read, size=size, raw_mode=raw)
        running = asyncio.create_task(
            self._run(Call(asked["argv"], streams, asked["environment"]))
        )
        hearing = asyncio.create_task(_hear(reader, streams, input_queue))
        try:
            await asyncio.wait({running, hearing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (running, hearing):
                task.cancel()
            await asyncio.gather(running, hearing, return_exceptions=True)
        if running.cancelled():
            return
        failed = running.exception()
        if failed is not None:
            await sink(2, f"{asked['argv'][0]}: {failed}\n".encode())
        await send(b"x", bytes([127 if failed is not None else running.result() % 256]))


async def _hear(
    reader: asyncio.StreamReader, streams: Streams, queue: asyncio.Queue[bytes]
) -> None:
    """Take frames until the shim is gone."""
    while True:
        try:
            letter, length = _FRAME.unpack(await reader.readexactly(_FRAME.size))
            data = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            return
        if letter == b"i":
            queue.put_nowait(data)
        elif letter == b"w" and streams.task is not None:
            streams.task.resize(*struct.unpack(">HH", data))
        elif letter == b"s" and streams.task is not None:
            streams.task.signal(data[0])
        elif letter == b"s":
            return


_SHIM: Final = """\
import json, os, signal, socket, struct, sys, threading

link = socket.socket(socket.AF_UNIX)
link.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "socket"))
lock = threading.Lock()
terminal = os.isatty(0) and os.isatty(1)

def send(letter, data=b""):
    with lock:
        link.sendall(struct.pack(">cI", letter, len(data)) + data)

def size():
    columns, rows = os.get_terminal_size(0)
    return columns, rows

known = {name: os.environ[name] for name in ("HOME_IN_VM", "USER", "TERM") if name in os.environ}
known["HOME"] = known.pop("HOME_IN_VM", "/root")
asked = {"argv": sys.argv[1:], "size": size() if terminal else None, "environment": known}
link.sendall(json.dumps(asked).encode() + b"\\n")

def feed():
    try:
        send(b"i", os.read(0, 65536))
    except OSError:
        pass

def forward(number, frame):
    send(b"s", bytes([number]))

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, forward)
if terminal:
    signal.signal(signal.SIGWINCH, lambda n, f: send(b"w", struct.pack(">HH", *size())))

def receive(count):
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data

before = None
code = 255
try:
    while True:
        letter, length = struct.unpack(">cI", receive(5))
        data = receive(length)
        if letter in (b"o", b"e"):
            while data:
                data = data[os.write(1 if letter == b"o" else 2, data):]
        elif letter == b"r":
            threading.Thread(target=feed, daemon=True).start()
        elif letter == b"t" and terminal:
            import termios, tty
            if data == b"\\1" and before is None:
                before = termios.tcgetattr(0)
                tty.setraw(0, termios.TCSADRAIN)
            elif data == b"\\0" and before is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, before)
                before = None
        elif letter == b"x":
            code = data[0]
            break
except (EOFError, OSError):
    pass
if before is not None:
    import termios
    termios.tcsetattr(0, termios.TCSADRAIN, before)
os._exit(code)
"""
