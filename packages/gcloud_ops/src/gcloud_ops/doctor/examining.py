"""All checks at once: independent of each other, and each sure to end."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from gcloud_ops.clients import Clients
from gcloud_ops.doctor import permissions, places, quotas, ways
from gcloud_ops.doctor.facts import Facts
from gcloud_ops.doctor.findings import Finding, unseen
from gcloud_ops.errors import GcloudOpsError
from gcloud_ops.model import Sweep

__all__ = ["Outlook", "blocking", "examine", "outlook"]

type Check = Callable[[Facts], Iterator[Finding]]

_AT_ONCE = 16


def examine(clients: Clients, *, sweep: Sweep | None = None) -> Iterator[Finding]:
    """Look at all that a sweep needs, with calls that only read.

    Args:
        clients: The clients.
        sweep: The sweep that is to be launched, whose size, zone, template and bucket count;
            None: one instance, as the settings say.

    Yields:
        Findings as they come. Without credentials, that alone: nothing else can be asked.

    Raises:
        InvalidRequest: No project is known.
    """
    first = permissions.credentials(clients)
    yield first
    if first.level == "problem":
        return
    facts = Facts(clients, sweep)
    _ = clients.project
    checks: tuple[tuple[str, Check], ...] = (
        ("template", places.template),
        ("project", permissions.project),
        ("APIs", permissions.apis),
        ("permissions", _permissions),
        ("instances' account", permissions.account),
        ("permission to act as the instances' account", permissions.acting),
        ("image", places.image),
        ("bucket", places.bucket),
        ("instances' role on the bucket", places.bucket_roles),
        ("quota", quotas.quota),
        ("SSH", ways.ssh),
        ("SSH key", ways.key),
        ("tracking server", ways.tracking),
        ("alerts", ways.channels),
    )
    yield from _run(facts, checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a sweep would meet if it were launched now."""

    problems: tuple[Finding, ...]
    """What would stop it at once."""
    rooms: tuple[quotas.Room, ...]
    """What it needs of each quota, the scarcest first; none where that can't be read."""


def blocking(clients: Clients, sweep: Sweep) -> tuple[Finding, ...]:
    """The problems that would stop this sweep at once: quota, and permission to make it.

    Quick: a handful of calls, all at once. What can't be found out is no problem here.
    """
    return outlook(clients, sweep).problems


def outlook(clients: Clients, sweep: Sweep) -> Outlook:
    """As `blocking`, with how much quota there is; in no more calls."""
    checks: tuple[tuple[str, Check], ...] = (
        ("permissions", permissions.permissions),
        ("permission to act as the instances' account", permissions.acting),
        ("quota", quotas.quota),
    )
    facts = Facts(clients, sweep)
    found = _run(facts, checks, tells_unseen=False)
    problems = tuple(one for one in found if one.level == "problem")
    try:
        return Outlook(problems=problems, rooms=quotas.rooms(facts))
    except GcloudOpsError:  # as the check of quotas met it, too
        return Outlook(problems=problems, rooms=())


def _run(
    facts: Facts, checks: tuple[tuple[str, Check], ...], *, tells_unseen: bool = True
) -> Iterator[Finding]:
    """Findings as they come; with those of checks that could not look, if asked for."""

    def look(name: str, check: Check) -> list[Finding]:
        found: list[Finding] = []
        try:
            found.extend(check(facts))
        except GcloudOpsError as error:
            if tells_unseen and facts.is_told_by(error) in {"", name}:
                found.append(unseen(name, error))
        return found

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="doctor") as pool:
        begun = [pool.submit(look, name, check) for name, check in checks]
        for done in as_completed(begun):
            yield from done.result()


def _permissions(facts: Facts) -> Iterator[Finding]:
    try:
        iap = ways.needs_iap(facts)
    except GcloudOpsError:  # the template's own check says so
        iap = False
    yield from permissions.permissions(facts, iap=iap)
