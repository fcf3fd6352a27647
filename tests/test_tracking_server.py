"""A tracking server by `mlflow-infra`, on a local cloud: PostgreSQL, MLflow, trainings, a browser.

The tests of this file follow one another, as a server's life does.
"""

import base64
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from benchmarks import tracking
from tests.clouds import BIN, Command, clean_environment

from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVER = "mlflow-tracking-server"
CHROMIUM = "/usr/bin/chromium"
TRAINING = (
    *("sinergym-train", "--environment", "Eplus-5zone-hot-continuous-v1", "--algorithm", "PPO"),
    *("--run_period", "1/1-1/1", "--episodes", "2", "--n_steps", "96", "--batch_size", "32"),
    *("--normalize_action", "--seed", "5", "--mlflow_store"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """A local cloud of this file's own."""

    folder: Path
    variables: dict[str, str]
    run: Command
    clients: Clients
    endpoint: str

    def infra(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """`mlflow-infra --local`, which must succeed."""
        done = self.run("mlflow-infra", "--local", *words, env=self.variables, timeout=timeout)
        assert done.returncode == 0, done.stderr + done.stdout
        return done

    def ask(self, path: str) -> Any:
        """One of the emulator's own pages."""
        with urllib.request.urlopen(f"{self.endpoint}/emulator/{path}", timeout=30) as reply:
            return json.load(reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a client of the server needs."""

    uri: str
    username: str
    password: str

    @property
    def variables(self) -> dict[str, str]:
        """As MLflow's client reads them."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": self.username,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, command: Command, environment: dict[str, str]
) -> Iterator[Cloud]:
    """Started by `--local` itself, and stopped."""
    folder = tmp_path_factory.mktemp("tracked")
    variables = {"GCLOUD_OPS_LOCAL_FOLDER": str(folder)}
    started = command("gcloud-ops", "--local", "template", "list", env=variables, timeout=120)
    assert started.returncode == 0, started.stderr
    about = json.loads((folder / "cloud.json").read_text())
    flags = {key: about[key] for key in ("project", "zone", "endpoint", "ssh_port")}
    settings = Settings.load(flags=flags, environ=environment)
    try:
        yield Cloud(
            folder=folder,
            variables=variables,
            run=command,
            clients=Clients.connect(settings),
            endpoint=about["endpoint"],
        )
    finally:
        stopped = command("gcloud-ops", "local", "stop", env=variables, timeout=90)
    assert stopped.returncode == 0, stopped.stderr
    deadline = time.monotonic() + 20
    while left := processes_with(str(folder)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture(scope="module")
def login(cloud: Cloud) -> Login:
    """The server is up; the trainers' user."""
    cloud.infra("up", "--yes")
    return login_of(cloud, "trainer")


def login_of(cloud: Cloud, user: str) -> Login:
    """As `mlflow-infra credentials --export` prints it."""
    printed = cloud.infra("credentials", user, "--export", "--show").stdout
    found = dict(re.findall(r"export (\w+)='?([^'\n]*)'?", printed))
    return Login(
        uri=found["MLFLOW_TRACKING_URI"],
        username=found["MLFLOW_TRACKING_USERNAME"],
        password=found["MLFLOW_TRACKING_PASSWORD"],
    )


def processes_with(text: str) -> list[str]:
    """Command lines on this machine that hold a text, but for ours."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if text in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def changes_between(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The calls that were made in between and may have changed something."""
    reads = re.compile(
        r"(^|\.)(get|batchGet|list|aggregatedList|access|wait|getIamPolicy|[a-z]*IamPermissions)$"
    )
    return {
        method: count - before.get(method, 0)
        for method, count in after.items()
        if count > before.get(method, 0) and not reads.search(method)
    }


def request(
    login: Login, path: str, *, headers: dict[str, str], source: str = "127.0.0.1"
) -> tuple[int, str]:
    """Ask the server from an address of this machine; status and text."""
    host, _, port = login.uri.removeprefix("http://").partition(":")
    connection = HTTPConnection(host, int(port), timeout=20, source_address=(source, 0))
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode("utf-8", "replace")
    finally:
        connection.close()


def basic(username: str, password: str) -> dict[str, str]:
    """The header of HTTP's basic authentication."""
    return {
        "Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    }


def runs_at(login: Login, experiment: str) -> list[Any]:
    """The runs of an experiment, by MLflow's own client in a process of its own."""
    program = f"""
import json, mlflow
client = mlflow.MlflowClient()
found = client.get_experiment_by_name({experiment!r})
print(json.dumps([
    {{
        "id": run.info.run_id, "experiment_id": run.info.experiment_id,
        "status": run.info.status, "name": run.info.run_name, "metrics": run.data.metrics,
        "artifacts": [one.path for one in client.list_artifacts(run.info.run_id)],
    }}
    for run in (client.search_runs([found.experiment_id]) if found else [])
]))
"""
    done = subprocess.run(
        [str(BIN / "python"), "-c", program],
        env={**os.environ, **login.variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def trained(
    cloud: Cloud, login: Login, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The run of a real training that logged with the trainers' credentials."""
    output = tmp_path_factory.mktemp("training")
    done = cloud.run(
        *TRAINING,
        env={**login.variables, "SINERGYM_OUTPUT": str(output)},
        cwd=output,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "not sent" not in done.stdout + done.stderr
    (experiment,) = experiments(login)
    (run,) = runs_at(login, experiment)
    return {
        **run,
        "experiment": experiment,
        "output": output,
        "printed": done.stdout + done.stderr,
    }


def experiments(login: Login) -> list[str]:
    """Names of the experiments, but for MLflow's own first one."""
    body = json.dumps({"max_results": 100}).encode()
    asked = urllib.request.Request(
        f"{login.uri}/api/2.0/mlflow/experiments/search",
        data=body,
        headers={"Content-Type": "application/json", **basic(login.username, login.password)},
    )
    with urllib.request.urlopen(asked, timeout=30) as reply:
        found = json.load(reply)["experiments"]
    return [one["name"] for one in found if one["name"] != "Default"]


def test_up_twice_changes_nothing(cloud: Cloud, login: Login) -> None:
    """The second time there are only reads; `status` finds all well."""
    before = cloud.ask("stats")["calls"]
    cloud.infra("up", "--yes")
    assert changes_between(before, cloud.ask("stats")["calls"]) == {}
    assert cloud.infra("status").returncode == 0
    assert cloud.infra("url").stdout.strip() == login.uri


def test_a_training_logs_with_its_credentials(trained: dict[str, Any]) -> None:
    """Through MLflow's client: the run, its metrics and its artifacts."""
    assert trained["status"] == "FINISHED"
    assert any("reward" in name for name in trained["metrics"])
    assert trained["artifacts"]


def test_the_run_is_in_the_web_page(login: Login, trained: dict[str, Any]) -> None:
    """In a real browser that logs in as a person does."""
    from playwright.sync_api import sync_playwright

    assert Path(CHROMIUM).exists(), "Debian's package chromium is needed (.ci/run installs it)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            context = browser.new_context(
                http_credentials={"username": login.username, "password": login.password}
            )
            page = context.new_page()
            page.goto(f"{login.uri}/#/experiments", timeout=60_000)
            page.get_by_text(trained["experiment"], exact=True).first.wait_for(timeout=60_000)
            page.goto(f"{login.uri}/#/experiments/{trained['experiment_id']}/runs")
            page.get_by_text(trained["name"], exact=True).first.wait_for(timeout=30_000)
        finally:
            browser.close()


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/api/2.0/mlflow/experiments/get?experiment_id=0", {}, 401),
        ("/api/2.0/mlflow/experiments/get?experiment_id=0", basic("trainer", "guess"), 401),
        ("/api/2.0/mlflow/experiments/get?experiment_id=0", basic("admin", "password1234"), 401),
        ("/api/2.0/mlflow/experiments/get?experiment_id=0", {"Host": "evil.example"}, 403),
    ],
    ids=["no password", "wrong password", "MLflow's old password", "foreign Host"],
)
def test_strangers_are_refused(
    login: Login, path: str, headers: dict[str, str], expected: int
) -> None:
    """No password, a wrong one, and a page that leads a browser here under another name."""
    status, _ = request(login, path, headers=headers)
    assert status == expected


def test_a_foreign_source_range_is_refused(login: Login) -> None:
    """The firewall lets in 127.0.0.1 only."""
    assert request(login, "/health", headers={})[0] == 200
    with pytest.raises(OSError):  # noqa: PT011 - reset or closed, as the kernel likes
        request(login, "/health", headers={}, source="127.0.0.9")


def test_no_secret_is_anywhere(cloud: Cloud, login: Login, trained: dict[str, Any]) -> None:
    """Not in a bucket, metadata, log, process list, nor in what was printed."""
    secrets = [login.password, login_of(cloud, "admin").password, *plain_secrets(cloud)]
    assert len(set(secrets)) == 4
    assert all(len(secret) >= 16 for secret in secrets)
    texts: dict[str, str] = {"printed": trained["printed"]}
    for folder in (cloud.folder, trained["output"]):
        for path in folder.rglob("*"):
            # Secret Manager's own, and PostgreSQL's files, in which the users' hashes are.
            inside = {"secrets", "sql"} & set(path.relative_to(folder).parts)
            if inside or not path.is_file():
                continue
            if path.name == "pgpass":  # how PostgreSQL's clients get it, in the container
                assert path.stat().st_mode & 0o077 == 0
            else:
                texts[str(path)] = path.read_bytes().decode("latin-1")
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        if entry.parent.name != str(os.getpid()):
            try:
                texts[str(entry)] = entry.read_bytes().decode("latin-1")
            except OSError:
                continue
    vm = cloud.clients.instances.get(
        project=cloud.clients.project, zone=cloud.clients.zone, instance=SERVER
    )
    texts["metadata"] = str(vm)
    texts["serial port"] = str(
        cloud.clients.instances.get_serial_port_output(
            project=cloud.clients.project, zone=cloud.clients.zone, instance=SERVER
        )
    )
    texts["container"] = cloud.infra("logs").stdout
    assert "serving on" in texts["container"]
    assert sum("/buckets/" in name for name in texts) > 1
    for secret in secrets:
        assert [name for name, text in texts.items() if secret in text] == []


def plain_secrets(cloud: Cloud) -> list[str]:
    """The database's password and the signing key."""
    found = []
    for name in ("mlflow-db-password", "mlflow-flask-key"):
        path = f"projects/{cloud.clients.project}/secrets/{name}/versions/latest"
        versions = cloud.clients.api("secretmanager", "v1").projects().secrets().versions()
        payload = cloud.clients.execute(name, versions.access(name=path))["payload"]["data"]
        found.append(base64.b64decode(payload).decode())
    return found


def test_nothing_of_eight_trainings_is_lost(login: Login, tmp_path: Path) -> None:
    """Each hands 1,000 metrics over at once; each of them arrives, once."""
    environment = {**clean_environment(), **login.variables}
    logged = tracking.log_at_once(environment, tmp_path)
    arrived = tracking.count([one["run"] for one in logged], environment)
    assert arrived == [tracking.METRICS] * tracking.TRAININGS


def test_a_sweep_logs_to_it_without_knowing_the_password(
    cloud: Cloud, login: Login, tmp_path: Path
) -> None:
    """By a template of `--mlflow-server`: the credentials are in neither template nor record."""
    made = cloud.run(
        *("gcloud-ops", "--local", "template", "create", "tracked"),
        *("--image", "local/sinergym-trainer:latest", "--mlflow-server"),
        env=cloud.variables,
    )
    assert made.returncode == 0, made.stderr
    sweep = tmp_path / "logged.yaml"
    sweep.write_text(
        "name: logged\ntemplate: tracked\nexperiments:\n  - " + " ".join(TRAINING) + "\n"
    )
    done = cloud.run(
        *("gcloud-ops", "--local", "sweep", "launch", str(sweep), "--watch"),
        env=cloud.variables,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert login.password not in done.stdout + done.stderr
    (run,) = runs_at(login, "logged")
    assert run["status"] == "FINISHED"


def test_the_server_may_be_deleted_and_made_again(
    cloud: Cloud, login: Login, trained: dict[str, Any]
) -> None:
    """The run is still there, at the same address, with the same password."""
    clients = cloud.clients
    clients.change(
        SERVER,
        clients.instances.delete_unary,
        project=clients.project,
        zone=clients.zone,
        instance=SERVER,
    )
    with pytest.raises(OSError):  # noqa: PT011
        request(login, "/health", headers={})
    cloud.infra("up", "--yes")
    assert login_of(cloud, "trainer") == login
    (run,) = runs_at(login, trained["experiment"])
    assert run["id"] == trained["id"]
    assert run["metrics"] == trained["metrics"]


def test_down_keeps_the_data_and_delete_data_nothing(
    cloud: Cloud, login: Login, trained: dict[str, Any]
) -> None:
    """After `down` the data, after `up` the run, after `down --delete-data` nothing at all."""
    cloud.infra("down", "--yes")
    left = everything(cloud)
    assert {name for name, found in left.items() if found} == {"buckets", "databases", "secrets"}
    cloud.infra("up", "--yes")
    again = login_of(cloud, "trainer")
    assert again.password == login.password
    (run,) = runs_at(again, trained["experiment"])
    assert run["id"] == trained["id"]
    cloud.infra("down", "--delete-data", "--yes")
    assert not any(everything(cloud).values())


def everything(cloud: Cloud) -> dict[str, list[str]]:
    """All that `mlflow-infra` makes, as the cloud lists it."""
    clients, project = cloud.clients, cloud.clients.project
    region = clients.zone.rpartition("-")[0]
    secrets = clients.api("secretmanager", "v1").projects().secrets()
    databases = clients.api("sqladmin", "v1").instances()
    accounts = clients.api("iam", "v1").projects().serviceAccounts()
    policy = clients.api("cloudresourcemanager", "v1").projects()
    bindings = clients.execute("policy", policy.getIamPolicy(resource=project, body={}))

    listed = {
        "databases": clients.execute("databases", databases.list(project=project)),
        "secrets": clients.execute("secrets", secrets.list(parent=f"projects/{project}")),
        "accounts": clients.execute("accounts", accounts.list(name=f"projects/{project}")),
    }
    zone = clients.zone
    return {
        "instances": [one.name for one in clients.instances.list(project=project, zone=zone)],
        "addresses": [one.name for one in clients.addresses.list(project=project, region=region)],
        "firewalls": [one.name for one in clients.firewalls.list(project=project)],
        "buckets": [one.name for one in clients.storage.list_buckets() if "mlflow" in one.name],
        "databases": [one["name"] for one in listed["databases"].get("items", [])],
        "secrets": [one["name"] for one in listed["secrets"].get("secrets", [])],
        "accounts": [
            one["email"]
            for one in listed["accounts"].get("accounts", [])
            if "mlflow" in one["email"]
        ],
        "bindings": [
            member
            for binding in bindings.get("bindings", [])
            for member in binding["members"]
            if "mlflow" in member
        ],
    }
