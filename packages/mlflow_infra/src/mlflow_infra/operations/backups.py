"""Backups of the database, made and restored by Cloud SQL.

See https://cloud.google.com/sql/docs/postgres/backup-recovery/backing-up and .../restoring.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gcloud_ops.clients import Clients, error_for_code
from gcloud_ops.compute import time_of
from gcloud_ops.errors import OperationFailed, Unavailable
from mlflow_infra.wanted import INSTANCE, Infrastructure

__all__ = ["Backup", "back_up", "backups", "restore"]

WITHIN: Final = 3600.0
"""Seconds for one backup, or its restoring."""

_WHAT = f"database {INSTANCE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """One backup of the whole database."""

    id: str
    status: str
    """Google's word: `SUCCESSFUL`, `RUNNING`, `FAILED`..."""
    kind: str
    """`ON_DEMAND`, which stays until it is deleted, or `AUTOMATED`."""
    time: datetime | None
    """When it was complete, or else was begun."""
    description: str

    @property
    def is_good(self) -> bool:
        """Whether it can be restored."""
        return self.status == "SUCCESSFUL"


def backups(clients: Clients, infra: Infrastructure) -> tuple[Backup, ...]:
    """All backups, the newest first.

    Raises:
        NotFound: There is no database.
    """
    runs = clients.api("sqladmin", "v1").backupRuns()
    found: list[Backup] = []
    request = runs.list(project=infra.project, instance=INSTANCE)
    while request is not None:
        reply = clients.execute(_WHAT, request)
        found += [_backup(one) for one in reply.get("items", [])]
        request = runs.list_next(request, reply)
    return tuple(sorted(found, key=lambda one: str(one.time or ""), reverse=True))


def back_up(clients: Clients, infra: Infrastructure, *, description: str) -> Backup:
    """Make a backup now, and wait until it is complete.

    Raises:
        NotFound: There is no database.
        OperationFailed: The backup failed.
    """
    runs = clients.api("sqladmin", "v1").backupRuns()
    made = clients.execute(
        _WHAT,
        runs.insert(project=infra.project, instance=INSTANCE, body={"description": description}),
    )
    done = _wait(clients, infra, made, what="backup")
    number = str(done.get("backupContext", {}).get("backupId") or "")
    if number:
        run = runs.get(project=infra.project, instance=INSTANCE, id=number)
        backup = _backup(clients.execute(f"backup {number}", run))
    else:
        ours = [one for one in backups(clients, infra) if one.description == description]
        if not ours:
            raise OperationFailed(f"{_WHAT}: the backup is not there", resource=_WHAT)
        backup = ours[0]
    if not backup.is_good:
        raise OperationFailed(f"backup {backup.id}: {backup.status}", resource=_WHAT)
    return backup


def restore(clients: Clients, infra: Infrastructure, backup: str) -> None:
    """Put the database back to a backup; all that came after it is lost.

    Raises:
        NotFound: There is no such backup.
        OperationFailed: It failed.
    """
    context = {"project": infra.project, "instanceId": INSTANCE, "backupRunId": backup}
    request = (
        clients.api("sqladmin", "v1")
        .instances()
        .restoreBackup(
            project=infra.project, instance=INSTANCE, body={"restoreBackupContext": context}
        )
    )
    made = clients.execute(_WHAT, request)
    _wait(clients, infra, made, what=f"restoring backup {backup}")


def _wait(
    clients: Clients,
    infra: Infrastructure,
    operation: Mapping[str, Any],
    *,
    what: str,
    pause: Callable[[float], None] = time.sleep,
) -> Mapping[str, Any]:
    """Wait for an operation of Cloud SQL, which has no call that waits."""
    deadline = time.monotonic() + WITHIN
    seconds, resource = 0.1, f"{_WHAT}: {what}"
    operations = clients.api("sqladmin", "v1").operations()
    while operation.get("status") != "DONE":
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{resource}: not done after {WITHIN:.0f} s",
                resource=_WHAT,
                hint=f"it goes on at Google as the operation {operation.get('name')}",
            )
        pause(seconds)
        seconds = min(seconds * 2, 5.0)
        request = operations.get(project=infra.project, operation=operation["name"])
        operation = clients.execute(resource, request)
    for error in operation.get("error", {}).get("errors", []):
        raise error_for_code(
            str(error.get("code", "")), str(error.get("message", "")), resource=resource
        )
    return operation


def _backup(found: Mapping[str, Any]) -> Backup:
    begun = found.get("startTime") or found.get("enqueuedTime") or ""
    return Backup(
        id=str(found.get("id", "")),
        status=str(found.get("status", "")),
        kind=str(found.get("type", "")),
        time=time_of(str(found.get("endTime") or begun)),
        description=str(found.get("description", "")),
    )
