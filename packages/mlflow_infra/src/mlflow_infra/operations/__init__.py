"""What is done with a tracking server that is there: look, log in, restart, upgrade, save.

Whoever calls names the cloud (`Clients`) and the server (`Infrastructure`, as `found` reads it).
"""

from mlflow_infra.operations.access import Login, Who, exports, login, tracking_uri
from mlflow_infra.operations.backups import Backup, back_up, backups, restore
from mlflow_infra.operations.checks import Check, check, check_server
from mlflow_infra.operations.existing import Given, found, found_or_default, wanted
from mlflow_infra.operations.exporting import Exported, export
from mlflow_infra.operations.running import (
    HEALTHY_WITHIN,
    Upgraded,
    boot_log,
    container_log,
    restart,
    upgrade,
)
from mlflow_infra.operations.tracking import Tracking, wait_until_healthy

__all__ = [
    "HEALTHY_WITHIN",
    "Backup",
    "Check",
    "Exported",
    "Given",
    "Login",
    "Tracking",
    "Upgraded",
    "Who",
    "back_up",
    "backups",
    "boot_log",
    "check",
    "check_server",
    "container_log",
    "export",
    "exports",
    "found",
    "found_or_default",
    "login",
    "restart",
    "restore",
    "tracking_uri",
    "upgrade",
    "wait_until_healthy",
    "wanted",
]
