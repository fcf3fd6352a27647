"""`LocalCloud`: one loopback port for all Google APIs, and everything behind it.

Built on aiohttp alone: its sites can be added and removed while it runs, which the metadata
servers need (one for each instance), and one HTTP stack is enough.

    async with LocalCloud(folder, engine="inert") as cloud:
        ...  # cloud.endpoint is "http://127.0.0.1:PORT"

Templates, addresses, firewall rules and buckets are kept in the folder; instances and groups end
with the cloud.
"""

import asyncio
import contextlib
import errno
import functools
import ipaddress
import logging
import os
import secrets
import shutil
import socket
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from gcp_emulator.companions import mark
from gcp_emulator.compute.addresses import Addresses
from gcp_emulator.compute.api import Compute
from gcp_emulator.compute.disks import Disks
from gcp_emulator.compute.groups import Groups
from gcp_emulator.compute.instances import Instances
from gcp_emulator.compute.lifecycle import Lifecycle
from gcp_emulator.compute.metadata import MetadataServers
from gcp_emulator.compute.networks import Networks
from gcp_emulator.compute.nouns import Instance, Machine
from gcp_emulator.compute.operations import Operations
from gcp_emulator.compute.power import MakeMachine, Sites
from gcp_emulator.compute.rest import Rest
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import now
from gcp_emulator.control import Control
from gcp_emulator.docker.engine import make_engine
from gcp_emulator.docker.manifests import Images
from gcp_emulator.docker.words import DockerError, manifest_unknown, parse_program
from gcp_emulator.faults import Faults
from gcp_emulator.gates import Gates
from gcp_emulator.guest.vm import Vm, VmSpec
from gcp_emulator.iam.api import Iam
from gcp_emulator.monitoring.api import Monitoring
from gcp_emulator.network.entrances import Entrances
from gcp_emulator.network.relay import ORIGIN, Relay
from gcp_emulator.registry import Registry
from gcp_emulator.replies import GoogleError, Json
from gcp_emulator.sql.api import CloudSql
from gcp_emulator.sql.proxy import proxy_folder
from gcp_emulator.storage.api import Storage

type Route = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)

_LARGEST_BODY = 8 << 30


class LocalCloud:
    """A whole cloud in this process, from `start` to `stop`.

    Args:
        folder: Where templates and buckets are kept, and disks of instances while they live.
        project: The only project.
        zone: The zone that is told to people; all of the catalog's can be used.
        engine: ``process``: containers are local processes that really work;
            ``inert``: states only.
        capacity: How many instances of groups can run at once; None for no limit; by default the
            number of the host's processors for ``process``, and no limit for ``inert``.
        host: A loopback address.
        port: The port of the Google APIs; 0 for a free one.
        boot_seconds: How long an instance takes until its SSH server is up.
        pull_seconds: How long it takes to get the container's image.
        operation_seconds: How long the shortest operation takes.
        repair_seconds: How soon a group sees that an instance of its is gone.
        database_seconds: How long Cloud SQL takes to make an instance, at the least.
        descriptor_seconds: How long Cloud Monitoring takes until policies can use a new metric.
        grace_seconds: What containers have to end when their instance is deleted.
        smtp: Host and port of an SMTP server on loopback that e-mails of Cloud Monitoring go to;
            without one they stay in the inbox.
        images: Programs that are the entry points of images, by the last part of the image's name
            (``{"mlflow-server": "mlflow-infra-server"}``); other images have the engine's.
        known_images: The only images that there are, with registry and tag; by default each image
            that is asked for is there.
        make_machine: Makes the computer behind an instance, instead of `gcp_emulator.guest.vm.Vm`;
            metadata servers are opened for it as the engine wants.

    Raises:
        ValueError: The host is no loopback address, a name is not Google's, or the templates in
            the folder can't be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str = "local",
        zone: str = "europe-west1-b",
        engine: str = "process",
        capacity: int | Literal["default"] | None = "default",
        host: str = "127.0.0.1",
        port: int = 0,
        boot_seconds: float = 0.05,
        pull_seconds: float = 0.0,
        operation_seconds: float = 0.05,
        repair_seconds: float = 1.0,
        database_seconds: float = 1.0,
        descriptor_seconds: float = 0.0,
        grace_seconds: float = 30.0,
        smtp: tuple[str, int] | None = None,
        images: Mapping[str, str] | None = None,
        known_images: Collection[str] | None = None,
        make_machine: MakeMachine | None = None,
    ) -> None:
        _check_loopback(host)
        if capacity == "default":
            capacity = (os.cpu_count() or 1) if engine == "process" else None
        try:
            self.state = State(
                project=project,
                zone=zone,
                templates_file=folder / "templates.json",
                network_file=folder / "network.json",
            )
        except GoogleError as error:
            raise ValueError(error.message) from error
        self.iam = Iam(
            folder, project=project, number=self.state.project_number, seconds=operation_seconds
        )
        self.folder = folder
        self.engine = engine
        self.id = secrets.token_hex(8)
        self.started = now()
        self.faults = Faults()
        self.ending = asyncio.Event()
        """Set when somebody asked the cloud to end; whoever runs it calls `stop`."""
        self._host = host
        self._port = port
        self._boot_seconds = boot_seconds
        self._pull_seconds = pull_seconds
        self._engine = make_engine(engine)
        self._images = dict(parse_program(f"{k}={v}") for k, v in (images or {}).items())
        self._reserved = [_reserve_port(), _reserve_port()]
        self.ssh_port, self.metadata_port = (s.getsockname()[1] for s in self._reserved)
        self._gates = Gates(self.state, ssh_port=self.ssh_port)
        try:
            self._known_images = Images(known_images)
        except DockerError as error:
            raise ValueError(f"known image: {error.text}") from error
        self._entrances = Entrances(self._gates.entrances)
        self._relay = Relay(self._gates.backend)
        self._metadata = MetadataServers(
            self.state, port=self.metadata_port, token_given=self.iam.access.register
        )
        wants_metadata = self._engine.wants_metadata
        self._operations = Operations(self.state, seconds=operation_seconds)
        self.lifecycle = Lifecycle(
            self.state,
            self._operations,
            make_machine=make_machine or self._make_machine,
            sites=Sites(open=self._metadata.open, close=self._metadata.close)
            if wants_metadata
            else None,
            folder=self._disks,
            capacity=capacity,
            grace_seconds=grace_seconds,
            repair_seconds=repair_seconds,
            boot_patience=boot_seconds + 60.0,
        )
        self._sql = CloudSql(
            folder / "sql",
            project=project,
            number=self.state.project_number,
            zone=zone,
            endpoint=lambda: self.endpoint,
            environment=mark(folder),
            create_seconds=database_seconds,
            operation_seconds=operation_seconds,
        )
        self._monitoring = Monitoring(
            folder,
            project=project,
            number=self.state.project_number,
            iam=self.iam,
            faults=self.faults,
            descriptor_seconds=descriptor_seconds,
            smtp=smtp,
        )
        self._grpc_port = 0
        self._stack = contextlib.AsyncExitStack()

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``, once started."""
        return f"http://{self._host}:{self._port}"

    @property
    def grpc_endpoint(self) -> str:
        """``127.0.0.1:PORT``, where Cloud Monitoring speaks gRPC, once started."""
        return f"{self._host}:{self._grpc_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What Google's clients and gcloud need in order to find this cloud."""
        return {
            "STORAGE_EMULATOR_HOST": self.endpoint,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.endpoint}/compute/v1/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"{self.endpoint}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING": f"{self.endpoint}/",
            # As the real cloud-sql-proxy takes its option --sqladmin-api-endpoint.
            "CSQL_PROXY_SQLADMIN_API_ENDPOINT": f"{self.endpoint}/",
            # In the form of Google's own emulators; gRPC without TLS.
            "MONITORING_EMULATOR_HOST": self.grpc_endpoint,
        }

    @property
    def _disks(self) -> Path:
        return self.folder / "vms"

    @property
    def _programs(self) -> Path:
        """What images contain, and this machine does not: `cloud-sql-proxy`."""
        return self._disks / "_programs"  # no instance has a name with an underscore

    async def start(self) -> None:
        """Listen; returns when requests are answered.

        Raises:
            OSError: The port is taken.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.rmtree, self._disks, ignore_errors=True)
        proxy_folder(self._programs)
        app = web.Application(
            client_max_size=_LARGEST_BODY,
            middlewares=[
                self._guard,
                self.faults.middleware,
                self.iam.services.middleware,
                self.iam.enforcer.middleware,
            ],
        )
        self.iam.add_routes(app)
        rest = Rest(app, self.state, self._operations)
        Compute(self.state, self._operations, self.lifecycle.capacity).add_routes(rest)
        Instances(self.state, self.lifecycle, self._operations).add_routes(rest)
        Addresses(self.state, self._operations).add_routes(rest)
        Networks(self.state, self._operations).add_routes(rest)
        Disks(self.state, self._operations).add_routes(rest)
        for regional in (False, True):
            groups = Groups(self.state, self.lifecycle, self._operations, regional=regional)
            groups.add_routes(rest)
        storage = Storage(self.folder / "buckets", check_member=self.iam.accounts.check_member)
        self.iam.on_deleted(storage.rename_member)
        storage.add_routes(app)
        self._sql.add_routes(app)
        self._monitoring.add_routes(app)
        self._relay.add_routes(app)
        Registry(self._known_images).add_routes(app)
        control = Control(
            self.state,
            self.lifecycle,
            self.faults,
            describe=self._describe,
            shut_down=self.ending.set,
            inbox=lambda: self._monitoring.inbox,
            cut_relay=self._relay.cut,
        )
        control.add_routes(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        async with contextlib.AsyncExitStack() as stack:
            for reserved in self._reserved:
                stack.callback(reserved.close)
            stack.push_async_callback(storage.close)
            stack.push_async_callback(self._sql.close)
            await self._sql.start()
            stack.push_async_callback(self._monitoring.close)
            self._grpc_port = await self._monitoring.start(self._host)
            await self._metadata.start()
            stack.push_async_callback(self._metadata.stop)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            stack.push_async_callback(self._relay.close)
            stack.push_async_callback(self._operations.close)
            stack.push_async_callback(control.close)
            self.state.changed.append(self._entrances.update)
            await self._entrances.start()
            stack.push_async_callback(self._entrances.stop)
            site = web.TCPSite(runner, self._host, self._port, backlog=1_024)
            await site.start()
            self._port = runner.addresses[0][1]
            self.state.base = f"{self.endpoint}/compute/v1"
            self._stack = stack.pop_all()

    async def stop(self, *, grace: float = 10.0) -> None:
        """End everything: containers get SIGTERM and `grace` seconds; idempotent."""
        self.ending.set()
        await self.lifecycle.close(grace=grace)
        await self._stack.aclose()
        await asyncio.to_thread(shutil.rmtree, self._disks, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(grace=1.0)

    def _make_machine(self, instance: Instance, record: Callable[[str], None]) -> Machine:
        spec = VmSpec(
            name=instance.name,
            id=instance.id,
            project=self.state.project,
            zone=instance.zone,
            address=instance.address,
            machine_type=instance.machine_type,
        )
        return Vm(
            spec,
            metadata=instance.metadata,
            engine=self._engine,
            folder=self._disks / instance.name,
            ssh_port=self.ssh_port,
            metadata_port=self.metadata_port,
            environment={**self.environment, **mark(self.folder)},
            boot_seconds=self._boot_seconds,
            pull_seconds=self._pull_seconds,
            record=record,
            images=self._images,
            refusal=self._refuse_pull,
            programs=[self._programs],
            admits=functools.partial(self._gates.admits_ssh, instance),
        )

    async def _refuse_pull(self, image: str) -> str | None:
        unknown = manifest_unknown(image)
        refusal = await self.faults.refusal("docker.pull", image, otherwise=unknown)
        return refusal or (None if self._known_images.has(image) else unknown)

    def _describe(self) -> Json:
        return {
            "id": self.id,
            "pid": os.getpid(),
            "endpoint": self.endpoint,
            "grpc_endpoint": self.grpc_endpoint,
            "project": self.state.project,
            "zone": self.state.zone,
            "engine": self.engine,
            "ssh_port": self.ssh_port,
            "metadata_port": self.metadata_port,
            "started": self.started,
            "folder": str(self.folder),
        }

    @web.middleware
    async def _guard(self, request: web.Request, handler: Route) -> web.StreamResponse:
        """Refuse foreign hosts, say 501 to unknown routes, and turn a crash into Google's 500."""
        origin = request.headers.get("Origin")
        foreign = origin and origin != ORIGIN and not _is_local_page(origin)
        if foreign or not _is_loopback(request.url.host or ""):
            # A page in a browser could reach loopback: blindly, or under a name of its own
            # (DNS rebinding).
            message = f"Host {request.host!r} or origin {origin!r} is not of this machine"
            return GoogleError(403, "forbidden", message).to_response()
        if request.match_info.http_exception is not None:
            message = f"The local cloud does not know {request.method} {request.path}"
            _log.warning("%s", message)
            return GoogleError(501, "notImplemented", message).to_response()
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.path)
            message = f"{request.method} {request.path} failed in the local cloud: {error!r}"
            return GoogleError(500, "backendError", message).to_response()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local_page(origin: str) -> bool:
    try:
        return _is_loopback(urllib.parse.urlsplit(origin).hostname or "")
    except ValueError:
        return False


def _check_loopback(host: str) -> None:
    try:
        fits = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"host {host!r}: the local cloud listens on loopback only; use 127.0.0.1")


def _reserve_port() -> socket.socket:
    """Hold a port that is free on every address of this machine, and so on every instance's.

    The holder never listens. All clouds hold theirs on the same address: the kernel gives none
    of them the port of another.
    """
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # The kernel finds a port that nobody has on any address, and nothing listens.
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.bind(("127.0.0.1", port))
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return holder
