"""Buckets, listings, downloads and deletion, over HTTP against the local cloud."""

import os
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gcloud_ops import objects
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest, NotFound, PermissionDenied
from gcloud_ops.objects import Entry

from .conftest import Answers

NUMBERS = count(1)


@pytest.fixture(scope="module")
def bucket(clients: Clients) -> str:
    """A bucket of this module's."""
    assert objects.ensure_bucket(clients, "objects-storage")
    return "objects-storage"


@pytest.fixture
def sweep() -> str:
    """A new sweep's name."""
    return f"sweep{next(NUMBERS)}"


def put(clients: Clients, bucket: str, name: str, content: bytes) -> None:
    """Write an object."""
    clients.storage.bucket(bucket).blob(name).upload_from_string(content, checksum=None)


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
    """Nothing is to be deleted, and listing names the bucket that isn't there."""
    assert objects.delete_prefix(clients, "no-such-bucket-here", "quick/") == 0
    with pytest.raises(NotFound, match="no-such-bucket-here"):
        objects.list_objects(clients, "no-such-bucket-here")


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
