"""Metrics to MLflow, at no cost to the training."""

import functools
import itertools
import math
import posixpath
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sinergym_trainer.errors import one_line
from sinergym_trainer.tracking import storing
from sinergym_trainer.tracking.servers import (
    METRICS_PER_REQUEST,
    Refused,
    Run,
    Server,
    StoredRun,
    attach,
    connect,
    next_parameters,
    page,
    without_credentials,
)
from sinergym_trainer.tracking.spool import Head, Metric, NoSpool, Spool
from sinergym_trainer.tracking.storing import ServedModel

_SECONDS_BETWEEN_REQUESTS = 1.0
_SECONDS_BETWEEN_LAST_REQUESTS = 0.05
_SECONDS_IN_MEMORY = 5.0
_LONGEST_PAUSE = 30.0
_HOPELESS = 5.0
_ARTIFACTS = 300.0
_TRIES_OF_ARTIFACTS = 2
_MOST_IN_MEMORY = 100_000
"""Metrics; more come together only when the disk cannot take them."""

_LONGEST_PARAMETER = 6000
_LONGEST_NAME = 250
_UNSAFE = re.compile(r"[^\w\-. /]")


class Tracker:
    """An MLflow run that is written from background threads.

    One thread asks the server, at most once a second; while the server is away it asks ever more
    rarely. Another one moves what has waited for some seconds to a file (see `spool`), so that a
    killed training loses no more than those seconds and memory stays small however long the server
    is away. With a server that answers the file does not come to be.

    Args:
        uri: the tracking server's, as in MLFLOW_TRACKING_URI.
        experiment: MLflow experiment; made when missing.
        name: the run's name.
        tags: the run's tags.
        parameters: the run's parameters.
        unsent: the file that keeps what was not sent, in the output folder.
        artifact_location: where a new experiment keeps artifacts, when not the server's default.
        run_id: the run to go on with. When the server has it no more, a new one begins, with the
            tag `resumed-from`. Its parameters stay as they are, and it gets no point at or before
            the last one that it has of a metric: the steps since a checkpoint, run again.
        resumed_at: the timesteps of the checkpoint that the training goes on from: what waits in
            `unsent` and is of later steps goes, as they are run again.
        kept: the file that `keep` wrote for that checkpoint; it is read, and removed.
        patience: seconds that `close` waits for what is left to be sent.
        hurried: true when little time is left: `close` waits a third of that at most.

    Raises:
        OutputUnusable: another process writes the file.
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
        run_id: str | None = None,
        resumed_at: int | None = None,
        kept: Path | None = None,
        patience: float = 30.0,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self._uri = uri
        self._patience = patience
        self._hurried = hurried
        head = Head(
            experiment=experiment,
            name=name,
            run_id=run_id,
            tags={key: str(value) for key, value in tags.items()},
            parameters=_texts(parameters),
            artifact_location=artifact_location,
        )
        carried: list[Metric] = []
        if kept is not None and kept.exists():
            head, carried = _carried(head, kept)
        self._fresh_lock = threading.Lock()
        self._fresh: deque[Metric] = deque()
        # Held by the two threads in turn, for all below; never while a request is under way.
        self._turn = threading.RLock()
        self._spool = Spool(unsent, head)
        self._resumed = resumed_at is not None
        self._stored: StoredRun | None = None
        self._flight: list[Metric] = []
        self._flight_end: int | None = None
        self._sent_parameters: set[str] = set()
        self._run: Run | None = None
        self._problem = ""
        self._failures = 0
        self._lost = 0
        if resumed_at is not None:
            try:
                self._spool.rewind(resumed_at, carried)
            except OSError as error:
                self._problem = one_line(error)
                self._fresh.extend(carried)
        self._asked = -math.inf
        self._server: Server | None = None
        self._closing = threading.Event()
        self._left = threading.Event()
        self._ended = False
        self._storing: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="mlflow-unsent", daemon=True).start()

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
        taken = [
            Metric(key=metric_name(key), value=number, timestamp=now, step=step)
            for key, value in metrics.items()
            if (number := _number(value)) is not None
        ]
        with self._fresh_lock:
            self._fresh.extend(taken)

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Add parameters that were not known at first; returns at once."""
        with self._turn:
            self._note(parameters={**self._spool.head.parameters, **_texts(parameters)})

    def keep(self, path: Path) -> None:
        """Write a file of all that was not sent yet, for a checkpoint; nothing is waited for.

        A training that goes on from the checkpoint on another machine gives it back as `kept`, and
        finds its run by it even when the server had not answered yet.

        Raises:
            OSError: the disk is full, or the like.
        """
        with self._turn:
            waiting = self._flight if self._flight_end is None else []
            with self._fresh_lock:
                waiting = [*waiting, *self._fresh]
            self._spool.copy(path, waiting)

    def close(
        self,
        *,
        status: str = "FINISHED",
        artifacts: Sequence[Path] = (),
        model: ServedModel | None = None,
    ) -> int:
        """Send what is left, end the run, and return how many metrics could not be sent.

        Waits `patience` seconds at most, or a few when the server has never answered; for
        artifacts and the model some minutes. What is left stays in the file `unsent`, for `sync`,
        with a line on standard error.

        Args:
            status: the run's: FINISHED, FAILED or KILLED.
            artifacts: files and folders of the output folder to store in the run.
            model: the model to store so that `mlflow.pyfunc.load_model` can use it.
        """
        folder = self._spool.path.parent
        with self._turn:
            self._note(
                status=status,
                ended=time.time_ns() // 1_000_000,
                artifacts=tuple(_within(path, folder) for path in artifacts),
                served=model.as_json(folder) if model else None,
            )
        self._closing.set()
        hurried = self._hurried()
        patience = self._patience / 3 if hurried else self._patience
        storing_patience = _ARTIFACTS if (artifacts or model) and not hurried else 0.0
        began = time.monotonic()
        while self._thread.is_alive():
            waited = time.monotonic() - began
            if waited > patience + (storing_patience if self._run else 0.0):
                break
            if waited > _HOPELESS and self._run is None and self._failures:
                break
            self._thread.join(0.1)
        self._left.set()
        if self._storing:
            self._storing.kill()
        with self._turn:
            return self._leave()

    # The thread that asks the server.

    def _work(self) -> None:
        while not self._left.is_set():
            try:
                if self._server is None:
                    self._server = connect(self._uri, self._pace)
                run = self._run = self._run or self._attach(self._server)
                idle = not self._send(self._server, run.run_id)
                if idle and self._closing.is_set():
                    self._end(self._server, run.run_id)
                    return
            except Exception as error:  # whatever it is: the training must not notice
                if self._left.is_set():
                    return
                self._problem = one_line(error)
                self._failures += 1
                pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures, 6))
                if self._closing.wait(pause):
                    self._left.wait(min(pause, 2.0))
                continue
            self._failures = 0
            if idle:
                self._closing.wait(_SECONDS_BETWEEN_REQUESTS)

    def _pace(self) -> None:
        """Wait until a request may be made."""
        if not self._closing.wait(self._asked + _SECONDS_BETWEEN_REQUESTS - time.monotonic()):
            pass
        elif self._left.wait(self._asked + _SECONDS_BETWEEN_LAST_REQUESTS - time.monotonic()):
            raise TimeoutError("the training has ended")
        self._asked = time.monotonic()

    def _attach(self, server: Server) -> Run:
        head = self._spool.head
        search = self._resumed or self._failures > 0
        stored = self._stored = attach(server, head, reopen=True, search=search)
        with self._turn:
            self._sent_parameters = set(stored.parameters)
            if stored.run_id != head.run_id:
                self._note(run_id=stored.run_id)
        return page(self._uri, stored)

    def _send(self, server: Server, run_id: str) -> bool:
        """Send the next metrics and parameters; False when there is nothing to send."""
        with self._turn:
            head = self._spool.head
            parameters = next_parameters(head.parameters, self._sent_parameters)
            self._take()
            metrics = self._flight
        if not metrics and not parameters:
            return False
        news = [each for each in metrics if self._stored is None or self._stored.lacks(each)]
        try:
            if news or parameters:
                server.log(run_id, metrics=news, parameters=parameters)
        except BaseException as error:
            with self._turn:
                self._put_back()
                if isinstance(error, Refused) and parameters:
                    # Perhaps because of them: metrics are not to wait for that.
                    self._sent_parameters |= parameters.keys()
            raise
        with self._turn:
            self._sent_parameters |= parameters.keys()
            if self._flight_end is not None and not self._left.is_set():
                self._spool.acknowledge(self._flight_end, len(metrics))
            self._flight, self._flight_end = [], None
        return True

    def _take(self) -> None:
        if self._spool.waiting:  # these are older than those in memory
            self._flight, self._flight_end = self._spool.take(METRICS_PER_REQUEST)
            return
        with self._fresh_lock:
            number = min(METRICS_PER_REQUEST, len(self._fresh))
            self._flight = [self._fresh.popleft() for _ in range(number)]

    def _put_back(self) -> None:
        if self._flight_end is None:
            with self._fresh_lock:
                self._fresh.extendleft(reversed(self._flight))
        self._flight, self._flight_end = [], None

    def _end(self, server: Server, run_id: str) -> None:
        """Store artifacts and model, and end the run; at once if the training was cut short."""
        if self._spool.head.status != "FINISHED":
            self._set_status(server, run_id)
        for _ in range(_TRIES_OF_ARTIFACTS):
            head = self._spool.head
            if not (head.artifacts or head.served) or self._left.is_set():
                break
            try:
                self._store(run_id, head)
            except Exception as error:
                self._problem = one_line(error)
        if not self._ended:
            self._set_status(server, run_id)

    def _store(self, run_id: str, head: Head) -> None:
        self._storing = storing.start(self._uri, run_id, self._spool.path.parent, head)
        for changes in storing.follow(self._storing):
            with self._turn:
                self._note(**changes)

    def _set_status(self, server: Server, run_id: str) -> None:
        head = self._spool.head
        server.update(run_id, head.status or "FINISHED", head.ended)
        self._ended = True

    # The thread that moves metrics to the file.

    def _watch(self) -> None:
        while not self._left.wait(1.0) and self._thread.is_alive():
            with self._turn:
                if self._left.is_set():
                    return
                waiting = self._flight if self._flight_end is None else []
                with self._fresh_lock:
                    oldest = next((queue[0] for queue in (waiting, self._fresh) if queue), None)
                if oldest and time.time() - oldest.timestamp / 1000 > _SECONDS_IN_MEMORY:
                    self._to_disk()

    def _to_disk(self) -> None:
        """Move all that is in memory to the file; what the disk does not take stays."""
        try:
            if self._flight and self._flight_end is None:
                self._flight_end = self._spool.append(self._flight)
            while self._fresh:
                with self._fresh_lock:
                    moving = list(itertools.islice(self._fresh, METRICS_PER_REQUEST))
                self._spool.append(moving)
                with self._fresh_lock:
                    for _ in moving:
                        self._fresh.popleft()
        except OSError as error:
            self._problem = one_line(error)
        with self._fresh_lock:
            while len(self._fresh) > _MOST_IN_MEMORY:
                self._fresh.popleft()
                self._lost += 1

    def _note(self, **changes: Any) -> None:
        """Change the head; that a full disk does not take it is no reason to end anything."""
        try:
            self._spool.note(**changes)
        except OSError as error:
            self._problem = one_line(error)

    # In the caller's thread again.

    def _leave(self) -> int:
        """Leave what was not done in the file; return how many metrics that are."""
        spool = self._spool
        if self._flight or self._fresh:
            self._to_disk()
        in_memory = len(self._fresh) + (len(self._flight) if self._flight_end is None else 0)
        left = spool.waiting + in_memory + self._lost
        if not left and self._ended and not (spool.head.artifacts or spool.head.served):
            spool.discard()
            return 0
        outcome = f"`sinergym-train sync {spool.path.parent}` sends them later"
        try:
            spool.keep()
        except OSError as error:
            self._problem = one_line(error)
        if lost := in_memory + self._lost:
            outcome = f"{lost} of them are lost" + (f", {outcome}" if spool.waiting else "")
        spool.close()
        what = f"{left} metrics" if left else "the end of the run or its artifacts"
        print(  # noqa: T201
            f"sinergym-train: warning: {what} not sent to MLflow at"
            f" {without_credentials(self._uri)}"
            f" ({self._problem or 'it did not answer in time'}); {outcome}",
            file=sys.stderr,
        )
        return left


def _carried(head: Head, kept: Path) -> tuple[Head, list[Metric]]:
    """The run and the metrics of a checkpoint's file, which goes; nothing of one that is none."""
    try:
        spool = Spool.existing(kept)
    except NoSpool:
        return head, []
    before = spool.head
    metrics = spool.take(spool.waiting)[0] if spool.waiting else []
    spool.discard()
    if head.run_id is None or before.run_id in (None, head.run_id):
        run_id = head.run_id or before.run_id
        head = replace(head, run_id=run_id, token=before.token, started=before.started)
    return head, metrics


@functools.lru_cache(maxsize=4096)
def metric_name(key: str) -> str:
    """Return a name that MLflow accepts: letters, digits, `_-. /`, and the form of a path.

    `comfort_violation_time(%)` is called `comfort_violation_time_percent`.
    """
    name = _UNSAFE.sub("_", key.replace("(%)", "_percent"))[:_LONGEST_NAME]
    name = posixpath.normpath(name) if name else "_"
    return name.lstrip("./") or "_"


def _texts(parameters: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value)[:_LONGEST_PARAMETER] for key, value in parameters.items()}


def _within(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.absolute())


def _number(value: Any) -> float | None:
    """A finite number, from Python's, NumPy's or PyTorch's; None for all else."""
    if isinstance(value, str | bytes | bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
