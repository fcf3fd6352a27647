"""`mlflow-infra`: parse, call, print, exit code; made as `gcloud_ops.cli` is.

`--help` must not pay for anything but the parser: every command imports what it needs itself.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts.exceptions import CycloptsError

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
    try:
        command, bound, _ = app.meta.parse_args(
            list(arguments), exit_on_error=False, print_error=False
        )
        if command is not split:  # --help, --version
            command(*bound.args, **bound.kwargs)
            return 0
        words, common = command(*bound.args, **bound.kwargs)
        command, bound, ignored = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _usage_error(error)
    if "session" in ignored:
        bound.arguments["session"] = Session(common)

    from gcloud_ops.cli.output import under_guard

    return under_guard(PROGRAM, lambda: command(*bound.args, **bound.kwargs) or 0)


def _usage_error(error: CycloptsError) -> int:
    from gcloud_ops.cli.output import ExitCode, say
    from gcloud_ops.text import one_line

    say(f"{PROGRAM}: {one_line(str(error))} (see `{PROGRAM} --help`)")
    return ExitCode.USAGE
