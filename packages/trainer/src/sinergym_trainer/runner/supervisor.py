"""The life of an experiment in its container, as `sinergym-runner` (PID 1) leads it.

    claim the attempt -> waiting -> running -> uploading -> final -> signal -> remove the VM
                                                  └-> retrying -> a new container: the next attempt

The rules are those of the wire contract (`docs/contract.md`); of all this the training program
knows nothing but a few environment variables. One runner leads one attempt: the command comes
from the manifest, from the record of the attempt before, or from whoever submits it.

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

Limits. When the experiment's time is used up, SIGTERM goes to the command in the same way; its end
is final then. What ended well all the same has finished.

Exit code: the command's (128 + n if signal n ended it; 1 if only its outputs got lost); 0 after
`idle`, a cancellation, or when the experiment had ended before; 143 after SIGTERM; 1 when the
bucket could not be reached in all the time, or another VM has taken over; 75 when the next
attempt wants a new container; 2 when it is not known
who we are, or the working directory cannot be used; 70 after a bug of the runner's own.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sinergym_trainer.errors import one_line
from sinergym_trainer.outputs import connect
from sinergym_trainer.runner import mailbox, vm
from sinergym_trainer.runner.agreement import Agreement
from sinergym_trainer.runner.ends import OUT_OF_TIME, exit_of
from sinergym_trainer.runner.finishing import LOST_AFTER, Finishing, any_rerun
from sinergym_trainer.runner.keeper import PAUSE, Keeper
from sinergym_trainer.runner.log import Log, say
from sinergym_trainer.runner.record import FINAL, Exit, Record, Verdict, timestamp
from sinergym_trainer.runner.removal import remove
from sinergym_trainer.runner.running import GRACE, Ended, Running
from sinergym_trainer.runner.signals import is_available
from sinergym_trainer.runner.stopping import (
    STOP_SIGNALS,
    Deadline,
    hold_signals,
    next_signal,
    stop_pending,
)

STOPPED = 128 + signal.SIGTERM
RESTART = 75
"""Exit code that asks for a new container, and so for the next attempt (sysexits.h: TEMPFAIL)."""
SIGNAL_PATIENCE = 90.0
"""Seconds to try the signals of the end: Monitoring may be away for a minute."""
HURRIED_SIGNAL = 3.0
"""Seconds for them once the container is told to stop."""

OLD_NAME = "DRL_battery.py"
OLD_PROGRAM = '''\
"""The old name of `sinergym-train`; put here by sinergym-runner."""

import sys

from sinergym_trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
'''


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
        self._running: Running | None = None

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
        self._agreement = Agreement(
            self._bucket,
            me.sweep,
            me.experiment,
            over=lambda: self._keeper.verdict is not None,
            say=say,
        )
        self._keeper.start()
        try:
            return self._lead()
        except Exception as error:
            import traceback

            say(f"the runner itself has failed, this is a bug: {one_line(error)}")
            traceback.print_exc()
            sys.stderr.flush()
            if self._running is not None:
                self._running.end_family()
            hint = f"the runner itself has failed: {one_line(error)}"
            self._conclude("failed", Exit(code=None, signal=None, kind="error", hint=hint), 60)
            return 70

    def _lead(self) -> int:
        command = self._wait_for_command()
        if isinstance(command, int):
            return command
        self._agreement.wait()
        if (seconds := self._left()) is not None and seconds <= 0:
            return self._too_late()
        self._write_old_name()
        running = self._running = Running(
            self._keeper,
            self._vm,
            self._environment,
            folder=self._box.folder,
            bucket=self._bucket,
            sync_seconds=self._seconds("SINERGYM_SYNC_SECONDS", 15.0),
            on_deleted=self._log.withdraw,
        )
        ended = running.run(command, left=self._left)
        verdict = self._keeper.verdict
        if verdict is not None:
            return self._end_as_told(verdict)
        result = self._exit_of(ended, command)
        if ended.stopped or (result.signal == "SIGTERM" and running.is_being_stopped()):
            return self._leave(running, result)
        if result.signal:
            say(f"the command was ended by {result.signal}")
        else:
            say(f"the command ended with exit code {result.code}")
        return self._finish(running, result)

    def _left(self) -> float | None:
        """Seconds that the experiment's limit leaves to its command; None: there is no limit."""
        return self._agreement.terms.left(self._keeper.spent)

    def _exit_of(self, ended: Ended, command: str) -> Exit:
        result = exit_of(ended.status, command, self._log.tail(), memory_kills=ended.memory_kills)
        if ended.problem:
            kind = "disk_full" if "[Errno 28]" in ended.problem else result.kind
            return replace(result, kind=kind, hint=ended.problem)
        # One that ended well although it was told to stop has reached its end all the same.
        if ended.out_of_time and result.kind != "ok" and not ended.stopped:
            return replace(result, signal=None, kind=OUT_OF_TIME, hint=self._limit_hint())
        return result

    def _limit_hint(self) -> str:
        seconds = self._agreement.terms.seconds or 0
        return (
            f"its limit of {seconds:g} s on VMs is used up; a rerun with a higher one goes on from"
            " the last checkpoint"
        )

    def _too_late(self) -> int:
        """The attempts before this one have used up the experiment's time."""
        self._box.shut("the experiment's time is used up")
        say(self._limit_hint())
        result = Exit(code=None, signal=None, kind=OUT_OF_TIME, hint=self._limit_hint())
        self._conclude("failed", result, 120)
        return 0

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
            _reap_orphans()
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
                threading.Thread(target=self._find_command, daemon=True).start()
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

    def _find_command(self) -> None:
        """The command of the attempt before, or the manifest's; else somebody submits one."""
        # What follows another attempt does the same, also where a launcher sent the command.
        if self._keeper.command_before is not None:
            self._box.publish(self._keeper.command_before)
        self._agreement.read()
        if self._agreement.terms.command is not None:
            self._box.publish(self._agreement.terms.command)

    def _idle(self) -> int:
        hint = (
            f"no command came within {self._vm.patience:g} s; one is sent with"
            " docker exec sinergym sinergym-runner submit -- COMMAND"
        )
        say(hint)
        self._conclude("idle", Exit(code=None, signal=None, kind="idle", hint=hint), 120)
        return 0

    # The end

    def _finish(self, running: Running, result: Exit) -> int:
        """After the command's own end: outputs, log, final record, removal."""
        self._keeper.update(state="uploading", exit=result)
        minutes = self._seconds("SINERGYM_UPLOAD_MINUTES", 10.0)
        failed = running.upload(Deadline(minutes * 60, GRACE))
        if failed and stop_pending():
            say("told to stop before all outputs were uploaded: the next attempt has to repeat it")
            return self._leave(running, result)
        if self._keeper.verdict is not None:
            return self._end_as_told(self._keeper.verdict)
        state = "finished" if result.kind == "ok" else "failed"
        if failed:
            path, why = next(iter(failed.items()))
            before = f"; the command itself: {result.kind}" if result.kind != "ok" else ""
            hint = f"{len(failed)} files could not be uploaded, {path} for one: {why}{before}"
            say(hint)
            state, result = "failed", replace(result, kind="upload", hint=hint)
        if state == "failed":
            pause = self._agreement.wait().pause_before_retry(self._keeper.record, result.kind)
            if pause is not None:
                return self._retry(result, pause)
        self._conclude(state, result, minutes * 60)
        return result.code or int(result.kind == "upload")

    def _retry(self, result: Exit, pause: float) -> int:
        """Leave the record open, wait, and ask for a new container: it claims the next attempt.

        A container is an attempt, and an attempt has a log of its own; so the next one is not
        run in this one. Where nothing starts a container again, the end is final.
        """
        if self._vm.restart_code != RESTART:
            say("this VM's template starts no container again: it is not tried again")
            self._conclude("failed", result, 600)
            return result.code or 1
        say(f"failed ({result.kind}), and is tried again in {pause:g} s")
        self._keeper.update(state="retrying", exit=result)
        self._log.flush(Deadline(60, 10))
        self._keeper.settle(Deadline(60, 10))
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0 and self._keeper.verdict is None:
            if next_signal(min(left, 0.25)) in STOP_SIGNALS:
                say("told to stop: the next VM tries it again")
                self._log.flush(Deadline(5, 5))
                return STOPPED
            _reap_orphans()
        if self._keeper.verdict is not None:
            return self._end_as_told(self._keeper.verdict)
        self._keeper.close()
        return RESTART

    def _leave(self, running: Running, result: Exit) -> int:
        """After SIGTERM: save what is there; the record stays open for the next attempt."""
        say(f"the command ended with {result.signal or f'exit code {result.code}'}")
        if running.upload(Deadline(GRACE, GRACE)):
            say("not all outputs could be uploaded")
        self._log.flush(Deadline(10, 10))
        self._keeper.update(exit=running.stop_exit(result.code))
        self._keeper.settle(Deadline(5, 5))
        return STOPPED

    def _end_as_told(self, verdict: Verdict) -> int:
        """After somebody else's word: their record stays."""
        if verdict is Verdict.SUPERSEDED:
            # The VM of our name is another one by now: it must not be removed.
            say("another VM has taken over this experiment")
            return 1
        if verdict is Verdict.AGAIN:
            say("somebody asks for it to run again: that is for the next VM")
        elif verdict is Verdict.DELETED:
            # Uploading now would bring a part of the sweep back.
            self._log.withdraw()
            say("the sweep was deleted")
        else:
            say("the experiment was cancelled")
            if self._running is not None:
                self._running.upload(Deadline(60, GRACE))
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
        remove(
            self._vm,
            self._environment,
            give_up=Deadline(seconds, 60),
            say=say,
            rerun_wanted=self._rerun_wanted,
        )
        if self._log_is_wanted():
            self._log.flush(Deadline(5, 5))

    def _rerun_wanted(self) -> bool:
        """Whether an experiment of the sweep is asked to run again; so, too, if nobody knows."""
        try:
            return any_rerun(self._bucket(), self._vm.sweep)
        except Exception as error:
            say(f"it is not known whether something is to run again: {one_line(error)}")
            return True

    def _log_is_wanted(self) -> bool:
        keeper = self._keeper
        return (
            keeper.claimed.is_set()
            and not keeper.ended_before
            and keeper.verdict in {None, Verdict.STOP, Verdict.AGAIN}
        )

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


def _reap_orphans() -> None:
    """As PID 1, collect whatever child has ended, while there is no command to wait for."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("sinergym-trainer", "sinergym", "stable-baselines3"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
