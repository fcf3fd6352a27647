"""What a launch will do, checked as far as anything can be before something is made.

The plan says where and of what the instances are made, what that costs (`costs`), which image it
is at this moment (`registry`), and from which state of the working folder (`provenance`).
"""

import getpass
import platform
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from gcloud_ops import groups, instances, objects, prices, provenance, registry, templates
from gcloud_ops.bounds import check_zones, region_of
from gcloud_ops.bucket import list_manifests
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Image, Machine, Manifest, Source
from gcloud_ops.costs import PlanCost, plan_cost
from gcloud_ops.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from gcloud_ops.model import Location, Sweep

__all__ = ["LaunchPlan", "free_name", "manifest_of", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """What a launch will do; made by `plan`, which has checked that it can."""

    sweep: Sweep
    project: str
    zone: str
    """The zone, or the first of several."""
    bucket: str
    bucket_exists: bool
    template: templates.Template
    cost: PlanCost
    """What it costs, and may cost at most."""
    zones: tuple[str, ...] = ()
    """Of a regional group; none: it is a zonal one."""
    image: Image | None = None
    source: Source | None = None
    difference: bytes = b""
    """What the working folder has besides the commit of `source`."""

    @property
    def instances(self) -> int:
        """How many VMs it takes."""
        return len(self.sweep.experiments)

    @property
    def machine_types(self) -> tuple[str, ...]:
        """The machine types that its instances may have, the preferred one first."""
        return self.sweep.machine_types or (self.template.machine_type,)

    @property
    def spot(self) -> bool:
        """Whether its instances are Spot VMs."""
        return self.sweep.spot

    @property
    def seconds(self) -> int | None:
        """How long each experiment may take on instances; None: no limit."""
        return self.cost.seconds


def plan(sweep: Sweep, clients: Clients, *, source: Path | None = None) -> LaunchPlan:
    """Check all that a launch needs, and create nothing.

    Args:
        sweep: What to launch.
        clients: The cloud.
        source: The working folder whose state the manifest is to name; None: none.

    Raises:
        InvalidRequest: No project; a zone, machine type or limit that can't be, or zones that
            don't go together.
        NotFound: The template, a zone or the image isn't there.
        AlreadyExists: A sweep or an instance group of that name is.
        CredentialsMissing, PermissionDenied, Unavailable: The cloud doesn't let us look.
    """
    settings = clients.settings
    project = settings.require_project()
    zones = sweep.zones or (sweep.zone or settings.zone,)
    bucket = sweep.bucket or settings.bucket_name
    found = provenance.state_of(source) if source is not None else None
    check_zones(zones, field="zones" if sweep.zones else "zone")
    for zone in zones:
        if not instances.zone_exists(clients, zone):
            raise NotFound(
                f"zone: there is no zone {zone!r} in project {project}",
                resource=f"zone {zone}",
                hint="see `gcloud compute zones list`",
            )
    template = templates.get_template(clients, sweep.template or settings.template)
    if sweep.retry is not None and template.is_ours and not template.restarts:
        raise InvalidRequest(
            f"retry: the template {template.name} is older than retries: its instances start no "
            "container anew",
            resource=f"template {template.name}",
            hint="make it anew with `gcloud-ops template delete` and `template create`, or leave "
            "retry out",
        )
    exists = objects.holds(clients, bucket, f"{sweep.name}/sweep.json")
    if exists:
        raise AlreadyExists(
            f"name: there is a sweep {sweep.name!r} in gs://{bucket} already",
            resource=f"sweep {sweep.name}",
            hint="choose another name, or remove it with `gcloud-ops sweep delete`",
        )
    # Only a regional group takes several machine types.
    is_regional = len(zones) > 1 or len(sweep.machine_types) > 1
    planned = LaunchPlan(
        sweep=sweep,
        project=project,
        zone=zones[0],
        zones=zones if is_regional else (),
        bucket=bucket,
        bucket_exists=exists is not None,
        template=template,
        cost=_cost(sweep, template, region_of(zones[0])),
        image=_image(clients, sweep, template),
        source=found[0] if found else None,
        difference=found[1] if found else b"",
    )
    where = Location.of(manifest_of(planned))
    if groups.get_group(clients, sweep.name, where=where) is not None:
        raise AlreadyExists(
            f"name: there is an instance group {sweep.name!r} in {where} already",
            resource=f"group {sweep.name}",
            hint="choose another name",
        )
    return planned


def free_name(name: str, clients: Clients, *, bucket: str | None = None) -> str:
    """The name itself, or `<name>-2`, `<name>-3`...: the first that no sweep in the bucket has."""
    bucket = bucket or clients.settings.bucket_name
    taken = {found.name for found in list_manifests(clients, bucket)}
    candidates = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def manifest_of(planned: LaunchPlan) -> Manifest:
    """The manifest of a planned sweep that is launched now."""
    return Manifest(
        sweep=planned.sweep.name,
        created=datetime.now(UTC),
        project=planned.project,
        zone=planned.zone,
        zones=planned.zones,
        template=planned.template.name,
        dispatch=planned.sweep.dispatch,
        launcher={
            "user": getpass.getuser(),
            "host": platform.node(),
            "version": version("gcloud-ops"),
        },
        experiments=planned.sweep.experiments,
        alert_each=planned.sweep.announces_each,
        retry=planned.sweep.retry,
        seconds=planned.seconds,
        machine=replace(
            _machine(planned.sweep, planned.template),
            hourly=planned.cost.hourly,
            priced=planned.cost.priced,
        ),
        image=planned.image,
        source=planned.source,
    )


def _cost(sweep: Sweep, template: templates.Template, region: str) -> PlanCost:
    machine = _machine(sweep, template)
    return plan_cost(
        prices.load(),
        count=len(sweep.experiments),
        machine=replace(machine, types=machine.types or (template.machine_type,)),
        region=region,
        hours=sweep.hours,
        max_hours=sweep.max_hours,
        max_cost=sweep.max_cost,
        address=template.external_address,
    )


def _machine(sweep: Sweep, template: templates.Template) -> Machine:
    return Machine(
        types=sweep.machine_types,
        spot=sweep.spot,
        disk_gb=template.disk_gb,
        disk_type=template.disk_type,
    )


def _image(clients: Clients, sweep: Sweep, template: templates.Template) -> Image | None:
    """What the instances' image is at this moment, as far as its registry tells us."""
    if sweep.image is not None:
        digest = registry.Reference.parse(sweep.image).digest
        if not digest:
            raise InvalidRequest(f"image: {sweep.image!r} has no digest (NAME@sha256:...)")
        return Image(name=sweep.image.partition("@")[0], digest=digest, pinned=True)
    if not template.image:
        return None
    digest = ""
    with suppress(InvalidRequest, PermissionDenied, Unavailable):  # ours to read it needn't be
        digest = registry.digest_of(clients, template.image)
    return Image(name=template.image, digest=digest)
