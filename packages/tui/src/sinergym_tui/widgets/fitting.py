"""Text in so many cells of a terminal. Not in `views`: the core knows no terminal."""

from rich.cells import cell_len, set_cell_size

__all__ = ["fit_text"]


def fit_text(text: str, width: int, *, is_right: bool = False) -> str:
    """The text in exactly so many cells of a terminal, cut with an ellipsis."""
    size = len(text) if text.isascii() else cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    return " " * (width - size) + text if is_right else text + " " * (width - size)
