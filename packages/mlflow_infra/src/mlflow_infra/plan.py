"""What is there and what is wanted: looking, setting up, taking down, step by step.

`look` only reads. `up` makes what is missing and mends what may be mended without a risk for the
data; run again after any interruption, it goes on where it stopped, and when nothing is missing
it only reads too. `down` removes all but the data, or all.

    plan = look(clients, infra)
    for finding in plan.findings:
        print(finding.what, finding.state, finding.differences, finding.monthly)
    plan = up(clients, infra, tell=print)
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gcloud_ops.clients import Clients
from gcloud_ops.errors import PermissionDenied
from mlflow_infra.prices import PRICES, Prices
from mlflow_infra.resources import (
    Begun,
    Done,
    Event,
    Place,
    Progressed,
    Resource,
    Seen,
    Tell,
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

_ENABLED_WITHIN = 300.0  # seconds until a new API answers everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One resource as it was found."""

    what: str
    """Kind and name, such as `Cloud SQL instance mlflow-backend`."""
    holds_data: bool
    seen: Seen
    monthly: float | None
    """What it costs a month in US dollars, there or not; None where that isn't known."""

    @property
    def state(self) -> str:
        """`missing`, `making`, `there` or `differs`."""
        return self.seen.state

    @property
    def differences(self) -> tuple[str, ...]:
        """What isn't as wanted, in words."""
        return self.seen.differences

    @property
    def is_changed_by_up(self) -> bool:
        """Whether `up` would make, await or mend it."""
        return self.state in {"missing", "making"} or bool(self.seen.mends)

    @property
    def drift(self) -> tuple[str, ...]:
        """The differences that `up` leaves, because only people can decide on them."""
        if self.state != "differs":
            return ()
        return tuple(one for one in self.differences if one not in self.seen.mends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was found, in the order in which it is made."""

    findings: tuple[Finding, ...]
    prices: Prices = PRICES

    @property
    def changes(self) -> tuple[Finding, ...]:
        """What `up` would make, await or mend."""
        return tuple(one for one in self.findings if one.is_changed_by_up)

    @property
    def is_complete(self) -> bool:
        """Whether `up` would change nothing."""
        return not self.changes

    @property
    def drift(self) -> tuple[Finding, ...]:
        """What differs, and `up` would leave so."""
        return tuple(one for one in self.findings if one.drift)

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
    findings = []
    for resource in ordered(place, database_password=database_password):
        if place.disabled.intersection(resource.apis):
            seen = Seen(state="missing")
        else:
            with _explained(resource):
                seen = resource.observe()
        findings.append(_finding(resource, seen, prices))
    return Plan(findings=tuple(findings), prices=prices)


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
    resources = ordered(place, database_password=database_password)
    fresh = False
    for position, resource in enumerate(resources, start=1):
        tell(Begun(what=resource.what, position=position, count=len(resources)))
        with _explained(resource):
            changes = _patiently(resource, tell) if fresh else resource.ensure(tell)
        fresh = fresh or (position == 1 and bool(changes))
        tell(Done(what=resource.what, changes=changes))
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
    resources = ordered(place)
    with _explained(resources[0]):
        resources[0].observe()
    removed = [
        one
        for one in reversed(resources)
        if (delete_data or not one.holds_data) and not place.disabled.intersection(one.apis)
    ]
    for position, resource in enumerate(removed, start=1):
        tell(Begun(what=resource.what, position=position, count=len(removed)))
        with _explained(resource):
            changes = resource.remove(tell)
        tell(Done(what=resource.what, changes=changes))
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
        monthly=resource.monthly(prices),
    )


@contextmanager
def _explained(resource: Resource) -> Iterator[None]:
    """Say which role permits it, where Google's sentence names no permission."""
    try:
        yield
    except PermissionDenied as error:
        if error.hint or "quota" in error.message.lower():
            raise
        raise PermissionDenied(
            error.message,
            resource=error.resource,
            hint=f"ask for the role {resource.role} in the project",
        ) from error


def _patiently(resource: Resource, tell: Tell) -> tuple[str, ...]:
    """As `ensure`, where an API was enabled a moment ago, and doesn't answer everywhere yet."""
    begin = time.monotonic()
    while True:
        try:
            return resource.ensure(tell)
        except PermissionDenied as error:
            waited = time.monotonic() - begin
            if "enable the API" not in error.hint or waited > _ENABLED_WITHIN:
                raise
            text = "waits for an API that was enabled just now"
            tell(Progressed(what=resource.what, seconds=waited, text=text))
            time.sleep(5.0)
