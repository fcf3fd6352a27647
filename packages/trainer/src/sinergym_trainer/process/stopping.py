"""A training that is asked to end: by SIGTERM (a preempted VM has 30 seconds) or Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stop:
    """Callable: was the end asked for? `signal` is by which signal, or None."""

    signal: int | None = None

    def __call__(self) -> bool:
        """Say whether a signal came."""
        return self.signal is not None


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Take SIGTERM and SIGINT as a wish to end, the second one as an order; in the main thread.

    Elsewhere Python handles no signals, and the wish never comes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def received(number: int, _frame: object) -> None:
        stop.signal = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, received)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
