"""The life of an experiment in its container, as `sinergym-runner` (PID 1) leads it.

    claim the attempt -> waiting -> running -> uploading -> final -> signal -> remove the VM

The rules are those of the wire contract (`docs/contract.md`); of all this the training program
knows nothing but a few environment variables.

Signals. SIGTERM (or SIGINT) means that the container is being stopped: the VM is preempted, or
deleted because the sweep was cancelled, or somebody typed `docker stop`. The command's group gets
SIGTERM and has 25 seconds; what it left behind is uploaded. The record stays as it is, not final,
with `exit` saying `{"signal": "SIGTERM", "kind": "signal"}`, so that a VM that is made again takes
the next attempt; and the runner never removes the VM then. A command that was ended by SIGTERM
(code 143 is the same) is one that was told to stop, if the runner is told so within
two seconds or the metadata server says that the VM is preempted: a system that shuts down may
signal all of a container's processes at once. While the runner waits for a command it ends
at once, with 143. Once the command has ended by itself, SIGTERM only shortens what is left to do:
outputs to 25 s (if they do not make it, the record stays not final, too), the signal to 3 s, the
removal to 60 s.

Exit code: the command's (128 + n if signal n ended it; 1 if only its outputs got lost); 0 after
`idle`, a cancellation, or when the experiment had ended before; 143 after SIGTERM; 1 when the
bucket could not be reached in all the time, or another VM has taken over; 2 when it is not known
who we are, or the working directory cannot be used; 70 after a bug of the runner's own.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sinergym_trainer.errors import one_line
from sinergym_trainer.outputs import Uploader, connect
from sinergym_trainer.runner import mailbox, vm
from sinergym_trainer.runner.command import Child, environment_of, exit_of
from sinergym_trainer.runner.credentials import read_login
from sinergym_trainer.runner.finishing import LOST_AFTER, Finishing
from sinergym_trainer.runner.keeper import PAUSE, Keeper
from sinergym_trainer.runner.log import Log, say
from sinergym_trainer.runner.record import (
    FINAL,
    Exit,
    Record,
    Verdict,
    boot_command,
    parse_report,
    timestamp,
)
from sinergym_trainer.runner.removal import remove
from sinergym_trainer.runner.signals import is_available
from sinergym_trainer.runner.stopping import (
    STOP_SIGNALS,
    Deadline,
    hold_signals,
    next_signal,
    put_back,
    stop_pending,
)

GRACE = 25.0
"""Seconds that the command has after SIGTERM."""
STOPPED = 128 + signal.SIGTERM
STOP_SPREADS = 2.0
"""Seconds in which a signal to all of a container's processes has reached the runner."""
LOGIN_PATIENCE = 15.0
"""Seconds to wait for the secret with the tracking server's user name and password."""
SIGNAL_PATIENCE = 90.0
"""Seconds to try the signals of the end: Monitoring may be away for a minute."""
HURRIED_SIGNAL = 3.0
"""Seconds for them once the container is told to stop."""
HURRIED_SYNC = 0.5
"""Seconds between two looks for new outputs once the container is told to stop."""

OLD_NAME = "DRL_battery.py"
OLD_PROGRAM = '''\
"""The old name of `sinergym-train`; put here by sinergym-runner."""

import sys

from sinergym_trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of the command."""

    status: int
    """As `os.waitpid` gives it."""
    stopped: bool = False
    """The container was told to stop while the command ran."""
    problem: str | None = None
    """Why it could not even be started."""


def supervise(environment: Mapping[str, str] = os.environ) -> int:
    """Wait for a command and lead its experiment to the end; returns the exit code.

    It takes over descriptors 1 and 2, and the signals, of this process.
    """
    hold_signals()
    vm.prepare_google_auth()
    try:
        box = mailbox.Mailbox()
        log = Log(box.folder / "log")
    except (mailbox.Occupied, OSError) as error:
        sys.stderr.write(f"sinergym-runner: {error}\n")
        return 2
    try:
        return _Supervisor(environment, box, log).run()
    finally:
        log.close()


class _Supervisor:
    """One run of the runner."""

    def __init__(self, environment: Mapping[str, str], box: mailbox.Mailbox, log: Log) -> None:
        self._environment = environment
        self._box = box
        self._log = log
        self._child = Child()
        self._kill_at: float | None = None
        self._hurry = threading.Event()
        self._preempted = False

    def run(self) -> int:
        try:
            self._vm = vm.identify(self._environment, stop=stop_pending, say=say)
        except vm.SettingsMissing as error:
            say(f"it is not known which experiment this is: {error}")
            return 2
        except InterruptedError:
            say("told to stop")
            return STOPPED
        me = self._vm
        where = f" on {me.instance} ({me.instance_id})" if me.instance else ""
        say(f"experiment {me.experiment} of sweep {me.sweep}{where}, bucket {me.bucket}")
        say(f"waiting for a command, {me.patience:g} s at most")
        self._bucket = _Once(lambda: connect(me.bucket, me.project))
        self._keeper = Keeper(
            self._bucket,
            Record(
                sweep=me.sweep,
                experiment=me.experiment,
                instance=me.instance,
                instance_id=me.instance_id,
                image=me.image,
                versions=_versions(),
            ),
            say=say,
            heartbeat=self._seconds("SINERGYM_HEARTBEAT_SECONDS", 20.0),
            pause=self._seconds("SINERGYM_RECORD_SECONDS", PAUSE),
        )
        self._keeper.start()
        try:
            return self._lead()
        except Exception as error:
            import traceback

            say(f"the runner itself has failed, this is a bug: {one_line(error)}")
            traceback.print_exc()
            sys.stderr.flush()
            self._child.end_family(self._kill_at)
            hint = f"the runner itself has failed: {one_line(error)}"
            self._conclude("failed", Exit(code=None, signal=None, kind="error", hint=hint), 60)
            return 70

    def _lead(self) -> int:
        command = self._wait_for_command()
        if isinstance(command, int):
            return command
        ended = self._run(command)
        self._child.end_family(self._kill_at)
        verdict = self._keeper.verdict
        if verdict is not None:
            return self._end_as_told(verdict)
        result = exit_of(ended.status, command, self._log.tail())
        if ended.problem:
            result = replace(result, hint=ended.problem)
        if ended.stopped or (result.signal == "SIGTERM" and self._is_being_stopped()):
            return self._leave(result)
        if result.signal:
            say(f"the command was ended by {result.signal}")
        else:
            say(f"the command ended with exit code {result.code}")
        return self._finish(result)

    # Waiting

    def _wait_for_command(self) -> str | int:
        """Return the command, or the exit code when there is nothing to run."""
        deadline = time.monotonic() + self._vm.patience
        claimed = False
        while True:
            number = next_signal(0.05)
            if number in STOP_SIGNALS:
                say("told to stop before a command came")
                self._log.flush(Deadline(2, 2) if claimed else lambda: True)
                return STOPPED
            self._child.reap()
            if not claimed and self._keeper.claimed.is_set():
                claimed = True
                record = self._keeper.record
                if self._keeper.ended_before:
                    self._box.shut("the experiment has ended before")
                    say(f"the record says {record.state}: this experiment does not run again")
                    self._signal(own=False)
                    self._remove_vm()
                    return 0
                prefix = f"{record.sweep}/{record.experiment}/log/{record.attempt}/"
                self._log.publish(self._bucket, prefix)
                say(f"attempt {record.attempt}")
                threading.Thread(target=self._read_manifest, daemon=True).start()
            if self._keeper.verdict is not None:
                self._box.shut("the experiment was ended from outside")
                return self._end_as_told(self._keeper.verdict)
            command = self._box.take() if claimed else None
            if command is not None:
                return command
            if time.monotonic() > deadline:
                if not claimed:
                    self._box.shut("the bucket could not be reached")
                    say(f"the experiment could not be claimed: {self._keeper.last_error}")
                    self._remove_vm()
                    return 1
                if self._box.shut("its patience has ended"):
                    return self._idle()

    def _read_manifest(self) -> None:
        """In sweeps that are dispatched at boot, take the command from the manifest."""
        delay = first = 0.5
        while not self._child.started and self._keeper.verdict is None:
            try:
                command = boot_command(
                    self._bucket()
                    .blob(f"{self._vm.sweep}/sweep.json")
                    .download_as_bytes(retry=None, timeout=(5, 20)),
                    self._vm.experiment,
                )
            except Exception as error:
                if getattr(error, "code", None) == 404:
                    return
                if isinstance(error, ValueError):
                    say(f"the manifest cannot be read: {error}")
                    return
                if delay == first:
                    say(f"the manifest cannot be read yet, trying again: {one_line(error)}")
                time.sleep(delay)
                delay = min(delay * 2, 10.0)
            else:
                if command is not None:
                    self._box.publish(command)
                return

    def _idle(self) -> int:
        hint = (
            f"no command came within {self._vm.patience:g} s; one is sent with"
            " docker exec sinergym sinergym-runner submit -- COMMAND"
        )
        say(hint)
        self._conclude("idle", Exit(code=None, signal=None, kind="idle", hint=hint), 120)
        return 0

    # Running

    def _run(self, command: str) -> Ended:
        record = self._keeper.record
        output = Path("output", str(record.attempt)).absolute()
        self._progress = (self._box.folder / f"progress-{record.attempt}.json").absolute()
        self._progress_seen: tuple[int, ...] = ()
        self._uploader = Uploader(
            self._bucket,
            output,
            {
                "": f"{record.sweep}/{record.experiment}/output/",
                "tensorboard/": f"{record.sweep}/tensorboard/{record.experiment}/",
            },
        )
        self._write_old_name()
        environment = environment_of(
            record, self._vm, self._environment, output=output, progress=self._progress
        )
        # Last, and nowhere else: this mapping lives only as long as the start of the command.
        environment |= self._read_login()
        say(f"running: {command}")
        self._keeper.update(state="running", command=command)
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._progress.unlink(missing_ok=True)
            self._child.start(command, environment)
        except (OSError, ValueError) as error:
            say(f"the command cannot be started: {error}")
            return Ended(status=126 << 8, problem=f"it could not be started: {error}")
        done = threading.Event()
        syncing = threading.Thread(target=self._sync_often, args=(done,), daemon=True)
        syncing.start()
        try:
            return self._watch()
        finally:
            done.set()
            self._hurry.set()

    def _read_login(self) -> dict[str, str]:
        patience = Deadline(LOGIN_PATIENCE, 0)
        return read_login(
            self._environment,
            give_up=lambda: patience() or self._keeper.verdict is not None,
            say=say,
        )

    def _watch(self) -> Ended:
        """Wait for the end of the command; pass on signals and progress meanwhile."""
        stopped = False
        while True:
            number = next_signal(0.25)
            status = self._child.reap()
            if status is not None:
                self._read_progress()
                if number in STOP_SIGNALS:
                    put_back(number)
                return Ended(status=status, stopped=stopped)
            if self._kill_at is None and number in STOP_SIGNALS:
                stopped, self._kill_at = True, time.monotonic() + GRACE
                say(f"told to stop: SIGTERM to the command, which has {GRACE:g} s")
                self._child.signal(signal.SIGTERM)
                self._hurry.set()
                self._note_stop()
            elif self._kill_at is None and self._keeper.verdict is not None:
                self._kill_at = time.monotonic() + GRACE
                say(f"the experiment was ended from outside: SIGTERM to the command, {GRACE:g} s")
                if self._keeper.verdict is Verdict.DELETED:
                    self._log.withdraw()
                self._child.signal(signal.SIGTERM)
            elif self._kill_at is not None and time.monotonic() > self._kill_at:
                say("the command did not end in time: SIGKILL")
                self._child.signal(signal.SIGKILL)
            self._read_progress()

    def _note_stop(self) -> None:
        self._preempted = vm.is_preempted(self._environment)
        self._keeper.update(exit=self._stop_exit(None))

    def _is_being_stopped(self) -> bool:
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

    def _stop_exit(self, code: int | None) -> Exit:
        hint = "the VM was preempted" if self._preempted else "the container was told to stop"
        return Exit(code=code, signal="SIGTERM", kind="signal", hint=hint)

    def _sync_often(self, done: threading.Event) -> None:
        pause, problem = self._seconds("SINERGYM_SYNC_SECONDS", 15.0), None
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
            if seen == self._progress_seen or status.st_size > 64 << 10:
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

    # The end

    def _finish(self, result: Exit) -> int:
        """After the command's own end: outputs, log, final record, removal."""
        self._keeper.update(state="uploading", exit=result)
        minutes = self._seconds("SINERGYM_UPLOAD_MINUTES", 10.0)
        failed = self._upload_outputs(Deadline(minutes * 60, GRACE))
        if failed and stop_pending():
            say("told to stop before all outputs were uploaded: the next attempt has to repeat it")
            return self._leave(result)
        if self._keeper.verdict is not None:
            return self._end_as_told(self._keeper.verdict)
        state = "finished" if result.kind == "ok" else "failed"
        if failed:
            path, why = next(iter(failed.items()))
            before = f"; the command itself: {result.kind}" if result.kind != "ok" else ""
            hint = f"{len(failed)} files could not be uploaded, {path} for one: {why}{before}"
            say(hint)
            state, result = "failed", replace(result, kind="upload", hint=hint)
        self._conclude(state, result, minutes * 60)
        return result.code or int(result.kind == "upload")

    def _leave(self, result: Exit) -> int:
        """After SIGTERM: save what is there; the record stays open for the next attempt."""
        say(f"the command ended with {result.signal or f'exit code {result.code}'}")
        if self._upload_outputs(Deadline(GRACE, GRACE)):
            say("not all outputs could be uploaded")
        self._log.flush(Deadline(10, 10))
        self._keeper.update(exit=self._stop_exit(result.code))
        self._keeper.settle(Deadline(5, 5))
        return STOPPED

    def _end_as_told(self, verdict: Verdict) -> int:
        """After somebody else's word: their record stays."""
        if verdict is Verdict.SUPERSEDED:
            # The VM of our name is another one by now: it must not be removed.
            say("another VM has taken over this experiment")
            return 1
        if verdict is Verdict.DELETED:
            # Uploading now would bring a part of the sweep back.
            self._log.withdraw()
            say("the sweep was deleted")
        else:
            say("the experiment was cancelled")
            if self._child.started:
                self._upload_outputs(Deadline(60, GRACE))
            self._log.flush(Deadline(30, 10))
        self._remove_vm()
        return 0

    def _conclude(self, state: str, result: Exit, seconds: float) -> None:
        """Upload the log, write the final record, signal the end, remove the VM."""
        say(f"{state}: the last lines of the log and the record go to the bucket")
        deadline = Deadline(seconds, GRACE)
        if self._log.lost:
            say(f"{self._log.lost} bytes of the log could not be kept for the bucket")
        if not self._log.flush(deadline):
            say(f"the log is not complete in the bucket: {self._log.last_error}")
        if not self._keeper.claimed.is_set():
            return
        assert state in FINAL  # noqa: S101 - a wrong word here would run the experiment again
        self._keeper.update(state=state, exit=result, ended=timestamp())
        if not self._keeper.settle(Deadline(max(seconds, 60), GRACE)):
            say(f"the final record could not be written: {self._keeper.last_error}")
        elif self._keeper.verdict is None:
            # Who has written the final record, and nobody else, signals it.
            self._signal(own=True)
        if self._keeper.verdict is Verdict.SUPERSEDED:
            say("another VM has taken over this experiment")
            return
        self._keeper.close()
        self._remove_vm()

    def _signal(self, *, own: bool) -> None:
        """Signal our own end if it is ours to, that of experiments that got lost, the sweep's."""
        if not is_available(self._environment):
            return
        finishing = Finishing(
            self._bucket,
            self._vm,
            self._environment,
            give_up=Deadline(
                self._seconds("SINERGYM_SIGNAL_SECONDS", SIGNAL_PATIENCE), HURRIED_SIGNAL
            ),
            say=say,
            lost_after=self._seconds("SINERGYM_LOST_SECONDS", LOST_AFTER),
        )
        try:
            problem = finishing.signal(self._keeper.record.to_json() if own else None)
        except Exception as error:
            problem = one_line(error)
            say(f"the end could not be signalled: {problem}")
        if own and problem is not None:
            self._keeper.update(signal={"written": False, "why": problem})
            self._keeper.settle(Deadline(10, HURRIED_SIGNAL))

    def _remove_vm(self) -> None:
        self._keeper.close()
        seconds = self._seconds("SINERGYM_REMOVAL_SECONDS", 600.0)
        remove(self._vm, self._environment, give_up=Deadline(seconds, 60), say=say)
        if self._log_is_wanted():
            self._log.flush(Deadline(5, 5))

    def _log_is_wanted(self) -> bool:
        keeper = self._keeper
        return (
            keeper.claimed.is_set()
            and not keeper.ended_before
            and keeper.verdict in {None, Verdict.STOP}
        )

    def _upload_outputs(self, give_up: Deadline) -> Mapping[str, str]:
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

    def _write_old_name(self) -> None:
        try:
            with Path(OLD_NAME).open("x") as file:
                file.write(OLD_PROGRAM)
        except FileExistsError:
            return
        except OSError as error:
            say(f"{OLD_NAME} cannot be put here: {error}")

    def _seconds(self, name: str, default: float) -> float:
        text = self._environment.get(name)
        if not text:
            return default
        found = vm.number(text)
        if found is None:
            say(f"{name}={text} is not a number from 0 on; {default:g} is taken")
            return default
        return found


class _Once:
    """Callable that makes something at the first call, whichever thread comes first."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("sinergym-trainer", "sinergym", "stable-baselines3"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
