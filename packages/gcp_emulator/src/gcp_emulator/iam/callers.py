"""Who calls, and whether they may.

The metadata server of a VM gives away tokens; each tells its service account, which is held to
the policies. A request without a token, or with a token from elsewhere, is that of the person at
the keyboard, who owns the project.

In a route::

    require(
        request,
        "cloudsql.instances.connect",
        resource=f"projects/{project}/instances/{name}",
    )
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from gcp_emulator.iam.errors import invalid_argument, permission_denied
from gcp_emulator.iam.roles import permits
from gcp_emulator.replies import Json

__all__ = [
    "ACCESS",
    "PERMISSION",
    "Access",
    "caller",
    "held_permissions",
    "is_permitted",
    "require",
]

PERMISSION: Final = re.compile(r"[a-z]+(?:\.[A-Za-z]+)+")
"""What the name of a permission looks like."""


_EVERYBODY: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
_BASIC: Final = {
    "projectOwner": "roles/owner",
    "projectEditor": "roles/editor",
    "projectViewer": "roles/viewer",
}


class Access:
    """The tokens that were given away, and the project's policy.

    Args:
        project_policy: The policy of the project as it is now: ``{"bindings": [...]}``.
        is_alive: Whether a service account of this e-mail address exists and is enabled.
        custom_permits: Whether a custom role has a permission.
    """

    def __init__(
        self,
        project_policy: Callable[[], Json],
        *,
        is_alive: Callable[[str], bool],
        custom_permits: Callable[[str, str], bool] = lambda _role, _permission: False,
    ) -> None:
        self._project_policy = project_policy
        self._is_alive = is_alive
        self._custom_permits = custom_permits
        self._accounts: dict[str, str] = {}

    def register(self, token: str, email: str) -> None:
        """From now on this token speaks for this service account."""
        self._accounts[token] = email

    def account_of(self, token: str) -> str | None:
        """The e-mail address of the service account that a token speaks for."""
        return self._accounts.get(token)

    def grants(self, email: str, permission: str, policies: Iterable[Json] = ()) -> bool:
        """Whether the project's policy, or one of `policies`, lets an account do something."""
        if not self._is_alive(email):
            return False
        project = self._project_policy()
        return any(
            permits(role, permission) or self._custom_permits(role, permission)
            for policy in (project, *policies)
            for role in _roles_in(policy, email, project)
        )


ACCESS: Final = web.AppKey("access", Access)
"""Where an application keeps its `Access`; one without it lets everybody do everything."""


def caller(request: web.Request) -> str | None:
    """The e-mail address of the service account that calls; None for the project's owner."""
    access = request.config_dict.get(ACCESS)
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if access is None or kind.lower() != "bearer":
        return None
    return access.account_of(token.strip())


def is_permitted(
    request: web.Request, permission: str, *, policies: Iterable[Mapping[str, Any]] = ()
) -> bool:
    """Whether whoever calls has a permission, by the project's policy or one of `policies`."""
    email = caller(request)
    if email is None:
        return True
    return request.config_dict[ACCESS].grants(email, permission, [dict(p) for p in policies])


def held_permissions(
    request: web.Request, body: Json, *, policies: Iterable[Mapping[str, Any]] = ()
) -> Json:
    """The reply to a ``testIamPermissions``: those of the asked ones that whoever calls has.

    Raises:
        GoogleError: 400 for what is no permission.
    """
    asked = body.get("permissions") or []
    if not isinstance(asked, list):
        raise invalid_argument("Invalid value at 'permissions': a list is expected.")
    for one in asked:
        if not isinstance(one, str) or not PERMISSION.fullmatch(one):
            raise invalid_argument(f"Permission {one} is not valid for this resource.")
    applying = list(policies)
    held = [one for one in asked if is_permitted(request, one, policies=applying)]
    return {"permissions": held} if held else {}


def require(
    request: web.Request,
    permission: str,
    *,
    resource: str,
    policies: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Refuse who may not.

    Args:
        request: The request.
        permission: Such as ``secretmanager.versions.access``.
        resource: What it is about, for the message: ``projects/p/secrets/s/versions/1``.
        policies: Policies besides the project's that apply: those of the resource.

    Raises:
        GoogleError: 403 ``PERMISSION_DENIED`` in Google's words.
    """
    if is_permitted(request, permission, policies=policies):
        return
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "IAM_PERMISSION_DENIED",
        "domain": "iam.googleapis.com",
        "metadata": {"permission": permission, "resource": resource},
    }
    raise permission_denied(
        f"Permission '{permission}' denied for resource '{resource}' (or it may not exist).",
        details=[info],
    )


def _roles_in(policy: Json, email: str, project: Json) -> Iterator[str]:
    """The roles that an account has by a policy; a condition is taken to be met."""
    for binding in policy.get("bindings", []):
        members = binding.get("members", [])
        if any(_is_member(member, email, policy, project) for member in members):
            yield binding.get("role", "")


def _is_member(member: str, email: str, policy: Json, project: Json) -> bool:
    if member in _EVERYBODY or member == f"serviceAccount:{email}":
        return True
    basic = _BASIC.get(member.partition(":")[0])
    if basic is None or policy is project:
        return False
    return basic in _roles_in(project, email, project)
