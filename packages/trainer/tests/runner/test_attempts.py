"""One attempt after another: retries, limits, reruns, and what records remember of them."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import eventually

type NewVm = Callable[..., Any]


def put_manifest(cloud: Any, command: str, **members: Any) -> None:
    """The sweep's manifest, with one experiment that is dispatched at boot."""
    experiments = [{"id": "quick-0001", "command": command}]
    content = {"schema": 1, "dispatch": "boot", "experiments": experiments, **members}
    cloud.put("quick/sweep.json", json.dumps(content).encode())


RESTARTS = {"sinergym-restart": "75"}


@pytest.mark.slow
def test_a_failure_is_tried_again(cloud: Any, new_vm: NewVm) -> None:
    """The runner asks for a new container each time; after the last it is final."""
    retry = {"times": 1, "kinds": ["error"], "wait": 0.3}
    put_manifest(cloud, "echo try $SINERGYM_ATTEMPT; exit 5", retry=retry)
    first = new_vm(attributes=RESTARTS)
    assert first.ends() == 75
    record = cloud.record()
    assert (record["state"], record["exit"]["kind"], record["attempt"]) == ("retrying", "error", 1)
    assert b"tried again in 0.3 s" in first.output
    assert not cloud.calls

    second = new_vm(attributes=RESTARTS)
    assert second.ends() == 5
    record = cloud.record()
    assert (record["state"], record["attempt"]) == ("failed", 2)
    (before,) = record["history"]
    assert (before["attempt"], before["kind"], before["instance_id"]) == (1, "error", "42")
    assert before["started"] <= before["ended"]
    assert record["spent"] >= 0
    assert b"try 1" in cloud.log(1)
    assert b"try 2" in cloud.log(2)
    assert cloud.calls


@pytest.mark.slow
def test_no_retry_where_nothing_starts_a_container_again(cloud: Any, new_vm: NewVm) -> None:
    """A template of before: the end is final, and nothing waits for ever."""
    put_manifest(cloud, "exit 5", retry={"times": 3, "kinds": ["error"], "wait": 1})
    vm = new_vm()
    assert vm.ends() == 5
    assert cloud.record()["state"] == "failed"
    assert b"starts no container again" in vm.output


@pytest.mark.slow
def test_a_cancel_ends_the_wait_for_a_retry(cloud: Any, new_vm: NewVm) -> None:
    """And so does SIGTERM: the next VM tries it again."""
    put_manifest(cloud, "exit 5", retry={"times": 3, "kinds": ["error"], "wait": 600})
    stopped = new_vm(attributes=RESTARTS)
    stopped.says("tried again in 600 s")
    stopped.stop()
    assert stopped.ends() == 143
    assert cloud.record()["state"] == "retrying"

    vm = new_vm(attributes=RESTARTS)
    vm.says("tried again in 1200 s")
    found = cloud.record()
    assert [one["kind"] for one in found["history"]] == ["error"]
    cancelled = {**found, "state": "cancelled"}
    cloud.put("quick/records/quick-0001.json", json.dumps(cancelled).encode())
    assert vm.ends() == 0
    assert b"the experiment was cancelled" in vm.output
    assert cloud.record()["state"] == "cancelled"


@pytest.mark.slow
def test_the_limit_ends_the_command_in_time(cloud: Any, new_vm: NewVm) -> None:
    """It can save; its end is final, and says what the reason was."""
    command = 'trap "echo saved > $SINERGYM_OUTPUT/checkpoint; exit 143" TERM; sleep 60 & wait'
    put_manifest(cloud, command, limits={"seconds": 3})
    vm = new_vm()
    assert vm.ends() == 143
    record = cloud.record()
    assert (record["state"], record["exit"]["kind"]) == ("failed", "out_of_time")
    assert "3 s" in record["exit"]["hint"]
    assert cloud.objects["quick/quick-0001/output/checkpoint"]["content"] == b"saved\n"
    assert cloud.calls, "its VM goes"


@pytest.mark.slow
def test_a_limit_that_is_used_up(cloud: Any, new_vm: NewVm) -> None:
    """A VM that Compute Engine ended and made again runs nothing more."""
    put_manifest(cloud, "echo never", limits={"seconds": 100})
    content = {
        "schema": 1,
        "sweep": "quick",
        "experiment": "quick-0001",
        "attempt": 2,
        "state": "running",
        "spent": 60,
        "started": "2026-11-22T10:00:00Z",
        "updated": "2026-11-22T10:00:30Z",
        "history": [{"attempt": 1, "kind": "preempted"}],
    }
    cloud.put("quick/records/quick-0001.json", json.dumps(content).encode())
    vm = new_vm()
    assert vm.ends() == 0
    record = cloud.record()
    assert (record["state"], record["exit"]["kind"]) == ("failed", "out_of_time")
    assert record["spent"] == 90
    assert [one["kind"] for one in record["history"]] == ["preempted", "unknown"]
    assert b"never" not in vm.output


@pytest.mark.slow
def test_a_rerun_begins_anew(cloud: Any, new_vm: NewVm) -> None:
    """Its time counts from nothing, and what failed before does not count against it."""
    retry = {"times": 1, "kinds": ["error"], "wait": 0.1}
    put_manifest(cloud, "exit 5", retry=retry)
    content = {
        "schema": 1,
        "sweep": "quick",
        "experiment": "quick-0001",
        "attempt": 2,
        "state": "again",
        "spent": 0.0,
        "history": [
            {"attempt": 1, "kind": "error"},
            {"attempt": 2, "kind": "error", "rerun": True},
        ],
        "exit": None,
        "started": None,
    }
    cloud.put("quick/records/quick-0001.json", json.dumps(content).encode())
    vm = new_vm(attributes=RESTARTS)
    assert vm.ends() == 75
    record = cloud.record()
    assert (record["state"], record["attempt"], record["spent"]) == ("retrying", 3, 0.0)
    assert len(record["history"]) == 2


@pytest.mark.slow
def test_an_attempt_that_follows_another_needs_no_launcher(cloud: Any, new_vm: NewVm) -> None:
    """Its VM was made anew: it runs what the record says, also in a sweep over SSH."""
    content = {"schema": 1, "dispatch": "ssh", "experiments": []}
    cloud.put("quick/sweep.json", json.dumps(content).encode())
    first = new_vm()
    first.start("test $SINERGYM_ATTEMPT = 2 && echo second || sleep 5")
    eventually(lambda: cloud.record().get("state") == "running", "a record of it", first)
    first.process.kill()
    first.ends()

    second = new_vm(instance_id="43")
    assert second.ends() == 0
    record = cloud.record()
    assert (record["state"], record["attempt"]) == ("finished", 2)
    assert record["history"][0]["kind"] == "unknown"
    assert b"second" in cloud.log(2)


@pytest.mark.slow
def test_the_group_stays_for_a_rerun(cloud: Any, new_vm: NewVm) -> None:
    """The last one does not remove the group that somebody is about to use."""
    cloud.group_size = 1
    again = {"schema": 1, "experiment": "quick-0002", "attempt": 1, "state": "again"}
    text = json.dumps(again)
    cloud.put("quick/records/quick-0002.json", text.encode(), {"record": text})
    vm = new_vm()
    vm.start("true")
    assert vm.ends() == 0
    assert b"the group stays: an experiment is to run again" in vm.output
    assert not any(method == "DELETE" for method, *_ in cloud.calls)


@pytest.mark.slow
def test_a_rerun_that_is_asked_for_while_the_end_is_signalled(cloud: Any, new_vm: NewVm) -> None:
    """It stays: a runner that still tries to reach Monitoring does not write over it."""
    put_manifest(cloud, "exit 5")
    away = {"MONITORING_EMULATOR_HOST": "127.0.0.1:9", "SINERGYM_SIGNAL_SECONDS": "3"}
    vm = new_vm(environment=away)
    eventually(lambda: cloud.record().get("state") == "failed", "its end", vm)
    ended = {"attempt": 1, "kind": "error", "rerun": True}
    again = {**cloud.record(), "state": "again", "exit": None, "started": None, "history": [ended]}
    cloud.put("quick/records/quick-0001.json", json.dumps({**again, "ended": None}).encode())
    assert vm.ends(40) == 5
    assert cloud.record()["state"] == "again"
    assert cloud.calls, "its VM goes: the next one takes its place"


@pytest.mark.slow
def test_the_limit_counts_from_the_claim(cloud: Any, new_vm: NewVm) -> None:
    """Also where the command comes late, and the VM has run for a while."""
    content = {"schema": 1, "dispatch": "ssh", "experiments": [], "limits": {"seconds": 6}}
    cloud.put("quick/sweep.json", json.dumps(content).encode())
    vm = new_vm()
    vm.says("attempt 1")
    begin = time.monotonic()
    eventually(lambda: time.monotonic() > begin + 2.5, "a late launcher", vm)
    vm.start("sleep 60")
    vm.says("its time is used up")
    assert time.monotonic() - begin < 4.5
    assert vm.ends() == 143
    assert cloud.record()["exit"]["kind"] == "out_of_time"


@pytest.mark.slow
def test_an_attempt_says_how_long_it_took(cloud: Any, new_vm: NewVm) -> None:
    """By a clock that nobody sets."""
    vm = new_vm()
    vm.start("sleep 1")
    assert vm.ends() == 0
    assert 1.0 <= cloud.record()["elapsed"] < 20
