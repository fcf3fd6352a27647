"""Local clouds as processes of their own, for tests and benchmarks."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent

type Command = Callable[..., subprocess.CompletedProcess[str]]


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that would lead a command elsewhere."""
    prefixes = ("GCLOUD_OPS_", "SINERGYM_", "CLOUDSDK_", "GOOGLE_", "GCE_", "MLFLOW_", "STORAGE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}


class OwnCloud:
    """A local cloud as a process of its own; by default nothing runs in its VMs."""

    def __init__(
        self, folder: Path, environment: dict[str, str], *options: str, engine: str = "inert"
    ) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [
                str(BIN / "gcp-emulator"),
                "serve",
                "--engine",
                engine,
                "--folder",
                str(folder),
                *options,
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "stderr.log").open("wb"),
        )
        deadline = time.monotonic() + 30
        while not (folder / "cloud.json").exists():
            assert self._process.poll() is None, (folder / "stderr.log").read_text()
            assert time.monotonic() < deadline, "the emulator did not start"
            time.sleep(0.05)
        about = json.loads((folder / "cloud.json").read_text())
        self.endpoint: str = about["endpoint"]
        places = {key: about[key] for key in ("project", "zone", "endpoint", "ssh_port")}
        self.settings = Settings.load(
            flags={**places, "monitoring_endpoint": about["grpc_endpoint"]}, environ=environment
        )
        self.clients = Clients.connect(self.settings)
        self.flags = {
            "GCLOUD_OPS_ENDPOINT": self.endpoint,
            "GCLOUD_OPS_PROJECT": str(about["project"]),
            "GCLOUD_OPS_ZONE": str(about["zone"]),
            "GCLOUD_OPS_SSH_PORT": str(about["ssh_port"]),
            "GCLOUD_OPS_MONITORING_ENDPOINT": str(about["grpc_endpoint"]),
        }

    def stop(self) -> None:
        """End it; it must end well."""
        self._process.terminate()
        assert self._process.wait(timeout=30) == 0, (self.folder / "stderr.log").read_text()

    def calls(self) -> dict[str, int]:
        """How often each method was called so far, as the emulator counts."""
        counted: dict[str, int] = self.ask("stats")["calls"]
        return counted

    def befall(self, instance: str, fault: str, **more: float | bool) -> None:
        """Let an instance suffer: ``preempt``, ``kill``, ``hang-ssh``... (the emulator's README).

        Raises:
            urllib.error.HTTPError: It is not there, or it is ending.
        """
        self.ask(f"instances/{instance}/{fault}", more)

    def limit(self, capacity: int | None, **counted: str | bool) -> None:
        """How many instances can run at once: all, or of a `zone`, a `machine_type`, `spot`."""
        self.ask("capacity", {"capacity": capacity, **counted})

    def quota(self, metric: str, limit: float | None, *, region: str = "") -> None:
        """Change a quota of a region, or of the project; None: as it was at first."""
        self.ask("quotas", {"metric": metric, "limit": limit, "region": region})

    def hurry(self, speed: float, *, repair: bool = True) -> None:
        """Let ``maxRunDuration`` of instances to come pass so much faster.

        Args:
            speed: 60 makes a second of a minute.
            repair: Whether groups make those whose time is over anew.
        """
        self.ask("run-duration", {"speed": speed, "repair": repair})

    def forget_faults(self) -> None:
        """Let no fault wait for its call any more."""
        self.ask("faults", verb="DELETE")

    def ask(self, path: str, body: Any = None, *, verb: str | None = None) -> Any:
        """Read, or with a body post, one of the emulator's own pages."""
        request = urllib.request.Request(
            f"{self.endpoint}/emulator/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=verb,
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)


def impatient_template(clients: Clients, name: str, impatient: str) -> None:
    """The template anew, but that systemd waits a moment instead of 15 s before a restart."""
    found = clients.read(
        name, clients.templates.get, project=clients.project, instance_template=name
    )
    for item in found.properties.metadata.items:
        item.value = item.value.replace("RestartSec=15", "RestartSec=0.2")
    clients.change(
        impatient,
        clients.templates.insert_unary,
        project=clients.project,
        instance_template_resource={"name": impatient, "properties": found.properties},
    )
