"""The metadata server: what a program inside an instance sees of it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gcp_emulator.server import LocalCloud

from .conftest import ZONE, Client, Machines, until

FLAVOR = {"Metadata-Flavor": "Google"}


@pytest.fixture
async def cloud(tmp_path: Path, machines: Machines) -> AsyncIterator[LocalCloud]:
    """A cloud whose engine wants metadata servers."""
    async with LocalCloud(
        tmp_path / "cloud",
        engine="process",
        capacity=None,
        operation_seconds=0.0,
        repair_seconds=0.05,
        make_machine=machines,
    ) as cloud:
        yield cloud


@pytest.fixture
async def guest(client: Client) -> "Guest":
    """The instance quick-0001, seen from inside."""
    await client.template()
    body = {
        "name": "quick",
        "instanceTemplate": "global/instanceTemplates/sinergym-template",
        "targetSize": 0,
        "allInstancesConfig": {"properties": {"metadata": {"sinergym-sweep": "quick"}}},
    }
    await client.done(await client.call("POST", f"zones/{ZONE}/instanceGroupManagers", body))
    await client.create("quick-0001", "quick-0002")
    await client.settled(count=2)
    return Guest(client, "quick-0001")


class Guest:
    """A program inside an instance."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.instance = client.cloud.state.instance(ZONE, name)
        self.address = f"{self.instance.address}:{client.cloud.metadata_port}"

    async def ask(
        self,
        path: str,
        *,
        verb: str = "GET",
        status: int = 200,
        headers: dict[str, str] = FLAVOR,
        data: str | None = None,
    ) -> str:
        """The text of a reply."""
        url = f"http://{self.address}/computeMetadata/v1/{path}"
        async with self.client.session.request(
            verb, url, headers=headers, data=data, allow_redirects=False
        ) as reply:
            assert reply.status == status, await reply.text()
            assert reply.headers["Metadata-Flavor"] == "Google"
            self.etag = reply.headers.get("ETag", "")
            return await reply.text()

    async def json(self, path: str) -> Any:
        """The JSON of a reply."""
        return json.loads(await self.ask(path))


async def test_leaves(guest: Guest) -> None:
    """Single values are plain text, as Google gives them."""
    number = guest.client.cloud.state.project_number
    zone = f"projects/{number}/zones/{ZONE}"
    email = f"{number}-compute@developer.gserviceaccount.com"
    expected = {
        "instance/name": "quick-0001",
        "instance/id": guest.instance.id,
        "instance/zone": zone,
        "instance/hostname": f"quick-0001.{ZONE}.c.local.internal",
        "instance/machine-type": f"projects/{number}/machineTypes/n2-highcpu-8",
        "instance/preempted": "FALSE",
        "instance/attributes/sinergym-sweep": "quick",
        "instance/attributes/created-by": f"{zone}/instanceGroupManagers/quick",
        "instance/network-interfaces/0/ip": guest.instance.address,
        "instance/service-accounts/default/email": email,
        "instance/service-accounts/default/aliases": "default\n",
        "project/project-id": "local",
        "project/numeric-project-id": number,
        "universe/universe-domain": "googleapis.com",
    }
    for path, text in expected.items():
        assert await guest.ask(path) == text


async def test_directories_and_json(guest: Guest) -> None:
    """Directories list their names; recursive JSON has Google's camel case, but own keys stay."""
    assert "attributes/" in (await guest.ask("instance/")).split()
    await guest.ask("instance", status=301)
    await guest.ask("instance/nothing", status=404)
    everything = await guest.json("?recursive=true")
    instance = everything["instance"]
    assert instance["machineType"].endswith("/n2-highcpu-8")
    assert instance["id"] == int(guest.instance.id)
    assert instance["attributes"]["enable-guest-attributes"] == "TRUE"
    assert instance["networkInterfaces"][0]["ip"] == guest.instance.address
    assert everything["project"]["projectId"] == "local"
    flat = await guest.ask("instance/attributes/?recursive=true&alt=text")
    assert "sinergym-sweep quick" in flat.splitlines()
    assert await guest.json("instance/name?alt=json") == "quick-0001"


async def test_headers(guest: Guest) -> None:
    """Requests without the flavor, or forwarded ones, are refused."""
    await guest.ask("instance/name", headers={}, status=403)
    await guest.ask("instance/name", headers={**FLAVOR, "X-Forwarded-For": "1.2.3.4"}, status=403)


async def test_each_instance_sees_itself(guest: Guest) -> None:
    """The address that is asked says which instance asks."""
    other = Guest(guest.client, "quick-0002")
    assert await other.ask("instance/name") == "quick-0002"
    assert await guest.ask("instance/name") == "quick-0001"


async def test_guest_attributes(guest: Guest) -> None:
    """What a guest puts can be read inside and outside, until it is deleted."""
    path = "instance/guest-attributes/sinergym/state"
    await guest.ask(path, verb="PUT", data="ready")
    assert await guest.ask(path) == "ready"
    outside = await guest.client.get(
        f"zones/{ZONE}/instances/quick-0001/getGuestAttributes", queryPath="sinergym/"
    )
    assert outside["queryValue"]["items"][0]["value"] == "ready"
    await guest.ask(path, verb="DELETE")
    await guest.ask(path, status=404)
    await guest.ask("instance/guest-attributes/one", verb="PUT", data="x", status=400)


async def test_wait_for_change(guest: Guest) -> None:
    """A waiter is woken by a preemption, or answers with the same value in the end."""
    value = await guest.ask("instance/preempted?wait_for_change=true&timeout_sec=1")
    assert value == "FALSE"
    tag = guest.etag
    stale = await guest.ask("instance/preempted?wait_for_change=true&last_etag=0")
    assert stale == "FALSE"
    query = f"wait_for_change=true&last_etag={tag}&timeout_sec=20"
    waiter = asyncio.create_task(guest.ask(f"instance/preempted?{query}"))
    preempt = "/emulator/instances/quick-0001/preempt"
    await guest.client.call("POST", preempt, {"grace": 1})
    assert await asyncio.wait_for(waiter, 5) == "TRUE"


async def test_site_closes_with_its_instance(guest: Guest) -> None:
    """Nobody listens for an instance that has gone."""
    await guest.client.remove("quick-0001")

    async def refused() -> bool:
        try:
            await guest.ask("instance/name")
        except aiohttp.ClientConnectorError:
            return True
        except AssertionError:
            pass
        return False

    await until(refused)


async def test_google_auth_finds_itself(guest: Guest) -> None:
    """google.auth.default() works inside, unmodified: project, token, service account."""
    program = (
        "import google.auth, google.auth.transport.requests as r\n"
        "credentials, project = google.auth.default()\n"
        "credentials.refresh(r.Request())\n"
        "print(project, credentials.token, credentials.service_account_email)\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_", "GCLOUD_"))
    }
    environment |= {"GCE_METADATA_HOST": guest.address, "GCE_METADATA_IP": guest.address}
    environment |= {"HOME": "/nonexistent"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, stdout=subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    number = guest.client.cloud.state.project_number
    email = f"{number}-compute@developer.gserviceaccount.com"
    assert output.decode().split() == ["local", guest.instance.token, email]


async def test_an_instance_without_an_external_address(client: Client) -> None:
    """It is told of none."""
    await client.template(networkInterfaces=[{}])
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    guest = Guest(client, "quick-0001")
    interface = "instance/network-interfaces/0"

    assert await guest.ask(f"{interface}/ip") == guest.instance.address
    await guest.ask(f"{interface}/access-configs/0/external-ip", status=404)
