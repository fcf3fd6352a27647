"""Cloud SQL, driven by Google's own client; behind it a real PostgreSQL, reached by the proxy.

One cloud and one instance for all tests of the file, but for those that end a cloud.
"""

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import psycopg
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from gcp_emulator.server import LocalCloud
from gcp_emulator.serving import wipe
from gcp_emulator.sql.postgres import Postgres, forget_sockets, identifier, literal, socket_folder
from gcp_emulator.sql.proxy import proxy_folder

BIN = Path(sys.executable).parent
ROOT_PASSWORD = "r00t-öne-Passwört-of-the-tests"
PASSWORD = "ünique-p4ssword-'of'-\\the-tests"
CONNECTION = "local:europe-west1:shared"
SETTINGS = {
    "tier": "db-f1-micro",
    "edition": "ENTERPRISE",
    "userLabels": {"made-by": "tests"},
    "backupConfiguration": {"enabled": True, "pointInTimeRecoveryEnabled": True},
}
PITR = {"enabled": False, "pointInTimeRecoveryEnabled": True}


class Cloud:
    """A cloud as a process of its own, and Google's client for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Serve, and wait until it answers."""
        self.process = subprocess.Popen(
            [BIN / "gcp-emulator", "serve", "--engine", "inert", "--folder", self.folder],
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("ab"),
        )
        until(lambda: (self.folder / "cloud.json").exists() and self._answers(), 30)
        self.endpoint = json.loads((self.folder / "cloud.json").read_text())["endpoint"]
        self.api = _api(self.endpoint)
        self.enable()

    def enable(self) -> None:
        """Switch the API on."""
        services = f"{self.endpoint}/v1/projects/local/services"
        post(f"{services}/sqladmin.googleapis.com:enable", {})
        until(lambda: _works(self.api.instances().list(project="local")))

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder.with_suffix(".log")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        known = json.loads((self.folder / "cloud.json").read_text())
        return bool(known["pid"] == self.process.pid)

    def stop(self) -> None:
        """End it; it must end well."""
        self.process.terminate()
        assert self.process.wait(timeout=20) == 0, self.log.read_text()

    def call(self, request: Any) -> Any:
        """What a request answers, held against Google's discovery document."""
        found = request.execute(num_retries=0)
        _validator(request.methodId).validate(found)
        return found

    def done(self, request: Any, seconds: float = 20.0) -> Any:
        """The operation that a request began, DONE."""
        operation = self.call(request)

        def look() -> Any:
            found = self.call(
                self.api.operations().get(project="local", operation=operation["name"])
            )
            return found if found["status"] == "DONE" else None

        return until(look, seconds)

    def change(self, request: Any) -> Any:
        """The operation that a request began, DONE without an error."""
        found = self.done(request)
        assert "error" not in found, found
        return found

    def make(self, name: str, **more: Any) -> Any:
        """Make an instance."""
        body = {"name": name, "databaseVersion": "POSTGRES_17", "settings": SETTINGS, **more}
        return self.change(self.api.instances().insert(project="local", body=body))

    def get(self, name: str = "shared") -> Any:
        """An instance."""
        return self.call(self.api.instances().get(project="local", instance=name))

    def user(self, name: str, password: str, instance: str = "shared") -> Any:
        """Make a user."""
        body = {"name": name, "password": password}
        users = self.api.users()
        return self.change(users.insert(project="local", instance=instance, body=body))

    def database(self, name: str, instance: str = "shared") -> Any:
        """Make a database."""
        databases = self.api.databases()
        return self.change(
            databases.insert(project="local", instance=instance, body={"name": name})
        )


def until(look: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `look` gives as soon as it is something true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def _api(endpoint: str) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from googleapiclient.discovery import build

    return build(
        "sqladmin",
        "v1",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": endpoint},
        static_discovery=True,
        cache_discovery=False,
    )


@functools.cache
def _document() -> Any:
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / "sqladmin.v1.json").read_text())


@functools.cache
def _validator(method: str) -> jsonschema.Draft4Validator:
    _, resource, name = method.split(".")
    reference = _document()["resources"][resource]["methods"][name]["response"]["$ref"]
    definitions = {key: _converted(value) for key, value in _document()["schemas"].items()}
    return jsonschema.Draft4Validator(
        {"$ref": f"#/definitions/{reference}", "definitions": definitions}
    )


def _converted(node: Any) -> Any:
    """A schema as JSON Schema has it, without members that nobody knows."""
    if isinstance(node, list):
        return [_converted(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return {"$ref": f"#/definitions/{node['$ref']}"}
    dropped = {"id", "required", "format", "pattern", "annotations", "description", "readOnly"}
    made = {
        key: {name: _converted(item) for name, item in value.items()}
        if key == "properties"
        else _converted(value)
        for key, value in node.items()
        if key not in dropped
    }
    return made | ({"additionalProperties": False} if "properties" in made else {})


def refused(request: Any) -> tuple[int, str, str]:
    """Status, reason and message of the error that a request is answered with."""
    from googleapiclient.errors import HttpError

    with pytest.raises(HttpError) as caught:
        request.execute(num_retries=0)
    error = json.loads(caught.value.content)["error"]
    assert error["errors"][0]["message"] == error["message"]
    return caught.value.resp.status, error["errors"][0]["reason"], error["message"]


@contextmanager
def proxy(cloud: Cloud, folder: Path, *words: str, **environment: str) -> Iterator[Any]:
    """The stand-in of Google's proxy, as a container finds it on its PATH."""
    program = proxy_folder(folder / "bin") / "cloud-sql-proxy"
    process = subprocess.Popen(
        [program, *words],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("GCE_", "CSQL_"))},
            "CSQL_PROXY_SQLADMIN_API_ENDPOINT": f"{cloud.endpoint}/",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


@contextmanager
def through_proxy(
    cloud: Cloud, folder: Path, connection: str = CONNECTION
) -> Iterator[Callable[..., Any]]:
    """A function that logs in through the proxy: user, password, database."""
    with proxy(cloud, folder, "--unix-socket", str(folder), connection) as process:
        socket = folder / connection / ".s.PGSQL.5432"
        until(lambda: process.poll() is not None or socket.exists())
        assert process.poll() is None, process.stderr.read()

        def login(user: str, password: str, database: str = "postgres") -> Any:
            return psycopg.connect(
                host=str(socket.parent),
                user=user,
                password=password,
                dbname=database,
                autocommit=True,
                connect_timeout=10,
            )

        yield login
        process.terminate()
        started = time.monotonic()
        assert process.wait(timeout=10) == 143
        assert time.monotonic() - started < 1.0
        assert not socket.exists()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud with the instance `shared`."""
    cloud = Cloud(tmp_path_factory.mktemp("sql") / "cloud")
    try:
        cloud.make("shared", rootPassword=ROOT_PASSWORD)
        yield cloud
    finally:
        cloud.stop()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose path leaves room for a socket's."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="sql-") as folder:
        yield Path(folder)


def test_instance_is_shown_with_what_google_fills_in(cloud: Cloud) -> None:
    """Everything asked for is there, and no password."""
    found = cloud.get()
    assert found["state"] == "RUNNABLE"
    assert found["connectionName"] == CONNECTION
    assert found["databaseVersion"] == "POSTGRES_17"
    assert found["settings"]["userLabels"] == {"made-by": "tests"}
    assert found["settings"]["backupConfiguration"]["pointInTimeRecoveryEnabled"] is True
    assert found["settings"]["dataDiskSizeGb"] == "10"
    listed = cloud.call(cloud.api.instances().list(project="local"))["items"]
    assert [one["name"] for one in listed] == ["shared"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"settings": {"tier": "db-f1-micro"}},
            "Invalid Tier (db-f1-micro) for (ENTERPRISE_PLUS) Edition."
            " Use a predefined Tier like db-perf-optimized-N-* instead.",
        ),
        ({"settings": {**SETTINGS, "tier": "db-fast"}}, "Invalid Tier (db-fast)"),
        ({"settings": {**SETTINGS, "tier": "db-custom-3-3840"}}, "Invalid Tier"),
        ({"settings": {}}, "tier"),
        ({"name": "Shared"}, "instance name"),
        ({"name": "x" * 98}, "instance name"),
        ({"region": "europe-west99"}, "region"),
        ({"databaseVersion": "MYSQL_8_0"}, "MYSQL_8_0"),
        ({"settings": {**SETTINGS, "dataDiskSizeGb": "9"}}, "disk size"),
        ({"settings": {**SETTINGS, "tierr": "x"}}, 'Unknown name "tierr"'),
        ({"settings": {**SETTINGS, "backupConfiguration": PITR}}, "Point in time"),
    ],
)
def test_insert_is_refused(cloud: Cloud, body: Any, words: str) -> None:
    """Google's checks, and nothing is made."""
    body = {"name": "other", "settings": SETTINGS, **body}
    code, reason, message = refused(cloud.api.instances().insert(project="local", body=body))
    assert (code, reason) == (400, "invalid")
    assert words in message
    missing = refused(cloud.api.instances().get(project="local", instance="other"))
    assert missing == (404, "instanceDoesNotExist", "The Cloud SQL instance does not exist.")


def test_name_is_taken(cloud: Cloud) -> None:
    """An instance is made once."""
    body = {"name": "shared", "settings": SETTINGS}
    code, reason, message = refused(cloud.api.instances().insert(project="local", body=body))
    assert (code, reason) == (409, "instanceAlreadyExists")
    assert "already exists" in message


def test_other_project_is_refused(cloud: Cloud) -> None:
    """The local cloud has one project."""
    assert refused(cloud.api.instances().list(project="elsewhere"))[0] == 403


def test_passwords_are_real(cloud: Cloud, short: Path) -> None:
    """A user logs in with its password, with no other, and with the new one after a change."""
    cloud.database("tracking")
    cloud.user("mlflow", PASSWORD)
    with through_proxy(cloud, short) as login:
        with login("mlflow", PASSWORD, "tracking") as connection:
            connection.execute("CREATE TABLE runs (id int)")
            connection.execute("INSERT INTO runs SELECT generate_series(1, 1000)")
            assert connection.execute("SELECT sum(id) FROM runs").fetchone() == (500_500,)
        with login("postgres", ROOT_PASSWORD) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("postgres",)
            rows = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'postgres'")
            assert rows.fetchone() == (False,)
        for user, password in (("mlflow", "wrong"), ("mlflow", ""), ("cloudsqladmin", "")):
            with pytest.raises(psycopg.OperationalError, match="password"):
                login(user, password)
        users = cloud.api.users()
        where = {"project": "local", "instance": "shared"}
        cloud.change(users.update(**where, name="mlflow", body={"password": "another-0ne"}))
        with pytest.raises(psycopg.OperationalError, match="password"):
            login("mlflow", PASSWORD, "tracking")
        login("mlflow", "another-0ne", "tracking").close()
        # insert of a user that exists sets the password.
        cloud.user("mlflow", PASSWORD)
        login("mlflow", PASSWORD, "tracking").close()
    listed = cloud.call(users.list(**where))["items"]
    assert [one["name"] for one in listed] == ["mlflow", "postgres"]
    assert refused(users.update(**where, name="nobody", body={"password": "x"}))[0] == 404
    assert refused(users.delete(**where, name="nobody"))[0] == 404
    assert "depend" in refused(users.delete(**where, name="mlflow"))[2]
    assert refused(users.insert(**where, body={"name": "x"}))[0] == 400


def test_databases(cloud: Cloud) -> None:
    """Made, listed, made once, and dropped; a name is only a name."""
    where = {"project": "local", "instance": "shared"}
    databases = cloud.api.databases()
    strange = 'a"; DROP ROLE postgres; --\\q:x'
    cloud.database(strange)
    cloud.database("second")
    names = [one["name"] for one in cloud.call(databases.list(**where))["items"]]
    assert {"postgres", "second", strange} <= {*names}
    assert cloud.call(databases.get(**where, database="second"))["charset"] == "UTF8"
    again = refused(databases.insert(**where, body={"name": "second"}))
    assert again[:2] == (400, "invalid")
    assert 'database "second" already exists' in again[2]
    cloud.change(databases.delete(**where, database="second"))
    cloud.change(databases.delete(**where, database=strange))
    assert refused(databases.get(**where, database="second"))[0] == 404
    assert refused(databases.delete(**where, database="second"))[0] == 404


@pytest.mark.slow
def test_one_operation_at_a_time(cloud: Cloud) -> None:
    """A second change is refused while one is under way; the name is taken at once."""
    api = cloud.api.instances()
    body = {"name": "passing", "settings": SETTINGS}
    first = cloud.call(api.insert(project="local", body=body))
    assert first["status"] in ("PENDING", "RUNNING")
    assert cloud.get("passing")["state"] == "PENDING_CREATE"
    assert refused(api.insert(project="local", body=body))[:2] == (409, "instanceAlreadyExists")
    patch = api.patch(project="local", instance="passing", body={"settings": {}})
    assert refused(patch)[:2] == (409, "operationInProgress")
    users = cloud.api.users().list(project="local", instance="passing")
    assert "not running" in refused(users)[2]
    get = cloud.api.operations().get(project="local", operation=first["name"])
    done = until(lambda: (found := cloud.call(get))["status"] == "DONE" and found, 20)
    assert "error" not in done
    listed = cloud.call(cloud.api.operations().list(project="local", instance="passing"))
    assert [one["name"] for one in listed["items"]] == [first["name"]]
    cloud.change(api.delete(project="local", instance="passing"))
    assert not (cloud.folder / "sql" / "instances" / "passing").exists()
    assert refused(api.get(project="local", instance="passing"))[0] == 404


def test_protected_instance_is_not_deleted(cloud: Cloud) -> None:
    """Protection is switched by a patch, which leaves all other settings as they are."""
    api = cloud.api.instances()
    where = {"project": "local", "instance": "shared"}
    before = cloud.get()["settings"]
    body = {"settings": {"deletionProtectionEnabled": True}}
    cloud.change(api.patch(**where, body=body))
    status, _, message = refused(api.delete(**where))
    assert (status, message[:26]) == (400, "The instance is protected.")
    cloud.change(api.patch(**where, body={"settings": {"deletionProtectionEnabled": False}}))
    after = cloud.get()["settings"]
    assert after.pop("settingsVersion") != before.pop("settingsVersion")
    assert after == before
    stale = {"settings": {"settingsVersion": "1"}}
    assert refused(api.patch(**where, body=stale))[0] == 412


def test_stopped_instance(cloud: Cloud, short: Path) -> None:
    """The owner stops and starts an instance by a patch; stopped it is RUNNABLE, and not there."""
    api = cloud.api.instances()
    where = {"project": "local", "instance": "shared"}
    cloud.user("waiting", PASSWORD)
    cloud.change(api.patch(**where, body={"settings": {"activationPolicy": "NEVER"}}))
    assert cloud.get()["state"] == "RUNNABLE"
    assert not servers_of(cloud)
    assert "not running" in refused(cloud.api.databases().list(**where))[2]
    assert "not running" in refused(cloud.api.connect().get(**where))[2]
    cloud.change(api.patch(**where, body={"settings": {"activationPolicy": "ALWAYS"}}))
    with through_proxy(cloud, short) as login:
        login("waiting", PASSWORD).close()


@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_text_from_outside_is_data(cloud: Cloud, text: str) -> None:
    """Whatever a name or a string contains, PostgreSQL has it as it is, through psql."""
    home = cloud.folder / "sql" / "instances" / "shared"
    server = Postgres(home, sockets=socket_folder(cloud.folder / "sql", "shared"), environment={})
    name = identifier(text[:8] or "x")
    query = f"SELECT 1, {name} FROM (SELECT {literal(text)} AS {name}) AS t;"
    rows = asyncio.run(server.sql(query))
    assert rows == [["1", text]]


@pytest.mark.slow
def test_backup_brings_everything_back(cloud: Cloud, short: Path) -> None:
    """What was changed since the backup is undone: rows, databases, passwords."""
    where = {"project": "local", "instance": "shared"}
    cloud.database("saved")
    cloud.user("keeper", "first-password")
    with through_proxy(cloud, short) as login:
        with login("keeper", "first-password", "saved") as connection:
            connection.execute("CREATE TABLE rows AS SELECT generate_series(1, 10) AS id")
        runs = cloud.api.backupRuns()
        operation = cloud.change(runs.insert(**where, body={"description": "before"}))
        number = operation["backupContext"]["backupId"]
        run = cloud.call(runs.get(**where, id=number))
        assert (run["status"], run["type"], run["description"]) == (
            "SUCCESSFUL",
            "ON_DEMAND",
            "before",
        )
        with login("keeper", "first-password", "saved") as connection:
            connection.execute("DELETE FROM rows")
        cloud.user("keeper", "second-password")
        cloud.database("later")
        body = {"restoreBackupContext": {"backupRunId": number, "instanceId": "shared"}}
        cloud.change(cloud.api.instances().restoreBackup(**where, body=body))
        assert cloud.get()["state"] == "RUNNABLE"
        with login("keeper", "first-password", "saved") as connection:
            assert connection.execute("SELECT count(*) FROM rows").fetchone() == (10,)
    names = [one["name"] for one in cloud.call(cloud.api.databases().list(**where))["items"]]
    assert "later" not in names
    listed = cloud.call(runs.list(**where))["items"]
    assert [one["id"] for one in listed] == [number]
    cloud.change(runs.delete(**where, id=number))
    assert refused(runs.get(**where, id=number))[0] == 404
    assert refused(cloud.api.instances().restoreBackup(**where, body=body))[0] == 404


def test_export_writes_sql_into_a_bucket(cloud: Cloud, short: Path) -> None:
    """The object is the database as SQL; a bucket that is not there is the operation's error."""
    where = {"project": "local", "instance": "shared"}
    cloud.database("exported")
    cloud.user("writer", "writer-password")
    with through_proxy(cloud, short) as login:
        login("writer", "writer-password", "exported").execute("CREATE TABLE exported_rows ()")
    post(f"{cloud.endpoint}/storage/v1/b?project=local", {"name": "exports"})
    context = {"fileType": "SQL", "databases": ["exported"], "uri": "gs://exports/a/b.sql"}
    api = cloud.api.instances()
    cloud.change(api.export(**where, body={"exportContext": context}))
    url = f"{cloud.endpoint}/storage/v1/b/exports/o/a%2Fb.sql?alt=media"
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert b"CREATE TABLE public.exported_rows" in reply.read()
    context["uri"] = "gs://missing-bucket/b.sql"
    failed = cloud.done(api.export(**where, body={"exportContext": context}))
    assert "missing-bucket" in failed["error"]["errors"][0]["message"]


def post(url: str, body: Any, method: str = "POST") -> Any:
    """The reply to JSON."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def test_connect_settings(cloud: Cloud) -> None:
    """What a connector is told is in Google's schema."""
    get = cloud.api.connect().get(project="local", instance="shared")
    found = cloud.call(get)
    assert found["region"] == "europe-west1"
    assert found["ipAddresses"] == [{"type": "PRIMARY", "ipAddress": "127.0.0.1"}]
    assert found["backendType"] == "SECOND_GEN"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["local:europe-west1:missing"], "Error 404: The Cloud SQL instance does not exist."),
        (["local:us-central1:shared"], "region was mismatched"),
        (["shared"], "expected PROJECT:REGION:INSTANCE"),
        ([CONNECTION, "--sqladmin-api-endpoint", "http://192.0.2.1/"], "loopback"),
        ([CONNECTION, "--unix-socket", "/" + "x" * 95], "shorter --unix-socket"),
    ],
)
def test_proxy_says_why_it_does_not_start(
    cloud: Cloud, short: Path, words: list[str], said: str
) -> None:
    """Exit code 1 and one line."""
    with proxy(cloud, short, "--unix-socket", str(short), *words) as process:
        assert process.wait(timeout=10) == 1
        (line,) = process.stderr.read().splitlines()
    assert line.startswith("The proxy has encountered a terminal error: ")
    assert said in line


def test_no_password_anywhere(cloud: Cloud) -> None:
    """Not in the folder, nor in a reply; and not in the arguments of the servers."""
    cloud.user("secretive", PASSWORD)
    secrets = [text.encode() for text in (PASSWORD, ROOT_PASSWORD)]
    users = cloud.api.users().list(project="local", instance="shared")
    shown = json.dumps([cloud.get(), users.execute(), _operations(cloud)], ensure_ascii=False)
    found = [shown.encode(), cloud.log.read_bytes()]
    found += [place.read_bytes() for place in cloud.folder.rglob("*") if place.is_file()]
    found += [_command_line(pid) for pid in servers_of(cloud)]
    assert servers_of(cloud)
    for secret in secrets:
        assert not [text[:100] for text in found if secret in text]
    kept = cloud.folder / "sql" / "instances" / "shared"
    assert kept.stat().st_mode & 0o077 == 0
    passwords = kept / "data" / "cloudsqladmin.pgpass"
    assert passwords.stat().st_mode & 0o077 == 0
    own = passwords.read_text().split(":")[-1].strip().encode()
    assert not [text[:100] for text in [shown.encode()] if own in text]
    assert not [pid for pid in servers_of(cloud) if own in _command_line(pid)]


def _operations(cloud: Cloud) -> Any:
    return cloud.call(cloud.api.operations().list(project="local"))


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def servers_of(cloud: Cloud) -> list[int]:
    """The PostgreSQL servers that a cloud has started."""
    wanted = f"{cloud.folder.resolve()}/sql/instances/".encode()
    pids = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"/postgres") and any(wanted in word for word in words):
            pids.append(int(place.parent.name))
    return pids


async def test_only_who_may_connects(tmp_path: Path, short: Path) -> None:
    """The VM's service account needs roles/cloudsql.client."""
    account = "server@local.iam.gserviceaccount.com"
    async with LocalCloud(tmp_path / "cloud", engine="inert", database_seconds=0.0) as cloud:
        cloud.iam.services.enable("sqladmin.googleapis.com")
        cloud.iam.access.register("the-token", account)
        async with (
            aiohttp.ClientSession(f"{cloud.endpoint}/v1/projects/local/") as session,
            metadata_server("the-token") as metadata,
        ):
            body: Any = {"name": "small", "settings": SETTINGS}
            async with session.post("instances", json=body) as reply:
                assert reply.status == 200
            url = "instances/small"
            await until_async(lambda: _state_of(session, url), "RUNNABLE")
            words = ["--unix-socket", str(short), "local:europe-west1:small"]
            environment = {
                "CSQL_PROXY_SQLADMIN_API_ENDPOINT": cloud.endpoint,
                "GCE_METADATA_HOST": metadata,
                "PATH": os.defpath,
            }
            program = str(proxy_folder(short / "bin") / "cloud-sql-proxy")
            process = await asyncio.create_subprocess_exec(
                program, *words, env=environment, stderr=asyncio.subprocess.PIPE
            )
            _, errors = await asyncio.wait_for(process.communicate(), 10)
            assert process.returncode == 1
            assert b"Error 403: boss::NOT_AUTHORIZED" in errors
            assert b"Possibly missing permission cloudsql.instances.get on" in errors
            async with session.post("serviceAccounts", json={"accountId": "server"}) as reply:
                assert reply.status == 200, await reply.text()
            policy = {
                "bindings": [
                    {"role": "roles/cloudsql.client", "members": [f"serviceAccount:{account}"]}
                ]
            }
            async with session.post(
                f"{cloud.endpoint}/v1/projects/local:setIamPolicy", json={"policy": policy}
            ) as reply:
                assert reply.status == 200, await reply.text()
            process = await asyncio.create_subprocess_exec(program, *words, env=environment)
            socket = short / words[-1] / ".s.PGSQL.5432"
            try:
                await until_async(lambda: _exists(socket), True)
            finally:
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 10) == 143


async def until_async(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Return when `look` gives what is wanted."""
    deadline = time.monotonic() + 20
    while await look() != wanted:
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def _exists(place: Path) -> bool:
    return await asyncio.to_thread(place.exists)


async def _state_of(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as reply:
        return str((await reply.json())["state"])


@asynccontextmanager
async def metadata_server(token: str) -> AsyncIterator[str]:
    """The address of a metadata server that gives this token."""

    async def give(request: web.Request) -> web.Response:
        assert request.headers["Metadata-Flavor"] == "Google"
        return web.json_response({"access_token": token, "expires_in": 3599})

    app = web.Application()
    place = "/computeMetadata/v1/instance/service-accounts/default/token"
    app.router.add_get(place, give)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


def test_socket_of_a_deep_folder_is_elsewhere(tmp_path: Path, short: Path) -> None:
    """A unix socket's path is short, and nobody else can come to it."""
    deep = tmp_path / ("d" * 100)
    place = socket_folder(deep, "x" * 90)
    try:
        assert len(str(place / ".s.PGSQL.5432")) < 100
        assert place == socket_folder(deep, "x" * 90)
        assert place.parent.stat().st_mode & 0o077 == 0
        place.parent.chmod(0o777)
        with pytest.raises(ValueError, match="not ours alone"):
            socket_folder(deep, "x" * 90)
    finally:
        forget_sockets(deep)
    assert not place.parent.exists()
    assert socket_folder(short, "name").parent == short / "sockets"


def test_disabled_api(cloud: Cloud) -> None:
    """An API that is switched off is refused by its name."""
    url = f"{cloud.endpoint}/v1/projects/local/services/sqladmin.googleapis.com"
    get = cloud.api.instances().get(project="local", instance="shared")
    post(f"{url}:disable", {"disableDependentServices": True})
    try:
        assert "Cloud SQL Admin API" in _message(get)
    finally:
        cloud.enable()


def _message(request: Any) -> str:
    from googleapiclient.errors import HttpError

    with pytest.raises(HttpError) as caught:
        request.execute(num_retries=0)
    assert caught.value.resp.status == 403
    return str(json.loads(caught.value.content)["error"]["message"])


def _works(request: Any) -> bool:
    from googleapiclient.errors import HttpError

    try:
        request.execute(num_retries=0)
    except HttpError:
        return False
    return True


@pytest.mark.slow
def test_data_survives_every_end_of_the_cloud(tmp_path: Path, short: Path) -> None:
    """An orderly end and a kill: no server goes on, and the next cloud has the data."""
    cloud = Cloud(tmp_path / "cloud")
    try:
        cloud.make("kept")
        cloud.user("mlflow", PASSWORD, "kept")
        connection = "local:europe-west1:kept"
        with through_proxy(cloud, short, connection) as login:
            login("mlflow", PASSWORD).execute("CREATE TABLE rows AS SELECT 7 AS id")
        assert servers_of(cloud)
        cloud.stop()
        assert not servers_of(cloud)
        cloud.start()
        body = {"name": "half", "settings": SETTINGS}
        cloud.call(cloud.api.instances().insert(project="local", body=body))
        cloud.process.send_signal(signal.SIGKILL)
        cloud.process.wait(timeout=10)
        # By themselves: the kernel tells them.
        until(lambda: not servers_of(cloud))
        cloud.start()
        listed = cloud.call(cloud.api.instances().list(project="local"))["items"]
        assert [(one["name"], one["state"]) for one in listed] == [("kept", "RUNNABLE")]
        with through_proxy(cloud, short, connection) as login:
            rows = login("mlflow", PASSWORD).execute("SELECT id FROM rows").fetchall()
        assert rows == [(7,)]
        where = {"project": "local", "instance": "kept"}
        cloud.change(cloud.api.instances().restart(**where))
        cloud.change(cloud.api.instances().delete(**where))
        assert not servers_of(cloud)
        cloud.make("wiped")
    finally:
        cloud.stop()
    assert "sql" in wipe(cloud.folder)
    assert not cloud.folder.exists()
