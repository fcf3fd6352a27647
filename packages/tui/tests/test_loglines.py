import itertools

from hypothesis import given
from hypothesis import strategies as st

from sinergym_tui.loglines import LONGEST, LineCutter, LogFeed


def lines_of(*chunks: bytes) -> list[str]:
    """What a log of these chunks shows."""
    cutter = LineCutter()
    lines = [line for chunk in chunks for line in cutter.feed(chunk)]
    return lines + cutter.finish()


@given(
    text=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode()),
    cuts=st.lists(st.integers(0, 300), max_size=5),
)
def test_chunks_make_the_same_lines_wherever_they_are_cut(text: bytes, cuts: list[int]) -> None:
    """Also in the middle of a character or of an escape sequence."""
    edges = [0, *sorted(cuts), len(text)]
    chunks = [text[begin:end] for begin, end in itertools.pairwise(edges)]

    assert lines_of(*chunks) == lines_of(text)


@given(st.binary(max_size=500))
def test_no_control_character_comes_through(text: bytes) -> None:
    """Whatever a container prints, a line is one line of printable text."""
    for line in lines_of(text):
        assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in line)


def test_an_escape_without_end_hides_no_other_line() -> None:
    """An OSC that is never closed ends with its line."""
    assert lines_of(b"\x1b]52;c;aGVsbG8\nnext\n")[-1] == "next"


def test_a_progress_bar_becomes_lines() -> None:
    """A carriage return overwrites nothing."""
    assert lines_of(b"10%\r20%\r\n") == ["10%", "20%"]


def test_a_megabyte_without_line_feed_is_cut_with_a_mark() -> None:
    """Memory stays bounded, and the mark says how much is missing."""
    cutter = LineCutter()
    for _ in range(100):
        assert cutter.feed(b"x" * 10_000) == []
        assert len(cutter._held) <= 64 * 1024
    (line, after) = cutter.feed(b"\nafter\n")

    assert line == "x" * LONGEST + f" […{1_000_000 - LONGEST:,} more]"
    assert after == "after"


def test_a_feed_keeps_the_newest_lines_and_says_what_it_skipped() -> None:
    """A reader faster than the screen costs no memory."""
    feed = LogFeed(("quick-0001",), keep=3)

    assert feed.put(0, ["1", "2"])
    assert not feed.put(0, ["3", "4", "5"])
    assert [line.text for line in feed.take()] == ["[… 2 lines skipped …]", "3", "4", "5"]
    assert feed.take() == []
    assert feed.put(0, ["6"])
    assert [line.text for line in feed.take()] == ["6"]
