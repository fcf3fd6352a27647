"""Secret Manager (https://cloud.google.com/secret-manager/docs/reference/rest), over `vault`.

Payloads are in no log and in no error's text. Not emulated are expiry, rotation and topics.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, Final

import google_crc32c
from aiohttp import web

from gcp_emulator.iam.callers import held_permissions, require
from gcp_emulator.iam.errors import (
    already_exists,
    failed_precondition,
    invalid_argument,
    not_found,
)
from gcp_emulator.iam.names import Project
from gcp_emulator.iam.paging import page_of
from gcp_emulator.iam.policies import CheckMember
from gcp_emulator.iam.vault import Secret, Vault
from gcp_emulator.replies import GoogleError, Json, api, json_body, json_response

__all__ = ["Secrets"]

PAYLOAD_LIMIT: Final = 65_536
"""Bytes of one payload."""

_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,255}")
_LABEL: Final = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[-_a-z0-9]{0,63}")
_CHANGEABLE: Final = ("labels", "annotations", "versionAliases")
_GIVEN: Final = ("name", "etag", "createTime", "replication")
_MOST: Final = 25_000


class Secrets:
    """The routes of Secret Manager.

    Args:
        project: Whose secrets.
        vault: Where they are.
        check_member: Raises for a service account that does not exist.
    """

    def __init__(self, project: Project, vault: Vault, *, check_member: CheckMember) -> None:
        self._project = project
        self._vault = vault
        self._check_member = check_member

    def rename(self, member: str, to: str) -> None:
        """Put another name in a member's place, in all policies."""
        for secret in self._vault.secrets.values():
            if secret.policy.rename(member, to):
                self._vault.save(secret)

    def add_routes(self, app: web.Application) -> None:
        """Add the routes under ``/v1/projects/P/secrets``."""
        all_of_them = "/v1/projects/{project:[^/:]+}/secrets"
        one = all_of_them + "/{secret:[^/:]+}"
        version = one + "/versions/{version:[^/:]+}"
        app.add_routes(
            [
                web.post(all_of_them, self.create),
                web.get(all_of_them, self.list),
                web.get(one, self.get),
                web.patch(one, self.patch),
                web.delete(one, self.delete),
                web.post(one + ":addVersion", self.add_version),
                web.get(one + ":getIamPolicy", self.get_policy),
                web.post(one + ":setIamPolicy", self.set_policy),
                web.post(one + ":testIamPermissions", self.test_permissions),
                web.get(one + "/versions", self.list_versions),
                web.get(version, self.get_version),
                web.get(version + ":access", self.access),
                web.post(version + ":enable", self.enable),
                web.post(version + ":disable", self.disable),
                web.post(version + ":destroy", self.destroy),
            ]
        )

    @api("secretmanager.projects.secrets.create")
    async def create(self, request: web.Request) -> web.Response:
        """POST secrets?secretId=ID: ``{"replication": {"automatic": {}}, "labels": {...}}``."""
        body = await json_body(request)
        self._project.check(request.match_info["project"])
        require(request, "secretmanager.secrets.create", resource=self._project.path)
        name = request.query.get("secretId", "")
        if not _ID.fullmatch(name):
            raise invalid_argument(
                f"The provided Secret ID [{name}] does not match the expected format "
                "[[a-zA-Z_0-9-]{1,255}]."
            )
        resource = {"replication": _replication(body.get("replication")), **_changes(body)}
        if name in self._vault.secrets:
            raise already_exists(f"Secret [{self._path(name)}] already exists.")
        return json_response(self._shown(self._vault.add(name, resource)))

    @api("secretmanager.projects.secrets.list")
    async def list(self, request: web.Request) -> web.Response:
        """GET secrets, newest first; filters ``name:PART`` and ``labels.KEY=VALUE``."""
        self._project.check(request.match_info["project"])
        require(request, "secretmanager.secrets.list", resource=self._project.path)
        found = sorted(self._vault.secrets.values(), key=lambda s: str(s.resource["createTime"]))
        fits = _filter(request.query.get("filter", ""))
        shown = [self._shown(secret) for secret in reversed(found) if fits(secret)]
        return json_response(_listed(request, "secrets", shown))

    @api("secretmanager.projects.secrets.get")
    async def get(self, request: web.Request) -> web.Response:
        """GET secrets/ID."""
        return json_response(self._shown(self._find(request, "secrets.get")))

    @api("secretmanager.projects.secrets.patch")
    async def patch(self, request: web.Request) -> web.Response:
        """PATCH secrets/ID?updateMask=labels."""
        body = await json_body(request)
        secret = self._find(request, "secrets.update")
        mask = [name for name in re.split(r"[,\s]+", request.query.get("updateMask", "")) if name]
        if not mask:
            raise invalid_argument("Must specify an update mask.")
        mask = [re.sub(r"_(\w)", lambda m: m[1].upper(), name) for name in mask]
        if unknown := {name.partition(".")[0] for name in mask} - set(_CHANGEABLE):
            raise invalid_argument(f"Invalid update mask: {min(unknown)} can't be changed.")
        _check_etag(body.get("etag"), secret.resource)
        changes = _changes(body)
        for name in mask:
            member, _, key = name.partition(".")
            if key:
                values = dict(secret.resource.get(member, {}))
                values.pop(key, None)
                values |= {k: v for k, v in changes.get(member, {}).items() if k == key}
            else:
                values = changes.get(member, {})
            secret.resource.pop(member, None)
            secret.resource |= {member: values} if values else {}
        self._vault.save(secret)
        return json_response(self._shown(secret))

    @api("secretmanager.projects.secrets.delete")
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE secrets/ID, with all of its versions."""
        secret = self._find(request, "secrets.delete")
        _check_etag(request.query.get("etag"), secret.resource)
        self._vault.remove(secret)
        return json_response({})

    @api("secretmanager.projects.secrets.addVersion")
    async def add_version(self, request: web.Request) -> web.Response:
        """POST secrets/ID:addVersion: ``{"payload": {"data": "BASE64", "dataCrc32c": "1"}}``."""
        body = await json_body(request)
        secret = self._find(request, "versions.add")
        payload = body.get("payload")
        if not isinstance(payload, dict):
            raise invalid_argument("Secret Payload must be specified.")
        data, checksum = _decoded(payload.get("data")), payload.get("dataCrc32c")
        if checksum is not None and str(checksum) != str(google_crc32c.value(data)):
            raise invalid_argument(
                "The checksum that was provided for the Secret Payload does not match its data."
            )
        version = self._vault.add_version(secret, data, is_checked=checksum is not None)
        return json_response(self._version_json(secret, version))

    @api("secretmanager.projects.secrets.getIamPolicy")
    async def get_policy(self, request: web.Request) -> web.Response:
        """GET secrets/ID:getIamPolicy."""
        return json_response(self._find(request, "secrets.getIamPolicy").policy.to_json())

    @api("secretmanager.projects.secrets.setIamPolicy")
    async def set_policy(self, request: web.Request) -> web.Response:
        """POST secrets/ID:setIamPolicy: replaces the whole policy."""
        body = await json_body(request)
        secret = self._find(request, "secrets.setIamPolicy")
        secret.policy.replace(body, self._check_member)
        self._vault.save(secret)
        return json_response(secret.policy.to_json())

    @api("secretmanager.projects.secrets.testIamPermissions")
    async def test_permissions(self, request: web.Request) -> web.Response:
        """POST secrets/ID:testIamPermissions: those that whoever calls has."""
        body = await json_body(request)
        self._project.check(request.match_info["project"])
        secret = self._secret(request)
        return json_response(held_permissions(request, body, policies=[secret.policy.to_json()]))

    @api("secretmanager.projects.secrets.versions.list")
    async def list_versions(self, request: web.Request) -> web.Response:
        """GET secrets/ID/versions, newest first; filter ``state:ENABLED`` and the like."""
        secret = self._find(request, "versions.list")
        wanted = request.query.get("filter", "").replace(" ", "")
        state = re.fullmatch(r"(?:state[:=]([A-Z]+))?", wanted)
        if state is None:
            raise _not_emulated(f"the filter {wanted!r} of versions")
        found = [one for one in secret.versions if state[1] in (None, one["state"])]
        shown = [self._version_json(secret, one) for one in reversed(found)]
        return json_response(_listed(request, "versions", shown))

    @api("secretmanager.projects.secrets.versions.get")
    async def get_version(self, request: web.Request) -> web.Response:
        """GET secrets/ID/versions/N, or ``latest``."""
        secret, version = self._version(request, "versions.get")
        return json_response(self._version_json(secret, version))

    @api("secretmanager.projects.secrets.versions.access")
    async def access(self, request: web.Request) -> web.Response:
        """GET secrets/ID/versions/N:access, or ``latest``: the payload."""
        secret, version = self._version(request, "versions.access")
        if version["state"] != "ENABLED":
            path = self._path(secret.name, version["number"])
            raise failed_precondition(f"Secret Version [{path}] is in {version['state']} state.")
        data = self._vault.payload(secret, version)
        payload = {
            "data": base64.b64encode(data).decode(),
            "dataCrc32c": str(google_crc32c.value(data)),
        }
        name = self._path(secret.name, version["number"])
        return json_response({"name": name, "payload": payload})

    @api("secretmanager.projects.secrets.versions.enable")
    async def enable(self, request: web.Request) -> web.Response:
        """POST secrets/ID/versions/N:enable."""
        return await self._change(request, "enable", "ENABLED")

    @api("secretmanager.projects.secrets.versions.disable")
    async def disable(self, request: web.Request) -> web.Response:
        """POST secrets/ID/versions/N:disable."""
        return await self._change(request, "disable", "DISABLED")

    @api("secretmanager.projects.secrets.versions.destroy")
    async def destroy(self, request: web.Request) -> web.Response:
        """POST secrets/ID/versions/N:destroy: the payload is gone for good."""
        return await self._change(request, "destroy", "DESTROYED")

    async def _change(self, request: web.Request, verb: str, state: str) -> web.Response:
        body = await json_body(request)
        secret, version = self._version(request, f"versions.{verb}")
        _check_etag(body.get("etag"), version)
        if version["state"] == "DESTROYED":
            raise failed_precondition("SecretVersion.state is already DESTROYED.")
        self._vault.change_version(secret, version, state)
        return json_response(self._version_json(secret, version))

    def _find(self, request: web.Request, verb: str) -> Secret:
        """The secret of the path, if whoever calls may; which one there is, they learn after."""
        self._project.check(request.match_info["project"])
        self._require(request, verb)
        return self._secret(request)

    def _version(self, request: web.Request, verb: str) -> tuple[Secret, Json]:
        self._project.check(request.match_info["project"])
        self._require(request, verb)
        number = request.match_info["version"]
        try:
            secret = self._secret(request)
        except GoogleError:
            name = request.match_info["secret"]
            raise _nothing(self._path(name)) if number == "latest" else _no_version(
                self._path(name, number)
            ) from None  # fmt: skip
        version = secret.version(number)
        if version is None and number == "latest":
            raise _nothing(self._path(secret.name))
        if version is None:
            raise _no_version(self._path(secret.name, number))
        return secret, version

    def _require(self, request: web.Request, verb: str) -> None:
        secret = self._vault.secrets.get(request.match_info["secret"])
        _, _, resource = request.path.partition("/v1/")
        require(
            request,
            f"secretmanager.{verb}",
            resource=resource.partition(":")[0],
            policies=[secret.policy.to_json()] if secret else [],
        )

    def _secret(self, request: web.Request) -> Secret:
        name = request.match_info["secret"]
        found = self._vault.secrets.get(name)
        if found is None:
            raise not_found(f"Secret [{self._path(name)}] not found.")
        return found

    def _path(self, secret: str, number: str = "") -> str:
        path = f"{self._project.numbered}/secrets/{secret}"
        return f"{path}/versions/{number}" if number else path

    def _shown(self, secret: Secret) -> Json:
        return {"name": self._path(secret.name), **secret.resource}

    def _version_json(self, secret: Secret, version: Json) -> Json:
        replication = secret.resource["replication"]
        status: Json = {"automatic": {}}
        if "userManaged" in replication:
            replicas = [
                {"location": r["location"]} for r in replication["userManaged"]["replicas"]
            ]
            status = {"userManaged": {"replicas": replicas}}
        return {
            "name": self._path(secret.name, version["number"]),
            **{key: value for key, value in version.items() if key != "number"},
            "replicationStatus": status,
        }


def _replication(sent: Any) -> Json:
    if not isinstance(sent, dict) or len(sent) != 1:
        raise invalid_argument("Secret.replication must be provided: automatic or userManaged.")
    if sent.get("automatic") == {}:
        return {"automatic": {}}
    replicas = (sent.get("userManaged") or {}).get("replicas")
    if not isinstance(replicas, list) or not replicas:
        raise invalid_argument("Secret.replication.user_managed must have replicas.")
    locations = [one.get("location") for one in replicas if isinstance(one, dict)]
    if len(locations) != len(replicas) or not all(isinstance(one, str) for one in locations):
        raise invalid_argument("Secret.replication.user_managed.replicas must have locations.")
    return {"userManaged": {"replicas": [{"location": one} for one in locations]}}


def _changes(body: Json) -> Json:
    """What a client may say of a secret."""
    unknown = [name for name in body if name not in (*_CHANGEABLE, *_GIVEN)]
    if unknown:
        raise _not_emulated(f"{unknown[0]!r} of a secret")
    changes = {name: body[name] for name in _CHANGEABLE if body.get(name)}
    if any(not isinstance(values, dict) for values in changes.values()):
        raise invalid_argument("labels, annotations and versionAliases map names to values.")
    for key, value in changes.get("labels", {}).items():
        fits = isinstance(value, str) and _LABEL.fullmatch(key) and _LABEL_VALUE.fullmatch(value)
        if not fits:
            raise invalid_argument(f"Label [{key}] of the secret is not valid.")
    return changes


def _decoded(data: Any) -> bytes:
    if not isinstance(data, str) or not data:
        raise invalid_argument("Secret Payload cannot be empty.")
    try:
        decoded = base64.b64decode(data.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        # Without a cause: its text must not tell of the data.
        raise invalid_argument(
            "Invalid value at 'payload.data': Base64 decoding failed."
        ) from None
    if len(decoded) > PAYLOAD_LIMIT:
        raise invalid_argument(
            f"Secret Payload has {len(decoded)} bytes; it cannot be larger than {PAYLOAD_LIMIT}."
        )
    return decoded


def _check_etag(sent: Any, resource: Json) -> None:
    if sent and sent != resource["etag"]:
        raise failed_precondition(
            f"The etag in the request [{sent}] does not match the current etag "
            f"[{resource['etag']}]."
        )


def _filter(wanted: str) -> Callable[[Secret], bool]:
    found = re.fullmatch(r"\s*(?:name\s*:\s*(\S+)|labels\.([-\w]+)\s*[=:]\s*(\S+))?\s*", wanted)
    if found is None:
        raise _not_emulated(f"the filter {wanted!r} of secrets")
    name, key, value = ((part or "").strip('"') for part in found.groups())
    if key:
        return lambda secret: secret.resource.get("labels", {}).get(key) == value
    return lambda secret: name in secret.name


def _listed(request: web.Request, member: str, shown: list[Json]) -> Json:
    items, more = page_of(request, shown, default=_MOST, most=_MOST)
    body: Json = {member: items} if items else {}
    return {**body, **more, **({"totalSize": len(shown)} if shown else {})}


def _nothing(path: str) -> GoogleError:
    return not_found(f"Secret [{path}] not found or has no versions.")


def _no_version(path: str) -> GoogleError:
    return not_found(f"Secret Version [{path}] not found.")


def _not_emulated(what: str) -> GoogleError:
    return GoogleError(501, "notImplemented", f"the local cloud does not emulate {what}")
