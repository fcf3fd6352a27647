"""Whether a whole sweep fits into the quota: what it needs, what is left, what is short.

Metrics are those of https://cloud.google.com/compute/resource-usage#cpu_quota. Families without a
metric of their own in the region's reply count as `CPUS`; Spot VMs count as preemptible ones where
there is such a quota, and as standard ones where there isn't
(https://cloud.google.com/compute/docs/instances/spot#quotas).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gcloud_ops.doctor.facts import Facts, Machine
from gcloud_ops.doctor.findings import QUOTA, Finding, ok, problem, warning
from gcloud_ops.prices import shape

__all__ = ["Quota", "Room", "Shortage", "needed", "quota", "rooms", "short"]

_ASK = "ask for more in the console under IAM & Admin, Quotas, or take another region (--zone)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A limit, and what is used of it."""

    limit: float
    usage: float

    @property
    def left(self) -> float:
        """What is left."""
        return max(0.0, self.limit - self.usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a sweep needs of a quota, and how much of it there is."""

    metric: str
    needs: float
    quota: Quota

    @property
    def after(self) -> float:
        """What would be left with the sweep; below 0 it doesn't fit."""
        return self.quota.left - self.needs

    @property
    def is_scarce(self) -> bool:
        """Whether the sweep would leave less than a fifth."""
        return self.after < self.quota.limit / 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A quota that a sweep doesn't fit into."""

    metric: str
    needs: float
    left: float
    limit: float

    def __str__(self) -> str:
        """In words."""
        return f"{self.metric}: needs {self.needs:g}, {self.left:g} of {self.limit:g} are left"


def needed(
    machine_type: str,
    count: int,
    *,
    spot: bool,
    external_address: bool,
    disk_gb: int,
    disk_type: str,
    there: Mapping[str, Quota],
) -> dict[str, float]:
    """What so many instances take, by metric.

    Args:
        machine_type: Of all of them; one that isn't known counts for its number only.
        count: How many.
        spot: Whether they are Spot VMs.
        external_address: Whether each has one.
        disk_gb: Size of each one's disk.
        disk_type: Its type.
        there: The quotas that the region and the project have.
    """
    found: dict[str, float] = {"INSTANCES": count, "INSTANCE_GROUP_MANAGERS": 1}
    known = shape(machine_type)
    if known is not None:
        family, cpus, _ = known
        own = f"{family.upper()}_CPUS"
        preemptible = there.get("PREEMPTIBLE_CPUS")
        if spot and preemptible is not None and preemptible.limit > 0:
            metric = "PREEMPTIBLE_CPUS"
        else:
            metric = own if own in there else "CPUS"
        found[metric] = count * cpus
        found["CPUS_ALL_REGIONS"] = count * cpus
    if external_address:
        found["IN_USE_ADDRESSES"] = count
    if disk_type in {"pd-ssd", "pd-balanced"}:
        found["SSD_TOTAL_GB"] = count * disk_gb
    elif disk_type in {"pd-standard", ""}:
        found["DISKS_TOTAL_GB"] = count * disk_gb
    return found


def short(wanted: Mapping[str, float], there: Mapping[str, Quota]) -> tuple[Shortage, ...]:
    """What isn't enough; a metric that Google doesn't tell of is no shortage."""
    return tuple(
        Shortage(metric=metric, needs=needs, left=there[metric].left, limit=there[metric].limit)
        for metric, needs in wanted.items()
        if metric in there and needs > there[metric].left
    )


def quota(facts: Facts) -> Iterator[Finding]:
    """Whether the sweep fits; without a sweep, whether one instance does. In two calls."""
    machine, sweep = facts.machine(), facts.sweep
    there = _quotas(facts)
    count = len(sweep.experiments) if sweep else 1
    types = (sweep.machine_types if sweep else ()) or (machine.machine_type,)
    shortages = {
        kind: short(_needs(machine, kind, count, facts=facts, there=there), there)
        for kind in types
    }
    what = f"{count} {'instance' if count == 1 else 'instances'} in {facts.region}"
    enough = f"there is enough for {what}"
    fitting = [kind for kind, missing in shortages.items() if not missing]
    if not fitting:
        words = "; ".join(
            f"{kind}: {', '.join(map(str, missing))}" for kind, missing in shortages.items()
        )
        yield problem(QUOTA, f"not enough for {what}: {words}", _advice(shortages.values()))
    elif fitting[0] != types[0]:
        words = ", ".join(map(str, shortages[types[0]]))
        yield warning(QUOTA, f"{enough} as {fitting[0]}, not as {types[0]}: {words}", _ASK)
    else:
        unknown = [kind for kind in types if shape(kind) is None]
        if unknown:
            yield warning(
                QUOTA,
                f"{enough}, but for CPUs: how many {', '.join(unknown)} has is not known here",
                "compare it yourself: `gcloud compute regions describe " + facts.region + "`",
            )
        else:
            yield ok(QUOTA, f"{enough}, as {fitting[0]}")


def rooms(facts: Facts) -> tuple[Room, ...]:
    """What the sweep needs of each quota that Google tells of, the scarcest first.

    Of several machine types it is for the first that fits, or for the first where none does.
    """
    machine, sweep = facts.machine(), facts.sweep
    there = _quotas(facts)
    count = len(sweep.experiments) if sweep else 1
    types = (sweep.machine_types if sweep else ()) or (machine.machine_type,)
    needs = [_needs(machine, kind, count, facts=facts, there=there) for kind in types]
    wanted = next((each for each in needs if not short(each, there)), needs[0])
    found = [
        Room(metric=metric, needs=amount, quota=there[metric])
        for metric, amount in wanted.items()
        if metric in there
    ]
    return tuple(sorted(found, key=lambda room: room.after / max(room.quota.limit, 1.0)))


def _needs(
    machine: Machine, kind: str, count: int, *, facts: Facts, there: Mapping[str, Quota]
) -> dict[str, float]:
    return needed(
        kind,
        count,
        spot=facts.sweep.spot if facts.sweep else False,
        external_address=machine.external_address,
        disk_gb=machine.disk_gb,
        disk_type=machine.disk_type,
        there=there,
    )


def _quotas(facts: Facts) -> dict[str, Quota]:
    return {one.metric: Quota(limit=one.limit, usage=one.usage) for one in facts.compute_quotas()}


def _advice(shortages: Iterable[tuple[Shortage, ...]]) -> str:
    """At how many at once it would fit is for people to say; which addresses are needed isn't."""
    metrics = {one.metric for missing in shortages for one in missing}
    if metrics == {"IN_USE_ADDRESSES"}:
        return f"{_ASK}; instances of a template without external addresses need none"
    return _ASK
