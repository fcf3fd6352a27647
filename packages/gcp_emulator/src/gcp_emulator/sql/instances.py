"""The instances of the cloud: what is kept of each, the server behind it, and its backups.

In the cloud's folder ``sql/``::

    instances/NAME/instance.json    the resource as the API shows it, and its backups
    instances/NAME/data ...         PostgreSQL's; see `gcp_emulator.sql.postgres`
    instances/NAME/backups/ID       whole copies of the cluster
    sockets/...                     unix sockets, if their paths are short enough there

An instance exists from the moment its ``instance.json`` does: what a killed cloud left half made
is removed by the next one.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gcp_emulator.iam.kept import keep, make_private, read_kept
from gcp_emulator.replies import GoogleError, Json
from gcp_emulator.sql.content import furnish
from gcp_emulator.sql.operations import timestamp
from gcp_emulator.sql.postgres import Postgres, PostgresError, forget_sockets, socket_folder

__all__ = ["Instance", "Instances"]

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True, kw_only=True)
class Instance:
    """One instance."""

    resource: Json
    """As the API shows it; no password is in it."""
    server: Postgres
    backups: dict[str, Json] = field(default_factory=dict)
    """Backup runs by id, oldest first."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.resource["name"])

    @property
    def is_protected(self) -> bool:
        """Whether it refuses to be deleted."""
        return bool(self.resource["settings"].get("deletionProtectionEnabled"))

    @property
    def is_stopped(self) -> bool:
        """Whether its owner has stopped it; its state is RUNNABLE all the same."""
        return bool(self.resource["settings"].get("activationPolicy") == "NEVER")

    def backup_folder(self, number: str) -> Path:
        """Where the copy of a backup is."""
        return self.server.home / "backups" / number


class Instances:
    """All instances of the project.

    Args:
        folder: The cloud's ``sql``.
        environment: Variables of the servers' processes.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._all: dict[str, Instance] = {}

    async def start(self) -> None:
        """Bring up what is kept; an instance whose server does not start is FAILED."""
        homes = sorted(self._homes.iterdir()) if self._homes.is_dir() else []
        for home in homes:
            kept = None if home.name.startswith(".") else read_kept(home / "instance.json")
            if kept is None:
                await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
                continue
            backups = {str(run["id"]): run for run in kept["backups"]}
            self._all[home.name] = Instance(
                resource=kept["resource"], server=self._server(home.name), backups=backups
            )
        await asyncio.gather(*(self._resume(one) for one in self._all.values()))

    async def close(self) -> None:
        """Stop all servers."""
        servers = [one.server for one in self._all.values()]
        ends = await asyncio.gather(*(one.stop() for one in servers), return_exceptions=True)
        for error in ends:
            if isinstance(error, BaseException):
                _log.error("a server did not end: %s", error)
        await asyncio.to_thread(forget_sockets, self._folder)

    def get(self, name: str) -> Instance:
        """The instance of this name, or 404."""
        if name not in self._all:
            raise GoogleError(
                404, "instanceDoesNotExist", "The Cloud SQL instance does not exist."
            )
        return self._all[name]

    def list(self) -> "list[Instance]":
        """All, by name."""
        return [self._all[name] for name in sorted(self._all)]

    def __contains__(self, name: str) -> bool:
        """Whether there is one of this name, even one that is being made or deleted."""
        return name in self._all

    def add(self, resource: Json) -> Instance:
        """An instance that `create` will make; its name is taken from now on."""
        name = str(resource["name"])
        self._all[name] = Instance(resource=resource, server=self._server(name))
        return self._all[name]

    async def create(self, instance: Instance, *, verifier: str | None) -> None:
        """Make the server of a new instance; RUNNABLE afterwards, or FAILED.

        Raises:
            PostgresError: It could not be made.
        """
        await asyncio.to_thread(shutil.rmtree, instance.server.home, ignore_errors=True)
        make_private(instance.server.home)
        try:
            await instance.server.create()
            await furnish(instance.server, verifier=verifier)
        except PostgresError:
            instance.resource["state"] = "FAILED"
            raise
        instance.resource["state"] = "RUNNABLE"
        self.save(instance)

    async def change(self, instance: Instance, settings: Json) -> None:
        """Give an instance other settings, and start or stop it as they want."""
        instance.resource["settings"] = settings
        self.save(instance)
        if instance.is_stopped:
            await instance.server.stop()
        elif not instance.server.is_running:
            await self._resume(instance)

    async def delete(self, instance: Instance) -> None:
        """Remove an instance with all of its data and backups."""
        instance.resource["state"] = "PENDING_DELETE"
        await instance.server.stop()
        home = instance.server.home
        if home.exists():
            away = home.with_name(f".{home.name}")
            await asyncio.to_thread(shutil.rmtree, away, ignore_errors=True)
            home.rename(away)
            await asyncio.to_thread(shutil.rmtree, away, ignore_errors=True)
        await asyncio.to_thread(shutil.rmtree, instance.server.sockets, ignore_errors=True)
        del self._all[instance.name]

    async def restart(self, instance: Instance) -> None:
        """Stop the server and start it again.

        Raises:
            PostgresError: It did not start.
        """
        await instance.server.stop()
        await self._resume(instance)
        if not instance.server.is_running:
            raise PostgresError("PostgreSQL did not start again")

    async def back_up(self, instance: Instance, run: Json) -> None:
        """Carry out a backup run; SUCCESSFUL afterwards, or FAILED.

        Raises:
            PostgresError: It failed.
        """
        run["status"] = "RUNNING"
        run["startTime"] = timestamp()
        try:
            size = await instance.server.copy_to(instance.backup_folder(run["id"]))
        except PostgresError as error:
            run["status"] = "FAILED"
            run["error"] = {"kind": "sql#operationError", "message": str(error)}
            raise
        finally:
            run["endTime"] = timestamp()
        run["status"] = "SUCCESSFUL"
        run["maxChargeableBytes"] = str(size)
        self.save(instance)

    async def delete_backup(self, instance: Instance, number: str) -> None:
        """Remove a backup."""
        del instance.backups[number]
        self.save(instance)
        folder = instance.backup_folder(number)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def restore(self, instance: Instance, source: Path) -> None:
        """Replace an instance's data by a backup.

        Raises:
            PostgresError: It was not; the instance has its old data, or is FAILED.
        """
        instance.resource["state"] = "MAINTENANCE"
        try:
            await instance.server.replace_by(source)
        finally:
            is_up = instance.server.is_running
            instance.resource["state"] = "RUNNABLE" if is_up else "FAILED"

    def save(self, instance: Instance) -> None:
        """Keep what the API shows of an instance."""
        done = [run for run in instance.backups.values() if run["status"] == "SUCCESSFUL"]
        kept = {"resource": instance.resource, "backups": done}
        keep(instance.server.home / "instance.json", kept)

    @property
    def _homes(self) -> Path:
        return self._folder / "instances"

    def _server(self, name: str) -> Postgres:
        return Postgres(
            self._homes.resolve() / name,
            sockets=socket_folder(self._folder, name),
            environment=self._environment,
        )

    async def _resume(self, instance: Instance) -> None:
        if instance.is_stopped:
            return
        with contextlib.suppress(PostgresError):
            await instance.server.start()
        is_up = instance.server.is_running
        if not is_up:
            _log.error("Cloud SQL instance %s did not start", instance.name)
        instance.resource["state"] = "RUNNABLE" if is_up else "FAILED"
