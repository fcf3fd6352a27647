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
from gcp_emulator.compute.capacity import Capacity, Stock, need_of
from gcp_emulator.compute.making import member_instance
from gcp_emulator.compute.mishaps import Mishaps
from gcp_emulator.compute.nouns import GLOBAL, Group, Instance, Member, Template, disks_of
from gcp_emulator.compute.operations import Operations
from gcp_emulator.compute.placement import choices
from gcp_emulator.compute.power import MakeMachine, Power, Sites, Timeline, begin
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import now
from gcp_emulator.replies import Json

_log = logging.getLogger(__name__)

_LETTERS = "0123456789bcdfghjklmnpqrstvwxz"
_LONGEST_PAUSE = 30.0
_OF_ONE = ("RESOURCE_ALREADY_EXISTS",)  # what says nothing of other members


class _InVain(dict[tuple[object, ...], list[Json]]):
    """Why wishes can't be met now: who wants what another did not get does not get it either."""


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

    Attributes:
        capacity: What there is room for; tell `serve` when it has changed.
        mishaps: What befalls instances.
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
        self.capacity = Capacity(state, capacity)
        self.power = Power(
            state,
            self.capacity,
            make_machine=make_machine,
            sites=sites,
            folder=folder,
            boot_patience=boot_patience,
            running=self._begin_run,
            ended=self._after_end,
        )
        self.mishaps = Mishaps(
            state, operations, self.power, grace=self._grace, remove_member=self._remove
        )
        self._waiting: dict[Member, Group] = {}
        self._closing = False
        self.grace_seconds = grace_seconds
        self.repair_seconds = repair_seconds

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

    @property
    def running(self) -> int:
        """How many places of groups' instances are taken."""
        return self.capacity.running

    def set_capacity(
        self,
        capacity: int | None,
        *,
        zone: str | None = None,
        machine_type: str | None = None,
        spot: bool | None = None,
    ) -> None:
        """Change how many instances can run at once: of groups in the cloud, or such as are named.

        None for no limit.
        """
        stock = Stock(zone, machine_type, spot)
        if stock == Stock():
            self.capacity.limit = capacity
        elif capacity is None:
            self.capacity.stock.pop(stock, None)
        else:
            self.capacity.stock[stock] = capacity
        self.serve()

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
        members, in_vain = [], _InVain()
        for name in names:
            member = Member(
                name=name,
                template=group.template,
                zone=group.zones[0],
                preserved=preserved.get(name),
            )
            group.members[name] = member
            self._raise(group, member, in_vain)
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

    def _begin_run(self, instance: Instance) -> None:
        self.mishaps.limit_run(instance)

    def _grace(self) -> float:
        return self.grace_seconds

    def _remove(self, group: Group, member: Member) -> None:
        """Let a member go for good, with its place in the group."""
        if member.action != "DELETING":
            group.target_size -= 1
            self.shrink(group, [member], grace=self.grace_seconds)

    def delete_group(self, group: Group) -> None:
        """Delete all members, then the group; `Group.gone` tells when."""
        group.deleting = True
        group.target_size = 0
        self.shrink(group, list(group.members.values()), grace=self.grace_seconds)
        self._finish_group(group)

    async def delete_instance(self, instance: Instance, *, grace: float | None = None) -> None:
        """Delete an instance; if it is a member's, the group makes it anew."""
        await self.power.end(instance, self.grace_seconds if grace is None else grace)

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

    def serve(self) -> None:
        """Give free places to those who wait, first come first served."""
        if self._closing:
            return
        in_vain = _InVain()
        for member, group in list(self._waiting.items()):
            self._raise(group, member, in_vain)

    def _raise(self, group: Group, member: Member, in_vain: _InVain) -> None:
        """Begin to make the member's instance, or put it in the queue."""
        wish = (group, member.template, member.placed and member.zone)
        errors = in_vain.get(wish)
        if errors is None:
            errors = []
            for zone, kind in choices(group, member):
                refusal = self._refusal(member, zone, kind)
                if refusal is None:
                    self._start(group, member, zone, kind)
                    return
                # One of each kind: a thousand members wait, and each tells all of its errors.
                if all(refusal["code"] != error["code"] for error in errors):
                    errors.append(refusal)
            if group.shape == "EVEN":
                group.settle(member, zone)
            elif all(error["code"] not in _OF_ONE for error in errors):
                in_vain[wish] = errors
        if errors != member.errors:
            member.errors = errors
            group.errors.extend(self._error_entry(member, error) for error in errors)
        self._waiting[member] = group

    def _start(self, group: Group, member: Member, zone: str, kind: str) -> None:
        self._waiting.pop(member, None)
        if not member.failures:
            member.errors = []
        group.settle(member, zone)
        member.machine_type = kind
        instance = member.instance = member_instance(self._state, group, member)
        booting = self.power.start(instance, running=lambda: _verify(member))
        member.task = begin(self._bring_up(group, member, instance, booting))

    def _refusal(self, member: Member, zone: str, kind: str) -> Json | None:
        """Why there can be no such instance now, as an error of the last attempt."""
        place, properties = f"zones/{zone}", member.template.properties
        if kind not in catalog.MACHINE_TYPES:
            path = self._state.path(place, "machineTypes", kind)
            return {
                "code": "RESOURCE_NOT_FOUND",
                "message": f"The resource '{path}' was not found",
            }
        disks = [f"{member.name}{suffix}" for suffix, _, _ in disks_of(properties)]
        there = (
            [("instances", member.name)] if (zone, member.name) in self._state.instances else []
        )
        there += [("disks", name) for name in disks if (zone, name) in self._state.disks]
        if there:
            message = f"The resource '{self._state.path(place, *there[0])}' already exists"
            return {"code": "RESOURCE_ALREADY_EXISTS", "message": message}
        full = self.capacity.refusal(need_of(properties, zone=zone, machine_type=kind))
        if full is None:
            return None
        details = {"errorDetails": list(full.details)} if full.details else {}
        return {"code": full.reason, "message": full.message, **details}

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
        group.errors.append(self._error_entry(member, reason))
        await self.power.end(instance, 0)
        member.instance = None
        await asyncio.sleep(min(self.repair_seconds * 2 ** (member.failures - 1), _LONGEST_PAUSE))
        self._raise(group, member, _InVain())

    def _after_end(self, instance: Instance) -> None:
        """Let the group see that an instance of its has gone, and others have its place."""
        self._tell_group(instance)
        self.serve()

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
        self._raise(group, member, _InVain())

    async def _delete_member(
        self, group: Group, member: Member, before: asyncio.Task[None] | None, grace: float
    ) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        if member.instance is not None:
            await self.power.end(member.instance, grace)
        group.forget(member)
        self.serve()
        self._finish_group(group)

    def _finish_group(self, group: Group) -> None:
        if not group.deleting or group.members:
            return
        if self._state.groups.get((group.where, group.name)) is group:
            del self._state.groups[group.where, group.name]
        group.gone.set()

    def _fresh_names(self, group: Group, count: int) -> list[str]:
        there = self._state.instances
        taken = {*group.members, *(name for zone, name in there if zone in group.zones)}
        names: list[str] = []
        while len(names) < count:
            tail = "".join(secrets.choice(_LETTERS) for _ in range(4))
            name = f"{group.base_instance_name}-{tail}"
            if name not in taken:
                taken.add(name)
                names.append(name)
        return names

    def _error_entry(self, member: Member, error: Json) -> Json:
        return {
            "error": {key: error[key] for key in ("code", "message")},
            "timestamp": now(),
            "instanceActionDetails": {
                "instance": self._state.link(f"zones/{member.zone}", "instances", member.name),
                "action": member.action,
                "version": {"instanceTemplate": template_link(self._state, member.template)},
            },
        }


def template_link(state: State, template: Template) -> str:
    """The URL of a template."""
    return state.link(GLOBAL, "instanceTemplates", template.name)


def _verify(member: Member) -> None:
    if member.action != "DELETING":
        member.action = "VERIFYING"
