"""A local cloud with inert instances, and a server that answers as it is told."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import stamina

from gcloud_ops import templates
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings


@pytest.fixture(autouse=True, scope="session")
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No credentials, settings or keys of the developer's."""
    home = tmp_path_factory.mktemp("home")
    prefixes = ("GOOGLE_", "CLOUDSDK_", "GCLOUD_", "GCE_", "STORAGE_EMULATOR", "SINERGYM_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(kept):
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        yield


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    """As many tries as ever, without the pauses between them."""
    with stamina.set_testing(True, attempts=5):
        yield


@contextlib.contextmanager
def inert_cloud(folder: Path, *options: str) -> Iterator[dict[str, object]]:
    """A running local cloud with inert instances: what its `cloud.json` says of it."""
    log = (folder / "serve.log").open("wb")
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("gcp-emulator")),
            "serve",
            *("--engine", "inert", "--folder", str(folder), "--boot-seconds", "0.2"),
            *options,
        ],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
    )
    try:
        about = folder / "cloud.json"
        eventually(
            lambda: about.exists() or process.poll() is not None, "the local cloud", seconds=30
        )
        assert process.poll() is None, (folder / "serve.log").read_text()
        yield json.loads(about.read_text())
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def settings_of(cloud: dict[str, object], key: Path) -> Settings:
    """Settings that point at a local cloud."""
    wanted = ("project", "zone", "endpoint", "ssh_port")
    return Settings.load(
        flags={**{name: cloud[name] for name in wanted}, "ssh_key": key}, environ={}
    )


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """The local cloud of most tests."""
    with inert_cloud(tmp_path_factory.mktemp("cloud")) as about:
        yield about


@pytest.fixture(scope="session")
def settings(cloud: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that point at the local cloud."""
    return settings_of(cloud, tmp_path_factory.mktemp("keys") / "id_ed25519")


@pytest.fixture(scope="session")
def clients(settings: Settings) -> Clients:
    """Clients of the local cloud."""
    return Clients.connect(settings)


@pytest.fixture(scope="session")
def template(clients: Clients) -> str:
    """Name of a template of ours that is there."""
    spec = templates.TemplateSpec(
        name="adapters-template",
        image="europe-docker.pkg.dev/local/sinergym/trainer:1",
        environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"},
    )
    return templates.create_template(clients, spec).name


def ask(clients: Clients, path: str, body: object = None, *, method: str | None = None) -> Any:
    """Read one of the emulator's own pages; with a body, post to it."""
    request = urllib.request.Request(
        f"{clients.settings.endpoint}/emulator/{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read() or "null")


def calls_of(clients: Clients) -> dict[str, int]:
    """How often each method was called so far, as the emulator counts."""
    counted: dict[str, int] = ask(clients, "stats")["calls"]
    return counted


def eventually[T](look: Callable[[], T], what: str, *, seconds: float = 20.0) -> T:
    """Look until it is true, and return it; fail when the time is up."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)
    return found


@dataclass
class Answers:
    """A server that gives its answers in their order, the last one for ever.

    An answer is a status and a JSON body (or text as it is); a status of 0 hangs up.
    """

    address: str = ""
    answers: list[tuple[int, object]] = field(default_factory=list)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def clients(self) -> Clients:
        """Clients of this server."""
        return Clients.connect(Settings(project="probe", endpoint=self.address))

    def say(self, *answers: tuple[int, object]) -> None:
        """Set the answers."""
        self.answers = list(answers)

    def error(self, status: int, reason: str, message: str = "no") -> tuple[int, object]:
        """An error in Google's shape."""
        entry = {"message": message, "domain": "global", "reason": reason}
        return status, {"error": {"code": status, "message": message, "errors": [entry]}}


@pytest.fixture
def answers() -> Iterator[Answers]:
    """A server on loopback that answers as it is told."""
    told = Answers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            told.requests.append((self.command, self.path, body))
            status, content = told.answers[0]
            if len(told.answers) > 1:
                told.answers.pop(0)
            if status == 0:
                self.close_connection = True
                return
            text = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with contextlib.ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield told
