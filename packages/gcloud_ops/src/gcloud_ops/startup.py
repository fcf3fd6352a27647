"""What makes a plain Container-Optimized OS start our container at boot: a cloud-init text.

Compute Engine's own way (`gce-container-declaration`) ended on 31 July 2026
(https://docs.cloud.google.com/compute/docs/containers/prepare-for-container-agent-shutdown), so
a template carries the metadata key `user-data`: cloud-init writes a systemd unit and starts it
(https://cloud.google.com/container-optimized-os/docs/how-to/run-container-instance).
This module is pure: a spec in, text out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

import yaml

from gcloud_ops.contract import CONTAINER
from gcloud_ops.errors import InvalidRequest

__all__ = ["UNIT", "ContainerSpec", "cloud_init", "container_of", "template_metadata"]

SPEC_KEY = "sinergym-container"
"""Metadata key of the spec as JSON, so that a template can be shown as it was asked for."""

RESTART_KEY = "sinergym-restart"
"""Metadata key of the exit code after which the container is started anew."""

RESTART = 75
"""Exit code of a runner whose experiment is to be tried again (docs/contract.md, section 3)."""

_FOLDER = "/var/lib/sinergym"  # the root file system is read-only, and so is root's home
_ENVIRONMENT_FILE = f"{_FOLDER}/container.env"
UNIT = "sinergym.service"
"""The systemd unit that runs the container."""
_UNIT_FILE = f"/etc/systemd/system/{UNIT}"
_FAILED_UNIT = "sinergym-failed.service"
_FAILED_UNIT_FILE = f"/etc/systemd/system/{_FAILED_UNIT}"
_NOT_STARTED = f"{_FOLDER}/not_started.sh"

_IMAGE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:/@]{0,1023}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REGISTRY = re.compile(r"(?:[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")

_LINE_LIMIT = 65_000  # Docker reads an environment file with a line buffer of 64 KiB
_METADATA_LIMIT = 256 * 1024  # Compute Engine's limit for one value, in bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """The one container of an instance."""

    image: str
    """Reference of the image, such as `europe-docker.pkg.dev/my-project/images/sinergym:3.12`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the container. They are readable in the project: no secrets."""
    args: tuple[str, ...] = ()
    """Arguments after the image; none leaves the image's own command."""


def cloud_init(spec: ContainerSpec) -> str:
    """The `#cloud-config` text that starts the container on Container-Optimized OS.

    Raises:
        InvalidRequest: The image, a variable or an argument can't be written into it.
    """
    _check(spec)
    variables = "".join(f"{name}={value}\n" for name, value in sorted(spec.environment.items()))
    config = {
        "write_files": [
            _file(_ENVIRONMENT_FILE, variables, mode="0600"),
            _file(_UNIT_FILE, _unit(spec), mode="0644"),
            _file(_FAILED_UNIT_FILE, _FAILED, mode="0644"),
            _file(_NOT_STARTED, _script(), mode="0700"),
        ],
        "runcmd": [["systemctl", "daemon-reload"], ["systemctl", "start", "--no-block", UNIT]],
    }
    return "#cloud-config\n" + yaml.safe_dump(config, sort_keys=False, width=1_000_000)


def template_metadata(spec: ContainerSpec) -> dict[str, str]:
    """The metadata of a template that runs the container (docs/contract.md, section 3).

    Raises:
        InvalidRequest: The image, a variable or an argument can't be written into it, or it is
            all too much.
    """
    metadata = {
        "user-data": cloud_init(spec),
        # The guest agent then publishes the host keys.
        "enable-guest-attributes": "TRUE",
        # With OS Login the metadata's `ssh-keys` are ignored; a project may have it on.
        "enable-oslogin": "FALSE",
        # What the unit does after such an exit code: a runner counts on it only where it is said.
        RESTART_KEY: f"{RESTART}",
        # For the record; the container itself can't tell what it was started from.
        "sinergym-image": spec.image,
        SPEC_KEY: json.dumps(
            {
                "image": spec.image,
                "environment": dict(spec.environment),
                "args": list(spec.args),
            },
            separators=(",", ":"),
        ),
    }
    for key, value in metadata.items():
        if len(value.encode()) > _METADATA_LIMIT:
            raise InvalidRequest(
                f"environment: the container's variables and arguments make the metadata {key!r} "
                f"larger than {_METADATA_LIMIT // 1024} KiB, Compute Engine's limit"
            )
    return metadata


def container_of(metadata: Mapping[str, str]) -> ContainerSpec | None:
    """Read the spec back from a template's metadata; None when it is none of ours."""
    try:
        content = json.loads(metadata[SPEC_KEY])
        return ContainerSpec(
            image=str(content["image"]),
            environment={str(k): str(v) for k, v in content["environment"].items()},
            args=tuple(str(argument) for argument in content["args"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _unit(spec: ContainerSpec) -> str:
    """The systemd unit. See systemd.service(5) and systemd.syntax(7)."""
    run = [
        "/usr/bin/docker",
        "run",
        f"--name={CONTAINER}",
        "--network=host",  # the metadata server by its name, and no NAT in between
        f"--env-file={_ENVIRONMENT_FILE}",
        "--log-driver=json-file",
        "--log-opt=max-size=100m",
        "--log-opt=max-file=3",
        spec.image,
        *spec.args,
    ]
    lines = [
        "[Unit]",
        "Description=The experiment's container",
        "Wants=gcr-online.target docker.socket",
        "After=gcr-online.target docker.socket",
        f"OnFailure={_FAILED_UNIT}",
        # A registry may be away for some minutes; what fails for longer costs money for nothing.
        "StartLimitIntervalSec=3600",
        "StartLimitBurst=20",
        "",
        "[Service]",
        f"Environment=HOME={_FOLDER}",
    ]
    registry = spec.image.partition("/")[0]
    if _REGISTRY.fullmatch(registry):
        login = f"/usr/bin/docker-credential-gcr configure-docker --registries {registry}"
        lines.append(f"ExecStartPre={login}")
    lines += [
        f"ExecStartPre=-/usr/bin/docker rm --force {CONTAINER}",
        f"ExecStart={' '.join(_quoted(word) for word in run)}",
        # The runner passes SIGTERM on and gives the command 25 seconds.
        f"ExecStop=-/usr/bin/docker stop --time=28 {CONTAINER}",
        "Restart=no",
        # 125 is Docker's own failure, such as a registry that doesn't answer: nothing has run.
        # 137 is a runner that was killed, by the kernel for its memory say: the next one goes on.
        # (So does one whose command was killed; it has had its last word, and no other runs.)
        # 75 is a runner whose experiment is to be tried again.
        f"RestartForceExitStatus=125 137 {RESTART}",
        "RestartSec=15",
        "",
    ]
    return "\n".join(lines)


_FAILED = f"""\
[Unit]
Description=What is left to do when the experiment's container has not started

[Service]
Type=oneshot
Environment=HOME={_FOLDER}
StandardOutput=journal+console
ExecStart=/bin/bash {_NOT_STARTED}
"""


def _script() -> str:
    """What an instance does whose container has not started, so that nothing is left behind."""
    return (resources.files("gcloud_ops") / "not_started.sh").read_text(encoding="utf-8")


def _quoted(word: str) -> str:
    """A word of ExecStart=, whatever is in it: systemd expands % and $, and unquotes."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not re.search(r"[\s\"'\\;]", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _file(path: str, content: str, *, mode: str) -> dict[str, str]:
    return {"path": path, "permissions": mode, "owner": "root:root", "content": content}


def _check(spec: ContainerSpec) -> None:
    if not _IMAGE.fullmatch(spec.image):
        raise InvalidRequest(
            f"image: {spec.image!r} is not a reference of an image",
            hint="such as europe-docker.pkg.dev/my-project/images/sinergym:latest",
        )
    for name, value in spec.environment.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidRequest(f"environment: {name!r} can't name a variable")
        _check_text(value, f"environment: the value of {name}")
        if len(f"{name}={value}".encode()) > _LINE_LIMIT:
            raise InvalidRequest(f"environment: the value of {name} is longer than Docker reads")
    for argument in spec.args:
        _check_text(argument, f"args: {argument[:40]!r}")


def _check_text(text: str, what: str) -> None:
    """Refuse what an environment file or a unit can't hold; tabs are fine."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} is not Unicode text") from None
    if _CONTROLS.search(text.replace("\t", "")):
        raise InvalidRequest(f"{what} holds a line break or a control character")
