"""The signal of an end: points of two custom metrics in Cloud Monitoring (docs/contract.md, 8).

The runner has the same labels in its own words. Policies make messages of the points: `alerts`.
Monitoring leaves a label out of messages whose value begins with anything but a letter, a digit,
`/` or `=` (https://cloud.google.com/monitoring/alerts/doc-variables): a reward, often negative,
and a hint, which may be another program's words, begin with what they are.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import batched
from typing import Final

from gcloud_ops.clients import Clients, translate
from gcloud_ops.contract import Manifest, Record
from gcloud_ops.errors import InvalidRequest, Unavailable

__all__ = [
    "EXPERIMENT_FINISHED",
    "HINT_LENGTH",
    "PATIENCE",
    "SWEEP_FINISHED",
    "TRACKING_SERVER_UP",
    "duration",
    "experiment_labels",
    "hint",
    "reward",
    "sweep_labels",
    "write_points",
]

EXPERIMENT_FINISHED: Final = "custom.googleapis.com/sinergym/experiment_finished"
SWEEP_FINISHED: Final = "custom.googleapis.com/sinergym/sweep_finished"
"""Types of the metrics: GAUGE, INT64, unit 1."""

TRACKING_SERVER_UP: Final = "custom.googleapis.com/sinergym/tracking_server_up"
"""Of the same form, and without labels; written by the tracking server, once a minute."""

HINT_LENGTH: Final = 200
"""Characters; Monitoring takes labels of 1024 bytes."""

PATIENCE: Final = 90.0
"""Seconds to try: Monitoring may be away for a minute."""

_SERIES_AT_ONCE: Final = 200  # of one call, at most (https://cloud.google.com/monitoring/quotas)
_CALL_SECONDS: Final = 10.0


def experiment_labels(manifest: Manifest, record: Record) -> dict[str, str] | None:
    """The labels of `experiment_finished`; None for what is not announced.

    That is an experiment that was cancelled, or has not ended.
    """
    if not record.is_final or record.state == "cancelled":
        return None
    kind = record.exit.kind if record.exit else ""
    status = "lost" if kind == "lost" else "failed"
    return {
        "sweep": manifest.sweep,
        "experiment": record.experiment,
        "status": "finished" if record.state == "finished" else status,
        "kind": kind,
        "notify": "each" if manifest.alert_each else "sweep",
        "duration": duration(record.started, record.ended),
        "mean_reward": reward(record.progress.mean_reward),
        "hint": hint(record.exit.hint if record.exit else ""),
    }


def sweep_labels(manifest: Manifest, records: Iterable[Record]) -> dict[str, str]:
    """The labels of `sweep_finished`, given the final records of all experiments."""
    ended = list(records)
    good = [record for record in ended if record.state == "finished"]
    rewards = [one.progress.mean_reward for one in good if one.progress.mean_reward is not None]
    last = max((record.ended for record in ended if record.ended is not None), default=None)
    return {
        "sweep": manifest.sweep,
        "status": "finished" if len(good) == len(ended) else "failed",
        "experiments": str(len(ended)),
        "failed": str(len(ended) - len(good)),
        "duration": duration(manifest.created, last),
        "best_reward": reward(max(rewards, default=None), "best mean reward"),
    }


def duration(begin: datetime | None, end: datetime | None) -> str:
    """A time as people say it, such as `1 h 12 min`; "" when it is not known."""
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


def reward(value: float | None, name: str = "mean reward") -> str:
    """A reward as text, after its name: two decimals, or three digits of a small one."""
    if value is None:
        return "no mean reward"
    return f"{name} {value:.2f}" if abs(value) >= 1 or value == 0 else f"{name} {value:.3g}"


def hint(text: str) -> str:
    """A hint as a label: one printable line, cut; "" for none."""
    line = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())[:HINT_LENGTH]
    return f"hint: {line}" if line else ""


def write_points(
    clients: Clients,
    metric: str,
    series: Sequence[Mapping[str, str]],
    *,
    patience: float = PATIENCE,
    stop: threading.Event | None = None,
) -> None:
    """Write one point, 1 and now, for each of these sets of labels.

    While Monitoring is not available it is tried again.

    Args:
        clients: The cloud.
        metric: Its type.
        series: The labels of each series.
        patience: Seconds to try, at least once.
        stop: Set it to give up earlier.

    Raises:
        GcloudOpsError: What Monitoring said at last: `PermissionDenied`, `Unavailable`...
    """
    stop, deadline = stop or threading.Event(), time.monotonic() + patience
    for some in batched(series, _SERIES_AT_ONCE):
        delay, unsure = 0.5, False
        while True:
            try:
                with translate(f"metric {metric.rpartition('/')[2]}"):
                    _send(clients, metric, some)
                break
            except InvalidRequest:
                # A try whose answer got lost has written it: it does not take two so soon.
                if not unsure:
                    raise
                break
            except Unavailable:
                unsure = True
                left = deadline - time.monotonic()
                if left <= 0 or stop.wait(min(delay, left)):
                    raise
                delay = min(delay * 2, 10.0)


def _send(clients: Clients, metric: str, series: Sequence[Mapping[str, str]]) -> None:
    # The time of each try: what comes late may not be looked at by a policy any more.
    now = time.time()
    interval = {"end_time": {"seconds": int(now), "nanos": int(now % 1 * 1e6) * 1000}}
    clients.monitoring("MetricServiceClient").create_time_series(
        request={
            "name": f"projects/{clients.project}",
            "time_series": [
                {
                    "metric": {"type": metric, "labels": dict(labels)},
                    "resource": {"type": "global", "labels": {"project_id": clients.project}},
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
