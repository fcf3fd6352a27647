"""``instances.export``: a database as SQL, into an object of a bucket.

The object is written as anybody else would write it, through the cloud's own Cloud Storage.
https://cloud.google.com/sql/docs/postgres/import-export/import-export-sql
"""

import asyncio
import contextlib
import gzip
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp

from gcp_emulator.replies import GoogleError, Json
from gcp_emulator.sql.content import databases
from gcp_emulator.sql.postgres import Postgres

__all__ = ["Export", "export", "parse_export"]

_PLACE: Final = re.compile(r"gs://([a-z0-9][-_.a-z0-9]{1,220}[a-z0-9])/([^\r\n]{1,1000})")
_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is exported, and to where."""

    bucket: str
    object: str
    """Compressed when it ends in ``.gz``."""
    database: str


def parse_export(body: Json) -> Export:
    """The ``exportContext`` of a request.

    Raises:
        GoogleError: 400; or 501 for what the local cloud does not export.
    """
    asked = body.get("exportContext")
    if not isinstance(asked, dict):
        raise _invalid("Missing parameter: exportContext.")
    place = _PLACE.fullmatch(str(asked.get("uri", "")))
    if not place:
        raise _invalid(f"Invalid uri: {asked.get('uri')!r}, expected gs://BUCKET/OBJECT.")
    if asked.get("fileType", "SQL") != "SQL":
        raise GoogleError(501, "notImplemented", "The local cloud exports SQL only")
    names = asked.get("databases") or ["postgres"]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise _invalid("Exactly one database must be named for PostgreSQL.")
    return Export(bucket=place[1], object=place[2], database=names[0])


async def export(server: Postgres, asked: Export, endpoint: str) -> None:
    """Carry an export out: the whole object is written, or nothing.

    Raises:
        GoogleError: There is no such database or bucket.
        PostgresError: The database could not be read.
    """
    if asked.database not in [one.name for one in await databases(server)]:
        raise GoogleError(404, "databaseDoesNotExist", f"There is no database {asked.database}.")
    with TemporaryDirectory(prefix="export-", dir=server.home) as folder:
        file = Path(folder) / "export.sql"
        await server.dump(asked.database, file)
        if asked.object.endswith(".gz"):
            file = await asyncio.to_thread(_compress, file)
        await _upload(file, asked, endpoint)


async def _upload(file: Path, asked: Export, endpoint: str) -> None:
    name = urllib.parse.quote(asked.object, safe="")
    url = f"{endpoint}/upload/storage/v1/b/{asked.bucket}/o?uploadType=media&name={name}"
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    with _refusals(asked), file.open("rb") as content:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.post(url, data=content, headers={"Content-Type": "application/sql"}) as reply,
        ):
            if reply.status != 200:
                raise GoogleError(
                    reply.status,
                    "ERROR_RDBMS",
                    f"The object gs://{asked.bucket}/{asked.object} can't be written: Cloud"
                    f" Storage answered {reply.status}.",
                )


@contextlib.contextmanager
def _refusals(asked: Export) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise GoogleError(
            503, "ERROR_RDBMS", f"gs://{asked.bucket} can't be reached: {error}"
        ) from error


def _compress(file: Path) -> Path:
    packed = file.with_name(f"{file.name}.gz")
    with file.open("rb") as content, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(content, target)
    return packed


def _invalid(message: str) -> GoogleError:
    return GoogleError(400, "invalid", f"Invalid request: {message}")
