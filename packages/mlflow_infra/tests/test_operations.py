"""What is done with a tracking server: over HTTP with a real one, or one that answers as told."""

import contextlib
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.errors import (
    GcloudOpsError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from mlflow_infra import operations
from mlflow_infra.operations import Login, Tracking, exporting

BIN = Path(sys.executable).parent
ADMIN = Login(username="admin", password="correct horse battery")
TRAINER = Login(username="trainer", password="pässword of trainers")


@dataclass
class Told:
    """A server that answers a path as it is told, and keeps what it was asked."""

    uri: str = ""
    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)


@pytest.fixture
def told() -> Iterator[Told]:
    """A server on loopback, which knows no path at first."""
    state = Told()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.requests.append((self.command, self.path, dict(self.headers)))
            status, content = state.answers.get(self.path.partition("?")[0], (404, {}))
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", str(content))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.uri = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with contextlib.ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield state


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real tracking server with basic auth, its users, and proxied artifacts."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_username = admin\n"
        f"admin_password = {ADMIN.password}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1", "--app-name", "basic-auth"),
                *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            cwd=folder,
            env=kept
            | {
                "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN.password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            operations.wait_until_healthy(uri, seconds=120)
            Tracking(uri, ADMIN).post(
                "/api/2.0/mlflow/users/create",
                {"username": TRAINER.username, "password": TRAINER.password},
            )
            yield uri
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


# ------------------------------------------------------------------- with a real server


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_server_is_checked_from_outside(server: str) -> None:
    """All is well, each answer has its time, and nothing is left in the artifact store."""
    found = list(operations.check_server(server, trainer=lambda: TRAINER, admin=lambda: ADMIN))

    assert [(it.name, it.is_good) for it in found] == [
        ("health", True),
        ("no password", True),
        ("login", True),
        ("database", True),
        ("version", True),
        ("artifacts", True),
    ], found
    assert all(it.seconds is not None and it.seconds > 0 for it in found)
    listed = Tracking(server, ADMIN).get("/api/2.0/mlflow-artifacts/artifacts")
    assert "files" not in listed or all(
        not Tracking(server, ADMIN)
        .get("/api/2.0/mlflow-artifacts/artifacts", path=str(it["path"]))
        .get("files")
        for it in listed["files"]
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_wrong_credentials_are_found(server: str) -> None:
    """The login isn't well, nothing says the password, and the rest is still asked."""
    wrong = Login(username="trainer", password="another-secret-word")

    found = {
        it.name: it
        for it in operations.check_server(server, trainer=lambda: wrong, admin=lambda: ADMIN)
    }

    assert [name for name, it in found.items() if not it.is_good] == ["login", "database"]
    assert "401" in found["login"].detail
    assert "another-secret-word" not in str(found)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_everything_is_exported(server: str, tmp_path: Path) -> None:
    """Experiments, runs with all that they hold, each point, and files: in pages."""
    admin = Tracking(server, ADMIN)
    experiment = make_experiment(admin, "export")
    runs = [make_run(admin, experiment, points=25) for _ in range(3)]
    admin.put(f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{runs[0]}/artifacts/a/ä b", b"x")
    lines: list[str] = []

    done = operations.export(admin, tmp_path / "out", artifacts=True, tell=lines.append)

    assert (done.runs, done.points, done.artifacts, done.failed) == (3, 75, 1, 0), lines
    names = [it["name"] for it in read_lines(tmp_path / "out/experiments.jsonl")]
    assert sorted(names) == ["Default", "export"]
    written = read_lines(tmp_path / "out/runs.jsonl")
    assert {it["info"]["run_id"] for it in written} == set(runs)
    assert written[0]["data"]["params"] == [{"key": "seed", "value": "1"}]
    points = read_lines(tmp_path / "out/metrics.jsonl")
    assert sorted(it["step"] for it in points if it["run_id"] == runs[1]) == list(range(25))
    assert (tmp_path / f"out/artifacts/{runs[0]}/a/ä b").read_bytes() == b"x"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "artifacts",
        "experiments.jsonl",
        "metrics.jsonl",
        "runs.jsonl",
    ]


def make_experiment(admin: Tracking, name: str) -> str:
    """A new MLflow experiment's id."""
    made = admin.post("/api/2.0/mlflow/experiments/create", {"name": name})
    return str(made["experiment_id"])


def make_run(admin: Tracking, experiment: str, *, points: int) -> str:
    """The id of a new run with a metric of so many points."""
    made = admin.post(
        "/api/2.0/mlflow/runs/create", {"experiment_id": experiment, "start_time": 1}
    )
    run = str(made["run"]["info"]["run_id"])
    metrics = [
        {"key": "reward", "value": float(n), "timestamp": n, "step": n} for n in range(points)
    ]
    admin.post(
        "/api/2.0/mlflow/runs/log-batch",
        {"run_id": run, "metrics": metrics, "params": [{"key": "seed", "value": "1"}]},
    )
    return run


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What a file of JSON lines holds."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------- with one that is told


def test_what_depends_on_health_is_not_tried() -> None:
    """Nobody listens: one failed question, and the others say that they weren't asked."""
    begin = time.monotonic()

    found = list(
        operations.check_server(
            f"http://127.0.0.1:{free_port()}", trainer=lambda: TRAINER, admin=lambda: ADMIN
        )
    )

    assert time.monotonic() - begin < 5
    assert "no answer" in found[0].detail
    assert {(it.is_good, it.detail) for it in found[1:]} == {(False, "not tried")}


def test_a_server_that_asks_for_no_password_is_not_well(told: Told) -> None:
    """Anybody may search it: that check fails, and says what it means."""
    told.answers["/health"] = (200, "OK")
    told.answers["/api/2.0/mlflow/experiments/search"] = (200, {})

    found = {
        it.name: it
        for it in operations.check_server(told.uri, trainer=lambda: TRAINER, admin=lambda: ADMIN)
    }

    assert not found["no password"].is_good
    assert "anybody may read and write" in found["no password"].detail
    assert found["database"].is_good
    assert not found["artifacts"].is_good


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, "You are not authenticated", PermissionDenied),
        (403, {"message": "Invalid Host header"}, PermissionDenied),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}, NotFound),
        (400, {"message": "no \x1b[31msuch\n thing"}, InvalidRequest),
        (302, "http://192.0.2.1/", InvalidRequest),
        (503, "<html>", Unavailable),
    ],
)
def test_a_refusal_is_an_error_of_ours(
    told: Told, status: int, body: object, kind: type[GcloudOpsError]
) -> None:
    """One clean line, without the password; and no redirection is followed."""
    told.answers["/version"] = (status, body)

    with pytest.raises(kind) as caught:
        Tracking(told.uri, TRAINER).text("/version")

    assert "/version" in str(caught.value)
    assert TRAINER.password not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(told.requests) == 1


def test_an_answer_that_is_no_json(told: Told) -> None:
    """Something else listens there."""
    told.answers["/api"] = (200, "<html>hello</html>")

    with pytest.raises(Unavailable, match="not the answer of a tracking server"):
        Tracking(told.uri).get("/api")


def test_waiting_for_health_ends(told: Told) -> None:
    """When the server is well; or when the time is up, with its last answer."""
    told.answers["/health"] = (503, "starting")
    answers: list[str] = []
    with pytest.raises(Unavailable, match="503 starting"):
        operations.wait_until_healthy(
            told.uri, seconds=0.5, waiting=lambda _passed, last: answers.append(last)
        )
    assert all("503 starting" in answer for answer in answers)
    assert answers

    told.answers["/health"] = (200, "OK")

    assert operations.wait_until_healthy(told.uri, seconds=5) < 5
    assert all("Authorization" not in headers for _, _, headers in told.requests)


def test_an_export_into_a_folder_with_something_in_it(told: Told, tmp_path: Path) -> None:
    """It is refused before the server is asked; nothing is changed."""
    (tmp_path / "mine").write_text("x")

    with pytest.raises(InvalidRequest, match="something in it"):
        operations.export(Tracking(told.uri), tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert told.requests == []


def test_an_export_that_breaks_leaves_no_complete_file(told: Told, tmp_path: Path) -> None:
    """What has its name is whole."""
    told.answers["/api/2.0/mlflow/experiments/search"] = (
        200,
        {"experiments": [{"experiment_id": "1", "name": "one"}]},
    )
    told.answers["/api/2.0/mlflow/runs/search"] = (500, {"message": "broken"})

    with pytest.raises(Unavailable, match="broken"):
        operations.export(Tracking(told.uri), tmp_path / "out")

    assert all(path.suffix == ".part" for path in (tmp_path / "out").iterdir())


@given(st.text(min_size=1, max_size=40))
def test_a_file_of_the_servers_goes_nowhere_else(path: str) -> None:
    """Whatever a server calls an artifact, it is written below the folder, or refused."""
    root = Path("/nowhere/out")
    try:
        found = exporting._inside(root, path)
    except InvalidRequest:
        return
    assert found.is_relative_to(root)
    assert found != root
    assert ".." not in found.parts
    assert "\0" not in str(found)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "..", ".", ""])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    """A server that is not ours may answer anything."""
    with pytest.raises(InvalidRequest):
        exporting._inside(Path("/nowhere/out"), path)


# ------------------------------------------------------------------------- credentials


def test_a_login_never_shows_its_password() -> None:
    """Not in its text, which may be logged."""
    assert TRAINER.password not in repr(TRAINER)
    assert TRAINER.password not in f"{TRAINER}"


@given(st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=30))
def test_exports_are_three_words_to_a_shell(password: str) -> None:
    """Whatever the password holds, a shell takes it as it is, and runs nothing."""
    text = operations.exports("http://127.0.0.1:5000", Login(username="me", password=password))

    words = shlex.split(text)

    assert words == [
        "export",
        "MLFLOW_TRACKING_URI=http://127.0.0.1:5000",
        "export",
        "MLFLOW_TRACKING_USERNAME=me",
        "export",
        f"MLFLOW_TRACKING_PASSWORD={password}",
    ]
