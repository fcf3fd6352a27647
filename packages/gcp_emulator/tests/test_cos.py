"""The operating system of a VM: cloud-init, systemd, programs and shells."""

import asyncio
import base64
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gcp_emulator.docker.command import Docker
from gcp_emulator.docker.containers import Containers
from gcp_emulator.docker.engine import InertEngine
from gcp_emulator.docker.streams import Streams
from gcp_emulator.guest.cos import Guest
from gcp_emulator.guest.unitfile import parse_unit
from gcp_emulator.guest.words import parts_of, simple_words


@dataclass
class Computer:
    """A guest, what it printed, and its containers."""

    guest: Guest
    containers: Containers
    root: Path
    console: list[str] = field(default_factory=list)

    async def __call__(self, line: str, **environment: str) -> tuple[int, str]:
        """Run a command line as root; exit status and all that it said."""
        said = b""

        async def sink(_stream: int, data: bytes) -> None:
            nonlocal said
            said += data

        code = await self.guest.line(line, Streams(sink=sink), environment or {"HOME": "/root"})
        return code, said.decode()

    async def start(self, unit: str, name: str = "x.service") -> tuple[int, str]:
        """Install a unit and start it."""
        path = self.root / "etc/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit)
        return await self(f"systemctl start {name}")

    async def shows(self, text: str) -> None:
        """Wait until the serial port shows it."""
        deadline = time.monotonic() + 10
        while not any(text in line for line in self.console):
            assert time.monotonic() < deadline, self.console
            await asyncio.sleep(0.01)


@pytest.fixture
async def computer(tmp_path: Path) -> AsyncIterator[Computer]:
    """A guest over the engine that runs nothing."""
    root = tmp_path / "root"
    root.mkdir()
    engine = InertEngine()
    containers = Containers(
        engine=engine,
        folder=tmp_path / "containers",
        hostname="vm",
        environment={},
        record=lambda _event: None,
    )
    docker = Docker(containers=containers, root=root, pull_seconds=0, record=lambda _event: None)
    console: list[str] = []

    async def shims() -> Path:
        raise AssertionError("the inert engine has no shell")

    guest = Guest(
        name="vm",
        root=root,
        docker=docker,
        engine=engine,
        console=console.append,
        shims=shims,
        mark="test",
        endpoints={},
    )
    yield Computer(guest, containers, root, console)
    await guest.close()
    await containers.close(0)


async def test_write_files(computer: Computer) -> None:
    """Contents plain and base64, permissions, append; nothing outside of the VM's root."""
    encoded = base64.b64encode(b"\x00\xff").decode()
    await computer.guest.cloud_init(
        "#cloud-config\nwrite_files:\n"
        "- {path: /var/lib/a/x.env, permissions: '0600', content: 'A=1'}\n"
        f"- {{path: /etc/binary, encoding: b64, content: {encoded}}}\n"
        "- {path: /etc/binary, append: true, content: more}\n"
        "- {path: /usr/bin/evil, content: x}\n"
        "- {path: /var/../../../escape, content: x}\n"
        "- {path: /etc/odd, encoding: gz, content: x}\n"
        "- {content: nowhere}\n"
    )
    assert (computer.root / "var/lib/a/x.env").read_text() == "A=1"
    assert (computer.root / "var/lib/a/x.env").stat().st_mode & 0o777 == 0o600
    assert (computer.root / "etc/binary").read_bytes() == b"\x00\xffmore"
    assert not (computer.root / "usr").exists()
    assert not (computer.root.parent / "escape").exists()
    shown = "\n".join(computer.console)
    assert "Failed to write /usr/bin/evil: [Errno 30] Read-only file system" in shown
    assert "encoding gz is not emulated" in shown
    assert "No path provided" in shown


@pytest.mark.parametrize(
    ("user_data", "text"),
    [
        ("#cloud-config\na: [", "Failed loading yaml blob. Invalid format at line 2 column"),
        ("#cloud-config\n- a", "root types, but got list instead"),
        ("echo hello", "Unhandled non-multipart"),
        ("#cloud-config\nusers: []", "users is not emulated"),
        ("#cloud-config\nruncmd: ['false']", "Failed to run module scripts_user"),
        ("#cloud-config\nruncmd: [nonsense]", "nonsense: command not found"),
        ("#cloud-config\nruncmd: [systemctl start x]", "Unit x.service not found"),
    ],
)
async def test_what_cloud_init_complains_of(computer: Computer, user_data: str, text: str) -> None:
    """It is on the serial port, nothing runs, and nothing is raised."""
    await computer.guest.cloud_init(user_data)
    assert any(text in line for line in computer.console), computer.console
    assert list(computer.containers) == []


async def test_runcmd_in_order(computer: Computer) -> None:
    """Lists and lines, one after another, a failure stops none."""
    await computer.guest.cloud_init(
        "#cloud-config\nruncmd:\n- [mkdir, -p, /var/a b]\n- 'false'\n"
        "- mkdir /var/c && mkdir /var/d\n"
    )
    assert {path.name for path in (computer.root / "var").iterdir()} == {"a b", "c", "d"}


async def test_a_unit_runs_its_container(computer: Computer) -> None:
    """Pre-commands, environment, files and specifiers; status, journal, stop."""
    (computer.root / "etc").mkdir()
    (computer.root / "etc/args").write_text("# c\nIMAGE=registry.example/i:1\nARGS=a b\n")
    code, said = await computer.start(
        """
        [Unit]
        Description=Some training
        After=docker.socket

        [Service]
        Environment=HOME=/var/lib/x "WORDS=one two"
        EnvironmentFile=/etc/args
        EnvironmentFile=-/etc/missing
        ExecStartPre=-/usr/bin/docker rm -f %N
        ExecStartPre=/usr/bin/docker-credential-gcr configure-docker
        ExecStart=/usr/bin/docker run --name=%N -e W=${WORDS} -e P=100%% $IMAGE $ARGS \\
            'quoted arg'
        ExecStop=/usr/bin/docker stop -t 1 %N
        Restart=on-failure
        """,
        "job.service",
    )
    assert (code, said) == (0, "")
    await computer.shows("Started Some training.")
    for _ in range(100):
        await asyncio.sleep(0.01)
        if list(computer.containers):
            break
    assert list(computer.containers), await computer("journalctl -u job")
    (container,) = computer.containers
    assert container.spec.name == "job"
    assert container.spec.image == "registry.example/i:1"
    assert container.spec.args == ("a", "b", "quoted arg")
    assert container.spec.environment == {"W": "one two", "P": "100%"}
    assert (computer.root / "var/lib/x/.docker/config.json").exists()
    assert await computer("systemctl is-active job") == (0, "active\n")
    assert "Started Some training." in (await computer("journalctl -u job"))[1]
    assert await computer("systemctl stop job") == (0, "")
    assert await computer("systemctl is-active job") == (3, "inactive\n")
    assert container.status == "exited"


async def test_the_credential_helper_needs_a_home(computer: Computer) -> None:
    """/root is read-only on COS, and a system unit has no HOME at all."""
    code, said = await computer("docker-credential-gcr configure-docker", HOME="/root")
    assert (code, "read-only file system" in said) == (1, True)
    unit = (
        "[Service]\nExecStartPre=/usr/bin/docker-credential-gcr configure-docker\nExecStart=true"
    )
    code, said = await computer.start(unit)
    assert (code, "Job for x.service failed" in said) == (1, True)
    assert "$HOME is not defined" in (await computer("journalctl -u x"))[1]
    assert await computer("systemctl is-failed x") == (0, "failed\n")


async def test_an_unknown_program_fails_its_unit_as_systemd_says(computer: Computer) -> None:
    """203/EXEC on the serial port."""
    await computer.start("[Service]\nExecStart=/usr/bin/nonsense --flag\n")
    await computer.shows("Failed at step EXEC spawning /usr/bin/nonsense: No such file")
    await computer.shows("x.service: Main process exited, code=exited, status=203/EXEC")
    await computer.shows("x.service: Failed with result 'exit-code'.")
    code, said = await computer("systemctl show x --property=ActiveState,ExecMainStatus")
    assert (code, said) == (0, "ActiveState=failed\nExecMainStatus=203\n")


async def test_files_under_var_are_not_executable(computer: Computer) -> None:
    """COS mounts /var noexec."""
    (computer.root / "var").mkdir()
    (computer.root / "var/start.sh").write_text("#!/bin/sh\n")
    await computer.start("[Service]\nExecStart=/var/start.sh\n")
    await computer.shows("spawning /var/start.sh: Permission denied")


async def test_restart_on_failure_and_its_limit(computer: Computer) -> None:
    """Five starts within ten seconds are enough for systemd."""
    await computer.start("[Service]\nExecStart=/bin/false\nRestart=on-failure\nRestartSec=10ms\n")
    await computer.shows("restart counter is at 4")
    await computer.shows("Start request repeated too quickly.")
    assert not any("counter is at 6" in line for line in computer.console)


@pytest.mark.parametrize(
    ("settings", "starts", "last"),
    [
        # The unit of gcloud-ops: only Docker's own failure is tried again, and not for ever.
        ("Restart=no\nRestartForceExitStatus=125", 3, "Start request repeated too quickly."),
        ("Restart=no\nRestartForceExitStatus=7 SIGKILL", 1, "Failed with result 'exit-code'."),
        (
            "Restart=always\nRestartForceExitStatus=125\nRestartPreventExitStatus=125",
            1,
            "Failed with result 'exit-code'.",
        ),
    ],
)
async def test_which_exit_codes_start_a_unit_again(
    computer: Computer, settings: str, starts: int, last: str
) -> None:
    """RestartForceExitStatus= and RestartPreventExitStatus= say more than Restart=."""
    await computer.start(
        "[Unit]\nStartLimitIntervalSec=10min\nStartLimitBurst=3\n[Service]\n"
        # An unknown option: 125, as for a registry that doesn't answer.
        f"ExecStart=/usr/bin/docker run --nonsense x\nRestartSec=10ms\n{settings}\n"
    )
    await computer.shows(f"x.service: {last}")
    unit = computer.console
    assert sum("Main process exited, code=exited, status=125/" in line for line in unit) == starts
    assert sum("Scheduled restart job" in line for line in unit) == (3 if starts == 3 else 0)
    await asyncio.sleep(0.05)
    assert await computer("systemctl is-failed x") == (0, "failed\n")


async def test_a_limit_of_starts_counts_until_it_is_reset(computer: Computer) -> None:
    """Starts by hand count, too; `systemctl reset-failed` begins anew."""
    unit = "[Unit]\nStartLimitBurst=2\n[Service]\nType=oneshot\nExecStart=/bin/true\n"
    assert [(await computer.start(unit))[0] for _ in range(3)] == [0, 0, 1]
    await computer.shows("Failed with result 'start-limit-hit'.")
    assert (await computer("systemctl reset-failed x"))[0] == 0
    assert (await computer("systemctl start x"))[0] == 0


async def test_a_unit_that_is_stopped_stays_so(computer: Computer) -> None:
    """Restart=always means its own end, not that of `systemctl stop`; nor while it waits."""
    sleeper = "[Service]\nExecStart=/bin/sleep 60\nRestart=always\nRestartSec=10ms\n"
    waiter = "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=1min\n"
    for name, unit in (("sleeper", sleeper), ("waiter", waiter)):
        await computer.start(unit, f"{name}.service")
        assert (await asyncio.wait_for(computer(f"systemctl stop {name}"), 5))[0] == 0
        assert await computer(f"systemctl is-active {name}") == (3, "inactive\n")
    assert not any("Scheduled restart" in line for line in computer.console)


async def test_oneshot_units_are_waited_for(computer: Computer) -> None:
    """Starting returns with the result; RemainAfterExit keeps it active."""
    unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/mkdir -p /var/made\n"
    assert (await computer.start(unit))[0] == 0
    assert (computer.root / "var/made").is_dir()
    assert await computer("systemctl is-active x") == (0, "active\n")
    bad = "[Service]\nType=oneshot\nExecStart=/bin/false\n"
    assert (await computer.start(bad, "bad.service"))[0] == 1


def test_unit_files_that_systemd_warns_of() -> None:
    """Unknown keys and lines without an equals sign, with their numbers."""
    unit, problems = parse_unit(
        "[Unit]\nAnything=1\n[Service]\n# comment\nNonsense=1\nno equals\n"
        "ExecStart=/bin/a \\\n  b\nExecStart=\nExecStart=/bin/c 'd e'\n"
    )
    assert problems == [
        (5, "Unknown key name 'Nonsense' in section 'Service', ignoring."),
        (6, "Missing '=', ignoring line."),
    ]
    assert [command.words for command in unit.start] == [("/bin/c", "d e")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15", 15), ("10ms", 0.01), ("5min 20s", 320), ("1h30min", 5400), ("infinity", math.inf),
        ("soon", 0.1), ("5 apples", 0.1), ("1" * 5_000 + "x", 0.1), ("", 0.1),
    ],
)  # fmt: skip
def test_spans_of_time(text: str, seconds: float) -> None:
    """systemd.time(7); what is no span changes nothing."""
    unit, problems = parse_unit(f"[Service]\nRestartSec={text}\n")
    assert unit.restart_seconds == pytest.approx(seconds)
    assert problems == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("docker ps -q", ["docker", "ps", "-q"]),
        ("docker exec c sh -c 'a | b; $c'", ["docker", "exec", "c", "sh", "-c", "a | b; $c"]),
        ("""docker inspect -f "{{.State}}" c""", ["docker", "inspect", "-f", "{{.State}}", "c"]),
        (r"echo a\ b\|c", ["echo", "a b|c"]),
        ("echo a#b", ["echo", "a#b"]),
        ("", []),
        ("a | b", None), ("a; b", None), ("a && b", None), ('echo "$HOME"', None), ("ls *", None),
        ("echo `x`", None), ("A=1 b", None), ("a > b", None), ("a 'b", None), ("a\nb", None),
        ("cd ~", None), ("a # b", None), ("! a", None),
    ],
)  # fmt: skip
def test_which_lines_need_a_shell(line: str, words: list[str] | None) -> None:
    """What a shell would change needs one; the rest is split as a shell splits it."""
    assert simple_words(line) == words


def test_parts_of_a_line() -> None:
    """Cut at joints, not inside of quotes."""
    assert parts_of("a 'x;y' && b || c; d") == [
        (";", "a 'x;y'"), ("&&", "b"), ("||", "c"), (";", "d"),
    ]  # fmt: skip


async def test_sudo_and_lists_of_commands(computer: Computer) -> None:
    """With sudo one becomes root, takes flags and assignments; && and || join."""
    assert await computer("sudo whoami", USER="ana") == (0, "root\n")
    assert (await computer("sudo -n -u root A=1 -- hostname"))[1] == "vm\n"
    assert await computer("true && echo yes || echo no") == (0, "yes\n")
    assert await computer("false || echo no; echo end") == (0, "no\nend\n")
    assert (await computer("echo a | cat"))[0] == 127


async def test_a_unit_that_has_failed_for_good_starts_others(computer: Computer) -> None:
    """OnFailure= comes after the last restart only; what goes to the console is seen there."""
    await computer.guest.cloud_init(
        "#cloud-config\nwrite_files:\n"
        "- path: /etc/systemd/system/main.service\n"
        "  content: |\n"
        "    [Unit]\n    OnFailure=after.service nowhere.service\n"
        "    StartLimitIntervalSec=60\n    StartLimitBurst=2\n"
        "    [Service]\n    StandardOutput=journal+console\n    StandardError=journal\n"
        "    ExecStartPre=/usr/bin/echo begun\n    ExecStart=/usr/bin/cat /nothing\n"
        "    Restart=on-failure\n    RestartSec=10ms\n"
        "- path: /etc/systemd/system/after.service\n"
        "  content: |\n"
        "    [Service]\n    Type=oneshot\n    StandardOutput=journal+console\n"
        "    ExecStart=/bin/bash /var/lib/after.sh\n"
        "- {path: /var/lib/after.sh, content: exit 1}\n"
        "runcmd:\n- systemctl start --no-block main.service\n"
    )
    said = "the inert engine runs no scripts: /bin/bash /var/lib/after.sh"
    await computer.shows(said)
    console = "\n".join(computer.console)
    assert console.count("echo[612]: begun") == 2
    assert "No such file" not in console
    assert console.count("main.service: Triggering OnFailure= dependencies.") == 1
    assert "Unit nowhere.service not found" in console
    assert console.index("Start request repeated") < console.index("Triggering OnFailure=")
    _, text = await computer("journalctl -u main.service -o cat")
    assert "cat: /nothing: No such file or directory" in text
    assert "systemd[1]" not in text
