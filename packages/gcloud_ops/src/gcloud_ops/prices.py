"""What things on Compute Engine cost: US dollars, by the kind of machine, the region and Spot.

List prices without taxes, traffic and discounts, as of `PRICES.date`: an estimate, not an invoice.

- Rates of us-central1, of a vCPU and of a GB of memory, are those of Google's own catalogue as
  https://github.com/Cyclenerd/google-cloud-pricing-cost-calculator publishes it (read: N2D, N4,
  regions) and as repositories cite it (C4: 2026); those of the other kinds reproduce the prices of
  whole machines that https://cloud.google.com/compute/vm-instance-pricing had, but were not
  compared with the page at the table's date.
- Other regions are a factor on us-central1: that of N2D machines, rounded up. The newer kinds
  are a tenth cheaper than that in some regions, disks a little too.
- Spot prices change up to once a month, differ by region, and are up to 91 % below
  (https://cloud.google.com/spot-vms/pricing). The table has one share for each kind that was
  at the upper end of those seen: who pays less is glad, a cap that is kept is a cap.
- Disks: https://cloud.google.com/compute/disks-image-pricing; external addresses:
  https://cloud.google.com/vpc/network-pricing.

Who pays other prices, or wants machines that aren't here (GPUs), writes a file: see `load`.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.settings import config_file

__all__ = [
    "BASE_REGION",
    "HOURS_A_MONTH",
    "PRICES",
    "Family",
    "Machine",
    "Prices",
    "load",
    "shape",
]

BASE_REGION: Final = "us-central1"
"""The region that the table's rates are of."""
HOURS_A_MONTH: Final = 730.0
"""As Google counts them."""
_DEFAULT_DISK: Final = "pd-standard"  # what Compute Engine makes where no type is said
_CUSTOM: Final = re.compile(r"(?:([a-z][a-z0-9]*)-)?custom-([0-9]{1,3})-([0-9]{3,7})")
_PREDEFINED: Final = re.compile(r"([a-z][a-z0-9]*)-([a-z]+)-([0-9]{1,3})")


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


def shape(machine_type: str) -> tuple[str, float, float] | None:
    """What a machine type is, by its name: its kind, its vCPUs as billed, its GB of memory.

    As https://cloud.google.com/compute/docs/machine-resource lists them. None for a name that is
    none of them, and for machines with more than these: GPUs, local SSDs, extended memory.
    """
    if machine_type in _SHARED:
        return _SHARED[machine_type]
    custom = _CUSTOM.fullmatch(machine_type)
    if custom:
        return (custom[1] or "n1", int(custom[2]), int(custom[3]) / 1024) if custom[2] else None
    match = _PREDEFINED.fullmatch(machine_type)
    if match is None:
        return None
    kind, purpose, cpus = match[1], match[2], int(match[3])
    ratio = _MEMORY.get(kind, {}).get(purpose)
    if ratio is None or cpus not in _SIZES[kind]:
        return None
    return kind, cpus, _ODD.get(machine_type, cpus * ratio)


def load(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Prices:
    """The table, with what a file of one's own has instead.

    The file is TOML; all in it may be left out. `machines` are prices for whole machine types, in
    whatever region, `families` rates in us-central1, `regions` factors on these:

        date = "2027-01-15"
        address = 0.005
        [machines.g2-standard-4]
        hourly = 0.7068
        spot = 0.2827
        [families.n2]
        cpu = 0.031611
        gb = 0.004237
        spot = 0.25
        [regions]
        europe-west1 = 1.1
        [disks]
        pd-ssd = 0.17

    Args:
        path: The file; None: `$GCLOUD_OPS_PRICES`, or `prices.toml` beside the settings' file,
            which needn't be there.
        environ: The environment.

    Raises:
        InvalidRequest: The file isn't there or can't be; the message names the key.
    """
    variable = environ.get("GCLOUD_OPS_PRICES")
    named = path or (Path(variable) if variable else None)
    file = named or config_file(environ).with_name("prices.toml")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is not None:
            raise InvalidRequest(f"{file}: no such file of prices") from None
        return PRICES
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file}: can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{file}: not TOML: {error}") from error
    known = {one.name: _READERS.get(one.name, _dollars) for one in fields(Prices)}
    return replace(PRICES, **_read(content, known, str(file), ""))


# ------------------------------------------------------------------------ a file of prices
# Each reader takes a value, and where it stands; it returns what the table holds, or raises.


def _read(
    content: Mapping[str, object],
    known: Mapping[str, Callable[[object, str], Any]],
    where: str,
    prefix: str,
) -> dict[str, Any]:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise InvalidRequest(
                f"{where}: unknown key {prefix}{key}",
                hint=f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}",
            )
    return {key: known[key](value, f"{where}: {prefix}{key}") for key, value in content.items()}


def _table(value: object, where: str) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value
    raise InvalidRequest(f"{where}: must be a table, not {value!r}")


def _dollars(value: object, where: str) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if not number >= 0 or not isfinite(number):
        raise InvalidRequest(f"{where}: must be a number, not negative, not {value!r}")
    return number


def _share(value: object, where: str) -> float:
    if (found := _dollars(value, where)) <= 1:
        return found
    raise InvalidRequest(f"{where}: must be a share from 0 to 1, not {value!r}")


def _date(value: object, where: str) -> str:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", str(value)):
        return str(value)
    raise InvalidRequest(f"{where}: must be a date such as 2027-01-15, not {value!r}")


def _numbers(name: str) -> Callable[[object, str], dict[str, float]]:
    def read(value: object, where: str) -> dict[str, float]:
        own = {k: _dollars(v, f"{where}.{k}") for k, v in _table(value, where).items()}
        return {**getattr(PRICES, name), **own}

    return read


def _family(value: object, where: str) -> Family:
    return _of(Family, {"cpu": _dollars, "gb": _dollars, "spot": _share}, value, where)


def _families(value: object, where: str) -> dict[str, Family]:
    own = {k: _family(v, f"{where}.{k}") for k, v in _table(value, where).items()}
    return {**PRICES.families, **own}


def _machines(value: object, where: str) -> dict[str, Machine]:
    known = {"hourly": _dollars, "spot": _dollars}
    return {k: _of(Machine, known, v, f"{where}.{k}") for k, v in _table(value, where).items()}


def _of[T](
    kind: Callable[..., T],
    known: Mapping[str, Callable[[object, str], float]],
    value: object,
    where: str,
) -> T:
    file, _, key = where.rpartition(": ")
    found = _read(_table(value, where), known, file, f"{key}.")
    for needed in known:
        if needed not in found and needed != "spot":
            raise InvalidRequest(f"{where}.{needed}: is missing")
    return kind(**found)


_READERS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "date": _date,
    "families": _families,
    "machines": _machines,
    "regions": _numbers("regions"),
    "disks": _numbers("disks"),
}

# ---------------------------------------------------------------------------- machine types

_SHARED: Final[Mapping[str, tuple[str, float, float]]] = {
    "e2-micro": ("e2", 0.25, 1),
    "e2-small": ("e2", 0.5, 2),
    "e2-medium": ("e2", 1, 4),
}
_USUAL: Final = {"standard": 4.0, "highmem": 8.0, "highcpu": 2.0}
_OLDER: Final = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
_MEMORY: Final[Mapping[str, Mapping[str, float]]] = {  # GB for each vCPU
    "c2": {"standard": 4.0},
    "c2d": _USUAL,
    "c3": _USUAL,
    "c3d": _USUAL,
    "c4": {"standard": 3.75, "highmem": 7.75, "highcpu": 2.0},
    "e2": _OLDER,
    "n1": {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9},
    "n2": _OLDER,
    "n2d": _OLDER,
    "n4": _USUAL,
    "t2d": {"standard": 4.0},
}
_ODD: Final = {  # GB, where it is another one
    "c3d-highcpu-30": 59.0,
    "c3d-highcpu-60": 118.0,
    "c3d-highcpu-90": 177.0,
    "c3d-highcpu-180": 354.0,
    "c3d-highcpu-360": 708.0,
    "c4-standard-2": 7.0,
    "c4-highmem-2": 15.0,
    "n2-highmem-128": 864.0,
}
_TO_80: Final = frozenset({2, 4, 8, 16, 32, 48, 64, 80})
_SIZES: Final[Mapping[str, frozenset[int]]] = {  # vCPUs
    "c2": frozenset({4, 8, 16, 30, 60}),
    "c2d": frozenset({2, 4, 8, 16, 32, 56, 112}),
    "c3": frozenset({4, 8, 22, 44, 88, 176}),
    "c3d": frozenset({4, 8, 16, 30, 60, 90, 180, 360}),
    "c4": frozenset({2, 4, 8, 16, 24, 32, 48, 96, 144, 192, 288}),
    "e2": frozenset({2, 4, 8, 16, 32}),
    "n1": frozenset({1, 2, 4, 8, 16, 32, 64, 96}),
    "n2": _TO_80 | {96, 128},
    "n2d": _TO_80 | {96, 128, 224},
    "n4": _TO_80,
    "t2d": frozenset({1, 2, 4, 8, 16, 32, 48, 60}),
}
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
