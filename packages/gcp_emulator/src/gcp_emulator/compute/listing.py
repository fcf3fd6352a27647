"""What Compute Engine's list methods share: `filter`, `maxResults` and `pageToken`.

Understood of the filter language (https://cloud.google.com/compute/docs/reference/rest/v1/instances/list,
query parameter ``filter``): comparisons ``name=x``, ``name!=x``, ``labels.k:x``, the older
``name eq REGEX`` and ``name ne REGEX``, joined by ``AND`` or written as ``(a=b) (c=d)``. Anything
else is refused: a filter that is ignored would answer with more than was asked for.
"""

import base64
import re
from collections.abc import Callable, Iterable

from aiohttp import web

from gcp_emulator.replies import GoogleError, Json

type Keep = Callable[[Json], bool]

_TERM = re.compile(
    r"""\s*(?P<field>[A-Za-z][\w.\-]*)\s*(?P<sign>!=|=|:|\beq\b|\bne\b)\s*
        (?P<value>"[^"]*"|'[^']*'|[^\s()"']+)\s*""",
    re.VERBOSE,
)
_MOST = 500


def parse_filter(text: str) -> Keep:
    """A predicate on resources for the value of the query parameter ``filter``.

    Raises:
        GoogleError: 400 ``invalid`` for an expression that is not understood.
    """
    rest = text.strip()
    tests: list[Keep] = []
    while rest:
        term = re.match(r"\(([^()]*)\)\s*", rest)
        found = _TERM.fullmatch(term[1]) if term else _TERM.match(rest)
        if found is None:
            raise _invalid_filter(text)
        tests.append(_test(found["field"], found["sign"], found["value"].strip("\"'")))
        rest = rest[(term or found).end() :]
        rest = re.sub(r"^AND\b\s*", "", rest)
    return lambda resource: all(test(resource) for test in tests)


def page(
    request: web.Request, resources: Iterable[Json], *, key: str = "name"
) -> tuple[list[Json], str | None]:
    """The page of `resources` that a list request asks for, and the token of the next one.

    Args:
        request: Its query has ``filter``, ``maxResults`` and ``pageToken``, or none of them.
        resources: All of them, in the order of `key`.
        key: The member whose value a page ends with.
    """
    keep = parse_filter(request.query.get("filter", ""))
    found = [resource for resource in resources if keep(resource)]
    most = max_results(request)
    after = _decode(request.query.get("pageToken", ""))
    if after:
        found = [resource for resource in found if resource[key] > after]
    if len(found) <= most:
        return found, None
    found = found[:most]
    return found, base64.urlsafe_b64encode(str(found[-1][key]).encode()).decode()


def max_results(request: web.Request) -> int:
    """How many resources a page holds at most, as asked for."""
    text = request.query.get("maxResults", str(_MOST))
    if not text.isdecimal() or int(text) > _MOST:
        raise GoogleError(
            400,
            "invalid",
            f"Invalid value for field 'maxResults': '{text}'."
            f" Values must be within the range: [0, {_MOST}]",
        )
    return int(text) or _MOST


def _test(field: str, sign: str, value: str) -> Keep:
    def compare(resource: Json) -> bool:
        actual = _text(_look_up(resource, field))
        match sign:
            case "=":
                return actual == value
            case "!=":
                return actual != value
            case ":":
                return actual is not None and (value == "*" or value.lower() in actual.lower())
            case "eq":
                return actual is not None and re.fullmatch(value, actual) is not None
            case _:
                return actual is None or re.fullmatch(value, actual) is None

    if sign in ("eq", "ne"):
        try:
            re.compile(value)
        except re.error as error:
            raise _invalid_filter(f"{field} {sign} {value}") from error
    return compare


def _look_up(resource: Json, field: str) -> object:
    first, _, rest = field.partition(".")
    value = resource.get(first)
    if not rest:
        return value
    return _look_up(value, rest) if isinstance(value, dict) else None


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise GoogleError(
            400, "invalid", f"Invalid value for field 'pageToken': '{token}'."
        ) from error


def _invalid_filter(text: str) -> GoogleError:
    return GoogleError(
        400,
        "invalid",
        f"Invalid value for field 'filter': '{text}'. Invalid list filter expression.",
    )
