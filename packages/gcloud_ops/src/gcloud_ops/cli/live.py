"""A launch and a watch as people see them: a live picture on a terminal, plain lines elsewhere.

Everything here goes to standard error; what a sweep came to is the caller's to print.
"""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from gcloud_ops import launching, sweeps
from gcloud_ops.cli.output import (
    age,
    cost_of_plan,
    cost_so_far,
    episode,
    exit_text,
    explain,
    mean_reward,
    say,
)
from gcloud_ops.clients import Clients, error_for_code
from gcloud_ops.errors import GcloudOpsError, NoCapacity, QuotaExceeded, Unavailable
from gcloud_ops.logs import read
from gcloud_ops.model import ExperimentStatus, Observation, Snapshot
from gcloud_ops.text import clean, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "Display",
    "display",
    "follow",
    "follow_and_watch",
    "tell_failures",
    "tell_plan",
    "watch",
]

LOG_LINES = 10
"""Lines of a failed experiment's log that are shown at the end."""

_FAILURES_SHOWN = 10


class Display(Protocol):
    """Shows what happens. Called from the launching and from the watching thread."""

    def happened(self, event: launching.LaunchEvent) -> None:
        """A launch has come a step further."""

    def seen(self, snapshot: Snapshot) -> None:
        """A sweep has been looked at."""

    def trouble(self, error: Unavailable) -> None:
        """The cloud did not answer; the watch goes on."""

    def noted(self, line: str) -> None:
        """The watch has found something lost, or could not signal an end."""


def display(total: int) -> AbstractContextManager[Display]:
    """The display that fits standard error: a live picture on a terminal, else lines.

    Args:
        total: How many experiments the sweep has.
    """
    return _screen(total) if sys.stderr.isatty() else _lines()


def tell_plan(planned: launching.LaunchPlan) -> None:
    """Say what a launch will make, and what it costs."""
    count = planned.instances
    say(
        f"sweep {planned.sweep.name}: {count} instance{'s' if count != 1 else ''} of "
        f"{' or '.join(planned.machine_types)} in {' or '.join(planned.zones) or planned.zone} "
        f"(project {planned.project}), "
        f"template {planned.template.name}, bucket {planned.bucket}"
        + ("" if planned.bucket_exists else " (will be made)")
    )
    say(cost_of_plan(planned.cost))
    if planned.cost.is_too_short:
        say("the limit is shorter than the hours that an experiment is expected to take")


def follow(events: Iterator[launching.LaunchEvent], *, showing: Display) -> launching.Launched:
    """Launch, resume or rerun, showing each step; returns how it ended.

    Raises:
        GcloudOpsError: As what makes the events does.
    """
    end = launching.Launched(sent=0, failed=0, waiting=0)
    for event in events:
        showing.happened(event)
        if isinstance(event, launching.Launched):
            end = event
    return end


def follow_and_watch(
    name: str,
    clients: Clients,
    events: Iterator[launching.LaunchEvent],
    *,
    showing: Display,
    bucket: str | None = None,
) -> Snapshot:
    """Launch, resume or rerun, and watch from the first instance to the end.

    Both at once, because the first may train for long while the last waits for capacity.

    Raises:
        GcloudOpsError: As what makes the events does.
    """
    launching = _Launching(events, showing=showing)
    launching.wait_until_made()
    for seen in sweeps.watch(
        name,
        clients,
        bucket=bucket,
        stop=launching.given_up,
        on_trouble=showing.trouble,
        on_note=showing.noted,
    ):
        showing.seen(seen)
        last = seen
        launching.look_at(seen)
    launching.join()
    return last


def watch(name: str, clients: Clients, *, showing: Display, bucket: str | None = None) -> Snapshot:
    """Watch a sweep to its end, showing each change; returns the last view of it.

    Raises:
        NotFound: There is no such sweep.
    """
    for seen in sweeps.watch(
        name, clients, bucket=bucket, on_trouble=showing.trouble, on_note=showing.noted
    ):
        showing.seen(seen)
        last = seen
    return last


def tell_failures(seen: Snapshot, clients: Clients) -> None:
    """Say how each experiment failed, with the last lines of its log; the first ten of them."""
    failed = [row for row in seen.rows if not row.status.is_good]
    for row in failed[:_FAILURES_SHOWN]:
        say(f"{row.id}: {_ending(row)}")
        if row.record is None or not row.record.attempt:
            continue
        try:
            tail = read(clients, seen.bucket, seen.name, row.id, tail=4 * LOG_LINES)
        except GcloudOpsError as error:
            say(f"    (its log can't be read: {one_line(str(error))})")
            continue
        for line in _telling(clean(tail.decode("utf-8", "replace")).splitlines()):
            say(f"    {line}")
    if len(failed) > _FAILURES_SHOWN:
        say(f"... and {len(failed) - _FAILURES_SHOWN} more that did not finish")


def _telling(lines: list[str]) -> list[str]:
    """The last lines of the command; the runner's own only where it printed none."""
    own = [line for line in lines if not line.startswith("sinergym-runner: ")]
    return (own or lines)[-LOG_LINES:]


def _ending(row: Observation) -> str:
    code = exit_text(row)
    how = f", exit {code}" if code else ""
    return f"{row.status}{how}{f': {one_line(row.reason)}' if row.reason else ''}"


class _Launching:
    """A launch on a thread of its own."""

    def __init__(self, events: Iterator[launching.LaunchEvent], *, showing: Display) -> None:
        self._events = events
        self._showing = showing
        self._made = threading.Event()
        self._abandoned: frozenset[str] = frozenset()
        self._error: BaseException | None = None
        self.given_up = threading.Event()
        """Set when only experiments without a command are left, and nobody to send them any."""
        # A daemon: Ctrl-C ends the command at once, and what is in the cloud stays as it is.
        self._thread = threading.Thread(target=self._run, name="launch", daemon=True)
        self._thread.start()

    def wait_until_made(self) -> None:
        """Return when the sweep is there; raise what kept it from being."""
        while not self._made.wait(0.2):  # in pieces, so that Ctrl-C is heard everywhere
            pass
        if self._error is not None:
            raise self._error

    def look_at(self, seen: Snapshot) -> None:
        """End the watch when the launch stalled and all that did get a command has ended."""
        if self._abandoned and all(
            row.status.is_final for row in seen.rows if row.id not in self._abandoned
        ):
            self.given_up.set()

    def join(self) -> None:
        """Wait for the end of the launch; raise what it met after it was made."""
        self._thread.join(timeout=10)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for event in self._events:
                self._showing.happened(event)
                match event:
                    case launching.InstancesRequested() | launching.InstanceUp():
                        self._made.set()
                    case (
                        launching.Stalled(experiments=left) | launching.GroupGone(experiments=left)
                    ):
                        self._abandoned = frozenset(left)
                    case _:
                        pass
        except BaseException as error:
            self._error = error
            self.given_up.set()
        finally:
            self._made.set()


# --------------------------------------------------------------------------- plain lines


@contextmanager
def _lines() -> Iterator[Display]:
    yield _Lines()


class _Lines:
    """A line for every event, and for every row that changed."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._in_trouble = False

    def happened(self, event: launching.LaunchEvent) -> None:
        if sentence := _sentence(event):
            say(sentence)

    def seen(self, snapshot: Snapshot) -> None:
        self._in_trouble = False
        for row in snapshot.rows:
            line = row_line(row)
            if self._shown.get(row.id) != line:
                self._shown[row.id] = line
                say(line)

    def trouble(self, error: Unavailable) -> None:
        if not self._in_trouble:
            say(f"the cloud does not answer, waiting: {one_line(error.message)}")
        self._in_trouble = True

    def noted(self, line: str) -> None:
        say(line)


def row_line(row: Observation) -> str:
    """An experiment in one line, with nothing in it that changes by itself."""
    parts = [row.id, str(row.status)]
    if row.status is ExperimentStatus.UNREACHABLE:
        return " ".join(parts)  # its reason counts seconds
    if done := episode(row):
        parts.append(f"episode {done}")
    if reward := mean_reward(row):
        parts.append(f"mean reward {reward}")
    if code := exit_text(row):
        parts.append(f"exit {code}")
    if row.reason:
        parts.append(f"({one_line(row.reason)})")
    return " ".join(parts)


def _sentence(event: launching.LaunchEvent) -> str:
    match event:
        case launching.BucketMade(bucket=bucket, location=location):
            return f"bucket {bucket} made in {location}"
        case launching.GroupMade(group=group, zone=zone, template=template):
            return f"instance group {group} made in {zone} of the template {template}"
        case launching.InstancesRequested(count=count):
            return f"{_instances(count)} requested"
        case launching.Reopened(experiments=experiments):
            return f"{_experiments(len(experiments))} to run again"
        case launching.NothingToDo(why=why):
            return f"nothing to do: {one_line(why)}"
        case launching.InstanceUp(experiment=experiment):
            return f"{experiment}: instance is up"
        case launching.CommandSent(experiment=experiment):
            return f"{experiment}: command sent"
        case launching.DispatchFailed(experiment=experiment, error=error):
            return f"{experiment}: command not sent: {one_line(str(error))}"
        case launching.Waiting(reasons=reasons):
            return _waiting(reasons)
        case launching.Stalled() | launching.GroupGone() | launching.Launched():
            return _last_sentence(event)


def _last_sentence(
    event: launching.Stalled | launching.GroupGone | launching.Launched,
) -> str:
    match event:
        case launching.Stalled(experiments=left, reasons=reasons, seconds=seconds):
            return (
                f"nothing has moved for {seconds:.0f} s, so {_experiments(len(left))} got no "
                f"command: {_waiting(reasons)}"
            )
        case launching.GroupGone(experiments=left):
            return (
                f"the instance group is gone: the sweep was cancelled while "
                f"{_experiments(len(left))} had no command"
            )
        case launching.Launched(sent=sent, at_boot=True):
            return f"{_experiments(sent)} on the way; this computer is not needed for them"
        case launching.Launched(sent=sent, failed=failed, waiting=waiting):
            rest = [f"{failed} could not be"] if failed else []
            rest += [f"{waiting} were not"] if waiting else []
            return f"{sent} command{'s' if sent != 1 else ''} sent" + "".join(
                f", {part}" for part in rest
            )


_AWAITED = {
    launching.FOR_GROUP: ("a place in the group", "places in the group"),
    launching.FOR_INSTANCE: ("its instance", "their instances"),
    launching.FOR_CONTAINER: ("its container", "their containers"),
    launching.FOR_CLOUD: ("the cloud to answer", "the cloud to answer"),
    launching.FOR_REMOVAL: ("its old instance to be gone", "their old instances to be gone"),
}


def _waiting(reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    return ", ".join(_waits(reason, count) for reason, count in reasons.items())


def _waits(reason: str, count: int) -> str:
    """`1 waits for its container`, `2 wait for their containers`."""
    subject = f"{count} wait{'s' if count == 1 else ''}"
    if reason in _AWAITED:
        return f"{subject} for {_AWAITED[reason][count != 1]}"
    match error_for_code(reason, "", resource=""):
        case NoCapacity():
            what = "for capacity in the zone"
        case QuotaExceeded():
            what = "for quota"
        case _:
            what = "to be created"
    return f"{subject} {what} ({one_line(reason)})"


def _experiments(count: int) -> str:
    return f"{count} experiment{'s' if count != 1 else ''}"


def _instances(count: int) -> str:
    return f"{count} instance{'s' if count != 1 else ''}"


# -------------------------------------------------------------------------- live picture


_COLOURS = {
    ExperimentStatus.RUNNING: "cyan",
    ExperimentStatus.UPLOADING: "cyan",
    ExperimentStatus.FINISHED: "green",
    ExperimentStatus.FAILED: "red",
    ExperimentStatus.LOST: "red",
    ExperimentStatus.CANCELLED: "yellow",
    ExperimentStatus.UNREACHABLE: "yellow",
    ExperimentStatus.QUEUED: "yellow",
    ExperimentStatus.RETRYING: "yellow",
}


@contextmanager
def _screen(total: int) -> Iterator[Display]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, markup=False, highlight=False)
    screen = _Screen(total, height=lambda: console.height)
    with Live(
        console=console,
        get_renderable=screen.picture,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield screen
    # The picture goes; what must not be missed stays.
    for line in screen.remarks:
        say(line)


class _Screen:
    """The state that the picture is drawn of, four times a second."""

    def __init__(self, total: int, *, height: Any) -> None:
        self._total = total
        self._height = height
        self._begin = time.monotonic()
        self._up = self._sent = 0
        self._step = ""
        self._launching = False
        self._snapshot: Snapshot | None = None
        self._trouble = ""
        self.remarks: list[str] = []

    def happened(self, event: launching.LaunchEvent) -> None:
        self._launching = True
        match event:
            case launching.InstanceUp():
                self._up += 1
            case launching.CommandSent():
                self._sent += 1
            case (
                launching.DispatchFailed()
                | launching.Stalled()
                | launching.GroupGone()
                | launching.NothingToDo()
            ):
                self.remarks.append(_sentence(event))
            case launching.Launched():
                self._launching = False
                self.remarks.append(_sentence(event))
            case _:
                self._step = _sentence(event)

    def seen(self, snapshot: Snapshot) -> None:
        self._snapshot, self._trouble = snapshot, ""

    def trouble(self, error: Unavailable) -> None:
        self._trouble = f"the cloud does not answer, waiting: {one_line(error.message)}"

    def noted(self, line: str) -> None:
        self.remarks.append(line)

    def picture(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = []
        elapsed = age_of(time.monotonic() - self._begin)
        if self._launching:
            steps = Table.grid(padding=(0, 1))
            counts = (("instances up", self._up), ("commands sent", self._sent))
            for what, done in counts if self._up else ():  # at boot, nobody counts them
                bar = ProgressBar(total=self._total, completed=done, width=30)
                steps.add_row(Text(what), bar, Text(f"{done}/{self._total}"))
            parts += [steps, Text(f"{elapsed}  {self._step}", style="dim")]
        if self._snapshot is not None:
            parts += [
                Text(f"{self._snapshot.name}  {elapsed}  {explain(self._snapshot)}", style="bold"),
                Text(cost_so_far(self._snapshot), style="dim"),
                self._rows(self._snapshot),
            ]
        if self._trouble:
            parts.append(Text(self._trouble, style="yellow"))
        return Group(*parts)

    def _rows(self, snapshot: Snapshot) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        room = max(3, self._height() - 9)
        order = sorted(snapshot.rows, key=_urgency)  # stable: by number within the same
        shown = sorted(order[:room], key=lambda row: row.id)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for header in ("experiment", "status", "episode", "mean reward", "age", ""):
            table.add_column(header, no_wrap=True, overflow="ellipsis")
        for row in shown:
            started = row.record.started if row.record else None
            table.add_row(
                Text(row.id),
                Text(str(row.status), style=_COLOURS.get(row.status, "")),
                Text(one_line(episode(row))),
                Text(one_line(mean_reward(row))),
                Text(age(started, row.record.ended if row.record else None) if started else ""),
                Text(one_line(row.reason), style="dim"),
            )
        hidden = len(snapshot.rows) - len(shown)
        return Group(table, Text(f"... and {hidden} more", style="dim")) if hidden else table


def _urgency(row: Observation) -> int:
    """What moves comes first, then what went wrong, then what waits, then what is done."""
    if row.status in {
        ExperimentStatus.RUNNING,
        ExperimentStatus.UPLOADING,
        ExperimentStatus.UNREACHABLE,
    }:
        return 0
    if row.status.is_final:
        return 3 if row.status.is_good else 1
    return 2


def age_of(seconds: float) -> str:
    """Minutes and seconds: `2:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
