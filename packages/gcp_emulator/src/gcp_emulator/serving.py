"""A cloud as a process: one per folder, found by ``cloud.json``, ended by signals or when idle.

``cloud.json`` in the folder tells where the cloud is, while it is::

    {"id", "pid", "endpoint", "grpc_endpoint", "ssh_port", "project", "zone", "engine", "started",
     "companions": {"mlflow": {"url": "http://127.0.0.1:PORT", "pid": 123}}}

A lock on ``lock`` says whether it still is: the kernel frees it however the process ends.
"""

import asyncio
import contextlib
import errno
import fcntl
import http.client
import json
import os
import resource
import shutil
import signal
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from gcp_emulator.companions import Companion
    from gcp_emulator.server import LocalCloud

_OPEN_FILES = 65_536
_OWN = (
    "templates.json",
    "network.json",
    "iam",
    "buckets",
    "sql",
    "monitoring",
    "vms",
    "companions",
    "cloud.json",
    "lock",
)


class CloudError(Exception):
    """Something that a person can put right, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to run a cloud; see `gcp_emulator.server.LocalCloud` for most of it."""

    folder: Path
    port: int
    project: str
    zone: str
    engine: str
    capacity: int | Literal["default"] | None
    boot_seconds: float
    pull_seconds: float
    idle_minutes: float
    smtp: tuple[str, int] | None
    images: Mapping[str, str]
    known_images: Sequence[str] | None
    companions: Sequence["Companion"]


async def serve(options: ServeOptions, ready: Callable[[dict[str, Any]], None]) -> None:
    """Run a cloud until it is told to end, or has been idle for long enough.

    Args:
        options: How.
        ready: Called with what ``cloud.json`` says, once requests are answered.

    Raises:
        CloudError: One runs in the folder already, or it can't be started; nothing is left.
    """
    from gcp_emulator.companions import Companions, end_left_over
    from gcp_emulator.server import LocalCloud

    with _locked(options.folder):
        _raise_file_limit()
        await asyncio.to_thread(end_left_over, options.folder)
        try:
            cloud = LocalCloud(
                options.folder,
                project=options.project,
                zone=options.zone,
                engine=options.engine,
                capacity=options.capacity,
                port=options.port,
                boot_seconds=options.boot_seconds,
                pull_seconds=options.pull_seconds,
                smtp=options.smtp,
                images=options.images,
                known_images=options.known_images,
            )
        except ValueError as error:
            raise CloudError(str(error)) from error
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, cloud.ending.set)
        companions = Companions(folder=options.folder)
        place = options.folder / "cloud.json"
        try:
            await _start(cloud, companions, options)
            known = {**_known(cloud), "companions": companions.to_json()}
            _write(place, known)
            ready(known)
            await _until_end(cloud, options.idle_minutes * 60.0)
        finally:
            await cloud.stop()
            await companions.stop()
            place.unlink(missing_ok=True)


def _raise_file_limit() -> None:
    """Let a thousand VMs listen and be spoken to: as many open files as we may, up to enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def exports(known: dict[str, Any]) -> dict[str, str]:
    """The environment that leads Google's clients, gcloud and gcloud-ops to a cloud."""
    endpoint = known["endpoint"]
    return {
        "STORAGE_EMULATOR_HOST": endpoint,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{endpoint}/compute/v1/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"{endpoint}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING": f"{endpoint}/",
        "MONITORING_EMULATOR_HOST": known["grpc_endpoint"],
        "GCLOUD_OPS_ENDPOINT": endpoint,
        "GCLOUD_OPS_PROJECT": known["project"],
        "GCLOUD_OPS_ZONE": known["zone"],
        "GCLOUD_OPS_SSH_PORT": str(known["ssh_port"]),
    }


def find(folder: Path) -> dict[str, Any] | None:
    """What the cloud of this folder says of itself; None when there is none.

    The pid in ``cloud.json`` may be somebody else's by now: only an answer with its id counts.
    """
    try:
        known: dict[str, Any] = json.loads((folder / "cloud.json").read_text())
        status = _call("GET", f"{known['endpoint']}/emulator/status")
    except (OSError, http.client.HTTPException, ValueError, KeyError, CloudError):
        return None
    return known | status if status.get("id") == known.get("id") else None


def inbox(folder: Path) -> list[dict[str, Any]] | None:
    """The notifications of the cloud of this folder, oldest first; None when there is none."""
    known = find(folder)
    if known is None:
        return None
    reply = _call("GET", f"{known['endpoint']}/emulator/inbox")
    messages: list[dict[str, Any]] = reply["messages"]
    return messages


MISHAPS: Final[Mapping[str, tuple[str, Mapping[str, object]]]] = {
    "stock-out": ("capacity", {"capacity": 0}),
    "stock-in": ("capacity", {"capacity": None}),
    "quota-out": ("quotas", {"metric": "CPUS_ALL_REGIONS", "limit": 0}),
    "quota-in": ("quotas", {"metric": "CPUS_ALL_REGIONS", "limit": None}),
    "cut-iap": ("iap/cut", {}),
}
"""What can befall the whole cloud: its route below `/emulator/`, and what is sent there."""


def befall(folder: Path, what: str, names: Sequence[str], **how: float) -> list[Any] | None:
    """Have something go wrong, now, with the cloud of this folder; None when there is none.

    Args:
        folder: The cloud's.
        what: One of `MISHAPS`, or a fault of an instance (see `control`).
        names: The instances that it befalls; none for what befalls the whole cloud.
        how: `grace` and `seconds`, as `control` has them.

    Returns:
        What the cloud replied, for each instance.

    Raises:
        CloudError: It is refused; what was done to instances before stays done.
    """
    if (what in MISHAPS) == bool(names):
        needs = "no instance: all of the cloud" if names else "the instances' names"
        raise CloudError(f"{what} needs {needs}")
    known = find(folder)
    if known is None:
        return None
    route, body = MISHAPS.get(what, ("", how))
    places = [urllib.parse.quote(name, safe="") for name in names]
    routes = [route] if route else [f"instances/{place}/{what}" for place in places]
    try:
        return [_call("POST", f"{known['endpoint']}/emulator/{one}", body) for one in routes]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise CloudError(f"the cloud doesn't answer: {error}") from error


def stop(folder: Path, *, seconds: float = 30.0) -> bool:
    """End the cloud of this folder; False when there is none.

    Raises:
        CloudError: It has not ended within `seconds`.
    """
    known = find(folder)
    if known is None:
        return False
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        _call("POST", f"{known['endpoint']}/emulator/shutdown")
    deadline = time.monotonic() + seconds
    while is_locked(folder):
        if time.monotonic() > deadline:
            raise CloudError(f"the cloud (pid {known['pid']}) has not ended in {seconds:g} s")
        time.sleep(0.05)
    return True


def wipe(folder: Path) -> list[str]:
    """Remove what clouds have kept in this folder; the names of what was removed.

    Raises:
        CloudError: A cloud runs in it.
    """
    if not folder.is_dir():
        return []
    from gcp_emulator.companions import end_left_over
    from gcp_emulator.sql.postgres import forget_sockets

    with _locked(folder):
        end_left_over(folder)
        forget_sockets(folder / "sql")
        removed = []
        for name in _OWN:
            place = folder / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            elif place.exists():
                place.unlink()
            else:
                continue
            if name != "lock":
                removed.append(name)
        with contextlib.suppress(OSError):
            folder.rmdir()
        return removed


def is_locked(folder: Path) -> bool:
    """Whether a cloud runs in this folder."""
    try:
        with _locked(folder, make=False):
            return False
    except FileNotFoundError:
        return False
    except CloudError:
        return True


@contextlib.contextmanager
def _locked(folder: Path, *, make: bool = True) -> Iterator[None]:
    if make:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CloudError(f"folder {folder} can't be made: {error.strerror}") from error
    descriptor = os.open(folder / "lock", os.O_RDWR | (os.O_CREAT if make else 0), 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise CloudError(_taken(folder)) from error
        if not _same_file(descriptor, folder / "lock"):
            raise CloudError(f"{folder} is being wiped; try again")
        yield
    finally:
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _taken(folder: Path) -> str:
    known = find(folder)
    where = f" at {known['endpoint']} (pid {known['pid']})" if known else ""
    return f"a cloud runs in {folder} already{where}; end it with: gcp-emulator stop"


async def _start(cloud: "LocalCloud", companions: Any, options: ServeOptions) -> None:
    try:
        await cloud.start()
    except OSError as error:
        raise CloudError(f"port {options.port} can't be used: {error.strerror}") from error
    except ValueError as error:
        raise CloudError(str(error)) from error
    for companion in options.companions:
        try:
            await companions.start(companion, exports(_known(cloud)))
        except OSError as error:
            raise CloudError(
                f"companion {companion.name!r} can't be started: {error.strerror}:"
                f" {companion.command}"
            ) from error


async def _until_end(cloud: "LocalCloud", idle_seconds: float) -> None:
    """Return when the cloud shall end; looks up only when it could have been idle long enough."""
    quiet_since = time.monotonic()
    while True:
        if idle_seconds <= 0:
            await cloud.ending.wait()
            return
        if cloud.state.instances:
            quiet_since = time.monotonic()
        quiet_since = max(quiet_since, cloud.faults.last_call)
        left = quiet_since + idle_seconds - time.monotonic()
        if left <= 0:
            return
        # An instance can come and go unseen in between; whoever made it has called, too.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cloud.ending.wait(), max(0.05, left))
            return


def _call(verb: str, url: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """A JSON reply of the cloud; asked directly, whatever proxy the environment names.

    Raises:
        CloudError: It refuses.
    """
    parts = urllib.parse.urlsplit(url)
    with contextlib.closing(
        http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    ) as connection:
        sent = None if body is None else json.dumps(dict(body))
        connection.request(verb, parts.path, sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        reply: dict[str, Any] = json.load(answer)
        if answer.status >= 400:
            raise CloudError(str(reply["error"]["message"]))
        return reply


def _known(cloud: "LocalCloud") -> dict[str, Any]:
    return {
        "id": cloud.id,
        "pid": os.getpid(),
        "endpoint": cloud.endpoint,
        "grpc_endpoint": cloud.grpc_endpoint,
        "ssh_port": cloud.ssh_port,
        "project": cloud.state.project,
        "zone": cloud.state.zone,
        "engine": cloud.engine,
        "started": cloud.started,
    }


def _write(place: Path, known: dict[str, Any]) -> None:
    from gcp_emulator.compute.state import write_atomically

    write_atomically(place, json.dumps(known, indent=1))
