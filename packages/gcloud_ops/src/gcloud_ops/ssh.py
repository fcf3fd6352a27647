"""SSH to instances: our key pair, verified host keys, and Docker at the other end.

An instance publishes its host keys as guest attributes; a connection is made only to a host that
has one of them, whatever its address. Users' SSH configuration, agents and known_hosts files are
not read: what happens depends on the settings alone.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from gcloud_ops.model import CONTAINER, Container
from gcloud_ops.settings import Settings

__all__ = ["CompletedCommand", "Connection", "connect", "interactive", "public_key_line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedCommand:
    """How a command on an instance ended."""

    exit_code: int
    """255 when it ended by a signal or the connection broke."""
    stdout: str
    stderr: str
    """Both as they came: pass them through `text.clean` before showing them."""


def public_key_line(settings: Settings) -> str:
    """The line for the metadata `ssh-keys`: `USER:ssh-ed25519 AAAA... USER`.

    The key pair is made at the first use.

    Raises:
        InvalidRequest: The key file can't be read or written.
    """
    raise NotImplementedError


def connect(
    address: str,
    instance: str,
    host_keys: Sequence[str],
    settings: Settings,
    *,
    timeout: float = 20.0,
) -> AbstractAsyncContextManager["Connection"]:
    """Connect to an instance, and be sure that it is that one.

    Args:
        address: Where it is; the port is the settings'.
        instance: Its name.
        host_keys: Its published host keys, as `groups.host_keys` returns them.
        settings: User, key and port.
        timeout: Seconds for the whole of connecting.

    Raises:
        HostKeyMismatch: The host has none of these keys.
        PermissionDenied: It doesn't take our key (not yet, if it has just booted).
        Unavailable: Nothing answers, or not in time.
    """
    raise NotImplementedError


class Connection:
    """An open connection to one instance. Commands may run side by side on it."""

    instance: str

    async def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = 60.0,  # noqa: ASYNC109
    ) -> CompletedCommand:
        """Run a command to its end.

        Args:
            command: A line for the remote shell, or arguments, which are quoted.
            timeout: Seconds; None waits for ever.

        Raises:
            Unavailable: The connection broke, or the command took too long.
        """
        raise NotImplementedError

    def stream(self, command: str | Sequence[str]) -> AsyncIterator[bytes]:
        """Run a command and yield its output and error output as it comes, in chunks.

        Leaving the loop ends the command.

        Raises:
            Unavailable: The connection broke.
            ContainerFailed: The command ended with another exit code than 0.
        """
        raise NotImplementedError

    async def containers(self) -> tuple[Container, ...]:
        """All containers of the instance, stopped ones too.

        Raises:
            ContainerFailed: There is no Docker to ask.
            Unavailable: The connection broke.
        """
        raise NotImplementedError

    async def container_state(self, name: str = CONTAINER) -> Container | None:
        """The container of this name; None while there is none."""
        raise NotImplementedError

    async def submit(self, container: str, command: str) -> str:
        """Give the runner in the container its command; what the runner answered, cleaned.

        Sending the same command again is accepted: a retry is safe.

        Raises:
            ContainerFailed: There is no such container, or its runner refused the command.
            Unavailable: The connection broke; the command may have arrived.
        """
        raise NotImplementedError

    def logs(
        self, container: str = CONTAINER, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[bytes]:
        """The container's log, as it is (not cleaned).

        Args:
            container: Its name.
            follow: Go on until the container ends.
            tail: Only the last so many lines of what is there.

        Raises:
            ContainerFailed: There is no such container.
            Unavailable: The connection broke.
        """
        raise NotImplementedError


async def interactive(connection: Connection, command: str | None = None) -> int:
    """Wire the local terminal to a shell, or to a command, on the instance.

    With a terminal on standard input there is a remote terminal, resized with the local one,
    which is restored in any case; else plain pipes.

    Returns:
        The remote exit code.
    """
    raise NotImplementedError
