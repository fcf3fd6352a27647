"""Notifications: what arrives where, once, and what the inbox says of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_string, policy
from pathlib import Path
from typing import Any

import pytest
from google.cloud.monitoring_v3 import types

from gcp_emulator.monitoring.texts import Incident, notification

from .iam_cloud import PROJECT, running
from .monitoring_cloud import (
    METRIC,
    Clients,
    MailSink,
    Sink,
    condition,
    eventually,
    mail_sink,
    webhook_sink,
)

DOCUMENTATION = {
    "subject": "${metric.label.experiment} ${metric.labels.status} by ${policy.display_name}",
    "content": (
        "Sweep ${metric.label.sweep}, project ${resource.label.project_id},"
        " reward ${metric.label.reward}, $${this} stays, ${no.such} goes."
    ),
    "mime_type": "text/markdown",
}


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A server for webhooks."""
    with webhook_sink() as sink:
        yield sink


@pytest.fixture
def mails() -> Iterator[MailSink]:
    """An SMTP server."""
    with mail_sink() as mails:
        yield mails


@pytest.fixture
def clients(tmp_path: Path, mails: MailSink) -> Iterator[Clients]:
    """The clients of a cloud that has an SMTP server, and knows one metric."""
    with running(tmp_path / "cloud", smtp=("127.0.0.1", mails.port)) as cloud:
        clients = Clients(cloud)
        clients.write(experiment="warm-up", status="none")
        yield clients
        clients.close()


def make_channel(clients: Clients, kind: str, **labels: str) -> Any:
    """Make a channel."""
    wanted = {"type_": kind, "labels": labels}
    return clients.channels.create_notification_channel(name=PROJECT, notification_channel=wanted)


def states(clients: Clients) -> list[str]:
    """What became of each notification, once nothing is under way."""
    found = [one["state"] for one in clients.inbox]
    return found if "sending" not in found else []


def test_webhook_and_mail_get_each_incident_once(
    clients: Clients, sink: Sink, mails: MailSink
) -> None:
    """Each series is an incident of its own, and further points of it are no news."""
    hook = clients.webhook(f"{sink.url}?token=secret-in-the-query")
    mail = make_channel(clients, "email", email_address="you@example.org")
    only = condition(' AND metric.label.status=one_of("finished", "failed")')
    clients.policy(hook, mail, conditions=[only], documentation=DOCUMENTATION)
    for name in ("s-000", "s-001"):
        clients.write(experiment=name, status="finished", sweep="s", reward="-3.5")
    clients.write(experiment="s-002", status="cancelled", sweep="s")
    eventually(lambda: len(sink.posts) == 2 and len(mails.mails) == 2 and states(clients))

    path, headers, body = next(p for p in sink.posts if "s-000" in json.dumps(p[2]))
    assert path == "/hook?token=secret-in-the-query"
    assert headers["Content-Type"] == "application/json"
    incident = body["incident"]
    assert body["version"] == "1.2"
    assert incident["state"] == "open"
    assert incident["policy_name"] == "finished"
    assert incident["condition_name"] == "over"
    assert incident["metric"]["type"] == METRIC
    assert incident["metric"]["labels"]["experiment"] == "s-000"
    assert incident["resource"] == {"type": "global", "labels": {"project_id": "local"}}
    # A value that begins with a minus is not reported, as Google says.
    assert incident["documentation"] == {
        "subject": "s-000 finished by finished",
        "content": "Sweep s, project local, reward , ${this} stays,  goes.",
        "mime_type": "text/markdown",
    }
    to, text = next(m for m in mails.mails if "s-001" in m[1])
    mail_message = message_from_string(text, policy=policy.default)
    assert to == "you@example.org"
    assert mail_message["Subject"] == "s-001 finished by finished"
    assert "Sweep s, project local" in mail_message.get_content()
    assert states(clients) == ["delivered"] * 4
    assert "secret-in-the-query" not in json.dumps(clients.inbox)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("mean reward -3.5", "mean reward -3.5"),
        ("7", "7"),
        ("/tmp", "/tmp"),
        ("=x", "=x"),
        ("-3.5", ""),
        ("(core dumped)", ""),
        (" x", ""),
        ("", ""),
    ],
)
def test_a_label_that_begins_otherwise_is_not_told(value: str, told: str) -> None:
    """Messages have those that begin with a letter, a digit, a slash or an equal sign."""
    incident = Incident(
        id="0.a", policy="p", policy_name="p", user_labels={}, severity="ERROR", condition="c",
        condition_name="c", metric=METRIC, metric_labels={"hint": value}, resource="global",
        resource_labels={}, opened=1.0, newest=1.0, value=1.0,
    )  # fmt: skip
    documented = types.AlertPolicy.pb(types.AlertPolicy())
    documented.documentation.content = "[${metric.label.hint}]"
    made = notification(
        incident, documented, project="local", number="1", metric_name="m", threshold=0.0
    )
    assert made.body["incident"]["documentation"]["content"] == f"[{told}]"


def test_failing_webhook_is_tried_again_until_it_takes_it(clients: Clients, sink: Sink) -> None:
    """503 twice, then 200: three requests, one delivery."""
    sink.answers = [503, 503]
    clients.policy(clients.webhook(sink.url))
    clients.write(experiment="s-000", status="finished")
    eventually(lambda: "delivered" in states(clients))
    eventually(lambda: len([p for p in sink.posts if "s-000" in json.dumps(p[2])]) >= 1)
    assert sum(one["attempts"] for one in clients.inbox) == len(sink.posts)


def test_what_is_refused_is_not_tried_again(clients: Clients, sink: Sink, mails: MailSink) -> None:
    """A 404 and an SMTP 550 are the end of it, and the inbox says so."""
    sink.answers = [404] * 10
    mails.refusals = ["550 no such user"] * 10
    hook = clients.webhook(sink.url)
    mail = make_channel(clients, "email", email_address="nobody@example.org")
    only = condition(' AND metric.label.experiment="s-000"')
    clients.policy(hook, mail, conditions=[only])
    clients.write(experiment="s-000", status="finished")
    eventually(lambda: states(clients) == ["failed", "failed"])
    assert {one["reason"] for one in clients.inbox} == {"HTTP 404", "SMTP 550 no such user"}
    assert len(sink.posts) == 1
    assert not mails.mails


def test_mail_is_tried_again_after_a_passing_refusal(clients: Clients, mails: MailSink) -> None:
    """450 once, then it is taken; once."""
    mails.refusals = ["450 later"]
    mail = make_channel(clients, "email", email_address="you@example.org")
    only = condition(' AND metric.label.experiment="s-000"')
    clients.policy(mail, conditions=[only])
    clients.write(experiment="s-000", status="finished")
    eventually(lambda: states(clients) == ["delivered"])
    assert len(mails.mails) == 1


def test_other_channels_end_in_the_inbox(clients: Clients, sink: Sink) -> None:
    """What this cloud has not, what is elsewhere, what is not verified or disabled."""
    made = {
        "slack": make_channel(clients, "slack", auth_token="xoxb-very-secret", channel_name="#a"),
        "pubsub": make_channel(clients, "pubsub", topic="projects/local/topics/alerts"),
        "sms": make_channel(clients, "sms", number="+15551234567"),
        "away": clients.webhook("https://example.org/hook?token=abc"),
        "off": clients.webhook(sink.url, enabled=False),
    }
    only = condition(' AND metric.label.experiment="s-000"')
    clients.policy(*made.values(), conditions=[only])
    clients.write(experiment="s-000", status="finished")
    eventually(lambda: len(clients.inbox) == 5 and states(clients))
    found = {one["channel"]: (one["state"], one["reason"]) for one in clients.inbox}
    assert found[made["slack"].name] == ("inbox", "there is no slack in the local cloud")
    assert found[made["pubsub"].name][0] == "inbox"
    assert found[made["sms"].name] == ("undeliverable", "the channel is not verified")
    assert found[made["away"].name][0] == "inbox"
    assert "loopback" in found[made["away"].name][1]
    assert found[made["off"].name] == ("undeliverable", "the channel is disabled")
    assert not sink.posts
    text = json.dumps(clients.inbox)
    assert "very-secret" not in text
    assert "token=abc" not in text


def test_basic_authentication_is_sent_and_hidden(clients: Clients, sink: Sink) -> None:
    """The sink gets user and password; nobody else does."""
    channel = make_channel(
        clients, "webhook_basicauth", url=sink.url, username="user", password="pass-word-12345678"
    )
    assert channel.labels["password"] == "**********5678"
    only = condition(' AND metric.label.experiment="s-000"')
    clients.policy(channel, conditions=[only])
    clients.write(experiment="s-000", status="finished")
    eventually(lambda: states(clients) == ["delivered"])
    assert sink.posts[0][1]["Authorization"] == "Basic dXNlcjpwYXNzLXdvcmQtMTIzNDU2Nzg="
    assert "pass-word" not in json.dumps(clients.inbox)


def test_inbox_and_incidents_survive_a_restart(tmp_path: Path) -> None:
    """They are in the folder, which nobody else can read; an incident is not told again."""
    folder = tmp_path / "cloud"
    with webhook_sink() as sink:
        with running(folder) as cloud:
            clients = Clients(cloud)
            clients.write(experiment="warm-up")
            clients.policy(clients.webhook(sink.url))
            clients.write(experiment="s-000")
            eventually(lambda: len(sink.posts) == 2 and states(clients))
            before = clients.inbox
            alerts = clients.rest.alerts().list(parent=PROJECT).execute()["alerts"]
            clients.close()
        for path in (folder / "monitoring" / "local").iterdir():
            assert path.stat().st_mode & 0o077 == 0
        with running(folder) as cloud:
            clients = Clients(cloud)
            assert clients.inbox == before
            assert clients.rest.alerts().list(parent=PROJECT).execute()["alerts"] == alerts
            assert len(list(clients.policies.list_alert_policies(name=PROJECT))) == 1
            clients.write(experiment="s-001")
            eventually(lambda: len(sink.posts) == 3)
            clients.close()


@pytest.mark.slow
def test_command_lists_the_inbox(tmp_path: Path) -> None:
    """`gcp-emulator inbox`, as a table and as JSON; `--smtp` must be on this machine."""
    command = [str(Path(sys.executable).parent / "gcp-emulator")]
    folder = ["--folder", str(tmp_path / "cloud")]
    bad = subprocess.run(
        [*command, "serve", *folder, "--smtp", "mail.example.org:25"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert bad.returncode == 2
    assert "loopback only" in bad.stderr
    with running(tmp_path / "cloud") as cloud:
        (tmp_path / "cloud" / "cloud.json").write_text(
            json.dumps({"id": cloud.cloud.id, "endpoint": cloud.url})
        )
        clients = Clients(cloud)
        channel = make_channel(clients, "sms", number="+15551234567")
        clients.channels.send_notification_channel_verification_code(name=channel.name)
        clients.close()
        table = subprocess.run(
            [*command, "inbox", *folder], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        assert "+15551234567  inbox" in table
        assert "verification code" in table
        found = subprocess.run(
            [*command, "inbox", *folder, "--output", "json"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
        assert json.loads(found) == clients.inbox
