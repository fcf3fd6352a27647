"""Instances outside any group: made, stopped, started, reset, removed."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gcp_emulator.compute.metadata import MetadataServers
from gcp_emulator.compute.nouns import Instance, Machine
from gcp_emulator.server import LocalCloud

from .conftest import INSTANCES, ZONE, Client, Machines, until

SERVER = {
    "name": "server",
    "machineType": f"zones/{ZONE}/machineTypes/e2-medium",
    "disks": [{"boot": True, "initializeParams": {"sourceImage": "x", "diskSizeGb": "10"}}],
    "networkInterfaces": [
        {"network": "global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}
    ],
    "metadata": {"items": [{"key": "greeting", "value": "hello"}]},
    "tags": {"items": ["server"]},
    "labels": {"made-by": "tests"},
    "serviceAccounts": [
        {"email": "default", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
    ],
}


async def insert(client: Client, **changes: Any) -> Any:
    """Make the server with these changes; it as it is shown."""
    body = {**SERVER, **changes}
    done = await client.done(await client.call("POST", INSTANCES, body))
    assert "error" not in done, done
    return await client.get(f"{INSTANCES}/{body['name']}")


async def change(client: Client, verb: str, name: str = "server", **body: Any) -> Any:
    """Change the server; it as it is shown then."""
    done = await client.done(await client.call("POST", f"{INSTANCES}/{name}/{verb}", body))
    assert "error" not in done, done
    return await client.get(f"{INSTANCES}/{name}")


async def test_instance_is_as_it_was_asked_for(client: Client) -> None:
    """It runs when its operation is DONE, and shows what it was made of, in lists as well."""
    server = await insert(client)
    assert server["status"] == "RUNNING"
    assert server["machineType"].endswith("/machineTypes/e2-medium")
    assert server["tags"]["items"] == ["server"]
    assert server["labels"] == {"made-by": "tests"}
    assert server["metadata"]["items"] == [{"key": "greeting", "value": "hello"}]
    number = client.cloud.state.project_number
    (account,) = server["serviceAccounts"]
    assert account["email"] == f"{number}-compute@developer.gserviceaccount.com"
    (nic,) = server["networkInterfaces"]
    assert nic["networkIP"].startswith("127.")
    assert nic["accessConfigs"][0]["natIP"] == nic["networkIP"]
    assert (await client.get(INSTANCES))["items"] == [server]
    everywhere = (await client.get("aggregated/instances"))["items"]
    assert everywhere[f"zones/{ZONE}"]["instances"] == [server]
    taken = await client.call("POST", INSTANCES, SERVER, status=409)
    assert taken["error"]["errors"][0]["reason"] == "alreadyExists"
    gone = await client.done(await client.call("DELETE", f"{INSTANCES}/server"))
    assert "error" not in gone
    await client.call("GET", f"{INSTANCES}/server", status=404)


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"name": "Server"}, 400, "resource.name"),
        ({"name": None}, 400, "resource.name"),
        ({"machineType": ""}, 400, "resource.machineType"),
        ({"machineType": "e2-medium"}, 400, "resource.machineType"),
        (
            {"machineType": f"zones/{ZONE}/machineTypes/x9"},
            400,
            f"Machine type with name 'x9' does not exist in zone '{ZONE}'.",
        ),
        ({"machineType": "zones/us-east1-b/machineTypes/e2-medium"}, 400, "machineType"),
        ({"disks": []}, 400, "resource.disks"),
        ({"disks": [{"boot": False}]}, 400, "Boot disk must be the first disk"),
        ({"networkInterfaces": []}, 400, "resource.networkInterfaces"),
        (
            {"networkInterfaces": [{"network": "global/networks/mine"}]},
            404,
            "projects/local/global/networks/mine",
        ),
        (
            {"networkInterfaces": [{"accessConfigs": [{"natIP": "127.9.9.9"}]}]},
            400,
            "The specified external IP address '127.9.9.9' was not found in region 'europe-west1'",
        ),
        ({"metadata": {"items": [{"key": "a b"}]}}, 400, "metadata.items[0].key"),
        ({"tags": {"items": ["A"]}}, 400, "tags.items[0]"),
        ({"labels": {"A": "b"}}, 400, "labels"),
        ({"serviceAccounts": [{}, {}]}, 400, "serviceAccounts"),
        ({"deletionProtection": True}, 501, "deletionProtection"),
    ],
)
async def test_instances_that_google_refuses(
    client: Client, changes: dict[str, Any], status: int, named: str
) -> None:
    """What a real project would refuse is refused here, naming the field; nothing is made."""
    refused = await client.call("POST", INSTANCES, {**SERVER, **changes}, status=status)
    assert named in refused["error"]["message"]
    assert client.cloud.state.instances == {}


async def test_stop_and_start(client: Client, machines: Machines) -> None:
    """A stopped one keeps names and addresses, and boots with the metadata of now."""
    before = await insert(client)
    stopped = await change(client, "stop")
    assert stopped["status"] == "TERMINATED"
    assert machines.of("server").graces == [client.cloud.lifecycle.grace_seconds]
    assert (
        stopped["networkInterfaces"][0]["networkIP"]
        == (before["networkInterfaces"][0]["networkIP"])
    )
    await change(client, "stop")
    await client.call("POST", f"{INSTANCES}/server/reset", status=400)
    fresh = {
        "items": [{"key": "greeting", "value": "again"}],
        "fingerprint": stopped["metadata"]["fingerprint"],
    }
    await change(client, "setMetadata", **fresh)
    started = await change(client, "start")
    assert started["status"] == "RUNNING"
    assert (started["id"], len(machines.made)) == (before["id"], 2)
    assert machines.of("server").instance.metadata == {"greeting": "again"}
    assert (await change(client, "start"))["status"] == "RUNNING"
    assert len(machines.made) == 2


async def test_reset(client: Client, machines: Machines) -> None:
    """A reset one has another machine at once, without grace, and never stops to be RUNNING."""
    await insert(client)
    assert (await change(client, "reset"))["status"] == "RUNNING"
    assert len(machines.made) == 2
    assert machines.made[0].graces == [0]

    async def booted() -> bool:
        return b"booted" in machines.made[1].serial

    await until(booted)


async def test_serial_port_goes_on(client: Client) -> None:
    """Who reads on from where the last reading ended misses nothing of a later boot."""
    await insert(client)
    path = f"{INSTANCES}/server/serialPort"

    async def shown(start: str, text: str) -> Any:
        async def look() -> Any:
            found = await client.get(path, start=start)
            return found if found["contents"] == text else None

        return await until(look)

    first = await shown("0", "booted\n")
    await change(client, "reset")
    second = await shown(first["next"], "booted\n")
    await change(client, "stop")
    await change(client, "start")
    await shown(second["next"], "booted\n")
    await shown("0", "booted\n" * 3)


async def test_machine_that_can_not_boot(client: Client, machines: Machines) -> None:
    """Nobody makes it anew: it is TERMINATED, its place is free, and it can be started."""
    machines.gate.clear()
    client.cloud.lifecycle.boot_patience = 0.05
    await insert(client)

    async def is_down() -> bool:
        shown = await client.get(f"{INSTANCES}/server")
        return bool(shown["status"] == "TERMINATED")

    await until(is_down)
    machines.gate.set()
    assert (await change(client, "start"))["status"] == "RUNNING"
    assert len(machines.made) == 2


async def test_machine_that_can_not_be_made(tmp_path: Path) -> None:
    """The operation fails, and nothing is left."""

    def refuse(instance: Instance, record: Callable[[str], None]) -> Machine:
        del instance, record
        raise OSError("no more machines")

    async with (
        LocalCloud(
            tmp_path / "cloud", engine="inert", operation_seconds=0.0, make_machine=refuse
        ) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        done = await client.done(await client.call("POST", INSTANCES, SERVER))
        assert done["httpErrorStatusCode"] == 500

        async def is_gone() -> bool:
            return not cloud.state.instances

        await until(is_gone)


async def test_running_machine_learns_its_metadata(client: Client, machines: Machines) -> None:
    """New metadata reaches the machine; a stale fingerprint is refused."""
    server = await insert(client)
    items = [{"key": "greeting", "value": "new"}]
    stale = {"items": items, "fingerprint": "AAAA"}
    await client.call("POST", f"{INSTANCES}/server/setMetadata", stale, status=412)
    await change(client, "setMetadata", items=items, fingerprint=server["metadata"]["fingerprint"])
    assert machines.of("server").metadata == {"greeting": "new"}


async def test_tags_and_labels(client: Client) -> None:
    """Tags and labels are replaced by those who have seen the old ones, and others are told."""
    server = await insert(client)
    told: list[bool] = []
    client.cloud.state.changed.append(lambda: told.append(True))
    await client.call("POST", f"{INSTANCES}/server/setTags", {"items": ["x"]}, status=412)
    assert not told
    seen = server["tags"]["fingerprint"]
    changed = await change(client, "setTags", items=["x", "y"], fingerprint=seen)
    assert changed["tags"]["items"] == ["x", "y"]
    assert told
    await client.call("POST", f"{INSTANCES}/server/setLabels", {"labels": {}}, status=412)
    seen = server["labelFingerprint"]
    changed = await change(client, "setLabels", labels={"a": "1"}, labelFingerprint=seen)
    assert changed["labels"] == {"a": "1"}


async def test_full_zone(client: Client) -> None:
    """Without a place the operation fails as a stock-out does, and nothing is there."""
    client.cloud.lifecycle.set_capacity(0, zone=ZONE)
    done = await client.done(await client.call("POST", INSTANCES, SERVER))
    assert done["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert done["httpErrorStatusCode"] == 503
    await client.call("GET", f"{INSTANCES}/server", status=404)
    client.cloud.lifecycle.set_capacity(None, zone=ZONE)
    client.cloud.lifecycle.set_capacity(1)
    await insert(client)
    await client.template()
    await client.group(size=1)
    await client.settled(count=1)


async def test_nobody_repairs_it(client: Client, machines: Machines) -> None:
    """A preempted one stays TERMINATED, and is started again by hand."""
    await insert(client)
    await client.call("POST", "/emulator/instances/server/preempt", {"grace": 0})

    async def is_down() -> bool:
        shown = await client.get(f"{INSTANCES}/server")
        return bool(shown["status"] == "TERMINATED")

    await until(is_down)
    assert len(machines.made) == 1
    assert (await change(client, "start"))["status"] == "RUNNING"


async def test_what_changes_while_it_ends(client: Client, machines: Machines) -> None:
    """It can't start while it stops; deleted while it stops, it is gone in the end."""
    await insert(client)
    machines.exit.clear()
    stopping = await client.call("POST", f"{INSTANCES}/server/stop")

    async def is_stopping() -> bool:
        shown = await client.get(f"{INSTANCES}/server")
        return bool(shown["status"] == "STOPPING")

    await until(is_stopping)
    refused = await client.call("POST", f"{INSTANCES}/server/start", status=400)
    assert refused["error"]["errors"][0]["reason"] == "resourceNotReady"
    deleting = await client.call("DELETE", f"{INSTANCES}/server")
    machines.exit.set()
    await asyncio.gather(client.done(stopping), client.done(deleting))
    await client.call("GET", f"{INSTANCES}/server", status=404)
    assert client.cloud.state.instances == {}


async def test_group_keeps_its_own(client: Client) -> None:
    """An instance of a group can't be stopped by itself."""
    await client.template()
    await client.group(size=1)
    (name,) = await client.settled(count=1)
    await client.call("POST", f"{INSTANCES}/{name}/stop", status=501)


async def test_faults_by_method_name(client: Client) -> None:
    """Quota and permission errors come on demand."""
    fault = {"method": "compute.instances.insert", "status": 403, "reason": "quotaExceeded"}
    await client.call("POST", "/emulator/faults", fault)
    await client.call("POST", INSTANCES, SERVER, status=403)
    await insert(client)


async def test_official_client(client: Client) -> None:
    """Google's client makes, finds and deletes one."""
    address = await asyncio.to_thread(official_route, client.cloud.endpoint)
    assert address.startswith("127.")
    assert client.cloud.state.instances == {}


def official_route(endpoint: str) -> str:
    """Make an instance at a reserved address with google-cloud-compute; where it could be met."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import compute_v1

    access: Any = {
        "credentials": AnonymousCredentials(),  # type: ignore[no-untyped-call]
        "client_options": {"api_endpoint": endpoint},
    }
    project: Any = {"project": "local"}
    region: Any = {**project, "region": "europe-west1"}
    zone: Any = {**project, "zone": ZONE}
    instances = compute_v1.InstancesClient(**access)
    addresses = compute_v1.AddressesClient(**access)
    waits: Any = {
        "region": compute_v1.RegionOperationsClient(**access),
        "zone": compute_v1.ZoneOperationsClient(**access),
    }

    def done(operation: Any) -> None:
        scope, kind = (zone, "zone") if operation.zone else (region, "region")
        found = waits[kind].wait(**scope, operation=operation.name)
        assert found.status == compute_v1.Operation.Status.DONE
        assert not found.error.errors

    reserved = compute_v1.Address(name="server-ip")
    done(addresses.insert_unary(**region, address_resource=reserved))
    address = addresses.get(**region, address="server-ip")
    access_config = compute_v1.AccessConfig(nat_i_p=address.address, type_="ONE_TO_ONE_NAT")
    body = compute_v1.Instance(
        name="server",
        machine_type=f"zones/{ZONE}/machineTypes/e2-medium",
        disks=[compute_v1.AttachedDisk(boot=True)],
        network_interfaces=[compute_v1.NetworkInterface(access_configs=[access_config])],
    )
    done(instances.insert_unary(**zone, instance_resource=body))
    found = instances.get(**zone, instance="server")
    assert addresses.get(**region, address="server-ip").status == "IN_USE"
    done(instances.delete_unary(**zone, instance="server"))
    done(addresses.delete_unary(**region, address="server-ip"))
    return found.network_interfaces[0].access_configs[0].nat_i_p


PROGRAM = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(*_):
    (folder / "stopped").write_text("by SIGTERM")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with (folder / "boots").open("a") as file:
    file.write(sys.argv[2] + "\\n")
while True:
    time.sleep(0.05)
"""


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Client]:
    """A cloud whose machines boot, and whose containers are processes."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    images = {"server": f"{sys.executable} {program}"}
    async with (
        LocalCloud(
            tmp_path / "cloud", operation_seconds=0.0, boot_seconds=0.0, images=images
        ) as cloud,
        aiohttp.ClientSession() as session,
    ):
        yield Client(cloud, session)


def user_data(folder: Path, word: str) -> str:
    """A cloud-config that runs a program in a container."""
    return f"""#cloud-config
write_files:
- path: /etc/systemd/system/server.service
  content: |
    [Service]
    ExecStartPre=-/usr/bin/docker rm -f server
    ExecStart=/usr/bin/docker run --name=server --network=host i/server:1 {folder} {word}
runcmd:
- systemctl daemon-reload
- systemctl start server.service
"""


async def test_real_machine_goes_on_from_its_disk(real: Client, tmp_path: Path) -> None:
    """Stopped, its container gets SIGTERM; started, it does what its metadata says by then."""
    boots = tmp_path / "boots"

    def metadata(word: str) -> list[dict[str, str]]:
        return [
            {"key": "user-data", "value": user_data(tmp_path, word)},
            {"key": "enable-guest-attributes", "value": "TRUE"},
        ]

    async def booted(*words: str) -> None:
        async def look() -> bool:
            return boots.exists() and boots.read_text().split() == list(words)

        await until(look, 20)

    async def host_key() -> str:
        async def look() -> Any:
            return real.cloud.state.instance(ZONE, "server").machine.guest_attributes  # type: ignore[union-attr]

        return str((await until(look))["hostkeys"])

    server = await insert(real, metadata={"items": metadata("one")})
    await booted("one")
    key = await host_key()
    assert (await change(real, "stop"))["status"] == "TERMINATED"
    assert (tmp_path / "stopped").read_text() == "by SIGTERM"
    seen = server["metadata"]["fingerprint"]
    await change(real, "setMetadata", items=metadata("two"), fingerprint=seen)
    await change(real, "start")
    await booted("one", "two")
    await change(real, "reset")
    await booted("one", "two", "two")
    assert await host_key() == key
    disk = tmp_path / "cloud" / "vms" / "server"
    assert disk.is_dir()
    await real.done(await real.call("DELETE", f"{INSTANCES}/server"))
    assert not disk.exists()


async def test_metadata_server_tells_who_it_is(client: Client) -> None:
    """Its addresses, tags and service account are on its metadata server."""
    state = client.cloud.state
    email = "server@local.iam.gserviceaccount.com"
    body = {"name": "ip"}
    started = await client.call("POST", "regions/europe-west1/addresses", body)
    await client.call("POST", f"regions/europe-west1/operations/{started['name']}/wait")
    reserved = (await client.get("regions/europe-west1/addresses/ip"))["address"]
    nic = {"accessConfigs": [{"natIP": reserved}]}
    await insert(client, networkInterfaces=[nic], serviceAccounts=[{"email": email}])
    instance = state.instance(ZONE, "server")
    servers = MetadataServers(state, port=client.cloud.metadata_port)
    await servers.start()
    try:
        await servers.open(instance)
        root = f"http://{instance.address}:{servers.port}/computeMetadata/v1/instance"

        async def read(path: str) -> str:
            headers = {"Metadata-Flavor": "Google"}
            async with client.session.get(f"{root}/{path}", headers=headers) as reply:
                assert reply.status == 200
                return await reply.text()

        assert await read("network-interfaces/0/access-configs/0/external-ip") == reserved
        assert await read("network-interfaces/0/ip") == instance.address != reserved
        assert await read("service-accounts/default/email") == email
        assert await read("tags?alt=json") == '["server"]'
    finally:
        await servers.stop()
