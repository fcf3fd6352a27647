"""Where a sweep comes from: the commit of the working folder, and what differs from it.

Only what git tracks is looked at. An untracked file may be anything, a key for one, and a sweep's
bucket is read by more people than a working folder.
"""

import subprocess
from pathlib import Path
from typing import Final

from gcloud_ops.contract import Source

__all__ = ["LARGEST_DIFF", "state_of"]

LARGEST_DIFF: Final = 4 * 1024 * 1024
"""Bytes of a difference that is kept; a larger one is somebody's data, and is left out."""

_PATIENCE: Final = 10.0  # seconds for git: a launch does not hang on a network file system


def state_of(folder: Path) -> tuple[Source, bytes] | None:
    """The repository that the folder is in, and its difference to the commit (`git diff HEAD`).

    The difference is empty where there is none, or where it is larger than `LARGEST_DIFF`.
    `git apply` takes it as it is.

    Returns:
        None where there is no repository, no commit yet, or no git.
    """
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    branch = _git(folder, "symbolic-ref", "--quiet", "--short", "HEAD") or b""
    diff = _git(folder, "diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD")
    if diff is None:
        return None
    source = Source(
        commit=commit.decode().strip(),
        branch=branch.decode("utf-8", "replace").strip(),
        dirty=bool(diff),
    )
    return source, diff if len(diff) <= LARGEST_DIFF else b""


def _git(folder: Path, *words: str) -> bytes | None:
    """What git prints, or None when it fails. It takes no lock, and asks nobody anything."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
