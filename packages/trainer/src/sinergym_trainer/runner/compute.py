"""Calls of the Compute Engine API, as the VM's service account.

JSON over an authorized session, not `google.cloud.compute_v1`: its import takes 2 s and 150 MB of
a VM that wants them for the training, for a handful of calls.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

COMPUTE = "https://compute.googleapis.com/compute/v1/"


class Refused(Exception):
    """The cloud said no, or nothing in time."""


class Busy(Refused):
    """Somebody else is changing the same thing right now."""


class Compute:
    """The API, connected to at the first call.

    Args:
        environment: says where it is, if not at Google.
        give_up: becomes true when there is no more time; asked between two tries.
        say: prints a line.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        give_up: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        address = environment.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE") or COMPUTE
        self._address = address.rstrip("/") + "/"
        self._give_up = give_up
        self._say = say
        self._session: Any = None

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        when_busy: Literal["wait", "raise"] = "wait",
        changes: bool = True,
    ) -> dict[str, Any] | None:
        """Make one call, again and again while that can help; None means 404.

        Args:
            method: of HTTP.
            path: below `/compute/v1/`.
            body: as JSON.
            when_busy: what to do while somebody else changes the same thing.
            changes: whether a method other than GET changes something.

        Raises:
            Busy: somebody else changes the same thing, and the caller wants to know.
            Refused: the answer is final, or the time is over.
        """
        # One id for all tries: the second of a call whose answer got lost does nothing.
        query = "" if method == "GET" or not changes else f"?requestId={_request_id()}"
        delay, said = 0.25, False
        while True:
            try:
                reply = self._connected().request(
                    method, f"{self._address}{path}{query}", json=body, timeout=20
                )
                status, problem = reply.status_code, _problem(reply)
            except Exception as error:
                status, problem = 0, f"{type(error).__name__}: {error}"[:300]
            if status == 404:
                return None
            if 200 <= status < 300:
                content: dict[str, Any] = reply.json()
                return content
            if _is_busy(problem) and when_busy == "raise":
                raise Busy(f"{status} {problem}")
            passing = status in {0, 408, 409, 412, 429} or status >= 500 or _is_busy(problem)
            if not passing:
                advice = ""
                if status in {401, 403}:
                    advice = (
                        " (its service account needs compute.instanceGroupManagers.get and"
                        " .update, and the scope cloud-platform)"
                    )
                raise Refused(f"{status} {problem}{advice}")
            if not said:
                self._say(f"the cloud does not take it yet, trying again: {status} {problem}")
                said = True
            self.pause(delay, f"the last answer: {status} {problem}")
            delay = min(delay * 2, 15.0)

    def pause(self, seconds: float, why: str) -> None:
        """Let some time pass.

        Raises:
            Refused: there is none left.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._give_up():
                raise Refused(f"no time left; {why}")
            time.sleep(0.1)

    def _connected(self) -> Any:
        if self._session is None:
            import google.auth
            from google.auth.transport.requests import AuthorizedSession

            credentials, _ = google.auth.default(
                scopes=["https://www.googleapis.com/auth/cloud-platform"]
            )
            authorized: Any = AuthorizedSession
            self._session = authorized(credentials)
        return self._session


def _request_id() -> str:
    import uuid

    return str(uuid.uuid4())


def _problem(reply: Any) -> str:
    try:
        error = json.loads(reply.text)["error"]
        reason = (error.get("errors") or [{}])[0].get("reason", "")
        return f"{reason} {error.get('message', '')}".strip()[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(reply.text)[:200]


def _is_busy(problem: str) -> bool:
    return problem.startswith(("resourceNotReady", "resourceInUseByAnotherResource"))
