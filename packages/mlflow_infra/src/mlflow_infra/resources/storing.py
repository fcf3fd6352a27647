"""What is kept in Cloud Storage and Secret Manager: artifacts, the start script, secrets."""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gcloud_ops.clients import CALL_TIMEOUT
from gcloud_ops.errors import AlreadyExists, NotFound, PermissionDenied
from gcloud_ops.objects import list_blobs
from mlflow_infra.prices import Prices
from mlflow_infra.resources.shape import Place, Progressed, Seen, Tell
from mlflow_infra.wanted import (
    ADMIN_SECRET,
    LABELS,
    TRAINER_SECRET,
)

__all__ = ["Bucket", "Script", "Secret", "latest_version", "new_secret"]

_DELETIONS: Final = 32
_SCRIPTS: Final = "scripts/start_mlflow_tracking-"
_TAKEN: Final = "a bucket's name is unique in the world: choose another one, `--bucket OTHER`"


@dataclass(slots=True)
class Bucket:
    """The bucket of the artifacts."""

    place: Place
    holds_data: ClassVar[bool] = True
    apis: ClassVar[tuple[str, ...]] = (
        "cloudresourcemanager.googleapis.com",
        "storage.googleapis.com",
    )
    role: ClassVar[str] = "roles/storage.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"bucket {self.place.infra.bucket}"

    def observe(self) -> Seen:
        """See whether it is there, as it should be, and ours.

        Raises:
            PermissionDenied: It belongs to another project. A start script that others can
                replace would run as root on the server.
        """
        found = self._find()
        if found is None:
            return Seen(state="missing")
        mends, leaves = self._compare(found)
        return Seen.compared(mends=mends, leaves=leaves)

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it, or close it to the public and keep versions, if it is ours."""
        del tell
        found = self._find()
        if found is None:
            self._create()
            return ("made",)
        mends, _ = self._compare(found)
        if not mends:
            return ()
        _harden(found)
        self.place.clients.call(
            self.what,
            lambda: found.patch(
                if_metageneration_match=found.metageneration, retry=None, timeout=CALL_TIMEOUT
            ),
        )
        return tuple(f"mended: {line}" for line in mends)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it with all that is in it; of one that we didn't make, only what is ours."""
        found = self._find()
        if found is None:
            return ()
        if not _is_ours(found):
            count = sum(
                _delete_objects(self.place, self.what, prefix, tell)
                for prefix in ("mlflow_artifacts/", _SCRIPTS)
            )
            return (f"deleted {count} objects; left the bucket, which mlflow-infra didn't make",)
        count = _delete_objects(self.place, self.what, "", tell)
        with suppress(NotFound):
            self.place.clients.call(
                self.what, lambda: found.delete(retry=None, timeout=CALL_TIMEOUT)
            )
        return (f"deleted, with {count} objects",)

    def monthly(self, prices: Prices) -> float | None:
        """What is stored costs, and that grows: see `Prices.storage_gb`."""
        del prices
        return 0.0

    def _find(self) -> Any:
        client = self.place.clients.storage
        try:
            found = self.place.clients.call(
                self.what,
                lambda: client.get_bucket(
                    self.place.infra.bucket, retry=None, timeout=CALL_TIMEOUT
                ),
            )
        except NotFound:
            return None
        except PermissionDenied as error:
            if "enable the API" in error.hint:
                raise
            raise PermissionDenied(error.message, resource=self.what, hint=_TAKEN) from error
        if str(found.project_number) != self.place.number:
            raise PermissionDenied(
                f"{self.what}: it belongs to another project", resource=self.what, hint=_TAKEN
            )
        return found

    def _create(self) -> None:
        infra = self.place.infra
        new = self.place.clients.storage.bucket(infra.bucket)
        _harden(new)
        new.labels = dict(LABELS)
        try:
            self.place.clients.call(
                self.what,
                lambda: new.create(location=infra.region, retry=None, timeout=CALL_TIMEOUT),
            )
        except AlreadyExists as error:
            # By the try whose answer was lost; or it is somebody else's.
            if self._find() is None:
                raise AlreadyExists(error.message, resource=self.what, hint=_TAKEN) from error

    def _compare(self, found: Any) -> tuple[list[str], list[str]]:
        """What isn't as wanted: what can be mended, and what is left."""
        rules = found.iam_configuration
        open_to = []
        if not rules.uniform_bucket_level_access_enabled:
            open_to.append("uniform access is off, wanted on")
        if rules.public_access_prevention != "enforced":
            open_to.append(
                f"public access prevention is {rules.public_access_prevention}, wanted enforced"
            )
        if not found.versioning_enabled:
            open_to.append("versioning is off, wanted on")
        leaves = []
        if str(found.location).lower() != self.place.infra.region:
            leaves.append(
                f"location is {str(found.location).lower()}, wanted {self.place.infra.region}"
            )
        if _is_ours(found):
            return open_to, leaves
        # Others may rely on how it is.
        return [], [*open_to, *leaves, "mlflow-infra didn't make it, and won't delete it"]


@dataclass(slots=True)
class Script:
    """The start script's object in the bucket; its name tells its content."""

    place: Place
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ("storage.googleapis.com",)
    role: ClassVar[str] = "roles/storage.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"start script gs://{self.place.infra.bucket}/{self._name}"

    def observe(self) -> Seen:
        """See whether it is there, with its content."""
        found = self._find()
        if found is None:
            return Seen(state="missing")
        return Seen.compared(mends=[] if self._is_whole(found) else ["its content was changed"])

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Write it."""
        del tell
        found = self._find()
        if found is not None and self._is_whole(found):
            return ()
        blob = self.place.clients.storage.bucket(self.place.infra.bucket).blob(self._name)
        try:
            self.place.clients.call(
                self.what,
                lambda: blob.upload_from_string(
                    self._text,
                    content_type="text/x-shellscript",
                    if_generation_match=found.generation if found else 0,
                    retry=None,
                    timeout=CALL_TIMEOUT,
                ),
            )
        except AlreadyExists:
            again = self._find()
            if again is None or not self._is_whole(again):
                raise
        return ("written" if found is None else "written again: its content was changed",)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it, and those of before, with all their versions."""
        count = _delete_objects(self.place, self.what, _SCRIPTS, tell)
        return (f"deleted {count} objects",) if count else ()

    def monthly(self, prices: Prices) -> float | None:
        """Nothing worth mentioning."""
        del prices
        return 0.0

    @property
    def _name(self) -> str:
        from mlflow_infra import server

        return server.script_name(self.place.infra)

    @property
    def _text(self) -> bytes:
        from mlflow_infra import server

        return server.script(self.place.infra).encode()

    def _find(self) -> Any:
        bucket = self.place.clients.storage.bucket(self.place.infra.bucket)
        return self.place.clients.call(
            self.what, lambda: bucket.get_blob(self._name, retry=None, timeout=CALL_TIMEOUT)
        )

    def _is_whole(self, found: Any) -> bool:
        digest = hashlib.md5(self._text, usedforsecurity=False).digest()
        return bool(found.md5_hash == base64.b64encode(digest).decode())


@dataclass(slots=True)
class Secret:
    """A secret of Secret Manager, with a version that is made once."""

    place: Place
    name: str
    make: Callable[[], str]
    """Makes the value, when there is none."""
    given: str | None = None
    """A value that somebody gave; the one that is there is kept all the same."""
    holds_data: ClassVar[bool] = True
    apis: ClassVar[tuple[str, ...]] = ("secretmanager.googleapis.com",)
    role: ClassVar[str] = "roles/secretmanager.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"secret {self.name}"

    def observe(self) -> Seen:
        """See whether it is there, and has a version."""
        if self.place.find(self.what, self._secrets.get(name=self._path)) is None:
            return Seen(state="missing")
        state = self._version_state()
        if state in {"", "DESTROYED"}:
            return Seen.compared(mends=["it has no version" if not state else "it is destroyed"])
        if state != "ENABLED":
            return Seen.compared(leaves=[f"its latest version is {state}, wanted ENABLED"])
        if self.given is not None and self.given != latest_version(self.place, self.name)[1]:
            return Seen.compared(leaves=["it isn't the value given now, and is kept"])
        return Seen.compared()

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make the secret and its version; one that is there is kept."""
        del tell
        seen = self.observe()
        if seen.state == "missing":
            self._create()
        elif not seen.mends:
            return ()
        if self._version_state() in {"", "DESTROYED"}:
            value = (self.make() if self.given is None else self.given).encode()
            body = {"payload": {"data": base64.b64encode(value).decode()}}
            # Not repeated: a try whose answer was lost would leave two versions.
            self.place.clients.execute(
                self.what, self._secrets.addVersion(parent=self._path, body=body)
            )
        return ("made",) if seen.state == "missing" else ("made a version",)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it with its versions."""
        del tell
        if self.place.find(self.what, self._secrets.get(name=self._path)) is None:
            return ()
        with suppress(NotFound):
            request = self._secrets.delete(name=self._path)
            self.place.clients.execute(self.what, request, repeat=True)
        return ("deleted",)

    def monthly(self, prices: Prices) -> float | None:
        """Its version."""
        return prices.secret

    @property
    def _secrets(self) -> Any:
        return self.place.clients.api("secretmanager", "v1").projects().secrets()

    @property
    def _path(self) -> str:
        return self.place.infra.secret(self.name)

    def _create(self) -> None:
        request = self._secrets.create(
            parent=f"projects/{self.place.infra.project}",
            secretId=self.name,
            body={"replication": {"automatic": {}}, "labels": dict(LABELS)},
        )
        with suppress(AlreadyExists):  # by the try whose answer was lost
            self.place.clients.execute(self.what, request, repeat=True)

    def _version_state(self) -> str:
        """The latest version's state; "" if there is none."""
        request = self._secrets.versions().get(name=f"{self._path}/versions/latest")
        found = self.place.find(self.what, request)
        return str(found.get("state", "")) if found else ""


def new_secret(place: Place, name: str, given: str | None = None) -> Secret:
    """One of `SECRETS`, as it is wanted.

    Args:
        place: Where.
        name: Which.
        given: The value, if somebody chose one.
    """
    users = {ADMIN_SECRET: "admin", TRAINER_SECRET: "trainer"}

    def make() -> str:
        value = secrets.token_urlsafe(32)
        if name in users:
            return json.dumps({"username": users[name], "password": value})
        return value

    return Secret(place, name, make, given)


def latest_version(place: Place, name: str) -> tuple[str, str]:
    """The number of a secret's latest version, and what it holds.

    Raises:
        NotFound: There is no such secret, or it has no version.
    """
    versions = place.clients.api("secretmanager", "v1").projects().secrets().versions()
    reply = place.clients.execute(
        f"secret {name}", versions.access(name=f"{place.infra.secret(name)}/versions/latest")
    )
    value = base64.b64decode(reply["payload"]["data"]).decode()
    return str(reply["name"]).rpartition("/")[2], value


def _harden(bucket: Any) -> None:
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    bucket.versioning_enabled = True


def _is_ours(bucket: Any) -> bool:
    return bool(LABELS.items() <= bucket.labels.items())


def _delete_objects(place: Place, what: str, prefix: str, tell: Tell) -> int:
    """Delete all versions of the objects whose names begin so; how many there were."""
    try:
        found = list_blobs(
            place.clients,
            place.infra.bucket,
            "name,generation",
            prefix=prefix or None,
            versions=True,
        )
    except NotFound:
        return 0

    def delete(blob: Any) -> None:
        with suppress(NotFound):
            place.clients.call(
                f"object {blob.name}", lambda: blob.delete(retry=None, timeout=CALL_TIMEOUT)
            )

    with ThreadPoolExecutor(_DELETIONS, thread_name_prefix="delete") as pool:
        for count, _ in enumerate(pool.map(delete, found), start=1):
            if count % 500 == 0:
                text = f"{count} of {len(found)} objects deleted"
                tell(Progressed(what=what, seconds=0.0, text=text))
    return len(found)
