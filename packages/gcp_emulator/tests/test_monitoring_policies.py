"""Alert policies and notification channels, over gRPC and over REST."""

from collections.abc import Iterator
from typing import Any

import google.api_core.exceptions as errors
import pytest
from google.cloud import monitoring_v3

from .iam_cloud import PROJECT, ThreadedCloud, refused, running
from .monitoring_cloud import METRIC, Clients, checked, condition, eventually, policy


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedCloud]:
    """A cloud that knows one metric."""
    with running(tmp_path_factory.mktemp("policies") / "cloud") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def clients(cloud: ThreadedCloud) -> Iterator[Clients]:
    """Its clients."""
    clients = Clients(cloud)
    clients.write(experiment="warm-up", age=3_600)
    yield clients
    clients.close()


def make_channel(clients: Clients, kind: str, /, **labels: str) -> Any:
    """Make a channel."""
    return clients.channels.create_notification_channel(
        name=PROJECT, notification_channel={"type_": kind, "labels": labels}
    )


def test_policy_is_made_changed_and_deleted(clients: Clients) -> None:
    """Names and records are the server's; a mask changes what it names only."""
    channel = make_channel(clients, "email", email_address="you@example.org")
    labels = {"made-by": "tests", "sinergym": "finished"}
    made = clients.policy(channel, user_labels=labels, severity="WARNING")
    assert made.name.startswith(f"{PROJECT}/alertPolicies/")
    assert made.conditions[0].name.startswith(f"{made.name}/conditions/")
    assert made.enabled
    assert made.creation_record.mutate_time == made.mutation_record.mutate_time
    assert clients.policies.get_alert_policy(name=made.name) == made
    shown = checked(clients.rest.alertPolicies().get(name=made.name))
    assert shown["conditions"][0]["conditionThreshold"]["duration"] == "0s"

    changed = clients.policies.update_alert_policy(
        alert_policy=monitoring_v3.AlertPolicy({"name": made.name, "enabled": False}),
        update_mask={"paths": ["enabled"]},
    )
    assert not changed.enabled
    assert changed.display_name == made.display_name
    assert changed.mutation_record.mutate_time > made.mutation_record.mutate_time
    assert changed.creation_record == made.creation_record
    shown = checked(
        clients.rest.alertPolicies().patch(
            name=made.name,
            updateMask="displayName,userLabels,documentation.content",
            body={
                "displayName": "other",
                "userLabels": {"a": "b"},
                "documentation": {"content": "text", "subject": "not in the mask"},
            },
        )
    )
    assert shown["displayName"] == "other"
    assert shown["userLabels"] == {"a": "b"}
    assert shown["documentation"] == {"content": "text", "mimeType": "text/markdown"}
    assert shown["enabled"] is False
    assert shown["conditions"][0]["name"] == made.conditions[0].name

    filtered = clients.policies.list_alert_policies(
        request={"name": PROJECT, "filter": 'user_labels.a="b"'}
    )
    assert [one.name for one in filtered] == [made.name]
    clients.policies.delete_alert_policy(name=made.name)
    refused(clients.rest.alertPolicies().get(name=made.name), 404, "NOT_FOUND", made.name)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (policy(conditions=[]), "from 1 to 6 conditions"),
        (policy(conditions=[condition(name=str(n)) for n in range(7)]), "from 1 to 6 conditions"),
        (policy(display_name=""), "display_name"),
        (policy(display_name="x" * 513), "display_name"),
        (policy(condition(duration={"seconds": 30})), "multiple of 60 seconds"),
        (policy(condition(comparison="COMPARISON_GE")), "COMPARISON_GE"),
        (policy(condition(comparison="COMPARISON_UNSPECIFIED")), "comparison"),
        (policy(condition(filter=f'metric.type="{METRIC}"')), 'restriction on "resource.type"'),
        (policy(condition(filter='resource.type="global"')), 'restriction on "metric.type"'),
        (policy(condition(filter="x ==")), "Could not parse filter"),
        (policy(condition(" AND colour=red")), 'unknown field "colour"'),
        (
            policy(
                condition(
                    aggregations=[
                        {"alignment_period": {"seconds": 10}, "per_series_aligner": "ALIGN_MAX"}
                    ]
                )
            ),
            "at least 60 seconds",
        ),
        (policy(documentation={"content": "x" * 8_193}), "8192 characters"),
        (policy(documentation={"content": "ä" * 8_000}), "10240 bytes"),
        (policy(documentation={"content": "x", "mime_type": "text/html"}), "mime_type"),
        (policy(user_labels={"Upper": "x"}), "user_labels"),
        (policy(user_labels={"x": "Upper"}), "user_labels[x]"),
        (policy(user_labels={f"k{n}": "" for n in range(65)}), "at most 64"),
        (policy(alert_strategy={"auto_close": {"seconds": 600}}), "30 minutes to 7 days"),
        (
            policy(alert_strategy={"notification_rate_limit": {"period": {"seconds": 300}}}),
            "only log-based",
        ),
        (policy(alert_strategy={"notification_prompts": ["CLOSED"]}), "must be OPENED"),
        (policy(condition(), condition(name="b"), combiner=0), "combiner"),
        (
            policy(condition(evaluation_missing_data="EVALUATION_MISSING_DATA_ACTIVE")),
            "at least 60 seconds",
        ),
        (policy(name=f"{PROJECT}/alertPolicies/1"), "must not be set"),
    ],
)
def test_bad_policies_are_refused(clients: Clients, wrong: Any, words: str) -> None:
    """What Google would refuse makes nothing."""
    before = len(list(clients.policies.list_alert_policies(name=PROJECT)))
    with pytest.raises(errors.InvalidArgument) as caught:
        clients.policies.create_alert_policy(name=PROJECT, alert_policy=wrong)
    assert words in caught.value.message
    assert len(list(clients.policies.list_alert_policies(name=PROJECT))) == before


def test_policy_needs_its_metric_and_its_channels(clients: Clients) -> None:
    """404, in Google's words."""
    unknown = condition(metric="custom.googleapis.com/nowhere")
    with pytest.raises(errors.NotFound, match="Cannot find metric"):
        clients.policy(conditions=[unknown])
    nowhere = policy(notification_channels=[f"{PROJECT}/notificationChannels/1"])
    with pytest.raises(errors.NotFound, match="Cannot find notification channel"):
        clients.policies.create_alert_policy(name=PROJECT, alert_policy=nowhere)


def test_what_is_not_emulated_is_said(clients: Clients) -> None:
    """501, rather than a policy that never fires."""
    promql = {"display_name": "x", "condition_prometheus_query_language": {"query": "up == 0"}}
    percentile = {
        "alignment_period": {"seconds": 60},
        "per_series_aligner": "ALIGN_PERCENTILE_99",
    }
    for one in (promql, condition(aggregations=[percentile])):
        with pytest.raises(errors.MethodNotImplemented, match="local cloud"):
            clients.policy(conditions=[one])


def test_channel_descriptors(clients: Clients) -> None:
    """Seven types, with their labels."""
    found = {
        one.type_: [label.key for label in one.labels]
        for one in clients.channels.list_notification_channel_descriptors(name=PROJECT)
    }
    assert found == {
        "email": ["email_address"],
        "pagerduty": ["service_key"],
        "pubsub": ["topic"],
        "slack": ["auth_token", "channel_name"],
        "sms": ["number"],
        "webhook_basicauth": ["password", "url", "username"],
        "webhook_tokenauth": ["url"],
    }
    name = f"{PROJECT}/notificationChannelDescriptors/email"
    assert checked(clients.rest.notificationChannelDescriptors().get(name=name))["type"] == "email"
    bad = f"{PROJECT}/notificationChannelDescriptors/pigeon"
    refused(clients.rest.notificationChannelDescriptors().get(name=bad), 404, "NOT_FOUND")


def test_secrets_of_channels_are_never_told(clients: Clients) -> None:
    """They come back hidden, and giving them back changes nothing."""
    secret = "xoxb-1234567890-abcdefgh"
    made = make_channel(clients, "slack", auth_token=secret, channel_name="#alerts")
    hidden = "**********efgh"
    assert made.labels["auth_token"] == hidden
    shown = checked(clients.rest.notificationChannels().get(name=made.name))
    assert shown["labels"] == {"auth_token": hidden, "channel_name": "#alerts"}
    made.display_name = "ours"
    changed = clients.channels.update_notification_channel(notification_channel=made)
    assert changed.display_name == "ours"
    assert changed.labels["auth_token"] == hidden
    kept = clients.cloud.cloud._monitoring._channels.find(made.name)
    assert kept is not None
    assert kept.labels["auth_token"] == secret
    listed = checked(clients.rest.notificationChannels().list(name=PROJECT, filter='type="slack"'))
    assert [one["displayName"] for one in listed["notificationChannels"]] == ["ours"]
    assert secret not in str(listed)


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("pigeon", {}, "Unrecognized notification channel type"),
        ("email", {}, "email_address is required"),
        ("email", {"email_address": "nobody"}, "labels[email_address]"),
        ("email", {"email_address": "a@b.c\nBcc: d@e.f"}, "labels[email_address]"),
        ("email", {"email_address": "a@b.c", "colour": "red"}, "not a label of channels"),
        ("sms", {"number": "call me"}, "labels[number]"),
        ("pubsub", {"topic": "alerts"}, "labels[topic]"),
        ("webhook_tokenauth", {"url": "ftp://127.0.0.1/"}, "labels[url]"),
        ("webhook_basicauth", {"url": "http://127.0.0.1/", "username": "u"}, "password"),
    ],
)
def test_bad_channels_are_refused(
    clients: Clients, kind: str, labels: dict[str, str], words: str
) -> None:
    """Type and labels are held to the descriptors."""
    with pytest.raises(errors.InvalidArgument) as caught:
        make_channel(clients, kind, **labels)
    assert words in caught.value.message


def test_sms_must_be_verified(clients: Clients) -> None:
    """By the code that was sent; a verified channel gives a code for its twins."""
    made = make_channel(clients, "sms", number="+15551234567")
    status = monitoring_v3.NotificationChannel.VerificationStatus
    assert made.verification_status == status.UNVERIFIED
    with pytest.raises(errors.FailedPrecondition):
        clients.channels.get_notification_channel_verification_code(name=made.name)
    clients.channels.send_notification_channel_verification_code(name=made.name)
    sent = eventually(lambda: [one for one in clients.inbox if one["channel"] == made.name])
    assert sent[-1]["event"] == "VERIFICATION"
    with pytest.raises(errors.InvalidArgument):
        clients.channels.verify_notification_channel(name=made.name, code="G-0")
    code = sent[-1]["body"].split()[0]
    verified = clients.channels.verify_notification_channel(name=made.name, code=code)
    assert verified.verification_status == status.VERIFIED

    reply = checked(
        clients.rest.notificationChannels().getVerificationCode(name=made.name, body={})
    )
    twin = make_channel(clients, "sms", number="+15551234567")
    shown = checked(
        clients.rest.notificationChannels().verify(name=twin.name, body={"code": reply["code"]})
    )
    assert shown["verificationStatus"] == "VERIFIED"
    mail = make_channel(clients, "email", email_address="you@example.org")
    assert mail.verification_status == status.VERIFICATION_STATUS_UNSPECIFIED
    request = clients.rest.notificationChannels().sendVerificationCode(name=mail.name, body={})
    refused(request, 400, "INVALID_ARGUMENT")


def test_channel_in_use_is_deleted_by_force_only(clients: Clients) -> None:
    """Policies lose it then."""
    channel = make_channel(clients, "email", email_address="you@example.org")
    made = clients.policy(channel)
    with pytest.raises(errors.FailedPrecondition, match=made.name):
        clients.channels.delete_notification_channel(name=channel.name)
    checked(clients.rest.notificationChannels().delete(name=channel.name, force=True))
    assert not clients.policies.get_alert_policy(name=made.name).notification_channels
    with pytest.raises(errors.NotFound):
        clients.channels.get_notification_channel(name=channel.name)


def test_alerts_show_incidents(clients: Clients) -> None:
    """Over REST: open ones, by filter, one by name."""
    made = clients.policy(
        conditions=[condition(' AND metric.label.experiment="s-007"')],
        user_labels={"made-by": "tests"},
        severity="ERROR",
    )
    clients.write(experiment="s-007", sweep="s")
    alerts = clients.rest.alerts()
    wanted = f'state="OPEN" AND policy.name="{made.name}"'
    found = eventually(
        lambda: checked(alerts.list(parent=PROJECT, filter=wanted)).get("alerts", [])
    )
    assert len(found) == 1
    (alert,) = found
    assert alert["metric"]["labels"] == {"experiment": "s-007", "sweep": "s"}
    assert alert["policy"] == {
        "name": made.name,
        "displayName": "finished",
        "userLabels": {"made-by": "tests"},
        "severity": "ERROR",
    }
    assert checked(alerts.get(name=alert["name"])) == alert
    refused(alerts.get(name=f"{PROJECT}/alerts/0.none"), 404, "NOT_FOUND")
    refused(alerts.list(parent=PROJECT, orderBy="colour"), 400, "INVALID_ARGUMENT")
    clients.policies.delete_alert_policy(name=made.name)
    eventually(lambda: checked(alerts.get(name=alert["name"]))["state"] == "CLOSED")
    assert "closeTime" in checked(alerts.get(name=alert["name"]))
