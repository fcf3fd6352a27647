"""How people and programs get at the server: its address, and who they are there.

MLflow's clients read `MLFLOW_TRACKING_URI`, `MLFLOW_TRACKING_USERNAME` and
`MLFLOW_TRACKING_PASSWORD` (https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth).
"""

import json
import shlex
from dataclasses import dataclass, field
from typing import Literal

from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest, NotFound
from mlflow_infra import plan
from mlflow_infra.wanted import ADMIN_SECRET, PORT, TRAINER_SECRET, Infrastructure

__all__ = ["Login", "Who", "exports", "login", "tracking_uri"]

type Who = Literal["admin", "trainer"]

_SECRETS = {"admin": ADMIN_SECRET, "trainer": TRAINER_SECRET}


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user of the tracking server; its text never shows the password."""

    username: str
    password: str = field(repr=False)


def tracking_uri(clients: Clients, infra: Infrastructure) -> str:
    """What `MLFLOW_TRACKING_URI` is set to.

    Raises:
        NotFound: The server has no address (yet).
    """
    address = plan.address_of(clients, infra)
    if address is None:
        raise NotFound(
            f"the tracking server of project {infra.project} has no address",
            resource="address mlflow-ip",
            hint="`mlflow-infra up` makes it",
        )
    return f"http://{address}:{PORT}"


def login(clients: Clients, infra: Infrastructure, who: Who) -> Login:
    """Name and password of a user, from Secret Manager.

    Raises:
        NotFound: There is no such secret, or it has no version.
        PermissionDenied: The account may not read it.
        InvalidRequest: It holds something else.
    """
    name = _SECRETS[who]
    text = plan.read_secret(clients, infra, name)
    try:
        content = json.loads(text)
        username, password = content["username"], content["password"]
        if not (isinstance(username, str) and isinstance(password, str) and username):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        # Without the cause: it would quote what the secret holds.
        raise InvalidRequest(
            f"secret {name}: it holds no user name and password",
            resource=f"secret {name}",
            hint="remove it, and `mlflow-infra up` makes it anew",
        ) from None
    return Login(username=username, password=password)


def exports(uri: str, user: Login) -> str:
    """Lines that a shell evaluates, so that MLflow's clients work as this user."""
    variables = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_USERNAME": user.username,
        "MLFLOW_TRACKING_PASSWORD": user.password,
    }
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
