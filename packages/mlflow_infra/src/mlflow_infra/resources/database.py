"""The database: a Cloud SQL instance, the database in it, and its user.

Sources: the discovery document of sqladmin v1; https://cloud.google.com/sql/docs/postgres.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gcloud_ops.clients import error_for_code
from gcloud_ops.errors import AlreadyExists, InvalidRequest, NotFound, OperationFailed
from gcloud_ops.resources import Seen, Tell, wait_until
from mlflow_infra.prices import Prices
from mlflow_infra.resources.shape import Place
from mlflow_infra.resources.storing import latest_version
from mlflow_infra.wanted import DATABASE, DATABASE_SECRET, DATABASE_USER, INSTANCE, LABELS

__all__ = ["VERSION", "Database", "Instance", "User"]

VERSION: Final = "POSTGRES_17"

_MADE_WITHIN: Final = 3600.0  # seconds; usually 5 to 10 minutes
_CHANGED_WITHIN: Final = 1800.0
_GIVEN_KEY: Final = "given-to-database"
"""Label of the password's secret: the version that the database's user has got."""

_BACKUPS: Final = {
    "enabled": True,
    "pointInTimeRecoveryEnabled": True,
    "startTime": "03:00",
    "transactionLogRetentionDays": 7,
    "backupRetentionSettings": {"retainedBackups": 7, "retentionUnit": "COUNT"},
}


@dataclass(slots=True)
class Instance:
    """The Cloud SQL instance."""

    place: Place
    holds_data: ClassVar[bool] = True
    apis: ClassVar[tuple[str, ...]] = ("sqladmin.googleapis.com",)
    role: ClassVar[str] = "roles/cloudsql.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"Cloud SQL instance {INSTANCE}"

    def observe(self) -> Seen:
        """See whether it is there, runs, and is as wanted."""
        found = _instance(self.place)
        if found is None:
            return Seen(state="missing")
        if found.get("state") == "PENDING_DELETE":
            return Seen(state="missing", differences=("one of this name is being deleted",))
        if found.get("state") in {"PENDING_CREATE", "MAINTENANCE"}:
            return Seen(state="making", differences=(f"its state is {found['state']}",))
        patch, mends = _mends(found)
        del patch
        return Seen.compared(mends=mends, leaves=self._leaves(found))

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it and wait until it runs; mend what can be mended while it runs.

        Raises:
            InvalidRequest: One of this name is there that can't serve.
        """
        self._wait_while(tell, {"PENDING_DELETE", "PENDING_CREATE", "MAINTENANCE"})
        found = _instance(self.place)
        if found is None:
            instances = self._instances
            request = instances.insert(project=self.place.infra.project, body=self._body())
            _change(self.place, self.what, tell, "is being made", lambda: request)
            self._wait_while(tell, {"PENDING_CREATE", "MAINTENANCE"})
            return ("made",)
        self._check(found)
        patch, mends = _mends(found)
        if patch:
            self._patch(tell, patch)
        return tuple(f"mended: {line}" for line in mends)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it with its backups, unless somebody else made it."""
        self._wait_while(tell, {"PENDING_DELETE", "PENDING_CREATE"})
        found = _instance(self.place)
        if found is None:
            return ()
        settings = found.get("settings", {})
        if not _is_ours(settings):
            return ("left it: mlflow-infra didn't make it",)
        if settings.get("deletionProtectionEnabled"):
            self._patch(tell, {"deletionProtectionEnabled": False})
        try:
            _change(
                self.place,
                self.what,
                tell,
                "is being deleted",
                lambda: self._instances.delete(**_at(self.place)),
            )
        except NotFound:
            return ()
        return ("deleted",)

    def monthly(self, prices: Prices) -> float | None:
        """Its tier and storage; backups come on top, see `Prices.backup_gb`."""
        return prices.database(self.place.infra.tier, self.place.infra.disk_gb)

    @property
    def _instances(self) -> Any:
        return _api(self.place).instances()

    def _body(self) -> dict[str, Any]:
        infra = self.place.infra
        return {
            "name": INSTANCE,
            "region": infra.region,
            "databaseVersion": VERSION,
            "settings": {
                # The default edition, ENTERPRISE_PLUS, has no shared-core tiers.
                "edition": "ENTERPRISE",
                "tier": infra.tier,
                "availabilityType": "ZONAL",
                "locationPreference": {"zone": infra.zone},
                "dataDiskType": "PD_SSD",
                "dataDiskSizeGb": str(infra.disk_gb),
                "storageAutoResize": True,
                "activationPolicy": "ALWAYS",
                "pricingPlan": "PER_USE",
                "deletionProtectionEnabled": True,
                "backupConfiguration": _BACKUPS,
                # Reached by the proxy alone, which proves by IAM who it is.
                "ipConfiguration": {"ipv4Enabled": True, "authorizedNetworks": []},
                "connectorEnforcement": "REQUIRED",
                # The smallest tier's 25 are too few for eight trainings that log at once.
                "databaseFlags": [{"name": "max_connections", "value": "100"}],
                "userLabels": dict(LABELS),
            },
        }

    def _check(self, found: dict[str, Any]) -> None:
        infra = self.place.infra
        version = str(found.get("databaseVersion", ""))
        if not version.startswith("POSTGRES_"):
            raise InvalidRequest(
                f"{self.what}: there is one already, with {version}; the server needs PostgreSQL",
                resource=self.what,
                hint="export what is in it and delete it, or use another project",
            )
        if found.get("region") != infra.region:
            raise InvalidRequest(
                f"{self.what}: it is in {found.get('region')}, wanted in {infra.region}",
                resource=self.what,
                hint=f"use a zone of {found.get('region')}, such as "
                f"--zone {found.get('gceZone') or str(found.get('region')) + '-b'}",
            )
        if found.get("state") != "RUNNABLE":
            raise OperationFailed(
                f"{self.what}: its state is {found.get('state')}",
                resource=self.what,
                hint="the console's page of the instance says why",
            )

    def _leaves(self, found: dict[str, Any]) -> list[str]:
        """Differences that only people should take away."""
        infra, settings = self.place.infra, found.get("settings", {})
        pairs = [
            ("state", found.get("state"), "RUNNABLE"),
            ("region", found.get("region"), infra.region),
            ("version", found.get("databaseVersion"), VERSION),
            ("tier", settings.get("tier"), infra.tier),
            ("edition", settings.get("edition", "ENTERPRISE"), "ENTERPRISE"),
        ]
        lines = [f"{name} is {is_}, wanted {want}" for name, is_, want in pairs if is_ != want]
        size = int(settings.get("dataDiskSizeGb", infra.disk_gb))
        if size < infra.disk_gb:
            lines.append(f"storage is {size} GB, wanted {infra.disk_gb} GB")
        networks = settings.get("ipConfiguration", {}).get("authorizedNetworks", [])
        if networks:
            values = ", ".join(str(one.get("value")) for one in networks)
            lines.append(f"it admits the networks {values}, wanted none")
        if not _is_ours(settings):
            lines.append("mlflow-infra didn't make it, and won't delete it")
        return lines

    def _patch(self, tell: Tell, settings: dict[str, Any]) -> None:
        _change(
            self.place,
            self.what,
            tell,
            "is being changed",
            lambda: self._instances.patch(**_at(self.place), body={"settings": settings}),
        )

    def _wait_while(self, tell: Tell, states: set[str]) -> None:
        def look() -> str | None:
            found = _instance(self.place)
            state = found.get("state") if found else None
            return f"its state is {state}" if state in states else None

        wait_until(tell, self.what, look, seconds=_MADE_WITHIN)


@dataclass(slots=True)
class Database:
    """The database in the instance, and gone with it."""

    place: Place
    holds_data: ClassVar[bool] = True
    apis: ClassVar[tuple[str, ...]] = ("sqladmin.googleapis.com",)
    role: ClassVar[str] = "roles/cloudsql.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"database {DATABASE}"

    def observe(self) -> Seen:
        """See whether it is there."""
        return _behind(self.place) or self._observe()

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it."""
        if self._observe().state != "missing":
            return ()
        body = {"name": DATABASE, "charset": "UTF8"}
        _change(
            self.place,
            self.what,
            tell,
            "is being made",
            lambda: _api(self.place).databases().insert(**_at(self.place), body=body),
        )
        return ("made",)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Leave it to the instance's removal."""
        del tell
        return ()

    def _observe(self) -> Seen:
        request = _api(self.place).databases().get(**_at(self.place), database=DATABASE)
        found = self.place.find(self.what, request)
        return Seen(state="missing" if found is None else "there")


@dataclass(slots=True)
class User:
    """The server's user of the instance, with the secret's password, and gone with it."""

    place: Place
    holds_data: ClassVar[bool] = True
    apis: ClassVar[tuple[str, ...]] = ("secretmanager.googleapis.com", "sqladmin.googleapis.com")
    role: ClassVar[str] = "roles/cloudsql.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"database user {DATABASE_USER}"

    def observe(self) -> Seen:
        """See whether it is there and was given the secret's latest version."""
        return _behind(self.place) or self._observe()

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it, or give it the secret's password; note on the secret that it has it."""
        seen = self._observe()
        if seen.state == "there":
            return ()
        number, password = latest_version(self.place, DATABASE_SECRET)
        body = {"name": DATABASE_USER, "password": password}
        users = _api(self.place).users()
        if seen.state == "missing":
            _change(
                self.place,
                self.what,
                tell,
                "is being made",
                lambda: users.insert(**_at(self.place), body={**body, "type": "BUILT_IN"}),
            )
        else:
            _change(
                self.place,
                self.what,
                tell,
                "is given its password",
                lambda: users.update(**_at(self.place), name=DATABASE_USER, body=body),
            )
        secret = self._secret() or {}
        request = self._secrets.patch(
            name=self.place.infra.secret(DATABASE_SECRET),
            updateMask="labels",
            body={"labels": {**secret.get("labels", {}), _GIVEN_KEY: number}},
        )
        self.place.clients.execute(f"secret {DATABASE_SECRET}", request, repeat=True)
        return ("made",) if seen.state == "missing" else ("given the secret's password",)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Leave it to the instance's removal."""
        del tell
        return ()

    def _observe(self) -> Seen:
        request = _api(self.place).users().get(**_at(self.place), name=DATABASE_USER)
        if self.place.find(self.what, request) is None:
            return Seen(state="missing")
        given = (self._secret() or {}).get("labels", {}).get(_GIVEN_KEY)
        path = f"{self.place.infra.secret(DATABASE_SECRET)}/versions/latest"
        latest = self.place.find(self.what, self._secrets.versions().get(name=path))
        has_it = latest is not None and given == str(latest["name"]).rpartition("/")[2]
        return Seen.compared(mends=[] if has_it else ["its password isn't the secret's"])

    @property
    def _secrets(self) -> Any:
        return self.place.clients.api("secretmanager", "v1").projects().secrets()

    def _secret(self) -> dict[str, Any] | None:
        request = self._secrets.get(name=self.place.infra.secret(DATABASE_SECRET))
        return self.place.find(f"secret {DATABASE_SECRET}", request)


def _api(place: Place) -> Any:
    return place.clients.api("sqladmin", "v1")


def _at(place: Place) -> dict[str, str]:
    """Which instance, in the fields of all requests."""
    return {"project": place.infra.project, "instance": INSTANCE}


def _instance(place: Place) -> dict[str, Any] | None:
    request = _api(place).instances().get(**_at(place))
    return place.find(f"Cloud SQL instance {INSTANCE}", request)


def _behind(place: Place) -> Seen | None:
    """What can be said of what is in the instance while that isn't running."""
    found = _instance(place)
    if found is None:
        return Seen(state="missing")
    stopped = found.get("settings", {}).get("activationPolicy") == "NEVER"
    if stopped or found.get("state") != "RUNNABLE":
        return Seen(state="making", differences=("the instance isn't running",))
    return None


def _is_ours(settings: dict[str, Any]) -> bool:
    return bool(LABELS.items() <= settings.get("userLabels", {}).items())


def _mends(found: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings that take differences away without a risk for the data, and these differences."""
    settings = found.get("settings", {})
    backups = settings.get("backupConfiguration", {})
    patch: dict[str, Any] = {}
    lines = []
    if settings.get("activationPolicy") == "NEVER":
        patch["activationPolicy"] = "ALWAYS"
        lines.append("it is stopped")
    if not settings.get("deletionProtectionEnabled"):
        patch["deletionProtectionEnabled"] = True
        lines.append("deletion protection is off, wanted on")
    if not backups.get("enabled"):
        lines.append("backups are off, wanted on")
    if not backups.get("pointInTimeRecoveryEnabled"):
        lines.append("point-in-time recovery is off, wanted on")
    if not (backups.get("enabled") and backups.get("pointInTimeRecoveryEnabled")):
        patch["backupConfiguration"] = _BACKUPS
    return patch, lines


def _change(place: Place, what: str, tell: Tell, text: str, request: Callable[[], Any]) -> None:
    """Send a request that changes something, and wait for the end of its operation.

    Cloud SQL carries out one operation of an instance after the other, and refuses a second.

    Raises:
        GcloudOpsError: The request's or the operation's error.
    """
    operation: dict[str, Any] = {}

    def send() -> str | None:
        nonlocal operation
        try:
            operation = place.clients.execute(what, request())
        except AlreadyExists as error:
            if "in progress" not in error.message:
                raise
            return "another operation is in progress"
        return None

    wait_until(tell, what, send, seconds=_CHANGED_WITHIN, pause=0.5)

    operation = place.await_operation(
        what,
        operation,
        again=lambda name: (
            _api(place).operations().get(project=place.infra.project, operation=name)
        ),
        is_done=lambda it: it.get("status") == "DONE",
        text=text,
        tell=tell,
        seconds=_MADE_WITHIN,
    )
    errors = operation.get("error", {}).get("errors", [])
    if errors:
        code, message = str(errors[0].get("code", "")), str(errors[0].get("message", ""))
        raise error_for_code(code, message, resource=what)
