"""`backup` and `export`: keep what the server knows."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mlflow_infra.cli.app import SWITCH, GivenSession

__all__ = ["backup", "export"]


def backup(
    *,
    listing: Annotated[bool, Parameter(name="--list", negative=(), show_default=False)] = False,
    session: GivenSession,
) -> None:
    """Make a backup of the database now, and wait until it is complete; print its id and time.

    It stays until somebody deletes it; those that Cloud SQL makes daily go by themselves.

    Args:
        listing: List the backups that are there instead.
    """
    from gcloud_ops.cli.output import Columns, say
    from mlflow_infra import operations

    if listing:
        found = operations.backups(session.clients, session.infra)
    else:
        infra = session.infra
        say("backing up the database; this takes a minute or so")
        found = (operations.back_up(session.clients, infra, description="mlflow-infra backup"),)
    columns: Columns[operations.Backup] = Columns(
        ("ID", "STATUS", "KIND", "TIME", "DESCRIPTION"),
        lambda it: (
            it.id,
            it.status,
            it.kind,
            f"{it.time:%Y-%m-%d %H:%M:%SZ}" if it.time else "",
            it.description,
        ),
    )
    session.emit(found, columns)


def export(
    folder: Path,
    /,
    *,
    artifacts: Annotated[bool, SWITCH] = False,
    session: GivenSession,
) -> int:
    """Write all experiments, runs and metrics as JSON lines into a new or empty folder.

    Exit code 1 when some of the runs' files could not be brought.

    Args:
        folder: Where to: experiments.jsonl, runs.jsonl, metrics.jsonl, artifacts/.
        artifacts: Also bring the runs' files.
    """
    from gcloud_ops.cli import output
    from mlflow_infra import operations

    uri = operations.tracking_uri(session.clients, session.infra)
    server = operations.Tracking(uri, operations.login(session.clients, session.infra, "admin"))
    done = operations.export(server, folder, artifacts=artifacts, tell=output.say)
    if session.common.output == "json":
        sys.stdout.write(output.dump(output.as_json(done)))
    output.say(
        f"exported to {folder}: {done.experiments} experiments, {done.runs} runs, "
        f"{done.points} points of metrics"
        + (f", {done.artifacts} files" if artifacts else "")
        + (f"; {done.failed} could not be brought" if done.failed else "")
    )
    return output.ExitCode.EXPERIMENTS_FAILED if done.failed else output.ExitCode.DONE
