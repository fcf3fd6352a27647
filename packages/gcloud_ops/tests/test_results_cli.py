"""`gcloud-ops sweep results` and `compare`, on a local cloud."""

import pytest

from gcloud_ops import bucket, objects
from gcloud_ops.cli.output import ExitCode
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Manifest, parse_time
from gcloud_ops.model import Sweep

from .commands import Run, play_runner, runner, surroundings_of


@pytest.fixture
def ops(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command line in this process."""
    return runner(surroundings_of(clients.settings), monkeypatch, capsys)


def play_sweep(clients: Clients, name: str, rewards: dict[str, list[float]]) -> None:
    """A sweep that has ended: for each algorithm the rewards of its seeds."""
    commands = [
        f"sinergym-train --algorithm {algorithm} --seed {seed}"
        for algorithm, found in rewards.items()
        for seed in range(len(found))
    ]
    sweep = Sweep.of_commands(name, commands)
    where = clients.settings.bucket_name
    objects.ensure_bucket(clients, where, location="EU")
    manifest = Manifest(
        sweep=name,
        created=parse_time("2026-11-22T10:00:00Z"),
        project=clients.project,
        zone=clients.zone,
        template="t",
        dispatch=Dispatch.BOOT,
        launcher={},
        experiments=sweep.experiments,
    )
    bucket.create_manifest(clients, where, manifest)
    flat = [reward for found in rewards.values() for reward in found]
    for experiment, reward in zip(sweep.experiments, flat, strict=True):
        play_runner(clients, name, experiment.id, progress={"mean_reward": reward})


def test_results_as_table_csv_and_json(clients: Clients, ops: Run) -> None:
    """The same numbers in each."""
    play_sweep(clients, "board", {"PPO": [-300.0, -200.0, -100.0], "SAC": [-150.0]})
    shown = ops("sweep", "results", "board")
    assert shown.code == ExitCode.DONE
    first, second, third = shown.out.splitlines()
    assert first.split("  ")[0] == "CONFIGURATION"
    assert second.split() == ["algorithm=SAC", "1/1", "-150.00", "-", "-150.00", "board-0004"]
    assert third.split()[:3] == ["algorithm=PPO", "3/3", "-200.00"]
    assert third.split()[-2:] == ["-200.00", "board-0003"]

    lines = ops("sweep", "results", "board", "--output", "csv").out.splitlines()
    assert lines[0] == "configuration,runs,iqm,95_%_interval,mean,best_run"
    assert lines[1] == "algorithm=SAC,1/1,-150.00,,-150.00,board-0004"

    told = ops("--output", "json", "sweep", "results", "board").json
    assert told[1]["iqm"] == -200.0
    assert told[1]["values"] == [-300.0, -200.0, -100.0]
    assert -300.0 <= told[1]["interval"]["low"] <= told[1]["interval"]["high"] <= -100.0


def test_compare_two_sweeps(clients: Clients, ops: Run) -> None:
    """What both have side by side; then all on one leaderboard."""
    play_sweep(clients, "before", {"PPO": [-30.0, -20.0, -10.0]})
    play_sweep(clients, "after", {"PPO": [-3.0, -2.0, -1.0], "A2C": [-5.0]})
    shown = ops("sweep", "compare", "before", "after").out
    difference, _, board = shown.partition("\n\n")
    assert "+18.00" in difference
    assert "100%" in difference
    assert [line.split()[0] for line in board.splitlines()] == [
        "SWEEP",
        "after",
        "after",
        "before",
    ]
    told = ops("sweep", "compare", "before", "after", "--output", "json").json
    assert told["comparisons"][0]["improvement"] == 1.0
    assert len(told["leaderboard"]) == 3


def test_a_metric_that_nobody_reports(clients: Clients, ops: Run) -> None:
    """One line, with those that are there; so for a sweep that isn't there."""
    play_sweep(clients, "unmeasured", {"PPO": [-3.0]})
    refused = ops("sweep", "results", "unmeasured", "--metric", "comfort")
    assert refused.code == ExitCode.USAGE
    assert refused.err == (
        "gcloud-ops: metric: no experiment reports 'comfort' (they report mean_reward)\n"
    )
    assert ops("sweep", "results", "nowhere").code == ExitCode.NOT_FOUND
