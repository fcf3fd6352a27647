"""`Monitoring`: Cloud Monitoring, on the cloud's port and on a port of its own for gRPC."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from gcp_emulator.faults import Faults
from gcp_emulator.iam.api import Iam
from gcp_emulator.iam.errors import invalid_argument
from gcp_emulator.iam.kept import make_private
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.channels import Channels
from gcp_emulator.monitoring.delivery import Inbox
from gcp_emulator.monitoring.incidents import Incidents
from gcp_emulator.monitoring.metrics import Metrics
from gcp_emulator.monitoring.policies import Policies, condition_part, is_told_of_closing
from gcp_emulator.monitoring.texts import Incident, Notification, notification
from gcp_emulator.monitoring.wire import Method, Wire
from gcp_emulator.replies import Json

__all__ = ["Monitoring"]

_log = logging.getLogger(__name__)

FOLDER: Final = "monitoring"
"""In the cloud's folder; with a folder for each project that it has had."""
_TICK: Final = 1.0
_PAUSE: Final = 0.02
_TIDY_SECONDS: Final = 600.0


class Monitoring:
    """Metrics, alert policies, channels, incidents; all but points is kept in the folder.

    Args:
        folder: The cloud's.
        project: The project's id.
        number: Its number.
        iam: Who calls, and which APIs are enabled.
        faults: What fails on demand.
        descriptor_seconds: How long it takes until policies can use a new metric.
        smtp: Host and port of the SMTP server for e-mails.
        now: The time, in seconds since 1970.

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
        smtp: tuple[str, int] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        place = make_private(folder / FOLDER / project)
        self._project = Project(id=project, number=number, created="")
        self._now = now
        self._wake = asyncio.Event()
        self._wire = Wire(self._project, access=iam.access, services=iam.services, faults=faults)
        self._metrics = Metrics(
            self._project,
            place / "descriptors.json",
            descriptor_seconds=descriptor_seconds,
            written=self._wake.set,
            now=now,
        )
        self._channels = Channels(
            self._project,
            place / "channels.json",
            users_of=self._users_of,
            let_go=self._let_go,
            send_code=self._send_code,
            now=now,
        )
        self._policies = Policies(
            self._project,
            place / "policies.json",
            is_known=self._metrics.is_known,
            find_channel=self._channels.find,
            changed=self._wake.set,
            now=now,
        )
        self._incidents = Incidents(
            place / "incidents.json",
            policies=lambda: self._policies.enabled,
            store=self._metrics.store,
            tell=self._tell,
            now=now,
        )
        self._inbox = Inbox(place / "inbox.json", smtp=smtp, changed=self._wake.set, now=now)
        self._watch: asyncio.Task[None] | None = None

    @property
    def inbox(self) -> list[Json]:
        """What was sent, oldest first, and what became of it."""
        return self._inbox.entries

    def add_routes(self, app: web.Application) -> None:
        """Add what is called over REST."""
        self._wire.add_routes(app, self._methods)
        alerts = "monitoring.projects.alerts"
        self._wire.add_json_route(
            app, of="projects/*", after="/alerts", api_name=f"{alerts}.list", run=self._list_alerts
        )
        self._wire.add_json_route(
            app, of="projects/*/alerts/*", api_name=f"{alerts}.get", run=self._get_alert
        )

    async def start(self, host: str) -> int:
        """Listen for gRPC, and evaluate from now on; the port."""
        port = await self._wire.start(host, self._methods)
        self._watch = asyncio.create_task(self._evaluate())
        return port

    async def close(self) -> None:
        """End."""
        await self._wire.stop()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._inbox.close()

    @property
    def _methods(self) -> list[Method]:
        return [
            *self._metrics.methods(),
            *self._channels.methods(),
            *self._policies.methods(),
        ]

    async def _evaluate(self) -> None:
        """Evaluate whenever something was written or changed, and as time goes by."""
        tidied = self._now()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._wake.wait(), None if self._incidents.is_idle else _TICK
                )
            self._wake.clear()
            try:
                self._incidents.evaluate()
                self._inbox.save()
                if self._now() >= tidied + _TIDY_SECONDS:
                    tidied = self._now()
                    self._metrics.store.forget_older(tidied)
            except Exception:
                _log.exception("the evaluation of alert policies failed")
            await asyncio.sleep(_PAUSE)

    def _tell(self, incident: Incident, policy: Any) -> None:
        """Notify the policy's channels."""
        if incident.closed and not is_told_of_closing(policy):
            return
        found = [c for c in policy.conditions if c.name == incident.condition]
        part = condition_part(found[0]) if found else None
        message = notification(
            incident,
            policy,
            project=self._project.id,
            number=self._project.number,
            metric_name=self._metrics.display_name(incident.metric),
            threshold=getattr(part, "threshold_value", None),
        )
        for name in policy.notification_channels:
            channel = self._channels.find(name)
            if channel is not None:
                self._inbox.send(channel, message, why_not=self._channels.why_not(channel))

    def _send_code(self, channel: Any, code: str) -> None:
        text = f"{code} is your Google Cloud Monitoring verification code."
        body = {"version": "1.2", "verification": {"code": code}}
        self._inbox.send(
            channel, Notification(event="VERIFICATION", subject=text, text=text + "\n", body=body)
        )

    def _list_alerts(self, name: str, query: Mapping[str, str]) -> Json:
        size = query.get("pageSize") or "0"
        if not size.isdecimal():
            raise invalid_argument(f'Field page_size had an invalid value of "{size}".')
        return self._incidents.list_alerts(
            name,
            filter_text=query.get("filter", ""),
            order_by=query.get("orderBy", ""),
            size=min(int(size) or 50, 1_000),
            token=query.get("pageToken", ""),
        )

    def _get_alert(self, name: str, query: Mapping[str, str]) -> Json:
        del query
        project, _, alert = name.rpartition("/alerts/")
        return self._incidents.get_alert(project, alert)

    def _users_of(self, channel: str) -> list[str]:
        return self._policies.users_of(channel)

    def _let_go(self, channel: str) -> None:
        self._policies.let_go(channel)
