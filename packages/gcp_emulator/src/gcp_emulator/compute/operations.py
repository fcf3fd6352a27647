"""Operations: what a change answers with, and where one asks whether it is done.

A change is accepted at once and DONE later, as in Google
(https://cloud.google.com/compute/docs/api/how-tos/api-requests-responses#handling_api_responses).
What comes later is awaited here; nothing polls.
"""

import asyncio
import http
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gcp_emulator.compute.nouns import GLOBAL
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import invalid, new_id, not_found, now
from gcp_emulator.replies import GoogleError, Json

_log = logging.getLogger(__name__)

_KEPT = 20_000
_WAIT_SECONDS = 120.0  # zoneOperations.wait answers within two minutes, done or not.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(eq=False, slots=True, kw_only=True)
class Operation:
    """One change under way, or done."""

    name: str
    id: str
    kind: str
    place: str
    target: str
    target_id: str
    inserted: str
    user: str
    ended: str | None = None
    error: GoogleError | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Operations:
    """All operations of the project.

    Args:
        state: For links and the project's name.
        seconds: How long the shortest operation takes.
    """

    def __init__(self, state: State, *, seconds: float = 0.05) -> None:
        self._state = state
        self._seconds = seconds
        self._operations: dict[tuple[str, str], Operation] = {}
        self._requests: dict[tuple[str, str], Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    def repeated(self, path: str, request_id: str | None) -> Operation | None:
        """The operation that an earlier request with this id started.

        Raises:
            GoogleError: 400 when the id is no UUID.
        """
        if not request_id:
            return None
        if not _UUID.fullmatch(request_id):
            raise invalid("requestId", request_id, "Must be a valid UUID.")
        return self._requests.get((path, request_id))

    def remember(self, path: str, request_id: str | None, operation: Operation) -> None:
        """Answer later requests with this id by this operation."""
        if request_id:
            self._requests[path, request_id] = operation

    def start(
        self,
        kind: str,
        *,
        place: str,
        target: str,
        target_id: str,
        work: Callable[[], Awaitable[object]] | None = None,
        user: str = "local@example.com",
    ) -> Operation:
        """Begin an operation; it is DONE when `work` has come to its end, and not at once.

        Args:
            kind: Google's ``operationType``.
            place: ``zones/Z``, ``regions/R`` or ``global``.
            target: URL of what changes.
            target_id: Its id.
            work: What has to end first; a `GoogleError` from it is the operation's error.
            user: Who asked for it.
        """
        number = new_id()
        operation = Operation(
            name=f"operation-{time.time_ns() // 1_000_000}-{int(number):016x}",
            id=number,
            kind=kind,
            place=place,
            target=target,
            target_id=target_id,
            inserted=now(),
            user=user,
        )
        self._operations[place, operation.name] = operation
        self._forget_old()
        task = asyncio.create_task(self._complete(operation, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    def get(self, place: str, name: str) -> Operation:
        """The operation of this name in ``zones/z``, ``regions/r`` or ``global``, or 404."""
        found = self._operations.get((place, name))
        if found is None:
            raise not_found(self._state.path(place, "operations", name))
        return found

    def all(self, place: str) -> list[Operation]:
        """The operations of ``zones/z``, ``regions/r`` or ``global``, oldest first."""
        return [operation for (at, _), operation in self._operations.items() if at == place]

    async def wait(self, operation: Operation) -> None:
        """Return when the operation is done, or after two minutes, or when the cloud stops."""
        waits = [asyncio.ensure_future(event.wait()) for event in (operation.done, self._closing)]
        try:
            await asyncio.wait(waits, timeout=_WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def to_json(self, operation: Operation) -> Json:
        """A ``compute#operation``."""
        done = operation.done.is_set()
        body: Json = {
            "kind": "compute#operation",
            "id": operation.id,
            "name": operation.name,
            "operationType": operation.kind,
            "targetLink": operation.target,
            "targetId": operation.target_id,
            "status": "DONE" if done else "RUNNING",
            "user": operation.user,
            "progress": 100 if done else 0,
            "insertTime": operation.inserted,
            "startTime": operation.inserted,
            "selfLink": self._state.link(operation.place, "operations", operation.name),
        }
        if operation.place != GLOBAL:
            body[noun_of(operation.place)] = f"{self._state.root}/{operation.place}"
        if operation.ended:
            body["endTime"] = operation.ended
        if done and operation.error:
            error = operation.error
            entry: Json = {"code": error.reason, "message": error.message}
            if error.details:
                entry["errorDetails"] = list(error.details)
            body["error"] = {"errors": [entry]}
            body["httpErrorStatusCode"] = error.code
            body["httpErrorMessage"] = _phrase(error.code)
        return body

    async def close(self) -> None:
        """End all waiting."""
        self._closing.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _complete(
        self, operation: Operation, work: Callable[[], Awaitable[object]] | None
    ) -> None:
        try:
            await asyncio.sleep(self._seconds)
            if work is not None:
                await work()
        except GoogleError as error:
            operation.error = error
        except Exception as error:
            _log.exception("operation %s failed", operation.name)
            operation.error = GoogleError(500, "INTERNAL_ERROR", f"Internal error: {error}")
        operation.ended = now()
        operation.done.set()

    def _forget_old(self) -> None:
        if len(self._operations) <= _KEPT:
            return
        old = [key for key, operation in self._operations.items() if operation.done.is_set()]
        gone = {self._operations.pop(key) for key in old[: _KEPT // 2]}
        self._requests = {key: op for key, op in self._requests.items() if op not in gone}


def noun_of(place: str) -> str:
    """``zone``, ``region`` or ``global``: what a place is."""
    return place.partition("/")[0].removesuffix("s")


def _phrase(code: int) -> str:
    """``NOT FOUND`` of 404."""
    try:
        return http.HTTPStatus(code).phrase.upper()
    except ValueError:
        return "ERROR"
