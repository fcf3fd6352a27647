"""Who the runner is: which experiment, on which VM, in which group.

The metadata server says it (https://cloud.google.com/compute/docs/metadata/overview), found where
google-auth finds it (`GCE_METADATA_HOST`); environment variables of the same meaning win.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SWEEP_NAME = re.compile(r"[a-z]([-a-z0-9]{0,52}[a-z0-9])?")
EXPERIMENT_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
GROUP_PATH = re.compile(
    r"projects/[-a-z0-9:.]+/(zones|regions)/[-a-z0-9]+/instanceGroupManagers/[-a-z0-9]+"
)
DEFAULT_PATIENCE = 900.0


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
    restart_code: int | None = None
    """Exit code of the runner after which the VM starts a new container; None: it never does."""

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
    seconds = number(environment.get("SINERGYM_METADATA_SECONDS"))
    if seconds is None:
        seconds = 2.0 if complete else 20.0
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
    seconds_of_patience = DEFAULT_PATIENCE if patience is None else number(patience)
    if seconds_of_patience is None:
        raise SettingsMissing(f"{patience!r} is not a number of seconds (sinergym-patience)")
    group = attributes["created-by"]
    keep = environment.get("SINERGYM_KEEP_VM") or attributes["sinergym-keep"] or ""
    restart = (attributes["sinergym-restart"] or "")[:3]
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
        restart_code=int(restart) if restart.isascii() and restart.isdigit() else None,
    )


def is_preempted(environment: Mapping[str, str]) -> bool:
    """Say whether Compute Engine is taking the VM back (`instance/preempted`)."""
    host = environment.get("GCE_METADATA_HOST") or "metadata.google.internal"
    try:
        return MetadataServer(host).get("instance/preempted") == "TRUE"
    except OSError:
        return False


def prepare_google_auth() -> None:
    """Make google-auth look for its metadata server where `GCE_METADATA_HOST` says.

    It asks an address (`GCE_METADATA_IP`) whether there is one before it asks the host: on
    another cloud than Google's that question would go nowhere. Before google.auth is imported.
    """
    host = os.environ.get("GCE_METADATA_HOST")
    if host:
        os.environ.setdefault("GCE_METADATA_IP", host)


_ATTRIBUTES = (
    "sinergym-bucket",
    "sinergym-sweep",
    "sinergym-patience",
    "sinergym-keep",
    "sinergym-image",
    "sinergym-restart",
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


def _last_part(path: str | None) -> str | None:
    return path.rpartition("/")[2] if path else None


def number(text: str | None) -> float | None:
    """Read a setting: a number from 0 to a billion; None when the text is nothing of the kind."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None
