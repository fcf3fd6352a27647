"""A small Container-Optimized OS: its programs, its systemd units, its cloud-init.

Facts: https://cloud.google.com/container-optimized-os/docs/concepts/disks-and-filesystem (what is
writable), https://cloudinit.readthedocs.io/en/latest/reference/modules.html, systemd.service(5),
systemd.exec(5). Paths of the VM live under a root folder of its own.
"""

import asyncio
import base64
import binascii
import os
import re
import shlex
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from gcp_emulator.docker import Docker
from gcp_emulator.engine import MARKER, SYSTEM_PATH, Engine, Program
from gcp_emulator.streams import Streams

WRITABLE: Final = (
    "/etc",
    "/home",
    "/mnt/disks",
    "/mnt/stateful_partition",
    "/run",
    "/tmp",
    "/var",
)
"""Where a file can be made; everything else, /root too, is read-only."""

SHELL_TOOLS: Final = (
    "docker", "docker-credential-gcr", "hostname", "iptables", "journalctl", "mkdir", "sudo",
    "systemctl",
)  # fmt: skip
"""Programs that a real shell gets from this VM; the others are those of the machine."""

_PROGRAM_FOLDERS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
_SYSTEMD = "/etc/systemd/system"
_START_LIMIT = 5  # DefaultStartLimitBurst
_START_INTERVAL = 10.0  # DefaultStartLimitIntervalSec

type Environment = Mapping[str, str]
type Tool = Callable[[Sequence[str], Streams, Environment], Awaitable[int]]


class Guest:
    """The operating system of one VM.

    Args:
        name: The VM's name.
        root: The folder that is its ``/``.
        docker: Its docker command.
        engine: Runs a shell where it can.
        console: Takes each line that reaches the serial port.
        shims: Makes (once) the folder of commands that lead from a real shell back to here.
    """

    def __init__(
        self,
        *,
        name: str,
        root: Path,
        docker: Docker,
        engine: Engine,
        console: Callable[[str], None],
        shims: Callable[[], Awaitable[Path]],
        mark: str,
    ) -> None:
        self.name = name
        self.root = root
        self._docker = docker
        self._engine = engine
        self._console = console
        self._shims = shims
        self._mark = mark
        self._booted = time.monotonic()
        self._units: dict[str, _Unit] = {}
        self.tools: dict[str, Tool] = {
            "docker": lambda words, streams, _env: docker(words[1:], streams),
            "docker-credential-gcr": self._credential_helper,
            "echo": self._echo,
            "exit": self._exit,
            "false": self._false,
            "hostname": self._hostname,
            "iptables": self._true,
            "ip6tables": self._true,
            "journalctl": self._journalctl,
            "cat": self._cat,
            "mkdir": self._mkdir,
            "sleep": self._sleep,
            "sudo": self._sudo,
            "sysctl": self._true,
            "systemctl": self._systemctl,
            "true": self._true,
            "uname": self._uname,
            "uptime": self._uptime,
            "whoami": self._whoami,
        }

    async def execute(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        """Run a program of COS; its exit status.

        Raises:
            FileNotFoundError: COS has no such program, or this emulation of it has not.
            PermissionError: It is a file that can't be executed.
        """
        folder, _, name = words[0].rpartition("/")
        if not folder or folder in _PROGRAM_FOLDERS:
            if name in ("sh", "bash") and len(words) > 2 and words[1] in ("-c", "-ec", "-xc"):
                return await self.shell(words[2], streams, environment)
            tool = self.tools.get(name)
            if tool is not None:
                return await tool(words, streams, environment)
        elif self.path(words[0]).is_file():
            # /var and /home are mounted noexec.
            raise PermissionError(words[0])
        raise FileNotFoundError(words[0])

    async def line(self, line: str, streams: Streams, environment: Environment) -> int:
        """Run a command line as a shell does; simple ones run in process, without a shell."""
        words = simple_words(line)
        if words is None or (words and self._engine.shell and not self._is_of_cos(words)):
            return await self.shell(line, streams, environment)
        if not words:
            return 0
        try:
            return await self.execute(words, streams, environment)
        except FileNotFoundError:
            await streams.err(f"-bash: {words[0]}: command not found\n")
            return 127
        except PermissionError:
            await streams.err(f"-bash: {words[0]}: Permission denied\n")
            return 126

    def _is_of_cos(self, words: Sequence[str]) -> bool:
        """Whether a command means this VM, and not just any Linux."""
        if words[0] == "cat":
            return len(words) > 1 and all(self.path(name).is_file() for name in words[1:])
        return words[0] in SHELL_TOOLS

    async def shell(self, line: str | None, streams: Streams, environment: Environment) -> int:
        """A real shell where the engine has one (None: an interactive one); else a very small one."""
        if self._engine.shell:
            return await self._real_shell(line, streams, environment)
        if line is None:
            return await self._line_shell(streams, environment)
        code = 0
        for joint, part in _parts(line):
            if (joint == "&&" and code) or (joint == "||" and not code):
                continue
            if simple_words(part) is None:
                await streams.err(f"sh: the inert engine has no shell for: {part}\n")
                return 127
            code = await self.line(part, streams, environment)
        return code

    async def cloud_init(self, user_data: str) -> None:
        """Do what ``user-data`` asks for; failures go to the serial port and end nothing."""
        self._say_cloud_init("running 'modules:config'")
        if not user_data.lstrip().startswith("#cloud-config"):
            if user_data.strip():
                start = user_data[:24].encode()
                self._say_cloud_init(
                    "[WARNING]: Unhandled non-multipart (text/x-not-multipart) userdata: "
                    f"'{start!r}...'"
                )
            return
        try:
            config = yaml.safe_load(user_data)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
            reason = " ".join(str(error).split())
            self._say_cloud_init(
                f"util.py[WARNING]: Failed loading yaml blob. Invalid format{where}: {reason}"
            )
            return
        if not isinstance(config, dict):
            self._say_cloud_init(
                "util.py[WARNING]: Failed loading yaml blob. Yaml load allows (<class 'dict'>,) "
                f"root types, but got {type(config).__name__} instead"
            )
            return
        for module in sorted(
            str(key) for key in set(config) - {"write_files", "runcmd", "bootcmd"}
        ):
            self._say_cloud_init(
                f"[WARNING]: {module} is not emulated by the local cloud; ignored"
            )
        await self._run_commands("bootcmd", config.get("bootcmd"))
        for entry in _listed(config.get("write_files")):
            self._write_file(entry)
        await self._run_commands("runcmd", config.get("runcmd"))
        self._say_cloud_init("Cloud-init finished. Datasource DataSourceGCE.")

    async def close(self) -> None:
        """Stop watching the units: nothing is restarted any more."""
        runs = [unit.run for unit in self._units.values() if unit.run is not None]
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        await self._engine.sweep(self._mark)

    def path(self, inside: str) -> Path:
        """Where a path of the VM is on this machine; never outside of the root."""
        return self.root / os.path.normpath("/" + inside).lstrip("/")

    def make_writable(self, inside: str) -> Path:
        """The same, for writing.

        Raises:
            OSError: It is read-only on COS.
        """
        clean = "/" + os.path.normpath("/" + inside).lstrip("/")
        if not any(clean == top or clean.startswith(top + "/") for top in WRITABLE):
            raise OSError(30, "Read-only file system", inside)
        path = self.path(inside)
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise OSError(30, "Read-only file system", inside)
        return path

    # ---------------------------------------------------------------- shells

    async def _real_shell(
        self, line: str | None, streams: Streams, environment: Environment
    ) -> int:
        user = environment.get("USER", "root")
        home = self.path(environment.get("HOME", "/tmp"))  # noqa: S108
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
        shims = await self._shims()
        argv: tuple[str, ...] = ("/bin/sh", "-c", line) if line is not None else ("/bin/sh", "-i")
        program = Program(
            argv=argv,
            folder=home,
            environment={
                **environment,
                "PATH": f"{shims}:{SYSTEM_PATH}",
                "HOME": str(home),
                "HOSTNAME": self.name,
                "LANG": "C.UTF-8",
                "TERM": environment.get("TERM", "xterm"),
                "PS1": f"{user}@{self.name} ~ $ ",
                MARKER: self._mark,
            },
            stdin=True,
            size=streams.size,
        )
        await streams.set_raw(True)
        task = await self._engine.start(program, streams.sink)
        try:
            return await streams.join(task, stdin=True)
        except asyncio.CancelledError:
            # Its terminal is gone.
            task.hang_up()
            raise

    async def _line_shell(self, streams: Streams, environment: Environment) -> int:
        """What the inert engine has for people who look around: one command a line."""
        prompt = f"{environment.get('USER', 'root')}@{self.name} ~ $ "
        # A terminal sends keys as they are; what is typed has to be shown by this side.
        echo = streams.size is not None
        typed, code = b"", 0
        await streams.out(prompt)
        while data := await streams.input():
            for byte in data:
                key = bytes([byte])
                if key in (b"\r", b"\n"):
                    await streams.out("\n" if echo else "")
                    line, typed = typed.decode(errors="replace").strip(), b""
                    if line.split()[:1] in (["exit"], ["logout"]):
                        return code
                    code = await self.shell(line, streams, environment) if line else code
                    await streams.out(prompt)
                elif key == b"\x04" and not typed:
                    await streams.out("logout\n")
                    return code
                elif key == b"\x03":
                    typed = b""
                    await streams.out("^C\n" + prompt)
                elif key in (b"\x7f", b"\x08"):
                    if typed:
                        typed = typed[:-1]
                        await streams.out("\b \b" if echo else "")
                elif byte >= 32:
                    typed += key
                    if echo:
                        await streams.sink(1, key)
        return code

    # ---------------------------------------------------------------- programs

    async def _true(self, words: Sequence[str], streams: Streams, environment: Environment) -> int:
        return 0

    async def _false(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        return 1

    async def _exit(self, words: Sequence[str], streams: Streams, environment: Environment) -> int:
        return int(words[1]) % 256 if len(words) > 1 and words[1].isdecimal() else 0

    async def _echo(self, words: Sequence[str], streams: Streams, environment: Environment) -> int:
        rest = list(words[1:])
        newline = "" if rest[:1] == ["-n"] else "\n"
        await streams.out(" ".join(rest[1:] if not newline else rest) + newline)
        return 0

    async def _cat(self, words: Sequence[str], streams: Streams, environment: Environment) -> int:
        code = 0
        for name in words[1:]:
            try:
                await streams.sink(1, await asyncio.to_thread(self.path(name).read_bytes))
            except OSError as error:
                await streams.err(f"cat: {name}: {error.strerror}\n")
                code = 1
        return code

    async def _hostname(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        await streams.out(self.name + "\n")
        return 0

    async def _whoami(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        await streams.out(environment.get("USER", "root") + "\n")
        return 0

    async def _uname(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        everything = "-a" in words[1:]
        await streams.out(
            f"Linux {self.name} 6.6.0 x86_64 GNU/Linux\n" if everything else "Linux\n"
        )
        return 0

    async def _uptime(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        await streams.out(f" up {int(self._uptime_seconds()) // 60} min\n")
        return 0

    async def _sleep(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        try:
            await asyncio.sleep(float(words[1]))
        except (IndexError, ValueError):
            await streams.err("sleep: invalid time interval\n")
            return 1
        return 0

    async def _mkdir(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        code = 0
        for name in (word for word in words[1:] if not word.startswith("-")):
            try:
                self.make_writable(name).mkdir(parents="-p" in words, exist_ok="-p" in words)
            except OSError as error:
                await streams.err(f"mkdir: cannot create directory '{name}': {error.strerror}\n")
                code = 1
        return code

    async def _sudo(self, words: Sequence[str], streams: Streams, environment: Environment) -> int:
        rest = list(words[1:])
        root = {**environment, "USER": "root", "HOME": "/root"}
        while rest and (rest[0].startswith("-") or "=" in rest[0]):
            word = rest.pop(0)
            if word in ("-u", "-g", "--user", "--group") and rest:
                rest.pop(0)
            elif "=" in word and not word.startswith("-"):
                name, _, value = word.partition("=")
                root[name] = value
            elif word in ("-E", "--preserve-env"):
                root = {**root, **environment}
            elif word == "--":
                break
        if not rest:
            await streams.err("usage: sudo command\n")
            return 1
        return await self.line(shlex.join(rest), streams, root)

    async def _credential_helper(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        """docker-credential-gcr keeps its settings under HOME, which must be writable."""
        home = environment.get("HOME")
        if not home:
            await streams.err("ERROR: unable to save docker config: $HOME is not defined\n")
            return 1
        try:
            config = self.make_writable(f"{home}/.docker/config.json")
        except OSError:
            await streams.err(
                f"ERROR: unable to save docker config: mkdir {home}/.docker: "
                "read-only file system\n"
            )
            return 1
        if "configure-docker" in words:
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text("{}\n", encoding="utf-8")
            await streams.err(f"{home}/.docker/config.json configured to use this helper\n")
        return 0

    # ---------------------------------------------------------------- systemd

    async def _systemctl(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        flags = [word for word in words[1:] if word.startswith("-")]
        verb, *names = [word for word in words[1:] if not word.startswith("-")] or [""]
        names = [name if "." in name else f"{name}.service" for name in names]
        if verb in ("daemon-reload", "reset-failed", "disable", "mask", "unmask"):
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
            unit.ready = asyncio.get_running_loop().create_future()
            unit.run = asyncio.create_task(self._run_unit(unit))
        if without_waiting or unit.ready is None:
            return 0
        if await asyncio.shield(unit.ready):
            return 0
        await streams.err(
            f"Job for {unit.name} failed because the control process exited with error code.\n"
            f'See "systemctl status {unit.name}" and "journalctl -xeu {unit.name}" for details.\n'
        )
        return 1

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

    async def _journalctl(
        self, words: Sequence[str], streams: Streams, environment: Environment
    ) -> int:
        text = " ".join(words[1:])
        unit = re.search(r"(?:-\w*u|--unit)[ =]?(\S+)", text)
        count = re.search(r"(?:-n|--lines)[ =]?(\d+)", text)
        names = {unit[1] if "." in unit[1] else f"{unit[1]}.service"} if unit else set(self._units)
        lines = [
            line for name in names if name in self._units for line in self._units[name].journal
        ]
        if count:
            lines = lines[-int(count[1]) :] if int(count[1]) else []
        await streams.out("".join(line + "\n" for line in lines) or "-- No entries --\n")
        return 0

    def _load(self, name: str) -> "_Unit | None":
        if name in self._units:
            unit = self._units[name]
            if unit.run is not None and not unit.run.done():
                return unit
        path = self.path(f"{_SYSTEMD}/{name}")
        if not path.is_file():
            return self._units.get(name)
        file, problems = parse_unit(path.read_text(encoding="utf-8"))
        for line, problem in problems:
            self._say(f"systemd[1]: {_SYSTEMD}/{name}:{line}: {problem}")
        unit = self._units.get(name) or _Unit(name=name, file=file)
        unit.file = file
        self._units[name] = unit
        return unit

    async def _run_unit(self, unit: "_Unit") -> None:
        """One start of a unit, and its restarts."""
        assert unit.ready is not None  # noqa: S101
        starts: deque[float] = deque(maxlen=_START_LIMIT)
        try:
            while True:
                now = time.monotonic()
                if len(starts) == _START_LIMIT and now - starts[0] < _START_INTERVAL:
                    self._note(unit, f"{unit.name}: Start request repeated too quickly.")
                    self._fail(unit, unit.result)
                    return
                starts.append(now)
                result = await self._run_once(unit)
                again = unit.file.restart == "always" or (
                    unit.file.restart == "on-failure" and result != "success"
                )
                if not again:
                    return
                unit.state = "activating"
                await asyncio.sleep(unit.file.restart_seconds)
                unit.restarts += 1
                self._note(
                    unit,
                    f"{unit.name}: Scheduled restart job, restart counter is at {unit.restarts}.",
                )
        finally:
            if not unit.ready.done():
                unit.ready.set_result(False)

    async def _run_once(self, unit: "_Unit") -> str:
        assert unit.ready is not None  # noqa: S101
        unit.state, unit.result, unit.main_status = "activating", "success", 0
        title = unit.file.description or unit.name
        self._note(unit, f"Starting {title}...")
        environment = self._unit_environment(unit)
        if environment is None:
            return self._fail(unit, "resources")
        for command in unit.file.pre:
            code = await self._unit_command(unit, command, environment)
            if code and not command.forgiving:
                self._note(unit, f"{unit.name}: Control process exited, {_exited(code)}")
                return self._fail(unit, "exit-code")
        unit.state = "activating" if unit.file.oneshot else "active"
        if not unit.file.oneshot:
            self._note(unit, f"Started {title}.")
            if not unit.ready.done():
                unit.ready.set_result(True)
        for command in unit.file.start:
            unit.main_status = await self._unit_command(unit, command, environment)
            if unit.main_status and not command.forgiving:
                self._note(unit, f"{unit.name}: Main process exited, {_exited(unit.main_status)}")
                return self._fail(unit, "exit-code")
        if unit.file.oneshot:
            self._note(unit, f"Finished {title}.")
            if not unit.ready.done():
                unit.ready.set_result(True)
        unit.state = "active" if unit.file.remain else "inactive"
        if not unit.file.remain:
            self._note(unit, f"{unit.name}: Deactivated successfully.")
        return "success"

    def _fail(self, unit: "_Unit", result: str) -> str:
        unit.state, unit.result = "failed", result
        self._note(unit, f"{unit.name}: Failed with result '{result}'.")
        if unit.ready is not None and not unit.ready.done():
            self._note(unit, f"Failed to start {unit.file.description or unit.name}.")
            unit.ready.set_result(False)
        return result

    async def _stop_unit(self, unit: "_Unit") -> None:
        environment = self._unit_environment(unit) or {}
        run = unit.run
        unit.state = "deactivating"
        for command in unit.file.stop:
            await self._unit_command(unit, command, environment)
        if run is not None and not run.done():
            if unit.streams is not None and unit.streams.task is not None:
                unit.streams.task.signal(15)
                await asyncio.wait([run], timeout=90 if unit.file.restart == "no" else 1)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        unit.state = "inactive"

    def _unit_environment(self, unit: "_Unit") -> dict[str, str] | None:
        """None when a required EnvironmentFile is missing."""
        environment = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", **unit.file.environment}
        for name in unit.file.environment_files:
            path = self.path(name.removeprefix("-"))
            if path.is_file():
                environment |= _assignments(path.read_text(encoding="utf-8"))
            elif not name.startswith("-"):
                self._note(
                    unit,
                    f"{unit.name}: Failed to load environment files: No such file or directory",
                )
                return None
        return environment

    async def _unit_command(
        self, unit: "_Unit", command: "_Command", environment: Environment
    ) -> int:
        words = [
            expanded
            for word in command.words
            for expanded in _expanded(word, environment, unit.name)
        ]
        partial = b""

        async def sink(stream: int, data: bytes) -> None:
            nonlocal partial
            *lines, partial = (partial + data).split(b"\n")
            unit.journal.extend(line.decode(errors="replace") for line in lines)

        unit.streams = Streams(sink=sink)
        try:
            return await self.execute(words, unit.streams, environment)
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
            if partial:
                unit.journal.append(partial.decode(errors="replace"))

    # ---------------------------------------------------------------- cloud-init

    def _write_file(self, entry: object) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            self._say_cloud_init("cc_write_files.py[WARNING]: No path provided to write, ignored")
            return
        try:
            content = _content(entry)
            path = self.make_writable(entry["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = int(str(entry.get("permissions", "0644")), 8)
            with path.open("ab" if entry.get("append") else "wb") as file:
                os.fchmod(file.fileno(), mode & 0o777)
                file.write(content)
        except (OSError, ValueError) as error:
            self._say_cloud_init(
                f"cc_write_files.py[WARNING]: Failed to write {entry['path']}: {error}"
            )

    async def _run_commands(self, module: str, commands: object) -> None:
        failed = False
        for command in _listed(commands):

            async def sink(_stream: int, data: bytes) -> None:
                for line in data.decode(errors="replace").splitlines():
                    self._say_cloud_init(line)

            streams = Streams(sink=sink)
            environment = {"USER": "root", "HOME": "/root"}
            if isinstance(command, list):
                line = shlex.join(str(word) for word in command)
            else:
                line = str(command)
            failed = await self.line(line, streams, environment) != 0
        if failed:
            self._say_cloud_init(
                f"cc_scripts_user.py[WARNING]: Failed to run module scripts_user ({module})"
            )

    # ---------------------------------------------------------------- the serial port

    def _uptime_seconds(self) -> float:
        return time.monotonic() - self._booted

    def _say(self, line: str) -> None:
        self._console(f"[{self._uptime_seconds():12.6f}] {line}")

    def _say_cloud_init(self, line: str) -> None:
        self._say(f"cloud-init[512]: {line}")

    def _note(self, unit: "_Unit", line: str) -> None:
        unit.journal.append(f"systemd[1]: {line}")
        self._say(f"systemd[1]: {line}")


@dataclass(frozen=True, slots=True)
class _Command:
    words: tuple[str, ...]
    forgiving: bool


@dataclass(slots=True)
class UnitFile:
    """What a ``.service`` file says, as far as it is emulated."""

    description: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    environment_files: list[str] = field(default_factory=list)
    pre: list[_Command] = field(default_factory=list)
    start: list[_Command] = field(default_factory=list)
    stop: list[_Command] = field(default_factory=list)
    oneshot: bool = False
    remain: bool = False
    restart: str = "no"
    restart_seconds: float = 0.1


@dataclass(slots=True, eq=False)
class _Unit:
    name: str
    file: UnitFile
    state: Literal["inactive", "activating", "active", "deactivating", "failed"] = "inactive"
    result: str = "success"
    main_status: int = 0
    restarts: int = 0
    run: asyncio.Task[None] | None = None
    ready: asyncio.Future[bool] | None = None
    streams: Streams | None = None
    journal: deque[str] = field(default_factory=lambda: deque(maxlen=1000))

    def status_text(self) -> str:
        lines = [
            f"{self.name} - {self.file.description or self.name}",
            f"     Loaded: loaded ({_SYSTEMD}/{self.name})",
            f"     Active: {self.state} ({self.result})",
            "",
            *list(self.journal)[-10:],
        ]
        return "\n".join(lines) + "\n"


def parse_unit(text: str) -> tuple[UnitFile, list[tuple[int, str]]]:
    """Read a ``.service`` file; and what systemd would complain of, with line numbers."""
    unit, problems, section = UnitFile(), [], ""
    for number, line in _logical_lines(text):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            problems.append((number, "Missing '=', ignoring line."))
        elif section == "Unit" and key == "Description":
            unit.description = value
        elif section == "Service" and not _service_line(unit, key, value):
            problems.append((number, f"Unknown key name '{key}' in section 'Service', ignoring."))
    return unit, problems


# Known to systemd and without effect here.
_WITHOUT_EFFECT: Final = frozenset(
    [
        "ExecStartPost",
        "ExecStopPost",
        "ExecReload",
        "TimeoutStartSec",
        "TimeoutStopSec",
        "TimeoutSec",
        "KillMode",
        "KillSignal",
        "StandardOutput",
        "StandardError",
        "SyslogIdentifier",
        "User",
        "Group",
        "WorkingDirectory",
        "LimitNOFILE",
        "NotifyAccess",
        "OOMScoreAdjust",
        "Nice",
        "SuccessExitStatus",
        "RestartPreventExitStatus",
        "StartLimitIntervalSec",
        "StartLimitBurst",
        "Delegate",
        "SendSIGKILL",
        "RuntimeMaxSec",
        "PrivateTmp",
    ]
)


def _service_line(unit: UnitFile, key: str, value: str) -> bool:
    """Take one line of ``[Service]``; False for a key that systemd does not know."""
    commands = {"ExecStartPre": unit.pre, "ExecStart": unit.start, "ExecStop": unit.stop}
    if key in commands:
        if not value:
            commands[key].clear()
        else:
            prefix = re.match(r"[-@:+!|]*", value)
            assert prefix is not None  # noqa: S101
            words = tuple(_split(value[prefix.end() :]))
            commands[key].append(_Command(words, "-" in prefix[0]))
    elif key == "Environment":
        for pair in _split(value):
            name, _, rest = pair.partition("=")
            unit.environment[name] = rest
    elif key == "EnvironmentFile":
        unit.environment_files.append(value)
    elif key == "Type":
        unit.oneshot = value == "oneshot"
    elif key == "RemainAfterExit":
        unit.remain = value.lower() in ("yes", "true", "1", "on")
    elif key == "Restart":
        unit.restart = value
    elif key == "RestartSec":
        unit.restart_seconds = _seconds(value)
    else:
        return key in _WITHOUT_EFFECT
    return True


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines without comments, those ending in a backslash joined with the next."""
    lines: list[tuple[int, str]] = []
    joined, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        first = first or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        lines.append((first, joined + line))
        joined, first = "", 0
    return lines


def _split(text: str) -> list[str]:
    """Words as systemd.syntax(7) quotes them."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|min|m)?", text)
    if not found:
        return 0.1
    return float(found[1]) * {"ms": 0.001, "min": 60, "m": 60}.get(found[2] or "s", 1)


def _assignments(text: str) -> dict[str, str]:
    found = {}
    for _number, line in _logical_lines(text):
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip().strip("\"'")
    return found


def _expanded(word: str, environment: Environment, unit: str) -> list[str]:
    """``$WORD`` alone is split, ``${WORD}`` is not, ``$$`` and ``%%`` are themselves."""
    if re.fullmatch(r"\$\w+", word):
        return environment.get(word[1:], "").split()
    specifiers = {"%%": "%", "%n": unit, "%N": unit.removesuffix(".service")}
    text = re.sub(r"%[%nN]", lambda match: specifiers[match[0]], word)
    return [
        re.sub(
            r"\$\$|\$\{(\w+)\}|\$(\w+)",
            lambda m: "$" if m[0] == "$$" else environment.get(m[1] or m[2], ""),
            text,
        )
    ]


_STATUS_NAMES: Final = {1: "FAILURE", 2: "INVALIDARGUMENT", 203: "EXEC"}


def _exited(code: int) -> str:
    name = _STATUS_NAMES.get(code, "n/a")
    return f"code=exited, status={code}/{name}"


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _content(entry: Mapping[str, Any]) -> bytes:
    content = entry.get("content", "")
    raw = content if isinstance(content, bytes) else str(content).encode()
    if entry.get("encoding") in ("b64", "base64"):
        try:
            return base64.b64decode(raw, validate=False)
        except binascii.Error as error:
            raise ValueError(f"undecodable base64 content: {error}") from error
    if entry.get("encoding") not in (None, "text/plain"):
        raise ValueError(f"encoding {entry['encoding']} is not emulated")
    return raw


def simple_words(line: str) -> list[str] | None:
    """The words of a command line that needs no shell; None when it does."""
    quote = ""
    previous = " "
    skip = False
    for character in line:
        if skip:
            skip = False
        elif quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            skip = True
        elif character in "$`":
            return None
        elif quote:
            quote = "" if character == '"' else quote
        elif character in "'\"":
            quote = character
        elif character in "|&;<>()\n*?[" or (character in "#~!" and previous.isspace()):
            return None
        previous = character
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    if words and re.match(r"\w+=", words[0]):
        return None
    return words


def _parts(line: str) -> list[tuple[str, str]]:
    """A line cut at ``;``, newline, ``&&`` and ``||`` outside of quotes, with what stood before."""
    found, start, joint = [], 0, ";"
    pattern = re.compile(r"'[^']*'|\"(?:\\.|[^\"])*\"|\\.|(&&|\|\||;|\n)")
    for match in pattern.finditer(line):
        if match[1]:
            found.append((joint, line[start : match.start()].strip()))
            joint, start = match[1], match.end()
    found.append((joint, line[start:].strip()))
    return [(joint, part) for joint, part in found if part]
