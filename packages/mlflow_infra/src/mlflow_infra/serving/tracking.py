"""MLflow itself, in a process of its own: database, users, and then `mlflow server`.

Run as `python -m mlflow_infra.serving.tracking` by `mlflow-infra-server`, which passes what may
be known through variables that MLflow documents, and what may not through standard input. One
process does it all, as importing MLflow takes seconds; nobody can log in before the users have
their passwords, as nothing listens before.

MLflow has no public interface to tell whether a schema is up to date, nor one for users without a
running server: the image pins MLflow's version, and `tests/test_serving.py` holds this to it.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mlflow_infra.serving.processes import say

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["main"]

_DATABASE_SECONDS = 120.0
_PAUSE = 1.0
_REFUSED = 3


class _RefusedError(Exception):
    """It can't serve; the text is one line."""


def main() -> int:
    """Do what standard input orders; returns the exit code."""
    order = json.load(sys.stdin.buffer)
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = order["signing_key"]
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    try:
        _await_database(uri)
        _bring_schema(uri, may_upgrade=order["upgrade"])
        if not order["serve"]:
            return 0
        _bring_users(uri, admin=order["admin"], trainer=order["trainer"])
    except _RefusedError as error:
        say(str(error))
        return _REFUSED
    order.clear()
    return _serve()


def _serve() -> NoReturn:
    """Run `mlflow server`, with the arguments that its variables hold."""
    from mlflow.cli import cli

    cli.main(["server", "--app-name", "basic-auth"], prog_name="mlflow")


def _await_database(uri: str) -> None:
    """Wait for the database; MLflow itself would show a trace for each attempt."""
    import psycopg
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    deadline = time.monotonic() + _DATABASE_SECONDS
    while True:
        try:
            psycopg.connect(
                host=str(url.query["host"]),
                user=url.username,
                dbname=url.database,
                connect_timeout=10,
            ).close()
        except psycopg.OperationalError as error:
            said = " ".join(str(error).split())
            if "password authentication failed" in said:
                raise _RefusedError(
                    "the database refuses the password in the secret mlflow-db-password; "
                    "run `mlflow-infra up` again"
                ) from None
            if time.monotonic() > deadline:
                raise _RefusedError(f"the database can't be reached: {said}") from None
            time.sleep(_PAUSE)
        else:
            return


def _bring_schema(uri: str, *, may_upgrade: bool) -> None:
    """Make an empty database MLflow's; upgrade an older one, if that is allowed."""
    import mlflow
    import mlflow.store.db.utils

    utils: Any = mlflow.store.db.utils
    engine = utils.create_sqlalchemy_engine_with_retry(uri)
    root = Path(mlflow.__file__).parent
    schemas = (
        (root / "store" / "db_migrations", "alembic_version"),
        (root / "server" / "auth" / "db" / "migrations", "alembic_version_auth"),
    )
    found = [_schema(engine, folder, table) for folder, table in schemas]
    try:
        for current, newest, known in found:
            if current is not None and not known:
                raise _RefusedError(
                    f"the database's schema {current} is not known to MLflow "
                    f"{mlflow.__version__}: it is of a newer one; choose a newer image"
                )
            if current not in (None, newest) and not may_upgrade:
                raise _RefusedError(
                    f"the database has the schema {current}, and MLflow {mlflow.__version__} "
                    f"needs {newest}; run `mlflow-infra upgrade`, which makes a backup first"
                )
        current, newest, _ = found[0]
        if current is None:
            # Also one whose first start was interrupted.
            utils._initialize_tables(engine)
        elif current != newest:
            utils._upgrade_db(engine)
    finally:
        engine.dispose()
    # The schema of the users follows when their store is opened.
    _users_store(uri)


def _schema(engine: "Engine", folder: Path, table: str) -> tuple[str | None, str | None, bool]:
    """The database's revision, the newest one, and whether the former is known."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": table})
        current = context.get_current_revision()
    script = ScriptDirectory(str(folder))
    known = {revision.revision for revision in script.walk_revisions()}
    return current, script.get_current_head(), current in known


def _users_store(uri: str) -> Any:
    """MLflow's store of users, open."""
    from mlflow.server import auth

    store: Any = auth.store
    if getattr(store, "engine", None) is None:
        store.init_db(uri)
    return store


def _bring_users(uri: str, *, admin: dict[str, str], trainer: dict[str, str]) -> None:
    """Give both users the passwords of their secrets."""
    from mlflow.exceptions import MlflowException

    store = _users_store(uri)
    for user, is_admin in ((admin, True), (trainer, False)):
        name, password = user["username"], user["password"]
        try:
            if not store.has_user(name):
                store.create_user(name, password, is_admin=is_admin)
                if not is_admin:
                    # Where a run goes that names no experiment; nobody made it.
                    store.create_experiment_permission("0", name, "EDIT")
                say(f"made the user {name}")
            elif not store.authenticate_user(name, password):
                store.update_user(name, password=password)
                say(f"gave the user {name} its new password")
            if store.get_user(name).is_admin != is_admin:
                store.update_user(name, is_admin=is_admin)
        except MlflowException as error:
            raise _RefusedError(f"the user {name} can't be made: {error.message}") from None


if __name__ == "__main__":
    sys.exit(main())
