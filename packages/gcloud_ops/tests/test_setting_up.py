"""Setting a project up and taking it down: again and again, interrupted anywhere."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops import templates
from gcloud_ops.alerts import metrics
from gcloud_ops.cli import run
from gcloud_ops.clients import Clients
from gcloud_ops.errors import GcloudOpsError, InvalidRequest
from gcloud_ops.resources import BucketPolicy, Done, Event, Place, ProjectPolicy
from gcloud_ops.resources.trainers import ROLE, RUNNER_PERMISSIONS, account_email
from gcloud_ops.setting_up import Wanted, down, look, ordered, up
from gcloud_ops.settings import Settings

from .conftest import inert_cloud, settings_of

READS = ("get", "list", "getIamPolicy", "batchGet", "wait")
CHANGES = (
    "serviceusage.services.batchEnable",
    "iam.projects.serviceAccounts.create",
    "iam.projects.roles.create",
    "storage.buckets.insert",
    "cloudresourcemanager.projects.setIamPolicy",
    "storage.buckets.setIamPolicy",
    "monitoring.projects.metricDescriptors.create",
    "compute.firewalls.insert",
    "compute.instanceTemplates.insert",
)
"""All methods that change anything in a first `up`, in its order."""


class Interrupted(Exception):
    """What ends a run in the tests, as Ctrl-C does in life."""


@dataclass
class Cloud:
    """A local cloud of a test's own."""

    clients: Clients
    wanted: Wanted

    def calls(self) -> dict[str, int]:
        """The calls that change something since the last time, and how often."""
        counted: dict[str, int] = self._ask("stats")["calls"]
        self._ask("stats", method="DELETE")
        return {name: n for name, n in counted.items() if name.split(".")[-1] not in READS}

    def fault(self, method: str, **members: object) -> None:
        """Fail the next calls of a method."""
        self._ask("faults", {"method": method, **members})

    def no_faults(self) -> None:
        """Forget the faults that still wait."""
        self._ask("faults", method="DELETE")

    def _ask(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.clients.settings.endpoint}/emulator/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cloud]:
    """A new local cloud, with nothing in it, nor an API enabled."""
    with _running(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The local cloud of most tests here."""
    with _running(tmp_path_factory.mktemp("shared")) as started:
        yield started


@pytest.fixture
def cloud(shared: Cloud) -> Iterator[Cloud]:
    """The same; what a test makes is removed again."""
    shared.calls()
    yield shared
    shared.no_faults()
    down(shared.clients, shared.wanted, delete_data=True, tell=_silent)
    for bucket in shared.clients.storage.list_buckets():
        bucket.delete(force=True)


@contextmanager
def _running(folder: Path) -> Iterator[Cloud]:
    with inert_cloud(folder) as about:
        settings = settings_of(about, folder / "keys" / "id_ed25519")
        settings = replace(settings, monitoring_endpoint=str(about["grpc_endpoint"]))
        clients = Clients.connect(settings)
        yield Cloud(clients, Wanted.of(clients, image="example/trainer:1", iap=True))


@pytest.mark.slow
def test_up_twice_then_down(fresh: Cloud) -> None:
    """A plan first; the second `up` only reads; `down` keeps the data, or leaves nothing."""
    empty = _inventory(fresh)
    looked = look(fresh.clients, fresh.wanted)
    missing = {one.what for one in looked.findings if one.state == "missing"}
    assert f"bucket {fresh.wanted.bucket}" in missing
    assert fresh.calls() == {}
    assert up(fresh.clients, fresh.wanted, tell=_silent).is_complete
    assert {*fresh.calls()} == {*CHANGES}
    complete = _inventory(fresh)
    email = account_email(fresh.clients.project)
    assert f"serviceAccount:{email}" in str(complete["project"])
    made = templates.get_template(fresh.clients, fresh.wanted.template)
    assert made.service_account == email
    assert fresh.clients.settings.ssh_key.stat().st_mode & 0o077 == 0

    again = up(fresh.clients, fresh.wanted, tell=_silent)
    assert again.is_complete
    assert again.drift == ()
    assert fresh.calls() == {}
    assert _inventory(fresh) == complete

    kept = down(fresh.clients, fresh.wanted, delete_data=False, tell=_silent)
    assert {one.state for one in kept.findings if one.holds_data} == {"there"}
    assert {one.state for one in kept.findings if not one.holds_data} >= {"missing"}
    fresh.calls()
    down(fresh.clients, fresh.wanted, delete_data=False, tell=_silent)
    assert fresh.calls() == {}
    # The role comes back under its own name, though Google keeps what is deleted for a while.
    assert up(fresh.clients, fresh.wanted, tell=_silent).is_complete
    assert _inventory(fresh) == complete
    down(fresh.clients, fresh.wanted, delete_data=True, tell=_silent)
    assert _inventory(fresh) == empty


@pytest.mark.slow
def test_killed_after_each_step_it_goes_on(cloud: Cloud) -> None:
    """Each run ends after one step more; the last one's end is that of an undisturbed run."""
    steps = len(ordered(Place(cloud.clients), cloud.wanted))
    for step in range(1, steps + 1):
        with pytest.raises(Interrupted):
            up(cloud.clients, cloud.wanted, tell=_ends_after(step))
    cloud.calls()
    assert up(cloud.clients, cloud.wanted, tell=_silent).is_complete
    assert cloud.calls() == {}
    for step in range(1, steps + 1):
        with pytest.raises(Interrupted):
            down(cloud.clients, cloud.wanted, delete_data=True, tell=_ends_after(step))
    cloud.calls()
    down(cloud.clients, cloud.wanted, delete_data=True, tell=_silent)
    assert cloud.calls() == {}


@pytest.mark.slow
def test_killed_within_each_step_it_goes_on(cloud: Cloud) -> None:
    """Each change is made once, and its answer lost: nothing is made twice, and all is there."""
    for method in CHANGES:
        if not method.startswith("monitoring."):
            cloud.fault(method, status=503, after=True, count=1)  # made, but the answer is lost
    for _ in range(len(CHANGES) + 1):
        with suppress(GcloudOpsError):
            up(cloud.clients, cloud.wanted, tell=_silent)
            break
    assert look(cloud.clients, cloud.wanted).is_complete
    cloud.calls()
    up(cloud.clients, cloud.wanted, tell=_silent)
    assert cloud.calls() == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "said"), [("forbidden", "ask for the role roles/"), ("quotaExceeded", "quota")]
)
def test_each_refusal_is_one_line_and_taken_on_from(fresh: Cloud, reason: str, said: str) -> None:
    """Each change is refused once: one line says what to do, and the next `up` goes on."""
    for method in CHANGES[1:]:
        if method.startswith("monitoring."):
            continue
        fresh.fault(method, status=403, reason=reason, message="Not you", count=1)
        with pytest.raises(GcloudOpsError, match=said) as caught:
            up(fresh.clients, fresh.wanted, tell=_silent)
        assert "\n" not in str(caught.value)
        assert caught.value.resource
    assert up(fresh.clients, fresh.wanted, tell=_silent).is_complete


def test_what_somebody_changed_is_mended_or_reported(cloud: Cloud) -> None:
    """More permissions are taken away, and missing ones given; a template is for people."""
    up(cloud.clients, cloud.wanted, tell=_silent)
    roles = cloud.clients.api("iam", "v1").projects().roles()
    name = f"projects/{cloud.clients.project}/roles/{ROLE}"
    broad = {"includedPermissions": ["compute.instances.delete", "compute.zoneOperations.get"]}
    patch = roles.patch(name=name, body=broad, updateMask="includedPermissions")
    cloud.clients.execute("role", patch)
    other = Wanted.of(cloud.clients, image="example/trainer:2", iap=True)
    found = {one.what: one for one in look(cloud.clients, other).findings}
    lines = found[f"custom role {ROLE}"].differences
    assert "it permits compute.instances.delete, wanted not" in lines
    assert "it does not permit compute.instanceGroupManagers.update" in lines
    (drift,) = found[f"template {other.template}"].drift
    assert drift.startswith("image is example/trainer:1, wanted example/trainer:2")
    unsaid = look(cloud.clients, Wanted.of(cloud.clients, iap=True))
    assert unsaid.drift == ()
    up(cloud.clients, other, tell=_silent)
    role = cloud.clients.execute("role", roles.get(name=name))
    assert role["includedPermissions"] == sorted(RUNNER_PERMISSIONS)


def test_a_bucket_that_others_made_is_used_and_never_deleted(cloud: Cloud) -> None:
    """Its results were there before us."""
    cloud.clients.storage.create_bucket(cloud.wanted.bucket).blob("x").upload_from_string("mine")
    assert up(cloud.clients, cloud.wanted, tell=_silent).is_complete
    down(cloud.clients, cloud.wanted, delete_data=True, tell=_silent)
    assert [one.name for one in cloud.clients.storage.list_blobs(cloud.wanted.bucket)] == ["x"]


def test_instances_without_a_way_in_are_refused() -> None:
    """No address and no IAP: nobody could reach them."""
    with pytest.raises(InvalidRequest, match="IAP"):
        Wanted.of(Clients.connect(Settings(project="probe")), external_address=False)


def test_the_command_plans_makes_and_removes(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks first: without a terminal and without --yes nothing is made."""
    settings = cloud.clients.settings
    for name, value in (
        ("ENDPOINT", settings.endpoint),
        ("PROJECT", settings.project),
        ("SSH_KEY", settings.ssh_key),
        ("MONITORING_ENDPOINT", settings.monitoring_endpoint),
    ):
        monkeypatch.setenv(f"GCLOUD_OPS_{name}", str(value))
    assert run(["setup", "--plan", "--output", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)["findings"]
    assert {"what", "seen", "holds_data"} <= set(planned[0])
    assert cloud.calls() == {}
    assert run(["setup"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert cloud.calls() == {}
    assert run(["setup", "--delete-data", "--yes"]) == 2
    assert run(["setup", "--yes"]) == 0
    out = capsys.readouterr()
    assert "service account sinergym-trainer" in out.out
    assert "nothing to do" in out.err
    assert run(["setup", "--remove", "--yes"]) == 0
    assert f"stays: bucket {cloud.wanted.bucket}" in capsys.readouterr().err
    assert run(["setup", "--remove", "--delete-data", "--yes"]) == 0
    assert run(["setup", "--remove", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().err


def _silent(event: Event) -> None:
    """Nobody is told."""


def _ends_after(number: int) -> Any:
    """A listener that raises when so many steps are done."""
    done = 0

    def tell(event: Event) -> None:
        nonlocal done
        done += isinstance(event, Done)
        if done == number and isinstance(event, Done):
            raise Interrupted

    return tell


def _inventory(cloud: Cloud) -> dict[str, Any]:
    """All that is in the cloud of what is set up, but the APIs."""
    clients = cloud.clients
    place = Place(clients)
    iam = clients.api("iam", "v1").projects()
    parent = f"projects/{clients.project}"
    accounts = clients.execute("accounts", iam.serviceAccounts().list(name=parent))
    roles = clients.execute("roles", iam.roles().list(parent=parent, view="FULL"))
    buckets = [one.name for one in clients.storage.list_buckets()]
    return {
        "accounts": sorted(one["email"] for one in accounts["accounts"]),
        "roles": [(one["name"], one["includedPermissions"]) for one in roles.get("roles", [])],
        "buckets": buckets,
        "on buckets": [BucketPolicy(place, name).read()["bindings"] for name in buckets],
        "project": ProjectPolicy(place).read()["bindings"],
        "firewalls": [one.name for one in clients.firewalls.list(project=clients.project)],
        "templates": [one.name for one in templates.list_templates(clients)],
        "metrics": metrics.missing_metrics(clients) if clients.settings.has_monitoring else (),
    }
