"""What all screens share: where one is, how fresh that is, what has happened, which keys count.

A screen is a `ConsoleScreen` with a `SCOPE` (its name in `actions`), a `body` and a `paint`, which
shows what the app knows now. The app calls `paint` after each look at the cloud, once a second,
and when the screen comes back into view: nothing else brings news to it.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content, Span
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Static

from gcloud_ops.text import one_line
from sinergym_tui.actions import actions_of
from sinergym_tui.fleet import FleetView
from sinergym_tui.views.cells import Cell, age_text
from sinergym_tui.widgets.key_bar import Hint, KeyBar

if TYPE_CHECKING:
    from sinergym_tui.app import Console

__all__ = ["ConsoleScreen", "styled", "update_line"]

TONE_STYLES = {
    "good": "$text-success",
    "bad": "bold $text-error",
    "busy": "$text-primary",
    "waiting": "$text-warning",
    "muted": "$foreground 60%",
    "strong": "bold $foreground",
    "": "$foreground",
}


class ConsoleScreen(Screen[None]):
    """One place of the console."""

    SCOPE: ClassVar[str] = ""
    """Its name in `actions`."""
    PLACE: ClassVar[str] = "sweeps"
    """What the crumbs begin with."""

    DEFAULT_CSS = """
    ConsoleScreen {
        layout: vertical;
        #top { height: 1; background: $panel; }
        #crumbs { width: 1fr; height: 1; padding: 0 1; text-wrap: nowrap;
            text-overflow: ellipsis; }
        #fresh { width: auto; height: 1; padding: 0 1; color: $foreground 60%; }
        #fresh.-stale { color: $text-error; text-style: bold; }
        #said { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis;
            color: $foreground 80%; }
        #said.-trouble { color: $text-error; text-style: bold; }
        .line { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    }
    """

    def compose(self) -> ComposeResult:
        """A line above, the body, a line below, the keys."""
        with Horizontal(id="top"):
            yield Static("", id="crumbs", markup=False)
            yield Static("", id="fresh", markup=False)
        yield from self.body()
        yield Static("", id="said", markup=False)
        yield KeyBar(id="keys")

    # ------------------------------------------------------- what a screen says

    def body(self) -> ComposeResult:
        """What is between the lines."""
        raise NotImplementedError

    def paint(self, now: datetime) -> None:
        """Show what is known now."""

    @property
    def crumbs(self) -> tuple[str, ...]:
        """Where one is, after the place."""
        return ()

    @property
    def sweep(self) -> str:
        """The sweep that the poller is to look at closely, while this is in view."""
        return ""

    def look(self) -> None:
        """Look once more at what the poller doesn't bring."""

    def can(self, action: str) -> bool | None:  # noqa: ARG002
        """Whether an action of this screen can be done now; None: grey, False: not offered."""
        return True

    # --------------------------------------------------------------- the frame

    @property
    def console(self) -> "Console":
        """The app."""
        return cast("Console", self.app)

    @property
    def view(self) -> FleetView:
        """What is known."""
        return self.console.view

    def on_mount(self) -> None:
        """Show what is known already."""
        self.repaint()

    def on_screen_resume(self) -> None:
        """Show what has changed meanwhile."""
        self.console.look_closely()
        self.repaint()

    def repaint(self) -> None:
        """Show what is known as it is now; cheap where nothing has changed."""
        if not self.is_attached or not self.is_mounted:
            return
        now = self.console.clock()
        with suppress(NoMatches), self.app.batch_update():  # it is being taken down
            self.paint(now)
            self._paint_lines(now)
            self.paint_keys()

    def paint_keys(self) -> None:
        """Show which keys count now."""
        hints = tuple(
            Hint(action.name, self.console.key_of(action), action.label, state is True)
            for action in actions_of(self.SCOPE)
            if action.in_footer
            and action.key
            and (state := self.console.possible(action, self)) is not False
        )
        self.query_one(KeyBar).show(hints)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide what is refused, grey out what can't be done now."""
        known = next((each for each in actions_of(self.SCOPE) if each.name == action), None)
        if known is None or not known.scopes:
            return super().check_action(action, parameters)
        return self.console.possible(known, self)

    @on(KeyBar.Clicked)
    async def _do_clicked(self, message: KeyBar.Clicked) -> None:
        await self.console.do(message.action)

    def _paint_lines(self, now: datetime) -> None:
        view, console = self.view, self.console
        fresh, said = self.query_one("#fresh", Static), self.query_one("#said", Static)
        crumbs = [Cell(self.PLACE, "" if self.crumbs else "strong")]
        crumbs += [Cell(one_line(crumb)) for crumb in self.crumbs[:-1]]
        crumbs += [Cell(one_line(crumb), "strong") for crumb in self.crumbs[-1:]]
        age = age_text(view.taken, now)
        if view.trouble:
            words = f"⚠ {age} old" if view.taken else "⚠ no answer"
            update_line(said, Content(f"⚠ {view.trouble}"))
        else:
            took = f"{view.seconds * 1000:.0f} ms"
            words = f"updated {age} ago · {took}" if view.taken else ""
            update_line(said, Content(console.said))
        where = console.where
        # Where one is counts more than which cloud it is: that gives way first.
        room = self.size.width - 5 - sum(len(crumb.text) + 3 for crumb in crumbs)
        full = f"{where} · {words}" if words else where
        short = words or where
        update_line(fresh, Content(full if len(full) <= room else short))
        if len(crumbs) > 2 and len(short) > room:
            crumbs = [Cell("…"), *crumbs[-2:]]
        update_line(self.query_one("#crumbs", Static), styled(crumbs, " › "))
        fresh.set_class(bool(view.trouble), "-stale")
        said.set_class(bool(view.trouble), "-trouble")


def styled(cells: Iterable[Cell], between: str = "   ") -> Content:
    """Cells in one line, each in its tone; nothing in them is read as markup."""
    text, spans = "", []
    for cell in cells:
        if text:
            text += between
        spans.append(Span(len(text), len(text) + len(cell.text), TONE_STYLES[cell.tone]))
        text += cell.text
    return Content(text, spans)


def update_line(line: Static, content: Content) -> None:
    """Change a line only where it differs, and lay out the screen again only where it must be.

    A layout paints each scrollbar anew: once a second, that costs more than all else.
    """
    old = line.content
    if isinstance(old, Content) and old.plain == content.plain and old.spans == content.spans:
        return
    height, width = line.styles.height, line.styles.width
    is_as_wide = isinstance(old, Content) and old.cell_length == content.cell_length
    is_fixed = height is not None and height.is_cells
    can_grow = width is not None and width.is_auto and not is_as_wide
    line.update(content, layout=not is_fixed or can_grow)
