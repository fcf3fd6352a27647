"""How long our commands take to start: medians of whole processes, files warm."""

import statistics
import subprocess
import sys
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
            figure("sinergym-runner --help", [str(BIN / "sinergym-runner"), "--help"], 0.3),
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


def _loaded_by(statement: str, package: str) -> list[str]:
    mine = f"m for m in sys.modules if m.split('.')[0] == {package!r}"
    code = f"{statement}\nimport sys\nprint(*[{mine}])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()
