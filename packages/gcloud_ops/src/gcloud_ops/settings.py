"""Settings: which project, zone, bucket and cloud. Loaded once, at the edge, and passed in.

A flag counts before the environment, the environment before the file, the file before the default.
"""

import difflib
import getpass
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from platformdirs import user_config_path

from gcloud_ops.errors import InvalidRequest

__all__ = ["Settings", "config_file"]

APPLICATION = "gcloud-ops"

CLOUD_ENVIRONMENT = {
    "project": ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"),
    "zone": ("CLOUDSDK_COMPUTE_ZONE",),
    "monitoring_endpoint": ("MONITORING_EMULATOR_HOST",),
}
"""Variables of gcloud, of Google's libraries and emulators that we read after our own."""

_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
_PROJECT = re.compile(r"(?:[a-z][-a-z0-9.]{0,60}:)?[a-z][-a-z0-9]{0,61}[a-z0-9]")
_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]")
_RESOURCE_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LOCATION = re.compile(r"[A-Za-z]+[0-9]*(?:-[A-Za-z]+[0-9]*)*")
_IAP = ("auto", "always", "never")
_USER = re.compile(r"[a-z_][-a-z0-9_]{0,31}")


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The settings' file: `$GCLOUD_OPS_CONFIG`, or `config.toml` in the user's configuration."""
    named = environ.get("GCLOUD_OPS_CONFIG")
    return Path(named) if named else user_config_path(APPLICATION) / "config.toml"


def _login_user() -> str:
    """The login name in the form that Google takes (useradd's)."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        name = ""
    name = re.sub(r"[^-a-z0-9_]", "_", name.split("@")[0].lower())[:32]
    if name == "root":  # Container-Optimized OS refuses root over SSH
        return "sinergym"
    return name if _USER.fullmatch(name) else f"u_{name}"[:32].rstrip("_") or "sinergym"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which cloud to work on, and how to get there.

    In the file each field is a key; in the environment it is `GCLOUD_OPS_` and its name in
    capitals, such as `GCLOUD_OPS_ZONE`.

    Raises:
        InvalidRequest: A value can't be; the message names the field.
    """

    project: str = ""
    """Id of the project. "" is that of Google's default credentials.
    Also read from `GOOGLE_CLOUD_PROJECT` and `CLOUDSDK_CORE_PROJECT`."""
    zone: str = "europe-west1-b"
    """Zone of the instances. Also read from `CLOUDSDK_COMPUTE_ZONE`."""
    bucket: str | None = None
    """Bucket of sweeps and results; None: `<project>-experiments-storage`."""
    template: str = "sinergym-template"
    """Instance template of the sweeps that name none."""
    endpoint: str | None = None
    """Another cloud than Google's, such as `http://127.0.0.1:8080`; None: Google Cloud."""
    monitoring_endpoint: str | None = None
    """Where the cloud at `endpoint` has its Cloud Monitoring: gRPC, such as `127.0.0.1:8081`.
    Also read from `MONITORING_EMULATOR_HOST`."""
    ssh_port: int = 22
    """Port of the instances' SSH servers."""
    ssh_user: str = field(default_factory=_login_user)
    """Account on the instances; by default the login name, in the form that Google takes."""
    ssh_key: Path = field(
        default_factory=lambda: user_config_path(APPLICATION) / "ssh" / "id_ed25519"
    )
    """Private key; made at the first use."""
    iap: str = "auto"
    """Whether SSH goes through IAP's TCP forwarding: `auto` (to instances without an external
    address), `always`, or `never` (on Google's network, or in a VPN to it)."""
    bucket_location: str = "EU"
    """Where a bucket is made that is missing."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, check(value))
            except ValueError as error:
                raise InvalidRequest(f"{name}: {error}", resource=f"setting {name}") from None

    @classmethod
    def load(
        cls,
        *,
        flags: Mapping[str, object] | None = None,
        environ: Mapping[str, str] = os.environ,
        file: Path | None = None,
    ) -> Self:
        """Gather the settings from flags, environment and file.

        Args:
            flags: Values by field; None is "not given".
            environ: The environment.
            file: The file to read; None: `config_file`, which needn't exist.

        Raises:
            InvalidRequest: A value can't be, a key is unknown, or the file can't be read; the
                message names the field and where it came from.
        """
        path = file if file is not None else config_file(environ)
        required = file is not None or "GCLOUD_OPS_CONFIG" in environ
        values: dict[str, tuple[object, str]] = _from_file(path, required=required)
        values |= _from_environment(environ)
        for name, value in (flags or {}).items():
            if value is not None:
                _check_known(name, "flag")
                values[name] = (value, f"--{name.replace('_', '-')}")
        checked: dict[str, Any] = {}
        for name, (value, source) in values.items():
            try:
                checked[name] = _CHECKS[name](value)
            except ValueError as error:
                raise InvalidRequest(
                    f"{source}: {name}: {error}", resource=f"setting {name}"
                ) from None
        return cls(**checked)

    @property
    def bucket_name(self) -> str:
        """The bucket: the one that is set, or the project's.

        Raises:
            InvalidRequest: Neither bucket nor project is known.
        """
        return self.bucket or f"{self.require_project()}-experiments-storage"

    @property
    def is_google(self) -> bool:
        """Whether this is Google Cloud, and not a cloud at another endpoint."""
        return self.endpoint is None

    @property
    def has_monitoring(self) -> bool:
        """Whether there is a Cloud Monitoring: Google's, or that of another cloud."""
        return self.endpoint is None or self.monitoring_endpoint is not None

    def require_project(self) -> str:
        """The project.

        `Clients.connect` fills in that of Google's default credentials where none is set.

        Raises:
            InvalidRequest: There is none.
        """
        if self.project:
            return self.project
        raise InvalidRequest(
            "project: none is set",
            resource="setting project",
            hint="give --project, set GOOGLE_CLOUD_PROJECT, or run "
            "`gcloud auth application-default set-quota-project PROJECT`",
        )


def _from_file(path: Path, *, required: bool) -> dict[str, tuple[object, str]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise InvalidRequest(f"{path}: no such settings file") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path}: not TOML: {error}") from error
    for key in content:
        _check_known(key, str(path))
    return {key: (value, str(path)) for key, value in content.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    found: dict[str, tuple[object, str]] = {}
    for name in _CHECKS:
        for variable in (f"GCLOUD_OPS_{name.upper()}", *CLOUD_ENVIRONMENT.get(name, ())):
            if environ.get(variable):
                found[name] = (environ[variable], variable)
                break
    return found


def _check_known(key: str, source: str) -> None:
    if key in _CHECKS:
        return
    nearest = difflib.get_close_matches(key, _CHECKS, n=1, cutoff=0.5)
    raise InvalidRequest(
        f"{source}: unknown key {key!r}",
        hint=f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(_CHECKS)}",
    )


# --------------------------------------------------------------------- checks of values
# Each returns the value in its own type, or raises ValueError with the end of the sentence.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    return value


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = _text(value)
        if not pattern.fullmatch(text):
            raise ValueError(f"{text!r} is not {what}")
        return text

    return check


def _optional(check: Callable[[object], str]) -> Callable[[object], str | None]:
    return lambda value: None if value is None or value == "" else check(value)


def _project(value: object) -> str:
    return "" if value == "" else _matching(_PROJECT, "a project id")(value)


def _endpoint(value: object) -> str:
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address: {error}") from None
    if parts.scheme not in {"http", "https"} or not host or parts.path or parts.query:
        raise ValueError(f"{text!r} is not an address such as http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise ValueError("an address with a password is not taken")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(f"{text!r} is not encrypted: http is for this machine only, use https")
    return text


def _grpc_endpoint(value: object) -> str:
    text = _text(value)
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address such as 127.0.0.1:8081")
    if not _is_loopback(host.strip("[]")):
        raise ValueError(f"{text!r} is not encrypted: it is for this machine only")
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError(f"{value!r} is not a port (1 to 65535)")
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"must be a path, not {value!r}")
    return Path(value).expanduser()


def _iap(value: object) -> str:
    text = _text(value)
    if text not in _IAP:
        raise ValueError(f"{text!r} is none of {', '.join(_IAP)}")
    return text


_CHECKS: dict[str, Callable[[object], Any]] = {
    "project": _project,
    "zone": _matching(_ZONE, "a zone such as europe-west1-b"),
    "bucket": _optional(_matching(_BUCKET, "a bucket's name")),
    "template": _matching(_RESOURCE_NAME, "a name that Compute Engine takes"),
    "endpoint": _optional(_endpoint),
    "monitoring_endpoint": _optional(_grpc_endpoint),
    "ssh_port": _port,
    "ssh_user": _matching(_USER, "an account's name on Linux"),
    "ssh_key": _path,
    "iap": _iap,
    "bucket_location": _matching(_LOCATION, "a location such as EU or europe-west1"),
}
