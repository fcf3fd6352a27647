"""A curve in a few lines of text, for terminals without room for a plot."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

from sinergym_tui.views.cells import parts_of

__all__ = ["chart"]

# The dots of a braille sign, by column and row: https://www.unicode.org/charts/PDF/U2800.pdf
_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK: Final = 0x2800


@lru_cache(maxsize=8)
def chart(
    steps: tuple[float, ...], values: tuple[float, ...], width: int, height: int
) -> tuple[str, ...]:
    """Points joined by lines, the highest value in the first row, in `height` rows of `width`.

    Args:
        steps: From left to right; finite.
        values: As many; finite.
        width: In cells of the terminal, each of 2 x 4 dots.
        height: In lines.
    """
    cells = [[_BLANK] * width for _ in range(height)]
    across, up = _spread(steps, 2 * width - 1), _spread(values, 4 * height - 1)
    points = list(zip(across, up, strict=True))
    for (x, y), (to_x, to_y) in pairwise([*points[:1], *points]):
        count = max(abs(to_x - x), abs(to_y - y), 1)
        for number in range(count + 1):
            column = x + round((to_x - x) * number / count)
            row = 4 * height - 1 - (y + round((to_y - y) * number / count))
            cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
    return tuple("".join(chr(cell) if cell > _BLANK else " " for cell in row) for row in cells)


def _spread(numbers: Sequence[float], most: int) -> list[int]:
    """Numbers as places from 0 to `most`; all in the middle where they are the same."""
    return [most // 2 if part is None else round(most * part) for part in parts_of(numbers)]
