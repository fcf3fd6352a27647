"""Where a group's members go: which zones and machine types are tried, and in what order. Pure.

https://cloud.google.com/compute/docs/instance-groups/regional-mig-distribution-shape and
https://cloud.google.com/compute/docs/instance-groups/about-instance-flexibility: what a group may
ask for, and what it means here.

    EVEN             the zone with the fewest members, whether there is room or not
    BALANCED         the zones with the fewest members first, the next where there is no room
    ANY              the zones in the order given, the next where there is no room
    ANY_SINGLE_ZONE  the zone of the members that are there; ANY for the first
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gcp_emulator.compute import catalog
from gcp_emulator.compute.nouns import Group, Member
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import invalid
from gcp_emulator.replies import Json

SHAPES: Final = ("EVEN", "BALANCED", "ANY", "ANY_SINGLE_ZONE")
_MOST_ZONES = 3
_ZONE_URL = re.compile(r"(?:^|/)zones/([^/]+)$|^([^/]+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """What a group's resource says of placement, checked."""

    zones: tuple[str, ...]
    shape: str
    machine_types: tuple[str, ...]
    settings: Json
    """The members of the resource, as they are shown."""


def checked_policies(state: State, place: str, body: Json, before: Group | None) -> Policies:
    """The placement that a new group, or a change of one, asks for.

    Raises:
        GoogleError: 400 for what does not go together, in Google's words where they are known.
    """
    kept = before.settings if before else {}
    update = {**kept.get("updatePolicy", {}), **(body.get("updatePolicy") or {})}
    flexibility = body.get("instanceFlexibilityPolicy", kept.get("instanceFlexibilityPolicy"))
    given = body.get("distributionPolicy")
    regional = place.startswith("regions/")
    settings: Json = {}
    if regional:
        zones = before.zones if before else _zones(state, place.partition("/")[2], given)
        shape = (given or {}).get("targetShape") or (before.shape if before else "EVEN")
        update.setdefault("instanceRedistributionType", "PROACTIVE")
        _check_shape(shape, update["instanceRedistributionType"])
        settings["distributionPolicy"] = {
            "zones": [{"zone": f"{state.root}/zones/{zone}"} for zone in zones],
            "targetShape": shape,
        }
    else:
        if given:
            why = "A distribution policy can be specified for regional groups only."
            raise invalid("resource.distributionPolicy", "", why)
        zones, shape = (place.partition("/")[2],), ""
    if update:
        settings["updatePolicy"] = update
    if not flexibility:
        return Policies(zones=zones, shape=shape, machine_types=(), settings=settings)
    if shape in ("", "EVEN"):
        why = (
            "Instance flexibility policy is supported only for RMIGs with target shapes ANY,"
            " ANY_SINGLE_ZONE and BALANCED."
        )
        where = "distributionPolicy.targetShape" if shape else "instanceFlexibilityPolicy"
        raise invalid(f"resource.{where}", shape, why)
    kinds = _machine_types(flexibility)
    settings["instanceFlexibilityPolicy"] = flexibility
    return Policies(zones=zones, shape=shape, machine_types=kinds, settings=settings)


def spreads(group: Group) -> bool:
    """Whether a group moves its members between zones, which one with names of ours must not."""
    policy = group.settings.get("updatePolicy", {})
    return group.regional and policy.get("instanceRedistributionType") != "NONE"


def choices(group: Group, member: Member) -> Iterator[tuple[str, str]]:
    """The zones and machine types to try for a member without an instance, the best first."""
    own = member.template.properties["machineType"]
    zones = _zones_for(group, member)
    for kind in group.machine_types or (own,):
        for zone in zones:
            yield zone, kind


def _zones_for(group: Group, member: Member) -> Sequence[str]:
    counts = group.spread
    if member.placed and not group.moves:
        return (member.zone,)
    match group.shape:
        case "EVEN":
            return (min(group.zones, key=lambda zone: counts[zone]),)
        case "BALANCED":
            return sorted(group.zones, key=lambda zone: counts[zone])
        case "ANY_SINGLE_ZONE":
            return [zone for zone in group.zones if counts[zone]] or group.zones
        case _:
            return group.zones


def _zones(state: State, region: str, given: Any) -> tuple[str, ...]:
    """The zones that a policy names; else the first three of the region."""
    there = [zone for zone in state.zones if catalog.region_of(zone) == region]
    entries = (given or {}).get("zones")
    if not entries:
        return tuple(there[:_MOST_ZONES])
    named = []
    for number, entry in enumerate(entries):
        where = f"resource.distributionPolicy.zones[{number}].zone"
        url = entry.get("zone") if isinstance(entry, dict) else entry
        found = _ZONE_URL.search(url) if isinstance(url, str) else None
        zone = (found[1] or found[2]) if found else None
        if zone not in there:
            raise invalid(where, url, f"Must be a zone of region '{region}'.")
        if zone in named:
            raise invalid(where, url, "Zones must be unique.")
        named.append(str(zone))
    return tuple(named)


def _check_shape(shape: object, redistribution: object) -> None:
    if shape not in SHAPES:
        raise invalid(
            "resource.distributionPolicy.targetShape", shape, f"Must be one of {SHAPES}."
        )
    where = "resource.updatePolicy.instanceRedistributionType"
    if redistribution not in ("NONE", "PROACTIVE"):
        raise invalid(where, redistribution, "Must be NONE or PROACTIVE.")
    if shape != "EVEN" and redistribution != "NONE":
        why = f"Proactive instance redistribution must be disabled for target shape {shape}."
        raise invalid(where, redistribution, why)


def _machine_types(policy: Any) -> tuple[str, ...]:
    """The machine types of all selections by their rank, the preferred first."""
    where = "resource.instanceFlexibilityPolicy.instanceSelections"
    selections = policy.get("instanceSelections") if isinstance(policy, dict) else None
    if not isinstance(selections, dict) or not selections:
        raise invalid(where, "", "At least one instance selection must be given.")
    ranked: list[tuple[int, str]] = []
    for name, selection in selections.items():
        kinds = selection.get("machineTypes") if isinstance(selection, dict) else None
        rank = selection.get("rank", 0) if isinstance(selection, dict) else None
        if type(rank) is not int or rank < 0:
            raise invalid(f"{where}['{name}'].rank", rank, "Must be a whole number.")
        if not isinstance(kinds, list) or not kinds:
            why = "At least one machine type must be given."
            raise invalid(f"{where}['{name}'].machineTypes", "", why)
        for kind in kinds:
            if kind not in catalog.MACHINE_TYPES:
                raise invalid(f"{where}['{name}'].machineTypes", kind, "Unknown machine type.")
            ranked.append((rank, kind))
    kinds = [kind for _, kind in sorted(ranked, key=lambda item: item[0])]
    if len(set(kinds)) < len(kinds):
        raise invalid(where, "", "Machine types must be unique.")
    return tuple(kinds)
