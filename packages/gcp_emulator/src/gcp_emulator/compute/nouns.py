"""What there can be in this cloud: templates, groups and their members, instances, disks...

Where something lies (a *place*) is the middle of its URL: ``zones/Z``, ``regions/R`` or `GLOBAL`.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from gcp_emulator.compute import catalog
from gcp_emulator.compute.wording import fingerprint
from gcp_emulator.replies import Json

GROUP_LIMIT = 1_000
"""Most instances of one zonal group, and of one request."""

REGIONAL_LIMIT: Final = 2_000
"""Most instances of one regional group."""

GLOBAL: Final = "global"
"""The place of what lies in no zone or region."""


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


def disks_of(properties: Json) -> Iterator[tuple[str, str, int]]:
    """The disks of such instances: what follows the instance's name, type, size in gigabytes."""
    for number, wanted in enumerate(properties["disks"]):
        parameters = wanted.get("initializeParams", {})
        kind = str(parameters.get("diskType") or "pd-standard").rpartition("/")[2]
        size = int(parameters.get("diskSizeGb") or wanted.get("diskSizeGb") or 10)
        yield ("" if number == 0 else f"-{number}"), kind, size
