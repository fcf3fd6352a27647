"""`gcloud-ops local`: the local cloud that `--local` works on."""

import sys

from cyclopts import App

from gcloud_ops.cli.app import Yes

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


@local.command(name="folder")
def local_folder() -> None:
    """Print the folder of the local cloud's state and results."""
    from gcloud_ops.local import cloud_folder

    sys.stdout.write(f"{cloud_folder()}\n")


def _emulator(command: str) -> int:
    from gcloud_ops.local import emulator

    return emulator(command)
