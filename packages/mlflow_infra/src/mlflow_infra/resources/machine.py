"""The server's VM."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from gcloud_ops.compute import last_part
from gcloud_ops.errors import NotFound
from gcloud_ops.resources import Seen, Tell, line_if_different, wait_until
from mlflow_infra.prices import Prices
from mlflow_infra.resources.network import find_address
from mlflow_infra.resources.shape import MADE_BY, Place
from mlflow_infra.wanted import ADDRESS, LABELS, SERVER

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["DISK_GB", "Server"]

DISK_GB: Final = 10
"""The server's disk: the system, and the image of its container."""

_BOOT_IMAGE: Final = "projects/cos-cloud/global/images/family/cos-stable"
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_RESET_KEY: Final = "mlflow-infra-reset"
"""Metadata key that is there from a change of the metadata until the VM has been reset."""
_SETTLES_WITHIN: Final = 300.0
_MOVING: Final = frozenset({"PROVISIONING", "STAGING", "STOPPING", "SUSPENDING", "REPAIRING"})
_SHOWN: Final = 80


@dataclass(slots=True)
class Server:
    """The VM. It holds nothing: deleted and made anew, it is the same."""

    place: Place
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ("compute.googleapis.com",)
    role: ClassVar[str] = "roles/compute.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"server {SERVER}"

    def observe(self) -> Seen:
        """See whether it is there, runs, and is as wanted."""
        found = self._find()
        if found is None:
            return Seen(state="missing")
        if found.status in _MOVING:
            return Seen(state="making", differences=(f"its status is {found.status}",))
        return Seen.compared(mends=self._mends(found), leaves=self._leaves(found))

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it; or set its metadata and tag, and reset or start it, if they differ."""
        wait_until(tell, self.what, self._moving, seconds=_SETTLES_WITHIN)
        found = self._find()
        if found is None:
            self._insert()
            return ("made",)
        mends = self._mends(found)
        if not mends:
            return ()
        if SERVER not in found.tags.items:
            self._change(
                "set_tags_unary",
                tags_resource={
                    "items": [*found.tags.items, SERVER],
                    "fingerprint": found.tags.fingerprint,
                },
            )
        metadata = _metadata(found)
        is_current = metadata.items() >= self._wanted().items()
        is_down = found.status in {"TERMINATED", "STOPPED"}
        if not is_current:
            # The note outlives an interruption between here and the reset.
            self._set_metadata({**metadata, **self._wanted(), _RESET_KEY: "TRUE"})
        if is_down:
            self._change("start_unary")
        elif not is_current or _RESET_KEY in metadata:
            self._change("reset_unary")
        if not is_current or _RESET_KEY in metadata:
            self._set_metadata({k: v for k, v in self._metadata().items() if k != _RESET_KEY})
        return tuple(f"mended: {line}" for line in mends)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it."""
        del tell
        if self._find() is None:
            return ()
        with suppress(NotFound):
            self._change("delete_unary")
        return ("deleted",)

    def monthly(self, prices: Prices) -> float | None:
        """The machine and its disk; its address is counted by itself."""
        return prices.server(self.place.infra.machine_type, DISK_GB)

    def _find(self) -> "compute_v1.Instance | None":
        clients, infra = self.place.clients, self.place.infra
        with suppress(NotFound):
            return clients.read(
                self.what,
                clients.instances.get,
                project=infra.project,
                zone=infra.zone,
                instance=SERVER,
            )
        return None

    def _wanted(self) -> dict[str, str]:
        from mlflow_infra import server

        return server.metadata(self.place.infra)

    def _moving(self) -> str | None:
        found = self._find()
        return f"its status is {found.status}" if found and found.status in _MOVING else None

    def _mends(self, found: "compute_v1.Instance") -> list[str]:
        metadata = _metadata(found)
        lines = []
        if found.status in {"TERMINATED", "STOPPED"}:
            lines.append("it is stopped: `up` starts it")
        for key, value in self._wanted().items():
            if metadata.get(key) != value:
                now = _shown(metadata[key]) if key in metadata else "missing"
                want = f", wanted {_shown(value)}" if len(value) <= _SHOWN else ""
                lines.append(f"metadata {key} is {now}{want}: `up` sets it and resets the VM")
        if _RESET_KEY in metadata and not lines:
            lines.append("its metadata was changed: `up` resets the VM")
        if SERVER not in found.tags.items:
            lines.append(f"tag {SERVER} is missing")
        return lines

    def _leaves(self, found: "compute_v1.Instance") -> list[str]:
        infra = self.place.infra
        accounts = [account.email for account in found.service_accounts]
        interfaces = list(found.network_interfaces)
        external = [one.nat_i_p for interface in interfaces for one in interface.access_configs]
        address = find_address(self.place)
        lines = [
            line_if_different(
                "machine type", [last_part(found.machine_type)], [infra.machine_type]
            ),
            line_if_different("service account", accounts, [infra.account]),
            line_if_different(
                "network", [last_part(one.network) for one in interfaces], [infra.network]
            ),
            line_if_different("address", external, [address.address if address else "none yet"]),
        ]
        lines = [f"{line}: delete the VM and run `up`" for line in lines if line]
        if found.status in {"SUSPENDED"}:
            lines.append("it is suspended: resume or delete it")
        return lines

    def _metadata(self) -> dict[str, str]:
        found = self._find()
        return _metadata(found) if found else {}

    def _insert(self) -> None:
        infra = self.place.infra
        address = find_address(self.place)
        if address is None:
            raise NotFound(
                f"{self.what}: its address {ADDRESS} is gone",
                resource=self.what,
                hint="run `up` again, which reserves one",
            )
        access = {
            "name": "External NAT",
            "type_": "ONE_TO_ONE_NAT",
            "network_tier": "PREMIUM",
            "nat_i_p": address.address,
        }
        body = {
            "name": SERVER,
            "description": f"The MLflow tracking server. {MADE_BY}",
            "machine_type": f"zones/{infra.zone}/machineTypes/{infra.machine_type}",
            "disks": [
                {
                    "boot": True,
                    "auto_delete": True,
                    "device_name": SERVER,
                    "initialize_params": {
                        "source_image": _BOOT_IMAGE,
                        "disk_size_gb": DISK_GB,
                        "disk_type": f"zones/{infra.zone}/diskTypes/pd-balanced",
                    },
                }
            ],
            "network_interfaces": [
                {"network": f"global/networks/{infra.network}", "access_configs": [access]}
            ],
            "metadata": {"items": _items(self._wanted())},
            "tags": {"items": [SERVER]},
            "labels": dict(LABELS),
            "service_accounts": [{"email": infra.account, "scopes": [_SCOPE]}],
            "scheduling": {"automatic_restart": True, "on_host_maintenance": "MIGRATE"},
            "shielded_instance_config": {
                "enable_secure_boot": True,
                "enable_vtpm": True,
                "enable_integrity_monitoring": True,
            },
            "deletion_protection": False,
        }
        clients = self.place.clients
        clients.change(
            self.what,
            clients.instances.insert_unary,
            project=infra.project,
            zone=infra.zone,
            instance_resource=body,
        )

    def _set_metadata(self, metadata: Mapping[str, str]) -> None:
        found = self._find()
        if found is None:
            raise NotFound(f"{self.what}: it was deleted meanwhile", resource=self.what)
        # The fingerprint lets nobody's change in between be lost.
        self._change(
            "set_metadata_unary",
            metadata_resource={
                "items": _items(metadata),
                "fingerprint": found.metadata.fingerprint,
            },
        )

    def _change(self, method: str, **fields: object) -> None:
        clients, infra = self.place.clients, self.place.infra
        clients.change(
            self.what,
            getattr(clients.instances, method),
            project=infra.project,
            zone=infra.zone,
            instance=SERVER,
            **fields,
        )


def _metadata(found: "compute_v1.Instance") -> dict[str, str]:
    return {item.key: item.value for item in found.metadata.items}


def _items(metadata: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in metadata.items()]


def _shown(value: str) -> str:
    return value if len(value) <= _SHOWN else "another text"
