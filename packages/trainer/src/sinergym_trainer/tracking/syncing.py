"""Sending later what waits in an output folder."""

import os
import time
from pathlib import Path

from sinergym_trainer.errors import InvalidOptions, TrainerError, one_line
from sinergym_trainer.tracking import storing
from sinergym_trainer.tracking.servers import (
    METRICS_PER_REQUEST,
    attach,
    connect,
    next_parameters,
    without_credentials,
)
from sinergym_trainer.tracking.spool import NAME, Spool

_SECONDS_BETWEEN_REQUESTS = 0.05


def sync(folder: Path, uri: str | None = None) -> int:
    """Send what waits in an output folder, end its run, and return how many metrics were sent.

    The file goes when all of it has arrived, and only then. It is marked as it is sent, so that
    nothing is sent twice but what was on its way when a `sync` or a training was killed; MLflow
    stores a point that it has already only once. Of a run that went on elsewhere, points at or
    before its last one are left out. A run that was never made is made now. Without a
    word on how the training ended (it was killed), the run's status stays, or is KILLED if the run
    is new.

    Args:
        folder: an output folder with `mlflow-unsent.jsonl`, or such a file.
        uri: the tracking server; default `MLFLOW_TRACKING_URI`.

    Raises:
        InvalidOptions: no tracking server is named, or there is no such folder.
        TrainerError: the server did not take all of it, or a training writes the file; what was
            not sent is still there.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise InvalidOptions("where to? Set MLFLOW_TRACKING_URI to the tracking server's address")
    if not folder.exists():
        raise InvalidOptions(f"{folder}: no such folder")
    stem = NAME.removesuffix(".jsonl")
    paths = sorted(folder.glob(f"{stem}*.jsonl")) if folder.is_dir() else [folder]
    return sum(_sync(path, uri) for path in paths)


def _sync(path: Path, uri: str) -> int:
    sent = 0
    asked = 0.0

    def pace() -> None:
        nonlocal asked
        time.sleep(max(0.0, asked + _SECONDS_BETWEEN_REQUESTS - time.monotonic()))
        asked = time.monotonic()

    try:
        spool = Spool.existing(path)
    except OSError as error:
        raise TrainerError(f"{path}: {error.strerror}") from error
    try:
        server = connect(uri, pace)
        head = spool.head
        stored = attach(server, head, reopen=False, search=True)
        new = stored.run_id != head.run_id
        if new:
            spool.note(run_id=stored.run_id)
        done = set(stored.parameters)
        while parameters := next_parameters(head.parameters, done):
            server.log(stored.run_id, parameters=parameters)
            done |= parameters.keys()
        while spool.waiting:
            metrics, end = spool.take(METRICS_PER_REQUEST)
            if news := [metric for metric in metrics if stored.lacks(metric)]:
                server.log(stored.run_id, metrics=news)
            sent += len(news)
            if spool.waiting <= len(metrics):
                break  # the file stays until the run is ended, too
            spool.acknowledge(end, len(metrics))
        if head.artifacts or head.served:
            child = storing.start(uri, stored.run_id, path.parent, head)
            for changes in storing.follow(child):
                spool.note(**changes)
        if head.status or new:
            server.update(stored.run_id, head.status or "KILLED", head.ended)
        spool.discard()
    except TrainerError:
        raise
    except Exception as error:
        raise TrainerError(
            f"{path} waits on, MLflow at {without_credentials(uri)} did not take it:"
            f" {one_line(error)}"
        ) from error
    finally:
        spool.close()
    return sent
