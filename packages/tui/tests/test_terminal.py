"""The command in a real terminal (a pseudo-terminal): every byte that reaches it is looked at."""

import contextlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings

from .conftest import launch, write_log, write_record

COMMAND = str(Path(sys.executable).with_name("sinergym-tui"))


class Terminal:
    """A process on a pseudo-terminal of its own, and all that it has written there."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.output = b""

    def until(self, condition: Callable[[bytes], bool], what: str, seconds: float = 20) -> None:
        """Read until the output is so."""
        deadline = time.monotonic() + seconds
        while not condition(self.output):
            assert time.monotonic() < deadline, f"{what}: {self.output[-2000:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self._master, 65536)
                except OSError:  # the process has ended
                    assert condition(self.output), f"{what}: {self.output[-2000:]!r}"

    def read_on(self) -> None:
        """Read what is left there by a process that has ended."""
        with contextlib.suppress(OSError):  # that is how a terminal without processes ends
            while more := os.read(self._master, 65536):
                self.output += more

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)


@contextlib.contextmanager
def terminal(*arguments: str, **environment: str) -> Iterator[Terminal]:
    """`sinergym-tui` on a terminal of 100 x 30."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait(10)
        os.close(master)


def left_on(output: bytes) -> set[bytes]:
    """The modes that a program has changed in its terminal and not changed back.

    Those of DEC (`CSI ? n h` and `l`), https://invisible-island.net/xterm/ctlseqs/ctlseqs.html,
    and kitty's of the keyboard (`CSI > n u`, `CSI < u`).
    """
    at_first = {b"7": True, b"25": True}  # lines wrap, the cursor is shown
    now = dict(at_first)
    for modes, switch in re.findall(rb"\x1b\[\?([\d;]+)([hl])", output):
        now |= dict.fromkeys(modes.split(b";"), switch == b"h")
    keyboards = len(re.findall(rb"\x1b\[>\d*u", output)) - len(re.findall(rb"\x1b\[<\d*u", output))
    changed = {mode for mode, is_on in now.items() if is_on != at_first.get(mode, False)}
    return changed | ({b"keyboard"} if keyboards else set())


def flags(settings: Settings) -> list[str]:
    """The command's flags for these settings."""
    return [
        *("--project", settings.project),
        *("--zone", settings.zone),
        *("--bucket", settings.bucket_name),
        *("--endpoint", settings.endpoint or ""),
    ]


@pytest.mark.slow
def test_hostile_output_reaches_no_terminal(settings: Settings, clients: Clients) -> None:
    """No clipboard, title, link or erase sequence of a container's; the terminal is left clean."""
    launch(clients, "tty", 1)
    evil = b"\x1b]52;c;aGVsbG8=\x07\x1b]0;evil title\x07\x1b[2J\x9b2J\x1b]8;;http://evil\x1b\\x"
    end = {"code": 1, "signal": None, "kind": "error", "hint": evil.decode("latin-1")}
    write_record(clients, "tty", 1, state="failed", exit=end)
    write_log(clients, "tty", 1, 0, evil + b"\nthe last line\n")

    ssh = {"GCLOUD_OPS_SSH_PORT": str(settings.ssh_port)}
    with terminal(*flags(settings), NO_COLOR="1", **ssh) as shown:
        shown.until(lambda text: b"tty" in text and b"failed" in text, "the sweep")
        shown.press(b"\r")
        shown.until(lambda text: b"tty-0001" in text, "the experiment")
        shown.press(b"o")
        shown.until(lambda text: b"the last line" in text, "the log")
        shown.press(b"q")
        shown.until(lambda text: b"\x1b[?1049l" in text, "the terminal is given back")
        assert shown.process.wait(10) == 0
        shown.read_on()
        assert left_on(shown.output) == set()
        for sequence in (b"\x1b]52", b"\x1b]0;evil", b"\x1b[2J\x9b", b"\x9b2J", b"\x1b]8;;http"):
            assert sequence not in shown.output


@pytest.mark.parametrize("keys", [b"q", b"\x11"], ids=["q", "ctrl+q"])
def test_leaving_waits_for_no_cloud(keys: bytes) -> None:
    """A cloud that doesn't answer holds up neither the first paint nor the end."""
    with terminal("--project", "nowhere", "--endpoint", "http://127.0.0.1:9") as shown:
        shown.until(lambda text: b"sweeps" in text and b"Quit" in text, "the first paint")
        shown.press(keys)
        assert shown.process.wait(10) == 0
        shown.read_on()
        assert left_on(shown.output) == set()


def test_told_to_end_it_gives_the_terminal_back() -> None:
    """SIGTERM, as when a session ends: no mouse reporting in the shell, no hidden cursor."""
    with terminal("--project", "nowhere", "--endpoint", "http://127.0.0.1:9") as shown:
        shown.until(lambda text: b"sweeps" in text and b"Quit" in text, "the first paint")
        assert b"1003" in left_on(shown.output)
        shown.process.terminate()
        assert shown.process.wait(10) == 128 + signal.SIGTERM
        shown.read_on()
        assert left_on(shown.output) == set()


def test_a_wrong_flag_is_said_in_one_line_before_the_screen() -> None:
    """Exit code 2, the field's name, no screen."""
    ran = subprocess.run(
        [COMMAND, "--zone", "nowhere"], capture_output=True, text=True, check=False, timeout=60
    )

    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "zone" in ran.stderr
    assert ran.stderr.count("\n") == 1
