"""What the fields of a sweep may be: a check passes, or says in a line what is wrong.

Messages begin with the field, so that a sweep file's line and a flag can be named for it.
"""

import re
from collections.abc import Sequence

from gcloud_ops.contract import Retry
from gcloud_ops.errors import InvalidRequest

__all__ = [
    "MOST_RETRIES",
    "RETRIED",
    "RETRYABLE",
    "check_machine_type",
    "check_retry",
    "check_sweep_name",
    "check_zones",
    "experiment_id",
    "region_of",
]

RETRYABLE = (
    "error",
    "usage",
    "not_found",
    "signal",
    "oom",
    "disk_full",
    "energyplus",
    "nan",
    "upload",
)
"""Kinds of failure (docs/contract.md) that a policy may name: those of a command that has run."""

RETRIED = ("error", "signal", "oom", "energyplus", "upload")
"""Those of them that are tried again where only a number is given."""

MOST_RETRIES = 20
"""As many attempts as a record remembers."""

_MACHINE_TYPE = re.compile(r"[a-z][-a-z0-9]{1,62}")
_SWEEP_NAME = re.compile(r"[a-z]([-a-z0-9]{0,52}[a-z0-9])?")
_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")


def check_sweep_name(name: str) -> str:
    """Return the name, if Google takes it as a group's name with an experiment's number after it.

    Raises:
        InvalidRequest: It doesn't.
    """
    if _SWEEP_NAME.fullmatch(name):
        return name
    raise InvalidRequest(
        f"name: {name!r} can't name a sweep",
        resource=f"sweep {name}",
        hint="use 1 to 54 lower-case letters, digits and hyphens, a letter first, no hyphen last",
    )


def experiment_id(sweep: str, number: int) -> str:
    """The id of a sweep's experiment, numbered from 1."""
    return f"{sweep}-{number:04d}"


def check_machine_type(name: str, *, field: str = "machine_type") -> str:
    """The machine type, if it has a machine type's form.

    Raises:
        InvalidRequest: It hasn't; the message begins with the field.
    """
    if _MACHINE_TYPE.fullmatch(name):
        return name
    raise InvalidRequest(
        f"{field}: {name!r} is not a machine type such as n2-highcpu-8",
        resource=f"machine type {name}",
    )


def check_retry(retry: Retry) -> None:
    """Refuse a policy that no runner can follow.

    Raises:
        InvalidRequest: A number is out of bounds, or a kind is none that can be tried again.
    """
    if not 1 <= retry.times <= MOST_RETRIES:
        raise InvalidRequest(f"retry.times: {retry.times} is not between 1 and {MOST_RETRIES}")
    if not 0 <= retry.wait <= 3600:
        raise InvalidRequest(f"retry.wait: {retry.wait:g} is not between 0 and 3600 seconds")
    if not retry.kinds:
        raise InvalidRequest(
            "retry.kinds: none, so nothing would be tried again",
            hint=f"the kinds are {', '.join(RETRYABLE)}",
        )
    for kind in retry.kinds:
        if kind not in RETRYABLE:
            raise InvalidRequest(
                f"retry.kinds: {kind!r} is no kind of failure that is tried again",
                hint=f"the kinds are {', '.join(RETRYABLE)}",
            )


def region_of(zone: str) -> str:
    """A zone's region: a zone's name is its region's and a letter."""
    return zone.rpartition("-")[0]


def check_zones(zones: Sequence[str], *, field: str = "zones") -> None:
    """Refuse what one group can't be in.

    Raises:
        InvalidRequest: One is not of a zone's form, is there twice, or is of another region.
    """
    for number, zone in enumerate(zones):
        if not _ZONE.fullmatch(zone):
            raise InvalidRequest(
                f"{field}: {zone!r} is not a zone such as europe-west1-b", resource=f"zone {zone}"
            )
        if zone in zones[:number]:
            raise InvalidRequest(f"zones: {zone} is there twice", resource=f"zone {zone}")
        if region_of(zone) != region_of(zones[0]):
            raise InvalidRequest(
                f"zones: {zones[0]} and {zone} are in different regions",
                resource=f"zone {zone}",
                hint="one sweep is one instance group, whose zones are of one region; launch a "
                "sweep for each region",
            )
