"""The runner as a process, from the claim of its experiment to the removal of its VM."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

GROUP = "projects/12345/zones/europe-west1-b/instanceGroupManagers/quick"
NewVm = Callable[..., Any]


def removal_of(name: str) -> tuple[str, str, Any]:
    """Return the call that removes a VM, as the contract words it."""
    body = {
        "instances": [f"zones/europe-west1-b/instances/{name}"],
        "skipInstancesOnValidationError": True,
    }
    return ("POST", f"{GROUP}/deleteInstances", body)


def wait_for(look: Callable[[], Any], seconds: float = 20) -> Any:
    """Return what `look` finds as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it has not come")


def test_an_experiment_from_waiting_to_removed(cloud: Any, new_vm: NewVm) -> None:
    """Record, log, outputs and removal of an experiment that goes well."""
    vm = new_vm()
    program = (
        "mkdir -p $SINERGYM_OUTPUT/tensorboard $SINERGYM_OUTPUT/best_model;"
        " printf events > $SINERGYM_OUTPUT/tensorboard/events.1;"
        " printf model > $SINERGYM_OUTPUT/best_model/model.zip;"
        " echo out; echo err >&2; env | grep -i -e ^sinergym_ -e ^gce_ | sort;"
        ' printf %s \'{"episode": 2, "mean_reward": -1.5, "mlflow": {"run_id": "r1"},'
        ' "versions": {"torch": "2.9"}}\' > $SINERGYM_PROGRESS.new;'
        " mv $SINERGYM_PROGRESS.new $SINERGYM_PROGRESS; while [ ! -e go ]; do sleep 0.05; done"
    )
    vm.start(program)
    wait_for(lambda: cloud.record().get("progress"))
    assert cloud.record()["state"] == "running"
    (vm.folder / "go").touch()

    assert vm.ends() == 0
    record = cloud.record()
    assert record["state"] == "finished"
    assert record["exit"] == {"code": 0, "signal": None, "kind": "ok", "hint": None}
    assert (record["schema"], record["sweep"], record["attempt"]) == (1, "quick", 1)
    assert (record["instance"], record["instance_id"]) == ("quick-0001", "42")
    assert record["command"] == program
    assert record["progress"] == {"episode": 2, "mean_reward": -1.5}
    assert record["mlflow"] == {"run_id": "r1"}
    assert {"sinergym-trainer", "torch"} <= record["versions"].keys()
    assert record["outputs"] == {"files": 2, "bytes": 11}
    assert record["started"] <= record["updated"]
    assert record["ended"].endswith("Z")
    order = [state for state, after in pairwise([*cloud.states, ""]) if state != after]
    assert order[0] == "waiting"
    assert order[-1] == "finished"
    assert "running" in order
    kept = cloud.objects["quick/records/quick-0001.json"]["metadata"]["record"]
    assert json.loads(kept) == record
    assert cloud.objects["quick/quick-0001/output/best_model/model.zip"]["content"] == b"model"
    assert cloud.objects["quick/tensorboard/quick-0001/events.1"]["content"] == b"events"
    assert b"out\nerr\n" in vm.output
    for line in (
        "SINERGYM_ATTEMPT=1",
        "SINERGYM_BUCKET=bucket",
        "SINERGYM_EXPERIMENT=quick-0001",
        "SINERGYM_SWEEP=quick",
        f"SINERGYM_OUTPUT={vm.folder}/output/1",
        "gce_project_id=local",
        "gce_zone=europe-west1-b",
    ):
        assert f"\n{line}\n".encode() in vm.output
    assert cloud.log() == vm.output
    assert cloud.calls == [removal_of("quick-0001"), ("GET", GROUP, None), ("DELETE", GROUP, None)]
    assert (vm.folder / "DRL_battery.py").exists()


@pytest.mark.slow
def test_a_failure_is_recorded_with_its_cause(cloud: Any, new_vm: NewVm) -> None:
    """A command that fails leaves code, signal, kind and a hint, and its VM goes."""
    ends = [
        ("echo boom; exit 3", 3, "error", None, "its last line: boom"),
        (
            "echo 'sinergym-train: EnergyPlus failed (step 3): ** Severe ** x'; echo bye; exit 1",
            1,
            "energyplus",
            None,
            "its last line: sinergym-train: EnergyPlus failed (step 3): ** Severe ** x",
        ),
        ("no-such-program --x 1", 127, "not_found", None, "no such program in the image: no-such"),
        ("kill -SEGV $$", 139, "signal", "SIGSEGV", "ended by SIGSEGV"),
        ("echo saved; exit 143", 143, "signal", "SIGTERM", "told to stop; its last line: saved"),
        ("kill -KILL $$", 137, "oom", "SIGKILL", "out of memory"),
        ("echo x > f; ./f", 126, "error", None, "not a program that can run"),
    ]
    cloud.group_size = len(ends)
    vms = [new_vm(f"quick-{number:04}", instance_id=str(number)) for number in range(len(ends))]
    for vm, (command, *_) in zip(vms, ends, strict=True):
        vm.start(command)

    for number, (vm, (_, code, kind, signal, hint)) in enumerate(zip(vms, ends, strict=True)):
        assert vm.ends() == code
        record = cloud.record(f"quick-{number:04}")
        ended = record["exit"]
        assert record["state"] == "failed"
        assert (ended["code"], ended["kind"], ended["signal"]) == (code, kind, signal)
        assert hint in ended["hint"]
        assert cloud.log(experiment=f"quick-{number:04}") == vm.output
        assert removal_of(f"quick-{number:04}") in cloud.calls
    assert cloud.group_size is None


def test_a_command_that_cannot_be_started(cloud: Any, new_vm: NewVm) -> None:
    """Where its folder cannot be made the record says why, and the VM goes."""
    vm = new_vm()
    vm.says("waiting for a command")
    (vm.folder / "output").touch()
    vm.start("echo never")

    assert vm.ends() == 126
    assert (cloud.record()["state"], cloud.record()["exit"]["kind"]) == ("failed", "error")
    assert "could not be started: " in cloud.record()["exit"]["hint"]
    assert b"\nnever" not in vm.output
    assert b"Traceback" not in vm.output
    assert removal_of("quick-0001") in cloud.calls


@pytest.mark.slow
def test_patience_ends(cloud: Any, new_vm: NewVm) -> None:
    """Without a command the record says idle and how to send one, and the VM goes."""
    vm = new_vm(attributes={"sinergym-patience": "2"})

    assert vm.ends() == 0
    assert cloud.record()["state"] == "idle"
    assert cloud.record()["exit"]["kind"] == "idle"
    assert "sinergym-runner submit" in cloud.record()["exit"]["hint"]
    assert removal_of("quick-0001") in cloud.calls


def test_submit_answers(cloud: Any, new_vm: NewVm) -> None:
    """The same command is accepted again, another is refused, and none without a runner."""
    vm = new_vm()
    command = "while [ ! -e go ]; do sleep 0.05; done; echo $((40 + 2)) 'a  b'"
    vm.start(command)
    again = vm.submit(command)
    other = vm.submit("echo", "other")
    (vm.folder / "go").touch()

    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.count("\n") == 1
    assert (other.returncode, other.stdout) == (3, "")
    assert other.stderr.count("\n") == 1
    assert vm.ends() == 0
    assert b"42 a  b\n" in vm.output
    late = vm.submit("echo late")
    assert (late.returncode, late.stdout) == (4, "")
    assert "no runner is waiting" in late.stderr


def test_cancelled_from_outside(cloud: Any, new_vm: NewVm) -> None:
    """A final state that somebody else writes stops the command, and stays."""
    vm = new_vm()
    vm.start("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    vm.says("up")
    wait_for(lambda: cloud.record().get("state") == "running")
    cancelled = {**cloud.record(), "state": "cancelled", "ended": "2026-11-22T10:00:00Z"}
    cloud.put("quick/records/quick-0001.json", json.dumps(cancelled).encode())

    assert vm.ends() == 0
    assert b"bye\n" in vm.output
    assert cloud.record() == cancelled
    assert removal_of("quick-0001") in cloud.calls


@pytest.mark.slow
def test_a_deleted_sweep_does_not_come_back(cloud: Any, new_vm: NewVm) -> None:
    """Once the record is seen to be gone nothing is uploaded any more, and the VM goes."""
    vm = new_vm()
    vm.start(
        "trap 'echo late; echo x > $SINERGYM_OUTPUT/late; sleep 0.3; exit' TERM;"
        " echo x > $SINERGYM_OUTPUT/x; while :; do sleep 0.05; done"
    )
    wait_for(lambda: "quick/quick-0001/output/x" in cloud.objects)
    cloud.objects.clear()
    vm.says("late\n")
    cloud.objects.clear()

    assert vm.ends() == 0
    assert list(cloud.objects) == []
    assert removal_of("quick-0001") in cloud.calls


def test_another_vm_took_over(cloud: Any, new_vm: NewVm) -> None:
    """Who finds the record claimed by another VM stops, and removes nothing of that name."""
    vm = new_vm()
    vm.start("sleep 30")
    wait_for(lambda: cloud.record().get("state") == "running")
    theirs = {**cloud.record(), "state": "waiting", "attempt": 2, "instance_id": "43"}
    cloud.put("quick/records/quick-0001.json", json.dumps(theirs).encode())

    assert vm.ends() == 1
    assert cloud.record() == theirs
    assert cloud.calls == []


@pytest.mark.slow
def test_what_has_ended_never_runs_again(cloud: Any, new_vm: NewVm) -> None:
    """A final record stays as it is; the VM only removes itself."""
    states = ["finished", "failed", "cancelled", "idle"]
    names = [f"quick-{number:04}" for number in range(4)]
    for name, state in zip(names, states, strict=True):
        final = {"schema": 1, "state": state, "attempt": 4, "experiment": name}
        cloud.put(f"quick/records/{name}.json", json.dumps(final).encode())
    before = {name: dict(found) for name, found in cloud.objects.items()}
    vms = [new_vm(name) for name in names]

    for vm, name, state in zip(vms, names, states, strict=True):
        assert vm.ends() == 0
        assert f"the record says {state}".encode() in vm.output
        assert removal_of(name) in cloud.calls
    assert cloud.objects == before
    assert vms[0].submit("echo x").returncode == 4


@pytest.mark.slow
def test_preemption_and_the_next_attempt(cloud: Any, new_vm: NewVm) -> None:
    """SIGTERM reaches the command, the record stays open, and a new VM takes attempt 2."""
    cloud.preempted = "TRUE"
    first = new_vm()
    first.start(
        '[ "$SINERGYM_ATTEMPT" = 2 ] && { echo second; exit; };'
        " trap 'echo saved > $SINERGYM_OUTPUT/checkpoint; exit 7' TERM;"
        " echo up; while :; do sleep 0.1; done"
    )
    first.says("up\n")
    first.stop()

    assert first.ends() == 143
    record = cloud.record()
    assert (record["state"], record["attempt"], record["ended"]) == ("running", 1, None)
    assert (record["exit"]["signal"], record["exit"]["kind"]) == ("SIGTERM", "signal")
    assert record["exit"]["code"] == 7
    assert "preempted" in record["exit"]["hint"]
    assert cloud.objects["quick/quick-0001/output/checkpoint"]["content"] == b"saved\n"
    assert cloud.calls == []

    second = new_vm(instance_id="43")
    assert second.ends() == 0
    assert (cloud.record()["state"], cloud.record()["attempt"]) == ("finished", 2)
    assert cloud.record()["history"][0]["kind"] == "preempted"
    assert b"second\n" in cloud.log(attempt=2)
    assert first.output.startswith(cloud.log(attempt=1))


@pytest.mark.slow
def test_a_command_that_hears_of_the_end_first(cloud: Any, new_vm: NewVm) -> None:
    """A machine that goes down may end the command before the runner: that is no failure.

    Either the runner is told a moment later, or the metadata server says that the VM is preempted.
    """
    told = new_vm()
    told.start("echo gone; kill $$")
    told.says("\ngone\n")
    told.stop()
    assert told.ends() == 143
    cloud.preempted = "TRUE"
    preempted = new_vm("quick-0002", instance_id="43")
    preempted.start("echo saved > $SINERGYM_OUTPUT/checkpoint; exit 143")
    assert preempted.ends() == 143

    for experiment, hint in (("quick-0001", "told to stop"), ("quick-0002", "preempted")):
        record = cloud.record(experiment)
        assert (record["state"], record["ended"]) == ("running", None)
        assert (record["exit"]["signal"], record["exit"]["kind"]) == ("SIGTERM", "signal")
        assert hint in record["exit"]["hint"]
    assert cloud.objects["quick/quick-0002/output/checkpoint"]["content"] == b"saved\n"
    assert cloud.calls == []


def test_what_is_saved_at_the_end_goes_at_once(cloud: Any, new_vm: NewVm) -> None:
    """Once told to stop, the runner looks for new outputs all the time, not every 15 seconds."""
    vm = new_vm(environment={"SINERGYM_SYNC_SECONDS": "600"})
    vm.start(
        "trap 'mkdir -p $SINERGYM_OUTPUT/checkpoints;"
        " echo whole > $SINERGYM_OUTPUT/checkpoints/checkpoint-1.zip;"
        " while [ ! -e go ]; do sleep 0.05; done; exit 143' TERM;"
        " echo up; while :; do sleep 0.05; done"
    )
    vm.says("up\n")
    vm.stop()
    wait_for(lambda: "quick/quick-0001/output/checkpoints/checkpoint-1.zip" in cloud.objects)
    assert vm.process.poll() is None
    (vm.folder / "go").touch()
    assert vm.ends() == 143
    assert cloud.record()["state"] == "running"


@pytest.mark.slow
def test_a_program_below_a_shell_has_its_time(cloud: Any, new_vm: NewVm) -> None:
    """A shell dies of SIGTERM at once; the program that it had started may still save."""
    vm = new_vm()
    vm.start(
        "python3 -c 'import signal, time, os\n"
        "def save(*_):\n"
        '  time.sleep(3); open(os.environ["SINERGYM_OUTPUT"] + "/saved", "w"); os._exit(0)\n'
        'signal.signal(signal.SIGTERM, save); print("up", flush=True)\n'
        "while True: time.sleep(1)'; echo never"
    )
    vm.says("up\n")
    vm.stop()

    assert vm.ends() == 143
    assert "quick/quick-0001/output/saved" in cloud.objects
    assert b"never" not in vm.output.partition(b"\nup\n")[2]


@pytest.mark.slow
def test_a_command_that_clears_its_folder(cloud: Any, new_vm: NewVm) -> None:
    """Without its spool the log has a gap, which is said; later bytes are there again."""
    vm = new_vm()
    vm.start("sleep 0.5; rm -rf .sinergym-runner output; echo gap; sleep 4; echo after; exit 4")

    assert vm.ends() == 4
    assert cloud.record()["state"] == "failed"
    assert b"could not be kept" in vm.output
    for name in (name for name in cloud.objects if "/log/" in name):
        start = int(name.rpartition("/")[2].removesuffix(".log"))
        content = cloud.objects[name]["content"]
        assert vm.output[start : start + len(content)] == content
    assert any(b"after\n" in each["content"] for each in cloud.objects.values())


def test_stopped_while_waiting(cloud: Any, new_vm: NewVm) -> None:
    """SIGTERM before a command ends the runner at once; the record still waits."""
    vm = new_vm()
    wait_for(lambda: cloud.record().get("state") == "waiting")
    begin = time.monotonic()
    vm.stop()

    assert vm.ends() == 143
    assert time.monotonic() - begin < 4
    assert cloud.record()["state"] == "waiting"
    assert cloud.calls == []


@pytest.mark.slow
def test_bucket_trouble_does_not_disturb(cloud: Any, new_vm: NewVm) -> None:
    """While the bucket answers 503 the command runs on, and everything is there later."""
    vm = new_vm()
    vm.start("echo a; sleep 1; echo r > $SINERGYM_OUTPUT/r; sleep 1; echo b")
    vm.says("a\n")
    cloud.failing = 100_000
    vm.says("the command ended")
    cloud.failing = 0

    assert vm.ends() == 0
    assert cloud.refused > 1
    assert cloud.record()["state"] == "finished"
    assert cloud.log() == vm.output
    assert cloud.objects["quick/quick-0001/output/r"]["content"] == b"r\n"


@pytest.mark.slow
def test_outputs_that_cannot_be_uploaded(cloud: Any, new_vm: NewVm) -> None:
    """When the outputs do not get through the record says so; the VM still goes."""
    vm = new_vm(environment={"SINERGYM_UPLOAD_MINUTES": "0.03", "SINERGYM_SYNC_SECONDS": "60"})
    vm.start("echo x > $SINERGYM_OUTPUT/x; while [ ! -e go ]; do sleep 0.05; done")
    wait_for(lambda: cloud.record().get("state") == "running")
    cloud.failing = 100_000
    (vm.folder / "go").touch()
    vm.says("could not be uploaded")
    cloud.failing = 0

    assert vm.ends(60) == 1
    assert cloud.record()["state"] == "failed"
    assert cloud.record()["exit"]["kind"] == "upload"
    assert removal_of("quick-0001") in cloud.calls


def test_two_that_finish_together_remove_the_group(cloud: Any, new_vm: NewVm) -> None:
    """Of two VMs that end at the same time the last one removes the group."""
    cloud.group_size = 2
    vms = [new_vm("quick-0001"), new_vm("quick-0002", instance_id="43")]
    for vm in vms:
        vm.start("while [ ! -e ../go ]; do sleep 0.05; done")
    (vms[0].folder.parent / "go").touch()

    assert [vm.ends() for vm in vms] == [0, 0]
    assert cloud.group_size is None
    assert removal_of("quick-0001") in cloud.calls
    assert removal_of("quick-0002") in cloud.calls


def test_twenty_megabytes_of_log(cloud: Any, new_vm: NewVm) -> None:
    """A talkative command: every byte arrives once and in order, in a moderate number of parts."""
    vm = new_vm()
    vm.start("seq 1 2800000; echo; echo end >&2")

    assert vm.ends(60) == 0
    assert len(vm.output) > 20_000_000
    assert cloud.log() == vm.output
    assert len([name for name in cloud.objects if "/log/" in name]) < 100
    assert list((vm.folder / ".sinergym-runner" / "log").iterdir()) == [] or (
        sum(f.stat().st_size for f in (vm.folder / ".sinergym-runner" / "log").iterdir()) < 5 << 20
    )


@pytest.mark.slow
def test_what_the_command_leaves_behind_is_ended(cloud: Any, new_vm: NewVm) -> None:
    """Background processes of the command end with it, those in another session too."""
    vm = new_vm()
    vm.start(
        "sleep 300 & echo $! > bg; (setsid sleep 301 & echo $! > far);"
        " (trap '' TERM; sleep 302 & echo $! > deaf; wait) & sleep 0.5"
    )

    assert vm.ends() == 0
    for name in ("bg", "far", "deaf"):
        pid = int((vm.folder / name).read_text())
        assert not _is_alive(pid), name


def test_dispatch_at_boot(cloud: Any, new_vm: NewVm) -> None:
    """In a sweep dispatched at boot the runner takes its own command from the manifest."""
    manifest = {
        "schema": 1,
        "sweep": "quick",
        "dispatch": "boot",
        "experiments": [
            {"id": "quick-0001", "command": "echo not mine"},
            {"id": "quick-0002", "command": "echo mine"},
        ],
    }
    cloud.put("quick/sweep.json", json.dumps(manifest).encode())
    vm = new_vm("quick-0002")

    assert vm.ends() == 0
    assert b"\nmine\n" in vm.output
    assert cloud.record("quick-0002")["command"] == "echo mine"


def test_nobody_says_who_it_is(cloud: Any, new_vm: NewVm) -> None:
    """Without settings it ends with 2 and says what is missing."""
    host = {"GCE_METADATA_HOST": "127.0.0.1:1", "SINERGYM_METADATA_SECONDS": "0"}
    vm = new_vm(environment={**host, "SINERGYM_SWEEP": "quick"})

    assert vm.ends() == 2
    assert b"SINERGYM_BUCKET" in vm.output
    assert b"SINERGYM_EXPERIMENT" in vm.output
    assert b"missing: the bucket" in vm.output


def test_no_vm_only_environment(cloud: Any, new_vm: NewVm) -> None:
    """On no VM at all, told by the environment, it runs quoted words and removes nothing."""
    vm = new_vm(
        environment={
            "GCE_METADATA_HOST": "127.0.0.1:1",
            "SINERGYM_METADATA_SECONDS": "0",
            "SINERGYM_BUCKET": "bucket",
            "SINERGYM_SWEEP": "quick",
            "SINERGYM_EXPERIMENT": "quick-0009",
        }
    )
    vm.start("printf", "%s|", "a b", "$HOME", "it's")

    assert vm.ends() == 0
    assert b"a b|$HOME|it's|" in vm.output
    assert cloud.record("quick-0009")["state"] == "finished"
    assert cloud.calls == []


def _is_alive(pid: int) -> bool:
    try:
        status = Path("/proc", str(pid), "stat").read_text()
        return status.rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
