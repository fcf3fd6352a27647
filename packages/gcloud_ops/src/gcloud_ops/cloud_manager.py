"""`cloud-manager`: the launcher of the original Sinergym (2021), flag for flag, on today's cloud.

Source of the flags, short names and defaults: cloud_manager.py of Sinergym 1.5
(https://github.com/ugr-sail/sinergym). What differs: the default command, a leftover that could
not run, is gone, so that no commands is an error; commands are sent as they are (the group's name
reaches the container by its metadata); the bucket is `<project>-experiments-storage`, because a
bucket's name is taken in the whole world; and every wait has an end.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

if TYPE_CHECKING:
    from gcloud_ops.clients import Clients
    from gcloud_ops.launching import LaunchPlan
    from gcloud_ops.model import Sweep
    from gcloud_ops.settings import Settings

__all__ = ["main", "run"]

PROGRAM = "cloud-manager"

app = App(name=PROGRAM, help="Process for run experiments in Google Cloud", version_flags=())


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        from gcloud_ops.cli.output import ExitCode, say
        from gcloud_ops.text import one_line

        say(f"{PROGRAM}: {one_line(str(error))} (see `{PROGRAM} --help`)")
        return ExitCode.USAGE
    if command is not cloud_manager:  # --help
        command(*bound.args, **bound.kwargs)
        return 0

    from gcloud_ops.cli.output import under_guard

    return under_guard(PROGRAM, lambda: cloud_manager(*bound.args, **bound.kwargs))


@app.default
def cloud_manager(
    *,
    project_id: Annotated[str | None, Parameter(name=["--project_id", "-id"])] = None,
    zone: Annotated[str, Parameter(name=["--zone", "-zo"])] = "europe-west1-b",
    template_name: Annotated[
        str, Parameter(name=["--template_name", "-tem"])
    ] = "sinergym-template",
    group_name: Annotated[str, Parameter(name=["--group_name", "-group"])] = "sinergym-group",
    experiment_commands: Annotated[
        list[str],
        Parameter(
            name=["--experiment_commands", "-cmds"],
            consume_multiple=True,
            negative=(),
            show_default=False,
        ),
    ] = [],  # noqa: B006 (cyclopts only reads it)
    local: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    watch: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    endpoint: str | None = None,
) -> int:
    """Launch an instance for each command, and send each its command.

    Args:
        project_id: Your Google Cloud project ID.
        zone: Zone of the instances.
        template_name: Instance template, made beforehand (gcloud-ops template create).
        group_name: Name of the instance group, and so of the sweep.
        experiment_commands: Commands of the experiments, each in quotes.
        local: Use the local cloud; it is started when it doesn't run.
        watch: Stay until the end, and report it.
        endpoint: Another cloud than Google's.
    """
    from gcloud_ops import launching
    from gcloud_ops.cli import live, output
    from gcloud_ops.cli.output import ExitCode, say
    from gcloud_ops.clients import Clients
    from gcloud_ops.contract import Dispatch
    from gcloud_ops.errors import InvalidRequest
    from gcloud_ops.model import Sweep

    if not experiment_commands:
        raise InvalidRequest(
            "experiment_commands: no experiments",
            hint="give --experiment_commands 'COMMAND' ['COMMAND' ...]",
        )
    sweep = Sweep.of_commands(
        group_name, experiment_commands, template=template_name, dispatch=Dispatch.SSH
    )
    settings = _settings(project_id, zone, endpoint, local=local)
    clients = Clients.connect(settings)
    planned = _plan(sweep, clients)
    name = planned.sweep.name
    if name != group_name:
        say(f"{group_name} is the name of an earlier sweep, whose results stay: this is {name}.")
    say(f"Creating instance group(MIG) for experiments ({planned.instances} instances)...")
    live.tell_plan(planned)
    say("Sending commands to every container VM... (waiting for container inner VM is ready too)")
    goes_on = f"gcloud-ops{' --local' if local else ''} sweep"
    events = launching.launch(planned, clients)
    try:
        with live.display(planned.instances) as showing:
            if watch:
                seen = live.follow_and_watch(name, clients, events, showing=showing)
            else:
                end = live.follow(events, showing=showing)
    except KeyboardInterrupt:
        say(f"{PROGRAM}: interrupted; {name} goes on (`{goes_on} watch {name}`, `... cancel`)")
        return ExitCode.INTERRUPTED
    if watch:
        live.tell_failures(seen, clients)
        sys.stdout.write(output.report(seen))
        return ExitCode.DONE if seen.is_good else ExitCode.EXPERIMENTS_FAILED
    if not end.is_complete:
        return ExitCode.UNAVAILABLE if end.waiting else ExitCode.EXPERIMENTS_FAILED
    say(f"All VM's are working correctly: `{goes_on} watch {name}` shows them.")
    return ExitCode.DONE


def _settings(project: str | None, zone: str, endpoint: str | None, *, local: bool) -> "Settings":
    from gcloud_ops.errors import InvalidRequest
    from gcloud_ops.settings import Settings

    found = Settings.load(flags={"project": project, "zone": zone, "endpoint": endpoint})
    if not local:
        return found
    if endpoint:
        raise InvalidRequest("--local and --endpoint: give one of them")
    from gcloud_ops.local import local_settings

    return local_settings(found)


def _plan(sweep: "Sweep", clients: "Clients") -> "LaunchPlan":
    """Plan it; under the next free name, when only an earlier sweep's results have its own.

    The original's groups left nothing of their name behind, and its default is one fixed name.
    """
    from gcloud_ops import groups, launching
    from gcloud_ops.errors import AlreadyExists

    try:
        return launching.plan(sweep, clients)
    except AlreadyExists:
        if groups.get_group(clients, sweep.name) is not None:
            raise
    return launching.plan(sweep.renamed(launching.free_name(sweep.name, clients)), clients)
