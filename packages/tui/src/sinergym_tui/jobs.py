"""What goes on in the background: how far it is, and how it is stopped. No terminal here."""

import threading
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Literal

__all__ = ["Job", "Stopped"]

_NUMBERS: Final = count(1)


class Stopped(Exception):
    """A job was asked to stop, and does."""


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """Something that takes a while. The app writes it; the thread only asks whether to stop."""

    title: str
    """What is done to what, such as `cancel quick`."""
    is_change: bool = False
    """Whether it changes the cloud: listed, told of when it ends, asked about when leaving."""
    sweep: str = ""
    group: str = ""
    """Of those of one group only the newest goes on; "" for no group."""
    sentence: str = "…"
    state: Literal["running", "done", "failed", "stopped"] = "running"
    number: int = field(default_factory=lambda: next(_NUMBERS))
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end."""
        return self.state != "running"
