"""Managed instance groups over REST (``instanceGroupManagers``, ``regionInstanceGroupManagers``).

https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers; those of a region
differ in where they lie, and in what `placement` tells. Changes answer with
an operation that is DONE when the change is accepted; only a group's deletion waits for its end.
What a method can't do here is refused, never ignored.
"""

import dataclasses
import re

from aiohttp import web

from gcp_emulator.compute import group_bodies as bodies
from gcp_emulator.compute.group_views import group_json, member_json
from gcp_emulator.compute.lifecycle import Lifecycle
from gcp_emulator.compute.listing import parse_filter
from gcp_emulator.compute.nouns import GROUP_LIMIT, REGIONAL_LIMIT, Group, Member
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.placement import checked_policies, spreads
from gcp_emulator.compute.rest import Rest, Shelf, place_of
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import already_exists, check_name, invalid, new_id, now
from gcp_emulator.replies import GoogleError, Json

_BASE_NAME = r"(?:[a-z](?:[-a-z0-9]{0,57}))"
_KEPT = (
    "autoHealingPolicies",
    "namedPorts",
    "targetPools",
    "statefulPolicy",
    "targetSizePolicy",
)
_INSTANCE_URL = re.compile(r"(?:^|/)zones/(?P<zone>[^/]+)/instances/(?P<name>[^/]+)$")


class Groups:
    """The routes of ``compute.instanceGroupManagers``, or of ``regionInstanceGroupManagers``."""

    def __init__(
        self, state: State, lifecycle: Lifecycle, operations: Operations, *, regional: bool = False
    ) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._operations = operations
        self._regional = regional
        self._most = REGIONAL_LIMIT if regional else GROUP_LIMIT
        zonal = Shelf(
            collection="instanceGroupManagers",
            noun="instanceGroupManager",
            place="zones/{zone}",
            found=lambda: state.groups,
            show=lambda group: group_json(state, group),
        )
        of_region = dataclasses.replace(
            zonal,
            place="regions/{region}",
            service="regionInstanceGroupManagers",
            list_kind="regionInstanceGroupManagerList",
        )
        self._shelves = [zonal, of_region]
        self._shelf = self._shelves[regional]

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.shelve(self._shelf, aggregates=[] if self._regional else self._shelves)
        root, one = self._shelf.path, self._shelf.path + "/{name}"
        for verb, path, name, read in (
            ("POST", one + "/listManagedInstances", "listManagedInstances", self.list_members),
            ("GET", one + "/listErrors", "listErrors", self.list_errors),
        ):
            rest.read(verb, path, read, method=self._shelf.method(name))
        for verb, path, name, change in (
            ("POST", root, "insert", self.insert),
            ("DELETE", one, "delete", self.delete),
            ("PATCH", one, "patch", self.patch),
            ("POST", one + "/createInstances", "createInstances", self.create_instances),
            ("POST", one + "/deleteInstances", "deleteInstances", self.delete_instances),
            ("POST", one + "/resize", "resize", self.resize),
            ("POST", one + "/setInstanceTemplate", "setInstanceTemplate", self.set_template),
        ):
            rest.change(verb, path, change, method=self._shelf.method(name))

    def list_members(self, request: web.Request) -> Json:
        """All members with their instances' state; PAGELESS, which is Google's default."""
        group = self._shelf.here(request, self._state)
        keep = parse_filter(request.query.get("filter", ""))
        members = [member_json(self._state, group, member) for member in group.members.values()]
        kept = [member for member in members if keep(member)]
        return {"managedInstances": kept} if kept else {}

    def list_errors(self, request: web.Request) -> Json:
        """What went wrong with members, newest first."""
        group = self._shelf.here(request, self._state)
        return {"items": list(reversed(group.errors))} if group.errors else {}

    def insert(self, request: web.Request, body: Json) -> Operation:
        """Make a group, and let it want its members."""
        place = place_of(request)
        name = check_name("resource.name", body.get("name"))
        size = bodies.size("resource.targetSize", body.get("targetSize"), self._most)
        given = body.get("baseInstanceName") or name[:58]
        base_name = check_name("resource.baseInstanceName", given, _BASE_NAME)
        template = self._state.template_at(
            body.get("instanceTemplate") or bodies.version_template(body),
            "resource.instanceTemplate",
        )
        metadata, labels = bodies.all_instances(body.get("allInstancesConfig"))
        policies = checked_policies(self._state, place, body, None)
        lifecycle_policy = body.get("instanceLifecyclePolicy")
        if (place.partition("/")[2], name) in self._state.groups:
            raise already_exists(self._state.path(place, "instanceGroupManagers", name))
        group = Group(
            name=name,
            place=place,
            zones=policies.zones,
            id=new_id(),
            created=now(),
            description=bodies.text("resource.description", body.get("description", "")),
            base_instance_name=base_name,
            template=template,
            target_size=size,
            all_metadata=metadata,
            all_labels=labels,
            repair=bodies.repairs(lifecycle_policy),
            shape=policies.shape,
            moves=bodies.moves(lifecycle_policy, regional=self._regional),
            machine_types=policies.machine_types,
            settings={key: body[key] for key in _KEPT if key in body} | policies.settings,
        )
        self._state.groups[group.where, name] = group
        self._lifecycle.grow(group, size)
        return self._operation("insert", group)

    def delete(self, request: web.Request, body: Json) -> Operation:
        """Delete a group with its instances; DONE when all are gone."""
        del body
        group = self._changeable(request)
        self._lifecycle.delete_group(group)
        return self._operation("delete", group, wait=True)

    def patch(self, request: web.Request, body: Json) -> Operation:
        """Change some of a group: target size, template, all-instances config, repair."""
        group = self._changeable(request)
        known = {
            *("name", "fingerprint", "targetSize", "allInstancesConfig", "instanceTemplate"),
            *("versions", "instanceLifecyclePolicy", "description", "kind", "id", "zone"),
            *("region", "distributionPolicy", "updatePolicy", "instanceFlexibilityPolicy"),
            *("selfLink", "creationTimestamp", "instanceGroup", "status", "currentActions"),
            *("baseInstanceName", "listManagedInstancesResults", *_KEPT),
        }
        if unknown := sorted(set(body) - known):
            message = f"The local cloud can't patch {', '.join(unknown)} of a group."
            raise GoogleError(501, "notImplemented", message)
        if body.get("fingerprint", group.fingerprint) != group.fingerprint:
            raise GoogleError(412, "conditionNotMet", "Fingerprint does not match.")
        size = bodies.size(
            "resource.targetSize", body.get("targetSize", group.target_size), self._most
        )
        url = body.get("instanceTemplate") or bodies.version_template(body)
        template = (
            self._state.template_at(url, "resource.instanceTemplate") if url else group.template
        )
        policies = checked_policies(self._state, group.place, body, group)
        if "allInstancesConfig" in body:
            metadata, labels = bodies.all_instances(body["allInstancesConfig"])
            group.all_metadata = {**group.all_metadata, **metadata}
            group.all_labels = {**group.all_labels, **labels}
            group.revision += 1
        if "instanceLifecyclePolicy" in body:
            group.repair = bodies.repairs(body["instanceLifecyclePolicy"])
            group.moves = bodies.moves(body["instanceLifecyclePolicy"], regional=self._regional)
        group.description = bodies.text(
            "resource.description", body.get("description", group.description)
        )
        group.settings |= {key: body[key] for key in _KEPT if key in body} | policies.settings
        if not policies.machine_types:
            group.settings.pop("instanceFlexibilityPolicy", None)
        group.shape, group.machine_types = policies.shape, policies.machine_types
        group.template = template
        self._resize(group, size)
        return self._operation("patch", group)

    def set_template(self, request: web.Request, body: Json) -> Operation:
        """Change the template of members to come."""
        group = self._changeable(request)
        group.template = self._state.template_at(
            bodies.text("resource.instanceTemplate", body.get("instanceTemplate", "")),
            "resource.instanceTemplate",
        )
        return self._operation("setInstanceTemplate", group)

    def resize(self, request: web.Request, body: Json) -> Operation:
        """Change the target size; surplus members go, those without an instance first."""
        del body
        group = self._changeable(request)
        text = request.query.get("size", "")
        if not text.isdecimal():
            raise invalid("size", text, "Must be a whole number.")
        self._resize(group, bodies.size("size", int(text), self._most))
        return self._operation("resize", group)

    def create_instances(self, request: web.Request, body: Json) -> Operation:
        """Add members of given names, each with metadata of its own."""
        group = self._changeable(request)
        entries = body.get("instances")
        if not isinstance(entries, list) or not entries:
            raise invalid("instances", "", "At least one instance must be given.")
        if len(entries) > GROUP_LIMIT:
            raise invalid("instances", len(entries), f"At most {GROUP_LIMIT} can be given.")
        if spreads(group):
            where = "resource.updatePolicy.instanceRedistributionType"
            why = (
                "A regional group takes instances by name only while its proactive instance"
                " redistribution is disabled (NONE)."
            )
            raise invalid(where, "PROACTIVE", why)
        wanted: dict[str, dict[str, str] | None] = {}
        for number, entry in enumerate(entries):
            where = f"instances[{number}]"
            name, preserved = bodies.per_instance(where, entry)
            if name in wanted:
                raise invalid(f"{where}.name", name, "Instance names must be unique.")
            wanted[name] = preserved
        there = self._state.instances
        for name in wanted:
            for zone in group.zones:
                if name in group.members or (zone, name) in there:
                    raise already_exists(self._state.path(f"zones/{zone}", "instances", name))
        size = group.target_size + len(wanted)
        group.target_size = bodies.size("targetSize", size, self._most)
        self._lifecycle.grow(group, wanted)
        return self._operation("createInstances", group)

    def delete_instances(self, request: web.Request, body: Json) -> Operation:
        """Delete members; the target size falls at once, DONE when they are scheduled."""
        group = self._changeable(request)
        urls = body.get("instances")
        if not isinstance(urls, list) or not urls:
            raise invalid("instances", "", "At least one instance must be given.")
        if len(urls) > GROUP_LIMIT:
            raise invalid("instances", len(urls), f"At most {GROUP_LIMIT} can be given.")
        skip = body.get("skipInstancesOnValidationError") is True
        chosen: dict[str, Member] = {}
        for number, url in enumerate(urls):
            name = self._member_name(group, f"instances[{number}]", url)
            member = group.members.get(name)
            if member is not None and member.action != "DELETING":
                chosen[name] = member
            elif not skip:
                raise invalid(
                    f"instances[{number}]",
                    url,
                    f"Instance '{url}' is not a member of the managed instance group"
                    f" '{group.name}', or is being deleted already.",
                )
        group.target_size -= len(chosen)
        graceless = request.query.get("noGracefulShutdown") == "true"
        grace = 0.0 if graceless else self._lifecycle.grace_seconds
        self._lifecycle.shrink(group, chosen.values(), grace=grace)
        return self._operation("deleteInstances", group)

    def _changeable(self, request: web.Request) -> Group:
        group = self._shelf.here(request, self._state)
        if group.deleting:
            path = self._state.path(group.place, "instanceGroupManagers", group.name)
            raise GoogleError(400, "resourceNotReady", f"The resource '{path}' is not ready")
        return group

    def _resize(self, group: Group, size: int) -> None:
        surplus = group.target_size - size
        group.target_size = size
        if surplus < 0:
            self._lifecycle.grow(group, -surplus)
        elif surplus > 0:
            alive = [member for member in group.members.values() if member.action != "DELETING"]
            alive.sort(key=lambda member: (member.instance is not None, member.action == "NONE"))
            self._lifecycle.shrink(group, alive[:surplus], grace=self._lifecycle.grace_seconds)

    def _member_name(self, group: Group, where: str, url: object) -> str:
        """The instance's name of a full or partial URL, or a queued member's bare name."""
        if isinstance(url, str):
            found = _INSTANCE_URL.search(url)
            if found and found["zone"] in group.zones:
                return found["name"]
            member = group.members.get(url)
            if member is not None and member.instance is None:
                return url
        raise invalid(where, url, "The URL is malformed.")

    def _operation(self, kind: str, group: Group, *, wait: bool = False) -> Operation:
        return self._operations.start(
            f"compute.instanceGroupManagers.{kind}",
            place=group.place,
            target=self._state.link(group.place, "instanceGroupManagers", group.name),
            target_id=group.id,
            work=group.gone.wait if wait else None,
        )
