"""The console in a real terminal (tmux), by keys alone; one goes on where another was killed."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcloud_ops import sweeps
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings

from .conftest import write_record
from .test_terminal import flags

COMMAND = str(Path(sys.executable).with_name("sinergym-tui"))


class Tmux:
    """A shell in a terminal of 80 x 24, on a tmux server of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._server = ("tmux", "-L", f"sinergym-{folder.name}-{time.monotonic_ns()}")
        variables = [f"{name}={value}" for name, value in environment.items()]
        shell = ("env", *variables, "PS1=ready> ", "bash", "--norc", "--noprofile")
        size = ("-x", "80", "-y", "24", "-c", str(folder))
        self._run("-f", "/dev/null", "new-session", "-d", *size, *shell)
        self.until("ready>")

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type text as it is."""
        self._run("send-keys", "-l", text)

    @property
    def screen(self) -> str:
        """What can be seen."""
        return self._run("capture-pane", "-p")

    def until(self, *texts: str, seconds: float = 40) -> None:
        """Wait until all of these can be seen."""
        deadline = time.monotonic() + seconds
        while not all(text in (seen := self.screen) for text in texts):
            assert time.monotonic() < deadline, f"{texts}\n{seen}"
            time.sleep(0.1)

    def until_settled(self) -> None:
        """Wait until nothing changes for half a second: a list is read and has the focus."""
        deadline, seen, since = time.monotonic() + 20, "", time.monotonic()
        while time.monotonic() - since < 0.5:
            assert time.monotonic() < deadline, seen
            now = self.screen
            if now != seen:
                seen, since = now, time.monotonic()
            time.sleep(0.1)

    def pane(self, variable: str) -> str:
        """What tmux knows of the terminal."""
        return self._run("display-message", "-p", f"#{{{variable}}}").strip()

    def end(self) -> None:
        """End the server, and all in it."""
        self._run("kill-server")

    def _run(self, *words: str) -> str:
        ran = subprocess.run(
            [*self._server, *words], check=True, capture_output=True, text=True, timeout=20
        )
        return ran.stdout


@pytest.fixture
def tmux(settings: Settings, tmp_path: Path) -> Iterator[Tmux]:
    """A terminal."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    shown = Tmux(tmp_path, {"GCLOUD_OPS_SSH_PORT": str(settings.ssh_port)})
    try:
        yield shown
    finally:
        shown.end()


@pytest.mark.slow
def test_a_sweep_is_launched_killed_and_read_in_a_terminal(
    tmux: Tmux, settings: Settings, clients: Clients, tmp_path: Path
) -> None:
    """Launch by keys, kill the console, go on in another, read a log, leave a clean terminal."""
    text = "name: typed\ndispatch: ssh\nexperiments:\n  - echo one\n  - echo two\n"
    (tmp_path / "typed.yaml").write_text(text)
    command = " ".join([COMMAND, *flags(settings)])
    tmux.type(command)
    tmux.press("Enter")
    tmux.until("no sweeps yet")
    tmux.press("l")
    tmux.until("Launch a sweep")
    tmux.press("C-o")
    tmux.until("Open a sweep file", "typed.yaml")
    tmux.until_settled()
    tmux.press("Tab")
    tmux.type("typed.yaml")
    tmux.press("Enter")
    tmux.until("dispatch: ssh")
    tmux.until("2 VMs")
    tmux.press("C-l")
    tmux.until("Launch sweep typed?")
    tmux.press("Tab", "Enter")
    tmux.until("▸ typed")

    console = tmux.pane("pane_pid")
    children = Path(f"/proc/{console}/task/{console}/children").read_text().split()
    subprocess.run(["kill", "-KILL", *children], check=True)
    tmux.until("Killed")
    tmux.type("stty sane; reset -I; clear; echo cle''ared")
    tmux.press("Enter")
    tmux.until("cleared")
    tmux.type(command)
    tmux.press("Enter")
    tmux.until("▸ typed", "R Resume")
    tmux.press("R")
    tmux.until("Go on with the launch of sweep typed?")
    tmux.press("Tab", "Enter")
    tmux.until("launched: ")
    tmux.press("Enter")
    tmux.until("sweeps › typed", "typed-0002")
    for number in (1, 2):
        write_record(clients, "typed", number, state="running", progress={"episode": 1})
    tmux.until("▶ running")
    tmux.press("o")
    tmux.until("typed-0001 › log", "submit -- 'echo one'")
    tmux.press("q")
    tmux.until("ready>")

    assert tmux.pane("alternate_on") == "0"
    assert tmux.pane("mouse_any_flag") == "0"
    tmux.type("echo clean-$?")
    tmux.press("Enter")
    tmux.until("clean-0")
    assert sweeps.status("typed", clients).group_exists
