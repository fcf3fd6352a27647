"""Who we are and what we may do: credentials, project, APIs, permissions; and what the VMs may."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gcloud_ops.clients import Clients
from gcloud_ops.doctor.facts import Facts, roles_of
from gcloud_ops.doctor.findings import Finding, ok, problem, warning
from gcloud_ops.errors import CredentialsMissing, NotFound
from gcloud_ops.resources.trainers import (
    APIS,
    PROJECT_ROLES,
    RUNNER_PERMISSIONS,
    account_email,
    role_name,
)

__all__ = ["PERMISSIONS", "account", "acting", "apis", "credentials", "permissions", "project"]

PERMISSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "launch": (
        "compute.disks.create",
        "compute.instanceGroupManagers.create",
        "compute.instanceGroupManagers.get",
        "compute.instanceGroupManagers.update",
        "compute.instanceTemplates.create",
        "compute.instanceTemplates.get",
        "compute.instanceTemplates.useReadOnly",
        "compute.instances.create",
        "compute.instances.setLabels",
        "compute.instances.setMetadata",
        "compute.subnetworks.use",
        "compute.zones.get",
    ),
    "watch": (
        "compute.instanceGroupManagers.list",
        "compute.instances.get",
        "compute.instances.getGuestAttributes",
        "compute.instances.getSerialPortOutput",
        "compute.instances.list",
    ),
    "cancel and delete": (
        "compute.instanceGroupManagers.delete",
        "compute.instanceTemplates.delete",
        "compute.instances.delete",
    ),
    "alerts": (
        "monitoring.alertPolicies.create",
        "monitoring.alertPolicies.list",
        "monitoring.notificationChannels.list",
    ),
}
"""What whoever launches, watches and cancels sweeps needs in the project, by what for."""

_VITAL: Final = ("launch",)
_DOINGS: Final = ("launch", "watch", "cancel and delete")
_ROLES: Final[Mapping[str, str]] = {
    "launch": "roles/compute.instanceAdmin.v1",
    "watch": "roles/compute.instanceAdmin.v1",
    "cancel and delete": "roles/compute.instanceAdmin.v1",
    "alerts": "roles/monitoring.editor",
    "SSH through IAP": "roles/iap.tunnelResourceAccessor",
}
_ACT_AS: Final = "iam.serviceAccounts.actAs"
_BROAD: Final = ("roles/owner", "roles/editor", "roles/compute.admin")
_LEAVES: Final = (*_BROAD, "roles/compute.instanceAdmin.v1", "roles/compute.instanceAdmin")
_SETUP: Final = "`gcloud-ops setup`"


def credentials(clients: Clients) -> Finding:
    """Whether we are somebody; without, no other question can be asked."""
    name = "credentials"
    if not clients.settings.is_google:
        return ok(name, f"none are needed at {clients.settings.endpoint}")
    login = "run `gcloud auth application-default login`"
    try:
        clients.token()
    except CredentialsMissing as error:
        return problem(name, error.message, error.hint or login)
    found: Any = clients.credentials()
    email = getattr(found, "service_account_email", "") or getattr(found, "account", "")
    is_person = not hasattr(found, "service_account_email")
    if is_person and not getattr(found, "quota_project_id", None):
        return warning(
            name,
            "valid, but they name no quota project: some APIs refuse a person's calls then",
            f"run `gcloud auth application-default set-quota-project {clients.project}`",
        )
    return ok(name, f"valid{f', of {email}' if email and email != 'default' else ''}")


def project(facts: Facts) -> Iterator[Finding]:
    """Whether the project is there and in use."""
    found = facts.project()
    state = found.get("lifecycleState", "ACTIVE")
    if state == "ACTIVE":
        yield ok("project", f"{facts.clients.project} (number {found['projectNumber']})")
    else:
        yield problem(
            "project",
            f"{facts.clients.project} is {state}",
            "take it back with `gcloud projects undelete`, or name another with --project",
        )


def apis(facts: Facts) -> Iterator[Finding]:
    """Whether the APIs are enabled."""
    clients = facts.clients
    parent = f"projects/{clients.project}"
    request = clients.api("serviceusage", "v1").services()
    found = clients.execute(
        "APIs",
        request.batchGet(parent=parent, names=[f"{parent}/services/{name}" for name in APIS]),
    )
    enabled = {
        str(one["name"]).rpartition("/")[2]
        for one in found.get("services", [])
        if one.get("state") == "ENABLED"
    }
    missing = [name for name in APIS if name not in enabled]
    if not missing:
        yield ok("APIs", f"all {len(APIS)} are enabled")
        return
    advice = f"run `gcloud services enable {' '.join(missing)}`, or {_SETUP}"
    vital = {"compute.googleapis.com", "storage.googleapis.com"}.intersection(missing)
    words = f"not enabled: {', '.join(missing)}"
    yield problem("APIs", words, advice) if vital else warning("APIs", words, advice)


def permissions(facts: Facts, *, iap: bool = False) -> Iterator[Finding]:
    """Whether we may do what the commands do; in one call for all."""
    clients = facts.clients
    wanted = dict(PERMISSIONS)
    if iap:
        wanted["SSH through IAP"] = ("iap.tunnelInstances.accessViaIAP",)
    request = clients.api("cloudresourcemanager", "v1").projects()
    asked = sorted({one for group in wanted.values() for one in group})
    reply = clients.execute(
        f"project {clients.project}",
        request.testIamPermissions(resource=clients.project, body={"permissions": asked}),
        repeat=True,
    )
    held = set(reply.get("permissions", []))
    for purpose, needed in wanted.items():
        yield _held(purpose, [one for one in needed if one not in held])


def acting(facts: Facts) -> Iterator[Finding]:
    """Whether we may start instances that act as the trainers' account."""
    name, clients = "permission to act as the instances' account", facts.clients
    email = facts.account()
    if not email:
        return
    accounts = clients.api("iam", "v1").projects().serviceAccounts()
    request = accounts.testIamPermissions(
        resource=f"projects/{clients.project}/serviceAccounts/{email}",
        body={"permissions": [_ACT_AS]},
    )
    try:
        reply = clients.execute(f"service account {email}", request, repeat=True)
    except NotFound:
        return  # `account` says so
    if _ACT_AS in reply.get("permissions", []):
        yield ok(name, f"we may act as {email}")
        return
    yield problem(
        name,
        f"we lack {_ACT_AS} on {email}: Google refuses to make instances that act as it",
        f"ask for the role roles/iam.serviceAccountUser on {email}",
    )


def account(facts: Facts) -> Iterator[Finding]:
    """Whether the account of the instances is there, and may do what the runner does."""
    name, clients = "instances' account", facts.clients
    email = facts.account()
    if not email:
        yield problem(
            name,
            f"the template {facts.machine().template} names no service account: its instances "
            "can't read their command, report, or remove themselves",
            f"make a template with one: {_SETUP}",
        )
        return
    accounts = clients.api("iam", "v1").projects().serviceAccounts()
    path = f"projects/{clients.project}/serviceAccounts/{email}"
    try:
        found = clients.execute(f"service account {email}", accounts.get(name=path))
    except NotFound:
        yield problem(
            name, f"there is no {email}", f"{_SETUP} makes {account_email(clients.project)}"
        )
        return
    if found.get("disabled"):
        yield problem(
            name,
            f"{email} is disabled",
            f"run `gcloud iam service-accounts enable {email}`",
        )
        return
    yield from _roles(facts, email)


def _held(purpose: str, missing: list[str]) -> Finding:
    name = f"permission to {purpose}" if purpose in _DOINGS else f"permission for {purpose}"
    if not missing:
        return ok(name, "we have all that it takes")
    words = f"we lack {', '.join(missing)}"
    advice = f"ask for the role {_ROLES[purpose]} in the project"
    return (problem if purpose in _VITAL else warning)(name, words, advice)


def _roles(facts: Facts, email: str) -> Iterator[Finding]:
    name, project = "roles of the instances' account", facts.clients.project
    held = set(roles_of(facts.policy(), email))
    broad = held.intersection(_BROAD)
    if broad:
        yield warning(
            name,
            f"{email} has {', '.join(sorted(broad))}: who breaks into a VM has the project",
            f"{_SETUP} makes an account with few permissions; docs/security.md says which",
        )
        return
    custom = role_name(project)
    if custom in held:
        lacking = _lacking(facts, custom)
        if lacking:
            yield problem(
                name,
                f"the role {custom} lacks {', '.join(lacking)}: VMs can't remove themselves",
                f"{_SETUP} gives it them",
            )
            return
    elif not held.intersection(_LEAVES):
        yield problem(
            name,
            f"{email} has no role that we know to let a VM leave its group: finished VMs "
            "would stay, and cost",
            f"{_SETUP} grants {custom}",
        )
        return
    missing = [one for one in PROJECT_ROLES if one not in held]
    if missing:
        what = "; ".join(f"without {one} it can't {PROJECT_ROLES[one]}" for one in missing)
        yield warning(name, f"{email}: {what}", f"{_SETUP} grants them")
        return
    yield ok(name, f"{email} may do what the trainer needs")


def _lacking(facts: Facts, role: str) -> list[str]:
    roles = facts.clients.api("iam", "v1").projects().roles()
    try:
        found = facts.clients.execute(f"role {role}", roles.get(name=role))
    except NotFound:
        found = {}
    has = set() if found.get("deleted") else set(found.get("includedPermissions", []))
    return [one for one in RUNNER_PERMISSIONS if one not in has]
