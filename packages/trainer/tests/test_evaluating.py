"""`sinergym-eval`: what it refuses, baselines, a model with its card, and where results go."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinergym_trainer import models
from sinergym_trainer.environments import EnvironmentSpec, closing, make_vector
from sinergym_trainer.environments.catalogue import ENVIRONMENTS
from sinergym_trainer.environments.normalization import Statistics
from sinergym_trainer.errors import InvalidOptions, ModelUnusable, OutputUnusable, TrainerError
from sinergym_trainer.evaluation import report
from sinergym_trainer.evaluation.baselines import RuleAgent, check_rule, ruled
from sinergym_trainer.evaluation.episodes import Episode, Totals
from sinergym_trainer.evaluation.evaluating import evaluate
from sinergym_trainer.evaluation.process import Evaluator, Request
from sinergym_trainer.evaluation.report import Measured, Report
from sinergym_trainer.models import Card
from sinergym_trainer.models.checkpoints import Checkpoints
from sinergym_trainer.options import EvalOptions, Options
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.training.origin import options_of
from sinergym_trainer.training.planning import check

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
STOCHASTIC = "Eplus-5zone-hot-continuous-stochastic-v1"
DISCRETE = "Eplus-5zone-hot-discrete-v1"
TURN = RunPeriod.parse("31/1-1/2")
"""Two days in two months."""
FILES = {"evaluation.csv", "evaluation_months.csv", "evaluation.json"}
SPEC = EnvironmentSpec(id=STOCHASTIC, run_period=TURN, normalize_action=True, multiobs=True)
CARD = Card(
    name="PPO-mine",
    algorithm="PPO",
    environment=STOCHASTIC,
    timesteps=192,
    run_period=str(TURN),
    normalize_action=True,
    multiobs=True,
    normalization=True,
    seed=5,
    versions={"sinergym": "3.0.0"},
)


def totals(reward: float, power: float, steps: int = 2, **sums: float) -> Totals:
    """Totals of some steps."""
    members = {
        "total_power_demand": power,
        "total_temperature_violation": 1.0,
        "comfort_penalty": -1.0,
        "energy_penalty": -power,
        **sums,
    }
    return Totals(length=steps + 1, steps=steps, reward=reward, violations=1, sums=members)


def measured(number: int, reward: float) -> Measured:
    """An episode of two months."""
    return Measured(
        number=number,
        seed=number + 6,
        seconds=1.5,
        episode=Episode(
            reward=reward,
            length=5,
            total=totals(reward, 4000.0, 4),
            months=((12, totals(reward / 4, 1000.0)), (1, totals(reward * 3 / 4, 3000.0))),
        ),
    )


def made(output: Path, **members: Any) -> Report:
    """A report of two episodes."""
    report = Report(
        name="mine",
        output=output,
        model="random",
        algorithm=None,
        environment=CONTINUOUS,
        seed=7,
        options={},
        card=None,
        versions={},
        step_size=900.0,
        watts=True,
        episodes=(measured(1, -8.0), measured(2, -16.0)),
    )
    return replace(report, **members)


def test_a_row_for_each_episode_and_month(tmp_path: Path) -> None:
    """With units in the columns; 4000 W in steps of a quarter of an hour are 1 kWh."""
    rows, months = made(tmp_path).rows, made(tmp_path).month_rows

    assert rows[0] == {
        "episode": 1,
        "seed": 7,
        "reward": -8.0,
        "mean_reward": -1.6,
        "length": 5,
        "mean_power(W)": 1000.0,
        "energy(kWh)": 1.0,
        "comfort_violation(%)": 25.0,
        "mean_temperature_violation(°C)": 0.25,
        "comfort_penalty": -1.0,
        "energy_penalty": -4000.0,
        "comfort_term": None,
        "energy_term": None,
        "wall_time(s)": 1.5,
    }
    assert [(row["episode"], row["month"], row["reward"]) for row in months] == [
        *((1, 12, -2.0), (1, 1, -6.0), (2, 12, -4.0), (2, 1, -12.0)),
    ]
    assert [(row["month"], row["reward"]) for row in made(tmp_path).month_means] == [
        *((12, -3.0), (1, -9.0)),
    ]


def test_without_watts_there_is_no_energy(tmp_path: Path) -> None:
    """A reward that looks at joules, say."""
    row = made(tmp_path, watts=False).rows[0]

    assert row["mean_power"] == 1000.0
    assert not {"mean_power(W)", "energy(kWh)"} & row.keys()


def test_files_have_everything(tmp_path: Path) -> None:
    """Two tables, and all of it as JSON; infinities are no JSON."""
    infinite = replace(measured(1, 0.0), episode=replace(measured(1, 0.0).episode, reward=-np.inf))
    made(tmp_path, episodes=(infinite, measured(2, -16.0))).write()

    assert {path.name for path in tmp_path.iterdir()} == FILES
    with (tmp_path / "evaluation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["episode"], row["energy(kWh)"], row["reward"]) for row in rows] == [
        *(("1", "1.0", "-inf"), ("2", "1.0", "-16.0")),
    ]
    with (tmp_path / "evaluation_months.csv").open(encoding="utf-8") as file:
        assert [row["month"] for row in csv.DictReader(file)] == ["12", "1", "12", "1"]
    content = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert content["energy"] == "kWh = sum(total_power_demand [W]) * 900 s / 3600000"
    assert content["mean"]["reward"] is None
    assert content["episodes"][1]["reward"] == -16.0
    assert [month["month"] for month in content["episodes"][1]["months"]] == [12, 1]


def test_tables_are_plain_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns stand below their heads; JSON is alone on standard output."""
    report.show(made(tmp_path), as_json=False)
    out, err = capsys.readouterr()
    assert err == ""
    title, head, *rows = out.split("months, means over the episodes:")[0].splitlines()
    assert title == "episodes:"
    assert [row.split()[:3] for row in rows] == [
        *(["1", "-8.00", "1000.00"], ["2", "-16.00", "1000.00"]),
        *(["mean", "-12.00", "1000.00"], ["std", "4.00", "0.00"]),
    ]
    assert {len(line) for line in (head, *rows)} == {len(head)}

    report.show(made(tmp_path), as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["mean_reward"] == -12.0
    assert "power W" in err


def test_nothing_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped in the first episode."""
    nothing = made(tmp_path, episodes=(), stopped_by=15)
    nothing.write()
    report.show(nothing, as_json=True)

    assert nothing.mean_reward is None
    assert json.loads(capsys.readouterr().out)["episodes"] == []
    assert (tmp_path / "evaluation.csv").read_text() == ""


@given(st.lists(st.floats(-1e9, 0), min_size=1, max_size=20))
def test_means_are_those_of_the_episodes(rewards: list[float]) -> None:
    """Whatever they are."""
    episodes = tuple(measured(number + 1, reward) for number, reward in enumerate(rewards))
    report = made(Path(), episodes=episodes)

    assert report.mean_reward == statistics.fmean(rewards)
    assert report.summary(statistics.fmean)["reward"] == report.mean_reward


class Thermostat:
    """As much of an environment as Sinergym's rules look at."""

    def __init__(self, low: list[float], high: list[float], **observed: float) -> None:
        from gymnasium.spaces import Box

        self.action_space = Box(np.array(low, np.float32), np.array(high, np.float32))
        self.observed = observed

    def get_obs_dict(self, _observation: Any) -> dict[str, float]:
        """The observation, by name."""
        return self.observed


@pytest.mark.slow
@settings(deadline=None)
@given(month=st.integers(1, 12), day=st.integers(1, 28))
def test_the_rule_of_the_5zone_knows_the_season(month: int, day: int) -> None:
    """Summer is from June to September; the demo's heating setpoint ends at 22.5 °C."""
    env = Thermostat([12, 23.25], [23.25, 30], month=month, day_of_month=day)
    setpoints = RuleAgent(env, CONTINUOUS).act(None)
    demo = Thermostat([15, 22.5], [22.5, 30], month=month, day_of_month=day)

    summer = 6 <= month <= 9
    assert setpoints.tolist() == ([23.0, 26.0] if summer else [20.0, 23.5])
    assert setpoints in env.action_space
    setpoints = RuleAgent(demo, "Eplus-demo-v1").act(None)
    assert setpoints.tolist() == ([22.5, 26.0] if summer else [20.0, 23.5])


@pytest.mark.slow
@settings(deadline=None)
@given(west=st.floats(0, 60), east=st.floats(0, 60), setpoint=st.floats(10, 40))
def test_the_rule_of_the_datacenter_stays_within_its_setpoints(
    west: float, east: float, setpoint: float
) -> None:
    """Where Sinergym's own would give an action that its environment refuses."""
    env = Thermostat(
        [20],
        [30],
        west_zone_air_temperature=west,
        east_zone_air_temperature=east,
        cooling_setpoint=setpoint,
    )
    action = RuleAgent(env, "Eplus-datacenter_dx-hot-continuous-v1").act(None)

    mean = (west + east) / 2
    wanted = setpoint + (1 if mean < 18 else -1 if mean > 27 else 0)
    assert action in env.action_space
    assert action.tolist() == pytest.approx([min(max(wanted, 20), 30)], rel=1e-6)


def test_every_id_has_a_rule_or_is_refused() -> None:
    """The refusal names one that has."""
    for name in ENVIRONMENTS:
        if name in ruled():
            check_rule(name)
        else:
            with pytest.raises(InvalidOptions, match=r"Eplus-.*-continuous(-stochastic)?-v1"):
                check_rule(name)
    assert len(ruled()) == 1 + 6 + 8
    with pytest.raises(InvalidOptions, match=f"are discrete: take {CONTINUOUS}$"):
        check_rule(DISCRETE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ruled() if "stochastic" not in name])
def test_rules_fit_the_ids_of_today(name: str) -> None:
    """As many setpoints as actions, and what the rule looks at is observed."""
    import gymnasium
    import sinergym  # noqa: F401 - registers the ids

    kwargs = gymnasium.spec(name).kwargs
    observed = {*kwargs["time_variables"], *kwargs["variables"]}
    if "datacenter" in name:
        assert list(kwargs["actuators"]) == ["cooling_setpoint"]
        zones = {"west_zone_air_temperature", "east_zone_air_temperature"}
        assert zones | {"cooling_setpoint"} <= observed
    else:
        assert [each.lower().split("_")[0] for each in kwargs["actuators"]] == [
            *("heating", "cooling"),
        ]
        assert {"month", "day_of_month"} <= observed


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"model": "random", "environment": "Eplus-9zone-v1"}, (InvalidOptions, "9zone")),
        (
            {"model": "rule-based", "environment": DISCRETE},
            (InvalidOptions, f"take {CONTINUOUS}$"),
        ),
        ({"model": "nowhere.zip"}, (ModelUnusable, "nowhere.zip: there is no such file")),
        ({"model": "plain.zip"}, (InvalidOptions, "give --environment and --algorithm$")),
        (
            {"model": "plain.zip", "environment": CONTINUOUS},
            (InvalidOptions, "give --algorithm$"),
        ),
        (
            {"model": "plain.zip", "environment": CONTINUOUS, "algorithm": "DQN"},
            (InvalidOptions, "DQN acts on discrete"),
        ),
        (
            {
                "model": "plain.zip",
                "environment": DISCRETE,
                "algorithm": "DQN",
                "normalize_action": True,
            },
            (InvalidOptions, "--normalize_action is for continuous"),
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_made(
    options: dict[str, Any],
    refusal: tuple[type[Exception], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line."""
    error, said = refusal
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("data", "{}")

    with pytest.raises(error, match=said):
        evaluate(EvalOptions(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["plain.zip"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fresh PPO with its card, its statistics, and a better one beside."""
    from sinergym_trainer.algorithms import find_algorithm

    folder = tmp_path_factory.mktemp("model")
    with closing(make_vector(SPEC, folder / "sinergym")) as vec:
        (size,) = vec.observation_space.shape or ()
        generator = np.random.default_rng(0)
        stats = Statistics(
            mean=generator.normal(20, 5, size), variance=generator.uniform(1, 9, size), count=96.0
        )
        for seed, where, name in ((1, "", "model.zip"), (2, "best_model", "best_model.zip")):
            ppo = find_algorithm("PPO").build(vec, seed=seed, hyperparameters={}, device="cpu")
            models.save(ppo, folder / where, CARD, stats, name=name)
        options = Options(
            environment=STOCHASTIC,
            run_period=TURN,
            normalize_action=True,
            multiobs=True,
            normalization=True,
        )
        state = {"name": "PPO-mine", "options": options_of(check(options))}
        Checkpoints(folder / "apart" / "checkpoints", keep=1).save(
            ppo, statistics=stats, state=state, files={}
        )
    return folder


@pytest.mark.slow
def test_a_model_is_evaluated_as_in_its_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    """A folder is enough; the best model has the rewards of the training's evaluations."""
    monkeypatch.chdir(tmp_path)
    evaluator = Evaluator(SPEC, tmp_path / "beside", threads=1, seed=5)
    try:
        best = model / "best_model"
        evaluator.start(
            Request(
                timesteps=1,
                model=best / "best_model.zip",
                algorithm="PPO",
                episodes=2,
                statistics=Statistics.read(best / "normalization.npz"),
            )
        )
        expected = until(lambda: evaluator.poll(0.1), 60)
    finally:
        evaluator.close()
    lines: list[str] = []

    report = evaluate(EvalOptions(model=str(model), episodes=2), say=lines.append)

    assert tuple(each.episode for each in report.episodes) == expected.episodes
    assert report.mean_reward == expected.mean_reward
    assert report.seed == 5
    assert report.watts
    assert "note: sinergym is 3.12" in lines[0]
    assert sum("episode " in line for line in lines) == 2
    assert report.name.startswith("PPO-mine-EVAL-episodes2(")
    assert report.output == tmp_path / report.name
    assert {path.name for path in report.output.iterdir()} == FILES
    content = json.loads((report.output / "evaluation.json").read_text("utf-8"))
    assert content["card"]["environment"] == STOCHASTIC
    assert content["model"].endswith("best_model/best_model.zip")

    # A checkpoint's model with its card; flags take the card's place, and say so.
    lines.clear()
    other = EvalOptions(
        model=str(model / "apart"),
        environment=CONTINUOUS,
        energy_weight=0.1,
        seed=0,
        id="other",
        output=tmp_path / "other",
    )
    report = evaluate(other, say=lines.append)
    assert report.output == tmp_path / "other"
    assert "-id-other(" in report.name
    assert (report.environment, report.seed) == (CONTINUOUS, 0)
    assert f"note: environment is {CONTINUOUS} here, and was {STOCHASTIC} in the training" in lines
    assert "note: energy_weight is 0.1 here, and was None in the training" in lines
    (row,) = report.rows
    power, term = row["energy_penalty"], row["energy_term"]
    assert power is not None
    assert term == pytest.approx(power * 0.1 * 1e-4)

    # Without its wrappers the model does not fit, and nothing is made.
    unwrapped = EvalOptions(model=str(model), multiobs=False, output=tmp_path / "none")
    with pytest.raises(
        ModelUnusable, match=r"observes \(85,\), and the environment gives \(17,\)"
    ):
        evaluate(unwrapped, say=lines.append)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_best_model_of_a_training_keeps_its_reward(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output folder is enough to get the reward that chose it, to the last digit."""
    monkeypatch.chdir(tmp_path)
    evaluations = np.load(trained.result.output / "evaluations.npz")

    options = EvalOptions(model=str(trained.result.output), episodes=trained.options.eval_length)
    report = evaluate(options, say=lambda _line: None)

    assert report.mean_reward == evaluations["results"].mean(axis=1).max()
    assert report.name.startswith(f"{trained.result.name}-EVAL-episodes1(")


@pytest.mark.slow
def test_random_actions_repeat_with_their_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit; other seeds differ, and so do the episodes."""
    monkeypatch.chdir(tmp_path)

    def rewards(seed: int, **options: Any) -> list[float]:
        chosen = EvalOptions(
            model="random",
            environment=options.pop("environment", DISCRETE),
            run_period=RunPeriod.parse("1/1-1/1"),
            seed=seed,
            **options,
        )
        report = evaluate(chosen, say=lambda _line: None)
        return [each.episode.total.reward for each in report.episodes]

    first = rewards(0, episodes=2)
    assert first == rewards(0, episodes=2)
    assert first[:1] == rewards(0)
    assert len({*first, *rewards(1)}) == 3
    # The same folder name within a second gets a number.
    assert len(list(tmp_path.iterdir())) == 4


@pytest.fixture
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a bucket on loopback that is named `bucket`."""
    folder = tmp_path_factory.mktemp("cloud")
    command = Path(sys.executable).parent / "gcp-emulator"
    process = subprocess.Popen(
        [command, "serve", "--engine", "inert", "--folder", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not (folder / "cloud.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield str(json.loads((folder / "cloud.json").read_text())["endpoint"])
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_results_go_to_mlflow_and_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_server: str, cloud: str
) -> None:
    """Metrics by episode and by month; progress as a training's."""
    from mlflow import MlflowClient

    from sinergym_trainer.outputs import connect

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud)
    monkeypatch.setenv("SINERGYM_PROGRESS", str(tmp_path / "progress.json"))
    connect("bucket").create()
    options = EvalOptions(
        model="rule-based",
        environment=CONTINUOUS,
        run_period=TURN,
        episodes=2,
        seed=3,
        remote_store=True,
        bucket_name="bucket",
        mlflow_store=True,
    )
    report = evaluate(options, say=lambda _line: None)

    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("sinergym")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.kind = 'evaluation'")
    (run,) = (each for each in found if each.info.run_name == report.name)
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "rule-based"
    episodes = client.get_metric_history(run.info.run_id, "episode/reward")
    assert [(metric.step, metric.value) for metric in episodes] == [
        (number, row["reward"]) for number, row in enumerate(report.rows, 1)
    ]
    months = client.get_metric_history(run.info.run_id, "month/month")
    assert [(metric.step, metric.value) for metric in months] == [
        *((1, 1.0), (2, 2.0), (3, 1.0), (4, 2.0)),
    ]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == FILES
    uploaded = {blob.name for blob in connect("bucket").list_blobs()}
    assert uploaded == {f"{report.name}/{name}" for name in FILES}
    progress = json.loads((tmp_path / "progress.json").read_text())
    expected = {"episode": 2, "episodes": 2, "timesteps": 384, "total_timesteps": 384}
    assert expected.items() <= progress.items()
    assert progress["mean_reward"] == report.mean_reward
    assert progress["mlflow"]["run_id"] == run.info.run_id
    assert progress["versions"]["sinergym"].startswith("3.")


@pytest.mark.slow
def test_sigterm_keeps_the_episodes_so_far(tmp_path: Path, until: Any) -> None:
    """Exit code 143; JSON on standard output and nothing else there."""
    command = "from sinergym_trainer.cli import evaluate_main; evaluate_main()"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", command, "--model", "random", "--environment", DISCRETE),
            *("--run_period", "1/1-1/1", "--episodes", "1000", "--json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "SINERGYM_OUTPUT": str(tmp_path / "output")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    table = tmp_path / "output" / "evaluation.csv"
    try:
        until(lambda: table.exists() and len(table.read_text().splitlines()) > 2, 60)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()

    assert process.returncode == 143, err
    content = json.loads(out)
    assert content["stopped_by"] == 15
    assert len(content["episodes"]) >= 2
    assert len(table.read_text().splitlines()) == 1 + len(content["episodes"])
    assert json.loads((tmp_path / "output" / "evaluation.json").read_text("utf-8")) == content
    assert "sinergym-eval: stopped by SIGTERM" in err


@pytest.mark.slow
def test_results_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    """Before anything is simulated for nothing."""
    (tmp_path / "file").write_text("")
    options = EvalOptions(
        model="random",
        environment=CONTINUOUS,
        run_period=RunPeriod.parse("1/1-1/1"),
        output=tmp_path / "file" / "below",
    )
    with pytest.raises(OutputUnusable, match=r"--output .*below cannot be made: Not a directory"):
        evaluate(options, say=lambda _line: None)
    assert issubclass(OutputUnusable, TrainerError)
