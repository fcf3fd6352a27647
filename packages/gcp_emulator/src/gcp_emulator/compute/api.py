"""Compute Engine over REST: the project, its catalog, templates, operations.

https://cloud.google.com/compute/docs/reference/rest/v1
"""

from aiohttp import web

from gcp_emulator.compute import catalog
from gcp_emulator.compute.lifecycle import template_link
from gcp_emulator.compute.listing import page
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.properties import template_properties
from gcp_emulator.compute.rest import Rest, aggregated, listed
from gcp_emulator.compute.state import (
    State,
    Template,
    already_exists,
    check_name,
    new_id,
    not_found,
    now,
    scope,
)
from gcp_emulator.replies import GoogleError, Json, api, json_response


class Compute:
    """The routes of the project, zones, regions, machine types, templates and operations."""

    def __init__(self, state: State, operations: Operations) -> None:
        self._state = state
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
        for place in ("/zones/{zone}", "/regions/{region}", "/global"):
            noun = {"/z": "zone", "/r": "region"}.get(place[:2], "global")
            operations = _OperationRoutes(self._state, self._operations, f"{noun}Operations")
            operations.add_routes(rest, f"{place}/operations")

    @api("compute.projects.get")
    def get_project(self, request: web.Request) -> Json:
        """The project with its quotas."""
        del request
        state = self._state
        return catalog.project_json(
            state.base,
            state.project,
            state.project_number,
            templates=len(state.templates),
            firewalls=len(state.firewalls),
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
        items, token = page(request, [self._region_json(name) for name in self._state.regions])
        return listed("regionList", f"{self._state.root}/regions", items, token)

    @api("compute.regions.get")
    def get_region(self, request: web.Request) -> Json:
        """One region, with quotas and what is used of them."""
        name = request.match_info["name"]
        if name not in self._state.regions:
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
        properties = template_properties(body.get("properties"))
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

    def _region_json(self, name: str) -> Json:
        there = [
            instance
            for instance in self._state.instances.values()
            if catalog.region_of(instance.zone) == name and instance.occupies
        ]
        cpus = sum(catalog.MACHINE_TYPES[instance.machine_type].cpus for instance in there)
        return catalog.region_json(
            self._state.root,
            name,
            self._state.zone,
            instances=len(there),
            cpus=cpus,
            addresses=sum(region == name for region, _ in self._state.addresses),
        )

    def _machine_types(self, zone: str) -> list[Json]:
        kinds = sorted(catalog.MACHINE_TYPES.values(), key=lambda kind: kind.name)
        return [catalog.machine_type_json(self._state.root, zone, kind) for kind in kinds]

    def _template_operation(self, kind: str, template: Template) -> Operation:
        link = template_link(self._state, template)
        return self._operations.start(kind, zone=None, target=link, target_id=template.id)

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


class _OperationRoutes:
    """The routes of ``zoneOperations``, ``regionOperations`` or ``globalOperations``."""

    def __init__(self, state: State, operations: Operations, collection: str) -> None:
        self._state = state
        self._operations = operations
        self._collection = collection

    def add_routes(self, rest: Rest, path: str) -> None:
        """Add them below a path."""
        name = f"compute.{self._collection}"

        @api(f"{name}.list")
        def read_all(request: web.Request) -> Json:
            return self._list(request)

        @api(f"{name}.get")
        def read(request: web.Request) -> Json:
            return self._operations.to_json(self._find(request))

        @api(f"{name}.wait")
        async def wait(request: web.Request) -> web.Response:
            operation = self._find(request)
            await self._operations.wait(operation)
            return json_response(self._operations.to_json(operation))

        rest.read("GET", path, read_all)
        rest.read("GET", path + "/{name}", read)
        rest.wait("POST", path + "/{name}/wait", wait)

    def _list(self, request: web.Request) -> Json:
        where = _scope(request)
        found = [self._operations.to_json(operation) for operation in self._operations.all(where)]
        items, token = page(request, sorted(found, key=lambda operation: str(operation["name"])))
        return listed("operationList", f"{self._state.root}/{where}/operations", items, token)

    def _find(self, request: web.Request) -> Operation:
        return self._operations.get(_scope(request), request.match_info["name"])


def _scope(request: web.Request) -> str:
    return scope(request.match_info.get("zone"), request.match_info.get("region"))
