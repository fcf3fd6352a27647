"""The trainers' account: a sweep needs all that it may do; who steals its token has no more."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from tests.clouds import OwnCloud

from gcloud_ops import bucket, groups, launching, setting_up, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import GcloudOpsError, PermissionDenied
from gcloud_ops.local import LOCAL_IMAGE
from gcloud_ops.model import Sweep
from gcloud_ops.objects import list_blobs, read_object
from gcloud_ops.resources import Place, ProjectPolicy
from gcloud_ops.resources.trainers import RUNNER_PERMISSIONS, account_email
from gcloud_ops.setting_up import Wanted
from gcp_emulator.iam.enforcing import permission_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ZONES = ("europe-west1-b", "europe-west1-c")


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[OwnCloud]:
    """A local cloud that is set up, whose runners are real and held to their account's roles."""
    folder = tmp_path_factory.mktemp("cloud")
    started = OwnCloud(folder, {**environment, "SINERGYM_SIGNAL_SECONDS": "30"}, engine="process")
    wanted = Wanted.of(started.clients, image=LOCAL_IMAGE)
    assert setting_up.up(started.clients, wanted, tell=_silent).is_complete
    yield started
    started.stop()


@pytest.mark.parametrize("zones", [(), ZONES], ids=["one zone", "several zones"])
def test_a_sweep_takes_the_permissions_of_the_role_and_no_others(
    cloud: OwnCloud, zones: tuple[str, ...]
) -> None:
    """Records, signals and the group's end; then what Compute Engine was asked is compared."""
    clients = cloud.clients
    name = "wide" if zones else "narrow"
    sweep = Sweep.of_commands(name, ["true", "exit 3", "true"], dispatch=Dispatch.BOOT)
    sweep = replace(sweep, zones=zones)
    list(launching.launch(launching.plan(sweep, clients), clients))
    _forget_calls(cloud)
    # From here on only the VMs call Compute Engine: this looks into the bucket, and the emulator.
    _until(lambda: not cloud.ask("status")["groups"], "the group is gone")
    calls = {one for one in cloud.calls() if one.startswith("compute.")}

    records = bucket.list_records(clients, clients.settings.bucket_name, name)
    assert sorted(one.state for one in records.values()) == ["failed", "finished", "finished"]
    assert not [one.silent_because for one in records.values() if one.silent_because]
    marker, _ = read_object(
        clients, clients.settings.bucket_name, f"{name}/finished.json", resource="marker"
    )
    assert json.loads(marker)["written"] is True
    assert sweeps.status(name, clients).is_gone
    used = {permission_of(one) for one in calls}
    assert used <= set(RUNNER_PERMISSIONS)
    unused = set(RUNNER_PERMISSIONS) - used
    assert unused <= {"compute.zoneOperations.get", "compute.regionOperations.get"}


def test_a_stolen_token_opens_one_bucket_and_no_machine(cloud: OwnCloud) -> None:
    """It makes no VM, reads no other's data, and gives nobody a role."""
    ours = cloud.clients
    email = account_email(ours.project)
    thief = _of(ours, _token(cloud, email))
    ours.storage.create_bucket("somebody-elses").blob("secret").upload_from_string("x")
    spec = templates.TemplateSpec(name="miner", image="example/miner:1", service_account=email)
    where: dict[str, Any] = {"project": ours.project, "zone": ours.zone}
    policy = ProjectPolicy(Place(thief))
    refused: tuple[Callable[[], Any], ...] = (
        lambda: templates.create_template(thief, spec),
        lambda: groups.create_group(thief, "mine", ours.settings.template, metadata={}, labels={}),
        lambda: thief.read_all("instances", thief.instances.list, **where),
        lambda: thief.change("i", thief.instances.delete_unary, **where, instance="any"),
        lambda: thief.change(
            "f",
            thief.firewalls.insert_unary,
            project=ours.project,
            firewall_resource={"name": "f"},
        ),
        lambda: list_blobs(thief, "somebody-elses", "name"),
        lambda: read_object(thief, "somebody-elses", "secret", resource="secret"),
        policy.read,
        lambda: policy.write({"bindings": []}),
        lambda: _token(cloud, "mlflow-tracking-sa@x.iam.gserviceaccount.com", thief),
    )
    for one in refused:
        with pytest.raises(GcloudOpsError) as caught:
            one()
        assert isinstance(caught.value, PermissionDenied), caught.value
    # What it can do is in docs/security.md: the sweeps' own bucket.
    assert list_blobs(thief, ours.settings.bucket_name, "name") is not None


def _token(cloud: OwnCloud, email: str, caller: Clients | None = None) -> str:
    iam = (caller or cloud.clients).api("iamcredentials", "v1").projects().serviceAccounts()
    request = iam.generateAccessToken(
        name=f"projects/-/serviceAccounts/{email}",
        body={"scope": ["https://www.googleapis.com/auth/cloud-platform"]},
    )
    return str((caller or cloud.clients).execute("token", request)["accessToken"])


def _of(clients: Clients, token: str) -> Clients:
    return Clients(clients.settings, credentials=Credentials(token))  # type: ignore[no-untyped-call]


def _silent(news: object) -> None:
    """Nobody is told."""


def _forget_calls(cloud: OwnCloud) -> None:
    request = urllib.request.Request(f"{cloud.endpoint}/emulator/stats", method="DELETE")
    with urllib.request.urlopen(request, timeout=30):
        pass


def _until(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within a minute"
        time.sleep(0.1)
