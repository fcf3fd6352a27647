"""The values that options can have beside words and numbers: run periods, and settings in YAML."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Self

import yaml

from sinergym_trainer.errors import InvalidOptions

DEFAULT_YEAR = 1991
"""The year of a run period that names none: Sinergym's own (not a leap year)."""

_PERIOD = re.compile(r"(\d+)/(\d+)(?:/(\d+))?-(\d+)/(\d+)(?:/(\d+))?")
_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)|[-+]?(\d+\.\d*|\.\d+)")


@dataclass(frozen=True, slots=True)
class RunPeriod:
    """The days that one episode simulates, first and last day included."""

    first: date
    last: date

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `D,M,Y,D,M,Y` (Sinergym's order) or `D/M[/Y]-D/M[/Y]`.

        Raises:
            InvalidOptions: the text has another form, or names no real days in order.
        """
        text = text.strip()
        if match := _PERIOD.fullmatch(text):
            day, month, year, last_day, last_month, last_year = match.groups()
            year = year or last_year or str(DEFAULT_YEAR)
            numbers = [day, month, year, last_day, last_month, last_year or year]
        else:
            numbers = [number.strip() for number in text.strip("()").split(",")]
        if len(numbers) != 6 or not all(number.isdecimal() for number in numbers):
            raise InvalidOptions(
                f"--run_period {text!r} is not a run period: write day,month,year,day,month,year"
                " (1,1,1991,7,1,1991) or 1/1-7/1"
            )
        day_1, month_1, year_1, day_2, month_2, year_2 = map(int, numbers)
        try:
            period = cls(date(year_1, month_1, day_1), date(year_2, month_2, day_2))
        except (ValueError, OverflowError) as error:
            raise InvalidOptions(f"--run_period {text!r}: {error}; days come first") from None
        if period.last < period.first:
            raise InvalidOptions(
                f"--run_period {text!r} ends before it begins; a period over New Year needs years"
            )
        return period

    def as_tuple(self) -> tuple[int, int, int, int, int, int]:
        """The six numbers that Sinergym's `building_config` takes."""
        first, last = self.first, self.last
        return (first.day, first.month, first.year, last.day, last.month, last.year)

    def __str__(self) -> str:
        return ",".join(map(str, self.as_tuple()))


class Settings(Mapping[str, Any]):
    """A mapping of settings, such as a reward's parameters: it cannot be changed, and is hashable.

    What it gives out are copies, as plain dictionaries, lists, strings and numbers (`dict` of it
    has nothing of ours). `str` of it is YAML, which `parse` reads.

    Raises:
        ValueError: a value is not plain.
    """

    __slots__ = ("_text",)

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._text = write_yaml(given or {}, flow=True).strip()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a mapping in YAML; JSON is YAML, and so is `net_arch: [64, 64]`.

        Raises:
            ValueError: the text is not YAML, or not a mapping with names as keys.
        """
        value = read_yaml(text)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError("is not a mapping such as {name: value}")
        return cls(value)

    def __getitem__(self, name: str) -> Any:
        return self._plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain())

    def __len__(self) -> int:
        return len(self._plain())

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __repr__(self) -> str:
        return f"Settings({self._plain()!r})"

    def __str__(self) -> str:
        return self._text

    def _plain(self) -> dict[str, Any]:
        value: dict[str, Any] = read_yaml(self._text)
        return value


def read_yaml(text: str) -> Any:
    """Read plain values in YAML, with numbers such as 1e-4, which YAML 1.1 takes for a word.

    Raises:
        ValueError: it is not YAML, or has other things than plain values.
    """
    try:
        return yaml.load(text, Loader)  # noqa: S506 # a SafeLoader
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ValueError(f"is not YAML: {problem}") from None


def write_yaml(value: Mapping[str, Any], *, flow: bool = False) -> str:
    """Write plain values as YAML, in lines or in one (`flow`); `read_yaml` reads the same again.

    Raises:
        ValueError: a value is not plain.
    """
    try:
        text = yaml.dump(
            dict(value),
            Dumper=_Dumper,
            default_flow_style=flow,
            sort_keys=False,
            width=math.inf,
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error.args[0]).split()).lower()) from None
    return str(text)


class Loader(yaml.SafeLoader):
    """YAML's plain types, with the floats of YAML 1.2; dates stay words."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make what a node says, if it is plain."""
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        if tag == "timestamp":
            return node.value
        if tag not in {"map", "seq", "str", "int", "float", "bool", "null", "merge"}:
            raise yaml.constructor.ConstructorError(problem=f"{tag} is not a plain value")
        return super().construct_object(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the words that `Loader` would read as numbers, and writes without anchors."""

    def ignore_aliases(self, _value: Any) -> bool:
        """Write what comes twice twice."""
        return True


for _side in (Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
