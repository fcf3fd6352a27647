"""SSH to instances: our key pair, verified host keys, and Docker at the other end.

An instance publishes its host keys as guest attributes; a connection is made only to a host that
has one of them, whatever its address. Users' SSH configuration, agents and known_hosts files are
not read: what happens depends on the settings alone.
"""

import asyncio
import functools
import json
import os
import secrets
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gcloud_ops.contract import CONTAINER
from gcloud_ops.errors import (
    ContainerFailed,
    HostKeyMismatch,
    InvalidRequest,
    PermissionDenied,
    Unavailable,
)
from gcloud_ops.model import Container
from gcloud_ops.settings import Settings
from gcloud_ops.text import one_line

if TYPE_CHECKING:
    import asyncssh

__all__ = [
    "CommandFailed",
    "CompletedCommand",
    "Connection",
    "connect",
    "interactive",
    "public_key_line",
]

BROKEN: Final = 255
"""Exit code of a command that ended in no other way, as with `ssh`."""

_CHUNK = 64 * 1024
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


class CommandFailed(ContainerFailed):
    """A command on an instance, or in its container, ended with another exit code than 0."""

    def __init__(self, message: str, *, exit_code: int, resource: str, hint: str = "") -> None:
        super().__init__(message, resource=resource, hint=hint)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedCommand:
    """How a command on an instance ended."""

    exit_code: int
    """128 and the signal's number (or 255 for an unknown one) when a signal ended it."""
    stdout: str
    stderr: str
    """Both as they came: pass them through `text.clean` before showing them."""


def public_key_line(settings: Settings) -> str:
    """The line for the metadata `ssh-keys`: `USER:ssh-ed25519 AAAA... USER`.

    The key pair is made at the first use.

    Raises:
        InvalidRequest: The key file can't be read or written.
    """
    algorithm, key = _private_key(settings).export_public_key().decode().split()[:2]
    return f"{settings.ssh_user}:{algorithm} {key} {settings.ssh_user}"


@asynccontextmanager
async def connect(
    address: str,
    instance: str,
    host_keys: Sequence[str],
    settings: Settings,
    *,
    timeout: float = 20.0,  # noqa: ASYNC109
) -> AsyncIterator["Connection"]:
    """Connect to an instance, and be sure that it is that one.

    Args:
        address: Where it is; the port is the settings'.
        instance: Its name.
        host_keys: Its published host keys, as `instances.host_keys` returns them.
        settings: User, key and port.
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
    with _translate(instance, "can't be reached"):
        try:
            connection = await asyncssh.connect(
                address,
                settings.ssh_port,
                username=settings.ssh_user,
                client_keys=[_private_key(settings)],
                known_hosts=_known_hosts(instance, host_keys),
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
        with suppress(TimeoutError, OSError, asyncssh.Error):
            await asyncio.wait_for(connection.wait_closed(), timeout=2.0)


class Connection:
    """An open connection to one instance, made by `connect`.

    Commands may run side by side on it.
    """

    def __init__(self, instance: str, connection: "asyncssh.SSHClientConnection") -> None:
        self.instance = instance
        self._connection = connection

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
        with _translate(self.instance, f"no answer within {timeout} s"):
            process = await self._start(command)
            try:
                ended = await process.wait(timeout=timeout)
            finally:
                process.close()
        self._check_ended(ended.exit_status, ended.exit_signal)
        return CompletedCommand(
            exit_code=_exit_code(ended.exit_status, ended.exit_signal),
            stdout=_text(ended.stdout),
            stderr=_text(ended.stderr),
        )

    async def stream(self, command: str | Sequence[str]) -> AsyncGenerator[bytes]:
        """Run a command and yield its output and error output as it comes, in chunks.

        Leaving the loop ends the command.

        Raises:
            Unavailable: The connection broke.
            CommandFailed: The command ended with another exit code than 0.
        """
        import asyncssh

        last = b""
        with _translate(self.instance, "the connection broke"):
            process = await self._start(command, stderr=asyncssh.STDOUT)
            try:
                while chunk := await process.stdout.read(_CHUNK):
                    last = (last + chunk)[-1000:]
                    yield chunk
                await process.wait_closed()
            finally:
                if process.exit_status is None:
                    with suppress(OSError, asyncssh.Error):
                        process.terminate()
                process.close()
        self._check_ended(process.exit_status, process.exit_signal)
        code = _exit_code(process.exit_status, process.exit_signal)
        if code:
            raise self._failed(code, _last_line(_text(last)))

    async def containers(self) -> tuple[Container, ...]:
        """All containers of the instance, stopped ones too.

        Raises:
            CommandFailed: Docker doesn't answer (yet).
            Unavailable: The connection broke.
        """
        return await self._containers(())

    async def container_state(self, name: str = CONTAINER) -> Container | None:
        """The container of this name; None while there is none.

        Raises:
            CommandFailed: Docker doesn't answer (yet).
            Unavailable: The connection broke.
        """
        found = await self._containers(("--filter", f"name={name}"))  # a part of a name does
        return next((container for container in found if container.name == name), None)

    async def submit(self, container: str, command: str) -> str:
        """Give the runner in the container its command; what the runner answered, cleaned.

        Sending the same command again is accepted: a retry is safe.

        Raises:
            CommandFailed: There is no such container (yet), or its runner refused the command:
                `exit_code` is 3 when it has another command, 4 when none waits
                (docs/contract.md, section 4).
            InvalidRequest: The command holds a NUL.
            Unavailable: The connection broke; the command may have arrived.
        """
        if "\0" in command:
            raise InvalidRequest(f"{self.instance}: the command holds a NUL character")
        words = ("docker", "exec", container, "sinergym-runner", "submit", "--", command)
        ended = await self.run(words)
        if ended.exit_code:
            said = ended.stderr.strip() or ended.stdout.strip()
            raise self._failed(ended.exit_code, _last_line(said))
        return one_line(ended.stdout)

    async def logs(
        self, container: str = CONTAINER, *, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[bytes]:
        """The container's log, as it is (not cleaned).

        Args:
            container: Its name.
            follow: Go on until the container ends.
            tail: Only the last so many lines of what is there.

        Raises:
            ContainerFailed: There is no such container.
            Unavailable: The connection broke.
        """
        if await self.container_state(container) is None:
            raise ContainerFailed(
                f"{self.instance}: no container {container}", resource=f"instance {self.instance}"
            )
        words = ["docker", "logs"]
        words += ["--follow"] if follow else []
        words += ["--tail", str(tail)] if tail is not None else []
        chunks = self.stream([*words, container])
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()

    async def _containers(self, options: tuple[str, ...]) -> tuple[Container, ...]:
        words = ["docker", "ps", "-a", *options, "--format", "{{json .}}"]
        ended = await self.run(words)
        if ended.exit_code:
            raise self._failed(ended.exit_code, _last_line(ended.stderr))
        found = (_container(self.instance, line) for line in ended.stdout.splitlines())
        return tuple(container for container in found if container is not None)

    async def _start(
        self, command: str | Sequence[str], **options: Any
    ) -> "asyncssh.SSHClientProcess[bytes]":
        line = command if isinstance(command, str) else shlex.join(command)
        return await self._connection.create_process(line, encoding=None, **options)

    def _check_ended(self, status: int | None, ended_by: object) -> None:
        if status is None and not ended_by:
            raise Unavailable(
                f"{self.instance}: the connection broke", resource=f"instance {self.instance}"
            )

    def _failed(self, code: int, said: str) -> CommandFailed:
        return CommandFailed(
            f"{self.instance}: {said or 'no answer'} (exit code {code})",
            exit_code=code,
            resource=f"instance {self.instance}",
        )


async def interactive(connection: Connection, command: str | None = None) -> int:
    """Wire the local terminal to a shell, or to a command, on the instance.

    With a terminal on standard input there is a remote terminal, resized with the local one,
    which is restored in any case; else plain pipes. Windows has only the pipes.

    Returns:
        The remote exit code.

    Raises:
        Unavailable: The connection broke.
    """
    terminal = sys.stdin.isatty() and sys.platform != "win32"
    options: dict[str, Any] = {}
    if terminal:
        size = os.get_terminal_size(sys.stdin.fileno())
        options = {
            "term_type": os.environ.get("TERM", "xterm-256color"),
            "term_size": (size.columns, size.lines),
        }
    with _translate(connection.instance, "the connection broke"):
        process = await connection._connection.create_process(command, encoding=None, **options)
        with _raw_terminal(process) if terminal else _nothing():
            feeding = asyncio.create_task(_feed(process))
            try:
                await asyncio.gather(
                    _drain(process.stdout, sys.stdout.fileno()),
                    _drain(process.stderr, sys.stderr.fileno()),
                )
                await process.wait_closed()
            finally:
                feeding.cancel()
                process.close()
    connection._check_ended(process.exit_status, process.exit_signal)
    return _exit_code(process.exit_status, process.exit_signal)


# ----------------------------------------------------------------------------------- keys


def _private_key(settings: Settings) -> "asyncssh.SSHKey":
    path = settings.ssh_key
    try:
        if not path.exists():
            _make_key(path, settings.ssh_user)
        return _read_key(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise InvalidRequest(
            f"ssh_key: {path}: {error.strerror or error}", resource="setting ssh_key"
        ) from error
    except ValueError as error:  # asyncssh's KeyImportError and KeyEncryptionError
        raise InvalidRequest(
            f"ssh_key: {path}: not a private key without a passphrase: {error}",
            resource="setting ssh_key",
        ) from error


@functools.lru_cache(maxsize=8)
def _read_key(path: Path, changed: int) -> "asyncssh.SSHKey":
    """Read the key once; `changed` is the file's time."""
    del changed
    import asyncssh

    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise PermissionError(0, "others may read this private key: `chmod 600` it")
    return asyncssh.read_private_key(path)


def _make_key(path: Path, comment: str) -> None:
    """Make the pair; of two processes that do, the first one's stays."""
    import asyncssh

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(key.export_private_key())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, this takes nobody's place
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
    path.with_name(f"{path.name}.pub").write_bytes(key.export_public_key())


def _known_hosts(instance: str, host_keys: Sequence[str]) -> "asyncssh.SSHKnownHosts":
    """The published keys, for this name; what is no key is left out."""
    import asyncssh

    lines = []
    for text in host_keys:
        with suppress(ValueError):
            key = asyncssh.import_public_key(text)
            lines.append(f"{instance} {key.export_public_key().decode().strip()}\n")
    return asyncssh.import_known_hosts("".join(lines))


def _mismatch(instance: str, address: str) -> HostKeyMismatch:
    return HostKeyMismatch(
        f"{instance}: the host at {address} has another key than the one that the instance "
        "published; not connected",
        resource=f"instance {instance}",
        hint="if the instance was recreated just now, try again; otherwise somebody is in between",
    )


# ---------------------------------------------------------------------------- what is said


@contextmanager
def _translate(instance: str, what: str) -> Iterator[None]:
    """Turn asyncssh's and the network's errors into ours."""
    import asyncssh

    try:
        yield
    except (asyncssh.Error, OSError) as error:
        timed_out = isinstance(error, TimeoutError | asyncssh.TimeoutError)
        cause = "timed out" if timed_out else one_line(str(error))
        raise Unavailable(
            f"{instance}: {what}: {cause or type(error).__name__}", resource=f"instance {instance}"
        ) from error


def _container(instance: str, line: str) -> Container | None:
    try:
        shown = json.loads(line)
        return Container(
            instance=instance,
            id=str(shown["ID"]),
            name=str(shown["Names"]),
            image=str(shown["Image"]),
            state=str(shown["State"]),
            status=str(shown.get("Status", "")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _exit_code(status: int | None, ended_by: tuple[str, bool, str, str] | None) -> int:
    if ended_by:
        number = getattr(signal, f"SIG{ended_by[0]}", None)
        return 128 + number if isinstance(number, int) else BROKEN
    return BROKEN if status is None else status


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def _last_line(text: str) -> str:
    """The last line that says something, harmless for a terminal."""
    return next((line for raw in reversed(text.splitlines()) if (line := one_line(raw))), "")


# --------------------------------------------------------------------------- the terminal


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _raw_terminal(process: "asyncssh.SSHClientProcess[bytes]") -> Iterator[None]:
    """Every key goes to the other side, and so does the window's size; restored at the end."""
    import termios
    import tty

    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()

    def resized() -> None:
        with suppress(OSError):
            size = os.get_terminal_size(terminal)
            process.change_terminal_size(size.columns, size.lines)

    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        loop.add_signal_handler(signal.SIGWINCH, resized)
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


async def _feed(process: "asyncssh.SSHClientProcess[bytes]") -> None:
    """Pass our standard input on until its end."""
    keys = sys.stdin.fileno()
    with suppress(BrokenPipeError, ConnectionError):
        while data := await _readable(keys):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.write_eof()


async def _readable(file: int) -> bytes:
    """Wait for bytes; b"" is the end. Cancelling it leaves no thread behind on a terminal."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(file, wake)
    except (OSError, NotImplementedError):  # a plain file never makes one wait; so on Windows
        return await asyncio.to_thread(os.read, file, _CHUNK)
    try:
        await ready
    finally:
        loop.remove_reader(file)
    return os.read(file, _CHUNK)


async def _drain(source: "asyncssh.SSHReader[bytes]", file: int) -> None:
    while chunk := await source.read(_CHUNK):
        left = memoryview(chunk)
        while left:
            left = left[os.write(file, left) :]
