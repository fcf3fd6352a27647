"""What a machine type is, by its name: vCPUs and memory."""

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["shape"]

_CUSTOM: Final = re.compile(r"(?:([a-z][a-z0-9]*)-)?custom-([0-9]{1,3})-([0-9]{3,7})")
_PREDEFINED: Final = re.compile(r"([a-z][a-z0-9]*)-([a-z]+)-([0-9]{1,3})")


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
