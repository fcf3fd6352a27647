"""Compute Engine's permissions: which call needs which, and that nobody does without.

https://cloud.google.com/compute/docs/access/iam-permissions. The token of a VM, or one of
`tokens`, is held to the project's policy; the person at the keyboard owns the project.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from gcp_emulator.iam.callers import caller, is_permitted
from gcp_emulator.replies import GoogleError, Json, Route, google_method, json_body

__all__ = ["Enforcer", "permission_of"]

_VERBS: Final[Mapping[str, str]] = {
    "insert": "create",
    "aggregatedList": "list",
    "patch": "update",
    "wait": "get",
}
_GROUP_VERBS: Final[Mapping[str, str]] = {
    **_VERBS,
    "listManagedInstances": "get",
    "listErrors": "get",
    "listPerInstanceConfigs": "get",
    # Members are made and removed by Compute Engine's own agent: its caller changes the group.
    **dict.fromkeys(
        (
            *("createInstances", "deleteInstances", "recreateInstances", "abandonInstances"),
            *("applyUpdatesToInstances", "resize", "setInstanceTemplate", "setTargetPools"),
            *("patchPerInstanceConfigs", "updatePerInstanceConfigs", "deletePerInstanceConfigs"),
            *("startInstances", "stopInstances", "suspendInstances", "resumeInstances"),
        ),
        "update",
    ),
}
_ACTING: Final = ("compute.instanceTemplates.insert", "compute.instances.insert")


def permission_of(method: str) -> str:
    """The permission that a method of Compute Engine needs.

    For example ``compute.instanceGroupManagers.update`` for
    ``compute.regionInstanceGroupManagers.deleteInstances``.
    """
    _, collection, verb = method.split(".")
    if collection == "regionInstanceGroupManagers":
        collection = "instanceGroupManagers"
    verbs = _GROUP_VERBS if collection == "instanceGroupManagers" else _VERBS
    return f"compute.{collection}.{verbs.get(verb, verb)}"


class Enforcer:
    """Refuses calls of Compute Engine by those who lack a permission.

    Args:
        default_account: E-mail address of the account that ``default`` means.
        account_policy: The policy of a service account, by its e-mail address.
    """

    def __init__(self, *, default_account: str, account_policy: Callable[[str], Json]) -> None:
        self._default_account = default_account
        self._account_policy = account_policy

    @web.middleware
    async def middleware(self, request: web.Request, handler: Route) -> web.StreamResponse:
        """Let pass what is permitted.

        Raises:
            GoogleError: 403 ``forbidden`` with the permission's name; 400 for a service account
                that the caller may not act as.
        """
        method = google_method(request.match_info.handler) or ""
        if method.startswith("compute.") and caller(request) is not None:
            permission = permission_of(method)
            if not is_permitted(request, permission):
                await request.read()
                path = request.path.removeprefix("/compute/v1/")
                message = f"Required '{permission}' permission for '{path}'"
                raise GoogleError(403, "forbidden", message)
            if method in _ACTING:
                self._check_acting(request, await json_body(request))
        return await handler(request)

    def _check_acting(self, request: web.Request, body: Json) -> None:
        for email in _accounts_in(body.get("properties") or body):
            named = self._default_account if email == "default" else email
            policies = [self._account_policy(named)]
            if not is_permitted(request, "iam.serviceAccounts.actAs", policies=policies):
                raise GoogleError(
                    400,
                    "SERVICE_ACCOUNT_ACCESS_DENIED",
                    f"The user does not have access to service account '{named}'. User: "
                    f"'{caller(request)}'. Ask a project owner to grant you the "
                    "iam.serviceAccountUser role on the service account",
                )


def _accounts_in(properties: Any) -> list[str]:
    given = properties.get("serviceAccounts") if isinstance(properties, dict) else None
    entries = given if isinstance(given, list) else []
    return [str(one.get("email")) for one in entries if isinstance(one, dict) and one.get("email")]
