"""`gcloud-ops instances`, `containers` and `ssh`: the VMs, and what runs on them."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

from cyclopts import App

from gcloud_ops.cli.app import GivenSession

__all__ = ["containers", "instances", "ssh_command"]

instances = App(name="instances", help="Compute Engine instances.")
containers = App(name="containers", help="Containers on the instances.")


@instances.command(name="list")
def instances_list(sweep: str | None = None, /, *, session: GivenSession) -> None:
    """List instances: of one sweep, or all of the project.

    Args:
        sweep: The sweep's name.
    """
    from gcloud_ops import instances
    from gcloud_ops.cli.output import INSTANCES

    zone = session.common.zone
    session.emit(instances.list_instances(session.clients, group=sweep, zone=zone), INSTANCES)


@containers.command(name="list")
def containers_list(sweep: str, /, *, session: GivenSession) -> int:
    """List the containers on a sweep's instances, asked over SSH.

    Exit code 5 when some instances could not be asked.

    Args:
        sweep: The sweep's name.
    """
    from gcloud_ops.cli import output
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


@containers.command(name="restart")
def containers_restart(sweep: str, /, *experiments: str, session: GivenSession) -> int:
    """Stop and start the runner's container on instances of a sweep.

    The runner begins the next attempt, which goes on from the last checkpoint. Exit code 5 when
    it could not be done everywhere.

    Args:
        sweep: The sweep's name.
        experiments: Which: quick-0007, 0007 or 7. None means all that have an instance.
    """
    from gcloud_ops import sweeps
    from gcloud_ops.cli import output
    from gcloud_ops.containers import restart_containers

    seen = sweeps.status(sweep, session.clients)
    chosen = sweeps.select(seen, experiments)
    there = {row.id for row in seen.rows if row.member is not None and row.member.is_up}
    names = [name for name in chosen if name in there]
    done = restart_containers(session.clients, sweep, names)
    done_by_name = {name: error or "restarted" for name, error in done.items()}
    done_by_name |= dict.fromkeys(
        (n for n in chosen if n not in there), "has no instance that runs"
    )
    for name, what in sorted(done_by_name.items()):
        output.say(f"{name}: {what}")
    session.emit_outcome(dict(sorted(done_by_name.items())))
    good = all(what == "restarted" for what in done_by_name.values())
    return output.ExitCode.DONE if good else output.ExitCode.UNAVAILABLE


def ssh_command(instance: str, /, *command: str, session: GivenSession) -> int:
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
