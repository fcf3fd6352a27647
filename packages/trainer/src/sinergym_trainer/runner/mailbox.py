"""Where the waiting runner and `sinergym-runner submit` meet: a folder in the working directory.

`.sinergym-runner/` holds

- `lock`     locked (flock) by the runner for its life: one runner in a folder;
- `pid`      its process id, locked too; replaced as a whole, so whoever finds it locked finds a
             runner that has cleaned up after its predecessor and looks at the letter below;
- `command`  the letter: JSON, made by linking a complete file to the name, which only one can.

The runner closes the mailbox with the same exclusive link: a command that was accepted is never
lost, and after the runner's patience has ended none is accepted.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(".sinergym-runner")

ACCEPTED = 0
OCCUPIED = 3
NOBODY = 4


class Occupied(Exception):
    """Another runner lives in this folder."""


class Mailbox:
    """The runner's side; made once, it holds the locks until the process ends.

    Raises:
        Occupied: another runner holds the locks.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Occupied(f"another runner is at work in {folder.absolute()}") from None
        (folder / "command").unlink(missing_ok=True)
        # Locked before it has its name: nobody sees it without its lock or its content.
        fresh = folder / "pid.new"
        fresh.unlink(missing_ok=True)
        self._pid = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._pid, fcntl.LOCK_EX)
        os.write(self._pid, str(os.getpid()).encode())
        fresh.replace(folder / "pid")

    def take(self) -> str | None:
        """Return the command that has been submitted, or None."""
        return _read(self.folder).get("command")

    def publish(self, command: str) -> bool:
        """Put a command in, as `submit` does; False when another letter is there already."""
        return _link(self.folder, {"command": command}) or self.take() == command

    def shut(self, reason: str) -> bool:
        """Accept no command from now on; False when one has come just before."""
        return _link(self.folder, {"shut": reason}) or self.take() is None


def submit(command: str, folder: Path = FOLDER) -> tuple[int, str]:
    """Hand a command to the runner that waits in this working directory.

    Returns:
        The exit code (`ACCEPTED`, `OCCUPIED` or `NOBODY`) and one line that explains it.
    """
    nobody = f"no runner is waiting in {folder.absolute()}"
    with _opened(folder / "pid") as pid:
        if pid is None or not _is_locked(pid):
            return NOBODY, nobody
        try:
            first = _link(folder, {"command": command})
            letter = _read(folder)
        except PermissionError as error:
            return NOBODY, f"this user may not write there: {error}"
        if "shut" in letter:
            return NOBODY, f"{nobody} any more: {letter['shut']}"
        # Ours may lie there unread, from a runner that died after the first look.
        if not _is_locked(pid):
            return NOBODY, f"{nobody} any more: it ended just now"
        if first:
            return ACCEPTED, "accepted"
        if letter.get("command") == command:
            return ACCEPTED, "accepted before: the same command"
        return OCCUPIED, "refused: another command has been submitted here already"


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _link(folder: Path, letter: dict[str, str]) -> bool:
    fresh = folder / f"letter.{os.getpid()}.{os.urandom(4).hex()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Escaped, any text of argv can be written, surrogates for odd bytes included.
            file.write(json.dumps(letter).encode("ascii"))
        (folder / "command").hardlink_to(fresh)
    except FileExistsError:
        return False
    finally:
        fresh.unlink()
    return True


def _read(folder: Path) -> dict[str, str]:
    try:
        letter = json.loads((folder / "command").read_bytes())
    except FileNotFoundError:
        return {}
    return letter if isinstance(letter, dict) else {}
