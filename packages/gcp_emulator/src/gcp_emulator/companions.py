"""Commands that live as long as the cloud: a tracking server beside it, for example.

A companion is told on the command line as ``NAME=COMMAND``; ``{port}`` in the command becomes a
free loopback port, ``{folder}`` the folder of its own. It inherits the cloud's environment and
the variables that lead to the cloud. It has a process group of its own, which is ended with the
cloud. A cloud that is killed (SIGKILL) can't end it: the next one in the same folder does, by a
mark in the environment that companions and containers inherit. Linux's PR_SET_PDEATHSIG is not
used for this: it would reach the first process only, not the workers that a server starts.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gcp_emulator.replies import Json

_MARK = "GCP_EMULATOR_CLOUD"
_KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """One command to run beside the cloud."""

    name: str
    command: str


@dataclass(eq=False, slots=True, kw_only=True)
class Running:
    """A companion that was started."""

    url: str
    pid: int
    process: asyncio.subprocess.Process
    log: Path


@dataclass(eq=False, slots=True, kw_only=True)
class Companions:
    """All companions of a cloud.

    Attributes:
        folder: The cloud's folder; each companion gets ``companions/NAME`` in it, and its output
            goes to ``companions/NAME.log``.
    """

    folder: Path
    running: dict[str, Running] = field(default_factory=dict)

    async def start(self, companion: Companion, environment: Mapping[str, str]) -> None:
        """Start one.

        Raises:
            OSError: The command does not exist or can't be executed.
        """
        home = self.folder / "companions" / companion.name
        home.mkdir(parents=True, exist_ok=True)
        log = home.with_name(f"{companion.name}.log")
        # The same as last time if it can be: addresses that were written down stay true.
        memory = home.with_name(f"{companion.name}.port")
        last = memory.read_text().strip() if memory.exists() else ""
        port = str(_free_port(int(last) if last.isdecimal() else 0))
        memory.write_text(port)
        words = [
            word.replace("{port}", port).replace("{folder}", str(home))
            for word in shlex.split(companion.command)
        ]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=home,
                env={**os.environ, **environment, **mark(self.folder)},
                start_new_session=True,
            )
        self.running[companion.name] = Running(
            url=f"http://127.0.0.1:{port}", pid=process.pid, process=process, log=log
        )

    async def stop(self) -> None:
        """End all of them with their process groups: SIGTERM, then SIGKILL after 5 seconds."""
        await asyncio.gather(*(_end(one.process) for one in self.running.values()))
        self.running.clear()
        await asyncio.to_thread(end_left_over, self.folder)

    def to_json(self) -> Json:
        """As ``cloud.json`` tells of them."""
        return {name: {"url": one.url, "pid": one.pid} for name, one in self.running.items()}


def parse_companion(text: str) -> Companion:
    """A companion from ``NAME=COMMAND``.

    Raises:
        ValueError: It is none; the message says why.
    """
    name, sign, command = text.partition("=")
    if not sign or not re.fullmatch(r"[a-z][-a-z0-9]{0,30}", name):
        raise ValueError(f"companion {text!r}: NAME=COMMAND is needed, NAME in lowercase")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"companion {name!r}: {error}") from error
    if not words:
        raise ValueError(f"companion {name!r} has no command")
    return Companion(name=name, command=command)


def mark(folder: Path) -> dict[str, str]:
    """The variable by which everything that a cloud starts is known for its folder's."""
    return {_MARK: str(folder.resolve())}


def end_left_over(folder: Path) -> list[int]:
    """Kill what a cloud of this folder, now gone, has started; the pids that were killed.

    Call it only with the folder's lock, or at the end of the cloud itself.
    """
    ((name, value),) = mark(folder).items()
    wanted = f"{name}={value}".encode()
    killed = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _KILL_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    # Workers may outlive the first process of their group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port(wanted: int) -> int:
    """The wanted port if it is free, else another; 0 wants any."""
    with socket.socket() as probe:
        # Connections that have just ended leave the port in TIME_WAIT, which hinders no server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted if wanted < 65536 else 0))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
