"""What exists in this cloud: templates, groups with their members, instances, disks, addresses.

Only nouns and look-ups: no HTTP and no waiting. `lifecycle` moves them, `api` and `groups`
show them. Names and messages are Compute Engine's.

Where something lies (a *place*) is the middle of its URL: ``zones/Z``, ``regions/R`` or `GLOBAL`.
What lies in zones or regions is found by the name of its zone or region, and by its own.
"""

import asyncio
import base64
import dataclasses
import hashlib
import ipaddress
import json
import os
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from gcp_emulator.compute import catalog
from gcp_emulator.replies import GoogleError, Json

NAME_PATTERN = r"(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"
"""What Compute Engine's names must match (RFC 1035)."""

GROUP_LIMIT = 1_000
"""Most instances of one zonal group, and of one request."""

REGIONAL_LIMIT: Final = 2_000
"""Most instances of one regional group."""

GLOBAL: Final = "global"
"""The place of what lies in no zone or region."""

_FIRST_ADDRESS = int(ipaddress.IPv4Address("127.1.0.1"))
_SCATTERED_ADDRESSES = range(
    int(ipaddress.IPv4Address("127.202.0.0")), int(ipaddress.IPv4Address("127.250.0.0"))
)


MACHINE_FAULTS: Final = ("refuse-ssh", "hang-ssh", "cut-ssh", "kill-container", "disk-full")
"""What a machine can suffer."""


class Machine(Protocol):
    """The computer behind an instance (`gcp_emulator.guest.vm.Vm` is one)."""

    guest_attributes: dict[str, dict[str, str]]
    serial: bytearray

    async def boot(self) -> None:
        """Start it; returns when its SSH server is up."""

    async def shutdown(self, grace: float) -> None:
        """Stop it, with `grace` seconds for what runs on it; a later call can shorten them."""

    async def suffer(self, fault: str, *, on: bool) -> None:
        """Have one of `MACHINE_FAULTS`, or have it no more; one of a moment can't be ended."""

    async def lose_power(self) -> None:
        """End it without a word to anything that runs on it; it is shut down after that."""

    def update_metadata(self, metadata: "dict[str, str]") -> None:
        """Tell it its new metadata."""


@dataclass(eq=False, slots=True, kw_only=True)
class Template:
    """A global instance template."""

    name: str
    id: str
    created: str
    description: str
    properties: Json


@dataclass(eq=False, slots=True, kw_only=True)
class Instance:
    """An instance, from its creation until it is gone."""

    name: str
    zone: str
    id: str
    created: str
    properties: Json
    """What it was made of, as a template's properties: disks, network interfaces..."""
    machine_type: str
    address: str
    """Its internal address."""
    metadata: dict[str, str]
    labels: dict[str, str]
    tags: tuple[str, ...]
    account: str | None
    """E-mail address of its service account."""
    group: "Group | None" = None
    """Whose member it is, or was."""
    standalone: bool = False
    """Whether it was made by itself, and not by a group."""
    static_address: str | None = None
    """The reserved address that it is reached at from outside, if it has one."""
    token: str
    """The access token that its metadata server gives away; it opens nothing."""
    status: str = "PROVISIONING"
    started: str | None = None
    limit: asyncio.TimerHandle | None = None
    """What ends it when it has run as long as it may."""
    terminates: str | None = None
    """When that is; None without a limit."""
    preempted: bool = False
    gone: bool = False
    failed: bool = False
    """It could not be brought up: whoever saw that makes it anew."""
    machine: Machine | None = None
    booting: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, whenever what its metadata server tells has changed."""

    @property
    def place(self) -> str:
        """Where it lies: ``zones/Z``."""
        return f"zones/{self.zone}"

    @property
    def occupies(self) -> bool:
        """Whether it takes a place of the zone's capacity."""
        return self.status != "TERMINATED"

    @property
    def external_address(self) -> str | None:
        """Where it is reached from outside: a reserved address, or else the internal one."""
        if self.static_address is not None:
            return self.static_address
        interfaces = self.properties["networkInterfaces"]
        return self.address if any(nic.get("accessConfigs") for nic in interfaces) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A reserved external address of a region; whoever has it is found among the instances."""

    name: str
    region: str
    id: str
    created: str
    description: str
    address: str
    labels: dict[str, str]

    @property
    def place(self) -> str:
        """Where it lies: ``regions/R``."""
        return f"regions/{self.region}"


@dataclass(eq=False, slots=True, kw_only=True)
class Disk:
    """A persistent disk that was made with an instance."""

    name: str
    zone: str
    id: str
    created: str
    size_gb: int
    type: str
    """``pd-standard``, ``pd-balanced``, ``pd-ssd``..."""
    image: str
    labels: dict[str, str]
    auto_delete: bool
    """Whether it goes with its instance."""
    user: Instance | None
    """The instance that has it; None when that is gone."""

    @property
    def place(self) -> str:
        """Where it lies: ``zones/Z``."""
        return f"zones/{self.zone}"


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """A group's wish for one instance, with the instance once there is one."""

    name: str
    template: Template
    zone: str
    """Where its instance is, or is wanted."""
    placed: bool = False
    """Whether that is settled."""
    machine_type: str = ""
    """What a flexible group has taken for its instance."""
    preserved: dict[str, str] | None = None
    """Metadata of its per-instance configuration; None without one."""
    action: str = "CREATING"
    instance: Instance | None = None
    errors: list[Json] = field(default_factory=list)
    """What went wrong with the last attempt to make the instance."""
    failures: int = 0
    """How many attempts have failed since the last that did not."""
    task: asyncio.Task[None] | None = None


@dataclass(eq=False, slots=True, kw_only=True)
class Group:
    """A managed instance group of a zone or a region."""

    name: str
    place: str
    """Where it lies: ``zones/Z``, or ``regions/R``."""
    zones: tuple[str, ...]
    """Where its instances can be."""
    id: str
    created: str
    description: str
    base_instance_name: str
    template: Template
    target_size: int
    all_metadata: dict[str, str]
    all_labels: dict[str, str]
    repair: bool
    shape: str = ""
    """How a regional one spreads its instances: EVEN, BALANCED, ANY, ANY_SINGLE_ZONE."""
    moves: bool = False
    """Whether a repaired instance may come back in another zone."""
    machine_types: tuple[str, ...] = ()
    """What to take instead of the template's machine type, the best first."""
    settings: Json
    """Members of the resource that are kept and shown, but mean nothing here."""
    revision: int = 1
    members: dict[str, Member] = field(default_factory=dict)
    spread: Counter[str] = field(default_factory=Counter)
    """How many members have their place in which zone."""
    errors: deque[Json] = field(default_factory=lambda: deque(maxlen=1_000))
    deleting: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, member: Member, zone: str) -> None:
        """Give a member its zone, or another."""
        if member.placed:
            self.spread[member.zone] -= 1
        member.zone, member.placed = zone, True
        self.spread[zone] += 1

    def forget(self, member: Member) -> None:
        """Take a member out."""
        if self.members.pop(member.name, None) is not None and member.placed:
            self.spread[member.zone] -= 1

    @property
    def where(self) -> str:
        """The name of its zone or region."""
        return self.place.partition("/")[2]

    @property
    def regional(self) -> bool:
        """Whether it is one of a region."""
        return self.place.startswith("regions/")

    @property
    def region(self) -> str:
        """The region that it lies in."""
        return self.where if self.regional else catalog.region_of(self.where)

    @property
    def fingerprint(self) -> str:
        """Changes with whatever `patch` can change."""
        seen = [self.revision, self.target_size, self.template.id, self.repair, self.settings]
        return fingerprint(seen)


class State:
    """Everything that exists, by name.

    Args:
        project: The only project there is.
        zone: The zone that people are told of; the catalog's others exist too.
        templates_file: Where templates outlive the cloud; None keeps them in memory only.
        network_file: The same for reserved addresses and firewall rules.
    """

    def __init__(
        self,
        *,
        project: str,
        zone: str,
        templates_file: Path | None = None,
        network_file: Path | None = None,
    ) -> None:
        check_name("project", project)
        self.project = project
        self.project_number = str(100_000_000_000 + _digest(project) % 900_000_000_000)
        self.zone = zone
        self.zones = catalog.zones(zone)
        self.base = "http://127.0.0.1/compute/v1"
        self.instances: dict[tuple[str, str], Instance] = {}
        self.groups: dict[tuple[str, str], Group] = {}
        self.templates: dict[str, Template] = {}
        self.disks: dict[tuple[str, str], Disk] = {}
        self.gigabytes: Counter[tuple[str, str]] = Counter()
        """The sizes of all disks together, by region and the quota that counts them."""
        self.addresses: dict[tuple[str, str], Address] = {}
        self.firewalls: dict[str, Json] = {}
        """The firewall rules by name, as Compute Engine shows them but for links."""
        self.changed: list[Callable[[], None]] = []
        """Called whenever an instance starts, stops, goes, or has other tags, and whenever an
        address or a firewall rule changes."""
        self._templates_file = templates_file
        self._network_file = network_file
        self._by_address: dict[str, Instance] = {}
        self._free_addresses: deque[str] = deque()
        self._addresses_given = 0
        self._load_templates()
        self._load_network()

    @property
    def default_account(self) -> str:
        """E-mail address of Compute Engine's default service account."""
        return f"{self.project_number}-compute@developer.gserviceaccount.com"

    @property
    def regions(self) -> list[str]:
        """All regions, in order."""
        return sorted({catalog.region_of(zone) for zone in self.zones})

    @property
    def root(self) -> str:
        """The URL of the project."""
        return f"{self.base}/projects/{self.project}"

    def check_project(self, project: str) -> None:
        """Refuse another project than ours."""
        if project not in (self.project, self.project_number):
            raise not_found(f"projects/{project}")

    def check_zone(self, zone: str) -> None:
        """Refuse a zone that is not in the catalog."""
        if zone not in self.zones:
            raise invalid("zone", zone, "Unknown zone.")

    def check_region(self, region: str) -> None:
        """Refuse a region that is not in the catalog."""
        if region not in self.regions:
            raise invalid("region", region, "Unknown region.")

    def notify(self) -> None:
        """Tell those who asked that something has changed."""
        for tell in list(self.changed):
            tell()

    def path(self, place: str, collection: str, name: str) -> str:
        """A resource's path, as error messages tell it: ``projects/p/zones/z/instances/i``."""
        return f"projects/{self.project}/{place}/{collection}/{name}"

    def link(self, place: str, collection: str, name: str) -> str:
        """A resource's URL."""
        return f"{self.base}/projects/{self.project}/{place}/{collection}/{name}"

    def template(self, name: str) -> Template:
        """The template of this name, or 404."""
        found = self.templates.get(name)
        if found is None:
            raise not_found(self.path(GLOBAL, "instanceTemplates", name))
        return found

    def template_at(self, url: str, where: str) -> Template:
        """The template that a full or partial URL names.

        Raises:
            GoogleError: 400 for what is no such URL, 404 for a template that does not exist.
        """
        found = re.search(r"(?:^|/)global/instanceTemplates/([^/]+)$", url)
        if found is None:
            raise invalid(where, url, "The URL is malformed.")
        return self.template(found[1])

    def instance(self, zone: str, name: str) -> Instance:
        """The instance of this name, or 404."""
        found = self.instances.get((zone, name))
        if found is None:
            raise not_found(self.path(f"zones/{zone}", "instances", name))
        return found

    def instance_at(self, address: str) -> Instance | None:
        """The instance that has this address."""
        return self._by_address.get(address)

    def standalone(self) -> Iterator[Instance]:
        """The RUNNING instances outside any group."""
        for instance in list(self.instances.values()):
            if instance.status == "RUNNING" and instance.standalone:
                yield instance

    def user_of(self, address: Address) -> Instance | None:
        """The instance that has a reserved address, running or not."""
        found = (i for i in self.instances.values() if i.static_address == address.address)
        return next(found, None)

    def account(self, properties: Json) -> str | None:
        """The service account that an instance of these properties runs as."""
        accounts = properties.get("serviceAccounts") or []
        email = accounts[0].get("email", "default") if accounts else None
        return self.default_account if email == "default" else email

    def group_of(self, instance: Instance) -> tuple[Group, Member] | None:
        """The group and the member that this instance belongs to."""
        group = instance.group
        member = group.members.get(instance.name) if group else None
        if group is None or member is None or member.instance is not instance:
            return None
        return group, member

    def users_of(self, template: Template) -> Iterator[Group]:
        """The groups that need this template."""
        for group in self.groups.values():
            used = {group.template.id, *(member.template.id for member in group.members.values())}
            if template.id in used:
                yield group

    def add_instance(self, instance: Instance) -> None:
        """Take in a new instance."""
        self.instances[instance.zone, instance.name] = instance
        self._by_address[instance.address] = instance

    def remove_instance(self, instance: Instance) -> None:
        """Forget an instance; its address is given to another later."""
        if self.instances.get((instance.zone, instance.name)) is instance:
            del self.instances[instance.zone, instance.name]
        known = self._by_address.pop(instance.address, None)
        if known is not None and _as_number(instance.address) not in _SCATTERED_ADDRESSES:
            self._free_addresses.append(instance.address)

    def add_disks(self, instance: Instance) -> None:
        """Make the disks of a new instance."""
        for (suffix, kind, size), wanted in zip(
            disks_of(instance.properties), instance.properties["disks"], strict=True
        ):
            disk = Disk(
                name=f"{instance.name}{suffix}",
                zone=instance.zone,
                id=new_id(),
                created=now(),
                size_gb=size,
                type=kind,
                image=wanted.get("initializeParams", {}).get("sourceImage", ""),
                labels=dict(wanted.get("initializeParams", {}).get("labels") or {}),
                auto_delete=bool(wanted.get("autoDelete", True)),
                user=instance,
            )
            self.disks[disk.zone, disk.name] = disk
            self._count(disk, disk.size_gb)

    def release_disks(self, instance: Instance) -> None:
        """Remove the disks that go with an instance; the others are nobody's from now on."""
        for suffix, _, _ in disks_of(instance.properties):
            disk = self.disks.get((instance.zone, f"{instance.name}{suffix}"))
            if disk is None or disk.user is not instance:
                continue
            disk.user = None
            if disk.auto_delete:
                self.remove_disk(disk)

    def remove_disk(self, disk: Disk) -> None:
        """Forget a disk."""
        del self.disks[disk.zone, disk.name]
        self._count(disk, -disk.size_gb)

    def _count(self, disk: Disk, size: int) -> None:
        region = catalog.region_of(disk.zone)
        self.gigabytes[region, catalog.disk_quota(disk.type)] += size

    def take_address(self) -> str:
        """A loopback address that no instance has: 127.1.0.1 and upward, freed ones later."""
        if len(self._free_addresses) > GROUP_LIMIT:
            return self._free_addresses.popleft()
        while True:
            address = ipaddress.IPv4Address(_FIRST_ADDRESS + self._addresses_given)
            self._addresses_given += 1
            if address.packed[1] > 200:
                self._addresses_given = 0
            if address.packed[3] not in (0, 255) and str(address) not in self._by_address:
                return str(address)

    def take_scattered_address(self) -> str:
        """A loopback address by lot, which hardly another cloud of this machine has.

        For those where programs listen on ports that everybody knows.
        """
        taken = {*self._by_address, *(known.address for known in self.addresses.values())}
        first, most = _SCATTERED_ADDRESSES.start, len(_SCATTERED_ADDRESSES)
        while True:
            address = ipaddress.IPv4Address(first + secrets.randbelow(most))
            if address.packed[3] not in (0, 255) and str(address) not in taken:
                return str(address)

    def add_template(self, template: Template) -> None:
        """Take in a new template, and keep it on disk."""
        self.templates[template.name] = template
        self._save_templates()

    def remove_template(self, template: Template) -> None:
        """Forget a template, also on disk."""
        del self.templates[template.name]
        self._save_templates()

    def _load_templates(self) -> None:
        if self._templates_file is None or not self._templates_file.exists():
            return
        try:
            templates = [
                Template(**entry) for entry in json.loads(self._templates_file.read_text())
            ]
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self._templates_file} can't be read ({error}): remove it, or wipe the folder"
            ) from error
        self.templates = {template.name: template for template in templates}

    def _save_templates(self) -> None:
        if self._templates_file is None:
            return
        members = ("name", "id", "created", "description", "properties")
        entries = [{key: getattr(t, key) for key in members} for t in self.templates.values()]
        write_atomically(self._templates_file, json.dumps(entries, indent=1))

    def save_network(self) -> None:
        """Keep addresses and rules on disk, and tell of the change."""
        if self._network_file is not None:
            addresses = [dataclasses.asdict(address) for address in self.addresses.values()]
            kept = {"addresses": addresses, "firewalls": list(self.firewalls.values())}
            write_atomically(self._network_file, json.dumps(kept, indent=1))
        self.notify()

    def _load_network(self) -> None:
        if self._network_file is None or not self._network_file.exists():
            return
        try:
            kept = json.loads(self._network_file.read_text())
            addresses = [Address(**entry) for entry in kept["addresses"]]
            self.firewalls = {rule["name"]: rule for rule in kept["firewalls"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self._network_file} can't be read ({error}): remove it, or wipe the folder"
            ) from error
        self.addresses = {(address.region, address.name): address for address in addresses}


def disks_of(properties: Json) -> Iterator[tuple[str, str, int]]:
    """The disks of such instances: what follows the instance's name, type, size in gigabytes."""
    for number, wanted in enumerate(properties["disks"]):
        parameters = wanted.get("initializeParams", {})
        kind = str(parameters.get("diskType") or "pd-standard").rpartition("/")[2]
        size = int(parameters.get("diskSizeGb") or wanted.get("diskSizeGb") or 10)
        yield ("" if number == 0 else f"-{number}"), kind, size


def check_name(where: str, name: object, pattern: str = NAME_PATTERN) -> str:
    """A resource's name, if Compute Engine would take it.

    Raises:
        GoogleError: 400 ``invalid`` with Google's sentence.
    """
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        shown = name if isinstance(name, str) else ""
        raise invalid(where, shown, f"Must be a match of regex '{pattern}'")
    return name


def invalid(where: str, value: object, why: str) -> GoogleError:
    """400: a field's value is not accepted."""
    return GoogleError(400, "invalid", f"Invalid value for field '{where}': '{value}'. {why}")


def not_found(path: str) -> GoogleError:
    """404: a resource does not exist."""
    return GoogleError(404, "notFound", f"The resource '{path}' was not found")


def already_exists(path: str) -> GoogleError:
    """409: a resource of this name exists."""
    return GoogleError(409, "alreadyExists", f"The resource '{path}' already exists")


def in_use(noun: str, path: str, user: str) -> GoogleError:
    """400: something can't be deleted while something else needs it."""
    message = f"The {noun} resource '{path}' is already being used by '{user}'"
    return GoogleError(400, "resourceInUseByAnotherResource", message)


def new_id() -> str:
    """A resource's id: uint64, as a string."""
    return str((1 << 60) + secrets.randbelow(7 << 60))


def now() -> str:
    """This moment as Compute Engine writes it: RFC 3339 with milliseconds."""
    return moment(time.time())


def moment(seconds: float) -> str:
    """A time since 1970 as Compute Engine writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def fingerprint(value: object) -> str:
    """A fingerprint (base64 of eight bytes) of a JSON value."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file, so that a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


def _as_number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
