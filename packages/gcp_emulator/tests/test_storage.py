"""Cloud Storage of the local cloud, through Google's own client and through plain HTTP."""

import asyncio
import concurrent.futures
import datetime
import functools
import gzip
import io
import json
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import jsonschema
import pytest
import requests
from aiohttp import web
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager
from hypothesis import strategies

from gcp_emulator.replies import GoogleError
from gcp_emulator.storage.api import Storage
from gcp_emulator.storage.listing import Listing, glob_matcher
from gcp_emulator.storage.objects import Conditions, ObjectStore

NAMES = strategies.text(
    strategies.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1
).filter(lambda name: len(name.encode()) <= 1024 and name not in (".", ".."))


@dataclass(frozen=True)
class Server:
    """A running storage server and a client of it."""

    url: str
    client: storage.Client
    folder: Path


@web.middleware
async def errors_as_google(
    request: web.Request, handler: Callable[[web.Request], Any]
) -> web.StreamResponse:
    """What the server's middleware does."""
    try:
        answer: web.StreamResponse = await handler(request)
    except GoogleError as error:
        return error.to_response()
    return answer


class Thread(threading.Thread):
    """A storage server on a free port of loopback, in a thread: Google's client blocks."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.options = options
        self.url = ""
        self.up = threading.Event()
        self.end: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Serve until told to end."""
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """Serve."""
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.end = lambda: loop.call_soon_threadsafe(ending.set)  # type: ignore[assignment]
        served = Storage(self.folder, **self.options)
        app = web.Application(middlewares=[errors_as_google])
        served.add_routes(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.up.set()
        await ending.wait()
        await served.close()
        await runner.cleanup()


def start(folder: Path, **options: Any) -> Thread:
    """A server that is up."""
    thread = Thread(folder, **options)
    thread.start()
    assert thread.up.wait(10)
    return thread


def client_of(url: str) -> storage.Client:
    """Google's client of the server at a URL."""
    return storage.Client(
        project="local",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": url},
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests; each has a bucket of its own."""
    folder = tmp_path_factory.mktemp("storage")
    thread = start(folder)
    yield Server(thread.url, client_of(thread.url), folder)
    thread.end()
    thread.join(10)


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> storage.Bucket:
    """A bucket of the test's own."""
    number = abs(hash(request.node.name)) % 10**8
    return server.client.create_bucket(f"test-{number}", location="eu")


@functools.cache
def validators() -> Callable[[str, Any], None]:
    """Checks JSON against a schema of Google's discovery document."""
    import googleapiclient

    path = Path(googleapiclient.__file__).parent / "discovery_cache/documents/storage.v1.json"
    document = json.loads(path.read_text(encoding="utf-8"))

    def strict(value: Any, inside_properties: bool = False) -> Any:
        if isinstance(value, list):
            return [strict(item) for item in value]
        if not isinstance(value, dict):
            return value
        if inside_properties:
            return {key: strict(item) for key, item in value.items()}
        kept = {
            key: strict(item, key == "properties")
            for key, item in value.items()
            if key not in ("id", "required", "format", "pattern", "description", "annotations")
        }
        if "$ref" in kept:
            return {"$ref": f"#/definitions/{kept['$ref']}"}
        if "properties" in kept:
            kept.setdefault("additionalProperties", False)
        return kept

    definitions = {name: strict(schema) for name, schema in document["schemas"].items()}

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/definitions/{name}", "definitions": definitions}
        jsonschema.Draft4Validator(schema).validate(value)

    return check


def test_replies_match_googles_discovery_document(server: Server, bucket: storage.Bucket) -> None:
    """Buckets, objects, lists, policies and rewrites have Google's members and types."""
    check = validators()
    base = f"{server.url}/storage/v1/b/{bucket.name}"
    blob = bucket.blob("a/b c")
    blob.metadata = {"record": "{}"}
    blob.upload_from_string(b"x")
    check("Bucket", requests.get(base, timeout=5).json())
    check("Buckets", requests.get(f"{server.url}/storage/v1/b?project=local", timeout=5).json())
    check("Object", requests.get(f"{base}/o/a%2Fb%20c", timeout=5).json())
    check("Objects", requests.get(f"{base}/o?delimiter=/&maxResults=1", timeout=5).json())
    check("Policy", requests.get(f"{base}/iam", timeout=5).json())
    answer = requests.post(f"{base}/o/a%2Fb%20c/rewriteTo/b/{bucket.name}/o/new", timeout=5)
    check("RewriteResponse", answer.json())
    with pytest.raises(jsonschema.ValidationError):
        check("Object", {"size": 3})


def test_bucket_keeps_what_it_was_given(server: Server, bucket: storage.Bucket) -> None:
    """Location, labels, lifecycle, uniform access and class come back as they were set."""
    bucket.labels = {"made-by": "tests"}
    bucket.add_lifecycle_delete_rule(age=7)
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.patch()
    again = server.client.get_bucket(bucket.name)
    assert again.location == "EU"
    assert again.location_type == "multi-region"
    assert again.labels == {"made-by": "tests"}
    assert [rule["action"]["type"] for rule in again.lifecycle_rules] == ["Delete"]
    assert again.iam_configuration.uniform_bucket_level_access_enabled
    assert again.metageneration == 2
    assert bucket.name in [found.name for found in server.client.list_buckets()]
    with pytest.raises(exceptions.Conflict, match="already own"):
        server.client.create_bucket(bucket.name)


@pytest.mark.parametrize(
    "name", ["ab", "Upper", "-dash", "goog-x", "my-google-b", "1.2.3.4", "a" * 64, "a..b", "a/b"]
)
def test_bucket_names_that_google_refuses(server: Server, name: str) -> None:
    """They answer 400 and nothing is made."""
    answer = requests.post(
        f"{server.url}/storage/v1/b?project=local", json={"name": name}, timeout=5
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["errors"][0]["reason"] == "invalid"


def test_bucket_is_deleted_only_when_empty(server: Server, bucket: storage.Bucket) -> None:
    """409 while it has objects; then it is gone and can be made again."""
    bucket.blob("x").upload_from_string("1")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        bucket.delete()
    bucket.delete(force=True)
    assert server.client.lookup_bucket(bucket.name) is None
    server.client.create_bucket(bucket.name)


def test_policy_is_replaced_with_its_etag(bucket: storage.Bucket) -> None:
    """A policy that was read before another's change is refused."""
    policy, stale = bucket.get_iam_policy(), bucket.get_iam_policy()
    policy["roles/storage.objectUser"] = {"serviceAccount:trainer@local"}
    bucket.set_iam_policy(policy)
    assert "roles/storage.objectUser" in bucket.get_iam_policy()
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.set_iam_policy(stale)
    asked = ["storage.objects.get", "storage.objects.list"]
    assert bucket.test_iam_permissions(asked) == asked


def test_object_round_trip_with_metadata(bucket: storage.Bucket) -> None:
    """Bytes, checksums, custom metadata and times are right; a reload sees the same."""
    blob = bucket.blob("dir/é ü%2F?#&.txt")
    blob.metadata = {"record": '{"a":1}'}
    blob.upload_from_string(b"hello", content_type="text/plain", checksum="crc32c")
    again = bucket.get_blob(blob.name)
    assert again is not None
    assert again.download_as_bytes() == b"hello"
    assert again.crc32c == "mnG7TA=="
    assert again.md5_hash == "XUFAKrxLKna5cZ2REBfFkg=="
    assert again.metadata == {"record": '{"a":1}'}
    assert again.size == 5
    assert again.content_type == "text/plain"
    age = datetime.datetime.now(datetime.UTC) - again.time_created
    assert abs(age.total_seconds()) < 60
    again.metadata = {"record": "2", "more": "3"}
    again.patch()
    assert again.metageneration == 2
    again.metadata = {"more": None}
    again.patch()
    again.reload()
    assert again.metadata == {"record": "2"}
    assert again.generation == blob.generation


def test_custom_metadata_has_a_limit(bucket: storage.Bucket) -> None:
    """8 KiB are accepted, a byte more is not, neither at upload nor later."""
    blob = bucket.blob("x")
    blob.metadata = {"k": "v" * (8 * 1024 - 1)}
    blob.upload_from_string("")
    too_much = bucket.blob("y")
    too_much.metadata = {"k": "v" * 8 * 1024}
    with pytest.raises(exceptions.BadRequest, match="metadata"):
        too_much.upload_from_string("")
    assert bucket.get_blob("y") is None
    blob.metadata = {"k": "v" * 8 * 1024}
    with pytest.raises(exceptions.BadRequest, match="metadata"):
        blob.patch()


def test_a_wrong_checksum_is_refused(server: Server, bucket: storage.Bucket) -> None:
    """The object is not made when the client's sum is another one."""
    url = f"{server.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=x"
    answer = requests.post(url, data=b"abc", headers={"X-Goog-Hash": "md5=AAAA"}, timeout=5)
    assert answer.status_code == 400
    assert bucket.get_blob("x") is None
    assert requests.post(url, data=b"abc", timeout=5).status_code == 200


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 3_000_000])
def test_resumable_upload_and_ranges(bucket: storage.Bucket, size: int) -> None:
    """Chunked uploads of any size arrive whole; ranges are cut exactly."""
    content = random.Random(size).randbytes(size)
    blob = bucket.blob("big", chunk_size=262_144)
    blob.upload_from_file(io.BytesIO(content), checksum="md5")
    assert blob.size == size
    assert bucket.blob("big").download_as_bytes() == content
    if size > 10:
        assert bucket.blob("big").download_as_bytes(start=3, end=9) == content[3:10]
        assert bucket.blob("big").download_as_bytes(start=size - 5) == content[-5:]
        chunked = bucket.blob("big", chunk_size=262_144)
        assert chunked.download_as_bytes() == content


def test_resumable_protocol_by_hand(server: Server, bucket: storage.Bucket) -> None:
    """308 with what is held, a status query, an overlap, a gap, an uneven chunk, a cancel."""
    url = f"{server.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=r"
    unit = 262_144
    content = random.Random(1).randbytes(2 * unit + 10)
    place = requests.post(url, json={"metadata": {"a": "b"}}, timeout=5).headers["Location"]

    def put(data: bytes, span: str) -> requests.Response:
        return requests.put(place, data=data, headers={"Content-Range": span}, timeout=5)

    asked = put(b"", "bytes */*")
    assert asked.status_code == 308
    assert "Range" not in asked.headers
    uneven = put(content[:10], "bytes 0-9/*")
    assert uneven.status_code == 400
    place = requests.post(url, json={"metadata": {"a": "b"}}, timeout=5).headers["Location"]
    first = put(content[:unit], f"bytes 0-{unit - 1}/*")
    assert first.status_code == 308
    assert first.headers["Range"] == f"bytes=0-{unit - 1}"
    assert put(content[:5], f"bytes {unit + 5}-{unit + 9}/{len(content)}").status_code == 400
    again = put(content[: 2 * unit], f"bytes 0-{2 * unit - 1}/*")
    assert again.headers["Range"] == f"bytes=0-{2 * unit - 1}"
    assert put(b"", f"bytes */{len(content)}").status_code == 308
    last = put(content[2 * unit :], f"bytes {2 * unit}-{len(content) - 1}/{len(content)}")
    assert last.status_code == 200
    assert last.json()["metadata"] == {"a": "b"}
    assert put(b"", f"bytes */{len(content)}").json()["generation"] == last.json()["generation"]
    assert bucket.blob("r").download_as_bytes() == content

    place = requests.post(url, timeout=5).headers["Location"]
    assert requests.delete(place, timeout=5).status_code == 499
    assert put(b"", "bytes */*").status_code == 404


def test_writing_and_reading_as_a_file(bucket: storage.Bucket, tmp_path: Path) -> None:
    """blob.open works in both directions, and upload_from_filename too."""
    with bucket.blob("text").open("w") as file:
        for number in range(1000):
            file.write(f"{number}\n")
    with bucket.blob("text").open("r") as file:
        assert file.read().split() == [str(number) for number in range(1000)]
    path = tmp_path / "f.json"
    path.write_text("{}")
    blob = bucket.blob("f")
    blob.upload_from_filename(str(path))
    assert blob.content_type == "application/json"


def test_generation_preconditions_are_enforced_everywhere(bucket: storage.Bucket) -> None:
    """Each method refuses with 412 when the object is another one, and changes nothing."""
    blob = bucket.blob("r")
    blob.upload_from_string("1", if_generation_match=0)
    first = blob.generation
    refused = pytest.raises(exceptions.PreconditionFailed)
    with refused:
        bucket.blob("r").upload_from_string("2", if_generation_match=0)
    with refused:
        bucket.blob("r", chunk_size=262_144).upload_from_file(
            io.BytesIO(b"2"), if_generation_match=0
        )
    with refused:
        bucket.blob("new").upload_from_string("2", if_generation_match=5)
    blob.upload_from_string("2", if_generation_match=first)
    second = bucket.get_blob("r").generation
    assert second > first
    with refused:
        bucket.blob("r").upload_from_string("3", if_generation_match=first)
    with refused:
        bucket.blob("r").upload_from_string("3", if_generation_not_match=second)
    with refused:
        bucket.blob("r").delete(if_generation_match=first)
    with refused:
        bucket.blob("r").download_as_bytes(if_generation_match=first)
    with refused:
        bucket.blob("r").reload(if_generation_match=first)
    with refused:
        bucket.blob("r").patch(if_metageneration_match=9)
    with refused:
        bucket.blob("copy").rewrite(bucket.blob("r"), if_source_generation_match=first)
    with refused:
        bucket.copy_blob(bucket.blob("r"), bucket, "r", if_generation_match=0)
    with refused:
        bucket.blob("r").compose([bucket.blob("r")], if_generation_match=first)
    with refused:
        bucket.patch(if_metageneration_match=99)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("r", generation=first).download_as_bytes()
    assert bucket.blob("r").download_as_bytes(if_generation_match=second) == b"2"
    bucket.blob("r").delete(if_generation_match=second)
    with pytest.raises(exceptions.NotFound, match="No such object"):
        bucket.blob("r").delete()


def test_a_resumable_upload_loses_a_race_at_its_end(
    server: Server, bucket: storage.Bucket
) -> None:
    """The precondition counts when the object is made, not only when the upload begins."""
    url = f"{server.url}/upload/storage/v1/b/{bucket.name}/o"
    place = requests.post(
        f"{url}?uploadType=resumable&name=r&ifGenerationMatch=0", timeout=5
    ).headers["Location"]
    bucket.blob("r").upload_from_string("winner")
    late = requests.put(place, data=b"loser", timeout=5)
    assert late.status_code == 412
    assert late.json()["error"]["errors"][0]["reason"] == "conditionNotMet"
    assert bucket.blob("r").download_as_bytes() == b"winner"


def test_a_reader_that_has_it_already_gets_304(server: Server, bucket: storage.Bucket) -> None:
    """IfGenerationNotMatch on a get answers 304 without a body."""
    blob = bucket.blob("x")
    blob.upload_from_string("1")
    url = f"{server.url}/storage/v1/b/{bucket.name}/o/x"
    answer = requests.get(f"{url}?ifGenerationNotMatch={blob.generation}", timeout=5)
    assert answer.status_code == 304
    assert answer.content == b""
    assert requests.get(f"{url}?ifGenerationNotMatch=1", timeout=5).status_code == 200
    assert requests.get(f"{url}?ifGenerationMatch=abc", timeout=5).status_code == 400


def test_one_of_many_wins_a_claim(bucket: storage.Bucket) -> None:
    """Of 16 writers with the same precondition exactly one succeeds, 10 times over."""
    blob = bucket.blob("claim")
    blob.upload_from_string("0")
    generation = blob.generation

    def claim(number: int) -> int | None:
        mine = bucket.blob("claim")
        try:
            mine.upload_from_string(str(number), if_generation_match=generation)
        except exceptions.PreconditionFailed:
            return None
        return int(mine.generation)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            won = [one for one in pool.map(claim, range(16)) if one is not None]
            assert len(won) == 1
            generation = won[0]


def test_listing(bucket: storage.Bucket) -> None:
    """Prefix, delimiter, offsets, globs, trailing delimiter and pages."""
    names = ["a/1.log", "a/2.log", "a/b/3.log", "a/b/c.txt", "b.log", "d/", "d/x", "é"]
    for name in names:
        bucket.blob(name).upload_from_string(name)

    def listed(**options: Any) -> list[str]:
        return [blob.name for blob in bucket.list_blobs(**options)]

    assert listed() == names
    assert listed(prefix="a/b") == ["a/b/3.log", "a/b/c.txt"]
    folders = bucket.list_blobs(delimiter="/")
    assert [blob.name for blob in folders] == ["b.log", "é"]
    assert folders.prefixes == {"a/", "d/"}
    inside = bucket.list_blobs(prefix="a/", delimiter="/")
    assert [blob.name for blob in inside] == ["a/1.log", "a/2.log"]
    assert inside.prefixes == {"a/b/"}
    assert listed(start_offset="a/b/3.log", end_offset="d/") == names[2:5]
    assert listed(match_glob="**.log") == ["a/1.log", "a/2.log", "a/b/3.log", "b.log"]
    assert listed(match_glob="a/*.log") == ["a/1.log", "a/2.log"]
    assert listed(match_glob="a/**/{3,c}.*") == ["a/b/3.log", "a/b/c.txt"]
    assert listed(match_glob="a/[!1].log") == ["a/2.log"]
    assert listed(delimiter="/", include_trailing_delimiter=True) == ["b.log", "d/", "é"]
    assert [len(list(page)) for page in bucket.list_blobs(page_size=3).pages] == [3, 3, 2]
    pages = bucket.list_blobs(page_size=1, delimiter="/")
    assert [blob.name for blob in pages] == ["b.log", "é"]
    assert pages.prefixes == {"a/", "d/"}


@hypothesis.given(
    names=strategies.lists(strategies.text("ab/", min_size=1, max_size=6), unique=True),
    prefix=strategies.text("ab/", max_size=2),
    delimiter=strategies.sampled_from(["", "/", "b/"]),
    limit=strategies.integers(1, 4),
)
@hypothesis.settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_pages_give_each_entry_once(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    prefix: str,
    delimiter: str,
    limit: int,
) -> None:
    """Any paging gives what one page would: every object and every folder, once, in order."""
    store = _store_with(tmp_path_factory, tuple(sorted(names)))
    bucket = store.bucket("bucket")
    expected: list[str] = []
    for name in sorted(names):
        if not name.startswith(prefix):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        entry = name if cut < 0 else name[: cut + len(delimiter)] + "*"
        if entry not in expected:
            expected.append(entry)
    found: list[str] = []
    after = None
    while True:
        items, prefixes, after = Listing(
            prefix=prefix, delimiter=delimiter, limit=limit, after=after
        ).page(bucket)
        assert 0 < len(items) + len(prefixes) <= limit or not expected
        found += sorted([i.resource["name"] for i in items] + [p + "*" for p in prefixes])
        if after is None:
            break
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found))


def _store_with(factory: pytest.TempPathFactory, names: tuple[str, ...]) -> ObjectStore:
    store = ObjectStore(factory.mktemp("store"))
    bucket = store.insert_bucket("local", {"name": "bucket"})
    for name in names:
        _put(store, bucket.name, name, b"")
    return store


def _put(store: ObjectStore, bucket: str, name: str, data: bytes) -> None:
    writing = store.writing()
    writing.write(data)
    store.insert(store.bucket(bucket), name, writing.finish(), {}, Conditions())


@hypothesis.given(
    name=NAMES | strategies.sampled_from(["../x", "/etc/passwd", "a/../../b", "%2e"])
)
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_any_name_is_kept_and_none_leaves_the_folder(
    server: Server, bucket_of_names: storage.Bucket, name: str
) -> None:
    """What Google allows as a name works through its client; nothing appears outside."""
    blob = bucket_of_names.blob(name)
    blob.upload_from_string(name.encode())
    assert bucket_of_names.blob(name).download_as_bytes() == name.encode()
    assert [found.name for found in bucket_of_names.list_blobs(prefix=name, max_results=1)] == [
        name
    ]
    blob.delete()
    outside = {path.name for path in server.folder.parent.iterdir()} - {server.folder.name}
    assert all(not found.startswith("x") for found in outside)
    assert {path.name for path in server.folder.iterdir()} == {"buckets", "content"}


@pytest.fixture(scope="module")
def bucket_of_names(server: Server) -> storage.Bucket:
    """A bucket for many names."""
    return server.client.create_bucket("test-names")


def test_copies_composition_and_move(server: Server, bucket: storage.Bucket) -> None:
    """Copies keep content and metadata or take new metadata; composition joins; move renames."""
    one, two = bucket.blob("one"), bucket.blob("two")
    one.metadata = {"k": "v"}
    one.upload_from_string(b"1" * 300_000, content_type="text/plain")
    two.upload_from_string(b"2")
    joined = bucket.blob("joined")
    joined.content_type = "text/x"
    joined.compose([one, two, one])
    joined.reload()
    content = b"1" * 300_000 + b"2" + b"1" * 300_000
    assert joined.download_as_bytes() == content
    assert joined.component_count == 3
    assert joined.md5_hash is None
    copied = bucket.copy_blob(one, bucket, "copied")
    assert (copied.metadata, copied.content_type) == ({"k": "v"}, "text/plain")
    one.delete()
    assert copied.download_as_bytes() == b"1" * 300_000
    target = bucket.blob("rewritten")
    token, done, total = target.rewrite(copied)
    assert (token, done, total) == (None, 300_000, 300_000)
    url = f"{server.url}/storage/v1/b/{bucket.name}/o/copied/moveTo/o/moved%2Fhere"
    assert requests.post(url, timeout=5).json()["name"] == "moved/here"
    assert bucket.get_blob("copied") is None


def test_batch_deletes_and_patches(server: Server, bucket: storage.Bucket) -> None:
    """A batch does each of its parts, and each fails on its own."""
    for number in range(20):
        bucket.blob(f"b/{number}").upload_from_string("x")
    with server.client.batch():
        for number in range(20):
            bucket.blob(f"b/{number}").delete()
    assert not list(bucket.list_blobs())
    kept = bucket.blob("kept")
    kept.upload_from_string("x")

    def both() -> None:
        with server.client.batch():
            bucket.blob("missing").delete()
            kept.metadata = {"a": "b"}
            kept.patch()

    with pytest.raises(exceptions.NotFound):
        both()
    assert bucket.get_blob("kept").metadata == {"a": "b"}


def test_transfer_manager(bucket: storage.Bucket, tmp_path: Path) -> None:
    """Many files up and down at once, and one file in pieces."""
    (tmp_path / "up" / "sub").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "up" / "sub" / f"{number}.txt").write_text(str(number))
    names = [f"sub/{number}.txt" for number in range(20)]
    thread = transfer_manager.THREAD
    results = transfer_manager.upload_many_from_filenames(
        bucket, names, source_directory=str(tmp_path / "up"), worker_type=thread
    )
    assert results == [None] * 20
    transfer_manager.download_many_to_path(
        bucket, names, destination_directory=str(tmp_path / "down"), worker_type=thread
    )
    assert (tmp_path / "down" / "sub" / "7.txt").read_text() == "7"
    content = random.Random(2).randbytes(2_000_000)
    blob = bucket.blob("large")
    blob.upload_from_string(content)
    transfer_manager.download_chunks_concurrently(
        blob, str(tmp_path / "large"), chunk_size=500_000, worker_type=thread
    )
    assert (tmp_path / "large").read_bytes() == content


def test_gzip_objects_are_unpacked_for_those_who_cannot(
    server: Server, bucket: storage.Bucket
) -> None:
    """With Accept-Encoding gzip the stored bytes come, else the plain ones."""
    blob = bucket.blob("z")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"plain" * 1000))
    url = f"{server.url}/storage/v1/b/{bucket.name}/o/z?alt=media"
    plain = requests.get(url, headers={"Accept-Encoding": "identity"}, timeout=5)
    assert plain.content == b"plain" * 1000
    packed = requests.get(url, headers={"Accept-Encoding": "gzip"}, timeout=5, stream=True)
    assert zlib.decompress(packed.raw.read(decode_content=False), 31) == b"plain" * 1000
    assert blob.download_as_bytes() == b"plain" * 1000


def test_bytes_that_look_like_boundaries_survive(server: Server, bucket: storage.Bucket) -> None:
    """A multipart upload ends at its boundary and nowhere else."""
    boundary = "==b=="
    tricky = b"\r\n--==b=\r\n--\r\n\r\n--==b" * 50_000 + b"\r\n--"
    body = (
        (
            f'--{boundary}\r\nContent-Type: application/json\r\n\r\n{{"name":"t"}}\r\n'
            f"--{boundary}\r\nContent-Type: x/y\r\n\r\n"
        ).encode()
        + tricky
        + f"\r\n--{boundary}--".encode()
    )
    answer = requests.post(
        f"{server.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart",
        data=body,
        headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
        timeout=5,
    )
    assert answer.json()["contentType"] == "x/y"
    assert bucket.blob("t").download_as_bytes() == tricky


def test_what_is_not_emulated_says_so(server: Server, bucket: storage.Bucket) -> None:
    """An unknown parameter answers 501, instead of being ignored."""
    base = f"{server.url}/storage/v1/b/{bucket.name}/o"
    answer = requests.get(f"{base}?somethingNew=1", timeout=5)
    assert answer.status_code == 501
    assert "somethingNew" in answer.json()["error"]["message"]
    assert requests.get(f"{base}?softDeleted=true", timeout=5).status_code == 501
    missing = requests.get(f"{server.url}/storage/v1/b/no-such-bucket/o", timeout=5)
    assert (missing.status_code, missing.json()["error"]["errors"][0]["reason"]) == (
        404,
        "notFound",
    )


def test_a_range_beyond_the_end_is_refused(server: Server, bucket: storage.Bucket) -> None:
    """416 tells the size; a suffix range gives the end."""
    bucket.blob("x").upload_from_string("0123456789")
    url = f"{server.url}/download/storage/v1/b/{bucket.name}/o/x?alt=media"
    beyond = requests.get(url, headers={"Range": "bytes=10-"}, timeout=5)
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */10")
    end = requests.get(url, headers={"Range": "bytes=-3"}, timeout=5)
    assert (end.status_code, end.text, end.headers["Content-Range"]) == (
        206,
        "789",
        "bytes 7-9/10",
    )


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    """Another server on the same folder has buckets, objects, metadata and policy."""
    first = start(tmp_path)
    made = client_of(first.url).create_bucket("kept")
    blob = made.blob("a/b")
    blob.metadata = {"k": "v"}
    blob.upload_from_string("content")
    (tmp_path / "content" / "leftover").write_text("of an interrupted upload")
    first.end()
    first.join(10)
    second = start(tmp_path)
    again = client_of(second.url).bucket("kept").get_blob("a/b")
    assert again.download_as_bytes() == b"content"
    assert (again.generation, again.metadata) == (blob.generation, {"k": "v"})
    assert not (tmp_path / "content" / "leftover").exists()
    again.upload_from_string("new", if_generation_match=again.generation)
    assert len(list((tmp_path / "content").iterdir())) == 1
    second.end()
    second.join(10)


def test_versions_are_kept_where_versioning_is_on(bucket: storage.Bucket) -> None:
    """What is replaced or deleted stays under its generation, until just that is deleted."""
    blob = bucket.blob("record")
    blob.upload_from_string("before")
    bucket.versioning_enabled = True
    bucket.patch()
    generations = []
    for content in ("one", "two"):
        blob.upload_from_string(content)
        generations.append(int(blob.generation))
    bucket.blob("other").upload_from_string("x")
    bucket.delete_blob("record")

    assert [one.name for one in bucket.list_blobs()] == ["other"]
    kept = [one for one in bucket.list_blobs(versions=True) if one.name == "record"]
    assert [one.download_as_bytes() for one in kept] == [b"before", b"one", b"two"]
    assert [int(one.generation) for one in kept[1:]] == generations
    assert all(one.time_deleted is not None for one in kept)
    assert bucket.get_blob("record") is None
    with pytest.raises(exceptions.Conflict):
        bucket.client.get_bucket(bucket.name).delete()

    for one in kept:
        one.delete()
    assert [one.name for one in bucket.list_blobs(versions=True)] == ["other"]
    # Deleted with its generation, a live one leaves no version either.
    other = bucket.get_blob("other")
    assert other is not None
    bucket.delete_blob("other", generation=other.generation)
    assert list(bucket.list_blobs(versions=True)) == []
    with pytest.raises(exceptions.NotFound):
        bucket.blob("record", generation=generations[0]).download_as_bytes()


def test_versions_survive_a_restart(tmp_path: Path) -> None:
    """With their bytes, and the order that they had."""
    store = ObjectStore(tmp_path)
    bucket = store.insert_bucket("local", {"name": "kept", "versioning": {"enabled": True}})
    for content in (b"one", b"two", b"three"):
        writing = store.writing()
        writing.write(content)
        store.insert(bucket, "a", writing.finish(), {}, Conditions())

    again = ObjectStore(tmp_path)
    versions = again.bucket("kept").all_versions("a")
    contents = []
    for stored in versions:
        with again.open(stored) as file:
            contents.append(file.read())
    assert contents == [b"one", b"two", b"three"]


def test_mutation_limit(tmp_path: Path) -> None:
    """Switched on, a second change of one object within a second answers 429, another's not."""
    thread = start(tmp_path, mutation_limit=1.0)
    bucket = client_of(thread.url).create_bucket("limited")
    bucket.blob("x").upload_from_string("1")
    bucket.blob("y").upload_from_string("1")
    with pytest.raises(exceptions.TooManyRequests, match="rate limit for object mutation"):
        bucket.blob("x").upload_from_string("2", retry=None)
    thread.end()
    thread.join(10)


@pytest.mark.slow
def test_a_listing_of_a_thousand_records_is_fast(server: Server, bucket: storage.Bucket) -> None:
    """1,000 objects with metadata of 1 KB are listed in well under a tenth of a second."""

    async def fill() -> None:
        connector = aiohttp.TCPConnector(limit=8)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def put(number: int) -> None:
                place = f"{server.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart"
                head = {"name": f"records/{number:04}", "metadata": {"record": "r" * 1000}}
                with aiohttp.MultipartWriter("related") as body:
                    body.append_json(head)
                    body.append(b"{}")
                async with session.post(place, data=body) as answer:
                    assert answer.status == 200

            await asyncio.gather(*(put(number) for number in range(1000)))

    asyncio.run(fill())
    url = f"{server.url}/storage/v1/b/{bucket.name}/o?prefix=records/"
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        items = requests.get(url, timeout=5).content
        times.append(time.perf_counter() - begun)
        assert items.count(b'"metageneration"') == 1000
    assert min(times) < 0.1, times


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("a*c", "abc", True), ("a*c", "a/c", False), ("a**c", "a/b/c", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True), ("[!a-c]x", "bx", False), ("{a,b*}z", "bbz", True),
        ("{a,b}z", "cz", False), ("a.c", "abc", False), (r"a\*", "a*", True),
        (r"a\*", "ab", False),
    ],
)  # fmt: skip
def test_globs(pattern: str, name: str, matches: bool) -> None:
    """Each construct of matchGlob."""
    assert glob_matcher(pattern)(name) is matches
