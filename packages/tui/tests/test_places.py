"""The console's places on a real local cloud, by keys, in both sizes: doctor, tables, comparisons.

Alerts, tracking server, what is left over and rehearsals have files of their own.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from gcloud_ops import alerts, templates
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings
from sinergym_tui import alerting
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.asked import AskedScreen

from .conftest import (
    SIZES,
    console,
    launch,
    text_of,
    until,
    until_shown,
    write_record,
)


@pytest.fixture(scope="module")
def noticed(_cloud: Settings) -> Iterator[Settings]:
    """Policies that tell somebody of each end, and an incident that was told."""
    settings = replace(_cloud, bucket="b-noticed")
    fleet = Fleet(Clients.connect(settings))
    alerting.set_up(fleet, ("ana@example.org",), each=True, tell=lambda _step: None)
    alerting.send_test(fleet, lambda _step: None)
    yield settings
    alerting.remove_policies(fleet, lambda _step: None)
    for one in alerts.list_channels(fleet.clients):
        alerting.remove(fleet, one)


HOSTILE = "\x1b]52;c;aGVsbG8=\x07\x9b2J [red]markup[/] [/closing] [@click=app.quit]x[/]"


@SIZES
@pytest.mark.slow
async def test_the_doctor_says_what_is_amiss_and_what_to_do(
    size: tuple[int, int], settings: Settings, clients: Clients
) -> None:
    """Each finding, the worst first, with its advice; done so, and looked at again, it is well."""
    name = f"missing-{size[0]}"
    app = console(replace(settings, template=name))
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("5")
        await until_shown(pilot, "doctor", "✗ problem", "template", "credentials")
        await until_shown(pilot, "✗ 1 problem", "→")
        assert "a sweep can run" not in text_of(app)
        await pilot.press("slash", *"level:ok", "enter")
        await until(pilot, lambda: "✗ problem" not in text_of(app), "only what is well")
        await pilot.press("escape")
        await until_shown(pilot, "✗ problem")

        spec = templates.TemplateSpec(name=name, image="local/sinergym-trainer:latest")
        templates.create_template(clients, spec)
        await pilot.press("r")
        await until_shown(pilot, "a sweep can run")
        assert "✗" not in text_of(app)
        await pilot.press("escape")
        await until_shown(pilot, "no sweeps yet")
    templates.delete_template(clients, name)


@SIZES
@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["2", "3", "4", "5"], ids=["incidents", "alerts", "tracking", "doctor"]
)
async def test_each_table_is_ordered_filtered_and_looked_at_again(
    size: tuple[int, int], key: str, noticed: Settings
) -> None:
    """By the keys of every table; Esc leads out of a filter first, then back."""
    clients = Clients.connect(noticed)
    app = console(noticed)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, AskedScreen), "the place")
        screen = app.screen
        assert isinstance(screen, AskedScreen)
        table = screen.table
        await until(
            pilot, lambda: len(table.keys) > 1 and not screen.is_asking, "its rows", seconds=30
        )
        before = table.keys

        await pilot.press("greater_than_sign")
        await until_shown(pilot, "▴")
        first = screen.COLUMNS[0].key
        values = [screen.value(row, first) for row in screen.shown]
        assert values == sorted(values)  # type: ignore[type-var]
        await pilot.press("I")
        await until_shown(pilot, "▾")
        assert screen.value(screen.shown[0], first) == values[-1]
        await pilot.press("I", "less_than_sign")
        await until(pilot, lambda: "▴" not in text_of(app), "no order")
        assert table.keys == before

        column, word = next(
            (name, word)
            for name, text in screen.texts(screen.shown[-1]).items()
            for word in re.findall(r"\w{4,}", text)
            if name
        )
        await pilot.press("slash", *f"{column}:{word}", "enter")
        left = [row for row in screen.rows() if word in screen.texts(row)[column]]
        await until(pilot, lambda: len(table.keys) == len(left), "the filter's rows")
        await until_shown(pilot, f"{len(left)} of {len(before)}")
        await pilot.press("escape")
        await until(pilot, lambda: len(table.keys) == len(before), "all rows")

        if key == "3":
            made = alerts.add_channel(clients, "email", address="new@example.org")
            await pilot.press("r")
            await until(pilot, lambda: made.name in table.keys, "what is new")
            alerting.remove(Fleet(clients), made)
        await pilot.press("escape")
        await until_shown(pilot, "no sweeps yet")


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
