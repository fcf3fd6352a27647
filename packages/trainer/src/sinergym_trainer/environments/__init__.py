"""Sinergym's environments, from an id to a vector of them that learning can rely on.

catalogue       the ids of Sinergym 3.12, old ids, close matches      rewards  and their parameters
making          EnvironmentSpec -> one environment, or a vector of several
energyplus      find it; Sinergym's simulator made safe and quick
weather         the same weathers again for the same seed
vector          several environments: one in this process, each other one (worker) in its own,
                over a channel
normalization   the running statistics of observations
"""

from sinergym_trainer.environments.making import (
    EnvironmentSpec,
    closing,
    episode_returns,
    make_environment,
    make_vector,
    steps_per_episode,
    variables,
)

__all__ = [
    "EnvironmentSpec",
    "closing",
    "episode_returns",
    "make_environment",
    "make_vector",
    "steps_per_episode",
    "variables",
]
