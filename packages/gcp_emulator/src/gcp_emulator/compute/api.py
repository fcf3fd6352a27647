"""Compute Engine over REST: the project, its catalog, templates, operations.

https://cloud.google.com/compute/docs/reference/rest/v1
"""

from aiohttp import web

from gcp_emulator.compute import catalog
from gcp_emulator.compute.capacity import Capacity
from gcp_emulator.compute.lifecycle import template_link
from gcp_emulator.compute.listing import page
from gcp_emulator.compute.nouns import GLOBAL, Template
from gcp_emulator.compute.operations import Operation, Operations, noun_of
from gcp_emulator.compute.properties import template_properties
from gcp_emulator.compute.rest import Rest, Shelf, listed, place_of
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import already_exists, check_name, in_use, new_id, not_found, now
from gcp_emulator.replies import Json, api, json_response


class Compute:
    """The routes of the project, zones, regions, machine types, templates and operations."""

    def __init__(self, state: State, operations: Operations, capacity: Capacity) -> None:
        self._state = state
        self._operations = operations
        self._capacity = capacity
        kinds = {
            (zone, kind.name): (zone, kind)
            for zone in state.zones
            for kind in catalog.MACHINE_TYPES.values()
        }
        self._machine_types = Shelf(
            collection="machineTypes",
            noun="machineType",
            place="zones/{zone}",
            found=lambda: kinds,
            show=lambda kind: catalog.machine_type_json(state.root, *kind),
        )
        self._templates = Shelf(
            collection="instanceTemplates",
            noun="instanceTemplate",
            place=GLOBAL,
            found=lambda: {("", template.name): template for template in state.templates.values()},
            show=self._template_json,
        )

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.read("GET", "", self.get_project)
        rest.read("GET", "/zones", self.list_zones)
        rest.read("GET", "/zones/{name}", self.get_zone)
        rest.read("GET", "/regions", self.list_regions)
        rest.read("GET", "/regions/{name}", self.get_region)
        rest.shelve(self._machine_types, aggregates=[self._machine_types])
        rest.shelve(self._templates)
        rest.change("POST", self._templates.path, self.insert_template)
        rest.change("DELETE", self._templates.path + "/{name}", self.delete_template)
        for place in ("zones/{zone}", "regions/{region}", GLOBAL):
            operations = _OperationRoutes(self._state, self._operations, noun_of(place))
            operations.add_routes(rest, f"/{place}/operations")

    @api("compute.projects.get")
    def get_project(self, request: web.Request) -> Json:
        """The project with its quotas."""
        del request
        state = self._state
        quotas = self._capacity.quotas("")
        return catalog.project_json(state.base, state.project, state.project_number, quotas)

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

    @api("compute.instanceTemplates.insert")
    def insert_template(self, request: web.Request, body: Json) -> Operation:
        """Make a template."""
        del request
        name = check_name("resource.name", body.get("name"))
        properties = template_properties(body.get("properties"))
        if name in self._state.templates:
            raise already_exists(self._state.path(GLOBAL, "instanceTemplates", name))
        template = Template(
            name=name,
            id=new_id(),
            created=now(),
            description=str(body.get("description", "")),
            properties=properties,
        )
        self._state.add_template(template)
        return self._template_operation("insert", template)

    @api("compute.instanceTemplates.delete")
    def delete_template(self, request: web.Request, body: Json) -> Operation:
        """Delete a template that no group uses."""
        del body
        template = self._templates.here(request, self._state)
        for group in self._state.users_of(template):
            path = self._state.path(GLOBAL, "instanceTemplates", template.name)
            user = self._state.path(group.place, "instanceGroupManagers", group.name)
            raise in_use("instance_template", path, user)
        self._state.remove_template(template)
        return self._template_operation("delete", template)

    def _region_json(self, name: str) -> Json:
        state = self._state
        return catalog.region_json(state.root, name, state.zone, self._capacity.quotas(name))

    def _template_operation(self, kind: str, template: Template) -> Operation:
        link = template_link(self._state, template)
        return self._operations.start(kind, place=GLOBAL, target=link, target_id=template.id)

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

    def __init__(self, state: State, operations: Operations, noun: str) -> None:
        self._state = state
        self._operations = operations
        self._noun = noun

    def add_routes(self, rest: Rest, path: str) -> None:
        """Add them below a path."""
        name = f"compute.{self._noun}Operations"

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
        where = place_of(request)
        found = [self._operations.to_json(operation) for operation in self._operations.all(where)]
        items, token = page(request, sorted(found, key=lambda operation: str(operation["name"])))
        return listed("operationList", f"{self._state.root}/{where}/operations", items, token)

    def _find(self, request: web.Request) -> Operation:
        return self._operations.get(place_of(request), request.match_info["name"])
