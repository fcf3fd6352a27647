"""Rehearsals: each mishap of the menu, chosen by keys, and what becomes of it on the screen."""

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from gcloud_ops import containers, groups, launching, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import GcloudOpsError, InvalidRequest
from gcloud_ops.model import Sweep
from gcloud_ops.settings import Settings
from sinergym_tui import rehearsing
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.rehearsal import RehearsalScreen
from sinergym_tui.widgets.live_table import LiveTable

from .conftest import (
    SIZES,
    LocalCloud,
    ask,
    confirm,
    console,
    launch,
    settings_for,
    text_of,
    until,
    until_shown,
    write_record,
)

pytestmark = pytest.mark.slow

NARROW, WIDE = (80, 24), (160, 48)
COMMAND = "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A sweep on the screen, on which something is to go wrong."""

    pilot: Pilot[Any]
    clients: Clients
    sweep: str

    @property
    def first(self) -> str:
        """Its first experiment, and VM."""
        return f"{self.sweep}-0001"

    @property
    def vm(self) -> str:
        """The numeric id of the first VM; "" while there is none."""
        found = groups.list_members(self.clients, self.sweep) or ()
        return next((one.id for one in found if one.name == self.first), "")

    async def container(self) -> str:
        """The id of the container on the first VM, where one runs; "" for none."""
        return (await running(self.clients, self.sweep, (self.first,)))[self.first]

    async def until_container(self, is_so: Callable[[str], bool], what: str) -> None:
        """Wait until that id is as it is to be."""
        for _ in range(200):
            if is_so(await self.container()):
                return
            await self.pilot.pause(0.2)
        pytest.fail(what)

    async def choose(self, title: str) -> None:
        """Have it go wrong, by keys."""
        await self.pilot.press("exclamation_mark")
        await until_shown(self.pilot, "Rehearse: have something go wrong", title)
        keys = self.pilot.app.screen.query_one("#mishaps", LiveTable).keys
        wanted = next(one.key for one in rehearsing.MISHAPS if one.title == title)
        await self.pilot.press(*["down"] * keys.index(wanted), "enter")
        app: Any = self.pilot.app
        await until(
            self.pilot,
            lambda: not isinstance(app.screen, RehearsalScreen) and app.jobs[-1].state == "done",
            f"{title}: has gone wrong, as wished",
        )

    async def open_log(self) -> None:
        """Its log, followed over SSH; what is said to the container is printed there."""
        write_record(self.clients, self.sweep, 1, state="running")
        await until_shown(self.pilot, "▶ running")
        await self.pilot.press("o")
        await until_shown(self.pilot, f"{self.first} › log", "submit -- true", seconds=30)

    async def open_facts(self, *texts: str) -> None:
        """All that is known of it, asked for anew."""
        await self.pilot.press("enter")
        facts = self.pilot.app.screen.query_one("#facts", Static)
        await until(
            self.pilot,
            lambda: all(text in str(facts.content) for text in texts),
            f"{texts}",
            seconds=60,
        )

    async def say(self, word: str) -> None:
        """Something that the container prints, and that the log on the screen must show."""
        with pytest.raises(GcloudOpsError, match="another command"):
            await asyncio.to_thread(containers.send_command, self.clients, self.first, word)
        await until_shown(self.pilot, f"submit -- {word}", seconds=40)


async def running(clients: Clients, sweep: str, names: Sequence[str]) -> dict[str, str]:
    """The ids of the containers that run on these VMs; "" where none does, or none can tell."""
    asked = await asyncio.to_thread(containers.list_containers, clients, sweep, names)
    return {
        name: ""
        if isinstance(answer, GcloudOpsError)
        else " ".join(one.id for one in answer if one.state == "running")
        for name, answer in asked.items()
    }


async def another_vm(stage: Stage, title: str) -> None:
    """The VM goes, and the group makes another one: the next attempt's."""
    before = stage.vm
    record = {"state": "running", "progress": {"episode": 3, "episodes": 10}}
    write_record(stage.clients, stage.sweep, 1, **record)
    await until_shown(stage.pilot, "▶ running", "3/10")
    await stage.choose(title)
    await until_shown(stage.pilot, "◔ starting", "attempt 2, on a new instance", seconds=30)
    assert stage.vm not in {"", before}


async def another_container(stage: Stage, title: str) -> None:
    """Its programs are killed; the VM stays, and systemd starts the container anew."""
    before, vm = await stage.container(), stage.vm
    assert before
    await stage.open_facts("sinergym", "running")
    await stage.pilot.press("escape")
    await stage.choose(title)
    await stage.until_container(lambda now: now not in {"", before}, "another container")
    assert stage.vm == vm
    await stage.open_facts("running · Up")


async def the_log_goes_on(stage: Stage, title: str) -> None:
    """The connection that the log came by is cut; another one is made, and nothing is lost."""
    await stage.open_log()
    await stage.say("before")
    await stage.choose(title)
    await stage.say("after")
    assert text_of(stage.pilot.app).count("submit -- before") == 1  # type: ignore[arg-type]


async def nothing_is_known(stage: Stage, title: str) -> None:
    """The container can't be asked: that is said, the rest is shown, and the keys go on."""
    await stage.choose(title)
    await stage.open_facts("RUNNING", "not known")
    ask(stage.clients.settings, f"instances/{stage.first}/hang-ssh", {"on": False})
    ask(stage.clients.settings, f"instances/{stage.first}/refuse-ssh", {"on": False})
    await stage.pilot.press("escape")
    await stage.open_facts("running · Up")


def nobody_has_room(code: str, end: str) -> "Effect":
    """What is launched waits, and its screen says why; until there is room again."""

    async def waits(stage: Stage, title: str) -> None:
        await stage.choose(title)
        other = f"{stage.sweep}-x"
        try:
            sweep = Sweep.of_commands(other, [COMMAND])
            for event in launching.launch(launching.plan(sweep, stage.clients), stage.clients):
                if isinstance(event, launching.InstancesRequested):
                    break
            await stage.pilot.press("escape", "r")
            await until_shown(stage.pilot, f"  {other}")
            await stage.pilot.press("g", "enter")
            await until_shown(stage.pilot, f"sweeps › {other}", "queued", code, seconds=30)
            assert [str(row.status) for row in sweeps.status(other, stage.clients).rows] == [
                "queued"
            ]
            await stage.choose(end)
            await until_shown(stage.pilot, "◔ starting", "RUNNING", seconds=30)
        finally:
            rehearsing.befall(Fleet(stage.clients), _named(end))
            groups.delete_group(stage.clients, other)

    return waits


type Effect = Callable[[Stage, str], Awaitable[None]]

EFFECTS: dict[str, tuple[Effect, tuple[int, int]]] = {
    "preempt": (another_vm, NARROW),
    "kill": (another_vm, WIDE),
    "expire": (another_vm, NARROW),
    "kill-container": (another_container, WIDE),
    "cut-ssh": (the_log_goes_on, NARROW),
    "hang-ssh": (nothing_is_known, WIDE),
    "refuse-ssh": (nothing_is_known, NARROW),
    "stock-out": (nobody_has_room("stock", "Room for VMs again"), NARROW),
    "quota-out": (nobody_has_room("quota", "Quota for VMs again"), WIDE),
}
"""What becomes of each, and in which terminal."""
ELSEWHERE = {"disk-full", "cut-iap", "stock-in", "quota-in"}
"""Those that need another cloud, below; and those that end one of the above."""


def test_every_mishap_of_the_menu_is_tested() -> None:
    """None is forgotten."""
    assert EFFECTS.keys() | ELSEWHERE == {one.key for one in rehearsing.MISHAPS}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("key", EFFECTS)
async def test_a_mishap_and_what_becomes_of_it(
    key: str, settings: Settings, clients: Clients
) -> None:
    """Chosen by keys, it befalls the VM with the cursor or the cloud, and is seen."""
    effect, size = EFFECTS[key]
    name = f"m-{key}"
    launch(clients, name, 1)
    app = console(settings)
    try:
        async with app.run_test(size=size) as pilot:
            await until_shown(pilot, f"▸ {name}")
            await pilot.press("enter")
            await until_shown(pilot, f"sweeps › {name}", f"{name}-0001", "RUNNING")
            await effect(Stage(pilot=pilot, clients=clients, sweep=name), _named_key(key).title)
    finally:
        groups.delete_group(clients, name)


@pytest.mark.timeout(180)
async def test_the_relay_of_iap_is_cut_and_taken_up_again(
    settings: Settings, clients: Clients
) -> None:
    """A VM without a public address: its log goes on where it was."""
    spec = templates.TemplateSpec(
        name="inside", image="local/sinergym-trainer:latest", external_address=False
    )
    templates.create_template(clients, spec)
    name = "indoors"
    sweep = Sweep.of_commands(name, [COMMAND])
    sweep = replace(sweep, dispatch=Dispatch.SSH, template="inside")
    *_, last = launching.launch(launching.plan(sweep, clients), clients)
    assert last == launching.Launched(sent=1, failed=0, waiting=0)
    app = console(settings)
    try:
        async with app.run_test(size=WIDE) as pilot:
            await until_shown(pilot, f"▸ {name}")
            await pilot.press("enter")
            await until_shown(pilot, f"{name}-0001", "RUNNING")
            stage = Stage(pilot=pilot, clients=clients, sweep=name)
            await the_log_goes_on(stage, "Cut IAP's relay")
    finally:
        groups.delete_group(clients, name)
        templates.delete_template(clients, "inside")


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Settings]:
    """A local cloud whose containers really run."""
    cloud = LocalCloud(tmp_path, options=("--engine", "process"))
    try:
        yield settings_for(cloud.start(), tmp_path)
    finally:
        cloud.stop()


@pytest.mark.timeout(180)
async def test_a_full_disk_ends_what_writes(working: Settings) -> None:
    """The experiment fails, and the screen says of what."""
    clients = Clients.connect(working)
    program = (
        "import itertools, pathlib, time\n"
        "for number in itertools.count():\n"
        "    pathlib.Path('step').write_text(str(number))\n"
        "    print('step', number, flush=True)\n"
        "    time.sleep(0.1)\n"
    )
    command = shlex.join(["python", "-c", program])
    sweep = Sweep.of_commands("writes", [command])
    for _ in launching.launch(launching.plan(sweep, clients), clients):
        pass
    app = console(working)
    async with app.run_test(size=NARROW) as pilot:
        await until_shown(pilot, "▸ writes")
        await pilot.press("enter")
        await until_shown(pilot, "▶ running", seconds=30)
        stage = Stage(pilot=pilot, clients=clients, sweep="writes")
        await pilot.press("o")
        await until_shown(pilot, "step 3", seconds=30)
        await pilot.press("escape")
        await stage.choose("Fill its disk for a minute")
        await until_shown(pilot, "✗ failed", seconds=60)
        await stage.open_facts("File too large", "read the end of its log")
        assert str(sweeps.status("writes", clients).rows[0].status) == "failed"


@SIZES
async def test_what_the_menu_offers(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """Without a VM under the cursor only what befalls the cloud; Esc changes nothing."""
    name = f"menu-{size[0]}"
    launch(clients, name, 2)
    before = groups.list_members(clients, name)
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, f"▸ {name}")
        await pilot.press("exclamation_mark")
        await until_shown(pilot, "No room for more VMs", "on the local cloud")
        assert "Preempt" not in text_of(app)
        await pilot.press("escape", "enter")
        await until_shown(pilot, f"{name}-0001", "RUNNING")
        await pilot.press("exclamation_mark")
        await until_shown(pilot, f"to {name}-0001", *(one.title for one in rehearsing.MISHAPS))
        await pilot.press("escape", "a", "exclamation_mark")
        await until_shown(pilot, "to 2 VMs, or to the local cloud")
        await pilot.press("escape")
        assert groups.list_members(clients, name) == before
        assert app.jobs == []

        # What befalls all that are chosen.
        await Stage(pilot=pilot, clients=clients, sweep=name).choose("Its host fails")

        def are_others() -> bool:
            now = groups.list_members(clients, name) or ()
            return {one.id for one in now}.isdisjoint({one.id for one in before or ()})

        await until(pilot, are_others, "both VMs are gone, or others")
    groups.delete_group(clients, name)


@SIZES
async def test_containers_are_restarted(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """Of the chosen experiments alone; each gets a container of its own anew."""
    name = f"again-{size[0]}"
    launch(clients, name, 3)
    names = tuple(f"{name}-{number:04d}" for number in (1, 2, 3))

    before = await running(clients, name, names)
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, f"▸ {name}")
        await pilot.press("enter")
        await until_shown(pilot, names[2], "RUNNING")
        await pilot.press("space", "space", "x")
        await confirm(
            pilot,
            f"Restart the containers of 2 experiments of sweep {name}?",
            f"• {names[0]}",
            f"• {names[1]}",
            "over SSH",
        )
        await until_shown(pilot, "2 containers restarted", seconds=60)
        after = await running(clients, name, names)
        assert after[names[2]] == before[names[2]]
        assert all(after[each] not in {"", before[each]} for each in names[:2])

        # From the experiment's own screen, too; and one that can't be reached is said.
        await pilot.press("escape", "G", "enter")
        await until_shown(pilot, f"{name} › {names[2]}")
        await pilot.press("x")
        await confirm(pilot, "Restart the containers of 1 experiment", f"• {names[2]}")
        await until_shown(pilot, "1 container restarted", seconds=60)
        after = await running(clients, name, names)
        assert after[names[2]] not in {"", before[names[2]]}
        ask(settings, f"instances/{names[2]}/refuse-ssh", {"seconds": 60})
        await pilot.press("x")
        await confirm(pilot, "Restart the containers of 1 experiment")
        await until_shown(pilot, ": failed", f"1 of 1 failed: {names[2]}", seconds=60)
    groups.delete_group(clients, name)


def test_a_mishap_is_for_the_local_cloud_only(settings: Settings, clients: Clients) -> None:
    """Google has no such thing; the local cloud says what it doesn't know."""
    google = Fleet(Clients(replace(settings, endpoint=None)))
    with pytest.raises(InvalidRequest, match="local cloud only"):
        rehearsing.befall(google, rehearsing.MISHAPS[0], "any")
    with pytest.raises(InvalidRequest, match="none-such"):
        rehearsing.befall(Fleet(clients), rehearsing.MISHAPS[0], "none-such")


def _named(title: str) -> rehearsing.Mishap:
    return next(one for one in rehearsing.MISHAPS if one.title == title)


def _named_key(key: str) -> rehearsing.Mishap:
    return next(one for one in rehearsing.MISHAPS if one.key == key)
