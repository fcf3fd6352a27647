"""Instances that can't be brought up: it is told where one looks, and tried again."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gcp_emulator.compute.nouns import Instance
from gcp_emulator.compute.power import MakeMachine
from gcp_emulator.server import LocalCloud

from .conftest import GROUPS, ZONE, Client, Machines, StandIn, until


@contextlib.asynccontextmanager
async def client_of(
    folder: Path, make: MakeMachine | None, **options: Any
) -> AsyncIterator[Client]:
    """A checking client of a cloud with an empty group, and machines of this making."""
    options = {"engine": "inert", "repair_seconds": 0.05, **options}
    async with (
        LocalCloud(folder, operation_seconds=0.0, make_machine=make, **options) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        await client.template()
        await client.group()
        yield client


async def failed(client: Client, name: str = "quick-0001") -> Any:
    """The member, once its last attempt shows an error."""

    async def look() -> Any:
        member = (await client.members()).get(name, {})
        return member if "lastAttempt" in member else None

    return await until(look)


def error_of(member: Any) -> Any:
    """The only error of its last attempt."""
    (error,) = member["lastAttempt"]["errors"]["errors"]
    return error


async def test_a_machine_that_cannot_be_made(
    tmp_path: Path, machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt tells why, listErrors and the log too; then it comes up, with nothing left."""
    broken = 2

    def make(instance: Instance, record: Callable[[str], None]) -> StandIn:
        nonlocal broken
        broken -= 1
        if broken >= 0:
            raise SyntaxError("invalid syntax (vm.py, line 7)")
        return machines(instance, record)

    async with client_of(tmp_path, make, repair_seconds=0.2) as client:
        await client.create("quick-0001")
        error = error_of(await failed(client))
        assert error["code"] == "INTERNAL_ERROR"
        assert "could not be brought up: invalid syntax (vm.py, line 7)" in error["message"]
        members = await client.settled(count=1)
        assert "lastAttempt" not in members["quick-0001"]
        assert client.cloud.lifecycle.running == 1
        listed = (await client.get(f"{GROUPS}/quick/listErrors"))["items"]
        assert [entry["error"] for entry in listed] == [error, error]
    told = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [record.getMessage() for record in told] == [error["message"]] * 2
    assert all(record.exc_info for record in told)


@pytest.mark.parametrize("which", ["ssh_port", "metadata_port"])
@pytest.mark.slow
async def test_a_port_that_somebody_took(
    tmp_path: Path, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An address whose port is taken is told of, and the instance gets another address."""
    async with client_of(tmp_path, None, engine="process", repair_seconds=0.2) as client:
        taken = [f"127.1.0.{number}" for number in (1, 2)]
        holders = [
            socket.create_server((address, getattr(client.cloud, which))) for address in taken
        ]
        try:
            await client.create("quick-0001")
            error = error_of(await failed(client))
            assert error["code"] == "INTERNAL_ERROR"
            assert "address already in use" in error["message"]
            assert taken[0] in error["message"]
            await client.settled(count=1)
        finally:
            for holder in holders:
                holder.close()
        instance = client.cloud.state.instance(ZONE, "quick-0001")
        assert instance.address == "127.1.0.3"
        reader, writer = await asyncio.open_connection(instance.address, client.cloud.ssh_port)
        assert await asyncio.wait_for(reader.readexactly(4), 5) == b"SSH-"
        writer.close()
    lines = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert len(lines) == 2, "one line for each failure, and nothing that nobody retrieved"
    assert all("could not be brought up" in line for line in lines)
    assert "Traceback" not in caplog.text


async def test_a_boot_without_end(tmp_path: Path, machines: Machines) -> None:
    """A machine that does not come up in time is given up, shut down, and made anew."""
    machines.gate.clear()
    async with client_of(tmp_path, machines) as client:
        client.cloud.lifecycle.boot_patience = 0.05
        await client.create("quick-0001")
        message = error_of(await failed(client))["message"]
        assert message.endswith("it has not booted within 0.05 s")
        machines.gate.set()
        await client.settled(count=1)
        assert machines.made[0].graces == [0]


@pytest.mark.parametrize("turns", range(5))
async def test_an_instance_that_goes_while_it_comes(
    tmp_path: Path, machines: Machines, turns: int
) -> None:
    """Deleted at any moment of its making, it is gone entirely, and the group makes another."""
    async with client_of(tmp_path, machines) as client:
        cloud = client.cloud
        group = cloud.state.groups[ZONE, "quick"]
        group.target_size = 1
        (member,) = cloud.lifecycle.grow(group, {"quick-0001": None})
        first = member.instance
        assert first is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        await cloud.lifecycle.delete_instance(first)
        assert first.gone
        await client.settled(count=1)
        assert member.instance is not first
        assert cloud.lifecycle.running == 1
        assert all(bool(m.graces) == (m.instance is first) for m in machines.made)


async def test_deletion_between_two_attempts(tmp_path: Path, machines: Machines) -> None:
    """A member that waits for its next attempt can be deleted, and the cloud can stop."""

    def make(instance: Instance, record: Callable[[str], None]) -> StandIn:
        raise OSError("no machine today")

    async with client_of(tmp_path, make, repair_seconds=60) as client:
        await client.create("quick-0001", "quick-0002")
        assert "no machine today" in error_of(await failed(client))["message"]
        await failed(client, "quick-0002")
        # Without an instance it has no URL: a member that waits is named.
        body = {"instances": ["quick-0001"]}
        await client.call("POST", f"{GROUPS}/quick/deleteInstances", body)
        await until(lambda: _gone(client))
        assert client.cloud.lifecycle.running == 0
        await asyncio.wait_for(client.cloud.stop(grace=0), 5)


async def _gone(client: Client) -> bool:
    return "quick-0001" not in await client.members()
