"""The stand-in for Google's ``cloud-sql-proxy`` 2, for instances of a local cloud.

It is told what the real one is told, asks the same question of the Cloud SQL Admin API with the
same token, and leads the same unix socket to the instance::

    cloud-sql-proxy --unix-socket DIR PROJECT:REGION:INSTANCE
    # DIR/PROJECT:REGION:INSTANCE/.s.PGSQL.5432

https://cloud.google.com/sql/docs/postgres/connect-auth-proxy. There is no TLS: it goes straight
to the instance's own socket, whose place the cloud tells.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import json
import os
import re
import shlex
import signal
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["ProxyError", "main", "proxy_folder"]

_SOCKET: Final = ".s.PGSQL.5432"
_LONGEST_SOCKET: Final = 107
_SECONDS: Final = 10.0
_CHUNK: Final = 65_536
_OWN_NAME: Final = "cloud-sql-proxy"
_CONNECTION: Final = re.compile(r"([a-z0-9.-]+(?::[a-z0-9-]+)?):([a-z0-9-]+):([a-z0-9-]+)")


class ProxyError(Exception):
    """Why the proxy can't start, as the real one says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An instance as it is named to the proxy."""

    project: str
    region: str
    instance: str

    def __str__(self) -> str:
        return f"{self.project}:{self.region}:{self.instance}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Where the Cloud SQL Admin API is, and how to get a token for it."""

    endpoint: str
    metadata_host: str
    token: str = ""

    def with_token(self) -> "Cloud":
        """The same with the token of this VM's service account.

        Raises:
            ProxyError: The metadata server gives none.
        """
        if not self.metadata_host:
            return self
        url = (
            f"http://{self.metadata_host}/computeMetadata/v1/instance/service-accounts/default"
            "/token?scopes=https://www.googleapis.com/auth/cloud-platform"
        )
        try:
            found = _get(url, {"Metadata-Flavor": "Google"})
            token = str(found["access_token"])
        except (OSError, ValueError, KeyError) as error:
            raise ProxyError(
                "error initializing dialer: failed to create default credentials: the metadata"
                f" server {self.metadata_host} gives no token: {error}"
            ) from error
        return Cloud(endpoint=self.endpoint, metadata_host=self.metadata_host, token=token)

    def server_of(self, connection: Connection) -> Path:
        """The socket of an instance, if it is there, where it is said to be, and we may.

        Raises:
            ProxyError: It is not so.
        """
        path = f"projects/{_quoted(connection.project)}/instances/{_quoted(connection.instance)}"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            found = _get(f"{self.endpoint}/v1/{path}/connectSettings", headers)
            region = found["region"]
            if region != connection.region:
                raise ProxyError(
                    "unable to start: failed to get instance: Config error: provided region was"
                    f" mismatched - got {connection.region}, want {region} (connection name ="
                    f' "{connection}")'
                )
            where = _get(
                f"{self.endpoint}/emulator/sql/{_quoted(connection.project)}"
                f"/{_quoted(connection.instance)}",
                headers,
            )
            return Path(where["socket_folder"]) / _SOCKET
        except urllib.error.HTTPError as error:
            said = f"googleapi: Error {_said(error)}"
        except (OSError, ValueError, KeyError) as error:
            said = f"{self.endpoint} does not answer: {error}"
        raise ProxyError(
            "unable to start: failed to get instance: Refresh error: failed to get instance"
            f' metadata (connection name = "{connection}"): {said}'
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proxy until SIGTERM or SIGINT; the exit code: 143 or 130 then, 1 for an error."""
    options = _parser().parse_args(arguments)
    try:
        connections = [_connection(text) for text in options.connections]
        cloud = Cloud(
            endpoint=_endpoint(options.sqladmin_api_endpoint),
            metadata_host=os.environ.get("GCE_METADATA_HOST", ""),
        ).with_token()
        _say("Authorizing with Application Default Credentials")
        servers = {connection: cloud.server_of(connection) for connection in connections}
        return asyncio.run(_run(servers, options))
    except ProxyError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"unable to start: {error.strerror or error}")
    return 1


def proxy_folder(folder: Path) -> Path:
    """Put a program ``cloud-sql-proxy`` into a folder that can be put on a PATH.

    Args:
        folder: It is made if it is missing.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / _OWN_NAME
    python = shlex.quote(sys.executable)
    fresh = folder / f".{_OWN_NAME}.{os.getpid()}.tmp"
    fresh.write_text(f'#!/bin/sh\nexec {python} -m gcp_emulator.sql.proxy "$@"\n')
    fresh.chmod(0o755)
    fresh.replace(program)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_OWN_NAME,
        description="Stand-in for Google's proxy: leads a socket to an instance of a local cloud.",
        allow_abbrev=False,
    )
    environ = os.environ
    parser.add_argument("connections", nargs="+", metavar="PROJECT:REGION:INSTANCE")
    parser.add_argument("-u", "--unix-socket", default=environ.get("CSQL_PROXY_UNIX_SOCKET", ""))
    parser.add_argument("-p", "--port", type=int, default=environ.get("CSQL_PROXY_PORT", 5432))
    parser.add_argument("-a", "--address", default="127.0.0.1", help="a loopback address")
    parser.add_argument(
        "--sqladmin-api-endpoint", default=environ.get("CSQL_PROXY_SQLADMIN_API_ENDPOINT", "")
    )
    parser.add_argument("--exit-zero-on-sigterm", action="store_true")
    for ignored in ("--quiet", "--structured-logs", "--private-ip"):
        parser.add_argument(ignored, action="store_true", help="does nothing here")
    return parser


def _connection(text: str) -> Connection:
    found = _CONNECTION.fullmatch(text)
    if not found:
        raise ProxyError(
            "unable to start: invalid instance connection name, expected PROJECT:REGION:INSTANCE"
            f" (connection name = {text!r})"
        )
    return Connection(project=found[1], region=found[2], instance=found[3])


def _endpoint(text: str) -> str:
    """The local cloud's address: a stand-in never takes a token elsewhere."""
    try:
        parts = urllib.parse.urlsplit(text)
        host = parts.hostname or ""
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local or parts.scheme != "http":
        raise ProxyError(
            "unable to start: this is the stand-in of a local cloud: set"
            f" CSQL_PROXY_SQLADMIN_API_ENDPOINT to the cloud's loopback address, not {text!r}"
        )
    return text.rstrip("/")


async def _run(servers: dict[Connection, Path], options: argparse.Namespace) -> int:
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def stop(number: int) -> None:
        if not end.done():
            end.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    async with contextlib.AsyncExitStack() as stack:
        for count, (connection, server) in enumerate(servers.items()):
            pipe = _Pipe(connection, server)
            if options.unix_socket:
                place = _place(Path(options.unix_socket), connection)
                listener = await asyncio.start_unix_server(pipe.serve, sock=_listen(place))
                stack.callback(_remove, place)
                _say(f"[{connection}] Listening on {place}")
            else:
                host, port = _loopback(options.address), options.port + count
                listener = await asyncio.start_server(pipe.serve, host, port)
                _say(f"[{connection}] Listening on {host}:{port}")
            stack.callback(listener.close)
            stack.push_async_callback(pipe.close)
        _say("The proxy has started successfully and is ready for new connections!")
        ended_by = await end
    if ended_by == signal.SIGTERM and options.exit_zero_on_sigterm:
        return 0
    return 128 + ended_by


class _Pipe:
    """Joins every connection to a socket of its own to an instance."""

    def __init__(self, connection: Connection, server: Path) -> None:
        self._connection = connection
        self._server = server
        self._open: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        task = asyncio.ensure_future(self._forward(reader, writer))
        self._open.add(task)
        try:
            with contextlib.closing(writer):
                await asyncio.wait([task])
        finally:
            self._open.discard(task)

    async def close(self) -> None:
        """End all connections."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind, ahead = await asyncio.open_unix_connection(str(self._server))
        except OSError as error:
            _fail(f"[{self._connection}] failed to connect to instance: {error.strerror}")
            return
        with contextlib.closing(ahead):
            ways = [
                asyncio.create_task(_pump(*way)) for way in ((reader, ahead), (behind, writer))
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()


def _place(folder: Path, connection: Connection) -> Path:
    """Where the socket will be; what an earlier proxy left there is removed."""
    place = folder / str(connection) / _SOCKET
    length = len(os.fsencode(place))
    if length > _LONGEST_SOCKET:
        raise ProxyError(
            f"unable to start: [{connection}] the unix socket's path has {length} bytes, and"
            f" {_LONGEST_SOCKET} are possible: use a shorter --unix-socket than {folder}"
        )
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    return place


def _listen(place: Path) -> socket.socket:
    """A socket that listens from the moment that its file is there: somebody waits for it."""
    fresh = place.with_name(".s.new")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(fresh))
    listening.listen(128)
    fresh.rename(place)
    return listening


def _remove(place: Path) -> None:
    place.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        place.parent.rmdir()


def _loopback(host: str) -> str:
    try:
        fits = ipaddress.ip_address(host).is_loopback
    except ValueError:
        fits = False
    if not fits:
        raise ProxyError(f"unable to start: --address {host}: only loopback addresses, here")
    return host


def _get(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """A JSON reply; asked directly, whatever proxy the environment names."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (_endpoint has looked)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_SECONDS) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def _said(error: urllib.error.HTTPError) -> str:
    """An error as Google's Go library writes it: ``404: MESSAGE, REASON``."""
    with error:
        try:
            body = json.load(error)["error"]
            reasons = [entry["reason"] for entry in body.get("errors", [])]
            return ", ".join([f"{error.code}: {body['message']}", *reasons])
        except (ValueError, KeyError, TypeError, OSError):
            return f"{error.code}: {error.reason}"


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _fail(text: str) -> None:
    sys.stderr.write(f"The proxy has encountered a terminal error: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
