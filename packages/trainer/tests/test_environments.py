"""Environments: ids of today and before, and what one is made of."""

from pathlib import Path
from typing import Any

import pytest

from sinergym_trainer.environments import (
    ENVIRONMENTS,
    EnvironmentSpec,
    closing,
    make_environment,
    resolve,
    with_actions,
)
from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options import RunPeriod

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
TWO_DAYS = RunPeriod.parse("1/1-2/1")


@pytest.mark.parametrize(
    ("old", "today", "actions"),
    [
        ("Eplus-5Zone-hot-discrete-v1", "Eplus-5zone-hot-discrete-v1", "discrete"),
        (
            "Eplus-5Zone-cool-continuous-stochastic-v1",
            "Eplus-5zone-cool-continuous-stochastic-v1",
            "continuous",
        ),
        (
            "Eplus-datacenter-mixed-continuous-v1",
            "Eplus-datacenter_cw-mixed-continuous-v1",
            "continuous",
        ),
        (
            "Eplus-datacenter-discrete-stochastic-v1",
            "Eplus-datacenter_cw-hot-discrete-stochastic-v1",
            "discrete",
        ),
        ("eplus-Office-hot-discrete-v1", "Eplus-office-hot-discrete-v1", "discrete"),
    ],
)
def test_old_ids_mean_those_of_today(old: str, today: str, actions: str) -> None:
    """And it is said in a note that has both."""
    found = resolve(old)

    assert (found.id, found.actions) == (today, actions)
    assert old in found.note
    assert today in found.note


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_ids_of_today_are_themselves(name: str) -> None:
    """Without a note."""
    found = resolve(name)

    assert (found.id, found.note) == (name, "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Eplus-5zone-hot-continous-v1", "did you mean Eplus-5zone-hot-continuous-v1"),
        ("Eplus-5zone-warm-continuous-v1", "did you mean"),
        ("Eplus-IWMullion-mixed-discrete-v1", "dropped the building IWMullion.*office"),
        ("CartPole-v1", "unknown environment"),
        ("", "unknown environment"),
    ],
)
def test_unknown_ids_are_refused_with_close_ones(name: str, said: str) -> None:
    """A typo costs one line, not a training."""
    with pytest.raises(InvalidOptions, match=said):
        resolve(name)


def test_the_same_building_with_other_actions() -> None:
    """Where there is one."""
    assert with_actions(CONTINUOUS, frozenset({"discrete"})) == "Eplus-5zone-hot-discrete-v1"
    assert with_actions("Eplus-radiant-hot-discrete-v1", frozenset({"continuous"})) is None
    assert with_actions("Eplus-demo-v1", frozenset({"discrete"})) is None


@pytest.mark.slow
def test_the_table_is_that_of_sinergym() -> None:
    """All ids, and the kind of actions that each has."""
    import gymnasium as gym
    import sinergym

    assert sorted(ENVIRONMENTS) == sorted(sinergym.ids())
    for name in ENVIRONMENTS:
        wrappers = gym.spec(name).additional_wrappers
        space = (
            (wrappers[0].kwargs or {})["discrete_space"]
            if wrappers
            else gym.spec(name).kwargs["action_space"]
        )
        assert type(space).__name__.lower().replace("box", "continuous") == resolve(name).actions


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
        reward="exponential",
        normalize_action=True,
        normalization=True,
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
            *("Monitor", "MultiObsWrapper", "CSVLogger", "LoggerWrapper", "NormalizeObservation"),
            *("NormalizeAction", "OrderEnforcing", "PassiveEnvChecker"),
        ]
        assert type(env.get_wrapper_attr("reward_fn")).__name__ == "ExpReward"
        assert env.get_wrapper_attr("timestep_per_episode") == 2 * 96
        assert env.observation_space.shape == (5 * 17,)
    assert list(elsewhere.iterdir()) == []
    assert [path.name for path in (tmp_path / "output").iterdir()] == [f"{CONTINUOUS}-res1"]


@pytest.mark.slow
def test_a_run_period_keeps_the_rest_of_the_building_config(tmp_path: Path) -> None:
    """Datacenters have six timesteps an hour, also for two days."""
    spec = EnvironmentSpec(id="Eplus-datacenter_dx-hot-continuous-v1", run_period=TWO_DAYS)
    with closing(make_environment(spec, tmp_path)) as env:
        assert env.get_wrapper_attr("timestep_per_episode") == 2 * 24 * 6
