"""The ``docker`` command of a VM, interpreted in process: its words, texts and exit codes.

Texts and codes follow Docker 28 (https://docs.docker.com/reference/cli/docker/): 125 when Docker
itself refuses, 126 and 127 when the program can't be executed or found, else the program's own.
"""

import asyncio
import json
import re
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gcp_emulator.docker.containers import (
    Container,
    Containers,
    ContainerSpec,
    NameInUse,
    NoSuchContainer,
    StartFailed,
)
from gcp_emulator.docker.manifests import digest_of
from gcp_emulator.docker.streams import Streams
from gcp_emulator.docker.views import (
    ago,
    inspection,
    moment_of,
    passes,
    print_rows,
    render,
    row_of,
    time_of,
    usage_row,
)
from gcp_emulator.docker.words import (
    EXEC,
    IMAGES,
    INSPECT,
    LOGS,
    PS,
    PULL,
    RM,
    RUN,
    STATS,
    STOP,
    DockerError,
    Flags,
    Words,
    check_image,
    environment_file,
    explained,
    grace_of,
    image_id,
    last_part,
    name_and_tag,
    pair,
    parse,
    pull_report,
    signal_of,
)

VERSION: Final = "28.3.3"


class Docker:
    """The docker command of one VM.

    Args:
        containers: The VM's containers.
        root: The VM's root folder, where ``--env-file`` is looked for.
        pull_seconds: How long the pull of an image takes.
        record: Told of ``exec``.
        images: Entry points of images, by the last part of their names (`words.last_part`); the
            others have the engine's.
        refusal: Asked before each pull, with the image's name: why it fails, or None.
        images_file: Where the names of pulled images are kept; they outlive a reboot.
    """

    def __init__(
        self,
        *,
        containers: Containers,
        root: Path,
        pull_seconds: float,
        record: Callable[[str], None],
        images: Mapping[str, tuple[str, ...]] | None = None,
        refusal: Callable[[str], Awaitable[str | None]] | None = None,
        images_file: Path | None = None,
    ) -> None:
        self.containers = containers
        self._entrypoints = dict(images or {})
        self._refusal = refusal
        self._images_file = images_file
        self._root = root
        self._pull_seconds = pull_seconds
        self._record = record
        self._images = self._kept_images()
        self._pulls: dict[str, asyncio.Task[str | None]] = {}
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
        """Leave the programs that were executed without their watchers; keep the images."""
        for execution in (*self._executions, *self._pulls.values()):
            execution.cancel()
        await asyncio.gather(*self._executions, *self._pulls.values(), return_exceptions=True)
        self._keep_images()

    async def _run(self, words: Words, streams: Streams) -> int:
        flags = parse("run", words, RUN, "IMAGE [COMMAND] [ARG...]", at_least=1)
        try:
            spec = self._spec_of(flags, streams)
        except DockerError as error:
            raise DockerError(125, explained("run", error.text)) from error
        await self._ensure_image(spec.image, streams, flags.one("pull", "missing"))
        try:
            container = self.containers.create(spec)
        except NameInUse as error:
            raise DockerError(
                125,
                explained(
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
                await streams.set_raw(spec.terminal is not None and not detached)
                await self.containers.start(container)
            except StartFailed as error:
                await streams.set_raw(False)
                if spec.auto_remove:
                    await self.containers.remove(container)
                raise DockerError(
                    error.code,
                    explained(
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
            await streams.join(_Foreground(container), stdin=spec.stdin)
            if spec.auto_remove:
                await container.removed.wait()
            return container.exit_code
        finally:
            await streams.set_raw(False)
            if not detached:
                container.attached.remove(streams.sink)

    def _spec_of(self, flags: Flags, streams: Streams) -> ContainerSpec:
        image, *args = flags.words
        check_image(image)
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
        if entry := flags.one("entrypoint"):
            entrypoint: tuple[str, ...] = (entry,)
        else:
            entrypoint = self._entrypoints.get(last_part(image), self.containers.engine.entrypoint)
        return ContainerSpec(
            name=name,
            image=image,
            entrypoint=entrypoint,
            args=tuple(args),
            environment=self._environment(flags),
            labels=dict(pair(label) for label in flags.all("label")),
            network=flags.one("network", "bridge"),
            workdir=flags.one("workdir"),
            restart=restart,
            restarts_at_most=int(count) if count.isdecimal() else 0,
            log_driver=flags.one("log-driver", "json-file"),
            log_options=dict(pair(option) for option in flags.all("log-opt")),
            auto_remove=flags.on("rm"),
            terminal=(streams.size or (80, 24)) if flags.on("tty") else None,
            stdin=flags.on("interactive") and not flags.on("detach"),
            privileged=flags.on("privileged"),
        )

    def _environment(self, flags: Flags) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in flags.all("env-file"):
            found |= environment_file(self._root, path)
        for assignment in flags.all("env"):
            name, equals, value = assignment.partition("=")
            if not name:
                raise DockerError(
                    125,
                    f'invalid argument "{assignment}" for "-e, --env" flag: '
                    f"invalid environment variable: {assignment}",
                )
            # Without a value the client's own variable would be taken; this client has none.
            if equals:
                found[name] = value
        return found

    async def _exec(self, words: Words, streams: Streams) -> int:
        flags = parse("exec", words, EXEC, "CONTAINER COMMAND [ARG...]", at_least=2)
        name, *argv = flags.words
        interactive = flags.on("interactive")
        if interactive and flags.on("tty") and streams.size is None:
            raise DockerError(
                1,
                "cannot attach stdin to a TTY-enabled container because stdin is not a terminal",
            )
        container = self.containers.find(name)
        if not container.running:
            raise DockerError(
                1, f"Error response from daemon: container {container.id} is not running"
            )
        try:
            environment = self._environment(flags)
        except DockerError as error:
            raise DockerError(error.code, explained("exec", error.text)) from error
        self._record("exec")
        detached = flags.on("detach")
        size = (streams.size or (80, 24)) if flags.on("tty") else None
        lost = False

        async def sink(stream: int, data: bytes) -> None:
            if not (lost or detached):
                await streams.sink(stream, data)

        async def execute() -> int:
            stdin = interactive and not detached
            task = await self.containers.execute(
                container,
                tuple(argv),
                sink,
                environment=environment,
                workdir=flags.one("workdir"),
                stdin=stdin,
                size=size,
            )
            return await streams.join(task, stdin=stdin)

        await streams.set_raw(size is not None and not detached)
        # A program that was executed lives on without the client that asked for it:
        # https://github.com/moby/moby/issues/9098
        executing = asyncio.create_task(execute())
        self._executions.add(executing)
        executing.add_done_callback(self._executed)
        if detached:
            return 0
        try:
            return await asyncio.shield(executing)
        except StartFailed as error:
            await streams.set_raw(False)
            raise DockerError(
                error.code,
                "OCI runtime exec failed: exec failed: unable to start container process: "
                f"{error.message}: unknown",
            ) from error
        except asyncio.CancelledError:
            lost = True
            raise
        finally:
            await streams.set_raw(False)

    def _executed(self, execution: asyncio.Task[int]) -> None:
        self._executions.discard(execution)
        if not execution.cancelled():
            # Nobody may be left to hear of a failure.
            execution.exception()

    # ---------------------------------------------------------------- looking

    async def _ps(self, words: Words, streams: Streams) -> int:
        flags = parse("ps", words, PS, "", at_most=0)
        shown = [c for c in self.containers if passes(c, flags)]
        if flags.one("last").isdecimal():
            shown = shown[: int(flags.one("last"))]
        if flags.on("latest"):
            shown = shown[:1]
        cut = not flags.on("no-trunc")
        rows = [row_of(container, cut) for container in shown]
        if flags.on("quiet"):
            await streams.out("".join(row["ID"] + "\n" for row in rows))
            return 0
        columns = {
            "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED",
            "Status": "STATUS", "Ports": "PORTS", "Names": "NAMES",
        }  # fmt: skip
        await print_rows(streams, rows, columns, flags.one("format"))
        return 0

    async def _image_list(self, words: Words, streams: Streams) -> int:
        flags = parse("images", words, IMAGES, "[REPOSITORY[:TAG]]", at_most=1)
        rows = []
        for image, pulled in self._images.items():
            name, _, digest = image.partition("@")
            repository, tag = name_and_tag(name)
            if flags.words and flags.words[0] not in (image, repository):
                continue
            rows.append(
                {
                    "ID": image_id(image)[7:19],
                    "Repository": repository,
                    "Tag": "<none>" if digest else tag,
                    "CreatedSince": f"{ago(pulled)} ago",
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
        await print_rows(streams, rows, columns, flags.one("format"))
        return 0

    async def _inspect(self, words: Words, streams: Streams) -> int:
        flags = parse("inspect", words, INSPECT, "NAME|ID [NAME|ID...]", at_least=1)
        template = flags.one("format")
        found, missing = [], []
        for name in flags.words:
            try:
                found.append(inspection(self.containers.find(name)))
            except NoSuchContainer:
                missing.append(name)
        if template and template != "json":
            for one in found:
                await streams.out(render(template, one) + "\n")
            if not found:
                await streams.out("\n")
        else:
            await streams.out(json.dumps(found, indent=4) + "\n")
        kind = "container" if flags.one("type") == "container" else "object"
        for name in missing:
            await streams.err(f"error: no such {kind}: {name}\n")
        return 1 if missing else 0

    async def _logs(self, words: Words, streams: Streams) -> int:
        flags = parse("logs", words, LOGS, "CONTAINER", at_least=1, at_most=1)
        container = self.containers.find(flags.words[0])
        tail = flags.one("tail", "all")
        since = moment_of(flags.one("since")) if flags.one("since") else None
        until = moment_of(flags.one("until")) if flags.one("until") else None
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
            stamp = f"{time_of(entry)} ".encode() if flags.on("timestamps") else b""
            await streams.sink(entry.stream, stamp + entry.data)
        return 0

    async def _wait(self, words: Words, streams: Streams) -> int:
        flags = parse("wait", words, {}, "CONTAINER [CONTAINER...]", at_least=1)
        for name in flags.words:
            container = self.containers.find(name)
            while container.running:
                await container.ended.wait()
            await streams.out(f"{container.exit_code}\n")
        return 0

    async def _version(self, words: Words, streams: Streams) -> int:
        flags = parse("version", words, {"format": "f="}, "", at_most=0)
        facts = {
            part: {"Version": VERSION, "ApiVersion": "1.51", "Os": "linux", "Arch": "amd64"}
            for part in ("Client", "Server")
        }
        if flags.one("format"):
            await streams.out(render(flags.one("format"), facts) + "\n")
            return 0
        for part, said in facts.items():
            await streams.out(f"{part}:\n")
            lines = (f" {name + ':':<19}{value}\n" for name, value in said.items())
            await streams.out("".join(lines))
        return 0

    async def _info(self, words: Words, streams: Streams) -> int:
        flags = parse("info", words, {"format": "f="}, "", at_most=0)
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
            await streams.out(render(template, facts) + "\n")
        else:
            await streams.out("".join(f" {name}: {value}\n" for name, value in facts.items()))
        return 0

    async def _stats(self, words: Words, streams: Streams) -> int:
        flags = parse("stats", words, STATS, "[CONTAINER...]")
        if not flags.on("no-stream"):
            raise DockerError(1, "docker stats without --no-stream is not emulated")
        wanted = [self.containers.find(name) for name in flags.words]
        shown = wanted or [c for c in self.containers if c.running]
        rows = [usage_row(container) for container in shown]
        columns = {
            "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %",
            "MemUsage": "MEM USAGE / LIMIT",
            "PIDs": "PIDS",
        }  # fmt: skip
        await print_rows(streams, rows, columns, flags.one("format"))
        return 0

    # ---------------------------------------------------------------- changing

    async def _stop(self, words: Words, streams: Streams) -> int:
        flags = parse("stop", words, STOP, "CONTAINER [CONTAINER...]", at_least=1)
        grace, first = grace_of(flags), signal_of(flags.one("signal", "TERM"))

        async def stop(container: Container) -> None:
            await self.containers.stop(container, grace=grace, first=first)

        return await self._each(flags.words, streams, stop)

    async def _kill(self, words: Words, streams: Streams) -> int:
        flags = parse("kill", words, {"signal": "s="}, "CONTAINER [CONTAINER...]", at_least=1)
        number = signal_of(flags.one("signal", "KILL"))

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
        flags = parse("rm", words, RM, "CONTAINER [CONTAINER...]", at_least=1)

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
        known = {"attach": "a", "interactive": "i"}
        flags = parse("start", words, known, "CONTAINER", at_least=1)
        if flags.on("attach") or flags.on("interactive"):
            raise DockerError(1, "docker start --attach is not emulated")
        return await self._each(flags.words, streams, self._start_one)

    async def _restart(self, words: Words, streams: Streams) -> int:
        flags = parse("restart", words, STOP, "CONTAINER [CONTAINER...]", at_least=1)

        async def restart(container: Container) -> None:
            first = signal_of(flags.one("signal", "TERM"))
            with _failing_to_start():
                await self.containers.restart(container, grace=grace_of(flags), first=first)

        return await self._each(flags.words, streams, restart)

    async def _start_one(self, container: Container) -> None:
        with _failing_to_start():
            await self.containers.start(container)

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
        flags = parse("pull", words, PULL, "NAME[:TAG|@DIGEST]", at_least=1, at_most=1)
        image = flags.words[0]
        try:
            check_image(image)
        except DockerError as error:
            raise DockerError(1, error.text) from error
        if refusal := await self._pull_image(image):
            raise DockerError(1, f"Error response from daemon: {refusal}")
        if not flags.on("quiet"):
            await streams.out(pull_report(image, digest_of(image)))
        await streams.out(image + "\n")
        return 0

    async def _ensure_image(self, image: str, streams: Streams, policy: str) -> None:
        if image in self._images and policy != "always":
            return
        if policy == "never":
            raise DockerError(
                125, explained("run", f"Error response from daemon: No such image: {image}")
            )
        if image not in self._images:
            await streams.err(f"Unable to find image '{image}' locally\n")
        if refusal := await self._pull_image(image):
            raise DockerError(125, explained("run", f"Error response from daemon: {refusal}"))
        await streams.err(pull_report(image, digest_of(image)))

    async def _pull_image(self, image: str) -> str | None:
        """Pull once, however many ask for it; a client that goes does not stop it.

        Returns why it failed; None when the image is there.
        """
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = asyncio.create_task(self._fetch_image(image))
            pull.add_done_callback(lambda _pull: self._pulls.pop(image, None))
        return await asyncio.shield(pull)

    async def _fetch_image(self, image: str) -> str | None:
        await asyncio.sleep(self._pull_seconds)
        refusal = await self._refusal(image) if self._refusal is not None else None
        if refusal is None and image not in self._images:
            self._images[image] = datetime.now(UTC)
        return refusal

    def _kept_images(self) -> dict[str, datetime]:
        if self._images_file is None:
            return {}
        with suppress(FileNotFoundError):
            kept = json.loads(self._images_file.read_text(encoding="utf-8"))
            return {image: datetime.fromisoformat(moment) for image, moment in kept.items()}
        return {}

    def _keep_images(self) -> None:
        if self._images_file is not None and self._images:
            kept = {image: moment.isoformat() for image, moment in self._images.items()}
            self._images_file.parent.mkdir(parents=True, exist_ok=True)
            self._images_file.write_text(json.dumps(kept), encoding="utf-8")


@contextmanager
def _failing_to_start() -> Iterator[None]:
    """Say as the daemon does that a container's program can't be started."""
    try:
        yield
    except StartFailed as error:
        raise DockerError(
            1, f"Error response from daemon: failed to create task for container: {error}"
        ) from error


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
