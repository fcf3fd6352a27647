"""The screens, key by key, on one local cloud: filter, order, choice, logs, changes of some."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from gcloud_ops import sweeps
from gcloud_ops.clients import Clients
from gcloud_ops.contract import timestamp
from gcloud_ops.model import ExperimentStatus
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.config import Config
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.widgets.live_table import LiveTable

from .conftest import SIZES, console, launch, text_of, until, until_shown, write_log, write_record

NAME = "study"
NOW = datetime.now(UTC)
TABLE = b"time/total_timesteps,rollout/ep_rew_mean\n" + b"".join(
    b"%d,%.1f\n" % (number * 100, -500 + number * 5) for number in range(1, 60)
)


@pytest.fixture(scope="module")
def study(_cloud: Settings) -> Iterator[Settings]:
    """A sweep of five: one of each fate."""
    settings = replace(_cloud, bucket="b-study-of-screens")
    clients = Clients.connect(settings)
    launch(clients, NAME, 5)
    ended = timestamp(NOW - timedelta(minutes=3))
    running = {"episode": 3, "episodes": 10, "timesteps": 300, "total_timesteps": 1000}
    write_record(
        clients,
        NAME,
        1,
        state="running",
        started=timestamp(NOW - timedelta(minutes=9)),
        progress={**running, "mean_reward": -300.0},
    )
    write_record(
        clients,
        NAME,
        2,
        state="failed",
        ended=ended,
        exit={"code": 137, "signal": None, "kind": "oom", "hint": "7.6 GB were used"},
        history=[
            {"attempt": 1, "kind": "preempted", "hint": "", "started": ended, "ended": ended}
        ],
        progress={**running, "mean_reward": -100.0},
    )
    write_record(
        clients,
        NAME,
        3,
        state="finished",
        ended=ended,
        exit={"code": 0, "signal": None, "kind": "ok", "hint": ""},
        progress={**running, "mean_reward": -200.0},
    )
    lines = [
        b"sinergym-runner: the command runs",
        *(b"INFO step %d" % number for number in range(200)),
        b"ERROR it broke",
        b"x" * 300 + b"END",
    ]
    write_log(clients, NAME, 2, 0, b"\n".join(lines) + b"\n")
    write_log(clients, NAME, 3, 0, b"INFO all is well\n")
    blob = clients.storage.bucket(settings.bucket_name).blob
    blob(f"{NAME}/{NAME}-0002/output/progress.csv").upload_from_string(TABLE)
    blob(f"{NAME}/{NAME}-0002/output/best_model/model.zip").upload_from_string(b"x" * 5000)
    yield settings
    sweeps.delete(NAME, clients, force=True)


def table_of(app: Console) -> LiveTable:
    """The table of the screen in view."""
    return app.screen.query_one("#table", LiveTable)


async def go_in(pilot: Pilot[Any]) -> None:
    """To the sweep's experiments."""
    await until_shown(pilot, f"▸ {NAME}")
    await pilot.press("enter")
    await until_shown(pilot, f"sweeps › {NAME}", f"{NAME}-0005")


@SIZES
@pytest.mark.slow
async def test_rows_are_filtered_ordered_and_chosen(
    size: tuple[int, int], study: Settings
) -> None:
    """As soon as it is typed, and until Esc."""
    app = console(study)
    async with app.run_test(size=size, notifications=True) as pilot:
        await go_in(pilot)
        # In one go, as when it is pasted: no letter is taken for a key.
        await pilot.press("slash", *"!status:run 000")
        assert table_of(app).keys == tuple(f"{NAME}-{n:04d}" for n in (2, 3, 4, 5))
        await until_shown(pilot, "4 of 5")
        await pilot.press("enter", "down", "space", "space")
        await until_shown(pilot, "● 2 chosen")
        await pilot.press("escape")
        await until_shown(pilot, "▶ running", "● 2 chosen")
        await pilot.press("escape")
        await until(pilot, lambda: "chosen" not in text_of(app), "nothing is chosen")

        for _ in range(5):  # id, status, progress, pace, reward
            await pilot.press("greater_than_sign")
        await until_shown(pilot, "Reward▴")
        assert table_of(app).keys[:3] == tuple(f"{NAME}-{n:04d}" for n in (1, 3, 2))
        await pilot.press("I")
        assert table_of(app).keys[:3] == tuple(f"{NAME}-{n:04d}" for n in (2, 3, 1))
        await pilot.press("a")
        await until_shown(pilot, "● 5 chosen")


async def test_a_click_on_a_title_orders(study: Settings) -> None:
    """Twice: the other way round. A click on a key in the footer does what the key does."""
    app = console(study)
    async with app.run_test(size=(100, 30)) as pilot:
        await go_in(pilot)
        await pilot.click("#table", offset=(16, 0))
        await until_shown(pilot, "Status▴")
        await pilot.click("#table", offset=(16, 0))
        await until_shown(pilot, "Status▾")
        await pilot.click("#keys", offset=(2, 0))
        await until_shown(pilot, "1 sweep ")


@SIZES
async def test_an_experiment_shows_all_that_is_known(
    size: tuple[int, int], study: Settings
) -> None:
    """Reasons, what to do, timeline, outputs; its curve plotted, or drawn in a few lines."""
    app = console(study)
    async with app.run_test(size=size, notifications=True) as pilot:
        await go_in(pilot)
        await pilot.press("down", "enter")
        await until_shown(
            pilot, "oom · code 137 · ran out of memory", "take a machine type with more memory"
        )
        facts = app.screen.query_one("#facts", Static)
        await until(pilot, lambda: "best_model/model.zip" in str(facts.content), "the outputs")
        text = str(facts.content)
        assert "attempt 1: preempted" in text
        assert f"gs://{study.bucket_name}/{NAME}/{NAME}-0002/" in text
        if size[0] > 120:
            await until_shown(pilot, "mean reward of an episode", "time steps", "-400")
            assert "Learning curve" not in text
        else:
            assert "mean reward of an episode, time steps 100 to 5.9k" in text
        await pilot.press("right_square_bracket")
        await until_shown(pilot, f"{NAME}-0003", "✓ finished")
        await pilot.press("left_square_bracket", "left_square_bracket")
        await until_shown(pilot, f"{NAME}-0001", "▶ running")


@SIZES
@pytest.mark.slow
async def test_logs_are_merged_searched_filtered_and_saved(
    size: tuple[int, int], study: Settings, tmp_path: Path
) -> None:
    """Two logs in one; what is typed counts at once; what is shown is saved."""
    app = console(study, folder=tmp_path)
    async with app.run_test(size=size, notifications=True) as pilot:
        await go_in(pilot)
        await pilot.press("down", "space", "space", "o")
        # Whichever of the two came first: both are there.
        await until_shown(pilot, "the logs' end", "▼ following", "205 lines")
        await pilot.press("ampersand", *"it broke|all is well", "enter")
        await until_shown(pilot, "0002 │ ERROR it broke", "0003 │ INFO all is well", "2 of 205")
        await pilot.press("escape")
        await until_shown(pilot, " 205 lines")

        await pilot.press("slash", *"step 17$", "enter")
        await until_shown(pilot, "INFO step 17 ", "‖ paused")
        await pilot.press("slash", "ctrl+u", *"nowhere")
        await until_shown(pilot, "not found")
        await pilot.press("escape")

        await pilot.press("ampersand", *"!info", "enter")
        await until_shown(pilot, "ERROR it broke", "4 of 205 lines", "only !info")
        assert "INFO step" not in text_of(app)
        await pilot.press("w")
        await until_shown(pilot, "END", "wrapped")
        await pilot.press("t")
        await pilot.press("s")
        await until_shown(pilot, "save to")
        await pilot.press("ctrl+u", *"some.log", "enter")
        await until_shown(pilot, "4 lines are in")
        saved = (tmp_path / "some.log").read_text()
        assert "ERROR it broke" in saved
        assert "INFO" not in saved

        await pilot.press("s", "ctrl+u", *"~no-such-user/some.log", "enter")
        await until_shown(pilot, "save 4 lines failed: RuntimeError")
        await pilot.press("s", "ctrl+u", *"some.log", "enter")
        await until_shown(pilot, "failed: FileExistsError")

        await pilot.press("S", *"5m", "enter")
        await until_shown(pilot, "since 5m", "no line passes the filter")
        await pilot.press("escape")
        await until_shown(pilot, " 205 lines")
        await pilot.press("escape")
        await until_shown(pilot, "chosen")


@pytest.mark.slow
async def test_the_end_of_an_experiment_in_view_is_told_with_its_outputs(
    settings: Settings, clients: Clients
) -> None:
    """What came last to the bucket is shown at once; the line of events tells of it everywhere."""
    launch(clients, "ends", 2)
    for number in (1, 2):
        write_record(clients, "ends", number, state="running")
    app = console(settings)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "▸ ends", "▶ running")
        await pilot.press("enter")
        await until_shown(pilot, "ends-0001", "ends-0002")
        await pilot.press("enter")
        await until_shown(pilot, "ends › ends-0001", "▶ running")
        facts = app.screen.query_one("#facts", Static)
        await until(pilot, lambda: "0, 0 B" in str(facts.content), "no outputs yet")

        blob = clients.storage.bucket(settings.bucket_name).blob
        blob("ends/ends-0001/output/progress.csv").upload_from_string(TABLE)
        end = {"code": 0, "signal": None, "kind": "ok", "hint": ""}
        over = {"state": "finished", "exit": end}
        write_record(clients, "ends", 1, ended=timestamp(datetime.now(UTC)), **over)
        await until_shown(pilot, "✓ finished", "Learning curve", "ends: 0001 finished")
        await pilot.press("escape", "escape")
        write_record(clients, "ends", 2, ended=timestamp(datetime.now(UTC)), **over)
        await until_shown(pilot, "2/2", "ends: 0002 finished")


@pytest.mark.slow
async def test_some_are_cancelled_and_run_again(study: Settings) -> None:
    """The question names them; Cancel has the focus; what was chosen is done, and no more."""
    clients = Clients.connect(study)
    app = console(study)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await go_in(pilot)
        await pilot.press("slash", *"0004", "enter", "space", "c")
        await until_shown(pilot, f"Cancel 1 experiment of sweep {NAME}?", f"• {NAME}-0004")
        await pilot.press("tab", "enter")
        await until_shown(pilot, "⊘ cancelled", seconds=30)
        found = {row.id: row.status for row in sweeps.status(NAME, clients).rows}
        assert found[f"{NAME}-0004"] is ExperimentStatus.CANCELLED
        assert found[f"{NAME}-0001"] is ExperimentStatus.RUNNING

        await pilot.press("x")
        await until_shown(pilot, "nothing to restart")
        await pilot.press("R")
        await until_shown(pilot, f"Run 1 experiment of sweep {NAME} again?", f"• {NAME}-0004")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, ConfirmScreen), "no")
        await pilot.press("R", "tab", "enter")
        await until(
            pilot,
            lambda: "⊘ cancelled" not in text_of(app) and "study-0004" in text_of(app),
            "it runs again",
            seconds=30,
        )
        await pilot.press("J")
        await until_shown(pilot, "What goes on", "cancel 1 experiment", "rerun 1 experiment")


async def test_keys_and_theme_of_the_file_count(study: Settings) -> None:
    """In keys, footer and help."""
    config = Config(theme="nord", keys={"help": "f1", "sweeps.open": "o"})
    app = console(study, config=config)
    async with app.run_test(size=(100, 30)) as pilot:
        assert app.theme == "nord"
        await until_shown(pilot, f"▸ {NAME}", "F1 Help")
        await pilot.press("f1")
        await until_shown(pilot, "Keys · sweeps")
        await pilot.press("escape")


async def test_nothing_waits_for_a_look(study: Settings) -> None:
    """A key is answered while the cloud isn't."""
    app = console(study)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, f"▸ {NAME}")
        async with asyncio.timeout(5):
            await pilot.press("question_mark", "escape", "2", "1", "J", "escape")
