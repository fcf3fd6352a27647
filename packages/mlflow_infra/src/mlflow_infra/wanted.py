"""What a tracking server on Google Cloud consists of: names, sizes, who may reach it.

One frozen noun that all other modules read. Names are those of Sinergym's `mlflowbuild.sh`, so
that what stands since then is recognized.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from gcloud_ops.errors import InvalidRequest

__all__ = [
    "ADDRESS",
    "DATABASE",
    "DATABASE_USER",
    "FIREWALL",
    "INSTANCE",
    "LABELS",
    "PORT",
    "SECRETS",
    "SERVER",
    "SERVICE_ACCOUNT",
    "TRAINER_FIREWALL",
    "Infrastructure",
]

SERVICE_ACCOUNT: Final = "mlflow-tracking-sa"
INSTANCE: Final = "mlflow-backend"
"""The Cloud SQL instance."""
DATABASE: Final = "mlflow"
DATABASE_USER: Final = "mlflow"
ADDRESS: Final = "mlflow-ip"
SERVER: Final = "mlflow-tracking-server"
"""The VM, and its network tag."""
FIREWALL: Final = "allow-mlflow-tracking"
"""Lets the given ranges in, on the external address."""
TRAINER_FIREWALL: Final = "allow-mlflow-trainers"
"""Lets the instances of the trainers in, by their service account, on the internal address."""
PORT: Final = 5000
LABELS: Final = {"made-by": "mlflow-infra"}

DATABASE_SECRET: Final = "mlflow-db-password"
ADMIN_SECRET: Final = "mlflow-admin"
TRAINER_SECRET: Final = "mlflow-trainer"
SIGNING_SECRET: Final = "mlflow-flask-key"
SECRETS: Final = (DATABASE_SECRET, ADMIN_SECRET, TRAINER_SECRET, SIGNING_SECRET)
"""In Secret Manager. The database's and the signing key are plain text; those of the users
`admin` and `trainer` are JSON, `{"username": ..., "password": ...}`."""

_TIER: Final = re.compile(r"db-[a-z0-9-]{2,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Infrastructure:
    """One tracking server, as it is wanted.

    Raises:
        InvalidRequest: A value can't be; the message names the option.
    """

    project: str
    zone: str
    bucket: str
    """Bucket of the artifacts and of the start script."""
    image: str
    """The server's image, as `packages/mlflow_infra/Dockerfile` makes it."""
    source_ranges: tuple[str, ...] = ()
    """Who may reach the server from outside, as CIDR ranges; none: only the trainers."""
    trainer_account: str = ""
    """E-mail address of the service account that trainers run as; "": Compute's default one."""
    tier: str = "db-f1-micro"
    """Machine type of the database."""
    disk_gb: int = 10
    """The database's storage, which grows by itself."""
    machine_type: str = "e2-medium"
    """Of the server: MLflow needs 0.9 GB with two workers (e2-small has 2, e2-medium 4)."""
    network: str = "default"

    def __post_init__(self) -> None:
        for text in self.source_ranges:
            try:
                ipaddress.IPv4Network(text)
            except ValueError as error:
                raise InvalidRequest(
                    f"--source-range {text}: {error}", hint="such as 203.0.113.7/32"
                ) from None
        if not _TIER.fullmatch(self.tier):
            raise InvalidRequest(f"--tier {self.tier}: not a tier such as db-f1-micro")
        if not 10 <= self.disk_gb <= 65536:
            raise InvalidRequest(f"--disk-gb {self.disk_gb}: between 10 and 65536")

    @property
    def region(self) -> str:
        """The zone's region."""
        return self.zone.rpartition("-")[0]

    @property
    def account(self) -> str:
        """E-mail address of the server's service account."""
        return f"{SERVICE_ACCOUNT}@{self.project}.iam.gserviceaccount.com"

    @property
    def connection(self) -> str:
        """Cloud SQL's connection name."""
        return f"{self.project}:{self.region}:{INSTANCE}"

    @property
    def artifacts(self) -> str:
        """Where MLflow keeps artifacts."""
        return f"gs://{self.bucket}/mlflow_artifacts"

    def secret(self, name: str) -> str:
        """The full name of one of `SECRETS`."""
        return f"projects/{self.project}/secrets/{name}"
