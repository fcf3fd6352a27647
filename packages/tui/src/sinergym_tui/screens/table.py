"""A screen with a table: its filter, its order, and the rows that are chosen."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.css.query import NoMatches
from textual.widgets import Static

from sinergym_tui.screens.frame import ConsoleScreen, styled, update_line
from sinergym_tui.views.cells import Cell, Column
from sinergym_tui.views.query import Order, arrange, parse_query
from sinergym_tui.widgets.live_table import LiveTable
from sinergym_tui.widgets.prompt import Prompt

__all__ = ["TableScreen"]


class TableScreen[T](ConsoleScreen):
    """Rows of one kind."""

    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    FILTERED_BY: ClassVar[str] = "words, column:text, !word"

    DEFAULT_CSS = """
    TableScreen {
        & #table { height: 1fr; }
        & #detail { color: $foreground 70%; background: $boost; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._order = Order()
        self._rows: list[T] = []
        self._marked: frozenset[str] = frozenset()

    # ------------------------------------------------------- what a screen says

    def rows(self) -> Sequence[T]:
        """All rows, as they come."""
        raise NotImplementedError

    def key(self, row: T) -> str:
        """What a row is known by."""
        raise NotImplementedError

    def cells(self, row: T, now: datetime) -> tuple[Cell, ...]:
        """A row's cells, in the order of the columns."""
        raise NotImplementedError

    def texts(self, row: T) -> Mapping[str, str]:
        """What a query can find of a row."""
        raise NotImplementedError

    def value(self, row: T, column: str) -> object:
        """What a row is ordered by."""
        raise NotImplementedError

    def summary(self, now: datetime) -> list[Cell]:
        """The line above the table."""
        raise NotImplementedError

    def detail(self, row: T | None) -> list[Cell]:
        """The line below the table, of the row with the cursor."""
        raise NotImplementedError

    @property
    def placeholder(self) -> str:
        """What is said where there are no rows."""
        return ""

    # --------------------------------------------------------------- the screen

    def body(self) -> ComposeResult:
        """A line of totals, the table, the row with the cursor in a line, what is typed."""
        yield Static("", id="summary", classes="line", markup=False)
        yield LiveTable(self.COLUMNS, id="table")
        yield Static("", id="detail", classes="line", markup=False)
        yield Prompt(id="prompt")

    def on_mount(self) -> None:
        """Begin in the table."""
        self.set_focus(self.table)

    @property
    def table(self) -> LiveTable:
        """The table."""
        return self.query_one("#table", LiveTable)

    @property
    def at_cursor(self) -> str:
        """The key of the row with the cursor; "" for none, and while the screen comes or goes.

        Keys, bindings and the poller ask at any time, also when it has no table yet or any more.
        """
        tables = self.query(LiveTable)
        return tables.first().key if tables else ""

    @property
    def prompt(self) -> Prompt:
        """Where the filter is typed."""
        return self.query_one(Prompt)

    @property
    def current(self) -> T | None:
        """The row with the cursor."""
        table = self.table
        return self._rows[table.cursor] if table.key and table.cursor < len(self._rows) else None

    @property
    def shown(self) -> Sequence[T]:
        """The rows that are shown, in their order."""
        return self._rows

    @property
    def chosen(self) -> list[str]:
        """The keys of the rows that are chosen; of the one with the cursor where none is."""
        marked = [key for row in self._rows if (key := self.key(row)) in self._marked]
        return marked or ([self.at_cursor] if self.at_cursor else [])

    def paint(self, now: datetime) -> None:
        """Show the rows that the filter lets through, in their order."""
        table, prompt = self.table, self.prompt
        rows = self.rows()
        query = parse_query(prompt.text if prompt.what else "", self._query_columns(rows))
        found = arrange(rows, query, self._order, texts=self.texts, value=self.value)
        self._rows = found
        self._marked &= {self.key(row) for row in rows} if self._marked else set()
        if query.terms:
            prompt.note(f"{len(found)} of {len(rows)}")
            table.set_placeholder("no row has these words; Esc shows all")
        else:
            prompt.note("")
            table.set_placeholder(self.placeholder)
        table.show(map(self.key, found), lambda index: self.cells(found[index], now))
        table.mark(self._marked)
        table.set_order(self._order)
        table.set_stale(bool(self.view.trouble))
        marked = [Cell(f"● {len(self._marked)} chosen", "waiting")] if self._marked else []
        update_line(self.query_one("#summary", Static), styled([*marked, *self.summary(now)]))
        self._paint_detail()

    def can(self, action: str) -> bool | None:
        """Whether there is a row to do it to."""
        if action == "back":
            return bool(self.prompt.what or self._marked or self.crumbs)
        if action in {"filter", "sort_next", "sort_previous", "sort_reverse", "launch"}:
            return True
        return True if self.at_cursor else None

    def action_filter(self) -> None:
        """Type a filter."""
        self.prompt.ask("filter", "/", text=self.prompt.text, placeholder=self.FILTERED_BY)
        self.repaint()

    def action_sort_next(self) -> None:
        """Order by the next column."""
        self._order_by(1)

    def action_sort_previous(self) -> None:
        """Order by the column before."""
        self._order_by(-1)

    def action_sort_reverse(self) -> None:
        """Order the other way round."""
        column = self._order.column or self.COLUMNS[0].key
        self._order = Order(column=column, descending=not self._order.descending)
        self.repaint()

    def action_mark(self) -> None:
        """Choose the row with the cursor, or no more."""
        if self.table.key:
            self._marked ^= {self.table.key}
            self.table.action_move(1)
            self.repaint()

    def action_mark_all(self) -> None:
        """Choose all rows that are shown, or none."""
        every = frozenset(map(self.key, self._rows))
        self._marked = self._marked - every if every <= self._marked else self._marked | every
        self.repaint()

    async def action_back(self) -> None:
        """Out of the filter, out of the choice, then back."""
        if self.prompt.what:
            self.prompt.action_leave()
        elif self._marked:
            self._marked = frozenset()
            self.repaint()
        elif self.crumbs:
            self.console.go_back()

    def _order_by(self, step: int) -> None:
        names = ["", *(column.key for column in self.COLUMNS)]
        at = (names.index(self._order.column) + step) % len(names)
        self._order = Order(column=names[at], descending=self._order.descending)
        self.repaint()

    def _query_columns(self, rows: Sequence[T]) -> list[str]:
        return [name for name in self.texts(rows[0]) if name] if rows else []

    def _paint_detail(self) -> None:
        line = self.query_one("#detail", Static)
        update_line(line, styled(self.detail(self.current)) if self.current else Content(""))

    @on(LiveTable.OrderWished, "#table")
    def _order_by_title(self, message: LiveTable.OrderWished) -> None:
        again = message.column == self._order.column
        descending = not self._order.descending if again else False
        self._order = Order(column=message.column, descending=descending)
        self.repaint()

    @on(LiveTable.Highlighted, "#table")
    def _show_detail(self) -> None:
        with suppress(NoMatches):  # it is being taken down
            self._paint_detail()
            self.paint_keys()

    @on(Prompt.Changed, "#prompt")
    def _filter(self) -> None:
        self.repaint()

    @on(Prompt.Answered, "#prompt")
    def _keep_filter(self, message: Prompt.Answered) -> None:
        if not message.text:
            self.prompt.close()
        self.set_focus(self.table)
        self.repaint()

    @on(Prompt.Left, "#prompt")
    def _drop_filter(self) -> None:
        self.set_focus(self.table)
        self.repaint()
