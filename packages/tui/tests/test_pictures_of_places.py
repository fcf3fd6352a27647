"""Pictures of the launch form, and of what is asked for when it is looked at; as `test_pictures`.

The screens are the console's own; only what they would ask the cloud for stands still.
"""
# ruff: noqa: ARG002, D102  # what stands still needs no arguments, and is described where it isn't

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from gcloud_ops.alerts import Channel, Policy
from gcloud_ops.costs import PlanCost
from gcloud_ops.doctor import Finding, Quota, Room
from gcloud_ops.launching import LaunchPlan
from gcloud_ops.reaping import Kind, Orphan
from gcloud_ops.results import leaderboard
from gcloud_ops.sweepfile import parse_sweep
from gcloud_ops.templates import Template
from sinergym_tui.alerting import Alerts
from sinergym_tui.app import Console
from sinergym_tui.comparing import Learned
from sinergym_tui.drafts import Preview
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.alerts import AlertsScreen
from sinergym_tui.screens.compare import CompareScreen
from sinergym_tui.screens.doctor import DoctorScreen
from sinergym_tui.screens.frame import ConsoleScreen
from sinergym_tui.screens.launch import LaunchScreen
from sinergym_tui.screens.leftovers import LeftoversScreen
from sinergym_tui.screens.rehearsal import RehearsalScreen
from sinergym_tui.screens.tracking import TrackingScreen
from sinergym_tui.views.alerts import AlertRow, alert_rows
from sinergym_tui.views.comparing import Ranked, ranked
from sinergym_tui.views.experiment import Curve
from sinergym_tui.views.tracking import TrackingRow
from sinergym_tui.workers import Tell

from .conftest import until_shown
from .test_pictures import NOW, PICTURES, Still, picture_of, state


class StillDoctor(DoctorScreen):
    """Three findings."""

    def ask(self, fleet: Fleet, found: list[Finding], tell: Tell) -> Sequence[Finding]:
        return (
            Finding(
                name="quota",
                level="problem",
                message="not enough for 24 instances in europe-west1: n2-highcpu-8: "
                "N2_CPUS: needs 192, 72 of 72 are left",
                advice="ask for more, or launch fewer at a time",
            ),
            Finding(
                name="alerts",
                level="warning",
                message="nobody is told when experiments end or fail",
                advice="`gcloud-ops alerts policies setup --channel you@example.org`",
            ),
            Finding(name="credentials", level="ok", message="those of ana@example.org"),
            Finding(name="template", level="ok", message="sinergym-template: n2-highcpu-8"),
        )


class StillAlerts(AlertsScreen):
    """Two policies, two channels."""

    def ask(self, fleet: Fleet, found: list[AlertRow], tell: Tell) -> Sequence[AlertRow]:
        channels = [
            Channel(
                name=f"projects/p/notificationChannels/{number}",
                type=kind,
                display_name=address,
                labels={label: address},
                enabled=True,
                verification=verification,
            )
            for number, (kind, label, address, verification) in enumerate(
                (
                    ("email", "email_address", "ana@example.org", ""),
                    ("sms", "number", "+34600000000", "UNVERIFIED"),
                )
            )
        ]
        policies = [
            Policy(
                which=which,
                name=f"projects/p/alertPolicies/{which}",
                display_name=f"Sinergym: {which.replace('-', ' ')}",
                enabled=which != "sweep-finished",
                channels=(channels[0].name,),
                each=False,
            )
            for which in ("experiment-failed", "sweep-finished")
        ]
        return alert_rows(Alerts(channels=tuple(channels), policies=tuple(policies)))


class StillLeftovers(LeftoversScreen):
    """A disk and an address."""

    def ask(self, fleet: Fleet, found: list[Orphan], tell: Tell) -> Sequence[Orphan]:
        return (
            Orphan(
                kind=Kind.DISK,
                name="ppo-hot-0003",
                where="europe-west1-b",
                why="a disk of an experiment that no instance uses",
                daily=0.11,
            ),
            Orphan(
                kind=Kind.ADDRESS,
                name="mlflow-ip",
                where="europe-west1",
                why="reserved, and no tracking server uses it",
                daily=0.24,
            ),
        )


class StillTracking(TrackingScreen):
    """A few resources, and an answer."""

    def ask(self, fleet: Fleet, found: list[TrackingRow], tell: Tell) -> Sequence[TrackingRow]:
        there, missing = ("✓ there", "good"), ("· missing", "muted")
        return tuple(
            TrackingRow(what=what, state=state_, monthly=monthly, holds_data=data, words="")  # type: ignore[arg-type]
            for what, state_, monthly, data in (
                ("service account mlflow-tracking-sa", there, 0.0, False),
                ("bucket green-buildings-mlflow", there, 0.0, True),
                ("Cloud SQL instance mlflow-backend", there, 9.37, True),
                ("address mlflow-ip", there, 2.92, False),
                ("instance mlflow-tracking-server", missing, 26.12, False),
            )
        )


class StillCompare(CompareScreen):
    """The leaderboard of the still sweep, and curves for it."""

    def ask(self, fleet: Fleet, found: list[Ranked], tell: Tell) -> Sequence[Ranked]:
        import sinergym_tui.widgets.bands  # noqa: F401

        seen = state("sac-mixed", 8, final=True).snapshot
        assert seen is not None
        values = {
            row.id: row.record.progress.mean_reward or 0.0 for row in seen.rows if row.record
        }
        for row in seen.rows:
            assert row.record is not None
            row.record.raw["progress"] = {"mean_reward": values[row.id]}  # type: ignore[index]
        rows = ranked(leaderboard(seen))
        steps = tuple(float(number * 672) for number in range(1, 30))
        curves = {
            name: Curve(what="", steps=steps, values=tuple(value - 9e4 / step for step in steps))
            for name, value in values.items()
        }
        self._learned = Learned(rows=rows, curves=curves, metrics=("mean_reward",))
        return rows


class StillLaunch(LaunchScreen):
    """A plan at prices that don't change."""

    def ask(self, fleet: Fleet, text: str, alert: str, tell: Tell) -> Preview:
        sweep = parse_sweep(text, source="line")
        cost = PlanCost(
            count=len(sweep.experiments),
            spot=sweep.spot,
            hourly_standard=0.325,
            hourly_spot=0.134,
            hours=sweep.hours,
            seconds=None if sweep.max_hours is None else int(sweep.max_hours * 3600),
            priced="2026-11-01",
        )
        plan = LaunchPlan(
            sweep=sweep,
            project="green-buildings",
            zone="europe-west1-b",
            bucket="green-buildings-experiments-storage",
            bucket_exists=True,
            template=Template(
                name="sinergym-template",
                image="europe-docker.pkg.dev/green-buildings/sinergym/trainer:3.12",
                machine_type="n2-highcpu-8",
                disk_gb=20,
            ),
            cost=cost,
        )
        cpus = Room(metric="N2_CPUS", needs=48, quota=Quota(limit=72, usage=16))
        return Preview(text=text, sweep=sweep, plan=plan, rooms=(cpus,))


def place(name: str) -> tuple[ConsoleScreen | RehearsalScreen, tuple[str, ...], str]:
    """The screen of a picture, the keys before it is drawn, and what it shows then."""
    hours = (*["tab"] * 8, "2", "tab", "4", *["shift+tab"] * 9)
    typed = (*"study", "enter", *"My-house-v1", "enter", *"PPO, A2C", "tab", *"3", *hours)
    match name:
        case "launch":
            return StillLaunch(Path("/none")), typed, "$7.82 at most"
        case "launch-question":
            return StillLaunch(Path("/none")), (*typed, "plan", "ctrl+l"), "Launch sweep study?"
        case "compare":
            return StillCompare("sac-mixed"), (), "time steps"
        case "alerts":
            return StillAlerts(), ("G",), "! unverified"
        case "doctor":
            return StillDoctor(), (), "✗ problem"
        case "tracking":
            return StillTracking(), ("down", "down"), "mlflow-backend"
        case "leftovers":
            return StillLeftovers(), ("space",), "● 1 chosen"
    return RehearsalScreen(("ppo-hot-0001",)), ("down",), "Its host fails"


@pytest.mark.parametrize(
    "size",
    [(80, 24), pytest.param((160, 48), marks=pytest.mark.slow)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
@pytest.mark.parametrize(
    "name",
    [
        "launch",
        "launch-question",
        "compare",
        "alerts",
        "doctor",
        "tracking",
        "leftovers",
        "rehearsal",
    ],
)
@pytest.mark.slow
async def test_a_place_looks_as_it_did(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters, colours and places are those of the picture that is kept."""
    monkeypatch.setenv("TZ", "UTC")
    screen, keys, awaited = place(name)
    app = Console(lambda _tell: Still(), clock=lambda: NOW)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "▸ ppo-hot")
        app.push_screen(screen)
        await pilot.pause(0.3)
        for key in keys:
            if key == "plan":
                await until_shown(pilot, "$7.82 at most")
            else:
                await pilot.press(key)
        await until_shown(pilot, awaited)
        if isinstance(screen, LaunchScreen):
            for field in screen.query("Input"):
                field.cursor_blink = False  # type: ignore[attr-defined]
        await pilot.pause(0.5)
        drawn = picture_of(app)
    kept = PICTURES / f"{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("UPDATE_PICTURES"):
        kept.write_text(drawn, encoding="utf-8")
    assert kept.exists(), f"{kept.name}: draw it with UPDATE_PICTURES=1, and look at it"
    assert drawn.splitlines() == kept.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["compare", "experiment"])
@pytest.mark.slow
async def test_plots_take_another_theme_under_another_screen(name: str) -> None:
    """What comes back looks as if the theme had been that one from the start."""

    async def draw(*, later: bool) -> str:
        app = Console(lambda _tell: Still(), clock=lambda: NOW)
        async with app.run_test(size=(160, 48)) as pilot:
            await until_shown(pilot, "▸ ppo-hot")
            app.theme = "textual-dark" if later else "textual-light"
            if name == "compare":
                app.push_screen(place(name)[0])
            else:
                await pilot.press("enter")
                await until_shown(pilot, "ppo-hot-0010")
                await pilot.press("enter")
            await until_shown(pilot, "time steps")
            await pilot.pause(0.5)
            if later:
                app.push_screen(place("doctor")[0])
                await until_shown(pilot, "✗ problem")
                app.theme = "textual-light"
                await pilot.pause(0.3)
                await pilot.press("escape")
                await until_shown(pilot, "time steps")
                await pilot.pause(0.5)
            return picture_of(app)

    begun, changed = await draw(later=False), await draw(later=True)
    assert changed.splitlines() == begun.splitlines()
