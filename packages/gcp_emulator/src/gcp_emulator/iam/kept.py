"""Files that only the owner of the cloud's folder can read, each written whole or not at all."""

import json
import os
import secrets
from pathlib import Path
from typing import Any


def make_private(folder: Path) -> Path:
    """Make a folder, and those above it that are missing, that nobody else can enter."""
    for missing in reversed([folder, *folder.parents]):
        if not missing.exists():
            missing.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_private(path: Path, content: bytes) -> None:
    """Replace a file (mode 0600), so that a reader sees the old bytes or the new ones."""
    fresh = path.with_name(f".{path.name[:32]}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def keep(path: Path, value: object) -> None:
    """Keep a JSON value."""
    write_private(path, json.dumps(value, indent=1).encode())


def read_kept(path: Path) -> Any:
    """The JSON value that was kept; None when there is none.

    Raises:
        ValueError: The file can't be read; the message names it.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} can't be read ({error}): remove it, or wipe the folder"
        ) from error
