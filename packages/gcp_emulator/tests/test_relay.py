"""IAP's relay, message by message, and what an instance without an external address answers."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from gcp_emulator.server import LocalCloud

from .conftest import ZONE, Client

PORT = 7009
HEADERS = {"Origin": "bot:iap-tunneler"}
PROTOCOL = "relay.tunnel.cloudproxy.app"
RULE = {
    "name": "iap",
    "sourceRanges": ["35.235.240.0/20"],
    "allowed": [{"IPProtocol": "tcp", "ports": [str(PORT)]}],
}


@pytest.fixture
async def address(cloud: LocalCloud, client: Client) -> AsyncIterator[str]:
    """The address of an instance on which a program says what it is told, twice."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    await client.done(await client.call("POST", "global/firewalls", RULE))
    (instance,) = cloud.state.instances.values()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data * 2)
        writer.close()

    server = await asyncio.start_server(answer, instance.address, PORT)
    yield instance.address
    server.close()


@asynccontextmanager
async def websocket(
    cloud: LocalCloud, verb: str = "connect", **fields: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A websocket of the relay's, for the program on the instance."""
    asked = {
        "project": "local",
        "zone": ZONE,
        "instance": "quick-0001",
        "interface": "nic0",
        "port": str(PORT),
        "newWebsocket": "True",
        **fields,
    }
    async with (
        aiohttp.ClientSession(headers=HEADERS) as session,
        session.ws_connect(
            f"{cloud.endpoint}/v4/{verb}", params=asked, protocols=[PROTOCOL]
        ) as connected,
    ):
        yield connected


async def closed(cloud: LocalCloud, verb: str = "connect", **fields: Any) -> tuple[int, str]:
    """With which code and words the relay closes at once."""
    async with websocket(cloud, verb, **fields) as connected:
        message = await connected.receive(timeout=5)
    assert message.type is WSMsgType.CLOSE
    return message.data, message.extra or ""


async def sid_of(connected: aiohttp.ClientWebSocketResponse) -> str:
    """The session's id, which comes first."""
    message = await connected.receive_bytes(timeout=5)
    tag, length = struct.unpack(">HI", message[:6])
    assert (tag, length) == (1, len(message) - 6)
    return message[6:].decode()


def data(content: bytes) -> bytes:
    """A message of data."""
    return struct.pack(">HI", 4, len(content)) + content


async def test_a_session_goes_on_where_it_was(cloud: LocalCloud, address: str) -> None:
    """What a client has not acknowledged comes again, and what the relay has is told."""
    async with websocket(cloud) as first:
        sid = await sid_of(first)
        await first.send_bytes(data(b"one"))
        assert await first.receive_bytes(timeout=5) == data(b"oneone")
        transport = first.get_extra_info("socket")
        transport.shutdown(2)

    async with websocket(cloud, "reconnect", sid=sid, ack=4) as second:
        assert await second.receive_bytes(timeout=5) == struct.pack(">HQ", 2, 3)
        assert await second.receive_bytes(timeout=5) == data(b"ne")
        await second.send_bytes(struct.pack(">HQ", 7, 6))
        await second.send_bytes(data(b"2"))
        assert await second.receive_bytes(timeout=5) == data(b"22")
    # Whoever says goodbye can't come back.
    assert await closed(cloud, "reconnect", sid=sid, ack=8) == (4001, "sid unknown")


async def test_what_arrives_is_acknowledged(cloud: LocalCloud, address: str) -> None:
    """At least for every two messages of the largest size."""
    async with websocket(cloud) as connected:
        await sid_of(connected)
        for _ in range(4):
            await connected.send_bytes(data(b"x" * 16_384))
        told, got = 0, 0
        while told < 65_536 or got < 131_072:
            message = await connected.receive_bytes(timeout=5)
            if message[:2] == b"\0\7":
                told = int.from_bytes(message[2:])
            else:
                got += len(message) - 6

    assert (told, got) == (65_536, 131_072)


async def test_the_end_of_the_program_is_the_end(cloud: LocalCloud, client: Client) -> None:
    """A program that closes, and one that isn't there."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    await client.done(await client.call("POST", "global/firewalls", RULE))
    (instance,) = cloud.state.instances.values()

    assert await closed(cloud) == (4003, "failed to connect to backend")

    async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    async with (
        await asyncio.start_server(leave, instance.address, PORT),
        websocket(cloud) as connected,
    ):
        await sid_of(connected)
        assert await connected.receive_bytes(timeout=5) == data(b"bye")
        assert (await connected.receive(timeout=5)).data == 1000


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"instance": "quick-0002"}, 4047),
        ({"zone": "europe-west1-c"}, 4047),
        ({"project": "another"}, 4047),
        ({"port": "7010"}, 4003),
        ({"port": "many"}, 4003),
        ({"interface": "nic1"}, 4003),
    ],
)
async def test_where_there_is_no_way(
    cloud: LocalCloud, address: str, fields: dict[str, str], code: int
) -> None:
    """What isn't there, and what no rule opens."""
    assert (await closed(cloud, **fields))[0] == code


async def test_messages_that_are_none(cloud: LocalCloud, address: str) -> None:
    """An unknown tag, a wrong position, a websocket without the subprotocol, a foreign page."""
    async with websocket(cloud) as connected:
        sid = await sid_of(connected)
        await connected.send_bytes(b"\0\x63")
        assert (await connected.receive(timeout=5)).data == 4008
    async with websocket(cloud) as connected:
        sid = await sid_of(connected)
        assert (await closed(cloud, "reconnect", sid=sid, ack=1))[0] == 4005
    async with aiohttp.ClientSession() as session:
        for headers, status in (({}, 400), ({"Origin": "https://example.org"}, 403)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"{cloud.endpoint}/v4/connect?{sid}", headers=headers)
            assert caught.value.status == status


async def test_a_hidden_instance_answers_from_within_only(tmp_path: Any) -> None:
    """Without an external address SSH is for the other instances, and for IAP's relay."""
    async with (
        LocalCloud(tmp_path / "cloud", engine="inert", boot_seconds=0.0) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        await client.template(networkInterfaces=[{}])
        await client.group()
        await client.create("quick-0001", "quick-0002")
        await client.settled(count=2)
        one, other = cloud.state.instances.values()
        shown = await client.call("GET", f"zones/{ZONE}/instances/{one.name}")
        assert "accessConfigs" not in shown["networkInterfaces"][0]

        async def banner(source: str) -> bytes:
            reader, writer = await asyncio.open_connection(
                one.address, cloud.ssh_port, local_addr=(source, 0)
            )
            try:
                return await asyncio.wait_for(reader.read(8), 5)
            except ConnectionError:
                return b""
            finally:
                writer.close()

        assert await banner("127.0.0.1") == b""
        assert await banner(other.address) == b"SSH-2.0-"
        async with websocket(cloud, port="22") as connected:
            await sid_of(connected)
            assert b"SSH-2.0-" in await connected.receive_bytes(timeout=5)
