"""How Compute Engine words things: names, ids, times, fingerprints, its common errors. Pure."""

import base64
import hashlib
import json
import re
import secrets
import time
from datetime import UTC, datetime

from gcp_emulator.replies import GoogleError

NAME_PATTERN = r"(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"
"""What Compute Engine's names must match (RFC 1035)."""


def check_name(where: str, name: object, pattern: str = NAME_PATTERN) -> str:
    """A resource's name, if Compute Engine would take it.

    Raises:
        GoogleError: 400 ``invalid`` with Google's sentence.
    """
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        shown = name if isinstance(name, str) else ""
        raise invalid(where, shown, f"Must be a match of regex '{pattern}'")
    return name


def invalid(where: str, value: object, why: str) -> GoogleError:
    """400: a field's value is not accepted."""
    return GoogleError(400, "invalid", f"Invalid value for field '{where}': '{value}'. {why}")


def not_found(path: str) -> GoogleError:
    """404: a resource does not exist."""
    return GoogleError(404, "notFound", f"The resource '{path}' was not found")


def already_exists(path: str) -> GoogleError:
    """409: a resource of this name exists."""
    return GoogleError(409, "alreadyExists", f"The resource '{path}' already exists")


def in_use(noun: str, path: str, user: str) -> GoogleError:
    """400: something can't be deleted while something else needs it."""
    message = f"The {noun} resource '{path}' is already being used by '{user}'"
    return GoogleError(400, "resourceInUseByAnotherResource", message)


def new_id() -> str:
    """A resource's id: uint64, as a string."""
    return str((1 << 60) + secrets.randbelow(7 << 60))


def now() -> str:
    """This moment as Compute Engine writes it: RFC 3339 with milliseconds."""
    return moment(time.time())


def moment(seconds: float) -> str:
    """A time since 1970 as Compute Engine writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def fingerprint(value: object) -> str:
    """A fingerprint (base64 of eight bytes) of a JSON value."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return base64.b64encode(digest[:8]).decode()
