"""Training: its result is that of plain Stable-Baselines3, and everything is where it belongs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options import Options
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.training import train
from sinergym_trainer.training.planning import check

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
DAY = RunPeriod.parse("1/1-1/1")
TWO_DAYS = RunPeriod.parse("1/1-2/1")


def plain(
    algorithm: str, folder: Path, *, period: tuple[int, ...], timesteps: int, **parameters: Any
) -> tuple[Any, list[float]]:
    """The same training as one writes it: gym.make, Stable-Baselines3, nothing of ours."""
    import gymnasium as gym
    import stable_baselines3
    import torch
    from sinergym.config import modeling
    from sinergym.utils.wrappers import NormalizeAction
    from stable_baselines3.common.monitor import Monitor

    modeling.CWD = str(folder)
    torch.set_num_threads(1)
    env = Monitor(NormalizeAction(gym.make(CONTINUOUS, building_config={"runperiod": period})))
    try:
        model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, **parameters)
        model.learn(timesteps)
        return model, env.get_episode_rewards()
    finally:
        env.close()


def assert_same_weights(model: Any, saved: Path) -> None:
    """Every tensor of the policy, bit by bit."""
    import torch

    expected = model.policy.state_dict()
    actual = type(model).load(saved, device="cpu").policy.state_dict()
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name


@pytest.mark.slow
def test_ppo_equals_plain_stable_baselines3(trained: Any, tmp_path: Path) -> None:
    """With evaluation, MLflow, TensorBoard and logger on: equal to the last digit."""
    model, rewards = plain(
        "PPO",
        tmp_path,
        period=TWO_DAYS.as_tuple(),
        timesteps=2 * 192,
        seed=7,
        n_steps=96,
        batch_size=32,
    )

    assert len(rewards) == 2
    assert rewards[0] != rewards[1]
    assert tuple(rewards) == trained.result.episode_rewards
    assert_same_weights(model, trained.result.model)


@pytest.mark.slow
def test_a2c_equals_plain_stable_baselines3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with defaults, an evaluation and a seed of 0."""
    monkeypatch.chdir(tmp_path)
    options = Options(
        environment=CONTINUOUS,
        algorithm="a2c",
        episodes=2,
        seed=0,
        run_period=DAY,
        normalize_action=True,
        evaluation=True,
        eval_length=1,
    )
    lines: list[str] = []
    result = train(options, say=lines.append)
    (tmp_path / "plain").mkdir()
    model, rewards = plain(
        "A2C", tmp_path / "plain", period=DAY.as_tuple(), timesteps=2 * 96, seed=0
    )

    assert tuple(rewards) == result.episode_rewards
    assert_same_weights(model, result.model)
    # Two episodes are 192 timesteps; A2C takes five at a time.
    assert result.timesteps == 195
    assert any("195 timesteps will run for the 192" in line for line in lines)
    # At home the output is a folder of the run's name, and nothing else appears beside it.
    assert result.output.parent == tmp_path
    assert result.name.startswith("A2C-Eplus-5zone-hot-continuous-v1-episodes2-seed0(")
    assert {path.name for path in tmp_path.iterdir()} == {"plain", result.name}


@pytest.mark.slow
def test_results_are_in_the_output_folder(trained: Any) -> None:
    """Model, best model, evaluations, tables, event files, Sinergym's own."""
    output = trained.result.output

    assert {path.name for path in output.iterdir()} == {
        *("model.zip", "model.json", "best_model", "evaluations.npz", "monitor.csv"),
        *("progress.csv", "tensorboard", "sinergym", "sinergym-evaluation", "checkpoints"),
        "config.yaml",
    }
    best = {path.name for path in (output / "best_model").iterdir()}
    assert best == {"best_model.zip", "model.json"}
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["checkpoint-1.zip"]
    (events,) = (output / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")
    workspace = output / "sinergym" / f"{CONTINUOUS}-res1"
    with (workspace / "progress.csv").open() as file:
        assert [row["episode_num"] for row in csv.DictReader(file)] == ["1", "2"]
    assert (workspace / "episode-1" / "monitor" / "observations.csv").is_file()


@pytest.mark.slow
def test_evaluations_are_as_stable_baselines3_writes_them(trained: Any) -> None:
    """After each episode, one episode; deterministic, so the best model gives its reward again."""
    evaluations = np.load(trained.result.output / "evaluations.npz")

    assert evaluations["timesteps"].tolist() == [192, 384]
    assert evaluations["results"].shape == (2, 1)
    assert evaluations["ep_lengths"].tolist() == [[192], [192]]
    assert trained.result.mean_reward == evaluations["results"][-1].mean()
    # Actions of an evaluation are not those of the training, which explores.
    assert set(evaluations["results"].ravel()).isdisjoint(trained.result.episode_rewards)


@pytest.mark.slow
def test_progress_tells_where_the_training_is(trained: Any) -> None:
    """The members of the contract's record."""
    progress = json.loads(trained.progress.read_text())

    assert progress["versions"]["sinergym"].startswith("3.")
    assert progress["mlflow"]["url"].startswith(trained.mlflow)
    expected = {"episode": 2, "episodes": 2, "timesteps": 384, "total_timesteps": 384}
    assert expected.items() <= progress.items()
    assert progress["mean_reward"] == trained.result.mean_reward
    assert [path.name for path in trained.progress.parent.glob("*.tmp")] == []


@pytest.mark.slow
def test_a_training_is_an_mlflow_run(trained: Any) -> None:
    """Name, tags, parameters of the seeds, metrics against timesteps, artifacts, and its end."""
    from mlflow import MlflowClient

    client = MlflowClient(trained.mlflow)
    experiment = client.get_experiment_by_name("quick")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])

    assert run.info.run_name == trained.result.name
    assert run.info.status == "FINISHED"
    tags = {"sweep": "quick", "experiment": "quick-0001", "attempt": "1"}
    assert tags.items() <= run.data.tags.items()
    parameters = {
        "env": "Eplus-5zone-hot-continuous-v1",
        "algorithm": "PPO",
        "episodes": "2",
        "seed": "7",
    }
    assert parameters.items() <= run.data.params.items()
    assert {
        "sinergym-version",
        "evaluation-frequency",
        "n_steps",
        "run-period",
    } <= run.data.params.keys()
    rewards = client.get_metric_history(run.info.run_id, "episode/cumulative_reward")
    assert [(m.step, m.value) for m in rewards] == [
        (192 * (number + 1), reward)
        for number, reward in enumerate(trained.result.episode_rewards)
    ]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "eval/mean_reward")] == [
        192,
        384,
    ]
    assert {"episode/mean_power", "train/learning_rate"} <= run.data.metrics.keys()
    stored = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert stored == {
        *("model.zip", "model.json", "best_model", "evaluations.npz", "monitor.csv"),
        "progress.csv",
    }


@pytest.mark.slow
def test_the_log_is_readable(trained: Any) -> None:
    """One line an episode, one an evaluation, one at each end."""
    lines = trained.lines

    assert sum(line.startswith("episode ") for line in lines) == 2
    assert sum(line.startswith("evaluation at ") for line in lines) == 2
    assert lines[-1].startswith("done: 2 episodes, 384 timesteps, mean reward ")
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"algorithm": "DQN"}, "DQN acts on discrete.*take Eplus-5zone-hot-discrete-v1"),
        (
            {"algorithm": "SAC", "environment": "Eplus-shop-hot-discrete-v1"},
            "take Eplus-shop-hot-continuous-v1",
        ),
        (
            {"algorithm": "DQN", "environment": "Eplus-radiant-hot-discrete-v1"},
            "multidiscrete.*take PPO, A2C",
        ),
        ({"algorithm": "PPP"}, "did you mean PPO"),
        (
            {"algorithm": "PPO", "buffer_size": 10},
            "PPO does not take --buffer_size; it takes --learning_rate",
        ),
        ({"algorithm": "A2C", "n_epochs": 2}, "A2C does not take --n_epochs"),
        (
            {"environment": "Eplus-5zone-hot-discrete-v1", "normalize_action": True},
            "--normalize_action",
        ),
        ({"tensorboard": "s3://bucket/path"}, "gs://BUCKET/PATH"),
        ({"reward": "square"}, "exponential"),
        ({"reward_kwargs": {"no": 1}}, "'no'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    options: dict[str, Any], said: str
) -> None:
    """Naming what would fit."""
    with pytest.raises(InvalidOptions, match=said):
        check(Options(**{"environment": CONTINUOUS, **options}))
