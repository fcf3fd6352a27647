"""``/emulator/...``: what only a local cloud can do, and what it tells of itself.

GET    /emulator/status                      who it is, what runs, how many places are taken
GET    /emulator/stats      DELETE           number of calls by Google's method name
GET    /emulator/timeline                    when what happened to each instance:
                                             {"instances": [{"name", "id", "created":
                                             {"monotonic", "utc"}, "ssh", "booted",
                                             "container", "exec", "gone"}]}
GET    /emulator/faults     POST, DELETE     faults that wait for their calls (see `faults`)
GET    /emulator/inbox                       notifications of Cloud Monitoring, oldest first:
                                             {"messages": [{"time", "channel", "type", "to",
                                             "subject", "body", "state", "reason", ...}]}
POST   /emulator/capacity                    {"capacity": 2 | null, "zone": "..." (optional)}
POST   /emulator/instances/NAME/preempt      {"grace": 30}
POST   /emulator/iap/cut                     cut all connections of IAP's relay: {"cut": 2}
POST   /emulator/shutdown                    end the cloud
"""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from gcp_emulator.compute.lifecycle import Lifecycle
from gcp_emulator.compute.state import State, not_found
from gcp_emulator.faults import Faults, parse_fault
from gcp_emulator.replies import GoogleError, Json, json_body, json_response


class Control:
    """The routes below ``/emulator``.

    Args:
        state: What exists.
        lifecycle: What moves it.
        faults: Faults and counters.
        describe: What ``status`` tells of the cloud itself.
        shut_down: Called when the cloud shall end.
        inbox: The notifications that were sent.
        cut_relay: Cuts all connections of IAP's relay; how many there were.
    """

    def __init__(
        self,
        state: State,
        lifecycle: Lifecycle,
        faults: Faults,
        *,
        describe: Callable[[], Json],
        shut_down: Callable[[], None],
        inbox: Callable[[], list[Json]],
        cut_relay: Callable[[], int],
    ) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._faults = faults
        self._describe = describe
        self._shut_down = shut_down
        self._inbox = inbox
        self._cut_relay = cut_relay
        self._since = time.monotonic()
        self._preempting: set[asyncio.Task[None]] = set()

    def add_routes(self, app: web.Application) -> None:
        """Add them to the application."""
        app.add_routes(
            [
                web.get("/emulator/status", self._status),
                web.get("/emulator/stats", self._stats),
                web.delete("/emulator/stats", self._reset_stats),
                web.get("/emulator/timeline", self._timeline),
                web.get("/emulator/faults", self._list_faults),
                web.post("/emulator/faults", self._add_fault),
                web.delete("/emulator/faults", self._clear_faults),
                web.get("/emulator/inbox", self._list_inbox),
                web.post("/emulator/capacity", self._set_capacity),
                web.post("/emulator/instances/{name}/preempt", self._preempt),
                web.post("/emulator/iap/cut", self._cut_iap),
                web.post("/emulator/shutdown", self._end),
            ]
        )

    async def close(self) -> None:
        """End what is under way."""
        for task in self._preempting:
            task.cancel()
        await asyncio.gather(*self._preempting, return_exceptions=True)

    async def _status(self, request: web.Request) -> web.Response:
        del request
        return json_response(
            self._describe()
            | {
                "capacity": self._lifecycle.capacity,
                "zone_capacity": self._lifecycle.zone_capacity,
                "running": self._lifecycle.running,
                "instances": [
                    {"name": i.name, "zone": i.zone, "status": i.status, "address": i.address}
                    for i in self._state.instances.values()
                ],
                "groups": [
                    {"name": g.name, "zone": g.zone, "targetSize": g.target_size}
                    for g in self._state.groups.values()
                ],
                "templates": sorted(self._state.templates),
            }
        )

    async def _stats(self, request: web.Request) -> web.Response:
        del request
        calls = self._faults.calls
        return json_response(
            {
                "seconds": round(time.monotonic() - self._since, 3),
                "total": calls.total(),
                "calls": dict(sorted(calls.items())),
            }
        )

    async def _reset_stats(self, request: web.Request) -> web.Response:
        self._faults.calls.clear()
        self._since = time.monotonic()
        return await self._stats(request)

    async def _timeline(self, request: web.Request) -> web.Response:
        del request
        return json_response(
            {
                "instances": [
                    {
                        "name": timeline.name,
                        "id": timeline.id,
                    }
                    | {
                        event: {"monotonic": moment.monotonic, "utc": moment.utc}
                        for event, moment in timeline.moments.items()
                    }
                    for timeline in self._lifecycle.timelines.values()
                ]
            }
        )

    async def _list_faults(self, request: web.Request) -> web.Response:
        del request
        return json_response({"faults": [fault.to_json() for fault in self._faults.waiting]})

    async def _add_fault(self, request: web.Request) -> web.Response:
        self._faults.add(parse_fault(await json_body(request, any_type=True)))
        return await self._list_faults(request)

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._faults.clear()
        return await self._list_faults(request)

    async def _list_inbox(self, request: web.Request) -> web.Response:
        del request
        return json_response({"messages": self._inbox()})

    async def _set_capacity(self, request: web.Request) -> web.Response:
        body = await json_body(request, any_type=True)
        capacity, zone = body.get("capacity"), body.get("zone")
        if capacity is not None and (type(capacity) is not int or capacity < 0):
            message = "capacity: a whole number that is not negative, or null for no limit"
            raise GoogleError(400, "invalid", message)
        if zone is not None:
            self._state.check_zone(zone)
        self._lifecycle.set_capacity(capacity, zone=zone)
        return json_response(
            {
                "capacity": self._lifecycle.capacity,
                "zone_capacity": self._lifecycle.zone_capacity,
            }
        )

    async def _preempt(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = await json_body(request, any_type=True)
        grace = body.get("grace", 30)
        if not isinstance(grace, int | float) or not 0 <= grace <= 600:
            raise GoogleError(400, "invalid", "grace: seconds, within 0..600")
        found = [i for i in self._state.instances.values() if i.name == name]
        if not found:
            raise not_found(f"projects/{self._state.project}/instances/{name}")
        instance = found[0]
        if instance.status not in ("PROVISIONING", "STAGING", "RUNNING"):
            message = f"instance {name} is {instance.status} and can't be preempted"
            raise GoogleError(400, "resourceNotReady", message)
        task = asyncio.create_task(self._lifecycle.preempt(instance, grace=float(grace)))
        self._preempting.add(task)
        task.add_done_callback(self._preempting.discard)
        return json_response({"name": name, "id": instance.id, "grace": grace})

    async def _cut_iap(self, request: web.Request) -> web.Response:
        del request
        return json_response({"cut": self._cut_relay()})

    async def _end(self, request: web.Request) -> web.Response:
        del request
        self._shut_down()
        return json_response({"ending": True})
