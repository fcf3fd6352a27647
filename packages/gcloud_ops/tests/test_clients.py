# mypy: disable-error-code="no-untyped-call"
# Google's exceptions have no types.
"""Clients: built late, at the endpoint, with Google's errors in our words."""

import inspect
import subprocess
import sys
import threading
import time

import google.api_core.exceptions as api
import google.auth.exceptions as auth
import pytest
import requests.exceptions
import urllib3.exceptions

from gcloud_ops import errors, groups, instances
from gcloud_ops.clients import Clients, default_project, error_for_code, translate
from gcloud_ops.settings import Settings

from .conftest import Answers


def classes_of(module: object) -> list[type[Exception]]:
    """All exceptions that a module defines."""
    return [
        found
        for found in vars(module).values()
        if inspect.isclass(found)
        and issubclass(found, Exception)
        and found.__module__ == module.__name__  # type: ignore[attr-defined]
    ]


def example_of(kind: type[Exception]) -> Exception:
    """One such exception."""
    if kind is api.RetryError:
        return api.RetryError("too long", cause=api.ServiceUnavailable("busy"))
    return kind("the message")


def translation_of(error: Exception) -> errors.GcloudOpsError:
    """What `translate` makes of it."""
    with pytest.raises(errors.GcloudOpsError) as caught, translate("group quick"):
        raise error
    return caught.value


def test_importing_clients_imports_no_google() -> None:
    """Neither does any other adapter, nor settings of any kind."""
    code = (
        "import sys; import gcloud_ops.clients, gcloud_ops.groups, gcloud_ops.bucket, "
        "gcloud_ops.ssh, gcloud_ops.startup; "
        "from gcloud_ops.settings import Settings; "
        "gcloud_ops.clients.Clients.connect(Settings(project='p1')).project; "
        "print([m for m in sys.modules if m.startswith(('google.', 'asyncssh', 'requests'))])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", classes_of(api), ids=lambda kind: kind.__name__)
def test_every_exception_of_api_core_is_translated(kind: type[Exception]) -> None:
    """None of Google's call errors reaches a caller as it is."""
    if not issubclass(kind, api.GoogleAPIError):
        pytest.skip("not an error of a call")
    translated = translation_of(example_of(kind))

    assert type(translated) is not errors.GcloudOpsError
    assert translated.resource == "group quick"
    assert translated.message.startswith("group quick: ")
    assert translated.__cause__ is not None


@pytest.mark.parametrize("kind", classes_of(auth), ids=lambda kind: kind.__name__)
def test_every_exception_of_auth_is_translated(kind: type[Exception]) -> None:
    """Trouble with credentials is said to be that, or the network's."""
    translated = translation_of(kind("the message"))

    network = {auth.TransportError, auth.TimeoutError, auth.ResponseError}
    assert type(translated) is (
        errors.Unavailable if kind in network else errors.CredentialsMissing
    )
    if kind not in network:
        assert "gcloud auth application-default login" in translated.hint


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (api.BadRequest("x"), errors.InvalidRequest),
        (api.Unauthorized("x"), errors.CredentialsMissing),
        (api.Forbidden("x"), errors.PermissionDenied),
        (api.NotFound("x"), errors.NotFound),
        (api.Conflict("x"), errors.AlreadyExists),
        (api.PreconditionFailed("x"), errors.AlreadyExists),
        (api.Aborted("x"), errors.Unavailable),
        (api.TooManyRequests("x"), errors.Unavailable),
        (api.InternalServerError("x"), errors.Unavailable),
        (api.MethodNotImplemented("x"), errors.InvalidRequest),
        (api.ServiceUnavailable("x"), errors.Unavailable),
        (api.GatewayTimeout("x"), errors.Unavailable),
        (api.RetryError("x", cause=api.NotFound("x")), errors.NotFound),
        (auth.RefreshError("x", retryable=True), errors.Unavailable),
        (requests.exceptions.ConnectionError("x"), errors.Unavailable),
        (requests.exceptions.ReadTimeout("x"), errors.Unavailable),
        (requests.exceptions.JSONDecodeError("x", "", 0), errors.Unavailable),
        (urllib3.exceptions.ProtocolError("x"), errors.Unavailable),
        (ConnectionResetError("x"), errors.Unavailable),
        (TimeoutError("x"), errors.Unavailable),
    ],
    ids=repr,
)
def test_kinds(error: Exception, kind: type[Exception]) -> None:
    """By HTTP class, where Google gives no reason."""
    assert type(translation_of(error)) is kind


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), FileNotFoundError("x")])
def test_errors_that_are_nobodys(error: Exception) -> None:
    """A defect stays a defect: it isn't dressed up as the cloud's."""
    with pytest.raises(type(error)), translate("group quick"):
        raise error


def test_our_errors_pass() -> None:
    """Translating twice changes nothing."""
    error = errors.NotFound("x")
    with pytest.raises(errors.NotFound) as caught, translate("outer"), translate("inner"):
        raise error

    assert caught.value is error


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("quotaExceeded", 403, errors.QuotaExceeded),
        ("QUOTA_EXCEEDED", 403, errors.QuotaExceeded),
        ("CPUS_QUOTA_SOMETHING", 0, errors.QuotaExceeded),
        ("rateLimitExceeded", 403, errors.Unavailable),
        ("RESOURCE_OPERATION_RATE_EXCEEDED", 403, errors.Unavailable),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", 503, errors.NoCapacity),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", 503, errors.NoCapacity),
        ("RESOURCE_POOL_EXHAUSTED", 0, errors.NoCapacity),
        ("notFound", 404, errors.NotFound),
        ("RESOURCE_NOT_FOUND", 404, errors.NotFound),
        ("conflict", 409, errors.AlreadyExists),
        ("alreadyExists", 409, errors.AlreadyExists),
        ("conditionNotMet", 412, errors.AlreadyExists),
        ("resourceNotReady", 400, errors.NotReady),
        ("resourceInUseByAnotherResource", 400, errors.InvalidRequest),
        ("forbidden", 403, errors.PermissionDenied),
        ("accessNotConfigured", 403, errors.PermissionDenied),
        ("invalid", 400, errors.InvalidRequest),
        ("SOMETHING_NEW", 0, errors.OperationFailed),
        ("somethingNew", 404, errors.NotFound),
    ],
)
def test_googles_words(code: str, status: int, kind: type[Exception]) -> None:
    """The reason counts before the status, in REST's spelling and in the operations'."""
    assert type(error_for_code(code, "x", resource="group quick", status=status)) is kind


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (
            "forbidden",
            "Required 'compute.instances.list' permission for 'projects/lab'",
            "compute.instances.list",
        ),
        (
            "forbidden",
            "ana@lab.org does not have storage.objects.list access to the bucket.",
            "storage.objects.list",
        ),
        (
            "accessNotConfigured",
            "Compute Engine API has not been used in project 1 before or it is disabled. Enable "
            "it by visiting https://console.developers.google.com/apis/api/compute.googleapis.com"
            "/overview?project=1 then retry.",
            "gcloud services enable compute.googleapis.com",
        ),
        ("resourceInUseByAnotherResource", "in use by 'quick'", "delete first"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "no resources", "another zone"),
        ("quotaExceeded", "Quota 'CPUS' exceeded.", "quota"),
        ("authError", "Invalid Credentials", "gcloud auth application-default login"),
    ],
)
def test_hints_say_what_to_do(code: str, message: str, hint: str) -> None:
    """The permission, the API or the command is named."""
    assert hint in error_for_code(code, message, resource="x", status=403).hint


def test_a_policy_of_the_organisation_is_no_precondition() -> None:
    """Compute Engine answers both with 412 conditionNotMet."""
    message = "Constraint constraints/compute.vmExternalIpAccess violated for project 1."

    error = error_for_code("conditionNotMet", message, resource="x", status=412)

    assert type(error) is errors.PermissionDenied


def test_messages_are_one_harmless_line() -> None:
    """Google's sentence, without request line, line breaks and escapes."""
    error = api.NotFound(
        "GET http://127.0.0.1:1/compute/v1/projects/p: The resource\n\x1b[31m'x' was not found"
    )

    assert translation_of(error).message == "group quick: The resource 'x' was not found"


def test_reasons_are_read_from_the_wire(answers: Answers) -> None:
    """Through Google's own client: a 403 with a quota's reason is a quota."""
    answers.say(answers.error(403, "quotaExceeded", "Quota 'CPUS' exceeded. Limit: 24.0"))

    with pytest.raises(errors.QuotaExceeded, match=r"^group quick: Quota 'CPUS' exceeded"):
        groups.get_group(answers.clients, "quick")


def test_busy_clouds_are_asked_again(answers: Answers) -> None:
    """503, a rate limit and a cut line are tried again, and then it works."""
    answers.say(
        answers.error(503, "backendError"),
        answers.error(403, "rateLimitExceeded"),
        (0, ""),
        (200, {"name": "europe-west1-b", "status": "UP"}),
    )

    assert instances.zone_exists(answers.clients, "europe-west1-b")
    assert len(answers.requests) == 4


def test_a_dead_cloud_is_given_up(answers: Answers) -> None:
    """Five tries, and one line that says that nothing answers."""
    answers.say(answers.error(503, "backendError", "try later"))

    with pytest.raises(errors.Unavailable, match="zone europe-west1-b: try later"):
        instances.zone_exists(answers.clients, "europe-west1-b")

    assert len(answers.requests) == 5


def test_a_refused_connection_is_said_plainly() -> None:
    """Without the five addresses that urllib3 wraps around it."""
    clients = Clients.connect(Settings(project="probe", endpoint="http://127.0.0.1:1"))

    with pytest.raises(errors.Unavailable, match="the cloud doesn't answer") as caught:
        instances.zone_exists(clients, "europe-west1-b")

    assert "refused" in caught.value.message
    assert "0x" not in caught.value.message
    assert len(caught.value.message) < 120


def test_a_page_that_is_no_json(answers: Answers) -> None:
    """A proxy's log-in page is no answer of the cloud's."""
    answers.say((200, "<html>Please log in</html>"))

    with pytest.raises(errors.Unavailable, match="doesn't answer"):
        instances.zone_exists(answers.clients, "europe-west1-b")


def test_repeated_changes_have_one_request_id(answers: Answers) -> None:
    """So Compute Engine can tell a second try from a second wish."""
    done = {"name": "operation-1", "status": "DONE", "zone": "zones/europe-west1-b"}
    answers.say(answers.error(503, "backendError"), (0, ""), (200, done))

    assert groups.delete_group(answers.clients, "quick")

    ids = {path.partition("requestId=")[2].partition("&")[0] for _, path, _ in answers.requests}
    assert len(answers.requests) == 3
    assert len(ids) == 1
    assert len(ids.pop()) == 36


def operation(status: str, **more: object) -> dict[str, object]:
    """An operation of a zone as Compute Engine shows it."""
    zone = "https://www.googleapis.com/compute/v1/projects/probe/zones/europe-west1-b"
    return {
        "name": "operation-1",
        "operationType": "delete",
        "status": status,
        "zone": zone,
        **more,
    }


def test_waiting_asks_our_endpoint(answers: Answers) -> None:
    """Google's own `result()` would ask compute.googleapis.com."""
    running = operation("RUNNING")
    answers.say((200, running), (200, running), (200, operation("DONE")))

    assert groups.delete_group(answers.clients, "quick")

    assert [command for command, *_ in answers.requests] == ["DELETE", "POST", "POST"]
    assert answers.requests[-1][1].startswith(
        "/compute/v1/projects/probe/zones/europe-west1-b/operations/operation-1/wait"
    )


def test_an_operation_that_fails(answers: Answers) -> None:
    """Its first error is translated by its code."""
    entry = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone has no resources"}
    failed = operation(
        "DONE", error={"errors": [entry]}, httpErrorStatusCode=503, httpErrorMessage="UNAVAILABLE"
    )
    answers.say((200, operation("PENDING")), (200, failed))

    with pytest.raises(errors.NoCapacity, match="group quick: The zone has no resources"):
        groups.delete_group(answers.clients, "quick")


def test_an_operation_that_never_ends(answers: Answers) -> None:
    """The wait has an end, and says for what."""
    answers.say((200, operation("RUNNING")))
    begin = time.monotonic()

    with pytest.raises(errors.Unavailable, match="group quick: delete not done after 0 s") as it:
        groups.delete_group(answers.clients, "quick", timeout=0.3)

    assert "operation-1" in it.value.hint
    assert time.monotonic() - begin < 3
    assert len(answers.requests) < 30  # no busy loop


def test_without_credentials_the_hint_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent to Google: the credentials come first."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # google-auth would look for a metadata server
    clients = Clients.connect(Settings(project="lab"))

    with pytest.raises(errors.CredentialsMissing) as caught:
        groups.list_groups(clients)

    assert "gcloud auth application-default login" in caught.value.hint
    assert default_project() is None


def test_clients_are_built_once(settings: Settings) -> None:
    """Also when many threads ask for the same one at once."""
    clients = Clients.connect(settings)
    found: list[object] = []
    gate = threading.Barrier(16)

    def ask() -> None:
        gate.wait()
        found.extend([clients.groups, clients.storage])

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 32
    assert len({id(one) for one in found}) == 2
