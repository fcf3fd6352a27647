"""Text from outside is harmless for a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.text import clean, one_line


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\after", "after"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9cafter", "after"),
        ("a\x00b\x08c\x7fd\x85e", "abcde"),
        ("10%\r20%\r\n", "10%\n20%\n"),
        ("cut off \x1b[3", "cut off "),
        ("cut off \x1b", "cut off "),
        ("evil\u202etxt.exe", "eviltxt.exe"),
        ("half \ud83d of one", "half  of one"),
        ("evil\u2066a\u2069\u200f\u061c.txt", "evila.txt"),
        ("adm\u200bin\ufeff\u2060\u00ad", "admin"),
        ("two\u2028lines\u2029here", "two\nlines\nhere"),
        ("👩\u200d🔬❤\ufe0f", "👩🔬❤"),
        ("a" + "\u0301" * 500 + "b", "a\u0301\u0301\u0301b"),
        ("Vie\u0323\u0302t ไม่", "Vie\u0323\u0302t ไม่"),
        ("größe 🚀", "größe 🚀"),
    ],
)
def test_clean(text: str, harmless: str) -> None:
    """Each kind of sequence goes, and the text around it stays."""
    assert clean(text) == harmless


@given(st.text())
def test_nothing_dangerous_is_left(text: str) -> None:
    """Whatever comes in, no control character but tab and line feed comes out."""
    left = clean(text)

    assert not any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in left)
    assert clean(left) == left


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_short_line(text: str, limit: int) -> None:
    """It has no line break and at most `limit` characters."""
    line = one_line(text, limit=limit)

    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
