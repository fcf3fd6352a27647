"""`Iam`: service accounts, the project's policy, enabled APIs and secrets, and who calls."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aiohttp import web

from gcp_emulator.iam.accounts import Accounts
from gcp_emulator.iam.callers import ACCESS, Access
from gcp_emulator.iam.custom_roles import CustomRoles
from gcp_emulator.iam.enforcing import Enforcer
from gcp_emulator.iam.kept import make_private
from gcp_emulator.iam.names import Project
from gcp_emulator.iam.project import ProjectPolicy
from gcp_emulator.iam.secrets import Secrets
from gcp_emulator.iam.services import Services
from gcp_emulator.iam.tokens import Tokens
from gcp_emulator.iam.vault import Vault

__all__ = ["Iam"]

FOLDER: Final = "iam"
"""In the cloud's folder; with a folder for each project that it has had."""


class Iam:
    """Who may do what in the project; all of it is kept in the folder.

    Args:
        folder: The cloud's.
        project: The project's id.
        number: Its number.
        seconds: How long it takes to enable an API.

    Raises:
        ValueError: What is in the folder can't be read.
    """

    def __init__(self, folder: Path, *, project: str, number: str, seconds: float = 0.0) -> None:
        place = make_private(folder / FOLDER / project)
        known = Project(
            id=project, number=number, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        )
        self._renames: list[Callable[[str, str], object]] = []
        self.accounts = Accounts(known, place / "accounts.json", deleted=self._rename)
        self._roles = CustomRoles(known, place / "roles.json")
        self.policy = ProjectPolicy(
            known,
            place / "policy.json",
            editor=self.accounts.default_email,
            check_member=self.accounts.check_member,
            check_role=self._roles.check,
        )
        self.services = Services(known, place / "services.json", seconds=seconds)
        self._secrets = Secrets(
            known, Vault(place / "secrets"), check_member=self.accounts.check_member
        )
        self.access = Access(
            self.policy.to_json,
            is_alive=self.accounts.is_alive,
            custom_permits=self._roles.permits,
        )
        self._tokens = Tokens(self.accounts, self.access)
        self.enforcer = Enforcer(
            default_account=self.accounts.default_email, account_policy=self.accounts.policy_of
        )
        self.on_deleted(self.policy.rename)
        self.on_deleted(self._secrets.rename)

    def on_deleted(self, rename: Callable[[str, str], object]) -> None:
        """Tell somebody else who keeps policies when a service account is deleted.

        Args:
            rename: Called with a member of policies, and with what stands in its place now.
        """
        self._renames.append(rename)

    def add_routes(self, app: web.Application) -> None:
        """Add all routes, and let `callers.require` find the policies."""
        app[ACCESS] = self.access
        self.accounts.add_routes(app)
        self._tokens.add_routes(app)
        self._roles.add_routes(app)
        self.services.add_routes(app)
        self._secrets.add_routes(app)
        self.policy.add_routes(app)

    def _rename(self, member: str, to: str) -> None:
        for rename in self._renames:
            rename(member, to)
