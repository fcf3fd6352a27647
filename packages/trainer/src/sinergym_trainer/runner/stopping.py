"""When the container is told to stop: SIGTERM or SIGINT to the runner, and the time that is left.

The signals are blocked, and taken where the runner is ready for them: as PID 1 it would otherwise
not get them at all (signal(7), and "PID 1" in pid_namespaces(7)).
"""

import os
import signal
import time

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
SIGNALS = STOP_SIGNALS | {signal.SIGCHLD}
"""What `next_signal` waits for; a child process starts without these being blocked."""


def hold_signals() -> None:
    """Block `SIGNALS` in this thread and those that it starts; call it before the first one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        # The default of SIGCHLD is to be dropped, blocked or not.
        signal.signal(number, lambda *_: None)


def next_signal(seconds: float) -> int | None:
    """Take the next of `SIGNALS`, waiting so many seconds for one; None when none came."""
    found = signal.sigtimedwait(SIGNALS, seconds)
    return found.si_signo if found is not None else None


def put_back(number: int) -> None:
    """Leave a signal that was taken for whoever looks next."""
    os.kill(os.getpid(), number)


def stop_pending() -> bool:
    """Say whether the container has been told to stop, leaving the signal where it is."""
    return bool(STOP_SIGNALS & signal.sigpending())


class Deadline:
    """Callable: is the time over? Once the container is told to stop, less time is left.

    Args:
        seconds: from now, at most.
        when_stopped: seconds from the moment that `stop_pending` is first seen, at most.
    """

    def __init__(self, seconds: float, when_stopped: float) -> None:
        self._until = time.monotonic() + seconds
        self._when_stopped = when_stopped
        self._stopped = False

    def __call__(self) -> bool:
        """Say whether the time is over."""
        if not self._stopped and stop_pending():
            self._stopped = True
            self._until = min(self._until, time.monotonic() + self._when_stopped)
        return time.monotonic() >= self._until
