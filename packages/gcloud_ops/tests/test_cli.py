"""`gcloud-ops`: every command against a local cloud, and what people and scripts see of it."""

import ast
import inspect
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gcloud_ops
from gcloud_ops import errors, groups, instances, objects, sweeps, templates
from gcloud_ops.cli import output
from gcloud_ops.cli.output import ExitCode
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Experiment, Manifest
from gcloud_ops.errors import GcloudOpsError, InvalidRequest, NotFound
from gcloud_ops.model import ExperimentStatus, Member, Observation, Snapshot
from gcloud_ops.settings import Settings

from .commands import Run, play_runner, runner, surroundings_of

BIN = Path(sys.executable).parent


@pytest.fixture
def surroundings(settings: Settings, template: str) -> dict[str, str]:
    """Environment variables that lead a command to the local cloud."""
    return surroundings_of(settings, template=template)


@pytest.fixture
def ops(
    surroundings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command line in this process; that spares Google's imports, which cost seconds."""
    return runner(surroundings, monkeypatch, capsys)


@pytest.fixture
def named(request: pytest.FixtureRequest, clients: Clients) -> Iterator[str]:
    """A sweep's name of the test's own; what is left of it on Compute Engine is removed."""
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:40].rstrip("-")
    yield name
    for group in groups.list_groups(clients):
        if group.name.startswith(name):
            groups.delete_group(clients, group.name, wait=False)


def put(clients: Clients, name: str, data: bytes) -> None:
    """Upload an object."""
    clients.storage.bucket(clients.settings.bucket_name).blob(name).upload_from_string(data)


# ---------------------------------------------------------------------------- the parser


def test_help_is_quick_and_imports_nothing() -> None:
    """`--help` pays for the parser alone."""
    program = (
        "import sys; from gcloud_ops.cli import run; run(['sweep', '--help']);"
        "print([m for m in ('google', 'asyncssh', 'pydantic', 'yaml', 'gcloud_ops.sweeps')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "launch" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    timings = []
    for _ in range(3):
        begin = time.monotonic()
        subprocess.run([BIN / "gcloud-ops", "--help"], capture_output=True, check=True)
        timings.append(time.monotonic() - begin)
    assert min(timings) < 0.5


def test_importing_the_package_imports_no_client() -> None:
    """Its public names are all there, sorted, and loaded at their first use only."""
    program = (
        "import sys, gcloud_ops; gcloud_ops.GcloudOpsError; gcloud_ops.Settings;"
        "print([m for m in ('google', 'asyncssh', 'pydantic', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n", done.stderr
    names = gcloud_ops.__all__
    assert names == sorted(names)
    assert all(getattr(gcloud_ops, name) is not None for name in names)
    assert set(names) <= set(dir(gcloud_ops))
    imported = {
        alias.name
        for node in ast.walk(ast.parse(inspect.getsource(gcloud_ops)))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gcloud_ops.")
        for alias in node.names
    }
    assert imported | {"__version__"} == set(names), "what type checkers see is what there is"
    with pytest.raises(AttributeError):
        _ = gcloud_ops.nonsense


def test_global_options_before_and_after_the_command(ops: Run) -> None:
    """Both places, long and short."""
    for arguments in (
        ("--output", "json", "-id", "local", "instances", "list", "--zone", "europe-west1-c"),
        ("instances", "list", "--output=json", "--project", "local", "-zo", "europe-west1-c"),
    ):
        done = ops(*arguments)
        assert (done.code, done.json) == (0, []), done


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("swep",), "swep"),
        (("sweep", "lunch"), "lunch"),
        (("sweep", "launch", "--nmae", "x"), "--nmae"),
        (("sweep", "status"), "NAME"),
        (("sweep", "launch", "--patience", "soon", "--name", "q"), "soon"),
        (("--output", "xml", "sweep", "list"), "xml"),
        (("sweep", "launch"), "nothing to launch"),
        (("sweep", "launch", "f.yaml", "--command", "a"), "one of them"),
        (("sweep", "logs", "q", "--tail", "-1"), "--tail"),
        (("template", "create", "t"), "--image"),
        (("template", "create", "t", "--image", "i", "--env", "A"), "NAME=VALUE"),
        (("--local", "--endpoint", "http://127.0.0.1:1", "sweep", "list"), "one of them"),
        (("--endpoint", "http://example.com", "sweep", "list"), "endpoint"),
        (("--project", "No Such", "sweep", "list"), "project"),
        (("bucket", "pull", "/"), "path"),
    ],
)
def test_usage_errors(ops: Run, arguments: tuple[str, ...], named: str) -> None:
    """One line on standard error that names what is wrong, nothing on standard output, code 2."""
    done = ops(*arguments)

    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert named in done.err
    assert done.err.startswith("gcloud-ops: ")
    assert len(done.err.splitlines()) == 1, done.err


def test_every_error_has_its_exit_code() -> None:
    """The table of codes knows each class of the tree, and a new class gets its parent's."""
    codes = {
        name: output.exit_code_for(getattr(errors, name)("x")).name for name in errors.__all__
    }

    assert codes == {
        "AlreadyExists": "USAGE",
        "ContainerFailed": "EXPERIMENTS_FAILED",
        "CredentialsMissing": "REFUSED",
        "GcloudOpsError": "UNAVAILABLE",
        "HostKeyMismatch": "REFUSED",
        "InvalidRequest": "USAGE",
        "NoCapacity": "UNAVAILABLE",
        "NotFound": "NOT_FOUND",
        "NotReady": "UNAVAILABLE",
        "OperationFailed": "UNAVAILABLE",
        "PermissionDenied": "REFUSED",
        "QuotaExceeded": "REFUSED",
        "Unavailable": "UNAVAILABLE",
    }

    class Newer(NotFound):
        """One that the table doesn't know."""

    assert output.exit_code_for(Newer("x")) is ExitCode.NOT_FOUND
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 130]


def test_an_unforeseen_error_keeps_its_traceback() -> None:
    """Only what is raised on purpose becomes one line."""

    def break_down() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        output.under_guard("gcloud-ops", break_down)


def test_a_cloud_that_does_not_answer(ops: Run) -> None:
    """One line, code 5."""
    done = ops("--endpoint", "http://127.0.0.1:9", "template", "list")

    assert done.code == ExitCode.UNAVAILABLE
    assert len(done.err.splitlines()) == 1


# ------------------------------------------------------------------------------ templates


def test_templates(ops: Run) -> None:
    """Create with the original's defaults, list, show, delete."""
    made = ops(
        *("template", "create", "by-hand", "--image", "local/x:1", "--env", "A=b=c"),
        *("--env", "B=", "--tracking-uri", "http://10.0.0.2:5000"),
    )
    listed = ops("template", "list", "--output", "json")
    shown = ops("template", "show", "by-hand")
    gone = ops("template", "delete", "by-hand")

    assert made.code == 0, made.err
    (found,) = (it for it in listed.json if it["name"] == "by-hand")
    assert (found["machine_type"], found["disk_gb"], found["disk_type"]) == (
        "n2-highcpu-8",
        20,
        "pd-ssd",
    )
    assert found["environment"] == {
        "gce_zone": "europe-west1-b",
        "gce_project_id": "local",
        "A": "b=c",
        "B": "",
        "MLFLOW_TRACKING_URI": "http://10.0.0.2:5000",
    }
    assert "environment gce_zone" in shown.out
    assert (gone.code, gone.out) == (0, "")
    assert ops("template", "show", "by-hand").code == ExitCode.NOT_FOUND
    assert ops("template", "delete", "by-hand").code == ExitCode.NOT_FOUND


# --------------------------------------------------------------------------------- sweeps


def test_the_life_of_a_sweep(ops: Run, named: str, tmp_path: Path) -> None:
    """Launch from a file, look at it in every way, cancel, delete."""
    file = tmp_path / "sweep.yaml"
    file.write_text("name: other\nbase: train\nseeds: 2\n")

    launch = ("sweep", "launch", file, "--name", named, "--dispatch", "ssh")
    launched = ops(*launch, "--output", "json")

    assert launched.code == 0, launched.err
    assert launched.json["sent"] == 2
    assert "2 instances of n2-highcpu-8 in europe-west1-b" in launched.err
    assert f"{named}-0001: command sent" in launched.err
    first = next(it for it in ops("sweep", "list", "--output", "json").json if it["name"] == named)
    assert (first["experiments"], first["group"]["target_size"]) == (2, 2)
    status = ops("sweep", "status", named)
    assert status.code == 0
    assert [line.split()[:2] for line in status.out.splitlines()[1:]] == [
        [f"{named}-0001", "starting"],
        [f"{named}-0002", "starting"],
    ]
    assert "2 starting" in status.err
    assert f"{named}-0002" in ops("instances", "list", named).out
    found = ops("containers", "list", named)
    assert found.code == 0, found.out
    assert found.out.count("running") == 2
    assert ops("sweep", "launch", file, "--name", named).code == ExitCode.USAGE

    unasked = ops("sweep", "cancel", named)
    assert (unasked.code, "--yes" in unasked.err) == (ExitCode.USAGE, True)
    refused = ops("sweep", "delete", named, "--yes")
    assert (refused.code, "cancel" in refused.err) == (ExitCode.USAGE, True)
    assert ops("sweep", "cancel", named, "--yes").code == 0
    seen = ops("sweep", "status", named, "--output", "json").json
    assert (seen["counts"], seen["final"], seen["group_exists"]) == ({"cancelled": 2}, True, False)
    assert ops("sweep", "watch", named).code == ExitCode.EXPERIMENTS_FAILED
    assert ops("sweep", "delete", named, "-y").code == 0
    for command in ("status", "watch", "logs", "cancel", "delete"):
        assert ops("sweep", command, named).code == ExitCode.NOT_FOUND


def test_a_dry_run_makes_nothing(ops: Run, named: str, clients: Clients) -> None:
    """The plan and its cost, for people and as JSON; no sweep, no group, no template."""
    before = {it.name for it in templates.list_templates(clients)}
    launch = ("sweep", "launch", "--name", named, "--command", "a", "--command", "b", "--dry-run")
    terms = ("--spot", "--max-hours", "10", "--hours", "2", "--retry", "2")
    zones = ("--zones", "europe-west1-b,europe-west1-c")
    machines = ("--machine-type", "n2-highcpu-8", "--machine-type", "e2-standard-4")

    told = ops(*launch, *terms, *zones, *machines)
    data = ops(*launch, *terms, "--output", "json").json

    assert told.code == 0, told.err
    assert "n2-highcpu-8 or e2-standard-4 in europe-west1-b or europe-west1-c" in told.err
    cost = r"cost: \$\S+ an hour for each, \$\S+ for all as Spot VMs \(on demand \$"
    assert re.search(cost, told.err)
    assert "(each VM ends after 10 h)" in told.err
    assert (data["spot"], data["seconds"], data["zones"]) == (True, 36000, [])
    assert data["retry"]["times"] == 2
    assert data["cost"]["at_most"] > data["cost"]["expected"] > 0
    assert data["dispatch"] == "boot"
    assert groups.get_group(clients, named) is None
    assert {it.name for it in templates.list_templates(clients)} == before
    with pytest.raises(NotFound):
        sweeps.status(named, clients)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--zone", "europe-west1-b", "--zones", "europe-west1-c"), "--zone and --zones"),
        (("--zones", "europe-west1-b,us-east1-b"), "zones: "),
        (("--machine-type", "N2"), "machines: 'N2'"),
        (("--max-hours", "0"), "max_hours: 0"),
        (("--max-cost", "0.01"), "max-cost: "),
        (("--retry", "99"), "retry.times: 99"),
    ],
)
def test_flags_that_cannot_be(ops: Run, named: str, flags: tuple[str, ...], said: str) -> None:
    """One line that names the flag's field; nothing is made."""
    refused = ops("sweep", "launch", "--name", named, "--command", "a", *flags)

    assert refused.code == ExitCode.USAGE
    assert said in refused.err
    assert ops("sweep", "status", named).code == ExitCode.NOT_FOUND


def test_delete_with_force(ops: Run, named: str, clients: Clients) -> None:
    """Takes the instances too."""
    ops("sweep", "launch", "--name", named, "--command", "a")

    assert ops("sweep", "delete", named, "--yes", "--force").code == 0
    assert groups.get_group(clients, named) is None
    with pytest.raises(NotFound):
        sweeps.status(named, clients)


@pytest.mark.parametrize(("ending", "code"), [("finished", 0), ("failed", 1)])
def test_launch_to_the_end(
    ops: Run, named: str, clients: Clients, tmp_path: Path, *, ending: str, code: int
) -> None:
    """With --watch and --pull: the report, the results, the failed one's last lines, the code."""
    name = f"{named}-{ending}"

    def end() -> None:
        """Play the second's runner, and that of the first, with which the group goes."""
        ids = [f"{name}-0001", f"{name}-0002"]
        while not groups.list_members(clients, name):
            time.sleep(0.05)
        log = b"".join(b"line %d\n" % n for n in range(20)) + b"\x1b]0;title\x07[red]end[/red]\n"
        for experiment, state in zip(ids, ("finished", ending), strict=True):
            put(clients, f"{name}/{experiment}/log/1/000000000000.log", log)
            put(clients, f"{name}/{experiment}/output/model.zip", b"model")
            play_runner(clients, name, experiment, state)
        while {it.status for it in instances.list_instances(clients, group=name)} != {"RUNNING"}:
            time.sleep(0.05)
        groups.delete_instances(clients, name, ids)

    runner = threading.Thread(target=end)
    runner.start()
    done = ops(
        *("sweep", "launch", "--name", name, "--command", "a", "--command", "b"),
        *("--watch", "--pull", tmp_path, "--output", "json"),
    )
    runner.join()

    assert done.code == code, done.err
    first, second = done.json["experiments"]
    assert (first["status"], second["status"]) == ("finished", ending)
    assert (first["episode"], first["episodes"], first["mean_reward"]) == (2, 2, -212.5)
    assert (first["exit_code"], second["exit_code"]) == (0, 3 * code)
    assert first["output"] == f"gs://local-experiments-storage/{name}/{name}-0001/output/"
    assert (tmp_path / name / f"{name}-0001/output/model.zip").read_bytes() == b"model"
    assert f"{name}-0001 finished episode 2/2 mean reward -212.50 exit 0" in done.err
    assert ("    line 19\n    [red]end[/red]\n" in done.err) == bool(code)
    assert "\x1b" not in done.err
    assert groups.get_group(clients, name) is None, "the watch removes the empty group"
    table = ops("sweep", "watch", name)
    assert table.code == code
    assert f"{name}-0002  {ending}" in table.out
    assert f"{name}-0001  log " in table.out


@pytest.mark.slow
def test_new_name(ops: Run, named: str, clients: Clients) -> None:
    """The next free name is taken when asked for; experiments are named after it."""
    launch = ("sweep", "launch", "--name", named, "--command", "a", "--new-name")
    for expected in (named, f"{named}-2", f"{named}-3"):
        done = ops(*launch, "--output", "json")
        assert done.json["sweep"] == expected, done.err
    assert sweeps.status(f"{named}-3", clients).rows[0].id == f"{named}-3-0001"


def test_logs(ops: Run, named: str, clients: Clients) -> None:
    """One log as it is, several with numbers before the lines; cleaned; the last lines only."""
    ops("sweep", "launch", "--name", named, "--command", "a", "--command", "b")
    for number in (1, 2):
        log = b"one\r\n\x1b[31mtw\xc3\xb6\x1b[0m\n[b]three %d" % number
        put(clients, f"{named}/{named}-{number:04d}/log/1/000000000000.log", log)
        play_runner(clients, named, f"{named}-{number:04d}")

    assert ops("sweep", "logs", named, "2").out == "one\ntwö\n[b]three 2\n"
    assert ops("sweep", "logs", named, f"{named}-0001", "--tail", "1").out == "[b]three 1\n"
    assert sorted(ops("sweep", "logs", named, "--follow").out.splitlines()) == [
        "0001 | [b]three 1",
        "0001 | one",
        "0001 | twö",
        "0002 | [b]three 2",
        "0002 | one",
        "0002 | twö",
    ]
    missing = ops("sweep", "logs", named, "9")
    assert (missing.code, f"{named}-0001 to {named}-0002" in missing.err) == (3, True)


def test_bucket(ops: Run, clients: Clients, tmp_path: Path) -> None:
    """List a level, a folder, an object; pull by path or gs:// address."""
    objects.ensure_bucket(clients, clients.settings.bucket_name)
    put(clients, "things/a/one.txt", b"1")
    put(clients, "things/b.txt", b"22")

    assert "things/" in ops("bucket", "ls").out
    for path in ("things", "things/", "gs://local-experiments-storage/things"):
        lines = ops("bucket", "ls", path).out.splitlines()[1:]
        assert [line.split()[-1] for line in lines] == ["things/a/", "things/b.txt"]
    assert ops("bucket", "ls", "things/b.txt", "--output", "json").json[0]["size"] == 2
    assert ops("bucket", "ls", "nothing").code == ExitCode.NOT_FOUND
    pulled = ops("bucket", "pull", "things", tmp_path / "here", "--output", "json")
    assert pulled.json == [str(tmp_path / "here/a/one.txt"), str(tmp_path / "here/b.txt")]
    assert (tmp_path / "here/a/one.txt").read_bytes() == b"1"
    assert ops("bucket", "pull", "nothing", tmp_path).code == ExitCode.NOT_FOUND


def test_instances_that_cannot_be_asked_are_rows(
    ops: Run, named: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers of an instance that refuses SSH: a row that says why, and code 5."""
    ops("sweep", "launch", "--name", named, "--command", "a")
    monkeypatch.setenv("GCLOUD_OPS_SSH_PORT", "1")

    done = ops("containers", "list", named, "--output", "json")

    assert done.code == ExitCode.UNAVAILABLE
    (row,) = done.json
    assert (row["instance"], row["state"]) == (f"{named}-0001", "unknown")
    assert row["status"]
    assert ops("ssh", f"{named}-0001", "--", "true").code == ExitCode.UNAVAILABLE
    assert ops("ssh", "nobody-0001").code == ExitCode.NOT_FOUND
    assert ops("containers", "list", "nobody").code == ExitCode.NOT_FOUND


# ------------------------------------------------------------------ terminals and signals


@pytest.mark.slow
def test_interrupt_leaves_the_sweep(
    surroundings: dict[str, str], named: str, clients: Clients
) -> None:
    """Ctrl-C ends the command with 130 and says how to go on; the sweep is as it was."""
    launch = ("sweep", "launch", "--name", named, "--command", "a", "--dispatch", "ssh")
    process = subprocess.Popen(
        [BIN / "gcloud-ops", *launch, "--watch"],
        env={**os.environ, **surroundings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = ""
    while "command sent" not in told:
        told += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert (process.returncode, out) == (ExitCode.INTERRUPTED, "")
    verbs = ("resume", "watch", "cancel")
    assert ", ".join(f"`gcloud-ops sweep {verb} {named}`" for verb in verbs) in err
    assert "Traceback" not in err
    assert groups.get_group(clients, named) is not None


@pytest.mark.slow
def test_ssh(ops: Run, surroundings: dict[str, str], named: str) -> None:
    """What follows `--` is the command's, options and all; its exit code is ours."""
    ops("sweep", "launch", "--name", named, "--command", "a", "--dispatch", "ssh")
    for command, code, told in (
        (["docker", "ps", "--format", "{{.Names}} {{.State}}"], 0, "sinergym running\n"),
        (["exit 7"], 7, ""),
    ):
        done = subprocess.run(
            [BIN / "gcloud-ops", "ssh", f"{named}-0001", "--", *command],
            env={**os.environ, **surroundings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, told), done.stderr


@pytest.mark.slow
def test_on_a_terminal(surroundings: dict[str, str], named: str, clients: Clients) -> None:
    """A launch draws a live picture there, and a cancel asks first."""
    launch = ["sweep", "launch", "--name", named, "--command", "a", "--command", "b"]
    launched = on_terminal([*launch, "--dispatch", "ssh"], surroundings)
    refused = on_terminal(["sweep", "cancel", named], surroundings, answer=b"n\n")
    assert groups.get_group(clients, named) is not None
    agreed = on_terminal(["sweep", "cancel", named], surroundings, answer=b"y\n")

    assert "commands sent" in launched
    assert "\x1b[?25l" in launched, "the cursor is hidden while a picture is drawn"
    assert "\x1b[?25h" in launched, "and is back after it"
    assert "2 commands sent" in launched
    assert f"Cancel sweep {named} and remove its 2 instances? [y/N]" in refused
    assert "2 cancelled: over" in agreed
    assert groups.get_group(clients, named) is None


def on_terminal(arguments: list[str], surroundings: dict[str, str], answer: bytes = b"") -> str:
    """Run a command on a terminal of its own; answer its first question."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [BIN / "gcloud-ops", *arguments],
        env={**os.environ, **surroundings, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    told = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([controller], [], [], 1)[0]:
            continue
        try:
            chunk = os.read(controller, 1 << 16)
        except OSError:  # how the end of a terminal is told
            break
        if not chunk:
            break
        told += chunk
        if answer and b"[y/N]" in told:
            os.write(controller, answer)
            answer = b""
    process.wait(10)
    os.close(controller)
    return told.decode()


# ------------------------------------------------------------------------------- output


NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def snapshot(*rows: Observation, group: bool, age: float = 600) -> Snapshot:
    """A view of a sweep that was launched so many seconds ago."""
    manifest = Manifest(
        sweep="q",
        created=NOW - timedelta(seconds=age),
        project="p",
        zone="z",
        template="t",
        dispatch=Dispatch.SSH,
        launcher={},
        experiments=(),
    )
    return Snapshot(manifest=manifest, bucket="b", rows=rows, taken=NOW, group_exists=group)


def row(status: ExperimentStatus, *, instance: bool = True, reason: str = "") -> Observation:
    """One experiment without a record."""
    member = Member(name="q-0001", status="RUNNING") if instance else None
    experiment = Experiment(id="q-0001", command="a")
    return Observation(
        experiment=experiment, member=member, record=None, status=status, reason=reason
    )


S = ExperimentStatus


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (snapshot(row(S.PENDING, instance=False), group=False), "interrupted before"),
        (snapshot(row(S.PENDING, instance=False), group=False, age=5), "being launched"),
        (snapshot(row(S.PENDING, instance=False), group=True), "the group has no instances"),
        (snapshot(row(S.WAITING), group=True), "given its command by its launcher"),
        (snapshot(row(S.UNREACHABLE), group=True), "may come back"),
        (snapshot(row(S.RUNNING), group=True), "1 running: going on"),
        (snapshot(row(S.FINISHED, instance=False), group=False), "1 finished: over"),
        (snapshot(row(S.FINISHED), group=True), "instances are being removed"),
    ],
)
def test_explanations(seen: Snapshot, told: str) -> None:
    """One line each, with what to do where there is something to do."""
    assert told in output.explain(seen)
    assert "\n" not in output.explain(seen)


def test_outside_text_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """Escapes and line ends of others neither act on a terminal nor break the table."""
    evil = "\x1b]0;owned\x07\x1b[31mred\x1b[0m\r\nnext [bold]line[/bold]"
    output.emit([row(S.FAILED, reason=evil)], output.ROWS, "table")
    output.say(evil)
    told = capsys.readouterr()

    assert len(told.out.splitlines()) == 2
    assert told.out.endswith("red next [bold]line[/bold]\n")
    assert "\x1b" not in told.out + told.err
    output.emit([row(S.FAILED, reason=evil)], output.ROWS, "json")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert json.loads(printed)[0]["reason"] == evil, "in JSON it is escaped, and all there"


def test_log_lines_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    """A line is printed when it is whole, or at the end, or when it is far too long."""
    printer = output.LogPrinter("q", prefixed=True)
    printer.print("q-0001", b"on")
    printer.print("q-0002", b"other\n")
    printer.print("q-0001", b"e\ntw\xc3")
    printer.print("q-0001", b"\xb6")
    assert capsys.readouterr().out == "0002 | other\n0001 | one\n"
    printer.close()
    assert capsys.readouterr().out == "0001 | twö\n"
    printer.print("q-0001", b"x" * 70_000)
    assert len(capsys.readouterr().out) > 70_000


def test_confirm_without_a_terminal() -> None:
    """It is refused, unless --yes was said."""
    assert output.confirm("Really?", yes=True)
    with pytest.raises(InvalidRequest, match="no terminal"):
        output.confirm("Really?", yes=False)


def test_errors_are_json_too() -> None:
    """Batches return errors as values; they print like all else."""
    error: GcloudOpsError = errors.Unavailable("no answer", hint="wait")
    assert output.as_json({"q-0001": error}) == {
        "q-0001": {"error": "Unavailable", "message": "no answer", "hint": "wait"}
    }
