"""Compute Engine's instances, what they publish of themselves, and the zones that they are in.

Functions, each with the clients first. All raise `GcloudOpsError`: `NotFound`,
`PermissionDenied`, `Unavailable`... where not said else. Made and removed they are by their
group: see `groups`.
"""

import re
from typing import TYPE_CHECKING, Final

from gcloud_ops.clients import Clients
from gcloud_ops.compute import checked_name, last_part, time_of
from gcloud_ops.errors import NotFound
from gcloud_ops.model import Instance

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = [
    "SWEEP_LABEL",
    "get_instance",
    "host_keys",
    "list_instances",
    "serial_output",
    "zone_exists",
]

SWEEP_LABEL: Final = "sinergym-sweep"
"""Label, and metadata key, with the sweep's name on every instance of it."""

_ALGORITHM = re.compile(r"[a-z0-9][-a-z0-9@.]{1,63}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,8192}={0,2}")


def list_instances(
    clients: Clients, *, group: str | None = None, zone: str | None = None
) -> tuple[Instance, ...]:
    """Instances by name, in one call.

    With a group, those with its label `sinergym-sweep`; with a zone, those in it; else all of
    the project.
    """
    wanted = f"labels.{SWEEP_LABEL}={checked_name(group, 'group')}" if group else ""
    fields = {"project": clients.project, **({"filter": wanted} if wanted else {})}
    if zone is None:
        about = f"instances of {group}" if group else f"project {clients.project}"
        scopes = clients.read_all(about, clients.instances.aggregated_list, **fields)
        found = [one for _, content in scopes for one in content.instances]
    else:
        about = f"instances of {group or zone}"
        found = clients.read_all(about, clients.instances.list, zone=zone, **fields)
    return tuple(sorted((_instance(one) for one in found), key=lambda one: (one.name, one.zone)))


def get_instance(clients: Clients, name: str, *, zone: str | None = None) -> Instance | None:
    """Read one instance; None when there is none."""
    try:
        found = clients.read(
            f"instance {name}", clients.instances.get, **_instance_fields(clients, name, zone)
        )
    except NotFound:
        return None
    return _instance(found)


def host_keys(clients: Clients, instance: str, *, zone: str | None = None) -> tuple[str, ...]:
    """The SSH host keys that the instance has published, such as `ssh-ed25519 AAAA...`.

    Empty while it hasn't: it is still booting, or it is gone. Written by the guest agent into
    the guest attributes `hostkeys/` (the algorithm is the key, base64 the value).
    """
    try:
        found = clients.read(
            f"instance {instance}",
            clients.instances.get_guest_attributes,
            **_instance_fields(clients, instance, zone),
            query_path="hostkeys/",
        )
    except NotFound:
        return ()
    keys = [
        f"{item.key} {item.value.strip()}"
        for item in found.query_value.items
        if item.namespace in {"hostkeys", ""}
        and _ALGORITHM.fullmatch(item.key)
        and _BASE64.fullmatch(item.value.strip())
    ]
    return tuple(sorted(keys, key=lambda key: (not key.startswith("ssh-ed25519 "), key)))


def serial_output(clients: Clients, instance: str, *, zone: str | None = None) -> str:
    """What the instance has printed on its serial port: the boot's log, as it is (not cleaned)."""
    found = clients.read(
        f"instance {instance}",
        clients.instances.get_serial_port_output,
        **_instance_fields(clients, instance, zone),
        port=1,
    )
    return found.contents


def zone_exists(clients: Clients, zone: str) -> bool:
    """Whether there is such a zone, and it is up."""
    try:
        found = clients.read(f"zone {zone}", clients.zones.get, project=clients.project, zone=zone)
    except NotFound:
        return False
    return found.status in {"UP", ""}


def _instance_fields(clients: Clients, name: str, zone: str | None) -> dict[str, str]:
    return {
        "project": clients.project,
        "zone": zone or clients.zone,
        "instance": checked_name(name, "instance"),
    }


def _instance(found: "compute_v1.Instance") -> Instance:
    interface = next(iter(found.network_interfaces), None)
    internal = interface.network_i_p if interface else ""
    external = (
        next((c.nat_i_p for c in interface.access_configs if c.nat_i_p), "") if interface else ""
    )
    created_by = next((i.value for i in found.metadata.items if i.key == "created-by"), "")
    return Instance(
        name=found.name,
        zone=last_part(found.zone),
        status=found.status,
        machine_type=last_part(found.machine_type),
        address=external or internal,
        external_address=external,
        internal_address=internal,
        group=last_part(created_by) if "/instanceGroupManagers/" in created_by else "",
        labels=dict(found.labels),
        created=time_of(found.creation_timestamp),
    )
