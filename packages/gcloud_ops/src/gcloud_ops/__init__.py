"""Launch sweeps of experiments on Google Cloud, watch them, and clean up after them.

    from gcloud_ops import Clients, Settings, Sweep, launch, plan, watch

    clients = Clients.connect(Settings.load())
    sweep = Sweep.of_commands("quick", ["sinergym-train --algorithm PPO"])
    for event in launch(plan(sweep, clients), clients):
        print(event)
    for snapshot in watch("quick", clients):
        print(dict(snapshot.counts))

Names are loaded at their first use: importing this package imports no Google module, no asyncssh.
The modules are public too: `templates`, `groups`, `instances` (Compute Engine),
`objects` (Cloud Storage), `bucket`, `containers`, `logs`, `ssh`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients
    from gcloud_ops.containers import list_containers, send_command
    from gcloud_ops.contract import Dispatch, Experiment, Record, Retry
    from gcloud_ops.errors import (
        AlreadyExists,
        ContainerFailed,
        CredentialsMissing,
        GcloudOpsError,
        HostKeyMismatch,
        InvalidRequest,
        NoCapacity,
        NotFound,
        OperationFailed,
        PermissionDenied,
        QuotaExceeded,
        Unavailable,
    )
    from gcloud_ops.launching import LaunchEvent, LaunchPlan, free_name, launch, plan, resume
    from gcloud_ops.local import local_settings
    from gcloud_ops.logs import LogChunk, follow
    from gcloud_ops.model import (
        Container,
        ExperimentStatus,
        Instance,
        Observation,
        Snapshot,
        Sweep,
        SweepSummary,
    )
    from gcloud_ops.rerunning import rerun
    from gcloud_ops.settings import Settings
    from gcloud_ops.sweepfile import read_sweep
    from gcloud_ops.sweeps import cancel, delete, list_sweeps, places, status, watch
    from gcloud_ops.templates import Template, TemplateSpec, create_template

    __version__: str

__all__ = [
    "AlreadyExists",
    "Clients",
    "Container",
    "ContainerFailed",
    "CredentialsMissing",
    "Dispatch",
    "Experiment",
    "ExperimentStatus",
    "GcloudOpsError",
    "HostKeyMismatch",
    "Instance",
    "InvalidRequest",
    "LaunchEvent",
    "LaunchPlan",
    "LogChunk",
    "NoCapacity",
    "NotFound",
    "Observation",
    "OperationFailed",
    "PermissionDenied",
    "QuotaExceeded",
    "Record",
    "Retry",
    "Settings",
    "Snapshot",
    "Sweep",
    "SweepSummary",
    "Template",
    "TemplateSpec",
    "Unavailable",
    "__version__",
    "cancel",
    "create_template",
    "delete",
    "follow",
    "free_name",
    "launch",
    "list_containers",
    "list_sweeps",
    "local_settings",
    "places",
    "plan",
    "read_sweep",
    "rerun",
    "resume",
    "send_command",
    "status",
    "watch",
]

_HOMES = {
    "clients": ("Clients",),
    "containers": ("list_containers", "send_command"),
    "contract": ("Dispatch", "Experiment", "Record", "Retry"),
    "errors": (
        "AlreadyExists",
        "ContainerFailed",
        "CredentialsMissing",
        "GcloudOpsError",
        "HostKeyMismatch",
        "InvalidRequest",
        "NoCapacity",
        "NotFound",
        "OperationFailed",
        "PermissionDenied",
        "QuotaExceeded",
        "Unavailable",
    ),
    "launching": ("LaunchEvent", "LaunchPlan", "free_name", "launch", "plan", "resume"),
    "local": ("local_settings",),
    "logs": ("LogChunk", "follow"),
    "model": (
        "Container",
        "ExperimentStatus",
        "Instance",
        "Observation",
        "Snapshot",
        "Sweep",
        "SweepSummary",
    ),
    "rerunning": ("rerun",),
    "settings": ("Settings",),
    "sweepfile": ("read_sweep",),
    "sweeps": (
        "cancel",
        "delete",
        "list_sweeps",
        "places",
        "status",
        "watch",
    ),
    "templates": ("Template", "TemplateSpec", "create_template"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("gcloud-ops")
    elif name in _HOME_OF:
        found = getattr(import_module(f"gcloud_ops.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
