"""The account that the trainers' VMs act as: its name, its roles, and what each of them is for.

It may do what the runner does (docs/security.md), and nothing else.
"""

from collections.abc import Mapping
from typing import Final

__all__ = [
    "ACCOUNT",
    "APIS",
    "BUCKET_ROLE",
    "PROJECT_ROLES",
    "ROLE",
    "RUNNER_PERMISSIONS",
    "SECRET_ROLE",
    "account_email",
    "role_name",
]

ACCOUNT: Final = "sinergym-trainer"
"""Of the trainers' VMs: the part of its address before the @."""

ROLE: Final = "sinergymTrainer"
"""Id of the custom role."""

RUNNER_PERMISSIONS: Final[Mapping[str, str]] = {
    "compute.instanceGroupManagers.delete": "the last member removes its empty group",
    "compute.instanceGroupManagers.get": "see whether it was the last, and who else is there",
    "compute.instanceGroupManagers.update": "leave the group (deleteInstances)",
    "compute.regionOperations.get": "wait until it has left a group of several zones",
    "compute.zoneOperations.get": "wait until it has left a group of one zone",
}
"""The custom role's permissions, and what each is for. Nothing of `compute.instances`: the group's
own agent deletes the VM (https://cloud.google.com/iam/docs/service-agents)."""

PROJECT_ROLES: Final[Mapping[str, str]] = {
    "roles/artifactregistry.reader": "pull the image",
    "roles/logging.logWriter": "write logs of the system",
    "roles/monitoring.metricWriter": "tell that an experiment or a sweep has ended",
}
"""Predefined roles of the account in the project, and what each is for."""

BUCKET_ROLE: Final = "roles/storage.objectUser"
"""On the one bucket: records, logs, results and checkpoints."""
SECRET_ROLE: Final = "roles/secretmanager.secretAccessor"
"""On the one secret with the tracking server's password, if there is such a server."""

APIS: Final = (
    "artifactregistry.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
)
"""The APIs that sweeps need."""


def account_email(project: str) -> str:
    """The address of the trainers' account."""
    return f"{ACCOUNT}@{project}.iam.gserviceaccount.com"


def role_name(project: str) -> str:
    """The custom role, as bindings name it."""
    return f"projects/{project}/roles/{ROLE}"
