"""Instance templates of Compute Engine: what each instance of a sweep is, and its container.

    create_template    what people make, once
    derive             what a sweep needs beside it: Spot, a limit of time, another machine type

Functions, each with the clients first. All raise `GcloudOpsError`: `NotFound`,
`PermissionDenied`, `Unavailable`... where not said else.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gcloud_ops.bounds import check_machine_type
from gcloud_ops.clients import Clients
from gcloud_ops.compute import checked_name, last_part, time_of
from gcloud_ops.errors import AlreadyExists, InvalidRequest
from gcloud_ops.startup import RESTART_KEY, ContainerSpec, container_of, template_metadata

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = [
    "DERIVED_LABEL",
    "Template",
    "TemplateSpec",
    "check_seconds",
    "create_template",
    "delete_template",
    "derive",
    "derived_properties",
    "get_template",
    "list_templates",
]

DERIVED_LABEL: Final = "sinergym-template"
"""Label of a derived template, and so of its instances: the name of what it was derived from."""

_SECONDS: Final = range(30, 120 * 24 * 3600 + 1)
"""What Compute Engine takes as a VM's longest run
(https://cloud.google.com/compute/docs/instances/limit-vm-runtime)."""

_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")


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
    external_address: bool = True
    """Whether its instances can be reached from outside their network."""
    restarts: bool = False
    """Whether its instances start a container anew where an experiment is to be tried again."""
    created: datetime | None = None

    @property
    def is_ours(self) -> bool:
        """Whether `create_template` made it, so that its instances start our container."""
        return bool(self.image)

    @property
    def derived_from(self) -> str:
        """The template that `derive` made it from; "" where somebody made it himself."""
        return self.labels.get(DERIVED_LABEL, "")


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


def derive(
    clients: Clients,
    base: str,
    *,
    spot: bool = False,
    seconds: int | None = None,
    machine_type: str | None = None,
    image: str | None = None,
) -> str:
    """Make the template that differs from another in so much, unless it is there.

    Its name says what it is of: the other's, and a hash of all its properties. So everybody who
    asks for the same gets the same, two at once too, and a template that was made anew under its
    old name is derived from anew.

    Args:
        clients: The clients.
        base: The template to derive from.
        spot: Whether the instances are Spot VMs.
        seconds: How long each instance may run; Google deletes it then. None: no limit.
        machine_type: Another machine type; None: the same.
        image: Another image of the container; None: the same.

    Returns:
        The derived template's name; `base` where nothing differs.

    Raises:
        NotFound: There is no such template.
        InvalidRequest: The limit or the machine type can't be.
    """
    if not spot and seconds is None and machine_type is None and image is None:
        return base
    found = _read_template(clients, base)
    properties = derived_properties(
        found.properties,
        base,
        spot=spot,
        seconds=seconds,
        machine_type=machine_type,
        image=image,
    )
    kind = type(properties)
    if properties == found.properties:
        return base
    content = kind.to_json(properties, always_print_fields_with_no_presence=False, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    name = f"{base[: 63 - 9].rstrip('-')}-{digest}"
    with suppress(AlreadyExists):  # an earlier sweep's, or somebody makes it at this moment
        clients.change(
            f"template {name}",
            clients.templates.insert_unary,
            project=clients.project,
            instance_template_resource={
                "name": name,
                "description": f"Derived by gcloud-ops from the template {base}, for sweeps.",
                "properties": properties,
            },
        )
    return name


def derived_properties(
    properties: "compute_v1.InstanceProperties",
    base: str,
    *,
    spot: bool = False,
    seconds: int | None = None,
    machine_type: str | None = None,
    image: str | None = None,
) -> "compute_v1.InstanceProperties":
    """A template's properties with these changes, and a label with the template's name.

    A Spot VM can't be migrated nor restarted in place, so it ends
    (https://cloud.google.com/compute/docs/instances/spot). A VM with a limit is deleted at it.

    Raises:
        InvalidRequest: The limit, the machine type or the image can't be; or there is another
            image, and the template is none of ours.
    """
    kind = type(properties)
    changed: compute_v1.InstanceProperties = kind.deserialize(kind.serialize(properties))
    if machine_type is not None:
        changed.machine_type = check_machine_type(machine_type)
    if spot:
        changed.scheduling.provisioning_model = "SPOT"
        changed.scheduling.on_host_maintenance = "TERMINATE"
        changed.scheduling.automatic_restart = False
    if seconds is not None:
        changed.scheduling.max_run_duration.seconds = check_seconds(seconds)
    if spot or seconds is not None:
        changed.scheduling.instance_termination_action = "DELETE"
    if image is not None:
        _change_image(changed, base, image)
    if changed == properties:
        return properties
    changed.labels[DERIVED_LABEL] = base
    changed.metadata.fingerprint = ""
    return changed


def _change_image(properties: "compute_v1.InstanceProperties", base: str, image: str) -> None:
    metadata = {item.key: item.value for item in properties.metadata.items}
    container = container_of(metadata)
    if container is None:
        raise InvalidRequest(
            f"template {base}: it is none of ours, so its container's image can't be changed",
            resource=f"template {base}",
        )
    changed = template_metadata(replace(container, image=image))
    for item in properties.metadata.items:
        item.value = changed.get(item.key, item.value)


def get_template(clients: Clients, name: str) -> Template:
    """Read one template.

    Raises:
        NotFound: There is none.
    """
    return _template(_read_template(clients, name))


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
        instance_template=checked_name(name, "template"),
    )


def check_seconds(seconds: int) -> int:
    """The limit of an instance's time, if Compute Engine takes it.

    Raises:
        InvalidRequest: It doesn't.
    """
    if seconds in _SECONDS:
        return seconds
    raise InvalidRequest(
        f"max_hours: {seconds / 3600:g} hours ({seconds} s) can't limit a VM",
        hint="Compute Engine takes 30 seconds to 120 days",
    )


def _check_template(spec: TemplateSpec) -> None:
    resource = f"template {spec.name}"
    checked_name(spec.name, "template")
    check_machine_type(spec.machine_type)
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


def _read_template(clients: Clients, name: str) -> "compute_v1.InstanceTemplate":
    return clients.read(
        f"template {name}",
        clients.templates.get,
        project=clients.project,
        instance_template=checked_name(name, "template"),
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
        machine_type=last_part(properties.machine_type),
        disk_gb=int(boot.disk_size_gb) if boot else 0,
        disk_type=last_part(boot.disk_type) if boot else "",
        boot_image=boot.source_image if boot else "",
        service_account=accounts[0].email if accounts else "",
        environment=container.environment if container else {},
        args=container.args if container else (),
        labels=dict(properties.labels),
        restarts=RESTART_KEY in metadata,
        external_address=any(it.access_configs for it in properties.network_interfaces),
        created=time_of(found.creation_timestamp),
    )
