"""`gcloud-ops local`: the local cloud that `--local` works on."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys

from cyclopts import App

from gcloud_ops.cli.app import GivenSession, Yes

__all__ = ["local"]

local = App(name="local", help="The local cloud that --local works on.")


@local.command(name="up")
def local_up(*, smtp: str | None = None) -> int:
    """Start the local cloud, as --local does, or join the one that runs; say where it is.

    Args:
        smtp: HOST:PORT of an SMTP server on this machine, which gets the e-mails of alerts; else
            they stay in `gcp-emulator inbox`. [$GCLOUD_OPS_LOCAL_SMTP]
    """
    from gcloud_ops.local import ensure_cloud

    ensure_cloud(smtp=smtp)
    return _emulator("status")


@local.command(name="status")
def local_status() -> int:
    """Say whether the local cloud runs, and where."""
    return _emulator("status")


@local.command(name="stop")
def local_stop() -> int:
    """Stop the local cloud; its state and results stay."""
    return _emulator("stop")


@local.command(name="wipe")
def local_wipe(*, yes: Yes = False) -> int:
    """Stop the local cloud and remove its state with all results.

    Args:
        yes: Don't ask.
    """
    from gcloud_ops.cli.output import ExitCode, confirm
    from gcloud_ops.local import cloud_folder, read_cloud

    folder = cloud_folder()
    running = read_cloud(folder) is not None
    question = f"{'Stop the local cloud' if running else 'Go on'} and remove all of {folder}?"
    if not confirm(question, yes=yes):
        return ExitCode.USAGE
    if running and (code := _emulator("stop")):
        return code
    return _emulator("wipe")


@local.command(name="befall")
def local_befall(
    mishap: str,
    /,
    *instances: str,
    grace: float | None = None,
    seconds: float | None = None,
    session: GivenSession,
) -> int:
    """Rehearse: have something go wrong on the local cloud, and see what becomes of a sweep.

    With instances: preempt, expire, kill (their host fails), kill-container, refuse-ssh, hang-ssh,
    cut-ssh, disk-full. With the whole cloud: stock-out and stock-in (no room for more VMs; room
    again), quota-out and quota-in, cut-iap.

    Args:
        mishap: What.
        instances: The names of those that it befalls.
        grace: Seconds from the notice of a preemption to its end. [30]
        seconds: Seconds until refuse-ssh, hang-ssh or disk-full is over again. [never]
    """
    given = {"--grace": grace, "--seconds": seconds}
    how = [f"{flag}={value}" for flag, value in given.items() if value is not None]
    form = ["--output=json"] if session.common.output == "json" else []
    return _emulator("befall", mishap, *instances, *how, *form)


@local.command(name="folder")
def local_folder() -> None:
    """Print the folder of the local cloud's state and results."""
    from gcloud_ops.local import cloud_folder

    sys.stdout.write(f"{cloud_folder()}\n")


def _emulator(*words: str) -> int:
    from gcloud_ops.local import emulator

    return emulator(*words)
