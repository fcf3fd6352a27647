"""The MLflow tracking server that trainers log to: where it is, and who may tell its password.

What `mlflow-infra up` makes is found by its names, which docs/contract.md, section 7, lists. All
functions raise `GcloudOpsError`: `NotFound`, `PermissionDenied`, `Unavailable`...
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gcloud_ops.clients import Clients
from gcloud_ops.compute import last_part
from gcloud_ops.errors import InvalidRequest, NotFound

__all__ = ["ADDRESS", "PORT", "SECRET", "SERVER", "TrackingServer", "find_server", "named_server"]

ADDRESS: Final = "mlflow-ip"
"""The static external address, in the region of the zone."""
SERVER: Final = "mlflow-tracking-server"
"""The VM."""
PORT: Final = 5000
SECRET: Final = "mlflow-trainer"
"""Of Secret Manager: user name and password of the trainers."""

_SECRET: Final = re.compile(r"[-A-Za-z0-9_]{1,255}")
_FULL_SECRET: Final = re.compile(rf"projects/[-a-z0-9:.]+/secrets/{_SECRET.pattern}")
_HINT: Final = "`mlflow-infra up` makes it; --mlflow-uri names another server"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingServer:
    """A tracking server, as a container's environment names it."""

    uri: str
    """Without user name and password."""
    secret: str = ""
    """The secret with them, `projects/P/secrets/NAME`; "" for a server that wants none."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the container (docs/contract.md, section 5); none is secret."""
        secret = {"SINERGYM_MLFLOW_SECRET": self.secret} if self.secret else {}
        return {"MLFLOW_TRACKING_URI": self.uri, **secret}


def find_server(clients: Clients) -> TrackingServer:
    """The server that `mlflow-infra up` has made in the project and the zone's region.

    Its address is the one that stays when its VM is made anew. On Google that is the VM's name in
    the network's own DNS: a rule that lets in a service account holds for internal traffic only
    (https://cloud.google.com/firewall/docs/firewalls#service-accounts). On another cloud, which
    has no such names, it is the static external address.

    Raises:
        NotFound: There is none, or not all of it.
    """
    region = clients.zone.rpartition("-")[0]
    where = f"project {clients.project}, region {region}"
    try:
        address = clients.read(
            f"address {ADDRESS}",
            clients.addresses.get,
            project=clients.project,
            region=region,
            address=ADDRESS,
        )
    except NotFound:
        raise NotFound(
            f"there is no tracking server in {where}: no address {ADDRESS}",
            resource=f"address {ADDRESS}",
            hint=_HINT,
        ) from None
    host = str(address.address)
    if clients.settings.is_google:
        host = internal_name(clients.project, list(address.users))
    secret = f"projects/{clients.project}/secrets/{SECRET}"
    secrets = clients.api("secretmanager", "v1").projects().secrets()
    try:
        clients.execute(f"secret {SECRET}", secrets.get(name=secret))
    except NotFound:
        raise NotFound(
            f"the tracking server in {where} is not complete: there is no secret {SECRET}",
            resource=f"secret {SECRET}",
            hint=_HINT,
        ) from None
    return TrackingServer(uri=f"http://{host}:{PORT}", secret=secret)


def named_server(project: str, uri: str, secret: str | None = None) -> TrackingServer:
    """A server that somebody names; it is not asked.

    Args:
        project: Of a secret that is given by its short name.
        uri: As in `MLFLOW_TRACKING_URI`.
        secret: `NAME` or `projects/P/secrets/NAME`; None when the server wants no password.

    Raises:
        InvalidRequest: A password in the address, or no name of a secret; neither is shown.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InvalidRequest("--mlflow-uri: not an address such as http://10.0.0.2:5000") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(
            "--mlflow-uri: a template may hold no user name and password",
            hint='put {"username": ..., "password": ...} into a secret; --mlflow-secret names it',
        )
    if not secret:
        return TrackingServer(uri=uri)
    full = f"projects/{project}/secrets/{secret}" if _SECRET.fullmatch(secret) else secret
    if not _FULL_SECRET.fullmatch(full):
        raise InvalidRequest("--mlflow-secret: neither NAME nor projects/PROJECT/secrets/NAME")
    return TrackingServer(uri=uri, secret=full)


def internal_name(project: str, users: list[str]) -> str:
    """The server's zonal name in the network's DNS.

    See https://cloud.google.com/compute/docs/internal-dns.

    Args:
        project: Its id; one of the old kind, `example.com:name`, is turned round.
        users: URLs of what the static address is in use by, which tell the zone.

    Raises:
        NotFound: The server's VM is not among them.
    """
    for user in users:
        path, _, name = user.rpartition("/instances/")
        if name == SERVER:
            domain, colon, own = project.rpartition(":")
            suffix = f"{own}.{domain}" if colon else project
            return f"{SERVER}.{last_part(path)}.c.{suffix}.internal"
    raise NotFound(
        f"the tracking server's VM {SERVER} is not there, only its address {ADDRESS}",
        resource=f"instance {SERVER}",
        hint=_HINT,
    )
