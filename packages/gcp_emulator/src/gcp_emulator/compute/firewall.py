"""Firewall rules of the network: what a rule may say, and whom the rules let in. Pure.

https://cloud.google.com/firewall/docs/firewalls: a rule of the lowest priority number that fits
decides, a deny rule before an allow rule of the same priority; what no rule fits is refused.
The rules that Google makes with a new project (``default-allow-ssh``...) are not made here.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from gcp_emulator.compute.wording import check_name, invalid
from gcp_emulator.replies import GoogleError, Json

__all__ = ["allows", "checked_rule"]

_PROTOCOLS: Final = frozenset({"tcp", "udp", "icmp", "esp", "ah", "sctp", "ipip", "all"})
_WITH_PORTS: Final = frozenset({"tcp", "udp", "sctp", "6", "17", "132"})
_TCP: Final = frozenset({"tcp", "6", "all"})
_LISTS: Final = (
    *("sourceRanges", "destinationRanges", "sourceTags", "targetTags"),
    *("sourceServiceAccounts", "targetServiceAccounts"),
)
_INGRESS_ONLY: Final = ("sourceRanges", "sourceTags", "sourceServiceAccounts")
_EGRESS_ONLY: Final = ("destinationRanges",)
_KEPT: Final = ("name", "description", "priority", "direction", "disabled", "logConfig")
_TAG: Final = r"(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"


def allows(
    rules: Iterable[Mapping[str, Any]],
    *,
    peer: str,
    port: int,
    tags: Collection[str],
    account: str | None,
    peer_account: str | None = None,
    peer_tags: Collection[str] = (),
) -> bool:
    """Whether the rules let a TCP connection in.

    Args:
        rules: Firewall resources as Compute Engine shows them (`checked_rule` makes them).
        peer: IPv4 address where the connection comes from.
        port: The instance's port.
        tags: The instance's network tags.
        account: E-mail address of the instance's service account, if it has one.
        peer_account: That of the instance that connects, if it is one of this network and
            reaches for the internal address; rules by source account and tag need it.
        peer_tags: That instance's tags.
    """
    fitting = [
        rule
        for rule in rules
        if rule["direction"] == "INGRESS"
        and not rule.get("disabled")
        and _is_target(rule, tags, account)
        and _is_source(rule, peer, peer_account, peer_tags)
        and any(_has_port(entry, port) for entry in rule.get("denied", rule.get("allowed", [])))
    ]
    if not fitting:
        return False
    first = min(fitting, key=lambda rule: (rule["priority"], "denied" not in rule))
    return "denied" not in first


def checked_rule(body: Json) -> Json:
    """A rule with its defaults, if Compute Engine would take it; without id, times and links.

    Raises:
        GoogleError: 400 ``invalid``, naming the field.
    """
    rule: Json = {key: body[key] for key in _KEPT if key in body}
    check_name("resource.name", body.get("name"))
    rule.setdefault("direction", "INGRESS")
    rule.setdefault("priority", 1_000)
    rule.setdefault("disabled", False)
    rule.setdefault("description", "")
    rule.setdefault("logConfig", {"enable": False})
    if rule["direction"] not in ("INGRESS", "EGRESS"):
        raise _refused("direction", rule["direction"], "Must be INGRESS or EGRESS.")
    priority = rule["priority"]
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 65_535:
        why = "Must be less than or equal to 65535"
        raise _refused("priority", priority, why if str(priority)[:1] != "-" else "Must be >= 0")
    if not isinstance(rule["disabled"], bool):
        raise _refused("disabled", rule["disabled"], "Must be true or false.")
    if bool(body.get("allowed")) == bool(body.get("denied")):
        raise _refused("allowed", "", "Exactly one of allowed and denied must be given.")
    kind = "allowed" if body.get("allowed") else "denied"
    rule[kind] = _entries(kind, body[kind])
    rule |= {key: _texts(key, body[key]) for key in _LISTS if body.get(key)}
    _check_sources(rule)
    return rule


def _is_target(rule: Mapping[str, Any], tags: Collection[str], account: str | None) -> bool:
    if "targetTags" in rule:
        return not set(tags).isdisjoint(rule["targetTags"])
    if "targetServiceAccounts" in rule:
        return account in rule["targetServiceAccounts"]
    return True


def _is_source(
    rule: Mapping[str, Any], peer: str, account: str | None, tags: Collection[str]
) -> bool:
    """Whether one of the rule's sources fits: it can name ranges besides tags or accounts."""
    address = ipaddress.ip_address(peer)
    if any(address in ipaddress.ip_network(text) for text in rule.get("sourceRanges", [])):
        return True
    if account is not None and account in rule.get("sourceServiceAccounts", []):
        return True
    return not set(tags).isdisjoint(rule.get("sourceTags", []))


def _has_port(entry: Mapping[str, Any], port: int) -> bool:
    if entry["IPProtocol"] not in _TCP:
        return False
    ports = entry.get("ports")
    return not ports or any(low <= port <= high for low, high in map(_port_range, ports))


def _port_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _entries(kind: str, given: object) -> list[Json]:
    if not isinstance(given, list):
        raise _refused(kind, "", "Must be a list of protocols and ports.")
    entries = []
    for number, entry in enumerate(given):
        where = f"{kind}[{number}]"
        protocol = entry.get("IPProtocol") if isinstance(entry, dict) else None
        protocol = protocol.lower() if isinstance(protocol, str) else ""
        is_number = protocol.isdecimal() and int(protocol) <= 255
        if protocol not in _PROTOCOLS and not is_number:
            why = "Must be a protocol such as tcp, or its number." if protocol else "Missing."
            raise _refused(f"{where}.IPProtocol", protocol, why)
        ports = entry.get("ports") or []
        if ports and protocol not in _WITH_PORTS:
            raise _refused(f"{where}.ports", "", f"Ports can't be given for {protocol!r}.")
        for text in _texts(f"{where}.ports", ports):
            _check_port(f"{where}.ports", text)
        entries.append({"IPProtocol": protocol, **({"ports": list(ports)} if ports else {})})
    return entries


def _check_port(where: str, text: str) -> None:
    if re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?", text):
        low, high = _port_range(text)
        if low <= high <= 65_535:
            return
    raise _refused(where, text, "Ports may only be integers from 0 to 65535, or ranges of them.")


def _check_sources(rule: Json) -> None:
    ingress = rule["direction"] == "INGRESS"
    accounts = [key for key in rule if key.endswith("ServiceAccounts")]
    tags = [key for key in rule if key.endswith("Tags")]
    if accounts and tags:
        raise _refused(accounts[0], ", ".join(rule[accounts[0]]), "Can't be mixed with tags.")
    for key in _EGRESS_ONLY if ingress else _INGRESS_ONLY:
        if key in rule:
            why = f"Can't be given for a rule of direction {rule['direction']}."
            raise _refused(key, ", ".join(rule[key]), why)
    for key in ("sourceRanges", "destinationRanges"):
        for text in rule.get(key, []):
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                why = "Must be a CIDR address range."
                raise _refused(key, text, why) from error
    for key in tags:
        for number, text in enumerate(rule[key]):
            check_name(f"resource.{key}[{number}]", text, _TAG)
    if ingress and rule.keys().isdisjoint(_INGRESS_ONLY):
        rule["sourceRanges"] = ["0.0.0.0/0"]
    if not ingress:
        rule.setdefault("destinationRanges", ["0.0.0.0/0"])


def _texts(where: str, given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise _refused(where, "", "Must be a list of strings.")
    return list(given)


def _refused(where: str, value: object, why: str) -> GoogleError:
    return invalid(f"resource.{where}", value, why)
