"""What is there and what is wanted: looking, setting up, taking down, step by step.

`look` only reads. `up` makes what is missing and mends what may be mended without a risk for the
data; run again after any interruption, it goes on where it stopped, and when nothing is missing
it only reads too. `down` removes all but the data, or all.

    plan = look(clients, infra)
    for finding in plan.findings:
        print(finding.what, finding.state, finding.differences, finding.monthly)
    plan = up(clients, infra, tell=print)
"""

from dataclasses import dataclass

from gcloud_ops import resources
from gcloud_ops.clients import Clients
from gcloud_ops.resources import (
    Begun,
    Done,
    Event,
    Progressed,
    Resource,
    Seen,
    Tell,
    ensure_all,
    observe_all,
    remove_all,
)
from mlflow_infra.prices import PRICES, Prices
from mlflow_infra.resources import (
    Place,
    Priced,
    Server,
    find_address,
    latest_version,
    ordered,
)
from mlflow_infra.wanted import Infrastructure

__all__ = [
    "Begun",
    "Done",
    "Event",
    "Finding",
    "Plan",
    "Progressed",
    "Tell",
    "address_of",
    "down",
    "look",
    "read_secret",
    "up",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(resources.Finding):
    """One resource as it was found, and its price."""

    monthly: float | None
    """What it costs a month in US dollars, there or not; None where that isn't known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(resources.Plan[Finding]):
    """What was found, in the order in which it is made, and what it costs."""

    prices: Prices = PRICES
    has_server: bool = False
    """Whether the server's VM is there, in whatever state."""

    def removed(self, *, delete_data: bool) -> tuple[Finding, ...]:
        """What `down` would remove: all that is there, but for the APIs, and perhaps the data."""
        return tuple(
            one
            for one in self.findings[1:]
            if one.state != "missing" and (delete_data or not one.holds_data)
        )

    @property
    def monthly(self) -> float:
        """What all costs a month in US dollars, without what isn't known."""
        return sum(one.monthly or 0.0 for one in self.findings)

    @property
    def is_priced(self) -> bool:
        """Whether the price of each is known."""
        return all(one.monthly is not None for one in self.findings)


def look(
    clients: Clients,
    infra: Infrastructure,
    *,
    prices: Prices = PRICES,
    database_password: str | None = None,
) -> Plan:
    """See what is there, with calls that only read.

    While an API is disabled, what is reached by it is missing.

    Raises:
        GcloudOpsError: It can't be seen: no permission, no answer, a bucket of others.
        InvalidRequest: What is wanted can't be.
    """
    place = _place(clients, infra)
    wanted = ordered(place, database_password=database_password)
    observed = tuple(observe_all(place, wanted))
    return Plan(
        findings=tuple(_finding(resource, seen, prices) for resource, seen in observed),
        prices=prices,
        has_server=any(
            isinstance(resource, Server) and seen.state != "missing" for resource, seen in observed
        ),
    )


def up(
    clients: Clients,
    infra: Infrastructure,
    *,
    tell: Tell,
    database_password: str | None = None,
    prices: Prices = PRICES,
) -> Plan:
    """Make and mend until all is there; returns what is there then.

    Args:
        clients: The clients.
        infra: What is wanted.
        tell: Told of each step: when it begins, goes on and is done. What it raises ends `up`.
        database_password: What somebody chose for the database; None: one is made. One that is
            there is kept.
        prices: The table of prices.

    Raises:
        GcloudOpsError: A step can't be done; what was made stays, for another `up` or `down`.
        InvalidRequest: What is wanted can't be; nothing was made.
    """
    place = _place(clients, infra)
    ensure_all(ordered(place, database_password=database_password), tell)
    return look(clients, infra, prices=prices, database_password=database_password)


def down(
    clients: Clients,
    infra: Infrastructure,
    *,
    delete_data: bool,
    tell: Tell,
    prices: Prices = PRICES,
) -> Plan:
    """Remove all, in the reverse order, but the APIs; returns what is there then.

    The data are the bucket, the Cloud SQL instance and the secrets. With them kept, a later `up`
    is the same server as before, on another address.

    Args:
        clients: The clients.
        infra: What was wanted.
        delete_data: Remove the data too, though the instance is protected against deletion.
        tell: As in `up`.
        prices: The table of prices.

    Raises:
        GcloudOpsError: A step can't be done; another `down` goes on there.
    """
    place = _place(clients, infra)
    remove_all(place, ordered(place), tell, delete_data=delete_data)
    return look(clients, infra, prices=prices)


def address_of(clients: Clients, infra: Infrastructure) -> str | None:
    """The server's external address; None if none is reserved."""
    found = find_address(Place(clients, infra))
    return str(found.address) if found and found.address else None


def read_secret(clients: Clients, infra: Infrastructure, name: str) -> str:
    """What one of `SECRETS` holds.

    Raises:
        NotFound: There is none.
        PermissionDenied: The account may not read it.
    """
    return latest_version(Place(clients, infra), name)[1]


def _place(clients: Clients, infra: Infrastructure) -> Place:
    """Where to work; what can't be written into the VM's metadata is found out before all."""
    from mlflow_infra import server

    server.metadata(infra)
    return Place(clients, infra)


def _finding(resource: Resource, seen: Seen, prices: Prices) -> Finding:
    return Finding(
        what=resource.what,
        holds_data=resource.holds_data,
        seen=seen,
        monthly=resource.monthly(prices) if isinstance(resource, Priced) else 0.0,
    )
