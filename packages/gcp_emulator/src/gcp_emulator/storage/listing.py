"""Listing a bucket: prefixes, offsets, globs, pages."""

import bisect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gcp_emulator.replies import GoogleError
from gcp_emulator.storage.objects import Bucket, StoredObject

_HIGHEST = "\U0010ffff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a listing asks for (https://cloud.google.com/storage/docs/json_api/v1/objects/list)."""

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str = ""
    glob: str = ""
    trailing: bool = False
    after: tuple[str, bool] | None = None
    """The last entry of the page before: an object's name, or a prefix (true)."""
    limit: int = 1000
    versions: bool = False
    """Also those that are not live; all of one object come on one page."""

    def page(
        self, bucket: Bucket
    ) -> tuple[list[StoredObject], list[str], tuple[str, bool] | None]:
        """Objects, prefixes, and the last entry of them both if more follow."""
        items: list[StoredObject] = []
        prefixes: list[str] = []
        last = None
        names = bucket.names
        if self.versions:
            names = sorted({*names, *bucket.versions.names})
        for name, is_prefix in self._entries(names):
            if len(items) + len(prefixes) >= self.limit:
                return items, prefixes, last
            if is_prefix:
                prefixes.append(name)
                if self.trailing and name in bucket.objects:
                    items.append(bucket.objects[name])
            elif self.versions:
                items += bucket.all_versions(name)
            else:
                items.append(bucket.objects[name])
            last = (name, is_prefix)
        return items, prefixes, None

    def _entries(self, names: list[str]) -> Iterator[tuple[str, bool]]:
        """Names, and prefixes once, in order; whole folders are stepped over."""
        matches = glob_matcher(self.glob) if self.glob else None
        at = bisect.bisect_left(names, max(self.prefix, self.start))
        if self.after is not None:
            last, is_prefix = self.after
            past = last + _HIGHEST if is_prefix else last + "\0"
            at = max(at, bisect.bisect_left(names, past))
        while at < len(names):
            name = names[at]
            if not name.startswith(self.prefix) or (self.end and name >= self.end):
                return
            cut = name.find(self.delimiter, len(self.prefix)) if self.delimiter else -1
            if matches is not None and not matches(name):
                at += 1
            elif cut >= 0:
                folder = name[: cut + len(self.delimiter)]
                yield folder, True
                at = bisect.bisect_left(names, folder + _HIGHEST, at)
            else:
                yield name, False
                at += 1


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """What ``matchGlob`` means: ``*`` and ``?`` stop at ``/``, ``**`` does not.

    Also ``[abc]``, ``[!abc]``, ``{one,two}`` and a backslash before what is meant literally.
    https://cloud.google.com/storage/docs/json_api/v1/objects/list#list-object-glob

    Raises:
        GoogleError: 400 for brackets or braces that don't close.
    """
    depth = 0

    def translate(match: re.Match[str]) -> str:
        nonlocal depth
        piece = match[0]
        if piece in _PARTS:
            return _PARTS[piece]
        if piece[0] == "[" and len(piece) > 1:
            inner = piece[1:-1]
            negated = inner[:1] in ("!", "^")
            safe = re.sub(r"([\\\]\[^&~|])", r"\\\1", inner[1:] if negated else inner)
            return f"[{'^' if negated else ''}{safe}]"
        if piece == "{":
            depth += 1
            return "(?:"
        if piece == "}" and depth:
            depth -= 1
            return ")"
        if piece == "," and depth:
            return "|"
        if piece == "[":
            raise GoogleError(400, "invalid", f"Invalid glob: {pattern}")
        return re.escape(piece[-1])

    translated = _TOKEN.sub(translate, pattern)
    try:
        compiled = re.compile(translated, re.DOTALL)
    except re.error as error:
        raise GoogleError(400, "invalid", f"Invalid glob: {pattern}") from error
    return lambda name: compiled.fullmatch(name) is not None


_PARTS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_TOKEN = re.compile(r"\*\*|\[[^\]][^\]]*\]|\\.|.", re.DOTALL)
