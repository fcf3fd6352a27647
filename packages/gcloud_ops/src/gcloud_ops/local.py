"""`--local`: start the local cloud as a process of its own, or join the one that runs.

Nothing of the emulator is imported: it is an optional extra, found as an executable. It outlives
the command that started it, and ends by itself when nobody has used it for a while.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from gcloud_ops import templates
from gcloud_ops.clients import Clients
from gcloud_ops.errors import AlreadyExists, GcloudOpsError, InvalidRequest, NotFound, Unavailable
from gcloud_ops.settings import Settings
from gcloud_ops.text import one_line

__all__ = [
    "LocalCloud",
    "cloud_folder",
    "emulator",
    "ensure_cloud",
    "ensure_template",
    "local_settings",
    "read_cloud",
]

START_WITHIN = 30.0
"""Seconds that the local cloud has to start."""

IDLE_MINUTES = 15
"""Minutes without a request and without an instance after which it ends."""

LOCAL_IMAGE = "local/sinergym-trainer:latest"
"""The image in the local cloud's template; its engine runs the runner that is installed here."""

SERVER_IMAGE = "mlflow-server"
"""The image of `mlflow-infra`'s tracking server, whatever its registry and tag..."""
SERVER_PROGRAM = "mlflow-infra-server"
"""...and its entry point: in the local cloud the one that is installed here, if it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCloud:
    """A running local cloud, as its `cloud.json` describes it."""

    folder: Path
    """State and results."""
    pid: int
    endpoint: str
    ssh_port: int
    project: str
    zone: str
    mlflow_url: str
    """The tracking server beside it, or ""."""
    grpc_endpoint: str = ""
    """Where its Cloud Monitoring is, or "": `HOST:PORT`."""


def cloud_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the local cloud keeps its state: `$GCLOUD_OPS_LOCAL_FOLDER`, or the user's data."""
    named = environ.get("GCLOUD_OPS_LOCAL_FOLDER")
    return Path(named).expanduser().absolute() if named else _default_folder()


def local_settings(base: Settings, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings for the local cloud, which runs when this returns, with its template in place.

    Project and endpoint are the local cloud's, the rest is that of `base`.

    Raises:
        InvalidRequest: What it takes is not installed.
        Unavailable: It didn't start; the message has the last lines of its log.
    """
    cloud = ensure_cloud(environ)
    settings = replace(
        base,
        project=cloud.project,
        endpoint=cloud.endpoint,
        monitoring_endpoint=cloud.grpc_endpoint or None,
        ssh_port=cloud.ssh_port,
    )
    ensure_template(Clients.connect(settings), cloud)
    return settings


def ensure_cloud(
    environ: Mapping[str, str] = os.environ, *, smtp: str | None = None
) -> LocalCloud:
    """Join the local cloud of the folder, or start it. Two starters at once end with one cloud.

    Args:
        environ: `GCLOUD_OPS_LOCAL_FOLDER`, `GCLOUD_OPS_LOCAL_ENGINE` and `GCLOUD_OPS_LOCAL_SMTP`
            of it say where, what runs in its instances, and where its e-mails go.
        smtp: `HOST:PORT` of an SMTP server of this machine, in place of that variable; only for
            a cloud that doesn't run yet.

    Raises:
        InvalidRequest: What it takes is not installed; or it runs, and can't learn of the server.
        Unavailable: It didn't start; the message has the last lines of its log.
    """
    folder = cloud_folder(environ)
    if cloud := read_cloud(folder):
        if smtp is not None:
            raise InvalidRequest(
                "--smtp: the local cloud runs already, and learns of it at its start only",
                resource=str(folder),
                hint="`gcloud-ops local stop` first",
            )
        return cloud
    if smtp is not None:
        environ = {**environ, "GCLOUD_OPS_LOCAL_SMTP": smtp}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the local cloud's folder {folder}: {error}") from error
    starter = _start(folder, environ)
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        # Ours, or that of somebody who was faster: the emulator locks the folder.
        if cloud := read_cloud(folder):
            return cloud
        if starter.poll() not in {None, 0} and not _is_locked_by_another(folder, starter.pid):
            break
        time.sleep(0.05)
    raise Unavailable(
        f"the local cloud did not start: {_last_lines(folder / 'emulator.log')}",
        resource=str(folder),
        hint=f"its log is {folder / 'emulator.log'}",
    )


def read_cloud(folder: Path) -> LocalCloud | None:
    """The cloud that runs on the folder; None when none does."""
    try:
        content: dict[str, Any] = json.loads((folder / "cloud.json").read_text(encoding="utf-8"))
        companions = content.get("companions") or {}
        cloud = LocalCloud(
            folder=folder,
            pid=int(content["pid"]),
            endpoint=str(content["endpoint"]),
            ssh_port=int(content["ssh_port"]),
            project=str(content["project"]),
            zone=str(content["zone"]),
            mlflow_url=str((companions.get("mlflow") or {}).get("url") or ""),
            grpc_endpoint=str(content.get("grpc_endpoint") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return cloud if _is_alive(cloud.pid) and _answers(cloud.endpoint) else None


def emulator(*arguments: str, environ: Mapping[str, str] = os.environ) -> int:
    """Run `gcp-emulator COMMAND --folder F` on the local cloud's folder; returns its exit code.

    Raises:
        InvalidRequest: It is not installed.
    """
    command, *rest = arguments
    folder = cloud_folder(environ)
    program = _executable("gcp-emulator")
    return subprocess.run(
        [program, command, "--folder", str(folder), *rest], check=False
    ).returncode


def _default_folder() -> Path:
    return user_data_path("gcloud-ops") / "local-cloud"


def _executable(name: str) -> str:
    found = _found(name)
    if found is None:
        raise InvalidRequest(
            f"the local cloud needs {name!r}, which is not installed",
            resource=name,
            hint="install gcloud-ops[local]",
        )
    return found


def _found(name: str) -> str | None:
    """Beside this Python first: the one that was installed with us."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def _start(folder: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    engine = environ.get("GCLOUD_OPS_LOCAL_ENGINE", "process")
    command = [
        _executable("gcp-emulator"),
        "serve",
        *("--folder", str(folder)),
        *("--engine", engine),
        *("--idle-minutes", str(IDLE_MINUTES)),
    ]
    if smtp := environ.get("GCLOUD_OPS_LOCAL_SMTP"):
        command += ["--smtp", smtp]
    if engine == "process":
        _executable("sinergym-runner")  # without it every container would fail at its start
        command += ["--companion", f"mlflow={_mlflow_command()}"]
        if server := _found(SERVER_PROGRAM):
            command += ["--image", f"{SERVER_IMAGE}={shlex.quote(server)}"]
    environment = dict(environ) | {
        # Of the tracking server: no background jobs, which would cost processes and seconds.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "emulator.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            start_new_session=True,  # Ctrl-C on the command must not end the cloud
        )


def _mlflow_command() -> str:
    """The emulator puts in {port} and {folder}, and starts and stops it with the cloud."""
    return (
        f"{shlex.quote(_executable('mlflow'))} server --host 127.0.0.1 --port {{port}} "
        "--backend-store-uri sqlite:///{folder}/mlflow.db "
        "--artifacts-destination {folder}/artifacts --workers 1"
    )


def _is_locked_by_another(folder: Path, own_pid: int) -> bool:
    """Whether another process is the cloud of this folder, or just becoming it."""
    try:
        content = json.loads((folder / "cloud.json").read_text(encoding="utf-8"))
        pid = int(content["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        # The winner holds the lock and has not written yet: our own process said so at its end.
        return "already" in _last_lines(folder / "emulator.log")
    return pid != own_pid and _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def _answers(endpoint: str) -> bool:
    """Whether something listens: a process of that number may be another one by now."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(endpoint)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def _last_lines(path: Path, count: int = 5) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it left no log"
    return one_line(" | ".join(lines[-count:]), limit=800) or "its log is empty"


def ensure_template(clients: Clients, cloud: LocalCloud) -> None:
    """The seeds' template, telling containers the tracking server of this start of the cloud."""
    name = "sinergym-template"
    environment = {"gce_zone": cloud.zone, "gce_project_id": cloud.project}
    if cloud.mlflow_url:
        environment["MLFLOW_TRACKING_URI"] = cloud.mlflow_url
    try:
        found = templates.get_template(clients, name)
    except NotFound:
        found = None
    if found is not None:
        if dict(found.environment) == environment:
            return
        try:
            templates.delete_template(clients, name)
        except InvalidRequest:  # a sweep runs with it: it keeps the address that it began with
            return
        except NotFound:
            pass
    try:
        templates.create_template(
            clients, templates.TemplateSpec(name=name, image=LOCAL_IMAGE, environment=environment)
        )
    except AlreadyExists:  # another command was faster
        return
    except GcloudOpsError as error:
        raise type(error)(
            f"the local cloud's template: {error.message}", hint=error.hint
        ) from error
