"""What the console can do to sweeps: each change is refused where the fleet is read-only.

    planned            read a sweep file and check everything; creates nothing
    launch, resume     events until every experiment has its command
    cancel, rerun, restart_containers    some experiments of a sweep, or all
    delete             a sweep with its results

All block; a thread calls them. `tell` is told each step in the past tense or as what goes on, and
may raise to stop between two steps: each change can be asked for again and goes on then.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gcloud_ops.text import one_line
from sinergym_tui.fleet import Fleet

if TYPE_CHECKING:
    from gcloud_ops.launching import LaunchEvent, LaunchPlan

__all__ = ["cancel", "delete", "describe", "launch", "planned"]

type Tell = Callable[[str], None]


def planned(fleet: Fleet, file: Path, *, name: str | None = None) -> "LaunchPlan":
    """Read a sweep file and check all that a launch needs; creates nothing.

    Raises:
        GcloudOpsError: The file isn't right, or the cloud has an objection.
    """
    from gcloud_ops import launching
    from gcloud_ops.sweepfile import read_sweep

    clients = fleet.for_change("launch a sweep")
    return launching.plan(read_sweep(file.expanduser(), name=name), clients)


def launch(fleet: Fleet, plan: "LaunchPlan", tell: Tell) -> str:
    """Do what the plan says; returns what came of it."""
    from gcloud_ops import launching

    return _told(launching.launch(plan, fleet.for_change("launch a sweep")), tell)


def cancel(fleet: Fleet, name: str, experiments: Collection[str], tell: Tell) -> str:
    """Take away the instances of experiments, or of all where none is named."""
    from gcloud_ops import sweeps

    clients = fleet.for_change(f"cancel sweep {name}")
    sweeps.cancel(name, clients, on_step=tell)
    return "cancelled; its results are in the bucket"


def rerun(fleet: Fleet, name: str, experiments: Collection[str], tell: Tell) -> str:
    """Run experiments again that have ended."""
    raise NotImplementedError


def restart_containers(fleet: Fleet, name: str, experiments: Collection[str], tell: Tell) -> str:
    """Stop and start the containers of experiments."""
    raise NotImplementedError


def delete(fleet: Fleet, name: str, tell: Tell) -> str:
    """Remove the sweep with its results."""
    from gcloud_ops import sweeps

    clients = fleet.for_change(f"delete sweep {name}")
    count = sweeps.delete(name, clients, force=True, on_step=tell)
    return f"deleted, {count} objects"


def _told(events: "Iterator[LaunchEvent]", tell: Tell) -> str:
    sentence = "nothing was to be done"
    for event in events:
        sentence = describe(event)
        tell(sentence)
    return sentence


def describe(event: "LaunchEvent") -> str:
    """A launch's event as the end of a sentence that begins with the sweep's name."""
    from gcloud_ops import launching

    match event:
        case launching.BucketMade():
            text = f"bucket {event.bucket} is made ({event.location})"
        case launching.GroupMade():
            text = f"the instance group is there, in {event.zone}"
        case launching.InstancesRequested():
            text = f"{event.count} instances are asked for"
        case launching.InstanceUp():
            text = f"{event.experiment} is up"
        case launching.Waiting():
            text = "waiting for " + "; ".join(
                f"{reason} ({count})" for reason, count in event.reasons.items()
            )
            text = text if event.reasons else "nothing is waited for any more"
        case launching.CommandSent():
            text = f"{event.experiment} has its command"
        case launching.DispatchFailed():
            text = f"{event.experiment} got no command: {event.error}"
        case launching.Stalled():
            text = f"nothing has moved for {event.seconds:.0f} s, so the launch stops waiting"
        case launching.GroupGone():
            text = "the instance group is gone: the sweep was cancelled"
        case launching.Launched():
            text = f"launched: {event.sent} have their command"
            text += f", {event.failed} failed" if event.failed else ""
            text += f", {event.waiting} still wait" if event.waiting else ""
    return one_line(text)
