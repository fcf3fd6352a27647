"""What exists in this cloud, and how it is found.

Only look-ups: no HTTP and no waiting. `lifecycle` moves what there is, `api` and `groups` show
it. What lies in zones or regions is found by the name of its zone or region, and by its own.
"""

import dataclasses
import hashlib
import ipaddress
import json
import os
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path

from gcp_emulator.compute import catalog
from gcp_emulator.compute.nouns import (
    GLOBAL,
    GROUP_LIMIT,
    Address,
    Disk,
    Group,
    Instance,
    Member,
    Template,
    disks_of,
)
from gcp_emulator.compute.wording import check_name, invalid, new_id, not_found, now
from gcp_emulator.replies import Json

_FIRST_ADDRESS = int(ipaddress.IPv4Address("127.1.0.1"))
_SCATTERED_ADDRESSES = range(
    int(ipaddress.IPv4Address("127.202.0.0")), int(ipaddress.IPv4Address("127.250.0.0"))
)


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
