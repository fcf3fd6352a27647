"""The command `sinergym-tui`: settings from flags, then the console."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from sinergym_tui.app import Console
    from sinergym_tui.fleet import Fleet

__all__ = ["app", "main", "run_console"]

_SWITCH = 0.001  # seconds until a thread gives way to another

app = App(
    name="sinergym-tui",
    help="A console for sweeps of Sinergym experiments: launch, watch, read logs, cancel.",
    version_flags=["--version"],
)


@app.default
def console(
    *,
    local: Annotated[bool, Parameter(negative="")] = False,
    project: Annotated[str | None, Parameter(name=["--project", "-id"])] = None,
    zone: Annotated[str | None, Parameter(name=["--zone", "-zo"])] = None,
    bucket: str | None = None,
    endpoint: str | None = None,
    read_only: Annotated[bool, Parameter(negative="")] = False,
    serve: Annotated[bool, Parameter(negative="")] = False,
    port: int = 8000,
) -> int:
    """Open the console.

    Args:
        local: Work on the local cloud; starts it, or joins the one that runs.
        project: Project on Google Cloud.
        zone: Zone of new sweeps.
        bucket: Bucket of the sweeps.
        endpoint: Another cloud than Google's, such as http://127.0.0.1:8080.
        read_only: Look, and change nothing.
        serve: Show it in a browser on this machine, and nowhere else.
        port: Where --serve listens, on 127.0.0.1.
    """
    from textual.theme import BUILTIN_THEMES

    from gcloud_ops.errors import GcloudOpsError
    from gcloud_ops.settings import Settings
    from sinergym_tui.app import Console
    from sinergym_tui.config import console_file, read_config

    flags = {"project": project, "zone": zone, "bucket": bucket, "endpoint": endpoint}
    try:
        settings = Settings.load(flags=flags)
        named = "SINERGYM_TUI_CONFIG" in os.environ
        config = read_config(console_file(), themes=BUILTIN_THEMES, required=named)
    except GcloudOpsError as error:
        _say(str(error))
        return 2
    if serve:
        words = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        words += ["--local"] * local + ["--read-only"] * read_only
        return _serve(words, port)

    def connect(tell: Callable[[str], None]) -> "Fleet":
        from sinergym_tui.fleet import Fleet

        chosen = settings
        if local:
            tell("starting the local cloud …")
            from gcloud_ops.local import local_settings

            chosen = local_settings(settings)
        tell("connecting …")
        return Fleet.connect(chosen, read_only=read_only)

    return run_console(Console(connect, read_only=read_only, folder=Path.cwd(), config=config))


def _serve(words: list[str], port: int) -> int:
    import shlex

    from sinergym_tui.serving import LoopbackServer

    command = shlex.join([sys.executable, "-m", "sinergym_tui", *words])
    try:
        LoopbackServer(command, port=port, say=_say).serve()
    except (OSError, OverflowError) as error:
        _say(f"--port {port}: {error}")
        return 2
    return 0


def _say(line: str) -> None:
    """To the terminal, before there is a console on it: one line, cleaned."""
    from gcloud_ops.text import one_line

    print(f"sinergym-tui: {one_line(line, limit=2000)}", file=sys.stderr, flush=True)


def run_console(console: "Console") -> int:
    """Run it on this terminal until somebody leaves; returns the exit code."""
    import asyncio
    import gc
    import signal
    from contextlib import suppress

    # A look at 1,000 experiments makes and drops a million objects, in a thread: keys must not
    # wait for a collection of all that lives, nor for a thread that gives way every 5 ms only.
    gc.freeze()
    gc.set_threshold(50_000, 20, 10)
    sys.setswitchinterval(_SWITCH)

    # `asyncio.run` would wait for the threads that are asking the cloud just now, for a minute
    # where it doesn't answer. The terminal is given back before; nobody should wait after that.
    loop = asyncio.new_event_loop()
    with suppress(NotImplementedError):  # Windows has no such signal
        loop.add_signal_handler(signal.SIGTERM, console.end, 128 + signal.SIGTERM)
    code = console.run(loop=loop)
    return console.return_code or 0 if code is None else code


def main() -> None:
    """Entry point of `sinergym-tui`."""
    code = app(result_action="return_value")
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread is not threading.main_thread() for thread in threading.enumerate()):
        os._exit(code if isinstance(code, int) else 0)
    sys.exit(code)
