"""What has happened: facts that workers tell the app, in the past tense.

Workers never touch a widget: they post one of these, and the app decides what it means.
"""

from dataclasses import dataclass

from textual.message import Message

from sinergym_tui.fleet import Fleet, FleetView
from sinergym_tui.jobs import Job
from sinergym_tui.loglines import LogFeed

__all__ = [
    "ConnectAdvanced",
    "ConnectFailed",
    "Connected",
    "FleetObserved",
    "JobAdvanced",
    "JobEnded",
    "JobFailed",
    "JobStopped",
    "LogArrived",
]


@dataclass
class ConnectAdvanced(Message):
    """The way to the cloud has come one step further."""

    step: str


@dataclass
class Connected(Message):
    """The cloud can be asked."""

    fleet: Fleet


@dataclass
class ConnectFailed(Message):
    """There is no way to the cloud."""

    reason: str
    may_pass: bool
    """Whether it is worth while to try again without anything being changed."""


@dataclass
class FleetObserved(Message):
    """The fleet was looked at, with or without success."""

    view: FleetView


@dataclass
class LogArrived(Message):
    """Lines wait in the feed."""

    feed: LogFeed


@dataclass
class JobAdvanced(Message):
    """A job has come one step further."""

    job: Job
    sentence: str


@dataclass
class JobEnded(Message):
    """A job is done."""

    job: Job
    result: object


@dataclass
class JobFailed(Message):
    """A job could not be done."""

    job: Job
    reason: str


@dataclass
class JobStopped(Message):
    """A job was stopped half-way, as somebody wished."""

    job: Job
