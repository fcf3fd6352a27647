"""The ``docker`` command of a VM, interpreted in process: its words, texts and exit codes.

Texts and codes follow Docker 28 (https://docs.docker.com/reference/cli/docker/): 125 when Docker
itself refuses, 126 and 127 when the program can't be executed or found, else the program's own.
"""

import asyncio
import hashlib
import json
import re
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from gcp_emulator.containers import (
    Container,
    Containers,
    ContainerSpec,
    Entry,
    NameInUse,
    NoSuchContainer,
    StartFailed,
)
from gcp_emulator.engine import Sink, Task

VERSION: Final = "28.3.3"

type Words = Sequence[str]


async def _no_input() -> bytes:
    return b""


@dataclass(slots=True, kw_only=True)
class Streams:
    """Standard input, output and error of one command, and its terminal.

    Args:
        sink: Takes what it writes; waits while its reader is slow, drops it once that is gone.
        read: Its next input; empty at the end.
        size: Columns and rows of the terminal; None without one.
    """

    sink: Sink
    read: Callable[[], Awaitable[bytes]] = _no_input
    size: tuple[int, int] | None = None
    task: Task | None = None
    """The program that signals and new terminal sizes go to."""
    raw: bool = False
    """Whether a terminal of the program's own makes the line ends and takes Ctrl-C."""
    interrupted: int = signal.SIGINT
    """The signal that ended a command of this process."""
    reading: bool = False
    """Whether input was ever asked for."""
    raw_mode: Callable[[], Awaitable[None]] | None = None
    """Tells the other end that `raw` begins."""

    async def input(self) -> bytes:
        """The next input; empty at the end."""
        self.reading = True
        return await self.read()

    async def out(self, text: str) -> None:
        """Write text to standard output."""
        await self.sink(1, text.encode())

    async def err(self, text: str) -> None:
        """Write text to standard error."""
        await self.sink(2, text.encode())

    async def join(self, task: Task, *, stdin: bool, raw: bool = False) -> int:
        """Feed a program with our input until it ends; its exit status."""
        self.task = task
        self.raw = raw and self.size is not None
        if self.raw and self.raw_mode is not None:
            await self.raw_mode()
        feeding = asyncio.create_task(self._feed(task)) if stdin else None
        try:
            return await task.wait()
        finally:
            self.task = None
            if feeding is not None:
                feeding.cancel()

    async def _feed(self, task: Task) -> None:
        while data := await self.input():
            await task.write(data)
        await task.write(b"")


class DockerError(Exception):
    """Docker's refusal: text for standard error and exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Docker:
    """The docker command of one VM.

    Args:
        containers: The VM's containers.
        root: The VM's root folder, where ``--env-file`` is looked for.
        pull_seconds: How long the pull of an image takes.
        record: Told of ``exec``.
    """

    def __init__(
        self,
        *,
        containers: Containers,
        root: Path,
        pull_seconds: float,
        record: Callable[[str], None],
    ) -> None:
        self.containers = containers
        self._root = root
        self._pull_seconds = pull_seconds
        self._record = record
        self._images: dict[str, datetime] = {}
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._executions: set[asyncio.Task[int]] = set()
        self._commands: dict[str, Callable[[Words, Streams], Awaitable[int]]] = {
            "exec": self._exec,
            "images": self._image_list,
            "inspect": self._inspect,
            "info": self._info,
            "kill": self._kill,
            "logs": self._logs,
            "ps": self._ps,
            "pull": self._pull,
            "restart": self._restart,
            "rm": self._rm,
            "run": self._run,
            "start": self._start,
            "stats": self._stats,
            "stop": self._stop,
            "version": self._version,
            "wait": self._wait,
        }

    async def __call__(self, words: Words, streams: Streams) -> int:
        """Run ``docker WORDS``; its exit code. Cancelling it is losing its terminal."""
        if not words or words[0] in ("-h", "--help", "help"):
            await streams.out("Usage:  docker [OPTIONS] COMMAND\n")
            return 0
        if words[0] in ("-v", "--version"):
            await streams.out(f"Docker version {VERSION}, build local\n")
            return 0
        if words[0] in ("container", "image") and len(words) > 1:
            short = {"ls": "ps" if words[0] == "container" else "images", "list": "ps"}
            words = [short.get(words[1], words[1]), *words[2:]]
        command = self._commands.get(words[0])
        if command is None:
            await streams.err(
                f"docker: unknown command: docker {words[0]}\n\n"
                "Run 'docker --help' for more information\n"
            )
            return 1
        try:
            return await command(words[1:], streams)
        except DockerError as error:
            await streams.err(error.text + "\n")
            return error.code
        except NoSuchContainer as error:
            await streams.err(f"Error response from daemon: No such container: {error}\n")
            return 1

    async def close(self) -> None:
        """Leave the programs that were executed without their watchers."""
        for execution in (*self._executions, *self._pulls.values()):
            execution.cancel()
        await asyncio.gather(*self._executions, *self._pulls.values(), return_exceptions=True)

    # ---------------------------------------------------------------- run and exec

    async def _run(self, words: Words, streams: Streams) -> int:
        flags = _parse("run", words, _RUN, "IMAGE [COMMAND] [ARG...]", at_least=1)
        try:
            spec = self._spec_of(flags, streams)
        except DockerError as error:
            raise DockerError(125, _explained("run", error.text)) from error
        await self._ensure_image(spec.image, streams, flags.one("pull", "missing"))
        try:
            container = self.containers.create(spec)
        except NameInUse as error:
            raise DockerError(
                125,
                _explained(
                    "run",
                    f'Error response from daemon: Conflict. The container name "/{spec.name}" is '
                    f'already in use by container "{error}". You have to remove (or rename) that '
                    "container to be able to reuse that name.",
                ),
            ) from error
        detached = flags.on("detach")
        if not detached:
            container.attached.append(streams.sink)
        try:
            try:
                await self.containers.start(container)
            except StartFailed as error:
                if spec.auto_remove:
                    await self.containers.remove(container)
                raise DockerError(
                    error.code,
                    _explained(
                        "run",
                        "Error response from daemon: failed to create task for container: failed "
                        "to create shim task: OCI runtime create failed: runc create failed: "
                        f"unable to start container process: error during container init: "
                        f"{error.message}: unknown",
                    ),
                ) from error
            if detached:
                await streams.out(container.id + "\n")
                return 0
            assert container.task is not None  # noqa: S101
            await streams.join(
                _Foreground(container), stdin=spec.stdin, raw=spec.terminal is not None
            )
            if spec.auto_remove:
                await container.removed.wait()
            return container.exit_code
        finally:
            if not detached:
                container.attached.remove(streams.sink)

    def _spec_of(self, flags: "_Flags", streams: Streams) -> ContainerSpec:
        image, *args = flags.words
        _check_image(image)
        name = flags.one("name") or f"container_{secrets.token_hex(4)}"
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name):
            raise DockerError(
                125,
                f"Error response from daemon: Invalid container name ({name}), only "
                "[a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            )
        restart, _, count = flags.one("restart", "no").partition(":")
        if restart not in ("no", "always", "unless-stopped", "on-failure"):
            raise DockerError(
                125,
                f"Error response from daemon: invalid restart policy: unknown policy '{restart}'",
            )
        if restart != "no" and flags.on("rm"):
            raise DockerError(125, "conflicting options: cannot specify both --restart and --rm")
        entry = flags.one("entrypoint")
        return ContainerSpec(
            name=name,
            image=image,
            entrypoint=(entry,) if entry else self.containers.engine.entrypoint,
            args=tuple(args),
            environment=self._environment(flags),
            labels=dict(_pair(label) for label in flags.all("label")),
            network=flags.one("network", "bridge"),
            workdir=flags.one("workdir"),
            restart=restart,
            restarts_at_most=int(count) if count.isdecimal() else 0,
            log_driver=flags.one("log-driver", "json-file"),
            log_options=dict(_pair(option) for option in flags.all("log-opt")),
            auto_remove=flags.on("rm"),
            terminal=(streams.size or (80, 24)) if flags.on("tty") else None,
            stdin=flags.on("interactive") and not flags.on("detach"),
            privileged=flags.on("privileged"),
        )

    def _environment(self, flags: "_Flags") -> dict[str, str]:
        found: dict[str, str] = {}
        for path in flags.all("env-file"):
            found |= _environment_file(self._root, path)
        for assignment in flags.all("env"):
            name, equals, value = assignment.partition("=")
            if not name:
                raise DockerError(
                    125,
                    f'invalid argument "{assignment}" for "-e, --env" flag: invalid environment variable: {assignment}',
                )
            # Without a value the client's own variable would be taken; this client has none.
            if equals:
                found[name] = value
        return found

    async def _exec(self, words: Words, streams: Streams) -> int:
        flags = _parse("exec", words, _EXEC, "CONTAINER COMMAND [ARG...]", at_least=2)
        name, *argv = flags.words
        interactive = flags.on("interactive")
        if interactive and flags.on("tty") and streams.size is None:
            raise DockerError(
                1, "cannot attach stdin to a TTY-enabled container because stdin is not a terminal"
            )
        container = self.containers.find(name)
        if not container.running:
            raise DockerError(
                1, f"Error response from daemon: container {container.id} is not running"
            )
        try:
            environment = self._environment(flags)
        except DockerError as error:
            raise DockerError(error.code, _explained("exec", error.text)) from error
        self._record("exec")
        detached = flags.on("detach")
        lost = False

        async def sink(stream: int, data: bytes) -> None:
            if not (lost or detached):
                await streams.sink(stream, data)

        try:
            task = await self.containers.execute(
                container,
                tuple(argv),
                sink,
                environment=environment,
                workdir=flags.one("workdir"),
                stdin=interactive and not detached,
                size=(streams.size or (80, 24)) if flags.on("tty") else None,
            )
        except StartFailed as error:
            raise DockerError(
                error.code,
                "OCI runtime exec failed: exec failed: unable to start container process: "
                f"{error.message}: unknown",
            ) from error
        # A program that was executed lives on without the client that asked for it:
        # https://github.com/moby/moby/issues/9098
        joining = asyncio.create_task(
            streams.join(task, stdin=interactive and not detached, raw=flags.on("tty"))
        )
        self._executions.add(joining)
        joining.add_done_callback(self._executions.discard)
        if detached:
            return 0
        try:
            return await asyncio.shield(joining)
        except asyncio.CancelledError:
            lost = True
            raise

    # ---------------------------------------------------------------- looking

    async def _ps(self, words: Words, streams: Streams) -> int:
        flags = _parse("ps", words, _PS, "", at_most=0)
        shown = [c for c in self.containers if _passes(c, flags)]
        if flags.one("last").isdecimal():
            shown = shown[: int(flags.one("last"))]
        if flags.on("latest"):
            shown = shown[:1]
        cut = not flags.on("no-trunc")
        rows = [_row(container, cut) for container in shown]
        if flags.on("quiet"):
            await streams.out("".join(row["ID"] + "\n" for row in rows))
            return 0
        columns = {
            "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED",
            "Status": "STATUS", "Ports": "PORTS", "Names": "NAMES",
        }  # fmt: skip
        await _print_rows(streams, rows, columns, flags.one("format"))
        return 0

    async def _image_list(self, words: Words, streams: Streams) -> int:
        flags = _parse("images", words, _IMAGES, "[REPOSITORY[:TAG]]", at_most=1)
        rows = []
        for image, pulled in self._images.items():
            name, _, digest = image.partition("@")
            repository, tag = _name_and_tag(name)
            if flags.words and flags.words[0] not in (image, repository):
                continue
            rows.append(
                {
                    "ID": _image_id(image)[7:19],
                    "Repository": repository,
                    "Tag": "<none>" if digest else tag,
                    "CreatedSince": f"{_ago(pulled)} ago",
                    "Size": "0B",
                }
            )
        if flags.on("quiet"):
            await streams.out("".join(row["ID"] + "\n" for row in rows))
            return 0
        columns = {
            "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID",
            "CreatedSince": "CREATED", "Size": "SIZE",
        }  # fmt: skip
        await _print_rows(streams, rows, columns, flags.one("format"))
        return 0

    async def _inspect(self, words: Words, streams: Streams) -> int:
        flags = _parse("inspect", words, _INSPECT, "NAME|ID [NAME|ID...]", at_least=1)
        template = flags.one("format")
        found, missing = [], []
        for name in flags.words:
            try:
                found.append(_inspection(self.containers.find(name)))
            except NoSuchContainer:
                missing.append(name)
        if template and template != "json":
            for one in found:
                await streams.out(_render(template, one) + "\n")
            if not found:
                await streams.out("\n")
        else:
            await streams.out(json.dumps(found, indent=4) + "\n")
        kind = "container" if flags.one("type") == "container" else "object"
        for name in missing:
            await streams.err(f"error: no such {kind}: {name}\n")
        return 1 if missing else 0

    async def _logs(self, words: Words, streams: Streams) -> int:
        flags = _parse("logs", words, _LOGS, "CONTAINER", at_least=1, at_most=1)
        container = self.containers.find(flags.words[0])
        tail = flags.one("tail", "all")
        since = _moment(flags.one("since")) if flags.one("since") else None
        until = _moment(flags.one("until")) if flags.one("until") else None
        following = flags.on("follow")
        entries = container.log.entries(
            tail=int(tail) if tail.isdecimal() else None,
            follow=lambda: following and container.running,
        )
        async for entry in entries:
            if since is not None and entry.time_ns < since:
                continue
            if until is not None and entry.time_ns > until:
                break
            stamp = f"{_time(entry)} ".encode() if flags.on("timestamps") else b""
            await streams.sink(entry.stream, stamp + entry.data)
        return 0

    async def _wait(self, words: Words, streams: Streams) -> int:
        flags = _parse("wait", words, {}, "CONTAINER [CONTAINER...]", at_least=1)
        for name in flags.words:
            container = self.containers.find(name)
            while container.running:
                await container.ended.wait()
            await streams.out(f"{container.exit_code}\n")
        return 0

    async def _version(self, words: Words, streams: Streams) -> int:
        flags = _parse("version", words, {"format": "f="}, "", at_most=0)
        facts = {
            part: {"Version": VERSION, "ApiVersion": "1.51", "Os": "linux", "Arch": "amd64"}
            for part in ("Client", "Server")
        }
        if flags.one("format"):
            await streams.out(_render(flags.one("format"), facts) + "\n")
            return 0
        for part, said in facts.items():
            await streams.out(f"{part}:\n")
            await streams.out(
                "".join(f" {name + ':':<19}{value}\n" for name, value in said.items())
            )
        return 0

    async def _info(self, words: Words, streams: Streams) -> int:
        flags = _parse("info", words, {"format": "f="}, "", at_most=0)
        every = list(self.containers)
        facts = {
            "Containers": len(every),
            "ContainersRunning": sum(c.running for c in every),
            "ContainersStopped": sum(not c.running for c in every),
            "Images": len(self._images),
            "ServerVersion": VERSION,
            "OperatingSystem": "Container-Optimized OS from Google",
            "Name": self.containers.hostname,
        }
        template = flags.one("format", "")
        if template:
            await streams.out(_render(template, facts) + "\n")
        else:
            await streams.out("".join(f" {name}: {value}\n" for name, value in facts.items()))
        return 0

    async def _stats(self, words: Words, streams: Streams) -> int:
        flags = _parse("stats", words, _STATS, "[CONTAINER...]")
        if not flags.on("no-stream"):
            raise DockerError(1, "docker stats without --no-stream is not emulated")
        wanted = [self.containers.find(name) for name in flags.words]
        shown = wanted or [c for c in self.containers if c.running]
        rows = [_usage_row(container) for container in shown]
        columns = {
            "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
            "PIDs": "PIDS",
        }  # fmt: skip
        await _print_rows(streams, rows, columns, flags.one("format"))
        return 0

    # ---------------------------------------------------------------- changing

    async def _stop(self, words: Words, streams: Streams) -> int:
        flags = _parse("stop", words, _STOP, "CONTAINER [CONTAINER...]", at_least=1)
        grace, first = _grace(flags), _signal(flags.one("signal", "TERM"))

        async def stop(container: Container) -> None:
            await self.containers.stop(container, grace=grace, first=first)

        return await self._each(flags.words, streams, stop)

    async def _kill(self, words: Words, streams: Streams) -> int:
        flags = _parse("kill", words, {"signal": "s="}, "CONTAINER [CONTAINER...]", at_least=1)
        number = _signal(flags.one("signal", "KILL"))

        async def kill(container: Container) -> None:
            if not container.running or container.task is None:
                raise DockerError(
                    1,
                    f"Error response from daemon: cannot kill container: {container.spec.name}: "
                    f"container {container.id} is not running",
                )
            container.stopped_by_hand = True
            container.task.signal(number)
            if number == signal.SIGKILL:
                await container.ended.wait()

        return await self._each(flags.words, streams, kill)

    async def _rm(self, words: Words, streams: Streams) -> int:
        flags = _parse("rm", words, _RM, "CONTAINER [CONTAINER...]", at_least=1)

        async def remove(container: Container) -> None:
            if container.running and not flags.on("force"):
                raise DockerError(
                    1,
                    "Error response from daemon: cannot remove container "
                    f'"{container.spec.name}": container is running: stop the container before '
                    "removing or force remove",
                )
            await self.containers.remove(container)

        return await self._each(flags.words, streams, remove, forgiving=flags.on("force"))

    async def _start(self, words: Words, streams: Streams) -> int:
        flags = _parse(
            "start", words, {"attach": "a", "interactive": "i"}, "CONTAINER", at_least=1
        )
        if flags.on("attach") or flags.on("interactive"):
            raise DockerError(1, "docker start --attach is not emulated")
        return await self._each(flags.words, streams, self._start_one)

    async def _restart(self, words: Words, streams: Streams) -> int:
        flags = _parse("restart", words, _STOP, "CONTAINER [CONTAINER...]", at_least=1)

        async def restart(container: Container) -> None:
            await self.containers.stop(container, grace=_grace(flags))
            await self._start_one(container)

        return await self._each(flags.words, streams, restart)

    async def _start_one(self, container: Container) -> None:
        try:
            await self.containers.start(container)
        except StartFailed as error:
            raise DockerError(
                1, f"Error response from daemon: failed to create task for container: {error}"
            ) from error

    async def _each(
        self,
        names: Words,
        streams: Streams,
        change: Callable[[Container], Awaitable[None]],
        *,
        forgiving: bool = False,
    ) -> int:
        """Change each, print the names that worked, go on after the others, as Docker does."""
        code = 0
        for name in names:
            try:
                await change(self.containers.find(name))
            except NoSuchContainer:
                await streams.err(f"Error response from daemon: No such container: {name}\n")
                code = code if forgiving else 1
            except DockerError as error:
                await streams.err(error.text + "\n")
                code = 1
            else:
                await streams.out(name + "\n")
        return code

    # ---------------------------------------------------------------- images

    async def _pull(self, words: Words, streams: Streams) -> int:
        flags = _parse("pull", words, _PULL, "NAME[:TAG|@DIGEST]", at_least=1, at_most=1)
        image = flags.words[0]
        try:
            _check_image(image)
        except DockerError as error:
            raise DockerError(1, error.text) from error
        await self._pull_image(image)
        if not flags.on("quiet"):
            await streams.out(_pulled(image))
        await streams.out(image + "\n")
        return 0

    async def _ensure_image(self, image: str, streams: Streams, policy: str) -> None:
        if image in self._images and policy != "always":
            return
        if policy == "never":
            raise DockerError(
                125, _explained("run", f"Error response from daemon: No such image: {image}")
            )
        await streams.err(f"Unable to find image '{image}' locally\n")
        await self._pull_image(image)
        await streams.err(_pulled(image))

    async def _pull_image(self, image: str) -> None:
        """Pull once, however many ask for it; a client that goes does not stop it."""
        if image not in self._pulls:
            self._pulls[image] = asyncio.create_task(asyncio.sleep(self._pull_seconds))
        await asyncio.shield(self._pulls[image])
        self._pulls.pop(image, None)
        self._images.setdefault(image, datetime.now(UTC))


class _Foreground:
    """A container seen as the program that ``docker run`` without ``-d`` waits for."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.pid = container.task.pid if container.task else 0

    async def exited(self) -> None:
        await self._container.ended.wait()

    async def wait(self) -> int:
        await self._container.ended.wait()
        return self._container.exit_code

    def signal(self, number: int) -> None:
        if self._container.task is not None:
            self._container.task.signal(number)

    async def write(self, data: bytes) -> None:
        if self._container.task is not None:
            await self._container.task.write(data)

    def resize(self, columns: int, rows: int) -> None:
        if self._container.task is not None:
            self._container.task.resize(columns, rows)

    def hang_up(self) -> None:
        pass


# -------------------------------------------------------------------- flags

# Long name of a flag -> its short one, and "=" if it takes a value.
_RUN: Final = {
    "name": "=", "detach": "d", "rm": "", "network": "=", "net": "=", "env": "e=", "env-file": "=",
    "volume": "v=", "mount": "=", "log-driver": "=", "log-opt": "=", "restart": "=", "entrypoint": "=",
    "workdir": "w=", "init": "", "privileged": "", "interactive": "i", "tty": "t", "label": "l=",
    "user": "u=", "pull": "=", "quiet": "q", "hostname": "h=", "memory": "m=", "cpus": "=", "gpus": "=",
    "shm-size": "=", "stop-timeout": "=", "stop-signal": "=", "publish": "p=", "pid": "=", "ipc": "=",
    "device": "=", "ulimit": "=", "tmpfs": "=", "cap-add": "=", "cap-drop": "=", "security-opt": "=",
    "oom-score-adj": "=", "read-only": "", "platform": "=", "sig-proxy": "", "add-host": "=",
    "cgroupns": "=", "attach": "a=", "cidfile": "=",
}  # fmt: skip
_EXEC: Final = {
    "interactive": "i", "tty": "t", "env": "e=", "env-file": "=", "workdir": "w=", "user": "u=",
    "detach": "d", "privileged": "",
}  # fmt: skip
_PS: Final = {
    "all": "a", "quiet": "q", "filter": "f=", "format": "=", "no-trunc": "", "last": "n=",
    "latest": "l", "size": "s",
}  # fmt: skip
_IMAGES: Final = {"all": "a", "quiet": "q", "format": "=", "filter": "f=", "no-trunc": ""}
_INSPECT: Final = {"format": "f=", "type": "=", "size": "s"}
_LOGS: Final = {
    "follow": "f", "tail": "n=", "since": "=", "until": "=", "timestamps": "t", "details": "",
}  # fmt: skip
_STOP: Final = {"time": "t=", "timeout": "=", "signal": "s="}
_RM: Final = {"force": "f", "volumes": "v", "link": "l"}
_PULL: Final = {"quiet": "q", "all-tags": "a", "platform": "=", "disable-content-trust": ""}
_STATS: Final = {"no-stream": "", "all": "a", "format": "=", "no-trunc": ""}


@dataclass(slots=True)
class _Flags:
    """What was given: flags by their long names, and the other words."""

    given: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def on(self, name: str) -> bool:
        return self.given.get(name, ["false"])[-1] != "false"

    def one(self, name: str, default: str = "") -> str:
        return self.given.get(name, [default])[-1]

    def all(self, name: str) -> list[str]:
        return self.given.get(name, [])


def _parse(
    command: str,
    words: Words,
    known: Mapping[str, str],
    usage: str,
    *,
    at_least: int = 0,
    at_most: int | None = None,
) -> _Flags:
    """Read flags as Docker's pflag does; ``run`` and ``exec`` stop at the first other word."""
    shorts = {kind[0]: name for name, kind in known.items() if kind not in ("", "=")}
    flags = _Flags()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            flags.words += rest
            break
        if not word.startswith("-") or word == "-":
            flags.words.append(word)
            if command in ("run", "exec"):
                flags.words += rest
                break
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name not in known:
                raise _usage_error(command, f"unknown flag: --{name}", usage)
            if not known[name].endswith("="):
                value = value if equals else "true"
            elif not equals:
                if not rest:
                    raise _usage_error(command, f"flag needs an argument: --{name}", usage)
                value = rest.pop(0)
            flags.given.setdefault("network" if name == "net" else name, []).append(value)
            continue
        _parse_short(command, word, rest, flags, known, shorts, usage)
    if len(flags.words) < at_least or (at_most is not None and len(flags.words) > at_most):
        need = f"at least {at_least}" if at_most is None else f"{at_most}"
        if at_most == 0:
            said = f"docker: 'docker {command}' accepts no arguments"
        else:
            said = f"docker: 'docker {command}' requires {need} argument" + "s" * (need[-1] != "1")
        raise DockerError(1, f"{said}\n\n{_usage(command, usage)}")
    return flags


def _parse_short(
    command: str,
    word: str,
    rest: list[str],
    flags: _Flags,
    known: Mapping[str, str],
    shorts: Mapping[str, str],
    usage: str,
) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in shorts:
            said = f"unknown shorthand flag: '{letter}' in {word}"
            raise _usage_error(command, said, usage)
        name = shorts[letter]
        value = "true"
        if known[name].endswith("="):
            if not letters and not rest:
                said = f"flag needs an argument: '{letter}' in {word}"
                raise _usage_error(command, said, usage)
            value, letters = (letters.removeprefix("=") or rest.pop(0)), ""
        elif letters.startswith("="):
            value, letters = letters[1:], ""
        flags.given.setdefault(name, []).append(value)


def _usage(command: str, usage: str) -> str:
    return (
        f"Usage:  docker {command} [OPTIONS] {usage}".rstrip()
        + f"\n\nRun 'docker {command} --help' for more information"
    )


def _usage_error(command: str, said: str, usage: str) -> DockerError:
    return DockerError(125, f"{said}\n\n{_usage(command, usage)}")


def _explained(command: str, said: str) -> str:
    return f"docker: {said}\n\nRun 'docker {command} --help' for more information"


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _environment_file(root: Path, path: str) -> dict[str, str]:
    """Read as https://docs.docker.com/reference/cli/docker/container/run/#env says."""
    inside = (root / path.lstrip("/")).resolve()
    if not inside.is_relative_to(root.resolve()) or not inside.is_file():
        raise DockerError(125, f"open {path}: no such file or directory")
    found = {}
    for line in inside.read_text(encoding="utf-8").splitlines():
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not name:
            raise DockerError(125, f"no variable name on line '{text}'")
        if name != name.strip() or " " in name:
            raise DockerError(125, f"variable '{name}' contains whitespaces")
        if equals:
            found[name] = value
    return found


def _grace(flags: _Flags) -> float:
    text = flags.one("time") or flags.one("timeout") or "10"
    try:
        seconds = float(text)
    except ValueError as error:
        raise DockerError(125, f'invalid argument "{text}" for "-t, --timeout" flag') from error
    return seconds if seconds >= 0 else 10**9


def _signal(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    if name.isdecimal() and 0 < int(name) < signal.NSIG:
        return int(name)
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError as error:
        raise DockerError(1, f"Error response from daemon: invalid signal: {text}") from error


# -------------------------------------------------------------------- images

# https://github.com/distribution/reference/blob/main/reference.go
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)"
)
_REFERENCE = re.compile(
    rf"(?:{_HOST}(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::\w[\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)


def _check_image(image: str) -> None:
    if _REFERENCE.fullmatch(image):
        return
    name, _tag = _name_and_tag(image.partition("@")[0])
    if name != name.lower() and _REFERENCE.fullmatch(image.lower()):
        raise DockerError(
            125, f"invalid reference format: repository name ({name}) must be lowercase"
        )
    raise DockerError(125, "invalid reference format")


def _name_and_tag(image: str) -> tuple[str, str]:
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        return image, "latest"
    return name, tag


def _image_id(image: str) -> str:
    return "sha256:" + hashlib.sha256(image.encode()).hexdigest()


def _pulled(image: str) -> str:
    _name, tag = _name_and_tag(image.partition("@")[0])
    return (
        f"{tag}: Pulling from {_name.partition('/')[2] or 'library/' + _name}\n"
        f"Digest: {_image_id(image)}\nStatus: Downloaded newer image for {image}\n"
    )


# -------------------------------------------------------------------- what is shown


def _passes(container: Container, flags: _Flags) -> bool:
    filters: dict[str, list[str]] = {}
    for text in flags.all("filter"):
        name, equals, value = text.partition("=")
        if not equals:
            raise DockerError(
                125,
                f'invalid argument "{text}" for "-f, --filter" flag: invalid filter \'{text}\'',
            )
        filters.setdefault(name, []).append(value)
    if not (flags.on("all") or "status" in filters or "exited" in filters) and not (
        container.running or flags.on("latest") or flags.one("last")
    ):
        return False
    for name, values in filters.items():
        if name not in _FILTERS:
            raise DockerError(1, f"Error response from daemon: invalid filter '{name}'")
        if not any(_FILTERS[name](container, value) for value in values):
            return False
    return True


def _has_label(container: Container, text: str) -> bool:
    name, equals, value = text.partition("=")
    labels = container.spec.labels
    return labels.get(name) == value if equals else name in labels


_FILTERS: Final[Mapping[str, Callable[[Container, str], bool]]] = {
    # Docker searches the pattern in the name, with and without its slash.
    "name": lambda c, v: bool(re.search(v, c.spec.name) or re.search(v, f"/{c.spec.name}")),
    "id": lambda c, v: c.id.startswith(v),
    "status": lambda c, v: c.status == v,
    "exited": lambda c, v: c.status == "exited" and str(c.exit_code) == v,
    "ancestor": lambda c, v: v in (c.spec.image, _name_and_tag(c.spec.image)[0]),
    "label": _has_label,
}


def _row(container: Container, cut: bool) -> dict[str, str]:
    command = " ".join((*container.spec.entrypoint, *container.spec.args))
    command = command[:19] + "…" if cut and len(command) > 20 else command
    return {
        "Command": f'"{command}"',
        "CreatedAt": container.created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "ID": container.id[:12] if cut else container.id,
        "Image": container.spec.image,
        "Labels": ",".join(f"{k}={v}" for k, v in container.spec.labels.items()),
        "LocalVolumes": "0",
        "Mounts": "",
        "Names": container.spec.name,
        "Networks": container.spec.network,
        "Ports": "",
        "RunningFor": f"{_ago(container.created)} ago",
        "Size": "0B",
        "State": container.status,
        "Status": _status(container),
    }


def _status(container: Container) -> str:
    if container.running and container.started:
        return f"Up {_ago(container.started)}"
    if container.status == "exited" and container.finished:
        return f"Exited ({container.exit_code}) {_ago(container.finished)} ago"
    return "Created"


def _ago(moment: datetime) -> str:
    """As Docker's units.HumanDuration."""
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


def _inspection(container: Container) -> dict[str, Any]:
    spec = container.spec
    path, *before = spec.entrypoint
    return {
        "Id": container.id,
        "Created": _stamp(container.created),
        "Path": path,
        "Args": [*before, *spec.args],
        "State": {
            "Status": container.status,
            "Running": container.running,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": container.task.pid if container.running and container.task else 0,
            "ExitCode": container.exit_code,
            "Error": container.error,
            "StartedAt": _stamp(container.started),
            "FinishedAt": _stamp(container.finished),
        },
        "Image": _image_id(spec.image),
        "Name": f"/{spec.name}",
        "RestartCount": container.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "LogPath": str(container.folder / "log"),
        "HostConfig": {
            "NetworkMode": spec.network,
            "RestartPolicy": {"Name": spec.restart, "MaximumRetryCount": spec.restarts_at_most},
            "AutoRemove": spec.auto_remove,
            "LogConfig": {"Type": spec.log_driver, "Config": dict(spec.log_options)},
            "Privileged": spec.privileged,
        },
        "Mounts": [],
        "Config": {
            "Hostname": container.environment.get("HOSTNAME", ""),
            "Tty": spec.terminal is not None,
            "OpenStdin": spec.stdin,
            "Env": [f"{name}={value}" for name, value in spec.environment.items()],
            "Cmd": list(spec.args) or None,
            "Image": spec.image,
            "WorkingDir": spec.workdir,
            "Entrypoint": list(spec.entrypoint),
            "Labels": dict(spec.labels),
        },
    }


def _stamp(moment: datetime | None) -> str:
    if moment is None:
        return "0001-01-01T00:00:00Z"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _time(entry: Entry) -> str:
    seconds, rest = divmod(entry.time_ns, 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def _moment(text: str) -> int:
    """What ``--since`` takes: seconds since 1970, RFC 3339, or a duration such as 10m."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        whole, _, part = text.partition(".")
        return int(whole) * 10**9 + int(part.ljust(9, "0")[:9] or 0)
    if re.fullmatch(r"(\d+(\.\d+)?(h|m|s|ms))+", text):
        units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
        back = timedelta(seconds=sum(float(n) * units[unit] for n, unit in parts))
        return int((datetime.now(UTC) - back).timestamp() * 1e9)
    with suppress(ValueError):
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        part = re.search(r"\.(\d+)", text)
        nanoseconds = int(part[1].ljust(9, "0")[:9]) if part else 0
        return int(moment.replace(microsecond=0).timestamp()) * 10**9 + nanoseconds
    raise DockerError(
        1, f'invalid value for "since": failed to parse value as time or duration: "{text}"'
    )


def _usage_of(pid: int) -> tuple[int, int]:
    """Resident bytes and threads of a process (proc(5))."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, 0
    memory = re.search(r"VmRSS:\s+(\d+) kB", status)
    threads = re.search(r"Threads:\s+(\d+)", status)
    return int(memory[1]) * 1024 if memory else 0, int(threads[1]) if threads else 0


def _usage_row(container: Container) -> dict[str, str]:
    memory, threads = _usage_of(container.task.pid if container.running and container.task else 0)
    return {
        "ID": container.id[:12],
        "Container": container.id[:12],
        "Name": container.spec.name,
        "CPUPerc": "--",
        "MemUsage": f"{memory / 2**20:.4g}MiB / --",
        "PIDs": str(threads),
    }


async def _print_rows(
    streams: Streams, rows: Iterable[Mapping[str, str]], columns: Mapping[str, str], template: str
) -> None:
    rows = list(rows)
    table = template.startswith("table ")
    if not template or template == "table" or table:
        if table:
            parts = template.removeprefix("table ").replace("\\t", "\t").split("\t")
            head = [_render(part, {**columns, **_titles(part, columns)}) for part in parts]
            body = [[_render(part, row) for part in parts] for row in rows]
        else:
            head = list(columns.values())
            body = [[row[name] for name in columns] for row in rows]
        await streams.out(_aligned([head, *body]))
        return
    await streams.out("".join(_render(template, row) + "\n" for row in rows))


def _titles(part: str, columns: Mapping[str, str]) -> dict[str, str]:
    names = re.findall(r"{{\s*\.(\w+)\s*}}", part)
    return {name: columns.get(name, name.upper()) for name in names}


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    shown = (
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join(shown) + "\n"


_ACTION = re.compile(r"{{-?\s*(.*?)\s*-?}}")


def _render(template: str, facts: Mapping[str, Any]) -> str:
    """The part of Go's text/template that people write after ``--format``."""
    if template == "json":
        template = "{{json .}}"

    def action(match: re.Match[str]) -> str:
        words = str(match[1]).split()
        as_json = len(words) == 2 and words[0] == "json"
        if not (as_json or len(words) == 1) or not words[-1].startswith("."):
            raise DockerError(
                1, f"template parsing error: {{{{{match[1]}}}}} is not emulated by the local cloud"
            )
        value: Any = facts
        for name in filter(None, words[-1].split(".")):
            if not isinstance(value, Mapping) or name not in value:
                raise DockerError(
                    1,
                    f'template: :1:2: executing "" at <{words[-1]}>: '
                    f'map has no entry for key "{name}"',
                )
            value = value[name]
        return json.dumps(value, separators=(",", ":")) if as_json else _go(value)

    return _ACTION.sub(action, template.replace("\\t", "\t").replace("\\n", "\n"))


def _go(value: object) -> str:
    """How Go's fmt prints it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "<nil>"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{_go(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_go(v) for v in value) + "]"
    return str(value)
