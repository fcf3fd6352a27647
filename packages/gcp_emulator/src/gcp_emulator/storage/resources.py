"""What a bucket or an object may say of itself: names, fields that clients choose, defaults."""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from gcp_emulator.replies import GoogleError, Json

METADATA_LIMIT: Final = 8 * 1024
"""Bytes of an object's custom metadata, keys and values together."""


def check_name(name: str) -> None:
    """https://cloud.google.com/storage/docs/objects#naming: 1 to 1024 bytes, no line ends.

    Raises:
        GoogleError: 400.
    """
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        length = 0
    if not 1 <= length <= 1024:
        raise GoogleError(400, "invalid", f"The object name is empty or too long: {length} bytes")
    if "\r" in name or "\n" in name or name in (".", ".."):
        raise GoogleError(400, "invalid", f"Disallowed object name: {name!r}")
    if name.startswith(".well-known/acme-challenge/"):
        raise GoogleError(400, "invalid", f"Disallowed object name: {name!r}")


OBJECT_FIELDS: Final = (
    "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType",
    "customTime", "eventBasedHold", "metadata", "storageClass", "temporaryHold",
)  # fmt: skip
BUCKET_FIELDS: Final = (
    "autoclass", "billing", "cors", "defaultEventBasedHold", "encryption", "iamConfiguration",
    "labels", "lifecycle", "logging", "retentionPolicy", "rpo", "softDeletePolicy",
    "storageClass", "versioning", "website", "hierarchicalNamespace",
)  # fmt: skip


def object_fields(fields: Mapping[str, Any]) -> Json:
    """Those fields of an object that a client may choose, checked.

    Raises:
        GoogleError: 400 for wrong types and for too much custom metadata.
    """
    kept = {key: fields[key] for key in OBJECT_FIELDS if fields.get(key) is not None}
    metadata = kept.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise GoogleError(400, "invalid", "Invalid value for: metadata must map texts to texts")
    size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
    if size > METADATA_LIMIT:
        raise GoogleError(
            400,
            "invalid",
            "The metadata for your object exceeds the maximum allowed size: "
            f"{size} bytes, at most {METADATA_LIMIT}",
        )
    for key, value in kept.items():
        wanted: type = bool if key in ("eventBasedHold", "temporaryHold") else str
        if key != "metadata" and not isinstance(value, wanted):
            raise GoogleError(400, "invalid", f"Invalid value for: {key}")
    return kept


def valid_bucket_name(name: str) -> bool:
    """https://cloud.google.com/storage/docs/buckets#naming."""
    if not re.fullmatch(r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]", name):
        return False
    parts = name.split(".")
    if any(not 1 <= len(part) <= 63 for part in parts) or re.fullmatch(r"\d+(\.\d+){3}", name):
        return False
    return not name.startswith("goog") and "google" not in name


def project_number(project: str) -> str:
    """A number for a project's name, always the same; that of `compute` and `iam`."""
    digest = int.from_bytes(hashlib.sha256(project.encode()).digest()[:8])
    return str(100_000_000_000 + digest % 900_000_000_000)


def owners(project: str, *, uniform: bool) -> list[Json]:
    """The bindings of a new bucket's policy; with `uniform` access, those for its objects too.

    https://cloud.google.com/storage/docs/access-control/iam-roles#basic-roles-modifiable
    """
    buckets = _legacy("Bucket", project)
    return [*buckets, *object_owners(project)] if uniform else buckets


def object_owners(project: str) -> list[Json]:
    """What the project's owners, editors and viewers may do with objects, to begin with."""
    return _legacy("Object", project)


def _legacy(kind: str, project: str) -> list[Json]:
    owning = [f"projectEditor:{project}", f"projectOwner:{project}"]
    return [
        {"role": f"roles/storage.legacy{kind}Owner", "members": owning},
        {"role": f"roles/storage.legacy{kind}Reader", "members": [f"projectViewer:{project}"]},
    ]


def complete_iam(resource: Json, now: str) -> None:
    """The parts of iamConfiguration that Google fills in."""
    configuration = resource.setdefault("iamConfiguration", {})
    configuration.setdefault("publicAccessPrevention", "inherited")
    access = configuration.setdefault("uniformBucketLevelAccess", {"enabled": False})
    if access.get("enabled"):
        access.setdefault("lockedTime", now)
    else:
        access.pop("lockedTime", None)
    configuration["bucketPolicyOnly"] = dict(access)


def merge(target: Json, changes: Mapping[str, Any]) -> None:
    """JSON merge patch (RFC 7396)."""
    for key, value in changes.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            inner = target.get(key)
            target[key] = dict(inner) if isinstance(inner, dict) else {}
            merge(target[key], value)
        else:
            target[key] = value


def etag_of(resource: Mapping[str, Any]) -> str:
    """The etag of an object or a bucket."""
    text = f"{resource['generation']}/{resource['metageneration']}"
    return base64.b64encode(text.encode()).decode()
