"""IAP's TCP forwarding: a websocket that leads to a port of an instance (``/v4/connect``).

https://cloud.google.com/iap/docs/using-tcp-forwarding; the protocol is the fourth version of the
relay that gcloud speaks to, with its codes for closing. Each message is a tag of two bytes and
what follows it, big-endian: 1 the session's id, 2 and 7 how many bytes have arrived, 4 bytes.

The API `iap.googleapis.com` need not be enabled for it (https://cloud.google.com/iap/docs/faq).

A session outlives its websocket for a while: ``/v4/reconnect`` takes it up again, and each side
sends once more what the other has not acknowledged.
"""

import asyncio
import secrets
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import WSMsgType, web

from gcp_emulator.replies import GoogleError, api

__all__ = ["ORIGIN", "Backend", "Refused", "Relay"]

ORIGIN: Final = "bot:iap-tunneler"
"""What gcloud says that it comes from, and no page in a browser can say."""

_SUBPROTOCOL: Final = "relay.tunnel.cloudproxy.app"
_SID, _RECONNECTED, _DATA, _ACK = 1, 2, 4, 7
_LARGEST: Final = 16 << 10
_ACK_EVERY: Final = 2 * _LARGEST
_UNCONFIRMED: Final = 256 << 10
_CONNECT_SECONDS: Final = 10.0
_KEPT_SECONDS: Final = 30.0

_BAD_ACK, _SID_UNKNOWN, _NO_BACKEND, _INVALID_TAG = 4005, 4001, 4003, 4008


class Refused(Exception):
    """There is no way to a backend.

    Args:
        code: Of the websocket's close.
        reason: In IAP's words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where an instance's port really is."""

    address: str
    port: int
    source: str
    """The address that IAP comes from."""


type Look = Callable[[web.Request], Backend]
"""Finds what a request asks for; raises `Refused`."""


@dataclass(slots=True, eq=False)
class _Session:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: int = 0
    """Bytes from the client, ever."""
    told: int = 0
    confirmed: int = 0
    unconfirmed: bytearray = field(default_factory=bytearray)
    """Bytes to the client that may have to go out again, from `confirmed` on."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    """Whether the backend has sent its last byte."""
    websocket: web.WebSocketResponse | None = None
    reading: asyncio.Task[None] | None = None
    forgetting: asyncio.TimerHandle | None = None


class Relay:
    """The routes of IAP's relay.

    Args:
        look: Who may go where.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._sessions: dict[str, _Session] = {}

    def add_routes(self, app: web.Application) -> None:
        """Add them to the application."""
        app.add_routes(
            [web.get("/v4/connect", self.connect), web.get("/v4/reconnect", self.reconnect)]
        )

    @api("tunnel.connect")
    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        """Open a session, and carry it as long as this websocket lasts."""
        try:
            session = await self._new_session(request)
        except Refused as refusal:
            return await _refuse(request, refusal)
        sid = secrets.token_urlsafe(24)
        self._sessions[sid] = session
        hello = struct.pack(">HI", _SID, len(sid)) + sid.encode()
        return await self._carry(sid, session, await _accept(request), hello)

    @api("tunnel.reconnect")
    async def reconnect(self, request: web.Request) -> web.WebSocketResponse:
        """Take a session up again from the byte that the client has."""
        sid, text = request.query.get("sid", ""), request.query.get("ack", "")
        session = self._sessions.get(sid)
        if session is None:
            return await _refuse(request, Refused(_SID_UNKNOWN, "sid unknown"))
        has = int(text) if text.isdecimal() else -1
        if not session.confirmed <= has <= session.confirmed + len(session.unconfirmed):
            return await _refuse(request, Refused(_BAD_ACK, "bad ack"))
        websocket = await _accept(request)
        if session.websocket is not None:  # the client knew sooner that it is gone
            await session.websocket.close()
        _confirm(session, has)
        hello = struct.pack(">HQ", _RECONNECTED, session.received)
        return await self._carry(sid, session, websocket, hello)

    def cut(self) -> int:
        """A fault: cut all websockets, as a network that fails; how many there were."""
        cut = 0
        for session in self._sessions.values():
            if session.websocket is not None and (
                via := session.websocket.get_extra_info("socket")
            ):
                cut += 1
                via.shutdown(2)
        return cut

    async def close(self) -> None:
        """End all sessions."""
        sessions = list(self._sessions.items())
        for sid, session in sessions:
            if session.websocket is not None:
                await session.websocket.close(code=1001)
            self._forget(sid)
        tasks = [session.reading for _, session in sessions if session.reading]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _new_session(self, request: web.Request) -> _Session:
        backend = self._look(request)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    backend.address, backend.port, local_addr=(backend.source, 0)
                )
        except (OSError, TimeoutError) as error:
            raise Refused(_NO_BACKEND, "failed to connect to backend") from error
        session = _Session(reader, writer)
        session.reading = asyncio.create_task(_read(session))
        return session

    async def _carry(
        self, sid: str, session: _Session, websocket: web.WebSocketResponse, hello: bytes
    ) -> web.WebSocketResponse:
        if session.forgetting is not None:
            session.forgetting.cancel()
        session.websocket = websocket
        sending = asyncio.create_task(_send(session, websocket, hello))
        try:
            over = await _receive(session, websocket)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            if session.websocket is websocket:
                session.websocket = None
                later = asyncio.get_running_loop().call_later
                session.forgetting = later(_KEPT_SECONDS, self._forget, sid)
        if over:
            self._forget(sid)
        return websocket

    def _forget(self, sid: str) -> None:
        session = self._sessions.pop(sid, None)
        if session is None:
            return
        if session.forgetting is not None:
            session.forgetting.cancel()
        if session.reading is not None:
            session.reading.cancel()
        session.writer.close()


async def _accept(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(
        protocols=[_SUBPROTOCOL], compress=False, max_msg_size=1 << 20, timeout=2.0
    )
    if request.headers.get("Sec-WebSocket-Protocol") != _SUBPROTOCOL:
        raise GoogleError(400, "badRequest", f"The subprotocol {_SUBPROTOCOL} is needed.")
    await websocket.prepare(request)
    return websocket


async def _refuse(request: web.Request, refusal: Refused) -> web.WebSocketResponse:
    websocket = await _accept(request)
    await websocket.close(code=refusal.code, message=refusal.reason.encode())
    return websocket


async def _read(session: _Session) -> None:
    """From the backend, as long as there is room for what the client has not confirmed."""
    with suppress(OSError):
        while data := await session.reader.read(_LARGEST):
            session.unconfirmed += data
            session.changed.set()
            while len(session.unconfirmed) >= _UNCONFIRMED:
                session.changed.clear()
                await session.changed.wait()
    session.ended = True
    session.changed.set()


async def _send(session: _Session, websocket: web.WebSocketResponse, hello: bytes) -> None:
    """To the client: what it has not confirmed, and what comes; at the end of it, a close."""
    with suppress(ConnectionError):
        await websocket.send_bytes(hello)
        position = session.confirmed
        while True:
            begin = position - session.confirmed
            if data := bytes(session.unconfirmed[begin : begin + _LARGEST]):
                position += len(data)
                await websocket.send_bytes(struct.pack(">HI", _DATA, len(data)) + data)
                continue
            if session.ended:
                await websocket.close(code=1000)
                return
            session.changed.clear()
            await session.changed.wait()


async def _receive(session: _Session, websocket: web.WebSocketResponse) -> bool:
    """From the client; whether the session is over with its websocket."""
    async for message in websocket:
        if message.type is not WSMsgType.BINARY:
            continue
        tag = int.from_bytes(message.data[:2])
        if tag == _ACK:
            _confirm(session, int.from_bytes(message.data[2:10]))
        elif tag == _DATA:
            data = message.data[6 : 6 + int.from_bytes(message.data[2:6])]
            session.received += len(data)
            try:
                session.writer.write(data)
                await session.writer.drain()
            except OSError:
                await websocket.close(code=4009, message=b"destination write failed")
                return True
            if session.received - session.told >= _ACK_EVERY:
                session.told = session.received
                with suppress(ConnectionError):
                    await websocket.send_bytes(struct.pack(">HQ", _ACK, session.received))
        else:
            await websocket.close(code=_INVALID_TAG, message=b"invalid tag")
            return True
    return websocket.close_code == 1000


def _confirm(session: _Session, arrived: int) -> None:
    del session.unconfirmed[: max(0, arrived - session.confirmed)]
    session.confirmed = max(session.confirmed, arrived)
    session.changed.set()
