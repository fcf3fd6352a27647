"""How managed instance groups and their members are shown."""

from collections import Counter

from gcp_emulator.compute.lifecycle import template_link
from gcp_emulator.compute.nouns import Group, Member
from gcp_emulator.compute.operations import noun_of
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import fingerprint
from gcp_emulator.replies import Json

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


def group_json(state: State, group: Group) -> Json:
    """A ``compute#instanceGroupManager``."""
    actions = Counter(_ACTIONS[member.action] for member in group.members.values())
    template = template_link(state, group.template)
    stable = not group.deleting and actions["none"] == len(group.members) == group.target_size
    stateful = any(member.preserved is not None for member in group.members.values())
    body: Json = {
        "kind": "compute#instanceGroupManager",
        "id": group.id,
        "creationTimestamp": group.created,
        "name": group.name,
        "description": group.description,
        noun_of(group.place): f"{state.root}/{group.place}",
        "instanceTemplate": template,
        "versions": [
            {"instanceTemplate": template, "targetSize": {"calculated": group.target_size}}
        ],
        "instanceGroup": state.link(group.place, "instanceGroups", group.name),
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
            **({"onRepair": {"allowChangingZone": "YES"}} if group.moves else {}),
        },
        "selfLink": state.link(group.place, "instanceGroupManagers", group.name),
        **group.settings,
    }
    if group.all_metadata or group.all_labels:
        properties = {"metadata": group.all_metadata, "labels": group.all_labels}
        body["allInstancesConfig"] = {"properties": properties}
    return body


def member_json(state: State, group: Group, member: Member) -> Json:
    """One of ``managedInstances``."""
    deleting = member.action == "DELETING"
    body: Json = {
        "instance": state.link(f"zones/{member.zone}", "instances", member.name),
        "name": member.name,
        "currentAction": member.action,
        "targetStatus": "DELETED" if deleting else "RUNNING",
        "version": {"instanceTemplate": template_link(state, member.template)},
    }
    if member.instance is not None and not member.instance.gone:
        body["id"] = member.instance.id
        body["instanceStatus"] = member.instance.status
        if member.instance.terminates:
            body["scheduling"] = {"terminationTimestamp": member.instance.terminates}
    if member.errors:
        body["lastAttempt"] = {"errors": {"errors": member.errors}}
    if group.machine_types and member.machine_type:
        body["propertiesFromFlexibilityPolicy"] = {"machineType": member.machine_type}
    if member.preserved is not None:
        body["preservedStateFromConfig"] = {"metadata": member.preserved}
    return body
