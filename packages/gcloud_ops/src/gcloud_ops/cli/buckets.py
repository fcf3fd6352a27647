"""`gcloud-ops bucket`: what is in the bucket, and bring it."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from pathlib import Path

from cyclopts import App

from gcloud_ops.cli.app import GivenSession, Session

__all__ = ["bucket"]

bucket = App(name="bucket", help="Objects in the bucket.")


@bucket.command(name="ls")
def bucket_ls(path: str = "", /, *, session: GivenSession) -> None:
    """List one level of the bucket.

    Args:
        path: A folder, such as quick/ or gs://BUCKET/quick; none lists the sweeps.
    """
    from gcloud_ops import objects
    from gcloud_ops.cli.output import ENTRIES
    from gcloud_ops.errors import NotFound

    where, prefix = _place(session, path)
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    found = objects.list_objects(session.clients, where, folder, delimiter="/")
    if not found and prefix:
        entries = objects.list_objects(session.clients, where, prefix, delimiter="/")
        found = tuple(entry for entry in entries if entry.name == prefix)
    if not found and prefix:
        raise NotFound(f"there is nothing in gs://{where}/{prefix}", resource=prefix)
    session.emit(found, ENTRIES)


@bucket.command(name="pull")
def bucket_pull(path: str, folder: Path | None = None, /, *, session: GivenSession) -> None:
    """Download an object, or all below a folder; what is here already is not downloaded again.

    Args:
        path: What, such as quick/quick-0001/output or gs://BUCKET/quick.
        folder: Where to; else a folder here with the last name of PATH.
    """
    from gcloud_ops import objects
    from gcloud_ops.cli.output import as_json, dump, say
    from gcloud_ops.errors import InvalidRequest

    where, prefix = _place(session, path)
    if not prefix.strip("/"):
        raise InvalidRequest("a path in the bucket is needed", hint="such as quick/")
    target = folder or Path(prefix.rstrip("/").rpartition("/")[2])
    files = objects.pull(
        session.clients,
        where,
        prefix,
        target,
        on_file=lambda entry, path: say(f"{path}  {entry.size} bytes"),
    )
    if session.common.output == "json":
        sys.stdout.write(dump(as_json(files)))
    say(f"pulled to {target} ({len(files)} files)")


def _place(session: Session, path: str) -> tuple[str, str]:
    """Bucket and prefix of what people write: a path in our bucket, or gs://BUCKET/PATH."""
    if not path.startswith("gs://"):
        return session.settings.bucket_name, path.lstrip("/")
    where, _, prefix = path.removeprefix("gs://").partition("/")
    return where, prefix
