"""The VM that the container runs on: who it is, and how it removes itself.

Who: the metadata server (https://cloud.google.com/compute/docs/metadata/overview), found where
google-auth finds it (`GCE_METADATA_HOST`); environment variables of the same meaning win.

Removal: through the managed instance group that created the VM, never directly, because the group
would make a deleted member again
(https://cloud.google.com/compute/docs/instance-groups/about-repair).
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SWEEP_NAME = re.compile(r"[a-z]([-a-z0-9]{0,52}[a-z0-9])?")
EXPERIMENT_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
GROUP_PATH = re.compile(
    r"projects/[-a-z0-9:.]+/(zones|regions)/[-a-z0-9]+/instanceGroupManagers/[-a-z0-9]+"
)
DEFAULT_PATIENCE = 900.0
COMPUTE = "https://compute.googleapis.com/compute/v1/"


class SettingsMissing(Exception):
    """Nobody has said what this runner needs to know; the text says what, and how to say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """What the runner knows of itself; `instance` is None when it runs on no VM."""

    bucket: str
    sweep: str
    experiment: str
    patience: float = DEFAULT_PATIENCE
    instance: str | None = None
    instance_id: str | None = None
    zone: str | None = None
    project: str | None = None
    group: str | None = None
    """The group's path: `projects/N/zones/Z/instanceGroupManagers/G`."""
    image: str | None = None
    keep: bool = False
    """True when the VM must stay (for a look at what went wrong)."""

    @property
    def group_name(self) -> str | None:
        """The last part of the group's path."""
        return self.group.rpartition("/")[2] if self.group else None


class MetadataServer:
    """Reads single values of the metadata server, over one connection."""

    def __init__(self, host: str) -> None:
        import http.client

        self._connection = http.client.HTTPConnection(host, timeout=3)

    def get(self, path: str) -> str | None:
        """Return a value such as `instance/name`, or None when it is not set.

        Raises:
            OSError: the server does not answer, or it is not a metadata server.
        """
        import http.client

        try:
            self._connection.request(
                "GET", f"/computeMetadata/v1/{path}", headers={"Metadata-Flavor": "Google"}
            )
            reply = self._connection.getresponse()
            content = reply.read(1 << 20)
        except http.client.HTTPException as error:
            self._connection.close()
            raise OSError(f"not a metadata server: {error!r}") from error
        except OSError:
            self._connection.close()
            raise
        if reply.getheader("Metadata-Flavor") != "Google":
            raise OSError("what answers there is not a metadata server")
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise OSError(f"the metadata server answers {reply.status} for {path}")
        return content.decode("utf-8", "replace").strip() or None


def identify(
    environment: Mapping[str, str], *, stop: Callable[[], bool], say: Callable[[str], None]
) -> Vm:
    """Find out who we are, from environment variables and the metadata server.

    The network of a VM may come up after the container: the server is asked for
    `SINERGYM_METADATA_SECONDS` (20), or 2 when the environment says all that is needed.

    Raises:
        SettingsMissing: a needed value is missing or wrong.
        InterruptedError: `stop` became true while asking.
    """
    host = environment.get("GCE_METADATA_HOST") or "metadata.google.internal"
    needed = ("SINERGYM_BUCKET", "SINERGYM_SWEEP", "SINERGYM_EXPERIMENT")
    complete = all(environment.get(name) for name in needed)
    seconds = _number(environment.get("SINERGYM_METADATA_SECONDS")) or (2.0 if complete else 20.0)
    told, problem = _ask(host, seconds, stop=stop, say=say, required=not complete)
    attributes = {key: told.get(f"instance/attributes/{key}") for key in _ATTRIBUTES}

    bucket = environment.get("SINERGYM_BUCKET") or attributes["sinergym-bucket"]
    sweep = environment.get("SINERGYM_SWEEP") or attributes["sinergym-sweep"]
    experiment = environment.get("SINERGYM_EXPERIMENT") or told.get("instance/name")
    missing = [
        text
        for text, value in (
            ("the bucket (metadata sinergym-bucket, or SINERGYM_BUCKET)", bucket),
            ("the sweep (metadata sinergym-sweep, or SINERGYM_SWEEP)", sweep),
            ("the experiment (the instance's name, or SINERGYM_EXPERIMENT)", experiment),
        )
        if not value
    ]
    if missing:
        why = f"; {problem}" if problem else ""
        raise SettingsMissing(f"missing: {', '.join(missing)}{why}")
    bucket, sweep, experiment = str(bucket), str(sweep), str(experiment)
    if not SWEEP_NAME.fullmatch(sweep):
        raise SettingsMissing(f"{sweep!r} is not a sweep's name ({SWEEP_NAME.pattern})")
    if not EXPERIMENT_NAME.fullmatch(experiment):
        raise SettingsMissing(f"{experiment!r} is not an experiment's id: SWEEP-0001")
    patience = environment.get("SINERGYM_PATIENCE") or attributes["sinergym-patience"]
    seconds_of_patience = DEFAULT_PATIENCE if patience is None else _number(patience)
    if seconds_of_patience is None:
        raise SettingsMissing(f"{patience!r} is not a number of seconds (sinergym-patience)")
    group = attributes["created-by"]
    keep = environment.get("SINERGYM_KEEP_VM") or attributes["sinergym-keep"] or ""
    return Vm(
        bucket=bucket,
        sweep=sweep,
        experiment=experiment,
        patience=seconds_of_patience,
        instance=told.get("instance/name"),
        instance_id=told.get("instance/id"),
        zone=_last_part(told.get("instance/zone")) or environment.get("gce_zone"),
        project=told.get("project/project-id") or environment.get("gce_project_id"),
        group=group if group and GROUP_PATH.fullmatch(group) else None,
        image=environment.get("SINERGYM_IMAGE") or attributes["sinergym-image"],
        keep=keep.lower() in {"1", "true", "yes"},
    )


def is_preempted(environment: Mapping[str, str]) -> bool:
    """Say whether Compute Engine is taking the VM back (`instance/preempted`)."""
    host = environment.get("GCE_METADATA_HOST") or "metadata.google.internal"
    try:
        return MetadataServer(host).get("instance/preempted") == "TRUE"
    except OSError:
        return False


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


_ATTRIBUTES = (
    "sinergym-bucket",
    "sinergym-sweep",
    "sinergym-patience",
    "sinergym-keep",
    "sinergym-image",
    "created-by",
)
_PATHS = (
    "instance/name",
    "instance/id",
    "instance/zone",
    "project/project-id",
    *(f"instance/attributes/{key}" for key in _ATTRIBUTES),
)


def _ask(
    host: str,
    seconds: float,
    *,
    stop: Callable[[], bool],
    say: Callable[[str], None],
    required: bool,
) -> tuple[dict[str, str | None], str | None]:
    deadline = time.monotonic() + seconds
    server = MetadataServer(host)
    problem: str | None = None
    while True:
        try:
            return {path: server.get(path) for path in _PATHS}, None
        except OSError as error:
            if problem is None and required:
                say(f"the metadata server {host} does not answer yet: {error}")
            problem = f"the metadata server {host} does not answer: {error}"
        if time.monotonic() >= deadline:
            return {}, problem
        again = min(deadline, time.monotonic() + 0.5)
        while time.monotonic() < again:
            if stop():
                raise InterruptedError
            time.sleep(0.05)


class _Refused(Exception):
    """The cloud said no, or nothing in time."""


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
        delay, said = 0.5, False
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
    name, deadline = operation.get("name"), time.monotonic() + 20
    found: dict[str, Any] | None = operation
    while name and found is not None:
        errors = (found.get("error") or {}).get("errors") or []
        if errors:
            first = errors[0]
            raise _Refused(f"{first.get('code')}: {first.get('message')}")
        if found.get("status") == "DONE" or time.monotonic() > deadline:
            return
        time.sleep(0.25)
        found = compute.call("GET", f"{location}/operations/{name}")


def _remove_empty_group(compute: _Compute, group: str, say: Callable[[str], None]) -> None:
    """Remove the group if we were the last; two that end together may both think so."""
    said = False
    while True:
        found = compute.call("GET", group)
        if found is None:
            return
        size = found.get("targetSize")
        if size != 0:
            say(f"the group keeps {size} more")
            return
        if not said:
            say("this was the last one: removing the group")
            said = True
        try:
            compute.call("DELETE", group, when_busy="raise")
        except _Busy:
            # Most likely the other last one removes it: look until it is gone, or has members.
            compute.pause(1.0, "the group is still there, being changed by somebody else")
        else:
            return


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


def _last_part(path: str | None) -> str | None:
    return path.rpartition("/")[2] if path else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None


def prepare_google_auth() -> None:
    """Make google-auth look for its metadata server where `GCE_METADATA_HOST` says.

    It asks an address (`GCE_METADATA_IP`) whether there is one before it asks the host: on
    another cloud than Google's that question would go nowhere. Before google.auth is imported.
    """
    host = os.environ.get("GCE_METADATA_HOST")
    if host:
        os.environ.setdefault("GCE_METADATA_IP", host)
