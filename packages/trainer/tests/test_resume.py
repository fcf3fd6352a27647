"""Trainings that were interrupted, or have ended, and go on."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sinergym_trainer.environments.normalization import Statistics
from sinergym_trainer.errors import ModelUnusable
from sinergym_trainer.models.checkpoints import newest
from sinergym_trainer.options import Options
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.training import Result, train

pytestmark = pytest.mark.slow  # real trainings

STEPS = 96
EPISODES = 6
TOTAL = "time/total_timesteps"
COMMAND = (
    "-env Eplus-5zone-hot-continuous-v1 -alg PPO --run_period 1/1-1/1 -sd 4 -norm -nact"
    f" -ep {EPISODES} -n 160 -bs 32 -ne 2 -eval -evalf 2 -evall 1 -tens board"
    " --log_interval 1 --checkpoint_steps 160"
).split()
SAC = Options(
    environment="Eplus-5zone-hot-continuous-v1",
    algorithm="SAC",
    episodes=3,
    seed=4,
    run_period=RunPeriod.parse("1/1-1/1"),
    learning_starts=32,
    train_freq=8,
    batch_size=16,
    buffer_size=1000,
    policy_kwargs={"net_arch": [8]},
)

AGAIN = (
    f"-env {SAC.environment} -alg SAC -ep 1 -sd {SAC.seed} --run_period 1/1-1/1 -ls 32"
    " --train_freq 8 -bs 16 -bfs 1000 --checkpoint_steps 32 --model copy"
).split()

type Start = Callable[..., subprocess.Popen[str]]


@dataclass(frozen=True)
class Attempt:
    """What one process printed, and its exit code."""

    code: int
    printed: str
    errors: str


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; of a Monitor's after its first line."""
    lines = path.read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def steps_of(output: Path) -> list[int]:
    """The timesteps of each row of progress.csv."""
    return [int(row[TOTAL]) for row in table(output / "progress.csv")]


def train_here(options: Options, say: Callable[[str], None] = lambda _line: None) -> Result:
    """Train in this process."""
    return train(options, say=say)


def stopping_at(beginning: str, lines: list[str]) -> Callable[[str], None]:
    """A `say` that sends SIGTERM to this process at a line."""

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith(beginning):
            os.kill(os.getpid(), signal.SIGTERM)

    return say


def test_a_terminated_training_goes_on_where_it_was(
    start: Start, tmp_path: Path, until: Callable[..., Any], mlflow_server: str
) -> None:
    """SIGTERM: 143 and a checkpoint. Then the same folder, counters, tables, run and steps.

    PPO is stopped in the middle of a rollout: what it has not learned from is run again, and
    nothing of it stays in the tables.
    """
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_server)
    client.search_experiments()  # its first answer takes seconds
    output, progress = tmp_path / "output", tmp_path / "progress.json"
    environ = {"SINERGYM_PROGRESS": str(progress), "MLFLOW_TRACKING_URI": mlflow_server}
    first = start(*COMMAND, **environ, SINERGYM_OUTPUT=str(output))

    def members() -> dict[str, Any]:
        return dict(json.loads(progress.read_text())) if progress.exists() else {}

    def is_under_way() -> bool:
        assert first.poll() is None
        # The evaluation's process has begun: what is pending at the end takes no time.
        begun = (output / "evaluations.npz").exists()
        return begun and members().get("episode", 0) >= 3 and bool(members()["mlflow"])

    until(is_under_way, 100)
    first.send_signal(signal.SIGTERM)
    printed, errors = first.communicate(timeout=30)
    assert first.returncode == 143, errors
    assert "stopped by SIGTERM" in printed
    assert (output / "model.zip").is_file()
    run_id = members()["mlflow"]["run_id"]
    found = newest(output / "checkpoints")
    assert found
    assert found.timesteps % 160 == 0
    assert 160 <= found.timesteps < EPISODES * STEPS
    assert found.state["mlflow_run"] == run_id
    assert found.state["episodes"] == found.timesteps // STEPS
    before = Statistics.read(output / "normalization.npz")

    second = start(*COMMAND, "--model", str(output), **environ)
    printed, errors = second.communicate(timeout=100)
    assert second.returncode == 0, errors
    assert {path.name for path in tmp_path.iterdir()} == {"output", "progress.json"}
    assert members()["mlflow"]["run_id"] == run_id
    assert f"going on from {output} at {found.timesteps} timesteps" in printed
    numbers = [int(number) for number in re.findall(rf"episode (\d+)/{EPISODES} ", printed)]
    assert numbers == list(range(found.timesteps // STEPS + 1, EPISODES + 1))
    assert (members()["episode"], members()["episodes"]) == (EPISODES, EPISODES)
    total = members()["timesteps"]
    assert total == 4 * 160  # for the 576 asked for, in rollouts of 160
    # A new episode begins at the checkpoint: the rest of the interrupted one is lost.
    rest = found.timesteps % STEPS
    ends = [STEPS * (n + 1) + (rest if n >= found.timesteps // STEPS else 0) for n in range(6)]
    assert_tables_go_on(output, ends, total)
    # VecNormalize has counted all that the agent has seen, with what is run again.
    after = Statistics.read(output / "normalization.npz")
    assert after.count > before.count
    evaluations = np.load(output / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == ends[1::2]
    assert len(evaluations["results"]) == 3

    assert scalars(output / "tensorboard", "episode/cumulative_reward") == ends
    assert client.get_run(run_id).info.status == "FINISHED"
    history = client.get_metric_history(run_id, "episode/cumulative_reward")
    assert {metric.step for metric in history} >= set(ends)


def assert_tables_go_on(output: Path, ends: list[int], total: int) -> None:
    """Each episode is there once, each rollout too, in their order, below one header."""
    monitor = table(output / "monitor.csv")
    assert [int(row["l"]) for row in monitor] == [STEPS] * EPISODES
    rows = table(output / "progress.csv")
    assert not [row for row in rows if row[TOTAL] == TOTAL]
    learning = [row for row in rows if not row["eval/mean_reward"]]
    steps = [int(row[TOTAL]) for row in learning]
    assert steps == sorted(steps)
    assert set(steps) == {*range(160, total + 1, 160), *ends}
    episodes = [row for row in learning if row["episode/cumulative_reward"]]
    assert [int(row[TOTAL]) for row in episodes] == ends
    assert [float(row["episode/cumulative_reward"]) for row in episodes] == pytest.approx(
        [float(row["r"]) for row in monitor], abs=1e-5
    )
    assert [int(float(row["time/episodes"])) for row in episodes] == [1, 2, 3, 4, 5, 6]
    evaluated = [int(row[TOTAL]) for row in rows if row["eval/mean_reward"]]
    assert evaluated == ends[1::2]


def scalars(folder: Path, tag: str) -> list[int]:
    """The steps of a scalar, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_an_off_policy_training_goes_on_with_its_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at an episode's end: nothing is run twice, and the buffer has all there was."""
    monkeypatch.setenv("SINERGYM_OUTPUT", str(tmp_path / "output"))
    lines: list[str] = []
    first = train_here(SAC, stopping_at("episode 2/", lines))
    assert first.stopped_by == signal.SIGTERM
    assert lines[-1].startswith("stopped by SIGTERM: 2 episodes")
    found = newest(first.output / "checkpoints")
    assert found
    assert found.timesteps == first.timesteps
    assert found.buffer
    # Stable-Baselines3 stops before it stores the step.
    assert found.buffer["pos"] == found.timesteps - 1

    monkeypatch.delenv("SINERGYM_OUTPUT")
    monkeypatch.chdir(tmp_path)
    second = train_here(replace(SAC, model="output"), lines.append)
    assert (second.episodes, second.timesteps) == (3, found.timesteps + STEPS)
    assert (second.name, second.output) == (first.name, first.output)
    assert len(second.episode_rewards) == 1
    last = newest(first.output / "checkpoints")
    assert last
    assert last.buffer
    assert last.buffer["pos"] == last.timesteps - 1
    assert last.timesteps == second.timesteps
    assert len(table(first.output / "monitor.csv")) == 3
    assert steps_of(first.output) == sorted(steps_of(first.output))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A training of one episode that has ended."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("SINERGYM_OUTPUT", str(tmp_path_factory.mktemp("finished") / "output"))
        return train_here(replace(SAC, episodes=1, checkpoint_steps=32))


@pytest.fixture
def copy(finished: Result, tmp_path: Path) -> Path:
    """A copy of its output folder."""
    return shutil.copytree(finished.output, tmp_path / "copy")


def test_nothing_left_to_do_is_done_at_once(
    finished: Result, copy: Path, tmp_path: Path, start: Start
) -> None:
    """Exit code 0, with the model and the counters as they were."""
    progress = tmp_path / "progress.json"
    again = start(*AGAIN, "--policy_kwargs", "net_arch: [8]", SINERGYM_PROGRESS=str(progress))
    printed, errors = again.communicate(timeout=100)

    assert again.returncode == 0, errors
    assert "done: 1 episodes, 96 timesteps" in printed
    members = json.loads(progress.read_text())
    assert (members["episode"], members["timesteps"]) == (1, 96)
    assert members["mean_reward"] == pytest.approx(finished.episode_rewards[0])
    assert len(table(copy / "monitor.csv")) == 1
    assert newest(copy / "checkpoints")


def test_more_episodes_go_on_after_the_end(finished: Result, copy: Path) -> None:
    """A finished training can be prolonged; resuming twice is the same twice."""
    other = shutil.copytree(copy, copy.with_name("other"))
    more = replace(SAC, episodes=2)
    results = [train_here(replace(more, model=str(folder))) for folder in (copy, other)]

    assert [(it.episodes, it.timesteps) for it in results] == [(2, 2 * STEPS)] * 2
    assert results[0].episode_rewards == results[1].episode_rewards
    assert results[0].episode_rewards != finished.episode_rewards
    for folder in (copy, other):
        assert [int(row["l"]) for row in table(folder / "monitor.csv")] == [STEPS, STEPS]


def test_a_broken_newest_checkpoint_costs_the_steps_since_the_one_before(copy: Path) -> None:
    """It is said, and the training goes on from the older one."""
    last = newest(copy / "checkpoints")
    assert last
    last.path.write_bytes(last.path.read_bytes()[:-100])
    before = newest(copy / "checkpoints")
    assert before
    assert before.timesteps < last.timesteps
    lines: list[str] = []
    result = train_here(replace(SAC, episodes=2, model=str(copy)), lines.append)

    assert any(f"{last.path.name} is not whole" in line for line in lines)
    assert any(line.endswith(f"at {before.timesteps} timesteps") for line in lines)
    # The episode that was interrupted never ends, and its steps are there; two others end.
    assert 0 < before.timesteps < STEPS
    assert result.timesteps == before.timesteps + 2 * STEPS
    assert result.episodes == 2
    assert [int(row["l"]) for row in table(copy / "monitor.csv")] == [STEPS, STEPS]
    assert newest(copy / "checkpoints")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 5}, "--seed 4, and this is 5"),
        ({"gamma": 0.5}, "--gamma not given, and this is 0.5"),
        ({"environment": "Eplus-5zone-cool-continuous-v1"}, "--environment Eplus-5zone-hot"),
        ({"normalization": True}, "--normalization not given, and this is True"),
        ({"n_envs": 2}, "--n_envs 1, and this is 2"),
    ],
)
def test_other_options_than_the_checkpoints_are_refused(
    finished: Result, changes: dict[str, Any], said: str
) -> None:
    """In one line that names both, and what to do."""
    files = sorted(finished.output.rglob("*"))
    with pytest.raises(ModelUnusable, match=re.escape(said)) as refused:
        train_here(replace(SAC, episodes=2, model=str(finished.output), **changes))

    assert "\n" not in str(refused.value)
    assert "start from its model.zip" in str(refused.value)
    assert sorted(finished.output.rglob("*")) == files
