"""Logs' bytes made into lines that are safe to show; no terminal here.

Cleaned once, where they enter: no escape sequence, control character or broken UTF-8 goes further.
"""

import threading
from collections import deque
from typing import Final

from gcloud_ops.text import clean
from sinergym_tui.views.logbook import LogLine

__all__ = ["LONGEST", "LineCutter", "LogFeed"]

LONGEST: Final = 2000
"""Characters of a line that are kept."""

_HELD: Final = 64 * 1024  # bytes of an unfinished line that are held back, at most
_TAB: Final = 8


class LineCutter:
    """Makes lines of chunks of bytes, whatever the chunks' borders."""

    def __init__(self) -> None:
        self._held = b""
        self._lost = 0

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes."""
        *whole, rest = (self._held + chunk).split(b"\n")
        lines: list[str] = []
        for line in whole:
            text = line.decode("utf-8", errors="replace")
            # Nearly all lines are plain: these hold no control, nor anything that isn't seen.
            if text.isascii() and text.isprintable() and len(text) <= LONGEST and not self._lost:
                lines.append(text)
            else:
                lines += self._shown(line)
                self._lost = 0
        if len(rest) > _HELD:
            # A megabyte without a line feed: its begin is kept, and how much was dropped.
            self._lost += len(rest) - _HELD
            rest = rest[:_HELD]
        self._held = rest
        return lines

    def finish(self) -> list[str]:
        """The line that has no line feed at its end, if there is one."""
        lines = self._shown(self._held) if self._held else []
        self._held, self._lost = b"", 0
        return lines

    def _shown(self, line: bytes) -> list[str]:
        lost, line = self._lost + max(0, len(line) - _HELD), line[:_HELD]
        text = clean(line.decode("utf-8", errors="replace")).rstrip("\n")
        *parts, last = text.split("\n")
        return [
            *(_cut(part.expandtabs(_TAB), 0) for part in parts),
            _cut(last.expandtabs(_TAB), lost),
        ]


class LogFeed:
    """Hands lines from the thread that reads logs to the one that shows them; bounded.

    When the reader is faster than the screen the oldest lines go, not the newest.

    Args:
        experiments: Whose logs they are.
        keep: Lines that wait to be shown, at most.
    """

    def __init__(self, experiments: tuple[str, ...], *, keep: int = 50_000) -> None:
        self.experiments = experiments
        self.stop = threading.Event()
        self._lines: deque[LogLine] = deque(maxlen=keep)
        self._skipped = 0
        self._lock = threading.Lock()

    def put(self, source: int, texts: list[str], *, at: float | None = None) -> bool:
        """Add lines; tells whether there were none, so that somebody must be told."""
        lines = [LogLine(source, at, text) for text in texts]
        with self._lock:
            was_empty = not self._lines
            room = (self._lines.maxlen or 0) - len(self._lines)
            self._skipped += max(0, len(lines) - room)
            self._lines.extend(lines)
        return was_empty and bool(lines)

    def take(self) -> list[LogLine]:
        """All lines that wait, with a note where some were skipped."""
        with self._lock:
            lines, skipped = list(self._lines), self._skipped
            self._lines.clear()
            self._skipped = 0
        if not skipped:
            return lines
        return [LogLine(lines[0].source, None, f"[… {skipped:,} lines skipped …]"), *lines]


def _cut(line: str, lost: int) -> str:
    over = max(0, len(line) - LONGEST) + lost
    return f"{line[:LONGEST]} […{over:,} more]" if over else line
