"""A local cloud with VMs that run nothing, and what is wanted in it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings
from mlflow_infra.wanted import Infrastructure


@pytest.fixture(autouse=True, scope="session")
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No credentials, settings or keys of the developer's."""
    home = tmp_path_factory.mktemp("home")
    prefixes = ("GOOGLE_", "CLOUDSDK_", "GCLOUD_", "GCE_", "STORAGE_EMULATOR", "MLFLOW_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(kept):
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        yield


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    """As many tries as ever, without the pauses between them."""
    with stamina.set_testing(True, attempts=5):
        yield


class Cloud:
    """A local cloud as a process of its own; its VMs exist, and run nothing.

    Args:
        folder: Where it keeps what outlives it.
        options: More options of `gcp-emulator serve`.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        about = folder / "cloud.json"
        self._log = (folder / "serve.log").open("wb")
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("gcp-emulator")),
                "serve",
                *("--engine", "inert", "--folder", str(folder), "--boot-seconds", "0.05"),
                *options,
            ],
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while not about.exists():
            assert self._process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < deadline, "the local cloud did not start"
            time.sleep(0.02)
        found = json.loads(about.read_text())
        self.endpoint: str = found["endpoint"]
        self.settings = Settings.load(
            flags={name: found[name] for name in ("project", "zone", "endpoint", "ssh_port")},
            environ={},
        )
        self.clients = Clients.connect(self.settings)

    @property
    def infra(self) -> Infrastructure:
        """A tracking server in it."""
        return Infrastructure(
            project=self.clients.project,
            zone=self.clients.zone,
            bucket=f"{self.clients.project}-mlflow",
            image="europe-docker.pkg.dev/elsewhere/images/mlflow-server:1",
            source_ranges=("127.0.0.0/8",),
        )

    def calls(self) -> dict[str, int]:
        """How often each method of Google's was called since the last time."""
        counted: dict[str, int] = self._ask("stats")["calls"]
        self._ask("stats", method="DELETE")
        return counted

    def fault(self, method: str, **members: object) -> None:
        """Fail the next calls of a method; see the emulator's `faults`."""
        self._ask("faults", {"method": method, **members})

    def no_faults(self) -> None:
        """Forget the faults that still wait."""
        self._ask("faults", method="DELETE")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def _ask(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.endpoint}/emulator/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)


@pytest.fixture(scope="session")
def cloud_of() -> type[Cloud]:
    """Starts local clouds: `cloud_of(folder)`, to be stopped by who started it."""
    return Cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A new local cloud, with nothing in it."""
    started = Cloud(tmp_path)
    try:
        yield started
    finally:
        started.stop()
