"""The command while it runs: its signals, its progress, its outputs on their way to the bucket."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinergym_trainer.outputs import Uploader
from sinergym_trainer.runner import vm
from sinergym_trainer.runner.command import Child, environment_of
from sinergym_trainer.runner.credentials import read_login
from sinergym_trainer.runner.ends import memory_kills
from sinergym_trainer.runner.keeper import Keeper
from sinergym_trainer.runner.log import say
from sinergym_trainer.runner.record import PREEMPTED, Exit, Verdict, parse_report
from sinergym_trainer.runner.stopping import (
    STOP_SIGNALS,
    Deadline,
    next_signal,
    put_back,
    stop_pending,
)

GRACE = 25.0
"""Seconds that the command has after SIGTERM."""
STOP_SPREADS = 2.0
"""Seconds in which a signal to all of a container's processes has reached the runner."""
LOGIN_PATIENCE = 15.0
"""Seconds to wait for the secret with the tracking server's user name and password."""
HURRIED_SYNC = 0.5
"""Seconds between two looks for new outputs once the container is told to stop."""
LARGEST_REPORT = 64 << 10
"""Bytes of a progress file that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of the command."""

    status: int
    """As `os.waitpid` gives it."""
    stopped: bool = False
    """The container was told to stop while the command ran."""
    out_of_time: bool = False
    """The experiment's limit was used up while the command ran."""
    problem: str | None = None
    """Why it could not even be started."""
    memory_kills: int = 0
    """Processes that the kernel has killed for their memory meanwhile."""


class Running:
    """One command, from its start to the upload of what it left.

    Args:
        keeper: of the record; its attempt is claimed.
        me: this VM.
        environment: the runner's.
        folder: of the runner's own files.
        bucket: gives the bucket.
        sync_seconds: between two uploads of new outputs.
    """

    def __init__(
        self,
        keeper: Keeper,
        me: vm.Vm,
        environment: Mapping[str, str],
        *,
        folder: Path,
        bucket: Callable[[], Any],
        sync_seconds: float,
        on_deleted: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._me = me
        self._environment = environment
        self._sync_seconds = sync_seconds
        self._on_deleted = on_deleted
        self._child = Child()
        self._kill_at: float | None = None
        self._hurry = threading.Event()
        self._preempted = False
        record = keeper.record
        self._output = Path("output", str(record.attempt)).absolute()
        self._progress = (folder / f"progress-{record.attempt}.json").absolute()
        self._progress_seen: tuple[int, ...] = ()
        self._uploader = Uploader(
            bucket,
            self._output,
            {
                "": f"{record.sweep}/{record.experiment}/output/",
                "tensorboard/": f"{record.sweep}/tensorboard/{record.experiment}/",
            },
        )

    def run(self, command: str, *, left: Callable[[], float | None]) -> Ended:
        """Start the command and wait for its end, which never comes later than it must.

        Args:
            command: a line for `/bin/sh -c`.
            left: seconds until it is told to stop, as the limit asks; None: there is none, or it
                is not known yet.
        """
        environment = environment_of(
            self._keeper.record,
            self._me,
            self._environment,
            output=self._output,
            progress=self._progress,
        )
        # Last, and nowhere else: this mapping lives only as long as the start of the command.
        environment |= self._read_login()
        say(f"running: {command}")
        self._keeper.update(state="running", command=command)
        kills = memory_kills()
        try:
            self._output.mkdir(parents=True, exist_ok=True)
            self._progress.unlink(missing_ok=True)
            self._child.start(command, environment)
        except (OSError, ValueError) as error:
            say(f"the command cannot be started: {error}")
            return Ended(status=126 << 8, problem=f"it could not be started: {error}")
        done = threading.Event()
        syncing = threading.Thread(target=self._sync_often, args=(done,), daemon=True)
        syncing.start()
        try:
            status, stopped, out_of_time = self._watch(left)
        finally:
            done.set()
            self._hurry.set()
        self.end_family()
        return Ended(
            status=status,
            stopped=stopped,
            out_of_time=out_of_time,
            memory_kills=max(0, memory_kills() - kills),
        )

    def end_family(self) -> None:
        """End what the command has left behind."""
        self._child.end_family(self._kill_at)

    def is_being_stopped(self) -> bool:
        """Whether a command that SIGTERM ended is the first to hear of the container's end."""
        until = time.monotonic() + STOP_SPREADS
        while not stop_pending():
            if vm.is_preempted(self._environment):
                self._preempted = True
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.25)
        self._preempted = vm.is_preempted(self._environment)
        return True

    def stop_exit(self, code: int | None) -> Exit:
        """What the record says of an attempt that was told to stop."""
        hint = PREEMPTED if self._preempted else "the container was told to stop"
        return Exit(code=code, signal="SIGTERM", kind="signal", hint=hint)

    def upload(self, give_up: Callable[[], bool]) -> Mapping[str, str]:
        """Upload until all is there; returns what is not, and why."""

        def over() -> bool:
            return give_up() or self._keeper.verdict in {Verdict.DELETED, Verdict.SUPERSEDED}

        delay = 1.0
        while True:
            result = self._uploader.sync(over)
            total = self._uploader.total
            self._keeper.update(outputs={"files": total.files, "bytes": total.bytes})
            if not result.failed:
                say(f"outputs: {total.files} files, {total.bytes} bytes in the bucket")
                return {}
            path, why = next(iter(result.failed.items()))
            say(f"{len(result.failed)} files are not uploaded yet, {path} for one: {why}")
            until = time.monotonic() + delay
            while time.monotonic() < until:
                if over():
                    return result.failed
                time.sleep(0.1)
            delay = min(delay * 2, 30.0)

    def _read_login(self) -> dict[str, str]:
        patience = Deadline(LOGIN_PATIENCE, 0)
        return read_login(
            self._environment,
            give_up=lambda: patience() or self._keeper.verdict is not None,
            say=say,
        )

    def _watch(self, left: Callable[[], float | None]) -> tuple[int, bool, bool]:
        """Wait for the end; pass on signals and progress meanwhile."""
        stopped = out_of_time = False
        while True:
            number = next_signal(0.25)
            status = self._child.reap()
            if status is not None:
                self._read_progress()
                if number in STOP_SIGNALS:
                    put_back(number)
                return status, stopped, out_of_time
            if number in STOP_SIGNALS and not stopped:
                stopped = True
                self._note_stop()
                if self._kill_at is None:
                    say(f"told to stop: SIGTERM to the command, which has {GRACE:g} s")
                    self._end_in(GRACE)
            elif self._kill_at is not None:
                if time.monotonic() > self._kill_at:
                    say("the command did not end in time: SIGKILL")
                    self._child.signal(signal.SIGKILL)
            elif self._keeper.verdict is not None:
                say(f"the experiment was ended from outside: SIGTERM to the command, {GRACE:g} s")
                if self._keeper.verdict is Verdict.DELETED:
                    self._on_deleted()
                self._end_in(GRACE)
            elif (seconds := left()) is not None and seconds <= 0:
                out_of_time = True
                say(f"its time is used up: SIGTERM to the command, which has {GRACE:g} s")
                self._end_in(GRACE)
            self._read_progress()

    def _end_in(self, seconds: float) -> None:
        self._kill_at = time.monotonic() + seconds
        self._child.signal(signal.SIGTERM)
        self._hurry.set()

    def _note_stop(self) -> None:
        self._preempted = vm.is_preempted(self._environment)
        self._keeper.update(exit=self.stop_exit(None))

    def _sync_often(self, done: threading.Event) -> None:
        pause, problem = self._sync_seconds, None
        skipped: set[str] = set()

        def over() -> bool:
            return done.is_set() or self._keeper.verdict is not None

        def next_pass() -> bool:
            # What the command saves in its last seconds may be all that the next attempt finds.
            if self._hurry.is_set():
                done.wait(min(HURRIED_SYNC, pause))
            else:
                self._hurry.wait(pause)
            return not over()

        while next_pass():
            result = self._uploader.sync(over)
            if result.failed and not over():
                path, why = next(iter(result.failed.items()))
                if why != problem:
                    say(f"{path} could not be uploaded yet: {why}")
                problem = why
            for path in set(result.skipped) - skipped:
                say(f"{path} is not uploaded: no object can have that name")
                skipped.add(path)
            total = self._uploader.total
            self._keeper.update(outputs={"files": total.files, "bytes": total.bytes})

    def _read_progress(self) -> None:
        try:
            status = self._progress.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._progress_seen or status.st_size > LARGEST_REPORT:
                return
            report = parse_report(self._progress.read_bytes())
        except OSError:
            return
        self._progress_seen = seen
        if report is None:
            return
        record = self._keeper.record
        self._keeper.update(
            progress={**record.progress, **report.progress},
            mlflow=report.mlflow if report.mlflow is not None else record.mlflow,
            versions={**record.versions, **report.versions},
        )
