"""`gcloud-ops sweep`: launch, look, end."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from gcloud_ops.cli.app import PROGRAM, REPEATED, SWITCH, GivenSession, Session, Yes

if TYPE_CHECKING:
    from gcloud_ops.launching import LaunchEvent, LaunchPlan
    from gcloud_ops.model import Snapshot, Sweep

__all__ = ["Terms", "launch_described", "sweep"]

sweep = App(name="sweep", help="Sweeps: launch, look, end.")

Watch = Annotated[bool, Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Terms:
    """How the experiments are to run: over what the sweep file says."""

    template: str | None = None
    """Instance template. [$GCLOUD_OPS_TEMPLATE; sinergym-template]"""
    zones: str | None = None
    """Zones of one region, separated by commas: any that has room is taken."""
    machine_type: Annotated[list[str], REPEATED] = field(default_factory=list)
    """Machine type, in place of the template's; repeated, the preferred one first."""
    spot: Annotated[bool | None, Parameter(show_default=False)] = None
    """Spot VMs: cheaper, taken away at any time; an experiment goes on with the next one."""
    hours: float | None = None
    """Hours that an experiment is expected to take, for the plan's cost."""
    max_hours: float | None = None
    """Hours that an experiment may take: Google ends its VM then."""
    max_cost: float | None = None
    """US dollars that the sweep may cost: limits the hours of each experiment."""
    retry: int | None = None
    """How often a failed experiment is tried again, on its VM."""
    dispatch: Literal["boot", "ssh"] | None = None
    """How commands reach the containers: they read them at boot, or get them over SSH. [boot]"""

    def over(self, described: "Sweep", session: Session) -> "Sweep":
        """The sweep as it is to be launched."""
        from gcloud_ops.bounds import RETRIED
        from gcloud_ops.contract import Dispatch, Retry
        from gcloud_ops.errors import InvalidRequest

        zone = session.common.zone
        if zone and self.zones:
            raise InvalidRequest("--zone and --zones: give one of them")
        zones = tuple(it.strip() for it in (self.zones or "").split(",") if it.strip())
        given: dict[str, Any] = {
            "template": self.template,
            "machine_types": tuple(self.machine_type) or None,
            "spot": self.spot,
            "hours": self.hours,
            "max_hours": self.max_hours,
            "max_cost": self.max_cost,
            "dispatch": Dispatch(self.dispatch) if self.dispatch else None,
            "bucket": session.common.bucket,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        if zone or zones:
            changes |= {"zone": zone, "zones": zones}
        if self.retry is not None:
            given_retry = described.retry or Retry(times=0, kinds=RETRIED)
            changes["retry"] = replace(given_retry, times=self.retry) if self.retry else None
        return replace(described, **changes)


@sweep.command(name="launch")
def sweep_launch(
    file: Path | None = None,
    /,
    *,
    name: str | None = None,
    new_name: Annotated[bool, SWITCH] = False,
    command: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    terms: Terms = Terms(),
    dry_run: Annotated[bool, SWITCH] = False,
    watch: Watch = False,
    pull: Path | None = None,
    yes: Yes = False,
    patience: float | None = None,
    alert: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    alert_each: Annotated[bool | None, Parameter(show_default=False)] = None,
    session: GivenSession,
) -> int:
    """Launch a sweep: an instance for each experiment, and its command for each container.

    Exit code 0 when all instances are requested (with --dispatch ssh: all commands sent), and with
    --watch or --pull when all experiments finished; 1 when some did not.

    Args:
        file: The sweep file; or give --name and --command.
        name: The sweep's name, in place of the file's.
        new_name: Take the next free name (NAME-2, NAME-3...) where there is such a sweep.
        command: An experiment's command; may be repeated.
        terms: Over the file.
        dry_run: Check everything, show the plan and its cost, and make nothing.
        watch: Stay until the end, and report it.
        pull: Download the results to PULL/SWEEP at the end; implies --watch.
        yes: Don't ask.
        patience: Seconds to wait while nothing moves. [1800]
        alert: Tell this address how it ends: an e-mail address, a webhook's URL, or a channel of
            `alerts channels list`; may be repeated.
        alert_each: Announce each experiment, not only failures and the sweep's end. [up to 20
            experiments]
    """
    described = terms.over(_describe(session, file, name, command, new_name=new_name), session)
    if alert_each is not None:
        described = replace(described, alert_each=alert_each)
    return launch_described(
        session,
        described,
        dry_run=dry_run,
        watch=watch,
        pull=pull,
        yes=yes,
        patience=patience,
        alert=alert,
    )


@sweep.command(name="resume")
def sweep_resume(
    name: str,
    /,
    *,
    watch: Watch = False,
    pull: Path | None = None,
    patience: float | None = None,
    session: GivenSession,
) -> int:
    """Go on with a launch that was interrupted: what has no instance and has not ended gets one.

    What runs is left alone, so it does no harm at any time, nor from two computers at once.

    Args:
        name: The sweep's name.
        watch: Stay until the end, and report it.
        pull: Download the results to PULL/SWEEP at the end; implies --watch.
        patience: Seconds to wait while nothing moves. [1800]
    """
    from gcloud_ops import launching

    wait = patience or launching.PATIENCE
    events = launching.resume(name, session.clients, patience=wait)
    return _bring_up(session, name, events, watch=watch, pull=pull)


@sweep.command(name="rerun")
def sweep_rerun(
    name: str,
    /,
    *experiments: str,
    failed: Annotated[bool, SWITCH] = False,
    missing: Annotated[bool, SWITCH] = False,
    watch: Watch = False,
    pull: Path | None = None,
    patience: float | None = None,
    session: GivenSession,
) -> int:
    """Run experiments of a sweep again, each as its next attempt; those that go on are left alone.

    An experiment goes on from its last checkpoint, where its program does so.

    Args:
        name: The sweep's name.
        experiments: Which: quick-0007, 0007 or 7; also those that finished.
        failed: All that failed, were lost or cancelled.
        missing: All that never began.
        watch: Stay until the end, and report it.
        pull: Download the results to PULL/SWEEP at the end; implies --watch.
        patience: Seconds to wait while nothing moves. [1800]
    """
    from gcloud_ops import launching, rerunning

    events = rerunning.rerun(
        name,
        session.clients,
        experiments=experiments,
        failed=failed,
        missing=missing,
        patience=patience or launching.PATIENCE,
    )
    return _bring_up(session, name, events, watch=watch, pull=pull)


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
    if cost := output.cost_so_far(seen):
        output.say(f"{name}: {cost}")


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

    As JSON it is an object a line: {"experiment": ..., "line": ...}.

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
    printer = LogPrinter(name, prefixed=len(chosen) > 1, form=session.common.output)
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
    *experiments: str,
    yes: Yes = False,
    session: GivenSession,
) -> int:
    """Remove a sweep's instances and mark what is unfinished as cancelled; results stay.

    Args:
        name: The sweep's name.
        experiments: Only these (quick-0007, 0007 or 7): the others go on. None means all.
        yes: Don't ask.
    """
    from gcloud_ops import sweeps
    from gcloud_ops.cli import output

    seen = sweeps.status(name, session.clients)
    chosen = set(sweeps.select(seen, experiments))
    alive = sum(row.member is not None for row in seen.rows if row.id in chosen)
    what = f"{len(chosen)} experiments of sweep {name}" if experiments else f"sweep {name}"
    if not output.confirm(f"Cancel {what} and remove its {alive} instances?", yes=yes):
        return output.ExitCode.USAGE
    seen = sweeps.cancel(name, session.clients, experiments=experiments, on_step=output.say)
    session.emit_snapshot(seen, "")
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
    session.emit_outcome({"sweep": name, "bucket": seen.bucket, "objects": count})
    output.say(f"{name}: {count} objects deleted")
    return output.ExitCode.DONE


def launch_described(
    session: Session,
    described: "Sweep",
    *,
    dry_run: bool,
    watch: bool,
    pull: Path | None,
    yes: bool,
    patience: float | None,
    alert: Sequence[str] = (),
) -> int:
    """Plan, show, ask, launch, and stay if that is wanted; returns the exit code."""
    from gcloud_ops import launching
    from gcloud_ops.cli import live, output
    from gcloud_ops.cli.alerts import ensure_alerts, prepare_alerts
    from gcloud_ops.cli.doctor import may_launch

    to = prepare_alerts(session, alert)
    planned = launching.plan(described, session.clients, source=Path.cwd())
    live.tell_plan(planned)
    is_good = may_launch(session, planned.sweep, asks=not dry_run, yes=yes)
    if dry_run and session.common.output == "json":
        sys.stdout.write(output.dump(output.plan_json(planned)))
    if dry_run or not is_good:
        return output.ExitCode.DONE if is_good else output.ExitCode.REFUSED
    _tell_tracking_server(session, planned)
    if session.settings.is_google and sys.stdin.isatty() and sys.stderr.isatty():
        question = f"Launch {planned.instances} instances on Google Cloud?"
        if not output.confirm(question, yes=yes):
            return output.ExitCode.USAGE
    ensure_alerts(session, to, planned.sweep)
    return _bring_up(
        session,
        planned.sweep.name,
        launching.launch(planned, session.clients, patience=patience or launching.PATIENCE),
        planned.instances,
        bucket=planned.bucket,
        watch=watch,
        pull=pull,
    )


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
    return described.renamed(launching.free_name(described.name, session.clients, bucket=where))


def _tell_tracking_server(session: Session, planned: "LaunchPlan") -> None:
    if not session.common.local:
        return
    from gcloud_ops.cli.output import say
    from gcloud_ops.local import cloud_folder
    from gcloud_ops.text import one_line

    if uri := planned.template.environment.get("MLFLOW_TRACKING_URI"):
        say(f"MLflow: {one_line(uri)}")
    say(f"local cloud: {cloud_folder()}")


def _bring_up(
    session: Session,
    name: str,
    events: "Iterator[LaunchEvent]",
    total: int | None = None,
    *,
    bucket: str | None = None,
    watch: bool,
    pull: Path | None,
) -> int:
    """Follow a launch, a resume or a rerun, and the sweep to its end where that is asked for."""
    from gcloud_ops import sweeps
    from gcloud_ops.cli import live
    from gcloud_ops.cli.output import ExitCode, as_json, dump, say

    clients = session.clients
    if total is None:
        total = len(sweeps.SweepWatch(name, clients, bucket=bucket).manifest.experiments)
    try:
        with live.display(total) as showing:
            if watch or pull is not None:
                seen = live.follow_and_watch(name, clients, events, showing=showing, bucket=bucket)
                end = None
            else:
                end = live.follow(events, showing=showing)
    except KeyboardInterrupt:
        return _goes_on(session, name)
    if end is None:
        return _tell_end(session, seen, pull)
    if session.common.output == "json":
        where = bucket or session.settings.bucket_name
        sys.stdout.write(dump({"sweep": name, "bucket": where, **as_json(end)}))
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
    if cost := output.cost_so_far(seen):
        output.say(f"{seen.name}: {cost}")
    return output.ExitCode.DONE if seen.is_good else output.ExitCode.EXPERIMENTS_FAILED


def _goes_on(session: Session, name: str) -> int:
    from gcloud_ops.cli.output import ExitCode, say

    verbs = ("resume", "watch", "cancel")
    commands = ", ".join(f"`{session.command(f'sweep {verb} {name}')}`" for verb in verbs)
    say(f"{PROGRAM}: interrupted; sweep {name} goes on as far as it has come ({commands})")
    return ExitCode.INTERRUPTED
