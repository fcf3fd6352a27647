"""The display: a bar on a real terminal, plain lines in a pipe, harmless text in both."""

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.process.display import PREFIX, Display, printable

TRAINING = """
import sys, time
from sinergym_trainer.process.display import Display

with Display.open(5_000, 10, interval=0.2) as display:
    for step in range(1, 5_001):
        if step % 64 == 0:
            display.progress(step, step // 500, -312.381, -310.2, -289.57)
        if step % 2500 == 0:
            display.say(f"episode {step // 500}/10  \\x1b[31mred\\x1b[0m")
            display.write("| table | 1 |\\n")
            print("stray output")
            print("stray error", file=sys.stderr)
        time.sleep(0.0001)
display.say("done")
"""


def on_terminal(columns: int, **environment: str) -> tuple[bytes, list[str]]:
    """What the training writes to a real pseudo-terminal, and what its screen has at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # What a test runner says of its own terminal would win over what this one is.
    outer = {name: text for name, text in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**outer, "TERM": "xterm-256color", **environment},
        start_new_session=True,
    )
    os.close(theirs)
    written, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    assert process.wait(10) == 0, written
    return written, screen(written.decode())


def screen(text: str) -> list[str]:
    """The lines on a terminal after this text; knows what Rich uses, and fails on all else."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?0-9;]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif part.endswith("A"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.startswith("\x1b"):
            assert part[-1] == "m" or part in {"\x1b[?25l", "\x1b[?25h"}, part
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


MESSAGES = [
    *(f"{PREFIX}episode 5/10  red", "| table | 1 |", "stray output", "stray error"),
    *(f"{PREFIX}episode 10/10  red", "| table | 1 |", "stray output", "stray error"),
    f"{PREFIX}done",
]


@pytest.mark.parametrize("columns", [120, 80, 60, 20])
@pytest.mark.slow
def test_a_terminal_has_one_line_with_the_bar_below_the_messages(columns: int) -> None:
    """Whatever else is printed: all messages stay above, and nothing of the bar at the end."""
    written, remaining = on_terminal(columns)

    assert remaining == MESSAGES
    # A line ends where the cursor leaves it, or where it is erased.
    frames = re.split(r"[\r\n]|\x1b\[\d*[AK]", written.decode())
    bars = [line for line in frames if "/10 ep" in line]
    assert bars
    shown = [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", bar) for bar in bars]
    assert [line for line in shown if len(line) > columns] == []
    expected = {
        80: r"\d/10 episodes \S+ +\d+% \d+ steps/s  0:00:0\d left mean -310\.20  best -289\.57",
        60: r"\d/10 episodes \d+ steps/s  0:00:0\d left",
        20: r"\d/10 ep\S* .*",
    }
    pattern = expected[min(columns, 80)]
    assert any(re.fullmatch(pattern, line) for line in shown), shown
    # A few redraws a second, not one for each step.
    assert len(bars) < 40


@pytest.mark.slow
def test_colours_are_left_out_when_asked() -> None:
    """With NO_COLOR the bar is there, without a colour."""
    written, remaining = on_terminal(80, NO_COLOR="1")

    assert remaining == MESSAGES
    assert b"episodes" in written
    assert not re.search(rb"\x1b\[[0-9;]*[39][0-7]m", written)


@pytest.mark.slow
def test_a_dumb_terminal_gets_plain_lines() -> None:
    """As a pipe does."""
    written, _ = on_terminal(80, TERM="dumb")

    assert b"\x1b" not in written
    assert f"{PREFIX}done".encode() in written


@pytest.mark.slow
def test_a_pipe_gets_whole_lines_and_nothing_else() -> None:
    """No escape codes, no carriage returns; lines of progress, few, between the messages."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], capture_output=True, timeout=60, check=True
    )
    lines = done.stdout.decode().split("\n")

    assert b"\x1b" not in done.stdout
    assert b"\r" not in done.stdout
    told = [line for line in lines if "progress" in line]
    expected = [line for line in MESSAGES if line != "stray error"]
    assert [line for line in lines if line not in told] == [*expected, ""]
    assert 1 <= len(told) <= 10
    assert re.fullmatch(
        rf"{PREFIX}progress \d+%  episodes \d/10  timesteps \d+/5000  \d+ steps/s  0:00:0\d left"
        r"  last -312\.38  mean -310\.20  best -289\.57",
        told[0],
    ), told[0]


def test_progress_costs_nothing_while_it_is_not_due() -> None:
    """Under a microsecond, and nothing is written."""
    stream = io.StringIO()
    with Display.open(1000, 1, stream=stream) as display:
        seconds = min(
            timeit.repeat(lambda: display.progress(64, 0, None, None, None), number=10_000)
        )

    assert seconds / 10_000 < 1e-6
    assert stream.getvalue() == ""


def test_a_resumed_training_tells_its_own_speed() -> None:
    """The timesteps before the resume took no time now."""
    stream = io.StringIO()
    with Display.open(20_000, 2, stream=stream, interval=0.01, timesteps=10_000) as display:
        deadline = time.monotonic() + 5
        while not stream.getvalue() and time.monotonic() < deadline:
            display.progress(10_001, 1, None, None, None)

    speed = re.search(r"timesteps 10001/20000  (\d+) steps/s", stream.getvalue())
    assert speed, stream.getvalue()
    assert int(speed[1]) <= 100


@given(st.text())
def test_what_is_said_is_one_printable_line(text: str) -> None:
    """Text from outside moves no cursor, colours nothing and forges no second line."""
    stream = io.StringIO()
    with Display.open(1, 1, stream=stream) as display:
        display.say(text)
    line = stream.getvalue()

    assert line.startswith(PREFIX)
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_escape_codes_go_as_a_whole() -> None:
    """Of a colour or a window title nothing is left, of a line's end a space."""
    assert printable("\x1b[1;31mred\x1b[0m \x1b]0;title\x07a\nb\x00\u202ec") == "red a bc"


def test_a_stream_that_is_gone_ends_no_training(tmp_path: Path) -> None:
    """A reader that has left, a full disk, a closed file: nothing is raised."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe, Path("/dev/full").open("w") as full:  # noqa: PTH123
        for stream in (pipe, full):
            with Display.open(10, 1, stream=stream, interval=0.0) as display:
                display.say("a message")
                display.progress(1, 0, None, None, None)
            display.say("after the end")
        # What Python still holds for them cannot be written either.
        os.dup2(os.open(tmp_path / "drain", os.O_WRONLY | os.O_CREAT), pipe.fileno())
        os.dup2(os.open(tmp_path / "drain", os.O_WRONLY | os.O_CREAT), full.fileno())
    with Display.open(10, 1, stream=pipe, interval=0.0) as display:
        display.say("to a closed file")


def test_an_encoding_without_the_signs_gets_question_marks() -> None:
    """A terminal of another age ends no training either."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    with Display.open(10, 1, stream=stream) as display:
        display.say("22 °C")

    assert stream.buffer.getvalue() == f"{PREFIX}22 ?C\n".encode()
