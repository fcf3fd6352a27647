"""The ten algorithms: what each acts on and takes, how it is built and loaded.

table            the algorithms; checks, building, loading
hyperparameters  those that are words, noises, and replacing what a model has stored
policies         what the policy's constructor takes
"""

from sinergym_trainer.algorithms.table import (
    ALGORITHMS,
    Algorithm,
    check_device,
    find_algorithm,
    identify,
    stored_values,
    whole_units,
)

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "check_device",
    "find_algorithm",
    "identify",
    "stored_values",
    "whole_units",
]
