"""Take away what is left over, in an order that leaves nothing hanging."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from gcloud_ops import groups, templates
from gcloud_ops.clients import Clients
from gcloud_ops.errors import GcloudOpsError, NotFound
from gcloud_ops.model import Location, region_of
from gcloud_ops.reaping.looking import Tell
from gcloud_ops.reaping.nouns import Kind, Left, Orphan

__all__ = ["remove_all"]

_THREADS: Final = 8


def remove_all(clients: Clients, orphans: list[Orphan], tell: Tell) -> tuple[Left, ...]:
    """Remove them, instances first and what they used last; goes on after a refusal.

    Args:
        clients: The cloud.
        orphans: What is left over.
        tell: Told of each, and of what stays.

    Returns:
        What could not be removed, with the cloud's reasons.
    """
    left: list[Left] = []
    for kind in Kind:
        steps = _steps([one for one in orphans if one.kind is kind])
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="reap") as pool:
            errors = pool.map(partial(_try, clients), steps)
            for some, error in zip(steps, errors, strict=True):
                for one in some:
                    if error is None:
                        tell(f"{one.kind} {one.name} removed ({one.where})")
                    else:
                        tell(f"{one.kind} {one.name} stays: {error}")
                        left.append(Left(orphan=one, error=error))
    return tuple(left)


def _steps(orphans: list[Orphan]) -> list[list[Orphan]]:
    """What one request removes: all members of a group in a zone, else each by itself."""
    steps: dict[tuple[str, ...], list[Orphan]] = {}
    for one in orphans:
        key = (one.group, one.where) if one.group else (one.group, one.where, one.name)
        steps.setdefault(key, []).append(one)
    return list(steps.values())


def _try(clients: Clients, some: list[Orphan]) -> GcloudOpsError | None:
    try:
        _remove(clients, some)
    except NotFound:
        return None  # gone meanwhile
    except GcloudOpsError as error:
        return error
    return None


def _remove(clients: Clients, some: list[Orphan]) -> None:
    one = some[0]
    resource, project = f"{one.kind} {one.name}", clients.project
    match one.kind:
        case Kind.INSTANCE if one.group:
            names = [each.name for each in some]
            groups.delete_instances(clients, one.group, names, where=_of_group(clients, one))
        case Kind.INSTANCE:
            change: Any = clients.instances.delete_unary
            clients.change(resource, change, project=project, zone=one.where, instance=one.name)
        case Kind.GROUP:
            groups.delete_group(clients, one.name, where=_location(one.where))
        case Kind.TEMPLATE:
            templates.delete_template(clients, one.name)
        case Kind.DISK:
            change = clients.disks.delete_unary
            clients.change(resource, change, project=project, zone=one.where, disk=one.name)
        case Kind.ADDRESS:
            change = clients.addresses.delete_unary
            clients.change(resource, change, project=project, region=one.where, address=one.name)


def _of_group(clients: Clients, member: Orphan) -> Location:
    """Where a member's group is: in the member's zone, or in its region."""
    zonal = Location(zone=member.where)
    if groups.get_group(clients, member.group, where=zonal) is not None:
        return zonal
    return Location(region=region_of(member.where))


def _location(where: str) -> Location:
    """A zone's name ends in a letter of its own, a region's in a number."""
    return Location(region=where) if where[-1].isdigit() else Location(zone=where)
