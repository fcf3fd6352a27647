"""A command line, run in the test's own process: that spares Google's imports, which are slow."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops import bucket, cli
from gcloud_ops.clients import Clients
from gcloud_ops.contract import timestamp
from gcloud_ops.settings import Settings


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.out)


type Run = Callable[..., Ended]


def surroundings_of(settings: Settings, **more: str) -> dict[str, str]:
    """Environment variables that lead a command to the settings' cloud."""
    names = ("endpoint", "project", "zone", "ssh_port", "ssh_key", "monitoring_endpoint")
    found = {name: getattr(settings, name) for name in names}
    given = {name: str(value) for name, value in found.items() if value is not None} | more
    return {f"GCLOUD_OPS_{name.upper()}": value for name, value in given.items()}


def runner(
    surroundings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """What runs a command line with these variables; `given` is its standard input."""
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path, given: str = "") -> Ended:
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        code = cli.run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Ended(code, told.out, told.err)

    return run


def play_runner(
    clients: Clients, sweep: str, experiment: str, state: str = "finished", **members: object
) -> None:
    """Write a record as the experiment's runner would at its end."""
    now = timestamp(datetime.now(UTC))
    code = 0 if state == "finished" else 3
    content = {
        "schema": 1,
        "sweep": sweep,
        "experiment": experiment,
        "attempt": 1,
        "state": state,
        "started": now,
        "updated": now,
        "progress": {"episode": 2, "episodes": 2, "mean_reward": -212.5},
        "exit": {"code": code, "signal": None, "kind": "error" if code else "ok", "hint": ""},
        "outputs": {"files": 1, "bytes": 5},
        **members,
    }
    name = clients.settings.bucket_name
    bucket.replace_record(clients, name, sweep, experiment, content, generation=0)
