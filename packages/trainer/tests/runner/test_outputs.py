"""Uploads of a folder, over HTTP on loopback."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sinergym_trainer.outputs import Uploaded, Uploader, UploadFailed, connect, upload_tree


@pytest.fixture
def bucket(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bucket, found through the environment as the official client does."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.address)
    return connect("bucket")


def test_a_tree_is_uploaded(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """Every file arrives under the prefix: empty, large, nested, with a strange name."""
    large = os.urandom(20 << 20)
    files = {"a": b"", "b/c.zip": b"zip", "b/ü %2F?#.csv": b"csv", "large.bin": large}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    assert upload_tree(tmp_path, "bucket", "s/s-0001/output/") == Uploaded(
        files=4, bytes=sum(map(len, files.values()))
    )
    assert {n: o["content"] for n, o in cloud.objects.items()} == {
        f"s/s-0001/output/{name}": content for name, content in files.items()
    }


def test_what_leaves_the_folder_is_not_followed(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """Links to the outside, sockets, pipes and impossible names are left out; inner links not."""
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "key").write_text("secret")
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "model").write_text("model")
    (folder / "latest").symlink_to("model")
    (folder / "key").symlink_to(outside / "key")
    (folder / "dir").symlink_to(outside)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "new\nline").write_text("x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        result = Uploader(lambda: bucket, folder, {"": "p/"}).sync()

    assert {n: o["content"] for n, o in cloud.objects.items()} == {
        "p/model": b"model",
        "p/latest": b"model",
    }
    assert (result.failed, result.skipped) == ({}, ("new\nline",))


@pytest.mark.slow
def test_only_what_changed_is_sent_again(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """The second pass sends nothing; a changed file is sent, also with its size and time kept."""
    uploader = Uploader(lambda: bucket, tmp_path, {"": "o/", "tensorboard/": "t/"})
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").write_text("1")
    (tmp_path / "progress.csv").write_text("one")
    first = uploader.sync()
    assert first.uploaded == 2
    assert set(cloud.objects) == {"t/events", "o/progress.csv"}

    status = (tmp_path / "progress.csv").stat()
    (tmp_path / "progress.csv").write_text("two")
    os.utime(tmp_path / "progress.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    uploader.sync()
    assert cloud.objects["o/progress.csv"]["content"] == b"two"
    assert uploader.total == Uploaded(files=2, bytes=4)

    deadline = time.monotonic() + 10
    while uploader.sync().uploaded:  # while the files are too young to be sure
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = cloud.objects["o/progress.csv"]["generation"]
    assert uploader.sync().uploaded == 0
    assert cloud.objects["o/progress.csv"]["generation"] == before


def test_several_at_a_time(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """Files are sent in parallel, but not all at once."""
    cloud.upload_seconds = 0.05
    for number in range(12):
        (tmp_path / str(number)).write_text("x")
    Uploader(lambda: bucket, tmp_path, {"": "p/"}).sync()

    assert len(cloud.objects) == 12
    assert 2 <= cloud.most_at_once <= 4


@pytest.mark.slow
def test_passing_trouble_is_tried_again(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """A burst of 503 costs time, not files: one pass waits it out."""
    (tmp_path / "x").write_text("x")
    cloud.failing = 2
    result = Uploader(lambda: bucket, tmp_path, {"": "p/"}).sync()

    assert (result.uploaded, result.failed) == (1, {})
    assert cloud.refused == 2
    assert cloud.objects["p/x"]["content"] == b"x"


def test_a_failure_is_reported(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """What could not be sent is named with the reason, and sent by a later pass."""
    (tmp_path / "x").write_text("x")
    uploader = Uploader(lambda: bucket, tmp_path, {"": "p/"})
    cloud.failing = 1000
    result = uploader.sync(stop=lambda: True)
    assert "x" in result.failed
    cloud.failing = 0

    assert uploader.sync().failed == {}
    assert uploader.total.files == 1


def test_upload_tree_gives_up(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """A bucket that refuses for good ends in one error that names the file."""
    (tmp_path / "x").write_text("x")
    with pytest.raises(UploadFailed, match=r"x to gs://other/p: .*404"):
        upload_tree(tmp_path, "other", "p", pauses=(0.01,))


def test_what_is_unfinished_stays_here(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """Names with a dot in front or `.tmp` behind are not uploaded until they are renamed."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "config").write_text("x")
    (tmp_path / "checkpoints" / ".checkpoint.tmp").write_text("half")
    (tmp_path / "model.zip.tmp").write_text("half")
    uploader = Uploader(lambda: bucket, tmp_path, {"": "o/"})
    assert uploader.sync().uploaded == 1
    assert set(cloud.objects) == {"o/.hidden/config"}

    (tmp_path / "model.zip.tmp").rename(tmp_path / "model.zip")
    uploader.sync()
    assert set(cloud.objects) == {"o/.hidden/config", "o/model.zip"}


def test_checkpoints_and_models_go_first(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """When there is little time, what a training goes on with is there, and graphs are not."""
    first = ("checkpoints/checkpoint-1.zip", "model.zip", "model.json", "normalization.npz")
    others = ("a.csv", "sinergym/x/a.csv", "tensorboard/events", "zz", "b.csv", "evaluations.npz")
    for name in (*others, *first):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    cloud.upload_seconds = 0.3
    begun = time.monotonic()
    result = Uploader(lambda: bucket, tmp_path, {"": ""}).sync(
        lambda: time.monotonic() > begun + 0.2
    )

    assert set(cloud.objects) == set(first)
    assert set(result.failed) == set(others)


@pytest.mark.slow
def test_a_file_replaced_on_its_way(cloud: Any, bucket: Any, tmp_path: Path) -> None:
    """The object is the old file or the new one, and after another pass the new one."""
    old, new = os.urandom(20 << 20), os.urandom(18 << 20)
    path = tmp_path / "checkpoint-1.zip"
    path.write_bytes(old)
    cloud.upload_seconds = 0.1
    uploader = Uploader(lambda: bucket, tmp_path, {"": "o/"})
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(uploader.sync)
        deadline = time.monotonic() + 20
        while not any(len(it["content"]) for it in cloud._uploads.values()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        (tmp_path / "next.tmp").write_bytes(new)
        (tmp_path / "next.tmp").rename(path)
        assert "o/checkpoint-1.zip" not in cloud.objects
        assert sending.result().failed == {}
    assert cloud.objects["o/checkpoint-1.zip"]["content"] == old

    uploader.sync()
    assert cloud.objects["o/checkpoint-1.zip"]["content"] == new
