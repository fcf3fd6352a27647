"""Batches: many requests in one (https://cloud.google.com/storage/docs/batch)."""

import re
import secrets
from email import message_from_bytes, policy

import aiohttp
from aiohttp import web
from yarl import URL

from gcp_emulator.replies import GoogleError, api


class Batch:
    """The route of batches."""

    def __init__(self) -> None:
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    @api("storage.batch")
    async def answer(self, request: web.Request) -> web.Response:
        """POST /batch/storage/v1: up to 100 requests in one (multipart/mixed).

        Each goes through this server's front door, so that faults and counts see it.
        """
        head = f"Content-Type: {request.headers.get('Content-Type', '')}\r\n\r\n".encode()
        parsed = message_from_bytes(head + await request.read(), policy=policy.HTTP)
        parts = list(parsed.iter_parts()) if parsed.is_multipart() else []
        if not 1 <= len(parts) <= 100:
            raise GoogleError(400, "invalid", "A batch has 1 to 100 parts of application/http")
        boundary = f"batch_{secrets.token_hex(12)}"
        out = b""
        for part in parts:
            payload = part.get_payload(decode=True)
            raw = payload if isinstance(payload, bytes) else b""
            identity = str(part.get("Content-ID", "")).strip("<> ")
            answer = await self._one_of_batch(request, raw)
            out += (
                f"--{boundary}\r\nContent-Type: application/http\r\n"
                f"Content-ID: <response-{identity}>\r\n\r\n"
            ).encode() + answer
        out += f"--{boundary}--\r\n".encode()
        return web.Response(
            body=out, headers={"Content-Type": f"multipart/mixed; boundary={boundary}"}
        )

    async def _one_of_batch(self, request: web.Request, raw: bytes) -> bytes:
        line, _, rest = raw.lstrip().partition(b"\n")
        words = line.decode("latin-1").split()
        if len(words) < 2 or not re.search(r"^(https?://[^/]+)?/storage/v1/", words[1]):
            raise GoogleError(400, "invalid", f"Failed to parse batch request: {line!r}")
        message = message_from_bytes(rest, policy=policy.HTTP)
        payload = message.get_payload(decode=True)
        headers = {
            name: str(value)
            for name, value in message.items()
            if name.lower() not in ("content-length", "host", "connection")
        }
        transport = request.transport
        if transport is None:
            raise GoogleError(503, "backendError", "the client is gone")
        host, port = transport.get_extra_info("sockname")[:2]
        path = re.sub(r"^https?://[^/]+", "", words[1])
        self._client = self._client or aiohttp.ClientSession(auto_decompress=False)
        async with self._client.request(
            words[0],
            URL(f"http://{host}:{port}{path}", encoded=True),
            headers={**headers, "Host": request.host},
            data=payload or None,
        ) as answer:
            body = await answer.read()
            shown = "".join(
                f"{name}: {value}\r\n"
                for name, value in answer.headers.items()
                if name.lower() not in ("transfer-encoding", "content-length")
            )
            return (
                (
                    f"HTTP/1.1 {answer.status} {answer.reason}\r\n{shown}"
                    f"Content-Length: {len(body)}\r\n\r\n"
                ).encode()
                + body
                + b"\r\n"
            )
