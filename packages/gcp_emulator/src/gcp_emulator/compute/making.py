"""How instances are made up: a group's members, and those of their own."""

import secrets

from gcp_emulator.compute.nouns import Group, Instance, Member
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import new_id, now
from gcp_emulator.replies import Json


def member_instance(state: State, group: Group, member: Member) -> Instance:
    """The instance that a group wants a member to be, in the zone and of the type that it has."""
    properties, number = member.template.properties, state.project_number
    metadata = _metadata(properties) | group.all_metadata | (member.preserved or {})
    metadata["instance-template"] = (
        f"projects/{number}/global/instanceTemplates/{member.template.name}"
    )
    metadata["created-by"] = f"projects/{number}/{group.place}/instanceGroupManagers/{group.name}"
    return Instance(
        name=member.name,
        zone=member.zone,
        id=new_id(),
        created=now(),
        properties=properties,
        machine_type=member.machine_type,
        address=state.take_address(),
        metadata=metadata,
        labels={**properties.get("labels", {}), **group.all_labels},
        tags=tuple(properties.get("tags", {}).get("items", [])),
        account=state.account(properties) or state.default_account,
        group=group,
        token=_token(),
    )


def own_instance(
    state: State, zone: str, name: str, properties: Json, *, static: str | None
) -> Instance:
    """An instance of its own of these properties; `static` is its reserved address, if any."""
    return Instance(
        name=name,
        zone=zone,
        id=new_id(),
        created=now(),
        properties=properties,
        machine_type=properties["machineType"],
        address=state.take_scattered_address(),
        metadata=_metadata(properties),
        labels=properties["labels"],
        tags=tuple(properties["tags"]["items"]),
        account=state.account(properties),
        standalone=True,
        static_address=static,
        token=_token(),
    )


def _metadata(properties: Json) -> dict[str, str]:
    items = properties.get("metadata", {}).get("items", [])
    return {item["key"]: item.get("value", "") for item in items}


def _token() -> str:
    return f"local.{secrets.token_urlsafe(24)}"
