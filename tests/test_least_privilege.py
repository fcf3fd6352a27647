"""What `gcloud-ops setup` lets the trainers' account do is enough for an experiment, and no more.

The instances have no public address either: whoever looks at them comes through IAP.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from tests.clouds import OwnCloud

from gcloud_ops import groups, instances, launching, setting_up, ssh, sweeps
from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import GcloudOpsError
from gcloud_ops.model import Sweep
from gcloud_ops.resources.trainers import RUNNER_PERMISSIONS, account_email, role_name

LEAVE = "compute.instanceGroupManagers.update"


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[OwnCloud]:
    """A cloud that really runs containers, set up by us."""
    fast = ("--boot-seconds", "0.1", "--pull-seconds", "0.05")
    made = OwnCloud(tmp_path_factory.mktemp("privilege"), environment, *fast, engine="process")
    wanted = setting_up.Wanted(
        template="hidden",
        bucket=made.settings.bucket_name,
        location="EU",
        image="europe-docker.pkg.dev/local/i/trainer:9",
        iap=True,
        external_address=False,
    )
    setting_up.up(made.clients, wanted, tell=lambda _event: None)
    yield made
    made.stop()


def launched(cloud: OwnCloud, name: str) -> None:
    """Launch one experiment, which reads its command at boot."""
    sweep = Sweep.of_commands(name, ["echo done"], template="hidden", dispatch=Dispatch.BOOT)
    for _ in launching.launch(launching.plan(sweep, cloud.clients), cloud.clients):
        pass


def eventually(look: Callable[[], object], what: str) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def permit(cloud: OwnCloud, *permissions: str) -> None:
    """Let the custom role have these permissions only."""
    roles = cloud.clients.api("iam", "v1").projects().roles()
    name = role_name(cloud.clients.project)
    body = {"includedPermissions": list(permissions)}
    request = roles.patch(name=name, body=body, updateMask="includedPermissions")
    cloud.clients.execute("role", request)


@pytest.mark.slow
def test_the_role_is_enough_and_each_part_counts(cloud: OwnCloud) -> None:
    """An experiment ends without a trace; without one permission its VM stays, and says why."""
    launched(cloud, "enough")
    eventually(lambda: sweeps.status("enough", cloud.clients).is_gone, "the sweep is still there")
    (row,) = sweeps.status("enough", cloud.clients).rows
    assert str(row.status) == "finished"
    properties = cloud.clients.read(
        "template hidden",
        cloud.clients.templates.get,
        project=cloud.clients.project,
        instance_template="hidden",
    ).properties
    assert [one.email for one in properties.service_accounts] == [
        account_email(cloud.clients.project)
    ]

    permit(cloud, *(one for one in RUNNER_PERMISSIONS if one != LEAVE))
    launched(cloud, "stays")
    name = "stays-0001"
    said = f"Required '{LEAVE}' permission"
    eventually(lambda: said in log_of(cloud, name), "it does not say which permission it lacks")
    (row,) = sweeps.status("stays", cloud.clients).rows
    assert row.record is not None
    assert row.record.is_final
    found = instances.get_instance(cloud.clients, name)
    assert found is not None
    assert (found.status, found.external_address) == ("RUNNING", "")

    permit(cloud, *RUNNER_PERMISSIONS)
    sweeps.cancel("stays", cloud.clients)
    assert groups.get_group(cloud.clients, "stays") is None


def log_of(cloud: OwnCloud, instance: str) -> str:
    """What an instance's containers have printed, read over SSH; "" while that can't be had."""

    async def read() -> str:
        found = instances.get_instance(cloud.clients, instance)
        if found is None:
            return ""
        keys = instances.host_keys(cloud.clients, instance)
        async with ssh.reach(cloud.clients, found, keys) as connection:
            return (await connection.run("docker logs sinergym")).stdout

    try:
        return asyncio.run(read())
    except GcloudOpsError:
        return ""
