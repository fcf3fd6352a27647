"""What the console can do to sweeps: each change is refused where the fleet is read-only.

    planned                              read a sweep file and check everything; creates nothing
    launch, resume                       until every experiment has what it needs
    cancel, rerun, restart_containers    some experiments of a sweep
    delete                               a sweep with its results
    left_over, reap                      what is left over on Compute Engine, and away with it
    unfinished, ended, restartable       which of some experiments a change is for; pure

All block; a thread calls them. `tell` is told each step in the past tense or as what goes on, and
may raise to stop between two steps: each change can be asked for again and goes on then.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gcloud_ops.failures import waits_for
from gcloud_ops.model import Observation
from gcloud_ops.text import one_line
from sinergym_tui.fleet import Fleet
from sinergym_tui.views.cells import plural

if TYPE_CHECKING:
    from gcloud_ops.alerts import Recipients
    from gcloud_ops.launching import LaunchEvent, LaunchPlan
    from gcloud_ops.reaping import Orphan

__all__ = [
    "cancel",
    "delete",
    "describe",
    "ended",
    "launch",
    "left_over",
    "planned",
    "reap",
    "rerun",
    "restart_containers",
    "restartable",
    "resume",
    "unfinished",
]

type Tell = Callable[[str], None]


def unfinished(rows: Iterable[Observation]) -> list[str]:
    """The ids of those that have not ended: what can be cancelled, or gone on with."""
    return [row.id for row in rows if not row.status.is_final]


def ended(rows: Iterable[Observation]) -> list[str]:
    """The ids of those that have ended: what can be run again."""
    return [row.id for row in rows if row.status.is_final]


def restartable(rows: Iterable[Observation]) -> list[str]:
    """The ids of those that have not ended, and whose VM is up."""
    return [
        row.id
        for row in rows
        if row.member is not None and row.member.is_up and not row.status.is_final
    ]


def planned(fleet: Fleet, file: Path, *, name: str | None = None) -> "LaunchPlan":
    """Read a sweep file and check all that a launch needs; creates nothing.

    Raises:
        GcloudOpsError: The file isn't right, or the cloud has an objection.
    """
    from gcloud_ops import launching
    from gcloud_ops.sweepfile import read_sweep

    clients = fleet.for_change("launch a sweep")
    return launching.plan(read_sweep(file.expanduser(), name=name), clients)


def launch(
    fleet: Fleet, plan: "LaunchPlan", tell: Tell, *, told: "Recipients | None" = None
) -> str:
    """Do what the plan says, and before it set up what tells of its ends; what came of it."""
    from gcloud_ops import launching

    clients = fleet.for_change("launch a sweep")
    if told is not None:
        from gcloud_ops import alerts

        alerts.set_up(clients, told, on_step=tell)
    return _told(launching.launch(plan, clients), tell)


def cancel(fleet: Fleet, name: str, experiments: Collection[str], tell: Tell) -> str:
    """Take away the instances of experiments, or of all where none is named."""
    from gcloud_ops import sweeps

    clients = fleet.for_change(f"cancel sweep {name}")
    sweeps.cancel(name, clients, experiments=experiments, on_step=tell)
    return "cancelled; its results are in the bucket"


def resume(fleet: Fleet, name: str, tell: Tell) -> str:
    """Go on with a launch that was interrupted."""
    from gcloud_ops import launching

    return _told(launching.resume(name, fleet.for_change(f"resume sweep {name}")), tell)


def rerun(fleet: Fleet, name: str, experiments: Collection[str], tell: Tell) -> str:
    """Run experiments again that have ended."""
    from gcloud_ops import rerunning

    clients = fleet.for_change(f"rerun experiments of sweep {name}")
    return _told(rerunning.rerun(name, clients, experiments=experiments), tell)


def restart_containers(fleet: Fleet, name: str, experiments: Collection[str], tell: Tell) -> str:
    """Stop and start the containers of experiments.

    Raises:
        ContainerFailed: Not all of them could be; says which one could not, and why.
    """
    from gcloud_ops import containers
    from gcloud_ops.errors import ContainerFailed

    clients = fleet.for_change(f"restart containers of sweep {name}")
    tell(f"restarting {plural(len(experiments), 'container')}")
    answers = containers.restart_containers(clients, name, experiments)
    failed = {each: error for each, error in answers.items() if error is not None}
    for each, error in failed.items():
        raise ContainerFailed(f"{len(failed)} of {len(experiments)} failed: {each}: {error}")
    if len(answers) < len(experiments):
        return f"{len(answers)} of {len(experiments)} containers restarted: the others have no VM"
    return f"{plural(len(answers), 'container')} restarted"


def delete(fleet: Fleet, name: str, tell: Tell) -> str:
    """Remove the sweep with its results."""
    from gcloud_ops import sweeps

    clients = fleet.for_change(f"delete sweep {name}")
    count = sweeps.delete(name, clients, force=True, on_step=tell)
    return f"deleted, {count} objects"


def left_over(fleet: Fleet, tell: Tell) -> "tuple[Orphan, ...]":
    """What is ours on Compute Engine and should not be there; only looks.

    Raises:
        GcloudOpsError: Groups or instances can't be listed.
    """
    from gcloud_ops import prices, reaping

    return reaping.find(fleet.clients, prices=prices.load(), tell=tell)


def reap(fleet: Fleet, orphans: "tuple[Orphan, ...]", tell: Tell) -> str:
    """Remove what is left over.

    Raises:
        GcloudOpsError: Some of it could not be; the first refusal says why.
    """
    from gcloud_ops import reaping

    clients = fleet.for_change("remove what is left over")
    left = reaping.remove(clients, orphans, tell)
    if left:
        raise left[0].error
    return f"{len(orphans)} removed"


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
        case launching.Reopened():
            text = f"{len(event.experiments)} are to run again"
        case launching.NothingToDo():
            text = f"nothing to do: {event.why}"
        case launching.InstanceUp():
            text = f"{event.experiment} is up"
        case launching.Waiting():
            parts = [f"{count} wait{_for_what(why)}" for why, count in event.reasons.items()]
            text = "; ".join(parts) or "nothing is waited for any more"
        case launching.CommandSent():
            text = f"{event.experiment} has its command"
        case launching.DispatchFailed():
            text = f"{event.experiment} got no command: {event.error}"
        case launching.Stalled():
            text = f"nothing has moved for {event.seconds:.0f} s, so the launch stops waiting"
        case launching.GroupGone():
            text = "the instance group is gone: the sweep was cancelled"
        case launching.Launched():
            has = "are on the way" if event.at_boot else "have their command"
            text = f"launched: {event.sent} {has}"
            text += f", {event.failed} failed" if event.failed else ""
            text += f", {event.waiting} still wait" if event.waiting else ""
    return one_line(text)


def _for_what(reason: str) -> str:
    """What is waited for: it is said so, or as a code of Compute Engine's."""
    return f": {waits_for(reason, '')}" if reason.isupper() else f" for {reason}"
