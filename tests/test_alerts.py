"""Finish alerts from end to end: a sweep's runners, Monitoring, a webhook and a mail server."""

import json
import socketserver
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from tests.clouds import Command, OwnCloud

from gcloud_ops import alerts, bucket, groups, launching, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Record
from gcloud_ops.errors import PermissionDenied
from gcloud_ops.local import LOCAL_IMAGE
from gcloud_ops.model import Snapshot, Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MAIL = "you@example.org"
COMMANDS = ("true", "echo it broke >&2; exit 3", "true")
ONE_FAILED = {
    "0001": "experiment finished",
    "0002": "experiment failed",
    "0003": "experiment finished",
}
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

    def told(self, sweep: str) -> list[tuple[str, ...]]:
        """What the webhook was told of a sweep, sorted: policy, and experiment or sweep."""
        found = []
        for one in list(self.posted):
            incident = one["incident"]
            labels = incident["metric"]["labels"]
            if labels["sweep"] == sweep:
                about = labels.get("experiment") or sweep
                found.append((incident["policy_name"], about, incident["state"]))
        return sorted(found)

    def subjects(self, sweep: str) -> list[str]:
        """The subjects of the mails about a sweep, sorted."""
        return sorted(subject for _, subject in list(self.mailed) if sweep in subject)

    def _port(self, number: int) -> int:
        address: Any = self.servers[number].server_address
        return int(address[1])


@pytest.fixture(scope="module")
def sinks() -> Iterator[Sinks]:
    """They listen for all tests; each has a sweep of its own."""
    made = Sinks()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], sinks: Sinks
) -> Iterator[OwnCloud]:
    """A local cloud whose runners are real and whose mails go to the sink."""
    folder = tmp_path_factory.mktemp("cloud")
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


def launch_at_boot(cloud: OwnCloud, sinks: Sinks, name: str, *commands: str) -> None:
    """Launch a sweep whose instances find their commands themselves, also after a repair."""
    to = alerts.recipients(cloud.clients, [MAIL, sinks.hook])
    alerts.set_up(cloud.clients, to, on_step=print)
    sweep = Sweep.of_commands(name, commands, dispatch=Dispatch.BOOT)
    list(launching.launch(launching.plan(sweep, cloud.clients), cloud.clients))


def records(cloud: OwnCloud, name: str) -> dict[str, Record]:
    """The records of a sweep, as they are now."""
    return dict(bucket.list_records(cloud.clients, cloud.settings.bucket_name, name))


def await_running(cloud: OwnCloud, name: str, experiment: str) -> None:
    """Wait until the experiment's command runs."""

    def runs() -> bool:
        record = records(cloud, name).get(experiment)
        return record is not None and record.state == "running"

    until(runs, 60, lambda: records(cloud, name))


def watch(cloud: OwnCloud, name: str, *, lost_after: timedelta) -> Snapshot:
    """Watch a sweep to its end."""
    seen = sweeps.watch(name, cloud.clients, interval=0.2, lost_after=lost_after)
    return list(seen)[-1]


def check_messages(sinks: Sinks, name: str, told: Mapping[str, str]) -> None:
    """Both have got what is due, once: of each experiment by its number, and of the sweep."""
    due = sorted(
        [
            *((f"Sinergym: {what}", f"{name}-{number}", "open") for number, what in told.items()),
            ("Sinergym: sweep finished", name, "open"),
        ]
    )

    def have_come() -> bool:
        return min(len(sinks.told(name)), len(sinks.subjects(name))) >= len(due)

    until(have_come, 90, lambda: sinks.told(name))
    quiet = time.monotonic() + QUIET
    until(lambda: time.monotonic() > quiet, 2 * QUIET, lambda: sinks.told(name))
    assert sinks.told(name) == due
    subjects = sinks.subjects(name)
    assert len(subjects) == len(due)
    assert {to for to, _ in sinks.mailed} == {MAIL}
    for number, what in told.items():
        (subject,) = (one for one in subjects if f"{name}-{number}" in one)
        assert what.rpartition(" ")[2] in subject.lower()


def incidents(cloud: OwnCloud, command: Command, name: str) -> list[tuple[str, str]]:
    """What `alerts incidents` shows of a sweep: policy and experiment, sorted."""
    shown = command("gcloud-ops", "alerts", "incidents", "--output", "json", env=cloud.flags)
    assert shown.returncode == 0, shown.stderr
    found = [one for one in json.loads(shown.stdout) if one["sweep"] == name]
    return sorted((one["policy"], one["experiment"]) for one in found)


def test_a_sweep_of_three_is_told_once(cloud: OwnCloud, command: Command, sinks: Sinks) -> None:
    """By webhook and by mail; `alerts incidents` shows what there was."""
    launch(cloud, command, sinks, "trio")
    check_messages(sinks, "trio", ONE_FAILED)
    said = [one["incident"]["documentation"]["content"] for one in sinks.posted]
    (failed,) = (one for one in said if "`trio-0002` of sweep `trio` has failed" in one)
    assert "\n    hint: its last line: it broke\n" in failed
    assert "- Result: no mean reward\n" in failed
    assert len(incidents(cloud, command, "trio")) == 4


def test_an_instance_that_is_repaired_is_no_end(cloud: OwnCloud, sinks: Sinks) -> None:
    """A VM is taken away in the middle, its group brings it back: three ends and the sweep's."""
    goes_on = 'test "$SINERGYM_ATTEMPT" -gt 1 || sleep 60'
    launch_at_boot(cloud, sinks, "spot", "true", goes_on, "true")
    await_running(cloud, "spot", "spot-0002")

    cloud.ask("instances/spot-0002/preempt", {"grace": 0})
    seen = watch(cloud, "spot", lost_after=timedelta(minutes=5))

    assert seen.is_gone
    assert records(cloud, "spot")["spot-0002"].attempt == 2
    ended = "experiment finished"
    check_messages(sinks, "spot", dict.fromkeys(("0001", "0002", "0003"), ended))


def test_an_instance_that_goes_without_a_word(
    cloud: OwnCloud, command: Command, sinks: Sinks
) -> None:
    """Its power is cut and somebody takes it out of the group: who watches the sweep tells."""
    launch_at_boot(cloud, sinks, "dark", "true", "sleep 60", "true")
    await_running(cloud, "dark", "dark-0002")

    cloud.ask("instances/dark-0002/preempt", {"grace": 0})
    groups.delete_instances(cloud.clients, "dark", ["dark-0002"])
    seen = watch(cloud, "dark", lost_after=timedelta(seconds=3))

    assert seen.is_gone
    lost = records(cloud, "dark")["dark-0002"]
    assert lost.exit is not None
    assert (lost.state, lost.exit.kind) == ("failed", "lost")
    ended = "experiment finished"
    check_messages(sinks, "dark", {"0001": ended, "0002": "heartbeat lost", "0003": ended})
    assert incidents(cloud, command, "dark") == [
        ("experiment-finished", "dark-0001"),
        ("experiment-finished", "dark-0003"),
        ("heartbeat-lost", "dark-0002"),
        ("sweep-finished", ""),
    ]


def account_with(cloud: OwnCloud, name: str, *roles: str) -> str:
    """Make a service account with these roles in the project; its e-mail address."""
    clients, project = cloud.clients, cloud.settings.project
    made = clients.api("iam", "v1").projects().serviceAccounts()
    request = made.create(name=f"projects/{project}", body={"accountId": name})
    email = str(clients.execute(name, request)["email"])
    projects = clients.api("cloudresourcemanager", "v1").projects()
    policy = clients.execute("the policy", projects.getIamPolicy(resource=project, body={}))
    member = f"serviceAccount:{email}"
    policy["bindings"] += [{"role": role, "members": [member]} for role in roles]
    body = {"policy": policy}
    clients.execute("the policy", projects.setIamPolicy(resource=project, body=body))
    return email


def token_of(cloud: OwnCloud, experiment: str) -> str:
    """The access token that the metadata server of an experiment's instance gives."""
    status = cloud.ask("status")
    (address,) = {one["address"] for one in status["instances"] if one["name"] == experiment}
    account = "computeMetadata/v1/instance/service-accounts/default/token"
    request = urllib.request.Request(
        f"http://{address}:{status['metadata_port']}/{account}",
        headers={"Metadata-Flavor": "Google"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return str(json.load(reply)["access_token"])


def test_who_may_not_is_told_before_anything_is_made(cloud: OwnCloud, sinks: Sinks) -> None:
    """Who may make channels, but no policies, leaves no channel behind."""
    roles = ("roles/monitoring.viewer", "roles/monitoring.notificationChannelEditor")
    email = account_with(cloud, "looks-only", *roles)
    spec = templates.TemplateSpec(name="looks", image=LOCAL_IMAGE, service_account=email)
    templates.create_template(cloud.clients, spec)
    sweep = Sweep.of_commands("looks", ["sleep 60"], template="looks", dispatch=Dispatch.BOOT)
    list(launching.launch(launching.plan(sweep, cloud.clients), cloud.clients))
    await_running(cloud, "looks", "looks-0001")
    theirs = Credentials(token=token_of(cloud, "looks-0001"))  # type: ignore[no-untyped-call]
    clients = Clients(cloud.settings, credentials=theirs)
    alerts.remove_policies(cloud.clients, print)
    before = alerts.list_channels(cloud.clients)

    with pytest.raises(PermissionDenied) as refused:
        alerts.set_up(clients, alerts.recipients(clients, ["me@example.org"]), on_step=print)

    assert "you lack monitoring.alertPolicies.create" in str(refused.value)
    assert "nothing was made" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert alerts.list_channels(cloud.clients) == before
    assert alerts.list_policies(cloud.clients) == []
    sweeps.cancel("looks", cloud.clients)


def test_monitoring_is_away_for_a_minute(cloud: OwnCloud, command: Command, sinks: Sinks) -> None:
    """The runners try again, and nothing is told twice."""
    away = {"method": "monitoring.projects.timeSeries.create", "status": 503}
    cloud.ask("faults", {**away, "count": 10_000, "reason": "backendError", "message": "later"})
    end = urllib.request.Request(f"{cloud.endpoint}/emulator/faults", method="DELETE")
    threading.Timer(AWAY, lambda: urllib.request.urlopen(end, timeout=30).close()).start()
    begin = time.monotonic()
    launch(cloud, command, sinks, "later")
    check_messages(sinks, "later", ONE_FAILED)
    assert time.monotonic() - begin > AWAY
