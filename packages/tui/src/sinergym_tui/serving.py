"""The console in a browser on this machine: `--serve`.

Each page is a console of its own: a process that ends with it (textual-serve). It listens on the
loopback address only. That alone would not do: a page of any other site may open a WebSocket to
it, and so may other users of this machine. Who comes must show the key that the first address
has; a cookie keeps it, which no other site can send.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web
from textual_serve.server import Server

__all__ = ["LoopbackServer"]

_COOKIE: Final = "sinergym-tui"
_HOST: Final = "127.0.0.1"

type _Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LoopbackServer(Server):
    """Serves a command to those who have the key.

    Args:
        command: The console's command line.
        port: Of 127.0.0.1.
        say: Told where it is, in a line.
    """

    def __init__(self, command: str, *, port: int, say: Callable[[str], None]) -> None:
        super().__init__(command, host=_HOST, port=port, title="sinergym-tui")
        self._key = secrets.token_urlsafe(24)
        self._say = say

    @property
    def address(self) -> str:
        """Where it is; who has this may do what the console may."""
        return f"{self.public_url}/?key={self._key}"

    async def on_startup(self, app: web.Application) -> None:  # noqa: ARG002
        """Say where it is."""
        self._say(f"open {self.address} in a browser of this machine; Ctrl-C ends it")

    async def _make_app(self) -> web.Application:
        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if self._is_elsewhere(request):
                raise web.HTTPForbidden(text="only for this machine\n")
            if self._has_key(request.query.get("key", "")) and request.path == "/":
                found = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/"})
                found.set_cookie(_COOKIE, self._key, httponly=True, samesite="Strict")
                return found
            if not self._has_key(request.cookies.get(_COOKIE, "")):
                raise web.HTTPForbidden(text="open the address that sinergym-tui --serve says\n")
            return await handler(request)

        app = await super()._make_app()
        app.middlewares.append(guard)
        return app

    def _has_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._key.encode())

    def _is_elsewhere(self, request: web.Request) -> bool:
        """Whether a name of somebody else's leads here, or a page of another site asks."""
        ours = f"{_HOST}:{self.port}"
        origin = request.headers.get("Origin", f"http://{ours}")
        return request.host != ours or origin != f"http://{ours}"
