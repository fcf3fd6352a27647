"""Who the VM is, and how it removes itself, over HTTP on loopback."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from sinergym_trainer.runner.vm import SettingsMissing, Vm, identify

GROUP = "projects/12345/zones/europe-west1-b/instanceGroupManagers/quick"
REMOVE = """
import json, os, sys, time
from sinergym_trainer.runner.removal import remove
from sinergym_trainer.runner.vm import Vm, prepare_google_auth
prepare_google_auth()
deadline = time.monotonic() + float(sys.argv[2])
vm = Vm(**json.loads(sys.argv[1]))
done = remove(vm, os.environ, give_up=lambda: time.monotonic() > deadline, say=print)
sys.exit(0 if done else 1)
"""


def removed(cloud: Any, *, seconds: float = 20, **changes: Any) -> tuple[bool, str]:
    """Remove a VM from a process of its own, as google-auth reads its settings at import."""
    vm = {
        "bucket": "bucket",
        "sweep": "quick",
        "experiment": "quick-0001",
        "instance": "quick-0001",
        "zone": "europe-west1-b",
        "project": "local",
        "group": GROUP,
        **changes,
    }
    done = subprocess.run(
        [sys.executable, "-c", REMOVE, json.dumps(vm), str(seconds)],
        env={
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{cloud.address}/compute/v1/",
            "GCE_METADATA_HOST": cloud.metadata("quick-0001", {}, "42"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode == 0, done.stdout


def who(environment: dict[str, str]) -> Vm:
    """Identify with these variables, not waiting long for a metadata server."""
    return identify(
        {"SINERGYM_METADATA_SECONDS": "0", **environment},
        stop=lambda: False,
        say=print,
    )


def test_the_metadata_server_says_who_we_are(cloud: Any) -> None:
    """All settings come from the VM's metadata."""
    told = {
        "sinergym-bucket": "b",
        "sinergym-sweep": "quick",
        "sinergym-patience": "30",
        "sinergym-keep": "TRUE",
        "created-by": GROUP,
    }
    vm = who({"GCE_METADATA_HOST": cloud.metadata("quick-0007", told, "42")})

    assert vm == Vm(
        bucket="b",
        sweep="quick",
        experiment="quick-0007",
        patience=30,
        instance="quick-0007",
        instance_id="42",
        zone="europe-west1-b",
        project="local",
        group=GROUP,
        keep=True,
    )
    assert vm.group_name == "quick"


def test_the_environment_wins(cloud: Any) -> None:
    """Variables of the environment come before the VM's metadata."""
    told = {"sinergym-bucket": "b", "sinergym-sweep": "quick", "sinergym-patience": "30"}
    vm = who(
        {
            "GCE_METADATA_HOST": cloud.metadata("quick-0007", told, "42"),
            "SINERGYM_BUCKET": "mine",
            "SINERGYM_SWEEP": "other",
            "SINERGYM_EXPERIMENT": "other-0001",
            "SINERGYM_PATIENCE": "1.5",
        }
    )

    assert (vm.bucket, vm.sweep, vm.experiment) == ("mine", "other", "other-0001")
    assert (vm.patience, vm.instance, vm.group) == (1.5, "quick-0007", None)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"SINERGYM_BUCKET": ""}, "missing: the bucket"),
        ({"SINERGYM_SWEEP": "Quick/../x"}, "not a sweep's name"),
        ({"SINERGYM_EXPERIMENT": "../x"}, "not an experiment's id"),
        ({"SINERGYM_PATIENCE": "soon"}, "not a number of seconds"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, str], problem: str) -> None:
    """What is missing or wrong is named, with the variable that would say it."""
    good = {
        "GCE_METADATA_HOST": "127.0.0.1:1",
        "SINERGYM_BUCKET": "b",
        "SINERGYM_SWEEP": "quick",
        "SINERGYM_EXPERIMENT": "quick-0001",
    }
    assert who(good).experiment == "quick-0001"
    with pytest.raises(SettingsMissing, match=problem):
        who({**good, **changes})


def test_a_stop_interrupts_the_search() -> None:
    """A runner that is told to stop does not wait for a metadata server."""
    with pytest.raises(InterruptedError):
        identify({"GCE_METADATA_HOST": "127.0.0.1:1"}, stop=lambda: True, say=print)


def test_the_last_member_removes_the_group(cloud: Any) -> None:
    """The group is asked by JSON and partial URL; at target size 0 it goes, too."""
    assert removed(cloud)[0]
    body = {
        "instances": ["zones/europe-west1-b/instances/quick-0001"],
        "skipInstancesOnValidationError": True,
    }
    assert cloud.calls == [
        ("POST", f"{GROUP}/deleteInstances", body),
        ("GET", GROUP, None),
        ("DELETE", GROUP, None),
    ]
    assert cloud.request_ids[0]
    assert cloud.request_ids[0] != cloud.request_ids[2]


def test_others_keep_the_group(cloud: Any) -> None:
    """With members left the group stays."""
    cloud.group_size = 3

    assert removed(cloud)[0]
    assert cloud.group_size == 2


@pytest.mark.slow
def test_gone_already_is_success(cloud: Any) -> None:
    """A group that is gone is what was wanted."""
    cloud.group_size = None

    assert removed(cloud)[0]


@pytest.mark.slow
def test_passing_trouble_is_tried_again(cloud: Any) -> None:
    """A 503 is waited out, with the same request id; so is a group that is busy."""
    cloud.compute_failing = 1
    cloud.compute_busy = 1

    assert removed(cloud)[0]
    assert cloud.group_size is None
    assert cloud.request_ids[0] == cloud.request_ids[1] is not None


def test_two_that_end_together(cloud: Any) -> None:
    """Who finds the group being removed by the other looks until it is gone, and says little."""
    cloud.compute_busy = 1
    cloud.removed_by_another = True
    done, said = removed(cloud)

    assert done
    assert [method for method, *_ in cloud.calls].count("DELETE") == 1
    assert "trying again" not in said


@pytest.mark.slow
def test_the_other_one_is_not_waited_for(cloud: Any) -> None:
    """A group that stays busy is left to who changes it: it may be waiting for this very VM."""
    cloud.compute_busy = 1000
    begin = time.monotonic()
    done, said = removed(cloud, seconds=60)

    assert done
    assert "another one is removing the group" in said
    assert time.monotonic() - begin < 15


def test_a_refusal_is_explained(cloud: Any) -> None:
    """Without the permission it says at once which one is needed."""
    cloud.forbidden = True
    done, said = removed(cloud)

    assert not done
    assert "403 forbidden" in said
    assert "compute.instanceGroupManagers.get" in said


def test_it_gives_up_in_time(cloud: Any) -> None:
    """A cloud that never answers well is given up when the time is over."""
    cloud.compute_failing = 1000
    done, said = removed(cloud, seconds=0.3)

    assert not done
    assert "no time left" in said


def test_without_a_group(cloud: Any) -> None:
    """A VM that no group has made is deleted directly."""
    assert removed(cloud, group=None)[0]
    assert cloud.calls == [
        ("DELETE", "projects/local/zones/europe-west1-b/instances/quick-0001", None)
    ]


def test_a_kept_vm_stays(cloud: Any) -> None:
    """Who wants to look at a VM can keep it."""
    done, said = removed(cloud, keep=True)

    assert done
    assert "stays" in said
    assert cloud.calls == []
