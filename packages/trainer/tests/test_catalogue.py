"""The catalogue: ids of today and before, and what it says of them."""

from pathlib import Path
from typing import Any

import pytest

from sinergym_trainer.environments import closing
from sinergym_trainer.environments.catalogue import ENVIRONMENTS, fitting, resolve, with_actions
from sinergym_trainer.errors import InvalidOptions

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"


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


@pytest.mark.parametrize(
    ("actions", "some", "count"),
    [
        (frozenset({"discrete"}), "Eplus-5zone-hot-discrete-v1", 46),
        (frozenset({"multidiscrete"}), "Eplus-radiant-hot-discrete-v1", 8),
        (frozenset({"continuous"}), "Eplus-demo-v1", 55),
        (frozenset({"continuous", "discrete", "multidiscrete"}), "Eplus-demo-v1", 109),
    ],
)
def test_ids_that_fit_some_actions(actions: frozenset[Any], some: str, count: int) -> None:
    """All of them, and no other."""
    found = fitting(actions)

    assert some in found
    assert len(found) == count
    assert {resolve(name).actions for name in found} == actions


@pytest.mark.slow
def test_the_table_is_that_of_sinergym(tmp_path: Path) -> None:
    """Each of the 109 ids can be made, with the actions and the length that the table says."""
    from sinergym_trainer.environments import energyplus

    energyplus.find_energyplus()
    import gymnasium as gym
    import sinergym
    from sinergym.config import modeling

    energyplus.quieten()
    assert sorted(ENVIRONMENTS) == sorted(sinergym.ids())
    assert len(ENVIRONMENTS) == 109
    before, modeling.CWD = modeling.CWD, str(tmp_path)
    try:
        for name in ENVIRONMENTS:
            with closing(gym.make(name)) as env:
                kind = type(env.action_space).__name__.lower().replace("box", "continuous")
                found = resolve(name)
                assert (found.id, found.actions) == (name, kind)
                assert found.steps == env.get_wrapper_attr("timestep_per_episode")
    finally:
        modeling.CWD = before
