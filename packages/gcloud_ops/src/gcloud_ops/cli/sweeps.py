"""`gcloud-ops sweep`: launch, look, end."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from gcloud_ops.cli.app import PROGRAM, REPEATED, SWITCH, GivenSession, Session, Yes

if TYPE_CHECKING:
    from gcloud_ops.launching import LaunchPlan
    from gcloud_ops.model import Snapshot, Sweep

__all__ = ["sweep"]

sweep = App(name="sweep", help="Sweeps: launch, look, end.")


@sweep.command(name="launch")
def sweep_launch(
    file: Path | None = None,
    /,
    *,
    name: str | None = None,
    new_name: Annotated[bool, SWITCH] = False,
    command: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    template: str | None = None,
    watch: Annotated[bool, Parameter(show_default=False)] = False,
    pull: Path | None = None,
    yes: Yes = False,
    patience: float | None = None,
    alert: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    alert_each: Annotated[bool | None, Parameter(show_default=False)] = None,
    session: GivenSession,
) -> int:
    """Launch a sweep: an instance for each experiment, its command into its container.

    Exit code 0 when all commands are sent, and with --watch or --pull when all experiments
    finished; 1 when some did not.

    Args:
        file: The sweep file; or give --name and --command.
        name: The sweep's name, in place of the file's.
        new_name: Take the next free name (NAME-2, NAME-3...) where there is such a sweep.
        command: An experiment's command; may be repeated.
        template: Instance template. [$GCLOUD_OPS_TEMPLATE; sinergym-template]
        watch: Stay until the end, and report it.
        pull: Download the results to PULL/SWEEP at the end; implies --watch.
        yes: Don't ask.
        patience: Seconds to wait while nothing moves. [1800]
        alert: Tell this address how it ends: an e-mail address, a webhook's URL, or a channel of
            `alerts channels list`; may be repeated.
        alert_each: Announce each experiment, not only failures and the sweep's end. [up to 20
            experiments]
    """
    from gcloud_ops import launching
    from gcloud_ops.cli import live, output
    from gcloud_ops.cli.alerts import ensure_alerts, prepare_alerts

    described = _describe(session, file, name, command, new_name=new_name)
    described = replace(
        described,
        template=template or described.template,
        zone=session.common.zone or described.zone,
        bucket=session.common.bucket or described.bucket,
        alert_each=described.alert_each if alert_each is None else alert_each,
    )
    to = prepare_alerts(session, alert)
    planned = launching.plan(described, session.clients)
    live.tell_plan(planned)
    _tell_tracking_server(session, planned)
    if session.settings.is_google and sys.stdin.isatty() and sys.stderr.isatty():
        question = f"Launch {planned.instances} instances on Google Cloud?"
        if not output.confirm(question, yes=yes):
            return output.ExitCode.USAGE
    ensure_alerts(session, to, planned.sweep)
    wait = launching.PATIENCE if patience is None else patience
    try:
        if watch or pull is not None:
            with live.display(planned.instances) as showing:
                seen = live.launch_and_watch(
                    planned, session.clients, patience=wait, showing=showing
                )
            return _tell_end(session, seen, pull)
        with live.display(planned.instances) as showing:
            end = live.launch(planned, session.clients, patience=wait, showing=showing)
    except KeyboardInterrupt:
        return _goes_on(session, planned.sweep.name)
    return _tell_launched(session, planned, end)


@sweep.command(name="list")
def sweep_list(*, session: GivenSession) -> None:
    """List the sweeps in the bucket, the newest first."""
    from gcloud_ops import sweeps
    from gcloud_ops.cli.output import SWEEPS

    session.emit(sweeps.list_sweeps(session.clients), SWEEPS)


@sweep.command(name="status")
def sweep_status(name: str, /, *, session: GivenSession) -> None:
    """Show how each experiment of a sweep stands.

    Args:
        name: The sweep's name.
    """
    from gcloud_ops import sweeps
    from gcloud_ops.cli import output

    seen = sweeps.status(name, session.clients)
    rows = output.table(output.ROWS.headers, [output.ROWS.cells(row) for row in seen.rows])
    session.emit_snapshot(seen, rows)
    output.say(f"{name}: {output.explain(seen)}")


@sweep.command(name="watch")
def sweep_watch(
    name: str,
    /,
    *,
    pull: Path | None = None,
    session: GivenSession,
) -> int:
    """Watch a sweep to its end, and report it; exit code 1 when an experiment did not finish.

    Args:
        name: The sweep's name.
        pull: Download the results to PULL/SWEEP at the end.
    """
    from gcloud_ops import sweeps
    from gcloud_ops.cli import live

    total = len(sweeps.SweepWatch(name, session.clients).manifest.experiments)
    try:
        with live.display(total) as showing:
            seen = live.watch(name, session.clients, showing=showing)
    except KeyboardInterrupt:
        return _goes_on(session, name)
    return _tell_end(session, seen, pull)


@sweep.command(name="logs")
def sweep_logs(
    name: str,
    /,
    *experiments: str,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative=(), show_default=False)
    ] = False,
    tail: int | None = None,
    session: GivenSession,
) -> None:
    """Print logs of a sweep's experiments; of several, each line with its number before it.

    Args:
        name: The sweep's name.
        experiments: Which: quick-0007, 0007 or 7. None means all.
        follow: Go on while they grow, until the experiments have ended.
        tail: Only so many last lines of each.
    """
    from gcloud_ops import logs, sweeps
    from gcloud_ops.cli.output import LogPrinter
    from gcloud_ops.errors import InvalidRequest

    if tail is not None and tail < 0:
        raise InvalidRequest("--tail: a number of lines, 0 or more")
    seen = sweeps.status(name, session.clients)
    chosen = logs.select(seen, experiments)
    printer = LogPrinter(name, prefixed=len(chosen) > 1)
    if follow:
        for chunk in logs.follow(name, session.clients, chosen, tail=tail):
            printer.print(chunk.experiment, chunk.data)
    else:
        for experiment in chosen:
            data = logs.read(session.clients, seen.bucket, name, experiment, tail=tail)
            printer.print(experiment, data)
    printer.close()


@sweep.command(name="cancel")
def sweep_cancel(
    name: str,
    /,
    *,
    yes: Yes = False,
    session: GivenSession,
) -> int:
    """Remove a sweep's instances and mark what is unfinished as cancelled; results stay.

    Args:
        name: The sweep's name.
        yes: Don't ask.
    """
    from gcloud_ops import sweeps
    from gcloud_ops.cli import output

    seen = sweeps.status(name, session.clients)
    alive = sum(row.member is not None for row in seen.rows)
    if not output.confirm(f"Cancel sweep {name} and remove its {alive} instances?", yes=yes):
        return output.ExitCode.USAGE
    seen = sweeps.cancel(name, session.clients, on_step=output.say)
    output.say(f"{name}: {output.explain(seen)}")
    return output.ExitCode.DONE


@sweep.command(name="delete")
def sweep_delete(
    name: str,
    /,
    *,
    yes: Yes = False,
    force: Annotated[bool, SWITCH] = False,
    session: GivenSession,
) -> int:
    """Delete a sweep from the bucket, with its logs and results.

    Args:
        name: The sweep's name.
        yes: Don't ask.
        force: Also when it still has instances; they are removed first.
    """
    from gcloud_ops import sweeps
    from gcloud_ops.cli import output

    seen = sweeps.status(name, session.clients)
    question = f"Delete sweep {name} with all results in gs://{seen.bucket}/{name}/?"
    if not output.confirm(question, yes=yes):
        return output.ExitCode.USAGE
    count = sweeps.delete(name, session.clients, force=force, on_step=output.say)
    output.say(f"{name}: {count} objects deleted")
    return output.ExitCode.DONE


def _describe(
    session: Session,
    file: Path | None,
    name: str | None,
    commands: Sequence[str],
    *,
    new_name: bool,
) -> "Sweep":
    from gcloud_ops import launching
    from gcloud_ops.errors import InvalidRequest
    from gcloud_ops.model import Sweep
    from gcloud_ops.sweepfile import read_sweep

    if file is not None and commands:
        raise InvalidRequest("a sweep file and --command: give one of them")
    if file is None and name is None:
        raise InvalidRequest(
            "there is nothing to launch", hint="give a FILE, or --name and --command"
        )
    if file is not None:
        described = read_sweep(file, name=name)
    else:
        described = Sweep.of_commands(name or "", list(commands))
    if not new_name:
        return described
    where = session.common.bucket or described.bucket
    free = launching.free_name(described.name, session.clients, bucket=where)
    if free == described.name:
        return described
    renumbered = Sweep.of_commands(free, [e.command for e in described.experiments])
    return replace(described, name=free, experiments=renumbered.experiments)


def _tell_tracking_server(session: Session, planned: "LaunchPlan") -> None:
    if not session.common.local:
        return
    from gcloud_ops.cli.output import say
    from gcloud_ops.local import cloud_folder
    from gcloud_ops.text import one_line

    if uri := planned.template.environment.get("MLFLOW_TRACKING_URI"):
        say(f"MLflow: {one_line(uri)}")
    say(f"local cloud: {cloud_folder()}")


def _tell_launched(session: Session, planned: "LaunchPlan", end: Any) -> int:
    from gcloud_ops.cli.output import ExitCode, as_json, dump, say

    name = planned.sweep.name
    if session.common.output == "json":
        about = {"sweep": name, "bucket": planned.bucket, "zone": planned.zone}
        sys.stdout.write(dump({**about, **as_json(end)}))
    say(f"{name}: watch it with `{session.command(f'sweep watch {name}')}`")
    if end.waiting:
        return ExitCode.UNAVAILABLE
    return ExitCode.EXPERIMENTS_FAILED if end.failed else ExitCode.DONE


def _tell_end(session: Session, seen: "Snapshot", pull: Path | None) -> int:
    """Report a sweep that was watched to its end, and bring its results."""
    from gcloud_ops.cli import live, output

    live.tell_failures(seen, session.clients)
    folder = None
    if pull is not None:
        from gcloud_ops.objects import pull as pull_objects

        folder = pull / seen.name
        files = pull_objects(session.clients, seen.bucket, f"{seen.name}/", folder)
        output.say(f"results pulled to {folder} ({len(files)} files)")
    session.emit_snapshot(seen, output.report(seen, pulled=folder))
    sys.stdout.flush()
    output.say(f"{seen.name}: {output.explain(seen)}")
    return output.ExitCode.DONE if seen.is_good else output.ExitCode.EXPERIMENTS_FAILED


def _goes_on(session: Session, name: str) -> int:
    from gcloud_ops.cli.output import ExitCode, say

    watch, cancel = (session.command(f"sweep {verb} {name}") for verb in ("watch", "cancel"))
    say(f"{PROGRAM}: interrupted; sweep {name} goes on (`{watch}`, `{cancel}`)")
    return ExitCode.INTERRUPTED
