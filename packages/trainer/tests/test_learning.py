"""What a training learns: repeatable, not disturbed by what watches it, and as its flags say."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sinergym_trainer.environments.normalization import Statistics
from sinergym_trainer.errors import InvalidOptions, ModelUnusable
from sinergym_trainer.evaluation.evaluating import evaluate
from sinergym_trainer.models import Card
from sinergym_trainer.options import EvalOptions, Options
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.training import Result, train
from sinergym_trainer.training.planning import check

pytestmark = pytest.mark.slow  # the import of PyTorch alone takes seconds

DAY = RunPeriod.parse("1/1-1/1")
STEPS = 96
SMALL = {"net_arch": [8]}
SAC = Options(
    environment="Eplus-5zone-hot-continuous-stochastic-v1",
    algorithm="SAC",
    episodes=3,
    seed=0,
    run_period=DAY,
    normalization=True,
    learning_starts=32,
    train_freq=8,
    gradient_steps=2,
    batch_size=16,
    policy_kwargs=SMALL,
)
DQN = Options(
    environment="Eplus-5zone-hot-discrete-v1",
    algorithm="DQN",
    seed=3,
    run_period=DAY,
    learning_starts=32,
    policy_kwargs=SMALL,
)
PPO = Options(
    environment="Eplus-5zone-mixed-continuous-stochastic-v1",
    algorithm="PPO",
    episodes=3,
    seed=0,
    run_period=DAY,
    normalization=True,
    normalize_action=True,
    n_steps=48,
    batch_size=48,
    n_epochs=2,
    policy_kwargs=SMALL,
)
BOTH = replace(
    PPO, environment="Eplus-5zone-hot-continuous-v1", n_envs=2, episodes=4, checkpoint_minutes=0
)

OTHER = "Eplus-datacenter_dx-hot-continuous-stochastic-v1"

type Run = Callable[..., Result]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run(options, lines=[])`: train here, in a folder of its own."""

    def _run(options: Options, lines: list[str] | None = None) -> Result:
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("SINERGYM_OUTPUT", str(tmp_path_factory.mktemp("output") / "output"))
            environ.delenv("MLFLOW_TRACKING_URI", raising=False)
            return train(options, say=(lines if lines is not None else []).append)

    return _run


@dataclass(frozen=True)
class There:
    """What another process's training gave."""

    rewards: tuple[float, ...]
    model: Path


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> dict[str, There]:
    """The trainings of all three algorithms in another process, one after another."""
    folder = tmp_path_factory.mktemp("there")
    code = (
        "import json, os, sys\n"
        "from sinergym_trainer.options import Options, RunPeriod\n"
        "from sinergym_trainer.training import train\n"
        "for asked in json.load(sys.stdin):\n"
        "    os.environ['SINERGYM_OUTPUT'] = asked['algorithm']\n"
        "    asked['run_period'] = RunPeriod.parse(asked['run_period'])\n"
        "    result = train(Options(**asked), say=lambda line: None)\n"
        "    print(json.dumps(result.episode_rewards))\n"
    )
    asked = [_as_json(options) for options in (SAC, DQN, PPO)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
        check=True,
    )
    return {
        one["algorithm"]: There(tuple(json.loads(line)), folder / one["algorithm"] / "model.zip")
        for one, line in zip(asked, done.stdout.splitlines(), strict=True)
    }


def _as_json(options: Options) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in Options.__dataclass_fields__}
    plain = {"policy_kwargs": SMALL, "reward_kwargs": {}, "run_period": str(options.run_period)}
    return given | plain


@pytest.fixture(scope="module")
def evaluated(run: Run) -> Result:
    """The training with PPO, evaluated after each episode, which the other process had not."""
    return run(replace(PPO, evaluation=True, eval_freq=1, eval_length=2))


def weights(model: Path) -> dict[str, Any]:
    """Every tensor of a saved model: the networks and the optimizers."""
    from stable_baselines3.common.save_util import load_from_zip_file

    parameters = load_from_zip_file(model, device="cpu", load_data=False)[1]
    assert parameters
    return dict(_tensors(parameters))


def _tensors(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _tensors(member, f"{name}/{key}")
    elif hasattr(value, "numpy"):
        yield name, value.numpy()


def same(left: Path, right: Path) -> bool:
    """Whether two saved models have equal tensors, bit by bit."""
    one, other = weights(left), weights(right)
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; of a Monitor's after its first line."""
    lines = path.read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.mark.parametrize("options", [SAC, DQN], ids=["SAC", "DQN"])
def test_the_same_seed_gives_the_same_result(
    run: Run, there: dict[str, There], options: Options
) -> None:
    """In another process, after other trainings, with stochastic weather: to the last digit."""
    here, far = run(options), there[options.algorithm]

    assert here.episode_rewards == far.rewards
    assert len(set(far.rewards)) == options.episodes
    assert same(here.model, far.model)
    if options.normalization:
        files = (path.with_name("normalization.npz") for path in (here.model, far.model))
        one, other = (Statistics.read(path) for path in files)
        assert one == other


def test_another_seed_gives_another_result(run: Run, there: dict[str, There]) -> None:
    """Rewards and weights."""
    other = run(replace(DQN, seed=4))

    assert set(other.episode_rewards).isdisjoint(there["DQN"].rewards)
    assert not same(other.model, there["DQN"].model)


def test_evaluation_changes_nothing(evaluated: Result, there: dict[str, There]) -> None:
    """Rewards, weights and statistics are those without one, also with stochastic weather."""
    assert evaluated.episode_rewards == there["PPO"].rewards
    assert same(evaluated.model, there["PPO"].model)
    files = (path.with_name("normalization.npz") for path in (evaluated.model, there["PPO"].model))
    one, other = (Statistics.read(path) for path in files)
    assert one == other


def test_the_best_model_has_the_statistics_that_it_was_evaluated_with(
    evaluated: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that evaluated again it has the mean reward that made it the best, to the last digit."""
    monkeypatch.chdir(tmp_path)
    rows = np.load(evaluated.output / "evaluations.npz")
    means = rows["results"].mean(axis=1)
    best = evaluated.output / "best_model"

    assert rows["timesteps"].tolist() == [STEPS, 2 * STEPS, 3 * STEPS]
    card = Card.read(best / "model.json")
    assert card.timesteps == rows["timesteps"][means.argmax()]
    # A vector counts the first observation of an episode, not its last.
    assert Statistics.read(best / "normalization.npz").count == pytest.approx(
        card.timesteps + 1, abs=0.01
    )
    assert Statistics.read(evaluated.output / "normalization.npz").count > 3 * STEPS
    report = evaluate(EvalOptions(model=str(evaluated.output), episodes=2), say=lambda _: None)
    assert report.mean_reward == means.max()


@pytest.fixture(scope="module")
def both(run: Run) -> Result:
    """PPO in two environments at the same time."""
    return run(BOTH)


def test_two_environments_make_one_training(both: Result, run: Run) -> None:
    """Episodes are counted over both, each has its file, and the same seed repeats both."""
    assert (both.episodes, both.timesteps) == (4, 4 * STEPS)
    each = [table(both.output / f"{number}.monitor.csv") for number in (0, 1)]
    assert [len(rows) for rows in each] == [2, 2]
    written = sorted(float(row["r"]) for rows in each for row in rows)
    assert written == pytest.approx(sorted(both.episode_rewards), abs=1e-5)
    assert not (both.output / "monitor.csv").exists()
    # checkpoint_minutes=0 and no checkpoint_steps: there are none.
    assert not (both.output / "checkpoints").exists()

    again = run(BOTH)
    assert again.episode_rewards == both.episode_rewards
    assert same(again.model, both.model)


def test_two_environments_fill_one_buffer(run: Run) -> None:
    """SAC learns from both as well."""
    result = run(replace(SAC, environment=BOTH.environment, n_envs=2, episodes=2))

    assert (result.episodes, result.timesteps) == (2, 2 * STEPS)
    assert len(set(result.episode_rewards)) == 2
    (path,) = (result.output / "checkpoints").iterdir()
    from sinergym_trainer.models.checkpoints import newest

    found = newest(path)
    assert found
    assert found.n_envs == 2
    assert found.buffer
    assert found.buffer["pos"] == STEPS


def test_fine_tuning_starts_from_a_models_weights(evaluated: Result, run: Run) -> None:
    """With a learning rate of 0 they stay; all counters begin at 0, and the run is a new one."""
    lines: list[str] = []
    still = replace(
        PPO,
        model=str(evaluated.model),
        policy_kwargs={},
        learning_rate=0.0,
        episodes=1,
        seed=8,
    )
    tuned = run(still, lines)

    assert any(line.startswith("the weights are those of ") for line in lines)
    assert (tuned.episodes, tuned.timesteps) == (1, STEPS)
    before, after = weights(evaluated.model), weights(tuned.model)
    policy = [name for name in before if name.startswith("/policy/")]
    assert policy
    assert all(np.array_equal(before[name], after[name]) for name in policy)
    assert tuned.name != evaluated.name
    logged = [int(row["time/total_timesteps"]) for row in table(tuned.output / "progress.csv")]
    assert max(logged) == STEPS
    # The statistics go on: those of the model's training, and a day more.
    counts = [
        Statistics.read(result.output / "normalization.npz").count for result in (evaluated, tuned)
    ]
    assert counts[1] == pytest.approx(counts[0] + STEPS + 1, abs=0.01)

    # The model's own learning rate holds when none is given.
    moved = run(replace(still, learning_rate=None))
    assert not same(moved.model, evaluated.model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"environment": "Eplus-datacenter_dx-hot-continuous-stochastic-v1"},
            "model.zip.* statistics of 17 obs",
        ),
        ({"multiobs": True}, "--multiobs False, and this is True"),
        ({"algorithm": "A2C", "batch_size": None, "n_epochs": None}, "--algorithm PPO, and"),
        ({"policy_kwargs": SMALL}, "--policy_kwargs is for a new policy"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    evaluated: Result, tmp_path: Path, run: Run, changes: dict[str, Any], said: str
) -> None:
    """In one line, with nothing left running."""
    asked: dict[str, Any] = {
        "model": str(evaluated.model),
        "policy_kwargs": {},
        "evaluation": True,
    }
    with pytest.raises((ModelUnusable, InvalidOptions), match=said) as refused:
        run(replace(PPO, **asked | changes))

    assert "\n" not in str(refused.value)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not [name for name in names if b".evaluation" in name]


def test_flags_of_one_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Timesteps, name, threads, tables on the console, checkpoints, network, and notes."""
    import torch

    from sinergym_trainer.models.checkpoints import newest
    from sinergym_trainer.options.configuration import as_yaml

    monkeypatch.chdir(tmp_path)
    options = replace(
        PPO,
        environment="Eplus-5Zone-hot-continuous-v1",
        episodes=1,
        timesteps=130,
        n_steps=32,
        batch_size=32,
        id="mine.1",
        threads=2,
        log_interval=2,
        checkpoint_steps=32,
        checkpoint_keep=3,
        checkpoint_minutes=0,
        normalization=False,
        normalize_action=False,
        group_name="quick",
        device="cpu",
    )
    result = train(options)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    assert threads == 2
    assert result.timesteps == 160
    assert result.episodes == 1
    assert result.name.startswith(
        "PPO-Eplus-5zone-hot-continuous-v1-timesteps130-seed0-id-mine.1("
    )
    assert result.output == tmp_path / result.name
    printed = capsys.readouterr().out
    assert printed.count("| time/") == 3  # of five rollouts each second one, and the end
    assert "is Eplus-5zone-hot-continuous-v1" in printed
    assert "the runner removes its VM" in printed
    assert "--normalize_action lets it act" in printed
    found = [newest(path) for path in (result.output / "checkpoints").iterdir()]
    assert sorted(each.timesteps for each in found if each) == [96, 128, 160]
    assert weights(result.model)["/policy/mlp_extractor.policy_net.0.weight"].shape == (8, 17)
    assert (result.output / "config.yaml").read_text() == as_yaml(options)


def test_options_of_the_environment_reach_it() -> None:
    """All that makes another environment is in the plan."""
    options = Options(
        environment="Eplus-5zone-hot-continuous-v1",
        run_period=DAY,
        reward="exponential",
        reward_kwargs={"lambda_energy": 0.001},
        energy_weight=0.25,
        normalize_action=True,
        logger=True,
        multiobs=True,
    )
    spec = check(options).spec

    assert (spec.id, spec.run_period, spec.reward) == (options.environment, DAY, "exponential")
    assert dict(spec.reward_kwargs) == {"lambda_energy": 0.001}
    assert spec.energy_weight == 0.25
    assert (spec.normalize_action, spec.logger, spec.multiobs) == (True, True, True)
