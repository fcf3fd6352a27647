"""Who gets in to an instance: through its external address, through IAP, or from within.

Instances have loopback addresses of this machine, so nothing but these questions keeps anybody
out: `gcp_emulator.network` asks the first two before it forwards, an SSH server asks the third.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Final

from aiohttp import web

from gcp_emulator.compute.firewall import allows
from gcp_emulator.compute.nouns import Instance
from gcp_emulator.compute.state import State
from gcp_emulator.iam.callers import is_permitted
from gcp_emulator.network.entrances import Entrance
from gcp_emulator.network.ports import opened
from gcp_emulator.network.relay import Backend, Refused
from gcp_emulator.replies import Json

__all__ = ["Gates"]

_SSH: Final = 22
_RELAY_ADDRESS: Final = "127.35.235.240"
"""Where the relay's connections come from here..."""
_RELAY_PEER: Final = "35.235.240.1"
"""...and where they come from for the firewall: https://cloud.google.com/iap/docs/using-tcp-forwarding."""

# Google's default network has this rule from the beginning.
_DEFAULT_ALLOW_SSH: Final[Json] = {
    "name": "default-allow-ssh",
    "direction": "INGRESS",
    "priority": 65_534,
    "sourceRanges": ["0.0.0.0/0"],
    "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}],
}


class Gates:
    """The firewall's rules, applied to who comes.

    Args:
        state: What exists.
        ssh_port: Where all SSH servers are; for the rules, and for whoever asks, it is 22.
    """

    def __init__(self, state: State, *, ssh_port: int) -> None:
        self._state = state
        self._ssh_port = ssh_port

    def entrances(self) -> Iterator[Entrance]:
        """The ports of external addresses that the firewall's rules open."""
        for instance in self._state.standalone():
            external = instance.external_address
            if external is None or external == instance.address:
                continue
            for port in opened(self._rules, tags=instance.tags, account=instance.account):
                yield Entrance(
                    external=external,
                    internal=instance.address,
                    port=self._ssh_port if port == _SSH else port,
                    guard=functools.partial(self._admits, instance, port),
                )

    def backend(self, request: web.Request) -> Backend:
        """Where IAP's relay may lead whoever asks; raises `Refused`.

        Without the permission IAP doesn't tell what there is; with it, a firewall that lets
        nobody in looks like a program that does not answer.
        """
        asked = request.query
        if not is_permitted(request, "iap.tunnelInstances.accessViaIAP"):
            raise Refused(4033, "not authorized")
        instance = self._state.instances.get((asked.get("zone", ""), asked.get("instance", "")))
        projects = (self._state.project, self._state.project_number)
        if instance is None or asked.get("project") not in projects:
            raise Refused(4047, "Failed to lookup instance")
        text = asked.get("port", "")
        port = int(text) if text.isdecimal() else 0
        named = _SSH if port == self._ssh_port else port
        fits = asked.get("interface") == "nic0" and instance.status == "RUNNING"
        if not fits or not self._admits(instance, named, _RELAY_PEER):
            raise Refused(4003, "failed to connect to backend")
        return Backend(
            address=instance.address,
            port=self._ssh_port if named == _SSH else named,
            source=_RELAY_ADDRESS,
        )

    def admits_ssh(self, instance: Instance, peer: str) -> bool:
        """Whether an SSH server answers a peer: one without an external address only within.

        Within are the other instances and IAP's relay, whose own question is `backend`.
        """
        if instance.external_address is not None or peer == _RELAY_ADDRESS:
            return True
        return self._state.instance_at(peer) is not None

    @property
    def _rules(self) -> Sequence[Json]:
        return [*self._state.firewalls.values(), _DEFAULT_ALLOW_SSH]

    def _admits(self, instance: Instance, port: int, peer: str) -> bool:
        caller = self._state.instance_at(peer)
        return allows(
            self._rules,
            peer=peer,
            port=port,
            tags=instance.tags,
            account=instance.account,
            peer_account=caller.account if caller else None,
            peer_tags=caller.tags if caller else (),
        )
