"""The entry point of the server's image: `mlflow-infra-server`.

    mlflow-infra-server               serve, until SIGTERM or until something ends
    mlflow-infra-server db-upgrade    bring the database to this MLflow's schema, and end

It learns from its environment (`server.env`, written by `mlflow_infra.server`) which project,
database and bucket are its own, from the metadata server where it is, and from Secret Manager what
nobody else may know (`cloud`). Then it runs Cloud SQL's proxy and, in a process of its own,
MLflow (`tracking`), and watches both (`processes`); as long as MLflow answers, Cloud Monitoring
gets a sign of life every minute (`heartbeat`). Secrets travel through pipes and files that
only this user can read: never through arguments or the log.

It ends with 0 after SIGTERM, and with 1 and one line that says why in all other cases: the unit on
the VM then starts it again.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from mlflow_infra.serving.cloud import (
    Machine,
    Secrets,
    Settings,
    StartError,
    read_machine,
    read_secrets,
)
from mlflow_infra.serving.heartbeat import Heartbeat
from mlflow_infra.serving.processes import Processes, say

__all__ = ["main"]

DATABASE: Final = "mlflow"
"""Name of the database, and of its user."""

_PROXY_SECONDS = 60
_SERVER_SECONDS = 600
_UPGRADE_SECONDS = 3_600  # a database of many runs takes long
_WORKERS = 2
# Few stay open; more are opened when needed, up to 22 for each worker's two stores, within the 100
# that the database takes: a request can need a second one while it holds its first.
_POOL = {
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "2",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "20",
}


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mlflow-infra-server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", nargs="?", choices=["serve", "db-upgrade"], default="serve")
    command = parser.parse_args().command
    # The first process of a container ignores signals that it has not asked for.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return _run(Settings.of(os.environ), upgrade_only=command == "db-upgrade")
    except StartError as error:
        say(str(error))
        return 1


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave wherever the program is; the way out ends its processes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def _run(settings: Settings, *, upgrade_only: bool) -> int:
    machine = read_machine()
    secrets = read_secrets(settings.project)
    with (
        tempfile.TemporaryDirectory(prefix="mlflow-", ignore_cleanup_errors=True) as folder,
        Processes() as processes,
    ):
        sockets = _start_proxy(processes, settings, Path(folder))
        environment = _environment(settings, machine, secrets, Path(folder), sockets)
        may_upgrade = upgrade_only or _may_upgrade(machine, os.environ)
        order = {
            "serve": not upgrade_only,
            "upgrade": may_upgrade,
            "signing_key": secrets.signing_key,
            "admin": {"username": secrets.admin.name, "password": secrets.admin.password},
            "trainer": {"username": secrets.trainer.name, "password": secrets.trainer.password},
        }
        tracking = processes.start(
            "MLflow",
            [sys.executable, "-P", "-m", "mlflow_infra.serving.tracking"],
            environment=environment,
            input=json.dumps(order).encode(),
        )
        if upgrade_only:
            processes.wait_until(
                lambda: tracking.poll() == 0,
                seconds=_UPGRADE_SECONDS,
                what="the database is not upgraded",
            )
            say(f"the database {DATABASE} has the schema of MLflow {version('mlflow')}")
            return 0
        address = f"{machine.internal}:{settings.port}"
        processes.wait_until(
            lambda: machine.answers(f"http://{address}/health"),
            seconds=_UPGRADE_SECONDS if may_upgrade else _SERVER_SECONDS,
            what=f"MLflow does not answer on {address}",
        )
        say(
            f"serving on {address} (MLflow {version('mlflow')}, database {DATABASE} on "
            f"{settings.connection})"
        )
        with Heartbeat(
            settings.project, lambda: machine.answers(f"http://{address}/health"), os.environ
        ):
            name, code = processes.wait()
        raise StartError(f"{name} ended with exit code {code}")


def _start_proxy(processes: Processes, settings: Settings, folder: Path) -> Path:
    """Start Cloud SQL's proxy; returns the folder of the database's socket.

    The path of a socket has at most 107 bytes (unix(7)), and a connection's name can have 60.
    """
    processes.start(
        "cloud-sql-proxy", ["cloud-sql-proxy", "--unix-socket", str(folder), settings.connection]
    )
    socket = folder / settings.connection / ".s.PGSQL.5432"
    processes.wait_until(
        socket.exists, seconds=_PROXY_SECONDS, what="cloud-sql-proxy opens no socket"
    )
    return socket.parent


def _may_upgrade(machine: Machine, environment: Mapping[str, str]) -> bool:
    """Whether the schema may be changed: `mlflow-infra upgrade` has made a backup, and says so."""
    if environment.get("MLFLOW_INFRA_DB_UPGRADE") == "1":
        return True
    allowed = machine.attributes.get("mlflow-db-upgrade", "")
    return bool(allowed) and allowed == machine.attributes.get("mlflow-image")


def _environment(
    settings: Settings, machine: Machine, secrets: Secrets, folder: Path, sockets: Path
) -> dict[str, str]:
    """MLflow's environment, and the files that it names."""
    # libpq finds the password by PGPASSFILE, so that no address of the database holds it.
    uri = f"postgresql+psycopg://{DATABASE}@/{DATABASE}?host={sockets}"
    password = secrets.database.replace("\\", "\\\\").replace(":", "\\:")
    passwords = _private(folder / "pgpass", f"*:*:{DATABASE}:{DATABASE}:{password}\n")
    users = _private(
        folder / "basic_auth.ini",
        "[mlflow]\n"
        # All see all; an experiment is changed by whoever made it, and by the admin. So a
        # trainer's credential that leaks can't undo what others did.
        "default_permission = READ\n"
        f"database_uri = {uri.replace('%', '%%')}\n"
        f"admin_username = {secrets.admin.name}\n"
        # A password is hashed slowly, and a training sends it with every metric.
        "auth_cache_ttl_seconds = 30\n",
    )
    hosts = {machine.internal, machine.external, *machine.names, "localhost", "127.0.0.1"} - {""}
    with_port = sorted(f"{host}:{settings.port}" for host in hosts)
    return {
        **os.environ,
        **_POOL,
        "PGPASSFILE": str(passwords),
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_ARTIFACTS_DESTINATION": settings.artifacts,
        "MLFLOW_HOST": machine.internal,
        "MLFLOW_PORT": str(settings.port),
        "MLFLOW_WORKERS": str(_WORKERS),
        # The middleware refuses names that a browser was tricked into
        # (https://mlflow.org/docs/latest/self-hosting/security/network).
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(with_port),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{host}" for host in with_port),
        "MLFLOW_UVICORN_OPTS": "--timeout-graceful-shutdown=4",
        # Jobs of the server are for language models: 2 GB of memory and 8 processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }


def _private(path: Path, text: str) -> Path:
    """Write a file that only this user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path
