"""The metrics that the policies watch: their descriptors, made, looked for and removed.

A descriptor would be made by the first point, too, but without a description, and policies can't
watch what isn't there (https://cloud.google.com/monitoring/custom-metrics/creating-metrics).
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from gcloud_ops.alerts.wanted import METRICS
from gcloud_ops.clients import Clients
from gcloud_ops.errors import NotFound

__all__ = ["ensure_metrics", "missing_metrics", "remove_metrics"]

_CLIENT: Final = "MetricServiceClient"
_OURS: Final = "custom.googleapis.com/sinergym/"


def missing_metrics(clients: Clients) -> tuple[str, ...]:
    """Types of the metrics that aren't there as they should be; in one call."""
    return tuple(str(metric["type"]) for metric in _missing(clients))


def ensure_metrics(clients: Clients) -> tuple[str, ...]:
    """Make the descriptors that are missing; also over those that the first point made.

    Returns:
        The types of those that were made.
    """
    from google.api import metric_pb2
    from google.protobuf.json_format import ParseDict

    client = clients.monitoring(_CLIENT)
    missing = _missing(clients)
    for metric in missing:
        clients.read(
            f"metric {metric['type']}",
            client.create_metric_descriptor,
            name=f"projects/{clients.project}",
            metric_descriptor=ParseDict(dict(metric), metric_pb2.MetricDescriptor()),
        )
    return tuple(str(metric["type"]) for metric in missing)


def remove_metrics(clients: Clients) -> tuple[str, ...]:
    """Delete the descriptors, and with them all points; returns the types of those there were."""
    client = clients.monitoring(_CLIENT)
    there = [kind for kind in _descriptors(clients) if kind in {one["type"] for one in METRICS}]
    for kind in there:
        with suppress(NotFound):
            clients.read(
                f"metric {kind}",
                client.delete_metric_descriptor,
                name=f"projects/{clients.project}/metricDescriptors/{kind}",
            )
    return tuple(there)


def _missing(clients: Clients) -> list[Mapping[str, Any]]:
    there = _descriptors(clients)
    return [metric for metric in METRICS if not _is_as(there.get(metric["type"]), metric)]


def _is_as(found: Any, metric: Mapping[str, Any]) -> bool:
    keys = {one["key"] for one in metric["labels"]}
    return (
        found is not None
        and found.description == metric["description"]
        and {one.key for one in found.labels} >= keys
    )


def _descriptors(clients: Clients) -> dict[str, Any]:
    found = clients.read_all(
        "metrics",
        clients.monitoring(_CLIENT).list_metric_descriptors,
        name=f"projects/{clients.project}",
        filter=f'metric.type = starts_with("{_OURS}")',
    )
    return {one.type: one for one in found}
