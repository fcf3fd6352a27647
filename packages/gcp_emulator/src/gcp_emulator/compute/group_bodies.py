"""What requests say of managed instance groups: checked and read, one member at a time. Pure."""

from typing import Any

from gcp_emulator.compute.wording import check_name, invalid
from gcp_emulator.replies import GoogleError, Json


def size(where: str, value: object, most: int) -> int:
    """A target size, at most so large."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        shown = "" if value is None else value
        raise invalid(where, shown, "Must be a whole number that is not negative.")
    if value > most:
        raise invalid(where, value, f"Must be less than or equal to {most}.")
    return value


def repairs(policy: Json | None) -> bool:
    """Whether failed instances are made anew, as an ``instanceLifecyclePolicy`` says."""
    action = (policy or {}).get("defaultActionOnFailure", "REPAIR")
    if action not in ("REPAIR", "DO_NOTHING"):
        where = "resource.instanceLifecyclePolicy.defaultActionOnFailure"
        raise invalid(where, action, "Must be one of REPAIR, DO_NOTHING.")
    return bool(action == "REPAIR")


def moves(policy: Json | None, *, regional: bool) -> bool:
    """Whether a repair may change an instance's zone, as an ``instanceLifecyclePolicy`` says."""
    where = "resource.instanceLifecyclePolicy.onRepair.allowChangingZone"
    answer = ((policy or {}).get("onRepair") or {}).get("allowChangingZone", "NO")
    if answer not in ("YES", "NO"):
        raise invalid(where, answer, "Must be YES or NO.")
    if answer == "YES" and not regional:
        raise invalid(where, answer, "Only a regional group can change an instance's zone.")
    return bool(answer == "YES")


def version_template(body: Json) -> str:
    """The template's URL of a group's only version; empty without versions."""
    versions = body.get("versions")
    if not isinstance(versions, list) or not versions:
        return ""
    if len(versions) > 1:
        raise GoogleError(501, "notImplemented", "The local cloud knows groups of one version.")
    return text("resource.versions[0].instanceTemplate", versions[0].get("instanceTemplate", ""))


def all_instances(config: Json | None) -> tuple[dict[str, str], dict[str, str]]:
    """Metadata and labels of an ``allInstancesConfig``."""
    properties = (config or {}).get("properties") or {}
    where = "resource.allInstancesConfig.properties"
    if unknown := set(properties) - {"metadata", "labels"}:
        raise invalid(where, ", ".join(sorted(unknown)), "Only metadata and labels can be given.")
    return (
        _strings(f"{where}.metadata", properties.get("metadata")),
        _strings(f"{where}.labels", properties.get("labels")),
    )


def per_instance(where: str, entry: Any) -> tuple[str, dict[str, str] | None]:
    """The name and the preserved metadata of a per-instance configuration."""
    if not isinstance(entry, dict):
        raise invalid(where, entry, "Must be an object.")
    name = check_name(f"{where}.name", entry.get("name"))
    preserved = entry.get("preservedState")
    if preserved is None:
        return name, None
    if unknown := {key for key, value in preserved.items() if value} - {"metadata"}:
        message = f"The local cloud can't preserve {', '.join(sorted(unknown))} of an instance."
        raise GoogleError(501, "notImplemented", message)
    return name, _strings(f"{where}.preservedState.metadata", preserved.get("metadata"))


def _strings(where: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(where, value, "Must be an object of strings.")
    for key, item in value.items():
        if not isinstance(item, str):
            raise invalid(f"{where}.{key}", item, "Must be a string.")
    return dict(value)


def text(where: str, value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise invalid(where, value, "Must be a string.")
    return value
