"""What a sweep needs beside permissions: template, image, bucket, a way in, somebody to tell."""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from gcloud_ops import alerts, registry
from gcloud_ops.clients import CALL_TIMEOUT
from gcloud_ops.compute import last_part
from gcloud_ops.contract import Dispatch
from gcloud_ops.doctor.facts import Facts, Machine, roles_of
from gcloud_ops.doctor.findings import Finding, ok, problem, warning
from gcloud_ops.errors import NotFound
from gcloud_ops.iap import RELAY_ADDRESSES
from gcloud_ops.resources import BucketPolicy
from gcloud_ops.resources.trainers import BUCKET_ROLE, account_email
from gcloud_ops.ssh import public_key_line
from gcloud_ops.tracking import SERVER

__all__ = [
    "bucket",
    "bucket_roles",
    "channels",
    "image",
    "key",
    "needs_iap",
    "ssh",
    "template",
    "tracking",
]

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
_CONNECT_SECONDS: Final = 3.0


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


def key(facts: Facts) -> Iterator[Finding]:
    """Whether the SSH key on this machine can be used; a missing one is made when needed."""
    path = facts.clients.settings.ssh_key
    if not path.exists():
        yield ok("SSH key", f"{path} is made at the first use")
        return
    public_key_line(facts.clients.settings)
    yield ok("SSH key", str(path))


def needs_iap(facts: Facts) -> bool:
    """Whether SSH to the instances goes through IAP."""
    iap = facts.clients.settings.iap
    return iap == "always" or (iap == "auto" and not facts.machine().external_address)


def ssh(facts: Facts) -> Iterator[Finding]:
    """Whether the firewall lets SSH come to the instances, directly or through IAP."""
    name, clients, machine = "SSH", facts.clients, facts.machine()
    through_iap = needs_iap(facts)
    rules = clients.read_all("firewall rules", clients.firewalls.list, project=clients.project)
    account = facts.account()
    if not clients.settings.is_google and not through_iap:
        yield ok(name, "another cloud: how its instances are reached is its own affair")
        return
    port = clients.settings.ssh_port if clients.settings.is_google else 22
    open_to = {
        source
        for rule in rules
        if _admits_ssh(rule, machine, account, port=port)
        for source in rule.source_ranges
    }
    way = f"through IAP ({RELAY_ADDRESSES})" if through_iap else "on their external addresses"
    everybody = "0.0.0.0/0" in open_to
    if everybody or (RELAY_ADDRESSES in open_to if through_iap else open_to):
        if everybody:
            yield ok(name, f"{way}; the whole Internet may try, keys alone let in")
        else:
            yield ok(name, f"{way}, from {', '.join(sorted(open_to))}")
        return
    words = f"no firewall rule lets SSH reach the instances {way}"
    advice = (
        f"{_SETUP.rstrip('`')} --iap` makes one"
        if through_iap
        else "see `gcloud compute firewall-rules create --help`, or use IAP: "
        f"{_SETUP.rstrip('`')} --iap`"
    )
    if facts.sweep is not None and facts.sweep.dispatch is Dispatch.SSH:
        yield problem(name, words, advice)
    else:
        yield warning(
            name,
            f"{words}; sweeps run without, shells in them don't",
            advice,
        )


def tracking(facts: Facts) -> Iterator[Finding]:
    """Whether the tracking server that the template names answers, and its secret is there."""
    name, clients = "tracking server", facts.clients
    container = facts.machine().container
    uri = (container.environment if container else {}).get("MLFLOW_TRACKING_URI", "")
    if not uri:
        yield ok(name, "the template names none: results are in the bucket alone")
        return
    up = "`mlflow-infra status` tells more"
    host = urlsplit(uri).hostname or ""
    if host.endswith(".internal"):
        yield _server(facts, host.split(".")[1])
    elif _answers(uri):
        yield ok(name, f"{_bare(uri)} answers")
    else:
        yield warning(name, f"{_bare(uri)} doesn't answer from here", up)
    secret = (container.environment if container else {}).get("SINERGYM_MLFLOW_SECRET", "")
    if not secret:
        return
    secrets = clients.api("secretmanager", "v1").projects().secrets()
    try:
        policy = clients.execute(
            f"secret {secret}",
            secrets.getIamPolicy(resource=secret, options_requestedPolicyVersion=3),
        )
    except NotFound:
        yield problem("tracking secret", f"there is no {secret}", "`mlflow-infra up` makes it")
        return
    member = f"serviceAccount:{facts.account()}"
    if any(member in binding.get("members", []) for binding in policy.get("bindings", [])):
        yield ok("tracking secret", f"the instances' account may read {last_part(secret)}")
        return
    yield warning(
        "tracking secret",
        f"{facts.account()} has no role on {last_part(secret)}: unless the project gives it one, "
        "trainers can't log",
        f"{_SETUP} grants it",
    )


def channels(facts: Facts) -> Iterator[Finding]:
    """Whether somebody is told of ends and failures."""
    name, clients = "alerts", facts.clients
    if not clients.settings.has_monitoring:
        yield ok(name, "this cloud has no Cloud Monitoring")
        return
    listed = alerts.list_channels(clients)
    told = {one for policy in alerts.list_policies(clients) for one in policy.channels}
    used = [one for one in listed if one.name in told and one.enabled]
    if not told or not used:
        yield warning(
            name,
            "nobody is told when experiments end or fail",
            "`gcloud-ops alerts setup --to YOU@EXAMPLE.ORG`",
        )
        return
    unverified = [one for one in used if one.is_unverified]
    for one in unverified:
        yield warning(
            name,
            f"{one.display_name}: nothing arrives there until it is verified",
            f"`gcloud-ops alerts channels verify {one.id}`",
        )
    if not unverified:
        yield ok(name, f"{len(used)} channels are told")


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


def _admits_ssh(rule: Any, machine: Machine, account: str, *, port: int) -> bool:
    """Whether a rule lets SSH reach the instances, if no other one denies it."""
    if rule.direction not in {"", "INGRESS"} or rule.disabled:
        return False
    if last_part(rule.network) != machine.network:
        return False
    tags, accounts = list(rule.target_tags), list(rule.target_service_accounts)
    if tags and not set(tags).intersection(machine.tags):
        return False
    if accounts and account not in accounts:
        return False
    return any(_opens(one, port) for one in rule.allowed)


def _opens(allowed: Any, port: int) -> bool:
    if allowed.I_p_protocol not in {"tcp", "6", "all"}:
        return False
    spans = [str(one).partition("-") for one in allowed.ports]
    return not spans or any(int(low) <= port <= int(high or low) for low, _, high in spans)


def _server(facts: Facts, zone: str) -> Finding:
    """The state of the server's VM, whose name only the network's own DNS knows."""
    name, clients = "tracking server", facts.clients
    try:
        found = clients.read(
            f"instance {SERVER}",
            clients.instances.get,
            project=clients.project,
            zone=zone,
            instance=SERVER,
        )
    except NotFound:
        return warning(name, f"there is no instance {SERVER} in {zone}", "`mlflow-infra up`")
    if found.status == "RUNNING":
        return ok(name, f"{SERVER} runs in {zone}; `mlflow-infra status` looks deeper")
    return warning(name, f"{SERVER} is {found.status}", "`mlflow-infra up` starts it")


def _answers(uri: str) -> bool:
    import requests

    try:
        return (
            requests.get(f"{uri.rstrip('/')}/health", timeout=_CONNECT_SECONDS).status_code < 500
        )
    except requests.RequestException:
        return False


def _bare(uri: str) -> str:
    """Without what may be secret in it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
