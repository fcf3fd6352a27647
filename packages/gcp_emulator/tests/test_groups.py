"""Managed instance groups over REST: what a launcher sees of them."""

import time
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


async def test_actions_on_the_way_up(client: Client, machines: Machines) -> None:
    """A member is VERIFYING while its RUNNING instance boots, and counted so, then NONE."""
    machines.gate.clear()
    await client.template()
    await client.group(size=1)

    async def verifying() -> bool:
        found = list((await client.members()).values())
        return [m["currentAction"] for m in found] == ["VERIFYING"]

    await until(verifying)
    group = await client.get(f"{GROUPS}/quick")
    assert group["currentActions"]["verifying"] == 1
    assert group["status"]["isStable"] is False
    machines.gate.set()
    members = await client.settled(count=1)
    (name,) = members
    assert name.startswith("quick-")


async def test_capacity_is_a_stock_out(client: Client, cloud: LocalCloud) -> None:
    """Beyond capacity a member waits with Google's error, and gets its turn when one goes."""
    cloud.lifecycle.set_capacity(1)
    await client.template()
    await client.group()
    await client.create("quick-0001", "quick-0002")

    async def first_is_up() -> bool:
        return bool((await client.members())["quick-0001"]["currentAction"] == "NONE")

    await until(first_is_up)
    waiting = (await client.members())["quick-0002"]
    assert waiting["currentAction"] == "CREATING"
    assert "instanceStatus" not in waiting
    (error,) = waiting["lastAttempt"]["errors"]["errors"]
    assert error["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    (listed,) = (await client.get(f"{GROUPS}/quick/listErrors"))["items"]
    assert listed["error"] == error
    assert listed["instanceActionDetails"]["instance"].endswith("/quick-0002")
    await client.remove("quick-0001")
    members = await client.settled(count=1)
    assert members["quick-0002"]["instanceStatus"] == "RUNNING"
    assert "lastAttempt" not in members["quick-0002"]


async def test_a_waiting_member_can_be_deleted_by_name(client: Client, cloud: LocalCloud) -> None:
    """A queued member has no instance: its bare name is enough."""
    cloud.lifecycle.set_capacity(0)
    await client.template()
    await client.group(size=0)
    await client.create("quick-0001")
    body = {"instances": ["quick-0001"]}
    await client.done(await client.call("POST", f"{GROUPS}/quick/deleteInstances", body))
    await client.settled(count=0)
    cloud.lifecycle.set_capacity(None)
    assert await client.members() == {}


async def test_a_zone_can_be_out_of_stock_alone(client: Client, cloud: LocalCloud) -> None:
    """A limit of one zone holds nobody up elsewhere; lifting it lets the waiting in."""
    await client.call("POST", "/emulator/capacity", {"capacity": 0, "zone": ZONE})
    await client.template()
    await client.group(size=1)
    assert len(cloud.state.instances) == 0
    elsewhere = "zones/us-central1-a/instanceGroupManagers"
    template = "global/instanceTemplates/sinergym-template"
    body = {"name": "far", "targetSize": 1, "instanceTemplate": template}
    await client.call("POST", elsewhere, body)
    assert [zone for zone, _ in cloud.state.instances] == ["us-central1-a"]
    await client.call("POST", "/emulator/capacity", {"capacity": None, "zone": ZONE})
    await client.settled(count=1)
    groups = (await client.get("aggregated/instanceGroupManagers"))["items"]
    assert [g["name"] for g in groups["zones/us-central1-a"]["instanceGroupManagers"]] == ["far"]
    assert groups["zones/europe-west4-a"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"


async def test_a_member_deleted_directly_comes_back(client: Client) -> None:
    """The group makes it anew under its name, with its metadata and another id."""
    await client.template()
    await client.group()
    preserved = {"metadata": {"number": "7"}}
    body = {"instances": [{"name": "quick-0007", "preservedState": preserved}]}
    await client.call("POST", f"{GROUPS}/quick/createInstances", body)
    before = (await client.settled(count=1))["quick-0007"]
    await client.done(await client.call("DELETE", f"{INSTANCES}/quick-0007"))
    assert (await client.members())["quick-0007"]["currentAction"] == "RECREATING"
    after = (await client.settled(count=1))["quick-0007"]
    assert after["id"] != before["id"]
    assert after["preservedStateFromConfig"] == preserved
    metadata = (await client.get(f"{INSTANCES}/quick-0007"))["metadata"]["items"]
    assert {"key": "number", "value": "7"} in metadata


async def test_do_nothing_leaves_it_gone(client: Client) -> None:
    """With DO_NOTHING a deleted member stays without an instance, and can be removed."""
    await client.template()
    policy = {"defaultActionOnFailure": "DO_NOTHING"}
    await client.group(size=0, instanceLifecyclePolicy=policy)
    await client.create("quick-0001")
    await client.settled(count=1)
    await client.done(await client.call("DELETE", f"{INSTANCES}/quick-0001"))
    member = (await client.members())["quick-0001"]
    assert member["currentAction"] == "NONE"
    assert "instanceStatus" not in member
    await client.remove("quick-0001")
    await client.settled(count=0)


async def test_preemption(client: Client, machines: Machines) -> None:
    """SIGTERM with its grace, TERMINATED, and again under the same name; Google's operation."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    before = (await client.settled(count=1))["quick-0001"]["id"]
    await client.call("POST", "/emulator/instances/quick-0001/preempt", {"grace": 7})

    async def terminated() -> bool:
        return bool((await client.get(f"{INSTANCES}/quick-0001"))["status"] == "TERMINATED")

    await until(terminated)
    assert machines.made[0].graces == [7.0]

    async def anew() -> bool:
        return bool((await client.settled(count=1))["quick-0001"]["id"] != before)

    await until(anew)
    operations = (await client.get(f"zones/{ZONE}/operations"))["items"]
    kinds = {operation["operationType"] for operation in operations}
    assert "compute.instances.preempted" in kinds
    await client.call("POST", "/emulator/instances/nobody/preempt", {}, status=404)


async def test_group_goes_last(client: Client, machines: Machines, cloud: LocalCloud) -> None:
    """Deleting a group deletes its members first, and refuses changes meanwhile."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    machines.exit.clear()
    operation = await client.call("DELETE", f"{GROUPS}/quick")
    assert operation["status"] != "DONE"
    group = await client.get(f"{GROUPS}/quick")
    assert group["targetSize"] == 0
    assert group["currentActions"]["deleting"] == 1
    refused = await client.call("DELETE", f"{GROUPS}/quick", status=400)
    assert refused["error"]["errors"][0]["reason"] == "resourceNotReady"
    body = {"instances": [{"name": "quick-0002"}]}
    await client.call("POST", f"{GROUPS}/quick/createInstances", body, status=400)
    machines.exit.set()
    await client.done(operation)
    assert cloud.state.groups == {}
    assert cloud.state.instances == {}


async def test_deletion_while_booting(client: Client, machines: Machines) -> None:
    """Members that are still booting, or not even begun, go all the same."""
    machines.gate.clear()
    await client.template()
    await client.group()
    await client.create("quick-0001", "quick-0002")
    await client.remove("quick-0001", "quick-0002")
    await client.settled(count=0)
    assert client.cloud.lifecycle.running == 0


async def test_delete_instances_validates(client: Client) -> None:
    """Foreign and malformed URLs are refused whole, unless they shall be skipped."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    refused = await client.call(
        "POST",
        f"{GROUPS}/quick/deleteInstances",
        {"instances": [f"zones/{ZONE}/instances/{n}" for n in ("quick-0001", "other")]},
        status=400,
    )
    assert "not a member" in refused["error"]["message"]
    assert (await client.get(f"{GROUPS}/quick"))["targetSize"] == 1
    malformed = {"instances": ["zones/mars/instances/x"], "skipInstancesOnValidationError": True}
    await client.call("POST", f"{GROUPS}/quick/deleteInstances", malformed, status=400)
    await client.done(
        await client.remove("quick-0001", "other", skipInstancesOnValidationError=True)
    )
    await client.settled(count=0)
    again = await client.remove("quick-0001", skipInstancesOnValidationError=True)
    await client.done(again)
    assert (await client.get(f"{GROUPS}/quick"))["targetSize"] == 0


async def test_form_bodies_are_not_understood(client: Client) -> None:
    """The seeds' way of asking for deletion (form-encoded) fails as it does at Google."""
    await client.template()
    await client.group()
    url = f"{client.cloud.endpoint}/compute/v1/projects/local/{GROUPS}/quick/deleteInstances"
    async with client.session.post(url, data={"instances": "x"}) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["errors"][0]["reason"] == "parseError"


async def test_names_are_validated(client: Client) -> None:
    """Bad names are refused with Google's sentence; nothing is made."""
    await client.template()
    template = "global/instanceTemplates/sinergym-template"
    for name in ("Quick", "1st", "quick-", "a" * 64, "", None):
        body = {"name": name, "instanceTemplate": template, "targetSize": 0}
        refused = await client.call("POST", GROUPS, body, status=400)
        assert "Must be a match of regex" in refused["error"]["message"]
    assert client.cloud.state.groups == {}


async def test_what_does_not_exist(client: Client) -> None:
    """Unknown groups, templates, zones and projects get Google's answers."""
    missing = await client.call("GET", f"{GROUPS}/nope", status=404)
    path = f"projects/local/{GROUPS}/nope"
    assert missing["error"]["message"] == f"The resource '{path}' was not found"
    assert missing["error"]["errors"][0]["reason"] == "notFound"
    body = {"name": "x", "instanceTemplate": "global/instanceTemplates/nope", "targetSize": 1}
    await client.call("POST", GROUPS, body, status=404)
    body["instanceTemplate"] = "nope"
    await client.call("POST", GROUPS, body, status=400)
    zone = await client.call("GET", "zones/mars-a/instanceGroupManagers", status=400)
    assert zone["error"]["message"] == "Invalid value for field 'zone': 'mars-a'. Unknown zone."
    await client.call("GET", "/compute/v1/projects/other/zones", status=404)


async def test_conflicts_and_limits(client: Client) -> None:
    """A second group or member of a name, a name twice, and the 1,001st VM are refused."""
    await client.template()
    await client.group()
    template = "global/instanceTemplates/sinergym-template"
    body = {"name": "quick", "instanceTemplate": template, "targetSize": 0}
    taken = await client.call("POST", GROUPS, body, status=409)
    assert taken["error"]["errors"][0]["reason"] == "alreadyExists"
    await client.create("quick-0001")
    create = f"{GROUPS}/quick/createInstances"
    one = {"instances": [{"name": "quick-0001"}]}
    await client.call("POST", create, one, status=409)
    twice = {"instances": [{"name": "quick-0002"}, {"name": "quick-0002"}]}
    await client.call("POST", create, twice, status=400)
    many = {"instances": [{"name": f"n-{number}"} for number in range(1000)]}
    await client.call("POST", create, many, status=400)
    await client.call("POST", f"{GROUPS}/quick/resize", size="1001", status=400)
    assert (await client.get(f"{GROUPS}/quick"))["targetSize"] == 1
    assert list(await client.members()) == ["quick-0001"]


async def test_resize_up_and_down(client: Client) -> None:
    """Growing makes names of the group's own; shrinking takes members that wait first."""
    await client.template()
    await client.group(baseInstanceName="vm")
    await client.done(await client.call("POST", f"{GROUPS}/quick/resize", size="3"))
    members = await client.settled(count=3)
    assert all(name.startswith("vm-") for name in members)
    client.cloud.lifecycle.set_capacity(3)
    await client.call("POST", f"{GROUPS}/quick/resize", size="5")
    assert len(await client.members()) == 5
    await client.call("POST", f"{GROUPS}/quick/resize", size="3")
    assert set(await client.settled(count=3)) == set(members)
    await client.call("POST", f"{GROUPS}/quick/resize", size="0")
    await client.settled(count=0)


async def test_all_instances_config(client: Client) -> None:
    """Its metadata and labels override the template's, for instances to come."""
    await client.template()
    properties: dict[str, Any] = {
        "metadata": {"sinergym-sweep": "quick", "user-data": "other"},
        "labels": {"sinergym-sweep": "quick"},
    }
    await client.group(allInstancesConfig={"properties": properties})
    await client.create("quick-0001")
    await client.settled(count=1)
    more = {"allInstancesConfig": {"properties": {"metadata": {"extra": "1"}}}}
    group = await client.get(f"{GROUPS}/quick")
    stale = {**more, "fingerprint": "AAAAAAAAAAA="}
    await client.call("PATCH", f"{GROUPS}/quick", stale, status=412)
    fresh = {**more, "fingerprint": group["fingerprint"], "targetSize": 2}
    await client.done(await client.call("PATCH", f"{GROUPS}/quick", fresh))
    members = await client.settled(count=2)
    (second,) = set(members) - {"quick-0001"}
    instances = (await client.get(INSTANCES, filter="labels.sinergym-sweep=quick"))["items"]
    found = {i["name"]: {m["key"]: m["value"] for m in i["metadata"]["items"]} for i in instances}
    assert found["quick-0001"]["user-data"] == "other"
    assert "extra" not in found["quick-0001"]
    assert found[second]["extra"] == "1"
    assert instances[0]["labels"]["made-by"] == "tests"


async def test_set_instance_template(client: Client) -> None:
    """Members to come are made from the new template; the old one is in use while they live."""
    await client.template()
    await client.template("second", machineType="e2-standard-4")
    await client.group(size=1)
    await client.settled(count=1)
    body = {"instanceTemplate": "projects/local/global/instanceTemplates/second"}
    await client.done(await client.call("POST", f"{GROUPS}/quick/setInstanceTemplate", body))
    await client.create("late")
    await client.settled(count=2)
    assert (await client.get(f"{INSTANCES}/late"))["machineType"].endswith("/e2-standard-4")
    for name in ("sinergym-template", "second"):
        path = f"global/instanceTemplates/{name}"
        used = await client.call("DELETE", path, status=400)
        assert used["error"]["errors"][0]["reason"] == "resourceInUseByAnotherResource"
        assert "is already being used by" in used["error"]["message"]


async def test_unknown_machine_type_shows_in_the_attempt(client: Client) -> None:
    """A template is not tied to a zone: what is wrong shows when an instance is tried."""
    await client.template(machineType="x9-huge-999")
    await client.group(size=1)
    (member,) = (await client.members()).values()
    assert member["lastAttempt"]["errors"]["errors"][0]["code"] == "RESOURCE_NOT_FOUND"
    await client.done(await client.call("DELETE", f"{GROUPS}/quick"))


async def test_thousand_members_are_fast(client: Client, cloud: LocalCloud) -> None:
    """At Google's limit: created in less than a second, and listed in less than 60 ms."""
    await client.template()
    await client.group()
    body = {"instances": [{"name": f"quick-{number:04d}"} for number in range(1_000)]}
    started = time.process_time()  # others may keep the machine busy
    await client.call("POST", f"{GROUPS}/quick/createInstances", body)
    assert time.process_time() - started < 1.0

    async def all_up() -> bool:
        members = next(iter(cloud.state.groups.values())).members.values()
        return all(member.action == "NONE" for member in members)

    await until(all_up, 20.0)
    url = f"{cloud.endpoint}/compute/v1/projects/local/{GROUPS}/quick/listManagedInstances"
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        async with client.session.post(url) as reply:
            assert len((await reply.json())["managedInstances"]) == 1000
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.060
