"""The firewall: who may reach what."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gcloud_ops.compute import last_part
from gcloud_ops.errors import NotFound
from gcloud_ops.resources.shape import Place, Seen, Tell, line_if_different

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["Firewall"]


@dataclass(slots=True)
class Firewall:
    """A rule that lets somebody in.

    Its `wanted` is Compute Engine's own form, without name and network, such as
    `{"description": ..., "allowed": [...], "source_ranges": [...]}`; None: no such rule.
    """

    place: Place
    name: str
    network: str
    wanted: Callable[[], Mapping[str, Any] | None]
    """Asked when it is needed."""
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = (
        "cloudresourcemanager.googleapis.com",
        "compute.googleapis.com",
    )
    role: ClassVar[str] = "roles/compute.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"firewall rule {self.name}"

    def observe(self) -> Seen:
        """See whether it is there, and admits those that it shall."""
        found, wanted = self._find(), self.wanted()
        if wanted is None:
            # Nobody from outside: a rule of before is a difference, and none is none.
            return Seen.compared(mends=["it is there, wanted none"] if found else [])
        if found is None:
            return Seen(state="missing")
        return Seen.compared(mends=self._compare(found, wanted))

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it, or change whom it admits."""
        found, wanted = self._find(), self.wanted()
        if wanted is None:
            return self.remove(tell)
        if found is not None and last_part(found.network) != self.network:
            # A rule's network can't be changed.
            self.remove(tell)
            return (*self._made(wanted), f"was in the network {last_part(found.network)}")
        if found is None:
            return self._made(wanted)
        lines = self._compare(found, wanted)
        if lines:
            # As a whole: what a patch leaves out, such as tags that admit others, would stay.
            clients = self.place.clients
            clients.change(
                self.what,
                clients.firewalls.update_unary,
                project=self.place.project,
                firewall=self.name,
                firewall_resource=self._body(wanted),
            )
        return tuple(f"mended: {line}" for line in lines)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it."""
        del tell
        if self._find() is None:
            return ()
        clients = self.place.clients
        with suppress(NotFound):
            clients.change(
                self.what,
                clients.firewalls.delete_unary,
                project=self.place.project,
                firewall=self.name,
            )
        return ("deleted",)

    def _made(self, wanted: Mapping[str, Any]) -> tuple[str, ...]:
        clients = self.place.clients
        clients.change(
            self.what,
            clients.firewalls.insert_unary,
            project=self.place.project,
            firewall_resource=self._body(wanted),
        )
        return ("made",)

    def _body(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": self.name,
            "network": f"global/networks/{self.network}",
            "direction": "INGRESS",
            "priority": 1000,
            **wanted,
        }

    def _compare(self, found: "compute_v1.Firewall", wanted: Mapping[str, Any]) -> list[str]:
        lines = [
            line_if_different(name, sorted(getattr(found, field)), sorted(wanted.get(field, [])))
            for name, field in (
                ("source ranges", "source_ranges"),
                ("source tags", "source_tags"),
                ("source accounts", "source_service_accounts"),
                ("target tags", "target_tags"),
                ("target accounts", "target_service_accounts"),
            )
        ]
        allowed = [_words(one.I_p_protocol, one.ports) for one in found.allowed]
        admitted = [_words(one["I_p_protocol"], one["ports"]) for one in wanted["allowed"]]
        lines += [
            line_if_different("allowed", sorted(allowed), sorted(admitted)),
            line_if_different("network", [last_part(found.network)], [self.network]),
            line_if_different("direction", [found.direction], ["INGRESS"]),
            "it is disabled" if found.disabled else "",
        ]
        return [line for line in lines if line]

    def _find(self) -> "compute_v1.Firewall | None":
        clients = self.place.clients
        with suppress(NotFound):
            return clients.read(
                self.what,
                clients.firewalls.get,
                project=self.place.project,
                firewall=self.name,
            )
        return None


def _words(protocol: str, ports: Iterable[object]) -> str:
    return " ".join([protocol, *(str(port) for port in ports)])
