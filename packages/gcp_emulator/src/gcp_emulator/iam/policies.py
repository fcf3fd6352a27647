"""Policies: who has which role on a resource, replaced as a whole, guarded by an etag.

https://cloud.google.com/iam/docs/reference/rest/v1/Policy
"""

import base64
import re
import time
from collections.abc import Callable
from typing import Any, Final

from gcp_emulator.iam.errors import aborted, invalid_argument
from gcp_emulator.replies import Json

type CheckMember = Callable[[str], None]

_ROLE: Final = re.compile(r"(?:(?:projects|organizations)/[^/]+/)?roles/[A-Za-z0-9_.]+")
_ALONE: Final = ("allUsers", "allAuthenticatedUsers")
_MEMBER: Final = re.compile(
    r"(?:user|group|serviceAccount|domain|projectOwner|projectEditor|projectViewer"
    r"|deleted:user|deleted:group|deleted:serviceAccount|principal|principalSet):\S+"
)
_VERSIONS: Final = (0, 1, 3)


class Policy:
    """One resource's policy.

    Args:
        bindings: Its bindings.
        version: 1, or 3 with conditions.
        revision: Grows with each change.
    """

    def __init__(
        self, bindings: list[Json] | None = None, *, version: int = 1, revision: int = 0
    ) -> None:
        self.bindings = bindings or []
        self.version = version
        self.revision = revision or time.time_ns() // 1000

    @classmethod
    def from_kept(cls, kept: Json) -> "Policy":
        """As `to_kept` wrote it."""
        return cls(kept["bindings"], version=kept["version"], revision=kept["revision"])

    def to_kept(self) -> Json:
        """What is to be kept of it."""
        return {"bindings": self.bindings, "version": self.version, "revision": self.revision}

    @property
    def etag(self) -> str:
        """Tells this revision from all others."""
        return base64.b64encode(self.revision.to_bytes(8)).decode()

    def to_json(self) -> Json:
        """As Google shows it; an empty policy has no bindings."""
        shown: Json = {"version": self.version, "etag": self.etag}
        return {**shown, "bindings": self.bindings} if self.bindings else shown

    def replace(self, body: Json, check: CheckMember) -> None:
        """Carry out a ``setIamPolicy``: the whole policy becomes the one that was sent.

        Raises:
            GoogleError: 400 for what is no policy, 409 ``ABORTED`` when it was changed since its
                etag was read. A policy without an etag replaces whatever there is.
        """
        wanted = body.get("policy")
        if not isinstance(wanted, dict):
            raise invalid_argument("Policy is required.")
        version = wanted.get("version") or 1
        if version not in _VERSIONS:
            raise invalid_argument(f"Invalid policy version: {version}.")
        bindings = checked_bindings(wanted.get("bindings"), version, check)
        etag = wanted.get("etag")
        if etag and _padded(str(etag)) != self.etag:
            raise aborted(
                "There were concurrent policy changes. Please retry the whole read-modify-write "
                "with exponential backoff."
            )
        self.bindings = bindings
        self.version = 3 if any("condition" in binding for binding in bindings) else 1
        self._touch()

    def rename(self, member: str, to: str) -> bool:
        """Put another name in a member's place; whether it was there."""
        if not rename_member(self.bindings, member, to):
            return False
        self._touch()
        return True

    def _touch(self) -> None:
        self.revision = max(self.revision + 1, time.time_ns() // 1000)


def checked_bindings(value: Any, version: int, check: CheckMember) -> list[Json]:
    """Bindings in Google's order: a role once (but for conditions), its members once, sorted.

    Args:
        value: The list that was sent.
        version: Of the policy; conditions need 3.
        check: Raises for a member that does not exist.

    Raises:
        GoogleError: 400.
    """
    if value is not None and not isinstance(value, list):
        raise invalid_argument("Invalid value at 'policy.bindings': a list is expected.")
    made: dict[tuple[str, str], Json] = {}
    for at, binding in enumerate(value or []):
        if not isinstance(binding, dict) or not isinstance(binding.get("members", []), list):
            raise invalid_argument(f"Invalid value at 'policy.bindings[{at}]'.")
        role, condition = binding.get("role"), binding.get("condition")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise invalid_argument(f"Role ({role}) does not exist in the resource's hierarchy.")
        if condition is not None and version != 3:
            raise invalid_argument(
                "A policy with conditional role bindings must specify version 3."
            )
        for member in binding.get("members", []):
            _check_form(member)
            check(member)
        entry = made.setdefault((role, repr(condition)), {"role": role, "members": set()})
        entry["members"].update(binding.get("members", []))
        if condition is not None:
            entry["condition"] = condition
    return [
        {**entry, "members": sorted(entry["members"])}
        for _, entry in sorted(made.items(), key=lambda item: item[0])
        if entry["members"]
    ]


def roles_in(body: Json) -> list[str]:
    """The roles that a ``setIamPolicy`` names, whatever else it says."""
    policy = body.get("policy")
    bindings = policy.get("bindings") if isinstance(policy, dict) else None
    named = [one.get("role") for one in bindings or [] if isinstance(one, dict)]
    return [role for role in named if isinstance(role, str)]


def rename_member(bindings: list[Json], member: str, to: str) -> bool:
    """Put another name in a member's place, in all bindings; whether it was there."""
    found = False
    for binding in bindings:
        if member in binding["members"]:
            found = True
            members = {to if one == member else one for one in binding["members"]}
            binding["members"] = sorted(members)
    return found


def _check_form(member: Any) -> None:
    if not isinstance(member, str) or not (member in _ALONE or _MEMBER.fullmatch(member)):
        raise invalid_argument(
            f"The member {member} is of an unknown type. Please set a valid type prefix for the "
            "member."
        )
    kind, _, rest = member.partition(":")
    if kind in ("user", "group", "serviceAccount") and not re.fullmatch(r"[^@\s]+@[^@\s]+", rest):
        raise invalid_argument(f"Invalid member: {member}: {kind}:EMAIL is expected.")


def _padded(etag: str) -> str:
    """Some clients send the other alphabet of base64."""
    return etag.replace("-", "+").replace("_", "/")
