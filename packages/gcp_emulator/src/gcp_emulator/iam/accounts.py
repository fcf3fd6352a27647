"""Service accounts (https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts).

Unlike Google's, an account that was just made can be used at once.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

from gcp_emulator.iam.callers import held_permissions, require
from gcp_emulator.iam.errors import StatusError, invalid_argument, not_found
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.iam.names import Project
from gcp_emulator.iam.paging import page_of
from gcp_emulator.iam.policies import Policy
from gcp_emulator.replies import Json, api, json_body, json_response

__all__ = ["Accounts"]

_ID: Final = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])")
_AGENT: Final = re.compile(
    # Accounts that Google makes and owns: nobody can say here which of them exist.
    r"(?:service-\d+@[-a-z0-9]+\.iam|\d+@(?:cloudservices|cloudbuild))\.gserviceaccount\.com"
)
_TEXTS: Final[Mapping[str, int]] = {"displayName": 100, "description": 256}


class _Account:
    """One account, and who may act as it."""

    def __init__(self, resource: Json, policy: Policy) -> None:
        self.resource = resource
        self.policy = policy

    @property
    def email(self) -> str:
        """Its e-mail address."""
        return str(self.resource["email"])

    @property
    def id(self) -> str:
        return str(self.resource["uniqueId"])


class Accounts:
    """The project's service accounts.

    Args:
        project: Whose.
        file: Where they are kept.
        deleted: Called with ``serviceAccount:EMAIL`` and with what policies say in its place
            from then on, when an account is deleted.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(
        self, project: Project, file: Path, *, deleted: Callable[[str, str], None]
    ) -> None:
        self._project = project
        self._file = file
        self._deleted = deleted
        self._accounts: dict[str, _Account] = {}
        known = read_kept(file)
        for kept in known or []:
            account = _Account(kept["resource"], Policy.from_kept(kept["policy"]))
            self._accounts[account.email] = account
        if known is None:
            texts = {"displayName": "Compute Engine default service account"}
            self._add(self.default_email, texts)

    @property
    def default_email(self) -> str:
        """The account that instances have unless they are given another."""
        return f"{self._project.number}-compute@developer.gserviceaccount.com"

    def is_alive(self, email: str) -> bool:
        """Whether there is such an account, and it is not disabled."""
        account = self._accounts.get(email)
        return account is not None and not account.resource.get("disabled")

    def policy_of(self, email: str) -> Json:
        """Who may do what with an account; nobody with one that does not exist."""
        account = self._accounts.get(email)
        return account.policy.to_json() if account else {"bindings": []}

    def check_member(self, member: str) -> None:
        """Refuse a policy's member that is a service account which does not exist.

        Raises:
            GoogleError: 400.
        """
        kind, _, email = member.partition(":")
        if kind != "serviceAccount" or email in self._accounts or _AGENT.fullmatch(email):
            return
        raise invalid_argument(f"Service account {email} does not exist.")

    def add_routes(self, app: web.Application) -> None:
        """Add the routes under ``/v1/projects/P/serviceAccounts``."""
        all_of_them = "/v1/projects/{project:[^/:]+}/serviceAccounts"
        one = all_of_them + "/{account:[^/:]+}"
        app.add_routes(
            [
                web.post(all_of_them, self.create),
                web.get(all_of_them, self.list),
                web.get(one, self.get),
                web.patch(one, self.patch),
                web.put(one, self.update),
                web.delete(one, self.delete),
                web.post(one + ":disable", self.disable),
                web.post(one + ":enable", self.enable),
                web.post(one + ":getIamPolicy", self.get_policy),
                web.post(one + ":setIamPolicy", self.set_policy),
                web.post(one + ":testIamPermissions", self.test_permissions),
            ]
        )

    @api("iam.projects.serviceAccounts.create")
    async def create(self, request: web.Request) -> web.Response:
        """POST serviceAccounts: ``{"accountId": "...", "serviceAccount": {...}}``."""
        body = await json_body(request)
        self._project.check(request.match_info["project"])
        require(request, "iam.serviceAccounts.create", resource=self._project.path)
        name = body.get("accountId")
        if not isinstance(name, str) or not 6 <= len(name) <= 30 or not _ID.fullmatch(name):
            raise invalid_argument(
                "Service account ID must be between 6 and 30 characters. Service account ID must "
                "start with a lower case letter, followed by one or more lower case "
                "alphanumerical characters that can be separated by hyphens."
            )
        email = f"{name}@{self._project.id}.iam.gserviceaccount.com"
        if email in self._accounts:
            raise StatusError(
                409,
                "ALREADY_EXISTS",
                f"Service account {name} already exists within project {self._project.path}.",
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ResourceInfo",
                        "resourceName": f"{self._project.path}/serviceAccounts/{email}",
                    }
                ],
            )
        account = self._add(email, _texts(body.get("serviceAccount") or {}))
        return json_response(account.resource)

    @api("iam.projects.serviceAccounts.list")
    async def list(self, request: web.Request) -> web.Response:
        """GET serviceAccounts."""
        self._project.check(request.match_info["project"])
        require(request, "iam.serviceAccounts.list", resource=self._project.path)
        found = [account.resource for _, account in sorted(self._accounts.items())]
        accounts, more = page_of(request, found, default=20, most=100)
        return json_response({"accounts": accounts, **more} if accounts else {})

    @api("iam.projects.serviceAccounts.get")
    async def get(self, request: web.Request) -> web.Response:
        """GET serviceAccounts/EMAIL, or its unique id; project ``-`` is whichever has it."""
        return json_response(self.find(request, "get").resource)

    @api("iam.projects.serviceAccounts.patch")
    async def patch(self, request: web.Request) -> web.Response:
        """PATCH serviceAccounts/EMAIL: ``{"serviceAccount": {...}, "updateMask": "..."}``."""
        body = await json_body(request)
        account = self.find(request, "update")
        mask = [_camel(name) for name in str(body.get("updateMask") or "").split(",") if name]
        if not mask:
            raise invalid_argument(
                "Invalid field mask for ServiceAccount. Field mask paths cannot be empty."
            )
        if unknown := set(mask) - set(_TEXTS):
            raise invalid_argument(f"Invalid field mask for ServiceAccount: {min(unknown)}.")
        texts = _texts(body.get("serviceAccount") or {})
        for name in mask:
            account.resource.pop(name, None)
        account.resource |= {name: texts[name] for name in mask if name in texts}
        self._save()
        return json_response(account.resource)

    @api("iam.projects.serviceAccounts.update")
    async def update(self, request: web.Request) -> web.Response:
        """PUT serviceAccounts/EMAIL: display name and description."""
        texts = _texts(await json_body(request))
        account = self.find(request, "update")
        account.resource |= texts
        self._save()
        return json_response(account.resource)

    @api("iam.projects.serviceAccounts.delete")
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE serviceAccounts/EMAIL; policies say that it was deleted."""
        account = self.find(request, "delete")
        del self._accounts[account.email]
        member = f"serviceAccount:{account.email}"
        gone = f"deleted:{member}?uid={account.id}"
        for other in self._accounts.values():
            other.policy.rename(member, gone)
        self._save()
        self._deleted(member, gone)
        return json_response({})

    @api("iam.projects.serviceAccounts.disable")
    async def disable(self, request: web.Request) -> web.Response:
        """POST serviceAccounts/EMAIL:disable: its tokens open nothing any more."""
        self.find(request, "disable").resource["disabled"] = True
        self._save()
        return json_response({})

    @api("iam.projects.serviceAccounts.enable")
    async def enable(self, request: web.Request) -> web.Response:
        """POST serviceAccounts/EMAIL:enable."""
        self.find(request, "enable").resource.pop("disabled", None)
        self._save()
        return json_response({})

    @api("iam.projects.serviceAccounts.getIamPolicy")
    async def get_policy(self, request: web.Request) -> web.Response:
        """POST serviceAccounts/EMAIL:getIamPolicy: who may act as it."""
        return json_response(self.find(request, "getIamPolicy").policy.to_json())

    @api("iam.projects.serviceAccounts.setIamPolicy")
    async def set_policy(self, request: web.Request) -> web.Response:
        """POST serviceAccounts/EMAIL:setIamPolicy."""
        body = await json_body(request)
        account = self.find(request, "setIamPolicy")
        account.policy.replace(body, self.check_member)
        self._save()
        return json_response(account.policy.to_json())

    @api("iam.projects.serviceAccounts.testIamPermissions")
    async def test_permissions(self, request: web.Request) -> web.Response:
        """POST serviceAccounts/EMAIL:testIamPermissions: those that whoever calls has."""
        body = await json_body(request)
        policies = [self.find(request, "get").policy.to_json()]
        return json_response(held_permissions(request, body, policies=policies))

    def _add(self, email: str, texts: Json) -> _Account:
        identity = f"1{secrets.randbelow(10**20):020}"
        resource = {
            "name": f"{self._project.path}/serviceAccounts/{email}",
            "projectId": self._project.id,
            "uniqueId": identity,
            "email": email,
            **texts,
            "etag": "MDEwMjE5MjA=",
            "oauth2ClientId": identity,
        }
        account = self._accounts[email] = _Account(resource, Policy())
        self._save()
        return account

    def find(self, request: web.Request, verb: str) -> _Account:
        """The account that the path names, for somebody who may do this with it.

        Raises:
            GoogleError: 403, 404.
        """
        project, key = request.match_info["project"], request.match_info["account"]
        if project != "-":
            self._project.check(project)
        found = self._accounts.get(key)
        if found is None:
            found = next((a for a in self._accounts.values() if a.id == key), None)
        policies = [found.policy.to_json()] if found else []
        name = f"{self._project.path}/serviceAccounts/{key}"
        require(request, f"iam.serviceAccounts.{verb}", resource=name, policies=policies)
        if found is None:
            raise not_found(f"Service account {name} does not exist.")
        return found

    def _save(self) -> None:
        kept = [
            {"resource": account.resource, "policy": account.policy.to_kept()}
            for account in self._accounts.values()
        ]
        keep(self._file, kept)


def _texts(sent: object) -> Json:
    """What a person may say of an account."""
    if not isinstance(sent, dict):
        raise invalid_argument("Invalid value at 'service_account'.")
    texts = {name: sent[name] for name in _TEXTS if sent.get(name)}
    for name, text in texts.items():
        if not isinstance(text, str) or len(text.encode()) > _TEXTS[name]:
            raise invalid_argument(f"Invalid value at '{name}': at most {_TEXTS[name]} bytes.")
    return texts


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name.strip())
