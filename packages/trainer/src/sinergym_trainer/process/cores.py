"""Which cores a thread runs on.

An environment is two threads that take turns, Sinergym's and EnergyPlus', which the kernel puts on
two cores: each turn wakes an idle one, and what both read is in neither's cache. So environments
beside each other have a core each. Linux only (sched(7)); elsewhere nothing happens.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

_LINUX = sys.platform == "linux"
_ALL = sorted(os.sched_getaffinity(0)) if _LINUX else list(range(os.cpu_count() or 1))
"""The cores that this process was given."""


def number() -> int:
    """How many cores this process was given."""
    return len(_ALL)


def choose(count: int) -> list[int]:
    """Cores for that many environments: different ones, while there are enough."""
    # Several trainings on one machine should not all take the first ones.
    first = os.getpid()
    return [_ALL[(first + number) % len(_ALL)] for number in range(count)]


def keep_to(core: int) -> None:
    """Let this thread, and the threads that it starts from now on, run on that core only."""
    if _LINUX:
        os.sched_setaffinity(0, {core})


def use_all() -> None:
    """Let this thread run on all cores again."""
    if _LINUX:
        os.sched_setaffinity(0, _ALL)


@contextlib.contextmanager
def all_for_a_child() -> Iterator[None]:
    """Start a process inside, and it may use all cores, whichever this thread keeps to."""
    if not _LINUX:
        yield
        return
    kept = os.sched_getaffinity(0)
    use_all()
    try:
        yield
    finally:
        os.sched_setaffinity(0, kept)


def give_way() -> None:
    """Let this process, when it is woken, not take the core from who runs there.

    As a batch process (sched(7)) a worker does not interrupt the one that is waking the others.
    """
    if _LINUX:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
