"""A sweep launched again as it was."""

from datetime import UTC, datetime

import pytest

from gcloud_ops import bucket, groups, launching, sweeps, templates
from gcloud_ops.cli.output import ExitCode
from gcloud_ops.clients import Clients
from gcloud_ops.contract import (
    Dispatch,
    Experiment,
    Image,
    Machine,
    Manifest,
    Record,
    Retry,
    Source,
)
from gcloud_ops.reproducing import as_launched, remarks
from gcloud_ops.results import seed_of
from gcloud_ops.startup import container_of

from .commands import Run, runner, surroundings_of

DIGEST = "sha256:" + "0a" * 32


def manifest(**members: object) -> Manifest:
    """One with everything that can be repeated."""
    given: dict[str, object] = {
        "sweep": "old",
        "created": datetime(2026, 11, 22, tzinfo=UTC),
        "project": "p",
        "zone": "europe-west1-b",
        "template": "t",
        "dispatch": Dispatch.BOOT,
        "launcher": {},
        "experiments": (
            Experiment(id="old-0001", command="train --seed 1"),
            Experiment(id="old-0002", command="train --seed=2"),
        ),
        "zones": ("europe-west1-b", "europe-west1-c"),
        "retry": Retry(times=2, kinds=("error",)),
        "seconds": 7200,
        "machine": Machine(types=("n2-highcpu-8", "e2-highcpu-8"), spot=True),
        "image": Image(name="europe-docker.pkg.dev/p/i/s:3", digest=DIGEST),
        "source": Source(commit="abc", branch="study", dirty=True),
    }
    return Manifest(**{**given, **members})  # type: ignore[arg-type]


def test_all_that_can_be_repeated() -> None:
    """Under the new name; the image by its digest."""
    found = as_launched(manifest(), "new")
    assert [(one.id, one.command) for one in found.experiments] == [
        ("new-0001", "train --seed 1"),
        ("new-0002", "train --seed=2"),
    ]
    assert found.image == f"europe-docker.pkg.dev/p/i/s:3@{DIGEST}"
    assert (found.zones, found.zone) == (("europe-west1-b", "europe-west1-c"), None)
    assert (found.machine_types, found.spot) == (("n2-highcpu-8", "e2-highcpu-8"), True)
    assert (found.max_hours, found.retry) == (2.0, Retry(times=2, kinds=("error",)))
    plain = as_launched(manifest(zones=(), seconds=None, image=None), "new")
    assert (plain.zone, plain.max_hours, plain.image) == ("europe-west1-b", None, None)


def test_what_a_reader_should_know() -> None:
    """Versions and source; what has no seed or no digest."""
    record = Record(experiment="old-0001", attempt=1, state="finished", versions={"sinergym": "3"})
    lines = list(remarks(manifest(), {"old-0001": record}, bucket="b"))
    assert lines == [
        "it ran with sinergym 3",
        "it was launched from commit abc on study, with the changes in gs://b/old/source.diff",
    ]
    bare = manifest(
        experiments=(Experiment(id="old-0001", command="train"),), image=None, source=None
    )
    assert [line.split(":")[0] for line in remarks(bare, {}, bucket="b")] == [
        "1 of 1 commands have no --seed",
        "the image's digest was not known",
    ]


@pytest.mark.parametrize(
    ("command", "seed"),
    [
        ("train --seed 7", "7"),
        ("train --seed=7 -x", "7"),
        ("train -sd 7", "7"),
        ("train --seed 1 --seed 2", "2"),
        ("train --seed", None),
        ("train", None),
        ("train 'open", None),
    ],
)
def test_seeds(command: str, seed: str | None) -> None:
    """In each form that a command may have them."""
    assert seed_of(command) == seed


@pytest.fixture
def ops(
    clients: Clients,
    template: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command line in this process."""
    return runner(surroundings_of(clients.settings, template=template), monkeypatch, capsys)


@pytest.mark.slow
def test_reproduce(clients: Clients, template: str, ops: Run) -> None:
    """The new sweep's instances take the image by its digest, in whatever it is named now."""
    assert ops("sweep", "launch", "--name", "study", "--command", "train --seed 1").code == 0
    first = bucket.read_manifest(clients, clients.settings.bucket_name, "study")
    assert first.image is not None
    assert first.image.digest.startswith("sha256:")
    assert not first.image.pinned

    shown = ops("sweep", "reproduce", "study", "--dry-run")
    assert shown.code == ExitCode.DONE
    assert groups.get_group(clients, "study-2") is None

    done = ops("sweep", "reproduce", "study")
    assert done.code == ExitCode.DONE, done.err
    second = bucket.read_manifest(clients, clients.settings.bucket_name, "study-2")
    assert second.image is not None
    assert second.image.pinned
    assert second.image.digest == first.image.digest
    group = groups.get_group(clients, "study-2")
    assert group is not None
    derived = templates.get_template(clients, group.template)
    assert derived.derived_from == template
    assert derived.image == second.image.fixed
    found = clients.read(
        "template",
        clients.templates.get,
        project=clients.project,
        instance_template=group.template,
    )
    metadata = {item.key: item.value for item in found.properties.metadata.items}
    assert second.image.fixed in metadata["user-data"]
    container = container_of(metadata)
    assert container is not None
    assert container.environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    for name in ("study", "study-2"):
        sweeps.cancel(name, clients)
    # Whoever resumes derives the same template.
    assert list(launching.resume("study-2", clients))
    assert ops("sweep", "reproduce", "nowhere").code == ExitCode.NOT_FOUND
