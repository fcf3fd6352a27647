"""Zonal managed instance groups over REST (``instanceGroupManagers``).

https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers. Changes answer with
an operation that is DONE when the change is accepted; only a group's deletion waits for its end.
What a method can't do here is refused, never ignored.
"""

import re
from collections import Counter
from typing import Any

from aiohttp import web

from gcp_emulator.compute.lifecycle import Lifecycle, template_link
from gcp_emulator.compute.listing import page, parse_filter
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.rest import Rest, aggregated, listed
from gcp_emulator.compute.state import (
    GROUP_LIMIT,
    Group,
    Member,
    State,
    already_exists,
    check_name,
    fingerprint,
    invalid,
    new_id,
    now,
)
from gcp_emulator.replies import GoogleError, Json, api

_BASE_NAME = r"(?:[a-z](?:[-a-z0-9]{0,57}))"
_KEPT = (
    "autoHealingPolicies",
    "namedPorts",
    "targetPools",
    "updatePolicy",
    "statefulPolicy",
    "targetSizePolicy",
)
_ACTIONS = {
    "CREATING": "creating",
    "RECREATING": "recreating",
    "DELETING": "deleting",
    "VERIFYING": "verifying",
    "NONE": "none",
}
_ALL_ACTIONS = (
    *("none", "creating", "creatingWithoutRetries", "verifying", "recreating", "deleting"),
    *("abandoning", "restarting", "refreshing", "suspending", "resuming", "stopping", "starting"),
)
_INSTANCE_URL = re.compile(r"(?:^|/)zones/(?P<zone>[^/]+)/instances/(?P<name>[^/]+)$")


class Groups:
    """The routes of ``compute.instanceGroupManagers``."""

    def __init__(self, state: State, lifecycle: Lifecycle, operations: Operations) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._operations = operations

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.read("GET", "/aggregated/instanceGroupManagers", self.aggregated_list)
        root = "/zones/{zone}/instanceGroupManagers"
        rest.change("POST", root, self.insert)
        rest.read("GET", root, self.list)
        one = root + "/{name}"
        rest.read("GET", one, self.get)
        rest.change("DELETE", one, self.delete)
        rest.change("PATCH", one, self.patch)
        rest.read("POST", one + "/listManagedInstances", self.list_managed_instances)
        rest.read("GET", one + "/listErrors", self.list_errors)
        rest.change("POST", one + "/createInstances", self.create_instances)
        rest.change("POST", one + "/deleteInstances", self.delete_instances)
        rest.change("POST", one + "/resize", self.resize)
        rest.change("POST", one + "/setInstanceTemplate", self.set_instance_template)

    @api("compute.instanceGroupManagers.get")
    def get(self, request: web.Request) -> Json:
        """One group."""
        return self._group_json(self._group(request))

    @api("compute.instanceGroupManagers.list")
    def list(self, request: web.Request) -> Json:
        """The groups of a zone."""
        zone = request.match_info["zone"]
        found = [
            self._group_json(g) for (at, _), g in sorted(self._state.groups.items()) if at == zone
        ]
        items, token = page(request, found)
        return listed(
            "instanceGroupManagerList",
            f"{self._state.root}/zones/{zone}/instanceGroupManagers",
            items,
            token,
        )

    @api("compute.instanceGroupManagers.aggregatedList")
    def aggregated_list(self, request: web.Request) -> Json:
        """The groups of all zones."""
        found = [self._group_json(group) for _, group in sorted(self._state.groups.items())]
        return aggregated(request, self._state, "instanceGroupManager", found)

    @api("compute.instanceGroupManagers.listManagedInstances")
    def list_managed_instances(self, request: web.Request) -> Json:
        """All members with their instances' state; PAGELESS, which is Google's default."""
        group = self._group(request)
        keep = parse_filter(request.query.get("filter", ""))
        members = [self._member_json(group, member) for member in group.members.values()]
        kept = [member for member in members if keep(member)]
        return {"managedInstances": kept} if kept else {}

    @api("compute.instanceGroupManagers.listErrors")
    def list_errors(self, request: web.Request) -> Json:
        """What went wrong with members, newest first."""
        group = self._group(request)
        return {"items": list(reversed(group.errors))} if group.errors else {}

    @api("compute.instanceGroupManagers.insert")
    def insert(self, request: web.Request, body: Json) -> Operation:
        """Make a group, and let it want its members."""
        zone = request.match_info["zone"]
        name = check_name("resource.name", body.get("name"))
        size = _size("resource.targetSize", body.get("targetSize"))
        given = body.get("baseInstanceName") or name[:58]
        base_name = check_name("resource.baseInstanceName", given, _BASE_NAME)
        template = self._state.template_at(
            body.get("instanceTemplate") or _version_template(body), "resource.instanceTemplate"
        )
        metadata, labels = _all_instances(body.get("allInstancesConfig"))
        if (zone, name) in self._state.groups:
            raise already_exists(self._state.path(zone, "instanceGroupManagers", name))
        group = Group(
            name=name,
            zone=zone,
            id=new_id(),
            created=now(),
            description=_text("resource.description", body.get("description", "")),
            base_instance_name=base_name,
            template=template,
            target_size=size,
            all_metadata=metadata,
            all_labels=labels,
            repair=_repairs(body.get("instanceLifecyclePolicy")),
            settings={key: body[key] for key in _KEPT if key in body},
        )
        self._state.groups[zone, name] = group
        self._lifecycle.grow(group, size)
        return self._operation("insert", group)

    @api("compute.instanceGroupManagers.delete")
    def delete(self, request: web.Request, body: Json) -> Operation:
        """Delete a group with its instances; DONE when all are gone."""
        del body
        group = self._changeable(request)
        self._lifecycle.delete_group(group)
        return self._operation("delete", group, wait=True)

    @api("compute.instanceGroupManagers.patch")
    def patch(self, request: web.Request, body: Json) -> Operation:
        """Change some of a group: target size, template, all-instances config, repair."""
        group = self._changeable(request)
        known = {
            *("name", "fingerprint", "targetSize", "allInstancesConfig", "instanceTemplate"),
            *("versions", "instanceLifecyclePolicy", "description", "kind", "id", "zone"),
            *("selfLink", "creationTimestamp", "instanceGroup", "status", "currentActions"),
            *("baseInstanceName", "listManagedInstancesResults", *_KEPT),
        }
        if unknown := sorted(set(body) - known):
            message = f"The local cloud can't patch {', '.join(unknown)} of a group."
            raise GoogleError(501, "notImplemented", message)
        if body.get("fingerprint", group.fingerprint) != group.fingerprint:
            raise GoogleError(412, "conditionNotMet", "Fingerprint does not match.")
        size = _size("resource.targetSize", body.get("targetSize", group.target_size))
        url = body.get("instanceTemplate") or _version_template(body)
        template = (
            self._state.template_at(url, "resource.instanceTemplate") if url else group.template
        )
        if "allInstancesConfig" in body:
            metadata, labels = _all_instances(body["allInstancesConfig"])
            group.all_metadata = {**group.all_metadata, **metadata}
            group.all_labels = {**group.all_labels, **labels}
            group.revision += 1
        if "instanceLifecyclePolicy" in body:
            group.repair = _repairs(body["instanceLifecyclePolicy"])
        group.description = _text(
            "resource.description", body.get("description", group.description)
        )
        group.settings |= {key: body[key] for key in _KEPT if key in body}
        group.template = template
        self._resize(group, size)
        return self._operation("patch", group)

    @api("compute.instanceGroupManagers.setInstanceTemplate")
    def set_instance_template(self, request: web.Request, body: Json) -> Operation:
        """Change the template of members to come."""
        group = self._changeable(request)
        group.template = self._state.template_at(
            _text("resource.instanceTemplate", body.get("instanceTemplate", "")),
            "resource.instanceTemplate",
        )
        return self._operation("setInstanceTemplate", group)

    @api("compute.instanceGroupManagers.resize")
    def resize(self, request: web.Request, body: Json) -> Operation:
        """Change the target size; surplus members go, those without an instance first."""
        del body
        group = self._changeable(request)
        text = request.query.get("size", "")
        if not text.isdecimal():
            raise invalid("size", text, "Must be a whole number.")
        self._resize(group, _size("size", int(text)))
        return self._operation("resize", group)

    @api("compute.instanceGroupManagers.createInstances")
    def create_instances(self, request: web.Request, body: Json) -> Operation:
        """Add members of given names, each with metadata of its own."""
        group = self._changeable(request)
        entries = body.get("instances")
        if not isinstance(entries, list) or not entries:
            raise invalid("instances", "", "At least one instance must be given.")
        wanted: dict[str, dict[str, str] | None] = {}
        for number, entry in enumerate(entries):
            where = f"instances[{number}]"
            name, preserved = _per_instance(where, entry)
            if name in wanted:
                raise invalid(f"{where}.name", name, "Instance names must be unique.")
            wanted[name] = preserved
        for name in wanted:
            if name in group.members or (group.zone, name) in self._state.instances:
                raise already_exists(self._state.path(group.zone, "instances", name))
        group.target_size = _size("targetSize", group.target_size + len(wanted))
        self._lifecycle.grow(group, wanted)
        return self._operation("createInstances", group)

    @api("compute.instanceGroupManagers.deleteInstances")
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
                path = self._state.path(group.zone, "instances", name)
                raise invalid(
                    f"instances[{number}]",
                    url,
                    f"Instance '{path}' is not a member of the managed instance group"
                    f" '{group.name}', or is being deleted already.",
                )
        group.target_size -= len(chosen)
        graceless = request.query.get("noGracefulShutdown") == "true"
        grace = 0.0 if graceless else self._lifecycle.grace_seconds
        self._lifecycle.shrink(group, chosen.values(), grace=grace)
        return self._operation("deleteInstances", group)

    def _group(self, request: web.Request) -> Group:
        return self._state.group(request.match_info["zone"], request.match_info["name"])

    def _changeable(self, request: web.Request) -> Group:
        group = self._group(request)
        if group.deleting:
            path = self._state.path(group.zone, "instanceGroupManagers", group.name)
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
            if found and found["zone"] == group.zone:
                return found["name"]
            member = group.members.get(url)
            if member is not None and member.instance is None:
                return url
        raise invalid(where, url, "The URL is malformed.")

    def _operation(self, kind: str, group: Group, *, wait: bool = False) -> Operation:
        return self._operations.start(
            f"compute.instanceGroupManagers.{kind}",
            zone=group.zone,
            target=self._link(group),
            target_id=group.id,
            work=group.gone.wait if wait else None,
        )

    def _link(self, group: Group) -> str:
        return self._state.link(group.zone, "instanceGroupManagers", group.name)

    def _group_json(self, group: Group) -> Json:
        actions = Counter(_ACTIONS[member.action] for member in group.members.values())
        template = template_link(self._state, group.template)
        stable = not group.deleting and actions["none"] == len(group.members) == group.target_size
        stateful = any(member.preserved is not None for member in group.members.values())
        body: Json = {
            "kind": "compute#instanceGroupManager",
            "id": group.id,
            "creationTimestamp": group.created,
            "name": group.name,
            "description": group.description,
            "zone": f"{self._state.root}/zones/{group.zone}",
            "instanceTemplate": template,
            "versions": [
                {"instanceTemplate": template, "targetSize": {"calculated": group.target_size}}
            ],
            "instanceGroup": self._state.link(group.zone, "instanceGroups", group.name),
            "baseInstanceName": group.base_instance_name,
            "fingerprint": group.fingerprint,
            "currentActions": {action: actions[action] for action in _ALL_ACTIONS},
            "status": {
                "isStable": stable,
                "allInstancesConfig": {
                    "effective": True,
                    "currentRevision": fingerprint([group.all_metadata, group.all_labels]),
                },
                "versionTarget": {"isReached": stable},
                "stateful": {
                    "hasStatefulConfig": stateful,
                    "perInstanceConfigs": {"allEffective": True},
                },
            },
            "targetSize": group.target_size,
            "listManagedInstancesResults": "PAGELESS",
            "instanceLifecyclePolicy": {
                "defaultActionOnFailure": "REPAIR" if group.repair else "DO_NOTHING",
                "forceUpdateOnRepair": "NO",
            },
            "selfLink": self._link(group),
            **group.settings,
        }
        if group.all_metadata or group.all_labels:
            properties = {"metadata": group.all_metadata, "labels": group.all_labels}
            body["allInstancesConfig"] = {"properties": properties}
        return body

    def _member_json(self, group: Group, member: Member) -> Json:
        deleting = member.action == "DELETING"
        body: Json = {
            "instance": self._state.link(group.zone, "instances", member.name),
            "name": member.name,
            "currentAction": member.action,
            "targetStatus": "DELETED" if deleting else "RUNNING",
            "version": {"instanceTemplate": template_link(self._state, member.template)},
        }
        if member.instance is not None:
            body["id"] = member.instance.id
            body["instanceStatus"] = member.instance.status
        if member.errors:
            body["lastAttempt"] = {"errors": {"errors": member.errors}}
        if member.preserved is not None:
            body["preservedStateFromConfig"] = {"metadata": member.preserved}
        return body


def _size(where: str, value: object) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        shown = "" if value is None else value
        raise invalid(where, shown, "Must be a whole number that is not negative.")
    if value > GROUP_LIMIT:
        raise invalid(where, value, f"Must be less than or equal to {GROUP_LIMIT}.")
    return value


def _repairs(policy: Json | None) -> bool:
    action = (policy or {}).get("defaultActionOnFailure", "REPAIR")
    if action not in ("REPAIR", "DO_NOTHING"):
        where = "resource.instanceLifecyclePolicy.defaultActionOnFailure"
        raise invalid(where, action, "Must be one of REPAIR, DO_NOTHING.")
    return bool(action == "REPAIR")


def _version_template(body: Json) -> str:
    versions = body.get("versions")
    if not isinstance(versions, list) or not versions:
        return ""
    if len(versions) > 1:
        raise GoogleError(501, "notImplemented", "The local cloud knows groups of one version.")
    return _text("resource.versions[0].instanceTemplate", versions[0].get("instanceTemplate", ""))


def _all_instances(config: Json | None) -> tuple[dict[str, str], dict[str, str]]:
    properties = (config or {}).get("properties") or {}
    where = "resource.allInstancesConfig.properties"
    if unknown := set(properties) - {"metadata", "labels"}:
        raise invalid(where, ", ".join(sorted(unknown)), "Only metadata and labels can be given.")
    return (
        _strings(f"{where}.metadata", properties.get("metadata")),
        _strings(f"{where}.labels", properties.get("labels")),
    )


def _per_instance(where: str, entry: Any) -> tuple[str, dict[str, str] | None]:
    if not isinstance(entry, dict):
        raise invalid(where, entry, "Must be an object.")
    name = check_name(f"{where}.name", entry.get("name"))
    preserved = entry.get("preservedState")
    if preserved is None:
        return name, None
    if unknown := {key for key, value in preserved.items() if value} - {"metadata"}:
        message = f"The local cloud can't preserve {', '.join(sorted(unknown))} of an instance."
        raise GoogleError(501, "notImplemented", message)
    return name, _strings(f"{where}.preservedState.metadata", preserved.get("metadata"))


def _strings(where: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(where, value, "Must be an object of strings.")
    for key, text in value.items():
        if not isinstance(text, str):
            raise invalid(f"{where}.{key}", text, "Must be a string.")
    return dict(value)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise invalid(where, value, "Must be a string.")
    return value
