"""Which APIs are enabled (https://cloud.google.com/service-usage/docs/reference/rest/v1/services).

As in a new project, Cloud SQL and Secret Manager are not. Whoever calls a method of an API that is
not enabled gets Google's 403: `Services.middleware` goes by the name that `api` gave to the route.
"""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiohttp import web

from gcp_emulator.iam.callers import require
from gcp_emulator.iam.errors import StatusError, invalid_argument, not_found, permission_denied
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.iam.names import Project
from gcp_emulator.iam.paging import page_of
from gcp_emulator.replies import Json, Route, api, google_method, json_body, json_response

__all__ = ["Services"]

_TITLES: Final = {
    "artifactregistry": "Artifact Registry API",
    "cloudresourcemanager": "Cloud Resource Manager API",
    "compute": "Compute Engine API",
    "iam": "Identity and Access Management (IAM) API",
    "iap": "Cloud Identity-Aware Proxy API",
    "iamcredentials": "IAM Service Account Credentials API",
    "logging": "Cloud Logging API",
    "monitoring": "Cloud Monitoring API",
    "secretmanager": "Secret Manager API",
    "serviceusage": "Service Usage API",
    "sqladmin": "Cloud SQL Admin API",
    "storage": "Cloud Storage API",
}
_FIRST: Final = frozenset(
    {
        "cloudresourcemanager", "compute", "iam", "iamcredentials", "logging", "monitoring",
        "serviceusage", "storage",
    }
)  # fmt: skip
_DOMAIN: Final = ".googleapis.com"
_TYPES: Final = "type.googleapis.com/google.api.serviceusage.v1."


class Services:
    """The APIs of the project.

    Args:
        project: Whose.
        file: Where the names of the enabled ones are kept.
        seconds: How long it takes to enable one.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(self, project: Project, file: Path, *, seconds: float = 0.0) -> None:
        self._project = project
        self._file = file
        self._seconds = seconds
        self._enabled: set[str] = set(read_kept(file) or (name + _DOMAIN for name in _FIRST))
        self._since: dict[str, float] = {}
        self._operations: dict[str, tuple[float, Json]] = {}

    def is_enabled(self, name: str) -> bool:
        """Whether an API, such as ``sqladmin.googleapis.com``, can be called."""
        return name in self._enabled and time.monotonic() >= self._since.get(name, 0.0)

    def enable(self, *names: str) -> None:
        """Enable APIs at once."""
        for name in names:
            self._since.pop(name, None)
        self._enabled.update(names)
        self._save()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Route) -> web.StreamResponse:
        """Refuse calls of APIs that are not enabled."""
        name = (google_method(request.match_info.handler) or "").partition(".")[0]
        if name in _TITLES and name != "serviceusage" and not self.is_enabled(name + _DOMAIN):
            raise self._disabled(name)
        return await handler(request)

    def add_routes(self, app: web.Application) -> None:
        """Add the routes under ``/v1/projects/P/services`` and ``/v1/operations``."""
        all_of_them = "/v1/projects/{project:[^/:]+}/services"
        one = all_of_them + "/{service:[^/:]+}"
        app.add_routes(
            [
                web.get(all_of_them, self.list),
                web.get(all_of_them + ":batchGet", self.batch_get),
                web.post(all_of_them + ":batchEnable", self.batch_enable),
                web.get(one, self.get),
                web.post(one + ":enable", self.enable_one),
                web.post(one + ":disable", self.disable_one),
                web.get("/v1/operations/{operation:[^/:]+}", self.get_operation),
            ]
        )

    @api("serviceusage.services.list")
    async def list(self, request: web.Request) -> web.Response:
        """GET services; filters ``state:ENABLED`` and ``state:DISABLED``."""
        self._check(request, "list")
        wanted = request.query.get("filter", "").replace(" ", "")
        if wanted not in ("", "state:ENABLED", "state:DISABLED"):
            raise invalid_argument(f"Invalid filter: {wanted!r}.")
        found = [self._service_json(name + _DOMAIN) for name in sorted(_TITLES)]
        found = [one for one in found if not wanted or one["state"] == wanted[6:]]
        services, more = page_of(request, found, default=50, most=200)
        return json_response({"services": services, **more} if services else {})

    @api("serviceusage.services.get")
    async def get(self, request: web.Request) -> web.Response:
        """GET services/NAME."""
        name = self._named(request, "get")
        return json_response(self._service_json(name))

    @api("serviceusage.services.batchGet")
    async def batch_get(self, request: web.Request) -> web.Response:
        """GET services:batchGet?names=projects/P/services/NAME&names=..."""
        self._check(request, "get")
        names = [one.rpartition("/")[2] for one in request.query.getall("names", [])]
        self._check_names(names)
        return json_response({"services": [self._service_json(name) for name in names]})

    @api("serviceusage.services.enable")
    async def enable_one(self, request: web.Request) -> web.Response:
        """POST services/NAME:enable."""
        await json_body(request)
        name = self._named(request, "enable")
        return json_response(self._enable([name], "EnableServiceResponse"))

    @api("serviceusage.services.batchEnable")
    async def batch_enable(self, request: web.Request) -> web.Response:
        """POST services:batchEnable: ``{"serviceIds": [...]}``, at most 20, all or none."""
        body = await json_body(request)
        self._check(request, "enable")
        names = body.get("serviceIds")
        if not isinstance(names, list) or not 1 <= len(names) <= 20:
            raise invalid_argument("Between 1 and 20 services can be enabled in one request.")
        self._check_names([str(name) for name in names])
        return json_response(self._enable(names, "BatchEnableServicesResponse"))

    @api("serviceusage.services.disable")
    async def disable_one(self, request: web.Request) -> web.Response:
        """POST services/NAME:disable."""
        await json_body(request)
        name = self._named(request, "disable")
        if name not in self._enabled:
            raise StatusError(
                400,
                "FAILED_PRECONDITION",
                f"The service {name} is not enabled for project {self._project.number}.",
            )
        self._enabled.discard(name)
        self._since.pop(name, None)
        self._save()
        result = {"@type": f"{_TYPES}DisableServiceResponse", "service": self._service_json(name)}
        return json_response(self._begin([name], result))

    @api("serviceusage.operations.get")
    async def get_operation(self, request: web.Request) -> web.Response:
        """GET operations/ID."""
        name = f"operations/{request.match_info['operation']}"
        if name not in self._operations:
            raise not_found(f"Operation {name} not found.")
        ready, operation = self._operations[name]
        if time.monotonic() < ready:
            operation = {key: operation[key] for key in ("name", "metadata")}
        return json_response(operation)

    def _enable(self, names: Sequence[str], kind: str) -> Json:
        fresh = [name for name in names if name not in self._enabled]
        ready = time.monotonic() + self._seconds
        self._enabled.update(fresh)
        self._since.update(dict.fromkeys(fresh, ready))
        if fresh:
            self._save()
        shown = [{**self._service_json(name), "state": "ENABLED"} for name in names]
        result: Json = {"@type": _TYPES + kind}
        result |= {"services": shown} if kind.startswith("Batch") else {"service": shown[0]}
        if not any(self._since.get(name, 0.0) > time.monotonic() for name in names) and not fresh:
            return {"name": "operations/noop.DONE_OPERATION", "done": True, "response": result}
        return self._begin(names, result)

    def _begin(self, names: Sequence[str], result: Json) -> Json:
        """A new operation, as the caller sees it first: not done yet."""
        name = f"operations/acat.p2-{self._project.number}-{uuid.uuid4()}"
        metadata = {
            "@type": f"{_TYPES}OperationMetadata",
            "resourceNames": [f"{self._project.numbered}/services/{one}" for one in names],
        }
        operation = {"name": name, "metadata": metadata, "done": True, "response": result}
        self._operations[name] = time.monotonic() + self._seconds, operation
        return {"name": name, "metadata": metadata}

    def _check(self, request: web.Request, verb: str) -> None:
        self._project.check(request.match_info["project"])
        require(request, f"serviceusage.services.{verb}", resource=self._project.path)

    def _named(self, request: web.Request, verb: str) -> str:
        self._check(request, verb)
        name = request.match_info["service"]
        self._check_names([name])
        return name

    def _check_names(self, names: Sequence[str]) -> None:
        unknown = [n for n in names if n.removesuffix(_DOMAIN) not in _TITLES or "." not in n]
        if not unknown:
            return
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED",
            "domain": "serviceusage.googleapis.com",
            "metadata": {"services": ",".join(unknown)},
        }
        raise permission_denied(
            f"Not found or permission denied for service(s): {', '.join(unknown)}.",
            details=[info],
        )

    def _service_json(self, name: str) -> Json:
        return {
            "name": f"{self._project.numbered}/services/{name}",
            "parent": self._project.numbered,
            "config": {"name": name, "title": _TITLES[name.removesuffix(_DOMAIN)]},
            "state": "ENABLED" if self.is_enabled(name) else "DISABLED",
        }

    def _disabled(self, name: str) -> StatusError:
        """https://cloud.google.com/apis/design/errors, as Cloud SQL's front end writes it."""
        number, title = self._project.number, _TITLES[name]
        url = (
            f"https://console.developers.google.com/apis/api/{name}{_DOMAIN}/overview"
            f"?project={number}"
        )
        message = (
            f"{title} has not been used in project {number} before or it is disabled. Enable it "
            f"by visiting {url} then retry. If you enabled this API recently, wait a few minutes "
            "for the action to propagate to our systems and retry."
        )
        rpc = "type.googleapis.com/google.rpc."
        return StatusError(
            403,
            "PERMISSION_DENIED",
            message,
            errors=[
                {
                    "message": message,
                    "domain": "usageLimits",
                    "reason": "accessNotConfigured",
                    "extendedHelp": "https://console.developers.google.com",
                }
            ],
            details=[
                {
                    "@type": f"{rpc}ErrorInfo",
                    "reason": "SERVICE_DISABLED",
                    "domain": "googleapis.com",
                    "metadata": {
                        "consumer": self._project.numbered,
                        "containerInfo": number,
                        "service": name + _DOMAIN,
                        "serviceTitle": title,
                        "activationUrl": url,
                    },
                },
                {"@type": f"{rpc}LocalizedMessage", "locale": "en-US", "message": message},
                {
                    "@type": f"{rpc}Help",
                    "links": [
                        {"description": "Google developers console API activation", "url": url}
                    ],
                },
            ],
        )

    def _save(self) -> None:
        keep(self._file, sorted(self._enabled))
