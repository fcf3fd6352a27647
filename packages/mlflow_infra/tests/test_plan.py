"""Setting up and taking down: again and again, interrupted anywhere, refused anywhere."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from gcloud_ops.errors import GcloudOpsError, InvalidRequest, PermissionDenied
from gcloud_ops.resources import ProjectPolicy
from mlflow_infra.plan import (
    Begun,
    Done,
    Event,
    Progressed,
    address_of,
    down,
    look,
    read_secret,
    up,
)
from mlflow_infra.resources import Place, ordered
from mlflow_infra.wanted import (
    ADMIN_SECRET,
    DATABASE,
    DATABASE_SECRET,
    DATABASE_USER,
    INSTANCE,
    SECRETS,
    SERVER,
)

READS = ("get", "list", "getIamPolicy", "testIamPermissions", "access", "batchGet", "wait")
CHANGES = (
    "serviceusage.services.batchEnable",
    "iam.projects.serviceAccounts.create",
    "storage.buckets.insert",
    "secretmanager.projects.secrets.create",
    "secretmanager.projects.secrets.addVersion",
    "sqladmin.instances.insert",
    "sqladmin.databases.insert",
    "sqladmin.users.insert",
    "secretmanager.projects.secrets.patch",
    "cloudresourcemanager.projects.setIamPolicy",
    "storage.buckets.setIamPolicy",
    "secretmanager.projects.secrets.setIamPolicy",
    "storage.objects.insert",
    "compute.addresses.insert",
    "compute.firewalls.insert",
    "compute.instances.insert",
)
"""All methods that change anything in a first `up`, in its order."""


class Interrupted(Exception):
    """What ends a run in the tests, as Ctrl-C does in life."""


def test_a_plan_says_what_will_be_made_and_what_it_costs(cloud: Any) -> None:
    """Nothing is there, the APIs are disabled, and looking changes nothing."""
    found = look(cloud.clients, cloud.infra)
    assert not found.is_complete
    first = found.findings[0]
    assert first.what == "APIs"
    assert first.state == "missing"
    assert "sqladmin.googleapis.com is not enabled" in first.differences
    assert {one.state for one in found.findings} == {"missing"}
    assert 35 < found.monthly < 45
    assert found.is_priced
    unknown = look(cloud.clients, replace(cloud.infra, tier="db-n1-standard-1"))
    assert not unknown.is_priced
    assert _changing(cloud.calls()) == {}


@pytest.mark.slow
def test_up_twice_then_down_and_up_and_down_with_the_data(cloud: Any) -> None:
    """The second `up` only reads; `down` keeps the data; with them nothing is left."""
    empty = _inventory(cloud)
    events: list[Event] = []
    assert not look(cloud.clients, cloud.infra).has_server
    assert look(cloud.clients, cloud.infra).removed(delete_data=True) == ()
    made = up(cloud.clients, cloud.infra, tell=events.append)
    assert made.is_complete
    assert made.has_server
    assert {one.state for one in made.findings} == {"there"}
    count = len(made.findings)
    assert [one.position for one in events if isinstance(one, Begun)] == [*range(1, count + 1)]
    assert all(one.changes for one in events if isinstance(one, Done))
    assert _changing(cloud.calls()).keys() == set(CHANGES)
    address = address_of(cloud.clients, cloud.infra)
    assert address is not None
    password = read_secret(cloud.clients, cloud.infra, DATABASE_SECRET)
    complete = _inventory(cloud)

    cloud.calls()
    again = up(cloud.clients, cloud.infra, tell=events.append)
    assert again == made
    assert _changing(cloud.calls()) == {}
    assert _inventory(cloud) == complete

    going = made.removed(delete_data=False)
    assert len(made.removed(delete_data=True)) == count - 1  # the APIs stay
    begun = len(events)
    kept = down(cloud.clients, cloud.infra, delete_data=False, tell=events.append)
    told = [one.what for one in events[begun:] if isinstance(one, Done)]
    assert sorted(told) == sorted(["APIs", *(one.what for one in going)])
    assert not kept.has_server
    states = {one.what: one.state for one in kept.findings if one.holds_data}
    assert set(states.values()) == {"there"}
    assert _inventory(cloud)["servers"] == []
    assert read_secret(cloud.clients, cloud.infra, DATABASE_SECRET) == password
    cloud.calls()
    down(cloud.clients, cloud.infra, delete_data=False, tell=events.append)
    assert _changing(cloud.calls()) == {}

    assert up(cloud.clients, cloud.infra, tell=events.append).is_complete
    assert _inventory(cloud) == complete
    assert read_secret(cloud.clients, cloud.infra, DATABASE_SECRET) == password

    gone = down(cloud.clients, cloud.infra, delete_data=True, tell=events.append)
    assert {one.state for one in gone.findings[1:]} == {"missing"}
    left = _inventory(cloud)
    assert {**left, "apis": []} == {**empty, "apis": []}
    cloud.calls()
    down(cloud.clients, cloud.infra, delete_data=True, tell=events.append)
    assert _changing(cloud.calls()) == {}
    secret = password.encode()
    assert secret.decode() not in repr(events)
    assert base64.b64encode(secret).decode() not in repr(events)


@pytest.mark.slow
def test_killed_after_each_step_it_goes_on(cloud: Any) -> None:
    """Each run ends after one step more; the last one's end is that of an undisturbed run."""
    steps = len(ordered(Place(cloud.clients, cloud.infra)))
    for step in range(1, steps + 1):
        with pytest.raises(Interrupted):
            up(cloud.clients, cloud.infra, tell=_ends_after(Done, step))
        found = look(cloud.clients, cloud.infra).findings
        # What comes later is not begun.
        assert [one.state for one in found[:step]] == ["there"] * step
        assert {one.state for one in found[step:]} <= {"missing"}
    cloud.calls()
    up(cloud.clients, cloud.infra, tell=_silent)
    assert _changing(cloud.calls()) == {}
    _check_complete(cloud)

    # And down again, one step more each time.
    for step in range(1, steps + 1):
        with pytest.raises(Interrupted):
            down(cloud.clients, cloud.infra, delete_data=True, tell=_ends_after(Done, step))
    cloud.calls()
    down(cloud.clients, cloud.infra, delete_data=True, tell=_silent)
    assert _changing(cloud.calls()) == {}
    assert not any(_inventory(cloud)[kind] for kind in ("secrets", "instances", "servers"))


@pytest.mark.slow
def test_killed_while_it_waits_it_goes_on(cloud: Any) -> None:
    """As often as it tells that it waits: another run waits for what the first has begun."""
    interrupted: list[str] = []
    for _ in range(200):
        try:
            up(cloud.clients, cloud.infra, tell=_ends_at_new_waits(interrupted))
        except Interrupted:
            continue
        break
    assert f"Cloud SQL instance {INSTANCE}" in interrupted
    _check_complete(cloud)
    interrupted.clear()
    for _ in range(200):
        try:
            down(
                cloud.clients,
                cloud.infra,
                delete_data=True,
                tell=_ends_at_new_waits(interrupted),
            )
        except Interrupted:
            continue
        break
    assert interrupted
    left = _inventory(cloud)
    assert not any(left[kind] for kind in ("secrets", "instances", "servers", "buckets"))


@pytest.mark.slow
def test_killed_within_each_step_it_goes_on(cloud: Any) -> None:
    """Each change is made once, and its answer lost: nothing is made twice."""
    for method in CHANGES:
        cloud.fault(method, status=503, after=True, count=1)
    runs = _until_well(cloud)
    assert runs < len(CHANGES)
    assert look(cloud.clients, cloud.infra).is_complete
    _check_complete(cloud)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "reason", "message", "said"),
    [
        (403, "forbidden", "Permission denied", r"ask for the role roles/"),
        (
            403,
            "quotaExceeded",
            "Quota 'X' exceeded",
            r"ask for more quota|start script .*: Quota 'X' exceeded$",
        ),
        (
            403,
            "accessNotConfigured",
            "Some API has not been used in project 1 before: enable some.googleapis.com",
            r"gcloud services enable some\.googleapis\.com",
        ),
    ],
)
def test_each_refusal_is_one_line_and_taken_on_from(
    cloud: Any, status: int, reason: str, message: str, said: str
) -> None:
    """Each change is refused once: one line says what to do, and the next `up` goes on."""
    for method in CHANGES:
        cloud.no_faults()
        cloud.fault(method, status=status, reason=reason, message=message, count=1)
        with pytest.raises(GcloudOpsError, match=f"{said}|--bucket OTHER") as caught:
            up(cloud.clients, cloud.infra, tell=_silent)
        assert "\n" not in str(caught.value)
        assert caught.value.resource
        if method == CHANGES[0]:
            # A run that has enabled an API itself is patient with one that seems disabled.
            with pytest.raises(Interrupted):
                up(cloud.clients, cloud.infra, tell=_ends_after(Done, 1))
    cloud.no_faults()
    assert up(cloud.clients, cloud.infra, tell=_silent).is_complete
    _check_complete(cloud)
    down(cloud.clients, cloud.infra, delete_data=True, tell=_silent)
    assert not any(_inventory(cloud)[kind] for kind in ("secrets", "instances", "servers"))


@pytest.mark.slow
def test_down_takes_on_what_up_left_half_made(cloud: Any) -> None:
    """An instance without a database, secrets without readers: all go."""
    empty = _inventory(cloud)
    cloud.fault("sqladmin.users.insert", status=403, reason="forbidden", message="no", count=1)
    with pytest.raises(PermissionDenied):
        up(cloud.clients, cloud.infra, tell=_silent)
    gone = down(cloud.clients, cloud.infra, delete_data=True, tell=_silent)
    assert {one.state for one in gone.findings[1:]} == {"missing"}
    assert {**_inventory(cloud), "apis": []} == {**empty, "apis": []}


@pytest.mark.slow
def test_drift_is_mended_or_reported(cloud: Any) -> None:
    """A smaller tier is for people to decide; protection and the password are put right."""
    up(cloud.clients, cloud.infra, tell=_silent)
    sql = cloud.clients.api("sqladmin", "v1")
    where = {"project": cloud.infra.project, "instance": INSTANCE}
    patch = sql.instances().patch(**where, body={"settings": {"deletionProtectionEnabled": False}})
    _wait(cloud, cloud.clients.execute("instance", patch))
    versions = cloud.clients.api("secretmanager", "v1").projects().secrets()
    payload = base64.b64encode(b"another-password").decode()
    add = versions.addVersion(
        parent=cloud.infra.secret(DATABASE_SECRET), body={"payload": {"data": payload}}
    )
    cloud.clients.execute("secret", add)
    larger = replace(cloud.infra, tier="db-g1-small")
    found = {one.what: one for one in look(cloud.clients, larger).findings}
    instance = found[f"Cloud SQL instance {INSTANCE}"]
    assert instance.drift == ("tier is db-f1-micro, wanted db-g1-small",)
    assert "deletion protection is off, wanted on" in instance.differences
    assert found[f"database user {DATABASE_USER}"].differences == (
        "its password isn't the secret's",
    )
    after = up(cloud.clients, larger, tell=_silent)
    assert after.is_complete
    assert [one.what for one in after.drift] == [f"Cloud SQL instance {INSTANCE}"]
    assert up(cloud.clients, cloud.infra, tell=_silent).drift == ()


def test_what_can_not_be_makes_nothing(cloud: Any) -> None:
    """A bad image or password is found before the first call."""
    for wanted, password in (
        (replace(cloud.infra, image="no image"), None),
        (cloud.infra, "short"),
    ):
        with pytest.raises(InvalidRequest):
            up(cloud.clients, wanted, tell=_silent, database_password=password)
    assert cloud.calls() == {}


def test_no_address_before_the_first_up(cloud: Any) -> None:
    """None, not an error."""
    assert address_of(cloud.clients, cloud.infra) is None


def _silent(event: Event) -> None:
    """Nobody is told."""


def _ends_after(kind: type[Event], number: int) -> Any:
    """A listener that raises at the event of this number."""
    seen = 0

    def tell(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, kind)
        if seen == number and isinstance(event, kind):
            raise Interrupted

    return tell


def _ends_at_new_waits(interrupted: list[str], *, most: int = 3) -> Any:
    """A listener that raises when something waits, some times for each."""

    def tell(event: Event) -> None:
        if isinstance(event, Progressed) and interrupted.count(event.what) < most:
            interrupted.append(event.what)
            raise Interrupted

    return tell


def _until_well(cloud: Any, *, most: int = 30) -> int:
    """Run `up` until it ends well; how often it didn't."""
    for run in range(most):
        try:
            up(cloud.clients, cloud.infra, tell=_silent)
        except GcloudOpsError:
            continue
        return run
    pytest.fail(f"up did not end well in {most} runs")


def _wait(cloud: Any, operation: dict[str, Any]) -> None:
    sql = cloud.clients.api("sqladmin", "v1")
    for _ in range(200):
        if operation["status"] == "DONE":
            return
        get = sql.operations().get(project=cloud.infra.project, operation=operation["name"])
        operation = cloud.clients.execute("operation", get)
    pytest.fail("the operation did not end")


def _changing(calls: dict[str, int]) -> dict[str, int]:
    """The calls of methods that change something."""
    return {method: count for method, count in calls.items() if method.split(".")[-1] not in READS}


def _check_complete(cloud: Any) -> None:
    """One of each, and no more."""
    found = _inventory(cloud)
    assert found["accounts"] == [cloud.infra.account]
    assert found["secrets"] == sorted((name, ("1",)) for name in SECRETS)
    assert found["instances"] == [INSTANCE]
    assert found["databases"] == [DATABASE]
    assert found["users"] == [DATABASE_USER]
    assert found["servers"] == [SERVER]
    assert len(found["objects"]) == 1
    assert len(found["addresses"]) == 1
    assert len(found["firewalls"]) == 2
    assert len([one for one in found["project"] if cloud.infra.account in one[1]]) == 3
    assert len(found["readers"]) == 5
    assert read_secret(cloud.clients, cloud.infra, ADMIN_SECRET)


def _inventory(cloud: Any) -> dict[str, list[Any]]:
    """All that is in the cloud, by kind, as far as this package touches it."""
    clients, infra = cloud.clients, cloud.infra
    place = Place(clients, infra)
    seen = look(clients, infra).findings[0]
    found: dict[str, list[Any]] = {"apis": list(seen.differences)}
    where = {"project": infra.project}

    def ask(request: Any, member: str) -> list[Any]:
        return list(clients.execute("inventory", request).get(member, []))

    iam = clients.api("iam", "v1").projects().serviceAccounts()
    accounts = ask(iam.list(name=f"projects/{infra.project}"), "accounts")
    found["accounts"] = [
        one["email"]
        for one in accounts
        if not one["email"].endswith("developer.gserviceaccount.com")
    ]
    found["buckets"] = sorted(bucket.name for bucket in clients.storage.list_buckets())
    found["objects"] = sorted(
        blob.name for name in found["buckets"] for blob in clients.storage.list_blobs(name)
    )
    found["secrets"], found["readers"] = [], []
    found["instances"], found["databases"], found["users"] = [], [], []
    if not seen.differences:
        secrets = clients.api("secretmanager", "v1").projects().secrets()
        for one in ask(secrets.list(parent=f"projects/{infra.project}"), "secrets"):
            name = one["name"].rpartition("/")[2]
            versions = ask(secrets.versions().list(parent=infra.secret(name)), "versions")
            numbers = tuple(sorted(each["name"].rpartition("/")[2] for each in versions))
            found["secrets"].append((name, numbers))
            for binding in ask(secrets.getIamPolicy(resource=infra.secret(name)), "bindings"):
                found["readers"] += [(name, member) for member in sorted(binding["members"])]
        sql = clients.api("sqladmin", "v1")
        for one in ask(sql.instances().list(**where), "items"):
            at = {**where, "instance": one["name"]}
            found["instances"].append(one["name"])
            names = [each["name"] for each in ask(sql.databases().list(**at), "items")]
            found["databases"] += [name for name in names if name != "postgres"]
            names = [each["name"] for each in ask(sql.users().list(**at), "items")]
            found["users"] += [name for name in names if name != "postgres"]
    found["secrets"].sort()
    found["readers"].sort()
    found["project"] = sorted(
        (binding["role"], member)
        for binding in ProjectPolicy(place).read()["bindings"]
        for member in binding["members"]
    )
    found["addresses"] = [one.name for one in clients.addresses.list(**where, region=infra.region)]
    found["firewalls"] = sorted(
        one.name for one in clients.firewalls.list(**where) if "mlflow" in one.name
    )
    found["servers"] = [one.name for one in clients.instances.list(**where, zone=infra.zone)]
    return found
