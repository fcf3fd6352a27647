"""The command's user name and password for the tracking server, from Secret Manager.

The container's environment names the secret and holds nothing of it (`docs/contract.md`, 5). It is
read as the VM's service account, right before the command starts, and goes into the command's
environment alone. Without it a training runs all the same: its metrics wait on disk.

REST reference: https://cloud.google.com/secret-manager/docs/reference/rest (the method `access`).
"""

import base64
import json
import re
import time
from collections.abc import Callable, Mapping

from sinergym_trainer.errors import one_line
from sinergym_trainer.runner.vm import MetadataServer

VARIABLE = "SINERGYM_MLFLOW_SECRET"
SECRET_MANAGER = "https://secretmanager.googleapis.com/"

_NAME = re.compile(r"projects/[-a-z0-9:.]+/secrets/[-A-Za-z0-9_]{1,255}")
_ACCOUNT = "instance/service-accounts/default"
_ROLE = "roles/secretmanager.secretAccessor"


def read_login(
    environment: Mapping[str, str],
    *,
    give_up: Callable[[], bool],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Return MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, of the secret that is named.

    Args:
        environment: names the secret, and says where Secret Manager is, if not at Google.
        give_up: becomes true when there is no more time; asked between two tries.
        say: prints a line; nothing of the secret's content is ever in one.

    Returns:
        Nothing when no secret is named, or when it could not be read; the reason has been said.
    """
    name = environment.get(VARIABLE)
    if not name:
        return {}
    try:
        if not _NAME.fullmatch(name):
            # Not shown: it may be what should have been in a secret.
            raise _NoLoginError(f"{VARIABLE} is not of the form projects/PROJECT/secrets/SECRET")
        return _login_of(_read(name, environment, give_up), name)
    except _NoLoginError as error:
        say(f"no user name and password for MLflow, the command runs without: {error}")
        return {}


class _NoLoginError(Exception):
    """The secret can't be had; the text says why, and what to do."""


class _PassingError(Exception):
    """It may go well in a moment."""


def _read(name: str, environment: Mapping[str, str], give_up: Callable[[], bool]) -> str:
    """Ask until there is an answer; returns the reply's text."""
    address = environment.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER") or SECRET_MANAGER
    host = environment.get("GCE_METADATA_HOST") or "metadata.google.internal"
    url = f"{address.rstrip('/')}/v1/{name}/versions/latest:access"
    delay = 0.25
    while True:
        try:
            return _access(url, name, MetadataServer(host))
        except (_PassingError, OSError) as error:
            if give_up():
                raise _NoLoginError(f"{name} could not be read in time: {error}") from error
        time.sleep(delay)
        delay = min(delay * 2, 2.0)


def _access(url: str, name: str, metadata: MetadataServer) -> str:
    # The client of the bucket has imported it already.
    import requests

    try:
        token = json.loads(metadata.get(f"{_ACCOUNT}/token") or "{}").get("access_token")
    except (ValueError, AttributeError):
        raise _PassingError("the metadata server gives no access token") from None
    if not token:
        raise _NoLoginError(f"{name} can't be read: the VM has no service account")
    try:
        reply = requests.get(
            url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=(3, 5),
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise _PassingError(one_line(error)) from None
    status = reply.status_code
    if status == 200:
        return reply.text
    said, reason = _problem(reply.text)
    if status in {408, 409, 429} or status >= 500:
        raise _PassingError(f"{status} {said}")
    raise _NoLoginError(_refusal(status, said, reason, name, metadata))


def _refusal(status: int, said: str, reason: str, name: str, metadata: MetadataServer) -> str:
    """Why it was refused, and what to do about it."""
    if reason == "SERVICE_DISABLED":
        return f"{name} can't be read: enable the API secretmanager.googleapis.com"
    if reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        return f"{name} can't be read: the VM's service account needs the scope cloud-platform"
    if status == 403:
        return f"{name} can't be read (403): grant {_ROLE} on {name} for {_account(metadata)}"
    if status == 404:
        return f"there is no secret {name}, or no version of it: `mlflow-infra up` makes both"
    return f"{name} can't be read: {status} {said}"


def _account(metadata: MetadataServer) -> str:
    try:
        return metadata.get(f"{_ACCOUNT}/email") or "the VM's service account"
    except OSError:
        return "the VM's service account"


def _problem(text: str) -> tuple[str, str]:
    """Google's sentence, as one printable line, and its word for it."""
    try:
        error = json.loads(text)["error"]
        details = [one for one in error.get("details") or [] if isinstance(one, dict)]
        reason = next((str(one["reason"]) for one in details if one.get("reason")), "")
        said = str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
    return "".join(sign for sign in " ".join(said.split()) if sign.isprintable())[:200], reason


def _login_of(text: str, name: str) -> dict[str, str]:
    # No error here may have the cause's text: it would have some of the secret's.
    try:
        content = json.loads(base64.b64decode(json.loads(text)["payload"]["data"]))
        user, password = content["username"], content["password"]
        good = all(isinstance(one, str) and one and one.isprintable() for one in (user, password))
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise _NoLoginError(
            f'the content of {name} is not {{"username": "...", "password": "..."}}'
        ) from None
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
