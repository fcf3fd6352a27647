"""What there is already, read from the cloud itself: nothing is noted anywhere else.

Bucket, image, machine type and network are the VM's, the tier that of the database, the ranges
those of the firewall's rule. Where the VM is gone, the bucket is the one with our label, or with
a start script in it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gcloud_ops.clients import CALL_TIMEOUT, Clients
from gcloud_ops.compute import last_part
from gcloud_ops.errors import InvalidRequest, NotFound, PermissionDenied
from gcloud_ops.objects import list_blobs
from mlflow_infra.server import IMAGE_KEY
from mlflow_infra.wanted import (
    FIREWALL,
    INSTANCE,
    LABELS,
    SERVER,
    TRAINER_FIREWALL,
    Infrastructure,
)

__all__ = ["Given", "found", "found_or_default", "wanted"]

LOCAL_IMAGE: Final = "local/mlflow-server:latest"
"""The image on a cloud that isn't Google's: its engine runs the program that is installed."""

_SCRIPTS: Final = "scripts/start_mlflow_tracking-"
_SCRIPT = re.compile(r"gs://([^/]+)/" + _SCRIPTS)
_HERE = ("127.0.0.1/32",)
_LOOKED_INTO = 100  # buckets without our label


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What options say; None: not given."""

    zone: str | None = None
    bucket: str | None = None
    image: str | None = None
    source_ranges: tuple[str, ...] | None = None
    trainer_account: str | None = None
    tier: str | None = None
    machine_type: str | None = None

    def items(self) -> Mapping[str, Any]:
        """Those that are given, by their field."""
        every = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in every.items() if value is not None}


def found(clients: Clients) -> Infrastructure | None:
    """The infrastructure that is there, whole or in part; None where there is nothing of it.

    Raises:
        GcloudOpsError: It can't be looked at.
    """
    return _look(clients)[0]


def found_or_default(clients: Clients, *, bucket: str | None = None) -> Infrastructure:
    """What is there, or else what a bare `up` would make: to look for what may be left.

    Args:
        clients: The clients.
        bucket: The bucket, where no VM and no label tells it.
    """
    infra = found(clients) or _default(clients)
    if not infra.source_ranges:
        # With a rule wanted, its absence is seen as one.
        infra = replace(infra, source_ranges=_HERE)
    return replace(infra, bucket=bucket) if bucket else infra


def wanted(clients: Clients, given: Given, *, only_look: bool = False) -> Infrastructure:
    """What is there, changed by what options say; or what they and the defaults say.

    Args:
        clients: The clients.
        given: The options.
        only_look: Nothing will be made, so nobody need say who may reach the server.

    Raises:
        InvalidRequest: An option can't be; or it would move what can't be moved; or nobody has
            said who may reach the server.
    """
    there, is_admission_known = _look(clients)
    if there is not None:
        _check_stays("--zone", there.zone, given.zone, of=there)
        # A bucket that is only the default's name is no bucket yet.
        if there.bucket != _default(clients).bucket:
            _check_stays("--bucket", there.bucket, given.bucket, of=there)
    infra = replace(there or _default(clients), **given.items())
    if is_admission_known or given.source_ranges is not None:
        return infra
    if only_look and clients.settings.is_google:
        return infra
    return _with_somebody(infra, is_google=clients.settings.is_google)


def _with_somebody(infra: Infrastructure, *, is_google: bool) -> Infrastructure:
    """Who may reach a server of which nobody has said it: this machine, if it can be known.

    Google tells nobody his own public address, and a third party isn't asked.
    """
    if not is_google:
        return replace(infra, source_ranges=_HERE)
    raise InvalidRequest(
        "--source-range: who may reach the server?",
        hint="give your public address, such as --source-range 203.0.113.7/32, or "
        "--source-range none for nobody but the trainers",
    )


def _look(clients: Clients) -> tuple[Infrastructure | None, bool]:
    """What is there, and whether its rules tell who may reach it.

    The trainers' rule is made after the other one: where only it is there, nobody else shall.
    """
    server = _server(clients)
    database = _database(clients)
    rule = _rule(clients, FIREWALL)
    trainers = _rule(clients, TRAINER_FIREWALL)
    metadata = {item.key: item.value for item in server.metadata.items} if server else {}
    script = _SCRIPT.match(metadata.get("startup-script-url", ""))
    bucket = script[1] if script else _bucket(clients)
    if not (server or database or rule or trainers or bucket):
        return None, False

    values: dict[str, Any] = {"zone": _zone(clients, server, database)}
    if bucket:
        values["bucket"] = bucket
    if metadata.get(IMAGE_KEY):
        values["image"] = metadata[IMAGE_KEY]
    if server:
        values["machine_type"] = last_part(server.machine_type)
        if server.network_interfaces:
            values["network"] = last_part(server.network_interfaces[0].network)
    if rule:
        values["source_ranges"] = tuple(rule.source_ranges)
    if trainers and trainers.source_service_accounts:
        values["trainer_account"] = trainers.source_service_accounts[0]
    settings = (database or {}).get("settings", {})
    if settings.get("tier"):
        values["tier"] = settings["tier"]
    if settings.get("dataDiskSizeGb"):
        values["disk_gb"] = int(settings["dataDiskSizeGb"])
    return replace(_default(clients), **values), bool(rule or trainers)


def _check_stays(option: str, now: str, given: str | None, *, of: Infrastructure) -> None:
    if given is not None and given != now:
        raise InvalidRequest(
            f"{option} {given}: the tracking server of project {of.project} has {now}",
            hint="nothing is moved; `mlflow-infra down` first takes it down",
        )


def _default(clients: Clients) -> Infrastructure:
    project, zone = clients.project, clients.zone
    region = zone.rpartition("-")[0]
    google = f"{region}-docker.pkg.dev/{project}/sinergym/mlflow-server:latest"
    return Infrastructure(
        project=project,
        zone=zone,
        bucket=f"{project.replace(':', '-').replace('.', '-')}-mlflow",
        image=google if clients.settings.is_google else LOCAL_IMAGE,
    )


def _zone(clients: Clients, server: Any, database: Mapping[str, Any] | None) -> str:
    if server:
        return last_part(server.zone)
    region = str((database or {}).get("region") or "")
    if not region or clients.zone.rpartition("-")[0] == region:
        return clients.zone
    return str((database or {}).get("gceZone") or f"{region}-b")


def _server(clients: Clients) -> Any:
    """The VM, in whatever zone; None where there is none."""

    def every() -> list[Any]:
        scopes = clients.instances.aggregated_list(
            request={"project": clients.project, "filter": f"name={SERVER}"},
            retry=None,
            timeout=CALL_TIMEOUT,
        )
        return [one for _, content in scopes for one in content.instances]

    try:
        return next(
            (it for it in clients.call(f"instance {SERVER}", every) if it.name == SERVER), None
        )
    except PermissionDenied as error:
        _check_disabled(error)
        return None


def _database(clients: Clients) -> Mapping[str, Any] | None:
    request = clients.api("sqladmin", "v1").instances().get
    try:
        return clients.execute(
            f"database {INSTANCE}", request(project=clients.project, instance=INSTANCE)
        )
    except NotFound:
        return None
    except PermissionDenied as error:
        _check_disabled(error)
        return None


def _rule(clients: Clients, name: str) -> Any:
    try:
        return clients.read(
            f"firewall rule {name}", clients.firewalls.get, project=clients.project, firewall=name
        )
    except NotFound:
        return None
    except PermissionDenied as error:
        _check_disabled(error)
        return None


def _bucket(clients: Clients) -> str:
    """The bucket, where no VM tells it: with our label, or else with a start script in it."""

    def listing() -> list[tuple[str, bool]]:
        every = clients.storage.list_buckets(
            project=clients.project,
            fields="items(name,labels),nextPageToken",
            retry=None,
            timeout=CALL_TIMEOUT,
        )
        ours = LABELS.items()
        return [(it.name, ours <= dict(it.labels or {}).items()) for it in every]

    try:
        every = clients.call(f"buckets of {clients.project}", listing)
    except PermissionDenied as error:
        _check_disabled(error)
        return ""
    names = [name for name, is_labelled in every if is_labelled]
    if not names:
        names = [name for name, _ in every[:_LOOKED_INTO] if _has_script(clients, name)]
    return names[0] if len(names) == 1 else ""


def _has_script(clients: Clients, bucket: str) -> bool:
    try:
        return bool(list_blobs(clients, bucket, "name", prefix=_SCRIPTS, max_results=1))
    except (PermissionDenied, NotFound):
        return False


def _check_disabled(error: PermissionDenied) -> None:
    """An API that isn't enabled has nothing in it; any other refusal is one."""
    if "enable the API" not in error.hint:
        raise error
