"""Text that comes from outside, made harmless for a terminal.

Container names, errors, logs and records are written by others. They may hold escape sequences
that retitle a terminal, hide text or answer as if typed. Whoever shows such text passes it
through `clean` first.
"""

import re

__all__ = ["clean", "one_line"]

_ESCAPE_SEQUENCES = re.compile(
    r"\x1b(?:"
    r"[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS, SOS, PM, APC, to their end
    r"|\[[0-?]*[ -/]*[@-~]?"  # CSI
    r"|[ -/]*[0-~]?"  # all others, cut off ones too
    r")"
    r"|\x9b[0-?]*[ -/]*[@-~]?"  # CSI as one byte
    r"|[\x90\x98\x9d-\x9f][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # the strings as one byte
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_DIRECTIONS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    r"""Return the text without terminal escapes and control characters.

    Halves of surrogate pairs go too: JSON can write them, but no terminal can be sent them.

    Tab and line feed stay. A carriage return before a line feed goes, any other becomes a line
    feed: a progress bar's frames become lines, and none can overwrite another. Marks that turn
    the direction of writing are dropped, because they show text in an order that it hasn't.

    See ECMA-48, sections 5.4 and 5.6, for the sequences.
    """
    text = _ESCAPE_SEQUENCES.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _DIRECTIONS.sub("", _CONTROLS.sub("", text))


def one_line(text: str, *, limit: int = 300) -> str:
    """Return the cleaned text as one line, cut with an ellipsis after `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
