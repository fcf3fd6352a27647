"""Templates, groups and instances, over HTTP against the local cloud."""

import json
from collections.abc import Iterator
from typing import Any

import asyncssh
import pytest

from gcloud_ops import groups, instances, templates
from gcloud_ops.clients import Clients
from gcloud_ops.errors import AlreadyExists, InvalidRequest, NotFound
from gcloud_ops.model import Location
from gcloud_ops.templates import TemplateSpec

from .conftest import Answers, eventually

ZONE = "europe-west1-b"


@pytest.fixture(scope="module")
def group(clients: Clients, template: str) -> Iterator[str]:
    """A group with two members that are up, and deleted afterwards."""
    groups.create_group(
        clients,
        "pair",
        template,
        metadata={"sinergym-sweep": "pair"},
        labels={"sinergym-sweep": "pair"},
    )
    groups.create_instances(clients, "pair", ["pair-0001", "pair-0002"])

    def up() -> bool:
        return [member.is_up for member in groups.list_members(clients, "pair") or ()] == [
            True
        ] * 2

    eventually(up, "two members")
    yield "pair"
    groups.delete_group(clients, "pair")


def test_a_template_is_read_back_as_it_was_asked_for(clients: Clients) -> None:
    """All that a spec says is in the template, and `delete` removes it."""
    spec = TemplateSpec(
        name="whole-template",
        image="europe-docker.pkg.dev/local/sinergym/trainer:1",
        machine_type="e2-small",
        disk_gb=30,
        disk_type="pd-balanced",
        service_account="trainer@local.iam.gserviceaccount.com",
        environment={"A": "1", "B": "größe = $x"},
        args=("one two", "3"),
        labels={"team": "buildings"},
    )

    made = templates.create_template(clients, spec)

    assert made == templates.get_template(clients, "whole-template")
    assert made.is_ours
    assert (made.image, made.machine_type, made.disk_gb) == (spec.image, "e2-small", 30)
    assert (made.disk_type, made.boot_image) == ("pd-balanced", spec.boot_image)
    assert made.service_account == spec.service_account
    assert (made.environment, made.args, made.labels) == (spec.environment, spec.args, spec.labels)
    assert made.created is not None
    assert made in templates.list_templates(clients)
    with pytest.raises(AlreadyExists, match="template whole-template"):
        templates.create_template(clients, spec)

    templates.delete_template(clients, "whole-template")

    with pytest.raises(NotFound, match="template whole-template"):
        templates.get_template(clients, "whole-template")
    with pytest.raises(NotFound, match="template whole-template"):
        templates.delete_template(clients, "whole-template")


def test_what_a_template_says_on_the_wire(answers: Answers) -> None:
    """The seeds' machine, Container-Optimized OS, one address, and no ended agent."""
    answers.say(answers.error(400, "invalid"))
    with pytest.raises(InvalidRequest):
        templates.create_template(
            answers.clients, TemplateSpec(name="plain", image="sailugr/sinergym:latest")
        )

    body: Any = json.loads(answers.requests[0][2])
    properties = body["properties"]

    assert body["name"] == "plain"
    assert properties["machineType"] == "n2-highcpu-8"
    (disk,) = properties["disks"]
    assert disk["boot"]
    assert disk["autoDelete"]
    assert disk["initializeParams"]["sourceImage"].startswith("projects/cos-cloud/")
    assert disk["initializeParams"]["diskSizeGb"] == "20"
    (interface,) = properties["networkInterfaces"]
    assert interface["accessConfigs"] == [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    assert properties["serviceAccounts"][0]["email"] == "default"
    keys = {item["key"] for item in properties["metadata"]["items"]}
    assert {"user-data", "enable-guest-attributes"} <= keys
    assert "gce-container-declaration" not in keys


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "No_Name"}, "template"),
        ({"name": "../zones"}, "template"),
        ({"machine_type": "zones/x/y"}, "machine_type"),
        ({"disk_gb": 5}, "disk_gb"),
        ({"labels": {"Team": "x"}}, "labels"),
        ({"image": "a b"}, "image"),
        ({"environment": {"A": "x\ny"}}, "environment"),
    ],
)
def test_bad_templates_are_refused_before_anything_is_sent(
    answers: Answers, changes: dict[str, Any], field: str
) -> None:
    """One line that names the field."""
    spec = TemplateSpec(**{"name": "x", "image": "trainer", **changes})

    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        templates.create_template(answers.clients, spec)

    assert answers.requests == []


def test_a_template_in_use_says_so(clients: Clients, template: str, group: str) -> None:
    """Compute Engine refuses; the hint says what to do."""
    del group
    with pytest.raises(InvalidRequest, match=f"template {template}") as caught:
        templates.delete_template(clients, template)

    assert "delete first" in caught.value.hint


def test_a_group_without_template_or_zone(clients: Clients, template: str) -> None:
    """What is missing is named, and no group is left."""
    with pytest.raises((NotFound, InvalidRequest), match="no-such-template"):
        groups.create_group(clients, "orphan", "no-such-template", metadata={}, labels={})
    with pytest.raises((NotFound, InvalidRequest)):
        groups.create_group(
            clients,
            "orphan",
            template,
            metadata={},
            labels={},
            where=Location(zone="europe-west1-z"),
        )

    assert groups.get_group(clients, "orphan") is None


def test_a_group_and_its_members(clients: Clients, template: str, group: str) -> None:
    """The group, its members with numbers of their own, and the instances, by one call each."""
    found = groups.get_group(clients, group)
    members = groups.list_members(clients, group)

    assert found is not None
    assert (found.name, found.zone, found.template) == ("pair", ZONE, template)
    assert found.target_size == 2
    assert found in groups.list_groups(clients)
    assert members is not None
    assert [member.name for member in members] == ["pair-0001", "pair-0002"]
    assert all(member.id.isdigit() and member.error_code == "" for member in members)
    assert len({member.id for member in members}) == 2
    with pytest.raises(AlreadyExists, match="group pair"):
        groups.create_group(clients, group, template, metadata={}, labels={})


def test_instances_of_a_group_and_of_the_project(clients: Clients, group: str) -> None:
    """By label in the zone, or all; with addresses, group and label."""
    mine = instances.list_instances(clients, group=group)

    assert [instance.name for instance in mine] == ["pair-0001", "pair-0002"]
    assert [one for one in instances.list_instances(clients) if one in mine] == list(mine)
    in_zone = instances.list_instances(clients, zone=ZONE)
    assert [one for one in in_zone if one in mine] == list(mine)
    assert instances.list_instances(clients, group="another") == ()
    first = mine[0]
    assert first == instances.get_instance(clients, "pair-0001")
    assert (first.status, first.zone, first.group) == ("RUNNING", ZONE, "pair")
    assert first.labels["sinergym-sweep"] == "pair"
    assert first.address
    assert first.machine_type == "n2-highcpu-8"
    assert instances.get_instance(clients, "pair-0099") is None


def test_host_keys_are_published_after_the_boot(clients: Clients, group: str) -> None:
    """As keys that SSH can read; none for an instance that isn't there."""
    del group
    keys = eventually(lambda: instances.host_keys(clients, "pair-0001"), "host keys")

    assert all(asyncssh.import_public_key(key) for key in keys)
    assert keys[0].startswith("ssh-ed25519 ")
    assert instances.host_keys(clients, "pair-0099") == ()


def test_host_keys_that_are_none(answers: Answers) -> None:
    """Guest attributes are written inside of the instance: what is no key is left out."""
    items = [
        {"namespace": "hostkeys", "key": "ssh-ed25519", "value": "AAAAC3NzaC1lZDI1NTE5AAAAIB\n"},
        {"namespace": "hostkeys", "key": "ssh-rsa", "value": "AAAAB3NzaC1yc2E evil-host ssh-rsa"},
        {"namespace": "hostkeys", "key": "* ssh-rsa", "value": "AAAAB3NzaC1yc2EAAAADAQAB"},
        {"namespace": "other", "key": "ssh-dss", "value": "AAAAB3NzaC1kc3MAAACBAKuf"},
    ]
    answers.say((200, {"queryPath": "hostkeys/", "queryValue": {"items": items}}))

    assert instances.host_keys(answers.clients, "quick-0001") == (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB",
    )


def test_serial_output_tells_of_the_boot(clients: Clients, group: str) -> None:
    """What the instance printed; an instance that isn't there is an error."""
    del group

    assert instances.serial_output(clients, "pair-0001")
    with pytest.raises(NotFound, match="instance pair-0099"):
        instances.serial_output(clients, "pair-0099")


def test_deleting_members_is_idempotent(clients: Clients, template: str) -> None:
    """Twice, unknown ones, and without a group: all is done; the target size shrinks."""
    groups.create_group(clients, "trio", template, metadata={}, labels={})
    groups.create_instances(clients, "trio", [f"trio-000{number}" for number in (1, 2, 3)])

    groups.delete_instances(clients, "trio", ["trio-0001"])
    groups.delete_instances(clients, "trio", ["trio-0001", "trio-0099"])

    def names() -> list[str]:
        return [member.name for member in groups.list_members(clients, "trio") or ()]

    eventually(lambda: names() == ["trio-0002", "trio-0003"], "trio-0001 to be gone")
    found = groups.get_group(clients, "trio")
    assert found is not None
    assert found.target_size == 2
    assert groups.delete_group(clients, "trio")
    assert not groups.delete_group(clients, "trio")
    assert groups.get_group(clients, "trio") is None
    assert groups.list_members(clients, "trio") is None
    assert groups.list_errors(clients, "trio") == ()
    groups.delete_instances(clients, "trio", ["trio-0002"])


def test_a_member_that_exists_already(clients: Clients, group: str) -> None:
    """A name can be a member only once."""
    with pytest.raises((AlreadyExists, InvalidRequest), match="group pair"):
        groups.create_instances(clients, group, ["pair-0001"])


def test_members_that_cannot_be_created_say_why(answers: Answers) -> None:
    """Code and message of the last attempt, and no instance status."""
    zone = f"https://www.googleapis.com/compute/v1/projects/probe/zones/{ZONE}"
    error = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone has no resources"}
    answers.say(
        (
            200,
            {
                "managedInstances": [
                    {
                        "instance": f"{zone}/instances/quick-0001",
                        "currentAction": "CREATING",
                        "lastAttempt": {"errors": {"errors": [error]}},
                    }
                ]
            },
        )
    )

    (member,) = groups.list_members(answers.clients, "quick") or ()

    assert (member.name, member.id, member.action) == ("quick-0001", "", "CREATING")
    assert member.error_code == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert member.error_message == "The zone has no resources"
    assert not member.is_up
    assert len(answers.requests) == 1


def test_errors_of_a_group(answers: Answers) -> None:
    """Instance, action, code and time of each."""
    zone = f"https://www.googleapis.com/compute/v1/projects/probe/zones/{ZONE}"
    entry = {
        "error": {"code": "QUOTA_EXCEEDED", "message": "Quota 'CPUS' exceeded."},
        "instanceActionDetails": {"action": "CREATING", "instance": f"{zone}/instances/q-0001"},
        "timestamp": "2026-11-22T10:00:00.000-08:00",
    }
    answers.say((200, {"items": [entry]}))

    (error,) = groups.list_errors(answers.clients, "q")

    assert (error.instance, error.action, error.code) == ("q-0001", "CREATING", "QUOTA_EXCEEDED")
    assert error.time is not None
    assert error.time.isoformat() == "2026-11-22T18:00:00+00:00"


def test_zones(clients: Clients) -> None:
    """Those of the cloud, and others."""
    assert instances.zone_exists(clients, ZONE)
    assert not instances.zone_exists(clients, "europe-west1-z")


@pytest.mark.parametrize("name", ["", "Quick", "a/b", "..", "quick?x=1", "a" * 64])
def test_names_become_no_other_address(answers: Answers, name: str) -> None:
    """A name that could lead elsewhere is refused before anything is sent."""
    for call in (
        lambda: groups.get_group(answers.clients, name),
        lambda: instances.get_instance(answers.clients, name),
        lambda: templates.get_template(answers.clients, name),
        lambda: groups.delete_group(answers.clients, name),
        lambda: groups.create_instances(answers.clients, "quick", [name]),
    ):
        with pytest.raises(InvalidRequest):
            call()

    assert answers.requests == []
