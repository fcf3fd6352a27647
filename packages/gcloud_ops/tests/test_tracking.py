"""The tracking server in a template: how it is found, and that no password gets in."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops import tracking
from gcloud_ops.cli import run
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest, NotFound, PermissionDenied
from gcloud_ops.tracking import TrackingServer

from .conftest import eventually

ZONE = "https://www.googleapis.com/compute/v1/projects/1/zones/europe-west1-c"
SECRET = "projects/probe/secrets/mlflow-trainer"


def address(host: str = "127.5.0.1") -> dict[str, object]:
    """The static address, as Compute Engine shows it."""
    return {"name": "mlflow-ip", "address": host, "status": "RESERVED"}


def test_a_server_is_found_by_its_names(answers: Any) -> None:
    """Address and secret are looked at, by two reads; the secret's content is not asked for."""
    answers.say((200, address()), (200, {"name": SECRET}))

    found = tracking.find_server(answers.clients)

    assert found == TrackingServer(uri="http://127.5.0.1:5000", secret=SECRET)
    assert found.environment == {
        "MLFLOW_TRACKING_URI": "http://127.5.0.1:5000",
        "SINERGYM_MLFLOW_SECRET": SECRET,
    }
    assert [(method, path.partition("?")[0]) for method, path, _ in answers.requests] == [
        ("GET", "/compute/v1/projects/probe/regions/europe-west1/addresses/mlflow-ip"),
        ("GET", f"/v1/{SECRET}"),
    ]


def test_what_is_not_there_is_said(answers: Any) -> None:
    """One line each, that says what makes it."""
    missing = answers.error(404, "notFound", "not found")
    answers.say(missing)
    with pytest.raises(NotFound, match=r"no tracking server in .*europe-west1.*mlflow-infra up"):
        tracking.find_server(answers.clients)
    answers.say((200, address()), missing)
    with pytest.raises(NotFound, match=r"not complete.* no secret mlflow-trainer.*infra up"):
        tracking.find_server(answers.clients)
    answers.say(answers.error(403, "forbidden", "Required 'compute.addresses.get' permission"))
    with pytest.raises(PermissionDenied, match=r"compute\.addresses\.get"):
        tracking.find_server(answers.clients)


def test_its_name_in_the_network() -> None:
    """Zonal, of the VM's own zone; a project's domain goes to the end."""
    users = [f"{ZONE}/instances/other", f"{ZONE}/instances/mlflow-tracking-server"]
    expected = "mlflow-tracking-server.europe-west1-c.c"

    assert tracking.internal_name("probe", users) == f"{expected}.probe.internal"
    name = tracking.internal_name("example.com:probe", users)
    assert name == f"{expected}.probe.example.com.internal"
    with pytest.raises(NotFound, match=r"VM mlflow-tracking-server is not there.*mlflow-infra up"):
        tracking.internal_name("probe", users[:1])


def test_a_named_server() -> None:
    """With a secret by its short or its whole name, or without one."""
    uri = "http://10.0.0.2:5000"

    assert tracking.named_server("probe", uri).environment == {"MLFLOW_TRACKING_URI": uri}
    assert tracking.named_server("probe", uri, "mlflow-trainer").secret == SECRET
    other = "projects/other/secrets/their_Login"
    assert tracking.named_server("probe", uri, other).secret == other


@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("http://ana:hunter2@10.0.0.2:5000", None),
        ("http://hunter2@[::1", None),
        ("http://10.0.0.2:5000", '{"password": "hunter2"}'),
        ("http://10.0.0.2:5000", "projects/p/secrets/hunter2/versions/1"),
    ],
)
def test_no_password_gets_into_a_template(uri: str, secret: str | None) -> None:
    """Refused, and not shown."""
    with pytest.raises(InvalidRequest) as raised:
        tracking.named_server("probe", uri, secret)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mlflow-server", "--mlflow-uri", "http://10.0.0.2:5000"], "--mlflow-server"),
        (["--mlflow-server", "--mlflow-secret", "a"], "--mlflow-server"),
        (["--mlflow-secret", "a"], "give --mlflow-uri"),
    ],
)
def test_flags_that_contradict(
    capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    """One line; nothing is asked."""
    common = ["--endpoint", "http://127.0.0.1:9", "--project", "probe"]
    code = run(["template", "create", "t", "--image", "a/b:1", *flags, *common])

    assert code == 2
    assert said in capsys.readouterr().err


def test_a_template_with_a_secret(
    clients: Clients, cloud: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Address and name of the secret are in the container's environment."""
    common = ["--endpoint", str(cloud["endpoint"]), "--project", clients.project]
    server = ["--mlflow-uri", "http://10.0.0.2:5000", "--mlflow-secret", "theirs"]
    code = run(
        ["template", "create", "logs", "--image", "a/b:1", *server, *common, "--output", "json"]
    )

    assert code == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert made["environment"]["MLFLOW_TRACKING_URI"] == "http://10.0.0.2:5000"
    assert made["environment"]["SINERGYM_MLFLOW_SECRET"] == "projects/local/secrets/theirs"


@pytest.fixture
def tracking_server(clients: Clients) -> Iterator[str]:
    """Address and secret in the local cloud, as `mlflow-infra up` leaves them; the address."""
    region = {"project": clients.project, "region": "europe-west1"}
    clients.change(
        "address",
        clients.addresses.insert_unary,
        **region,
        address_resource={"name": tracking.ADDRESS, "address_type": "EXTERNAL"},
    )
    found = clients.read("address", clients.addresses.get, **region, address=tracking.ADDRESS)
    secrets = clients.api("secretmanager", "v1").projects().secrets()
    body: dict[str, Any] = {"replication": {"automatic": {}}}
    parent = f"projects/{clients.project}"
    usage = clients.api("serviceusage", "v1").services()
    name = f"{parent}/services/secretmanager.googleapis.com"
    clients.execute("API", usage.enable(name=name), repeat=False)
    eventually(
        lambda: clients.execute("API", usage.get(name=name))["state"] == "ENABLED", "the API"
    )
    clients.execute(
        "secret", secrets.create(parent=parent, secretId=tracking.SECRET, body=body), repeat=False
    )
    yield str(found.address)
    clients.execute("secret", secrets.delete(name=f"{parent}/secrets/{tracking.SECRET}"))
    clients.change("address", clients.addresses.delete_unary, **region, address=tracking.ADDRESS)


def test_a_template_for_the_tracking_server(
    clients: Clients,
    cloud: dict[str, Any],
    tracking_server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The local cloud's trainers reach it at its static external address."""
    common = ["--endpoint", str(cloud["endpoint"]), "--project", clients.project]
    command = ["template", "create", "tracked", "--image", "a/b:1", "--mlflow-server"]
    code = run([*command, *common, "--output", "json"])

    said = capsys.readouterr()
    assert code == 0, said.err
    assert json.loads(said.out)[0]["environment"] == {
        "gce_zone": "europe-west1-b",
        "gce_project_id": "local",
        "MLFLOW_TRACKING_URI": f"http://{tracking_server}:5000",
        "SINERGYM_MLFLOW_SECRET": "projects/local/secrets/mlflow-trainer",
    }


@pytest.mark.slow
def test_a_refusal_is_one_line(answers: Any) -> None:
    """On standard error, whatever Google's clients log about it."""
    answers.say((200, address()), answers.error(403, "accessNotConfigured", "disabled"))
    common = ["--endpoint", answers.address, "--project", "probe"]
    program = Path(sys.executable).with_name("gcloud-ops")
    done = subprocess.run(
        [program, "template", "create", "t", "--image", "a/b:1", "--mlflow-server", *common],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "enable the API" in done.stderr
