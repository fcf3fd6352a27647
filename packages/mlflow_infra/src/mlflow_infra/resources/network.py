"""How the server is reached: its address, and the firewall's rules."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gcloud_ops.errors import NotFound
from gcloud_ops.resources import Firewall, Seen, Tell, wait_until
from mlflow_infra.prices import Prices
from mlflow_infra.resources.shape import MADE_BY, Place
from mlflow_infra.wanted import ADDRESS, PORT, SERVER, TRAINER_FIREWALL

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["Address", "find_address", "new_firewall"]

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


def new_firewall(place: Place, name: str) -> Firewall:
    """The rule that lets somebody reach the server's port.

    Args:
        place: Where.
        name: `FIREWALL` or `TRAINER_FIREWALL`.
    """
    infra = place.infra

    def wanted() -> dict[str, Any] | None:
        if name == TRAINER_FIREWALL:
            # Google refuses accounts and tags in one rule.
            who: dict[str, Any] = {
                "source_service_accounts": [place.trainers],
                "target_service_accounts": [infra.account],
            }
        elif infra.source_ranges:
            who = {"source_ranges": sorted(infra.source_ranges), "target_tags": [SERVER]}
        else:
            return None
        return {
            "description": f"Who may reach the MLflow tracking server. {MADE_BY}",
            "allowed": [{"I_p_protocol": "tcp", "ports": [str(PORT)]}],
            **who,
        }

    return Firewall(place, name, infra.network, wanted)


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
