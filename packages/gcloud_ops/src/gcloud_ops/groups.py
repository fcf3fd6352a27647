"""Managed instance groups of Compute Engine, and their members.

Functions, each with the clients first and returning our nouns. `zone=None` is the settings' zone.
All raise `GcloudOpsError`: `NotFound`, `PermissionDenied`, `Unavailable`... where not said else.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import TYPE_CHECKING, Final

from gcloud_ops.clients import Clients
from gcloud_ops.compute import checked_name, last_part, time_of
from gcloud_ops.errors import NotFound, NotReady
from gcloud_ops.model import MAX_EXPERIMENTS, Group, Member

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = [
    "GroupError",
    "create_group",
    "create_instances",
    "delete_group",
    "delete_instances",
    "get_group",
    "list_errors",
    "list_groups",
    "list_members",
]

_PAUSE: Final = 0.5  # seconds between two looks at a group that somebody else deletes
_ACTIONS = (
    "abandoning",
    "creating",
    "creating_without_retries",
    "deleting",
    "none",
    "recreating",
    "refreshing",
    "restarting",
    "resuming",
    "starting",
    "stopping",
    "suspending",
    "verifying",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupError:
    """One entry of a group's list of errors."""

    instance: str
    action: str
    """What the group was doing: CREATING, RECREATING, DELETING, ..."""
    code: str
    message: str
    time: datetime | None = None


def create_group(
    clients: Clients,
    name: str,
    template: str,
    *,
    metadata: Mapping[str, str],
    labels: Mapping[str, str],
    zone: str | None = None,
) -> Group:
    """Create a group of size 0 and wait until it is there.

    Args:
        clients: The clients.
        name: Its name, and the base of its instances' names.
        template: Name of the instance template.
        metadata: For all instances, over the template's (allInstancesConfig).
        labels: For all instances, over the template's.
        zone: Where.

    Raises:
        AlreadyExists: There is one of this name in the zone.
        NotFound: No such template or zone.
    """
    where = zone or clients.zone
    clients.change(
        f"group {name}",
        clients.groups.insert_unary,
        project=clients.project,
        zone=where,
        instance_group_manager_resource={
            "name": checked_name(name, "group"),
            "base_instance_name": name,
            "instance_template": f"global/instanceTemplates/{checked_name(template, 'template')}",
            "target_size": 0,
            "all_instances_config": {
                "properties": {"metadata": dict(metadata), "labels": dict(labels)}
            },
        },
    )
    found = get_group(clients, name, zone=where)
    if found is None:
        raise NotFound(f"group {name}: deleted while it was being made", resource=f"group {name}")
    return found


def get_group(clients: Clients, name: str, *, zone: str | None = None) -> Group | None:
    """Read one group; None when there is none."""
    try:
        found = clients.read(
            f"group {name}", clients.groups.get, **_group_fields(clients, name, zone)
        )
    except NotFound:
        return None
    return _group(found)


def list_groups(clients: Clients) -> tuple[Group, ...]:
    """All zonal groups of the project, by name; one call whatever the number of zones."""
    found = clients.read_all(
        f"project {clients.project}", clients.groups.aggregated_list, project=clients.project
    )
    groups = [
        _group(one)
        for scope, content in found
        if scope.startswith("zones/")
        for one in content.instance_group_managers
    ]
    return tuple(sorted(groups, key=lambda group: (group.name, group.zone)))


def delete_group(
    clients: Clients,
    name: str,
    *,
    zone: str | None = None,
    wait: bool = True,
    timeout: float = 600.0,
) -> bool:
    """Delete a group and its instances; absent is done, and so is deleted by somebody else.

    Args:
        clients: The clients.
        name: The group.
        zone: Where.
        wait: Wait until it is gone.
        timeout: How long to wait, in seconds.

    Returns:
        Whether there was one.
    """
    resource = f"group {name}"
    deadline = time.monotonic() + timeout
    found = False
    while True:
        try:
            operation = clients.start(
                resource, clients.groups.delete_unary, **_group_fields(clients, name, zone)
            )
            if wait:
                clients.wait(operation, resource=resource, timeout=timeout)
            return True
        except NotFound:
            return found
        except NotReady:
            # The last runner, or another cancel, is deleting it at this moment.
            found = True
            if not wait:
                return True
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def create_instances(
    clients: Clients, group: str, names: Iterable[str], *, zone: str | None = None
) -> None:
    """Ask the group for instances of these names, and wait until it has accepted.

    The group then creates them, and keeps trying where it can't: see `list_members`.
    Names that are members already are an error of the whole call.
    """
    for some in batched(names, MAX_EXPERIMENTS):
        clients.change(
            f"group {group}",
            clients.groups.create_instances_unary,
            **_group_fields(clients, group, zone),
            instance_group_managers_create_instances_request_resource={
                "instances": [{"name": checked_name(name, "instance")} for name in some]
            },
        )


def delete_instances(
    clients: Clients, group: str, names: Iterable[str], *, zone: str | None = None
) -> None:
    """Ask the group to delete members, and wait until it has accepted.

    What is no member, or not any more, is done; so is a group that isn't there.
    """
    where = zone or clients.zone
    for some in batched(names, 1000):  # Compute Engine's limit for one call
        try:
            clients.change(
                f"group {group}",
                clients.groups.delete_instances_unary,
                **_group_fields(clients, group, where),
                instance_group_managers_delete_instances_request_resource={
                    "instances": [
                        f"zones/{where}/instances/{checked_name(name, 'instance')}"
                        for name in some
                    ],
                    "skip_instances_on_validation_error": True,
                },
            )
        except NotFound:
            return


def list_members(
    clients: Clients, group: str, *, zone: str | None = None
) -> tuple[Member, ...] | None:
    """The group's members, by name, in one call; None when there is no such group."""
    try:
        found = clients.read_all(
            f"group {group}",
            clients.groups.list_managed_instances,
            **_group_fields(clients, group, zone),
        )
    except NotFound:
        return None
    return tuple(sorted((_member(one) for one in found), key=lambda member: member.name))


def list_errors(
    clients: Clients, group: str, *, zone: str | None = None
) -> tuple[GroupError, ...]:
    """The group's latest errors, as Compute Engine orders them; none when there is no group."""
    try:
        found = clients.read_all(
            f"group {group}", clients.groups.list_errors, **_group_fields(clients, group, zone)
        )
    except NotFound:
        return ()
    return tuple(
        GroupError(
            instance=last_part(one.instance_action_details.instance),
            action=one.instance_action_details.action,
            code=one.error.code,
            message=one.error.message,
            time=time_of(one.timestamp),
        )
        for one in found
    )


# --------------------------------------------------------------- requests, and what comes back


def _group_fields(clients: Clients, name: str, zone: str | None) -> dict[str, str]:
    return {
        "project": clients.project,
        "zone": zone or clients.zone,
        "instance_group_manager": checked_name(name, "group"),
    }


def _group(found: "compute_v1.InstanceGroupManager") -> Group:
    actions = found.current_actions
    counts = {name.upper(): int(getattr(actions, name)) for name in _ACTIONS}
    return Group(
        name=found.name,
        zone=last_part(found.zone),
        template=last_part(found.instance_template),
        target_size=int(found.target_size),
        created=time_of(found.creation_timestamp),
        is_stable=bool(found.status.is_stable),
        actions={name: count for name, count in counts.items() if count},
    )


def _member(found: "compute_v1.ManagedInstance") -> Member:
    errors = found.last_attempt.errors.errors
    return Member(
        name=found.name or last_part(found.instance),
        id=str(found.id) if found.id else "",
        action=found.current_action or "NONE",
        status=found.instance_status,
        error_code=errors[0].code if errors else "",
        error_message=errors[0].message if errors else "",
    )
