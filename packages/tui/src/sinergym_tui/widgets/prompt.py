"""One line in which something is typed that changes what is shown: a filter, a search, a name."""

from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

__all__ = ["Prompt"]


class Prompt(Horizontal):
    """Hidden until something is asked; stays in sight while what was typed counts."""

    DEFAULT_CSS = """
    Prompt {
        height: 1; background: $boost; padding: 0 1;
        & #label { width: auto; height: 1; color: $text-accent; text-style: bold; }
        & Input { width: 1fr; height: 1; border: none; padding: 0 1; background: transparent; }
        & Input:focus { border: none; background: transparent; }
        & #note { width: auto; height: 1; color: $foreground 60%; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Clear", show=False),
        Binding("up,down", "keep", "Keep", show=False),
    ]

    @dataclass
    class Changed(Message):
        """Another text is typed."""

        prompt: "Prompt"
        what: str
        text: str

        @property
        def control(self) -> "Prompt":
            """The prompt."""
            return self.prompt

    @dataclass
    class Answered(Message):
        """Enter was pressed."""

        prompt: "Prompt"
        what: str
        text: str

        @property
        def control(self) -> "Prompt":
            """The prompt."""
            return self.prompt

    @dataclass
    class Left(Message):
        """It was cleared and left."""

        prompt: "Prompt"
        what: str

        @property
        def control(self) -> "Prompt":
            """The prompt."""
            return self.prompt

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.display = False
        self.what = ""
        """What is asked, as the one who asked calls it; "" where nothing is."""

    def compose(self) -> ComposeResult:
        """A label, the text, a note at its end."""
        yield Static("", id="label", markup=False)
        yield Input(id="text", select_on_focus=False)
        yield Static("", id="note", markup=False)

    @property
    def text(self) -> str:
        """What is typed."""
        return self.query_one(Input).value.strip()

    @property
    def has_input(self) -> bool:
        """Whether keys go here."""
        return self.query_one(Input).has_focus

    def ask(self, what: str, label: str, *, text: str = "", placeholder: str = "") -> None:
        """Ask for something."""
        field = self.query_one(Input)
        self.what = what
        self.query_one("#label", Static).update(Content(label))
        with self.prevent(Input.Changed):
            field.value = text
        field.placeholder = placeholder
        field.cursor_position = len(text)
        self.note("")
        # At once, not with the next refresh: what is typed after the key must come here.
        self.display = True
        self.screen.set_focus(field)

    def note(self, text: str) -> None:
        """Say something at its end, such as how many were found."""
        line = self.query_one("#note", Static)
        if str(line.content) != text:  # each update lays out the screen again
            line.update(Content(text))

    def close(self) -> None:
        """Ask nothing any more."""
        self.what = ""
        self.display = False

    def action_leave(self) -> None:
        """Forget what was typed."""
        what = self.what
        self.close()
        self.post_message(self.Left(self, what))

    def action_keep(self) -> None:
        """Back to the rows, with what was typed."""
        self.post_message(self.Answered(self, self.what, self.text))

    @on(Input.Changed)
    def _tell_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Changed(self, self.what, event.value.strip()))

    @on(Input.Submitted)
    def _tell_answer(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Answered(self, self.what, self.text))
