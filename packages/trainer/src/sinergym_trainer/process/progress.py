"""The file in which a program tells the runner how far it is (`docs/contract.md`, section 5)."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class ProgressFile:
    """The file `SINERGYM_PROGRESS`, replaced as a whole, at most once a second unless forced.

    Args:
        path: the file, or None to write nothing.
        constant: members that do not change.
    """

    def __init__(self, path: Path | None, constant: Mapping[str, object]) -> None:
        self._path = path
        self._constant = dict(constant)
        self._next = 0.0

    def write(self, members: Callable[[], Mapping[str, object]], *, force: bool = False) -> None:
        """Replace the file with the constant members and these, if it is time to."""
        now = time.monotonic()
        if self._path is None or (now < self._next and not force):
            return
        self._next = now + 1.0
        temporary = self._path.with_name(self._path.name + ".tmp")
        # A progress file that cannot be written is no reason to end a training.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({**self._constant, **members()}), encoding="utf-8")
            temporary.replace(self._path)
