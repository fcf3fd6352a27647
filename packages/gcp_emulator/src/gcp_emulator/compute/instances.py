"""Instances over REST: made by a group or by themselves, seen, switched on and off, removed.

https://cloud.google.com/compute/docs/reference/rest/v1/instances. An instance of its own
(``insert``) keeps its disk, its internal address and a reserved external one while it is stopped;
nobody repairs it. A group's instance can't be stopped here: its group would not have it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from gcp_emulator.compute import catalog
from gcp_emulator.compute.lifecycle import Lifecycle
from gcp_emulator.compute.making import own_instance
from gcp_emulator.compute.nouns import Instance, disks_of
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.power import begin, touch
from gcp_emulator.compute.properties import (
    check_fingerprint,
    instance_properties,
    label_items,
    metadata_items,
    metadata_json,
    tag_items,
    tags_json,
)
from gcp_emulator.compute.rest import Rest, Shelf
from gcp_emulator.compute.scheduling import checked_scheduling
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import (
    already_exists,
    check_name,
    fingerprint,
    invalid,
)
from gcp_emulator.replies import GoogleError, Json, api

type Work = Callable[[], Awaitable[object]]

_log = logging.getLogger(__name__)

_SERIAL_BYTES = 1 << 20  # Google keeps the last mebibyte of a serial port's output.
_REFUSED = ("deletionProtection", "guestAccelerators", "sourceMachineImage", "hostname")


class Instances:
    """The routes of ``compute.instances``."""

    def __init__(self, state: State, lifecycle: Lifecycle, operations: Operations) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._power = lifecycle.power
        self._operations = operations
        self._watching: set[asyncio.Task[None]] = set()
        self._shelf = Shelf(
            collection="instances",
            noun="instance",
            place="zones/{zone}",
            found=lambda: state.instances,
            show=self._show,
        )

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.shelve(self._shelf, aggregates=[self._shelf])
        rest.change("POST", self._shelf.path, self.insert)
        one = self._shelf.path + "/{name}"
        rest.change("DELETE", one, self.delete)
        rest.change("POST", one + "/stop", self.stop)
        rest.change("POST", one + "/start", self.start)
        rest.change("POST", one + "/reset", self.reset)
        rest.change("POST", one + "/setMetadata", self.set_metadata)
        rest.change("POST", one + "/setTags", self.set_tags)
        rest.change("POST", one + "/setLabels", self.set_labels)
        rest.read("GET", one + "/getGuestAttributes", self.get_guest_attributes)
        rest.read("GET", one + "/serialPort", self.get_serial_port_output)

    @api("compute.instances.insert")
    def insert(self, request: web.Request, body: Json) -> Operation:
        """Make an instance of its own; DONE when it is RUNNING, booted or not."""
        if "sourceInstanceTemplate" in request.query or any(body.get(key) for key in _REFUSED):
            message = (
                f"The local cloud makes no instance with {', '.join(_REFUSED)} or a template."
            )
            raise GoogleError(501, "notImplemented", message)
        state, zone = self._state, request.match_info["zone"]
        name = check_name("resource.name", body.get("name"))
        properties = instance_properties(state, zone, body)
        if (zone, name) in state.instances:
            raise already_exists(state.path(f"zones/{zone}", "instances", name))
        static = self._static_address(catalog.region_of(zone), properties)
        instance = own_instance(state, zone, name, properties, static=static)
        return self._operation("insert", instance, self._switch_on(instance))

    @api("compute.instances.delete")
    def delete(self, request: web.Request, body: Json) -> Operation:
        """Delete an instance; DONE when it is gone. A group makes its member anew."""
        del body
        instance = self._shelf.here(request, self._state)
        graceless = request.query.get("noGracefulShutdown") == "true"
        grace = 0.0 if graceless else None
        return self._operation(
            "delete", instance, lambda: self._lifecycle.delete_instance(instance, grace=grace)
        )

    @api("compute.instances.stop")
    def stop(self, request: web.Request, body: Json) -> Operation:
        """Stop an instance, with its grace; DONE when it is TERMINATED. Disk and names stay."""
        del body
        instance = self._own(request, "stop")
        if instance.status == "TERMINATED":
            return self._operation("stop", instance)
        graceless = request.query.get("noGracefulShutdown") == "true"
        grace = 0.0 if graceless else self._lifecycle.grace_seconds
        return self._operation(
            "stop", instance, lambda: self._power.end(instance, grace, keep=True)
        )

    @api("compute.instances.start")
    def start(self, request: web.Request, body: Json) -> Operation:
        """Start a stopped instance, from its disk, with its metadata as it is now."""
        del body
        instance = self._own(request, "start")
        if instance.status in ("PROVISIONING", "STAGING", "RUNNING"):
            return self._operation("start", instance)
        if instance.ending is not None and not instance.ending.done():
            raise self._not_ready(instance)
        instance.preempted = False
        return self._operation("start", instance, self._switch_on(instance))

    @api("compute.instances.reset")
    def reset(self, request: web.Request, body: Json) -> Operation:
        """Switch a running instance off and on, without grace; DONE when it boots again."""
        del body
        instance = self._own(request, "reset")
        if instance.status != "RUNNING":
            raise self._not_ready(instance)
        running = asyncio.Event()
        booting = self._power.reset(instance, running=running.set)
        self._watch(instance, booting)
        return self._operation("reset", instance, lambda: _until_running(running, booting))

    @api("compute.instances.setMetadata")
    def set_metadata(self, request: web.Request, body: Json) -> Operation:
        """Replace an instance's metadata; needs the fingerprint of what is replaced."""
        instance = self._shelf.here(request, self._state)
        check_fingerprint("metadata", body.get("fingerprint"), fingerprint(instance.metadata))
        instance.metadata = metadata_items("metadata", body)
        if instance.machine is not None:
            instance.machine.update_metadata(instance.metadata)
        touch(instance)
        return self._operation("setMetadata", instance)

    @api("compute.instances.setTags")
    def set_tags(self, request: web.Request, body: Json) -> Operation:
        """Replace an instance's network tags; needs the fingerprint of what is replaced."""
        instance = self._shelf.here(request, self._state)
        check_fingerprint("tags", body.get("fingerprint"), fingerprint(instance.tags))
        instance.tags = tag_items("tags", body)
        touch(instance)
        self._state.notify()
        return self._operation("setTags", instance)

    @api("compute.instances.setLabels")
    def set_labels(self, request: web.Request, body: Json) -> Operation:
        """Replace an instance's labels; needs the fingerprint of what is replaced."""
        instance = self._shelf.here(request, self._state)
        given = body.get("labelFingerprint")
        check_fingerprint("labels", given, fingerprint(instance.labels))
        instance.labels = label_items("labels", body.get("labels") or {})
        return self._operation("setLabels", instance)

    @api("compute.instances.getGuestAttributes")
    def get_guest_attributes(self, request: web.Request) -> Json:
        """What the guest has published below ``queryPath``: ``NAMESPACE/[KEY]``."""
        instance = self._shelf.here(request, self._state)
        query = request.query.get("queryPath", "")
        namespace, _, key = query.partition("/")
        enabled = instance.metadata.get("enable-guest-attributes", "").upper() == "TRUE"
        published = instance.machine.guest_attributes if instance.machine and enabled else {}
        items = [
            {"namespace": space, "key": name, "value": value}
            for space, values in published.items()
            for name, value in values.items()
            if namespace in ("", space) and key in ("", name)
        ]
        if not items:
            message = f"The resource '{query}' of type 'Guest Attribute' was not found."
            raise GoogleError(404, "notFound", message)
        link = self._state.link(instance.place, "instances", instance.name)
        return {
            "kind": "compute#guestAttributes",
            "queryPath": query,
            "queryValue": {"items": items},
            "selfLink": f"{link}/getGuestAttributes?queryPath={query}",
        }

    @api("compute.instances.getSerialPortOutput")
    def get_serial_port_output(self, request: web.Request) -> Json:
        """What the guest has written to its first serial port, from byte ``start``."""
        instance = self._shelf.here(request, self._state)
        text = request.query.get("start", "0")
        if not text.lstrip("-").isdecimal():
            raise invalid("start", text, "Must be a whole number.")
        if request.query.get("port", "1") not in ("1", "2", "3", "4"):
            raise invalid("port", request.query["port"], "Must be between 1 and 4.")
        first_port = request.query.get("port", "1") == "1"
        output = instance.machine.serial if instance.machine and first_port else bytearray()
        oldest = max(0, len(output) - _SERIAL_BYTES)
        start = int(text)
        start = max(oldest, start if start >= 0 else len(output) + start)
        link = self._state.link(instance.place, "instances", instance.name)
        return {
            "kind": "compute#serialPortOutput",
            "contents": bytes(output[start:]).decode(errors="replace"),
            "start": str(start),
            "next": str(max(start, len(output))),
            "selfLink": f"{link}/serialPort",
        }

    def _own(self, request: web.Request, verb: str) -> Instance:
        """The instance, unless a group wants to have it as it is."""
        instance = self._shelf.here(request, self._state)
        if not instance.standalone:
            message = f"The local cloud can't {verb} an instance of a group."
            raise GoogleError(501, "notImplemented", message)
        return instance

    def _static_address(self, region: str, properties: Json) -> str | None:
        """The reserved address that the instance asks for, if it is there and free."""
        nics = properties["networkInterfaces"]
        asked = [
            (f"resource.networkInterfaces[{i}].accessConfigs[{j}].natIP", access["natIP"])
            for i, nic in enumerate(nics)
            for j, access in enumerate(nic.get("accessConfigs") or [])
            if access.get("natIP")
        ]
        if not asked:
            return None
        where, text = asked[0]
        found = [
            address
            for address in self._state.addresses.values()
            if address.region == region and address.address == text
        ]
        if not found:
            why = f"The specified external IP address '{text}' was not found in region '{region}'."
            raise invalid(where, text, why)
        if self._state.user_of(found[0]) is not None:
            message = f"External IP address: {text} is already in-use."
            raise GoogleError(400, "resourceInUseByAnotherResource", message)
        return found[0].address

    def _switch_on(self, instance: Instance) -> Work:
        """Start an instance, if there is a place for it; what to wait for until it runs."""
        full = self._power.refusal(instance)
        if full is not None:
            return lambda: _fail(full)
        running = asyncio.Event()
        booting = self._power.start(instance, running=running.set)
        self._watch(instance, booting)
        return lambda: _until_running(running, booting)

    def _watch(self, instance: Instance, booting: asyncio.Task[None]) -> None:
        task = begin(self._see_boot(instance, booting))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _see_boot(self, instance: Instance, booting: asyncio.Task[None]) -> None:
        """Stop an instance that can't boot: nobody makes it anew."""
        try:
            await asyncio.shield(booting)
        except Exception as error:
            _log.error("Instance %r could not be brought up: %r", instance.name, error)
            await self._power.end(instance, 0, keep=instance.started is not None)

    def _not_ready(self, instance: Instance) -> GoogleError:
        path = self._state.path(instance.place, "instances", instance.name)
        return GoogleError(400, "resourceNotReady", f"The resource '{path}' is not ready")

    def _operation(self, kind: str, instance: Instance, work: Work | None = None) -> Operation:
        link = self._state.link(instance.place, "instances", instance.name)
        return self._operations.start(
            kind, place=instance.place, target=link, target_id=instance.id, work=work
        )

    def _show(self, instance: Instance) -> Json:
        root, zone = self._state.root, instance.zone
        properties = instance.properties
        body: Json = {
            "kind": "compute#instance",
            "id": instance.id,
            "creationTimestamp": instance.created,
            "name": instance.name,
            "description": properties.get("description", ""),
            "tags": tags_json(instance.tags),
            "machineType": f"{root}/zones/{zone}/machineTypes/{instance.machine_type}",
            "status": instance.status,
            "zone": f"{root}/zones/{zone}",
            "canIpForward": bool(properties.get("canIpForward", False)),
            "networkInterfaces": self._network_interfaces(instance),
            "disks": _disks(root, instance),
            "metadata": metadata_json(instance.metadata),
            "serviceAccounts": _accounts(instance),
            "selfLink": self._state.link(instance.place, "instances", instance.name),
            # A template of an older cloud may say nothing.
            "scheduling": checked_scheduling("scheduling", properties.get("scheduling")),
            "cpuPlatform": "AMD Rome",
            "labels": instance.labels,
            "labelFingerprint": fingerprint(instance.labels),
            "startRestricted": False,
            "deletionProtection": False,
            "fingerprint": fingerprint([instance.id, instance.status]),
        }
        if instance.terminates:
            limits = {"terminationTimestamp": instance.terminates}
            body["resourceStatus"] = {"scheduling": limits}
        if instance.started:
            body["lastStartTimestamp"] = instance.started
        return body

    def _network_interfaces(self, instance: Instance) -> Sequence[Json]:
        region = catalog.region_of(instance.zone)
        shown = []
        for number, wanted in enumerate(instance.properties["networkInterfaces"]):
            body: Json = {
                "kind": "compute#networkInterface",
                "name": f"nic{number}",
                "network": f"{self._state.root}/global/networks/default",
                "subnetwork": f"{self._state.root}/regions/{region}/subnetworks/default",
                "fingerprint": fingerprint([instance.id, number]),
                "stackType": "IPV4_ONLY",
            }
            if instance.occupies or instance.standalone:
                body["networkIP"] = instance.address
            if wanted.get("accessConfigs"):
                access: Json = {
                    "kind": "compute#accessConfig",
                    "type": "ONE_TO_ONE_NAT",
                    "name": "External NAT",
                    "networkTier": "PREMIUM",
                }
                if instance.occupies or instance.static_address:
                    access["natIP"] = instance.external_address
                body["accessConfigs"] = [access]
            shown.append(body)
        return shown


async def _fail(error: GoogleError) -> None:
    raise error


async def _until_running(running: asyncio.Event, booting: asyncio.Task[None]) -> None:
    """Return when a machine is made; an error if that fails."""
    waiting = asyncio.ensure_future(running.wait())
    try:
        await asyncio.wait({booting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not running.is_set():
        raise GoogleError(500, "INTERNAL_ERROR", "The instance could not be brought up.")


def _accounts(instance: Instance) -> list[Json]:
    """The service accounts, with the addresses that they stand for."""
    given = instance.properties.get("serviceAccounts", [])
    return [{**account, "email": instance.account} for account in given]


def _disks(root: str, instance: Instance) -> list[Json]:
    given = zip(instance.properties["disks"], disks_of(instance.properties), strict=True)
    return [
        {
            "kind": "compute#attachedDisk",
            "type": "PERSISTENT",
            "mode": wanted.get("mode", "READ_WRITE"),
            "source": f"{root}/zones/{instance.zone}/disks/{instance.name}{suffix}",
            "deviceName": wanted.get("deviceName", f"persistent-disk-{number}"),
            "index": number,
            "boot": bool(wanted.get("boot", number == 0)),
            "autoDelete": bool(wanted.get("autoDelete", True)),
            "interface": "SCSI",
            "diskSizeGb": str(size),
        }
        for number, (wanted, (suffix, _, size)) in enumerate(given)
    ]
