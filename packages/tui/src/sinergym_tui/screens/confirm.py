"""Ask before something that can't be taken back; No has the focus."""

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from gcloud_ops.text import one_line

__all__ = ["ConfirmScreen"]


class ConfirmScreen(ModalScreen[bool]):
    """Lists what will be touched; `True` when it shall be done.

    Args:
        question: One line.
        touches: What it will do to what, a line each.
        yes: The label of the button that does it.
        typed: What must be typed before it can be done; "" for nothing.
    """

    DEFAULT_CSS = """
    ConfirmScreen {
        align: center middle;
        & > Vertical {
            width: 72; max-width: 100%; height: auto; max-height: 100%;
            border: round $error; padding: 0 1; background: $surface;
        }
        & VerticalScroll { height: auto; max-height: 10; margin: 1 0; }
        & .question { text-style: bold; width: 100%; }
        & Static { width: 100%; }
        & Horizontal { height: 3; align-horizontal: right; }
        & .touched { height: auto; align-horizontal: left; }
        & .touched Static { width: 1fr; }
        & .touched Label { width: 2; }
        & Button { margin-left: 1; }
        & Input { margin-bottom: 1; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "refuse", "No", show=False),
        Binding("left,up", "app.focus_previous", show=False),
        Binding("right,down", "app.focus_next", show=False),
    ]

    def __init__(
        self, question: str, touches: Sequence[str], *, yes: str, no: str = "No", typed: str = ""
    ) -> None:
        super().__init__()
        self._question = question
        self._touches = touches
        self._labels = (no, yes)
        self._typed = typed

    def compose(self) -> ComposeResult:
        """Question, what is touched, perhaps the name to type, and the buttons."""
        with Vertical():
            yield Label(self._question, classes="question", markup=False)
            with VerticalScroll(can_focus=False):
                for line in self._touches:
                    with Horizontal(classes="touched"):
                        yield Label("•")
                        yield Static(line, markup=False)
            if self._typed:
                yield Label(f"Type {one_line(self._typed)} to go on:", markup=False)
                yield Input(id="typed")
            with Horizontal():
                yield Button(Content(self._labels[0]), id="no")
                yield Button(
                    Content(self._labels[1]), id="yes", variant="error", disabled=bool(self._typed)
                )

    def on_mount(self) -> None:
        """The harmless button has the focus."""
        self.query_one("#no", Button).focus()

    @on(Input.Changed, "#typed")
    def _compare(self, event: Input.Changed) -> None:
        self.query_one("#yes", Button).disabled = event.value.strip() != self._typed

    @on(Input.Submitted, "#typed")
    def _to_the_button(self) -> None:
        """Enter in the field only moves on: the button has to be pressed too."""
        button = self.query_one("#yes", Button)
        if not button.disabled:
            button.focus()

    @on(Button.Pressed)
    def _answer(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_refuse(self) -> None:
        """No."""
        self.dismiss(False)
