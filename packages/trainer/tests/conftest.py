"""Shared: a real MLflow server on loopback, and one full training that several tests look at."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from sinergym_trainer.options import Options
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.training import Result, train

TWO_DAYS = RunPeriod.parse("1/1-2/1")
CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
CLEARED = (
    *("SINERGYM_OUTPUT", "SINERGYM_PROGRESS", "SINERGYM_SWEEP", "SINERGYM_EXPERIMENT"),
    *("SINERGYM_ATTEMPT", "SINERGYM_BUCKET", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS"),
)


def _free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until[T](look: Callable[[], T], seconds: float) -> T:
    """Look until what is seen is true, or fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return seen


@pytest.fixture
def until() -> Callable[..., Any]:
    """`until(look, seconds)`: look until what is seen is true, and return it."""
    return _until


@pytest.fixture
def free_port() -> int:
    """A port on loopback that nobody listens on."""
    return _free_port()


@pytest.fixture(autouse=True)
def _no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests start as at home: no runner, no tracking server."""
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def _serving_mlflow(folder: Path, *options: str, **environ: str) -> Iterator[str]:
    """The address of a real MLflow server with its own SQLite file, in a folder."""
    port = _free_port()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1", *options),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environ},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        _until(healthy, 90)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server."""
    with _serving_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real MLflow server with MLflow's basic auth: its address, and its folder.

    Its users are `admin` and `trainer`, each with the password `<name>-p4ssword-t0-seek`.
    """
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\n"
    )
    environ = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "admin-p4ssword-t0-seek",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs-the-forms",
    }
    with _serving_mlflow(folder, "--app-name", "basic-auth", **environ) as url:
        made = requests.post(
            f"{url}/api/2.0/mlflow/users/create",
            json={"username": "trainer", "password": "trainer-p4ssword-t0-seek"},
            auth=("admin", "admin-p4ssword-t0-seek"),
            timeout=30,
        )
        assert made.status_code == 200, made.text
        yield url, folder


@dataclass(frozen=True)
class Trained:
    """A finished training, and what it printed and wrote where."""

    options: Options
    result: Result
    lines: list[str]
    progress: Path
    mlflow: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, mlflow_server: str) -> Trained:
    """PPO for two episodes of two days as an experiment of a sweep, with everything on."""
    folder = tmp_path_factory.mktemp("trained")
    options = Options(
        environment=CONTINUOUS,
        algorithm="PPO",
        episodes=2,
        seed=7,
        n_steps=96,
        batch_size=32,
        run_period=TWO_DAYS,
        normalize_action=True,
        logger=True,
        evaluation=True,
        eval_freq=1,
        eval_length=1,
        tensorboard="./tensorboard_log",
        mlflow_store=True,
    )
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as environ:
        for name in CLEARED:
            environ.delenv(name, raising=False)
        environ.setenv("SINERGYM_OUTPUT", str(folder / "output"))
        environ.setenv("SINERGYM_PROGRESS", str(folder / "progress.json"))
        environ.setenv("SINERGYM_SWEEP", "quick")
        environ.setenv("SINERGYM_EXPERIMENT", "quick-0001")
        environ.setenv("SINERGYM_ATTEMPT", "1")
        environ.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        result = train(options, say=lines.append)
    return Trained(options, result, lines, folder / "progress.json", mlflow_server)


class LocalCloud:
    """A local cloud in a process of its own: its bucket, and what can go wrong with it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def fault(self, method: str, **how: Any) -> None:
        """Let calls fail (see `/emulator/faults` of gcp-emulator)."""
        self._ask("POST", {"method": method, **how})

    def heal(self) -> None:
        """Forget the faults."""
        self._ask("DELETE", None)

    def _ask(self, method: str, body: Any) -> None:
        request = urllib.request.Request(
            f"{self.endpoint}/emulator/faults",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.status == 200


@pytest.fixture(scope="module")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud without any bucket."""
    folder = tmp_path_factory.mktemp("cloud")
    program = str(Path(sys.executable).parent / "gcp-emulator")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", "--engine", "inert", "--folder", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    about = folder / "cloud.json"

    def told() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        return about.exists()

    try:
        _until(told, 60)
        yield LocalCloud(json.loads(about.read_text())["endpoint"])
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("-env", ..., VARIABLE=...)`: a `sinergym-train` as a process; none is left after."""
    started: list[subprocess.Popen[str]] = []

    def _start(*arguments: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "sinergym_trainer", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield _start
    for process in started:
        process.kill()
        process.communicate(timeout=20)
