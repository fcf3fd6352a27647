"""Evaluation of policies against a clock that stands still until it is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.cloud.monitoring_v3 import types

from gcp_emulator.monitoring.incidents import Incidents
from gcp_emulator.monitoring.series import Point, SeriesKey, Store
from gcp_emulator.monitoring.texts import Incident

from .monitoring_cloud import METRIC, condition, policy

BEGIN = 1_800_000_000.0


@dataclass
class World:
    """Policies, series, incidents, and a clock."""

    folder: Path
    now: float = BEGIN
    policies: list[Any] = field(default_factory=list)
    store: Store = field(default_factory=Store)
    told: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.incidents = self.reopened()

    def reopened(self) -> Incidents:
        """Incidents as a new process finds them."""
        return Incidents(
            self.folder / "incidents.json",
            policies=lambda: self.policies,
            store=self.store,
            tell=self._tell,
            now=lambda: self.now,
        )

    def _tell(self, incident: Incident, policy: Any) -> None:
        assert policy in self.policies
        event = "closed" if incident.closed else "opened"
        self.told.append((event, incident.metric_labels))

    def add(self, *conditions: Any, **more: Any) -> None:
        """Add a policy."""
        made = types.AlertPolicy.pb(policy(*conditions, **more))
        made.name = f"projects/local/alertPolicies/{len(self.policies)}"
        for index, one in enumerate(made.conditions):
            one.name = f"{made.name}/conditions/{index}"
        self.policies.append(made)
        self.incidents.evaluate()

    def write(self, value: int = 1, *, age: float = 0.0, **labels: str) -> None:
        """Write a point, and evaluate."""
        typed = types.TypedValue.pb(types.TypedValue(int64_value=value))
        key = SeriesKey(
            METRIC, tuple(sorted(labels.items())), "global", (("project_id", "local"),)
        )
        self.store.add(key, Point(self.now - age, self.now - age, typed), arrived=self.now)
        self.incidents.evaluate()

    def wait(self, seconds: float, *, step: float = 5.0) -> None:
        """Let time go by, looking every now and then."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + step, end)
            self.incidents.evaluate()

    @property
    def events(self) -> list[str]:
        """What was told."""
        return [event for event, _ in self.told]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world without policies."""
    return World(tmp_path)


def grouped(**more: Any) -> dict[str, Any]:
    """The sum of all series of a sweep."""
    aggregation = {
        "alignment_period": {"seconds": 60},
        "per_series_aligner": "ALIGN_MAX",
        "cross_series_reducer": "REDUCE_SUM",
        "group_by_fields": ["metric.label.sweep"],
    }
    return condition(aggregations=[aggregation], **more)


def test_incident_opens_once_and_closes_without_data(world: World) -> None:
    """One point is one incident, for half an hour after the data end."""
    world.add()
    world.write(experiment="a")
    world.wait(1_790, step=30)
    assert world.told == [("opened", {"experiment": "a"})]
    world.wait(60)
    assert world.events == ["opened", "closed"]
    world.wait(7_200, step=60)
    assert world.events == ["opened", "closed"]


def test_value_back_to_normal_closes(world: World) -> None:
    """As soon as the window has no violating point; another one opens a new incident."""
    world.add()
    world.write(1)
    world.now += 30
    world.write(0)
    assert world.events == ["opened"]
    world.wait(31, step=1)
    assert world.events == ["opened", "closed"]
    world.write(1)
    assert world.events == ["opened", "closed", "opened"]


def test_failures_of_a_sweep_are_one_incident(world: World) -> None:
    """Grouped by sweep, with that label only; further failures are no news."""
    world.add(grouped())
    world.write(sweep="s", experiment="a")
    world.write(sweep="s", experiment="b")
    world.write(sweep="t", experiment="a")
    world.wait(600, step=60)
    world.write(sweep="s", experiment="c")
    assert world.told == [("opened", {"sweep": "s"}), ("opened", {"sweep": "t"})]


def test_duration_must_pass_first(world: World) -> None:
    """A minute of violation, without a break."""
    world.add(condition(duration={"seconds": 60}))
    world.write(1)
    world.wait(50)
    world.write(1)
    assert world.events == []
    world.wait(10)
    assert world.events == ["opened"]


def test_single_outlier_is_not_enough_for_a_duration(world: World) -> None:
    """The window ends before the duration does."""
    world.add(condition(duration={"seconds": 120}))
    world.write(1)
    world.wait(600)
    assert world.events == []


@pytest.mark.parametrize(
    ("missing", "events"),
    [
        ("EVALUATION_MISSING_DATA_ACTIVE", ["opened"]),
        ("EVALUATION_MISSING_DATA_INACTIVE", ["opened", "closed"]),
        ("EVALUATION_MISSING_DATA_NO_OP", ["opened"]),
    ],
)
def test_missing_data(world: World, missing: str, events: list[str]) -> None:
    """What is said of a series that is not written any more."""
    world.add(condition(duration={"seconds": 60}, evaluation_missing_data=missing))
    for _ in range(8):
        world.write(1)
        world.wait(10)
    world.wait(120)
    assert world.events == events


def test_late_point_counts_if_the_policy_was_there(world: World) -> None:
    """Minutes late, but not hours; and what was written before a policy is no news to it."""
    world.write(1, age=300, experiment="before")
    world.add()
    world.wait(5)
    assert world.events == []
    world.write(1, age=300, experiment="late")
    world.write(1, age=3_600, experiment="too late")
    world.wait(10)
    assert world.told == [("opened", {"experiment": "late"})]


def test_absence_opens_until_there_are_data_again(world: World) -> None:
    """A series that was never written is not absent."""
    absent = {
        "display_name": "silent",
        "condition_absent": {
            "filter": f'metric.type="{METRIC}" AND resource.type="global"',
            "duration": {"seconds": 120},
        },
    }
    world.add(absent)
    world.wait(300)
    world.write(1, experiment="a")
    world.wait(115)
    assert world.events == []
    world.wait(10)
    assert world.events == ["opened"]
    world.write(1, experiment="a")
    assert world.events == ["opened", "closed"]
    world.wait(130)
    assert world.events == ["opened", "closed", "opened"]
    world.wait(4_000, step=60)
    assert world.events == ["opened", "closed", "opened", "closed"]


def test_absence_of_what_has_long_been_silent_is_no_news(world: World) -> None:
    """Of a series, the last 24 hours count."""
    absent = {
        "display_name": "silent",
        "condition_absent": {
            "filter": f'metric.type="{METRIC}" AND resource.type="global"',
            "duration": {"seconds": 300},
        },
    }
    world.write(1, age=86_460, experiment="forgotten")
    world.write(1, age=3_600, experiment="silent")
    world.add(absent)
    assert world.told == [("opened", {"experiment": "silent"})]


def test_trigger_needs_so_many_series(world: World) -> None:
    """Two of them."""
    world.add(condition(trigger={"count": 2}))
    world.write(experiment="a")
    assert world.events == []
    world.write(experiment="b")
    assert world.events == ["opened", "opened"]


def test_and_needs_all_conditions(world: World) -> None:
    """One incident for the policy."""
    world.add(
        condition(' AND metric.label.status="a"', name="first"),
        condition(' AND metric.label.status="b"', name="second"),
        combiner="AND",
    )
    world.write(status="a")
    world.wait(5)
    assert world.events == []
    world.write(status="b")
    world.wait(5)
    assert world.events == ["opened"]


def test_threshold_below(world: World) -> None:
    """COMPARISON_LT."""
    world.add(condition(comparison="COMPARISON_LT", threshold_value=1.0))
    world.write(1)
    assert world.events == []
    world.write(0, experiment="other")
    assert world.events == ["opened"]


def test_removed_policy_closes_silently(world: World) -> None:
    """Nobody is told, and the incident is closed."""
    world.add()
    world.write()
    world.policies.clear()
    world.incidents.evaluate()
    assert world.events == ["opened"]
    assert [bool(one.closed) for one in world.incidents.all] == [True]
    assert world.incidents.is_idle


def test_open_incident_is_known_after_a_restart(world: World) -> None:
    """It is not opened again by another point, and closes when it is time."""
    world.add()
    world.write(experiment="a")
    world.store = Store()
    world.incidents = world.reopened()
    world.now += 10
    world.write(experiment="a")
    assert world.events == ["opened"]
    world.store = Store()
    world.incidents = world.reopened()
    world.wait(1_900, step=60)
    assert world.events == ["opened", "closed"]
