"""Files that are whole or not there, whoever reads them and whatever ends this process."""

import contextlib
import os
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A file to write, which takes the place of `path` when all of it is on the disk.

    Until then it has a name that is never uploaded (`docs/contract.md`, section 2). When the
    block or the disk fails, it goes, and what was at `path` before stays.

    Raises:
        OSError: the disk is full, the folder read-only.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
