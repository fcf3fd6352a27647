"""The tracking server's image: its Dockerfile holds together, and its steps make a server.

Its instructions are executed without an engine, as those of the trainers' image are
(tests/test_image.py). Google's proxy is an empty program: its image can't be had here.
"""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.clouds import ROOT
from tests.test_image import Build, Instruction, dockerfile, ignored

SERVER = ROOT / "packages" / "mlflow_infra"
IGNORED = SERVER / "Dockerfile.dockerignore"
PAGE = ROOT / "docs" / "mlflow-image.md"


def instructions() -> list[Instruction]:
    """All instructions of all stages."""
    return [it for stage in dockerfile(SERVER)[1] for it in stage.instructions]


def test_every_instruction_refers_to_what_is_there() -> None:
    """Stages, arguments and sources that are named exist, and go into the build."""
    arguments, stages = dockerfile(SERVER)
    names = {stage.name for stage in stages}
    for stage in stages:
        base = stage.base.removeprefix("${").removesuffix("}")
        assert base in arguments or base in names, stage
        for instruction in stage.instructions:
            if instruction.word != "COPY":
                continue
            if instruction.words[0].startswith("--from="):
                assert instruction.words[0].removeprefix("--from=") in names
                continue
            for source in instruction.words[:-1]:
                assert (ROOT / source).exists(), source
                assert not ignored(source, IGNORED), source


def test_only_what_is_needed_goes_into_the_build() -> None:
    """No history, no environments, no secrets that lie about, nothing of other packages."""
    for path in (
        ".git/config",
        ".venv/bin/python",
        "key.json",
        "packages/trainer/pyproject.toml",
        "packages/gcloud_ops/src/gcloud_ops/clients.py",
        "packages/mlflow_infra/tests/test_serving.py",
        "packages/mlflow_infra/src/a/__pycache__/b.pyc",
    ):
        assert ignored(path, IGNORED), path
    for path in ("requirements.lock", "packages/mlflow_infra/src/mlflow_infra/__init__.py"):
        assert not ignored(path, IGNORED), path


def test_the_container_is_what_the_vm_expects() -> None:
    """The entry point is the package's script, as a plain user; nothing is a secret."""
    _, stages = dockerfile(SERVER)
    last = {instruction.word: instruction for instruction in stages[-1].instructions}
    scripts = tomllib.loads((SERVER / "pyproject.toml").read_text())["project"]["scripts"]
    (entry_point,) = json.loads(last["ENTRYPOINT"].text)

    assert entry_point == "mlflow-infra-server"
    assert entry_point in scripts
    assert last["USER"].text not in {"root", "0"}
    assert "COPY --from=proxy /cloud-sql-proxy" in (SERVER / "Dockerfile").read_text()


def test_versions_are_pinned() -> None:
    """The uv of the Makefile, the proxy by its version, all packages by the lock."""
    text = (SERVER / "Dockerfile").read_text()
    (uv,) = re.findall(r"\buv==([\d.]+)", text)
    arguments, _ = dockerfile(SERVER)

    assert f"'uv=={uv}'" in (ROOT / "Makefile").read_text()
    assert arguments["BASE"] == "python:3.12-slim"
    assert re.fullmatch(r"gcr\.io/[a-z/-]+/cloud-sql-proxy:2\.\d+\.\d+", arguments["PROXY"])
    assert "--constraint requirements.lock" in text


def test_cloud_build_passes_every_argument() -> None:
    """Each argument of the Dockerfile has its substitution, with the same default."""
    build = yaml.safe_load((SERVER / "cloudbuild.yaml").read_text())
    (step,) = build["steps"]
    arguments, _ = dockerfile(SERVER)
    declared = set(arguments) | {
        it.words[0].partition("=")[0] for it in instructions() if it.word == "ARG"
    }
    passed = dict(re.findall(r"--build-arg=(\w+)=\$\{_(\w+)\}", "\n".join(step["args"])))

    assert passed == {name: name for name in declared}
    assert set(build["substitutions"]) == {f"_{name}" for name in declared}
    assert build["images"] == ["${_IMAGE}"]
    for name, default in arguments.items():
        assert build["substitutions"][f"_{name}"] == default


def test_the_page_names_what_there_is() -> None:
    """Build arguments, substitutions, files and variables on docs/mlflow-image.md exist."""
    page = PAGE.read_text()
    build = (SERVER / "cloudbuild.yaml").read_text()
    source = "".join(
        path.read_text() for path in (SERVER / "src" / "mlflow_infra" / "serving").glob("*.py")
    )
    declared = re.findall(r"^ARG (\w+)", (SERVER / "Dockerfile").read_text(), re.MULTILINE)

    assert set(re.findall(r"--build-arg (\w+)=", page)) <= set(declared)
    for name in set(declared):
        assert f"`{name}`" in page, name
    for name in re.findall(r"\b(_[A-Z_]+)=", page):
        assert f"${{{name}}}" in build, name
    for path in re.findall(r"packages/mlflow_infra/[\w./]+", page):
        assert (ROOT / path.rstrip(".")).exists(), path
    for name in re.findall(r"`(MLFLOW_INFRA_\w+)`", page):
        assert f'"{name}"' in source, name


class ServerBuild(Build):
    """The steps of this image; its proxy is a program that does nothing."""

    def copy(self, sources: list[str], target: Path) -> None:
        """Copy as Docker does, within what its list of ignored files leaves."""
        if sources[0] == "--from=proxy":
            proxy = self.root / "base" / "bin" / "cloud-sql-proxy"
            proxy.write_text("#!/bin/sh\n")
            proxy.chmod(0o755)
            return
        super().copy(sources, target)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_holds_the_server_alone(tmp_path: Path) -> None:
    """Its entry point starts, all that it imports is there, and nothing of the launcher is."""
    build = ServerBuild(tmp_path / "image", {"GIT_COMMIT": "abc123"}, rules=IGNORED)
    build.root.mkdir()
    stages = [stage for stage in dockerfile(SERVER)[1] if stage.name != "proxy"]
    environment = build.run(stages) | {"PYTHONDONTWRITEBYTECODE": "1"}
    code = (
        "import importlib.util as u, mlflow_infra.serving.tracking, mlflow.server.auth; "
        "print([u.find_spec(name) for name in ('gcloud_ops', 'googleapiclient', 'torch')])"
    )

    def inside(*words: str) -> str:
        return subprocess.run(
            words,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    try:
        assert inside("python3", "-c", code).strip() == "[None, None, None]"
        assert "db-upgrade" in inside("mlflow-infra-server", "--help")
    finally:
        shutil.rmtree(build.root)
