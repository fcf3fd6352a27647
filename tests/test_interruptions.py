"""A launcher that is killed at any moment leaves what `resume` takes up and `cancel` removes."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.clouds import Command, OwnCloud

from gcloud_ops import launching, sweeps, templates
from gcloud_ops.errors import NotFound
from gcloud_ops.instances import list_instances

LAUNCH = ["gcloud-ops", "sweep", "launch", "--name", "killed"]
for letter in "abc":
    LAUNCH += ["--command", letter]


@pytest.mark.slow
@pytest.mark.parametrize(
    "until",
    [
        "storage.buckets.insert",
        "storage.objects.insert",
        "compute.instanceGroupManagers.insert",
        "compute.instanceGroupManagers.createInstances",
        "compute.instances.getGuestAttributes",
    ],
)
def test_killed_launcher(
    until: str, command: Command, inert_cloud: OwnCloud, environment: dict[str, str]
) -> None:
    """SIGKILL right after a given call: what is left can be explained and removed entirely."""
    _kill_launcher(inert_cloud, environment, until, "--dispatch", "ssh")

    explained = command("gcloud-ops", "sweep", "status", "killed", env=inert_cloud.flags)
    cancelled = command("gcloud-ops", "sweep", "cancel", "killed", "--yes", env=inert_cloud.flags)

    if explained.returncode == 3:  # killed before the manifest: there is no sweep
        assert "killed" in explained.stderr
        assert cancelled.returncode == 3
    else:
        assert explained.returncode == 0, explained.stderr
        assert "killed-0001" in explained.stdout
        assert cancelled.returncode == 0, cancelled.stderr
        seen = sweeps.status("killed", inert_cloud.clients)
        assert seen.is_gone
        assert {str(row.status) for row in seen.rows} == {"cancelled"}
        sweeps.cancel("killed", inert_cloud.clients)  # twice is fine
        sweeps.delete("killed", inert_cloud.clients)
        with pytest.raises(NotFound):
            sweeps.status("killed", inert_cloud.clients)
    assert list_instances(inert_cloud.clients) == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "until",
    [
        "storage.objects.insert",
        "compute.instanceTemplates.insert",
        "compute.instanceGroupManagers.insert",
        "compute.instanceGroupManagers.createInstances",
    ],
)
def test_resumed_launch(until: str, inert_cloud: OwnCloud, environment: dict[str, str]) -> None:
    """Each experiment gets its one instance, whatever the killed launcher had come to."""
    clients = inert_cloud.clients
    made = {"compute.instanceTemplates.insert": 2}.get(until, 1)  # one is the fixture's
    _kill_launcher(inert_cloud, environment, until, "--spot", "--max-hours", "1", made=made)

    resumed = list(launching.resume("killed", clients, patience=30))
    again = list(launching.resume("killed", clients, patience=30))

    assert isinstance(resumed[-1], launching.Launched | launching.NothingToDo)
    assert isinstance(again[-1], launching.NothingToDo)
    seen = sweeps.status("killed", clients)
    assert [row.member is not None for row in seen.rows] == [True] * 3
    assert len(list_instances(clients)) <= 3
    calls = inert_cloud.calls()
    assert calls["compute.instanceGroupManagers.insert"] <= 2
    derived = [one for one in templates.list_templates(clients) if one.derived_from]
    assert len(derived) == 1
    assert sweeps.cancel("killed", clients).is_gone


def _kill_launcher(
    cloud: OwnCloud, environment: dict[str, str], until: str, *flags: str, made: int = 1
) -> None:
    """Launch, and SIGKILL right after so many calls of a method."""
    launcher = subprocess.Popen(
        [*LAUNCH, *flags],
        env={**environment, **cloud.flags},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while cloud.calls().get(until, 0) < made:
        assert time.monotonic() < deadline, f"{until} was never called"
        time.sleep(0.005)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait(timeout=10)


@pytest.mark.slow
def test_group_that_cannot_be_made_leaves_nothing(inert_cloud: OwnCloud, command: Command) -> None:
    """When Google refuses the group, the manifest goes too: the name is free again."""
    fault = {
        "method": "compute.instanceGroupManagers.insert",
        "status": 403,
        "count": 1,
        "reason": "quotaExceeded",
        "message": "Quota 'INSTANCE_GROUP_MANAGERS' exceeded.",
    }
    inert_cloud.ask("faults", fault)

    refused = command(*LAUNCH, env=inert_cloud.flags)

    assert refused.returncode == 4, refused.stderr
    assert "Quota 'INSTANCE_GROUP_MANAGERS' exceeded" in refused.stderr
    assert sweeps.list_sweeps(inert_cloud.clients) == ()
    assert command(*LAUNCH, env=inert_cloud.flags).returncode == 0


@pytest.mark.slow
def test_a_status_costs_two_calls(inert_cloud: OwnCloud, command: Command) -> None:
    """However many VMs: members in one call, records in one call."""
    launched = command(*LAUNCH, env=inert_cloud.flags)
    assert launched.returncode == 0, launched.stderr
    looking = sweeps.SweepWatch("killed", inert_cloud.clients)
    before = sum(inert_cloud.calls().values())

    looking.refresh()

    assert sum(inert_cloud.calls().values()) - before == 2


@pytest.mark.slow
def test_bad_input_creates_nothing(
    inert_cloud: OwnCloud, command: Command, tmp_path: Path
) -> None:
    """Each mistake gets one line that names the field, and nothing is made."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: q\nexperimnts: [a]\n")
    many = tmp_path / "many.yaml"
    many.write_text("name: q\nbase: a\nseeds: 1001\n")
    launch = ("gcloud-ops", "sweep", "launch")
    mistakes: list[tuple[tuple[str, ...], int, str]] = [
        ((*launch, "--name", "q"), 2, "no experiments"),
        ((*launch, "--name", "Q_1", "--command", "a"), 2, "name"),
        ((*launch, "--name", "q", "--command", ""), 2, "empty"),
        ((*launch, "--name", "q", "--command", "a", "--template", "nope"), 3, "template"),
        ((*launch, "--name", "q", "--command", "a", "--zone", "mars-north1-a"), 3, "zone"),
        ((*launch, "--name", "q", "--command", "a", "--zone", "here"), 2, "zone"),
        ((*launch, str(broken)), 2, f"{broken}:2"),
        ((*launch, str(many)), 2, "1,000"),
        ((*launch, str(tmp_path / "no.yaml")), 3, "no such file"),
        (("cloud-manager", "-group", "q"), 2, "experiment_commands"),
    ]
    for arguments, code, named in mistakes:
        refused = command(*arguments, env=inert_cloud.flags)
        assert (refused.returncode, named in refused.stderr) == (code, True), refused
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        assert "Traceback" not in refused.stderr
    made = {method: n for method, n in inert_cloud.calls().items() if method.endswith(".insert")}
    assert made == {"compute.instanceTemplates.insert": 1}, "the fixture's own template, no more"


@pytest.mark.slow
def test_a_sweep_that_exists_is_refused(inert_cloud: OwnCloud, command: Command) -> None:
    """The second launch under a name says so and leaves the first alone."""
    assert command(*LAUNCH, env=inert_cloud.flags).returncode == 0
    refused = command(*LAUNCH, env=inert_cloud.flags)

    assert refused.returncode == 2
    assert "name: there is a sweep 'killed'" in refused.stderr
    assert len(sweeps.status("killed", inert_cloud.clients).rows) == 3


@pytest.mark.slow
def test_google_without_project_or_credentials(command: Command) -> None:
    """On Google Cloud itself, what is missing is named, without a wait for any network."""
    no_project = command("gcloud-ops", "sweep", "list", timeout=30)
    no_credentials = command(
        *("gcloud-ops", "--project", "some-project", "sweep", "list"),
        env={"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json", "NO_GCE_CHECK": "true"},
        timeout=30,
    )

    assert no_project.returncode == 2
    assert "project" in no_project.stderr
    assert no_credentials.returncode == 4
    assert "credentials" in no_credentials.stderr
    for refused in (no_project, no_credentials):
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
