"""The server's sign of life: a point a minute in Cloud Monitoring, as long as MLflow answers.

When the points stay away, the policy "Sinergym: tracking server down" of `gcloud-ops alerts
policies setup` tells people (docs/contract.md, section 8). They are written over REST
(https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries/create): one point a
minute is not worth gRPC in the image.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Self

import requests

from mlflow_infra.serving.cloud import TIMEOUT, StartError, access_token
from mlflow_infra.serving.processes import say

__all__ = ["METRIC", "Heartbeat"]

METRIC: Final = "custom.googleapis.com/sinergym/tracking_server_up"
"""Its type: GAUGE, INT64, unit 1, no labels."""

_JOIN_SECONDS = 1.0


class Heartbeat:
    """Writes points on a thread of its own; trouble is said once, and ends nothing.

    Args:
        project: The project's id.
        answers: Whether MLflow answers; asked before each point.
        environment: `CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING` says where Monitoring is, if
            not at Google; another cloud may have none.
        seconds: Between two points; Monitoring takes one every 5 seconds of a series.
    """

    def __init__(
        self,
        project: str,
        answers: Callable[[], bool],
        environment: Mapping[str, str],
        *,
        seconds: float = 60.0,
    ) -> None:
        self._project = project
        self._answers = answers
        self._endpoint = _endpoint(environment)
        self._seconds = seconds
        self._stop = threading.Event()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Begin, with the first point at once."""
        if self._endpoint is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; a point that is under way is not waited for."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while True:
            problem = self._beat() if self._answers() else "MLflow does not answer"
            if problem and problem != self._problem:
                say(f"no sign of life to Cloud Monitoring: {problem}")
            elif self._problem and not problem:
                say("signs of life to Cloud Monitoring again")
            self._problem = problem
            if self._stop.wait(self._seconds):
                return

    def _beat(self) -> str:
        """Write a point; returns what was wrong, in a line, or ""."""
        url = f"{self._endpoint}/v3/projects/{self._project}/timeSeries"
        try:
            with requests.Session() as session:
                session.headers["Authorization"] = f"Bearer {access_token()}"
                answer = session.post(url, json=self._point(), timeout=TIMEOUT)
        except StartError as error:
            return str(error)
        except (requests.RequestException, ValueError) as error:
            return f"it does not answer ({type(error).__name__})"
        if answer.status_code in (401, 403):
            return (
                f"it answers {answer.status_code}; grant roles/monitoring.metricWriter to the "
                "VM's service account, and enable monitoring.googleapis.com (`mlflow-infra up` "
                "does both)"
            )
        return "" if answer.ok else f"it answers {answer.status_code}"

    def _point(self) -> dict[str, object]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        series = {
            "metric": {"type": METRIC, "labels": {}},
            "resource": {"type": "global", "labels": {"project_id": self._project}},
            "metricKind": "GAUGE",
            "valueType": "INT64",
            "unit": "1",
            "points": [{"interval": {"endTime": now}, "value": {"int64Value": "1"}}],
        }
        return {"timeSeries": [series]}


def _endpoint(environment: Mapping[str, str]) -> str | None:
    """Where Monitoring is; None on a cloud that has none."""
    elsewhere = environment.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING")
    if not elsewhere and environment.get("STORAGE_EMULATOR_HOST"):
        return None
    return (elsewhere or "https://monitoring.googleapis.com/").rstrip("/")
