"""What runs in threads: asks the core, posts what happened. No widget is in reach here."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.message import Message

from gcloud_ops.errors import Unavailable
from sinergym_tui import messages
from sinergym_tui.fleet import Fleet, describe, explain
from sinergym_tui.loglines import LineCutter, LogFeed

if TYPE_CHECKING:
    from gcloud_ops.launching import LaunchPlan

__all__ = [
    "Connect",
    "Gaze",
    "Post",
    "change_sweep",
    "connect_to_cloud",
    "launch_sweep",
    "make_plan",
    "read_log",
    "watch_fleet",
]

type Connect = Callable[[Callable[[str], None]], Fleet]
"""Gets a fleet, telling its steps; may take seconds, may raise."""

type Post = Callable[[Message], None]
"""Tells the app; safe from any thread."""


class Gaze:
    """Where the one poller looks, and how it is woken and stopped; shared between threads.

    Args:
        interval: Seconds between two looks.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._sweep = ""
        self._afresh = False
        self._wake = threading.Event()
        self.stopped = threading.Event()

    def turn_to(self, sweep: str) -> None:
        """Look at this sweep closely, from now on."""
        self._sweep = sweep
        self._wake.set()

    def look_now(self) -> None:
        """Look without waiting, and at the list of all sweeps too."""
        self._afresh = True
        self._wake.set()

    def stop(self) -> None:
        """Look no more."""
        self.stopped.set()
        self._wake.set()

    def take(self) -> tuple[str, bool]:
        """Where to look, and whether at the list too; the wish is fulfilled with that."""
        self._wake.clear()
        afresh, self._afresh = self._afresh, False
        return self._sweep, afresh

    def rest(self) -> None:
        """Wait for the next look."""
        self._wake.wait(self._interval)


def connect_to_cloud(connect: Connect, post: Post) -> None:
    """Posts `ConnectAdvanced`, then `Connected` or `ConnectFailed`."""
    try:
        fleet = connect(lambda step: post(messages.ConnectAdvanced(step)))
    except Exception as error:  # shown, and tried again: the console stays
        post(messages.ConnectFailed(explain(error), isinstance(error, Unavailable)))
    else:
        post(messages.Connected(fleet))


def watch_fleet(fleet: Fleet, gaze: Gaze, post: Post) -> None:
    """The one poller; posts `FleetObserved` for each look."""
    while not gaze.stopped.is_set():
        sweep, afresh = gaze.take()
        post(messages.FleetObserved(fleet.observe(sweep, afresh=afresh)))
        gaze.rest()


def read_log(fleet: Fleet, sweep: str, feed: LogFeed, post: Post) -> None:
    """Fill the feed until it is stopped or the log has ended; posts `LogArrived`."""
    cutter = LineCutter()
    attempt = 0

    def put(lines: list[str]) -> None:
        if feed.put(lines):
            post(messages.LogArrived(feed))

    try:
        for chunk in fleet.follow(sweep, feed.experiment, stop=feed.stop):
            if feed.stop.is_set():
                return
            if attempt and chunk.attempt != attempt:
                put([*cutter.finish(), f"[… attempt {chunk.attempt} …]"])
            attempt = chunk.attempt
            put(cutter.feed(chunk.data))
    except Exception as error:  # a line in the log says it; the rest of the console goes on
        put([*cutter.finish(), f"[… the log can't be read: {explain(error)}]"])
    else:
        put([*cutter.finish(), "[… the log's end]" if attempt else "[… there is no log]"])


def make_plan(fleet: Fleet, asked: messages.PlanRequested, post: Post) -> None:
    """Posts `PlanMade` or `PlanFailed`."""
    try:
        plan = fleet.plan(asked.file, name=asked.name)
    except Exception as error:  # the form shows it
        post(messages.PlanFailed(asked, explain(error)))
    else:
        post(messages.PlanMade(asked, plan))


def launch_sweep(fleet: Fleet, plan: "LaunchPlan", post: Post) -> None:
    """Posts `LaunchAdvanced`, then `LaunchEnded` or `SweepChangeFailed`."""
    name, sentence = plan.sweep.name, ""
    try:
        for event in fleet.launch(plan):
            sentence = describe(event)
            post(messages.LaunchAdvanced(name, sentence))
    except Exception as error:  # a modal says it
        post(messages.SweepChangeFailed(name, "launch", explain(error)))
    else:
        post(messages.LaunchEnded(name, sentence))


def change_sweep(fleet: Fleet, name: str, verb: str, post: Post) -> None:
    """Posts `SweepChangeAdvanced`, then `SweepChanged` or `SweepChangeFailed`."""

    def tell(step: str) -> None:
        post(messages.SweepChangeAdvanced(name, step))

    try:
        if verb == "cancel":
            fleet.cancel(name, on_step=tell)
            sentence = "cancelled; its results are in the bucket"
        else:
            sentence = f"deleted, {fleet.delete(name, on_step=tell)} objects"
    except Exception as error:  # a modal says it
        post(messages.SweepChangeFailed(name, verb, explain(error)))
    else:
        post(messages.SweepChanged(name, sentence))
