"""What a sweep's instances are made of, and where their results go: template, image, bucket."""

from collections.abc import Iterator
from typing import Any, Final

from gcloud_ops import registry
from gcloud_ops.clients import CALL_TIMEOUT
from gcloud_ops.doctor.facts import Facts, Machine, roles_of
from gcloud_ops.doctor.findings import Finding, ok, problem, warning
from gcloud_ops.errors import NotFound
from gcloud_ops.resources import BucketPolicy
from gcloud_ops.resources.trainers import BUCKET_ROLE, account_email

__all__ = ["bucket", "bucket_roles", "image", "template"]

_SETUP: Final = "`gcloud-ops setup`"
_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"
_COS: Final = "/cos-cloud/"
_SMALLEST_DISK: Final = 20
_OBJECTS: Final = tuple(f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list"))
_WRITING: Final = (
    BUCKET_ROLE,
    "roles/storage.objectAdmin",
    "roles/storage.admin",
    "roles/editor",
    "roles/owner",
)
_MULTI: Final = {"eu": "europe", "us": "us", "asia": "asia"}
"""Multi-regions, and how the regions in them begin."""


def template(facts: Facts) -> Iterator[Finding]:
    """Whether the template is there, and its instances start a trainer."""
    name = "template"
    try:
        machine = facts.machine()
    except NotFound as error:
        yield problem(name, error.message, f"{_SETUP} makes one, or `gcloud-ops template create`")
        return
    if machine.container is None:
        yield problem(
            name,
            f"{machine.template} is none of ours: its instances start no container",
            "make one with `gcloud-ops template create`, and name it in the sweep",
        )
        return
    amiss = list(_template_faults(machine))
    yield from amiss
    if not amiss:
        yield ok(name, f"{machine.template}: {machine.machine_type}, {machine.disk_gb} GB")


def image(facts: Facts) -> Iterator[Finding]:
    """Whether the registry has the template's image."""
    container = facts.machine().container
    if container is None:
        return
    name = "image"
    try:
        digest = registry.digest_of(facts.clients, container.image)
    except NotFound as error:
        yield problem(name, error.message, "build and push it: docs/image.md")
        return
    if digest:
        yield ok(name, f"{container.image} is {digest[:19]}")
        return
    yield warning(
        name,
        f"the registry of {container.image} doesn't tell us whether it is there",
        "see that the instances can pull it: `docker pull` it with their rights",
    )


def bucket(facts: Facts) -> Iterator[Finding]:
    """Whether the bucket is there, ours to write, near the instances, and kept well."""
    name, clients = "bucket", facts.clients
    try:
        found = clients.call(
            f"bucket {facts.bucket}",
            lambda: clients.storage.get_bucket(facts.bucket, retry=None, timeout=CALL_TIMEOUT),
        )
    except NotFound:
        yield warning(
            name,
            f"there is no gs://{facts.bucket}; the first launch makes it, but gives the "
            "instances' account no role on it",
            f"{_SETUP} does both",
        )
        return
    held = clients.call(
        f"bucket {facts.bucket}",
        lambda: found.test_iam_permissions(list(_OBJECTS), retry=None, timeout=CALL_TIMEOUT),
    )
    missing = [one for one in _OBJECTS if one not in held]
    if missing:
        yield problem(
            name,
            f"we lack {', '.join(missing)} on gs://{facts.bucket}",
            "ask for the role roles/storage.objectAdmin on the bucket",
        )
    amiss = list(_bucket_faults(found, facts.region))
    yield from amiss
    if not amiss and not missing:
        yield ok(name, f"gs://{facts.bucket} in {str(found.location).lower()}")


def bucket_roles(facts: Facts) -> Iterator[Finding]:
    """Whether the instances' account may write to the bucket."""
    name, email = "instances' role on the bucket", facts.account()
    if not email:
        return
    try:
        policy = BucketPolicy(facts.place, facts.bucket).read()
    except NotFound:
        return  # `bucket` says so
    held = {*roles_of(policy, email), *roles_of(facts.policy(), email)}
    writing = held.intersection(_WRITING)
    if writing:
        yield ok(name, f"{email} may write to gs://{facts.bucket}")
        return
    tell = problem if email == account_email(facts.clients.project) else warning
    yield tell(
        name,
        f"{email} has no role that we know to let it write to gs://{facts.bucket}: no record, "
        "log or result of its instances would arrive",
        f"{_SETUP.rstrip('`')} --bucket {facts.bucket}` grants {BUCKET_ROLE}",
    )


def _template_faults(machine: Machine) -> Iterator[Finding]:
    name = "template"
    advice = "make another with `gcloud-ops template create`"
    if machine.account and _PLATFORM not in machine.scopes:
        yield warning(
            name,
            f"{machine.template}: its instances don't have the scope cloud-platform, which limits "
            "their account further",
            advice,
        )
    if _COS not in machine.boot_image:
        yield problem(
            name,
            f"{machine.template}: its boot image is no Container-Optimized OS, and starts no "
            "container",
            advice,
        )
    if machine.disk_gb < _SMALLEST_DISK:
        yield warning(
            name,
            f"{machine.template}: a disk of {machine.disk_gb} GB is small for the image and "
            "what a training writes",
            f"{advice} --disk-gb {_SMALLEST_DISK}",
        )


def _bucket_faults(found: Any, region: str) -> Iterator[Finding]:
    name, location = "bucket", str(found.location).lower()
    kind = str(found.location_type or "")
    if kind in {"", "region"} and location != region:
        yield warning(
            name,
            f"gs://{found.name} is in {location}, the instances in {region}: traffic between "
            "regions is slower, and billed",
            f"use a bucket in {region}, or a zone of {location}",
        )
    elif kind == "multi-region" and not region.startswith(_MULTI.get(location, region)):
        yield warning(
            name,
            f"gs://{found.name} is in {location}, the instances in {region}: traffic between "
            "continents is slow, and billed",
            "use a bucket near the instances",
        )
    rules = found.iam_configuration
    if not rules.uniform_bucket_level_access_enabled:
        yield warning(
            name,
            f"gs://{found.name} has access lists of single objects beside its roles",
            "`gcloud storage buckets update --uniform-bucket-level-access`",
        )
    if rules.public_access_prevention != "enforced":
        yield warning(
            name,
            f"gs://{found.name} could be opened to the public",
            "`gcloud storage buckets update --public-access-prevention`",
        )
    if found.retention_period:
        yield problem(
            name,
            f"gs://{found.name} forbids to replace objects for {found.retention_period} s, and "
            "records are replaced every few seconds",
            "use a bucket without a retention policy",
        )
    if found.versioning_enabled:
        yield warning(
            name,
            f"gs://{found.name} keeps versions: each replaced record and checkpoint is billed",
            "`gcloud storage buckets update --no-versioning`, or a lifecycle rule",
        )
    soft = getattr(found, "soft_delete_policy", None)
    seconds = int(getattr(soft, "retention_duration_seconds", 0) or 0)
    if seconds:
        yield warning(
            name,
            f"gs://{found.name} keeps what is deleted or replaced for {seconds // 86400} days, "
            "which is billed: records are replaced every few seconds",
            "`gcloud storage buckets update --clear-soft-delete`",
        )
