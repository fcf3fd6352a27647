"""A tracking server by `mlflow-infra` on a local cloud, and eight trainings that log to it.

Each training hands 1,000 metrics over as fast as it can, through what `sinergym-train` logs with;
the server is MLflow behind basic authentication, on PostgreSQL. Beside it MLflow's own
`log_metric`, one call each, by a single client.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.clouds import BIN, OwnCloud, clean_environment

from benchmarks.figures import Figure, show

TRAININGS = 8
METRICS = 1000
SINGLE = 100
"""Metrics that MLflow's own client logs, one after another."""


def main() -> list[Figure]:
    """Bring the server up, log to it, count what arrived."""
    with tempfile.TemporaryDirectory() as folder:
        environment = clean_environment() | {
            "HOME": folder,
            "XDG_CONFIG_HOME": folder,
            "PATH": f"{BIN}:/usr/bin:/bin:/usr/sbin:/sbin",
            "OMP_NUM_THREADS": "1",
        }
        home = Path(folder) / "cloud"
        home.mkdir()
        image = ("--image", "mlflow-server=mlflow-infra-server")
        cloud = OwnCloud(home, environment, *image, engine="process")
        try:
            return _measure(environment | cloud.flags, Path(folder))
        finally:
            cloud.stop()


def _measure(environment: dict[str, str], folder: Path) -> list[Figure]:
    up = ("mlflow-infra", "up", "--yes", "--source-range", "127.0.0.1/32")
    image = ("--image", "local/mlflow-server:latest")
    first = _seconds(lambda: _run(*up, *image, environment=environment))
    again = _seconds(lambda: _run(*up, *image, environment=environment))
    printed = _run(
        "mlflow-infra", "credentials", "trainer", "--export", "--show", environment=environment
    )
    login = dict(line.removeprefix("export ").split("=", 1) for line in printed.splitlines())
    environment = environment | {name: value.strip("'") for name, value in login.items()}

    begin = time.perf_counter()
    logged = log_at_once(environment, folder)
    whole = time.perf_counter() - begin
    seconds = max(one["end"] for one in logged) - min(one["begin"] for one in logged)
    arrived = count([str(one["run"]) for one in logged], environment)
    single = float(_ended(_start("single", environment=environment)))
    return show(
        f"tracking: {TRAININGS} trainings log {METRICS:,} metrics each, on PostgreSQL",
        [
            Figure(
                what="arrived, of all",
                value=sum(arrived) / METRICS / TRAININGS,
                unit="",
                at_least=1.0,
                limit=1.0,
            ),
            Figure(
                what="the least of one training", value=min(arrived), unit="", at_least=METRICS
            ),
            Figure(
                what="handed over by a training in",
                value=max(o["taken"] for o in logged),
                unit="s",
                limit=0.5,
            ),
            Figure(
                what="until all had arrived",
                value=seconds,
                unit="s",
                limit=60,
                baseline=single * TRAININGS * METRICS,
                baseline_is="log_metric, one by one",
            ),
            Figure(what="    the same with the trainings' start", value=whole, unit="s"),
            Figure(what="mlflow-infra up, from nothing until it is well", value=first, unit="s"),
            Figure(what="mlflow-infra up, with all there", value=again, unit="s"),
        ],
    )


def log_at_once(environment: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """Let the trainings log beside each other; of each its `run`, `begin`, `end` and `taken`."""
    trainings = [
        _start("log", str(folder / f"training-{number}"), environment=environment)
        for number in range(TRAININGS)
    ]
    return [json.loads(_ended(training)) for training in trainings]


def count(runs: list[str], environment: dict[str, str]) -> list[int]:
    """How many different steps the server has of each run."""
    found: list[int] = json.loads(_ended(_start("count", *runs, environment=environment)))
    return found


def _seconds(what: Callable[[], object]) -> float:
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


def _run(*words: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{words}: {done.stderr}")
    return done.stdout


def _start(*words: str, environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.tracking", *words],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )


def _ended(process: "subprocess.Popen[str]") -> str:
    printed, _ = process.communicate(timeout=300)
    if process.returncode != 0:
        raise SystemExit(f"{process.args!r}: exit code {process.returncode}")
    return printed.splitlines()[-1]


# What follows runs in the processes.


def _log(folder: str) -> None:
    """Log as a training does; when it began, how long it was kept, when all was sent."""
    import os

    from sinergym_trainer.tracking import Tracker

    Path(folder).mkdir()
    tracker = Tracker(
        uri=os.environ["MLFLOW_TRACKING_URI"],
        experiment="benchmark",
        name=Path(folder).name,
        tags={},
        parameters={},
        unsent=Path(folder) / "unsent.jsonl",
        patience=240.0,
    )
    begin, clock = time.time(), time.perf_counter()
    for step in range(METRICS):
        tracker.log({"rollout/ep_rew_mean": float(step)}, step)
    taken = time.perf_counter() - clock
    left = tracker.close()
    if left or tracker.run is None:
        raise SystemExit(f"{left} metrics were not sent: {tracker.problem}")
    print(
        json.dumps({"begin": begin, "taken": taken, "end": time.time(), "run": tracker.run.run_id})
    )


def _count(*runs: str) -> None:
    """How many metrics of each run the server has, each step once."""
    from mlflow import MlflowClient

    client = MlflowClient()
    found = []
    for run in runs:
        (key,) = client.get_run(run).data.metrics
        found.append(len({metric.step for metric in client.get_metric_history(run, key)}))
    print(json.dumps(found))


def _single() -> None:
    """Seconds of one `log_metric`."""
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.create_run(client.create_experiment("single")).info.run_id
    client.log_metric(run, "warm", 0.0)
    print(
        _seconds(lambda: [client.log_metric(run, "m", 1.0, step=n) for n in range(SINGLE)])
        / SINGLE
    )


_RUNS: dict[str, Callable[..., None]] = {"log": _log, "count": _count, "single": _single}

if __name__ == "__main__":
    _RUNS[sys.argv[1]](*sys.argv[2:])
