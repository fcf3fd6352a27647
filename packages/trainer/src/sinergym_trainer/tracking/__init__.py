"""MLflow: a run that is written while a training goes on, at no cost to it.

A training hands its metrics over in memory and goes on; see `Tracker`. What a server that is away
has not got waits in a file of the output folder (see `spool`), and `sync` sends it later.

`MlflowWriter` extends a class of Stable-Baselines3, which takes seconds to import: it is loaded
when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from sinergym_trainer.tracking.describing import git_commit, in_force, parameters, tags
from sinergym_trainer.tracking.servers import Run, without_credentials
from sinergym_trainer.tracking.spool import KEPT, NAME, Metric
from sinergym_trainer.tracking.storing import ServedModel
from sinergym_trainer.tracking.syncing import sync
from sinergym_trainer.tracking.tracker import Tracker, metric_name

if TYPE_CHECKING:
    from sinergym_trainer.tracking.writer import MlflowWriter

__all__ = [
    "KEPT",
    "NAME",
    "Metric",
    "MlflowWriter",
    "Run",
    "ServedModel",
    "Tracker",
    "git_commit",
    "in_force",
    "metric_name",
    "parameters",
    "sync",
    "tags",
    "without_credentials",
]


def __getattr__(name: str) -> Any:
    if name == "MlflowWriter":
        from sinergym_trainer.tracking.writer import MlflowWriter

        return MlflowWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
