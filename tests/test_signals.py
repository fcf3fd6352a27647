"""The signals of an end on the local cloud: real runners, the emulated Cloud Monitoring."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.clouds import OwnCloud

from gcloud_ops import bucket, launching, objects, sweeps, templates
from gcloud_ops.local import LOCAL_IMAGE
from gcloud_ops.model import Snapshot, Sweep
from gcloud_ops.signals import EXPERIMENT_FINISHED, SWEEP_FINISHED


@pytest.fixture
def training_cloud(tmp_path: Path, environment: dict[str, str]) -> Iterator[OwnCloud]:
    """A local cloud whose runners are real."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    cloud = OwnCloud(folder, {**environment, "SINERGYM_SIGNAL_SECONDS": "30"}, engine="process")
    spec = templates.TemplateSpec(name=cloud.settings.template, image=LOCAL_IMAGE)
    templates.create_template(cloud.clients, spec)
    yield cloud
    cloud.stop()


def points(cloud: OwnCloud, metric: str) -> list[tuple[dict[str, str], int]]:
    """Labels and number of points of each series of a metric, over plain REST."""
    now = datetime.now(UTC)
    query = urllib.parse.urlencode(
        {
            "filter": f'metric.type="{metric}"',
            "interval.startTime": (now - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "interval.endTime": (now + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
    url = f"{cloud.endpoint}/v3/projects/{cloud.settings.project}/timeSeries?{query}"
    with urllib.request.urlopen(url, timeout=30) as reply:
        found: dict[str, Any] = json.load(reply)
    return [(one["metric"]["labels"], len(one["points"])) for one in found.get("timeSeries", [])]


def run(cloud: OwnCloud, name: str, *commands: str) -> Snapshot:
    """Launch a sweep and watch it to its end."""
    sweep = Sweep.of_commands(name, commands)
    list(launching.launch(launching.plan(sweep, cloud.clients), cloud.clients))
    return list(sweeps.watch(name, cloud.clients, interval=0.2))[-1]


@pytest.mark.slow
def test_three_end_and_all_is_signalled_once(training_cloud: OwnCloud) -> None:
    """One fails, and Monitoring is away for a while: a point each, and one of the sweep."""
    cloud = training_cloud
    away = {"method": "monitoring.projects.timeSeries.create", "count": 4}
    cloud.ask("faults", {**away, "status": 503, "reason": "backendError", "message": "later"})

    seen = run(cloud, "trio", "true", "echo no >&2; exit 3", "true")

    assert seen.is_gone
    ended = points(cloud, EXPERIMENT_FINISHED)
    assert sorted((of["experiment"], of["status"], count) for of, count in ended) == [
        ("trio-0001", "finished", 1),
        ("trio-0002", "failed", 1),
        ("trio-0003", "finished", 1),
    ]
    assert {of["hint"] for of, _ in ended if of["status"] == "failed"} == {
        "hint: its last line: no"
    }
    ((swept, count),) = points(cloud, SWEEP_FINISHED)
    assert (swept["status"], swept["experiments"], swept["failed"], count) == (
        "failed",
        "3",
        "1",
        1,
    )
    where = cloud.settings.bucket_name
    content, _ = objects.read_object(
        cloud.clients, where, "trio/finished.json", resource="the marker"
    )
    assert json.loads(content)["written"] is True
    records = bucket.list_records(cloud.clients, where, "trio")
    assert not [one for one in records.values() if one.silent_because]
