"""What watches a training: numbers that can be checked by hand, and a learning left in peace."""

import csv
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest

from sinergym_trainer.environments import EnvironmentSpec, episode_returns, make_vector
from sinergym_trainer.options.values import RunPeriod

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from sinergym_trainer.environments.normalization import Statistics
    from sinergym_trainer.evaluation.process import Evaluator
    from sinergym_trainer.training.callbacks import EpisodeCallback, EvaluationCallback

pytestmark = pytest.mark.slow  # the import of PyTorch alone takes seconds

DISCRETE = {"DQN", "QRDQN"}
CONTRIBUTED = {"RecurrentPPO", "TQC", "QRDQN", "TRPO"}


class Room(gym.Env[Any, Any]):
    """A room that tells in `info` what Sinergym's rewards tell; its numbers are those of steps.

    As Sinergym, it repeats its last step at an episode's end.
    """

    def __init__(self, length: int, *, discrete: bool = False, mute: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = (
            gym.spaces.Discrete(2) if discrete else gym.spaces.Box(-1, 1, (2,), np.float32)
        )
        self.length = length
        self.mute = mute
        self.step_number = 0

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Any = None,  # noqa: ARG002
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.step_number = 0
        return np.zeros(3, np.float32), {}

    def step(
        self,
        action: Any,  # noqa: ARG002
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Power is the number of the step, the penalty a tenth of it; odd steps are too warm."""
        self.step_number += 1
        number = min(self.step_number, self.length - 1)
        info = {
            "total_power_demand": float(number),
            "energy_penalty": -number / 10,
            "comfort_penalty": -1.0 * (number % 2),
            "total_temperature_violation": 0.5 * (number % 2),
        }
        over = self.step_number == self.length
        observation = np.full(3, number / self.length, np.float32)
        # A third is no finite decimal: rounding would show.
        return observation, -number / 3, False, over, {} if self.mute else info


def rooms(*lengths: int, **how: bool) -> "VecEnv":
    """A vector of rooms with episodes of these lengths, each in a Monitor."""
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([partial(lambda length: Monitor(Room(length, **how)), n) for n in lengths])


def build(name: str, env: Any, **parameters: Any) -> "BaseAlgorithm":
    """A small model of this algorithm."""
    import sb3_contrib
    import stable_baselines3
    import torch

    torch.set_num_threads(1)
    library = sb3_contrib if name in CONTRIBUTED else stable_baselines3
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    off_policy = {"buffer_size": 100, "learning_starts": 10, "batch_size": 8}
    on_policy = {"n_steps": 8} | ({} if name == "A2C" else {"batch_size": 8})
    if name not in {"PPO", "A2C", "RecurrentPPO", "TRPO"}:
        parameters = off_policy | parameters
    else:
        parameters = on_policy | parameters
    sizes = {"net_arch": [8]}
    model: BaseAlgorithm = getattr(library, name)(
        policy, env, seed=1, device="cpu", policy_kwargs=sizes, **parameters
    )
    return model


@dataclass
class Watched:
    """A training's callback and all that it said and showed."""

    callback: "EpisodeCallback"
    lines: list[str] = field(default_factory=list)
    shown: list[tuple[Any, ...]] = field(default_factory=list)


def watch(
    returns: Callable[[], Sequence[Sequence[float]]],
    folder: Path,
    *,
    evaluation: "EvaluationCallback | None" = None,
    stop: Callable[[], bool] = lambda: False,
    **resumed: Any,
) -> Watched:
    """Watch a training of ten episodes and a thousand timesteps."""
    from sinergym_trainer.process.progress import ProgressFile
    from sinergym_trainer.training.callbacks import EpisodeCallback

    lines: list[str] = []
    shown: list[tuple[Any, ...]] = []
    callback = EpisodeCallback(
        episodes=10,
        total_timesteps=1000,
        returns=returns,
        evaluation=evaluation,
        tracked=lambda: None,
        progress=ProgressFile(folder / "progress.json", {"versions": {}}),
        stop=stop,
        say=lines.append,
        show=lambda *values: shown.append(values),
        **resumed,
    )
    return Watched(callback, lines, shown)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without empty cells."""
    with path.open() as file:
        return [
            {key: value for key, value in row.items() if value} for row in csv.DictReader(file)
        ]


def to_csv(model: "BaseAlgorithm", folder: Path) -> Path:
    """Have the model log to a CSV file."""
    from stable_baselines3.common.logger import configure

    model.set_logger(configure(str(folder), ["csv"]))
    return folder / "progress.csv"


@pytest.mark.parametrize(
    "name", ["PPO", "A2C", "DQN", "DDPG", "SAC", "TD3", "RecurrentPPO", "TQC", "QRDQN", "TRPO"]
)
def test_every_algorithm_counts_the_episodes_of_all_environments(
    name: str, tmp_path: Path
) -> None:
    """Two environments with episodes of 10 and of 7 steps, 40 steps each: 4 and 5 episodes."""
    env = rooms(10, 7, discrete=name in DISCRETE)
    watched = watch(lambda: episode_returns(env), tmp_path)
    build(name, env).learn(80, callback=[watched.callback])

    ends = sorted([(10 * n, 0) for n in (1, 2, 3, 4)] + [(7 * n, 1) for n in (1, 2, 3, 4, 5)])
    returns = {0: -(sum(range(1, 10)) + 9) / 3, 1: -(sum(range(1, 7)) + 6) / 3}
    assert watched.callback.rewards == pytest.approx([returns[env] for _, env in ends], abs=1e-12)
    assert watched.callback.rewards[0] == sum(-min(n, 6) / 3 for n in range(1, 8))  # exactly
    said = [line.split("  reward")[0] for line in watched.lines]
    assert said == [
        f"episode {number}/10  timesteps {2 * step}/1000"
        for number, (step, _) in enumerate(ends, start=1)
    ]
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress | {"mean_reward": 0} == {
        "versions": {},
        "episode": 9,
        "episodes": 10,
        "timesteps": 80,
        "total_timesteps": 1000,
        "mean_reward": 0,
        "mlflow": None,
    }
    assert progress["mean_reward"] == pytest.approx(sum(watched.callback.rewards) / 9)


def test_the_metrics_of_an_episode_are_those_of_its_steps(tmp_path: Path) -> None:
    """Under the names of 2022; the repeated last step counts in the reward and the length only."""
    env = rooms(5, 4)
    watched = watch(lambda: episode_returns(env), tmp_path)
    model = build("A2C", env, n_steps=5)
    path = to_csv(model, tmp_path)
    model.learn(10, callback=watched.callback, log_interval=100)
    rows = [row for row in table(path) if "episode/ep_length" in row]

    assert [row["time/total_timesteps"] for row in rows] == ["8", "10"]
    assert [row["time/episodes"] for row in rows] == ["1", "2"]
    second = {key: float(value) for key, value in rows[1].items()}
    assert second.pop("time/steps_per_second") > 0
    assert second == pytest.approx(
        {
            "time/total_timesteps": 10,
            "time/episodes": 2,
            "episode/cumulative_reward": -14 / 3,
            "episode/mean_reward": -14 / 15,
            "episode/ep_length": 5,
            "episode/mean_power": 2.5,
            "episode/cumulative_power": 10,
            "episode/mean_power_penalty": -0.25,
            "episode/cumulative_power_penalty": -1.0,
            "episode/mean_comfort_penalty": -0.5,
            "episode/cumulative_comfort_penalty": -2,
            "episode/comfort_violation_time(%)": 50,
        }
    )


def test_what_a_reward_does_not_tell_is_left_out(tmp_path: Path) -> None:
    """A zero would be a lie."""
    env = rooms(5, mute=True)
    model = build("A2C", env, n_steps=5)
    path = to_csv(model, tmp_path)
    model.learn(5, callback=watch(lambda: episode_returns(env), tmp_path).callback)
    (row,) = (row for row in table(path) if "episode/ep_length" in row)

    assert {key for key in row if key.startswith("episode/")} == {
        *("episode/cumulative_reward", "episode/mean_reward", "episode/ep_length"),
    }


def test_stable_baselines3_logs_what_it_logs_alone(tmp_path: Path) -> None:
    """The same losses at the same steps, and in the end those that it never writes."""
    found = []
    for watched in (False, True):
        env = rooms(10, 7)
        model = build("PPO", env)
        path = to_csv(model, tmp_path / str(watched))
        callback = watch(partial(episode_returns, env), tmp_path).callback
        model.learn(80, callback=callback if watched else None)
        found.append(
            [
                {
                    key: value
                    for key, value in row.items()
                    if key.startswith(("train/", "rollout/", "time/total"))
                }
                for row in table(path)
                if not any(key.startswith("episode/") for key in row)
            ]
        )
    alone, both = found

    assert len(alone) == 5
    assert any("train/loss" in row for row in alone)
    assert both[:-1] == alone
    assert both[-1]["time/total_timesteps"] == "80"
    assert "train/loss" in both[-1]


def test_the_table_of_the_console_has_no_episodes(tmp_path: Path) -> None:
    """A line each has said it already."""
    from io import StringIO

    from stable_baselines3.common.logger import HumanOutputFormat, Logger

    console = StringIO()
    env = rooms(4)
    model = build("A2C", env)
    model.set_logger(Logger(None, [HumanOutputFormat(console)]))
    model.learn(8, callback=watch(lambda: episode_returns(env), tmp_path).callback, log_interval=1)

    assert "ep_rew_mean" in console.getvalue()
    assert "episode/" not in console.getvalue()
    assert "steps_per_second" not in console.getvalue()


def test_a_resumed_training_goes_on_counting(tmp_path: Path) -> None:
    """Numbers, mean and progress include the episodes before."""
    env = rooms(4)
    before = [-100.0] * 150
    watched = watch(
        lambda: episode_returns(env), tmp_path, done_before=150, rewards_before=before[-100:]
    )
    model = build("A2C", env)
    model.learn(8, callback=watched.callback)

    assert watched.lines[0].startswith("episode 151/10 ")
    assert watched.callback.done == 152
    assert watched.callback.rewards == [-3.0, -3.0]
    assert watched.callback.recent_rewards == [-100.0] * 98 + [-3.0] * 2
    assert watched.callback.mean_reward() == pytest.approx((-9800 - 6) / 100)
    assert watched.shown[-1] == (
        8, 152, -3.0, watched.callback.mean_reward(), watched.callback.mean_reward(),
    )  # fmt: skip


def test_a_wish_to_stop_ends_the_learning(tmp_path: Path) -> None:
    """At the next step."""
    env = rooms(10)
    watched = watch(
        lambda: episode_returns(env), tmp_path, stop=lambda: bool(episode_returns(env)[0])
    )
    model = build("SAC", env)
    model.learn(1000, callback=watched.callback)

    assert model.num_timesteps == 10


def test_watching_costs_nearly_nothing(tmp_path: Path) -> None:
    """Under 20 microseconds for a step of four environments, display and progress included."""
    from sinergym_trainer.process.display import Display

    env = rooms(10, 10, 10, 10)
    watched = watch(lambda: episode_returns(env), tmp_path)
    watched.callback.init_callback(build("A2C", env))
    with Display.open(1000, 10) as display:
        watched.callback._show = display.progress
        env.reset()
        _, _, dones, infos = env.step(np.zeros((4, 2), np.float32))
        watched.callback.on_training_start({}, {})
        watched.callback.update_locals({"dones": dones, "infos": infos})
        rounds = []
        for _ in range(5):
            before = time.perf_counter()
            for _ in range(2000):
                watched.callback.on_step()
            rounds.append((time.perf_counter() - before) / 2000)

    assert min(rounds) < 20e-6


def test_a_progress_file_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    """A folder that is gone, say."""
    env = rooms(4)
    watched = watch(lambda: episode_returns(env), tmp_path / "gone")
    build("A2C", env).learn(8, callback=watched.callback)

    assert watched.callback.done == 2


@dataclass
class Evaluated:
    """A training that was evaluated, and what came of it."""

    folder: Path
    lines: list[str]
    kept: list[tuple[Any, "Statistics | None", bytes]]
    watched: Watched
    table: Path
    timesteps: int


def learn_and_evaluate(
    vec: "VecEnv", evaluator: "Evaluator", folder: Path, *, timesteps: int, before: int = 0
) -> Evaluated:
    """A2C, evaluated after every third episode; resumed when there are episodes before."""
    from sinergym_trainer.environments.normalization import of
    from sinergym_trainer.training.callbacks import EvaluationCallback

    kept: list[tuple[Any, Statistics | None, bytes]] = []
    lines: list[str] = []
    evaluation = EvaluationCallback(
        evaluator,
        every=3,
        episodes=1,
        folder=folder,
        statistics=lambda: of(vec),
        keep_best=lambda best, statistics: kept.append(
            (best, statistics, best.model.read_bytes())
        ),
        stop=lambda: False,
        say=lines.append,
        done_before=before,
    )
    ran = [len(returns) for returns in episode_returns(vec)]
    watched = watch(
        lambda: [returns[n:] for n, returns in zip(ran, episode_returns(vec), strict=True)],
        folder,
        evaluation=evaluation,
        done_before=before,
        rewards_before=[-1.0] * before,
    )
    try:
        model = build("A2C", vec, n_steps=96)
        path = to_csv(model, folder)
        model.num_timesteps = 96 * before
        model.learn(
            timesteps, callback=[watched.callback, evaluation], reset_num_timesteps=not before
        )
        return Evaluated(folder, lines, kept, watched, path, model.num_timesteps)
    finally:
        evaluation.close()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Evaluated, Evaluated]]:
    """Two real environments of a day, evaluated on a third: four episodes, and a resume for two.

    The folder of the resume has evaluations of two episodes each, one from before the checkpoint
    and a better one from after it.
    """
    from sinergym_trainer.evaluation.process import Evaluator

    folder = tmp_path_factory.mktemp("evaluated")
    for name in ("first", "resumed"):
        (folder / name).mkdir()
    np.savez(
        folder / "resumed" / "evaluations.npz",
        timesteps=[384, 4000],
        results=[[-2.0, -3.0], [0.5, 0.5]],
        ep_lengths=[[96, 96], [96, 96]],
    )
    spec = EnvironmentSpec(
        id="Eplus-5zone-hot-continuous-v1", run_period=RunPeriod.parse("1/1-1/1")
    )
    evaluator = Evaluator(spec, folder / "evaluation", threads=1, seed=3)
    vec = make_vector(spec, folder / "training", n_envs=2, normalization=True)
    try:
        yield (
            learn_and_evaluate(vec, evaluator, folder / "first", timesteps=384),
            learn_and_evaluate(vec, evaluator, folder / "resumed", timesteps=192, before=4),
        )
    finally:
        evaluator.close()
        vec.close()


def test_evaluations_are_counted_over_all_environments(
    evaluated: tuple[Evaluated, Evaluated],
) -> None:
    """Every third episode: with two that end together, once, at the fourth."""
    first, _ = evaluated
    assert first.timesteps == 384
    assert first.watched.callback.done == 4
    (line,) = first.lines
    assert line.startswith("evaluation at 384 timesteps  mean reward -")
    assert line.endswith("  best so far")
    ((best, statistics, model),) = first.kept
    assert best.timesteps == 384
    assert statistics is not None
    assert statistics.mean.shape == (17,)
    assert model[:2] == b"PK"
    assert not best.model.exists()
    assert first.watched.callback.mean_reward() == best.mean_reward
    assert first.watched.callback.best_mean_reward() == best.mean_reward
    (row,) = (row for row in table(first.table) if "eval/mean_reward" in row)
    assert row["time/total_timesteps"] == "384"
    assert float(row["eval/mean_reward"]) == best.mean_reward
    assert float(row["eval/mean_power_consumption"]) > 0
    arrays = np.load(first.folder / "evaluations.npz")
    assert arrays["timesteps"].tolist() == [384]
    assert arrays["results"].tolist() == [[best.mean_reward]]
    assert arrays["ep_lengths"].tolist() == [[96]]
    assert arrays["ep_powers"].shape == (1, 1)


def test_sinergym_tells_what_the_metrics_are_made_of(
    evaluated: tuple[Evaluated, Evaluated],
) -> None:
    """A day of two real environments, in their own processes."""
    first, _ = evaluated
    rows = [row for row in table(first.table) if "episode/ep_length" in row]

    assert [row["time/total_timesteps"] for row in rows] == ["192", "192", "384", "384"]
    assert {row["episode/ep_length"] for row in rows} == {"96"}
    for row, reward in zip(rows, first.watched.callback.rewards, strict=True):
        metrics = {key: float(value) for key, value in row.items()}
        assert metrics["episode/cumulative_reward"] == reward
        assert metrics["episode/mean_power"] > 0
        assert metrics["episode/cumulative_power"] == pytest.approx(
            95 * metrics["episode/mean_power"]
        )
        assert metrics["episode/mean_power_penalty"] < 0
        assert 0 <= metrics["episode/comfort_violation_time(%)"] <= 100


def test_nothing_is_begun_while_one_is_pending_that_nobody_waits_for(tmp_path: Path) -> None:
    """The end is asked for while the training waits for an evaluation: the next one is left out.

    The evaluation's process stands still, and the wish comes with the second look during the
    second evaluation's turn: the first decides that it is due, the second is the waiting's.
    """
    from sinergym_trainer.evaluation.process import Evaluator
    from sinergym_trainer.training.callbacks import EvaluationCallback

    looks: list[bool] = []

    def stop() -> bool:
        if evaluator.pending:
            looks.append(True)
        return len(looks) > 1

    lines: list[str] = []
    env = rooms(10)
    spec = EnvironmentSpec(id="Eplus-5zone-hot-continuous-v1")
    evaluator = Evaluator(spec, tmp_path / "evaluation", threads=1, seed=3)
    evaluation = EvaluationCallback(
        evaluator,
        every=1,
        episodes=1,
        folder=tmp_path,
        statistics=lambda: None,
        keep_best=lambda *_: None,
        stop=stop,
        say=lines.append,
    )
    try:
        assert evaluator.pid
        os.kill(evaluator.pid, signal.SIGSTOP)
        model = build("SAC", env, learning_starts=1000)
        model.learn(25, callback=evaluation)

        assert len(looks) > 1
        assert evaluator.pending
        assert evaluator.pending.timesteps == 10
        assert (evaluation.evaluations, lines) == ([], [])
    finally:
        evaluation.close()
        evaluator.close()


def test_evaluations_go_on_after_a_resume(evaluated: tuple[Evaluated, Evaluated]) -> None:
    """The file keeps its rows up to the checkpoint; a worse model is not the best one."""
    _, again = evaluated

    (line,) = again.lines
    assert line.startswith("evaluation at 576 timesteps")
    assert "best" not in line
    assert again.kept == []
    assert again.watched.callback.best_mean_reward() == 0.5
    assert again.watched.lines[0].startswith("episode 5/10  timesteps 576/")
    arrays = np.load(again.folder / "evaluations.npz")
    assert arrays["timesteps"].tolist() == [384, 576]
    assert arrays["results"][0].tolist() == [-2.0, -3.0]
    assert again.watched.callback.mean_reward() == arrays["results"][1][0]
    assert math.isnan(arrays["results"][1][1])
    assert np.isnan(arrays["ep_powers"][0]).all()
    assert arrays["ep_powers"][1][0] > 0
