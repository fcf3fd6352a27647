"""An open connection to one instance: commands, streams, and Docker at the other end."""

import json
import shlex
import signal
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gcloud_ops.contract import CONTAINER
from gcloud_ops.errors import ContainerFailed, InvalidRequest, Unavailable
from gcloud_ops.model import Container
from gcloud_ops.text import one_line

if TYPE_CHECKING:
    import asyncssh

__all__ = ["CHUNK", "CommandFailed", "CompletedCommand", "Connection", "exit_code", "translate"]

BROKEN: Final = 255
"""Exit code of a command that ended in no other way, as with `ssh`."""

CHUNK: Final = 64 * 1024
"""Bytes that are read at once, at most."""


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
        with translate(self.instance, f"no answer within {timeout} s"):
            process = await self._start(command)
            try:
                ended = await process.wait(timeout=timeout)
            finally:
                process.close()
        self._check_ended(ended.exit_status, ended.exit_signal)
        return CompletedCommand(
            exit_code=exit_code(ended.exit_status, ended.exit_signal),
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
        with translate(self.instance, "the connection broke"):
            process = await self._start(command, stderr=asyncssh.STDOUT)
            try:
                while chunk := await process.stdout.read(CHUNK):
                    last = (last + chunk)[-1000:]
                    yield chunk
                await process.wait_closed()
            finally:
                if process.exit_status is None:
                    with suppress(OSError, asyncssh.Error):
                        process.terminate()
                process.close()
        self._check_ended(process.exit_status, process.exit_signal)
        code = exit_code(process.exit_status, process.exit_signal)
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


@contextmanager
def translate(instance: str, what: str) -> Iterator[None]:
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


def exit_code(status: int | None, ended_by: tuple[str, bool, str, str] | None) -> int:
    """The exit code of a command, as a shell tells it: 128 and its number for a signal."""
    if ended_by:
        number = getattr(signal, f"SIG{ended_by[0]}", None)
        return 128 + number if isinstance(number, int) else BROKEN
    return BROKEN if status is None else status


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def _last_line(text: str) -> str:
    """The last line that says something, harmless for a terminal."""
    return next((line for raw in reversed(text.splitlines()) if (line := one_line(raw))), "")
