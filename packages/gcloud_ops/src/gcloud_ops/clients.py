"""The only place that builds Google's clients, and waits for operations.

Importing this module imports no Google module: `google.cloud.compute_v1` alone costs seconds.
Each client is built at its first use.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, cast

import stamina

from gcloud_ops.errors import (
    CredentialsMissing,
    InvalidRequest,
    Unavailable,
)
from gcloud_ops.refusals import error_for_code, raise_operation_error, translate
from gcloud_ops.settings import Settings

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["Clients", "default_project", "error_for_code", "translate"]

CONNECTIONS: Final = 64
"""Requests to one host at the same time, each on a connection that is kept."""

CALL_TIMEOUT: Final = 30.0
"""Seconds for the answer to one request."""

_WAIT_AT_MOST = 100.0  # a call of operations.wait returns within two minutes

# A retry is no news for whoever uses a library; without this, logging prints it on stderr.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Clients:
    """Google's clients for one project, on Google Cloud or at another endpoint.

    Safe to share between threads. Every client is built at its first use, and so is found
    out whether there are credentials.

    Args:
        settings: Which project, zone and cloud.
        credentials: Of `google.auth`, in place of the default ones (none at another endpoint).
    """

    def __init__(self, settings: Settings, *, credentials: Any = None) -> None:
        self.settings = settings
        self._given: Any = credentials
        self._lock = threading.RLock()
        self._built: dict[str, Any] = {}

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Clients for these settings; nothing is sent yet.

        Without a project in the settings, on Google Cloud, it is that of the default credentials.
        """
        if not settings.project and settings.is_google:
            settings = replace(settings, project=default_project() or "")
        return cls(settings)

    @property
    def project(self) -> str:
        """The project.

        Raises:
            InvalidRequest: None is set.
        """
        return self._once("project", self.settings.require_project)

    @property
    def zone(self) -> str:
        """The settings' zone."""
        return self.settings.zone

    @property
    def groups(self) -> "compute_v1.InstanceGroupManagersClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.InstanceGroupManagersClient)

    @property
    def region_groups(self) -> "compute_v1.RegionInstanceGroupManagersClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.RegionInstanceGroupManagersClient)

    @property
    def templates(self) -> "compute_v1.InstanceTemplatesClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.InstanceTemplatesClient)

    @property
    def instances(self) -> "compute_v1.InstancesClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.InstancesClient)

    @property
    def zones(self) -> "compute_v1.ZonesClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.ZonesClient)

    @property
    def zone_operations(self) -> "compute_v1.ZoneOperationsClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.ZoneOperationsClient)

    @property
    def global_operations(self) -> "compute_v1.GlobalOperationsClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.GlobalOperationsClient)

    @property
    def region_operations(self) -> "compute_v1.RegionOperationsClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.RegionOperationsClient)

    @property
    def addresses(self) -> "compute_v1.AddressesClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.AddressesClient)

    @property
    def disks(self) -> "compute_v1.DisksClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.DisksClient)

    @property
    def firewalls(self) -> "compute_v1.FirewallsClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.FirewallsClient)

    @property
    def regions(self) -> "compute_v1.RegionsClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.RegionsClient)

    @property
    def projects(self) -> "compute_v1.ProjectsClient":
        """The client of this name, built at its first use."""
        from google.cloud import compute_v1

        return self._compute_client(compute_v1.ProjectsClient)

    @property
    def storage(self) -> Any:
        """`google.cloud.storage.Client`."""

        def build() -> Any:
            from google.cloud.storage import Client

            client = Client(
                project=self.project,
                credentials=self.credentials(),
                client_options=self._client_options(),
            )
            _widen(client._http)
            # It would describe buckets to OpenTelemetry, and ask for each one in the background:
            # one more call, and one more permission.
            client._bucket_metadata_cache = None
            return client

        return self._once("storage", build)

    def monitoring(self, name: str) -> Any:
        """A client of Cloud Monitoring (gRPC), by its class's name: `MetricServiceClient`...

        Give its calls `retry=None, timeout=CALL_TIMEOUT`, and make them in `call` or `translate`.

        Raises:
            InvalidRequest: The cloud at `endpoint` has none, as far as the settings say.
        """

        def build() -> Any:
            # gRPC's own words on stderr are no news for whoever reads ours.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from google.cloud import monitoring_v3

            kind = getattr(monitoring_v3, name)
            address = self.settings.monitoring_endpoint
            if address is None:
                return kind(credentials=self.credentials())
            import grpc

            channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
            return kind(transport=kind.get_transport_class("grpc")(channel=channel))

        if not self.settings.has_monitoring:
            raise InvalidRequest(
                "monitoring_endpoint: none is set, so this cloud has no Cloud Monitoring",
                resource="setting monitoring_endpoint",
                hint="set GCLOUD_OPS_MONITORING_ENDPOINT to its gRPC address",
            )
        return self._once(f"monitoring {name}", build)

    def api(self, name: str, version: str) -> Any:
        """A client, by its discovery document, for an API that has none of its own over REST.

        Such as `api("sqladmin", "v1").instances().get(project=..., instance=...)`, which makes a
        request for `execute`. For one thread: its connection (httplib2) can't be shared.

        Args:
            name: Of the API: `sqladmin`, `iam`, `cloudresourcemanager`, `secretmanager`...
            version: Such as `v1`.
        """

        def build() -> Any:
            from google_auth_httplib2 import AuthorizedHttp
            from googleapiclient.discovery import build
            from httplib2 import Http

            http = Http(timeout=CALL_TIMEOUT)
            return build(
                name,
                version,
                http=AuthorizedHttp(self.credentials(), http=http),
                client_options=self._client_options(),
                static_discovery=True,
                cache_discovery=False,
            )

        return self._once(f"{name} {version} {threading.get_ident()}", build)

    def execute(
        self, resource: str, request: Any, *, repeat: bool | None = None
    ) -> dict[str, Any]:
        """Send a request that `api` made; returns its reply.

        Args:
            resource: What it is about, such as `secret mlflow-admin`.
            request: A `googleapiclient.http.HttpRequest`.
            repeat: Whether it may be tried again while the cloud is unavailable; None: if it
                only reads.

        Raises:
            GcloudOpsError: What the last try said.
        """
        if request.method == "GET" if repeat is None else repeat:
            return cast("dict[str, Any]", self.call(resource, request.execute))
        with translate(resource):
            return cast("dict[str, Any]", request.execute())

    def call[T](self, resource: str, function: Callable[[], T]) -> T:
        """Call what may safely be repeated; try again while the cloud is unavailable.

        Args:
            resource: What it is about, such as `group quick`.
            function: The call, with `timeout=CALL_TIMEOUT` and `retry=None`.

        Raises:
            GcloudOpsError: What the last try said: after 5 of them, or a minute.
        """
        for attempt in stamina.retry_context(
            on=Unavailable,
            attempts=5,
            timeout=60.0,
            wait_initial=0.25,
            wait_max=8.0,
            wait_jitter=0.25,
        ):
            with attempt, translate(resource):
                return function()
        raise AssertionError("a retry context ends with a value or an error")  # pragma: no cover

    def read[T](self, resource: str, method: Callable[..., T], **fields: object) -> T:
        """Call a compute client's method that only reads, with these fields of its request."""
        return self.call(
            resource, lambda: method(request=fields, retry=None, timeout=CALL_TIMEOUT)
        )

    def change(
        self,
        resource: str,
        method: "Callable[..., compute_v1.Operation]",
        **fields: object,
    ) -> None:
        """Call a compute client's `*_unary` method that changes something; wait for its end.

        A request id makes the call safe to repeat: Compute Engine carries out only one.

        Raises:
            GcloudOpsError: The call's or the operation's error.
        """
        self.wait(self.start(resource, method, **fields), resource=resource)

    def read_all[T](
        self, resource: str, method: Callable[..., Iterable[T]], **fields: object
    ) -> list[T]:
        """As `read`, for a list: with all of its pages."""
        return self.call(
            resource, lambda: list(method(request=fields, retry=None, timeout=CALL_TIMEOUT))
        )

    def start[T](self, resource: str, method: Callable[..., T], **fields: object) -> T:
        """As `change`, but return the operation as soon as it is accepted."""
        return self.read(resource, method, **fields, request_id=str(uuid.uuid4()))

    def wait(
        self, operation: "compute_v1.Operation", *, resource: str, timeout: float = 300.0
    ) -> None:
        """Wait for the end of a zonal, regional or global operation.

        The clients' own `operation.result()` asks a client of Google's endpoint, whatever the
        endpoint: use the `*_unary` methods, and this.

        Args:
            operation: A `compute_v1.Operation`.
            resource: What it is about.
            timeout: Seconds.

        Raises:
            GcloudOpsError: The operation's error, translated by its code; `Unavailable` when
                it isn't done in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        done = type(operation).Status.DONE
        pause = 0.02
        while operation.status != done:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Unavailable(
                    f"{resource}: {_kind(operation)} not done after {timeout:.0f} s",
                    resource=resource,
                    hint=f"it goes on at Google as the operation {operation.name}",
                )
            asked = time.monotonic()
            operation = self._wait_call(operation, resource, seconds=min(left, _WAIT_AT_MOST))
            # The call may come back at once without a result (it is "best effort").
            if operation.status != done and time.monotonic() - asked < pause:
                time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
                pause = min(pause * 2, 2.0)
        raise_operation_error(operation, resource)

    def _wait_call(
        self, operation: "compute_v1.Operation", resource: str, *, seconds: float
    ) -> "compute_v1.Operation":
        client: Any = self.global_operations
        scope: dict[str, str] = {}
        if operation.zone:
            client, scope = self.zone_operations, {"zone": operation.zone.rpartition("/")[2]}
        elif operation.region:
            client, scope = self.region_operations, {"region": operation.region.rpartition("/")[2]}
        request = {"project": self.project, "operation": operation.name, **scope}
        try:
            with translate(resource):
                found = client.wait(request=request, retry=None, timeout=seconds + 1.0)
        except Unavailable:
            # Too slow, or an error in between: what it is now is a cheap question, with retries.
            found = self.read(resource, client.get, **request)
        return cast("compute_v1.Operation", found)

    def _compute_client[C](self, kind: Callable[..., C]) -> C:
        def build() -> C:
            client: Any = kind(
                credentials=self.credentials(), client_options=self._client_options()
            )
            _widen(client.transport._session)
            return cast(C, client)

        return self._once(f"{kind}", build)

    def _client_options(self) -> Mapping[str, str] | None:
        return {"api_endpoint": self.settings.endpoint} if self.settings.endpoint else None

    def token(self) -> str:
        """An access token of the credentials, for what speaks HTTP by itself; "" on another cloud.

        Raises:
            CredentialsMissing: There are none, or they have expired.
        """
        credentials = self.credentials()
        with self._lock, translate("credentials"):
            if not credentials.valid:
                from google.auth.transport.requests import Request

                credentials.refresh(Request())
            return str(credentials.token or "")

    def credentials(self) -> Any:
        """Of google-auth: what all clients act with.

        Raises:
            CredentialsMissing: There are none.
        """
        if self._given is not None:
            return self._given
        if self.settings.endpoint is not None:
            from google.auth.credentials import AnonymousCredentials

            return AnonymousCredentials()  # type: ignore[no-untyped-call]
        return self._once("credentials", lambda: _default_credentials()[0])

    def _once[T](self, name: str, build: Callable[[], T]) -> T:
        found: T | None = self._built.get(name)
        if found is None:
            with self._lock:
                found = self._built.get(name)
                if found is None:
                    with translate("credentials"):
                        found = self._built[name] = build()
        return found


def default_project() -> str | None:
    """The project of Google's default credentials; None when it or they are missing."""
    try:
        with translate("credentials"):
            return _default_credentials()[1]
    except CredentialsMissing:
        return None


def _kind(operation: Any) -> str:
    """What the operation does, such as `insert` or `compute.instanceGroupManagers.delete`."""
    return str(operation.operation_type) or "the operation"


def _default_credentials() -> tuple[Any, str | None]:
    import google.auth

    return google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])


def _widen(session: Any) -> None:
    """Let a requests session keep as many connections as we have threads."""
    from requests.adapters import HTTPAdapter

    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_connections=8, pool_maxsize=CONNECTIONS))
