"""A table for rows that change all the time.

Textual's DataTable renders every visible cell again when one changes (0.1 s on a large terminal).
This one asks for the cells of the rows in sight only, keeps a rendered strip for each, and paints
only the lines whose cells are different: a thousand rows cost what fits on the screen.
Its cells are plain text: nothing in them is read as markup.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from sinergym_tui.views.cells import TONES, Cell, Column, fit_columns
from sinergym_tui.views.query import Order
from sinergym_tui.widgets.fitting import fit_text

__all__ = ["LiveTable"]

type CellsOf = Callable[[int], tuple[Cell, ...]]
"""The cells of the row at a position, in the order of the columns."""


class LiveTable(ScrollView, can_focus=True):
    """Rows with keys, a cursor that stays with its key, columns that fit the width.

    Args:
        columns: All columns; those of the highest ranks are left out where there is no room.
        placeholder: What is said while there are no rows.
        has_cursor: Whether a row has the cursor; without one it can't be focused either.
        id: The widget's id.
    """

    DEFAULT_CSS = """
    LiveTable {
        background: $surface;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 0;
        overflow-x: hidden;
        & > .live-table--header { color: $foreground 60%; text-style: bold; background: $boost; }
        & > .live-table--mark { color: $text-accent; text-style: bold; }
        & > .live-table--cursor { background: $primary 25%; color: $foreground; }
        &:focus > .live-table--cursor {
            background: $block-cursor-background; color: $block-cursor-foreground;
            text-style: bold;
        }
        & > .live-table--good { color: $text-success; }
        & > .live-table--bad { color: $text-error; text-style: bold; }
        & > .live-table--busy { color: $text-primary; }
        & > .live-table--waiting { color: $text-warning; }
        & > .live-table--muted { color: $foreground 60%; }
        & > .live-table--strong { color: $foreground; text-style: bold; }
        & > .live-table--plain { color: $foreground; }
        &.-stale > .live-table--good, &.-stale > .live-table--bad, &.-stale > .live-table--busy,
        &.-stale > .live-table--waiting, &.-stale > .live-table--muted,
        &.-stale > .live-table--strong, &.-stale > .live-table--plain {
            color: $foreground 40%; text-style: italic;
        }
    }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "live-table--header",
        "live-table--cursor",
        "live-table--mark",
        "live-table--plain",
        *(f"live-table--{tone}" for tone in TONES),
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "move(-1000000)", "First", show=False),
        Binding("end,G", "move(1000000)", "Last", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    cursor = reactive(0, repaint=False)
    """Index of the row with the cursor."""

    @dataclass
    class Highlighted(Message):
        """The cursor has come to another row; "" when there is none left."""

        table: "LiveTable"
        key: str

        @property
        def control(self) -> "LiveTable":
            """The table."""
            return self.table

    @dataclass
    class OrderWished(Message):
        """Somebody wants the rows ordered by this column, or the other way round."""

        table: "LiveTable"
        column: str

        @property
        def control(self) -> "LiveTable":
            """The table."""
            return self.table

    @dataclass
    class Chosen(Message):
        """A row was chosen, with Enter or a double click."""

        table: "LiveTable"
        key: str

        @property
        def control(self) -> "LiveTable":
            """The table."""
            return self.table

    def __init__(
        self,
        columns: tuple[Column, ...],
        *,
        placeholder: str = "",
        has_cursor: bool = True,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.can_focus = self._has_cursor = has_cursor
        self._columns = columns
        self._placeholder = placeholder
        self._keys: tuple[str, ...] = ()
        self._places: dict[str, int] = {}
        self._cells_of: CellsOf = lambda _index: ()
        self._painted: dict[int, tuple[str, tuple[Cell, ...]]] = {}
        self._strips: dict[int, Strip] = {}
        self._layout: tuple[tuple[int, int], ...] = ()
        self._widths = {column.key: column.width for column in columns}
        self._told = ""
        self._marked: frozenset[str] = frozenset()
        self._styles: dict[tuple[str, bool], Style] = {}
        self._order = Order()
        self.lines_painted = 0
        """How many lines were rendered so far; what measures the painting."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The rows' keys, from top to bottom."""
        return self._keys

    @property
    def key(self) -> str:
        """The key of the row with the cursor, "" where there is none."""
        return self._keys[self.cursor] if self.cursor < len(self._keys) else ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, also those that have no room now."""
        return self._columns

    def show(self, keys: Iterable[str], cells_of: CellsOf, *, key: str = "") -> None:
        """Show these rows; only lines in sight that differ are painted again.

        Args:
            keys: From top to bottom, each once.
            cells_of: Gives the cells of the row at a position, whenever they are needed.
            key: Put the cursor there; "" keeps it where it is.
        """
        key = key or self.key
        count = len(self._keys)
        keys = tuple(keys)
        self._cells_of = cells_of
        if keys != self._keys:
            self._keys = keys
            self._places = {each: place for place, each in enumerate(keys)}
        if len(keys) != count:
            self.virtual_size = Size(self.scrollable_content_region.width, len(keys) + 1)
            self._forget_strips()
            self.refresh()
        else:
            self._repaint_what_differs()
        found = self._places.get(key)
        self.cursor = min(self.cursor, max(0, len(keys) - 1)) if found is None else found
        self._tell()

    def mark(self, keys: frozenset[str]) -> None:
        """Show which rows are chosen."""
        for key in self._marked ^ keys:
            if (place := self._places.get(key)) is not None:
                self._repaint_row(place)
        self._marked = keys

    def set_order(self, order: Order) -> None:
        """Show by which column the rows are ordered."""
        if order != self._order:
            self._order = order
            self.refresh()

    def _repaint_what_differs(self) -> None:
        top = self.scroll_offset.y
        in_sight = range(top, top + self.scrollable_content_region.height)
        for index in [*self._painted]:
            if index not in in_sight or index >= len(self._keys):
                # Out of sight: rendered anew when it is looked at.
                self._painted.pop(index)
                self._strips.pop(index, None)
            elif self._painted[index] != (self._keys[index], self._cells_of(index)):
                self._repaint_row(index)

    def _forget_strips(self) -> None:
        self._strips.clear()
        self._painted.clear()

    def set_width(self, column: str, width: int) -> None:
        """Give a column another width, as for names that are longer than most."""
        if self._widths[column] != width:
            self._widths[column] = width
            self._lay_out()

    def set_placeholder(self, text: str) -> None:
        """Say something else while there are no rows."""
        self._placeholder = text
        if not self._keys:
            self.refresh()

    def set_stale(self, is_stale: bool) -> None:
        """Show that what is shown is old, or that it isn't any more."""
        if self.has_class("-stale") != is_stale:
            self.set_class(is_stale, "-stale")
            self.notify_style_update()
            self.refresh()

    # ------------------------------------------------------------------ cursor

    def action_move(self, rows: int) -> None:
        """Move the cursor by so many rows."""
        self.cursor = max(0, min(len(self._keys) - 1, self.cursor + rows))

    def action_page(self, pages: int) -> None:
        """Move the cursor by so many pages."""
        self.action_move(pages * max(1, self.size.height - 2))

    def action_choose(self) -> None:
        """Choose the row with the cursor."""
        if self.key:
            self.post_message(self.Chosen(self, self.key))

    def watch_cursor(self, before: int, after: int) -> None:
        """Paint the two rows, and keep the cursor in sight."""
        self._repaint_row(before)
        self._repaint_row(after)
        # The header lies over the first line of the viewport.
        self.scroll_to_region(
            Region(0, after, 1, 2), animate=False, force=True, x_axis=False, immediate=True
        )
        self._tell()

    def _tell(self) -> None:
        if self.key != self._told:
            self._told = self.key
            self.post_message(self.Highlighted(self, self.key))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row; twice: choose it; a title: order by that."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            if column := self._column_at(offset.x):
                self.post_message(self.OrderWished(self, column))
            return
        index = offset.y - 1 + self.scroll_offset.y
        if index < len(self._keys):
            self.cursor = index
            if event.chain == 2:
                self.action_choose()

    def _column_at(self, x: int) -> str:
        at = 2
        for position, size in self._layout:
            if at <= x < at + size:
                return self._columns[position].key
            at += size + 1
        return ""

    # ---------------------------------------------------------------- painting

    def on_resize(self) -> None:
        """Choose the columns anew."""
        self._lay_out()

    def watch_show_vertical_scrollbar(self) -> None:
        """The scrollbar takes a column, or gives it back."""
        self._lay_out()

    def on_focus(self) -> None:
        """The cursor has another colour now."""
        self._styles.clear()
        self._repaint_row(self.cursor)

    def on_blur(self) -> None:
        """The cursor has another colour now."""
        self._styles.clear()
        self._repaint_row(self.cursor)

    def notify_style_update(self) -> None:
        """Another theme: everything has other colours."""
        super().notify_style_update()
        self._styles.clear()
        self._strips.clear()

    def render_line(self, y: int) -> Strip:
        """The header, then the rows from where it is scrolled to."""
        width = self.scrollable_content_region.width
        if y == 0:
            return self._header(width)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self._keys):
            text = self._placeholder if not self._keys and y == 1 else ""
            style = self._style("muted")
            return Strip([Segment(fit_text(f" {text}", width), style)], width)
        if (strip := self._strips.get(index)) is None:
            strip = self._strips[index] = self._row(index, width)
            self.lines_painted += 1
        return strip

    def _lay_out(self) -> None:
        columns = tuple(replace(each, width=self._widths[each.key]) for each in self._columns)
        self._layout = fit_columns(columns, self.scrollable_content_region.width - 2)
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._keys) + 1)
        self._strips.clear()
        self.refresh()

    def _repaint_row(self, index: int) -> None:
        self._strips.pop(index, None)
        self.refresh_line(index + 1)

    def _header(self, width: int) -> Strip:
        style = self._style("header")
        titles = []
        for position, size in self._layout:
            column = self._columns[position]
            title = column.title
            if column.key == self._order.column:
                title = f"{title[: size - 1]}{'▾' if self._order.descending else '▴'}"
            titles.append(fit_text(title, size, is_right=column.is_right))
        return Strip([Segment(fit_text(f"  {' '.join(titles)}", width), style)], width)

    def _row(self, index: int, width: int) -> Strip:
        key, cells = self._keys[index], self._cells_of(index)
        self._painted[index] = key, cells
        has_cursor = self._has_cursor and index == self.cursor
        is_bright = has_cursor and self.has_focus
        row_style = self._style("cursor") if has_cursor else self._style("")
        sign = ("▸" if has_cursor else " ") + ("●" if key in self._marked else " ")
        segments = [Segment(sign, row_style if is_bright else self._style("mark", has_cursor))]
        used = 2
        for position, size in self._layout:
            cell = cells[position]
            text = fit_text(cell.text, size, is_right=self._columns[position].is_right)
            style = row_style if is_bright else self._style(cell.tone or "plain", has_cursor)
            segments.append(Segment(text + " ", style))
            used += size + 1
        if used < width:
            segments.append(Segment(" " * (width - used), row_style))
            return Strip(segments, width)
        return Strip(segments, used).crop(0, width)

    def _style(self, name: str, has_cursor: bool = False) -> Style:
        """The style of a component's letters, on the ground of the table or of the cursor.

        Asking the stylesheet for one costs as much as painting a cell.
        """
        found = self._styles.get((name, has_cursor))
        if found is None:
            if name == "cursor":
                found = self.get_component_rich_style("live-table--cursor")
            elif not name:
                found = self.rich_style
            else:
                ground = self._style("cursor") if has_cursor else self._style("")
                found = ground + self._letters(f"live-table--{name}")
            self._styles[name, has_cursor] = found
        return found

    def _letters(self, name: str) -> Style:
        """A component's colour of letters, blended with the table's ground, without the ground."""
        style = self.get_component_rich_style(name)
        return Style(color=style.color, bold=style.bold, italic=style.italic)
