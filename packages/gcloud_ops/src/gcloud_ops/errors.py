"""Everything that can go wrong, as one tree.

    GcloudOpsError
    ├── CredentialsMissing     no credentials, or they have expired
    ├── PermissionDenied       the account may not do this
    ├── NotFound               no such sweep, template, zone, group, instance, object
    ├── AlreadyExists          the name is taken
    ├── InvalidRequest         what was asked for cannot be: a bad field, name, flag or file
    ├── QuotaExceeded          the project's quota does not allow it
    ├── NoCapacity             the zone has no such machines at the moment
    ├── Unavailable            the cloud does not answer, or asks to come back later
    │   └── NotReady           somebody else is just making, changing or deleting it
    ├── OperationFailed        an operation ended with an error that is none of the above
    ├── ContainerFailed        the container did not start, or a command in it failed
    └── HostKeyMismatch        an instance shows another host key than the one it published

Each carries the resource it is about and a hint: what to do next. Single calls raise;
batches return errors as values, beside what went well.
"""

__all__ = [
    "AlreadyExists",
    "ContainerFailed",
    "CredentialsMissing",
    "GcloudOpsError",
    "HostKeyMismatch",
    "InvalidRequest",
    "NoCapacity",
    "NotFound",
    "NotReady",
    "OperationFailed",
    "PermissionDenied",
    "QuotaExceeded",
    "Unavailable",
]


class GcloudOpsError(Exception):
    """The root: catch this to catch all that this package raises on purpose.

    Args:
        message: One line: what is wrong, and where.
        resource: What it is about, such as `sweep quick` or `template sinergym-template`.
        hint: What to do about it, or "".
    """

    def __init__(self, message: str, *, resource: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.resource = resource
        self.hint = hint

    def __str__(self) -> str:
        """Message and hint, in one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class CredentialsMissing(GcloudOpsError):
    """No credentials were found, or they are not valid any more."""


class PermissionDenied(GcloudOpsError):
    """The account lacks a permission; the message names it where Google does."""


class NotFound(GcloudOpsError):
    """There is no such thing."""


class AlreadyExists(GcloudOpsError):
    """The name is taken."""


class InvalidRequest(GcloudOpsError):
    """The request can't be carried out as it is; the message names the field."""


class QuotaExceeded(GcloudOpsError):
    """The project's quota is used up."""


class NoCapacity(GcloudOpsError):
    """The zone has no capacity left for the machine type (a stock-out)."""


class Unavailable(GcloudOpsError):
    """The cloud can't be reached, is overloaded, or timed out; trying again may help."""


class NotReady(Unavailable):
    """The resource is being made, changed or deleted at this moment, by another request."""


class OperationFailed(GcloudOpsError):
    """A long-running operation ended with an error."""


class ContainerFailed(GcloudOpsError):
    """The container isn't there, didn't start, or refused the command."""


class HostKeyMismatch(GcloudOpsError):
    """The instance's host key isn't the published one: the connection was refused."""
