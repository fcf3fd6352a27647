"""The actions as Textual's keys."""

from textual.binding import Binding, BindingType

from sinergym_tui.actions import ACTIONS, Action

__all__ = ["bindings_of", "key_text"]

_SHOWN = {
    "question_mark": "?",
    "slash": "/",
    "ampersand": "&",
    "escape": "Esc",
    "enter": "Enter",
    "space": "Space",
    "greater_than_sign": ">",
    "less_than_sign": "<",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "exclamation_mark": "!",
}


def bindings_of(scope: str = "") -> list[BindingType]:
    """The keys of one screen's actions, or of those that are for all screens."""
    chosen = [each for each in ACTIONS if (scope in each.scopes if scope else not each.scopes)]
    return [_binding(each) for each in chosen]


def key_text(key: str) -> str:
    """A key as people know it."""
    key = key.split(",", maxsplit=1)[0]
    if key in _SHOWN:
        return _SHOWN[key]
    return "+".join(part.capitalize() for part in key.split("+")) if len(key) > 1 else key


def _binding(action: Action) -> Binding:
    return Binding(
        action.key or "f24",
        action.name,
        action.label,
        show=action.in_footer,
        tooltip=action.help,
        id=action.id,
        key_display=key_text(action.key),
    )
