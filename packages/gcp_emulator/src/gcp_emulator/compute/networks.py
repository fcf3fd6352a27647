"""The network and its firewall rules over REST (``networks``, ``firewalls``).

https://cloud.google.com/compute/docs/reference/rest/v1/firewalls. There is one network,
``default``. `firewall` says what a rule may be, and whom rules let in.
"""

from typing import Final

from aiohttp import web

from gcp_emulator.compute import catalog
from gcp_emulator.compute.firewall import checked_rule
from gcp_emulator.compute.nouns import GLOBAL
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.properties import check_network
from gcp_emulator.compute.rest import Rest, Shelf
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import already_exists, invalid, new_id, now
from gcp_emulator.replies import GoogleError, Json, api

_OUTPUT: Final = ("kind", "id", "creationTimestamp", "selfLink", "network", "enableLogging")
_FIXED: Final = ("name", "network", "direction")
_NETWORK_ID: Final = "1000000000000000001"
_EPOCH: Final = "2014-05-30T18:35:16.413+00:00"


class Networks:
    """The routes of ``compute.networks`` and ``compute.firewalls``."""

    def __init__(self, state: State, operations: Operations) -> None:
        self._state = state
        self._operations = operations
        self._networks: Shelf[Json] = Shelf(
            collection="networks",
            noun="network",
            place=GLOBAL,
            found=lambda: {("", "default"): {}},
            show=self._network_json,
        )
        self._firewalls = Shelf(
            collection="firewalls",
            noun="firewall",
            place=GLOBAL,
            found=lambda: {("", name): rule for name, rule in state.firewalls.items()},
            show=self._show,
        )

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.shelve(self._networks)
        rest.shelve(self._firewalls)
        rest.change("POST", self._firewalls.path, self.insert_firewall)
        one = self._firewalls.path + "/{name}"
        rest.change("PATCH", one, self.patch_firewall)
        rest.change("PUT", one, self.update_firewall)
        rest.change("DELETE", one, self.delete_firewall)

    @api("compute.firewalls.insert")
    def insert_firewall(self, request: web.Request, body: Json) -> Operation:
        """Make a firewall rule."""
        del request
        state = self._state
        rule = self._checked(body)
        if rule["name"] in state.firewalls:
            raise already_exists(state.path(GLOBAL, "firewalls", rule["name"]))
        limit = catalog.quota("FIREWALLS")
        if len(state.firewalls) >= limit:
            message = f"Quota 'FIREWALLS' exceeded.  Limit: {limit} globally."
            raise GoogleError(403, "quotaExceeded", message, domain="usageLimits")
        return self._put("insert", {"id": new_id(), "creationTimestamp": now(), **rule})

    @api("compute.firewalls.patch")
    def patch_firewall(self, request: web.Request, body: Json) -> Operation:
        """Change the given members of a rule; null takes one away."""
        rule = self._firewalls.here(request, self._state)
        merged = {key: value for key, value in {**rule, **body}.items() if value is not None}
        return self._change("patch", rule, merged)

    @api("compute.firewalls.update")
    def update_firewall(self, request: web.Request, body: Json) -> Operation:
        """Replace a rule; members that are not given become their defaults."""
        rule = self._firewalls.here(request, self._state)
        return self._change("update", rule, {"name": rule["name"], **body})

    @api("compute.firewalls.delete")
    def delete_firewall(self, request: web.Request, body: Json) -> Operation:
        """Delete a rule."""
        del body
        rule = self._firewalls.here(request, self._state)
        del self._state.firewalls[rule["name"]]
        self._state.save_network()
        return self._operation("delete", rule)

    def _change(self, kind: str, old: Json, wanted: Json) -> Operation:
        rule = self._checked(wanted)
        for key in _FIXED:
            if rule.get(key) != old.get(key):
                raise invalid(f"resource.{key}", rule.get(key), "It can't be changed.")
        kept: Json = {key: old[key] for key in ("id", "creationTimestamp") if key in old}
        return self._put(kind, {**kept, **rule})

    def _checked(self, body: Json) -> Json:
        check_network(self._state, "resource.network", body.get("network"))
        return checked_rule({key: v for key, v in body.items() if key not in _OUTPUT})

    def _put(self, kind: str, rule: Json) -> Operation:
        self._state.firewalls[rule["name"]] = rule
        self._state.save_network()
        return self._operation(kind, rule)

    def _operation(self, kind: str, rule: Json) -> Operation:
        return self._operations.start(
            kind, place=GLOBAL, target=self._link(rule), target_id=rule.get("id", "0")
        )

    def _link(self, rule: Json) -> str:
        return self._state.link(GLOBAL, "firewalls", rule["name"])

    def _show(self, rule: Json) -> Json:
        return {
            "kind": "compute#firewall",
            "id": rule.get("id", "0"),
            "creationTimestamp": _EPOCH,
            **rule,
            "network": self._state.link(GLOBAL, "networks", "default"),
            "selfLink": self._link(rule),
        }

    def _network_json(self, _network: Json) -> Json:
        root = self._state.root
        return {
            "kind": "compute#network",
            "id": _NETWORK_ID,
            "creationTimestamp": _EPOCH,
            "name": "default",
            "description": "Default network for the project",
            "autoCreateSubnetworks": True,
            "subnetworks": [
                f"{root}/regions/{region}/subnetworks/default" for region in self._state.regions
            ],
            "routingConfig": {"routingMode": "REGIONAL"},
            "networkFirewallPolicyEnforcementOrder": "AFTER_CLASSIC_FIREWALL",
            "selfLink": self._state.link(GLOBAL, "networks", "default"),
        }
