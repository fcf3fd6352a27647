"""Google's clients of Cloud Monitoring, over gRPC and over REST, and places to deliver to."""

import asyncio
import functools
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import googleapiclient
import grpc
import jsonschema
from google.cloud import monitoring_v3

from .iam_cloud import PROJECT, ThreadedCloud, _strict

METRIC = "custom.googleapis.com/sinergym/experiment_finished"


class Clients:
    """Google's clients of a cloud's Monitoring, for whoever a cloud is seen by."""

    def __init__(self, cloud: ThreadedCloud) -> None:
        self.cloud = cloud
        channel = grpc.insecure_channel(cloud.cloud.grpc_endpoint)
        self._channel = grpc.intercept_channel(channel, _Authorized(cloud.headers))
        self.close = channel.close

    @functools.cached_property
    def metrics(self) -> Any:
        """The client of MetricService."""
        return self._client(monitoring_v3.MetricServiceClient)

    @functools.cached_property
    def policies(self) -> Any:
        """The client of AlertPolicyService."""
        return self._client(monitoring_v3.AlertPolicyServiceClient)

    @functools.cached_property
    def channels(self) -> Any:
        """The client of NotificationChannelService."""
        return self._client(monitoring_v3.NotificationChannelServiceClient)

    @property
    def rest(self) -> Any:
        """The projects' methods, by the discovery document."""
        return self.cloud.api("monitoring", "v3").projects()

    def write(self, *, metric: str = METRIC, age: float = 0.0, **labels: Any) -> None:
        """Write one point, 1."""
        self.metrics.create_time_series(
            name=PROJECT, time_series=[point(metric=metric, age=age, **labels)]
        )

    def webhook(self, url: str, **more: Any) -> Any:
        """Make a channel that posts to a URL."""
        wanted = {"type_": "webhook_tokenauth", "labels": {"url": url}, **more}
        return self.channels.create_notification_channel(
            name=PROJECT, notification_channel=monitoring_v3.NotificationChannel(wanted)
        )

    def policy(self, *channels: Any, **more: Any) -> Any:
        """Make a policy."""
        return self.policies.create_alert_policy(
            name=PROJECT,
            alert_policy=policy(notification_channels=[c.name for c in channels], **more),
        )

    @property
    def inbox(self) -> list[Any]:
        """What was sent."""
        return self.cloud.cloud._monitoring.inbox

    def _client(self, kind: Any) -> Any:
        return kind(transport=kind.get_transport_class("grpc")(channel=self._channel))


class _Authorized(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Adds to calls who makes them."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = [(key.lower(), value) for key, value in headers.items()]

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or []), *self._headers]
        return continuation(details._replace(metadata=metadata), request)


def checked(request: Any) -> Any:
    """The reply to a REST request of Google's client, if the discovery document allows it."""
    reply = request.execute()
    document = _document()
    reference = _replies()[request.methodId]
    definitions = {key: _strict(schema) for key, schema in document["schemas"].items()}
    schema = {"$ref": f"#/definitions/{reference}", "definitions": definitions}
    jsonschema.Draft4Validator(schema).validate(reply)
    return reply


@functools.cache
def _document() -> Any:
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / "monitoring.v3.json").read_text())


@functools.cache
def _replies() -> dict[str, str]:
    found: dict[str, str] = {}

    def walk(resources: Any) -> None:
        for resource in resources.values():
            walk(resource.get("resources", {}))
            for method in resource.get("methods", {}).values():
                found[method["id"]] = method["response"]["$ref"]

    walk(_document()["resources"])
    return found


def point(
    *, metric: str = METRIC, age: float = 0.0, value: int = 1, **labels: Any
) -> monitoring_v3.TimeSeries:
    """A series with one point."""
    moment = time.time() - age
    end = {"seconds": int(moment), "nanos": int(moment % 1 * 1e6) * 1000}
    return monitoring_v3.TimeSeries(
        {
            "metric": {"type": metric, "labels": labels},
            "resource": {"type": "global", "labels": {"project_id": "local"}},
            "points": [{"interval": {"end_time": end}, "value": {"int64_value": value}}],
        }
    )


def condition(
    text: str = "", *, name: str = "over", metric: str = METRIC, **more: Any
) -> dict[str, Any]:
    """A condition that any point violates."""
    threshold = {
        "filter": f'metric.type="{metric}" AND resource.type="global"{text}',
        "comparison": "COMPARISON_GT",
        "threshold_value": 0.0,
        "duration": {"seconds": 0},
        "trigger": {"count": 1},
        "aggregations": [{"alignment_period": {"seconds": 60}, "per_series_aligner": "ALIGN_MAX"}],
        **more,
    }
    return {"display_name": name, "condition_threshold": threshold}


def policy(*conditions: Any, **more: Any) -> monitoring_v3.AlertPolicy:
    """A policy that tells of what opens only."""
    return monitoring_v3.AlertPolicy(
        {
            "display_name": "finished",
            "combiner": "OR",
            "conditions": list(conditions) or [condition()],
            "alert_strategy": {
                "auto_close": {"seconds": 1800},
                "notification_prompts": ["OPENED"],
            },
            **more,
        }
    )


def eventually(look: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `look` gives as soon as it is something true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


@dataclass
class Sink:
    """A server that remembers what was posted to it."""

    url: str = ""
    posts: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    """Path, headers and JSON of each request."""
    answers: list[int] = field(default_factory=list)
    """The statuses of the next answers; then 200."""


@contextmanager
def webhook_sink() -> Iterator[Sink]:
    """An HTTP server for webhooks, for as long as the block lasts."""
    sink = Sink()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            sink.posts.append((self.path, dict(self.headers), json.loads(content)))
            self.send_response(sink.answers.pop(0) if sink.answers else 200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing of it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    sink.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class MailSink:
    """An SMTP server that remembers what it took."""

    port: int = 0
    mails: list[tuple[str, str]] = field(default_factory=list)
    """Recipient and message."""
    refusals: list[str] = field(default_factory=list)
    """What is answered to the next recipients; then 250."""


@contextmanager
def mail_sink() -> Iterator[MailSink]:
    """An SMTP server, for as long as the block lasts."""
    sink = MailSink()
    up, end = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        to = ""
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                to = line.decode().partition("<")[2].partition(">")[0]
                answer = sink.refusals.pop(0) if sink.refusals else "250 yes"
                writer.write(answer.encode() + b"\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                text = await reader.readuntil(b"\r\n.\r\n")
                sink.mails.append((to, text.decode()))
                writer.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 yes\r\n")
        writer.close()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        sink.port = server.sockets[0].getsockname()[1]
        up.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield sink
    finally:
        loops[0].call_soon_threadsafe(end.set)
        thread.join(5)
