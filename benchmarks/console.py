"""The console on a terminal of 160 x 48: how soon it is there, and what it costs while it runs.

The clouds that it looks at only repeat what an emulator has answered (`still_cloud`): their cost
is not measured, that of Google's clients in the console is.
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.clouds import BIN, OwnCloud, clean_environment

from benchmarks.figures import Figure, show
from gcloud_ops import launching, sweeps, templates
from gcloud_ops.bucket import replace_record
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, timestamp
from gcloud_ops.model import Observation, Sweep

SECONDS = float(os.environ.get("BENCH_CONSOLE_SECONDS", "60"))
"""How long the log grows; the other parts take a third of it each."""

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78])")
_TICK = os.sysconf("SC_CLK_TCK")


def main() -> list[Figure]:
    """Measure all of it."""
    figures = _first_paint()
    with _cloud() as cloud:
        figures += _many(cloud)
        figures += _quiet(cloud)
    figures += _log()
    return show("the console, on a terminal of 160 x 48", figures)


# ----------------------------------------------------------------------------- parts


def _first_paint() -> list[Figure]:
    nowhere = ["--project", "nowhere", "--endpoint", "http://127.0.0.1:9"]

    def once() -> float:
        begin = time.perf_counter()
        with _terminal([str(BIN / "sinergym-tui"), *nowhere]) as shown:
            shown.until(lambda text: b"Quit" in text, "the first paint")
            return time.perf_counter() - begin

    once()
    code = (
        "import sys\n"
        "from sinergym_tui.app import Console\n"
        "heavy = ('google', 'asyncssh', 'numpy', 'requests', 'grpc', 'torch')\n"
        "def connect(tell):\n"
        "    there = {name.split('.')[0] for name in sys.modules}\n"
        "    print('before:', *there & set(heavy), file=sys.stderr)\n"
        "    raise OSError\n"
        "import asyncio\n"
        "async def run():\n"
        "    async with Console(connect).run_test() as pilot:\n"
        "        await pilot.pause(0.5)\n"
        "asyncio.run(run())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    return [
        Figure(
            what="process start -> first paint (median of 7)",
            value=statistics.median(once() for _ in range(7)),
            unit="s",
            limit=0.8,
            baseline=_import_seconds("textual.app"),
            baseline_is="import textual.app",
        ),
        Figure(
            what="of Google, SSH and numpy imported before it",
            value=len(re.findall(r"before:(.*)", ran.stderr)[0].split()),
            unit="",
            limit=0,
        ),
    ]


def _many(cloud: str) -> list[Figure]:
    with _console(cloud, "busy") as shown:
        shown.until(lambda text: b"busy" in text, "the sweeps")
        shown.press(b"\r")
        shown.until(lambda text: "sweeps › busy".encode() in text, "its experiments")
        time.sleep(4)
        cpu = shown.cpu_share(SECONDS / 6)
        took = []
        at = 1
        deadline = time.monotonic() + SECONDS / 3
        while time.monotonic() < deadline:
            at += 1
            wanted = f"▸ busy-{at:04d}".encode()
            took.append(shown.answer(b"j", wanted))
            time.sleep(0.05)
        busy = shown.cpu_share(SECONDS / 6)
    return [
        Figure(
            what="1,000 changing: key -> painted, 95th percentile",
            value=statistics.quantiles(took, n=20)[-1] * 1000,
            unit="ms",
            limit=50,
        ),
        Figure(
            what="1,000 changing: key -> painted, median",
            value=statistics.median(took) * 1000,
            unit="ms",
        ),
        Figure(
            what="1,000 changing: share of one core",
            value=max(cpu, busy) * 100,
            unit="%",
            limit=40,
        ),
    ]


def _quiet(cloud: str) -> list[Figure]:
    with _console(cloud, "quiet") as shown:
        shown.until(lambda text: b"quiet" in text, "the sweeps")
        shown.press(b"\r")
        shown.until(lambda text: "sweeps › quiet".encode() in text, "its experiments")
        time.sleep(4)
        share = shown.cpu_share(SECONDS / 3)
    return [Figure(what="100 quiet: share of one core", value=share * 100, unit="%", limit=3)]


def _log() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return _log_of(Path(folder) / "count")


def _log_of(count: Path) -> list[Figure]:
    stream = [sys.executable, "-m", "benchmarks.log_stream"]
    with _terminal(stream, LOG_COUNT=str(count)) as shown:
        shown.until(lambda text: b"following" in text, "the logs")
        time.sleep(2)
        first, begin = shown.lines_accepted(count), time.monotonic()
        early = shown.memory()
        took = []
        while time.monotonic() - begin < SECONDS:
            took.append(shown.answer(b"f", b"paused"))
            time.sleep(0.2)
            took.append(shown.answer(b"f", b"following"))
            time.sleep(0.8)
        lines = shown.lines_accepted(count) - first
        seconds = time.monotonic() - begin
        cpu = shown.cpu_share(3)
        late = shown.memory()
    return [
        Figure(
            what="log: lines accepted a second", value=lines / seconds, unit="", at_least=20_000
        ),
        Figure(
            what="log: key -> painted, 95th percentile",
            value=statistics.quantiles(took, n=20)[-1] * 1000,
            unit="ms",
            limit=100,
        ),
        Figure(what="log: share of one core", value=cpu * 100, unit="%"),
        Figure(
            what="log: memory at its end",
            value=late,
            unit="MB",
            limit=250,
            baseline=early,
            baseline_is="at its begin",
        ),
    ]


# --------------------------------------------------------------------------- terminal


class _Terminal:
    """A process on a terminal, whose output is read all the time."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self._process = process
        self._output = bytearray()
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def until(self, condition: Callable[[bytes], bool], what: str, seconds: float = 30) -> None:
        """Wait until what was written so far is so."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not condition(_SEQUENCE.sub(b"", bytes(self._output))):
                if not self._news.wait(deadline - time.monotonic()):
                    text = _SEQUENCE.sub(b"", bytes(self._output[-6000:]))
                    said = text.decode(errors="replace")[-1500:]
                    raise SystemExit(f"{what}: not within {seconds:.0f} s: {said}")

    def answer(self, key: bytes, wanted: bytes) -> float:
        """Seconds from a key to what it shows."""
        with self._news:
            self._output.clear()
        begin = time.perf_counter()
        self.press(key)
        self.until(lambda text: wanted in text, wanted.decode())
        return time.perf_counter() - begin

    def cpu_share(self, seconds: float) -> float:
        """The share of one core that the process takes, over some seconds."""
        before, begin = self._cpu(), time.monotonic()
        time.sleep(seconds)
        return (self._cpu() - before) / (time.monotonic() - begin)

    def memory(self) -> float:
        """What it holds, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000  # type: ignore[index]

    def lines_accepted(self, count: Path) -> int:
        """How many lines of log the screen has taken; `count` is what the process has as such."""
        count.unlink(missing_ok=True)
        self.press(b"\x1b[20~")  # F9
        deadline = time.monotonic() + 10
        while not count.exists():
            if time.monotonic() > deadline:
                raise SystemExit("no count of lines")
            time.sleep(0.005)
        return int(count.read_text())

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                select.select([self._master], [], [])
                piece = os.read(self._master, 1 << 16)
                if not piece:
                    return
                with self._news:
                    self._output += piece
                    del self._output[: -(1 << 20)]
                    self._news.notify_all()


@contextlib.contextmanager
def _terminal(command: list[str], **environment: str) -> Iterator[_Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 48, 160, 0, 0))
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={
                **clean_environment(),
                "TERM": "xterm-256color",
                "COLORTERM": "truecolor",
                "HOME": folder,
                "XDG_CONFIG_HOME": folder,
                **environment,
            },
            start_new_session=True,
        )
        os.close(slave)
        try:
            yield _Terminal(master, process)
        finally:
            process.kill()
            process.wait(10)
            os.close(master)


def _console(cloud: str, sweep: str) -> contextlib.AbstractContextManager[_Terminal]:
    flags = ["--project", "local", "--endpoint", cloud, "--bucket", f"b-{sweep}", "--read-only"]
    return _terminal([str(BIN / "sinergym-tui"), *flags])


# ----------------------------------------------------------------------------- clouds


@contextlib.contextmanager
def _cloud() -> Iterator[str]:
    """A cloud with a sweep of 1,000 and one of 100, each in a bucket of its own, that repeats."""
    with tempfile.TemporaryDirectory() as folder:
        environment = clean_environment() | {
            "HOME": folder,
            "XDG_CONFIG_HOME": folder,
            "PATH": f"{BIN}:/usr/bin:/bin",
        }
        home = Path(folder) / "cloud"
        home.mkdir()
        cloud = OwnCloud(home, environment, "--boot-seconds", "0.1", "--pull-seconds", "0.1")
        still = None
        try:
            for name, count in (("quiet", 100), ("busy", 1000)):
                settings = replace(cloud.settings, bucket=f"b-{name}")
                _launch(Clients.connect(settings), name, count)
            still = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.still_cloud", cloud.endpoint],
                stdout=subprocess.PIPE,
                text=True,
            )
            yield (still.stdout or sys.stdin).readline().strip()
        finally:
            if still is not None:
                still.kill()
                still.wait(10)
            cloud.stop()


def _launch(clients: Clients, name: str, count: int) -> None:
    if name == "quiet":
        spec = templates.TemplateSpec(name="sinergym-template", image="local/s/trainer")
        templates.create_template(clients, spec)
    sweep = Sweep.of_commands(name, [f"train --seed {number}" for number in range(count)])
    sweep = replace(sweep, dispatch=Dispatch.BOOT)
    list(launching.launch(launching.plan(sweep, clients), clients))
    deadline = time.monotonic() + 120
    while sum(row.member is not None and row.member.is_up for row in _seen(clients, name)) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{name}: not all VMs came up")
        time.sleep(1)
    rows = _seen(clients, name)

    def write(row: Observation) -> None:
        now = timestamp(datetime.now(UTC))
        content = {
            "schema": 1,
            "sweep": name,
            "experiment": row.id,
            "attempt": 1,
            "state": "running",
            "instance": row.id,
            "instance_id": row.member.id if row.member else "",
            "started": now,
            "updated": now,
            "progress": {"episode": 1, "episodes": 9, "mean_reward": -212.5},
        }
        replace_record(clients, clients.settings.bucket_name, name, row.id, content, generation=0)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, rows))


def _seen(clients: Clients, name: str) -> tuple[Observation, ...]:
    return sweeps.status(name, clients).rows


def _import_seconds(module: str) -> float:
    def once() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - begin

    once()
    return statistics.median(once() for _ in range(5))


if __name__ == "__main__":
    main()
