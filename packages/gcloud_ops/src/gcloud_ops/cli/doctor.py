"""`gcloud-ops doctor`: what may keep a sweep from running."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gcloud_ops.cli.app import GivenSession, Session

if TYPE_CHECKING:
    from gcloud_ops.model import Sweep

__all__ = ["doctor", "may_launch"]


def doctor(file: Path | None = None, /, *, session: GivenSession) -> int:
    """See whether sweeps can run: credentials, permissions, quota, bucket, image...

    Nothing is changed. Each finding is ok, a warning (it runs, but something is amiss or unknown)
    or a problem (it would fail), and says what to do. The exit code is 1 when there is a problem.

    Args:
        file: A sweep file: the quota is compared with what the whole sweep needs, and its zone,
            template and bucket are looked at.
    """
    from gcloud_ops import doctor as examining
    from gcloud_ops.cli import output
    from gcloud_ops.sweepfile import read_sweep
    from gcloud_ops.text import one_line

    sweep = read_sweep(file) if file is not None else None
    found = []
    for finding in examining.examine(session.clients, sweep=sweep):
        found.append(finding)
        if session.common.output == "table":
            line = one_line(f"{finding.name}: {finding.message}", limit=1000)
            sys.stdout.write(f"{finding.level:<8} {line}\n")
            if finding.advice:
                sys.stdout.write(f"         -> {one_line(finding.advice, limit=1000)}\n")
            sys.stdout.flush()
    if session.common.output != "table":
        columns: output.Columns[examining.Finding] = output.Columns(
            ("LEVEL", "NAME", "MESSAGE", "ADVICE"),
            lambda it: (it.level, it.name, it.message, it.advice),
        )
        session.emit(found, columns)
    problems = sum(one.level == "problem" for one in found)
    warnings = sum(one.level == "warning" for one in found)
    output.say(f"{len(found)} findings: {problems} problems, {warnings} warnings")
    return output.ExitCode.EXPERIMENTS_FAILED if problems else output.ExitCode.DONE


def may_launch(session: Session, sweep: "Sweep", *, asks: bool, yes: bool) -> bool:
    """Tell what would stop a sweep at once; whether it is to be launched.

    Args:
        session: Where to look.
        sweep: The sweep.
        asks: Whether to ask about what may pass by itself: quota, which others give back.
        yes: The answer, given beforehand.
    """
    from gcloud_ops import doctor as examining
    from gcloud_ops.cli import output
    from gcloud_ops.text import one_line

    found = examining.blocking(session.clients, sweep)
    for finding in found:
        output.say(one_line(f"{finding.name}: {finding.message} ({finding.advice})", limit=1000))
    if any(not finding.may_pass for finding in found):
        return False
    question = "Launch all the same? What finds no place waits, and is shown with the reason."
    return not found or (asks and output.confirm(question, yes=yes))
