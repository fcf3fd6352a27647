"""Regular expressions as people type them into a live screen: none takes for ever.

They are RE2's (https://github.com/google/re2/wiki/Syntax), whose time is linear in the text's
length: Python's own can take hours for a line of a log. There is no looking ahead or behind.
"""

from collections.abc import Iterable
from typing import Protocol, cast

__all__ = ["Match", "Pattern", "compiled"]


class Match(Protocol):
    """Where it was found."""

    def span(self) -> tuple[int, int]:
        """From where to where in the text."""


class Pattern(Protocol):
    """What is looked for."""

    def search(self, text: str) -> Match | None:
        """The first place where it is found."""

    def finditer(self, text: str) -> Iterable[Match]:
        """All places, one after the other."""


def compiled(text: str) -> Pattern:
    """What is typed, as it is where it is no regular expression; in lower case it finds both."""
    import re2

    options = re2.Options()
    options.case_sensitive = text != text.lower()
    options.log_errors = False
    try:
        return cast(Pattern, re2.compile(text, options))
    except re2.error:
        return cast(Pattern, re2.compile(re2.escape(text), options))
