"""The console on a real local cloud, by keys."""

import threading
from pathlib import Path

import pytest

from gcloud_ops import groups, launching, sweeps
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import ExperimentStatus, Sweep
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.launch import LaunchScreen

from .conftest import (
    SIZES,
    LocalCloud,
    console,
    settings_for,
    text_of,
    until,
    until_shown,
    write_log,
    write_record,
)

HOSTILE = (
    b"\x1b]52;c;aGVsbG8=\x07\x1b]0;title\x07\x1b[2J\x9b31m"
    b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\ [red]markup[/] [/closing] "
    b"[@click=app.quit]x[/] \xff\xfe end\n"
)


def launch(clients: Clients, name: str, count: int = 2) -> None:
    """Launch a sweep without the console."""
    sweep = Sweep.of_commands(name, ["true"] * count)
    *_, last = launching.launch(launching.plan(sweep, clients), clients)
    assert last == launching.Launched(sent=count, failed=0, waiting=0)


def sweep_file(folder: Path, name: str, text: str = "") -> Path:
    """A file with a sweep of two."""
    path = folder / f"{name}.yaml"
    path.write_text(text or f"name: {name}\nexperiments:\n  - echo one\n  - echo two\n")
    return path


@SIZES
async def test_a_sweep_is_launched_watched_and_read(
    size: tuple[int, int], settings: Settings, clients: Clients, tmp_path: Path
) -> None:
    """From the file to the log, by keys alone; the screen shows what the cloud says."""
    name = f"by-keys-{size[0]}"
    sweep_file(tmp_path, name)
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l", *"by-")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen), "the form")
        await pilot.press("right")
        await until_shown(pilot, f"{name}.yaml")
        await pilot.press("enter")
        await until_shown(pilot, "2 × n2-highcpu-8", f"{name}-0001", "(will be made)")
        assert sweeps.list_sweeps(clients) == ()
        assert groups.get_group(clients, name) is None

        await pilot.press("tab", "enter", "q")
        await until_shown(pilot, "Leave while a launch is under way?")
        await pilot.press("enter")  # Stay
        await until_shown(pilot, "launched: 2 have their command", f"Experiments of {name}")
        await until_shown(pilot, "◔ starting", "RUNNING")

        write_record(
            clients,
            name,
            2,
            state="running",
            progress={
                "episode": 1,
                "episodes": 2,
                "timesteps": 5,
                "total_timesteps": 10,
                "mean_reward": -212.54,
            },
        )
        await until_shown(pilot, "▶ running", "██░░░  50% 1/2", "-212.5")

        # What the container prints, read over SSH from the VM.
        await pilot.press("enter", "down")
        await until_shown(pilot, f"Log of {name}-0002", "submit -- 'echo two'")

        # What the bucket holds of one that has ended.
        write_log(clients, name, 1, 0, b"first line\nsecond line\n")
        write_log(clients, name, 1, 23, b"third line\n")
        for number, state, code in ((1, "failed", 3), (2, "finished", 0)):
            write_record(
                clients,
                name,
                number,
                state=state,
                exit={"code": code, "signal": None, "kind": "error", "hint": "why it failed"},
            )
        await until_shown(pilot, "✗ failed", "✓ finished", "2/2 1✗")
        await pilot.press("up")
        await until_shown(pilot, f"Log of {name}-0001", "exit 3: why it failed")
        await until_shown(pilot, "first line", "second line", "third line", "the log's end")
        assert text_of(app).count("first line") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: Bad_Name\nexperiments: ['true']\n", "bad.yaml:1: name: 'Bad_Name' can't name"),
        ("name: bad\nexperimnts: ['true']\n", "bad.yaml:2: unknown key 'experimnts'"),
        ("name: bad\nexperiments: ['true']\ntemplate: none-such\n", "none-such"),
    ],
)
async def test_a_file_that_cannot_be_launched_says_why_and_creates_nothing(
    text: str, said: str, settings: Settings, clients: Clients, tmp_path: Path
) -> None:
    """One line, Launch stays disabled."""
    sweep_file(tmp_path, "bad", text)
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l", *"bad.yaml", "enter")
        await until(pilot, lambda: said in " ".join(text_of(app).replace("│", " ").split()), said)
        assert app.screen.query_one("#yes").disabled
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, LaunchScreen), "the form is gone")
    assert sweeps.list_sweeps(clients) == ()
    assert groups.get_group(clients, "bad") is None


async def test_another_path_needs_another_plan(settings: Settings, tmp_path: Path) -> None:
    """What is confirmed is what is shown."""
    sweep_file(tmp_path, "one")
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l", *"one.yaml", "enter")
        await until_shown(pilot, "2 × n2-highcpu-8")
        assert not app.screen.query_one("#yes").disabled
        await pilot.press("shift+tab", "x")
        await until(pilot, lambda: app.screen.query_one("#yes").disabled, "no plan any more")


@SIZES
@pytest.mark.slow
async def test_a_running_sweep_is_cancelled_by_its_name_and_then_deleted(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """No has the focus; the name must be typed while it has VMs; then it is gone entirely."""
    name = f"goes-{size[0]}"
    launch(clients, name)
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, f"Experiments of {name}", f"{name}-0002")
        await pilot.press("c")
        await until_shown(pilot, f"Cancel sweep {name}?", "2 VMs", "2 unfinished experiments")
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, ConfirmScreen), "No is the default")
        assert groups.get_group(clients, name) is not None

        await pilot.press("c", "tab", *name[:-1], "enter")
        assert app.screen.query_one("#yes").disabled
        await pilot.press(name[-1], "enter", "enter")
        await until_shown(pilot, f"{name}: cancelled", "⊘ cancelled")
        assert groups.get_group(clients, name) is None
        seen = sweeps.status(name, clients)
        assert set(seen.counts) == {ExperimentStatus.CANCELLED}

        await until_shown(pilot, "2/2")
        await pilot.press("d")
        await until_shown(pilot, f"Delete sweep {name} for good?", "records, logs, models")
        await pilot.press("tab", "enter")
        await until_shown(pilot, "no sweeps yet", f"{name}: deleted")
    assert sweeps.list_sweeps(clients) == ()


async def test_read_only_refuses_keys_and_core(settings: Settings, clients: Clients) -> None:
    """Every change is refused twice; looking goes on."""
    launch(clients, "kept")
    app = console(settings, read_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "read-only", "kept-0001")
        await pilot.press("l", "c", "d")
        await pilot.pause()
        assert app.screen is app.screen_stack[0]
    fleet = Fleet(clients, read_only=True)
    assert fleet.observe().sweeps[0].name == "kept"
    for change in (
        lambda: fleet.plan(Path("any.yaml")),
        lambda: fleet.cancel("kept", on_step=print),
        lambda: fleet.delete("kept", on_step=print),
        lambda: fleet.launch(launching.plan(Sweep.of_commands("more", ["true"]), clients)),
    ):
        with pytest.raises(InvalidRequest, match="read-only"):
            change()
    assert groups.get_group(clients, "kept") is not None


@SIZES
async def test_hostile_text_is_shown_as_text(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """Nothing from outside moves the cursor, sets a clipboard, makes a link or is markup."""
    name = f"hostile-{size[0]}"
    launch(clients, name, 1)
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, f"{name}-0001")
        write_record(
            clients,
            name,
            1,
            state="failed",
            exit={
                "code": 1,
                "signal": None,
                "kind": "error",
                "hint": HOSTILE.decode(errors="replace"),
            },
        )
        write_log(clients, name, 1, 0, HOSTILE + b"x" * 100_000 + b"\nlast line\n")
        await until_shown(pilot, "last line", "[red]markup[/] [/closing] [@click=app.quit]x[/]")
        await pilot.press("c")
        await until_shown(pilot, f"Cancel sweep {name}?")
        shown = text_of(app)
        assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in shown if sign != "\n")
        assert app.return_code is None


@pytest.mark.slow
async def test_an_interruption_keeps_what_is_shown_and_passes(tmp_path: Path) -> None:
    """The cloud goes away: the rows stay, with age and reason; it comes back: so do they."""
    cloud = LocalCloud(tmp_path)
    try:
        settings = settings_for(cloud.start(), tmp_path)
        launch(Clients.connect(settings), "stays", 1)
        app = console(settings)
        async with app.run_test(size=(100, 30)) as pilot:
            await until_shown(pilot, "stays-0001", "RUNNING")
            cloud.stop()
            await until_shown(pilot, "⚠", " old", "stays-0001", seconds=40)
            assert app.screen.query_one("#experiments").has_class("-stale")
            await pilot.press("down", "up", "question_mark", "escape")
            cloud.start()
            await until_shown(pilot, "updated 0s ago", seconds=40)
            assert not app.screen.query_one("#experiments").has_class("-stale")
    finally:
        cloud.stop()


async def test_no_connection_is_said_and_tried_again() -> None:
    """An error on the way to the cloud doesn't close the console; r tries again."""
    tries = threading.Semaphore(0)

    def connect(_tell: object) -> Fleet:
        tries.release()
        raise InvalidRequest("project: none is set", hint="give --project")

    app = Console(connect)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "project: none is set (give --project) - r tries again")
        assert tries.acquire(blocking=False)
        await pilot.press("r")
        await until(pilot, lambda: tries.acquire(blocking=False), "another try")
        await pilot.press("l", "c", "d")
        assert app.screen is app.screen_stack[0]


@SIZES
@pytest.mark.slow
async def test_help_zoom_and_palette(size: tuple[int, int], settings: Settings) -> None:
    """They come and go with a key."""
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("question_mark")
        await until_shown(pilot, "Launch a sweep from a file", "Ctrl+P")
        await pilot.press("escape")
        await pilot.press("tab", "tab", "z")
        await until(pilot, lambda: "Sweeps" not in text_of(app), "the log alone")
        await pilot.press("escape")
        await until_shown(pilot, "Sweeps", "Experiments")
        await pilot.press("escape", "escape")
        assert app.focused is not None
        assert app.focused.id == "sweeps"
        await pilot.press("ctrl+p", *"refr")
        await until_shown(pilot, "Look at the cloud now")
        await pilot.press("escape", "escape")
        await pilot.press("q")
    assert app.return_value == 0
