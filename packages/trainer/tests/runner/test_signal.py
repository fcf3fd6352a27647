"""The signals of an end, by real runners, to a Cloud Monitoring of the test's own (gRPC)."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from google.cloud import monitoring_v3
from google.protobuf import empty_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from sinergym_trainer.runner.finishing import RETURNING, Seen, find_lost, is_open, lost_record
from sinergym_trainer.runner.signals import (
    EXPERIMENT_FINISHED,
    SWEEP_FINISHED,
    duration,
    experiment_labels,
    reward,
    sweep_labels,
)

NewVm = Callable[..., Any]
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
SWEEP = {
    "schema": 1,
    "sweep": "quick",
    "created": "2026-11-23T09:00:00Z",
    "dispatch": "ssh",
    "alerts": {"each": True},
    "experiments": [{"id": f"quick-000{n}", "command": "true"} for n in (1, 2, 3)],
}
RECORD = {
    "schema": 1,
    "sweep": "quick",
    "experiment": "quick-0002",
    "attempt": 1,
    "state": "failed",
    "started": "2026-11-23T09:00:00Z",
    "updated": "2026-11-23T10:12:00Z",
    "ended": "2026-11-23T10:12:00Z",
    "progress": {"mean_reward": -212.5},
    "exit": {"code": 3, "signal": None, "kind": "error", "hint": "its last line: no\nsuch file"},
}


class Monitoring:
    """`MetricService.CreateTimeSeries`, as the reference of google.monitoring.v3 says."""

    def __init__(self) -> None:
        self.points: list[tuple[str, dict[str, str]]] = []
        self.tries = 0
        self.answers: list[grpc.StatusCode] = []
        """What it says to the next calls, the last one for ever if it is the only one."""
        self.writes_anyway = False
        method = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=monitoring_v3.CreateTimeSeriesRequest.deserialize,
            response_serializer=empty_pb2.Empty.SerializeToString,
        )
        service = "google.monitoring.v3.MetricService"
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"CreateTimeSeries": method})]
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Stop it."""
        self._server.stop(0).wait(5)

    def labels(self, metric: str) -> list[dict[str, str]]:
        """The labels of all points of a metric."""
        return [labels for name, labels in self.points if name == metric]

    def _create(self, request: Any, context: Any) -> Any:
        self.tries += 1
        assert request.name == "projects/local"
        answer = self.answers.pop(0) if self.answers else None
        if answer is None or self.writes_anyway:
            for series in request.time_series:
                (point,) = series.points
                assert point.value.int64_value == 1
                assert series.resource.type == "global"
                assert dict(series.resource.labels) == {"project_id": "local"}
                assert abs(point.interval.end_time.timestamp() - time.time()) < 30
                self.points.append((series.metric.type, dict(series.metric.labels)))
        if answer is not None:
            context.abort(answer, "as the test says")
        return empty_pb2.Empty()


@pytest.fixture
def monitoring() -> Iterator[Monitoring]:
    """A Monitoring for one test."""
    it = Monitoring()
    yield it
    it.close()


def put_sweep(cloud: Any, *numbers: int, each: bool = True, seconds_ago: float = 0) -> None:
    """Put the manifest of a sweep of these experiments in."""
    manifest = {
        **SWEEP,
        "alerts": {"each": each},
        "experiments": [{"id": f"quick-000{n}", "command": "true"} for n in numbers],
    }
    cloud.put("quick/sweep.json", json.dumps(manifest).encode(), seconds_ago=seconds_ago)


def put_record(cloud: Any, number: int, *, seconds_ago: float, **members: Any) -> None:
    """Put another experiment's record in."""
    content = {**RECORD, "experiment": f"quick-000{number}", **members}
    text = json.dumps(content)
    name = f"quick/records/quick-000{number}.json"
    cloud.put(name, text.encode(), {"record": text}, seconds_ago=seconds_ago)


def environment(monitoring: Monitoring, **more: str) -> dict[str, str]:
    """What tells a runner where Monitoring is."""
    return {"MONITORING_EMULATOR_HOST": monitoring.address, **more}


def marker(cloud: Any) -> dict[str, Any]:
    """The marker of the sweep's end; empty when there is none."""
    found = cloud.objects.get("quick/finished.json")
    return json.loads(found["content"]) if found else {}


# ---------------------------------------------------------------------- what is in a point


def test_labels_say_what_people_want_to_know() -> None:
    """Texts of the record, in the contract's words; whether each is announced, by the manifest."""
    assert experiment_labels(RECORD, each=False) == {
        "sweep": "quick",
        "experiment": "quick-0002",
        "status": "failed",
        "kind": "error",
        "notify": "sweep",
        "duration": "1 h 12 min",
        "mean_reward": "mean reward -212.50",
        "hint": "hint: its last line: no such file",
    }


@pytest.mark.parametrize(
    ("state", "kind", "status"),
    [
        ("finished", "ok", "finished"),
        ("failed", "oom", "failed"),
        ("idle", "idle", "failed"),
        ("failed", "lost", "lost"),
        ("cancelled", "cancelled", None),
        ("running", None, None),
    ],
)
def test_what_is_announced_as_what(state: str, kind: str | None, status: str | None) -> None:
    """A cancellation is nobody's news, and neither is what has not ended."""
    labels = experiment_labels({**RECORD, "state": state, "exit": {"kind": kind}}, each=True)

    assert (labels and labels["status"]) == status


def test_a_sweep_is_finished_only_if_all_are() -> None:
    """One that failed or was cancelled makes it `failed`; the best reward is of those that did."""
    good = {**RECORD, "state": "finished", "progress": {"mean_reward": 0.012345}}
    cancelled = {**RECORD, "state": "cancelled", "progress": {"mean_reward": 7.0}}

    assert sweep_labels(SWEEP, [good, good])["status"] == "finished"
    assert sweep_labels(SWEEP, [good, cancelled]) == {
        "sweep": "quick",
        "status": "failed",
        "experiments": "2",
        "failed": "1",
        "duration": "1 h 12 min",
        "best_reward": "best mean reward 0.0123",
    }


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300)


ends = st.fixed_dictionaries({"kind": st.just("error"), "hint": scalars})
progress = st.fixed_dictionaries({"mean_reward": scalars})


@given(
    st.dictionaries(st.sampled_from(sorted(RECORD)), scalars | st.just({"hint": "x" * 900})),
    st.fixed_dictionaries({}, optional={"exit": ends, "progress": progress}),
)
@example({}, {"exit": {"kind": "error", "hint": "(core dumped)"}})
def test_any_record_makes_labels_that_monitoring_takes(
    members: dict[str, Any], known: dict[str, Any]
) -> None:
    """Whatever a record says: printable text of less than 1024 bytes, which messages can have."""
    members = {**members, **known}
    found = experiment_labels({**RECORD, "state": "failed", **members}, each=True)

    for name, label in (found or {}).items():
        if name not in {"sweep", "experiment"}:
            assert label.isprintable()
            assert len(label.encode()) < 1024
            assert not label or re.match(r"[0-9A-Za-z/=]", label), label


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (42, "42 s"), (719, "11 min"), (4330, "1 h 12 min"), (273600, "3 d 4 h")],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(NOW, NOW + timedelta(seconds=seconds)) == text
    assert duration(None, NOW) == ""


def test_rewards_keep_the_digits_that_count() -> None:
    """Two decimals; a small one has three digits; what is none is empty."""
    found = [reward(one) for one in (-212.5, 0, 0.012345, None, "7", float("nan"))]
    assert found == [
        "mean reward -212.50",
        "mean reward 0.00",
        "mean reward 0.0123",
        *["no mean reward"] * 3,
    ]


# ---------------------------------------------------------------------- who is lost


def seen(minutes: float | None, state: str = "running") -> dict[str, Seen]:
    """One experiment with a record of that age, or with none."""
    record = {**RECORD, "state": state} if minutes is not None else None
    stored = NOW - timedelta(minutes=minutes) if minutes is not None else None
    return {"quick-0002": Seen(experiment="quick-0002", record=record, stored=stored)}


LOST_AFTER = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("minutes", "member", "lost"),
    [
        (4.9, None, False),
        (5.1, None, True),
        (5.1, ("NONE", "TERMINATED"), True),
        (60, ("NONE", "RUNNING"), False),
        (60, ("RECREATING", ""), False),
        (60, ("CREATING", ""), False),
        (None, None, False),
        (None, ("NONE", "TERMINATED"), False),
    ],
)
def test_lost_is_who_is_silent_and_gone(
    minutes: float | None, member: tuple[str, str] | None, *, lost: bool
) -> None:
    """Five minutes without a word, and no VM that could come back (of a sweep 10 minutes old)."""
    members = {"quick-0002": member} if member else {}
    found = find_lost(
        seen(minutes), members, made=NOW - timedelta(minutes=10), now=NOW, lost_after=LOST_AFTER
    )

    assert bool(found) == lost


def test_without_a_record_it_takes_fifteen_minutes() -> None:
    """As long as a launch may be on its way, nobody is lost."""
    made = NOW - timedelta(minutes=16)
    assert find_lost(seen(None), {}, made=made, now=NOW, lost_after=LOST_AFTER)
    assert not find_lost(seen(None), None, made=made, now=NOW, lost_after=LOST_AFTER)


def test_where_the_group_cannot_be_asked_age_alone_decides() -> None:
    """After three times as long."""
    ask = partial(find_lost, made=NOW - timedelta(hours=9), now=NOW, lost_after=LOST_AFTER)
    assert not ask(seen(14), None)
    assert ask(seen(16), None)
    assert not ask(seen(16, "finished"), None)


@given(st.sampled_from(sorted(RETURNING)), st.floats(5.1, 10_000))
def test_what_the_group_brings_back_is_never_lost(action: str, minutes: float) -> None:
    """A preempted Spot VM waits for capacity for as long as it takes."""
    members = {"quick-0002": (action, "")}
    assert not find_lost(seen(minutes), members, made=NOW, now=NOW, lost_after=LOST_AFTER)


def test_a_lost_record_keeps_what_was_known() -> None:
    """It ended with its last word; progress and attempt stay."""
    one = seen(9)["quick-0002"]
    record = lost_record(one, "quick", "true", now="2026-11-23T11:00:00Z")

    assert (record["state"], record["exit"]["kind"]) == ("failed", "lost")
    assert record["ended"] == RECORD["updated"]
    assert (record["progress"], record["attempt"]) == (RECORD["progress"], 1)
    assert str(RECORD["updated"]) in record["exit"]["hint"]


@pytest.mark.parametrize(
    ("changes", "minutes", "is_free"),
    [
        ({"written": True}, 60, False),
        ({"written": False}, 1.9, False),
        ({"written": False}, 2.1, True),
        ({"status": "cancelled"}, 60, False),
        ({"written": True, "created": "2025-01-01T00:00:00Z"}, 0, True),
    ],
)
def test_a_marker_is_taken_over_only_from_who_died(
    changes: dict[str, Any], minutes: float, *, is_free: bool
) -> None:
    """Or from an earlier sweep of the same name."""
    mine = {"created": SWEEP["created"], "status": "finished"}
    assert is_open({**mine, **changes}, mine, age=timedelta(minutes=minutes)) is is_free


# ---------------------------------------------------------------------- real runners


@pytest.mark.slow
def test_three_that_end_together_signal_once_each_and_the_sweep_once(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """Two go well, one does not; nobody knows who will be last."""
    put_sweep(cloud, 1, 2, 3)
    cloud.group_size = 3
    vms = [
        new_vm(f"quick-000{n}", instance_id=str(n), environment=environment(monitoring))
        for n in (1, 2, 3)
    ]
    for vm, code in zip(vms, (0, 3, 0), strict=True):
        vm.start(f"while [ ! -e go ]; do sleep 0.02; done; exit {code}")
    for vm in vms:
        (vm.folder / "go").touch()
    assert [vm.ends() for vm in vms] == [0, 3, 0]

    ended = monitoring.labels(EXPERIMENT_FINISHED)
    assert sorted((one["experiment"], one["status"]) for one in ended) == [
        ("quick-0001", "finished"),
        ("quick-0002", "failed"),
        ("quick-0003", "finished"),
    ]
    assert {one["notify"] for one in ended} == {"each"}
    (sweep,) = monitoring.labels(SWEEP_FINISHED)
    assert (sweep["status"], sweep["experiments"], sweep["failed"]) == ("failed", "3", "1")
    assert marker(cloud)["written"] is True
    assert marker(cloud)["labels"] == sweep
    assert all(cloud.record(f"quick-000{n}")["signal"] is None for n in (1, 2, 3))
    assert cloud.group_size is None, "all VMs and the group are removed"


def test_a_sweep_that_goes_on_is_not_announced(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """One has ended, the other has not even begun; failures only are to be told."""
    put_sweep(cloud, 1, 2, each=False)
    vm = new_vm(environment=environment(monitoring))
    vm.start("true")

    assert vm.ends() == 0
    (ended,) = monitoring.labels(EXPERIMENT_FINISHED)
    assert ended["notify"] == "sweep"
    assert not monitoring.labels(SWEEP_FINISHED)
    assert not marker(cloud)


@pytest.mark.slow
def test_monitoring_that_comes_back_gets_all(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """Trouble that passes costs time, and nothing else."""
    put_sweep(cloud, 1)
    monitoring.answers = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    vm = new_vm(environment=environment(monitoring))
    vm.start("true")

    assert vm.ends() == 0
    assert len(monitoring.labels(EXPERIMENT_FINISHED)) == 1
    assert len(monitoring.labels(SWEEP_FINISHED)) == 1
    assert cloud.record()["signal"] is None
    assert b"trying again" in vm.output


@pytest.mark.slow
def test_a_lost_answer_is_no_second_point(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """It was written, the answer got lost, and the second try is refused as too frequent."""
    put_sweep(cloud, 1, 2)
    monitoring.writes_anyway = True
    monitoring.answers = [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INVALID_ARGUMENT]
    vm = new_vm(environment=environment(monitoring))
    vm.start("true")

    assert vm.ends() == 0
    assert monitoring.tries == 2
    assert cloud.record()["signal"] is None


@pytest.mark.slow
def test_monitoring_that_stays_away_is_said_in_the_record(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """After its patience the runner says so, in record, marker and log, and removes its VM."""
    put_sweep(cloud, 1)
    monitoring.answers = [grpc.StatusCode.UNAVAILABLE] * 1000
    vm = new_vm(environment=environment(monitoring, SINERGYM_SIGNAL_SECONDS="1"))
    vm.start("true")

    assert vm.ends() == 0
    record = cloud.record()
    assert record["state"] == "finished"
    assert record["signal"]["written"] is False
    assert "as the test says" in record["signal"]["why"]
    assert marker(cloud)["written"] is False
    assert "as the test says" in marker(cloud)["why"]
    assert vm.output.count(b"experiment_finished could not be signalled") == 1
    assert b"experiment_finished could not be signalled" in cloud.log()
    assert cloud.group_size is None


def test_a_refusal_is_not_tried_again(cloud: Any, new_vm: NewVm, monitoring: Monitoring) -> None:
    """The line says which role is missing."""
    monitoring.answers = [grpc.StatusCode.PERMISSION_DENIED] * 1000
    vm = new_vm(environment=environment(monitoring))
    vm.start("true")

    assert vm.ends() == 0
    assert monitoring.tries == 1
    assert "roles/monitoring.metricWriter" in cloud.record()["signal"]["why"]


@pytest.mark.slow
def test_told_to_stop_it_gives_up_within_seconds(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """A VM that goes away has no 90 seconds."""
    monitoring.answers = [grpc.StatusCode.UNAVAILABLE] * 1000
    vm = new_vm(environment=environment(monitoring))
    vm.start("true")
    vm.says("Monitoring does not take it yet")
    told = time.monotonic()
    vm.stop()

    assert vm.ends() == 0
    assert time.monotonic() - told < 10
    assert cloud.record()["state"] == "finished"


def test_preemption_signals_nothing(cloud: Any, new_vm: NewVm, monitoring: Monitoring) -> None:
    """The record is not final: another attempt will be."""
    put_sweep(cloud, 1)
    vm = new_vm(environment=environment(monitoring))
    vm.start("echo begun; sleep 60")
    vm.says("begun")
    vm.stop()

    assert vm.ends() == 143
    assert cloud.record()["state"] == "running"
    assert not monitoring.points


def test_a_foreign_end_is_not_signalled(cloud: Any, new_vm: NewVm, monitoring: Monitoring) -> None:
    """Who has written it signals it, or has reasons not to."""
    put_sweep(cloud, 1)
    vm = new_vm(environment=environment(monitoring))
    vm.start("echo begun; sleep 60")
    vm.says("begun")
    found = cloud.objects["quick/records/quick-0001.json"]
    content = {**json.loads(found["content"]), "state": "cancelled"}
    cloud.put("quick/records/quick-0001.json", json.dumps(content).encode())

    assert vm.ends() == 0
    assert not monitoring.points
    assert not marker(cloud)


def test_the_last_one_alive_signals_who_died(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """One is silent and its VM gone, one never came up, one is being made again."""
    put_sweep(cloud, 1, 2, 3, 4, seconds_ago=1000)
    put_record(cloud, 2, seconds_ago=400, state="running", exit=None, ended=None)
    put_record(cloud, 4, seconds_ago=400, state="running", exit=None, ended=None)
    cloud.members = [
        {"name": "quick-0001", "currentAction": "NONE", "instanceStatus": "RUNNING"},
        {"name": "quick-0004", "currentAction": "RECREATING"},
    ]
    vm = new_vm(environment=environment(monitoring))
    vm.start("true")

    assert vm.ends() == 0
    ended = {one["experiment"]: one["status"] for one in monitoring.labels(EXPERIMENT_FINISHED)}
    assert ended == {"quick-0001": "finished", "quick-0002": "lost", "quick-0003": "lost"}
    assert cloud.record("quick-0002")["exit"]["kind"] == "lost"
    assert cloud.record("quick-0002")["ended"] == RECORD["updated"]
    assert cloud.record("quick-0003")["state"] == "failed"
    assert cloud.record("quick-0004")["state"] == "running"
    assert not monitoring.labels(SWEEP_FINISHED)


def test_who_finds_the_last_one_lost_signals_the_sweep(
    cloud: Any, new_vm: NewVm, monitoring: Monitoring
) -> None:
    """The sweep's end is that of its lost one."""
    put_sweep(cloud, 1, 2)
    put_record(cloud, 2, seconds_ago=400, state="running", exit=None, ended=None)
    vm = new_vm(environment=environment(monitoring))
    vm.start("true")

    assert vm.ends() == 0
    (sweep,) = monitoring.labels(SWEEP_FINISHED)
    assert (sweep["experiments"], sweep["failed"]) == ("2", "1")


def test_where_there_is_no_monitoring_nothing_is_signalled(cloud: Any, new_vm: NewVm) -> None:
    """Another cloud than Google's that does not name one: no marker, no word in the record."""
    put_sweep(cloud, 1)
    vm = new_vm()
    vm.start("true")

    assert vm.ends() == 0
    assert cloud.record()["signal"] is None
    assert not marker(cloud)
    assert b"signal" not in vm.output


def test_the_client_of_monitoring_is_not_imported_at_the_start() -> None:
    """The runner's memory and its start are the training's."""
    program = (
        "import sys; import sinergym_trainer.runner.supervisor;"
        " print([m for m in sys.modules if m.startswith(('grpc', 'google.cloud'))])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"
