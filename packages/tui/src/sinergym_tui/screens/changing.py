"""Ask before a change, then start it: each lists what it will touch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gcloud_ops.model import Observation
from gcloud_ops.text import one_line
from sinergym_tui import changes
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.views.cells import plural
from sinergym_tui.views.sweeps import SweepState
from sinergym_tui.workers import FleetWork, Tell

if TYPE_CHECKING:
    from sinergym_tui.app import Console

__all__ = [
    "ask_to_cancel",
    "ask_to_delete",
    "ask_to_rerun",
    "ask_to_restart",
    "ask_to_resume",
]

_LISTED = 12  # experiments that a question names


def ask_to_cancel(console: "Console", state: SweepState, experiments: Sequence[str]) -> None:
    """Cancel some experiments, or the whole sweep where none is named."""
    rows = _rows(state, experiments)
    unfinished = changes.unfinished(rows)
    if experiments and not unfinished:
        console.tell("nothing to cancel: all of them have ended")
        return
    if experiments:
        question = f"Cancel {plural(len(unfinished), 'experiment')} of sweep {state.name}?"
        touches = [*_named(unfinished), "their VMs go; their results stay in the bucket"]
        title = f"cancel {plural(len(unfinished), 'experiment')} of {state.name}"
    else:
        count = len(unfinished) if state.snapshot else state.summary.experiments
        question, title = f"Cancel sweep {state.name}?", f"cancel {state.name}"
        touches = [
            *_instances_line(state),
            f"{plural(count, 'unfinished experiment')} marked as cancelled",
            "what has finished, and all results, stay in the bucket",
        ]

    def work(fleet: Fleet, tell: Tell) -> str:
        return changes.cancel(fleet, state.name, unfinished if experiments else (), tell)

    _ask(
        console,
        state,
        work,
        question=question,
        touches=touches,
        title=title,
        yes="Cancel the sweep" if not experiments else "Cancel them",
        typed=not experiments and state.has_instances,
    )


def ask_to_delete(console: "Console", state: SweepState) -> None:
    """Delete a sweep with its results."""
    bucket = f"gs://{state.snapshot.bucket}/" if state.snapshot else ""
    touches = [
        *_instances_line(state),
        f"everything in {bucket}{state.name}/ goes: manifest, records, logs, models, "
        "TensorBoard files",
    ]

    def work(fleet: Fleet, tell: Tell) -> str:
        return changes.delete(fleet, state.name, tell)

    _ask(
        console,
        state,
        work,
        question=f"Delete sweep {state.name} for good?",
        touches=touches,
        title=f"delete {state.name}",
        yes="Delete the sweep",
        typed=state.has_instances,
    )


def ask_to_resume(console: "Console", state: SweepState) -> None:
    """Go on with a launch that was interrupted."""
    unfinished = changes.unfinished(_rows(state, ()))
    if state.snapshot is not None and not unfinished:
        console.tell("nothing to resume: all experiments have ended; rerun those that failed")
        return
    touches = [
        f"each of the {len(unfinished) or state.summary.experiments} experiments that have not "
        "ended gets a VM, unless it has one; those cost until they have ended",
        "what runs, and what has ended, is left alone",
    ]

    def work(fleet: Fleet, tell: Tell) -> str:
        return changes.resume(fleet, state.name, tell)

    _ask(
        console,
        state,
        work,
        question=f"Go on with the launch of sweep {state.name}?",
        touches=touches,
        title=f"resume {state.name}",
        yes="Resume it",
    )


def ask_to_rerun(console: "Console", state: SweepState, experiments: Sequence[str]) -> None:
    """Run experiments again that have ended."""
    ended = changes.ended(_rows(state, experiments))
    if not ended:
        console.tell("nothing to rerun: none of them has ended")
        return
    touches = [
        *_named(ended),
        f"{plural(len(ended), 'VM')} made again, at a cost until the end of each",
        "each goes on from its last checkpoint, where it has one",
    ]

    def work(fleet: Fleet, tell: Tell) -> str:
        return changes.rerun(fleet, state.name, ended, tell)

    _ask(
        console,
        state,
        work,
        question=f"Run {plural(len(ended), 'experiment')} of sweep {state.name} again?",
        touches=touches,
        title=f"rerun {plural(len(ended), 'experiment')} of {state.name}",
        yes="Rerun them",
    )


def ask_to_restart(console: "Console", state: SweepState, experiments: Sequence[str]) -> None:
    """Restart the containers of experiments whose VMs are up."""
    up = changes.restartable(_rows(state, experiments))
    if not up:
        console.tell("nothing to restart: none of them has a VM that is up")
        return
    touches = [
        *_named(up),
        "their containers are stopped and started, over SSH",
        "each training goes on from its last checkpoint, as a new attempt",
    ]

    def work(fleet: Fleet, tell: Tell) -> str:
        return changes.restart_containers(fleet, state.name, up, tell)

    those = plural(len(up), "experiment")
    _ask(
        console,
        state,
        work,
        question=f"Restart the containers of {those} of sweep {state.name}?",
        touches=touches,
        title=f"restart {those} of {state.name}",
        yes="Restart them",
    )


def _ask(
    console: "Console",
    state: SweepState,
    work: FleetWork[str],
    *,
    question: str,
    touches: Sequence[str],
    title: str,
    yes: str,
    typed: bool = False,
) -> None:
    def begin(sure: bool | None) -> None:
        if sure:
            console.start(Job(title=title, is_change=True, sweep=state.name), work)

    screen = ConfirmScreen(
        one_line(question),
        [one_line(line) for line in touches],
        yes=yes,
        typed=state.name if typed else "",
    )
    console.push_screen(screen, begin)


def _rows(state: SweepState, experiments: Sequence[str]) -> list[Observation]:
    wanted = set(experiments)
    rows = state.snapshot.rows if state.snapshot else ()
    return [row for row in rows if not wanted or row.id in wanted]


def _named(experiments: Sequence[str]) -> list[str]:
    more = len(experiments) - _LISTED
    return [*experiments[:_LISTED], *([f"and {more} more"] if more > 0 else [])]


def _instances_line(state: SweepState) -> list[str]:
    if not state.has_instances:
        return []
    return [f"its instance group with {plural(state.instance_count, 'VM')} is removed"]
