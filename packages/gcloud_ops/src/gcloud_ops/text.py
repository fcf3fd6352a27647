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
_INVISIBLE = re.compile(
    "["
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # fillers, soft hyphen
    "\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # joiners, directions
    "\ufe00-\ufe0f\U000e0000-\U000e0fff"  # variants of the sign before, tags
    "]"
)
_MARKS = (  # of the scripts that are mostly met; each is put over the sign before it
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0902\u093a\u093c\u0941-\u0948\u094d\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
    "\u0f71-\u0f84\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u302a-\u302d\u3099\u309a\ufe20-\ufe2f"
)
_FLOOD = re.compile(f"([{_MARKS}]{{3}})[{_MARKS}]+")


def clean(text: str) -> str:
    r"""Return the text without terminal escapes and control characters.

    Halves of surrogate pairs go too: JSON can write them, but no terminal can be sent them.

    Tab and line feed stay. A carriage return before a line feed goes, any other becomes a line
    feed: a progress bar's frames become lines, and none can overwrite another.

    What can't be seen is dropped: marks that turn the direction of writing, because they show
    text in an order that it hasn't; joiners, fillers and variants, because they make two names
    look like one, and because terminals don't agree how wide they are. Of marks over a sign the
    first three stay: a hundred of them cover the lines around it.

    See ECMA-48, sections 5.4 and 5.6, for the sequences.
    """
    if text.isascii() and text.isprintable():  # as nearly all text is
        return text
    text = _ESCAPE_SEQUENCES.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROLS.sub("", text)
    if text.isascii():
        return text
    text = text.replace("\u2028", "\n").replace("\u2029", "\n")
    return _FLOOD.sub(r"\1", _INVISIBLE.sub("", text))


def one_line(text: str, *, limit: int = 300) -> str:
    """Return the cleaned text as one line, cut with an ellipsis after `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
