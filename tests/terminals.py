"""A shell in a real terminal (tmux): it is typed into, and what it shows is read."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_PROMPT: Final = "ready>"
# What a program may have switched on in its terminal, as tmux calls it.
_SWITCHES: Final = (
    "alternate_on",
    "cursor_flag",
    "insert_flag",
    "keypad_cursor_flag",
    "keypad_flag",
    "mouse_any_flag",
    "mouse_all_flag",
    "mouse_button_flag",
    "mouse_sgr_flag",
    "mouse_standard_flag",
    "mouse_utf8_flag",
    "origin_flag",
    "pane_title",
    "scroll_region_lower",
    "scroll_region_upper",
    "wrap_flag",
)


class Tmux:
    """A bash in a terminal of 80 x 24, on a tmux server of its own; see `shell`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._server = ("tmux", "-L", f"sinergym-{os.getpid()}-{time.monotonic_ns()}")
        # What surrounds the tests is none of the shell's business: a terminal that they run in.
        outer = {"TMUX", "TMUX_PANE", "COLUMNS", "LINES"}
        self._environment = {k: v for k, v in environment.items() if k not in outer}
        size = ("-x", "80", "-y", "24", "-c", str(folder))
        prompt = ("env", f"PS1={_PROMPT} ", "bash", "--norc", "--noprofile")
        self._run("-f", "/dev/null", "new-session", "-d", *size, *prompt)
        self.until(_PROMPT)

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type text as it is."""
        self._run("send-keys", "-l", text)

    def enter(self, line: str) -> None:
        """Type a line, and Enter."""
        self.type(line)
        self.press("Enter")

    def resize(self, width: int, height: int) -> None:
        """Make the terminal larger or smaller."""
        self._run("resize-window", "-x", str(width), "-y", str(height))

    @property
    def screen(self) -> str:
        """What can be seen."""
        return self._run("capture-pane", "-p")

    @property
    def lines(self) -> list[str]:
        """The lines that are not empty."""
        return [line.rstrip() for line in self.screen.splitlines() if line.strip()]

    @property
    def switches(self) -> dict[str, str]:
        """How the terminal is switched, but for what the kernel knows: see `stty`."""
        asked = "\n".join(f"{name}=#{{{name}}}" for name in _SWITCHES)
        told = self._run("display-message", "-p", asked).splitlines()
        return dict(line.split("=", 1) for line in told)

    @property
    def stty(self) -> str:
        """How the kernel's side of the terminal is set."""
        device = self._run("display-message", "-p", "#{pane_tty}").strip()
        ran = subprocess.run(
            ["stty", "-a", "-F", device], check=True, capture_output=True, text=True, timeout=20
        )
        return ran.stdout

    @property
    def children(self) -> list[int]:
        """The processes that the shell has started."""
        shell = self._run("display-message", "-p", "#{pane_pid}").strip()
        return [
            int(pid) for pid in Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        ]

    def until(self, *texts: str, seconds: float = 40) -> str:
        """Wait until all of these can be seen; returns what is seen then."""
        return self.until_so(lambda seen: all(text in seen for text in texts), texts, seconds)

    def until_so(
        self, condition: Callable[[str], object], what: object, seconds: float = 40
    ) -> str:
        """Wait until what is seen is so; returns it."""
        deadline = time.monotonic() + seconds
        while not condition(seen := self.screen):
            assert time.monotonic() < deadline, f"{what}\n{seen}"
            time.sleep(0.1)
        return seen

    def until_prompt(self) -> None:
        """Wait until the shell is there again."""
        self.until_so(lambda seen: seen.rstrip().endswith(_PROMPT), "the shell's prompt")

    def end(self) -> None:
        """End the server, and all in it."""
        self._run("kill-server")

    def _run(self, *words: str) -> str:
        ran = subprocess.run(
            [*self._server, *words],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
            env=self._environment,
        )
        return ran.stdout


@contextmanager
def shell(folder: Path, environment: Mapping[str, str]) -> Iterator[Tmux]:
    """A shell in this folder; it ends with the block, and so does all in it."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    shown = Tmux(folder, environment)
    try:
        yield shown
    finally:
        shown.end()
