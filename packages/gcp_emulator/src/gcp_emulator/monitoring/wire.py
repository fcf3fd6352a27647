"""One implementation of each method, called over gRPC and over REST.

A `Method` says how Google calls it on both (https://cloud.google.com/monitoring/api/v3); what it
does takes and gives the messages of Google's client. `Wire` brings it to a gRPC server and into
an aiohttp application, with the same faults, permissions and errors. JSON is the messages' own
mapping (https://protobuf.dev/programming-guides/json/).
"""

import inspect
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from aiohttp import web
from google.protobuf import field_mask_pb2, json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from gcp_emulator.faults import Cut, Faults
from gcp_emulator.iam.callers import Access
from gcp_emulator.iam.errors import StatusError, invalid_argument, permission_denied
from gcp_emulator.iam.names import Project
from gcp_emulator.iam.services import Services
from gcp_emulator.replies import GoogleError, Json, api, json_response

__all__ = ["Method", "Wire", "paged"]

_log = logging.getLogger(__name__)

_PACKAGE: Final = "google.monitoring.v3"
_API: Final = "monitoring.googleapis.com"
_DETAILS: Final = "grpc-status-details-bin"
_NEEDED: Final = error_details_pb2  # its messages are found by name when details are packed
_SYSTEM_QUERY: Final = frozenset({"alt", "fields", "key", "prettyPrint", "quotaUser", "$.xgafv"})
_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of Cloud Monitoring."""

    rpc: str
    """Service and method: ``MetricService.CreateTimeSeries``."""
    api: str
    """As the discovery document calls it: ``monitoring.projects.timeSeries.create``."""
    request: type[Message]
    reply: type[Message]
    run: Callable[[Any], Any]
    """What it does: the reply to a request, or what can be awaited for one."""
    verb: str
    of: str
    """What its name names: ``projects/*``; ``**`` takes slashes, too."""
    after: str = ""
    """What follows the name in the URL: ``/timeSeries`` or ``:verify``."""
    name: str = "name"
    """The field that has the name: ``alert_policy.name``."""
    body: str = ""
    """The field that the body is, ``*`` for the whole request, nothing for none."""
    permission: str = ""
    """By default what the discovery document's name says, without ``projects``."""

    @property
    def needs(self) -> str:
        """The permission to call it."""
        return self.permission or _permission(self.api)

    @property
    def expression(self) -> str:
        """A regular expression for names."""
        return _expression(self.of)


class Wire:
    """Methods, callable.

    Args:
        project: Whose they are.
        access: Who calls.
        services: Which APIs are enabled.
        faults: What fails on demand.
    """

    def __init__(
        self, project: Project, *, access: Access, services: Services, faults: Faults
    ) -> None:
        self._project = project
        self._access = access
        self._services = services
        self._faults = faults
        self._server: grpc.aio.Server | None = None

    def add_routes(self, app: web.Application, methods: Iterable[Method]) -> None:
        """Add them to an application, below ``/v3``."""
        for method in methods:
            path = f"/v3/{{name:{method.expression}}}{method.after}"
            app.router.add_route(method.verb, path, self._route(method))

    def add_json_route(
        self,
        app: web.Application,
        *,
        of: str,
        after: str = "",
        api_name: str,
        run: Callable[[str, Mapping[str, str]], Json],
    ) -> None:
        """Add a method that is there over REST only, for GET.

        Args:
            app: The application.
            of: As `Method.of`.
            after: As `Method.after`.
            api_name: As `Method.api`.
            run: The reply to a name and a query.
        """
        needs, expression = _permission(api_name), _expression(of)

        @api(api_name)
        async def route(request: web.Request) -> web.Response:
            name = self._checked(of, request.match_info["name"])
            self._authorize(request.headers.get("Authorization", ""), needs)
            return json_response(run(name, request.query))

        app.router.add_get(f"/v3/{{name:{expression}}}{after}", route)

    async def start(self, host: str, methods: Iterable[Method]) -> int:
        """Listen for gRPC on a free port; which one it is."""
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for method in methods:
            service, _, rpc = method.rpc.partition(".")
            services.setdefault(service, {})[rpc] = grpc.unary_unary_rpc_method_handler(
                self._handler(method),
                request_deserializer=method.request.FromString,
                response_serializer=method.reply.SerializeToString,
            )
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(f"{_PACKAGE}.{name}", handlers)
                for name, handlers in services.items()
            )
        )
        port = self._server.add_insecure_port(f"{host}:0")
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        """Listen no longer; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace=0.5)

    def _authorize(self, authorization: str, permission: str) -> None:
        """Refuse a caller who may not; `authorization` is the header or metadata of this name."""
        kind, _, token = authorization.partition(" ")
        email = self._access.account_of(token.strip()) if kind.lower() == "bearer" else None
        if email is None or self._access.grants(email, permission):
            return
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "IAM_PERMISSION_DENIED",
            "domain": _API,
            "metadata": {"permission": permission, "resource": self._project.path},
        }
        raise permission_denied(
            f"Permission {permission} denied (or the resource may not exist).", details=[info]
        )

    def _route(self, method: Method) -> Callable[[web.Request], Awaitable[web.Response]]:
        @api(method.api)
        async def route(request: web.Request) -> web.Response:
            message = await _parse(request, method)
            reply = await self._run(method, message, request.headers.get("Authorization", ""))
            return json_response(json_format.MessageToDict(reply))

        return route

    def _handler(self, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(message: Any, context: Any) -> Any:
            metadata = dict(context.invocation_metadata() or ())
            authorization = str(metadata.get("authorization", ""))

            async def run() -> Any:
                self._check_enabled()
                return await self._run(method, message, authorization)

            try:
                return await self._faults.around(method.api, str(_get(message, method.name)), run)
            except Cut:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            except GoogleError as error:
                await context.abort(
                    _status_code(error), error.message, trailing_metadata=_trailer(error)
                )
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                _log.exception("%s failed", method.rpc)
                message = f"{method.rpc} failed in the local cloud: {error!r}"
                await context.abort(grpc.StatusCode.INTERNAL, message)

        return call

    async def _run(self, method: Method, message: Any, authorization: str) -> Any:
        _set(message, method.name, self._checked(method.of, _get(message, method.name)))
        self._authorize(authorization, method.needs)
        reply = method.run(message)
        return await reply if inspect.isawaitable(reply) else reply

    def _checked(self, of: str, name: str) -> str:
        """The name with the project's id, if it is one of this project."""
        if not re.fullmatch(_expression(of), name):
            form = of.replace("**", "[ID]").replace("*", "[PROJECT_ID_OR_NUMBER]", 1)
            raise invalid_argument(
                f"Name {json.dumps(name)} is malformed: must be {form.replace('*', '[ID]')}."
            )
        first, project, *rest = name.split("/", 2)
        self._project.check(project)
        return "/".join([first, self._project.id, *rest])

    def _check_enabled(self) -> None:
        if self._services.is_enabled(_API):
            return
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "SERVICE_DISABLED",
            "domain": "googleapis.com",
            "metadata": {"consumer": self._project.numbered, "service": _API},
        }
        raise permission_denied(
            f"Cloud Monitoring API has not been used in project {self._project.number} before or"
            " it is disabled.",
            details=[info],
        )


def paged[T](message: Any, found: Sequence[T], *, most: int) -> tuple[Sequence[T], str]:
    """The page of a list that a request asks for, and the token of the next one.

    Raises:
        GoogleError: 400 for a page size or token that is none.
    """
    if message.page_size < 0:
        raise invalid_argument(
            f'Field page_size had an invalid value of "{message.page_size}": must not be negative.'
        )
    token = message.page_token
    if token and not re.fullmatch(r"after-[0-9]{1,9}", token):
        raise invalid_argument(f'Field page_token had an invalid value of "{token}".')
    first = int(token.rpartition("-")[2]) if token else 0
    limit = min(message.page_size or most, most)
    rest = found[first:]
    return rest[:limit], f"after-{first + limit}" if len(rest) > limit else ""


def _permission(api_name: str) -> str:
    return api_name.replace(".projects.", ".").replace(".patch", ".update")


def _expression(of: str) -> str:
    pieces = re.split(r"(\*\*|\*)", of)
    return "".join({"*": "[^/:]+", "**": ".+"}.get(piece, piece) for piece in pieces)


async def _parse(request: web.Request, method: Method) -> Message:
    message = method.request()
    content = await request.read()
    if method.body:
        _parse_into(message if method.body == "*" else getattr(message, method.body), content)
    query: Json = {}
    for name in dict.fromkeys(request.query):
        if name not in _SYSTEM_QUERY:
            _put(query, name.split("."), request.query.getall(name), message.DESCRIPTOR)
    mask = query.pop("updateMask", None)
    _from_dict(query, message)
    if mask is not None:
        paths = [_snake(path.strip()) for path in str(mask).split(",") if path.strip()]
        message.update_mask.CopyFrom(field_mask_pb2.FieldMask(paths=paths))
    if method.name.partition(".")[0] == method.body:
        getattr(message, method.body).SetInParent()
    _set(message, method.name, request.match_info["name"])
    return message


def _parse_into(message: Message, content: bytes) -> None:
    try:
        body = json.loads(content or b"{}")
    except ValueError as error:
        raise invalid_argument(f"Invalid JSON payload received. {error}") from error
    if not isinstance(body, dict):
        raise invalid_argument("Invalid JSON payload received. Root element must be a message.")
    _from_dict(body, message)


def _from_dict(value: Json, message: Message) -> None:
    try:
        json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        text = str(error).splitlines()[0]
        unknown = re.search(r'has no field named "([^"]*)"(?: at "([^"]*)")?', text)
        if unknown:
            at = f" at '{unknown[2].partition('.')[2] or unknown[2]}'" if unknown[2] else ""
            text = f'Unknown name "{unknown[1]}"{at}: Cannot find field.'
        raise invalid_argument(f"Invalid JSON payload received. {text}") from error


def _put(into: Json, path: list[str], values: list[str], descriptor: Any) -> None:
    """Put a parameter of a query, such as ``interval.endTime``, where JSON would have it."""
    name, rest = path[0], path[1:]
    field = next((f for f in descriptor.fields if name in (f.json_name, f.name)), None)
    if field is None:
        raise invalid_argument(
            f'Invalid JSON payload received. Unknown name "{".".join(path)}": '
            "Cannot bind query parameter."
        )
    if rest and field.message_type is not None:
        _put(into.setdefault(field.json_name, {}), rest, values, field.message_type)
    elif field.is_repeated:
        into[field.json_name] = values
    elif field.type == field.TYPE_BOOL:
        into[field.json_name] = values[-1].lower() in ("true", "1")
    else:
        into[field.json_name] = values[-1]


def _snake(path: str) -> str:
    """A path of a field mask as messages have it; keys of maps stay as they are."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda m: "_" + m[1].lower(), path)


def _get(message: Any, field: str) -> Any:
    for part in field.split("."):
        message = getattr(message, part)
    return message


def _set(message: Any, field: str, value: str) -> None:
    *path, last = field.split(".")
    for part in path:
        message = getattr(message, part)
    setattr(message, last, value)


def _status_code(error: GoogleError) -> grpc.StatusCode:
    if isinstance(error, StatusError):
        found = getattr(grpc.StatusCode, error.status, None)
        if isinstance(found, grpc.StatusCode):
            return found
    return _CODES.get(error.code, grpc.StatusCode.UNKNOWN)


def _trailer(error: GoogleError) -> tuple[tuple[str, bytes], ...]:
    """The details, as Google's clients look for them."""
    if not isinstance(error, StatusError) or not error.details:
        return ()
    status: Mapping[str, Any] = {
        "code": _status_code(error).value[0],
        "message": error.message,
        "details": error.details,
    }
    packed = json_format.ParseDict(status, status_pb2.Status())
    return ((_DETAILS, packed.SerializeToString()),)
