"""What a sweep will cost, may cost at most, and has cost so far: US dollars, no I/O.

How Google counts (https://cloud.google.com/compute/vm-instance-pricing): by the second, a minute
at least, from a VM's start until it is TERMINATED, whether or not it does anything. And how it
ends a VM (https://docs.cloud.google.com/compute/docs/instances/limit-vm-runtime): after
`maxRunDuration`, 30 seconds to 120 days, up to 30 seconds late.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from gcloud_ops.contract import Machine, Record
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import ExperimentStatus, Member, Observation, Snapshot
from gcloud_ops.prices import Prices

__all__ = [
    "MAX_SECONDS",
    "MIN_SECONDS",
    "ExperimentCost",
    "PlanCost",
    "SweepCost",
    "billed_seconds",
    "plan_cost",
    "so_far",
]

MIN_SECONDS: Final = 120
"""The shortest limit that makes sense: a VM needs a minute or two until its command runs."""
MAX_SECONDS: Final = 120 * 24 * 3600
"""The longest limit that Google enforces."""
_LATE: Final = 30.0  # seconds by which Google may end a VM too late
_LEAST: Final = 60.0  # seconds that a VM costs at least
_HOUR: Final = 3600.0
_UNCLAIMED: Final = 900.0  # the runner's patience: longer no VM waits without a word
_PAID: Final = frozenset({"RUNNING", "STOPPING"})
_BROKEN_OFF: Final = frozenset(  # they don't tell how long the others will take
    {ExperimentStatus.FAILED, ExperimentStatus.CANCELLED, ExperimentStatus.LOST}
)


# ------------------------------------------------------------------------------------ plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
    """What a sweep costs before it is launched, in US dollars; None is not known."""

    count: int
    """Experiments, each on a VM of its own."""
    spot: bool
    """Which of the two prices counts."""
    hourly_standard: float | None
    """One VM with disk and address, an hour, on demand."""
    hourly_spot: float | None
    """The same as Spot VM: an estimate, as its price changes up to once a month."""
    hours: float | None = None
    """Hours that one experiment is expected to take; None: nobody said."""
    seconds: int | None = None
    """The limit of one experiment, and of each VM: its `maxRunDuration`; None: none."""
    priced: str = ""
    """Date of the table of prices."""
    unknown: str = ""
    """What has no price in the table, such as `the machine type a9-standard-2`; "" if all has."""

    @property
    def hourly(self) -> float | None:
        """One VM, an hour, as it is to be launched."""
        return self.hourly_spot if self.spot else self.hourly_standard

    @property
    def hourly_all(self) -> float | None:
        """All VMs together, an hour."""
        return _times(self.hourly, self.count)

    @property
    def expected_each(self) -> float | None:
        """One experiment, if it takes `hours`, or its limit where that is shorter."""
        if self.hours is None:
            return None
        seconds = self.hours * _HOUR
        return self._cost(seconds if self.seconds is None else min(seconds, self.seconds))

    @property
    def expected(self) -> float | None:
        """The sweep, if each experiment takes `hours`."""
        return _times(self.expected_each, self.count)

    @property
    def at_most_each(self) -> float | None:
        """One experiment that is ended by its limit; None where there is no limit or no price.

        A Spot VM that is preempted begins anew: each time the minute or two of its boot is added.
        """
        return None if self.seconds is None else self._cost(self.seconds + _LATE)

    @property
    def at_most(self) -> float | None:
        """The sweep, if every experiment is ended by its limit."""
        return _times(self.at_most_each, self.count)

    @property
    def is_too_short(self) -> bool:
        """Whether the limit ends experiments before the hours that they are expected to take."""
        return (
            self.hours is not None
            and self.seconds is not None
            and self.hours * _HOUR > self.seconds
        )

    def _cost(self, seconds: float) -> float | None:
        return _times(self.hourly, billed_seconds(seconds) / _HOUR)


def plan_cost(
    prices: Prices,
    *,
    count: int,
    machine: Machine,
    region: str,
    hours: float | None = None,
    max_hours: float | None = None,
    max_cost: float | None = None,
    address: bool = True,
) -> PlanCost:
    """Reckon what a sweep will cost, and how long each of its VMs may run for that.

    Where several machine types may be taken, the dearest counts: the cap holds whichever is had.

    Args:
        prices: The table.
        count: Experiments.
        machine: What each VM is; its `types` name at least one.
        region: Where, such as `europe-west1`.
        hours: What one experiment is expected to take.
        max_hours: What one experiment may take.
        max_cost: What the sweep may cost, in US dollars.
        address: Whether the VMs have external addresses.

    Raises:
        InvalidRequest: A number can't be; the limit is below `MIN_SECONDS` or above
            `MAX_SECONDS`; or a `max_cost` is asked for what has no price.
    """
    for name, value in (("hours", hours), ("max-hours", max_hours), ("max-cost", max_cost)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InvalidRequest(f"{name}: {value:g} is not a number above 0")
    unknown, hourly = "", {}
    for spot in (False, True):
        found = [
            prices.hourly(
                kind,
                region=region,
                spot=spot,
                disk_gb=machine.disk_gb,
                disk_type=machine.disk_type,
                address=address,
            )
            for kind in machine.types
        ]
        known = [one for one in found if one is not None]
        hourly[spot] = max(known) if known and len(known) == len(found) else None
        if hourly[spot] is None and spot is machine.spot:
            unknown = _unknown(prices, machine, region)
    planned = PlanCost(
        count=count,
        spot=machine.spot,
        hourly_standard=hourly[False],
        hourly_spot=hourly[True],
        hours=hours,
        priced=prices.date,
        unknown=unknown,
    )
    return replace(planned, seconds=_limit(planned, max_hours=max_hours, max_cost=max_cost))


def billed_seconds(seconds: float) -> float:
    """What Google counts of a VM's seconds: each of them, 60 at least, none where none ran."""
    return max(_LEAST, seconds) if seconds > 0 else 0.0


def _unknown(prices: Prices, machine: Machine, region: str) -> str:
    for kind in machine.types:
        said = prices.unknown(
            kind,
            region=region,
            spot=machine.spot,
            disk_gb=machine.disk_gb,
            disk_type=machine.disk_type,
        )
        if said:
            return said
    return "a machine without a type"


def _limit(planned: PlanCost, *, max_hours: float | None, max_cost: float | None) -> int | None:
    """Seconds for each VM; the shorter of what the hours and what the dollars allow."""
    limits = []
    if max_hours is not None:
        if max_hours * _HOUR > MAX_SECONDS:
            raise InvalidRequest(
                f"max-hours: {max_hours:g} is more than Google enforces",
                hint=f"{MAX_SECONDS // 3600} at most (120 days), or leave it out",
            )
        limits.append(_checked(int(max_hours * _HOUR), f"max-hours: {max_hours:g}", "more hours"))
    if max_cost is not None:
        hourly = planned.hourly_all
        if not hourly:
            raise InvalidRequest(
                f"max-cost: {planned.unknown or 'the VMs'} has no price in the table",
                hint="put one into prices.toml (docs/costs.md), or give --max-hours",
            )
        # What Google may be late by is paid too, so the budget has to hold it.
        seconds = int(min(max_cost / hourly * _HOUR - _LATE, MAX_SECONDS))
        what = f"max-cost: ${max_cost:g} for {planned.count} VMs at ${planned.hourly:.4g} an hour"
        limits.append(_checked(seconds, what, "more dollars, fewer experiments"))
    return min(limits, default=None)


def _checked(seconds: int, what: str, instead: str) -> int:
    if seconds >= MIN_SECONDS:
        return seconds
    raise InvalidRequest(
        f"{what} is {max(0, seconds)} s for each VM, which would be gone before its command runs",
        hint=f"{MIN_SECONDS} seconds at least: {instead}",
    )


def _times(price: float | None, factor: float) -> float | None:
    return None if price is None else price * factor


# ---------------------------------------------------------------------------------- so far


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentCost:
    """What one experiment has used; dollars are None where its VM's price isn't known."""

    seconds: float
    """On VMs, all attempts together, as billed."""
    spent: float | None
    """US dollars until now."""
    projected: float | None
    """US dollars at its end, from its progress or from the others'; None: nothing to tell by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCost:
    """What a sweep has cost; dollars are None where they aren't known."""

    spent: float | None
    """US dollars until now."""
    projected: float | None
    """US dollars at its end; None while that can't be told of every experiment."""
    hourly: float | None
    """US dollars an hour, for the VMs that run now."""
    running: int
    """VMs that run now, and so cost: also those that idle."""
    by_experiment: Mapping[str, ExperimentCost]
    """By the experiment's id, in the sweep's order."""


def so_far(snapshot: Snapshot, now: datetime) -> SweepCost:
    """What the sweep has cost until now, and will have cost: an estimate from its records.

    Counted are the attempts from their claims to their last words, and VMs that are there
    without an attempt that lives: for what they idle. A VM's boot, a minute or two for which no
    record speaks, is counted only while it lasts.

    Args:
        snapshot: The sweep.
        now: The time to reckon to.
    """
    manifest, hourly = snapshot.manifest, snapshot.manifest.machine.hourly
    used = {row.id: _used(row, manifest.created, now) for row in snapshot.rows}
    whole = {row.id: _whole(row, used[row.id], manifest.seconds) for row in snapshot.rows}
    usual = _mean(whole[row.id] for row in snapshot.rows if row.status not in _BROKEN_OFF)
    found: dict[str, ExperimentCost] = {}
    for row in snapshot.rows:
        own, past = used[row.id].own, used[row.id].past
        expected = whole[row.id]
        if expected is None and usual is not None:
            expected = max(own, usual)
        found[row.id] = ExperimentCost(
            seconds=past + own,
            spent=_times(hourly, (past + own) / _HOUR),
            projected=None if expected is None else _times(hourly, (past + expected) / _HOUR),
        )
    running = sum(_is_paid(row.member) for row in snapshot.rows)
    return SweepCost(
        spent=_sum(one.spent for one in found.values()),
        projected=_sum(one.projected for one in found.values()),
        hourly=_times(hourly, running),
        running=running,
        by_experiment=found,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Used:
    """Seconds on VMs until now, as billed."""

    own: float
    """Since the experiment was last asked for."""
    past: float = 0.0
    """Before: of the attempts that a rerun has put aside, and that cost all the same."""


def _used(row: Observation, launched: datetime, now: datetime) -> _Used:
    record, member = row.record, row.member
    paid = _is_paid(member)
    if record is None:  # it boots, or it never comes to claim
        return _Used(own=billed_seconds(_idle(launched, now) if paid else 0.0))
    past = sum(_between(one.started, one.ended) for one in record.history)
    lives = paid and _is_of(record, member)
    # A VM that is there costs until now, whether its command runs or is over.
    until = now if lives else record.ended or record.updated
    own = record.spent + _waits(record) + _between(record.started, until)
    if paid and not lives:  # the next one, which hasn't claimed yet
        own += _idle(record.ended or record.updated or record.started, now)
    return _Used(own=billed_seconds(own), past=max(0.0, past - record.spent))


def _waits(record: Record) -> float:
    """Seconds between attempts on one VM: before a retry it waits, and is paid."""
    begins = [(one.instance_id, one.started) for one in record.history[1:]]
    following = [*begins, (record.instance_id, record.started)]
    return sum(
        _between(one.ended, started)
        for one, (vm, started) in zip(record.history, following, strict=False)
        if vm and vm == one.instance_id
    )


def _idle(since: datetime | None, now: datetime) -> float:
    return min(_between(since, now), _UNCLAIMED)


def _whole(row: Observation, used: _Used, limit: int | None) -> float | None:
    """Seconds until the experiment's end since it was last asked for, as far as it tells."""
    record = row.record
    if row.status.is_final:
        return used.own
    done = record.progress.fraction if record and record.state != "again" else None
    if not done:
        return None
    whole = used.own / done
    return max(used.own, whole if limit is None else min(whole, limit))


def _is_paid(member: Member | None) -> bool:
    return member is not None and member.status in _PAID


def _is_of(record: Record, member: Member | None) -> bool:
    """Whether the record speaks of the VM that is there."""
    if member is None or record.started is None:
        return False
    return not record.instance_id or not member.id or record.instance_id == member.id


def _between(begin: datetime | None, end: datetime | None) -> float:
    """Seconds; 0 where one isn't known, or a clock is wrong."""
    if begin is None or end is None:
        return 0.0
    return max(0.0, (end - begin).total_seconds())


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; None where one of them isn't known."""
    known = list(values)
    return None if None in known else math.fsum(one for one in known if one is not None)
