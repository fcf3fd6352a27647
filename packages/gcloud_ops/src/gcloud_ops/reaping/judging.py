"""What of all there is should not be there; pure."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from gcloud_ops.contract import Record
from gcloud_ops.instances import SWEEP_LABEL
from gcloud_ops.model import Instance, Location, region_of
from gcloud_ops.prices import PRICES, Prices
from gcloud_ops.reaping.nouns import Kind, KnownGroup, Orphan, Seen, SeenSweep
from gcloud_ops.signals import duration
from gcloud_ops.tracking import ADDRESS

__all__ = ["QUIET", "SETTLED", "UNUSED", "judge"]

SETTLED: Final = timedelta(minutes=10)
"""An instance that is still there so long after its experiment's end doesn't remove itself."""
QUIET: Final = timedelta(minutes=35)
"""Longer than a launch waits for anything: an empty group is nobody's then."""
UNUSED: Final = timedelta(hours=1)
"""What is made before what uses it gets so much time."""

_MADE_BY_INFRA: Final = "mlflow-infra"
_DAY: Final = 24.0


def judge(seen: Seen, *, now: datetime, prices: Prices = PRICES) -> tuple[Orphan, ...]:
    """What of it is ours and should not be there, in the order in which it can be removed."""
    found_groups = {
        (group.name, str(group.where)): why
        for group in seen.groups
        if group.is_ours and (why := _why_group(group, seen.sweeps.get(group.sweep), now))
    }
    orphans = [
        *_instances(seen, found_groups, now, prices),
        *(
            Orphan(
                kind=Kind.GROUP,
                name=group.name,
                where=str(group.where),
                why=found_groups[group.name, str(group.where)],
                daily=_sum(
                    _daily(one, group, seen, prices) for one in seen.instances if group.holds(one)
                ),
                sweep=group.name,
            )
            for group in seen.groups
            if (group.name, str(group.where)) in found_groups
        ),
        *_templates(seen, found_groups, now),
        *_unused_disks(seen, now, prices),
        *_unused_addresses(seen, now, prices),
    ]
    order = list(Kind)
    return tuple(sorted(orphans, key=lambda one: (order.index(one.kind), one.name, one.where)))


def _why_group(group: KnownGroup, sweep: SeenSweep | None, now: datetime) -> str:
    """Why a group of ours should not be there; "" if it should, or that can't be told."""
    if sweep is None or group.is_kept or not _older(group.created, now):
        return ""
    manifest = sweep.manifest
    if manifest is None:
        return f"its sweep isn't in gs://{group.bucket} any more"
    place = Location.of(manifest)
    if str(place) != str(group.where):
        return f"its sweep is one in {place} now"
    records = [sweep.records.get(one.id) for one in manifest.experiments]
    last = max((_said(one) for one in records if one is not None), default=manifest.created)
    if all(one is not None and one.is_final for one in records):
        over = f"all {len(records)} experiments" if len(records) > 1 else "its experiment"
        ended = f"{over} ended {duration(last, now)} ago"
        return ended if now - last > SETTLED else ""
    if not group.target_size and all(
        _older(one, now, QUIET) for one in (group.created, manifest.created, last)
    ):
        return "it is empty, and nobody is launching into it"
    return ""


def _instances(
    seen: Seen, gone: Mapping[tuple[str, str], str], now: datetime, prices: Prices
) -> Iterator[Orphan]:
    """Instances by themselves: those of groups that go too, go with them."""
    for one in seen.instances:
        sweep = one.labels.get(SWEEP_LABEL, "")
        is_ours = sweep and one.name.startswith(f"{sweep}-")
        if not is_ours or one.status == "STOPPING" or not _older(one.created, now):
            continue
        group = next((group for group in seen.groups if group.holds(one)), None)
        if group is not None and (group.name, str(group.where)) in gone:
            continue
        why = "no group manages it"
        if group is not None:
            why = _why_member(one, group, seen.sweeps.get(group.sweep), now)
        if why:
            yield Orphan(
                kind=Kind.INSTANCE,
                name=one.name,
                where=one.zone,
                why=why,
                daily=_daily(one, group, seen, prices),
                sweep=sweep,
                group=group.name if group else "",
            )


def _why_member(
    instance: Instance, group: KnownGroup, sweep: SeenSweep | None, now: datetime
) -> str:
    if not group.is_ours or group.is_kept:
        return ""
    if sweep is None or sweep.manifest is None:
        return ""
    if instance.name not in {one.id for one in sweep.manifest.experiments}:
        return f"the sweep {group.name} has no such experiment"
    record = sweep.records.get(instance.name)
    if record is None or not record.is_final or not _older(_said(record), now):
        return ""
    return f"its experiment is {record.state} for {duration(_said(record), now)}"


def _templates(seen: Seen, gone: Mapping[tuple[str, str], str], now: datetime) -> Iterator[Orphan]:
    used = {one.template for one in seen.groups if (one.name, str(one.where)) not in gone}
    for one in seen.templates:
        is_ours = one.derived_from and one.name.startswith(one.derived_from[:50])
        if not is_ours or one.name in used or not _older(one.created, now, UNUSED):
            continue
        if seen.needed is not None and one.derived_from not in seen.needed:
            yield Orphan(
                kind=Kind.TEMPLATE,
                name=one.name,
                where="global",
                why=f"derived from {one.derived_from}, and no sweep uses it",
                daily=0.0,
            )


def _unused_disks(seen: Seen, now: datetime, prices: Prices) -> Iterator[Orphan]:
    there = {one.name for one in seen.instances}
    for one in seen.disks:
        sweep, _, number = one.name.rpartition("-")
        is_ours = one.labels.get(SWEEP_LABEL) == sweep or sweep in seen.listed
        if not is_ours or len(number) != 4 or not number.isdigit():
            continue
        if one.in_use or one.name in there or not _older(one.changed, now, UNUSED):
            continue
        hourly = prices.disk(one.size_gb, one.type, region=region_of(one.zone))
        yield Orphan(
            kind=Kind.DISK,
            name=one.name,
            where=one.zone,
            why="no instance uses it",
            daily=None if hourly is None else hourly * _DAY,
            sweep=sweep,
        )


def _unused_addresses(seen: Seen, now: datetime, prices: Prices) -> Iterator[Orphan]:
    for one in seen.addresses:
        is_ours = one.name == ADDRESS and _MADE_BY_INFRA in one.description
        if is_ours and not one.in_use and _older(one.created, now, UNUSED):
            yield Orphan(
                kind=Kind.ADDRESS,
                name=one.name,
                where=one.region,
                why="reserved, and no tracking server uses it",
                daily=prices.address_idle * _DAY,
            )


def _daily(
    instance: Instance, group: KnownGroup | None, seen: Seen, prices: Prices
) -> float | None:
    """US dollars a day: as its sweep was priced, else by its machine type, on demand."""
    if instance.status not in {"RUNNING", "STAGING"}:
        return 0.0
    sweep = seen.sweeps.get(group.sweep) if group else None
    if sweep and sweep.manifest and sweep.manifest.machine.hourly is not None:
        return sweep.manifest.machine.hourly * _DAY
    hourly = prices.hourly(
        instance.machine_type,
        region=region_of(instance.zone),
        spot=False,
        address=bool(instance.external_address),
    )
    return None if hourly is None else hourly * _DAY


def _said(record: Record) -> datetime:
    """When the record was written last, by the bucket's clock where that is known."""
    return record.stored or record.updated or record.ended or datetime.min.replace(tzinfo=UTC)


def _older(since: datetime | None, now: datetime, than: timedelta = SETTLED) -> bool:
    """Whether it is so long ago; what has no time is taken as of just now."""
    return since is not None and now - since > than


def _sum(values: Iterator[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(one for one in known if one is not None)
