"""Logs from the bucket and from running containers, joined at a byte."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gcloud_ops import bucket, groups, logs, objects, ssh, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Experiment, Manifest, timestamp
from gcloud_ops.errors import NotFound
from gcloud_ops.settings import Settings
from gcloud_ops.sweeps import SweepWatch

LINES = 40
OUTPUT = b"".join(b"line %02d, on one stream or the other\n" % n for n in range(LINES))
PROGRAM = f"""#!/bin/sh
n=0
while [ $n -lt {LINES} ]; do
  printf 'line %02d, on one stream or the other\\n' $n
  n=$((n + 1))
  sleep 0.05
done
exec sleep 60
"""


class Bucket:
    """A sweep in a bucket, written as its launcher and runners would."""

    def __init__(self, clients: Clients, sweep: str, experiments: int = 1) -> None:
        self.clients, self.sweep = clients, sweep
        self.name = clients.settings.bucket_name
        self.generations: dict[str, int] = {}
        objects.ensure_bucket(clients, self.name)
        manifest = Manifest(
            sweep=sweep,
            created=datetime.now(UTC),
            project=clients.project,
            zone=clients.zone,
            template="adapters-template",
            dispatch=Dispatch.SSH,
            launcher={},
            experiments=tuple(
                Experiment(id=f"{sweep}-{n:04d}", command="x") for n in range(1, experiments + 1)
            ),
        )
        bucket.create_manifest(clients, self.name, manifest)

    def segment(self, experiment: str, offset: int, data: bytes, attempt: int = 1) -> None:
        """Upload a log segment."""
        name = f"{self.sweep}/{experiment}/log/{attempt}/{offset:012d}.log"
        self.clients.storage.bucket(self.name).blob(name).upload_from_string(data)

    def record(
        self, experiment: str, state: str, *, attempt: int = 1, instance_id: str = ""
    ) -> None:
        """Write or replace a record."""
        content = {
            "schema": 1,
            "sweep": self.sweep,
            "experiment": experiment,
            "attempt": attempt,
            "state": state,
            "instance_id": instance_id,
            "updated": timestamp(datetime.now(UTC)),
        }
        self.generations[experiment] = bucket.replace_record(
            self.clients,
            self.name,
            self.sweep,
            experiment,
            content,
            generation=self.generations.get(experiment, 0),
        )


def test_read_and_tail(clients: Clients) -> None:
    """Segments are joined by their offsets; the tail reads whole lines."""
    store = Bucket(clients, "read")
    store.segment("read-0001", 0, b"one\ntw")
    store.segment("read-0001", 6, b"o\nthree\n")

    assert logs.read(clients, store.name, "read", "read-0001") == b"one\ntwo\nthree\n"
    assert logs.read(clients, store.name, "read", "read-0001", tail=2) == b"two\nthree\n"
    assert logs.read(clients, store.name, "read", "read-0009") == b""


def test_experiments_by_what_people_write(clients: Clients) -> None:
    """Whole ids, numbers with and without zeros, none for all; an unknown one is not found."""
    Bucket(clients, "names", experiments=12)
    seen = SweepWatch("names", clients).refresh()

    assert logs.select(seen, ["names-0002", "0012", "7", "2"]) == (
        "names-0002",
        "names-0012",
        "names-0007",
    )
    assert len(logs.select(seen, [])) == 12
    for unknown in ("13", "", "names", "-1", "00002"):
        with pytest.raises(NotFound, match="names-0001 to names-0012"):
            logs.select(seen, [unknown])


def test_following_what_is_over_is_reading(clients: Clients) -> None:
    """Ended experiments give their whole logs, each its own, and the following ends."""
    store = Bucket(clients, "over", experiments=3)
    for number in range(1, 4):
        name = f"over-{number:04d}"
        store.segment(name, 0, b"a%d\n" % number)
        store.segment(name, 3, b"b%d\n" % number)
        store.record(name, "finished")

    got = joined(logs.follow("over", clients))

    assert got == {(f"over-{n:04d}", 1): b"a%d\nb%d\n" % (n, n) for n in range(1, 4)}
    tails = joined(logs.follow("over", clients, ["2"], tail=1))
    assert tails == {("over-0002", 1): b"b2\n"}


@pytest.mark.slow
def test_following_the_bucket_as_it_grows(clients: Clients, template: str) -> None:
    """Where no container can be asked the bucket is; a new attempt begins at its first byte."""
    deaf = Clients.connect(
        Settings(
            project=clients.project,
            endpoint=clients.settings.endpoint,
            ssh_port=1,  # nobody listens there
            ssh_key=clients.settings.ssh_key,
        )
    )
    store = Bucket(clients, "grows")
    instance = one_instance(clients, "grows", template)
    store.record("grows-0001", "running", instance_id=instance)
    store.segment("grows-0001", 0, b"first, ")

    got = {1: b"", 2: b""}
    for chunk in logs.follow("grows", deaf):
        got[chunk.attempt] += chunk.data
        match got[chunk.attempt]:
            case b"first, ":
                store.segment("grows-0001", 7, b"second\n")
            case b"first, second\n":
                store.segment("grows-0001", 0, b"again\n", attempt=2)
                store.record("grows-0001", "running", attempt=2, instance_id=instance)
            case b"again\n":
                store.segment("grows-0001", 6, b"and the end\n", attempt=2)
                store.record("grows-0001", "failed", attempt=2, instance_id=instance)

    assert got == {1: b"first, second\n", 2: b"again\nand the end\n"}
    groups.delete_group(clients, "grows")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "template"), [(0, "working"), (1, "working"), (500, "working"), (500, "inside")]
)
def test_bucket_and_container_are_joined_exactly(
    working: Clients, known: int, template: str
) -> None:
    """What the bucket has is not repeated, and nothing between is lost; through IAP too."""
    name = f"live-{template}-{known}"
    store = Bucket(working, name)
    experiment = f"{name}-0001"
    instance = one_instance(working, name, template)
    if known:
        store.segment(experiment, 0, OUTPUT[:known])
    store.record(experiment, "running", instance_id=instance)

    stop = threading.Event()
    got = b""
    for chunk in logs.follow(name, working, stop=stop):
        got += chunk.data
        if len(got) == len(OUTPUT):
            # All of it came from the container: the bucket gets it only now, and says nothing new.
            store.segment(experiment, known, OUTPUT[known:])
            store.record(experiment, "finished", instance_id=instance)
            groups.delete_group(working, name)
        assert len(got) <= len(OUTPUT), got

    assert got == OUTPUT


def test_following_can_be_stopped(clients: Clients, template: str) -> None:
    """An event ends it, and leaving the loop ends its thread."""
    store = Bucket(clients, "stopped")
    instance = one_instance(clients, "stopped", template)
    store.record("stopped-0001", "running", instance_id=instance)
    store.segment("stopped-0001", 0, b"x")
    stop = threading.Event()

    for chunk in logs.follow("stopped", clients, stop=stop):
        assert chunk.data == b"x"
        stop.set()
    for _chunk in logs.follow("stopped", clients):
        break

    assert "logs" not in {thread.name for thread in threading.enumerate()}
    groups.delete_group(clients, "stopped")


def joined(chunks: Iterator[logs.LogChunk]) -> dict[tuple[str, int], bytes]:
    """The chunks of each attempt, one after the other."""
    found: dict[tuple[str, int], bytes] = {}
    for chunk in chunks:
        key = (chunk.experiment, chunk.attempt)
        found[key] = found.get(key, b"") + chunk.data
    return found


def one_instance(clients: Clients, group: str, template: str) -> str:
    """Make a group with one instance; returns the instance's numeric id once it is up."""
    metadata = {
        "sinergym-sweep": group,
        "sinergym-bucket": clients.settings.bucket_name,
        "ssh-keys": ssh.public_key_line(clients.settings),
    }
    labels = {"sinergym-sweep": group}
    groups.create_group(clients, group, template, metadata=metadata, labels=labels)
    groups.create_instances(clients, group, [f"{group}-0001"])
    deadline = time.monotonic() + 30
    while True:
        (member,) = groups.list_members(clients, group) or ()
        if member.is_up:
            return member.id
        assert time.monotonic() < deadline, member
        time.sleep(0.05)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A local cloud whose containers run `PROGRAM` for real."""
    folder = tmp_path_factory.mktemp("working")
    program = folder / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("gcp-emulator")),
                *("serve", "--engine", "process", "--folder", str(folder)),
                *("--boot-seconds", "0.1", "--pull-seconds", "0"),
            ],
            env={**os.environ, "GCP_EMULATOR_ENTRYPOINT": str(program)},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        about = folder / "cloud.json"
        while not about.exists():
            assert process.poll() is None, (folder / "serve.log").read_text()
        told = json.loads(about.read_text())
        settings = Settings.load(
            flags={key: told[key] for key in ("project", "zone", "endpoint", "ssh_port")}
            | {"ssh_key": folder / "keys" / "id_ed25519"},
            environ={},
        )
        found = Clients.connect(settings)
        for name in ("working", "inside"):
            spec = templates.TemplateSpec(
                name=name, image="local/x:1", external_address=name == "working"
            )
            templates.create_template(found, spec)
        yield found
    finally:
        process.terminate()
        process.wait(30)
