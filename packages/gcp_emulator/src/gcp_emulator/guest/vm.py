"""A VM: boots a small Container-Optimized OS, answers SSH, runs its containers, shuts down."""

import asyncio
import ipaddress
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from gcp_emulator.docker.command import Docker
from gcp_emulator.docker.containers import Containers
from gcp_emulator.docker.engine import Engine
from gcp_emulator.docker.streams import Streams
from gcp_emulator.guest.cos import SHELL_TOOLS, Guest
from gcp_emulator.guest.shims import Shims
from gcp_emulator.guest.ssh import SshServer, authorized_keys
from gcp_emulator.guest.startup import StartupScripts


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """Which VM it is."""

    name: str
    id: str
    project: str
    zone: str
    address: str
    """A loopback address of its own (Linux lets any of 127.0.0.0/8 be bound)."""
    machine_type: str


class Vm:
    """One VM, from power-on to power-off; it is not used again after `shutdown`.

    Args:
        spec: Which VM it is.
        metadata: Its attributes: ``user-data``, ``startup-script``, ``startup-script-url``,
            ``ssh-keys``, ``enable-guest-attributes``.
        engine: What runs its containers.
        folder: Its disk, a folder of its own: ``root`` is its ``/``, ``containers`` has a folder
            for each container. Another `Vm` with the same folder is this one after a reboot.
        ssh_port: Where its SSH server listens, on its own address.
        metadata_port: Where its metadata server listens (somebody else's work).
        environment: What every container gets besides what it is given, such as endpoints.
        boot_seconds: From power-on to SSH.
        pull_seconds: How long the pull of an image takes.
        record: Told what happens: ``ssh`` (the server answers), ``container`` (one runs),
            ``container-exit``, ``exec`` (a program is executed in a container).
        images: Entry points of images, by the last part of their names.
        refusal: Why the pull of an image fails; None if it does not.
        programs: Folders that come first on every container's PATH.
        admits: Whether its SSH server answers a peer of this address.

    Raises:
        ValueError: The address is not a loopback address: nothing of a local cloud is public.

    `guest_attributes` is namespace -> key -> value, as the guest writes them (the metadata server
    writes here too); `serial` is what its serial port has shown.
    """

    def __init__(
        self,
        spec: VmSpec,
        *,
        metadata: Mapping[str, str],
        engine: Engine,
        folder: Path,
        ssh_port: int,
        metadata_port: int,
        environment: Mapping[str, str],
        boot_seconds: float,
        pull_seconds: float,
        record: Callable[[str], None],
        images: Mapping[str, tuple[str, ...]] | None = None,
        refusal: Callable[[str], Awaitable[str | None]] | None = None,
        programs: Sequence[Path] = (),
        admits: Callable[[str], bool] = lambda _peer: True,
    ) -> None:
        if not ipaddress.ip_address(spec.address).is_loopback:
            raise ValueError(f"{spec.name}: {spec.address} is no loopback address")
        self.spec = spec
        self.guest_attributes: dict[str, dict[str, str]] = {}
        self.serial = bytearray()
        self._metadata = dict(metadata)
        self._folder = folder
        self._ssh_port = ssh_port
        self._admits = admits
        self._boot_seconds = boot_seconds
        self._record = record
        metadata_address = f"{spec.address}:{metadata_port}"
        environment = {
            **environment,
            "GCE_METADATA_HOST": metadata_address,
            "GCE_METADATA_IP": metadata_address,
        }
        self._containers = Containers(
            engine=engine,
            folder=folder / "containers",
            hostname=spec.name,
            environment=environment,
            record=record,
            programs=programs,
        )
        root = folder / "root"
        self._docker = Docker(
            containers=self._containers,
            root=root,
            pull_seconds=pull_seconds,
            record=record,
            images=images,
            refusal=refusal,
            images_file=folder / "images.json",
        )
        self._guest = Guest(
            name=spec.name,
            root=root,
            docker=self._docker,
            engine=engine,
            console=self._print,
            # The shims need the guest, and the guest the shims.
            shims=self._shims_folder,
            mark=f"vm-{spec.id}-{time.time_ns()}",
            endpoints=environment,
        )
        self._shims = Shims(names=SHELL_TOOLS, run=self._guest.execute)
        self._startup = StartupScripts(self._guest, environment=environment, runs=engine.shell)
        self._ssh: SshServer | None = None
        self._booting: asyncio.Task[None] | None = None
        self._setting_up: asyncio.Task[None] | None = None
        self._shutting_down: asyncio.Task[None] | None = None

    async def boot(self) -> None:
        """Boot; returns once SSH answers, while cloud-init and the container may still be at work.

        Returns early, too, when `shutdown` is called meanwhile.

        Raises:
            OSError: Its address and port can't be bound, or its folder can't be written.
        """
        if self._shutting_down is not None:
            return
        self._booting = asyncio.create_task(self._boot())
        try:
            await asyncio.shield(self._booting)
        except asyncio.CancelledError:
            if not self._booting.cancelled():
                self._booting.cancel()
                raise
            if self._shutting_down is None:
                raise

    async def shutdown(self, grace: float) -> None:
        """Power off as ACPI does: SIGTERM to the containers, `grace` seconds, SIGKILL.

        Closes SSH and leaves no process. Right in any phase; when it is called again, the
        shorter grace counts.
        """
        if self._shutting_down is None:
            self._shutting_down = asyncio.create_task(self._shutdown(grace))
        _done, late = await asyncio.wait([self._shutting_down], timeout=grace)
        if late:
            await self.kill_containers()
        await asyncio.shield(self._shutting_down)

    def update_metadata(self, metadata: Mapping[str, str]) -> None:
        """Take new metadata; ``ssh-keys`` counts at once, the rest at the next boot."""
        self._metadata = dict(metadata)
        if self._ssh is not None:
            self._ssh.keys = authorized_keys(self._metadata.get("ssh-keys", ""))

    async def suffer(self, fault: str, *, on: bool) -> None:
        """Have a fault (``refuse-ssh``, ``hang-ssh``, ``disk-full``), or have it no more.

        ``cut-ssh`` and ``kill-container`` are of the moment, and can't be ended. Those of SSH do
        nothing before its server is up.
        """
        match fault:
            case "refuse-ssh":
                self.refuse_ssh(on)
            case "hang-ssh" if self._ssh is not None:
                await self._ssh.hang(on)
            case "cut-ssh" if on:
                self.cut_ssh()
            case "kill-container" if on:
                await self.kill_containers()
            case "disk-full":
                await self._containers.fill_disk(on)

    async def lose_power(self) -> None:
        """End all that runs without a word to it; `shutdown` then does the rest."""
        self.cut_ssh()
        # No unit may see that its container has ended, and act.
        await self._guest.close()
        await self._containers.kill()

    def refuse_ssh(self, refusing: bool) -> None:
        """A fault: close (or answer again) each new SSH connection."""
        if self._ssh is not None:
            self._ssh.refusing = refusing

    def cut_ssh(self) -> None:
        """A fault: cut all SSH connections."""
        if self._ssh is not None:
            self._ssh.cut()

    async def kill_containers(self) -> None:
        """A fault: SIGKILL every container, as a lack of memory does."""
        for container in tuple(self._containers):
            if container.task is not None and container.running:
                container.task.signal(9)

    async def _boot(self) -> None:
        self._guest.say(f"Booting {self.spec.name} ({self.spec.machine_type})")
        await asyncio.sleep(self._boot_seconds)
        key = self._host_key()
        await self._guest.mount()
        if self._metadata.get("enable-guest-attributes", "").upper() == "TRUE":
            kind, public = key.export_public_key().decode().split()[:2]
            self.guest_attributes.setdefault("hostkeys", {})[kind] = public
        self._ssh = SshServer(host_key=key, run=self._session, admits=self._admits)
        self.update_metadata(self._metadata)
        await self._ssh.listen(self.spec.address, self._ssh_port)
        self._guest.say("systemd[1]: Started OpenSSH server daemon.")
        self._record("ssh")
        self._setting_up = asyncio.create_task(self._set_up())
        self._setting_up.add_done_callback(self._set_up_ended)

    async def _set_up(self) -> None:
        """What runs at each boot: containers that start by themselves, cloud-init, scripts.

        cloud-init does all of its modules at each boot, once-per-instance ones too: its notes
        of what it has done are in memory, as is what it wrote to ``/etc``.
        """
        await self._containers.boot()
        await self._guest.cloud_init(self._metadata.get("user-data", ""))
        await self._startup(self._metadata)

    async def _shutdown(self, grace: float) -> None:
        self._guest.say("systemd[1]: System is powering down.")
        for task in (self._booting, self._setting_up):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        # No unit may restart what is about to be stopped.
        await self._guest.close()
        await self._containers.close(grace)
        if self._ssh is not None:
            await self._ssh.close()
        await self._guest.close()
        await self._docker.close()
        await self._shims.close()

    async def _session(self, user: str, command: str | None, streams: Streams) -> int:
        environment = {"USER": user, "HOME": f"/home/{user}"}
        if command is None:
            return await self._guest.shell(None, streams, environment)
        return await self._guest.line(command, streams, environment)

    async def _shims_folder(self) -> Path:
        return await self._shims.folder()

    def _host_key(self) -> asyncssh.SSHKey:
        """The host key on its disk: it survives a stop and start."""
        path = self._folder / "ssh_host_ed25519_key"
        with suppress(FileNotFoundError):
            return asyncssh.import_private_key(path.read_bytes())
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / "root").mkdir(exist_ok=True)
        key = asyncssh.generate_private_key("ssh-ed25519", comment=self.spec.name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key())
        return key

    def _set_up_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._guest.say(f"systemd[1]: the local cloud failed: {task.exception()!r}")

    def _print(self, line: str) -> None:
        self.serial += line.encode("utf-8", "replace") + b"\r\n"
