"""How a sweep's instances are reached, where they log, and whom they tell."""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from gcloud_ops import alerts
from gcloud_ops.compute import last_part
from gcloud_ops.contract import Dispatch
from gcloud_ops.doctor.facts import Facts, Machine
from gcloud_ops.doctor.findings import Finding, ok, problem, warning
from gcloud_ops.errors import NotFound
from gcloud_ops.iap import RELAY_ADDRESSES
from gcloud_ops.ssh import public_key_line
from gcloud_ops.tracking import SERVER

__all__ = ["channels", "key", "needs_iap", "ssh", "tracking"]

_SETUP: Final = "`gcloud-ops setup`"
_CONNECT_SECONDS: Final = 3.0


def needs_iap(facts: Facts) -> bool:
    """Whether SSH to the instances goes through IAP."""
    iap = facts.clients.settings.iap
    return iap == "always" or (iap == "auto" and not facts.machine().external_address)


def ssh(facts: Facts) -> Iterator[Finding]:
    """Whether the firewall lets SSH come to the instances, directly or through IAP."""
    name, clients, machine = "SSH", facts.clients, facts.machine()
    through_iap = needs_iap(facts)
    rules = clients.read_all("firewall rules", clients.firewalls.list, project=clients.project)
    account = facts.account()
    if not clients.settings.is_google and not through_iap:
        yield ok(name, "another cloud: how its instances are reached is its own affair")
        return
    port = clients.settings.ssh_port if clients.settings.is_google else 22
    open_to = {
        source
        for rule in rules
        if _admits_ssh(rule, machine, account, port=port)
        for source in rule.source_ranges
    }
    way = f"through IAP ({RELAY_ADDRESSES})" if through_iap else "on their external addresses"
    everybody = "0.0.0.0/0" in open_to
    if everybody or (RELAY_ADDRESSES in open_to if through_iap else open_to):
        if everybody:
            yield ok(name, f"{way}; the whole Internet may try, keys alone let in")
        else:
            yield ok(name, f"{way}, from {', '.join(sorted(open_to))}")
        return
    words = f"no firewall rule lets SSH reach the instances {way}"
    advice = (
        f"{_SETUP.rstrip('`')} --iap` makes one"
        if through_iap
        else "see `gcloud compute firewall-rules create --help`, or use IAP: "
        f"{_SETUP.rstrip('`')} --iap`"
    )
    if facts.sweep is not None and facts.sweep.dispatch is Dispatch.SSH:
        yield problem(name, words, advice)
    else:
        yield warning(
            name,
            f"{words}; sweeps run without, shells in them don't",
            advice,
        )


def key(facts: Facts) -> Iterator[Finding]:
    """Whether the SSH key on this machine can be used; a missing one is made when needed."""
    path = facts.clients.settings.ssh_key
    if not path.exists():
        yield ok("SSH key", f"{path} is made at the first use")
        return
    public_key_line(facts.clients.settings)
    yield ok("SSH key", str(path))


def tracking(facts: Facts) -> Iterator[Finding]:
    """Whether the tracking server that the template names answers, and its secret is there."""
    name, clients = "tracking server", facts.clients
    container = facts.machine().container
    uri = (container.environment if container else {}).get("MLFLOW_TRACKING_URI", "")
    if not uri:
        yield ok(name, "the template names none: results are in the bucket alone")
        return
    up = "`mlflow-infra status` tells more"
    host = urlsplit(uri).hostname or ""
    if host.endswith(".internal"):
        yield _server(facts, host.split(".")[1])
    elif _answers(uri):
        yield ok(name, f"{_bare(uri)} answers")
    else:
        yield warning(name, f"{_bare(uri)} doesn't answer from here", up)
    secret = (container.environment if container else {}).get("SINERGYM_MLFLOW_SECRET", "")
    if not secret:
        return
    secrets = clients.api("secretmanager", "v1").projects().secrets()
    try:
        policy = clients.execute(
            f"secret {secret}",
            secrets.getIamPolicy(resource=secret, options_requestedPolicyVersion=3),
        )
    except NotFound:
        yield problem("tracking secret", f"there is no {secret}", "`mlflow-infra up` makes it")
        return
    member = f"serviceAccount:{facts.account()}"
    if any(member in binding.get("members", []) for binding in policy.get("bindings", [])):
        yield ok("tracking secret", f"the instances' account may read {last_part(secret)}")
        return
    yield warning(
        "tracking secret",
        f"{facts.account()} has no role on {last_part(secret)}: unless the project gives it one, "
        "trainers can't log",
        f"{_SETUP} grants it",
    )


def channels(facts: Facts) -> Iterator[Finding]:
    """Whether somebody is told of ends and failures."""
    name, clients = "alerts", facts.clients
    if not clients.settings.has_monitoring:
        yield ok(name, "this cloud has no Cloud Monitoring")
        return
    listed = alerts.list_channels(clients)
    told = {one for policy in alerts.list_policies(clients) for one in policy.channels}
    used = [one for one in listed if one.name in told and one.enabled]
    if not told or not used:
        yield warning(
            name,
            "nobody is told when experiments end or fail",
            "`gcloud-ops alerts policies setup --channel YOU@EXAMPLE.ORG`",
        )
        return
    unverified = [one for one in used if one.is_unverified]
    for one in unverified:
        yield warning(
            name,
            f"{one.display_name}: nothing arrives there until it is verified",
            f"`gcloud-ops alerts channels verify {one.id}`",
        )
    if not unverified:
        yield ok(name, f"{len(used)} channels are told")


def _admits_ssh(rule: Any, machine: Machine, account: str, *, port: int) -> bool:
    """Whether a rule lets SSH reach the instances, if no other one denies it."""
    if rule.direction not in {"", "INGRESS"} or rule.disabled:
        return False
    if last_part(rule.network) != machine.network:
        return False
    tags, accounts = list(rule.target_tags), list(rule.target_service_accounts)
    if tags and not set(tags).intersection(machine.tags):
        return False
    if accounts and account not in accounts:
        return False
    return any(_opens(one, port) for one in rule.allowed)


def _opens(allowed: Any, port: int) -> bool:
    if allowed.I_p_protocol not in {"tcp", "6", "all"}:
        return False
    spans = [str(one).partition("-") for one in allowed.ports]
    return not spans or any(int(low) <= port <= int(high or low) for low, _, high in spans)


def _server(facts: Facts, zone: str) -> Finding:
    """The state of the server's VM, whose name only the network's own DNS knows."""
    name, clients = "tracking server", facts.clients
    try:
        found = clients.read(
            f"instance {SERVER}",
            clients.instances.get,
            project=clients.project,
            zone=zone,
            instance=SERVER,
        )
    except NotFound:
        return warning(name, f"there is no instance {SERVER} in {zone}", "`mlflow-infra up`")
    if found.status == "RUNNING":
        return ok(name, f"{SERVER} runs in {zone}; `mlflow-infra status` looks deeper")
    return warning(name, f"{SERVER} is {found.status}", "`mlflow-infra up` starts it")


def _answers(uri: str) -> bool:
    import requests

    try:
        return (
            requests.get(f"{uri.rstrip('/')}/health", timeout=_CONNECT_SECONDS).status_code < 500
        )
    except requests.RequestException:
        return False


def _bare(uri: str) -> str:
    """Without what may be secret in it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
