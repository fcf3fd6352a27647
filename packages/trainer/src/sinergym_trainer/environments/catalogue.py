"""Which environments there are: the ids of Sinergym 3.12, their actions and lengths, older ids.

The list is a table, because importing Sinergym takes seconds and a wrong id should not. With
another version of Sinergym, an id that is not in it is looked up in Sinergym itself.
"""

import difflib
import importlib.metadata
import re
from dataclasses import dataclass
from typing import Literal

from sinergym_trainer.errors import InvalidOptions

Actions = Literal["continuous", "discrete", "multidiscrete"]
"""A kind of action space: Box, Discrete or MultiDiscrete."""

DEMO = "Eplus-demo-v1"

_TABLE_VERSION = "3.12."
_DEMO_STEPS = 60 * 24
_CLIMATES = ("hot", "mixed", "cool")
_BOTH = ("continuous", "discrete")


@dataclass(frozen=True, slots=True)
class _Building:
    """What the ids of one building have in common."""

    climates: tuple[str, ...]
    kinds: tuple[str, ...]
    steps: int
    """Timesteps of one episode: its days, 24 hours, and the timesteps of an hour."""


_BUILDINGS = {
    "5zone": _Building(_CLIMATES, _BOTH, 365 * 24 * 4),
    "shop": _Building(_CLIMATES, _BOTH, 365 * 24 * 4),
    "office": _Building(_CLIMATES, _BOTH, 365 * 24 * 4),
    "warehouse": _Building(_CLIMATES, _BOTH, 365 * 24 * 4),
    "officegrid": _Building(_CLIMATES, _BOTH, 365 * 24 * 4),
    "datacenter_dx": _Building(("chicago", *_CLIMATES), _BOTH, 365 * 24 * 6),
    "datacenter_cw": _Building(("chicago", *_CLIMATES), _BOTH, 365 * 24 * 6),
    "smalldatacenter": _Building(("aurora", *_CLIMATES), ("continuous",), 365 * 24 * 6),
    "radiant": _Building((*_CLIMATES, "stockholm"), ("discrete",), 212 * 24 * 12),
}

ENVIRONMENTS: tuple[str, ...] = (
    DEMO,
    *(
        f"Eplus-{name}-{climate}-{kind}{stochastic}-v1"
        for name, building in _BUILDINGS.items()
        for climate in building.climates
        for kind in building.kinds
        for stochastic in ("", "-stochastic")
    ),
)
"""All ids of Sinergym 3.12."""

_OLD_BUILDINGS = {"5zone": "5zone", "datacenter": "datacenter_cw"}
# Sinergym 1.5 to 3.9 wrote 5Zone, and datacenter for what 3.9.6 renamed to datacenter_cw; the
# README of 1.4 and before had datacenters without a climate, all of them in Arizona ("hot").
_OLD_ID = re.compile(
    r"eplus-(?P<building>\w+?)(?:-(?P<climate>hot|mixed|cool))?-(?P<kind>continuous|discrete)(?P<stochastic>-stochastic)?-v1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An environment's id of today; `note` says so when another one was asked for."""

    id: str
    actions: Actions
    steps: int | None = None
    """Timesteps of an episode, if the run period is not changed; None when only Sinergym knows."""
    note: str = ""


def resolve(name: str) -> Environment:
    """Find today's environment for an id of today or of an older Sinergym.

    Raises:
        InvalidOptions: there is none; the message names close ones.
    """
    if name in ENVIRONMENTS:
        return Environment(id=name, actions=_actions(name), steps=_steps(name))
    if today := _today(name):
        note = f"environment {name} is {today} in Sinergym {_TABLE_VERSION[:-1]}"
        return Environment(id=today, actions=_actions(today), steps=_steps(today), note=note)
    if not importlib.metadata.version("sinergym").startswith(_TABLE_VERSION):
        import sinergym

        if name in sinergym.ids():
            return Environment(id=name, actions=_actions(name))
    if "mullion" in name.lower():
        raise InvalidOptions(
            f"environment {name!r}: Sinergym dropped the building IWMullion in 2022; the nearest"
            " is an office, such as Eplus-office-mixed-continuous-v1"
        )
    close = difflib.get_close_matches(name, ENVIRONMENTS, n=3)
    listed = f"did you mean {', '.join(close)}?" if close else f"one is {DEMO}"
    raise InvalidOptions(f"unknown environment {name!r}: {listed}")


def fitting(actions: frozenset[Actions]) -> tuple[str, ...]:
    """All ids whose actions are of one of these kinds."""
    return tuple(name for name in ENVIRONMENTS if _actions(name) in actions)


def with_actions(name: str, actions: frozenset[Actions]) -> str | None:
    """The same building and climate with actions of another kind, or None."""
    swapped = name.replace("-continuous", "-discrete")
    if swapped == name:
        swapped = name.replace("-discrete", "-continuous")
    fits = swapped in ENVIRONMENTS and swapped != name and _actions(swapped) in actions
    return swapped if fits else None


def _actions(name: str) -> Actions:
    if "-discrete" not in name:
        return "continuous"
    return "multidiscrete" if name.startswith("Eplus-radiant-") else "discrete"


def _steps(name: str) -> int:
    return _DEMO_STEPS if name == DEMO else _BUILDINGS[name.split("-")[1]].steps


def _today(name: str) -> str | None:
    match = _OLD_ID.fullmatch(name.lower())
    if not match:
        return DEMO if name.lower() == DEMO.lower() else None
    building = _OLD_BUILDINGS.get(match["building"], match["building"])
    climate = match["climate"] or ("hot" if match["building"] == "datacenter" else None)
    today = f"Eplus-{building}-{climate}-{match['kind']}{match['stochastic'] or ''}-v1"
    return today if today in ENVIRONMENTS else None
