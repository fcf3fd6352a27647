"""How a command ended, and what that meant: the record's `exit` (`docs/contract.md`, 2).

    status of the process  ->  code, signal
    the last that it printed, the kernel's count of memory kills  ->  kind, hint

A kind is told from words that were really seen; what nobody recognizes is an `error`, with its
last line. All of it is pure but `memory_kills`.
"""

import os
import re
import shlex
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from sinergym_trainer.runner.record import Exit

OUT_OF_TIME = "out_of_time"
USAGE_CODE = 2
"""What a program ends with that does not understand its flags (sysexits of Python and shells)."""

_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sign:
    """Words in what a command printed last, and the kind of failure that they tell."""

    kind: str
    words: re.Pattern[str]
    advice: str


_SIGNS = (
    _Sign(
        kind="disk_full",
        words=re.compile(r"No space left on device|\[Errno 28\]|\bENOSPC\b|Disk quota exceeded"),
        advice="take a larger disk, or keep fewer checkpoints",
    ),
    _Sign(
        kind="oom",
        # NumPy, PyTorch, Python, C++, and a worker's end as sinergym-train says it.
        words=re.compile(
            r"\bMemoryError\b|Unable to allocate [0-9.]+ [KMGT]iB|not enough memory:"
            r"|std::bad_alloc|ended by SIGKILL; out of memory"
        ),
        advice="take a machine type with more memory, or fewer environments",
    ),
    _Sign(
        kind="energyplus",
        words=re.compile(
            # A simulation survives many a severe error: it counts only as the last word.
            r"\*\*\s+Fatal\s+\*\*|EnergyPlus Terminated|EnergyPlusFailed"
            r"|EnergyPlus (?:crashed|ended|failed|hangs)|\*\*\s+Severe\s+\*\*[^\n]*\s*\Z"
        ),
        advice="eplusout.err in the outputs names the object of the building",
    ),
    _Sign(
        kind="nan",
        # What torch.distributions says of parameters, and Stable-Baselines3's VecCheckNan.
        words=re.compile(
            r"found invalid values:\s*(?:\n\s*)?tensor\(\[*\s*\[?\s*-?(?:nan|inf)"
            r"|found (?:nan|inf) in |(?:loss|reward|policy) (?:is|became) (?:nan|NaN)",
        ),
        advice="a smaller learning rate, or normalized observations and actions, may help",
    ),
)


def exit_of(status: int, command: str, tail: str, *, memory_kills: int = 0) -> Exit:
    """Say how a command ended: code, signal, kind, and a hint for people.

    Args:
        status: as `os.waitpid` gives it.
        command: the command line.
        tail: the last that it printed.
        memory_kills: how many processes the kernel has killed for their memory meanwhile.
    """
    if os.WIFSIGNALED(status):
        name: str | None = _signal_name(os.WTERMSIG(status))
        code = 128 + os.WTERMSIG(status)
    else:
        name, code = None, os.WEXITSTATUS(status)
    if name == "SIGKILL" or code == 128 + signal.SIGKILL:
        hint = "killed by the kernel: " if memory_kills else "killed from outside: most likely "
        return Exit(
            code=code,
            signal="SIGKILL",
            kind="oom",
            hint=f"{hint}out of memory; take a larger machine type",
        )
    if name is not None:
        return Exit(code=code, signal=name, kind="signal", hint=f"ended by {name}")
    if code == 0:
        return Exit(code=0, signal=None, kind="ok", hint=None)
    if code == 128 + signal.SIGTERM:
        # A program that saves before it ends, and a shell whose program a signal ended, say so.
        said = _last_line(tail, command)
        hint = f"ended by SIGTERM, though the container was not told to stop; {said}"
        return Exit(code=code, signal="SIGTERM", kind="signal", hint=hint)
    if code == 127:
        found = re.findall(r"([^\s:]+): (?:command )?not found", tail)
        program = found[-1] if found else _program(command)
        hint = f"no such program in the image: {program}"
        return Exit(code=code, signal=None, kind="not_found", hint=hint)
    found_exit = Exit(code=code, signal=None, kind="error", hint=_last_line(tail, command))
    if code == 126:
        hint = f"{_program(command)} is there, but is not a program that can run"
        return replace(found_exit, hint=f"{hint}; {found_exit.hint}")
    if memory_kills:
        return replace(
            found_exit,
            kind="oom",
            hint=f"the kernel killed one of its processes: out of memory; {found_exit.hint}",
        )
    for sign in _SIGNS:
        if sign.words.search(tail):
            return replace(found_exit, kind=sign.kind, hint=f"{found_exit.hint}; {sign.advice}")
    return replace(found_exit, kind="usage" if code == USAGE_CODE else "error")


def memory_kills(events: Path = _MEMORY_EVENTS) -> int:
    """How many processes of this container the kernel has killed for memory; 0 where unknown.

    `oom_kill` of control groups, version 2
    (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files).
    """
    try:
        found = re.search(r"^oom_kill (\d+)$", events.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _program(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return next((word for word in words if "=" not in word), command)[:200]


def _last_line(tail: str, command: str) -> str:
    """What a command said last; the error that it signed with its name, if there is one.

    After that one may come what libraries still print when Python ends.
    """
    lines = [
        line.strip()
        for line in tail.splitlines()
        if line.strip() and not line.startswith("sinergym-runner: ")
    ]
    if not lines:
        return "it printed nothing"
    names = ("sinergym-train: ", f"{Path(_program(command)).name}: ")
    signed = [line for line in lines[-10:] if line.startswith(names)]
    last = _ESCAPES.sub("", (signed or lines)[-1])
    return "its last line: " + "".join(sign for sign in last if sign.isprintable())[:500]
