"""What was learned: experiments ranked, runs of one configuration taken together over their seeds.

    commands(snapshot) ──> one configuration for all that differ in their --seed only
    leaderboard(snapshot)      configurations, the best first: interquartile mean and its interval
    compare(first, second)     the same configurations in two sweeps, or all of both side by side

The measures are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", NeurIPS 2021 (https://arxiv.org/abs/2108.13264): the interquartile mean,
percentile bootstrap intervals of 95 %, and the probability of improvement. A handful of seeds
says little: the interval shows how little, and with fewer than three there is none.

Values are what records hold of an experiment's progress, by name. All is pure: snapshots in,
frozen nouns out.
"""

import math
import random
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import Observation, Snapshot

__all__ = [
    "METRIC",
    "Comparison",
    "Configuration",
    "Interval",
    "Ranking",
    "compare",
    "configuration_of",
    "improvement",
    "interquartile_mean",
    "interval_of",
    "leaderboard",
    "metrics_of",
    "seed_of",
    "value_of",
]

METRIC: Final = "mean_reward"
"""What experiments are ranked by, unless asked otherwise; higher is better."""

RESAMPLES: Final = 2000
"""Of the bootstrap; the interval's ends then move by about a hundredth of its width."""

_CONFIDENCE: Final = 0.95
_SEED_FLAGS: Final = frozenset({"--seed", "-sd"})
_LEAST: Final = 3  # values that an interval takes; two resample to three means


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A command without its seed: what the runs of one line of the leaderboard share."""

    words: tuple[str, ...]
    """The command's words, the seed's left out."""

    @property
    def parameters(self) -> Mapping[str, str]:
        """Its flags by name, without hyphens; a flag without a value is "true"."""
        return dict(_flags(self.words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a measure lies, with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """One configuration on the leaderboard."""

    label: str
    """What sets it apart from the others, such as `algorithm=PPO`."""
    configuration: Configuration
    sweep: str
    experiments: tuple[str, ...]
    """Ids of all its runs, whether they have a value or not."""
    values: tuple[float, ...]
    """Of those that have one, in the order of `experiments`."""
    mean: float | None
    iqm: float | None
    """Interquartile mean; None without values."""
    interval: Interval | None
    """Of the interquartile mean; None with fewer than three values."""
    best: str
    """Id of the run with the highest value, or ""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One configuration in two sweeps."""

    label: str
    first: Ranking
    second: Ranking
    improvement: float | None
    """Probability that a run of the second is the better one; None without values."""
    interval: Interval | None


def leaderboard(seen: Snapshot, *, metric: str = METRIC) -> tuple[Ranking, ...]:
    """The sweep's configurations, the best interquartile mean first; those without values last.

    An experiment that still runs counts with what it has reached so far; one that failed, was
    cancelled or lost does not count: what it reached is no result.

    Raises:
        InvalidRequest: No experiment has such a metric, though some have others.
    """
    return _ranked([seen], metric)


def compare(
    first: Snapshot, second: Snapshot, *, metric: str = METRIC
) -> tuple[tuple[Comparison, ...], tuple[Ranking, ...]]:
    """Two sweeps: the configurations that both have, and all of both on one leaderboard.

    Raises:
        InvalidRequest: No experiment has such a metric, though some have others.
    """
    together = _ranked([first, second], metric)
    of = {(one.sweep, one.configuration): one for one in together}
    comparisons = [
        _compared(one, other)
        for one in together
        if one.sweep == first.name
        and (other := of.get((second.name, one.configuration))) is not None
    ]
    return tuple(comparisons), together


def value_of(row: Observation, metric: str = METRIC) -> float | None:
    """An experiment's value of a metric; None if it has none, or one that is no result."""
    if row.record is None or (row.status.is_final and not row.status.is_good):
        return None
    return _number(_progress(row).get(metric))


def metrics_of(seen: Snapshot) -> tuple[str, ...]:
    """The names of the numbers that the sweep's experiments report."""
    names = {
        name
        for row in seen.rows
        for name, value in _progress(row).items()
        if _number(value) is not None
    }
    return tuple(sorted(names))


def configuration_of(command: str) -> Configuration:
    """The command's configuration; one that is no list of words is its own."""
    try:
        words = shlex.split(command)
    except ValueError:
        return Configuration(words=(command,))
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in _SEED_FLAGS:
            skip = True
        elif word.partition("=")[0] not in _SEED_FLAGS:
            kept.append(word)
    return Configuration(words=tuple(kept))


def seed_of(command: str) -> str | None:
    """The value of its --seed, the last one if there are several; None where there is none."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    found: str | None = None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in _SEED_FLAGS:
            found = value if equals else after or None
    return found


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: a quarter of the values left out at either end, rounded down.

    Less noisy than the median, and less moved by one bad run than the mean. With fewer than four
    values it is the mean.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("an interquartile mean takes at least one value")
    cut = len(values) // 4
    return fmean(sorted(values)[cut : len(values) - cut])


def interval_of(values: Sequence[float]) -> Interval | None:
    """Percentile bootstrap interval of the interquartile mean; the same for the same values.

    Returns:
        None with fewer than three values.
    """
    if len(values) < _LEAST:
        return None
    ordered = sorted(values)
    draw = random.Random(len(ordered))  # noqa: S311 - the same interval at each look
    return _percentiles(
        interquartile_mean(draw.choices(ordered, k=len(ordered))) for _ in range(RESAMPLES)
    )


def improvement(first: Sequence[float], second: Sequence[float]) -> float:
    """Probability that a random run of the second is better than one of the first.

    Ties count half. Mann and Whitney's U, as a part of all pairs.

    Raises:
        ValueError: One of them has no values.
    """
    if not first or not second:
        raise ValueError("a probability of improvement takes values on both sides")
    won = sum((b > a) + 0.5 * (b == a) for a in first for b in second)
    return won / (len(first) * len(second))


def _ranked(seen: Sequence[Snapshot], metric: str) -> tuple[Ranking, ...]:
    _check_metric(seen, metric)
    groups: dict[tuple[str, Configuration], list[Observation]] = {}
    for one in seen:
        for row in one.rows:
            key = one.name, configuration_of(row.experiment.command)
            groups.setdefault(key, []).append(row)
    labels = _labels([configuration for _, configuration in groups])
    ranked = [
        _ranking(rows, sweep, configuration, labels[configuration], metric)
        for (sweep, configuration), rows in groups.items()
    ]
    return tuple(sorted(ranked, key=lambda one: -math.inf if one.iqm is None else one.iqm)[::-1])


def _ranking(
    rows: Sequence[Observation], sweep: str, configuration: Configuration, label: str, metric: str
) -> Ranking:
    found = {row.id: value for row in rows if (value := value_of(row, metric)) is not None}
    values = tuple(found.values())
    return Ranking(
        label=label,
        configuration=configuration,
        sweep=sweep,
        experiments=tuple(row.id for row in rows),
        values=values,
        mean=fmean(values) if values else None,
        iqm=interquartile_mean(values) if values else None,
        interval=interval_of(values),
        best=max(found, key=lambda id_: found[id_]) if found else "",
    )


def _compared(first: Ranking, second: Ranking) -> Comparison:
    both = bool(first.values and second.values)
    return Comparison(
        label=first.label,
        first=first,
        second=second,
        improvement=improvement(first.values, second.values) if both else None,
        interval=_improvement_interval(first.values, second.values),
    )


def _improvement_interval(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    if min(len(first), len(second)) < _LEAST:
        return None
    draw = random.Random(len(first) + len(second))  # noqa: S311
    return _percentiles(
        improvement(draw.choices(first, k=len(first)), draw.choices(second, k=len(second)))
        for _ in range(RESAMPLES)
    )


def _percentiles(resampled: Iterable[float]) -> Interval:
    ordered = sorted(resampled)
    tail = round(len(ordered) * (1 - _CONFIDENCE) / 2)
    return Interval(low=ordered[tail], high=ordered[-1 - tail])


def _check_metric(seen: Sequence[Snapshot], metric: str) -> None:
    known = sorted({name for one in seen for name in metrics_of(one)})
    if known and metric not in known:
        raise InvalidRequest(
            f"metric: no experiment reports {metric!r}",
            resource=f"sweep {seen[0].name}",
            hint=f"they report {', '.join(known)}",
        )


def _labels(configurations: Iterable[Configuration]) -> dict[Configuration, str]:
    """What sets each apart: the flags whose values differ, else the whole command."""
    found = list(dict.fromkeys(configurations))
    parameters = [one.parameters for one in found]
    names = dict.fromkeys(name for each in parameters for name in each)
    differing = [name for name in names if len({each.get(name) for each in parameters}) > 1]
    labels = {
        one: " ".join(f"{name}={each[name]}" for name in differing if name in each)
        for one, each in zip(found, parameters, strict=True)
    }
    if len(set(labels.values())) == len(found) and all(labels.values()):
        return labels
    return {one: shlex.join(one.words) for one in found}


def _flags(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    for position, word in enumerate(words):
        if not word.startswith("-") or _number_of(word) is not None:
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if equals:
            yield name, value
            continue
        after = words[position + 1] if position + 1 < len(words) else ""
        takes = after and (not after.startswith("-") or _number_of(after) is not None)
        yield name, after if takes else "true"


def _number_of(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _progress(row: Observation) -> Mapping[str, object]:
    found = row.record.raw.get("progress") if row.record is not None else None
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
