"""Managed instance groups over REST: what a launcher sees of them."""

import asyncio
from typing import Any

from gcp_emulator.server import LocalCloud

from .conftest import GROUPS, INSTANCES, ZONE, Client, Machines, until


async def test_main_route(client: Client, machines: Machines) -> None:
    """Template, group of size 0, named members, all at rest, members gone, group gone."""
    await client.template()
    await client.group()
    body = {
        "instances": [
            {"name": "quick-0001", "preservedState": {"metadata": {"colour": "red"}}},
            {"name": "quick-0002"},
        ]
    }
    await client.call("POST", f"{GROUPS}/quick/createInstances", body)
    members = await client.settled(count=2)
    assert {m["instanceStatus"] for m in members.values()} == {"RUNNING"}
    preserved = members["quick-0001"]["preservedStateFromConfig"]
    assert preserved == {"metadata": {"colour": "red"}}
    instance = await client.get(f"{INSTANCES}/quick-0001")
    metadata = {item["key"]: item["value"] for item in instance["metadata"]["items"]}
    assert metadata["colour"] == "red"
    number = client.cloud.state.project_number
    assert metadata["created-by"] == f"projects/{number}/{GROUPS}/quick"
    group = await client.get(f"{GROUPS}/quick")
    assert group["status"]["isStable"] is True
    assert group["targetSize"] == 2
    await client.done(await client.remove("quick-0001", "quick-0002"))
    assert (await client.get(f"{GROUPS}/quick"))["targetSize"] == 0
    await client.settled(count=0)
    await client.done(await client.call("DELETE", f"{GROUPS}/quick"))
    await client.call("GET", f"{GROUPS}/quick", status=404)
    assert "items" in await client.get(INSTANCES)
