"""Who may do what with a bucket and its objects, and the policies that say so.

A service account's token is held to the project's policy and to the bucket's
(https://cloud.google.com/storage/docs/access-control/iam-json); whoever comes without one owns
the project. Buckets whose names begin with ``taken-`` are somebody else's.
"""

import base64
from collections.abc import Callable
from typing import Final

from aiohttp import web

from gcp_emulator.iam.callers import caller, is_permitted
from gcp_emulator.iam.errors import StatusError
from gcp_emulator.iam.policies import checked_bindings
from gcp_emulator.replies import GoogleError, Json
from gcp_emulator.storage.objects import Bucket, ObjectStore
from gcp_emulator.storage.resources import object_owners

FOREIGN: Final = "taken-"
"""How the names of other projects' buckets begin."""

_PERSON: Final = "you@example.org"
_PUBLIC: Final = frozenset({"allUsers", "allAuthenticatedUsers"})


def enter(
    request: web.Request, store: ObjectStore, permission: str, *, named: str = "bucket"
) -> Bucket:
    """The bucket that the path names, for somebody who wants to do something there.

    Args:
        request: The request.
        store: Where buckets are.
        permission: What they want to do: ``storage.objects.get``...
        named: The name of the path's part.

    Raises:
        GoogleError: 403 ``forbidden``, 404.
    """
    name = request.match_info[named]
    if name.startswith(FOREIGN):
        raise _forbidden(request, permission)
    bucket = store.bucket(name)
    _check(request, bucket, permission)
    return bucket


def check_overwriting(request: web.Request, bucket: Bucket, name: str) -> None:
    """Refuse to replace an object for somebody who may make but not delete one.

    Raises:
        GoogleError: 403 ``forbidden``.
    """
    if name in bucket.objects:
        _check(request, bucket, "storage.objects.delete")


def check_project(request: web.Request, permission: str) -> None:
    """Refuse who may not do something with the project's buckets.

    Raises:
        GoogleError: 403 ``forbidden``.
    """
    if not is_permitted(request, permission):
        raise _forbidden(request, permission)


def check_free(name: object) -> None:
    """Refuse to make a bucket of a name that somebody else has.

    Raises:
        GoogleError: 409 ``conflict``.
    """
    if isinstance(name, str) and name.startswith(FOREIGN):
        raise GoogleError(
            409,
            "conflict",
            "The requested bucket name is not available. The bucket namespace is shared by all "
            "users of the system. Please select a different name and try again.",
        )


def permits(request: web.Request, bucket: Bucket, permission: str) -> bool:
    """Whether whoever calls may do something with a bucket or its objects."""
    return is_permitted(request, permission, policies=_policies(bucket))


def policy_bindings(bucket: Bucket, policy: Json, check: Callable[[str], None]) -> list[Json]:
    """The bindings of a policy for a bucket, checked and in order.

    Args:
        bucket: The bucket.
        policy: The policy that was sent.
        check: Raises for a service account that does not exist.

    Raises:
        GoogleError: 400, or 412 for what the bucket's public access prevention forbids.
    """
    try:
        bindings = checked_bindings(policy.get("bindings"), policy.get("version") or 1, check)
    except StatusError as error:
        raise GoogleError(400, "invalid", error.message) from error
    for binding in bindings:
        role = str(binding["role"])
        if not role.startswith(("roles/storage.", "projects/", "organizations/")):
            raise GoogleError(400, "invalid", f"Role {role} is not supported for this resource.")
    prevention = bucket.resource["iamConfiguration"].get("publicAccessPrevention")
    if prevention == "enforced" and any(_PUBLIC & set(one["members"]) for one in bindings):
        raise GoogleError(
            412,
            "conditionNotMet",
            "The member bindings allUsers and allAuthenticatedUsers are not allowed since public "
            "access prevention is enforced.",
        )
    return bindings


def policy_etag(bucket: Bucket) -> str:
    """The etag of a bucket's policy: its metageneration as a protocol buffer, ``CAE=`` for 1."""
    number, encoded = int(bucket.resource["metageneration"]), bytearray(b"\x08")
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return base64.b64encode(encoded).decode()


def _check(request: web.Request, bucket: Bucket, permission: str) -> None:
    if not permits(request, bucket, permission):
        raise _forbidden(request, permission)


def _forbidden(request: web.Request, permission: str) -> GoogleError:
    kind = "object" if permission.startswith("storage.objects.") else "bucket"
    return GoogleError(
        403,
        "forbidden",
        f"{caller(request) or _PERSON} does not have {permission} access to the Google Cloud "
        f"Storage {kind}. Permission '{permission}' denied on resource (or it may not exist).",
    )


def _policies(bucket: Bucket) -> list[Json]:
    """The bucket's policy, and what the default access control lists of its objects amount to."""
    if bucket.resource["iamConfiguration"]["uniformBucketLevelAccess"].get("enabled"):
        return [bucket.policy]
    return [bucket.policy, {"bindings": object_owners(str(bucket.policy["project"]))}]
