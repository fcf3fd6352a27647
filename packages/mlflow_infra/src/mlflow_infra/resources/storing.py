"""What is kept in Cloud Storage and Secret Manager: artifacts, the start script, secrets."""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gcloud_ops.clients import CALL_TIMEOUT
from gcloud_ops.errors import AlreadyExists
from gcloud_ops.resources import Bucket, Seen, Tell, delete_versions
from mlflow_infra.prices import Prices
from mlflow_infra.resources.shape import MAKER, Place
from mlflow_infra.wanted import (
    ADMIN_SECRET,
    LABELS,
    TRAINER_SECRET,
)

__all__ = ["Script", "Secret", "latest_version", "new_bucket", "new_secret"]

_SCRIPTS: Final = "scripts/start_mlflow_tracking-"


def new_bucket(place: Place) -> Bucket:
    """The bucket of the artifacts, and of the start script, which runs as root on the server."""
    return Bucket(
        place,
        place.infra.bucket,
        location=place.infra.region,
        label=("made-by", MAKER),
        prefixes=("mlflow_artifacts/", _SCRIPTS),
    )


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
        count = delete_versions(self.place, self.what, self.place.infra.bucket, _SCRIPTS, tell)
        return (f"deleted {count} objects",) if count else ()

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
        return self.place.discard(self.what, self._secrets.delete(name=self._path))

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
