"""What the server asks of Google Cloud: where it runs, and its secrets.

Two HTTP services, asked at the start: the VM's metadata server
(https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys) and Secret Manager
(https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access).
"""

import base64
import binascii
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import requests

__all__ = [
    "TIMEOUT",
    "Machine",
    "Secrets",
    "Settings",
    "StartError",
    "User",
    "access_token",
    "read_machine",
    "read_secrets",
]

_PATIENCE = 60.0  # seconds that a service may be away
TIMEOUT: Final = (5, 10)
"""Seconds to connect, and to answer."""
_PAUSE = 1.0
_CONNECTION: Final = re.compile(r"[a-z0-9.:-]+:[a-z0-9-]+:[a-z0-9-]+")


class StartError(Exception):
    """The server can't start, or has ended; the text is one line, and holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `server.env` says."""

    project: str
    connection: str
    """Cloud SQL's connection name, `PROJECT:REGION:INSTANCE`."""
    artifacts: str
    """Where artifacts are kept, `gs://BUCKET/FOLDER`."""
    port: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables.

        Raises:
            StartError: One is missing or can't be.
        """

        def wanted(name: str) -> str:
            value = environment.get(name, "")
            if not value:
                raise StartError(f"{name} is not set; `mlflow-infra up` writes it to server.env")
            return value

        port = wanted("MLFLOW_INFRA_PORT")
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise StartError(f"MLFLOW_INFRA_PORT: {port!r} is not a port")
        connection = wanted("MLFLOW_INFRA_CONNECTION")
        if not _CONNECTION.fullmatch(connection):
            raise StartError(
                f"MLFLOW_INFRA_CONNECTION: {connection!r} is not PROJECT:REGION:INSTANCE"
            )
        return cls(
            project=wanted("MLFLOW_INFRA_PROJECT"),
            connection=connection,
            artifacts=wanted("MLFLOW_INFRA_ARTIFACTS"),
            port=int(port),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The VM that this runs on."""

    internal: str
    """Its address in its network."""
    external: str
    """Its address on the Internet; "" when it has none."""
    names: frozenset[str]
    """Its names in the network's DNS; trainers reach it by the one with its zone, which stays
    when the VM is made anew (docs/contract.md, section 7)."""
    attributes: Mapping[str, str]
    """Its metadata."""

    def answers(self, url: str) -> bool:
        """Whether an HTTP server of this machine answers well."""
        try:
            with _direct() as session:
                return session.get(url, timeout=TIMEOUT).status_code == 200
        except requests.RequestException:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who may log in to MLflow."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What Secret Manager keeps for the server."""

    database: str = field(repr=False)
    """Password of the database's user."""
    admin: User
    trainer: User
    signing_key: str = field(repr=False)
    """Signs the cookies of MLflow's pages."""


def read_machine() -> Machine:
    """Ask the metadata server where this is.

    Raises:
        StartError: There is none.
    """
    found = _metadata("instance/?recursive=true")
    try:
        interface = found["networkInterfaces"][0]
        configs = interface.get("accessConfigs") or [{}]
        return Machine(
            internal=str(interface["ip"]),
            external=str(configs[0].get("externalIp") or ""),
            names=_names(found),
            attributes={str(k): str(v) for k, v in found.get("attributes", {}).items()},
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        raise StartError("the metadata server names no network interface of this VM") from None


def _names(found: Mapping[str, Any]) -> frozenset[str]:
    """The VM's names, see https://cloud.google.com/compute/docs/internal-dns.

    Projects from before 2018 have one without the zone as their hosts' own.
    """
    hostname, name = str(found.get("hostname", "")), str(found.get("name", ""))
    zone = str(found.get("zone", "")).rpartition("/")[2]
    project = hostname.partition(".c.")[2]
    zonal = {f"{name}.{zone}.c.{project}"} if name and zone and project else set()
    return frozenset({hostname} | zonal) - {""}


def read_secrets(project: str) -> Secrets:
    """Read the four secrets, as the VM's service account.

    Raises:
        StartError: One is not there, may not be read, or is not what it should be.
    """
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {access_token()}"
        return Secrets(
            database=_line(session, project, "mlflow-db-password"),
            admin=_user(session, project, "mlflow-admin"),
            trainer=_user(session, project, "mlflow-trainer"),
            signing_key=_line(session, project, "mlflow-flask-key"),
        )


def access_token() -> str:
    """A token of the VM's service account, which the metadata server renews in time.

    Raises:
        StartError: It gives none.
    """
    return str(_metadata("instance/service-accounts/default/token").get("access_token", ""))


def _metadata(path: str) -> Any:
    host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
    url = f"http://{host}/computeMetadata/v1/{path}"
    with _direct() as session:
        session.headers["Metadata-Flavor"] = "Google"
        response = _get(session, url, "the metadata server")
    if response.status_code != 200:
        raise StartError(
            f"the metadata server answers {response.status_code} to {path.partition('?')[0]}; "
            "does the VM have a service account?"
        )
    return response.json()


def _line(session: requests.Session, project: str, name: str) -> str:
    """A secret that is one line."""
    text = _secret(session, project, name)
    if not text or "\n" in text or "\0" in text:
        raise StartError(f"secret {name}: it is not one line; give it a new version")
    return text


def _user(session: requests.Session, project: str, name: str) -> User:
    """A secret that is a user, as JSON."""
    text = _secret(session, project, name)
    try:
        content = json.loads(text)
        username, password = content["username"], content["password"]
    except (ValueError, KeyError, TypeError):
        username = password = None
    if not (isinstance(username, str) and isinstance(password, str) and username and password):
        raise StartError(
            f"secret {name}: it is not JSON with username and password; give it a new version"
        )
    if not re.fullmatch(r"[\w.@-]{1,255}", username):
        raise StartError(f"secret {name}: its username has characters that MLflow can't take")
    return User(name=username, password=password)


def _secret(session: requests.Session, project: str, name: str) -> str:
    """The newest version of a secret, without white space around it."""
    endpoint = (
        os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER")
        or "https://secretmanager.googleapis.com/"
    )
    full = f"projects/{project}/secrets/{name}"
    url = f"{endpoint.rstrip('/')}/v1/{full}/versions/latest:access"
    response = _get(session, url, "Secret Manager")
    if response.status_code in (401, 403):
        raise StartError(
            f"{full} may not be read; grant roles/secretmanager.secretAccessor on it to the VM's "
            "service account (`mlflow-infra up` does)"
        )
    if response.status_code == 404:
        raise StartError(f"{full} has no version; run `mlflow-infra up` again")
    if response.status_code != 200:
        raise StartError(f"{full} can't be read: Secret Manager answers {response.status_code}")
    try:
        return base64.b64decode(response.json()["payload"]["data"]).decode().strip()
    except (ValueError, KeyError, TypeError, binascii.Error):
        # Without its cause: that would show a part of the secret.
        raise StartError(f"{full} is not text") from None


def _get(session: requests.Session, url: str, what: str) -> requests.Response:
    """Ask; again while nobody answers, or the answer is that it is a bad moment."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            response = session.get(url, timeout=TIMEOUT)
            if response.status_code != 429 and response.status_code < 500:
                return response
            problem = f"answers {response.status_code}"
        except (requests.ConnectionError, requests.Timeout):
            problem = "does not answer"
        if time.monotonic() + _PAUSE > deadline:
            raise StartError(f"{what} {problem} for {_PATIENCE:.0f} seconds")
        time.sleep(_PAUSE)


def _direct() -> requests.Session:
    """A session for addresses of this machine, which no proxy of the environment knows."""
    session = requests.Session()
    session.trust_env = False
    return session
