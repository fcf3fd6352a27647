"""`Monitoring`: Cloud Monitoring, on the cloud's port and on a port of its own for gRPC."""

from pathlib import Path
from typing import Final

from aiohttp import web

from gcp_emulator.faults import Faults
from gcp_emulator.iam.api import Iam
from gcp_emulator.iam.kept import make_private
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.channels import Channels
from gcp_emulator.monitoring.metrics import Metrics
from gcp_emulator.monitoring.policies import Policies
from gcp_emulator.monitoring.wire import Method, Wire

__all__ = ["Monitoring"]

FOLDER: Final = "monitoring"
"""In the cloud's folder; with a folder for each project that it has had."""


class Monitoring:
    """Metrics, alert policies and channels; all but points is kept in the folder.

    Args:
        folder: The cloud's.
        project: The project's id.
        number: Its number.
        iam: Who calls, and which APIs are enabled.
        faults: What fails on demand.
        descriptor_seconds: How long it takes until policies can use a new metric.

    Raises:
        ValueError: What is in the folder can't be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str,
        number: str,
        iam: Iam,
        faults: Faults,
        descriptor_seconds: float = 0.0,
    ) -> None:
        place = make_private(folder / FOLDER / project)
        known = Project(id=project, number=number, created="")
        self._wire = Wire(known, access=iam.access, services=iam.services, faults=faults)
        self._metrics = Metrics(
            known, place / "descriptors.json", descriptor_seconds=descriptor_seconds
        )
        self._channels = Channels(
            known,
            place / "channels.json",
            users_of=self._users_of,
            let_go=self._let_go,
        )
        self._policies = Policies(
            known,
            place / "policies.json",
            is_known=self._metrics.is_known,
            find_channel=self._channels.find,
        )

    def add_routes(self, app: web.Application) -> None:
        """Add what is called over REST."""
        self._wire.add_routes(app, self._methods)

    async def start(self, host: str) -> int:
        """Listen for gRPC; on which port."""
        return await self._wire.start(host, self._methods)

    async def close(self) -> None:
        """End."""
        await self._wire.stop()

    @property
    def _methods(self) -> list[Method]:
        return [
            *self._metrics.methods(),
            *self._channels.methods(),
            *self._policies.methods(),
        ]

    def _users_of(self, channel: str) -> list[str]:
        return self._policies.users_of(channel)

    def _let_go(self, channel: str) -> None:
        self._policies.let_go(channel)
