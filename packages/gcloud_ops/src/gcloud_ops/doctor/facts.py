"""What several checks look at: each is asked for once, whoever needs it first."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from gcloud_ops.clients import Clients
from gcloud_ops.compute import last_part
from gcloud_ops.model import Sweep
from gcloud_ops.resources import Place, Policy, ProjectPolicy
from gcloud_ops.startup import ContainerSpec, container_of

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["Facts", "Machine", "roles_of"]

_TOLD_BY: Final = {
    "machine": "template",
    "policy": "instances' account",
    "project": "project",
    "quotas": "quota",
}
"""Which check tells that a fact could not be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A template, as far as the checks look at it."""

    template: str
    container: ContainerSpec | None
    """None when the template is not one of ours."""
    account: str
    """E-mail address, `default`, or "" for none."""
    scopes: tuple[str, ...]
    machine_type: str
    boot_image: str
    disk_gb: int
    disk_type: str
    network: str
    external_address: bool
    tags: tuple[str, ...]


class Facts:
    """What is looked at.

    Args:
        clients: The clients.
        sweep: The sweep that is to be launched; None: none in particular.
    """

    def __init__(self, clients: Clients, sweep: Sweep | None) -> None:
        self.clients = clients
        self.sweep = sweep
        self.place = Place(clients)
        self._lock = threading.Lock()
        self._asked: dict[str, Future[Any]] = {}

    @property
    def zones(self) -> tuple[str, ...]:
        """Where instances shall be."""
        if self.sweep is not None and self.sweep.zones:
            return self.sweep.zones
        return ((self.sweep.zone if self.sweep else None) or self.clients.zone,)

    @property
    def region(self) -> str:
        """The zones' region."""
        return self.zones[0].rpartition("-")[0]

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return (self.sweep.bucket if self.sweep else None) or self.clients.settings.bucket_name

    def is_told_by(self, error: BaseException) -> str:
        """The check that tells of this error; "" where whoever met it has to."""
        with self._lock:
            asked = dict(self._asked)
        for name, future in asked.items():
            if future.done() and future.exception() is error:
                return _TOLD_BY[name]
        return ""

    def project(self) -> dict[str, Any]:
        """The project, of Resource Manager."""

        def ask() -> dict[str, Any]:
            project = self.clients.project
            projects = self.clients.api("cloudresourcemanager", "v1").projects()
            return self.clients.execute(f"project {project}", projects.get(projectId=project))

        return self._once("project", ask)

    def compute_quotas(self) -> "list[compute_v1.Quota]":
        """Those of the project, then those of the region, whose numbers count."""

        def ask() -> "list[compute_v1.Quota]":
            clients, region = self.clients, self.region
            project = clients.project
            whole = clients.read(f"project {project}", clients.projects.get, project=project)
            local = clients.read(
                f"region {region}", clients.regions.get, project=project, region=region
            )
            return [*whole.quotas, *local.quotas]

        return self._once("quotas", ask)

    def policy(self) -> dict[str, Any]:
        """The project's policy."""
        return self._once("policy", lambda: cast(Policy, ProjectPolicy(self.place)).read())

    def machine(self) -> Machine:
        """The template that the sweep's instances are made of."""
        return self._once("machine", self._read_machine)

    def account(self) -> str:
        """E-mail address of the account that the instances act as; "" for none."""
        email = self.machine().account
        if email != "default":
            return email
        return f"{self.project()['projectNumber']}-compute@developer.gserviceaccount.com"

    def _read_machine(self) -> Machine:
        name = (self.sweep.template if self.sweep else None) or self.clients.settings.template
        found: compute_v1.InstanceTemplate = self.clients.read(
            f"template {name}",
            self.clients.templates.get,
            project=self.clients.project,
            instance_template=name,
        )
        properties = found.properties
        boot = next((disk.initialize_params for disk in properties.disks if disk.boot), None)
        account = next(iter(properties.service_accounts), None)
        interfaces = list(properties.network_interfaces)
        return Machine(
            template=name,
            container=container_of({one.key: one.value for one in properties.metadata.items}),
            account=account.email if account else "",
            scopes=tuple(account.scopes) if account else (),
            machine_type=last_part(properties.machine_type),
            boot_image=boot.source_image if boot else "",
            disk_gb=int(boot.disk_size_gb) if boot else 0,
            disk_type=last_part(boot.disk_type) if boot else "",
            network=last_part(interfaces[0].network) if interfaces else "default",
            external_address=any(list(one.access_configs) for one in interfaces),
            tags=tuple(properties.tags.items),
        )

    def _once[T](self, name: str, ask: Callable[[], T]) -> T:
        with self._lock:
            future = self._asked.get(name)
            if mine := future is None:
                future = self._asked[name] = Future()
        if mine:
            try:
                future.set_result(ask())
            except BaseException as error:
                future.set_exception(error)
        return cast("T", future.result())


def roles_of(policy: Mapping[str, Any], email: str) -> Iterable[str]:
    """The roles that a policy gives to an account, without conditions."""
    return (
        binding["role"]
        for binding in policy.get("bindings", [])
        if not binding.get("condition") and f"serviceAccount:{email}" in binding.get("members", [])
    )
