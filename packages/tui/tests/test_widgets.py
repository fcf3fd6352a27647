"""The table and the log by themselves, with made-up rows."""

import pytest
from textual.app import App, ComposeResult

from sinergym_tui.views.cells import Cell, Column
from sinergym_tui.views.logbook import LogLine
from sinergym_tui.widgets.live_table import LiveTable
from sinergym_tui.widgets.log_view import LogView

COLUMNS = (
    Column(key="name", title="Name", width=10, rank=0),
    Column(key="value", title="Value", width=8, rank=1, is_right=True),
    Column(key="note", title="Note", width=12, rank=2, grows=True),
)


def rows(count: int, **changed: str) -> list[tuple[str, tuple[Cell, ...]]]:
    """Rows a0, a1...; `a1="x"` gives that row another value."""
    return [
        (f"a{n}", (Cell(f"a{n}"), Cell(changed.get(f"a{n}", "0")), Cell("[red]note[/]", "muted")))
        for n in range(count)
    ]


type Rows = list[tuple[str, tuple[Cell, ...]]]


def show(table: LiveTable, made: Rows) -> None:
    """Show rows that are made already."""
    table.show((key for key, _ in made), lambda index: made[index][1])


def lines(*texts: str) -> list[LogLine]:
    """Lines of one log."""
    return [LogLine(0, None, text) for text in texts]


def is_following(log: LogView) -> bool:
    """Asked anew each time (a type checker takes an attribute to stay as it was)."""
    return log.following


class Stage(App[None]):
    """Nothing but a table and a log."""

    CSS = "LiveTable { height: 1fr; } LogView { height: 1fr; }"

    def compose(self) -> ComposeResult:
        """The two widgets."""
        yield LiveTable(COLUMNS, placeholder="nothing", id="table")
        yield LogView(keep=1000, id="log")

    @property
    def table(self) -> LiveTable:
        """The table."""
        return self.query_one(LiveTable)

    @property
    def log_view(self) -> LogView:
        """The log."""
        return self.query_one(LogView)

    @property
    def text(self) -> str:
        """What the terminal shows."""
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())


async def test_only_rows_that_changed_are_painted() -> None:
    """One cell of a thousand rows costs one line."""
    app = Stage()
    async with app.run_test(size=(80, 48)) as pilot:
        show(app.table, rows(1000))
        await pilot.pause()
        before = app.table.lines_painted

        show(app.table, rows(1000))
        await pilot.pause()
        assert app.table.lines_painted == before

        show(app.table, rows(1000, a3="7", a900="8"))
        await pilot.pause()
        assert app.table.lines_painted == before + 1
        assert any("a3" in line and "7" in line for line in app.text.splitlines())


async def test_the_cursor_stays_with_its_row() -> None:
    """Rows that come and go above it don't move the choice to another experiment."""
    app = Stage()
    async with app.run_test(size=(80, 24)) as pilot:
        show(app.table, rows(5))
        await pilot.press("down", "down")
        assert app.table.key == "a2"

        show(app.table, list(reversed(rows(8))))
        await pilot.pause()
        assert app.table.key == "a2"

        show(app.table, rows(1))
        assert app.table.key == "a0"
        show(app.table, [])
        assert app.table.key == ""
        await pilot.pause()
        assert "nothing" in app.text


async def test_the_cursor_is_always_in_sight() -> None:
    """Moving far scrolls the table; the header stays above."""
    app = Stage()
    async with app.run_test(size=(80, 24)) as pilot:
        show(app.table, rows(500))
        await pilot.pause()
        for keys, key in ((("end",), "a499"), (("home",), "a0"), (("pagedown",) * 3, "a30")):
            await pilot.press(*keys)
            await pilot.pause()
            assert app.table.key == key
            shown = app.text.splitlines()
            assert shown[0].strip().startswith("Name")
            assert any(line.startswith("▸ ") and key in line for line in shown)


async def test_a_scrollbar_takes_its_room_from_the_columns() -> None:
    """No title is cut when there are suddenly more rows than fit."""
    app = Stage()
    async with app.run_test(size=(36, 24)) as pilot:
        show(app.table, rows(5))
        await pilot.pause()
        assert "Note" in app.text
        show(app.table, rows(500))
        await pilot.pause()
        assert "…" not in app.text.splitlines()[0]
        assert "…" not in app.text.splitlines()[1]


async def test_cells_are_no_markup() -> None:
    """Brackets are shown as they are."""
    app = Stage()
    async with app.run_test(size=(80, 24)) as pilot:
        show(app.table, rows(2))
        await pilot.pause()
        assert "[red]note[/]" in app.text


async def test_a_click_puts_the_cursor_on_a_row() -> None:
    """The mouse works too."""
    app = Stage()
    async with app.run_test(size=(80, 24)) as pilot:
        show(app.table, rows(5))
        await pilot.pause()
        await pilot.click("#table", offset=(4, 4))
        assert app.table.key == "a3"


@pytest.mark.slow
async def test_the_log_follows_until_somebody_scrolls_up() -> None:
    """Scrolling up pauses, coming back to the end follows again; nothing fights the scroll."""
    app = Stage()
    async with app.run_test(size=(80, 24)) as pilot:
        log = app.log_view
        log.focus()
        log.append(lines(*(f"line {n}" for n in range(100))))
        await pilot.pause()
        assert "line 99" in app.text

        await pilot.press("pageup")
        await pilot.pause()
        assert not is_following(log)
        seen = app.text
        log.append(lines(*["later"] * 50))
        await pilot.pause()
        assert app.text.splitlines()[12:20] == seen.splitlines()[12:20]

        await pilot.press("end")
        await pilot.pause()
        assert is_following(log)
        log.append(lines("the newest"))
        await pilot.pause()
        assert "the newest" in app.text

        log.follow(False)
        assert not is_following(log)


async def test_the_log_is_bounded_and_stays_where_it_is_read() -> None:
    """Old lines go; who reads in the middle goes on reading the same lines."""
    app = Stage()
    async with app.run_test(size=(80, 24)) as pilot:
        log = app.log_view
        log.focus()
        log.append(lines(*(f"line {n}" for n in range(1000))))
        await pilot.pause()
        await pilot.press("pageup", "pageup")
        await pilot.pause()
        top = log.lines_in_sight()[0]

        for n in range(1000, 1400, 10):
            log.append(lines(*(f"line {m}" for m in range(n, n + 10))))
        await pilot.pause()

        assert len(log.book) <= 1100
        assert log.lines_in_sight()[0] == top


@pytest.mark.slow
async def test_a_line_that_is_longer_than_the_panel_is_marked() -> None:
    """The mark says that there is more; scrolling to the right shows it."""
    app = Stage()
    async with app.run_test(size=(80, 24)) as pilot:
        app.log_view.focus()
        app.log_view.append(lines("x" * 100 + "END"))
        await pilot.pause()
        assert f"{'x' * 70}" in app.text
        assert "›" in app.text
        await pilot.press(*["right"] * 40)
        await pilot.pause(0.5)
        assert "END" in app.text
