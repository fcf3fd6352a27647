"""The console on the local cloud as somebody new meets it: a terminal, keys, real trainings."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clouds import ROOT, Command
from tests.terminals import Tmux, shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def folder(command: Command, tmp_path: Path) -> Iterator[Path]:
    """The folder of a local cloud that nobody has started yet; after the test it is stopped."""
    yield tmp_path
    stopped = command("gcloud-ops", "local", "stop", timeout=90, env=its(tmp_path))
    assert stopped.returncode == 0, stopped.stderr
    deadline = time.monotonic() + 20  # the terminal ends at this moment
    while left := processes_of(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture
def tmux(environment: dict[str, str], folder: Path) -> Iterator[Tmux]:
    """A terminal of 80 x 24, in this repository."""
    with shell(ROOT, {**environment, **its(folder)}) as shown:
        yield shown


def its(folder: Path) -> dict[str, str]:
    """What leads commands to the local cloud of a folder."""
    return {"GCLOUD_OPS_LOCAL_FOLDER": str(folder)}


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that have to do with a folder, but for this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            surroundings = (process / "environ").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            continue
        if str(folder).encode() in words + surroundings and int(process.name) != os.getpid():
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def row_of(experiment: str, screen: str) -> str:
    """The line of an experiment in the table of its sweep."""
    return next((line for line in screen.splitlines() if line[2:].startswith(experiment)), "")


def test_the_demo_by_keys_alone(tmux: Tmux, folder: Path, command: Command) -> None:
    """Start, launch a file, watch two trainings finish, read a log, quit: nothing is left."""
    at_first = (tmux.switches, tmux.stty)
    tmux.enter("sinergym-tui --local")
    tmux.until("no sweeps yet: l launches one", seconds=120)

    tmux.press("l")
    tmux.until("Launch a sweep", "a sweep needs a name")
    tmux.press("C-o")
    tmux.until("Open a sweep file", "quick.yaml")
    tmux.enter("quick")
    tmux.until("launch › quick.yaml", "--algorithm PPO", "2 VMs", "$0.65 an hour")
    tmux.until("2 × n2-highcpu-8", "project local")
    tmux.press("C-l")
    tmux.until("Launch sweep quick?", "it costs $0.65 an hour", "2 VMs n2-highcpu-8")
    tmux.press("Tab", "Enter")
    tmux.until("▸ quick", "0/2")

    tmux.press("Enter")
    tmux.until("sweeps › quick", "quick-0001", "quick-0002")
    tmux.until("▶ running", seconds=120)
    seen = tmux.until("✓ 2 finished", "no VMs", seconds=300)
    status = command(
        *("gcloud-ops", "--local", "--output", "json", "sweep", "status", "quick"),
        env=its(folder),
    )
    experiments = json.loads(status.stdout)["experiments"]
    assert [one["status"] for one in experiments] == ["finished", "finished"]
    for one in experiments:
        row = rf"{one['id']} ✓ finished +█████ 100% 2/2 +{one['mean_reward']:.1f} "
        assert re.search(row, row_of(one["id"], seen)), seen

    tmux.press("o")
    tmux.until("quick-0001 › log", "episode 2/2  timesteps 1344/1344", "the log's end")
    assert "sinergym-train: done: 2 episodes, 1344 timesteps" in tmux.screen
    tmux.press("Escape")
    tmux.until("✓ 2 finished", "Enter Open")

    tmux.press("Down", "Enter")
    tmux.until(
        "quick › quick-0002", "✓ finished", "2 of 2", f"{experiments[1]['mean_reward']:.1f}"
    )
    tmux.until("Learning curve")
    tmux.press("PageDown")
    tmux.until("reward of an episode, time steps 672 to 1.3k", "normalize_action true")
    tmux.press("q")
    tmux.until_prompt()

    assert tmux.lines == ["ready> sinergym-tui --local", "ready>"]
    assert (tmux.switches, tmux.stty) == at_first
    tmux.enter("echo clean-$?")
    tmux.until("clean-0")
