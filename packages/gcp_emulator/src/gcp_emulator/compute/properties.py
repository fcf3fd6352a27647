"""What a VM may be made of: the checks that templates and instances share. Pure.

https://cloud.google.com/compute/docs/reference/rest/v1/instances, in Google's words where they
are known.
"""

import re
from typing import Any

from gcp_emulator.compute import catalog
from gcp_emulator.compute.nouns import GLOBAL
from gcp_emulator.compute.scheduling import checked_scheduling
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import check_name, fingerprint, invalid, not_found
from gcp_emulator.replies import GoogleError, Json

_METADATA_BYTES = 256 << 10
_LABEL_KEY = r"[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]{0,62}"
_LABEL_VALUE = r"[\p{Ll}\p{Lo}\p{N}_-]{0,63}"
_TAGS = 64


def template_properties(properties: object) -> Json:
    """A template's properties, if Compute Engine would take them."""
    where = "resource.properties"
    if not isinstance(properties, dict):
        raise invalid(where, "", "Instance properties must be given.")
    kind = properties.get("machineType")
    if not isinstance(kind, str) or not kind:
        raise invalid(f"{where}.machineType", kind or "", "The machine type must be given.")
    check_name(f"{where}.machineType", kind)
    _check_parts(where, properties)
    metadata = metadata_items(f"{where}.metadata", properties.get("metadata") or {})
    _check_metadata(where, metadata)
    scheduling = checked_scheduling(f"{where}.scheduling", properties.get("scheduling"))
    return properties | {"metadata": metadata_json(metadata), "scheduling": scheduling}


def instance_properties(state: State, zone: str, body: Json) -> Json:
    """The properties of an instance of its own, as a template's; 400 for what can't be.

    ``machineType`` is the name alone, addresses are not checked yet.
    """
    where = "resource"
    kind = _machine_type(state, zone, body.get("machineType"))
    _check_parts(where, body)
    if not body["disks"][0].get("boot", False):
        why = "Boot disk must be the first disk attached to the instance."
        raise invalid(f"{where}.disks[0]", "", why)
    for number, nic in enumerate(body["networkInterfaces"]):
        check_network(state, f"{where}.networkInterfaces[{number}].network", nic.get("network"))
    metadata = metadata_items(f"{where}.metadata", body.get("metadata") or {})
    _check_metadata(where, metadata)
    tags = tag_items(f"{where}.tags", body.get("tags") or {})
    accounts = body.get("serviceAccounts") or []
    if not isinstance(accounts, list) or not all(isinstance(one, dict) for one in accounts):
        raise invalid(f"{where}.serviceAccounts", "", "Must be a list of service accounts.")
    if len(accounts) > 1:
        why = "At most one service account can be specified."
        raise invalid(f"{where}.serviceAccounts", len(accounts), why)
    return {
        "description": str(body.get("description", "")),
        "machineType": kind,
        "disks": body["disks"],
        "networkInterfaces": body["networkInterfaces"],
        "metadata": metadata_json(metadata),
        "tags": {"items": list(tags)},
        "labels": label_items(f"{where}.labels", body.get("labels") or {}),
        "serviceAccounts": accounts,
        "scheduling": checked_scheduling(f"{where}.scheduling", body.get("scheduling")),
        "canIpForward": bool(body.get("canIpForward", False)),
    }


def metadata_items(where: str, metadata: Json) -> dict[str, str]:
    """Metadata as a mapping, if Compute Engine would take it."""
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


def metadata_json(metadata: dict[str, str]) -> Json:
    """Metadata as Compute Engine shows it, with its fingerprint."""
    body: Json = {"kind": "compute#metadata", "fingerprint": fingerprint(metadata)}
    if metadata:
        body["items"] = [{"key": key, "value": value} for key, value in metadata.items()]
    return body


def tag_items(where: str, tags: Json) -> tuple[str, ...]:
    """Network tags, if Compute Engine would take them."""
    items = tags.get("items") or []
    if not isinstance(items, list) or len(items) > _TAGS:
        raise invalid(f"{where}.items", "", f"Must be a list of at most {_TAGS} tags.")
    checked = [check_name(f"{where}.items[{i}]", item) for i, item in enumerate(items)]
    return tuple(dict.fromkeys(checked))


def tags_json(tags: tuple[str, ...]) -> Json:
    """Network tags as Compute Engine shows them, with their fingerprint."""
    items: Json = {"items": list(tags)} if tags else {}
    return {**items, "fingerprint": fingerprint(tags)}


def label_items(where: str, labels: object) -> dict[str, str]:
    """Labels, if Compute Engine would take them."""
    if not isinstance(labels, dict):
        raise invalid(where, "", "Must be an object of keys and values.")
    for key, value in labels.items():
        if not _is_label(key, first=True):
            raise invalid(where, key, f"Label key must match regex '{_LABEL_KEY}'")
        if not isinstance(value, str) or not _is_label(value, first=False):
            raise invalid(where, value, f"Label value must match regex '{_LABEL_VALUE}'")
    return dict(labels)


def check_fingerprint(noun: str, given: object, current: str) -> None:
    """Refuse to replace what is not what its caller has seen."""
    if given != current:
        message = f"Supplied fingerprint does not match current {noun} fingerprint."
        raise GoogleError(412, "conditionNotMet", message)


def check_network(state: State, where: str, url: object) -> None:
    """Refuse another network than ``default``, the only one; none named means it."""
    if url in (None, ""):
        return
    found = re.search(r"(?:^|/)global/networks/([^/]+)$", url) if isinstance(url, str) else None
    if found is None:
        raise invalid(where, url, "The URL is malformed.")
    if found[1] != "default":
        raise not_found(state.path(GLOBAL, "networks", found[1]))


def _machine_type(state: State, zone: str, url: object) -> str:
    where = "resource.machineType"
    found = (
        re.search(r"(?:^|/)zones/([^/]+)/machineTypes/([^/]+)$", url)
        if isinstance(url, str)
        else None
    )
    if found is None:
        raise invalid(where, url or "", "The URL is malformed.")
    if found[1] != zone:
        path = f"projects/{state.project}/zones/{zone}"
        raise invalid(where, url, f"Machine type is not in the zone of the instance: {path}.")
    if found[2] not in catalog.MACHINE_TYPES:
        why = f"Machine type with name '{found[2]}' does not exist in zone '{zone}'."
        raise invalid(where, url, why)
    return found[2]


def _check_parts(where: str, properties: Json) -> None:
    for collection, noun in (("disks", "disk"), ("networkInterfaces", "network interface")):
        given: Any = properties.get(collection)
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            given = []
        if not given:
            raise invalid(f"{where}.{collection}", "", f"At least one {noun} is required.")


def _check_metadata(where: str, metadata: dict[str, str]) -> None:
    if "gce-container-declaration" in metadata:
        raise invalid(
            f"{where}.metadata",
            "gce-container-declaration",
            "Containers on Compute Engine instances are started by cloud-init or a startup script:"
            " the container startup agent was shut down on 31 July 2026.",
        )


def _is_label(text: str, *, first: bool) -> bool:
    """Lower-case letters of any script, digits, ``_`` and ``-``; a key begins with a letter."""
    if len(text) > 63 or (first and not text):
        return False
    if first and not text[0].isalpha():
        return False
    return all(c in "_-" or (c.isalnum() and c == c.lower()) for c in text)
