"""How Compute Engine's routes are bound: the project and zone checked, bodies read, replies made.

A *read* is a function of the request that returns JSON. A *change* is a function of the request
and its body that returns an operation; it runs without interruption, so that a repeated
``requestId`` meets either nothing or the whole change
(https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers/insert).
A *shelf* is a collection of resources, which is read in the same way whatever they are.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from gcp_emulator.compute.listing import max_results, page
from gcp_emulator.compute.nouns import GLOBAL
from gcp_emulator.compute.operations import Operation, Operations, noun_of
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import not_found
from gcp_emulator.replies import Json, Route, api, google_method, json_body, json_response

type Read = Callable[[web.Request], Json]
type Change = Callable[[web.Request, Json], Operation]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf[T]:
    """Resources of one kind: how they are called, found and shown."""

    collection: str
    """As paths name them: ``instanceGroupManagers``."""
    noun: str
    """As ``kind`` names one: ``instanceGroupManager``."""
    place: str
    """The paths that they lie below: ``zones/{zone}``, ``regions/{region}`` or ``global``."""
    found: Callable[[], Mapping[tuple[str, str], T]]
    """All there are now, by zone or region (empty for global ones) and name."""
    show: Callable[[T], Json]
    service: str = ""
    """As methods name them (``regionInstanceGroupManagers``); else as paths do."""
    list_kind: str = ""
    """Of a list, if it is not the noun's."""

    @property
    def path(self) -> str:
        """Where they are read."""
        return f"/{self.place}/{self.collection}"

    def method(self, verb: str) -> str:
        """Google's name of a method."""
        return f"compute.{self.service or self.collection}.{verb}"

    def here(self, request: web.Request, state: State) -> T:
        """The one that a request names, or 404."""
        name, place = request.match_info["name"], place_of(request)
        found = self.found().get((place.partition("/")[2], name))
        if found is None:
            raise not_found(state.path(place, self.collection, name))
        return found


class Rest:
    """Adds routes below ``/compute/v1/projects/{project}`` to an application."""

    def __init__(self, app: web.Application, state: State, operations: Operations) -> None:
        self._app = app
        self._state = state
        self._operations = operations

    def shelve[T](self, shelf: Shelf[T], *, aggregates: Iterable[Shelf[T]] = ()) -> None:
        """Add ``get``, ``list``, and with shelves to aggregate ``aggregatedList`` of them."""
        state, together = self._state, list(aggregates)

        def get(request: web.Request) -> Json:
            return shelf.show(shelf.here(request, state))

        def list_(request: web.Request) -> Json:
            place = place_of(request)
            found, where = shelf.found(), place.partition("/")[2]
            names = sorted(key for key in found if key[0] == where)
            items, token = page(request, [shelf.show(found[key]) for key in names])
            kind = shelf.list_kind or f"{shelf.noun}List"
            return listed(kind, f"{state.root}/{place}/{shelf.collection}", items, token)

        def aggregated_list(request: web.Request) -> Json:
            return _aggregated(request, state, together)

        self.read("GET", shelf.path, list_, method=shelf.method("list"))
        self.read("GET", shelf.path + "/{name}", get, method=shelf.method("get"))
        if together:
            path, name = f"/aggregated/{shelf.collection}", shelf.method("aggregatedList")
            self.read("GET", path, aggregated_list, method=name)

    def read(self, verb: str, path: str, read: Read, *, method: str | None = None) -> None:
        """Add a route that changes nothing; `method` names it as Google does, else `api` does."""

        async def route(request: web.Request) -> web.Response:
            self._check_scope(request)
            await request.read()
            return json_response(read(request))

        self._add(verb, path, route, method or google_method(read))

    def change(self, verb: str, path: str, change: Change, *, method: str | None = None) -> None:
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

        self._add(verb, path, route, method or google_method(change))

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


def place_of(request: web.Request) -> str:
    """Where a request looks: ``zones/Z``, ``regions/R`` or ``global``."""
    for noun in ("zone", "region"):
        if noun in request.match_info:
            return f"{noun}s/{request.match_info[noun]}"
    return GLOBAL


def _aggregated[T](request: web.Request, state: State, shelves: Sequence[Shelf[T]]) -> Json:
    """A ``compute#...AggregatedList``: resources by ``zones/Z``, ``regions/R`` or ``global``.

    Places without any are named with a warning, as Google does; a page never splits here before
    ``maxResults`` resources.
    """
    found: list[Json] = []
    scopes: dict[str, Json] = {}
    for shelf in shelves:
        noun = noun_of(shelf.place)
        names = {"zone": state.zones, "region": state.regions}.get(noun, [""])
        scopes |= {scope: _nothing(scope) for scope in (_scope(noun, name) for name in names)}
        found += [
            {**shelf.show(item), "_scope": _scope(noun, where), "_key": f"{noun}s/{where}/{name}"}
            for (where, name), item in shelf.found().items()
            if where in names
        ]
    max_results(request)
    items, token = page(request, sorted(found, key=lambda r: str(r["_key"])), key="_key")
    collection = shelves[0].collection
    for resource in items:
        del resource["_key"]
        here = scopes[resource.pop("_scope")]
        here.pop("warning", None)
        here.setdefault(collection, []).append(resource)
    link = f"{state.root}/aggregated/{collection}"
    body: Json = {
        "kind": f"compute#{shelves[0].noun}AggregatedList",
        "id": link.partition("/compute/v1/")[2],
        "items": scopes,
        "selfLink": link,
    }
    if token:
        body["nextPageToken"] = token
    return body


def _scope(noun: str, name: str) -> str:
    return f"{noun}s/{name}" if name else GLOBAL


def _nothing(scope: str) -> Json:
    message = f"There are no results for scope '{scope}' on this page."
    data = [{"key": "scope", "value": scope}]
    return {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": message, "data": data}}
