import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_tui.views.logbook import (
    Filter,
    LogBook,
    LogLine,
    level_of,
    parse_filter,
    parse_since,
)
from sinergym_tui.views.patterns import compiled


def lines(*texts: str, at: float | None = None) -> list[LogLine]:
    """Lines of one log."""
    return [LogLine(0, at, text) for text in texts]


def shown(book: LogBook) -> list[str]:
    """What the screen would show, row by row."""
    pieces = [book.piece(row) for row in range(book.row_count)]
    return [piece.line.text[piece.begin : piece.end] for piece in pieces if piece is not None]


texts = st.lists(st.text(alphabet="ab ", max_size=12), max_size=30)


@given(
    batches=st.lists(texts, max_size=6),
    keep=st.integers(1, 40),
    width=st.integers(0, 5),
    pattern=st.sampled_from([None, "a", "b$", "!a"]),
)
def test_what_is_shown_is_what_a_plain_list_would_show(
    batches: list[list[str]], keep: int, width: int, pattern: str | None
) -> None:
    """Bounded, filtered and wrapped as it grows, it agrees with doing all of it at the end."""
    book = LogBook(keep)
    compiled, is_inverse = parse_filter(pattern or "")
    book.apply(Filter(pattern=compiled, is_inverse=is_inverse))
    book.wrap(width)
    everything: list[str] = []
    for batch in batches:
        rows = book.row_count
        dropped = book.append(lines(*batch), width=12)
        everything += batch
        assert 0 <= dropped <= rows + book.row_count + sum(len(text) + 1 for text in batch)

    assert len(book) <= max(keep + keep // 10, 1) or len(book) <= keep
    kept = everything[len(everything) - len(book) :]
    wanted = [
        text
        for text in kept
        if compiled is None or (compiled.search(text) is not None) is not is_inverse
    ]
    if width:
        pieces = [[text[at : at + width] for at in range(0, len(text), width)] for text in wanted]
        wanted = [piece for line in pieces for piece in (line or [""])]
    assert shown(book) == wanted


@given(st.lists(st.text(alphabet="ab", max_size=3), min_size=1, max_size=30), st.integers(0, 30))
def test_a_search_goes_round(all_texts: list[str], after: int) -> None:
    """The next place, or the first one after the end; backwards likewise."""
    book = LogBook()
    book.append(lines(*all_texts), width=3)
    places = [number for number, text in enumerate(all_texts) if "a" in text]
    forwards = [n for n in places if n > after] + [n for n in places if n <= after]
    backwards = [n for n in reversed(places) if n < after]
    backwards += [n for n in reversed(places) if n >= after]
    pattern = compiled("a")

    assert book.find(pattern, after=after) == (forwards[0] if forwards else None)
    found = book.find(pattern, after=after, backwards=True)
    assert found == (backwards[0] if backwards else None)


def test_since_shows_only_what_came_then() -> None:
    """History has no time: it is older than whatever is asked for."""
    book = LogBook()
    book.append(lines("history"), width=7)
    book.append(lines("at ten", at=10.0), width=6)
    book.append(lines("at twenty", at=20.0), width=9)
    book.apply(Filter(since=15.0))

    assert shown(book) == ["at twenty"]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("2026-11-22 ERROR it broke", "error"),
        ("Traceback (most recent call last):", "error"),
        ("ValueError: no", "error"),
        ("   ** Severe  ** no such zone", "error"),
        ("** Warning ** the zone", "warning"),
        ("UserWarning: old", "warning"),
        ("DEBUG all", "debug"),
        ("no errors at all", ""),
        ("mean reward -3", ""),
    ],
)
def test_a_lines_level_is_its_own_word(line: str, level: str) -> None:
    """Levels of Python's loggers, and EnergyPlus' own."""
    assert level_of(line) == level


def test_no_expression_takes_for_ever() -> None:
    """Python's own would take longer than there is time for these lines."""
    pattern, _ = parse_filter("(a+)+$")
    assert pattern is not None
    assert pattern.search("a" * 5000 + "b") is None


@given(st.text(max_size=30))
def test_anything_typed_is_a_filter(text: str) -> None:
    """What is no regular expression is looked for as it is."""
    pattern, _ = parse_filter(text)
    if pattern is not None:
        pattern.search(text)
    parse_since(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("now", 0.0), ("30s", 30.0), ("5m", 300.0), ("5", 300.0), ("1h", 3600.0), ("soon", None)],
)
def test_since_is_read(text: str, seconds: float | None) -> None:
    """As people write it."""
    assert parse_since(text) == seconds


@given(st.text(alphabet="a漢́", max_size=60), st.integers(2, 9))
def test_wide_characters_are_wrapped_by_their_cells(text: str, width: int) -> None:
    """No row is wider than the room, and nothing is lost."""
    book = LogBook()
    book.wrap(width)
    book.append(lines(text), width=0)

    rows = shown(book)
    assert "".join(rows) == text
    assert all(
        sum(1 + (sign == "漢") - (sign == "\u0301") for sign in row) <= width for row in rows
    )
