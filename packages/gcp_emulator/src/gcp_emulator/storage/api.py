"""Cloud Storage's JSON API (https://cloud.google.com/storage/docs/json_api/v1), over `objects`.

Preconditions are enforced on every method that has them. What is not emulated answers 501 and
says so.
"""

import asyncio
import zlib
from pathlib import Path

from aiohttp import web

from gcp_emulator.iam.policies import CheckMember, rename_member
from gcp_emulator.replies import GoogleError, Json, api, json_body, json_response
from gcp_emulator.storage.batch import Batch
from gcp_emulator.storage.listing import Listing
from gcp_emulator.storage.objects import (
    Bucket,
    Conditions,
    ObjectStore,
    StoredObject,
    condition_not_met,
)
from gcp_emulator.storage.permissions import (
    check_free,
    check_overwriting,
    check_project,
    enter,
    permits,
    policy_bindings,
    policy_etag,
)
from gcp_emulator.storage.resources import object_fields
from gcp_emulator.storage.uploads import Uploads
from gcp_emulator.storage.wire import (
    CHUNK,
    LISTING,
    MATCHES,
    SOURCE_MATCHES,
    Links,
    asked_range,
    bucket_json,
    conditions_of,
    etag_header,
    limit_of,
    media_headers,
    name_of,
    not_emulated,
    number_of,
    page_token,
    policy_json,
    query_of,
    read_multipart,
    sums_of,
    token_of,
    upload_name,
)


class Storage:
    """Cloud Storage of the local cloud.

    Args:
        folder: Where buckets and objects are kept; they survive a restart (unfinished resumable
            uploads do not).
        mutation_limit: Changes a second that one object bears before 429 ``rateLimitExceeded``
            (Google: about 1); None, the default, for no limit.
        check_member: Raises for a member of a policy that is a service account which does not
            exist; by default any may be one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mutation_limit: float | None = None,
        check_member: CheckMember = lambda _member: None,
    ) -> None:
        self.store = ObjectStore(folder, mutation_limit=mutation_limit)
        self._check_member = check_member
        self._uploads = Uploads(self.store)
        self._batch = Batch()

    def add_routes(self, app: web.Application) -> None:
        """Add the routes under ``/storage``, ``/upload``, ``/download`` and ``/batch``."""
        b = "/storage/v1/b/{bucket}"
        o = b + "/o/{object:[^/]+}"
        other = "/b/{bucket2}/o/{object2:[^/]+}"
        app.add_routes(
            [
                web.post("/storage/v1/b", self.insert_bucket),
                web.get("/storage/v1/b", self.list_buckets),
                web.get(b, self.get_bucket),
                web.patch(b, self.patch_bucket),
                web.put(b, self.update_bucket),
                web.delete(b, self.delete_bucket),
                web.get(b + "/iam", self.get_policy),
                web.put(b + "/iam", self.set_policy),
                web.get(b + "/iam/testPermissions", self.test_permissions),
                web.get(b + "/storageLayout", self.get_layout),
                web.get("/storage/v1/projects/{project}/serviceAccount", self.service_account),
                web.get(b + "/o", self.list_objects),
                web.get(o, self.get_object),
                web.patch(o, self.patch_object),
                web.put(o, self.update_object),
                web.delete(o, self.delete_object),
                web.post(o + "/compose", self.compose),
                web.post(o + "/copyTo" + other, self.copy),
                web.post(o + "/rewriteTo" + other, self.rewrite),
                web.post(o + "/moveTo/o/{object2:[^/]+}", self.move),
                web.post("/upload" + b + "/o", self.insert_object),
                web.put("/upload" + b + "/o", self.insert_object),
                web.delete("/upload" + b + "/o", self._uploads.cancel),
                web.get("/download" + o, self.get_object),
                web.post("/batch/storage/v1", self._batch.answer),
            ]
        )

    def rename_member(self, member: str, to: str) -> None:
        """Put another name in a member's place, in the policies of all buckets."""
        for bucket in self.store.all_buckets():
            bindings = [dict(binding) for binding in bucket.policy["bindings"]]
            if rename_member(bindings, member, to):
                self.store.set_policy(bucket, bindings)

    async def close(self) -> None:
        """Give up what is under way."""
        self._uploads.close()
        await self._batch.close()

    # ---------------------------------------------------------------- buckets

    @api("storage.buckets.insert")
    async def insert_bucket(self, request: web.Request) -> web.Response:
        """POST b?project=P."""
        query = query_of(request, {"project"})
        project = query.get("project")
        if not project:
            raise GoogleError(400, "required", "Required parameter: project")
        wanted = await json_body(request)
        check_project(request, "storage.buckets.create")
        check_free(wanted.get("name"))
        bucket = self.store.insert_bucket(project, wanted)
        return json_response(bucket_json(request, bucket))

    @api("storage.buckets.list")
    async def list_buckets(self, request: web.Request) -> web.Response:
        """GET b?project=P."""
        query = query_of(request, {"project", "prefix", "maxResults", "pageToken"})
        if not query.get("project"):
            raise GoogleError(400, "required", "Required parameter: project")
        check_project(request, "storage.buckets.list")
        found = self.store.buckets(query["project"], query.get("prefix", ""))
        after, limit = token_of(query), limit_of(query)
        rest = [bucket for bucket in found if after is None or bucket.name > after[0]]
        body: Json = {"kind": "storage#buckets"}
        if rest:
            body["items"] = [bucket_json(request, bucket) for bucket in rest[:limit]]
        if len(rest) > limit:
            body["nextPageToken"] = page_token((rest[limit - 1].name, False))
        return json_response(body)

    @api("storage.buckets.get")
    async def get_bucket(self, request: web.Request) -> web.Response:
        """GET b/BUCKET."""
        bucket = self._bucket(request, "get", {"generation"}, reading=True)
        return json_response(bucket_json(request, bucket))

    @api("storage.buckets.patch")
    async def patch_bucket(self, request: web.Request) -> web.Response:
        """PATCH b/BUCKET."""
        changes = await json_body(request)
        bucket = self._bucket(request, "update")
        self.store.patch_bucket(bucket, changes, whole=False)
        return json_response(bucket_json(request, bucket))

    @api("storage.buckets.update")
    async def update_bucket(self, request: web.Request) -> web.Response:
        """PUT b/BUCKET."""
        changes = await json_body(request)
        bucket = self._bucket(request, "update")
        self.store.patch_bucket(bucket, changes, whole=True)
        return json_response(bucket_json(request, bucket))

    @api("storage.buckets.delete")
    async def delete_bucket(self, request: web.Request) -> web.Response:
        """DELETE b/BUCKET."""
        self.store.delete_bucket(self._bucket(request, "delete"))
        return web.Response(status=204)

    @api("storage.buckets.getIamPolicy")
    async def get_policy(self, request: web.Request) -> web.Response:
        """GET b/BUCKET/iam."""
        bucket = self._bucket(request, "getIamPolicy")
        return json_response(policy_json(bucket, policy_etag(bucket)))

    @api("storage.buckets.setIamPolicy")
    async def set_policy(self, request: web.Request) -> web.Response:
        """PUT b/BUCKET/iam: replaces the whole policy; with an etag only the one it is of."""
        wanted = await json_body(request)
        bucket = self._bucket(request, "setIamPolicy")
        bindings = policy_bindings(bucket, wanted, self._check_member)
        if wanted.get("etag") and wanted["etag"] != policy_etag(bucket):
            raise condition_not_met()
        self.store.set_policy(bucket, bindings)
        return json_response(policy_json(bucket, policy_etag(bucket)))

    @api("storage.buckets.testIamPermissions")
    async def test_permissions(self, request: web.Request) -> web.Response:
        """GET b/BUCKET/iam/testPermissions: those that whoever asks has."""
        query_of(request, {"permissions"})
        bucket = self.store.bucket(request.match_info["bucket"])
        asked = request.query.getall("permissions", [])
        held = [one for one in asked if permits(request, bucket, one)]
        body: Json = {"kind": "storage#testIamPermissionsResponse"}
        return json_response(body | ({"permissions": held} if held else {}))

    @api("storage.buckets.getStorageLayout")
    async def get_layout(self, request: web.Request) -> web.Response:
        """GET b/BUCKET/storageLayout."""
        query_of(request, {"prefix"})
        resource = enter(request, self.store, "storage.objects.list").resource
        return json_response(
            {
                "kind": "storage#storageLayout",
                "bucket": resource["name"],
                "location": resource["location"],
                "locationType": resource["locationType"],
                "hierarchicalNamespace": {"enabled": False},
            }
        )

    @api("storage.projects.serviceAccount.get")
    async def service_account(self, request: web.Request) -> web.Response:
        """GET projects/P/serviceAccount."""
        project = request.match_info["project"]
        email = f"service-{project}@gs-project-accounts.iam.gserviceaccount.com"
        return json_response({"kind": "storage#serviceAccount", "email_address": email})

    # ---------------------------------------------------------------- objects

    @api("storage.objects.list")
    async def list_objects(self, request: web.Request) -> web.Response:
        """GET b/BUCKET/o."""
        query = query_of(request, LISTING)
        if query.get("softDeleted", "").lower() == "true" or query.get("filter"):
            raise not_emulated("listing with softDeleted or filter")
        bucket = enter(request, self.store, "storage.objects.list")
        items, prefixes, last = Listing(
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            start=query.get("startOffset", ""),
            end=query.get("endOffset", ""),
            glob=query.get("matchGlob", ""),
            trailing=query.get("includeTrailingDelimiter", "").lower() == "true",
            after=token_of(query),
            limit=limit_of(query),
            versions=query.get("versions", "").lower() == "true",
        ).page(bucket)
        body: Json = {"kind": "storage#objects"}
        if prefixes:
            body["prefixes"] = prefixes
        if items:
            links = Links(request)
            body["items"] = [links.object_json(stored) for stored in items]
        if last is not None:
            body["nextPageToken"] = page_token(last)
        return json_response(body)

    @api("storage.objects.get")
    async def get_object(self, request: web.Request) -> web.StreamResponse:
        """GET b/BUCKET/o/OBJECT: what is known of it, or with alt=media its bytes."""
        _bucket, stored = self._object(request, "get", reading=True)
        media = request.query.get("alt") == "media" or request.path.startswith("/download/")
        if not media:
            return json_response(Links(request).object_json(stored), headers=etag_header(stored))
        return await self._download(request, stored)

    @api("storage.objects.insert")
    async def insert_object(self, request: web.Request) -> web.Response:
        """POST (and, for a resumable upload, PUT) upload/.../b/BUCKET/o."""
        query = query_of(request, {"name", "upload_id", "contentEncoding", "kmsKeyName", *MATCHES})
        if query.get("kmsKeyName"):
            raise not_emulated("kmsKeyName")
        if "upload_id" in query:
            # Whoever has the id began it: it stands for a token.
            return await self._uploads.take(request, query["upload_id"])
        bucket = enter(request, self.store, "storage.objects.create")
        kind = query.get("uploadType")
        if kind == "resumable":
            return await self._uploads.begin(request, bucket, query)
        if kind not in ("media", "multipart"):
            raise GoogleError(400, "badRequest", f"Invalid upload request: uploadType={kind}")
        conditions = conditions_of(query)
        writing = self.store.writing()
        try:
            fields: Json = {}
            if kind == "multipart":
                fields = await read_multipart(request, writing)
            else:
                if request.headers.get("Content-Type"):
                    fields["contentType"] = request.headers["Content-Type"]
                async for data in request.content.iter_chunked(CHUNK):
                    writing.write(data)
            name = upload_name(query, fields)
            check_overwriting(request, bucket, name)
            if "contentEncoding" in query:
                fields["contentEncoding"] = query["contentEncoding"]
            fields |= sums_of(request)
            stored = self.store.insert(bucket, name, writing.finish(), fields, conditions)
        except BaseException:
            writing.discard()
            raise
        return json_response(Links(request).object_json(stored), headers=etag_header(stored))

    @api("storage.objects.patch")
    async def patch_object(self, request: web.Request) -> web.Response:
        """PATCH b/BUCKET/o/OBJECT."""
        return await self._change(request, whole=False)

    @api("storage.objects.update")
    async def update_object(self, request: web.Request) -> web.Response:
        """PUT b/BUCKET/o/OBJECT."""
        return await self._change(request, whole=True)

    @api("storage.objects.delete")
    async def delete_object(self, request: web.Request) -> web.Response:
        """DELETE b/BUCKET/o/OBJECT."""
        bucket, stored = self._object(request, "delete")
        self.store.delete(bucket, stored, for_good="generation" in request.query)
        return web.Response(status=204)

    @api("storage.objects.compose")
    async def compose(self, request: web.Request) -> web.Response:
        """POST b/BUCKET/o/OBJECT/compose: up to 32 objects of the bucket, one after another."""
        query = query_of(
            request,
            {"ifGenerationMatch", "ifMetagenerationMatch", "kmsKeyName", "dropContextGroups"},
        )
        body = await json_body(request)
        bucket = enter(request, self.store, "storage.objects.create")
        enter(request, self.store, "storage.objects.get")
        check_overwriting(request, bucket, name_of(request, "object"))
        wanted = body.get("sourceObjects") or []
        if not 1 <= len(wanted) <= 32:
            raise GoogleError(
                400,
                "invalid" if wanted else "required",
                "The number of source components provided must be between 1 and 32, "
                f"not {len(wanted)}.",
            )
        sources = []
        for source in wanted:
            generation = source.get("generation")
            stored = self.store.find(
                bucket, str(source.get("name", "")), int(generation) if generation else None
            )
            match = source.get("objectPreconditions", {}).get("ifGenerationMatch")
            Conditions(generation=int(match) if match is not None else None).check(stored)
            sources.append(stored)
        writing = self.store.writing()
        try:
            for stored in sources:
                with self.store.open(stored) as file:
                    while data := file.read(CHUNK):
                        writing.write(data)
                        await asyncio.sleep(0)
            composed = self.store.insert(
                bucket,
                name_of(request, "object"),
                writing.finish(),
                body.get("destination") or {},
                conditions_of(query),
                components=sum(s.resource.get("componentCount", 1) for s in sources),
            )
        except BaseException:
            writing.discard()
            raise
        return json_response(Links(request).object_json(composed))

    @api("storage.objects.copy")
    async def copy(self, request: web.Request) -> web.Response:
        """POST b/BUCKET/o/OBJECT/copyTo/b/BUCKET/o/OBJECT."""
        made = await self._copy(request, "bucket2")
        return json_response(Links(request).object_json(made))

    @api("storage.objects.rewrite")
    async def rewrite(self, request: web.Request) -> web.Response:
        """POST b/BUCKET/o/OBJECT/rewriteTo/b/BUCKET/o/OBJECT: always done in one call."""
        made = await self._copy(request, "bucket2")
        return json_response(
            {
                "kind": "storage#rewriteResponse",
                "totalBytesRewritten": str(made.size),
                "objectSize": str(made.size),
                "done": True,
                "resource": Links(request).object_json(made),
            }
        )

    @api("storage.objects.move")
    async def move(self, request: web.Request) -> web.Response:
        """POST b/BUCKET/o/OBJECT/moveTo/o/OBJECT."""
        bucket = enter(request, self.store, "storage.objects.delete")
        source = self.store.find(bucket, name_of(request, "object"))
        made = await self._copy(request, "bucket")
        if made.resource["name"] != source.resource["name"]:
            self.store.delete(bucket, source)
        return json_response(Links(request).object_json(made))

    # ---------------------------------------------------------------- shared steps

    def _bucket(
        self,
        request: web.Request,
        verb: str,
        known: frozenset[str] | set[str] = frozenset(),
        *,
        reading: bool = False,
    ) -> Bucket:
        """The bucket of the path, the permission and its preconditions checked."""
        query = query_of(request, {*known, "ifMetagenerationMatch", "ifMetagenerationNotMatch"})
        bucket = enter(request, self.store, f"storage.buckets.{verb}")
        conditions_of(query).check(StoredObject(bucket.resource, ""), reading=reading)
        return bucket

    def _object(
        self, request: web.Request, verb: str, *, reading: bool = False
    ) -> tuple[Bucket, StoredObject]:
        """The object of the path, the permission and its preconditions checked."""
        query = query_of(request, {"generation", "softDeleted", *MATCHES})
        if query.get("softDeleted", "").lower() == "true":
            raise not_emulated("softDeleted")
        bucket = enter(request, self.store, f"storage.objects.{verb}")
        stored = self.store.find(
            bucket, name_of(request, "object"), number_of(query, "generation")
        )
        conditions_of(query).check(stored, reading=reading)
        return bucket, stored

    async def _change(self, request: web.Request, *, whole: bool) -> web.Response:
        changes = await json_body(request)
        bucket, stored = self._object(request, "update")
        self.store.patch(bucket, stored, changes, whole=whole)
        return json_response(Links(request).object_json(stored), headers=etag_header(stored))

    async def _copy(self, request: web.Request, target: str) -> StoredObject:
        query = query_of(
            request,
            {
                "sourceGeneration", "rewriteToken", "destinationKmsKeyName", "dropContextGroups",
                *MATCHES, *SOURCE_MATCHES,
            },
        )  # fmt: skip
        if query.get("destinationKmsKeyName"):
            raise not_emulated("destinationKmsKeyName")
        wanted = await json_body(request)
        bucket = enter(request, self.store, "storage.objects.get")
        to = enter(request, self.store, "storage.objects.create", named=target)
        check_overwriting(request, to, name_of(request, "object2"))
        source = self.store.find(
            bucket, name_of(request, "object"), number_of(query, "sourceGeneration")
        )
        conditions_of(query, "Source").check(source)
        fields = {**object_fields(source.resource), **object_fields(wanted)}
        content = self.store.copy_of(source)
        try:
            return self.store.insert(
                to,
                name_of(request, "object2"),
                content,
                fields,
                conditions_of(query),
                components=source.resource.get("componentCount"),
            )
        except GoogleError:
            content.path.unlink(missing_ok=True)
            raise

    async def _download(self, request: web.Request, stored: StoredObject) -> web.StreamResponse:
        headers = etag_header(stored) | media_headers(stored)
        encoded = stored.resource.get("contentEncoding") == "gzip"
        transcoded = encoded and "gzip" not in request.headers.get("Accept-Encoding", "")
        if encoded and not transcoded:
            headers["Content-Encoding"] = "gzip"
        # Opened before the first await: a replacement meanwhile changes nothing for this reader.
        with self.store.open(stored) as file:
            if transcoded:
                # https://cloud.google.com/storage/docs/transcoding: ranges are ignored, too.
                headers["Warning"] = "214 UploadServer gunzipped"
                response = web.StreamResponse(headers=headers)
                await response.prepare(request)
                unzip = zlib.decompressobj(wbits=31)
                while data := file.read(CHUNK):
                    await response.write(unzip.decompress(data))
                await response.write_eof()
                return response
            first, last = asked_range(request, stored.size)
            length = last - first + 1
            status = 200
            if "Range" in request.headers and stored.size:
                status = 206
                headers["Content-Range"] = f"bytes {first}-{last}/{stored.size}"
            headers["Content-Length"] = str(length)
            file.seek(first)
            if length <= CHUNK:
                return web.Response(status=status, body=file.read(length), headers=headers)
            response = web.StreamResponse(status=status, headers=headers)
            await response.prepare(request)
            while length and request.method != "HEAD":
                data = file.read(min(CHUNK, length))
                length -= len(data)
                await response.write(data)
            await response.write_eof()
            return response
