"""What was typed, completed: names from a list, also where several have commas between."""

from collections.abc import Callable, Sequence

from textual.widgets import Input
from textual_autocomplete import AutoComplete, DropdownItem, TargetState

__all__ = ["NameComplete"]


class NameComplete(AutoComplete):
    """Shows names that have what was typed since the last comma; Enter or Tab takes one.

    Args:
        target: Where it is typed.
        names: Gives the names whenever they are needed.
        several: Whether there may be several, with commas between.
    """

    DEFAULT_CSS = """
    NameComplete {
        max-height: 8; background: $panel;
        & AutoCompleteList { background: $panel; padding: 0 1; }
    }
    """

    def __init__(
        self, target: Input, names: Callable[[], Sequence[str]], *, several: bool = False
    ) -> None:
        super().__init__(target, self._items)
        self._names = names
        self._several = several

    def get_search_string(self, target_state: TargetState) -> str:
        """What was typed since the last comma."""
        typed = target_state.text[: target_state.cursor_position]
        return typed.rpartition(",")[2].strip() if self._several else typed

    def should_show_dropdown(self, search_string: str) -> bool:
        """Only while something is typed that isn't a whole name yet."""
        is_open = bool(search_string) and search_string not in self._names()
        return is_open and self.target.has_focus and self.option_list.option_count > 0

    def match(self, query: str, candidate: str) -> tuple[float, tuple[int, ...]]:
        """A name that has what was typed; those that begin with it come first."""
        at = candidate.lower().find(query.lower())
        if at < 0:
            return 0.0, ()
        return 1.0 / (1 + at), tuple(range(at, at + len(query)))

    def apply_completion(self, value: str, state: TargetState) -> None:
        """Put the name in the place of what was typed since the last comma."""
        before = state.text[: state.cursor_position]
        head, comma, _ = before.rpartition(",") if self._several else ("", "", "")
        text = f"{head}{comma} {value}" if comma else value
        self.target.value = text + state.text[state.cursor_position :]
        self.target.cursor_position = len(text)

    def post_completion(self) -> None:
        """Hide, and tell that the text is another now: that was kept back."""
        super().post_completion()
        self.target.post_message(Input.Changed(self.target, self.target.value))

    def _items(self, _state: TargetState) -> list[DropdownItem]:
        return [DropdownItem(main=name) for name in self._names()]
