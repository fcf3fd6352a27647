"""Reads the sweep's manifest, beside all that goes on: the terms of an attempt."""

import threading
import time
from collections.abc import Callable
from typing import Any

from sinergym_trainer.errors import one_line
from sinergym_trainer.runner.stopping import stop_pending
from sinergym_trainer.runner.terms import Terms, terms_of

PATIENCE = 15.0
"""Seconds that a command waits for the terms; then it runs, and they hold once they are known."""


class Agreement:
    """The terms of one experiment: none until `read` has found them.

    Args:
        bucket: gives the bucket.
        sweep: its name.
        experiment: its id.
        over: whether nobody wants to know any more.
        say: prints a line.
    """

    def __init__(
        self,
        bucket: Callable[[], Any],
        sweep: str,
        experiment: str,
        *,
        over: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._bucket = bucket
        self._name = f"{sweep}/sweep.json"
        self._experiment = experiment
        self._over = over
        self._say = say
        self._known = threading.Event()
        self.terms = Terms()

    def read(self) -> None:
        """Try until the manifest is read, it is clear that it can't be, or nobody wants it."""
        self.terms = self._read() or Terms()
        self._known.set()

    def wait(self) -> Terms:
        """The terms, waiting a while for them: a bucket that is away holds up no command."""
        until = time.monotonic() + PATIENCE
        while not self._known.wait(0.1) and not (stop_pending() or self._over()):
            if time.monotonic() > until:
                self._say("the manifest does not come yet: no limit is known so far")
                break
        return self.terms

    def _read(self) -> Terms | None:
        delay = first = 0.5
        while not self._over():
            try:
                manifest = (
                    self._bucket().blob(self._name).download_as_bytes(retry=None, timeout=(5, 20))
                )
                return terms_of(manifest, self._experiment)
            except Exception as error:
                if getattr(error, "code", None) == 404:
                    return None
                if isinstance(error, ValueError):
                    self._say(f"the manifest cannot be read: {error}")
                    return None
                if delay == first:
                    self._say(f"the manifest cannot be read yet, trying again: {one_line(error)}")
                time.sleep(delay)
                delay = min(delay * 2, 10.0)
        return None
