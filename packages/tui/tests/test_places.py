"""Alerts, doctor, comparisons, rehearsals: on a real local cloud, by keys, in both sizes."""

import json
import urllib.request
from dataclasses import replace
from typing import Any

import pytest

from gcloud_ops import alerts, groups
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.settings import Settings
from sinergym_tui import alerting, changes, rehearsing, tracking
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.alerts import AlertsScreen
from sinergym_tui.screens.form import FormScreen

from .conftest import (
    SIZES,
    console,
    launch,
    text_of,
    until,
    until_shown,
    write_record,
)

HOSTILE = "\x1b]52;c;aGVsbG8=\x07\x9b2J [red]markup[/] [/closing] [@click=app.quit]x[/]"


def inbox(settings: Settings) -> list[dict[str, Any]]:
    """What the local cloud has sent."""
    with urllib.request.urlopen(f"{settings.endpoint}/emulator/inbox") as reply:
        messages: list[dict[str, Any]] = json.load(reply)["messages"]
    return messages


@SIZES
@pytest.mark.slow
async def test_the_doctor_says_what_is_amiss_and_what_to_do(
    size: tuple[int, int], settings: Settings
) -> None:
    """Each finding, the worst first, with its advice; r looks again."""
    app = console(replace(settings, template="none-such"))
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("5")
        await until_shown(pilot, "doctor", "✗ problem", "template", "credentials")
        await until_shown(pilot, "✗ 1 problem", "→")
        await pilot.press("r")
        await until_shown(pilot, "✗ 1 problem")
        await pilot.press("slash", *"level:ok", "enter")
        await until(pilot, lambda: "✗ problem" not in text_of(app), "only what is well")
        await pilot.press("escape", "escape")
        await until_shown(pilot, "no sweeps yet")


@SIZES
@pytest.mark.slow
async def test_policies_are_set_up_switched_and_removed(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """From nothing to policies that tell somebody, and back."""
    address = f"s{size[0]}@example.org"
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("3")
        await until_shown(pilot, "nobody is told of anything yet")
        await pilot.press("s")
        await until_shown(pilot, "Set up the alert policies")
        await pilot.press(*address, "enter", "tab", "tab", "enter")
        await until_shown(pilot, "experiment failed", address, "6 policies, 6 on", "1 channel")
        assert len(alerts.list_policies(clients)) == 6

        await pilot.press("e")
        await until_shown(pilot, "· off", "6 policies, 5 on")
        await pilot.press("e")
        await until_shown(pilot, "6 policies, 6 on")

        await pilot.press("d")
        await until_shown(pilot, "Remove our 6 alert policies?")
        await pilot.press("tab", "enter")
        await until_shown(pilot, "0 policies")
        await until_shown(pilot, "▸ channel ✓ on         ")
        await pilot.press("d")
        await until_shown(pilot, f"Remove channel {address}?")
        await pilot.press("tab", "enter")
        await until_shown(pilot, "nobody is told of anything yet")
    assert alerts.list_channels(clients) == []


@pytest.mark.slow
async def test_a_channel_is_added_and_verified_and_its_secret_never_shown(
    settings: Settings, clients: Clients
) -> None:
    """Kind, labels, code; what is typed unseen stays so, also when Monitoring refuses it."""
    app = console(settings)
    token = "xoxb-12345-a-secret-token"
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("3")
        await until_shown(pilot, "nobody is told")
        await pilot.press("a")
        await until_shown(pilot, "Add a channel", "email")
        await pilot.press("enter", *"slack", "enter", "tab", "tab", "enter")
        await until_shown(pilot, "channel name", "auth token", "typed unseen")
        await pilot.press(*"#sweeps", "enter", *token)
        while app.focused is None or app.focused.id != "yes":
            await pilot.press("tab")
        assert token not in text_of(app)
        await pilot.press("enter")
        await until_shown(pilot, "slack", "#sweeps")
        assert token not in text_of(app)
        assert all(token not in str(vars(type(job)).items()) for job in app.jobs)
        found = alerts.list_channels(clients)
        assert [one.address for one in found] == ["#sweeps"]

        alerts.add_channel(clients, "sms", address="+34600000000")
        await pilot.press("r")
        await until_shown(pilot, "! unverified")
        await pilot.press("G")
        screen = app.screen
        assert isinstance(screen, AlertsScreen)
        if screen.current is None or screen.current.type != "sms":
            await pilot.press("g")
        await pilot.press("v")
        await until_shown(pilot, "Verify sms")
        await pilot.press("tab", "tab", "enter")
        await until(pilot, lambda: inbox(settings), "a code")
        code = str(inbox(settings)[-1]["subject"]).split()[0]
        await until(pilot, lambda: not isinstance(app.screen, FormScreen), "the list")
        await pilot.press("v")
        await until_shown(pilot, "Verify sms")
        await pilot.press(*code, "tab", "tab", "enter")
        await until(pilot, lambda: "unverified" not in text_of(app), "it is verified")
    for one in alerts.list_channels(clients):
        alerting.remove(Fleet(clients), one)


@pytest.mark.slow
async def test_what_cannot_be_an_address_is_said_in_the_form(settings: Settings) -> None:
    """Before anything is asked; Escape adds nothing."""
    app = console(settings)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("3")
        await until_shown(pilot, "nobody is told")
        await pilot.press("a")
        await until_shown(pilot, "Add a channel")
        await pilot.press("tab", "tab", "enter")
        await until_shown(pilot, "email address")
        await pilot.press(*"nobody", "enter", "enter")
        await until_shown(pilot, "is not an e-mail address")
        await pilot.press("escape")
        await until_shown(pilot, "nobody is told")


@SIZES
@pytest.mark.slow
async def test_configurations_are_compared(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """Leaderboard, curves over seeds, another sweep beside it, another metric."""
    first, second = f"first-{size[0]}", f"second-{size[0]}"
    for name, better in ((first, 0), (second, 40)):
        _learned(clients, name, better)
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, f"▸ {second}", first)
        await pilot.press("C")
        await until_shown(pilot, f"compare › {second}", "2 configurations", "algorithm=PPO", "4/4")
        await until_shown(pilot, "━━ algorithm=PPO (4)", "time steps", "quartiles", seconds=20)
        lines = text_of(app).splitlines()
        ranks = [line for line in lines if "algorithm=" in line and "/4" in line]
        assert "PPO" in ranks[0]
        assert "A2C" in ranks[1]

        await pilot.press("v")
        await until_shown(pilot, f"Compare {second} with", first)
        await pilot.press("tab", "tab", "enter")
        await until_shown(pilot, f"{second} versus {first}", "4 configurations")
        await pilot.press("m")
        await until_shown(pilot, "Rank by", "mean_reward")
        await pilot.press("escape", "escape")
        await until_shown(pilot, f"▸ {second}")


@SIZES
@pytest.mark.slow
async def test_a_mishap_is_rehearsed(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """What befalls the VM with the cursor, and what befalls the cloud."""
    name = f"mishap-{size[0]}"
    launch(clients, name, 1)
    before = groups.list_members(clients, name)
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, f"▸ {name}")
        await pilot.press("exclamation_mark")
        await until_shown(pilot, "No room for more VMs")
        assert "Preempt" not in text_of(app)
        await pilot.press("escape", "enter")
        await until_shown(pilot, f"{name}-0001", "RUNNING")
        await pilot.press("exclamation_mark")
        await until_shown(pilot, "Preempt the VM", f"to {name}-0001")
        await pilot.press("down", "enter")
        await until_shown(pilot, "rehearse: Its host fails")

        def is_another() -> bool:
            return groups.list_members(clients, name) != before

        await until(pilot, is_another, "the VM is gone, or another")
    groups.delete_group(clients, name)


@pytest.mark.slow
async def test_hostile_text_is_harmless_in_these_places(
    settings: Settings, clients: Clients
) -> None:
    """Names of channels, commands, parameters."""
    launch(clients, "hostile", 1)
    made = alerts.add_channel(
        clients, "email", address="e@example.org", display_name=f"x{HOSTILE}"
    )
    app = console(settings)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "▸ hostile")
        for key, awaited in (("3", "e@example.org"), ("C", "hostile")):
            await pilot.press("1")
            await until_shown(pilot, "1 sweep")
            await pilot.press(key)
            await until_shown(pilot, awaited)
            shown = text_of(app)
            assert not any(
                ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in shown if sign != "\n"
            )
        assert app.return_code is None
    alerting.remove(Fleet(clients), made)


@pytest.mark.slow
async def test_read_only_offers_none_of_it_and_refuses_all(
    settings: Settings, clients: Clients
) -> None:
    """No key, no palette entry; and the core says no."""
    app = console(settings, read_only=True)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        for key, awaited, hidden in (
            ("3", "nobody is told", "Set up"),
            ("4", "$", "Bring up"),
            ("6", "left over", "Remove"),
        ):
            await pilot.press(key)
            await until_shown(pilot, "read-only", awaited)
            assert hidden not in text_of(app).splitlines()[-1]
            await pilot.press("s", "a", "d", "u", "exclamation_mark")
            assert len(app.screen_stack) == 2
    fleet = Fleet(clients, read_only=True)
    infra = tracking.look(fleet).infra
    mishap = rehearsing.MISHAPS[0]
    for change in (
        lambda: alerting.add(fleet, "email", {"email_address": "a@example.org"}),
        lambda: alerting.set_up(fleet, (), each=None, tell=print),
        lambda: alerting.remove_policies(fleet, print),
        lambda: alerting.send_test(fleet, print),
        lambda: tracking.bring_up(fleet, infra, print),
        lambda: tracking.restart(fleet, infra, print),
        lambda: tracking.take_down(fleet, infra, print),
        lambda: tracking.log(fleet, infra, print),
        lambda: [*tracking.check(fleet, infra)],
        lambda: changes.reap(fleet, (), print),
        lambda: rehearsing.befall(fleet, mishap, "any"),
    ):
        with pytest.raises(InvalidRequest, match="read-only"):
            change()


def test_a_mishap_is_for_the_local_cloud_only(settings: Settings, clients: Clients) -> None:
    """Google has no such thing; the local cloud says what it doesn't know."""
    google = Fleet(Clients(replace(settings, endpoint=None)))
    with pytest.raises(InvalidRequest, match="local cloud only"):
        rehearsing.befall(google, rehearsing.MISHAPS[0], "any")
    with pytest.raises(InvalidRequest, match="none-such"):
        rehearsing.befall(Fleet(clients), rehearsing.MISHAPS[0], "none-such")


def _learned(clients: Clients, name: str, better: float) -> None:
    """A sweep of two configurations with four seeds each, and their curves."""
    from gcloud_ops import launching
    from gcloud_ops.model import Sweep

    commands = [
        f"sinergym-train --algorithm {algorithm} --seed {seed}"
        for algorithm in ("PPO", "A2C")
        for seed in range(1, 5)
    ]
    *_, _last = launching.launch(
        launching.plan(Sweep.of_commands(name, commands), clients), clients
    )
    bucket = clients.storage.bucket(clients.settings.bucket_name)
    for number in range(1, 9):
        value = -200 + better + number - (50 if number > 4 else 0)
        rows = [f"{step},{value - 5000 / step}" for step in range(100, 2100, 100)]
        table = "\n".join(["time/total_timesteps,rollout/ep_rew_mean", *rows])
        bucket.blob(f"{name}/{name}-{number:04d}/output/progress.csv").upload_from_string(table)
        progress = {"episode": 1, "episodes": 1, "timesteps": 10, "mean_reward": value}
        write_record(clients, name, number, state="finished", progress=progress)
