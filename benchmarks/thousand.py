"""1,000 inert VMs: a sweep as large as an instance group holds, from its plan to its end.

The VMs hold no programs, so the records and logs that their runners would write are written here
before they are read. Beside the figures the seeds' way (cloud_manager.py, 2021): a request for
each VM, measured on some of them and reckoned up; it ran a `gcloud` for each, whose start (a
second or more) is left out.
"""

import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.clouds import BIN, OwnCloud, clean_environment

from benchmarks.figures import Figure, show
from gcloud_ops import bucket, launching, logs, objects, reaping, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, timestamp
from gcloud_ops.model import Sweep

VMS = 1000
LOGS = 64
SAMPLE = 50
"""VMs that the seeds' way is measured on."""
NAME = "thousand"


def main() -> list[Figure]:
    """Plan, launch, look, read, watch, reap, cancel."""
    with tempfile.TemporaryDirectory() as folder:
        environment = clean_environment() | {
            "HOME": folder,
            "XDG_CONFIG_HOME": folder,
            "PATH": f"{BIN}:/usr/bin:/bin",
        }
        home = Path(folder) / "cloud"
        home.mkdir()
        cloud = OwnCloud(home, environment, "--boot-seconds", "1")
        try:
            return show(f"{VMS} inert VMs, dispatch: boot", _measure(cloud, environment))
        finally:
            cloud.stop()


def _measure(cloud: OwnCloud, environment: dict[str, str]) -> list[Figure]:
    clients = cloud.clients
    spec = templates.TemplateSpec(name="sinergym-template", image="europe-docker.pkg.dev/l/s/t:1")
    templates.create_template(clients, spec)
    objects.ensure_bucket(clients, clients.settings.bucket_name, location="EU")
    sweep = Sweep.of_commands(
        NAME, [f"sinergym-train --seed {number}" for number in range(VMS)], dispatch=Dispatch.BOOT
    )
    clients.read("zone", clients.zones.get, project=clients.project, zone=clients.zone)  # connect

    before = _calls(cloud)
    begin = time.perf_counter()
    planned = launching.plan(sweep, clients)
    planning = time.perf_counter() - begin
    end = list(launching.launch(planned, clients))[-1]
    launched = time.perf_counter() - begin
    calls = _calls(cloud) - before
    if not (isinstance(end, launching.Launched) and end.is_complete):
        raise SystemExit(f"the launch failed: {end}")
    _until_all_run(clients)
    figures = [
        Figure(what="plan, with its cost", value=planning, unit="s", limit=1.0),
        Figure(
            what="API calls, plan and launch",
            value=calls,
            unit="",
            limit=10,
            baseline=3 * VMS,
            baseline_is="create, probe and command for each VM",
        ),
        Figure(what="plan and launch, until the laptop may be closed", value=launched, unit="s"),
    ]
    _write_records(clients, sweep)
    _write_logs(clients, sweep)
    return [
        *figures,
        *_look(cloud),
        *_read_logs(clients, sweep),
        *_reap(cloud),
        *_cancel(cloud),
        _memory(cloud, environment),
    ]


def _look(cloud: OwnCloud) -> list[Figure]:
    clients = cloud.clients
    before = _calls(cloud)
    begin = time.perf_counter()
    seen = sweeps.status(NAME, clients)
    first = time.perf_counter() - begin
    calls = _calls(cloud) - before
    if len(seen.rows) != VMS or any(row.record is None for row in seen.rows):
        raise SystemExit("the status does not show all experiments")
    looking = sweeps.SweepWatch(NAME, clients)
    looks = [_seconds(looking.refresh) for _ in range(9)]
    before = _calls(cloud)
    stop = threading.Event()
    cpu, begin = time.process_time(), time.perf_counter()
    for number, _ in enumerate(sweeps.watch(NAME, clients, interval=1.0, stop=stop), start=1):
        if number == 5:
            stop.set()
    wall = time.perf_counter() - begin
    a_get = _seconds(lambda: _get(clients, SAMPLE)) / SAMPLE
    return [
        Figure(
            what="status of the whole sweep, the first",
            value=first,
            unit="s",
            limit=0.5,
            baseline=a_get * VMS,
            baseline_is="a get for each VM",
        ),
        Figure(what="its API calls", value=calls, unit="", limit=5),
        Figure(what="a further look (median of 9)", value=statistics.median(looks), unit="s"),
        Figure(
            what="watch, a look a second: share of one core",
            value=100 * (time.process_time() - cpu) / wall,
            unit="%",
        ),
    ]


def _read_logs(clients: Clients, sweep: Sweep) -> list[Figure]:
    chosen = [each.id for each in sweep.experiments[:LOGS]]
    where = clients.settings.bucket_name

    def one(experiment: str) -> bytes:
        return logs.read(clients, where, NAME, experiment, tail=100)

    def together() -> None:
        with ThreadPoolExecutor(LOGS) as pool:
            if not all(pool.map(one, chosen)):
                raise SystemExit("a log is empty")

    alone = _seconds(lambda: [one(id_) for id_ in chosen[:8]]) / 8 * LOGS
    return [
        Figure(
            what=f"the last 100 lines of {LOGS} logs at once",
            value=_seconds(together),
            unit="s",
            baseline=alone,
            baseline_is="one after another",
        )
    ]


def _reap(cloud: OwnCloud) -> list[Figure]:
    clients = cloud.clients
    before = _calls(cloud)
    begin = time.perf_counter()
    found = reaping.find(clients)
    took = time.perf_counter() - begin
    mine = [orphan for orphan in found if orphan.name.startswith(NAME)]
    if mine:
        raise SystemExit(f"a healthy sweep is to be reaped: {mine[:3]}")
    return [
        Figure(what="reap's look at all that is there", value=took, unit="s"),
        Figure(what="its API calls", value=_calls(cloud) - before, unit="", limit=20),
    ]


def _cancel(cloud: OwnCloud) -> list[Figure]:
    clients = cloud.clients
    before = _calls(cloud)
    took = _seconds(lambda: sweeps.cancel(NAME, clients))
    a_record = (_calls(cloud) - before) / VMS
    return [
        Figure(what="cancel: instances, group and records", value=took, unit="s"),
        Figure(what="its API calls for each VM", value=a_record, unit="", limit=1.1),
    ]


def _memory(cloud: OwnCloud, environment: dict[str, str]) -> Figure:
    """The most that the command takes while it launches as many again."""
    file = Path(environment["HOME"]) / "sweep.yaml"
    file.write_text(f"name: again\nbase: sinergym-train\nseeds: {VMS}\n")
    words = [str(BIN / "gcloud-ops"), "sweep", "launch", str(file), "--yes"]
    process = subprocess.Popen(
        words,
        env=environment | cloud.flags,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the launch failed: {said.decode()}")
    sweeps.cancel("again", cloud.clients)
    return Figure(
        what="memory of `gcloud-ops sweep launch`",
        value=usage.ru_maxrss / 1024,
        unit="MB",
        limit=250,
    )


def _write_records(clients: Clients, sweep: Sweep) -> None:
    """What runners say of themselves in the middle of a training."""
    seen = sweeps.status(NAME, clients)
    members = {row.id: row.member.id if row.member else "" for row in seen.rows}
    now = datetime.now(UTC)

    def write(number: int) -> None:
        id_ = sweep.experiments[number].id
        record = {
            "schema": 1,
            "sweep": NAME,
            "experiment": id_,
            "attempt": 1,
            "state": "running",
            "instance": id_,
            "instance_id": members[id_],
            "spent": 0,
            "history": [],
            "command": sweep.experiments[number].command,
            "started": timestamp(now - timedelta(minutes=30)),
            "updated": timestamp(now),
            "progress": {
                "episode": 3,
                "episodes": 10,
                "timesteps": 105120,
                "total_timesteps": 350400,
                "mean_reward": -200.0 - number / 10,
            },
            "versions": {"sinergym-trainer": "0.1.0", "sinergym": "3.12.2"},
        }
        where = clients.settings.bucket_name
        bucket.replace_record(clients, where, NAME, id_, record, generation=0)

    _many(write)


def _write_logs(clients: Clients, sweep: Sweep) -> None:
    def write(number: int) -> None:
        found = clients.storage.bucket(clients.settings.bucket_name)
        offset = 0
        for part in range(3):
            lines = [
                f"| rollout {part} {line} | ep_rew_mean | -2{line}.5 |" for line in range(200)
            ]
            text = ("\n".join(lines) + "\n").encode()
            name = f"{NAME}/{sweep.experiments[number].id}/log/1/{offset:012d}.log"
            found.blob(name).upload_from_string(text)
            offset += len(text)

    _many(write, count=LOGS)


def _many(write: Callable[[int], None], *, count: int = VMS) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(write, range(count)))


def _until_all_run(clients: Clients) -> None:
    deadline = time.monotonic() + 120
    while True:
        seen = sweeps.status(NAME, clients)
        if sum(row.member is not None and row.member.is_up for row in seen.rows) == VMS:
            return
        if time.monotonic() > deadline:
            raise SystemExit("the instances do not come up")
        time.sleep(0.5)


def _get(clients: Clients, count: int) -> None:
    """Look at so many instances as the seeds did: one after the other."""
    for number in range(1, count + 1):
        clients.read(
            "instance",
            clients.instances.get,
            project=clients.project,
            zone=clients.zone,
            instance=f"{NAME}-{number:04d}",
        )


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _calls(cloud: OwnCloud) -> int:
    return sum(cloud.calls().values())
