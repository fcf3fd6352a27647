"""Custom roles, tokens for callers with few roles, and what they may do in Compute Engine."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import googleapiclient
import pytest
import requests
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from gcp_emulator.iam.enforcing import permission_of

from .iam_cloud import PROJECT, ThreadedCloud, call, refused, running

ZONE = "europe-west1-b"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedCloud]:
    """A cloud for tests that mind nobody else's roles."""
    with running(tmp_path_factory.mktemp("enforcing") / "cloud") as cloud:
        yield cloud


def roles(cloud: ThreadedCloud) -> Any:
    """The custom roles' methods."""
    return cloud.api("iam").projects().roles()


def make_role(cloud: ThreadedCloud, name: str, *permissions: str) -> str:
    """Make a custom role; its full name."""
    body = {"roleId": name, "role": {"title": name, "includedPermissions": [*permissions]}}
    return str(call(roles(cloud).create(parent=PROJECT, body=body))["name"])


def token_of(cloud: ThreadedCloud, email: str) -> str:
    """A token, as Google gives it to whoever may have it."""
    request = (
        cloud.api("iamcredentials")
        .projects()
        .serviceAccounts()
        .generateAccessToken(name=f"projects/-/serviceAccounts/{email}", body={"scope": SCOPES})
    )
    return str(call(request)["accessToken"])


def compute(cloud: ThreadedCloud, email: str) -> Any:
    """Compute Engine, for a service account."""
    return build(
        "compute",
        "v1",
        credentials=Credentials(token=token_of(cloud, email)),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": f"{cloud.url}/compute/v1/"},
        static_discovery=True,
        cache_discovery=False,
    )


def test_a_custom_role_through_its_life(cloud: ThreadedCloud) -> None:
    """It is made, read, changed with its etag, deleted, and comes back."""
    name = make_role(cloud, "trainer.v1", "compute.instanceGroupManagers.get")
    assert name == f"{PROJECT}/roles/trainer.v1"
    refused(
        roles(cloud).create(parent=PROJECT, body={"roleId": "trainer.v1"}), 409, "ALREADY_EXISTS"
    )

    first = call(roles(cloud).get(name=name))
    body = {"includedPermissions": ["b.c.d", "a.b.c"], "title": "other", "etag": first["etag"]}
    second = call(roles(cloud).patch(name=name, body=body, updateMask="included_permissions"))
    assert (second["title"], second["includedPermissions"]) == ("trainer.v1", ["a.b.c", "b.c.d"])
    refused(roles(cloud).patch(name=name, body=body), 409, "ABORTED")

    (listed,) = [r for r in call(roles(cloud).list(parent=PROJECT))["roles"] if r["name"] == name]
    assert "includedPermissions" not in listed
    (full,) = [
        r
        for r in call(roles(cloud).list(parent=PROJECT, view="FULL"))["roles"]
        if r["name"] == name
    ]
    assert full == second

    assert call(roles(cloud).delete(name=name))["deleted"]
    shown = call(roles(cloud).list(parent=PROJECT)).get("roles", [])
    assert name not in [role["name"] for role in shown]
    refused(
        roles(cloud).create(parent=PROJECT, body={"roleId": "trainer.v1"}),
        400,
        "FAILED_PRECONDITION",
        "in a deleted state",
    )
    assert "deleted" not in call(roles(cloud).undelete(name=name, body={}))
    refused(roles(cloud).undelete(name=name, body={}), 400, "FAILED_PRECONDITION")
    refused(roles(cloud).get(name=f"{PROJECT}/roles/none"), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"roleId": "no"}, "minimum of 3"),
        ({"roleId": "with-dash"}, "letters, digits"),
        ({"roleId": "wild", "role": {"includedPermissions": ["compute.*"]}}, "compute.*"),
        ({"roleId": "staged", "role": {"stage": "SOON"}}, "stage"),
        ({"roleId": "titled", "role": {"title": "x" * 101}}, "at most 100"),
    ],
)
def test_what_is_no_role(cloud: ThreadedCloud, body: dict[str, Any], words: str) -> None:
    """What can't be is refused, and nothing is made."""
    refused(roles(cloud).create(parent=PROJECT, body=body), 400, "INVALID_ARGUMENT", words)
    refused(roles(cloud).get(name=f"{PROJECT}/roles/{body['roleId']}"), 404, "NOT_FOUND")


def test_a_custom_role_counts_until_it_is_deleted(cloud: ThreadedCloud) -> None:
    """What its holder may do follows the role; testIamPermissions tells it, in v1 and v3."""
    email = cloud.make_account("some-runner")
    name = make_role(cloud, "runner", "compute.instanceGroupManagers.get", "compute.zones.get")
    cloud.grant(name, f"serviceAccount:{email}")
    groups = compute(cloud, email).instanceGroupManagers()
    asked = ["compute.instanceGroupManagers.get", "compute.instanceGroupManagers.update"]
    someone = cloud.as_account(email)

    for version, field in (("v1", "resource"), ("v3", "resource")):
        projects = someone.api("cloudresourcemanager", version).projects()
        where = "local" if version == "v1" else PROJECT
        request = projects.testIamPermissions(**{field: where}, body={"permissions": asked})
        assert request.execute() == {"permissions": asked[:1]}
    with pytest.raises(HttpError, match="was not found"):
        groups.get(project="local", zone=ZONE, instanceGroupManager="none").execute()
    denied = (
        "Required 'compute.instanceGroupManagers.update' permission for 'projects/local/zones/"
    )
    with pytest.raises(HttpError) as caught:
        groups.deleteInstances(
            project="local", zone=ZONE, instanceGroupManager="none", body={}
        ).execute()
    error = json.loads(caught.value.content)["error"]
    assert (error["code"], error["errors"][0]["reason"]) == (403, "forbidden")
    assert error["message"].startswith(denied)

    call(roles(cloud).delete(name=name))
    with pytest.raises(HttpError, match=r"Required 'compute\.zones\.get' permission"):
        compute(cloud, email).zones().get(project="local", zone=ZONE).execute()


def test_a_template_with_an_account_needs_to_act_as_it(cloud: ThreadedCloud) -> None:
    """Who makes a template with a service account must be its user."""
    launcher = cloud.make_account("some-launcher")
    trainer = cloud.make_account("some-trainer")
    cloud.grant("roles/compute.instanceAdmin.v1", f"serviceAccount:{launcher}")
    templates = compute(cloud, launcher).instanceTemplates()
    body = {
        "name": "acting",
        "properties": {
            "machineType": "n2-highcpu-8",
            "disks": [{"boot": True}],
            "networkInterfaces": [{}],
            "serviceAccounts": [{"email": trainer, "scopes": SCOPES}],
        },
    }
    insert = templates.insert(project="local", body=body)

    with pytest.raises(HttpError, match=f"access to service account '{trainer}'") as caught:
        insert.execute()
    reason = json.loads(caught.value.content)["error"]["errors"][0]["reason"]
    assert reason == "SERVICE_ACCOUNT_ACCESS_DENIED"

    policy = {
        "bindings": [
            {"role": "roles/iam.serviceAccountUser", "members": [f"serviceAccount:{launcher}"]}
        ]
    }
    resource = f"{PROJECT}/serviceAccounts/{trainer}"
    call(cloud.accounts.setIamPolicy(resource=resource, body={"policy": policy}))
    assert insert.execute()["kind"] == "compute#operation"


def test_a_role_that_is_not_there(cloud: ThreadedCloud) -> None:
    """A policy can't name a custom role of the project that does not exist."""
    policy = call(cloud.projects.getIamPolicy(resource="local", body={}))
    missing = {"role": f"{PROJECT}/roles/missing", "members": ["user:ana@example.org"]}
    policy["bindings"].append(missing)

    refused(
        cloud.projects.setIamPolicy(resource="local", body={"policy": policy}),
        400,
        "INVALID_ARGUMENT",
        "does not exist in the resource's hierarchy",
    )


RUNNER = {
    # What a VM's runner calls, and what each call needs.
    "storage.objects.create": "write, overwrite",
    "storage.objects.delete": "overwrite",
    "storage.objects.get": "read",
    "storage.objects.list": "list",
    "monitoring.timeSeries.create": "tell",
    "secretmanager.versions.access": "open",
    "compute.instanceGroupManagers.get": "look",
    "compute.instanceGroupManagers.update": "leave",
    "compute.instanceGroupManagers.delete": "close",
    "compute.zoneOperations.get": "wait",
}


@pytest.mark.parametrize("missing", ["", *RUNNER])
def test_each_permission_of_a_runner_counts(cloud: ThreadedCloud, missing: str) -> None:
    """With all of them every call is taken; without one, only what needs it is refused."""
    name = re.sub(r"[^a-z]", "", missing.lower())[-20:] or "complete"
    email = cloud.make_account(f"runner-{name}"[:30])
    role = make_role(cloud, name, *(one for one in RUNNER if one != missing))
    cloud.grant(role, f"serviceAccount:{email}")

    refusals = {what: status for what, status in calls_of(cloud, email) if status == 403}

    assert ", ".join(refusals) == RUNNER.get(missing, "")


def calls_of(cloud: ThreadedCloud, email: str) -> Iterator[tuple[str, int]]:
    """Each call of a runner, and the status of its answer."""
    enable_once(cloud)
    headers = {"Authorization": f"Bearer {token_of(cloud, email)}"}
    groups = f"/compute/v1/projects/local/zones/{ZONE}/instanceGroupManagers/none"
    series = {
        "metric": {"type": "custom.googleapis.com/x"},
        "resource": {"type": "global", "labels": {"project_id": "local"}},
        "points": [
            {
                "interval": {"endTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
                "value": {"doubleValue": 1.0},
            }
        ],
    }
    upload = f"/upload/storage/v1/b/results/o?uploadType=media&name={email}"
    for what, verb, path, body in (
        ("write", "POST", upload, "one"),
        ("overwrite", "POST", upload, "two"),
        ("read", "GET", f"/storage/v1/b/results/o/{email}?alt=media", None),
        ("list", "GET", "/storage/v1/b/results/o", None),
        ("tell", "POST", "/v3/projects/local/timeSeries", json.dumps({"timeSeries": [series]})),
        ("open", "GET", "/v1/projects/local/secrets/password/versions/latest:access", None),
        ("look", "GET", groups, None),
        ("leave", "POST", f"{groups}/deleteInstances", "{}"),
        ("close", "DELETE", groups, None),
        ("wait", "GET", f"/compute/v1/projects/local/zones/{ZONE}/operations/none", None),
    ):
        reply = requests.request(
            verb,
            cloud.url + path,
            data=body,
            headers=headers | {"Content-Type": "application/json"},
            timeout=10,
        )
        yield what, reply.status_code


def enable_once(cloud: ThreadedCloud) -> None:
    """The bucket and the secret of the runners."""
    cloud.enable("secretmanager")
    requests.post(f"{cloud.url}/storage/v1/b?project=local", json={"name": "results"}, timeout=10)
    url = f"{cloud.url}/v1/projects/local/secrets"
    body: dict[str, object] = {"replication": {"automatic": {}}}
    if requests.post(f"{url}?secretId=password", json=body, timeout=10).ok:
        payload = {"payload": {"data": "c2VjcmV0"}}
        assert requests.post(f"{url}/password:addVersion", json=payload, timeout=10).ok


def test_tokens_are_not_for_everybody(cloud: ThreadedCloud) -> None:
    """A token of an account is given to those who may have it, for some scope and time."""
    email = cloud.make_account("some-person")
    credentials = cloud.as_account(email).api("iamcredentials").projects().serviceAccounts()
    name = f"projects/-/serviceAccounts/{email}"

    body = {"scope": SCOPES}
    refused(credentials.generateAccessToken(name=name, body=body), 403, "PERMISSION_DENIED")
    owner = cloud.api("iamcredentials").projects().serviceAccounts()
    refused(owner.generateAccessToken(name=name, body={}), 400, "INVALID_ARGUMENT", "Scope")
    body["lifetime"] = "50000s"  # type: ignore[assignment]
    refused(owner.generateAccessToken(name=name, body=body), 400, "INVALID_ARGUMENT", "lifetime")


def test_the_project_in_version_3(cloud: ThreadedCloud) -> None:
    """It is shown as that version shows it."""
    project = cloud.api("cloudresourcemanager", "v3").projects().get(name=PROJECT).execute()

    assert set(project) <= set(
        _document("cloudresourcemanager.v3")["schemas"]["Project"]["properties"]
    )
    assert (project["projectId"], project["state"]) == ("local", "ACTIVE")
    assert project["name"] == f"projects/{cloud.number}"


def test_every_method_has_a_permission() -> None:
    """The names are those of Google's list, for the methods that this project calls."""
    for method, permission in {
        "compute.instanceGroupManagers.insert": "compute.instanceGroupManagers.create",
        "compute.instanceGroupManagers.deleteInstances": "compute.instanceGroupManagers.update",
        "compute.regionInstanceGroupManagers.delete": "compute.instanceGroupManagers.delete",
        "compute.instanceGroupManagers.listManagedInstances": "compute.instanceGroupManagers.get",
        "compute.instanceTemplates.aggregatedList": "compute.instanceTemplates.list",
        "compute.zoneOperations.wait": "compute.zoneOperations.get",
        "compute.instances.getGuestAttributes": "compute.instances.getGuestAttributes",
        "compute.firewalls.patch": "compute.firewalls.update",
    }.items():
        assert permission_of(method) == permission


def _document(name: str) -> Any:
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / f"{name}.json").read_text())
