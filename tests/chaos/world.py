"""A local cloud with real runners, launchers that can be killed, and mishaps as calls."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final, Self

from tests.chaos import zygote
from tests.chaos.schedules import Mishap, Schedule
from tests.clouds import BIN, ROOT, OwnCloud, clean_environment, impatient_template

from gcloud_ops import launching, objects, rerunning, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Retry
from gcloud_ops.errors import AlreadyExists, GcloudOpsError, NotFound
from gcloud_ops.model import Sweep
from gcloud_ops.settings import Settings

__all__ = ["CALM", "World"]

CALM: Final = 60.0
"""Seconds, after the last mishap, in which a sweep has come to its end."""

_TEMPLATE: Final = "chaos"
_WAIT_FOR_VM: Final = 1.5
_LAUNCHERS: Final = multiprocessing.get_context("forkserver")
_LAUNCHERS.set_forkserver_preload(
    [
        "google.cloud.compute_v1",
        "google.cloud.storage",
        "gcloud_ops.launching",
        "gcloud_ops.rerunning",
        "gcloud_ops.ssh",
    ]
)


class World:
    """One local cloud and all processes around it; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._launchers: list[ForkServerProcess] = []
        self.said: list[str] = []
        self.struck: Counter[str] = Counter()
        """How often which mishap found something to happen to."""

    def __enter__(self) -> Self:
        address = str(self._folder / "zygote")
        environment = clean_environment() | {
            "HOME": str(self._folder),
            "XDG_CONFIG_HOME": str(self._folder),
            "PATH": f"{BIN}:/usr/bin:/bin",
            "CHAOS_ZYGOTE": address,
            "GCP_EMULATOR_ENTRYPOINT": str(zygote.entry_point(self._folder)),
        }
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        assert self._zygote.stdout is not None
        assert self._zygote.stdout.readline() == "ready\n"
        home = self._folder / "cloud"
        home.mkdir()
        fast = ("--boot-seconds", "0.1", "--pull-seconds", "0.05", "--capacity", "8")
        self.cloud = OwnCloud(home, environment, *fast, engine="process")
        settings = replace(self.cloud.settings, ssh_key=self._folder / "id_ed25519")
        self.clients = Clients.connect(settings)
        self.bucket = settings.bucket_name
        objects.ensure_bucket(self.clients, self.bucket, location="EU")
        found = self.clients.storage.bucket(self.bucket)
        # Every state that a record has ever had stays: the laws read them.
        found.versioning_enabled = True
        found.patch()
        for skew in (0, -7200, 90, 86400):
            self._make_template(skew, address)
        return self

    def __exit__(self, *_: object) -> None:
        for launcher in self._launchers:
            _kill(launcher)
        self.cloud.stop()
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        assert self._zygote.wait(timeout=10) == 0

    def play(self, name: str, schedule: Schedule) -> None:
        """Launch the sweep, let everything happen to it, and see it to its end.

        Raises:
            AssertionError: It has not come to its end long after everything was well again.
        """
        self.said.clear()
        sweep = _sweep(name, schedule)
        begin = time.monotonic()
        self._start(_launch, sweep)
        for mishap in schedule.mishaps:
            time.sleep(max(0.0, begin + mishap.at - time.monotonic()))
            self._happen(mishap, sweep)
        self.calm()
        self._see_to_its_end(sweep)
        if schedule.rerun and any(each.ends[0] == "failed" for each in schedule.experiments):
            both = [self._start(_rerun, sweep) for _ in range(2)]
            for launcher in both:
                launcher.join(CALM)
            self._see_to_its_end(sweep)

    def calm(self) -> None:
        """Nothing goes wrong from here on."""
        self.cloud.ask("capacity", {"capacity": 8})
        self._delete("faults")

    def _see_to_its_end(self, sweep: Sweep) -> None:
        """What a user does: launch it if it isn't there, else resume; then watch."""
        deadline = time.monotonic() + CALM
        for launcher in self._launchers:
            # One that was launching may still be at it; it must come to an end by itself.
            launcher.join(max(0.1, deadline - time.monotonic()))
            assert not launcher.is_alive(), f"{sweep.name}: a launcher hangs"
        self._launchers.clear()
        stop = threading.Event()
        timer = threading.Timer(deadline - time.monotonic(), stop.set)
        timer.start()
        try:
            self._note(_resume, sweep)
            for seen in sweeps.watch(
                sweep.name, self.clients, interval=0.1, stop=stop, on_note=self.said.append
            ):
                last = seen
        finally:
            timer.cancel()
        assert not stop.is_set(), (
            f"{sweep.name}: not at its end {CALM:.0f} s after all was well: "
            f"{[(row.id, str(row.status), row.reason) for row in last.rows]}, {self.said}"
        )

    def _happen(self, mishap: Mishap, sweep: Sweep) -> None:
        names = [each.id for each in sweep.experiments]
        whom = names[mishap.whom % len(names)]
        match mishap.what:
            case "preempt":
                self._try(f"instances/{whom}/preempt", {"grace": 2})
            case "kill-vm":
                self._try(f"instances/{whom}/kill", {})
            case "kill-container":
                self._try(f"instances/{whom}/kill-container", {})
            case "hang-ssh" | "refuse-ssh":
                self._try(f"instances/{whom}/{mishap.what}", {"seconds": 2})
            case "cut-ssh":
                self._try(f"instances/{whom}/cut-ssh", {})
            case "stock-out":
                self.struck[mishap.what] += 1
                self.cloud.ask("capacity", {"capacity": 0})
            case "fault":
                self.struck[mishap.what] += 1
                self.cloud.ask(
                    "faults",
                    {
                        "method": mishap.service,
                        "status": mishap.status,
                        "count": mishap.count,
                        "after": mishap.after,
                        "delay": mishap.delay,
                    },
                )
            case "kill-launcher":
                if self._launchers:
                    self.struck[mishap.what] += 1
                    _kill(self._launchers[mishap.whom % len(self._launchers)])
            case "resume":
                self._start(_resume, sweep)
            case "resume-twice":
                self._start(_resume, sweep)
                self._start(_resume, sweep)
            case "cancel-some":
                self._start(_cancel, sweep, whom)

    def _start(self, what: Callable[..., None], *given: Any) -> ForkServerProcess:
        launcher = _LAUNCHERS.Process(
            target=_as_launcher, args=(what, self.clients.settings, *given), daemon=True
        )
        launcher.start()
        self._launchers.append(launcher)
        return launcher

    def _note(self, what: Callable[..., None], *given: Any) -> None:
        try:
            what(self.clients, *given)
        except GcloudOpsError as error:
            self.said.append(f"{what.__name__}: {error}")

    def _try(self, path: str, body: dict[str, Any]) -> None:
        """A mishap waits for its VM, for a while; to one that does not come it is none."""
        deadline = time.monotonic() + _WAIT_FOR_VM
        while time.monotonic() < deadline:
            with suppress(urllib.error.HTTPError):
                self.cloud.ask(path, body)
                self.struck[path.rpartition("/")[2]] += 1
                return
            time.sleep(0.05)

    def _delete(self, path: str) -> None:
        request = urllib.request.Request(f"{self.cloud.endpoint}/emulator/{path}", method="DELETE")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def _make_template(self, skew: int, address: str) -> None:
        name = _template(skew)
        templates.create_template(
            self.clients,
            templates.TemplateSpec(
                name=f"{name}-patient",
                image="europe-docker.pkg.dev/local/images/trainer",
                environment={
                    "CHAOS_ZYGOTE": address,
                    "CHAOS_SKEW": str(skew),
                    # All that is slow on purpose, quicker; the proportions stay.
                    "SINERGYM_RECORD_SECONDS": "0.1",
                    "SINERGYM_HEARTBEAT_SECONDS": "2",
                    "SINERGYM_SYNC_SECONDS": "0.5",
                    "SINERGYM_SIGNAL_SECONDS": "10",
                    "SINERGYM_LOST_SECONDS": "30",
                    "SINERGYM_PATIENCE": "40",
                },
            ),
        )
        impatient_template(self.clients, f"{name}-patient", name)


def _template(skew: int) -> str:
    return f"{_TEMPLATE}{skew}".replace("-", "m")


def _sweep(name: str, schedule: Schedule) -> Sweep:
    commands = [each.command() for each in schedule.experiments]
    return replace(
        Sweep.of_commands(
            name,
            commands,
            template=_template(schedule.skew),
            dispatch=Dispatch.SSH if schedule.ssh else Dispatch.BOOT,
        ),
        spot=schedule.spot,
        retry=Retry(times=3, kinds=("error",), wait=0.2)
        if any(each.kind == "flaky" for each in schedule.experiments)
        else None,
    )


def _as_launcher(what: Callable[..., None], settings: Settings, *given: Any) -> None:
    """A laptop's process: it may be killed at any moment, and its errors are its own."""
    os.setsid()
    with suppress(GcloudOpsError):
        what(Clients.connect(settings), *given)


def _launch(clients: Clients, sweep: Sweep) -> None:
    for _ in launching.launch(launching.plan(sweep, clients), clients, patience=30):
        pass


def _resume(clients: Clients, sweep: Sweep) -> None:
    """Take it up; one that never came to be is launched, as its user would do."""
    try:
        for _ in launching.resume(sweep.name, clients, patience=30):
            pass
    except NotFound:
        with suppress(AlreadyExists):
            _launch(clients, sweep)


def _rerun(clients: Clients, sweep: Sweep) -> None:
    for _ in rerunning.rerun(sweep.name, clients, failed=True, patience=30):
        pass


def _cancel(clients: Clients, sweep: Sweep, whom: str) -> None:
    sweeps.cancel(sweep.name, clients, experiments=[whom])


def _kill(launcher: ForkServerProcess) -> None:
    if launcher.pid is not None and launcher.is_alive():
        os.kill(launcher.pid, signal.SIGKILL)
    launcher.join(10)
