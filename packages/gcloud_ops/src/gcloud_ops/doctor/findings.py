"""What a check finds."""

from dataclasses import dataclass
from typing import Final, Literal

from gcloud_ops.errors import GcloudOpsError, PermissionDenied

__all__ = ["QUOTA", "Finding", "Level", "ok", "problem", "unseen", "warning"]

QUOTA: Final = "quota"

type Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What: `credentials`, `quota`, `bucket`..."""
    level: Level
    """`problem`: a sweep would fail; `warning`: it runs, but something is amiss or unknown."""
    message: str
    """What was found, in one line."""
    advice: str = ""
    """What to do about it; "" where nothing has to be done."""

    @property
    def may_pass(self) -> bool:
        """Whether it may pass by itself, as quota does that others give back."""
        return self.name == QUOTA


def ok(name: str, message: str) -> Finding:
    """All is well."""
    return Finding(name=name, level="ok", message=message)


def warning(name: str, message: str, advice: str) -> Finding:
    """It works, but not as it should, or it is not known whether it does."""
    return Finding(name=name, level="warning", message=message, advice=advice)


def problem(name: str, message: str, advice: str) -> Finding:
    """It will not work."""
    return Finding(name=name, level="problem", message=message, advice=advice)


def unseen(name: str, error: GcloudOpsError) -> Finding:
    """A check could not look. That we may not is no proof that something is wrong: a warning."""
    if isinstance(error, PermissionDenied):
        advice = error.hint or "ask for the role roles/viewer in the project"
        return warning(name, f"we may not look: {error.message}", advice)
    return problem(name, error.message, error.hint or "run `gcloud-ops doctor` again")
