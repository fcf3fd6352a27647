"""Models with their cards: saved, and found on disk, in a bucket and in MLflow."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.algorithms import find_algorithm
from sinergym_trainer.environments.normalization import Statistics
from sinergym_trainer.errors import ModelUnusable
from sinergym_trainer.models import Card, find, save
from sinergym_trainer.models.checkpoints import Checkpoints
from sinergym_trainer.outputs import connect, upload_tree

CARD = Card(
    name="PPO-Eplus-5zone-hot-continuous-v1-episodes2-seed0(2026-11-22_10-00-00)",
    algorithm="PPO",
    environment="Eplus-5zone-hot-continuous-v1",
    timesteps=192,
    run_period="1,1,1991,1,1,1991",
    reward="exponential",
    reward_kwargs={"lambda_energy": 1e-4},
    energy_weight=0.25,
    normalize_action=True,
    multiobs=True,
    normalization=True,
    seed=0,
    versions={"sinergym": "3.12.2"},
)
STATISTICS = Statistics(mean=np.arange(3.0), variance=np.ones(3), count=9.5)
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def model() -> Any:
    """A small model."""
    return find_algorithm("PPO").build(
        gym.make("Pendulum-v1"),
        seed=1,
        hyperparameters={"n_steps": 8, "batch_size": 8},
        device="cpu",
        policy_kwargs={"net_arch": [8]},
    )


@pytest.fixture(scope="module")
def output(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder as a training leaves it, with other things in it."""
    folder = tmp_path_factory.mktemp("output")
    save(model, folder, CARD, STATISTICS)
    save(
        model,
        folder / "best_model",
        replace(CARD, timesteps=96),
        STATISTICS,
        name="best_model.zip",
    )
    Checkpoints(folder / "checkpoints", keep=2).save(
        model, statistics=STATISTICS, state={}, files={}
    )
    (folder / "monitor.csv").write_text("r,l,t\n")
    (folder / "sinergym").mkdir()
    (folder / "sinergym" / "model.zip").write_text("nothing of ours")
    return folder


def test_a_saved_model_is_found_with_all_that_belongs_to_it(model: Any, tmp_path: Path) -> None:
    """In the folder, by its file, and as Stable-Baselines3 allows, without `.zip`."""
    path = save(model, tmp_path / "new" / "folder", CARD, STATISTICS)

    for location in (path, path.parent, path.with_suffix("")):
        found = find(str(location), tmp_path / "scratch")
        assert (found.model, found.card, found.statistics) == (path, CARD, STATISTICS)
        assert found.checkpoints is None
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "model.json",
        "model.zip",
        "normalization.npz",
    ]
    assert not (tmp_path / "scratch").exists()


def test_a_model_saved_over_another_leaves_nothing_of_it(model: Any, tmp_path: Path) -> None:
    """Statistics of observations that are no longer normalized would be applied."""
    save(model, tmp_path, CARD, STATISTICS)
    save(model, tmp_path, replace(CARD, normalization=False), None)

    found = find(str(tmp_path), tmp_path)
    assert found.statistics is None
    assert found.card is not None
    assert not found.card.normalization


def test_an_output_folder_has_checkpoints_to_resume_from(output: Path, tmp_path: Path) -> None:
    """And its last model; for an evaluation the best one, and no checkpoints."""
    found = find(str(output), tmp_path)
    best = find(str(output), tmp_path, prefer_best=True)

    assert found.checkpoints == output / "checkpoints"
    assert found.model == output / "model.zip"
    assert best.checkpoints is None
    assert best.model == output / "best_model" / "best_model.zip"
    assert best.card == replace(CARD, timesteps=96)


def test_the_parts_of_an_output_folder(output: Path, tmp_path: Path) -> None:
    """A checkpoint, the folder of them, the best model's folder and file."""
    one = output / "checkpoints" / "checkpoint-1.zip"

    assert find(str(one), tmp_path).checkpoints == one
    assert find(str(one), tmp_path).model is None
    assert find(str(one.parent), tmp_path).checkpoints == one.parent
    for location in (output / "best_model", output / "best_model" / "best_model.zip"):
        found = find(str(location), tmp_path)
        assert found.model == output / "best_model" / "best_model.zip"
        assert found.card == replace(CARD, timesteps=96)
        assert found.checkpoints is None


def test_a_model_of_plain_stable_baselines3_works(
    model: Any, output: Path, tmp_path: Path
) -> None:
    """It has no card; one of another model beside it is not its own."""
    old = tmp_path / "old"
    old.mkdir()
    model.save(old / "PPO-Eplus-demo-v1.zip")
    for location in (old, old / "PPO-Eplus-demo-v1.zip"):
        found = find(str(location), tmp_path)
        assert found.model == old / "PPO-Eplus-demo-v1.zip"
        assert (found.card, found.statistics) == (None, None)
    shutil.copytree(output, tmp_path / "both")
    model.save(tmp_path / "both" / "foreign.zip")
    assert find(str(tmp_path / "both" / "foreign.zip"), tmp_path).card is None


def test_what_is_not_there_is_said_with_what_was_looked_for(model: Any, tmp_path: Path) -> None:
    """Each in one line."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    save(model, tmp_path / "bare", CARD, STATISTICS)
    (tmp_path / "bare" / "normalization.npz").unlink()
    for location, said in (
        ("none", "there is no such file or folder"),
        ("empty", r"neither model.zip nor best_model/best_model.zip nor checkpoints/"),
        ("text.zip", "is no model: File is not a zip file"),
        ("bare", r"normalized observations, and normalization.npz is not beside"),
    ):
        with pytest.raises(ModelUnusable, match=said) as caught:
            find(str(tmp_path / location), tmp_path)
        assert "\n" not in str(caught.value)
        assert location in str(caught.value)
    for location in ("s3://bucket/model.zip", "http://127.0.0.1/model.zip"):
        with pytest.raises(ModelUnusable, match="a path, gs://BUCKET/PATH, or runs:/RUN_ID"):
            find(location, tmp_path)


@given(
    st.builds(
        Card,
        name=st.text(),
        algorithm=st.text(),
        environment=st.text(),
        timesteps=st.integers(),
        run_period=st.none() | st.text(),
        reward=st.text(),
        reward_kwargs=st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()),
        energy_weight=st.none() | st.floats(0, 1),
        normalize_action=st.booleans(),
        multiobs=st.booleans(),
        normalization=st.booleans(),
        seed=st.none() | st.integers(0, 2**32 - 1),
        versions=st.dictionaries(st.text(), st.text()),
    )
)
def test_a_card_is_read_as_it_was_written(card: Card) -> None:
    """Whatever is on it."""
    assert Card.parse(card.to_json()) == card


def test_a_card_of_a_later_version_can_be_read() -> None:
    """What it has more is passed over, and what it has less is the default."""
    more = json.dumps({"schema": 1, **asdict(CARD), "colour": ["red"]})
    less = '{"schema": 1, "name": "n", "algorithm": "A2C", "environment": "e", "timesteps": 5}'

    assert Card.parse(more) == CARD
    assert Card.parse(less) == Card(name="n", algorithm="A2C", environment="e", timesteps=5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "no JSON object with a schema"),
        ('{"schema": 2}', "schema 2, and this version reads 1"),
        ('{"schema": 1, "name": "n"}', "lacks 'algorithm', 'environment', and 'timesteps'"),
        (json.dumps({"schema": 1, **asdict(CARD), "seed": "x"}), "seed cannot be 'x'"),
        (json.dumps({"schema": 1, **asdict(CARD), "timesteps": True}), "timesteps cannot be True"),
        (json.dumps({"schema": 1, **asdict(CARD), "versions": []}), r"versions cannot be \[\]"),
    ],
)
def test_broken_cards_are_refused(text: str, said: str, model: Any, tmp_path: Path) -> None:
    """With the file that is broken."""
    with pytest.raises(ModelUnusable, match=said):
        Card.parse(text)
    save(model, tmp_path, CARD, STATISTICS)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelUnusable, match=r"model\.json: ") as caught:
        find(str(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_are_more_than_unusable(content: bytes) -> None:
    """A card from outside is data."""
    with pytest.raises(ModelUnusable):
        Card.parse(content)


@pytest.mark.slow
def test_a_full_disk_leaves_the_model_before(model: Any, tmp_path: Path) -> None:
    """Files take each other's place as a whole."""
    path = save(model, tmp_path, CARD, STATISTICS)
    before = path.read_bytes()
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from sinergym_trainer.algorithms import find_algorithm\n"
        "from sinergym_trainer.models import Card, save\n"
        "folder = Path(sys.argv[1])\n"
        "model = find_algorithm('PPO').load(folder / 'model.zip', device='cpu')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "card = Card(name='n', algorithm='PPO', environment='e', timesteps=1)\n"
        "try: save(model, folder, card, None)\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert "File too large" in done.stdout, done.stderr
    assert path.read_bytes() == before
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".tmp")]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local cloud."""
    folder = tmp_path_factory.mktemp("cloud")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(Path(sys.executable).parent / "gcp-emulator", "serve", "--engine", "inert"),
                *("--folder", folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while not (folder / "cloud.json").exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield str(json.loads((folder / "cloud.json").read_text())["endpoint"])
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def bucket(cloud: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket's name; it is empty, and at the local cloud."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud)
    connect("models").create()
    yield "models"
    ask(cloud, "DELETE", None)
    connect("models").delete(force=True)


def ask(cloud: str, method: str, body: Any) -> None:
    """Post or delete faults of the local cloud."""
    request = urllib.request.Request(
        f"{cloud}/emulator/faults",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200


def test_models_in_a_bucket_are_found_like_those_on_disk(
    bucket: str, output: Path, tmp_path: Path
) -> None:
    """The same parts, and nothing else is downloaded."""
    upload_tree(output, bucket, "sweep/one/output")
    root = f"gs://{bucket}/sweep/one/output"

    found = find(root, tmp_path)
    assert found.model is not None
    assert found.checkpoints is not None
    assert (found.card, found.statistics) == (CARD, STATISTICS)
    assert found.model.read_bytes() == (output / "model.zip").read_bytes()
    assert [each.name for each in found.checkpoints.iterdir()] == ["checkpoint-1.zip"]
    assert root in found.source
    here = found.model.parent
    files = sorted(str(each.relative_to(here)) for each in here.rglob("*") if each.is_file())
    assert files == [
        *("best_model/best_model.zip", "best_model/model.json", "best_model/normalization.npz"),
        *("checkpoints/checkpoint-1.zip", "model.json", "model.zip", "normalization.npz"),
    ]
    best = find(f"{root}/", tmp_path, prefer_best=True)
    assert best.model is not None
    assert best.model.name == "best_model.zip"
    assert best.checkpoints is None
    for location in (f"{root}/model.zip", f"{root}/model"):
        one = find(location, tmp_path)
        assert (one.card, one.statistics, one.checkpoints) == (CARD, STATISTICS, None)
    connect(bucket).copy_blob(
        connect(bucket).blob("sweep/one/output/model.zip"), connect(bucket), "top.zip"
    )
    assert find(f"gs://{bucket}", tmp_path).model is not None
    for location in (f"{root}/checkpoints", f"{root}/checkpoints/checkpoint-1.zip"):
        resumable = find(location, tmp_path)
        assert resumable.model is None
        assert resumable.checkpoints is not None
        assert resumable.checkpoints.exists()


def test_a_bucket_that_stumbles_is_asked_again(
    bucket: str, cloud: str, output: Path, tmp_path: Path
) -> None:
    """503 passes."""
    upload_tree(output, bucket, "run")
    ask(cloud, "POST", {"method": "storage.objects.list", "status": 503, "count": 1})
    ask(cloud, "POST", {"method": "storage.objects.get", "status": 503, "count": 2})

    assert find(f"gs://{bucket}/run", tmp_path).card == CARD
    assert find(f"gs://{bucket}/run/model.zip", tmp_path).card == CARD


def test_what_a_bucket_has_not_or_refuses_is_one_line(
    bucket: str, cloud: str, tmp_path: Path
) -> None:
    """With the location that was asked for."""
    for location in (f"gs://{bucket}", f"gs://{bucket}/none", f"gs://{bucket}/none/model.zip"):
        with pytest.raises(ModelUnusable, match="there is no such model") as caught:
            find(location, tmp_path)
        assert location in str(caught.value)
    with pytest.raises(ModelUnusable, match=r"gs://no-such-bucket/\S* cannot be had") as caught:
        find("gs://no-such-bucket/model", tmp_path)
    ask(cloud, "POST", {"method": "storage.objects.list", "status": 403, "count": 9})
    with pytest.raises(ModelUnusable, match=r"gs://models/some cannot be had: .*403") as caught:
        find(f"gs://{bucket}/some", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_models_in_mlflow_are_found(
    mlflow_server: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the root of the run's artifacts, where --mlflow_store puts them, or in a folder there."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_server)
    run = client.create_run(client.create_experiment("models")).info.run_id
    for name in ("model.zip", "model.json", "normalization.npz", "monitor.csv"):
        client.log_artifact(run, str(output / name))
    client.log_artifacts(run, str(output / "best_model"), "best_model")
    with pytest.raises(ModelUnusable, match="MLFLOW_TRACKING_URI must name"):
        find(f"runs:/{run}", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)

    for location in (f"runs:/{run}", f"runs:/{run}/model.zip", f"runs:/{run}/model"):
        found = find(location, tmp_path)
        assert (found.card, found.statistics, found.checkpoints) == (CARD, STATISTICS, None)
        assert found.model is not None
        assert found.model.read_bytes() == (output / "model.zip").read_bytes()
        assert run in found.source
    best = replace(CARD, timesteps=96)
    assert find(f"runs:/{run}", tmp_path, prefer_best=True).card == best
    assert find(f"runs:/{run}/best_model", tmp_path).card == best
    for location in (f"runs:/{run}/none", f"runs:/{run}/none.zip"):
        with pytest.raises(ModelUnusable, match="there is no such model"):
            find(location, tmp_path)
    with pytest.raises(ModelUnusable, match="cannot be had") as caught:
        find("runs:/0123456789abcdef0123456789abcdef", tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    with pytest.raises(ModelUnusable, match="cannot be had"):
        find(f"runs:/{run}", tmp_path)


def test_names_from_outside_stay_in_the_scratch_folder(
    bucket: str, model: Any, tmp_path: Path
) -> None:
    """An object can have any name; only known ones are fetched."""
    for name in (
        "x/../../evil.zip",
        "x/checkpoints/../model.zip",
        "x/checkpoints/checkpoint-.zip",
    ):
        connect(bucket).blob(name).upload_from_string("evil")
    with pytest.raises(ModelUnusable, match="there is no such model"):
        find(f"gs://{bucket}/x", tmp_path / "scratch")

    assert not list(tmp_path.rglob("*.zip"))


def test_a_checkpoint_is_told_from_a_model_by_its_member(model: Any, tmp_path: Path) -> None:
    """Whatever its name."""
    with zipfile.ZipFile(tmp_path / "renamed.zip", "w") as archive:
        archive.writestr("checkpoint.json", "{}")

    assert find(str(tmp_path / "renamed.zip"), tmp_path).checkpoints == tmp_path / "renamed.zip"
