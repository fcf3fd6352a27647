"""Regional managed instance groups: where their members go, and what they are made of."""

from typing import Any

import pytest

from gcp_emulator.compute.capacity import Stock
from gcp_emulator.server import LocalCloud

from .conftest import GROUPS, ZONE, Client, until

REGION = "europe-west1"
REGIONAL = f"regions/{REGION}/instanceGroupManagers"
ZONES = [f"{REGION}-{letter}" for letter in "bcd"]
ANYWHERE: dict[str, Any] = {
    "distributionPolicy": {"targetShape": "ANY", "zones": [{"zone": f"zones/{z}"} for z in ZONES]},
    "updatePolicy": {"instanceRedistributionType": "NONE"},
}


async def regional(client: Client, size: int = 0, *, status: int = 200, **more: Any) -> Any:
    """Make a regional group, anywhere unless it is said otherwise."""
    body = {
        "name": "wide",
        "instanceTemplate": "global/instanceTemplates/sinergym-template",
        "targetSize": size,
        **ANYWHERE,
        **more,
    }
    made = await client.call("POST", REGIONAL, body, status=status)
    return await client.done(made) if status == 200 else made["error"]["message"]


async def members_of(client: Client) -> dict[str, Any]:
    """Its members by name."""
    found = await client.call("POST", f"{REGIONAL}/wide/listManagedInstances")
    return {member["name"]: member for member in found.get("managedInstances", [])}


async def settled(client: Client, count: int) -> dict[str, Any]:
    """Its members, once there are so many, and all at rest."""

    async def quiet() -> tuple[dict[str, Any], ...]:
        members = await members_of(client)
        rest = all(member["currentAction"] == "NONE" for member in members.values())
        return (members,) if rest and len(members) == count else ()

    return (await until(quiet))[0]  # type: ignore[no-any-return]


def zone_of(member: Any) -> str:
    """The zone that the member's URL tells."""
    return str(member["instance"]).split("/zones/")[1].split("/")[0]


async def create(client: Client, *names: str, status: int = 200) -> Any:
    """Add members by name."""
    body = {"instances": [{"name": name} for name in names]}
    return await client.call("POST", f"{REGIONAL}/wide/createInstances", body, status=status)


async def test_a_life_in_a_region(client: Client, cloud: LocalCloud) -> None:
    """Named members fill the zones that have room; they go by URL, and the group after them."""
    await client.template()
    await regional(client)
    shown = await client.get(f"{REGIONAL}/wide")
    assert shown["region"].endswith(f"/regions/{REGION}")
    assert shown["distributionPolicy"]["targetShape"] == "ANY"
    assert "zone" not in shown
    cloud.lifecycle.set_capacity(1, zone=ZONES[0])
    await client.done(await create(client, "wide-1", "wide-2"))
    members = await settled(client, 2)
    assert [zone_of(member) for member in members.values()] == ZONES[:2]
    instance = await client.get(f"zones/{ZONES[1]}/instances/wide-2")
    metadata = {item["key"]: item["value"] for item in instance["metadata"]["items"]}
    assert metadata["created-by"].endswith(f"/{REGIONAL}/wide")
    everywhere = (await client.get("aggregated/instanceGroupManagers"))["items"]
    assert [g["name"] for g in everywhere[f"regions/{REGION}"]["instanceGroupManagers"]] == [
        "wide"
    ]
    assert "warning" in everywhere[f"zones/{ZONE}"]
    assert [g["name"] for g in (await client.get(REGIONAL))["items"]] == ["wide"]
    assert (await client.get(GROUPS))["items"] == []
    urls = {"instances": [members["wide-1"]["instance"], f"zones/{ZONES[1]}/instances/wide-2"]}
    await client.done(await client.call("POST", f"{REGIONAL}/wide/deleteInstances", urls))
    await settled(client, 0)
    await client.done(await client.call("POST", f"{REGIONAL}/wide/resize", size="1"))
    await settled(client, 1)
    await client.done(await client.call("DELETE", f"{REGIONAL}/wide"))
    assert cloud.state.groups == {}
    assert cloud.state.instances == {}


async def test_no_room_anywhere(client: Client, cloud: LocalCloud) -> None:
    """A member waits with an error of each kind, and takes the first place that comes."""
    await client.template()
    for zone in ZONES:
        cloud.lifecycle.set_capacity(0, zone=zone)
    cloud.lifecycle.set_capacity(0, zone=ZONES[1], machine_type="n2-highcpu-8")
    del cloud.lifecycle.capacity.stock[Stock(ZONES[1])]
    await regional(client)
    await client.done(await create(client, "wide-1"))
    waiting = (await members_of(client))["wide-1"]
    errors = waiting["lastAttempt"]["errors"]["errors"]
    code = "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert [error["code"] for error in errors] == [code, f"{code}_WITH_DETAILS"]
    assert ZONES[0] in errors[0]["message"]
    assert len((await client.get(f"{REGIONAL}/wide/listErrors"))["items"]) == 2
    cloud.lifecycle.set_capacity(1, zone=ZONES[2])
    (member,) = (await settled(client, 1)).values()
    assert zone_of(member) == ZONES[2]
    assert "lastAttempt" not in member


@pytest.mark.parametrize(("moves", "zone"), [("NO", ZONES[0]), ("YES", ZONES[1])])
async def test_a_repair_stays_in_its_zone(
    client: Client, cloud: LocalCloud, moves: str, zone: str
) -> None:
    """A repaired member comes back in its zone, unless the group may change that."""
    await client.template()
    policy = {"onRepair": {"allowChangingZone": moves}}
    await regional(client, instanceLifecyclePolicy=policy)
    await create(client, "wide-1")
    before = (await settled(client, 1))["wide-1"]
    cloud.lifecycle.set_capacity(0, zone=ZONES[0])
    await client.call("POST", "/emulator/instances/wide-1/kill", {})

    async def again() -> Any:
        member = (await members_of(client))["wide-1"]
        return (
            member
            if member.get("id", before["id"]) != before["id"]
            or (member["currentAction"] == "RECREATING" and "lastAttempt" in member)
            else None
        )

    member = await until(again)
    assert zone_of(member) == zone
    assert ("lastAttempt" in member) is (moves == "NO")


async def test_even_shapes_are_even(client: Client) -> None:
    """EVEN gives each zone as many, BALANCED fills up where there is room."""
    await client.template()
    await regional(client, size=6, distributionPolicy={"targetShape": "EVEN"})
    zones = sorted(zone_of(member) for member in (await settled(client, 6)).values())
    assert zones == sorted(ZONES * 2)


async def test_balanced_shapes_avoid_full_zones(client: Client, cloud: LocalCloud) -> None:
    """BALANCED spreads members as evenly as there is room."""
    await client.template()
    cloud.lifecycle.set_capacity(1, zone=ZONES[0])
    await regional(client, size=5, distributionPolicy={"targetShape": "BALANCED"})
    zones = sorted(zone_of(member) for member in (await settled(client, 5)).values())
    assert zones == sorted([ZONES[0], *ZONES[1:] * 2])


async def test_machine_types_by_rank(client: Client, cloud: LocalCloud) -> None:
    """The best ranked machine type with room is taken, wherever it is; the member tells which."""
    await client.template()
    selections = {
        "second": {"machineTypes": ["e2-standard-8"], "rank": 2},
        "first": {"machineTypes": ["n2-highcpu-8"], "rank": 1},
    }
    await regional(client, instanceFlexibilityPolicy={"instanceSelections": selections})
    for zone in ZONES:
        body = {"capacity": int(zone == ZONES[1]), "zone": zone, "machine_type": "n2-highcpu-8"}
        await client.call("POST", "/emulator/capacity", body)
    await create(client, "wide-1", "wide-2")
    members = await settled(client, 2)
    taken = {n: m["propertiesFromFlexibilityPolicy"]["machineType"] for n, m in members.items()}
    assert taken == {"wide-1": "n2-highcpu-8", "wide-2": "e2-standard-8"}
    assert zone_of(members["wide-1"]) == ZONES[1]
    instance = await client.get(f"zones/{ZONES[0]}/instances/wide-2")
    assert instance["machineType"].endswith("/e2-standard-8")


async def test_what_does_not_go_together(client: Client) -> None:
    """Google's rules on shapes, redistribution, flexibility and zones."""
    await client.template()
    flexible = {"instanceSelections": {"a": {"machineTypes": ["n2-highcpu-8"]}}}
    said = await regional(
        client,
        status=400,
        distributionPolicy={"targetShape": "EVEN"},
        instanceFlexibilityPolicy=flexible,
    )
    assert said == (
        "Invalid value for field 'resource.distributionPolicy.targetShape': 'EVEN'. Instance"
        " flexibility policy is supported only for RMIGs with target shapes ANY, ANY_SINGLE_ZONE"
        " and BALANCED."
    )
    assert "redistribution" in await regional(client, status=400, updatePolicy={})
    zones = [{"zone": "zones/us-east1-b"}]
    policy = {"targetShape": "ANY", "zones": zones}
    assert REGION in await regional(client, status=400, distributionPolicy=policy)
    unknown = {"instanceSelections": {"a": {"machineTypes": ["x9-huge-1"]}}}
    assert "x9-huge-1" in await regional(client, status=400, instanceFlexibilityPolicy=unknown)
    zonal = {
        "name": "quick",
        "targetSize": 0,
        "instanceTemplate": "global/instanceTemplates/sinergym-template",
    }
    flexible_zonal = {**zonal, "instanceFlexibilityPolicy": flexible}
    await client.call("POST", GROUPS, flexible_zonal, status=400)
    placed = {**zonal, "distributionPolicy": ANYWHERE["distributionPolicy"]}
    await client.call("POST", GROUPS, placed, status=400)
    await regional(client, distributionPolicy={}, updatePolicy={})
    refused = await create(client, "wide-1", status=400)
    assert "instanceRedistributionType" in refused["error"]["message"]
    patch = {"updatePolicy": {"instanceRedistributionType": "NONE"}}
    await client.done(await client.call("PATCH", f"{REGIONAL}/wide", patch))
    await create(client, "wide-1")
    await settled(client, 1)
