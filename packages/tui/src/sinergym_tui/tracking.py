"""The tracking server, for the console: what there is of it, and changes. No terminal here.

    look          each resource, its state, its price
    check         whether the server is well, as its users reach it
    address       its web page; `has_browser`: whether it can be opened here
    log           what its container, or its VM's boot, has printed
    given         what was filled in, as options; `objection`: what is wrong with it
    proposed      what `bring_up` would make, and what that costs
    bring_up, restart, take_down

All block; a thread calls them. Each change is refused where the fleet is read-only.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gcloud_ops.errors import GcloudOpsError, InvalidRequest, NotFound, Unavailable
from gcloud_ops.text import clean, one_line
from sinergym_tui.fleet import Fleet

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients
    from mlflow_infra.operations import Check, Given
    from mlflow_infra.plan import Event, Finding, Plan
    from mlflow_infra.wanted import Infrastructure

__all__ = [
    "Proposal",
    "address",
    "bring_up",
    "check",
    "given",
    "has_browser",
    "log",
    "look",
    "objection",
    "proposed",
    "restart",
    "take_down",
]

type Tell = Callable[[str], None]

_LOG_LINES = 1000
_NOBODY = "none"
_HEALTHY_WITHIN = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A server, and what of it is there."""

    infra: "Infrastructure"
    plan: "Plan"
    is_there: bool
    """Whether there is anything of it."""

    @property
    def name(self) -> str:
        """What its VM is called."""
        from mlflow_infra.wanted import SERVER

        return SERVER

    @property
    def has_server(self) -> bool:
        """Whether its VM is there."""
        return self.plan.has_server

    @property
    def staying(self) -> "tuple[Finding, ...]":
        """What there is and what holds data."""
        return tuple(one for one in self.plan.removed(delete_data=True) if one.holds_data)

    @property
    def going(self) -> "tuple[Finding, ...]":
        """What there is and what holds none."""
        return self.plan.removed(delete_data=False)


def look(fleet: Fleet) -> Proposal:
    """What there is, or what a bare `bring_up` would make.

    Raises:
        GcloudOpsError: It can't be looked at.
    """
    from mlflow_infra import operations, plan

    there = operations.found(fleet.clients)
    infra = operations.found_or_default(fleet.clients)
    return Proposal(infra=infra, plan=plan.look(fleet.clients, infra), is_there=there is not None)


def check(fleet: Fleet, infra: "Infrastructure") -> "Iterator[Check]":
    """Whether the server is well; writes a file into the artifact store, and removes it.

    Of its resources only those are told that are not well: `look` has the others.
    """
    from mlflow_infra import operations

    clients = fleet.for_change("check the tracking server, which writes a file there")
    for one in operations.check(clients, infra):
        if one.seconds is not None or not one.is_good:
            yield one


def address(fleet: Fleet, infra: "Infrastructure") -> str:
    """The address of the server's web page."""
    from mlflow_infra import operations

    return operations.tracking_uri(fleet.clients, infra)


def has_browser(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Whether there is a browser with a window of its own; one in this terminal would take it."""
    if platform in {"darwin", "win32"}:
        return True
    return any(environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def log(fleet: Fleet, infra: "Infrastructure", tell: Tell) -> str:
    """The last lines of the container's log; where that can't be read, those of the VM's boot.

    Raises:
        NotFound: There is no VM.
    """
    import asyncio

    from mlflow_infra import operations

    # Its public key may have to be put into the VM's metadata: a change, though a small one.
    clients = fleet.for_change("read the log of the tracking server over SSH")
    tell("reading the container's log")
    try:
        return clean(asyncio.run(_container_log(clients, infra)).decode(errors="replace"))
    except NotFound:
        raise
    except GcloudOpsError as error:
        tell("reading what the VM has printed at its boot")
        lines = b"".join(operations.boot_log(clients, infra)).splitlines()[-_LOG_LINES:]
        boot = clean(b"\n".join(lines).decode(errors="replace"))
        return f"[… no container's log: {one_line(str(error))}; this is the VM's boot]\n{boot}"


async def _container_log(clients: "Clients", infra: "Infrastructure") -> bytes:
    from mlflow_infra import operations

    found = bytearray()
    async for chunk in operations.container_log(clients, infra, lines=_LOG_LINES):
        found += chunk
    return bytes(found)


def given(filled: Mapping[str, str]) -> "Given":
    """The options that somebody has filled in; what is left empty is not given.

    Args:
        filled: `ranges` (several with commas; an address stands for itself alone, "none" for
            nobody), `machine`, `tier` and `image`.

    Raises:
        InvalidRequest: "none" is not alone.
    """
    from mlflow_infra.operations import Given

    words = [word.strip() for word in filled["ranges"].split(",") if word.strip()]
    if _NOBODY in words and len(words) > 1:
        raise InvalidRequest(f"{_NOBODY}: it stands for itself, without {words[0]}")
    ranges = () if words == [_NOBODY] else tuple(w if "/" in w else f"{w}/32" for w in words)
    return Given(
        source_ranges=ranges if words else None,
        machine_type=filled["machine"] or None,
        tier=filled["tier"] or None,
        image=filled["image"] or None,
    )


def objection(infra: "Infrastructure", filled: Mapping[str, str]) -> str:
    """What is wrong with options as they are, before anything is asked; "": nothing."""
    try:
        replace(infra, **given(filled).items())
    except InvalidRequest as error:
        return one_line(str(error))
    return ""


def proposed(fleet: Fleet, given: "Given") -> Proposal:
    """What `bring_up` with these options would come to; nothing is made.

    Raises:
        InvalidRequest: An option can't be, or nobody has said who may reach the server.
    """
    from mlflow_infra import operations, plan

    clients = fleet.for_change("bring up the tracking server")
    infra = operations.wanted(clients, given)
    return Proposal(infra=infra, plan=plan.look(clients, infra), is_there=True)


def bring_up(fleet: Fleet, infra: "Infrastructure", tell: Tell) -> str:
    """Make and mend all, and wait until the server is well."""
    from mlflow_infra import operations, plan

    clients = fleet.for_change("bring up the tracking server")
    plan.up(clients, infra, tell=lambda event: tell(_words(event)))
    uri = operations.tracking_uri(clients, infra)
    if not infra.source_ranges:
        return f"it is there, at {uri}, for the trainers alone"
    tell(f"waiting for {uri}")
    try:
        operations.wait_until_healthy(uri, seconds=_HEALTHY_WITHIN, waiting=_waiting(tell))
    except Unavailable as error:
        return f"all is made, but from here it is {error.message}; its log tells why"
    return f"it is up, and well: {uri}"


def restart(fleet: Fleet, infra: "Infrastructure", tell: Tell) -> str:
    """Restart the VM, and wait until the server is well."""
    from mlflow_infra import operations

    clients = fleet.for_change("restart the tracking server")
    seconds = operations.restart(clients, infra, tell=tell, waiting=_waiting(tell))
    return f"well again after {seconds:.0f} s"


def take_down(
    fleet: Fleet, infra: "Infrastructure", tell: Tell, *, delete_data: bool = False
) -> str:
    """Remove the server, with its data or without."""
    from mlflow_infra import plan

    clients = fleet.for_change("remove the tracking server")
    plan.down(clients, infra, delete_data=delete_data, tell=lambda event: tell(_words(event)))
    return "removed with all its data" if delete_data else "removed; its data are kept"


def _waiting(tell: Tell) -> Callable[[float, str], None]:
    """Tells how long it has been waited for, so that a wait can be stopped too."""
    return lambda passed, last: tell(f"it is not well yet ({passed:.0f} s): {last}")


def _words(event: "Event") -> str:
    from mlflow_infra import plan

    match event:
        case plan.Begun():
            return f"{event.position}/{event.count} {event.what}"
        case plan.Progressed():
            return f"{event.what}: {event.text} ({event.seconds:.0f} s)"
        case plan.Done():
            return f"{event.what}: {'; '.join(event.changes) or 'as it should be'}"
