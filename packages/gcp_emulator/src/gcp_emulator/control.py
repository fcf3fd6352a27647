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
POST   /emulator/capacity                    how many instances can run at once: {"capacity": 2 |
                                             null, "zone": "...", "machine_type": "...", "spot":
                                             true}; which are counted is optional, and without it
                                             those of groups in the whole cloud are
GET    /emulator/quotas      POST            quotas: {"metric": "CPUS", "limit": 8 | null (as at
                                             first), "region": "..." (none: the project's)}
GET    /emulator/run-duration  POST          {"speed": 60} the clock of maxRunDuration runs so much
                                             faster; {"repair": false} an instance whose time is
                                             over goes with its member, and is not made anew
POST   /emulator/instances/NAME/FAULT        what befalls one instance, now:
           preempt {"grace": 30}             SIGTERM, grace, TERMINATED (or deleted, as its
                                             instanceTerminationAction says)
           expire                            as when it has run as long as it may
           kill                              its host fails: all is gone, no process is told
           refuse-ssh                        new SSH connections are closed at once
           hang-ssh                          they are accepted, and nothing is said
           cut-ssh                           all SSH connections are cut
           kill-container                    SIGKILL to all programs of its containers
           disk-full                         its containers can't write to files any more
                                             (RLIMIT_FSIZE: EFBIG, where a full disk says ENOSPC,
                                             and files that are there can't be written either)
                                             refuse-ssh, hang-ssh, disk-full: {"seconds": 5},
                                             after which they end, or {"on": false}: now.
                                             A clock can't be skewed: all share this machine's.
POST   /emulator/iap/cut                     cut all connections of IAP's relay: {"cut": 2}
POST   /emulator/shutdown                    end the cloud
"""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine

from aiohttp import web

from gcp_emulator.compute import catalog
from gcp_emulator.compute.capacity import Stock
from gcp_emulator.compute.lifecycle import Lifecycle
from gcp_emulator.compute.nouns import MACHINE_FAULTS, Instance, Machine
from gcp_emulator.compute.operations import noun_of
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import not_found
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
        self._under_way: set[asyncio.Task[None]] = set()

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
                web.get("/emulator/quotas", self._list_quotas),
                web.post("/emulator/quotas", self._set_quota),
                web.get("/emulator/run-duration", self._run_duration),
                web.post("/emulator/run-duration", self._set_run_duration),
                web.post("/emulator/instances/{name}/{fault}", self._befall),
                web.post("/emulator/iap/cut", self._cut_iap),
                web.post("/emulator/shutdown", self._end),
            ]
        )

    async def close(self) -> None:
        """End what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _status(self, request: web.Request) -> web.Response:
        del request
        return json_response(
            self._describe()
            | {
                **self._capacity_json(),
                "running": self._lifecycle.running,
                "instances": [
                    {"name": i.name, "zone": i.zone, "status": i.status, "address": i.address}
                    for i in self._state.instances.values()
                ],
                "groups": [
                    {"name": g.name, noun_of(g.place): g.where, "targetSize": g.target_size}
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
        capacity = body.pop("capacity", None)
        if capacity is not None and (type(capacity) is not int or capacity < 0):
            raise _wrong("capacity: a whole number that is not negative, or null for no limit")
        self._check_stock(body)
        self._lifecycle.set_capacity(capacity, **body)
        return json_response(self._capacity_json())

    def _check_stock(self, body: Json) -> None:
        zone, kind, spot = (body.get(key) for key in ("zone", "machine_type", "spot"))
        if unknown := sorted(body.keys() - {"zone", "machine_type", "spot"}):
            raise _wrong(f"{', '.join(unknown)}: unknown; use zone, machine_type, spot")
        if zone is not None:
            self._state.check_zone(zone)
        if kind is not None and kind not in catalog.MACHINE_TYPES:
            raise _wrong(f"machine_type: {kind!r} is unknown")
        if spot not in (None, True, False):
            raise _wrong("spot: true, false, or null for both")

    def _capacity_json(self) -> Json:
        capacity = self._lifecycle.capacity
        return {
            "capacity": capacity.limit,
            "zone_capacity": {
                stock.zone: limit
                for stock, limit in capacity.stock.items()
                if stock == Stock(stock.zone)
            },
            "stock": [
                {**stock.to_json(), "capacity": limit} for stock, limit in capacity.stock.items()
            ],
        }

    async def _list_quotas(self, request: web.Request) -> web.Response:
        del request
        capacity = self._lifecycle.capacity
        regions = {region: capacity.quotas(region) for region in self._state.regions}
        return json_response({"project": capacity.quotas(""), "regions": regions})

    async def _set_quota(self, request: web.Request) -> web.Response:
        body = await json_body(request, any_type=True)
        metric, limit, region = (body.get(key) for key in ("metric", "limit", "region"))
        if region:
            self._state.check_region(region)
        known = catalog.metrics(regional=bool(region))
        if metric not in known:
            raise _wrong(f"metric: {metric!r} is unknown; use one of {', '.join(known)}")
        if limit is not None and (type(limit) not in (int, float) or limit < 0):
            raise _wrong("limit: a number that is not negative, or null for what it was at first")
        self._lifecycle.capacity.set_quota(region or "", metric, limit)
        self._lifecycle.serve()
        return await self._list_quotas(request)

    async def _run_duration(self, request: web.Request) -> web.Response:
        del request
        lifecycle = self._lifecycle
        return json_response(
            {"speed": lifecycle.mishaps.run_speed, "repair": lifecycle.mishaps.repairs_expired}
        )

    async def _set_run_duration(self, request: web.Request) -> web.Response:
        body = await json_body(request, any_type=True)
        speed = body.get("speed", self._lifecycle.mishaps.run_speed)
        repair = body.get("repair", self._lifecycle.mishaps.repairs_expired)
        if type(speed) not in (int, float) or speed <= 0 or not isinstance(repair, bool):
            raise _wrong("speed: a number above 0, for instances to come; repair: true or false")
        self._lifecycle.mishaps.run_speed, self._lifecycle.mishaps.repairs_expired = (
            float(speed),
            repair,
        )
        return await self._run_duration(request)

    async def _befall(self, request: web.Request) -> web.Response:
        name, fault = request.match_info["name"], request.match_info["fault"]
        body = await json_body(request, any_type=True)
        grace, seconds, on = body.get("grace", 30), body.get("seconds"), body.get("on", True)
        for name_of, given in (("grace", grace), ("seconds", seconds)):
            if given is not None and (type(given) not in (int, float) or not 0 <= given <= 600):
                raise _wrong(f"{name_of}: seconds, within 0..600")
        if not isinstance(on, bool):
            raise _wrong("on: true or false")
        mishaps = self._lifecycle.mishaps
        ends: dict[str, Callable[[Instance], Coroutine[None, None, None]]] = {
            "preempt": functools.partial(mishaps.preempt, grace=float(grace)),
            "expire": mishaps.expire,
            "kill": mishaps.fail_host,
        }
        if fault not in (*ends, *MACHINE_FAULTS):
            raise _wrong(f"{fault}: unknown; use {', '.join((*ends, *MACHINE_FAULTS))}")
        found = [i for i in self._state.instances.values() if i.name == name]
        if not found:
            raise not_found(f"projects/{self._state.project}/instances/{name}")
        instance = found[0]
        if instance.status not in ("PROVISIONING", "STAGING", "RUNNING"):
            message = f"instance {name} is {instance.status}: no {fault}"
            raise GoogleError(400, "resourceNotReady", message)
        if fault in ends:
            self._begin(ends[fault](instance))
        elif instance.machine is not None:
            await instance.machine.suffer(fault, on=on)
            if on and seconds is not None:
                self._begin(_relieve(instance.machine, fault, seconds))
        return json_response({"name": name, "id": instance.id, "grace": grace, "on": on})

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _cut_iap(self, request: web.Request) -> web.Response:
        del request
        return json_response({"cut": self._cut_relay()})

    async def _end(self, request: web.Request) -> web.Response:
        del request
        self._shut_down()
        return json_response({"ending": True})


async def _relieve(machine: Machine, fault: str, seconds: float) -> None:
    """End a fault after a while."""
    await asyncio.sleep(seconds)
    await machine.suffer(fault, on=False)


def _wrong(message: str) -> GoogleError:
    return GoogleError(400, "invalid", message)
