"""Compute Engine: instance templates, managed instance groups, and their instances.

Functions, each with the clients first and returning our nouns. `zone=None` is the settings' zone.
All raise `GcloudOpsError`: `NotFound`, `PermissionDenied`, `Unavailable`... where not said else.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from typing import TYPE_CHECKING, Final

from gcloud_ops.clients import Clients
from gcloud_ops.contract import parse_time
from gcloud_ops.errors import InvalidRequest, NotFound
from gcloud_ops.model import MAX_EXPERIMENTS, Group, Instance, Member
from gcloud_ops.startup import ContainerSpec, container_of, template_metadata

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = [
    "GroupError",
    "Template",
    "TemplateSpec",
    "create_group",
    "create_instances",
    "create_template",
    "delete_group",
    "delete_instances",
    "delete_template",
    "get_group",
    "get_instance",
    "get_template",
    "host_keys",
    "list_errors",
    "list_groups",
    "list_instances",
    "list_members",
    "list_templates",
    "serial_output",
    "zone_exists",
]


SWEEP_LABEL: Final = "sinergym-sweep"
"""Label of a group's instances: the sweep's name."""

_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_MACHINE_TYPE = re.compile(r"[a-z][-a-z0-9]{1,62}")
_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")
_ALGORITHM = re.compile(r"[a-z0-9][-a-z0-9@.]{1,63}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,8192}={0,2}")
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
class TemplateSpec:
    """What a template shall say of each instance."""

    name: str
    image: str
    """The container's image."""
    machine_type: str = "n2-highcpu-8"
    disk_gb: int = 20
    disk_type: str = "pd-ssd"
    service_account: str | None = None
    """E-mail address of the account that the instances act as; None: Compute's default one."""
    scopes: tuple[str, ...] = ("https://www.googleapis.com/auth/cloud-platform",)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the container; no secrets."""
    args: tuple[str, ...] = ()
    """Arguments of the container; none: the image's own command, which waits for one."""
    boot_image: str = "projects/cos-cloud/global/images/family/cos-stable"
    network: str = "global/networks/default"
    external_address: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """An instance template as Compute Engine shows it."""

    name: str
    image: str
    """The container's image; "" when the template is not one of ours."""
    machine_type: str
    disk_gb: int
    disk_type: str = ""
    boot_image: str = ""
    service_account: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created: datetime | None = None

    @property
    def is_ours(self) -> bool:
        """Whether `create_template` made it, so that its instances start our container."""
        return bool(self.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupError:
    """One entry of a group's list of errors."""

    instance: str
    action: str
    """What the group was doing: CREATING, RECREATING, DELETING, ..."""
    code: str
    message: str
    time: datetime | None = None


def create_template(clients: Clients, spec: TemplateSpec) -> Template:
    """Create a global instance template and wait until it is there.

    Raises:
        AlreadyExists: There is one of this name.
        InvalidRequest: A field can't be.
    """
    _check_template(spec)
    container = ContainerSpec(image=spec.image, environment=spec.environment, args=spec.args)
    access = [{"name": "External NAT", "type_": "ONE_TO_ONE_NAT"}] if spec.external_address else []
    properties = {
        "description": "Made by gcloud-ops: each instance starts one container.",
        "machine_type": spec.machine_type,
        "disks": [
            {
                "boot": True,
                "auto_delete": True,
                "initialize_params": {
                    "source_image": spec.boot_image,
                    "disk_size_gb": spec.disk_gb,
                    "disk_type": spec.disk_type,
                },
            }
        ],
        "network_interfaces": [{"network": spec.network, "access_configs": access}],
        "metadata": {"items": _items(template_metadata(container))},
        "service_accounts": [
            {"email": spec.service_account or "default", "scopes": list(spec.scopes)}
        ],
        "labels": dict(spec.labels),
    }
    clients.change(
        f"template {spec.name}",
        clients.templates.insert_unary,
        project=clients.project,
        instance_template_resource={"name": spec.name, "properties": properties},
    )
    return get_template(clients, spec.name)


def get_template(clients: Clients, name: str) -> Template:
    """Read one template.

    Raises:
        NotFound: There is none.
    """
    found = clients.read(
        f"template {name}",
        clients.templates.get,
        project=clients.project,
        instance_template=_named(name, "template"),
    )
    return _template(found)


def list_templates(clients: Clients) -> tuple[Template, ...]:
    """All templates of the project, by name."""
    found = clients.read_all(
        f"project {clients.project}", clients.templates.list, project=clients.project
    )
    return tuple(sorted((_template(one) for one in found), key=lambda one: one.name))


def delete_template(clients: Clients, name: str) -> None:
    """Delete a template and wait until it is gone.

    Raises:
        NotFound: There is none.
        InvalidRequest: A group uses it.
    """
    clients.change(
        f"template {name}",
        clients.templates.delete_unary,
        project=clients.project,
        instance_template=_named(name, "template"),
    )


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
            "name": _named(name, "group"),
            "base_instance_name": name,
            "instance_template": f"global/instanceTemplates/{_named(template, 'template')}",
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
    """Delete a group and its instances; absent is done.

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
    try:
        operation = clients.start(
            resource, clients.groups.delete_unary, **_group_fields(clients, name, zone)
        )
        if wait:
            clients.wait(operation, resource=resource, timeout=timeout)
    except NotFound:
        return False
    return True


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
                "instances": [{"name": _named(name, "instance")} for name in some]
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
                        f"zones/{where}/instances/{_named(name, 'instance')}" for name in some
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
            instance=_last_part(one.instance_action_details.instance),
            action=one.instance_action_details.action,
            code=one.error.code,
            message=one.error.message,
            time=_time(one.timestamp),
        )
        for one in found
    )


def list_instances(
    clients: Clients, *, group: str | None = None, zone: str | None = None
) -> tuple[Instance, ...]:
    """Instances by name, in one call.

    With a group, those with its label `sinergym-sweep` in its zone; else all of the project,
    or of the zone where one is given.
    """
    if group is None and zone is None:
        scopes = clients.read_all(
            f"project {clients.project}",
            clients.instances.aggregated_list,
            project=clients.project,
        )
        found = [one for _, content in scopes for one in content.instances]
    else:
        where = zone or clients.zone
        wanted = f"labels.{SWEEP_LABEL}={_named(group, 'group')}" if group else ""
        found = clients.read_all(
            f"instances of {group or where}",
            clients.instances.list,
            project=clients.project,
            zone=where,
            **({"filter": wanted} if wanted else {}),
        )
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


# --------------------------------------------------------------- requests, and what comes back


def _group_fields(clients: Clients, name: str, zone: str | None) -> dict[str, str]:
    return {
        "project": clients.project,
        "zone": zone or clients.zone,
        "instance_group_manager": _named(name, "group"),
    }


def _instance_fields(clients: Clients, name: str, zone: str | None) -> dict[str, str]:
    return {
        "project": clients.project,
        "zone": zone or clients.zone,
        "instance": _named(name, "instance"),
    }


def _named(name: str, what: str) -> str:
    """The name, if it can be one: it becomes a part of an address."""
    if _NAME.fullmatch(name):
        return name
    raise InvalidRequest(
        f"{what}: {name!r} is not a name that Compute Engine takes",
        resource=f"{what} {name}",
        hint="use up to 63 lower-case letters, digits and hyphens, a letter first",
    )


def _check_template(spec: TemplateSpec) -> None:
    resource = f"template {spec.name}"
    _named(spec.name, "template")
    if not _MACHINE_TYPE.fullmatch(spec.machine_type):
        raise InvalidRequest(
            f"machine_type: {spec.machine_type!r} is not a machine type such as n2-highcpu-8",
            resource=resource,
        )
    if not 10 <= spec.disk_gb <= 65536:
        raise InvalidRequest(
            f"disk_gb: {spec.disk_gb} is not between 10, what the boot image needs, and 65536",
            resource=resource,
        )
    for key, value in spec.labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise InvalidRequest(
                f"labels: {key}={value} is not a label that Google takes",
                resource=resource,
                hint="use up to 63 lower-case letters, digits, hyphens and underscores",
            )


def _items(metadata: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in metadata.items()]


def _template(found: "compute_v1.InstanceTemplate") -> Template:
    properties = found.properties
    metadata = {item.key: item.value for item in properties.metadata.items}
    container = container_of(metadata)
    boot = next((disk.initialize_params for disk in properties.disks if disk.boot), None)
    accounts = properties.service_accounts
    return Template(
        name=found.name,
        image=container.image if container else "",
        machine_type=_last_part(properties.machine_type),
        disk_gb=int(boot.disk_size_gb) if boot else 0,
        disk_type=_last_part(boot.disk_type) if boot else "",
        boot_image=boot.source_image if boot else "",
        service_account=accounts[0].email if accounts else "",
        environment=container.environment if container else {},
        args=container.args if container else (),
        labels=dict(properties.labels),
        created=_time(found.creation_timestamp),
    )


def _group(found: "compute_v1.InstanceGroupManager") -> Group:
    actions = found.current_actions
    counts = {name.upper(): int(getattr(actions, name)) for name in _ACTIONS}
    return Group(
        name=found.name,
        zone=_last_part(found.zone),
        template=_last_part(found.instance_template),
        target_size=int(found.target_size),
        created=_time(found.creation_timestamp),
        is_stable=bool(found.status.is_stable),
        actions={name: count for name, count in counts.items() if count},
    )


def _member(found: "compute_v1.ManagedInstance") -> Member:
    errors = found.last_attempt.errors.errors
    return Member(
        name=found.name or _last_part(found.instance),
        id=str(found.id) if found.id else "",
        action=found.current_action or "NONE",
        status=found.instance_status,
        error_code=errors[0].code if errors else "",
        error_message=errors[0].message if errors else "",
    )


def _instance(found: "compute_v1.Instance") -> Instance:
    interface = next(iter(found.network_interfaces), None)
    internal = interface.network_i_p if interface else ""
    external = (
        next((c.nat_i_p for c in interface.access_configs if c.nat_i_p), "") if interface else ""
    )
    created_by = next((i.value for i in found.metadata.items if i.key == "created-by"), "")
    return Instance(
        name=found.name,
        zone=_last_part(found.zone),
        status=found.status,
        machine_type=_last_part(found.machine_type),
        address=external or internal,
        internal_address=internal,
        group=_last_part(created_by) if "/instanceGroupManagers/" in created_by else "",
        labels=dict(found.labels),
        created=_time(found.creation_timestamp),
    )


def _last_part(address: str) -> str:
    return address.rpartition("/")[2]


def _time(text: str) -> datetime | None:
    try:
        return parse_time(text)
    except ValueError:
        return None
