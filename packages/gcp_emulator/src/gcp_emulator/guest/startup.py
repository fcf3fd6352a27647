"""The guest agent's startup scripts: ``startup-script`` and ``startup-script-url``.

https://cloud.google.com/compute/docs/instances/startup-scripts/linux; the words on the serial
port are those of the agent's ``google_metadata_script_runner``
(https://github.com/GoogleCloudPlatform/guest-agent). They run at each boot, as root.
"""

import asyncio
import itertools
import re
import urllib.parse
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import aiohttp

from gcp_emulator.docker.streams import Streams
from gcp_emulator.guest.cos import Guest

KEYS: Final = ("startup-script", "startup-script-url")
"""The metadata keys, in the order in which they are run."""

_ATTEMPTS = 4
_LARGEST_SCRIPT = 16 << 20  # bytes
_OBJECT = re.compile(
    r"(?:gs://|https?://(?:www\.)?(?:storage|commondatastorage)\.googleapis\.com/)"
    r"(?P<bucket>[a-z0-9][-_.a-z0-9]*)/(?P<name>.+)"
)
_OBJECT_OF_HOST = re.compile(
    r"https?://(?P<bucket>[a-z0-9][-_.a-z0-9]*)\.storage\.googleapis\.com/(?P<name>.+)"
)


class StartupScripts:
    """Runs the startup scripts of one VM.

    Args:
        guest: Its operating system.
        environment: What a script finds besides: ``GCE_METADATA_HOST`` and
            ``STORAGE_EMULATOR_HOST``, through which objects are fetched, too.
        runs: Whether there is a shell; without one it is only said what would run.
    """

    def __init__(self, guest: Guest, *, environment: Mapping[str, str], runs: bool) -> None:
        self._guest = guest
        self._environment = dict(environment)
        self._runs = runs
        self._files = itertools.count(1)

    async def __call__(self, metadata: Mapping[str, str]) -> None:
        """Run them, one after the other; failures go to the serial port and end nothing."""
        self._say("Starting startup scripts (version local).")
        given = {key: metadata[key] for key in KEYS if metadata.get(key)}
        if not given:
            self._say("No startup scripts to run.")
            return
        for key, value in given.items():
            self._say(f"Found {key} in metadata.")
            if not self._runs:
                self._say(f"{key}: the inert engine runs no scripts")
                continue
            try:
                script = await self._fetch(value) if key.endswith("-url") else value.encode()
                code = await self._run(key, script)
            except (_NotFetchedError, OSError) as error:
                self._say(f'Script "{key}" failed with error: {error}')
                continue
            failed = f'Script "{key}" failed with error: ' if code else f"{key} "
            self._say(f"{failed}exit status {code}")
        self._say("Finished running startup scripts.")

    async def _run(self, key: str, script: bytes) -> int:
        inside = f"/var/lib/google/metadata-scripts{next(self._files)}/{key}"
        path = self._guest.make_writable(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(script)
        path.chmod(0o700)
        lines = _Lines(lambda line: self._say(f"{key}: {line}"))
        try:
            return await self._guest.script(
                inside, Streams(sink=lines.take), {**self._environment, "HOME": "/var/lib/google"}
            )
        finally:
            lines.flush()
            with suppress(FileNotFoundError):
                path.unlink()
                path.parent.rmdir()

    async def _fetch(self, url: str) -> bytes:
        found = _OBJECT.fullmatch(url) or _OBJECT_OF_HOST.fullmatch(url)
        if found is None:
            raise _NotFetchedError(f"{url}: the local cloud fetches objects of its storage only")
        bucket, name = found["bucket"], found["name"]
        if not url.startswith("gs:"):
            name = urllib.parse.unquote(name)
        endpoint = self._environment.get("STORAGE_EMULATOR_HOST", "")
        place = f"{endpoint}/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for attempt in itertools.count(1):
                try:
                    token = await self._token(session)
                    return await _download(session, place, token, url)
                except (aiohttp.ClientError, TimeoutError) as error:
                    if attempt == _ATTEMPTS:
                        raise _NotFetchedError(f"{url}: {error or 'timed out'}") from error
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError

    async def _token(self, session: aiohttp.ClientSession) -> str:
        host = self._environment["GCE_METADATA_HOST"]
        place = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
        async with session.get(place, headers={"Metadata-Flavor": "Google"}) as reply:
            # A VM without a service account reads what everybody may.
            return str((await reply.json())["access_token"]) if reply.status == 200 else ""

    def _say(self, line: str) -> None:
        self._guest.say(f"google_metadata_script_runner[731]: {line}")


class _NotFetchedError(Exception):
    """A script could not be had; in one line."""


class _Lines:
    """Cuts what is written into lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = b""

    async def take(self, _stream: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line.decode(errors="replace"))

    def flush(self) -> None:
        if self._rest:
            self._say(self._rest.decode(errors="replace"))


async def _download(session: aiohttp.ClientSession, place: str, token: str, url: str) -> bytes:
    """The object's bytes.

    Raises:
        _NotFetchedError: It can't be had.
        aiohttp.ClientError: It may be had later.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with session.get(place, params={"alt": "media"}, headers=headers) as reply:
        if reply.status == 404:
            raise _NotFetchedError(f"{url}: storage: object doesn't exist")
        if reply.status >= 500 or reply.status == 429:
            reply.raise_for_status()
        if reply.status != 200:
            said = " ".join((await reply.text())[:2_000].split())
            raise _NotFetchedError(f"{url}: storage: HTTP {reply.status}: {said or reply.reason}")
        if (reply.content_length or 0) > _LARGEST_SCRIPT:
            raise _NotFetchedError(f"{url}: larger than {_LARGEST_SCRIPT} bytes")
        return await reply.read()
