"""A tracking server, by the few calls that a run needs.

To an http(s) server these are plain requests of MLflow's REST API (version 2.0, "REST API" of
MLflow's documentation): importing MLflow itself takes a second or two of the training's time and
50 to 120 MB of its memory. Other stores (`sqlite:`, a folder), and ways to log in that only MLflow
knows, are reached by MLflow's own client.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from sinergym_trainer.tracking.spool import Head, Metric

METRICS_PER_REQUEST = 900
PARAMETERS_PER_REQUEST = 100
"""A request has at most 1000 members, of which 100 parameters (`runs/log-batch`)."""

_TOKEN = "sinergym.token"
_TIMEOUT = 90.0
"""Seconds for an answer. A slow server is waited for: asking again would make it slower."""

_ONLY_MLFLOW = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_WORKSPACE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The MLflow run, once it exists."""

    run_id: str
    url: str
    """Its page; of a store without a server, the store. Without user name and password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What a server knows of a run."""

    run_id: str
    experiment_id: str
    status: str
    parameters: frozenset[str]
    latest: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Step and timestamp of the last point of each metric."""

    def lacks(self, metric: Metric) -> bool:
        """Whether a point is news: points of a metric come in the order of their steps.

        So a run has all of a metric up to its last point: what an attempt that goes on from an
        earlier checkpoint logs again up to there is no news. The last point itself is, to whom
        its answer got lost; MLflow stores the same point once.
        """
        if metric.key not in self.latest:
            return True
        step, timestamp = self.latest[metric.key]
        return metric.step > step or (metric.step, metric.timestamp) == (step, timestamp)


class Server(Protocol):
    """What is asked of a tracking server. All methods raise whatever went wrong."""

    def experiment(self, name: str, artifact_location: str | None) -> str:
        """Find or make an experiment; return its id."""

    def run(self, run_id: str) -> StoredRun | None:
        """Return a run, or None if there is no such run or it was deleted."""

    def find(self, experiment_id: str, token: str) -> str | None:
        """Return the id of the run with our tag, or None."""

    def running(self, experiment_id: str, tags: Mapping[str, str]) -> list[str]:
        """Return the ids of the runs with these tags that nobody has ended."""

    def create(self, experiment_id: str, head: Head) -> str:
        """Make a run; return its id."""

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add to a run; values that are there already are accepted."""

    def update(self, run_id: str, status: str, ended: int | None = None) -> None:
        """Set a run's status."""


def connect(uri: str, before: Callable[[], None]) -> Server:
    """Make the client of a tracking server; nothing is asked yet.

    Args:
        uri: as in MLFLOW_TRACKING_URI.
        before: called before each request.
    """
    if urlsplit(uri).scheme in ("http", "https") and not _needs_mlflow():
        return _Http(uri, before)
    return _Client(uri, before)


def without_credentials(uri: str) -> str:
    """The address without user name and password, as it may be shown."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def page(uri: str, run: StoredRun) -> Run:
    """The run as others see it."""
    root = without_credentials(uri).rstrip("/")
    url = f"{root}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    return Run(run_id=run.run_id, url=url if root.startswith("http") else root)


def attach(server: Server, head: Head, *, reopen: bool, search: bool) -> StoredRun:
    """Find the head's run, or make it.

    Args:
        server: where.
        head: the run.
        reopen: set an ended run to RUNNING again, and its tags anew.
        search: the run may have been made by a request whose answer was lost.
    """
    stored = server.run(head.run_id) if head.run_id else None
    if stored is None:
        experiment_id = server.experiment(head.experiment, head.artifact_location)
        found = server.find(experiment_id, head.token) if search else None
        stored = server.run(found) if found else None
    if stored is None:
        dead = _dead(server, experiment_id, head)
        run_id = server.create(experiment_id, head)
        for each in dead:
            server.log(each, tags={"superseded-by": run_id})
            server.update(each, "KILLED", head.started)
        return StoredRun(
            run_id=run_id,
            experiment_id=experiment_id,
            status="RUNNING",
            parameters=frozenset(),
        )
    if reopen:
        if stored.status != "RUNNING":
            server.update(stored.run_id, "RUNNING")
        server.log(stored.run_id, tags=_short(head.tags))
    return stored


def _dead(server: Server, experiment_id: str, head: Head) -> list[str]:
    """Runs of this experiment's earlier attempts that died before they had a checkpoint."""
    who = {name: head.tags.get(name, "") for name in ("sweep", "experiment")}
    is_first = head.tags.get("attempt", "1") == "1"
    if is_first or not all(who.values()) or any("'" in value for value in who.values()):
        return []
    return server.running(experiment_id, who)


def next_parameters(parameters: Mapping[str, str], done: set[str]) -> dict[str, str]:
    """Return as many parameters as a request takes, of those not done yet."""
    left = [pair for pair in parameters.items() if pair[0] not in done]
    return dict(left[:PARAMETERS_PER_REQUEST])


def _are_running(tags: Mapping[str, str]) -> str:
    """A filter of MLflow's, which knows no escape: the tags' values have no quotes."""
    given = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    return " and ".join(["attributes.status = 'RUNNING'", *given])


def _needs_mlflow() -> bool:
    if any(os.environ.get(name) for name in _ONLY_MLFLOW):
        return True
    return not os.environ.get("MLFLOW_TRACKING_USERNAME") and (
        Path("~/.mlflow/credentials").expanduser().exists()
    )


def _short(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:5000] for key, value in tags.items()}


def _first_tags(head: Head) -> dict[str, str]:
    own = {"sinergym.name": head.name, _TOKEN: head.token}
    resumed = {"resumed-from": head.run_id} if head.run_id else {}
    return _short({**head.tags, **own, **resumed})


class Refused(Exception):
    """The server's answer is an error; its `code` is MLflow's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class _Http:
    """MLflow's REST API."""

    def __init__(self, uri: str, before: Callable[[], None]) -> None:
        import requests

        parts = urlsplit(uri)
        self._root = without_credentials(uri).rstrip("/") + "/api/2.0/mlflow/"
        self._before = before
        self._session = requests.Session()
        environ = os.environ
        user = environ.get("MLFLOW_TRACKING_USERNAME") or unquote(parts.username or "")
        password = environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(parts.password or "")
        if user and password:
            self._session.auth = (user, password)
        elif token := environ.get("MLFLOW_TRACKING_TOKEN"):
            self._session.headers["Authorization"] = f"Bearer {token}"
        insecure = environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
        self._session.verify = (
            False if insecure else environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
        )
        self._session.cert = environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None
        self._timeout = (10.0, float(environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or _TIMEOUT))

    def experiment(self, name: str, artifact_location: str | None) -> str:
        by_name = {"experiment_name": name}
        try:
            found = self._get("experiments/get-by-name", by_name)
        except Refused as refused:
            if refused.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            body = {"name": name}
            if artifact_location:
                body["artifact_location"] = artifact_location
            try:
                return str(self._post("experiments/create", body)["experiment_id"])
            except Refused as lost:  # another experiment of the sweep made it first
                if lost.code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._get("experiments/get-by-name", by_name)
        return str(found["experiment"]["experiment_id"])

    def run(self, run_id: str) -> StoredRun | None:
        try:
            run = self._get("runs/get", {"run_id": run_id})["run"]
        except Refused as refused:
            if refused.code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        if run["info"].get("lifecycle_stage") == "deleted":
            return None
        return StoredRun(
            run_id=run["info"]["run_id"],
            experiment_id=str(run["info"]["experiment_id"]),
            status=run["info"]["status"],
            parameters=frozenset(each["key"] for each in run["data"].get("params", ())),
            latest={
                each["key"]: (int(each.get("step", 0)), int(each["timestamp"]))
                for each in run["data"].get("metrics", ())
            },
        )

    def find(self, experiment_id: str, token: str) -> str | None:
        query = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{_TOKEN}` = '{token}'",
            "max_results": 1,
        }
        runs = self._post("runs/search", query).get("runs", ())
        return str(runs[0]["info"]["run_id"]) if runs else None

    def running(self, experiment_id: str, tags: Mapping[str, str]) -> list[str]:
        query = {"experiment_ids": [experiment_id], "filter": _are_running(tags)}
        runs = self._post("runs/search", query).get("runs", ())
        return [str(run["info"]["run_id"]) for run in runs]

    def create(self, experiment_id: str, head: Head) -> str:
        body = {
            "experiment_id": experiment_id,
            "run_name": head.name,
            "start_time": head.started,
            "tags": _pairs(_first_tags(head)),
        }
        return str(self._post("runs/create", body)["run"]["info"]["run_id"])

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        points = [
            {"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step}
            for m in metrics
        ]
        body = {
            "run_id": run_id,
            "metrics": points,
            "params": _pairs(parameters or {}),
            "tags": _pairs(tags or {}),
        }
        self._post("runs/log-batch", body)

    def update(self, run_id: str, status: str, ended: int | None = None) -> None:
        body: dict[str, Any] = {"run_id": run_id, "status": status}
        self._post("runs/update", body | ({"end_time": ended} if ended else {}))

    def _get(self, path: str, query: Mapping[str, str]) -> Any:
        return self._ask("GET", path, params=dict(query))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("POST", path, json=dict(body))

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        self._before()
        answer = self._session.request(
            method, self._root + path, timeout=self._timeout, allow_redirects=False, **how
        )
        try:
            content = answer.json()
        except ValueError:
            content = {}
        if not isinstance(content, dict):
            content = {}
        if answer.status_code != 200:
            raise Refused(
                str(content.get("error_code") or f"HTTP {answer.status_code}"),
                str(content.get("message") or self._refusal(answer)),
            )
        return content

    def _refusal(self, answer: Any) -> str:
        """What an answer says that is not MLflow's, but of what guards it."""
        if answer.status_code == 401:
            if self._session.auth:
                return "it refuses the user name and password"
            if "Authorization" in self._session.headers:
                return "it refuses the token"
            return "it wants MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        words = " ".join(answer.text[:200].split())
        if words.isprintable() and "<" not in words:  # a sentence, and no page
            return words or str(answer.reason)
        return str(answer.reason)


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


class _Client:
    """MLflow's own client, for all that is not plain http."""

    def __init__(self, uri: str, before: Callable[[], None]) -> None:
        quiet_mlflow()
        from mlflow import MlflowClient

        self._client = MlflowClient(uri)
        self._before = before

    def experiment(self, name: str, artifact_location: str | None) -> str:
        self._before()
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location))
            except Exception:  # another experiment of the sweep made it first
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def run(self, run_id: str) -> StoredRun | None:
        from mlflow.exceptions import MlflowException

        self._before()
        try:
            run = self._client.get_run(run_id)
            # Not `run.data.metrics`, which has the values alone.
            latest = {
                key: max(
                    (point.step, point.timestamp)
                    for point in self._client.get_metric_history(run_id, key)
                )
                for key in run.data.metrics
            }
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        if run.info.lifecycle_stage == "deleted":
            return None
        return StoredRun(
            run_id=run.info.run_id,
            experiment_id=str(run.info.experiment_id),
            status=run.info.status,
            parameters=frozenset(run.data.params),
            latest=latest,
        )

    def find(self, experiment_id: str, token: str) -> str | None:
        self._before()
        runs = self._client.search_runs(
            [experiment_id], f"tags.`{_TOKEN}` = '{token}'", max_results=1
        )
        return str(runs[0].info.run_id) if runs else None

    def running(self, experiment_id: str, tags: Mapping[str, str]) -> list[str]:
        self._before()
        runs = self._client.search_runs([experiment_id], _are_running(tags))
        return [str(run.info.run_id) for run in runs]

    def create(self, experiment_id: str, head: Head) -> str:
        self._before()
        run = self._client.create_run(
            experiment_id,
            start_time=head.started,
            tags=_first_tags(head),
            run_name=head.name,
        )
        return str(run.info.run_id)

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow import entities

        self._before()
        self._client.log_batch(
            run_id,
            metrics=[entities.Metric(m.key, m.value, m.timestamp, m.step) for m in metrics],
            params=[entities.Param(*pair) for pair in (parameters or {}).items()],
            tags=[entities.RunTag(*pair) for pair in (tags or {}).items()],
        )

    def update(self, run_id: str, status: str, ended: int | None = None) -> None:
        self._before()
        if ended is None:
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status, ended)


def quiet_mlflow() -> None:
    """Before MLflow is imported: no usage reports, no lines, no tries of minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "90")
    # The record and the launcher name the run; its page needs no line in every log.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
