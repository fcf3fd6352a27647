"""Baselines for `sinergym-eval`: Sinergym's own controllers, random and rule-based.

They act on the environment's own actions: neither normalization nor stacked observations are
theirs. Sinergym 3.12 (`sinergym.utils.controllers`) has three rules, and these ids fit them:

===========================  ===================================================================
`RBC5Zone`                   Eplus-demo-v1 and 5zone with continuous actions: heating 20 °C and
                             cooling 23.5 °C, from June 1 to September 30 23 °C and 26 °C (ASHRAE
                             55-2004)
`RBCIncrementalDatacenter`   datacenter_dx with continuous actions: the cooling setpoint goes down
                             by 1 °C when the zones' mean is above 27 °C, up when below 18 °C
                             (ASHRAE TC9.9)
`RBCDatacenter`              none: it gives a heating and a cooling setpoint, and today's
                             datacenters have no heating setpoint
===========================  ===================================================================

A rule's setpoints are kept within the environment's action space: the demo's highest heating
setpoint is 22.5 °C, and a datacenter's cooling setpoints are from 20 to 30 °C. Discrete actions
offer too few of the rules' setpoints; the same building with continuous actions gives rewards that
compare. No other building has a rule: a constant setpoint of our choice would be no baseline that
anyone else knows.
"""

from typing import Any

from sinergym_trainer.environments.catalogue import ENVIRONMENTS, with_actions
from sinergym_trainer.errors import InvalidOptions

RANDOM, RULE_BASED = "random", "rule-based"

_RULES = {
    "demo": "RBC5Zone",
    "5zone": "RBC5Zone",
    "datacenter_dx": "RBCIncrementalDatacenter",
}
"""Classes of `sinergym.utils.controllers`, by building."""


class RandomAgent:
    """Sinergym's `RandomController`: each action is drawn from the whole action space.

    Args:
        env: what it acts in.
        seed: of its actions; they go on from one episode to the next.
    """

    def __init__(self, env: Any, seed: int) -> None:
        from sinergym.utils.controllers import RandomController

        env.action_space.seed(seed)
        self._controller = RandomController(env)

    def begin(self) -> None:
        """Nothing to forget."""

    def act(self, _observation: Any) -> Any:
        """Draw an action."""
        return self._controller.act()


class RuleAgent:
    """One of Sinergym's rules, within the bounds of the environment's actions.

    Args:
        env: what it acts in; its observations and actions as the building has them.
        environment: its id, one of `ruled()`.
    """

    def __init__(self, env: Any, environment: str) -> None:
        import numpy as np
        from sinergym.utils import controllers

        self._clip = np.clip
        self._space = env.action_space
        self._controller = getattr(controllers, _RULES[_building(environment)])(env)

    def begin(self) -> None:
        """Nothing to forget."""

    def act(self, observation: Any) -> Any:
        """Return the rule's setpoints for an observation."""
        setpoints = self._controller.act(observation)
        return self._clip(setpoints, self._space.low, self._space.high).astype(self._space.dtype)


def ruled() -> tuple[str, ...]:
    """All ids that a rule of Sinergym fits."""
    return tuple(name for name in ENVIRONMENTS if _has_rule(name))


def check_rule(environment: str) -> None:
    """Refuse an environment without a rule.

    Raises:
        InvalidOptions: naming the same building with continuous actions, or the ids with a rule.
    """
    if _has_rule(environment):
        return
    twin = with_actions(environment, frozenset(("continuous",)))
    if twin and _has_rule(twin):
        raise InvalidOptions(
            f"--model {RULE_BASED}: the rule of Sinergym sets temperatures, and the actions of"
            f" {environment} are discrete: take {twin}"
        )
    listed = ", ".join(name for name in ruled() if "-stochastic" not in name)
    raise InvalidOptions(
        f"--model {RULE_BASED}: Sinergym has no rule for {environment}; it has one for {listed},"
        " and for these with -stochastic"
    )


def _has_rule(environment: str) -> bool:
    return _building(environment) in _RULES and "-discrete" not in environment


def _building(environment: str) -> str:
    return environment.split("-")[1]
