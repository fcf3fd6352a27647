"""Real runners at a tenth of their price: forked from a process that has imported everything.

A container's entry point is a small program (`entry_point`) that hands its descriptors, its
environment and its folder to a server, and lives as long as the runner does. The server forks, and
the child is `sinergym-runner`: `supervise` and all below it, unchanged. SIGTERM is passed on; when
the entry point is killed, so is the runner, as PID 1's end takes a container's processes with it.

A VM's clock may be wrong: `CHAOS_SKEW` seconds are added to that of every second container.
"""

import array
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_SOCKET: Final = "CHAOS_ZYGOTE"

_ENTRY_POINT: Final = '''\
#!{python} -ISE
"""The first process of a container: the runner's stand-in towards the engine."""
import array, json, os, signal, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(os.environ["CHAOS_ZYGOTE"])
said = json.dumps([dict(os.environ), os.getcwd(), sys.argv[1:]]).encode()
ours = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
line.sendmsg([len(said).to_bytes(4)], [ours])
line.sendall(said)
signal.signal(signal.SIGTERM, lambda *_: line.send(b"T"))
signal.signal(signal.SIGINT, lambda *_: line.send(b"T"))
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
answer = line.recv(1)
os._exit(answer[0] if answer else 137)
'''


def entry_point(folder: Path) -> Path:
    """Write the entry point; the server's address is in the environment of who runs it."""
    path = folder / "chaos-runner"
    path.write_text(_ENTRY_POINT.replace("{python}", sys.executable))
    path.chmod(0o755)
    return path


def main() -> None:
    """Serve at `$CHAOS_ZYGOTE` until standard input ends."""
    _import_all()
    address = os.environ[_SOCKET]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(256)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _Server(listener).serve()


def _import_all() -> None:
    """What a runner imports in its life: it would take each of them half a second."""
    import google.auth.compute_engine._metadata
    import google.auth.transport.requests
    import google.cloud.monitoring_v3
    import google.cloud.storage  # noqa: F401
    import time_machine  # noqa: F401

    import sinergym_trainer.runner.supervisor  # noqa: F401


class _Server:
    """One connection for each container."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._lines: dict[int, socket.socket] = {}
        self._count = 0

    def serve(self) -> None:
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for what in (self._listener, woken, sys.stdin):
            self._selector.register(what, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    self._kill_all()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is woken:
                    woken.recv(4096)
                    self._reap()
                else:
                    self._hear(int(key.data))

    def _accept(self) -> None:
        line, _ = self._listener.accept()
        size, ancillary, _, _ = line.recvmsg(4, socket.CMSG_SPACE(3 * 4))
        fds = array.array("i")
        for _, _, sent in ancillary:
            fds.frombytes(sent)
        said = b""
        while len(said) < int.from_bytes(size):
            said += line.recv(1 << 16)
        self._count += 1
        pid = os.fork()
        if pid == 0:
            for other in (*self._lines.values(), line, self._listener):
                other.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            environment, folder, words = json.loads(said)
            _be_a_runner(environment, folder, words, list(fds), self._count)
        for fd in fds:
            os.close(fd)
        self._lines[pid] = line
        self._selector.register(line, selectors.EVENT_READ, pid)

    def _hear(self, pid: int) -> None:
        line = self._lines[pid]
        try:
            letter = line.recv(1)
        except OSError:
            letter = b""
        if letter == b"T":
            os.kill(pid, signal.SIGTERM)
            return
        self._selector.unregister(line)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            line = self._lines.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            with suppress(OSError):
                line.send(bytes([code if code >= 0 else 128 - code]))
            with suppress(KeyError):
                self._selector.unregister(line)
            line.close()

    def _kill_all(self) -> None:
        for pid in self._lines:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _be_a_runner(
    environment: dict[str, str], folder: str, words: list[str], fds: list[int], number: int
) -> None:
    """Never returns: this process is the runner of a container from here on."""
    code = 70
    try:
        os.setsid()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
            os.close(fd)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        # It has read at its import where the metadata server is: another one for each VM.
        importlib.reload(sys.modules["google.auth.compute_engine._metadata"])
        skew = float(environment.get("CHAOS_SKEW", "0"))
        if skew and number % 2:
            import datetime

            import time_machine

            now = datetime.datetime.now(datetime.UTC)
            time_machine.travel(now + datetime.timedelta(seconds=skew), tick=True).start()
        from sinergym_trainer.runner.supervisor import supervise

        code = supervise(environment)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
