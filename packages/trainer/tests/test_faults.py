"""Real trainings while something breaks: the tracking server, the disk, EnergyPlus, the bucket."""

import contextlib
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sinergym_trainer.errors import InvalidOptions, OutputUnusable
from sinergym_trainer.models.checkpoints import newest
from sinergym_trainer.options import Options
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.training import Result, train

pytestmark = pytest.mark.slow  # real trainings

STEPS = 96
PPO = Options(
    environment="Eplus-5zone-hot-continuous-v1",
    algorithm="PPO",
    episodes=3,
    seed=6,
    run_period=RunPeriod.parse("1/1-1/1"),
    normalize_action=True,
    n_steps=48,
    batch_size=48,
    n_epochs=2,
    policy_kwargs={"net_arch": [8]},
)
COMMAND = (
    f"-env {PPO.environment} --run_period 1/1-1/1 -nact -n 48 -bs 48 -ne 2 --checkpoint_steps 96"
).split()

type Start = Callable[..., subprocess.Popen[str]]
type Until = Callable[..., Any]


class Hop:
    """What is between a training and a server: a port that refuses, or hands on to the server."""

    def __init__(self, port: int, to: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._port, self._to = port, to
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def up(self) -> None:
        """Hand connections on."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and break those there are."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open = []

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    @staticmethod
    def _hand_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def hop(mlflow_server: str, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hop]:
    """The way of the next training to the MLflow server, which is down at first."""
    made = Hop(free_port, int(mlflow_server.rpartition(":")[2]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("SINERGYM_SWEEP", "faults")
    yield made
    made.down()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The training when nothing breaks."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("SINERGYM_OUTPUT", str(tmp_path_factory.mktemp("undisturbed") / "output"))
        return train(PPO, say=lambda _line: None)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of the next training."""
    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setenv("SINERGYM_OUTPUT", str(folder))
    return folder


def rewards_of(server: str, name: str) -> list[tuple[int, float]]:
    """Timesteps and rewards of the episodes of a run by its name, as MLflow has them."""
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("faults")
    assert experiment
    (run,) = client.search_runs(
        [experiment.experiment_id], filter_string=f"attributes.run_name = '{name}'"
    )
    metrics = client.get_metric_history(run.info.run_id, "episode/cumulative_reward")
    return [(metric.step, metric.value) for metric in metrics]


def sync(folder: Path, server: str) -> str:
    """Send what waits in an output folder, by the command."""
    done = subprocess.run(
        [sys.executable, "-m", "sinergym_trainer", "sync", str(folder)],
        env={**os.environ, "MLFLOW_TRACKING_URI": server},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("when", ["from the start", "in the middle"])
def test_a_tracking_server_that_is_away_costs_nothing(
    undisturbed: Result,
    output: Path,
    hop: Hop,
    mlflow_server: str,
    when: str,
) -> None:
    """The same rewards, an end in time also after SIGTERM, and all metrics by `sync`."""
    dies = when == "in the middle"
    if dies:
        hop.up()
    ended = 0.0

    def say(line: str) -> None:
        nonlocal ended
        if line.startswith("episode 1/"):
            hop.down()
        if line.startswith("episode 3/"):
            ended = time.monotonic()
            if dies:  # a preempted VM has 30 seconds
                os.kill(os.getpid(), signal.SIGTERM)

    result = train(PPO, say=say)

    assert time.monotonic() - ended < 20
    assert result.episode_rewards == undisturbed.episode_rewards
    assert result.stopped_by == (signal.SIGTERM if dies else None)
    unsent = output / "mlflow-unsent.jsonl"
    assert unsent.stat().st_size > 0
    assert re.fullmatch(r"sinergym-train: sent \d+ metrics\n", sync(output, mlflow_server))
    assert rewards_of(mlflow_server, result.name) == [
        (STEPS * number, reward) for number, reward in enumerate(undisturbed.episode_rewards, 1)
    ]
    assert sync(output, mlflow_server) == "sinergym-train: sent 0 metrics\n"


def test_a_disk_that_is_full_for_a_while_costs_one_checkpoint(
    undisturbed: Result, output: Path
) -> None:
    """It is said once, the training goes on, and the next checkpoint is there."""
    (output / "checkpoints").mkdir()
    (output / "checkpoints" / ".checkpoint.tmp").symlink_to("/dev/full")
    lines: list[str] = []
    result = train(replace(PPO, checkpoint_steps=48), say=lines.append)
    gc.collect()  # of what the failed one has left

    assert result.episode_rewards == undisturbed.episode_rewards
    said = [line for line in lines if "checkpoint" in line]
    assert len(said) == 2
    assert "training goes on: OSError: [Errno 28] No space left on device" in said[0]
    assert said[1] == "checkpoints are written again"
    assert sorted(
        found.timesteps for path in (output / "checkpoints").iterdir() if (found := newest(path))
    ) == [5 * 48, 6 * 48]


@pytest.mark.parametrize("name", ["config.yaml", ".model.zip.{}.tmp"])
def test_a_full_disk_ends_in_one_line(output: Path, name: str) -> None:
    """At the beginning, or when the model is saved: then there is a checkpoint at least."""
    (output / name.format(os.getpid())).symlink_to("/dev/full")
    with pytest.raises(OutputUnusable, match="No space left on device") as full:
        train(replace(PPO, episodes=1), say=lambda _line: None)

    assert str(output) in str(full.value)
    assert "\n" not in str(full.value)
    assert not (output / "model.zip").exists()
    assert bool(newest(output / "checkpoints")) == ("model" in name)


def workers_of(pid: int) -> list[int]:
    """The environments' processes of a training."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for child in children:
        with contextlib.suppress(OSError):  # one that has just ended
            if (
                b"sinergym_trainer.environments.worker"
                in Path(f"/proc/{child}/cmdline").read_bytes()
            ):
                found.append(int(child))
    return found


def test_a_killed_environment_ends_the_training_with_what_was_learned(
    tmp_path: Path, start: Start, until: Until
) -> None:
    """One line, exit code 1, a checkpoint to go on from, and no process is left."""
    output = tmp_path / "output"
    training = start(*COMMAND, *["-ep", "1000", "--n_envs", "2"], SINERGYM_OUTPUT=str(output))
    until(lambda: newest(output / "checkpoints") or training.poll() is not None, 100)
    workers = workers_of(training.pid)
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    printed, errors = training.communicate(timeout=60)

    assert training.returncode == 1
    assert errors == (
        "sinergym-train: environment 2 of 2: its process was ended by SIGKILL; out of memory?\n"
    )
    assert "done" not in printed
    found = newest(output / "checkpoints")
    assert found
    assert found.timesteps >= 96
    assert found.timesteps % 96 == 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_energyplus_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    """With what EnergyPlus says of it, exit code 1, within seconds."""
    code = (
        "import json, pathlib, sys\n"
        "from sinergym_trainer.environments.energyplus import find_energyplus\n"
        "find_energyplus()\n"
        "import gymnasium, sinergym\n"
        "from sinergym.utils.constants import PKG_DATA_PATH\n"
        "file = pathlib.Path(PKG_DATA_PATH, 'buildings/5ZoneAutoDXVAV.epJSON')\n"
        "building = json.loads(file.read_text())\n"
        "surface = next(iter(building['BuildingSurface:Detailed'].values()))\n"
        "surface['construction_name'] = 'paper wall'\n"
        "broken = pathlib.Path('broken.epJSON').absolute()\n"
        "broken.write_text(json.dumps(building))\n"
        "gymnasium.registry[sys.argv[2]].kwargs['building_file'] = str(broken)\n"
        "from sinergym_trainer.cli import main\n"
        "main()\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND],
        cwd=tmp_path,
        env={**os.environ, "SINERGYM_OUTPUT": str(tmp_path / "output")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 1
    assert time.monotonic() - began < 60  # generous: the machine may be busy
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sinergym-train: EnergyPlus failed with exit code 1 (episode 1, ")
    assert "** Severe **" in last
    assert "PAPER WALL" in last.upper()
    assert "Traceback" not in done.stderr


@pytest.fixture
def bucket(local_cloud: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket that is named `results`."""
    from sinergym_trainer.outputs import connect

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", local_cloud.endpoint)
    made = connect("results")
    made.create()
    yield made
    local_cloud.heal()
    made.delete(force=True)


def test_a_bucket_that_stumbles_has_everything_in_the_end(
    local_cloud: Any, bucket: Any, output: Path
) -> None:
    """503 before and after files are stored: each is there, byte by byte, events too."""
    local_cloud.fault("storage.objects.insert", count=2)
    options = replace(
        PPO,
        episodes=1,
        remote_store=True,
        bucket_name="results",
        tensorboard="gs://results/board/",
        logger=True,
    )
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("episode 1/"):
            local_cloud.fault("storage.objects.insert", count=5)
            local_cloud.fault("storage.objects.insert", count=2, after=True)

    result = train(options, say=say)

    stored = {blob.name: blob.download_as_bytes() for blob in bucket.list_blobs()}
    written = {
        f"{result.name}/{path.relative_to(output)}": path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    events = {
        f"board/{result.name}/{path.name}": path.read_bytes()
        for path in (output / "tensorboard").iterdir()
    }
    assert {f"{result.name}/{name}" for name in ("model.zip", "monitor.csv")} <= stored.keys()
    assert written.keys() <= stored.keys()
    assert stored == written | events
    assert sum(line.startswith("uploaded ") for line in lines) == 2


@pytest.mark.parametrize(
    "options", [{"remote_store": True}, {"tensorboard": "gs://experiments-storage/board"}]
)
def test_a_missing_bucket_is_known_before_the_training(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """One line, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOptions, match="there is no bucket gs://experiments-storage"):
        train(replace(PPO, **options), say=lambda _line: None)

    assert list(tmp_path.iterdir()) == []
