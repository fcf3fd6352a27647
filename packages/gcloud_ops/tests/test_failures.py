"""Kinds of ends in words, and Google's and Docker's words as kinds."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops import failures

CONTRACT = Path(__file__).parents[3] / "docs" / "contract.md"


def test_every_kind_of_the_contract_is_explained() -> None:
    """In words, and with advice where something can be done."""
    table = CONTRACT.read_text().partition("| `kind` | means |")[2].partition("\n\n")[0]
    kinds = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(kinds) > 12
    for kind in [*kinds, "preempted", "unknown"]:
        found = failures.KINDS[kind]
        assert found.words
        assert found.advice or kind in {"ok", "preempted", "unknown"}, kind


def test_a_kind_of_another_version() -> None:
    """It is shown as it is."""
    assert failures.explain("sun_flare").words == "sun flare"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "stock_out"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "stock_out"),
        ("RESOURCE_POOL_EXHAUSTED", "stock_out"),
        ("insufficientCapacity", "stock_out"),
        ("QUOTA_EXCEEDED", "quota"),
        ("quotaExceeded", "quota"),
        ("RESOURCE_OPERATION_RATE_EXCEEDED", "quota"),
        ("INTERNAL_ERROR", ""),
        ("UNSUPPORTED_OPERATION", ""),
        ("CONDITION_NOT_MET", "refused"),
        ("PERMISSIONS_ERROR", "refused"),
        ("IP_SPACE_EXHAUSTED", "refused"),
        ("RESOURCE_NOT_FOUND", "refused"),
    ],
)
def test_codes_of_compute_engine(code: str, kind: str) -> None:
    """What waits, what passes, and what does not become better."""
    assert failures.of_error_code(code) == kind


def test_what_a_quota_says() -> None:
    """Which one, and how much there is."""
    said = "Quota 'N2_CPUS' exceeded.  Limit: 24.0 in region europe-west1."
    found = failures.waits_for("QUOTA_EXCEEDED", said)
    assert found == "the project's quota is used up (N2_CPUS, limit 24.0)"
    assert failures.waits_for("RESOURCE_NOT_FOUND", "no such type") == (
        "RESOURCE_NOT_FOUND: no such type"
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "docker: Error response from daemon: manifest for europe-docker.pkg.dev/p/i:x not "
            "found: manifest unknown.",
            "no such image",
        ),
        (
            "docker: Error response from daemon: Head https://europe-docker.pkg.dev/v2/p/i: "
            "denied: Permission artifactregistry.repositories.downloadArtifacts denied",
            "refuses the instances' service account",
        ),
        ("docker: write /var/lib/docker/x: no space left on device.", "disk is too small"),
        (
            "Unable to find image 'x:1' locally\ndocker: Get https://x: dial tcp: i/o timeout",
            "can't be reached",
        ),
    ],
)
def test_why_an_image_could_not_be_had(said: str, why: str) -> None:
    """In Docker's own words, as it prints them."""
    assert why in failures.pull_failure(f"boot\n{said}\nmore")


@given(st.text())
def test_other_texts_say_nothing_of_an_image(text: str) -> None:
    """A log that isn't Docker's is no reason."""
    if not re.search("docker: |Error response|Unable to find", text):
        assert failures.pull_failure(text) == ""
