"""Metrics of Cloud Monitoring, over gRPC and over REST."""

import ast
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google.api_core.exceptions as errors
import pytest
import requests
from google.api import metric_pb2
from google.cloud import monitoring_v3
from googleapiclient.errors import HttpError

import gcp_emulator.monitoring

from .iam_cloud import PROJECT, SERVER, ThreadedCloud, refused, running
from .monitoring_cloud import METRIC, Clients, checked, point, policy

ONES = "custom.googleapis.com/tests"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedCloud]:
    """A cloud; each test has metrics of its own."""
    with running(tmp_path_factory.mktemp("monitoring") / "cloud") as cloud:
        cloud.make_account()
        yield cloud


@pytest.fixture(scope="module")
def clients(cloud: ThreadedCloud) -> Iterator[Clients]:
    """Its clients."""
    clients = Clients(cloud)
    yield clients
    clients.close()


@pytest.fixture
def metric(request: pytest.FixtureRequest) -> str:
    """A metric of the test's own."""
    return f"{ONES}/{request.node.originalname}/{abs(hash(request.node.name)) % 10**6}"


def described(metric: str, **more: Any) -> metric_pb2.MetricDescriptor:
    """A descriptor."""
    kinds = metric_pb2.MetricDescriptor
    return metric_pb2.MetricDescriptor(
        **{
            "type": metric,
            "metric_kind": kinds.GAUGE,
            "value_type": kinds.INT64,
            "unit": "1",
            "description": "What it is.",
            **more,
        }
    )


def read(clients: Clients, metric: str, **more: Any) -> list[Any]:
    """The series of a metric in the last hour."""
    now = time.time()
    return list(
        clients.metrics.list_time_series(
            request={
                "name": PROJECT,
                "filter": f'metric.type="{metric}"',
                "interval": {
                    "start_time": {"seconds": int(now) - 3_600},
                    "end_time": {"seconds": int(now) + 1},
                },
                **more,
            }
        )
    )


def test_descriptor_is_made_found_and_deleted(clients: Clients, metric: str) -> None:
    """The same over both; labels are never removed."""
    label = {"key": "sweep", "description": "The sweep."}
    made = clients.metrics.create_metric_descriptor(
        name=PROJECT, metric_descriptor=described(metric, labels=[label])
    )
    assert made.name == f"{PROJECT}/metricDescriptors/{metric}"
    assert clients.metrics.get_metric_descriptor(name=made.name) == made
    shown = checked(clients.rest.metricDescriptors().get(name=made.name))
    assert shown["type"] == metric
    assert shown["metricKind"] == "GAUGE"
    assert shown["labels"] == [label]
    listed = checked(
        clients.rest.metricDescriptors().list(name=PROJECT, filter=f'metric.type="{metric}"')
    )
    assert listed["metricDescriptors"] == [shown]

    body = {**shown, "labels": [{"key": "experiment"}]}
    again = checked(clients.rest.metricDescriptors().create(name=PROJECT, body=body))
    assert {one["key"] for one in again["labels"]} == {"sweep", "experiment"}
    body = {**shown, "valueType": "DOUBLE"}
    refused(
        clients.rest.metricDescriptors().create(name=PROJECT, body=body), 400, "INVALID_ARGUMENT"
    )

    clients.metrics.delete_metric_descriptor(name=made.name)
    with pytest.raises(errors.NotFound):
        clients.metrics.get_metric_descriptor(name=made.name)
    refused(clients.rest.metricDescriptors().delete(name=made.name), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "sweeps"}, "URL-formatted"),
        ({"type": "compute.googleapis.com/x"}, "URL-formatted"),
        ({"metric_kind": 0}, "metric_kind"),
        ({"value_type": "STRING"}, "value_type"),
        ({"labels": [{"key": "a-b"}]}, "labels[0].key"),
        ({"labels": [{"key": "x" * 101}]}, "labels[0].key"),
        ({"labels": [{"key": f"k{n}"} for n in range(31)]}, "at most 30"),
    ],
)
def test_bad_descriptors_are_refused(
    clients: Clients, metric: str, change: dict[str, Any], words: str
) -> None:
    """What Google would refuse makes nothing."""
    wanted = described(**{"metric": metric, **change} if "type" not in change else {"metric": ""})
    if "type" in change:
        wanted.type = change["type"]
    with pytest.raises(errors.InvalidArgument) as caught:
        clients.metrics.create_metric_descriptor(name=PROJECT, metric_descriptor=wanted)
    assert words in caught.value.message


def test_points_are_written_and_read(clients: Clients, metric: str) -> None:
    """The first point describes the metric; later labels are added to it."""
    clients.write(metric=metric, age=60, sweep="s")
    clients.write(metric=metric, age=30, sweep="s")
    clients.write(metric=metric, sweep="t", experiment="t-000")
    descriptor = clients.metrics.get_metric_descriptor(
        name=f"{PROJECT}/metricDescriptors/{metric}"
    )
    assert descriptor.metric_kind == metric_pb2.MetricDescriptor.GAUGE
    assert descriptor.value_type == metric_pb2.MetricDescriptor.INT64
    assert [label.key for label in descriptor.labels] == ["sweep", "experiment"]

    series = {one.metric.labels["sweep"]: one for one in read(clients, metric)}
    assert set(series) == {"s", "t"}
    newest, oldest = series["s"].points
    assert newest.interval.end_time > oldest.interval.end_time
    assert newest.value.int64_value == 1
    assert dict(series["s"].resource.labels) == {"project_id": "local"}
    only = read(clients, metric, filter=f'metric.type="{metric}" AND metric.label.sweep="t"')
    assert [one.metric.labels["experiment"] for one in only] == ["t-000"]
    headers = monitoring_v3.ListTimeSeriesRequest.TimeSeriesView.HEADERS
    assert not any(one.points for one in read(clients, metric, view=headers))

    now = datetime.now(UTC)
    shown = checked(
        clients.rest.timeSeries().list(
            name=PROJECT,
            filter=f'metric.type="{metric}"',
            interval_startTime=(now - timedelta(hours=1)).isoformat(),
            interval_endTime=now.isoformat(),
            aggregation_alignmentPeriod="3600s",
            aggregation_perSeriesAligner="ALIGN_SUM",
            aggregation_crossSeriesReducer="REDUCE_SUM",
            aggregation_groupByFields=["metric.label.sweep"],
        )
    )
    sums = {
        one["metric"]["labels"]["sweep"]: one["points"][0]["value"]["doubleValue"]
        for one in shown["timeSeries"]
    }
    assert sums == {"s": 2.0, "t": 1.0}


def changed(series: monitoring_v3.TimeSeries, **more: Any) -> monitoring_v3.TimeSeries:
    """A series with something else in it."""
    for name, value in more.items():
        setattr(series, name, value)
    return series


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda m: [point(metric=m), point(metric=m)], "Duplicate TimeSeries encountered"),
        (lambda m: [point(metric=m, n=str(n)) for n in range(201)], "at most 200"),
        (lambda _: [], "must not be empty"),
        (lambda _: [point(metric="sweeps")], "metric.type"),
        (lambda m: [point(metric=m, age=26 * 3_600)], "more than 25h in the past"),
        (lambda m: [point(metric=m, age=-600)], "more than 5m in the future"),
        (lambda m: [point(metric=m, x="y" * 1025)], "at most 1024"),
        (
            lambda m: [
                monitoring_v3.TimeSeries(
                    point(metric=m), metric={"type": m, "labels": {"a-b": "x"}}
                )
            ],
            "metric.labels",
        ),
        (lambda m: [changed(point(metric=m), points=[])], "must be exactly 1"),
        (
            lambda m: [changed(point(metric=m), resource={"type": "bogus"})],
            "Unrecognized or unsupported monitored resource type",
        ),
        (
            lambda m: [changed(point(metric=m), resource={"type": "gce_instance"})],
            "missing the label instance_id",
        ),
        (
            lambda m: [
                changed(
                    point(metric=m), resource={"type": "global", "labels": {"project_id": "x"}}
                )
            ],
            "project_id",
        ),
        (lambda m: [changed(point(metric=m), value_type="DOUBLE")], "value_type"),
        (lambda m: [changed(point(metric=m), metric_kind="DELTA")], "metric_kind"),
    ],
)
def test_bad_points_are_refused(clients: Clients, metric: str, wrong: Any, words: str) -> None:
    """In Google's words, and nothing is written of them."""
    with pytest.raises(errors.InvalidArgument) as caught:
        clients.metrics.create_time_series(name=PROJECT, time_series=wrong(metric))
    assert words in caught.value.message
    assert len(read(clients, metric)) <= 1


def test_points_come_in_order_and_not_too_often(clients: Clients, metric: str) -> None:
    """Newer than the last one, by five seconds; of the type that the metric has."""
    clients.write(metric=metric, age=60)
    with pytest.raises(errors.InvalidArgument, match="Points must be written in order"):
        clients.write(metric=metric, age=90)
    with pytest.raises(errors.InvalidArgument, match="more frequently"):
        clients.write(metric=metric, age=57)
    series = point(metric=metric)
    series.points[0].value = monitoring_v3.TypedValue(double_value=1.0)
    with pytest.raises(errors.InvalidArgument, match="must be INT64, but is DOUBLE"):
        clients.metrics.create_time_series(name=PROJECT, time_series=[series])
    clients.write(metric=metric, age=50)


def test_part_of_a_write_can_fail(clients: Clients, metric: str) -> None:
    """The others are written, and the details count them, over both."""
    clients.write(metric=metric, n="0")
    some = [point(metric=metric, n=str(number)) for number in range(3)]
    with pytest.raises(errors.InvalidArgument) as caught:
        clients.metrics.create_time_series(name=PROJECT, time_series=some)
    assert "One or more TimeSeries could not be written: timeSeries[0]" in caught.value.message
    summary = monitoring_v3.CreateTimeSeriesSummary.pb()()
    assert caught.value.details[0].Unpack(summary)
    assert (summary.total_point_count, summary.success_point_count) == (3, 2)
    assert [(one.status.code, one.point_count) for one in summary.errors] == [(3, 1)]
    assert len(read(clients, metric)) == 3

    body = {
        "timeSeries": [
            {
                "metric": {"type": metric, "labels": {"n": str(number)}},
                "points": [
                    {
                        "interval": {"endTime": datetime.now(UTC).isoformat()},
                        "value": {"int64Value": "1"},
                    }
                ],
            }
            for number in (2, 3)
        ]
    }
    error = refused(
        clients.rest.timeSeries().create(name=PROJECT, body=body), 400, "INVALID_ARGUMENT"
    )
    assert error["details"] == [
        {
            "@type": "type.googleapis.com/google.monitoring.v3.CreateTimeSeriesSummary",
            "totalPointCount": 2,
            "successPointCount": 1,
            "errors": [{"status": {"code": 3}, "pointCount": 1}],
        }
    ]


def test_monitored_resources(clients: Clients) -> None:
    """`global` and `gce_instance`, with their labels."""
    name = f"{PROJECT}/monitoredResourceDescriptors/gce_instance"
    found = clients.metrics.get_monitored_resource_descriptor(name=name)
    assert [label.key for label in found.labels] == ["project_id", "instance_id", "zone"]
    listed = checked(clients.rest.monitoredResourceDescriptors().list(name=PROJECT))
    assert "global" in [one["type"] for one in listed["resourceDescriptors"]]


def test_lists_have_pages(clients: Clients, metric: str) -> None:
    """One by one, over both."""
    for number in range(3):
        clients.write(metric=f"{metric}/{number}")
    wanted = f'metric.type = starts_with("{metric}")'
    pages = clients.metrics.list_metric_descriptors(
        request={"name": PROJECT, "filter": wanted, "page_size": 2}
    )
    assert [len(page.metric_descriptors) for page in pages.pages] == [2, 1]
    collection = clients.rest.metricDescriptors()
    request = collection.list(name=PROJECT, filter=wanted, pageSize=2)
    reply = checked(request)
    assert len(checked(collection.list_next(request, reply))["metricDescriptors"]) == 1


def test_requests_that_are_none_are_refused(clients: Clients, metric: str) -> None:
    """Unknown fields, foreign projects, malformed names and JSON."""
    url = f"{clients.cloud.url}/v3/projects"
    body = {"type": metric, "metricKind": "GAUGE", "valueType": "INT64", "colour": "red"}
    reply = requests.post(f"{url}/local/metricDescriptors", json=body, timeout=10)
    assert reply.status_code == 400
    assert "Unknown name" in reply.json()["error"]["message"]
    reply = requests.post(f"{url}/local/metricDescriptors", data="{", timeout=10)
    assert reply.status_code == 400
    reply = requests.get(f"{url}/local/metricDescriptors?colour=red", timeout=10)
    assert "Cannot bind query parameter" in reply.json()["error"]["message"]
    assert requests.get(f"{url}/other/metricDescriptors", timeout=10).status_code == 403
    with pytest.raises(errors.PermissionDenied):
        clients.metrics.create_time_series(name="projects/other", time_series=[point()])
    with pytest.raises(errors.InvalidArgument, match="malformed"):
        clients.metrics.create_time_series(name="local", time_series=[point()])
    with pytest.raises(errors.InvalidArgument, match=r"restriction on metric\.type"):
        read(clients, metric, filter='resource.type="global"')
    number = f"projects/{clients.cloud.number}"
    clients.metrics.create_time_series(name=number, time_series=[point(metric=metric)])


def test_faults_come_over_both(clients: Clients, cloud: ThreadedCloud, metric: str) -> None:
    """503, a cut connection, and an answer that is lost after the work was done."""
    method = "monitoring.projects.timeSeries.create"

    def fault(**more: Any) -> None:
        body = {"method": method, **more}
        requests.post(f"{cloud.url}/emulator/faults", json=body, timeout=10).raise_for_status()

    before = cloud.cloud.faults.calls[method]
    fault(status=503)
    with pytest.raises(errors.ServiceUnavailable, match="Fault on demand"):
        clients.write(metric=metric)
    fault(status=0)
    with pytest.raises(errors.ServiceUnavailable):
        clients.write(metric=metric)
    assert read(clients, metric) == []
    fault(status=503, after=True)
    with pytest.raises(errors.ServiceUnavailable):
        clients.write(metric=metric)
    assert len(read(clients, metric)) == 1
    fault(status=200, delay=5)
    with pytest.raises(errors.DeadlineExceeded):
        clients.metrics.create_time_series(
            name=PROJECT, time_series=[point(metric=metric)], timeout=0.2
        )
    fault(status=429)
    with pytest.raises(errors.ResourceExhausted):
        clients.write(metric=metric)
    assert cloud.cloud.faults.calls[method] == before + 5
    fault(status=503)
    reply = requests.post(f"{cloud.url}/v3/{PROJECT}/timeSeries", json={}, timeout=10)
    assert reply.status_code == 503


def test_service_account_needs_permission(cloud: ThreadedCloud, metric: str) -> None:
    """A metric writer writes and does not read; both transports say so."""
    clients = Clients(cloud.as_account(SERVER))
    with pytest.raises(errors.PermissionDenied, match=r"monitoring\.timeSeries\.create"):
        clients.write(metric=metric)
    refused(clients.rest.alertPolicies().list(name=PROJECT), 403, "PERMISSION_DENIED")
    cloud.grant("roles/monitoring.metricWriter", f"serviceAccount:{SERVER}")
    clients.write(metric=metric)
    with pytest.raises(errors.PermissionDenied) as caught:
        clients.policies.create_alert_policy(name=PROJECT, alert_policy=policy())
    assert caught.value.reason == "IAM_PERMISSION_DENIED"
    clients.close()


READS = {
    "alertPolicies.list",
    "alerts.list",
    "metricDescriptors.list",
    "notificationChannelDescriptors.list",
    "notificationChannels.list",
    "timeSeries.list",
}
CHANNELS = {
    "notificationChannelDescriptors.list",
    "notificationChannels.create",
    "notificationChannels.delete",
    "notificationChannels.list",
    "notificationChannels.sendVerificationCode",
    "notificationChannels.verify",
}
POLICIES = {"alertPolicies.create", "alertPolicies.delete", "alertPolicies.list"}
METRICS = {"metricDescriptors.create", "metricDescriptors.list", "timeSeries.create"}


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("viewer", READS),
        ("editor", READS | CHANNELS | POLICIES | METRICS | {"metricDescriptors.delete"}),
        ("alertPolicyEditor", POLICIES),
        ("notificationChannelEditor", CHANNELS),
        ("metricWriter", METRICS),
    ],
)
def test_a_role_permits_what_googles_does(cloud: ThreadedCloud, role: str, may: set[str]) -> None:
    """All else is refused, whatever is wrong with it besides; a code of a channel always is."""
    account = cloud.make_account(f"sa-{role.lower()}")
    cloud.grant(f"roles/monitoring.{role}", f"serviceAccount:{account}")
    clients = Clients(cloud.as_account(account))
    allowed = set()
    for method in (
        READS
        | CHANNELS
        | POLICIES
        | METRICS
        | {
            "metricDescriptors.delete",
            "notificationChannels.getVerificationCode",
        }
    ):
        collection, _, verb = method.partition(".")
        call = getattr(getattr(clients.rest, collection)(), verb)
        words: dict[str, Any] = {"name": PROJECT}
        if verb not in {"list", "create"}:
            words["name"] = f"{PROJECT}/{collection}/custom.googleapis.com"
        if verb not in {"list", "delete"}:
            words["body"] = {}
        if collection == "alerts":
            words = {"parent": PROJECT}
        try:
            call(**words).execute()
        except HttpError as error:
            if error.status_code == 403:
                continue
        allowed.add(method)
    clients.close()
    assert allowed == may


def test_api_can_be_disabled(tmp_path: Path) -> None:
    """It is enabled from the start; when it is not, both transports refuse."""
    with running(tmp_path / "cloud") as cloud:
        clients = Clients(cloud)
        clients.write()
        name = f"{PROJECT}/services/monitoring.googleapis.com"
        cloud.services.disable(name=name, body={}).execute()
        with pytest.raises(errors.PermissionDenied) as caught:
            clients.write()
        assert caught.value.reason == "SERVICE_DISABLED"
        refused(clients.rest.alertPolicies().list(name=PROJECT), 403, "PERMISSION_DENIED")
        clients.close()


@pytest.mark.slow
def test_new_metric_takes_its_time(tmp_path: Path) -> None:
    """Until then policies can't be made for it, in Google's words."""
    with running(tmp_path / "cloud", descriptor_seconds=1.0) as cloud:
        clients = Clients(cloud)
        began = time.monotonic()
        clients.metrics.create_metric_descriptor(name=PROJECT, metric_descriptor=described(METRIC))
        with pytest.raises(errors.NotFound) as caught:
            clients.policy()
        assert caught.value.message.startswith(
            f'Cannot find metric(s) that match type = "{METRIC}". If a metric was created recently'
        )
        while True:
            try:
                clients.policy()
            except errors.NotFound:
                assert time.monotonic() < began + 10
                time.sleep(0.1)
            else:
                break
        assert time.monotonic() >= began + 1.0
        clients.close()


def test_clouds_tell_where_grpc_is(cloud: ThreadedCloud) -> None:
    """To commands, to containers, and in the status."""
    address = cloud.cloud.grpc_endpoint
    assert address.startswith("127.0.0.1:")
    assert cloud.cloud.environment["MONITORING_EMULATOR_HOST"] == address
    status = requests.get(f"{cloud.url}/emulator/status", timeout=10).json()
    assert status["grpc_endpoint"] == address


def test_only_messages_of_google_are_used() -> None:
    """The room may import the wire's types, and no client."""
    allowed = {
        "google.api",
        "google.cloud.monitoring_v3",
        "google.protobuf",
        "google.protobuf.message",
        "google.rpc",
    }
    for path in Path(gcp_emulator.monitoring.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("google"):
                assert node.module in allowed, path
                if node.module == "google.cloud.monitoring_v3":
                    assert [name.name for name in node.names] == ["types"], path
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("google") for name in node.names), path
