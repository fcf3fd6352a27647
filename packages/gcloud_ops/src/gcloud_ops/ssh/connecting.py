"""Connect to an instance, directly or through IAP, and be sure that it is that one."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from gcloud_ops import iap
from gcloud_ops.clients import Clients
from gcloud_ops.errors import HostKeyMismatch, PermissionDenied, Unavailable
from gcloud_ops.model import Instance
from gcloud_ops.settings import Settings
from gcloud_ops.ssh.connection import Connection, translate
from gcloud_ops.ssh.keys import known_hosts, private_key

__all__ = ["connect", "goes_through_iap", "reach"]

# What every OpenSSH of the last ten years knows, the cheapest first: hundreds of handshakes
# share one core. Post-quantum exchanges cost ten times as much.
_KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
)
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-256")


@asynccontextmanager
async def reach(
    clients: Clients,
    instance: Instance,
    host_keys: Sequence[str],
    *,
    timeout: float = 20.0,  # noqa: ASYNC109
) -> AsyncIterator[Connection]:
    """Connect to an instance: at its address, or through IAP where it has no public one.

    Args:
        clients: Of its cloud.
        instance: As it was listed; the setting `iap` may say otherwise than its addresses.
        host_keys: Its published host keys, as `instances.host_keys` returns them.
        timeout: Seconds for the whole of connecting.

    Raises:
        HostKeyMismatch: The host has none of these keys.
        PermissionDenied: It doesn't take our key (not yet, if it has just booted), or we may not
            use IAP.
        Unavailable: Nothing answers, or not in time; or no host key is published.
    """
    settings = clients.settings
    begin = time.monotonic()
    async with AsyncExitStack() as stack:
        sock = None
        if goes_through_iap(instance, settings) and host_keys:
            way = iap.tunnel(clients, instance, settings.ssh_port, timeout=timeout)
            sock = await stack.enter_async_context(way)
        left = max(1.0, timeout - (time.monotonic() - begin))
        connection = await stack.enter_async_context(
            connect(instance.address, instance.name, host_keys, settings, sock=sock, timeout=left)
        )
        yield connection


def goes_through_iap(instance: Instance, settings: Settings) -> bool:
    """Whether an instance is reached through IAP: by the setting, or for want of an address."""
    if settings.iap == "auto":
        return not instance.external_address
    return settings.iap == "always"


@asynccontextmanager
async def connect(
    address: str,
    instance: str,
    host_keys: Sequence[str],
    settings: Settings,
    *,
    sock: socket.socket | None = None,
    timeout: float = 20.0,  # noqa: ASYNC109
) -> AsyncIterator["Connection"]:
    """Connect to an instance, and be sure that it is that one.

    Args:
        address: Where it is; the port is the settings'.
        instance: Its name.
        host_keys: Its published host keys, as `instances.host_keys` returns them.
        settings: User, key and port.
        sock: One that is connected to it already; closed at the end.
        timeout: Seconds for the whole of connecting.

    Raises:
        HostKeyMismatch: The host has none of these keys.
        PermissionDenied: It doesn't take our key (not yet, if it has just booted).
        Unavailable: Nothing answers, or not in time; or no host key is published.
    """
    import asyncssh

    resource = f"instance {instance}"
    if not host_keys:
        raise Unavailable(
            f"{instance}: it has not published its host keys",
            resource=resource,
            hint="it is still booting, or its template has no enable-guest-attributes=TRUE",
        )
    with translate(instance, "can't be reached"):
        try:
            connection = await asyncssh.connect(
                address,
                settings.ssh_port,
                sock=sock,
                username=settings.ssh_user,
                client_keys=[private_key(settings)],
                known_hosts=known_hosts(instance, host_keys),
                host_key_alias=instance,
                config=None,
                agent_path=None,
                gss_host=None,
                preferred_auth="publickey",
                kex_algs=_KEX,
                encryption_algs=_CIPHERS,
                mac_algs=_MACS,
                compression_algs=None,
                keepalive_interval=15,
                keepalive_count_max=4,
                connect_timeout=timeout,
                login_timeout=timeout,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise _mismatch(instance, address) from error
        except asyncssh.KeyExchangeFailed as error:
            # A host with none of the published kinds of keys can't agree with us on one.
            if "host key" in error.reason:
                raise _mismatch(instance, address) from error
            raise
        except asyncssh.PermissionDenied as error:
            raise PermissionDenied(
                f"{instance}: it doesn't take the key {settings.ssh_key} for {settings.ssh_user}",
                resource=resource,
                hint="accounts appear some seconds after the boot; later, the sweep was launched "
                "with another key or user",
            ) from error
    try:
        yield Connection(instance, connection)
    finally:
        connection.close()
        # A host that is gone answers no farewell.
        try:
            with suppress(OSError, asyncssh.Error):
                await asyncio.wait_for(connection.wait_closed(), timeout=2.0)
        except TimeoutError:
            connection.abort()


def _mismatch(instance: str, address: str) -> HostKeyMismatch:
    return HostKeyMismatch(
        f"{instance}: the host at {address} has another key than the one that the instance "
        "published; not connected",
        resource=f"instance {instance}",
        hint="if the instance was recreated just now, try again; otherwise somebody is in between",
    )
