"""All that may be left over on Compute Engine, and what tells whether it is."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from gcloud_ops import templates
from gcloud_ops.bucket import list_manifests, list_records, read_manifest
from gcloud_ops.clients import Clients
from gcloud_ops.compute import last_part, time_of
from gcloud_ops.errors import GcloudOpsError, InvalidRequest, NotFound
from gcloud_ops.finishing import BucketClock
from gcloud_ops.instances import list_instances
from gcloud_ops.model import Location
from gcloud_ops.objects import list_blobs
from gcloud_ops.reaping.nouns import Disk, KnownGroup, Reserved, Seen, SeenSweep

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["Tell", "look"]

type Tell = Callable[[str], None]

_THREADS: Final = 8


def look(
    clients: Clients, *, bucket: str, tell: Tell = lambda _line: None
) -> tuple[Seen, datetime]:
    """All there is, and the bucket's time.

    Seven calls for the project (one more for every 500 instances), and two for each sweep that
    has a group; and where derived templates are unused, one for each open sweep without a group.

    Raises:
        GcloudOpsError: Groups or instances can't be listed.
    """
    project = f"project {clients.project}"
    scopes = clients.read_all(project, clients.groups.aggregated_list, project=clients.project)
    known = tuple(_group(one) for _, found in scopes for one in found.instance_group_managers)
    machines = list_instances(clients)

    def attempt[T](what: str, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except GcloudOpsError as error:
            # Another cloud than Google's may not have this kind of thing at all.
            if clients.settings.is_google or not isinstance(error, InvalidRequest):
                tell(f"{what} can't be looked at: {error.message}")
            return None

    listed = attempt("sweeps", lambda: list_manifests(clients, bucket))
    names = frozenset(one.name for one in listed or ())
    ours = [group for group in known if group.is_ours]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="reap") as pool:
        read = partial(_read_sweep, clients)
        found = pool.map(lambda one: attempt(f"sweep {one.name}", lambda: read(one)), ours)
        sweeps = {one.sweep: sweep for one, sweep in zip(ours, found, strict=True) if sweep}
    made = attempt("templates", lambda: templates.list_templates(clients)) or ()
    used = {group.template for group in known}
    needed: frozenset[str] | None = frozenset()
    if any(one.derived_from and one.name not in used for one in made):
        open_ones = names - {group.name for group in ours}
        needed = attempt("open sweeps", lambda: _needed(clients, bucket, open_ones))
    seen = Seen(
        groups=known,
        instances=machines,
        templates=made,
        addresses=attempt("addresses", lambda: _addresses(clients)) or (),
        disks=attempt("disks", lambda: _disks(clients)) or (),
        sweeps=sweeps,
        listed=names,
        needed=None if listed is None else needed,
    )
    now = datetime.now(UTC)
    for name in sorted(names)[:1]:
        with suppress(GcloudOpsError):  # deleted at this moment: our own clock then
            now = BucketClock(clients, bucket, name).now()
    return seen, now


def _read_sweep(clients: Clients, group: KnownGroup) -> SeenSweep:
    try:
        manifest = read_manifest(clients, group.bucket, group.name)
    except NotFound:
        return SeenSweep(manifest=None)
    records = list_records(clients, group.bucket, group.name)
    return SeenSweep(manifest=manifest, records=records)


def _needed(clients: Clients, bucket: str, names: frozenset[str]) -> frozenset[str]:
    """Templates of sweeps that have not ended and that `sweep resume` may bring up again."""
    if not names:
        return frozenset()
    marked = list_blobs(clients, bucket, "name", match_glob="*/finished.json")
    ended = {blob.name.partition("/")[0] for blob in marked}

    def template_of(name: str) -> str:
        try:
            return read_manifest(clients, bucket, name).template
        except NotFound:
            return ""

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="reap") as pool:
        return frozenset(pool.map(template_of, names - ended))


def _group(found: "compute_v1.InstanceGroupManager") -> KnownGroup:
    return KnownGroup(
        name=found.name,
        where=Location(zone=last_part(found.zone), region=last_part(found.region)),
        template=last_part(found.instance_template),
        target_size=int(found.target_size),
        created=time_of(found.creation_timestamp),
        metadata=dict(found.all_instances_config.properties.metadata),
    )


def _addresses(clients: Clients) -> tuple[Reserved, ...]:
    scopes = clients.read_all(
        "addresses", clients.addresses.aggregated_list, project=clients.project
    )
    return tuple(
        Reserved(
            name=one.name,
            region=last_part(one.region),
            description=one.description,
            in_use=one.status != "RESERVED" or bool(one.users),
            created=time_of(one.creation_timestamp),
        )
        for _, found in scopes
        for one in found.addresses
    )


def _disks(clients: Clients) -> tuple[Disk, ...]:
    scopes = clients.read_all("disks", clients.disks.aggregated_list, project=clients.project)
    return tuple(
        Disk(
            name=one.name,
            zone=last_part(one.zone),
            size_gb=int(one.size_gb),
            type=last_part(one.type_),
            in_use=one.status != "READY" or bool(one.users),
            changed=time_of(one.last_detach_timestamp or one.creation_timestamp),
            labels=dict(one.labels),
        )
        for _, found in scopes
        for one in found.disks
    )
