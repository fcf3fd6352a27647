"""The one list of what can be done: footer, palette, help and keys are all made of it."""

from dataclasses import dataclass

from textual.binding import Binding

__all__ = ["ACTIONS", "Action", "bindings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that can be done with a key, from the palette, or both."""

    name: str
    """Of the app's `action_` method."""
    keys: str
    label: str
    help: str
    in_footer: bool = True
    changes: bool = False
    """Changes something in the cloud: refused when read-only."""


ACTIONS = (
    Action(
        name="launch",
        keys="l",
        label="Launch",
        help="Launch a sweep from a file; shows what it will create, and asks, before it does",
        changes=True,
    ),
    Action(
        name="cancel_sweep",
        keys="c",
        label="Cancel",
        help="Cancel the selected sweep: its VMs go, its results stay",
        changes=True,
    ),
    Action(
        name="delete_sweep",
        keys="d",
        label="Delete",
        help="Delete the selected sweep with all its results",
        changes=True,
    ),
    Action(name="refresh", keys="r", label="Refresh", help="Look at the cloud now"),
    Action(
        name="zoom", keys="z", label="Zoom", help="Give the whole screen to one panel, or back"
    ),
    Action(
        name="back",
        keys="escape",
        label="Back",
        help="From the log to the experiments, from these to the sweeps",
        in_footer=False,
    ),
    Action(name="help", keys="question_mark", label="Help", help="Show this"),
    Action(
        name="leave",
        keys="q",
        label="Quit",
        help="Leave the console; whatever runs in the cloud runs on",
    ),
)


def bindings() -> list[Binding]:
    """The actions as the app's keys."""
    return [
        Binding(
            action.keys,
            action.name,
            action.label,
            show=action.in_footer,
            tooltip=action.help,
            id=action.name,
            key_display="?" if action.name == "help" else None,
        )
        for action in ACTIONS
    ]
