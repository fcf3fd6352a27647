"""How Cloud Storage's requests are read and its replies are written."""

import base64
import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

import aiohttp
from aiohttp import web

from gcp_emulator.replies import GoogleError, Json
from gcp_emulator.storage.objects import Bucket, Conditions, StoredObject, Writing

CHUNK: Final = 1 << 18
MATCHES: Final = (
    "ifGenerationMatch", "ifGenerationNotMatch",
    "ifMetagenerationMatch", "ifMetagenerationNotMatch",
)  # fmt: skip
SOURCE_MATCHES: Final = tuple(name.replace("if", "ifSource", 1) for name in MATCHES)
# What every method takes, and what makes no difference here.
_WITHOUT_EFFECT = frozenset({
    "alt", "fields", "prettyPrint", "quotaUser", "userIp", "userProject", "key",
    "access_token", "oauth_token", "projection", "uploadType", "upload_protocol", "callback",
    "$.xgafv", "predefinedAcl", "predefinedDefaultObjectAcl", "destinationPredefinedAcl",
    "enableObjectRetention", "overrideUnlockedRetention", "returnPartialSuccess",
    "maxBytesRewrittenPerCall", "optionsRequestedPolicyVersion",
})  # fmt: skip


LISTING: Final = frozenset({
    "prefix", "delimiter", "startOffset", "endOffset", "matchGlob", "includeTrailingDelimiter",
    "maxResults", "pageToken", "versions", "softDeleted", "filter", "includeFoldersAsPrefixes",
})  # fmt: skip


class Links:
    """Objects as JSON, with links that lead back to where they were asked for."""

    def __init__(self, request: web.Request) -> None:
        self._origin = f"{request.scheme}://{request.host}"

    def object_json(self, stored: StoredObject) -> Json:
        """One object."""
        resource = stored.resource
        path = f"/storage/v1/b/{resource['bucket']}/o/{quote(resource['name'], safe='')}"
        return {
            **resource,
            "selfLink": f"{self._origin}{path}",
            "mediaLink": (
                f"{self._origin}/download{path}?generation={resource['generation']}&alt=media"
            ),
        }


def bucket_json(request: web.Request, bucket: Bucket) -> Json:
    """A bucket as Google shows it."""
    link = f"{request.scheme}://{request.host}/storage/v1/b/{bucket.name}"
    return {**bucket.resource, "selfLink": link}


def policy_json(bucket: Bucket, etag: str) -> Json:
    """A bucket's IAM policy as Google shows it."""
    return {
        "kind": "storage#policy",
        "resourceId": f"projects/_/buckets/{bucket.name}",
        "version": bucket.policy["version"],
        "etag": etag,
        "bindings": bucket.policy["bindings"],
    }


def etag_header(stored: StoredObject) -> dict[str, str]:
    """The reply's ETag."""
    return {"ETag": str(stored.resource["etag"])}


def media_headers(stored: StoredObject) -> dict[str, str]:
    """What a download says of the object besides its bytes."""
    resource = stored.resource
    sums = [f"crc32c={resource['crc32c']}"]
    if "md5Hash" in resource:
        sums.append(f"md5={resource['md5Hash']}")
    optional = {
        "Cache-Control": resource.get("cacheControl", ""),
        "Content-Disposition": resource.get("contentDisposition", ""),
        "Content-Language": resource.get("contentLanguage", ""),
    }
    return {
        "Content-Type": resource["contentType"],
        "X-Goog-Generation": resource["generation"],
        "X-Goog-Metageneration": resource["metageneration"],
        "X-Goog-Hash": ",".join(sums),
        "X-Goog-Storage-Class": resource["storageClass"],
        "X-Goog-Stored-Content-Encoding": resource.get("contentEncoding", "identity"),
        "X-Goog-Stored-Content-Length": resource["size"],
        "Accept-Ranges": "bytes",
        **{name: _one_line(value) for name, value in optional.items() if value},
    }


def _one_line(text: str) -> str:
    """A header's value from outside: never a second header."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", text)


def query_of(request: web.Request, known: Iterable[str]) -> dict[str, str]:
    """The query's parameters; one that this method does not emulate is refused."""
    allowed = {*known, *_WITHOUT_EFFECT}
    for name in request.query:
        if name not in allowed:
            raise not_emulated(f"parameter {name} of {request.method} {request.path}")
    return dict(request.query)


def not_emulated(what: str) -> GoogleError:
    """The answer to what would silently be ignored otherwise."""
    return GoogleError(501, "notImplemented", f"the local cloud does not emulate {what}")


def number_of(query: dict[str, str], name: str) -> int | None:
    """A parameter that is a number; None without it."""
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII):
        raise GoogleError(400, "invalid", f"Invalid value for {name}: {text!r}")
    return int(text)


def conditions_of(query: dict[str, str], of: str = "") -> Conditions:
    """The preconditions of a request, or those ``of`` its source."""
    return Conditions(
        generation=number_of(query, f"if{of}GenerationMatch"),
        not_generation=number_of(query, f"if{of}GenerationNotMatch"),
        metageneration=number_of(query, f"if{of}MetagenerationMatch"),
        not_metageneration=number_of(query, f"if{of}MetagenerationNotMatch"),
    )


def limit_of(query: dict[str, str]) -> int:
    """Entries on a page: at most 1,000."""
    asked = number_of(query, "maxResults")
    return 1000 if not asked else min(asked, 1000)


def page_token(last: tuple[str, bool]) -> str:
    """Where the next page begins."""
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode()


def token_of(query: dict[str, str]) -> tuple[str, bool] | None:
    """The last entry of the page before; None for the first page."""
    text = query.get("pageToken")
    if not text:
        return None
    try:
        name, is_prefix = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (TypeError, ValueError) as error:
        raise GoogleError(400, "invalid", "Invalid value for pageToken") from error
    return str(name), bool(is_prefix)


def name_of(request: web.Request, which: str) -> str:
    """An object's name, from the path as it was sent: names hold slashes and percent signs."""
    path = request.raw_path.partition("?")[0]
    found = re.findall(r"/o/([^/]+)", path)
    return unquote(found[0 if which == "object" else 1])


def upload_name(query: dict[str, str], fields: Json) -> str:
    """The name of the object to make: from the query or the JSON."""
    name = query.get("name") or fields.get("name")
    if not isinstance(name, str) or not name:
        raise GoogleError(400, "required", "Required parameter: name")
    return name


def sums_of(request: web.Request) -> Json:
    """Checksums that the client sends along, in the form of an object's fields."""
    found: Json = {}
    for pair in request.headers.get("X-Goog-Hash", "").split(","):
        kind, _, value = pair.strip().partition("=")
        if kind in ("crc32c", "md5"):
            found["crc32c" if kind == "crc32c" else "md5Hash"] = value
    return found


async def read_multipart(request: web.Request, writing: Writing) -> Json:
    """A multipart/related upload: JSON, then the bytes, streamed."""
    try:
        reader = await request.multipart()
        first = await reader.next()
        if not isinstance(first, aiohttp.BodyPartReader):
            raise GoogleError(400, "badRequest", "Malformed multipart body.")
        fields = json.loads(await first.read() or b"{}")
        second = await reader.next()
        if not isinstance(second, aiohttp.BodyPartReader) or not isinstance(fields, dict):
            raise GoogleError(400, "badRequest", "Malformed multipart body.")
        fields.setdefault("contentType", second.headers.get("Content-Type"))
        while data := await second.read_chunk(CHUNK):
            writing.write(data)
    except (ValueError, AssertionError) as error:
        raise GoogleError(400, "badRequest", f"Malformed multipart body: {error}") from error
    return fields


async def receive(request: web.Request, writing: Writing, *, skip: int) -> None:
    """Write the body but for the first bytes, which were received before."""
    async for data in request.content.iter_chunked(CHUNK):
        writing.write(data[skip:] if skip else data)
        skip = max(0, skip - len(data))


def content_range(request: web.Request) -> tuple[tuple[int, int | None] | None, int | None]:
    """First and last byte of this piece (None: a question only), and the total if it is known."""
    text = request.headers.get("Content-Range")
    if text is None:
        return (0, None), None
    found = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\*|\d+)", text.strip())
    if not found:
        raise GoogleError(400, "badContent", f"Failed to parse Content-Range header: {text}")
    total = None if found[3] == "*" else int(found[3])
    if found[1] is None:
        return None, total
    return (int(found[1]), int(found[2])), total


def asked_range(request: web.Request, size: int) -> tuple[int, int]:
    """First and last byte to send.

    Raises:
        GoogleError: 416.
    """
    text = request.headers.get("Range", "")
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    if not found or not (found[1] or found[2]):
        return 0, size - 1
    if not found[1]:
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first = int(found[1])
        last = min(int(found[2]), size - 1) if found[2] else size - 1
    if first >= size or last < first:
        raise GoogleError(
            416,
            "requestedRangeNotSatisfiable",
            "Request range not satisfiable",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, last
