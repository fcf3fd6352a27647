"""Compute Engine: instance templates, managed instance groups, and their instances.

Functions, each with the clients first and returning our nouns. `zone=None` is the settings' zone.
All raise `GcloudOpsError`: `NotFound`, `PermissionDenied`, `Unavailable`... where not said else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gcloud_ops.clients import Clients
from gcloud_ops.model import Group, Instance, Member

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
    raise NotImplementedError


def get_template(clients: Clients, name: str) -> Template:
    """Read one template.

    Raises:
        NotFound: There is none.
    """
    raise NotImplementedError


def list_templates(clients: Clients) -> tuple[Template, ...]:
    """All templates of the project, by name."""
    raise NotImplementedError


def delete_template(clients: Clients, name: str) -> None:
    """Delete a template and wait until it is gone.

    Raises:
        NotFound: There is none.
        InvalidRequest: A group uses it.
    """
    raise NotImplementedError


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
    raise NotImplementedError


def get_group(clients: Clients, name: str, *, zone: str | None = None) -> Group | None:
    """Read one group; None when there is none."""
    raise NotImplementedError


def list_groups(clients: Clients) -> tuple[Group, ...]:
    """All zonal groups of the project, by name; one call whatever the number of zones."""
    raise NotImplementedError


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
    raise NotImplementedError


def create_instances(
    clients: Clients, group: str, names: Iterable[str], *, zone: str | None = None
) -> None:
    """Ask the group for instances of these names, and wait until it has accepted.

    The group then creates them, and keeps trying where it can't: see `list_members`.
    Names that are members already are an error of the whole call.
    """
    raise NotImplementedError


def delete_instances(
    clients: Clients, group: str, names: Iterable[str], *, zone: str | None = None
) -> None:
    """Ask the group to delete members, and wait until it has accepted.

    What is no member, or not any more, is done; so is a group that isn't there.
    """
    raise NotImplementedError


def list_members(
    clients: Clients, group: str, *, zone: str | None = None
) -> tuple[Member, ...] | None:
    """The group's members, by name, in one call; None when there is no such group."""
    raise NotImplementedError


def list_errors(
    clients: Clients, group: str, *, zone: str | None = None
) -> tuple[GroupError, ...]:
    """The group's latest errors, as Compute Engine orders them; none when there is no group."""
    raise NotImplementedError


def list_instances(
    clients: Clients, *, group: str | None = None, zone: str | None = None
) -> tuple[Instance, ...]:
    """Instances by name, in one call.

    With a group, those with its label `sinergym-sweep` in its zone; else all of the project,
    or of the zone where one is given.
    """
    raise NotImplementedError


def get_instance(clients: Clients, name: str, *, zone: str | None = None) -> Instance | None:
    """Read one instance; None when there is none."""
    raise NotImplementedError


def host_keys(clients: Clients, instance: str, *, zone: str | None = None) -> tuple[str, ...]:
    """The SSH host keys that the instance has published, such as `ssh-ed25519 AAAA...`.

    Empty while it hasn't: it is still booting, or it is gone.
    """
    raise NotImplementedError


def serial_output(clients: Clients, instance: str, *, zone: str | None = None) -> str:
    """What the instance has printed on its serial port: the boot's log, as it is (not cleaned)."""
    raise NotImplementedError


def zone_exists(clients: Clients, zone: str) -> bool:
    """Whether there is such a zone, and it is up."""
    raise NotImplementedError
