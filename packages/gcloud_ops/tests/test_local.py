"""`--local`: one cloud for all who want it, its template, its end."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gcloud_ops import groups, local, templates
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest, Unavailable
from gcloud_ops.settings import Settings

from .conftest import eventually

BIN = Path(sys.executable).parent


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a folder of its own for an inert local cloud, which is stopped."""
    environ = {
        **os.environ,
        "GCLOUD_OPS_LOCAL_FOLDER": str(tmp_path / "a cloud"),
        "GCLOUD_OPS_LOCAL_ENGINE": "inert",
    }
    yield environ
    if (tmp_path / "a cloud" / "cloud.json").exists():
        assert local.emulator("stop", environ=environ) == 0


@pytest.fixture
def base(tmp_path: Path) -> Settings:
    """Settings that lead elsewhere."""
    return Settings(
        project="elsewhere", zone="europe-west1-c", bucket="mine", ssh_key=tmp_path / "key"
    )


def test_start_and_join(surroundings: dict[str, str], base: Settings) -> None:
    """The first starts it, the second joins; the seeds' template is there."""
    first = local.local_settings(base, environ=surroundings)
    second = local.local_settings(base, environ=surroundings)

    assert first == second
    assert (first.project, first.zone, first.bucket) == ("local", "europe-west1-c", "mine")
    template = templates.get_template(Clients.connect(first), "sinergym-template")
    assert template.environment == {"gce_zone": "europe-west1-b", "gce_project_id": "local"}
    cloud = local.read_cloud(local.cloud_folder(surroundings))
    assert cloud is not None
    assert os.getpgid(cloud.pid) != os.getpgid(0), "Ctrl-C here does not reach it"


@pytest.mark.slow
def test_many_starters_end_with_one_cloud(surroundings: dict[str, str]) -> None:
    """Four commands at once: the same process for all, and none other is left."""
    command = [
        *(sys.executable, "-c"),
        "from gcloud_ops.local import ensure_cloud; print(ensure_cloud().pid)",
    ]

    def start(_number: int) -> str:
        return subprocess.run(
            command, env=surroundings, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    with ThreadPoolExecutor(4) as pool:
        pids = set(pool.map(start, range(4)))

    assert len(pids) == 1


@pytest.mark.slow
def test_template_follows_the_tracking_server(
    surroundings: dict[str, str], base: Settings
) -> None:
    """Its address changes with each start: the template is made anew, unless a group uses it."""
    cloud = local.ensure_cloud(surroundings)
    clients = Clients.connect(local.local_settings(base, environ=surroundings))

    def uri() -> str | None:
        found = templates.get_template(clients, "sinergym-template")
        return found.environment.get("MLFLOW_TRACKING_URI")

    for number, expected in ((1, 1), (2, 2)):
        local.ensure_template(clients, about(cloud, number))
        assert uri() == f"http://127.0.0.1:{expected}"
    groups.create_group(clients, "uses-it", "sinergym-template", metadata={}, labels={})
    local.ensure_template(clients, about(cloud, 3))
    assert uri() == "http://127.0.0.1:2"


def about(cloud: local.LocalCloud, port: int) -> local.LocalCloud:
    """What is known of a cloud, with a tracking server on another port."""
    return replace(cloud, mlflow_url=f"http://127.0.0.1:{port}")


def test_what_a_dead_cloud_left_is_no_cloud(surroundings: dict[str, str]) -> None:
    """A cloud.json whose process is gone, or that is no JSON, does not mislead anybody."""
    folder = local.cloud_folder(surroundings)
    folder.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = {
        "pid": ended.pid,
        "endpoint": "http://127.0.0.1:9",
        "ssh_port": 1,
        "project": "local",
        "zone": "europe-west1-b",
    }
    for text in (json.dumps(left), "{", "[]", json.dumps(left | {"pid": os.getpid()})):
        (folder / "cloud.json").write_text(text)
        assert local.read_cloud(folder) is None

    assert local.ensure_cloud(surroundings).pid not in {ended.pid, os.getpid()}


def test_a_cloud_that_does_not_start(surroundings: dict[str, str]) -> None:
    """The reason is in the message: the last lines of its log."""
    surroundings["GCLOUD_OPS_LOCAL_ENGINE"] = "steam"

    with pytest.raises(Unavailable, match=r"did not start: .*steam") as raised:
        local.ensure_cloud(surroundings)
    assert "emulator.log" in raised.value.hint


def test_a_folder_that_cannot_be(surroundings: dict[str, str], tmp_path: Path) -> None:
    """One line that names it."""
    (tmp_path / "file").write_text("")
    surroundings["GCLOUD_OPS_LOCAL_FOLDER"] = str(tmp_path / "file" / "below")

    with pytest.raises(InvalidRequest, match="file/below"):
        local.ensure_cloud(surroundings)


@pytest.mark.slow
def test_mails_go_where_it_was_told_at_its_start(surroundings: dict[str, str]) -> None:
    """A cloud that runs can't learn of it, and an address that is none is named."""
    with pytest.raises(Unavailable, match="--smtp 'nowhere': HOST:PORT is expected"):
        local.ensure_cloud(surroundings, smtp="nowhere")
    started = local.ensure_cloud(surroundings, smtp="127.0.0.1:2525")
    words = Path(f"/proc/{started.pid}/cmdline").read_text().split("\0")
    assert words[words.index("--smtp") + 1] == "127.0.0.1:2525"
    assert local.ensure_cloud(surroundings) == started
    with pytest.raises(InvalidRequest, match="runs already"):
        local.ensure_cloud(surroundings, smtp="127.0.0.1:2526")


@pytest.mark.slow
def test_the_commands_of_the_local_cloud(surroundings: dict[str, str]) -> None:
    """Folder, start by --local, status, stop, wipe."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "gcloud-ops", *arguments],
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    folder = Path(surroundings["GCLOUD_OPS_LOCAL_FOLDER"])
    assert run("local", "folder").stdout == f"{folder}\n"
    assert run("local", "status").returncode != 0
    listed = run("--local", "template", "list")
    assert (listed.returncode, "sinergym-template" in listed.stdout) == (0, True), listed.stderr
    assert run("local", "status").returncode == 0
    up = run("local", "up")
    assert (up.returncode, "0 running; of groups 0, capacity" in up.stdout) == (0, True), up
    make_instance(local.read_cloud(folder), "server")
    assert "1 running; of groups 0, capacity" in run("local", "status").stdout
    elsewhere = ("--image", "local/x:1", "--mlflow-uri", "http://127.0.0.1:1")
    assert run("--local", "template", "create", "elsewhere", *elsewhere).returncode == 0
    sweep = ("--name", "quick", "--command", "true", "--patience", "0.1")
    launched = run("--local", "sweep", "launch", *sweep, "--template", "elsewhere")
    assert "MLflow: http://127.0.0.1:1\n" in launched.stderr
    assert run("local", "stop").returncode == 0
    assert not (folder / "cloud.json").exists()
    assert run("--local", "template", "list").returncode == 0
    unasked = run("local", "wipe")
    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True), unasked.stderr
    assert (folder / "cloud.json").exists(), "neither stopped nor wiped"
    assert run("local", "wipe", "--yes").returncode == 0
    assert not (folder / "cloud.json").exists()
    assert run("local", "wipe", "--yes").returncode == 0, "and where nothing runs"
    assert not (folder / "templates.json").exists()


def make_instance(cloud: local.LocalCloud | None, name: str) -> None:
    """Make an instance of no group, as a tracking server's, and wait until it runs."""
    assert cloud is not None
    clients = Clients.connect(
        Settings(project=cloud.project, zone=cloud.zone, endpoint=cloud.endpoint)
    )
    where = {"project": cloud.project, "zone": cloud.zone}
    disk = {
        "boot": True,
        "initialize_params": {
            "source_image": "projects/cos-cloud/global/images/family/cos-stable"
        },
    }
    wanted = {
        "name": name,
        "machine_type": f"zones/{cloud.zone}/machineTypes/e2-small",
        "disks": [disk],
        "network_interfaces": [{"network": "global/networks/default"}],
    }
    clients.instances.insert_unary(request={**where, "instance_resource": wanted})
    eventually(
        lambda: clients.instances.get(request={**where, "instance": name}).status == "RUNNING",
        "the instance runs",
    )


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    """Without the extra: one line that says what to install."""
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    # A Python in a folder without our commands beside it.
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    done = subprocess.run(
        [
            *(python, "-c"),
            f"import sys; sys.path[:] = {sys.path!r};"
            "from gcloud_ops.cli import run; sys.exit(run(['--local', 'sweep', 'list']))",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    assert "install gcloud-ops[local]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
