"""What a tracking server costs: US dollars a month, for what it consists of.

List prices of us-central1, which is among the cheapest regions; Belgium (europe-west1) is up to
a tenth dearer, other regions up to a half. Without traffic, taxes, discounts and free tiers, for
a month of 730 hours. Machines, disks and addresses are those of `gcloud_ops.prices`. Whoever
pays other prices replaces them: `dataclasses.replace(PRICES, ...)`.

Where the others stand: https://cloud.google.com/sql/pricing,
https://cloud.google.com/storage/pricing, https://cloud.google.com/secret-manager/pricing. The
rates of custom tiers are confirmed by a report of May 2026
(https://www.usage.ai/blogs/gcp/cloud-sql/pricing/); the others were not compared with the pages
at `Prices.date`: an estimate, not a quotation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gcloud_ops import prices

__all__ = ["HOURS", "PRICES", "Prices"]

HOURS: Final = prices.HOURS_A_MONTH
"""Of a month, as Google counts them."""

_CUSTOM: Final = re.compile(r"db-custom-([0-9]{1,3})-([0-9]{3,7})")
_DISK: Final = "pd-balanced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A table of prices in US dollars: an hour for tiers, else a month."""

    date: str = "2026-11-22"
    """When the table was written."""
    compute: prices.Prices = prices.PRICES
    """Of Compute Engine: the server's machine, its disk, its address."""
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
        hourly = self.compute.hourly(
            machine_type,
            region=prices.BASE_REGION,
            spot=False,
            disk_gb=disk_gb,
            disk_type=_DISK,
            address=False,
        )
        return None if hourly is None else hourly * HOURS

    def external_address(self) -> float:
        """An external address in use, a month."""
        return self.compute.address * HOURS


PRICES: Final = Prices()
"""The table, as of its date."""
