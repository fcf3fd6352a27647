"""The main job, end to end: real trainings in VMs of the local cloud, by every door there is."""

import json
import re
from pathlib import Path

import pytest
from tests.clouds import ROOT, Command

from gcloud_ops import bucket, launching, objects, sweeps
from gcloud_ops.clients import Clients
from gcloud_ops.model import ExperimentStatus, Snapshot, Sweep
from gcloud_ops.sweepfile import read_sweep

WEEK = "--run_period 1/1-7/1"
TWO_DAYS = "--run_period 1/1-2/1"
PPO = f"sinergym-train -env Eplus-5zone-hot-continuous-v1 {TWO_DAYS} -ep 1 -alg PPO -n 64 -sd 7"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_demo_from_the_command_line(command: Command, local_cloud: Path, tmp_path: Path) -> None:
    """`sweep launch --watch --pull` trains the demo's two experiments and brings the results."""
    done = command(
        *("gcloud-ops", "--local", "--output", "json"),
        *("sweep", "launch", "examples/quick.yaml", "--new-name", "--watch"),
        *("--pull", str(tmp_path)),
        timeout=400,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = report["experiments"]
    assert [row["id"] for row in rows] == ["quick-0001", "quick-0002"]
    assert {row["status"] for row in rows} == {"finished"}
    for row in rows:
        assert row["exit_code"] == 0
        assert row["episode"] == row["episodes"] == 2
        assert row["mean_reward"] < 0
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs/\w+", row["mlflow"])
        output = tmp_path / "quick" / row["id"] / "output"
        assert (output / "model.zip").stat().st_size > 10_000
        assert (output / "best_model").is_dir()
        events = tmp_path / "quick" / "tensorboard" / row["id"]
        assert list(events.rglob("events.out.tfevents.*"))
        assert list((tmp_path / "quick" / row["id"] / "log" / "1").glob("*.log"))
    left = command("gcloud-ops", "--local", "--output", "json", "instances", "list")
    assert json.loads(left.stdout) == []


def test_metrics_are_in_mlflow(local_clients: Clients, local_cloud: Path) -> None:
    """The run that a record names is in the tracking server, with its tags and metrics."""
    import mlflow

    name = launching.free_name("tracked", local_clients)
    seen = _run(Sweep.of_commands(name, [PPO]), local_clients)
    record = seen.rows[0].record
    assert record is not None

    about = json.loads((local_cloud / "cloud.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=about["companions"]["mlflow"]["url"])
    run = client.get_run(record.mlflow_run)

    assert client.get_experiment(run.info.experiment_id).name == name
    assert run.info.status == "FINISHED"
    assert run.data.tags["experiment"] == f"{name}-0001"
    assert run.data.params["algorithm"] == "PPO"
    assert run.data.metrics


def test_public_python_api(local_clients: Clients) -> None:
    """Plan, launch, watch, read the log: the same route from a script."""
    name = launching.free_name("scripted", local_clients)
    seen = _run(Sweep.of_commands(name, [PPO]), local_clients)

    (row,) = seen.rows
    assert row.status is ExperimentStatus.FINISHED
    assert seen.is_gone
    assert row.record is not None
    assert row.record.progress.timesteps == row.record.progress.total_timesteps == 192
    log, _ = bucket.read_log(local_clients, seen.bucket, seen.name, row.id)
    assert b"sinergym-runner: " in log
    names = {
        entry.name
        for entry in objects.list_objects(local_clients, seen.bucket, f"{name}/{row.id}/")
    }
    assert f"{name}/{row.id}/output/model.zip" in names


def test_a_broken_experiment_is_shown_as_failed(command: Command, local_cloud: Path) -> None:
    """A command that exits 3 fails alone, is shown with its code and last lines, and we exit 1."""
    done = command(
        *("gcloud-ops", "--local", "sweep", "launch", "--name", "fails", "--watch"),
        *("--command", "echo about to fail; exit 3"),
        *("--command", "echo fine"),
        timeout=120,
    )

    assert done.returncode == 1, done.stderr
    assert re.search(r"fails-0001\s.*failed.*\b3\b", done.stdout)
    assert re.search(r"fails-0002\s.*finished.*\b0\b", done.stdout)
    assert "about to fail" in done.stderr


def test_every_command_with_local(command: Command, local_cloud: Path, tmp_path: Path) -> None:
    """Each command of `gcloud-ops`, as a user of the local cloud would type it."""

    def run(*words: str, code: int = 0) -> str:
        done = command("gcloud-ops", "--local", *words, timeout=120)
        assert done.returncode == code, f"{words}: {done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    run("template", "create", "mine", "--image", "local/sinergym-trainer:latest", "--env", "A=b")
    assert "mine" in run("template", "list")
    assert "environment A" in run("template", "show", "mine")

    long = ("--command", "echo is on; exec sleep 600")
    run("sweep", "launch", "--name", "all", "--template", "mine", *long, "--command", "echo hi")
    assert "all" in run("sweep", "list")
    assert "all-0001" in run("sweep", "status", "all")
    assert "all-0001" in run("instances", "list")
    assert "sinergym" in run("containers", "list", "all")
    assert run("ssh", "all-0001", "--", "hostname").strip() == "all-0001"
    assert "is on" in run("ssh", "all-0001", "--", "docker logs sinergym | grep 'is on'")
    run("ssh", "all-0001", "--", "exit 7", code=7)
    assert "is on" in run("sweep", "logs", "all", "all-0001")
    assert "hi" in run("sweep", "logs", "all", "2", "--tail", "50", "--follow")
    run("template", "delete", "mine", code=2)  # it is in use
    run("sweep", "delete", "all", "--yes", code=2)  # it is running

    run("sweep", "cancel", "all", "--yes")
    watched = run("sweep", "watch", "all", code=1)
    assert re.search(r"all-0001\s+cancelled", watched)
    assert re.search(r"all-0002\s+finished", watched)
    assert "all/" in run("bucket", "ls")
    run("bucket", "pull", "all", str(tmp_path))
    assert list(tmp_path.rglob("sweep.json"))
    run("sweep", "delete", "all", "--yes")
    run("sweep", "status", "all", code=3)
    run("template", "delete", "mine")
    run("template", "show", "mine", code=3)


def test_the_seeds_two_commands_through_cloud_manager(
    command: Command, local_clients: Clients
) -> None:
    """The example of the 2021 documentation, word for word but for a shortened run period."""
    commands = [e.command for e in read_sweep(ROOT / "examples" / "seeds.yaml").experiments]
    assert all(c.startswith("python3 DRL_battery.py --environment Eplus-5Zone-") for c in commands)
    name = launching.free_name("sinergym-group", local_clients)

    done = command(
        *("cloud-manager", "--local", "--watch"),
        *("--zone", "europe-west1-b", "--template_name", "sinergym-template"),
        *("--group_name", name),
        *("--experiment_commands", *(f"{c} {WEEK}" for c in commands)),
        timeout=400,
    )

    assert done.returncode == 0, done.stderr + done.stdout
    seen = sweeps.status(name, local_clients)
    assert [row.status for row in seen.rows] == [ExperimentStatus.FINISHED] * 2
    assert [row.record.progress.episode for row in seen.rows if row.record] == [2, 3]
    assert seen.is_gone
    for row in seen.rows:
        log, _ = bucket.read_log(local_clients, seen.bucket, seen.name, row.id)
        assert b"Eplus-5zone-hot" in log, "the old id resolves, and the log says so"


def _run(sweep: Sweep, clients: Clients) -> Snapshot:
    """Launch a sweep and watch it to its end."""
    events = list(launching.launch(launching.plan(sweep, clients), clients, patience=120))
    end = events[-1]
    assert isinstance(end, launching.Launched)
    assert end.is_complete, events
    return list(sweeps.watch(sweep.name, clients, interval=0.5))[-1]
