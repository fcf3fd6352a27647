"""The console in a real terminal (tmux), by keys alone; one goes on where another was killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.clouds import BIN, OwnCloud, clean_environment
from tests.terminals import Tmux, shell

from gcloud_ops import sweeps, templates

from .conftest import write_record

MANY = 40
STOCK = 15
GROUPS = "compute.instanceGroupManagers"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[OwnCloud]:
    """An inert local cloud of the test's own: what befalls it befalls nobody else."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    made = OwnCloud(folder, clean_environment(), "--boot-seconds", "0.2", "--pull-seconds", "0.1")
    templates.create_template(
        made.clients,
        templates.TemplateSpec(name="sinergym-template", image="local/sinergym-trainer:latest"),
    )
    yield made
    made.stop()


@pytest.fixture
def tmux(cloud: OwnCloud, tmp_path: Path) -> Iterator[Tmux]:
    """A terminal; commands in it find the cloud."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    with shell(tmp_path, {**clean_environment(), **cloud.flags, "PATH": path}) as shown:
        yield shown


def launch_by_keys(tmux: Tmux, folder: Path, name: str, text: str) -> None:
    """Open the console, pick a sweep file, look at the plan, say yes."""
    (folder / f"{name}.yaml").write_text(text)
    tmux.enter("sinergym-tui")
    tmux.until("no sweeps yet")
    tmux.press("l")
    tmux.until("Launch a sweep")
    tmux.press("C-o")
    tmux.until("Open a sweep file", f"{name}.yaml")
    tmux.enter(name)
    tmux.until(f"launch › {name}.yaml", "an hour")
    tmux.press("C-l")
    tmux.until(f"Launch sweep {name}?")
    tmux.press("Tab", "Enter")


def kill(tmux: Tmux) -> None:
    """Kill the console, which can do nothing about it; then put the terminal right."""
    (console,) = tmux.children
    os.kill(console, signal.SIGKILL)
    tmux.until("Killed")
    tmux.enter("stty sane; reset -I; clear; echo cle''ared")
    tmux.until("cleared")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment in a launch at which the console is killed.

    The cloud is such that the launch can't get beyond it; so it is in the middle, surely.
    """

    dispatch: str
    hold: Callable[[OwnCloud], object]
    """Keeps the launch from going on."""
    reach: Callable[[Tmux, OwnCloud], object]
    """Waits until it has come so far."""
    up: int
    """How many VMs run then."""
    shown: tuple[str, ...]
    """What a console shows of it."""
    told: str
    """How the launch ends when it is gone on with."""


def refuse(method: str) -> Callable[[OwnCloud], object]:
    """Let no call of a method succeed."""
    fault = {"method": f"{GROUPS}.{method}", "count": 1000, "status": 503}
    return lambda cloud: cloud.ask("faults", fault)


def called(method: str) -> Callable[[Tmux, OwnCloud], object]:
    """Wait until a method was called: the one before it has succeeded then."""

    def wait(_tmux: Tmux, cloud: OwnCloud) -> None:
        deadline = time.monotonic() + 30
        while not cloud.calls().get(f"{GROUPS}.{method}"):
            assert time.monotonic() < deadline, cloud.calls()
            time.sleep(0.05)

    return wait


def some_run(tmux: Tmux, cloud: OwnCloud) -> None:
    """Wait until those with a VM have their commands, and begin, as their runners would."""
    line = f"many: {MANY - STOCK} wait: the zone has no such machines at the moment"
    tmux.until_so(lambda seen: line in map(str.strip, seen.splitlines()), "all others wait")
    for row in sweeps.status("many", cloud.clients).rows:
        if row.member is not None and row.member.is_up:
            number = int(row.id.removeprefix("many-"))
            write_record(cloud.clients, "many", number, state="running", progress={"episode": 1})


MOMENTS = {
    "manifest-alone": Moment(
        dispatch="boot",
        hold=refuse("insert"),
        reach=called("insert"),
        up=0,
        shown=("? no group", f"· {MANY} pending"),
        told=f"launched: {MANY} are on the way",
    ),
    "empty-group": Moment(
        dispatch="boot",
        hold=refuse("createInstances"),
        reach=called("createInstances"),
        up=0,
        shown=("◌ starting", f"· {MANY} pending", "interrupted: R goes on"),
        told=f"launched: {MANY} are on the way",
    ),
    "some-run": Moment(
        dispatch="ssh",
        hold=lambda cloud: cloud.limit(STOCK),
        reach=some_run,
        up=STOCK,
        shown=("▶ running", f"▶ {STOCK} running", f"◌ {MANY - STOCK} queued"),
        told=f"launched: {MANY - STOCK} have their command",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_launch_goes_on_where_a_console_was_killed(
    moment: Moment, tmux: Tmux, cloud: OwnCloud, tmp_path: Path
) -> None:
    """Killed in the middle, started again: the same sweep, what is missing, and on to the end."""
    moment.hold(cloud)
    text = f"name: many\ndispatch: {moment.dispatch}\nbase: echo\nseeds: {MANY}\n"
    launch_by_keys(tmux, tmp_path, "many", text)
    moment.reach(tmux, cloud)
    kill(tmux)

    before = sweeps.status("many", cloud.clients)
    assert len(before.rows) == MANY
    assert sum(row.member is not None and row.member.is_up for row in before.rows) == moment.up
    tmux.enter("sinergym-tui")
    tmux.until("▸ many", f"0/{MANY}", "R Resume", *moment.shown)

    cloud.limit(None)
    cloud.forget_faults()
    tmux.press("R")
    tmux.until("Go on with the launch of sweep many?")
    tmux.press("Tab", "Enter")
    tmux.until(f"many: {moment.told}", f"{MANY} VMs")
    tmux.press("Enter")
    tmux.until("sweeps › many", "many-0001")
    tmux.press("G")
    tmux.until(f"many-{MANY:04d}", "RUNNING")
    tmux.press("q")
    tmux.until_prompt()

    after = sweeps.status("many", cloud.clients)
    assert after.manifest == before.manifest
    assert [row.record for row in after.rows] == [row.record for row in before.rows]
    assert all(row.member is not None and row.member.is_up for row in after.rows)
    # Each VM was made once, and none for nothing.
    made = cloud.ask("timeline")["instances"]
    expected = [f"many-{number:04d}" for number in range(1, MANY + 1)]
    assert sorted(one["name"] for one in made) == expected
    if moment.dispatch == "ssh":
        assert all("exec" in one for one in made)
