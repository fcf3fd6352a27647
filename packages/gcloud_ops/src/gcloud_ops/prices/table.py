"""The table, and what it says of a VM."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from gcloud_ops.prices.shapes import shape

__all__ = ["BASE_REGION", "HOURS_A_MONTH", "PRICES", "Family", "Machine", "Prices", "Quote"]

BASE_REGION: Final = "us-central1"
"""The region that the table's rates are of."""
HOURS_A_MONTH: Final = 730.0
"""As Google counts them."""
_DEFAULT_DISK: Final = "pd-standard"  # what Compute Engine makes where no type is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The rates of one kind of machines, such as N2, in us-central1."""

    cpu: float
    """A vCPU, an hour."""
    gb: float
    """A GB of memory, an hour."""
    spot: float = 0.4
    """The share of it that a Spot VM costs: 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A price for a whole machine type, as an own table of prices has it: in any region."""

    hourly: float
    spot: float | None = None
    """An hour as Spot VM; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A table of prices in US dollars."""

    date: str = "2026-11-23"
    """When it was written."""
    families: Mapping[str, Family] = field(
        default_factory=lambda: {
            "c2": Family(cpu=0.03398, gb=0.00455),
            "c2d": Family(cpu=0.029563, gb=0.003959),
            "c3": Family(cpu=0.03465, gb=0.003938, spot=0.6),
            "c3d": Family(cpu=0.029563, gb=0.003959, spot=0.6),
            "c4": Family(cpu=0.03465, gb=0.003938, spot=0.6),
            "e2": Family(cpu=0.02181159, gb=0.00292353, spot=0.6),
            "n1": Family(cpu=0.031611, gb=0.004237),
            "n2": Family(cpu=0.031611, gb=0.004237),
            "n2d": Family(cpu=0.027502, gb=0.003686),
            "n4": Family(cpu=0.032578, gb=0.003702, spot=0.6),
            "t2d": Family(cpu=0.027502, gb=0.003686),
        }
    )
    """By the begin of a machine type's name."""
    machines: Mapping[str, Machine] = field(default_factory=dict)
    """Whole machine types, before `families`."""
    regions: Mapping[str, float] = field(default_factory=lambda: dict(_REGIONS))
    """How much dearer than us-central1: a factor."""
    disks: Mapping[str, float] = field(
        default_factory=lambda: {
            "pd-standard": 0.04,
            "pd-balanced": 0.10,
            "pd-ssd": 0.17,
            "hyperdisk-balanced": 0.08,
        }
    )
    """A GB, a month, in us-central1; Hyperdisk's without more than its free performance."""
    custom: float = 1.05
    """How much dearer a custom machine type is than a predefined one: a factor."""
    address: float = 0.005
    """An external IPv4 address of a VM, an hour."""
    address_spot: float = 0.0025
    """The same of a Spot VM."""
    address_idle: float = 0.01
    """A static external address that nothing uses, an hour."""

    def hourly(
        self,
        machine_type: str,
        *,
        region: str,
        spot: bool,
        disk_gb: int = 0,
        disk_type: str = "",
        address: bool = True,
    ) -> float | None:
        """One VM with its disk and its address, an hour, in US dollars.

        Args:
            machine_type: Such as `n2-highcpu-8` or `n2-custom-8-16384`.
            region: Such as `europe-west1`.
            spot: Whether it is a Spot VM.
            disk_gb: Of its disk.
            disk_type: Such as `pd-ssd`; "": what Compute Engine makes then, `pd-standard`.
            address: Whether it has an external address.

        Returns:
            None where a part has no price here: `unknown` says which. Nothing is guessed.
        """
        machine = self._machine(machine_type, region, spot=spot)
        disk = self.disk(disk_gb, disk_type, region=region)
        if machine is None or disk is None:
            return None
        return machine + disk + address * (self.address_spot if spot else self.address)

    def disk(self, size_gb: int, disk_type: str = "", *, region: str) -> float | None:
        """A disk, an hour; it costs the same whether or not a VM uses it. None: not known."""
        monthly, factor = self.disks.get(disk_type or _DEFAULT_DISK), self.regions.get(region)
        if size_gb <= 0:
            return 0.0
        if monthly is None or factor is None:
            return None
        return size_gb * monthly * factor / HOURS_A_MONTH

    def unknown(
        self, machine_type: str, *, region: str, spot: bool, disk_gb: int = 0, disk_type: str = ""
    ) -> str:
        """What of such a VM has no price here, for people; "" if all of it has one."""
        if region not in self.regions and (machine_type not in self.machines or disk_gb > 0):
            return f"the region {region}"
        if self._machine(machine_type, region, spot=False) is None:
            return f"the machine type {machine_type}"
        if self._machine(machine_type, region, spot=spot) is None:
            return f"the machine type {machine_type} as Spot VM"
        if self.disk(disk_gb, disk_type, region=region) is None:
            return f"the disk type {disk_type}"
        return ""

    def _machine(self, machine_type: str, region: str, *, spot: bool) -> float | None:
        whole = self.machines.get(machine_type)
        if whole is not None:
            return whole.spot if spot else whole.hourly
        found, factor = shape(machine_type), self.regions.get(region)
        if found is None or factor is None:
            return None
        kind, cpus, memory_gb = found
        family = self.families.get(kind)
        if family is None:
            return None
        hourly = (cpus * family.cpu + memory_gb * family.gb) * factor
        if "custom-" in machine_type:
            hourly *= self.custom
        return hourly * family.spot if spot else hourly


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What one machine type costs an hour, in US dollars; None where that isn't known."""

    machine_type: str
    region: str
    cpus: float | None
    """vCPUs, as billed."""
    memory_gb: float | None
    hourly: float | None
    """On demand."""
    hourly_spot: float | None
    unknown: str
    """What has no price, such as `the machine type a9-standard-2`; "" if all has one."""

    @classmethod
    def of(
        cls,
        prices: Prices,
        machine_type: str,
        *,
        region: str,
        disk_gb: int = 0,
        disk_type: str = "",
        address: bool = False,
    ) -> Self:
        """Look it up."""
        found = shape(machine_type)

        def hourly(*, spot: bool) -> float | None:
            return prices.hourly(
                machine_type,
                region=region,
                spot=spot,
                disk_gb=disk_gb,
                disk_type=disk_type,
                address=address,
            )

        return cls(
            machine_type=machine_type,
            region=region,
            cpus=found[1] if found else None,
            memory_gb=found[2] if found else None,
            hourly=hourly(spot=False),
            hourly_spot=hourly(spot=True),
            unknown=prices.unknown(
                machine_type, region=region, spot=False, disk_gb=disk_gb, disk_type=disk_type
            ),
        )


_REGIONS: Final[Mapping[str, float]] = {
    "africa-south1": 1.31,
    "asia-east1": 1.16,
    "asia-east2": 1.40,
    "asia-northeast1": 1.29,
    "asia-northeast2": 1.29,
    "asia-northeast3": 1.29,
    "asia-south1": 1.20,
    "asia-south2": 1.20,
    "asia-southeast1": 1.24,
    "asia-southeast2": 1.35,
    "australia-southeast1": 1.42,
    "australia-southeast2": 1.42,
    "europe-central2": 1.29,
    "europe-north1": 1.11,
    "europe-southwest1": 1.18,
    "europe-west1": 1.10,
    "europe-west10": 1.54,
    "europe-west12": 1.29,
    "europe-west2": 1.29,
    "europe-west3": 1.29,
    "europe-west4": 1.11,
    "europe-west6": 1.40,
    "europe-west8": 1.16,
    "europe-west9": 1.16,
    "me-central1": 1.22,
    "me-central2": 1.60,
    "me-west1": 1.10,
    "northamerica-northeast1": 1.11,
    "northamerica-northeast2": 1.11,
    "southamerica-east1": 1.59,
    "southamerica-west1": 1.43,
    BASE_REGION: 1.0,
    "us-east1": 1.0,
    "us-east4": 1.13,
    "us-east5": 1.0,
    "us-south1": 1.18,
    "us-west1": 1.0,
    "us-west2": 1.21,
    "us-west3": 1.21,
    "us-west4": 1.13,
}

PRICES: Final = Prices()
"""The table, as of its date."""
