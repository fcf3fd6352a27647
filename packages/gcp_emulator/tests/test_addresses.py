"""Reserved external addresses, and the regional operations that make them."""

import asyncio
import ipaddress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gcp_emulator.server import LocalCloud
from gcp_emulator.serving import wipe

from .conftest import INSTANCES, ZONE, Client

REGION = "europe-west1"
ADDRESSES = f"regions/{REGION}/addresses"
OPERATIONS = f"regions/{REGION}/operations"


async def done(client: Client, operation: Any) -> Any:
    """The same regional operation, DONE."""
    name = operation["name"]
    found = await asyncio.wait_for(client.call("POST", f"{OPERATIONS}/{name}/wait"), 10)
    assert found["status"] == "DONE"
    assert "error" not in found
    return found


async def reserve(client: Client, name: str = "ip", **more: Any) -> Any:
    """Reserve an address; it as it is shown."""
    await done(client, await client.call("POST", ADDRESSES, {"name": name, **more}))
    return await client.get(f"{ADDRESSES}/{name}")


def instance_at(address: str, name: str = "server") -> dict[str, Any]:
    """An instance that asks for an external address."""
    return {
        "name": name,
        "machineType": f"zones/{ZONE}/machineTypes/e2-micro",
        "disks": [{"boot": True}],
        "networkInterfaces": [{"accessConfigs": [{"natIP": address}]}],
    }


async def test_address(client: Client) -> None:
    """It is a loopback address of its own, RESERVED, and listed in its region only."""
    first = await reserve(client, description="of the server", labels={"a": "b"})
    second = await reserve(client, "other")
    assert first["status"] == "RESERVED"
    assert "users" not in first
    assert first["description"] == "of the server"
    assert ipaddress.ip_address(first["address"]).is_loopback
    assert first["address"] != second["address"]
    assert (await client.get(ADDRESSES))["items"] == [first, second]
    assert (await client.get(ADDRESSES, filter=f"address={first['address']}"))["items"] == [first]
    assert (await client.get("regions/us-east1/addresses"))["items"] == []
    scopes = (await client.get("aggregated/addresses"))["items"]
    assert scopes[f"regions/{REGION}"] == {"addresses": [first, second]}
    assert scopes["regions/us-east1"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"
    taken = await client.call("POST", ADDRESSES, {"name": "ip"}, status=409)
    assert f"projects/local/{ADDRESSES}/ip" in taken["error"]["message"]
    await done(client, await client.call("DELETE", f"{ADDRESSES}/ip"))
    await client.call("GET", f"{ADDRESSES}/ip", status=404)
    await client.call("DELETE", f"{ADDRESSES}/ip", status=404)


async def test_address_in_use(client: Client) -> None:
    """It is IN_USE while an instance has it, stopped or not, and can't be deleted meanwhile."""
    address = (await reserve(client))["address"]
    await client.done(await client.call("POST", INSTANCES, instance_at(address)))
    used = await client.get(f"{ADDRESSES}/ip")
    assert used["status"] == "IN_USE"
    (user,) = used["users"]
    server = await client.get(f"{INSTANCES}/server")
    assert user == server["selfLink"]
    (nic,) = server["networkInterfaces"]
    assert nic["accessConfigs"][0]["natIP"] == address != nic["networkIP"]
    refused = await client.call("DELETE", f"{ADDRESSES}/ip", status=400)
    assert refused["error"]["errors"][0]["reason"] == "resourceInUseByAnotherResource"
    assert refused["error"]["message"] == (
        f"The address resource 'projects/local/{ADDRESSES}/ip' is already being used by"
        f" 'projects/local/zones/{ZONE}/instances/server'"
    )
    second = instance_at(address, "second")
    refused = await client.call("POST", INSTANCES, second, status=400)
    assert refused["error"]["message"] == f"External IP address: {address} is already in-use."
    await client.done(await client.call("POST", f"{INSTANCES}/server/stop"))
    assert (await client.get(f"{ADDRESSES}/ip"))["status"] == "IN_USE"
    await client.done(await client.call("DELETE", f"{INSTANCES}/server"))
    assert (await client.get(f"{ADDRESSES}/ip"))["status"] == "RESERVED"
    await client.done(await client.call("POST", INSTANCES, second))
    await client.done(await client.call("DELETE", f"{INSTANCES}/second"))
    await done(client, await client.call("DELETE", f"{ADDRESSES}/ip"))


async def test_address_of_another_region(client: Client) -> None:
    """An instance can have an address of its own region only."""
    started = await client.call("POST", "regions/us-east1/addresses", {"name": "far"})
    assert started["region"].endswith("/regions/us-east1")
    far = (await client.get("regions/us-east1/addresses/far"))["address"]
    refused = await client.call("POST", INSTANCES, instance_at(far), status=400)
    assert f"was not found in region '{REGION}'" in refused["error"]["message"]


async def test_quota(client: Client) -> None:
    """Google's default is eight static addresses in each region."""
    for number in range(8):
        await reserve(client, f"ip-{number}")
    refused = await client.call("POST", ADDRESSES, {"name": "ip-8"}, status=403)
    assert refused["error"]["errors"][0]["reason"] == "quotaExceeded"
    assert refused["error"]["message"] == (
        f"Quota 'STATIC_ADDRESSES' exceeded.  Limit: 8.0 in region {REGION}."
    )
    quotas = (await client.get(f"regions/{REGION}"))["quotas"]
    assert {"metric": "STATIC_ADDRESSES", "limit": 8.0, "usage": 8.0} in quotas
    await client.call("POST", "regions/us-east1/addresses", {"name": "ip-8"})


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"name": "IP"}, 400, "resource.name"),
        ({}, 400, "resource.name"),
        ({"name": "ip", "labels": {"A": ""}}, 400, "resource.labels"),
        ({"name": "ip", "addressType": "INTERNAL"}, 501, "addressType"),
        ({"name": "ip", "address": "127.0.0.9"}, 501, "address"),
    ],
)
async def test_addresses_that_are_refused(
    client: Client, body: dict[str, Any], status: int, named: str
) -> None:
    """What can't be reserved is refused, naming the field."""
    refused = await client.call("POST", ADDRESSES, body, status=status)
    assert named in refused["error"]["message"]
    assert client.cloud.state.addresses == {}


async def test_labels(client: Client) -> None:
    """Labels are replaced by those who have seen the old ones."""
    address = await reserve(client)
    path = f"{ADDRESSES}/ip/setLabels"
    await client.call("POST", path, {"labels": {"a": "1"}}, status=412)
    seen = address["labelFingerprint"]
    body = {"labels": {"a": "1"}, "labelFingerprint": seen}
    await done(client, await client.call("POST", path, body))
    assert (await client.get(f"{ADDRESSES}/ip"))["labels"] == {"a": "1"}


async def test_regional_operations(client: Client) -> None:
    """They are found in their region, and nowhere else."""
    started = await client.call("POST", ADDRESSES, {"name": "ip"})
    found = await done(client, started)
    assert found["operationType"] == "insert"
    assert found["targetLink"].endswith(f"/{ADDRESSES}/ip")
    assert await client.get(f"{OPERATIONS}/{started['name']}") == found
    assert (await client.get(OPERATIONS))["items"] == [found]
    assert (await client.get("global/operations"))["items"] == []
    await client.call("GET", f"global/operations/{started['name']}", status=404)
    await client.call("GET", f"regions/us-east1/operations/{started['name']}", status=404)
    unknown = await client.call("GET", "regions/mars/operations", status=400)
    assert "'region'" in unknown["error"]["message"]


async def test_addresses_outlive_the_cloud(tmp_path: Path) -> None:
    """After a restart they are there, and nobody has them; wiping the folder removes them."""
    folder = tmp_path / "cloud"
    seen = []
    for name in ("before", "after"):
        async with (
            LocalCloud(folder, engine="inert", operation_seconds=0.0) as cloud,
            aiohttp.ClientSession() as session,
        ):
            client = Client(cloud, session)
            if name == "before":
                address = await reserve(client)
                await client.call("POST", INSTANCES, instance_at(address["address"]))
                assert (await client.get(f"{ADDRESSES}/ip"))["status"] == "IN_USE"
            shown = await client.get(f"{ADDRESSES}/ip")
            seen.append((shown["address"], shown["id"], shown["creationTimestamp"]))
    assert shown["status"] == "RESERVED"
    assert seen[0] == seen[1]
    assert "network.json" in wipe(folder)
    assert not folder.exists()


async def test_a_file_that_is_broken_is_named(tmp_path: Path) -> None:
    """The cloud says which file it can't read, and what to do."""
    (tmp_path / "network.json").write_text("[")
    with pytest.raises(ValueError, match=r"network\.json can't be read .* wipe the folder"):
        LocalCloud(tmp_path, engine="inert")
