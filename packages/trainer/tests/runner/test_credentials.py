"""The command's user name and password for MLflow, out of a Secret Manager on loopback."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from sinergym_trainer.runner.credentials import read_login

NAME = "projects/local/secrets/mlflow-trainer"
LOGIN = {"username": "trainer", "password": "s3cret-passw0rd"}
SHOWN = "echo login=$MLFLOW_TRACKING_USERNAME, ${#MLFLOW_TRACKING_PASSWORD} signs"
NewVm = Callable[..., Any]


class Secrets:
    """A Secret Manager with one answer, after some that fail."""

    def __init__(self, cloud: Any) -> None:
        self.answer: Callable[[], web.Response] = lambda: payload(json.dumps(LOGIN).encode())
        self.failing = 0
        self.asked: list[tuple[str, str | None]] = []
        self.address = f"http://{cloud.serve(self._answer)}/"

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("Authorization")))
        if self.failing > 0:
            self.failing -= 1
            return refused(503, "UNAVAILABLE")
        return self.answer()


def payload(content: bytes) -> web.Response:
    """The answer of `access`."""
    encoded = base64.b64encode(content).decode()
    return web.json_response({"name": f"{NAME}/versions/1", "payload": {"data": encoded}})


def refused(code: int, message: str, reason: str = "") -> web.Response:
    """An error as Secret Manager words it."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    error = {"code": code, "message": message, "status": "ANY", "details": details}
    return web.json_response({"error": error}, status=code)


@pytest.fixture
def secrets(cloud: Any) -> Secrets:
    """A Secret Manager for one test."""
    return Secrets(cloud)


def run(new_vm: NewVm, address: str, command: str = SHOWN, name: str = NAME) -> Any:
    """Run a command to its end in a container that names the secret."""
    variables = {
        "SINERGYM_MLFLOW_SECRET": name,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": address,
    }
    vm = new_vm(environment=variables)
    vm.start(command)
    assert vm.ends() == 0
    return vm


def read(
    cloud: Any, secrets: Secrets, *, name: str = NAME, seconds: float = 20
) -> tuple[dict[str, str], list[str]]:
    """What is read of the secret by a VM, and the lines that are printed."""
    lines: list[str] = []
    deadline = time.monotonic() + seconds
    found = read_login(
        {
            "SINERGYM_MLFLOW_SECRET": name,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": secrets.address,
            "GCE_METADATA_HOST": cloud.metadata("quick-0001", {}, "42"),
        },
        give_up=lambda: time.monotonic() > deadline,
        say=lines.append,
    )
    return found, lines


def test_only_the_command_gets_them(cloud: Any, new_vm: NewVm, secrets: Secrets) -> None:
    """Read once, with the VM's token; in no log, record, object, nor the runner's environment."""
    command = (
        f"{SHOWN}; mkdir -p $SINERGYM_OUTPUT; echo model > $SINERGYM_OUTPUT/model.zip;"
        " tr '\\0' '\\n' < /proc/$PPID/environ | grep -c MLFLOW_TRACKING_PASSWORD"
    )
    vm = run(new_vm, secrets.address, f"{command}; true")

    assert b"login=trainer, 15 signs\n0\n" in vm.output
    assert secrets.asked == [(f"/v1/{NAME}/versions/latest:access", "Bearer loopback")]
    assert cloud.record()["state"] == "finished"
    kept = json.dumps([[name, str(one)] for name, one in cloud.objects.items()])
    files = [path for path in vm.folder.rglob("*") if path.is_file()]
    for secret in (LOGIN["password"], base64.b64encode(LOGIN["password"].encode()).decode()):
        assert secret not in kept + vm.output.decode()
        assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_without_a_secret_nobody_is_asked(new_vm: NewVm, secrets: Secrets) -> None:
    """A server without a password needs none; no line is printed."""
    vm = run(new_vm, secrets.address, name="")

    assert b"login=, 0 signs" in vm.output
    assert b"MLflow" not in vm.output
    assert not secrets.asked


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda: refused(403, "Permission 'secretmanager.versions.access' denied"),
            f"grant roles/secretmanager.secretAccessor on {NAME} for trainer@local",
        ),
        (
            lambda: refused(403, "It has not been used before", "SERVICE_DISABLED"),
            "enable the API secretmanager.googleapis.com",
        ),
        (
            lambda: refused(403, "Insufficient scopes", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
            "needs the scope cloud-platform",
        ),
        (lambda: refused(404, f"Secret [{NAME}] not found"), f"there is no secret {NAME}"),
        (lambda: refused(400, "is in DISABLED\x1b[2J state"), "400 is in DISABLED[2J state"),
        (lambda: payload(b"hunter2"), f"the content of {NAME} is not"),
        (lambda: payload(b'{"username": "hunter2"}'), f"the content of {NAME} is not"),
        (lambda: payload(b'{"username": "a", "password": "hunter2\\u0000"}'), "is not"),
        (lambda: payload(b"\xff\xfehunter2"), f"the content of {NAME} is not"),
        (lambda: web.Response(text="hunter2"), f"the content of {NAME} is not"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    cloud: Any, secrets: Secrets, answer: Callable[[], web.Response], said: str
) -> None:
    """With what to do about it; what was in the secret is not shown, and nobody asks again."""
    secrets.answer = answer
    found, lines = read(cloud, secrets)

    assert found == {}
    (line,) = lines
    assert line.startswith("no user name and password for MLflow, the command runs without: ")
    assert said in line
    assert line.isprintable()
    assert "hunter2" not in line
    assert len(secrets.asked) == 1


def test_a_name_that_is_none_is_not_shown(cloud: Any, secrets: Secrets) -> None:
    """Somebody may have put the password itself there."""
    found, lines = read(cloud, secrets, name="hunter2")

    assert found == {}
    assert "SINERGYM_MLFLOW_SECRET is not of the form projects/" in lines[0]
    assert "hunter2" not in lines[0]
    assert not secrets.asked


def test_trouble_that_passes_is_waited_for(cloud: Any, secrets: Secrets) -> None:
    """A server may be busy, and the network of a VM may come up late."""
    secrets.failing = 2
    found, lines = read(cloud, secrets)

    assert found["MLFLOW_TRACKING_PASSWORD"] == LOGIN["password"]
    assert (len(secrets.asked), lines) == (3, [])


@pytest.mark.slow
def test_nobody_who_answers(cloud: Any, secrets: Secrets) -> None:
    """Neither Secret Manager nor a metadata server: one line, when the time is over."""
    secrets.address = "http://127.0.0.1:9/"
    assert "ConnectionError" in read(cloud, secrets, seconds=0.5)[1][0]
    cloud.metadata = lambda *_: "127.0.0.1:9"
    assert "refused" in read(cloud, secrets, seconds=0.5)[1][0]


def test_a_command_runs_without_them(cloud: Any, new_vm: NewVm, secrets: Secrets) -> None:
    """The refusal is in the log that the bucket has, and the experiment goes on."""
    secrets.answer = lambda: refused(403, "denied")
    vm = run(new_vm, secrets.address)

    assert b"login=, 0 signs" in vm.output
    assert b"sinergym-runner: no user name and password for MLflow" in cloud.log()
    assert cloud.record()["state"] == "finished"


def test_a_stop_does_not_wait_for_it(new_vm: NewVm, secrets: Secrets) -> None:
    """While Secret Manager is away the container ends as fast as ever."""
    secrets.failing = 10_000
    vm = new_vm(
        environment={
            "SINERGYM_MLFLOW_SECRET": NAME,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": secrets.address,
        }
    )
    vm.start("sleep 60")
    deadline = time.monotonic() + 20
    while not secrets.asked and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    vm.stop()

    assert vm.ends() == 143
    assert time.monotonic() - began < 5
    assert b"could not be read in time: 503" in vm.output
