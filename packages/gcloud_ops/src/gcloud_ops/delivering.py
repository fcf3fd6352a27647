"""Commands over SSH: each experiment gets its own as its instance comes up, or a reason why not.

This is for sweeps of `dispatch: ssh`; at boot, runners read their commands in the manifest.
"""

import queue
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from gcloud_ops import groups, instances
from gcloud_ops.bucket import end_record, list_records
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Experiment, Manifest
from gcloud_ops.dispatch import (
    AT_ONCE,
    CommandSent,
    Dispatcher,
    DispatchFailed,
    raise_open_files_limit,
)
from gcloud_ops.errors import GcloudOpsError, NotReady, Unavailable
from gcloud_ops.finishing import Announcer
from gcloud_ops.model import Instance, Location, Member
from gcloud_ops.raising import FOR_CLOUD, PATIENCE, Waiting
from gcloud_ops.text import one_line

__all__ = [
    "FOR_CONTAINER",
    "FOR_GROUP",
    "FOR_INSTANCE",
    "DeliveryEvent",
    "GroupGone",
    "InstanceUp",
    "Launched",
    "Stalled",
    "deliver",
]

FOR_GROUP = "the group to take it up"
FOR_INSTANCE = "its instance to run"
FOR_CONTAINER = "its container to be ready"
"""What an experiment may wait for, besides what Compute Engine gives a code."""

_TICK = 1.0  # seconds between two looks at the group


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceUp:
    """An instance runs; its container is on the way."""

    experiment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """Nothing has moved or trained for the launch's patience: it stops waiting.

    The sweep stays as it is.
    """

    experiments: tuple[str, ...]
    reasons: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGone:
    """The instance group went away meanwhile: somebody has cancelled the sweep."""

    experiments: tuple[str, ...]
    """Those that had no command yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The launch is over: the last event."""

    sent: int
    """Experiments that have their commands, or whose instances read them at boot."""
    failed: int
    waiting: int
    at_boot: bool = False
    """Whether the instances read them: nothing is left to do for a launcher."""

    @property
    def is_complete(self) -> bool:
        """Whether every experiment has its command."""
        return not self.failed and not self.waiting


type DeliveryEvent = (
    InstanceUp | Waiting | CommandSent | DispatchFailed | Stalled | GroupGone | Launched
)


def deliver(
    clients: Clients,
    manifest: Manifest,
    experiments: Collection[Experiment],
    *,
    bucket: str,
    patience: float = PATIENCE,
    at_once: int = AT_ONCE,
) -> Iterator[DeliveryEvent]:
    """Give each experiment its command as its instance comes up; ends with `Launched`.

    It goes on for as long as something moves. An instance that Compute Engine can't create now
    (a stock-out) is waited for; so is a container that is slow to start. As long as experiments
    that have their commands hold their instances, there is hope: their end frees places. After
    `patience` seconds in which nothing moved and nobody trained it gives up waiting, with the
    reason; the sweep stays as it is. An instance that can't be given its command is removed, and
    its experiment has failed. A command that was sent before is sent again without harm.

    Args:
        clients: The cloud.
        manifest: The sweep's.
        experiments: Those that need their commands; their members are there, or asked for.
        bucket: Where the sweep is.
        patience: Seconds without any movement or training, and seconds that a running instance
            has to take its command.
        at_once: SSH handshakes and commands under way at once, at most.
    """
    announcer = Announcer(clients, bucket, manifest)
    delivery = _Delivery(clients, manifest, experiments, bucket=bucket)
    try:
        yield from delivery.run(announcer, patience=patience, at_once=at_once)
        announcer.close()
    finally:
        announcer.close(wait=False)


class _Delivery:
    """One call of `deliver`: who waits, who is being sent to, who has its command."""

    def __init__(
        self,
        clients: Clients,
        manifest: Manifest,
        experiments: Collection[Experiment],
        *,
        bucket: str,
    ) -> None:
        self._clients = clients
        self._manifest = manifest
        self._bucket = bucket
        self._where = Location.of(manifest)
        self._experiments = {experiment.id: experiment for experiment in experiments}
        self._waiting = dict.fromkeys(self._experiments)
        self._under_way: set[str] = set()
        self._sent: set[str] = set()

    def run(
        self, announcer: Announcer, *, patience: float, at_once: int
    ) -> Iterator[DeliveryEvent]:
        raise_open_files_limit(len(self._waiting) + 256)
        failed = 0
        told: Mapping[str, int] = {}
        last_movement = time.monotonic()
        with Dispatcher(self._clients, patience=patience, at_once=at_once) as dispatcher:
            members: dict[str, Member] = {}
            while self._waiting:
                try:
                    listing = self._members()
                    members = listing or {}
                    fresh = self._fresh(members)
                    answered = True
                except Unavailable:
                    # The laptop may be off the net for a while; what is under way goes on.
                    listing, fresh, answered = {}, [], False
                if listing is None:
                    yield GroupGone(experiments=tuple(self._waiting))
                    break
                for instance in fresh:
                    command = self._experiments[instance.name].command
                    dispatcher.send(instance.name, command, instance=instance)
                    self._under_way.add(instance.name)
                    last_movement = time.monotonic()
                    yield InstanceUp(experiment=instance.name)
                failures: list[DispatchFailed] = []
                for result in _results(dispatcher, within=_TICK):
                    self._waiting.pop(result.experiment)
                    last_movement = time.monotonic()
                    if isinstance(result, DispatchFailed):
                        failures.append(result)
                        continue
                    self._sent.add(result.experiment)
                    yield result
                announcer.announce(self._give_up(failures))
                failed += len(failures)
                yield from failures
                if not self._sent.isdisjoint(members):
                    last_movement = time.monotonic()
                left = tuple(self._waiting)
                reasons = self._reasons(members) if answered else {FOR_CLOUD: len(left)}
                if left and reasons != told:
                    told = reasons
                    yield Waiting(reasons=reasons)
                stalled_for = time.monotonic() - last_movement
                if left and stalled_for > patience:
                    yield Stalled(experiments=left, reasons=reasons, seconds=stalled_for)
                    break
        yield Launched(sent=len(self._sent), failed=failed, waiting=len(self._waiting))

    def _members(self) -> dict[str, Member] | None:
        found = groups.list_members(self._clients, self._manifest.sweep, where=self._where)
        return None if found is None else {member.name: member for member in found}

    def _fresh(self, members: Mapping[str, Member]) -> list[Instance]:
        """Instances that are up by now, and can be reached."""
        names = {
            name
            for name in self._waiting
            if name not in self._under_way and name in members and members[name].is_up
        }
        if not names:
            return []
        found = instances.list_instances(
            self._clients, group=self._manifest.sweep, zone=self._where.zone or None
        )
        return [instance for instance in found if instance.name in names and instance.address]

    def _reasons(self, members: Mapping[str, Member]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name in self._waiting:
            member = members.get(name)
            if name in self._under_way:
                reason = FOR_CONTAINER
            elif member is None:
                reason = FOR_GROUP
            else:
                reason = member.error_code or FOR_INSTANCE
            counts[reason] = counts.get(reason, 0) + 1
        return counts

    def _give_up(self, failures: list[DispatchFailed]) -> tuple[str, ...]:
        """Remove instances that can't be given their commands: they would idle, and cost.

        The record goes first, and only over one that waits: whoever has begun to run is left
        alone. What became of the instance is added to the failure's error.

        Returns:
            Those whose final record we have written: their end is ours to signal.
        """
        given_up = [failure for failure in failures if not failure.has_another_command]
        if not given_up:
            return ()
        names: list[str] = []
        clients, sweep = self._clients, self._manifest.sweep
        try:
            records = list_records(clients, self._bucket, sweep)
            ended = [
                failure
                for failure in given_up
                if end_record(
                    clients,
                    self._bucket,
                    sweep,
                    self._experiments[failure.experiment],
                    records.get(failure.experiment),
                    state="failed",
                    kind="dispatch",
                    hint="the launcher could not hand over the command: "
                    + one_line(failure.error.message),
                    only_waiting=True,
                )
            ]
            names = [failure.experiment for failure in ended]
            if names:
                groups.delete_instances(clients, sweep, names, where=self._where)
                groups.delete_if_empty(clients, sweep, where=self._where)
            outcomes = dict.fromkeys(names, "its instance is removed")
        except NotReady:  # the group is being deleted, with all of them
            outcomes = {}
        except GcloudOpsError as error:
            problem = f"its instance could not be removed: {one_line(error.message)}"
            outcomes = dict.fromkeys((failure.experiment for failure in given_up), problem)
        for failure in given_up:
            if outcome := outcomes.get(failure.experiment):
                hint = failure.error.hint
                failure.error.hint = f"{hint}; {outcome}" if hint else outcome
        return tuple(names)


def _results(dispatcher: Dispatcher, *, within: float) -> Iterator[CommandSent | DispatchFailed]:
    """What the dispatcher has to tell within so many seconds."""
    end = time.monotonic() + within
    while (left := end - time.monotonic()) > 0:
        try:
            yield dispatcher.results.get(timeout=left)
        except queue.Empty:
            return
