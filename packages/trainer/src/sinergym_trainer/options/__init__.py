"""What was asked for: every flag of the commands, a configuration file, environment variables.

`flags` declares each option once; it needs the library of the command line, which a worker process
does not, so it is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from sinergym_trainer.options.values import RunPeriod, Settings

if TYPE_CHECKING:
    from sinergym_trainer.options.flags import (
        BASELINES,
        HYPERPARAMETERS,
        MAPPINGS,
        EvalOptions,
        Options,
    )

__all__ = [
    "BASELINES",
    "HYPERPARAMETERS",
    "MAPPINGS",
    "EvalOptions",
    "Options",
    "RunPeriod",
    "Settings",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sinergym_trainer.options import flags

        return getattr(flags, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
