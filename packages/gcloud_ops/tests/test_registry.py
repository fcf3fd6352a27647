"""An image's digest, as registries tell it."""

import pytest

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.registry import Reference


@pytest.mark.parametrize(
    ("text", "host", "name", "tag"),
    [
        ("europe-docker.pkg.dev/p/images/s:3", "europe-docker.pkg.dev", "p/images/s", "3"),
        ("gcr.io/p/s", "gcr.io", "p/s", "latest"),
        ("localhost:5000/s:1", "localhost:5000", "s", "1"),
        ("alejandrocn7/sinergym:2", "registry-1.docker.io", "alejandrocn7/sinergym", "2"),
        ("python", "registry-1.docker.io", "library/python", "latest"),
    ],
)
def test_references(text: str, host: str, name: str, tag: str) -> None:
    """Taken apart as Docker does it."""
    found = Reference.parse(text)
    assert (found.host, found.name, found.tag, found.digest) == (host, name, tag, "")


def test_a_reference_with_a_digest() -> None:
    """It is fixed: no tag counts any more."""
    digest = "sha256:" + "0a" * 32
    found = Reference.parse(f"gcr.io/p/s:1@{digest}")
    assert (found.name, found.tag, found.digest) == ("p/s", "", digest)


@pytest.mark.parametrize("text", ["", "UPPER/case", "a b", "gcr.io/p@sha256:12", "gcr.io/p:"])
def test_what_is_no_reference(text: str) -> None:
    """One line that says so."""
    with pytest.raises(InvalidRequest, match="is not a reference of an image"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("europe-docker.pkg.dev/p/i", True),
        ("eu.gcr.io/p/i", True),
        ("gcr.io.example.org/p/i", False),
        ("x-docker.pkg.dev.example.org/p/i", False),
    ],
)
def test_who_is_sent_a_token(host: str, ours: bool) -> None:
    """Google's own registries, and nobody whose name looks like theirs."""
    assert Reference.parse(host).is_of_google is ours
