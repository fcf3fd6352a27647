"""Reserved external addresses of regions over REST (``addresses``).

https://cloud.google.com/compute/docs/reference/rest/v1/addresses. An address is a loopback
address that nothing else has; it is IN_USE while an instance exists that was made with it.
"""

import dataclasses
from typing import Final

from aiohttp import web

from gcp_emulator.compute import catalog
from gcp_emulator.compute.nouns import Address
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.properties import check_fingerprint, label_items
from gcp_emulator.compute.rest import Rest, Shelf
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import (
    already_exists,
    check_name,
    fingerprint,
    in_use,
    new_id,
    now,
)
from gcp_emulator.replies import GoogleError, Json, api

_ONLY: Final = {"addressType": "EXTERNAL", "networkTier": "PREMIUM", "ipVersion": "IPV4"}
_REFUSED: Final = ("address", "subnetwork", "network", "purpose", "prefixLength")


class Addresses:
    """The routes of ``compute.addresses``."""

    def __init__(self, state: State, operations: Operations) -> None:
        self._state = state
        self._operations = operations
        self._shelf = Shelf(
            collection="addresses",
            noun="address",
            place="regions/{region}",
            found=lambda: state.addresses,
            show=self._show,
        )

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.shelve(self._shelf, aggregates=[self._shelf])
        rest.change("POST", self._shelf.path, self.insert)
        one = self._shelf.path + "/{name}"
        rest.change("DELETE", one, self.delete)
        rest.change("POST", one + "/setLabels", self.set_labels)

    @api("compute.addresses.insert")
    def insert(self, request: web.Request, body: Json) -> Operation:
        """Reserve an address."""
        state, region = self._state, request.match_info["region"]
        name = check_name("resource.name", body.get("name"))
        _refuse_others(body)
        labels = label_items("resource.labels", body.get("labels") or {})
        if (region, name) in state.addresses:
            raise already_exists(state.path(f"regions/{region}", "addresses", name))
        limit = catalog.quota("STATIC_ADDRESSES")
        if sum(at == region for at, _ in state.addresses) >= limit:
            message = f"Quota 'STATIC_ADDRESSES' exceeded.  Limit: {limit} in region {region}."
            raise GoogleError(403, "quotaExceeded", message, domain="usageLimits")
        address = Address(
            name=name,
            region=region,
            id=new_id(),
            created=now(),
            description=str(body.get("description", "")),
            address=state.take_scattered_address(),
            labels=labels,
        )
        state.addresses[region, name] = address
        state.save_network()
        return self._operation("insert", address)

    @api("compute.addresses.delete")
    def delete(self, request: web.Request, body: Json) -> Operation:
        """Give an address back that no instance has."""
        del body
        address = self._shelf.here(request, self._state)
        user = self._state.user_of(address)
        if user is not None:
            path = self._state.path(address.place, "addresses", address.name)
            by = self._state.path(user.place, "instances", user.name)
            raise in_use("address", path, by)
        del self._state.addresses[address.region, address.name]
        self._state.save_network()
        return self._operation("delete", address)

    @api("compute.addresses.setLabels")
    def set_labels(self, request: web.Request, body: Json) -> Operation:
        """Replace an address's labels; needs the fingerprint of what is replaced."""
        address = self._shelf.here(request, self._state)
        check_fingerprint("labels", body.get("labelFingerprint"), fingerprint(address.labels))
        labels = label_items("labels", body.get("labels") or {})
        address = dataclasses.replace(address, labels=labels)
        self._state.addresses[address.region, address.name] = address
        self._state.save_network()
        return self._operation("setLabels", address)

    def _operation(self, kind: str, address: Address) -> Operation:
        link = self._link(address)
        return self._operations.start(kind, place=address.place, target=link, target_id=address.id)

    def _link(self, address: Address) -> str:
        return self._state.link(address.place, "addresses", address.name)

    def _show(self, address: Address) -> Json:
        user = self._state.user_of(address)
        body: Json = {
            "kind": "compute#address",
            "id": address.id,
            "creationTimestamp": address.created,
            "name": address.name,
            "description": address.description,
            "address": address.address,
            "status": "IN_USE" if user else "RESERVED",
            "region": f"{self._state.root}/{address.place}",
            "selfLink": self._link(address),
            "addressType": "EXTERNAL",
            "networkTier": "PREMIUM",
            "labels": address.labels,
            "labelFingerprint": fingerprint(address.labels),
        }
        if user:
            body["users"] = [self._state.link(user.place, "instances", user.name)]
        return body


def _refuse_others(body: Json) -> None:
    """Refuse what is no external IPv4 address of Google's choice."""
    wrong = [key for key, only in _ONLY.items() if body.get(key, only) not in (only, "")]
    wrong += [key for key in _REFUSED if body.get(key)]
    if wrong:
        message = f"The local cloud reserves no address with {', '.join(wrong)}."
        raise GoogleError(501, "notImplemented", message)
