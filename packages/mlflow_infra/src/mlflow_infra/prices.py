"""What a tracking server costs: US dollars a month, for what it consists of.

List prices of us-central1, which is among the cheapest regions; Belgium (europe-west1) is up to
a tenth dearer, other regions up to a half. Without traffic, taxes, discounts and free tiers, for
a month of 730 hours. Whoever pays other prices replaces them: `dataclasses.replace(PRICES, ...)`.

Where the prices stand: https://cloud.google.com/sql/pricing,
https://cloud.google.com/compute/vm-instance-pricing,
https://cloud.google.com/compute/disks-image-pricing,
https://cloud.google.com/vpc/network-pricing, https://cloud.google.com/storage/pricing,
https://cloud.google.com/secret-manager/pricing. The rates of custom tiers are confirmed by a
report of May 2026 (https://www.usage.ai/blogs/gcp/cloud-sql/pricing/); the others were not
compared with the pages at `Prices.date`: an estimate, not a quotation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["HOURS", "PRICES", "Prices"]

HOURS: Final = 730.0
"""Of a month, as Google counts them."""

_CUSTOM: Final = re.compile(r"db-custom-([0-9]{1,3})-([0-9]{3,7})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A table of prices in US dollars: an hour for machines and addresses, else a month."""

    date: str = "2026-11-22"
    """When the table was written."""
    machines: Mapping[str, float] = field(
        default_factory=lambda: {
            "e2-small": 0.01675,
            "e2-medium": 0.0335,
            "e2-standard-2": 0.06701,
            "e2-standard-4": 0.13402,
        }
    )
    """Machine types of the server, an hour."""
    tiers: Mapping[str, float] = field(
        default_factory=lambda: {"db-f1-micro": 0.0105, "db-g1-small": 0.035}
    )
    """Shared-core tiers of the database (Enterprise edition, one zone), an hour."""
    tier_cpu: float = 0.0413
    """A virtual CPU of a tier such as db-custom-1-3840, an hour."""
    tier_gb: float = 0.007
    """A GB of its memory, an hour."""
    database_gb: float = 0.17
    """A GB of the database's SSD storage, a month."""
    backup_gb: float = 0.08
    """A GB of its backups, a month; they grow with what changes, so no total holds them."""
    disk_gb: float = 0.10
    """A GB of a balanced persistent disk, a month."""
    address: float = 0.005
    """An external IPv4 address that a VM uses, an hour; idle it costs twice as much."""
    secret: float = 0.06
    """A secret's version, a month."""
    storage_gb: float = 0.02
    """A GB of artifacts in the bucket, a month; no total holds them."""

    def database(self, tier: str, disk_gb: int) -> float | None:
        """A Cloud SQL instance with its storage, a month; None if the tier isn't known."""
        hourly = self.tiers.get(tier)
        custom = _CUSTOM.fullmatch(tier)
        if custom:
            hourly = int(custom[1]) * self.tier_cpu + int(custom[2]) / 1024 * self.tier_gb
        return None if hourly is None else hourly * HOURS + disk_gb * self.database_gb

    def server(self, machine_type: str, disk_gb: int) -> float | None:
        """A VM with its disk, a month; None if the machine type isn't known."""
        hourly = self.machines.get(machine_type)
        return None if hourly is None else hourly * HOURS + disk_gb * self.disk_gb

    def external_address(self) -> float:
        """An external address in use, a month."""
        return self.address * HOURS


PRICES: Final = Prices()
"""The table, as of its date."""
