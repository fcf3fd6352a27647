"""Unit files: what a ``.service`` file says, and the words of its commands.

systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.syntax(7), systemd.time(7).
"""

import re
import shlex
import signal
from dataclasses import dataclass, field
from typing import Final

from gcp_emulator.docker.streams import Environment


@dataclass(frozen=True, slots=True)
class Command:
    """One ``Exec...=`` line."""

    words: tuple[str, ...]
    forgiving: bool
    """Whether its failure is ignored (the prefix ``-``)."""


@dataclass(slots=True)
class UnitFile:
    """What a ``.service`` file says, as far as it is emulated."""

    description: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    environment_files: list[str] = field(default_factory=list)
    pre: list[Command] = field(default_factory=list)
    start: list[Command] = field(default_factory=list)
    stop: list[Command] = field(default_factory=list)
    oneshot: bool = False
    remain: bool = False
    restart: str = "no"
    restart_seconds: float = 0.1
    restart_on: set[int] = field(default_factory=set)
    """Exit codes of the main process after which it is started again, whatever `restart` says."""
    no_restart_on: set[int] = field(default_factory=set)
    """Exit codes after which it is never started again."""
    on_failure: list[str] = field(default_factory=list)
    """The units to start once it has failed for good."""
    output: str = "journal"
    """Where standard output goes, as ``StandardOutput=`` says."""
    errors: str = "inherit"
    """The same of standard error."""
    start_limit: int = 5  # DefaultStartLimitBurst
    start_interval: float = 10.0  # DefaultStartLimitIntervalSec

    def on_console(self, stream: int) -> bool:
        """Whether what it writes to 1 (standard output) or 2 (error) is seen on the console."""
        inherits = stream == 1 or self.errors == "inherit"
        return "console" in (self.output if inherits else self.errors)


def parse_unit(text: str) -> tuple[UnitFile, list[tuple[int, str]]]:
    """Read a ``.service`` file; and what systemd would complain of, with line numbers."""
    unit, problems, section = UnitFile(), [], ""
    for number, line in _logical_lines(text):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            problems.append((number, "Missing '=', ignoring line."))
        elif section == "Unit" and key == "Description":
            unit.description = value
        elif section == "Unit" and key == "OnFailure":
            unit.on_failure = [*unit.on_failure, *value.split()] if value else []
        elif section in ("Unit", "Service") and key in _START_LIMIT_KEYS:
            # In [Service] they are a relic that systemd still takes.
            _start_limit_line(unit, key, value)
        elif section == "Service" and not _service_line(unit, key, value):
            problems.append((number, f"Unknown key name '{key}' in section 'Service', ignoring."))
    return unit, problems


# Known to systemd and without effect here.
_WITHOUT_EFFECT: Final = frozenset(
    [
        "ExecStartPost",
        "ExecStopPost",
        "ExecReload",
        "TimeoutStartSec",
        "TimeoutStopSec",
        "TimeoutSec",
        "KillMode",
        "KillSignal",
        "SyslogIdentifier",
        "User",
        "Group",
        "WorkingDirectory",
        "LimitNOFILE",
        "NotifyAccess",
        "OOMScoreAdjust",
        "Nice",
        "SuccessExitStatus",
        "Delegate",
        "SendSIGKILL",
        "RuntimeMaxSec",
        "PrivateTmp",
    ]
)


_TEXTS: Final = {"StandardOutput": "output", "StandardError": "errors", "Restart": "restart"}


def _service_line(unit: UnitFile, key: str, value: str) -> bool:
    """Take one line of ``[Service]``; False for a key that systemd does not know."""
    commands = {"ExecStartPre": unit.pre, "ExecStart": unit.start, "ExecStop": unit.stop}
    statuses = {
        "RestartForceExitStatus": unit.restart_on,
        "RestartPreventExitStatus": unit.no_restart_on,
    }
    if key in commands:
        if not value:
            commands[key].clear()
        else:
            prefix = re.match(r"[-@:+!|]*", value)
            assert prefix is not None  # noqa: S101
            words = tuple(_split(value[prefix.end() :]))
            commands[key].append(Command(words, "-" in prefix[0]))
    elif key == "Environment":
        for pair in _split(value):
            name, _, rest = pair.partition("=")
            unit.environment[name] = rest
    elif key == "EnvironmentFile":
        unit.environment_files.append(value)
    elif key == "Type":
        unit.oneshot = value == "oneshot"
    elif key == "RemainAfterExit":
        unit.remain = value.lower() in ("yes", "true", "1", "on")
    elif key in _TEXTS:
        setattr(unit, _TEXTS[key], value)
    elif key == "RestartSec":
        unit.restart_seconds = _seconds(value, unit.restart_seconds)
    elif key in statuses:
        _add_statuses(statuses[key], value)
    else:
        return key in _WITHOUT_EFFECT
    return True


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines without comments, those ending in a backslash joined with the next."""
    lines: list[tuple[int, str]] = []
    joined, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        first = first or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        lines.append((first, joined + line))
        joined, first = "", 0
    return lines


def _split(text: str) -> list[str]:
    """Words as systemd.syntax(7) quotes them."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


_SPAN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|sec|s|min|m|h)?\s*")
_UNITS_OF_TIME: Final = {"ms": 0.001, "": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


def _seconds(text: str, otherwise: float) -> float:
    """A time span as systemd.time(7) writes it, such as ``10min 5s``."""
    if text == "infinity":
        return float("inf")
    parts = _SPAN.findall(text)
    if not parts or _SPAN.sub("", text):
        return otherwise
    return sum(float(number) * _UNITS_OF_TIME[unit] for number, unit in parts)


_START_LIMIT_KEYS: Final = ("StartLimitIntervalSec", "StartLimitInterval", "StartLimitBurst")


def _start_limit_line(unit: UnitFile, key: str, value: str) -> None:
    if key != "StartLimitBurst":
        unit.start_interval = _seconds(value, unit.start_interval)
    elif value.isdecimal():
        unit.start_limit = int(value)


def _add_statuses(statuses: set[int], value: str) -> None:
    """Add exit codes and names of signals; an empty value forgets those before."""
    if not value:
        statuses.clear()
    for word in value.split():
        if word.isdecimal():
            statuses.add(int(word))
        elif word in signal.Signals.__members__:
            statuses.add(128 + signal.Signals[word])


def assignments(text: str) -> dict[str, str]:
    """The variables of an ``EnvironmentFile=``."""
    found = {}
    for _number, line in _logical_lines(text):
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip().strip("\"'")
    return found


def expanded(word: str, environment: Environment, unit: str) -> list[str]:
    """``$WORD`` alone is split, ``${WORD}`` is not, ``$$`` and ``%%`` are themselves."""
    if re.fullmatch(r"\$\w+", word):
        return environment.get(word[1:], "").split()
    specifiers = {"%%": "%", "%n": unit, "%N": unit.removesuffix(".service")}
    text = re.sub(r"%[%nN]", lambda match: specifiers[match[0]], word)
    return [
        re.sub(
            r"\$\$|\$\{(\w+)\}|\$(\w+)",
            lambda m: "$" if m[0] == "$$" else environment.get(m[1] or m[2], ""),
            text,
        )
    ]
