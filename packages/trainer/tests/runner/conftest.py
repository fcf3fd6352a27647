"""A small cloud on loopback for the runner: bucket, group and metadata servers, over real HTTP.

It is written from Google's API reference, apart from both the runner and `gcp_emulator`.
"""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from aiohttp import web

ZONE = "projects/12345/zones/europe-west1-b"
RUNNER = Path(sys.executable).parent / "sinergym-runner"


class Cloud:
    """One bucket, one group, and as many VMs as a test wants."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.states: list[str] = []
        self.calls: list[tuple[str, str, Any]] = []
        self.request_ids: list[str | None] = []
        self.failing = 0
        self.refused = 0
        self.most_at_once = 0
        self._at_once = 0
        self.upload_seconds = 0.0
        self.compute_failing = 0
        self.compute_busy = 0
        self.removed_by_another = False
        self.forbidden = False
        self.group_size: int | None = 1
        self.members: list[dict[str, str]] = []
        self.preempted = "FALSE"
        self._generation = 1000
        self._operations: dict[str, float] = {}
        self._uploads: dict[str, dict[str, Any]] = {}
        self._loop = asyncio.new_event_loop()
        self._runners: list[web.AppRunner] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.address = f"http://{self.serve(self._bucket_and_compute)}"

    def serve(self, answer: Callable[[web.Request], Any]) -> str:
        """Answer all requests at a new address of loopback; returns host and port."""

        async def start() -> str:
            app = web.Application(client_max_size=64 << 20)
            app.router.add_route("*", "/{path:.*}", answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._runners.append(runner)
            host, port = runner.addresses[0][:2]
            return f"{host}:{port}"

        return asyncio.run_coroutine_threadsafe(start(), self._loop).result(10)

    def close(self) -> None:
        """Stop all servers."""

        async def stop() -> None:
            for runner in self._runners:
                await runner.cleanup()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def put(
        self,
        name: str,
        content: bytes,
        metadata: dict[str, str] | None = None,
        *,
        seconds_ago: float = 0,
    ) -> None:
        """Put an object in, as another client of the bucket would."""
        self._generation += 1
        stored = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        self.objects[name] = {
            "generation": self._generation,
            "content": content,
            "metadata": metadata or {},
            "stored": stored.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def record(self, experiment: str = "quick-0001") -> dict[str, Any]:
        """Return an experiment's record; empty when there is none."""
        found = self.objects.get(f"quick/records/{experiment}.json")
        return json.loads(found["content"]) if found else {}

    def log(self, attempt: int = 1, experiment: str = "quick-0001") -> bytes:
        """Join the segments of a log, checking that each starts where the last one ended."""
        prefix, joined = f"quick/{experiment}/log/{attempt}/", b""
        for name in sorted(n for n in self.objects if n.startswith(prefix)):
            assert name == f"{prefix}{len(joined):012d}.log"
            joined += self.objects[name]["content"]
        return joined

    # The bucket: https://cloud.google.com/storage/docs/json_api/v1/objects

    async def _bucket_and_compute(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/compute/v1/"):
            body = await request.read()
            return self._compute(request, path.removeprefix("/compute/v1/"), body)
        body = await request.read()
        if self.failing > 0:
            self.failing -= 1
            self.refused += 1
            return _error(503, "backendError", "try again")
        if path.startswith("/upload/storage/v1/b/bucket/o"):
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            await asyncio.sleep(self.upload_seconds)
            self._at_once -= 1
            return self._upload(request, body)
        if path == "/storage/v1/b/bucket/o":
            prefix = request.query.get("prefix", "")
            names = [name for name in sorted(self.objects) if name.startswith(prefix)]
            return web.json_response(
                {
                    "kind": "storage#objects",
                    "items": [_resource(name, self.objects[name]) for name in names],
                }
            )
        name = path.partition("/b/bucket/o/")[2]
        found = self.objects.get(name)
        if found is None:
            return _error(404, "notFound", f"No such object: bucket/{name}")
        wanted = request.query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != found["generation"]:
            return _error(412, "conditionNotMet", "generation")
        if request.query.get("alt") == "media":
            return web.Response(body=found["content"])
        return web.json_response(_resource(name, found))

    def _upload(self, request: web.Request, body: bytes) -> web.StreamResponse:
        query = request.query
        if query.get("uploadType") == "multipart":
            boundary = request.headers["Content-Type"].partition("boundary=")[2].strip("\"'")
            parts = body.split(b"--" + boundary.encode())
            fields = json.loads(parts[1].partition(b"\r\n\r\n")[2])
            content = parts[2].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            return self._store(fields, content, query.get("ifGenerationMatch"))
        if request.method == "POST":
            key = str(len(self._uploads))
            self._uploads[key] = {
                "fields": {"name": query.get("name"), **json.loads(body or b"{}")},
                "content": b"",
                "match": query.get("ifGenerationMatch"),
            }
            where = f"{self.address}/upload/storage/v1/b/bucket/o?uploadType=resumable"
            return web.Response(headers={"Location": f"{where}&upload_id={key}"})
        upload = self._uploads[query["upload_id"]]
        upload["content"] += body
        total = request.headers["Content-Range"].rpartition("/")[2]
        if total == "*" or len(upload["content"]) < int(total):
            last = len(upload["content"]) - 1
            return web.Response(status=308, headers={"Range": f"bytes=0-{last}"})
        return self._store(upload["fields"], upload["content"], upload["match"])

    def _store(
        self, fields: dict[str, Any], content: bytes, match: str | None
    ) -> web.StreamResponse:
        name = fields["name"]
        now = self.objects.get(name, {}).get("generation", 0)
        if match is not None and int(match) != now:
            return _error(412, "conditionNotMet", "At least one of the pre-conditions failed")
        checksum = _checksum(content)
        if fields.get("crc32c", checksum) != checksum:
            return _error(400, "invalid", "crc32c")
        self.put(name, content, fields.get("metadata"))
        if "/records/" in name:
            self.states.append(json.loads(content)["state"])
        return web.json_response(_resource(name, self.objects[name]))

    # The group: https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers

    def _compute(self, request: web.Request, path: str, body: bytes) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer loopback":
            return _error(401, "required", "Login Required")
        if self.compute_failing > 0:
            self.compute_failing -= 1
            self.request_ids.append(request.query.get("requestId"))
            return _error(503, "backendError", "try again")
        if self.forbidden:
            return _error(403, "forbidden", "Required 'compute.instanceGroupManagers.update'")
        content = json.loads(body) if body else None
        if "/operations/" in path:
            done = time.monotonic() >= self._operations[path.rpartition("/")[2]]
            return web.json_response({"status": "DONE" if done else "RUNNING", "name": "op"})
        self.calls.append((request.method, path, content))
        self.request_ids.append(request.query.get("requestId"))
        if self.group_size is None and "/instanceGroupManagers/" in path:
            return _error(404, "notFound", "The resource was not found")
        if path.endswith("/listManagedInstances"):
            return web.json_response({"managedInstances": self.members})
        if path.endswith("/deleteInstances"):
            self._loop.call_later(0.05, self._shrink)
            return self._operation(0.08)
        if request.method == "DELETE":
            if self.compute_busy > 0:
                self.compute_busy -= 1
                if self.removed_by_another:
                    self.group_size = None
                return _error(400, "resourceInUseByAnotherResource", "being used")
            if "/instanceGroupManagers/" in path:
                self.group_size = None
            return self._operation(0)
        return web.json_response({"name": "quick", "targetSize": self.group_size})

    def _shrink(self) -> None:
        if self.group_size:
            self.group_size -= 1

    def _operation(self, seconds: float) -> web.StreamResponse:
        name = f"operation-{len(self._operations)}"
        self._operations[name] = time.monotonic() + seconds
        return web.json_response({"name": name, "status": "PENDING"})

    # The metadata server: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys

    def metadata(self, experiment: str, attributes: dict[str, str], instance_id: str) -> str:
        """Serve a VM's metadata; returns host and port."""
        values = {
            "instance/name": experiment,
            "instance/id": instance_id,
            "instance/zone": ZONE,
            "instance/service-accounts/default/token": json.dumps(
                {"access_token": "loopback", "expires_in": 3600, "token_type": "Bearer"}
            ),
            "instance/service-accounts/default/email": "trainer@local",
            "instance/service-accounts/default/": json.dumps(
                {"email": "trainer@local", "scopes": ["all"], "aliases": ["default"]}
            ),
            "project/project-id": "local",
            "universe/universe-domain": "googleapis.com",
            **{f"instance/attributes/{key}": value for key, value in attributes.items()},
        }

        async def answer(request: web.Request) -> web.StreamResponse:
            flavor = {"Metadata-Flavor": "Google"}
            path = request.path.removeprefix("/computeMetadata/v1/")
            if path == "/":
                return web.Response(headers=flavor)
            if request.headers.get("Metadata-Flavor") != "Google":
                return web.Response(status=403)
            found = self.preempted if path == "instance/preempted" else values.get(path)
            if found is None:
                return web.Response(status=404, headers=flavor)
            kind = "application/json" if found.startswith("{") else "text/plain"
            return web.Response(text=found, headers=flavor, content_type=kind)

        return self.serve(answer)


class Vm:
    """A container on a VM: the runner as a real process in a folder of its own."""

    def __init__(
        self,
        cloud: Cloud,
        folder: Path,
        experiment: str = "quick-0001",
        *,
        instance_id: str = "42",
        attributes: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        told = {
            "created-by": f"{ZONE}/instanceGroupManagers/quick",
            "sinergym-bucket": "bucket",
            "sinergym-sweep": "quick",
            "sinergym-patience": "60",
            **(attributes or {}),
        }
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "STORAGE_EMULATOR_HOST": cloud.address,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{cloud.address}/compute/v1/",
            "GCE_METADATA_HOST": cloud.metadata(experiment, told, instance_id),
            "SINERGYM_SYNC_SECONDS": "0.2",
            "SINERGYM_HEARTBEAT_SECONDS": "0.2",
            "SINERGYM_RECORD_SECONDS": "0.05",
            **(environment or {}),
        }
        self._out = (folder / "stdout").open("wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [RUNNER],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> bytes:
        """All that the container has printed."""
        return (self.folder / "stdout").read_bytes()

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Hand it a command, as `docker exec` does: in its folder and environment."""
        return subprocess.run(
            [RUNNER, "submit", "--", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def start(self, *words: str) -> None:
        """Wait until the runner waits, and hand it a command."""
        self.says("waiting for a command")
        answer = self.submit(*words)
        assert answer.returncode == 0, answer

    def says(self, text: str) -> None:
        """Wait until the container has printed a text."""
        eventually(lambda: text.encode() in self.output, f"{text!r} in the output", self)

    def ends(self, seconds: float = 30) -> int:
        """Wait for the end of the container; returns its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output.decode()}") from None

    def stop(self) -> None:
        """Tell the container to stop."""
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the process, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._out.close()


def eventually[Found](
    look: Callable[[], Found], what: str, vm: Vm | None = None, seconds: float = 20
) -> Found:
    """Return what `look` finds as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    printed = f"; it printed:\n{vm.output.decode()}" if vm else ""
    raise AssertionError(f"no {what} within {seconds} s{printed}")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A cloud for one test."""
    it = Cloud()
    yield it
    it.close()


@pytest.fixture
def new_vm(cloud: Cloud, tmp_path: Path) -> Iterator[Callable[..., Vm]]:
    """Start VMs that are gone after the test."""
    started: list[Vm] = []

    def start(experiment: str = "quick-0001", **options: Any) -> Vm:
        folder = tmp_path / f"vm{len(started)}"
        started.append(Vm(cloud, folder, experiment, **options))
        return started[-1]

    yield start
    for vm in started:
        vm.close()


def _resource(name: str, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "name": name,
        "bucket": "bucket",
        "generation": str(found["generation"]),
        "metageneration": "1",
        "timeCreated": found["stored"],
        "updated": found["stored"],
        "size": str(len(found["content"])),
        "crc32c": _checksum(found["content"]),
        "metadata": found["metadata"],
    }


def _checksum(content: bytes) -> str:
    return base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()


def _error(code: int, reason: str, message: str) -> web.Response:
    detail = [{"reason": reason, "message": message}]
    return web.json_response(
        {"error": {"code": code, "message": message, "errors": detail}}, status=code
    )
