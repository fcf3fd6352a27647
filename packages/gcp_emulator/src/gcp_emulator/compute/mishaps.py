"""What befalls instances, and nobody has asked for: preemption, their time is over, host errors.

Each is reported by an operation of the user ``system``, as in Google's logs. Groups then make
their members anew (https://cloud.google.com/compute/docs/instance-groups/about-repair).
"""

import asyncio
import time
from collections.abc import Callable

from gcp_emulator.compute.nouns import Group, Instance, Member
from gcp_emulator.compute.operations import Operations
from gcp_emulator.compute.power import Power, begin, touch
from gcp_emulator.compute.scheduling import ends_deleted, run_seconds
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import moment
from gcp_emulator.replies import Json


class Mishaps:
    """Ends instances as Google does.

    Args:
        state: What exists.
        operations: Where it is reported.
        power: What switches instances off.
        grace: What containers have to end, in seconds.
        remove_member: Lets a member of a group go for good.

    Attributes:
        run_speed: How much faster than the world's the clock of ``maxRunDuration`` runs.
        repairs_expired: Whether a group makes an instance anew that has run as long as it may.
            Google's documents say that it deletes such a one, and that it repairs what it did not
            end itself; what costs more is assumed. Else the member goes, too.
    """

    def __init__(
        self,
        state: State,
        operations: Operations,
        power: Power,
        *,
        grace: Callable[[], float],
        remove_member: Callable[[Group, Member], None],
    ) -> None:
        self._state = state
        self._operations = operations
        self._power = power
        self._grace = grace
        self._remove_member = remove_member
        self._expiring: set[asyncio.Task[None]] = set()
        self.run_speed = 1.0
        self.repairs_expired = True

    async def preempt(self, instance: Instance, *, grace: float) -> None:
        """Take an instance away as Google does with Spot VMs.

        What runs on it gets SIGTERM and `grace` seconds; the instance stays TERMINATED or is
        deleted, as its scheduling says, and its group then makes it anew
        (https://cloud.google.com/compute/docs/instances/spot#preemption).
        """
        instance.preempted = True
        touch(instance)
        self._report("compute.instances.preempted", instance)
        await self._terminate(instance, grace)

    async def expire(self, instance: Instance) -> None:
        """End an instance that has run as long as it may, with its grace.

        https://cloud.google.com/compute/docs/instances/limit-vm-runtime.
        """
        deleted = ends_deleted(_scheduling(instance))
        self._report("delete" if deleted else "stop", instance)
        found = self._state.group_of(instance)
        if found is None or self.repairs_expired:
            await self._terminate(instance, self._grace())
        else:
            self._remove_member(*found)

    async def fail_host(self, instance: Instance) -> None:
        """Let an instance's host fail: all that ran on it is gone at once, untold.

        Google would start it again on another host if it restarts by itself; its group makes it
        anew here, and one of its own stays TERMINATED.
        """
        if instance.machine is not None:
            await instance.machine.lose_power()
        self._report("compute.instances.hostError", instance)
        await self._power.end(instance, 0, keep=True)

    def limit_run(self, instance: Instance) -> None:
        """Note when an instance that has begun to run has to end."""
        seconds = run_seconds(_scheduling(instance))
        if seconds is None:
            return
        instance.terminates = moment(time.time() + seconds / self.run_speed)
        instance.limit = asyncio.get_running_loop().call_later(
            seconds / self.run_speed, self._begin_expiry, instance
        )

    def _begin_expiry(self, instance: Instance) -> None:
        task = begin(self.expire(instance))
        self._expiring.add(task)
        task.add_done_callback(self._expiring.discard)

    async def _terminate(self, instance: Instance, grace: float) -> None:
        await self._power.end(instance, grace, keep=not ends_deleted(_scheduling(instance)))

    def _report(self, kind: str, instance: Instance) -> None:
        """Tell of what nobody has asked for."""
        self._operations.start(
            kind,
            place=instance.place,
            target=self._state.link(instance.place, "instances", instance.name),
            target_id=instance.id,
            user="system",
        )


def _scheduling(instance: Instance) -> Json:
    found: Json = instance.properties.get("scheduling", {})
    return found
