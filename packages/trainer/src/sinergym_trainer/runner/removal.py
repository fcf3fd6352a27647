"""How the VM removes itself at the end: calls of the Compute Engine API.

Through the managed instance group that created the VM, never directly, because the group would
make a deleted member again
(https://cloud.google.com/compute/docs/instance-groups/about-repair).
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sinergym_trainer.runner.vm import Vm

COMPUTE = "https://compute.googleapis.com/compute/v1/"


def remove(
    vm: Vm,
    environment: Mapping[str, str],
    *,
    give_up: Callable[[], bool],
    say: Callable[[str], None],
) -> bool:
    """Remove this VM, and its group when this was the group's last member.

    A member asks its group (`deleteInstances`); when that is done and the group's target size is
    0, the group goes too. Whoever of several that finish together asks last sees the 0, because
    each looks after its own removal has been counted. "Already gone" is success.

    Args:
        vm: this VM.
        environment: says where the Compute Engine API is, if not at Google.
        give_up: becomes true when there is no more time; asked between two tries.
        say: prints a line.

    Returns:
        False when the cloud has refused, or did not answer in time; the reason has been said.
    """
    if vm.instance is None or vm.zone is None:
        say("this is not a VM: nothing to remove")
        return True
    if vm.keep:
        say(f"{vm.instance} stays, as SINERGYM_KEEP_VM or sinergym-keep asks: it costs money")
        return True
    compute = _Compute(environment, give_up=give_up, say=say)
    try:
        if vm.group is None:
            say(f"removing {vm.instance}: it is in no group")
            path = f"projects/{vm.project}/zones/{vm.zone}/instances/{vm.instance}"
            compute.call("DELETE", path)
            return True
        say(f"removing {vm.instance} through its group {vm.group_name}")
        operation = compute.call(
            "POST",
            f"{vm.group}/deleteInstances",
            {
                "instances": [f"zones/{vm.zone}/instances/{vm.instance}"],
                "skipInstancesOnValidationError": True,
            },
        )
        if operation is None:
            say(f"the group {vm.group_name} is gone already")
            return True
        _wait_for(compute, operation, vm.group.rpartition("/instanceGroupManagers/")[0])
        _remove_empty_group(compute, vm.group, say)
    except _Refused as error:
        say(f"{vm.instance} could not be removed: {error}")
        return False
    return True


class _Refused(Exception):
    """The cloud said no, or nothing in time."""


_LOOKS = 4
"""How often a group that is being changed by somebody else is looked at."""


class _Busy(_Refused):
    """Somebody else is changing the same thing right now."""


class _Compute:
    """Calls of the Compute Engine API, as JSON over an authorized session.

    Not `google.cloud.compute_v1`: its import takes 2 s and 150 MB of a VM that wants them for
    the training, for four calls.
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
    ) -> dict[str, Any] | None:
        """Make one call, again and again while that can help; None means 404.

        Raises:
            _Busy: somebody else changes the same thing, and the caller wants to know.
            _Refused: the answer is final, or the time is over.
        """
        # One id for all tries: the second of a call whose answer got lost does nothing.
        query = "" if method == "GET" else f"?requestId={_request_id()}"
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
                raise _Busy(f"{status} {problem}")
            passing = status in {0, 408, 409, 412, 429} or status >= 500 or _is_busy(problem)
            if not passing:
                advice = ""
                if status in {401, 403}:
                    advice = (
                        " (its service account needs compute.instanceGroupManagers.get and"
                        " .update, and the scope cloud-platform)"
                    )
                raise _Refused(f"{status} {problem}{advice}")
            if not said:
                self._say(f"the cloud does not take it yet, trying again: {status} {problem}")
                said = True
            self.pause(delay, f"the last answer: {status} {problem}")
            delay = min(delay * 2, 15.0)

    def pause(self, seconds: float, why: str) -> None:
        """Let some time pass.

        Raises:
            _Refused: there is none left.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._give_up():
                raise _Refused(f"no time left; {why}")
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


def _wait_for(compute: _Compute, operation: dict[str, Any], location: str) -> None:
    """Wait until the removal has been counted: only then the target size tells who is last."""
    name, deadline, delay = operation.get("name"), time.monotonic() + 20, 0.1
    found: dict[str, Any] | None = operation
    while name and found is not None:
        errors = (found.get("error") or {}).get("errors") or []
        if errors:
            first = errors[0]
            raise _Refused(f"{first.get('code')}: {first.get('message')}")
        if found.get("status") == "DONE" or time.monotonic() > deadline:
            return
        time.sleep(delay)
        delay = min(delay * 1.5, 1.0)
        found = compute.call("GET", f"{location}/operations/{name}")


def _remove_empty_group(compute: _Compute, group: str, say: Callable[[str], None]) -> None:
    """Remove the group if we were the last; two that end together may both think so.

    Who finds it being changed is not the only one: it looks a few times, and leaves the rest to
    the other. To wait for the end would be to wait for oneself: the group goes when its members
    have gone, and this one goes when we end.
    """
    for look in range(_LOOKS):
        found = compute.call("GET", group)
        if found is None:
            return
        size = found.get("targetSize")
        if size != 0:
            say(f"the group keeps {size} more")
            return
        if look == 0:
            say("this was the last one: removing the group")
        try:
            compute.call("DELETE", group, when_busy="raise")
        except _Busy:
            compute.pause(0.5, "the group is being changed by somebody else")
        else:
            return
    say("another one is removing the group")


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
