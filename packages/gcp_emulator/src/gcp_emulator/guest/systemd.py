"""systemd of a VM: units, and the commands ``systemctl`` and ``journalctl``.

systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.syntax(7), as far as container units
use them.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from gcp_emulator.docker.engine import SYSTEM_PATH
from gcp_emulator.docker.streams import Call, Environment, Streams
from gcp_emulator.guest.unitfile import Command, UnitFile, assignments, expanded, parse_unit

_FOLDER = "/etc/systemd/system"
_PID = 612  # what a unit's messages are said to come from
_STOP_SECONDS = 90.0  # DefaultTimeoutStopSec


class Systemd:
    """The units of one VM.

    Args:
        path: Where a path of the VM is on this machine.
        execute: Runs a program of the VM; raises OSError when it can't be.
        say: Takes lines for the serial port.
    """

    def __init__(
        self,
        *,
        path: Callable[[str], Path],
        execute: Callable[[Call], Awaitable[int]],
        say: Callable[[str], None],
    ) -> None:
        self.path = path
        self.execute = execute
        self._say = say
        self._units: dict[str, _Unit] = {}

    async def close(self) -> None:
        """Stop watching the units: nothing is restarted any more."""
        runs = [unit.run for unit in self._units.values() if unit.run is not None]
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def systemctl(self, call: Call) -> int:
        """Run ``systemctl``."""
        words, streams = call.words, call.streams
        flags = [word for word in words[1:] if word.startswith("-")]
        verb, *names = [word for word in words[1:] if not word.startswith("-")] or [""]
        names = [name if "." in name else f"{name}.service" for name in names]
        if verb in ("daemon-reload", "disable", "mask", "unmask"):
            return 0
        if verb == "reset-failed":
            self._reset(names)
            return 0
        if verb == "show":
            return await self._show(names, flags, streams)
        if verb not in ("start", "stop", "restart", "enable", "status", "is-active", "is-failed"):
            await streams.err(f"Unknown command verb '{verb}'.\n")
            return 1
        code = 0
        for name in names:
            unit = self._load(name)
            if unit is None:
                kept = verb in ("is-active", "is-failed")
                if kept:
                    await streams.out("inactive\n")
                else:
                    await streams.err(f"Failed to {verb} {name}: Unit {name} not found.\n")
                code = max(code, 3 if verb == "is-active" else 4 if verb == "status" else 5)
            elif verb == "is-active":
                await streams.out(unit.state + "\n")
                code = max(code, 0 if unit.state == "active" else 3)
            elif verb == "is-failed":
                await streams.out(unit.state + "\n")
                code = max(code, 0 if unit.state == "failed" else 1)
            elif verb == "status":
                await streams.out(unit.status_text())
                code = max(code, 0 if unit.state in ("active", "activating") else 3)
            elif verb != "enable" or "--now" in flags:
                code = max(code, await self._change(verb, unit, streams, "--no-block" in flags))
        return code

    async def _change(
        self, verb: str, unit: "_Unit", streams: Streams, without_waiting: bool
    ) -> int:
        if verb in ("stop", "restart"):
            await self._stop_unit(unit)
        if verb == "stop":
            return 0
        if unit.run is None or unit.run.done():
            self._begin(unit)
        if without_waiting or unit.ready is None:
            return 0
        if await asyncio.shield(unit.ready):
            return 0
        await streams.err(
            f"Job for {unit.name} failed because the control process exited with error code.\n"
            f'See "systemctl status {unit.name}" and "journalctl -xeu {unit.name}" for details.\n'
        )
        return 1

    def _begin(self, unit: "_Unit") -> None:
        unit.ready = asyncio.get_running_loop().create_future()
        unit.run = asyncio.create_task(self._run_unit(unit))

    def _reset(self, names: Sequence[str]) -> None:
        for unit in self._units.values():
            if not names or unit.name in names:
                unit.starts = 0
                if unit.state == "failed":
                    unit.state, unit.result = "inactive", "success"

    async def _show(self, names: Sequence[str], flags: Sequence[str], streams: Streams) -> int:
        wanted = {name for flag in flags for name in flag.partition("=")[2].split(",") if name}
        for name in names:
            unit = self._load(name)
            facts = {
                "Id": name,
                "LoadState": "loaded" if unit else "not-found",
                "ActiveState": unit.state if unit else "inactive",
                "Result": unit.result if unit else "success",
                "ExecMainStatus": str(unit.main_status if unit else 0),
                "NRestarts": str(unit.restarts if unit else 0),
            }
            kept = {key: value for key, value in facts.items() if not wanted or key in wanted}
            await streams.out("".join(f"{key}={value}\n" for key, value in kept.items()))
        return 0

    async def journalctl(self, call: Call) -> int:
        """Run ``journalctl``."""
        words, streams = call.words, call.streams
        text = " ".join(words[1:])
        unit = re.search(r"(?:-\w*u|--unit)[ =]?(\S+)", text)
        count = re.search(r"(?:-n|--lines)[ =]?(\d+)", text)
        names = {unit[1] if "." in unit[1] else f"{unit[1]}.service"} if unit else set(self._units)
        lines = [
            line for name in names if name in self._units for line in self._units[name].journal
        ]
        if count:
            lines = lines[-int(count[1]) :] if int(count[1]) else []
        if re.search(r"(?:-o|--output)[ =]?cat\b", text):
            lines = [line.removeprefix("systemd[1]: ") for line in lines]
        await streams.out("".join(line + "\n" for line in lines) or "-- No entries --\n")
        return 0

    def _load(self, name: str) -> "_Unit | None":
        if name in self._units:
            unit = self._units[name]
            if unit.run is not None and not unit.run.done():
                return unit
        path = self.path(f"{_FOLDER}/{name}")
        if not path.is_file():
            return self._units.get(name)
        file, problems = parse_unit(path.read_text(encoding="utf-8"))
        for line, problem in problems:
            self._say(f"systemd[1]: {_FOLDER}/{name}:{line}: {problem}")
        unit = self._units.get(name) or _Unit(name=name, file=file)
        unit.file = file
        self._units[name] = unit
        return unit

    async def _run_unit(self, unit: "_Unit") -> None:
        """One start of a unit, and its restarts."""
        assert unit.ready is not None  # noqa: S101
        try:
            while True:
                if not unit.may_start():
                    self._note(unit, f"{unit.name}: Start request repeated too quickly.")
                    hit = "start-limit-hit" if unit.result == "success" else unit.result
                    self._fail(unit, hit)
                    return
                await self._run_once(unit)
                if unit.stopping or not unit.restarts_itself():
                    return
                unit.state = "activating"
                await asyncio.sleep(unit.file.restart_seconds)
                unit.restarts += 1
                self._note(
                    unit,
                    f"{unit.name}: Scheduled restart job, restart counter is at {unit.restarts}.",
                )
        except Exception as error:
            # Nobody awaits a unit: what happens to it is said here.
            self._note(unit, f"{unit.name}: the local cloud failed: {error!r}")
            self._fail(unit, "resources")
        finally:
            if not unit.ready.done():
                unit.ready.set_result(False)
            if unit.state == "failed" and not unit.stopping:
                self._trigger(unit)

    def _trigger(self, failed: "_Unit") -> None:
        """Start what is to be started when a unit has failed and is not started again."""
        if failed.file.on_failure:
            self._note(failed, f"{failed.name}: Triggering OnFailure= dependencies.")
        for name in failed.file.on_failure:
            unit = self._load(name)
            if unit is None:
                self._note(
                    failed,
                    f"{failed.name}: Failed to enqueue OnFailure= job, ignoring:"
                    f" Unit {name} not found.",
                )
            elif unit.run is None or unit.run.done():
                self._begin(unit)

    async def _run_once(self, unit: "_Unit") -> None:
        assert unit.ready is not None  # noqa: S101
        unit.state, unit.result, unit.main_status = "activating", "success", 0
        title = unit.file.description or unit.name
        self._note(unit, f"Starting {title}...")
        environment = self._unit_environment(unit)
        if environment is None:
            self._fail(unit, "resources")
            return
        for command in unit.file.pre:
            code = await self._unit_command(unit, command, environment)
            if code and not command.forgiving:
                self._note(unit, f"{unit.name}: Control process exited, {_exited(code)}")
                self._fail(unit, "exit-code")
                return
        unit.state = "activating" if unit.file.oneshot else "active"
        if not unit.file.oneshot:
            self._note(unit, f"Started {title}.")
            if not unit.ready.done():
                unit.ready.set_result(True)
        for command in unit.file.start:
            unit.main_status = await self._unit_command(unit, command, environment)
            if unit.main_status and not command.forgiving:
                self._note(unit, f"{unit.name}: Main process exited, {_exited(unit.main_status)}")
                self._fail(unit, "exit-code")
                return
        if unit.file.oneshot:
            self._note(unit, f"Finished {title}.")
            if not unit.ready.done():
                unit.ready.set_result(True)
        unit.state = "active" if unit.file.remain else "inactive"
        if not unit.file.remain:
            self._note(unit, f"{unit.name}: Deactivated successfully.")

    def _fail(self, unit: "_Unit", result: str) -> None:
        unit.state, unit.result = "failed", result
        self._note(unit, f"{unit.name}: Failed with result '{result}'.")
        if unit.ready is not None and not unit.ready.done():
            self._note(unit, f"Failed to start {unit.file.description or unit.name}.")
            unit.ready.set_result(False)

    async def _stop_unit(self, unit: "_Unit") -> None:
        environment = self._unit_environment(unit) or {}
        run = unit.run
        unit.state = "deactivating"
        unit.stopping = True
        try:
            for command in unit.file.stop:
                await self._unit_command(unit, command, environment)
            if run is not None and not run.done():
                if unit.streams is not None and unit.streams.task is not None:
                    unit.streams.task.signal(15)
                    await asyncio.wait([run], timeout=_STOP_SECONDS)
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
        finally:
            unit.stopping = False
        unit.state = "inactive"

    def _unit_environment(self, unit: "_Unit") -> dict[str, str] | None:
        """None when a required EnvironmentFile is missing."""
        environment = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", **unit.file.environment}
        for name in unit.file.environment_files:
            path = self.path(name.removeprefix("-"))
            if path.is_file():
                environment |= assignments(path.read_text(encoding="utf-8"))
            elif not name.startswith("-"):
                self._note(
                    unit,
                    f"{unit.name}: Failed to load environment files: No such file or directory",
                )
                return None
        return environment

    async def _unit_command(
        self, unit: "_Unit", command: Command, environment: Environment
    ) -> int:
        words = [part for word in command.words for part in expanded(word, environment, unit.name)]
        name = words[0].rpartition("/")[2]
        partial = {1: b"", 2: b""}

        def take(stream: int, line: bytes) -> None:
            text = line.decode(errors="replace")
            unit.journal.append(text)
            if unit.file.on_console(stream):
                self._say(f"{name}[{_PID}]: {text}")

        async def sink(stream: int, data: bytes) -> None:
            *lines, partial[stream] = (partial[stream] + data).split(b"\n")
            for line in lines:
                take(stream, line)

        unit.streams = Streams(sink=sink)
        try:
            return await self.execute(Call(words, unit.streams, environment))
        except OSError as error:
            denied = isinstance(error, PermissionError)
            reason = "Permission denied" if denied else "No such file or directory"
            if not denied:
                self._note(
                    unit, f"{unit.name}: Unable to locate executable '{words[0]}': {reason}"
                )
            self._note(unit, f"{unit.name}: Failed at step EXEC spawning {words[0]}: {reason}")
            return 203
        finally:
            unit.streams = None
            for stream, rest in partial.items():
                if rest:
                    take(stream, rest)

    def _note(self, unit: "_Unit", line: str) -> None:
        unit.journal.append(f"systemd[1]: {line}")
        self._say(f"systemd[1]: {line}")


@dataclass(slots=True, eq=False)
class _Unit:
    name: str
    file: UnitFile
    state: Literal["inactive", "activating", "active", "deactivating", "failed"] = "inactive"
    result: str = "success"
    main_status: int = 0
    restarts: int = 0
    starts: int = 0
    starts_since: float = 0.0
    stopping: bool = False
    run: asyncio.Task[None] | None = None
    ready: asyncio.Future[bool] | None = None
    streams: Streams | None = None
    journal: deque[str] = field(default_factory=lambda: deque(maxlen=1000))

    def may_start(self) -> bool:
        """Count a start; False beyond the limit (StartLimitBurst=, StartLimitIntervalSec=)."""
        now = time.monotonic()
        if not self.starts or now - self.starts_since >= self.file.start_interval:
            self.starts, self.starts_since = 0, now
        if self.starts >= self.file.start_limit > 0 and self.file.start_interval > 0:
            return False
        self.starts += 1
        return True

    def restarts_itself(self) -> bool:
        """Whether it is started again after its end, which nobody asked for."""
        file = self.file
        if self.main_status in file.no_restart_on:
            return False
        if self.main_status in file.restart_on or file.restart == "always":
            return True
        succeeded = self.result == "success"
        return (file.restart == "on-failure" and not succeeded) or (
            file.restart == "on-success" and succeeded
        )

    def status_text(self) -> str:
        lines = [
            f"{self.name} - {self.file.description or self.name}",
            f"     Loaded: loaded ({_FOLDER}/{self.name})",
            f"     Active: {self.state} ({self.result})",
            "",
            *list(self.journal)[-10:],
        ]
        return "\n".join(lines) + "\n"


_STATUS_NAMES: Final = {1: "FAILURE", 2: "INVALIDARGUMENT", 203: "EXEC"}


def _exited(code: int) -> str:
    name = _STATUS_NAMES.get(code, "n/a")
    return f"code=exited, status={code}/{name}"
