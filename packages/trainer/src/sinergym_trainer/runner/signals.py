"""The signal of an end: points of two custom metrics in Cloud Monitoring (`docs/contract.md`, 8).

Pure functions say what is in a point; `Metrics` writes it. The client of Monitoring costs half a
second and 60 MB: it is imported when there is something to write, at the end of an experiment.

Monitoring leaves a label out of messages whose value begins with anything but a letter, a digit,
`/` or `=` (https://cloud.google.com/monitoring/alerts/doc-variables): a reward, often negative,
and a hint, which may be another program's words, begin with what they are.

Reference: https://cloud.google.com/monitoring/custom-metrics/creating-metrics
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import Any

from sinergym_trainer.errors import one_line
from sinergym_trainer.runner.record import Json, is_final

EXPERIMENT_FINISHED = "custom.googleapis.com/sinergym/experiment_finished"
SWEEP_FINISHED = "custom.googleapis.com/sinergym/sweep_finished"
HINT_LENGTH = 200
"""Characters; Monitoring takes labels of 1024 bytes."""

_SERIES_AT_ONCE = 200  # of one call, at most (https://cloud.google.com/monitoring/quotas)
_CALL_SECONDS = 5.0


def experiment_labels(record: Mapping[str, Any], *, each: bool) -> dict[str, str] | None:
    """Return the labels of `experiment_finished` for a final record.

    Args:
        record: the record's JSON.
        each: whether the sweep has each experiment announced.

    Returns:
        None for what is not announced: it was cancelled, or has not ended.
    """
    end = _mapping(record.get("exit"))
    status = _status(record, end)
    if status is None:
        return None
    return {
        "sweep": str(record.get("sweep")),
        "experiment": str(record.get("experiment")),
        "status": status,
        "kind": _printable(end.get("kind")),
        "notify": "each" if each else "sweep",
        "duration": duration(_time(record.get("started")), _time(record.get("ended"))),
        "mean_reward": reward(_mapping(record.get("progress")).get("mean_reward")),
        "hint": hint(end.get("hint")),
    }


def sweep_labels(
    manifest: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the labels of `sweep_finished`, given the final records of all its experiments."""
    ended = list(records)
    good = [record for record in ended if record.get("state") == "finished"]
    times = [found for record in ended if (found := _time(record.get("ended"))) is not None]
    rewards = [_number(_mapping(record.get("progress")).get("mean_reward")) for record in good]
    return {
        "sweep": str(manifest.get("sweep")),
        "status": "finished" if len(good) == len(ended) else "failed",
        "experiments": str(len(ended)),
        "failed": str(len(ended) - len(good)),
        "duration": duration(_time(manifest.get("created")), max(times, default=None)),
        "best_reward": reward(
            max((one for one in rewards if one is not None), default=None), "best mean reward"
        ),
    }


def duration(begin: datetime | None, end: datetime | None) -> str:
    """Return a time as people say it, such as `1 h 12 min`; "" when it is not known."""
    if begin is None or end is None:
        return ""
    seconds = max(0, round((end - begin) / timedelta(seconds=1)))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 1:
        return f"{seconds} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def reward(value: object, name: str = "mean reward") -> str:
    """Return a reward as text, after its name: two decimals, or three digits of a small one."""
    found = _number(value)
    if found is None:
        return "no mean reward"
    return f"{name} {found:.2f}" if abs(found) >= 1 or found == 0 else f"{name} {found:.3g}"


def hint(value: object) -> str:
    """Return a hint as a label: one printable line, cut; "" for none."""
    line = _printable(value)
    return f"hint: {line}" if line else ""


def is_available(environment: Mapping[str, str]) -> bool:
    """Say whether this cloud has a Monitoring: Google's has, another one says where."""
    elsewhere = environment.get("STORAGE_EMULATOR_HOST")
    return not elsewhere or bool(environment.get("MONITORING_EMULATOR_HOST"))


class NotWritten(Exception):
    """Monitoring did not take the points; the text says why, in one line."""


class Metrics:
    """Writes points, trying again while that can help.

    Args:
        project: the project's id.
        environment: `MONITORING_EMULATOR_HOST` says where Monitoring is, if not at Google.
        give_up: becomes true when there is no more time; asked between two tries.
        say: prints a line.
    """

    def __init__(
        self,
        project: str | None,
        environment: Mapping[str, str],
        *,
        give_up: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._project = project
        self._environment = environment
        self._give_up = give_up
        self._say = say
        self._client: Any = None

    def write(self, metric: str, series: Sequence[Mapping[str, str]]) -> None:
        """Write one point, 1 and now, for each of these sets of labels.

        Raises:
            NotWritten: Monitoring has refused, or did not answer in time.
        """
        if self._project is None:
            raise NotWritten("it is not known in which project this is")
        for some in batched(series, _SERIES_AT_ONCE):
            self._write(metric, some)

    def _write(self, metric: str, series: Sequence[Mapping[str, str]]) -> None:
        delay, unsure = 0.5, False
        while True:
            try:
                self._send(metric, series)
            except Exception as error:
                problem = one_line(error)
                if unsure and _code(error) == 400:
                    # A try whose answer got lost has written it: it does not take two so soon.
                    return
                if not _is_passing(error):
                    raise NotWritten(_advice(error) or problem) from error
                if not unsure:
                    self._say(f"Monitoring does not take it yet, trying again: {problem}")
                unsure = True
            else:
                return
            until = time.monotonic() + delay * random.uniform(0.75, 1.25)  # noqa: S311 - spreads
            while time.monotonic() < until:
                if self._give_up():
                    raise NotWritten(f"no time left; the last answer: {problem}")
                time.sleep(0.1)
            delay = min(delay * 2, 10.0)

    def _send(self, metric: str, series: Sequence[Mapping[str, str]]) -> None:
        # The time of each try: what comes late may not be looked at by a policy any more.
        now = time.time()
        interval = {"end_time": {"seconds": int(now), "nanos": int(now % 1 * 1e6) * 1000}}
        resource = {"type": "global", "labels": {"project_id": self._project}}
        self._connected().create_time_series(
            request={
                "name": f"projects/{self._project}",
                "time_series": [
                    {
                        "metric": {"type": metric, "labels": dict(labels)},
                        "resource": resource,
                        "metric_kind": "GAUGE",
                        "value_type": "INT64",
                        "unit": "1",
                        "points": [{"interval": interval, "value": {"int64_value": 1}}],
                    }
                    for labels in series
                ],
            },
            retry=None,
            timeout=_CALL_SECONDS,
        )

    def _connected(self) -> Any:
        if self._client is None:
            # Its own words on stderr would be in the experiment's log.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from google.cloud import monitoring_v3

            client: Any = monitoring_v3.MetricServiceClient
            if address := self._environment.get("MONITORING_EMULATOR_HOST"):
                import grpc

                options = [("grpc.enable_http_proxy", 0)]
                channel = grpc.insecure_channel(address, options=options)
                transport = client.get_transport_class("grpc")(channel=channel)
                self._client = client(transport=transport)
            else:
                self._client = client()
        return self._client


def _is_passing(error: Exception) -> bool:
    # google.api_core's errors say the status of HTTP that fits; 499 is a call that was cut.
    code = _code(error)
    return code in {408, 409, 429, 499} or (code is not None and code >= 500 and code != 501)


def _code(error: Exception) -> int | None:
    code = getattr(error, "code", None)
    return int(code) if isinstance(code, int) else None


def _advice(error: Exception) -> str | None:
    if _code(error) in {401, 403}:
        return (
            "the VM's service account needs roles/monitoring.metricWriter, the scope"
            f" monitoring.write, and the API monitoring.googleapis.com ({one_line(error)})"[:300]
        )
    return None


def _status(record: Mapping[str, Any], end: Mapping[str, Any]) -> str | None:
    state = record.get("state")
    if not is_final(record) or state == "cancelled":
        return None
    if state == "finished":
        return "finished"
    return "lost" if end.get("kind") == "lost" else "failed"


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -1e18 < value < 1e18 else None  # not so for NaN


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def _printable(value: object) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return "".join(sign for sign in text if sign.isprintable())[:HINT_LENGTH]
