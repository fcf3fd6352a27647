"""Spot VMs, VMs that run for so long only, and what else a VM's scheduling says."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_emulator.compute.scheduling import checked_scheduling, is_spot, run_seconds
from gcp_emulator.replies import GoogleError
from gcp_emulator.server import LocalCloud

from .conftest import GROUPS, INSTANCES, ZONE, Client, Machines, until

SPOT = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
HOUR = {"maxRunDuration": {"seconds": "3600"}, "instanceTerminationAction": "DELETE"}


async def one(client: Client, **scheduling: Any) -> Any:
    """A group of one, whose template says this of scheduling; its member."""
    await client.template(scheduling=scheduling)
    await client.group()
    await client.create("quick-1")
    return (await client.settled(count=1))["quick-1"]


async def test_spot_is_kept_and_shown(client: Client) -> None:
    """Template and instance tell all of it, with Google's defaults of Spot VMs."""
    await one(client, **SPOT)
    template = await client.get("global/instanceTemplates/sinergym-template")
    expected = {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "preemptible": True,
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE",
    }
    assert template["properties"]["scheduling"] == expected
    assert (await client.get(f"{INSTANCES}/quick-1"))["scheduling"] == expected


@pytest.mark.parametrize(
    ("scheduling", "said"),
    [
        ({**SPOT, "automaticRestart": True}, "preemptible be false when AutomaticRestart is true"),
        ({"preemptible": True, "onHostMaintenance": "MIGRATE"}, "when OnHostMaintenance isn't"),
        ({"instanceTerminationAction": "DELETE"}, "standard provisioning model (default)"),
        ({"maxRunDuration": {"seconds": 60}}, "needs an instance termination action"),
        ({**HOUR, "maxRunDuration": {"seconds": 29}}, "between 30 seconds and 120 days"),
        ({**HOUR, "maxRunDuration": {"seconds": 120 * 86400 + 1}}, "between 30 seconds"),
        ({"provisioningModel": "CHEAP"}, "Must be one of"),
    ],
)
async def test_what_does_not_go_together(client: Client, scheduling: Any, said: str) -> None:
    """Each is refused with its reason, and no template is made."""
    from .conftest import TEMPLATE

    properties: Any = {**TEMPLATE["properties"], "scheduling": scheduling}  # type: ignore[dict-item]
    body = {"name": "bad", "properties": properties}
    refused = await client.call("POST", "global/instanceTemplates", body, status=400)
    assert said in refused["error"]["message"]
    await client.call("GET", "global/instanceTemplates/bad", status=404)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("automaticRestart", "preemptible", "provisioningModel", "onHostMaintenance"),
                *("instanceTerminationAction", "maxRunDuration"),
            ]
        ),
        st.one_of(
            st.booleans(),
            st.sampled_from(["SPOT", "STANDARD", "DELETE", "STOP", "MIGRATE", "TERMINATE"]),
            st.integers(0, 200).map(lambda n: {"seconds": n}),
            st.none(),
        ),
    )
)
def test_any_scheduling_is_whole_or_refused(given: dict[str, Any]) -> None:
    """What is taken is consistent, and taking it again changes nothing."""
    refused = 0
    try:
        taken = checked_scheduling("scheduling", given)
    except GoogleError as error:
        refused = error.code
    assert refused in (0, 400, 501)
    if refused:
        return
    assert checked_scheduling("scheduling", taken) == taken
    assert not (is_spot(taken) and taken["automaticRestart"])
    assert run_seconds(taken) is None or "instanceTerminationAction" in taken


@pytest.mark.parametrize("action", ["STOP", "DELETE"])
async def test_preemption_ends_as_the_instance_says(
    client: Client, machines: Machines, action: str
) -> None:
    """TERMINATED, or gone; then the group makes it anew, and metadata has told of it."""
    before = await one(client, **{**SPOT, "instanceTerminationAction": action})
    client.cloud.lifecycle.repair_seconds = 0.2
    machines.exit.clear()
    await client.call("POST", "/emulator/instances/quick-1/preempt", {"grace": 3})

    async def stopping() -> bool:
        return bool((await client.get(f"{INSTANCES}/quick-1"))["status"] == "STOPPING")

    await until(stopping)
    assert client.cloud.state.instances[ZONE, "quick-1"].preempted
    machines.exit.set()

    async def ended() -> bool:
        member = (await client.members())["quick-1"]
        return bool(member["currentAction"] == "RECREATING")

    await until(ended)
    left = (await client.members())["quick-1"].get("instanceStatus")
    assert left == ("TERMINATED" if action == "STOP" else None)

    async def anew() -> bool:
        return bool((await client.settled(count=1))["quick-1"]["id"] != before["id"])

    await until(anew)
    assert machines.made[0].graces == [3.0]


async def test_a_run_that_is_over(client: Client, cloud: LocalCloud, machines: Machines) -> None:
    """At its end it is deleted with its grace, and made anew with as much time again."""
    cloud.lifecycle.mishaps.run_speed = 3600 / 0.4
    cloud.lifecycle.grace_seconds = 5.0
    member = await one(client, **HOUR)
    instance = await client.get(f"{INSTANCES}/quick-1")
    told = instance["resourceStatus"]["scheduling"]["terminationTimestamp"]
    assert member["scheduling"]["terminationTimestamp"] == told
    assert instance["scheduling"]["maxRunDuration"] == {"seconds": "3600"}
    cloud.lifecycle.mishaps.run_speed = 1.0

    async def anew() -> bool:
        return bool((await client.members())["quick-1"].get("id", member["id"]) != member["id"])

    await until(anew)
    assert machines.made[0].graces == [5.0]
    operations = (await client.get(f"zones/{ZONE}/operations"))["items"]
    assert [op["operationType"] for op in operations if op["user"] == "system"] == ["delete"]


async def test_a_run_that_is_over_for_good(client: Client) -> None:
    """By the other reading of Google's documents the member goes, and the group shrinks."""
    await client.call("POST", "/emulator/run-duration", {"repair": False})
    await one(client, **HOUR)
    await client.call("POST", "/emulator/instances/quick-1/expire", {})
    await client.settled(count=0)
    assert (await client.get(f"{GROUPS}/quick"))["targetSize"] == 0
    await client.call("POST", "/emulator/run-duration", {"speed": 0}, status=400)


async def test_a_deleted_instance_has_no_end(client: Client, cloud: LocalCloud) -> None:
    """One that was deleted in time is not ended again, nor is its successor."""
    cloud.lifecycle.mishaps.run_speed = 3600 / 0.3
    await one(client, **HOUR)
    cloud.lifecycle.mishaps.run_speed = 1.0
    await client.done(await client.remove("quick-1"))
    await client.create("quick-1")
    member = (await client.settled(count=1))["quick-1"]
    await asyncio.sleep(0.4)
    assert (await client.settled(count=1))["quick-1"]["id"] == member["id"]
