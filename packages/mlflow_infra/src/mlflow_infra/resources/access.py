"""What all else needs: the project's APIs, and the account that the server's VM runs as."""

from typing import Final

from gcloud_ops.resources import Apis, ServiceAccount
from mlflow_infra.resources.shape import MAKER, Place
from mlflow_infra.wanted import SERVICE_ACCOUNT

__all__ = ["APIS", "new_account", "new_apis"]

APIS: Final = (
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "monitoring.googleapis.com",
    "secretmanager.googleapis.com",
    "sqladmin.googleapis.com",
    "storage.googleapis.com",
)


def new_apis(place: Place) -> Apis:
    """The APIs that the server's resources are reached by."""
    return Apis(place, APIS)


def new_account(place: Place) -> ServiceAccount:
    """The account that the server's VM runs as."""
    return ServiceAccount(
        place,
        SERVICE_ACCOUNT,
        title="MLflow tracking SA",
        description=f"Runs the MLflow tracking server; made by {MAKER}",
    )
