"""A few fields in a window: a name, an address, a choice, a secret."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static

from gcloud_ops.text import one_line

__all__ = ["Field", "FormScreen"]

_LONGEST = 2000  # characters of a value that is there at first


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Something to fill in."""

    key: str
    label: str
    value: str = ""
    placeholder: str = ""
    is_secret: bool = False
    """Typed unseen, and never shown again."""
    choices: Sequence[tuple[str, str]] = ()
    """What there is to choose from: words and values; none: it is typed."""


class FormScreen(ModalScreen[dict[str, str] | None]):
    """Gives what was filled in by the fields' keys; None: nothing shall be done.

    Args:
        title: One line.
        fields: From top to bottom.
        yes: The label of the button that does it.
        note: What to know before.
        check: Says what is wrong with what was filled in; "": nothing.
    """

    DEFAULT_CSS = """
    FormScreen {
        align: center middle;
        & > Vertical {
            width: 76; max-width: 100%; height: auto; max-height: 100%;
            border: round $primary; padding: 0 1; background: $surface;
        }
        & VerticalScroll { height: auto; max-height: 60vh; margin: 1 0 0 0;
            scrollbar-size-vertical: 1; }
        & .title { text-style: bold; }
        & .note { color: $foreground 60%; width: 100%; }
        & .row { height: 1; margin-bottom: 1; }
        & .row Label { width: 18; color: $foreground 70%; }
        & .row Input { width: 1fr; height: 1; border: none; padding: 0 1; background: $boost; }
        & .row Input:focus { border: none; background: $primary 25%; }
        & .row Select { width: 1fr; }
        & .wrong { color: $text-error; width: 100%; height: auto; }
        & .buttons { height: 3; align-horizontal: right; }
        & Button { margin-left: 1; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "refuse", "Cancel", show=False),
    ]

    def __init__(
        self,
        title: str,
        fields: Sequence[Field],
        *,
        yes: str = "OK",
        note: str = "",
        check: Callable[[Mapping[str, str]], str] | None = None,
    ) -> None:
        super().__init__()
        self._title, self._note, self._yes = title, note, yes
        self._fields = fields
        self._check = check

    def compose(self) -> ComposeResult:
        """Title, note, fields, what is wrong, and the buttons."""
        with Vertical():
            yield Label(self._title, classes="title", markup=False)
            if self._note:
                yield Static(self._note, classes="note", markup=False)
            with VerticalScroll(can_focus=False):
                for field in self._fields:
                    with Horizontal(classes="row"):
                        yield Label(one_line(field.label), markup=False)
                        yield _widget(field)
            yield Static("", classes="wrong", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="no")
                yield Button(Content(self._yes), id="yes", variant="primary")

    @on(Input.Submitted)
    def _go_on(self, event: Input.Submitted) -> None:
        """Enter goes to the next field, and from the last one to the button."""
        if event.input.id == f"field-{self._fields[-1].key}":
            self.query_one("#yes", Button).focus()
        else:
            self.focus_next()

    @on(Button.Pressed, "#no")
    def action_refuse(self) -> None:
        """Nothing shall be done."""
        self.dismiss(None)

    @on(Button.Pressed, "#yes")
    def _answer(self) -> None:
        found = {field.key: self._value(field) for field in self._fields}
        if self._check is not None and (wrong := self._check(found)):
            self.query_one(".wrong", Static).update(f"✗ {wrong}")
            return
        for field in self._fields:
            if field.is_secret:
                self.query_one(f"#field-{field.key}", Input).value = ""
        self.dismiss(found)

    def _value(self, field: Field) -> str:
        if field.choices:
            value = self.query_one(f"#field-{field.key}", Select).value
            return value if isinstance(value, str) else ""
        value = self.query_one(f"#field-{field.key}", Input).value
        return value if field.is_secret else value.strip()


def _widget(field: Field) -> Select[str] | Input:
    name = f"field-{field.key}"
    if field.choices:
        choices = [(Text(one_line(words)), value) for words, value in field.choices]
        return Select(
            choices,
            value=field.value or field.choices[0][1],
            allow_blank=False,
            compact=True,
            id=name,
        )
    value = one_line(field.value, limit=_LONGEST)
    return Input(value, placeholder=field.placeholder, password=field.is_secret, id=name)
