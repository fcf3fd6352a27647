"""What Google's errors mean: one of ours for each, in one line, with what to do about it.

Over REST, over gRPC, of the client libraries, of credentials, and of operations that end badly.
Google's words are in https://cloud.google.com/apis/design/errors,
https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-rate-limits and
https://cloud.google.com/storage/docs/json_api/v1/status-codes.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Final

from gcloud_ops.errors import (
    AlreadyExists,
    CredentialsMissing,
    GcloudOpsError,
    InvalidRequest,
    NoCapacity,
    NotFound,
    NotReady,
    OperationFailed,
    PermissionDenied,
    QuotaExceeded,
    Unavailable,
)
from gcloud_ops.text import one_line

__all__ = ["error_for_code", "raise_operation_error", "translate"]

_LOGIN = "run `gcloud auth application-default login`"


@contextmanager
def translate(resource: str) -> Iterator[None]:
    """Turn what Google's clients raise inside the block into our errors.

    Errors of ours pass, and so do errors that are nobody's but Python's.

    Args:
        resource: What the calls are about, such as `group quick`.
    """
    try:
        yield
    except GcloudOpsError:
        raise
    except Exception as error:
        translated = _translated(error, resource)
        if translated is None:
            raise
        raise translated from error


def error_for_code(code: str, message: str, *, resource: str, status: int = 0) -> GcloudOpsError:
    """The error for Google's word for what went wrong.

    Args:
        code: Such as `quotaExceeded` or `ZONE_RESOURCE_POOL_EXHAUSTED`; "" if there is none.
        message: Google's sentence.
        resource: What it is about.
        status: HTTP status, where there is one, for a code that isn't known.
    """
    kind = _kind_of_code(code) or _kind_of_status(status)
    text = one_line(_said(message)) or code or f"HTTP {status}"
    if status == HTTPStatus.UNAUTHORIZED:  # Cloud Storage calls a missing token `required`
        kind = CredentialsMissing
    if _POLICY.search(text) and kind in {AlreadyExists, InvalidRequest, OperationFailed}:
        # An organisation's policy answers 412 or CONDITION_NOT_MET, as a precondition does.
        kind = PermissionDenied
    if _BILLING.search(text) or _GONE_PROJECT.search(text):
        kind = PermissionDenied  # nothing is done for such a project, whatever the status
    return kind(f"{resource}: {text}", resource=resource, hint=_hint(kind, code, text))


# -------------------------------------------------------------------------- translation

_REQUEST_LINE = re.compile(r"\A\s*(?:[0-9]{3} )?(?:GET|POST|PUT|PATCH|DELETE) https?://\S+: ")
_PERMISSION = re.compile(r"\b[a-z]+\.[a-zA-Z]+\.[a-zA-Z]+\b(?!\.)")
_API = re.compile(r"\b([a-z]+\.googleapis\.com)\b")
_BILLING = re.compile(r"\bbilling (?:account|to be enabled|is (?:not enabled|disabled))", re.I)
_GONE_PROJECT = re.compile(
    r"[Pp]roject\b.* (?:has been deleted|not found or deleted|is pending deletion|was deleted)"
    r"|Failed to find project|Permission denied on resource project|Unknown project id"
)
_SCOPES = re.compile(r"insufficient authentication scopes|insufficient (?:OAuth )?scopes?", re.I)
_ACT_AS = re.compile(r"does not have access to service account|iam\.serviceAccounts\.actAs")
_QUOTA_METRIC = re.compile(r"'?([A-Z0-9_-]*ALL_REGIONS[A-Z0-9_-]*)'?")
_POLICY = re.compile(r"\bconstraints?[/ ][a-z'\"`]|[Oo]rg(?:anization)?(?:'s)? [Pp]olicy")

_CODES: Final[Mapping[str, type[GcloudOpsError]]] = {
    # Compared in lower case without underscores: REST says notFound, operations NOT_FOUND.
    "quotaexceeded": QuotaExceeded,
    "limitexceeded": QuotaExceeded,
    "dailylimitexceeded": QuotaExceeded,
    "ipspaceexhausted": QuotaExceeded,
    "ipspaceexhaustedwithdetails": QuotaExceeded,
    "ratelimitexceeded": Unavailable,
    "userratelimitexceeded": Unavailable,
    "resourceexhausted": Unavailable,
    "resourceoperationrateexceeded": Unavailable,
    "resourcenotready": NotReady,
    "resourceinuse": Unavailable,
    "backenderror": Unavailable,
    "internalerror": Unavailable,
    "zoneresourcepoolexhausted": NoCapacity,
    "zoneresourcepoolexhaustedwithdetails": NoCapacity,
    "resourcepoolexhausted": NoCapacity,
    "insufficientcapacity": NoCapacity,
    "stockout": NoCapacity,
    "notfound": NotFound,
    "resourcenotfound": NotFound,
    "alreadyexists": AlreadyExists,
    "resourcealreadyexists": AlreadyExists,
    "conflict": AlreadyExists,
    "conditionnotmet": AlreadyExists,
    "resourceinusebyanotherresource": InvalidRequest,
    "invalid": InvalidRequest,
    "invalidargument": InvalidRequest,
    "invalidfieldvalue": InvalidRequest,
    "invalidusage": InvalidRequest,
    "badrequest": InvalidRequest,
    "required": InvalidRequest,
    "unsupportedoperation": InvalidRequest,
    "forbidden": PermissionDenied,
    "insufficientpermissions": PermissionDenied,
    "accesstokenscopeinsufficient": PermissionDenied,
    "iampermissiondenied": PermissionDenied,
    "servicedisabled": PermissionDenied,
    "billingdisabled": PermissionDenied,
    "billingnotenabled": PermissionDenied,
    "accountdisabled": PermissionDenied,
    "userprojectdenied": PermissionDenied,
    "consumerinvalid": PermissionDenied,
    "serviceaccountaccessdenied": PermissionDenied,
    "securitypolicyviolated": PermissionDenied,
    "accessnotconfigured": PermissionDenied,
    "permissionserror": PermissionDenied,
    "permissiondenied": PermissionDenied,
    "autherror": CredentialsMissing,
    "unauthorized": CredentialsMissing,
    "loginrequired": CredentialsMissing,
}


def _said(message: str) -> str:
    """Google's sentence alone: the storage client wraps the request or the JSON around it."""
    message = _REQUEST_LINE.sub("", message)
    if message.startswith("{"):
        with suppress(ValueError, KeyError, TypeError):
            return str(json.JSONDecoder().raw_decode(message)[0]["error"]["message"])
    return message


def _kind_of_code(code: str) -> type[GcloudOpsError] | None:
    key = code.replace("_", "").lower()
    found = _CODES.get(key)
    if found is None and "quota" in key:
        return QuotaExceeded
    return found


def _kind_of_status(status: int) -> type[GcloudOpsError]:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return CredentialsMissing
        case HTTPStatus.FORBIDDEN:
            return PermissionDenied
        case HTTPStatus.NOT_FOUND:
            return NotFound
        case HTTPStatus.CONFLICT | HTTPStatus.PRECONDITION_FAILED:
            return AlreadyExists
        case HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.TOO_MANY_REQUESTS | 499:
            return Unavailable
        case HTTPStatus.NOT_IMPLEMENTED:
            return InvalidRequest
        case _ if 400 <= status < 500:
            return InvalidRequest
        case _ if 500 <= status < 600:
            return Unavailable
        case _:
            return OperationFailed


def _hint(kind: type[GcloudOpsError], code: str, text: str) -> str:
    """What to do about it."""
    key = code.replace("_", "").lower()
    if kind is CredentialsMissing:
        return _LOGIN
    if kind is PermissionDenied:
        return _hint_for_denied(key, text)
    if kind is QuotaExceeded:
        return _hint_for_quota(key, text)
    if kind is NoCapacity:
        return "try another zone or machine type, or wait"
    if key in _RATES:
        return "too many calls in a short time: wait a minute"
    if key == "resourceinusebyanotherresource":
        return "delete first what uses it"
    return ""


_RATES = frozenset(
    {
        *("ratelimitexceeded", "userratelimitexceeded", "resourceexhausted"),
        "resourceoperationrateexceeded",
    }
)


def _hint_for_denied(key: str, text: str) -> str:
    permission = _PERMISSION.search(text)
    if key in {"accessnotconfigured", "servicedisabled"} or "has not been used" in text:
        api = _API.search(text)
        return f"enable the API: `gcloud services enable {api[1] if api else 'API'}`"
    if _BILLING.search(text) or key in {"billingdisabled", "billingnotenabled", "accountdisabled"}:
        return (
            "link a billing account to the project: "
            "`gcloud billing projects link PROJECT --billing-account ACCOUNT`"
        )
    if _GONE_PROJECT.search(text) or key == "consumerinvalid":
        return "check --project: there is no such project, or the account may not see it"
    if key == "userprojectdenied":
        return "the account needs the role roles/serviceusage.serviceUsageConsumer"
    if key == "accesstokenscopeinsufficient" or _SCOPES.search(text):
        return (
            f"the token is for less than is needed: {_LOGIN}, or give the VM the scope "
            "cloud-platform"
        )
    if key == "serviceaccountaccessdenied" or _ACT_AS.search(text):
        return "the account needs the role roles/iam.serviceAccountUser on the service account"
    if "compute.vmExternalIpAccess" in text:
        return (
            "an organisation's policy forbids public addresses: take a template made with "
            "`--no-external-address`, whose instances are reached through IAP"
        )
    if _POLICY.search(text) or key == "securitypolicyviolated":
        return "an organisation's policy forbids it: its administrator can make an exception"
    return f"the account needs the permission {permission[0]}" if permission else ""


def _hint_for_quota(key: str, text: str) -> str:
    if key.startswith("ipspaceexhausted"):
        return "the subnetwork has no address left: widen it, or use another region"
    if _QUOTA_METRIC.search(text):
        return "the quota is for all regions together: ask for more under IAM & Admin, Quotas"
    return "ask for more quota in the console under IAM & Admin, Quotas, or use another region"


def _translated(error: Exception, resource: str) -> GcloudOpsError | None:
    """Our error for a foreign one; None when it is neither Google's nor the network's."""
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    if isinstance(error, api.RetryError) and isinstance(error.cause, Exception):
        return _translated(error.cause, resource) or _unavailable(error, resource)
    if isinstance(error, api.GoogleAPICallError):
        return _from_api(error, resource)
    if isinstance(error, api.GoogleAPIError):
        kind = Unavailable if isinstance(error, api.RetryError) else OperationFailed
        return kind(f"{resource}: {one_line(str(error))}", resource=resource)
    if isinstance(error, auth.GoogleAuthError):
        return _from_auth(error, resource)
    http_error = getattr(sys.modules.get("googleapiclient.errors"), "HttpError", None)
    if http_error and isinstance(error, http_error):
        return _from_http(error, resource)
    if _is_of_network(error):
        return _unavailable(error, resource)
    return None


def _from_api(error: Any, resource: str) -> GcloudOpsError:
    from google.api_core import exceptions as api

    code = next(
        (
            str(entry["reason"])
            for entry in error.errors
            if isinstance(entry, dict) and entry.get("reason")
        ),
        str(error.reason or ""),
    )
    status = int(error.code or 0)
    if not status:
        status = 500 if isinstance(error, api.ServerError) else 0
        status = 400 if isinstance(error, api.ClientError) else status
    if isinstance(error, api.Aborted | api.TransferStalledError) and not code:
        return _unavailable(error, resource)
    return error_for_code(code, str(error.message), resource=resource, status=status)


def _from_http(error: Any, resource: str) -> GcloudOpsError:
    """The error of a client that `Clients.api` made."""
    try:
        content = json.loads(error.content)["error"]
        entries = content.get("errors") or [{}]
        # An API of the older kind gives a reason, one of the newer kind details or a status.
        reasons = [one.get("reason", "") for one in content.get("details", [])]
        code = str(entries[0].get("reason") or next(filter(None, reasons), "") or "")
        text = str(content.get("message") or error.reason)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        code, text = "", str(error.reason)
    return error_for_code(code, text, resource=resource, status=int(error.resp.status))


def _from_auth(error: Any, resource: str) -> GcloudOpsError:
    from google.auth import exceptions as auth

    passing = isinstance(error, auth.TransportError | auth.TimeoutError | auth.ResponseError)
    if passing or error.retryable:
        return _unavailable(error, resource)
    if isinstance(error, auth.DefaultCredentialsError) and "not found" in str(error):
        text = "no credentials for Google Cloud were found"
    else:
        # Of a refused grant, the reply follows as a second argument.
        said = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
        text = f"the credentials for Google Cloud don't work: {one_line(said)}"
    return CredentialsMissing(text, resource=resource, hint=_LOGIN)


def _is_of_network(error: Exception) -> bool:
    """Whether it comes from the connection: looks only at libraries that are loaded already."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    loaded = [
        getattr(sys.modules.get(module), name, None)
        for module, name in (
            ("requests.exceptions", "RequestException"),
            ("urllib3.exceptions", "HTTPError"),
            ("httplib2.error", "HttpLib2Error"),
            ("google.cloud.storage.exceptions", "InvalidResponse"),
            ("google.cloud.storage.exceptions", "DataCorruption"),
            ("google.protobuf.json_format", "ParseError"),  # a proxy's page in place of JSON
        )
    ]
    return isinstance(error, tuple(kind for kind in loaded if kind is not None))


def _unavailable(error: Exception, resource: str) -> Unavailable:
    return Unavailable(
        f"{resource}: the cloud doesn't answer: {_root_cause(error)}", resource=resource
    )


def _root_cause(error: BaseException) -> str:
    """The innermost reason: connection errors come wrapped three times, each with an address."""
    for _ in range(6):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in error.args if isinstance(a, BaseException)), None)
        if inner is None:
            break
        error = inner
    text = re.sub(r"<[^>]*>:? ?|HTTPS?Connection(?:Pool)?\([^)]*\): ?", "", str(error))
    return one_line(text).strip("()'\" ") or type(error).__name__


# --------------------------------------------------------------------------- operations


def raise_operation_error(operation: Any, resource: str) -> None:
    """Raise the first error of an operation that is done, if it has one.

    Args:
        operation: A `compute_v1.Operation`.
        resource: What it is about.
    """
    if operation.error.errors:
        first = operation.error.errors[0]
        raise error_for_code(
            first.code,
            first.message,
            resource=resource,
            status=int(operation.http_error_status_code),
        )
    if operation.http_error_status_code >= 400:
        raise error_for_code(
            "",
            operation.http_error_message,
            resource=resource,
            status=int(operation.http_error_status_code),
        )
