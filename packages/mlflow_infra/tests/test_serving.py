"""The image's entry point, run as a container of a VM would be: real PostgreSQL, real MLflow.

All that `mlflow-infra up` makes is in a local cloud; only the VM's container does nothing but
tell its environment, in which the tests then run `mlflow-infra-server` themselves. The slow
tests of this file follow one another, as a server's life does.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.clouds import BIN, OwnCloud, clean_environment

from gcloud_ops import tracking
from mlflow_infra import plan, serving
from mlflow_infra.serving.heartbeat import METRIC
from mlflow_infra.wanted import (
    ADMIN_SECRET,
    PORT,
    SECRETS,
    SERVER,
    TRAINER_SECRET,
    Infrastructure,
)

PROGRAM = str(BIN / "mlflow-infra-server")
API = "/api/2.0/mlflow"

type Login = tuple[str, str]


def run(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The program, to its end."""
    return subprocess.run(
        [PROGRAM, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


def test_help_is_quick_and_light() -> None:
    """Neither MLflow nor Google's clients are loaded before they are needed."""
    heavy = ("mlflow", "google", "googleapiclient", "psycopg", "sqlalchemy", "gcloud_ops")
    code = f"import sys, mlflow_infra.serving; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    began = time.monotonic()
    shown = run(clean_environment(), "--help")

    assert loaded.stdout.strip() == "[]"
    assert shown.returncode == 0
    assert "db-upgrade" in shown.stdout
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"MLFLOW_INFRA_PROJECT": ""}, "MLFLOW_INFRA_PROJECT is not set"),
        ({"MLFLOW_INFRA_ARTIFACTS": ""}, "MLFLOW_INFRA_ARTIFACTS is not set"),
        ({"MLFLOW_INFRA_PORT": "http"}, "MLFLOW_INFRA_PORT: 'http' is not a port"),
        ({"MLFLOW_INFRA_CONNECTION": "-v"}, "MLFLOW_INFRA_CONNECTION: '-v' is not"),
    ],
)
def test_a_wrong_variable_is_named(changed: dict[str, str], said: str) -> None:
    """One line, before anything is asked of anybody."""
    environment = clean_environment() | {
        "MLFLOW_INFRA_PROJECT": "local",
        "MLFLOW_INFRA_CONNECTION": "local:europe-west1:mlflow-backend",
        "MLFLOW_INFRA_ARTIFACTS": "gs://artifacts/mlflow_artifacts",
        "MLFLOW_INFRA_PORT": "5000",
        "GCE_METADATA_HOST": "127.0.0.1:1",
    }
    ended = run(environment | changed)

    assert ended.returncode == 1
    assert ended.stdout.startswith(f"mlflow-infra-server: {said}")
    assert ended.stdout.count("\n") == 1


def test_it_knows_the_secrets_by_their_names() -> None:
    """It shares no code with the command that makes them."""
    source = (Path(serving.__file__).parent / "cloud.py").read_text()

    for name in SECRETS:
        assert f'"{name}"' in source


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A cloud with all that a tracking server needs, and what its container is told."""

    cloud: OwnCloud
    infra: Infrastructure
    environment: dict[str, str]
    address: str
    scratch: Path

    @property
    def uri(self) -> str:
        """Where the server serves."""
        return f"http://{self.address}:{PORT}"

    def login(self, secret: str) -> Login:
        """Name and password, as the secret has them."""
        content = json.loads(plan.read_secret(self.cloud.clients, self.infra, secret))
        return content["username"], content["password"]

    def secrets(self) -> list[str]:
        """All that nobody may see."""
        clients, infra = self.cloud.clients, self.infra
        texts = [plan.read_secret(clients, infra, name) for name in SECRETS]
        return [json.loads(text)["password"] if text[0] == "{" else text for text in texts]

    def change(self, secret: str, value: str) -> None:
        """Give a secret a new version."""
        api = self.cloud.clients.api("secretmanager", "v1").projects().secrets()
        body = {"payload": {"data": base64.b64encode(value.encode()).decode()}}
        request = api.addVersion(parent=self.infra.secret(secret), body=body)
        self.cloud.clients.execute(secret, request)


class Server:
    """`mlflow-infra-server` as a process, serving."""

    def __init__(self, place: Place, log: Path) -> None:
        self.place = place
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [PROGRAM], env=place.environment, stdout=output, stderr=output
            )
        deadline = time.monotonic() + 150
        while "serving on" not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    @property
    def said(self) -> str:
        """Its log."""
        return self._log.read_text()

    def get(self, path: str, login: Login | None, **headers: str) -> requests.Response:
        """Ask it."""
        return requests.get(self.place.uri + path, auth=login, headers=headers, timeout=30)

    def post(self, path: str, login: Login, **body: Any) -> Any:
        """Tell it; it must take it."""
        reply = requests.post(self.place.uri + path, auth=login, json=body, timeout=30)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def family(self) -> dict[int, str]:
        """Its processes and theirs, with their command lines."""
        found: dict[int, str] = {}
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())
            except OSError:
                continue
        return found

    def end(self) -> float:
        """End it as Docker does; returns the seconds that it took."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(20)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Made by `up`; the container of the VM waits."""
    folder = tmp_path_factory.mktemp("serving")
    told = folder / "told"
    program = folder / "program"
    program.write_text(f"#!/bin/sh\nenv -0 > {told}.tmp && mv {told}.tmp {told}\nexec sleep 900\n")
    program.chmod(0o755)
    environment = clean_environment() | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    options = ("--image", f"mlflow-server={program}")
    cloud = OwnCloud(folder, environment, *options, engine="process")
    try:
        infra = Infrastructure(
            project=cloud.clients.project,
            zone=cloud.clients.zone,
            bucket="tracking-artifacts",
            image="europe-docker.pkg.dev/local/images/mlflow-server:1",
        )
        plan.up(cloud.clients, infra, tell=lambda _: None)
        deadline = time.monotonic() + 60
        while not told.exists():
            assert time.monotonic() < deadline, "the VM did not start its container"
            time.sleep(0.1)
        lines = told.read_text().rstrip("\0").split("\0")
        container = dict(line.split("=", 1) for line in lines)
        # A short name: the path of the database's socket has at most 107 bytes.
        scratch = Path(tempfile.mkdtemp(prefix="s-"))
        yield Place(
            cloud=cloud,
            infra=infra,
            environment=container | {"TMPDIR": str(scratch)},
            address=container["GCE_METADATA_HOST"].rpartition(":")[0],
            scratch=scratch,
        )
        scratch.rmdir()
    finally:
        cloud.stop()


@pytest.fixture(scope="module")
def server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On an empty database; ended by whoever tests that, or here."""
    started = Server(place, tmp_path_factory.mktemp("log") / "first.log")
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.end()


@pytest.mark.slow
def test_a_secret_that_may_not_be_read_is_named(place: Place) -> None:
    """What to grant, or to run again; nothing is started."""
    place.cloud.ask(
        "faults",
        {"method": "secretmanager.projects.secrets.versions.access", "status": 403},
    )
    forbidden = run(place.environment)
    no_proxy = run(place.environment | {"PATH": "/usr/bin:/bin"})

    assert forbidden.returncode == no_proxy.returncode == 1
    assert "roles/secretmanager.secretAccessor" in forbidden.stdout
    assert forbidden.stdout.count("\n") == 1
    assert "cloud-sql-proxy can't be started" in no_proxy.stdout
    assert list(place.scratch.iterdir()) == []


@pytest.mark.slow
def test_it_says_where_it_serves(server: Server) -> None:
    """One line, once it answers."""
    (line,) = [line for line in server.said.splitlines() if "serving on" in line]

    assert line == (
        f"mlflow-infra-server: serving on {server.place.address}:{PORT} (MLflow 3.17.2, database "
        f"mlflow on {server.place.infra.connection})"
    )


@pytest.mark.slow
def test_it_gives_a_sign_of_life(server: Server) -> None:
    """As soon as it serves, as the VM's service account, which `up` has given the role."""
    where = f"{server.place.cloud.endpoint}/v3/projects/{server.place.infra.project}/timeSeries"
    ended = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    asked = {
        "filter": f'metric.type="{METRIC}"',
        "interval.startTime": "2020-01-01T00:00:00Z",
        "interval.endTime": ended,
    }
    deadline = time.monotonic() + 20
    while not (found := requests.get(where, params=asked, timeout=10).json().get("timeSeries")):
        assert time.monotonic() < deadline, server.said
        time.sleep(0.1)

    (series,) = found
    assert series["resource"]["type"] == "global"
    assert "labels" not in series["metric"]
    assert {point["value"]["int64Value"] for point in series["points"]} == {"1"}
    assert "sign of life" not in server.said


@pytest.mark.slow
def test_only_users_get_in(server: Server) -> None:
    """A wrong password, none, and a name that is not the server's are refused."""
    admin = server.place.login(ADMIN_SECRET)
    path = f"{API}/experiments/search?max_results=1"

    assert server.get(path, admin).status_code == 200
    assert server.get(path, server.place.login(TRAINER_SECRET)).status_code == 200
    assert server.get(path, (admin[0], "wrong-password")).status_code == 401
    assert server.get(path, ("admin", "password1234")).status_code == 401
    assert server.get(path, None).status_code == 401
    assert server.get(path, admin, Host=f"evil.example:{PORT}").status_code == 403
    zone = f"projects/1/zones/{server.place.infra.zone}"
    name = tracking.internal_name(server.place.infra.project, [f"{zone}/instances/{SERVER}"])
    assert server.get(path, admin, Host=f"{name}:{PORT}").status_code == 200, (
        "trainers' name of it"
    )
    assert server.get("/health", None).status_code == 200


@pytest.mark.slow
def test_a_trainer_logs_and_changes_nothing_of_others(server: Server) -> None:
    """Experiment, run, metrics and an artifact, which is in the bucket; no user, no deletion."""
    place = server.place
    trainer, admin = place.login(TRAINER_SECRET), place.login(ADMIN_SECRET)
    made = server.post(f"{API}/experiments/create", trainer, name="quick")["experiment_id"]
    begun = server.post(f"{API}/runs/create", trainer, experiment_id=made, start_time=1)["run"]
    run_id, root = begun["info"]["run_id"], begun["info"]["artifact_uri"]
    metrics = [{"key": "reward", "value": k, "timestamp": k, "step": k} for k in range(100)]
    server.post(f"{API}/runs/log-batch", trainer, run_id=run_id, metrics=metrics)
    path = root.removeprefix("mlflow-artifacts:/")
    stored = requests.put(
        f"{place.uri}/api/2.0/mlflow-artifacts/artifacts/{path}/model.zip",
        data=b"weights",
        auth=trainer,
        timeout=30,
    )
    in_bucket = place.cloud.clients.storage.bucket(place.infra.bucket).list_blobs()
    foreign = server.post(f"{API}/experiments/create", admin, name="admins")["experiment_id"]
    # Without a name runs go to the experiment "0", which is nobody's.
    server.post(f"{API}/runs/create", trainer, experiment_id="0", start_time=1)

    def refused(path: str, **body: Any) -> int:
        reply = requests.post(place.uri + path, auth=trainer, json=body, timeout=30)
        return reply.status_code

    assert stored.status_code == 200, stored.text
    assert f"mlflow_artifacts/{path}/model.zip" in {blob.name for blob in in_bucket}
    assert refused(f"{API}/runs/create", experiment_id=foreign, start_time=1) == 403
    assert refused(f"{API}/experiments/delete", experiment_id=foreign) == 403
    assert refused("/api/2.0/mlflow/users/create", username="eve", password="e" * 16) == 403


@pytest.mark.slow
def test_no_secret_is_to_be_seen(server: Server) -> None:
    """Not in the arguments of any process, not in the log, not in a file for others."""
    family = server.family()
    place = server.place
    files = [path for path in place.scratch.rglob("*") if path.is_file()]
    secrets = place.secrets()

    assert len(family) >= 5, family
    for secret in secrets:
        assert not [words for words in family.values() if secret in words]
        assert secret not in server.said
        assert not any(secret in value for value in place.environment.values())
    assert {path.name for path in files} >= {"pgpass", "basic_auth.ini"}
    for path in [*files, *place.scratch.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.slow
def test_all_ends_at_once(server: Server) -> None:
    """SIGTERM leaves no process and no file."""
    family = server.family()
    seconds = server.end()
    left = [pid for pid in family if runs(pid)]

    assert server.process.returncode == 0
    assert seconds < 10
    assert left == []
    assert list(server.place.scratch.iterdir()) == []


@pytest.mark.slow
def test_an_older_schema_is_upgraded_only_on_demand(server: Server) -> None:
    """It refuses to serve a database of another MLflow; `db-upgrade` mends an older one."""
    if server.process.poll() is None:
        server.end()
    place = server.place
    older = schema(place, older=True)
    refused = run(place.environment)
    upgraded = run(place.environment, "db-upgrade")
    newest = schema(place)

    assert refused.returncode == 1
    assert f"the database has the schema {older}" in refused.stdout
    assert "mlflow-infra upgrade" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert upgraded.returncode == 0, upgraded.stdout
    assert "has the schema of MLflow 3.17.2" in upgraded.stdout
    assert newest != older


@pytest.mark.slow
def test_all_is_there_again(server: Server, tmp_path: Path) -> None:
    """The next start has the runs, also after an upgrade, and takes a secret's new version."""
    if server.process.poll() is None:
        server.end()
    place = server.place
    old = place.login(ADMIN_SECRET)
    place.change(ADMIN_SECRET, json.dumps({"username": "admin", "password": "another-password"}))

    again = Server(place, tmp_path / "second.log")
    path = f"{API}/experiments/get-by-name?experiment_name=quick"
    try:
        assert "gave the user admin its new password" in again.said
        experiment = again.get(path, place.login(ADMIN_SECRET)).json()["experiment"]
        ids = [experiment["experiment_id"]]
        found = again.post(f"{API}/runs/search", place.login(ADMIN_SECRET), experiment_ids=ids)
        assert [run["data"]["metrics"][0]["value"] for run in found["runs"]] == [99]
        assert again.get(path, old).status_code == 401
        proxy = next(pid for pid, words in again.family().items() if "--unix-socket" in words)
        os.kill(proxy, signal.SIGKILL)
        assert again.process.wait(10) == 1
        assert "cloud-sql-proxy ended with exit code -9" in again.said
        assert list(place.scratch.iterdir()) == []
    finally:
        if again.process.poll() is None:
            again.end()


@pytest.mark.slow
def test_a_newer_schema_is_refused(server: Server) -> None:
    """That of an MLflow which this one does not know."""
    if server.process.poll() is None:
        server.end()
    place = server.place
    known = schema(place)
    schema(place, stamp="ffffffffffff")
    unknown = run(place.environment)
    schema(place, stamp=known)

    assert unknown.returncode == 1
    assert "of a newer one" in unknown.stdout


def runs(pid: int) -> bool:
    """Whether a process is there, and not a dead one that nobody has asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "XZ"
    except OSError:
        return False


def schema(place: Place, *, older: bool = False, stamp: str = "") -> str:
    """The schema's revision in the database; made an older one's, or stamped, before."""
    import psycopg
    import sqlalchemy
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    program = shutil.which("cloud-sql-proxy", path=place.environment["PATH"])
    assert program is not None
    folder = place.scratch / "schema"
    folder.mkdir()
    proxy = subprocess.Popen(
        [program, "--unix-socket", str(folder), place.infra.connection], env=place.environment
    )
    try:
        sockets = folder / place.infra.connection
        deadline = time.monotonic() + 20
        while not (sockets / ".s.PGSQL.5432").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        password = plan.read_secret(place.cloud.clients, place.infra, "mlflow-db-password")
        with psycopg.connect(
            host=str(sockets), user="mlflow", dbname="mlflow", password=password, autocommit=True
        ) as connection:
            if older:
                url = f"postgresql+psycopg://mlflow:{password}@/mlflow?host={sockets}"
                engine = sqlalchemy.create_engine(url)
                config: Any = utils._get_alembic_config(url)  # type: ignore[no-untyped-call]
                revisions = list(ScriptDirectory.from_config(config).walk_revisions())
                with engine.begin() as used:
                    config.attributes["connection"] = used
                    command.downgrade(config, revisions[3].revision)
                engine.dispose()
            if stamp:
                connection.execute("UPDATE alembic_version SET version_num = %s", (stamp,))
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            assert row is not None
            return str(row[0])
    finally:
        proxy.terminate()
        proxy.wait(10)
        shutil.rmtree(folder)
