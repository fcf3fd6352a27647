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
    "CPUS": 24_000.0,
    "N2_CPUS": 24_000.0,
    "N2D_CPUS": 24_000.0,
    "C2_CPUS": 24_000.0,
    "C2D_CPUS": 24_000.0,
    "C3_CPUS": 24_000.0,
    "T2D_CPUS": 24_000.0,
    "PREEMPTIBLE_CPUS": 24_000.0,
    "INSTANCES": 24_000.0,
    "IN_USE_ADDRESSES": 2_300.0,
    "STATIC_ADDRESSES": 8.0,
    "DISKS_TOTAL_GB": 102_400.0,
    "SSD_TOTAL_GB": 102_400.0,
    "INSTANCE_GROUP_MANAGERS": 500.0,
    "REGIONAL_INSTANCE_GROUP_MANAGERS": 500.0,
}

_GLOBAL_QUOTAS = {
    "CPUS_ALL_REGIONS": 48_000.0,
    "INSTANCE_TEMPLATES": 1_000.0,
    "NETWORKS": 50.0,
    "FIREWALLS": 1_000.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineType:
    """One machine type: its name, virtual CPUs, and memory in MiB."""

    name: str
    cpus: int
    memory_mb: int
    shared: bool = False

    @property
    def quota(self) -> str:
        """The regional quota that counts its CPUs; E2 and N1 have none of their own."""
        own = f"{self.name.partition('-')[0].upper()}_CPUS"
        return own if own in _QUOTAS else "CPUS"


_SHARED = {"e2-micro": 1_024, "e2-small": 2_048, "e2-medium": 4_096}
_PREDEFINED = {
    # MiB for each virtual CPU, and how many of these there can be.
    "e2-standard": (4_096, (2, 4, 8, 16, 32)),
    "e2-highcpu": (1_024, (2, 4, 8, 16, 32)),
    "e2-highmem": (8_192, (2, 4, 8, 16)),
    "n1-standard": (3_840, (1, 2, 4, 8, 16, 32, 64, 96)),
    "n2-standard": (4_096, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)),
    "n2-highcpu": (1_024, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
    "n2-highmem": (8_192, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)),
    "n2d-standard": (4_096, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224)),
    "n2d-highcpu": (1_024, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224)),
    "c2-standard": (4_096, (4, 8, 16, 30, 60)),
    "c2d-standard": (4_096, (2, 4, 8, 16, 32, 56, 112)),
    "c2d-highcpu": (2_048, (2, 4, 8, 16, 32, 56, 112)),
    "c3-standard": (4_096, (4, 8, 22, 44, 88, 176)),
    "c3-highcpu": (2_048, (4, 8, 22, 44, 88, 176)),
    "t2d-standard": (4_096, (1, 2, 4, 8, 16, 32, 48, 60)),
}

MACHINE_TYPES = {
    kind.name: kind
    for kind in (
        *(
            MachineType(name=name, cpus=2, memory_mb=memory, shared=True)
            for name, memory in _SHARED.items()
        ),
        *(
            MachineType(name=f"{family}-{cpus}", cpus=cpus, memory_mb=cpus * each)
            for family, (each, counts) in _PREDEFINED.items()
            for cpus in counts
        ),
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
    """The limit of a regional or global quota, as it is at first."""
    return {**_GLOBAL_QUOTAS, **_QUOTAS}[metric]


def metrics(*, regional: bool) -> list[str]:
    """The names of all regional, or all global, quotas."""
    return list(_QUOTAS if regional else _GLOBAL_QUOTAS)


def disk_quota(kind: str) -> str:
    """The regional quota that counts disks of a type."""
    return "SSD_TOTAL_GB" if kind in ("pd-ssd", "pd-balanced") else "DISKS_TOTAL_GB"


def region_json(root: str, name: str, own_zone: str, quotas: list[Json]) -> Json:
    """A ``compute#region`` with its quotas."""
    return {
        "kind": "compute#region",
        "id": _stable_id(name),
        "creationTimestamp": _EPOCH,
        "name": name,
        "description": name,
        "status": "UP",
        "zones": [f"{root}/zones/{zone}" for zone in zones(own_zone) if region_of(zone) == name],
        "quotas": quotas,
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


def project_json(base: str, name: str, number: str, quotas: list[Json]) -> Json:
    """A ``compute#project`` with its global quotas."""
    return {
        "kind": "compute#project",
        "id": number,
        "creationTimestamp": _EPOCH,
        "name": name,
        "commonInstanceMetadata": {"kind": "compute#metadata", "fingerprint": "AAAAAAAAAAA="},
        "quotas": quotas,
        "selfLink": f"{base}/projects/{name}",
        "defaultServiceAccount": f"{number}-compute@developer.gserviceaccount.com",
        "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
        "defaultNetworkTier": "PREMIUM",
    }


def _stable_id(name: str) -> str:
    return str(int.from_bytes(name.encode()[-4:].rjust(4, b"0")) + 1_000)
