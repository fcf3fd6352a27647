"""Environments: what one is made of, how their weather repeats, and vectors of several."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sinergym_trainer.environments import (
    EnvironmentSpec,
    closing,
    episode_returns,
    make_environment,
    make_vector,
    steps_per_episode,
    variables,
)
from sinergym_trainer.errors import EnergyPlusFailed, InvalidOptions
from sinergym_trainer.options.values import RunPeriod

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
ONE_DAY = RunPeriod.parse("1/1-1/1")
TWO_DAYS = RunPeriod.parse("1/1-2/1")
STOCHASTIC = EnvironmentSpec(id="Eplus-5zone-hot-continuous-stochastic-v1", run_period=ONE_DAY)
ACTION = np.array([15.0, 30.0], dtype=np.float32)


def _observations(vec: Any, steps: int) -> Any:
    """What is seen from a reset on, with the same action in each step: (steps, n_envs, ...)."""
    actions = np.stack([ACTION] * vec.num_envs)
    return np.stack([vec.reset(), *(vec.step(actions)[0] for _ in range(steps))])


@pytest.mark.slow
def test_wrappers_are_applied_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outermost first, as Gymnasium tells it; nothing is written but below the folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    spec = EnvironmentSpec(
        id=CONTINUOUS,
        run_period=TWO_DAYS,
        reward="energy_cost",
        normalize_action=True,
        logger=True,
        multiobs=True,
    )
    with closing(make_environment(spec, tmp_path / "output")) as env:
        names = []
        layer: Any = env
        while layer is not env.unwrapped:
            names.append(type(layer).__name__)
            layer = layer.env

        assert names == [
            *("Monitor", "SeededWeather", "DtypeObservation", "MultiObsWrapper", "CSVLogger"),
            *("LoggerWrapper", "EnergyCostWrapper", "NormalizeAction", "OrderEnforcing"),
            "PassiveEnvChecker",
        ]
        assert type(env.get_wrapper_attr("reward_fn")).__name__ == "EnergyCostLinearReward"
        assert env.get_wrapper_attr("timestep_per_episode") == 2 * 96
        assert env.observation_space.shape == (5 * 18,)
    assert list(elsewhere.iterdir()) == []
    assert [path.name for path in (tmp_path / "output").iterdir()] == [f"{CONTINUOUS}-res1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("Eplus-datacenter_dx-hot-continuous-v1", 2 * 24 * 6),
        ("Eplus-datacenter_cw-hot-discrete-v1", 2 * 24 * 6),
        ("Eplus-smalldatacenter-hot-continuous-v1", 2 * 24 * 6),
        ("Eplus-demo-v1", 2 * 24),
        ("Eplus-5zone-hot-discrete-v1", 2 * 24 * 4),
        ("Eplus-radiant-hot-discrete-v1", 2 * 24 * 12),
    ],
)
def test_a_run_period_and_a_reward_keep_the_rest_of_the_id(
    tmp_path: Path, name: str, steps: int
) -> None:
    """Datacenters have six timesteps an hour, also for two days; and their own comfort."""
    spec = EnvironmentSpec(id=name, run_period=TWO_DAYS, reward="exponential", energy_weight=0.2)
    with closing(make_environment(spec, tmp_path)) as env:
        assert env.get_wrapper_attr("timestep_per_episode") == steps
        reward = env.get_wrapper_attr("reward_fn")
        assert (type(reward).__name__, reward.W_energy) == ("ExpReward", 0.2)
        import gymnasium

        registered = gymnasium.spec(name).kwargs["reward_kwargs"]
        assert reward.temp_names == registered["temperature_variables"]
        assert tuple(reward.range_comfort_winter) == tuple(registered["range_comfort_winter"])
        assert reward.lambda_energy == registered.get("lambda_energy", 1.0)


@pytest.mark.slow
def test_the_weather_of_every_episode_repeats(tmp_path: Path) -> None:
    """With the same seed; another seed, another episode or another environment has its own."""

    def three_episodes(folder: str, seed: int) -> Any:
        with closing(make_vector(STOCHASTIC, tmp_path / folder, seed=seed)) as vec:
            return _observations(vec, 3 * 96 - 1)[:, 0].reshape(3, 96, -1)

    one, again, other = (three_episodes(f, s) for f, s in (("1", 0), ("2", 0), ("3", 1)))

    np.testing.assert_array_equal(one, again)
    temperature = 3
    firsts = [tuple(episode[:, temperature]) for run in (one, other) for episode in run]
    assert len(set(firsts)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5])
def test_the_first_episode_is_that_of_sinergym_alone(tmp_path: Path, seed: int) -> None:
    """Our wrappers change nothing in `reset(seed=...)`."""
    with closing(make_environment(STOCHASTIC, tmp_path / "ours")) as env:
        ours = [env.reset(seed=seed)[0], *(env.step(ACTION)[0] for _ in range(20))]
    import gymnasium
    from sinergym.config import modeling

    modeling.CWD = str(tmp_path)
    config = {"runperiod": ONE_DAY.as_tuple()}
    with closing(gymnasium.make(STOCHASTIC.id, building_config=config)) as env:
        alone = [env.reset(seed=seed)[0], *(env.step(ACTION)[0] for _ in range(20))]

    np.testing.assert_array_equal(ours, alone)


@pytest.mark.slow
def test_the_weathers_go_on_where_a_checkpoint_was(tmp_path: Path) -> None:
    """The episode after it is the one that would have come, whatever seed the model gives."""
    with closing(make_vector(STOCHASTIC, tmp_path / "whole", seed=3)) as vec:
        whole = _observations(vec, 2 * 96 - 1)
    with closing(make_vector(STOCHASTIC, tmp_path / "first", seed=3)) as vec:
        _observations(vec, 10)
        (state,) = vec.env_method("weather_state")
    with closing(make_vector(STOCHASTIC, tmp_path / "second")) as vec:
        vec.seed(3)
        vec.env_method("continue_weather", state)
        rest = _observations(vec, 95)

    assert state == (3, 1)
    np.testing.assert_array_equal(rest, whole[96:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the vector of two environments writes."""
    return tmp_path / "vector"


@pytest.fixture
def two(folder: Path) -> Iterator[Any]:
    """Two stochastic environments, normalized; seed 3."""
    vec = make_vector(
        STOCHASTIC, folder, n_envs=2, normalization=True, monitor=folder / "monitor.csv", seed=3
    )
    with closing(vec):
        yield vec


@pytest.mark.slow
def test_a_vector_of_two_is_two_environments(two: Any, folder: Path, tmp_path: Path) -> None:
    """Each with a workspace, a monitor file and weather of its own; the first as if alone."""
    # Before the two begin: the first of them lives in this process.
    with closing(make_vector(STOCHASTIC, tmp_path / "alone", seed=3)) as alone:
        expected = _observations(alone, 96)
        expected_returns = episode_returns(alone)[0]
    _observations(two, 96)
    returns = episode_returns(two)
    np.testing.assert_array_equal(np.asarray(two.get_original_obs())[0], expected[-1, 0])
    assert expected_returns == returns[0]

    assert [len(each) for each in returns] == [1, 1]
    assert returns[0] != returns[1]
    assert two.env_method("weather_state") == [(3, 2), (4, 2)]
    for number in range(2):
        assert len((folder / f"{number}.monitor.csv").read_text().splitlines()) == 3
        assert (folder / f"env-{number}" / f"{STOCHASTIC.id}-res1").is_dir()
    assert {path.name for path in folder.iterdir()} == {
        *("env-0", "env-1", "0.monitor.csv", "1.monitor.csv"),
    }


@pytest.mark.slow
def test_workers_do_without_pytorch(two: Any) -> None:
    """It would cost each of them half a gigabyte."""
    for process in two.venv.workers:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "energyplus" in maps
        assert "torch" not in maps


@pytest.mark.slow
def test_what_is_asked_of_a_vector_comes_from_its_environments(two: Any) -> None:
    """Through VecNormalize and the processes; what is not there is an AttributeError, once."""
    observed, acted = variables(two)
    assert observed[:3] == ("month", "day_of_month", "hour")
    assert len(observed) == two.observation_space.shape[0]
    assert acted == ("heating_setpoint", "cooling_setpoint")
    assert steps_per_episode(two) == 96
    assert two.has_attr("workspace_path")
    assert not two.has_attr("nothing_of_this_name")
    for _ in range(3):
        with pytest.raises(AttributeError):
            two.get_attr("nothing_of_this_name")
    assert two.get_attr("timestep_per_episode") == [96, 96]
    two.set_attr("mark", 7, indices=1)
    assert two.get_attr("mark", indices=1) == [7]

    from gymnasium.wrappers import OrderEnforcing, TimeLimit
    from stable_baselines3.common.monitor import Monitor

    assert two.env_is_wrapped(Monitor) == two.env_is_wrapped(OrderEnforcing) == [True, True]
    assert two.env_is_wrapped(TimeLimit) == [False, False]


@pytest.mark.slow
def test_signals_are_the_parents_to_handle(two: Any) -> None:
    """SIGINT and SIGTERM go to the whole group of processes; workers work on."""
    two.reset()
    for process in two.venv.workers:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    two.step(np.stack([ACTION] * 2))

    assert all(process.poll() is None for process in two.venv.workers)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line(tmp_path: Path) -> None:
    """At once, in each call; and closing the vector is as quick as ever."""
    vec: Any = make_vector(EnvironmentSpec(id=CONTINUOUS, run_period=ONE_DAY), tmp_path, n_envs=2)
    (process,) = vec.workers
    try:
        _observations(vec, 5)
        process.send_signal(signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(EnergyPlusFailed, match=r"^environment 2 of 2: .* SIGKILL.*$"):
                _observations(vec, 5)
    finally:
        began = time.monotonic()
        vec.close()
    assert time.monotonic() - began < 15
    assert process.poll() is not None
    vec.close()


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path: Path, until: Callable[..., Any]) -> None:
    """Also with one that is killed; and they do not run its main module again."""
    program = tmp_path / "main.py"
    program.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from sinergym_trainer.environments import EnvironmentSpec, make_vector\n"
        "print('main', flush=True)\n"
        f"vec = make_vector(EnvironmentSpec(id={CONTINUOUS!r}), Path(sys.argv[1]), n_envs=3)\n"
        "vec.reset()\n"
        "print(*(process.pid for process in vec.workers), flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, program, tmp_path / "output"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout
        assert parent.stdout.readline() == "main\n"
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    finally:
        parent.kill()
        parent.communicate()

    assert len(pids) == 2
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 30)


@pytest.mark.slow
def test_what_a_worker_cannot_make_is_said_as_by_one_environment(tmp_path: Path) -> None:
    """The same error, with the number of the environment; no process is left."""
    spec = EnvironmentSpec(
        id=CONTINUOUS,
        reward="multizone",
        reward_kwargs={"temperature_and_setpoints_conf": {"air": "heating_setpoint"}},
    )
    with pytest.raises(InvalidOptions, match=r"environment 1 of 2: .* does not observe 'air'"):
        make_vector(spec, tmp_path, n_envs=2)


def test_a_vector_of_none_is_refused(tmp_path: Path) -> None:
    """There is nothing to train on."""
    with pytest.raises(InvalidOptions, match="--n_envs 0"):
        make_vector(EnvironmentSpec(id=CONTINUOUS), tmp_path, n_envs=0)
