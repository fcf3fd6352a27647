"""How replies look: JSON bodies, Google's error shape, and the Google name of each route.

Google's JSON APIs answer an error as ``{"error": {"code": 404, "message": "...", "errors":
[{"message": "...", "domain": "global", "reason": "notFound"}]}}``
(https://cloud.google.com/storage/docs/json_api/v1/status-codes; Compute Engine's is the same).
A route raises `GoogleError`; the server's middleware renders it.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

type Json = dict[str, Any]
type Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GoogleError(Exception):
    """An answer that is an error in Google's shape.

    Args:
        code: HTTP status, 304 to 599.
        reason: Google's short word for it: ``notFound``, ``conditionNotMet``, ``conflict``...
        message: One sentence for people.
        domain: ``global`` for nearly all; Google says ``usageLimits`` for quotas and rates.
        headers: More headers of the reply, such as ``Retry-After``.
        details: What an operation tells besides, as ``errorDetails``.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        domain: str = "global",
        headers: Mapping[str, str] | None = None,
        details: Sequence[Json] = (),
    ) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.domain = domain
        self.headers = dict(headers or {})
        self.details: Sequence[Json] = tuple(details)

    def to_json(self) -> Json:
        """The body of the reply."""
        entry = {"message": self.message, "domain": self.domain, "reason": self.reason}
        return {"error": {"code": self.code, "message": self.message, "errors": [entry]}}

    def to_response(self) -> web.Response:
        """The whole reply."""
        return json_response(self.to_json(), status=self.code, headers=self.headers)


def api[F: Callable[..., object]](method_name: str) -> Callable[[F], F]:
    """Name a route as Google's discovery document names its method.

    The name, such as ``storage.objects.insert``, is kept in the route's ``google_method``:
    faults are aimed by it, and calls are counted by it.
    """

    def mark(route: F) -> F:
        route.google_method = method_name  # type: ignore[attr-defined]
        return route

    return mark


def google_method(route: object) -> str | None:
    """The name that `api` gave to a route, also when it is a bound method; None without one."""
    name = getattr(route, "google_method", None)
    return name if isinstance(name, str) else None


def json_response(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON reply (compact, UTF-8)."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


async def json_body(request: web.Request, *, any_type: bool = False) -> Json:
    """The request's JSON object; an empty body is an empty object.

    Args:
        request: The request.
        any_type: Take it whatever its content type says, as ``curl -d`` sends it.

    Raises:
        GoogleError: 400 ``parseError`` when it is no JSON object. A form-encoded body is none:
            Google understands ``application/json`` only.
    """
    raw = await request.read()
    if not raw:
        return {}
    kind = request.content_type
    if not any_type and kind not in ("application/json", "application/octet-stream", "text/plain"):
        raise GoogleError(
            400,
            "parseError",
            f"This API does not support parsing {kind} input; send application/json.",
        )
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise GoogleError(400, "parseError", f"Parse Error: {error}") from error
    if not isinstance(body, dict):
        raise GoogleError(400, "parseError", "Parse Error: the body must be a JSON object")
    return body
