"""Leaderboards and comparisons: the measures' laws, and what counts."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops import results
from gcloud_ops.contract import Dispatch, Manifest, Record
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import Member, Snapshot, Sweep
from gcloud_ops.sweeps import snapshot

NOW = datetime(2026, 11, 23, tzinfo=UTC)
FLOATS = st.floats(-1e6, 1e6)


def seen(name: str, runs: Sequence[tuple[str, Mapping[str, object] | None, str]]) -> Snapshot:
    """A sweep of commands, each with its progress (None: no record) and state."""
    sweep = Sweep.of_commands(name, [command for command, _, _ in runs])
    manifest = Manifest(
        sweep=name,
        created=NOW,
        project="p",
        zone="europe-west1-b",
        template="t",
        dispatch=Dispatch.BOOT,
        launcher={},
        experiments=sweep.experiments,
    )
    records = {
        experiment.id: Record.from_json(
            json.dumps(
                {
                    "schema": 1,
                    "experiment": experiment.id,
                    "attempt": 1,
                    "state": state,
                    "progress": progress,
                }
            )
        )
        for experiment, (_, progress, state) in zip(sweep.experiments, runs, strict=True)
        if progress is not None
    }
    members = tuple(Member(name=id_, status="RUNNING") for id_ in records)
    return snapshot(manifest, "b", members, records, now=NOW)


def finished(command: str, reward: float) -> tuple[str, Mapping[str, object], str]:
    """A run that ended well."""
    return command, {"mean_reward": reward, "timesteps": 10}, "finished"


def test_runs_that_differ_in_their_seed_are_one_line() -> None:
    """The best first; the label says what sets lines apart, and the best run is named."""
    board = results.leaderboard(
        seen(
            "s",
            [
                finished("train --algorithm PPO --seed 1", -300.0),
                finished("train --algorithm PPO --seed 2", -200.0),
                finished("train --algorithm PPO --seed=3", -100.0),
                finished("train --algorithm SAC -sd 1", -150.0),
                ("train --algorithm A2C --seed 1", None, ""),
            ],
        )
    )
    assert [line.label for line in board] == ["algorithm=SAC", "algorithm=PPO", "algorithm=A2C"]
    sac, ppo, a2c = board
    assert (ppo.mean, ppo.iqm, ppo.best) == (-200.0, -200.0, "s-0003")
    assert ppo.experiments == ("s-0001", "s-0002", "s-0003")
    assert ppo.interval is not None
    assert ppo.interval.low >= -300.0
    assert sac.interval is None, "one run says nothing of how others would do"
    assert (a2c.values, a2c.iqm, a2c.best) == ((), None, "")


def test_what_failed_is_no_result() -> None:
    """What still runs counts with what it has."""
    board = results.leaderboard(
        seen(
            "s",
            [
                ("train --seed 1", {"mean_reward": 5.0}, "failed"),
                ("train --seed 2", {"mean_reward": 3.0}, "running"),
                ("train --seed 3", {"mean_reward": math.nan}, "finished"),
            ],
        )
    )
    (line,) = board
    assert line.values == (3.0,)
    assert line.label == "train"


def test_another_metric() -> None:
    """By its name; one that nobody reports is refused with those that are there."""
    sweep = seen("s", [("train --seed 1", {"mean_reward": 1.0, "cost": 7}, "finished")])
    assert results.leaderboard(sweep, metric="cost")[0].values == (7.0,)
    assert results.metrics_of(sweep) == ("cost", "mean_reward")
    with pytest.raises(InvalidRequest, match="no experiment reports 'comfort'"):
        results.leaderboard(sweep, metric="comfort")
    empty = seen("s", [("train", None, "")])
    assert results.leaderboard(empty, metric="comfort")[0].iqm is None


def test_two_sweeps() -> None:
    """Configurations of both are set against each other; all are on one leaderboard."""
    old = [finished(f"train --lr 0.1 --seed {seed}", -10.0 - seed) for seed in range(4)]
    new = [finished(f"train --lr 0.1 --seed {seed}", -1.0 - seed) for seed in range(4)]
    only = [finished("train --lr 0.2 --seed 1", -99.0)]
    comparisons, board = results.compare(seen("old", old), seen("new", [*new, *only]))
    (found,) = comparisons
    assert found.improvement == 1.0
    assert found.interval == results.Interval(low=1.0, high=1.0)
    assert [(line.sweep, line.label) for line in board] == [
        ("new", "lr=0.1"),
        ("old", "lr=0.1"),
        ("new", "lr=0.2"),
    ]


def test_commands_that_are_no_words() -> None:
    """An open quote, negative numbers, flags without values."""
    assert results.configuration_of("echo 'x").words == ("echo 'x",)
    found = results.configuration_of("train --offset -1.5 --quiet --seed -1 --name=a")
    assert found.parameters == {"offset": "-1.5", "quiet": "true", "name": "a"}


def test_the_interquartile_mean() -> None:
    """Against numbers done by hand; one bad run moves it little."""
    assert results.interquartile_mean([1, 2, 3, 4]) == 2.5
    assert results.interquartile_mean([-1000, 1, 2, 3, 4, 5, 6, 7]) == 3.5
    assert results.interquartile_mean([2.0]) == 2.0
    with pytest.raises(ValueError, match="at least one"):
        results.interquartile_mean([])


@given(st.lists(FLOATS, min_size=1, max_size=30))
def test_laws_of_the_interquartile_mean(values: list[float]) -> None:
    """Between the extremes, whatever the order; of up to three values it is the mean."""
    found = results.interquartile_mean(values)
    slack = 1e-9 * max(1.0, *(abs(value) for value in values))
    assert min(values) - slack <= found <= max(values) + slack
    assert found == results.interquartile_mean(values[::-1])
    if len(values) < 4:
        assert found == pytest.approx(fmean(values), abs=1e-6)


@given(st.lists(FLOATS, min_size=1, max_size=8), st.lists(FLOATS, min_size=1, max_size=8))
def test_laws_of_the_improvement(first: list[float], second: list[float]) -> None:
    """A probability; seen from the other side it is the rest; against oneself it is a half."""
    found = results.improvement(first, second)
    assert 0.0 <= found <= 1.0
    assert found + results.improvement(second, first) == pytest.approx(1.0)
    assert results.improvement(first, first) == pytest.approx(0.5)


def test_the_interval_covers_what_it_says() -> None:
    """Of samples of ten, drawn from a known law, nearly 95 in 100 intervals hold its centre."""
    import random

    draw = random.Random(7)
    hits = 0
    for _ in range(60):
        found = results.interval_of([draw.gauss(10.0, 3.0) for _ in range(10)])
        assert found is not None
        assert found.low < found.high
        hits += found.low <= 10.0 <= found.high
    assert 48 <= hits <= 60
