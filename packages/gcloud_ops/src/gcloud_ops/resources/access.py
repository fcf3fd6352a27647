"""What all else needs: the project's APIs, accounts that VMs run as, and roles of our own."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gcloud_ops.errors import AlreadyExists, InvalidRequest
from gcloud_ops.resources.shape import Place, Seen, Tell

__all__ = ["Apis", "CustomRole", "ServiceAccount"]

_ENABLED_WITHIN: Final = 300.0  # seconds


@dataclass(slots=True)
class Apis:
    """The APIs that all else is reached by. They stay enabled."""

    place: Place
    names: tuple[str, ...]
    """Such as `compute.googleapis.com`."""
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ()
    role: ClassVar[str] = "roles/serviceusage.serviceUsageAdmin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return "APIs"

    def observe(self) -> Seen:
        """See which are enabled; the place learns which are not."""
        parent = f"projects/{self.place.project}"
        found = self.place.clients.execute(
            self.what,
            self._api.services().batchGet(
                parent=parent, names=[f"{parent}/services/{name}" for name in self.names]
            ),
        )
        enabled = {
            str(one["name"]).rpartition("/")[2]
            for one in found.get("services", [])
            if one.get("state") == "ENABLED"
        }
        missing = tuple(name for name in self.names if name not in enabled)
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
                parent=f"projects/{self.place.project}", body={"serviceIds": missing}
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

    @property
    def _api(self) -> Any:
        return self.place.clients.api("serviceusage", "v1")

    def _wait(self, operation: dict[str, Any], tell: Tell) -> None:
        latest = self.place.await_operation(
            self.what,
            operation,
            again=lambda name: self._api.operations().get(name=name),
            is_done=lambda it: bool(it.get("done")),
            text="are being enabled",
            tell=tell,
            seconds=_ENABLED_WITHIN,
        )
        error = latest.get("error")
        if error:
            raise InvalidRequest(f"{self.what}: {error.get('message', '')}", resource=self.what)


@dataclass(slots=True)
class ServiceAccount:
    """An account that VMs run as."""

    place: Place
    name: str
    """The part of its e-mail address before the @."""
    title: str
    description: str
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ("iam.googleapis.com",)
    role: ClassVar[str] = "roles/iam.serviceAccountAdmin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"service account {self.name}"

    def observe(self) -> Seen:
        """See whether it is there."""
        found = self.place.find(self.what, self._accounts.get(name=self._path))
        if found is None:
            return Seen(state="missing")
        return Seen.compared(leaves=["is disabled"] if found.get("disabled") else [])

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it."""
        del tell
        if self.observe().state != "missing":
            return ()
        body = {
            "accountId": self.name,
            "serviceAccount": {
                "displayName": self.title,
                "description": self.description,
            },
        }
        project = f"projects/{self.place.project}"
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
        return self.place.discard(self.what, self._accounts.delete(name=self._path))

    @property
    def _accounts(self) -> Any:
        return self.place.clients.api("iam", "v1").projects().serviceAccounts()

    @property
    def email(self) -> str:
        """Its address."""
        return f"{self.name}@{self.place.project}.iam.gserviceaccount.com"

    @property
    def _path(self) -> str:
        return f"projects/{self.place.project}/serviceAccounts/{self.email}"


@dataclass(slots=True)
class CustomRole:
    """A role of the project, with exactly these permissions.

    A role that is deleted stays for some days, and its id with it, as
    https://cloud.google.com/iam/docs/creating-custom-roles#deleting-custom-role says: then it is
    taken back.
    """

    place: Place
    id: str
    title: str
    description: str
    permissions: tuple[str, ...]
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ("iam.googleapis.com",)
    role: ClassVar[str] = "roles/iam.roleAdmin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"custom role {self.id}"

    @property
    def name(self) -> str:
        """As bindings name it: `projects/P/roles/ID`."""
        return f"projects/{self.place.project}/roles/{self.id}"

    def observe(self) -> Seen:
        """See whether it is there, and has these permissions and no others."""
        found = self._find()
        if found is None or found.get("deleted"):
            return Seen(state="missing")
        return Seen.compared(mends=self._compare(found))

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it, take it back, or give it these permissions."""
        del tell
        found = self._find()
        if found is None:
            body = {"roleId": self.id, "role": self._body()}
            parent = f"projects/{self.place.project}"
            request = self._roles.create(parent=parent, body=body)
            with suppress(AlreadyExists):  # by the try whose answer was lost
                self.place.clients.execute(self.what, request, repeat=True)
            return ("made",)
        changes = []
        if found.get("deleted"):
            request = self._roles.undelete(name=self.name, body={"etag": found.get("etag", "")})
            found = self.place.clients.execute(self.what, request)
            changes.append("taken back")
        lines = self._compare(found)
        if lines:
            request = self._roles.patch(
                name=self.name,
                body={**self._body(), "etag": found.get("etag", "")},
                updateMask="includedPermissions,stage",
            )
            self.place.clients.execute(self.what, request)
        return (*changes, *(f"mended: {line}" for line in lines))

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it."""
        del tell
        if self.observe().state == "missing":
            return ()
        return self.place.discard(self.what, self._roles.delete(name=self.name))

    def _find(self) -> dict[str, Any] | None:
        return self.place.find(self.what, self._roles.get(name=self.name))

    def _body(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "description": self.description,
            "includedPermissions": list(self.permissions),
            "stage": "GA",
        }

    def _compare(self, found: dict[str, Any]) -> list[str]:
        has = set(found.get("includedPermissions", []))
        lines = [f"it permits {one}, wanted not" for one in sorted(has - {*self.permissions})]
        lines += [f"it does not permit {one}" for one in self.permissions if one not in has]
        if found.get("stage", "ALPHA") == "DISABLED":
            lines.append("it is disabled")
        return lines

    @property
    def _roles(self) -> Any:
        return self.place.clients.api("iam", "v1").projects().roles()
