"""Manifest, records, logs and files, over HTTP against the local cloud."""

import json
import os
import threading
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gcloud_ops import bucket as objects
from gcloud_ops.bucket import Entry
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Experiment, Manifest
from gcloud_ops.errors import AlreadyExists, InvalidRequest, NotFound, PermissionDenied

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


# --------------------------------------------------------------------------- the bucket


def test_a_bucket_is_made_once(clients: Clients, bucket: str) -> None:
    """In the European Union, closed to the public; a second time nothing is made."""
    assert not objects.ensure_bucket(clients, bucket)
    assert objects.bucket_exists(clients, bucket)
    assert not objects.bucket_exists(clients, "no-such-bucket-here")
    found = clients.storage.get_bucket(bucket)
    assert found.location == "EU"
    assert found.iam_configuration.uniform_bucket_level_access_enabled
    assert found.labels == {"created-by": "gcloud-ops"}


def test_a_bucket_of_somebody_else(answers: Answers) -> None:
    """Forbidden to look at, or there though it can't be seen: the name is taken."""
    answers.say(answers.error(403, "forbidden", "ana does not have storage.objects.list access."))
    with pytest.raises(PermissionDenied) as caught:
        objects.ensure_bucket(answers.clients, "data")
    assert "--bucket" in caught.value.hint

    gone, taken = answers.error(404, "notFound"), answers.error(409, "conflict")
    answers.say(gone, taken, gone)
    with pytest.raises(PermissionDenied, match="bucket data: it belongs to somebody else"):
        objects.ensure_bucket(answers.clients, "data")


def test_a_bucket_made_by_another_launcher_meanwhile(answers: Answers) -> None:
    """Losing that race is no error."""
    answers.say(
        answers.error(404, "notFound"), answers.error(409, "conflict"), (200, {"items": []})
    )

    assert not objects.ensure_bucket(answers.clients, "data")


def test_without_a_bucket(clients: Clients) -> None:
    """Sweeps and records are none, what must be there is an error that names it."""
    assert objects.list_manifests(clients, "no-such-bucket-here") == ()
    assert objects.list_records(clients, "no-such-bucket-here", "quick") == {}
    assert objects.delete_prefix(clients, "no-such-bucket-here", "quick/") == 0
    with pytest.raises(NotFound, match="no-such-bucket-here"):
        objects.list_objects(clients, "no-such-bucket-here")
    with pytest.raises(NotFound, match=r"^sweep quick: The specified bucket does not exist\.$"):
        objects.create_manifest(clients, "no-such-bucket-here", manifest_of("quick"))


# ---------------------------------------------------------------- manifests and records


def test_a_manifest_is_written_once(clients: Clients, bucket: str, sweep: str) -> None:
    """It is read back as it was, and the name is taken; what there isn't says so."""
    manifest = manifest_of(sweep)

    objects.create_manifest(clients, bucket, manifest)

    assert objects.read_manifest(clients, bucket, sweep) == manifest
    objects.create_manifest(clients, bucket, manifest)  # the same one: a retry of ours
    with pytest.raises(AlreadyExists, match=f"sweep {sweep}: there is one of this name"):
        objects.create_manifest(
            clients, bucket, manifest_of(sweep, created=datetime(2026, 1, 1, tzinfo=UTC))
        )
    with pytest.raises(NotFound, match="sweep another: there is none"):
        objects.read_manifest(clients, bucket, "another")


def test_one_of_many_launchers_wins(clients: Clients, bucket: str, sweep: str) -> None:
    """Eight launchers of the same name at once: one owns it."""
    results: list[str] = []

    def launch(minute: int) -> None:
        created = datetime(2026, 11, 22, 10, minute, tzinfo=UTC)
        try:
            objects.create_manifest(clients, bucket, manifest_of(sweep, created=created))
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
        objects.create_manifest(clients, "listing-storage", manifest_of(name, created=created))
    put(clients, "listing-storage", "older/output/sweep.json", b"{}")
    put(clients, "listing-storage", "sweep.json", b"{}")
    put(clients, "listing-storage", "foreign/sweep.json", b"{}")

    found = {one.name: one for one in objects.list_manifests(clients, "listing-storage")}

    assert [name for name in found if name != "foreign"] == ["newest", "newer", "older"]
    assert found["older"].created == datetime(2026, 11, 1, tzinfo=UTC)
    assert found["older"].experiments == 2
    assert found["foreign"].experiments == 0


def test_records_are_replaced_only_when_unchanged(
    clients: Clients, bucket: str, sweep: str
) -> None:
    """Generation 0 creates; an old generation loses, and changes nothing."""
    first = objects.replace_record(
        clients, bucket, sweep, f"{sweep}-0001", record_of(sweep, 1), generation=0
    )
    second = objects.replace_record(
        clients,
        bucket,
        sweep,
        f"{sweep}-0001",
        record_of(sweep, 1, state="finished"),
        generation=first,
    )

    for old in (0, first):
        with pytest.raises(AlreadyExists):
            objects.replace_record(
                clients,
                bucket,
                sweep,
                f"{sweep}-0001",
                record_of(sweep, 1, state="cancelled"),
                generation=old,
            )
    record = objects.list_records(clients, bucket, sweep)[f"{sweep}-0001"]
    assert record.state == "finished"
    assert record.generation == second != first


def test_records_come_with_the_listing(clients: Clients, bucket: str, sweep: str) -> None:
    """From the metadata where they fit, from the object where not; broken ones not at all."""
    big = {"noise": "ü" * 9000}
    for number, more in ((1, {}), (2, {"versions": big})):
        objects.replace_record(
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

    found = objects.list_records(clients, bucket, sweep)

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

    found = objects.list_records(answers.clients, "data", "quick")

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
        found, after = objects.read_log(clients, bucket, sweep, experiment, offset=offset)
        assert found == whole[offset:]
        assert after == max(offset, len(whole))


def test_a_log_far_longer_than_the_look_back(clients: Clients, bucket: str, sweep: str) -> None:
    """The segment that holds a byte is found though it began long before it."""
    pieces = [b"a" * 70_000, b"b" * 200_000, b"c" * 10]
    experiment = put_log(clients, bucket, sweep, pieces)
    whole = b"".join(pieces)

    for offset in (69_999, 70_000, 140_000, 269_999, 270_000, 270_009, 270_010):
        found, after = objects.read_log(clients, bucket, sweep, experiment, offset=offset)
        assert (found, after) == (whole[offset:], len(whole))


def test_the_latest_attempt_is_read(clients: Clients, bucket: str, sweep: str) -> None:
    """The tenth is later than the ninth; an attempt can be named."""
    for attempt in (2, 9, 10):
        experiment = put_log(clients, bucket, sweep, [b"attempt %d\n" % attempt], attempt)

    assert objects.read_log(clients, bucket, sweep, experiment)[0] == b"attempt 10\n"
    assert objects.read_log(clients, bucket, sweep, experiment, attempt=2)[0] == b"attempt 2\n"
    assert objects.read_log(clients, bucket, sweep, experiment, attempt=3) == (b"", 0)
    assert objects.read_log(clients, bucket, sweep, f"{sweep}-0002", offset=5) == (b"", 5)


def test_the_tail_of_a_log(clients: Clients, bucket: str, sweep: str) -> None:
    """The last lines, over the borders of segments; with the log's length."""
    pieces = [b"1\n2\n", b"3", b"\n4\n5", b"\n6"]
    experiment = put_log(clients, bucket, sweep, pieces)
    whole = b"".join(pieces)
    lines = whole.splitlines(keepends=True)

    for wanted in range(9):
        found = objects.tail_log(clients, bucket, sweep, experiment, lines=wanted)
        assert found == (b"".join(lines[-wanted:] if wanted else []), len(whole))
    assert objects.tail_log(clients, bucket, sweep, "none-0001", lines=3) == (b"", 0)


def test_a_tail_reads_only_what_it_needs(answers: Answers) -> None:
    """A long log's last line costs a listing and the last segments."""
    items = [
        {"name": f"quick/quick-0001/log/1/{begin:012d}.log", "size": "100"}
        for begin in range(0, 100_000, 100)
    ]
    answers.say((200, {"items": items}), (200, "last\nlines\n"))

    found, length = objects.tail_log(
        answers.clients, "data", "quick", "quick-0001", lines=1, attempt=1
    )

    assert (found, length) == (b"lines\n", 100_000)
    assert len(answers.requests) == 2


# ------------------------------------------------------------------------------- files


def test_listing_by_folder(clients: Clients, bucket: str, sweep: str) -> None:
    """With a delimiter one level, without all; with sizes and times."""
    for name in ("a.txt", "sub/b.txt", "sub/c.txt"):
        put(clients, bucket, f"{sweep}/{name}", name.encode())

    flat = objects.list_objects(clients, bucket, f"{sweep}/")
    level = objects.list_objects(clients, bucket, f"{sweep}/", delimiter="/")

    assert [entry.name for entry in flat] == [
        f"{sweep}/a.txt",
        f"{sweep}/sub/b.txt",
        f"{sweep}/sub/c.txt",
    ]
    assert [(entry.name, entry.is_folder) for entry in level] == [
        (f"{sweep}/a.txt", False),
        (f"{sweep}/sub/", True),
    ]
    assert (flat[1].size, flat[1].updated is not None) == (9, True)
    assert objects.list_objects(clients, bucket, f"{sweep}/none") == ()


def test_pulling_a_folder(clients: Clients, bucket: str, sweep: str, tmp_path: Path) -> None:
    """Its files arrive whole, and not those of a folder whose name goes on."""
    content = {f"sub/{number}.bin": os.urandom(1000 * number) for number in range(20)}
    for name, data in content.items():
        put(clients, bucket, f"{sweep}/{name}", data)
    put(clients, bucket, f"{sweep}x/other", b"")
    told: list[tuple[Entry, Path]] = []

    paths = objects.pull(
        clients, bucket, sweep, tmp_path, on_file=lambda entry, path: told.append((entry, path))
    )

    assert sorted(paths) == sorted(tmp_path / name for name in content)
    assert {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in paths} == content
    assert sorted(path for _, path in told) == sorted(paths)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(paths)


def test_pulling_again_only_repairs(
    clients: Clients, bucket: str, sweep: str, tmp_path: Path
) -> None:
    """A file with the same content stays untouched, another one is replaced."""
    for name in ("same", "changed"):
        put(clients, bucket, f"{sweep}/{name}", name.encode())
    same, changed = sorted(objects.pull(clients, bucket, sweep, tmp_path), reverse=True)
    os.utime(same, (1, 1))
    changed.write_bytes(b"CHANGED")

    objects.pull(clients, bucket, f"{sweep}/", tmp_path)

    assert same.stat().st_mtime == 1
    assert changed.read_bytes() == b"changed"


def test_pulling_one_object(clients: Clients, bucket: str, sweep: str, tmp_path: Path) -> None:
    """Its last name is the file's; nothing there is an error."""
    put(clients, bucket, f"{sweep}/a/model.zip", b"model")

    assert objects.pull(clients, bucket, f"{sweep}/a/model.zip", tmp_path) == (
        tmp_path / "model.zip",
    )
    with pytest.raises(NotFound, match="nothing is under"):
        objects.pull(clients, bucket, f"{sweep}/b", tmp_path)


def test_a_folder_that_cannot_be_written(
    clients: Clients, bucket: str, sweep: str, tmp_path: Path
) -> None:
    """One line that names the file."""
    put(clients, bucket, f"{sweep}/a/b", b"")
    (tmp_path / "a").write_text("a file where a folder must be")

    with pytest.raises(InvalidRequest, match="can't be written"):
        objects.pull(clients, bucket, sweep, tmp_path)


def test_a_damaged_download_is_no_file(answers: Answers, tmp_path: Path) -> None:
    """When the checksum doesn't fit, nothing is left, not even a part."""
    listing = {"items": [{"name": "quick/a", "size": "5", "md5Hash": "x"}]}
    answers.say((200, listing), answers.error(503, "backendError"))

    with pytest.raises(Exception, match="quick/a"):
        objects.pull(answers.clients, "data", "quick", tmp_path)

    assert list(tmp_path.iterdir()) == []


NAMES = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(["..", ".", "", "a", "a~", "b", "\\", "C:", "/"]), st.text("a.:\0")
        ),
        min_size=1,
        max_size=4,
    ).map("/".join),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(names=NAMES)
@hypothesis_settings(max_examples=300)
def test_no_name_leaves_the_folder(names: list[str]) -> None:
    """Whatever the objects are called: below the folder, all different, none in another's way."""
    folder = Path("/pulled")
    paths = objects._paths_below(folder, names)

    assert len(set(paths)) == len(names)
    for path in paths:
        assert Path(os.path.normpath(path)) == path
        assert path.is_relative_to(folder)
        assert path != folder
        assert not set(path.parents) & set(paths)


def test_deleting_a_sweeps_objects(clients: Clients, bucket: str, sweep: str) -> None:
    """All of its own, none of a sweep whose name goes on; never the whole bucket."""
    for number in range(30):
        put(clients, bucket, f"{sweep}/{number}", b"")
    put(clients, bucket, f"{sweep}0/keep", b"")

    assert objects.delete_prefix(clients, bucket, sweep) == 30
    assert objects.delete_prefix(clients, bucket, f"{sweep}/") == 0
    assert len(objects.list_objects(clients, bucket, f"{sweep}0/")) == 1
    for prefix in ("", "/"):
        with pytest.raises(InvalidRequest, match="prefix"):
            objects.delete_prefix(clients, bucket, prefix)
