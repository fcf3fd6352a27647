"""A box to tick that says without colours whether it is."""

from textual.widgets import Checkbox

__all__ = ["Tick"]


class Tick(Checkbox):
    """Has a sign in it while it is on, and none while it is off."""

    @property
    def BUTTON_INNER(self) -> str:  # type: ignore[override]  # Textual's name
        """The sign."""
        return "✓" if self.value else " "
