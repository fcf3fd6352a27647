"""`gcloud-ops`: parse, call, print, exit code.

`--help` must not pay for anything but the parser: every command imports what it needs itself.
Global options are taken by a meta app, so they may stand before or after the command.
"""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, Group, Parameter
from cyclopts.exceptions import CycloptsError

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients
    from gcloud_ops.launching import LaunchPlan
    from gcloud_ops.model import Snapshot, Sweep
    from gcloud_ops.output import Columns
    from gcloud_ops.settings import Settings

__all__ = ["main", "run"]

PROGRAM = "gcloud-ops"

_GLOBAL = Group("Global options", sort_key=10)
_Switch = Parameter(negative=(), show_default=False)
_Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative=(), show_default=False)]
_Repeated = Parameter(show_default=False, negative=(), allow_leading_hyphen=True)


@Parameter(name="*", group=_GLOBAL)
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command; they may stand before or after it."""

    project: Annotated[str | None, Parameter(name=["--project", "-id"])] = None
    """Project. [also: $GCLOUD_OPS_PROJECT, $GOOGLE_CLOUD_PROJECT]"""
    zone: Annotated[str | None, Parameter(name=["--zone", "-zo"])] = None
    """Zone of the instances. [$GCLOUD_OPS_ZONE; europe-west1-b]"""
    bucket: str | None = None
    """Bucket of sweeps and results. [$GCLOUD_OPS_BUCKET; PROJECT-experiments-storage]"""
    endpoint: str | None = None
    """Another cloud than Google's. [$GCLOUD_OPS_ENDPOINT]"""
    local: Annotated[bool, _Switch] = False
    """Use the local cloud; it is started when it doesn't run."""
    output: Literal["table", "json"] = "table"
    """How data is printed on standard output."""


class Session:
    """What a command works with: settings, clients, and where its data goes."""

    def __init__(self, common: Common) -> None:
        self.common = common

    @cached_property
    def settings(self) -> "Settings":
        """Flags, environment and file, once; with `--local` the local cloud runs from here on."""
        from gcloud_ops.errors import InvalidRequest
        from gcloud_ops.settings import Settings

        common = self.common
        flags = {
            "project": common.project,
            "zone": common.zone,
            "bucket": common.bucket,
            "endpoint": common.endpoint,
        }
        if not common.local:
            return Settings.load(flags=flags)
        if common.endpoint:
            raise InvalidRequest("--local and --endpoint: give one of them")
        from gcloud_ops.local import local_settings

        return local_settings(Settings.load(flags=flags))

    @cached_property
    def clients(self) -> "Clients":
        """Google's clients for the settings."""
        from gcloud_ops.clients import Clients

        return Clients.connect(self.settings)

    def emit(self, nouns: Sequence[Any], columns: "Columns[Any]") -> None:
        """Print nouns, in the form that was asked for."""
        from gcloud_ops.output import emit

        emit(nouns, columns, self.common.output)

    def emit_snapshot(self, seen: "Snapshot", text: str) -> None:
        """Print a sweep: as JSON, or else this text."""
        from gcloud_ops.output import as_json, dump

        sys.stdout.write(dump(as_json(seen)) if self.common.output == "json" else text)

    def command(self, words: str) -> str:
        """A command line of ours that works on the same cloud, for hints."""
        return f"{PROGRAM} {'--local ' if self.common.local else ''}{words}"


def _version() -> str:
    from importlib.metadata import version

    return version("gcloud-ops")


type _Session = Annotated[Session, Parameter(parse=False)]

app = App(
    name=PROGRAM,
    help="Launch sweeps of experiments on Google Cloud, watch them, and clean up after them.",
    version=_version,
)
template = App(name="template", help="Instance templates: what each instance of a sweep is.")
sweep = App(name="sweep", help="Sweeps: launch, look, end.")
instances = App(name="instances", help="Compute Engine instances.")
containers = App(name="containers", help="Containers on the instances.")
bucket = App(name="bucket", help="Objects in the bucket.")
local = App(name="local", help="The local cloud that --local works on.")
for _sub in (template, sweep, instances, containers, bucket, local):
    app.command(_sub)


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    # What follows `--` belongs to the command on the instance, not to us.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, rest = list(arguments[:end]), list(arguments[end:])
    try:
        command, bound, _ = app.meta.parse_args(own, exit_on_error=False, print_error=False)
        if command is not _split:  # --help, --version
            command(*bound.args, **bound.kwargs)
            return 0
        words, common = command(*bound.args, **bound.kwargs)
        command, bound, ignored = app.parse_args(
            [*words, *rest], exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        return _usage_error(error)
    if "session" in ignored:
        bound.arguments["session"] = Session(common)

    from gcloud_ops.output import under_guard

    return under_guard(PROGRAM, lambda: command(*bound.args, **bound.kwargs) or 0)


@app.meta.default
def _split(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    common: Common = Common(),
) -> tuple[tuple[str, ...], Common]:
    return words, common


def _usage_error(error: CycloptsError) -> int:
    from gcloud_ops.output import ExitCode, say
    from gcloud_ops.text import one_line

    say(f"{PROGRAM}: {one_line(str(error))} (see `{PROGRAM} --help`)")
    return ExitCode.USAGE


# -------------------------------------------------------------------------- templates


@template.command(name="create")
def template_create(
    name: str,
    /,
    *,
    image: str,
    machine_type: str = "n2-highcpu-8",
    disk_gb: int = 20,
    disk_type: str = "pd-ssd",
    service_account: str | None = None,
    scopes: str = "https://www.googleapis.com/auth/cloud-platform",
    env: Annotated[list[str], _Repeated] = [],  # noqa: B006 (cyclopts only reads it)
    tracking_uri: str | None = None,
    session: _Session,
) -> None:
    """Create an instance template.

    Its instances start IMAGE on Container-Optimized OS. The container's environment has gce_zone
    and gce_project_id, as in the original Sinergym containers.

    Args:
        name: The template's name; sweeps use sinergym-template unless they name another.
        image: Container image; its entry point is sinergym-runner.
        machine_type: Compute Engine machine type.
        disk_gb: Size of the boot disk in GB.
        disk_type: Type of the boot disk.
        service_account: Who the instances act as; else Compute Engine's default account.
        scopes: Access scopes of the account, separated by commas.
        env: A variable of the container, NAME=VALUE; may be repeated. No secrets.
        tracking_uri: MLflow tracking server; becomes MLFLOW_TRACKING_URI.
    """
    from gcloud_ops import templates
    from gcloud_ops.output import TEMPLATES

    environment = {
        "gce_zone": session.settings.zone,
        "gce_project_id": session.clients.project,
        **_variables(env),
    }
    if tracking_uri is not None:
        environment["MLFLOW_TRACKING_URI"] = tracking_uri
    made = templates.create_template(
        session.clients,
        templates.TemplateSpec(
            name=name,
            image=image,
            machine_type=machine_type,
            disk_gb=disk_gb,
            disk_type=disk_type,
            service_account=service_account,
            scopes=tuple(scope for scope in scopes.split(",") if scope),
            environment=environment,
        ),
    )
    session.emit([made], TEMPLATES)


@template.command(name="list")
def template_list(*, session: _Session) -> None:
    """List the project's instance templates."""
    from gcloud_ops import templates
    from gcloud_ops.output import TEMPLATES

    session.emit(templates.list_templates(session.clients), TEMPLATES)


@template.command(name="show")
def template_show(name: str, /, *, session: _Session) -> None:
    """Show one instance template.

    Args:
        name: The template's name.
    """
    from gcloud_ops import templates
    from gcloud_ops.output import as_json, dump, table

    found = as_json(templates.get_template(session.clients, name))
    if session.common.output == "json":
        sys.stdout.write(dump(found))
        return
    environment = found.pop("environment")
    rows = [(key, " ".join(v) if isinstance(v, list) else v) for key, v in found.items()]
    rows += [(f"environment {key}", value) for key, value in environment.items()]
    sys.stdout.write(table(("FIELD", "VALUE"), [row for row in rows if row[1] not in ("", {})]))


@template.command(name="delete")
def template_delete(name: str, /, *, session: _Session) -> None:
    """Delete an instance template that no group uses.

    Args:
        name: The template's name.
    """
    from gcloud_ops import templates
    from gcloud_ops.output import say

    templates.delete_template(session.clients, name)
    say(f"template {name} deleted")


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    from gcloud_ops.errors import InvalidRequest

    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"--env: {pair!r} is not NAME=VALUE")
        found[name] = value
    return found


# ----------------------------------------------------------------------------- sweeps


@sweep.command(name="launch")
def sweep_launch(
    file: Path | None = None,
    /,
    *,
    name: str | None = None,
    new_name: Annotated[bool, _Switch] = False,
    command: Annotated[list[str], _Repeated] = [],  # noqa: B006 (cyclopts only reads it)
    template: str | None = None,
    watch: Annotated[bool, Parameter(show_default=False)] = False,
    pull: Path | None = None,
    yes: _Yes = False,
    patience: float | None = None,
    session: _Session,
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
    """
    from gcloud_ops import launching, live, output

    described = _describe(session, file, name, command, new_name=new_name)
    described = replace(
        described,
        template=template or described.template,
        zone=session.common.zone or described.zone,
        bucket=session.common.bucket or described.bucket,
    )
    planned = launching.plan(described, session.clients)
    live.tell_plan(planned)
    _tell_tracking_server(session)
    if session.settings.is_google and sys.stdin.isatty() and sys.stderr.isatty():
        question = f"Launch {planned.instances} instances on Google Cloud?"
        if not output.confirm(question, yes=yes):
            return output.ExitCode.USAGE
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
def sweep_list(*, session: _Session) -> None:
    """List the sweeps in the bucket, the newest first."""
    from gcloud_ops import sweeps
    from gcloud_ops.output import SWEEPS

    session.emit(sweeps.list_sweeps(session.clients), SWEEPS)


@sweep.command(name="status")
def sweep_status(name: str, /, *, session: _Session) -> None:
    """Show how each experiment of a sweep stands.

    Args:
        name: The sweep's name.
    """
    from gcloud_ops import output, sweeps

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
    session: _Session,
) -> int:
    """Watch a sweep to its end, and report it; exit code 1 when an experiment did not finish.

    Args:
        name: The sweep's name.
        pull: Download the results to PULL/SWEEP at the end.
    """
    from gcloud_ops import live, sweeps

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
    session: _Session,
) -> None:
    """Print logs of a sweep's experiments; of several, each line with its number before it.

    Args:
        name: The sweep's name.
        experiments: Which: quick-0007, 0007 or 7. None means all.
        follow: Go on while they grow, until the experiments have ended.
        tail: Only so many last lines of each.
    """
    from gcloud_ops import logs, sweeps
    from gcloud_ops.errors import InvalidRequest
    from gcloud_ops.output import LogPrinter

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
    yes: _Yes = False,
    session: _Session,
) -> int:
    """Remove a sweep's instances and mark what is unfinished as cancelled; results stay.

    Args:
        name: The sweep's name.
        yes: Don't ask.
    """
    from gcloud_ops import output, sweeps

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
    yes: _Yes = False,
    force: Annotated[bool, _Switch] = False,
    session: _Session,
) -> int:
    """Delete a sweep from the bucket, with its logs and results.

    Args:
        name: The sweep's name.
        yes: Don't ask.
        force: Also when it still has instances; they are removed first.
    """
    from gcloud_ops import output, sweeps

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


def _tell_tracking_server(session: Session) -> None:
    if not session.common.local:
        return
    from gcloud_ops.local import cloud_folder, read_cloud
    from gcloud_ops.output import say

    folder = cloud_folder()
    cloud = read_cloud(folder)
    if cloud and cloud.mlflow_url:
        say(f"MLflow: {cloud.mlflow_url}")
    say(f"local cloud: {folder}")


def _tell_launched(session: Session, planned: "LaunchPlan", end: Any) -> int:
    from gcloud_ops.output import ExitCode, as_json, dump, say

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
    from gcloud_ops import live, output

    live.tell_failures(seen, session.clients)
    session.emit_snapshot(seen, output.report(seen))
    sys.stdout.flush()
    if pull is not None:
        from gcloud_ops.objects import pull as pull_objects

        folder = pull / seen.name
        files = pull_objects(session.clients, seen.bucket, f"{seen.name}/", folder)
        output.say(f"results pulled to {folder} ({len(files)} files)")
    output.say(f"{seen.name}: {output.explain(seen)}")
    return output.ExitCode.DONE if seen.is_good else output.ExitCode.EXPERIMENTS_FAILED


def _goes_on(session: Session, name: str) -> int:
    from gcloud_ops.output import ExitCode, say

    watch, cancel = (session.command(f"sweep {verb} {name}") for verb in ("watch", "cancel"))
    say(f"{PROGRAM}: interrupted; sweep {name} goes on (`{watch}`, `{cancel}`)")
    return ExitCode.INTERRUPTED


# --------------------------------------------------------------- instances, containers


@instances.command(name="list")
def instances_list(sweep: str | None = None, /, *, session: _Session) -> None:
    """List instances: of one sweep, or all of the project.

    Args:
        sweep: The sweep's name.
    """
    from gcloud_ops import instances
    from gcloud_ops.output import INSTANCES

    zone = session.common.zone
    session.emit(instances.list_instances(session.clients, group=sweep, zone=zone), INSTANCES)


@containers.command(name="list")
def containers_list(sweep: str, /, *, session: _Session) -> int:
    """List the containers on a sweep's instances, asked over SSH.

    Exit code 5 when some instances could not be asked.

    Args:
        sweep: The sweep's name.
    """
    from gcloud_ops import output
    from gcloud_ops.containers import list_containers
    from gcloud_ops.errors import GcloudOpsError
    from gcloud_ops.model import Container
    from gcloud_ops.sweeps import SweepWatch

    rows: list[Container] = []
    failed = False
    answers = list_containers(session.clients, sweep)
    if not answers:
        SweepWatch(sweep, session.clients)  # without instances: there must be such a sweep
    for instance, found in answers.items():
        if isinstance(found, GcloudOpsError):
            failed = True
            rows.append(
                Container(
                    instance=instance, id="", name="", image="", state="unknown", status=str(found)
                )
            )
        else:
            rows += found
    session.emit(rows, output.CONTAINERS)
    return output.ExitCode.UNAVAILABLE if failed else output.ExitCode.DONE


@app.command(name="ssh")
def ssh_command(instance: str, /, *command: str, session: _Session) -> int:
    """Open a shell on an instance, or run a command there: gcloud-ops ssh INSTANCE -- COMMAND.

    The instance's host key is verified against the published one. The exit code is the command's.

    Args:
        instance: The instance's name.
        command: What to run; none opens a shell.
    """
    import shlex

    from gcloud_ops.containers import run_shell

    line = command[0] if len(command) == 1 else shlex.join(command)
    return run_shell(session.clients, instance, line or None, zone=session.common.zone)


# ----------------------------------------------------------------------------- bucket


@bucket.command(name="ls")
def bucket_ls(path: str = "", /, *, session: _Session) -> None:
    """List one level of the bucket.

    Args:
        path: A folder, such as quick/ or gs://BUCKET/quick; none lists the sweeps.
    """
    from gcloud_ops import objects
    from gcloud_ops.errors import NotFound
    from gcloud_ops.output import ENTRIES

    where, prefix = _place(session, path)
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    found = objects.list_objects(session.clients, where, folder, delimiter="/")
    if not found and prefix:
        entries = objects.list_objects(session.clients, where, prefix, delimiter="/")
        found = tuple(entry for entry in entries if entry.name == prefix)
    if not found and prefix:
        raise NotFound(f"there is nothing in gs://{where}/{prefix}", resource=prefix)
    session.emit(found, ENTRIES)


@bucket.command(name="pull")
def bucket_pull(path: str, folder: Path | None = None, /, *, session: _Session) -> None:
    """Download an object, or all below a folder; what is here already is not downloaded again.

    Args:
        path: What, such as quick/quick-0001/output or gs://BUCKET/quick.
        folder: Where to; else a folder here with the last name of PATH.
    """
    from gcloud_ops import objects
    from gcloud_ops.errors import InvalidRequest
    from gcloud_ops.output import as_json, dump, say

    where, prefix = _place(session, path)
    if not prefix.strip("/"):
        raise InvalidRequest("a path in the bucket is needed", hint="such as quick/")
    target = folder or Path(prefix.rstrip("/").rpartition("/")[2])
    files = objects.pull(
        session.clients,
        where,
        prefix,
        target,
        on_file=lambda entry, path: say(f"{path}  {entry.size} bytes"),
    )
    if session.common.output == "json":
        sys.stdout.write(dump(as_json(files)))
    say(f"pulled to {target} ({len(files)} files)")


def _place(session: Session, path: str) -> tuple[str, str]:
    """Bucket and prefix of what people write: a path in our bucket, or gs://BUCKET/PATH."""
    if not path.startswith("gs://"):
        return session.settings.bucket_name, path.lstrip("/")
    where, _, prefix = path.removeprefix("gs://").partition("/")
    return where, prefix


# ------------------------------------------------------------------------ local cloud


@local.command(name="status")
def local_status() -> int:
    """Say whether the local cloud runs, and where."""
    return _emulator("status")


@local.command(name="stop")
def local_stop() -> int:
    """Stop the local cloud; its state and results stay."""
    return _emulator("stop")


@local.command(name="wipe")
def local_wipe() -> int:
    """Stop the local cloud and remove its state with all results."""
    return _emulator("wipe")


@local.command(name="folder")
def local_folder() -> None:
    """Print the folder of the local cloud's state and results."""
    from gcloud_ops.local import cloud_folder

    sys.stdout.write(f"{cloud_folder()}\n")


def _emulator(command: str) -> int:
    from gcloud_ops.local import emulator

    return emulator(command)
