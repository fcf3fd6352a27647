"""Where settings come from, and what they refuse."""

from pathlib import Path

import pytest

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.settings import Settings, config_file


def load(tmp_path: Path, text: str = "", **environ: str) -> Settings:
    """Load with this file and environment."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    return Settings.load(environ=environ, file=file)


def test_defaults_are_the_seeds() -> None:
    """Nothing set: the zone, template and bucket of the original, an ordinary SSH."""
    settings = Settings.load(flags={"project": "lab"}, environ={})

    assert settings.zone == "europe-west1-b"
    assert settings.template == "sinergym-template"
    assert settings.bucket_name == "lab-experiments-storage"
    assert (settings.ssh_port, settings.bucket_location) == (22, "EU")
    assert settings.is_google


def test_flag_before_environment_before_file(tmp_path: Path) -> None:
    """Each source wins over the one after it, key by key."""
    file = tmp_path / "config.toml"
    file.write_text('project = "of-file"\nzone = "us-east1-c"\nbucket = "of-file"\n')
    environ = {"GCLOUD_OPS_ZONE": "us-west1-a", "GCLOUD_OPS_BUCKET": "of-env"}

    settings = Settings.load(flags={"bucket": "of-flag", "zone": None}, environ=environ, file=file)

    assert settings.project == "of-file"
    assert settings.zone == "us-west1-a"
    assert settings.bucket_name == "of-flag"


@pytest.mark.parametrize(
    ("environ", "project"),
    [
        ({"CLOUDSDK_CORE_PROJECT": "of-gcloud"}, "of-gcloud"),
        ({"CLOUDSDK_CORE_PROJECT": "x1", "GOOGLE_CLOUD_PROJECT": "of-google"}, "of-google"),
        ({"GOOGLE_CLOUD_PROJECT": "x1", "GCLOUD_OPS_PROJECT": "ours"}, "ours"),
        ({"GCLOUD_OPS_PROJECT": "", "GOOGLE_CLOUD_PROJECT": "of-google"}, "of-google"),
    ],
)
def test_googles_variables_count_after_ours(environ: dict[str, str], project: str) -> None:
    """The project is read where gcloud and Google's libraries look for it too."""
    assert Settings.load(environ=environ).project == project


def test_zone_of_gcloud() -> None:
    """The zone is read from gcloud's variable."""
    assert Settings.load(environ={"CLOUDSDK_COMPUTE_ZONE": "us-east1-c"}).zone == "us-east1-c"


def test_unknown_key_names_file_and_nearest(tmp_path: Path) -> None:
    """A key with a slip is named, with the file and the key that was meant."""
    with pytest.raises(InvalidRequest, match=r"config\.toml: unknown key 'zoen'.*'zone'"):
        load(tmp_path, 'zoen = "europe-west1-b"\n')


def test_broken_file_names_file_and_line(tmp_path: Path) -> None:
    """What is not TOML is one line with the place."""
    with pytest.raises(InvalidRequest, match=r"config\.toml: not TOML: .*line 2"):
        load(tmp_path, 'zone = "europe-west1-b"\nproject = \n')


def test_named_file_must_exist(tmp_path: Path) -> None:
    """A file that somebody names must be there; the usual place may be empty."""
    missing = tmp_path / "missing.toml"
    with pytest.raises(InvalidRequest, match="no such settings file"):
        Settings.load(environ={"GCLOUD_OPS_CONFIG": str(missing)})
    assert config_file({"GCLOUD_OPS_CONFIG": str(missing)}) == missing


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("zone", "europe-west1", "not a zone"),
        ("zone", "Europe-West1-B", "not a zone"),
        ("zone", "../europe-west1-b", "not a zone"),
        ("project", "My Project", "not a project"),
        ("bucket", "Bad_Bucket!", "not a bucket"),
        ("template", "a/b", "not a name"),
        ("endpoint", "http://10.0.0.1:80", "not encrypted"),
        ("endpoint", "http://example.com", "not encrypted"),
        ("endpoint", "ftp://127.0.0.1", "not an address"),
        ("endpoint", "127.0.0.1:8080", "not an address"),
        ("endpoint", "http://127.0.0.1:8080/x", "not an address"),
        ("endpoint", "http://127.0.0.1:99999", "not an address"),
        ("endpoint", "https://me:secret@127.0.0.1", "password"),
        ("ssh_port", "0", "not a port"),
        ("ssh_port", "65536", "not a port"),
        ("ssh_port", "ssh", "not a port"),
        ("ssh_user", "-root", "not an account"),
        ("ssh_user", "a b", "not an account"),
        ("bucket_location", "EU; drop", "not a location"),
        ("iap", "sometimes", "none of auto, always, never"),
    ],
)
def test_bad_value_names_field_and_source(key: str, value: str, why: str) -> None:
    """One line with the variable, the field and what is wrong."""
    variable = f"GCLOUD_OPS_{key.upper()}"

    with pytest.raises(InvalidRequest) as caught:
        Settings.load(environ={variable: value})

    assert caught.value.message.startswith(f"{variable}: {key}: ")
    assert why in caught.value.message
    assert "secret@" not in caught.value.message


def test_bad_flag_and_type_are_named(tmp_path: Path) -> None:
    """A flag is named as it is written, a wrong type in a file as what it is."""
    with pytest.raises(InvalidRequest, match=r"^--ssh-port: ssh_port: 99999 is not a port"):
        Settings.load(flags={"ssh_port": 99999}, environ={})
    with pytest.raises(InvalidRequest, match="zone: must be text, not 3"):
        load(tmp_path, "zone = 3\n")
    with pytest.raises(InvalidRequest, match="ssh_port: True is not a port"):
        load(tmp_path, "ssh_port = true\n")


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:8080", "http://localhost:80", "http://[::1]:8080", "https://cloud.lab"],
)
def test_endpoints_that_are_taken(endpoint: str) -> None:
    """Plain HTTP only to this machine; a last slash doesn't matter."""
    settings = Settings(endpoint=f"{endpoint}/")

    assert settings.endpoint == endpoint
    assert not settings.is_google


def test_no_project_is_told_when_it_is_needed() -> None:
    """Settings without a project are fine until somebody needs it."""
    settings = Settings(endpoint="http://127.0.0.1:1")

    with pytest.raises(InvalidRequest, match="project: none is set") as caught:
        _ = settings.bucket_name

    assert "--project" in caught.value.hint
    assert Settings(bucket="mine").bucket_name == "mine"


def test_paths_are_expanded() -> None:
    """A home folder may be written with a tilde."""
    assert Settings(ssh_key=Path("~/key")).ssh_key == Path.home() / "key"
