"""Metrics to MLflow, at no cost to the training.

A training hands its metrics over in memory and goes on. One background thread owns the client: it
imports MLflow (seconds), connects, makes the experiment and the run, and sends what has come, at
most one request a second. While the server is away it tries again, ever more slowly. What it could
not send by the end is kept in a file.
"""

import contextlib
import json
import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter

METRICS_PER_REQUEST = 1000
PARAMETERS_PER_REQUEST = 100
"""Limits of MLflow's `runs/log-batch` (REST API reference of MLflow)."""

_SECONDS_BETWEEN_REQUESTS = 1.0
_LONGEST_PAUSE = 30.0
_HOPELESS = 5.0
_ARTIFACTS = 300.0
_THINNED = ("train/", "rollout/", "time/")
_UNSAFE = re.compile(r"[^\w\-. /]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One value of one metric; `timestamp` in milliseconds, `step` in timesteps of training."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The MLflow run, once it exists."""

    run_id: str
    url: str


class Tracker:
    """An MLflow run that is written from a background thread.

    Args:
        uri: the tracking server's.
        experiment: MLflow experiment; made when missing.
        name: the run's name.
        tags: the run's tags.
        parameters: the run's parameters.
        unsent: the file that keeps what could not be sent, one JSON object a line.
        artifact_location: where a new experiment keeps artifacts, when not the server's default.
        patience: seconds that `close` waits for what is left to be sent.
        hurried: true when little time is left: `close` waits a third of that at most.
    """

    def __init__(
        self,
        *,
        uri: str,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, object],
        unsent: Path,
        artifact_location: str | None = None,
        patience: float = 30.0,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self._uri = uri
        self._experiment = experiment
        self._name = name
        self._tags = dict(tags)
        self._parameters = {key: str(value) for key, value in parameters.items()}
        self._unsent = unsent
        self._artifact_location = artifact_location
        self._patience = patience
        self._hurried = hurried
        self._queue: deque[Metric] = deque()
        self._sending: list[Metric] = []
        self._closing = threading.Event()
        self._status = "FINISHED"
        self._artifacts: list[Path] = []
        self._failures = 0
        self._client: Any = None
        self._run: Run | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run(self) -> Run | None:
        """The run, or None while the server has not answered yet."""
        return self._run

    @property
    def problem(self) -> str:
        """What went wrong last, or an empty text."""
        return self._problem

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics for sending; returns at once. All but finite numbers is left out."""
        now = time.time_ns() // 1_000_000
        for key, value in metrics.items():
            number = _number(value)
            if number is not None:
                name = _UNSAFE.sub("_", key)
                self._queue.append(Metric(key=name, value=number, timestamp=now, step=step))

    def close(self, *, status: str = "FINISHED", artifacts: list[Path] | None = None) -> int:
        """Send what is left, end the run, and return how many metrics could not be sent.

        Waits `patience` seconds at most, or a few when the server has never answered. What is left
        is written to the file `unsent`, with a line on standard error.
        """
        self._status = status
        self._artifacts = artifacts or []
        self._closing.set()
        patience = self._patience / 3 if self._hurried() else self._patience
        if self._artifacts and self._run and not self._hurried():
            patience += _ARTIFACTS
        deadline = time.monotonic() + patience
        hopeless = time.monotonic() + min(_HOPELESS, patience)
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._failures and self._run is None and time.monotonic() > hopeless:
                break
            self._thread.join(0.1)
        left = [*self._sending, *self._queue]
        if self._thread.is_alive() or left:
            self._keep(left)
        return len(left)

    # The background thread, from here on.

    def _work(self) -> None:
        pause = 0.0
        while True:
            self._closing.wait(pause)
            try:
                run = self._run = self._run or self._connect()
                sent = self._send(run)
            except Exception as error:  # whatever MLflow raises: training must not notice
                self._problem = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                self._failures += 1
                pause = min(
                    _LONGEST_PAUSE, _SECONDS_BETWEEN_REQUESTS * 2 ** min(self._failures, 6)
                )
                if self._closing.is_set():
                    time.sleep(min(pause, 2.0))
                continue
            self._failures = 0
            pause = _SECONDS_BETWEEN_REQUESTS
            if self._closing.is_set() and not self._queue:
                if self._end(run):
                    return
            elif self._closing.is_set() and sent:
                time.sleep(0.05)

    def _connect(self) -> Run:
        # Our own pauses are between tries: MLflow's would hold a request for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # The record and the launcher name the run; its page needs no line in every log.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(self._uri)
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                id_ = client.create_experiment(self._experiment, self._artifact_location)
            except Exception:  # another experiment of the sweep made it first
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        if found is not None:
            id_ = found.experiment_id
        run_id = self._find_own(client, id_) if self._failures else None
        if run_id is None:
            tags = {**self._tags, "sinergym.name": self._name}
            run_id = client.create_run(id_, tags=tags, run_name=self._name).info.run_id
        params = [Param(key, value[:6000]) for key, value in self._parameters.items()]
        for start in range(0, len(params), PARAMETERS_PER_REQUEST):
            client.log_batch(run_id, params=params[start : start + PARAMETERS_PER_REQUEST])
        self._client = client
        root = self._uri.rstrip("/")
        url = f"{root}/#/experiments/{id_}/runs/{run_id}" if root.startswith("http") else root
        return Run(run_id=run_id, url=url)

    def _find_own(self, client: Any, experiment_id: str) -> str | None:
        """The run of an earlier try whose answer was lost."""
        name = self._name.replace("'", "")
        runs = client.search_runs(
            [experiment_id], f"tags.`sinergym.name` = '{name}'", max_results=1
        )
        return runs[0].info.run_id if runs else None

    def _send(self, run: Run) -> bool:
        from mlflow.entities import Metric as MlflowMetric

        if not self._sending:
            while self._queue and len(self._sending) < METRICS_PER_REQUEST:
                self._sending.append(self._queue.popleft())
        if not self._sending:
            return False
        metrics = [MlflowMetric(m.key, m.value, m.timestamp, m.step) for m in self._sending]
        self._client.log_batch(run.run_id, metrics=metrics)
        self._sending = []
        return True

    def _end(self, run: Run) -> bool:
        """Store the artifacts and end the run; False when that has to be tried again."""
        try:
            while self._artifacts:
                path = self._artifacts[0]
                if path.is_dir():
                    self._client.log_artifacts(run.run_id, str(path), path.name)
                else:
                    self._client.log_artifact(run.run_id, str(path))
                self._artifacts.pop(0)
            self._client.set_terminated(run.run_id, self._status)
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            time.sleep(1.0)
            return False
        return True

    # In the caller's thread again.

    def _keep(self, left: list[Metric]) -> None:
        head = {
            "run_id": self._run.run_id if self._run else None,
            "experiment": self._experiment,
            "name": self._name,
            "status": self._status,
            "tags": self._tags,
            "parameters": self._parameters,
        }
        with contextlib.suppress(OSError), self._unsent.open("w", encoding="utf-8") as file:
            for line in (head, *map(asdict, left)):
                file.write(json.dumps(line) + "\n")
        why = self._problem or "it did not answer in time"
        print(  # noqa: T201
            f"sinergym-train: warning: {len(left)} metrics not sent to MLflow at {self._uri}"
            f" ({why});"
            f" they are in {self._unsent}",
            file=sys.stderr,
        )


class MlflowWriter(KVWriter):
    """Stable-Baselines3's logger, to a tracker.

    Training metrics that come more often than once a second are thinned, each key to one value a
    second; those of episodes and evaluations are all sent.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._next: dict[str, float] = {}

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Hand the values on; those excluded from `mlflow` are left out."""
        now = time.monotonic()
        metrics: dict[str, float] = {}
        for key, value in key_values.items():
            if "mlflow" in (key_excluded.get(key) or ()):
                continue
            if key.startswith(_THINNED):
                if now < self._next.get(key, 0.0):
                    continue
                self._next[key] = now + _SECONDS_BETWEEN_REQUESTS
            metrics[key] = value
        self._tracker.log(metrics, step)

    def close(self) -> None:
        """Nothing to do: the tracker is closed by the training, which knows how it ended."""


def _number(value: Any) -> float | None:
    """A finite number, from Python's, NumPy's or PyTorch's; None for all else."""
    if isinstance(value, str | bytes | bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
