"""What has happened: facts that workers tell the app, in the past tense.

Workers never touch a widget: they post one of these, and the app decides what it means.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from sinergym_tui.fleet import Fleet, FleetView
from sinergym_tui.loglines import LogFeed

if TYPE_CHECKING:
    from gcloud_ops.launching import LaunchPlan

__all__ = [
    "ConnectAdvanced",
    "ConnectFailed",
    "Connected",
    "FleetObserved",
    "LaunchAdvanced",
    "LaunchEnded",
    "LogArrived",
    "PlanFailed",
    "PlanMade",
    "PlanRequested",
    "SweepChangeAdvanced",
    "SweepChangeFailed",
    "SweepChanged",
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
class PlanRequested(Message):
    """Somebody wants to know what launching a file would do."""

    file: Path
    name: str | None


@dataclass
class PlanMade(Message):
    """The file can be launched."""

    asked: PlanRequested
    plan: "LaunchPlan"


@dataclass
class PlanFailed(Message):
    """The file can't be launched."""

    asked: PlanRequested
    reason: str


@dataclass
class LaunchAdvanced(Message):
    """A launch has come one step further."""

    sweep: str
    sentence: str


@dataclass
class LaunchEnded(Message):
    """A launch is over."""

    sweep: str
    sentence: str


@dataclass
class SweepChangeAdvanced(Message):
    """A cancel or a delete has come one step further."""

    sweep: str
    step: str


@dataclass
class SweepChanged(Message):
    """A sweep was cancelled or deleted."""

    sweep: str
    sentence: str


@dataclass
class SweepChangeFailed(Message):
    """A sweep could not be launched, cancelled or deleted."""

    sweep: str
    verb: str
    reason: str
