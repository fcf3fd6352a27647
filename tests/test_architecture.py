"""What holds the house together: light imports, wheels that stand alone, pins that are true."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.clouds import ROOT, Command, clean_environment

UV = ROOT / ".tools" / "bin" / "uv"
HEAVY = ("google", "asyncssh", "torch", "textual", "sinergym", "mlflow", "stable_baselines3")


@pytest.mark.parametrize(
    "module",
    [
        "gcloud_ops",
        "gcloud_ops.model",
        "gcloud_ops.clients",
        "gcloud_ops.sweeps",
        "sinergym_trainer.runner",
        "sinergym_trainer.options.flags",
        "gcp_emulator.cli",
    ],
)
def test_import_is_light(module: str) -> None:
    """Importing it loads nothing that costs seconds; what is needed is loaded where it is used."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)


@pytest.mark.slow
def test_fresh_resolution_gives_the_pins(tmp_path: Path) -> None:
    """Without uv.lock, uv resolves to exactly what requirements.lock says."""
    for project in [ROOT, *(ROOT / "packages").iterdir()]:
        target = tmp_path / project.relative_to(ROOT)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / "pyproject.toml", target)
    environment = clean_environment() | {"UV_PYTHON": sys.executable}
    export = [str(UV), "export", "--quiet", "--no-emit-workspace", "--no-header"]
    done = subprocess.run(
        [*export, "--format", "requirements-txt"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert done.stdout == (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages, built."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run(
        [str(UV), "build", "--quiet", "--all-packages", "--wheel", "--out-dir", str(folder)],
        cwd=ROOT,
        env=clean_environment() | {"UV_PYTHON": sys.executable},
        check=True,
        timeout=300,
    )
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("package", "command", "forbidden"),
    [
        ("gcp-emulator", "gcp-emulator", "gcloud_ops"),
        ("gcloud-ops", "gcloud-ops", "torch"),
        ("mlflow-infra", None, "torch"),
        ("sinergym-tui", "sinergym-tui", "torch"),
    ],
)
def test_wheel_installs_alone(
    wheels: Path, package: str, command: str | None, forbidden: str, tmp_path: Path
) -> None:
    """In an empty environment the wheel brings what it needs, starts, and brings no stranger.

    The trainer's does so, and trains, in `test_image.py`, by the steps of its image.
    """
    environment = clean_environment() | {"VIRTUAL_ENV": str(tmp_path / "venv")}
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = wheels.glob(f"{package.replace('-', '_')}-*.whl")
    install = [str(UV), "pip", "install", "--quiet", "--constraint", str(tmp_path / "pins.txt")]
    # Without hashes: a wheel that was just built has none in the pins.
    pins = [
        line.rstrip(" \\")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line and not line.startswith(" ")
    ]
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    subprocess.run(
        [str(UV), "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        env=environment,
        check=True,
        timeout=60,
    )
    subprocess.run(
        [*install, "--find-links", str(wheels), str(wheel)],
        env=environment,
        check=True,
        timeout=400,
    )
    if command is not None:
        started = subprocess.run(
            [str(python.parent / command), "--help"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert started.returncode == 0, started.stderr
        assert command in started.stdout
    found = subprocess.run(
        [str(python), "-c", f"import importlib.util as u; print(u.find_spec({forbidden!r}))"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == "None"


def test_makefile_lists_its_targets(command: Command) -> None:
    """`make` alone tells what there is."""
    listed = command("make", "--no-print-directory", env={"MAKEFLAGS": ""})

    assert listed.returncode == 0, listed.stderr
    for target in ("demo", "console", "test", "check", "bench"):
        assert f"\n{target} " in f"\n{listed.stdout}"


def test_repository_names_no_place() -> None:
    """No path of a machine, no package index, no download address in any file of ours."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    addresses = re.compile(r"https?://[^ \"]+\.(?:whl|tar\.gz)|index-url[ =]+http")
    for name in filter(None, listed):
        text = (ROOT / name).read_text(errors="replace")
        assert not addresses.search(text), name
        for place in (ROOT.parent, Path.home()):
            assert f"{place}{os.sep}" not in text, f"{name} has {place}"
