"""What may keep a sweep from running, found before it is launched; nothing is changed.

    for finding in examine(clients):          # as they come
        print(finding.level, finding.name, finding.message, finding.advice)
    blocking(clients, sweep)                  # the problems that would stop this sweep at once
    outlook(clients, sweep)                   # these, and how much quota there is for it

The checks run at once, and one that fails hides no other. The number of calls depends neither on
the number of experiments nor on what there is in the project.
"""

from gcloud_ops.doctor.examining import Outlook, blocking, examine, outlook
from gcloud_ops.doctor.findings import Finding, Level
from gcloud_ops.doctor.permissions import PERMISSIONS
from gcloud_ops.doctor.quotas import Quota, Room

__all__ = [
    "PERMISSIONS",
    "Finding",
    "Level",
    "Outlook",
    "Quota",
    "Room",
    "blocking",
    "examine",
    "outlook",
]
