"""Ends that no runner is left to signal, on a local cloud with a Monitoring of the test's own."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud import monitoring_v3
from google.protobuf import empty_pb2

from gcloud_ops import bucket, finishing, launching, objects, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Experiment, Manifest, Record, timestamp
from gcloud_ops.errors import InvalidRequest, PermissionDenied, Unavailable
from gcloud_ops.finishing import BucketClock, find_lost, is_gone, signal_sweep
from gcloud_ops.model import ExperimentStatus, Member, Sweep
from gcloud_ops.settings import Settings
from gcloud_ops.signals import EXPERIMENT_FINISHED, SWEEP_FINISHED, write_points

from .conftest import Answers, eventually, inert_cloud, settings_of

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
SOON = timedelta(seconds=0.3)
PROJECT = "local"


class Monitoring:
    """`MetricService.CreateTimeSeries`, as the reference of google.monitoring.v3 says."""

    def __init__(self) -> None:
        self.points: list[tuple[str, dict[str, str]]] = []
        self.tries = 0
        self.answers: list[grpc.StatusCode] = []
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

    def labels(self, metric: str, sweep: str) -> list[dict[str, str]]:
        """The labels of a sweep's points of a metric."""
        return [of for name, of in self.points if name == metric and of["sweep"] == sweep]

    def _create(self, request: Any, context: Any) -> Any:
        self.tries += 1
        if self.answers:
            context.abort(self.answers.pop(0), "as the test says")
        for series in request.time_series:
            (point,) = series.points
            assert point.value.int64_value == 1
            assert series.resource.type == "global"
            self.points.append((series.metric.type, dict(series.metric.labels)))
        return empty_pb2.Empty()


@pytest.fixture
def monitoring() -> Iterator[Monitoring]:
    """A Monitoring for one test."""
    it = Monitoring()
    yield it
    it.close()


@pytest.fixture
def watched(settings: Settings, monitoring: Monitoring) -> Clients:
    """Clients of the local cloud, and of this test's Monitoring."""
    found = Clients.connect(replace(settings, monitoring_endpoint=monitoring.address))
    objects.ensure_bucket(found, found.settings.bucket_name)
    return found


def manifest_of(name: str, count: int, *, age: timedelta = timedelta(hours=1)) -> Manifest:
    """A sweep's manifest."""
    return Manifest(
        sweep=name,
        created=datetime.now(UTC) - age,
        project=PROJECT,
        zone="europe-west1-b",
        template="t",
        dispatch=Dispatch.SSH,
        launcher={},
        experiments=tuple(
            Experiment(id=f"{name}-{n:04d}", command="true") for n in range(1, count + 1)
        ),
        alert_each=True,
    )


def put(clients: Clients, manifest: Manifest, **states: str) -> None:
    """Write manifest and records, these as their runners left them."""
    where = clients.settings.bucket_name
    bucket.create_manifest(clients, where, manifest)
    for number, state in enumerate(states.values(), start=1):
        final = state in {"finished", "failed"}
        kind = {"finished": "ok", "failed": "error"}.get(state)
        experiment = f"{manifest.sweep}-{number:04d}"
        said = timestamp(datetime.now(UTC) - timedelta(minutes=10))
        content = {
            "schema": 1,
            "sweep": manifest.sweep,
            "experiment": experiment,
            "attempt": 1,
            "state": state,
            "started": timestamp(manifest.created),
            "updated": said,
            "ended": said if final else None,
            "progress": {"mean_reward": -float(number)},
            "exit": {"code": 0, "signal": None, "kind": kind, "hint": None} if final else None,
            "a newer member": "x" * 100,
        }
        bucket.replace_record(clients, where, manifest.sweep, experiment, content, generation=0)


def marker(clients: Clients, name: str) -> dict[str, Any]:
    """The marker of the sweep's end."""
    where = clients.settings.bucket_name
    content, _ = objects.read_object(clients, where, f"{name}/finished.json", resource="marker")
    found: dict[str, Any] = json.loads(content)
    return found


# ------------------------------------------------------------------------- who is lost


def member(action: str, status: str = "") -> Member:
    """A member of a group."""
    return Member(name="quick-0001", action=action, status=status)


@pytest.mark.parametrize(
    ("found", "gone"),
    [
        (None, True),
        (member("NONE", "RUNNING"), False),
        (member("NONE", "TERMINATED"), True),
        (member("DELETING", "STOPPING"), True),
        (member("DELETING", "RUNNING"), False),
        (member("CREATING"), False),
        (member("RECREATING", "TERMINATED"), False),
        (member("VERIFYING", "STOPPED"), False),
    ],
)
def test_gone_is_what_neither_runs_nor_comes_back(found: Member | None, *, gone: bool) -> None:
    """A member that the group makes again is not lost, however long it takes."""
    assert is_gone(found) is gone


@pytest.mark.parametrize(
    ("silent", "manifest_age", "others", "lost"),
    [
        (4.9, 60, False, False),
        (5.1, 60, False, True),
        (None, 14, True, False),
        (None, 16, True, True),
        (None, 600, False, False),
    ],
)
def test_it_takes_silence(
    silent: float | None, manifest_age: float, *, others: bool, lost: bool
) -> None:
    """Five minutes; fifteen without a record, and never when the launch did not come so far."""
    records = {}
    if silent is not None:
        stored = NOW - timedelta(minutes=silent)
        records["quick-0001"] = Record(
            experiment="quick-0001", attempt=1, state="running", stored=stored
        )
    if others:
        records["quick-0002"] = Record(experiment="quick-0002", attempt=1, state="finished")
    made = NOW - timedelta(minutes=manifest_age)
    found = find_lost(manifest_of("quick", 1 + others), {}, records, made=made, now=NOW)

    assert [one.id for one in found] == (["quick-0001"] if lost else [])


def test_the_buckets_clock_is_asked_once(watched: Clients) -> None:
    """Then it goes on by itself; the manifest's age is by the same clock."""
    manifest = manifest_of("clock", 1)
    put(watched, manifest)
    clock = BucketClock(watched, watched.settings.bucket_name, "clock")

    first = clock.now()
    assert abs(first - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.now() > first
    assert abs(first - clock.made) < timedelta(seconds=5)


# ------------------------------------------------------------------------- on a cloud


@pytest.mark.slow
def test_a_watch_marks_and_signals_what_died(watched: Clients, monitoring: Monitoring) -> None:
    """One finished, one silent with its VM gone, one that never said a word."""
    put(watched, manifest_of("died", 2), first="finished", second="running")
    notes: list[str] = []

    seen = list(
        sweeps.watch("died", watched, interval=0.05, lost_after=SOON, on_note=notes.append)
    )[-1]

    assert [row.status for row in seen.rows] == [
        ExperimentStatus.FINISHED,
        ExperimentStatus.LOST,
    ]
    assert "its VM is gone, no word since" in seen.rows[1].reason
    record = seen.rows[1].record
    assert record is not None
    assert record.is_final
    assert record.raw["a newer member"] == "x" * 100
    assert record.ended is not None
    assert datetime.now(UTC) - record.ended > timedelta(minutes=9), "it ended with its last word"
    (ended,) = monitoring.labels(EXPERIMENT_FINISHED, "died")
    assert (ended["experiment"], ended["status"], ended["kind"]) == ("died-0002", "lost", "lost")
    assert (ended["notify"], ended["duration"], ended["mean_reward"]) == (
        "each",
        "50 min",
        "mean reward -2.00",
    )
    (swept,) = monitoring.labels(SWEEP_FINISHED, "died")
    assert (swept["status"], swept["failed"], swept["best_reward"]) == (
        "failed",
        "1",
        "best mean reward -1.00",
    )
    assert marker(watched, "died")["written"] is True
    assert [note for note in notes if "died-0002: lost" in note]


def test_who_speaks_meanwhile_lives(watched: Clients) -> None:
    """The record was replaced after the listing: it is left alone."""
    manifest = manifest_of("alive", 1)
    put(watched, manifest, first="running")
    where = watched.settings.bucket_name
    records = bucket.list_records(watched, where, "alive")
    found = records["alive-0001"]
    bucket.replace_record(
        watched, where, "alive", "alive-0001", {**found.raw}, generation=found.generation
    )

    assert not finishing.mark_lost(
        watched, where, manifest, {}, records, lost_after=timedelta(seconds=-1)
    )
    assert bucket.list_records(watched, where, "alive")["alive-0001"].state == "running"


def test_the_end_of_a_sweep_is_signalled_once_by_many(
    watched: Clients, monitoring: Monitoring
) -> None:
    """Eight watches, and others after them; all runners died right after their records."""
    put(watched, manifest_of("once", 2), first="finished", second="finished")

    def look(_number: int) -> bool:
        return list(sweeps.watch("once", watched, interval=0.05))[-1].is_good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(8)))
    assert look(9)

    (swept,) = monitoring.labels(SWEEP_FINISHED, "once")
    assert swept == {
        "sweep": "once",
        "status": "finished",
        "experiments": "2",
        "failed": "0",
        "duration": "50 min",
        "best_reward": "best mean reward -1.00",
    }
    assert not monitoring.labels(EXPERIMENT_FINISHED, "once"), "their runners have done that"


def test_a_cancelled_sweep_is_nobodys_news(watched: Clients, monitoring: Monitoring) -> None:
    """Neither at once nor when somebody watches it later."""
    put(watched, manifest_of("called-off", 2), first="finished", second="running")

    sweeps.cancel("called-off", watched)
    list(sweeps.watch("called-off", watched, interval=0.05, lost_after=SOON))

    assert marker(watched, "called-off")["status"] == "cancelled"
    assert not monitoring.points


class Later(BucketClock):
    """The bucket's clock, three minutes on."""

    def now(self) -> datetime:
        """Three minutes after now."""
        return super().now() + timedelta(minutes=3)


def test_a_signal_that_nobody_wrote_is_made_up_for(
    watched: Clients, monitoring: Monitoring
) -> None:
    """The marker says that it is not written, and why; after two minutes another one may."""
    manifest = manifest_of("repeat", 1)
    put(watched, manifest, first="finished")
    where = watched.settings.bucket_name
    records = bucket.list_records(watched, where, "repeat")
    monitoring.answers = [grpc.StatusCode.PERMISSION_DENIED]

    with pytest.raises(PermissionDenied):
        signal_sweep(watched, where, manifest, records)
    assert marker(watched, "repeat")["written"] is False
    assert "as the test says" in marker(watched, "repeat")["why"]
    assert not signal_sweep(watched, where, manifest, records), "it is too early"
    assert signal_sweep(watched, where, manifest, records, clock=Later(watched, where, "repeat"))

    assert marker(watched, "repeat")["written"] is True
    assert signal_sweep(watched, where, manifest, records)
    assert len(monitoring.labels(SWEEP_FINISHED, "repeat")) == 1


def test_a_marker_of_an_earlier_sweep_does_not_count(
    watched: Clients, monitoring: Monitoring
) -> None:
    """A runner that ended while its sweep was deleted may leave one."""
    manifest = manifest_of("again", 1)
    put(watched, manifest, first="finished")
    where = watched.settings.bucket_name
    old = {"schema": 1, "created": "2025-01-01T00:00:00Z", "written": True}
    objects.write_object(
        watched, where, "again/finished.json", json.dumps(old), {}, generation=0, resource="old"
    )

    assert signal_sweep(watched, where, manifest, bucket.list_records(watched, where, "again"))
    assert len(monitoring.labels(SWEEP_FINISHED, "again")) == 1


@pytest.mark.slow
def test_a_command_that_was_not_handed_over_is_signalled(
    monitoring: Monitoring, tmp_path: Path
) -> None:
    """The launcher has written its final record, and so its end, and the sweep's."""
    fault = {
        "method": "compute.instances.getGuestAttributes",
        "count": 1000,
        "status": 403,
        "reason": "forbidden",
        "message": "You shall not read.",
    }
    with inert_cloud(tmp_path) as about:
        settings = settings_of(about, tmp_path / "key")
        clients = Clients.connect(replace(settings, monitoring_endpoint=monitoring.address))
        spec = templates.TemplateSpec(name="sinergym-template", image="docker.io/s/trainer:1")
        templates.create_template(clients, spec)
        request = urllib.request.Request(
            f"{settings.endpoint}/emulator/faults", data=json.dumps(fault).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.status == 200
        sweep = Sweep.of_commands("unheard", ["true"], dispatch=Dispatch.SSH)
        list(launching.launch(launching.plan(sweep, clients), clients, patience=1.0))

    (ended,) = monitoring.labels(EXPERIMENT_FINISHED, "unheard")
    assert (ended["status"], ended["kind"], ended["notify"]) == ("failed", "dispatch", "each")
    (swept,) = monitoring.labels(SWEEP_FINISHED, "unheard")
    assert swept["failed"] == "1"


def test_many_experiments_are_not_announced_one_by_one() -> None:
    """Up to twenty are; and as one asks for it."""
    commands = ["true"] * 21
    assert Sweep.of_commands("few", commands[1:]).announces_each
    assert not Sweep.of_commands("many", commands).announces_each
    assert replace(Sweep.of_commands("many", commands), alert_each=True).announces_each
    assert not replace(Sweep.of_commands("few", commands[1:]), alert_each=False).announces_each


# ------------------------------------------------------------------------- Monitoring itself


def test_points_go_two_hundred_at_a_time(watched: Clients, monitoring: Monitoring) -> None:
    """More is more than one call takes."""
    series = [{"sweep": "large", "experiment": f"large-{n:04d}"} for n in range(450)]
    write_points(watched, EXPERIMENT_FINISHED, series)

    assert monitoring.tries == 3
    assert monitoring.labels(EXPERIMENT_FINISHED, "large") == series


@pytest.mark.slow
def test_monitoring_is_waited_for_and_given_up(watched: Clients, monitoring: Monitoring) -> None:
    """What passes is tried again for a while; another try that is refused was too much."""
    unavailable, invalid = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT
    points = [{"sweep": "s"}]
    monitoring.answers = [unavailable]
    write_points(watched, SWEEP_FINISHED, points)
    assert len(monitoring.points) == 1
    monitoring.answers = [unavailable, invalid]
    write_points(watched, SWEEP_FINISHED, points)
    monitoring.answers = [invalid]
    with pytest.raises(InvalidRequest):
        write_points(watched, SWEEP_FINISHED, points)
    monitoring.answers = [unavailable] * 99
    with pytest.raises(Unavailable):
        write_points(watched, SWEEP_FINISHED, points, patience=0.2)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Unavailable):
        write_points(watched, SWEEP_FINISHED, points, stop=stop)


def test_a_cloud_without_monitoring_is_watched_all_the_same(clients: Clients) -> None:
    """What is lost is marked; nothing is signalled."""
    without = Clients.connect(replace(clients.settings, monitoring_endpoint=None))
    objects.ensure_bucket(without, without.settings.bucket_name)
    put(without, manifest_of("silent", 1), first="running")
    notes: list[str] = []

    seen = list(
        sweeps.watch("silent", without, interval=0.05, lost_after=SOON, on_note=notes.append)
    )[-1]

    assert seen.rows[0].record is not None
    assert seen.rows[0].record.is_final
    assert notes == ["silent-0001: lost, its VM is gone and it has said nothing since"]


def test_a_bucket_that_refuses_ends_no_watch(answers: Answers) -> None:
    """It is said once."""
    manifest = manifest_of("quick", 1)
    notes: list[str] = []
    answers.say(answers.error(403, "forbidden", "no storage.objects.get for you"))
    announcer = finishing.Announcer(answers.clients, "bucket", manifest, say=notes.append)
    record = Record(experiment="quick-0001", attempt=1, state="running")
    seen = sweeps.snapshot(manifest, "bucket", None, {"quick-0001": record}, now=NOW)

    assert announcer.awaits_lost(seen)
    announcer.look(seen)
    eventually(lambda: not announcer.awaits_lost(seen), "the refusal")
    announcer.look(seen)
    announcer.close()
    assert len(notes) == 1
    assert "an end could not be signalled" in notes[0]
