"""200 inert VMs: how fast commands reach them, and what a look at all of them costs.

Beside it the seeds' way (cloud_manager.py, 2021) on the same VMs: one after another, a new SSH
connection for the probe and another for the command. It ran `gcloud compute ssh`, whose own start
(a second or more, each time) is left out here.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from tests.clouds import BIN, OwnCloud, clean_environment

from benchmarks.figures import Figure, show
from gcloud_ops import instances, launching, ssh, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch
from gcloud_ops.model import Sweep

VMS = 200
BOOT, PULL = 1.0, 8.0  # seconds; on Google Cloud it is tens of each


def main() -> list[Figure]:
    """Launch, dispatch, look, remove."""
    with tempfile.TemporaryDirectory() as folder:
        environment = clean_environment() | {
            "HOME": folder,
            "XDG_CONFIG_HOME": folder,
            "PATH": f"{BIN}:/usr/bin:/bin",
        }
        home = Path(folder) / "cloud"
        home.mkdir()
        cloud = OwnCloud(
            home, environment, "--boot-seconds", str(BOOT), "--pull-seconds", str(PULL)
        )
        try:
            return _measure(cloud)
        finally:
            cloud.stop()


def _measure(cloud: OwnCloud) -> list[Figure]:
    clients = cloud.clients
    templates.create_template(
        clients,
        templates.TemplateSpec(
            name="sinergym-template", image="europe-docker.pkg.dev/local/s/trainer"
        ),
    )
    commands = [f"train {number}" for number in range(VMS)]
    sweep = Sweep.of_commands("fleet", commands, dispatch=Dispatch.SSH)

    begin = time.perf_counter()
    planned = launching.plan(sweep, clients)
    events = list(launching.launch(planned, clients))
    launched = time.perf_counter() - begin
    end = events[-1]
    if not (isinstance(end, launching.Launched) and end.is_complete):
        raise SystemExit(f"the launch failed: {events[-3:]}")

    timeline = cloud.ask("timeline")["instances"]
    ready = max(vm["container"]["monotonic"] for vm in timeline)
    dispatched = max(vm["exec"]["monotonic"] for vm in timeline)
    ours = dispatched - ready

    before = cloud.calls()
    looking = sweeps.SweepWatch("fleet", clients)
    looks = []
    for _ in range(5):
        begin = time.perf_counter()
        looking.refresh()
        looks.append(time.perf_counter() - begin)
    after = cloud.calls()
    manifest = 1
    cost = (sum(after.values()) - sum(before.values()) - manifest) / len(looks)

    one_after_another = _seeds_way(clients)

    begin = time.perf_counter()
    sweeps.cancel("fleet", clients)
    removed = time.perf_counter() - begin
    return show(
        f"{VMS} inert VMs (boot {BOOT:g} s, image {PULL:g} s)",
        [
            Figure(
                what="last container ready -> last command dispatched",
                value=ours,
                unit="s",
                limit=3.0,
                baseline=one_after_another,
                baseline_is="one after another",
            ),
            Figure(what="launch, from plan to last command", value=launched, unit="s"),
            Figure(
                what="API calls of a status refresh",
                value=cost,
                unit="",
                limit=2,
                baseline=VMS,
                baseline_is="a get for each VM",
            ),
            Figure(what="status refresh (median of 5)", value=statistics.median(looks), unit="s"),
            Figure(what="cancel: all instances, group and records", value=removed, unit="s"),
        ],
    )


def _seeds_way(clients: Clients) -> float:
    """Seconds to send one command to each VM as the seeds did, all containers being ready."""
    found = instances.list_instances(clients, group="fleet")
    keys = {i.name: instances.host_keys(clients, i.name) for i in found}

    async def send_all() -> None:
        for instance in found:
            where = (instance.address, instance.name, keys[instance.name], clients.settings)
            async with ssh.connect(*where, timeout=30) as connection:
                await connection.run("docker ps -q --filter name=sinergym")
            async with ssh.connect(*where, timeout=30) as connection:
                await connection.run("docker exec sinergym sinergym-runner submit -- again")

    begin = time.perf_counter()
    asyncio.run(send_all())
    return time.perf_counter() - begin
