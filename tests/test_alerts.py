"""Finish alerts from end to end: a sweep's runners, Monitoring, a webhook and a mail server."""

import json
import socketserver
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.clouds import Command, OwnCloud

from gcloud_ops import templates
from gcloud_ops.local import LOCAL_IMAGE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MAIL = "you@example.org"
COMMANDS = ("true", "echo it broke >&2; exit 3", "true")
AWAY = 60.0
QUIET = 3.0
"""Seconds without a message, after all that are due, in which a second one would have come: the
emulator evaluates every second."""


class Sinks:
    """Takes what is sent: by HTTP and by SMTP, each on a port of loopback."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.mailed: list[tuple[str, str]] = []
        sinks = self

        class Webhook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                sinks.posted.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Mail(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 sink\r\n")
                to = ""
                while line := self.rfile.readline().strip():
                    word = line[:4].upper()
                    if word == b"RCPT":
                        to = line.partition(b"<")[2].partition(b">")[0].decode()
                    if word == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        lines = []
                        while (part := self.rfile.readline()) != b".\r\n":
                            lines.append(part)
                        mail = message_from_bytes(b"".join(lines))
                        sinks.mailed.append((to, str(mail["Subject"])))
                    self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
                    if word == b"QUIT":
                        return

        self.servers: list[socketserver.BaseServer] = [
            ThreadingHTTPServer(("127.0.0.1", 0), Webhook),
            socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail),
        ]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    @property
    def hook(self) -> str:
        """The webhook's URL."""
        return f"http://127.0.0.1:{self._port(0)}/hook"

    @property
    def smtp(self) -> str:
        """The mail server's address."""
        return f"127.0.0.1:{self._port(1)}"

    def stop(self) -> None:
        """End both."""
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def told(self) -> list[tuple[str, ...]]:
        """What the webhook was told, sorted: policy, and experiment or sweep."""
        found = []
        for one in self.posted:
            incident = one["incident"]
            labels = incident["metric"]["labels"]
            about = labels.get("experiment") or labels["sweep"]
            found.append((incident["policy_name"], about, incident["state"]))
        return sorted(found)

    def _port(self, number: int) -> int:
        address: Any = self.servers[number].server_address
        return int(address[1])


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    """They listen for one test."""
    made = Sinks()
    yield made
    made.stop()


@pytest.fixture
def cloud(tmp_path: Path, environment: dict[str, str], sinks: Sinks) -> Iterator[OwnCloud]:
    """A local cloud whose runners are real and whose mails go to the sink."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    made = OwnCloud(folder, environment, "--smtp", sinks.smtp, engine="process")
    spec = templates.TemplateSpec(name=made.settings.template, image=LOCAL_IMAGE)
    templates.create_template(made.clients, spec)
    yield made
    made.stop()


def until(seen: Callable[[], bool], seconds: float, what: Callable[[], object]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def launch(cloud: OwnCloud, command: Command, sinks: Sinks, name: str) -> None:
    """Launch the sweep of three with both addresses, and watch it to its end."""
    words = [word for line in COMMANDS for word in ("--command", line)]
    done = command(
        *("gcloud-ops", "sweep", "launch", "--name", name, *words),
        *("--alert", MAIL, "--alert", sinks.hook, "--watch"),
        env=cloud.flags,
        timeout=150,
    )
    assert done.returncode == 1, done.stderr + done.stdout  # one has failed
    assert "failed" in done.stdout


def check_messages(sinks: Sinks, name: str) -> None:
    """Both have got what is due, once."""
    due = sorted(
        [
            ("Sinergym: experiment finished", f"{name}-0001", "open"),
            ("Sinergym: experiment failed", f"{name}-0002", "open"),
            ("Sinergym: experiment finished", f"{name}-0003", "open"),
            ("Sinergym: sweep finished", name, "open"),
        ]
    )
    until(lambda: len(sinks.posted) >= 4 and len(sinks.mailed) >= 4, 90, sinks.told)
    quiet = time.monotonic() + QUIET
    until(lambda: time.monotonic() > quiet, 2 * QUIET, sinks.told)
    assert sinks.told() == due
    assert len(sinks.mailed) == 4
    assert {to for to, _ in sinks.mailed} == {MAIL}
    subjects = sorted(subject for _, subject in sinks.mailed)
    assert [one for one in subjects if f"{name}-0002" in one and "fail" in one.lower()]


def test_a_sweep_of_three_is_told_once(cloud: OwnCloud, command: Command, sinks: Sinks) -> None:
    """By webhook and by mail; `alerts incidents` shows what there was."""
    launch(cloud, command, sinks, "trio")
    check_messages(sinks, "trio")
    shown = command("gcloud-ops", "alerts", "incidents", "--output", "json", env=cloud.flags)
    assert shown.returncode == 0, shown.stderr
    assert len(json.loads(shown.stdout)) == 4


def test_monitoring_is_away_for_a_minute(cloud: OwnCloud, command: Command, sinks: Sinks) -> None:
    """The runners try again, and nothing is told twice."""
    away = {"method": "monitoring.projects.timeSeries.create", "status": 503}
    cloud.ask("faults", {**away, "count": 10_000, "reason": "backendError", "message": "later"})
    end = urllib.request.Request(f"{cloud.endpoint}/emulator/faults", method="DELETE")
    threading.Timer(AWAY, lambda: urllib.request.urlopen(end, timeout=30).close()).start()
    begin = time.monotonic()
    launch(cloud, command, sinks, "later")
    check_messages(sinks, "later")
    assert time.monotonic() - begin > AWAY
