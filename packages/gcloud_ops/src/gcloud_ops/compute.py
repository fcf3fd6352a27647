"""What all requests to Compute Engine share: names that become parts of addresses, and back."""

import re
from datetime import datetime

from gcloud_ops.contract import parse_time
from gcloud_ops.errors import InvalidRequest

__all__ = ["checked_name", "last_part", "time_of"]

_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


def checked_name(name: str, what: str) -> str:
    """The name, if it can be one: it becomes a part of an address.

    Raises:
        InvalidRequest: It can't; the message calls it a `what`.
    """
    if _NAME.fullmatch(name):
        return name
    raise InvalidRequest(
        f"{what}: {name!r} is not a name that Compute Engine takes",
        resource=f"{what} {name}",
        hint="use up to 63 lower-case letters, digits and hyphens, a letter first",
    )


def last_part(address: str) -> str:
    """A resource's name, of its whole or partial URL."""
    return address.rpartition("/")[2]


def time_of(text: str) -> datetime | None:
    """Compute Engine's text as a time; None where there is none."""
    try:
        return parse_time(text)
    except ValueError:
        return None
