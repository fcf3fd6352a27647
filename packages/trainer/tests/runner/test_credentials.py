"""The command's user name and password for MLflow, out of a Secret Manager on loopback."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

NAME = "projects/local/secrets/mlflow-trainer"
LOGIN = {"username": "trainer", "password": "s3cret-pässword"}
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


def test_only_the_command_gets_them(cloud: Any, new_vm: NewVm, secrets: Secrets) -> None:
    """Read once, with the VM's token; in no log, record, object, nor the runner's environment."""
    command = (
        f"{SHOWN}; mkdir -p $SINERGYM_OUTPUT; echo model > $SINERGYM_OUTPUT/model.zip;"
        " tr '\\0' '\\n' < /proc/$PPID/environ | grep -c MLFLOW_TRACKING_PASSWORD"
    )
    vm = run(new_vm, secrets.address, f"{command}; true")

    expected = f"login=trainer, {len(LOGIN['password'])} signs\n0\n"
    assert expected.encode() in vm.output or f"login=trainer, {len(LOGIN['password'].encode())}" in (
        vm.output.decode()
    )
    assert secrets.asked == [(f"/v1/{NAME}/versions/latest:access", "Bearer loopback")]
    assert cloud.record()["state"] == "finished"
    kept = json.dumps([[name, str(one)] for name, one in cloud.objects.items()], ensure_ascii=False)
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


def test_trouble_that_passes_is_waited_for(new_vm: NewVm, secrets: Secrets) -> None:
    """The network of a VM may come up late, and a server may be busy."""
    secrets.failing = 2
    vm = run(new_vm, secrets.address)

    assert b"login=trainer" in vm.output
    assert len(secrets.asked) == 3


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
    cloud: Any, new_vm: NewVm, secrets: Secrets, answer: Callable[[], web.Response], said: str
) -> None:
    """The command runs all the same, without them; what was in the secret is not shown."""
    secrets.answer = answer
    vm = run(new_vm, secrets.address)

    assert b"login=, 0 signs" in vm.output
    (line,) = (one for one in vm.output.decode().splitlines() if "for MLflow" in one)
    assert line.startswith("sinergym-runner: no user name and password for MLflow")
    assert said in line
    assert b"hunter2" not in vm.output + cloud.log()
    assert len(secrets.asked) == 1, "asking again would not help"


def test_a_name_that_is_none_is_not_shown(new_vm: NewVm, secrets: Secrets) -> None:
    """Somebody may have put the password itself there."""
    vm = run(new_vm, secrets.address, name="hunter2")

    assert b"SINERGYM_MLFLOW_SECRET is not of the form projects/" in vm.output
    assert b"hunter2" not in vm.output
    assert not secrets.asked


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
