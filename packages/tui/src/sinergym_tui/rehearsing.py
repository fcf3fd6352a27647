"""Have something go wrong on the local cloud, to see what becomes of it. No terminal here.

The routes are those of the local cloud's `/emulator/...`; Google has no such thing.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gcloud_ops.errors import InvalidRequest, Unavailable
from gcloud_ops.text import one_line
from sinergym_tui.fleet import Fleet

__all__ = ["MISHAPS", "Mishap", "befall", "offered", "rehearse"]

_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishap:
    """Something that can go wrong."""

    key: str
    title: str
    help: str
    of_instance: bool = True
    """Whether it befalls one VM; else the whole cloud."""
    path: str = ""
    body: Mapping[str, object] = field(default_factory=dict)


MISHAPS: Final = (
    Mishap(
        key="preempt",
        title="Preempt the VM",
        help="as Google takes back a Spot VM: a notice, 30 s, gone",
        body={"grace": 30},
    ),
    Mishap(key="kill", title="Its host fails", help="all is gone, no process is told"),
    Mishap(
        key="kill-container",
        title="Kill its container",
        help="SIGKILL to all its programs; the VM stays",
    ),
    Mishap(key="expire", title="Its time is over", help="as when it has run as long as it may"),
    Mishap(key="cut-ssh", title="Cut SSH", help="connections are cut; new ones can be made"),
    Mishap(
        key="hang-ssh",
        title="Hang SSH for a minute",
        help="connections are accepted, and nothing is said",
        body={"seconds": 60},
    ),
    Mishap(
        key="refuse-ssh",
        title="Refuse SSH for a minute",
        help="connections are closed at once",
        body={"seconds": 60},
    ),
    Mishap(
        key="disk-full",
        title="Fill its disk for a minute",
        help="its containers can't write to files any more",
        body={"seconds": 60},
    ),
    Mishap(
        key="stock-out",
        title="No room for more VMs",
        help="the zone is out of stock: what is asked for has to wait",
        of_instance=False,
        path="capacity",
        body={"capacity": 0},
    ),
    Mishap(
        key="stock-in",
        title="Room for VMs again",
        help="what waits is made",
        of_instance=False,
        path="capacity",
        body={"capacity": None},
    ),
    Mishap(
        key="quota-out",
        title="No quota left for VMs",
        help="the project may have no more CPUs: what is asked for has to wait",
        of_instance=False,
        path="quotas",
        body={"metric": "CPUS_ALL_REGIONS", "limit": 0},
    ),
    Mishap(
        key="quota-in",
        title="Quota for VMs again",
        help="what waits is made",
        of_instance=False,
        path="quotas",
        body={"metric": "CPUS_ALL_REGIONS", "limit": None},
    ),
    Mishap(
        key="cut-iap",
        title="Cut IAP's relay",
        help="all its connections; they are taken up again",
        of_instance=False,
        path="iap/cut",
    ),
)
"""What can go wrong."""


def offered(instances: Sequence[str]) -> tuple[Mishap, ...]:
    """What can go wrong with these VMs; without any, with the cloud."""
    return tuple(each for each in MISHAPS if instances or not each.of_instance)


def rehearse(
    fleet: Fleet, mishap: Mishap, instances: Sequence[str], tell: Callable[[str], None]
) -> str:
    """Have it go wrong with each of these VMs, or, what is of the cloud, once.

    Raises:
        GcloudOpsError: As `befall`.
    """
    for instance in instances if mishap.of_instance else ("",):
        tell(befall(fleet, mishap, instance))
    return "it has gone wrong, as wished"


def befall(fleet: Fleet, mishap: Mishap, instance: str = "") -> str:
    """Have it go wrong, now.

    Args:
        fleet: A local cloud.
        mishap: What.
        instance: Whom it befalls, where it befalls one VM.

    Raises:
        InvalidRequest: This is Google Cloud, or the local cloud refuses: there is no such VM.
        Unavailable: It doesn't answer.
    """
    settings = fleet.for_change("rehearse a mishap").settings
    if settings.endpoint is None:
        raise InvalidRequest("a mishap can be rehearsed on the local cloud only")
    path = mishap.path or f"instances/{instance}/{mishap.key}"
    request = urllib.request.Request(  # noqa: S310  # an endpoint of the settings
        f"{settings.endpoint}/emulator/{path}",
        data=json.dumps(dict(mishap.body)).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT):
            pass
    except urllib.error.HTTPError as error:
        raise InvalidRequest(f"{mishap.title}: {_reason(error)}") from error
    except OSError as error:
        raise Unavailable(f"the local cloud doesn't answer: {error}") from error
    return f"{instance}: {mishap.title}" if mishap.of_instance else mishap.title


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return one_line(str(json.loads(error.read())["error"]["message"]))
    except (OSError, ValueError, KeyError, TypeError):
        return f"it answers with {error.code}"
