"""What was learned: the leaderboard, and curves taken together over seeds. Pure."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

from gcloud_ops.text import one_line
from sinergym_tui.views.cells import Cell, Column, number_text
from sinergym_tui.views.experiment import Curve

if TYPE_CHECKING:
    from gcloud_ops.results import Comparison, Ranking

__all__ = ["RANKING_COLUMNS", "Band", "Ranked", "band_of", "bands_of", "range_bar", "ranked"]

RANKING_COLUMNS: Final = (
    Column(key="place", title="#", width=3, rank=0, is_right=True),
    Column(key="label", title="Configuration", width=18, rank=1, most=44),
    Column(key="sweep", title="Sweep", width=10, rank=6, most=20),
    Column(key="iqm", title="IQM", width=8, rank=2, is_right=True),
    Column(key="interval", title="95 % interval", width=19, rank=4),
    Column(key="bar", title="Where it lies", width=14, rank=5, most=24),
    Column(key="runs", title="Runs", width=5, rank=3, is_right=True),
    Column(key="better", title="Better", width=6, rank=7, is_right=True),
    Column(key="best", title="Best run", width=10, rank=8, grows=True),
)
_POINTS: Final = 60  # of a curve of several runs together
_BAR: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A line of the leaderboard."""

    place: int
    ranking: "Ranking"
    bounds: tuple[float, float] | None
    """What the bars of all lines reach over."""
    better: float | None
    """Probability that a run of the other sweep's same configuration is better."""

    @property
    def key(self) -> str:
        """What it is known by."""
        return f"{self.ranking.sweep} {' '.join(self.ranking.configuration.words)}"

    @property
    def cells(self) -> tuple[Cell, ...]:
        """In the order of `RANKING_COLUMNS`."""
        found, interval = self.ranking, self.ranking.interval
        reach = (
            f"{number_text(interval.low)} … {number_text(interval.high)}"
            if interval
            else "too few runs"
        )
        return (
            Cell(str(self.place), "muted"),
            Cell(one_line(found.label), "strong"),
            Cell(one_line(found.sweep), "muted"),
            Cell(number_text(found.iqm), "good" if self.place == 1 and found.values else ""),
            Cell(reach, "" if interval else "muted"),
            Cell(range_bar(found, self.bounds), "busy"),
            Cell(f"{len(found.values)}/{len(found.experiments)}", "muted"),
            Cell("" if self.better is None else f"{self.better * 100:.0f} %", "waiting"),
            Cell(one_line(found.best) or "-", "muted"),
        )

    @property
    def texts(self) -> dict[str, str]:
        """What a query can find, by column."""
        return {
            "": self.ranking.label,
            "label": self.ranking.label,
            "sweep": self.ranking.sweep,
            "best": self.ranking.best,
        }

    def value(self, column: str) -> object:
        """What it is ordered by."""
        match column:
            case "place":
                return self.place
            case "iqm" | "bar":
                return self.ranking.iqm
            case "interval":
                interval = self.ranking.interval
                return interval.high - interval.low if interval else None
            case "runs":
                return len(self.ranking.values)
            case "better":
                return self.better
        return self.texts.get(column)


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """How the reward of one configuration went: its runs taken together at the same steps."""

    label: str
    runs: int
    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    """First quartile."""
    high: tuple[float, ...]
    """Third quartile."""


def ranked(
    rankings: "Sequence[Ranking]", comparisons: "Iterable[Comparison]" = ()
) -> tuple[Ranked, ...]:
    """The lines of a leaderboard, with bars on one scale."""
    ends = [value for one in rankings for value in one.values]
    ends += [
        end for one in rankings if one.interval for end in (one.interval.low, one.interval.high)
    ]
    bounds = (min(ends), max(ends)) if ends else None
    better = {one.first.configuration: one.improvement for one in comparisons}
    firsts = {(one.first.sweep, one.first.configuration) for one in comparisons}
    return tuple(
        Ranked(
            place=place,
            ranking=one,
            bounds=bounds,
            better=better.get(one.configuration)
            if (one.sweep, one.configuration) in firsts
            else None,
        )
        for place, one in enumerate(rankings, 1)
    )


def range_bar(ranking: "Ranking", bounds: tuple[float, float] | None, width: int = _BAR) -> str:
    """The interval as a bar with the interquartile mean in it; without one, the values."""
    if bounds is None or ranking.iqm is None:
        return ""
    low, high = bounds
    scale = (width - 1) / (high - low) if high > low else 0.0

    def place(value: float) -> int:
        return max(0, min(width - 1, round((value - low) * scale)))

    signs = [" "] * width
    if ranking.interval is not None:
        for at in range(place(ranking.interval.low), place(ranking.interval.high) + 1):
            signs[at] = "─"
    else:
        for value in ranking.values:
            signs[place(value)] = "·"
    signs[place(ranking.iqm)] = "●"
    return "".join(signs).rstrip()


def band_of(label: str, curves: Iterable[Curve]) -> Band | None:
    """Several runs' curves as one: mean and quartiles at steps that all of those have reached.

    A run counts at a step as far as it has come; between two of its points it is a straight line.
    None where there is no curve.
    """
    known = [curve for curve in curves if len(curve.steps) >= 2]
    if not known:
        return None
    first = min(curve.steps[0] for curve in known)
    last = max(curve.steps[-1] for curve in known)
    count = min(_POINTS, max(len(curve.steps) for curve in known))
    steps, means, lows, highs = [], [], [], []
    for number in range(count):
        step = first + (last - first) * number / max(1, count - 1)
        values = sorted(value for curve in known if (value := _at(curve, step)) is not None)
        if values:
            steps.append(step)
            means.append(fmean(values))
            lows.append(_quantile(values, 0.25))
            highs.append(_quantile(values, 0.75))
    return Band(
        label=label,
        runs=len(known),
        steps=tuple(steps),
        mean=tuple(means),
        low=tuple(lows),
        high=tuple(highs),
    )


def bands_of(rows: Sequence[Ranked], curves: Mapping[str, Curve], *, several: bool) -> list[Band]:
    """A band for each line of the leaderboard that has curves, in its order."""
    found = []
    for row in rows:
        ranking = row.ranking
        label = f"{ranking.sweep}: {ranking.label}" if several else ranking.label
        runs = [curve for name in ranking.experiments if (curve := curves.get(name)) is not None]
        if (band := band_of(label, runs)) is not None:
            found.append(band)
    return found


def _at(curve: Curve, step: float) -> float | None:
    """A curve's value at a step; None where it hasn't come so far, or begins later."""
    steps, values = curve.steps, curve.values
    slack = (steps[-1] - steps[0]) * 1e-9
    if step < steps[0] - slack or step > steps[-1] + slack:
        return None
    after = bisect_right(steps, step)
    if after == 0:
        return values[0]
    if after == len(steps):
        return values[-1]
    span = steps[after] - steps[after - 1]
    part = (step - steps[after - 1]) / span if span > 0 else 0.0
    return values[after - 1] + part * (values[after] - values[after - 1])


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Between two values it is a straight line, as numpy's default."""
    at = part * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
