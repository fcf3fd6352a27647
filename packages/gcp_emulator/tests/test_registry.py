"""The registry of images: manifests by tag and digest, and what is not there."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from gcp_emulator.cli import main
from gcp_emulator.docker.manifests import Images, digest_of
from gcp_emulator.server import LocalCloud

from .iam_cloud import ThreadedCloud, running
from .test_images import shell_of

TRAINER = "europe-docker.pkg.dev/local/images/trainer:2.0"
PATH = "v2/local/images/trainer/manifests"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedCloud]:
    """A cloud that has two images."""
    folder = tmp_path_factory.mktemp("registry") / "cloud"
    with running(folder, known_images=[TRAINER, "busybox"]) as cloud:
        yield cloud


def test_a_manifest_and_its_digest(cloud: ThreadedCloud) -> None:
    """HEAD tells the digest, GET the manifest that it is the digest of; by the digest, too."""
    assert requests.get(f"{cloud.url}/v2/", timeout=5).status_code == 200
    head = requests.head(f"{cloud.url}/{PATH}/2.0", timeout=5)
    digest = head.headers["Docker-Content-Digest"]
    assert (head.status_code, head.content, digest) == (200, b"", digest_of(TRAINER))
    assert head.headers["Docker-Distribution-API-Version"] == "registry/2.0"

    for reference in ("2.0", digest):
        got = requests.get(f"{cloud.url}/{PATH}/{reference}", timeout=5)
        assert "sha256:" + hashlib.sha256(got.content).hexdigest() == digest
        assert got.headers["Content-Type"] == got.json()["mediaType"]
    assert requests.head(f"{cloud.url}/v2/library/busybox/manifests/latest", timeout=5).ok


@pytest.mark.parametrize(
    "path", [f"{PATH}/2.1", f"{PATH}/sha256:{'0' * 64}", "v2/local/images/other/manifests/2.0"]
)
def test_what_is_not_there(cloud: ThreadedCloud, path: str) -> None:
    """Another tag, another digest, another image: the manifest is unknown."""
    reply = requests.get(f"{cloud.url}/{path}", timeout=5)

    assert reply.status_code == 404
    assert [error["code"] for error in reply.json()["errors"]] == ["MANIFEST_UNKNOWN"]


def test_who_may_read(cloud: ThreadedCloud) -> None:
    """Whoever has the role, by a token of either form; and nobody with half a password."""
    email = cloud.make_account("some-reader")
    token = cloud.as_account(email)._token
    url = f"{cloud.url}/{PATH}/2.0"
    basic = base64.b64encode(f"oauth2accesstoken:{token}".encode()).decode()
    forms = [{"Authorization": f"Bearer {token}"}, {"Authorization": f"Basic {basic}"}]

    for headers in forms:
        denied = requests.get(url, headers=headers, timeout=5)
        assert (denied.status_code, denied.json()["errors"][0]["code"]) == (403, "DENIED")
    cloud.grant("roles/artifactregistry.reader", f"serviceAccount:{email}")
    for headers in forms:
        assert requests.get(url, headers=headers, timeout=5).ok
    for word in ("Bearer", "Basic x", "Digest abc"):
        reply = requests.get(url, headers={"Authorization": word}, timeout=5)
        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="http://127.0.0.1')


async def test_a_pull_of_what_is_not_there(tmp_path: Path) -> None:
    """Docker says it, for each image that the registries don't have; the others are there."""
    async with shell_of(tmp_path, known_images=[TRAINER]) as (_, shell):
        code, said = await shell(f"docker pull {TRAINER}")
        assert (code, f"Digest: {digest_of(TRAINER)}" in said) == (0, True)
        assert (await shell(f"docker pull {TRAINER}@{digest_of(TRAINER)}"))[0] == 0
        code, said = await shell("docker run europe-docker.pkg.dev/local/images/trainer:2.1")
        assert (code, 'manifest unknown: Failed to fetch "2.1"' in said) == (125, True)


def test_by_default_everything_is_there() -> None:
    """Without a list any name has a manifest, the same in every registry."""
    images = Images()

    assert images.has("anything:1")
    assert images.manifest("a/b", "1") is not None
    assert digest_of("gcr.io/a/b:1") == digest_of("europe-docker.pkg.dev/a/b:1")
    assert images.manifest("a/b", digest_of("a/b:1")) == images.manifest("a/b", "1")
    assert images.manifest("a/c", digest_of("a/b:1")) is None


def test_a_name_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused in one line, before anything is made."""
    with pytest.raises(ValueError, match="invalid reference format"):
        LocalCloud(tmp_path / "cloud", known_images=["no name"])
    with pytest.raises(SystemExit) as left:
        main(["serve", "--folder", str(tmp_path / "cloud"), "--known-image", "NO NAME"])
    assert left.value.code == 1
    assert "known image: invalid reference format" in capsys.readouterr().err
