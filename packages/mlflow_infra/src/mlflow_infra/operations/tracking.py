"""The tracking server over HTTP, with a user's credentials: only what we ask of it.

See https://mlflow.org/docs/latest/rest-api.html. Errors are ours, and name no password.
"""

import base64
import re
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, cast

from gcloud_ops.errors import (
    GcloudOpsError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from gcloud_ops.text import one_line
from mlflow_infra.operations.access import Login

__all__ = ["ARTIFACTS", "Tracking", "wait_until_healthy"]

ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
"""The proxied artifacts: `ARTIFACTS/PATH` is PUT, GET and DELETEd, `ARTIFACTS?path=` listed."""

_CHUNK = 1 << 20


class Tracking:
    """One tracking server, as one user or as nobody.

    Args:
        uri: Such as `http://34.1.2.3:5000`.
        user: Whose credentials each request has; None: none.
        timeout: Seconds for connecting, and for each pause of an answer.
    """

    def __init__(self, uri: str, user: Login | None = None, *, timeout: float = 30.0) -> None:
        import requests

        self.uri = uri.rstrip("/")
        self._timeout = timeout
        self._session = requests.Session()
        # Neither a proxy nor a password of the user's ~/.netrc: what is asked is this server.
        self._session.trust_env = False
        if user is not None:
            # By hand: requests takes Latin-1 for it, RFC 7617 and MLflow's clients UTF-8.
            known = base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
            self._session.headers["Authorization"] = f"Basic {known}"

    def text(self, path: str, /) -> str:
        """The answer to a GET, as text."""
        return one_line(self._send("GET", path).text)

    def get(self, path: str, /, **parameters: str | int) -> Mapping[str, Any]:
        """The answer to a GET, as JSON."""
        return self._json(self._send("GET", path, params=parameters))

    def post(self, path: str, /, body: Mapping[str, object]) -> Mapping[str, Any]:
        """The answer to a POST of JSON, as JSON."""
        return self._json(self._send("POST", path, json=body))

    def put(self, path: str, /, content: bytes) -> None:
        """Upload."""
        self._send("PUT", path, data=content)

    def delete(self, path: str, /) -> None:
        """Delete."""
        self._send("DELETE", path)

    def download(self, path: str, /, **parameters: str) -> Iterator[bytes]:
        """The answer to a GET, in pieces of at most a mebibyte."""
        with self._reading(path):
            yield from self._send("GET", path, params=parameters, stream=True).iter_content(_CHUNK)

    def _json(self, answer: Any) -> Mapping[str, Any]:
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Unavailable(f"{self.uri}: not the answer of a tracking server")
        return cast("Mapping[str, Any]", content)

    def _send(self, method: str, path: str, **options: Any) -> Any:
        with self._reading(path):
            answer = self._session.request(
                method,
                f"{self.uri}{path}",
                timeout=self._timeout,
                allow_redirects=False,
                **options,
            )
        if answer.status_code != HTTPStatus.OK:
            raise _refusal(answer, f"{self.uri}{path}")
        return answer

    def _reading(self, path: str) -> "_Reading":
        return _Reading(f"{self.uri}{path}")


class _Reading:
    """Turns what requests raises inside the block into `Unavailable`."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import requests

        if isinstance(error, requests.RequestException):
            raise Unavailable(
                f"{self._where}: no answer: {_reason(error)}", resource=self._where
            ) from error


def wait_until_healthy(
    uri: str,
    *,
    seconds: float = 600.0,
    waiting: Callable[[float, str], None] = lambda _passed, _last: None,
) -> float:
    """Wait until the server answers that it is well; returns how long it took.

    Args:
        uri: Its address.
        seconds: How long at most.
        waiting: Told before each pause how many seconds have passed, and the last answer; what
            it raises ends the wait.

    Raises:
        Unavailable: It doesn't in this time; the message has its last answer.
    """
    begin = time.monotonic()
    probe = Tracking(uri, timeout=5.0)
    last = "it was not asked"
    while (passed := time.monotonic() - begin) < seconds:
        try:
            probe.text("/health")
            return time.monotonic() - begin
        except GcloudOpsError as error:
            last = error.message
        waiting(passed, last)
        time.sleep(min(2.0, 0.2 + passed / 10))
    raise Unavailable(f"not healthy after {seconds:.0f} s: {last}", resource=uri)


def _refusal(answer: Any, where: str) -> GcloudOpsError:
    status = int(answer.status_code)
    try:
        said = one_line(str(answer.json()["message"]))
    except (ValueError, KeyError, TypeError):
        said = one_line(answer.text, limit=200)
    text = f"{where}: {status} {said or answer.reason}".rstrip()
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return PermissionDenied(text, resource=where)
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(text, resource=where)
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return InvalidRequest(text, resource=where)
    return Unavailable(text, resource=where)


def _reason(error: BaseException) -> str:
    """The innermost reason, without the addresses of objects that requests' texts have."""
    for _ in range(6):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in error.args if isinstance(a, BaseException)), None)
        if inner is None:
            break
        error = inner
    text = re.sub(r"(?:<[^>]*>|\w+\([^)]*\)): ", "", one_line(str(error)))
    return text or type(error).__name__
