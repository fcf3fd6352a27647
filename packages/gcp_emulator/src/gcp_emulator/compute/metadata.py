"""The metadata server that each instance sees (https://cloud.google.com/compute/docs/metadata).

Google's answers at 169.254.169.254; here each instance has a loopback address of its own, the
server listens on all of them, and the address that a request came to says which instance asks.
One aiohttp application, to which sites are added and removed while it runs: that is why the
whole cloud is built on aiohttp.
"""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from gcp_emulator.compute.nouns import Instance
from gcp_emulator.compute.state import State
from gcp_emulator.replies import Json

type TokenGiven = Callable[[str, str], object]

_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
_TOKEN_SECONDS = 3_599
_PREFIX = "/computeMetadata/v1"
_GUEST_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_GUEST_VALUE_BYTES = 32 << 10
_HEADERS = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}


class _Verbatim(dict[str, object]):
    """A directory whose keys are people's, and are never rewritten to camel case."""


class MetadataServers:
    """Metadata servers for all instances, on one port.

    Args:
        state: Where instances are found by address.
        port: The port, the same on every instance's address.
        token_given: Called with each token that is given away, and with the service account that
            it speaks for.
    """

    def __init__(
        self, state: State, *, port: int, token_given: TokenGiven = lambda _token, _email: None
    ) -> None:
        self._state = state
        self._token_given = token_given
        self.port = port
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._sites: dict[str, tuple[web.TCPSite, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Get ready; nothing listens yet."""
        await self._runner.setup()

    async def open(self, instance: Instance) -> None:
        """Listen for this instance.

        Raises:
            OSError: Its address and port are taken.
        """
        site = web.TCPSite(self._runner, instance.address, self.port)
        # Shielded: cancelled halfway it would listen, and nobody could close it.
        starting = asyncio.create_task(site.start())
        self._sites[instance.address] = site, starting
        await asyncio.shield(starting)

    async def close(self, instance: Instance) -> None:
        """Listen no longer for this instance."""
        site, starting = self._sites.pop(instance.address, (None, None))
        if site is not None and starting is not None:
            await asyncio.gather(starting, return_exceptions=True)
            await site.stop()

    async def stop(self) -> None:
        """Close all."""
        await asyncio.gather(*(start for _, start in self._sites.values()), return_exceptions=True)
        self._sites.clear()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Metadata-Flavor") != "Google":
            return _plain(403, "Missing Metadata-Flavor:Google header.")
        if "X-Forwarded-For" in request.headers:
            return _plain(403, "X-Forwarded-For header is not allowed.")
        name = request.transport.get_extra_info("sockname") if request.transport else None
        instance = self._state.instance_at(name[0]) if name else None
        if instance is None:
            return _plain(404, "There is no instance at this address.")
        path = request.path
        if path in ("/", "/computeMetadata", "/computeMetadata/"):
            return _plain(200, "computeMetadata/\n" if path == "/" else "v1/\n")
        if not (path + "/").startswith(_PREFIX + "/"):
            return _plain(404, "Not found.")
        keys = [key for key in path.removeprefix(_PREFIX).split("/") if key]
        if keys[:2] == ["instance", "guest-attributes"] and request.method in ("PUT", "DELETE"):
            return await _write_guest_attribute(instance, keys[2:], request)
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "Method not allowed.")
        if keys[:2] == ["instance", "service-accounts"] and keys[3:] == ["token"]:
            return _token(instance, keys[2], self._token_given)
        return await self._read(instance, keys, request)

    async def _read(
        self, instance: Instance, keys: list[str], request: web.Request
    ) -> web.Response:
        query = request.query
        waits = query.get("wait_for_change", "").lower() == "true"
        seconds = query.get("timeout_sec", "0")
        patience = float(seconds) if seconds.isdecimal() and seconds != "0" else 3_600.0
        deadline = time.monotonic() + patience
        last = query.get("last_etag")
        while True:
            changed = instance.changed
            reply = self._render(instance, keys, request)
            tag = reply.headers.get("ETag")
            if not waits or tag is None or (last is not None and last != tag):
                return reply
            last = tag
            left = deadline - time.monotonic()
            if left <= 0 or self._state.instance_at(instance.address) is not instance:
                return reply
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return reply

    def _render(self, instance: Instance, keys: list[str], request: web.Request) -> web.Response:
        found = _look_up(self._tree(instance), keys)
        if found is None:
            return _plain(404, f"The metadata key {'/'.join(keys)!r} was not found.")
        recursive = request.query.get("recursive", "").lower() == "true"
        directory = isinstance(found, Mapping)
        if directory and not recursive and not request.path.endswith("/"):
            return _plain(301, "", {"Location": f"{request.path}/"})
        alt = request.query.get("alt", "json" if recursive and directory else "text")
        if alt not in ("json", "text"):
            return _plain(400, "alt must be json or text.")
        if alt == "json":
            shown = found if recursive or not isinstance(found, Mapping) else _names(found)
            text, kind = json.dumps(_camel(shown)), "application/json"
        elif isinstance(found, Mapping):
            lines = _flat(found) if recursive else _names(found)
            text, kind = "".join(f"{line}\n" for line in lines), "application/text"
        else:
            text, kind = _leaf(found), "application/text"
        return web.Response(
            text=text,
            content_type=kind,
            headers={**_HEADERS, "ETag": hashlib.sha256(text.encode()).hexdigest()[:16]},
        )

    def _tree(self, instance: Instance) -> Json:
        """All metadata as the instance sees it, by the names of the paths."""
        number, email = self._state.project_number, instance.account
        account = {"aliases": ["default"], "email": email, "scopes": _scopes(instance)}
        accounts = {"default": account, email: account} if email else {}
        outside = instance.external_address
        scheduling = instance.properties.get("scheduling", {})
        spot = scheduling.get("provisioningModel") == "SPOT" or scheduling.get("preemptible")
        return {
            "instance": {
                "attributes": _Verbatim(instance.metadata),
                "cpu-platform": "AMD Rome",
                "description": instance.properties.get("description", ""),
                "disks": [
                    {"device-name": "boot", "index": 0, "mode": "READ_WRITE", "type": "PERSISTENT"}
                ],
                "guest-attributes": _Verbatim(
                    {space: _Verbatim(values) for space, values in _guest(instance).items()}
                ),
                "hostname": f"{instance.name}.{instance.zone}.c.{self._state.project}.internal",
                "id": int(instance.id),
                "image": "projects/cos-cloud/global/images/family/cos-stable",
                "machine-type": f"projects/{number}/machineTypes/{instance.machine_type}",
                "maintenance-event": "NONE",
                "name": instance.name,
                "network-interfaces": [
                    {
                        "access-configs": [{"external-ip": outside, "type": "ONE_TO_ONE_NAT"}]
                        if outside
                        else [],
                        "ip": instance.address,
                        "mtu": 1460,
                        "network": f"projects/{number}/networks/default",
                        "subnetmask": "255.255.240.0",
                    }
                ],
                "preempted": "TRUE" if instance.preempted else "FALSE",
                "remaining-cpu-time": -1,
                "scheduling": {
                    "automatic-restart": "FALSE" if spot else "TRUE",
                    "on-host-maintenance": "TERMINATE" if spot else "MIGRATE",
                    "preemptible": "TRUE" if spot else "FALSE",
                },
                "service-accounts": _Verbatim(accounts),
                "tags": list(instance.tags),
                "zone": f"projects/{number}/zones/{instance.zone}",
            },
            "project": {
                "attributes": _Verbatim(),
                "numeric-project-id": int(number),
                "project-id": self._state.project,
            },
            "universe": {"universe-domain": "googleapis.com"},
        }


async def _write_guest_attribute(
    instance: Instance, keys: list[str], request: web.Request
) -> web.Response:
    """https://cloud.google.com/compute/docs/metadata/manage-guest-attributes."""
    if not _publishes(instance) or instance.machine is None:
        return _plain(403, "Guest attributes endpoint access is disabled.")
    if len(keys) != 2 or not all(_GUEST_KEY.fullmatch(key) for key in keys):
        return _plain(400, "A guest attribute is guest-attributes/NAMESPACE/KEY.")
    namespace, key = keys
    published = instance.machine.guest_attributes
    if request.method == "DELETE":
        if published.get(namespace, {}).pop(key, None) is None:
            return _plain(404, "There is no such guest attribute.")
        if not published[namespace]:
            del published[namespace]
        return _plain(200, "")
    value = await request.read()
    if len(value) > _GUEST_VALUE_BYTES:
        return _plain(400, f"A guest attribute has at most {_GUEST_VALUE_BYTES} bytes.")
    published.setdefault(namespace, {})[key] = value.decode(errors="replace")
    return _plain(200, "")


def _token(instance: Instance, account: str, given: TokenGiven) -> web.Response:
    if instance.account is None or account not in ("default", instance.account):
        return _plain(404, f"There is no service account {account!r}.")
    given(instance.token, instance.account)
    body = {
        "access_token": instance.token,
        "expires_in": _TOKEN_SECONDS,
        "token_type": "Bearer",
    }
    return web.json_response(body, headers=_HEADERS)


def _guest(instance: Instance) -> dict[str, dict[str, str]]:
    if instance.machine is None or not _publishes(instance):
        return {}
    return instance.machine.guest_attributes


def _publishes(instance: Instance) -> bool:
    return instance.metadata.get("enable-guest-attributes", "").upper() == "TRUE"


def _scopes(instance: Instance) -> list[str]:
    accounts = instance.properties.get("serviceAccounts") or [{}]
    return list(accounts[0].get("scopes") or _SCOPES)


def _look_up(tree: object, keys: list[str]) -> object:
    """What a path names; a list of directories is a directory itself, by index."""
    found = _directory(tree)
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = _directory(found[key])
    return found


def _directory(value: object) -> object:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _Indexed({str(number): item for number, item in enumerate(value)})
    return value


class _Indexed(dict[str, object]):
    """A list, seen as a directory."""


def _names(directory: Mapping[str, object]) -> list[str]:
    return [
        f"{name}/" if isinstance(_directory(value), Mapping) else name
        for name, value in directory.items()
    ]


def _flat(directory: Mapping[str, object], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in directory.items():
        inner = _directory(value)
        if isinstance(inner, Mapping):
            lines += _flat(inner, f"{prefix}{name}/")
        else:
            lines.append(f"{prefix}{name} {_leaf(inner)}")
    return lines


def _leaf(value: object) -> str:
    if isinstance(value, list):
        return "".join(f"{item}\n" for item in value)
    return str(value)


def _camel(value: object) -> object:
    """The JSON form: ``machine-type`` becomes ``machineType``, people's own keys stay."""
    if isinstance(value, _Indexed):
        return [_camel(item) for item in value.values()]
    if isinstance(value, _Verbatim):
        return {name: _camel(item) for name, item in value.items()}
    if isinstance(value, dict):
        return {
            re.sub(r"-(\w)", lambda m: m[1].upper(), name): _camel(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_camel(item) for item in value]
    return value


def _plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        text=text,
        content_type="application/text" if status == 200 else "text/plain",
        headers={**_HEADERS, **(headers or {})},
    )
