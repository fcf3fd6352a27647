"""MetricService: metric descriptors, monitored resources, and time series.

https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.metricDescriptors,
https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries; the limits are those of
https://cloud.google.com/monitoring/quotas.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from google.api import label_pb2, metric_pb2, monitored_resource_pb2
from google.cloud.monitoring_v3 import types
from google.protobuf import empty_pb2, json_format

from gcp_emulator.iam.errors import StatusError, invalid_argument, not_found
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.filters import comparisons, matches, parse
from gcp_emulator.monitoring.series import (
    Aligned,
    Point,
    Series,
    SeriesKey,
    Store,
    aggregate,
    check_aggregation,
)
from gcp_emulator.monitoring.wire import Method, paged

__all__ = ["RESOURCES", "Metrics"]

RESOURCES: Final[dict[str, tuple[str, ...]]] = {
    "global": ("project_id",),
    "gce_instance": ("project_id", "instance_id", "zone"),
    "generic_node": ("project_id", "location", "namespace", "node_id"),
    "generic_task": ("project_id", "location", "namespace", "job", "task_id"),
    "uptime_url": ("project_id", "host"),
}
"""The monitored resources of this cloud, with their labels."""
_TITLES: Final = {
    "global": ("Global", "A resource type that is not associated with any specific resource."),
    "gce_instance": ("VM Instance", "A virtual machine instance hosted in Compute Engine."),
    "generic_node": ("Generic Node", "A machine or other computational resource."),
    "generic_task": ("Generic Task", "A process of an application, run by a scheduler."),
    "uptime_url": ("Uptime Check URL", "A URL that uptime checks ask for."),
}

_TYPE: Final = re.compile(
    r"(?:custom|external)\.googleapis\.com(?:/[A-Za-z0-9_][A-Za-z0-9_.\-]*)+"
)
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_MOST_SERIES: Final = 200
_MOST_LABELS: Final = 30
_LONGEST_VALUE: Final = 1024
_MOST_DESCRIPTORS: Final = 10_000
_OLDEST: Final = 25 * 3_600.0
_FUTURE: Final = 5 * 60.0
_VALUES: Final = {
    "bool_value": metric_pb2.MetricDescriptor.BOOL,
    "int64_value": metric_pb2.MetricDescriptor.INT64,
    "double_value": metric_pb2.MetricDescriptor.DOUBLE,
    "string_value": metric_pb2.MetricDescriptor.STRING,
    "distribution_value": metric_pb2.MetricDescriptor.DISTRIBUTION,
}
_AGGREGATED: Final = metric_pb2.MetricDescriptor.DOUBLE
_IN_ORDER: Final = (
    "Points must be written in order. One or more of the points specified had an older end time"
    " than the most recent point."
)
_TOO_OFTEN: Final = (
    "One or more points were written more frequently than the maximum sampling period configured"
    " for the metric."
)


class Metrics:
    """The metrics of the project.

    Args:
        project: It.
        file: Where descriptors are kept.
        descriptor_seconds: How long it takes until policies can use a new descriptor.
        point_seconds: How far apart the points of a series must be.
        written: Called after points were written.
        now: The time, in seconds since 1970.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(
        self,
        project: Project,
        file: Path,
        *,
        descriptor_seconds: float,
        point_seconds: float = 5.0,
        written: Callable[[], object] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._project = project
        self._file = file
        self._descriptor_seconds = descriptor_seconds
        self._point_seconds = point_seconds
        self._written = written
        self._now = now
        self.store = Store()
        self._descriptors: dict[str, metric_pb2.MetricDescriptor] = {}
        self._made: dict[str, float] = {}
        for kept in read_kept(file) or []:
            descriptor = metric_pb2.MetricDescriptor()
            json_format.ParseDict(kept["descriptor"], descriptor, ignore_unknown_fields=True)
            self._descriptors[descriptor.type] = descriptor
            self._made[descriptor.type] = kept["made"]

    def is_known(self, metric: str) -> bool:
        """Whether policies can use a metric: it has been described for long enough."""
        made = self._made.get(metric)
        return made is not None and self._now() >= made + self._descriptor_seconds

    def display_name(self, metric: str) -> str:
        """What people call a metric."""
        descriptor = self._descriptors.get(metric)
        return (descriptor.display_name if descriptor else "") or metric

    def describe(self, descriptor: metric_pb2.MetricDescriptor) -> None:
        """Add a metric of the cloud's own, known at once."""
        descriptor.name = f"{self._project.path}/metricDescriptors/{descriptor.type}"
        self._descriptors[descriptor.type] = descriptor
        self._made[descriptor.type] = 0.0

    def methods(self) -> Iterator[Method]:
        """What can be called."""
        descriptors = "projects/*/metricDescriptors/**"
        resources = "projects/*/monitoredResourceDescriptors/*"
        yield Method(
            rpc="MetricService.CreateMetricDescriptor",
            api="monitoring.projects.metricDescriptors.create",
            request=types.CreateMetricDescriptorRequest.pb(),
            reply=metric_pb2.MetricDescriptor,
            run=self._create,
            verb="POST",
            of="projects/*",
            after="/metricDescriptors",
            body="metric_descriptor",
        )
        yield Method(
            rpc="MetricService.GetMetricDescriptor",
            api="monitoring.projects.metricDescriptors.get",
            request=types.GetMetricDescriptorRequest.pb(),
            reply=metric_pb2.MetricDescriptor,
            run=lambda request: self._named(request.name),
            verb="GET",
            of=descriptors,
        )
        yield Method(
            rpc="MetricService.ListMetricDescriptors",
            api="monitoring.projects.metricDescriptors.list",
            request=types.ListMetricDescriptorsRequest.pb(),
            reply=types.ListMetricDescriptorsResponse.pb(),
            run=self._list,
            verb="GET",
            of="projects/*",
            after="/metricDescriptors",
        )
        yield Method(
            rpc="MetricService.DeleteMetricDescriptor",
            api="monitoring.projects.metricDescriptors.delete",
            request=types.DeleteMetricDescriptorRequest.pb(),
            reply=empty_pb2.Empty,
            run=self._delete,
            verb="DELETE",
            of=descriptors,
        )
        yield Method(
            rpc="MetricService.GetMonitoredResourceDescriptor",
            api="monitoring.projects.monitoredResourceDescriptors.get",
            request=types.GetMonitoredResourceDescriptorRequest.pb(),
            reply=monitored_resource_pb2.MonitoredResourceDescriptor,
            run=self._resource,
            verb="GET",
            of=resources,
        )
        yield Method(
            rpc="MetricService.ListMonitoredResourceDescriptors",
            api="monitoring.projects.monitoredResourceDescriptors.list",
            request=types.ListMonitoredResourceDescriptorsRequest.pb(),
            reply=types.ListMonitoredResourceDescriptorsResponse.pb(),
            run=self._resources,
            verb="GET",
            of="projects/*",
            after="/monitoredResourceDescriptors",
        )
        yield Method(
            rpc="MetricService.CreateTimeSeries",
            api="monitoring.projects.timeSeries.create",
            request=types.CreateTimeSeriesRequest.pb(),
            reply=empty_pb2.Empty,
            run=self.write,
            verb="POST",
            of="projects/*",
            after="/timeSeries",
            body="*",
        )
        yield Method(
            rpc="MetricService.ListTimeSeries",
            api="monitoring.projects.timeSeries.list",
            request=types.ListTimeSeriesRequest.pb(),
            reply=types.ListTimeSeriesResponse.pb(),
            run=self._read,
            verb="GET",
            of="projects/*",
            after="/timeSeries",
        )

    def write(self, request: Any) -> empty_pb2.Empty:
        """Write one point to each of several series; what fits is written, whatever the others do.

        Raises:
            GoogleError: 400: nothing was written, or not all, as the details say.
        """
        if not request.time_series:
            raise invalid_argument("Field timeSeries had an invalid value: must not be empty.")
        count = len(request.time_series)
        if count > _MOST_SERIES:
            raise invalid_argument(
                f'Field timeSeries had an invalid value of "size={count}": at most'
                f" {_MOST_SERIES} TimeSeries can be written in one request."
            )
        keys: set[SeriesKey] = set()
        refused: list[tuple[str, str]] = []
        for index, series in enumerate(request.time_series):
            where = f"timeSeries[{index}]"
            why = self._write(series, where, keys)
            if why is not None:
                refused.append((where, why))
        if len(refused) < count:
            self._written()
        if refused:
            raise _not_written(request, refused)
        return empty_pb2.Empty()

    def _write(self, series: Any, where: str, keys: set[SeriesKey]) -> str | None:
        """Write one; or say why not."""
        why = self._why_not(series, where)
        if why is not None:
            return why
        series.resource.labels["project_id"] = self._project.id
        key = SeriesKey.of(series)
        if key in keys:
            return (
                f"Field {where} had an invalid value: Duplicate TimeSeries encountered. Only one"
                f" point can be written per TimeSeries per request.: {where}"
            )
        keys.add(key)
        point = _point(series.points[0])
        before = self.store.get(key)
        if before is not None and point.end <= before.newest:
            return f"{_of_resource(series)}{_IN_ORDER}"
        if before is not None and point.end < before.newest + self._point_seconds:
            return f"{_of_resource(series)}{_TOO_OFTEN}"
        self._add_labels(series)
        self.store.add(key, point, arrived=self._now())
        return None

    def _why_not(self, series: Any, where: str) -> str | None:
        metric, labels = series.metric.type, series.metric.labels
        if not _TYPE.fullmatch(metric) or len(metric) > 200:
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
            if not _LABEL.fullmatch(name):
                return f'Field {where}.metric.labels had an invalid value of "{name}".'
            if len(value) > _LONGEST_VALUE:
                return (
                    f"Field {where}.metric.labels[{name}] had an invalid value: at most"
                    f" {_LONGEST_VALUE} characters are allowed."
                )
        return (
            _why_no_resource(series, where, self._project)
            or self._why_not_point(series, where)
            or self._why_not_described(series, where)
        )

    def _why_not_point(self, series: Any, where: str) -> str | None:
        point = series.points[0]
        if point.value.WhichOneof("value") in (None, "string_value"):
            return f"Field {where}.points[0].value had an invalid value: must be a number."
        interval = point.interval
        start, end = _seconds(interval, "start_time"), _seconds(interval, "end_time")
        field = f"{where}.points[0].interval"
        if end is None:
            return f"Field {field}.end_time had an invalid value: must be set."
        shown = interval.end_time.ToJsonString()
        if not self._now() - _OLDEST <= end <= self._now() + _FUTURE:
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

    def _why_not_described(self, series: Any, where: str) -> str | None:
        """Why a series does not agree with the descriptor of its metric; makes one if needed."""
        kind = series.points[0].value.WhichOneof("value")
        value_type = _VALUES[kind]
        if series.value_type not in (0, value_type):
            return f"Field {where}.value_type had an invalid value: points are of another type."
        metric_kind = series.metric_kind or metric_pb2.MetricDescriptor.GAUGE
        descriptor = self._descriptors.get(series.metric.type)
        if descriptor is None:
            if metric_kind == metric_pb2.MetricDescriptor.DELTA:
                return f'Field {where}.metric_kind had an invalid value of "DELTA".'
            if len(series.metric.labels) > _MOST_LABELS:
                return f"Field {where}.metric.labels had an invalid value: at most {_MOST_LABELS}."
            self._describe_from(series, metric_kind, value_type)
            return None
        if descriptor.value_type != value_type:
            name = metric_pb2.MetricDescriptor.ValueType.Name(descriptor.value_type)
            return (
                f"Field {where}.points[0].value had an invalid value: Value type for metric"
                f" {descriptor.type} must be {name}, but is"
                f" {metric_pb2.MetricDescriptor.ValueType.Name(value_type)}."
            )
        if series.metric_kind and descriptor.metric_kind != series.metric_kind:
            name = metric_pb2.MetricDescriptor.MetricKind.Name(descriptor.metric_kind)
            return f"Field {where}.metric_kind had an invalid value: the metric's is {name}."
        known = {label.key for label in descriptor.labels}
        if len(known | set(series.metric.labels)) > _MOST_LABELS:
            return f"Field {where}.metric.labels had an invalid value: at most {_MOST_LABELS}."
        return None

    def _describe_from(self, series: Any, metric_kind: int, value_type: int) -> None:
        descriptor = metric_pb2.MetricDescriptor(
            name=f"{self._project.path}/metricDescriptors/{series.metric.type}",
            type=series.metric.type,
            metric_kind=metric_kind,
            value_type=value_type,
            unit=series.unit,
            description=series.description or "Auto created custom metric.",
            display_name=series.metric.type,
            labels=[label_pb2.LabelDescriptor(key=key) for key in sorted(series.metric.labels)],
        )
        descriptor.monitored_resource_types.extend(RESOURCES)
        self._keep(descriptor)

    def _add_labels(self, series: Any) -> None:
        """A descriptor learns the labels that are written; it never forgets one."""
        descriptor = self._descriptors[series.metric.type]
        fresh = set(series.metric.labels) - {label.key for label in descriptor.labels}
        if fresh:
            for key in sorted(fresh):
                descriptor.labels.add(key=key)
            self._save()

    def _create(self, request: Any) -> metric_pb2.MetricDescriptor:
        wanted = request.metric_descriptor
        _check_descriptor(wanted)
        known = self._descriptors.get(wanted.type)
        if known is not None:
            if (known.metric_kind, known.value_type) != (wanted.metric_kind, wanted.value_type):
                raise invalid_argument(
                    f'Field metric_descriptor had an invalid value of "{wanted.type}": the kind'
                    " and the value type of a metric that exists can't be changed: delete it"
                    " first."
                )
        elif len(self._descriptors) >= _MOST_DESCRIPTORS:
            raise StatusError(
                429,
                "RESOURCE_EXHAUSTED",
                f"Your metric descriptor quota has been exhausted: {_MOST_DESCRIPTORS}.",
            )
        made = metric_pb2.MetricDescriptor()
        made.CopyFrom(wanted)
        made.name = f"{self._project.path}/metricDescriptors/{wanted.type}"
        made.display_name = wanted.display_name or wanted.type
        keys = {label.key for label in made.labels}
        if known is not None:
            made.labels.extend(label for label in known.labels if label.key not in keys)
        if len(made.labels) > _MOST_LABELS:
            raise invalid_argument(f"Field metric_descriptor.labels: at most {_MOST_LABELS}.")
        del made.monitored_resource_types[:]
        made.monitored_resource_types.extend(RESOURCES)
        self._keep(made)
        return made

    def _keep(self, descriptor: metric_pb2.MetricDescriptor) -> None:
        self._descriptors[descriptor.type] = descriptor
        self._made.setdefault(descriptor.type, self._now())
        self._save()

    def _named(self, name: str) -> metric_pb2.MetricDescriptor:
        metric = name.split("/metricDescriptors/", 1)[1]
        descriptor = self._descriptors.get(metric)
        if descriptor is None:
            raise not_found(f"Could not find descriptor for metric '{metric}'.")
        return descriptor

    def _list(self, request: Any) -> Any:
        selected = parse(request.filter)
        found = []
        for metric, descriptor in sorted(self._descriptors.items()):
            fields = {"metric.type": metric, "project": self._project.id}
            if matches(selected, fields.get):
                found.append(descriptor)
        page, token = paged(request, found, most=10_000)
        reply = types.ListMetricDescriptorsResponse.pb()(next_page_token=token)
        reply.metric_descriptors.extend(page)
        return reply

    def _delete(self, request: Any) -> empty_pb2.Empty:
        descriptor = self._named(request.name)
        if not _TYPE.fullmatch(descriptor.type):
            raise invalid_argument("Only user-created custom metrics can be deleted.")
        del self._descriptors[descriptor.type], self._made[descriptor.type]
        self.store.remove(descriptor.type)
        self._save()
        return empty_pb2.Empty()

    def _resource(self, request: Any) -> monitored_resource_pb2.MonitoredResourceDescriptor:
        kind = request.name.rpartition("/")[2]
        if kind not in RESOURCES:
            raise not_found(f"Could not find descriptor for resource '{kind}'.")
        return self._resource_descriptor(kind)

    def _resources(self, request: Any) -> Any:
        selected = parse(request.filter)
        found = [
            self._resource_descriptor(kind)
            for kind in RESOURCES
            if matches(selected, {"resource.type": kind}.get)
        ]
        page, token = paged(request, found, most=1_000)
        reply = types.ListMonitoredResourceDescriptorsResponse.pb()(next_page_token=token)
        reply.resource_descriptors.extend(page)
        return reply

    def _resource_descriptor(
        self, kind: str
    ) -> monitored_resource_pb2.MonitoredResourceDescriptor:
        title, text = _TITLES[kind]
        return monitored_resource_pb2.MonitoredResourceDescriptor(
            name=f"{self._project.path}/monitoredResourceDescriptors/{kind}",
            type=kind,
            display_name=title,
            description=text,
            labels=[label_pb2.LabelDescriptor(key=key) for key in RESOURCES[kind]],
        )

    def _read(self, request: Any) -> Any:
        selected = parse(request.filter)
        if not any(c.field == "metric.type" for c in comparisons(selected)):
            raise invalid_argument(
                f'Field filter had an invalid value of "{request.filter}": must specify a'
                " restriction on metric.type."
            )
        start, end = (
            _seconds(request.interval, "start_time"),
            _seconds(request.interval, "end_time"),
        )
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
        found = self.store.select(selected)
        made = (
            self._aggregated(found, request.aggregation, start, end)
            if request.HasField("aggregation")
            and (
                request.aggregation.per_series_aligner or request.aggregation.cross_series_reducer
            )
            else self._as_written(found, start, end)
        )
        made = [one for one in made if one.points]
        if request.view == types.ListTimeSeriesRequest.TimeSeriesView.HEADERS:
            for one in made:
                del one.points[:]
        page, token = paged(request, made, most=100_000)
        reply = types.ListTimeSeriesResponse.pb()(next_page_token=token)
        reply.time_series.extend(page)
        return reply

    def _as_written(self, found: Sequence[Series], start: float, end: float) -> list[Any]:
        made = []
        for series in found:
            # A point at the very start counts.
            shown = self._empty(series.key)
            descriptor = self._descriptors[series.key.metric]
            shown.metric_kind, shown.value_type = descriptor.metric_kind, descriptor.value_type
            shown.unit = descriptor.unit
            for point in reversed(series.within(math.nextafter(start, 0), end)):
                _add_point(shown, point.start, point.end).CopyFrom(point.value)
            made.append(shown)
        return made

    def _aggregated(
        self, found: Sequence[Series], aggregation: Any, start: float, end: float
    ) -> list[Any]:
        check_aggregation(aggregation, "aggregation")
        period = aggregation.alignment_period.ToTimedelta().total_seconds()
        if (end - start) / period > 100_000:
            raise invalid_argument("Field interval had an invalid value: too many periods.")
        made: dict[SeriesKey, Any] = {}
        moment = end
        while moment > start:
            for aligned in aggregate(found, aggregation, end=moment, period=period):
                self._add_aligned(made, aligned, moment)
            moment -= period
        return list(made.values())

    def _add_aligned(self, made: dict[SeriesKey, Any], aligned: Aligned, end: float) -> None:
        if aligned.value is None:
            return
        if aligned.key not in made:
            made[aligned.key] = self._empty(aligned.key)
            made[aligned.key].metric_kind = metric_pb2.MetricDescriptor.GAUGE
            made[aligned.key].value_type = _AGGREGATED
        _add_point(made[aligned.key], end, end).double_value = aligned.value

    def _empty(self, key: SeriesKey) -> Any:
        made = types.TimeSeries.pb()()
        made.metric.type, made.resource.type = key.metric, key.resource
        made.metric.labels.update(dict(key.metric_labels))
        made.resource.labels.update(dict(key.resource_labels))
        return made

    def _save(self) -> None:
        kept = [
            {"descriptor": json_format.MessageToDict(descriptor), "made": self._made[metric]}
            for metric, descriptor in self._descriptors.items()
            if self._made[metric]
        ]
        keep(self._file, kept)


def _check_descriptor(wanted: metric_pb2.MetricDescriptor) -> None:
    if not _TYPE.fullmatch(wanted.type) or len(wanted.type) > 200:
        raise invalid_argument(
            f'Field metric_descriptor.type had an invalid value of "{wanted.type}": The metric'
            " type must be a URL-formatted string with a domain and non-empty path."
        )
    kinds = metric_pb2.MetricDescriptor
    if wanted.metric_kind not in (kinds.GAUGE, kinds.CUMULATIVE, kinds.DELTA):
        raise invalid_argument(
            "Field metric_descriptor.metric_kind had an invalid value: must be set."
        )
    if wanted.value_type not in _VALUES.values() or wanted.value_type == kinds.STRING:
        raise invalid_argument(
            "Field metric_descriptor.value_type had an invalid value: must be BOOL, INT64, DOUBLE"
            " or DISTRIBUTION."
        )
    if wanted.metric_kind == kinds.CUMULATIVE and wanted.value_type == kinds.BOOL:
        raise invalid_argument(
            'Field metric_descriptor.value_type had an invalid value of "BOOL": a CUMULATIVE'
            " metric can't be BOOL."
        )
    if len(wanted.labels) > _MOST_LABELS:
        raise invalid_argument(
            f'Field metric_descriptor.labels had an invalid value of "size={len(wanted.labels)}":'
            f" at most {_MOST_LABELS} labels are allowed."
        )
    seen = set()
    for index, label in enumerate(wanted.labels):
        if not _LABEL.fullmatch(label.key) or label.key in seen:
            raise invalid_argument(
                f"Field metric_descriptor.labels[{index}].key had an invalid value of"
                f' "{label.key}".'
            )
        seen.add(label.key)


def _why_no_resource(series: Any, where: str, project: Project) -> str | None:
    kind, labels = series.resource.type, series.resource.labels
    if not kind:
        series.resource.type = kind = "global"
    if kind not in RESOURCES or kind == "uptime_url":
        return (
            f'Field {where}.resource.type had an invalid value of "{kind}": Unrecognized or'
            " unsupported monitored resource type."
        )
    for name, value in labels.items():
        if name not in RESOURCES[kind]:
            return (
                f"Field {where}.resource.labels had an invalid value of"
                f' "{name}": unrecognized resource label.'
            )
        if name == "project_id" and value not in ("", project.id, project.number):
            return (
                f'Field {where}.resource.labels[project_id] had an invalid value of "{value}":'
                " must be the project that is written to."
            )
    missing = [name for name in RESOURCES[kind] if name not in labels and name != "project_id"]
    if missing:
        return (
            f"Field {where}.resource.labels had an invalid value: missing the label"
            f" {missing[0]} of {kind}."
        )
    return None


def _not_written(request: Any, refused: Sequence[tuple[str, str]]) -> StatusError:
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


def _of_resource(series: Any) -> str:
    labels = ",".join(
        f"{name}:{value}" for name, value in series.resource.labels.items() if name != "project_id"
    )
    return f"write for resource={series.resource.type}{{{labels}}} failed with: "


def _point(point: Any) -> Point:
    end = _seconds(point.interval, "end_time") or 0.0
    value = types.TypedValue.pb()()
    value.CopyFrom(point.value)
    return Point(_seconds(point.interval, "start_time") or end, end, value)


def _seconds(interval: Any, field: str) -> float | None:
    if not interval.HasField(field):
        return None
    moment = getattr(interval, field)
    return float(moment.seconds + moment.nanos / 1e9)


def _add_point(series: Any, start: float, end: float) -> Any:
    """Add a point to a message; its value, to be filled."""
    point = series.points.add()
    point.interval.start_time.FromNanoseconds(round(start * 1e6) * 1_000)
    point.interval.end_time.FromNanoseconds(round(end * 1e6) * 1_000)
    return point.value
