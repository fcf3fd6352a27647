"""What there is room for: the stock of zones, and the quotas of regions and of the project.

A *stock-out* is a limit on how many instances run at once: in the whole cloud, in a zone, of a
machine type, or of Spot VMs. A quota is the project's; what it counts is
https://cloud.google.com/compute/resource-usage. Spot VMs are counted by ``PREEMPTIBLE_CPUS``
where that has a limit above 0, and else as all others
(https://cloud.google.com/compute/docs/instances/spot#quotas).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gcp_emulator.compute import catalog
from gcp_emulator.compute.nouns import Instance, disks_of
from gcp_emulator.compute.scheduling import is_spot
from gcp_emulator.compute.state import State
from gcp_emulator.replies import GoogleError, Json

_HELP: Final = "https://cloud.google.com/compute/docs/resource-error"


@dataclass(frozen=True, slots=True)
class Need:
    """What one instance takes while it runs, and its disks as long as they exist."""

    zone: str
    machine_type: str
    spot: bool
    addresses: int
    """External ones."""
    gigabytes: tuple[tuple[str, int], ...]
    """Of its disks, by the quota that counts them."""

    @property
    def region(self) -> str:
        """Whose quotas count it."""
        return catalog.region_of(self.zone)


@dataclass(frozen=True, slots=True)
class Stock:
    """Which instances a limit counts; None counts all."""

    zone: str | None = None
    machine_type: str | None = None
    spot: bool | None = None

    def counts(self, zone: str, machine_type: str, spot: bool) -> bool:
        """Whether it counts such instances."""
        return (
            self.zone in (None, zone)
            and self.machine_type in (None, machine_type)
            and self.spot in (None, spot)
        )

    def to_json(self) -> Json:
        """As ``/emulator/status`` shows it."""
        return {"zone": self.zone, "machine_type": self.machine_type, "spot": self.spot}


def need_of(properties: Json, *, zone: str, machine_type: str) -> Need:
    """What an instance of these properties takes."""
    nics = properties["networkInterfaces"]
    disks: Counter[str] = Counter()
    for _, kind, size in disks_of(properties):
        disks[catalog.disk_quota(kind)] += size
    return Need(
        zone=zone,
        machine_type=machine_type,
        spot=is_spot(properties.get("scheduling", {})),
        addresses=sum(bool(nic.get("accessConfigs")) for nic in nics),
        gigabytes=tuple(disks.items()),
    )


class Capacity:
    """The limits, and what is taken of them.

    Attributes:
        limit: How many instances of groups can run at once in the whole cloud; None for no limit.
            One of its own takes no place of theirs, but none starts where it is 0.
        stock: Narrower limits, on all instances that they count.
        running: How many places of groups' instances are taken.
    """

    def __init__(self, state: State, limit: int | None) -> None:
        self._state = state
        self._occupied: Counter[tuple[str, str, bool]] = Counter()
        self._used: Counter[tuple[str, str]] = Counter()
        self._taken: dict[Instance, dict[tuple[str, str], int]] = {}
        self._quotas: dict[tuple[str, str], float] = {}
        self.limit = limit
        self.stock: dict[Stock, int] = {}
        self.running = 0

    def refusal(self, need: Need, *, standalone: bool = False) -> GoogleError | None:
        """Why no such instance can start now: Google's error."""
        full = self.limit is not None and (
            self.limit == 0 if standalone else self.running >= self.limit
        )
        if full:
            return self._stock_out(need)
        for stock, limit in self.stock.items():
            if (
                stock.counts(need.zone, need.machine_type, need.spot)
                and self._count(stock) >= limit
            ):
                narrow = stock.machine_type is not None or stock.spot is not None
                return self._stock_out_with_details(need) if narrow else self._stock_out(need)
        return self._quota_refusal(need)

    def take(self, instance: Instance) -> None:
        """An instance takes its place."""
        need = need_of(instance.properties, zone=instance.zone, machine_type=instance.machine_type)
        amounts = {key: amount for key, amount in self._amounts(need) if amount}
        self._taken[instance] = amounts
        self._used.update(amounts)
        self._occupied[need.zone, need.machine_type, need.spot] += 1
        self.running += not instance.standalone

    def give_back(self, instance: Instance) -> None:
        """An instance has ended."""
        self._used.subtract(self._taken.pop(instance))
        spot = is_spot(instance.properties.get("scheduling", {}))
        self._occupied[instance.zone, instance.machine_type, spot] -= 1
        self.running -= not instance.standalone

    def set_quota(self, region: str, metric: str, limit: float | None) -> None:
        """Change a quota of a region, or of the project (an empty region); None: as it was."""
        if limit is None:
            self._quotas.pop((region, metric), None)
        else:
            self._quotas[region, metric] = limit

    def quota(self, region: str, metric: str) -> float:
        """The limit of a quota of a region, or of the project (an empty region)."""
        return self._quotas.get((region, metric), catalog.quota(metric))

    def usage(self, region: str, metric: str) -> float:
        """What is taken of it."""
        state = self._state
        if metric == "STATIC_ADDRESSES":
            return float(sum(at == region for at, _ in state.addresses))
        if metric in ("INSTANCE_GROUP_MANAGERS", "REGIONAL_INSTANCE_GROUP_MANAGERS"):
            regional = metric.startswith("REGIONAL")
            there = [g for g in state.groups.values() if g.regional == regional]
            return float(sum(region == g.region for g in there))
        if metric == "INSTANCE_TEMPLATES":
            return float(len(state.templates))
        if metric == "FIREWALLS":
            return float(len(state.firewalls))
        if metric == "NETWORKS":
            return 1.0
        return float(self._used[region, metric] + state.gigabytes[region, metric])

    def quotas(self, region: str) -> list[Json]:
        """A region's quotas, or the project's (an empty region), with what is used of them."""
        return [
            {
                "metric": metric,
                "limit": self.quota(region, metric),
                "usage": self.usage(region, metric),
            }
            for metric in catalog.metrics(regional=bool(region))
        ]

    def _count(self, stock: Stock) -> int:
        return sum(count for key, count in self._occupied.items() if stock.counts(*key))

    def _amounts(self, need: Need) -> Iterator[tuple[tuple[str, str], int]]:
        """What an instance takes of which quotas while it runs."""
        region, kind = need.region, catalog.MACHINE_TYPES[need.machine_type]
        yield ("", "CPUS_ALL_REGIONS"), kind.cpus
        preemptible = need.spot and self.quota(region, "PREEMPTIBLE_CPUS") > 0
        yield (region, "PREEMPTIBLE_CPUS" if preemptible else kind.quota), kind.cpus
        yield (region, "INSTANCES"), 1
        yield (region, "IN_USE_ADDRESSES"), need.addresses

    def _quota_refusal(self, need: Need) -> GoogleError | None:
        disks = [((need.region, metric), amount) for metric, amount in need.gigabytes]
        for (region, metric), amount in [*self._amounts(need), *disks]:
            limit = self.quota(region, metric)
            if amount and self.usage(region, metric) + amount > limit:
                return _quota_exceeded(region, metric, limit)
        return None

    def _stock_out(self, need: Need) -> GoogleError:
        where = f"projects/{self._state.project}/zones/{need.zone}"
        message = (
            f"The zone '{where}' does not have enough resources available to"
            " fulfill the request.  Try a different zone, or try again later."
        )
        return GoogleError(503, "ZONE_RESOURCE_POOL_EXHAUSTED", message)

    def _stock_out_with_details(self, need: Need) -> GoogleError:
        where = f"projects/{self._state.project}/zones/{need.zone}"
        message = (
            f"The zone '{where}' does not have enough resources available to fulfill the request."
            "  '(resource type:compute)'."
        )
        said = (
            f"A {need.machine_type} VM instance is currently unavailable in the {need.zone} zone."
            " Alternatively, you can try your request again with a different VM hardware"
            " configuration or at a later time. For more information, see the troubleshooting"
            " documentation."
        )
        metadata = {"vmType": need.machine_type, "zone": need.zone, "zonesAvailable": ""}
        details: list[Json] = [
            {"help": {"links": [{"description": "Troubleshooting documentation", "url": _HELP}]}},
            {"localizedMessage": {"locale": "en-US", "message": said}},
            {
                "errorInfo": {
                    "domain": "compute.googleapis.com",
                    "metadatas": metadata,
                    "reason": "resource_availability",
                }
            },
        ]
        code = "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
        return GoogleError(503, code, message, details=details)


def _quota_exceeded(region: str, metric: str, limit: float) -> GoogleError:
    name = metric.replace("_", "-")
    info: Json = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": f"{name}-per-project-region" if region else f"{name}-per-project",
        "limit": limit,
        "dimensions": {"region": region} if region else {"global": "global"},
    }
    where = f"in region {region}" if region else "globally"
    return GoogleError(
        403,
        "QUOTA_EXCEEDED",
        f"Quota '{metric}' exceeded.  Limit: {limit} {where}.",
        domain="usageLimits",
        details=[{"quotaInfo": info}],
    )
