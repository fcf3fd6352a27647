"""`mlflow-infra`: what people and scripts see of it, on a cloud whose VMs run nothing."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops.cli.output import ExitCode
from mlflow_infra import cli, operations
from mlflow_infra.wanted import FIREWALL, SERVER, TRAINER_FIREWALL

BIN = Path(sys.executable).parent


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.out)


type Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cloud_of: Any) -> Iterator[Any]:
    """A local cloud for the tests that don't mind what the others left."""
    started = cloud_of(tmp_path_factory.mktemp("cloud"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def infra(shared: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process, on the shared cloud."""
    return runner_on(shared, monkeypatch, capsys)


def runner_on(
    cloud: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """What runs command lines on a cloud, without a terminal."""
    for name, value in surroundings(cloud).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path, typed: str = "") -> Ended:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Ended(code, told.out, told.err)

    return run


def surroundings(cloud: Any) -> dict[str, str]:
    """Environment variables that lead a command to a cloud."""
    return {
        "GCLOUD_OPS_ENDPOINT": cloud.endpoint,
        "GCLOUD_OPS_PROJECT": cloud.settings.project,
        "GCLOUD_OPS_ZONE": cloud.settings.zone,
        "GCLOUD_OPS_SSH_PORT": str(cloud.settings.ssh_port),
    }


# ---------------------------------------------------------------------------- the parser


def test_help_is_quick_and_imports_nothing() -> None:
    """`--help` pays for the parser alone."""
    program = (
        "import sys; from mlflow_infra.cli import run; run(['up', '--help']);"
        "print([m for m in ('google', 'googleapiclient', 'mlflow', 'requests', 'asyncssh',"
        " 'pydantic', 'mlflow_infra.operations') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "--DB_ROOT_PASSWORD" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    timings = []
    for _ in range(3):
        begin = time.monotonic()
        subprocess.run([BIN / "mlflow-infra", "--help"], capture_output=True, check=True)
        timings.append(time.monotonic() - begin)
    assert min(timings) < 0.5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("upp",), "upp"),
        (("up", "--sorce-range", "10.0.0.0/8"), "--sorce-range"),
        (("up", "--patience", "soon"), "soon"),
        (("upgrade",), "IMAGE"),
        (("export",), "FOLDER"),
        (("credentials", "root"), "root"),
        (("--output", "xml", "status"), "xml"),
        (("--local", "--endpoint", "http://127.0.0.1:1", "url"), "one of them"),
        (("--endpoint", "http://example.com", "url"), "endpoint"),
        (("--project", "No Such", "url"), "project"),
        (("logs", "--lines", "-1"), "--lines"),
        (("up", "--source-range", "none", "--source-range", "10.0.0.0/8"), "none"),
        (("up", "--DB_ROOT_PASSWORD", "-"), "--DB_ROOT_PASSWORD"),
        (("credentials",), "--show"),
    ],
)
def test_usage_errors(
    arguments: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line on standard error that names what is wrong, and no cloud is asked."""
    monkeypatch.setenv("GCLOUD_OPS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    code = cli.run(arguments)

    told = capsys.readouterr()
    assert (code, told.out) == (ExitCode.USAGE, "")
    assert named in told.err
    assert told.err.startswith("mlflow-infra: ")
    assert len(told.err.splitlines()) == 1, told.err


def test_a_cloud_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, code 5."""
    monkeypatch.setenv("GCLOUD_OPS_PROJECT", "local")
    code = cli.run(["--endpoint", "http://127.0.0.1:9", "url"])

    assert code == ExitCode.UNAVAILABLE
    assert len(capsys.readouterr().err.splitlines()) == 1


# ----------------------------------------------------------------- where there is nothing


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("url",),
        ("credentials", "--show"),
        ("logs",),
        ("restart",),
        ("upgrade", "local/mlflow-server:2", "--yes"),
        ("backup",),
        ("backup", "--list"),
        ("export", "out"),
    ],
)
def test_without_a_server(
    infra: Run, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what makes one, code 3; nothing is written."""
    monkeypatch.chdir(tmp_path)

    done = infra(*arguments)

    assert (done.code, done.out) == (ExitCode.NOT_FOUND, "")
    assert "`mlflow-infra up` makes one" in done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_first_up(infra: Run, shared: Any) -> None:
    """All is missing, each with its price; and nothing is made."""
    shared.calls()

    done = infra("up", "--plan", "--tier", "db-g1-small")

    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["RESOURCE", "STATE", "$", "A", "MONTH", "DIFFERENCES"]
    assert any(line.startswith(f"server {SERVER}") and "missing" in line for line in lines)
    assert "a month" in done.err
    assert "127.0.0.1/32" in done.err
    assert "bucket local-mlflow" in done.err
    changing = ("insert", "create", "set", "patch", "update", "enable", "delete", "add")
    assert not [it for it in shared.calls() if it.rpartition(".")[2].lower().startswith(changing)]
    found = infra("up", "--plan", "--output", "json").json
    assert found["monthly"] > 0
    assert found["infrastructure"]["bucket"] == "local-mlflow"
    assert {it["seen"]["state"] for it in found["findings"]} <= {"missing", "there"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--source-range", "10.0.0.1/8"), "10.0.0.1/8"),
        (("--source-range", "everybody"), "everybody"),
        (("--tier", "big"), "--tier"),
        (("--image", "-v"), "image"),
    ],
)
def test_up_refuses_what_cannot_be(
    infra: Run, shared: Any, options: tuple[str, ...], named: str
) -> None:
    """One line, before anything is made."""
    shared.calls()

    done = infra("up", "--yes", *options)

    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert named in done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert not [it for it in shared.calls() if "insert" in it or "create" in it]


def test_up_asks_for_a_terminal(infra: Run, shared: Any) -> None:
    """Without one and without --yes: what would be made, a line that says so, and nothing made."""
    shared.calls()

    done = infra("up")

    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "--yes" in done.err.splitlines()[-1]
    assert not [it for it in shared.calls() if "insert" in it or "create" in it]


def test_nothing_to_take_down(infra: Run) -> None:
    """It is said, and is no error: what was asked for is so."""
    done = infra("down", "--yes")

    assert (done.code, done.out) == (ExitCode.DONE, "")
    assert "nothing to remove" in done.err


# -------------------------------------------------------------------------- a whole life


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_life_of_a_server(
    cloud: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Up with options, which hold; looked at in every way; down, up again, and away."""
    infra = runner_on(cloud, monkeypatch, capsys)
    accounts = cloud.clients.api("iam", "v1").projects().serviceAccounts()
    body = {"accountId": "trainers", "serviceAccount": {}}
    cloud.clients.execute("account", accounts.create(name="projects/local", body=body))
    up = infra(
        *("up", "--yes", "--patience", "0", "--image", "local/mlflow-server:1"),
        *("--source-range", "127.0.0.0/8", "--source-range", "10.1.2.3"),
        *("--trainer-account", "trainers@local.iam.gserviceaccount.com"),
        *("--machine-type", "e2-small", "--BUCKET_NAME", "my-mlflow"),
        *("--DB_ROOT_PASSWORD", "-"),
        typed="a-password-of-mine\n",
    )
    assert up.code == 0, up.err
    assert up.out.startswith("http://127.")
    assert "a-password-of-mine" not in up.out + up.err

    found = operations.found(cloud.clients)
    assert found is not None
    assert set(found.source_ranges) == {"127.0.0.0/8", "10.1.2.3/32"}
    assert found.trainer_account == "trainers@local.iam.gserviceaccount.com"
    assert (found.image, found.machine_type) == ("local/mlflow-server:1", "e2-small")
    assert (found.bucket, found.zone) == ("my-mlflow", cloud.clients.zone)

    cloud.calls()
    again = infra("up", "--patience", "0")
    assert (again.code, again.out) == (0, up.out), again.err
    assert all("as it should be" in line for line in again.err.splitlines()[:-1]), again.err
    changing = ("insert", "create", "set", "patch", "update", "enable", "delete", "add")
    assert not [it for it in cloud.calls() if it.rpartition(".")[2].lower().startswith(changing)]

    looks_at_it(infra, up.out.strip())
    refuses_to_move_it(infra)
    keeps_it(infra)
    upgrade = infra("upgrade", "local/mlflow-server:2", "--yes", "--patience", "0.5")
    assert (upgrade.code, upgrade.out) == (ExitCode.UNAVAILABLE, "")
    assert "restoring backup" in upgrade.err
    assert "so did going back to local/mlflow-server:1" in upgrade.err, "no server is ever well"
    back = operations.found(cloud.clients)
    assert back == found
    assert infra("upgrade", "not an image", "--yes").code == ExitCode.USAGE

    status = infra("status", "--output", "json")
    assert status.code == ExitCode.EXPERIMENTS_FAILED
    checks = {it["name"]: it for it in status.json["checks"]}
    assert checks[f"server {SERVER}"]["is_good"]
    assert (checks["health"]["is_good"], checks["login"]["detail"]) == (False, "not tried")
    assert "not well: health" in status.err

    goes_down(infra, cloud)


def looks_at_it(infra: Run, uri: str) -> None:
    """`url`, `credentials`, `logs`."""
    assert infra("url").out == f"{uri}\n"
    assert infra("url", "--output", "json").json == {"url": uri}
    hidden = infra("credentials", "admin")
    assert (hidden.code, hidden.out) == (ExitCode.USAGE, "")
    shown = infra("credentials", "admin", "--show", "--output", "json").json
    assert (shown["url"], shown["username"]) == (uri, "admin")
    trainer = infra("credentials", "--export").out.splitlines()
    assert trainer[:2] == [
        f"export MLFLOW_TRACKING_URI={uri}",
        "export MLFLOW_TRACKING_USERNAME=trainer",
    ]
    assert shown["password"] not in trainer[2]
    assert infra("logs", "--boot", "--lines", "5").code == 0
    lines = infra("logs", "--boot", "--lines", "5", "--output", "json").out.splitlines()
    assert lines
    assert all([*json.loads(line)] == ["line"] for line in lines)


def refuses_to_move_it(infra: Run) -> None:
    """Another bucket or zone would leave the data behind."""
    for option, value in (("--bucket", "another-one"), ("--zone", "europe-west4-a")):
        moved = infra("up", "--yes", option, value)
        assert (moved.code, value in moved.err) == (ExitCode.USAGE, True), moved.err


def keeps_it(infra: Run) -> None:
    """Backups have an id and a time."""
    made = infra("backup", "--output", "json")
    assert made.code == 0, made.err
    (backup,) = made.json
    assert (backup["status"], backup["kind"]) == ("SUCCESSFUL", "ON_DEMAND")
    assert backup["time"]
    listed = infra("backup", "--list")
    assert backup["id"] in listed.out


def goes_down(infra: Run, cloud: Any) -> None:
    """The data stay at first; then nothing does."""
    asked = infra("down")
    assert (asked.code, "--yes" in asked.err) == (ExitCode.USAGE, True)
    assert "stays: bucket my-mlflow" in asked.err
    assert f"will be removed: server {SERVER}" in asked.err
    down = infra("down", "--yes", "--output", "json")
    assert down.code == 0, down.err
    assert f"server {SERVER}" in down.json["removed"]
    assert "bucket my-mlflow" in down.json["kept"]
    left = operations.found(cloud.clients)
    assert left is not None
    assert (left.bucket, left.source_ranges) == ("my-mlflow", ())
    assert infra("url").code == ExitCode.NOT_FOUND
    assert infra("down", "--yes").code == 0
    gone = infra("down", "--delete-data", "--yes")
    assert gone.code == 0, gone.err
    assert operations.found(cloud.clients) is None
    assert "nothing to remove" in infra("down", "--delete-data", "--yes").err


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_nobody_reaches_from_outside(
    cloud: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--source-range none` holds: the trainers' rule alone says so."""
    infra = runner_on(cloud, monkeypatch, capsys)

    up = infra("up", "--yes", "--source-range", "none", "--patience", "9")
    assert up.code == 0, up.err
    assert "waiting for http" not in up.err, "there is no way to see it from here"

    names = [it.name for it in cloud.clients.firewalls.list(project="local")]
    assert (FIREWALL in names, TRAINER_FIREWALL in names) == (False, True)
    again = infra("up", "--plan")
    assert "only the trainers" in again.err
    assert "nothing to do" in again.err


# ------------------------------------------------------------------ terminals and signals


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_password_on_the_command_line_is_warned_of(
    cloud: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is taken, others could read it, and it isn't repeated; a bad one makes nothing."""
    infra = runner_on(cloud, monkeypatch, capsys)

    bad = infra("up", "--yes", "--DB_ROOT_PASSWORD", "two words here")
    given = infra("up", "--plan", "--DB_ROOT_PASSWORD", "a-password-of-mine")

    assert bad.code == ExitCode.USAGE
    assert "can read a command line" in bad.err
    assert "two words here" not in bad.err
    assert "a-password-of-mine" not in given.out + given.err
    assert operations.found(cloud.clients) is None


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_names_are_typed_on_a_terminal(
    cloud: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`down` removes nothing for a wrong name; the right one does it. A picture shows `up`."""
    up = on_terminal(cloud, "up", "--patience", "0", answers={"[y/N]": "y"})
    assert up.code == 0, up.out
    assert "server mlflow-tracking-server: made" in up.out

    wrong = on_terminal(cloud, "down", answers={f"type {SERVER}": "yes"})
    assert (wrong.code, "nothing was removed" in wrong.out) == (ExitCode.USAGE, True)
    half = on_terminal(
        cloud,
        *("down", "--delete-data"),
        answers={f"type {SERVER}": SERVER, "type local-mlflow": "no"},
    )
    assert half.code == ExitCode.USAGE
    right = on_terminal(cloud, "down", answers={f"type {SERVER}": SERVER})
    assert right.code == 0, right.out
    assert "data are kept" in right.out


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_interrupt_leaves_what_up_goes_on_from(
    cloud: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends `up` with 130 and says how to go on; a second one has nothing left to do."""
    process = subprocess.Popen(
        [BIN / "mlflow-infra", "up", "--yes", "--patience", "60"],
        env={**os.environ, **surroundings(cloud)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("waiting for http"):
            process.send_signal(signal.SIGINT)
            break

    _, said = process.communicate(timeout=20)

    assert process.returncode == ExitCode.INTERRUPTED
    assert "`mlflow-infra up` goes on" in said
    assert len(said.splitlines()) == 1, said
    again = runner_on(cloud, monkeypatch, capsys)("up", "--plan")
    assert "nothing to do" in again.err


def on_terminal(cloud: Any, *arguments: str, answers: dict[str, str]) -> Ended:
    """Run a command on a terminal of its own; type an answer when its question appears."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [BIN / "mlflow-infra", *arguments],
        env={**os.environ, **surroundings(cloud), "TERM": "xterm", "COLUMNS": "120"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""
    waiting = dict(answers)
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([controller], [], [], 0.2)
            if ready:
                try:
                    chunk = os.read(controller, 65536)
                except OSError:  # the other end is closed: it has ended
                    break
                if not chunk:
                    break
                seen += chunk
            for question, answer in list(waiting.items()):
                if question.encode() in seen:
                    os.write(controller, f"{answer}\n".encode())
                    del waiting[question]
        code = process.wait(timeout=10)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(5)
        os.close(controller)
    return Ended(code, seen.decode("utf-8", "replace"), "")
