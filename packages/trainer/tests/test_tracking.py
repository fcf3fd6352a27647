"""MLflow: what arrives, and what happens when the server is away."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sinergym_trainer.tracking import Tracker


def make_tracker(
    uri: str, unsent: Path, *, name: str = "a run", patience: float = 30.0
) -> "Tracker":
    """A tracker of a small run; imported here, as it takes seconds that the fast tests spare."""
    from sinergym_trainer.tracking import Tracker

    return Tracker(
        uri=uri,
        experiment="tracking",
        name=name,
        tags={"sweep": "tracking"},
        parameters={"algorithm": "PPO"},
        unsent=unsent,
        patience=patience,
    )


@contextmanager
def forwarder(port: int, to: int) -> Iterator[None]:
    """A port that begins to answer now, by another one's answers."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(65536):
                sink.sendall(chunk)
        except OSError:
            pass
        finally:
            sink.close()

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", to))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    listener = socket.create_server(("127.0.0.1", port))
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.close()


@pytest.mark.slow
def test_a_server_that_comes_late_gets_everything(
    mlflow_server: str, free_port: int, until: Callable[..., Any], tmp_path: Path
) -> None:
    """Metrics wait in memory, unsafe names are made safe, and what is no number is left out."""
    from mlflow import MlflowClient

    port = free_port
    tracker = make_tracker(f"http://127.0.0.1:{port}", tmp_path / "unsent", name="late")
    for step in range(1500):
        tracker.log({"a(b)%": step, "nan": float("nan"), "text": "no"}, step)  # type: ignore[dict-item]
    until(lambda: tracker.problem, 30)
    with forwarder(port, int(mlflow_server.rsplit(":", 1)[1])):
        run = until(lambda: tracker.run, 60)
        left = tracker.close()

    assert left == 0
    assert not (tmp_path / "unsent").exists()
    client = MlflowClient(mlflow_server)
    history = client.get_metric_history(run.run_id, "a_b__")
    assert [metric.step for metric in history] == list(range(1500))
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics.keys() == {"a_b__"}


@pytest.mark.slow
def test_a_server_that_never_answers_costs_no_metric(
    free_port: int, until: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Handing over is instant, the end comes soon, and the file has everything."""
    uri = f"http://127.0.0.1:{free_port}"
    tracker = make_tracker(uri, tmp_path / "unsent.jsonl", patience=3)
    until(lambda: tracker.problem, 30)
    before = time.monotonic()
    for step in range(5000):
        tracker.log({"reward": -step}, step)
    handing_over = time.monotonic() - before
    left = tracker.close(status="KILLED")
    head, *lines = map(json.loads, (tmp_path / "unsent.jsonl").read_text().splitlines())

    assert handing_over < 1
    assert time.monotonic() - before < 8
    assert left == len(lines) == 5000
    assert (head["name"], head["status"], head["run_id"]) == ("a run", "KILLED", None)
    assert lines[-1] | {"timestamp": 0} == {
        "key": "reward",
        "value": -4999.0,
        "timestamp": 0,
        "step": 4999,
    }
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "5000 metrics not sent" in said
