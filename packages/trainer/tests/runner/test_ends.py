"""How a command ended: kinds and hints, from what was really seen."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.runner.ends import exit_of, memory_kills

FAILED = 1 << 8


@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        ("OSError: [Errno 28] No space left on device: 'output/model.zip'", "disk_full"),
        ("sh: 1: echo: echo: I/O error: No space left on device", "disk_full"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an", "oom"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: not enough memory: you tried", "oom"),
        ("sinergym-train: environment 2: its process was ended by SIGKILL; out of memory?", "oom"),
        ("   ** Severe  ** GetSurfaceData: There are 2 errors", "energyplus"),
        ("   **  Fatal  ** EnergyPlus ended.\nEnergyPlus Terminated--Fatal Error", "energyplus"),
        (
            "sinergym-train: EnergyPlus ended before its time (step 3): no eplusout.err",
            "energyplus",
        ),
        (
            "ValueError: Expected parameter loc (Tensor of shape (64, 2)) of distribution "
            "Normal(loc: torch.Size([64, 2])) to satisfy the constraint Real(), but found "
            "invalid values:\ntensor([[nan, nan],\n        [nan, nan]])",
            "nan",
        ),
        ("   ** Severe  ** it went on after this\nValueError: wrong shape", "error"),
        ("ValueError: the learning rate was wrong", "error"),
        ("a banana is no nan", "error"),
        ("", "error"),
    ],
)
def test_kinds_from_the_last_words(tail: str, kind: str) -> None:
    """Words that libraries and EnergyPlus really print; all else is an error."""
    found = exit_of(FAILED, "sinergym-train --x 1", tail)
    assert (found.code, found.kind, found.signal) == (1, kind, None)
    assert found.hint


def test_a_command_that_refuses_its_flags() -> None:
    """Its own last line names the flag."""
    tail = "sinergym-train: --learning_rat: no such option (see --help)\n"
    found = exit_of(2 << 8, "sinergym-train --learning_rat 1", tail)
    assert found.kind == "usage"
    assert "--learning_rat: no such option" in (found.hint or "")


def test_the_kernels_word_comes_first() -> None:
    """A command that survived the end of its worker, and one that did not."""
    survived = exit_of(FAILED, "train", "Traceback: a worker is gone", memory_kills=1)
    assert survived.kind == "oom"
    assert "the kernel killed one of its processes" in (survived.hint or "")
    killed = exit_of(9, "train", "", memory_kills=1)
    assert (killed.code, killed.kind, killed.signal) == (137, "oom", "SIGKILL")
    assert "by the kernel" in (killed.hint or "")


def test_memory_events(tmp_path: Path) -> None:
    """As control groups of version 2 write them; without such a file nothing is known."""
    events = tmp_path / "memory.events"
    assert memory_kills(events) == 0
    events.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert memory_kills(events) == 2


@given(st.integers(0, 255), st.text(max_size=300), st.text(max_size=300))
def test_any_end_has_a_kind(code: int, command: str, tail: str) -> None:
    """Whatever a program prints; the code stays what it was, and only 0 is well."""
    found = exit_of(code << 8, command, tail)
    assert found.code == code
    assert (found.kind == "ok") == (code == 0)
    assert code == 0 or (found.hint and len(found.hint) < 1000)


@given(st.sampled_from([1, 2, 6, 9, 11, 15, 24]), st.integers(0, 3))
def test_any_signal_has_a_kind(number: int, kills: int) -> None:
    """With the shell's code for it."""
    found = exit_of(number, "train", "x", memory_kills=kills)
    assert found.code == 128 + number
    assert found.kind == ("oom" if number == 9 else "signal")
    assert os.WIFSIGNALED(number)
