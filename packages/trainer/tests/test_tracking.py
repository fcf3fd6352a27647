"""MLflow: what arrives, and what happens when the server is slow, away, or dies."""

import base64
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinergym_trainer.errors import InvalidOptions, OutputUnusable, TrainerError
from sinergym_trainer.options import Options
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.tracking import (
    KEPT,
    NAME,
    ServedModel,
    Tracker,
    git_commit,
    in_force,
    metric_name,
    parameters,
    sync,
    tags,
    without_credentials,
)
from sinergym_trainer.tracking.spool import Head, Metric, NoSpool, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

Until = Callable[..., Any]


def make_tracker(uri: str, unsent: Path, **how: Any) -> Tracker:
    """A tracker of a small run."""
    given: dict[str, Any] = {
        "experiment": "tracking",
        "name": "a run",
        "tags": {"sweep": "tracking"},
        "parameters": {"algorithm": "PPO"},
        "patience": 30.0,
        **how,
    }
    return Tracker(uri=uri, unsent=unsent, **given)


def client_of(uri: str) -> "MlflowClient":
    """MLflow's own client, which tells us what the server has got."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def steps_of(client: "MlflowClient", run_id: str, key: str) -> list[int]:
    """The steps of a metric's points, in the order of sending."""
    return [metric.step for metric in client.get_metric_history(run_id, key)]


@dataclass
class Network:
    """What is between a tracker and a server: slow, or not there at all."""

    port: int
    to: int
    delay: float = 0.0
    asked: list[tuple[float, str, str]] = field(default_factory=list)
    """When, which path, and with which authorization."""
    _server: ThreadingHTTPServer | None = None

    @property
    def uri(self) -> str:
        """Where the tracker asks."""
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Begin to answer, by the server's answers."""
        network = self

        class Hop(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                if network._server is not self.server:  # down: connections break, too
                    self.close_connection = True
                    return
                authorization = self.headers.get("Authorization", "")
                network.asked.append((time.monotonic(), self.path, authorization))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                time.sleep(network.delay)
                far = http.client.HTTPConnection("127.0.0.1", network.to, timeout=30)
                far.request(self.command, self.path, body, {"Content-Type": "application/json"})
                answer = far.getresponse()
                content = answer.read()
                far.close()
                if network._server is not self.server:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _forward

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """A tracker that has gone away is no error here."""

        self._server = Listener(("127.0.0.1", self.port), Hop)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections from now on."""
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()


@pytest.fixture
def network(mlflow_server: str, free_port: int) -> Iterator[Network]:
    """A network to the MLflow server that is down at first."""
    made = Network(free_port, int(mlflow_server.rsplit(":", 1)[1]))
    yield made
    made.down()


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# Without a server.


@pytest.mark.slow
def test_handing_over_costs_microseconds_and_the_end_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], until: Until
) -> None:
    """A server that takes requests and never answers: the file has all, in one line's words."""
    path = tmp_path / NAME
    with silent_server() as uri:
        tracker = make_tracker(uri, path, patience=1.0)
        before = time.monotonic()
        for step in range(5000):
            tracker.log({"reward": -step}, step)
        handing_over = time.monotonic() - before
        before = time.monotonic()
        left = tracker.close(status="KILLED")
        closing = time.monotonic() - before
    head, *lines = map(json.loads, path.read_text().splitlines())
    metrics = [line for line in lines if "key" in line]

    assert handing_over < 1
    assert closing < 3
    assert left == len(metrics) == 5000
    assert (head["name"], head["status"], head["run_id"]) == ("a run", "KILLED", None)
    assert metrics[-1] | {"timestamp": 0} == {
        "key": "reward", "value": -4999.0, "timestamp": 0, "step": 4999,
    }  # fmt: skip
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "5000 metrics not sent" in said
    assert f"sinergym-train sync {tmp_path}" in said


def test_what_waits_is_sent_nowhere_without_an_address(tmp_path: Path) -> None:
    """`sync` says what is missing; an empty folder has nothing to send."""
    with pytest.raises(InvalidOptions, match="MLFLOW_TRACKING_URI"):
        sync(tmp_path)
    with pytest.raises(InvalidOptions, match="no such folder"):
        sync(tmp_path / "none", "http://127.0.0.1:1")
    assert sync(tmp_path, "http://127.0.0.1:1") == 0


def test_a_sync_that_fails_loses_nothing(tmp_path: Path, free_port: int) -> None:
    """With the server away, a file that is none, and one that a training writes."""
    path = tmp_path / NAME
    uri = f"http://user:secret@127.0.0.1:{free_port}"
    spool = Spool(path, Head(experiment="e", name="n"))
    spool.append([Metric(key="m", value=1.0, timestamp=1, step=1)])
    with pytest.raises(OutputUnusable, match="a training that runs"):
        sync(tmp_path, uri)
    spool.close()
    before = path.read_bytes()
    with pytest.raises(TrainerError, match="waits on") as caught:
        sync(tmp_path, uri)
    assert "secret" not in str(caught.value)
    assert path.read_bytes() == before
    path.write_text('{"something": "else"}\n')
    with pytest.raises(TrainerError, match="not a file of unsent metrics"):
        sync(path, uri)


Counts = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 9), st.booleans()), max_size=12)


@settings(max_examples=60, deadline=None)
@given(counts=Counts, torn=st.binary(max_size=40).filter(lambda tail: b"\n" not in tail))
def test_every_metric_is_taken_once(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[tuple[int, int, bool]],
    torn: bytes,
) -> None:
    """However it is appended, taken, acknowledged, killed in the middle of a line and opened."""
    path = tmp_path_factory.mktemp("spool") / NAME
    spool = Spool(path, Head(experiment="e", name="n"))
    expected: list[int] = []
    got: list[int] = []
    number = 0
    for adding, taking, killed in counts:
        spool.append(
            Metric(key="m", value=1.0, timestamp=1, step=step)
            for step in range(number, number + adding)
        )
        expected += range(number, number + adding)
        number += adding
        metrics, end = spool.take(taking)
        again, _ = spool.take(taking)
        assert again == metrics
        got += [metric.step for metric in metrics]
        if metrics:
            spool.acknowledge(end, len(metrics))
        assert spool.waiting == len(expected) - len(got)
        if killed and path.exists():
            spool.close()
            with path.open("ab") as file:
                file.write(torn)
            spool = Spool.existing(path)
    rest, _ = spool.take(1000) if path.exists() else ([], 0)
    spool.close()
    assert [*got, *(metric.step for metric in rest)] == expected


@given(content=st.binary(max_size=200) | st.just(b'{"experiment": 1, "name": 2, "token": 3}\n'))
@settings(deadline=None)
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """What is in it comes from outside: nothing but `NoSpool` is raised."""
    path = tmp_path_factory.mktemp("spool") / NAME
    for notes in (b"", b'{"note": 1}\n', b'{"sent": []}\n', b'{"key": 1, "value": "x"}\n'):
        path.write_bytes(content + notes)
        try:
            spool = Spool.existing(path)
        except NoSpool:
            continue
        assert spool.take(10) == ([], path.stat().st_size)
        spool.close()


def test_a_disk_that_takes_nothing_ends_no_training(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says that metrics are lost, and why."""
    tracker = make_tracker(f"http://127.0.0.1:{free_port}", tmp_path / "gone" / NAME, patience=0.3)
    tracker.log({"m": 1}, 1)
    assert tracker.close() == 1
    said = capsys.readouterr().err
    assert "1 of them are lost" in said
    assert "No such file or directory" in said
    assert "sync" not in said


FULL = """
import resource, sys, time
from pathlib import Path
from sinergym_trainer.tracking import Tracker
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
tracker = Tracker(
    uri=sys.argv[1], experiment="e", name="n", tags={}, parameters={}, unsent=Path(sys.argv[2]),
    patience=0.3,
)
for step in range(5000):
    tracker.log({"m": step}, step)
print(tracker.close())
"""


def test_a_disk_that_fills_up_keeps_what_it_can(tmp_path: Path, free_port: int) -> None:
    """Whole lines, the oldest metrics, and a line that says how many are lost."""
    path = tmp_path / NAME
    ran = subprocess.run(
        [sys.executable, "-c", FULL, f"http://127.0.0.1:{free_port}", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    spool = Spool.existing(path)
    kept, _ = spool.take(5000)
    spool.close()
    assert ran.stdout == "5000\n"
    assert [metric.step for metric in kept] == list(range(len(kept)))
    assert 0 < len(kept) < 5000
    assert f"{5000 - len(kept)} of them are lost" in ran.stderr
    assert "File too large" in ran.stderr


def test_a_run_goes_on_with_its_file_and_sets_anothers_aside(tmp_path: Path) -> None:
    """Metrics of the same run wait on; those of another one are kept for `sync`."""
    path = tmp_path / NAME
    metric = Metric(key="m", value=1.0, timestamp=1, step=1)
    first = Spool(path, Head(experiment="e", name="n", run_id="abc", status="KILLED"))
    first.append([metric])
    first.close()
    again = Spool(path, Head(experiment="e", name="n", run_id="abc"))
    again.append([metric])
    assert (again.waiting, again.head.status) == (2, None)
    again.close()
    other = Spool(path, Head(experiment="e", name="another"))
    other.append([metric])
    other.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mlflow-unsent.1.jsonl", NAME]
    assert Spool.existing(tmp_path / "mlflow-unsent.1.jsonl").waiting == 2


@given(key=st.text(max_size=300))
@settings(deadline=None)
@pytest.mark.slow
def test_every_name_is_made_one_that_mlflow_takes(key: str) -> None:
    """MLflow's own check of names is the judge."""
    from mlflow.utils.validation import _validate_metric

    _validate_metric(metric_name(key), 1.0, 1, 0)  # type: ignore[no-untyped-call]


def test_usual_names_stay(tmp_path: Path) -> None:
    """Only what MLflow refuses is replaced."""
    assert metric_name("eval/mean_reward") == "eval/mean_reward"
    assert metric_name("comfort_violation_time(%)") == "comfort_violation_time_percent"


def test_parameters_have_the_names_of_drl_battery() -> None:
    """Renamed as in the seeds; what was not given is what is in force; versions; a limit."""
    options = Options(
        environment="5zone",
        algorithm="PPO",
        n_steps=96,
        multiobs=True,
        seed=0,
        run_period=RunPeriod.parse("1/1-2/1"),
    )
    found = parameters(
        options,
        "Eplus-5zone-hot-continuous-v1",
        "PPO",
        versions={"sinergym": "3.12.2"},
        defaults={"n_steps": 2048, "batch_size": 64, "gamma": 0.99, "policy": "x" * 9000},
    )
    expected = {
        "env": "Eplus-5zone-hot-continuous-v1",
        "algorithm": "PPO",
        "sinergym-version": "3.12.2",
        "n_steps": "96",
        "batch-size": "64",
        "gamma": "0.99",
        "multi-observations": "True",
        "evaluation-frequency": "2",
        "seed": "0",
        "run-period": "1,1,1991,2,1,1991",
        "remote-store": "False",
    }
    assert expected.items() <= found.items()
    assert len(found["policy"]) == 6000
    assert not {"environment", "auto_delete", "group_name", "batch_size"} & found.keys()


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (
            "PPO",
            {"learning_rate": 0.0003, "clip_range": 0.2, "n_epochs": 10, "gae_lambda": 0.95},
        ),
        ("A2C", {"learning_rate": 0.0007, "rms_prop_eps": 1e-5, "n_steps": 5}),
        ("SAC", {"ent_coef": "auto", "tau": 0.005, "train_freq": 1, "buffer_size": 1_000_000}),
    ],
)
def test_hyperparameters_in_force(algorithm: str, expected: dict[str, object]) -> None:
    """Each algorithm's own defaults, schedules as numbers."""
    import gymnasium
    import stable_baselines3

    model = getattr(stable_baselines3, algorithm)("MlpPolicy", gymnasium.make("Pendulum-v1"))
    assert expected.items() <= in_force(model).items()


def test_tags_say_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the runner's environment, and the working directory's git."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("SINERGYM_GIT", raising=False)
    assert git_commit() is None
    assert tags()["mlflow.source.type"] == "LOCAL"
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(("git", "init", "-q"), check=True)
    subprocess.run((*git, "commit", "-q", "--allow-empty", "-m", "x"), check=True)
    commit = subprocess.run(
        ("git", "rev-parse", "HEAD"), check=True, capture_output=True, text=True
    ).stdout.strip()
    for name, value in (("SWEEP", "quick"), ("EXPERIMENT", "quick-0001"), ("ATTEMPT", "2")):
        monkeypatch.setenv(f"SINERGYM_{name}", value)
    expected = {
        "sweep": "quick",
        "experiment": "quick-0001",
        "attempt": "2",
        "git": commit,
        "mlflow.source.git.commit": commit,
        "mlflow.source.type": "JOB",
    }
    assert expected.items() <= tags().items()
    monkeypatch.setenv("SINERGYM_GIT", "abc1234")
    assert git_commit() == "abc1234"


def test_addresses_are_shown_without_credentials() -> None:
    """Whatever is before the last @ of the host goes."""
    assert without_credentials("https://u:p@ss@host:5000/a") == "https://host:5000/a"
    assert without_credentials("sqlite:////srv/a@b.db") == "sqlite:////srv/a@b.db"


# With a real server.


@pytest.mark.slow
def test_a_healthy_server_gets_all_and_the_disk_nothing(network: Network, tmp_path: Path) -> None:
    """At most one request a second; no file; parameters that come later arrive too."""
    network.up()
    tracker = make_tracker(network.uri, tmp_path / NAME, parameters={"algorithm": "PPO"})
    seen = set()
    for step in range(45):
        tracker.log({"a(b)": step, "nan": float("nan"), "text": "no"}, step)  # type: ignore[dict-item]
        seen |= set(tmp_path.iterdir())
        if step == 20:
            tracker.log_parameters({"gamma": 0.99, "algorithm": "PPO"})
        time.sleep(0.1)
    times = [when for when, _, _ in network.asked]
    assert tracker.close() == 0
    run = tracker.run
    assert run is not None

    assert seen == set()
    assert len(times) >= 3
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.9
    client = client_of(network.uri)
    stored = client.get_run(run.run_id)
    assert steps_of(client, run.run_id, "a_b_") == list(range(45))
    assert stored.data.metrics.keys() == {"a_b_"}
    assert stored.data.params == {"algorithm": "PPO", "gamma": "0.99"}
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "a run"
    assert run.url == f"{network.uri}/#/experiments/{stored.info.experiment_id}/runs/{run.run_id}"


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_gets_everything_once(
    network: Network, tmp_path: Path, until: Until
) -> None:
    """Down at first, then up, then down: metrics wait on disk, and the file goes in the end."""
    path = tmp_path / NAME
    tracker = make_tracker(network.uri, path)
    tracker.log({"m": 0}, 0)
    until(lambda: tracker.problem, 10)
    network.up()
    until(lambda: tracker.run, 20)
    network.down()
    for step in range(1, 2500):
        tracker.log({"m": step}, step)
    until(path.exists, 15)
    lines = until(lambda: len(path.read_bytes().splitlines()) > 2000 and path.read_text(), 15)
    assert f'"step": {2499}' in lines
    assert tracker.run is not None
    network.up()
    tracker.log({"m": 2500}, 2500)
    until(lambda: not path.exists(), 60)
    assert tracker.close() == 0

    assert not path.exists()
    assert steps_of(client_of(network.uri), tracker.run.run_id, "m") == list(range(2501))


@pytest.mark.slow
def test_a_slow_server_is_waited_for(network: Network, tmp_path: Path) -> None:
    """Handing over stays instant, answers that come late count, and the end is bounded."""
    network.delay = 2.0
    network.up()
    tracker = make_tracker(network.uri, tmp_path / NAME, patience=3.0)
    began = time.monotonic()
    handing_over = 0.0
    step = 0
    while time.monotonic() < began + 8:
        before = time.perf_counter()
        tracker.log({"m": step}, step)
        handing_over = max(handing_over, time.perf_counter() - before)
        step += 1
        time.sleep(0.05)
    before = time.monotonic()
    left = tracker.close()
    assert time.monotonic() - before < 5
    assert handing_over < 0.5  # the longest of all
    network.delay = 0.0

    assert left < step  # some have arrived
    assert tracker.run is not None
    assert sync(tmp_path, network.uri) >= left
    assert not list(tmp_path.iterdir())
    client = client_of(network.uri)
    assert sorted(set(steps_of(client, tracker.run.run_id, "m"))) == list(range(step))
    assert client.get_run(tracker.run.run_id).info.status == "FINISHED"


KILLED = """
import sys, time
from pathlib import Path
from sinergym_trainer.tracking import Tracker
tracker = Tracker(
    uri=sys.argv[1], experiment="killed", name="killed", tags={"attempt": "1"},
    parameters={"algorithm": "PPO"}, unsent=Path(sys.argv[2]),
)
for step in range(3000):
    tracker.log({"m": step}, step)
print("logged", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_training_loses_nothing_that_is_some_seconds_old(
    network: Network, tmp_path: Path, until: Until
) -> None:
    """`sync` makes the run, sends all, and says that it was killed; a second one does nothing."""
    path = tmp_path / NAME
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, network.uri, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "logged\n"
        until(lambda: path.exists() and path.read_bytes().count(b"\n") > 3000, 15)
        with pytest.raises(OutputUnusable, match="a training that runs"):
            sync(tmp_path, network.uri)
        os.kill(child.pid, signal.SIGKILL)
    network.up()
    assert sync(tmp_path, network.uri) == 3000
    assert sync(tmp_path, network.uri) == 0

    assert not list(tmp_path.iterdir())
    client = client_of(network.uri)
    experiment = client.get_experiment_by_name("killed")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("killed", "KILLED")
    assert run.data.params == {"algorithm": "PPO"}
    assert run.data.tags["attempt"] == "1"
    assert steps_of(client, run.info.run_id, "m") == list(range(3000))


@pytest.mark.slow
def test_a_sync_that_breaks_off_goes_on_later(
    network: Network, tmp_path: Path, until: Until
) -> None:
    """What was acknowledged is not sent again, and it is the same run."""
    spool = Spool(tmp_path / NAME, Head(experiment="broken off", name="n", status="FAILED"))
    spool.append(Metric(key="m", value=s, timestamp=s + 1, step=s) for s in range(4000))
    spool.close()
    network.delay = 0.5
    network.up()
    failed = threading.Event()

    def first() -> None:
        try:
            sync(tmp_path, network.uri)
        except TrainerError:
            failed.set()

    thread = threading.Thread(target=first)
    thread.start()
    until(lambda: sum("log-batch" in path for _, path, _ in network.asked) >= 3, 20)
    network.down()
    thread.join(30)
    assert failed.is_set()
    network.delay = 0.0
    network.up()
    sent = sync(tmp_path, network.uri)

    assert 0 < sent < 4000
    client = client_of(network.uri)
    experiment = client.get_experiment_by_name("broken off")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert steps_of(client, run.info.run_id, "m") == list(range(4000))


@pytest.mark.slow
def test_a_run_is_resumed(network: Network, tmp_path: Path, until: Until) -> None:
    """It is RUNNING again, keeps its parameters; one that is gone is replaced by a new one."""
    network.up()
    client = client_of(network.uri)
    first = make_tracker(network.uri, tmp_path / NAME)
    first.log({"m": 1}, 1)
    assert first.close(status="KILLED") == 0
    assert first.run
    run_id = first.run.run_id

    how: dict[str, Any] = {"parameters": {"algorithm": "SAC", "new": "1"}, "run_id": run_id}
    second = make_tracker(network.uri, tmp_path / NAME, tags={"attempt": "2"}, **how)
    until(lambda: second.run, 20)
    assert client.get_run(run_id).info.status == "RUNNING"
    second.log({"m": 2}, 2)
    assert second.close() == 0
    stored = client.get_run(run_id)
    assert second.run == first.run
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"algorithm": "PPO", "new": "1"}
    assert stored.data.tags["attempt"] == "2"
    assert steps_of(client, run_id, "m") == [1, 2]

    client.delete_run(run_id)
    third = make_tracker(network.uri, tmp_path / NAME, **how)
    third.log({"m": 3}, 3)
    assert third.close() == 0
    assert third.run
    assert third.run.run_id != run_id
    assert client.get_run(third.run.run_id).data.tags["resumed-from"] == run_id


@pytest.mark.slow
def test_credentials_reach_the_server_and_nothing_else(
    network: Network,
    tmp_path: Path,
    until: Until,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the environment or the address; not in the run's page, the file or a message."""
    basic = "Basic " + base64.b64encode(b"ana:geheim").decode()
    network.up()
    uri = network.uri.replace("//", "//ana:geheim@")
    tracker = make_tracker(uri, tmp_path / NAME, patience=2.0)
    run = until(lambda: tracker.run, 20)
    assert "geheim" not in run.url
    network.down()
    tracker.log({"m": 1}, 1)
    assert tracker.close() == 1
    assert "geheim" not in capsys.readouterr().err + tracker.problem
    assert "geheim" not in (tmp_path / NAME).read_text()
    assert {authorization for _, _, authorization in network.asked} == {basic}

    network.asked.clear()
    network.up()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ana")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim")
    assert sync(tmp_path, network.uri) == 1
    assert {authorization for _, _, authorization in network.asked} == {basic}


@pytest.mark.slow
def test_a_store_without_a_server(tmp_path: Path) -> None:
    """Such as `--mlflow_store` makes at home: a file, with artifacts beside it; no other files."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    output = tmp_path / "output"
    output.mkdir()
    (output / "monitor.csv").write_text("r,l,t\n")
    (tmp_path / "secret").write_text("not ours")
    how = {"artifact_location": (tmp_path / "artifacts").as_uri()}
    tracker = make_tracker(uri, output / NAME, **how)
    tracker.log({"m": 1}, 1)
    assert tracker.close(artifacts=[output / "monitor.csv"]) == 0
    run = tracker.run
    assert run is not None
    assert run.url == uri
    client = client_of(uri)
    assert steps_of(client, run.run_id, "m") == [1]
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["monitor.csv"]
    assert client.get_run(run.run_id).info.artifact_uri.startswith(how["artifact_location"])

    spool = Spool(
        output / NAME,
        Head(experiment="tracking", name="n", run_id=run.run_id, artifacts=("../secret",)),
    )
    spool.keep()
    spool.close()
    with pytest.raises(TrainerError, match=r"\.\./secret is not in"):
        sync(output, uri)


@pytest.mark.slow
def test_a_stored_model_predicts(mlflow_server: str, tmp_path: Path) -> None:
    """With its signature, on the environment's observations, as the policy does; and files."""
    import gymnasium
    import numpy as np
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", gymnasium.make("Pendulum-v1"), seed=1)
    model.save(tmp_path / "model.zip")
    mean, variance = np.array([0.1, -0.2, 1.0]), np.array([0.5, 2.0, 30.0])
    np.savez(tmp_path / "normalization.npz", mean=mean, variance=variance, count=10.0)
    (tmp_path / "best_model").mkdir()
    (tmp_path / "best_model" / "best_model.zip").write_bytes(b"best")
    tracker = make_tracker(mlflow_server, tmp_path / NAME)
    left = tracker.close(
        artifacts=[tmp_path / "best_model", tmp_path / "normalization.npz"],
        model=ServedModel.of(model, tmp_path / "model.zip", tmp_path / "normalization.npz"),
    )
    assert left == 0
    assert not (tmp_path / NAME).exists(), tracker.problem
    run = tracker.run
    assert run is not None

    import mlflow

    mlflow.set_tracking_uri(mlflow_server)
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    normalized = ((observations - mean) / np.sqrt(variance + 1e-8)).astype(np.float32)
    expected, _ = model.predict(normalized, deterministic=True)
    assert np.array_equal(loaded.predict(observations), expected)
    signature = loaded.metadata.signature
    assert str(signature.inputs) == "[Tensor('float32', (-1, 3))]"
    assert str(signature.outputs) == "[Tensor('float32', (-1, 1))]"
    client = client_of(mlflow_server)
    stored = client.get_run(run.run_id)
    assert stored.data.params == {"algorithm": "PPO"}
    assert {file.path for file in client.list_artifacts(run.run_id)} == {
        "best_model",
        "normalization.npz",
    }


@pytest.mark.slow
def test_an_attempt_elsewhere_leaves_no_gap_and_repeats_nothing(
    network: Network, mlflow_server: str, tmp_path: Path, until: Until
) -> None:
    """The run has each step once: the unsent came with the checkpoint, the sent stay as they are.

    The first attempt dies without a word, and its disk with it; the last checkpoint is of step 4.
    """
    network.up()
    client = client_of(mlflow_server)  # not by the network, which breaks connections
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    first = make_tracker(network.uri, there / NAME)
    until(lambda: first.run, 20)
    assert first.run
    run_id = first.run.run_id
    first.log({"sent": 1}, 1)
    until(lambda: steps_of(client, run_id, "sent") == [1], 20)
    network.down()
    for step in (2, 3, 4):
        first.log({"sent": step, "late": step}, step)
    kept = here / KEPT
    first.keep(kept)
    network.up()
    first.log({"sent": 5, "after": 5}, 5)  # these steps will be run again
    until(lambda: steps_of(client, run_id, "after") == [5], 60)
    first.log({"never sent": 6}, 6)

    second = make_tracker(network.uri, here / NAME, run_id=run_id, resumed_at=4, kept=kept)
    for step in (5, 6, 7):
        second.log({"sent": -step, "after": -step}, step)
    assert second.close() == 0

    assert steps_of(client, run_id, "sent") == [1, 2, 3, 4, 5, 6, 7]
    assert steps_of(client, run_id, "late") == [2, 3, 4]
    assert steps_of(client, run_id, "after") == [5, 6, 7]
    assert not list(here.iterdir())
    first.close()


@pytest.mark.slow
def test_a_run_that_the_checkpoint_did_not_know_is_found(
    network: Network, mlflow_server: str, tmp_path: Path
) -> None:
    """The server answers for the first time after the checkpoint: still one run, and all of it."""
    client = client_of(mlflow_server)
    first = make_tracker(network.uri, tmp_path / "1.jsonl", experiment="found")
    first.log({"m": 1}, 1)
    kept = tmp_path / KEPT
    first.keep(kept)
    network.up()
    first.log({"m": 2}, 2)
    assert first.close(status="KILLED") == 0
    second = make_tracker(
        network.uri, tmp_path / NAME, experiment="found", resumed_at=1, kept=kept
    )
    second.log({"m": 2}, 2)
    second.log({"m": 3}, 3)
    assert second.close() == 0

    assert second.run == first.run
    assert second.run
    assert steps_of(client, second.run.run_id, "m") == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["server", "file"])
def test_an_attempt_that_died_without_a_checkpoint_does_not_run_for_ever(
    store: str, mlflow_server: str, tmp_path: Path, until: Until
) -> None:
    """The next one begins anew, with a run of its own, and ends the other; no third one's."""
    uri = mlflow_server if store == "server" else f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = client_of(uri)

    def attempt(number: int, of: str = "s-0001") -> tuple[Tracker, str]:
        who = {"sweep": "s", "experiment": of, "attempt": str(number)}
        made = make_tracker(
            uri, tmp_path / f"{of}-{number}.jsonl", experiment=f"dead-{store}", tags=who
        )
        run = until(lambda: made.run, 30)
        return made, run.run_id

    neighbour, other = attempt(1, of="s-0002")
    dead, first = attempt(1)
    second, new = attempt(2)

    assert second.close() == 0
    assert client.get_run(new).info.status == "FINISHED"
    assert client.get_run(other).info.status == "RUNNING"
    left = client.get_run(first)
    assert left.info.status == "KILLED"
    assert left.data.tags["superseded-by"] == new
    neighbour.close()
    dead.close()


def test_a_resumed_training_forgets_what_it_runs_again(tmp_path: Path) -> None:
    """Of what waits, that of later steps goes; what the checkpoint kept comes first, once."""
    path = tmp_path / NAME
    one, two, three = (Metric(key="m", value=s, timestamp=s, step=s) for s in (1, 2, 3))
    spool = Spool(path, Head(experiment="e", name="n", run_id="abc"))
    spool.append([two, three])
    spool.rewind(2, [one, two])
    assert spool.take(9)[0] == [one, two]
    spool.copy(tmp_path / KEPT, [three])
    spool.close()
    kept = Spool.existing(tmp_path / KEPT)
    assert kept.take(9)[0] == [one, two, three]
    assert (kept.waiting, kept.head.run_id) == (3, "abc")
    kept.close()
