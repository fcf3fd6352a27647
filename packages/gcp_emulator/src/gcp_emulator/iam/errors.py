"""Errors as Google's newer APIs write them: with a ``status`` and perhaps ``details``.

IAM, Resource Manager, Service Usage and Secret Manager answer ``{"error": {"code": 404,
"message": "...", "status": "NOT_FOUND"}}`` (https://cloud.google.com/apis/design/errors), without
the ``errors`` of Compute Engine and Cloud Storage.
"""

from collections.abc import Sequence
from typing import Final

from gcp_emulator.replies import GoogleError, Json

_REASONS: Final = {
    "INVALID_ARGUMENT": "badRequest",
    "FAILED_PRECONDITION": "failedPrecondition",
    "PERMISSION_DENIED": "forbidden",
    "NOT_FOUND": "notFound",
    "ALREADY_EXISTS": "alreadyExists",
    "ABORTED": "aborted",
}


class StatusError(GoogleError):
    """An answer that is an error of a newer API.

    Args:
        code: HTTP status.
        status: Google's canonical code: ``NOT_FOUND``, ``INVALID_ARGUMENT``...
        message: One sentence for people.
        details: Entries with an ``@type`` each.
        errors: The older form of it, for the few answers that have both.
    """

    def __init__(
        self,
        code: int,
        status: str,
        message: str,
        *,
        details: Sequence[Json] = (),
        errors: Sequence[Json] = (),
    ) -> None:
        super().__init__(code, _REASONS.get(status, status), message)
        self.status = status
        self.details = list(details)
        self.errors = list(errors)

    def to_json(self) -> Json:
        """The body of the reply."""
        error: Json = {"code": self.code, "message": self.message}
        if self.errors:
            error["errors"] = self.errors
        error["status"] = self.status
        if self.details:
            error["details"] = self.details
        return {"error": error}


def invalid_argument(message: str) -> StatusError:
    """400: what was sent can't be."""
    return StatusError(400, "INVALID_ARGUMENT", message)


def failed_precondition(message: str) -> StatusError:
    """400: it can't be in the present state."""
    return StatusError(400, "FAILED_PRECONDITION", message)


def permission_denied(message: str, *, details: Sequence[Json] = ()) -> StatusError:
    """403: whoever asks may not, or must not know."""
    return StatusError(403, "PERMISSION_DENIED", message, details=details)


def not_found(message: str) -> StatusError:
    """404."""
    return StatusError(404, "NOT_FOUND", message)


def already_exists(message: str) -> StatusError:
    """409: there is one of this name."""
    return StatusError(409, "ALREADY_EXISTS", message)


def aborted(message: str) -> StatusError:
    """409: somebody else was faster."""
    return StatusError(409, "ABORTED", message)
