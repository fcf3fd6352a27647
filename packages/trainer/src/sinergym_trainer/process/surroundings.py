"""What this process finds around it: versions, threads, and the folder for its results."""

import contextlib
import importlib.metadata
import os
from pathlib import Path

from sinergym_trainer.errors import OutputUnusable

DEFAULT_BUCKET = "experiments-storage"
"""Where results go when nobody says where: the name that Sinergym's own documents use."""

_PACKAGES = (
    *("sinergym-trainer", "sinergym", "stable-baselines3", "sb3-contrib", "torch", "gymnasium"),
    "pyenergyplus-lbnl",
)


def versions() -> dict[str, str]:
    """The versions that a result depends on, by package."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def default_threads() -> int:
    """PyTorch's threads when nobody says how many: OMP_NUM_THREADS, else 1."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdecimal() and int(given) > 0 else 1


def make_output_folder(name: str) -> Path:
    """Make `$SINERGYM_OUTPUT`, or a new folder in the working directory with the run's name.

    A new one gets a number behind its name when that is taken.

    Raises:
        OutputUnusable: it cannot be made.
    """
    given = os.environ.get("SINERGYM_OUTPUT")
    wanted = Path(given) if given else Path.cwd() / name
    try:
        if given:
            wanted.mkdir(parents=True, exist_ok=True)
            return wanted.absolute()
        return _make_new(wanted)
    except OSError as error:
        advice = "" if given else "; SINERGYM_OUTPUT names another folder"
        raise OutputUnusable(
            f"the output folder cannot be made: {error.strerror}: {wanted}{advice}"
        ) from error


def _make_new(wanted: Path) -> Path:
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
