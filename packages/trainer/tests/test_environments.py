"""Environments: what one is made of, and vectors of several."""

from pathlib import Path
from typing import Any

import pytest

from sinergym_trainer.environments import EnvironmentSpec, closing, make_environment
from sinergym_trainer.options import RunPeriod

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
TWO_DAYS = RunPeriod.parse("1/1-2/1")


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
            *("Monitor", "SeededWeather", "MultiObsWrapper", "CSVLogger", "LoggerWrapper"),
            *("NormalizeObservation", "NormalizeAction", "OrderEnforcing", "PassiveEnvChecker"),
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
