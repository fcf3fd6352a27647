"""The command: runs, is found, ends, and leaves nothing behind."""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gcp_emulator.cli import main

COMMAND = [sys.executable, "-m", "gcp_emulator.cli"]
COMPANION = f"web={sys.executable} -m http.server {{port}} --bind 127.0.0.1 --directory {{folder}}"


def run(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command's end, within ten seconds."""
    place = ["--folder", str(folder)] if folder else []
    return subprocess.run(
        [*COMMAND, *words, *place], capture_output=True, text=True, timeout=10, check=False
    )


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A cloud that is ready; killed with its group should the test leave it running."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--folder", str(folder), "--engine", "inert", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: (folder / "cloud.json").exists() or process.poll() is not None)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def known(folder: Path) -> Any:
    """What cloud.json says."""
    return json.loads((folder / "cloud.json").read_text())


def ask(url: str, body: object = None) -> Any:
    """A JSON reply: of GET, or of POST when there is a body."""
    request = urllib.request.Request(url, method="GET" if body is None else "POST")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=5) as reply:
        return json.load(reply)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_life_of_a_cloud(tmp_path: Path) -> None:
    """Serve, status, env, a second serve refused, wipe refused, stop; then nothing is left."""
    with serving(tmp_path, "--companion", COMPANION) as process:
        cloud = known(tmp_path)
        assert cloud["pid"] == process.pid
        web = cloud["companions"]["web"]
        until(lambda: _answers(web["url"]))
        assert (tmp_path / "companions" / "web").is_dir()
        shown = run("status", "--output", "json", folder=tmp_path)
        assert json.loads(shown.stdout)["id"] == cloud["id"]
        assert cloud["endpoint"] in run("status", folder=tmp_path).stdout
        exported = run("env", folder=tmp_path).stdout.splitlines()
        assert f"export STORAGE_EMULATOR_HOST={cloud['endpoint']}" in exported
        assert f"export GCLOUD_OPS_SSH_PORT={cloud['ssh_port']}" in exported
        second = run("serve", folder=tmp_path)
        assert second.returncode == 1
        assert cloud["endpoint"] in second.stderr
        assert len(second.stderr.splitlines()) == 1
        assert run("wipe", folder=tmp_path).returncode == 1
        assert run("stop", folder=tmp_path).returncode == 0
        assert process.wait(5) == 0
        output, errors = process.communicate()
        assert output.splitlines() == exported
        assert "Traceback" not in errors
    assert not alive(web["pid"])
    assert not (tmp_path / "cloud.json").exists()
    assert run("status", folder=tmp_path).returncode == 1
    assert run("env", folder=tmp_path).returncode == 1
    assert run("stop", folder=tmp_path).returncode == 0
    (tmp_path / "mine").write_text("not the cloud's")
    assert run("wipe", folder=tmp_path).returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_ends_on_sigterm_with_what_runs(tmp_path: Path) -> None:
    """SIGTERM ends instances, companions and the cloud, and exits with 0."""
    with serving(tmp_path, "--companion", COMPANION, "--boot-seconds", "0") as process:
        cloud = known(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not alive(cloud["companions"]["web"]["pid"])


@pytest.mark.slow
def test_a_companion_keeps_its_address(tmp_path: Path) -> None:
    """The cloud's next start finds it at the same port: what was written down stays true."""
    urls = []
    for _ in range(2):
        with serving(tmp_path, "--companion", COMPANION):
            urls.append(known(tmp_path)["companions"]["web"]["url"])

    assert urls[0] == urls[1]


@pytest.mark.slow
def test_a_killed_cloud_is_cleaned_up_after(tmp_path: Path) -> None:
    """After SIGKILL, the next cloud starts, and ends the companion that was left."""
    with serving(tmp_path, "--companion", COMPANION) as process:
        left = known(tmp_path)["companions"]["web"]["pid"]
        process.kill()
        process.wait()
        assert alive(left)
    assert run("status", folder=tmp_path).returncode == 1
    first = (tmp_path / "cloud.json").read_text()
    with serving(tmp_path) as process:
        until(lambda: (tmp_path / "cloud.json").read_text() != first)
        assert not alive(left)
        assert known(tmp_path)["pid"] == process.pid


@pytest.mark.slow
def test_ends_when_idle(tmp_path: Path) -> None:
    """Without instance or request for so long, the cloud ends by itself."""
    with serving(tmp_path, "--idle-minutes", "0.01") as process:
        assert process.wait(10) == 0
    assert not (tmp_path / "cloud.json").exists()


@pytest.mark.slow
def test_requests_and_instances_keep_it_up(tmp_path: Path) -> None:
    """An idle limit counts from the last request, and not while there is an instance."""
    with serving(tmp_path, "--idle-minutes", "0.01", "--boot-seconds", "0") as process:
        root = f"{known(tmp_path)['endpoint']}/compute/v1/projects/local"
        properties = {"machineType": "e2-medium", "disks": [{}], "networkInterfaces": [{}]}
        template = {"name": "t", "properties": properties}
        ask(f"{root}/global/instanceTemplates", template)
        groups = f"{root}/zones/europe-west1-b/instanceGroupManagers"
        path = "global/instanceTemplates/t"
        ask(groups, {"name": "g", "instanceTemplate": path, "targetSize": 1})
        ended_early = None
        try:
            process.wait(1.5)
            ended_early = True
        except subprocess.TimeoutExpired:
            ended_early = False
        assert not ended_early
        ask(f"{groups}/g/resize?size=0", {})
        assert process.wait(10) == 0


@pytest.mark.slow
def test_a_mishap_by_command(tmp_path: Path) -> None:
    """It befalls an instance or the whole cloud; what can't be is said in one line."""
    with serving(tmp_path):
        for words, said in (
            (("kill", "nobody"), "instances/nobody"),
            (("kill",), "kill needs the instances' names"),
            (("stock-out", "quick-0001"), "stock-out needs no instance"),
            (("disk-full", "nobody", "--seconds", "900"), "seconds: seconds, within 0..600"),
        ):
            refused = run("befall", *words, folder=tmp_path)
            assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr
            assert len(refused.stderr.splitlines()) == 1
        for what, expected in (("stock-out", 0), ("stock-in", None)):
            done = run("befall", what, "--output", "json", folder=tmp_path)
            assert (done.returncode, done.stderr) == (0, f"gcp-emulator: the cloud: {what}\n")
            assert json.loads(done.stdout)[0]["capacity"] == expected
    assert run("befall", "stock-out", folder=tmp_path).returncode == 1


@pytest.mark.slow
def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong options exit with 2, a cloud that can't start with 1; one line, nothing made."""
    for words in (
        ("serve", "--capacity", "some"),
        ("serve", "--engine", "steam"),
        ("serve", "--port", "70000"),
        ("serve", "--companion", "nameless"),
        ("serve", "--companion", "a="),
        ("serve", "--boot-seconds", "-1"),
        ("serve", "--nothing"),
        ("unknown",),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--folder", str(tmp_path / "cloud")])
        assert ended.value.code == 2, words
        assert capsys.readouterr().out == ""
        assert not (tmp_path / "cloud").exists()
    for words in (
        ("serve", "--project", "No Such"),
        ("serve", "--companion", "a=/no/such/program"),
    ):
        failed = run(*words, folder=tmp_path / "cloud")
        assert failed.returncode == 1
        assert len(failed.stderr.splitlines()) == 1, failed.stderr
        assert not (tmp_path / "cloud" / "cloud.json").exists()


def test_folder_from_the_environment(tmp_path: Path) -> None:
    """GCP_EMULATOR_FOLDER names the folder when no flag does."""
    environment = {**os.environ, "GCP_EMULATOR_FOLDER": str(tmp_path / "named")}
    ended = subprocess.run(
        [*COMMAND, "status"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert str(tmp_path / "named") in ended.stderr


def test_help_is_fast() -> None:
    """`--help` answers without importing the server."""
    run("--help")
    started = time.monotonic()
    assert run("--help").returncode == 0
    assert time.monotonic() - started < 1.0
    code = "import sys, gcp_emulator.cli; print('aiohttp' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "False"


@pytest.mark.slow
def test_open_files_for_many_instances(tmp_path: Path) -> None:
    """A low soft limit of open files is raised, as far as the hard one allows."""
    command = shlex.join([*COMMAND, "serve", "--folder", str(tmp_path), "--engine", "inert"])
    script = f"ulimit -S -n 200 && ulimit -H -n 700 && exec {command}"
    cloud = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL)
    try:
        until((tmp_path / "cloud.json").exists)
        limits = resource.prlimit(cloud.pid, resource.RLIMIT_NOFILE)
    finally:
        cloud.terminate()
        cloud.wait(10)
    assert limits == (700, 700)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True
