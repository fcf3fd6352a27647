"""Channels, policies and incidents, on a local cloud with Cloud Monitoring."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.cloud import monitoring_v3
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops import alerts
from gcloud_ops.alerts import channels, policies, wanted
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest, NotFound, PermissionDenied, Unavailable

from .conftest import Answers, inert_cloud, settings_of

WRITES = ("create", "patch", "delete")


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A local cloud of this module's."""
    folder = tmp_path_factory.mktemp("monitored")
    with inert_cloud(folder) as about:
        settings = settings_of(about, folder / "key")
        yield Clients.connect(replace(settings, monitoring_endpoint=str(about["grpc_endpoint"])))


@pytest.fixture
def empty(monitored: Clients) -> Clients:
    """The same, without policies, channels and faults."""
    ask(monitored, "faults", method="DELETE")
    alerts.remove_policies(monitored, print)
    for one in alerts.list_channels(monitored):
        alerts.remove_channel(monitored, one, used_by=lambda _: [], force=True)
    return monitored


def ask(clients: Clients, path: str, body: object = None, method: str | None = None) -> Any:
    """Read one of the emulator's own pages, or with a body post to it."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{clients.settings.endpoint}/emulator/{path}", data=content, method=method
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def fail(clients: Clients, method: str, **fault: object) -> None:
    """Let the next call of a method of Monitoring fail."""
    ask(clients, "faults", {"method": f"monitoring.projects.{method}", **fault})


def writes(clients: Clients, doing: Callable[[], object]) -> dict[str, int]:
    """How often each method that changes something was called while doing something."""

    def counted() -> dict[str, int]:
        calls: dict[str, int] = ask(clients, "stats")["calls"]
        return {name: n for name, n in calls.items() if name.rpartition(".")[2] in WRITES}

    before = counted()
    doing()
    return {
        name: n - before.get(name, 0) for name, n in counted().items() if n != before.get(name)
    }


def set_up(clients: Clients, *to: str, **how: Any) -> list[alerts.Policy]:
    """Set the policies up for these."""
    return alerts.set_up(clients, alerts.recipients(clients, to), on_step=print, **how)


def raw(clients: Clients, which: str) -> Any:
    """A policy as Monitoring tells it."""
    found = policies.find_policy(alerts.list_policies(clients), which)
    return clients.monitoring("AlertPolicyServiceClient").get_alert_policy(name=found.name)


def change(clients: Clients, policy: Any, *paths: str) -> None:
    """Change a policy as somebody else would."""
    mask = {"paths": list(paths)}
    clients.monitoring("AlertPolicyServiceClient").update_alert_policy(
        request={"alert_policy": policy, "update_mask": mask}
    )


# -------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("email", "you@example.org"),
        ("email", "a.b+sweeps@mail.example.co.uk"),
        ("sms", "+34600000000"),
        ("webhook", "https://example.org/hook?auth_token=x"),
        ("webhook_basicauth", "https://example.org:8443"),
        ("pubsub", "projects/my-project/topics/ended"),
        ("slack", "#experiments"),
        ("of-tomorrow", "anything"),
    ],
)
def test_good_addresses_are_taken(kind: str, address: str) -> None:
    """As they are."""
    assert channels.check_address(kind, f" {address}\n") == address


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("email", "you"),
        ("email", "you@"),
        ("email", "you@localhost"),
        ("email", "a@b@example.org"),
        ("email", "a b@example.org"),
        ("email", "you@example..org"),
        ("sms", "600000000"),
        ("sms", "+0600000000"),
        ("sms", "+34 6000 0000 0000 0000"),
        ("webhook", "example.org"),
        ("webhook", "ftp://example.org"),
        ("webhook", "http://example.org/"),
        ("webhook", "http://127.0.0.1:8000/"),
        ("webhook", "https://127.0.0.1:8000/"),
        ("webhook", "https://ana:pass@example.org/"),
        ("webhook", "https://[::1"),
        ("pubsub", "ended"),
        ("pubsub", "projects/p/topics/goog-ended"),
        ("slack", "#"),
        ("of-tomorrow", " "),
    ],
)
def test_bad_addresses_are_explained(kind: str, address: str) -> None:
    """In one line, which has no password."""
    with pytest.raises(InvalidRequest) as refused:
        channels.check_address(kind, address)
    assert "\n" not in str(refused.value)
    assert "pass@" not in str(refused.value)


def test_a_phone_number_may_have_spaces() -> None:
    """People write them so."""
    assert channels.check_address("sms", "+34 600-000 (000)") == "+34600000000"


def test_http_on_this_machine_is_for_other_clouds() -> None:
    """Google can't reach it."""
    url = "http://127.0.0.1:8000/hook"
    assert channels.check_address("webhook", url, google=False) == url


@given(st.sampled_from(["email", "sms", "webhook", "pubsub", "slack", "other"]), st.text())
def test_any_address_is_taken_or_explained(kind: str, address: str) -> None:
    """No other error comes of it, and what is taken stays as it is."""
    try:
        taken = channels.check_address(kind, address)
    except InvalidRequest:
        return
    assert taken
    assert channels.check_address(kind, taken) == taken


@given(
    st.text(alphabet="abcdef0123456789", min_size=20, max_size=40).filter(
        lambda s: not s.isalpha() and not s.isdigit()
    )
)
def test_nothing_secret_of_a_url_is_shown(secret: str) -> None:
    """Neither query nor password, nor what in the path looks so."""
    for url in (
        f"https://example.org/x?auth_token={secret}",
        f"https://ana:{secret}@example.org/x",
        f"https://example.org/services/{secret}",
        f"https://example.org/x#{secret}",
    ):
        assert secret not in channels.shown(url)
        assert "example.org" in channels.shown(url)


# --------------------------------------------------------------------------- messages


@pytest.mark.parametrize("each", [False, True])
def test_messages_are_of_a_size_that_monitoring_takes(each: bool) -> None:
    """Subject and content, with the variables that their metrics have."""
    labels = {label["key"] for metric in wanted.METRICS for label in metric["labels"]}
    for policy in wanted.policies("p" * 30, each=each, google=True).values():
        told = policy["documentation"]
        assert len(told["subject"].encode()) <= 255
        assert len(told["content"].encode()) <= 8192
        for piece in f"{told['subject']}{told['content']}".split("${")[1:]:
            name = piece.partition("}")[0]
            assert name.removeprefix("metric.label.") in labels


# --------------------------------------------------------------------------- channels


def test_a_hint_stands_in_a_code_block() -> None:
    """It is text from outside; after a list, what is indented would belong to its last item."""
    for policy in wanted.policies("probe", each=True, google=True).values():
        lines = policy["documentation"]["content"].splitlines()
        for number in (n for n, line in enumerate(lines) if "metric.label.hint" in line):
            assert lines[number] == "    ${metric.label.hint}"
            assert lines[number - 1] == ""
            assert not lines[number - 2].startswith(("- ", " "))


def test_a_channel_is_made_once(empty: Clients) -> None:
    """The second time it is found."""
    made = alerts.add_channel(empty, "email", address="you@example.org")
    again = alerts.add_channel(empty, "email", address="you@example.org")
    assert made.made
    assert not again.made
    assert again == made
    assert [one.address for one in alerts.list_channels(empty)] == ["you@example.org"]


def test_a_secret_goes_in_and_never_comes_out(empty: Clients) -> None:
    """A new one replaces it; another key of a type that has nothing else is another channel."""
    labels = {"username": "ana"}
    for password in ("first-password-of-ana", "second-password-of-ana"):
        made = alerts.add_channel(
            empty,
            "webhook_basicauth",
            address="https://example.org/x",
            labels=labels,
            secrets={"password": password},
        )
        assert "password" not in repr(made)
        assert made.labels == {"url": "https://example.org/x", "username": "ana"}
    keys = [{"service_key": f"{number}234567890abcdefgh{number}"} for number in (1, 2)]
    for key in (*keys, keys[1]):
        alerts.add_channel(empty, "pagerduty", secrets=key)
    found = [one.type for one in alerts.list_channels(empty)]
    assert found == ["pagerduty", "pagerduty", "webhook_basicauth"]


def test_what_cannot_be_added_is_explained_and_nothing_made(empty: Clients) -> None:
    """Type, label, what is missing; and what Monitoring refuses."""

    def add(kind: str, **how: Any) -> alerts.Channel:
        return alerts.add_channel(empty, kind, **how)

    def trouble() -> None:
        with pytest.raises(InvalidRequest, match="did you mean email"):
            add("emial", address="you@example.org")
        with pytest.raises(InvalidRequest, match="did you mean email_address"):
            add("email", labels={"emailaddress": "you@example.org"})
        with pytest.raises(InvalidRequest, match="needs password"):
            add("webhook_basicauth", address="https://example.org/", labels={"username": "a"})
        with pytest.raises(InvalidRequest, match="not an e-mail address"):
            add("email", labels={"email_address": "you"})

    assert writes(empty, trouble) == {}
    fail(
        empty,
        "notificationChannels.create",
        status=403,
        message="Permission monitoring.notificationChannels.create denied",
    )
    with pytest.raises(PermissionDenied, match=r"monitoring\.notificationChannels\.create"):
        add("email", address="you@example.org")
    assert alerts.list_channels(empty) == []


def test_a_channel_that_is_used_stays_unless_forced(empty: Clients) -> None:
    """Then it is taken out of the policies."""
    set_up(empty, "you@example.org")
    (channel,) = alerts.list_channels(empty)

    def remove(*, force: bool) -> None:
        alerts.remove_channel(
            empty, channel, used_by=lambda one: policies.policies_using(empty, one), force=force
        )

    with pytest.raises(InvalidRequest, match="used by 6 policies"):
        remove(force=False)
    remove(force=True)
    assert alerts.list_channels(empty) == []
    assert {one.channels for one in alerts.list_policies(empty)} == {()}


def test_an_unverified_channel_is_refused(empty: Clients) -> None:
    """Until somebody has given the code, which the cloud has sent."""
    made = alerts.add_channel(empty, "sms", address="+34600000000")
    assert made.is_unverified
    with pytest.raises(InvalidRequest, match="not verified"):
        set_up(empty, "+34600000000")
    assert alerts.list_policies(empty) == []
    alerts.send_code(empty, made)
    with pytest.raises(InvalidRequest, match="code"):
        alerts.verify_channel(empty, made, "wrong")


def test_a_channel_is_found_by_what_people_call_it(empty: Clients) -> None:
    """Id, address or display name; nothing else, with the ones that are alike."""
    made = alerts.add_channel(empty, "email", address="you@example.org", display_name="the group")
    there = alerts.list_channels(empty)
    for name in (made.id, made.name, "you@example.org", "the group"):
        assert channels.find_channel(there, name) == made
    with pytest.raises(NotFound, match="did you mean the group"):
        channels.find_channel(there, "the groop")
    alerts.add_channel(empty, "email", address="me@example.org", display_name="the group")
    with pytest.raises(InvalidRequest, match="2 channels"):
        channels.find_channel(alerts.list_channels(empty), "the group")


# --------------------------------------------------------------------------- policies


def test_setting_up_twice_only_reads(empty: Clients) -> None:
    """And the policies tell the channel that was given."""
    made = set_up(empty, "you@example.org")
    assert {one.change for one in made} == {"made"}
    (channel,) = alerts.list_channels(empty)
    assert {one.channels for one in made} == {(channel.name,)}
    assert writes(empty, lambda: set_up(empty, "you@example.org")) == {}
    assert writes(empty, lambda: set_up(empty)) == {}


def test_what_differs_is_repaired_and_what_people_added_stays(empty: Clients) -> None:
    """A text and a condition are ours; channels, labels and being disabled are theirs."""
    set_up(empty, "you@example.org")
    theirs = alerts.add_channel(empty, "email", address="me@example.org")
    changed = raw(empty, "experiment-failed")
    conditions = [one.name for one in changed.conditions]
    changed.documentation.content = "something else"
    changed.conditions[0].condition_threshold.threshold_value = 5
    changed.notification_channels.append(theirs.name)
    changed.user_labels["team"] = "energy"
    changed.enabled = False
    change(
        empty,
        changed,
        *("documentation", "conditions", "notification_channels", "user_labels", "enabled"),
    )
    done = writes(empty, lambda: set_up(empty))
    assert done == {"monitoring.projects.alertPolicies.patch": 1}
    found = raw(empty, "experiment-failed")
    assert "Look further" in found.documentation.content
    assert found.conditions[0].condition_threshold.threshold_value == 0
    assert [one.name for one in found.conditions] == conditions
    assert theirs.name in found.notification_channels
    assert found.user_labels["team"] == "energy"
    assert not found.enabled


def test_each_is_kept_until_it_is_taken_back(empty: Clients) -> None:
    """Failures are told either one by one or together, never both."""
    set_up(empty)
    assert not any(one.each for one in set_up(empty))
    together = "experiments-failed"
    assert together in {one.which for one in alerts.list_policies(empty)}
    for _ in range(2):
        set_up(empty, each=True)
        there = alerts.list_policies(empty)
        assert together not in {one.which for one in there}
        assert all(one.each for one in there)
        set_up(empty)  # says nothing of it
        assert all(one.each for one in alerts.list_policies(empty))
        condition = raw(empty, "experiment-failed").conditions[0]
        assert "notify" not in condition.condition_threshold.filter
        set_up(empty, each=False)
        assert together in {one.which for one in alerts.list_policies(empty)}


def test_a_policy_that_two_made_at_once_is_left_once(empty: Clients) -> None:
    """It would tell everything twice."""
    set_up(empty)
    client = empty.monitoring("AlertPolicyServiceClient")
    twin = monitoring_v3.AlertPolicy(raw(empty, "sweep-finished"))
    twin.name = ""
    for condition in twin.conditions:
        condition.name = ""
    client.create_alert_policy(name=f"projects/{empty.project}", alert_policy=twin)
    assert len(alerts.list_policies(empty)) == 7
    set_up(empty)
    assert len(alerts.list_policies(empty)) == 6


def test_switching_and_removing(empty: Clients) -> None:
    """Policies of others stay."""
    set_up(empty)
    found = policies.find_policy(alerts.list_policies(empty), "sweep-finished")
    off = alerts.set_enabled(empty, found, enabled=False)
    assert not off.enabled
    assert writes(empty, lambda: alerts.set_enabled(empty, off, enabled=False)) == {}
    with pytest.raises(NotFound, match="did you mean sweep-finished"):
        policies.find_policy(alerts.list_policies(empty), "sweep-finish")
    client = empty.monitoring("AlertPolicyServiceClient")
    theirs = monitoring_v3.AlertPolicy(raw(empty, "sweep-finished"))
    theirs.user_labels = {"made-by": "somebody"}
    theirs.name = ""
    for condition in theirs.conditions:
        condition.name = ""
    theirs = client.create_alert_policy(name=f"projects/{empty.project}", alert_policy=theirs)
    assert alerts.remove_policies(empty, print) == 6
    assert alerts.list_policies(empty) == []
    client.delete_alert_policy(name=theirs.name)


@pytest.mark.slow
def test_a_metric_that_is_not_known_yet_is_waited_for(empty: Clients) -> None:
    """With a line of progress, and not for ever."""
    unknown = 'Cannot find metric(s) that match type = "custom.googleapis.com/x".'
    fail(empty, "alertPolicies.create", status=404, message=unknown)
    steps: list[str] = []
    alerts.set_up(empty, on_step=steps.append)
    assert any("waiting for Monitoring to know" in step for step in steps)
    alerts.remove_policies(empty, print)
    fail(empty, "alertPolicies.create", status=404, message=unknown, count=5)
    with pytest.raises(Unavailable, match="goes on from here"):
        alerts.set_up(empty, on_step=print, patience=0.1)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "Permission monitoring.alertPolicies.create denied (or it may not exist)."),
        (429, "Quota exceeded for quota metric 'Alert policies'"),
    ],
)
def test_what_monitoring_refuses_is_one_line(empty: Clients, status: int, message: str) -> None:
    """And no policy is made."""
    fail(empty, "alertPolicies.create", status=status, message=message, count=9)
    with pytest.raises((PermissionDenied, Unavailable)) as refused:
        set_up(empty)
    assert "\n" not in str(refused.value)
    if status == 403:
        assert refused.value.hint.endswith("monitoring.alertPolicies.create")
    ask(empty, "faults", method="DELETE")
    assert alerts.list_policies(empty) == []


# -------------------------------------------------------------------------- incidents


def incident(number: int, state: str = "OPEN", **labels: str) -> dict[str, Any]:
    """One in the JSON of `projects.alerts.list`."""
    return {
        "name": f"projects/probe/alerts/{number}",
        "state": state,
        "openTime": f"2026-11-22T10:0{number}:00.123456789Z",
        "policy": {
            "displayName": "Sinergym: experiment failed",
            "userLabels": {"made-by": "gcloud-ops", "sinergym": "experiment-failed", **labels},
        },
        "metric": {
            "type": "custom.googleapis.com/sinergym/experiment_finished",
            "labels": {"sweep": "quick", "experiment": f"quick-{number:04d}", "status": "failed"},
        },
    }


def test_incidents_are_ours_and_the_newest_is_first(answers: Answers) -> None:
    """Of all pages."""
    answers.say(
        (200, {"alerts": [incident(1, "CLOSED"), incident(2)], "nextPageToken": "more"}),
        (200, {"alerts": [incident(3), incident(4, **{"made-by": "somebody"})]}),
    )
    found = alerts.list_incidents(answers.clients)
    assert [one.experiment for one in found] == ["quick-0003", "quick-0002", "quick-0001"]
    assert {(one.policy, one.sweep, one.status) for one in found} == {
        ("experiment-failed", "quick", "failed")
    }
    assert len(answers.requests) == 2
    assert "pageToken=more" in answers.requests[1][1]
    answers.say((200, {"alerts": [incident(1, "CLOSED"), incident(2)]}))
    assert [one.state for one in alerts.list_incidents(answers.clients, only_open=True)] == [
        "OPEN"
    ]


def test_a_wait_for_an_incident_can_be_ended(empty: Clients) -> None:
    """By what is told how long it has lasted; else it ends by itself, and says so."""
    set_up(empty)
    found = policies.find_policy(alerts.list_policies(empty), "experiment-finished")
    written = alerts.Signal(experiment="none", written=datetime.now(UTC), policy=found)
    passed: list[float] = []

    def end(seconds: float) -> None:
        passed.append(seconds)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        alerts.await_incident(empty, written, waiting=end)
    assert 0 <= passed[0] < 5
    with pytest.raises(Unavailable, match="no incident shows"):
        alerts.await_incident(empty, written, patience=0.3)


def test_a_test_says_what_it_lacks(empty: Clients) -> None:
    """Policies, one that is switched on, and somebody to tell; and writes nothing till then."""

    def trouble() -> None:
        with pytest.raises(NotFound, match="policies setup"):
            alerts.signal(empty)

    assert writes(empty, trouble) == {}
    found = policies.find_policy(set_up(empty), "experiment-finished")
    with pytest.raises(InvalidRequest, match="no channel"):
        alerts.signal(empty)
    alerts.set_enabled(empty, found, enabled=False)
    with pytest.raises(InvalidRequest, match="disabled"):
        alerts.signal(empty)
