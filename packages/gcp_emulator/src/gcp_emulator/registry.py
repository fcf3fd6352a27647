"""The registry of container images: manifests and their digests, no layers.

https://distribution.github.io/distribution/spec/api/. All registries are this one: an image's
path is looked for without its host. Google's words for a missing permission:
https://cloud.google.com/artifact-registry/docs/access-control.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from gcp_emulator.docker.manifests import MEDIA_TYPE, Images
from gcp_emulator.iam.callers import ACCESS
from gcp_emulator.replies import api, json_response

__all__ = ["Registry"]

_VERSION: Final = {"Docker-Distribution-API-Version": "registry/2.0"}
_READ: Final = "artifactregistry.repositories.downloadArtifacts"
_USERS: Final = ("oauth2accesstoken", "_dcgcr_2_0_0_token")


class Registry:
    """The routes below ``/v2/``.

    Args:
        images: What there is.
    """

    def __init__(self, images: Images) -> None:
        self._images = images

    def add_routes(self, app: web.Application) -> None:
        """Add them to the application, for GET and HEAD."""
        app.router.add_get("/v2/", self.version)
        app.router.add_get("/v2/{name:.+}/manifests/{reference}", self.manifest)

    @api("registry.version.get")
    async def version(self, request: web.Request) -> web.Response:
        """Whether this is a registry, and the caller one of its users."""
        return _refusal(request, "") or json_response({}, headers=_VERSION)

    @api("registry.manifests.get")
    async def manifest(self, request: web.Request) -> web.Response:
        """The manifest of a tag or a digest."""
        name, reference = request.match_info["name"], request.match_info["reference"]
        if refusal := _refusal(request, name):
            return refusal
        found = self._images.manifest(name, reference)
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", f'Failed to fetch "{reference}"')
        digest = "sha256:" + hashlib.sha256(found).hexdigest()
        headers = {**_VERSION, "Docker-Content-Digest": digest, "Content-Type": MEDIA_TYPE}
        return web.Response(body=found, headers=headers)


def _refusal(request: web.Request, name: str) -> web.Response | None:
    """Why the caller may not read, if so: credentials that are none, or a role that is missing."""
    kind, _, word = request.headers.get("Authorization", "").partition(" ")
    token = word.strip()
    if kind.lower() == "basic":
        user, _, token = _decoded(token).partition(":")
        token = token if user in _USERS else ""
    if kind and (kind.lower() not in ("bearer", "basic") or not token):
        where = f"{request.url.origin()}/v2/token"
        challenge = {"WWW-Authenticate": f'Bearer realm="{where}",service="{request.host}"'}
        return _error(401, "UNAUTHORIZED", "Unauthenticated request.", challenge)
    access = request.config_dict[ACCESS]
    email = access.account_of(token)
    if email is None or access.grants(email, _READ):
        return None
    return _error(
        403, "DENIED", f'Permission "{_READ}" denied on resource "{name}" (or it may not exist)'
    )


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An error in the registry's shape."""
    body = {"errors": [{"code": code, "message": message}]}
    return json_response(body, status=status, headers={**_VERSION, **(headers or {})})
