"""Alerts, doctor, comparisons, rehearsals: on a real local cloud, by keys, in both sizes."""

from dataclasses import replace

import pytest

from gcloud_ops import alerts
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings
from sinergym_tui import alerting
from sinergym_tui.fleet import Fleet

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
