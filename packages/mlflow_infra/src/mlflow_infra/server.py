"""The server's VM as text: what Container-Optimized OS is told at boot.

Two texts, as `mlflowbuild.sh` had it: cloud-init (`user-data`) writes a systemd unit for the one
container, and the start script in the bucket, which the guest agent runs as root at each boot,
opens the VM's own firewall and starts that unit. Both are readable to whoever may see the VM or
the bucket: they name the secrets' project, and hold none. This module is pure.

Sources: https://cloud.google.com/container-optimized-os/docs/how-to/run-container-instance,
https://cloud.google.com/container-optimized-os/docs/how-to/firewall,
https://cloud.google.com/compute/docs/instances/startup-scripts/linux.
"""

import hashlib
import re
import textwrap
from typing import Final

from gcloud_ops.errors import InvalidRequest
from mlflow_infra.wanted import PORT, Infrastructure

__all__ = ["CONTAINER", "IMAGE_KEY", "UNIT", "UPGRADE_KEY", "metadata", "script", "script_name"]

CONTAINER: Final = "mlflow"
"""Name of the container on the VM."""
UNIT: Final = "mlflow.service"
IMAGE_KEY: Final = "mlflow-image"
"""Metadata key of the image's name."""
UPGRADE_KEY: Final = "mlflow-db-upgrade"
"""Metadata key for an upgrade: the image that may change the database's schema at its start."""

_FOLDER = "/var/lib/mlflow"  # the root file system is read-only, and so is root's home
_ENVIRONMENT_FILE = f"{_FOLDER}/server.env"
_WAIT_SECONDS = 120

_IMAGE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:/@]{0,1023}")
_NAME = re.compile(r"[a-z0-9][-a-z0-9._:]{0,221}")
_REGISTRY = re.compile(r"(?:[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io)")


def script(infra: Infrastructure) -> str:
    """The start script, for bash.

    Raises:
        InvalidRequest: A name can't be written into it.
    """
    _check(infra)
    rule = f"INPUT -p tcp --dport {PORT} -j ACCEPT"
    lines = [
        "#!/bin/bash",
        f"# Starts MLflow's tracking server of the project {infra.project}; made by mlflow-infra.",
        "# The guest agent runs it as root at each boot. The server reads its secrets itself.",
        "set -euo pipefail",
        "",
        "# Container-Optimized OS lets nothing in but SSH, whatever the network's firewall says.",
        f"iptables -w -C {rule} 2>/dev/null || iptables -w -A {rule}",
        "",
        "# cloud-init, which writes the unit, runs at the same time.",
        f"for ((second = 0; second < {_WAIT_SECONDS}; second++)); do",
        "    systemctl daemon-reload",
        f"    systemctl start --no-block {UNIT} 2>/dev/null && exit 0",
        "    sleep 1",
        "done",
        f"systemctl start --no-block {UNIT}",
        "",
    ]
    return "\n".join(lines)


def script_name(infra: Infrastructure) -> str:
    """The script's object in the bucket: named by its content, so none is ever replaced."""
    digest = hashlib.sha256(script(infra).encode()).hexdigest()
    return f"scripts/start_mlflow_tracking-{digest[:12]}.sh"


def metadata(infra: Infrastructure) -> dict[str, str]:
    """The VM's metadata.

    Raises:
        InvalidRequest: A name can't be written into it.
    """
    return {
        "user-data": _cloud_init(infra),
        "startup-script-url": f"gs://{infra.bucket}/{script_name(infra)}",
        IMAGE_KEY: infra.image,
        # The guest agent then publishes the host keys.
        "enable-guest-attributes": "TRUE",
        # With OS Login the metadata's `ssh-keys` are ignored; a project may have it on.
        "enable-oslogin": "FALSE",
        # The system's logging agent sends the container's output to Cloud Logging.
        "google-logging-enabled": "true",
    }


def _cloud_init(infra: Infrastructure) -> str:
    """The `#cloud-config` text. It runs at each boot: /etc and cloud-init's notes are in RAM."""
    variables = {
        "MLFLOW_INFRA_PROJECT": infra.project,
        "MLFLOW_INFRA_CONNECTION": infra.connection,
        "MLFLOW_INFRA_ARTIFACTS": infra.artifacts,
        "MLFLOW_INFRA_PORT": str(PORT),
    }
    environment = "".join(f"{name}={value}\n" for name, value in variables.items())
    return "".join(
        [
            "#cloud-config\n",
            "write_files:\n",
            _file(_ENVIRONMENT_FILE, environment, mode="0600"),
            _file(f"/etc/systemd/system/{UNIT}", _unit(infra), mode="0644"),
        ]
    )


def _unit(infra: Infrastructure) -> str:
    """The systemd unit. See systemd.service(5)."""
    run = [
        "/usr/bin/docker",
        "run",
        f"--name={CONTAINER}",
        "--network=host",  # the metadata server by its name, and clients' own addresses
        f"--env-file={_ENVIRONMENT_FILE}",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--log-driver=json-file",
        "--log-opt=max-size=100m",
        "--log-opt=max-file=3",
        infra.image,
    ]
    lines = [
        "[Unit]",
        "Description=MLflow's tracking server",
        "Wants=gcr-online.target docker.socket",
        "After=gcr-online.target docker.socket",
        # It is to come back however long its database is away.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"Environment=HOME={_FOLDER}",
    ]
    registry = infra.image.partition("/")[0]
    if _REGISTRY.fullmatch(registry):
        # Docker then asks the registry as the VM's service account.
        login = f"/usr/bin/docker-credential-gcr configure-docker --registries {registry}"
        lines.append(f"ExecStartPre={login}")
    lines += [
        f"ExecStartPre=-/usr/bin/docker rm --force {CONTAINER}",
        f"ExecStart={' '.join(run)}",
        # It ends within 10 seconds of SIGTERM.
        f"ExecStop=-/usr/bin/docker stop --time=15 {CONTAINER}",
        "Restart=always",
        "RestartSec=10",
        "",
    ]
    return "\n".join(lines)


def _file(path: str, content: str, *, mode: str) -> str:
    """An entry of `write_files`, its content as a block of YAML."""
    return (
        f"- path: {path}\n"
        f'  permissions: "{mode}"\n'
        "  owner: root:root\n"
        "  content: |\n" + textwrap.indent(content, "    ")
    )


def _check(infra: Infrastructure) -> None:
    """Refuse what would have to be quoted in a shell, a unit or YAML."""
    if not _IMAGE.fullmatch(infra.image):
        raise InvalidRequest(
            f"--image: {infra.image!r} is not a reference of an image",
            hint="such as europe-docker.pkg.dev/my-project/images/mlflow-server:3.17.2",
        )
    for option, name in (
        ("--project", infra.project),
        ("--bucket", infra.bucket),
        ("--zone", infra.zone),
    ):
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{option}: {name!r} is not a name that Google Cloud takes")
