"""Resumable uploads (https://cloud.google.com/storage/docs/performing-resumable-uploads)."""

import secrets
from dataclasses import dataclass

from aiohttp import web

from gcp_emulator.replies import GoogleError, Json, api, json_body, json_response
from gcp_emulator.storage.objects import (
    Bucket,
    Conditions,
    ObjectStore,
    StoredObject,
    Writing,
)
from gcp_emulator.storage.permissions import check_overwriting
from gcp_emulator.storage.resources import check_name, object_fields
from gcp_emulator.storage.wire import (
    Links,
    conditions_of,
    content_range,
    etag_header,
    receive,
    sums_of,
    upload_name,
)

_RESUMABLE_UNIT = 256 * 1024


@dataclass(slots=True, kw_only=True)
class _Upload:
    """A resumable upload under way."""

    bucket: Bucket
    name: str
    fields: Json
    conditions: Conditions
    writing: Writing
    total: int | None = None
    stored: StoredObject | None = None


class Uploads:
    """The resumable uploads that are under way, and those that have ended.

    Args:
        store: Where their objects go.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._uploads: dict[str, _Upload] = {}

    def close(self) -> None:
        """Give up what is under way."""
        for upload in self._uploads.values():
            if upload.stored is None:
                upload.writing.discard()
        self._uploads.clear()

    async def begin(
        self, request: web.Request, bucket: Bucket, query: dict[str, str]
    ) -> web.Response:
        """Begin one; the reply's ``Location`` is where its bytes go."""
        fields = await json_body(request)
        name = upload_name(query, fields)
        check_name(name)
        check_overwriting(request, bucket, name)
        if "X-Upload-Content-Type" in request.headers:
            fields.setdefault("contentType", request.headers["X-Upload-Content-Type"])
        object_fields(fields)
        conditions = conditions_of(query)
        conditions.check(bucket.objects.get(name))
        length = request.headers.get("X-Upload-Content-Length", "")
        identity = secrets.token_urlsafe(24)
        self._uploads[identity] = _Upload(
            bucket=bucket,
            name=name,
            fields=fields | sums_of(request),
            conditions=conditions,
            writing=self._store.writing(),
            total=int(length) if length.isdecimal() else None,
        )
        location = request.url.with_query(uploadType="resumable", name=name, upload_id=identity)
        return web.Response(headers={"Location": str(location), "X-GUploader-UploadID": identity})

    async def take(self, request: web.Request, identity: str) -> web.Response:
        """Take a piece: 308 and what is held so far, or the object once it is whole."""
        upload = self._upload(request, identity)
        if upload.stored is not None:
            return json_response(Links(request).object_json(upload.stored))
        writing = upload.writing
        span, total = content_range(request)
        total = total if total is not None else upload.total
        if span is not None:
            first, last = span
            if first > writing.size:
                raise GoogleError(
                    400,
                    "invalidRequest",
                    "Invalid request. According to the Content-Range header, the upload offset is "
                    f"{first} byte(s), which exceeds already uploaded size of {writing.size} "
                    "byte(s).",
                )
            await receive(request, writing, skip=writing.size - first)
            if last is None:
                # All at once, without a range.
                total = writing.size if total is None else total
            elif writing.size <= last or (total is None and (last + 1) % _RESUMABLE_UNIT):
                raise GoogleError(
                    400,
                    "invalidRequest",
                    "Invalid request. The number of bytes uploaded is required to be a multiple "
                    f"of {_RESUMABLE_UNIT}, except for the final request, and as many as "
                    "Content-Range says.",
                )
        if total is None or writing.size < total:
            held = {"Range": f"bytes=0-{writing.size - 1}"} if writing.size else {}
            return web.Response(status=308, headers={**held, "X-GUploader-UploadID": identity})
        try:
            upload.stored = self._store.insert(
                upload.bucket, upload.name, writing.finish(), upload.fields, upload.conditions
            )
        except GoogleError:
            self._uploads.pop(identity, None)
            writing.discard()
            raise
        return json_response(
            Links(request).object_json(upload.stored), headers=etag_header(upload.stored)
        )

    @api("storage.objects.insert")
    async def cancel(self, request: web.Request) -> web.Response:
        """DELETE the location of a resumable upload: 499 says that it is cancelled."""
        identity = request.query.get("upload_id", "")
        upload = self._upload(request, identity)
        del self._uploads[identity]
        if upload.stored is None:
            upload.writing.discard()
        return web.Response(status=499)

    def _upload(self, request: web.Request, identity: str) -> _Upload:
        upload = self._uploads.get(identity)
        if upload is None or upload.bucket.name != request.match_info["bucket"]:
            raise GoogleError(404, "notFound", "Not Found: no such resumable upload")
        return upload
