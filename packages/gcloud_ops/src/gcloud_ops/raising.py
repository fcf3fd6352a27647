"""How a sweep's instances come to be, however often that is begun: look, and make what is missing.

    template    derived from the manifest's, where the sweep needs Spot, a limit, another machine
    group       made if there is none; waited for, while an old one is being deleted
    members     created by name; waited for, while one of that name is leaving

It holds nothing in its hands: killed at any moment, or run on two laptops at once, the next call
sees what there is and goes on. A request whose answer got lost is looked at, not sent blindly.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gcloud_ops import groups, ssh, templates
from gcloud_ops.bucket import list_records
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Manifest
from gcloud_ops.errors import (
    AlreadyExists,
    GcloudOpsError,
    InvalidRequest,
    NotFound,
    NotReady,
    OperationFailed,
    Unavailable,
)
from gcloud_ops.instances import SWEEP_LABEL
from gcloud_ops.model import Location, Member
from gcloud_ops.text import one_line

__all__ = [
    "BUCKET_KEY",
    "FOR_CLOUD",
    "FOR_REMOVAL",
    "PATIENCE",
    "GroupMade",
    "InstancesRequested",
    "Waiting",
    "derived_template",
    "raise_members",
]

BUCKET_KEY: Final = "sinergym-bucket"
"""Metadata key with the bucket's name."""

PATIENCE: Final = 1800.0
"""Seconds for which a launch waits without anything moving, before it gives up waiting."""

FOR_REMOVAL: Final = "its old instance to be gone"
FOR_CLOUD: Final = "the cloud to answer"
"""What an experiment may wait for before its instance can be asked for."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.3, 4.0  # seconds between two looks
_SETTLED: Final = 1.5  # seconds after which the last runner has removed a group, or does not
_GRACE: Final = 20.0  # seconds in which an instance that has done its work removes itself
_REFUSALS: Final = 4  # in a row, though each look shows that the request should be right


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMade:
    """The manifest is written and the group is there, without instances yet."""

    group: str
    zone: str
    """Or the region, of a regional one."""
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesRequested:
    """Compute Engine has accepted to create so many instances."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What experiments wait for; told when it changes."""

    reasons: Mapping[str, int]
    """What for -> how many: `FOR_REMOVAL`..., or Compute Engine's code for why it can't create."""


def derived_template(clients: Clients, manifest: Manifest) -> str:
    """The template of the sweep's group: the manifest's, or one that is derived from it.

    Raises:
        NotFound: The manifest's template isn't there (any more).
    """
    types, image = manifest.machine.types, manifest.image
    return templates.derive(
        clients,
        manifest.template,
        spot=manifest.machine.spot,
        seconds=manifest.seconds,
        machine_type=types[0] if len(types) == 1 else None,
        image=image.fixed if image is not None and image.pinned else None,
    )


def raise_members(
    clients: Clients,
    manifest: Manifest,
    wanted: Collection[str],
    *,
    bucket: str,
    leaving: Mapping[str, str] | None = None,
    is_new: bool = False,
    patience: float = PATIENCE,
) -> Iterator[GroupMade | InstancesRequested | Waiting]:
    """See to it that the sweep's group has a member for each of these experiments.

    Ends when Compute Engine has accepted all of them: it creates them then, for as long as it
    takes. Members that are there are left alone.

    Args:
        clients: The cloud.
        manifest: The sweep's.
        wanted: Ids of experiments.
        bucket: Where the sweep is.
        leaving: Of experiments whose earlier attempt has ended: the id of its instance. That one
            removes itself, or else is removed; the experiment gets a new one.
        is_new: Whether there can't be a group yet: then it is made without a look.
        patience: Seconds without any movement.

    Raises:
        AlreadyExists: There is a group of the sweep's name that is none of this sweep.
        Unavailable: Nothing has moved for its patience; the message says what was waited for.
        GcloudOpsError: The group or its instances can't be made. What there is stays.
    """
    raising = _Raising(
        clients, manifest, wanted, bucket=bucket, leaving=leaving or {}, patience=patience
    )
    yield from raising.run(is_new=is_new)


class _Raising:
    """One call of `raise_members`: what was seen last, and since when nothing moves."""

    def __init__(
        self,
        clients: Clients,
        manifest: Manifest,
        wanted: Collection[str],
        *,
        bucket: str,
        leaving: Mapping[str, str],
        patience: float,
    ) -> None:
        self._clients = clients
        self._manifest = manifest
        self._wanted = wanted
        self._bucket = bucket
        self._leaving = leaving
        self._patience = patience
        self._where = Location.of(manifest)
        self._begun = self._moved = time.monotonic()
        self._seen: object = None
        self._refusals = 0
        self._pause = _FIRST_PAUSE
        self._is_checked = self._is_made = self._is_told = False

    def run(self, *, is_new: bool) -> Iterator[GroupMade | InstancesRequested | Waiting]:
        told: Mapping[str, int] = {}
        while True:
            trouble: GcloudOpsError | None = None
            missing: list[str] = []
            try:
                members = None if is_new else self._members()
                is_new = False
                if members is None:
                    yield self._make_group()
                    members = {}
                missing = [name for name in self._wanted if name not in members]
                if missing:
                    self._create(missing)
                    yield InstancesRequested(count=len(missing))
                    self._moved = time.monotonic()
                going = self._going(members)
                if not going and (self._is_made or not missing):
                    return
                # Looked at once more: the last runner may have been removing the group just now.
                self._pause = max(self._pause, _SETTLED)
                reasons = {FOR_REMOVAL: len(going)} if going else {}
            except _AnothersDoing as error:
                trouble, reasons = error.cause, {FOR_REMOVAL: len(self._wanted)}
            except Unavailable as error:
                trouble, reasons = error, {FOR_CLOUD: len(self._wanted)}
            if reasons and reasons != told:
                told = reasons
                yield Waiting(reasons=reasons)
            self._wait(reasons, trouble)

    def _members(self) -> dict[str, Member] | None:
        sweep = self._manifest.sweep
        listing = groups.list_members(self._clients, sweep, where=self._where)
        if listing is None:
            if self._is_made or (self._is_checked and not self._is_still_wanted()):
                raise OperationFailed(
                    f"sweep {sweep}: its instance group was removed while it was being launched",
                    resource=f"sweep {sweep}",
                    hint="somebody has cancelled it",
                )
            return None
        if not self._is_checked and not self._is_made:
            self._check_that_it_is_ours()
        seen = {(one.name, one.action, one.id) for one in listing if one.name in self._wanted}
        if seen != self._seen:
            self._seen, self._moved, self._refusals = seen, time.monotonic(), 0
        return {member.name: member for member in listing}

    def _is_still_wanted(self) -> bool:
        """Whether an experiment of those is not at its end: else it was a cancel that we saw."""
        records = list_records(self._clients, self._bucket, self._manifest.sweep)
        ended = {name for name, record in records.items() if record.is_final}
        return not ended.issuperset(self._wanted)

    def _check_that_it_is_ours(self) -> None:
        sweep = self._manifest.sweep
        found = groups.instances_metadata(self._clients, sweep, where=self._where)
        if found is None:
            return
        if (found.get(SWEEP_LABEL), found.get(BUCKET_KEY)) != (sweep, self._bucket):
            raise AlreadyExists(
                f"group {sweep}: there is an instance group of this name in {self._where} that is "
                f"none of the sweep in gs://{self._bucket}",
                resource=f"group {sweep}",
                hint="remove it, or launch the sweep under another name",
            )
        self._is_checked = True

    def _make_group(self) -> GroupMade:
        sweep, clients = self._manifest.sweep, self._clients
        template = derived_template(clients, self._manifest)
        types = self._manifest.machine.types
        try:
            groups.create_group(
                clients,
                sweep,
                template,
                where=self._where,
                metadata={
                    SWEEP_LABEL: sweep,
                    BUCKET_KEY: self._bucket,
                    "ssh-keys": ssh.public_key_line(clients.settings),
                },
                labels={SWEEP_LABEL: sweep},
                machine_types=types if len(types) > 1 else (),
            )
        except (AlreadyExists, NotReady) as error:
            raise self._refused(error) from error
        except NotFound as error:
            if template == self._manifest.template:
                raise
            raise self._refused(error) from error  # another laptop is making it at this moment
        self._is_made = True
        return GroupMade(group=sweep, zone=str(self._where), template=template)

    def _create(self, names: Collection[str]) -> None:
        try:
            groups.create_instances(self._clients, self._manifest.sweep, names, where=self._where)
        except (AlreadyExists, InvalidRequest, NotFound, NotReady) as error:
            # Members since we looked; or the group goes, or is gone.
            raise self._refused(error) from error

    def _refused(self, error: GcloudOpsError) -> GcloudOpsError:
        """What to raise: that it is another's doing, until looking again does not help."""
        self._refusals += not isinstance(error, NotReady)
        return error if self._refusals > _REFUSALS else _AnothersDoing(error)

    def _going(self, members: Mapping[str, Member]) -> list[str]:
        """Those whose earlier instance is still there; who stays too long is removed."""
        old = [
            name
            for name in self._wanted
            if name in members and members[name].id and members[name].id == self._leaving.get(name)
        ]
        going = [
            name
            for name in self._wanted
            if name in members and members[name].action in {"DELETING", "ABANDONING"}
        ]
        staying = sorted(set(old) - set(going))
        if staying and not self._is_told and time.monotonic() - self._begun > _GRACE:
            groups.delete_instances(
                self._clients, self._manifest.sweep, staying, where=self._where
            )
            self._is_told = True
        return going + staying

    def _wait(self, reasons: Mapping[str, int], trouble: GcloudOpsError | None) -> None:
        still = time.monotonic() - self._moved
        if still > self._patience:
            sweep = self._manifest.sweep
            why = f": {one_line(trouble.message)}" if trouble else ""
            for_what = next(iter(reasons), "the group to keep its instances")
            raise Unavailable(
                f"sweep {sweep}: waited {still:.0f} s in vain for {for_what}{why}",
                resource=f"sweep {sweep}",
                hint=f"what there is stays; `gcloud-ops sweep resume {sweep}` goes on",
            ) from trouble
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)


class _AnothersDoing(GcloudOpsError):
    """A request was refused, as it is when somebody else has just done, or undone, the same."""

    def __init__(self, cause: GcloudOpsError) -> None:
        super().__init__(cause.message, resource=cause.resource, hint=cause.hint)
        self.cause = cause
