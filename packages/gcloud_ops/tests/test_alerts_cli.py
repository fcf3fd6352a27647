"""`gcloud-ops alerts` and `sweep launch --alert`, on a local cloud with Cloud Monitoring."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gcloud_ops import alerts, bucket, groups, objects, signals, templates
from gcloud_ops.alerts import wanted
from gcloud_ops.cli.output import ExitCode
from gcloud_ops.clients import Clients

from .commands import Ended, Run, runner, surroundings_of
from .conftest import eventually, inert_cloud, settings_of


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A local cloud of this module's."""
    folder = tmp_path_factory.mktemp("monitored")
    with inert_cloud(folder) as about:
        settings = settings_of(about, folder / "key")
        settings = replace(settings, monitoring_endpoint=str(about["grpc_endpoint"]))
        clients = Clients.connect(settings)
        spec = templates.TemplateSpec(name="sinergym-template", image="docker.io/s/trainer:1")
        templates.create_template(clients, spec)
        yield clients


@pytest.fixture
def ops(
    monitored: Clients, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command line in this process, with this on standard input."""
    return runner(surroundings_of(monitored.settings), monkeypatch, capsys)


@pytest.fixture(autouse=True)
def _removed(monitored: Clients) -> Iterator[None]:
    """Policies, channels and groups of a test go with it."""
    yield
    alerts.remove_policies(monitored, print)
    for one in alerts.list_channels(monitored):
        alerts.remove_channel(monitored, one, used_by=lambda _: [], force=True)
    for group in groups.list_groups(monitored):
        groups.delete_group(monitored, group.name, wait=False)


def json_of(ended: Ended) -> Any:
    """What a command printed."""
    assert ended.code == ExitCode.DONE, ended.err
    return json.loads(ended.out)


def test_a_password_comes_by_standard_input_or_environment(
    ops: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not printed, in no form."""
    words = ("alerts", "channels", "add", "webhook_basicauth", "https://example.org/x")
    ended = ops(*words, "--username", "ana", given="hunter2-of-ana\n")
    assert ended.code == ExitCode.DONE
    monkeypatch.setenv("GCLOUD_OPS_SECRET_AUTH_TOKEN", "hunter2-of-slack")
    slack = ops("alerts", "channels", "add", "slack", "#experiments", "--output", "json")
    assert json_of(slack)[0]["labels"] == {"channel_name": "#experiments"}
    listed = ops("alerts", "channels", "list", "--output", "json")
    assert {one["type"] for one in json_of(listed)} == {"slack", "webhook_basicauth"}
    for told in (ended, slack, listed, ops("alerts", "channels", "list")):
        assert "hunter2" not in told.out + told.err


def test_a_url_with_a_token_comes_by_standard_input(ops: Run) -> None:
    """As it is a secret, too."""
    words = ("alerts", "channels", "add", "webhook", "--secret", "url")
    for _ in range(2):
        ended = ops(*words, given="https://example.org/x?auth_token=hu\n")
        assert ended.code == ExitCode.DONE
    assert ops(*words, given="http://example.org/x?auth_token=hu\n").code == ExitCode.USAGE
    assert len(json_of(ops("alerts", "channels", "list", "--output", "json"))) == 1
    assert "https://example.org/x?..." in ended.out
    assert "auth_token" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("email", "you@"), "'you@' is not an e-mail address"),
        (("sms", "600"), "E.164"),
        (("webhook", "http://example.org"), "use https"),
        (("pubsub", "ended"), "is not a topic"),
        (("emial", "you@example.org"), "did you mean email?"),
        (("email", "--label", "adress=you@example.org"), "did you mean email_address?"),
        (("email", "--label", "you"), "is not KEY=VALUE"),
        (("slack", "#experiments"), "auth_token: none was given"),
        (("email",), "needs email_address"),
    ],
)
def test_what_cannot_be_added_is_explained_in_a_line(
    ops: Run, monitored: Clients, words: tuple[str, ...], told: str
) -> None:
    """Nothing is made."""
    ended = ops("alerts", "channels", "add", *words)
    assert ended.code == ExitCode.USAGE
    assert told in ended.err
    assert ended.err.count("\n") == 1
    assert alerts.list_channels(monitored) == []


def test_from_setup_to_removal(ops: Run) -> None:
    """Every command once."""
    assert "webhook_basicauth" in ops("alerts", "channels", "types").out
    made = ops("alerts", "policies", "setup", "--channel", "you@example.org")
    assert made.code == ExitCode.DONE
    assert "policy made: Sinergym: sweep finished" in made.err
    (channel,) = json_of(ops("alerts", "channels", "list", "--output", "json"))
    assert ops("alerts", "policies", "disable", "sweep-finished").code == ExitCode.DONE
    states = {
        one["which"]: one["enabled"]
        for one in json_of(ops("alerts", "policies", "list", "--output", "json"))
    }
    assert len(states) == 6
    assert not states.pop("sweep-finished")
    assert all(states.values())
    assert ops("alerts", "policies", "enable", "sweep-finished").code == ExitCode.DONE
    identity = channel["name"].rpartition("/")[2]
    used = ops("alerts", "channels", "remove", identity, "--yes")
    assert used.code == ExitCode.USAGE
    assert "--force takes it out" in used.err
    assert ops("alerts", "channels", "remove", identity, "--yes", "--force").code == 0
    assert ops("alerts", "policies", "remove", "--yes").code == ExitCode.DONE
    lonely = ops("alerts", "policies", "setup")
    assert "they tell nobody yet" in lonely.err


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """A webhook on this machine: its URL, and what it was sent."""
    sent: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_test_goes_through_to_the_channel(ops: Run, hook: tuple[str, list[Any]]) -> None:
    """A real signal, its incident, and the message that the webhook gets, once."""
    url, sent = hook
    ops("alerts", "policies", "setup", "--channel", url)
    ended = ops("alerts", "test", "--channel", url, "--patience", "30", "--output", "json")
    (incident,) = json_of(ended)
    assert incident["sweep"] == "gcloud-ops-test"
    assert incident["state"] == "OPEN"
    assert f"{url}: delivered: Finished: {incident['experiment']}" in ended.err
    (message,) = sent
    told = message["incident"]["documentation"]
    assert told["subject"] == f"Finished: {incident['experiment']}"
    assert f"sweep logs gcloud-ops-test {incident['experiment']}" in told["content"]
    assert incident["experiment"] in ops("alerts", "incidents", "--open").out
    lonely = ops("alerts", "channels", "add", "email", "other@example.org")
    assert lonely.code == ExitCode.DONE
    refused = ops("alerts", "test", "--channel", "other@example.org")
    assert refused.code == ExitCode.USAGE
    assert "is in no policy" in refused.err


def test_each_end_is_told_exactly_once(
    ops: Run, monitored: Clients, hook: tuple[str, list[Any]]
) -> None:
    """One by one where that is asked for, else failures together; and the sweep's end."""
    url, sent = hook
    ops("alerts", "policies", "setup", "--channel", url)

    def ended(sweep: str, number: int, status: str, notify: str) -> dict[str, str]:
        experiment = f"{sweep}-{number:04d}"
        return wanted.experiment_labels(
            sweep=sweep, experiment=experiment, status=status, notify=notify
        )

    statuses = ("finished", "failed", "failed", "lost")
    points = [
        ended(sweep, number, status, notify)
        for sweep, notify in (("few", "each"), ("many", "sweep"))
        for number, status in enumerate(statuses, start=1)
    ]
    signals.write_points(monitored, signals.EXPERIMENT_FINISHED, points)
    over = {"sweep": "many", "status": "failed", "experiments": "4", "failed": "3"}
    over |= {"duration": "1 h 12 min", "best_reward": "best mean reward -1.50"}
    signals.write_points(monitored, signals.SWEEP_FINISHED, [over])
    due = {
        "Finished: few-0001",
        "FAILED: few-0002",
        "FAILED: few-0003",
        "LOST: few-0004",
        "FAILED: experiments of sweep many (failed)",
        "FAILED: experiments of sweep many (lost)",
        "Sweep many: failed, 3 of 4 failed",
    }

    def subjects() -> list[str]:
        found = [one["incident"] for one in sent]
        return [
            one["documentation"]["subject"]
            for one in found
            if one["metric"]["labels"]["sweep"] in {"few", "many"}
        ]

    eventually(lambda: due <= set(subjects()), "the messages that are due")
    # Whatever else there is was sent with them: one more signal comes after all of it.
    last = ended("few", 5, "finished", "each")
    signals.write_points(monitored, signals.EXPERIMENT_FINISHED, [last])
    eventually(lambda: "Finished: few-0005" in subjects(), "the last message")
    assert sorted(subjects()) == sorted({*due, "Finished: few-0005"})
    said = [one["incident"]["documentation"]["content"] for one in sent]
    assert [one for one in said if "- Result: best mean reward -1.50\n" in one]


def beat(clients: Clients, *, age: float) -> None:
    """Write a sign of life of the tracking server, as of some seconds ago."""
    end = {"seconds": int(time.time() - age)}
    series = {
        "metric": {"type": signals.TRACKING_SERVER_UP},
        "resource": {"type": "global", "labels": {"project_id": clients.project}},
        "points": [{"interval": {"end_time": end}, "value": {"int64_value": 1}}],
    }
    request = {"name": f"projects/{clients.project}", "time_series": [series]}
    clients.monitoring("MetricServiceClient").create_time_series(request=request, retry=None)


@pytest.mark.slow
def test_a_tracking_server_that_falls_silent_is_told_once(
    ops: Run, monitored: Clients, hook: tuple[str, list[Any]]
) -> None:
    """After five minutes without a sign of life, whose last one stands in for the others."""
    url, sent = hook
    ops("alerts", "policies", "setup", "--channel", url)

    last = "Finished: silent-0001"
    down = f"DOWN: the tracking server of {monitored.project}"

    def told() -> list[dict[str, Any]]:
        found = [one["incident"] for one in sent]
        return [one for one in found if one["documentation"]["subject"] in {down, last}]

    def states() -> list[str]:
        found = alerts.list_incidents(monitored)
        return [one.state for one in found if one.policy == "tracking-server-down"]

    beat(monitored, age=299)
    eventually(lambda: bool(told()), "the message")
    (message,) = told()
    assert (message["state"], message["severity"]) == ("open", "Error")
    assert "mlflow-infra --local status" in message["documentation"]["content"]
    assert states() == ["OPEN"]
    beat(monitored, age=0)
    eventually(lambda: states() == ["CLOSED"], "its end")
    # Whatever was sent of that, this comes after it.
    labels = wanted.experiment_labels(experiment="silent-0001", status="finished", notify="each")
    signals.write_points(monitored, signals.EXPERIMENT_FINISHED, [labels])
    eventually(lambda: len(told()) > 1, "another message")
    assert [one["documentation"]["subject"] for one in told()] == [down, last]


def test_a_launch_with_alert_makes_all_that_it_takes(ops: Run, monitored: Clients) -> None:
    """Channel, policies, and what the manifest says; and tells what will be sent."""
    words = ("sweep", "launch", "--name", "told", "--command", "true", "--patience", "0.1")
    ended = ops(*words, "--alert", "you@example.org")
    assert "alerts to you@example.org: the end of each of 1 experiments" in ended.err
    name = monitored.settings.bucket_name
    assert bucket.read_manifest(monitored, name, "told").alert_each
    (channel,) = alerts.list_channels(monitored)
    assert {one.channels for one in alerts.list_policies(monitored)} == {(channel.name,)}
    words = ("sweep", "launch", "--name", "few", "--command", "true", "--patience", "0.1")
    ended = ops(*words, "--alert", "you@example.org", "--no-alert-each")
    assert "failures among its 1 experiments" in ended.err
    assert not bucket.read_manifest(monitored, name, "few").alert_each


@pytest.mark.parametrize(
    ("address", "code", "told"),
    [
        ("you@", ExitCode.USAGE, "is not an e-mail address"),
        ("nobody", ExitCode.NOT_FOUND, "there is no notification channel nobody"),
        ("+34600000000", ExitCode.USAGE, "is not verified"),
    ],
)
def test_a_launch_with_a_bad_address_creates_nothing(
    ops: Run, monitored: Clients, address: str, code: ExitCode, told: str
) -> None:
    """Neither of the sweep nor of the alerts."""
    alerts.add_channel(monitored, "sms", address="+34600000000")
    ended = ops(*("sweep", "launch", "--name", "untold", "--command", "true", "--alert", address))
    assert ended.code == code
    assert told in ended.err
    assert alerts.list_policies(monitored) == []
    assert len(alerts.list_channels(monitored)) == 1
    where = monitored.settings.bucket_name
    if objects.bucket_exists(monitored, where):
        assert "untold" not in {one.name for one in bucket.list_manifests(monitored, where)}
    assert groups.get_group(monitored, "untold") is None
