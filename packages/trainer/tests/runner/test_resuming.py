"""What goes on after an interruption: outputs that follow, and checkpoints that come back.

The bucket is that of a local cloud in a process of its own, with faults on demand.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from sinergym_trainer.errors import InvalidOptions, ModelUnusable, TrainerError
from sinergym_trainer.models.checkpoints import Checkpoints, from_bucket, newest
from sinergym_trainer.outputs import (
    Downloaded,
    DownloadFailed,
    Following,
    UploadFailed,
    connect,
    download_tree,
    reachable,
    upload_tree,
)

BIN = Path(sys.executable).parent
PREFIX = "quick/quick-0001/output"
NOBODY = "127.0.0.1:1"


def eventually(look: Callable[[], Any], seconds: float = 60) -> Any:
    """What `look` finds as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def wait_for_text(path: Path, text: str) -> None:
    """Wait until a file has a text in it."""
    eventually(lambda: text in path.read_text())


class Emulator:
    """A local cloud: its bucket, and what can go wrong with it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def fault(self, method: str, **how: Any) -> None:
        """Let calls fail (see `/emulator/faults` of gcp-emulator)."""
        self._ask("POST", {"method": method, **how})

    def heal(self) -> None:
        """Forget the faults."""
        self._ask("DELETE", None)

    def objects(self) -> dict[str, bytes]:
        """All that is in the bucket."""
        return {blob.name: blob.download_as_bytes() for blob in connect("bucket").list_blobs()}

    def _ask(self, method: str, body: Any) -> None:
        request = urllib.request.Request(
            f"{self.endpoint}/emulator/faults",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.status == 200


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local cloud."""
    folder = tmp_path_factory.mktemp("cloud")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "gcp-emulator", "serve", "--engine", "inert", "--folder", folder],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        about = folder / "cloud.json"
        eventually(lambda: about.exists() or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield str(json.loads(about.read_text())["endpoint"])
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def emulator(running: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The local cloud, with an empty bucket that is named `bucket`."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", running)
    it = Emulator(running)
    connect("bucket").create()
    yield it
    it.heal()
    connect("bucket").delete(force=True)


@pytest.fixture(scope="module")
def model() -> Any:
    """A model that has learned nothing."""
    from stable_baselines3 import PPO

    torch.set_num_threads(1)
    return PPO("MlpPolicy", gymnasium.make("Pendulum-v1"), device="cpu", n_steps=32, batch_size=16)


def save(model: Any, folder: Path, number: int) -> Path:
    """Make a checkpoint that knows its number."""
    path = Checkpoints(folder, keep=2).save(
        model, statistics=None, state={"number": number}, files={}
    )
    upload_tree(folder, "bucket", f"{PREFIX}/checkpoints")
    return path


@pytest.mark.slow
def test_a_tree_comes_back(emulator: Emulator, tmp_path: Path) -> None:
    """What was uploaded is fetched as it was; names that leave the folder are left out."""
    files = {"a": b"", "b/c.zip": b"zip", "b/ü %2F?#.csv": b"csv", "big": os.urandom(10 << 20)}
    for name, content in files.items():
        path = tmp_path / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    upload_tree(tmp_path / "up", "bucket", "x/output")
    for name in ("x/output/../../outside", "x/output//etc/outside", "x/output/folder/"):
        connect("bucket").blob(name).upload_from_string("outside")
    emulator.fault("storage.objects.list", count=2)
    emulator.fault("storage.objects.get", count=3)
    emulator.fault("storage.objects.get", status=0)

    down = tmp_path / "a" / "b" / "down"
    said: list[str] = []
    assert download_tree("bucket", "/x/output/", down, say=said.append) == Downloaded(
        files=4, bytes=sum(map(len, files.values()))
    )
    found = {str(p.relative_to(down)): p.read_bytes() for p in down.rglob("*") if p.is_file()}
    assert found == files
    assert not list(tmp_path.rglob("outside"))
    assert any("503" in line for line in said)
    with pytest.raises(DownloadFailed, match="404"):
        download_tree("nowhere", "x", down)


@pytest.mark.slow
def test_a_bucket_is_tried_before_the_training(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written; what cannot work is one line, and what may pass is waited for."""
    reachable("bucket", "x/output")
    emulator.fault("storage.objects.insert", count=2)
    said: list[str] = []
    reachable("bucket", say=said.append)
    assert len(said) == 1
    assert emulator.objects() == {}

    with pytest.raises(InvalidOptions, match=r"no bucket gs://nowhere"):
        reachable("nowhere")
    emulator.fault("storage.objects.insert", status=403, message="u lacks storage.objects.create")
    with pytest.raises(InvalidOptions, match=r"must not be written to .*: 403 u lacks"):
        reachable("bucket")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("STORAGE_EMULATOR_HOST", f"http://{NOBODY}")
        with pytest.raises(TrainerError, match=r"gs://bucket cannot be reached: .*refused"):
            reachable("bucket", patience=1)
        elsewhere.delenv("STORAGE_EMULATOR_HOST")
        elsewhere.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        with pytest.raises(InvalidOptions, match="gcloud auth application-default login"):
            reachable("bucket")


def test_outputs_follow_in_the_background(emulator: Emulator, tmp_path: Path) -> None:
    """Files are there while the program runs, through trouble; the end brings the last ones."""
    said: list[str] = []
    prefixes = {"": "x/output/", "tensorboard/": "x/tensorboard/"}
    following = Following(tmp_path / "out", "bucket", prefixes, seconds=0.1, say=said.append)
    following.start()
    (tmp_path / "out" / "tensorboard").mkdir(parents=True)
    (tmp_path / "out" / "tensorboard" / "events").write_text("1")
    eventually(lambda: emulator.objects() == {"x/tensorboard/events": b"1"}, 20)

    emulator.fault("storage.objects.insert", status=403, count=1000)
    (tmp_path / "out" / "progress.csv").write_text("one")
    eventually(lambda: said, 20)
    with pytest.raises(UploadFailed, match=r"progress\.csv .*to gs://bucket: 403 Fault"):
        following.close(seconds=0.5)
    assert len(said) == 1
    emulator.heal()
    assert following.close().files == 2
    assert emulator.objects()["x/output/progress.csv"] == b"one"


@pytest.mark.slow
def test_the_newest_whole_checkpoint_is_fetched(
    emulator: Emulator, tmp_path: Path, model: Any
) -> None:
    """From the bucket comes the newest; if that is broken, the one before; else none."""
    assert from_bucket("bucket", PREFIX, tmp_path / "none") is None

    for number in (1, 2, 3):
        path = save(model, tmp_path / "made", number)
    emulator.fault("storage.objects.list", count=2)
    emulator.fault("storage.objects.get", count=2)
    folder = from_bucket("bucket", PREFIX, tmp_path / "first")
    assert folder
    found = newest(folder)
    assert found
    assert (found.state["number"], found.path.name) == (3, path.name)

    name = f"{PREFIX}/checkpoints/{path.name}"
    connect("bucket").blob(name).upload_from_string(path.read_bytes()[:5000])
    said: list[str] = []
    folder = from_bucket("bucket", PREFIX, tmp_path / "second", say=said.append)
    assert folder
    found = newest(folder)
    assert found
    assert found.state["number"] == 2
    assert path.name in said[0]

    for blob in connect("bucket").list_blobs():
        blob.upload_from_string("x")
    assert from_bucket("bucket", PREFIX, tmp_path / "third") is None


@pytest.mark.slow
def test_a_bucket_that_stays_away_is_an_error(
    emulator: Emulator, tmp_path: Path, model: Any
) -> None:
    """Beginning again from nothing would lose what is there: it is left to people."""
    save(model, tmp_path / "made", 1)
    emulator.fault("storage.objects.*", count=1000)
    said: list[str] = []
    with pytest.raises(ModelUnusable, match=r"gs://bucket/quick/.* cannot be read: .*503"):
        from_bucket("bucket", PREFIX, tmp_path / "down", patience=1, say=said.append)
    assert len(said) == 1


COMMAND = (
    f"{BIN / 'sinergym-train'} -env Eplus-5zone-hot-continuous-v1 -alg PPO --run_period 1/1-1/1"
    " --timesteps 384 --n_steps 16 --batch_size 16 --seed 5 --normalization --device cpu"
    " --checkpoint_steps 32 --log_interval 1"
)


def run_attempt(folder: Path, environment: dict[str, str], *, interrupted: bool) -> str:
    """Run the experiment in a runner with an empty folder, as on a new VM; what it printed.

    It is told to stop when it has made two checkpoints, if it is to be interrupted.
    """
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        runner = subprocess.Popen(
            [BIN / "sinergym-runner"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        wait_for_text(folder / "log", "waiting for a command")
        submit = [str(BIN / "sinergym-runner"), "submit", "--", COMMAND]
        subprocess.run(submit, cwd=folder, env=environment, check=True)
        if interrupted:
            second = "output/1/checkpoints/checkpoint-2.zip"
            eventually(lambda: (folder / second).exists() or runner.poll() is not None)
            runner.send_signal(signal.SIGTERM)
        code = runner.wait(90)
    finally:
        runner.kill()
        runner.wait(10)
    printed = (folder / "log").read_text()
    assert code == (143 if interrupted else 0), printed
    return printed


@pytest.mark.slow
def test_a_preempted_training_goes_on(emulator: Emulator, tmp_path: Path) -> None:
    """SIGTERM makes a checkpoint that is uploaded; the next attempt goes on from there.

    Its counters and progress.csv go on as if nothing had been. A newest checkpoint that is broken
    costs no more than the steps since the one before.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "STORAGE_EMULATOR_HOST": emulator.endpoint,
        "GCE_METADATA_HOST": NOBODY,
        "SINERGYM_METADATA_SECONDS": "0",
        "SINERGYM_BUCKET": "bucket",
        "SINERGYM_SWEEP": "quick",
        "SINERGYM_EXPERIMENT": "quick-0001",
        "SINERGYM_KEEP_VM": "1",
    }
    run_attempt(tmp_path / "1", environment, interrupted=True)
    record = json.loads(emulator.objects()["quick/records/quick-0001.json"])
    assert (record["state"], record["attempt"], record["ended"]) == ("running", 1, None)
    assert (record["exit"]["code"], record["exit"]["signal"]) == (143, "SIGTERM")
    here = [newest(path) for path in (tmp_path / "1" / "output" / "1" / "checkpoints").iterdir()]
    last, before = sorted((it for it in here if it), key=lambda it: it.timesteps, reverse=True)
    name = f"{PREFIX}/checkpoints/{last.path.name}"
    assert emulator.objects()[name] == last.path.read_bytes()
    connect("bucket").blob(name).upload_from_string(last.path.read_bytes()[:-1])

    printed = run_attempt(tmp_path / "2", environment, interrupted=False)
    assert f"{last.path.name} is not whole" in printed
    assert f"at {before.timesteps} timesteps" in printed
    record = json.loads(emulator.objects()["quick/records/quick-0001.json"])
    assert (record["state"], record["attempt"]) == ("finished", 2)
    assert record["progress"]["timesteps"] == 384
    rows = csv.DictReader(emulator.objects()[f"{PREFIX}/progress.csv"].decode().splitlines())
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == sorted(steps)
    assert set(range(16, 385, 16)) <= set(steps)
    folder = from_bucket("bucket", PREFIX, tmp_path / "last")
    assert folder
    final = newest(folder)
    assert final
    assert (final.timesteps, final.state["name"]) == (384, last.state["name"])
