"""What is inside an instance: databases and users, read from PostgreSQL and changed there.

Roles are as on Cloud SQL: users of the API belong to ``cloudsqlsuperuser``, which owns the
databases and is no superuser (https://cloud.google.com/sql/docs/postgres/users).
"""

from dataclasses import dataclass
from typing import Final

from gcp_emulator.replies import GoogleError
from gcp_emulator.sql.postgres import Postgres, SqlError, identifier, literal

__all__ = [
    "Database",
    "create_database",
    "databases",
    "delete_database",
    "delete_user",
    "furnish",
    "set_password",
    "users",
]

_HERE: Final = "C.UTF-8"
_THERE: Final = "en_US.UTF8"
"""Cloud SQL's collation; here it is C.UTF-8, which every machine has, under that name."""
_GROUP: Final = "cloudsqlsuperuser"
_LONGEST_NAME: Final = 63
_OWN: Final = "cloudsql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One database."""

    name: str
    charset: str
    collation: str


async def furnish(server: Postgres, *, verifier: str | None) -> None:
    """Give a new cluster the roles of Cloud SQL; `postgres` without a password can't log in."""
    password = f" PASSWORD {literal(verifier)}" if verifier else ""
    await server.sql(
        f"CREATE ROLE {_GROUP} NOLOGIN CREATEROLE CREATEDB;"
        f"GRANT pg_monitor, pg_signal_backend TO {_GROUP};"
        f"CREATE ROLE postgres LOGIN CREATEROLE CREATEDB IN ROLE {_GROUP}{password};"
        f"ALTER DATABASE postgres OWNER TO {_GROUP};"
    )


async def databases(server: Postgres) -> list[Database]:
    """All databases but templates, by name."""
    rows = await server.sql(
        "SELECT datname, pg_encoding_to_char(encoding), datcollate FROM pg_database"
        " WHERE NOT datistemplate ORDER BY datname;"
    )
    return [
        Database(name=name, charset=charset, collation=_THERE if how == _HERE else how)
        for name, charset, how in rows
    ]


async def create_database(server: Postgres, name: object, *, charset: str, collation: str) -> None:
    """Make a database.

    Raises:
        GoogleError: 400, with PostgreSQL's words: it exists, or can't be.
    """
    name = _checked(name, "database")
    how = _HERE if collation in ("", _THERE) else collation
    try:
        await server.sql(
            f"CREATE DATABASE {identifier(name)} OWNER {_GROUP} TEMPLATE template0"
            f" ENCODING {literal(charset or 'UTF8')} LOCALE {literal(how)};"
        )
    except SqlError as error:
        raise _invalid(f"failed to create database {name}. Detail: pq: {error}.") from error


async def delete_database(server: Postgres, name: str) -> None:
    """Drop a database.

    Raises:
        GoogleError: 404 when there is none; 400 while somebody is connected to it.
    """
    if name not in [one.name for one in await databases(server)]:
        raise no_database()
    if name == "postgres":
        raise _invalid("failed to delete database postgres: it is a system database.")
    try:
        await server.sql(f"DROP DATABASE {identifier(name)};")
    except SqlError as error:
        raise _invalid(f"failed to delete database {name}. Detail: pq: {error}.") from error


async def users(server: Postgres) -> list[str]:
    """The names of those who can log in, but for the cloud's own."""
    rows = await server.sql("SELECT rolname FROM pg_roles WHERE rolcanlogin ORDER BY rolname;")
    return [name for (name,) in rows if not name.startswith(_OWN)]


async def set_password(server: Postgres, name: object, verifier: str, *, make: bool) -> None:
    """Give a user another password.

    Args:
        server: Where.
        name: Who.
        verifier: What PostgreSQL keeps of the password.
        make: Make the user if there is none.

    Raises:
        GoogleError: 400 for a name that can't be; 404 when there is none.
    """
    name = _checked(name, "user")
    if name in await users(server):
        statement = f"ALTER ROLE {identifier(name)} PASSWORD {literal(verifier)};"
    elif make:
        statement = (
            f"CREATE ROLE {identifier(name)} LOGIN CREATEROLE CREATEDB"
            f" PASSWORD {literal(verifier)} IN ROLE {_GROUP};"
        )
    else:
        raise no_user()
    try:
        await server.sql(statement)
    except SqlError as error:
        raise _invalid(f"failed to create user {name}. Detail: pq: {error}.") from error


async def delete_user(server: Postgres, name: str) -> None:
    """Drop a user.

    Raises:
        GoogleError: 404 when there is none; 400 while objects belong to it.
    """
    if name not in await users(server):
        raise no_user()
    try:
        await server.sql(f"DROP ROLE {identifier(name)};")
    except SqlError as error:
        raise _invalid(f"failed to delete user {name}: . {error}.") from error


def no_database() -> GoogleError:
    """404: no such database."""
    return GoogleError(404, "databaseDoesNotExist", "Not Found: The database does not exist.")


def no_user() -> GoogleError:
    """404: no such user."""
    return GoogleError(404, "userDoesNotExist", "Not Found: The user does not exist.")


def _checked(name: object, what: str) -> str:
    if not isinstance(name, str) or not name:
        raise _invalid(f"Missing parameter: {what} name.")
    if len(name.encode()) > _LONGEST_NAME or not name.isprintable() or name.startswith(_OWN):
        raise _invalid(f"Invalid {what} name ({name[:80]}).")
    return name


def _invalid(message: str) -> GoogleError:
    return GoogleError(400, "invalid", f"Invalid request: {message}")
