"""A rehearsal on Spot: three real trainings, each taken away once in the middle, and no seam."""

import csv
import json
import re
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from gcloud_ops import bucket, launching, objects, sweeps
from gcloud_ops.clients import Clients
from gcloud_ops.model import Observation, Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DAY = 96
"""Timesteps of a day, and of an episode here."""
EPISODES = 14
COMMON = (
    f"sinergym-train --environment Eplus-5zone-hot-continuous-v1 --run_period 1/1-1/1 "
    f"--normalize_action --episodes {EPISODES} --checkpoint_steps {DAY} --seed 3"
)
COMMANDS = (
    f"{COMMON} --algorithm PPO --n_steps {DAY}",
    f"{COMMON} --algorithm A2C --n_steps {DAY}",
    f"{COMMON} --algorithm SAC --learning_starts {DAY} --train_freq 8",
)


def test_three_trainings_on_spot_each_preempted_once(
    local_clients: Clients, local_cloud: Path
) -> None:
    """All finish at their second attempt; curves and MLflow have each episode once, and all."""
    import mlflow

    name = launching.free_name("rehearsal", local_clients)
    sweep = replace(Sweep.of_commands(name, COMMANDS), spot=True)
    for _ in launching.launch(launching.plan(sweep, local_clients), local_clients):
        pass
    off_policy = next(each.id for each in sweep.experiments if "SAC" in each.command)
    waiting = {experiment.id for experiment in sweep.experiments}
    stop = threading.Event()
    for seen in sweeps.watch(name, local_clients, interval=0.3, stop=stop):
        for row in seen.rows:
            if row.id in waiting and _is_in_the_middle(row):
                waiting.discard(row.id)
                _preempt(local_clients, row.id)

    assert not waiting, "ended before they could be preempted"
    assert [str(row.status) for row in seen.rows] == ["finished"] * 3
    about = json.loads((local_cloud / "cloud.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=about["companions"]["mlflow"]["url"])
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["experiment"] for run in runs} == {row.id for row in seen.rows}
    assert len(runs) == 3, "a training is one run, however often its VM goes"
    for row in seen.rows:
        record = row.record
        assert record is not None
        assert record.attempt == 2
        assert [attempt.kind for attempt in record.history] == ["preempted"]
        assert record.progress.episode == record.progress.episodes == EPISODES

        # EnergyPlus can't go on inside of an episode. What learns from whole ones runs it again
        # (PPO and A2C here); SAC, which learns as it goes, has learned from its steps: they
        # count, and the next episode begins anew.
        resumed, reached = _seam(local_clients, seen.bucket, name, row.id)
        whole, inside = divmod(resumed, DAY)
        assert row.id == off_policy or not inside, row.id
        ends = [
            DAY * (number + 1) + (inside if number >= whole else 0) for number in range(EPISODES)
        ]
        assert record.progress.timesteps == ends[-1]

        # The curve in the outputs: every episode once, none left out, each a day long.
        rewards = _episodes(local_clients, seen.bucket, name, row.id)
        assert [length for length, _ in rewards] == [DAY] * EPISODES, row.id

        # And the same numbers in MLflow.
        history = client.get_metric_history(record.mlflow_run, "episode/cumulative_reward")
        points = sorted((point.step, point.value) for point in history)
        assert [step for step, _ in points] == ends, row.id
        # What the first attempt had sent beyond its last checkpoint stays, as MLflow forgets no
        # point; the second one has run those episodes again. All others are the same numbers.
        assert reached - resumed <= 2 * DAY, row.id
        for (step, value), (_, reward) in zip(points, rewards, strict=True):
            if not resumed < step <= reached:
                assert value == pytest.approx(reward, abs=1e-3), (row.id, step)


def _is_in_the_middle(row: Observation) -> bool:
    record = row.record
    if record is None or record.state != "running" or not record.progress.episode:
        return False
    return EPISODES // 4 <= record.progress.episode <= EPISODES - 4


def _preempt(clients: Clients, instance: str) -> None:
    request = urllib.request.Request(
        f"{clients.settings.endpoint}/emulator/instances/{instance}/preempt",
        data=b'{"grace": 30}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60):
        pass


def _episodes(clients: Clients, where: str, sweep: str, id_: str) -> list[tuple[int, float]]:
    """Length and reward of each episode, as the monitor's file in the outputs has them."""
    found = [
        entry.name
        for entry in objects.list_objects(clients, where, f"{sweep}/{id_}/output/")
        if "monitor" in entry.name and entry.name.endswith(".csv")
    ]
    assert found, "no monitor file"
    content, _ = objects.read_object(clients, where, found[0], resource=id_)
    lines = content.decode().splitlines()
    body = [line for line in lines if not line.startswith("#")]
    return [(int(float(line["l"])), float(line["r"])) for line in csv.DictReader(body)]


def _seam(clients: Clients, where: str, sweep: str, id_: str) -> tuple[int, int]:
    """The timestep that the second attempt went on from, and the last one of the first."""
    first, second = (
        bucket.read_log(clients, where, sweep, id_, attempt=attempt)[0].decode()
        for attempt in (1, 2)
    )
    going_on = re.search(r"at ([0-9]+) timesteps", second)
    assert going_on is not None, second
    return int(going_on[1]), int(re.findall(r"timesteps ([0-9]+)/", first)[-1])
