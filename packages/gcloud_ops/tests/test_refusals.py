"""Each way in which Google refuses our calls, over the wire, and what we say of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops import errors, groups, templates
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings

from .conftest import Answers

COMPUTE = (
    "https://console.developers.google.com/apis/api/compute.googleapis.com/overview?project=1"
)
LOGIN = "gcloud auth application-default login"


def older(status: int, reason: str, message: str) -> tuple[int, object]:
    """An error of Compute Engine and Cloud Storage."""
    domain = "usageLimits" if "xceeded" in reason or reason == "accessNotConfigured" else "global"
    entry = {"message": message, "domain": domain, "reason": reason}
    return status, {"error": {"code": status, "message": message, "errors": [entry]}}


def newer(
    status: int, canonical: str, message: str, reason: str = "", **metadata: str
) -> tuple[int, object]:
    """An error of IAM, Resource Manager, Secret Manager...; with details if it has a reason."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": metadata,
    }
    error = {"code": status, "message": message, "status": canonical}
    return status, {"error": {**error, **({"details": [info]} if reason else {})}}


def compute(clients: Clients) -> object:
    """A call of Compute Engine, by its own client."""
    return groups.list_groups(clients)


def storage(clients: Clients) -> object:
    """A call of Cloud Storage, by its own client."""
    return clients.call("bucket b", lambda: clients.storage.get_bucket("b", retry=None))


def by_document(clients: Clients) -> object:
    """A call of a newer API, by its discovery document."""
    accounts = clients.api("iam", "v1").projects().serviceAccounts()
    return clients.execute("account a", accounts.get(name="projects/p/serviceAccounts/a@b.c"))


REFUSALS: list[tuple[str, Callable[[Clients], object], tuple[int, object], type, str]] = [
    (
        "the API is not enabled",
        compute,
        older(
            403,
            "accessNotConfigured",
            "Compute Engine API has not been used in project 1 before or it is disabled. Enable "
            f"it by visiting {COMPUTE} then retry.",
        ),
        errors.PermissionDenied,
        "gcloud services enable compute.googleapis.com",
    ),
    (
        "a newer API is not enabled",
        by_document,
        newer(
            403,
            "PERMISSION_DENIED",
            "Identity and Access Management (IAM) API has not been used in project 1 before or it "
            "is disabled. Enable it by visiting https://console.developers.google.com/apis/api/"
            "iam.googleapis.com/overview?project=1 then retry.",
            "SERVICE_DISABLED",
            service="iam.googleapis.com",
        ),
        errors.PermissionDenied,
        "gcloud services enable iam.googleapis.com",
    ),
    (
        "a permission is missing",
        compute,
        older(
            403,
            "forbidden",
            "Required 'compute.instanceGroupManagers.list' permission for 'projects/lab'",
        ),
        errors.PermissionDenied,
        "the permission compute.instanceGroupManagers.list",
    ),
    (
        "a permission is missing in a bucket",
        storage,
        older(
            403,
            "forbidden",
            "ana@lab.org does not have storage.buckets.get access to the Google Cloud Storage "
            "bucket. Permission 'storage.buckets.get' denied on resource (or it may not exist).",
        ),
        errors.PermissionDenied,
        "the permission storage.buckets.get",
    ),
    (
        "a permission is missing in a newer API",
        by_document,
        newer(
            403,
            "PERMISSION_DENIED",
            "Permission 'iam.serviceAccounts.get' denied on resource (or it may not exist).",
            "IAM_PERMISSION_DENIED",
            permission="iam.serviceAccounts.get",
        ),
        errors.PermissionDenied,
        "the permission iam.serviceAccounts.get",
    ),
    (
        "the token has too few scopes",
        by_document,
        newer(
            403,
            "PERMISSION_DENIED",
            "Request had insufficient authentication scopes.",
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            service="iam.googleapis.com",
        ),
        errors.PermissionDenied,
        "the scope cloud-platform",
    ),
    (
        "the VM's token has too few scopes",
        compute,
        older(
            403,
            "insufficientPermissions",
            "Request had insufficient authentication scopes.",
        ),
        errors.PermissionDenied,
        "the scope cloud-platform",
    ),
    (
        "calls come too fast",
        compute,
        older(
            403,
            "rateLimitExceeded",
            "Quota exceeded for quota group 'ListGroup' and limit 'List requests per 100 seconds' "
            "of service 'compute.googleapis.com' for consumer 'project_number:1'.",
        ),
        errors.Unavailable,
        "wait a minute",
    ),
    (
        "calls of a newer API come too fast",
        by_document,
        newer(
            429,
            "RESOURCE_EXHAUSTED",
            "Quota exceeded for quota metric 'Read requests' and limit 'Read requests per minute' "
            "of service 'iam.googleapis.com'.",
            "RATE_LIMIT_EXCEEDED",
        ),
        errors.Unavailable,
        "wait a minute",
    ),
    (
        "the project has no more of it",
        compute,
        older(403, "quotaExceeded", "Quota 'INSTANCE_GROUP_MANAGERS' exceeded.  Limit: 100.0"),
        errors.QuotaExceeded,
        "IAM & Admin, Quotas",
    ),
    (
        "billing is not enabled",
        compute,
        older(
            403,
            "forbidden",
            "This API method requires billing to be enabled. Please enable billing on project #1 "
            "by visiting https://console.developers.google.com/billing/enable?project=1 then "
            "retry.",
        ),
        errors.PermissionDenied,
        "gcloud billing projects link",
    ),
    (
        "billing is disabled, to a newer API",
        by_document,
        newer(
            403,
            "PERMISSION_DENIED",
            "This API method requires billing to be enabled.",
            "BILLING_DISABLED",
        ),
        errors.PermissionDenied,
        "gcloud billing projects link",
    ),
    (
        "the billing account is closed",
        storage,
        older(
            403,
            "accountDisabled",
            "The billing account for the owning project is disabled in state closed",
        ),
        errors.PermissionDenied,
        "gcloud billing projects link",
    ),
    (
        "there is no such project",
        compute,
        older(404, "notFound", "Failed to find project lab-that-is-not"),
        errors.PermissionDenied,
        "check --project",
    ),
    (
        "the project was deleted",
        compute,
        older(403, "forbidden", "Project 'lab' has been deleted."),
        errors.PermissionDenied,
        "check --project",
    ),
    (
        "the project is not ours to see",
        by_document,
        newer(
            403,
            "PERMISSION_DENIED",
            "Permission denied on resource project lab.",
            "CONSUMER_INVALID",
        ),
        errors.PermissionDenied,
        "check --project",
    ),
    (
        "the project that pays is another",
        by_document,
        newer(
            403,
            "PERMISSION_DENIED",
            "Caller does not have required permission to use project lab. Grant the caller the "
            "roles/serviceusage.serviceUsageConsumer role, or a custom role with the "
            "serviceusage.services.use permission",
            "USER_PROJECT_DENIED",
        ),
        errors.PermissionDenied,
        "roles/serviceusage.serviceUsageConsumer",
    ),
    (
        "the token has expired",
        compute,
        older(401, "authError", "Invalid Credentials"),
        errors.CredentialsMissing,
        LOGIN,
    ),
    (
        "nobody is logged in",
        storage,
        older(
            401,
            "required",
            "Anonymous caller does not have storage.buckets.get access to the Google Cloud "
            "Storage bucket.",
        ),
        errors.CredentialsMissing,
        LOGIN,
    ),
    (
        "a newer API takes no token",
        by_document,
        newer(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login "
            "cookie or other valid authentication credential.",
            "ACCESS_TOKEN_EXPIRED",
        ),
        errors.CredentialsMissing,
        LOGIN,
    ),
    (
        "the organisation does not want it",
        storage,
        older(
            412,
            "conditionNotMet",
            "'us' violates constraint 'constraints/gcp.resourceLocations' on the resource "
            "'projects/_/buckets/b'.",
        ),
        errors.PermissionDenied,
        "administrator",
    ),
    (
        "the organisation has drawn a line around it",
        storage,
        older(
            403,
            "vpcServiceControls",
            "Request is prohibited by organization's policy. "
            "vpcServiceControlsUniqueIdentifier: x",
        ),
        errors.PermissionDenied,
        "administrator",
    ),
]


@pytest.mark.parametrize(
    ("call", "answer", "kind", "hint"),
    [refusal[1:] for refusal in REFUSALS],
    ids=[refusal[0] for refusal in REFUSALS],
)
def test_a_call_that_is_refused(
    answers: Answers,
    call: Callable[[Clients], object],
    answer: tuple[int, object],
    kind: type[errors.GcloudOpsError],
    hint: str,
) -> None:
    """The kind of error, Google's sentence and what to do, in one line."""
    answers.say(answer)

    with pytest.raises(errors.GcloudOpsError) as caught:
        call(answers.clients)

    check(caught.value, kind, hint)
    content: Any = answer[1]
    if kind is not errors.CredentialsMissing:  # google-auth says in its own words why not
        assert content["error"]["message"].split(".")[0].split("  ")[0] in caught.value.message
    # What may pass is asked again; a refusal is not.
    assert (len(answers.requests) > 1) == (kind is errors.Unavailable)


def check(error: errors.GcloudOpsError, kind: type[errors.GcloudOpsError], hint: str) -> None:
    """It is of that kind, says what to do, and fits into a line."""
    assert type(error) is kind, error
    assert hint in error.hint
    assert "\n" not in str(error)
    assert error.resource
    assert error.message.startswith(error.resource) or kind is errors.CredentialsMissing


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (
            (
                "QUOTA_EXCEEDED",
                403,
                "Quota 'CPUS' exceeded.  Limit: 24.0 in region europe-west1.",
            ),
            errors.QuotaExceeded,
            "another region",
        ),
        (
            (
                "QUOTA_EXCEEDED",
                403,
                "Quota 'CPUS_ALL_REGIONS' exceeded.  Limit: 32.0 globally.",
            ),
            errors.QuotaExceeded,
            "all regions together",
        ),
        (
            (
                "IP_SPACE_EXHAUSTED",
                400,
                "IP space of 'projects/lab/regions/r/subnetworks/default' is exhausted.",
            ),
            errors.QuotaExceeded,
            "the subnetwork",
        ),
        (
            (
                "PERMISSIONS_ERROR",
                403,
                "Required 'compute.instances.create' permission for 'projects/lab/zones/z'",
            ),
            errors.PermissionDenied,
            "the permission compute.instances.create",
        ),
        (
            (
                "CONDITION_NOT_MET",
                412,
                "Constraint constraints/compute.vmExternalIpAccess violated for project 1. Add "
                "instance projects/lab/zones/z/instances/i to the constraint to use external IP.",
            ),
            errors.PermissionDenied,
            "through IAP",
        ),
        (
            (
                "CONDITION_NOT_MET",
                412,
                "Constraint constraints/compute.requireShieldedVm violated for project 1.",
            ),
            errors.PermissionDenied,
            "administrator",
        ),
        (
            (
                "SERVICE_ACCOUNT_ACCESS_DENIED",
                400,
                "The user does not have access to service account 'trainer@lab.iam.gserviceaccount"
                ".com'. User: 'ana@lab.org'. Ask a project owner to grant you the "
                "iam.serviceAccountUser role on the service account",
            ),
            errors.PermissionDenied,
            "roles/iam.serviceAccountUser",
        ),
        (
            (
                "RESOURCE_OPERATION_RATE_EXCEEDED",
                403,
                "Operation rate exceeded for resource 'projects/lab/global/instanceTemplates/t'. "
                "Too frequent operations from the source resource.",
            ),
            errors.Unavailable,
            "wait a minute",
        ),
        (
            (
                "ZONE_RESOURCE_POOL_EXHAUSTED",
                503,
                "The zone 'projects/lab/zones/z' does not have enough resources available.",
            ),
            errors.NoCapacity,
            "another zone",
        ),
        (
            (
                "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
                400,
                "The instance_template resource 't' is already being used by 'g'",
            ),
            errors.InvalidRequest,
            "delete first",
        ),
    ],
)
def test_an_operation_that_is_refused(
    answers: Answers,
    error: tuple[str, int, str],
    kind: type[errors.GcloudOpsError],
    hint: str,
) -> None:
    """What is refused only when it is carried out is explained as well."""
    code, status, message = error
    failed = {
        "name": "operation-1",
        "status": "DONE",
        "error": {"errors": [{"code": code, "message": message}]},
        "httpErrorStatusCode": status,
        "httpErrorMessage": "NO",
    }
    answers.say((200, failed))

    with pytest.raises(errors.GcloudOpsError) as caught:
        templates.delete_template(answers.clients, "t")

    check(caught.value, kind, hint)


@pytest.mark.parametrize(
    "said",
    [
        "Token has been expired or revoked.",
        "reauth related error (invalid_rapt)",
        "Account has been deleted",
    ],
)
def test_credentials_that_have_expired(answers: Answers, said: str) -> None:
    """The grant of the default credentials is refused, where tokens are made of it."""
    answers.say((400, {"error": "invalid_grant", "error_description": said}))
    content = {
        "type": "authorized_user",
        "client_id": "id",
        "client_secret": "s",
        "refresh_token": "r",
    }
    from google.oauth2.credentials import Credentials

    credentials = Credentials.from_authorized_user_info(content)  # type: ignore[no-untyped-call]
    credentials._token_uri = f"{answers.address}/token"
    clients = Clients(Settings(project="lab"), credentials=credentials)

    with pytest.raises(errors.GcloudOpsError) as caught:
        clients.token()

    check(caught.value, errors.CredentialsMissing, LOGIN)
    assert "invalid_grant" in caught.value.message
    assert [path for _, path, _ in answers.requests] == ["/token"]


def test_a_file_of_credentials_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Default credentials that can't be read are said to be that, and nothing is sent."""
    file = tmp_path / "adc.json"
    file.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))

    with pytest.raises(errors.GcloudOpsError) as caught:
        groups.list_groups(Clients.connect(Settings(project="lab")))

    check(caught.value, errors.CredentialsMissing, LOGIN)
