"""`gcloud-ops`: parse, call, print, exit code.

`--help` must not pay for anything but the parser: every command imports what it needs itself.
Global options are taken by a meta app, so they may stand before or after the command.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from gcloud_ops.cli.alerts import alerts
from gcloud_ops.cli.app import PROGRAM, Session, app, split
from gcloud_ops.cli.buckets import bucket
from gcloud_ops.cli.cost import prices
from gcloud_ops.cli.doctor import doctor
from gcloud_ops.cli.instances import containers, instances, ssh_command
from gcloud_ops.cli.local import local
from gcloud_ops.cli.reap import reap
from gcloud_ops.cli.results import sweep
from gcloud_ops.cli.running import run_line
from gcloud_ops.cli.setup import setup
from gcloud_ops.cli.templates import template

__all__ = ["main", "run"]

for _sub in (template, sweep, instances, containers, bucket, alerts, local):
    app.command(_sub)
app.command(setup)
app.command(doctor)
app.command(prices)
app.command(reap)
app.command(ssh_command, name="ssh")


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    # What follows `--` belongs to the command on the instance, not to us.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, rest = list(arguments[:end]), list(arguments[end:])
    return run_line(app, own, program=PROGRAM, split=split, session=Session, rest=rest)
