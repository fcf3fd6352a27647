"""What the server's VM is told: cloud-init, the start script, metadata."""

import re
import shlex
import subprocess
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.errors import InvalidRequest
from mlflow_infra.server import CONTAINER, IMAGE_KEY, UNIT, metadata, script, script_name
from mlflow_infra.wanted import PORT, Infrastructure

INFRA = Infrastructure(
    project="my-project",
    zone="europe-west1-b",
    bucket="my-artifacts",
    image="europe-docker.pkg.dev/my-project/images/mlflow-server:3.17.2",
)


def files(infra: Infrastructure) -> dict[str, str]:
    """The files that cloud-init writes."""
    text = metadata(infra)["user-data"]
    assert text.startswith("#cloud-config\n")
    return {entry["path"]: entry["content"] for entry in yaml.safe_load(text)["write_files"]}


def test_cloud_init_writes_variables_and_a_unit() -> None:
    """The container gets what it needs to find its secrets, and no secret."""
    written = files(INFRA)
    modes = {
        entry["path"]: entry["permissions"]
        for entry in yaml.safe_load(metadata(INFRA)["user-data"])["write_files"]
    }

    assert written["/var/lib/mlflow/server.env"].splitlines() == [
        "MLFLOW_INFRA_PROJECT=my-project",
        "MLFLOW_INFRA_CONNECTION=my-project:europe-west1:mlflow-backend",
        "MLFLOW_INFRA_ARTIFACTS=gs://my-artifacts/mlflow_artifacts",
        f"MLFLOW_INFRA_PORT={PORT}",
    ]
    assert modes == {
        "/var/lib/mlflow/server.env": "0600",
        f"/etc/systemd/system/{UNIT}": "0644",
    }


def test_the_unit_runs_the_image_again_and_again() -> None:
    """One container by its name, on the VM's own network; without end, without a limit."""
    unit = files(INFRA)[f"/etc/systemd/system/{UNIT}"]
    lines = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    run = shlex.split(lines["ExecStart"])

    assert run[:2] == ["/usr/bin/docker", "run"]
    assert run[-1] == INFRA.image
    assert {f"--name={CONTAINER}", "--network=host", "--cap-drop=ALL"} <= set(run)
    assert lines["Restart"] == "always"
    assert lines["StartLimitIntervalSec"] == "0"
    assert lines["ExecStop"].endswith(CONTAINER)
    assert "--registries europe-docker.pkg.dev" in unit


def test_another_registry_needs_no_login() -> None:
    """Google's helper is asked for Google's registries alone."""
    unit = files(replace(INFRA, image="docker.io/somebody/mlflow-server:1"))

    assert "docker-credential-gcr" not in unit[f"/etc/systemd/system/{UNIT}"]


def test_the_script_opens_the_port_and_starts_the_unit() -> None:
    """Bash takes it, it stops at the first error, and it starts the unit that is written."""
    text = script(INFRA)
    checked = subprocess.run(["bash", "-n"], input=text, text=True, timeout=10, check=False)

    assert checked.returncode == 0
    assert text.startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in text
    assert re.search(rf"iptables .*--dport {PORT} -j ACCEPT", text)
    assert f"systemctl start --no-block {UNIT}" in text


def test_metadata_names_script_and_image() -> None:
    """What the guest agent fetches is what `up` uploads; host keys and logs are published."""
    found = metadata(INFRA)

    assert found["startup-script-url"] == f"gs://my-artifacts/{script_name(INFRA)}"
    assert found[IMAGE_KEY] == INFRA.image
    assert found["enable-guest-attributes"] == "TRUE"
    assert found["enable-oslogin"] == "FALSE"
    assert found["google-logging-enabled"] == "true"


def test_a_script_is_named_by_its_content() -> None:
    """The same again gets the same name; another one never replaces it."""
    assert re.fullmatch(r"scripts/start_mlflow_tracking-[0-9a-f]{12}\.sh", script_name(INFRA))
    assert script_name(INFRA) == script_name(replace(INFRA))
    assert script_name(INFRA) != script_name(replace(INFRA, project="other-project"))


@pytest.mark.parametrize(
    ("option", "infra"),
    [
        ("--image", replace(INFRA, image="two words")),
        ("--image", replace(INFRA, image="image;reboot")),
        ("--image", replace(INFRA, image="image\nExecStart=/bin/sh")),
        ("--project", replace(INFRA, project="$(reboot)")),
        ("--bucket", replace(INFRA, bucket="bucket\nMLFLOW_INFRA_PORT=1")),
    ],
)
def test_a_name_that_would_mean_more_is_refused(option: str, infra: Infrastructure) -> None:
    """Nothing is quoted, so nothing is taken that a shell, a unit or YAML reads differently."""
    with pytest.raises(InvalidRequest, match=f"^{option}: "):
        metadata(infra)


@given(st.text(min_size=1, max_size=40))
def test_any_image_is_refused_or_is_one_word(image: str) -> None:
    """What is taken comes out of the unit as it went in."""
    infra = replace(INFRA, image=image)
    try:
        unit = files(infra)[f"/etc/systemd/system/{UNIT}"]
    except InvalidRequest:
        return
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]

    assert shlex.split(line)[-1] == image
