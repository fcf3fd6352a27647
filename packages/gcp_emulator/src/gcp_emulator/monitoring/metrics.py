"""MetricService: metric descriptors, monitored resources, and time series.

https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.metricDescriptors,
https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries; the limits are those of
https://cloud.google.com/monitoring/quotas.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from google.api import label_pb2, metric_pb2, monitored_resource_pb2
from google.cloud.monitoring_v3 import types
from google.protobuf import empty_pb2, json_format

from gcp_emulator.iam.errors import StatusError, invalid_argument, not_found
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.collection import Collection
from gcp_emulator.monitoring.filters import matches, parse
from gcp_emulator.monitoring.points import (
    LABEL,
    MOST_LABELS,
    VALUES,
    is_type,
    not_written,
    of_resource,
    point_of,
    why_not,
)
from gcp_emulator.monitoring.reading import checked, series_of
from gcp_emulator.monitoring.resources import RESOURCES, describe
from gcp_emulator.monitoring.series import SeriesKey, Store
from gcp_emulator.monitoring.wire import Method

__all__ = ["Metrics"]

_MOST_SERIES: Final = 200
_MOST_DESCRIPTORS: Final = 10_000
_METRICS: Final = Collection(
    service="MetricService",
    one="MetricDescriptor",
    many="MetricDescriptors",
    path="metricDescriptors",
    message=metric_pb2.MetricDescriptor,
    slashes=True,
    most=10_000,
)
_RESOURCES: Final = Collection(
    service="MetricService",
    one="MonitoredResourceDescriptor",
    many="MonitoredResourceDescriptors",
    path="monitoredResourceDescriptors",
    message=monitored_resource_pb2.MonitoredResourceDescriptor,
)
_SERIES: Final = Collection(
    service="MetricService",
    one="TimeSeries",
    many="TimeSeries",
    path="timeSeries",
    message=types.TimeSeries.pb(),
    most=100_000,
)
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
        yield _METRICS.create(self._create)
        yield _METRICS.get(lambda request: self._named(request.name))
        yield _METRICS.list(self._list)
        yield _METRICS.delete(self._delete)
        yield _RESOURCES.get(self._resource)
        yield _RESOURCES.list(self._resources)
        yield _SERIES.list(self._read)
        yield _SERIES.create(self.write, body="*", reply="")

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
            raise not_written(request, refused)
        return empty_pb2.Empty()

    def _write(self, series: Any, where: str, keys: set[SeriesKey]) -> str | None:
        """Write one; or say why not."""
        why = why_not(series, where, self._project, now=self._now()) or self._why_not_described(
            series, where
        )
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
        point = point_of(series.points[0])
        before = self.store.get(key)
        if before is not None and point.end <= before.newest:
            return f"{of_resource(series)}{_IN_ORDER}"
        if before is not None and point.end < before.newest + self._point_seconds:
            return f"{of_resource(series)}{_TOO_OFTEN}"
        self._add_labels(series)
        self.store.add(key, point, arrived=self._now())
        return None

    def _why_not_described(self, series: Any, where: str) -> str | None:
        """Why a series does not agree with the descriptor of its metric; makes one if needed."""
        kind = series.points[0].value.WhichOneof("value")
        value_type = VALUES[kind]
        if series.value_type not in (0, value_type):
            return f"Field {where}.value_type had an invalid value: points are of another type."
        metric_kind = series.metric_kind or metric_pb2.MetricDescriptor.GAUGE
        descriptor = self._descriptors.get(series.metric.type)
        if descriptor is None:
            if metric_kind == metric_pb2.MetricDescriptor.DELTA:
                return f'Field {where}.metric_kind had an invalid value of "DELTA".'
            if len(series.metric.labels) > MOST_LABELS:
                return f"Field {where}.metric.labels had an invalid value: at most {MOST_LABELS}."
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
        if len(known | set(series.metric.labels)) > MOST_LABELS:
            return f"Field {where}.metric.labels had an invalid value: at most {MOST_LABELS}."
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
        if len(made.labels) > MOST_LABELS:
            raise invalid_argument(f"Field metric_descriptor.labels: at most {MOST_LABELS}.")
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
        return _METRICS.page(request, found)

    def _delete(self, request: Any) -> empty_pb2.Empty:
        descriptor = self._named(request.name)
        if not is_type(descriptor.type):
            raise invalid_argument("Only user-created custom metrics can be deleted.")
        del self._descriptors[descriptor.type], self._made[descriptor.type]
        self.store.remove(descriptor.type)
        self._save()
        return empty_pb2.Empty()

    def _resource(self, request: Any) -> monitored_resource_pb2.MonitoredResourceDescriptor:
        kind = request.name.rpartition("/")[2]
        if kind not in RESOURCES:
            raise not_found(f"Could not find descriptor for resource '{kind}'.")
        return describe(self._project, kind)

    def _resources(self, request: Any) -> Any:
        selected = parse(request.filter)
        found = [
            describe(self._project, kind)
            for kind in RESOURCES
            if matches(selected, {"resource.type": kind}.get)
        ]
        return _RESOURCES.page(request, found)

    def _read(self, request: Any) -> Any:
        selected, start, end = checked(request)
        found = self.store.select(selected)
        made = series_of(request, found, self._descriptors, start=start, end=end)
        return _SERIES.page(request, made)

    def _save(self) -> None:
        kept = [
            {"descriptor": json_format.MessageToDict(descriptor), "made": self._made[metric]}
            for metric, descriptor in self._descriptors.items()
            if self._made[metric]
        ]
        keep(self._file, kept)


def _check_descriptor(wanted: metric_pb2.MetricDescriptor) -> None:
    if not is_type(wanted.type):
        raise invalid_argument(
            f'Field metric_descriptor.type had an invalid value of "{wanted.type}": The metric'
            " type must be a URL-formatted string with a domain and non-empty path."
        )
    kinds = metric_pb2.MetricDescriptor
    if wanted.metric_kind not in (kinds.GAUGE, kinds.CUMULATIVE, kinds.DELTA):
        raise invalid_argument(
            "Field metric_descriptor.metric_kind had an invalid value: must be set."
        )
    if wanted.value_type not in VALUES.values() or wanted.value_type == kinds.STRING:
        raise invalid_argument(
            "Field metric_descriptor.value_type had an invalid value: must be BOOL, INT64, DOUBLE"
            " or DISTRIBUTION."
        )
    if wanted.metric_kind == kinds.CUMULATIVE and wanted.value_type == kinds.BOOL:
        raise invalid_argument(
            'Field metric_descriptor.value_type had an invalid value of "BOOL": a CUMULATIVE'
            " metric can't be BOOL."
        )
    if len(wanted.labels) > MOST_LABELS:
        raise invalid_argument(
            f'Field metric_descriptor.labels had an invalid value of "size={len(wanted.labels)}":'
            f" at most {MOST_LABELS} labels are allowed."
        )
    seen = set()
    for index, label in enumerate(wanted.labels):
        if not LABEL.fullmatch(label.key) or label.key in seen:
            raise invalid_argument(
                f"Field metric_descriptor.labels[{index}].key had an invalid value of"
                f' "{label.key}".'
            )
        seen.add(label.key)
