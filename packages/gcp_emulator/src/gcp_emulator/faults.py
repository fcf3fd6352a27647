"""Faults on demand, and counting: one middleware around every Google API route.

A fault fails the next calls whose method name fits a pattern, for example
``{"method": "compute.instanceGroupManagers.*", "status": 503, "count": 2}``. The pull of a
container's image is no call of an API, but can fail, too: ``{"method": "docker.pull", "match":
"mlflow-server"}``, with Docker's words for an unknown manifest, or with the fault's ``message``.
"""

import asyncio
import fnmatch
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from gcp_emulator.replies import GoogleError, Json, google_method

type Route = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REASONS = {
    400: "invalid",
    401: "authError",
    403: "quotaExceeded",
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
    429: "rateLimitExceeded",
    500: "backendError",
    502: "backendError",
    503: "backendError",
    504: "backendError",
}
_USAGE_REASONS = {"quotaExceeded", "rateLimitExceeded", "userRateLimitExceeded"}


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to the next `count` calls of methods that fit `method` (``*`` and ``?``)."""

    method: str
    count: int = 1
    status: int = 503
    """The HTTP status of the answer; 0 cuts the connection instead of answering."""
    reason: str = ""
    message: str = ""
    delay: float = 0.0
    """Seconds before the answer."""
    after: bool = False
    """Whether the call is carried out first, so that only its answer is lost."""
    match: str = ""
    """Only calls whose URL (pulls whose image) contains this."""

    def to_json(self) -> Json:
        """As ``/emulator/faults`` shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Cut(ConnectionResetError):
    """The connection shall be cut instead of an answer."""


class Faults:
    """The faults that wait for their calls, and the number of calls by method."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.last_call = time.monotonic()

    def add(self, fault: Fault) -> None:
        """Let a fault wait for its calls."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    @property
    def waiting(self) -> list[Fault]:
        """The faults that wait."""
        return list(self._faults)

    async def refusal(self, method: str, subject: str, *, otherwise: str) -> str | None:
        """Why something that is no call of an API fails now, if a fault waits for it.

        Args:
            method: What it is called in faults, such as ``docker.pull``.
            subject: What `Fault.match` is looked for in.
            otherwise: The reason when the fault has no message of its own.
        """
        fault = self._take(method, subject)
        if fault is None:
            return None
        await asyncio.sleep(fault.delay)
        return None if fault.status == 200 else fault.message or otherwise

    @web.middleware
    async def middleware(self, request: web.Request, handler: Route) -> web.StreamResponse:
        """Count the call, and let a waiting fault have it; render errors in Google's shape."""
        method = google_method(request.match_info.handler)
        try:
            if method is None:
                return await handler(request)
            self.calls[method] += 1
            self.last_call = time.monotonic()
            return await self._answer(method, request, handler)
        except GoogleError as error:
            return error.to_response()

    async def around[T](
        self, method: str, subject: str, carry_out: Callable[[], Awaitable[T]]
    ) -> T:
        """Count a call that comes by another way than the middleware's, or let a fault have it.

        Args:
            method: Google's name of it.
            subject: What `Fault.match` is looked for in.
            carry_out: What does it.

        Raises:
            GoogleError: What the fault answers.
            Cut: The fault cuts the connection.
        """
        self.calls[method] += 1
        self.last_call = time.monotonic()
        return await self._carry_out(method, subject, carry_out)

    async def _answer(self, method: str, request: web.Request, route: Route) -> web.StreamResponse:
        carried_out = False

        async def carry_out() -> web.StreamResponse:
            nonlocal carried_out
            carried_out = True
            return await route(request)

        try:
            return await self._carry_out(method, str(request.rel_url), carry_out)
        except (GoogleError, Cut) as error:
            if not carried_out:
                await request.read()
            if isinstance(error, Cut) and request.transport is not None:
                request.transport.abort()
            raise

    async def _carry_out[T](
        self, method: str, subject: str, carry_out: Callable[[], Awaitable[T]]
    ) -> T:
        fault = self._take(method, subject)
        if fault is None:
            return await carry_out()
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.after:
            await carry_out()
        if fault.status == 0:
            raise Cut("cut by a fault")
        if fault.status == 200:
            return await carry_out()
        reason = fault.reason or _REASONS.get(fault.status, "backendError")
        raise GoogleError(
            fault.status,
            reason,
            fault.message or f"Fault on demand: {method} answers {fault.status}",
            domain="usageLimits" if reason in _USAGE_REASONS else "global",
        )

    def _take(self, method: str, url: str) -> Fault | None:
        for fault in self._faults:
            if fnmatch.fnmatchcase(method, fault.method) and fault.match in url:
                fault.count -= 1
                if fault.count <= 0:
                    self._faults.remove(fault)
                return fault
        return None


def parse_fault(body: Json) -> Fault:
    """A fault from JSON.

    Raises:
        GoogleError: 400, naming the member that is wrong.
    """
    kinds = Fault.__annotations__
    for name, value in body.items():
        if name not in kinds:
            known = ", ".join(kinds)
            raise GoogleError(400, "invalid", f"unknown member {name!r} of a fault: use {known}")
        kind = kinds[name]
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise GoogleError(
                400, "invalid", f"member {name!r} of a fault: {kind.__name__} expected"
            )
    if not body.get("method"):
        raise GoogleError(400, "invalid", "a fault needs a method, such as compute.instances.get")
    fault = Fault(**body)
    if fault.status not in (0, 200) and not 400 <= fault.status <= 599:
        raise GoogleError(400, "invalid", "status of a fault: 0 (cut), 200 (slow), or 400 to 599")
    if fault.count < 1 or not 0 <= fault.delay <= 600:
        raise GoogleError(400, "invalid", "a fault needs count >= 1 and delay within 0..600")
    return fault
