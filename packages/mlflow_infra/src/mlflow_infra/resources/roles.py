"""Roles: the server's in the project, on the bucket and on each secret, and the trainers'."""

from typing import Final

from gcloud_ops.resources import Binding, BucketPolicy, ProjectPolicy, Roles, SecretPolicy
from mlflow_infra.resources.shape import Place
from mlflow_infra.wanted import TRAINER_SECRET

__all__ = ["bucket_roles", "project_roles", "secret_roles"]

_REGISTRIES: Final = (".pkg.dev", "gcr.io")


def project_roles(place: Place) -> Roles:
    """What the server may do in the project: reach databases, write logs and metrics, pull."""
    roles = ["roles/cloudsql.client", "roles/logging.logWriter", "roles/monitoring.metricWriter"]
    host, _, path = place.infra.image.partition("/")
    if host.endswith(_REGISTRIES) and path.partition("/")[0] == place.infra.project:
        roles.append("roles/artifactregistry.reader")
    return Roles(
        place, ProjectPolicy(place), lambda: tuple((role, _server(place)) for role in roles)
    )


def bucket_roles(place: Place) -> Roles:
    """The server's access to objects of the bucket."""
    policy = BucketPolicy(place, place.infra.bucket)
    return Roles(place, policy, lambda: (("roles/storage.objectAdmin", _server(place)),))


def secret_roles(place: Place, name: str) -> Roles:
    """Who may read the secret: the server each, the trainers theirs alone."""
    role = "roles/secretmanager.secretAccessor"

    def wanted() -> tuple[Binding, ...]:
        if name == TRAINER_SECRET:
            return ((role, _server(place)), (role, f"serviceAccount:{place.trainers}"))
        return ((role, _server(place)),)

    return Roles(place, SecretPolicy(place, name), wanted)


def _server(place: Place) -> str:
    return f"serviceAccount:{place.infra.account}"
