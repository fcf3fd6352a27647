"""Noncurrent versions of objects, in buckets whose versioning is on.

https://cloud.google.com/storage/docs/object-versioning: what is replaced, or deleted without a
generation, stays under its generation until somebody deletes just that.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gcp_emulator.replies import Json


class Versions[Stored]:
    """The noncurrent versions of one bucket's objects, kept in files of their own.

    Args:
        folder: Where they are; made when there is one.
        generation_of: Of a version.
    """

    def __init__(self, folder: Path, generation_of: Callable[[Stored], int]) -> None:
        self._folder = folder
        self._generation_of = generation_of
        self._kept: dict[str, list[Stored]] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._kept)

    @property
    def names(self) -> Iterator[str]:
        """Of the objects that have some."""
        return iter(self._kept)

    def of(self, name: str) -> tuple[Stored, ...]:
        """Those of an object, the oldest first."""
        return tuple(self._kept.get(name, ()))

    def find(self, name: str, generation: int) -> Stored | None:
        """The one of this generation."""
        return next((v for v in self.of(name) if self._generation_of(v) == generation), None)

    def keep(self, name: str, stored: Stored, entry: Json) -> None:
        """Take one in; `entry` is what is written of it."""
        self._folder.mkdir(exist_ok=True)
        path = self._path(stored)
        path.write_text(json.dumps(entry), encoding="utf-8")
        self._take(name, stored)

    def drop(self, name: str, stored: Stored) -> None:
        """Delete one for good."""
        kept = self._kept[name]
        kept.remove(stored)
        if not kept:
            del self._kept[name]
        self._path(stored).unlink(missing_ok=True)

    def load(self, make: Callable[[dict[str, Any]], tuple[str, Stored]]) -> Iterator[Stored]:
        """Read what an earlier process has kept; each one is told."""
        for path in sorted(self._folder.glob("*.json")):
            name, stored = make(json.loads(path.read_text(encoding="utf-8")))
            self._take(name, stored)
            yield stored

    def _take(self, name: str, stored: Stored) -> None:
        kept = self._kept.setdefault(name, [])
        kept.append(stored)
        kept.sort(key=self._generation_of)

    def _path(self, stored: Stored) -> Path:
        return self._folder / f"{self._generation_of(stored)}.json"
