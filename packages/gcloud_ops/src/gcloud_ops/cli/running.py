"""How a command line becomes a call: the same for all commands of ours."""

from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App
from cyclopts.exceptions import CycloptsError

__all__ = ["run_line"]


def run_line(
    app: App,
    arguments: Sequence[str],
    *,
    program: str,
    split: Callable[..., Any],
    session: Callable[[Any], Any],
    rest: Sequence[str] = (),
) -> int:
    """Parse a command line and carry it out; returns its exit code.

    Args:
        app: The commands, with a meta app that takes the global options.
        arguments: The command line.
        program: Its name, for messages.
        split: What the meta app calls with words that are left and the global options.
        session: Makes what commands call `session` of the global options.
        rest: More words, which are no options of ours.
    """
    try:
        command, bound, _ = app.meta.parse_args(
            list(arguments), exit_on_error=False, print_error=False
        )
        if command is not split:  # --help, --version
            command(*bound.args, **bound.kwargs)
            return 0
        words, common = command(*bound.args, **bound.kwargs)
        command, bound, ignored = app.parse_args(
            [*words, *rest], exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        return _usage_error(program, error)
    if "session" in ignored:
        bound.arguments["session"] = session(common)

    from gcloud_ops.cli.output import under_guard

    return under_guard(program, lambda: command(*bound.args, **bound.kwargs) or 0)


def _usage_error(program: str, error: CycloptsError) -> int:
    from gcloud_ops.cli.output import ExitCode, say
    from gcloud_ops.text import one_line

    say(f"{program}: {one_line(str(error))} (see `{program} --help`)")
    return ExitCode.USAGE
