"""Whether the caller may do what is about to be done: asked before anything of it is made.

Reference: https://cloud.google.com/resource-manager/reference/rest/v1/projects/testIamPermissions
"""

from collections.abc import Collection

from gcloud_ops.clients import Clients
from gcloud_ops.errors import GcloudOpsError, PermissionDenied

__all__ = ["require"]


def require(clients: Clients, doing: Collection[str]) -> None:
    """Refuse if the caller lacks one of these permissions in the project.

    Where that can't be asked (the API of Resource Manager needn't be enabled), each call tells
    for itself.

    Args:
        clients: The cloud.
        doing: Of Monitoring: `alertPolicies.create`, `notificationChannels.create`...

    Raises:
        PermissionDenied: It names those that lack.
    """
    needed = sorted(f"monitoring.{one}" for one in doing)
    if not needed:
        return
    try:
        projects = clients.api("cloudresourcemanager", "v1").projects()
        request = projects.testIamPermissions(
            resource=clients.project, body={"permissions": needed}
        )
        held = clients.execute(f"project {clients.project}", request, repeat=True)
    except GcloudOpsError:
        return
    if missing := [one for one in needed if one not in held.get("permissions", [])]:
        raise PermissionDenied(
            f"project {clients.project}: you lack {', '.join(missing)}; nothing was made",
            resource=f"project {clients.project}",
            hint="roles/monitoring.editor has all that alerts need",
        )
