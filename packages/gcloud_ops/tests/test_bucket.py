"""Manifest, records and logs, over HTTP against the local cloud."""

import json
import threading
from datetime import UTC, datetime
from itertools import count

import pytest

from gcloud_ops import objects
from gcloud_ops.bucket import (
    create_manifest,
    list_manifests,
    list_records,
    read_log,
    read_manifest,
    replace_record,
    tail_log,
)
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Experiment, Manifest
from gcloud_ops.errors import AlreadyExists, NotFound

from .conftest import Answers

NUMBERS = count(1)


@pytest.fixture(scope="module")
def bucket(clients: Clients) -> str:
    """A bucket of this module's."""
    assert objects.ensure_bucket(clients, "adapters-storage")
    return "adapters-storage"


@pytest.fixture
def sweep() -> str:
    """A new sweep's name."""
    return f"sweep{next(NUMBERS)}"


def manifest_of(sweep: str, *, created: datetime | None = None) -> Manifest:
    """A manifest of two experiments."""
    return Manifest(
        sweep=sweep,
        created=created or datetime(2026, 11, 22, 10, tzinfo=UTC),
        project="local",
        zone="europe-west1-b",
        template="sinergym-template",
        dispatch=Dispatch.SSH,
        launcher={"user": "ana", "host": "laptop", "version": "0.1.0"},
        experiments=tuple(
            Experiment(id=f"{sweep}-{number:04d}", command=f"echo größe {number}")
            for number in (1, 2)
        ),
    )


def record_of(sweep: str, number: int, **more: object) -> dict[str, object]:
    """The JSON of a record."""
    return {
        "schema": 1,
        "sweep": sweep,
        "experiment": f"{sweep}-{number:04d}",
        "attempt": 1,
        "state": "running",
        **more,
    }


def put(clients: Clients, bucket: str, name: str, content: bytes) -> None:
    """Write an object."""
    clients.storage.bucket(bucket).blob(name).upload_from_string(content, checksum=None)


def put_log(
    clients: Clients, bucket: str, sweep: str, pieces: list[bytes], attempt: int = 1
) -> str:
    """Write a log in segments; returns the experiment."""
    experiment, offset = f"{sweep}-0001", 0
    for piece in pieces:
        name = f"{sweep}/{experiment}/log/{attempt}/{offset:012d}.log"
        put(clients, bucket, name, piece)
        offset += len(piece)
    return experiment


# ---------------------------------------------------------------- manifests and records


def test_without_a_bucket(clients: Clients) -> None:
    """Sweeps and records are none, what must be there is an error that names it."""
    assert list_manifests(clients, "no-such-bucket-here") == ()
    assert list_records(clients, "no-such-bucket-here", "quick") == {}
    with pytest.raises(NotFound, match=r"^sweep quick: The specified bucket does not exist\.$"):
        create_manifest(clients, "no-such-bucket-here", manifest_of("quick"))


def test_a_manifest_is_written_once(clients: Clients, bucket: str, sweep: str) -> None:
    """It is read back as it was, and the name is taken; what there isn't says so."""
    manifest = manifest_of(sweep)

    create_manifest(clients, bucket, manifest)

    assert read_manifest(clients, bucket, sweep) == manifest
    create_manifest(clients, bucket, manifest)  # the same one: a retry of ours
    with pytest.raises(AlreadyExists, match=f"sweep {sweep}: there is one of this name"):
        create_manifest(
            clients, bucket, manifest_of(sweep, created=datetime(2026, 1, 1, tzinfo=UTC))
        )
    with pytest.raises(NotFound, match="sweep another: there is none"):
        read_manifest(clients, bucket, "another")


def test_one_of_many_launchers_wins(clients: Clients, bucket: str, sweep: str) -> None:
    """Eight launchers of the same name at once: one owns it."""
    results: list[str] = []

    def launch(minute: int) -> None:
        created = datetime(2026, 11, 22, 10, minute, tzinfo=UTC)
        try:
            create_manifest(clients, bucket, manifest_of(sweep, created=created))
            results.append("won")
        except AlreadyExists:
            results.append("lost")

    threads = [threading.Thread(target=launch, args=(minute,)) for minute in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == ["lost"] * 7 + ["won"]


def test_sweeps_are_listed_newest_first(clients: Clients) -> None:
    """With time and number of experiments; deeper objects of the name are none."""
    objects.ensure_bucket(clients, "listing-storage")
    for day, name in enumerate(("older", "newer", "newest"), start=1):
        created = datetime(2026, 11, day, tzinfo=UTC)
        create_manifest(clients, "listing-storage", manifest_of(name, created=created))
    put(clients, "listing-storage", "older/output/sweep.json", b"{}")
    put(clients, "listing-storage", "sweep.json", b"{}")
    put(clients, "listing-storage", "foreign/sweep.json", b"{}")

    found = {one.name: one for one in list_manifests(clients, "listing-storage")}

    assert [name for name in found if name != "foreign"] == ["newest", "newer", "older"]
    assert found["older"].created == datetime(2026, 11, 1, tzinfo=UTC)
    assert found["older"].experiments == 2
    assert found["foreign"].experiments == 0


def test_records_are_replaced_only_when_unchanged(
    clients: Clients, bucket: str, sweep: str
) -> None:
    """Generation 0 creates; an old generation loses, and changes nothing."""
    first = replace_record(
        clients, bucket, sweep, f"{sweep}-0001", record_of(sweep, 1), generation=0
    )
    second = replace_record(
        clients,
        bucket,
        sweep,
        f"{sweep}-0001",
        record_of(sweep, 1, state="finished"),
        generation=first,
    )

    for old in (0, first):
        with pytest.raises(AlreadyExists):
            replace_record(
                clients,
                bucket,
                sweep,
                f"{sweep}-0001",
                record_of(sweep, 1, state="cancelled"),
                generation=old,
            )
    record = list_records(clients, bucket, sweep)[f"{sweep}-0001"]
    assert record.state == "finished"
    assert record.generation == second != first


def test_records_come_with_the_listing(clients: Clients, bucket: str, sweep: str) -> None:
    """From the metadata where they fit, from the object where not; broken ones not at all."""
    big = {"noise": "ü" * 9000}
    for number, more in ((1, {}), (2, {"versions": big})):
        replace_record(
            clients,
            bucket,
            sweep,
            f"{sweep}-{number:04d}",
            record_of(sweep, number, **more),
            generation=0,
        )
    put(clients, bucket, f"{sweep}/records/{sweep}-0003.json", b"{broken")
    put(clients, bucket, f"{sweep}/records/{sweep}-0004.json", b'{"schema": 99}')
    liar = json.dumps(record_of(sweep, 1)).encode()
    put(clients, bucket, f"{sweep}/records/{sweep}-0005.json", liar)

    found = list_records(clients, bucket, sweep)

    assert sorted(found) == [f"{sweep}-0001", f"{sweep}-0002"]
    assert found[f"{sweep}-0002"].versions == big
    assert all(record.generation > 0 for record in found.values())


def test_a_thousand_records_cost_one_call(answers: Answers) -> None:
    """No object is read when the listing says it all."""
    items = [
        {
            "name": f"quick/records/quick-{number:04d}.json",
            "generation": str(number),
            "metadata": {"record": json.dumps(record_of("quick", number))},
        }
        for number in range(1, 1001)
    ]
    answers.say((200, {"items": items}))

    found = list_records(answers.clients, "data", "quick")

    assert len(found) == 1000
    assert found["quick-0007"].generation == 7
    assert len(answers.requests) == 1


# -------------------------------------------------------------------------------- logs


def test_a_log_is_its_segments_joined(clients: Clients, bucket: str, sweep: str) -> None:
    """From any byte on; and the offset goes on where the answer ended."""
    pieces = [b"one\ntw", b"o\nthree", b"\n\xff\n"]
    experiment = put_log(clients, bucket, sweep, pieces)
    whole = b"".join(pieces)

    for offset in range(len(whole) + 2):
        found, after = read_log(clients, bucket, sweep, experiment, offset=offset)
        assert found == whole[offset:]
        assert after == max(offset, len(whole))


def test_a_log_far_longer_than_the_look_back(clients: Clients, bucket: str, sweep: str) -> None:
    """The segment that holds a byte is found though it began long before it."""
    pieces = [b"a" * 70_000, b"b" * 200_000, b"c" * 10]
    experiment = put_log(clients, bucket, sweep, pieces)
    whole = b"".join(pieces)

    for offset in (69_999, 70_000, 140_000, 269_999, 270_000, 270_009, 270_010):
        found, after = read_log(clients, bucket, sweep, experiment, offset=offset)
        assert (found, after) == (whole[offset:], len(whole))


def test_the_latest_attempt_is_read(clients: Clients, bucket: str, sweep: str) -> None:
    """The tenth is later than the ninth; an attempt can be named."""
    for attempt in (2, 9, 10):
        experiment = put_log(clients, bucket, sweep, [b"attempt %d\n" % attempt], attempt)

    assert read_log(clients, bucket, sweep, experiment)[0] == b"attempt 10\n"
    assert read_log(clients, bucket, sweep, experiment, attempt=2)[0] == b"attempt 2\n"
    assert read_log(clients, bucket, sweep, experiment, attempt=3) == (b"", 0)
    assert read_log(clients, bucket, sweep, f"{sweep}-0002", offset=5) == (b"", 5)


def test_the_tail_of_a_log(clients: Clients, bucket: str, sweep: str) -> None:
    """The last lines, over the borders of segments; with the log's length."""
    pieces = [b"1\n2\n", b"3", b"\n4\n5", b"\n6"]
    experiment = put_log(clients, bucket, sweep, pieces)
    whole = b"".join(pieces)
    lines = whole.splitlines(keepends=True)

    for wanted in range(9):
        found = tail_log(clients, bucket, sweep, experiment, lines=wanted)
        assert found == (b"".join(lines[-wanted:] if wanted else []), len(whole))
    assert tail_log(clients, bucket, sweep, "none-0001", lines=3) == (b"", 0)


def test_a_tail_reads_only_what_it_needs(answers: Answers) -> None:
    """A long log's last line costs a listing and the last segments."""
    items = [
        {"name": f"quick/quick-0001/log/1/{begin:012d}.log", "size": "100"}
        for begin in range(0, 100_000, 100)
    ]
    answers.say((200, {"items": items}), (200, "last\nlines\n"))

    found, length = tail_log(answers.clients, "data", "quick", "quick-0001", lines=1, attempt=1)

    assert (found, length) == (b"lines\n", 100_000)
    assert len(answers.requests) == 2
