"""Buckets: made closed, mended where they are ours, removed with all that is in them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gcloud_ops.clients import CALL_TIMEOUT
from gcloud_ops.errors import AlreadyExists, NotFound, PermissionDenied
from gcloud_ops.objects import list_blobs
from gcloud_ops.resources.shape import Place, Progressed, Seen, Tell

__all__ = ["Bucket", "delete_versions"]

_DELETIONS: Final = 32
_TAKEN: Final = "a bucket's name is unique in the world: choose another one, `--bucket OTHER`"


@dataclass(slots=True)
class Bucket:
    """A bucket that is closed to the public and keeps versions."""

    place: Place
    name: str
    location: str
    """Where it is made."""
    label: tuple[str, str]
    """On what our program makes: a key, and the program's name."""
    prefixes: tuple[str, ...]
    """What is ours in a bucket that somebody else made."""
    versioned: bool = True
    holds_data: ClassVar[bool] = True
    apis: ClassVar[tuple[str, ...]] = (
        "cloudresourcemanager.googleapis.com",
        "storage.googleapis.com",
    )
    role: ClassVar[str] = "roles/storage.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"bucket {self.name}"

    def observe(self) -> Seen:
        """See whether it is there, as it should be, and ours.

        Raises:
            PermissionDenied: It belongs to another project: what others can replace in it would
                be taken for ours.
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
        self._harden(found)
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
        if not self._is_ours(found):
            count = sum(
                delete_versions(self.place, self.what, self.name, prefix, tell)
                for prefix in self.prefixes
            )
            return (
                f"deleted {count} objects; left the bucket, which {self.label[1]} didn't make",
            )
        count = delete_versions(self.place, self.what, self.name, "", tell)
        with suppress(NotFound):
            self.place.clients.call(
                self.what, lambda: found.delete(retry=None, timeout=CALL_TIMEOUT)
            )
        return (f"deleted, with {count} objects",)

    def _find(self) -> Any:
        client = self.place.clients.storage
        try:
            found = self.place.clients.call(
                self.what,
                lambda: client.get_bucket(self.name, retry=None, timeout=CALL_TIMEOUT),
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
        new = self.place.clients.storage.bucket(self.name)
        self._harden(new)
        new.labels = dict([self.label])
        try:
            self.place.clients.call(
                self.what,
                lambda: new.create(location=self.location, retry=None, timeout=CALL_TIMEOUT),
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
        if self.versioned and not found.versioning_enabled:
            open_to.append("versioning is off, wanted on")
        leaves = []
        location = str(found.location).lower()
        if location != self.location.lower():
            leaves.append(f"location is {location}, wanted {self.location.lower()}")
        if self._is_ours(found):
            return open_to, leaves
        # Others may rely on how it is.
        return [], [*open_to, *leaves, f"{self.label[1]} didn't make it, and won't delete it"]

    def _harden(self, bucket: Any) -> None:
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        if self.versioned:
            bucket.versioning_enabled = True
        else:
            # What is replaced all the time would be kept, and billed, for a week each time.
            bucket.soft_delete_policy.retention_duration_seconds = 0

    def _is_ours(self, bucket: Any) -> bool:
        return bool(self.label in bucket.labels.items())


def delete_versions(place: Place, what: str, bucket: str, prefix: str, tell: Tell) -> int:
    """Delete all versions of the objects whose names begin so; how many there were."""
    try:
        found = list_blobs(
            place.clients,
            bucket,
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
