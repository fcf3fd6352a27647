"""External addresses: who reaches an instance's port from outside, and when."""

import asyncio
import contextlib
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_emulator.network.entrances import Entrance, Entrances
from gcp_emulator.network.ports import WIDEST, opened
from gcp_emulator.server import LocalCloud

from .conftest import INSTANCES, ZONE, Client, until

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


INSIDE = """
import asyncio, os, urllib.request

def read(path):
    place = f"http://{os.environ['GCE_METADATA_HOST']}/computeMetadata/v1/instance/{path}"
    request = urllib.request.Request(place, headers={"Metadata-Flavor": "Google"})
    return urllib.request.urlopen(request).read().decode()

async def serve(reader, writer):
    caller = writer.get_extra_info("peername")[0]
    writer.write(f"{caller} {read('name')}\\n".encode() + await reader.read())
    writer.close()

async def main():
    internal = read("network-interfaces/0/ip")
    server = await asyncio.start_server(serve, internal, 5000)
    async with server:
        await server.serve_forever()

asyncio.run(main())
"""
USER_DATA = """#cloud-config
write_files:
- path: /etc/systemd/system/web.service
  content: |
    [Service]
    ExecStartPre=-/usr/bin/docker rm --force web
    ExecStart=/usr/bin/docker run --name=web --network=host registry.example/p/web:1
    Restart=always
    RestartSec=0.1
"""


async def test_from_outside_to_a_program_of_an_image(tmp_path: Path) -> None:
    """Through a reserved address and a rule, by what the startup script starts; over a reset."""
    program = tmp_path / "inside.py"
    program.write_text(INSIDE)
    async with (
        LocalCloud(
            tmp_path / "cloud",
            operation_seconds=0.0,
            boot_seconds=0.0,
            images={"web": f"{sys.executable} {program}"},
        ) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        await client.call("POST", "regions/europe-west1/addresses", {"name": "web-ip"})

        async def reserved() -> str:
            found = await client.get("regions/europe-west1/addresses/web-ip")
            return str(found["address"]) if found["status"] == "RESERVED" else ""

        external = await until(reserved)
        nic = {
            "network": "global/networks/default",
            "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "natIP": external}],
        }
        server = {
            "name": "web",
            "machineType": f"zones/{ZONE}/machineTypes/e2-medium",
            "disks": [{"boot": True, "initializeParams": {"sourceImage": "x"}}],
            "networkInterfaces": [nic],
            "tags": {"items": ["web"]},
            "serviceAccounts": [{"email": "default"}],
            "metadata": {
                "items": [
                    {"key": "user-data", "value": USER_DATA},
                    {"key": "startup-script", "value": "systemctl start --no-block web.service"},
                ]
            },
        }
        await client.done(await client.call("POST", INSTANCES, server))
        internal = cloud.state.instances[ZONE, "web"].address
        assert internal != external

        async def runs() -> bool:
            return not await refused(internal, 5000)

        await until(runs)
        assert await refused(external, 5000)

        rule = {
            "name": "allow-web",
            "allowed": [{"IPProtocol": "tcp", "ports": ["5000"]}],
            "sourceRanges": ["127.0.0.1/32"],
            "targetTags": ["web"],
        }
        await client.call("POST", "global/firewalls", rule)

        async def reached() -> bool:
            return not await refused(external, 5000)

        await until(reached)
        assert await call(external, 5000, data=b"hello") == b"127.0.0.1 web\nhello"
        assert await refused(external, 5000, source="127.0.0.9")
        from_instances = {
            "name": "allow-instances",
            "allowed": [{"IPProtocol": "tcp", "ports": ["5000"]}],
            "sourceServiceAccounts": [cloud.state.default_account],
        }
        await client.call("POST", "global/firewalls", from_instances)

        async def from_inside() -> bool:
            return not await refused(external, 5000, source=internal)

        await until(from_inside)
        assert await refused(external, 5000, source="127.0.0.9")
        await client.call("DELETE", "global/firewalls/allow-instances")
        # Google's default network lets everybody reach SSH.
        reader, writer = await asyncio.open_connection(external, cloud.ssh_port)
        assert (await reader.readline()).startswith(b"SSH-2.0-")
        writer.close()

        await client.done(await client.call("POST", f"{INSTANCES}/web/reset"))
        await until(reached)
        await client.call("DELETE", "global/firewalls/allow-web")

        async def gone() -> bool:
            return await refused(external, 5000)

        await until(gone)
        assert not await refused(internal, 5000)
        await client.done(await client.call("POST", f"{INSTANCES}/web/stop"))
        assert await refused(external, cloud.ssh_port)
