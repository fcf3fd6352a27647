"""One local cloud that really trains, and one whose VMs are inert, for what crosses packages."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clouds import BIN, ROOT, Command, OwnCloud, clean_environment

from gcloud_ops import templates
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder of the tests' own: keys and settings of the developer stay untouched."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def environment(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What our commands see: no credentials, an empty home, a local cloud of the tests' own."""
    return {
        **clean_environment(),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local"),
        "GCLOUD_OPS_LOCAL_FOLDER": str(tmp_path_factory.mktemp("cloud")),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "160",
    }


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Run one of our commands as a user would; the environment can be changed for one call."""

    def run(
        *arguments: str, timeout: float = 60, env: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments,
            env={**environment, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def local_cloud(command: Command, environment: dict[str, str]) -> Iterator[Path]:
    """The folder of a local cloud that trains for real, started by `--local` itself."""
    folder = Path(environment["GCLOUD_OPS_LOCAL_FOLDER"])
    started = command("gcloud-ops", "--local", "template", "list", timeout=90)
    assert started.returncode == 0, started.stderr
    yield folder
    stopped = command("gcloud-ops", "local", "stop", timeout=90)
    assert stopped.returncode == 0, stopped.stderr
    assert not (folder / "cloud.json").exists()


@pytest.fixture
def local_settings(local_cloud: Path, environment: dict[str, str]) -> Settings:
    """Settings of the local cloud, for the Python API."""
    about = json.loads((local_cloud / "cloud.json").read_text())
    return Settings.load(
        flags={
            "project": about["project"],
            "zone": about["zone"],
            "endpoint": about["endpoint"],
            "ssh_port": about["ssh_port"],
        },
        environ=environment,
    )


@pytest.fixture
def local_clients(local_settings: Settings) -> Clients:
    """Clients of the local cloud."""
    return Clients.connect(local_settings)


@pytest.fixture
def inert_cloud(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[OwnCloud]:
    """A fresh inert cloud with the seeds' template."""
    cloud = OwnCloud(tmp_path_factory.mktemp("inert"), environment, "--boot-seconds", "0.2")
    templates.create_template(
        cloud.clients,
        templates.TemplateSpec(
            name="sinergym-template", image="europe-docker.pkg.dev/local/s/trainer"
        ),
    )
    yield cloud
    cloud.stop()
