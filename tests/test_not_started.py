"""A container that can't be started: the instance says so by itself, and removes itself."""

import time
from collections.abc import Iterator

import pytest
from tests.clouds import OwnCloud, impatient_template

from gcloud_ops import bucket, launching, sweeps, templates
from gcloud_ops.contract import Dispatch
from gcloud_ops.model import Sweep

TEMPLATE = "impatient"


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[OwnCloud]:
    """A cloud that really runs scripts, with a template that tries again at once."""
    fast = ("--boot-seconds", "0.1", "--pull-seconds", "0.05")
    made = OwnCloud(tmp_path_factory.mktemp("not-started"), environment, *fast, engine="process")
    spec = templates.TemplateSpec(name="patient", image="europe-docker.pkg.dev/local/i/trainer:9")
    templates.create_template(made.clients, spec)
    impatient_template(made.clients, "patient", TEMPLATE)
    yield made
    made.stop()


def _launched(cloud: OwnCloud, name: str, *commands: str, template: str = TEMPLATE) -> None:
    sweep = Sweep.of_commands(name, commands, template=template, dispatch=Dispatch.BOOT)
    for _ in launching.launch(launching.plan(sweep, cloud.clients), cloud.clients):
        pass


@pytest.mark.slow
def test_an_image_that_can_not_be_pulled(cloud: OwnCloud) -> None:
    """Records, a signal, no instance and no group; without a launcher, in a few seconds."""
    cloud.ask("faults", {"method": "docker.pull", "count": 1000})
    _launched(cloud, "pullless", "true", "true")
    deadline = time.monotonic() + 90
    while any(row.member for row in sweeps.status("pullless", cloud.clients).rows):
        assert time.monotonic() < deadline, "the instances stay"
        time.sleep(0.2)
    # Two that leave in the same second leave an empty group, which goes with the next look.
    *_, seen = sweeps.watch("pullless", cloud.clients, interval=0.2)
    assert seen.is_gone
    assert [str(row.status) for row in seen.rows] == ["failed", "failed"]
    for row in seen.rows:
        assert row.record is not None
        assert row.record.exit is not None
        assert (row.record.exit.kind, row.record.exit.code) == ("image_pull", 125)
        assert "manifest" in row.record.exit.hint
        assert row.record.raw["instance"] == row.id
    # What it has written is a record like any other.
    again = bucket.list_records(cloud.clients, seen.bucket, "pullless")
    assert all(record.is_final for record in again.values())
    calls = cloud.calls()
    assert calls["monitoring.projects.timeSeries.create"] >= 2


@pytest.mark.slow
def test_a_runner_that_can_not_begin(cloud: OwnCloud) -> None:
    """Its last words are the hint; an experiment that merely failed is left to its runner."""
    cloud.forget_faults()
    spec = templates.TemplateSpec(
        name="wrong",
        image="europe-docker.pkg.dev/local/i/trainer:9",
        environment={"SINERGYM_PATIENCE": "for ever"},
    )
    templates.create_template(cloud.clients, spec)
    _launched(cloud, "beginless", "true", template="wrong")
    _launched(cloud, "failing", "exit 2")
    *_, seen = sweeps.watch("beginless", cloud.clients, interval=0.2)
    *_, other = sweeps.watch("failing", cloud.clients, interval=0.2)
    ends = [one.rows[0].record.exit for one in (seen, other) if one.rows[0].record]
    assert [(end.kind, end.code) for end in ends if end] == [("error", 125), ("usage", 2)]
    assert ends[0] is not None
    assert "the runner could not begin: " in ends[0].hint
    assert "'for ever' is not a number of seconds" in ends[0].hint
    assert seen.is_gone
    assert other.is_gone
