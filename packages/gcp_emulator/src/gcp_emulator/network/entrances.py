"""External addresses: a connection to EXTERNAL:port reaches INTERNAL:port, if the rules allow it.

https://cloud.google.com/firewall/docs/firewalls,
https://cloud.google.com/compute/docs/ip-addresses. Google drops the packets of a peer that no
rule allows, so that it waits for a long time; here the connection is reset at once.

Only external addresses are guarded. Programs of an instance bind its internal address themselves,
and all addresses are loopback ones of this machine: whoever knows an internal address reaches it,
whatever the rules say. And a peer is told by its address alone: a rule for a source tag or source
service account admits those who come from the internal address of such an instance, which
programs of the emulated instances seldom do (their connections come from 127.0.0.1).
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

_CHUNK = 1 << 16
_CONNECT_SECONDS = 10.0
_RESET = struct.pack("ii", 1, 0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """One port of an external address, and where it leads."""

    external: str
    internal: str
    port: int
    guard: Callable[[str], bool]
    """Whether a peer of this address is let in; asked for each connection."""

    @property
    def way(self) -> tuple[str, int, str]:
        """From where to where: what listens once."""
        return self.external, self.port, self.internal


class Entrances:
    """Listens wherever there is an entrance, as they come and go.

    Args:
        look: Tells all entrances that there should be now.
    """

    def __init__(self, look: Callable[[], Iterable[Entrance]]) -> None:
        self._look = look
        self._open: dict[tuple[str, int, str], _Listener] = {}
        self._stirred = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._stirred.set()
        self._watching = asyncio.create_task(self._watch())

    def update(self) -> None:
        """Look again, soon: something may have changed."""
        self._stirred.set()

    async def stop(self) -> None:
        """Close all, with every connection. Idempotent."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(listener.close() for listener in self._open.values()))
        self._open.clear()

    async def _watch(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            try:
                await self._reconcile()
            except Exception:
                _log.exception("the entrances could not be brought up to date")

    async def _reconcile(self) -> None:
        wanted = {entrance.way: entrance for entrance in self._look()}
        for way in set(self._open) - set(wanted):
            await self._open.pop(way).close()
        for way, entrance in wanted.items():
            if (known := self._open.get(way)) is not None:
                known.entrance = entrance
                continue
            listener = _Listener(entrance)
            try:
                await listener.open()
            except OSError as error:
                _log.warning(
                    "%s:%d can't be listened on, and leads nowhere: %s",
                    entrance.external,
                    entrance.port,
                    error.strerror,
                )
                continue
            self._open[way] = listener


class _Listener:
    """Listens at one entrance, and carries its connections."""

    def __init__(self, entrance: Entrance) -> None:
        self.entrance = entrance
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: The port is taken, or not for everybody.
        """
        self._server = await asyncio.start_server(
            self._accept, self.entrance.external, self.entrance.port, limit=_CHUNK
        )

    async def close(self) -> None:
        """Listen no more, and cut what is connected."""
        if self._server is not None:
            self._server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._carrying.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, TimeoutError):
            _reset(writer)
        except asyncio.CancelledError:
            # Not passed on: asyncio would log a connection that was cut on purpose.
            _reset(writer)
        finally:
            self._carrying.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: str = writer.get_extra_info("peername")[0]
        if not self.entrance.guard(peer):
            _reset(writer)
            return
        async with asyncio.timeout(_CONNECT_SECONDS):
            # From the peer's own address, which is of this machine too: as behind Google's
            # network, the program sees who calls.
            inner_reader, inner_writer = await asyncio.open_connection(
                self.entrance.internal, self.entrance.port, limit=_CHUNK, local_addr=(peer, 0)
            )
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, inner_writer))
                both.create_task(_copy(inner_reader, writer))
        except* OSError:
            _reset(writer)
            _reset(inner_writer)
        finally:
            inner_writer.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until their end, and then that end."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other end knows at once that nobody is there."""
    link: socket.socket | None = writer.get_extra_info("socket")
    if link is not None:
        with suppress(OSError):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
