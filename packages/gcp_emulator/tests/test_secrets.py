"""Secret Manager, through Google's client, and what of it is on disk."""

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import hypothesis
import pytest
import requests
from hypothesis import strategies

from .iam_cloud import PROJECT, SERVER, ThreadedCloud, call, refused, running

AUTOMATIC: dict[str, Any] = {"replication": {"automatic": {}}}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedCloud]:
    """A cloud with Secret Manager; each test has secrets of its own."""
    with running(tmp_path_factory.mktemp("secrets") / "cloud") as cloud:
        cloud.enable("secretmanager")
        cloud.make_account()
        yield cloud


@pytest.fixture
def secret(cloud: ThreadedCloud, request: pytest.FixtureRequest) -> str:
    """The name of an empty secret of the test's own."""
    name = f"{request.node.originalname}-{abs(hash(request.node.name)) % 10**6}"
    call(cloud.secrets.create(parent=PROJECT, secretId=name, body=AUTOMATIC))
    return f"{PROJECT}/secrets/{name}"


def add(cloud: ThreadedCloud, secret: str, payload: bytes, **more: Any) -> Any:
    """Add a version."""
    data = base64.b64encode(payload).decode()
    body = {"payload": {"data": data, **more}}
    return call(cloud.secrets.addVersion(parent=secret, body=body))


def access(cloud: ThreadedCloud, secret: str, version: str = "latest") -> bytes:
    """The payload of a version."""
    reply = call(cloud.secrets.versions().access(name=f"{secret}/versions/{version}"))
    data = base64.b64decode(reply["payload"]["data"])
    assert reply["payload"]["dataCrc32c"] == str(google_crc32c.value(data))
    return data


def test_secret_is_made_found_changed_and_deleted(cloud: ThreadedCloud) -> None:
    """Names in replies have the project's number; labels can be changed, with an etag."""
    body = {**AUTOMATIC, "labels": {"made-by": "tests"}}
    made = call(cloud.secrets.create(parent=PROJECT, secretId="a_Secret-1", body=body))
    name = f"{PROJECT}/secrets/a_Secret-1"
    assert made["name"] == f"projects/{cloud.number}/secrets/a_Secret-1"
    assert call(cloud.secrets.get(name=name)) == made
    assert call(cloud.secrets.get(name=made["name"])) == made
    again = cloud.secrets.create(parent=PROJECT, secretId="a_Secret-1", body=body)
    refused(again, 409, "ALREADY_EXISTS", f"Secret [{made['name']}] already exists.")

    new = {"labels": {"made-by": "others"}, "etag": made["etag"]}
    changed = call(cloud.secrets.patch(name=name, updateMask="labels", body=new))
    assert changed["labels"] == new["labels"]
    assert changed["etag"] != made["etag"]
    stale = cloud.secrets.patch(name=name, updateMask="labels", body=new)
    refused(stale, 400, "FAILED_PRECONDITION", "etag")
    refused(cloud.secrets.delete(name=name, etag=made["etag"]), 400, "FAILED_PRECONDITION")

    call(cloud.secrets.delete(name=name))
    refused(cloud.secrets.get(name=name), 404, "NOT_FOUND", f"Secret [{made['name']}] not found.")
    refused(cloud.secrets.delete(name=name), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("", AUTOMATIC, "expected format"),
        ("with.dot", AUTOMATIC, "expected format"),
        ("../../up", AUTOMATIC, "expected format"),
        ("x" * 256, AUTOMATIC, "expected format"),
        ("none", {}, "replication"),
        ("none", {"replication": {"userManaged": {"replicas": []}}}, "replicas"),
        ("none", {**AUTOMATIC, "labels": {"Upper": "x"}}, "Label"),
    ],
)
def test_bad_secrets_are_refused(cloud: ThreadedCloud, name: str, body: Any, words: str) -> None:
    """What Google would refuse makes nothing."""
    before = call(cloud.secrets.list(parent=PROJECT))
    request = cloud.secrets.create(parent=PROJECT, secretId=name, body=body)
    refused(request, 400, "INVALID_ARGUMENT", words)
    assert call(cloud.secrets.list(parent=PROJECT)) == before


def test_versions(cloud: ThreadedCloud, secret: str) -> None:
    """The latest is the newest, whatever its state; a destroyed one never comes back."""
    number = secret.rpartition("/")[2]
    full = f"projects/{cloud.number}/secrets/{number}"
    request = cloud.secrets.versions().access(name=f"{secret}/versions/latest")
    refused(request, 404, "NOT_FOUND", f"Secret [{full}] not found or has no versions.")
    assert call(cloud.secrets.versions().list(parent=secret)) == {}

    first = add(cloud, secret, b"one")
    assert first["name"] == f"{full}/versions/1"
    assert "clientSpecifiedPayloadChecksum" not in first
    second = add(cloud, secret, b"two", dataCrc32c=str(google_crc32c.value(b"two")))
    assert second["clientSpecifiedPayloadChecksum"]
    assert access(cloud, secret) == b"two"
    assert access(cloud, secret, "1") == b"one"
    listed = call(cloud.secrets.versions().list(parent=secret))
    assert listed["versions"] == [second, first]
    assert listed["totalSize"] == 2

    name = f"{secret}/versions/2"
    call(cloud.secrets.versions().disable(name=name, body={}))
    request = cloud.secrets.versions().access(name=f"{secret}/versions/latest")
    refused(request, 400, "FAILED_PRECONDITION", f"[{full}/versions/2] is in DISABLED state.")
    enabled = cloud.secrets.versions().list(parent=secret, filter="state:ENABLED")
    assert [one["name"] for one in call(enabled)["versions"]] == [first["name"]]
    call(cloud.secrets.versions().enable(name=name, body={}))
    assert access(cloud, secret) == b"two"

    destroyed = call(cloud.secrets.versions().destroy(name=name, body={}))
    assert destroyed["state"] == "DESTROYED"
    assert destroyed["destroyTime"]
    for verb in ("enable", "disable", "destroy"):
        again = getattr(cloud.secrets.versions(), verb)(name=name, body={})
        refused(again, 400, "FAILED_PRECONDITION", "already DESTROYED")
    unknown = cloud.secrets.versions().get(name=f"{secret}/versions/3")
    refused(unknown, 404, "NOT_FOUND", f"Secret Version [{full}/versions/3] not found.")
    unknown = cloud.secrets.versions().access(name=f"{PROJECT}/secrets/none/versions/latest")
    refused(unknown, 404, "NOT_FOUND", "not found or has no versions.")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"data": ""}, "empty"),
        ({}, "empty"),
        ({"data": "?!"}, "Base64"),
        ({"data": base64.b64encode(b"x" * 65_537).decode()}, "65536"),
        ({"data": "eA==", "dataCrc32c": "1"}, "checksum"),
        (None, "specified"),
    ],
)
def test_bad_payloads_are_refused(
    cloud: ThreadedCloud, secret: str, payload: Any, words: str
) -> None:
    """A payload that is none, too large, or not what its checksum says makes no version."""
    request = cloud.secrets.addVersion(parent=secret, body={"payload": payload})
    refused(request, 400, "INVALID_ARGUMENT", words)
    assert call(cloud.secrets.versions().list(parent=secret)) == {}


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(payload=strategies.binary(min_size=1, max_size=200))
def test_payloads_come_back(cloud: ThreadedCloud, payload: bytes) -> None:
    """Whatever the bytes."""
    requests.post(
        f"{cloud.url}/v1/{PROJECT}/secrets?secretId=any-bytes", json=AUTOMATIC, timeout=5
    )
    name = f"{PROJECT}/secrets/any-bytes"
    number = add(cloud, name, payload)["name"].rpartition("/")[2]
    assert access(cloud, name, number) == access(cloud, name) == payload


def test_account_needs_the_role(cloud: ThreadedCloud, secret: str) -> None:
    """An accessor of this secret reads it; editors of the project don't, nor others."""
    add(cloud, secret, b"password")
    server = cloud.as_account(SERVER)
    editor = cloud.as_account(f"{cloud.number}-compute@developer.gserviceaccount.com")
    words = (
        "Permission 'secretmanager.versions.access' denied for resource "
        f"'{secret}/versions/latest' (or it may not exist)."
    )
    request = server.secrets.versions().access(name=f"{secret}/versions/latest")
    error = refused(request, 403, "PERMISSION_DENIED", words)
    assert error["details"][0]["reason"] == "IAM_PERMISSION_DENIED"
    nowhere = server.secrets.versions().access(name=f"{PROJECT}/secrets/none/versions/1")
    refused(nowhere, 403, "PERMISSION_DENIED", "(or it may not exist)")
    request = editor.secrets.versions().access(name=f"{secret}/versions/latest")
    refused(request, 403, "PERMISSION_DENIED", words)

    policy = call(cloud.secrets.getIamPolicy(resource=secret))
    member = f"serviceAccount:{SERVER}"
    role = "roles/secretmanager.secretAccessor"
    policy["bindings"] = [{"role": role, "members": [member]}]
    call(cloud.secrets.setIamPolicy(resource=secret, body={"policy": policy}))
    assert access(server, secret) == b"password"
    asked = {"permissions": ["secretmanager.versions.access", "secretmanager.secrets.delete"]}
    held = call(server.secrets.testIamPermissions(resource=secret, body=asked))
    assert held == {"permissions": asked["permissions"][:1]}
    refused(server.secrets.delete(name=secret), 403, "PERMISSION_DENIED")
    late = cloud.secrets.setIamPolicy(resource=secret, body={"policy": policy})
    refused(late, 409, "ABORTED", "concurrent policy changes")


def test_user_managed_replication(cloud: ThreadedCloud) -> None:
    """The chosen locations are told of the secret and of its versions."""
    replicas = {"userManaged": {"replicas": [{"location": "europe-west1"}]}}
    body = {"replication": replicas}
    made = call(cloud.secrets.create(parent=PROJECT, secretId="regional", body=body))
    assert made["replication"] == replicas
    version = add(cloud, f"{PROJECT}/secrets/regional", b"x")
    assert version["replicationStatus"] == replicas


def test_what_is_on_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Payloads outlive the cloud, only the owner can read them, destroyed ones are gone."""
    caplog.set_level(logging.DEBUG)
    password = "correct-horse-battery-staple"
    name = f"{PROJECT}/secrets/key"
    with running(tmp_path / "cloud") as cloud:
        cloud.enable("secretmanager")
        call(cloud.secrets.create(parent=PROJECT, secretId="key", body=AUTOMATIC))
        add(cloud, name, f"{password}-1".encode())
        add(cloud, name, f"{password}-2".encode())
        call(cloud.secrets.versions().destroy(name=f"{name}/versions/1", body={}))
        listed = call(cloud.secrets.versions().list(parent=name))
    with running(tmp_path / "cloud") as cloud:
        assert call(cloud.secrets.versions().list(parent=name)) == listed
        assert access(cloud, name) == f"{password}-2".encode()
        place = tmp_path / "cloud" / "iam"
        found = [path for path in place.rglob("*") if path.is_file()]
        assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
        folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
        assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
        holding = [path.name for path in found if password in path.read_text()]
        assert holding == ["2"]
        call(cloud.secrets.delete(name=name))
        assert not any(password in path.read_text() for path in place.rglob("*") if path.is_file())
        assert not (place / "local/secrets/key").exists()
    assert password not in caplog.text
    assert base64.b64encode(password.encode()).decode()[:20] not in caplog.text


def test_deletion_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    """A folder without its description is no secret, and what is in it goes away."""
    place = tmp_path / "cloud/iam/local/secrets/key"
    place.mkdir(parents=True)
    (place / "1").write_text("left over")
    with running(tmp_path / "cloud") as cloud:
        cloud.enable("secretmanager")
        assert call(cloud.secrets.list(parent=PROJECT)) == {}
        assert not place.exists()


def test_what_is_not_emulated_says_so(cloud: ThreadedCloud) -> None:
    """Expiry and filters that are not understood are refused, never ignored."""
    url = f"{cloud.url}/v1/{PROJECT}/secrets"
    body = {**AUTOMATIC, "ttl": "60s"}
    reply = requests.post(f"{url}?secretId=soon-gone", json=body, timeout=5)
    assert reply.status_code == 501
    assert "'ttl'" in json.loads(reply.text)["error"]["message"]
    assert requests.get(f"{url}?filter=topics:x", timeout=5).status_code == 501
