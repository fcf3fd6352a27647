"""What all else needs: the project's APIs, and the account that the server's VM runs as."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from gcloud_ops.errors import AlreadyExists, InvalidRequest, NotFound
from mlflow_infra.prices import Prices
from mlflow_infra.resources.shape import Place, Seen, Tell, wait_until
from mlflow_infra.wanted import SERVICE_ACCOUNT

__all__ = ["APIS", "Apis", "ServiceAccount"]

APIS = (
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "secretmanager.googleapis.com",
    "sqladmin.googleapis.com",
    "storage.googleapis.com",
)


@dataclass(slots=True)
class Apis:
    """The APIs that all else is reached by. They stay enabled."""

    place: Place
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ()
    role: ClassVar[str] = "roles/serviceusage.serviceUsageAdmin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return "APIs"

    def observe(self) -> Seen:
        """See which are enabled; the place learns which are not."""
        parent = f"projects/{self.place.infra.project}"
        found = self.place.clients.execute(
            self.what,
            self._api.services().batchGet(
                parent=parent, names=[f"{parent}/services/{name}" for name in APIS]
            ),
        )
        enabled = {
            str(one["name"]).rpartition("/")[2]
            for one in found.get("services", [])
            if one.get("state") == "ENABLED"
        }
        missing = tuple(name for name in APIS if name not in enabled)
        self.place.disabled = frozenset(missing)
        lines = tuple(f"{name} is not enabled" for name in missing)
        return Seen(state="missing" if missing else "there", differences=lines, mends=lines)

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Enable those that aren't."""
        self.observe()
        missing = sorted(self.place.disabled)
        if not missing:
            return ()
        operation = self.place.clients.execute(
            self.what,
            self._api.services().batchEnable(
                parent=f"projects/{self.place.infra.project}", body={"serviceIds": missing}
            ),
            repeat=True,
        )
        self._wait(operation, tell)
        self.place.disabled = frozenset()
        return tuple(f"enabled {name}" for name in missing)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Leave them: others use them too."""
        del tell
        return ()

    def monthly(self, prices: Prices) -> float | None:
        """Nothing."""
        del prices
        return 0.0

    @property
    def _api(self) -> Any:
        return self.place.clients.api("serviceusage", "v1")

    def _wait(self, operation: dict[str, Any], tell: Tell) -> None:
        latest = operation

        def look() -> str | None:
            nonlocal latest
            if not latest.get("done"):
                request = self._api.operations().get(name=operation["name"])
                latest = self.place.clients.execute(self.what, request)
            return None if latest.get("done") else "are being enabled"

        wait_until(tell, self.what, look, seconds=300.0)
        error = latest.get("error")
        if error:
            raise InvalidRequest(f"{self.what}: {error.get('message', '')}", resource=self.what)


@dataclass(slots=True)
class ServiceAccount:
    """The account that the server's VM runs as."""

    place: Place
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ("iam.googleapis.com",)
    role: ClassVar[str] = "roles/iam.serviceAccountAdmin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"service account {SERVICE_ACCOUNT}"

    def observe(self) -> Seen:
        """See whether it is there."""
        found = self.place.find(self.what, self._accounts.get(name=self._name))
        if found is None:
            return Seen(state="missing")
        return Seen.compared(leaves=["is disabled"] if found.get("disabled") else [])

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it."""
        del tell
        if self.observe().state != "missing":
            return ()
        body = {
            "accountId": SERVICE_ACCOUNT,
            "serviceAccount": {
                "displayName": "MLflow tracking SA",
                "description": "Runs the MLflow tracking server; made by mlflow-infra",
            },
        }
        project = f"projects/{self.place.infra.project}"
        request = self._accounts.create(name=project, body=body)
        try:
            self.place.clients.execute(self.what, request, repeat=True)
        except AlreadyExists:
            return ()  # by the try whose answer was lost
        return ("made",)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it."""
        del tell
        if self.observe().state == "missing":
            return ()
        with suppress(NotFound):
            request = self._accounts.delete(name=self._name)
            self.place.clients.execute(self.what, request, repeat=True)
        return ("deleted",)

    def monthly(self, prices: Prices) -> float | None:
        """Nothing."""
        del prices
        return 0.0

    @property
    def _accounts(self) -> Any:
        return self.place.clients.api("iam", "v1").projects().serviceAccounts()

    @property
    def _name(self) -> str:
        infra = self.place.infra
        return f"projects/{infra.project}/serviceAccounts/{infra.account}"
