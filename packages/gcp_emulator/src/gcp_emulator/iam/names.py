"""How the project is called."""

from dataclasses import dataclass

from gcp_emulator.iam.errors import permission_denied


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The only project of the cloud."""

    id: str
    number: str
    created: str
    """RFC 3339; this run of the cloud has no older memory."""

    @property
    def path(self) -> str:
        """``projects/ID``."""
        return f"projects/{self.id}"

    @property
    def numbered(self) -> str:
        """``projects/NUMBER``, as Service Usage and Secret Manager say it."""
        return f"projects/{self.number}"

    def check(self, named: str) -> None:
        """Refuse another project.

        Raises:
            GoogleError: 403: Google does not tell whether there is one.
        """
        if named in (self.id, self.number):
            return
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "CONSUMER_INVALID",
            "domain": "googleapis.com",
            "metadata": {"consumer": f"projects/{named}"},
        }
        raise permission_denied(f"Permission denied on resource project {named}.", details=[info])
