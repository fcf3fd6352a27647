"""Google's filter language (https://cloud.google.com/monitoring/api/v3/filters).

    metric.type = "custom.googleapis.com/x" AND resource.type = "global"
    AND metric.labels.status = one_of("failed", "lost") AND NOT metric.label.kind = "memory"

Comparisons are put together by AND (which can be left out), OR and NOT (or ``-``); NOT binds
tightest, then OR, then AND, as in Google's other filters (https://google.aip.dev/160); parentheses
make it plain.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from gcp_emulator.iam.errors import invalid_argument

__all__ = ["And", "Comparison", "Field", "Filter", "Not", "Or", "comparisons", "matches", "parse"]

type Field = Callable[[str], str | None]
"""The value of a field, named as in ``metric.label.status``; None when there is none."""
type Filter = "Comparison | And | Or | Not"

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<operator>!=|<=|>=|=~|!~|=|<|>|:)
      | (?P<mark>[(),])
      | (?P<minus>-(?=[\sA-Za-z(]))
      | (?P<word>[A-Za-z0-9_.\-/*+%]+(?:(?<=\.)"(?:[^"\\]|\\.)*")?)
    )""",
    re.VERBOSE,
)
_FUNCTIONS: Final = (
    "starts_with",
    "ends_with",
    "has_substring",
    "one_of",
    "monitoring.regex.full_match",
)
_DEEPEST: Final = 64


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field held against values: by an operator, or by a function."""

    field: str
    operator: str
    """``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``:`` (has)."""
    values: tuple[str, ...]
    function: str = ""


@dataclass(frozen=True, slots=True)
class And:
    """All of them."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them, at the least."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary."""

    part: Filter


def parse(text: str, *, field: str = "filter") -> Filter | None:
    """What a filter says; None for an empty one, which everything matches.

    Args:
        text: It.
        field: Where it stands in the request, for the message.

    Raises:
        GoogleError: 400: it can't be understood.
    """
    parser = _Parser(text, field)
    return parser.whole() if parser.tokens else None


def matches(filter: Filter | None, field: Field) -> bool:
    """Whether something with these fields matches."""
    match filter:
        case None:
            return True
        case And(parts):
            return all(matches(part, field) for part in parts)
        case Or(parts):
            return any(matches(part, field) for part in parts)
        case Not(part):
            return not matches(part, field)
        case Comparison():
            return _holds(filter, field(filter.field))


def comparisons(filter: Filter | None, *, sure: bool = False) -> Iterator[Comparison]:
    """All comparisons in a filter.

    Args:
        filter: It.
        sure: Only those that hold whenever the filter matches: under no OR and no NOT.
    """
    match filter:
        case And(parts):
            for part in parts:
                yield from comparisons(part, sure=sure)
        case Or(parts) if not sure:
            for part in parts:
                yield from comparisons(part)
        case Not(part) if not sure:
            yield from comparisons(part)
        case Comparison():
            yield filter
        case _:
            return


def _holds(comparison: Comparison, value: str | None) -> bool:
    if comparison.operator == "!=":
        return value is None or not _equals(comparison, value)
    if value is None:
        return False
    wanted = comparison.values[0] if comparison.values else ""
    match comparison.operator:
        case "=":
            return _equals(comparison, value)
        case ":":
            return wanted == "*" or wanted.lower() in value.lower()
        case operator:
            return _is_ordered(value, operator, wanted)


def _equals(comparison: Comparison, value: str) -> bool:
    values = comparison.values
    match comparison.function:
        case "":
            return value == values[0]
        case "one_of":
            return value in values
        case "starts_with":
            return value.startswith(values[0])
        case "ends_with":
            return value.endswith(values[0])
        case "has_substring":
            return values[0] in value
        case _:
            return re.fullmatch(values[0], value) is not None


def _is_ordered(value: str, operator: str, wanted: str) -> bool:
    try:
        left, right = float(value), float(wanted)
    except ValueError:
        return _is_between((value > wanted) - (value < wanted), operator)
    return _is_between((left > right) - (left < right), operator)


def _is_between(sign: int, operator: str) -> bool:
    return {"<": sign < 0, "<=": sign <= 0, ">": sign > 0, ">=": sign >= 0}[operator]


class _Parser:
    """Recursive descent; a token is its kind and its text."""

    def __init__(self, text: str, field: str) -> None:
        self._text = text
        self._field = field
        self._at = 0
        self._depth = 0
        self.tokens = list(self._split())

    def whole(self) -> Filter:
        found = self._and()
        if self._at < len(self.tokens):
            self._refuse(f"unexpected {self.tokens[self._at][1]}")
        return found

    def _and(self) -> Filter:
        parts = [self._or()]
        while self._at < len(self.tokens) and self._peek() != ("mark", ")"):
            self._take_word("AND")
            parts.append(self._or())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _or(self) -> Filter:
        parts = [self._not()]
        while self._take_word("OR"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _not(self) -> Filter:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse("too deeply nested")
        try:
            if self._take_word("NOT") or self._take("minus"):
                return Not(self._not())
            if self._take("mark", "("):
                found = self._and()
                if not self._take("mark", ")"):
                    self._refuse("a closing parenthesis is missing")
                return found
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Filter:
        kind, field = self._next("a comparison")
        if kind != "word" or field in ("AND", "OR", "NOT"):
            self._refuse(f"unexpected {field}")
        _, operator = self._next(f"an operator after {field}")
        if operator not in ("=", "!=", "<", "<=", ">", ">=", ":"):
            self._refuse(f"{field} must be followed by an operator, not by {operator}")
        kind, value = self._next(f"a value for {field}")
        name = _plain(field)
        if kind == "word" and self._take("mark", "("):
            if value not in _FUNCTIONS or operator not in ("=", "!="):
                self._refuse(f"unknown function {value}")
            return Comparison(name, operator, self._arguments(value), value)
        if kind not in ("word", "string"):
            self._refuse(f"unexpected {value}")
        return Comparison(name, operator, (_unquoted(value),))

    def _arguments(self, function: str) -> tuple[str, ...]:
        found: list[str] = []
        while True:
            kind, value = self._next(f"an argument of {function}")
            if kind not in ("word", "string"):
                self._refuse(f"unexpected {value}")
            found.append(_unquoted(value))
            if self._take("mark", ")"):
                break
            if not self._take("mark", ","):
                self._refuse(f"a comma or a parenthesis is missing in {function}")
        if function != "one_of" and len(found) != 1:
            self._refuse(f"{function} takes one argument")
        if function == "monitoring.regex.full_match":
            try:
                re.compile(found[0])
            except re.error as error:
                self._refuse(f"bad regular expression: {error}")
        return tuple(found)

    def _split(self) -> Iterator[tuple[str, str]]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            found = _TOKEN.match(self._text, at)
            if found is None or found.lastgroup is None:
                self._refuse(f"can't be read from character {at + 1} on")
            yield found.lastgroup, found[found.lastgroup]
            at = found.end()

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self._at] if self._at < len(self.tokens) else ("", "")

    def _next(self, wanted: str) -> tuple[str, str]:
        if self._at >= len(self.tokens):
            self._refuse(f"{wanted} is missing at the end")
        self._at += 1
        return self.tokens[self._at - 1]

    def _take(self, kind: str, text: str | None = None) -> bool:
        found = self._peek()
        if found[0] != kind or (text is not None and found[1] != text):
            return False
        self._at += 1
        return True

    def _take_word(self, word: str) -> bool:
        return self._take("word", word)

    def _refuse(self, why: str) -> NoReturn:
        shown = self._text if len(self._text) <= 300 else self._text[:300] + "..."
        raise invalid_argument(
            f'Field {self._field} had an invalid value of "{shown}": Could not parse filter: {why}'
        )


def _plain(field: str) -> str:
    """A field's name with ``label`` for ``labels``, and a quoted key without quotes."""
    field = re.sub(r'\.("(?:[^"\\]|\\.)*")$', lambda m: "." + _unquoted(m[1]), field)
    return re.sub(r"^(metric|resource|metadata)\.labels\.", r"\1.label.", field)


def _unquoted(text: str) -> str:
    if text[0] not in "\"'":
        return text
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
