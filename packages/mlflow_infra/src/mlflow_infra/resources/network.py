"""How the server is reached: its address, and the firewall's rules."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gcloud_ops.compute import last_part
from gcloud_ops.errors import NotFound
from mlflow_infra.prices import Prices
from mlflow_infra.resources.shape import (
    MADE_BY,
    Place,
    Seen,
    Tell,
    line_if_different,
    wait_until,
)
from mlflow_infra.wanted import ADDRESS, PORT, SERVER, TRAINER_FIREWALL

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["Address", "Firewall", "find_address"]

_SETTLES_WITHIN: Final = 300.0


@dataclass(slots=True)
class Address:
    """The static external address, which stays when the VM is made anew."""

    place: Place
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ("compute.googleapis.com",)
    role: ClassVar[str] = "roles/compute.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"address {ADDRESS}"

    def observe(self) -> Seen:
        """See whether it is there."""
        found = find_address(self.place)
        if found is None:
            return Seen(state="missing")
        if found.status == "RESERVING":
            return Seen(state="making")
        if found.address_type not in {"", "EXTERNAL"}:
            return Seen.compared(leaves=[f"it is {found.address_type}, wanted EXTERNAL"])
        return Seen.compared()

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Reserve it."""
        found = find_address(self.place)
        if found is None:
            clients, infra = self.place.clients, self.place.infra
            clients.change(
                self.what,
                clients.addresses.insert_unary,
                project=infra.project,
                region=infra.region,
                address_resource={
                    "name": ADDRESS,
                    "description": f"Of the MLflow tracking server. {MADE_BY}",
                    "address_type": "EXTERNAL",
                    "network_tier": "PREMIUM",
                },
            )
        wait_until(tell, self.what, self._reserving, seconds=_SETTLES_WITHIN)
        return ("made",) if found is None else ()

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Give it back."""
        del tell
        if find_address(self.place) is None:
            return ()
        clients, infra = self.place.clients, self.place.infra
        with suppress(NotFound):
            clients.change(
                self.what,
                clients.addresses.delete_unary,
                project=infra.project,
                region=infra.region,
                address=ADDRESS,
            )
        return ("deleted",)

    def monthly(self, prices: Prices) -> float | None:
        """In use."""
        return prices.external_address()

    def _reserving(self) -> str | None:
        found = find_address(self.place)
        return "is being reserved" if found and found.status == "RESERVING" else None


@dataclass(slots=True)
class Firewall:
    """A rule that lets somebody reach the server's port."""

    place: Place
    name: str
    """`FIREWALL` or `TRAINER_FIREWALL`."""
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = (
        "cloudresourcemanager.googleapis.com",
        "compute.googleapis.com",
    )
    role: ClassVar[str] = "roles/compute.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"firewall rule {self.name}"

    def observe(self) -> Seen:
        """See whether it is there, and admits those that it shall."""
        found = self._find()
        if not self._is_wanted:
            # Nobody from outside: a rule of before is a difference, and none is none.
            return Seen.compared(mends=["it is there, wanted none"] if found else [])
        if found is None:
            return Seen(state="missing")
        return Seen.compared(mends=self._compare(found))

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it, or change whom it admits."""
        found = self._find()
        if not self._is_wanted:
            return self.remove(tell)
        clients, infra = self.place.clients, self.place.infra
        if found is not None and last_part(found.network) != infra.network:
            # A rule's network can't be changed.
            self.remove(tell)
            return (*self._made(), f"was in the network {last_part(found.network)}")
        if found is None:
            return self._made()
        lines = self._compare(found)
        if lines:
            # As a whole: what a patch leaves out, such as tags that admit others, would stay.
            clients.change(
                self.what,
                clients.firewalls.update_unary,
                project=infra.project,
                firewall=self.name,
                firewall_resource=self._body(),
            )
        return tuple(f"mended: {line}" for line in lines)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it."""
        del tell
        if self._find() is None:
            return ()
        clients = self.place.clients
        with suppress(NotFound):
            clients.change(
                self.what,
                clients.firewalls.delete_unary,
                project=self.place.infra.project,
                firewall=self.name,
            )
        return ("deleted",)

    def monthly(self, prices: Prices) -> float | None:
        """Nothing."""
        del prices
        return 0.0

    @property
    def _is_wanted(self) -> bool:
        return self.name == TRAINER_FIREWALL or bool(self.place.infra.source_ranges)

    def _made(self) -> tuple[str, ...]:
        clients = self.place.clients
        clients.change(
            self.what,
            clients.firewalls.insert_unary,
            project=self.place.infra.project,
            firewall_resource=self._body(),
        )
        return ("made",)

    def _body(self) -> dict[str, Any]:
        infra = self.place.infra
        who: dict[str, Any] = {
            "source_ranges": sorted(infra.source_ranges),
            "target_tags": [SERVER],
        }
        if self.name == TRAINER_FIREWALL:
            # Google refuses accounts and tags in one rule.
            who = {
                "source_service_accounts": [self.place.trainers],
                "target_service_accounts": [infra.account],
            }
        return {
            "name": self.name,
            "description": f"Who may reach the MLflow tracking server. {MADE_BY}",
            "network": f"global/networks/{infra.network}",
            "direction": "INGRESS",
            "priority": 1000,
            "allowed": [{"I_p_protocol": "tcp", "ports": [str(PORT)]}],
            **who,
        }

    def _compare(self, found: "compute_v1.Firewall") -> list[str]:
        body = self._body()
        lines = [
            line_if_different(name, sorted(getattr(found, field)), sorted(body.get(field, [])))
            for name, field in (
                ("source ranges", "source_ranges"),
                ("source tags", "source_tags"),
                ("source accounts", "source_service_accounts"),
                ("target tags", "target_tags"),
                ("target accounts", "target_service_accounts"),
            )
        ]
        allowed = [
            " ".join([str(one.I_p_protocol), *(str(port) for port in one.ports)])
            for one in found.allowed
        ]
        lines += [
            line_if_different("allowed", sorted(allowed), [f"tcp {PORT}"]),
            line_if_different("network", [last_part(found.network)], [self.place.infra.network]),
            line_if_different("direction", [found.direction], ["INGRESS"]),
            "it is disabled" if found.disabled else "",
        ]
        return [line for line in lines if line]

    def _find(self) -> "compute_v1.Firewall | None":
        clients = self.place.clients
        with suppress(NotFound):
            return clients.read(
                self.what,
                clients.firewalls.get,
                project=self.place.infra.project,
                firewall=self.name,
            )
        return None


def find_address(place: Place) -> "compute_v1.Address | None":
    """The server's address; None if none is reserved."""
    clients, infra = place.clients, place.infra
    with suppress(NotFound):
        return clients.read(
            f"address {ADDRESS}",
            clients.addresses.get,
            project=infra.project,
            region=infra.region,
            address=ADDRESS,
        )
    return None
