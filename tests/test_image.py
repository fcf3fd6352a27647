"""The image: its Dockerfile holds together, and its steps, run without an engine, make a trainer.

There is no container engine where the tests run. What the Dockerfile says is executed
instruction by instruction all the same: stages are folders, `RUN` is a shell, `COPY` copies, and
the base image is an empty Python environment. Only the user is not made.
"""

import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from tests.clouds import ROOT, OwnCloud, clean_environment

from gcloud_ops import bucket, objects

TRAINER = ROOT / "packages" / "trainer"
UV = ROOT / ".tools" / "bin" / "uv"
DEBIAN_SLIM = {
    *("ld-linux-x86", "ld", "libc", "libm", "libdl", "librt", "libpthread", "libutil", "libgcc_s"),
    *("libstdc++", "libz", "libbz2", "liblzma", "libffi", "libssl", "libcrypto", "libuuid"),
    *("libsqlite3", "libcrypt", "libresolv", "libnss_files", "libexpat", "libzstd"),
}
"""Libraries of python:3.12-slim that the interpreter or the wheels use: those of Debian's
essential packages, and those that the official image keeps for Python."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of the Dockerfile."""

    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its arguments, unquoted."""
        return shlex.split(self.text)


@dataclass
class Stage:
    """One stage: `FROM base AS name`, and what follows."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)


def dockerfile(package: Path = TRAINER) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage, and the stages."""
    text = (package / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in lines.replace("\\\n", " ").split("\n"):
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        instruction = Instruction(word, rest.strip())
        if word == "FROM":
            base, *named = instruction.words
            assert not named or (named[0] == "AS" and len(named) == 2), line
            stages.append(Stage(base, named[1] if named else ""))
        elif stages:
            stages[-1].instructions.append(instruction)
        else:
            assert word == "ARG", line
            name, _, default = instruction.words[0].partition("=")
            arguments[name] = default
    return arguments, stages


def ignored(path: str, rules: Path = ROOT / ".dockerignore") -> bool:
    """Whether .dockerignore keeps a path out of the build; the last rule that fits decides."""
    out = False
    for rule in rules.read_text().splitlines():
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!")
        parents = [path, *map(str, Path(path).parents)]
        matching = any(
            fnmatch(f"/{parent}", f"*/{pattern[3:]}") if pattern[:3] == "**/" else
            fnmatch(parent, pattern)
            for parent in parents[:-1] or [path]
        )  # fmt: skip
        if matching:
            out = not rule.startswith("!")
    return out


def test_every_instruction_refers_to_what_is_there() -> None:
    """Stages, arguments and sources that are named exist; what is declared is used."""
    arguments, stages = dockerfile()
    known = {"FROM", "ARG", "ENV", "WORKDIR", "RUN", "COPY", "USER", "LABEL", "ENTRYPOINT"}
    names: dict[str, set[str]] = {}
    for stage in stages:
        base = stage.base.removeprefix("${").removesuffix("}")
        assert base in arguments or base in names, stage
        variables = set(names.get(base, {"PATH"}))
        for instruction in stage.instructions:
            assert instruction.word in known, instruction
            used = set(re.findall(r"\$\{?([A-Z_]+)", instruction.text))
            assert used <= variables, instruction
            if instruction.word == "ARG":
                variables.add(instruction.words[0].partition("=")[0])
            if instruction.word == "ENV":
                variables |= {word.partition("=")[0] for word in instruction.words}
            if instruction.word == "COPY" and instruction.words[0].startswith("--from="):
                assert instruction.words[0].removeprefix("--from=") in names
            elif instruction.word == "COPY":
                *sources, _ = instruction.words
                for source in sources:
                    assert (ROOT / source).exists(), source
                    assert not ignored(source), source
        names[stage.name] = variables


def test_only_what_is_needed_goes_into_the_build() -> None:
    """No history, no environments, no secrets that lie about in the repository's folder."""
    for path in (".git/config", ".venv/bin/python", "key.json", "packages/tui/pyproject.toml"):
        assert ignored(path), path
    for path in ("packages/trainer/tests/conftest.py", "packages/trainer/src/a/__pycache__/b.pyc"):
        assert ignored(path), path
    for path in ("requirements.lock", "packages/trainer/src/sinergym_trainer/cli.py"):
        assert not ignored(path), path


def test_the_container_is_what_the_launcher_expects() -> None:
    """The runner as entry point, its working directory, a plain user, no threads or paths set."""
    _, stages = dockerfile()
    last = {instruction.word: instruction for instruction in stages[-1].instructions}
    scripts = tomllib.loads((TRAINER / "pyproject.toml").read_text())["project"]["scripts"]
    (entry_point,) = json.loads(last["ENTRYPOINT"].text)
    variables = {
        word.partition("=")[0]
        for instruction in stages[-1].instructions
        if instruction.word == "ENV"
        for word in instruction.words
    }

    assert entry_point == "sinergym-runner"
    assert entry_point in scripts
    assert last["WORKDIR"].text == "/code"
    assert last["USER"].text not in {"root", "0"}
    assert variables == {"PATH", "PYTHONUNBUFFERED", "SINERGYM_GIT"}


def test_versions_of_tools_are_those_of_the_repository() -> None:
    """The uv of the Makefile; the Python that the trainer asks for."""
    text = (TRAINER / "Dockerfile").read_text()
    (pinned,) = re.findall(r"\buv==([\d.]+)", text)
    project = tomllib.loads((TRAINER / "pyproject.toml").read_text())["project"]

    assert f"'uv=={pinned}'" in (ROOT / "Makefile").read_text()
    assert dockerfile()[0] == {"BASE": "python:3.12-slim"}
    assert project["requires-python"] == ">=3.12"


def test_cloud_build_passes_every_argument() -> None:
    """Each argument of the Dockerfile has its substitution, and nothing is passed in vain."""
    build = yaml.safe_load((TRAINER / "cloudbuild.yaml").read_text())
    (step,) = build["steps"]
    arguments, stages = dockerfile()
    declared = set(arguments) | {
        instruction.words[0].partition("=")[0]
        for stage in stages
        for instruction in stage.instructions
        if instruction.word == "ARG"
    }
    passed = dict(re.findall(r"--build-arg=(\w+)=\$\{_(\w+)\}", "\n".join(step["args"])))
    used = set(re.findall(r"\$\{(_\w+)\}", json.dumps([build["steps"], build["images"]])))

    assert passed == {name: name for name in declared}
    assert len(passed) == sum(word.startswith("--build-arg") for word in step["args"])
    # The image's name has no default: a build without it is refused.
    assert used == {*build["substitutions"], "_IMAGE"}
    assert build["images"] == ["${_IMAGE}"]
    assert (ROOT / step["args"][1].removeprefix("--file=")).is_file()
    assert build["substitutions"]["_BASE"] == arguments["BASE"]


def test_the_page_names_what_there_is() -> None:
    """Build arguments, substitutions and files on docs/image.md exist."""
    page = (ROOT / "docs" / "image.md").read_text()
    build = (TRAINER / "cloudbuild.yaml").read_text()
    declared = re.findall(r"^ARG (\w+)", (TRAINER / "Dockerfile").read_text(), re.MULTILINE)

    assert set(re.findall(r"--build-arg (\w+)=", page)) <= set(declared)
    for name in set(declared):
        assert f"`{name}`" in page, name
    for name in re.findall(r"\b(_[A-Z_]+)=", page):
        assert f"${{{name}}}" in build, name
    for path in re.findall(r"packages/trainer/[\w./]+", page):
        assert (ROOT / path.rstrip(".")).exists(), path


@dataclass
class Build:
    """The Dockerfile's steps in a folder that stands for the root of all stages."""

    root: Path
    arguments: dict[str, str]
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    rules: Path = ROOT / ".dockerignore"

    def path(self, text: str) -> str:
        """Move absolute paths of the image below the folder."""
        return re.sub(r"(?<![\w/.])/(opt|build|code)\b", rf"{self.root}/\1", text)

    def run(self, stages: list[Stage]) -> dict[str, str]:
        """Execute all stages; returns the environment of the last one."""
        for stage in stages:
            environment = dict(self.environments.get(stage.base) or self.base())
            folder = self.root / "build"
            for instruction in stage.instructions:
                if instruction.word == "WORKDIR":
                    folder = Path(self.path(instruction.text))
                    folder.mkdir(parents=True, exist_ok=True)
                else:
                    self.execute(instruction, environment, folder)
            self.environments[stage.name] = environment
        return environment

    def base(self) -> dict[str, str]:
        """The base image: Python and pip, a shell, and this machine's settings for indexes."""
        python = self.root / "base"
        if not python.exists():
            make = [str(UV), "venv", "--quiet", "--seed", "--python", sys.executable, str(python)]
            subprocess.run(make, env=clean_environment(), check=True, timeout=120)
        return clean_environment() | {"PATH": f"{python}/bin:/usr/bin:/bin"}

    def execute(self, instruction: Instruction, environment: dict[str, str], folder: Path) -> None:
        """Execute one instruction in a stage."""
        if instruction.word == "ARG":
            name, _, default = instruction.words[0].partition("=")
            environment[name] = self.arguments.get(name, default)
        elif instruction.word == "ENV":
            for word in instruction.words:
                name, _, value = word.partition("=")
                environment[name] = re.sub(
                    r"\$\{?(\w+)\}?", lambda found: environment[found[1]], self.path(value)
                )
        elif instruction.word == "COPY":
            *sources, target = instruction.words
            self.copy(sources, folder / self.path(target))
        elif instruction.word == "RUN" and not instruction.text.startswith("useradd "):
            # Half a minute of compiling serves the start in a container, not here.
            done = subprocess.run(
                ["/bin/sh", "-c", self.path(instruction.text)],
                cwd=folder,
                env=environment | {"UV_COMPILE_BYTECODE": "0"},
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            assert done.returncode == 0, f"{instruction.text}\n{done.stderr[-3000:]}"

    def copy(self, sources: list[str], target: Path) -> None:
        """Copy from the repository, or from another stage, whose root is this one."""
        if sources[0].startswith("--from="):
            (source,) = map(self.path, sources[1:])
            if Path(source) != target:
                shutil.copytree(source, target)
            assert target.exists()
            return
        for source in sources:
            found = ROOT / source
            if found.is_dir():

                def left_out(folder: str, names: list[str]) -> list[str]:
                    inside = Path(folder).relative_to(ROOT)
                    return [name for name in names if ignored(str(inside / name), self.rules)]

                shutil.copytree(found, target, ignore=left_out)
            else:
                shutil.copy(found, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The image's root folder, and the environment in its container."""
    build = Build(tmp_path_factory.mktemp("image"), {"GIT_COMMIT": "abc123"})
    environment = build.run(dockerfile()[1])
    for name in ("INDEX", "TORCH_INDEX", "GIT_COMMIT"):  # arguments end with the build
        environment.pop(name, None)
    return build.root, environment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_holds_the_trainer_alone(image: tuple[Path, dict[str, str]]) -> None:
    """Its commands start, the old name is there, and nothing of the launcher came along."""
    root, environment = image
    code = "import importlib.util as u; print(u.find_spec('gcloud_ops'), u.find_spec('textual'))"

    def inside(*words: str) -> str:
        return subprocess.run(
            words,
            cwd=root / "code",
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    assert inside("python3", "-c", code).split() == ["None", "None"]
    assert (
        inside("python3", "-c", "import sys; print(sys.prefix)").strip() == f"{root}/opt/sinergym"
    )
    assert "--environment" in inside("python3", "DRL_battery.py", "--help")
    assert "submit" in inside("sinergym-runner", "--help")
    assert environment["SINERGYM_GIT"] == "abc123"
    assert "EPLUS_PATH" not in environment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_entry_point_trains_what_is_submitted(
    image: tuple[Path, dict[str, str]], inert_cloud: OwnCloud
) -> None:
    """The runner in the empty container takes a command of 2021; results are in the bucket."""
    root, environment = image
    objects.ensure_bucket(inert_cloud.clients, "results")
    installed = files_of(root / "opt")
    container = environment | {
        "STORAGE_EMULATOR_HOST": inert_cloud.endpoint,
        "GCE_METADATA_HOST": "127.0.0.1:1",
        "SINERGYM_METADATA_SECONDS": "0.1",
        "SINERGYM_BUCKET": "results",
        "SINERGYM_SWEEP": "image",
        "SINERGYM_EXPERIMENT": "image-0001",
        "SINERGYM_KEEP_VM": "1",
    }
    loaded: set[str] = set()
    command = (
        "python3 DRL_battery.py --environment Eplus-5Zone-hot-continuous-v1 --episodes 1"
        " --algorithm A2C --run_period 1/1-1/1 --seed 7"
    )
    with (root / "container.log").open("wb") as log:
        runner = subprocess.Popen(
            ["sinergym-runner"], cwd=root / "code", env=container, stdout=log, stderr=log
        )
        try:
            submit(command, root / "code", container, deadline=time.monotonic() + 60)
            deadline = time.monotonic() + 240
            while runner.poll() is None:
                assert time.monotonic() < deadline, (root / "container.log").read_text()
                loaded |= libraries_of(b"DRL_battery.py", besides=root)
                time.sleep(0.1)
        finally:
            if runner.poll() is None:
                runner.kill()
                runner.wait()
    said = (root / "container.log").read_text()

    assert runner.returncode == 0, said[-3000:]
    assert "episode 1/1" in said
    record = bucket.list_records(inert_cloud.clients, "results", "image")["image-0001"]
    assert record.state == "finished"
    stored = {found.name for found in objects.list_objects(inert_cloud.clients, "results")}
    assert {"model.zip", "progress.csv", "monitor.csv"} <= {
        name.removeprefix("image/image-0001/output/") for name in stored
    }
    # A slim base image has all that Python and the wheels do not bring.
    assert "libstdc++" in loaded
    assert loaded <= DEBIAN_SLIM, loaded - DEBIAN_SLIM
    # A user who is not root could not write there.
    assert files_of(root / "opt") == installed


def submit(command: str, folder: Path, environment: dict[str, str], *, deadline: float) -> None:
    """Hand a command over as `docker exec` does, as soon as the runner waits."""
    nobody = 4
    while True:
        answer = subprocess.run(
            ["sinergym-runner", "submit", "--", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if answer.returncode != nobody:
            assert answer.returncode == 0, answer.stderr
            return
        assert time.monotonic() < deadline, answer.stderr
        time.sleep(0.1)


def libraries_of(word: bytes, *, besides: Path) -> set[str]:
    """What a folder's processes with this word have loaded from neither Python nor the folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # Other tests run the same program elsewhere.
            here = (process / "cwd").readlink().is_relative_to(besides)
            if not here or word not in (process / "cmdline").read_bytes():
                continue
            lines = (process / "maps").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            path = Path(line.split(maxsplit=5)[-1])
            own = path.is_relative_to(besides) or path.is_relative_to(sys.base_prefix)
            if ".so" in path.name and not own:
                # glibc and others name a file by its version: libffi.so.8, libutil-2.31.so.
                found.add(re.sub(r"-[\d.]+$", "", path.name.split(".so")[0]))
    return found


def files_of(folder: Path) -> set[str]:
    """All files below a folder but compiled modules, which the image has compiled already."""
    found = (os.path.join(here, name) for here, _, names in os.walk(folder) for name in names)  # noqa: PTH118
    return {path for path in found if not path.endswith(".pyc")}


@pytest.fixture
def torch_index(tmp_path: Path) -> Iterator[str]:
    """A package index on loopback with one wheel: PyTorch's pinned version, for the CPU, empty."""
    (pinned,) = re.findall(
        r"^torch==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    about = f"torch-{pinned}+cpu.dist-info"
    with zipfile.ZipFile(folder / f"torch-{pinned}+cpu-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch/__init__.py", "")
        metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {pinned}+cpu\n"
        wheel.writestr(f"{about}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{about}/WHEEL", tags)
        wheel.writestr(f"{about}/RECORD", "")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        functools.partial(Quiet, directory=str(tmp_path / "index")),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, and listings of folders, without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torch_can_come_from_another_index(torch_index: str, tmp_path: Path) -> None:
    """The pinned version in another build; it stays, and no CUDA comes along with the rest."""
    _, (dependencies, *_) = dockerfile()
    stage = Stage(dependencies.base, dependencies.name, list(dependencies.instructions))
    last = stage.instructions.pop()
    stage.instructions.append(
        Instruction("RUN", last.text.replace("--quiet", "--dry-run") + " 2> plan.txt")
    )
    build = Build(tmp_path, {"TORCH_INDEX": torch_index})
    build.run([stage])
    plan = (tmp_path / "build" / "plan.txt").read_text()

    (installed,) = (tmp_path / "opt" / "sinergym").glob("lib/python3.*/site-packages/torch-*")
    assert installed.name.endswith("+cpu.dist-info")
    assert re.search(r"^ \+ stable-baselines3==", plan, re.MULTILINE), plan
    assert not re.search(r"^ [+-] (torch|nvidia-\S+|triton)==", plan, re.MULTILINE), plan
