"""The experiment's command as a process: its start, its signals, its end.

It is a shell in a session of its own. The runner is PID 1, so all orphans in the container come
to it, and it collects every child that ends.
"""

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from sinergym_trainer.runner.record import Record
from sinergym_trainer.runner.stopping import SIGNALS
from sinergym_trainer.runner.vm import Vm


class Child:
    """The process of the command; there is none before `start`.

    Where a process or its group is gone already, nothing is done: it may end at any time.
    """

    def __init__(self) -> None:
        self._pid: int | None = None

    @property
    def started(self) -> bool:
        """Whether there has been a process at all."""
        return self._pid is not None

    def start(self, command: str, environment: Mapping[str, str]) -> None:
        """Start the command line as `/bin/sh -c` does, in the working directory.

        Raises:
            OSError: the system refuses it: it is too long, say.
            ValueError: it has a NUL in it.
        """
        _adopt_orphans()
        self._pid = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", "-c", command],
            environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
            setsid=True,
            setsigmask=(),
            setsigdef=(*SIGNALS, signal.SIGPIPE),
        )

    def reap(self) -> int | None:
        """Collect all children that have ended, orphans too.

        Returns:
            The command's status, as `os.waitpid` gives it, if it was among them; else None.
        """
        found: int | None = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self._pid:
                found = status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command's process group."""
        if self._pid is None:
            return
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def end_family(self, kill_at: float | None) -> None:
        """End what the command has left behind: its session, and orphans that came to us.

        Args:
            kill_at: the `time.monotonic()` of SIGKILL when SIGTERM has been sent before: told to
                stop, a shell ends at once while its program still saves. None: SIGTERM now, and
                SIGKILL 2 seconds later.
        """
        if self._pid is None:
            return
        now = time.monotonic()
        if kill_at is None:
            self.signal(signal.SIGTERM)
        kill_at = now + 2 if kill_at is None else max(now + 0.5, kill_at)
        while (left := _family(self._pid)) and time.monotonic() < kill_at + 8:
            if time.monotonic() > kill_at:
                for pid in left:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except (ProcessLookupError, PermissionError):
                        continue
            time.sleep(0.05)
            self.reap()
        self.reap()


def environment_of(
    record: Record, me: Vm, outer: Mapping[str, str], *, output: Path, progress: Path
) -> dict[str, str]:
    """Return the command's environment (`docs/contract.md`, 5) on top of the runner's, `outer`."""
    environment = {
        **outer,
        "SINERGYM_SWEEP": record.sweep,
        "SINERGYM_EXPERIMENT": record.experiment,
        "SINERGYM_ATTEMPT": str(record.attempt),
        "SINERGYM_BUCKET": me.bucket,
        "SINERGYM_OUTPUT": str(output),
        "SINERGYM_PROGRESS": str(progress),
    }
    # Python buffers what goes to a pipe; the log is to be live.
    environment.setdefault("PYTHONUNBUFFERED", "1")
    if me.zone:
        environment["gce_zone"] = me.zone
    if me.project:
        environment["gce_project_id"] = me.project
    return environment


def _adopt_orphans() -> None:
    """Become the parent of the command's orphans, also where we are not PID 1 (Linux)."""
    set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
    try:
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)
    except (OSError, AttributeError):
        return


def _family(session: int) -> list[int]:
    """Return the living processes of a session, and our own children (proc(5), `stat`)."""
    found = []
    try:
        paths = list(Path("/proc").iterdir())
    except FileNotFoundError:
        return []
    for path in paths:
        if not path.name.isdecimal():
            continue
        try:
            fields = (path / "stat").read_text("utf-8", "replace")
        except OSError:
            continue
        state, parent, _, its_session = fields.rpartition(")")[2].split()[:4]
        ours = int(its_session) == session or int(parent) == os.getpid()
        if ours and state not in "ZX":
            found.append(int(path.name))
    return found
