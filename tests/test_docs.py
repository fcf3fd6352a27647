"""The documents are true: their scripts run, their commands exist, their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tests.clouds import BIN, ROOT, clean_environment

from gcloud_ops.sweepfile import read_sweep
from sinergym_trainer.cli import app
from sinergym_trainer.training.planning import check

PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/README.md")]
)
COMMANDS = (
    "gcloud-ops",
    "cloud-manager",
    "sinergym-tui",
    "sinergym-train",
    "gcp-emulator",
    "mlflow-infra",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_api_page_is_one_script_that_runs(
    local_cloud: Path, environment: dict[str, str]
) -> None:
    """docs/api.md from top to bottom, on the local cloud, with VMs that run its program."""
    assert local_cloud.is_dir()
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    assert len(blocks) > 8

    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert "Launched(sent=2, failed=0, waiting=0, at_boot=True)" in done.stdout


def command_lines() -> list[tuple[str, str]]:
    """Every command line of ours in an indented block of a page, with the page's name."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^    (.+)$", text, re.MULTILINE):
            if line.split()[0] in COMMANDS:
                found.append((page.name, line))
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_a_command_in_the_docs_is_one_that_exists(page: str, line: str) -> None:
    """Its subcommand is there, and knows each flag."""
    command, *words = shlex.split(line, comments=True)
    flags = [word for word in words if re.fullmatch(r"--[a-z][-a-z_]*", word)]
    own = flags[: flags.index("--")] if "--" in flags else flags
    plain = [word for word in words if not word.startswith("-")]
    if command == "gcloud-ops":
        depth = {"ssh": 1, "alerts": 3}.get(plain[0], 2)
        if plain[:1] == ["alerts"] and plain[1] not in {"channels", "policies"}:
            depth = 2
        text = help_of(command) + help_of(command, *plain[:depth])
    elif command in {"gcp-emulator", "mlflow-infra"}:
        text = help_of(command, *plain[:1])
    else:
        text = help_of(command)

    for flag in own:
        assert re.search(rf"{flag}\b", text), f"{page}: {flag} is not in the help of {line!r}"


@cache
def help_of(*words: str) -> str:
    """What a command says with --help."""
    command = str(BIN / words[0])
    done = subprocess.run(
        [command, *words[1:], "--help"],
        env=clean_environment() | {"COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.yaml")), ids=lambda p: p.stem)
def test_an_example_is_a_sweep_of_sound_trainings(example: Path) -> None:
    """It is read, and each training in it has options that go together."""
    sizes = {"quick": 2, "seeds": 2, "study": 24, "broken": 2}

    sweep = read_sweep(example)

    assert len(sweep.experiments) == sizes[example.stem]
    trainings = [e.command for e in sweep.experiments if "echo" not in e.command]
    assert trainings
    for training in trainings:
        words = shlex.split(training.removeprefix("python3 "))
        assert words[0] in {"sinergym-train", "DRL_battery.py"}
        _, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        check(bound.arguments["options"])


def test_the_docs_show_enough_commands() -> None:
    """The search above finds the commands, and not nothing."""
    assert len(command_lines()) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link and picture is a file of the repository."""
    text = re.sub(r"`[^`]*`", "", page.read_text())
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
