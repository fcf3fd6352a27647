"""What there is room for: stock-outs of a kind, quotas, disks that stay, and what befalls VMs."""

from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials

from gcp_emulator.server import LocalCloud

from .conftest import GROUPS, INSTANCES, ZONE, Client, Machines, until

REGION = "europe-west1"
SPOT = {"provisioningModel": "SPOT"}


async def refusal(client: Client, name: str) -> Any:
    """The error of a member that waits."""

    async def look() -> Any:
        return (await client.members())[name].get("lastAttempt")

    return (await until(look))["errors"]["errors"][0]


async def quota(client: Client, metric: str, *, region: str = REGION) -> tuple[float, float]:
    """The usage and the limit of a quota, of the project without a region."""
    resource = await client.get(f"regions/{region}" if region else "")
    (found,) = [quota for quota in resource["quotas"] if quota["metric"] == metric]
    return found["usage"], found["limit"]


async def test_one_machine_type_is_out_of_stock(client: Client) -> None:
    """The others are not; the error has Google's details."""
    limit = {"capacity": 1, "zone": ZONE, "machine_type": "n2-highcpu-8"}
    shown = await client.call("POST", "/emulator/capacity", limit)
    assert shown["stock"] == [{**limit, "spot": None}]
    await client.template()
    await client.template("other", machineType="e2-standard-2")
    await client.group()
    await client.create("quick-1", "quick-2")
    error = await refusal(client, "quick-2")
    assert error["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
    assert error["message"].endswith("'(resource type:compute)'.")
    (info,) = [d["errorInfo"] for d in error["errorDetails"] if "errorInfo" in d]
    assert info["metadatas"]["vmType"] == "n2-highcpu-8"
    body = {"instanceTemplate": "global/instanceTemplates/other"}
    await client.call("POST", f"{GROUPS}/quick/setInstanceTemplate", body)
    await client.create("quick-3")
    await client.call("POST", "/emulator/capacity", {**limit, "capacity": None})
    await client.settled(count=3)


async def test_spot_is_out_of_stock(client: Client) -> None:
    """Standard VMs of the same type are there."""
    body = {"capacity": 0, "zone": ZONE, "spot": True}
    await client.call("POST", "/emulator/capacity", body)
    await client.template()
    await client.template("spot", scheduling=SPOT)
    await client.group()
    await client.create("quick-1")
    body = {"instanceTemplate": "global/instanceTemplates/spot"}
    await client.call("POST", f"{GROUPS}/quick/setInstanceTemplate", body)
    await client.create("quick-2")
    code = (await refusal(client, "quick-2"))["code"]
    assert code == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
    assert (await client.members())["quick-1"]["instanceStatus"] == "RUNNING"
    for wrong in ({"capacity": 1, "zones": "x"}, {"machine_type": "x"}, {"spot": "yes"}):
        await client.call("POST", "/emulator/capacity", wrong, status=400)


@pytest.mark.parametrize(
    ("metric", "region", "limit", "scheduling"),
    [
        ("N2_CPUS", REGION, 15, {}),
        ("PREEMPTIBLE_CPUS", REGION, 8, SPOT),
        ("INSTANCES", REGION, 1, {}),
        ("IN_USE_ADDRESSES", REGION, 1, {}),
        ("DISKS_TOTAL_GB", REGION, 39, {}),
        ("CPUS_ALL_REGIONS", "", 8, {}),
    ],
)
async def test_quotas(
    client: Client, metric: str, region: str, limit: float, scheduling: Any
) -> None:
    """What does not fit waits with Google's error, and gets in when the quota is raised."""
    body = {"metric": metric, "region": region, "limit": limit}
    await client.call("POST", "/emulator/quotas", body)
    await client.template(scheduling=scheduling)
    await client.group()
    await client.create("quick-1", "quick-2")
    error = await refusal(client, "quick-2")
    assert error["code"] == "QUOTA_EXCEEDED"
    where = f"in region {region}" if region else "globally"
    assert error["message"].startswith(f"Quota '{metric}' exceeded.  Limit: {limit}")
    assert error["message"].endswith(f"{where}.")
    (entry,) = (await client.get(f"{GROUPS}/quick/listErrors"))["items"]
    assert entry["error"] == {"code": error["code"], "message": error["message"]}
    (info,) = [d["quotaInfo"] for d in error["errorDetails"]]
    assert info["metricName"] == f"compute.googleapis.com/{metric.lower()}"
    assert info["limit"] == limit
    used, shown = await quota(client, metric, region=region)
    assert 0 < used <= limit == shown
    await client.call("POST", "/emulator/quotas", {**body, "limit": None})
    await client.settled(count=2)
    assert await quota(client, metric, region=region) > (used, shown)
    await client.remove("quick-1", "quick-2")
    await client.settled(count=0)
    assert (await quota(client, metric, region=region))[0] == 0


async def test_quotas_of_an_instance_of_its_own(client: Client) -> None:
    """The operation fails with the error; Spot VMs without a quota of theirs take the others'."""
    for metric, limit in (("PREEMPTIBLE_CPUS", 0), ("N2_CPUS", 4)):
        body = {"metric": metric, "region": REGION, "limit": limit}
        await client.call("POST", "/emulator/quotas", body)
    instance = {
        "name": "one",
        "machineType": f"zones/{ZONE}/machineTypes/n2-highcpu-8",
        "disks": [{"boot": True}],
        "networkInterfaces": [{}],
        "scheduling": SPOT,
    }
    done = await client.done(await client.call("POST", INSTANCES, instance))
    (error,) = done["error"]["errors"]
    assert error["code"] == "QUOTA_EXCEEDED"
    assert error["errorDetails"][0]["quotaInfo"]["metricName"] == "compute.googleapis.com/n2_cpus"
    assert done["httpErrorStatusCode"] == 403
    for wrong in ({"metric": "CPU"}, {"metric": "CPUS", "region": "mars"}, {"metric": "CPUS"}):
        await client.call("POST", "/emulator/quotas", {**wrong, "limit": 1}, status=400)


async def test_disks(client: Client, cloud: LocalCloud) -> None:
    """A disk is its instance's; one that is not to go with it stays, and hinders its successor."""
    disk = {"boot": True, "autoDelete": False, "initializeParams": {"diskSizeGb": "30"}}
    await client.template(disks=[disk, {"initializeParams": {"diskType": "pd-ssd"}}])
    await client.group()
    await client.create("quick-1")
    await client.settled(count=1)
    disks = {disk["name"]: disk for disk in (await client.get(f"zones/{ZONE}/disks"))["items"]}
    assert disks["quick-1"]["sizeGb"] == "30"
    assert disks["quick-1"]["users"][0].endswith("/instances/quick-1")
    assert disks["quick-1-1"]["type"].endswith("/diskTypes/pd-ssd")
    assert (await quota(client, "SSD_TOTAL_GB"))[0] == 10
    path = f"zones/{ZONE}/disks/quick-1"
    used = await client.call("DELETE", path, status=400)
    assert used["error"]["errors"][0]["reason"] == "resourceInUseByAnotherResource"
    await client.remove("quick-1")
    await client.settled(count=0)
    everywhere = (await client.get("aggregated/disks"))["items"]
    (left,) = everywhere[f"zones/{ZONE}"]["disks"]
    assert (left["name"], "users" in left) == ("quick-1", False)
    assert (await quota(client, "DISKS_TOTAL_GB"))[0] == 30
    await client.create("quick-1")
    error = await refusal(client, "quick-1")
    assert error["code"] == "RESOURCE_ALREADY_EXISTS"
    assert "/disks/quick-1'" in error["message"]
    await client.done(await client.call("DELETE", path))
    await client.call("GET", path, status=404)
    cloud.lifecycle.serve()
    await client.settled(count=1)


async def test_a_host_that_fails(client: Client, machines: Machines) -> None:
    """The machine loses its power, is ended without grace, and the group makes it anew."""
    await client.template()
    await client.group()
    await client.create("quick-1")
    before = (await client.settled(count=1))["quick-1"]["id"]
    await client.call("POST", "/emulator/instances/quick-1/kill", {})

    async def anew() -> bool:
        return bool((await client.members())["quick-1"].get("id", before) != before)

    await until(anew)
    assert machines.made[0].faults == [("kill", True)]
    assert machines.made[0].graces == [0.0]
    operations = (await client.get(f"zones/{ZONE}/operations"))["items"]
    assert "compute.instances.hostError" in {op["operationType"] for op in operations}


async def test_faults_reach_their_machine(client: Client, machines: Machines) -> None:
    """Each by its name, on or off; an unknown one, and one of nobody, are refused."""
    await client.template()
    await client.group()
    await client.create("quick-1")
    await client.settled(count=1)
    root = "/emulator/instances/quick-1"
    for fault in ("refuse-ssh", "hang-ssh", "cut-ssh", "kill-container", "disk-full"):
        await client.call("POST", f"{root}/{fault}", {})
    await client.call("POST", f"{root}/hang-ssh", {"on": False})
    assert machines.of("quick-1").faults[-2:] == [("disk-full", True), ("hang-ssh", False)]
    assert len(machines.of("quick-1").faults) == 6
    await client.call("POST", f"{root}/refuse-ssh", {"seconds": 0.01})

    async def relieved() -> bool:
        return machines.of("quick-1").faults[-1] == ("refuse-ssh", False)

    await until(relieved)
    await client.call("POST", f"{root}/fire", {}, status=400)
    await client.call("POST", f"{root}/hang-ssh", {"seconds": -1}, status=400)
    await client.call("POST", f"{root}/hang-ssh", {"on": "yes"}, status=400)
    await client.call("POST", "/emulator/instances/nobody/kill", {}, status=404)


async def test_googles_own_clients(client: Client, cloud: LocalCloud) -> None:
    """google-cloud-compute reads what this file and regional groups are about."""
    import asyncio

    from google.cloud import compute_v1 as google

    await client.template(scheduling=SPOT)
    cloud.lifecycle.set_capacity(1, zone=ZONE)

    def options(kind: Any) -> Any:
        where = ClientOptions(api_endpoint=cloud.endpoint)
        nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
        return kind(credentials=nobody, client_options=where)

    def talk() -> None:
        groups = options(google.RegionInstanceGroupManagersClient)
        operations = options(google.RegionOperationsClient)
        there = {"project": "local", "region": REGION}
        group = google.InstanceGroupManager(
            name="wide",
            instance_template="global/instanceTemplates/sinergym-template",
            target_size=0,
            distribution_policy=google.DistributionPolicy(target_shape="ANY"),
            update_policy=google.InstanceGroupManagerUpdatePolicy(
                instance_redistribution_type="NONE"
            ),
        )
        made = groups.insert_unary(instance_group_manager_resource=group, **there)
        assert operations.wait(operation=made.name, **there).error == google.Error()
        request = google.RegionInstanceGroupManagersCreateInstancesRequest(
            instances=[google.PerInstanceConfig(name=f"wide-{n}") for n in range(2)]
        )
        groups.create_instances_unary(
            instance_group_manager="wide",
            region_instance_group_managers_create_instances_request_resource=request,
            **there,
        )
        listed = groups.list_managed_instances(instance_group_manager="wide", **there)
        assert {member.name for member in listed} == {"wide-0", "wide-1"}
        regions = options(google.RegionsClient).get(**there)
        assert {q.metric: q.usage for q in regions.quotas}["INSTANCES"] == 2
        assert len(list(options(google.DisksClient).aggregated_list(project="local"))) > 1
        kinds = options(google.MachineTypesClient).list(project="local", zone=ZONE)
        assert "n2-highcpu-8" in {kind.name for kind in kinds}

    await asyncio.to_thread(talk)
