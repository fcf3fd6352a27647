"""What things on Compute Engine cost: US dollars, by the kind of machine, the region and Spot.

List prices without taxes, traffic and discounts, as of `PRICES.date`: an estimate, not an invoice.

- Rates of us-central1, of a vCPU and of a GB of memory, are those of Google's own catalogue as
  https://github.com/Cyclenerd/google-cloud-pricing-cost-calculator publishes it (read: N2D, N4,
  regions) and as repositories cite it (C4: 2026); those of the other kinds reproduce the prices of
  whole machines that https://cloud.google.com/compute/vm-instance-pricing had, but were not
  compared with the page at the table's date.
- Other regions are a factor on us-central1: that of N2D machines, rounded up. The newer kinds
  are a tenth cheaper than that in some regions, disks a little too.
- Spot prices change up to once a month, differ by region, and are up to 91 % below
  (https://cloud.google.com/spot-vms/pricing). The table has one share for each kind that was
  at the upper end of those seen: who pays less is glad, a cap that is kept is a cap.
- Disks: https://cloud.google.com/compute/disks-image-pricing; external addresses:
  https://cloud.google.com/vpc/network-pricing.

Who pays other prices, or wants machines that aren't here (GPUs), writes a file: see `load`.
"""

from gcloud_ops.prices.own import load
from gcloud_ops.prices.shapes import shape
from gcloud_ops.prices.table import (
    BASE_REGION,
    HOURS_A_MONTH,
    PRICES,
    Family,
    Machine,
    Prices,
    Quote,
)

__all__ = [
    "BASE_REGION",
    "HOURS_A_MONTH",
    "PRICES",
    "Family",
    "Machine",
    "Prices",
    "Quote",
    "load",
    "shape",
]
