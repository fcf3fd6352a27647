"""What runs in threads: asks the core, posts what happened. No widget is in reach here."""

import threading
import time
from collections.abc import Callable
from typing import Final

from textual.message import Message

from gcloud_ops.errors import Unavailable
from sinergym_tui import messages
from sinergym_tui.fleet import Fleet, explain
from sinergym_tui.jobs import Job, Stopped
from sinergym_tui.loglines import LineCutter, LogFeed

__all__ = [
    "Connect",
    "FleetWork",
    "Gaze",
    "Post",
    "Tell",
    "Work",
    "connect_to_cloud",
    "do_job",
    "read_logs",
    "watch_fleet",
]

type Connect = Callable[[Callable[[str], None]], Fleet]
"""Gets a fleet, telling its steps; may take seconds, may raise."""

type Post = Callable[[Message], None]
"""Tells the app; safe from any thread."""

type Tell = Callable[[str], None]
"""Tells how far a job is; raises `Stopped` where it shall stop."""

type Work[T] = Callable[[Tell], T]
"""What a job does, in a thread."""

type FleetWork[T] = Callable[[Fleet, Tell], T]
"""The same, with the fleet."""

_SHARE: Final = 4  # a look is followed by a rest that is so many times as long as it took


class Gaze:
    """Where the one poller looks, and how it is woken and stopped; shared between threads.

    Args:
        interval: Seconds between two looks, at least.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._sweep = ""
        self._afresh = False
        self._wake = threading.Event()
        self.stopped = threading.Event()

    def turn_to(self, sweep: str) -> None:
        """Look at this sweep closely, from now on."""
        if sweep != self._sweep:
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

    def rest(self, busy: float) -> None:
        """Wait for the next look; the longer, the more seconds of the processor this one took."""
        self._wake.wait(max(self._interval, _SHARE * busy))


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
        began = time.thread_time()
        view = fleet.observe(sweep, afresh=afresh)
        busy = time.thread_time() - began
        post(messages.FleetObserved(view))
        gaze.rest(busy)


def read_logs(fleet: Fleet, sweep: str, feed: LogFeed, post: Post) -> None:
    """Fill the feed until it is stopped or the logs have ended; posts `LogArrived`."""
    sources = {experiment: number for number, experiment in enumerate(feed.experiments)}
    cutters = [LineCutter() for _ in sources]
    attempts = [0 for _ in sources]

    def put(source: int, lines: list[str], at: float | None = None) -> None:
        if feed.put(source, lines, at=at):
            post(messages.LogArrived(feed))

    try:
        for chunk in fleet.follow(sweep, feed.experiments, stop=feed.stop):
            if feed.stop.is_set():
                return
            source = sources[chunk.experiment]
            if attempts[source] and chunk.attempt != attempts[source]:
                put(source, [*cutters[source].finish(), f"[… attempt {chunk.attempt} …]"])
            attempts[source] = chunk.attempt
            put(source, cutters[source].feed(chunk.data), time.time() if chunk.is_new else None)
    except Exception as error:  # a line in the log says it; the rest of the console goes on
        put(-1, [f"[… the log can't be read: {explain(error)}]"])
    else:
        for source, cutter in enumerate(cutters):
            put(source, [*cutter.finish()])
            if not attempts[source]:
                put(source, ["[… there is no log]"])
        if not feed.stop.is_set() and any(attempts):
            put(-1, ["[… the log's end]" if len(sources) == 1 else "[… the logs' end]"])


def do_job[T](job: Job, work: Work[T], post: Post) -> None:
    """Posts `JobAdvanced`, then `JobEnded`, `JobFailed` or `JobStopped`."""

    def tell(sentence: str) -> None:
        if job.stop.is_set():
            raise Stopped
        post(messages.JobAdvanced(job, sentence))

    try:
        result = work(tell)
    except Stopped:
        post(messages.JobStopped(job))
    except Exception as error:  # the app says it; the console stays
        post(messages.JobFailed(job, explain(error)))
    else:
        post(messages.JobEnded(job, result))
