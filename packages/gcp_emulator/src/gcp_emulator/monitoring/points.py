"""What is written: whether a series with its point can be, and what is said if not.

https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries/create; the limits are
those of https://cloud.google.com/monitoring/quotas.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from google.api import metric_pb2
from google.cloud.monitoring_v3 import types

from gcp_emulator.iam.errors import StatusError
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.resources import why_none
from gcp_emulator.monitoring.series import Point

__all__ = [
    "LABEL",
    "MOST_LABELS",
    "VALUES",
    "add_point",
    "is_type",
    "not_written",
    "of_resource",
    "point_of",
    "seconds",
    "why_not",
]

_TYPE: Final = re.compile(
    r"(?:custom|external)\.googleapis\.com(?:/[A-Za-z0-9_][A-Za-z0-9_.\-]*)+"
)
LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
MOST_LABELS: Final = 30
_LONGEST_VALUE: Final = 1024
_OLDEST: Final = 25 * 3_600.0
_FUTURE: Final = 5 * 60.0
VALUES: Final = {
    "bool_value": metric_pb2.MetricDescriptor.BOOL,
    "int64_value": metric_pb2.MetricDescriptor.INT64,
    "double_value": metric_pb2.MetricDescriptor.DOUBLE,
    "string_value": metric_pb2.MetricDescriptor.STRING,
    "distribution_value": metric_pb2.MetricDescriptor.DISTRIBUTION,
}


def is_type(text: str) -> bool:
    """Whether it can be the type of a metric that users write."""
    return _TYPE.fullmatch(text) is not None and len(text) <= 200


def why_not(series: Any, where: str, project: Project, *, now: float) -> str | None:
    """Why a series (of the request's `where`) can't be written, whatever its metric is like."""
    metric, labels = series.metric.type, series.metric.labels
    if not is_type(metric):
        return (
            f'Field {where}.metric.type had an invalid value of "{metric}": The metric type'
            " must be a URL-formatted string with a domain and non-empty path."
        )
    if len(series.points) != 1:
        return (
            f'Field {where}.points had an invalid value of "size={len(series.points)}": The'
            " number of points must be exactly 1."
        )
    for name, value in labels.items():
        if not LABEL.fullmatch(name):
            return f'Field {where}.metric.labels had an invalid value of "{name}".'
        if len(value) > _LONGEST_VALUE:
            return (
                f"Field {where}.metric.labels[{name}] had an invalid value: at most"
                f" {_LONGEST_VALUE} characters are allowed."
            )
    return why_none(series, where, project) or _why_not_point(series, where, now)


def _why_not_point(series: Any, where: str, now: float) -> str | None:
    point = series.points[0]
    if point.value.WhichOneof("value") in (None, "string_value"):
        return f"Field {where}.points[0].value had an invalid value: must be a number."
    interval = point.interval
    start, end = seconds(interval, "start_time"), seconds(interval, "end_time")
    field = f"{where}.points[0].interval"
    if end is None:
        return f"Field {field}.end_time had an invalid value: must be set."
    shown = interval.end_time.ToJsonString()
    if not now - _OLDEST <= end <= now + _FUTURE:
        return (
            f'Field {field}.end_time had an invalid value of "{shown}": Data points cannot be'
            " written more than 25h in the past or more than 5m in the future."
        )
    cumulative = series.metric_kind == metric_pb2.MetricDescriptor.CUMULATIVE
    if cumulative and (start is None or start >= end):
        return f"Field {field}.start_time had an invalid value: must be before the end time."
    if not cumulative and start is not None and start not in (0, end):
        return (
            f"Field {field}.start_time had an invalid value: The start time must be before the"
            " end time and, for a GAUGE metric, equal to it or not set."
        )
    return None


def not_written(request: Any, refused: Sequence[tuple[str, str]]) -> StatusError:
    """The error of a write of which a part or all failed, with a CreateTimeSeriesSummary."""
    count = len(request.time_series)
    lines = [f"{where}: {why}" if why.startswith("write for") else why for where, why in refused]
    summary: dict[str, Any] = {
        "@type": "type.googleapis.com/google.monitoring.v3.CreateTimeSeriesSummary",
        "totalPointCount": count,
        "errors": [{"status": {"code": 3}, "pointCount": len(refused)}],
    }
    if count > len(refused):
        summary["successPointCount"] = count - len(refused)
    return StatusError(
        400,
        "INVALID_ARGUMENT",
        f"One or more TimeSeries could not be written: {'; '.join(lines)}",
        details=[summary],
    )


def of_resource(series: Any) -> str:
    """How Google begins to say why a series was not written."""
    labels = ",".join(
        f"{name}:{value}" for name, value in series.resource.labels.items() if name != "project_id"
    )
    return f"write for resource={series.resource.type}{{{labels}}} failed with: "


def point_of(point: Any) -> Point:
    """The point of a message."""
    end = seconds(point.interval, "end_time") or 0.0
    value = types.TypedValue.pb()()
    value.CopyFrom(point.value)
    return Point(seconds(point.interval, "start_time") or end, end, value)


def seconds(interval: Any, field: str) -> float | None:
    """An end of an interval, in seconds since 1970; None where it is not set."""
    if not interval.HasField(field):
        return None
    moment = getattr(interval, field)
    return float(moment.seconds + moment.nanos / 1e9)


def add_point(series: Any, start: float, end: float) -> Any:
    """Add a point to a message; its value, to be filled."""
    point = series.points.add()
    point.interval.start_time.FromNanoseconds(round(start * 1e6) * 1_000)
    point.interval.end_time.FromNanoseconds(round(end * 1e6) * 1_000)
    return point.value
