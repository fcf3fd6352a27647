"""Whatever the console does with the cloud, a command does too, and tells it as JSON."""

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gcloud_ops import alerts, sweeps
from gcloud_ops import cli as ops
from gcloud_ops.cli.app import app as ops_app
from gcloud_ops.cli.app import split as ops_split
from gcloud_ops.clients import Clients
from gcloud_ops.contract import timestamp
from gcloud_ops.settings import Settings
from gcp_emulator.cli import Mishap
from mlflow_infra import cli as infra
from mlflow_infra.cli.app import app as infra_app
from mlflow_infra.cli.app import split as infra_split
from sinergym_tui.actions import ACTIONS, Action
from sinergym_tui.keys import key_text
from sinergym_tui.rehearsing import MISHAPS

from .conftest import SIZES, console, launch, until_shown, write_log, write_record

PAGE = Path(__file__).parents[3] / "docs/console.md"

PROGRAMS = {
    "gcloud-ops": (ops_app, ops_split, ops.run),
    "mlflow-infra": (infra_app, infra_split, infra.run),
}

ONLY_SHOWN = {
    # Where one is, what is chosen, how it is shown.
    *("back", "previous", "next", "mark", "mark_all", "jobs", "palette", "help", "leave"),
    *("filter", "sort_next", "sort_previous", "sort_reverse", "copy_command", "copy_lines"),
    *("follow", "search", "find_next", "find_previous", "filter_lines", "wrap", "times", "since"),
    # What a screen shows is looked at again: its own command does so each time.
    "refresh",
    # A sweep's file, on this machine.
    *("pick_file", "as_text", "save_file"),
    # The lines that are shown: `sweep logs` and a `>`.
    "save",
}
"""Actions that ask nothing of the cloud."""

CHOSEN = {
    "SWEEP": "first",
    "OTHER": "second",
    "FILE": "sweep.yaml",
    "METRIC": "mean_reward",
    "TYPE": "email",
    "ADDRESS": "me@example.org",
    "CHANNEL": "me@example.org",
    "POLICY": "experiment-failed",
    "MISHAP": "preempt",
    "[ID...]": "1",
    "[CODE]": "",
    "[FILE]": "sweep.yaml",
    "[NAME...]": "",
}
"""What the words in capitals stand for here."""


def commands() -> list[str]:
    """All that the actions name, each once."""
    return list(dict.fromkeys(each for action in ACTIONS for each in action.headless))


def words_of(command: str, **chosen: str) -> list[str]:
    """The command's words, with something chosen for each that stands for it."""
    known = {**CHOSEN, **chosen}
    return [known.get(word, word) for word in shlex.split(command) if known.get(word, word)]


def test_every_action_that_asks_the_cloud_has_a_command() -> None:
    """Who adds an action says which, or that it only shows."""
    without = {action.name for action in ACTIONS if not action.headless}
    assert without == ONLY_SHOWN
    assert not {action.name for action in ACTIONS if action.changes} & without


@pytest.mark.parametrize("command", commands())
def test_the_command_is_understood(command: str) -> None:
    """The parser takes it as it stands, with `--output json`."""
    program, *words = words_of(command)
    app, split, _ = PROGRAMS[program]

    _, bound, _ = app.meta.parse_args(
        [*words, "--output", "json"], exit_on_error=False, print_error=False
    )
    left, common = split(*bound.args, **bound.kwargs)
    app.parse_args(left, exit_on_error=False, print_error=False)

    assert common.output == "json"


# Each command with what it is said of, in an order in which there is something to do for it.
STEPS: tuple[tuple[str, dict[str, str]], ...] = (
    ("gcloud-ops sweep launch FILE --dry-run", {}),
    ("gcloud-ops sweep launch FILE", {}),
    ("gcloud-ops sweep list", {}),
    ("gcloud-ops sweep status SWEEP", {}),
    ("gcloud-ops containers list SWEEP", {}),
    ("gcloud-ops sweep results SWEEP", {"SWEEP": "second"}),
    ("gcloud-ops sweep results SWEEP --metric METRIC", {"SWEEP": "second"}),
    ("gcloud-ops sweep compare SWEEP OTHER", {}),
    ("gcloud-ops sweep logs SWEEP --follow", {"SWEEP": "second"}),
    ("gcloud-ops sweep logs SWEEP [ID...] --follow", {"SWEEP": "second"}),
    ("gcloud-ops containers restart SWEEP [ID...]", {}),
    ("gcloud-ops sweep resume SWEEP", {}),
    ("gcloud-ops local befall MISHAP [ID...]", {"[ID...]": "first-0002"}),
    ("gcloud-ops sweep cancel SWEEP [ID...]", {"[ID...]": "2"}),
    ("gcloud-ops sweep rerun SWEEP [ID...]", {"[ID...]": "2"}),
    ("gcloud-ops sweep cancel SWEEP", {}),
    ("gcloud-ops sweep delete SWEEP --force", {}),
    ("gcloud-ops doctor [FILE]", {}),
    ("gcloud-ops reap", {}),
    ("gcloud-ops reap [NAME...] --yes", {}),
    ("gcloud-ops alerts channels add TYPE ADDRESS", {}),
    ("gcloud-ops alerts channels verify CHANNEL [CODE]", {"CHANNEL": "+34600000000"}),
    ("gcloud-ops alerts channels list", {}),
    ("gcloud-ops alerts policies setup --channel CHANNEL", {}),
    ("gcloud-ops alerts policies disable POLICY", {}),
    ("gcloud-ops alerts policies enable POLICY", {}),
    ("gcloud-ops alerts policies list", {}),
    ("gcloud-ops alerts test", {}),
    ("gcloud-ops alerts incidents", {}),
    ("gcloud-ops alerts policies remove", {}),
    ("gcloud-ops alerts channels remove CHANNEL", {}),
    ("gcloud-ops alerts channels remove CHANNEL", {"CHANNEL": "+34600000000"}),
    ("mlflow-infra up --plan", {}),
    ("mlflow-infra down", {}),
    ("mlflow-infra down --delete-data", {}),
)
ASKING = re.compile("sweep (cancel|delete)|(channels|policies) remove|mlflow-infra down")
ELSEWHERE = {"up", "url", "status", "logs", "restart"}
"""Of `mlflow-infra`: what needs a server that runs; its own tests have one."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_command_tells_json(
    settings: Settings,
    clients: Clients,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All of them, on a local cloud, one after the other."""
    assert settings.ssh_key is not None
    for name in ("endpoint", "project", "zone", "ssh_port", "ssh_key", "monitoring_endpoint"):
        monkeypatch.setenv(f"GCLOUD_OPS_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("GCLOUD_OPS_BUCKET", settings.bucket_name)
    monkeypatch.setenv("GCLOUD_OPS_LOCAL_FOLDER", str(settings.ssh_key.parent))
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text("name: third\nbase: sleep 60\n")
    launch(clients, "first")
    launch(clients, "second", 1)
    write_record(
        clients,
        "second",
        1,
        state="finished",
        ended=timestamp(datetime.now(UTC)),
        progress={"mean_reward": -200.0},
        exit={"code": 0, "signal": None, "kind": "ok", "hint": ""},
    )
    write_log(clients, "second", 1, 0, b"one\ntwo\n")
    alerts.add_channel(clients, "sms", address="+34600000000")

    for command, chosen in STEPS:
        program, *words = words_of(command, **chosen)
        yes = ["--yes"] if ASKING.search(command) else []
        capfd.readouterr()
        code = PROGRAMS[program][2]([*words, *yes, "--output", "json"])
        told = capfd.readouterr()
        problems = {0, 1} if "doctor" in command else {0}
        assert code in problems, f"{command}: {told.err}"
        values = values_in(told.out)
        assert values, f"{command}: {told.out}"
        if "logs" in command:
            assert values[-1] == {"experiment": "second-0001", "line": "two"}
    sweeps.cancel("third", clients, on_step=lambda _: None)

    done = {command for command, _ in STEPS}
    left = {command.split()[1] for command in commands() if command not in done}
    assert left == ELSEWHERE


def values_in(text: str) -> list[Any]:
    """The JSON values of a text, one after the other: a log has one a line."""
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        at = len(text) - len(text[at:].lstrip())
    return found


def test_mishaps_are_the_same_for_scripts() -> None:
    """What can be rehearsed by a key can be by a command, with the same word."""
    assert {each.key for each in MISHAPS} == set(Mishap.__value__.__args__)


def shown_in_page(action: Action) -> str:
    """The line of the page's table that an action should have."""
    place = ", ".join(action.scopes) or "all"
    typed = "<br>".join(f"`{each}`" for each in action.headless)
    return f"| {place} | `{key_text(action.key)}` {action.label} | {typed} |"


@pytest.mark.parametrize(
    "action", [each for each in ACTIONS if each.headless], ids=lambda each: each.id
)
def test_the_page_names_the_command(action: Action) -> None:
    """docs/console.md has a line for each."""
    line = shown_in_page(action)
    assert line in PAGE.read_text(encoding="utf-8").splitlines(), line


@SIZES
async def test_help_names_the_command(size: tuple[int, int], settings: Settings) -> None:
    """A researcher learns the script's way from the console."""
    app = console(settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("question_mark")
        await until_shown(pilot, "$ gcloud-ops sweep launch FILE --dry-run")
