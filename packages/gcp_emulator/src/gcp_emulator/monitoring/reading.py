"""What is read: series as they were written, or as an aggregation makes them.

https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries/list
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.api import metric_pb2
from google.cloud.monitoring_v3 import types

from gcp_emulator.iam.errors import StatusError, invalid_argument
from gcp_emulator.monitoring.filters import Filter, comparisons, parse
from gcp_emulator.monitoring.points import add_point, seconds
from gcp_emulator.monitoring.series import Aligned, Series, SeriesKey, aggregate, check_aggregation

__all__ = ["checked", "series_of"]

_MOST_PERIODS: Final = 100_000
_HEADERS: Final = int(types.ListTimeSeriesRequest.TimeSeriesView.HEADERS)


def checked(request: Any) -> tuple[Filter | None, float, float]:
    """What a ListTimeSeries asks for: the filter, and the interval in seconds since 1970.

    Raises:
        GoogleError: 400, or 501 for what Google would do.
    """
    selected = parse(request.filter)
    if not any(c.field == "metric.type" for c in comparisons(selected)):
        raise invalid_argument(
            f'Field filter had an invalid value of "{request.filter}": must specify a'
            " restriction on metric.type."
        )
    start, end = seconds(request.interval, "start_time"), seconds(request.interval, "end_time")
    if end is None:
        raise invalid_argument("Field interval.end_time had an invalid value: must be set.")
    start = end if start is None else start
    if start > end:
        raise invalid_argument(
            "Field interval had an invalid value: The start time must not be after the end."
        )
    if request.HasField("secondary_aggregation"):
        raise StatusError(
            501, "UNIMPLEMENTED", "The local cloud does not know secondaryAggregation"
        )
    return selected, start, end


def series_of(
    request: Any,
    found: Sequence[Series],
    descriptors: Mapping[str, metric_pb2.MetricDescriptor],
    *,
    start: float,
    end: float,
) -> list[Any]:
    """The series that a ListTimeSeries shows of those that it found.

    Raises:
        GoogleError: 400 for an aggregation that is none.
    """
    aggregation = request.aggregation
    if aggregation.per_series_aligner or aggregation.cross_series_reducer:
        made = _aggregated(found, aggregation, start, end)
    else:
        made = [_as_written(one, descriptors[one.key.metric], start, end) for one in found]
    made = [one for one in made if one.points]
    if request.view == _HEADERS:
        for one in made:
            del one.points[:]
    return made


def _as_written(
    series: Series, descriptor: metric_pb2.MetricDescriptor, start: float, end: float
) -> Any:
    shown = _empty(series.key)
    shown.metric_kind, shown.value_type = descriptor.metric_kind, descriptor.value_type
    shown.unit = descriptor.unit
    # A point at the very start counts.
    for point in reversed(series.within(math.nextafter(start, 0), end)):
        add_point(shown, point.start, point.end).CopyFrom(point.value)
    return shown


def _aggregated(found: Sequence[Series], aggregation: Any, start: float, end: float) -> list[Any]:
    check_aggregation(aggregation, "aggregation")
    period = aggregation.alignment_period.ToTimedelta().total_seconds()
    if (end - start) / period > _MOST_PERIODS:
        raise invalid_argument("Field interval had an invalid value: too many periods.")
    made: dict[SeriesKey, Any] = {}
    moment = end
    while moment > start:
        for aligned in aggregate(found, aggregation, end=moment, period=period):
            _add_aligned(made, aligned, moment)
        moment -= period
    return list(made.values())


def _add_aligned(made: dict[SeriesKey, Any], aligned: Aligned, end: float) -> None:
    if aligned.value is None:
        return
    if aligned.key not in made:
        made[aligned.key] = _empty(aligned.key)
        made[aligned.key].metric_kind = metric_pb2.MetricDescriptor.GAUGE
        made[aligned.key].value_type = metric_pb2.MetricDescriptor.DOUBLE
    add_point(made[aligned.key], end, end).double_value = aligned.value


def _empty(key: SeriesKey) -> Any:
    made = types.TimeSeries.pb()()
    made.metric.type, made.resource.type = key.metric, key.resource
    made.metric.labels.update(dict(key.metric_labels))
    made.resource.labels.update(dict(key.resource_labels))
    return made
