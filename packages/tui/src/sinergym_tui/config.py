"""The console's own file: theme and keys. No terminal here.

# ~/.config/gcloud-ops/console.toml
theme = "nord"

[keys]
refresh = "f5"
"sweeps.launch" = "ctrl+l"
"""

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.settings import config_file
from sinergym_tui.actions import ACTIONS, Action

__all__ = ["Config", "console_file", "read_config"]

_KEY: Final = re.compile(r"(?:(?:ctrl|alt|shift|super|meta)\+)*(?:[!-~]|[a-z][a-z0-9_]+)")
_FIELDS: Final = ("theme", "keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What somebody wants to be otherwise."""

    theme: str = ""
    """"" for the one that the console comes with."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Keys by the id of their action."""


def console_file(environ: Mapping[str, str] = os.environ) -> Path:
    """`$SINERGYM_TUI_CONFIG`, or `console.toml` beside gcloud-ops' settings."""
    named = environ.get("SINERGYM_TUI_CONFIG")
    return Path(named) if named else config_file(environ).with_name("console.toml")


def read_config(path: Path, *, themes: Collection[str], required: bool = False) -> Config:
    """Read the file.

    Args:
        path: Which.
        themes: Names that a theme can have.
        required: Whether it must be there.

    Raises:
        InvalidRequest: It can't be read, or something in it can't be; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except FileNotFoundError:
        if required:
            raise InvalidRequest(f"{path}: no such file") from None
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        raise InvalidRequest(f"{where}: not TOML: {error}") from error
    return _Reading(path, text).config(content, themes)


class _Reading:
    """Says of each complaint where it is."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def config(self, content: Mapping[str, object], themes: Collection[str]) -> Config:
        for name in content:
            if name not in _FIELDS:
                raise self._wrong(name, f"unknown key {name!r}", _near(name, _FIELDS))
        theme = content.get("theme", "")
        if not isinstance(theme, str) or (theme and theme not in themes):
            raise self._wrong("theme", f"theme: there is no {theme!r}", _near(str(theme), themes))
        keys = content.get("keys", {})
        if not isinstance(keys, dict):
            raise self._wrong("keys", "keys: must be a table: [keys]")
        return Config(theme=theme, keys=self._keys(keys))

    def _keys(self, keys: Mapping[str, object]) -> dict[str, str]:
        known = {action.id: action for action in ACTIONS}
        chosen: dict[str, str] = {}
        for name, key in keys.items():
            if name not in known:
                raise self._wrong(name, f"keys: no action {name!r}", _near(name, known))
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise self._wrong(name, f"keys: {key!r} is no key", "such as g, f5 or ctrl+g")
            for other_name, other in known.items():
                taken = chosen.get(other_name, other.key)
                if other_name != name and taken == key and _meet(known[name], other):
                    raise self._wrong(name, f"keys: {key!r} is {other_name}'s already")
            chosen[name] = key
        return chosen

    def _wrong(self, name: str, message: str, hint: str = "") -> InvalidRequest:
        here = re.compile(rf"""\s*\[?\s*["']?{re.escape(name)}["']?\s*[\]=]""")
        found = (number for number, line in enumerate(self._lines, 1) if here.match(line))
        return InvalidRequest(f"{self._path}:{next(found, 1)}: {message}", hint=hint)


def _meet(one: Action, other: Action) -> bool:
    return not one.scopes or not other.scopes or bool(set(one.scopes) & set(other.scopes))


def _near(name: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(sorted(known))}"
