"""Buckets and objects on disk, with an index in memory: what Cloud Storage keeps.

Layout: ``buckets/NAME/bucket.json``; ``buckets/NAME/objects/HASH.json``, what is known of an
object (its name is only inside the file, so no name can lead anywhere); ``content/ID``, bytes that
never change. A file appears whole, by renaming. Whatever is done to an object happens between two
awaits, so that a precondition that held still holds when the change is made.
"""

import base64
import bisect
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from gcp_emulator.replies import GoogleError, Json
from gcp_emulator.storage.resources import (
    BUCKET_FIELDS,
    OBJECT_FIELDS,
    check_name,
    complete_iam,
    etag_of,
    merge,
    object_fields,
    owners,
    project_number,
    valid_bucket_name,
)
from gcp_emulator.storage.versions import Versions

_MULTI_REGIONS = ("ASIA", "EU", "US")
_DUAL_REGIONS = ("ASIA1", "EUR4", "EUR5", "EUR7", "EUR8", "NAM4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Bytes that were written, not yet an object's."""

    path: Path
    size: int
    md5: str
    crc32c: str


class Writing:
    """Bytes on their way to disk, with their checksums.

    Args:
        folder: Where the file is made.
    """

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._path = folder / secrets.token_hex(16)
        self._file: BinaryIO | None = self._path.open("wb")
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc32c = 0

    def write(self, data: bytes) -> None:
        """Add bytes."""
        assert self._file is not None  # noqa: S101
        self._file.write(data)
        self._md5.update(data)
        self._crc32c = google_crc32c.extend(self._crc32c, data)
        self.size += len(data)

    def finish(self) -> Content:
        """All was written."""
        assert self._file is not None  # noqa: S101
        self._file.close()
        self._file = None
        return Content(
            path=self._path,
            size=self.size,
            md5=base64.b64encode(self._md5.digest()).decode(),
            crc32c=base64.b64encode(self._crc32c.to_bytes(4)).decode(),
        )

    def discard(self) -> None:
        """Forget it, finished or not, unless the content has become an object's."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._path.unlink(missing_ok=True)


@dataclass(slots=True, eq=False)
class StoredObject:
    """One object: what Google says of it (without links), and the file of its bytes."""

    resource: Json
    content: str

    @property
    def generation(self) -> int:
        """Grows with each new content."""
        return int(self.resource["generation"])

    @property
    def metageneration(self) -> int:
        """Grows with each change of the metadata of one generation."""
        return int(self.resource["metageneration"])

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.resource["size"])


@dataclass(slots=True, eq=False)
class Bucket:
    """One bucket, its IAM policy and its objects, sorted by name."""

    resource: Json
    policy: Json
    versions: Versions[StoredObject]
    """Noncurrent ones."""
    objects: dict[str, StoredObject] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.resource["name"])

    @property
    def keeps_versions(self) -> bool:
        """Whether what is replaced or deleted stays."""
        return bool((self.resource.get("versioning") or {}).get("enabled"))

    def all_versions(self, name: str) -> list[StoredObject]:
        """An object's versions, the oldest first, the live one last."""
        live = self.objects.get(name)
        return [*self.versions.of(name), *([live] if live is not None else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Preconditions of a request; None where there is none.

    https://cloud.google.com/storage/docs/request-preconditions
    """

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    def check(self, current: StoredObject | None, *, reading: bool = False) -> None:
        """Compare with what is there; no object has generation 0.

        Raises:
            GoogleError: 412 ``conditionNotMet``; 304 for a "not match" of a reader.
        """
        generation = current.generation if current else 0
        metageneration = current.metageneration if current else 0
        if (self.generation is not None and self.generation != generation) or (
            self.metageneration is not None and self.metageneration != metageneration
        ):
            raise condition_not_met()
        if self.not_generation == generation or (
            current is not None and self.not_metageneration == metageneration
        ):
            if reading:
                raise GoogleError(304, "notModified", "Not Modified")
            raise condition_not_met()


class ObjectStore:
    """All buckets of the local cloud.

    Args:
        folder: Where they are kept; what is there already is read.
        mutation_limit: Changes a second that one object bears; None for no limit.
    """

    def __init__(self, folder: Path, *, mutation_limit: float | None = None) -> None:
        self.mutation_limit = mutation_limit
        self._buckets_folder = folder / "buckets"
        self._content_folder = folder / "content"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._buckets_folder.mkdir(exist_ok=True)
        self._content_folder.mkdir(exist_ok=True)
        self._buckets: dict[str, Bucket] = {}
        self._last_generation = 0
        self._mutated: dict[tuple[str, str], float] = {}
        self._load()

    # ---------------------------------------------------------------- buckets

    def bucket(self, name: str) -> Bucket:
        """The bucket of that name.

        Raises:
            GoogleError: 404.
        """
        try:
            return self._buckets[name]
        except KeyError:
            raise GoogleError(404, "notFound", "The specified bucket does not exist.") from None

    def buckets(self, project: str, prefix: str) -> list[Bucket]:
        """A project's buckets by name."""
        return [
            bucket
            for name, bucket in sorted(self._buckets.items())
            if bucket.policy["project"] == project and name.startswith(prefix)
        ]

    def insert_bucket(self, project: str, wanted: Json) -> Bucket:
        """Make a bucket.

        Raises:
            GoogleError: 400 for a name that Google would refuse, 409 when it exists.
        """
        name = wanted.get("name")
        if not isinstance(name, str) or not valid_bucket_name(name):
            raise GoogleError(400, "invalid", f"Invalid bucket name: '{name}'")
        if name in self._buckets:
            raise GoogleError(
                409, "conflict", "You already own this bucket. Please select another name."
            )
        now = _now()
        location = str(wanted.get("location") or "US").upper()
        kind = "multi-region" if location in _MULTI_REGIONS else "region"
        kind = "dual-region" if location in _DUAL_REGIONS else kind
        resource: Json = {
            "kind": "storage#bucket",
            "id": name,
            "name": name,
            "projectNumber": project_number(project),
            "location": location,
            "locationType": kind,
            "storageClass": wanted.get("storageClass") or "STANDARD",
            "generation": str(self._next_generation()),
            "metageneration": "1",
            "timeCreated": now,
            "updated": now,
            "softDeletePolicy": {"retentionDurationSeconds": "604800", "effectiveTime": now},
            "iamConfiguration": {},
            **({} if kind == "region" else {"rpo": "DEFAULT"}),
        }
        merge(resource, {key: wanted[key] for key in BUCKET_FIELDS if key in wanted})
        complete_iam(resource, now)
        uniform = bool(resource["iamConfiguration"]["uniformBucketLevelAccess"].get("enabled"))
        bindings = owners(project, uniform=uniform)
        policy: Json = {"project": project, "bindings": bindings, "version": 1}
        bucket = Bucket(resource, policy, self._versions(self._buckets_folder / name))
        (self._buckets_folder / name / "objects").mkdir(parents=True)
        self._buckets[name] = bucket
        self._save_bucket(bucket)
        return bucket

    def patch_bucket(self, bucket: Bucket, changes: Json, *, whole: bool) -> None:
        """Change a bucket; `whole` replaces what can be changed, else it is merged."""
        if whole:
            for key in BUCKET_FIELDS:
                if key not in ("iamConfiguration", "storageClass"):
                    bucket.resource.pop(key, None)
        merge(bucket.resource, {key: changes[key] for key in BUCKET_FIELDS if key in changes})
        complete_iam(bucket.resource, _now())
        self._touch_bucket(bucket)

    def delete_bucket(self, bucket: Bucket) -> None:
        """Delete an empty bucket.

        Raises:
            GoogleError: 409 when it has objects.
        """
        if bucket.names or bucket.versions:
            raise GoogleError(409, "conflict", "The bucket you tried to delete is not empty.")
        del self._buckets[bucket.name]
        folder = self._buckets_folder / bucket.name
        (folder / "bucket.json").unlink(missing_ok=True)
        with suppress(OSError):
            (folder / "objects").rmdir()
            with suppress(FileNotFoundError):
                (folder / "versions").rmdir()
            folder.rmdir()

    def set_policy(self, bucket: Bucket, bindings: list[Json]) -> None:
        """Replace the bindings of the IAM policy."""
        bucket.policy["bindings"] = bindings
        bucket.policy["version"] = 3 if any("condition" in one for one in bindings) else 1
        self._touch_bucket(bucket)

    def all_buckets(self) -> list[Bucket]:
        """The buckets of all projects."""
        return list(self._buckets.values())

    # ---------------------------------------------------------------- objects

    def find(self, bucket: Bucket, name: str, generation: int | None = None) -> StoredObject:
        """An object, perhaps of a certain generation.

        Raises:
            GoogleError: 404.
        """
        found = bucket.objects.get(name)
        if generation is not None and (found is None or found.generation != generation):
            found = bucket.versions.find(name, generation)
        if found is None:
            tail = f"#{generation}" if generation is not None else ""
            raise GoogleError(404, "notFound", f"No such object: {bucket.name}/{name}{tail}")
        return found

    def writing(self) -> Writing:
        """Begin to write bytes."""
        return Writing(self._content_folder)

    def insert(
        self,
        bucket: Bucket,
        name: str,
        content: Content,
        fields: Json,
        conditions: Conditions,
        *,
        components: int | None = None,
    ) -> StoredObject:
        """Make or replace an object; `fields` are those that a client may choose.

        Raises:
            GoogleError: 400 for a bad name or fields, 412, 429.
        """
        check_name(name)
        kept = object_fields(fields)
        _check_sums(fields, content)
        if self._buckets.get(bucket.name) is not bucket:
            raise GoogleError(404, "notFound", "The specified bucket does not exist.")
        before = bucket.objects.get(name)
        conditions.check(before)
        self._count_mutation(bucket, name)
        now, generation = _now(), self._next_generation()
        resource: Json = {
            "kind": "storage#object",
            "id": f"{bucket.name}/{name}/{generation}",
            "name": name,
            "bucket": bucket.name,
            "generation": str(generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "storageClass": bucket.resource["storageClass"],
            "size": str(content.size),
            "md5Hash": content.md5,
            "crc32c": content.crc32c,
            "timeCreated": now,
            "updated": now,
            "timeStorageClassUpdated": now,
            "timeFinalized": now,
        }
        if components is not None:
            del resource["md5Hash"]
            resource["componentCount"] = components
        resource |= kept
        resource["etag"] = etag_of(resource)
        stored = StoredObject(resource, content.path.name)
        self._save_object(bucket, stored)
        if before is None:
            bisect.insort(bucket.names, name)
        else:
            self._retire(bucket, name, before)
        bucket.objects[name] = stored
        return stored

    def patch(self, bucket: Bucket, stored: StoredObject, changes: Json, *, whole: bool) -> None:
        """Change what a client may choose; `whole` replaces it, else it is merged.

        Raises:
            GoogleError: 400, 429.
        """
        changed = {key: value for key, value in stored.resource.items() if key != "metadata"}
        if not whole and "metadata" in stored.resource:
            changed["metadata"] = dict(stored.resource["metadata"])
        if whole:
            for key in OBJECT_FIELDS:
                if key not in ("contentType", "storageClass"):
                    changed.pop(key, None)
        merge(changed, {key: changes[key] for key in OBJECT_FIELDS if key in changes})
        if not changed.get("metadata"):
            changed.pop("metadata", None)
        object_fields(changed)
        self._count_mutation(bucket, str(changed["name"]))
        changed["metageneration"] = str(stored.metageneration + 1)
        changed["updated"] = _now()
        changed["etag"] = etag_of(changed)
        stored.resource = changed
        self._save_object(bucket, stored)

    def delete(self, bucket: Bucket, stored: StoredObject, *, for_good: bool = False) -> None:
        """Delete an object; where versions are kept it stays as one, unless it is `for_good`.

        Raises:
            GoogleError: 429.
        """
        name = str(stored.resource["name"])
        self._count_mutation(bucket, name)
        if bucket.objects.get(name) is not stored:
            bucket.versions.drop(name, stored)
            (self._content_folder / stored.content).unlink(missing_ok=True)
            return
        del bucket.objects[name]
        del bucket.names[bisect.bisect_left(bucket.names, name)]
        self._object_path(bucket, name).unlink(missing_ok=True)
        if for_good:
            (self._content_folder / stored.content).unlink(missing_ok=True)
        else:
            self._retire(bucket, name, stored)

    def _retire(self, bucket: Bucket, name: str, stored: StoredObject) -> None:
        """What is live no more: kept as a version, or gone."""
        if not bucket.keeps_versions:
            (self._content_folder / stored.content).unlink(missing_ok=True)
            return
        stored.resource = stored.resource | {"timeDeleted": _now()}
        entry = {"resource": stored.resource, "content": stored.content}
        bucket.versions.keep(name, stored, entry)

    def open(self, stored: StoredObject) -> BinaryIO:
        """Its bytes; what is open stays readable when the object is replaced."""
        return (self._content_folder / stored.content).open("rb")

    def copy_of(self, stored: StoredObject) -> Content:
        """The same bytes for another object, without copying them."""
        path = self._content_folder / secrets.token_hex(16)
        os.link(self._content_folder / stored.content, path)
        return Content(
            path=path,
            size=stored.size,
            md5=str(stored.resource.get("md5Hash", "")),
            crc32c=str(stored.resource["crc32c"]),
        )

    # ---------------------------------------------------------------- disk

    def _load(self) -> None:
        used = set()
        for path in self._buckets_folder.glob("*/bucket.json"):
            kept = json.loads(path.read_text(encoding="utf-8"))
            versions = self._versions(path.parent)
            bucket = Bucket(kept["resource"], kept["policy"], versions)
            for stored in versions.load(_stored_of):
                used.add(stored.content)
                self._last_generation = max(self._last_generation, stored.generation)
            for object_path in (path.parent / "objects").glob("*.json"):
                entry = json.loads(object_path.read_text(encoding="utf-8"))
                name, stored = _stored_of(entry)
                bucket.objects[name] = stored
                used.add(stored.content)
                self._last_generation = max(self._last_generation, stored.generation)
            bucket.names = sorted(bucket.objects)
            self._buckets[bucket.name] = bucket
        # What an interrupted upload left behind.
        for path in self._content_folder.iterdir():
            if path.name not in used:
                path.unlink()

    def _versions(self, folder: Path) -> Versions[StoredObject]:
        return Versions(folder / "versions", lambda stored: stored.generation)

    def _save_bucket(self, bucket: Bucket) -> None:
        bucket.resource["etag"] = etag_of(bucket.resource)
        path = self._buckets_folder / bucket.name / "bucket.json"
        _replace(path, {"resource": bucket.resource, "policy": bucket.policy})

    def _touch_bucket(self, bucket: Bucket) -> None:
        bucket.resource["metageneration"] = str(int(bucket.resource["metageneration"]) + 1)
        bucket.resource["updated"] = _now()
        self._save_bucket(bucket)

    def _save_object(self, bucket: Bucket, stored: StoredObject) -> None:
        path = self._object_path(bucket, str(stored.resource["name"]))
        _replace(path, {"resource": stored.resource, "content": stored.content})

    def _object_path(self, bucket: Bucket, name: str) -> Path:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return self._buckets_folder / bucket.name / "objects" / f"{digest}.json"

    def _next_generation(self) -> int:
        self._last_generation = max(self._last_generation + 1, time.time_ns() // 1000)
        return self._last_generation

    def _count_mutation(self, bucket: Bucket, name: str) -> None:
        if self.mutation_limit is None:
            return
        now = time.monotonic()
        if now - self._mutated.get((bucket.name, name), -1e9) < 1 / self.mutation_limit:
            raise GoogleError(
                429,
                "rateLimitExceeded",
                f"The object {bucket.name}/{name} exceeded the rate limit for object mutation "
                "operations (create, update, and delete). Please reduce your request rate. "
                "See https://cloud.google.com/storage/docs/gcs429.",
                domain="usageLimits",
            )
        self._mutated[bucket.name, name] = now


def _check_sums(fields: Mapping[str, Any], content: Content) -> None:
    for key, title, actual in (
        ("md5Hash", "MD5 hash", content.md5),
        ("crc32c", "CRC32C", content.crc32c),
    ):
        given = fields.get(key)
        if given and actual and given != actual:
            raise GoogleError(
                400,
                "invalid",
                f'Provided {title} "{given}" doesn\'t match calculated {title} "{actual}".',
            )


def _stored_of(entry: Mapping[str, Any]) -> tuple[str, StoredObject]:
    stored = StoredObject(entry["resource"], entry["content"])
    return str(stored.resource["name"]), stored


def condition_not_met() -> GoogleError:
    """412: something has changed since it was read."""
    return GoogleError(
        412,
        "conditionNotMet",
        "At least one of the pre-conditions you specified did not hold.",
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _replace(path: Path, value: object) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_text(json.dumps(value, ensure_ascii=True), encoding="ascii")
    temporary.replace(path)
