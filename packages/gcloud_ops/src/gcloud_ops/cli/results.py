"""`gcloud-ops sweep results | compare`: what was learned; `sweep` with these two commands more."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from typing import Annotated

from cyclopts import Parameter

from gcloud_ops.cli.app import GivenSession
from gcloud_ops.cli.sweeps import sweep

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
