"""Sinergym's rewards: their names, the parameters that each takes, and what they need.

A reward is `linear` (the default of every id), or another of `REWARDS`. The parameters of an id
are kept as far as the chosen class takes them; those of the user come on top. Names, parameters
and their form are checked without Sinergym; whether an environment has what a reward looks at
turns out when it is made (`reward_parameters`).

The classes and their parameters are those of `sinergym.utils.rewards` 3.12.2.
"""

import csv
import difflib
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sinergym_trainer.errors import InvalidOptions

COST_PATH = "energy_cost_data_path"
"""The parameter of `energy_cost` that is not one of its class, but of `EnergyCostWrapper`."""
COST_VARIABLE = "energy_cost"
"""The observation variable that `EnergyCostWrapper` adds."""

_SHIPPED_COSTS = "data/energy_cost/PVPC_active_energy_billing_Iberian_Peninsula_2023.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One of Sinergym's rewards."""

    name: str
    path: str
    """`module:class`."""
    takes: Mapping[str, Callable[[Any], str]]
    """Its parameters, each with its check: what a value should be, or nothing if it is that."""
    needs: str
    """What an environment must offer for it."""
    weight: str = "energy_weight"
    """The parameter that `--energy_weight` sets."""
    required: tuple[str, ...] = ()
    """Parameters that no id has: the user gives them."""
    fresh: tuple[str, ...] = ()
    """Parameters that it does not take over from the id, as they mean something else here."""


def check_reward(name: str, given: Mapping[str, Any], energy_weight: float | None) -> None:
    """Check a reward's name, and the names and form of its parameters; imports no Sinergym.

    Args:
        name: of the reward.
        given: its parameters from the user.
        energy_weight: `--energy_weight`, or None.

    Raises:
        InvalidOptions: with the rewards that there are, the parameters that this one takes, or
            what a parameter should be.
    """
    reward = _find(name)
    for parameter, value in given.items():
        if parameter not in reward.takes:
            raise InvalidOptions(
                f"reward {name} does not take {parameter!r}: it takes {', '.join(reward.takes)}"
            )
        if wanted := reward.takes[parameter](value):
            raise InvalidOptions(f"reward parameter {parameter}={value!r}: it must be {wanted}")
    if energy_weight is not None:
        if wanted := _weight(energy_weight):
            raise InvalidOptions(f"--energy_weight {energy_weight}: it must be {wanted}")
        if reward.weight in given:
            raise InvalidOptions(
                f"the energy weight is given twice: by --energy_weight and as {reward.weight} of"
                " the reward"
            )
    if missing := [parameter for parameter in reward.required if parameter not in given]:
        raise InvalidOptions(
            f"reward {name} needs the parameter {', '.join(missing)}: it works with {reward.needs}"
        )
    shares = [
        given.get("energy_weight", energy_weight),
        given.get("temperature_weight"),
    ]
    if "temperature_weight" in reward.takes and any(share is not None for share in shares):
        total = sum(_DEFAULT_SHARE if share is None else share for share in shares)
        if total > 1 + 1e-9:
            raise InvalidOptions(
                f"reward {name}: energy_weight and temperature_weight (each {_DEFAULT_SHARE} if"
                f" not given) leave {1 - total:g} for the cost; together they may be 1 at most"
            )


def reward_parameters(
    name: str,
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    energy_weight: float | None,
    observed: tuple[str, ...],
) -> dict[str, Any]:
    """All keyword arguments for the reward's class in one environment.

    Args:
        name: of the reward.
        defaults: the `reward_kwargs` of the environment's id, made for `LinearReward`.
        given: parameters from the user, before the defaults.
        energy_weight: `--energy_weight`, or None.
        observed: the environment's observation variables.

    Raises:
        InvalidOptions: as `check_reward`; or the environment does not observe what is asked for.
    """
    check_reward(name, given, energy_weight)
    reward = _find(name)
    renamed = {reward.weight if key == "energy_weight" else key: defaults[key] for key in defaults}
    parameters = {
        key: value
        for key, value in renamed.items()
        if key in reward.takes and key not in reward.fresh
    }
    if energy_weight is not None:
        parameters[reward.weight] = energy_weight
    parameters |= {key: value for key, value in given.items() if key != COST_PATH}
    if name == "energy_cost":
        parameters["energy_cost_variables"] = [COST_VARIABLE]
    for needed in _looked_at(parameters):
        if needed not in observed and needed != COST_VARIABLE:
            close = difflib.get_close_matches(needed, observed, n=3)
            there = f"did you mean {', '.join(close)}?" if close else f"it has {observed}"
            raise InvalidOptions(
                f"reward {name}: the environment does not observe {needed!r}; {there}"
            )
    return {key: _plain(value) for key, value in parameters.items()}


def energy_costs(given: Mapping[str, Any], first: date, last: date) -> Path:
    """The file with the prices of energy: the user's, or the one that Sinergym ships.

    Args:
        given: the reward's parameters from the user.
        first: day of the run period.
        last: day of the run period.

    Raises:
        InvalidOptions: it cannot be read, or lacks a price for an hour of the run period.
    """
    path = Path(given.get(COST_PATH) or _shipped_costs()).absolute()
    hours: set[tuple[int, int, int]] = set()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter=";"):
                float(row["value"])
                # Sinergym's reading: UTC, and an hour later all the year.
                when = datetime.fromisoformat(row["datetime"])
                when = when.astimezone(UTC) if when.tzinfo else when
                when += timedelta(hours=1)
                hours.add((when.month, when.day, when.hour))
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InvalidOptions(f"{COST_PATH} {path}: {error}; {_COST_FORM}") from None
    except KeyError as error:
        raise InvalidOptions(f"{COST_PATH} {path} has no column {error}; {_COST_FORM}") from None
    for number in range(min((last - first).days, 366) + 1):
        day = first + timedelta(number)
        if any((day.month, day.day, hour) not in hours for hour in range(24)):
            raise InvalidOptions(
                f"{COST_PATH} {path} has no price for every hour of {day:%d %B}, a day of the run"
                " period"
            )
    return path


def reward_class(name: str) -> Any:
    """The reward's class."""
    module, _, attribute = _find(name).path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _shipped_costs() -> Path:
    package = importlib.util.find_spec("sinergym")
    if package is None or package.origin is None:
        raise InvalidOptions("sinergym is not installed here, and with it no prices of energy")
    return Path(package.origin).parent / _SHIPPED_COSTS


def _find(name: str) -> Reward:
    if reward := REWARDS.get(name):
        return reward
    close = difflib.get_close_matches(name, REWARDS, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise InvalidOptions(f"unknown reward {name!r}: {meant}there are {', '.join(REWARDS)}")


def _looked_at(parameters: Mapping[str, Any]) -> Iterator[str]:
    yield from parameters.get("temperature_variables", ())
    yield from parameters.get("energy_variables", ())
    for temperature, setpoint in parameters.get("temperature_and_setpoints_conf", {}).items():
        yield temperature
        yield setpoint


def _plain(value: Any) -> Any:
    """A copy in dictionaries and lists: Sinergym adds lists, and writes them into its YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == count and all(map(_is_number, value))


def _number(value: Any) -> str:
    return "" if _is_number(value) and value >= 0 else "a number of at least 0"


def _positive(value: Any) -> str:
    return "" if _is_number(value) and value > 0 else "a number above 0"


def _weight(value: Any) -> str:
    return "" if _is_number(value) and 0 <= value <= 1 else "between 0 and 1"


def _range(value: Any) -> str:
    fits = _numbers(value, 2) and value[0] <= value[1]
    return "" if fits else "two numbers, the lower first, such as [20.0, 23.5]"


def _hours(value: Any) -> str:
    fits = _numbers(value, 2) and 0 <= value[0] <= value[1] <= 24
    return "" if fits else "two hours of the day, such as [9, 19]"


def _day(value: Any) -> str:
    try:
        # Of a year without 29 February, as in Sinergym's own comparison of dates.
        fits = _numbers(value, 2) and bool(date(1991, *value))
    except (TypeError, ValueError):
        fits = False
    return "" if fits else "a month and a day, such as [6, 1]"


def _names(value: Any) -> str:
    fits = isinstance(value, (list, tuple)) and value and all(isinstance(n, str) for n in value)
    return "" if fits else "a list of observation variables"


def _setpoints(value: Any) -> str:
    fits = isinstance(value, Mapping) and value and all(isinstance(n, str) for n in value.values())
    return "" if fits else "a mapping from temperature variables to those of their setpoints"


def _path(value: Any) -> str:
    return "" if isinstance(value, str) and value else "the path of a CSV file"


_COST_FORM = (
    "it must be a CSV file with semicolons and the columns datetime (ISO 8601, with its offset)"
    " and value"
)

_DEFAULT_SHARE = 0.4
"""Of energy and of temperature in `EnergyCostLinearReward`; the rest is the cost's."""

_SEASONS = {
    "temperature_variables": _names,
    "energy_variables": _names,
    "range_comfort_winter": _range,
    "range_comfort_summer": _range,
    "summer_start": _day,
    "summer_final": _day,
}
_LAMBDAS = {"lambda_energy": _number, "lambda_temperature": _number}
_TEMPERATURES = "temperatures and a power that are observed"

REWARDS: dict[str, Reward] = {
    reward.name: reward
    for reward in (
        Reward(
            name="linear",
            path="sinergym.utils.rewards:LinearReward",
            takes={**_SEASONS, "energy_weight": _weight, **_LAMBDAS},
            needs=_TEMPERATURES,
        ),
        Reward(
            name="exponential",
            path="sinergym.utils.rewards:ExpReward",
            takes={**_SEASONS, "energy_weight": _weight, **_LAMBDAS},
            needs=_TEMPERATURES,
        ),
        Reward(
            name="energy_cost",
            path="sinergym.utils.rewards:EnergyCostLinearReward",
            # EnergyCostWrapper refuses summer_start and summer_final: they are June to September,
            # as every id has them.
            takes={
                **{name: _SEASONS[name] for name in list(_SEASONS)[:4]},
                "energy_weight": _weight,
                "temperature_weight": _weight,
                **_LAMBDAS,
                "lambda_energy_cost": _number,
                COST_PATH: _path,
            },
            needs=f"{_TEMPERATURES}, and the hourly prices of {COST_PATH}",
            fresh=("energy_weight",),  # an id's is a half of two terms, here it is one of three
        ),
        Reward(
            name="hourly",
            path="sinergym.utils.rewards:HourlyLinearReward",
            takes={
                **_SEASONS,
                "default_energy_weight": _weight,
                **_LAMBDAS,
                "range_comfort_hours": _hours,
            },
            needs=f"{_TEMPERATURES}, and the hour",
            weight="default_energy_weight",
        ),
        Reward(
            name="normalized",
            path="sinergym.utils.rewards:NormalizedLinearReward",
            takes={
                **_SEASONS,
                "energy_weight": _weight,
                "max_energy_penalty": _positive,
                "max_comfort_penalty": _positive,
            },
            needs=_TEMPERATURES,
        ),
        Reward(
            name="multizone",
            path="sinergym.utils.rewards:MultiZoneReward",
            takes={
                "energy_variables": _names,
                "temperature_and_setpoints_conf": _setpoints,
                "comfort_threshold": _number,
                "energy_weight": _weight,
                **_LAMBDAS,
            },
            needs="a temperature and a setpoint that are observed in each zone",
            required=("temperature_and_setpoints_conf",),
        ),
    )
}
"""Every reward, by name."""
