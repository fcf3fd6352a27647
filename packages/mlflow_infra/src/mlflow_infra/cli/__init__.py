"""`mlflow-infra`: parse, call, print, exit code; made as `gcloud_ops.cli` is.

`--help` must not pay for anything but the parser: every command imports what it needs itself.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from gcloud_ops.cli.running import run_line
from mlflow_infra.cli.app import PROGRAM, Session, app, split
from mlflow_infra.cli.lifecycle import down, restart, up, upgrade
from mlflow_infra.cli.saving import backup, export
from mlflow_infra.cli.standing import credentials, logs, status, url

__all__ = ["main", "run"]

for _command in (up, status, url, credentials, logs, restart, upgrade, backup, export, down):
    app.command(_command)


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    return run_line(app, arguments, program=PROGRAM, split=split, session=Session)
