"""What is imported before the first paint, and by the core."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("sinergym_tui.app", ("google.cloud", "google.auth", "asyncssh", "torch", "requests")),
        ("sinergym_tui.fleet", ("textual", "rich", "google.cloud", "asyncssh", "torch")),
        ("sinergym_tui.cli", ("textual", "google.cloud", "asyncssh", "torch")),
    ],
)
def test_imports_are_light(module: str, forbidden: tuple[str, ...]) -> None:
    """The screen must not wait for Google's clients, nor the core know a terminal."""
    code = f"import {module}, sys; print(*[m for m in {forbidden!r} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert ran.stdout.split() == []
