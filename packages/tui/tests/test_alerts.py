"""Alerts: channels of every kind, verified and not, policies, a test that really arrives."""

import base64
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from textual.pilot import Pilot

from gcloud_ops import alerts
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings
from sinergym_tui import alerting
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.alerts import AlertsScreen
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.form import FormScreen
from sinergym_tui.screens.text import TextScreen

from .conftest import (
    SIZES,
    ask,
    confirm,
    console,
    go_to,
    text_of,
    until,
    until_read,
    until_shown,
)

pytestmark = pytest.mark.slow

SECRETS = {"slack": "xoxb-12345-a-secret", "webhook_basicauth": "s3cret", "pagerduty": "0123abcd"}
KINDS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "email": ({"email_address": "ana@example.org"}, "ana@example.org"),
    "pubsub": ({"topic": "projects/local/topics/ends"}, "projects/local/topics/ends"),
    "sms": ({"number": "+34 600 000 000"}, "+34600000000"),
    "slack": ({"channel_name": "#sweeps", "auth_token": SECRETS["slack"]}, "#sweeps"),
    "webhook_basicauth": (
        {
            "url": "http://127.0.0.1:9/basic",
            "username": "ana",
            "password": SECRETS["webhook_basicauth"],
        },
        "http://127.0.0.1:9/basic",
    ),
    "webhook_tokenauth": ({"url": "http://127.0.0.1:9/hook"}, "http://127.0.0.1:9/hook"),
    "pagerduty": ({"service_key": SECRETS["pagerduty"]}, "pagerduty"),
}
"""What is typed for a channel of each kind, by label; and how its address is shown."""


@dataclass
class Sink:
    """A web server of this machine that keeps what it is sent."""

    url: str = ""
    password: str = ""
    """What it asks for, on `/basic`."""
    received: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0


@pytest.fixture
def sink() -> Iterator[Sink]:
    """It listens on loopback."""
    state = Sink(password="the right one")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pair = base64.b64encode(f"ana:{state.password}".encode()).decode()
            if self.path == "/basic" and self.headers["Authorization"] != f"Basic {pair}":
                state.refused += 1
                self.send_error(401)
                return
            state.received.append({"path": self.path, **json.loads(body)})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _forgotten(clients: Clients) -> Iterator[None]:
    """Channels and policies are the project's: none is left for the next test."""
    yield
    fleet = Fleet(clients)
    alerting.remove_policies(fleet, lambda _step: None)
    for one in alerts.list_channels(clients):
        alerting.remove(fleet, one)


async def open_alerts(pilot: Pilot[Any], *texts: str) -> None:
    """To the place, from the first screen."""
    await until_shown(pilot, "no sweeps yet")
    await pilot.press("3")
    await until_shown(pilot, *texts)


async def set_up(pilot: Pilot[Any], *channels: alerts.Channel) -> None:
    """Set the policies up by keys: of each end too, to these channels."""
    await pilot.press("s")
    await until_shown(pilot, "Set up the alert policies")
    ids = ",".join(one.id for one in channels)
    await pilot.press(*ids, "enter", "enter", "down", "enter")
    await until_shown(pilot, "yes")
    await pilot.press("tab", "tab", "enter")


async def add(pilot: Pilot[Any], clients: Clients, kind: str, values: Mapping[str, str]) -> None:
    """Add a channel by keys."""
    app: Any = pilot.app
    kinds = alerting.types(Fleet(clients))
    await pilot.press("a")
    await until_shown(pilot, "Add a channel")
    down = ["down"] * [one.type for one in kinds].index(kind)
    (described,) = (one for one in kinds if one.type == kind)
    await pilot.press("enter", *down, "enter")
    await until_shown(pilot, described.name)
    await pilot.press("tab", "tab", "enter")
    await until_shown(pilot, f"Add a channel: {described.name}")
    for label in alerting.labels_of(described):
        assert app.focused.id == f"field-{label}"
        await pilot.press(*values[label], "enter")
    assert not any(secret in text_of(app) for secret in SECRETS.values())
    await pilot.press("enter")


@SIZES
async def test_channels_of_every_kind_are_added_and_removed(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """As Monitoring has them; secrets are typed unseen; removing one asks, and leaves the rest."""
    assert KINDS.keys() == {one.type for one in alerting.types(Fleet(clients))}
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await open_alerts(pilot, "nobody is told of anything yet")
        for count, (kind, (values, address)) in enumerate(KINDS.items(), start=1):
            await add(pilot, clients, kind, values)
            await until_shown(pilot, f"{count} channel", address)
        found = {one.type: one for one in alerts.list_channels(clients)}
        assert {kind: one.address or one.display_name for kind, one in found.items()} == {
            kind: address for kind, (_, address) in KINDS.items()
        }
        assert not any(secret in text_of(app) for secret in SECRETS.values())
        assert not any(secret in repr(app.jobs) for secret in SECRETS.values())

        await go_to(pilot, found["slack"].name)
        await pilot.press("d")
        await until_shown(pilot, "Remove channel #sweeps?", "told of nothing")
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, ConfirmScreen), "No is the default")
        assert len(alerts.list_channels(clients)) == len(KINDS)
        await pilot.press("d")
        await confirm(pilot, "Remove channel #sweeps?")
        await until_shown(pilot, f"{len(KINDS) - 1} channels")
        assert "#sweeps" not in "\n".join(text_of(app).splitlines()[2:-3])
        left = {one.type for one in alerts.list_channels(clients)}
        assert left == KINDS.keys() - {"slack"}


@SIZES
async def test_what_cannot_be_is_said_in_the_form(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """An address that is none, a token that is missing; Escape adds nothing."""
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await open_alerts(pilot, "nobody is told")
        await add(pilot, clients, "email", {"email_address": "nobody"})
        await until_shown(pilot, "✗ ", "'nobody' is not an e-mail address")
        await pilot.press("escape")
        await add(pilot, clients, "slack", {"channel_name": "#sweeps", "auth_token": ""})
        await until_shown(pilot, "✗ auth token is missing")
        await pilot.press("escape")
        await until_shown(pilot, "nobody is told")
    assert alerts.list_channels(clients) == []


@SIZES
async def test_a_channel_is_verified_by_the_code_that_it_gets(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """A code is sent; a wrong one is refused in a line; the right one counts."""
    sms = alerts.add_channel(clients, "sms", address=f"+346000000{size[0]}")
    alerts.add_channel(clients, "email", address="ana@example.org")
    app = console(settings)

    async def verify(code: str) -> None:
        await pilot.press("v")
        await until_shown(pilot, f"Verify sms {sms.address}", "empty: have one sent")
        await pilot.press(*code, "enter", "enter")
        await until(pilot, lambda: not isinstance(app.screen, FormScreen), "the list")

    def codes() -> list[str]:
        messages = ask(settings, "inbox")["messages"]
        return [one["subject"].split()[0] for one in messages if one["to"] == sms.address]

    async with app.run_test(size=size) as pilot:
        await open_alerts(pilot, "! unverified", "! v verifies the channel")
        await go_to(pilot, next(k for k in rows(app) if k != sms.name))
        await pilot.press("v")
        assert not isinstance(app.screen, FormScreen), "an e-mail channel needs no code"

        await go_to(pilot, sms.name)
        await verify("")
        await until(pilot, codes, "a code")
        await until_shown(pilot, f"a code is on its way to {sms.address}"[: size[0] - 40])
        await verify("G-wrong")
        await until_read(pilot, "failed", "The verification code is invalid or has expired")
        assert isinstance(app.screen, TextScreen)
        await pilot.press("escape")
        await until_shown(pilot, "! unverified")
        await verify(codes()[-1])
        await until(pilot, lambda: "unverified" not in text_of(app), "it is verified")
    found = {one.name: one for one in alerts.list_channels(clients)}
    assert found[sms.name].verification == "VERIFIED"


@SIZES
async def test_policies_are_set_up_switched_and_removed(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """From nothing to policies that tell somebody, and back."""
    address = f"s{size[0]}@example.org"
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await open_alerts(pilot, "nobody is told of anything yet")
        await pilot.press("s")
        await until_shown(pilot, "Set up the alert policies")
        await pilot.press(*address, "enter", "tab", "tab", "enter")
        await until_shown(pilot, "experiment failed", address, "6 policies, 6 on", "1 channel")
        found = alerts.list_policies(clients)
        (channel,) = alerts.list_channels(clients)
        assert len(found) == 6
        assert {one.channels for one in found} == {(channel.name,)}

        switched = found[2]
        await go_to(pilot, switched.name)
        await pilot.press("e")
        await until_shown(pilot, "· off", "6 policies, 5 on")
        off = [one.which for one in alerts.list_policies(clients) if not one.enabled]
        assert off == [switched.which]
        await pilot.press("e")
        await until_shown(pilot, "6 policies, 6 on")
        assert all(one.enabled for one in alerts.list_policies(clients))

        await pilot.press("d")
        await confirm(pilot, "Remove our 6 alert policies?", "channels and metrics stay")
        await until_shown(pilot, "0 policies", "1 channel")
        assert alerts.list_policies(clients) == []
        assert alerts.list_channels(clients) == [channel]
        await go_to(pilot, channel.name)
        await pilot.press("e")
        assert isinstance(app.screen, AlertsScreen), "a channel is not switched"
        await pilot.press("d")
        await confirm(pilot, f"Remove channel {address}?")
        await until_shown(pilot, "nobody is told of anything yet")
    assert alerts.list_channels(clients) == []


@SIZES
async def test_a_test_says_whom_it_has_reached(
    size: tuple[int, int], settings: Settings, clients: Clients, sink: Sink
) -> None:
    """A real webhook gets it; one with a wrong password doesn't, until it has the right one."""
    hook = alerts.add_channel(clients, "webhook", address=f"{sink.url}/hook")
    basic = alerts.add_channel(
        clients,
        "webhook_basicauth",
        address=f"{sink.url}/basic",
        labels={"username": "ana"},
        secrets={"password": "a wrong one"},
    )
    sms = alerts.add_channel(clients, "sms", address=f"+346111111{size[0]}")
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await open_alerts(pilot, "3 channels")
        await pilot.press("t")
        await confirm(pilot, "Send a test through Cloud Monitoring?")
        await until_read(pilot, "send a test: failed", "gcloud-ops alerts policies setup")
        await pilot.press("escape")

        await set_up(pilot, hook, sms)
        await until_read(pilot, "set up alert policies: failed", "is not verified: nothing would")
        await pilot.press("escape")
        assert alerts.list_policies(clients) == []
        await set_up(pilot, hook, basic)
        await until_shown(pilot, "5 policies, 5 on", "3 channels")
        assert any(one.each for one in alerts.list_policies(clients))

        await pilot.press("t")
        await confirm(pilot, "Send a test through Cloud Monitoring?", "gets a message")
        await until(pilot, lambda: sink.received, "the webhook's message", seconds=30)
        await until(pilot, lambda: "send a test: noticed" in app.said, "its end", seconds=60)
        for one, state in ((hook, "delivered"), (basic, "failed")):
            assert f"{one.address}: {state}" in app.said
        assert sink.refused >= 1
        assert "gcloud-ops-test" in json.dumps(sink.received)
        assert {one["path"] for one in sink.received} == {"/hook"}

        # Everybody can read it again among the incidents.
        await pilot.press("2")
        await until_shown(pilot, "! open", "experiment-finished", "✓ told", "✗ not told")
        lines = text_of(app).splitlines()
        assert any(re.search(r"[0-9]+s +✓ told", line) for line in lines), "its age"
        await pilot.press("slash", *"state:failed", "enter")
        await until_shown(pilot, "(HTTP 401)")
        await pilot.press("escape")

        # The right password, given again for the same address: it is told too.
        await pilot.press("3")
        await until_shown(pilot, "5 policies, 5 on")
        again = {"url": f"{sink.url}/basic", "username": "ana", "password": sink.password}
        await add(pilot, clients, "webhook_basicauth", again)
        await until(pilot, lambda: "was there already" in app.said, "the same channel")
        assert len(alerts.list_channels(clients)) == 3
        await pilot.press("t")
        await confirm(pilot, "Send a test through Cloud Monitoring?")
        await until(pilot, lambda: "/basic: delivered" in app.said, "it is told", seconds=60)
        assert {one["path"] for one in sink.received} == {"/hook", "/basic"}
        assert sink.password not in text_of(app)


async def test_a_channel_that_policies_tell_is_taken_out_of_them(
    settings: Settings, clients: Clients
) -> None:
    """The question says which those are."""
    alerting.set_up(Fleet(clients), ("ana@example.org",), each=None, tell=lambda _step: None)
    (channel,) = alerts.list_channels(clients)
    app = console(settings)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_alerts(pilot, "6 policies, 6 on")
        await go_to(pilot, channel.name)
        await pilot.press("d")
        await confirm(pilot, "Remove channel ana@example.org?", "experiment-failed", "taken out")
        await until_shown(pilot, "0 channels", "nobody")
    assert {one.channels for one in alerts.list_policies(clients)} == {()}


async def test_who_leaves_while_it_looks_is_not_bothered(
    settings: Settings, clients: Clients
) -> None:
    """What comes of a look at a place that was left is dropped, and nothing breaks."""
    alerts.add_channel(clients, "email", address="ana@example.org")
    app = console(settings)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        for key in "345623456":
            await pilot.press(key, "escape")
        await pilot.press("3")
        await until_shown(pilot, "ana@example.org")
        fault = {"method": "*hannelDescriptors*", "status": 403, "delay": 1.5, "count": 1}
        ask(settings, "faults", {**fault, "reason": "forbidden", "message": "You shall not."})
        await pilot.press("a")
        await until_shown(pilot, "list kinds of channels: asking")
        await pilot.press("1")
        await until_shown(pilot, "no sweeps yet")
        looking = [each for each in app.workers if each.group.startswith("job ")]
        await until(pilot, lambda: all(each.is_finished for each in looking), "its end")
        assert "shall not" not in app.said
        assert len(app.screen_stack) == 1
    assert app.return_code in (None, 0)


def rows(app: Console) -> tuple[str, ...]:
    """The keys of the rows that are shown."""
    screen = app.screen
    assert isinstance(screen, AlertsScreen)
    return screen.table.keys
