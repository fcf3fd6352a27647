"""External addresses: who reaches an instance's port from outside, and when."""

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_emulator.network.entrances import Entrance, Entrances
from gcp_emulator.network.ports import WIDEST, opened

from .conftest import until

_addresses = itertools.count(1)


def address() -> str:
    """A loopback address that no other test has."""
    return f"127.88.{os.getpid() % 250}.{next(_addresses)}"


@asynccontextmanager
async def echo(host: str, port: int = 0) -> AsyncIterator[int]:
    """A program that says who calls, and then repeats what it hears until its end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("peername")[0].encode() + b"\n")
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, host, port)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def call(host: str, port: int, *, source: str = "127.0.0.1", data: bytes = b"x") -> bytes:
    """All that comes back; raises ConnectionError when nobody lets us in."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
        try:
            writer.write(data)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


async def refused(host: str, port: int, source: str = "127.0.0.1") -> bool:
    """Whether a connection from there comes to nothing."""
    try:
        await call(host, port, source=source)
    except ConnectionError:
        return True
    return False


@pytest.fixture
async def entrances() -> AsyncIterator[tuple[Entrances, list[Entrance]]]:
    """Entrances, and the list that says which there are."""
    wanted: list[Entrance] = []
    entrances = Entrances(lambda: wanted)
    await entrances.start()
    yield entrances, wanted
    await entrances.stop()


def entrance(port: int, internal: str, guard: Callable[[str], bool] | None = None) -> Entrance:
    """One with an external address of its own."""
    return Entrance(
        external=address(), internal=internal, port=port, guard=guard or (lambda _peer: True)
    )


type Opened = tuple[Entrances, list[Entrance]]


async def test_only_allowed_peers_get_through(entrances: Opened) -> None:
    """A peer that no rule allows is cut off at once; the program sees the others' addresses."""
    room, wanted = entrances
    async with echo(address()) as port:
        pass
    internal = address()
    one = entrance(port, internal, lambda peer: peer == "127.0.0.1")
    wanted.append(one)
    async with echo(internal, port):
        room.update()

        async def reached() -> bool:
            return not await refused(one.external, port)

        await until(reached)
        assert await call(one.external, port, data=b"hello") == b"127.0.0.1\nhello"
        assert await refused(one.external, port, source="127.0.0.9")
        large = os.urandom(3_000_000)
        assert (await call(one.external, port, data=large)).endswith(large)
        # Inside, everybody who knows the address comes in.
        assert await call(internal, port, source="127.0.0.9") == b"127.0.0.9\nx"


async def test_nobody_listens_inside(entrances: Opened) -> None:
    """The connection is closed, and the next one works once somebody listens."""
    room, wanted = entrances
    internal = address()
    async with echo(internal) as port:
        wanted.append(one := entrance(port, internal))
        room.update()

        async def reached() -> bool:
            return not await refused(one.external, port)

        await until(reached)
    assert await refused(one.external, port)
    async with echo(internal, port):
        assert await call(one.external, port) == b"127.0.0.1\nx"


async def test_entrances_come_and_go(entrances: Opened) -> None:
    """Whatever is no longer wanted is closed with its connections; a taken port harms no other."""
    room, wanted = entrances
    internal = address()
    async with echo(internal) as port:
        taken = entrance(port, internal)
        with socket.create_server((taken.external, port)):
            wanted += [taken, one := entrance(port, internal)]
            room.update()

            async def reached() -> bool:
                return not await refused(one.external, port)

            await until(reached)
        reader, writer = await asyncio.open_connection(one.external, port)
        assert await reader.readline() == b"127.0.0.1\n"
        wanted.clear()
        room.update()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()

        async def gone() -> bool:
            return await refused(one.external, port)

        await until(gone)


async def test_a_tightened_rule_counts_at_once(entrances: Opened) -> None:
    """The guard is asked for each connection."""
    room, wanted = entrances
    allowed = {"127.0.0.1"}
    internal = address()
    async with echo(internal) as port:
        wanted.append(one := entrance(port, internal, lambda peer: peer in allowed))
        room.update()

        async def reached() -> bool:
            return not await refused(one.external, port)

        await until(reached)
        allowed.clear()
        assert await refused(one.external, port)


def rule(*allowed: tuple[str, list[str]], **more: object) -> dict[str, object]:
    """A firewall rule as Compute Engine shows it."""
    entries = [{"IPProtocol": kind, "ports": ports} for kind, ports in allowed]
    return {"direction": "INGRESS", "allowed": entries, **more}


def test_which_ports_are_opened() -> None:
    """TCP only, by tag and account, not when disabled, denied or for what goes out."""
    rules: list[dict[str, object]] = [
        rule(("tcp", ["5000", "80-82"])),
        rule(("6", ["7"])),
        rule(("udp", ["53"]), ("icmp", [])),
        rule(("tcp", ["1"]), disabled=True),
        rule(("tcp", ["2"]), direction="EGRESS"),
        rule(("tcp", ["3"]), targetTags=["mlflow"]),
        rule(("tcp", ["4"]), targetServiceAccounts=["a@b"]),
        {"direction": "INGRESS", "denied": [{"IPProtocol": "tcp", "ports": ["9"]}]},
        rule(("tcp", ["0-65535"])),
        {"direction": "INGRESS", "allowed": [{"IPProtocol": "all"}]},
    ]
    everywhere = {5000, 80, 81, 82, 7}
    assert opened(rules, tags=(), account=None) == everywhere
    assert opened(rules, tags=("mlflow",), account=None) == everywhere | {3}
    assert opened(rules, tags=("other",), account="a@b") == everywhere | {4}


@given(st.integers(0, 65_535), st.integers(0, 200))
def test_ranges_of_ports(low: int, count: int) -> None:
    """A range is all of its ports, port 0 never, and nothing when it is too wide."""
    high = min(low + count, 65_535)
    found = opened([rule(("tcp", [f"{low}-{high}"]))], tags=(), account=None)
    expected = set(range(max(low, 1), high + 1))
    assert found == (expected if len(expected) <= WIDEST else set())
