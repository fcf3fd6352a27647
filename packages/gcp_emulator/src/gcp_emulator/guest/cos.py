"""A small Container-Optimized OS: its programs, its systemd units, its cloud-init.

Facts: https://cloud.google.com/container-optimized-os/docs/concepts/disks-and-filesystem (what is
writable), https://cloudinit.readthedocs.io/en/latest/reference/modules.html, systemd.service(5),
systemd.exec(5). Paths of the VM live under a root folder of its own.
"""

import asyncio
import base64
import binascii
import functools
import os
import shlex
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from gcp_emulator.docker.command import Docker
from gcp_emulator.docker.engine import MARKER, SYSTEM_PATH, Engine, Program
from gcp_emulator.docker.streams import Call, Environment, Streams
from gcp_emulator.guest.systemd import Systemd
from gcp_emulator.guest.words import parts_of, simple_words

WRITABLE: Final = (
    "/etc", "/home", "/mnt/disks", "/mnt/stateful_partition", "/run", "/tmp", "/var",  # noqa: S108
)  # fmt: skip
"""Where a file can be made; everything else, /root too, is read-only."""

STATELESS: Final = ("/etc", "/mnt/disks", "/run", "/tmp", "/var/lib/cloud")  # noqa: S108
"""What lies in memory: each boot finds it empty, and so cloud-init does all of its work again."""

SHELL_TOOLS: Final = (
    "docker", "docker-credential-gcr", "hostname", "iptables", "journalctl", "mkdir", "sudo",
    "systemctl",
)  # fmt: skip
"""Programs that a real shell gets from this VM; the others are those of the machine."""

_PROGRAM_FOLDERS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
type Tool = Callable[[Call], Awaitable[int]]


class Guest:
    """The operating system of one VM.

    Args:
        name: The VM's name.
        root: The folder that is its ``/``.
        docker: Its docker command.
        engine: Runs a shell where it can.
        console: Takes each line that reaches the serial port.
        shims: Makes (once) the folder of commands that lead from a real shell back to here.
        mark: Marks the processes that run outside of containers.
        endpoints: What scripts of units find in their environment besides: the way to the cloud.
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
        endpoints: Environment,
    ) -> None:
        self.name = name
        self.root = root
        self._docker = docker
        self._engine = engine
        self._console = console
        self._shims = shims
        self._mark = mark
        self._endpoints = endpoints
        self._booted = time.monotonic()
        self._systemd = Systemd(path=self.path, execute=self.execute, say=self.say)
        self.tools: dict[str, Tool] = {
            "docker": lambda call: docker(call.words[1:], call.streams),
            "docker-credential-gcr": self._credential_helper,
            "echo": self._echo,
            "exit": self._exit,
            "false": self._false,
            "hostname": self._hostname,
            "iptables": self._true,
            "ip6tables": self._true,
            "journalctl": self._systemd.journalctl,
            "cat": self._cat,
            "mkdir": self._mkdir,
            "sleep": self._sleep,
            "sudo": self._sudo,
            "sysctl": self._true,
            "systemctl": self._systemd.systemctl,
            "true": self._true,
            "uname": self._uname,
            "uptime": self._uptime,
            "whoami": self._whoami,
        }

    async def mount(self) -> None:
        """Begin a boot: what lies on the disk is there, what lay in memory is not."""
        for path in filter(Path.exists, map(self.path, STATELESS)):
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def execute(self, call: Call) -> int:
        """Run a program of COS; its exit status.

        Raises:
            FileNotFoundError: COS has no such program, or this emulation of it has not.
            PermissionError: It is a file that can't be executed.
        """
        folder, _, name = call.words[0].rpartition("/")
        if not folder or folder in _PROGRAM_FOLDERS:
            if (
                name in ("sh", "bash")
                and len(call.words) > 2
                and call.words[1] in ("-c", "-ec", "-xc")
            ):
                return await self.shell(call.words[2], call.streams, call.environment)
            if name in ("sh", "bash") and len(call.words) > 1 and call.words[1][:1] == "/":
                return await self._shell_script(call)
            tool = self.tools.get(name)
            if tool is not None:
                return await tool(call)
        elif self.path(call.words[0]).is_file():
            # /var and /home are mounted noexec.
            raise PermissionError(call.words[0])
        raise FileNotFoundError(call.words[0])

    async def line(self, line: str, streams: Streams, environment: Environment) -> int:
        """Run a command line as a shell does; simple ones run in process, without a shell."""
        words = simple_words(line)
        if words is None or (words and self._engine.shell and not self._is_of_cos(words)):
            return await self.shell(line, streams, environment)
        if not words:
            return 0
        try:
            return await self.execute(Call(words, streams, environment))
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
        """A real shell where there is one (None: interactive); else a very small one."""
        if self._engine.shell:
            return await self._real_shell(line, streams, environment)
        if line is None:
            return await self._line_shell(streams, environment)
        code = 0
        for joint, part in parts_of(line):
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
            config = _parsed(user_data)
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

    async def script(self, inside: str, streams: Streams, environment: Environment) -> int:
        """Run an executable file of the VM as root, as ``bash -c`` does; its exit status.

        Raises:
            OSError: There is no shell.
        """
        argv = ("/bin/bash", "-c", shlex.quote(str(self.path(inside))))
        return await self._run_shell(argv, streams, {**environment, "USER": "root"})

    async def _shell_script(self, call: Call) -> int:
        """``/bin/bash SCRIPT``, as units say it; the engine without a shell only tells of it."""
        shell, script, *rest = call.words
        if not self.path(script).is_file():
            await call.streams.err(f"{shell}: {script}: No such file or directory\n")
            return 127
        if not self._engine.shell:
            await call.streams.out(f"the inert engine runs no scripts: {shlex.join(call.words)}\n")
            return 0
        argv = (shell, str(self.path(script)), *rest)
        environment = {**self._endpoints, "USER": "root", **call.environment}
        return await self._run_shell(argv, call.streams, environment)

    async def close(self) -> None:
        """Stop watching the units: nothing is restarted any more."""
        await self._systemd.close()
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
        tops = [top for top in WRITABLE if clean == top or clean.startswith(top + "/")]
        if not tops:
            raise OSError(30, "Read-only file system", inside)
        if clean != tops[0]:
            self.path(tops[0]).mkdir(parents=True, exist_ok=True)
        path = self.path(inside)
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise OSError(30, "Read-only file system", inside)
        return path

    # ---------------------------------------------------------------- shells

    async def _real_shell(
        self, line: str | None, streams: Streams, environment: Environment
    ) -> int:
        argv = ("/bin/sh", "-c", line) if line is not None else ("/bin/sh", "-i")
        return await self._run_shell(argv, streams, environment)

    async def _run_shell(
        self, argv: tuple[str, ...], streams: Streams, environment: Environment
    ) -> int:
        user = environment.get("USER", "root")
        home = self.path(environment.get("HOME", "/tmp"))  # noqa: S108
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
        shims = await self._shims()
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

    async def _true(self, _call: Call) -> int:
        return 0

    async def _false(self, _call: Call) -> int:
        return 1

    async def _exit(self, call: Call) -> int:
        return int(call.words[1]) % 256 if len(call.words) > 1 and call.words[1].isdecimal() else 0

    async def _echo(self, call: Call) -> int:
        rest = list(call.words[1:])
        newline = "" if rest[:1] == ["-n"] else "\n"
        await call.streams.out(" ".join(rest[1:] if not newline else rest) + newline)
        return 0

    async def _cat(self, call: Call) -> int:
        code = 0
        for name in call.words[1:]:
            try:
                await call.streams.sink(1, await asyncio.to_thread(self.path(name).read_bytes))
            except OSError as error:
                await call.streams.err(f"cat: {name}: {error.strerror}\n")
                code = 1
        return code

    async def _hostname(self, call: Call) -> int:
        await call.streams.out(self.name + "\n")
        return 0

    async def _whoami(self, call: Call) -> int:
        await call.streams.out(call.environment.get("USER", "root") + "\n")
        return 0

    async def _uname(self, call: Call) -> int:
        everything = "-a" in call.words[1:]
        await call.streams.out(
            f"Linux {self.name} 6.6.0 x86_64 GNU/Linux\n" if everything else "Linux\n"
        )
        return 0

    async def _uptime(self, call: Call) -> int:
        await call.streams.out(f" up {int(self._uptime_seconds()) // 60} min\n")
        return 0

    async def _sleep(self, call: Call) -> int:
        try:
            await asyncio.sleep(float(call.words[1]))
        except (IndexError, ValueError):
            await call.streams.err("sleep: invalid time interval\n")
            return 1
        return 0

    async def _mkdir(self, call: Call) -> int:
        code = 0
        for name in (word for word in call.words[1:] if not word.startswith("-")):
            try:
                self.make_writable(name).mkdir(
                    parents="-p" in call.words, exist_ok="-p" in call.words
                )
            except OSError as error:
                await call.streams.err(
                    f"mkdir: cannot create directory '{name}': {error.strerror}\n"
                )
                code = 1
        return code

    async def _sudo(self, call: Call) -> int:
        rest = list(call.words[1:])
        root = {**call.environment, "USER": "root", "HOME": "/root"}
        while rest and (rest[0].startswith("-") or "=" in rest[0]):
            word = rest.pop(0)
            if word in ("-u", "-g", "--user", "--group") and rest:
                rest.pop(0)
            elif "=" in word and not word.startswith("-"):
                name, _, value = word.partition("=")
                root[name] = value
            elif word in ("-E", "--preserve-env"):
                root = {**root, **call.environment}
            elif word == "--":
                break
        if not rest:
            await call.streams.err("usage: sudo command\n")
            return 1
        return await self.line(shlex.join(rest), call.streams, root)

    async def _credential_helper(self, call: Call) -> int:
        """docker-credential-gcr keeps its settings under HOME, which must be writable."""
        home = call.environment.get("HOME")
        if not home:
            await call.streams.err("ERROR: unable to save docker config: $HOME is not defined\n")
            return 1
        try:
            config = self.make_writable(f"{home}/.docker/config.json")
        except OSError:
            await call.streams.err(
                f"ERROR: unable to save docker config: mkdir {home}/.docker: "
                "read-only file system\n"
            )
            return 1
        if "configure-docker" in call.words:
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text("{}\n", encoding="utf-8")
            await call.streams.err(f"{home}/.docker/config.json configured to use this helper\n")
        return 0

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

    def say(self, line: str) -> None:
        """Write a line to the serial port, with the seconds since power-on."""
        self._console(f"[{self._uptime_seconds():12.6f}] {line}")

    def _say_cloud_init(self, line: str) -> None:
        self.say(f"cloud-init[512]: {line}")


# All VMs of a group have the same user-data: it is parsed once, and never changed.
@functools.lru_cache(maxsize=16)
def _parsed(user_data: str) -> object:
    return yaml.safe_load(user_data)


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
