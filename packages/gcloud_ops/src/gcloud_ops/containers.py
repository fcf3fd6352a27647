"""Containers and shells on the instances of a sweep: plain calls over SSH, many at a time.

The host keys are read from the instances' guest attributes and verified, as everywhere.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from gcloud_ops import instances, ssh
from gcloud_ops.clients import Clients
from gcloud_ops.contract import CONTAINER
from gcloud_ops.dispatch import AT_ONCE, raise_open_files_limit
from gcloud_ops.errors import ContainerFailed, GcloudOpsError, NotFound, Unavailable
from gcloud_ops.model import Container, Instance
from gcloud_ops.startup import UNIT
from gcloud_ops.text import one_line

__all__ = [
    "find_instance",
    "list_containers",
    "restart_containers",
    "run_shell",
    "send_command",
]

_STOPPING = 120.0  # seconds for a container to stop (docker gives it 10 to 30) and start again


def list_containers(
    clients: Clients,
    sweep: str,
    names: Collection[str] = (),
    *,
    zone: str | None = None,
    at_once: int = AT_ONCE,
) -> dict[str, tuple[Container, ...] | GcloudOpsError]:
    """The containers of instances of a sweep, stopped ones too; by the instance's name.

    An instance that can't be asked has its error in place of its containers.

    Args:
        clients: The cloud.
        sweep: The sweep's name.
        names: Which instances; none: all.
        zone: Where they are; None: anywhere.
        at_once: How many are asked at once, at most.

    Raises:
        GcloudOpsError: The instances can't be listed.
    """
    found = _instances(clients, sweep, names, zone)
    return asyncio.run(_on_each(clients, found, _containers, at_once=at_once))


def restart_containers(
    clients: Clients,
    sweep: str,
    names: Collection[str],
    *,
    zone: str | None = None,
    at_once: int = AT_ONCE,
) -> dict[str, GcloudOpsError | None]:
    """Stop and start the runner's container on instances of a sweep; by the instance's name.

    Its runner claims a new attempt, which goes on from the last checkpoint. An instance on which
    that could not be done has its error. The arguments are those of `list_containers`.

    Raises:
        GcloudOpsError: The instances can't be listed.
    """

    async def restart(connection: ssh.Connection) -> None:
        # A new container, not the same once more: an attempt has a log of its own.
        words = ("sudo", "systemctl", "restart", UNIT)
        ended = await connection.run(words, timeout=_STOPPING)
        if ended.exit_code:
            raise ContainerFailed(
                f"{connection.instance}: systemctl restart: {one_line(ended.stderr)}",
                resource=f"instance {connection.instance}",
            )

    found = _instances(clients, sweep, names, zone)
    return asyncio.run(_on_each(clients, found, restart, at_once=at_once))


def send_command(clients: Clients, instance: str, command: str, *, zone: str | None = None) -> str:
    """Give the runner in an instance's container its command; returns the runner's answer.

    Sending the same command again is accepted.

    Raises:
        NotFound: There is no such instance.
        ContainerFailed: There is no container, or its runner has another command.
        Unavailable: The instance can't be reached (yet).
    """

    async def submit(connection: ssh.Connection) -> str:
        return await connection.submit(CONTAINER, command)

    target = find_instance(clients, instance, zone=zone)
    return asyncio.run(_on_one(clients, target, submit))


def run_shell(
    clients: Clients, instance: str, command: str | None = None, *, zone: str | None = None
) -> int:
    """Wire this terminal to a shell, or to a command, on an instance; returns its exit code.

    Raises:
        NotFound: There is no such instance.
        HostKeyMismatch, PermissionDenied, Unavailable: The connection can't be made.
    """

    async def interact(connection: ssh.Connection) -> int:
        return await ssh.interactive(connection, command)

    target = find_instance(clients, instance, zone=zone)
    return asyncio.run(_on_one(clients, target, interact))


def find_instance(clients: Clients, name: str, *, zone: str | None = None) -> Instance:
    """The instance of this name: in the zone, or else in any, if there is but one.

    Raises:
        NotFound: There is none.
    """
    if found := instances.get_instance(clients, name, zone=zone):
        return found
    elsewhere = [it for it in instances.list_instances(clients) if it.name == name]
    if len(elsewhere) == 1 and zone is None:
        return elsewhere[0]
    raise NotFound(
        f"there is no instance {name!r} in {zone or clients.zone}",
        resource=f"instance {name}",
        hint="see `gcloud-ops instances list`",
    )


def _instances(
    clients: Clients, sweep: str, names: Collection[str], zone: str | None
) -> tuple[Instance, ...]:
    found = instances.list_instances(clients, group=sweep, zone=zone)
    raise_open_files_limit(len(found) + 256)
    return tuple(it for it in found if not names or it.name in names)


async def _containers(connection: ssh.Connection) -> tuple[Container, ...]:
    return await connection.containers()


async def _on_each[T](
    clients: Clients,
    asked: Sequence[Instance],
    act: Callable[[ssh.Connection], Awaitable[T]],
    *,
    at_once: int,
) -> dict[str, T | GcloudOpsError]:
    slots = asyncio.Semaphore(at_once)

    async def one(instance: Instance) -> T | GcloudOpsError:
        async with slots:
            try:
                return await _on_one(clients, instance, act)
            except GcloudOpsError as error:
                return error

    results = await asyncio.gather(*(one(instance) for instance in asked))
    return {it.name: result for it, result in zip(asked, results, strict=True)}


async def _on_one[T](
    clients: Clients, instance: Instance, act: Callable[[ssh.Connection], Awaitable[T]]
) -> T:
    if not instance.address:
        raise Unavailable(
            f"{instance.name}: it has no address yet ({instance.status})",
            resource=f"instance {instance.name}",
        )
    keys = await asyncio.to_thread(instances.host_keys, clients, instance.name, zone=instance.zone)
    if not keys:
        raise Unavailable(
            f"{instance.name}: it has not published its host keys",
            resource=f"instance {instance.name}",
            hint="it is still booting, or its template has no enable-guest-attributes=TRUE",
        )
    async with ssh.reach(clients, instance, keys) as connection:
        return await act(connection)
