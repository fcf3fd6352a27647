"""A client that checks every reply against Google's discovery document, and a cloud to talk to.

The machines of this cloud are stand-ins at the seam that `LocalCloud` offers (`make_machine`):
they boot at once, or when a test says so. Real ones are tested in their own files.
"""

import asyncio
import functools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from gcp_emulator.compute.nouns import Instance
from gcp_emulator.server import LocalCloud

ZONE = "europe-west1-b"

TEMPLATE = {
    "name": "sinergym-template",
    "properties": {
        "machineType": "n2-highcpu-8",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"diskSizeGb": "20"}}],
        "networkInterfaces": [
            {"network": "global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}
        ],
        "metadata": {
            "items": [
                {"key": "user-data", "value": "#cloud-config\n"},
                {"key": "enable-guest-attributes", "value": "TRUE"},
            ]
        },
        "labels": {"made-by": "tests"},
        "serviceAccounts": [
            {
                "email": "default",
                "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            }
        ],
    },
}


@dataclass(eq=False)
class StandIn:
    """A machine without anything inside."""

    instance: Instance
    gate: asyncio.Event
    exit: asyncio.Event
    record: Callable[[str], None]
    guest_attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    serial: bytearray = field(default_factory=bytearray)
    graces: list[float] = field(default_factory=list)
    faults: list[tuple[str, bool]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    async def boot(self) -> None:
        """Come up when the gate is open."""
        await self.gate.wait()
        self.serial += b"booted\n"
        self.guest_attributes["hostkeys"] = {"ssh-ed25519": "AAAA"}
        self.record("ssh")

    async def shutdown(self, grace: float) -> None:
        """Go when the exit is open."""
        self.graces.append(grace)
        await self.exit.wait()

    async def suffer(self, fault: str, *, on: bool) -> None:
        """Remember it."""
        self.faults.append((fault, on))

    async def lose_power(self) -> None:
        """Remember it."""
        self.faults.append(("kill", True))

    def update_metadata(self, metadata: dict[str, str]) -> None:
        """Remember it."""
        self.metadata = metadata


@dataclass(eq=False)
class Machines:
    """All stand-ins that were made, oldest first; `gate` lets them boot, `exit` lets them go."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    exit: asyncio.Event = field(default_factory=asyncio.Event)
    made: list[StandIn] = field(default_factory=list)

    def __call__(self, instance: Instance, record: Callable[[str], None]) -> StandIn:
        """Make one."""
        machine = StandIn(instance=instance, gate=self.gate, exit=self.exit, record=record)
        self.made.append(machine)
        return machine

    def of(self, name: str) -> StandIn:
        """The latest one of this name."""
        return [machine for machine in self.made if machine.instance.name == name][-1]


class Client:
    """Calls the cloud, and holds every reply against Google's discovery document."""

    def __init__(self, cloud: LocalCloud, session: aiohttp.ClientSession) -> None:
        self.cloud = cloud
        self.session = session

    async def call(
        self, verb: str, path: str, body: Any = None, *, status: int = 200, **query: str
    ) -> Any:
        """A reply's JSON; `path` starts below ``/compute/v1/projects/local``, or with a slash."""
        url = path if path.startswith("/") else f"/compute/v1/projects/local/{path}"
        async with self.session.request(
            verb, self.cloud.endpoint + url.rstrip("/"), json=body, params=query
        ) as reply:
            text = await reply.text()
            assert reply.status == status, (verb, url, reply.status, text)
            found = json.loads(text)
        if status >= 400:
            check_error(found, status)
        elif url.startswith("/compute/v1/"):
            check_reply(verb, url.removeprefix("/compute/v1/").rstrip("/"), found)
        return found

    async def get(self, path: str, **query: str) -> Any:
        """The reply to GET."""
        return await self.call("GET", path, status=200, **query)

    async def done(self, operation: Any) -> Any:
        """The same operation, DONE."""
        noun = next((noun for noun in ("zone", "region") if noun in operation), None)
        scope = operation[noun].rpartition("/projects/local/")[2] if noun else "global"
        path = f"{scope}/operations/{operation['name']}/wait"
        done = await asyncio.wait_for(self.call("POST", path), 10)
        assert done["status"] == "DONE"
        return done

    async def template(self, name: str = "sinergym-template", **properties: Any) -> None:
        """Make an instance template."""
        body = {"name": name, "properties": {**TEMPLATE["properties"], **properties}}  # type: ignore[dict-item]
        await self.done(await self.call("POST", "global/instanceTemplates", body))

    async def group(self, name: str = "quick", size: int = 0, **more: Any) -> Any:
        """Make a group."""
        body = {
            "name": name,
            "instanceTemplate": "global/instanceTemplates/sinergym-template",
            "targetSize": size,
            **more,
        }
        return await self.done(await self.call("POST", GROUPS, body))

    async def members(self, group: str = "quick") -> dict[str, Any]:
        """The group's members by name."""
        found = await self.call("POST", f"{GROUPS}/{group}/listManagedInstances")
        return {member["name"]: member for member in found.get("managedInstances", [])}

    async def create(self, *names: str, group: str = "quick") -> Any:
        """Add members by name."""
        body = {"instances": [{"name": name} for name in names]}
        return await self.done(await self.call("POST", f"{GROUPS}/{group}/createInstances", body))

    async def remove(self, *names: str, group: str = "quick", **more: Any) -> Any:
        """Delete members by name."""
        urls = [f"zones/{ZONE}/instances/{name}" for name in names]
        return await self.call(
            "POST", f"{GROUPS}/{group}/deleteInstances", {"instances": urls, **more}
        )

    async def settled(self, group: str = "quick", *, count: int | None = None) -> dict[str, Any]:
        """The members, once all of them are at rest (and so many, if `count` is given)."""

        async def quiet() -> tuple[dict[str, Any], ...]:
            members = await self.members(group)
            rest = all(member["currentAction"] == "NONE" for member in members.values())
            return (members,) if rest and count in (None, len(members)) else ()

        return (await until(quiet))[0]  # type: ignore[no-any-return]


GROUPS = f"zones/{ZONE}/instanceGroupManagers"
INSTANCES = f"zones/{ZONE}/instances"


async def until(look: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> Any:
    """What `look` gives as soon as it is something true."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return found


def check_error(body: Any, status: int) -> None:
    """Fail unless the body is an error as Google writes it."""
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"code", "message", "errors"}
    assert error["code"] == status
    assert [set(entry) for entry in error["errors"]] == [{"message", "domain", "reason"}]
    assert error["errors"][0]["message"] == error["message"]


def check_reply(verb: str, path: str, body: Any) -> None:
    """Fail unless Google's discovery document allows this reply."""
    for method_verb, pattern, reference in _methods():
        if verb == method_verb and pattern.fullmatch(path):
            _validator(reference).validate(body)
            return
    raise AssertionError(f"{verb} {path} is no method of Compute Engine")


@functools.cache
def _document() -> Any:
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / "compute.v1.json").read_text())


@functools.cache
def _methods() -> list[tuple[str, re.Pattern[str], str]]:
    found = []

    def walk(resources: Any) -> None:
        for resource in resources.values():
            walk(resource.get("resources", {}))
            for method in resource.get("methods", {}).values():
                if "response" in method:
                    pattern = re.sub(r"\{[^}]+\}", "[^/]+", method["path"])
                    reference = method["response"]["$ref"]
                    found.append((method["httpMethod"], re.compile(pattern), reference))

    walk(_document()["resources"])
    return found


@functools.cache
def _validator(reference: str) -> jsonschema.Draft4Validator:
    return jsonschema.Draft4Validator(
        {"$ref": f"#/definitions/{reference}", "definitions": _definitions()}
    )


@functools.cache
def _definitions() -> Any:
    def convert(node: Any) -> Any:
        if isinstance(node, list):
            return [convert(item) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            return {"$ref": f"#/definitions/{node['$ref']}"}
        dropped = ("id", "required", "format", "pattern", "annotations", "description")
        made = {
            key: {name: convert(value) for name, value in item.items()}
            if key == "properties"
            else convert(item)
            for key, item in node.items()
            if key not in dropped or not isinstance(item, str | bool | dict)
        }
        if "properties" in made:
            made.setdefault("additionalProperties", False)
        return made

    return {name: convert(schema) for name, schema in _document()["schemas"].items()}


@pytest.fixture
def machines() -> Machines:
    """Machines that boot at once."""
    machines = Machines()
    machines.gate.set()
    machines.exit.set()
    return machines


@pytest.fixture
async def cloud(tmp_path: Path, machines: Machines) -> AsyncIterator[LocalCloud]:
    """A cloud of stand-ins."""
    async with LocalCloud(
        tmp_path / "cloud",
        engine="inert",
        operation_seconds=0.0,
        repair_seconds=0.05,
        make_machine=machines,
    ) as cloud:
        yield cloud


@pytest.fixture
async def client(cloud: LocalCloud) -> AsyncIterator[Client]:
    """A checking client of the cloud."""
    async with aiohttp.ClientSession() as session:
        yield Client(cloud, session)
