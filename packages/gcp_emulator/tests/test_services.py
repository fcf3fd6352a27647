"""Which APIs are enabled: Service Usage, and what calls of the others get."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from .iam_cloud import PROJECT, ThreadedCloud, call, refused, running

FIRST = {
    "cloudresourcemanager", "compute", "iam", "iamcredentials", "logging", "monitoring",
    "serviceusage", "storage",
}  # fmt: skip


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ThreadedCloud]:
    """A cloud of the test's own, where an operation takes a moment."""
    with running(tmp_path / "cloud", operation_seconds=0.1) as cloud:
        yield cloud


def done(cloud: ThreadedCloud, operation: Any) -> Any:
    """The operation, once it is done."""
    deadline = time.monotonic() + 5
    while not operation.get("done"):
        assert time.monotonic() < deadline, "the operation is not done in time"
        time.sleep(0.01)
        operation = call(cloud.api("serviceusage").operations().get(name=operation["name"]))
    return operation


def enabled(cloud: ThreadedCloud) -> set[str]:
    """The names of the APIs that are enabled."""
    request = cloud.services.list(parent=PROJECT, filter="state:ENABLED", pageSize=3)
    found: set[str] = set()
    while request is not None:
        reply = call(request)
        found |= {one["config"]["name"].partition(".")[0] for one in reply["services"]}
        request = cloud.services.list_next(request, reply)
    return found


def test_new_project_has_neither_cloud_sql_nor_secret_manager(cloud: ThreadedCloud) -> None:
    """As at Google: both have to be enabled first."""
    assert enabled(cloud) == FIRST
    name = "services/sqladmin.googleapis.com"
    found = call(cloud.services.get(name=f"{PROJECT}/{name}"))
    assert found["state"] == "DISABLED"
    assert found["config"]["title"] == "Cloud SQL Admin API"
    assert found["name"] == f"projects/{cloud.number}/{name}"


def test_calls_of_a_disabled_api_are_refused_until_it_is_enabled(cloud: ThreadedCloud) -> None:
    """The error says what to enable and where, in both of Google's forms."""
    request = cloud.secrets.list(parent=PROJECT)
    words = (
        f"Secret Manager API has not been used in project {cloud.number} before or it is disabled."
        " Enable it by visiting https://console.developers.google.com/apis/api/"
        f"secretmanager.googleapis.com/overview?project={cloud.number} then retry."
    )
    error = refused(request, 403, "PERMISSION_DENIED", words)
    assert error["errors"][0]["reason"] == "accessNotConfigured"
    info = error["details"][0]
    assert info["reason"] == "SERVICE_DISABLED"
    assert info["metadata"]["service"] == "secretmanager.googleapis.com"
    assert info["metadata"]["consumer"] == f"projects/{cloud.number}"

    name = f"{PROJECT}/services/secretmanager.googleapis.com"
    operation = call(cloud.services.enable(name=name, body={}))
    assert "done" not in operation
    finished = done(cloud, operation)
    assert finished["response"]["service"]["state"] == "ENABLED"
    assert call(request) == {}
    again = call(cloud.services.enable(name=name, body={}))
    assert again["name"] == "operations/noop.DONE_OPERATION"
    assert again["done"]

    done(cloud, call(cloud.services.disable(name=name, body={})))
    refused(request, 403, "PERMISSION_DENIED", words)
    twice = cloud.services.disable(name=name, body={})
    refused(twice, 400, "FAILED_PRECONDITION", "not enabled")


def test_many_are_enabled_at_once(cloud: ThreadedCloud) -> None:
    """All or none; what is enabled already stays so."""
    wanted = ["sqladmin.googleapis.com", "secretmanager.googleapis.com", "iam.googleapis.com"]
    bad = {"serviceIds": [*wanted, "nothing.googleapis.com"]}
    error = refused(
        cloud.services.batchEnable(parent=PROJECT, body=bad),
        403,
        "PERMISSION_DENIED",
        "Not found or permission denied for service(s): nothing.googleapis.com.",
    )
    assert error["details"][0]["metadata"]["services"] == "nothing.googleapis.com"
    assert enabled(cloud) == FIRST
    body = {"serviceIds": wanted}
    operation = done(cloud, call(cloud.services.batchEnable(parent=PROJECT, body=body)))
    shown = operation["response"]["services"]
    assert [one["config"]["name"] for one in shown] == wanted
    assert enabled(cloud) == FIRST | {"sqladmin", "secretmanager"}
    names = [f"{PROJECT}/services/{name}" for name in wanted]
    found = call(cloud.services.batchGet(parent=PROJECT, names=names))
    assert {one["state"] for one in found["services"]} == {"ENABLED"}
    nothing: list[dict[str, Any]] = [{"serviceIds": []}, {}]
    for none in nothing:
        refused(cloud.services.batchEnable(parent=PROJECT, body=none), 400, "INVALID_ARGUMENT")


def test_any_api_can_be_disabled(cloud: ThreadedCloud) -> None:
    """Compute Engine, too; Service Usage itself always answers."""
    for name in ("compute", "serviceusage"):
        request = cloud.services.disable(name=f"{PROJECT}/services/{name}.googleapis.com", body={})
        done(cloud, call(request))
    reply = requests.get(f"{cloud.url}/compute/v1/projects/local/zones", timeout=5)
    assert reply.status_code == 403
    assert "Compute Engine API has not been used" in reply.json()["error"]["message"]
    assert list(cloud.storage.list_buckets()) == []
    disabled = cloud.services.list(parent=PROJECT, filter="state:DISABLED")
    names = {one["config"]["name"] for one in call(disabled)["services"]}
    assert "compute.googleapis.com" in names
    refused(cloud.services.list(parent=PROJECT, filter="x:y"), 400, "INVALID_ARGUMENT", "filter")


def test_enabled_apis_outlive_the_cloud(tmp_path: Path) -> None:
    """What was enabled is so after a restart, also if the operation was not done."""
    name = f"{PROJECT}/services/sqladmin.googleapis.com"
    with running(tmp_path / "cloud", operation_seconds=60.0) as cloud:
        operation = call(cloud.services.enable(name=name, body={}))
        still = call(cloud.api("serviceusage").operations().get(name=operation["name"]))
        assert "done" not in still
        assert enabled(cloud) == FIRST
    with running(tmp_path / "cloud") as cloud:
        assert enabled(cloud) == FIRST | {"sqladmin"}
        unknown = cloud.api("serviceusage").operations().get(name="operations/none")
        refused(unknown, 404, "NOT_FOUND", "operations/none")
