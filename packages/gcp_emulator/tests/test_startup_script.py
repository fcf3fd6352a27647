"""Startup scripts, and what a reboot keeps of a VM."""

import asyncio
import itertools
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gcp_emulator.docker.engine import Engine, InertEngine, ProcessEngine
from gcp_emulator.docker.streams import Streams
from gcp_emulator.guest.vm import Vm, VmSpec
from gcp_emulator.server import LocalCloud

from .conftest import Client, until

PORT = 22023
_addresses = itertools.count(1)

type Make = Callable[..., Vm]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes VMs, all with the same disk; `metadata` by keyword."""
    made: list[Vm] = []
    sleeper = shlex.join([sys.executable, "-c", "import time; time.sleep(1000)"])

    def make(*, engine: Engine | None = None, **metadata: str) -> Vm:
        number = next(_addresses)
        vm = Vm(
            VmSpec(
                name="server",
                id=str(number),
                project="local",
                zone="europe-west1-b",
                address=f"127.79.{os.getpid() % 250}.{number}",
                machine_type="e2-medium",
            ),
            metadata={key.replace("_", "-"): value for key, value in metadata.items()},
            engine=engine or ProcessEngine(sleeper),
            folder=tmp_path / "disk",
            ssh_port=PORT,
            metadata_port=8080,
            environment={"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"},
            boot_seconds=0,
            pull_seconds=0,
            record=lambda _event: None,
        )
        made.append(vm)
        return vm

    yield make
    await asyncio.gather(*(vm.shutdown(0) for vm in made))


async def shows(vm: Vm, text: str) -> str:
    """The serial port's text, once it has this."""

    async def look() -> bool:
        return text in vm.serial.decode()

    await until(look)
    return vm.serial.decode()


async def run(vm: Vm, line: str) -> tuple[int, str]:
    """Run a command line on the VM as root; exit status and all that it said."""
    said = b""

    async def sink(_stream: int, data: bytes) -> None:
        nonlocal said
        said += data

    code = await vm._guest.line(line, Streams(sink=sink), {"USER": "root", "HOME": "/root"})
    return code, said.decode()


FINISHED = "Finished running startup scripts."


async def test_a_script_runs_as_root_with_the_tools_of_the_vm(make: Make) -> None:
    """After cloud-init; its lines and its exit status reach the serial port."""
    vm = make(
        user_data="#cloud-config\nruncmd: [echo from cloud-init]\n",
        startup_script='#!/bin/bash\nset -e\nhostname\nfor ((n = 0; n < 2; n++)); do echo "$n"; '
        "done\necho warned >&2\nwhoami_is=$USER; echo I am $whoami_is\necho $GCE_METADATA_HOST\n"
        "docker ps --quiet | wc -l\niptables -w -A INPUT -p tcp --dport 5000 -j ACCEPT\n",
    )
    await vm.boot()
    shown = await shows(vm, FINISHED)
    for line in ("server", "0", "1", "warned", "I am root", f"{vm.spec.address}:8080"):
        assert f"startup-script: {line}\r\n" in shown, shown
    assert "startup-script exit status 0" in shown
    assert shown.index("from cloud-init") < shown.index("Found startup-script in metadata.")


async def test_a_script_without_a_first_line_and_one_that_fails(make: Make) -> None:
    """Bash takes it; a failure is told with its exit status."""
    vm = make(startup_script="echo plain\nexit 7\n")
    await vm.boot()
    shown = await shows(vm, FINISHED)
    assert "startup-script: plain" in shown
    assert 'Script "startup-script" failed with error: exit status 7' in shown


async def test_the_inert_engine_says_what_it_would_run(make: Make) -> None:
    """And runs nothing."""
    vm = make(engine=InertEngine(), startup_script="touch /run/never")
    await vm.boot()
    shown = await shows(vm, FINISHED)
    assert "Found startup-script in metadata." in shown
    assert "runs no scripts" in shown


async def test_a_url_that_is_not_of_the_storage(make: Make) -> None:
    """Nothing of a local cloud asks anybody else; and a storage that is away is told."""
    vm = make(startup_script_url="https://example.com/x.sh")
    await vm.boot()
    shown = await shows(vm, FINISHED)
    assert "fetches objects of its storage only" in shown


async def test_a_script_ends_with_its_vm(make: Make, tmp_path: Path) -> None:
    """Nothing of it is left after the shutdown."""
    vm = make(startup_script=f"echo $$ > {tmp_path}/pid\nsleep 1000 & sleep 1000\n")
    await vm.boot()

    async def begun() -> bool:
        return (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text())

    await until(begun)
    pid = int((tmp_path / "pid").read_text())
    await vm.shutdown(0)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


SCRATCH = "/tmp"
CONTAINERS = f"""#cloud-config
write_files:
- {{path: /etc/systemd/system/web.service, content: "[Service]\\nExecStart=/usr/bin/docker run
    --name=web web\\nRestart=always\\nRestartSec=0.1\\n"}}
- {{path: /var/lib/kept, content: "first", append: true}}
runcmd: [mkdir {SCRATCH}/scratch, mkdir /run/scratch, mkdir /home/ana]
"""


async def test_what_a_reboot_keeps(make: Make, tmp_path: Path) -> None:
    """/var and /home stay, /etc, /run and /tmp do not; cloud-init does all of its work again."""
    first = make(user_data=CONTAINERS, startup_script="echo boot one")
    await first.boot()
    await shows(first, FINISHED)
    root = tmp_path / "disk/root"
    (root / "etc/by-hand").write_text("")
    assert (root / "tmp/scratch").is_dir()
    await first.shutdown(0)

    second = make(
        user_data="#cloud-config\nwrite_files:\n"
        "- {path: /var/lib/kept, content: second, append: true}\n"
        "- {path: /etc/new, content: x}\n",
        startup_script="echo boot two",
    )
    await second.boot()
    shown = await shows(second, FINISHED)
    assert "startup-script: boot two" in shown
    assert (root / "var/lib/kept").read_text() == "firstsecond"
    assert {path.name for path in (root / "etc").iterdir()} == {"new"}
    assert not (root / "tmp/scratch").exists()
    assert not (root / "run/scratch").exists()
    assert (root / "home/ana").is_dir()
    assert (await run(second, "systemctl start web"))[1].endswith("not found.\n")


async def test_containers_after_a_reboot(make: Make) -> None:
    """They are there, stopped, with their logs; a policy of always starts its own again."""
    first = make()
    await first.boot()
    for words in (
        "--name=plain --detach web:1",
        "--name=again --detach --restart=always web:1",
        "--name=stopped --detach --restart=unless-stopped web:1",
        "--name=unstopped --detach --restart=unless-stopped web:1",
        "--name=gone --detach --rm web:1",
    ):
        assert (await run(first, f"docker run {words}"))[0] == 0
    await run(first, "docker exec plain sh -c 'echo said > file'")
    assert (await run(first, "docker stop stopped"))[0] == 0
    before = (await run(first, "docker inspect --format '{{.Id}}' plain"))[1]
    await first.shutdown(5)

    second = make()
    await second.boot()
    await shows(second, "No startup scripts to run.")
    code, said = await run(second, "docker ps --all --format '{{.Names}} {{.State}}'")
    assert code == 0
    assert dict(line.split() for line in said.splitlines()) == {
        "plain": "exited",
        "stopped": "exited",
        "again": "running",
        "unstopped": "running",
    }
    assert (await run(second, "docker inspect --format '{{.Id}}' plain"))[1] == before
    # The image is there, too: it is not pulled once more.
    assert "web" in (await run(second, "docker images"))[1]
    assert (await run(second, "docker start plain")) == (0, "plain\n")
    assert (await run(second, "docker exec plain cat file")) == (0, "said\n")
    assert (await run(second, "docker rm --force plain"))[0] == 0


async def test_a_unit_restarts_its_container(make: Make) -> None:
    """However it ends: by itself, by docker restart, or by systemctl restart."""
    vm = make(user_data=CONTAINERS + "- systemctl start web\n")
    vm._metadata["user-data"] = CONTAINERS.replace(
        "[Service]\\n", "[Service]\\nExecStartPre=-/usr/bin/docker rm --force web\\n"
    ).replace("runcmd: [", "runcmd: [systemctl start web, ")
    await vm.boot()
    seen: set[str] = set()

    async def another() -> bool:
        code, said = await run(vm, "docker inspect --format '{{.Id}} {{.State.Running}}' web")
        identity, _, running = said.strip().partition(" ")
        if code or running != "true" or identity in seen:
            return False
        seen.add(identity)
        return True

    await until(another)
    for how in ("docker kill web", "systemctl restart web", "docker restart --time 5 web"):
        assert (await run(vm, how))[0] == 0
        await until(another)
    assert "Scheduled restart job" in (await run(vm, "journalctl -u web"))[1]
    assert await run(vm, "systemctl stop web") == (0, "")
    assert await run(vm, "systemctl is-active web") == (3, "inactive\n")


async def test_docker_restart_keeps_the_container(make: Make) -> None:
    """The same container runs again, with its log; one of --rm is not removed meanwhile."""
    vm = make()
    await vm.boot()
    assert (await run(vm, "docker run --detach --rm --name=job web:1"))[0] == 0
    before = (await run(vm, "docker inspect --format '{{.Id}} {{.State.Pid}}' job"))[1].split()
    assert await run(vm, "docker restart job") == (0, "job\n")
    after = (await run(vm, "docker inspect --format '{{.Id}} {{.State.Pid}}' job"))[1].split()
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert await run(vm, "docker stop --time 5 job") == (0, "job\n")

    async def removed() -> bool:
        return not (await run(vm, "docker ps --all --quiet"))[1]

    await until(removed)


async def test_a_script_of_the_storage(tmp_path: Path) -> None:
    """gs:// and https:// name objects; a missing one is told, and the VM boots on."""
    script = "#!/bin/sh\necho fetched for $(hostname)\n"
    async with (
        LocalCloud(tmp_path / "cloud", operation_seconds=0.0, boot_seconds=0.0) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        storage = f"{cloud.endpoint}/storage/v1/b"
        async with session.post(storage, params={"project": "local"}, json={"name": "scripts"}):
            pass
        upload = f"{cloud.endpoint}/upload/storage/v1/b/scripts/o"
        query = {"uploadType": "media", "name": "a folder/start.sh"}
        async with session.post(upload, params=query, data=script) as reply:
            assert reply.status == 200
        urls = {
            "one": "gs://scripts/a folder/start.sh",
            "two": "https://storage.googleapis.com/scripts/a%20folder/start.sh",
            "three": "gs://scripts/missing.sh",
        }
        await client.template()
        await client.group()
        bodies = [
            {"name": name, "preservedState": {"metadata": {"startup-script-url": url}}}
            for name, url in urls.items()
        ]
        groups = "zones/europe-west1-b/instanceGroupManagers/quick"
        await client.call("POST", f"{groups}/createInstances", {"instances": bodies})
        cloud.lifecycle.set_capacity(3)
        shown = {name: await serial(client, name, FINISHED) for name in urls}
        for name in ("one", "two"):
            assert f"startup-script-url: fetched for {name}" in shown[name]
            assert "startup-script-url exit status 0" in shown[name]
        assert "gs://scripts/missing.sh: storage: object doesn't exist" in shown["three"]


async def serial(client: Client, name: str, text: str) -> str:
    """The serial port's text as the API shows it, once it has this."""
    shown = ""

    async def look() -> bool:
        nonlocal shown
        async with client.session.get(
            f"{client.cloud.endpoint}/compute/v1/projects/local/zones/europe-west1-b/"
            f"instances/{name}/serialPort"
        ) as reply:
            found: dict[str, Any] = await reply.json()
        shown = found.get("contents", "")
        return text in shown

    await until(look)
    return shown
