"""A cloud in a thread for Google's blocking clients, whose every reply is held to its schema."""

import asyncio
import functools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import googleapiclient
import jsonschema
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from gcp_emulator.server import LocalCloud

PROJECT = "projects/local"
SERVER = "mlflow-tracking-sa@local.iam.gserviceaccount.com"


class ThreadedCloud:
    """A cloud of states only.

    Args:
        cloud: It, started.
        do: Runs a function in the cloud's thread.
    """

    def __init__(
        self, cloud: LocalCloud, do: Callable[[Callable[[], Any]], Any], *, token: str = ""
    ) -> None:
        self.cloud = cloud
        self.url = cloud.endpoint
        self.number = cloud.state.project_number
        self._do = do
        self._token = token
        self._clients: dict[tuple[str, str], Any] = {}

    def as_account(self, email: str) -> "ThreadedCloud":
        """The same cloud, for somebody who has a token of a service account."""
        token = f"local.{email}"
        self._do(lambda: self.cloud.iam.access.register(token, email))
        return ThreadedCloud(self.cloud, self._do, token=token)

    def enable(self, *names: str) -> None:
        """Enable APIs."""
        self._do(lambda: self.cloud.iam.services.enable(*(f"{n}.googleapis.com" for n in names)))

    @property
    def credentials(self) -> Any:
        """Those of whoever this is."""
        if self._token:
            return Credentials(token=self._token)  # type: ignore[no-untyped-call]
        return AnonymousCredentials()  # type: ignore[no-untyped-call]

    @property
    def headers(self) -> dict[str, str]:
        """Those of a request by whoever this is."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def api(self, name: str, version: str = "v1") -> Any:
        """Google's client by the discovery document."""
        if (name, version) not in self._clients:
            self._clients[name, version] = build(
                name,
                version,
                credentials=self.credentials,
                client_options={"api_endpoint": self.url},
                static_discovery=True,
                cache_discovery=False,
            )
        return self._clients[name, version]

    @property
    def accounts(self) -> Any:
        """The service accounts' methods."""
        return self.api("iam").projects().serviceAccounts()

    @property
    def projects(self) -> Any:
        """Resource Manager's methods."""
        return self.api("cloudresourcemanager").projects()

    @property
    def services(self) -> Any:
        """Service Usage's methods."""
        return self.api("serviceusage").services()

    @property
    def secrets(self) -> Any:
        """Secret Manager's methods."""
        return self.api("secretmanager").projects().secrets()

    @property
    def storage(self) -> storage.Client:
        """Cloud Storage's client."""
        return storage.Client(
            project="local",
            credentials=self.credentials,
            client_options={"api_endpoint": self.url},
        )

    def make_account(self, name: str = "mlflow-tracking-sa") -> str:
        """Make a service account; its e-mail address."""
        request = self.accounts.create(name=PROJECT, body={"accountId": name})
        return str(call(request)["email"])

    def grant(self, role: str, member: str) -> None:
        """Give a role in the project."""
        policy = call(self.projects.getIamPolicy(resource="local", body={}))
        policy["bindings"].append({"role": role, "members": [member]})
        call(self.projects.setIamPolicy(resource="local", body={"policy": policy}))


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[ThreadedCloud]:
    """A cloud in that folder, for as long as the block lasts."""
    up = threading.Event()
    made: dict[str, Any] = {}

    async def serve() -> None:
        options.setdefault("operation_seconds", 0.0)
        async with LocalCloud(folder, engine="inert", **options) as cloud:
            made.update(cloud=cloud, loop=asyncio.get_running_loop())
            up.set()
            await cloud.ending.wait()

    def do(function: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), made["loop"]).result(10)

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            up.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert up.wait(10), "the cloud did not start in time"
        assert "cloud" in made, "the cloud could not start"
        yield ThreadedCloud(made["cloud"], do)
    finally:
        if thread.is_alive():
            do(made["cloud"].ending.set)
        thread.join(20)


def call(request: Any) -> Any:
    """The reply to a request of Google's client, if the discovery document allows it."""
    reply = request.execute()
    name, _, _ = request.methodId.partition(".")
    reference = _replies(name)[request.methodId]
    _validator(name, reference).validate(reply)
    return reply


def refused(request: Any, code: int, status: str, words: str = "") -> Any:
    """The error that is the reply to a request, if it is that one."""
    with pytest.raises(HttpError) as caught:
        request.execute()
    error = json.loads(caught.value.content)["error"]
    assert (error["code"], error["status"]) == (code, status), error
    assert words in error["message"]
    return error


@functools.cache
def _document(name: str) -> Any:
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / f"{name}.v1.json").read_text())


@functools.cache
def _replies(name: str) -> dict[str, str]:
    found: dict[str, str] = {}

    def walk(resources: Any) -> None:
        for resource in resources.values():
            walk(resource.get("resources", {}))
            for method in resource.get("methods", {}).values():
                found[method["id"]] = method["response"]["$ref"]

    walk(_document(name)["resources"])
    return found


@functools.cache
def _validator(name: str, reference: str) -> jsonschema.Draft4Validator:
    definitions = {key: _strict(schema) for key, schema in _document(name)["schemas"].items()}
    return jsonschema.Draft4Validator(
        {"$ref": f"#/definitions/{reference}", "definitions": definitions}
    )


def _strict(node: Any, *, is_names: bool = False) -> Any:
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if is_names:
        return {key: _strict(item) for key, item in node.items()}
    if isinstance(node.get("$ref"), str):
        return {"$ref": f"#/definitions/{node['$ref']}"}
    kept = {
        key: _strict(item, is_names=key == "properties")
        for key, item in node.items()
        if key not in ("id", "required", "format", "pattern", "description", "annotations")
    }
    if kept.get("type") == "any":
        return {}
    if "properties" in kept:
        kept.setdefault("additionalProperties", False)
    return kept
