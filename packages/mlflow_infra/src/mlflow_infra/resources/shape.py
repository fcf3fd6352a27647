"""Where the server's resources are, and which of them cost money."""

from typing import Final, Protocol, runtime_checkable

from gcloud_ops import resources
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest
from mlflow_infra.prices import Prices
from mlflow_infra.wanted import Infrastructure

__all__ = ["MADE_BY", "MAKER", "Place", "Priced"]

MAKER: Final = "mlflow-infra"
MADE_BY: Final = f"Made by {MAKER}."
"""In descriptions, where there are no labels."""


@runtime_checkable
class Priced(Protocol):
    """A resource that costs money by being there; those that aren't of this shape cost nothing."""

    def monthly(self, prices: Prices) -> float | None:
        """What it costs a month in US dollars; None where that isn't known."""
        ...


class Place(resources.Place):
    """Where the resources are, and what is wanted there.

    Raises:
        InvalidRequest: The clients are of another project.
    """

    def __init__(self, clients: Clients, infra: Infrastructure) -> None:
        super().__init__(clients)
        if clients.project != infra.project:
            raise InvalidRequest(
                f"project: {infra.project} is wanted, but the clients are of {clients.project}"
            )
        self.infra = infra

    @property
    def trainers(self) -> str:
        """E-mail address of the service account that the trainers' VMs run as."""
        return self.infra.trainer_account or f"{self.number}-compute@developer.gserviceaccount.com"
