"""The project and its policy (https://cloud.google.com/resource-manager/reference/rest/v1/projects).

In v3, too. At first the person at the keyboard owns it, and the default compute account may edit
it.
"""

from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from gcp_emulator.iam.callers import held_permissions, is_permitted, require
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.iam.names import Project
from gcp_emulator.iam.policies import CheckMember, Policy, roles_in
from gcp_emulator.replies import Json, api, json_body, json_response

OWNER = "user:you@example.org"
"""Who owns the project, to begin with."""


class ProjectPolicy:
    """The project, and who has which role in it.

    Args:
        project: It.
        file: Where the policy is kept.
        editor: E-mail address of the default compute account.
        check_member: Raises for a service account that does not exist.
        check_role: Raises for a custom role that does not exist.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(
        self,
        project: Project,
        file: Path,
        *,
        editor: str,
        check_member: CheckMember,
        check_role: Callable[[str], None],
    ) -> None:
        self._project = project
        self._file = file
        self._check_member = check_member
        self._check_role = check_role
        kept = read_kept(file)
        if kept is not None:
            self._policy = Policy.from_kept(kept)
            return
        self._policy = Policy(
            [
                {"role": "roles/editor", "members": [f"serviceAccount:{editor}"]},
                {"role": "roles/owner", "members": [OWNER]},
            ]
        )
        self._save()

    def to_json(self) -> Json:
        """The policy as it is now."""
        return self._policy.to_json()

    def rename(self, member: str, to: str) -> None:
        """Put another name in a member's place."""
        if self._policy.rename(member, to):
            self._save()

    def add_routes(self, app: web.Application) -> None:
        """Add the routes ``/v1/projects/P`` and ``/v1/projects/P:...IamPolicy``; so in v3."""
        v1, v3 = (f"/{version}/projects/{{project:[^/:]+}}" for version in ("v1", "v3"))
        app.add_routes(
            [
                web.get("/v1/projects", self.list),
                web.get(v1, self.get),
                web.get(v3, self.get_v3),
            ]
        )
        for one in (v1, v3):
            app.add_routes(
                [
                    web.post(one + ":getIamPolicy", self.get_policy),
                    web.post(one + ":setIamPolicy", self.set_policy),
                    web.post(one + ":testIamPermissions", self.test_permissions),
                ]
            )

    @api("cloudresourcemanager.projects.get")
    async def get(self, request: web.Request) -> web.Response:
        """GET projects/P."""
        self._check(request, "get")
        return json_response(self._project_json())

    @api("cloudresourcemanager.projects.get")
    async def get_v3(self, request: web.Request) -> web.Response:
        """GET projects/P, as v3 shows it."""
        self._check(request, "get")
        return json_response(
            {
                "name": self._project.numbered,
                "projectId": self._project.id,
                "state": "ACTIVE",
                "displayName": self._project.id,
                "createTime": self._project.created,
            }
        )

    @api("cloudresourcemanager.projects.list")
    async def list(self, request: web.Request) -> web.Response:
        """GET projects."""
        permitted = is_permitted(request, "resourcemanager.projects.get")
        return json_response({"projects": [self._project_json()]} if permitted else {})

    @api("cloudresourcemanager.projects.getIamPolicy")
    async def get_policy(self, request: web.Request) -> web.Response:
        """POST projects/P:getIamPolicy."""
        await json_body(request)
        self._check(request, "getIamPolicy")
        return json_response(self._policy.to_json())

    @api("cloudresourcemanager.projects.setIamPolicy")
    async def set_policy(self, request: web.Request) -> web.Response:
        """POST projects/P:setIamPolicy: replaces the whole policy."""
        body = await json_body(request)
        self._check(request, "setIamPolicy")
        for role in roles_in(body):
            self._check_role(role)
        self._policy.replace(body, self._check_member)
        self._save()
        return json_response(self._policy.to_json())

    @api("cloudresourcemanager.projects.testIamPermissions")
    async def test_permissions(self, request: web.Request) -> web.Response:
        """POST projects/P:testIamPermissions: those that whoever calls has."""
        body = await json_body(request)
        self._project.check(request.match_info["project"])
        return json_response(held_permissions(request, body))

    def _check(self, request: web.Request, verb: str) -> None:
        self._project.check(request.match_info["project"])
        require(request, f"resourcemanager.projects.{verb}", resource=self._project.path)

    def _project_json(self) -> Json:
        return {
            "projectNumber": self._project.number,
            "projectId": self._project.id,
            "lifecycleState": "ACTIVE",
            "name": self._project.id,
            "createTime": self._project.created,
        }

    def _save(self) -> None:
        keep(self._file, self._policy.to_kept())
