"""Compute Engine over REST, but for groups: templates, instances, catalog, operations.

https://cloud.google.com/compute/docs/reference/rest/v1. Instances are made by groups only.
"""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from gcp_emulator.compute import catalog
from gcp_emulator.compute.lifecycle import Lifecycle, template_link
from gcp_emulator.compute.listing import page
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.power import touch
from gcp_emulator.compute.rest import Rest, aggregated, listed
from gcp_emulator.compute.state import (
    Instance,
    State,
    Template,
    already_exists,
    check_name,
    fingerprint,
    invalid,
    new_id,
    not_found,
    now,
)
from gcp_emulator.replies import GoogleError, Json, api, json_response

_SERIAL_BYTES = 1 << 20  # Google keeps the last mebibyte of a serial port's output.
_METADATA_BYTES = 256 << 10


class Compute:
    """The routes of all collections but ``instanceGroupManagers``."""

    def __init__(self, state: State, lifecycle: Lifecycle, operations: Operations) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._operations = operations

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.read("GET", "", self.get_project)
        rest.read("GET", "/zones", self.list_zones)
        rest.read("GET", "/zones/{name}", self.get_zone)
        rest.read("GET", "/regions", self.list_regions)
        rest.read("GET", "/regions/{name}", self.get_region)
        rest.read("GET", "/aggregated/machineTypes", self.aggregated_machine_types)
        rest.read("GET", "/zones/{zone}/machineTypes", self.list_machine_types)
        rest.read("GET", "/zones/{zone}/machineTypes/{name}", self.get_machine_type)
        templates = "/global/instanceTemplates"
        rest.change("POST", templates, self.insert_template)
        rest.read("GET", templates, self.list_templates)
        rest.read("GET", templates + "/{name}", self.get_template)
        rest.change("DELETE", templates + "/{name}", self.delete_template)
        rest.read("GET", "/aggregated/instances", self.aggregated_instances)
        instances = "/zones/{zone}/instances"
        rest.read("GET", instances, self.list_instances)
        one = instances + "/{name}"
        rest.read("GET", one, self.get_instance)
        rest.change("DELETE", one, self.delete_instance)
        rest.change("POST", one + "/setMetadata", self.set_metadata)
        rest.read("GET", one + "/getGuestAttributes", self.get_guest_attributes)
        rest.read("GET", one + "/serialPort", self.get_serial_port_output)
        rest.read("GET", "/zones/{zone}/operations", self.list_zone_operations)
        rest.read("GET", "/zones/{zone}/operations/{name}", self.get_zone_operation)
        rest.wait("POST", "/zones/{zone}/operations/{name}/wait", self.wait_zone_operation)
        rest.read("GET", "/global/operations", self.list_global_operations)
        rest.read("GET", "/global/operations/{name}", self.get_global_operation)
        rest.wait("POST", "/global/operations/{name}/wait", self.wait_global_operation)

    @api("compute.projects.get")
    def get_project(self, request: web.Request) -> Json:
        """The project with its quotas."""
        del request
        state = self._state
        return catalog.project_json(
            state.base, state.project, state.project_number, templates=len(state.templates)
        )

    @api("compute.zones.list")
    def list_zones(self, request: web.Request) -> Json:
        """All zones."""
        root = self._state.root
        found = [catalog.zone_json(root, zone) for zone in self._state.zones]
        items, token = page(request, found)
        return listed("zoneList", f"{root}/zones", items, token)

    @api("compute.zones.get")
    def get_zone(self, request: web.Request) -> Json:
        """One zone."""
        name = request.match_info["name"]
        if name not in self._state.zones:
            raise not_found(f"projects/{self._state.project}/zones/{name}")
        return catalog.zone_json(self._state.root, name)

    @api("compute.regions.list")
    def list_regions(self, request: web.Request) -> Json:
        """All regions."""
        items, token = page(request, [self._region_json(name) for name in self._regions()])
        return listed("regionList", f"{self._state.root}/regions", items, token)

    @api("compute.regions.get")
    def get_region(self, request: web.Request) -> Json:
        """One region, with quotas and what is used of them."""
        name = request.match_info["name"]
        if name not in self._regions():
            raise not_found(f"projects/{self._state.project}/regions/{name}")
        return self._region_json(name)

    @api("compute.machineTypes.list")
    def list_machine_types(self, request: web.Request) -> Json:
        """A zone's machine types."""
        zone = request.match_info["zone"]
        items, token = page(request, self._machine_types(zone))
        return listed(
            "machineTypeList", f"{self._state.root}/zones/{zone}/machineTypes", items, token
        )

    @api("compute.machineTypes.aggregatedList")
    def aggregated_machine_types(self, request: web.Request) -> Json:
        """All zones' machine types."""
        found = [kind for zone in self._state.zones for kind in self._machine_types(zone)]
        return aggregated(request, self._state, "machineType", found)

    @api("compute.machineTypes.get")
    def get_machine_type(self, request: web.Request) -> Json:
        """One machine type."""
        zone, name = request.match_info["zone"], request.match_info["name"]
        kind = catalog.MACHINE_TYPES.get(name)
        if kind is None:
            raise not_found(self._state.path(zone, "machineTypes", name))
        return catalog.machine_type_json(self._state.root, zone, kind)

    @api("compute.instanceTemplates.insert")
    def insert_template(self, request: web.Request, body: Json) -> Operation:
        """Make a template."""
        del request
        name = check_name("resource.name", body.get("name"))
        properties = _template_properties(body.get("properties"))
        if name in self._state.templates:
            raise already_exists(self._state.path(None, "instanceTemplates", name))
        template = Template(
            name=name,
            id=new_id(),
            created=now(),
            description=str(body.get("description", "")),
            properties=properties,
        )
        self._state.add_template(template)
        return self._template_operation("insert", template)

    @api("compute.instanceTemplates.list")
    def list_templates(self, request: web.Request) -> Json:
        """All templates."""
        found = [
            self._template_json(template) for _, template in sorted(self._state.templates.items())
        ]
        items, token = page(request, found)
        link = f"{self._state.root}/global/instanceTemplates"
        return listed("instanceTemplateList", link, items, token)

    @api("compute.instanceTemplates.get")
    def get_template(self, request: web.Request) -> Json:
        """One template."""
        return self._template_json(self._state.template(request.match_info["name"]))

    @api("compute.instanceTemplates.delete")
    def delete_template(self, request: web.Request, body: Json) -> Operation:
        """Delete a template that no group uses."""
        del body
        template = self._state.template(request.match_info["name"])
        for group in self._state.users_of(template):
            path = self._state.path(None, "instanceTemplates", template.name)
            user = self._state.path(group.zone, "instanceGroupManagers", group.name)
            raise GoogleError(
                400,
                "resourceInUseByAnotherResource",
                f"The instance_template resource '{path}' is already being used by '{user}'",
            )
        self._state.remove_template(template)
        return self._template_operation("delete", template)

    @api("compute.instances.list")
    def list_instances(self, request: web.Request) -> Json:
        """A zone's instances."""
        zone = request.match_info["zone"]
        found = [
            self._instance_json(i)
            for (at, _), i in sorted(self._state.instances.items())
            if at == zone
        ]
        items, token = page(request, found)
        return listed("instanceList", f"{self._state.root}/zones/{zone}/instances", items, token)

    @api("compute.instances.aggregatedList")
    def aggregated_instances(self, request: web.Request) -> Json:
        """All zones' instances."""
        found = [
            self._instance_json(instance) for _, instance in sorted(self._state.instances.items())
        ]
        return aggregated(request, self._state, "instance", found)

    @api("compute.instances.get")
    def get_instance(self, request: web.Request) -> Json:
        """One instance."""
        return self._instance_json(self._instance(request))

    @api("compute.instances.delete")
    def delete_instance(self, request: web.Request, body: Json) -> Operation:
        """Delete an instance; DONE when it is gone. A group makes its member anew."""
        del body
        instance = self._instance(request)
        graceless = request.query.get("noGracefulShutdown") == "true"
        grace = 0.0 if graceless else None
        return self._instance_operation(
            "delete", instance, lambda: self._lifecycle.delete_instance(instance, grace=grace)
        )

    @api("compute.instances.setMetadata")
    def set_metadata(self, request: web.Request, body: Json) -> Operation:
        """Replace an instance's metadata; needs the fingerprint of what is replaced."""
        instance = self._instance(request)
        if body.get("fingerprint") != _metadata_json(instance.metadata)["fingerprint"]:
            message = "Supplied fingerprint does not match current metadata fingerprint."
            raise GoogleError(412, "conditionNotMet", message)
        instance.metadata = _metadata_items("metadata", body)
        if instance.machine is not None:
            instance.machine.update_metadata(instance.metadata)
        touch(instance)
        return self._instance_operation("setMetadata", instance)

    @api("compute.instances.getGuestAttributes")
    def get_guest_attributes(self, request: web.Request) -> Json:
        """What the guest has published below ``queryPath``: ``NAMESPACE/[KEY]``."""
        instance = self._instance(request)
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
        link = self._state.link(instance.zone, "instances", instance.name)
        return {
            "kind": "compute#guestAttributes",
            "queryPath": query,
            "queryValue": {"items": items},
            "selfLink": f"{link}/getGuestAttributes?queryPath={query}",
        }

    @api("compute.instances.getSerialPortOutput")
    def get_serial_port_output(self, request: web.Request) -> Json:
        """What the guest has written to its first serial port, from byte ``start``."""
        instance = self._instance(request)
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
        link = self._state.link(instance.zone, "instances", instance.name)
        return {
            "kind": "compute#serialPortOutput",
            "contents": bytes(output[start:]).decode(errors="replace"),
            "start": str(start),
            "next": str(max(start, len(output))),
            "selfLink": f"{link}/serialPort",
        }

    @api("compute.zoneOperations.list")
    def list_zone_operations(self, request: web.Request) -> Json:
        """A zone's operations."""
        return self._operation_list(request, request.match_info["zone"])

    @api("compute.zoneOperations.get")
    def get_zone_operation(self, request: web.Request) -> Json:
        """One operation of a zone."""
        return self._operations.to_json(self._operation(request))

    @api("compute.zoneOperations.wait")
    async def wait_zone_operation(self, request: web.Request) -> web.Response:
        """One operation of a zone, when it is done, or after two minutes."""
        return await self._wait(request)

    @api("compute.globalOperations.list")
    def list_global_operations(self, request: web.Request) -> Json:
        """The global operations."""
        return self._operation_list(request, None)

    @api("compute.globalOperations.get")
    def get_global_operation(self, request: web.Request) -> Json:
        """One global operation."""
        return self._operations.to_json(self._operation(request))

    @api("compute.globalOperations.wait")
    async def wait_global_operation(self, request: web.Request) -> web.Response:
        """One global operation, when it is done, or after two minutes."""
        return await self._wait(request)

    def _regions(self) -> list[str]:
        return sorted({catalog.region_of(zone) for zone in self._state.zones})

    def _region_json(self, name: str) -> Json:
        there = [
            instance
            for instance in self._state.instances.values()
            if catalog.region_of(instance.zone) == name and instance.occupies
        ]
        cpus = sum(catalog.MACHINE_TYPES[instance.machine_type].cpus for instance in there)
        return catalog.region_json(
            self._state.root, name, self._state.zone, instances=len(there), cpus=cpus
        )

    def _machine_types(self, zone: str) -> list[Json]:
        kinds = sorted(catalog.MACHINE_TYPES.values(), key=lambda kind: kind.name)
        return [catalog.machine_type_json(self._state.root, zone, kind) for kind in kinds]

    def _instance(self, request: web.Request) -> Instance:
        return self._state.instance(request.match_info["zone"], request.match_info["name"])

    def _operation(self, request: web.Request) -> Operation:
        return self._operations.get(request.match_info.get("zone"), request.match_info["name"])

    async def _wait(self, request: web.Request) -> web.Response:
        operation = self._operation(request)
        await self._operations.wait(operation)
        return json_response(self._operations.to_json(operation))

    def _operation_list(self, request: web.Request, zone: str | None) -> Json:
        found = [self._operations.to_json(operation) for operation in self._operations.all(zone)]
        items, token = page(request, sorted(found, key=lambda operation: str(operation["name"])))
        scope = f"zones/{zone}" if zone else "global"
        return listed("operationList", f"{self._state.root}/{scope}/operations", items, token)

    def _template_operation(self, kind: str, template: Template) -> Operation:
        link = template_link(self._state, template)
        return self._operations.start(kind, zone=None, target=link, target_id=template.id)

    def _instance_operation(
        self, kind: str, instance: Instance, work: Callable[[], Any] | None = None
    ) -> Operation:
        link = self._state.link(instance.zone, "instances", instance.name)
        return self._operations.start(
            kind, zone=instance.zone, target=link, target_id=instance.id, work=work
        )

    def _template_json(self, template: Template) -> Json:
        return {
            "kind": "compute#instanceTemplate",
            "id": template.id,
            "creationTimestamp": template.created,
            "name": template.name,
            "description": template.description,
            "properties": template.properties,
            "selfLink": template_link(self._state, template),
        }

    def _instance_json(self, instance: Instance) -> Json:
        root, zone = self._state.root, instance.zone
        properties = instance.properties
        body: Json = {
            "kind": "compute#instance",
            "id": instance.id,
            "creationTimestamp": instance.created,
            "name": instance.name,
            "description": properties.get("description", ""),
            "tags": _tags_json(instance),
            "machineType": f"{root}/zones/{zone}/machineTypes/{instance.machine_type}",
            "status": instance.status,
            "zone": f"{root}/zones/{zone}",
            "canIpForward": bool(properties.get("canIpForward", False)),
            "networkInterfaces": self._network_interfaces(instance),
            "disks": _disks(root, instance),
            "metadata": _metadata_json(instance.metadata),
            "serviceAccounts": _accounts(instance),
            "selfLink": self._state.link(zone, "instances", instance.name),
            "scheduling": {
                "onHostMaintenance": "MIGRATE",
                "automaticRestart": True,
                "preemptible": False,
                "provisioningModel": "STANDARD",
                **properties.get("scheduling", {}),
            },
            "cpuPlatform": "AMD Rome",
            "labels": instance.labels,
            "labelFingerprint": fingerprint(instance.labels),
            "startRestricted": False,
            "deletionProtection": False,
            "fingerprint": fingerprint([instance.id, instance.status]),
        }
        if instance.started:
            body["lastStartTimestamp"] = instance.started
        return body

    def _network_interfaces(self, instance: Instance) -> list[Json]:
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
            if instance.occupies:
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


def _template_properties(properties: object) -> Json:
    """A template's properties, if Compute Engine would take them."""
    where = "resource.properties"
    if not isinstance(properties, dict):
        raise invalid(where, "", "Instance properties must be given.")
    kind = properties.get("machineType")
    if not isinstance(kind, str) or not kind:
        raise invalid(f"{where}.machineType", kind or "", "The machine type must be given.")
    check_name(f"{where}.machineType", kind)
    for collection, noun in (("disks", "disk"), ("networkInterfaces", "network interface")):
        given = properties.get(collection)
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            given = []
        if not given:
            raise invalid(f"{where}.{collection}", "", f"At least one {noun} is required.")
    metadata = _metadata_items(f"{where}.metadata", properties.get("metadata") or {})
    if "gce-container-declaration" in metadata:
        raise invalid(
            f"{where}.metadata",
            "gce-container-declaration",
            "Containers on Compute Engine instances are started by cloud-init or a startup script:"
            " the container startup agent was shut down on 31 July 2026.",
        )
    return properties | {"metadata": _metadata_json(metadata)}


def _metadata_items(where: str, metadata: Json) -> dict[str, str]:
    items: dict[str, str] = {}
    for number, item in enumerate(metadata.get("items") or []):
        here = f"{where}.items[{number}]"
        if not isinstance(item, dict):
            raise invalid(here, "", "Must be an object of key and value.")
        key = check_name(f"{here}.key", item.get("key"), "[a-zA-Z0-9-_]{1,128}")
        value = item.get("value", "")
        if not isinstance(value, str) or len(value.encode()) > _METADATA_BYTES:
            raise invalid(f"{here}.value", "", "Must be a string of at most 262144 bytes.")
        if key in items:
            raise invalid(f"{here}.key", key, "Metadata has duplicate keys.")
        items[key] = value
    return items


def _metadata_json(metadata: dict[str, str]) -> Json:
    body: Json = {"kind": "compute#metadata", "fingerprint": fingerprint(metadata)}
    if metadata:
        body["items"] = [{"key": key, "value": value} for key, value in metadata.items()]
    return body


def _tags_json(instance: Instance) -> Json:
    items: Json = {"items": list(instance.tags)} if instance.tags else {}
    return {**items, "fingerprint": fingerprint(instance.tags)}


def _accounts(instance: Instance) -> list[Json]:
    """The service accounts, with the addresses that they stand for."""
    given = instance.properties.get("serviceAccounts", [])
    return [{**account, "email": instance.account} for account in given]


def _disks(root: str, instance: Instance) -> list[Json]:
    shown = []
    for number, wanted in enumerate(instance.properties["disks"]):
        tail = "" if number == 0 else f"-{number}"
        parameters = wanted.get("initializeParams", {})
        shown.append(
            {
                "kind": "compute#attachedDisk",
                "type": "PERSISTENT",
                "mode": wanted.get("mode", "READ_WRITE"),
                "source": f"{root}/zones/{instance.zone}/disks/{instance.name}{tail}",
                "deviceName": wanted.get("deviceName", f"persistent-disk-{number}"),
                "index": number,
                "boot": bool(wanted.get("boot", number == 0)),
                "autoDelete": bool(wanted.get("autoDelete", True)),
                "interface": "SCSI",
                "diskSizeGb": str(parameters.get("diskSizeGb", "10")),
            }
        )
    return shown
