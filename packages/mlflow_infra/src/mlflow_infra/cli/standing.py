"""`status`, `url`, `credentials`, `logs`: look at the server, and get at it."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mlflow_infra.cli.app import PROGRAM, SWITCH, GivenSession, Session

if TYPE_CHECKING:
    from mlflow_infra.operations import Check

__all__ = ["credentials", "logs", "status", "url"]


def status(*, session: GivenSession) -> int:
    """Ask from outside whether all is well; exit code 0 only if it is.

    Each resource, then the server as its users reach it: health, version, that it asks for a
    password, the trainers' login, the database, and a file to the artifact store and back.
    """
    from gcloud_ops.cli import output
    from mlflow_infra import operations

    checks: list[Check] = []
    for check in operations.check(session.clients, session.infra):
        checks.append(check)
        if sys.stderr.isatty() and session.common.output == "table" and not sys.stdout.isatty():
            output.say(f"{check.name}: {check.detail}")
    is_good = all(check.is_good for check in checks)
    if session.common.output == "json":
        about = {"project": session.clients.project, "is_good": is_good}
        sys.stdout.write(output.dump({**about, "checks": output.as_json(checks)}))
    else:
        rows = [
            (
                check.name,
                "well" if check.is_good else "NOT WELL",
                "" if check.seconds is None else f"{check.seconds * 1000:.0f} ms",
                check.detail,
            )
            for check in checks
        ]
        sys.stdout.write(output.table(("CHECK", "STATUS", "TIME", "DETAIL"), rows))
    bad = [check.name for check in checks if not check.is_good]
    output.say("all is well" if is_good else f"not well: {', '.join(bad)}")
    return output.ExitCode.DONE if is_good else output.ExitCode.EXPERIMENTS_FAILED


def url(*, session: GivenSession) -> None:
    """Print the tracking URI: what MLFLOW_TRACKING_URI is set to, and the web page's address."""
    from gcloud_ops.cli.output import dump
    from mlflow_infra import operations

    uri = operations.tracking_uri(session.clients, session.infra)
    sys.stdout.write(dump({"url": uri}) if session.common.output == "json" else f"{uri}\n")


def credentials(
    who: Literal["admin", "trainer"] = "trainer",
    /,
    *,
    show: Annotated[bool, SWITCH] = False,
    export: Annotated[bool, SWITCH] = False,
    session: GivenSession,
) -> None:
    r"""Print the name and password of a user; only to a terminal, or with --show.

    For a shell that is to log as that user: eval "$(mlflow-infra credentials --export)".

    Args:
        who: Which user: admin may do all, trainer may log runs.
        show: Print the password also where standard output is no terminal.
        export: Print lines for a shell: MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD.
    """
    from gcloud_ops.cli.output import dump, table
    from gcloud_ops.errors import InvalidRequest
    from mlflow_infra import operations

    if not (show or export or sys.stdout.isatty()):
        raise InvalidRequest(
            "standard output is no terminal, so the password is not printed",
            hint="say --show, or --export for a shell to evaluate",
        )
    user = operations.login(session.clients, session.infra, who)
    uri = operations.tracking_uri(session.clients, session.infra)
    if export:
        sys.stdout.write(operations.exports(uri, user))
    elif session.common.output == "json":
        fields = {"url": uri, "username": user.username, "password": user.password}
        sys.stdout.write(dump(fields))
    else:
        rows = [(user.username, user.password, uri)]
        sys.stdout.write(table(("USER", "PASSWORD", "URL"), rows))


def logs(
    *,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative=(), show_default=False)
    ] = False,
    lines: int | None = None,
    boot: Annotated[bool, SWITCH] = False,
    session: GivenSession,
) -> None:
    """Print the log of the server's container, read over SSH; or, with --boot, that of its VM.

    Where SSH doesn't get through, it is the VM's: its serial port, which needs no way in.

    Args:
        follow: Go on while it grows, until Ctrl-C.
        lines: Only so many last lines.
        boot: The VM's serial port: how it booted, and why the server didn't start.
    """
    import asyncio

    from gcloud_ops.cli.output import LogPrinter, say
    from gcloud_ops.errors import (
        ContainerFailed,
        GcloudOpsError,
        HostKeyMismatch,
        InvalidRequest,
        NotFound,
    )
    from gcloud_ops.text import one_line
    from mlflow_infra import operations

    if lines is not None and lines < 0:
        raise InvalidRequest("--lines: a number of lines, 0 or more")
    printer = LogPrinter("", prefixed=False, form=session.common.output)
    printed = False

    async def of_container() -> None:
        nonlocal printed
        log = operations.container_log(session.clients, session.infra, follow=follow, lines=lines)
        async for chunk in log:
            printed = True
            printer.print("", chunk)

    try:
        if not boot:
            try:
                asyncio.run(of_container())
                return
            except (HostKeyMismatch, NotFound):
                raise
            except GcloudOpsError as error:
                if printed:
                    raise
                why = "no container yet" if isinstance(error, ContainerFailed) else "no SSH"
                say(f"{PROGRAM}: {why}: {one_line(str(error))}; this is the VM's serial port")
        _print_boot(session, printer, follow=follow, lines=lines)
    finally:
        printer.close()


def _print_boot(session: Session, printer: object, *, follow: bool, lines: int | None) -> None:
    from gcloud_ops.cli.output import LogPrinter
    from mlflow_infra import operations

    assert isinstance(printer, LogPrinter)  # noqa: S101 (for the type checker)
    for position, found in enumerate(
        operations.boot_log(session.clients, session.infra, follow=follow)
    ):
        chunk = found
        if position == 0 and lines is not None:
            chunk = b"".join(found.splitlines(keepends=True)[-lines:] if lines else [])
        printer.print("", chunk)
