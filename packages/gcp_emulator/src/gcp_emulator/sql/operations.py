"""Operations of Cloud SQL, and the rule that an instance has one at a time.

A change is answered with an operation that is PENDING, then RUNNING, then DONE; its error, if
any, is in ``error.errors`` (https://cloud.google.com/sql/docs/postgres/admin-api/rest/v1/operations).
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gcp_emulator.replies import GoogleError, Json
from gcp_emulator.sql.postgres import PostgresError

__all__ = ["Operation", "Operations", "timestamp"]

_log = logging.getLogger(__name__)
_KEPT: Final = 2_000


@dataclass(eq=False, slots=True, kw_only=True)
class Operation:
    """One change under way, or done."""

    kind: str
    target: str
    project: str
    base: str
    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    inserted: str = field(default_factory=lambda: timestamp())  # noqa: PLW0108 (defined below)
    started: str | None = None
    ended: str | None = None
    error: tuple[str, str] | None = None
    """Google's code, and a sentence."""
    more: Json = field(default_factory=dict)
    """Members of the reply that only this kind has."""

    def to_json(self) -> Json:
        """As the API shows it."""
        link = f"{self.base}/v1/projects/{self.project}"
        shown: Json = {
            "kind": "sql#operation",
            "name": self.name,
            "operationType": self.kind,
            "status": "DONE" if self.ended else "RUNNING" if self.started else "PENDING",
            "user": "local@example.com",
            "insertTime": self.inserted,
            "targetId": self.target,
            "targetProject": self.project,
            "targetLink": f"{link}/instances/{self.target}",
            "selfLink": f"{link}/operations/{self.name}",
            **self.more,
        }
        if self.started:
            shown["startTime"] = self.started
        if self.ended:
            shown["endTime"] = self.ended
        if self.error:
            code, message = self.error
            entry = {"kind": "sql#operationError", "code": code, "message": message}
            shown["error"] = {"kind": "sql#operationErrors", "errors": [entry]}
        return shown


class Operations:
    """All operations of the project, in memory: they end with the cloud.

    Args:
        project: The project's id.
        base: The cloud's address, asked anew for each operation.
        seconds: How long the shortest operation takes.
    """

    def __init__(self, project: str, base: Callable[[], str], *, seconds: float) -> None:
        self._project = project
        self._base = base
        self._seconds = seconds
        self._all: dict[str, Operation] = {}
        self._busy: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, kind: str, target: str, work: Callable[[], Awaitable[object]]) -> Operation:
        """Begin a change of an instance; it is DONE when `work` has come to its end.

        Raises:
            GoogleError: 409 while the instance has another one.
        """
        operation = self._open(kind, target)
        self._spawn(self._complete(operation, work))
        return operation

    async def carry_out(
        self, kind: str, target: str, work: Callable[[], Awaitable[object]]
    ) -> Operation:
        """Do `work` before the answer, so that the answer itself can be its error.

        Raises:
            GoogleError: 409 while the instance has another one; or what `work` raised.
        """
        operation = self._open(kind, target)
        try:
            await work()
        except BaseException:
            self._busy.pop(target, None)
            del self._all[operation.name]
            raise
        self._spawn(self._complete(operation, None))
        return operation

    def is_busy(self, target: str) -> bool:
        """Whether an instance has an operation that is not DONE."""
        return target in self._busy

    def get(self, name: str) -> Operation:
        """The operation of this name, or 404."""
        if name not in self._all:
            raise GoogleError(
                404, "operationDoesNotExist", "The Cloud SQL instance operation does not exist."
            )
        return self._all[name]

    def list(self, target: str = "") -> "list[Operation]":
        """All of an instance, or of the project; the newest first."""
        return [one for one in reversed(self._all.values()) if target in ("", one.target)]

    async def close(self) -> None:
        """Stop waiting for those under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _open(self, kind: str, target: str) -> Operation:
        if target in self._busy:
            raise GoogleError(
                409,
                "operationInProgress",
                "Operation failed because another operation was already in progress."
                " Try your request after the current operation is complete.",
            )
        operation = Operation(kind=kind, target=target, project=self._project, base=self._base())
        self._all[operation.name] = self._busy[target] = operation
        for name in [*self._all][:-_KEPT]:
            del self._all[name]
        return operation

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _complete(
        self, operation: Operation, work: Callable[[], Awaitable[object]] | None
    ) -> None:
        try:
            await asyncio.sleep(self._seconds / 2)
            operation.started = timestamp()
            await asyncio.sleep(self._seconds / 2)
            if work is not None:
                await work()
        except GoogleError as error:
            operation.error = (error.reason, error.message)
        except PostgresError as error:
            operation.error = ("INTERNAL_ERROR", str(error))
        except Exception as error:
            _log.exception("%s of %s failed", operation.kind, operation.target)
            operation.error = ("INTERNAL_ERROR", f"it failed in the local cloud: {error!r}")
        finally:
            operation.ended = timestamp()
            with contextlib.suppress(KeyError):
                del self._busy[operation.target]


def timestamp() -> str:
    """Now, as Cloud SQL writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
