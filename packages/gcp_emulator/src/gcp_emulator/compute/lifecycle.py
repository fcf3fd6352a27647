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
from collections.abc import Iterable, Mapping
from pathlib import Path

from gcp_emulator.compute import catalog
from gcp_emulator.compute.operations import Operations
from gcp_emulator.compute.power import MakeMachine, Power, Sites, Timeline, begin, touch
from gcp_emulator.compute.state import Group, Instance, Member, State, Template, new_id, now
from gcp_emulator.replies import Json

_log = logging.getLogger(__name__)

_LETTERS = "0123456789bcdfghjklmnpqrstvwxz"
_LONGEST_PAUSE = 30.0


class Lifecycle:
    """Moves instances and members.

    Args:
        state: What exists.
        operations: Where preemptions and repairs are reported.
        make_machine: Makes the computer behind an instance.
        sites: Opens metadata servers; None where no guest asks for one.
        folder: Instances' disks: one folder each, removed with it; None for no disks.
        capacity: How many instances of groups can run at once in the cloud; None for no limit.
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
        self.power = Power(
            state,
            make_machine=make_machine,
            sites=sites,
            folder=folder,
            capacity=capacity,
            boot_patience=boot_patience,
            ended=self._after_end,
        )
        self._waiting: dict[Member, Group] = {}
        self._closing = False
        self.grace_seconds = grace_seconds
        self.repair_seconds = repair_seconds

    @property
    def capacity(self) -> int | None:
        """How many instances of groups can run at once; None for no limit."""
        return self.power.capacity

    @property
    def zone_capacity(self) -> dict[str, int]:
        """The zones with a limit of their own."""
        return dict(self.power.zone_capacity)

    @property
    def running(self) -> int:
        """How many places are taken."""
        return self.power.running

    @property
    def timelines(self) -> dict[str, Timeline]:
        """When what happened to instances, by their ids."""
        return self.power.timelines

    @property
    def boot_patience(self) -> float:
        """How long a machine may boot, in seconds."""
        return self.power.boot_patience

    @boot_patience.setter
    def boot_patience(self, seconds: float) -> None:
        self.power.boot_patience = seconds

    def set_capacity(self, capacity: int | None, *, zone: str | None = None) -> None:
        """Change how many instances can run at once, in the cloud or in one zone."""
        if zone is None:
            self.power.capacity = capacity
        elif capacity is None:
            self.power.zone_capacity.pop(zone, None)
        else:
            self.power.zone_capacity[zone] = capacity
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
                begin(self._delete_member(group, member, member.task, grace)),
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
        await self.power.end(instance, self.grace_seconds if grace is None else grace)

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
        await self.power.end(instance, grace, keep=True)

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
        ends = [self.power.end(instance, grace) for instance in instances]
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
            booting = self.power.start(instance, running=lambda: _verify(member))
            member.task = begin(self._bring_up(group, member, instance, booting))
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
        full = self.power.refusal(group.zone)
        return {"code": full.reason, "message": full.message} if full else None

    def _serve_queue(self) -> None:
        """Give free places to those who wait, first come first served."""
        if self._closing:
            return
        for member, group in list(self._waiting.items()):
            if self.capacity is not None and self.running >= self.capacity:
                return
            if self.power.refusal(group.zone) is None:
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
        await self.power.end(instance, 0)
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

    def _after_end(self, instance: Instance) -> None:
        """Let the group see that an instance of its has gone, and others have its place."""
        self._tell_group(instance)
        self._serve_queue()

    def _tell_group(self, instance: Instance) -> None:
        found = self._state.group_of(instance)
        if found is None or self._closing or instance.failed:
            return
        group, member = found
        if member.action in ("DELETING", "RECREATING"):
            return
        if group.repair:
            member.action = "RECREATING"
            member.task = begin(self._repair(group, member, instance))
            return
        member.action = "NONE"
        if instance.status != "TERMINATED":
            member.instance = None

    async def _repair(self, group: Group, member: Member, old: Instance) -> None:
        await asyncio.sleep(self.repair_seconds)
        if old.status == "TERMINATED":
            self.power.remove(old)
        member.instance = None
        member.errors = []
        self._raise(group, member)

    async def _delete_member(
        self, group: Group, member: Member, before: asyncio.Task[None] | None, grace: float
    ) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        if member.instance is not None:
            await self.power.end(member.instance, grace)
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


def template_link(state: State, template: Template) -> str:
    """The URL of a template."""
    return state.link(None, "instanceTemplates", template.name)


def _verify(member: Member) -> None:
    if member.action != "DELETING":
        member.action = "VERIFYING"
