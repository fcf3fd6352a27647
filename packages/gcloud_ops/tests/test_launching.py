"""Launches on a local cloud of their own: full zones, and commands that can't be handed over."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcloud_ops import bucket, groups, launching, objects, sweeps, templates
from gcloud_ops.cli import live
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import NotFound, PermissionDenied
from gcloud_ops.launching import (
    CommandSent,
    DispatchFailed,
    GroupGone,
    Launched,
    LaunchEvent,
    Stalled,
)
from gcloud_ops.model import ExperimentStatus, Sweep

from .conftest import Answers, ask, eventually, inert_cloud, settings_of


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Clients]:
    """A local cloud with the place for one instance."""
    options = ("--capacity", "1", "--pull-seconds", "0.1")
    with inert_cloud(tmp_path, *options) as about:
        clients = Clients.connect(settings_of(about, tmp_path / "key"))
        spec = templates.TemplateSpec(name="sinergym-template", image="docker.io/s/trainer:1")
        templates.create_template(clients, spec)
        yield clients


def over_ssh(name: str, commands: list[str]) -> Sweep:
    """A sweep whose commands the launcher hands over."""
    return Sweep.of_commands(name, commands, dispatch=Dispatch.SSH)


def launch(clients: Clients, name: str, count: int, *, patience: float) -> list[LaunchEvent]:
    """All events of a launch."""
    sweep = over_ssh(name, [f"true {number}" for number in range(count)])
    return list(launching.launch(launching.plan(sweep, clients), clients, patience=patience))


@pytest.mark.slow
def test_an_experiment_that_trains_is_no_stall(full: Clients) -> None:
    """With 2 s of patience, the second gets its command when the first goes after 5 s."""

    def end_the_first() -> None:
        eventually(lambda: groups.list_members(full, "pair"), "the group's members")
        time.sleep(5)  # longer than the patience: that is what is tested
        (first,) = (m.name for m in groups.list_members(full, "pair") or () if m.is_up)
        groups.delete_instances(full, "pair", [first])

    ending = threading.Thread(target=end_the_first)
    ending.start()
    events = launch(full, "pair", 2, patience=2.0)
    ending.join()

    sent = {event.experiment for event in events if isinstance(event, CommandSent)}
    assert sent == {"pair-0001", "pair-0002"}
    assert events[-1] == Launched(sent=2, failed=0, waiting=0)
    assert not [event for event in events if isinstance(event, Stalled)]


@pytest.mark.slow
def test_a_sweep_that_is_cancelled_meanwhile(full: Clients) -> None:
    """The launch says that the group is gone, and ends, whatever its patience."""
    planned = launching.plan(over_ssh("gone", ["true 1", "true 2"]), full)
    events: list[LaunchEvent] = []
    for event in launching.launch(planned, full, patience=600):
        events.append(event)
        if isinstance(event, CommandSent):
            sweeps.cancel("gone", full)

    assert GroupGone(experiments=("gone-0002",)) in events
    assert events[-1] == Launched(sent=1, failed=0, waiting=1)
    assert not [event for event in events if isinstance(event, Stalled)]


@pytest.mark.slow
def test_a_cloud_that_does_not_answer_is_waited_for(full: Clients) -> None:
    """More refusals in a row than one look retries do not end a launch."""
    trouble = {"method": "compute.instanceGroupManagers.listManagedInstances", "count": 7}
    ask(full, "faults", {**trouble, "status": 503, "reason": "backendError", "message": "later"})

    events = launch(full, "patient", 1, patience=120)

    assert events[-1] == Launched(sent=1, failed=0, waiting=0)
    assert launching.Waiting(reasons={launching.FOR_CLOUD: 1}) in events


@pytest.mark.slow
def test_a_full_zone_is_a_stall(full: Clients) -> None:
    """Where nobody trains and nothing moves, the patience counts; the sweep stays as it is."""
    ask(full, "capacity", {"capacity": 0})

    events = launch(full, "none", 2, patience=1.0)

    (stalled,) = (event for event in events if isinstance(event, Stalled))
    assert stalled.experiments == ("none-0001", "none-0002")
    assert stalled.seconds >= 1.0
    assert events[-1] == Launched(sent=0, failed=0, waiting=2)
    assert groups.get_group(full, "none") is not None


@pytest.mark.slow
def test_a_command_that_cannot_be_handed_over(full: Clients) -> None:
    """Its instance is removed, with the group that is empty then; record and error say why."""
    fault = {
        "method": "compute.instances.getGuestAttributes",
        "count": 1000,
        "status": 403,
        "reason": "forbidden",
        "message": "You shall not read.",
    }
    ask(full, "faults", fault)

    events = launch(full, "mute", 1, patience=1.0)

    (failure,) = (event for event in events if isinstance(event, DispatchFailed))
    assert isinstance(failure.error, PermissionDenied)
    assert str(failure.error).endswith("its instance is removed)")
    assert events[-1] == Launched(sent=0, failed=1, waiting=0)
    eventually(lambda: groups.get_group(full, "mute") is None, "the end of the empty group")
    (row,) = sweeps.status("mute", full).rows
    assert row.status is ExperimentStatus.FAILED
    assert row.record is not None
    assert row.record.exit is not None
    assert row.record.exit.kind == "dispatch"
    assert "could not hand over the command: " in row.reason
    assert "You shall not read" in row.reason


def test_a_running_command_is_left_alone(clients: Clients, template: str) -> None:
    """The launcher's last word goes over no record of a runner that has begun, or ended."""
    where, sweep = clients.settings.bucket_name, Sweep.of_commands("busy", ["a", "b", "c"])
    objects.ensure_bucket(clients, where)
    states = ("waiting", "running", "finished")
    for experiment, state in zip(sweep.experiments, states, strict=True):
        content = {"schema": 1, "experiment": experiment.id, "attempt": 1, "state": state}
        bucket.replace_record(clients, where, "busy", experiment.id, content, generation=0)
    records = bucket.list_records(clients, where, "busy")

    ended = [
        bucket.end_record(
            clients,
            where,
            "busy",
            experiment,
            found,
            state="failed",
            kind="dispatch",
            hint="no",
            only_waiting=True,
        )
        for experiment in sweep.experiments
        # As it is known, and as a launcher that has not seen the record yet.
        for found in (None, records[experiment.id])
    ]

    assert ended == [True, False, False, False, False, False]
    now = bucket.list_records(clients, where, "busy")
    assert [now[e.id].state for e in sweep.experiments] == ["failed", "running", "finished"]


@pytest.mark.slow
def test_a_deletion_that_was_interrupted_is_repeated(full: Clients) -> None:
    """The manifest goes last: as long as anything is there, the sweep is found."""
    ask(full, "capacity", {"capacity": 0})
    launch(full, "half", 1, patience=0.1)
    sweeps.cancel("half", full)
    where = full.settings.bucket_name
    refused = {"method": "storage.objects.delete", "count": 1, "status": 403}
    ask(full, "faults", {**refused, "reason": "forbidden", "message": "no"})

    with pytest.raises(PermissionDenied):
        sweeps.delete("half", full)

    assert sweeps.status("half", full).name == "half"
    assert sweeps.delete("half", full) >= 2
    assert objects.list_objects(full, where, "half/") == ()
    with pytest.raises(NotFound):
        sweeps.status("half", full)


def test_a_group_that_somebody_else_is_deleting(answers: Answers) -> None:
    """It is waited for until it is gone, and that is success."""
    not_ready = answers.error(400, "resourceNotReady", "The resource is not ready")
    answers.say(*[not_ready] * 6, answers.error(404, "notFound"))

    assert groups.delete_group(answers.clients, "quick")
    assert not groups.delete_group(answers.clients, "quick"), "gone before"


def test_waiting_is_told_in_english(capsys: pytest.CaptureFixture[str]) -> None:
    """One or many, of what we know and of what Compute Engine says."""
    reasons = {
        launching.FOR_CONTAINER: 2,
        launching.FOR_INSTANCE: 1,
        "ZONE_RESOURCE_POOL_EXHAUSTED": 3,
        "QUOTA_EXCEEDED": 1,
    }

    with live.display(7) as shown:
        shown.happened(launching.Waiting(reasons=reasons))

    assert capsys.readouterr().err == (
        "2 wait for their containers, 1 waits for its instance, "
        "3 wait for capacity in the zone (ZONE_RESOURCE_POOL_EXHAUSTED), "
        "1 waits for quota (QUOTA_EXCEEDED)\n"
    )
