"""The laws can be broken: each is seen to notice what it is for."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests.chaos.laws import broken
from tests.chaos.schedules import Experiment, Schedule
from tests.chaos.world import World

from gcloud_ops import groups, sweeps

NAME = "calm"
CALM = Schedule(
    experiments=(Experiment(kind="good"), Experiment(kind="bad")),
    mishaps=(),
    ssh=False,
    spot=False,
    skew=0,
    rerun=False,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A local cloud in which one sweep has been played, and nothing went wrong."""
    with World(tmp_path_factory.mktemp("laws")) as made:
        made.play(NAME, CALM)
        yield made


def _write(world: World, name: str, content: bytes) -> Callable[[], None]:
    blob = world.clients.storage.bucket(world.bucket).blob(name)
    blob.upload_from_string(content)

    def undo() -> None:
        blob.delete()

    return undo


def _remove(world: World, name: str) -> Callable[[], None]:
    blob = world.clients.storage.bucket(world.bucket).blob(name)
    content = blob.download_as_bytes()
    for version in world.clients.storage.list_blobs(world.bucket, prefix=name, versions=True):
        version.delete()
    return lambda: blob.upload_from_string(content)


def _make_group(world: World) -> Callable[[], None]:
    groups.create_group(world.clients, NAME, "chaos0", metadata={}, labels={})

    def undo() -> None:
        groups.delete_group(world.clients, NAME)

    return undo


@pytest.mark.slow
def test_calm_breaks_nothing(world: World) -> None:
    """And all is as the schedule wants it."""
    assert broken(world, NAME, CALM) == []
    assert [str(row.status) for row in sweeps.status(NAME, world.clients).rows] == [
        "finished",
        "failed",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "law"),
    [
        ("log", "does not have"),
        ("output", "finished, but its output is"),
        ("marker", "nobody has marked the sweep's end"),
        ("stray", "there is an object that nobody knows"),
        ("kind", "ended as failed, error"),
        ("group", "groups are left"),
        ("again", "was written over the final"),
    ],
)
def test_what_breaks_a_law(world: World, what: str, law: str) -> None:
    """One thing at a time that must not be; it is put right again afterwards."""
    schedule = CALM
    undo: Callable[[], object] = list
    match what:
        case "log":
            undo = _remove(world, f"{NAME}/{NAME}-0001/log/1/000000000000.log")
        case "output":
            undo = _remove(world, f"{NAME}/{NAME}-0001/output/result")
        case "marker":
            undo = _remove(world, f"{NAME}/finished.json")
        case "stray":
            undo = _write(world, f"{NAME}/{NAME}-0001/output/half.tmp", b"x")
        case "kind":
            schedule = replace(CALM, experiments=(Experiment(kind="good"),) * 2)
        case "group":
            undo = _make_group(world)
        case "again":
            record = sweeps.status(NAME, world.clients).rows[0].record
            assert record is not None
            changed = {**record.raw, "state": "failed", "attempt": 2}
            _write(world, f"{NAME}/records/{NAME}-0001.json", json.dumps(changed).encode())
    try:
        found = broken(world, NAME, schedule)
    finally:
        undo()
    assert any(law in line for line in found), found
