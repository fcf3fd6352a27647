"""A VM's SSH server: who may log in, and what a session runs.

asyncssh speaks the protocol; only the fastest algorithms that every OpenSSH of the last ten years
knows are offered, because hundreds of VMs are spoken to at once.
"""

import asyncio
import json
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import asyncssh

from gcp_emulator.docker.streams import Streams

_CHUNK = 1 << 16
_QUEUED_CHUNKS = 16

type Command = Callable[[str, str | None, Streams], Coroutine[Any, Any, int]]
"""Runs a command line (None: a shell) for a user on these streams; its exit status."""


class SshServer:
    """The SSH server of one VM.

    Args:
        host_key: Its own key.
        run: Runs the sessions' commands.
        admits: Whether a peer of this address is answered; the others' connections are closed.

    ``keys`` is what the metadata key ``ssh-keys`` says; a change counts for the next log-in.
    While ``refusing``, connections are closed before a word is said; see also `hang`.
    """

    def __init__(
        self,
        *,
        host_key: asyncssh.SSHKey,
        run: Command,
        admits: Callable[[str], bool] = lambda _peer: True,
    ) -> None:
        self.keys: dict[str, set[bytes]] = {}
        self.refusing = False
        self._host_key = host_key
        self._run = run
        self._admits = admits
        self._opening: asyncio.Task[asyncssh.SSHAcceptor] | None = None
        self._place: tuple[str, int] | None = None
        self._silence: socket.socket | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()

    async def listen(self, address: str, port: int) -> None:
        """Open the port.

        Raises:
            OSError: It is taken, or the address is none of this machine.
        """
        self._place = address, port
        # Shielded: cancelled halfway it would listen, and nobody could close it.
        self._opening = asyncio.create_task(self._listen(address, port))
        await asyncio.shield(self._opening)

    async def _listen(self, address: str, port: int) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            address,
            port,
            server_factory=lambda: _Door(self),
            process_factory=self._session,
            encoding=None,
            server_host_keys=[self._host_key],
            kex_algs=["curve25519-sha256", "curve25519-sha256@libssh.org"],
            encryption_algs=["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"],
            mac_algs=["hmac-sha2-256-etm@openssh.com"],
            compression_algs=None,
            config=[],
            gss_host=None,
            agent_forwarding=False,
            allow_scp=False,
            line_editor=False,
            server_version="OpenSSH_9.6",
        )

    async def hang(self, hanging: bool) -> None:
        """A fault: let new connections come about and hear nothing, or answer again.

        Those that are open go on. Nothing, if the port is not open.
        """
        if self._place is None or hanging == (self._silence is not None):
            return
        if hanging:
            await self._close_port()
            # The kernel completes connections that nobody accepts.
            self._silence = socket.create_server(self._place, backlog=1_024)
        else:
            self._end_silence()
            await self.listen(*self._place)

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.close()
            self._silence = None

    async def _close_port(self) -> None:
        if self._opening is not None:
            (acceptor,) = await asyncio.gather(self._opening, return_exceptions=True)
            if isinstance(acceptor, asyncssh.SSHAcceptor):
                acceptor.close()
            self._opening = None

    def cut(self) -> None:
        """Cut all connections, as a network that fails."""
        for connection in tuple(self._connections):
            connection.abort()

    async def close(self) -> None:
        """Close port and connections. Idempotent."""
        self._end_silence()
        self._place = None
        await self._close_port()
        self.cut()
        for connection in tuple(self._connections):
            with suppress(TimeoutError, OSError, asyncssh.Error):
                await asyncio.wait_for(connection.wait_closed(), 5)

    def opened(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection begins."""
        peer = connection.get_extra_info("peername")
        if self.refusing or (peer and not self._admits(peer[0])):
            connection.abort()
            return
        self._connections.add(connection)

    def closed(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    async def _session(self, process: "_Process") -> None:
        streams, pump = _streams_of(process)
        user = str(process.get_extra_info("username"))
        running = asyncio.create_task(self._run(user, process.command, streams))
        pumping = asyncio.create_task(pump(running))
        gone = asyncio.create_task(process.wait_closed())
        try:
            await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (running, pumping, gone):
                task.cancel()
            await asyncio.gather(running, pumping, gone, return_exceptions=True)
        if running.cancelled():
            process.exit(128 + streams.interrupted)
        elif running.exception() is not None:
            process.stderr.write(f"the local cloud failed: {running.exception()!r}\n".encode())
            process.exit(255)
        else:
            process.exit(running.result())


class _Door(asyncssh.SSHServer):
    """Lets in who is named in the metadata; there are no passwords."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.opened(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._connection is not None:
            self._server.closed(self._connection)

    def begin_auth(self, username: str) -> bool:
        del username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.public_data in self._server.keys.get(username, ())


def authorized_keys(metadata: str) -> dict[str, set[bytes]]:
    """Users and their public keys, of the metadata key ``ssh-keys``; other lines are skipped.

    Each line is ``USER:TYPE KEY COMMENT``; ``google-ssh {"userName": ..., "expireOn": ...}`` as a
    comment ends a key's time (https://cloud.google.com/compute/docs/connect/add-ssh-keys).
    """
    found: dict[str, set[bytes]] = {}
    for line in metadata.splitlines():
        user, colon, text = line.strip().partition(":")
        if not colon or not user or _expired(text):
            continue
        try:
            key = asyncssh.import_public_key(text)
        except (asyncssh.KeyImportError, ValueError):
            continue
        found.setdefault(user, set()).add(key.public_data)
    return found


class _Reader(Protocol):
    async def read(self, n: int = -1) -> bytes: ...


class _Writer(Protocol):
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...


class _Process(Protocol):
    """What is used of asyncssh.SSHServerProcess[bytes]."""

    command: str | None
    stdin: _Reader
    stdout: _Writer
    stderr: _Writer
    term_type: str | None
    term_size: tuple[int, int, int, int]

    def exit(self, status: int) -> None: ...
    def get_extra_info(self, name: str) -> object: ...
    async def wait_closed(self) -> None: ...


def _expired(text: str) -> bool:
    comment = text.partition("google-ssh ")[2]
    if not comment:
        return False
    try:
        until = datetime.fromisoformat(json.loads(comment)["expireOn"])
    except (ValueError, KeyError, TypeError):
        return False
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return until < datetime.now(UTC)


def _streams_of(
    process: "_Process",
) -> tuple[Streams, Callable[[asyncio.Task[int]], Coroutine[Any, Any, None]]]:
    """A session's streams; and what moves its input, signals and terminal sizes to them."""
    queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED_CHUNKS)
    ended = False

    async def sink(stream: int, data: bytes) -> None:
        terminal = streams.size is not None
        if terminal and not streams.raw:
            data = data.replace(b"\n", b"\r\n")
        writer = process.stderr if stream == 2 and not terminal else process.stdout
        # Once the client is gone nobody reads; the session is cancelled right after.
        with suppress(OSError, asyncssh.Error):
            writer.write(data)
            await writer.drain()

    async def read() -> bytes:
        nonlocal ended
        if ended:
            return b""
        data = await queue.get()
        ended = not data
        return data

    async def pump(running: asyncio.Task[int]) -> None:
        while True:
            try:
                data = await process.stdin.read(_CHUNK)
            except asyncssh.TerminalSizeChanged as change:
                streams.size = (change.width, change.height)
                if streams.task is not None:
                    streams.task.resize(change.width, change.height)
                continue
            except asyncssh.SignalReceived as received:
                number = getattr(signal, f"SIG{received.signal}", None)
                if streams.task is not None and number is not None:
                    streams.task.signal(number)
                elif number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
                    streams.interrupted = number
                    running.cancel()
                continue
            except asyncssh.BreakReceived:
                continue
            except (OSError, asyncssh.Error):
                data = b""
            if streams.size is not None and not streams.reading and b"\x03" in data:
                # Ctrl-C at a command that runs in this process.
                running.cancel()
                return
            await queue.put(data)
            if not data:
                return

    columns, rows = process.term_size[:2]
    size = (columns or 80, rows or 24) if process.term_type is not None else None
    streams = Streams(sink=sink, read=read, size=size)
    return streams, pump
