"""What a tracking server consists of in the cloud: one small class for each kind of thing.

All have the shape of `gcloud_ops.resources.Resource`, where those are that others make, too; those
that cost money are `Priced`. `ordered` gives them in the order in which they are made;
`access` and `roles` hold who may do what, `storing` what is kept, `network` how it is reached,
`database` and `machine` what runs.
"""

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.resources import Resource
from mlflow_infra.resources.access import new_account, new_apis
from mlflow_infra.resources.database import Database, Instance, User
from mlflow_infra.resources.machine import Server
from mlflow_infra.resources.network import Address, find_address, new_firewall
from mlflow_infra.resources.roles import bucket_roles, project_roles, secret_roles
from mlflow_infra.resources.shape import Place, Priced
from mlflow_infra.resources.storing import Script, latest_version, new_bucket, new_secret
from mlflow_infra.wanted import DATABASE_SECRET, FIREWALL, SECRETS, TRAINER_FIREWALL

__all__ = ["Place", "Priced", "Server", "find_address", "latest_version", "ordered"]


def ordered(place: Place, *, database_password: str | None = None) -> tuple[Resource, ...]:
    """All resources, in the order in which they are made; the APIs first.

    Args:
        place: Where.
        database_password: What somebody chose; None: one is made.

    Raises:
        InvalidRequest: The password can't be one.
    """
    if database_password is not None and not _can_be_password(database_password):
        raise InvalidRequest(
            "the database's password: 8 to 256 printable ASCII characters, without spaces",
            hint="leave it out, and one is made",
        )
    given = {DATABASE_SECRET: database_password}
    return (
        new_apis(place),
        new_account(place),
        new_bucket(place),
        *(new_secret(place, name, given.get(name)) for name in SECRETS),
        Instance(place),
        Database(place),
        User(place),
        project_roles(place),
        bucket_roles(place),
        *(secret_roles(place, name) for name in SECRETS),
        Script(place),
        Address(place),
        new_firewall(place, FIREWALL),
        new_firewall(place, TRAINER_FIREWALL),
        Server(place),
    )


def _can_be_password(text: str) -> bool:
    return 8 <= len(text) <= 256 and all("!" <= letter <= "~" for letter in text)
