"""The cloud-init text is one that Container-Optimized OS, systemd and Docker take as meant."""

import configparser
import re
import shlex

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.startup import ContainerSpec, cloud_init, container_of, template_metadata

IMAGE = "europe-docker.pkg.dev/lab/images/trainer:1"

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60)
VARIABLES = st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True), TEXT)


def files_of(text: str) -> dict[str, dict[str, str]]:
    """The files that cloud-init writes, by path."""
    config = yaml.safe_load(text)
    return {file["path"]: file for file in config["write_files"]}


def unit_of(text: str) -> list[tuple[str, str]]:
    """Keys and values of the unit, in order."""
    content = files_of(text)["/etc/systemd/system/sinergym.service"]["content"]
    return [
        (key, value)
        for line in content.splitlines()
        if "=" in line
        for key, _, value in [line.partition("=")]
    ]


def words_of(value: str) -> list[str]:
    """Words of a command line as systemd reads it (systemd.service(5), COMMAND LINES)."""
    words = []
    for match in re.finditer(r'"((?:\\.|[^"\\])*)"|([^\s"]+)', value):
        word = match[1] if match[1] is not None else match[2]
        word = re.sub(r"\\(.)", r"\1", word)
        words.append(word.replace("$$", "$").replace("%%", "%"))
    return words


def test_the_unit_starts_the_container() -> None:
    """After the registry is there and Docker is, under its name, on the host's network."""
    text = cloud_init(ContainerSpec(image=IMAGE, environment={"A": "1"}))
    unit = unit_of(text)
    by_key = dict(unit)

    assert text.startswith("#cloud-config\n")
    assert by_key["After"] == by_key["Wants"] == "gcr-online.target docker.socket"
    assert by_key["Environment"] == "HOME=/var/lib/sinergym"
    assert by_key["Restart"] == "no"
    before = [value for key, value in unit if key == "ExecStartPre"]
    assert before[0].endswith("configure-docker --registries europe-docker.pkg.dev")
    assert before[1] == "-/usr/bin/docker rm --force sinergym"
    run = shlex.split(by_key["ExecStart"])
    assert run[:2] == ["/usr/bin/docker", "run"]
    assert {"--name=sinergym", "--network=host", "--log-driver=json-file"} <= set(run)
    assert run[-1] == IMAGE
    assert yaml.safe_load(text)["runcmd"][0] == ["systemctl", "daemon-reload"]


def test_the_unit_is_in_sections() -> None:
    """It reads as an INI file with a [Unit] and a [Service]."""
    content = files_of(cloud_init(ContainerSpec(image=IMAGE)))
    unit = content["/etc/systemd/system/sinergym.service"]["content"]
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(unit)

    assert parser.sections() == ["Unit", "Service"]


def test_files_are_for_root_and_where_they_can_be() -> None:
    """The environment is for root's eyes; both lie where Container-Optimized OS lets us write."""
    files = files_of(cloud_init(ContainerSpec(image=IMAGE, environment={"A": "b c"})))

    environment = files["/var/lib/sinergym/container.env"]
    assert environment["permissions"] == "0600"
    assert environment["owner"] == "root:root"
    assert environment["content"] == "A=b c\n"
    assert all(path.startswith(("/etc/", "/var/")) for path in files)


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("europe-west1-docker.pkg.dev/p/r/i:1", "europe-west1-docker.pkg.dev"),
        ("eu.gcr.io/p/i", "eu.gcr.io"),
        ("gcr.io/p/i@sha256:abc", "gcr.io"),
        ("sailugr/sinergym:latest", None),
        ("sinergym", None),
        ("localhost:5000/sinergym", None),
        ("evil.docker.pkg.dev.example.com/i", None),
    ],
)
def test_log_in_only_to_googles_registries(image: str, registry: str | None) -> None:
    """Docker is told credentials for a registry of Google's, and for no other."""
    logins = [v for _, v in unit_of(cloud_init(ContainerSpec(image=image))) if "-gcr" in v]

    assert [login.split()[-1] for login in logins] == ([registry] if registry else [])


@given(VARIABLES)
@pytest.mark.slow
def test_every_variable_arrives(variables: dict[str, str]) -> None:
    """Whatever a value holds, the environment file says it, one line each."""
    text = cloud_init(ContainerSpec(image=IMAGE, environment=variables))
    content = files_of(text)["/var/lib/sinergym/container.env"]["content"]

    lines = content.split("\n")[:-1]
    assert dict(line.split("=", 1) for line in lines) == variables


@given(st.lists(TEXT, max_size=5).map(tuple))
def test_every_argument_arrives(args: tuple[str, ...]) -> None:
    """Whatever an argument holds, systemd makes the same words of it."""
    text = cloud_init(ContainerSpec(image=IMAGE, args=args))
    run = next(value for key, value in unit_of_split(text) if key == "ExecStart")

    assert tuple(words_of(run)[8:]) == (IMAGE, *args)


def unit_of_split(text: str) -> list[tuple[str, str]]:
    """As `unit_of`, cut at line feeds only, as systemd does."""
    content = files_of(text)["/etc/systemd/system/sinergym.service"]["content"]
    return [(k, v) for k, _, v in (line.partition("=") for line in content.split("\n"))]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x1b[0m", "\ud800"])
def test_values_that_no_line_can_hold(value: str) -> None:
    """A line break would begin another variable, or another line of the unit."""
    with pytest.raises(InvalidRequest, match="environment: the value of A "):
        cloud_init(ContainerSpec(image=IMAGE, environment={"A": value}))
    with pytest.raises(InvalidRequest, match="args: "):
        cloud_init(ContainerSpec(image=IMAGE, args=(value,)))


@pytest.mark.parametrize("name", ["", "A B", "A=B", "1A", "A\nB", "#A"])
def test_names_that_are_no_variables(name: str) -> None:
    """Docker would read another name, or none."""
    with pytest.raises(InvalidRequest, match=r"environment: .* can't name a variable"):
        cloud_init(ContainerSpec(image=IMAGE, environment={name: "1"}))


@pytest.mark.parametrize("image", ["", "--privileged", "a b", "a;b", "a\nb", "$IMAGE"])
def test_what_is_no_image(image: str) -> None:
    """An image can't be an option of Docker's or another word of the line."""
    with pytest.raises(InvalidRequest, match="image: "):
        cloud_init(ContainerSpec(image=image))


def test_metadata_of_a_template() -> None:
    """Host keys get published, `ssh-keys` count, and nothing of the ended agent is used."""
    spec = ContainerSpec(image=IMAGE, environment={"A": "ü"}, args=("x",))
    metadata = template_metadata(spec)

    assert metadata["enable-guest-attributes"] == "TRUE"
    assert metadata["enable-oslogin"] == "FALSE"
    assert metadata["user-data"] == cloud_init(spec)
    assert "gce-container-declaration" not in metadata
    assert container_of(metadata) == spec


def test_too_much_metadata() -> None:
    """More than Compute Engine takes is refused before anything is created."""
    many = {f"V{number}": "x" * 60_000 for number in range(5)}

    with pytest.raises(InvalidRequest, match="256 KiB"):
        template_metadata(ContainerSpec(image=IMAGE, environment=many))
    with pytest.raises(InvalidRequest, match="longer than Docker reads"):
        cloud_init(ContainerSpec(image=IMAGE, environment={"A": "x" * 70_000}))


@pytest.mark.parametrize("text", ["", "no", "[]", "{}", '{"image": 3}', '{"environment": []}'])
def test_templates_of_others(text: str) -> None:
    """Metadata that isn't ours is no error."""
    assert container_of({"sinergym-container": text}) is None
    assert container_of({}) is None
