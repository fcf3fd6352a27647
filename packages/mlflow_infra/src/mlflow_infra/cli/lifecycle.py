"""`up`, `restart`, `upgrade` and `down`: what changes the server."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from mlflow_infra.cli.app import PROGRAM, SWITCH, GivenSession, Session, Yes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow_infra.plan import Finding, Plan
    from mlflow_infra.wanted import Infrastructure

__all__ = ["down", "restart", "up", "upgrade"]

PASSWORD_VARIABLE: Final = "DB_ROOT_PASSWORD"

_APIS = "APIs"  # they stay enabled: others use them too
_NONE = "none"
_EVERYBODY = "0.0.0.0/0"


def up(
    *,
    plan: Annotated[bool, SWITCH] = False,
    source_range: Annotated[list[str], Parameter(show_default=False, negative=())] = [],  # noqa: B006 (cyclopts only reads it)
    trainer_account: str | None = None,
    image: str | None = None,
    machine_type: str | None = None,
    tier: str | None = None,
    db_root_password: Annotated[
        str | None, Parameter(name="--DB_ROOT_PASSWORD", allow_leading_hyphen=True)
    ] = None,
    patience: float = 900,
    yes: Yes = False,
    session: GivenSession,
) -> int:
    """Bring up the tracking server, or what of it is missing; what is there is left alone.

    May be run again at any time, also after an interruption: options that were given before hold
    without being repeated.

    Args:
        plan: Show what is there, what would be made, and what it costs a month; change nothing.
        source_range: Who may reach the server from outside, such as 203.0.113.7/32; may be
            repeated. "none": nobody but the trainers. On the local cloud 127.0.0.1/32.
        trainer_account: Service account that the trainers run as; else Compute Engine's default.
        image: The server's image. [REGION-docker.pkg.dev/PROJECT/sinergym/mlflow-server:latest]
        machine_type: Machine type of the server. [e2-medium]
        tier: Machine type of the database. [db-f1-micro]
        db_root_password: Password for the database; one is generated where none is given. "-"
            reads it from standard input. [$DB_ROOT_PASSWORD]
        patience: Seconds to wait at the end until the server is well; 0 doesn't wait.
        yes: Don't ask.
    """
    from gcloud_ops.cli import output
    from gcloud_ops.cli.output import ExitCode
    from gcloud_ops.cli.steps import showing, tell_drift
    from mlflow_infra import operations
    from mlflow_infra import plan as planning

    given = operations.Given(
        zone=session.common.zone,
        bucket=session.common.bucket,
        image=image,
        source_ranges=_source_ranges(source_range),
        trainer_account=trainer_account,
        tier=tier,
        machine_type=machine_type,
    )
    password = None if plan else _password(db_root_password)
    infra = operations.wanted(session.clients, given, only_look=plan)
    if _EVERYBODY in infra.source_ranges:
        output.say(
            f"{PROGRAM}: {_EVERYBODY}: the whole Internet may try to log in, and what is sent "
            "there is not encrypted"
        )

    looked = planning.look(session.clients, infra, database_password=password)
    if plan:
        _print_plan(session, infra, looked)
        return ExitCode.DONE
    tell_drift(PROGRAM, looked)
    if looked.changes and not session.common.local:
        for finding in looked.changes:
            output.say(f"  {finding.what}: {finding.change}")
        question = f"Make this in project {infra.project}, for {_cost(looked)}?"
        if not output.confirm(question, yes=yes):
            return ExitCode.USAGE
    try:
        with showing() as tell:
            planning.up(session.clients, infra, tell=tell, database_password=password)
        return _tell_up(session, infra, patience)
    except KeyboardInterrupt:
        output.say(
            f"{PROGRAM}: interrupted; what is made stays, `{session.command('up')}` goes on and "
            f"`{session.command('down')}` removes it"
        )
        return ExitCode.INTERRUPTED


def restart(*, session: GivenSession) -> None:
    """Restart the server's VM, and wait until the server is well."""
    from gcloud_ops.cli.output import say
    from mlflow_infra import operations

    seconds = operations.restart(session.clients, session.infra, tell=say)
    session.emit_outcome({"seconds": seconds})
    say(f"well again after {seconds:.0f} s")


def upgrade(
    image: str, /, *, patience: float = 900, yes: Yes = False, session: GivenSession
) -> int:
    """Move to another image of the server: backup, schema upgrade, start, health check.

    The server is away meanwhile. When the new one isn't well, the old one and the database of
    before are put back, and the exit code is 5.

    Args:
        image: The new image, best with a tag or digest of its own.
        patience: Seconds that the new server may take to be well, and the old one after it.
        yes: Don't ask.
    """
    from gcloud_ops.cli import output
    from mlflow_infra import operations

    infra = session.infra
    question = f"Move {infra.image} to {image}? Trainings can't log for some minutes."
    if not output.confirm(question, yes=yes):
        return output.ExitCode.USAGE
    try:
        done = operations.upgrade(session.clients, infra, image, tell=output.say, seconds=patience)
    except KeyboardInterrupt:
        output.say(
            f"{PROGRAM}: interrupted; the server may be stopped: run the same command again, or "
            f"`{session.command('restart')}` (backups: `{session.command('backup --list')}`)"
        )
        return output.ExitCode.INTERRUPTED
    if session.common.output == "json":
        sys.stdout.write(output.dump(output.as_json(done)))
    output.say(
        f"{done.image} is well after {done.seconds:.0f} s; the database of before is backup "
        f"{done.backup}"
    )
    return output.ExitCode.DONE


def down(
    *,
    delete_data: Annotated[bool, SWITCH] = False,
    yes: Yes = False,
    session: GivenSession,
) -> int:
    """Remove the server; its data (database, artifacts, secrets) stay.

    Args:
        delete_data: Remove the data as well: runs, metrics, artifacts, backups, for good.
        yes: Don't ask for names.
    """
    from gcloud_ops.cli import output
    from gcloud_ops.cli.steps import showing
    from mlflow_infra import operations
    from mlflow_infra import plan as planning
    from mlflow_infra.wanted import SERVER

    infra = operations.found_or_default(session.clients, bucket=session.common.bucket)
    looked = planning.look(session.clients, infra)
    there = [it for it in looked.findings if it.state != "missing" and it.what != _APIS]
    going = [it for it in there if delete_data or not it.holds_data]
    staying = [it for it in there if it not in going]
    if not going:
        output.say(f"there is nothing to remove in project {infra.project}")
        _tell_staying(staying)
        session.emit_outcome(_removed(going, staying))
        return output.ExitCode.DONE
    for finding in going:
        output.say(f"will be removed: {finding.what}")
    _tell_staying(staying)
    if not (
        _typed(SERVER, yes=yes, what="To remove this")
        and (
            not delete_data
            or _typed(infra.bucket, yes=yes, what="To delete all runs and artifacts for good")
        )
    ):
        output.say("nothing was removed")
        return output.ExitCode.USAGE
    try:
        with showing("nothing to remove") as tell:
            planning.down(session.clients, infra, delete_data=delete_data, tell=tell)
    except KeyboardInterrupt:
        words = "down --delete-data" if delete_data else "down"
        output.say(f"{PROGRAM}: interrupted; `{session.command(words)}` goes on")
        return output.ExitCode.INTERRUPTED
    session.emit_outcome(_removed(going, staying))
    output.say("removed" if not staying else "removed; the data are kept")
    return output.ExitCode.DONE


# ----------------------------------------------------------------------------- arguments


def _source_ranges(words: "Sequence[str]") -> tuple[str, ...] | None:
    from gcloud_ops.errors import InvalidRequest

    if not words:
        return None
    if _NONE in words:
        if len(words) > 1:
            raise InvalidRequest(f"--source-range {_NONE} stands for itself")
        return ()
    return tuple(word if "/" in word else f"{word}/32" for word in words)


def _password(option: str | None) -> str | None:
    """The database's password, from where it was given; None: it is generated."""
    from gcloud_ops.cli.output import say
    from gcloud_ops.errors import InvalidRequest

    if option == "-":
        found: str | None = sys.stdin.readline().rstrip("\r\n")
    elif option is not None:
        say(
            f"{PROGRAM}: --{PASSWORD_VARIABLE}: other users of this machine can read a command "
            f"line; give -, or set ${PASSWORD_VARIABLE}"
        )
        found = option
    else:
        found = os.environ.get(PASSWORD_VARIABLE)
        if not found:
            return None
    if not found or not found.isprintable():
        raise InvalidRequest(f"--{PASSWORD_VARIABLE}: a password of one line is needed")
    return found


def _typed(name: str, *, yes: bool, what: str) -> bool:
    """Whether somebody typed the name."""
    from gcloud_ops.errors import InvalidRequest

    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequest(
            "there is no terminal to ask on", hint="say --yes if this is what you want"
        )
    sys.stderr.write(f"{what}, type {name}: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == name


# ------------------------------------------------------------------------------- telling


def _tell_staying(findings: "Sequence[Finding]") -> None:
    from gcloud_ops.cli.output import say

    for finding in findings:
        say(f"stays: {finding.what}")


def _removed(going: "Sequence[Finding]", staying: "Sequence[Finding]") -> dict[str, list[str]]:
    return {"removed": [it.what for it in going], "kept": [it.what for it in staying]}


def _cost(looked: "Plan") -> str:
    from mlflow_infra.prices import PRICES

    return f"about ${looked.monthly:.2f} a month (prices of {PRICES.date}, without traffic)"


def _print_plan(session: Session, infra: "Infrastructure", looked: "Plan") -> None:
    from gcloud_ops.cli import output

    if session.common.output == "json":
        about = {"infrastructure": output.as_json(infra), "monthly": looked.monthly}
        sys.stdout.write(output.dump({**about, "findings": output.as_json(looked.findings)}))
        return
    rows = [
        (
            finding.what,
            finding.state,
            "?" if finding.monthly is None else f"{finding.monthly:.2f}",
            "; ".join(finding.differences),
        )
        for finding in looked.findings
    ]
    sys.stdout.write(output.table(("RESOURCE", "STATE", "$ A MONTH", "DIFFERENCES"), rows))
    changes = looked.changes
    output.say(
        f"project {infra.project}, zone {infra.zone}, bucket {infra.bucket}, image {infra.image}"
    )
    output.say(f"who may reach it: {', '.join(infra.source_ranges) or 'only the trainers'}")
    output.say(_cost(looked))
    output.say(f"{len(changes)} to make or mend" if changes else "nothing to do")


def _tell_up(session: Session, infra: "Infrastructure", patience: float) -> int:
    """Wait until the server answers, and say where it is."""
    from gcloud_ops.cli import output
    from gcloud_ops.errors import Unavailable
    from mlflow_infra import operations

    uri = operations.tracking_uri(session.clients, infra)
    code = output.ExitCode.DONE
    if patience > 0 and infra.source_ranges:
        output.say(f"waiting for {uri}")
        try:
            operations.wait_until_healthy(uri, seconds=patience)
        except Unavailable as error:
            output.say(
                f"{PROGRAM}: all is made, but from here it is {error.message} "
                f"(`{session.command('logs')}` tells why; is this machine in "
                f"{', '.join(infra.source_ranges)}?)"
            )
            code = output.ExitCode.UNAVAILABLE
    if session.common.output == "json":
        sys.stdout.write(output.dump({"url": uri, "project": infra.project}))
    else:
        sys.stdout.write(f"{uri}\n")
    output.say(f"users and passwords: `{session.command('credentials admin')}`")
    return code
