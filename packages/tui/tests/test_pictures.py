"""Pictures of the screens, compared with those that are kept; on a fleet that stands still.

A picture is the screen's letters, and below them which colours they have, from where to where.

`UPDATE_PICTURES=1 pytest packages/tui/tests/test_pictures.py` draws them anew: look at them then.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from rich.style import Style

from gcloud_ops.contract import (
    Attempt,
    Dispatch,
    Exit,
    Experiment,
    Machine,
    Manifest,
    Progress,
    Record,
    Source,
)
from gcloud_ops.logs import LogChunk
from gcloud_ops.model import (
    Container,
    ExperimentStatus,
    Group,
    Instance,
    Member,
    Observation,
    Snapshot,
    SweepSummary,
)
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet, FleetView
from sinergym_tui.trails import Trail
from sinergym_tui.views.experiment import Curve, Extras
from sinergym_tui.views.incidents import Notice
from sinergym_tui.views.sweeps import Cost, SweepState, facts_of

from .conftest import until_shown

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients

PICTURES = Path(__file__).with_name("pictures")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def ago(minutes: float) -> datetime:
    """So long before the moment that all pictures show."""
    return NOW - timedelta(minutes=minutes)


class Still(Fleet):
    """A fleet at one moment."""

    def __init__(self) -> None:
        super().__init__(cast("Clients", None))

    @property
    def settings(self) -> Settings:
        """Those of a project that isn't asked."""
        return Settings(project="green-buildings", ssh_user="ana")

    def observe(self, selected: str = "", *, afresh: bool = False) -> FleetView:  # noqa: ARG002
        """Always the same."""
        states = (state("ppo-hot", 12), state("sac-mixed", 4, final=True))
        return FleetView(sweeps=states, selected=states[0].name, taken=NOW, seconds=0.084)

    def examine(self, sweep: str, experiment: str) -> Extras:  # noqa: ARG002
        """A curve, outputs, a container."""
        steps = tuple(float(number * 672) for number in range(40))
        values = tuple(-480 + 300 * (1 - 0.9**number) for number in range(40))
        return Extras(
            outputs=(("best_model/model.zip", 1_482_113), ("progress.csv", 20_411)),
            curve=Curve(what="mean reward of an episode", steps=steps, values=values),
            containers=(
                Container(
                    instance=experiment,
                    id="c0ffee",
                    name="sinergym",
                    image="europe-docker.pkg.dev/green-buildings/sinergym/trainer:3.12",
                    state="running",
                    status="Up 41 minutes",
                ),
            ),
        )

    def notices(self) -> tuple[Notice, ...]:
        """Two incidents."""
        return (
            Notice(
                key="2",
                at=ago(4),
                state="OPEN",
                policy="experiment-failed",
                sweep="ppo-hot",
                experiment="ppo-hot-0003",
                words="failed · 7.6 GB were used",
            ),
            Notice(
                key="1",
                at=ago(150),
                state="CLOSED",
                policy="sweep-finished",
                sweep="sac-mixed",
                experiment="",
                words="finished",
            ),
        )

    def follow(
        self, sweep: str, experiments: Sequence[str], *, stop: threading.Event
    ) -> Iterator[LogChunk]:
        """Some lines of each."""
        del sweep, stop
        for experiment in experiments:
            lines = [
                "sinergym-runner: attempt 1, the command runs",
                "2026-11-22 11:20:03 INFO sinergym: episode 1, mean reward -431.2",
                "2026-11-22 11:24:41 WARNING EnergyPlus: ** Warning ** zone air is unstable",
                "2026-11-22 11:29:10 ERROR sinergym: the weather file has no row 8761",
            ]
            data = "".join(f"{line}\n" for line in lines).encode()
            yield LogChunk(experiment=experiment, attempt=1, data=data, is_new=False)


def state(name: str, count: int, *, final: bool = False) -> SweepState:
    """A sweep in the middle of its life, or at its end."""
    rows = tuple(observation(name, number, final=final) for number in range(1, count + 1))
    manifest = Manifest(
        sweep=name,
        created=ago(300 if final else 47),
        project="green-buildings",
        zone="europe-west1-b",
        template="sinergym-template",
        dispatch=Dispatch.BOOT,
        launcher={},
        experiments=tuple(row.experiment for row in rows),
        machine=Machine(types=("n2-highcpu-8",), spot=True),
        source=Source(commit="4be1a7c09d52", branch="main"),
    )
    seen = Snapshot(
        manifest=manifest,
        bucket="green-buildings-experiments-storage",
        rows=rows,
        taken=NOW,
        group_exists=not final,
    )
    group = Group(name=name, zone="europe-west1-b", template="t", target_size=count)
    costs = {row.id: Cost(spent=0.11 + 0.01 * at, projected=0.4) for at, row in enumerate(rows)}
    cost = Cost(spent=sum(one.spent for one in costs.values()), projected=0.4 * count)
    trail = Trail(attempt=1, rewards=tuple(-480 + 30.0 * (n % 5) + 20 * n for n in range(12)))
    return SweepState(
        summary=SweepSummary(
            name=name,
            created=manifest.created,
            experiments=count,
            group=None if final else group,
        ),
        snapshot=seen,
        facts=facts_of(seen, cost=cost, costs=costs),
        trails={row.id: trail for row in rows if row.status is ExperimentStatus.RUNNING},
        instances={
            row.id: Instance(name=row.id, zone="b", status="RUNNING", address=f"10.0.0.{at}")
            for at, row in enumerate(rows, 2)
            if row.member is not None and row.member.is_up
        },
    )


def observation(name: str, number: int, *, final: bool) -> Observation:
    """One experiment: a few have had bad luck."""
    status = {3: ExperimentStatus.FAILED, 5: ExperimentStatus.QUEUED, 7: ExperimentStatus.FINISHED}
    fate = status.get(number, ExperimentStatus.RUNNING)
    fate = ExperimentStatus.FINISHED if final else fate
    ident = f"{name}-{number:04d}"
    algorithm = "SAC" if number % 2 else "PPO"
    command = f"sinergym-train --algorithm {algorithm} --episodes 20 --seed {number}"
    record = Record(
        experiment=ident,
        attempt=2 if number == 3 else 1,
        state=str(fate),
        started=ago(45 - number),
        updated=ago(number / 60),
        ended=ago(4 + number) if fate.is_final else None,
        progress=Progress(
            episode=20 if fate is ExperimentStatus.FINISHED else number + 4,
            episodes=20,
            timesteps=(number + 4) * 672,
            total_timesteps=20 * 672,
            mean_reward=-400.5 + number * 17,
        ),
        exit=Exit(code=137, signal=None, kind="oom", hint="7.6 GB were used")
        if fate is ExperimentStatus.FAILED
        else None,
        history=(Attempt(number=1, kind="preempted", started=ago(45), ended=ago(44)),)
        if number == 3
        else (),
        mlflow_url=f"http://10.0.0.9:5000/#/experiments/3/runs/{number:032x}",
        versions={"sinergym": "3.12.2"},
    )
    queued = fate is ExperimentStatus.QUEUED
    member = Member(
        name=ident,
        zone="europe-west1-b",
        id="" if queued else str(number),
        action="CREATING" if queued else "NONE",
        status="" if queued else "RUNNING",
    )
    return Observation(
        experiment=Experiment(id=ident, command=command),
        member=None if fate.is_final else member,
        record=None if queued else record,
        status=fate,
        reason={3: "7.6 GB were used", 5: "the zone has no such machines at the moment"}.get(
            number, ""
        )
        if not final
        else "",
    )


SCREENS = {
    "sweeps": ((), "ppo-hot"),
    "sweep": (("enter",), "ppo-hot-0010"),
    "experiment": (("enter", "down", "down", "enter"), "attempt 1: preempted"),
    "logs": (("enter", "space", "space", "o"), " 9 lines"),
    "incidents": (("2",), "experiment-failed"),
    "help": (("enter", "question_mark"), "On this screen"),
    "cancel": (("c",), "Cancel sweep ppo-hot?"),
}


@pytest.mark.parametrize(
    "size",
    [(80, 24), pytest.param((160, 48), marks=pytest.mark.slow)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
@pytest.mark.parametrize("screen", SCREENS)
async def test_a_screen_looks_as_it_did(
    screen: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters, colours and places are those of the picture that is kept."""
    monkeypatch.setenv("TZ", "UTC")
    keys, awaited = SCREENS[screen]
    app = Console(lambda _tell: Still(), clock=lambda: NOW)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "▸ ppo-hot")
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.1)
        await until_shown(pilot, awaited)
        if screen == "experiment":
            awaited_there = "time steps" if size[0] > 120 else "ran out of memory"
            await until_shown(pilot, awaited_there)
        await pilot.pause(0.3)
        drawn = picture_of(app)
    kept = PICTURES / f"{screen}-{size[0]}x{size[1]}.txt"
    if os.environ.get("UPDATE_PICTURES"):
        kept.write_text(drawn, encoding="utf-8")
    assert kept.exists(), f"{kept.name}: draw it with UPDATE_PICTURES=1, and look at it"
    assert drawn.splitlines() == kept.read_text(encoding="utf-8").splitlines()


def picture_of(app: Console) -> str:
    """Letters and colours of all cells, the same for all ways to paint them."""
    lines, colours = [], []
    for y, strip in enumerate(app.screen._compositor.render_strips()):
        cells = [
            (letter, _look(letter, segment.style or Style()))
            for segment in strip
            for letter in segment.text
        ]
        lines.append("".join(letter for letter, _ in cells).rstrip())
        x = 0
        for look, run in groupby(cells, key=lambda cell: cell[1]):
            size = len(list(run))
            colours.append(f"{y:2} {x:3}+{size:<3} {look}")
            x += size
    return "\n".join([*lines, "", *colours, ""])


def _look(letter: str, style: Style) -> str:
    """Of a blank only the ground can be seen."""
    ground = f"on {style.bgcolor.name}" if style.bgcolor else ""
    if letter == " ":
        return ground
    marks = [name for name in ("bold", "italic", "underline", "reverse") if getattr(style, name)]
    return " ".join([*marks, style.color.name if style.color else "", ground])
