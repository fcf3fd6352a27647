"""A VM that really boots: its SSH server, its processes, its end."""

import asyncio
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import pytest
import yaml

from gcp_emulator.docker.engine import Engine, InertEngine, ProcessEngine, make_engine
from gcp_emulator.guest.ssh import authorized_keys
from gcp_emulator.guest.vm import Vm, VmSpec

PORT = 22022
NAME = "quick-0001"
USER_DATA = """#cloud-config
write_files:
- path: /var/lib/sinergym/container.env
  permissions: '0600'
  content: |
    # what the container gets
    FOO=bar baz
- path: /etc/systemd/system/sinergym.service
  content: |
    [Unit]
    Description=Sinergym
    Wants=gcr-online.target docker.socket
    [Service]
    Environment=HOME=/var/lib/sinergym
    ExecStartPre=/usr/bin/docker-credential-gcr configure-docker --registries x-docker.pkg.dev
    ExecStart=/usr/bin/docker run --name=sinergym --network=host \\
      --env-file=/var/lib/sinergym/container.env x-docker.pkg.dev/p/r/sinergym:1.0 ARGS
runcmd:
- systemctl daemon-reload
- systemctl start sinergym.service
"""
PROGRAM = """
import os, signal, subprocess, sys, time
def stop(*_):
    os.write(1, b"got TERM\\n")  # a print may be under way
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
print("hello", *sys.argv[1:], flush=True)
print("to stderr", file=sys.stderr, flush=True)
if "children" in sys.argv:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "noisy" in sys.argv:
    while True:
        print("x" * 1000)
n = 0
while True:
    time.sleep(0.05)
    n += 1
    print("tick", n, flush=True)
"""
_addresses = itertools.count(1)


@dataclass
class Machine:
    """A VM and how to talk to it."""

    vm: Vm
    key: asyncssh.SSHKey
    folder: Path
    events: list[str] = field(default_factory=list)

    async def connect(self, **options: object) -> asyncssh.SSHClientConnection:
        """Log in, with the host key that the guest attributes tell."""
        public = self.vm.guest_attributes["hostkeys"]["ssh-ed25519"]
        known = asyncssh.import_known_hosts(f"{NAME} ssh-ed25519 {public}\n")
        defaults = {
            "username": "ana", "client_keys": [self.key], "config": None, "agent_path": None,
            "known_hosts": known, "host_key_alias": NAME,
        }  # fmt: skip
        return await asyncssh.connect(self.vm.spec.address, PORT, **{**defaults, **options})

    async def run(self, command: str, stdin: str = "") -> tuple[int, str, str]:
        """Log in and run a command: exit status, standard output, standard error."""
        async with await self.connect() as connection:
            done = await connection.run(command, input=stdin)
        return done.exit_status or 0, str(done.stdout), str(done.stderr)


type Make = Callable[..., Machine]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes VMs, which are shut down at the end."""
    made: list[Machine] = []
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def make(
        *,
        args: str = "",
        user_data: str = USER_DATA,
        engine: Engine | None = None,
        boot_seconds: float = 0,
        pull_seconds: float = 0,
        environment: dict[str, str] | None = None,
    ) -> Machine:
        number = next(_addresses)
        key = asyncssh.generate_private_key("ssh-ed25519")
        folder = tmp_path / f"vm{number}"
        events: list[str] = []
        public = key.export_public_key().decode().strip()
        vm = Vm(
            VmSpec(
                name=NAME,
                id=str(1000 + number),
                project="local",
                zone="europe-west1-b",
                address=f"127.77.{os.getpid() % 250}.{number}",
                machine_type="n2-highcpu-8",
            ),
            metadata={
                "user-data": user_data.replace("ARGS", args),
                "enable-guest-attributes": "TRUE",
                "ssh-keys": f"root:nonsense\nana:{public}",
            },
            engine=engine or ProcessEngine(f"{sys.executable} {program}"),
            folder=folder,
            ssh_port=PORT,
            metadata_port=8080,
            environment=environment or {},
            boot_seconds=boot_seconds,
            pull_seconds=pull_seconds,
            record=events.append,
        )
        machine = Machine(vm, key, folder, events)
        made.append(machine)
        return machine

    yield make
    await asyncio.gather(*(machine.vm.shutdown(0) for machine in made))


async def eventually(what: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Wait, at most 10 seconds, until it is so."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = what()
        if answer if isinstance(answer, bool) else await answer:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen within 10 seconds")


def processes(marks: str, command: str) -> list[str]:
    """The ids, and then the command lines, of those that hold this in environment and command."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if marks.encode() in (path / "environ").read_bytes() and command in line:
                found.append(f"{path.name} {line}")
        except OSError:
            continue
    return found


def living(marks: str) -> list[str]:
    """Command lines of this machine's processes that hold this text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if marks.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


async def test_boot_publishes_the_host_key_and_starts_the_container(make: Make) -> None:
    """SSH answers with the published key; the unit's container runs with its environment."""
    machine = make(args="a1 'a 2'", environment={"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"})
    await machine.vm.boot()
    assert machine.events[0] == "ssh"
    await eventually(lambda: "container" in machine.events)
    assert (await machine.run("docker ps --format '{{.Names}} {{.State}} {{.Image}}'"))[1] == (
        "sinergym running x-docker.pkg.dev/p/r/sinergym:1.0\n"
    )
    code, out, _ = await machine.run("docker exec sinergym env")
    said = dict(line.split("=", 1) for line in out.splitlines())
    assert code == 0
    assert said["FOO"] == "bar baz"
    assert said["HOSTNAME"] == NAME
    assert said["STORAGE_EMULATOR_HOST"] == "http://127.0.0.1:9"
    assert said["GCE_METADATA_HOST"] == f"{machine.vm.spec.address}:8080"
    assert said["PATH"].startswith(str(Path(sys.executable).parent))
    assert "NO_GCE_CHECK" not in said
    assert said["HOME"] == str(machine.folder / "containers/sinergym/work")
    assert (await machine.run("docker exec sinergym pwd"))[1] == said["HOME"] + "\n"

    async def said_hello() -> bool:
        return "hello a1 a 2\n" in (await machine.run("docker logs sinergym"))[1]

    await eventually(said_hello)
    _, out, errors = await machine.run("docker logs sinergym")
    assert "to stderr" not in out
    assert errors == "to stderr\n"


async def test_nobody_else_gets_in(make: Make) -> None:
    """Another user, another key and a password are refused; new metadata counts at once."""
    machine = make(user_data="")
    await machine.vm.boot()
    other = asyncssh.generate_private_key("ssh-ed25519")
    with pytest.raises(asyncssh.PermissionDenied):
        await machine.connect(username="root")
    with pytest.raises(asyncssh.PermissionDenied):
        await machine.connect(client_keys=[other])
    with pytest.raises(asyncssh.PermissionDenied):
        await machine.connect(client_keys=[], password="x")
    machine.vm.update_metadata({"ssh-keys": "ana:" + other.export_public_key().decode()})
    async with await machine.connect(client_keys=[other]):
        pass
    with pytest.raises(asyncssh.PermissionDenied):
        await machine.connect()


async def test_another_host_key_is_noticed(make: Make) -> None:
    """A client that knows another key refuses to talk."""
    machine, other = make(user_data=""), make(user_data="")
    await asyncio.gather(machine.vm.boot(), other.vm.boot())
    machine.vm.guest_attributes = other.vm.guest_attributes
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await machine.connect()


async def test_guest_attributes_only_when_enabled(make: Make) -> None:
    """Without enable-guest-attributes nothing is published; SSH works all the same."""
    machine = make(user_data="")
    machine.vm.update_metadata({"ssh-keys": ""})
    await machine.vm.boot()
    assert machine.vm.guest_attributes == {}
    assert b"OpenSSH" in machine.vm.serial


async def test_shutdown_gives_time_and_leaves_no_process(make: Make) -> None:
    """SIGTERM reaches the program, its children in other sessions die too, SSH is closed."""
    machine = make(args="children")
    await machine.vm.boot()
    folder = str(machine.folder)
    await eventually(lambda: any("sleep" in line for line in living(folder)))
    log = machine.folder / "containers/sinergym/log"
    async with await machine.connect() as connection:
        shell = await connection.create_process("sleep 500; true")
        await eventually(lambda: any("sleep 500" in line for line in living(folder)))
        begun = time.monotonic()
        await machine.vm.shutdown(10)
        assert time.monotonic() - begun < 5
        assert b"got TERM" in log.read_bytes()
        await asyncio.wait_for(shell.wait_closed(), 5)
    assert living(folder) == []
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await machine.connect()
    await machine.vm.shutdown(10)


async def test_shutdown_kills_who_does_not_listen(make: Make) -> None:
    """A program that ignores SIGTERM is killed when its time is over."""
    machine = make(args="deaf")
    await machine.vm.boot()
    log = machine.folder / "containers/sinergym/log"
    await eventually(lambda: log.exists() and b"tick" in log.read_bytes())
    begun = time.monotonic()
    await machine.vm.shutdown(0.3)
    assert 0.3 <= time.monotonic() - begun < 5
    assert living(str(machine.folder)) == []


async def test_a_shutdown_under_way_can_be_hurried(make: Make) -> None:
    """Who calls it again with less grace has to wait no longer than that."""
    machine = make(args="deaf")
    await machine.vm.boot()
    log = machine.folder / "containers/sinergym/log"
    await eventually(lambda: log.exists() and b"tick" in log.read_bytes())
    patient = asyncio.create_task(machine.vm.shutdown(60))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(patient), 0.3)
    begun = time.monotonic()
    await machine.vm.shutdown(0.3)
    assert 0.3 <= time.monotonic() - begun < 5
    await asyncio.wait_for(patient, 1)
    assert living(str(machine.folder)) == []


async def test_shutdown_in_any_phase(make: Make) -> None:
    """While booting and while pulling: boot returns, nothing is left, and it can be repeated."""
    booting, pulling, never = make(boot_seconds=60), make(pull_seconds=60), make()
    boot = asyncio.create_task(booting.vm.boot())
    await asyncio.sleep(0.05)
    await booting.vm.shutdown(10)
    await asyncio.wait_for(boot, 2)
    assert booting.events == []
    await pulling.vm.boot()
    await asyncio.sleep(0.05)
    await asyncio.wait_for(pulling.vm.shutdown(10), 2)
    assert pulling.events == ["ssh"]
    await never.vm.shutdown(10)
    await never.vm.boot()
    assert never.events == []


async def test_commands_in_a_real_shell(make: Make) -> None:
    """Pipes, redirections, exit codes and input work, with docker reachable from the shell."""
    machine = make()
    await machine.vm.boot()
    await eventually(lambda: "container" in machine.events)
    assert (await machine.run("docker ps | grep -c sinergym"))[:2] == (0, "1\n")
    assert (await machine.run("exit 7"))[0] == 7
    assert (await machine.run("kill -9 $$"))[0] == 137
    assert (await machine.run("cat", stdin="a\nb"))[:2] == (0, "a\nb")
    assert (await machine.run("echo no >&2; nonsense"))[0] == 127
    code, out, _ = await machine.run("docker exec -i sinergym cat | tr a-z A-Z", stdin="shout")
    assert (code, out) == (0, "SHOUT")
    code, out, _ = await machine.run("for n in 1 2; do docker exec sinergym echo $n; done")
    assert (code, out) == (0, "1\n2\n")
    code, _, errors = await machine.run("docker exec nope true; exit $?")
    assert (code, errors) == (1, "Error response from daemon: No such container: nope\n")
    assert (await machine.run("hostname"))[1] == f"{NAME}\n"
    assert (await machine.run("sudo docker ps -q"))[1] == (await machine.run("docker ps -q"))[1]


async def test_an_interactive_shell_with_a_terminal(make: Make) -> None:
    """A prompt, a terminal with its size, Ctrl-C, docker exec -it inside, and exit."""
    machine = make()
    await machine.vm.boot()
    await eventually(lambda: "container" in machine.events)
    async with await machine.connect() as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(132, 43))

        seen = ""

        async def expect(text: str) -> None:
            """Read until the text has come; what follows it is for the next time."""
            nonlocal seen
            while text not in seen:
                try:
                    piece = await asyncio.wait_for(shell.stdout.read(4096), 10)
                except TimeoutError:
                    pytest.fail(f"no {text!r} in {seen!r}")
                assert piece, seen
                seen += str(piece)
            seen = seen.partition(text)[2]

        await expect(f"ana@{NAME} ~ $ ")
        shell.stdin.write("stty size\n")
        await expect("43 132")
        shell.stdin.write("sleep 100\n")
        await eventually(lambda: any("sleep 100" in line for line in living(str(machine.folder))))
        shell.stdin.write("\x03")
        await expect("$ ")
        shell.stdin.write("docker exec -it sinergym sh -c 'test -t 0; echo t=$?; stty size'\n")
        await expect("t=0\r\n43 132")
        # What is typed before the prompt would still be the container's.
        await expect("$ ")
        shell.stdin.write("exit 4\n")
        done = await asyncio.wait_for(shell.wait(), 10)
    assert done.exit_status == 4


async def test_a_cut_connection_kills_the_command_but_no_container(make: Make) -> None:
    """The foreground command of a session ends with it; the container goes on."""
    machine = make()
    await machine.vm.boot()
    await eventually(lambda: "container" in machine.events)
    folder = str(machine.folder)
    connection = await machine.connect()
    await connection.create_process("sleep 300 && true")
    await connection.create_process("docker exec sinergym sleep 400")
    await eventually(lambda: any("sleep 300" in line for line in living(folder)))
    await eventually(lambda: any("sleep 400" in line for line in living(folder)))
    machine.vm.cut_ssh()
    await eventually(lambda: not any("sleep 300" in line for line in living(folder)))
    assert (await machine.run("docker inspect -f '{{.State.Status}}' sinergym"))[1] == "running\n"
    # As in Docker: https://github.com/moby/moby/issues/9098
    assert any("sleep 400" in line for line in living(folder))


async def test_a_followed_log_holds_back_and_stops_with_its_client(make: Make) -> None:
    """A client that does not read fills no memory, and one that goes ends the following."""
    machine = make(args="noisy")
    await machine.vm.boot()
    log = machine.folder / "containers/sinergym/log"
    await eventually(lambda: log.exists() and log.stat().st_size > 20_000_000)
    await machine.vm.kill_containers()
    before = _resident()
    connection = await machine.connect()
    following = await connection.create_process("docker logs -f sinergym", encoding=None)
    first = await following.stdout.read(1_000)
    assert first.startswith(b"hello noisy\n")
    await asyncio.sleep(0.3)
    assert _resident() - before < 20_000_000
    connection.abort()
    assert (await machine.run("docker ps -aq"))[0] == 0


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_following_a_log_until_the_container_ends(make: Make) -> None:
    """Following gives each line once, in order, and ends with the container."""
    machine = make()
    await machine.vm.boot()
    await eventually(lambda: "container" in machine.events)
    async with await machine.connect() as connection:
        following = await connection.create_process("docker logs -f sinergym")
        assert await asyncio.wait_for(following.stdout.readline(), 5) == "hello\n"
        for number in range(1, 6):
            line = await asyncio.wait_for(following.stdout.readline(), 5)
            assert line == f"tick {number}\n"
        await connection.run("docker stop sinergym")
        rest = await asyncio.wait_for(following.stdout.read(), 5)
        assert rest.endswith("got TERM\n")
        done = await asyncio.wait_for(following.wait(), 5)
    assert done.exit_status == 0


async def test_a_signal_reaches_the_foreground_command(make: Make) -> None:
    """An SSH signal goes to the program of the session."""
    machine = make()
    await machine.vm.boot()
    async with await machine.connect() as connection:
        process = await connection.create_process("exec sleep 100")
        await eventually(lambda: any("sleep" in line for line in living(str(machine.folder))))
        process.terminate()
        done = await asyncio.wait_for(process.wait(), 5)
    assert done.exit_status == 128 + signal.SIGTERM


async def test_faults_of_ssh(make: Make) -> None:
    """A server that refuses closes connections; afterwards it answers again."""
    machine = make(user_data="")
    await machine.vm.boot()
    machine.vm.refuse_ssh(True)
    with pytest.raises((asyncssh.Error, OSError)):
        await machine.connect(login_timeout=5)
    machine.vm.refuse_ssh(False)
    assert (await machine.run("hostname"))[0] == 0


async def test_a_server_that_hangs(make: Make) -> None:
    """Connections come about and hear nothing; open ones go on; afterwards it answers again."""
    machine = make(user_data="")
    await machine.vm.boot()
    async with await machine.connect() as before:
        await machine.vm.suffer("hang-ssh", on=True)
        await machine.vm.suffer("hang-ssh", on=True)
        reader, writer = await asyncio.open_connection(machine.vm.spec.address, PORT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        assert (await before.run("hostname")).exit_status == 0
        await machine.vm.suffer("hang-ssh", on=False)
        assert (await machine.run("hostname"))[0] == 0
        writer.close()
    await machine.vm.suffer("hang-ssh", on=True)
    await machine.vm.shutdown(0)
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await machine.connect()


async def test_a_disk_that_is_full(make: Make) -> None:
    """No program of a container writes to a file, then all do again; other programs may."""
    machine = make()
    await machine.vm.boot()
    await eventually(lambda: "container" in machine.events)
    program = 'import pathlib; pathlib.Path("x").write_text("some")'
    write = f"docker exec sinergym python3 -c '{program}'"
    assert (await machine.run(write))[0] == 0
    await machine.vm.suffer("disk-full", on=True)
    code, _, errors = await machine.run(write)
    assert (code, "File too large" in errors) == (1, True)
    pid = next(int(line.split()[0]) for line in processes(str(machine.folder), "program.py"))
    assert resource.prlimit(pid, resource.RLIMIT_FSIZE)[0] == 0
    assert (await machine.run("echo some > y && cat y"))[1] == "some\n"
    await machine.vm.suffer("disk-full", on=False)
    assert (await machine.run(write))[0] == 0
    assert resource.prlimit(pid, resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


async def test_a_loss_of_power(make: Make) -> None:
    """All processes are killed without a word, no unit acts on it, and SSH is cut."""
    user_data = USER_DATA.replace("[Service]", "OnFailure=after.service\n    [Service]", 1)
    machine = make(args="children", user_data=user_data)
    await machine.vm.boot()
    folder = str(machine.folder)
    await eventually(lambda: any("sleep" in line for line in living(folder)))
    async with await machine.connect() as connection:
        await machine.vm.lose_power()
        await asyncio.wait_for(connection.wait_closed(), 5)
    assert living(folder) == []
    await machine.vm.shutdown(0)
    assert b"got TERM" not in (machine.folder / "containers/sinergym/log").read_bytes()
    assert b"Triggering" not in machine.vm.serial


async def test_a_script_after_a_failure(make: Make) -> None:
    """A unit of OnFailure= runs its script in a real shell, which knows docker and the cloud."""
    script = "echo $STORAGE_EMULATOR_HOST; docker ps -a --format '{{.Image}}'; hostname"
    one = "[Unit]\nOnFailure=b.service\n[Service]\nExecStart=/bin/false\n"
    other = (
        "[Service]\nType=oneshot\nStandardOutput=journal+console\n"
        "ExecStart=/bin/bash /var/lib/b.sh one\n"
    )
    files = {
        "/etc/systemd/system/a.service": one,
        "/etc/systemd/system/b.service": other,
        "/var/lib/b.sh": f"{script}; echo $1; exit 3\n",
    }
    config = {
        "write_files": [{"path": path, "content": text} for path, text in files.items()],
        "runcmd": ["docker run -d image:1", "systemctl start a.service"],
    }
    user_data = "#cloud-config\n" + yaml.safe_dump(config)
    machine = make(user_data=user_data, environment={"STORAGE_EMULATOR_HOST": "http://x:1"})
    await machine.vm.boot()
    await eventually(lambda: b"code=exited, status=3" in machine.vm.serial)
    said = [line.partition("]: ")[2] for line in machine.vm.serial.decode().split("\r\n")]
    assert [line for line in said if line in ("http://x:1", "image:1", NAME, "one")] == [
        "http://x:1", "image:1", NAME, "one",
    ]  # fmt: skip


async def test_containers_die_with_a_killed_emulator(tmp_path: Path) -> None:
    """SIGKILL of the emulator leaves no container behind."""
    script = tmp_path / "emulator.py"
    script.write_text(
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from gcp_emulator.docker.engine import ProcessEngine, Program\n"
        "async def sink(stream, data): pass\n"
        "async def main():\n"
        "    engine = ProcessEngine('true')\n"
        "    program = Program(argv=('sleep', '700'), folder=Path(sys.argv[1]),\n"
        "                      environment={'WHOSE': sys.argv[1], 'PATH': '/usr/bin:/bin'})\n"
        "    await engine.start(program, sink)\n"
        "    print('started', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    emulator = await asyncio.create_subprocess_exec(
        sys.executable, script, tmp_path, stdout=subprocess.PIPE
    )
    assert emulator.stdout is not None
    assert await asyncio.wait_for(emulator.stdout.readline(), 10) == b"started\n"
    assert len(living(f"WHOSE={tmp_path}")) == 1
    emulator.kill()
    await emulator.wait()
    await eventually(lambda: not living(f"WHOSE={tmp_path}"))


@pytest.mark.slow
async def test_inert_machines_are_many_and_fast(make: Make) -> None:
    """200 inert VMs boot, are dispatched to in parallel, and are gone, within seconds."""
    engine = InertEngine()
    machines = [make(engine=engine) for _ in range(200)]
    begun = time.process_time()
    await asyncio.gather(*(machine.vm.boot() for machine in machines))
    booted = time.process_time() - begun
    await eventually(lambda: all("container" in machine.events for machine in machines))
    begun = time.process_time()
    command = "docker exec sinergym sinergym-runner submit -- 'sinergym-train --seed 1'"
    answers = await asyncio.gather(*(machine.run(command) for machine in machines))
    dispatched = time.process_time() - begun
    assert answers == [(0, "accepted\n", "")] * 200
    # Processor seconds of both ends; the machine may be busy with other work.
    assert booted < 5
    assert dispatched < 10


async def test_an_inert_container_answers_as_a_waiting_runner(make: Make) -> None:
    """The first command counts, its repetition is accepted, another is refused; logs tell."""
    machine = make(engine=InertEngine())
    await machine.vm.boot()
    await eventually(lambda: "container" in machine.events)
    submit = "docker exec sinergym sinergym-runner submit -- "
    assert (await machine.run(f"{submit}'train --seed 1'"))[0] == 0
    assert (await machine.run(f"{submit}train --seed 1"))[0] == 0
    assert (await machine.run(f"{submit}'train --seed 2'"))[0] == 3
    out = (await machine.run("docker logs sinergym"))[1]
    assert out.startswith("exec: sinergym-runner submit -- 'train --seed 1'\n")
    async with await machine.connect() as connection:
        shell = await connection.create_process(term_type="xterm")
        shell.stdin.write("hostname\rdocker ps -q | cat\rexit\r")
        seen = str((await asyncio.wait_for(shell.wait(), 5)).stdout)
    assert f"{NAME}\r\n" in seen
    assert "the inert engine has no shell" in seen


def test_keys_of_the_metadata() -> None:
    """Several users and keys, comments, an expired key of gcloud, and lines that are no keys."""
    keys = [
        asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        for _ in range(4)
    ]
    found = authorized_keys(
        f"ana:{keys[0]} ana@laptop\nbo:{keys[1]}\nana:{keys[2]}\n\nbroken\neve:ssh-rsa AAAA\n"
        f'cy:{keys[3]} google-ssh {{"userName":"cy","expireOn":"2020-01-01T00:00:00+0000"}}\n'
    )
    assert {user: len(held) for user, held in found.items()} == {"ana": 2, "bo": 1}


def test_engines_by_name() -> None:
    """The names process and inert exist, others are refused by name."""
    assert make_engine("process").wants_metadata
    assert not make_engine("inert").wants_metadata
    with pytest.raises(ValueError, match="choose process or inert"):
        make_engine("kvm")


def test_a_vm_has_a_loopback_address(tmp_path: Path) -> None:
    """Anything else is refused before a port is opened."""
    spec = VmSpec(
        name=NAME, id="1", project="p", zone="z", address="192.0.2.1", machine_type="n2-highcpu-8"
    )
    with pytest.raises(ValueError, match="no loopback address"):
        Vm(
            spec,
            metadata={},
            engine=InertEngine(),
            folder=tmp_path,
            ssh_port=PORT,
            metadata_port=8080,
            environment={},
            boot_seconds=0,
            pull_seconds=0,
            record=lambda _event: None,
        )
