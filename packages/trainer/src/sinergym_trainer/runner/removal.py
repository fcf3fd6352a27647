"""How the VM removes itself at the end: calls of the Compute Engine API.

Through the managed instance group that created the VM, never directly, because the group would
make a deleted member again
(https://cloud.google.com/compute/docs/instance-groups/about-repair).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from sinergym_trainer.runner.compute import Busy, Compute, Refused
from sinergym_trainer.runner.vm import Vm

_LOOKS = 4
"""How often a group that is being changed by somebody else is looked at."""


def remove(
    vm: Vm,
    environment: Mapping[str, str],
    *,
    give_up: Callable[[], bool],
    say: Callable[[str], None],
    rerun_wanted: Callable[[], bool] = lambda: False,
) -> bool:
    """Remove this VM, and its group when this was the group's last member.

    A member asks its group (`deleteInstances`); when that is done and the group's target size is
    0, the group goes too. Whoever of several that finish together asks last sees the 0, because
    each looks after its own removal has been counted. "Already gone" is success.

    Args:
        vm: this VM.
        environment: says where the Compute Engine API is, if not at Google.
        give_up: becomes true when there is no more time; asked between two tries.
        say: prints a line.
        rerun_wanted: whether an experiment is to run again: then the group is about to be used.

    Returns:
        False when the cloud has refused, or did not answer in time; the reason has been said.
    """
    if vm.instance is None or vm.zone is None:
        say("this is not a VM: nothing to remove")
        return True
    if vm.keep:
        say(f"{vm.instance} stays, as SINERGYM_KEEP_VM or sinergym-keep asks: it costs money")
        return True
    compute = Compute(environment, give_up=give_up, say=say)
    try:
        if vm.group is None:
            say(f"removing {vm.instance}: it is in no group")
            path = f"projects/{vm.project}/zones/{vm.zone}/instances/{vm.instance}"
            compute.call("DELETE", path)
            return True
        say(f"removing {vm.instance} through its group {vm.group_name}")
        operation = compute.call(
            "POST",
            f"{vm.group}/deleteInstances",
            {
                "instances": [f"zones/{vm.zone}/instances/{vm.instance}"],
                "skipInstancesOnValidationError": True,
            },
        )
        if operation is None:
            say(f"the group {vm.group_name} is gone already")
            return True
        _wait_for(compute, operation, vm.group.rpartition("/instanceGroupManagers/")[0])
        _remove_empty_group(compute, vm.group, say, rerun_wanted)
    except Refused as error:
        say(f"{vm.instance} could not be removed: {error}")
        return False
    return True


def _wait_for(compute: Compute, operation: dict[str, Any], location: str) -> None:
    """Wait until the removal has been counted: only then the target size tells who is last."""
    name, deadline, delay = operation.get("name"), time.monotonic() + 20, 0.1
    found: dict[str, Any] | None = operation
    while name and found is not None:
        errors = (found.get("error") or {}).get("errors") or []
        if errors:
            first = errors[0]
            raise Refused(f"{first.get('code')}: {first.get('message')}")
        if found.get("status") == "DONE" or time.monotonic() > deadline:
            return
        time.sleep(delay)
        delay = min(delay * 1.5, 1.0)
        found = compute.call("GET", f"{location}/operations/{name}")


def _remove_empty_group(
    compute: Compute,
    group: str,
    say: Callable[[str], None],
    rerun_wanted: Callable[[], bool],
) -> None:
    """Remove the group if we were the last; two that end together may both think so.

    Who finds it being changed is not the only one: it looks a few times, and leaves the rest to
    the other. To wait for the end would be to wait for oneself: the group goes when its members
    have gone, and this one goes when we end.
    """
    for look in range(_LOOKS):
        found = compute.call("GET", group)
        if found is None:
            return
        size = found.get("targetSize")
        if size != 0:
            say(f"the group keeps {size} more")
            return
        if rerun_wanted():
            say("the group stays: an experiment is to run again")
            return
        if look == 0:
            say("this was the last one: removing the group")
        try:
            compute.call("DELETE", group, when_busy="raise")
        except Busy:
            compute.pause(0.5, "the group is being changed by somebody else")
        else:
            return
    say("another one is removing the group")
