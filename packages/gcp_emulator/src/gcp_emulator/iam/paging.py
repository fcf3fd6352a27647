"""Pages of lists, as the newer APIs have them: ``pageSize``, ``pageToken``, ``nextPageToken``."""

import base64
import binascii
from collections.abc import Sequence

from aiohttp import web

from gcp_emulator.iam.errors import invalid_argument


def page_of[T](
    request: web.Request, found: Sequence[T], *, default: int, most: int
) -> tuple[Sequence[T], dict[str, str]]:
    """The asked page, and the member that leads to the next one, if there is one.

    Raises:
        GoogleError: 400 for a page size or token that is none.
    """
    size = request.query.get("pageSize", "") or "0"
    if not size.isdecimal():
        raise invalid_argument(f"Invalid value at 'page_size': {size!r}.")
    limit = min(int(size) or default, most)
    first = _offset(request.query.get("pageToken", ""))
    rest = found[first:]
    if len(rest) <= limit:
        return rest, {}
    token = base64.urlsafe_b64encode(str(first + limit).encode()).decode()
    return rest[:limit], {"nextPageToken": token}


def _offset(token: str) -> int:
    if not token:
        return 0
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error) as error:
        raise invalid_argument("The page token is invalid.") from error
    if not text.isdecimal() or len(text) > 9:
        raise invalid_argument("The page token is invalid.")
    return int(text)
