"""What a person types to find rows: `0007`, `status:failed`, `!ppo`; and how rows are ordered.

Words are joined with "and". `column:text` looks at one column, any other word at all that is
known of a row. In the row's name its letters need only come in this order (`q12` finds
`quick-0012`); elsewhere the text must be there as it is. A word after `!` must not be found.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Order", "Query", "Term", "arrange", "parse_query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One word of a query."""

    text: str
    """Lower case."""
    column: str = ""
    is_inverse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which rows are wanted; all of them where there is no term."""

    terms: tuple[Term, ...] = ()

    def matches(self, texts: Mapping[str, str]) -> bool:
        """Whether a row is wanted; `texts` are its texts by column, "" being its name."""
        return all(_is_met(term, texts) for term in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """By which column rows are ordered; "" for as they come."""

    column: str = ""
    descending: bool = False


def parse_query(text: str, columns: Sequence[str]) -> Query:
    """Read what was typed; a column that isn't there is part of the word."""
    terms = []
    for word in text.lower().split():
        is_inverse = word.startswith("!")
        rest = word.removeprefix("!")
        name, colon, wanted = rest.partition(":")
        column = next((each for each in columns if name and each.startswith(name)), "")
        if not (colon and column):
            column, wanted = "", rest
        if wanted:
            terms.append(Term(text=wanted, column=column, is_inverse=is_inverse))
    return Query(terms=tuple(terms))


def arrange[T](
    rows: Sequence[T],
    query: Query,
    order: Order,
    *,
    texts: Callable[[T], Mapping[str, str]],
    value: Callable[[T, str], object],
) -> list[T]:
    """The wanted rows in their order; rows without a value come last, whatever the direction."""
    found = [row for row in rows if query.matches(texts(row))] if query.terms else list(rows)
    if not order.column:
        return found
    valued: list[tuple[tuple[bool, object], T]] = []
    empty: list[T] = []
    for row in found:
        key = value(row, order.column)
        if key is None or key == "" or key != key:  # noqa: PLR0124  # also what is no number
            empty.append(row)
        else:
            # Numbers and words never meet in comparison: a runner may write either.
            valued.append(((isinstance(key, str), key), row))
    valued.sort(key=lambda each: each[0], reverse=order.descending)
    return [row for _, row in valued] + empty


def _is_met(term: Term, texts: Mapping[str, str]) -> bool:
    if term.column:
        found = term.text in texts.get(term.column, "").lower()
    else:
        found = _is_in_order(term.text, texts.get("", "").lower()) or any(
            term.text in text.lower() for text in texts.values()
        )
    return found is not term.is_inverse


def _is_in_order(letters: str, text: str) -> bool:
    at = 0
    for letter in letters:
        at = text.find(letter, at) + 1
        if not at:
            return False
    return True
