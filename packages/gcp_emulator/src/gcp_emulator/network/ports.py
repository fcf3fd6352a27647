"""Which ports of an instance the firewall's rules open to anybody at all. Pure.

Rules are Firewall resources of Compute Engine
(https://cloud.google.com/compute/docs/reference/rest/v1/firewalls).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

WIDEST: Final = 64
"""Most ports of one range that are listened on: a rule for all ports opens none by itself."""

_TCP: Final = ("tcp", "6")


def opened(
    rules: Iterable[Mapping[str, Any]], *, tags: Collection[str], account: str | None
) -> set[int]:
    """The TCP ports that some rule opens for an instance of these tags and this account.

    Who is let in is another question (`gcp_emulator.compute.firewall.allows`), to be asked for
    each connection.
    """
    return {
        port
        for rule in rules
        if rule["direction"] == "INGRESS"
        and not rule.get("disabled")
        and _is_for(rule, tags, account)
        for entry in rule.get("allowed", [])
        if entry["IPProtocol"] in _TCP
        for span in entry.get("ports", [])
        for port in _ports(span)
    }


def _is_for(rule: Mapping[str, Any], tags: Collection[str], account: str | None) -> bool:
    if "targetTags" in rule:
        return not set(tags).isdisjoint(rule["targetTags"])
    return "targetServiceAccounts" not in rule or account in rule["targetServiceAccounts"]


def _ports(span: str) -> range:
    low, _, high = span.partition("-")
    ports = range(max(int(low), 1), int(high or low) + 1)
    return ports if len(ports) <= WIDEST else range(0)
