"""Compute Engine over REST: templates, instances, catalog, operations, listing."""

import asyncio
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_emulator.compute.listing import parse_filter
from gcp_emulator.replies import GoogleError

from .conftest import GROUPS, INSTANCES, TEMPLATE, ZONE, Client, Machines


async def test_template_comes_back_as_given(client: Client) -> None:
    """A template keeps its properties, and gets an id, a time and a link."""
    await client.template()
    template = await client.get("global/instanceTemplates/sinergym-template")
    properties = TEMPLATE["properties"]
    assert isinstance(properties, dict)
    for name in ("machineType", "disks", "networkInterfaces", "labels"):
        assert template["properties"][name] == properties[name]
    assert template["properties"]["metadata"]["items"] == properties["metadata"]["items"]
    assert template["selfLink"].startswith(client.cloud.endpoint)
    assert int(template["id"]) < 1 << 64
    listed = await client.get("global/instanceTemplates")
    assert listed["items"] == [template]
    body = {"name": "sinergym-template", "properties": properties}
    await client.call("POST", "global/instanceTemplates", body, status=409)
    path = "global/instanceTemplates/sinergym-template"
    await client.done(await client.call("DELETE", path))
    await client.call("GET", path, status=404)
    await client.call("DELETE", path, status=404)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"machineType": ""}, "machineType"),
        ({"machineType": "zones/z/machineTypes/x"}, "machineType"),
        ({"disks": []}, "disks"),
        ({"networkInterfaces": None}, "networkInterfaces"),
        ({"metadata": {"items": [{"key": "a b", "value": ""}]}}, "metadata.items[0].key"),
        ({"metadata": {"items": [{"key": "a", "value": "x" * 300_000}]}}, "metadata.items[0]"),
        ({"metadata": {"items": [{"key": "a"}, {"key": "a"}]}}, "metadata.items[1].key"),
        (
            {"metadata": {"items": [{"key": "gce-container-declaration", "value": "x"}]}},
            "gce-container-declaration",
        ),
    ],
)
async def test_templates_that_google_refuses(
    client: Client, change: dict[str, object], named: str
) -> None:
    """What a real project would refuse is refused here, naming the field."""
    properties = TEMPLATE["properties"]
    assert isinstance(properties, dict)
    body = {"name": "bad", "properties": properties | change}
    refused = await client.call("POST", "global/instanceTemplates", body, status=400)
    assert named in refused["error"]["message"]
    assert client.cloud.state.templates == {}


async def test_instance(client: Client, machines: Machines) -> None:
    """An instance shows its template's properties, its address, metadata and labels."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    instance = await client.get(f"{INSTANCES}/quick-0001")
    assert instance["status"] == "RUNNING"
    (network,) = instance["networkInterfaces"]
    assert network["networkIP"].startswith("127.")
    assert network["accessConfigs"][0]["natIP"] == network["networkIP"]
    assert instance["disks"][0]["diskSizeGb"] == "20"
    everywhere = (await client.get("aggregated/instances"))["items"]
    assert everywhere[f"zones/{ZONE}"]["instances"] == [instance]
    fingerprint = instance["metadata"]["fingerprint"]
    stale = {"items": [{"key": "a", "value": "1"}], "fingerprint": "AAAA"}
    await client.call("POST", f"{INSTANCES}/quick-0001/setMetadata", stale, status=412)
    fresh = {**stale, "fingerprint": fingerprint}
    await client.done(await client.call("POST", f"{INSTANCES}/quick-0001/setMetadata", fresh))
    assert machines.of("quick-0001").metadata == {"a": "1"}


async def test_addresses_are_their_own(client: Client) -> None:
    """Two instances never share an address; those of the gone lead nowhere."""
    await client.template()
    await client.group(size=5)
    await client.settled(count=5)
    used = {instance.address for instance in client.cloud.state.instances.values()}
    assert len(used) == 5
    assert "127.1.0.1" in used
    await client.call("POST", f"{GROUPS}/quick/resize", size="0")
    await client.settled(count=0)
    state = client.cloud.state
    assert all(state.instance_at(address) is None for address in used)
    given = [state.take_address() for _ in range(3_000)]
    assert all(address.startswith("127.") for address in given)
    assert len(set(given)) == len(given)


async def test_guest_attributes(client: Client, machines: Machines) -> None:
    """What the guest publishes is read by namespace or by key; nothing there is 404."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    path = f"{INSTANCES}/quick-0001/getGuestAttributes"
    found = await client.get(path, queryPath="hostkeys/")
    entry = {"namespace": "hostkeys", "key": "ssh-ed25519", "value": "AAAA"}
    assert found["queryValue"]["items"] == [entry]
    one = await client.get(path, queryPath="hostkeys/ssh-ed25519")
    assert one["queryValue"]["items"] == [entry]
    machines.of("quick-0001").guest_attributes.clear()
    missing = await client.call("GET", path, queryPath="hostkeys/", status=404)
    assert missing["error"]["message"] == (
        "The resource 'hostkeys/' of type 'Guest Attribute' was not found."
    )


async def test_guest_attributes_need_to_be_enabled(client: Client) -> None:
    """Without enable-guest-attributes nothing is published."""
    await client.template(metadata={"items": []})
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    path = f"{INSTANCES}/quick-0001/getGuestAttributes"
    await client.call("GET", path, queryPath="hostkeys/", status=404)


async def test_serial_port(client: Client, machines: Machines) -> None:
    """Reading goes on where the last reading ended."""
    await client.template()
    await client.group()
    await client.create("quick-0001")
    await client.settled(count=1)
    path = f"{INSTANCES}/quick-0001/serialPort"
    first = await client.get(path)
    assert first["contents"] == "booted\n"
    machines.of("quick-0001").serial += "more €\n".encode()
    second = await client.get(path, start=first["next"])
    assert second["contents"] == "more €\n"
    assert (await client.get(path, start=second["next"]))["contents"] == ""
    await client.call("GET", path, start="x", status=400)


async def test_catalog(client: Client) -> None:
    """Zones, regions, machine types and the project answer in Google's shapes."""
    zones = (await client.get("zones"))["items"]
    assert ZONE in [zone["name"] for zone in zones]
    assert (await client.get(f"zones/{ZONE}"))["region"].endswith("/regions/europe-west1")
    missing = await client.call("GET", "zones/mars-a", status=404)
    assert (
        missing["error"]["message"] == "The resource 'projects/local/zones/mars-a' was not found"
    )
    region = await client.get("regions/europe-west1")
    assert {quota["metric"] for quota in region["quotas"]} >= {"CPUS", "INSTANCES"}
    await client.get("regions")
    kind = await client.get(f"zones/{ZONE}/machineTypes/n2-highcpu-8")
    assert (kind["guestCpus"], kind["memoryMb"]) == (8, 8192)
    assert len((await client.get(f"zones/{ZONE}/machineTypes"))["items"]) > 10
    await client.get("aggregated/machineTypes")
    await client.call("GET", f"zones/{ZONE}/machineTypes/x", status=404)
    project = await client.get("")
    assert project["name"] == "local"
    assert project["quotas"]


async def test_operations(client: Client) -> None:
    """An operation is found, listed and waited for, in its own scope only."""
    await client.template()
    started = await client.call(
        "POST",
        GROUPS,
        {
            "name": "quick",
            "instanceTemplate": "global/instanceTemplates/sinergym-template",
            "targetSize": 0,
        },
    )
    assert started["status"] == "RUNNING"
    done = await client.done(started)
    assert done["id"] == started["id"]
    assert done["progress"] == 100
    assert await client.get(f"zones/{ZONE}/operations/{started['name']}") == done
    assert (await client.get(f"zones/{ZONE}/operations"))["items"] == [done]
    assert len((await client.get("global/operations"))["items"]) == 1
    await client.call("GET", f"global/operations/{started['name']}", status=404)
    await client.call("POST", f"zones/{ZONE}/operations/nope/wait", status=404)


async def test_request_id_makes_a_change_once(client: Client) -> None:
    """The same requestId gives the same operation, also when two requests race."""
    await client.template()
    template = "global/instanceTemplates/sinergym-template"
    body = {"name": "quick", "instanceTemplate": template, "targetSize": 0}
    request_id = str(uuid.uuid4())
    replies = await asyncio.gather(
        *(client.call("POST", GROUPS, body, requestId=request_id) for _ in range(5))
    )
    assert len({reply["id"] for reply in replies}) == 1
    await client.call("POST", GROUPS, body, requestId=str(uuid.uuid4()), status=409)
    await client.call("POST", GROUPS, body, requestId="not-a-uuid", status=400)


async def test_lists_are_filtered_and_paged(client: Client) -> None:
    """Filters keep what fits; pages join to the whole list, each at most maxResults long."""
    await client.template()
    await client.group(size=0)
    names = [f"quick-{number:04d}" for number in range(7)]
    await client.create(*names)
    await client.settled(count=7)
    one = await client.get(INSTANCES, filter="name=quick-0003")
    assert [instance["name"] for instance in one["items"]] == ["quick-0003"]
    some = await client.get(INSTANCES, filter="name eq quick-000[12]")
    assert [instance["name"] for instance in some["items"]] == names[1:3]
    both = "(status=RUNNING) (labels.made-by=tests)"
    assert len((await client.get(INSTANCES, filter=both))["items"]) == 7
    assert (await client.get(INSTANCES, filter="status=TERMINATED"))["items"] == []
    found, query = [], {"maxResults": "3"}
    while True:
        reply = await client.get(INSTANCES, **query)
        assert len(reply["items"]) <= 3
        found += [instance["name"] for instance in reply["items"]]
        if "nextPageToken" not in reply:
            break
        query["pageToken"] = reply["nextPageToken"]
    assert found == names
    await client.call("GET", INSTANCES, filter="name ~ x OR", status=400)
    await client.call("GET", INSTANCES, maxResults="501", status=400)
    await client.call("GET", INSTANCES, pageToken="€", status=400)


@given(st.text(max_size=40))
def test_any_filter_is_understood_or_refused(text: str) -> None:
    """No filter crashes, and none that isn't understood passes silently."""
    try:
        keep = parse_filter(text)
    except GoogleError as error:
        refusal = error
    else:
        assert isinstance(keep({"name": "x"}), bool)
        return
    assert refusal.code == 400
    assert text in refusal.message


@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), st.booleans())
def test_a_name_filter_finds_that_name_only(name: str, older: bool) -> None:
    """`name=x` and `name eq x` keep x and nothing else."""
    keep = parse_filter(f"name eq {name}" if older else f"name={name}")
    assert keep({"name": name})
    assert not keep({"name": f"{name}x"})
