"""Service accounts and the project's policy, through Google's clients."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import pytest
import requests
from hypothesis import strategies

from gcp_emulator import serving
from gcp_emulator.iam.policies import checked_bindings
from gcp_emulator.iam.roles import permits
from gcp_emulator.server import LocalCloud

from .conftest import ZONE, Client, Machines
from .iam_cloud import PROJECT, SERVER, ThreadedCloud, call, refused, running


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ThreadedCloud]:
    """A cloud of the test's own."""
    with running(tmp_path / "cloud") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedCloud]:
    """A cloud for tests that mind nobody else's accounts."""
    with running(tmp_path_factory.mktemp("shared") / "cloud") as cloud:
        cloud.enable("secretmanager")
        yield cloud


def bindings(cloud: ThreadedCloud) -> dict[str, list[str]]:
    """Who has which role in the project."""
    policy = call(cloud.projects.getIamPolicy(resource="local", body={}))
    return {binding["role"]: binding["members"] for binding in policy["bindings"]}


def test_new_project(cloud: ThreadedCloud) -> None:
    """A new project has its owner, and the default compute account, which may edit it."""
    email = f"{cloud.number}-compute@developer.gserviceaccount.com"
    (account,) = call(cloud.accounts.list(name=PROJECT))["accounts"]
    assert account["email"] == email
    assert re.fullmatch(r"1\d{20}", account["uniqueId"])
    assert bindings(cloud) == {
        "roles/owner": ["user:you@example.org"],
        "roles/editor": [f"serviceAccount:{email}"],
    }
    project = call(cloud.projects.get(projectId="local"))
    assert (project["projectId"], project["projectNumber"]) == ("local", cloud.number)
    assert call(cloud.projects.list())["projects"] == [project]


def test_account_is_made_found_changed_and_deleted(cloud: ThreadedCloud) -> None:
    """A service account goes by its e-mail address, its unique id, and in any project."""
    body = {"accountId": "mlflow-tracking-sa", "serviceAccount": {"displayName": "MLflow"}}
    made = call(cloud.accounts.create(name=PROJECT, body=body))
    assert made["email"] == SERVER
    assert made["name"] == f"{PROJECT}/serviceAccounts/{SERVER}"
    for name in (
        made["name"],
        f"projects/-/serviceAccounts/{SERVER}",
        f"{PROJECT}/serviceAccounts/{made['uniqueId']}",
        f"projects/{cloud.number}/serviceAccounts/{SERVER}",
    ):
        assert call(cloud.accounts.get(name=name)) == made
    error = refused(cloud.accounts.create(name=PROJECT, body=body), 409, "ALREADY_EXISTS")
    assert error["details"][0]["resourceName"] == made["name"]

    change = {"serviceAccount": {"description": "new"}, "updateMask": "description"}
    changed = call(cloud.accounts.patch(name=made["name"], body=change))
    assert changed == {**made, "description": "new"}
    empty = cloud.accounts.patch(name=made["name"], body={"serviceAccount": {}})
    refused(empty, 400, "INVALID_ARGUMENT", "mask")

    call(cloud.accounts.delete(name=made["name"]))
    refused(cloud.accounts.get(name=made["name"]), 404, "NOT_FOUND", SERVER)
    refused(cloud.accounts.delete(name=made["name"]), 404, "NOT_FOUND", "does not exist")
    again = call(cloud.accounts.create(name=PROJECT, body=body))
    assert again["uniqueId"] != made["uniqueId"]


@pytest.mark.parametrize("name", ["short", "x" * 31, "Upper-case", "9digits", "ends-with-", "", 7])
def test_bad_account_ids_are_refused(shared: ThreadedCloud, name: Any) -> None:
    """An id that Google would refuse makes nothing."""
    before = call(shared.accounts.list(name=PROJECT, pageSize=100))
    request = shared.accounts.create(name=PROJECT, body={"accountId": name})
    refused(request, 400, "INVALID_ARGUMENT", "between 6 and 30")
    assert call(shared.accounts.list(name=PROJECT, pageSize=100)) == before


def test_accounts_come_in_pages(cloud: ThreadedCloud) -> None:
    """All accounts are listed once, two on a page."""
    made = {cloud.make_account(f"account-{number}") for number in range(4)}
    found: list[str] = []
    request = cloud.accounts.list(name=PROJECT, pageSize=2)
    while request is not None:
        reply = call(request)
        assert len(reply["accounts"]) <= 2
        found += [account["email"] for account in reply["accounts"]]
        request = cloud.accounts.list_next(request, reply)
    assert len(found) == 5
    assert made < set(found)
    refused(cloud.accounts.list(name=PROJECT, pageToken="?"), 400, "INVALID_ARGUMENT")


def test_another_project_is_none_of_ours(shared: ThreadedCloud) -> None:
    """Google does not tell whether another's project exists."""
    for request in (
        shared.projects.get(projectId="other"),
        shared.projects.getIamPolicy(resource="other", body={}),
        shared.accounts.list(name="projects/other"),
        shared.services.list(parent="projects/other"),
        shared.secrets.list(parent="projects/other"),
    ):
        refused(request, 403, "PERMISSION_DENIED", "other")


def test_policy_is_replaced_as_a_whole(cloud: ThreadedCloud) -> None:
    """What is not sent is gone; roles come once, members sorted; no etag asks no question."""
    email = cloud.make_account()
    sent = [
        {"role": "roles/viewer", "members": ["user:b@example.org"]},
        {"role": "roles/cloudsql.client", "members": [f"serviceAccount:{email}"]},
        {"role": "roles/viewer", "members": ["user:a@example.org", "user:b@example.org"]},
        {"role": "roles/browser", "members": []},
    ]
    request = cloud.projects.setIamPolicy(resource="local", body={"policy": {"bindings": sent}})
    reply = call(request)
    assert reply["bindings"] == [
        {"role": "roles/cloudsql.client", "members": [f"serviceAccount:{email}"]},
        {"role": "roles/viewer", "members": ["user:a@example.org", "user:b@example.org"]},
    ]
    assert call(cloud.projects.getIamPolicy(resource="local", body={})) == reply


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"bindings": [{"role": "roles/viewer", "members": ["ana"]}]}, "unknown type"),
        ({"bindings": [{"role": "roles/viewer", "members": ["user:ana"]}]}, "EMAIL"),
        ({"bindings": [{"role": "viewer", "members": []}]}, "does not exist"),
        ({"bindings": "all"}, "list"),
        ({"version": 2}, "version"),
        (
            {"bindings": [{"role": "roles/viewer", "members": [], "condition": {}}]},
            "version 3",
        ),
        (
            {"bindings": [{"role": "roles/viewer", "members": [f"serviceAccount:{SERVER}"]}]},
            f"Service account {SERVER} does not exist.",
        ),
        (None, "required"),
    ],
)
def test_bad_policies_are_refused(shared: ThreadedCloud, policy: Any, words: str) -> None:
    """A policy that Google would refuse changes nothing."""
    before = call(shared.projects.getIamPolicy(resource="local", body={}))
    request = shared.projects.setIamPolicy(resource="local", body={"policy": policy})
    refused(request, 400, "INVALID_ARGUMENT", words)
    assert call(shared.projects.getIamPolicy(resource="local", body={})) == before


def test_deleted_account_stays_in_policies_as_deleted(cloud: ThreadedCloud) -> None:
    """Project, account, secret and bucket all say who it was; a new one of the name is another."""
    cloud.enable("secretmanager")
    email, other = cloud.make_account(), cloud.make_account("trainer-account")
    member = f"serviceAccount:{email}"
    wanted = {"bindings": [{"role": "roles/secretmanager.secretAccessor", "members": [member]}]}
    cloud.grant("roles/cloudsql.client", member)
    name = f"{PROJECT}/serviceAccounts/{other}"
    call(cloud.accounts.setIamPolicy(resource=name, body={"policy": wanted}))
    call(
        cloud.secrets.create(
            parent=PROJECT, secretId="key", body={"replication": {"automatic": {}}}
        )
    )
    secret = f"{PROJECT}/secrets/key"
    call(cloud.secrets.setIamPolicy(resource=secret, body={"policy": wanted}))
    bucket = cloud.storage.create_bucket("artifacts-of-local")
    policy = bucket.get_iam_policy()
    policy["roles/storage.objectUser"] = {member}
    bucket.set_iam_policy(policy)

    uid = call(cloud.accounts.get(name=f"projects/-/serviceAccounts/{email}"))["uniqueId"]
    call(cloud.accounts.delete(name=f"projects/-/serviceAccounts/{email}"))
    cloud.make_account()
    gone = [f"deleted:{member}?uid={uid}"]
    assert bindings(cloud)["roles/cloudsql.client"] == gone
    for found in (
        call(cloud.accounts.getIamPolicy(resource=name)),
        call(cloud.secrets.getIamPolicy(resource=secret)),
    ):
        assert found["bindings"][0]["members"] == gone
    assert set(bucket.get_iam_policy()["roles/storage.objectUser"]) == set(gone)

    # Whoever writes back what was read is not refused for it.
    whole = call(cloud.projects.getIamPolicy(resource="local", body={}))
    call(cloud.projects.setIamPolicy(resource="local", body={"policy": whole}))


@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(
    kind=strategies.sampled_from(["project", "account", "secret", "bucket"]),
    rounds=strategies.lists(strategies.booleans(), min_size=1, max_size=4),
)
def test_of_two_writers_one_wins(shared: ThreadedCloud, kind: str, rounds: list[bool]) -> None:
    """Two who read the same policy and write it back at once: exactly one is let through."""
    url = shared.url
    paths = {
        "project": f"{url}/v1/{PROJECT}",
        "account": f"{url}/v1/{PROJECT}/serviceAccounts/"
        f"{shared.number}-compute@developer.gserviceaccount.com",
        "secret": f"{url}/v1/{PROJECT}/secrets/raced",
        "bucket": f"{url}/storage/v1/b/raced-bucket/iam",
    }
    path = paths[kind]
    with requests.Session() as session:
        body: dict[str, Any] = {"replication": {"automatic": {}}}
        session.post(f"{url}/v1/{PROJECT}/secrets?secretId=raced", json=body, timeout=5)
        session.post(f"{url}/storage/v1/b?project=local", json={"name": "raced-bucket"}, timeout=5)

    def read() -> Any:
        if kind == "bucket":
            return requests.get(path, timeout=5).json()
        verb = "GET" if kind == "secret" else "POST"
        return requests.request(verb, f"{path}:getIamPolicy", timeout=5).json()

    def write(policy: Any, who: str) -> tuple[int, str]:
        role = "roles/storage.objectViewer"
        policy = {**policy, "bindings": [{"role": role, "members": [who]}]}
        if kind == "bucket":
            return requests.put(path, json=policy, timeout=5).status_code, who
        body = {"policy": policy}
        return requests.post(f"{path}:setIamPolicy", json=body, timeout=5).status_code, who

    with ThreadPoolExecutor(2) as pool:
        for first in rounds:
            mine, theirs = read(), read()
            assert mine["etag"] == theirs["etag"]
            order = ["user:ana@example.org", "user:bea@example.org"]
            order = order if first else order[::-1]
            done = list(pool.map(write, (mine, theirs), order))
            assert sorted(status for status, _ in done) == [200, 412 if kind == "bucket" else 409]
            winner = next(who for status, who in done if status == 200)
            assert read()["bindings"][0]["members"] == [winner]


def test_conflict_in_googles_words(cloud: ThreadedCloud) -> None:
    """Who is late is told to do the whole of it again."""
    stale = call(cloud.projects.getIamPolicy(resource="local", body={}))
    cloud.grant("roles/viewer", "user:ana@example.org")
    request = cloud.projects.setIamPolicy(resource="local", body={"policy": stale})
    refused(request, 409, "ABORTED", "There were concurrent policy changes. Please retry")


@hypothesis.given(
    strategies.lists(
        strategies.fixed_dictionaries(
            {
                "role": strategies.sampled_from(["roles/viewer", "roles/owner", "roles/a.b"]),
                "members": strategies.lists(
                    strategies.sampled_from([f"user:{name}@example.org" for name in "abcd"])
                ),
            }
        )
    )
)
def test_bindings_say_the_same_in_order(sent: list[Any]) -> None:
    """Putting bindings in order loses and adds nobody, and doing it twice is doing it once."""
    made = checked_bindings(sent, 1, lambda _member: None)

    def pairs(of: list[Any]) -> set[tuple[str, str]]:
        return {(one["role"], member) for one in of for member in one["members"]}

    assert pairs(made) == pairs(sent)
    assert [one["role"] for one in made] == sorted({one["role"] for one in made})
    assert checked_bindings(made, 1, lambda _member: None) == made


@pytest.mark.parametrize(
    ("role", "permission", "expected"),
    [
        ("roles/owner", "secretmanager.versions.access", True),
        ("roles/editor", "secretmanager.versions.access", False),
        ("roles/editor", "resourcemanager.projects.setIamPolicy", False),
        ("roles/editor", "cloudsql.instances.connect", True),
        ("roles/viewer", "compute.instances.get", True),
        ("roles/viewer", "compute.instances.delete", False),
        ("roles/cloudsql.client", "cloudsql.instances.connect", True),
        ("roles/cloudsql.client", "cloudsql.instances.delete", False),
        ("roles/secretmanager.secretAccessor", "secretmanager.versions.access", True),
        ("roles/secretmanager.secretAccessor", "secretmanager.secrets.get", False),
        ("roles/storage.objectUser", "storage.objects.create", True),
        ("roles/storage.objectUser", "storage.buckets.get", False),
        ("roles/of.nobody", "storage.buckets.get", False),
    ],
)
def test_what_roles_permit(role: str, permission: str, expected: bool) -> None:
    """The roles that matter here permit what Google's do."""
    assert permits(role, permission) is expected


def test_account_does_what_its_roles_permit(cloud: ThreadedCloud) -> None:
    """A token is held to the policies, from the moment that they change; without one is free."""
    server = cloud.as_account(cloud.make_account())
    asked = {"permissions": ["cloudsql.instances.connect", "resourcemanager.projects.get"]}
    assert call(server.projects.testIamPermissions(resource="local", body=asked)) == {}
    refused(
        server.projects.setIamPolicy(resource="local", body={"policy": {}}),
        403,
        "PERMISSION_DENIED",
        "Permission 'resourcemanager.projects.setIamPolicy' denied for resource 'projects/local' "
        "(or it may not exist).",
    )
    cloud.grant("roles/cloudsql.client", f"serviceAccount:{SERVER}")
    held = call(server.projects.testIamPermissions(resource="local", body=asked))
    assert held["permissions"] == asked["permissions"][:1]
    call(cloud.accounts.disable(name=f"{PROJECT}/serviceAccounts/{SERVER}", body={}))
    assert call(server.projects.testIamPermissions(resource="local", body=asked)) == {}
    call(cloud.accounts.enable(name=f"{PROJECT}/serviceAccounts/{SERVER}", body={}))
    assert call(server.projects.testIamPermissions(resource="local", body=asked)) == held
    assert call(cloud.projects.testIamPermissions(resource="local", body=asked)) == asked


@pytest.mark.parametrize("permission", [{}, "storage.*", "", 7])
def test_what_is_no_permission_is_refused(shared: ThreadedCloud, permission: Any) -> None:
    """Asked for as a permission, also for somebody who may do everything."""
    request = shared.projects.testIamPermissions(
        resource="local", body={"permissions": [permission]}
    )
    refused(request, 400, "INVALID_ARGUMENT", "not valid for this resource")


def test_everything_outlives_the_cloud(tmp_path: Path) -> None:
    """Accounts and policies are there after a restart, and gone after a wipe."""
    folder = tmp_path / "cloud"
    with running(folder) as cloud:
        cloud.make_account()
        cloud.grant("roles/cloudsql.client", f"serviceAccount:{SERVER}")
        accounts = call(cloud.accounts.list(name=PROJECT))
        policy = call(cloud.projects.getIamPolicy(resource="local", body={}))
    with running(folder) as cloud:
        assert call(cloud.accounts.list(name=PROJECT)) == accounts
        assert call(cloud.projects.getIamPolicy(resource="local", body={})) == policy
    kept = [place for place in (folder / "iam").rglob("*") if place.is_file()]
    assert kept
    assert {place.stat().st_mode & 0o777 for place in kept} == {0o600}
    assert json.loads((folder / "iam/local/policy.json").read_text())["bindings"]
    assert "iam" in serving.wipe(folder)
    assert not folder.exists()


def test_damaged_file_is_named(tmp_path: Path) -> None:
    """A file that can't be read stops the cloud with its name, not with a trace."""
    place = tmp_path / "cloud/iam/local/policy.json"
    place.parent.mkdir(parents=True)
    place.write_text("{")
    with pytest.raises(ValueError, match=r"policy\.json can't be read"):
        LocalCloud(tmp_path / "cloud", engine="inert")


async def test_token_of_an_instance_speaks_for_its_account(
    tmp_path: Path, machines: Machines
) -> None:
    """What a VM's metadata server gives away is held to the roles of the VM's account."""
    async with (
        LocalCloud(
            tmp_path / "cloud",
            engine="process",
            capacity=None,
            operation_seconds=0.0,
            make_machine=machines,
        ) as cloud,
        aiohttp.ClientSession() as session,
    ):
        cloud.iam.services.enable("secretmanager.googleapis.com")
        client = Client(cloud, session)
        await client.template()
        await client.group()
        await client.create("quick-0001")
        await client.settled(count=1)
        address = cloud.state.instance(ZONE, "quick-0001").address
        path = "computeMetadata/v1/instance/service-accounts/default/token"
        async with session.get(
            f"http://{address}:{cloud.metadata_port}/{path}",
            headers={"Metadata-Flavor": "Google"},
        ) as reply:
            token = (await reply.json())["access_token"]

        secrets = f"{cloud.endpoint}/v1/{PROJECT}/secrets"
        mine = {"Authorization": f"Bearer {token}"}
        for path, headers, status in (
            ("", {}, 200),
            ("", mine, 200),
            ("/key/versions/latest:access", {}, 404),
            ("/key/versions/latest:access", mine, 403),
            ("/key/versions/latest:access", {"Authorization": "Bearer of-somebody"}, 404),
        ):
            async with session.get(secrets + path, headers=headers) as reply:
                assert reply.status == status, (path, headers)


_WORDS = (
    "accountId",
    "serviceAccount",
    "displayName",
    "updateMask",
    "policy",
    "bindings",
    "role",
    "members",
    "condition",
    "version",
    "etag",
    "permissions",
    "serviceIds",
    "replication",
    "automatic",
    "userManaged",
    "replicas",
    "labels",
    "payload",
    "data",
    "dataCrc32c",
    "other",
)
_JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.sampled_from(_WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    target=strategies.sampled_from(
        [
            ("POST", "/serviceAccounts"),
            ("PATCH", "/serviceAccounts/DEFAULT"),
            ("POST", "/serviceAccounts/DEFAULT:setIamPolicy"),
            ("POST", "/serviceAccounts/DEFAULT:testIamPermissions"),
            ("POST", ":setIamPolicy"),
            ("POST", ":testIamPermissions"),
            ("POST", "/services:batchEnable"),
            ("POST", "/secrets?secretId=fuzzed"),
            ("PATCH", "/secrets/fuzzed?updateMask=labels"),
            ("POST", "/secrets/fuzzed:addVersion"),
            ("POST", "/secrets/fuzzed:setIamPolicy"),
            ("PUT", "BUCKET"),
        ]
    ),
    body=strategies.dictionaries(strategies.sampled_from(_WORDS), _JSON, max_size=4),
    as_account=strategies.booleans(),
)
def test_no_body_breaks_it(
    shared: ThreadedCloud, target: tuple[str, str], body: Any, as_account: bool
) -> None:
    """Whatever is sent is carried out, or refused in Google's shape: never a crash."""
    verb, path = target
    email = f"{shared.number}-compute@developer.gserviceaccount.com"
    path = f"/v1/{PROJECT}{path.replace('DEFAULT', email)}"
    if verb == "PUT":
        path = "/storage/v1/b/fuzzed-bucket/iam"
        made = {"name": "fuzzed-bucket"}
        requests.post(f"{shared.url}/storage/v1/b?project=local", json=made, timeout=5)
    headers = shared.as_account(email).headers if as_account else {}
    reply = requests.request(verb, shared.url + path, json=body, headers=headers, timeout=5)
    assert reply.status_code < 500 or reply.status_code == 501, reply.text
    if reply.status_code >= 400:
        assert reply.json()["error"]["code"] == reply.status_code
