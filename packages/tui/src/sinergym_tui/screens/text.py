"""Something to read, and to close again: the help, an error."""

from textwrap import wrap
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from sinergym_tui.actions import MOVING, Action, actions_of

if TYPE_CHECKING:
    from sinergym_tui.app import Console

__all__ = ["TextScreen", "help_text"]

_KEY = 16  # cells of a key
_WHAT = 58  # cells of what it does: both together fit into 80


class TextScreen(ModalScreen[None]):
    """Plain text under a title; Escape, Enter or q closes it."""

    DEFAULT_CSS = """
    TextScreen {
        align: center middle;
        & > Vertical {
            width: 84; max-width: 100%; height: auto; max-height: 100%;
            border: round $primary; padding: 0 1; background: $surface;
        }
        & VerticalScroll { height: auto; max-height: 74vh; scrollbar-size-vertical: 1; }
        & .title { text-style: bold; margin-bottom: 1; }
        & .foot { color: $text-muted; margin-top: 1; }
        & Static { width: 100%; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark", "close", "Close", show=False),
    ]

    def __init__(self, title: str, text: str | Content) -> None:
        super().__init__()
        self._title = title
        self._text = Content(text) if isinstance(text, str) else text

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


def help_text(console: "Console", scope: str) -> Content:
    """The keys of a screen, with their commands; without those that are not offered."""
    own = [each for each in actions_of(scope) if each.scopes]
    common = [each for each in actions_of(scope) if not each.scopes]
    parts = [Content.styled("On this screen", "bold $text-primary")]
    parts += [_about(console, each) for each in own if not console.is_refused(each)]
    parts.append(Content.styled("\nEverywhere", "bold $text-primary"))
    parts += [_line(key, what) for key, what in MOVING.items()]
    parts += [_about(console, each) for each in common if not console.is_refused(each)]
    parts.append(Content.styled("\nAfter $ is the command for a shell", "bold $text-primary"))
    parts.append(_line("--output json", "gives what it tells as JSON"))
    parts.append(_line("--yes", "answers what it asks"))
    if console.is_local:
        parts.append(_line("--local", "works on the local cloud, as this console does"))
    return Content("\n").join(parts)


def _about(console: "Console", action: Action) -> Content:
    return _line(console.key_of(action), action.help, *action.headless)


def _line(key: str, what: str, *commands: str) -> Content:
    first, *more = wrap(what, _WHAT)
    rest = "".join(f"\n{'':<{_KEY}}{line}" for line in more)
    typed = "".join(f"\n{'':<{_KEY}}$ {command}" for command in commands)
    return Content.assemble(
        (f"{key:<{_KEY}}", "$text-accent"),
        (f"{first}{rest}", ""),
        (typed, "$foreground 60%"),
    )
