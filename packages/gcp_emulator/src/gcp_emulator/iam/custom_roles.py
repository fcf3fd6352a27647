"""Custom roles of the project (https://cloud.google.com/iam/docs/reference/rest/v1/projects.roles).

A role that was deleted stays for a week, and so does its name: it permits nothing, and can come
back. Which permissions exist is not known here: any name of the right form is taken.
"""

import re
from pathlib import Path
from typing import Final

from aiohttp import web

from gcp_emulator.iam.callers import PERMISSION, require
from gcp_emulator.iam.errors import (
    aborted,
    already_exists,
    failed_precondition,
    invalid_argument,
    not_found,
)
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.iam.names import Project
from gcp_emulator.iam.paging import page_of
from gcp_emulator.iam.policies import Policy
from gcp_emulator.replies import Json, api, json_body, json_response

__all__ = ["CustomRoles"]

_ID: Final = re.compile(r"[a-zA-Z0-9_.]{3,64}")
_TEXTS: Final = {"title": 100, "description": 300}
_STAGES: Final = ("ALPHA", "BETA", "GA", "DEPRECATED", "DISABLED", "EAP")
_FIELDS: Final = ("title", "description", "includedPermissions", "stage")
_MOST: Final = 3_000


class CustomRoles:
    """The project's own roles.

    Args:
        project: Whose.
        file: Where they are kept.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(self, project: Project, file: Path) -> None:
        self._project = project
        self._file = file
        self._roles: dict[str, Json] = {role["name"]: role for role in read_kept(file) or []}

    def permits(self, role: str, permission: str) -> bool:
        """Whether a role, ``projects/P/roles/ID``, has a permission now."""
        found = self._roles.get(role)
        if found is None or found.get("deleted") or found.get("stage") == "DISABLED":
            return False
        return permission in found.get("includedPermissions", ())

    def check(self, role: str) -> None:
        """Refuse a policy's role that is one of the project's own and does not exist.

        Raises:
            GoogleError: 400.
        """
        if role.startswith(f"{self._project.path}/roles/") and role not in self._roles:
            raise invalid_argument(f"Role ({role}) does not exist in the resource's hierarchy.")

    def add_routes(self, app: web.Application) -> None:
        """Add the routes under ``/v1/projects/P/roles``."""
        all_of_them = "/v1/projects/{project:[^/:]+}/roles"
        one = all_of_them + "/{role:[^/:]+}"
        app.add_routes(
            [
                web.post(all_of_them, self.create),
                web.get(all_of_them, self.list),
                web.get(one, self.get),
                web.patch(one, self.patch),
                web.delete(one, self.delete),
                web.post(one + ":undelete", self.undelete),
            ]
        )

    @api("iam.projects.roles.create")
    async def create(self, request: web.Request) -> web.Response:
        """POST roles: ``{"roleId": "...", "role": {...}}``."""
        body = await json_body(request)
        self._check(request, "create")
        name = body.get("roleId")
        if not isinstance(name, str) or not _ID.fullmatch(name):
            raise invalid_argument(
                f"The role_id ({name}) must contain a minimum of 3 characters and a maximum of 64 "
                "characters of letters, digits, underscores and periods."
            )
        path = f"{self._project.path}/roles/{name}"
        known = self._roles.get(path)
        if known is not None and known.get("deleted"):
            raise failed_precondition(
                f"You can't create a role_id ({name}) where there is an existing role with that "
                "role_id in a deleted state."
            )
        if known is not None:
            raise already_exists(f"A role named {name} in {self._project.path} already exists.")
        return self._write({"name": path, **_fields(body.get("role") or {}, _FIELDS)})

    @api("iam.projects.roles.list")
    async def list(self, request: web.Request) -> web.Response:
        """GET roles; ``view=FULL`` tells their permissions, ``showDeleted`` the deleted ones."""
        self._check(request, "list")
        full = request.query.get("view") == "FULL"
        deleted = request.query.get("showDeleted", "").lower() == "true"
        found = [
            role if full else {k: v for k, v in role.items() if k != "includedPermissions"}
            for _, role in sorted(self._roles.items())
            if deleted or not role.get("deleted")
        ]
        roles, more = page_of(request, found, default=300, most=1_000)
        return json_response({"roles": roles, **more} if roles else {})

    @api("iam.projects.roles.get")
    async def get(self, request: web.Request) -> web.Response:
        """GET roles/ID, a deleted one too."""
        return json_response(self._find(request, "get"))

    @api("iam.projects.roles.patch")
    async def patch(self, request: web.Request) -> web.Response:
        """PATCH roles/ID: what ``updateMask`` names, or all that was sent."""
        body = await json_body(request)
        role = self._find(request, "update")
        _check_etag(role, body.get("etag"))
        words = request.query.get("updateMask", "").split(",")
        mask = [_camel(word) for word in words if word] or [f for f in _FIELDS if f in body]
        if unknown := sorted(set(mask) - set(_FIELDS)):
            raise invalid_argument(f"Invalid field mask for Role: {unknown[0]}.")
        if role.get("deleted"):
            raise failed_precondition(f"Role {role['name']} is deleted.")
        kept = {key: value for key, value in role.items() if key not in mask}
        return self._write({**kept, **_fields(body, mask)})

    @api("iam.projects.roles.delete")
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE roles/ID: bindings stay, and give nothing."""
        role = self._find(request, "delete")
        _check_etag(role, request.query.get("etag"))
        return self._write({**role, "deleted": True})

    @api("iam.projects.roles.undelete")
    async def undelete(self, request: web.Request) -> web.Response:
        """POST roles/ID:undelete."""
        body = await json_body(request)
        role = self._find(request, "undelete")
        _check_etag(role, body.get("etag"))
        if not role.get("deleted"):
            raise failed_precondition(f"The role {role['name']} is not deleted.")
        return self._write({key: value for key, value in role.items() if key != "deleted"})

    def _write(self, role: Json) -> web.Response:
        fresh = {**role, "etag": Policy().etag}
        self._roles[role["name"]] = fresh
        keep(self._file, [*self._roles.values()])
        return json_response(fresh)

    def _check(self, request: web.Request, verb: str) -> None:
        self._project.check(request.match_info["project"])
        require(request, f"iam.roles.{verb}", resource=self._project.path)

    def _find(self, request: web.Request, verb: str) -> Json:
        self._check(request, verb)
        name = request.match_info["role"]
        found = self._roles.get(f"{self._project.path}/roles/{name}")
        if found is None:
            raise not_found(f"The role named {self._project.path}/roles/{name} was not found.")
        return found


def _fields(sent: object, names: "tuple[str, ...] | list[str]") -> Json:
    """What was sent of these fields, checked."""
    if not isinstance(sent, dict):
        raise invalid_argument("Invalid value at 'role'.")
    fields = {name: sent[name] for name in names if sent.get(name)}
    for name, most in _TEXTS.items():
        text = fields.get(name, "")
        if not isinstance(text, str) or len(text) > most:
            raise invalid_argument(f"Invalid value at 'role.{name}': at most {most} characters.")
    stage = fields.get("stage", "ALPHA")
    if stage not in _STAGES:
        raise invalid_argument(f"Invalid value at 'role.stage': {stage}.")
    permissions = fields.get("includedPermissions", [])
    if not isinstance(permissions, list) or len(permissions) > _MOST:
        raise invalid_argument(f"A role may have at most {_MOST} permissions.")
    for one in permissions:
        if not isinstance(one, str) or not PERMISSION.fullmatch(one):
            raise invalid_argument(f"Permission {one} is not valid.")
    if permissions:
        fields["includedPermissions"] = sorted(set(permissions))
    return fields


def _check_etag(role: Json, etag: object) -> None:
    if etag and str(etag).replace("-", "+").replace("_", "/") != role["etag"]:
        raise aborted(
            "There were concurrent changes to the role. Please retry the whole "
            "read-modify-write with exponential backoff."
        )


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name.strip())
