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
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gcloud_ops import ssh
from gcloud_ops.clients import Clients
from gcloud_ops.errors import (
    ContainerFailed,
    GcloudOpsError,
    HostKeyMismatch,
    PermissionDenied,
    Unavailable,
)
from gcloud_ops.groups import host_keys
from gcloud_ops.model import CONTAINER

__all__ = ["AT_ONCE", "CommandSent", "DispatchFailed", "Dispatcher", "raise_open_files_limit"]

AT_ONCE = 64
"""Handshakes and commands under way at once."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries on one instance


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSent:
    """An experiment has its command."""

    experiment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchFailed:
    """An experiment can't be given its command; trying on would not help."""

    experiment: str
    error: GcloudOpsError


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

    def send(self, experiment: str, command: str, *, address: str, zone: str) -> None:
        """Take up an experiment whose instance is up at `address`; returns at once."""
        delivery = asyncio.run_coroutine_threadsafe(
            self._deliver(experiment, command, address, zone), self._loop
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
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _deliver(self, experiment: str, command: str, address: str, zone: str) -> None:
        try:
            await self._until_sent(experiment, command, address, zone)
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

    async def _until_sent(self, experiment: str, command: str, address: str, zone: str) -> None:
        """Try until it works: sshd, docker, image and runner come up one after the other."""
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        keys: tuple[str, ...] = ()
        while True:
            try:
                keys = keys or await self._published_keys(experiment, zone)
                await self._connect_and_submit(experiment, command, address, keys, deadline)
            except (Unavailable, ContainerFailed) as error:
                if time.monotonic() + pause > deadline:
                    raise type(error)(
                        f"{experiment}: not ready after {self._patience:.0f} s: {error.message}",
                        resource=f"instance {experiment}",
                        hint=error.hint,
                    ) from error
            except (HostKeyMismatch, PermissionDenied):
                raise
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _published_keys(self, experiment: str, zone: str) -> tuple[str, ...]:
        async with self._slots:
            keys = await asyncio.to_thread(host_keys, self._clients, experiment, zone=zone)
        if not keys:
            raise Unavailable(f"{experiment}: no host key is published yet")
        return keys

    async def _connect_and_submit(
        self,
        experiment: str,
        command: str,
        address: str,
        keys: tuple[str, ...],
        deadline: float,
    ) -> None:
        """One connection, held until the container has taken the command or the line is cut."""
        async with contextlib.AsyncExitStack() as stack:
            async with self._slots:
                connection = await stack.enter_async_context(
                    ssh.connect(address, experiment, keys, self._clients.settings, timeout=30.0)
                )
            pause = _FIRST_PAUSE
            while True:
                try:
                    async with self._slots:
                        await connection.submit(CONTAINER, command)
                except ContainerFailed:
                    if time.monotonic() + pause > deadline:
                        raise
                else:
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)


def raise_open_files_limit(wanted: int) -> None:
    """Let this process hold `wanted` connections, as far as its hard limit allows."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        ceiling = hard if hard != resource.RLIM_INFINITY else wanted
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, ceiling), hard))
