"""How long our commands take to start: medians of whole processes, files warm."""

import statistics
import subprocess
import sys
import tempfile
import time

from tests.clouds import BIN, clean_environment

from benchmarks.figures import Figure, show

RUNS = 7


def main() -> list[Figure]:
    """Start-up times, beside that of an empty Python."""
    empty = _median([sys.executable, "-c", ""])

    def figure(what: str, command: list[str], limit: float | None) -> Figure:
        return Figure(
            what=what,
            value=_median(command),
            unit="s",
            limit=limit,
            baseline=empty,
            baseline_is="empty Python",
        )

    google = _loaded_by("import gcloud_ops", "google")
    return show(
        "start-up",
        [
            figure("gcloud-ops --help", [str(BIN / "gcloud-ops"), "--help"], 0.5),
            figure("cloud-manager --help", [str(BIN / "cloud-manager"), "--help"], 0.5),
            Figure(
                what="sinergym-runner, until it waits for a command",
                value=statistics.median(_until_waiting() for _ in range(RUNS)),
                unit="s",
                limit=0.3,
                baseline=empty,
                baseline_is="empty Python",
            ),
            figure("sinergym-train --help", [str(BIN / "sinergym-train"), "--help"], 1.0),
            figure("gcp-emulator --help", [str(BIN / "gcp-emulator"), "--help"], 0.5),
            figure("import gcloud_ops", [sys.executable, "-c", "import gcloud_ops"], 0.5),
            Figure(
                what="google modules that `import gcloud_ops` loads",
                value=len(google),
                unit="",
                limit=0,
            ),
        ],
    )


def _median(command: list[str]) -> float:
    def once() -> float:
        begin = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
        )
        return time.perf_counter() - begin

    once()
    return statistics.median(once() for _ in range(RUNS))


def _until_waiting() -> float:
    """Seconds from the start of a container's process until it can be given its command."""
    who = {"SINERGYM_BUCKET": "b", "SINERGYM_SWEEP": "s", "SINERGYM_EXPERIMENT": "s-0001"}
    nowhere = {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9", "GCE_METADATA_HOST": "127.0.0.1:9"}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with subprocess.Popen(
            [str(BIN / "sinergym-runner")],
            cwd=folder,
            env=clean_environment() | who | nowhere | {"SINERGYM_METADATA_SECONDS": "0.01"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as runner:
            for line in runner.stdout or ():
                if "waiting for a command" in line:
                    seconds = time.perf_counter() - begin
                    runner.terminate()
                    return seconds
    raise SystemExit("the runner did not come to waiting")


def _loaded_by(statement: str, package: str) -> list[str]:
    mine = f"m for m in sys.modules if m.split('.')[0] == {package!r}"
    code = f"{statement}\nimport sys\nprint(*[{mine}])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()
