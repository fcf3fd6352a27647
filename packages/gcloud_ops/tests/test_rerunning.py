"""Experiments that run again, and a part of a sweep that is cancelled: what records then say."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops import bucket, groups, launching, objects, rerunning, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Record
from gcloud_ops.errors import GcloudOpsError, InvalidRequest, NotFound, PermissionDenied
from gcloud_ops.launching import GroupMade, Launched, LaunchEvent, NothingToDo, Reopened
from gcloud_ops.model import ExperimentStatus, Sweep

from .conftest import eventually, inert_cloud, settings_of


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A local cloud of this file's own."""
    folder = tmp_path_factory.mktemp("rerunning")
    with inert_cloud(folder) as about:
        clients = Clients.connect(settings_of(about, folder / "key"))
        spec = templates.TemplateSpec(name="sinergym-template", image="docker.io/s/trainer:1")
        templates.create_template(clients, spec)
        yield clients


def launch(clients: Clients, name: str, count: int) -> None:
    """A sweep whose instances are up; nothing runs in them."""
    sweep = Sweep.of_commands(name, [f"train {number}" for number in range(count)])
    for _ in launching.launch(launching.plan(sweep, clients), clients, patience=20):
        pass
    eventually(lambda: all(m.is_up for m in groups.list_members(clients, name) or ()), name)


def say(clients: Clients, sweep: str, number: int, state: str, **members: Any) -> Record:
    """Write an experiment's record, as its runner would; the instance is the one that is there."""
    name, where = f"{sweep}-{number:04d}", clients.settings.bucket_name
    ids = {member.name: member.id for member in groups.list_members(clients, sweep) or ()}
    found = bucket.list_records(clients, where, sweep).get(name)
    content = {
        "schema": 1,
        "experiment": name,
        "attempt": 1,
        "instance_id": ids.get(name, "7"),
        "state": state,
        **members,
    }
    generation = found.generation if found else 0
    bucket.replace_record(clients, where, sweep, name, content, generation=generation)
    return bucket.list_records(clients, where, sweep)[name]


def end(clients: Clients, sweep: str, number: int, state: str, kind: str) -> Record:
    """Have an experiment end, and its instance go."""
    said = say(
        clients,
        sweep,
        number,
        state,
        exit={"code": 1, "signal": None, "kind": kind, "hint": "so it was"},
        spent=120.5,
        started="2026-11-22T10:00:00Z",
        ended="2026-11-22T11:00:00Z",
        outputs={"files": 3, "bytes": 9},
        another_versions="word",
    )
    groups.delete_instances(clients, sweep, [said.experiment])
    return said


def rerun(
    clients: Clients,
    name: str,
    *experiments: str,
    failed: bool = False,
    missing: bool = False,
) -> list[LaunchEvent]:
    """All events of a rerun."""
    return list(
        rerunning.rerun(
            name,
            clients,
            experiments=experiments,
            failed=failed,
            missing=missing,
            patience=20,
        )
    )


def content_of(clients: Clients, sweep: str, number: int) -> Mapping[str, Any]:
    """A record as it is in the bucket."""
    name = f"{sweep}/records/{sweep}-{number:04d}.json"
    where = clients.settings.bucket_name
    read: Mapping[str, Any] = json.loads(objects.read_object(clients, where, name, resource="")[0])
    return read


@pytest.mark.slow
def test_what_failed_runs_again_and_what_runs_is_left_alone(cloud: Clients) -> None:
    """The records ask for it, the marker is gone, and each has an instance again."""
    launch(cloud, "mixed", 5)
    where = cloud.settings.bucket_name
    end(cloud, "mixed", 1, "finished", "ok")
    end(cloud, "mixed", 2, "failed", "oom")
    end(cloud, "mixed", 3, "cancelled", "cancelled")
    running = say(cloud, "mixed", 4, "running", updated="2099-01-01T00:00:00Z")
    end(cloud, "mixed", 5, "failed", "lost")
    marker = "mixed/finished.json"
    objects.write_object(cloud, where, marker, "{}", {}, generation=0, resource="")
    eventually(lambda: len(groups.list_members(cloud, "mixed") or ()) == 1, "four to go")
    healthy = groups.list_members(cloud, "mixed")

    events = rerun(cloud, "mixed", failed=True)

    again = ("mixed-0002", "mixed-0003", "mixed-0005")
    assert Reopened(experiments=again) in events
    assert events[-1] == Launched(sent=3, failed=0, waiting=0, at_boot=True)
    assert objects.holds(cloud, where, marker) is False
    said = content_of(cloud, "mixed", 2)
    assert (said["state"], said["attempt"], said["spent"]) == ("again", 1, 0)
    assert (said["exit"], said["started"], said["ended"]) == (None, None, None)
    assert said["outputs"] == {"files": 3, "bytes": 9}
    assert said["another_versions"] == "word"
    (before,) = said["history"]
    assert before == {
        "attempt": 1,
        "kind": "oom",
        "hint": "so it was",
        "started": "2026-11-22T10:00:00Z",
        "ended": "2026-11-22T11:00:00Z",
        "instance_id": said["instance_id"],
        "rerun": True,
    }
    records = bucket.list_records(cloud, where, "mixed")
    assert records["mixed-0004"].generation == running.generation
    assert records["mixed-0001"].state == "finished"
    members = groups.list_members(cloud, "mixed") or ()
    assert {member.name for member in members} == {"mixed-0004", *again}
    assert set(healthy or ()) <= set(members)
    eventually(lambda: all(m.is_up for m in groups.list_members(cloud, "mixed") or ()), "up")
    seen = {row.id: row for row in sweeps.status("mixed", cloud).rows}
    assert seen["mixed-0002"].status is ExperimentStatus.STARTING
    assert "attempt 2" in seen["mixed-0002"].reason
    # Once more, as after a kill in between: nothing more is asked, and nothing is made.
    assert rerun(cloud, "mixed", "2") == [Launched(sent=1, failed=0, waiting=0, at_boot=True)]
    assert len(content_of(cloud, "mixed", 2)["history"]) == 1
    sweeps.cancel("mixed", cloud)


def test_what_cannot_be_chosen(cloud: Clients) -> None:
    """What runs is refused by its name; what there is none of changes nothing."""
    launch(cloud, "choosy", 2)
    say(cloud, "choosy", 1, "running", updated="2099-01-01T00:00:00Z")
    before = bucket.list_records(cloud, cloud.settings.bucket_name, "choosy")

    with pytest.raises(InvalidRequest, match="choosy-0001: is running"):
        rerun(cloud, "choosy", "1")
    with pytest.raises(InvalidRequest, match="choosy-0002: is starting"):
        rerun(cloud, "choosy", "0002")
    with pytest.raises(NotFound, match="no experiment '9'"):
        rerun(cloud, "choosy", "9")
    with pytest.raises(InvalidRequest, match="which experiments"):
        rerun(cloud, "choosy")
    (nothing,) = rerun(cloud, "choosy", failed=True, missing=True)

    assert isinstance(nothing, NothingToDo)
    assert bucket.list_records(cloud, cloud.settings.bucket_name, "choosy") == before
    sweeps.cancel("choosy", cloud)


@pytest.mark.slow
def test_what_never_began(cloud: Clients) -> None:
    """`missing` needs no record; who has one is another matter."""
    launch(cloud, "lacking", 3)
    end(cloud, "lacking", 1, "failed", "error")
    groups.delete_instances(cloud, "lacking", ["lacking-0002"])
    eventually(lambda: len(groups.list_members(cloud, "lacking") or ()) == 1, "two to go")

    events = rerun(cloud, "lacking", missing=True)

    assert events[-1] == Launched(sent=1, failed=0, waiting=0, at_boot=True)
    members = {member.name for member in groups.list_members(cloud, "lacking") or ()}
    assert members == {"lacking-0002", "lacking-0003"}
    assert content_of(cloud, "lacking", 1)["state"] == "failed"
    sweeps.cancel("lacking", cloud)


@pytest.mark.slow
def test_two_laptops_ask_at_once(cloud: Clients) -> None:
    """One of them reopens each record; there is one attempt more, and one instance."""
    launch(cloud, "rivals", 3)
    for number in (1, 2, 3):
        end(cloud, "rivals", number, "failed", "error")
    told: list[list[LaunchEvent]] = []
    both = [
        threading.Thread(target=lambda: told.append(rerun(cloud, "rivals", failed=True)))
        for _ in range(3)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(30)

    assert len(told) == 3, "all came to their ends"
    for number in (1, 2, 3):
        said = content_of(cloud, "rivals", number)
        assert (said["state"], said["attempt"], len(said["history"])) == ("again", 1, 1)
    assert len(groups.list_members(cloud, "rivals") or ()) == 3
    sweeps.cancel("rivals", cloud)


def test_a_record_that_went_on_meanwhile_is_left_alone(cloud: Clients) -> None:
    """Who has an old view undoes nothing: neither another's rerun nor what came of it."""
    launch(cloud, "stale", 1)
    where = cloud.settings.bucket_name
    old = end(cloud, "stale", 1, "failed", "error")

    asked = bucket.ask_again(cloud, where, "stale", old)
    twice = bucket.ask_again(cloud, where, "stale", old)
    say(cloud, "stale", 1, "finished", attempt=2)
    late = bucket.ask_again(cloud, where, "stale", old)

    assert asked is not None
    assert twice is not None
    assert (asked.state, asked.generation) == (twice.state, twice.generation)
    assert asked.history[-1].kind == "error"
    assert late is None
    assert content_of(cloud, "stale", 1)["state"] == "finished"
    sweeps.cancel("stale", cloud)


@pytest.mark.slow
def test_the_old_instance_is_waited_for(cloud: Clients) -> None:
    """It has said its last word and removes itself; only then is there a new one."""
    launch(cloud, "slow", 2)
    say(cloud, "slow", 1, "failed")
    (old, other) = groups.list_members(cloud, "slow") or ()

    def go() -> None:
        time.sleep(1)  # what its runner still does: signals, say
        groups.delete_instances(cloud, "slow", [old.name])

    going = threading.Thread(target=go)
    going.start()
    events = rerun(cloud, "slow", "1")
    going.join()

    assert events[-1] == Launched(sent=1, failed=0, waiting=0, at_boot=True)
    (new, same) = groups.list_members(cloud, "slow") or ()
    assert new.id != old.id
    assert same.id == other.id
    sweeps.cancel("slow", cloud)


def test_some_are_cancelled_and_the_others_go_on(cloud: Clients) -> None:
    """Records first, then instances; the last ones take the empty group with them."""
    launch(cloud, "partly", 3)
    end(cloud, "partly", 1, "finished", "ok")
    say(cloud, "partly", 2, "running", updated="2099-01-01T00:00:00Z")
    say(cloud, "partly", 3, "running", updated="2099-01-01T00:00:00Z")

    seen = sweeps.cancel("partly", cloud, experiments=["1", "partly-0002"])

    assert [str(row.status) for row in seen.rows] == ["finished", "cancelled", "running"]
    eventually(lambda: len(groups.list_members(cloud, "partly") or ()) == 1, "one to go")
    assert objects.holds(cloud, seen.bucket, "partly/finished.json") is False
    with pytest.raises(NotFound):
        sweeps.cancel("partly", cloud, experiments=["7"])

    sweeps.cancel("partly", cloud, experiments=["2", "3"])

    eventually(lambda: groups.get_group(cloud, "partly") is None, "the end of the empty group")
    rows = sweeps.status("partly", cloud).rows
    assert [str(row.status) for row in rows] == ["finished", "cancelled", "cancelled"]
    events = rerun(cloud, "partly", "3")
    assert any(isinstance(event, GroupMade) for event in events)
    sweeps.cancel("partly", cloud)


@pytest.mark.slow
def test_over_ssh_only_with_our_key(cloud: Clients, tmp_path: Path) -> None:
    """Another's launch would be given up, experiment by experiment: it is not gone on with."""
    sweep = Sweep.of_commands("keyed", ["true"], dispatch=Dispatch.SSH)
    events = launching.launch(launching.plan(sweep, cloud), cloud, patience=20)
    for event in events:
        if isinstance(event, launching.InstancesRequested):
            break
    del events  # as when its process is killed
    stranger = Clients.connect(replace(cloud.settings, ssh_key=tmp_path / "another"))

    with pytest.raises(PermissionDenied, match="another key than ours"):
        list(launching.resume("keyed", stranger))

    assert bucket.list_records(cloud, cloud.settings.bucket_name, "keyed") == {}
    resumed = list(launching.resume("keyed", cloud, patience=20))
    assert resumed[-1] == Launched(sent=1, failed=0, waiting=0)
    sweeps.cancel("keyed", cloud)


def test_nothing_of_it_is_there(cloud: Clients) -> None:
    """A sweep that isn't there is named by all that go on with one."""
    calls = (
        lambda: list(launching.resume("nobody", cloud)),
        lambda: rerun(cloud, "nobody", failed=True),
        lambda: sweeps.cancel("nobody", cloud, experiments=["1"]),
    )
    for call in calls:
        with pytest.raises(GcloudOpsError, match="sweep nobody: there is none of this name"):
            call()
