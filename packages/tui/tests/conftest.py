"""A local cloud with inert instances, and a console on it."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from gcloud_ops import groups, launching, templates
from gcloud_ops.bucket import list_records, replace_record
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, timestamp
from gcloud_ops.model import Sweep
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.config import Config
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.widgets.live_table import LiveTable

SIZES = pytest.mark.parametrize(
    "size",
    [
        pytest.param((80, 24), id="80x24"),
        pytest.param((160, 48), id="160x48", marks=pytest.mark.slow),
    ],
)


@pytest.fixture(autouse=True, scope="session")
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No credentials, settings or keys of the developer's."""
    home = tmp_path_factory.mktemp("home")
    prefixes = ("GOOGLE_", "CLOUDSDK_", "GCLOUD_", "GCE_", "STORAGE_EMULATOR", "SINERGYM_")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(prefixes)]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        yield


@dataclass
class LocalCloud:
    """A `gcp-emulator serve` of our own; can be stopped and started again."""

    folder: Path
    port: int = 0
    options: tuple[str, ...] = ("--engine", "inert")
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> dict[str, Any]:
        """Start it; returns its `cloud.json`."""
        about = self.folder / "cloud.json"
        about.unlink(missing_ok=True)
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("gcp-emulator")),
                    "serve",
                    *("--folder", str(self.folder), *self.options),
                    *("--port", str(self.port)),
                    *("--boot-seconds", "0.2", "--pull-seconds", "0.1"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while not about.exists():
            assert self.process.poll() is None, (self.folder / "serve.log").read_text()
            assert time.monotonic() < deadline, "the local cloud did not start"
            time.sleep(0.05)
        described: dict[str, Any] = json.loads(about.read_text())
        self.port = int(described["endpoint"].rsplit(":", 1)[1])
        return described

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None


def settings_for(described: dict[str, Any], folder: Path) -> Settings:
    """Settings that point at a local cloud, and the template that sweeps take."""
    settings = Settings(
        project=described["project"],
        zone=described["zone"],
        endpoint=described["endpoint"],
        monitoring_endpoint=described["grpc_endpoint"],
        ssh_port=described["ssh_port"],
        ssh_key=folder / "id_ed25519",
    )
    templates.create_template(
        Clients.connect(settings),
        templates.TemplateSpec(name="sinergym-template", image="local/sinergym-trainer:latest"),
    )
    return settings


@pytest.fixture(scope="session")
def _cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    cloud = LocalCloud(tmp_path_factory.mktemp("cloud"))
    try:
        yield settings_for(cloud.start(), cloud.folder)
    finally:
        cloud.stop()


@pytest.fixture
def settings(_cloud: Settings, request: pytest.FixtureRequest) -> Settings:
    """Settings with a bucket of the test's own."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[5:]
    return replace(_cloud, bucket=f"b-{name[:12].strip('-')}-{time.monotonic_ns() % 10**6}")


@pytest.fixture
def clients(settings: Settings) -> Clients:
    """Clients for the test's bucket."""
    return Clients.connect(settings)


def console(
    settings: Settings,
    *,
    folder: Path | None = None,
    read_only: bool = False,
    config: Config | None = None,
) -> Console:
    """A console on these settings that looks five times a second."""
    return Console(
        lambda _tell: Fleet.connect(settings, read_only=read_only),
        read_only=read_only,
        folder=folder,
        interval=0.2,
        config=config,
    )


def ask(settings: Settings, path: str, body: object = None) -> Any:
    """Read, or with a body post, one of the local cloud's own pages."""
    request = urllib.request.Request(
        f"{settings.endpoint}/emulator/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def text_of(app: Console) -> str:
    """What the terminal shows, without colours."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def until(
    pilot: Pilot[Any], condition: Callable[[], object], what: str, *, seconds: float = 15
) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}\n{text_of(pilot.app)}"  # type: ignore[arg-type]
        await pilot.pause(0.1)


async def until_shown(pilot: Pilot[Any], *texts: str, seconds: float = 15) -> None:
    """Wait until the terminal shows all of these texts."""
    app: Any = pilot.app
    await until(
        pilot, lambda: all(text in text_of(app) for text in texts), f"{texts}", seconds=seconds
    )


async def until_read(pilot: Pilot[Any], *texts: str, seconds: float = 15) -> None:
    """Wait until these texts can be read, wherever lines are broken."""
    app: Any = pilot.app

    def is_read() -> bool:
        words = re.sub(r"[\s│]+", " ", text_of(app))
        return all(text in words for text in texts)

    await until(pilot, is_read, f"{texts}", seconds=seconds)


async def go_to(pilot: Pilot[Any], key: str) -> None:
    """Put the table's cursor on a row, by keys."""
    table = pilot.app.screen.query_one("#table", LiveTable)
    await until(pilot, lambda: key in table.keys, f"the row {key}")
    await pilot.press("g", *["down"] * table.keys.index(key))
    assert table.key == key


async def confirm(pilot: Pilot[Any], *texts: str, typed: str = "") -> None:
    """Wait for a question with these texts, see that No has the focus, and say yes."""
    app: Any = pilot.app
    await until_read(pilot, *texts)
    assert isinstance(app.screen, ConfirmScreen)
    assert app.focused.id == "no"
    if typed:
        assert app.screen.query_one("#yes").disabled
        await pilot.press("shift+tab", *typed, "enter", "enter")
    else:
        await pilot.press("tab", "enter")
    await until(pilot, lambda: not isinstance(app.screen, ConfirmScreen), "it is answered")


async def pick(pilot: Pilot[Any], name: str) -> None:
    """Pick a sweep file of the folder by keys, in the form of a new sweep."""
    await until_shown(pilot, "Launch a sweep")
    await pilot.press("ctrl+o")
    await until_shown(pilot, "Open a sweep file", name)
    await pilot.press("tab", *name, "enter")


def launch(clients: Clients, name: str, count: int = 2) -> None:
    """Launch a sweep without the console, and give each its command over SSH."""
    sweep = replace(Sweep.of_commands(name, ["true"] * count), dispatch=Dispatch.SSH)
    *_, last = launching.launch(launching.plan(sweep, clients), clients)
    assert last == launching.Launched(sent=count, failed=0, waiting=0)


def write_record(clients: Clients, sweep: str, number: int, **members: object) -> str:
    """Write an experiment's record as its runner would; returns the experiment's id."""
    bucket = clients.settings.bucket_name
    name = f"{sweep}-{number:04d}"
    found = list_records(clients, bucket, sweep).get(name)
    instance = next(
        (it.id for it in groups.list_members(clients, sweep) or () if it.name == name), ""
    )
    content = {
        "schema": 1,
        "sweep": sweep,
        "experiment": name,
        "attempt": 1,
        "instance": name,
        "instance_id": instance,
        "started": timestamp(datetime.now(UTC)),
        "updated": timestamp(datetime.now(UTC)),
        "ended": None,
        "exit": None,
        **members,
    }
    generation = found.generation if found else 0
    replace_record(clients, bucket, sweep, name, content, generation=generation)
    return name


def write_log(clients: Clients, sweep: str, number: int, offset: int, content: bytes) -> None:
    """Write a segment of an experiment's log as its runner would."""
    name = f"{sweep}/{sweep}-{number:04d}/log/1/{offset:012d}.log"
    bucket = clients.storage.bucket(clients.settings.bucket_name)
    bucket.blob(name).upload_from_string(content, if_generation_match=0)
