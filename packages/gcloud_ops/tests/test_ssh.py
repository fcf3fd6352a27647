"""SSH over loopback: to servers of the test's own, and to instances of the local cloud."""

import asyncio
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncssh
import pytest

from gcloud_ops import groups, instances, ssh
from gcloud_ops.clients import Clients
from gcloud_ops.errors import (
    ContainerFailed,
    HostKeyMismatch,
    InvalidRequest,
    PermissionDenied,
    Unavailable,
)
from gcloud_ops.model import Instance
from gcloud_ops.settings import Settings

from .conftest import eventually

type Session = Callable[[asyncssh.SSHServerProcess[str]], Awaitable[None]]


@dataclass(frozen=True)
class Host:
    """An SSH server of the test's own."""

    settings: Settings
    keys: tuple[str, ...]

    def connect(
        self, *, keys: tuple[str, ...] | None = None, timeout: float = 5.0
    ) -> AbstractAsyncContextManager[ssh.Connection]:
        """Connect to it as instance `quick-0001`."""
        return ssh.connect(
            "127.0.0.1",
            "quick-0001",
            self.keys if keys is None else keys,
            self.settings,
            timeout=timeout,
        )


def public(key: asyncssh.SSHKey) -> str:
    """A key as it is published."""
    return " ".join(key.export_public_key().decode().split()[:2])


@pytest.fixture
def key_settings(tmp_path: Path) -> Settings:
    """Settings with a key file that isn't there yet."""
    return Settings(project="probe", ssh_key=tmp_path / "ssh" / "id_ed25519", ssh_user="ana")


@asynccontextmanager
async def host_with(settings: Settings, session: Session) -> AsyncIterator[Host]:
    """A server that knows our key and runs `session` for each command."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    user, _, line = ssh.public_key_line(settings).partition(":")
    assert user == settings.ssh_user
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=asyncssh.import_authorized_keys(line),
        process_factory=session,
        line_editor=False,
    )
    async with server:
        yield Host(replace(settings, ssh_port=server.get_port()), (public(host_key),))


async def answering(process: asyncssh.SSHServerProcess[str]) -> None:
    """Says what it was asked, on both outputs; ends with the number that the command ends with."""
    command = process.command or ""
    process.stdout.write(f"out {command}\n")
    process.stderr.write(f"\x1b[31merr {command}\x1b[0m\n")
    last = command.rpartition(" ")[2]
    process.exit(int(last) if last.isdigit() else 0)


# -------------------------------------------------------------------------------- keys


def test_a_key_pair_is_made_once(key_settings: Settings) -> None:
    """Private for us alone, the same at the next use, in the form that Google's metadata takes."""
    line = ssh.public_key_line(key_settings)

    path = key_settings.ssh_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    user, _, rest = line.partition(":")
    assert user == "ana"
    assert rest.startswith("ssh-ed25519 AAAA")
    assert rest.endswith(" ana")
    assert ssh.public_key_line(key_settings) == line
    assert path.with_name("id_ed25519.pub").read_text().split()[1] == rest.split()[1]
    assert sorted(p.name for p in path.parent.iterdir()) == ["id_ed25519", "id_ed25519.pub"]


def test_processes_that_make_it_at_once_agree(key_settings: Settings) -> None:
    """The first one's key is everybody's."""
    code = (
        "import sys; from pathlib import Path; from gcloud_ops import ssh; "
        "from gcloud_ops.settings import Settings; "
        "print(ssh.public_key_line(Settings(ssh_user='ana', ssh_key=Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(key_settings.ssh_key)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    lines = {process.communicate(timeout=30)[0].strip() for process in running}

    assert lines == {ssh.public_key_line(key_settings)}


def test_keys_that_cannot_be_used(key_settings: Settings) -> None:
    """Open to others, no key, or with a passphrase: one line with the file."""
    path = key_settings.ssh_key
    path.parent.mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.write_bytes(key.export_private_key())
    path.chmod(0o644)
    with pytest.raises(InvalidRequest, match=r"ssh_key: .*id_ed25519: .*chmod 600"):
        ssh.public_key_line(key_settings)

    path.chmod(0o600)
    locked = key.export_private_key("pkcs8-pem", passphrase="secret")
    for content in (b"nonsense", locked):
        path.write_bytes(content)
        with pytest.raises(InvalidRequest, match="not a private key without a passphrase"):
            ssh.public_key_line(key_settings)


# -------------------------------------------------------------------------- connecting


async def test_a_verified_host_runs_commands(key_settings: Settings) -> None:
    """Arguments arrive as they are; output, error output and code come back."""
    async with host_with(key_settings, answering) as host, host.connect() as connection:
        ended = await connection.run(["echo", "a b", "$HOME", "3"])
        line = await connection.run("echo plain")

    assert ended.stdout == "out echo 'a b' '$HOME' 3\n"
    assert ended.stderr.startswith("\x1b[31merr")
    assert (ended.exit_code, line.exit_code) == (3, 0)


async def test_any_published_key_will_do(key_settings: Settings) -> None:
    """Instances publish several; what is no key among them is passed over."""
    other = public(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    async with host_with(key_settings, answering) as host:
        keys = ("ssh-ed25519 nonsense", other, *host.keys)
        async with host.connect(keys=keys) as connection:
            assert (await connection.run("true")).exit_code == 0


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_another_host_is_refused(key_settings: Settings, algorithm: str) -> None:
    """A host with another key, or with none of the published kinds, isn't spoken to."""
    other = public(asyncssh.generate_private_key(algorithm))
    ran: list[str] = []

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        ran.append(str(process.command))

    async with host_with(key_settings, session) as host:
        with pytest.raises(HostKeyMismatch, match="quick-0001: the host at 127"):
            async with host.connect(keys=(other,)) as connection:
                await connection.run("true")

    assert ran == []


async def test_without_published_keys_there_is_no_connection(key_settings: Settings) -> None:
    """Nobody is trusted at first sight."""
    async with host_with(key_settings, answering) as host:
        with pytest.raises(Unavailable, match="has not published"):
            async with host.connect(keys=()):
                pass


async def test_a_key_that_is_not_taken(key_settings: Settings, tmp_path: Path) -> None:
    """The account isn't there yet, or it has another key."""
    async with host_with(key_settings, answering) as host:
        stranger = replace(host, settings=replace(host.settings, ssh_key=tmp_path / "other"))
        with pytest.raises(PermissionDenied, match="doesn't take the key"):
            async with stranger.connect():
                pass


async def test_hosts_that_do_not_answer(key_settings: Settings) -> None:
    """Nobody there, one who says nothing, and one who is no SSH server: Unavailable, in time."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def babbling(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    key = (public(asyncssh.generate_private_key("ssh-ed25519")),)
    begin = time.monotonic()
    for session in (None, silent, babbling):
        server = await asyncio.start_server(session or silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if session is None:
            server.close()
        host = Host(replace(key_settings, ssh_port=port), key)
        with pytest.raises(Unavailable, match="quick-0001: can't be reached: "):
            async with host.connect(timeout=0.5):
                pass
        server.close()
    assert time.monotonic() - begin < 5


async def test_the_users_configuration_is_not_read(
    key_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ~/.ssh/config nor an agent changes what happens."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  Port 1\n  User nobody\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

    async with host_with(key_settings, answering) as host, host.connect() as connection:
        assert (await connection.run("true")).exit_code == 0


# ---------------------------------------------------------------------------- commands


async def test_a_command_that_takes_too_long(key_settings: Settings) -> None:
    """It is given up in time, and the connection goes on."""

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        if process.command == "sleep":
            await process.stdin.read()
        process.exit(0)

    async with host_with(key_settings, session) as host, host.connect() as connection:
        with pytest.raises(Unavailable, match=r"no answer within 0\.2 s: timed out"):
            await connection.run("sleep", timeout=0.2)
        assert (await connection.run("true")).exit_code == 0


async def test_a_connection_that_breaks(key_settings: Settings) -> None:
    """In the middle of a command: no exit code is made up."""

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write("half")
        await process.stdout.drain()
        process.channel.get_connection().abort()

    async with host_with(key_settings, session) as host:
        async with host.connect() as connection:
            with pytest.raises(Unavailable, match=r"quick-0001: .*broke"):
                await connection.run("true")
        async with host.connect() as connection:
            with pytest.raises(Unavailable, match=r"quick-0001: .*broke"):
                async for _ in connection.stream("true"):
                    pass


async def test_a_stream_comes_as_it_is_written(key_settings: Settings) -> None:
    """Both outputs, in chunks; a bad end is an error with the last line, made harmless."""
    gate = asyncio.Event()

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write("first\n")
        await gate.wait()
        process.stderr.write("\x1b[31mlast\x07\n")
        process.exit(7)

    chunks = []
    async with host_with(key_settings, session) as host, host.connect() as connection:
        try:
            async for chunk in connection.stream("docker logs"):
                chunks.append(chunk)
                gate.set()
            pytest.fail("it ended with 7")
        except ssh.CommandFailed as error:
            failed = error

    assert b"".join(chunks) == b"first\n\x1b[31mlast\x07\n"
    assert len(chunks) == 2
    assert failed.exit_code == 7
    assert failed.message == "quick-0001: last (exit code 7)"


async def test_leaving_a_stream_ends_the_command(key_settings: Settings) -> None:
    """A log that is followed for ever is let go."""
    ended = asyncio.Event()

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        try:
            while True:
                process.stdout.write("tick\n")
                await process.stdout.drain()
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with host_with(key_settings, session) as host, host.connect() as connection:
        stream = connection.stream("docker logs --follow")
        assert (await anext(stream)).startswith(b"tick\n")
        await stream.aclose()
        await asyncio.wait_for(ended.wait(), 5)


async def test_containers_are_read_as_data(key_settings: Settings) -> None:
    """Docker's JSON lines; a line that is none is passed over."""

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write(
            '{"ID":"f00","Names":"sinergym","Image":"trainer:1","State":"running",'
            '"Status":"Up 3 minutes","Ports":""}\nnonsense\n[]\n'
            '{"ID":"f01","Names":"sinergym-old","Image":"x","State":"exited"}\n'
        )
        process.exit(0)

    async with host_with(key_settings, session) as host, host.connect() as connection:
        found = await connection.containers()
        one = await connection.container_state("sinergym")
        none = await connection.container_state("syner")

    assert [(it.name, it.state, it.status) for it in found] == [
        ("sinergym", "running", "Up 3 minutes"),
        ("sinergym-old", "exited", ""),
    ]
    assert one == found[0]
    assert none is None


async def test_submitting_a_command(key_settings: Settings) -> None:
    """One argument to the runner, whatever it holds; its refusal is an error with its words."""
    asked: list[str] = []

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        asked.append(str(process.command))
        if "other" in asked[-1]:
            process.stderr.write("sinergym-runner: another command is there\x1b]0;x\x07\n")
            process.exit(3)
        process.stdout.write("accepted\n")
        process.exit(0)

    command = "train --reward 'a b' && echo \"$HOME\" # größe\nsecond line"
    async with host_with(key_settings, session) as host, host.connect() as connection:
        assert await connection.submit("sinergym", command) == "accepted"
        with pytest.raises(ContainerFailed) as caught:
            await connection.submit("sinergym", "other")
        with pytest.raises(InvalidRequest, match="NUL"):
            await connection.submit("sinergym", "a\0b")

    assert words_of(asked[0]) == [
        "docker",
        "exec",
        "sinergym",
        "sinergym-runner",
        "submit",
        "--",
        command,
    ]
    assert isinstance(caught.value, ssh.CommandFailed)
    assert caught.value.exit_code == 3
    assert caught.value.message == (
        "quick-0001: sinergym-runner: another command is there (exit code 3)"
    )


async def test_many_handshakes_are_cheap(key_settings: Settings) -> None:
    """A hundred connections, both ends on this core, in a few seconds."""
    async with host_with(key_settings, answering) as host:

        async def one() -> int:
            async with host.connect(timeout=30) as connection:
                ended = await connection.run("true")
            return ended.exit_code

        begin = time.monotonic()
        codes = await asyncio.gather(*(one() for _ in range(100)))
        took = time.monotonic() - begin

    assert codes == [0] * 100
    assert took < 20  # about 2 s on an idle core; the rest is for a busy machine


def words_of(line: str) -> list[str]:
    """The words that a shell makes of a line."""
    command = ["/bin/sh", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


# ------------------------------------------------------------------- the local terminal

SHELL = """
import asyncio, sys
from pathlib import Path
from gcloud_ops import ssh
from gcloud_ops.settings import Settings

async def main():
    port, user, key_file, host_key, *command = sys.argv[1:]
    settings = Settings(project="p1", ssh_port=int(port), ssh_user=user, ssh_key=Path(key_file))
    async with ssh.connect("127.0.0.1", "quick-0001", (host_key,), settings) as connection:
        return await ssh.interactive(connection, *command)

sys.exit(asyncio.run(main()))
"""


def shell_command(host: Host, *command: str) -> list[str]:
    """A process that wires its terminal or pipes to the host."""
    settings = host.settings
    where = [str(settings.ssh_port), settings.ssh_user, str(settings.ssh_key), host.keys[0]]
    return [sys.executable, "-c", SHELL, *where, *command]


async def test_pipes_are_passed_through(key_settings: Settings) -> None:
    """Without a terminal: input, both outputs and the exit code, and no terminal over there."""

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        text = await process.stdin.read()
        process.stdout.write(f"{process.command}|{process.term_type}|{text}")
        process.stderr.write("complaint")
        process.exit(5)

    async with host_with(key_settings, session) as host:
        process = await asyncio.create_subprocess_exec(
            *shell_command(host, "cat"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(b"typed"), 20)

    assert (process.returncode, out, err) == (5, b"cat|None|typed", b"complaint")


async def test_a_terminal_is_wired_and_restored(key_settings: Settings) -> None:
    """Keys arrive one by one and unechoed, the size follows, and our terminal is as before."""
    import fcntl
    import struct
    import termios

    sizes: list[tuple[int, int]] = []

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        sizes.append(process.term_size[:2])
        process.stdout.write("ready ")
        while True:
            try:
                if await process.stdin.read(1) == "q":
                    break
            except asyncssh.TerminalSizeChanged as change:
                sizes.append((change.width, change.height))
                process.stdout.write("resized ")
        process.exit(4)

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(theirs)

    async def expect(text: bytes) -> None:
        seen = b""
        while text not in seen:
            if await asyncio.to_thread(select.select, [ours], [], [], 20) == ([], [], []):
                pytest.fail(f"{text!r} not shown, only {seen!r}")
            seen += os.read(ours, 1024)

    async with host_with(key_settings, session) as host:
        process = await asyncio.create_subprocess_exec(
            *shell_command(host), stdin=theirs, stdout=theirs, start_new_session=True
        )
        try:
            await expect(b"ready ")
            raw = termios.tcgetattr(theirs)
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            process.send_signal(signal.SIGWINCH)
            await expect(b"resized ")
            os.write(ours, b"q")
            code = await asyncio.wait_for(process.wait(), 20)
        finally:
            if process.returncode is None:
                process.kill()

    assert code == 4
    assert sizes == [(100, 30), (120, 40)]
    assert not raw[3] & (termios.ECHO | termios.ICANON)
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


# ---------------------------------------------------------------------- the local cloud


@pytest.fixture(scope="module")
def instance(clients: Clients, settings: Settings, template: str) -> Iterator[Instance]:
    """An instance that is up, with our key on it."""
    groups.create_group(
        clients,
        "hosts",
        template,
        metadata={"ssh-keys": ssh.public_key_line(settings), "sinergym-sweep": "hosts"},
        labels={"sinergym-sweep": "hosts"},
    )
    groups.create_instances(clients, "hosts", ["hosts-0001"])

    def found() -> Instance | None:
        keys = instances.host_keys(clients, "hosts-0001")
        instance = instances.get_instance(clients, "hosts-0001")
        return instance if keys and instance and instance.status == "RUNNING" else None

    instance = eventually(found, "an instance")
    assert instance is not None
    yield instance
    groups.delete_group(clients, "hosts")


async def test_an_instance_of_the_local_cloud(
    clients: Clients, settings: Settings, instance: Instance
) -> None:
    """Its published key is its own; its container starts, takes the command, and has a log."""
    keys = instances.host_keys(clients, instance.name)
    async with ssh.connect(instance.address, instance.name, keys, settings) as connection:
        deadline = time.monotonic() + 20
        while not (container := await connection.container_state()) or (
            container.state == "created"
        ):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        said = await connection.submit("sinergym", "sinergym-train --seed 1")
        log = b"".join([chunk async for chunk in connection.logs(tail=5)])
        with pytest.raises(ContainerFailed, match="none"):
            await connection.submit("none", "true")
        with pytest.raises(ContainerFailed, match="no container none"):
            await anext(connection.logs("none"))

    assert (container.name, container.state) == ("sinergym", "running")
    assert container.image == "europe-docker.pkg.dev/local/sinergym/trainer:1"
    assert isinstance(said, str)
    assert isinstance(log, bytes)


async def test_an_instance_that_was_recreated(settings: Settings, instance: Instance) -> None:
    """Keys of the instance that was there before aren't those of this one."""
    old = (public(asyncssh.generate_private_key("ssh-ed25519")),)

    with pytest.raises(HostKeyMismatch):
        async with ssh.connect(instance.address, instance.name, old, settings):
            pass
