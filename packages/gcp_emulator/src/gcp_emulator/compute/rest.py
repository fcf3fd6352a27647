"""How Compute Engine's routes are bound: the project and zone checked, bodies read, replies made.

A *read* is a function of the request that returns JSON. A *change* is a function of the request
and its body that returns an operation; it runs without interruption, so that a repeated
``requestId`` meets either nothing or the whole change
(https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers/insert).
"""

import logging
from collections.abc import Callable, Sequence

from aiohttp import web

from gcp_emulator.compute.listing import max_results, page
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.state import State
from gcp_emulator.replies import Json, Route, api, google_method, json_body, json_response

type Read = Callable[[web.Request], Json]
type Change = Callable[[web.Request, Json], Operation]

_log = logging.getLogger(__name__)


class Rest:
    """Adds routes below ``/compute/v1/projects/{project}`` to an application."""

    def __init__(self, app: web.Application, state: State, operations: Operations) -> None:
        self._app = app
        self._state = state
        self._operations = operations

    def read(self, verb: str, path: str, read: Read) -> None:
        """Add a route that changes nothing."""

        async def route(request: web.Request) -> web.Response:
            self._check_scope(request)
            await request.read()
            return json_response(read(request))

        self._add(verb, path, route, google_method(read))

    def change(self, verb: str, path: str, change: Change) -> None:
        """Add a route that answers with an operation."""

        async def route(request: web.Request) -> web.Response:
            body = await json_body(request)
            self._check_scope(request)
            request_id = request.query.get("requestId")
            operation = self._operations.repeated(request.path, request_id)
            if operation is None:
                operation = change(request, body)
                self._operations.remember(request.path, request_id, operation)
            return json_response(self._operations.to_json(operation))

        self._add(verb, path, route, google_method(change))

    def wait(self, verb: str, path: str, route: Route) -> None:
        """Add a route that takes its time."""

        async def checked(request: web.Request) -> web.StreamResponse:
            self._check_scope(request)
            return await route(request)

        self._add(verb, path, checked, google_method(route))

    def _add(self, verb: str, path: str, route: Route, name: str | None) -> None:
        if name is None:
            raise ValueError(f"{verb} {path} has no Google method name: use @api")
        root = "/compute/v1/projects/{project}"
        self._app.router.add_route(verb, root + path, api(name)(route))

    def _check_scope(self, request: web.Request) -> None:
        self._state.check_project(request.match_info["project"])
        zone = request.match_info.get("zone")
        if zone is not None:
            self._state.check_zone(zone)
        region = request.match_info.get("region")
        if region is not None:
            self._state.check_region(region)


def listed(kind: str, link: str, items: Sequence[Json], token: str | None) -> Json:
    """A ``compute#...List``."""
    body: Json = {
        "kind": f"compute#{kind}",
        "id": link.partition("/compute/v1/")[2],
        "items": list(items),
        "selfLink": link,
    }
    if token:
        body["nextPageToken"] = token
    return body


def aggregated(
    request: web.Request,
    state: State,
    noun: str,
    found: Sequence[Json],
    *,
    kind: str = "zone",
    collection: str | None = None,
) -> Json:
    """A ``compute#...AggregatedList``: resources by ``zones/Z``.

    Zones without any are named with a warning, as Google does, or left out when
    ``returnPartialSuccess`` or a filter asks for less; a page never splits here before
    ``maxResults`` resources.

    Args:
        request: The request.
        state: What exists.
        noun: Of ``compute#...AggregatedList``.
        found: All resources.
        kind: ``zone``, or ``region`` for those that lie in regions.
        collection: The resources' plural, if it is not the noun with an s.
    """
    collection = collection or f"{noun}s"
    for resource in found:
        resource["_key"] = f"{resource[kind]}/{resource['name']}"
    max_results(request)
    items, token = page(request, sorted(found, key=lambda r: str(r["_key"])), key="_key")
    names = [f"{kind}s/{name}" for name in (state.zones if kind == "zone" else state.regions)]
    scopes: Json = {
        name: {
            "warning": {
                "code": "NO_RESULTS_ON_PAGE",
                "message": f"There are no results for scope '{name}' on this page.",
                "data": [{"key": "scope", "value": name}],
            }
        }
        for name in names
    }
    for resource in items:
        del resource["_key"]
        scope = f"{kind}s/" + resource[kind].rpartition("/")[2]
        scopes[scope].pop("warning", None)
        scopes[scope].setdefault(collection, []).append(resource)
    link = f"{state.root}/aggregated/{collection}"
    body: Json = {
        "kind": f"compute#{noun}AggregatedList",
        "id": link.partition("/compute/v1/")[2],
        "items": scopes,
        "selfLink": link,
    }
    if token:
        body["nextPageToken"] = token
    return body
