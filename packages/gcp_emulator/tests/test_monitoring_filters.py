"""Google's filter language."""

import contextlib
import string
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as some

from gcp_emulator.monitoring.filters import (
    And,
    Comparison,
    Filter,
    Not,
    Or,
    comparisons,
    matches,
    parse,
)
from gcp_emulator.replies import GoogleError

SERIES = {
    "metric.type": "custom.googleapis.com/x",
    "resource.type": "global",
    "metric.label.status": "failed",
    "metric.label.count": "12",
}


@pytest.mark.parametrize(
    ("text", "is_match"),
    [
        ("", True),
        ('metric.type="custom.googleapis.com/x"', True),
        ('metric.type = "custom.googleapis.com/x" AND resource.type = "global"', True),
        ('metric.type = "custom.googleapis.com/x" resource.type = "other"', False),
        ('metric.labels.status = "failed"', True),
        ('metric.label."status" = failed', True),
        ("metric.label.status = 'failed'", True),
        ('metric.label.status = one_of("failed", "lost")', True),
        ('metric.label.status != one_of("failed", "lost")', False),
        ('metric.label.status != "finished"', True),
        ('metric.label.other != "finished"', True),
        ('metric.label.other = "finished"', False),
        ('NOT metric.label.status = "failed"', False),
        ('-metric.label.status = "failed"', False),
        ('metric.type = starts_with("custom.")', True),
        ('metric.type = ends_with("/y")', False),
        ('metric.type = has_substring("google")', True),
        ('metric.type = monitoring.regex.full_match("custom.*x")', True),
        ('metric.type : "GOOGLE"', True),
        ("metric.label.count > 9", True),
        ('metric.label.count <= "2"', False),
        # OR binds tighter than AND.
        ('resource.type="other" AND resource.type="global" OR metric.label.count=12', False),
        ('(resource.type="other" AND resource.type="global") OR metric.label.count=12', True),
    ],
)
def test_filters_select_what_google_says(text: str, is_match: bool) -> None:
    """Operators, functions, both spellings of labels, and the order of precedence."""
    assert matches(parse(text), SERIES.get) is is_match


@pytest.mark.parametrize(
    "text",
    [
        "metric.type",
        "metric.type =",
        'metric.type = "x" AND',
        'metric.type = "x" OR OR metric.type = "y"',
        '(metric.type = "x"',
        'metric.type = "x")',
        'metric.type = "x',
        'metric.type = one_of("x"',
        'metric.type = unknown("x")',
        'metric.type > starts_with("x")',
        'metric.type = monitoring.regex.full_match("(")',
        'AND metric.type = "x"',
        '= "x"',
        "metric.type ~ x",
        "(" * 500 + 'a="b"' + ")" * 500,
    ],
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    """400, and the field is named."""
    with pytest.raises(GoogleError, match="Field filter had an invalid value") as caught:
        parse(text)
    assert caught.value.code == 400


@hypothesis.given(some.text(alphabet="ab.\"()=!<>:,-ANDORT \\'", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Nothing else comes of it."""
    with contextlib.suppress(GoogleError):
        parse(text)


FIELDS = some.sampled_from(["metric.type", "metric.label.a", "resource.label.b", "project"])
VALUES = some.text(alphabet=string.printable + "äß", max_size=8)
PLAIN = some.builds(
    Comparison, FIELDS, some.sampled_from(["=", "!=", "<", ">=", ":"]), VALUES.map(lambda v: (v,))
)
ONE_OF = some.builds(
    lambda field, operator, values: Comparison(field, operator, tuple(values), "one_of"),
    FIELDS,
    some.sampled_from(["=", "!="]),
    some.lists(VALUES, min_size=1, max_size=3),
)
FILTERS: Any = some.recursive(
    PLAIN | ONE_OF,
    lambda inner: (
        some.builds(Not, inner)
        | some.builds(lambda p: And(tuple(p)), some.lists(inner, min_size=2, max_size=3))
        | some.builds(lambda p: Or(tuple(p)), some.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=8,
)


def written(filter: Filter) -> str:
    """A filter as text, with all parentheses."""
    match filter:
        case And(parts):
            return "(" + " AND ".join(map(written, parts)) + ")"
        case Or(parts):
            return "(" + " OR ".join(map(written, parts)) + ")"
        case Not(part):
            return f"NOT {written(part)}"
        case Comparison(field, operator, values, function):
            shown = [
                '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values
            ]
            value = f"{function}({', '.join(shown)})" if function else shown[0]
            return f"{field} {operator} {value}"


@hypothesis.given(FILTERS)
def test_what_is_written_is_read(filter: Filter) -> None:
    """Any filter comes back, and names its comparisons."""
    assert parse(written(filter)) == filter
    sure, everything = list(comparisons(filter, sure=True)), list(comparisons(filter))
    assert all(one in everything for one in sure)


@hypothesis.given(FILTERS, some.dictionaries(FIELDS, VALUES))
def test_not_is_the_contrary(filter: Filter, fields: dict[str, str]) -> None:
    """Of whatever it stands before."""
    assert matches(Not(filter), fields.get) is not matches(filter, fields.get)
    sure = list(comparisons(filter, sure=True))
    if matches(filter, fields.get):
        assert all(matches(one, fields.get) for one in sure)
