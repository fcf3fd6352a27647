"""TCP to an instance without a public address: IAP's relay, over a websocket.

The protocol is the relay's fourth version, as gcloud and IAP Desktop speak it (it is not
documented otherwise). Each message begins with a tag of two bytes; all numbers are big-endian.

    0x0001  CONNECT_SUCCESS_SID     u32 length, session's id: the instance has answered
    0x0002  RECONNECT_SUCCESS_ACK   u64: how many of our bytes have arrived, ever
    0x0004  DATA                    u32 length, at most 16384 bytes
    0x0007  ACK                     u64: how many bytes have arrived, ever

A websocket that is cut is made anew by the session's id, and both sides send again what the other
has not acknowledged: a shell or a log that is followed outlives a change of network.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from gcloud_ops.clients import Clients
from gcloud_ops.errors import CredentialsMissing, GcloudOpsError, PermissionDenied, Unavailable
from gcloud_ops.model import Instance
from gcloud_ops.text import one_line

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["RELAY_ADDRESSES", "tunnel"]

RELAY_ADDRESSES: Final = "35.235.240.0/20"
"""Where IAP's connections come from: a firewall rule must let them in
(https://cloud.google.com/iap/docs/using-tcp-forwarding)."""

_GOOGLE = "wss://tunnel.cloudproxy.app"
_SUBPROTOCOL = "relay.tunnel.cloudproxy.app"
_ORIGIN = "bot:iap-tunneler"

_LARGEST = 16 * 1024  # bytes of one message
_ACK_EVERY = 2 * _LARGEST
_UNCONFIRMED = 1 << 20  # bytes that wait to be acknowledged, at most: then we wait, too

_RECONNECTS = 6  # in a row without a message
_FIRST_PAUSE = 0.2

# Codes of a close that no reconnecting mends; GoogleCloudPlatform/iap-desktop names them.
_NO_BACKEND, _REAUTHENTICATE, _NOT_AUTHORIZED = 4003, 4004, 4033
_LOST_SESSION = frozenset({4001, 4005, 4006})
_LOOKUP_FAILED = frozenset({4047, 4051})
_ENDED = frozenset({1000, 4009, 4010})

# What becomes of a connection is told by our errors.
logging.getLogger("websockets").addHandler(logging.NullHandler())


@asynccontextmanager
async def tunnel(
    clients: Clients,
    instance: Instance,
    port: int,
    *,
    timeout: float = 20.0,  # noqa: ASYNC109
) -> AsyncIterator[socket.socket]:
    """A socket that leads to a port of an instance; it is connected when this enters.

    The socket is for one user, who closes it; what goes wrong later is the end of its stream.

    Args:
        clients: Of the instance's cloud.
        instance: Which one; of its first network interface.
        port: Which TCP port.
        timeout: Seconds until the instance must have answered.

    Raises:
        PermissionDenied: We lack `roles/iap.tunnelResourceAccessor`.
        CredentialsMissing: IAP doesn't take our token.
        Unavailable: Nothing answers there, or no firewall rule lets IAP in, or IAP is away.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    relay = _Relay(clients, instance, port, ours)
    carrying = asyncio.create_task(relay.carry())
    waiting = asyncio.create_task(relay.connected.wait())
    try:
        await asyncio.wait(
            {carrying, waiting}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if not relay.connected.is_set():
            if carrying.done():
                carrying.result()
            raise relay.unanswered(f"no answer within {timeout:g} s")
        yield theirs
    finally:
        waiting.cancel()
        carrying.cancel()
        await asyncio.gather(carrying, waiting, return_exceptions=True)
        ours.close()
        theirs.close()


class _Tag(IntEnum):
    """What a message is."""

    CONNECT_SUCCESS_SID = 0x0001
    RECONNECT_SUCCESS_ACK = 0x0002
    DATA = 0x0004
    ACK = 0x0007


class _Relay:
    """One session: what goes through it, and how far each side has confirmed."""

    def __init__(
        self, clients: Clients, instance: Instance, port: int, local: socket.socket
    ) -> None:
        self.connected = asyncio.Event()
        self._clients = clients
        self._instance = instance
        self._port = port
        self._local = local
        self._sid = ""
        self._received = 0
        self._told = 0
        self._unconfirmed = bytearray()
        """What came from our side and may have to go out again, from byte `_confirmed` on."""
        self._confirmed = 0
        self._changed = asyncio.Event()
        self._tries = 0

    async def carry(self) -> None:
        """Pass bytes on in both directions, over one websocket after the other, to the end.

        Raises:
            GcloudOpsError: It could not be connected, or not again.
        """
        reading = asyncio.create_task(self._read_local())
        carrying: asyncio.Task[None] | None = None
        try:
            while not reading.done():
                carrying = asyncio.create_task(self._carry_once())
                await asyncio.wait({carrying, reading}, return_when=asyncio.FIRST_COMPLETED)
                if not carrying.done():
                    break
                try:
                    carrying.result()
                    break
                except _Cut as cut:
                    if not self._sid or self._tries >= _RECONNECTS:
                        raise self.failed(str(cut)) from cut
                await asyncio.sleep(_FIRST_PAUSE * 2**self._tries)
                self._tries += 1
        finally:
            tasks = [task for task in (reading, carrying) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(OSError):
                self._local.shutdown(socket.SHUT_RDWR)

    def failed(self, why: str, hint: str = "") -> Unavailable:
        """The error for something that may be better later."""
        return Unavailable(
            f"{self._instance.name}: through IAP: {why}",
            resource=f"instance {self._instance.name}",
            hint=hint,
        )

    def unanswered(self, why: str) -> Unavailable:
        """The error for an instance that says nothing: a firewall looks the same."""
        return self.failed(
            why,
            hint=f"it is still booting, or no firewall rule lets {RELAY_ADDRESSES} reach its "
            f"port {self._port}: `gcloud compute firewall-rules create allow-iap-ssh "
            f"--source-ranges {RELAY_ADDRESSES} --allow tcp:{self._port}`",
        )

    async def _carry_once(self) -> None:
        """Over one websocket; returns when the other side has ended the stream.

        Raises:
            _Cut: The websocket went away.
            GcloudOpsError: IAP refuses for good.
        """
        from websockets.exceptions import ConnectionClosed

        websocket = await self._open()
        ready = asyncio.Event()
        sending = asyncio.create_task(self._send(websocket, ready))
        try:
            # What has come is passed on to its end, also when the websocket is cut meanwhile.
            await self._receive(websocket, ready)
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await websocket.close()
        self._check_close(websocket.close_code, websocket.close_reason)

    async def _open(self) -> "ClientConnection":
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus, WebSocketException
        from websockets.typing import Origin, Subprotocol

        token = await asyncio.to_thread(self._clients.token)
        try:
            return await connect(
                self._url(),
                origin=Origin(_ORIGIN),
                subprotocols=[Subprotocol(_SUBPROTOCOL)],
                additional_headers={"Authorization": f"Bearer {token}"} if token else {},
                compression=None,
                proxy=True if self._clients.settings.is_google else None,
                ping_interval=None,  # the SSH connection within has a pulse of its own
                close_timeout=2.0,
                max_queue=4,
            )
        except InvalidStatus as error:
            raise self._refused(error.response.status_code) from error
        except (WebSocketException, OSError, TimeoutError) as error:
            raise _Cut(one_line(str(error)) or type(error).__name__) from error

    def _url(self) -> str:
        root = _GOOGLE
        if endpoint := self._clients.settings.endpoint:
            root = "ws" + endpoint.removeprefix("http")
        fields: dict[str, str | int] = {
            "project": self._clients.project,
            "port": self._port,
            "newWebsocket": "True",
            "zone": self._instance.zone,
            "instance": self._instance.name,
            "interface": "nic0",
        }
        if self._sid:
            fields |= {"sid": self._sid, "ack": self._received}
        return f"{root}/v4/{'reconnect' if self._sid else 'connect'}?{urlencode(fields)}"

    # ------------------------------------------------------------------------ the stream

    async def _read_local(self) -> None:
        """Take what our side writes, as long as there is room for it; returns at its end."""
        loop = asyncio.get_running_loop()
        await self.connected.wait()
        with suppress(OSError):
            while data := await loop.sock_recv(self._local, _LARGEST):
                self._unconfirmed += data
                self._changed.set()
                while len(self._unconfirmed) >= _UNCONFIRMED:
                    self._changed.clear()
                    await self._changed.wait()

    async def _send(self, websocket: "ClientConnection", ready: asyncio.Event) -> None:
        """Send what the other side has not confirmed, and go on with what comes."""
        await ready.wait()
        position = self._confirmed
        while True:
            begin = position - self._confirmed
            if data := bytes(self._unconfirmed[begin : begin + _LARGEST]):
                position += len(data)
                await websocket.send(struct.pack(">HI", _Tag.DATA, len(data)) + data)
                continue
            self._changed.clear()
            await self._changed.wait()

    async def _receive(self, websocket: "ClientConnection", ready: asyncio.Event) -> None:
        """From IAP to our socket: it is read only as fast as that takes it."""
        loop = asyncio.get_running_loop()
        async for message in websocket:
            if not isinstance(message, bytes) or len(message) < 2:
                continue
            self._tries = 0
            match int.from_bytes(message[:2]):
                case _Tag.DATA:
                    data = message[6 : 6 + int.from_bytes(message[2:6])]
                    self._received += len(data)
                    await loop.sock_sendall(self._local, data)
                    if self._received - self._told >= _ACK_EVERY:
                        self._told = self._received
                        await websocket.send(struct.pack(">HQ", _Tag.ACK, self._received))
                case _Tag.ACK:
                    self._confirm(int.from_bytes(message[2:10]))
                case _Tag.RECONNECT_SUCCESS_ACK:
                    self._confirm(int.from_bytes(message[2:10]))
                    ready.set()
                case _Tag.CONNECT_SUCCESS_SID:
                    self._sid = message[6:].decode(errors="replace")
                    ready.set()
                    self.connected.set()

    def _confirm(self, arrived: int) -> None:
        del self._unconfirmed[: max(0, arrived - self._confirmed)]
        self._confirmed = max(self._confirmed, arrived)
        self._changed.set()

    # ------------------------------------------------------------------------- refusals

    def _refused(self, status: int) -> GcloudOpsError:
        """The error for an answer in place of a websocket."""
        if status == 403:
            return self._denied("not authorized (HTTP 403)")
        if status == 401:
            return self._credentials("HTTP 401")
        return self.failed(f"IAP answers HTTP {status}")

    def _check_close(self, code: int | None, reason: str | None) -> None:
        """Raise what a close means; a normal one means the end of the stream."""
        said = one_line(reason or "") or f"code {code}"
        text = f"{said} ({code})"
        if code == _NOT_AUTHORIZED:
            raise self._denied(text)
        if code == _REAUTHENTICATE:
            raise self._credentials(text)
        if code == _NO_BACKEND:
            raise self.unanswered(text)
        if code in _LOOKUP_FAILED:
            raise self.failed(text, hint="IAP finds no such instance (yet), or may not see it")
        if code in _ENDED:
            if self.connected.is_set():
                return
            raise self.failed(text)
        if code in _LOST_SESSION:
            raise self.failed(f"the session could not be taken up again: {text}")
        raise _Cut(text)

    def _denied(self, text: str) -> PermissionDenied:
        return PermissionDenied(
            f"{self._instance.name}: through IAP: {text}",
            resource=f"instance {self._instance.name}",
            hint="the account needs the role roles/iap.tunnelResourceAccessor",
        )

    def _credentials(self, text: str) -> CredentialsMissing:
        return CredentialsMissing(
            f"{self._instance.name}: IAP doesn't take the credentials: {text}",
            resource=f"instance {self._instance.name}",
            hint="run `gcloud auth application-default login`",
        )


class _Cut(Exception):
    """The websocket went away, and another one may go on."""
