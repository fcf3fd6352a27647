"""`gcloud-ops local`: the local cloud that `--local` works on."""

import sys

from cyclopts import App

__all__ = ["local"]

local = App(name="local", help="The local cloud that --local works on.")


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
