"""A window in which a sweep file is picked. Imported only where one is."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from gcloud_ops.text import one_line

__all__ = ["SweepFilePicker"]

_SUFFIXES: Final = frozenset({".yaml", ".yml"})
_HEAD: Final = 400  # bytes in which a file's first comment is looked for
_NAME: Final = 18  # cells of a name, before what its file says of itself


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    is_folder: bool
    about: str = ""
    """The file's first line, if that is a comment."""

    @property
    def name(self) -> str:
        return f"{self.path.name}/" if self.is_folder else self.path.name


class SweepFilePicker(ModalScreen[Path | None]):
    """Lists a folder's YAML files, with what they say of themselves, and its folders.

    What is typed is a path from the folder; what follows its last slash narrows the list.

    Args:
        folder: Where paths begin. In its `examples`, if there are some, one is at first.
    """

    DEFAULT_CSS = """
    SweepFilePicker {
        align: center middle;
        & > Vertical {
            width: 92; max-width: 100%; height: 80%; max-height: 26;
            border: round $primary; padding: 0 1; background: $surface;
        }
        & .title { text-style: bold; }
        & Input, & Input:focus { border: none; height: 1; padding: 0 1; margin: 1 0;
            background: $boost; }
        & OptionList { height: 1fr; border: none; padding: 0; background: $surface;
            scrollbar-size-vertical: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        & #note { color: $text-error; height: auto; }
        & .foot { color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "refuse", "Close", show=False),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("down", "move(1)", show=False, priority=True),
        Binding("pageup", "move(-10)", show=False, priority=True),
        Binding("pagedown", "move(10)", show=False, priority=True),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._base = folder
        self._listed: Path | None = None
        self._entries: tuple[_Entry, ...] = ()
        self._shown: list[_Entry] = []

    def compose(self) -> ComposeResult:
        """What is typed, and what there is."""
        at_first = "examples/" if (self._base / "examples").is_dir() else ""
        with Vertical():
            yield Label("Open a sweep file", classes="title")
            yield Input(at_first, placeholder="a name, or a path", select_on_focus=False)
            files = OptionList(markup=False)
            files.can_focus = False
            yield files
            yield Static(id="note", markup=False)
            yield Label("Enter opens   ↑ ↓ choose   Esc closes", classes="foot")

    def on_mount(self) -> None:
        """Look for the first time."""
        self._look()

    @on(Input.Changed)
    def _look(self) -> None:
        """Show what there is, for what is typed now."""
        folder, _ = self._typed
        if folder == self._listed:
            self._repaint()
        else:
            self.run_worker(self._list(folder), exclusive=True)

    @property
    def _typed(self) -> tuple[Path, str]:
        """The folder that what is typed leads to, and the part of a name."""
        head, slash, part = self.query_one(Input).value.strip().rpartition("/")
        return _below(self._base, head + slash), part

    async def _list(self, folder: Path) -> None:
        # In a thread: a folder on a network may take its time.
        try:
            entries, problem = await asyncio.to_thread(_entries, folder), ""
        except (OSError, ValueError) as error:
            entries, problem = (), one_line(getattr(error, "strerror", None) or str(error))
        self._listed, self._entries = folder, entries
        self._repaint(problem)

    def _repaint(self, problem: str = "") -> None:
        _, part = self._typed
        self._shown = [each for each in self._entries if part.lower() in each.name.lower()]
        files = self.query_one(OptionList)
        files.clear_options()
        files.add_options(Option(_row(each)) for each in self._shown)
        if self._shown:
            files.highlighted = 0
        elif not problem and part:
            problem = "no sweep file of that name here"
        self.query_one("#note", Static).update(Content(problem))

    def action_move(self, rows: int) -> None:
        """Choose a row so many further down; what is typed stays."""
        files = self.query_one(OptionList)
        if self._shown:
            at = (files.highlighted or 0) + rows
            files.highlighted = min(max(at, 0), len(self._shown) - 1)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self._take(self._shown[event.option_index])

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        typed = event.value.strip()
        path = _below(self._base, typed)
        chosen = self.query_one(OptionList).highlighted
        if typed and path.is_file():  # also one that is not listed
            self.dismiss(path)
        elif chosen is not None and self._listed == self._typed[0]:
            self._take(self._shown[chosen])

    def _take(self, entry: _Entry) -> None:
        if not entry.is_folder:
            self.dismiss(entry.path)
            return
        field = self.query_one(Input)
        head, slash, _ = field.value.strip().rpartition("/")
        field.value = f"{head}{slash}{entry.path.name}/"
        field.cursor_position = len(field.value)

    def action_refuse(self) -> None:
        """Nothing is picked."""
        self.dismiss(None)


def _below(base: Path, typed: str) -> Path:
    """The path that is typed; one that can't be is none that exists."""
    try:
        return base / Path(typed).expanduser()
    except (RuntimeError, ValueError):  # a user who is not there
        return base / typed


def _entries(folder: Path) -> tuple[_Entry, ...]:
    """Its YAML files, then its folders, by name; nothing that is hidden.

    Raises:
        OSError: it can't be read.
        ValueError: there can be no such path.
    """
    files, folders = [], [_Entry(folder / "..", is_folder=True)]
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            # Its name is put into the field; what isn't seen there can't be typed either.
            if path.name.isprintable():
                folders.append(_Entry(path, is_folder=True))
        elif path.suffix in _SUFFIXES:
            files.append(_Entry(path, is_folder=False, about=_about(path)))
    return (*files, *folders)


def _about(path: Path) -> str:
    """The first line of a file, if that is a comment; "" for one that can't be read."""
    try:
        with path.open("rb") as file:
            first = file.read(_HEAD).decode("utf-8", "replace").partition("\n")[0]
    except OSError:
        return ""
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _row(entry: _Entry) -> Content:
    name = one_line(entry.name, limit=40)
    return Content.assemble(
        (f"{name:<{_NAME}}", "$text-accent" if entry.is_folder else "bold"),
        ("  ", ""),
        (one_line(entry.about), "$foreground 60%"),
    )
