"""Firewall rules: what one may say, how they are kept, and whom they let in."""

import ipaddress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_emulator.compute.firewall import allows, checked_rule
from gcp_emulator.server import LocalCloud

from .conftest import Client

FIREWALLS = "global/firewalls"
RULE = {
    "name": "allow-mlflow",
    "allowed": [{"IPProtocol": "tcp", "ports": ["5000"]}],
    "sourceRanges": ["203.0.113.0/24"],
    "targetTags": ["mlflow"],
}


def rule(**more: Any) -> dict[str, Any]:
    """A rule that lets everybody reach port 5000, with these changes."""
    body = {"name": "r", "allowed": [{"IPProtocol": "tcp", "ports": ["5000"]}], **more}
    return checked_rule({key: value for key, value in body.items() if value is not None})


def admits(*rules: dict[str, Any], **more: Any) -> bool:
    """Whether the rules let 203.0.113.7 reach port 5000 of an instance tagged `mlflow`."""
    asked = {"peer": "203.0.113.7", "port": 5000, "tags": ["mlflow"], "account": "vm@x", **more}
    return allows(rules, **asked)


async def test_rule(client: Client) -> None:
    """It comes back with its defaults, is changed in part or as a whole, and deleted."""
    told: list[bool] = []
    client.cloud.state.changed.append(lambda: told.append(True))
    await client.done(await client.call("POST", FIREWALLS, RULE))
    assert told
    shown = await client.get(f"{FIREWALLS}/allow-mlflow")
    assert (shown["direction"], shown["priority"], shown["disabled"]) == ("INGRESS", 1000, False)
    assert shown["logConfig"] == {"enable": False}
    assert shown["network"].endswith("/projects/local/global/networks/default")
    assert {key: shown[key] for key in RULE} == RULE
    assert (await client.get(FIREWALLS))["items"] == [shown]
    taken = await client.call("POST", FIREWALLS, RULE, status=409)
    assert "projects/local/global/firewalls/allow-mlflow" in taken["error"]["message"]
    path = f"{FIREWALLS}/allow-mlflow"
    told.clear()
    await client.done(await client.call("PATCH", path, {"sourceRanges": ["198.51.100.1/32"]}))
    assert told
    patched = await client.get(path)
    assert patched == {**shown, "sourceRanges": ["198.51.100.1/32"]}
    body = {"allowed": RULE["allowed"], "sourceRanges": ["10.0.0.0/8"], "priority": 900}
    await client.done(await client.call("PUT", path, body))
    updated = await client.get(path)
    assert "targetTags" not in updated
    assert (updated["priority"], updated["id"]) == (900, shown["id"])
    await client.call("PATCH", path, {"direction": "EGRESS"}, status=400)
    await client.call("PATCH", path, {"name": "other"}, status=400)
    await client.done(await client.call("DELETE", path))
    for verb, change in (("GET", None), ("PATCH", {}), ("PUT", RULE), ("DELETE", None)):
        await client.call(verb, path, change, status=404)


async def test_a_shown_rule_can_be_sent_back(client: Client) -> None:
    """What `get` gives is taken by `update`, as gcloud and others do it."""
    await client.done(await client.call("POST", FIREWALLS, RULE))
    path = f"{FIREWALLS}/allow-mlflow"
    shown = await client.get(path)
    await client.done(await client.call("PUT", path, shown))
    assert await client.get(path) == shown


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "Bad"}, "resource.name"),
        ({"name": None}, "resource.name"),
        ({"allowed": []}, "resource.allowed"),
        ({"denied": [{"IPProtocol": "tcp"}]}, "resource.allowed"),
        ({"allowed": [{"ports": ["1"]}]}, "resource.allowed[0].IPProtocol"),
        ({"allowed": [{"IPProtocol": "x"}]}, "resource.allowed[0].IPProtocol"),
        ({"allowed": [{"IPProtocol": "icmp", "ports": ["1"]}]}, "resource.allowed[0].ports"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["70000"]}]}, "resource.allowed[0].ports"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["9-1"]}]}, "resource.allowed[0].ports"),
        ({"priority": 65_536}, "resource.priority"),
        ({"priority": -1}, "resource.priority"),
        ({"direction": "IN"}, "resource.direction"),
        ({"direction": "EGRESS"}, "resource.sourceRanges"),
        ({"sourceRanges": ["203.0.113.7/24"]}, "resource.sourceRanges"),
        ({"sourceRanges": ["here"]}, "resource.sourceRanges"),
        ({"destinationRanges": ["10.0.0.0/8"]}, "resource.destinationRanges"),
        ({"targetTags": ["A"]}, "resource.targetTags[0]"),
        ({"sourceServiceAccounts": ["a@x"]}, "resource.sourceServiceAccounts"),
        ({"disabled": "no"}, "resource.disabled"),
        ({"network": "default"}, "resource.network"),
    ],
)
async def test_rules_that_google_refuses(
    client: Client, change: dict[str, Any], named: str
) -> None:
    """What a real project would refuse is refused here, naming the field."""
    refused = await client.call("POST", FIREWALLS, {**RULE, **change}, status=400)
    assert f"'{named}'" in refused["error"]["message"]
    assert client.cloud.state.firewalls == {}


async def test_network(client: Client) -> None:
    """There is one network; rules of another are refused."""
    network = await client.get("global/networks/default")
    assert (await client.get("global/networks"))["items"] == [network]
    await client.call("GET", "global/networks/mine", status=404)
    body = {**RULE, "network": "global/networks/mine"}
    await client.call("POST", FIREWALLS, body, status=404)


async def test_rules_outlive_the_cloud(tmp_path: Path) -> None:
    """After a restart they are the same, with links to where the cloud is by then."""
    seen = []
    for verb in ("POST", "GET"):
        async with (
            LocalCloud(tmp_path / "cloud", engine="inert", operation_seconds=0.0) as cloud,
            aiohttp.ClientSession() as session,
        ):
            client = Client(cloud, session)
            if verb == "POST":
                await client.done(await client.call("POST", FIREWALLS, RULE))
            shown = await client.get(f"{FIREWALLS}/allow-mlflow")
            assert shown["selfLink"].startswith(cloud.endpoint)
            seen.append({key: shown[key] for key in shown if key not in ("selfLink", "network")})
    assert seen[0] == seen[1]


async def test_faults_by_method_name(client: Client) -> None:
    """Permission errors come on demand."""
    fault = {"method": "compute.firewalls.insert", "status": 403, "reason": "forbidden"}
    await client.call("POST", "/emulator/faults", fault)
    await client.call("POST", FIREWALLS, RULE, status=403)
    await client.call("POST", FIREWALLS, RULE)


def test_nothing_comes_in_without_a_rule() -> None:
    """Ingress is denied unless a rule allows it."""
    assert not admits()
    assert admits(rule())


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"targetTags": ["mlflow", "x"]}, True),
        ({"targetTags": ["x"]}, False),
        ({"targetServiceAccounts": ["vm@x"]}, True),
        ({"targetServiceAccounts": ["other@x"]}, False),
        ({"sourceRanges": ["203.0.113.7/32", "10.0.0.0/8"]}, True),
        ({"sourceRanges": ["10.0.0.0/8"]}, False),
        ({"sourceRanges": ["::/0"]}, False),
        ({"sourceServiceAccounts": ["trainer@x"]}, False),
        ({"sourceTags": ["trainer"]}, False),
        ({"disabled": True}, False),
        ({"direction": "EGRESS"}, False),
        ({"allowed": [{"IPProtocol": "tcp"}]}, True),
        ({"allowed": [{"IPProtocol": "all"}]}, True),
        ({"allowed": [{"IPProtocol": "6", "ports": ["1-4999", "5000-5010"]}]}, True),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["22", "5001-5010"]}]}, False),
        ({"allowed": [{"IPProtocol": "udp", "ports": ["5000"]}]}, False),
        ({"allowed": None, "denied": [{"IPProtocol": "tcp"}]}, False),
    ],
)
def test_what_a_rule_fits(changes: dict[str, Any], fits: bool) -> None:
    """A rule counts if target, source, protocol and port fit, and it is on."""
    assert admits(rule(**changes)) is fits


def test_those_of_the_network_are_known_by_account_and_tag() -> None:
    """Rules by source account or tag let in who has it, and nobody else."""
    by_account = rule(sourceServiceAccounts=["trainer@x"], targetServiceAccounts=["vm@x"])
    assert admits(by_account, peer_account="trainer@x")
    assert not admits(by_account, peer_account="other@x")
    by_tag = rule(sourceTags=["trainer"])
    assert admits(by_tag, peer_tags=["trainer"])
    either = rule(sourceTags=["trainer"], sourceRanges=["203.0.113.0/24"])
    assert admits(either)


def test_the_lowest_priority_number_decides() -> None:
    """A deny rule wins over an allow rule of the same priority, and loses against a lower one."""
    deny = rule(name="no", allowed=None, denied=[{"IPProtocol": "all"}])
    assert not admits(rule(), deny)
    assert not admits(deny, rule())
    assert admits(rule(priority=999), deny)
    assert not admits(rule(priority=1001), deny)


@given(
    st.lists(
        st.builds(
            lambda denies, priority, peers: rule(
                allowed=None if denies else [{"IPProtocol": "tcp"}],
                denied=[{"IPProtocol": "tcp"}] if denies else None,
                priority=priority,
                sourceRanges=[f"{peer}/32" for peer in peers],
            ),
            st.booleans(),
            st.integers(0, 3),
            st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), min_size=1, max_size=2),
        ),
        max_size=6,
    ),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
)
def test_order_of_rules_means_nothing(rules: list[dict[str, Any]], peer: str) -> None:
    """Whatever the order, a peer is let in as by looking at one priority after the other."""
    expected = False
    for priority in range(4):
        level = [made for made in rules if made["priority"] == priority]
        fitting = [made for made in level if f"{peer}/32" in made["sourceRanges"]]
        if fitting:
            expected = all("allowed" in made for made in fitting)
            break
    asked: dict[str, Any] = {"peer": peer, "port": 5000, "tags": [], "account": None}
    assert allows(rules, **asked) is expected
    assert allows(reversed(rules), **asked) is expected


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_ranges(peer: ipaddress.IPv4Address, bits: int) -> None:
    """A peer is in its own network, and in no network of the other half of the Internet."""
    own = ipaddress.ip_network(f"{peer}/{bits}", strict=False)
    far = ipaddress.ip_network(f"{ipaddress.IPv4Address(int(peer) ^ (1 << 31))}/1", strict=False)
    assert admits(rule(sourceRanges=[str(own)]), peer=str(peer))
    assert not admits(rule(sourceRanges=[str(far)]), peer=str(peer))
