"""The server's VM while it runs: its logs, a restart, a move to another MLflow.

The VM's metadata is what it starts from (`server.metadata`); the database is Cloud SQL's.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gcloud_ops import ssh
from gcloud_ops.clients import Clients
from gcloud_ops.errors import GcloudOpsError, NotFound, OperationFailed, PermissionDenied
from gcloud_ops.instances import host_keys
from gcloud_ops.text import one_line
from mlflow_infra.operations.access import tracking_uri
from mlflow_infra.operations.backups import back_up, restore
from mlflow_infra.operations.tracking import wait_until_healthy
from mlflow_infra.resources.shape import Place
from mlflow_infra.resources.storing import Script
from mlflow_infra.server import CONTAINER, UPGRADE_KEY, metadata
from mlflow_infra.wanted import SERVER, Infrastructure

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["HEALTHY_WITHIN", "Upgraded", "boot_log", "container_log", "restart", "upgrade"]

HEALTHY_WITHIN: Final = 900.0
"""Seconds for booting, pulling the image and starting the server."""

_WHAT = f"instance {SERVER}"
_KEY_WITHIN = 30.0  # seconds until the guest agent has taken a new SSH key
_FOLLOW_SECONDS = 2.0


# ---------------------------------------------------------------------------------- logs


async def container_log(
    clients: Clients, infra: Infrastructure, *, follow: bool = False, lines: int | None = None
) -> AsyncGenerator[bytes]:
    """The log of the server's container, over SSH, as it is (not cleaned).

    Our public key is put into the VM's metadata, where it isn't there yet.

    Raises:
        NotFound: There is no VM.
        ContainerFailed: There is no container on it (yet).
        HostKeyMismatch, PermissionDenied, Unavailable: The connection can't be made.
    """
    found = await asyncio.to_thread(_instance, clients, infra)
    await asyncio.to_thread(_let_in, clients, infra, found)
    keys = await asyncio.to_thread(host_keys, clients, SERVER, zone=infra.zone)
    address = _address(found)
    deadline = time.monotonic() + _KEY_WITHIN
    while True:
        try:
            async with (
                ssh.connect(address, SERVER, keys, clients.settings) as connection,
                aclosing(connection.logs(CONTAINER, follow=follow, tail=lines)) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk
                return
        except PermissionDenied:
            # The guest agent takes a moment to read a key that has just been added.
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(1.0)


def boot_log(clients: Clients, infra: Infrastructure, *, follow: bool = False) -> Iterator[bytes]:
    """What the VM has printed on its serial port: its boot, and why a unit didn't start.

    Raises:
        NotFound: There is no VM.
    """
    start = 0
    while True:
        found = clients.read(
            _WHAT,
            clients.instances.get_serial_port_output,
            **_place(infra),
            port=1,
            start=start,
        )
        if found.contents:
            yield found.contents.encode("utf-8", "replace")
        if not follow:
            return
        start = int(found.next_)
        time.sleep(_FOLLOW_SECONDS)


def _let_in(clients: Clients, infra: Infrastructure, found: "compute_v1.Instance") -> None:
    ours = ssh.public_key_line(clients.settings)
    there = {item.key: item.value for item in found.metadata.items}
    lines = there.get("ssh-keys", "").splitlines()
    if ours not in lines:
        _set_metadata(clients, infra, {**there, "ssh-keys": "\n".join([*lines, ours])}, found)


def _address(found: "compute_v1.Instance") -> str:
    interface = found.network_interfaces[0]
    return next(
        (it.nat_i_p for it in interface.access_configs if it.nat_i_p), interface.network_i_p
    )


# ------------------------------------------------------------------------------- restart


def restart(
    clients: Clients,
    infra: Infrastructure,
    *,
    tell: Callable[[str], None] = lambda _: None,
    seconds: float = HEALTHY_WITHIN,
    waiting: Callable[[float, str], None] = lambda _passed, _last: None,
) -> float:
    """Restart the VM (or start it, if it is stopped); returns how long until it was well.

    Args:
        clients: The clients.
        infra: What is there.
        tell: Takes a line for each step.
        seconds: How long it may take to be well.
        waiting: As in `wait_until_healthy`.

    Raises:
        NotFound: There is no VM.
        Unavailable: The server isn't well in this time.
    """
    uri = tracking_uri(clients, infra)
    begin = time.monotonic()
    if _instance(clients, infra).status in {"TERMINATED", "STOPPED"}:
        tell(f"starting {SERVER}")
        clients.change(_WHAT, clients.instances.start_unary, **_place(infra))
    else:
        tell(f"restarting {SERVER}")
        clients.change(_WHAT, clients.instances.reset_unary, **_place(infra))
    tell(f"waiting for {uri}")
    wait_until_healthy(uri, seconds=seconds, waiting=waiting)
    return time.monotonic() - begin


# ------------------------------------------------------------------------------- upgrade


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """An upgrade that went well."""

    image: str
    before: str
    """The image before it."""
    backup: str
    """Id of the database's backup, which stays until somebody deletes it."""
    seconds: float
    """How long the server was away."""


def upgrade(
    clients: Clients,
    infra: Infrastructure,
    image: str,
    *,
    tell: Callable[[str], None] = lambda _: None,
    seconds: float = HEALTHY_WITHIN,
) -> Upgraded:
    """Move to another image: back up, upgrade the schema, start, look whether it is well.

    The VM is stopped before the backup, so that going back to it loses nothing.

    Args:
        clients: The clients.
        infra: What is there.
        image: The new image.
        tell: Takes a line for each step.
        seconds: How long the new one may take to be well, and the old one after it.

    Raises:
        InvalidRequest: It is no name of an image; nothing was changed.
        NotFound: There is no VM; nothing was changed.
        OperationFailed: It wasn't well: the old image and the database of before are back (or,
            as the message says, they couldn't be brought back).
    """
    new = replace(infra, image=image)
    described = metadata(new)  # refuses what is no image, before anything happens
    found = _instance(clients, infra)
    before = {it.key: it.value for it in found.metadata.items if it.key != UPGRADE_KEY}
    uri = tracking_uri(clients, infra)
    begin = time.monotonic()
    backup = ""
    try:
        tell(f"stopping {SERVER}")
        clients.change(_WHAT, clients.instances.stop_unary, **_place(infra))
        tell("backing up the database")
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        backup = back_up(
            clients, infra, description=f"mlflow-infra: before {image}, {when} UTC"
        ).id
        tell(f"backup {backup} is complete")
        Script(Place(clients, new)).ensure(lambda _: None)
        _set_metadata(clients, infra, {**before, **described, UPGRADE_KEY: image})
        tell(f"starting {image}")
        clients.change(_WHAT, clients.instances.start_unary, **_place(infra))
        tell(f"waiting for {uri}")
        wait_until_healthy(uri, seconds=seconds)
    except GcloudOpsError as error:
        tell(f"it went wrong: {one_line(error.message)}")
        _go_back(clients, infra, before, backup, error, tell=tell, seconds=seconds)
    away = time.monotonic() - begin
    # The next boot changes no schema again.
    _set_metadata(clients, infra, {**before, **described})
    return Upgraded(image=image, before=infra.image, backup=backup, seconds=away)


def _go_back(
    clients: Clients,
    infra: Infrastructure,
    before: Mapping[str, str],
    backup: str,
    cause: GcloudOpsError,
    *,
    tell: Callable[[str], None],
    seconds: float,
) -> None:
    """Bring back what was before a failed upgrade; always raises."""
    try:
        tell(f"going back to {infra.image}")
        clients.change(_WHAT, clients.instances.stop_unary, **_place(infra))
        if backup:
            tell(f"restoring backup {backup}")
            restore(clients, infra, backup)
        _set_metadata(clients, infra, before)
        clients.change(_WHAT, clients.instances.start_unary, **_place(infra))
        wait_until_healthy(tracking_uri(clients, infra), seconds=seconds)
    except GcloudOpsError as error:
        raise OperationFailed(
            f"the upgrade failed ({one_line(cause.message)}), and so did going back to "
            f"{infra.image} ({one_line(error.message)})",
            resource=_WHAT,
            hint=(f"the database of before is backup {backup}; " if backup else "")
            + "see `mlflow-infra logs`",
        ) from cause
    raise OperationFailed(
        f"the upgrade failed, {infra.image} and its database are back: {one_line(cause.message)}",
        resource=_WHAT,
    ) from cause


# ---------------------------------------------------------------------------- the instance


def _place(infra: Infrastructure) -> dict[str, str]:
    return {"project": infra.project, "zone": infra.zone, "instance": SERVER}


def _instance(clients: Clients, infra: Infrastructure) -> "compute_v1.Instance":
    try:
        return clients.read(_WHAT, clients.instances.get, **_place(infra))
    except NotFound as error:
        raise NotFound(error.message, resource=_WHAT, hint="`mlflow-infra up` makes it") from None


def _set_metadata(
    clients: Clients,
    infra: Infrastructure,
    wanted: Mapping[str, str],
    found: "compute_v1.Instance | None" = None,
) -> None:
    """Replace the VM's metadata; somebody else's change since it was read is not overwritten."""
    found = found or _instance(clients, infra)
    if {item.key: item.value for item in found.metadata.items} == dict(wanted):
        return
    content: dict[str, Any] = {
        "fingerprint": found.metadata.fingerprint,
        "items": [{"key": key, "value": value} for key, value in wanted.items()],
    }
    clients.change(
        _WHAT, clients.instances.set_metadata_unary, **_place(infra), metadata_resource=content
    )
