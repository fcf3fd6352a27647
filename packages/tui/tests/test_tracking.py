"""The tracking server: brought up, asked, read, restarted and removed, by keys.

Its VM runs nothing in most of these tests, and a small server of the test's own listens where the
VM's would; the last one has the real server, with its database, in a process of its own.
"""

import contextlib
import json
import shlex
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from gcloud_ops import instances
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.settings import Settings
from mlflow_infra import operations, plan
from mlflow_infra.wanted import ADMIN_SECRET, PORT, SERVER
from sinergym_tui import tracking
from sinergym_tui.app import Console
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.form import FormScreen
from sinergym_tui.screens.text import TextScreen
from sinergym_tui.screens.tracking import TrackingScreen

from .conftest import (
    SIZES,
    LocalCloud,
    ask,
    confirm,
    console,
    settings_for,
    text_of,
    until,
    until_shown,
)

DATA = "local-mlflow"
"""The bucket, whose name is asked for before its data are removed."""


@dataclass
class StandIn:
    """Listens on the VM's own address, as soon as there is a VM, and answers what is asked."""

    clients: Clients
    is_on: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Until it is over."""
        while not self.is_over.wait(0.1):
            found = self.is_on.is_set() and instances.get_instance(self.clients, SERVER)
            if found and found.internal_address:
                self._serve(found.internal_address)

    def _serve(self, address: str) -> None:
        with ThreadingHTTPServer((address, PORT), self._handler()) as server:
            server.timeout = 0.1
            while not self.is_over.is_set():
                server.handle_request()
                if instances.get_instance(self.clients, SERVER) is None:
                    return

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            """Well, but for its artifacts."""

            def _answer(self) -> None:
                asked.append(f"{self.command} {self.path}")
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_known = "Authorization" in self.headers or self.path == "/health"
                status = 404 if "artifacts" in self.path else 200 if is_known else 401
                body = b"3.0.0" if self.path == "/version" else b"{}"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = _answer

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Settings]:
    """A local cloud of the test's own, whose VMs run nothing."""
    cloud = LocalCloud(tmp_path)
    try:
        yield settings_for(cloud.start(), tmp_path)
    finally:
        cloud.stop()


@pytest.fixture
def stand_in(empty: Settings) -> Iterator[StandIn]:
    """In place of the server's container; off at first."""
    found = StandIn(Clients.connect(empty))
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        yield found
    finally:
        found.is_over.set()
        thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """What the browser of this machine was asked to open, in a file."""
    opened, program = tmp_path / "opened", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >> {shlex.quote(str(opened))}\n')
    program.chmod(0o700)
    name = f"recorder-{tmp_path.name}-{time.monotonic_ns()}"
    webbrowser.register(
        name, None, webbrowser.GenericBrowser([str(program), "%s"]), preferred=True
    )
    return opened


async def open_tracking(pilot: Pilot[Any], *texts: str) -> None:
    """To the place, from the first screen."""
    await until_shown(pilot, "no sweeps yet")
    await pilot.press("4")
    await until_shown(pilot, "tracking server", *texts, seconds=30)


async def fill(pilot: Pilot[Any], ranges: str) -> None:
    """The form's first field; the others stay as they are."""
    app: Any = pilot.app
    await until_shown(pilot, "Bring up the tracking server", "Who may reach it")
    while app.focused is None or app.focused.id != "field-ranges":
        await pilot.press("shift+tab")
    await pilot.press("end", "ctrl+u", *ranges, "enter", "enter", "enter", "enter")
    assert app.focused.id == "yes"
    await pilot.press("enter")


async def bring_up(pilot: Pilot[Any]) -> None:
    """By keys: the form, and the question."""
    await pilot.press("u")
    await fill(pilot, "127.0.0.1")
    await confirm(pilot, "Bring up the tracking server, for about $")


async def stop(pilot: Pilot[Any], title: str) -> None:
    """Stop the change that goes on, among the jobs."""
    await pilot.press("J")
    await until_shown(pilot, "▶ goes on", title)
    await pilot.press("x")
    await until_shown(pilot, "⊘ stopped")
    await pilot.press("escape")


def is_there(clients: Clients) -> bool:
    """Whether the VM is."""
    return instances.get_instance(clients, SERVER) is not None


def facts(app: Console, state: str) -> list[str]:
    """What is in a state, as the table has it."""
    screen = app.screen
    assert isinstance(screen, TrackingScreen)
    return [row.what for row in screen.rows() if row.state[0] == state]


@SIZES
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_server_is_planned_refused_stopped_and_removed(
    size: tuple[int, int], empty: Settings
) -> None:
    """Nothing is made before the question; whatever comes between, it goes on where it was."""
    clients = Clients.connect(empty)
    app = console(empty)
    async with app.run_test(size=size, notifications=True) as pilot:
        await open_tracking(pilot, "there is none: u brings one up", "a month", "· missing")
        await pilot.press("h", "o", "L", "x", "d", "D")
        assert len(app.screen_stack) == 2, "there is nothing to ask, restart or remove"

        # What can't be is said in the form; looking makes nothing, and No is the default.
        await pilot.press("u")
        await fill(pilot, "300.1.1.1")
        await until_shown(pilot, "✗ --source-range 300.1.1.1/32")
        assert isinstance(app.screen, FormScreen)
        await fill(pilot, "127.0.0.1")
        await until_shown(pilot, "Bring up the tracking server, for about $", " a month?")
        touches = "\n".join(str(each.content) for each in app.screen.query(Static))
        assert f"server {SERVER}: will be made" in touches
        assert "who may reach it: 127.0.0.1/32" in touches
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, ConfirmScreen), "No is the default")
        assert operations.found(clients) is None

        # Google refuses a step: one line says why, and what was made is shown.
        fault = {"method": "sqladmin.instances.insert", "status": 403, "count": 1}
        ask(empty, "faults", {**fault, "reason": "quotaExceeded", "message": "Quota 'X' exceeded"})
        await bring_up(pilot)
        await until_shown(
            pilot, "bring up the tracking server: failed", "Quota 'X' exceeded", seconds=60
        )
        assert isinstance(app.screen, TextScreen)
        assert "\n" not in app.jobs[-1].sentence
        await pilot.press("escape")
        await until_shown(pilot, "to make or mend")
        await until(
            pilot,
            lambda: "service account mlflow-tracking-sa" in facts(app, "✓ there"),
            "what was made before",
        )
        assert not is_there(clients)

        # It goes on where it was, tells how far it is, and can be stopped while it waits.
        await bring_up(pilot)
        await until(pilot, lambda: counts_steps(app.said), "its steps", seconds=60)
        await until(pilot, lambda: "it is not well yet" in app.said, "that it waits", seconds=90)
        await stop(pilot, "bring up the tracking")
        await until_shown(pilot, "✓ all is there")
        assert is_there(clients)
        await pilot.press("u")
        await fill(pilot, "127.0.0.1")
        await until_shown(pilot, "all is there as it should be")

        # Not well: what is asked is told, and what isn't tried.
        await pilot.press("h")
        await until_shown(pilot, "not well", "✗ not well", "not tried", seconds=60)

        # Removed but for its data, after its name was typed.
        await pilot.press("d")
        await confirm(pilot, "Remove the tracking server?", "removed: ", typed=SERVER)
        await until(pilot, lambda: "its data are kept" in app.said, "it is removed", seconds=60)
        await until(pilot, lambda: f"server {SERVER}" in facts(app, "· missing"), "it is gone")
        assert not is_there(clients)
        assert f"bucket {DATA}" in facts(app, "✓ there")
        assert clients.storage.bucket(DATA).exists()


@SIZES
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_server_that_is_well_is_asked_opened_read_and_restarted(
    size: tuple[int, int],
    empty: Settings,
    stand_in: StandIn,
    browser: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each shows what came of it; at last it is removed with its data."""
    monkeypatch.setenv("BROWSER", "recorder")
    clients = Clients.connect(empty)
    app = console(empty)
    async with app.run_test(size=size, notifications=True) as pilot:
        await open_tracking(pilot, "there is none: u brings one up")
        stand_in.is_on.set()
        await bring_up(pilot)
        await until(pilot, lambda: "it is up, and well" in app.said, "it is well", seconds=90)
        await until_shown(pilot, "✓ all is there")
        infra = operations.found(clients)
        assert infra is not None
        uri = operations.tracking_uri(clients, infra)
        assert uri in app.said

        await pilot.press("o")
        await until(pilot, lambda: app.clipboard == uri, "its address is copied")
        await until(
            pilot, lambda: browser.exists() and browser.read_text().split() == [uri], "the browser"
        )
        await pilot.press("h")
        await until_shown(pilot, "1 not well", "is it well: health", "✗ not well", seconds=60)
        await pilot.press("slash", *"well:", "enter")
        await until_shown(pilot, "✓ well", "MLflow 3.0.0", "as trainer", "is refused")
        await pilot.press("escape")
        await pilot.press("L")
        await until_shown(pilot, "The tracking server's log", seconds=60)
        await pilot.press("escape")

        await pilot.press("x")
        await confirm(pilot, "Restart the tracking server?", "trainings keep what they log")
        await until(pilot, lambda: "well again after" in app.said, "it is well again", seconds=60)
        assert ask(empty, "stats")["calls"]["compute.instances.reset"] == 1

        # With its data: the bucket's name is asked for, and nothing is left.
        await pilot.press("D")
        await confirm(
            pilot, "Remove the tracking server with all runs", f"bucket {DATA}", typed=DATA
        )
        await until(pilot, lambda: "with all its data" in app.said, "all is gone", seconds=90)
        await until_shown(pilot, "there is none: u brings one up")
        assert operations.found(clients) is None
        assert not clients.storage.bucket(DATA).exists()


def counts_steps(said: str) -> bool:
    """Whether a sentence counts the steps."""
    words = said.split()
    return any("/" in word and word.replace("/", "").isdigit() for word in words)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_real_server_is_well(tmp_path: Path) -> None:
    """Brought up, asked and read in one size, restarted and removed in the other."""
    program = Path(sys.executable).with_name("mlflow-infra-server")
    options = ("--engine", "process", "--image", f"mlflow-server={shlex.quote(str(program))}")
    cloud = LocalCloud(tmp_path, options=options)
    with contextlib.ExitStack() as stack:
        stack.callback(cloud.stop)
        settings = settings_for(cloud.start(), tmp_path)
        clients = Clients.connect(settings)
        app = console(settings)
        async with app.run_test(size=(160, 48), notifications=True) as pilot:
            await open_tracking(pilot, "there is none: u brings one up")
            await bring_up(pilot)
            await until(pilot, lambda: "it is up, and well" in app.said, "it is well", seconds=200)
            await until_shown(pilot, "✓ all is there")

            await pilot.press("h")
            await until_shown(pilot, "check the tracking server:")
            await until_shown(pilot, "the tracking server is well", seconds=60)
            await until_shown(pilot, "is it well: artifacts", "4 KiB there, back, and deleted")
            assert "✗ not well" not in text_of(app)

            await pilot.press("L")
            await until_shown(pilot, "The tracking server's log", seconds=60)
            infra = operations.found(clients)
            assert infra is not None
            secret = json.loads(plan.read_secret(clients, infra, ADMIN_SECRET))["password"]
            shown = "\n".join(str(each.content) for each in app.screen.query(Static))
            assert "serving on" in shown
            assert secret not in shown
            await until_shown(pilot, shown.splitlines()[-2][:40])  # a log is read from its end
            await pilot.press("escape")

            await pilot.resize_terminal(80, 24)
            begin = time.monotonic()
            await pilot.press("x")
            await confirm(pilot, "Restart the tracking server?")
            await until(pilot, lambda: "not well yet" in app.said, "it is away", seconds=60)
            await until(pilot, lambda: "well again" in app.said, "it is back", seconds=120)
            assert time.monotonic() - begin > 1
            await pilot.press("h")
            await until_shown(pilot, "the tracking server is well", seconds=60)

            await pilot.press("D")
            await confirm(pilot, "Remove the tracking server with all runs", typed=DATA)
            await until_shown(pilot, "there is none: u brings one up", seconds=120)
        assert operations.found(clients) is None


# ------------------------------------------------------------------------------- the core


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("", None),
        ("none", ()),
        ("203.0.113.7", ("203.0.113.7/32",)),
        (" 10.0.0.0/8 , 203.0.113.7/32,", ("10.0.0.0/8", "203.0.113.7/32")),
    ],
)
def test_who_may_reach_it_is_read_as_the_command_reads_it(
    text: str, ranges: tuple[str, ...] | None
) -> None:
    """An address stands for itself alone; nothing typed is nothing said."""
    filled = {"ranges": text, "machine": "", "tier": "", "image": ""}
    assert tracking.given(filled).source_ranges == ranges


def test_what_cannot_be_is_found_without_asking_the_cloud() -> None:
    """In what was filled in, by the words of the command's options."""
    infra = _infra()
    filled = {"ranges": "", "machine": "", "tier": "", "image": ""}
    assert tracking.objection(infra, filled) == ""
    assert "--source-range" in tracking.objection(infra, {**filled, "ranges": "here"})
    assert "--tier" in tracking.objection(infra, {**filled, "tier": "large"})
    assert "none" in tracking.objection(infra, {**filled, "ranges": "none, 10.0.0.0/8"})
    with pytest.raises(InvalidRequest):
        tracking.given({**filled, "ranges": "none, 10.0.0.0/8"})


def test_a_browser_in_the_terminal_is_none() -> None:
    """It would take the console's place."""
    assert not tracking.has_browser({"TERM": "xterm"}, "linux")
    assert tracking.has_browser({"DISPLAY": ":0"}, "linux")
    assert tracking.has_browser({}, "darwin")


def _infra() -> Any:
    from mlflow_infra.wanted import Infrastructure

    found = Infrastructure(project="p", zone="europe-west1-b", bucket="b", image="i:1")
    return replace(found, source_ranges=("127.0.0.1/32",))
