"""Send each experiment its command, into its container, as soon as its own instance is ready.

One event loop on one thread holds all connections. A slow instance holds up no other: the limit
on how much goes on at once is taken only while something does go on (a handshake, a command),
never while waiting for an instance to become ready.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gcloud_ops import ssh
from gcloud_ops.clients import Clients
from gcloud_ops.contract import CONTAINER
from gcloud_ops.errors import ContainerFailed, GcloudOpsError, PermissionDenied, Unavailable
from gcloud_ops.instances import host_keys
from gcloud_ops.model import Instance

__all__ = ["AT_ONCE", "CommandSent", "DispatchFailed", "Dispatcher", "raise_open_files_limit"]

AT_ONCE = 64
"""Handshakes and commands under way at once."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 1.0  # seconds between two tries on one instance
_TRIES_A_SECOND = 200  # on all instances together
_OTHER_COMMAND = 3  # exit code of `sinergym-runner submit`: docs/contract.md, section 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSent:
    """An experiment has its command."""

    experiment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchFailed:
    """An experiment can't be given its command; trying on would not help."""

    experiment: str
    error: GcloudOpsError

    @property
    def has_another_command(self) -> bool:
        """Whether the container runs, with a command that is not ours."""
        return _has_another_command(self.error)


class Dispatcher:
    """Delivers commands; use as a context manager.

    Args:
        clients: Reads the instances' published host keys.
        patience: Seconds that an instance has, once it is up, until it must have its command.
        at_once: Handshakes and commands under way at once, at most.

    Results come through `results`, a queue of `CommandSent` and `DispatchFailed`.
    """

    def __init__(self, clients: Clients, *, patience: float, at_once: int = AT_ONCE) -> None:
        self._clients = clients
        self._patience = patience
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._deliveries: set[Future[None]] = set()
        self._slots = asyncio.Semaphore(at_once)
        self.results: queue.SimpleQueue[CommandSent | DispatchFailed] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for delivery in tuple(self._deliveries):
            delivery.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def send(self, experiment: str, command: str, *, instance: Instance) -> None:
        """Take up an experiment whose instance is up; returns at once."""
        delivery = asyncio.run_coroutine_threadsafe(
            self._deliver(experiment, command, instance), self._loop
        )
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and starts no thread more
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _deliver(self, experiment: str, command: str, instance: Instance) -> None:
        try:
            await self._send(command, instance)
        except GcloudOpsError as error:
            self.results.put(DispatchFailed(experiment=experiment, error=error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A defect in one delivery must not leave the launcher waiting for its result.
            wrapped = ContainerFailed(f"{experiment}: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self.results.put(DispatchFailed(experiment=experiment, error=wrapped))
        else:
            self.results.put(CommandSent(experiment=experiment))

    async def _send(self, command: str, instance: Instance) -> None:
        """Try until it works: sshd, docker, image and runner come up one after the other."""
        deadline = time.monotonic() + self._patience
        keys: tuple[str, ...] = ()

        async def connect_and_submit() -> None:
            nonlocal keys
            keys = keys or await self._published_keys(instance)
            async with contextlib.AsyncExitStack() as stack:
                async with self._slots:
                    connection = await stack.enter_async_context(
                        ssh.reach(self._clients, instance, keys, timeout=30.0)
                    )

                async def submit() -> None:
                    async with self._slots:
                        await connection.submit(CONTAINER, command)

                # One connection serves all tries, until the container has taken the command.
                await self._until(submit, deadline, (ContainerFailed,))

        # Accounts come some seconds after sshd (the guest agent makes them from `ssh-keys`),
        # so a refusal, too, may be only for now.
        passing = (Unavailable, PermissionDenied, ContainerFailed)
        await self._until(connect_and_submit, deadline, passing)

    async def _until(
        self,
        attempt: Callable[[], Awaitable[None]],
        deadline: float,
        passing: tuple[type[GcloudOpsError], ...],
    ) -> None:
        """Repeat an attempt until it works, fails for good, or the deadline is near."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await attempt()
            except passing as error:
                if _has_another_command(error) or time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            # With many at it, each asks less often: together they cost the same.
            longest = max(_LONGEST_PAUSE, len(self._deliveries) / _TRIES_A_SECOND)
            pause = min(pause * 1.5, longest)

    async def _published_keys(self, instance: Instance) -> tuple[str, ...]:
        name, zone = instance.name, instance.zone
        async with self._slots:
            keys = await asyncio.to_thread(host_keys, self._clients, name, zone=zone)
        if not keys:
            raise Unavailable(f"{name}: no host key is published", resource=f"instance {name}")
        return keys


def _has_another_command(error: GcloudOpsError) -> bool:
    """Whether the container has another command already: trying on is of no use."""
    return isinstance(error, ssh.CommandFailed) and error.exit_code == _OTHER_COMMAND


def raise_open_files_limit(wanted: int) -> None:
    """Let this process hold `wanted` connections, as far as its hard limit allows."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        ceiling = hard if hard != resource.RLIM_INFINITY else wanted
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, ceiling), hard))
