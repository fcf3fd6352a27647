"""What is left over: found among what is not, by what it says of itself, and removed."""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops import bucket, groups, instances, objects, raising, reaping, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Experiment, Image, Machine, Manifest, Record
from gcloud_ops.model import Instance, Location, experiment_id
from gcloud_ops.reaping import Disk, Kind, KnownGroup, Reserved, Seen, SeenSweep, judge

from .commands import Run, play_runner, runner, surroundings_of
from .conftest import eventually, inert_cloud, settings_of

ZONE = "europe-west1-b"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def ago(**parts: float) -> datetime:
    """So long before now."""
    return NOW - timedelta(**parts)


# ---------------------------------------------------------------------------------- judging


def a_manifest(count: int = 2, **fields: object) -> Manifest:
    """A sweep that was launched five hours ago, at 10 cents an hour for a VM."""
    basic = {
        "sweep": "s",
        "created": ago(hours=5),
        "project": "p",
        "zone": ZONE,
        "template": "base",
        "dispatch": Dispatch.BOOT,
        "launcher": {},
        "experiments": tuple(
            Experiment(id=experiment_id("s", n + 1), command="c") for n in range(count)
        ),
        "machine": Machine(hourly=0.1),
    }
    return Manifest(**{**basic, **fields})  # type: ignore[arg-type]


def a_record(number: int, state: str = "finished", *, stored: datetime) -> Record:
    """What a runner said last."""
    return Record(experiment=experiment_id("s", number), attempt=1, state=state, stored=stored)


GROUP = KnownGroup(
    name="s",
    where=Location(zone=ZONE),
    template="base",
    target_size=2,
    created=ago(hours=5),
    metadata={"sinergym-sweep": "s", "sinergym-bucket": "b"},
)


def a_vm(number: int, **fields: object) -> Instance:
    """A member of the group."""
    basic = {
        "name": experiment_id("s", number),
        "zone": ZONE,
        "status": "RUNNING",
        "machine_type": "n2-highcpu-8",
        "group": "s",
        "labels": {"sinergym-sweep": "s"},
        "created": ago(hours=5),
    }
    return Instance(**{**basic, **fields})  # type: ignore[arg-type]


def seen(
    *states: tuple[str, datetime] | None,
    group: KnownGroup | None = GROUP,
    manifest: Manifest | None = None,
    **fields: object,
) -> Seen:
    """A sweep with its group and VMs, and what its records say."""
    records = {
        experiment_id("s", n): a_record(n, one[0], stored=one[1])
        for n, one in enumerate(states, start=1)
        if one
    }
    basic = {
        "groups": (group,) if group else (),
        "instances": tuple(a_vm(n + 1) for n in range(len(states))),
        "sweeps": {
            "gs://b/s": SeenSweep(manifest=manifest or a_manifest(len(states)), records=records)
        },
        "listed": frozenset({"s"}),
    }
    return Seen(**{**basic, **fields})  # type: ignore[arg-type]


def found(what: Seen) -> list[tuple[str, str, str]]:
    """Kind, name and reason of each that is left over."""
    return [(str(one.kind), one.name, one.why) for one in judge(what, now=NOW)]


LONG, JUST = ago(hours=3), ago(minutes=2)


@pytest.mark.parametrize(
    "states",
    [
        [None, None],  # waits for machines, or has just been launched
        [None, ("finished", LONG)],
        [("running", LONG), ("finished", JUST)],  # and the contact is lost
        [("waiting", JUST), ("retrying", JUST)],
        [("uploading", JUST), ("finished", JUST)],
        [("again", LONG), ("failed", JUST)],
        [("finished", JUST), ("failed", JUST)],  # is removing itself
    ],
)
def test_what_may_still_do_something_is_left_alone(
    states: list[tuple[str, datetime] | None],
) -> None:
    """Whatever state it is in; unless an instance stays after its experiment's end."""
    late = {one for one in states if one == ("finished", LONG)}
    assert len(found(seen(*states))) == len(late)
    young = replace(GROUP, created=JUST, target_size=0)
    assert found(seen(*states, group=young, instances=())) == []


def test_an_instance_past_its_record_is_left_over() -> None:
    """And costs what its sweep was priced at."""
    what = seen(("finished", LONG), ("running", JUST))
    assert found(what) == [("instance", "s-0001", "its experiment is finished for 3 h 0 min")]
    assert judge(what, now=NOW)[0].daily == pytest.approx(2.4)
    # A new one, as of a rerun that says so in a moment, gets its time.
    young = replace(what, instances=(a_vm(1, created=JUST), a_vm(2)))
    assert found(young) == []


def test_a_group_whose_experiments_have_ended_is_left_over_with_its_instances() -> None:
    """One line for all of them."""
    what = seen(("finished", LONG), ("failed", ago(hours=2)))
    assert found(what) == [("group", "s", "all 2 experiments ended 2 h 0 min ago")]
    assert judge(what, now=NOW)[0].daily == pytest.approx(4.8)
    kept = replace(GROUP, metadata={**GROUP.metadata, "sinergym-keep": "TRUE"})
    assert found(replace(what, groups=(kept,))) == []


def test_a_group_without_a_sweep_is_left_over() -> None:
    """It says itself whose it was, and where that is written."""
    gone = {"gs://b/s": SeenSweep(manifest=None)}
    what = seen(None, None, sweeps=gone)
    assert found(what) == [("group", "s", "its sweep isn't in gs://b any more")]
    assert judge(what, now=NOW)[0].daily == pytest.approx(2 * 24 * 0.3155, rel=1e-3)
    elsewhere = seen(None, None, manifest=a_manifest(zone="us-east1-b"))
    assert found(elsewhere) == [("group", "s", "its sweep is one in us-east1-b now")]


@pytest.mark.parametrize(
    "group",
    [
        replace(GROUP, metadata={}),
        replace(GROUP, metadata={"sinergym-sweep": "s"}),
        replace(GROUP, metadata={"sinergym-sweep": "other", "sinergym-bucket": "b"}),
    ],
)
def test_what_does_not_say_that_it_is_ours_is_nobody_s_business(group: KnownGroup) -> None:
    """Whatever its name is, and though its sweep is gone."""
    gone = {"gs://b/s": SeenSweep(manifest=None)}
    assert found(seen(None, group=group, sweeps=gone)) == []
    assert found(seen(("finished", LONG), group=group)) == []


def test_a_sweep_that_cannot_be_read_is_left_alone() -> None:
    """Its bucket may be another's."""
    assert found(seen(("finished", LONG), sweeps={})) == []


def test_an_empty_group_is_left_over_when_nobody_has_said_a_word_for_long() -> None:
    """Longer than a launch waits; `sweep resume` makes it anew."""
    empty = replace(GROUP, target_size=0)
    why = "it is empty, and nobody is launching into it"
    assert found(seen(None, None, group=empty, instances=())) == [("group", "s", why)]
    assert found(seen(("again", ago(minutes=20)), None, group=empty, instances=())) == []


def test_an_instance_without_a_group_or_an_experiment_is_left_over() -> None:
    """By its label and its name; one that only has the label is not ours."""
    alone = a_vm(7, group="")
    assert found(seen(group=None, instances=(alone,))) == [
        ("instance", "s-0007", "no group manages it")
    ]
    assert found(seen(group=None, instances=(a_vm(7, group="", name="mine"),))) == []
    assert found(seen(group=None, instances=(a_vm(7, group="", created=JUST),))) == []
    assert found(seen(group=None, instances=(a_vm(7, group="", labels={}),))) == []
    assert found(seen(("running", JUST), instances=(a_vm(1), a_vm(9)))) == [
        ("instance", "s-0009", "the sweep s has no such experiment")
    ]


def test_members_of_a_regional_group_are_in_its_zones() -> None:
    """Its name is the region's."""
    zones = ("europe-west1-b", "europe-west1-c")
    group = replace(GROUP, where=Location(region="europe-west1"))
    what = seen(("finished", LONG), group=group, manifest=a_manifest(1, zones=zones))
    (orphan,) = judge(what, now=NOW)
    assert (orphan.kind, orphan.where) == (Kind.GROUP, "europe-west1")
    assert orphan.daily == pytest.approx(2.4)


def test_derived_templates_that_nothing_uses_are_left_over() -> None:
    """Not those of groups, nor those that an open sweep without a group may need."""
    derived = templates.Template(
        name="base-0123abcd",
        image="i",
        machine_type="n2-highcpu-8",
        disk_gb=20,
        labels={"sinergym-template": "base"},
        created=LONG,
    )
    own = replace(derived, name="base", labels={})
    line = ("template", "base-0123abcd", "derived from base, and no sweep uses it")
    what = Seen(templates=(derived, own))
    assert found(what) == [line]
    assert found(replace(what, needed=frozenset({"base"}))) == []
    assert found(replace(what, needed=None)) == []
    assert found(replace(what, templates=(replace(derived, created=JUST),))) == []
    assert found(replace(what, templates=(replace(derived, name="another"),))) == []
    using = replace(GROUP, template="base-0123abcd")
    over = seen(("running", JUST), group=using, templates=(derived,))
    assert found(over) == []
    # The template of a group that goes, goes after it.
    ended = seen(("finished", LONG), group=using, templates=(derived,))
    assert [one[0] for one in found(ended)] == ["group", "template"]


def test_disks_and_addresses_that_nothing_uses_are_left_over() -> None:
    """Disks by the names of experiments; the tracking server's address by its own."""
    disk = Disk(
        name="s-0001", zone=ZONE, size_gb=730, type="pd-standard", in_use=False, changed=LONG
    )
    address = Reserved(
        name="mlflow-ip",
        region="europe-west1",
        description="Of the MLflow tracking server. Made by mlflow-infra.",
        in_use=False,
        created=LONG,
    )
    what = Seen(disks=(disk,), addresses=(address,), listed=frozenset({"s"}))
    first, second = judge(what, now=NOW)
    assert (first.kind, second.kind) == (Kind.DISK, Kind.ADDRESS)
    assert first.daily == pytest.approx(24 * 0.04 * 1.1)
    assert second.daily == pytest.approx(0.24)
    for other in (
        replace(disk, in_use=True),
        replace(disk, name="t-0001"),
        replace(disk, name="s-data"),
        replace(disk, changed=JUST),
    ):
        assert found(replace(what, disks=(other,), addresses=())) == []
    for kept in (
        replace(address, in_use=True),
        replace(address, name="mine"),
        replace(address, description=""),
        replace(address, created=JUST),
    ):
        assert found(replace(what, disks=(), addresses=(kept,))) == []


STATES = st.none() | st.tuples(
    st.sampled_from(
        ["waiting", "running", "retrying", "uploading", "again", "finished", "failed", "idle"]
    ),
    st.floats(0, 10000).map(lambda minutes: ago(minutes=minutes)),
)


@given(
    states=st.lists(STATES, min_size=1, max_size=5),
    made=st.floats(0, 10000),
    size=st.integers(0, 5),
)
def test_who_may_still_work_keeps_machine_and_group(
    states: list[tuple[str, datetime] | None], made: float, size: int
) -> None:
    """However old all is: only what has ended, or what never had a machine, is left over."""
    group = replace(GROUP, created=ago(minutes=made), target_size=size)
    ended = {
        experiment_id("s", n)
        for n, one in enumerate(states, start=1)
        if one and one[0] in {"finished", "failed", "idle"}
    }
    orphans = judge(seen(*states, group=group), now=NOW)
    assert {one.name for one in orphans if one.kind is Kind.INSTANCE} <= ended
    if size and len(ended) < len(states):
        assert not [one for one in orphans if one.kind is Kind.GROUP]


# ----------------------------------------------------------------------- on the local cloud


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A local cloud of its own, with a template, and with an address from long ago."""
    folder = tmp_path_factory.mktemp("reaping")
    address = {
        "name": "mlflow-ip",
        "region": "europe-west1",
        "id": "1",
        "created": "2026-01-01T00:00:00.000-00:00",
        "description": "Of the MLflow tracking server. Made by mlflow-infra.",
        "address": "127.200.1.1",
        "labels": {},
    }
    (folder / "network.json").write_text(json.dumps({"addresses": [address], "firewalls": []}))
    with inert_cloud(folder) as about:
        clients = Clients.connect(settings_of(about, folder / "key"))
        objects.ensure_bucket(clients, clients.settings.bucket_name)
        spec = templates.TemplateSpec(name="base", image="docker.io/s/trainer:1")
        templates.create_template(clients, spec)
        yield clients


@pytest.fixture
def run(
    there: Clients, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command line on it."""
    return runner(surroundings_of(there.settings), monkeypatch, capsys)


def ask(clients: Clients, path: str, body: object) -> None:
    """Post to one of the emulator's own pages."""
    url = f"{clients.settings.endpoint}/emulator/{path}"
    request = urllib.request.Request(url, data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200


def raise_sweep(
    clients: Clients,
    name: str,
    count: int,
    *,
    spot: bool = False,
    zones: tuple[str, ...] = (),
    template: str = "base",
) -> Manifest:
    """What a launch makes: the manifest, the group (from a derived template), its instances."""
    where = clients.settings.bucket_name
    names = [experiment_id(name, n + 1) for n in range(count)]
    manifest = Manifest(
        sweep=name,
        created=datetime.now(UTC),
        project=clients.project,
        zone=clients.zone,
        template=template,
        dispatch=Dispatch.BOOT,
        launcher={},
        experiments=tuple(Experiment(id=one, command="true") for one in names),
        image=Image(name="docker.io/s/trainer:1"),
        machine=Machine(hourly=1.0, spot=spot),
        zones=zones,
    )
    bucket.create_manifest(clients, where, manifest)
    list(raising.raise_members(clients, manifest, names, bucket=where, is_new=True))
    return manifest


def keep_disks(clients: Clients, name: str) -> None:
    """Make a template whose instances leave their disks."""
    project: Any = {"project": clients.project}
    found = clients.read("base", clients.templates.get, **project, instance_template="base")
    found.properties.disks[0].auto_delete = False
    made = {"name": name, "properties": found.properties}
    clients.change(
        name, clients.templates.insert_unary, **project, instance_template_resource=made
    )


def up(clients: Clients, name: str, count: int) -> None:
    """Wait until so many of its instances run."""

    def running() -> bool:
        members = instances.list_instances(clients, group=name)
        return sum(one.status == "RUNNING" for one in members) == count

    eventually(running, f"{count} instances of {name}")


def find(clients: Clients, **later: float) -> list[tuple[str, str]]:
    """Kind and name of what would be left over after so long."""
    now = datetime.now(UTC) + timedelta(**later)
    orphans = reaping.find(clients, now=now)
    return [(str(one.kind), one.name) for one in orphans if one.kind is not Kind.ADDRESS]


@pytest.mark.slow
def test_the_command_lists_removes_and_says_what_stays(there: Clients, run: Run) -> None:
    """Nothing without --yes; a refusal is told, and is the exit code."""
    listed = run("reap")
    assert listed.code == 0
    headers, line = listed.out.splitlines()
    assert headers.split() == ["KIND", "NAME", "WHERE", "A", "DAY", "WHY"]
    assert line.split()[:4] == ["address", "mlflow-ip", "europe-west1", "$0.240"]
    assert listed.err == ("1 left over, $0.240 a day: remove them with `gcloud-ops reap --yes`\n")

    fault = {"method": "compute.addresses.delete", "count": 1, "status": 403}
    ask(there, "faults", {**fault, "reason": "forbidden", "message": "You shall not."})
    refused = run("reap", "--yes", "--output", "json")
    assert refused.code == 4
    assert refused.json["daily"] == pytest.approx(0.24)
    assert refused.json["orphans"][0]["why"] == "reserved, and no tracking server uses it"
    (left,) = refused.json["left"]
    assert left["error"]["error"] == "PermissionDenied"
    assert "address mlflow-ip stays: address mlflow-ip: You shall not." in refused.err
    assert "1 of 1 stay; `gcloud-ops reap --yes` tries again" in refused.err

    unknown = run("reap", "mlflow-ip", "none-such", "--yes")
    assert (unknown.code, "none-such is not among" in unknown.err) == (3, True)
    named = run("reap", "mlflow-ip")
    assert named.err.endswith("remove them with `gcloud-ops reap mlflow-ip --yes`\n")

    done = run("reap", "mlflow-ip", "--yes")
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == [
        "address mlflow-ip removed (europe-west1)",
        "removed what cost $0.240 a day",
    ]
    again = run("reap", "--output", "json")
    assert again.json == {"orphans": [], "daily": 0, "left": None}
    assert again.err == "nothing is left over\n"


@pytest.mark.slow
def test_sweeps_in_all_states_and_what_is_left_of_them(there: Clients) -> None:
    """Hours later nothing of a healthy one is in the list; the rest is removed, and only that."""
    raise_sweep(there, "runs", 2)
    up(there, "runs", 2)
    play_runner(there, "runs", "runs-0001", "running")
    raise_sweep(there, "half", 2)
    up(there, "half", 2)
    play_runner(there, "half", "half-0001", "finished")
    derived = raising.derived_template(there, raise_sweep(there, "over", 2, spot=True))
    up(there, "over", 2)
    for one in ("over-0001", "over-0002"):
        play_runner(there, "over", one, "failed")
    zones = (ZONE, "europe-west1-c")
    raise_sweep(there, "wide", 2, zones=zones)
    up(there, "wide", 2)
    play_runner(there, "wide", "wide-0001", "finished")
    raise_sweep(there, "broad", 2, zones=zones)
    up(there, "broad", 2)
    for one in ("broad-0001", "broad-0002"):
        play_runner(there, "broad", one, "finished")
    keep_disks(there, "keeping")
    raise_sweep(there, "dusty", 1, template="keeping")
    up(there, "dusty", 1)
    groups.delete_group(there, "dusty")
    raise_sweep(there, "empty", 1)
    groups.delete_instances(there, "empty", ["empty-0001"])
    raise_sweep(there, "lost", 1)
    up(there, "lost", 1)
    objects.delete_object(there, there.settings.bucket_name, "lost/sweep.json")
    ask(there, "capacity", {"capacity": 0})
    raise_sweep(there, "waits", 2)
    there_before = {one.name for one in groups.list_groups(there)}

    assert find(there) == []  # all has just been launched, or ended
    expected = [
        ("instance", "half-0001"),
        ("instance", "wide-0001"),
        ("group", "broad"),
        ("group", "empty"),
        ("group", "lost"),
        ("group", "over"),
        ("template", derived),
        ("disk", "dusty-0001"),
    ]
    assert find(there, hours=3) == expected
    now = datetime.now(UTC) + timedelta(hours=3)
    orphans = tuple(o for o in reaping.find(there, now=now) if o.kind is not Kind.ADDRESS)
    told: list[str] = []
    assert reaping.remove(there, orphans, told.append, now=now) == ()
    assert [line.split(" (")[0] for line in told] == [
        f"{kind} {name} removed" for kind, name in expected
    ]
    assert there_before - {one.name for one in groups.list_groups(there)} == {
        "broad",
        "empty",
        "lost",
        "over",
    }
    eventually(
        lambda: (
            {one.name for one in instances.list_instances(there)}
            == {"runs-0001", "runs-0002", "half-0002", "wide-0002"}
        ),
        "the end of what was removed",
    )
    assert [one.name for one in templates.list_templates(there)] == ["base", "keeping"]
    again: list[str] = []
    assert reaping.remove(there, orphans, again.append, now=now) == ()
    assert again == [
        f"{kind} {name}: in use again, or gone; left alone" for kind, name in expected
    ]


@pytest.mark.slow
def test_a_thousand_instances_take_no_more_calls_than_two(tmp_path: Path) -> None:
    """But for the pages of the listings; and half of them go with one request."""
    count, half = 1000, 500
    with inert_cloud(tmp_path) as about:
        clients = Clients.connect(settings_of(about, tmp_path / "key"))
        objects.ensure_bucket(clients, clients.settings.bucket_name)
        spec = templates.TemplateSpec(name="base", image="docker.io/s/trainer:1")
        templates.create_template(clients, spec)
        raise_sweep(clients, "few", 2)
        few = calls_of_a_look(clients)
        raise_sweep(clients, "many", count)
        up(clients, "many", count)
        with ThreadPoolExecutor(16) as pool:
            names = [experiment_id("many", n + 1) for n in range(half)]
            list(pool.map(lambda one: play_runner(clients, "many", one), names))

        many = calls_of_a_look(clients)
        assert {name: many[name] - few[name] for name in many if many[name] != few[name]} == {
            "compute.disks.aggregatedList": 2,
            "compute.instances.aggregatedList": 2,
            "storage.objects.get": 1,  # the manifest
            "storage.objects.list": 1,  # the records
        }
        now = datetime.now(UTC) + timedelta(hours=1)
        begin = time.monotonic()
        orphans = reaping.find(clients, now=now)
        assert time.monotonic() - begin < 5
        assert [one.name for one in orphans] == names
        before = stats(clients)["compute.instanceGroupManagers.deleteInstances"]
        assert reaping.remove(clients, orphans, lambda _line: None, now=now) == ()
        assert stats(clients)["compute.instanceGroupManagers.deleteInstances"] - before == 1
        eventually(
            lambda: len(instances.list_instances(clients)) == half + 2, "their end", seconds=60
        )


def stats(clients: Clients) -> Counter[str]:
    """How often the cloud was asked for what."""
    with urllib.request.urlopen(f"{clients.settings.endpoint}/emulator/stats") as reply:
        return Counter(json.load(reply)["calls"])


def calls_of_a_look(clients: Clients) -> Counter[str]:
    """The calls of one."""
    before = stats(clients)
    reaping.find(clients)
    return stats(clients) - before
