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
