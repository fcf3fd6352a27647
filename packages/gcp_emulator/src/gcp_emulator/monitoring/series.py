"""The points of time series, and what aggregations make of them.

Points are kept for a day and no longer than the cloud runs; `Aligned` values are what a condition
is held against and what ``timeSeries.list`` shows of an aggregation
(https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies#aggregation).
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gcp_emulator.iam.errors import StatusError, invalid_argument
from gcp_emulator.monitoring.filters import Filter, matches

__all__ = ["Aligned", "Point", "Series", "SeriesKey", "Store", "aggregate", "check_aggregation"]

_MOST_POINTS: Final = 20_000
_MOST_SELECTIONS: Final = 200
_KEPT_SECONDS: Final = 25 * 3_600.0


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a moment (seconds since 1970)."""

    start: float
    end: float
    value: Any
    """A ``google.monitoring.v3.TypedValue``."""

    @property
    def number(self) -> float:
        """The value as a number; a distribution's is its mean."""
        match self.value.WhichOneof("value"):
            case "bool_value":
                return float(self.value.bool_value)
            case "int64_value":
                return float(self.value.int64_value)
            case "double_value":
                return float(self.value.double_value)
            case "distribution_value":
                return float(self.value.distribution_value.mean)
            case _:
                return 0.0


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """What makes a series: its metric and its resource, each with labels."""

    metric: str
    metric_labels: tuple[tuple[str, str], ...]
    resource: str
    resource_labels: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, series: Any) -> "SeriesKey":
        """The key of a ``google.monitoring.v3.TimeSeries``."""
        return cls(
            series.metric.type,
            tuple(sorted((k, v) for k, v in series.metric.labels.items() if v)),
            series.resource.type,
            tuple(sorted((k, v) for k, v in series.resource.labels.items() if v)),
        )

    def value(self, name: str) -> str | None:
        """The value of a field as filters and ``groupByFields`` name it."""
        if name == "metric.type":
            return self.metric
        if name == "resource.type":
            return self.resource
        if name == "project":
            return dict(self.resource_labels).get("project_id")
        kind, _, label = name.partition(".label.")
        if kind == "metric":
            return dict(self.metric_labels).get(label, "")
        if kind == "resource":
            return dict(self.resource_labels).get(label, "")
        return None


@dataclass(slots=True)
class Series:
    """A series with its points, oldest first."""

    key: SeriesKey
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=_MOST_POINTS))
    arrived: float = 0.0
    """When the last point was written, which can be later than its own time."""

    @property
    def newest(self) -> float:
        """When its last point ended; there is always one."""
        return self.points[-1].end

    def within(self, start: float, end: float) -> list[Point]:
        """The points that ended after `start` and not after `end`, oldest first."""
        found = []
        for point in reversed(self.points):
            if point.end <= start:
                break
            if point.end <= end:
                found.append(point)
        return found[::-1]


class Store:
    """All series."""

    def __init__(self) -> None:
        self._series: dict[SeriesKey, Series] = {}
        self._selected: dict[Filter | None, list[Series]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self._series

    def get(self, key: SeriesKey) -> Series | None:
        """The series of this key."""
        return self._series.get(key)

    def add(self, key: SeriesKey, point: Point, *, arrived: float) -> None:
        """Add a point to a series, or begin one with it; `arrived` is now."""
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(key)
            for filter, selected in self._selected.items():
                if matches(filter, key.value):
                    selected.append(series)
        series.points.append(point)
        series.arrived = arrived

    def select(self, filter: Filter | None) -> list[Series]:
        """The series that match; found at once when they were asked for before."""
        found = self._selected.get(filter)
        if found is None:
            if len(self._selected) >= _MOST_SELECTIONS:
                self._selected.clear()
            found = [s for key, s in self._series.items() if matches(filter, key.value)]
            self._selected[filter] = found
        return list(found)

    def remove(self, metric: str) -> None:
        """Forget the series of a metric."""
        for key in [key for key in self._series if key.metric == metric]:
            del self._series[key]
        self._selected.clear()

    def forget_older(self, now: float) -> None:
        """Forget points that nobody can ask for any more."""
        for key, series in list(self._series.items()):
            while series.points and series.points[0].end < now - _KEPT_SECONDS:
                series.points.popleft()
            if not series.points:
                del self._series[key]
                self._selected.clear()


@dataclass(frozen=True, slots=True)
class Aligned:
    """What an aggregation made of some series for one window."""

    key: SeriesKey
    """With those labels only that the aggregation keeps."""
    value: float | None
    """None: nothing was written in the window."""
    newest: float
    """When the last point ended, whichever window it is in."""
    arrived: float
    """When a point was last written."""


_ALIGN: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "ALIGN_NONE": lambda values: values[-1],
    "ALIGN_NEXT_OLDER": lambda values: values[-1],
    "ALIGN_MIN": min,
    "ALIGN_MAX": max,
    "ALIGN_MEAN": lambda values: sum(values) / len(values),
    "ALIGN_SUM": sum,
    "ALIGN_COUNT": lambda values: float(len(values)),
    "ALIGN_COUNT_TRUE": lambda values: float(sum(map(bool, values))),
    "ALIGN_COUNT_FALSE": lambda values: float(sum(not value for value in values)),
    "ALIGN_FRACTION_TRUE": lambda values: sum(map(bool, values)) / len(values),
}
_REDUCE: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "REDUCE_SUM": sum,
    "REDUCE_MIN": min,
    "REDUCE_MAX": max,
    "REDUCE_MEAN": lambda values: sum(values) / len(values),
    "REDUCE_COUNT": lambda values: float(len(values)),
    "REDUCE_COUNT_TRUE": lambda values: float(sum(map(bool, values))),
    "REDUCE_COUNT_FALSE": lambda values: float(sum(not value for value in values)),
}


def aggregate(
    series: Iterable[Series], aggregation: Any | None, *, end: float, period: float
) -> list[Aligned]:
    """What an aggregation makes of series for the window of `period` seconds up to `end`.

    Args:
        series: They.
        aggregation: A ``google.monitoring.v3.Aggregation`` that `check_aggregation` took; None
            for the last point of each series.
        end: When the window ends.
        period: How long it is.
    """
    align, reduce, fields = "ALIGN_NONE", "REDUCE_NONE", ()
    if aggregation is not None:
        align = _name(aggregation, "per_series_aligner")
        reduce = _name(aggregation, "cross_series_reducer")
        fields = tuple(aggregation.group_by_fields)
    aligned = []
    for one in series:
        points = one.within(end - period, end)
        value = _ALIGN[align]([point.number for point in points]) if points else None
        aligned.append(Aligned(one.key, value, one.newest, one.arrived))
    if reduce == "REDUCE_NONE":
        return aligned
    groups: dict[SeriesKey, list[Aligned]] = {}
    for each in aligned:
        groups.setdefault(_grouped(each.key, fields), []).append(each)
    return [
        Aligned(
            key,
            _REDUCE[reduce](values) if values else None,
            max(member.newest for member in members),
            max(member.arrived for member in members),
        )
        for key, members in groups.items()
        for values in [[m.value for m in members if m.value is not None]]
    ]


def check_aggregation(aggregation: Any, where: str, *, shortest: float = 60.0) -> None:
    """Refuse an aggregation that is none, or that this cloud can't carry out.

    Raises:
        GoogleError: 400, or 501 for one that Google would carry out.
    """
    align = _name(aggregation, "per_series_aligner")
    reduce = _name(aggregation, "cross_series_reducer")
    for kind, known in ((align, _ALIGN), (reduce, {**_REDUCE, "REDUCE_NONE": None})):
        if kind not in known:
            raise StatusError(
                501, "UNIMPLEMENTED", f"Field {where}: the local cloud does not know {kind}"
            )
    period = aggregation.alignment_period.ToTimedelta().total_seconds()
    if (align != "ALIGN_NONE" or reduce != "REDUCE_NONE") and period < shortest:
        raise invalid_argument(
            f'Field {where}.alignment_period had an invalid value of "{period:g}s": must be at'
            f" least {shortest:g} seconds."
        )
    if reduce != "REDUCE_NONE" and align == "ALIGN_NONE":
        raise invalid_argument(
            f'Field {where}.cross_series_reducer had an invalid value of "{reduce}": a perSeries'
            "Aligner other than ALIGN_NONE must be specified with it."
        )
    for name in aggregation.group_by_fields:
        if not name.startswith(("metric.label", "resource.label", "metadata.", "project")):
            raise invalid_argument(
                f'Field {where}.group_by_fields had an invalid value of "{name}".'
            )


def _name(aggregation: Any, field_name: str) -> str:
    number = getattr(aggregation, field_name)
    kind = aggregation.DESCRIPTOR.fields_by_name[field_name].enum_type
    found = kind.values_by_number.get(number)
    return str(found.name) if found is not None else str(number)


def _grouped(key: SeriesKey, fields: Sequence[str]) -> SeriesKey:
    wanted = [name.replace(".labels.", ".label.") for name in fields]

    def kept(kind: str, labels: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple((k, v) for k, v in labels if f"{kind}.label.{k}" in wanted)

    # The project stays: it is not what is grouped.
    project = tuple(
        (k, v)
        for k, v in key.resource_labels
        if k == "project_id" or f"resource.label.{k}" in wanted
    )
    return SeriesKey(key.metric, kept("metric", key.metric_labels), key.resource, project)
