"""`gcloud-ops sweep results | compare | reproduce`: what was learned, and whether it holds."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gcloud_ops.cli.app import SWITCH, GivenSession, Yes
from gcloud_ops.cli.sweeps import Watch, launch_described, sweep

__all__ = ["sweep"]

Metric = Annotated[str, Parameter(name=["--metric", "-m"])]


@sweep.command(name="results")
def sweep_results(name: str, /, *, metric: Metric = "mean_reward", session: GivenSession) -> None:
    """Rank a sweep's configurations: runs that differ in their --seed only are one line.

    IQM is the interquartile mean of the runs, with a bootstrap interval where there are three or
    more (as in rliable). What failed does not count; what still runs counts with what it has.

    Args:
        name: The sweep's name.
        metric: What to rank by: a number that the experiments report; higher is better.
    """
    from gcloud_ops import results, sweeps
    from gcloud_ops.cli.rankings import rankings

    seen = sweeps.status(name, session.clients)
    session.emit(results.leaderboard(seen, metric=metric), rankings(of_one_sweep=True))


@sweep.command(name="compare")
def sweep_compare(
    first: str, second: str, /, *, metric: Metric = "mean_reward", session: GivenSession
) -> None:
    """Compare two sweeps: the configurations that both have, then all on one leaderboard.

    Args:
        first: A sweep's name.
        second: Another sweep's name.
        metric: What to compare by: a number that the experiments report; higher is better.
    """
    from gcloud_ops import results, sweeps
    from gcloud_ops.cli.output import as_json, dump
    from gcloud_ops.cli.rankings import COMPARISONS, rankings

    pair = [sweeps.status(name, session.clients) for name in (first, second)]
    comparisons, board = results.compare(*pair, metric=metric)
    if session.common.output == "json":
        sys.stdout.write(dump(as_json({"comparisons": comparisons, "leaderboard": board})))
        return
    if comparisons and session.common.output == "table":
        session.emit(comparisons, COMPARISONS)
        sys.stdout.write("\n")
    session.emit(board, rankings(of_one_sweep=False))


@sweep.command(name="reproduce")
def sweep_reproduce(
    name: str,
    /,
    *,
    new_name: str | None = None,
    dry_run: Annotated[bool, SWITCH] = False,
    watch: Watch = False,
    pull: Path | None = None,
    yes: Yes = False,
    session: GivenSession,
) -> int:
    """Launch a sweep again as it was: commands, image by its digest, machines, limits, retries.

    What may make results differ all the same is said. `sweep compare` sets the two against each
    other.

    Args:
        name: The sweep's name.
        new_name: Of the new one. [the next free NAME-2, NAME-3...]
        dry_run: Show the plan and its cost, and make nothing.
        watch: Stay until the end, and report it.
        pull: Download the results to PULL/SWEEP at the end; implies --watch.
        yes: Don't ask.
    """
    from gcloud_ops import launching
    from gcloud_ops.bucket import list_records, read_manifest
    from gcloud_ops.cli.output import say
    from gcloud_ops.reproducing import as_launched, remarks

    where = session.common.bucket or session.settings.bucket_name
    manifest = read_manifest(session.clients, where, name)
    records = list_records(session.clients, where, name)
    for line in remarks(manifest, records, bucket=where):
        say(f"{name}: {line}")
    free = new_name or launching.free_name(name, session.clients, bucket=where)
    described = as_launched(manifest, free, bucket=session.common.bucket)
    return launch_described(
        session, described, dry_run=dry_run, watch=watch, pull=pull, yes=yes, patience=None
    )
