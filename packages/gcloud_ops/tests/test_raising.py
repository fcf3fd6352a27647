"""Groups and members come to be, whoever has begun: derived templates, regions, two at once."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops import bucket, groups, instances, launching, objects, raising, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Machine, Manifest, Retry
from gcloud_ops.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    OperationFailed,
    Unavailable,
)
from gcloud_ops.launching import GroupMade, InstancesRequested, Launched, NothingToDo
from gcloud_ops.model import ExperimentStatus, Location, Sweep
from gcloud_ops.templates import DERIVED_LABEL, derived_properties

from .conftest import ask, calls_of, eventually, inert_cloud, settings_of

WHERE = "some-bucket"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A local cloud of this file's own, whose calls are counted."""
    folder = tmp_path_factory.mktemp("raising")
    with inert_cloud(folder) as about:
        clients = Clients.connect(settings_of(about, folder / "key"))
        spec = templates.TemplateSpec(name="sinergym-template", image="docker.io/s/trainer:1")
        templates.create_template(clients, spec)
        objects.ensure_bucket(clients, clients.settings.bucket_name)
        yield clients


def manifest_of(name: str, count: int = 2, **changes: Any) -> Manifest:
    """A manifest, as a launcher writes it."""
    sweep = Sweep.of_commands(name, [f"train {number}" for number in range(count)])
    manifest = Manifest(
        sweep=name,
        created=datetime.now(UTC),
        project="local",
        zone="europe-west1-b",
        template="sinergym-template",
        dispatch=sweep.dispatch,
        launcher={"user": "ana"},
        experiments=sweep.experiments,
    )
    return replace(manifest, **changes)


def raise_all(
    clients: Clients, manifest: Manifest, *, patience: float = 20.0, **options: Any
) -> list[object]:
    """Raise all of a manifest's experiments; what was told."""
    wanted = [experiment.id for experiment in manifest.experiments]
    return list(
        raising.raise_members(
            clients, manifest, wanted, bucket=WHERE, patience=patience, **options
        )
    )


def properties_of(clients: Clients, template: str) -> Any:
    """A template's properties, as Compute Engine has them."""
    return templates._read_template(clients, template).properties


# ------------------------------------------------------------------------------ templates


def test_what_a_derived_template_says(cloud: Clients) -> None:
    """Spot, the limit and the machine; all else stays, and it says what it is of."""
    base = properties_of(cloud, "sinergym-template")

    changed = derived_properties(base, "base", spot=True, seconds=3600, machine_type="e2-small")

    scheduling = changed.scheduling
    assert scheduling.provisioning_model == "SPOT"
    assert scheduling.on_host_maintenance == "TERMINATE"
    assert scheduling.automatic_restart is False
    assert scheduling.instance_termination_action == "DELETE"
    assert scheduling.max_run_duration.seconds == 3600
    assert changed.machine_type == "e2-small"
    assert changed.labels[DERIVED_LABEL] == "base"
    assert changed.disks == base.disks
    assert {item.key: item.value for item in changed.metadata.items} == {
        item.key: item.value for item in base.metadata.items
    }
    assert DERIVED_LABEL not in base.labels, "what was given stays as it was"
    limited = derived_properties(base, "base", seconds=3600).scheduling
    assert limited.provisioning_model == base.scheduling.provisioning_model != "SPOT"
    assert limited.instance_termination_action == "DELETE"
    assert derived_properties(base, "base", machine_type=base.machine_type) is base


@pytest.mark.parametrize("seconds", [0, 29, 120 * 24 * 3600 + 1])
def test_limits_that_google_refuses(cloud: Clients, seconds: int) -> None:
    """Named before anything is made."""
    with pytest.raises(InvalidRequest, match=r"^max_hours: .* can't limit a VM"):
        templates.derive(cloud, "sinergym-template", seconds=seconds)


def test_everybody_derives_the_same(cloud: Clients) -> None:
    """Two at once too; nothing is made where nothing differs; another base is another name."""
    names: list[str] = []

    def derive() -> None:
        names.append(templates.derive(cloud, "sinergym-template", spot=True))

    both = [threading.Thread(target=derive) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    long = templates.create_template(
        cloud, templates.TemplateSpec(name="x" * 63, image="docker.io/s/trainer:2")
    )
    other = templates.derive(cloud, long.name, spot=True)

    assert len(set(names)) == 1
    assert names[0].startswith("sinergym-template-")
    assert templates.get_template(cloud, names[0]).derived_from == "sinergym-template"
    assert len(other) == 63
    assert other[-8:] != names[0][-8:]
    assert templates.derive(cloud, "sinergym-template") == "sinergym-template"
    same = templates.derive(cloud, "sinergym-template", machine_type="n2-highcpu-8")
    assert same == "sinergym-template"
    with pytest.raises(NotFound):
        templates.derive(cloud, "nobody-made-it", spot=True)


# -------------------------------------------------------------------------------- groups


def test_a_regional_group_with_several_machine_types(cloud: Clients) -> None:
    """One listing says where each member is; a member is removed in its own zone."""
    manifest = manifest_of(
        "wide",
        3,
        zones=("europe-west1-b", "europe-west1-c"),
        machine=Machine(types=("n2-highcpu-8", "e2-standard-4")),
    )
    where = Location.of(manifest)

    told = raise_all(cloud, manifest)

    assert told == [
        GroupMade(group="wide", zone="europe-west1", template="sinergym-template"),
        InstancesRequested(count=3),
    ]
    group = groups.get_group(cloud, "wide", where=where)
    assert group is not None
    assert (group.region, group.zone, group.target_size) == ("europe-west1", "", 3)
    assert group in groups.list_groups(cloud)
    raw = groups._read_group(cloud, "wide", where)
    assert raw is not None
    assert raw.distribution_policy.target_shape == "ANY"
    assert raw.update_policy.instance_redistribution_type == "NONE"
    ranks = {
        one.rank: list(one.machine_types)
        for one in raw.instance_flexibility_policy.instance_selections.values()
    }
    assert ranks == {1: ["n2-highcpu-8"], 2: ["e2-standard-4"]}
    members = groups.list_members(cloud, "wide", where=where) or ()
    assert [member.name for member in members] == ["wide-0001", "wide-0002", "wide-0003"]
    assert {member.zone for member in members} <= set(manifest.zones)
    groups.delete_instances(cloud, "wide", ["wide-0002", "wide-0009"], where=where)
    eventually(
        lambda: len(groups.list_members(cloud, "wide", where=where) or ()) == 2, "one is gone"
    )
    assert groups.list_errors(cloud, "wide", where=where) == ()
    found = instances.list_instances(cloud, group="wide")
    assert {instance.name for instance in found} == {"wide-0001", "wide-0003"}
    assert groups.delete_group(cloud, "wide", where=where)
    assert groups.list_members(cloud, "wide", where=where) is None


@pytest.mark.slow
def test_what_is_there_is_left_alone(cloud: Clients) -> None:
    """The second call looks, and makes what went missing and nothing else."""
    manifest = manifest_of("twice", 3)
    raise_all(cloud, manifest)
    before = {member.id for member in groups.list_members(cloud, "twice") or ()}

    assert raise_all(cloud, manifest) == []
    groups.delete_instances(cloud, "twice", ["twice-0002"])
    told = raise_all(cloud, manifest)

    assert InstancesRequested(count=1) in told
    members = groups.list_members(cloud, "twice") or ()
    assert [member.name for member in members] == ["twice-0001", "twice-0002", "twice-0003"]
    after = {member.id for member in members if member.name != "twice-0002"}
    assert after <= before
    groups.delete_group(cloud, "twice")


@pytest.mark.slow
def test_two_laptops_at_once(cloud: Clients) -> None:
    """Both end well, and there is one group with one member for each experiment."""
    manifest = manifest_of("both", 4)
    told: list[list[object]] = []
    both = [
        threading.Thread(target=lambda: told.append(raise_all(cloud, manifest))) for _ in range(3)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(30)

    assert len(told) == 3, "all came to their ends"
    assert sum(isinstance(event, GroupMade) for events in told for event in events) == 1
    requested = [e.count for events in told for e in events if isinstance(e, InstancesRequested)]
    assert requested == [4]
    assert len(groups.list_members(cloud, "both") or ()) == 4
    groups.delete_group(cloud, "both")


def test_a_group_that_goes_is_waited_for(cloud: Clients) -> None:
    """Somebody deletes the old group at this moment: a new one is made when it is gone."""
    manifest = manifest_of("phoenix")
    raise_all(cloud, manifest)
    old = {member.id for member in groups.list_members(cloud, "phoenix") or ()}
    groups.delete_group(cloud, "phoenix", wait=False)

    told = raise_all(cloud, manifest)

    assert any(isinstance(event, GroupMade) for event in told)
    now = groups.list_members(cloud, "phoenix") or ()
    assert len(now) == 2
    assert old.isdisjoint(member.id for member in now)
    groups.delete_group(cloud, "phoenix")


def test_another_group_of_the_name(cloud: Clients) -> None:
    """It is left alone, and said so."""
    groups.create_group(cloud, "theirs", "sinergym-template", metadata={"a": "b"}, labels={})

    with pytest.raises(AlreadyExists, match="none of the sweep in gs://some-bucket"):
        raise_all(cloud, manifest_of("theirs"))

    assert groups.list_members(cloud, "theirs") == ()
    groups.delete_group(cloud, "theirs")


def test_a_cancel_meanwhile_ends_it(cloud: Clients) -> None:
    """A group that we have made, and that somebody removes, is not made once more."""
    manifest = manifest_of("withdrawn")
    events = raising.raise_members(cloud, manifest, ["withdrawn-0001"], bucket=WHERE)
    assert isinstance(next(events), GroupMade)
    groups.delete_group(cloud, "withdrawn")

    with pytest.raises(OperationFailed, match="removed while it was being launched"):
        list(events)

    assert groups.get_group(cloud, "withdrawn") is None


def test_patience_ends(cloud: Clients) -> None:
    """Where the cloud does not answer for longer, it says what it waited for; all stays."""
    manifest = manifest_of("patience")
    raise_all(cloud, manifest)
    method = "compute.instanceGroupManagers.listManagedInstances"
    ask(cloud, "faults", {"method": method, "count": 1000, "status": 503})

    with pytest.raises(Unavailable, match="in vain for the cloud to answer") as caught:
        raise_all(cloud, manifest, patience=0.5)

    ask(cloud, "faults", method="DELETE")
    assert "sweep resume patience" in caught.value.hint
    assert len(groups.list_members(cloud, "patience") or ()) == 2
    groups.delete_group(cloud, "patience")


# ------------------------------------------------------------------------------- launches


def launch(clients: Clients, sweep: Sweep) -> list[object]:
    """All events of a launch."""
    return list(launching.launch(launching.plan(sweep, clients), clients, patience=20))


def test_a_thousand_at_boot_take_ten_calls(cloud: Clients) -> None:
    """Plan and launch together; then nobody is needed, and a resume finds nothing to do."""
    sweep = Sweep.of_commands("thousand", [f"train --seed {n}" for n in range(1000)])
    ask(cloud, "capacity", {"capacity": 0})
    before = sum(calls_of(cloud).values())

    events = launch(cloud, sweep)

    assert sum(calls_of(cloud).values()) - before <= 10
    assert events[-1] == Launched(sent=1000, failed=0, waiting=0, at_boot=True)
    seen = sweeps.status("thousand", cloud)
    assert set(seen.counts) <= {ExperimentStatus.PROVISIONING, ExperimentStatus.QUEUED}
    (nothing,) = launching.resume("thousand", cloud)
    assert isinstance(nothing, NothingToDo)
    groups.delete_group(cloud, "thousand")
    ask(cloud, "capacity", {"capacity": 5000})


def test_a_launch_with_everything(cloud: Clients) -> None:
    """What was asked for is in the plan, the manifest and the group's template."""
    sweep = replace(
        Sweep.of_commands("whole", ["a", "b"]),
        zones=("europe-west1-c", "europe-west1-b"),
        machine_types=("n2-highcpu-8", "e2-standard-4"),
        spot=True,
        hours=2,
        max_hours=10,
    )
    planned = launching.plan(sweep, cloud, source=Path(__file__).parent)

    assert planned.seconds == 36000
    assert planned.cost.spot
    assert planned.cost.at_most is not None
    assert planned.machine_types == sweep.machine_types
    made = list(launching.launch(planned, cloud, patience=20))
    manifest = bucket.read_manifest(cloud, planned.bucket, "whole")
    assert manifest.zones == sweep.zones
    assert (manifest.zone, manifest.seconds) == ("europe-west1-c", 36000)
    assert manifest.machine.spot
    assert manifest.machine.hourly == planned.cost.hourly
    assert manifest.machine.types == sweep.machine_types
    assert manifest.image == planned.image
    assert planned.image is not None
    assert planned.image.digest.startswith("sha256:")
    assert manifest.source == planned.source
    template = next(event.template for event in made if isinstance(event, GroupMade))
    scheduling = properties_of(cloud, template).scheduling
    assert scheduling.provisioning_model == "SPOT"
    assert scheduling.max_run_duration.seconds == 36000
    assert sweeps.cancel("whole", cloud).is_gone


def test_one_zone_and_two_machine_types_make_a_region_of_that_zone(cloud: Clients) -> None:
    """Only regional groups take several machine types; one type alone is derived."""
    two = replace(Sweep.of_commands("two", ["a"]), machine_types=("e2-small", "e2-medium"))
    one = replace(two, machine_types=("e2-small",))

    assert launching.plan(two, cloud).zones == ("europe-west1-b",)
    assert launching.plan(one, cloud).zones == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zones": ("europe-west1-b", "europe-west9-x")}, "zones: .* different regions"),
        ({"zones": ("europe-west1-b", "europe-west1-b")}, "zones: .* twice"),
        ({"zones": ("here", "there")}, "zones: 'here' is not a zone"),
        ({"machine_types": ("N2",)}, "machines: 'N2' is not a machine type"),
        ({"max_hours": 3000.0}, "max-hours: 3000 is more than"),
        ({"max_hours": -1.0}, "max_hours: -1.0 is not a number above 0"),
        ({"max_cost": 5.0, "machine_types": ("a9-big-1",)}, "max-cost: .* has no price"),
    ],
)
def test_what_a_plan_refuses(cloud: Clients, changes: dict[str, Any], said: str) -> None:
    """One line that names the field, and nothing is made."""
    before = {m: n for m, n in calls_of(cloud).items() if m.endswith("insert")}
    with pytest.raises(InvalidRequest, match=f"^{said}"):
        launching.plan(replace(Sweep.of_commands("bad", ["a"]), **changes), cloud)

    assert {m: n for m, n in calls_of(cloud).items() if m.endswith("insert")} == before


def test_a_template_from_before_retries(cloud: Clients) -> None:
    """A policy that nobody would follow is refused, with what to do."""
    raw = templates._read_template(cloud, "sinergym-template")
    kept = [item for item in raw.properties.metadata.items if item.key != "sinergym-restart"]
    raw.properties.metadata.items = kept
    cloud.change(
        "template aged",
        cloud.templates.insert_unary,
        project=cloud.project,
        instance_template_resource={"name": "aged", "properties": raw.properties},
    )
    sweep = replace(
        Sweep.of_commands("old", ["a"], template="aged"), retry=Retry(times=1, kinds=("error",))
    )

    with pytest.raises(InvalidRequest, match=r"^retry: the template aged is older") as caught:
        launching.plan(sweep, cloud)

    assert "template create" in caught.value.hint
    assert launching.plan(replace(sweep, template=None), cloud).sweep.retry == sweep.retry
    assert launching.plan(replace(sweep, retry=None), cloud).template.name == "aged"


def test_what_is_refused_leaves_nothing(cloud: Clients) -> None:
    """A group whose instances can't be asked for goes, with the manifest: the name is free."""
    fault = {"method": "compute.instanceGroupManagers.createInstances", "status": 403, "count": 1}
    ask(cloud, "faults", {**fault, "reason": "quotaExceeded", "message": "no"})

    with pytest.raises(Exception, match="group refused"):
        launch(cloud, Sweep.of_commands("refused", ["a"]))

    assert groups.get_group(cloud, "refused") is None
    assert "refused" not in {one.name for one in sweeps.list_sweeps(cloud)}


def test_resume_goes_on_from_the_manifest_alone(cloud: Clients) -> None:
    """As after a kill right behind the manifest; the ended stay ended, the missing come."""
    manifest = manifest_of("begun", 3)
    where = cloud.settings.bucket_name
    bucket.create_manifest(cloud, where, manifest)
    ended = {"schema": 1, "experiment": "begun-0002", "attempt": 1, "state": "finished"}
    bucket.replace_record(cloud, where, "begun", "begun-0002", ended, generation=0)

    events = list(launching.resume("begun", cloud, patience=20))

    assert events[-1] == Launched(sent=2, failed=0, waiting=0, at_boot=True)
    members = groups.list_members(cloud, "begun") or ()
    assert [member.name for member in members] == ["begun-0001", "begun-0003"]
    sweeps.cancel("begun", cloud)
    (nothing,) = launching.resume("begun", cloud)
    assert isinstance(nothing, NothingToDo)
    assert "sweep rerun begun --failed" in nothing.why
