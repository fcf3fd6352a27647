"""How instances come and go, and how a group keeps what it wants.

Driven by events: a member has a task only while something happens to it. What waits for a place
in the zone stands in a queue, and is taken from it when an instance goes or the capacity changes.

    CREATING    waits for capacity, or the instance is PROVISIONING, STAGING
    VERIFYING   the instance is RUNNING and boots
    NONE        it has booted
    RECREATING  it went without the group's doing: the same again, under the same name
    DELETING    on its way out; then the member is no more

Repair: https://cloud.google.com/compute/docs/instance-groups/about-repair

An instance that can't be brought up (its address and port are taken, its machine fails or does
not boot in time) is removed, and made anew after a while, at another address. Meanwhile the
member's last attempt tells why: ``INTERNAL_ERROR``, and the reason.
"""

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gcp_emulator.compute import catalog
from gcp_emulator.compute.operations import Operations
from gcp_emulator.compute.state import (
    Group,
    Instance,
    Machine,
    Member,
    State,
    Template,
    new_id,
    now,
)
from gcp_emulator.replies import Json

type MakeMachine = Callable[[Instance, Callable[[str], None]], Machine]
"""Makes the computer of an instance; the second argument takes the timeline's events."""

_log = logging.getLogger(__name__)

_LETTERS = "0123456789bcdfghjklmnpqrstvwxz"
_LONGEST_PAUSE = 30.0
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


class Lifecycle:
    """Moves instances and members.

    Args:
        state: What exists.
        operations: Where preemptions and repairs are reported.
        make_machine: Makes the computer behind an instance.
        sites: Opens metadata servers; None where no guest asks for one.
        folder: Instances' disks: one folder each, removed with it; None for no disks.
        capacity: How many instances can run at once in the whole cloud; None for no limit.
        grace_seconds: What an instance's containers have to end when it is deleted.
        repair_seconds: How soon a group sees that one of its instances is gone.
        boot_patience: How long a machine may boot until it is given up, and made anew.
    """

    def __init__(
        self,
        state: State,
        operations: Operations,
        *,
        make_machine: MakeMachine,
        sites: Sites | None = None,
        folder: Path | None = None,
        capacity: int | None = None,
        grace_seconds: float = 30.0,
        repair_seconds: float = 1.0,
        boot_patience: float = 60.0,
    ) -> None:
        self._state = state
        self._operations = operations
        self._make_machine = make_machine
        self._sites = sites
        self._folder = folder
        self._capacity = capacity
        self._zone_capacity: dict[str, int] = {}
        self._occupied: dict[str, int] = {}
        self._waiting: dict[Member, Group] = {}
        self._closing = False
        self.grace_seconds = grace_seconds
        self.repair_seconds = repair_seconds
        self.boot_patience = boot_patience
        self.timelines: dict[str, Timeline] = {}

    @property
    def capacity(self) -> int | None:
        """How many instances can run at once; None for no limit."""
        return self._capacity

    @property
    def zone_capacity(self) -> dict[str, int]:
        """The zones with a limit of their own."""
        return dict(self._zone_capacity)

    @property
    def running(self) -> int:
        """How many places are taken."""
        return sum(self._occupied.values())

    def set_capacity(self, capacity: int | None, *, zone: str | None = None) -> None:
        """Change how many instances can run at once, in the cloud or in one zone."""
        if zone is None:
            self._capacity = capacity
        elif capacity is None:
            self._zone_capacity.pop(zone, None)
        else:
            self._zone_capacity[zone] = capacity
        self._serve_queue()

    def grow(
        self, group: Group, wanted: Mapping[str, dict[str, str] | None] | int
    ) -> list[Member]:
        """Add members: by name with their metadata, or so many with names of the group's making.

        The target size is the caller's to change.
        """
        names: Iterable[str]
        if isinstance(wanted, int):
            names, preserved = self._fresh_names(group, wanted), {}
        else:
            names, preserved = wanted, dict(wanted)
        members = []
        for name in names:
            member = Member(name=name, template=group.template, preserved=preserved.get(name))
            group.members[name] = member
            self._raise(group, member)
            members.append(member)
        return members

    def shrink(self, group: Group, members: Iterable[Member], *, grace: float) -> None:
        """Delete members with their instances; the target size is the caller's to change."""
        for member in members:
            if member.action == "DELETING":
                continue
            member.action = "DELETING"
            self._waiting.pop(member, None)
            old, member.task = (
                member.task,
                _begin(self._delete_member(group, member, member.task, grace)),
            )
            if old is not None:
                old.cancel()

    def delete_group(self, group: Group) -> None:
        """Delete all members, then the group; `Group.gone` tells when."""
        group.deleting = True
        group.target_size = 0
        self.shrink(group, list(group.members.values()), grace=self.grace_seconds)
        self._finish_group(group)

    async def delete_instance(self, instance: Instance, *, grace: float | None = None) -> None:
        """Delete an instance; if it is a member's, the group makes it anew."""
        await self._end(instance, self.grace_seconds if grace is None else grace)

    async def preempt(self, instance: Instance, *, grace: float) -> None:
        """Take an instance away as Google does with Spot VMs.

        What runs on it gets SIGTERM and `grace` seconds; the instance stays TERMINATED, and its
        group then makes it anew (https://cloud.google.com/compute/docs/instances/preemptible).
        """
        instance.preempted = True
        touch(instance)
        self._operations.start(
            "compute.instances.preempted",
            zone=instance.zone,
            target=self._state.link(instance.zone, "instances", instance.name),
            target_id=instance.id,
            user="system",
        )
        await self._end(instance, grace, keep=True)

    async def close(self, *, grace: float) -> None:
        """End everything that runs; what ends already has no longer than `grace` either."""
        self._closing = True
        self._waiting.clear()
        tasks = [
            member.task
            for group in self._state.groups.values()
            for member in group.members.values()
            if member.task is not None and member.action != "DELETING"
        ]
        for task in tasks:
            task.cancel()
        instances = list(self._state.instances.values())
        ends = [self._end(instance, grace) for instance in instances]
        shorter = [
            instance.machine.shutdown(grace)
            for instance in instances
            if instance.machine is not None and instance.status == "STOPPING"
        ]
        await asyncio.gather(*tasks, *ends, *shorter, return_exceptions=True)
        for group in list(self._state.groups.values()):
            group.members.clear()
            group.deleting = True
            self._finish_group(group)

    def _raise(self, group: Group, member: Member) -> None:
        """Begin to make the member's instance, or put it in the queue."""
        refusal = self._refusal(group, member)
        if refusal is None:
            self._waiting.pop(member, None)
            if not member.failures:
                member.errors = []
            instance = self._new_instance(group, member)
            member.instance = instance
            self._state.add_instance(instance)
            self._occupy(group.zone, 1)
            instance.booting = asyncio.create_task(self._boot(member, instance))
            member.task = _begin(self._bring_up(group, member, instance, instance.booting))
            return
        if refusal not in member.errors:
            member.errors = [refusal]
            group.errors.append(self._error_entry(group, member, refusal))
        self._waiting[member] = group

    def _refusal(self, group: Group, member: Member) -> Json | None:
        """Why there can be no instance now, as an error of the last attempt."""
        kind = member.template.properties["machineType"]
        if kind not in catalog.MACHINE_TYPES:
            path = self._state.path(group.zone, "machineTypes", kind)
            return {
                "code": "RESOURCE_NOT_FOUND",
                "message": f"The resource '{path}' was not found",
            }
        if (group.zone, member.name) in self._state.instances:
            path = self._state.path(group.zone, "instances", member.name)
            message = f"The resource '{path}' already exists"
            return {"code": "RESOURCE_ALREADY_EXISTS", "message": message}
        if self._full(group.zone):
            where = f"projects/{self._state.project}/zones/{group.zone}"
            return {
                "code": "ZONE_RESOURCE_POOL_EXHAUSTED",
                "message": f"The zone '{where}' does not have enough resources available to"
                " fulfill the request.  Try a different zone, or try again later.",
            }
        return None

    def _full(self, zone: str) -> bool:
        limit = self._zone_capacity.get(zone)
        if limit is not None and self._occupied.get(zone, 0) >= limit:
            return True
        return self._capacity is not None and self.running >= self._capacity

    def _occupy(self, zone: str, places: int) -> None:
        self._occupied[zone] = self._occupied.get(zone, 0) + places

    def _serve_queue(self) -> None:
        """Give free places to those who wait, first come first served."""
        if self._closing:
            return
        for member, group in list(self._waiting.items()):
            if self._capacity is not None and self.running >= self._capacity:
                return
            if not self._full(group.zone):
                self._raise(group, member)

    async def _bring_up(
        self, group: Group, member: Member, instance: Instance, booting: asyncio.Task[None]
    ) -> None:
        """Wait until the member's instance has booted; if it can't, start over."""
        try:
            # Shielded: the boot belongs to the instance, and is cancelled by its end only.
            await asyncio.shield(booting)
        except Exception as error:
            await self._start_over(group, member, instance, error)
            return
        member.failures, member.errors = 0, []
        if member.action == "VERIFYING":
            member.action = "NONE"

    async def _boot(self, member: Member, instance: Instance) -> None:
        """Provision an instance and boot it."""
        timeline = Timeline(name=instance.name, id=instance.id)
        self._keep(timeline)
        timeline.record("created")
        await asyncio.sleep(0)
        instance.status = "STAGING"
        machine = instance.machine = self._make_machine(instance, timeline.record)
        await asyncio.sleep(0)
        instance.status = "RUNNING"
        instance.started = now()
        self._state.notify()
        if member.action != "DELETING":
            member.action = "VERIFYING"
        async with asyncio.timeout(self.boot_patience):
            if self._sites is not None:
                await self._sites.open(instance)
            await machine.boot()
        timeline.record("booted")

    async def _start_over(
        self, group: Group, member: Member, instance: Instance, error: Exception
    ) -> None:
        """Tell why an instance could not be brought up, remove it, and make it anew later."""
        instance.failed = True
        member.failures += 1
        member.action = "CREATING"
        expected = isinstance(error, OSError)  # TimeoutError is one, too
        if isinstance(error, TimeoutError):
            why = f"it has not booted within {self.boot_patience:g} s"
        else:
            why = (isinstance(error, OSError) and error.strerror) or str(error) or repr(error)
        message = f"Instance '{instance.name}' could not be brought up: {why}"
        _log.error("%s", message, exc_info=None if expected else error)
        reason = {"code": "INTERNAL_ERROR", "message": message}
        member.errors = [reason]
        group.errors.append(self._error_entry(group, member, reason))
        await self._end(instance, 0)
        member.instance = None
        await asyncio.sleep(min(self.repair_seconds * 2 ** (member.failures - 1), _LONGEST_PAUSE))
        self._raise(group, member)

    def _new_instance(self, group: Group, member: Member) -> Instance:
        properties = member.template.properties
        number, zone = self._state.project_number, group.zone
        metadata = {
            item["key"]: item.get("value", "")
            for item in properties.get("metadata", {}).get("items", [])
        }
        metadata |= group.all_metadata | (member.preserved or {})
        metadata["instance-template"] = (
            f"projects/{number}/global/instanceTemplates/{member.template.name}"
        )
        metadata["created-by"] = (
            f"projects/{number}/zones/{zone}/instanceGroupManagers/{group.name}"
        )
        return Instance(
            name=member.name,
            zone=zone,
            id=new_id(),
            created=now(),
            properties=properties,
            machine_type=properties["machineType"],
            address=self._state.take_address(),
            metadata=metadata,
            labels={**properties.get("labels", {}), **group.all_labels},
            tags=tuple(properties.get("tags", {}).get("items", [])),
            account=self._state.account(properties) or self._state.default_account,
            token=f"local.{secrets.token_urlsafe(24)}",
        )

    async def _end(self, instance: Instance, grace: float, *, keep: bool = False) -> None:
        """End an instance, once; later callers wait for the same end."""
        if instance.gone:
            return
        if instance.ending is None or (instance.ending.done() and not keep):
            instance.ending = _begin(self._shut_down(instance, grace, keep=keep))
        await asyncio.shield(instance.ending)
        if not keep:
            # What was only stopped, by a preemption, is removed now.
            await self._end(instance, grace)

    async def _shut_down(self, instance: Instance, grace: float, *, keep: bool) -> None:
        if instance.status != "TERMINATED":
            instance.status = "STOPPING"
            self._state.notify()
            await self._switch_off(instance, grace)
            self._occupy(instance.zone, -1)
        if keep:
            instance.status = "TERMINATED"
        else:
            self._remove(instance)
        self._state.notify()
        self._after_end(instance)
        self._serve_queue()

    async def _switch_off(self, instance: Instance, grace: float) -> None:
        if instance.booting is not None and not instance.booting.done():
            instance.booting.cancel()
            await asyncio.gather(instance.booting, return_exceptions=True)
        try:
            async with asyncio.timeout(grace + _SHUTDOWN_SECONDS):
                if instance.machine is not None:
                    await instance.machine.shutdown(grace)
                touch(instance)
                if self._sites is not None:
                    await self._sites.close(instance)
                if self._folder is not None and (disk := self._folder / instance.name).exists():
                    await asyncio.to_thread(shutil.rmtree, disk, ignore_errors=True)
        except Exception:
            _log.exception("%s did not shut down", instance.name)

    def _remove(self, instance: Instance) -> None:
        instance.gone = True
        self._state.remove_instance(instance)
        if (timeline := self.timelines.get(instance.id)) is not None:
            timeline.record("gone")

    def _after_end(self, instance: Instance) -> None:
        """Let the group see that an instance of its has gone."""
        found = self._state.group_of(instance)
        if found is None or self._closing or instance.failed:
            return
        group, member = found
        if member.action in ("DELETING", "RECREATING"):
            return
        if group.repair:
            member.action = "RECREATING"
            member.task = _begin(self._repair(group, member, instance))
            return
        member.action = "NONE"
        if instance.status != "TERMINATED":
            member.instance = None

    async def _repair(self, group: Group, member: Member, old: Instance) -> None:
        await asyncio.sleep(self.repair_seconds)
        if old.status == "TERMINATED":
            self._remove(old)
        member.instance = None
        member.errors = []
        self._raise(group, member)

    async def _delete_member(
        self, group: Group, member: Member, before: asyncio.Task[None] | None, grace: float
    ) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        if member.instance is not None:
            await self._end(member.instance, grace)
        group.members.pop(member.name, None)
        self._serve_queue()
        self._finish_group(group)

    def _finish_group(self, group: Group) -> None:
        if not group.deleting or group.members:
            return
        if self._state.groups.get((group.zone, group.name)) is group:
            del self._state.groups[group.zone, group.name]
        group.gone.set()

    def _fresh_names(self, group: Group, count: int) -> list[str]:
        taken = set(group.members)
        names: list[str] = []
        while len(names) < count:
            tail = "".join(secrets.choice(_LETTERS) for _ in range(4))
            name = f"{group.base_instance_name}-{tail}"
            if name not in taken and (group.zone, name) not in self._state.instances:
                taken.add(name)
                names.append(name)
        return names

    def _error_entry(self, group: Group, member: Member, error: Json) -> Json:
        return {
            "error": error,
            "timestamp": now(),
            "instanceActionDetails": {
                "instance": self._state.link(group.zone, "instances", member.name),
                "action": member.action,
                "version": {"instanceTemplate": template_link(self._state, member.template)},
            },
        }

    def _keep(self, timeline: Timeline) -> None:
        self.timelines[timeline.id] = timeline
        if len(self.timelines) > 10_000:
            del self.timelines[next(iter(self.timelines))]


def template_link(state: State, template: Template) -> str:
    """The URL of a template."""
    return state.link(None, "instanceTemplates", template.name)


def _begin(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """A task that nobody has to await for its failure to be seen."""
    task = asyncio.create_task(work)
    task.add_done_callback(_tell_failure)
    return task


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("something failed that should not", exc_info=error)


def touch(instance: Instance) -> None:
    """Wake those who wait for a change of the instance's metadata."""
    instance.changed.set()
    instance.changed = asyncio.Event()
