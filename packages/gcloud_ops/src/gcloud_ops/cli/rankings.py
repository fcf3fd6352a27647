"""How leaderboards and comparisons look as tables."""

from collections.abc import Callable

from gcloud_ops.cli.output import Columns
from gcloud_ops.results import Comparison, Interval, Ranking

__all__ = ["COMPARISONS", "rankings"]


def rankings(*, of_one_sweep: bool) -> Columns[Ranking]:
    """How lines of a leaderboard look; of several sweeps, each with its sweep's name."""
    headers = ("CONFIGURATION", "RUNS", "IQM", "95 % INTERVAL", "MEAN", "BEST RUN")

    def cells(line: Ranking) -> tuple[object, ...]:
        return (
            line.label,
            f"{len(line.values)}/{len(line.experiments)}",
            _figure(line.iqm),
            _interval(line.interval, _figure),
            _figure(line.mean),
            line.best,
        )

    if of_one_sweep:
        return Columns(headers, cells)
    return Columns(("SWEEP", *headers), lambda line: (line.sweep, *cells(line)))


COMPARISONS: Columns[Comparison] = Columns(
    ("CONFIGURATION", "FIRST", "SECOND", "DIFFERENCE", "SECOND IS BETTER", "95 % INTERVAL"),
    lambda one: (
        one.label,
        _figure(one.first.iqm),
        _figure(one.second.iqm),
        _difference(one),
        _percent(one.improvement),
        _interval(one.interval, _percent),
    ),
)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _interval(found: Interval | None, show: Callable[[float | None], str]) -> str:
    return "" if found is None else f"{show(found.low)} to {show(found.high)}"


def _difference(one: Comparison) -> str:
    if one.first.iqm is None or one.second.iqm is None:
        return ""
    return f"{one.second.iqm - one.first.iqm:+.2f}"
