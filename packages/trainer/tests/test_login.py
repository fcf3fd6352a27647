"""A tracking server that wants a user name and a password: MLflow's own, with basic auth."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from sinergym_trainer.errors import TrainerError
from sinergym_trainer.tracking import NAME, sync
from sinergym_trainer.tracking.spool import Head, Metric, Spool

pytestmark = pytest.mark.slow  # real trainings

SECRET = "trainer-p4ssword-t0-seek"
COMMAND = shlex.split(
    "-env Eplus-5zone-hot-continuous-v1 -alg PPO --run_period 1/1-1/1 -sd 1 -ep 1 -n 32 -bs 32"
)

type Start = Callable[..., subprocess.Popen[str]]


def train(start: Start, output: Path, uri: str, *flags: str, **environ: str) -> tuple[str, str]:
    """Train for a day, as an experiment of a sweep does; returns both outputs."""
    process = start(
        *COMMAND,
        *flags,
        MLFLOW_TRACKING_URI=uri,
        SINERGYM_OUTPUT=str(output),
        SINERGYM_SWEEP=output.name,
        SINERGYM_PROGRESS=str(output.with_suffix(".json")),
        **environ,
    )
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed, errors


def holding(folder: Path, text: str) -> list[str]:
    """The files below a folder that hold a text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if text.encode() in path.read_bytes()]


def test_a_training_logs_with_its_password(
    start: Start, tmp_path: Path, guarded_server: tuple[str, Path]
) -> None:
    """Metrics, files and a model arrive; the password is nowhere in the outputs nor the store."""
    uri, folder = guarded_server
    login = {"MLFLOW_TRACKING_USERNAME": "trainer", "MLFLOW_TRACKING_PASSWORD": SECRET}

    printed, errors = train(start, tmp_path / "logged", uri, "--mlflow_store", **login)

    def ask(path: str, **body: object) -> requests.Response:
        auth = ("trainer", SECRET)
        return requests.post(f"{uri}/api/2.0/mlflow/{path}", json=body, auth=auth, timeout=30)

    experiment = requests.get(
        f"{uri}/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": "logged"},
        auth=("trainer", SECRET),
        timeout=30,
    ).json()["experiment"]["experiment_id"]
    (run,) = ask("runs/search", experiment_ids=[experiment]).json()["runs"]
    assert run["info"]["status"] == "FINISHED", errors
    assert "episode/mean_reward" in {one["key"] for one in run["data"]["metrics"]}
    models = ask("logged-models/search", experiment_ids=[experiment]).json()["models"]
    assert [one["info"]["status"] for one in models] == ["LOGGED_MODEL_READY"]
    assert not (tmp_path / "logged" / NAME).exists(), errors
    assert "not sent" not in errors
    assert SECRET not in printed + errors
    assert not holding(tmp_path, SECRET)
    assert not holding(folder, SECRET)


def test_a_refusal_ends_no_training(
    start: Start, tmp_path: Path, guarded_server: tuple[str, Path]
) -> None:
    """One line says so; all metrics wait on disk, and go when the password is right."""
    uri, _ = guarded_server
    wrong = {"MLFLOW_TRACKING_USERNAME": "trainer", "MLFLOW_TRACKING_PASSWORD": "wr0ng-one"}

    printed, errors = train(start, tmp_path / "refused", uri, **wrong)

    (line,) = (one for one in errors.splitlines() if "not sent to MLflow" in one)
    assert "HTTP 401: it refuses the user name and password" in line
    assert "wr0ng-one" not in printed + errors
    assert not holding(tmp_path, "wr0ng-one")
    assert "episode/mean_reward" in (tmp_path / "refused" / NAME).read_text()
    right = {"MLFLOW_TRACKING_USERNAME": "trainer", "MLFLOW_TRACKING_PASSWORD": SECRET}
    syncing = start("sync", str(tmp_path / "refused"), MLFLOW_TRACKING_URI=uri, **right)
    said = syncing.communicate(timeout=120)
    assert syncing.returncode == 0, said
    assert not (tmp_path / "refused" / NAME).exists()


def test_what_a_guard_says_is_told(
    tmp_path: Path, guarded_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No password, and another one's experiment."""
    uri, _ = guarded_server
    spool = Spool(tmp_path / NAME, Head(experiment="admins", name="a run"))
    spool.append([Metric(key="m", value=1.0, timestamp=1, step=1)])
    spool.keep()
    spool.close()
    with pytest.raises(TrainerError, match="HTTP 401: it wants MLFLOW_TRACKING_USERNAME"):
        sync(tmp_path, uri)

    made = requests.post(
        f"{uri}/api/2.0/mlflow/experiments/create",
        json={"name": "admins"},
        auth=("admin", "admin-p4ssword-t0-seek"),
        timeout=30,
    )
    assert made.status_code == 200, made.text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "trainer")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    with pytest.raises(TrainerError, match="HTTP 403: Permission denied"):
        sync(tmp_path, uri)
