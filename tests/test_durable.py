"""Sweeps that need no launcher: real runners, commands read at boot, reruns, partial cancels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.clouds import Command, OwnCloud

from gcloud_ops import bucket, launching, objects, rerunning, sweeps, templates
from gcloud_ops.contract import Retry
from gcloud_ops.model import ExperimentStatus, Snapshot, Sweep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[OwnCloud]:
    """A cloud whose containers really run their commands, without a training in them."""
    fast = ("--boot-seconds", "0.2", "--pull-seconds", "0.1")
    made = OwnCloud(tmp_path_factory.mktemp("durable"), environment, *fast, engine="process")
    templates.create_template(
        made.clients,
        templates.TemplateSpec(
            name="sinergym-template", image="europe-docker.pkg.dev/local/i/trainer:1"
        ),
    )
    yield made
    made.stop()


def launch(cloud: OwnCloud, name: str, *commands: str) -> None:
    """Launch and go away: the generator ends when the instances are asked for."""
    planned = launching.plan(Sweep.of_commands(name, commands), cloud.clients)
    events = list(launching.launch(planned, cloud.clients, patience=60))
    end = events[-1]
    assert end == launching.Launched(sent=len(commands), failed=0, waiting=0, at_boot=True)


def watch(cloud: OwnCloud, name: str) -> Snapshot:
    """The sweep at its end."""
    return list(sweeps.watch(name, cloud.clients, interval=0.1))[-1]


def test_a_sweep_that_runs_by_itself_and_again(cloud: OwnCloud, tmp_path: Path) -> None:
    """Each runs its own command once; what failed runs again alone, from outputs that stay."""
    mended = tmp_path / "mended"
    launch(
        cloud,
        "own",
        "echo one > $SINERGYM_OUTPUT/one.txt",
        f"echo attempt $SINERGYM_ATTEMPT; test -e {mended} || exit 3",
    )

    first = watch(cloud, "own")

    assert [str(row.status) for row in first.rows] == ["finished", "failed"]
    assert first.is_gone
    mended.touch()
    events = list(rerunning.rerun("own", cloud.clients, failed=True, patience=60))
    assert launching.Reopened(experiments=("own-0002",)) in events

    second = watch(cloud, "own")

    assert [row.status for row in second.rows] == [ExperimentStatus.FINISHED] * 2
    assert second.is_gone
    attempts = [row.record.attempt for row in second.rows if row.record]
    assert attempts == [1, 2]
    log, _ = bucket.read_log(cloud.clients, second.bucket, "own", "own-0002")
    assert b"attempt 2" in log
    found = {
        entry.name
        for entry in objects.list_objects(cloud.clients, second.bucket, "own/own-0001/output/")
    }
    assert found == {"own/own-0001/output/one.txt"}


def test_a_failure_that_is_tried_again(cloud: OwnCloud, tmp_path: Path) -> None:
    """By the runner alone, on its own VM, as often as the manifest says."""
    mended = tmp_path / "mended"
    sweep = Sweep.of_commands("tried", [f"test -e {mended} || {{ touch {mended}; exit 3; }}"])
    sweep = replace(sweep, retry=Retry(times=1, kinds=("error",), wait=0.1))
    planned = launching.plan(sweep, cloud.clients)

    events = list(launching.launch(planned, cloud.clients, patience=60))
    last = watch(cloud, "tried")

    assert isinstance(events[-1], launching.Launched)
    (row,) = last.rows
    assert row.status is ExperimentStatus.FINISHED
    assert row.record is not None
    assert row.record.attempt == 2
    assert [(one.number, one.kind) for one in row.record.history] == [(1, "error")]


def test_some_are_cancelled_while_others_run(
    cloud: OwnCloud, command: Command, tmp_path: Path
) -> None:
    """From the command line: the runner of one stops; the other finishes and clears up."""
    done = tmp_path / "done"
    wait = f"until test -e {done}; do sleep 0.1; done"
    launch(cloud, "some", wait, wait)
    for seen in sweeps.watch("some", cloud.clients, interval=0.1):
        if all(row.status is ExperimentStatus.RUNNING for row in seen.rows):
            break

    cancelled = command("gcloud-ops", "sweep", "cancel", "some", "2", "--yes", env=cloud.flags)

    assert cancelled.returncode == 0, cancelled.stderr
    done.touch()
    last = watch(cloud, "some")
    assert [str(row.status) for row in last.rows] == ["finished", "cancelled"]
    assert last.is_gone
    refused = command("gcloud-ops", "sweep", "rerun", "some", env=cloud.flags)
    assert refused.returncode == 2
    assert "which experiments" in refused.stderr
    nothing = command("gcloud-ops", "sweep", "resume", "some", env=cloud.flags)
    assert nothing.returncode == 0
    assert "nothing to do" in nothing.stderr
    again = command(
        *("gcloud-ops", "sweep", "rerun", "some", "--failed", "--watch"), env=cloud.flags
    )
    assert again.returncode == 0, again.stderr
    assert "1 experiment to run again" in again.stderr
    assert cloud.ask("status")["instances"] == []


def test_a_container_that_is_restarted(cloud: OwnCloud, command: Command) -> None:
    """Its experiment goes on as the next attempt, with a log of its own; others are left alone."""
    line = "echo attempt $SINERGYM_ATTEMPT; test $SINERGYM_ATTEMPT = 2 || exec sleep 60"
    launch(cloud, "restarted", line, "sleep 3")
    for seen in sweeps.watch("restarted", cloud.clients, interval=0.1):
        if seen.counts.get(ExperimentStatus.RUNNING) == 2:
            break

    key = {"GCLOUD_OPS_SSH_KEY": str(cloud.settings.ssh_key)}
    done = command(
        *("gcloud-ops", "containers", "restart", "restarted", "1"), env={**cloud.flags, **key}
    )

    assert (done.returncode, done.stderr) == (0, "restarted-0001: restarted\n")
    last = watch(cloud, "restarted")
    assert last.is_good
    first, second = (row.record for row in last.rows)
    assert first is not None
    assert second is not None
    assert (first.attempt, second.attempt) == (2, 1)
    assert [one.kind for one in first.history] == ["signal"]
    for attempt in (1, 2):
        log, _ = bucket.read_log(
            cloud.clients, last.bucket, "restarted", "restarted-0001", attempt=attempt
        )
        assert log.startswith(b"sinergym-runner: experiment restarted-0001")
        assert f"attempt {attempt}\n".encode() in log
