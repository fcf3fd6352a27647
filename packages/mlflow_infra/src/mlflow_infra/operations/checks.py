"""Whether the server is well, asked from outside: as its users reach it.

Each check has its time. What depends on one that failed is not tried, and says so.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gcloud_ops.clients import Clients
from gcloud_ops.errors import GcloudOpsError, PermissionDenied
from gcloud_ops.text import one_line
from mlflow_infra import plan
from mlflow_infra.operations.access import Login, login, tracking_uri
from mlflow_infra.operations.tracking import ARTIFACTS, Tracking
from mlflow_infra.wanted import Infrastructure

__all__ = ["Check", "check", "check_server"]

_SIZE: Final = 4 * 1024
"""Bytes that go to the artifact store and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question, and its answer."""

    name: str
    is_good: bool
    detail: str
    seconds: float | None
    """How long the answer took; None: not asked."""


def check(clients: Clients, infra: Infrastructure) -> Iterator[Check]:
    """Check every resource, and then the server.

    Raises:
        GcloudOpsError: The resources can't be looked at.
    """
    begin = time.monotonic()
    findings = plan.look(clients, infra).findings
    seconds = time.monotonic() - begin
    for finding in findings:
        detail = "; ".join([finding.state, *finding.differences])
        # What `up` would leave as it is is somebody's wish; what it would mend is not well.
        yield Check(
            name=finding.what,
            is_good=not finding.is_changed,
            detail=one_line(detail),
            seconds=None,
        )
    looked = f"{len(findings)} looked at"
    yield Check(name="resources", is_good=True, detail=looked, seconds=seconds)
    begin = time.monotonic()
    try:
        uri = tracking_uri(clients, infra)
    except GcloudOpsError as error:
        yield _bad("address", error, begin)
        return
    yield Check(name="address", is_good=True, detail=uri, seconds=time.monotonic() - begin)
    yield from check_server(
        uri,
        trainer=lambda: login(clients, infra, "trainer"),
        admin=lambda: login(clients, infra, "admin"),
    )


def check_server(
    uri: str, *, trainer: Callable[[], Login], admin: Callable[[], Login]
) -> Iterator[Check]:
    """Check the server at its address.

    Args:
        uri: The address.
        trainer: The trainers' credentials; its errors are those of the checks that need them.
        admin: The admin's, for what a trainer may not do: files outside of an experiment.
    """
    anyone = Tracking(uri)
    health = _timed("health", lambda: anyone.text("/health"))
    yield health
    asked: dict[str, Callable[[], str]] = {
        "no password": lambda: _is_refused(anyone),
        "login": lambda: _log_in(uri, trainer()),
        "database": lambda: _search(Tracking(uri, trainer())),
        "version": lambda: f"MLflow {Tracking(uri, admin()).text('/version')}",
        "artifacts": lambda: _round_trip(Tracking(uri, admin())),
    }
    for name, ask in asked.items():
        if health.is_good:
            yield _timed(name, ask)
        else:
            yield Check(name=name, is_good=False, detail="not tried", seconds=None)


def _log_in(uri: str, user: Login) -> str:
    Tracking(uri, user).get("/api/2.0/mlflow/users/current")
    return f"as {user.username}"


def _search(server: Tracking) -> str:
    """What only the database knows."""
    reply = server.post("/api/2.0/mlflow/experiments/search", {"max_results": 1})
    return "an experiment was found" if reply.get("experiments") else "no experiment yet"


def _is_refused(anyone: Tracking) -> str:
    try:
        anyone.post("/api/2.0/mlflow/experiments/search", {"max_results": 1})
    except PermissionDenied:
        return "is refused"
    raise PermissionDenied("the server answers without a password: anybody may read and write")


def _round_trip(server: Tracking) -> str:
    """Upload a file, list it, read it, delete it: nothing is left."""
    folder, name = "mlflow-infra-check", f"{secrets.token_hex(8)}.bin"
    content = secrets.token_bytes(_SIZE)
    path = f"{ARTIFACTS}/{folder}/{name}"
    server.put(path, content)
    try:
        listed = server.get(ARTIFACTS, path=folder).get("files", [])
        if name not in {str(it.get("path", "")).rpartition("/")[2] for it in listed}:
            raise GcloudOpsError("what was uploaded is not listed")
        if b"".join(server.download(path)) != content:
            raise GcloudOpsError("what was uploaded came back changed")
    finally:
        server.delete(path)
    return f"{_SIZE // 1024} KiB there, back, and deleted"


def _timed(name: str, ask: Callable[[], str]) -> Check:
    begin = time.monotonic()
    try:
        detail = ask()
    except GcloudOpsError as error:
        return _bad(name, error, begin)
    return Check(
        name=name, is_good=True, detail=one_line(detail), seconds=time.monotonic() - begin
    )


def _bad(name: str, error: GcloudOpsError, begin: float) -> Check:
    return Check(
        name=name, is_good=False, detail=one_line(str(error)), seconds=time.monotonic() - begin
    )
