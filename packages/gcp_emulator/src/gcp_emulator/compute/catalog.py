"""What Google has and this cloud only tells of: zones, regions, machine types, quotas.

Machine types are a few real ones (https://cloud.google.com/compute/docs/machine-resource).
"""

from dataclasses import dataclass

from gcp_emulator.replies import Json

_REGIONS = {
    "europe-west1": "bcd",
    "europe-west4": "abc",
    "us-central1": "abcf",
    "us-east1": "bcd",
}

_EPOCH = "2014-05-30T18:35:16.413+00:00"

_QUOTAS = {
    "INSTANCES": 24_000.0,
    "CPUS": 24_000.0,
    "PREEMPTIBLE_CPUS": 24_000.0,
    "DISKS_TOTAL_GB": 102_400.0,
    "IN_USE_ADDRESSES": 2_300.0,
    "STATIC_ADDRESSES": 8.0,
    "INSTANCE_GROUP_MANAGERS": 500.0,
}

_GLOBAL_QUOTAS = {"INSTANCE_TEMPLATES": 1_000.0, "NETWORKS": 50.0, "FIREWALLS": 1_000.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineType:
    """One machine type: its name, virtual CPUs, and memory in MiB."""

    name: str
    cpus: int
    memory_mb: int
    shared: bool = False


MACHINE_TYPES = {
    kind.name: kind
    for kind in (
        MachineType(name="e2-micro", cpus=2, memory_mb=1_024, shared=True),
        MachineType(name="e2-small", cpus=2, memory_mb=2_048, shared=True),
        MachineType(name="e2-medium", cpus=2, memory_mb=4_096, shared=True),
        MachineType(name="e2-standard-2", cpus=2, memory_mb=8_192),
        MachineType(name="e2-standard-4", cpus=4, memory_mb=16_384),
        MachineType(name="e2-standard-8", cpus=8, memory_mb=32_768),
        MachineType(name="e2-standard-16", cpus=16, memory_mb=65_536),
        MachineType(name="e2-highcpu-2", cpus=2, memory_mb=2_048),
        MachineType(name="e2-highcpu-4", cpus=4, memory_mb=4_096),
        MachineType(name="e2-highcpu-8", cpus=8, memory_mb=8_192),
        MachineType(name="n1-standard-1", cpus=1, memory_mb=3_840),
        MachineType(name="n1-standard-2", cpus=2, memory_mb=7_680),
        MachineType(name="n1-standard-4", cpus=4, memory_mb=15_360),
        MachineType(name="n2-standard-2", cpus=2, memory_mb=8_192),
        MachineType(name="n2-standard-4", cpus=4, memory_mb=16_384),
        MachineType(name="n2-standard-8", cpus=8, memory_mb=32_768),
        MachineType(name="n2-highcpu-8", cpus=8, memory_mb=8_192),
        MachineType(name="n2-highcpu-16", cpus=16, memory_mb=16_384),
        MachineType(name="c2-standard-4", cpus=4, memory_mb=16_384),
        MachineType(name="c2-standard-8", cpus=8, memory_mb=32_768),
    )
}


def region_of(zone: str) -> str:
    """The region that a zone lies in: ``europe-west1`` of ``europe-west1-b``."""
    return zone.rpartition("-")[0]


def zones(own: str) -> list[str]:
    """All zones, in order: some of Google's, and the cloud's own where it is none of them."""
    known = {f"{region}-{letter}" for region, letters in _REGIONS.items() for letter in letters}
    return sorted(known | {own})


def zone_json(root: str, name: str) -> Json:
    """A ``compute#zone``; `root` is the URL of the project."""
    return {
        "kind": "compute#zone",
        "id": _stable_id(name),
        "creationTimestamp": _EPOCH,
        "name": name,
        "description": name,
        "status": "UP",
        "region": f"{root}/regions/{region_of(name)}",
        "selfLink": f"{root}/zones/{name}",
        "availableCpuPlatforms": ["Intel Broadwell", "AMD Rome"],
        "supportsPzs": False,
    }


def quota(metric: str) -> float:
    """The limit of a regional or global quota."""
    return {**_GLOBAL_QUOTAS, **_QUOTAS}[metric]


def region_json(
    root: str, name: str, own_zone: str, *, instances: int, cpus: int, addresses: int
) -> Json:
    """A ``compute#region`` with its quotas; `instances`, `cpus`, `addresses` are used in it."""
    usage = {
        "INSTANCES": float(instances),
        "CPUS": float(cpus),
        "STATIC_ADDRESSES": float(addresses),
    }
    return {
        "kind": "compute#region",
        "id": _stable_id(name),
        "creationTimestamp": _EPOCH,
        "name": name,
        "description": name,
        "status": "UP",
        "zones": [f"{root}/zones/{zone}" for zone in zones(own_zone) if region_of(zone) == name],
        "quotas": _quotas(_QUOTAS, usage),
        "selfLink": f"{root}/regions/{name}",
        "supportsPzs": False,
    }


def machine_type_json(root: str, zone: str, kind: MachineType) -> Json:
    """A ``compute#machineType``."""
    return {
        "kind": "compute#machineType",
        "id": _stable_id(kind.name),
        "creationTimestamp": _EPOCH,
        "name": kind.name,
        "description": f"{kind.cpus} vCPUs, {kind.memory_mb / 1024:g} GB RAM",
        "guestCpus": kind.cpus,
        "memoryMb": kind.memory_mb,
        "imageSpaceGb": 0,
        "maximumPersistentDisks": 16 if kind.shared else 128,
        "maximumPersistentDisksSizeGb": "3072" if kind.shared else "263168",
        "zone": zone,
        "selfLink": f"{root}/zones/{zone}/machineTypes/{kind.name}",
        "isSharedCpu": kind.shared,
        "architecture": "X86_64",
    }


def project_json(base: str, name: str, number: str, *, templates: int, firewalls: int) -> Json:
    """A ``compute#project`` with its global quotas."""
    usage = {
        "INSTANCE_TEMPLATES": float(templates),
        "NETWORKS": 1.0,
        "FIREWALLS": float(firewalls),
    }
    return {
        "kind": "compute#project",
        "id": number,
        "creationTimestamp": _EPOCH,
        "name": name,
        "commonInstanceMetadata": {"kind": "compute#metadata", "fingerprint": "AAAAAAAAAAA="},
        "quotas": _quotas(_GLOBAL_QUOTAS, usage),
        "selfLink": f"{base}/projects/{name}",
        "defaultServiceAccount": f"{number}-compute@developer.gserviceaccount.com",
        "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
        "defaultNetworkTier": "PREMIUM",
    }


def _quotas(limits: dict[str, float], usage: dict[str, float]) -> list[Json]:
    return [
        {"metric": metric, "limit": limit, "usage": usage.get(metric, 0.0)}
        for metric, limit in limits.items()
    ]


def _stable_id(name: str) -> str:
    return str(int.from_bytes(name.encode()[-4:].rjust(4, b"0")) + 1_000)
