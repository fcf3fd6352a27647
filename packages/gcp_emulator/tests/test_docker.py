"""The docker command of a VM, over both engines: states only, and real processes."""

import asyncio
import json
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from gcp_emulator.docker.command import Docker
from gcp_emulator.docker.containers import Containers, Log
from gcp_emulator.docker.engine import Engine, InertEngine, ProcessEngine
from gcp_emulator.docker.streams import Streams
from gcp_emulator.docker.words import DockerError, check_image


@dataclass
class Said:
    """What a docker command answered."""

    code: int
    out: str
    err: str


@dataclass
class Host:
    """A docker command with its containers."""

    docker: Docker
    containers: Containers
    folder: Path

    async def __call__(self, line: str, stdin: bytes = b"") -> Said:
        """Run ``docker LINE``."""
        written = {1: b"", 2: b""}
        pieces = [stdin, b""] if stdin else [b""]

        async def sink(stream: int, data: bytes) -> None:
            written[stream] += data

        async def read() -> bytes:
            return pieces.pop(0) if pieces else b""

        code = await self.docker(shlex.split(line), Streams(sink=sink, read=read))
        return Said(code, written[1].decode(errors="replace"), written[2].decode(errors="replace"))


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Host]]:
    """Makes docker commands; their containers end with the test."""
    hosts: list[Host] = []

    def make(engine: Engine, *, pull_seconds: float = 0) -> Host:
        folder = tmp_path / f"host{len(hosts)}"
        (folder / "root").mkdir(parents=True)
        containers = Containers(
            engine=engine,
            folder=folder / "containers",
            hostname="vm",
            environment={},
            record=lambda _event: None,
        )
        docker = Docker(
            containers=containers,
            root=folder / "root",
            pull_seconds=pull_seconds,
            record=lambda _event: None,
        )
        hosts.append(Host(docker, containers, folder))
        return hosts[-1]

    yield make
    for host in hosts:
        await host.containers.close(0)
        await host.docker.close()


@pytest.fixture
def inert(make: Callable[..., Host]) -> Host:
    """Containers that run nothing."""
    return make(InertEngine())


@pytest.fixture
def real(make: Callable[..., Host]) -> Host:
    """Containers whose entry point is a shell."""
    return make(ProcessEngine("/bin/sh"))


async def ended(host: Host, name: str) -> None:
    """Wait for a container's end."""
    await asyncio.wait_for(host.containers.find(name).ended.wait(), 10)


async def test_life_of_a_container(inert: Host) -> None:
    """Run, list, inspect, stop, start, restart, kill, wait, remove: words and codes."""
    made = await inert("run -d --name=one --network=host image:1 a b")
    assert (made.code, len(made.out)) == (0, 65)
    assert "Pulling from library/image" in made.err
    assert (await inert("ps -q")).out.strip() == made.out[:12]
    row = json.loads((await inert("ps --format '{{json .}}'")).out)
    assert (row["Names"], row["State"], row["Image"]) == ("one", "running", "image:1")
    assert row["Status"].startswith("Up ")
    assert (await inert("stop -t 1 one")).out == "one\n"
    assert (await inert("ps -q")).out == ""
    assert (await inert("ps -a --format '{{.Names}} {{.Status}}'")).out.startswith(
        "one Exited (143) Less than a second ago"
    )
    assert (await inert("wait one")).out == "143\n"
    assert (await inert("start one")).code == 0
    assert (await inert("restart -t 0 one")).code == 0
    assert (await inert("inspect --format '{{.State.Status}} {{.State.Running}}' one")).out == (
        "running true\n"
    )
    refused = await inert("rm one")
    assert (refused.code, "container is running" in refused.err) == (1, True)
    assert (await inert("kill -s KILL one")).code == 0
    assert (await inert("inspect -f '{{.State.ExitCode}}' one")).out == "137\n"
    assert (await inert("kill one")).code == 1
    assert (await inert("rm -f one missing")).code == 0
    assert not (inert.folder / "containers/one").exists()


async def test_ps_shows_a_table_and_filters(inert: Host) -> None:
    """Columns as Docker aligns them; name, status, id, label and ancestor filters."""
    for name in ("sinergym", "other"):
        await inert(f"run -d --name {name} --label who={name} image/{name}")
    await inert("stop -t 0 other")
    lines = (await inert("ps -a")).out.splitlines()
    assert lines[0].split() == [
        "CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES",
    ]  # fmt: skip
    at = lines[0].index("NAMES")
    assert [line[at:] for line in lines[1:]] == ["other", "sinergym"]

    async def names(options: str) -> list[str]:
        return (await inert(f"ps {options} --format '{{{{.Names}}}}'")).out.split()

    assert await names("") == ["sinergym"]
    assert await names("-a --filter name=^sinergym$") == ["sinergym"]
    assert await names("-a --filter name=^/oth") == ["other"]
    assert await names("--filter status=exited") == ["other"]
    assert await names("-af label=who=other") == ["other"]
    assert await names("-a -f ancestor=image/other") == ["other"]
    assert await names("-a --filter exited=143") == ["other"]
    assert await names("-a --filter name=nothing") == []
    table = (await inert("ps -a --format 'table {{.Names}}\\t{{.State}}'")).out.splitlines()
    assert [line.split() for line in table] == [
        ["NAMES", "STATE"],
        ["other", "exited"],
        ["sinergym", "running"],
    ]
    wrong = await inert("ps --format '{{.Nothing}}'")
    assert (wrong.code, 'no entry for key "Nothing"' in wrong.err) == (1, True)
    assert (await inert("ps --filter nonsense=1 -a")).code == 1


async def test_inspect(inert: Host) -> None:
    """JSON of those that exist, an error for the others, templates of the state."""
    await inert("run -d --name one -e A=1 --restart on-failure:3 --log-opt max-size=1m image x")
    both = await inert("inspect one two")
    assert both.code == 1
    assert both.err == "error: no such object: two\n"
    (one,) = json.loads(both.out)
    assert one["Name"] == "/one"
    assert one["Config"]["Cmd"] == ["x"]
    assert one["Config"]["Env"] == ["A=1"]
    assert one["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert one["HostConfig"]["LogConfig"]["Config"] == {"max-size": "1m"}
    state = json.loads((await inert("inspect --format '{{json .State}}' one")).out)
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("running", 0, False)


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("exec nope ls", 1, "Error response from daemon: No such container: nope"),
        ("stop nope", 1, "No such container: nope"),
        ("logs nope", 1, "No such container: nope"),
        ("run", 1, "requires at least 1 argument"),
        ("exec one", 1, "requires at least 2 arguments"),
        ("ps extra", 1, "accepts no arguments"),
        ("run --nonsense image", 125, "unknown flag: --nonsense"),
        ("run -Z image", 125, "unknown shorthand flag: 'Z' in -Z"),
        ("run --name", 125, "flag needs an argument: --name"),
        ("ps --nonsense", 125, "unknown flag: --nonsense"),
        ("run Image", 125, "must be lowercase"),
        ("run image:", 125, "invalid reference format"),
        ("run --env-file /nope image", 125, "open /nope: no such file or directory"),
        ("run --env-file ../../../../etc/passwd image", 125, "no such file or directory"),
        ("run --name -x image", 125, "Invalid container name"),
        ("run --restart maybe image", 125, "unknown policy 'maybe'"),
        ("run --restart always --rm image", 125, "conflicting options"),
        ("run --pull never image", 125, "No such image"),
        ("nonsense", 1, "docker: unknown command: docker nonsense"),
    ],
)
async def test_refusals(inert: Host, line: str, code: int, text: str) -> None:
    """Docker's own words and exit codes, and no container."""
    said = await inert(line)
    assert (said.code, said.out) == (code, "")
    assert text in said.err
    assert (await inert("ps -aq")).out == ""


async def test_a_name_is_used_once(inert: Host) -> None:
    """The second of a name is refused and names the first."""
    first = (await inert("run -d --name=one image")).out.strip()
    second = await inert("run -d --name=one image")
    assert second.code == 125
    assert f'"/one" is already in use by container "{first}"' in second.err


async def test_an_image_is_pulled_once(make: Callable[..., Host]) -> None:
    """The first run waits for the pull; those who come meanwhile wait for the same one."""
    host = make(InertEngine(), pull_seconds=0.3)
    begun = time.monotonic()
    await asyncio.gather(*(host(f"run -d --name n{number} image") for number in range(5)))
    took = time.monotonic() - begun
    assert 0.3 <= took < 0.6
    assert (await host("pull image")).out.endswith("image\n")
    assert (await host("images --format '{{.Repository}}:{{.Tag}}'")).out == "image:latest\n"


async def test_run_in_the_foreground(real: Host) -> None:
    """Output on both streams, exit codes of programs and of signals, and --rm."""
    said = await real("run --rm --name one image -c 'echo out; echo err >&2; exit 3'")
    assert (said.code, said.out) == (3, "out\n")
    assert said.err.endswith("err\n")
    assert (await real("ps -aq")).out == ""
    assert (await real("run --rm image -c 'kill -9 $$'")).code == 137
    assert (await real("run --rm -i image -c cat", b"input")).out == "input"


async def test_run_of_a_program_that_does_not_exist(real: Host) -> None:
    """127 and 126, in runc's words; the container stays, created."""
    missing = await real("run --name one --entrypoint nonsense image")
    assert missing.code == 127
    assert 'exec: "nonsense": executable file not found in $PATH' in missing.err
    assert (await real("inspect -f '{{.State.Status}} {{.State.ExitCode}}' one")).out == (
        "created 127\n"
    )
    assert (await real("run --rm --entrypoint /etc/passwd image")).code == 126
    await real("run -d --name two image -c 'sleep 100'")
    executed = await real("exec two nonsense")
    assert executed.code == 127
    assert executed.err.startswith("OCI runtime exec failed")


async def test_environment_of_a_container(real: Host) -> None:
    """env-file, -e over it, only what was given; a clean environment otherwise."""
    (real.folder / "root/etc").mkdir()
    (real.folder / "root/etc/x.env").write_text("# comment\nA=1\nB=two words\n\nC\n D=4\n")
    said = await real("run --rm --network=host --env-file /etc/x.env -e A=9 image -c env")
    values = dict(line.split("=", 1) for line in said.out.splitlines())
    assert (values["A"], values["B"], values["D"]) == ("9", "two words", "4")
    assert "C" not in values
    assert values["HOSTNAME"] == "vm"
    assert values["LANG"] == "C.UTF-8"
    # Short, for Unix sockets, and yet the container's own.
    assert len(values["TMPDIR"]) < 40
    said = await real("run --rm image -c 'cd $TMPDIR && pwd -P'")
    assert said.out.startswith(f"{real.folder}/")
    known = {"A", "B", "D", "HOSTNAME", "LANG", "TMPDIR", "HOME", "PATH", "PWD", "OLDPWD", "_"}
    assert set(values) - known - {"SHLVL"} == {"GCP_EMULATOR_CONTAINER"}
    (real.folder / "root/etc/x.env").write_text("A B=1\n")
    assert (await real("run --env-file /etc/x.env image")).code == 125


async def test_exec(real: Host) -> None:
    """Same folder and environment, its own variables, folder, input and exit code."""
    await real("run -d --name one -e A=1 image -c 'sleep 100'")
    said = await real("exec -e B=2 one /bin/sh -c 'echo $A $B; exit 7'")
    assert (said.code, said.out) == (7, "1 2\n")
    assert (await real("exec -i one cat", b"in")).out == "in"
    assert (await real("exec one cat", b"not read")).out == ""
    await real("exec one mkdir sub")
    assert Path((await real("exec -w /sub one pwd")).out.strip()).parts[-2:] == ("work", "sub")
    assert (await real("exec -w /../../.. one pwd")).out.endswith("/one/work\n")
    assert (await real("exec -w /missing one pwd")).code == 127
    assert (await real("exec -it one cat")).code == 1
    assert (await real("exec -t one tty")).out.startswith("/dev/pts/")
    assert (await real("exec one ps --not-a-docker-flag")).code != 125
    await real("stop -t 0 one")
    stopped = await real("exec one true")
    assert (stopped.code, "is not running" in stopped.err) == (1, True)


async def test_stop_gives_time_and_then_kills(real: Host) -> None:
    """TERM is trapped; a deaf program is killed after the grace."""
    await real(
        "run -d --name polite image -c 'trap \"exit 4\" TERM; while :; do sleep 0.02; done'"
    )
    await real("run -d --name deaf image -c 'trap \"\" TERM; while :; do sleep 0.02; done'")
    await asyncio.sleep(0.2)
    await real("stop polite")
    begun = time.monotonic()
    await real("stop -t 0.3 deaf")
    assert 0.3 <= time.monotonic() - begun < 3
    codes = "inspect -f '{{.State.ExitCode}}'"
    assert (await real(f"{codes} polite")).out == "4\n"
    assert (await real(f"{codes} deaf")).out == "137\n"


async def test_restart_policies(real: Host) -> None:
    """on-failure starts again as often as allowed, not after success and not after a stop."""
    await real("run -d --name bad --restart on-failure:2 image -c 'echo again; exit 1'")
    await real("run -d --name good --restart on-failure image -c 'exit 0'")
    deadline = time.monotonic() + 10
    while (await real("inspect -f '{{.RestartCount}} {{.State.Status}}' bad")).out != "2 exited\n":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert (await real("logs bad")).out == "again\n" * 3
    assert (await real("inspect -f '{{.RestartCount}}' good")).out == "0\n"


async def test_logs(real: Host) -> None:
    """Streams apart, tail, timestamps, since; bytes as they were, an unfinished line too."""
    await real(
        "run --name one image -c 'for n in 1 2 3 4 5; do echo $n; done; echo e >&2; printf end'"
    )
    said = await real("logs one")
    assert (said.out, said.err) == ("1\n2\n3\n4\n5\nend", "e\n")
    tail = await real("logs --tail 2 one")
    assert len(tail.out.split() + tail.err.split()) == 2
    assert (await real("logs -n 0 one")).out == ""
    assert (await real("logs --tail all one")).out == said.out
    stamped = (await real("logs -t one")).out.splitlines()[0]
    stamp, text = stamped.split()
    assert (text, stamp[-1], len(stamp)) == ("1", "Z", 30)
    assert (await real(f"logs --since {stamp} one")).out == said.out
    assert (await real("logs --since 2100-01-01T00:00:00Z one")).out == ""
    assert (await real("logs --since 10m one")).out == said.out
    assert (await real("logs --since yesterday one")).code == 1
    assert (await real("logs -f one")).out == said.out


async def test_children_die_with_their_container(real: Host) -> None:
    """A daemon with a session of its own does not outlive PID 1."""
    script = "setsid sleep 321 >/dev/null 2>&1 & echo $!; exec sleep 100"
    await real(f"run -d --name one image -c '{script}'")
    deadline = time.monotonic() + 10
    while not (pid := (await real("logs one")).out.strip()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert lives(pid)
    await real("kill one")
    await ended(real, "one")
    assert not lives(pid)


def lives(pid: str) -> bool:
    """Whether a process exists and is no zombie (proc(5))."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] not in "ZX"


async def test_output_of_a_container_is_not_decoded(real: Host) -> None:
    """Any bytes come back as they were."""
    program = "import os; os.write(1, bytes(range(256)) * 300)"
    await real(f'run --name one --entrypoint {sys.executable} image -c "{program}"')
    got = b""

    async def sink(_stream: int, data: bytes) -> None:
        nonlocal got
        got += data

    assert await real.docker(["logs", "one"], Streams(sink=sink)) == 0
    assert got == bytes(range(256)) * 300


@hypothesis.given(
    writes=strategies.lists(
        strategies.tuples(
            strategies.sampled_from([1, 2]),
            strategies.binary(max_size=40) | strategies.just(b"x" * 20_000),
        ),
        max_size=12,
    ),
    tail=strategies.integers(0, 12),
)
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
async def test_a_log_keeps_every_byte(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes]], tail: int
) -> None:
    """Per stream the entries join to what was written; the tail is the end of the whole."""
    log = Log(tmp_path_factory.mktemp("log") / "log")
    for stream, data in writes:
        log.append(stream, data)
    log.flush()
    entries = [entry async for entry in log.entries()]
    for stream in (1, 2):
        written = b"".join(data for at, data in writes if at == stream)
        assert b"".join(entry.data for entry in entries if entry.stream == stream) == written
    last = [entry async for entry in log.entries(tail=tail)]
    assert last == (entries[-tail:] if tail else [])


async def test_an_end_while_the_last_line_is_taken(tmp_path: Path) -> None:
    """Who follows a log slowly hears of its end, too, although nobody tells it twice."""
    log, ended = Log(tmp_path / "log"), asyncio.Event()
    log.append(1, b"first\n")

    async def follow() -> list[bytes]:
        seen = []
        async for entry in log.entries(follow=lambda: not ended.is_set()):
            seen.append(entry.data)
            ended.set()
            log.flush()
        return seen

    assert await asyncio.wait_for(follow(), 5) == [b"first\n"]


@pytest.mark.parametrize(
    "image",
    [
        "a", "a:b", "a/b", "localhost:5000/a", "europe-docker.pkg.dev/p-1/r_x/i:1.0-b",
        "a@sha256:" + "0" * 64, "x.y/z:1@sha256:" + "f" * 64, "a--b", "a__b", "HOST.example/a",
    ],
)  # fmt: skip
def test_images_that_docker_accepts(image: str) -> None:
    """Valid references."""
    check_image(image)


@pytest.mark.parametrize(
    "image",
    ["", "A", "a/B", "a:", "a:-b", "a//b", "/a", "a/", "a b", "a:b:c", "-a", "a_", "a@sha256:12"],
)
def test_images_that_docker_refuses(image: str) -> None:
    """Invalid references."""
    with pytest.raises(DockerError, match="invalid reference format"):
        check_image(image)
