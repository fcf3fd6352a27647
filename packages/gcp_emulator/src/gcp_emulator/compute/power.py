"""Switches instances on and off: their places, machines, disks and metadata servers.

What has to be done next, in a group or for somebody who asked, is others' work: `lifecycle` and
`instances`.

    PROVISIONING, STAGING   its machine is being made
    RUNNING                 its machine boots, or has booted
    STOPPING                what runs on it gets SIGTERM and its grace
    TERMINATED              stopped, and can be started again; only an instance of its own keeps
                            its disk (https://cloud.google.com/compute/docs/instances/instance-lifecycle)
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from gcp_emulator.compute.capacity import Capacity, need_of
from gcp_emulator.compute.nouns import Instance, Machine
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import now
from gcp_emulator.replies import GoogleError

type MakeMachine = Callable[[Instance, Callable[[str], None]], Machine]
"""Makes the computer of an instance; the second argument takes the timeline's events."""

_log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 60.0  # beyond the grace; then an instance is gone, whatever its machine says


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One instant, on the monotonic clock (seconds) and as UTC time."""

    monotonic: float
    utc: str


@dataclass(eq=False, slots=True, kw_only=True)
class Timeline:
    """When what happened to an instance first: created, booted, ssh, container, exec, gone."""

    name: str
    id: str
    moments: dict[str, Moment] = field(default_factory=dict)

    def record(self, event: str) -> None:
        """Note an event, if it is the first of its kind."""
        self.moments.setdefault(event, Moment(monotonic=time.monotonic(), utc=now()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """How an instance's metadata server is opened and closed."""

    open: Callable[[Instance], Awaitable[None]]
    close: Callable[[Instance], Awaitable[None]]


class Power:
    """Boots, stops and removes instances, of groups or not.

    Args:
        state: What exists.
        capacity: The limits, which a running instance counts for.
        make_machine: Makes the computer behind an instance.
        sites: Opens metadata servers; None where no guest asks for one.
        folder: Instances' disks: one folder each; None for no disks.
        boot_patience: How long a machine may boot until it is given up.
        running: Called when an instance has begun to run.
        ended: Called after an instance was stopped or removed.
    """

    def __init__(
        self,
        state: State,
        capacity: Capacity,
        *,
        make_machine: MakeMachine,
        sites: Sites | None,
        folder: Path | None,
        boot_patience: float,
        running: Callable[[Instance], None],
        ended: Callable[[Instance], None],
    ) -> None:
        self._state = state
        self._capacity = capacity
        self._make_machine = make_machine
        self._sites = sites
        self._folder = folder
        self._running = running
        self._ended = ended
        self.boot_patience = boot_patience
        self.timelines: dict[str, Timeline] = {}

    def refusal(self, instance: Instance) -> GoogleError | None:
        """Why this instance of its own can't start now."""
        kind = instance.machine_type
        need = need_of(instance.properties, zone=instance.zone, machine_type=kind)
        return self._capacity.refusal(need, standalone=instance.standalone)

    def start(self, instance: Instance, *, running: Callable[[], None]) -> asyncio.Task[None]:
        """Give an instance its place and boot it.

        Args:
            instance: A new one, or one that is TERMINATED.
            running: Called when its machine is made.

        Returns:
            The boot; it fails if the machine can't be made or has not booted in time.
        """
        if (instance.zone, instance.name) not in self._state.instances:
            self._state.add_instance(instance)
            self._state.add_disks(instance)
        instance.status = "PROVISIONING"
        instance.ending = None
        self._capacity.take(instance)
        instance.booting = begin(self._boot(instance, running), quiet=True)
        return instance.booting

    async def end(self, instance: Instance, grace: float, *, keep: bool = False) -> None:
        """Stop an instance, and remove it unless it is to be kept; once, later callers wait."""
        if instance.gone:
            return
        if instance.ending is None or (instance.ending.done() and not keep):
            instance.ending = begin(self._shut_down(instance, grace, keep=keep))
        await asyncio.shield(instance.ending)
        if not keep:
            # What was only stopped is removed now.
            await self.end(instance, grace)

    def reset(self, instance: Instance, *, running: Callable[[], None]) -> asyncio.Task[None]:
        """Switch a RUNNING instance off and on again, with what is on its disk, as `start` does.

        It stays RUNNING.
        """
        before = instance.booting
        instance.booting = begin(self._reset(instance, before, running), quiet=True)
        return instance.booting

    def remove(self, instance: Instance) -> None:
        """Forget an instance that has ended."""
        instance.gone = True
        self._state.release_disks(instance)
        self._state.remove_instance(instance)
        if (timeline := self.timelines.get(instance.id)) is not None:
            timeline.record("gone")

    async def _boot(self, instance: Instance, running: Callable[[], None]) -> None:
        """Provision an instance and boot it."""
        timeline = self._timeline(instance)
        timeline.record("created")
        await asyncio.sleep(0)
        instance.status = "STAGING"
        machine = self._assemble(instance, timeline)
        await asyncio.sleep(0)
        instance.status = "RUNNING"
        instance.started = now()
        running()
        self._running(instance)
        self._state.notify()
        await self._come_up(instance, machine)
        timeline.record("booted")

    def _assemble(self, instance: Instance, timeline: Timeline) -> Machine:
        """Make the instance's machine; what an earlier one has shown and told stays."""
        before = instance.machine
        machine = instance.machine = self._make_machine(instance, timeline.record)
        if before is not None:
            machine.serial[:0] = before.serial
            machine.guest_attributes.update(before.guest_attributes)
        return machine

    async def _come_up(self, instance: Instance, machine: Machine) -> None:
        async with asyncio.timeout(self.boot_patience):
            if self._sites is not None:
                await self._sites.open(instance)
            await machine.boot()

    async def _reset(
        self,
        instance: Instance,
        before: asyncio.Task[None] | None,
        running: Callable[[], None],
    ) -> None:
        await self._cut(before)
        if instance.machine is not None:
            await instance.machine.shutdown(0)
        if self._sites is not None:
            await self._sites.close(instance)
        machine = self._assemble(instance, self._timeline(instance))
        running()
        touch(instance)
        self._state.notify()
        await self._come_up(instance, machine)

    async def _shut_down(self, instance: Instance, grace: float, *, keep: bool) -> None:
        if instance.limit is not None:
            instance.limit.cancel()
            instance.limit = instance.terminates = None
        if instance.status != "TERMINATED":
            instance.status = "STOPPING"
            self._state.notify()
            await self._switch_off(instance, grace)
            self._capacity.give_back(instance)
        if not (keep and instance.standalone):
            await self._erase(instance)
        if keep:
            instance.status = "TERMINATED"
        else:
            self.remove(instance)
        self._state.notify()
        self._ended(instance)

    async def _switch_off(self, instance: Instance, grace: float) -> None:
        await self._cut(instance.booting)
        try:
            async with asyncio.timeout(grace + _SHUTDOWN_SECONDS):
                if instance.machine is not None:
                    await instance.machine.shutdown(grace)
                touch(instance)
                if self._sites is not None:
                    await self._sites.close(instance)
        except Exception:
            _log.exception("%s did not shut down", instance.name)

    async def _cut(self, booting: asyncio.Task[None] | None) -> None:
        if booting is not None and not booting.done():
            booting.cancel()
            await asyncio.gather(booting, return_exceptions=True)

    async def _erase(self, instance: Instance) -> None:
        if self._folder is not None and (disk := self._folder / instance.name).exists():
            await asyncio.to_thread(shutil.rmtree, disk, ignore_errors=True)

    def _timeline(self, instance: Instance) -> Timeline:
        found = self.timelines.get(instance.id)
        if found is None:
            found = Timeline(name=instance.name, id=instance.id)
            self.timelines[instance.id] = found
            if len(self.timelines) > 10_000:
                del self.timelines[next(iter(self.timelines))]
        return found


def begin(work: Coroutine[None, None, None], *, quiet: bool = False) -> asyncio.Task[None]:
    """A task that nobody has to await for its failure to be seen.

    Args:
        work: What it does.
        quiet: Whether somebody else tells of its failure.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_take_failure if quiet else _tell_failure)
    return task


def touch(instance: Instance) -> None:
    """Wake those who wait for a change of the instance's metadata."""
    instance.changed.set()
    instance.changed = asyncio.Event()


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("something failed that should not", exc_info=error)


def _take_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
