"""`gcloud-ops reap`: what is left over on Compute Engine, what it costs, and away with it."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gcloud_ops.cli.app import GivenSession, Session, Yes

if TYPE_CHECKING:
    from gcloud_ops.reaping import Orphan

__all__ = ["reap"]


def reap(*names: str, yes: Yes = False, session: GivenSession) -> int:
    """List what is ours, costs or hangs, and should not be there; with --yes, remove it.

    Groups and instances whose experiments have ended, templates, disks and addresses that nothing
    uses. A sweep that may still do something is never among them. Without --yes nothing changes.

    Args:
        names: Only what is called so. None means all.
        yes: Remove it.
    """
    from gcloud_ops import prices, reaping
    from gcloud_ops.cli.output import ExitCode, as_json, dollars, dump, exit_code_for, say
    from gcloud_ops.errors import NotFound

    clients = session.clients
    found = reaping.find(clients, prices=prices.load(), tell=say)
    if unknown := sorted(set(names) - {one.name for one in found}):
        raise NotFound(f"{unknown[0]} is not among what is left over", resource=unknown[0])
    found = tuple(one for one in found if not names or one.name in names)
    daily = sum(one.daily or 0.0 for one in found)
    left = reaping.remove(clients, found, say) if yes else None
    if session.common.output == "json":
        staying = None if left is None else [as_json(one) for one in left]
        content = {"orphans": as_json(found), "daily": daily, "left": staying}
        sys.stdout.write(dump(content))
    elif found and not yes:
        _list(session, found)
    if not found:
        say("nothing is left over")
        return ExitCode.DONE
    more = "" if all(one.daily is not None for one in found) else ", and what has no price here"
    cost = f"{dollars(daily)} a day{more}"
    if left is None:
        again = session.command(" ".join(["reap", *names, "--yes"]))
        say(f"{len(found)} left over, {cost}: remove them with `{again}`")
        return ExitCode.DONE
    if left:
        say(f"{len(left)} of {len(found)} stay; `{session.command('reap --yes')}` tries again")
        return exit_code_for(left[0].error)
    say(f"removed what cost {cost}")
    return ExitCode.DONE


def _list(session: Session, found: "Sequence[Orphan]") -> None:
    from gcloud_ops.cli.output import Columns, dollars

    columns: Columns[Orphan] = Columns(
        ("KIND", "NAME", "WHERE", "A DAY", "WHY"),
        lambda it: (
            it.kind,
            it.name,
            it.where,
            "?" if it.daily is None else dollars(it.daily),
            it.why,
        ),
    )
    session.emit(found, columns)
