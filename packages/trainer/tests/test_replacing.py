"""Files that are whole or not there."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sinergym_trainer.process.replacing import replacing


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """As on a disk that is nearly full: no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    """Until then readers find the one before; the unfinished one has a name nobody uploads."""
    path = tmp_path / "model.json"
    path.write_bytes(b"before")
    with replacing(path) as file:
        file.write(b"after")
        (other,) = (one.name for one in tmp_path.iterdir() if one != path)
        assert other.startswith(".")
        assert other.endswith(".tmp")
        assert path.read_bytes() == b"before"

    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """An error in the block, and a disk that takes no more."""
    path = tmp_path / "model.json"
    path.write_bytes(b"before")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write({b"half": b"half"}[b"whole"])
    with small_files(100), pytest.raises(OSError, match="File too large"), replacing(path) as file:
        file.write(b"x" * 1000)

    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
