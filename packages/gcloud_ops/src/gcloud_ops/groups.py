"""Managed instance groups of Compute Engine, and their members.

Functions, each with the clients first and returning our nouns. `where` is a zone, or a region with
some of its zones; None is the settings' zone. All raise `GcloudOpsError`: `NotFound`,
`PermissionDenied`, `Unavailable`... where not said else.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import TYPE_CHECKING, Any, Final

from gcloud_ops.clients import Clients
from gcloud_ops.compute import checked_name, last_part, time_of
from gcloud_ops.errors import NotFound, NotReady
from gcloud_ops.model import MAX_EXPERIMENTS, Group, Location, Member

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = [
    "GroupError",
    "create_group",
    "create_instances",
    "delete_group",
    "delete_if_empty",
    "delete_instances",
    "get_group",
    "instances_metadata",
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
    where: Location | None = None,
    machine_types: Sequence[str] = (),
) -> None:
    """Create a group of size 0 and wait until it is there.

    A regional group takes any of its zones that has room (target shape ANY), and moves nothing
    from one to another by itself: an experiment that runs is left alone.

    Args:
        clients: The clients.
        name: Its name, and the base of its instances' names.
        template: Name of the instance template.
        metadata: For all instances, over the template's (allInstancesConfig).
        labels: For all instances, over the template's.
        where: Where.
        machine_types: The preferred one first; each is taken when those before are not to be
            had. None: the template's. Compute Engine takes them for regional groups only
            (https://cloud.google.com/compute/docs/instance-groups/about-instance-flexibility).

    Raises:
        AlreadyExists: There is one of this name in the zone or region.
        NotFound: No such template or zone.
    """
    where = where or Location(zone=clients.zone)
    resource: dict[str, Any] = {
        "name": checked_name(name, "group"),
        "base_instance_name": name,
        "instance_template": f"global/instanceTemplates/{checked_name(template, 'template')}",
        "target_size": 0,
        "all_instances_config": {
            "properties": {"metadata": dict(metadata), "labels": dict(labels)}
        },
    }
    if where.region:
        resource["distribution_policy"] = {
            "target_shape": "ANY",
            "zones": [{"zone": f"zones/{checked_name(zone, 'zone')}"} for zone in where.zones],
        }
        resource["update_policy"] = {
            "type_": "OPPORTUNISTIC",
            "instance_redistribution_type": "NONE",
        }
    if machine_types:
        resource["instance_flexibility_policy"] = {
            "instance_selections": {
                f"choice-{rank}": {"machine_types": [machine_type], "rank": rank}
                for rank, machine_type in enumerate(machine_types, start=1)
            }
        }
    clients.change(
        f"group {name}",
        _client(clients, where).insert_unary,
        project=clients.project,
        **_scope(where),
        instance_group_manager_resource=resource,
    )


def get_group(clients: Clients, name: str, *, where: Location | None = None) -> Group | None:
    """Read one group; None when there is none."""
    found = _read_group(clients, name, where)
    return _group(found) if found is not None else None


def instances_metadata(
    clients: Clients, group: str, *, where: Location | None = None
) -> Mapping[str, str] | None:
    """What the group adds to its instances' metadata; None when there is no such group."""
    found = _read_group(clients, group, where)
    return dict(found.all_instances_config.properties.metadata) if found is not None else None


def list_groups(clients: Clients) -> tuple[Group, ...]:
    """All groups of the project, by name; one call whatever the number of zones."""
    found = clients.read_all(
        f"project {clients.project}", clients.groups.aggregated_list, project=clients.project
    )
    groups = [_group(one) for _, content in found for one in content.instance_group_managers]
    return tuple(sorted(groups, key=lambda group: (group.name, group.zone, group.region)))


def delete_group(
    clients: Clients,
    name: str,
    *,
    where: Location | None = None,
    wait: bool = True,
    timeout: float = 600.0,
) -> bool:
    """Delete a group and its instances; absent is done, and so is deleted by somebody else.

    Args:
        clients: The clients.
        name: The group.
        where: Where.
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
                resource, _client(clients, where).delete_unary, **_fields(clients, name, where)
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


def delete_if_empty(clients: Clients, name: str, *, where: Location | None = None) -> bool:
    """Begin to delete a group that wants no instances any more; whether it did."""
    found = get_group(clients, name, where=where)
    if found is None or found.target_size:
        return False
    return delete_group(clients, name, where=where, wait=False)


def create_instances(
    clients: Clients, group: str, names: Iterable[str], *, where: Location | None = None
) -> None:
    """Ask the group for instances of these names, and wait until it has accepted.

    The group then creates them, and keeps trying where it can't: see `list_members`.
    Names that are members already are an error of the whole call.
    """
    request = f"{_prefix(where)}instance_group_managers_create_instances_request_resource"
    for some in batched(names, MAX_EXPERIMENTS):
        wanted = [{"name": checked_name(name, "instance")} for name in some]
        clients.change(
            f"group {group}",
            _client(clients, where).create_instances_unary,
            **_fields(clients, group, where),
            **{request: {"instances": wanted}},
        )


def delete_instances(
    clients: Clients, group: str, names: Iterable[str], *, where: Location | None = None
) -> None:
    """Ask the group to delete members, and wait until it has accepted.

    What is no member, or not any more, is done; so is a group that isn't there. A regional group
    is asked first in which of its zones they are.
    """
    names = [checked_name(name, "instance") for name in names]
    zones = dict.fromkeys(names, where.zone if where else clients.zone)
    if where is not None and where.region:
        members = list_members(clients, group, where=where) or ()
        zones = {member.name: member.zone for member in members}
    request = f"{_prefix(where)}instance_group_managers_delete_instances_request_resource"
    found = [f"zones/{zones[name]}/instances/{name}" for name in names if zones.get(name)]
    for some in batched(found, 1000):  # Compute Engine's limit for one call
        content = {"instances": some, "skip_instances_on_validation_error": True}
        try:
            clients.change(
                f"group {group}",
                _client(clients, where).delete_instances_unary,
                **_fields(clients, group, where),
                **{request: content},
            )
        except NotFound:
            return


def list_members(
    clients: Clients, group: str, *, where: Location | None = None
) -> tuple[Member, ...] | None:
    """The group's members, by name, in one call; None when there is no such group."""
    try:
        found = clients.read_all(
            f"group {group}",
            _client(clients, where).list_managed_instances,
            **_fields(clients, group, where),
        )
    except NotFound:
        return None
    return tuple(sorted((_member(one) for one in found), key=lambda member: member.name))


def list_errors(
    clients: Clients, group: str, *, where: Location | None = None
) -> tuple[GroupError, ...]:
    """The group's latest errors, as Compute Engine orders them; none when there is no group."""
    try:
        found = clients.read_all(
            f"group {group}",
            _client(clients, where).list_errors,
            **_fields(clients, group, where),
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


def _client(clients: Clients, where: Location | None) -> Any:
    """The client of zonal or of regional groups: their methods have the same names."""
    return clients.region_groups if where is not None and where.region else clients.groups


def _prefix(where: Location | None) -> str:
    """How the names of a regional request's fields begin."""
    return "region_" if where is not None and where.region else ""


def _scope(where: Location) -> dict[str, str]:
    return {"region": where.region} if where.region else {"zone": where.zone}


def _fields(clients: Clients, name: str, where: Location | None) -> dict[str, str]:
    return {
        "project": clients.project,
        **_scope(where or Location(zone=clients.zone)),
        "instance_group_manager": checked_name(name, "group"),
    }


def _read_group(
    clients: Clients, name: str, where: Location | None
) -> "compute_v1.InstanceGroupManager | None":
    get: Callable[..., compute_v1.InstanceGroupManager] = _client(clients, where).get
    try:
        return clients.read(f"group {name}", get, **_fields(clients, name, where))
    except NotFound:
        return None


def _group(found: "compute_v1.InstanceGroupManager") -> Group:
    actions = found.current_actions
    counts = {name.upper(): int(getattr(actions, name)) for name in _ACTIONS}
    return Group(
        name=found.name,
        zone=last_part(found.zone),
        region=last_part(found.region),
        template=last_part(found.instance_template),
        target_size=int(found.target_size),
        created=time_of(found.creation_timestamp),
        is_stable=bool(found.status.is_stable),
        actions={name: count for name, count in counts.items() if count},
    )


def _member(found: "compute_v1.ManagedInstance") -> Member:
    errors = found.last_attempt.errors.errors
    place, _, name = found.instance.rpartition("/instances/")
    return Member(
        name=found.name or name,
        zone=last_part(place),
        id=str(found.id) if found.id else "",
        action=found.current_action or "NONE",
        status=found.instance_status,
        error_code=errors[0].code if errors else "",
        error_message=errors[0].message if errors else "",
    )
