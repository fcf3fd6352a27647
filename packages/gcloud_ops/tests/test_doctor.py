"""What the doctor finds, each in a local cloud that has just this one fault."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import Credentials as AnyCredentials
from google.auth.exceptions import RefreshError
from google.oauth2.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops import alerts, cli, doctor, setting_up, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch
from gcloud_ops.doctor.quotas import Quota, needed, short
from gcloud_ops.iap import RELAY_ADDRESSES
from gcloud_ops.model import Sweep
from gcloud_ops.resources import Place, ProjectPolicy, ServiceAccount
from gcloud_ops.resources.trainers import ROLE, account_email
from gcloud_ops.setting_up import Wanted
from gcloud_ops.settings import Settings

from .commands import runner, surroundings_of
from .conftest import Answers, inert_cloud, settings_of

CHANGES = ("insert", "create", "patch", "update", "delete", "setIamPolicy", "batchEnable")
IMAGE = "example/trainer:1"
REGION = "europe-west1"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A local cloud that is set up; each test leaves it as it was."""
    folder = tmp_path_factory.mktemp("ready")
    with inert_cloud(folder) as about:
        settings = settings_of(about, folder / "keys" / "id_ed25519")
        clients = Clients.connect(
            replace(settings, monitoring_endpoint=str(about["grpc_endpoint"]))
        )
        _set_up(clients)
        yield clients


@pytest.fixture
def cloud(ready: Clients) -> Iterator[Clients]:
    """The same, set up again afterwards."""
    yield ready
    ask(ready, "faults", method="DELETE")


def test_all_is_well_where_it_is_set_up(cloud: Clients) -> None:
    """No problem; the warnings are those of a local cloud without a registry and a channel."""
    ask(cloud, "stats", method="DELETE")
    found = list(doctor.examine(cloud))
    assert {one.name for one in found if one.level == "problem"} == set()
    assert {one.name for one in found if one.level == "warning"} <= {"image", "alerts"}
    assert all(one.advice for one in found if one.level != "ok")
    assert all("\n" not in one.message for one in found)
    calls: dict[str, int] = ask(cloud, "stats")["calls"]
    assert not [name for name in calls if name.split(".")[-1] in CHANGES]
    assert sum(calls.values()) <= 25


def test_the_number_of_calls_is_that_of_the_smallest_sweep(cloud: Clients) -> None:
    """A thousand experiments cost no more questions than one."""
    counts = []
    for size in (1, 1000):
        ask(cloud, "stats", method="DELETE")
        list(doctor.examine(cloud, sweep=_sweep(size)))
        counts.append(ask(cloud, "stats")["total"])
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_an_empty_project_is_told_what_to_make(tmp_path: Path) -> None:
    """APIs, bucket, template: each names the command; what hangs on the template is not said."""
    with inert_cloud(tmp_path) as about:
        found = _examined(Clients.connect(settings_of(about, tmp_path / "key")))
    assert found["APIs"].level == "warning"
    assert "secretmanager.googleapis.com" in found["APIs"].advice
    assert found["bucket"].level == "warning"
    assert found["template"].level == "problem"
    assert "setup" in found["template"].advice
    assert not {"image", "quota", "SSH", "instances' account"} & set(found)
    assert found["alerts"].message == "this cloud has no Cloud Monitoring"


def test_a_caller_with_few_roles_learns_what_he_lacks(cloud: Clients) -> None:
    """Watching is permitted, launching is not; the missing permissions are named by purpose."""
    with acting_as(cloud, "viewer", "roles/viewer") as caller:
        found = _examined(caller)
    assert found["permission to watch"].level == "warning"
    assert "compute.instances.getSerialPortOutput" in found["permission to watch"].message
    launch = found["permission to launch"]
    assert launch.level == "problem"
    assert "compute.instanceGroupManagers.create" in launch.message
    assert "roles/compute.instanceAdmin.v1" in launch.advice
    assert found["permission to act as the instances' account"].level == "problem"
    assert found["bucket"].level in {"problem", "warning"}
    with acting_as(cloud, "viewer", "roles/viewer") as caller:
        blocking = doctor.blocking(caller, _sweep(1))
    assert {one.name for one in blocking} == {
        "permission to launch",
        "permission to act as the instances' account",
    }


def test_a_caller_without_roles_gets_an_answer_to_each_question(cloud: Clients) -> None:
    """What may not be looked at is a warning each, in one line."""
    with acting_as(cloud, "nobody") as caller:
        found = list(doctor.examine(caller))
    unseen = [one for one in found if "we may not look" in one.message]
    assert {"project", "template"} <= {one.name for one in unseen}
    assert all(one.level == "warning" and one.advice for one in unseen)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("cloudresourcemanager.projects.get", "project"),
        ("serviceusage.services.batchGet", "APIs"),
        ("cloudresourcemanager.projects.testIamPermissions", "permissions"),
        ("storage.buckets.get", "bucket"),
        ("compute.regions.get", "quota"),
        ("compute.instanceTemplates.get", "template"),
        ("iam.projects.serviceAccounts.get", "instances' account"),
    ],
)
def test_a_check_that_fails_hides_no_other(cloud: Clients, method: str, name: str) -> None:
    """Whatever one API answers, all others are asked."""
    ask(cloud, "faults", {"method": method, "status": 403, "reason": "forbidden", "count": 9})
    found = _examined(cloud)
    assert found[name].level == "warning"
    assert {"bucket", "project", "APIs", "alerts"} - {name} <= set(found)
    ask(cloud, "faults", method="DELETE")
    ask(cloud, "faults", {"method": method, "status": 503, "count": 9})
    assert _examined(cloud)[name].level == "problem"


def test_quota_is_that_of_the_whole_sweep(cloud: Clients) -> None:
    """One fits, fifty don't: the message says what they need and what is left."""
    ask(cloud, "quotas", {"metric": "INSTANCES", "limit": 20, "region": REGION})
    try:
        assert _examined(cloud)["quota"].level == "ok"
        large = _sweep(50)
        found = _examined(cloud, large)["quota"]
        assert found.level == "problem"
        assert "INSTANCES: needs 50, 20 of 20 are left" in found.message
        assert [one.name for one in doctor.blocking(cloud, large)] == ["quota"]
        assert doctor.blocking(cloud, _sweep(20)) == ()
        room = doctor.outlook(cloud, large).rooms[0]
        assert (room.metric, room.needs, room.quota.left, room.after) == ("INSTANCES", 50, 20, -30)
        assert room.is_scarce
    finally:
        ask(cloud, "quotas", {"metric": "INSTANCES", "limit": None, "region": REGION})


def test_a_machine_type_to_fall_back_to_is_no_problem(cloud: Clients) -> None:
    """What fits as the second choice is a warning."""
    choices = ("n2-highcpu-96", "n2-highcpu-2")
    sweep = replace(_sweep(2), machine_types=choices)
    ask(cloud, "quotas", {"metric": "CPUS", "limit": 100, "region": REGION})
    ask(cloud, "quotas", {"metric": "N2_CPUS", "limit": 100, "region": REGION})
    try:
        found = _examined(cloud, sweep)["quota"]
        rooms = {one.metric: one for one in doctor.outlook(cloud, sweep).rooms}
        assert rooms["N2_CPUS"].needs == 4  # of the type that fits
    finally:
        ask(cloud, "quotas", {"metric": "CPUS", "limit": None, "region": REGION})
        ask(cloud, "quotas", {"metric": "N2_CPUS", "limit": None, "region": REGION})
    assert found.level == "warning"
    assert "as n2-highcpu-2, not as n2-highcpu-96" in found.message


@given(
    count=st.integers(1, 1000),
    spot=st.booleans(),
    address=st.booleans(),
    limit=st.integers(0, 10_000),
)
def test_what_is_short_is_what_exceeds_what_is_left(
    count: int, spot: bool, address: bool, limit: int
) -> None:
    """By metric; the family's own CPUs where the region has them, preemptible ones for Spot."""
    there = {
        "INSTANCES": Quota(limit=limit, usage=0),
        "N2_CPUS": Quota(limit=limit, usage=limit / 2),
        "PREEMPTIBLE_CPUS": Quota(limit=limit, usage=0),
        "IN_USE_ADDRESSES": Quota(limit=limit, usage=limit + 1),
    }
    wanted = needed(
        "n2-highcpu-8",
        count,
        spot=spot,
        external_address=address,
        disk_gb=20,
        disk_type="pd-ssd",
        there=there,
    )
    assert ("PREEMPTIBLE_CPUS" in wanted) == (spot and limit > 0)
    assert "SSD_TOTAL_GB" in wanted
    missing = {one.metric for one in short(wanted, there)}
    assert ("INSTANCES" in missing) == (count > limit)
    assert ("IN_USE_ADDRESSES" in missing) == address
    assert ("N2_CPUS" in missing) == ("N2_CPUS" in wanted and count * 8 > limit / 2)


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        (
            {"boot_image": "projects/debian-cloud/global/images/family/debian-12"},
            "problem",
            "boot",
        ),
        ({"disk_gb": 10}, "warning", "10 GB is small"),
        (
            {"scopes": ("https://www.googleapis.com/auth/devstorage.read_only",)},
            "warning",
            "scope",
        ),
    ],
)
def test_a_template_that_can_not_serve(
    cloud: Clients, change: dict[str, Any], level: str, words: str
) -> None:
    """Its image, its disk, its scopes."""
    spec = templates.TemplateSpec(
        name="odd", image=IMAGE, service_account=account_email(cloud.project)
    )
    templates.create_template(cloud, replace(spec, **change))
    try:
        found = _examined(cloud, replace(_sweep(1), template="odd"))["template"]
    finally:
        templates.delete_template(cloud, "odd")
    assert found.level == level
    assert words in found.message


def test_the_default_account_may_do_too_much(cloud: Clients) -> None:
    """Who gets into a VM has the project: a warning that leads to `setup`."""
    templates.create_template(cloud, templates.TemplateSpec(name="broad", image=IMAGE))
    try:
        found = _examined(cloud, replace(_sweep(1), template="broad"))
    finally:
        templates.delete_template(cloud, "broad")
    roles = found["roles of the instances' account"]
    assert roles.level == "warning"
    assert "roles/editor" in roles.message
    assert "setup" in roles.advice


def test_an_account_that_can_not_leave_its_group(cloud: Clients) -> None:
    """Its VMs would stay: without the role, and with one that was cut down."""
    roles = cloud.api("iam", "v1").projects().roles()
    name = f"projects/{cloud.project}/roles/{ROLE}"
    less = {"includedPermissions": ["compute.instanceGroupManagers.get"]}
    cloud.execute("role", roles.patch(name=name, body=less, updateMask="includedPermissions"))
    try:
        found = _examined(cloud)["roles of the instances' account"]
        assert found.level == "problem"
        assert "compute.instanceGroupManagers.update" in found.message
        policy = ProjectPolicy(Place(cloud))
        before = policy.read()
        kept = [one for one in before["bindings"] if one["role"] != name]
        policy.write({**before, "bindings": kept})
        found = _examined(cloud)["roles of the instances' account"]
        assert found.level == "problem"
        assert "no role that we know" in found.message
    finally:
        _set_up(cloud)
    assert _examined(cloud)["roles of the instances' account"].level == "ok"


def test_an_account_that_is_gone(cloud: Clients) -> None:
    """Its instances would have no credentials."""
    templates.create_template(
        cloud,
        templates.TemplateSpec(
            name="gone",
            image=IMAGE,
            service_account=f"gone@{cloud.project}.iam.gserviceaccount.com",
        ),
    )
    try:
        found = _examined(cloud, replace(_sweep(1), template="gone"))
    finally:
        templates.delete_template(cloud, "gone")
    assert found["instances' account"].level == "problem"
    assert "setup" in found["instances' account"].advice


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        (lambda it: setattr(it, "versioning_enabled", True), "warning", "versions"),
        (lambda it: setattr(it, "retention_period", 3600), "problem", "forbids to replace"),
        (
            lambda it: setattr(it.iam_configuration, "public_access_prevention", "inherited"),
            "warning",
            "public",
        ),
    ],
)
def test_a_bucket_that_is_kept_ill(
    cloud: Clients, change: Callable[[Any], None], level: str, words: str
) -> None:
    """Each of its settings that costs money, results or secrecy."""
    bucket = cloud.storage.bucket("kept-ill")
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    change(bucket)
    bucket.create(location="europe-west1")
    try:
        found = list(doctor.examine(cloud, sweep=replace(_sweep(1), bucket="kept-ill")))
    finally:
        cloud.storage.bucket("kept-ill").delete()
    said = [one for one in found if one.name == "bucket" and words in one.message]
    assert [one.level for one in said] == [level]


@pytest.mark.parametrize(("location", "near"), [("EU", True), ("US", False), ("us-east1", False)])
def test_a_bucket_far_from_the_instances(cloud: Clients, location: str, near: bool) -> None:
    """Traffic is slow and billed; a multi-region of the same continent is near."""
    cloud.storage.create_bucket("somewhere-else", location=location)
    try:
        found = list(doctor.examine(cloud, sweep=replace(_sweep(1), bucket="somewhere-else")))
    finally:
        cloud.storage.bucket("somewhere-else").delete()
    said = [one for one in found if one.name == "bucket" and "traffic" in one.message]
    assert [one.level for one in said] == ([] if near else ["warning"])


def test_instances_without_addresses_need_iap(cloud: Clients) -> None:
    """Without IAP's rule a sweep with dispatch over SSH can't be; with it, it can."""
    spec = templates.TemplateSpec(
        name="private",
        image=IMAGE,
        service_account=account_email(cloud.project),
        external_address=False,
    )
    templates.create_template(cloud, spec)
    sweep = replace(_sweep(1), template="private", dispatch=Dispatch.SSH)
    try:
        found = _examined(cloud, sweep)
        assert found["SSH"].level == "problem"
        assert "--iap" in found["SSH"].advice
        assert found["permission for SSH through IAP"].level == "ok"
        boot = _examined(cloud, replace(sweep, dispatch=Dispatch.BOOT))
        assert boot["SSH"].level == "warning"
        setting_up.up(cloud, Wanted.of(cloud, image=IMAGE, iap=True), tell=_silent)
        found = _examined(cloud, sweep)
        assert found["SSH"].level == "ok"
        assert RELAY_ADDRESSES in found["SSH"].message
    finally:
        templates.delete_template(cloud, "private")


def test_who_may_not_use_iap_is_told(cloud: Clients) -> None:
    """Only where it is needed."""
    spec = templates.TemplateSpec(name="private", image=IMAGE, external_address=False)
    templates.create_template(cloud, spec)
    sweep = replace(_sweep(1), template="private")
    try:
        with acting_as(cloud, "viewer", "roles/viewer") as caller:
            found = _examined(caller, sweep)
            public = _examined(caller)
    finally:
        templates.delete_template(cloud, "private")
    name = "permission for SSH through IAP"
    assert found[name].level == "warning"
    assert "roles/iap.tunnelResourceAccessor" in found[name].advice
    assert name not in public


def test_a_bucket_that_the_instances_may_not_write(cloud: Clients) -> None:
    """Another one than was set up: nothing of the experiments would arrive."""
    cloud.storage.create_bucket("not-granted", location="europe-west1")
    try:
        found = _examined(cloud, replace(_sweep(1), bucket="not-granted"))
    finally:
        cloud.storage.bucket("not-granted").delete()
    role = found["instances' role on the bucket"]
    assert role.level == "problem"
    assert "setup --bucket not-granted" in role.advice
    assert _examined(cloud)["instances' role on the bucket"].level == "ok"


def test_a_key_that_others_can_read(cloud: Clients) -> None:
    """It is refused at each connection, so it is said before; a missing one is no fault."""
    key = cloud.settings.ssh_key
    loose = key.with_name("loose")
    loose.write_bytes(key.read_bytes())
    loose.chmod(0o644)
    found = _examined(Clients(replace(cloud.settings, ssh_key=loose)))["SSH key"]
    assert found.level == "problem"
    assert "chmod 600" in found.message
    absent = Clients(replace(cloud.settings, ssh_key=key.with_name("absent")))
    assert _examined(absent)["SSH key"].level == "ok"
    assert not absent.settings.ssh_key.exists()


def test_the_tracking_server_and_its_secret(cloud: Clients, answers: Answers) -> None:
    """It answers or doesn't; a secret that nobody made would leave the trainers without login."""
    answers.say((200, "OK"))
    path = f"projects/{cloud.project}/secrets/absent"
    for uri, level in ((answers.address, "ok"), ("http://127.0.0.1:9", "warning")):
        spec = templates.TemplateSpec(
            name="tracked",
            image=IMAGE,
            service_account=account_email(cloud.project),
            environment={"MLFLOW_TRACKING_URI": uri, "SINERGYM_MLFLOW_SECRET": path},
        )
        templates.create_template(cloud, spec)
        try:
            found = _examined(cloud, replace(_sweep(1), template="tracked"))
        finally:
            templates.delete_template(cloud, "tracked")
        assert found["tracking server"].level == level
        assert found["tracking secret"].level == "problem"


def test_a_channel_that_was_not_verified(cloud: Clients) -> None:
    """Its messages go nowhere; without any, nobody is told."""
    assert "nobody is told" in _examined(cloud)["alerts"].message
    alerts.set_up(cloud, alerts.recipients(cloud, ["ana@example.org"]), on_step=_silent)
    try:
        assert _examined(cloud)["alerts"].level == "ok"
    finally:
        alerts.remove_policies(cloud, _silent)
        for one in alerts.list_channels(cloud):
            alerts.remove_channel(cloud, one, used_by=lambda _: [], force=True)


def test_the_command_says_it_with_its_exit_code(
    cloud: Clients,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """0 where sweeps would run; 1 for a problem; JSON has each finding."""
    run = runner(surroundings_of(cloud.settings), monkeypatch, capsys)
    ended = run("doctor")
    assert ended.code == 0
    assert "0 problems" in ended.err
    assert "ok       credentials: " in ended.out
    file = tmp_path / "sweep.yaml"
    file.write_text("name: large\ntemplate: absent\nexperiments: [x]\n")
    ended = run("doctor", file, "--output", "json")
    assert ended.code == 1
    (template,) = [one for one in ended.json if one["name"] == "template"]
    assert template["level"] == "problem"
    assert template["advice"]


def test_a_launch_that_can_not_be_makes_nothing(
    cloud: Clients,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What doesn't fit into the quota is said before anything is made, also by --dry-run."""
    run = runner(surroundings_of(cloud.settings), monkeypatch, capsys)
    launch = ("sweep", "launch", "--name", "large", "--command", "x", "--command", "y")
    ask(cloud, "quotas", {"metric": "INSTANCES", "limit": 1, "region": REGION})
    ask(cloud, "stats", method="DELETE")
    try:
        dry = run(*launch, "--dry-run", "--output", "json")
        ended = run(*launch)
    finally:
        ask(cloud, "quotas", {"metric": "INSTANCES", "limit": None, "region": REGION})
    assert dry.code == 4
    assert dry.json
    assert "INSTANCES: needs 2, 1 of 1 are left" in dry.err
    assert ended.code == 2
    assert "--yes" in ended.err
    calls: dict[str, int] = ask(cloud, "stats")["calls"]
    assert not [name for name in calls if name.split(".")[-1] in CHANGES]
    assert run(*launch, "--dry-run").code == 0


def test_each_command_in_an_advice_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Who follows the advice gets no error of usage."""
    folder = Path(doctor.__file__).parent
    text = "".join(one.read_text(encoding="utf-8") for one in folder.glob("*.py"))
    commands = set(re.findall(r"`gcloud-ops ((?:[a-z]+ ?)+)", text))
    assert len(commands) > 4
    for command in sorted(commands):
        assert cli.run([*command.split(), "--help"]) == 0, command
        assert f"Usage: gcloud-ops {command.strip()}" in capsys.readouterr().out


def test_no_credentials_is_the_one_thing_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Google nothing else can be asked then; expired ones are told with the remedy."""

    class Expired(AnyCredentials):
        """Of a login that Google has ended."""

        def refresh(self, request: object) -> None:
            del request
            raise RefreshError("invalid_grant: expired or revoked")  # type: ignore[no-untyped-call]

    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    expired = Clients(Settings(project="probe"), credentials=Expired())  # type: ignore[no-untyped-call]
    (found,) = doctor.examine(expired)
    assert found.level == "problem"
    assert "gcloud auth application-default login" in found.advice
    person = _of(Settings(project="probe"), "a-token")
    first = next(iter(doctor.examine(person)))
    assert first.level == "warning"
    assert "set-quota-project probe" in first.advice
    assert "a-token" not in repr(first)


def ask(clients: Clients, path: str, body: object = None, *, method: str | None = None) -> Any:
    """Read one of the emulator's own pages, or post to it."""
    request = urllib.request.Request(
        f"{clients.settings.endpoint}/{path if path.startswith('v1') else f'emulator/{path}'}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


@contextmanager
def acting_as(clients: Clients, name: str, *roles: str) -> Iterator[Clients]:
    """Clients of somebody with these roles in the project."""
    place = Place(clients)
    account = ServiceAccount(place, name, title=name, description="")
    account.ensure(_silent)
    policy = ProjectPolicy(place)
    before = policy.read()
    member = f"serviceAccount:{account.email}"
    added = [{"role": role, "members": [member]} for role in roles]
    policy.write({**before, "bindings": [*before["bindings"], *added]})
    token = ask(
        clients,
        f"v1/projects/-/serviceAccounts/{account.email}:generateAccessToken",
        {"scope": ["https://www.googleapis.com/auth/cloud-platform"]},
    )["accessToken"]
    try:
        yield _of(clients.settings, token)
    finally:
        policy.write({"bindings": before["bindings"]})
        account.remove(_silent)


def _of(settings: Settings, token: str) -> Clients:
    return Clients(settings, credentials=Credentials(token))  # type: ignore[no-untyped-call]


def _silent(news: object) -> None:
    """Nobody is told."""


def _set_up(clients: Clients) -> None:
    setting_up.up(clients, Wanted.of(clients, image=IMAGE), tell=_silent)


def _sweep(size: int) -> Sweep:
    return Sweep.of_commands("probe", ["true"] * size, dispatch=Dispatch.BOOT)


def _examined(clients: Clients, sweep: Sweep | None = None) -> dict[str, doctor.Finding]:
    """Findings by name; of several of one name the worst."""
    order = ("ok", "warning", "problem")
    found: dict[str, doctor.Finding] = {}
    for one in doctor.examine(clients, sweep=sweep):
        before = found.get(one.name)
        if before is None or order.index(one.level) >= order.index(before.level):
            found[one.name] = one
    return found
