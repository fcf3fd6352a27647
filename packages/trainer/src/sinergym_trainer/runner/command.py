"""The experiment's command as a process: its start, its signals, its end and what it meant.

It is a shell in a session of its own. The runner is PID 1, so all orphans in the container come
to it, and it collects every child that ends.
"""

import ctypes
import os
import re
import shlex
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from sinergym_trainer.runner.record import Exit, Record
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


def exit_of(status: int, command: str, tail: str) -> Exit:
    """Say how a command ended: code, signal, kind, and a hint for people.

    Args:
        status: as `os.waitpid` gives it.
        command: the command line.
        tail: the last that it printed.
    """
    if os.WIFSIGNALED(status):
        name = _signal_name(os.WTERMSIG(status))
        code, killed = 128 + os.WTERMSIG(status), name == "SIGKILL"
    else:
        name, code = None, os.WEXITSTATUS(status)
        killed = code == 128 + signal.SIGKILL
    if killed:
        return Exit(
            code=code,
            signal="SIGKILL",
            kind="oom",
            hint="killed from outside: most likely out of memory; take a larger machine type",
        )
    if name is not None:
        return Exit(code=code, signal=name, kind="signal", hint=f"ended by {name}")
    if code == 0:
        return Exit(code=0, signal=None, kind="ok", hint=None)
    if code == 128 + signal.SIGTERM:
        # A program that saves before it ends, and a shell whose program a signal ended, say so.
        said = _last_line(tail, command)
        hint = f"ended by SIGTERM, though the container was not told to stop; {said}"
        return Exit(code=code, signal="SIGTERM", kind="signal", hint=hint)
    if code == 127:
        found = re.findall(r"([^\s:]+): (?:command )?not found", tail)
        program = found[-1] if found else _program(command)
        hint = f"no such program in the image: {program}"
        return Exit(code=code, signal=None, kind="not_found", hint=hint)
    hint = _last_line(tail, command)
    if code == 126:
        hint = f"{_program(command)} is there, but is not a program that can run; {hint}"
    return Exit(code=code, signal=None, kind="error", hint=hint)


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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _program(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return next((word for word in words if "=" not in word), command)[:200]


def _last_line(tail: str, command: str) -> str:
    """What a command said last; the error that it signed with its name, if there is one.

    After that one may come what libraries still print when Python ends.
    """
    lines = [
        line.strip()
        for line in tail.splitlines()
        if line.strip() and not line.startswith("sinergym-runner: ")
    ]
    if not lines:
        return "it printed nothing"
    names = ("sinergym-train: ", f"{Path(_program(command)).name}: ")
    signed = [line for line in lines[-10:] if line.startswith(names)]
    last = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", (signed or lines)[-1])
    return "its last line: " + "".join(sign for sign in last if sign.isprintable())[:500]
