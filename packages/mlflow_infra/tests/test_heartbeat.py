"""The sign of life of the server: its points in a local cloud's Monitoring, and what it says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gcloud_ops import signals
from mlflow_infra.serving.heartbeat import METRIC, Heartbeat

CREATE = "monitoring.projects.timeSeries.create"


@pytest.fixture(scope="module")
def shared(cloud_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One local cloud for all tests of this module."""
    started = cloud_of(tmp_path_factory.mktemp("heartbeat"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def elsewhere(shared: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of a container in that cloud, with a metadata server that gives a token."""

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Metadata-Flavor"] == "Google"
            content = json.dumps({"access_token": "of-somebody"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_address[1]}")
    yield {
        "STORAGE_EMULATOR_HOST": shared.endpoint,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING": f"{shared.endpoint}/",
    }
    server.shutdown()
    server.server_close()


def until(seen: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_metric_is_the_one_that_the_policy_watches() -> None:
    """It shares no code with the command that makes the policy."""
    assert METRIC == signals.TRACKING_SERVER_UP


def test_it_beats_only_while_mlflow_answers(
    shared: Any, elsewhere: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Silence is said once, and so is its end."""
    asked: list[bool] = []
    answers = threading.Event()

    def ask() -> bool:
        asked.append(answers.is_set())
        return asked[-1]

    shared.calls()
    with Heartbeat(shared.clients.project, ask, elsewhere, seconds=0.05):
        until(lambda: len(asked) > 3)
        assert CREATE not in shared.calls()
        answers.set()
        said = ""

        def has_said() -> bool:
            nonlocal said
            said += capfd.readouterr().out
            return "signs of life to Cloud Monitoring again" in said

        until(has_said)
    assert said.count("no sign of life to Cloud Monitoring: MLflow does not answer\n") == 1
    assert shared.calls()[CREATE] >= 1


def test_a_refusal_says_what_to_grant(
    shared: Any, elsewhere: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, and it is tried again."""
    shared.fault(CREATE, status=403, count=3)
    shared.calls()
    with Heartbeat(shared.clients.project, lambda: True, elsewhere, seconds=0.05):
        until(lambda: shared.calls().get(CREATE, 0) > 0)
        until(lambda: "roles/monitoring.metricWriter" in capfd.readouterr().out)
    shared.no_faults()


def test_a_cloud_without_monitoring_gets_none(shared: Any, elsewhere: dict[str, str]) -> None:
    """Nothing goes to Google from there."""
    del elsewhere["CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING"]
    shared.calls()
    with Heartbeat(shared.clients.project, lambda: True, elsewhere, seconds=0.01):
        assert not [one for one in threading.enumerate() if one.name == "heartbeat"]
    assert CREATE not in shared.calls()
