"""Something to read, and to close again: the help, an error."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from sinergym_tui.actions import ACTIONS

__all__ = ["TextScreen", "help_text"]


class TextScreen(ModalScreen[None]):
    """Plain text under a title; Escape, Enter or q closes it."""

    DEFAULT_CSS = """
    TextScreen {
        align: center middle;
        & > Vertical {
            width: 76; max-width: 100%; height: auto; max-height: 100%;
            border: round $primary; padding: 0 1; background: $surface;
        }
        & VerticalScroll { height: auto; max-height: 80vh; }
        & .title { text-style: bold; margin-bottom: 1; }
        & .foot { color: $text-muted; margin-top: 1; }
        & Static { width: 100%; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark", "close", "Close", show=False),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        """Title, text, and how to close it."""
        with Vertical():
            yield Label(self._title, classes="title", markup=False)
            with VerticalScroll():
                yield Static(self._text, markup=False)
            yield Label("Esc closes this", classes="foot")

    def action_close(self) -> None:
        """Go back."""
        self.dismiss(None)


def help_text() -> str:
    """All keys, from the list of actions."""
    keys = [
        ("↑ ↓ PgUp PgDn", "Move; also j k g G"),
        ("Tab", "The next panel"),
        ("Enter", "Go in: sweep, its experiments, the log"),
        ("f", "In the log: follow the end, or pause (scrolling up pauses too)"),
        ("Ctrl+P", "All actions and themes"),
    ]
    keys += [
        (action.keys.split(",")[0].replace("question_mark", "?").capitalize(), action.help)
        if len(action.keys.split(",")[0]) > 1
        else (action.keys.split(",")[0], action.help)
        for action in ACTIONS
    ]
    return "\n".join(f"{key:<15}{text}" for key, text in keys)
