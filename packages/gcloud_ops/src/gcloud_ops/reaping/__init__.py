"""What is ours on Compute Engine and should not be there: found, priced, removed.

    looking     all there is, in a number of calls that doesn't grow with that of the instances
    judging     what of it is left over; pure
    removing    takes it away, in an order that leaves nothing hanging
    find, remove    the first two; and with the last, what is left over at that moment

Ours is only what says so itself: groups and instances by the label and the metadata that a launch
gives them, templates by the label that `templates.derive` gives them, disks by the name of an
experiment that a manifest lists, the tracking server's address by its name and description. All
else is left alone, and so is a sweep that may still do something: that waits for machines, has
just been launched, trains, or can be gone on with.

Alert policies and channels are of the project, not of a sweep, and incidents close by themselves:
none is left over.
"""

from datetime import datetime

from gcloud_ops.clients import Clients
from gcloud_ops.prices import PRICES, Prices
from gcloud_ops.reaping.judging import judge
from gcloud_ops.reaping.looking import Tell, look
from gcloud_ops.reaping.nouns import (
    Disk,
    Kind,
    KnownGroup,
    Left,
    Orphan,
    Reserved,
    Seen,
    SeenSweep,
)
from gcloud_ops.reaping.removing import remove_all

__all__ = [
    "Disk",
    "Kind",
    "KnownGroup",
    "Left",
    "Orphan",
    "Reserved",
    "Seen",
    "SeenSweep",
    "find",
    "judge",
    "look",
    "remove",
]


def find(
    clients: Clients,
    *,
    bucket: str | None = None,
    prices: Prices = PRICES,
    now: datetime | None = None,
    tell: Tell = lambda _line: None,
) -> tuple[Orphan, ...]:
    """What is ours and should not be there, in the order in which it can be removed.

    Args:
        clients: The cloud.
        bucket: Where the sweeps are; None: the setting's. A group says itself where its sweep is.
        prices: What things cost.
        now: The time; None: the bucket's, as this machine's clock may be wrong.
        tell: Told what could not be looked at.

    Raises:
        GcloudOpsError: Groups or instances can't be listed.
    """
    bucket = bucket or clients.settings.bucket_name
    seen, clock = look(clients, bucket=bucket, tell=tell)
    return judge(seen, now=now or clock, prices=prices)


def remove(
    clients: Clients,
    orphans: tuple[Orphan, ...],
    tell: Tell,
    *,
    bucket: str | None = None,
    now: datetime | None = None,
) -> tuple[Left, ...]:
    """Remove what is still left over; goes on after a refusal.

    It is looked for once more: what somebody uses again since `find` stays. Repeating it is safe.

    Args:
        clients: The cloud.
        orphans: What `find` has found.
        tell: Told of each, and of what stays.
        bucket: As in `find`.
        now: As in `find`.

    Returns:
        What could not be removed, with the cloud's reasons.

    Raises:
        GcloudOpsError: Groups or instances can't be listed.
    """
    found = find(clients, bucket=bucket, now=now, tell=tell)
    still = {(one.kind, one.name, one.where) for one in found}
    wanted = []
    for one in orphans:
        if (one.kind, one.name, one.where) in still:
            wanted.append(one)
        else:
            tell(f"{one.kind} {one.name}: in use again, or gone; left alone")
    return remove_all(clients, wanted, tell)
