"""How a VM may be scheduled: Spot or not, what ends it, and for how long it runs. Pure.

https://cloud.google.com/compute/docs/instances/create-use-spot,
https://cloud.google.com/compute/docs/instances/limit-vm-runtime. Google's sentences where they
are known; a run duration without an action and one out of its range are refused in our words.
"""

from typing import Any, Final

from gcp_emulator.compute.wording import invalid
from gcp_emulator.replies import GoogleError, Json

SHORTEST_RUN: Final = 30
"""Least seconds of ``maxRunDuration``."""

LONGEST_RUN: Final = 120 * 86_400
"""Most seconds of ``maxRunDuration``."""

_KNOWN: Final = {
    "automaticRestart": (True, False),
    "onHostMaintenance": ("MIGRATE", "TERMINATE"),
    "preemptible": (True, False),
    "provisioningModel": ("STANDARD", "SPOT"),
    "instanceTerminationAction": ("STOP", "DELETE"),
}


def checked_scheduling(where: str, given: object) -> Json:
    """A VM's scheduling with its defaults, if Compute Engine would take it.

    Args:
        where: The field that messages name, such as ``resource.scheduling``.
        given: What was asked for; nothing means a standard VM.

    Raises:
        GoogleError: 400 for what does not go together, 501 for what is not emulated.
    """
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise invalid(where, given, "Must be an object.")
    asked = {key: value for key, value in given.items() if value is not None}
    if unknown := sorted(asked.keys() - _KNOWN.keys() - {"maxRunDuration"}):
        message = f"The local cloud knows no {', '.join(unknown)} of a VM's scheduling."
        raise GoogleError(501, "notImplemented", message)
    for key, values in _KNOWN.items():
        if key in asked and asked[key] not in values:
            raise invalid(f"{where}.{key}", asked[key], f"Must be one of {values}.")
    spot = is_spot(asked)
    scheduling: Json = {
        "onHostMaintenance": "TERMINATE" if spot else "MIGRATE",
        "automaticRestart": not spot,
        "provisioningModel": "STANDARD",
        **asked,
        "preemptible": spot,
    }
    if "maxRunDuration" in asked:
        seconds = _seconds(f"{where}.maxRunDuration", asked["maxRunDuration"])
        scheduling["maxRunDuration"] = {"seconds": str(seconds)}
    _check_together(where, scheduling, spot=spot)
    if spot:
        scheduling.setdefault("instanceTerminationAction", "STOP")
    return scheduling


def is_spot(scheduling: Json) -> bool:
    """Whether a VM can be preempted: Spot, or preemptible as it was called before."""
    return scheduling.get("provisioningModel") == "SPOT" or bool(scheduling.get("preemptible"))


def run_seconds(scheduling: Json) -> int | None:
    """How long a VM may run; None without a limit."""
    limit = scheduling.get("maxRunDuration")
    return int(limit["seconds"]) if limit else None


def ends_deleted(scheduling: Json) -> bool:
    """Whether a VM is deleted, and not stopped, when it is preempted or has run long enough."""
    return scheduling.get("instanceTerminationAction") == "DELETE"


def _check_together(where: str, scheduling: Json, *, spot: bool) -> None:
    limited = "maxRunDuration" in scheduling
    action = scheduling.get("instanceTerminationAction")
    if spot and scheduling["automaticRestart"]:
        why = "Scheduling must have preemptible be false when AutomaticRestart is true."
        raise invalid(f"{where}.preemptible", "true", why)
    if spot and scheduling["onHostMaintenance"] != "TERMINATE":
        why = "Scheduling must have preemptible be false when OnHostMaintenance isn't TERMINATE."
        raise invalid(f"{where}.preemptible", "true", why)
    if action and not spot and not limited:
        why = (
            "You cannot specify a termination action for a VM instance that has the standard"
            " provisioning model (default)."
        )
        raise invalid(f"{where}.instanceTerminationAction", action, why)
    if limited and not action:
        why = "A VM instance with a limited run time needs an instance termination action."
        raise invalid(f"{where}.instanceTerminationAction", "", why)


def _seconds(where: str, duration: Any) -> int:
    given = duration.get("seconds") if isinstance(duration, dict) else duration
    text = str(given if given is not None else "")
    if isinstance(given, bool) or not text.isdecimal():
        raise invalid(where, text, "Must be an object with a whole number of seconds.")
    seconds = int(text)
    if duration.get("nanos") or not SHORTEST_RUN <= seconds <= LONGEST_RUN:
        why = f"Must be between {SHORTEST_RUN} seconds and 120 days, in whole seconds."
        raise invalid(f"{where}.seconds", text, why)
    return seconds
