"""Images: which program is behind a name, what it finds, and when the pull fails."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_emulator.cli import main
from gcp_emulator.docker.streams import Streams
from gcp_emulator.docker.words import last_part, manifest_unknown, parse_program
from gcp_emulator.guest.vm import Vm
from gcp_emulator.server import LocalCloud

from .conftest import Client, until

IMAGE = "europe-docker.pkg.dev/p/r/mlflow-server:3.1"
PROGRAM = """
import os, sys
print(sys.argv[1:], flush=True)
for name in sorted(os.environ):
    print(f"{name}={os.environ[name]}", flush=True)
"""

type Shell = Callable[[str], Awaitable[tuple[int, str]]]


@asynccontextmanager
async def shell_of(folder: Path, **options: Any) -> AsyncIterator[tuple[LocalCloud, Shell]]:
    """A cloud with one VM, and its command line: exit status and all that was said."""
    async with (
        LocalCloud(
            folder / "cloud", operation_seconds=0.0, boot_seconds=0.0, capacity=1, **options
        ) as cloud,
        aiohttp.ClientSession() as session,
    ):
        client = Client(cloud, session)
        await client.template()
        await client.group()
        await client.create("quick-0001")
        await client.settled(count=1)
        (instance,) = cloud.state.instances.values()
        vm = instance.machine
        assert isinstance(vm, Vm)

        async def shell(line: str) -> tuple[int, str]:
            said = b""

            async def sink(_stream: int, data: bytes) -> None:
                nonlocal said
                said += data

            code = await vm._guest.line(line, Streams(sink=sink), {"USER": "root"})
            return code, said.decode()

        yield cloud, shell


async def test_a_program_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the words after the image and all endpoints; other images keep their entry point."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setenv("GCP_EMULATOR_ENTRYPOINT", "echo the usual one:")
    images = {"mlflow-server": f"{sys.executable} {program}"}
    async with shell_of(tmp_path, images=images) as (cloud, shell):
        code, said = await shell(
            f"docker run --network=host --name=mlflow {IMAGE} one 'two three'"
        )
        assert code == 0, said
        assert "['one', 'two three']" in said
        (instance,) = cloud.state.instances.values()
        for variable in (
            f"STORAGE_EMULATOR_HOST={cloud.endpoint}",
            f"CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE={cloud.endpoint}/compute/v1/",
            f"CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER={cloud.endpoint}/",
            f"CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING={cloud.endpoint}/",
            f"CSQL_PROXY_SQLADMIN_API_ENDPOINT={cloud.endpoint}/",
            f"GCE_METADATA_HOST={instance.address}:{cloud.metadata_port}",
            "HOSTNAME=quick-0001",
        ):
            assert f"{variable}\n" in said
        assert (await shell("docker logs mlflow"))[1].startswith("['one', 'two three']")
        kept = await shell("docker inspect --format '{{.Config.Image}}' mlflow")
        assert kept == (0, f"{IMAGE}\n")
        code, said = await shell("docker run --entrypoint=cloud-sql-proxy other:1 --help")
        assert (code, "usage: cloud-sql-proxy" in said) == (0, True), said
        code, said = await shell("docker run other:1 word")
        assert (code, said.splitlines()[-1]) == (0, "the usual one: word")
        code, said = await shell(f"docker run --entrypoint=echo {IMAGE} given")
        assert (code, said.splitlines()[-1]) == (0, "given")


async def test_a_pull_that_fails_on_demand(tmp_path: Path) -> None:
    """So often as asked, for that image only, with Docker's words and its exit code."""
    async with (
        shell_of(tmp_path, images={"mlflow-server": "true", "other": "true"}) as (cloud, shell),
        aiohttp.ClientSession() as session,
    ):
        fault = {"method": "docker.pull", "match": "mlflow-server:3.1", "count": 2}
        async with session.post(f"{cloud.endpoint}/emulator/faults", json=fault) as reply:
            assert reply.status == 200
        code, said = await shell(f"docker run --name=mlflow {IMAGE}")
        assert code == 125
        assert f"docker: Error response from daemon: manifest for {IMAGE} not found: " in said
        assert 'manifest unknown: Failed to fetch "3.1"' in said
        assert (await shell("docker run other:1"))[0] == 0
        code, said = await shell(f"docker pull {IMAGE}")
        assert (code, "manifest unknown" in said) == (1, True)
        # The refused container was never made.
        assert await shell("docker ps --all --quiet --filter name=mlflow") == (0, "")
        assert (await shell(f"docker run --name=mlflow {IMAGE}"))[0] == 0

        fault = {"method": "docker.*", "message": "denied: Permission denied on the repository"}
        async with session.post(f"{cloud.endpoint}/emulator/faults", json=fault):
            pass
        code, said = await shell("docker run third:1")
        assert code == 125
        assert "daemon: denied: Permission denied on the repository" in said


async def test_a_pull_that_takes_its_time(tmp_path: Path) -> None:
    """A fault of status 200 delays the pull, which then succeeds."""
    async with (
        shell_of(tmp_path, images={"slow": "true"}) as (cloud, shell),
        aiohttp.ClientSession() as session,
    ):
        fault = {"method": "docker.pull", "status": 200, "delay": 0.2}
        async with session.post(f"{cloud.endpoint}/emulator/faults", json=fault):
            pass
        assert (await shell("docker run slow"))[0] == 0

        async def taken() -> bool:
            return not cloud.faults.waiting

        await until(taken)


@pytest.mark.parametrize(
    "text",
    [
        "mlflow-server",
        "=program",
        "mlflow-server=",
        "a/b=program",
        "name:1=program",
        "NAME=program",
        "name='a",
        "",
    ],
)
def test_a_bad_option_is_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, and how it is meant; nothing is made."""
    folder = tmp_path / "cloud"
    with pytest.raises(SystemExit) as left:
        main(["--folder", str(folder), f"--image={text}"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gcp-emulator: image {text!r}: ")
    assert said.count("\n") == 1
    assert not folder.exists()


def test_a_good_option() -> None:
    """The name and the program's words."""
    assert parse_program("web=run 'a b' c=d") == ("web", ("run", "a b", "c=d"))


def test_a_cloud_refuses_what_is_no_program(tmp_path: Path) -> None:
    """As on the command line."""
    with pytest.raises(ValueError, match="REPOSITORY=PROGRAM"):
        LocalCloud(tmp_path, images={"a/b": "program"})


@given(
    st.sampled_from(["", "docker.io/", "europe-docker.pkg.dev/p/r/", "localhost:5000/"]),
    st.sampled_from(["", ":1", ":latest", "@sha256:" + "0" * 64, ":1@sha256:" + "0" * 64]),
)
def test_what_an_image_is_called(registry: str, version: str) -> None:
    """The last part of its path, wherever it comes from and of whatever version."""
    assert last_part(f"{registry}mlflow-server{version}") == "mlflow-server"


def test_the_words_of_a_registry() -> None:
    """Artifact Registry's own, and those of others."""
    assert manifest_unknown("web:2") == "manifest for web:2 not found: manifest unknown: " + (
        "manifest unknown"
    )
    assert manifest_unknown("gcr.io/p/web").endswith('manifest unknown: Failed to fetch "latest"')
