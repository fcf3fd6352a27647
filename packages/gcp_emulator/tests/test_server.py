"""The whole cloud: Google's own client, faults, counters, the timeline, what it refuses."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcp_emulator.server import LocalCloud

from .conftest import GROUPS, INSTANCES, TEMPLATE, ZONE, Client, Machines, until


def official_route(endpoint: str) -> list[str]:
    """The main route with google-cloud-compute, as a launcher walks it; the members' names."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import compute_v1

    access: Any = {
        "credentials": AnonymousCredentials(),  # type: ignore[no-untyped-call]
        "client_options": {"api_endpoint": endpoint},
    }
    project: Any = {"project": "local"}
    place: Any = {**project, "zone": ZONE}
    templates = compute_v1.InstanceTemplatesClient(**access)
    groups = compute_v1.InstanceGroupManagersClient(**access)
    zone_operations = compute_v1.ZoneOperationsClient(**access)
    global_operations = compute_v1.GlobalOperationsClient(**access)

    def done(operation: Any) -> None:
        waiting: Any = zone_operations if operation.zone else global_operations
        scope = place if operation.zone else project
        found = waiting.wait(**scope, operation=operation.name)
        assert found.status == compute_v1.Operation.Status.DONE
        assert not found.error.errors

    properties = compute_v1.InstanceProperties(
        machine_type="n2-highcpu-8",
        disks=[compute_v1.AttachedDisk(boot=True, auto_delete=True)],
        network_interfaces=[
            compute_v1.NetworkInterface(
                access_configs=[compute_v1.AccessConfig(type_="ONE_TO_ONE_NAT")]
            )
        ],
        metadata=compute_v1.Metadata(
            items=[compute_v1.Items(key="enable-guest-attributes", value="TRUE")]
        ),
    )
    template = compute_v1.InstanceTemplate(name="sinergym-template", properties=properties)
    done(templates.insert_unary(**project, instance_template_resource=template))
    group = compute_v1.InstanceGroupManager(
        name="quick",
        target_size=0,
        instance_template=f"projects/local/global/instanceTemplates/{template.name}",
    )
    done(groups.insert_unary(**place, instance_group_manager_resource=group))
    of: Any = {**place, "instance_group_manager": "quick"}
    wanted: Any = [
        compute_v1.PerInstanceConfig(
            name=f"quick-{number:04d}",
            preserved_state=compute_v1.PreservedState(metadata={"number": str(number)}),
        )
        for number in range(3)
    ]
    create: Any = {"instances": wanted}
    done(
        groups.create_instances_unary(
            **of, instance_group_managers_create_instances_request_resource=create
        )
    )
    deadline = time.monotonic() + 20
    while True:
        members = list(groups.list_managed_instances(**of))
        if len(members) == 3 and all(member.current_action == "NONE" for member in members):
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    instances = compute_v1.InstancesClient(**access)
    instance = instances.get(**place, instance="quick-0002")
    assert {"number": "2"}.items() <= {i.key: i.value for i in instance.metadata.items}.items()
    attributes = instances.get_guest_attributes(
        compute_v1.GetGuestAttributesInstanceRequest(
            **place, instance="quick-0002", query_path="hostkeys/"
        )
    )
    assert [item.namespace for item in attributes.query_value.items] == ["hostkeys"]
    delete: Any = {"instances": [member.instance for member in members]}
    done(
        groups.delete_instances_unary(
            **of, instance_group_managers_delete_instances_request_resource=delete
        )
    )
    done(groups.delete_unary(**of))
    assert not list(groups.list(**place))
    return sorted(member.name for member in members)


async def test_official_client(cloud: LocalCloud) -> None:
    """google-cloud-compute walks the whole route against it, with nothing but an endpoint."""
    names = await asyncio.to_thread(official_route, cloud.endpoint)
    assert names == ["quick-0000", "quick-0001", "quick-0002"]


async def test_unknown_routes_are_loud(client: Client) -> None:
    """What is not emulated answers 501, naming the method and the path."""
    for verb, path in (
        ("GET", f"zones/{ZONE}/snapshots"),
        ("POST", GROUPS + "/x/abandonInstances"),
        ("GET", "/nothing"),
    ):
        refused = await client.call(verb, path, status=501)
        message = refused["error"]["message"]
        assert verb in message
        assert path in message


async def test_faults(client: Client) -> None:
    """A fault fails the next calls that fit its pattern, in Google's shape, and no others."""
    fault = {
        "method": "compute.instanceGroupManagers.*",
        "count": 2,
        "status": 403,
        "reason": "quotaExceeded",
        "message": "Quota 'CPUS' exceeded.  Limit: 8.0 in region europe-west1.",
    }
    await client.call("POST", "/emulator/faults", fault)
    await client.get("zones")
    for _ in range(2):
        refused = await client.call("GET", GROUPS, status=403)
        (entry,) = refused["error"]["errors"]
        assert (entry["reason"], entry["domain"]) == ("quotaExceeded", "usageLimits")
        assert refused["error"]["message"] == fault["message"]
    await client.get(GROUPS)
    assert await client.get("/emulator/faults") == {"faults": []}
    url = f"{client.cloud.endpoint}/emulator/faults"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with client.session.post(url, data='{"method": "x"}', headers=form) as reply:
        assert reply.status == 200, "what curl -d sends is understood"


async def test_faults_that_cut_delay_or_lose_the_answer(client: Client) -> None:
    """Status 0 cuts the connection, `after` loses only the answer, 200 is merely slow."""
    await client.template()
    await client.call(
        "POST", "/emulator/faults", {"method": "compute.*.insert", "status": 0, "after": True}
    )
    with contextlib.suppress(aiohttp.ClientError):
        await client.group()
    assert len(client.cloud.state.groups) == 1
    slow = {"method": "compute.zones.get", "status": 200, "delay": 0.1, "match": ZONE}
    await client.call("POST", "/emulator/faults", slow)
    await client.get("zones/us-east1-b")
    started = time.monotonic()
    await client.get(f"zones/{ZONE}")
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"method": "x", "status": 302},
        {"method": "x", "count": 0},
        {"method": "x", "colour": "red"},
        {"method": "x", "status": "503"},
        {"method": "x", "delay": -1},
    ],
)
async def test_bad_faults_are_refused(client: Client, fault: dict[str, object]) -> None:
    """A fault that makes no sense is refused in one line, and none waits."""
    refused = await client.call("POST", "/emulator/faults", fault, status=400)
    assert "fault" in refused["error"]["message"]
    assert client.cloud.faults.waiting == []


async def test_stats_count_calls_by_method(client: Client) -> None:
    """Every Google call is counted by its method's name; the emulator's own are not."""
    await client.call("DELETE", "/emulator/stats")
    await client.get("zones")
    await client.get("zones")
    await client.call("GET", f"{GROUPS}/none", status=404)
    stats = await client.get("/emulator/stats")
    assert stats["calls"] == {"compute.instanceGroupManagers.get": 1, "compute.zones.list": 2}
    assert stats["total"] == 3


async def test_timeline(client: Client) -> None:
    """The timeline tells when an instance was created, had booted, and was gone, in that order."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    await client.remove("quick-0001")
    await client.settled(count=0)
    (entry,) = (await client.get("/emulator/timeline"))["instances"]
    order = [entry[name]["monotonic"] for name in ("created", "ssh", "booted", "gone")]
    assert order == sorted(order)
    assert entry["name"] == "quick-0001"


async def test_foreign_hosts_are_refused(client: Client) -> None:
    """A page that reaches loopback by another name (DNS rebinding) gets nothing."""
    url = f"{client.cloud.endpoint}/emulator/status"
    async with client.session.get(url, headers={"Host": "evil.example.com"}) as reply:
        assert reply.status == 403
    async with client.session.get(url, headers={"Host": "localhost:1"}) as reply:
        assert reply.status == 200
    shutdown = f"{client.cloud.endpoint}/emulator/shutdown"
    async with client.session.post(shutdown, headers={"Origin": "https://evil.test"}) as reply:
        assert reply.status == 403
    assert not client.cloud.ending.is_set()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.com", ""])
def test_listens_on_loopback_only(tmp_path: Path, host: str) -> None:
    """Any other address is refused before anything is opened."""
    with pytest.raises(ValueError, match="loopback only"):
        LocalCloud(tmp_path, host=host)


async def test_templates_outlive_the_cloud(tmp_path: Path, machines: Machines) -> None:
    """After a restart templates are there, groups and instances are not."""
    for restarted in (False, True):
        async with (
            LocalCloud(tmp_path, engine="inert", make_machine=machines) as cloud,
            aiohttp.ClientSession() as session,
        ):
            client = Client(cloud, session)
            if not restarted:
                await client.template()
                before = await client.get("global/instanceTemplates/sinergym-template")
                await client.group(size=2)
                continue
            after = await client.get("global/instanceTemplates/sinergym-template")
            assert after["properties"] == before["properties"]
            assert after["id"] == before["id"]
            assert cloud.state.groups == {}
            assert cloud.state.instances == {}


def test_broken_templates_are_named(tmp_path: Path) -> None:
    """A templates file that is not ours is refused by name, and left alone."""
    (tmp_path / "templates.json").write_text("{not json")
    with pytest.raises(ValueError, match=r"templates\.json can't be read"):
        LocalCloud(tmp_path)
    assert (tmp_path / "templates.json").read_text() == "{not json"


async def test_storage_is_there(client: Client) -> None:
    """Cloud Storage answers on the same port, is counted, and can be made to fail."""
    await client.call("POST", "/storage/v1/b", {"name": "results"}, project="local")
    await client.call("POST", "/emulator/faults", {"method": "storage.*", "status": 429})
    refused = await client.call("GET", "/storage/v1/b/results", status=429)
    assert refused["error"]["errors"][0]["reason"] == "rateLimitExceeded"
    assert (await client.get("/storage/v1/b/results"))["name"] == "results"
    calls = (await client.get("/emulator/stats"))["calls"]
    assert calls == {"storage.buckets.get": 2, "storage.buckets.insert": 1}


async def test_stopping_shuts_every_machine_down(tmp_path: Path, machines: Machines) -> None:
    """Machines that run, boot, or are being preempted are all shut down; waiters are let go."""
    async with (
        LocalCloud(tmp_path, engine="inert", operation_seconds=60, make_machine=machines) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        body = {"name": "t", "properties": TEMPLATE["properties"]}
        operation = await client.call("POST", "global/instanceTemplates", body)
        waiter = asyncio.create_task(client.done(operation))
        group = {
            "name": "quick",
            "instanceTemplate": "global/instanceTemplates/t",
            "targetSize": 3,
        }
        await client.call("POST", GROUPS, group)
        await client.settled(count=3)
        name = machines.made[0].instance.name
        await client.call("POST", f"/emulator/instances/{name}/preempt", {"grace": 9})
        machines.gate.clear()
        await client.call("POST", f"{GROUPS}/quick/resize", size="4")
        started = time.monotonic()
        await cloud.stop(grace=1.0)
        assert time.monotonic() - started < 5.0
        with pytest.raises((AssertionError, aiohttp.ClientError)):
            await waiter
    assert cloud.state.instances == {}
    assert all(len(machine.graces) == 1 for machine in machines.made)


async def test_stopping_shortens_the_grace_of_what_ends_already(
    tmp_path: Path, machines: Machines
) -> None:
    """An instance that is being deleted, with much time, has no more than the cloud has."""
    async with (
        LocalCloud(tmp_path, engine="inert", make_machine=machines) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        await client.template()
        await client.group()
        await client.create("quick-0001")
        await client.settled(count=1)
        machines.exit.clear()
        await client.remove("quick-0001")
        machine = machines.of("quick-0001")

        async def told() -> bool:
            return bool(machine.graces)

        await until(told)
        stopping = asyncio.create_task(cloud.stop(grace=0.5))
        await asyncio.sleep(0)

        async def hurried() -> bool:
            return len(machine.graces) == 2

        await until(hurried)
        assert machine.graces == [30.0, 0.5]
        machines.exit.set()
        await asyncio.wait_for(stopping, 5)


async def test_two_clouds_at_once(tmp_path: Path) -> None:
    """They have ports of their own, whatever their hosts, so the same addresses serve both."""
    async with (
        LocalCloud(tmp_path / "a", engine="inert") as first,
        LocalCloud(tmp_path / "b", engine="inert", host="127.0.0.2") as second,
        aiohttp.ClientSession() as session,
    ):
        clouds = (first, second)
        ports = {port for cloud in clouds for port in (cloud.ssh_port, cloud.metadata_port)}
        assert len(ports) == 4
        for cloud in clouds:
            client = Client(cloud, session)
            await client.template()
            await client.group(size=3)
        for cloud in clouds:
            members = await Client(cloud, session).settled(count=3)
            assert not any(member.get("lastAttempt") for member in members.values())
            for instance in cloud.state.instances.values():
                assert instance.machine is not None
                key = instance.machine.guest_attributes["hostkeys"]["ssh-ed25519"]
                assert await host_key(instance.address, cloud.ssh_port) == key
        addresses = [{i.address for i in cloud.state.instances.values()} for cloud in clouds]
        assert addresses[0] == addresses[1]


async def host_key(address: str, port: int) -> str:
    """The key that an SSH server shows."""
    found = await asyncio.wait_for(asyncssh.get_server_host_key(address, port), 10)
    assert found is not None
    return found.export_public_key().decode().split()[1]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("resize"), st.integers(0, 6)),
        st.tuples(st.just("capacity"), st.one_of(st.none(), st.integers(0, 6))),
        st.tuples(st.just("kill"), st.integers(0, 5)),
        st.tuples(st.just("preempt"), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
@pytest.mark.slow
def test_a_group_ends_up_as_wanted(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int | None]]
) -> None:
    """Whatever happens to a group, it settles at its target size, within capacity, all at rest."""
    asyncio.run(_walk(tmp_path_factory.mktemp("cloud"), steps))


async def _walk(folder: Path, steps: list[tuple[str, int | None]]) -> None:
    machines = Machines()
    machines.gate.set()
    machines.exit.set()
    async with (
        LocalCloud(
            folder,
            engine="inert",
            operation_seconds=0.0,
            repair_seconds=0.001,
            make_machine=machines,
        ) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        await client.template()
        await client.group(size=2)
        for kind, number in steps:
            before = cloud.lifecycle.running
            await _step(client, kind, number)
            limit = cloud.lifecycle.capacity.limit
            occupied = sum(i.occupies for i in cloud.state.instances.values())
            assert occupied == cloud.lifecycle.running
            # While the limit itself changes, instances may start below the old one.
            assert limit is None or kind == "capacity" or occupied <= max(limit, before)
        await client.call("POST", "/emulator/capacity", {"capacity": None})
        target = (await client.get(f"{GROUPS}/quick"))["targetSize"]
        members = await client.settled(count=target)
        assert {m["instanceStatus"] for m in members.values()} <= {"RUNNING"}
        assert cloud.lifecycle.running == target
        await client.done(await client.call("DELETE", f"{GROUPS}/quick"))
        assert cloud.lifecycle.running == 0


async def _step(client: Client, kind: str, number: int | None) -> None:
    if kind == "capacity":
        await client.call("POST", "/emulator/capacity", {"capacity": number})
        return
    if kind == "resize":
        await client.call("POST", f"{GROUPS}/quick/resize", size=str(number))
        return
    members = sorted(await client.members())
    if number is None or number >= len(members):
        return
    name = members[number]
    if kind == "remove":
        await client.remove(name, skipInstancesOnValidationError=True)
        return
    instance = client.cloud.state.instances.get((ZONE, name))
    if instance is None:
        return
    # It may have gone, or begun to, by the time that the call arrives.
    root = client.cloud.endpoint
    if kind == "kill":
        url = f"{root}/compute/v1/projects/local/{INSTANCES}/{name}"
        async with client.session.delete(url) as reply:
            assert reply.status in (200, 404)
    else:
        url = f"{root}/emulator/instances/{name}/preempt"
        async with client.session.post(url, json={"grace": 0}) as reply:
            assert reply.status in (200, 400, 404)
