"""Rewards: names and parameters checked at once, all of them run."""

import inspect
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinergym_trainer.environments import EnvironmentSpec, closing, make_environment
from sinergym_trainer.environments.rewards import (
    COST_PATH,
    REWARDS,
    check_reward,
    energy_costs,
    reward_class,
    reward_parameters,
)
from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options.values import RunPeriod

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
ONE_DAY = RunPeriod.parse("1/1-1/1")
DEFAULTS = {
    "temperature_variables": ["air_temperature"],
    "energy_variables": ["HVAC_electricity_demand_rate"],
    "range_comfort_winter": [20.0, 23.5],
    "range_comfort_summer": [23.0, 26.0],
    "summer_start": [6, 1],
    "summer_final": [9, 30],
    "energy_weight": 0.5,
    "lambda_energy": 1.0e-4,
    "lambda_temperature": 1.0,
}
OBSERVED = ("month", "day_of_month", "hour", "air_temperature", "HVAC_electricity_demand_rate",
            "heating_setpoint")  # fmt: skip
SETPOINTS = {"temperature_and_setpoints_conf": {"air_temperature": "heating_setpoint"}}
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def _needed(name: str) -> dict[str, Any]:
    return dict(SETPOINTS) if name == "multizone" else {}


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_is_accepted_by_its_name(name: str) -> None:
    """With a weight for energy."""
    check_reward(name, _needed(name), None)
    check_reward(name, _needed(name), 0.3)


@pytest.mark.parametrize("name", REWARDS)
def test_unknown_parameters_name_those_it_takes(name: str) -> None:
    """Also a parameter that only another reward has."""
    other = "lambda_energy" if name == "normalized" else "max_energy_penalty"
    for unknown in ("lambda_enrgy", "reward", other):
        with pytest.raises(InvalidOptions, match=f"{name} does not take '{unknown}': it takes"):
            check_reward(name, {unknown: 1.0}, None)


def test_unknown_rewards_name_those_there_are() -> None:
    """And the one that was meant."""
    with pytest.raises(InvalidOptions, match=r"did you mean linear\? there are linear, expon"):
        check_reward("liner", {}, None)
    with pytest.raises(InvalidOptions, match="unknown reward 'LSTM'"):
        EnvironmentSpec(id=CONTINUOUS, reward="LSTM")


@pytest.mark.parametrize(
    ("name", "given", "weight", "said"),
    [
        ("linear", {"energy_weight": 1.5}, None, "between 0 and 1"),
        ("linear", {"energy_weight": True}, None, "between 0 and 1"),
        ("linear", {}, -0.1, "--energy_weight -0.1: it must be between 0 and 1"),
        ("linear", {}, math.nan, "between 0 and 1"),
        ("linear", {"energy_weight": 0.2}, 0.2, "given twice"),
        ("hourly", {"default_energy_weight": 0.2}, 0.2, "given twice"),
        ("hourly", {"energy_weight": 0.2}, None, "does not take 'energy_weight'"),
        ("hourly", {"range_comfort_hours": [9, 25]}, None, "two hours"),
        ("linear", {"range_comfort_winter": [24, 20]}, None, "the lower first"),
        ("linear", {"range_comfort_winter": 20}, None, "two numbers"),
        ("linear", {"lambda_energy": "much"}, None, "a number of at least 0"),
        ("linear", {"summer_start": [2, 30]}, None, "a month and a day"),
        ("linear", {"summer_start": [6.5, 1]}, None, "a month and a day"),
        ("linear", {"temperature_variables": "air_temperature"}, None, "a list"),
        ("linear", {"temperature_variables": []}, None, "a list"),
        ("normalized", {"max_energy_penalty": 0}, None, "a number above 0"),
        ("multizone", {}, None, "needs the parameter temperature_and_setpoints_conf"),
        ("multizone", {"temperature_and_setpoints_conf": {}}, None, "a mapping"),
        ("multizone", {"temperature_and_setpoints_conf": {"a": 1}}, None, "a mapping"),
        ("energy_cost", {"temperature_weight": 0.7}, None, "leave -0.1 for the cost"),
        ("energy_cost", {"temperature_weight": 0.5}, 0.6, "leave -0.1 for the cost"),
        ("energy_cost", {COST_PATH: 3}, None, "the path"),
        ("energy_cost", {"summer_start": [6, 1]}, None, "does not take 'summer_start'"),
    ],
)
def test_parameters_of_another_form_are_refused(
    name: str, given: dict[str, Any], weight: float | None, said: str
) -> None:
    """With what they should be, also when a spec is made of them."""
    with pytest.raises(InvalidOptions, match=said):
        check_reward(name, given, weight)
    with pytest.raises(InvalidOptions, match=said):
        EnvironmentSpec(id=CONTINUOUS, reward=name, reward_kwargs=given, energy_weight=weight)


@settings(deadline=None)
@given(st.sampled_from(sorted(REWARDS)), st.data(), st.none() | st.floats())
def test_whatever_is_given_is_taken_or_refused(
    name: str, data: st.DataObject, weight: float | None
) -> None:
    """Any value for any parameter: nothing but InvalidOptions comes out."""
    names = st.sampled_from([*REWARDS[name].takes, "other"])
    given = data.draw(st.dictionaries(names, _VALUES, max_size=3))
    said = ""
    try:
        check_reward(name, given, weight)
    except InvalidOptions as error:
        said = str(error)

    assert "\n" not in said


def test_specs_with_parameters_are_equal_hashable_and_travel() -> None:
    """As those without."""
    weights = {"range_comfort_winter": [18, 22], "temperature_variables": ["air_temperature"]}
    one = EnvironmentSpec(id=CONTINUOUS, reward_kwargs=weights)
    weights["range_comfort_winter"] = [0, 1]

    assert one == EnvironmentSpec(id=CONTINUOUS, reward_kwargs=dict(one.reward_kwargs))
    assert one == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(pickle.loads(pickle.dumps(one)))
    assert one != EnvironmentSpec(id=CONTINUOUS, reward_kwargs=weights)
    assert one.reward_kwargs["range_comfort_winter"] == [18, 22]
    with pytest.raises(TypeError):
        one.reward_kwargs["energy_weight"] = 0.1  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "given", "weight", "differs"),
    [
        ("linear", {}, None, {}),
        ("linear", {}, 0.0, {"energy_weight": 0.0}),
        ("exponential", {"lambda_energy": 0}, 0.1, {"energy_weight": 0.1, "lambda_energy": 0}),
        ("linear", {"range_comfort_winter": (1, 2)}, None, {"range_comfort_winter": [1, 2]}),
    ],
)
def test_parameters_of_the_id_are_kept(
    name: str, given: dict[str, Any], weight: float | None, differs: dict[str, Any]
) -> None:
    """Those that the user does not give."""
    assert reward_parameters(name, DEFAULTS, given, weight, OBSERVED) == DEFAULTS | differs


def test_parameters_that_a_reward_does_not_take_are_left_out() -> None:
    """And those with another name or meaning are translated."""
    hourly = reward_parameters("hourly", DEFAULTS, {}, 0.7, OBSERVED)
    assert hourly["default_energy_weight"] == 0.7
    assert "energy_weight" not in hourly
    normalized = reward_parameters("normalized", DEFAULTS, {}, None, OBSERVED)
    assert not {"lambda_energy", "lambda_temperature"} & set(normalized)
    cost = reward_parameters("energy_cost", DEFAULTS, {COST_PATH: "x"}, None, OBSERVED)
    assert not {"energy_weight", "summer_start", "summer_final", COST_PATH} & set(cost)
    assert cost["energy_cost_variables"] == ["energy_cost"]
    assert reward_parameters("multizone", DEFAULTS, SETPOINTS, None, OBSERVED) == {
        "energy_variables": ["HVAC_electricity_demand_rate"],
        "energy_weight": 0.5,
        "lambda_energy": 1.0e-4,
        "lambda_temperature": 1.0,
        **SETPOINTS,
    }


def test_what_is_not_observed_is_refused() -> None:
    """With the variable that was meant."""
    other = {"temperature_and_setpoints_conf": {"air_temperatur": "heating_setpoint"}}
    with pytest.raises(InvalidOptions, match="observe 'air_temperatur'; did you mean air_temper"):
        reward_parameters("multizone", DEFAULTS, other, None, OBSERVED)


def test_checks_import_nothing_heavy() -> None:
    """A wrong command costs a moment."""
    program = (
        "import sys; from sinergym_trainer.environments import EnvironmentSpec;"
        "EnvironmentSpec(id='x', reward='hourly', energy_weight=0.3);"
        "print({'sinergym', 'torch', 'gymnasium', 'stable_baselines3'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "set()"


def _costs(path: Path, days: int, *, column: str = "value") -> Path:
    rows = [
        f"2023-01-{day:02d}T{hour:02d}:00:00+01:00;{day}.5"
        for day in range(1, days + 1)
        for hour in range(24)
    ]
    path.write_text("\n".join([f"datetime;{column}", *rows]))
    return path


def test_prices_must_cover_the_run_period(tmp_path: Path) -> None:
    """Otherwise Sinergym stops in the middle of an episode."""
    path = _costs(tmp_path / "costs.csv", 3)
    given = {COST_PATH: str(path)}

    assert energy_costs(given, date(1991, 1, 1), date(1991, 1, 3)) == path
    with pytest.raises(InvalidOptions, match="no price for every hour of 04 January"):
        energy_costs(given, date(1991, 1, 1), date(1991, 1, 4))


def test_the_shipped_prices_are_those_of_a_year() -> None:
    """Which has no 29 February."""
    assert energy_costs({}, date(1991, 1, 1), date(1991, 12, 31)).is_file()
    with pytest.raises(InvalidOptions, match="29 February"):
        energy_costs({}, date(1992, 2, 28), date(1992, 3, 1))


@pytest.mark.parametrize(
    "content",
    [
        *("", "a;b\n1;2", "datetime;value\nyesterday;1", "datetime;value\n2023-01-01;much"),
        *("datetime,value\n1,2", "datetime;value\n2023-01-01"),
    ],
)
def test_other_files_of_prices_are_refused(tmp_path: Path, content: str) -> None:
    """With what they should be."""
    path = tmp_path / "costs.csv"
    path.write_text(content)
    with pytest.raises(InvalidOptions, match=r"costs\.csv"):
        energy_costs({COST_PATH: str(path)}, date(1991, 1, 1), date(1991, 1, 1))
    with pytest.raises(InvalidOptions, match="No such file"):
        energy_costs({COST_PATH: str(tmp_path / "none")}, date(1991, 1, 1), date(1991, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", REWARDS)
def test_the_table_is_that_of_sinergym(name: str) -> None:
    """The parameters of each class."""
    parameters = set(inspect.signature(reward_class(name)).parameters)
    ours = set(REWARDS[name].takes) - {COST_PATH}
    if name == "energy_cost":
        parameters -= {"energy_cost_variables", "summer_start", "summer_final"}
    assert ours == parameters


def _linear(power: float, violation: float, _: Mapping[str, float]) -> float:
    return -0.3 * 1e-4 * power - 0.7 * violation


def _exponential(power: float, violation: float, _: Mapping[str, float]) -> float:
    return -0.3 * 1e-4 * power - 0.7 * (math.exp(violation) if violation > 0 else 0)


def _cost(power: float, violation: float, observed: Mapping[str, float]) -> float:
    return -0.3 * 1e-4 * power - 0.4 * violation - 0.3 * observed["energy_cost"]


def _hourly(power: float, violation: float, observed: Mapping[str, float]) -> float:
    weight = 0.3 if 9 <= observed["hour"] <= 19 else 1.0
    return -weight * 1e-4 * power - (1 - weight) * violation


def _normalized(power: float, violation: float, _: Mapping[str, float]) -> float:
    return -0.3 * power / 8 - 0.7 * violation / 12


def _multizone(power: float, _: float, observed: Mapping[str, float]) -> float:
    away = abs(observed["air_temperature"] - observed["heating_setpoint"])
    return -0.3 * 1e-4 * power - 0.7 * max(away - 0.5, 0)


FORMULAS = {
    "linear": _linear, "exponential": _exponential, "energy_cost": _cost, "hourly": _hourly,
    "normalized": _normalized, "multizone": _multizone,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_is_run(tmp_path: Path, name: str) -> None:
    """A day, with CSV files: each reward is what the formula in Sinergym's documentation gives."""
    spec = EnvironmentSpec(
        id=CONTINUOUS,
        run_period=ONE_DAY,
        reward=name,
        reward_kwargs=_needed(name),
        energy_weight=0.3,
        logger=True,
    )
    with closing(make_environment(spec, tmp_path / "output")) as env:
        variables = env.get_wrapper_attr("observation_variables")
        action = np.array([15.0, 30.0], dtype=np.float32)
        observation, _ = env.reset()
        steps = 0
        truncated = False
        while not truncated:
            observation, reward, _, truncated, info = env.step(action)
            assert observation.dtype == env.observation_space.dtype == np.float32
            assert observation.shape == env.observation_space.shape == (len(variables),)
            power, violation = info["total_power_demand"], info["total_temperature_violation"]
            observed = dict(zip(variables, map(float, observation), strict=True))
            assert float(reward) == pytest.approx(
                FORMULAS[name](power, violation, observed), rel=1e-4, abs=1e-4
            )
            steps += 1
        assert steps == env.get_wrapper_attr("timestep_per_episode") == 96
        assert type(env.get_wrapper_attr("reward_fn")) is reward_class(name)
    (rewards,) = (tmp_path / "output").glob("*/episode-1/monitor/rewards.csv")
    assert len(rewards.read_text().splitlines()) == 96


@pytest.mark.slow
def test_a_reward_that_the_environment_does_not_support_makes_nothing(tmp_path: Path) -> None:
    """Not even a folder."""
    spec = EnvironmentSpec(
        id="Eplus-office-hot-continuous-v1", reward="multizone", reward_kwargs=SETPOINTS
    )
    with pytest.raises(InvalidOptions, match="does not observe 'air_temperature'; did you mean"):
        make_environment(spec, tmp_path / "output")

    assert list(tmp_path.iterdir()) == []
