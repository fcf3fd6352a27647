"""Text from outside, in every place that shows some, is text: no escape, no markup, no harm.

The cloud is a real local one; between it and the console is somebody who puts hostile text into
its answers, where the emulator itself would refuse it.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.cells import cell_len
from textual.events import Paste
from textual.pilot import Pilot

from gcloud_ops import alerts, signals
from gcloud_ops.clients import Clients
from gcloud_ops.contract import timestamp
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.screens.form import Field, FormScreen
from sinergym_tui.screens.launch import LaunchScreen
from sinergym_tui.screens.sweeps import SweepsScreen

from .conftest import (
    SIZES,
    LocalCloud,
    console,
    go_to,
    launch,
    settings_for,
    text_of,
    until,
    until_shown,
    write_log,
    write_record,
)
from .test_terminal import flags, terminal

SEEN = "[b]e"
"""What is seen of it, in the narrowest place too: markup that is read as text."""

MORE = f"{SEEN}[/b][/no][@click=app.end]k[/]"
"""What is seen of it where there is room."""

SEQUENCES = (
    "\x1b]52;c;ZXZpbA==\x07",  # the clipboard
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]0;evil title\x07",
    "\x1b]777;notify;evil;x\x1b\\",
    "\x1b[6969X\x1b[?6969h",
    "\x9b6969X",  # CSI in one byte
    "\x9d52;c;ZXZpbA==\x9c",
    "\x1bP1$r6969\x1b\\",
    "\x1bc",  # reset
    "\x1b[",  # cut off
)
EVIL = (
    MORE
    + "".join(SEQUENCES)
    + "\u202egpj\u202c\u2066x\u2069\u200b\u200d\ufeff\u00ad"  # turned, unseen
    + "z"
    + "\u0301" * 300
    + "漢字👩\u200d🔬"
    + "\r\n\u2028\x00\x07\x08\x0c\x7f\x85"
)
BYTES = EVIL.replace("\r\n", "\r").encode() + b"\xff\xfe\xc3 end\n"


# ------------------------------------------------------------------------- the answers


class Tampered(ThreadingHTTPServer):
    """Hands calls on to a cloud, and its answers back, with hostile text in some of them."""

    TEXTS = frozenset(
        {
            *("natIP", "networkIP", "description", "message", "statusMessage", "currentAction"),
            *("machineType", "code", "displayName", "summary", "subject", "content"),
        }
    )
    """Members of answers that say something, and that nothing is found by."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Caller)
        self.cloud = urlsplit(endpoint).netloc
        self.refused = ""
        """Part of the path of calls that are answered with a hostile error."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def tamper(self, path: str, content: bytes) -> bytes:
        """An answer as the console gets it."""
        if not re.search("/compute/|/v3/", path) or "/operations/" in path:
            return content
        return json.dumps(self._tampered(json.loads(content), "templates" in path)).encode()

    def _tampered(self, value: Any, names: bool) -> Any:
        if isinstance(value, list):
            return [self._tampered(one, names) for one in value]
        if not isinstance(value, dict):
            return value
        texts = self.TEXTS | ({"name"} if names else set())
        return {
            key: f"{one}{EVIL}"
            if isinstance(one, str) and key in texts
            else self._tampered(one, names)
            for key, one in value.items()
        }


class _Caller(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Tampered

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refused and self.server.refused in self.path:
            error = {"code": 403, "message": EVIL, "errors": [{"reason": EVIL, "message": EVIL}]}
            self._answer(403, {}, json.dumps({"error": error}).encode())
            return
        connection = http.client.HTTPConnection(self.server.cloud, timeout=60)
        kept = {k: v for k, v in self.headers.items() if k.lower() != "accept-encoding"}
        connection.request(self.command, self.path, body or None, kept)
        answer = connection.getresponse()
        content, headers = answer.read(), dict(answer.getheaders())
        connection.close()
        if "json" in headers.get("Content-Type", "") and content:
            content = self.server.tamper(self.path, content)
        self._answer(answer.status, headers, content)

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class World:
    """A cloud full of hostile text."""

    settings: Settings
    """As the console has them."""
    answers: Tampered


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Sweeps, records, logs, outputs, channels, incidents, left-overs."""
    folder = tmp_path_factory.mktemp("hostile")
    address = {
        "name": "mlflow-ip",
        "region": "europe-west1",
        "id": "1",
        "created": "2026-01-01T00:00:00.000-00:00",
        "description": "Of the MLflow tracking server. Made by mlflow-infra.",
        "address": "127.200.1.1",
        "labels": {},
    }
    (folder / "network.json").write_text(json.dumps({"addresses": [address], "firewalls": []}))
    cloud = LocalCloud(folder)
    try:
        settings = replace(settings_for(cloud.start(), folder), bucket="b-hostile")
        plant(Clients.connect(settings))
        answers = Tampered(settings.endpoint or "")
        try:
            yield World(replace(settings, endpoint=answers.endpoint), answers)
        finally:
            answers.shutdown()
            answers.server_close()
    finally:
        cloud.stop()


def plant(clients: Clients) -> None:
    """Hostile text wherever the bucket and Monitoring take it."""
    bucket = clients.storage.bucket(clients.settings.bucket_name)
    alerts.add_channel(clients, "email", address="e@example.org", display_name=f"x{EVIL}")
    alerts.set_up(clients, alerts.recipients(clients, ["e@example.org"]), on_step=lambda _: None)

    launch(clients, "evil", 3)
    blob = bucket.get_blob("evil/sweep.json")
    manifest = json.loads(blob.download_as_bytes())
    manifest |= {"template": EVIL, "launcher": {"user": EVIL, "host": EVIL, "version": EVIL}}
    manifest["image"] = {"name": EVIL, "digest": EVIL, "pinned": True}
    manifest["source"] = {"commit": EVIL, "branch": EVIL, "dirty": True}
    for experiment in manifest["experiments"]:
        experiment["command"] = f"train --environment '{EVIL}' --{EVIL}={EVIL}"
    metadata = blob.metadata
    blob = bucket.blob("evil/sweep.json")
    blob.metadata = metadata
    blob.upload_from_string(json.dumps(manifest))
    bucket.blob("evil/source.diff").upload_from_string(BYTES)

    # A folder and experiments that no launch would name so, and one that can't be read.
    odd = f"odd{EVIL}".translate({ord(sign): None for sign in "/\r\n\x00\x85\u2028"})
    manifest |= {"sweep": odd, "experiments": [{"id": f"{odd}-0001", "command": EVIL}]}
    bucket.blob(f"{odd}/sweep.json").upload_from_string(json.dumps(manifest))
    bucket.blob("broken/sweep.json").upload_from_string(
        json.dumps({**manifest, "created": EVIL, "sweep": "broken"})
    )

    past = {"kind": EVIL, "hint": EVIL, "started": timestamp(datetime.now(UTC)), "ended": None}
    write_record(
        clients,
        "evil",
        1,
        state="failed",
        ended=timestamp(datetime.now(UTC)),
        versions={EVIL: EVIL},
        mlflow={"run_id": EVIL, "url": f"http://{EVIL}"},
        signal={"written": False, "why": EVIL},
        exit={"code": 1, "signal": EVIL, "kind": EVIL, "hint": EVIL},
        history=[{"attempt": 1, **past}],
        progress={"episode": 1, "episodes": 2, "mean_reward": -1.0, EVIL: 7},
    )
    write_record(clients, "evil", 2, state=EVIL, progress={"mean_reward": -2.0})
    write_log(clients, "evil", 1, 0, BYTES + b"x" * 1_000_000 + BYTES + b"the last line\n")
    bucket.blob(f"evil/evil-0001/output/{odd}.txt").upload_from_string("x")
    bucket.blob("evil/evil-0001/output/progress.csv").upload_from_string(
        f"time/total_timesteps,rollout/ep_rew_mean,{json.dumps(EVIL)}\n1,2,3\n2,3,4\n3,x{EVIL},5\n"
    )
    words = EVIL.replace("\u0301" * 290, "")  # Monitoring takes 1024 bytes
    labels = {"sweep": "evil", "experiment": "evil-0001", "status": "failed", "notify": "each"}
    labels |= {"duration": "1 min", "mean_reward": "mean reward 1", "kind": words, "hint": words}
    signals.write_points(clients, signals.EXPERIMENT_FINISHED, [labels])


# ------------------------------------------------------------------------- what is seen


def assert_harmless(app: Console) -> None:
    """Nothing unseen is on the screen, no line is wider than it, and no markup has an effect."""
    for strip in app.screen._compositor.render_strips():
        assert cell_len(strip.text) == app.size.width, strip.text
        for sign in strip.text:
            assert unicodedata.category(sign) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}, strip.text
        assert not re.search("\u0301{4}", strip.text)
        for segment in strip:
            assert segment.style is None or segment.style.link is None
            assert segment.style is None or "app.end" not in str(segment.style.meta)
    assert app.return_code is None


async def see(pilot: Pilot[Any], *texts: str) -> None:
    """Wait until these texts are shown; nothing on this screen does harm."""
    await until_shown(pilot, *texts)
    assert_harmless(pilot.app)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Visit:
    """Keys to press from the list of sweeps, with the cursor on `evil`; and what is then seen."""

    steps: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    refused: str = ""
    """Calls that are refused with a hostile error meanwhile."""


def visit(*steps: tuple[str, str], refused: str = "") -> Visit:
    """From keys with spaces between them, and texts with bars."""
    return Visit(
        tuple((tuple(keys.split()), tuple(texts.split("|"))) for keys, texts in steps), refused
    )


VISITS = (
    visit(
        ("enter", f"sweeps › evil|{SEEN}|✗ failed"),
        ("down", "evil-0002|train"),
        ("greater_than_sign greater_than_sign a", "3 chosen"),
        ("R", "Run 1 experiment"),
        ("escape x", "Restart the containers"),
        ("escape c", "Cancel 2 experiments"),
    ),
    visit(
        ("enter enter", f"sweeps › evil › evil-0001|{SEEN}|Timeline"),
        ("pagedown", "Command|environment"),
        ("pagedown", SEEN),
        ("end", f"Links|{SEEN}"),
    ),
    visit(
        ("enter enter o", f"the last line|{MORE}|漢字|›"),
        ("w", "wrapped|the last line|more]"),
        ("t slash [ b enter", "search [b"),
        ("g", SEEN),
        ("escape ampersand e n d enter", "only end"),
    ),
    visit(("enter O", "0001 │|the last line|logs of 3")),
    visit(("slash e v i l space ! o d d enter", "1 of 3|evil")),
    visit(("g", "unreadable"), ("G", "unreadable")),
    visit(("c", "Cancel sweep evil?")),
    visit(("d", "Delete sweep evil for good?")),
    visit(("R", "Go on with the launch of sweep evil?")),
    visit(
        ("C", f"compare › evil|{SEEN}|configuration"),
        ("v", "Compare evil with"),
        ("enter", f"none|odd{SEEN}"),
    ),
    visit(("2", f"2 incidents and messages|inbox|{SEEN}")),
    visit(
        ("3", "policies|e@example.org"),
        ("G", "e@example.org|on"),
        ("d", f"Remove channel e@example.org?|x{SEEN}"),
    ),
    visit(("4", "$"), ("u", "Bring up the tracking server")),
    visit(("4", SEEN), refused="/compute/"),
    visit(("5", "✓ well|template|漢字")),
    visit(("5", f"we may not look|{SEEN}"), refused="/compute/"),
    visit(("6", "mlflow-ip|left over"), ("d", "Remove|left over, ")),
    visit(("6", SEEN), refused="/compute/"),
    visit(("l", "Launch a sweep|Environments")),
    visit(("enter exclamation_mark", "to evil-0001, or to the local cloud")),
    visit(("question_mark", "Keys · sweeps")),
    visit(("enter enter ctrl+p", "Search")),
    visit(("r", f"⚠|{SEEN}"), refused="/storage/"),
)


@SIZES
@pytest.mark.slow
async def test_each_place_shows_hostile_text_as_text(size: tuple[int, int], world: World) -> None:
    """Each screen, and each question that is asked there; what the cloud refuses, too."""
    app = console(world.settings)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until_shown(pilot, "3 sweeps")
        for each in VISITS:
            await go_to(pilot, "evil")
            await see(pilot, "▸ evil")
            world.answers.refused = each.refused
            try:
                for keys, texts in each.steps:
                    await pilot.press(*keys)
                    await see(pilot, *texts)
            finally:
                world.answers.refused = ""
            await back_to_the_sweeps(pilot)


async def back_to_the_sweeps(pilot: Pilot[Any]) -> None:
    """Out of whatever is open."""
    for _ in range(9):
        screen = pilot.app.screen
        if isinstance(screen, SweepsScreen) and not screen.prompt.what:
            return
        await pilot.press("escape")
    raise AssertionError(text_of(pilot.app))  # type: ignore[arg-type]


# ------------------------------------------------------- what comes another way than the cloud


@SIZES
@pytest.mark.slow
async def test_what_is_told_asked_and_copied_is_text(size: tuple[int, int], world: World) -> None:
    """Jobs and their failures, toasts, questions, forms, the clipboard, what is pasted."""
    app = console(world.settings)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until_shown(pilot, "3 sweeps")
        app.tell(EVIL)
        await see(pilot, MORE)

        def fail(_fleet: Fleet, tell: Callable[[str], None]) -> str:
            tell(EVIL)
            raise InvalidRequest(EVIL, hint=EVIL)

        app.start(Job(title=f"title {EVIL}", is_change=True), fail)
        await see(pilot, f"title {SEEN}", ": failed")
        await pilot.press("escape", "J")
        await see(pilot, "✗ failed", SEEN)
        await pilot.press("escape")

        goes_on = threading.Event()
        app.start(Job(title=EVIL, is_change=True), lambda _fleet, _tell: str(goes_on.wait()))
        await pilot.press("q")
        await see(pilot, "Leave while a change is under way?", SEEN)
        await pilot.press("escape")
        goes_on.set()

        app.copy(f"{EVIL}\x1b[201~", "it")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", app.clipboard)

        fields = [Field(key="one", label=EVIL, value=EVIL), Field(key="two", label="Two")]
        fields.append(Field(key="three", label="Three", choices=[(EVIL, "value")]))
        app.push_screen(FormScreen("A form", fields))
        await see(pilot, "A form", SEEN)
        await pilot.press("tab")
        app.post_message(Paste(EVIL))
        await see(pilot, MORE)
        await pilot.press("escape", "slash")
        app.post_message(Paste(EVIL))
        await see(pilot, "0 of 3", SEEN)
        await pilot.press("escape")
        await see(pilot, "▸")


def plant_files(folder: Path) -> None:
    """A sweep file and two folders with such names, and a form with such values."""
    # A name has 255 bytes.
    name = f"a {EVIL}".translate({ord(sign): None for sign in "/\x00"}).encode()[:200]
    named = folder / name.decode(errors="ignore")
    named.mkdir()
    named.with_name(f"{named.name}.yaml").write_bytes(b"# " + BYTES)
    (folder / os.fsdecode(b"half \xff\xfe")).mkdir()
    form = folder / "form.yaml"
    form.write_text(
        "name: form\nbase: sinergym-train\ngrid:\n  environment: ["
        + json.dumps(f"e{EVIL}".encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        + "]\n"
    )


@SIZES
@pytest.mark.slow
async def test_files_are_text(size: tuple[int, int], world: World, tmp_path: Path) -> None:
    """Names of files and folders, what a file says of itself, what it fills into a form."""
    plant_files(tmp_path)
    app = console(world.settings, folder=tmp_path)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until_shown(pilot, "3 sweeps")
        await pilot.press("l")
        await until_shown(pilot, "Launch a sweep")
        await pilot.press(*"name", "tab", *"Eplus", "tab", *"PPO")
        await see(pilot, "Launch a sweep")
        await pilot.press("ctrl+o")
        await see(pilot, "Open a sweep file", "form.yaml", "a [b]e")
        await pilot.press(*"a [b]", "enter")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen), "it is picked")
        await see(pilot, "a [b]e")
        await pilot.press("ctrl+o", *"form.yaml", "enter")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen), "it is picked")
        await see(pilot, "environment", "form")
        await pilot.press("ctrl+t")
        await see(pilot, "form")
        await pilot.press("ctrl+s")
        await see(pilot, "Save the sweep", "form.yaml")


@pytest.mark.slow
async def test_a_log_is_saved_and_copied_clean(world: World, tmp_path: Path) -> None:
    """Whoever reads the file in a terminal later is as safe."""
    app = console(world.settings, folder=tmp_path)
    async with app.run_test(size=(160, 48), notifications=True) as pilot:
        await until_shown(pilot, "3 sweeps")
        await go_to(pilot, "evil")
        await pilot.press("enter", "enter", "o")
        await until_shown(pilot, "the last line")
        await pilot.press("y", "s", "ctrl+u", *"clean.log", "enter")
        await see(pilot, "lines are in")
    for text in (app.clipboard, (tmp_path / "clean.log").read_text()):
        assert SEEN in text
        assert all(sign.isprintable() or sign == "\n" for sign in text)


async def test_no_way_to_the_cloud_is_said_as_text() -> None:
    """Whatever the error is made of."""

    def connect(tell: Callable[[str], None]) -> Fleet:
        tell(EVIL)
        raise RuntimeError(EVIL)

    app = Console(connect)
    async with app.run_test(size=(80, 24)) as pilot:
        await see(pilot, f"RuntimeError: {SEEN}")


def test_the_command_says_errors_as_text(tmp_path: Path) -> None:
    """Of its files and flags, in one line."""
    evil = EVIL.replace("\x00", "")
    file = tmp_path / f"x{SEQUENCES[0]}\u202e\x9b31m".replace("/", "")
    for content, flag in (
        (f"theme = {json.dumps(evil)}", "zone"),
        (f'[keys]\n"{SEQUENCES[0]}" = "g"', "zone"),
        ("", evil),
    ):
        file.write_text(content)
        zone = ("--zone", flag) if flag != "zone" else ()
        ran = subprocess.run(
            [str(Path(sys.executable).with_name("sinergym-tui")), *zone],
            env={**os.environ, "SINERGYM_TUI_CONFIG": str(file)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 2
        assert ran.stderr.startswith("sinergym-tui: ")
        assert all(sign.isprintable() for sign in ran.stderr[:-1])


# ------------------------------------------------------------------- in a real terminal


@pytest.mark.slow
def test_no_byte_of_it_reaches_a_terminal(world: World) -> None:
    """What the driver writes, on the way through the screens."""
    ssh = {"GCLOUD_OPS_SSH_PORT": str(world.settings.ssh_port)}
    with terminal(*flags(world.settings), **ssh) as shown:
        shown.until(lambda text: b"3 sweeps" in text, "the sweeps")
        for keys, awaited in (
            (b"/", b"a name, or state"),
            (b"evil !odd", b"1 of 3"),
            (b"\r", "▸".encode()),
            (b"\r", b"evil-0001"),
            (b"\r", b"Timeline"),
            (b"o", b"the last line"),
            (b"w", b"wrapped"),
            (b"\x1b", b"Timeline"),
            (b"\x1b", b"evil-0003"),
            (b"C", b"configuration"),
            (b"3", b"policies"),
            (b"2", b"incidents and messages"),
            (b"6", b"left over"),
            (b"5", b"well"),
            (b"l", b""),
            (b"1", b"sweeps"),
            (b"l", b"Environments"),
            (b"\x9b\xff\xfe", b"updated"),  # no text at all
            # Terminals take escapes out of what is pasted, but not these.
            ("\x1b[200~\u202e\u200bpasted\u2066\x9b6969X\x1b[201~".encode(), b"pasted"),
        ):
            shown.output, before = b"", shown.output
            shown.press(keys)
            shown.until(partial(_has, awaited), f"{awaited!r}")
            _assert_clean(before)
        _assert_clean(shown.output)


def _has(awaited: bytes, output: bytes) -> bool:
    return awaited in output


def _assert_clean(output: bytes) -> None:
    for sequence in (
        b"]52;",
        b"]8;",
        b"]777",
        b"[6969",
        b"?6969",
        b"evil title",
        b"\x1bP1$r",
        b"\x1bc",
    ):
        assert sequence not in output
    text = output.decode(errors="ignore")
    assert not re.search("[\x80-\x9f\u202a-\u202e\u2066-\u2069\u200b-\u200f\x00-\x06]", text)
