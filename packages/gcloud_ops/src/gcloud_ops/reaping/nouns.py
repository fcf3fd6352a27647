"""What reaping speaks of: what there is, and what of it is left over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from gcloud_ops.contract import Manifest, Record
from gcloud_ops.errors import GcloudOpsError
from gcloud_ops.instances import SWEEP_LABEL
from gcloud_ops.model import Instance, Location, region_of
from gcloud_ops.raising import BUCKET_KEY
from gcloud_ops.templates import Template

__all__ = ["Disk", "Kind", "KnownGroup", "Left", "Orphan", "Reserved", "Seen", "SeenSweep"]

KEEP_KEY: Final = "sinergym-keep"
"""Metadata key: the runner leaves its instance there (docs/contract.md, section 3)."""


class Kind(StrEnum):
    """What is left over; in the order in which it can be removed."""

    INSTANCE = "instance"
    GROUP = "group"
    TEMPLATE = "template"
    DISK = "disk"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """Something of ours that should not be there."""

    kind: Kind
    name: str
    where: str
    """Zone or region; "global" for a template."""
    why: str
    daily: float | None
    """US dollars a day; None: not known."""
    sweep: str = ""
    """Whose it was; "" where it was nobody's."""
    group: str = ""
    """Of an instance, the group that manages it; "" where none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What could not be removed."""

    orphan: Orphan
    error: GcloudOpsError


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownGroup:
    """A managed instance group, and what its launch has written on it."""

    name: str
    where: Location
    template: str
    target_size: int
    created: datetime | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What it gives to its instances."""

    @property
    def is_ours(self) -> bool:
        """Whether a launch of ours has made it."""
        return self.metadata.get(SWEEP_LABEL) == self.name and bool(self.bucket)

    @property
    def bucket(self) -> str:
        """Where its sweep's manifest is, or was."""
        return self.metadata.get(BUCKET_KEY, "")

    @property
    def sweep(self) -> str:
        """Where its sweep is: sweeps in two buckets may have one name."""
        return f"gs://{self.bucket}/{self.name}"

    @property
    def is_kept(self) -> bool:
        """Whether somebody wants its instances to stay when they are done."""
        return self.metadata.get(KEEP_KEY) == "TRUE"

    def holds(self, instance: Instance) -> bool:
        """Whether the instance is one of its members."""
        at = self.where.zone or self.where.region
        return instance.group == self.name and at in {instance.zone, region_of(instance.zone)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSweep:
    """What the bucket says of a sweep."""

    manifest: Manifest | None
    """None: it isn't there any more."""
    records: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A static address."""

    name: str
    region: str
    description: str
    in_use: bool
    created: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk."""

    name: str
    zone: str
    size_gb: int
    type: str
    in_use: bool
    changed: datetime | None
    """When it was made, or last taken from an instance."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that may be left over, and what tells whether it is."""

    groups: tuple[KnownGroup, ...] = ()
    """All of the project, ours or not."""
    instances: tuple[Instance, ...] = ()
    templates: tuple[Template, ...] = ()
    addresses: tuple[Reserved, ...] = ()
    disks: tuple[Disk, ...] = ()
    sweeps: Mapping[str, SeenSweep] = field(default_factory=dict)
    """By `KnownGroup.sweep`; one that can't be read is not here, and is left alone."""
    listed: frozenset[str] = frozenset()
    """Sweeps in the bucket."""
    needed: frozenset[str] | None = frozenset()
    """Templates of which open sweeps without a group may want a derived one; None: not known."""
