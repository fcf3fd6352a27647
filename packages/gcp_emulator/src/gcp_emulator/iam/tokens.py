"""Tokens of service accounts, for whoever may have them.

https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken:
so a person, or a test, acts as somebody with few roles. A token opens what its account may do,
until the cloud ends.
"""

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from gcp_emulator.iam.accounts import Accounts
from gcp_emulator.iam.callers import Access
from gcp_emulator.iam.errors import invalid_argument
from gcp_emulator.replies import api, json_body, json_response

__all__ = ["Tokens"]

_LIFETIME: Final = re.compile(r"([0-9]{1,5})(?:\.[0-9]+)?s")
_LONGEST: Final = 43_200


class Tokens:
    """The route ``:generateAccessToken``.

    Args:
        accounts: The project's.
        access: Who is told of the tokens.
    """

    def __init__(self, accounts: Accounts, access: Access) -> None:
        self._accounts = accounts
        self._access = access

    def add_routes(self, app: web.Application) -> None:
        """Add it."""
        one = "/v1/projects/{project:[^/:]+}/serviceAccounts/{account:[^/:]+}"
        app.router.add_post(one + ":generateAccessToken", self.generate)

    @api("iamcredentials.projects.serviceAccounts.generateAccessToken")
    async def generate(self, request: web.Request) -> web.Response:
        """POST serviceAccounts/EMAIL:generateAccessToken: scopes, and a lifetime (``300s``)."""
        body = await json_body(request)
        account = self._accounts.find(request, "getAccessToken")
        if not isinstance(body.get("scope"), list) or not body["scope"]:
            raise invalid_argument("Scope required.")
        lifetime = _LIFETIME.fullmatch(str(body.get("lifetime") or "3600s"))
        if lifetime is None or not 0 < int(lifetime[1]) <= _LONGEST:
            raise invalid_argument("Invalid value at 'lifetime'.")
        token = f"local.{secrets.token_urlsafe(24)}"
        self._access.register(token, account.email)
        until = datetime.now(UTC) + timedelta(seconds=int(lifetime[1]))
        return json_response(
            {"accessToken": token, "expireTime": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
        )
