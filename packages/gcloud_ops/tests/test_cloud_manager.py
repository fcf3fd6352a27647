"""`cloud-manager`: the flags of the original launcher, and what they do today."""

from collections.abc import Callable

import pytest

from gcloud_ops import bucket, cloud_manager, groups, sweeps, templates
from gcloud_ops.cli.output import ExitCode
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings

# Dashes, quotes and the options of a command stay the command's.
FIRST = "python3 DRL_battery.py --environment Eplus-5Zone-hot-discrete-v1 -ep 2 --zone x"
SECOND = "python3 -c 'print(\"-id\")' --remote_store"

type Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def manager(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command line against the local cloud."""
    monkeypatch.setenv("GCLOUD_OPS_ENDPOINT", str(settings.endpoint))
    monkeypatch.setenv("GCLOUD_OPS_SSH_PORT", str(settings.ssh_port))
    monkeypatch.setenv("GCLOUD_OPS_SSH_KEY", str(settings.ssh_key))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cloud_manager.run(arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.mark.parametrize(
    "flags",
    [
        ("--project_id", "--zone", "--template_name", "--group_name", "--experiment_commands"),
        ("-id", "-zo", "-tem", "-group", "-cmds"),
    ],
)
@pytest.mark.slow
def test_flags(manager: Run, clients: Clients, template: str, flags: tuple[str, ...]) -> None:
    """Long and short names; several commands after one flag, each in its own quotes."""
    project, zone, template_name, group, commands = flags
    name = f"flags{len(commands)}"

    code, out, err = manager(
        *(project, "local", zone, "europe-west1-b", template_name, template, group, name),
        *(commands, FIRST, SECOND),
    )

    assert (code, out) == (0, ""), err
    manifest = sweeps.status(name, clients).manifest
    assert [e.command for e in manifest.experiments] == [FIRST, SECOND]
    assert (manifest.template, manifest.zone) == (template, "europe-west1-b")
    assert "Creating instance group(MIG) for experiments (2 instances)..." in err
    assert f"{name}-0001: command sent" in err
    assert "All VM's are working correctly" in err
    groups.delete_group(clients, name)


@pytest.mark.slow
def test_defaults(manager: Run, clients: Clients) -> None:
    """Zone, template and group are the original's when nothing is said."""
    spec = templates.TemplateSpec(name="sinergym-template", image="local/x:1")
    templates.create_template(clients, spec)

    code, _, err = manager("-id", "local", "-cmds", "true")

    assert code == 0, err
    manifest = sweeps.status("sinergym-group", clients).manifest
    assert (manifest.zone, manifest.template) == ("europe-west1-b", "sinergym-template")

    again, _, refused = manager("-id", "local", "-cmds", "true")
    assert (again, "sinergym-group" in refused) == (ExitCode.USAGE, True), "its group is in use"
    sweeps.cancel("sinergym-group", clients)
    later, _, told = manager("-id", "local", "-cmds", "true")
    assert later == 0, told
    assert "this is sinergym-group-2" in told
    sweeps.cancel("sinergym-group-2", clients)
    templates.delete_template(clients, "sinergym-template")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("-group", "q"), 2, "experiment_commands: no experiments"),
        (("-cmds",), 2, "experiment_commands"),
        (("-cmds", "a", "-group", "Q_1"), 2, "name"),
        (("-cmds", "a", "-zo", "here"), 2, "zone"),
        (("-cmds", "a", "-id", "local", "-zo", "mars-north1-a"), 3, "mars-north1-a"),
        (("-cmds", "a", "-id", "local", "-tem", "nope"), 3, "nope"),
        (("-cmds", "a", "-id", "No Such"), 2, "project"),
        (("-cmds", "a", "--grp", "q"), 2, "--grp"),
        (("-cmds", "a", "--local", "--endpoint", "http://127.0.0.1:1"), 2, "one of them"),
    ],
)
def test_bad_input(
    manager: Run, clients: Clients, *, arguments: tuple[str, ...], code: int, named: str
) -> None:
    """One line that names it; no group, no sweep."""
    before = bucket.list_manifests(clients, clients.settings.bucket_name)

    got, out, err = manager(*arguments)

    assert (got, out) == (code, "")
    assert named in err
    assert len(err.splitlines()) == 1, err
    assert bucket.list_manifests(clients, clients.settings.bucket_name) == before
    assert "q" not in {group.name for group in groups.list_groups(clients)}
