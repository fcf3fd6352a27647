"""The console on a real local cloud, by keys."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gcloud_ops import groups, launching, sweeps
from gcloud_ops.clients import Clients
from gcloud_ops.contract import timestamp
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import ExperimentStatus, Sweep
from gcloud_ops.settings import Settings
from sinergym_tui import changes
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.launch import LaunchScreen

from .conftest import (
    SIZES,
    LocalCloud,
    console,
    launch,
    pick,
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


HOSTILE_TEXT = HOSTILE.decode(errors="replace")


def assert_harmless(app: Console) -> None:
    """No control character is on the screen, and what looks like markup is there as it is."""
    shown = text_of(app)
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in shown if sign != "\n")


def sweep_file(folder: Path, name: str, text: str = "") -> Path:
    """A file with a sweep of two."""
    path = folder / f"{name}.yaml"
    text = text or f"name: {name}\ndispatch: ssh\nexperiments:\n  - echo one\n  - echo two\n"
    path.write_text(text)
    return path


@SIZES
@pytest.mark.slow
async def test_a_sweep_is_launched_watched_and_read(
    size: tuple[int, int], settings: Settings, clients: Clients, tmp_path: Path
) -> None:
    """From the file to the log, by keys alone; the screen shows what the cloud says."""
    name = f"by-keys-{size[0]}"
    sweep_file(tmp_path, name)
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l")
        await pick(pilot, f"{name}.yaml")
        await until_shown(pilot, "dispatch: ssh", "2 × n2-highcpu-8", "(will be made)", "2 VMs")
        assert sweeps.list_sweeps(clients) == ()
        assert groups.get_group(clients, name) is None

        await pilot.press("ctrl+l")
        await until_shown(pilot, f"Launch sweep {name}?", "it costs $0.6", "No")
        await pilot.press("enter", "ctrl+l")
        await until_shown(pilot, f"Launch sweep {name}?")
        await pilot.press("tab", "enter")
        await until(pilot, lambda: not isinstance(app.screen, LaunchScreen), "it is launched")
        await pilot.press("q")
        await until_shown(pilot, "Leave while a change is under way?", f"launch {name}")
        await pilot.press("enter")  # Stay
        await until_shown(pilot, "launched: 2 have their command", f"▸ {name}")
        await pilot.press("enter")
        await until_shown(pilot, f"sweeps › {name}", "◔ starting", "RUNNING")

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
        await pilot.press("down", "o")
        await until_shown(pilot, f"{name} › {name}-0002 › log", "submit -- 'echo two'")
        await pilot.press("escape")

        # What the bucket holds of one that has ended.
        write_log(clients, name, 1, 0, b"first line\nsecond line\n")
        write_log(clients, name, 1, 23, b"third line\n")
        for number, state, code in ((1, "failed", 3), (2, "finished", 0)):
            write_record(
                clients,
                name,
                number,
                state=state,
                ended=timestamp(datetime.now(UTC)),
                exit={"code": code, "signal": None, "kind": "error", "hint": "why it failed"},
            )
        await until_shown(pilot, "✗ failed", "✓ finished", "✗ 1 failed")
        await pilot.press("up")
        await until_shown(pilot, "exit 3: why it failed")
        await pilot.press("enter")
        await until_shown(pilot, "the program ended with an error", "read the end of its log")
        await pilot.press("o")
        await until_shown(pilot, "first line", "second line", "third line", "the log's end")
        assert text_of(app).count("first line") == 1
        await pilot.press("escape", "escape", "escape")
        await until_shown(pilot, "2/2 1✗", "✗ failed")


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
        await until_shown(pilot, f"▸ {name}", "2 VMs")
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


@pytest.mark.slow
async def test_read_only_refuses_keys_and_core(settings: Settings, clients: Clients) -> None:
    """Every change is refused twice; looking goes on."""
    launch(clients, "kept")
    app = console(settings, read_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "read-only", "▸ kept")
        assert "Launch" not in text_of(app)
        await pilot.press("l", "c", "d", "R")
        await pilot.pause()
        assert app.screen is app.screen_stack[0]
        await pilot.press("question_mark")
        await until_shown(pilot, "On this screen")
        assert "Cancel the sweep" not in text_of(app)
    fleet = Fleet(clients, read_only=True)
    assert fleet.observe().sweeps[0].name == "kept"
    plan = launching.plan(Sweep.of_commands("more", ["true"]), clients)
    for change in (
        lambda: changes.planned(fleet, Path("any.yaml")),
        lambda: changes.cancel(fleet, "kept", (), print),
        lambda: changes.cancel(fleet, "kept", ("kept-0001",), print),
        lambda: changes.delete(fleet, "kept", print),
        lambda: changes.launch(fleet, plan, print),
        lambda: changes.resume(fleet, "kept", print),
        lambda: changes.rerun(fleet, "kept", ("kept-0001",), print),
        lambda: changes.restart_containers(fleet, "kept", ("kept-0001",), print),
    ):
        with pytest.raises(InvalidRequest, match="read-only"):
            change()
    assert groups.get_group(clients, "kept") is not None


@SIZES
@pytest.mark.slow
async def test_hostile_text_is_shown_as_text(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """Nothing from outside moves the cursor, sets a clipboard, makes a link or is markup."""
    name = f"hostile-{size[0]}"
    launch(clients, name, 1)
    app = console(settings)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until_shown(pilot, f"▸ {name}")
        write_record(
            clients,
            name,
            1,
            state="failed",
            versions={HOSTILE_TEXT: HOSTILE_TEXT},
            exit={"code": 1, "signal": HOSTILE_TEXT, "kind": HOSTILE_TEXT, "hint": HOSTILE_TEXT},
        )
        write_log(clients, name, 1, 0, HOSTILE + b"x" * 100_000 + b"\nlast line\n")
        evil = "[red]markup[/] [/closing] [@click=app.quit]x[/]"
        await pilot.press("enter")
        await until_shown(pilot, "✗ failed", "link [red]markup")
        assert_harmless(app)
        await pilot.press("enter")
        await until_shown(pilot, "timeline".capitalize(), "[@click=app.quit]x[/]")
        assert_harmless(app)
        await pilot.press("o")
        await until_shown(pilot, "last line", evil)
        await pilot.press("w", "t", "slash", *"[red]", "enter")
        assert_harmless(app)
        app.tell(HOSTILE_TEXT)
        await until_shown(pilot, "[/closing]")
        assert_harmless(app)
        await pilot.press("escape", "escape", "escape", "escape")
        await until_shown(pilot, "1 sweep")
        await pilot.press("c")
        await until_shown(pilot, f"Cancel sweep {name}?")
        assert_harmless(app)
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
            await until_shown(pilot, "▸ stays")
            await pilot.press("enter")
            await until_shown(pilot, "stays-0001", "RUNNING")
            cloud.stop()
            await until_shown(pilot, "⚠", " old", "stays-0001", seconds=40)
            assert app.screen.query_one("#table").has_class("-stale")
            await pilot.press("down", "up", "question_mark", "escape")
            cloud.start()
            await until_shown(pilot, "updated 0s ago", seconds=40)
            assert not app.screen.query_one("#table").has_class("-stale")
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
async def test_help_and_palette(size: tuple[int, int], settings: Settings) -> None:
    """They come and go with a key."""
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("question_mark")
        await until_shown(pilot, "Keys · sweeps", "Launch a sweep; shows what it will create")
        await pilot.press("escape")
        await pilot.press("ctrl+p", *"refr")
        await until_shown(pilot, "Look at the cloud now")
        await pilot.press("escape", "escape")
        await pilot.press("ctrl+p", *"incid")
        await until_shown(pilot, "Incidents (2)")
        await pilot.press("down", "enter")
        await until_shown(pilot, "incidents and messages")
        await pilot.press("1")
        await until_shown(pilot, "0 sweeps")
        await pilot.press("q")
    assert app.return_value == 0


@pytest.mark.parametrize(
    ("reasons", "sentence"),
    [
        ({launching.FOR_CONTAINER: 3}, "3 wait for its container to be ready"),
        (
            {"ZONE_RESOURCE_POOL_EXHAUSTED": 25, launching.FOR_INSTANCE: 1},
            "25 wait: the zone has no such machines at the moment; 1 wait for its instance to run",
        ),
        ({}, "nothing is waited for any more"),
    ],
)
def test_what_a_launch_waits_for_is_said_in_words(reasons: dict[str, int], sentence: str) -> None:
    """Codes of Compute Engine's, too."""
    assert changes.describe(launching.Waiting(reasons=reasons)) == sentence
